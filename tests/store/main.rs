//! What the rules may rely on in any store: one contract, tried on the one in memory and on a real etcd; and what etcd's
//! own troubles (servers that die, freeze, forget, want passwords and certificates) look like from outside.

#![allow(clippy::disallowed_methods, reason = "a test owns its tasks, and gives up after a while")]

mod contract;
#[path = "../support/etcd.rs"]
mod etcd_server;
#[path = "../support/proxy.rs"]
mod proxy;
mod rig;
mod troubles;
