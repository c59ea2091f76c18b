//! Each server's own word on itself, and how many of them vote.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Etcd;
use super::fault::Fault;
use crate::doctor::{ServerState, StoreFacts, StoreServer};
use crate::store::StoreError;

const ATTEMPT: &str = "ask a server of the store";

impl Etcd {
    pub(in crate::store) async fn vitals(&self, within: Duration) -> Result<StoreFacts, StoreError> {
        let told = self.0.each(within, |mut client, _| async move {
            let status = client.status().await?;
            // Some versions let only those ask who may do everything.
            let voters = client.member_list().await.ok();
            let voters =
                voters.map(|list| list.members().iter().filter(|member| !member.is_learner()).count());
            let member = status.header().ok_or_else(Fault::headless)?.member_id();
            let known = |number: i64| u64::try_from(number).ok().filter(|number| *number > 0);
            let state = ServerState {
                leads: status.leader() == member,
                index: Some(status.raft_index()),
                used_bytes: known(status.db_size()),
                quota_bytes: known(status.db_size_quota()),
                alarms: status.errors().to_vec(),
            };
            Ok((state, voters))
        });
        let told = told.await.map_err(|fault| fault.named(ATTEMPT, None))?;
        let voters = told.iter().filter_map(|(_, told)| told.as_ref().ok()?.1).max();
        let servers = told.into_iter().map(|(name, told)| StoreServer {
            host: host_of(&name),
            name,
            addresses: BTreeSet::new(),
            state: told.map(|(state, _)| state).map_err(|fault| fault.named(ATTEMPT, None).to_string()),
        });
        Ok(StoreFacts { servers: servers.collect(), voters, ..StoreFacts::default() })
    }
}

fn host_of(url: &str) -> String {
    let uri: Option<hyper::Uri> = url.parse().ok();
    let host = uri.as_ref().and_then(|uri| uri.host()).unwrap_or_default();
    host.trim_start_matches('[').trim_end_matches(']').to_owned()
}
