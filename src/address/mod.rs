//! The holder of the virtual addresses and how an agent speaks with it. docs/virtual-address.md tells what goes where, and when.
//!
//! `tenure-address` is `start` and `holder`, with `stance` (what is in force), `place` (one address), `netlink` (the kernel) and
//! `neighbours` (the network); an agent uses `client`. `wire` is what goes between.

mod client;
mod holder;
mod neighbours;
mod netlink;
mod place;
mod stance;
mod start;
mod wire;

pub use client::{Error, Holder};
pub use start::{Arguments, main};
pub use wire::{Answer, Request};
