//! The part of the mind that takes in what the store says, and that it says nothing.

use super::super::slots;
use super::{Mind, unfenced};
use crate::model::{Cluster, Contact, StoreView};

impl Mind {
    pub(super) fn learn_cluster(&mut self, cluster: Cluster) {
        slots::remember_members(&mut self.view, &cluster);
        let memory = &mut self.view.memory;
        match &cluster.leader {
            Some(leader) => {
                memory.no_leader_since = None;
                memory.last_leader = Some(leader.name.clone());
                unfenced::remember(memory, &cluster, &leader.name);
                memory.electorate = cluster
                    .members
                    .iter()
                    .map(|(name, record)| (name.clone(), record.api_url.clone()))
                    .collect();
                if leader.name != self.view.me {
                    memory.handover = None;
                }
                memory.bootstrapped = memory.bootstrapped.filter(|made| Some(*made) != cluster.system_id());
            }
            None => {
                memory.no_leader_since.get_or_insert(self.view.now);
            }
        }
        let sync_version = cluster.sync.as_ref().map_or(0, |sync| sync.version);
        self.view.memory.sync.sent.take_if(|sent| sent.version != sync_version);
        let request = cluster.failover.as_ref().filter(|request| !request.value.is_empty());
        let known = self.view.memory.request_seen;
        self.view.memory.request_seen = request.map(|request| match known {
            Some((version, seen)) if version == request.version => (version, seen),
            Some(_) | None => (request.version, self.view.now),
        });
        self.view.store = StoreView { cluster: Some(cluster), contact: Contact::Current };
    }

    pub(super) fn learn_silence(&mut self) {
        if self.view.store.contact == Contact::Current {
            self.view.store.contact = Contact::Silent { since: self.view.now };
        }
    }
}
