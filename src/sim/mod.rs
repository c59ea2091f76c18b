//! A whole cluster in one thread: hosts, store, network, PostgreSQL and clients, simulated; every member runs the real
//! `Mind`. Everything follows from a seed, so what has been seen once can be seen again.
//!
//! `world` owns time and the queue; `agent`, `addresses`, `keeper`, `guardian`, `jobs`, `postgres` and `store` are what happens on
//! the machines; `laws` looks at all of it after every step; the rest are tests of four kinds.

mod addresses;
mod agent;
mod bite;
mod commits;
mod consent;
mod explore;
mod faults;
mod foresight;
mod guardian;
mod host;
mod jobs;
mod keeper;
mod laws;
mod lives;
mod losses;
mod network;
mod postgres;
mod publisher;
mod random;
mod recorded;
mod replication;
mod store;
mod story;
mod view_laws;
mod views;
mod world;

/// Microseconds of true time, which nobody in the simulated world can read.
type Time = u64;

const MS: Time = 1_000;
const SECOND: Time = 1_000_000;

/// Members are named after towns, in this order.
const NAMES: [&str; 5] = ["turku", "oulu", "vaasa", "kuopio", "lahti"];
