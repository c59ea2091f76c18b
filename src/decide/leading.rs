//! This member holds the lease and may act on it.

use super::fault::{self, Fault};
use super::{Choice, handover, may_try_again, shows_our_term, unfit, until_demotion};
use crate::model::{
    Cluster, Control, Errand, Guardian, Job, Lease, Postgres, Rule, Running, Serving, Span, Timeline, View,
    Watchdog,
};

/// After so many failures in a row somebody else should try.
const STARTS_MAX: u32 = 3;
const PROMOTIONS_MAX: u32 = 3;
/// A first checkpoint that failed is tried again after this.
const CHECKPOINT_BACKOFF: Span = Span::from_secs(5);

pub(super) fn choose(view: &View, cluster: &Cluster, lease: &Lease) -> Choice {
    let release = || Errand::ReleaseLease { term: lease.term };
    let choice = match &view.postgres {
        Postgres::Running(running) => match &running.serving {
            Serving::Primary { checkpointed, .. } => primary(view, cluster, lease, running, *checkpointed),
            Serving::Standby { timeline, .. } => standby(view, cluster, lease, *timeline),
        },
        Postgres::Starting { since, .. } if view.policy.primary_start_timeout < view.now.since(*since) => {
            Choice::run(Rule::LeaderGivesUp, Job::StopAtOnce)
        }
        Postgres::Starting { .. } => Choice::wait(Rule::LeaderStarting),
        Postgres::Stopped { control } => stopped(view, cluster, lease, control),
        Postgres::Empty | Postgres::Unfinished { .. } | Postgres::Unusable { .. } => {
            Choice::store(Rule::LeaderHasNoData, release())
        }
        Postgres::Unobserved => Choice::wait(Rule::LooksAtPostgres),
    };
    choice.again_in(until_demotion(view))
}

fn primary(view: &View, cluster: &Cluster, lease: &Lease, running: &Running, checkpointed: bool) -> Choice {
    if view.guardian == Guardian::Absent {
        return Choice::wait(Rule::LeaderWithoutGuardian);
    }
    if view.lacks_armed_watchdog() {
        return Choice::wait(Rule::LeaderWithoutWatchdog);
    }
    if unfit(view, running) {
        return Choice::wait(Rule::LeaderUnfit);
    }
    if view.cut_off() {
        return Choice::wait(Rule::LeaderOutlivesSilence);
    }
    if !shows_our_term(view, cluster, lease) {
        return Choice::wait(Rule::LeaderAwaitsSnapshot);
    }
    // PostgreSQL that crashed in the middle of its promotion may come back on the timeline before.
    if running.position().is_some_and(|position| position.timeline < cluster.highest_timeline()) {
        return Choice::run(Rule::LeaderOnOldTimeline, Job::StopAtOnce);
    }
    if let Some(choice) = handover::requested(view, cluster, running) {
        return choice;
    }
    let failed_lately =
        view.memory.failures.last_at.is_some_and(|last| view.now.since(last) < CHECKPOINT_BACKOFF);
    if !checkpointed && !failed_lately {
        return Choice::run(Rule::LeaderCheckpoints, Job::Checkpoint);
    }
    Choice::wait(Rule::LeaderStays)
}

fn standby(view: &View, cluster: &Cluster, lease: &Lease, timeline: Timeline) -> Choice {
    if view.cut_off() || !shows_our_term(view, cluster, lease) {
        return Choice::wait(Rule::LeaderAwaitsSnapshot);
    }
    let failures = view.memory.failures.promotions;
    if !may_try_again(view, failures) {
        return if PROMOTIONS_MAX <= failures {
            Choice::store(Rule::LeaderGivesUp, Errand::ReleaseLease { term: lease.term })
        } else {
            Choice::wait(Rule::LeaderPromotes)
        };
    }
    match &cluster.claim {
        Some(claim) if claim.value.by == view.me && timeline < claim.value.timeline => {
            if view.is_guarded(lease.term) || fault::active(Fault::LeadsUnguarded) {
                Choice::run(
                    Rule::LeaderPromotes,
                    Job::Promote { term: lease.term, timeline: claim.value.timeline },
                )
            } else {
                unguarded(view, lease)
            }
        }
        Some(_) | None => Choice::store(Rule::LeaderHasNoClaim, Errand::ReleaseLease { term: lease.term }),
    }
}

fn stopped(view: &View, cluster: &Cluster, lease: &Lease, control: &Control) -> Choice {
    if view.cut_off() || !shows_our_term(view, cluster, lease) {
        return Choice::wait(Rule::LeaderAwaitsSnapshot);
    }
    if let Some(choice) = handover::stopped(view, cluster, lease, control) {
        return choice;
    }
    if STARTS_MAX <= view.memory.failures.starts {
        return Choice::store(Rule::LeaderGivesUp, Errand::ReleaseLease { term: lease.term });
    }
    if !may_try_again(view, view.memory.failures.starts) {
        return Choice::wait(Rule::LeaderStarting);
    }
    let newest = control.position().timeline == cluster.highest_timeline()
        || fault::active(Fault::RestartsOnOldTimeline);
    if !control.was_primary() || !newest {
        return Choice::run(Rule::LeaderStartsStandby, Job::StartStandby { upstream: None });
    }
    if !view.is_guarded(lease.term) && !fault::active(Fault::LeadsUnguarded) {
        return unguarded(view, lease);
    }
    Choice::run(Rule::LeaderRestarts, Job::StartPrimary { term: lease.term })
}

/// Nothing can be promoted or started: the guardian has not confirmed yet, or there is nobody to wait for. PostgreSQL does
/// not accept writes here, so somebody else may lead at once.
fn unguarded(view: &View, lease: &Lease) -> Choice {
    let unwatched = match view.watchdog {
        Watchdog::Failed(_) => view.policy.watchdog_required,
        Watchdog::Unknown | Watchdog::Off | Watchdog::Ready { .. } | Watchdog::Armed { .. } => false,
    };
    if unwatched || view.guardian == Guardian::Absent {
        Choice::store(Rule::LeaderCannotBeGuarded, Errand::ReleaseLease { term: lease.term })
    } else {
        Choice::wait(Rule::LeaderAwaitsGuardian)
    }
}
