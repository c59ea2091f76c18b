//! The rules: pure functions from a view to a plan. Nothing here waits, reads a clock, or remembers; what a rule needs to
//! remember is a field of the view. One file per situation; this one tells the situations apart.

mod address;
pub mod asked;
mod bootstrap;
mod callbacks;
mod consent;
mod cut_off;
mod dethroned;
mod ending;
mod events;
pub(crate) mod fault;
mod fetch;
mod fitness;
mod following;
pub mod foresight;
pub mod foretold;
mod handover;
mod leading;
mod loss;
pub mod mind;
mod paused;
pub mod publish;
mod race;
pub mod slots;
mod standby_cluster;
pub(crate) mod sync;
#[cfg(test)]
mod tests;
mod topology;
mod wishes;

pub use address::address_order;
use fault::Fault;
use fitness::fitness;
pub use fitness::fitness_told;
pub(crate) use sync::gate_told;

use crate::model::{
    Cluster, Errand, FenceOrder, Fitness, Guardian, Initialize, Job, Leader, Lease, Moment, NewClaim, Plan,
    Postgres, Reason, Rule, RunningJob, Span, Step, Timeline, View,
};

/// The shell looks again at least this often, so that a loop that hangs is noticed by what it no longer permits.
const LOOK_AGAIN: Span = Span::from_secs(1);

/// How long one decision lets the session be renewed. Longer than two looks, so that one late look costs nothing.
const PERMIT: Span = Span::from_secs(3);

/// So long a promotion usually takes at most.
const PROMOTION_ENDS: Span = Span::from_secs(3);
/// So long before the guardian acts it is told to stand down.
const DISARMS: Span = Span::from_secs(1);

/// The last part of the time before the guardian acts belongs to the immediate stop.
const IMMEDIATE_STOP: Span = Span::from_ms(300);

pub fn decide(view: &View) -> Plan {
    let fence = fence_order(view);
    let choice = consent::as_promised(view, choose(view));
    let choice = after_disarming(view, fence, choice).again_in(consent::until_due(view));
    Plan {
        seek_consent: consent::wanted(view) && may_renew(view),
        renew_until: if may_renew(view) { view.now + permit() } else { view.now },
        fence,
        look_again: view.now + choice.again,
        reason: choice.reason,
        step: choice.step,
    }
}

fn permit() -> Span {
    if fault::active(Fault::PermitsForEver) { PERMIT.times(1_000) } else { PERMIT }
}

/// What a rule says: why, what to do, and when to look again if nothing happens.
struct Choice {
    reason: Reason,
    step: Step,
    again: Span,
}

impl Choice {
    fn wait(reason: impl Into<Reason>) -> Choice {
        Choice { reason: reason.into(), step: Step::Wait, again: LOOK_AGAIN }
    }

    fn run(reason: impl Into<Reason>, job: Job) -> Choice {
        Choice { step: Step::Run(job), ..Choice::wait(reason) }
    }

    fn store(reason: impl Into<Reason>, errand: Errand) -> Choice {
        Choice { step: Step::Store(errand), ..Choice::wait(reason) }
    }

    fn step(reason: impl Into<Reason>, step: Step) -> Choice {
        Choice { step, ..Choice::wait(reason) }
    }

    fn again_in(self, again: Span) -> Choice {
        Choice { again: again.min(self.again), ..self }
    }
}

fn choose(view: &View) -> Choice {
    if let Some(running) = &view.work.job {
        return under_way(view, running);
    }
    if matches!(view.postgres, Postgres::Unobserved) {
        return Choice::wait(Rule::LooksAtPostgres);
    }
    if view.ending {
        return ending::choose(view);
    }
    let Some(cluster) = view.cluster() else {
        // An agent that was restarted in maintenance mode has not heard of its end.
        return if view.policy.pause {
            Choice::wait(Rule::WaitsForStore)
        } else if view.postgres.may_accept_writes() {
            dethroned::choose(view)
        } else {
            Choice::wait(Rule::WaitsForStore)
        };
    };
    if view.policy.pause {
        return paused::choose(view, cluster);
    }
    if let Some(lease) = in_force(view) {
        return match &view.policy.follows {
            Some(remote) => standby_cluster::leading(view, cluster, lease, remote),
            None => leading::choose(view, cluster, lease),
        };
    }
    if view.postgres.may_accept_writes() {
        return dethroned::choose(view);
    }
    if let Some(choice) = wishes::standby(view, cluster) {
        return choice;
    }
    if belongs_elsewhere(view, cluster) {
        return foreign(view);
    }
    if view.cut_off() {
        if fault::active(Fault::SilenceIsNoLeader) && matches!(view.postgres, Postgres::Running(_)) {
            return race::choose(view, cluster);
        }
        return cut_off::choose(view);
    }
    if let Postgres::Unusable { .. } = view.postgres {
        return Choice::wait(Rule::UnusableData);
    }
    match (&cluster.leader, cluster.initialize) {
        (Some(leader), _) if leader.name == view.me => own_key(view, leader),
        (Some(leader), _) => following::choose(view, cluster, leader),
        (None, Initialize::Done(_)) => race::choose(view, cluster),
        (None, Initialize::Absent | Initialize::Running | Initialize::Unrecognized) => {
            bootstrap::choose(view, cluster)
        }
    }
}

/// A guardian that still stands by an old order would kill whatever is started.
fn after_disarming(view: &View, fence: FenceOrder, choice: Choice) -> Choice {
    let armed = matches!(view.guardian, Guardian::Ready { confirmed: FenceOrder::Arm { .. } });
    let starts = matches!(
        choice.step,
        Step::Run(Job::StartStandby { .. } | Job::Rewind { .. } | Job::RewindRemote | Job::Bootstrap)
    );
    if starts && armed && fence == FenceOrder::Disarm { Choice::wait(Rule::AwaitsDisarm) } else { choice }
}

/// A job runs. It is left alone unless it has become dangerous or pointless.
fn under_way(view: &View, running: &RunningJob) -> Choice {
    let may_write = view.postgres.may_accept_writes()
        || matches!(running.job, Job::Promote { .. } | Job::StartPrimary { .. });
    let lease_in_force = in_force(view).is_some() || view.policy.pause;
    if may_write && !lease_in_force {
        let last = last_moment_for_order(view);
        let in_order = running.job.is_stop() && view.now < last;
        return if running.job == Job::StopAtOnce {
            Choice::wait(running.reason.clone())
        } else if in_order {
            Choice::wait(running.reason.clone()).again_in(view.now.until(last))
        } else {
            dethroned::choose(view)
        };
    }
    let pointless = matches!(running.job, Job::PrePromote { .. }) && !lease_in_force;
    if (pointless || (view.ending && running.job.can_be_cancelled())) && !running.cancelled {
        return Choice::step(Rule::JobLostItsReason, Step::Cancel);
    }
    if let Some(choice) = wishes::overtakes(view, running).or_else(|| sync::overtakes(view, running)) {
        return choice;
    }
    Choice::wait(running.reason.clone()).again_in(until_demotion(view))
}

/// The leader key bears our name, but the store has not confirmed the lease to us.
fn own_key(view: &View, leader: &Leader) -> Choice {
    if view.memory.released == Some(leader.term) {
        if view.work.errand_since.is_some() {
            return Choice::wait(Rule::AwaitsRelease);
        }
        return Choice::store(Rule::ReleasesAgain, Errand::ReleaseLease { term: leader.term });
    }
    if leader.session.is_some() && leader.session == view.session.map(|session| session.id) {
        return Choice::wait(Rule::AwaitsRenewal);
    }
    let startable = matches!(view.postgres, Postgres::Stopped { .. }) && !view.postgres.never_led();
    if startable && may_try_again(view, view.memory.failures.starts) {
        Choice::run(Rule::RaceStartsStandby, Job::StartStandby { upstream: None })
    } else {
        Choice::wait(Rule::OwnOldLease)
    }
}

/// Somebody else made the cluster while this member made data for it, which nobody has ever led.
fn foreign(view: &View) -> Choice {
    let made_here =
        view.memory.bootstrapped.is_some() && view.memory.bootstrapped == view.postgres.system_id();
    if matches!(view.postgres, Postgres::Stopped { .. }) && (made_here || view.postgres.never_led()) {
        set_aside(view, Rule::ClearsUnfinished)
    } else {
        Choice::wait(Rule::ForeignData)
    }
}

fn in_force(view: &View) -> Option<&Lease> {
    if fault::active(Fault::IgnoresDeadline) { view.lease.as_ref() } else { view.lease_in_force() }
}

fn belongs_elsewhere(view: &View, cluster: &Cluster) -> bool {
    if view.postgres.never_led() && led_by_others(view, cluster) {
        return true;
    }
    match (view.postgres.system_id(), cluster.system_id()) {
        (Some(here), Some(there)) => here != there,
        (None, _) | (_, None) => false,
    }
}

/// Two members that restore the same backup make clusters that cannot be told apart. The one that is led first is it.
fn led_by_others(view: &View, cluster: &Cluster) -> bool {
    let leads = cluster.leader.as_ref().is_some_and(|leader| leader.name != view.me);
    let claimed = cluster.claim.as_ref().is_some_and(|claim| claim.value.by != view.me);
    leads || claimed || !cluster.history.is_empty()
}

/// A session is renewed unless that would keep a leader in office that cannot do its work.
fn may_renew(view: &View) -> bool {
    if view.lease.is_none() || view.policy.pause {
        return true;
    }
    if fault::active(Fault::RenewsUnfit) {
        return true;
    }
    let unguarded = view.postgres.may_accept_writes()
        && (view.guardian == Guardian::Absent || view.lacks_armed_watchdog());
    let has_hung = |running| fitness::has_hung(view, running) && !wishes::is_stopping(view, running);
    let hung = view.postgres.running().is_some_and(has_hung);
    // Where it is certain that nobody else can lead, nothing is won by leaving: the disk may come back.
    let stalled = view.postgres.may_accept_writes()
        && fitness(view) == Fitness::Unfit
        && !handover::nobody_else_can_lead(view);
    !unguarded && !hung && !stalled
}

fn fence_order(view: &View) -> FenceOrder {
    if view.policy.pause {
        return FenceOrder::Disarm;
    }
    let job = view.work.job.as_ref().map(|running| &running.job);
    let becoming_primary = matches!(job, Some(Job::Promote { .. } | Job::StartPrimary { .. }));
    let writable = (view.postgres.may_accept_writes() || becoming_primary)
        && !fault::active(Fault::DisarmsWhileWritable);
    // A stop may have gone ahead of a promotion or a start: until it ends, what was seen before them proves nothing.
    let unknown = view.postgres == Postgres::Unobserved || job.is_some_and(Job::is_stop);
    match &view.lease {
        // Who leads a standby cluster has nothing to lose but readers.
        Some(lease) if writable || (view.now < lease.demote_at() && is_to_be_guarded(view)) => {
            FenceOrder::Arm { term: lease.term, fence_at: lease.fence_at() }
        }
        Some(_) | None if writable || unknown || may_be_promoting(view) => FenceOrder::Keep,
        Some(_) | None => FenceOrder::Disarm,
    }
}

/// An earlier life of this agent may have begun a promotion that ends any moment: what is a standby still may write then. A guardian
/// that was left armed stays so for a while, and not until it kills a standby.
fn may_be_promoting(view: &View) -> bool {
    let young = view.memory.begun_at.is_some_and(|begun| view.now.since(begun) < PROMOTION_ENDS);
    let armed = view.guardian.is_armed(view.now + DISARMS);
    young && armed && view.postgres.running().is_some()
}

/// Can this member be a primary before it decides again?
pub(crate) fn is_to_be_guarded(view: &View) -> bool {
    view.policy.follows.is_none() || view.postgres.may_accept_writes()
}

/// Until here an orderly stop may go on; what lives then is stopped at once.
fn last_moment_for_order(view: &View) -> Moment {
    view.lease.map_or(view.now, |lease| lease.fence_at() - IMMEDIATE_STOP)
}

fn until_demotion(view: &View) -> Span {
    match &view.lease {
        Some(lease) if view.now < lease.demote_at() => view.now.until(lease.demote_at()),
        Some(_) | None => LOOK_AGAIN,
    }
}

/// Attempts that fail are repeated after 1, 2, 4 … 32 s.
fn may_try_again(view: &View, failures: u32) -> bool {
    match view.memory.failures.last_at {
        Some(last) if failures > 0 => Span::from_secs(1 << failures.min(6) >> 1) <= view.now.since(last),
        Some(_) | None => true,
    }
}

/// Moves the data out of the way. What hinders it, a full disk or a missing right, does not go away at once.
fn set_aside(view: &View, reason: impl Into<Reason>) -> Choice {
    if may_try_again(view, view.memory.failures.set_asides) {
        Choice::run(reason, Job::SetAside)
    } else {
        Choice::wait(Rule::RejoinBacksOff)
    }
}

/// The errand that takes the leader key. `timeline` is what the taker will write on.
fn take_lease(cluster: &Cluster, timeline: Timeline) -> Errand {
    let seen_version = cluster.claim.as_ref().map_or(0, |claim| claim.version);
    Errand::TakeLease { claim: NewClaim { timeline, seen_version } }
}

/// Has the snapshot caught up with the lease that the store has confirmed?
fn shows_our_term(view: &View, cluster: &Cluster, lease: &Lease) -> bool {
    cluster.leader.as_ref().is_some_and(|leader| leader.name == view.me && leader.term == lease.term)
}
