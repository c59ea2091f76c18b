//! Standings for the unit tests, two words long: `turku` looks at itself in a cluster of three.

use serde_json::{Value, json};

use crate::model::*;

/// When the fixtures were decided, and when they are looked at unless a test says otherwise.
pub const NOW: Moment = Moment::from_ms(5_000);
pub const REPLAYED: u64 = 67_394_496;

pub fn name(text: &str) -> MemberName {
    text.parse().expect("a good name")
}

/// `turku` leads `oulu` and `vaasa`.
pub fn primary() -> Standing {
    let mut standing = standby();
    lead_by(&mut standing, "turku");
    let timing = standing.view.policy.timing;
    standing.view.lease = Some(Lease { term: Term(7), asked_at: Moment::from_ms(4_800), timing });
    standing.view.guardian = Guardian::Ready {
        confirmed: FenceOrder::Arm { term: Term(7), fence_at: timing.fence_at(Moment::from_ms(4_800)) },
    };
    let position = Position::new(2, 67_394_096);
    standing.view.postgres =
        running(Serving::Primary { position, checkpointed: true, forks: Some(Vec::new()) });
    standing.plan.reason = Rule::LeaderStays.into();
    standing.facts.replication_state = None;
    standing.facts.replication = vec![ReplicationRow {
        usename: "replicator".into(),
        application_name: "oulu".into(),
        client_addr: Some("127.0.0.1".into()),
        state: "streaming".into(),
        sync_state: "async".into(),
        sync_priority: 0,
    }];
    standing
}

/// `turku` follows `oulu`.
pub fn standby() -> Standing {
    let mut standing = empty();
    standing.view.store = StoreView { cluster: Some(three_members()), contact: Contact::Current };
    standing.view.postgres = running(Serving::Standby {
        timeline: Timeline(3),
        received: Some(Lsn(REPLAYED)),
        replayed: Some(Lsn(REPLAYED)),
        streaming: true,
        upstream: None,
        forks: None,
        starved: false,
    });
    standing.view.guardian = Guardian::Ready { confirmed: FenceOrder::Disarm };
    standing.plan.reason = Reason::about(Rule::FollowsLeader, &name("oulu"));
    standing.facts = Facts {
        scope: "batman".into(),
        postmaster_start_time: Some("2026-11-20 23:31:38.848976+00:00".into()),
        replication_state: Some("streaming".into()),
        store_last_seen: Some(1_795_217_605),
        decisions: 42,
        ..Facts::default()
    };
    standing
}

/// An agent that knows nothing yet.
pub fn empty() -> Standing {
    Standing {
        view: View {
            now: NOW,
            me: name("turku"),
            tags: Tags::default(),
            policy: Policy::default(),
            store: StoreView::default(),
            session: None,
            lease: None,
            postgres: Postgres::Unobserved,
            looked_at: NOW,
            disk: Disk::default(),
            peers: PeerRound::default(),
            remote: None,
            work: Work::default(),
            guardian: Guardian::Absent,
            watchdog: Watchdog::Unknown,
            memory: Memory::default(),
            ending: false,
        },
        plan: Plan {
            reason: Rule::WaitsForStore.into(),
            step: Step::Wait,
            renew_until: NOW,
            fence: FenceOrder::Keep,
            seek_consent: false,
            look_again: Moment::from_ms(6_000),
        },
        facts: Facts { scope: "batman".into(), ..Facts::default() },
    }
}

pub fn three_members() -> Cluster {
    let record = |port: u16, role| MemberRecord {
        conn_url: format!("postgres://127.0.0.1:{port}/postgres"),
        api_url: format!("http://127.0.0.1:{}/patroni", port + 2550),
        state: MemberState::Running,
        role,
        version: "4.1.5".into(),
        xlog_location: Some(Lsn(REPLAYED)),
        receive_lsn: (role == MemberRole::Replica).then_some(Lsn(REPLAYED)),
        replay_lsn: (role == MemberRole::Replica).then_some(Lsn(REPLAYED)),
        replication_state: (role == MemberRole::Replica).then(|| "streaming".into()),
        timeline: Some(Timeline(3)),
        ..MemberRecord::default()
    };
    Cluster {
        initialize: Initialize::Done(SystemId(7_710_399_124_836_129_887)),
        leader: Some(Leader { name: name("oulu"), term: Term(5), session: None }),
        members: [
            (name("oulu"), record(5550, MemberRole::Primary)),
            (name("turku"), record(5551, MemberRole::Replica)),
            (name("vaasa"), record(5552, MemberRole::Replica)),
        ]
        .into(),
        config: Some(Versioned { value: json!({"ttl": 30, "loop_wait": 5}), version: 3 }),
        status: Status { optime: Some(Lsn(REPLAYED)), ..Status::default() },
        history: vec![HistoryLine {
            timeline: Timeline(1),
            switch: Lsn(67_393_640),
            reason: "no recovery target specified".into(),
            timestamp: Some("2026-11-20T23:29:18.640000+00:00".into()),
            new_leader: Some(name("oulu")),
        }],
        ..Cluster::default()
    }
}

pub fn with(mut standing: Standing, change: impl FnOnce(&mut Standing)) -> Standing {
    change(&mut standing);
    standing
}

pub fn snapshot(standing: &mut Standing) -> &mut Cluster {
    standing.view.store.cluster.as_mut().expect("this fixture has a snapshot")
}

pub fn lead_by(standing: &mut Standing, leader: &str) {
    let cluster = snapshot(standing);
    cluster.leader = Some(Leader { name: name(leader), term: Term(7), session: None });
    for (member, record) in &mut cluster.members {
        let leads = member.as_str() == leader;
        record.role = if leads { MemberRole::Primary } else { MemberRole::Replica };
    }
}

pub fn configure(standing: &mut Standing, config: Value) {
    snapshot(standing).config = Some(Versioned { value: config, version: 4 });
}

pub fn be_sync(standing: &mut Standing) {
    configure(standing, json!({"synchronous_mode": true}));
    snapshot(standing).sync = Some(Versioned {
        value: SyncState { leader: Some(name("oulu")), quorum: 0, standbys: vec![name("Turku")] },
        version: 1,
    });
}

pub fn be_quorum(standing: &mut Standing) {
    be_sync(standing);
    configure(standing, json!({"synchronous_mode": "quorum"}));
}

pub fn be_standby_cluster(standing: &mut Standing) {
    be_recovering(standing);
    configure(standing, json!({"standby_cluster": {"host": "elsewhere"}}));
    let address = Address { host: "elsewhere".to_owned(), port: 5432 };
    standing.view.policy.follows = Some(Remote { address: Some(address), ..Remote::default() });
}

pub fn be_recovering(standing: &mut Standing) {
    standing.view.postgres = standby().view.postgres;
}

pub fn be_silent(standing: &mut Standing) {
    if let Postgres::Running(running) = &mut standing.view.postgres {
        running.silent_since = Some(NOW);
    }
}

/// Since a second ago, and one of two standbys lacks something.
pub fn be_gated(standing: &mut Standing) {
    let Postgres::Running(running) = &mut standing.view.postgres else { return };
    running.synchrony.gate = Gate::Closed;
    let since = NOW - Span::from_secs(1);
    let mark = Lsn(67_394_000);
    standing.view.memory.sync.gate = Some(ClosedGate { mark, since, lacked: 4096, failed_at: None });
    snapshot(standing).sync = Some(Versioned {
        value: SyncState { leader: Some(name("turku")), quorum: 0, standbys: vec![name("oulu")] },
        version: 1,
    });
}

pub fn lose_the_store(standing: &mut Standing) {
    standing.view.store.contact = Contact::Silent { since: Moment::from_ms(0) };
}

pub fn be_stopped(standing: &mut Standing) {
    standing.view.postgres = Postgres::Stopped {
        control: Control {
            system: SystemId(7_710_399_124_836_129_887),
            state: ControlState::InProduction,
            checkpoint: Position::new(2, 67_394_096),
            recovery_end: None,
            standby_signal: false,
            backup_label: false,
            never_led: false,
            rewindable: true,
        },
    };
}

pub fn tag(standing: &mut Standing, key: &str, value: impl Into<Value>) {
    standing.view.tags.0.insert(key.to_owned(), value.into());
}

pub fn optime(standing: &mut Standing, lsn: u64) {
    snapshot(standing).status.optime = Some(Lsn(lsn));
}

pub fn receive(standing: &mut Standing, lsn: u64) {
    if let Postgres::Running(Running { serving: Serving::Standby { received, .. }, .. }) =
        &mut standing.view.postgres
    {
        *received = Some(Lsn(lsn));
    }
}

fn running(serving: Serving) -> Postgres {
    Postgres::Running(Running {
        system: SystemId(7_710_399_124_836_129_887),
        serving,
        silent_since: None,
        version: 150_018,
        synchrony: crate::model::Synchrony::default(),
    })
}
