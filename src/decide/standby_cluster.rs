//! This cluster is the standby of another one: its leader replicates from there and accepts no writes.

use super::fault::{self, Fault};
use super::{Choice, handover, may_try_again, shows_our_term, until_demotion, wishes};
use crate::model::{
    Cluster, Control, Descent, Errand, Job, Lease, Postgres, Rejoin, Remote, RemoteStanding, Rule, Running,
    Serving, Span, View,
};

/// Everything should reach the other cluster before this primary becomes a standby of it.
const DEMOTE_BUDGET: Span = Span::from_secs(60);
const STOP_BUDGET: Span = Span::from_secs(30);
/// What the other cluster has said longer ago may have changed since.
const REMOTE_KEEP: Span = Span::from_secs(15);
const STARTS_MAX: u32 = 3;
const REWINDS_MAX: u32 = 3;

/// This member holds the lease of a standby cluster.
pub(super) fn leading(view: &View, cluster: &Cluster, lease: &Lease, remote: &Remote) -> Choice {
    let choice = match &view.postgres {
        Postgres::Running(running) if running.is_primary() => demotes(view, running),
        Postgres::Running(running) => standby(view, cluster, lease, remote, running),
        Postgres::Starting { as_primary: true, .. } => Choice::run(Rule::SiteDemotes, Job::StopAtOnce),
        Postgres::Starting { .. } => Choice::wait(Rule::SiteStarting),
        Postgres::Stopped { control } => stopped(view, cluster, lease, remote, control),
        Postgres::Empty | Postgres::Unfinished { .. } | Postgres::Unusable { .. } => {
            Choice::store(Rule::LeaderHasNoData, Errand::ReleaseLease { term: lease.term })
        }
        Postgres::Unobserved => Choice::wait(Rule::LooksAtPostgres),
    };
    choice.again_in(until_demotion(view)).again_in(handover::until_due(view))
}

/// The cluster has just become a standby cluster, and this is its primary.
fn demotes(view: &View, running: &Running) -> Choice {
    if fault::active(Fault::WritesInStandbyCluster) {
        return Choice::wait(Rule::LeaderStays);
    }
    if running.silent_since.is_some() {
        return Choice::run(Rule::SiteDemotes, Job::StopAtOnce);
    }
    Choice::run(Rule::SiteDemotes, Job::StopOrderly { by: view.now + DEMOTE_BUDGET, handover: None })
}

fn standby(view: &View, cluster: &Cluster, lease: &Lease, remote: &Remote, running: &Running) -> Choice {
    if view.cut_off() || !shows_our_term(view, cluster, lease) {
        return Choice::wait(Rule::LeaderAwaitsSnapshot);
    }
    if let Some(choice) = handover::requested(view, cluster, running) {
        return choice;
    }
    if let Some(choice) = wishes::leader(view) {
        return choice;
    }
    let Serving::Standby { upstream, starved, forks, .. } = &running.serving else {
        return Choice::wait(Rule::LooksAtPostgres);
    };
    if let (Some(position), Some(told)) = (running.position(), heard(view))
        && !fault::active(Fault::SkipsDivergence)
    {
        if told.lineage.descent_of(position) == Descent::Diverged {
            return Choice::run(Rule::SiteDiverged, Job::StopFast { by: view.now + STOP_BUDGET });
        }
        // Neither PostgreSQL nor pg_rewind could tell the two apart.
        let same_number = told.lineage.timeline == position.timeline;
        if same_number && forks.as_ref().is_some_and(|forks| *forks != told.lineage.ancestors) {
            return if upstream.is_some() {
                Choice::run(Rule::SiteOtherHistory, Job::Follow { upstream: None })
            } else {
                Choice::wait(Rule::SiteOtherHistory)
            };
        }
    }
    if *starved {
        return Choice::run(Rule::StandbyStarved, Job::StopFast { by: view.now + STOP_BUDGET });
    }
    if upstream.is_none() && remote.address.is_some() && heard(view).is_none() {
        return Choice::wait(Rule::SiteAsks);
    }
    if !remote.is_at(upstream.as_ref()) {
        return Choice::run(Rule::SiteTurns, Job::Follow { upstream: remote.address.clone() });
    }
    Choice::wait(Rule::SiteFollows)
}

fn stopped(view: &View, cluster: &Cluster, lease: &Lease, remote: &Remote, control: &Control) -> Choice {
    if view.cut_off() || !shows_our_term(view, cluster, lease) {
        return Choice::wait(Rule::LeaderAwaitsSnapshot);
    }
    let failures = &view.memory.failures;
    if STARTS_MAX <= failures.starts {
        return Choice::store(Rule::LeaderGivesUp, Errand::ReleaseLease { term: lease.term });
    }
    let again = |failed| may_try_again(view, failed);
    // Whether a former primary's timeline is the other cluster's own, or another one of the same number, is seen once it
    // runs. Before, it must not take any WAL.
    let upstream = remote.address.clone().filter(|_| !control.was_primary());
    let start = || Choice::run(Rule::SiteStarts, Job::StartStandby { upstream });
    let reclone = |allowed: bool| {
        if allowed {
            Choice::run(Rule::SiteSetsAside, Job::SetAside)
        } else {
            Choice::wait(Rule::RejoinBlocked)
        }
    };
    match rejoin(view, control) {
        // As a standby it changes nothing that a rewind could not bring back.
        None | Some(Rejoin::Start) if again(failures.starts) => start(),
        Some(Rejoin::Clone) => reclone(true),
        Some(Rejoin::Rewind) if !view.policy.use_rewind || !control.rewindable => {
            reclone(view.policy.reclone_when_diverged)
        }
        Some(Rejoin::Rewind) if REWINDS_MAX <= failures.rewinds => {
            reclone(view.policy.reclone_when_rewind_fails)
        }
        Some(Rejoin::Rewind) if again(failures.rewinds) => Choice::run(Rule::SiteRewinds, Job::RewindRemote),
        None | Some(Rejoin::Start | Rejoin::Rewind) => Choice::wait(Rule::RejoinBacksOff),
    }
}

/// `None` while the other cluster has not said where it comes from.
fn rejoin(view: &View, control: &Control) -> Option<Rejoin> {
    let told = heard(view)?;
    if fault::active(Fault::SkipsDivergence) {
        return Some(Rejoin::Start);
    }
    Some(control.rejoin(&told.lineage))
}

/// What the other cluster has said of itself lately.
fn heard(view: &View) -> Option<&RemoteStanding> {
    view.remote.as_ref().filter(|remote| view.now.since(remote.asked_at) < REMOTE_KEEP)
}
