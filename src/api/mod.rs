//! The REST API, with Patroni's paths, codes and documents. Questions are answered from the last standing that the
//! agent's loop has published and wait for nothing but, where positions are compared, a fresh look; requests to act are
//! checked here and sent to the loop as commands.

mod access;
mod act;
mod answer;
mod checkup;
mod cluster;
mod doors;
mod drill;
#[cfg(test)]
mod fixtures;
mod fresh;
mod health;
mod look;
mod metrics;
#[cfg(test)]
mod metrics_page;
mod origin;
mod query;
mod read;
mod recorded;
mod restart;
mod schedule;
mod server;
mod settings;
mod status;
mod ui;
mod wish;

pub use act::{Command, Written};
pub use answer::Answer;
pub use checkup::{Asking, Checkups};
pub use doors::Doors;
pub use drill::{DrillRefusal, DrillRequest, Drills};
pub use fresh::Looks;
pub use query::{LOOKED_WITHIN, Target};
pub use read::{get, head};
pub use restart::{Conditions, Restart, conditions_hold};
pub use schedule::Schedule;
pub use server::{Api, Limits, serve};
pub use settings::merge;
pub use status::PATRONI_VERSION;
