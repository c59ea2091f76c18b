//! This member holds the lease and may act on it.

use super::fault::{self, Fault};
use super::fitness::has_hung;
use super::handover::Successor;
use super::{
    Choice, consent, fitness, handover, may_try_again, race, shows_our_term, sync, until_demotion, wishes,
};
use crate::model::{
    Cluster, Control, Errand, Fitness, Guardian, Job, Lease, Position, Postgres, Reason, Rule, Running,
    Serving, Span, Timeline, View, Watchdog,
};

/// After so many failures in a row somebody else should try.
const STARTS_MAX: u32 = 3;
const PROMOTIONS_MAX: u32 = 3;
/// A first checkpoint that failed is tried again after this.
const CHECKPOINT_BACKOFF: Span = Span::from_secs(5);

pub(super) fn choose(view: &View, cluster: &Cluster, lease: &Lease) -> Choice {
    let release = || Errand::ReleaseLease { term: lease.term };
    if let Some(choice) = wishes::took_too_long(view, lease) {
        return choice.again_in(until_demotion(view));
    }
    let choice = match &view.postgres {
        Postgres::Running(running) => match &running.serving {
            Serving::Primary { checkpointed, .. } => primary(view, cluster, lease, running, *checkpointed),
            Serving::Standby { timeline, .. } => standby(view, cluster, lease, *timeline),
        },
        Postgres::Starting { since, .. } if view.policy.primary_start_timeout < view.now.since(*since) => {
            Choice::run(Rule::LeaderGivesUp, Job::StopAtOnce)
        }
        Postgres::Starting { .. } => starting(view, cluster, lease),
        Postgres::Stopped { control } => stopped(view, cluster, lease, control),
        Postgres::Empty | Postgres::Unfinished { .. } | Postgres::Unusable { .. } => {
            Choice::store(Rule::LeaderHasNoData, release())
        }
        Postgres::Unobserved => Choice::wait(Rule::LooksAtPostgres),
    };
    choice.again_in(until_demotion(view)).again_in(handover::until_due(view))
}

fn primary(view: &View, cluster: &Cluster, lease: &Lease, running: &Running, checkpointed: bool) -> Choice {
    if view.guardian == Guardian::Absent {
        return Choice::wait(Rule::LeaderWithoutGuardian);
    }
    if view.lacks_armed_watchdog() {
        return Choice::wait(Rule::LeaderWithoutWatchdog);
    }
    if has_hung(view, running) || fitness(view) == Fitness::Unfit {
        return unfit(view, cluster, lease, running);
    }
    if let Some(choice) = sync::opens_gate(view, cluster, lease, running) {
        return choice;
    }
    if view.cut_off() {
        let by_consent = view.leads_by_consent();
        return Choice::wait(if by_consent { Rule::LeaderByConsent } else { Rule::LeaderOutlivesSilence });
    }
    if let Some(choice) = consent::store_is_back(view, cluster, running) {
        return choice;
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
    if let Some(choice) = wishes::leader(view) {
        return choice;
    }
    if let Some(choice) = sync::keep(view, cluster, lease, running) {
        return choice;
    }
    let failed_lately =
        view.memory.failures.last_at.is_some_and(|last| view.now.since(last) < CHECKPOINT_BACKOFF);
    if !checkpointed && !failed_lately && !sync::is_settling(view, cluster) {
        return Choice::run(Rule::LeaderCheckpoints, Job::Checkpoint);
    }
    if view.disk.is_full() {
        let full = || Choice::wait(Rule::LeaderDiskFull);
        return handover::because_full(view, cluster, running).unwrap_or_else(full);
    }
    Choice::wait(sync::leads(view, cluster, running))
}

/// PostgreSQL hangs, or nothing reaches its disk. Stopping it costs what waiting might save, so it is stopped only where
/// that helps: somebody else can lead, or a start in place cures it.
fn unfit(view: &View, cluster: &Cluster, lease: &Lease, running: &Running) -> Choice {
    let hung = has_hung(view, running);
    let rule = if hung { Rule::LeaderUnfit } else { Rule::LeaderDiskStalled };
    let Some(here) = running.position().filter(|_| !view.cut_off() && shows_our_term(view, cluster, lease))
    else {
        return Choice::wait(rule);
    };
    match handover::successor(view, cluster, here) {
        Successor::Ask(step) => Choice::step(rule, step),
        Successor::Asked => Choice::wait(rule),
        Successor::Somebody(to) => Choice::run(Reason::about(Rule::LeaderMakesWay, to), Job::StopAtOnce),
        Successor::Nobody if hung => Choice::run(Rule::LeaderRestartsHung, Job::StopAtOnce),
        Successor::Nobody => Choice::wait(rule),
    }
}

/// A PostgreSQL that has crashed again and again recovers once more: not while somebody else can lead.
fn starting(view: &View, cluster: &Cluster, lease: &Lease) -> Choice {
    let current = !view.cut_off() && shows_our_term(view, cluster, lease);
    if !current || fitness(view) == Fitness::Fit {
        return Choice::wait(Rule::LeaderStarting);
    }
    let here =
        Position { timeline: cluster.highest_timeline(), lsn: cluster.status.optime.unwrap_or_default() };
    match handover::successor(view, cluster, here) {
        Successor::Ask(step) => Choice::step(Rule::LeaderAsksAround, step),
        Successor::Asked => Choice::wait(Rule::LeaderAsksAround),
        Successor::Somebody(to) => Choice::run(Reason::about(Rule::LeaderMakesWay, to), Job::StopAtOnce),
        Successor::Nobody => Choice::wait(Rule::LeaderStarting),
    }
}

pub(super) fn standby(view: &View, cluster: &Cluster, lease: &Lease, timeline: Timeline) -> Choice {
    if view.cut_off() || !shows_our_term(view, cluster, lease) {
        return Choice::wait(Rule::LeaderAwaitsSnapshot);
    }
    let failures = view.memory.failures.promotions;
    if !may_try_again(view, failures) {
        return if PROMOTIONS_MAX <= failures {
            // As long as it is named everybody else leaves the lease to it.
            let named = (cluster.failover.as_ref()).filter(|_| race::named(cluster) == Some(&view.me));
            match named {
                Some(request) => {
                    Choice::store(Rule::SwitchoverFails, Errand::ClearFailover { version: request.version })
                }
                None => Choice::store(Rule::LeaderGivesUp, Errand::ReleaseLease { term: lease.term }),
            }
        } else {
            Choice::wait(Rule::LeaderPromotes)
        };
    }
    if let Some(choice) = sync::before_writing(view, cluster, lease) {
        return choice;
    }
    match &cluster.claim {
        Some(claim) if claim.value.by == view.me && timeline < claim.value.timeline => {
            if let Some(choice) = asks_hook(view, lease) {
                choice
            } else if may_write(view, lease) {
                let names = sync::names_to_begin_with(view, cluster);
                Choice::run(
                    Rule::LeaderPromotes,
                    Job::Promote { term: lease.term, timeline: claim.value.timeline, names },
                )
            } else {
                unguarded(view, lease)
            }
        }
        Some(_) | None => Choice::store(Rule::LeaderHasNoClaim, Errand::ReleaseLease { term: lease.term }),
    }
}

/// The operator's command has to agree, once a term. `None` where it has, or where there is none.
fn asks_hook(view: &View, lease: &Lease) -> Option<Choice> {
    let hook = view.memory.promotion_hook;
    if !view.policy.asks_before_promotion || hook.agreed == Some(lease.term) {
        return None;
    }
    if hook.refused.is_some_and(|(term, _)| term == lease.term) {
        return Some(Choice::store(Rule::LeaderRefusedByHook, Errand::ReleaseLease { term: lease.term }));
    }
    Some(Choice::run(Rule::LeaderRunsHook, Job::PrePromote { term: lease.term }))
}

pub(super) fn stopped(view: &View, cluster: &Cluster, lease: &Lease, control: &Control) -> Choice {
    if view.cut_off() || !shows_our_term(view, cluster, lease) {
        return Choice::wait(Rule::LeaderAwaitsSnapshot);
    }
    if let Some(choice) = handover::stopped(view, cluster, lease, control) {
        return choice;
    }
    if let Some(choice) = makes_way(view, cluster, lease, control) {
        return choice;
    }
    // Where the disk is full another member that has no more room would fail as well.
    if STARTS_MAX <= view.memory.failures.starts && !view.disk.is_full() {
        return Choice::store(Rule::LeaderGivesUp, Errand::ReleaseLease { term: lease.term });
    }
    if !may_try_again(view, view.memory.failures.starts) {
        let rule = if view.disk.is_full() { Rule::LeaderDiskFull } else { Rule::LeaderStarting };
        return Choice::wait(rule);
    }
    let newest = control.position().timeline == cluster.highest_timeline()
        || fault::active(Fault::RestartsOnOldTimeline);
    if !control.was_primary() || !newest {
        return Choice::run(Rule::LeaderStartsStandby, Job::StartStandby { upstream: None });
    }
    if !may_write(view, lease) {
        return unguarded(view, lease);
    }
    if let Some(choice) = sync::before_writing(view, cluster, lease) {
        return choice;
    }
    let names = sync::names_to_begin_with(view, cluster);
    let gate = sync::gate_to_begin_with(view, cluster);
    Choice::run(Rule::LeaderRestarts, Job::StartPrimary { term: lease.term, names, gate })
}

/// In maintenance mode no guardian stands by any primary.
fn may_write(view: &View, lease: &Lease) -> bool {
    view.is_guarded(lease.term) || view.policy.pause || fault::active(Fault::LeadsUnguarded)
}

/// A stopped PostgreSQL that cannot do its work here: somebody who is fit leads instead. `None` where it is to be started.
fn makes_way(view: &View, cluster: &Cluster, lease: &Lease, control: &Control) -> Option<Choice> {
    let fitness = fitness(view);
    if fitness == Fitness::Fit || fault::active(Fault::RestartsForEver) {
        return None;
    }
    let rule = if fitness == Fitness::Unfit { Rule::LeaderDiskStalled } else { Rule::LeaderAsksAround };
    match handover::successor(view, cluster, control.position()) {
        Successor::Ask(step) => Some(Choice::step(rule, step)),
        Successor::Asked => Some(Choice::wait(rule)),
        Successor::Somebody(to) => {
            let reason = Reason::about(Rule::LeaderMakesWay, to);
            Some(Choice::store(reason, Errand::ReleaseLease { term: lease.term }))
        }
        // A start would only hang.
        Successor::Nobody if fitness == Fitness::Unfit => Some(Choice::wait(rule)),
        Successor::Nobody => None,
    }
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
