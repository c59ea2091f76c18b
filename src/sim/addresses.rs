//! The virtual address of the cluster: what each machine has of it, and the law that only one has it.

use super::world::World;
use crate::model::AddressOrder;

impl World {
    /// As the holder carries it out, and as the kernel keeps it when nobody says more.
    pub fn order_address(&mut self, host: usize, order: AddressOrder) {
        let now = self.local(host);
        let address = &mut self.hosts[host].address;
        *address = address.filter(|until| !until.has_passed(now));
        match order {
            AddressOrder::Keep => {}
            AddressOrder::Away | AddressOrder::Ask => *address = None,
            AddressOrder::Extend { until } => *address = address.map(|_| until),
            AddressOrder::Hold { until } => *address = Some(until),
        }
    }

    /// In maintenance mode an address has no end, as its primary has none; and an operator may take the key away from whoever has it.
    pub fn look_at_addresses(&mut self) {
        let excused = self.policy.pause
            || self.laws.resumed_at.is_some()
            || self.laws.key_deleted
            || !self.laws.unattended.is_empty();
        let mut owner: Option<usize> = None;
        for index in 0..self.hosts.len() {
            let now = self.local(index);
            let host = &mut self.hosts[index];
            if !host.up {
                host.address = None;
            }
            if host.address.is_none_or(|until| until.has_passed(now)) {
                continue;
            }
            if let Some(other) = owner.filter(|_| !excused) {
                let (one, two) = (&self.hosts[other].name, &self.hosts[index].name);
                let what = format!("address: {one} and {two} have it at the same time");
                self.laws.breaks(what);
            }
            owner = Some(index);
        }
    }
}
