//! Whoever has lost its lease writes nothing that a client would believe, whatever hangs or dies. In each of these tests a
//! client of the old primary, on its own machine, writes all the time.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use tenure::model::{Span, Timing};

use super::support::lab::{Lab, Setup, in_lab};
use super::support::wait_for;
use super::support::watchdog_device::{Happening, WatchdogDevice};
use super::support::writer::Writer;
use super::{founded, others, passes};

/// Three lease times: clients are still connected to the old primary, if it lives.
const THREE_TERMS: Span = Span::from_secs(15);
/// A guardian that is killed may be about to answer.
const ASKED_WHILE_IT_DIED: &str = "ask the guardian: no answer";

/// A cluster with a client that writes anywhere and one that writes to the leader whatever happens.
async fn written_to(lab: &mut Lab) -> (usize, [Writer; 2]) {
    let leader = founded(lab).await;
    let writers = [lab.write_anywhere(), lab.write_at(leader)];
    lab.more_rows(100).await;
    (leader, writers)
}

async fn one_history(lab: &mut Lab, writers: [Writer; 2]) {
    let next = lab.healthy().await;
    drop(writers);
    lab.missing_rows(next).await;
    lab.ledger.check_one_history_at_a_time();
}

/// What a guardian said of one kill.
#[derive(Clone, Copy, Debug)]
struct Killed {
    begun_after_fence_at: Span,
    took: Span,
}

impl Killed {
    fn parse(line: &str) -> Option<Killed> {
        let (_, rest) = line.split_once(" in all, begun ")?;
        let (begun, rest) = rest.split_once(" after the deadline, nothing left after ")?;
        Some(Killed { begun_after_fence_at: span(begun)?, took: span(rest)? })
    }
}

/// As a `Span` is shown.
fn span(text: &str) -> Option<Span> {
    let (number, unit) = text.trim().split_once(' ')?;
    let number: f64 = number.parse().ok()?;
    let time = Duration::from_secs_f64(if unit == "ms" { number / 1000.0 } else { number });
    u64::try_from(time.as_millis()).ok().map(Span::from_ms)
}

/// The law of the second ring: from `fence_at` to the last backend's end there is no more time than the kill budget.
fn kill_was_in_time(lab: &Lab, node: usize) {
    let kills: Vec<Killed> = lab.nodes[node].log().lines().filter_map(Killed::parse).collect();
    println!("the guardian of {} has killed: {kills:?}", lab.nodes[node].name);
    let budget = Timing::for_ttl(Span::from_secs(5)).kill_budget;
    let first = kills.first().expect("the guardian says what it did");
    assert!(first.begun_after_fence_at + first.took <= budget, "{first:?}, and {budget} is allowed");
}

#[test]
fn a_frozen_agent_is_fenced_by_its_guardian() {
    in_lab(&Setup::default(), async |lab| {
        let (leader, writers) = written_to(lab).await;
        lab.nodes[leader].signal_agent(Signal::SIGSTOP);
        lab.leader_among(&others(leader)).await;
        lab.more_rows(100).await;
        passes(THREE_TERMS).await;
        kill_was_in_time(lab, leader);
        lab.nodes[leader].signal_agent(Signal::SIGCONT);
        one_history(lab, writers).await;
    });
}

#[test]
fn an_agent_that_dies_for_good_is_fenced_by_its_guardian() {
    in_lab(&Setup::default(), async |lab| {
        let (leader, writers) = written_to(lab).await;
        lab.nodes[leader].kill_agent();
        let next = lab.leader_among(&others(leader)).await;
        lab.more_rows(100).await;
        passes(THREE_TERMS).await;
        kill_was_in_time(lab, leader);
        assert_eq!(lab.healthy_among(&others(leader)).await, next);
        lab.nodes[leader].start_agent();
        one_history(lab, writers).await;
    });
}

#[test]
fn a_killed_guardian_is_replaced_and_armed_before_it_could_matter() {
    in_lab(&Setup::default(), async |lab| {
        let (leader, writers) = written_to(lab).await;
        let first = lab.nodes[leader].guardian_pid().expect("a leader has one");
        lab.expected.push(ASKED_WHILE_IT_DIED);
        kill(first, Signal::SIGKILL).expect("it runs");
        wait_for("another guardian, armed", async || {
            let second = lab.nodes[leader].guardian_pid().filter(|pid| *pid != first)?;
            (lab.nodes[leader].status()?["tenure"]["guardian"] == "armed").then_some(second)
        })
        .await;
        lab.more_rows(100).await;
        assert_eq!(lab.healthy().await, leader, "nobody had a reason to take over");
        // It does its duty like the first one.
        lab.nodes[leader].signal_agent(Signal::SIGSTOP);
        lab.leader_among(&others(leader)).await;
        lab.more_rows(100).await;
        kill_was_in_time(lab, leader);
        lab.nodes[leader].signal_agent(Signal::SIGCONT);
        one_history(lab, writers).await;
    });
}

#[test]
fn a_primary_whose_guardian_cannot_come_back_steps_down() {
    in_lab(&Setup::default(), async |lab| {
        let (leader, writers) = written_to(lab).await;
        lab.expected.extend(["start the guardian", ASKED_WHILE_IT_DIED]);
        let program = lab.nodes[leader].dir.with_file_name("bin").join("tenure-fence");
        let elsewhere = program.with_extension("away");
        std::fs::rename(&program, &elsewhere).expect("our own copy");
        let guardian = lab.nodes[leader].guardian_pid().expect("a leader has one");
        kill(guardian, Signal::SIGKILL).expect("it runs");
        lab.leader_among(&others(leader)).await;
        lab.more_rows(100).await;
        std::fs::rename(&elsewhere, &program).expect("our own copy");
        one_history(lab, writers).await;
    });
}

/// The third ring. Nobody on the old primary's machine can act but its watchdog.
#[test]
fn a_frozen_agent_with_a_frozen_guardian_is_reset_by_the_watchdog() {
    if !WatchdogDevice::available() {
        println!("not run: a device over FUSE needs root and /dev/fuse");
        return;
    }
    in_lab(&Setup { watchdogs: true, ..Setup::default() }, async |lab| {
        let (leader, writers) = written_to(lab).await;
        let armed = lab.nodes[leader].status().expect("it answers")["tenure"]["watchdog"].clone();
        assert_eq!(armed, "armed, 2 s");
        let guardian = lab.nodes[leader].guardian_pid().expect("a leader has one");
        lab.nodes[leader].signal_agent(Signal::SIGSTOP);
        kill(guardian, Signal::SIGSTOP).expect("it runs");
        lab.leader_among(&others(leader)).await;
        lab.more_rows(100).await;
        passes(THREE_TERMS).await;
        let watchdog = |node: usize| lab.nodes[node].watchdog.as_ref().expect("every node has one");
        assert_eq!(watchdog(leader).count(Happening::Expired), 1, "{:?}", watchdog(leader).log().last());
        for other in others(leader) {
            assert_eq!(watchdog(other).count(Happening::Expired), 0);
        }
        lab.nodes[leader].power_off();
        lab.nodes[leader].start_agent();
        one_history(lab, writers).await;
    });
}

#[test]
fn a_planned_switchover_resets_nobody() {
    if !WatchdogDevice::available() {
        println!("not run: a device over FUSE needs root and /dev/fuse");
        return;
    }
    in_lab(&Setup { watchdogs: true, ..Setup::default() }, async |lab| {
        let (leader, writers) = written_to(lab).await;
        let next = others(leader)[0];
        let wish = serde_json::json!({"leader": lab.nodes[leader].name, "candidate": lab.nodes[next].name});
        let (status, text) =
            lab.nodes[leader].request("POST", "/switchover", &wish.to_string()).expect("an answer");
        assert_eq!(status, 200, "{text}");
        assert_eq!(lab.healthy().await, next);
        passes(THREE_TERMS).await;
        for node in &lab.nodes {
            let watchdog = node.watchdog.as_ref().expect("every node has one");
            assert_eq!(watchdog.count(Happening::Expired), 0, "{}", node.name);
            assert_eq!(watchdog.count(Happening::ClosedRunning), 0, "{}", node.name);
        }
        let runs = |node: usize| lab.nodes[node].watchdog.as_ref().is_some_and(WatchdogDevice::runs);
        assert!(runs(next) && !runs(leader));
        one_history(lab, writers).await;
    });
}
