//! A store to try, what can be done to it from outside, and short words for what tests say often.

use std::sync::Arc;
use std::time::Duration;

use tenure::model::{
    Cluster, HistoryLine, Lsn, MemberName, MemberRecord, NewClaim, SessionId, Span, Status, SystemId,
    Timeline,
};
use tenure::store::{
    AdapterSettings, EtcdSettings, Memory, Store, StoreError, StoreEvent, StoreSettings, Watch,
    ZookeeperSettings,
};
use tokio::time::timeout;

use crate::etcd_server::Etcd;
use crate::proxy::{Proxy, Wire};
use crate::zookeeper_server::{self, Zookeeper};

/// For calls that are answered: only reached if something is wrong.
pub const LONG: Duration = Duration::from_secs(30);
/// For calls that are not answered.
pub const SHORT: Duration = Duration::from_millis(1500);
/// The shortest session that etcd grants.
pub const TTL: Span = Span::from_secs(2);
/// A session that outlives the test.
pub const LIFE: Span = Span::from_secs(600);

pub enum Rig {
    Memory(Memory),
    /// With a wire in between that can be cut.
    Etcd {
        etcd: Etcd,
        wire: Proxy,
    },
    Zookeeper {
        zookeeper: Zookeeper,
        wire: Proxy,
        settings: ZookeeperSettings,
    },
}

impl Rig {
    pub fn memory() -> Rig {
        Rig::Memory(Memory::new())
    }

    pub async fn etcd() -> Rig {
        let etcd = Etcd::single().await;
        let wire = Proxy::to(&etcd.servers[0].endpoint).await;
        Rig::Etcd { etcd, wire }
    }

    pub async fn zookeeper() -> Rig {
        let zookeeper = Zookeeper::single().await;
        let wire = Proxy::to(&zookeeper.servers[0].endpoint).await;
        let settings =
            ZookeeperSettings { hosts: vec![wire.address.to_string()], ..ZookeeperSettings::default() };
        Rig::Zookeeper { zookeeper, wire, settings }
    }

    pub fn store(&self) -> Store {
        self.store_of("batman")
    }

    pub fn store_of(&self, scope: &str) -> Store {
        let adapter = match self {
            Rig::Memory(memory) => AdapterSettings::Memory(memory.clone()),
            Rig::Etcd { wire, .. } => AdapterSettings::Etcd(EtcdSettings {
                endpoints: vec![wire.address.to_string()],
                ..EtcdSettings::default()
            }),
            Rig::Zookeeper { settings, .. } => AdapterSettings::Zookeeper(settings.clone()),
        };
        store(adapter, scope)
    }

    /// What nobody of ours would write.
    pub async fn write(&self, key: &str, value: &[u8]) {
        let path = format!("/service/batman/{key}");
        match self {
            Rig::Memory(memory) => memory.write(&path, value),
            Rig::Etcd { etcd, .. } => {
                etcd.client().await.put(path, value, None).await.expect("etcd takes anything");
            }
            // A path that ends like a directory is none in ZooKeeper.
            Rig::Zookeeper { .. } if path.ends_with('/') => {}
            Rig::Zookeeper { zookeeper, .. } => {
                zookeeper_server::put(&zookeeper.servers[0].endpoint, &path, value);
            }
        }
    }

    pub fn freeze(&self) {
        match self {
            Rig::Memory(memory) => memory.set_reachable(false),
            Rig::Etcd { etcd, .. } => etcd.servers[0].freeze(),
            Rig::Zookeeper { zookeeper, .. } => zookeeper.servers[0].freeze(),
        }
    }

    pub fn thaw(&self) {
        match self {
            Rig::Memory(memory) => memory.set_reachable(true),
            Rig::Etcd { etcd, .. } => etcd.servers[0].thaw(),
            Rig::Zookeeper { zookeeper, .. } => zookeeper.servers[0].thaw(),
        }
    }

    /// The next write happens, and nobody hears of it until answers are carried again.
    pub fn lose_answers(&self) {
        match self {
            Rig::Memory(memory) => memory.lose_answers(1),
            Rig::Etcd { wire, .. } | Rig::Zookeeper { wire, .. } => wire.set(Wire::Mute),
        }
    }

    pub fn carry_answers(&self) {
        match self {
            Rig::Memory(memory) => memory.lose_answers(0),
            Rig::Etcd { wire, .. } | Rig::Zookeeper { wire, .. } => wire.set(Wire::Open),
        }
    }
}

pub fn store(adapter: AdapterSettings, scope: &str) -> Store {
    Store::connect(&StoreSettings { namespace: "service".to_owned(), scope: scope.to_owned(), adapter })
}

pub fn name(text: &str) -> MemberName {
    text.parse().expect("a good name")
}

pub fn claim(timeline: u32, seen_version: i64) -> NewClaim {
    NewClaim { timeline: Timeline(timeline), seen_version }
}

pub fn status(optime: u64) -> Status {
    Status { optime: Some(Lsn(optime)), ..Status::default() }
}

pub fn record(text: &str) -> MemberRecord {
    MemberRecord { conn_url: text.to_owned(), ..MemberRecord::default() }
}

pub fn line(timeline: u32) -> HistoryLine {
    HistoryLine {
        timeline: Timeline(timeline),
        switch: Lsn(25),
        reason: "no recovery target specified".to_owned(),
        timestamp: None,
        new_leader: None,
    }
}

pub const SYSTEM: SystemId = SystemId(7_303_421_567_890_123_456);

pub async fn session(store: &Store, ttl: Span) -> SessionId {
    store.open_session(ttl, LONG).await.expect("a session is granted").id
}

pub async fn snapshot(store: &Store) -> Cluster {
    store.snapshot(LONG).await.expect("the store answers")
}

/// ZooKeeper counts from the last word that it has certainly heard, which may be a moment ago.
#[track_caller]
pub fn whole_life(granted: Span) {
    assert!(granted <= LIFE && LIFE.minus(Span::from_secs(10)) <= granted, "{granted}");
}

#[track_caller]
pub fn conflict<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    match result {
        Err(StoreError::Conflict { .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[track_caller]
pub fn unanswered<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    match result {
        Err(StoreError::Unanswered { .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[track_caller]
pub fn refused<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    match result {
        Err(StoreError::Refused { .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[track_caller]
pub fn gone<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    match result {
        Err(StoreError::SessionGone { .. }) => {}
        other => panic!("{other:?}"),
    }
}

/// The first snapshot in which something is so.
pub async fn until(watch: &mut Watch, is_so: impl Fn(&Cluster) -> bool) -> Arc<Cluster> {
    let looked = async {
        loop {
            if let StoreEvent::Snapshot { cluster, .. } = watch.next().await
                && is_so(&cluster)
            {
                return cluster;
            }
        }
    };
    timeout(LONG, looked).await.expect("it becomes so in time")
}

pub async fn until_silent(watch: &mut Watch) {
    let looked = async {
        loop {
            if let StoreEvent::Silent { .. } = watch.next().await {
                return;
            }
        }
    };
    timeout(LONG, looked).await.expect("the silence is noticed in time");
}
