//! Every small view: all combinations of what a member may know, and laws over `decide` alone. Milliseconds for
//! hundreds of thousands of views, so that a wrong row of the table is found before any world is built.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::view_laws::broken_law;
use crate::decide::decide;
use crate::model::*;

const NOW: Moment = Moment::from_ms(1_000_000);
const SYSTEM: SystemId = SystemId(7);
const TERM: Term = Term(5);
const OLD_TERM: Term = Term(4);
const SESSION: SessionId = SessionId(1);

fn name(name: &str) -> MemberName {
    name.parse().expect("a good name")
}

fn control(state: ControlState, timeline: u32, standby_signal: bool) -> Control {
    Control {
        system: SYSTEM,
        state,
        checkpoint: Position::new(timeline, 80),
        recovery_end: None,
        standby_signal,
        backup_label: false,
        never_led: false,
        rewindable: true,
    }
}

fn running(serving: Serving, silent_since: Option<Moment>) -> Postgres {
    Postgres::Running(Running {
        system: SYSTEM,
        serving,
        silent_since,
        version: 170_000,
        synchrony: Synchrony::default(),
    })
}

fn every_postgres() -> Vec<Postgres> {
    let primary = |timeline, checkpointed| Serving::Primary {
        position: Position::new(timeline, 100),
        checkpointed,
        forks: Some(Vec::new()),
    };
    let standby = |timeline, lsn: Option<u64>| Serving::Standby {
        timeline: Timeline(timeline),
        received: lsn.map(Lsn),
        replayed: lsn.map(Lsn),
        streaming: true,
        upstream: None,
        forks: None,
        starved: false,
    };
    let long_ago = Some(NOW - Span::from_secs(8));
    vec![
        Postgres::Unobserved,
        Postgres::Empty,
        Postgres::Unfinished { work: Unfinished::Rewind },
        Postgres::Unfinished { work: Unfinished::Clone },
        Postgres::Unfinished { work: Unfinished::Bootstrap },
        Postgres::Unusable { why: String::new() },
        Postgres::Stopped { control: control(ControlState::ShutDown, 1, false) },
        Postgres::Stopped { control: control(ControlState::InProduction, 1, false) },
        Postgres::Stopped { control: control(ControlState::InProduction, 2, false) },
        Postgres::Stopped { control: control(ControlState::ShutDownInRecovery, 1, true) },
        Postgres::Stopped {
            control: Control { backup_label: true, ..control(ControlState::InProduction, 1, true) },
        },
        Postgres::Starting { since: NOW - Span::from_secs(1), as_primary: true, system: SYSTEM },
        Postgres::Starting { since: NOW - Span::from_secs(1), as_primary: false, system: SYSTEM },
        running(primary(1, true), None),
        running(primary(2, false), None),
        running(primary(1, true), long_ago),
        running(standby(1, Some(100)), None),
        running(standby(1, Some(200)), None),
        running(standby(2, Some(100)), None),
        running(standby(1, None), None),
        running(standby(1, Some(100)), long_ago),
    ]
}

/// Who leads, who was allowed which timeline, what is wished for.
fn every_cluster() -> Vec<Option<Cluster>> {
    let record = |timeline| MemberRecord {
        conn_url: "postgres://oulu:5432/postgres".to_owned(),
        state: MemberState::Running,
        role: MemberRole::Primary,
        timeline: Some(Timeline(timeline)),
        ..MemberRecord::default()
    };
    let leaders = [
        None,
        Some(Leader { name: name("turku"), term: TERM, session: Some(SESSION) }),
        Some(Leader { name: name("turku"), term: OLD_TERM, session: Some(SessionId(9)) }),
        Some(Leader { name: name("oulu"), term: TERM, session: Some(SessionId(2)) }),
    ];
    let claims = [None, Some(("turku", 2)), Some(("oulu", 2))];
    let mut clusters = vec![None];
    for initialize in
        [Initialize::Absent, Initialize::Running, Initialize::Done(SYSTEM), Initialize::Done(SystemId(8))]
    {
        for leader in &leaders {
            for claim in claims {
                for asked in [false, true] {
                    let timeline = claim.map_or(1, |claim| claim.1);
                    let history = HistoryLine {
                        timeline: Timeline(1),
                        switch: Lsn(150),
                        reason: String::new(),
                        timestamp: None,
                        new_leader: None,
                    };
                    clusters.push(Some(Cluster {
                        initialize,
                        leader: leader.clone(),
                        members: BTreeMap::from([
                            (name("turku"), MemberRecord::default()),
                            (name("oulu"), record(timeline)),
                        ]),
                        history: if timeline == 2 { vec![history] } else { Vec::new() },
                        claim: claim.map(|(by, timeline)| Versioned {
                            value: Claim { timeline: Timeline(timeline), by: name(by) },
                            version: 3,
                        }),
                        failover: asked.then(|| Versioned {
                            value: FailoverRequest {
                                leader: Some(name("turku")),
                                ..FailoverRequest::default()
                            },
                            version: 4,
                        }),
                        ..Cluster::default()
                    }));
                }
            }
        }
    }
    clusters
}

/// None, a fresh one, one that asks for stepping down, one that has ended.
fn every_lease() -> Vec<Option<Lease>> {
    let timing = Timing::for_ttl(Span::from_secs(10));
    let asked = |ago: u64| Some(Lease { term: TERM, asked_at: NOW - Span::from_ms(ago), timing });
    vec![None, asked(500), asked(8_200), asked(9_100), asked(20_000)]
}

/// With a watchdog where one is required.
fn every_guardian() -> Vec<(Guardian, Option<Watchdog>)> {
    let armed = |term, ms: i64| Guardian::Ready {
        confirmed: FenceOrder::Arm {
            term,
            fence_at: if ms < 0 { NOW - Span::from_ms(500) } else { NOW + Span::from_ms(5_000) },
        },
    };
    let failed = Watchdog::Failed(WatchdogFailure::Absent);
    vec![
        (Guardian::Absent, None),
        (Guardian::Ready { confirmed: FenceOrder::Disarm }, None),
        (Guardian::Ready { confirmed: FenceOrder::Disarm }, Some(failed)),
        (armed(TERM, 1), None),
        (armed(TERM, 1), Some(failed)),
        (armed(TERM, 1), Some(Watchdog::Armed { timeout: Span::from_secs(5), stays: false })),
        (armed(TERM, -1), None),
        (armed(OLD_TERM, 1), None),
    ]
}

fn every_job() -> Vec<Option<Job>> {
    vec![
        None,
        Some(Job::Promote { term: TERM, timeline: Timeline(2), names: SyncNames::Unmanaged }),
        Some(Job::StartPrimary { term: TERM, names: SyncNames::Unmanaged, gate: Gate::Open }),
        Some(Job::StartStandby { upstream: None }),
        Some(Job::StopOrderly { by: NOW + Span::from_secs(30), handover: None }),
        Some(Job::StopAtOnce),
    ]
}

fn every_peer_round() -> Vec<PeerRound> {
    let stands = |role, timeline, lsn| {
        let status = PeerStatus {
            role,
            state: MemberState::Running,
            position: Some(Position::new(timeline, lsn)),
            ..PeerStatus::default()
        };
        PeerRound {
            asked_at: Some(NOW - Span::from_ms(100)),
            complete: true,
            answers: BTreeMap::from([(name("oulu"), PeerAnswer::Stands(status))]),
        }
    };
    let with_fitness = |fitness| {
        let mut round = stands(MemberRole::Replica, 1, 101);
        for answer in round.answers.values_mut() {
            if let PeerAnswer::Stands(status) = answer {
                status.fitness = fitness;
            }
        }
        round
    };
    vec![
        PeerRound::default(),
        stands(MemberRole::Replica, 1, 100),
        stands(MemberRole::Replica, 1, 80),
        stands(MemberRole::Replica, 1, 900),
        PeerRound { asked_at: Some(NOW - Span::from_secs(2)), ..stands(MemberRole::Replica, 1, 100) },
        stands(MemberRole::Replica, 2, 10),
        stands(MemberRole::Primary, 2, 10),
        with_fitness(Fitness::LastResort),
        with_fitness(Fitness::Unfit),
    ]
}

fn every_memory() -> Vec<Memory> {
    let base = Memory { no_leader_since: Some(NOW - Span::from_secs(1)), ..Memory::default() };
    let handover = Handover { to: name("oulu"), begun_at: NOW - Span::from_secs(1) };
    let asked = |ask, stage| {
        let wish = Wish { id: 1, ask, stage, since: NOW - Span::from_secs(1) };
        Memory { managed: true, has_led: true, wish: Some(wish), ..base.clone() }
    };
    let restart = Ask::Restart { timeout: Some(Span::from_ms(900)) };
    vec![
        asked(Ask::Restart { timeout: None }, Stage::Asked),
        asked(restart, Stage::Stopping),
        asked(restart, Stage::Down),
        asked(Ask::Reinitialize { force: true, from_leader: false }, Stage::Asked),
        base.clone(),
        Memory { managed: true, ..base.clone() },
        Memory { managed: true, has_led: true, ..base.clone() },
        Memory { managed: true, has_led: true, handover: Some(handover), ..base.clone() },
        Memory { bootstrapped: Some(SYSTEM), ..base.clone() },
        Memory {
            managed: true,
            last_leader: Some(name("lost")),
            unfenced_leader: Some(name("lost")),
            received: Some((Lsn(100), NOW - Span::from_ms(500))),
            ..base.clone()
        },
        Memory {
            managed: true,
            promise: Some(Promise { to: name("oulu"), until: NOW + Span::from_secs(1) }),
            ..base.clone()
        },
        Memory { managed: true, has_led: true, released: Some(TERM), ..base.clone() },
        Memory {
            managed: true,
            has_led: true,
            crashes: Crashes {
                in_a_row: Crashes::MAX,
                last_at: Some(NOW - Span::from_secs(1)),
                up_since: None,
            },
            ..base
        },
    ]
}

fn every_disk() -> [Disk; 3] {
    let writes = Disk { unwritten_since: None, free_bytes: Some(1 << 40), refused_for_space: false };
    [
        writes,
        Disk { unwritten_since: Some(NOW - Span::from_secs(8)), ..writes },
        Disk { free_bytes: Some(0), ..writes },
    ]
}

/// Shows every view to `look`, with what is decided.
pub(super) fn every_view(mut look: impl FnMut(&View, &Plan) -> ControlFlow<()>) -> u64 {
    let mut seen = 0;
    let contacts = [Contact::Never, Contact::Current, Contact::Silent { since: NOW - Span::from_secs(1) }];
    let (clusters, rounds, memories) = (every_cluster(), every_peer_round(), every_memory());
    let mut view = View {
        now: NOW,
        me: name("turku"),
        tags: Tags::default(),
        policy: Policy::default(),
        store: StoreView::default(),
        session: Some(Session { id: SESSION, asked_at: NOW - Span::from_ms(500), ttl: Span::from_secs(10) }),
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
    };
    let [writes, stalled, full] = every_disk();
    let circumstances = [(writes, false), (writes, true), (stalled, false), (full, false)];
    let elsewhere = Address { host: "elsewhere".to_owned(), port: 5432 };
    let site = Remote { address: Some(elsewhere), ..Remote::default() };
    for cluster in &clusters {
        view.store.cluster.clone_from(cluster);
        for contact in contacts {
            let possible = match contact {
                Contact::Never => cluster.is_none(),
                Contact::Current | Contact::Silent { .. } => cluster.is_some(),
            };
            if !possible {
                continue;
            }
            view.store.contact = contact;
            for postgres in every_postgres() {
                view.postgres = postgres;
                for lease in every_lease() {
                    view.lease = lease;
                    for job in every_job() {
                        view.work.job = job.map(|job| RunningJob {
                            job,
                            reason: Rule::LeaderStays.into(),
                            since: NOW - Span::from_ms(300),
                            cancelled: false,
                        });
                        for (guardian, required) in every_guardian() {
                            view.guardian = guardian;
                            view.watchdog = required.unwrap_or_default();
                            view.policy.watchdog_required = required.is_some();
                            for memory in &memories {
                                view.memory.clone_from(memory);
                                view.memory.request_seen = view.cluster().and_then(|cluster| {
                                    Some((cluster.failover.as_ref()?.version, NOW - Span::from_secs(60)))
                                });
                                // The peers matter only where somebody is asked: where no job runs.
                                let peers = if view.work.job.is_none() { &rounds[..] } else { &rounds[..1] };
                                for round in peers {
                                    view.peers.clone_from(round);
                                    for (disk, ending) in &circumstances {
                                        (view.disk, view.ending) = (*disk, *ending);
                                        seen += 1;
                                        if look(&view, &decide(&view)).is_break() {
                                            return seen;
                                        }
                                    }
                                    (view.disk, view.ending) = (writes, false);
                                    view.policy.follows = Some(site.clone());
                                    if look(&view, &decide(&view)).is_break() {
                                        return seen;
                                    }
                                    view.policy.follows = None;
                                }
                            }
                        }
                    }
                }
            }
        }
    }
    seen
}

#[test]
fn no_small_view_is_decided_against_a_law() {
    let mut broken: BTreeMap<&str, (u64, String)> = BTreeMap::new();
    let seen = every_view(|view, plan| {
        if let Some(law) = broken_law(view, plan) {
            broken.entry(law).or_insert_with(|| (0, format!("{plan:?}\n{view:#?}"))).0 += 1;
        }
        ControlFlow::Continue(())
    });
    assert!(100_000 < seen, "{seen} views");
    let told: Vec<String> =
        broken.iter().map(|(law, (count, first))| format!("{law}: {count} times, first {first}")).collect();
    assert!(broken.is_empty(), "{}", told.join("\n"));
}

#[test]
fn a_decision_depends_on_the_view_alone() {
    every_view(|view, plan| {
        assert!(*plan == decide(view), "{view:#?}");
        ControlFlow::Continue(())
    });
}
