//! `tenurectl` beside `patronictl`: the same answers on a cluster of Patroni's, the same power over it, and `patronictl` on a
//! cluster of ours. Patroni comes from PyPI by `scripts/fetch-patroni`; without it these tests say that they did not run.

mod acting;
mod answers;
mod comparison;
#[expect(dead_code, reason = "the manual, which tests/tidy.rs writes, needs the rest")]
mod deliberate;
mod doctoring;
mod drilling;
mod explaining;
mod foreseeing;
mod intents;
mod migrating;
mod mixed;
mod moving;
mod patroni;
mod reading;
mod reverse;
mod route;
mod side_by_side;
#[path = "../support/mod.rs"]
mod support;
mod topping;
mod watchers;
mod zookeeper;
