//! The guardian and how an agent speaks with it. docs/fencing.md tells what is fenced, by what and when.
//!
//! `tenure-fence` is `start` and `guardian`, with `orders` (what to do), `kill` and `processes` (how), and the watchdog in
//! `feeder`, `feed` and `device`; an agent uses
//! `client` from its loop and `lease_link` from the thread that renews the lease. `wire` is what goes between.

mod allocations;
mod client;
mod device;
mod feed;
mod feeder;
mod guardian;
mod kill;
mod lease_link;
mod line;
mod log;
mod orders;
mod processes;
mod start;
pub mod wire;

pub use allocations::CountingAllocator;
pub use client::{Error, Guardian, Settings, Status, Target, Watch};
pub use lease_link::{LeaseLink, Refused};
pub use start::{EXIT_HELD, main};
pub use wire::{Means, Process, Refusal, Report, Standing, State, Why};
