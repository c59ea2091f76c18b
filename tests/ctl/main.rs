//! `tenurectl` beside `patronictl`: the same answers on a cluster of Patroni's, the same power over it, and `patronictl` on a
//! cluster of ours. Patroni comes from PyPI by `scripts/fetch-patroni`; without it these tests say that they did not run.

mod acting;
mod migrating;
mod moving;
mod patroni;
mod reading;
mod reverse;
mod route;
#[path = "../support/mod.rs"]
mod support;
mod watchers;
mod zookeeper;
