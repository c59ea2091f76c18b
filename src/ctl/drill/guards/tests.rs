//! Each guard, on a cluster in which all of them let a drill through, spoilt in one way.

use serde_json::json;

use super::*;
use crate::ctl::cluster::Cluster;
use crate::ctl::cluster::fixtures::cluster;
use crate::ctl::drill::situation;
use crate::ctl::drill::writer::Served;
use crate::doctor::fixtures::{healthy, host, server, view};
use crate::doctor::{Facts, Untold};
use crate::model::{
    FenceOrder, Guardian, Job, Lease, Lsn, Moment, Position, Postgres, Rule, Running, RunningJob, Serving,
    Span, Synchrony, SystemId, Term, Timeline, WatchdogFailure,
};

const LEADER: usize = 0;
const OTHER: usize = 1;
const THIRD: usize = 2;

struct Scene {
    facts: Facts,
    cluster: Cluster,
    route: Result<Served, String>,
    said: Said,
}

fn running(serving: Serving) -> Postgres {
    Postgres::Running(Running {
        system: SystemId(7),
        serving,
        silent_since: None,
        version: 150_018,
        synchrony: Synchrony::default(),
    })
}

fn standby(received: u64) -> Postgres {
    running(Serving::Standby {
        timeline: Timeline(2),
        received: Some(Lsn(received)),
        replayed: Some(Lsn(received)),
        streaming: true,
        upstream: None,
        forks: None,
        starved: false,
    })
}

fn keys() -> Vec<(&'static str, &'static str)> {
    vec![
        ("leader", "db1"),
        ("config", "{}"),
        ("members/db1", "{}"),
        ("members/db2", "{}"),
        ("members/db3", "{}"),
    ]
}

fn scene() -> Scene {
    let mut facts = healthy();
    for member in [LEADER, OTHER, THIRD] {
        let view = view(&mut facts, member);
        view.store.contact = Contact::Current;
        view.postgres = standby(5_000_000);
    }
    let leads = view(&mut facts, LEADER);
    leads.lease = Some(Lease { term: Term(7), asked_at: leads.now, timing: leads.policy.timing });
    let fence_at = leads.now + Span::from_secs(9);
    leads.guardian = Guardian::Ready { confirmed: FenceOrder::Arm { term: Term(7), fence_at } };
    leads.watchdog = Watchdog::Armed { timeout: Span::from_secs(5), stays: false };
    let position = Position::new(2, 5_000_000);
    leads.postgres = running(Serving::Primary { position, checkpointed: true, forks: None });
    host(&mut facts, LEADER).drills = Drill::ALL.to_vec();
    server(&mut facts, LEADER).archives = true;
    let served = Served {
        server: "10.0.0.1:5432".to_owned(),
        in_recovery: false,
        system: Some(7),
        synchronous_commit: "on".to_owned(),
        may_create: Some(true),
    };
    Scene { facts, cluster: cluster(&keys()), route: Ok(served), said: Said::default() }
}

fn look(fault: Fault, spoil: impl Fn(&mut Scene)) -> Vec<Checked> {
    let mut scene = scene();
    spoil(&mut scene);
    let Scene { facts, cluster, route, said } = scene;
    let situation = situation::told(facts, cluster, route);
    // Nobody has told a snapshot of the store here, so that the rules foresee nothing.
    examine(fault, &situation, &said, Time::constant(3, 0, 0, 0))
}

fn refusing(fault: Fault, spoil: impl Fn(&mut Scene)) -> Vec<(&'static str, String)> {
    let told = |one: Checked| match one.found {
        Found::Fails { measured, remedy } if !one.overridden => {
            assert!(!remedy.is_empty());
            Some((one.guard.code(), measured))
        }
        Found::Fails { .. } | Found::Holds(_) => None,
    };
    look(fault, spoil).into_iter().filter_map(told).collect()
}

/// Spoilt like this, these guards refuse and no others; the first one has measured this.
#[track_caller]
fn check(fault: Fault, spoil: impl Fn(&mut Scene), guards: &[&str], part: &str) {
    let refusing = refusing(fault, spoil);
    let codes: Vec<&str> = refusing.iter().map(|(code, _)| *code).collect();
    assert_eq!(codes, guards, "{refusing:#?}");
    assert!(refusing.first().is_none_or(|(_, measured)| measured.contains(part)), "{refusing:#?}");
}

#[test]
fn a_cluster_where_all_is_well_is_drilled() {
    for fault in [Fault::Switchover, Fault::Postmaster, Fault::Agent, Fault::Host] {
        check(fault, |_| {}, &[], "");
        assert_eq!(look(fault, |_| {}).len(), Guard::ALL.len());
    }
}

#[test]
fn without_a_healthy_leader_there_is_no_drill() {
    let spoilt =
        |spoil: fn(&mut Scene), guards: &[&str], part: &str| check(Fault::Agent, spoil, guards, part);
    let leader = |spoil: fn(&mut Scene), part: &str| spoilt(spoil, &["leader"], part);
    leader(|s| view(&mut s.facts, LEADER).lease = None, "holds no lease");
    leader(
        |s| view(&mut s.facts, LEADER).store.contact = Contact::Silent { since: Moment::default() },
        "does not answer db1",
    );
    let silent = |s: &mut Scene| {
        let Postgres::Running(running) = &mut view(&mut s.facts, LEADER).postgres else { panic!("it runs") };
        running.silent_since = Some(Moment::default());
    };
    leader(silent, "does not answer");
    let down = |s: &mut Scene| s.facts.members[LEADER].view = Err("no answer in time".to_owned());
    spoilt(down, &["leader", "guardian"], "no answer in time");
    spoilt(
        |s| view(&mut s.facts, LEADER).guardian = Guardian::Absent,
        &["guardian", "doctor"],
        "is not armed",
    );
    spoilt(
        |s| view(&mut s.facts, LEADER).guardian = Guardian::Ready { confirmed: FenceOrder::Disarm },
        &["guardian"],
        "is not armed",
    );
}

#[test]
fn only_what_the_leader_allows_is_done_to_it() {
    let only_agent = |s: &mut Scene| host(&mut s.facts, LEADER).drills = vec![Drill::Agent];
    check(Fault::Agent, only_agent, &[], "");
    check(Fault::Switchover, only_agent, &[], "");
    check(Fault::Host, only_agent, &["allowed"], "does not allow a drill of host");
    let checked = look(Fault::Host, only_agent);
    let remedy = "set tenure.drills: [agent, host] in its configuration, and `tenurectl reload`";
    assert!(
        checked.iter().any(|one| matches!(&one.found, Found::Fails { remedy: said, .. } if said == remedy))
    );
    let patronis = |s: &mut Scene| {
        let member = &mut s.facts.members[LEADER];
        (member.foreign, member.view, member.told) =
            (true, Err("Patroni's".to_owned()), Err(Untold::NotOurs));
        s.said.backup_checked = true;
    };
    check(Fault::Switchover, patronis, &[], "");
    check(Fault::Agent, patronis, &["allowed"], "one of Patroni's");
}

#[test]
fn somebody_must_be_able_to_take_over_and_somebody_must_be_left() {
    let fault = Fault::Postmaster;
    let lags = |s: &mut Scene, member: usize| view(&mut s.facts, member).postgres = standby(100);
    check(fault, |s| lags(s, OTHER), &["spare", "standbys"], "only db3");
    check(
        fault,
        |s| {
            lags(s, OTHER);
            lags(s, THIRD);
        },
        &["candidate", "spare", "standbys"],
        "db2: it is",
    );
    let overridden = |s: &mut Scene| {
        lags(s, OTHER);
        s.said.overridden = vec![Guard::Spare, Guard::Standbys];
    };
    check(fault, overridden, &[], "");
    assert_eq!(look(fault, overridden).iter().filter(|one| one.overridden).count(), 2);
    check(fault, |s| s.facts.members[OTHER].may_lead = false, &["spare", "standbys"], "only db3");
    let elsewhere = |s: &mut Scene| {
        let Postgres::Running(running) = &mut view(&mut s.facts, OTHER).postgres else { panic!("it runs") };
        let Serving::Standby { timeline, .. } = &mut running.serving else { panic!("it follows") };
        *timeline = Timeline(1);
    };
    check(fault, elsewhere, &["spare", "standbys"], "only db3");
    check(
        fault,
        |s| view(&mut s.facts, OTHER).postgres = Postgres::Empty,
        &["spare", "standbys"],
        "only db3",
    );
    check(
        fault,
        |s| s.facts.members.truncate(1),
        &["candidate", "spare", "doctor"],
        "there is no other member",
    );
    let candidate = |name: &'static str| move |s: &mut Scene| s.said.candidate = Some(name.to_owned());
    check(Fault::Switchover, candidate("db2"), &[], "");
    check(Fault::Switchover, candidate("db9"), &["candidate"], "db9 is no other member");
    let late = |s: &mut Scene| {
        lags(s, OTHER);
        candidate("db2")(s);
    };
    check(Fault::Switchover, late, &["candidate", "spare", "standbys"], "db2 could not take over");
}

#[test]
fn the_store_must_have_one_server_to_spare() {
    let fault = Fault::Agent;
    let down = |s: &mut Scene, server: usize| {
        s.facts.store.as_mut().expect("known").servers[server].state = Err("no answer".to_owned());
    };
    check(
        fault,
        |s| down(s, 1),
        &["store"],
        "2 of 3 servers of the store answer, and 2 are needed: none may fail",
    );
    let alone = |s: &mut Scene| {
        let store = s.facts.store.as_mut().expect("known");
        store.voters = Some(1);
        store.servers.truncate(1);
    };
    check(fault, alone, &["store"], "1 of 1");
    check(fault, |s| s.facts.store = Err("no answer".to_owned()), &["store", "doctor"], "does not answer");
    let overridden = |s: &mut Scene| {
        alone(s);
        s.said.overridden = vec![Guard::Store];
    };
    check(fault, overridden, &[], "");
}

#[test]
fn nothing_else_may_be_going_on() {
    let fault = Fault::Switchover;
    check(fault, |s| s.facts.paused = true, &["paused"], "maintenance mode is on");
    let with = |key: &'static str, value: &'static str| {
        move |s: &mut Scene| {
            let mut keys = keys();
            keys.retain(|(known, _)| *known != key);
            keys.push((key, value));
            s.cluster = cluster(&keys);
        }
    };
    let at = r#"{"leader":"db1","scheduled_at":"2100-01-01T10:00:00+00:00"}"#;
    check(fault, with("failover", at), &["scheduled"], "a switchover is scheduled at 2100");
    check(fault, with("failover", r#"{"leader":"db1","member":"db2"}"#), &["under_way"], "is asked for");
    let restart = json!({"scheduled_restart": {"schedule": "2100-01-01T10:00:00+00:00"}}).to_string();
    let restart: &'static str = Box::leak(restart.into_boxed_str());
    check(fault, with("members/db2", restart), &["scheduled"], "a restart of db2");
    let works = |s: &mut Scene| {
        let since = Moment::default();
        let reason = Rule::FollowsLeader.into();
        view(&mut s.facts, OTHER).work.job =
            Some(RunningJob { job: Job::Checkpoint, reason, since, cancelled: false });
    };
    check(fault, works, &["under_way"], "db2: checkpoint");
    let standby_cluster = with("config", r#"{"standby_cluster": {"host": "elsewhere"}}"#);
    let follows = |s: &mut Scene| {
        standby_cluster(s);
        view(&mut s.facts, LEADER).policy.follows = Some(crate::model::Remote::default());
    };
    check(fault, follows, &["writable"], "a standby cluster");
}

#[test]
fn a_host_is_only_drilled_where_its_watchdog_is_armed() {
    let failed = |s: &mut Scene| {
        view(&mut s.facts, LEADER).watchdog = Watchdog::Failed(WatchdogFailure::Absent);
    };
    check(Fault::Host, failed, &["watchdog"], "there is no such device");
    check(
        Fault::Host,
        |s| view(&mut s.facts, LEADER).watchdog = Watchdog::Ready { timeout: Span::from_secs(5) },
        &["watchdog"],
        "is ready",
    );
    check(Fault::Postmaster, failed, &[], "");
}

#[test]
fn somebody_has_seen_a_backup() {
    let fault = Fault::Postmaster;
    check(fault, |s| server(&mut s.facts, LEADER).archives = false, &["backup"], "WAL is not archived");
    let fails =
        |s: &mut Scene| server(&mut s.facts, LEADER).archive_fails_at = Some("000000010000".to_owned());
    check(fault, fails, &["backup"], "archiving fails at 000000010000");
    let said = |s: &mut Scene| {
        fails(s);
        s.said.backup_checked = true;
    };
    check(fault, said, &[], "");
}

#[test]
fn what_the_doctor_finds_is_looked_at_first() {
    let fault = Fault::Agent;
    let open = |s: &mut Scene| host(&mut s.facts, OTHER).readable_secrets = vec!["/etc/x".to_owned()];
    check(fault, open, &["doctor"], "secret_readable on db2");
    let overridden = |s: &mut Scene| {
        open(s);
        s.said.overridden = vec![Guard::Doctor];
    };
    check(fault, overridden, &[], "");
}

#[test]
fn the_route_must_lead_to_the_primary_of_this_cluster() {
    let fault = Fault::Agent;
    let served =
        |spoil: fn(&mut Served)| move |s: &mut Scene| spoil(s.route.as_mut().expect("it leads there"));
    check(fault, |s| s.route = Err("connect to x: refused".to_owned()), &["route"], "refused");
    check(fault, served(|served| served.in_recovery = true), &["route"], "which is a standby");
    check(fault, served(|served| served.system = Some(8)), &["route"], "of another cluster");
    check(fault, served(|served| served.may_create = Some(false)), &["route"], "may not make a table");
    check(fault, served(|served| served.may_create = None), &["route"], "no such schema");
    check(fault, served(|served| served.system = None), &[], "");
}

#[test]
fn a_window_is_a_part_of_the_day_and_may_go_over_midnight() {
    let holds = |window: &str, hour: i8, minute: i8| {
        window.parse::<Window>().expect(window).holds(Time::constant(hour, minute, 0, 0))
    };
    assert!(holds("02:00-04:00", 2, 0) && holds("02:00-04:00", 3, 59));
    assert!(!holds("02:00-04:00", 4, 0) && !holds("02:00-04:00", 1, 59));
    assert!(holds("23:30-01:00", 23, 30) && holds("23:30-01:00", 0, 59));
    assert!(!holds("23:30-01:00", 1, 0) && !holds("23:30-01:00", 12, 0));
    for wrong in ["", "2-4", "02:00", "02:00-02:00", "25:00-26:00", "night"] {
        assert!(wrong.parse::<Window>().is_err(), "{wrong}");
    }
    let window = |text: &'static str| move |s: &mut Scene| s.said.window = text.parse().ok();
    check(Fault::Agent, window("02:00-04:00"), &[], "");
    check(Fault::Agent, window("04:00-05:00"), &["window"], "it is 03:00 here, outside of 04:00-05:00");
}

#[test]
fn only_some_guards_can_be_overridden_and_only_by_their_names() {
    for guard in Guard::ALL {
        assert_eq!(guard.code().parse::<Guard>().ok(), guard.may_be_overridden().then_some(*guard));
    }
    let names = "spare, standbys, store, scheduled, backup, doctor";
    assert!("leader".parse::<Guard>().expect_err("absolute").contains(names));
    assert!("rain".parse::<Guard>().expect_err("no such").contains(names));
    // Named all the same, it refuses all the same.
    let both = |s: &mut Scene| {
        s.facts.paused = true;
        s.said.overridden = vec![Guard::Paused];
    };
    check(Fault::Agent, both, &["paused"], "");
}
