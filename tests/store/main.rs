//! What the rules may rely on in any store: one contract, tried on the one in memory, on a real etcd and on a
//! real ZooKeeper; and what their own troubles (servers that die, freeze, forget, want passwords and certificates) look like.

#![allow(clippy::disallowed_methods, reason = "a test owns its tasks, and gives up after a while")]

mod contract;
mod discovery;
#[path = "../support/etcd.rs"]
mod etcd_server;
mod notes;
#[path = "../support/proxy.rs"]
mod proxy;
mod rig;
mod troubles;
#[path = "../support/zookeeper.rs"]
mod zookeeper_server;
mod zookeeper_troubles;
