//! The part of the mind that remembers leaders whom no guardian stops, and when WAL was last seen to arrive from anybody.

use super::Mind;
use crate::model::{Cluster, MemberName, Memory, Postgres, Running};

/// The record goes away together with its owner's key: what it said stays known.
pub(super) fn remember(memory: &mut Memory, cluster: &Cluster, leader: &MemberName) {
    memory.unfenced_leader = match cluster.members.get(leader) {
        Some(record) => (!record.is_fenced()).then(|| leader.clone()),
        None => memory.unfenced_leader.take().filter(|known| known == leader),
    };
}

impl Mind {
    pub(super) fn learn_received(&mut self, seen: &Postgres) {
        let reached = seen.running().and_then(Running::position).map(|position| position.lsn);
        let memory = &mut self.view.memory;
        if reached != memory.received.map(|(lsn, _)| lsn) {
            memory.received = reached.map(|lsn| (lsn, self.view.now));
        }
    }
}
