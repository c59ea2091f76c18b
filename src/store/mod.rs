//! The store in our words: snapshots, sessions, the lease, and the few keys that are compared and set.
//!
//! Nothing here decides: whoever renews notes the time before asking.
//! Every call has a deadline. An answer that did not come is `Unanswered`, never a loss and never a win.
//!
//! `kv` is what an adapter must be able to do; `lease` and `keys` are the words, written once on top of it; `format` is
//! the spelling; `etcd`, `zookeeper` and `memory` are the adapters. A `Store` is cheap to clone, and the clones share a connection.
//! A thread with a runtime of its own connects for itself: nothing of a `Store` may wait for another runtime.

mod amend;
mod chronicle;
mod error;
pub mod etcd;
pub mod format;
mod keys;
pub mod kv;
mod lease;
pub mod memory;
mod share;
mod transfer;
mod vitals;
mod watch;
pub mod zookeeper;

use std::time::Duration;

pub use amend::{Amendment, Seen};
pub use error::{Cause, StoreError};
use etcd::Etcd;
pub use etcd::{Discovery, EtcdSettings};
use format::Key;
pub use format::Place;
pub use keys::Expect;
use kv::{Entry, Reading, Transaction, Verdict};
pub use lease::{OpenedSession, SessionLimits};
pub use memory::Memory;
pub use transfer::{CARGO, Cargo};
pub use watch::{StoreEvent, Watch};
use zookeeper::Zookeeper;
pub use zookeeper::ZookeeperSettings;

use crate::model::{Secret, SessionId, Span};

/// A cluster's place in a store.
#[derive(Clone, Debug)]
pub struct Store {
    adapter: Adapter,
    place: Place,
}

#[derive(Clone, Debug)]
pub struct StoreSettings {
    pub namespace: String,
    pub scope: String,
    pub adapter: AdapterSettings,
}

#[derive(Clone, Debug)]
pub enum AdapterSettings {
    Etcd(EtcdSettings),
    Zookeeper(ZookeeperSettings),
    Memory(Memory),
}

#[derive(Clone, Debug)]
enum Adapter {
    Etcd(Etcd),
    Zookeeper(Zookeeper),
    Memory(Memory),
}

/// What a renewal found out.
#[derive(Clone, Debug)]
struct Renewal {
    ttl: Span,
    /// The leader key as the store knew it after the session was renewed.
    leader: Option<Entry>,
}

impl Store {
    /// Only reads the certificate files; what is wrong with the settings is told by every call. Connections are made when
    /// they are needed, on the runtime that needs them.
    pub fn connect(settings: &StoreSettings) -> Store {
        let place = Place::new(&settings.namespace, &settings.scope);
        let adapter = match &settings.adapter {
            AdapterSettings::Etcd(settings) => Adapter::Etcd(Etcd::new(settings, place.path(&Key::Leader))),
            AdapterSettings::Zookeeper(settings) => Adapter::Zookeeper(Zookeeper::new(settings)),
            AdapterSettings::Memory(memory) => Adapter::Memory(memory.clone()),
        };
        Store { adapter, place }
    }

    pub fn place(&self) -> &Place {
        &self.place
    }

    /// With anything shorter a lease in this kind of store leaves nothing for a renewal that fails.
    pub fn ttl_min(&self) -> Span {
        match &self.adapter {
            Adapter::Zookeeper(_) => zookeeper::TTL_MIN,
            Adapter::Etcd(_) | Adapter::Memory(_) => Span::ZERO,
        }
    }

    /// May a member for which nothing hangs on it renew its session seldom? In ZooKeeper what a renewal grants counts from an
    /// earlier one, so whoever may have to lead soon renews all the time.
    pub fn rests_between_renewals(&self) -> bool {
        match &self.adapter {
            Adapter::Zookeeper(_) => false,
            Adapter::Etcd(_) | Adapter::Memory(_) => true,
        }
    }

    /// Whoever may not renew says so: from now on nothing in this process keeps the session alive. (In etcd only renewals do.)
    pub fn let_lapse(&self, session: SessionId) {
        match &self.adapter {
            Adapter::Zookeeper(zookeeper) => zookeeper.let_lapse(session),
            Adapter::Etcd(_) | Adapter::Memory(_) => {}
        }
    }

    /// Snapshots of the cluster from now on, and the news that the store has fallen silent. Must be called on a runtime;
    /// the task behind it ends with the `Watch`.
    pub fn watch(&self) -> Watch {
        match &self.adapter {
            Adapter::Etcd(etcd) => etcd.watch(&self.place),
            Adapter::Zookeeper(zookeeper) => zookeeper.watch(&self.place),
            Adapter::Memory(memory) => memory.watch(&self.place),
        }
    }
}

impl StoreSettings {
    /// What the next life of this agent must know besides a session's number to go on with it.
    pub fn session_secret(&self, session: SessionId) -> Option<Secret> {
        match &self.adapter {
            AdapterSettings::Zookeeper(settings) => settings.sessions.secret(session),
            AdapterSettings::Etcd(_) | AdapterSettings::Memory(_) => None,
        }
    }

    /// Takes over a session of a former life.
    pub fn adopt_session(&self, session: SessionId, secret: &Secret) {
        match &self.adapter {
            AdapterSettings::Zookeeper(settings) => settings.sessions.adopt(session, secret),
            AdapterSettings::Etcd(_) | AdapterSettings::Memory(_) => {}
        }
    }
}

impl Adapter {
    async fn read(
        &self,
        attempt: &'static str,
        prefix: &str,
        within: Duration,
    ) -> Result<Reading, StoreError> {
        match self {
            Adapter::Etcd(etcd) => etcd.read(attempt, prefix, within).await,
            Adapter::Zookeeper(zookeeper) => zookeeper.read(attempt, prefix, within).await,
            Adapter::Memory(memory) => memory.read(attempt, prefix),
        }
    }

    async fn transact(
        &self,
        attempt: &'static str,
        transaction: Transaction,
        within: Duration,
    ) -> Result<Verdict, StoreError> {
        match self {
            Adapter::Etcd(etcd) => etcd.transact(attempt, transaction, within).await,
            Adapter::Zookeeper(zookeeper) => zookeeper.transact(attempt, transaction, within).await,
            Adapter::Memory(memory) => memory.transact(attempt, &transaction),
        }
    }

    async fn remove(&self, attempt: &'static str, prefix: &str, within: Duration) -> Result<(), StoreError> {
        match self {
            Adapter::Etcd(etcd) => etcd.remove(attempt, prefix, within).await,
            Adapter::Zookeeper(zookeeper) => zookeeper.remove(attempt, prefix, within).await,
            Adapter::Memory(memory) => memory.remove(attempt, prefix),
        }
    }

    async fn open_session(&self, ttl: Span, within: Duration) -> Result<OpenedSession, StoreError> {
        match self {
            Adapter::Etcd(etcd) => etcd.open_session(ttl, within).await,
            Adapter::Zookeeper(zookeeper) => zookeeper.open_session(ttl, within).await,
            Adapter::Memory(memory) => memory.open_session(ttl),
        }
    }

    async fn session_limits(&self, within: Duration) -> Result<SessionLimits, StoreError> {
        match self {
            Adapter::Etcd(etcd) => etcd.session_limits(within).await,
            Adapter::Zookeeper(zookeeper) => zookeeper.session_limits(within).await,
            Adapter::Memory(_) => Ok(SessionLimits { shortest: Span::ZERO, longest: None }),
        }
    }

    async fn renew(&self, session: SessionId, leader: &str, within: Duration) -> Result<Renewal, StoreError> {
        match self {
            Adapter::Etcd(etcd) => etcd.renew(session, leader, within).await,
            Adapter::Zookeeper(zookeeper) => zookeeper.renew(session, leader, within).await,
            Adapter::Memory(memory) => memory.renew(session, leader),
        }
    }

    async fn close_session(&self, session: SessionId, within: Duration) -> Result<(), StoreError> {
        match self {
            Adapter::Etcd(etcd) => etcd.close_session(session, within).await,
            Adapter::Zookeeper(zookeeper) => zookeeper.close_session(session, within).await,
            Adapter::Memory(memory) => memory.close_session(session),
        }
    }
}
