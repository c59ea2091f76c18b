//! The words: types that the rules, the adapters and the shells share. No IO, no clock, no randomness.

mod catalog;
mod cluster;
mod consent;
mod fitness;
mod message;
mod moment;
mod names;
mod plan;
mod policy;
mod postgres;
mod rule;
mod secret;
mod standing;
mod view;
mod wal;
mod watchdog;
mod wish;

pub use catalog::*;
pub use cluster::*;
pub use consent::*;
pub use fitness::*;
pub use message::*;
pub use moment::*;
pub use names::*;
pub use plan::*;
pub use policy::*;
pub use postgres::*;
pub use rule::*;
pub use secret::*;
pub use standing::*;
pub use view::*;
pub use wal::*;
pub use watchdog::*;
pub use wish::*;
