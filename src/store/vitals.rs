//! How the store itself is, for whoever examines a cluster: its servers one by one, and how long it takes to answer. Nothing that leads
//! waits for any of this.

use std::time::Duration;

use super::{Adapter, Store, StoreError};
use crate::clock;
use crate::doctor::{RoundTrips, StoreFacts};
use crate::model::Span;

/// The middle one counts: a single slow answer says nothing.
const READS: usize = 3;

impl Store {
    /// Each server is asked by itself; one that does not answer is part of what is found. Nothing is written.
    pub async fn servers(&self, within: Duration) -> Result<StoreFacts, StoreError> {
        match &self.adapter {
            Adapter::Etcd(etcd) => etcd.vitals(within).await,
            Adapter::Zookeeper(zookeeper) => zookeeper.vitals(within).await,
            Adapter::Memory(_) => Ok(StoreFacts::default()),
        }
    }

    /// The servers, and what the store grants and how fast.
    pub async fn vitals(&self, within: Duration) -> Result<StoreFacts, StoreError> {
        let mut facts = self.servers(within).await?;
        let limits = self.session_limits(within).await?;
        facts.shortest_lease = Some(limits.shortest);
        facts.longest_lease = limits.longest;
        facts.shortest_useful = self.ttl_min();
        facts.round_trips = Some(self.round_trips(within).await?);
        Ok(facts)
    }

    pub async fn round_trips(&self, within: Duration) -> Result<RoundTrips, StoreError> {
        let mut reads = [Span::ZERO; READS];
        for read in &mut reads {
            let asked_at = clock::now();
            self.entries(within).await?;
            *read = clock::now().since(asked_at);
        }
        reads.sort_unstable();
        let write = match &self.adapter {
            Adapter::Etcd(_) => {
                let asked_at = clock::now();
                // A lease that is granted and taken back: two writes, and no key is touched.
                self.session_limits(within).await?;
                Some(clock::now().since(asked_at).scaled(1, 2))
            }
            Adapter::Zookeeper(_) | Adapter::Memory(_) => None,
        };
        Ok(RoundTrips { read: reads[READS / 2], write })
    }
}
