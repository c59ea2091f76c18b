//! A cluster's way from one store into another: what is taken along, word for word, and the seal that is left behind.

use std::collections::BTreeMap;
use std::time::Duration;

use super::format::Key;
use super::kv::{Entry, Must, Transaction, Verdict};
use super::lease::told;
use super::{Store, StoreError};

/// The keys that outlive every agent. What members say of themselves they say anew, and the lease is never copied.
pub const CARGO: [Key; 9] = [
    Key::Initialize,
    Key::Config,
    Key::History,
    Key::Status,
    Key::Sync,
    Key::Failsafe,
    Key::Claim,
    Key::Intents,
    Key::Successions,
];

/// The values of these keys as they stand; what is not there is not there.
pub type Cargo = BTreeMap<&'static str, Vec<u8>>;

impl Store {
    pub fn cargo(&self, entries: &[Entry]) -> Cargo {
        let found = |key: &Key| {
            let path = self.place.path(key);
            let entry = entries.iter().find(|entry| entry.path == path)?;
            Some((name(key), entry.value.clone()))
        };
        CARGO.iter().filter_map(found).collect()
    }

    /// Makes these keys what they are elsewhere, all at once, and takes a seal away. `seen` is what stands here now: if
    /// anybody has changed it since, or leads here, nothing is written.
    pub async fn receive(&self, cargo: &Cargo, seen: &[Entry], within: Duration) -> Result<(), StoreError> {
        const ATTEMPT: &str = "copy the cluster";
        let leader = self.place.path(&Key::Leader);
        let mut transaction = Transaction::default();
        let present = |path: &str| seen.iter().find(|entry| entry.path == path);
        let as_seen =
            |path: &str| present(path).map_or(Must::BeAbsent, |entry| Must::HaveVersion(entry.version));
        transaction = transaction.when(&leader, as_seen(&leader)).else_look_at(&leader);
        match present(&leader) {
            Some(entry) if entry.session.is_some() => {
                return Err(StoreError::conflict(ATTEMPT, told(Some(entry))));
            }
            Some(_) => transaction = transaction.delete(&leader),
            None => {}
        }
        // A wish of long ago must not come true here.
        let failover = self.place.path(&Key::Failover);
        if present(&failover).is_some() {
            transaction = transaction.when(&failover, as_seen(&failover)).delete(&failover);
        }
        for key in &CARGO {
            let path = self.place.path(key);
            transaction = match cargo.get(name(key)) {
                Some(value) => transaction.when(&path, as_seen(&path)).put(&path, value.as_slice()),
                None if present(&path).is_some() => transaction.when(&path, as_seen(&path)).delete(&path),
                None => transaction,
            };
        }
        match self.adapter.transact(ATTEMPT, transaction, within).await? {
            Verdict::Done { .. } => Ok(()),
            Verdict::Failed { seen } => match seen.into_iter().next().flatten() {
                Some(leader) => Err(StoreError::conflict(ATTEMPT, told(Some(&leader)))),
                None => Err(StoreError::conflict(ATTEMPT, "somebody else has written there meanwhile")),
            },
        }
    }

    /// Makes sure that nobody ever leads here again: the leader key belongs to no session, so it never goes away by itself.
    pub async fn seal(&self, leader: &str, within: Duration) -> Result<(), StoreError> {
        const ATTEMPT: &str = "seal the store that was left";
        let path = self.place.path(&Key::Leader);
        let transaction =
            Transaction::default().when(&path, Must::BeAbsent).put(&path, leader).else_look_at(&path);
        match self.adapter.transact(ATTEMPT, transaction, within).await? {
            Verdict::Done { .. } => Ok(()),
            Verdict::Failed { seen } => match seen.into_iter().next().flatten() {
                Some(present) if present.session.is_none() => Ok(()),
                other => Err(StoreError::conflict(ATTEMPT, told(other.as_ref()))),
            },
        }
    }
}

fn name(key: &Key) -> &'static str {
    match key {
        Key::Initialize => "initialize",
        Key::Leader => "leader",
        Key::Member(_) => "members",
        Key::Config => "config",
        Key::Status => "status",
        Key::LegacyOptime => "optime",
        Key::Failover => "failover",
        Key::Sync => "sync",
        Key::History => "history",
        Key::Failsafe => "failsafe",
        Key::Claim => "claim",
        Key::Intents => "intents",
        Key::Successions => "successions",
    }
}
