//! The other keys: what members publish, what operators set, and what only the leader may write.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use super::format::{self, Key, NO_FAILOVER};
use super::kv::{Entry, Must, Transaction, Verdict};
use super::lease::told;
use super::{Store, StoreError};
use crate::model::{
    Cluster, FailoverRequest, HistoryLine, MemberName, MemberRecord, SessionId, Status, SyncState, SystemId,
    Term,
};

/// On what a write depends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Whatever is there is replaced.
    Anything,
    /// The key is as it was when this version of it was read; 0: there was none.
    Version(i64),
}

impl Store {
    /// One reading of the whole cluster, no older than the call.
    pub async fn snapshot(&self, within: Duration) -> Result<Cluster, StoreError> {
        let reading = self.adapter.read("read the cluster", self.place.base(), within).await?;
        let (cluster, oddities) = format::read::cluster(&self.place, &reading.entries);
        format::read::Reported::default().warn(oddities);
        Ok(cluster)
    }

    /// The same, key by key and word for word, for whoever shows it. A znode that is there for those below it alone is no key.
    pub async fn entries(&self, within: Duration) -> Result<Vec<Entry>, StoreError> {
        let mut entries = self.adapter.read("read the cluster", self.place.base(), within).await?.entries;
        let paths: Vec<String> = entries.iter().map(|entry| format!("{}/", entry.path)).collect();
        let holds_others = |folder: &str| paths.iter().any(|path| path != folder && path.starts_with(folder));
        entries.retain(|entry| !entry.value.is_empty() || !holds_others(&format!("{}/", entry.path)));
        Ok(entries)
    }

    /// The scopes of all clusters in our namespace.
    pub async fn clusters(&self, within: Duration) -> Result<BTreeSet<String>, StoreError> {
        let reading = self.adapter.read("list the clusters", self.place.namespace(), within).await?;
        let scopes = reading.entries.iter().filter_map(|entry| self.place.scope_of(&entry.path));
        Ok(scopes.map(str::to_owned).collect())
    }

    /// Deletes every key of the cluster. Sessions go on, so members that live come back.
    pub async fn remove_cluster(&self, within: Duration) -> Result<(), StoreError> {
        self.adapter.remove("remove the cluster", self.place.base(), within).await
    }

    /// What a member says of itself. The record goes away with the session.
    pub async fn put_member(
        &self,
        session: SessionId,
        me: &MemberName,
        record: &MemberRecord,
        within: Duration,
    ) -> Result<(), StoreError> {
        let transaction = Transaction::default().put_for(
            session,
            &self.place.path(&Key::Member(me.clone())),
            format::member(record),
        );
        self.adapter.transact("write the member's record", transaction, within).await.map(drop)
    }

    pub async fn put_status(
        &self,
        me: &MemberName,
        term: Term,
        status: &Status,
        within: Duration,
    ) -> Result<(), StoreError> {
        self.put_as_leader("write the status", me, term, &Key::Status, format::status(status), within).await
    }

    pub async fn put_history(
        &self,
        me: &MemberName,
        term: Term,
        lines: &[HistoryLine],
        within: Duration,
    ) -> Result<(), StoreError> {
        self.put_as_leader("write the history", me, term, &Key::History, format::history(lines), within).await
    }

    pub async fn put_failsafe(
        &self,
        me: &MemberName,
        term: Term,
        members: &BTreeMap<MemberName, String>,
        within: Duration,
    ) -> Result<(), StoreError> {
        let text = format::failsafe(members);
        self.put_as_leader("write the failsafe members", me, term, &Key::Failsafe, text, within).await
    }

    /// For a leader that finds the name of its cluster missing or unreadable.
    pub async fn put_initialize(
        &self,
        me: &MemberName,
        term: Term,
        system: SystemId,
        within: Duration,
    ) -> Result<(), StoreError> {
        let text = format::initialize(system);
        self.put_as_leader("name the cluster", me, term, &Key::Initialize, text, within).await
    }

    /// Who may lead without loss. Only the leader says so, and only if nobody has said anything since `seen_version`
    /// (0: there was nothing). Returns the new version.
    pub async fn put_sync(
        &self,
        me: &MemberName,
        term: Term,
        state: &SyncState,
        seen_version: i64,
        within: Duration,
    ) -> Result<i64, StoreError> {
        const ATTEMPT: &str = "write the synchronous state";
        let (key, text) = (self.place.path(&Key::Sync), format::sync(state));
        let transaction = self
            .while_leading(me, term)
            .when(&key, Must::HaveVersion(seen_version))
            .put(&key, text.as_str())
            .else_look_at(&key);
        match self.adapter.transact(ATTEMPT, transaction, within).await? {
            Verdict::Done { revision } => Ok(revision),
            Verdict::Failed { seen } => match &seen[..] {
                [leader, Some(present)]
                    if self.leads(leader.as_ref(), me, term) && present.value == text.as_bytes() =>
                {
                    Ok(present.version)
                }
                [leader, ..] if !self.leads(leader.as_ref(), me, term) => {
                    Err(StoreError::conflict(ATTEMPT, told(leader.as_ref())))
                }
                _ => Err(StoreError::conflict(ATTEMPT, "somebody else has changed it")),
            },
        }
    }

    /// Takes the synchronous state away: anybody may lead again.
    pub async fn delete_sync(
        &self,
        me: &MemberName,
        term: Term,
        seen_version: i64,
        within: Duration,
    ) -> Result<(), StoreError> {
        const ATTEMPT: &str = "delete the synchronous state";
        let key = self.place.path(&Key::Sync);
        let transaction = self
            .while_leading(me, term)
            .when(&key, Must::HaveVersion(seen_version))
            .delete(&key)
            .else_look_at(&key);
        match self.adapter.transact(ATTEMPT, transaction, within).await? {
            Verdict::Done { .. } => Ok(()),
            Verdict::Failed { seen } => match &seen[..] {
                [_, None] => Ok(()),
                [leader, ..] if !self.leads(leader.as_ref(), me, term) => {
                    Err(StoreError::conflict(ATTEMPT, told(leader.as_ref())))
                }
                _ => Err(StoreError::conflict(ATTEMPT, "somebody else has changed it")),
            },
        }
    }

    /// The dynamic configuration. Returns its new version.
    pub async fn put_config(
        &self,
        config: &Value,
        expect: Expect,
        within: Duration,
    ) -> Result<i64, StoreError> {
        self.compare_and_put("write the configuration", &Key::Config, format::config(config), expect, within)
            .await
    }

    /// Asks for another leader. `replaces` is the version of the request that this one takes the place of; without it
    /// there must be none.
    pub async fn request_failover(
        &self,
        request: &FailoverRequest,
        replaces: Option<i64>,
        within: Duration,
    ) -> Result<i64, StoreError> {
        const ATTEMPT: &str = "ask for another leader";
        let (key, text) = (&Key::Failover, format::failover(request));
        if let Some(version) = replaces {
            return self.compare_and_put(ATTEMPT, key, text, Expect::Version(version), within).await;
        }
        let path = self.place.path(key);
        let transaction = Transaction::default()
            .when(&path, Must::Hold(NO_FAILOVER.into()))
            .put(&path, text.as_str())
            .else_look_at(&path);
        match self.adapter.transact(ATTEMPT, transaction, within).await? {
            Verdict::Done { revision } => Ok(revision),
            Verdict::Failed { seen } => match seen.into_iter().next().flatten() {
                None => self.compare_and_put(ATTEMPT, key, text, Expect::Version(0), within).await,
                Some(present) if present.value == text.as_bytes() => Ok(present.version),
                Some(present) if self.asks_for_nothing(&present) => {
                    self.compare_and_put(ATTEMPT, key, text, Expect::Version(present.version), within).await
                }
                Some(_) => Err(StoreError::conflict(ATTEMPT, "somebody has asked already")),
            },
        }
    }

    /// The request with this version is dealt with.
    pub async fn clear_failover(&self, version: i64, within: Duration) -> Result<(), StoreError> {
        let (attempt, text) = ("clear the request for another leader", NO_FAILOVER.to_owned());
        self.compare_and_put(attempt, &Key::Failover, text, Expect::Version(version), within).await.map(drop)
    }

    async fn put_as_leader(
        &self,
        attempt: &'static str,
        me: &MemberName,
        term: Term,
        key: &Key,
        text: String,
        within: Duration,
    ) -> Result<(), StoreError> {
        let transaction = self.while_leading(me, term).put(&self.place.path(key), text);
        match self.adapter.transact(attempt, transaction, within).await? {
            Verdict::Done { .. } => Ok(()),
            Verdict::Failed { seen } => {
                Err(StoreError::conflict(attempt, told(seen.into_iter().next().flatten().as_ref())))
            }
        }
    }

    /// That the key already holds what is wanted is as good: after a lost answer it was probably us.
    async fn compare_and_put(
        &self,
        attempt: &'static str,
        key: &Key,
        text: String,
        expect: Expect,
        within: Duration,
    ) -> Result<i64, StoreError> {
        let path = self.place.path(key);
        let mut transaction = Transaction::default().put(&path, text.as_str()).else_look_at(&path);
        if let Expect::Version(version) = expect {
            transaction = transaction.when(&path, Must::HaveVersion(version));
        }
        match self.adapter.transact(attempt, transaction, within).await? {
            Verdict::Done { revision } => Ok(revision),
            Verdict::Failed { seen } => match seen.into_iter().next().flatten() {
                Some(present) if present.value == text.as_bytes() => Ok(present.version),
                Some(_) => Err(StoreError::conflict(attempt, "somebody else has changed it")),
                None => Err(StoreError::conflict(attempt, "somebody else has deleted it")),
            },
        }
    }

    fn leads(&self, leader: Option<&Entry>, me: &MemberName, term: Term) -> bool {
        self.while_leading(me, term).checks.iter().all(|check| check.must.holds(leader))
    }

    /// An empty request may be spelled with nulls. One that is not understood counts as a request: it is not ours to replace.
    fn asks_for_nothing(&self, present: &Entry) -> bool {
        let (cluster, oddities) = format::read::cluster(&self.place, [present]);
        cluster.failover.is_none() && oddities.is_empty()
    }
}
