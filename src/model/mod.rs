//! The words: types that the rules, the adapters and the shells share. No IO, no clock, no randomness.

mod cluster;
mod fitness;
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

pub use cluster::*;
pub use fitness::*;
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
