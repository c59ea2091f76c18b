//! What `decide` may never say, whatever a member knows: the laws over a single view and its plan.

use crate::decide::{address_order, fitness_told};
use crate::model::*;

fn stops_now(view: &View) -> bool {
    view.work.job.as_ref().is_some_and(|running| running.job.is_stop())
}

/// What `decide` says of this view, if it breaks a law.
pub(super) fn broken_law(view: &View, plan: &Plan) -> Option<&'static str> {
    let in_force = view.lease_in_force();
    let guarded = in_force.is_some_and(|lease| view.guardian.watches(lease.term, view.now));
    let writable = view.postgres.may_accept_writes();
    let unwatched = view.policy.watchdog_required && !view.watchdog.is_armed();
    let stopping = |job: &Job| job.is_stop();
    let promised = view.memory.promise.as_ref().is_some_and(|promise| view.now < promise.until);
    match &plan.step {
        Step::Run(Job::Promote { .. } | Job::StartPrimary { .. }) if view.policy.follows.is_some() => {
            return Some("a standby cluster makes no primary");
        }
        Step::Store(Errand::TakeLease { .. })
            if view.memory.unfenced_leader.is_some()
                && view.postgres.running().is_some_and(|running| !running.is_primary()) =>
        {
            return Some("nobody takes the lease while WAL of an unfenced primary arrives");
        }
        Step::Run(Job::Promote { .. } | Job::StartPrimary { .. }) | Step::Store(Errand::TakeLease { .. })
            if promised =>
        {
            return Some("who has promised to leave the lease to another neither takes nor uses it");
        }
        Step::Run(Job::Promote { .. } | Job::StartPrimary { .. }) if in_force.is_none() => {
            return Some("a primary is made only with a lease in force");
        }
        Step::Run(Job::Promote { .. } | Job::StartPrimary { .. }) if !guarded => {
            return Some("a primary is made only while the guardian watches this very term");
        }
        Step::Run(Job::Promote { .. } | Job::StartPrimary { .. }) if unwatched => {
            return Some("a primary is made only with the watchdog that is required");
        }
        Step::Run(Job::Promote { term, .. })
            if view.policy.asks_before_promotion && view.memory.promotion_hook.agreed != Some(*term) =>
        {
            return Some("a promotion waits for the operator's command to agree");
        }
        Step::Run(Job::Promote { timeline, .. }) => {
            let claim = view.cluster().and_then(|cluster| cluster.claim.as_ref()).map(|claim| &claim.value);
            if claim.is_none_or(|claim| claim.by != view.me || claim.timeline != *timeline) {
                return Some("a timeline is begun only by who has claimed it");
            }
        }
        Step::Run(Job::StartPrimary { .. })
            if view.memory.crashes.is_loop(view.now) && view.peers == PeerRound::default() =>
        {
            return Some("what crashes again and again is not started before the others have been asked");
        }
        Step::Run(Job::StartPrimary { .. }) => {
            let led = view.cluster().map_or(Timeline::FIRST, Cluster::highest_timeline);
            if !matches!(view.postgres, Postgres::Stopped { control } if led <= control.position().timeline) {
                return Some("a primary is started only on the newest timeline");
            }
        }
        Step::Store(Errand::TakeLease { claim }) => {
            if view.guardian == Guardian::Absent {
                return Some("the lease is taken only with a guardian");
            }
            if let Some(running) = view.postgres.running().filter(|running| !running.is_primary()) {
                if running.silent_since.is_some() {
                    return Some("the lease is taken only where PostgreSQL answers");
                }
                if view.disk.unwritten_since.is_some() {
                    return Some("the lease is taken only where something reaches the disk");
                }
            }
            if view.policy.watchdog_required && !view.watchdog.can_be_armed() {
                return Some("the lease is taken only with a watchdog, if that is required");
            }
            if view.store.contact != Contact::Current {
                return Some("the lease is taken only when the store has just said that nobody leads");
            }
            if view.cluster().is_some_and(|cluster| cluster.leader.is_some()) {
                return Some("the lease is not taken from anybody");
            }
            let named = view.cluster().is_some_and(|cluster| cluster.failover.is_some());
            if let Some(position) =
                view.postgres.running().filter(|r| !r.is_primary()).and_then(Running::position)
            {
                let further = |answer: &PeerAnswer| match answer {
                    PeerAnswer::Stands(status) => {
                        fitness_told(view, view.now) <= status.fitness
                            && status.fitness != Fitness::Unfit
                            && status.position.is_some_and(|there| position < there)
                    }
                    PeerAnswer::Silent => false,
                };
                if !named && view.peers.answers.values().any(further) {
                    return Some("who is behind does not take the lease from who is further");
                }
                if view.peers.asked_at < view.memory.no_leader_since {
                    return Some("a race is decided by what was said after the leader had gone");
                }
            }
            let led = view.cluster().map_or(Timeline::FIRST, Cluster::highest_timeline);
            let own = view.postgres.running().and_then(Running::position).map(|position| position.timeline);
            let above = own.is_none_or(|own| led < claim.timeline && own < claim.timeline);
            if claim.timeline < led || !(writable || above) {
                return Some("what is claimed lies above everything that was led or claimed");
            }
        }
        Step::Run(Job::StopAtOnce) | Step::Store(Errand::ReleaseLease { .. })
            if plan.reason.rule == Rule::LeaderMakesWay && !somebody_is_fit(view) =>
        {
            return Some("a leader makes way only for somebody who is fit");
        }
        Step::Run(Job::StopOrderly { .. })
            if plan.reason.rule == Rule::DiskFullHandsOver && !somebody_is_fit(view) =>
        {
            return Some("a full leader hands over only to somebody with room");
        }
        Step::Store(Errand::ReleaseLease { .. }) if writable => {
            return Some("the lease is given back only after PostgreSQL has stopped");
        }
        // Making way is no handover: it may cost what nobody else has, as when a host is lost. Who cannot lead for want of a
        // guardian or a watchdog gives the lease up, too, whoever may take it.
        Step::Store(Errand::ReleaseLease { .. })
            if view.memory.handover.is_some()
                && !view.ending
                && !matches!(plan.reason.rule, Rule::LeaderMakesWay | Rule::LeaderCannotBeGuarded) =>
        {
            let complete =
                |status: &PeerStatus| status.position.is_some_and(|position| position.lsn > Lsn(80));
            let somebody = view.peers.answers.values().any(|answer| match answer {
                PeerAnswer::Stands(status) => complete(status),
                PeerAnswer::Silent => false,
            });
            if matches!(view.postgres, Postgres::Stopped { control } if control.was_primary())
                && in_force.is_some()
                && !somebody
            {
                return Some("a leader hands over only to somebody who has the last record");
            }
        }
        Step::Run(Job::Clone { .. } | Job::CloneWithoutLeader | Job::Bootstrap)
            if view.postgres != Postgres::Empty =>
        {
            return Some("a directory that is not empty is never cloned or made into");
        }
        Step::Run(Job::StartStandby { .. }) if !matches!(view.postgres, Postgres::Stopped { .. }) => {
            return Some("only a whole directory is started");
        }
        Step::Run(Job::Follow { .. }) => {
            let lineage = view.cluster().and_then(Cluster::lineage);
            let position = view.postgres.running().and_then(Running::position);
            if let (Some(lineage), Some(position)) = (lineage, position)
                && lineage.descent_of(position) == Descent::Diverged
            {
                return Some("nobody follows a leader whose records differ");
            }
        }
        Step::Exit if writable => return Some("an agent does not leave a primary behind"),
        Step::Wait | Step::Store(_) | Step::AskPeers(_) | Step::Run(_) | Step::Cancel | Step::Exit => {}
    }
    match address_order(view) {
        AddressOrder::Hold { .. } if !view.postgres.is_primary() => {
            return Some("only a primary takes the virtual address");
        }
        AddressOrder::Hold { .. } if in_force.is_none() && !view.policy.pause => {
            return Some("the virtual address is taken under a lease in force");
        }
        AddressOrder::Keep | AddressOrder::Extend { .. }
            if view.lease.is_none() && view.memory.has_led && !view.policy.pause =>
        {
            return Some("whoever has given the lease back or lost it has no virtual address");
        }
        AddressOrder::Away
        | AddressOrder::Ask
        | AddressOrder::Keep
        | AddressOrder::Extend { .. }
        | AddressOrder::Hold { .. } => {}
    }
    let becomes_primary = |running: &RunningJob| {
        running.job.is_stop() || matches!(running.job, Job::Promote { .. } | Job::StartPrimary { .. })
    };
    if plan.fence == FenceOrder::Disarm && (writable || view.work.job.as_ref().is_some_and(becomes_primary)) {
        return Some("the guardian is not disarmed where something may write");
    }
    if view.now + Span::from_secs(3) < plan.renew_until {
        return Some("a loop that hangs lets its lease run out soon");
    }
    // A stop for a restart has a deadline of its own.
    let restarting = stops_now(view) && view.is_restarting();
    let silent = !restarting
        && view
            .postgres
            .running()
            .is_some_and(|running| running.is_primary() && running.silent_since.is_some());
    if view.lease.is_some() && silent && view.now < plan.renew_until {
        return Some("a primary that has long been silent is not renewed");
    }
    if view.lease.is_some() && writable && view.guardian == Guardian::Absent && view.now < plan.renew_until {
        return Some("an unguarded primary is not renewed");
    }
    if view.lease.is_some() && writable && unwatched && view.now < plan.renew_until {
        return Some("a primary without the watchdog that is required is not renewed");
    }
    let stops = matches!(&plan.step, Step::Run(job) if stopping(job)) || stops_now(view);
    let led_here = writable && in_force.is_some() && view.work.job.is_none() && !view.ending;
    if view.policy.follows.is_some() && led_here && !stops {
        return Some("the primary of a cluster that follows another one is being stopped");
    }
    // A restarted agent that finds its primary under a lease that still runs, or a primary that is nobody's yet.
    let excused = matches!(
        plan.reason.rule,
        Rule::ReturnsToLease
            | Rule::WaitsForStore
            | Rule::AdoptsData
            | Rule::ForeignData
            | Rule::LeaderStarting
            | Rule::PrimaryTakesLease
            | Rule::CandidateWithoutGuardian
            | Rule::CandidateWithoutWatchdog
    ) && view.lease.is_none()
        && !view.memory.has_led;
    if writable && in_force.is_none() && !stops && !excused {
        return Some("what may write without a lease in force is being stopped");
    }
    None
}

/// Is there a standby that says it is fit?
fn somebody_is_fit(view: &View) -> bool {
    view.peers.answers.values().any(|answer| match answer {
        PeerAnswer::Stands(status) => status.fitness == Fitness::Fit && status.role == MemberRole::Replica,
        PeerAnswer::Silent => false,
    })
}
