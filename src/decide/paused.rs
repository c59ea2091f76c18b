//! Maintenance mode: nothing is started, stopped or promoted by itself. What an operator asks for is done, and a primary that
//! runs takes an office that is vacant: after the store was away for longer than a lease, after a move to another store, or
//! when an operator has promoted it by hand. Clients are led by the lease: a leader that an operator has stopped gives it back.

use super::{Choice, own_key, sync, take_lease, wishes};
use crate::model::{Cluster, Errand, Leader, Postgres, Rule, Timeline, Versioned, View};

pub(super) fn choose(view: &View, cluster: &Cluster) -> Choice {
    if let Some(choice) = wishes::paused(view, cluster) {
        return choice;
    }
    if let Some(leader) = half_released(view, cluster) {
        return own_key(view, leader);
    }
    if let Some(lease) = view.lease_in_force()
        && is_down(&view.postgres)
    {
        return Choice::store(Rule::PausedReleases, Errand::ReleaseLease { term: lease.term });
    }
    if let Some(choice) = refuses(view, cluster) {
        return choice;
    }
    match vacant_office(view, cluster) {
        Some(timeline) => Choice::store(Rule::PrimaryTakesLease, take_lease(cluster, timeline)),
        None => synchronous(view, cluster).unwrap_or(Choice::wait(Rule::Paused)),
    }
}

/// A switchover that is asked for now is not to happen at some later time, when the maintenance ends.
fn refuses(view: &View, cluster: &Cluster) -> Option<Choice> {
    let Versioned { value: request, version } = cluster.failover.as_ref()?;
    let meant_now = !request.is_empty() && request.scheduled_at.is_none();
    let leads = view.lease_in_force().is_some() && view.postgres.is_primary() && !view.cut_off();
    (meant_now && leads)
        .then(|| Choice::store(Rule::SwitchoverPaused, Errand::ClearFailover { version: *version }))
}

/// The lease was given back, and the store may not have heard of it.
fn half_released<'a>(view: &View, cluster: &'a Cluster) -> Option<&'a Leader> {
    let leader = cluster.leader.as_ref()?;
    (leader.name == view.me && view.memory.released == Some(leader.term)).then_some(leader)
}

fn is_down(postgres: &Postgres) -> bool {
    match postgres {
        Postgres::Stopped { .. }
        | Postgres::Empty
        | Postgres::Unfinished { .. }
        | Postgres::Unusable { .. } => true,
        Postgres::Running(_) | Postgres::Starting { .. } | Postgres::Unobserved => false,
    }
}

/// Commits may be waiting for a standby that has gone.
fn synchronous(view: &View, cluster: &Cluster) -> Option<Choice> {
    let running = view.postgres.running().filter(|running| running.is_primary())?;
    sync::keep(view, cluster, view.lease_in_force()?, running)
}

/// The timeline on which this member's primary may lead. One that others have gone beyond may not.
fn vacant_office(view: &View, cluster: &Cluster) -> Option<Timeline> {
    let running = view.postgres.running().filter(|running| running.is_primary())?;
    let answers = running.silent_since.is_none();
    let vacant = cluster.leader.is_none() && view.lease.is_none() && !view.cut_off();
    let asked = cluster.failover.as_ref().is_some_and(|request| !request.value.is_empty());
    let ours = cluster.system_id() == Some(running.system);
    let timeline = running.position()?.timeline;
    let newest = cluster.highest_timeline() <= timeline;
    let barred = view.tags.nofailover() || sync::barred(view, cluster, &view.me);
    (vacant && ours && newest && answers && !asked && !barred).then_some(timeline)
}
