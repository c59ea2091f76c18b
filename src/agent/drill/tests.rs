//! What an agent refuses to do to itself, and what it writes down before it does the rest.

use super::*;
use crate::decide::decide;
use crate::decide::mind::Mind;
use crate::model::{
    Facts, Job, Lease, Lsn, Policy, Position, Postgres, Rule, Running, RunningJob, Serving, Synchrony,
    SystemId, Tags, Term, Timeline,
};

fn config(drills: &[Drill]) -> Config {
    let text = r#"{"scope": "lab", "name": "oulu",
        "restapi": {"listen": "127.0.0.1:8008", "connect_address": "127.0.0.1:8008"},
        "postgresql": {"listen": "127.0.0.1:5432", "connect_address": "127.0.0.1:5432", "data_dir": "/data"}}"#;
    let mut config: Config = serde_json::from_str(text).expect("a configuration");
    config.tenure.drills = drills.to_vec();
    config
}

fn leader() -> Standing {
    let mind = Mind::new("oulu".parse().expect("a name"), Tags::default(), Policy::default(), true);
    let mut view = mind.view().clone();
    view.lease = Some(Lease { term: Term(7), asked_at: clock::now(), timing: view.policy.timing });
    view.postgres = Postgres::Running(Running {
        system: SystemId(7),
        serving: Serving::Primary {
            position: Position { timeline: Timeline(2), lsn: Lsn(5) },
            checkpointed: true,
            forks: None,
        },
        silent_since: None,
        version: 150_018,
        synchrony: Synchrony::default(),
    });
    Standing { plan: decide(&view), view, facts: Facts::default() }
}

#[track_caller]
fn check(drills: &[Drill], spoil: impl Fn(&mut Standing), member: &str, wanted: &str) {
    let mut standing = leader();
    spoil(&mut standing);
    let said = match refused(&config(drills), &standing, Drill::Agent, member) {
        None => String::new(),
        Some(DrillRefusal::NotAllowed(why)) => format!("not allowed: {why}"),
        Some(DrillRefusal::NotNow(why)) => format!("not now: {why}"),
    };
    assert_eq!(said, wanted);
}

#[test]
fn only_a_leader_that_is_meant_and_allows_it_does_it() {
    let all = Drill::ALL;
    check(&all, |_| {}, "oulu", "");
    check(&all, |_| {}, "turku", "not now: this is oulu, and the drill is for turku");
    check(
        &[Drill::Host],
        |_| {},
        "oulu",
        "not allowed: oulu does not allow a drill of agent: set tenure.drills: [host, agent] in its configuration and reload",
    );
    let does_not_lead = "not now: oulu does not lead: a drill is for the primary";
    check(&all, |standing| standing.view.lease = None, "oulu", does_not_lead);
    check(&all, |standing| standing.view.postgres = Postgres::Empty, "oulu", does_not_lead);
    let late = |standing: &mut Standing| {
        let lease = standing.view.lease.as_mut().expect("it leads");
        lease.asked_at = clock::now() - lease.timing.ttl;
    };
    check(&all, late, "oulu", does_not_lead);
    let paused = "not now: maintenance mode is on: nothing would be done about the fault";
    check(&all, |standing| standing.view.policy.pause = true, "oulu", paused);
    check(&all, |standing| standing.view.ending = true, "oulu", "not now: the agent of oulu is ending");
    let works = |standing: &mut Standing| {
        let since = clock::now();
        standing.view.work.job = Some(RunningJob {
            job: Job::Checkpoint,
            reason: Rule::LeaderStays.into(),
            since,
            cancelled: false,
        });
    };
    check(&all, works, "oulu", "not now: checkpoint is under way on oulu");
}

#[tokio::test]
async fn a_machine_without_an_armed_device_is_not_left_without_its_guardian() {
    let fence = fence::Settings { socket: "/nowhere".into(), data_dir: "/data".into(), binary: None };
    let mut standing = leader();
    for (watchdog, wanted) in [
        (Watchdog::Off, "the watchdog device is off: nothing would reset this machine"),
        (Watchdog::Armed { timeout: Span::from_secs(5), stays: false }, "the guardian does not answer"),
    ] {
        standing.view.watchdog = watchdog;
        match prepare(Drill::Host, &standing, None, &fence).await {
            Err(DrillRefusal::NotNow(why)) => assert_eq!(why, wanted),
            other => panic!("{other:?}"),
        }
    }
    let nobody = prepare(Drill::Postmaster, &standing, None, &fence).await;
    assert!(matches!(nobody, Err(DrillRefusal::NotNow(_))), "{nobody:?}");
}

#[test]
fn who_has_asked_and_why_is_told_with_what_is_done() {
    let note = Note { by: "anna@ops1".to_owned(), why: Some("quarterly".to_owned()), at: String::new() };
    let wanted = "anna@ops1 has asked for a drill (quarterly): the postmaster of this PostgreSQL is killed";
    assert_eq!(sentence(Drill::Postmaster, &note), wanted);
}

/// A device that does not fire has been found out, and PostgreSQL is not left without its guardian.
#[tokio::test]
async fn a_guardian_whose_device_does_not_fire_goes_on() {
    let mut guardian = std::process::Command::new("sleep").arg("60").spawn().expect("it is installed");
    let pid = Pid::from_raw(i32::try_from(guardian.id()).expect("a pid"));
    let state = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it is there");
        stat.rsplit(") ").next().and_then(|rest| rest.chars().next())
    };
    let stopped = async {
        while state() != Some('T') {
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(stop_guardian(pid, Span::from_ms(200)), stopped);
    assert_ne!(state(), Some('T'));
    guardian.kill().and_then(|()| guardian.wait()).expect("our own child");
}
