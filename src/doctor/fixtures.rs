//! A healthy cluster of three, for the tests to spoil.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::decide::mind::Mind;
use crate::model::{FenceOrder, Guardian, Policy, Tags, Timing, View, Watchdog};

pub const NOW_S: u64 = 1_800_000_000;

pub fn healthy() -> Facts {
    let server = |number: usize| StoreServer {
        name: format!("http://10.0.1.{number}:2379"),
        host: format!("10.0.1.{number}"),
        addresses: [format!("10.0.1.{number}")].into(),
        state: Ok(ServerState {
            leads: number == 1,
            index: Some(5_000),
            used_bytes: Some(1 << 20),
            ..ServerState::default()
        }),
    };
    let trips = RoundTrips { read: Span::from_ms(2), write: Some(Span::from_ms(5)) };
    Facts {
        scope: "main".to_owned(),
        leader: Some("db1".to_owned()),
        timing: Timing::for_ttl(Span::from_secs(10)),
        timing_refused: None,
        paused: false,
        synchronous: false,
        members: (1..=3).map(member).collect(),
        store: Ok(StoreFacts {
            shortest_lease: Some(Span::from_secs(2)),
            longest_lease: None,
            shortest_useful: Span::ZERO,
            servers: (1..=3).map(server).collect(),
            voters: Some(3),
            round_trips: Some(trips),
        }),
        haproxy: None,
        unix_ms: NOW_S * 1000,
    }
}

fn member(number: usize) -> MemberFacts {
    let name = format!("db{number}");
    let address = format!("10.0.0.{number}");
    let policy = Policy::default();
    let mut view: View =
        Mind::new(name.parse().expect("a name"), Tags::default(), policy, true).view().clone();
    view.now = crate::model::Moment::from_ms(1_000_000);
    view.guardian = Guardian::Ready { confirmed: FenceOrder::Disarm };
    view.watchdog = Watchdog::Ready { timeout: Span::from_secs(5) };
    view.disk.free_bytes = Some(100 << 30);
    MemberFacts {
        foreign: false,
        may_lead: true,
        state: Some(if number == 1 { "running" } else { "streaming" }.to_owned()),
        pending_restart: false,
        host: Some(address.clone()),
        port: Some(5432),
        rest: Some(Rest { tls: false, host: address.clone(), port: 8008 }),
        addresses: BTreeSet::from([address]),
        view: Ok(Box::new(view)),
        clock: Some(Clock { ahead_ms: 3, within_ms: 2 }),
        told: Ok(told(number)),
        name,
    }
}

fn told(number: usize) -> HostFacts {
    let settings = [
        ("fsync", "on"),
        ("full_page_writes", "on"),
        ("synchronous_commit", "on"),
        ("data_checksums", "on"),
        ("wal_log_hints", "on"),
        ("max_wal_senders", "10"),
        ("max_replication_slots", "10"),
        ("wal_keep_size", "128"),
        ("max_slot_wal_keep_size", "-1"),
        ("wal_sender_timeout", "60000"),
        ("wal_receiver_timeout", "60000"),
    ];
    let settings: BTreeMap<String, String> =
        settings.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let admission = |other: usize| Admission {
        member: format!("db{other}"),
        address: format!("10.0.0.{other}"),
        replication: Entry::Admitted { line: 3 },
        rewind: Entry::Admitted { line: 2 },
    };
    let role = |name: &str| RoleFacts { name: name.to_owned(), lacks: Vec::new() };
    HostFacts {
        agent: "0.1.0".to_owned(),
        boot_id: Some(format!("boot {number}")),
        libc: Some("2.36".to_owned()),
        store: Some(RoundTrips { read: Span::from_ms(2), write: Some(Span::from_ms(5)) }),
        certificates: vec![Certificate {
            setting: "restapi.certfile".to_owned(),
            path: "/etc/tenure/rest.pem".to_owned(),
            ends: Ok(NOW_S + 90 * 86_400),
        }],
        disks: vec![DiskFacts {
            path: "/data".to_owned(),
            holds_wal: true,
            total_bytes: Some(200 << 30),
            free_bytes: Some(100 << 30),
        }],
        postgres: Some(PostgresFacts {
            version: 150_018,
            in_recovery: number != 1,
            settings,
            wal_bytes_per_hour: (number == 1).then_some(100 << 20),
            sorts_by_libc: true,
            libc_collation: Some("2.36".to_owned()),
            replication_role: role("replicator"),
            rewind_role: role("rewinder"),
            admissions: (1..=3).filter(|other| *other != number).map(admission).collect(),
            ..PostgresFacts::default()
        }),
        ..HostFacts::default()
    }
}

pub fn host(facts: &mut Facts, member: usize) -> &mut HostFacts {
    facts.members[member].told.as_mut().expect("told")
}

pub fn server(facts: &mut Facts, member: usize) -> &mut PostgresFacts {
    host(facts, member).postgres.as_mut().expect("it runs")
}

pub fn view(facts: &mut Facts, member: usize) -> &mut View {
    facts.members[member].view.as_mut().expect("known")
}

/// Spoilt like this, exactly these are found: check, member, and a part of what was measured.
#[track_caller]
pub fn finds(spoil: impl Fn(&mut Facts), wanted: &[(Check, &str, &str)]) -> Report {
    let mut facts = healthy();
    spoil(&mut facts);
    let report = examine(&facts);
    let found: Vec<(Check, &str)> = report
        .findings
        .iter()
        .map(|finding| (finding.check, finding.member.as_deref().unwrap_or_default()))
        .collect();
    let mut expected: Vec<(Check, &str)> =
        wanted.iter().map(|(check, member, _)| (*check, *member)).collect();
    expected.sort_by_key(|(check, member)| (check.severity(), *check, *member));
    assert_eq!(found, expected, "{:#?}", report.findings);
    for (check, _, part) in wanted {
        let said =
            report.findings.iter().any(|finding| finding.check == *check && finding.measured.contains(part));
        assert!(said, "{part}: {:#?}", report.findings);
    }
    report
}

#[track_caller]
pub fn finds_nothing(spoil: impl Fn(&mut Facts)) {
    finds(spoil, &[]);
}
