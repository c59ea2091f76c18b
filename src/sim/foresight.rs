//! What `decide::foresight` says of a state, and what then happens: in many states, by the same seed.

use std::collections::BTreeSet;

use super::story::run;
use super::world::World;
use super::{MS, Time};
use crate::decide::foresight::{Foreseen, Live, primary_lost, store_lost, switchover};
use crate::model::{Loss, MemberName, Obstacle, Postgres, Rule, Span, View};

/// Turku leads in all of them.
const STATES: &[&str] = &[
    "healthy",
    "ttl 30\nhealthy",
    "members 2\nhealthy",
    "members 5\nhealthy",
    "tag oulu nofailover\nhealthy",
    "tag oulu nofailover\ntag vaasa nofailover\nhealthy",
    "lag at most 2048\nmembers 3\nhealthy\ncut turku to oulu\ncut turku to vaasa\nwait 5",
    "lag at most 2048\nmembers 3\nhealthy\ncut turku to oulu\nwait 5",
    "synchronous on\nhealthy\nwait 6",
    "synchronous quorum\nhealthy\nwait 6",
    "synchronous quorum 2\nhealthy\nwait 6\nkill host vaasa\nkill host oulu\nboot oulu\nwait 4",
    "watchdog required\nhealthy\nbreak watchdog oulu\nwait 2",
    "watchdog required\nhealthy\nbreak watchdog oulu\nbreak watchdog vaasa\nwait 2",
    "healthy\nstall disk oulu\nwait 8",
    "healthy\nfill disk oulu\nwait 3",
    "failsafe mode\nhealthy\nwait 12",
    "failsafe mode\nhealthy\nkill agent oulu\nwait 1\nstart oulu\nwait 2",
    "hook before promotions\nhealthy",
    "healthy\nkill host vaasa\nwait 15",
    "healthy\npause\nwait 2",
];

fn live(world: &World) -> Live {
    let mut live = Live::default();
    for host in &world.hosts {
        match &host.agent {
            Some(agent) => {
                live.views.insert(host.name.clone(), agent.mind.view().clone());
            }
            None => {
                live.silent.insert(host.name.clone());
            }
        }
    }
    live
}

fn turku() -> MemberName {
    name("turku")
}

fn name(name: &str) -> MemberName {
    name.parse().expect("a name")
}

/// Who leads after the host of the leader is lost, and how long that took.
fn what_happens(state: &str) -> (World, Option<(MemberName, Span)>) {
    let begun = run(state).0.now;
    let (world, _) = run(&format!("{state}\nkill host turku\nwait 60"));
    let leader =
        world.store.leader.as_ref().map(|leader| leader.name.clone()).filter(|name| *name != turku());
    let took = |line: &super::world::Line| -> Option<Time> {
        let who = leader.as_ref()?;
        (line.at > begun && line.who == who.as_str() && line.what.contains("take the lease"))
            .then(|| line.at - begun)
    };
    let took = world.lines.iter().find_map(took).map(|time| Span::from_ms(time / MS));
    let happened = leader.zip(took);
    (world, happened)
}

fn foresee(state: &str) -> (Foreseen, BTreeSet<MemberName>) {
    let (world, _) = run(state);
    let foreseen = primary_lost(&live(&world)).unwrap_or_else(|why| panic!("{state:?}: {why}"));
    assert_eq!(foreseen.leader, turku(), "{state:?}");
    // WAL goes on: who is further in a moment is not known, but who may lead at all is.
    let may =
        |rule: Rule| matches!(rule, Rule::CandidateTakes | Rule::CandidateYields | Rule::CandidateLacksVotes);
    let able = foreseen.members.iter().filter(|(_, reason)| may(reason.rule));
    let able = able.map(|(name, _)| name.clone()).collect();
    (foreseen, able)
}

#[test]
fn who_is_foreseen_to_take_over_does_so_in_the_time_that_was_said() {
    let mut nobody = 0;
    for state in STATES {
        let (foreseen, able) = foresee(state);
        let (world, happened) = what_happens(state);
        let told = || {
            format!("{state:?}: foreseen {foreseen:#?}, but {happened:?}\n{}", super::story::render(&world))
        };
        let Some((leader, took)) = &happened else {
            nobody += 1;
            assert!(foreseen.takes.is_empty(), "somebody was foreseen\n{}", told());
            continue;
        };
        assert!(!foreseen.takes.is_empty() && able.contains(leader), "another one was foreseen\n{}", told());
        let sum = |of: fn(&crate::decide::foresight::Phase) -> Span| {
            foreseen.phases.iter().fold(Span::ZERO, |sum, phase| sum + of(phase))
        };
        // The store looks for leases that have ended from time to time, and the loop looks at what has come in a while.
        let slack = Span::from_ms(1_500);
        assert!(sum(|phase| phase.best) <= *took + slack, "too early\n{}", told());
        assert!(*took <= sum(|phase| phase.worst) + slack, "too late\n{}", told());
        assert!(foreseen.takes.iter().all(|takes| takes.promotes), "no promotion was foreseen\n{}", told());
        let promised_nothing =
            foreseen.takes.iter().all(|takes| matches!(takes.takeover.loss, Loss::Nothing(_)));
        assert!(!promised_nothing || world.lost() == 0, "nothing was to be lost\n{}", told());
    }
    assert!(3 <= nobody, "{nobody} states in which nobody takes over");
}

/// Until systemd has started it again, which is sooner than the lease of a lost leader ends.
#[test]
fn nobody_is_foreseen_to_take_over_without_a_guardian() {
    let (foreseen, able) = foresee("healthy\nkill guardian vaasa\nwait 0.1");
    assert_eq!(foreseen.members[&name("vaasa")].rule, Rule::CandidateWithoutGuardian);
    assert_eq!(able, BTreeSet::from([name("oulu")]));
    assert_eq!(foreseen.takes.iter().map(|takes| &takes.member).collect::<Vec<_>>(), [&name("oulu")]);
}

#[test]
fn what_has_only_just_begun_is_not_taken_for_slow() {
    for state in ["healthy", "failsafe mode\nhealthy\nwait 12"] {
        let as_it_is = live(&run(state).0);
        let mut busy = as_it_is.clone();
        for view in busy.views.values_mut() {
            view.disk.unwritten_since = Some(view.now);
            if let Postgres::Running(running) = &mut view.postgres {
                running.silent_since = Some(view.now);
            }
        }
        assert_eq!(primary_lost(&busy), primary_lost(&as_it_is), "{state:?}");
        assert_eq!(store_lost(&busy), store_lost(&as_it_is), "{state:?}");

        let mut slow = busy;
        slow.views.values_mut().for_each(|view| view.now = view.now + Span::from_secs(2));
        let foreseen = primary_lost(&slow).expect("a leader in the store");
        assert!(foreseen.takes.is_empty(), "{state:?}: {foreseen:#?}");
    }
}

#[test]
fn a_store_that_is_lost_ends_a_term_but_not_in_failsafe_mode() {
    for (state, leads_on) in [
        ("healthy", false),
        ("failsafe mode\nhealthy\nwait 12", true),
        ("failsafe mode\nhealthy\nwait 12\nkill agent oulu\nwait 0.1", false),
    ] {
        let foreseen = store_lost(&live(&run(state).0)).expect("a leader that tells what it knows");
        assert_eq!(foreseen.at_the_end.is_none(), leads_on, "{state:?}: {foreseen:#?}");
        let (world, told) = run(&format!("{state}\nstore fails\nwait 25"));
        let primary =
            world.hosts[0].agent.as_ref().is_some_and(|agent| agent.mind.view().postgres.is_primary());
        assert_eq!(primary, leads_on, "{state:?}\n{told}");
        let rule = foreseen.at_the_end.map(|reason| reason.rule);
        assert_eq!(rule, (!leads_on).then_some(Rule::LeaseRanOut), "{state:?}");
    }
}

#[test]
fn a_switchover_is_foreseen_with_what_speaks_against_each_member() {
    let oulu: MemberName = "oulu".parse().expect("a name");
    for (state, obstacle) in [
        ("healthy", None),
        ("tag oulu nofailover\nhealthy", Some(Obstacle::NoFailover)),
        ("watchdog required\nhealthy\nbreak watchdog oulu\nwait 2", Some(Obstacle::CannotBeFenced)),
        ("healthy\nstall disk oulu\nwait 8", Some(Obstacle::Unfit)),
    ] {
        let foreseen = switchover(&live(&run(state).0), &oulu).expect("a leader that tells what it knows");
        assert_eq!(foreseen.obstacles[&oulu], obstacle, "{state:?}");
        assert_eq!(foreseen.to.is_some(), obstacle.is_none(), "{state:?}: {foreseen:#?}");
        let (world, told) = run(&format!("{state}\nswitchover to oulu\nwait 20"));
        let leads = world.store.leader.as_ref().is_some_and(|leader| leader.name == oulu);
        assert_eq!(leads, obstacle.is_none(), "{state:?}\n{told}");
    }
}

#[test]
fn what_cannot_be_foreseen_says_why() {
    let (world, _) = run("healthy");
    let live = live(&world);
    let only = |keep: fn(&View) -> bool| Live {
        views: live
            .views
            .iter()
            .filter(|(_, view)| keep(view))
            .map(|(n, v)| (n.clone(), v.clone()))
            .collect(),
        silent: live.views.iter().filter(|(_, view)| !keep(view)).map(|(n, _)| n.clone()).collect(),
    };
    let without_leader = only(|view| view.lease.is_none());
    // The dead leader need not have told anything.
    assert_eq!(primary_lost(&without_leader).expect("a leader in the store").takes.len(), 2);
    assert_eq!(
        store_lost(&without_leader).expect_err("no view").to_string(),
        "the leader turku does not tell what it knows"
    );
    let nobody = only(|_| false);
    assert_eq!(primary_lost(&nobody).expect_err("no view").to_string(), "no member has told what it knows");
    let to_itself = switchover(&live, &turku()).expect_err("it leads already").to_string();
    assert_eq!(to_itself, "turku is no other member of this cluster");
}
