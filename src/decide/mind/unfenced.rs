//! The part of the mind that remembers leaders whom no guardian stops, and when WAL was last seen to arrive from anybody.

use super::Mind;
use crate::model::{Cluster, MemberName, Memory, Plan, Postgres, Rule, Running};

/// The record goes away together with its owner's key: what it said stays known.
pub(super) fn remember(memory: &mut Memory, cluster: &Cluster, leader: &MemberName) {
    memory.unfenced_leader = match cluster.members.get(leader) {
        Some(record) => (!record.is_fenced()).then(|| leader.clone()),
        None => memory.unfenced_leader.take().filter(|known| known == leader),
    };
}

impl Mind {
    /// Since when a candidate that was named has received what others have more of, in this race.
    pub(super) fn note_fetching(&mut self, plan: &Plan) {
        let memory = &mut self.view.memory;
        if plan.reason.rule == Rule::CandidateFetches {
            memory.fetching_since.get_or_insert(self.view.now);
        } else if memory.no_leader_since.is_none() {
            memory.fetching_since = None;
        }
    }

    pub(super) fn learn_received(&mut self, seen: &Postgres) {
        let reached = seen.running().and_then(Running::position).map(|position| position.lsn);
        let memory = &mut self.view.memory;
        if reached != memory.received.map(|(lsn, _)| lsn) {
            memory.received = reached.map(|lsn| (lsn, self.view.now));
        }
    }
}
