//! PostgreSQL here accepts writes, or is about to, and this member may not act on a lease.

use super::{Choice, last_moment_for_order, sync, take_lease};
use crate::model::{Cluster, Contact, Errand, Guardian, Initialize, Job, Reason, Rule, Span, View};

/// A primary that was found in a cluster that follows another one may take its time.
const STOP_BUDGET: Span = Span::from_secs(30);

pub(super) fn choose(view: &View) -> Choice {
    let by = last_moment_for_order(view);
    if view.lease.is_some() {
        return if view.now < by {
            Choice::run(Rule::LeaseRanOut, Job::StopFast { by }).again_in(view.now.until(by))
        } else {
            Choice::run(Rule::LeaseRanOut, Job::StopAtOnce)
        };
    }
    match (view.store.contact, view.cluster()) {
        (Contact::Current, Some(cluster)) => current(view, cluster),
        (Contact::Current | Contact::Never | Contact::Silent { .. }, _) => unknown(view),
    }
}

/// The store tells who leads.
fn current(view: &View, cluster: &Cluster) -> Choice {
    match &cluster.leader {
        Some(leader) if leader.name != view.me => {
            Choice::run(Reason::about(Rule::OtherLeads, &leader.name), Job::StopAtOnce)
        }
        // A restarted agent: the key hangs on the session that it has taken up again, or the guardian still counts.
        Some(leader) if !view.memory.has_led => {
            let ours = leader.session.is_some() && leader.session == view.session.map(|session| session.id);
            if (ours && view.guardian != Guardian::Absent) || view.guardian.watches(leader.term, view.now) {
                Choice::wait(Rule::ReturnsToLease)
            } else {
                Choice::run(Rule::LeaseLost, Job::StopAtOnce)
            }
        }
        Some(_) => Choice::run(Rule::LeaseLost, Job::StopAtOnce),
        None if view.memory.has_led || view.work.job.is_some() => {
            Choice::run(Rule::LeaseLost, Job::StopAtOnce)
        }
        None => found_running(view, cluster),
    }
}

/// A primary that this agent has found when it started, and nobody leads.
fn found_running(view: &View, cluster: &Cluster) -> Choice {
    let Some(running) = view.postgres.running() else {
        return if view.memory.managed {
            Choice::run(Rule::PrimaryBarred, Job::StopAtOnce)
        } else {
            Choice::wait(Rule::LeaderStarting)
        };
    };
    if view.policy.follows.is_some() {
        return Choice::run(Rule::PrimaryBarred, Job::StopFast { by: view.now + STOP_BUDGET });
    }
    let timeline = running.position().map(|position| position.timeline);
    match cluster.initialize {
        Initialize::Absent => {
            return Choice::store(Rule::AdoptsData, Errand::FinishInitialize { system: running.system });
        }
        Initialize::Done(system) if system == running.system => {}
        Initialize::Done(_) | Initialize::Running | Initialize::Unrecognized => {
            return Choice::wait(Rule::ForeignData);
        }
    }
    match timeline {
        Some(timeline)
            if cluster.highest_timeline() <= timeline
                && !view.tags.nofailover()
                && !sync::barred(view, cluster, &view.me) =>
        {
            if view.guardian == Guardian::Absent {
                Choice::wait(Rule::CandidateWithoutGuardian)
            } else if view.lacks_watchdog() {
                Choice::wait(Rule::CandidateWithoutWatchdog)
            } else {
                Choice::store(Rule::PrimaryTakesLease, take_lease(cluster, timeline))
            }
        }
        Some(_) => Choice::run(Rule::PrimaryBarred, Job::StopAtOnce),
        None => Choice::wait(Rule::LooksAtPostgres),
    }
}

/// Nobody can tell who leads.
fn unknown(view: &View) -> Choice {
    let guarded = view.guardian.is_armed(view.now);
    if !view.memory.has_led && guarded {
        return Choice::wait(Rule::ReturnsToLease);
    }
    let fresh_start = !view.memory.has_led && !view.memory.managed && view.work.job.is_none();
    if fresh_start {
        // Nothing of ours ever made this a primary: it is not ours to stop before the store has been heard.
        Choice::wait(Rule::WaitsForStore)
    } else {
        Choice::run(Rule::LeaseLost, Job::StopAtOnce)
    }
}
