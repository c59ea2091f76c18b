//! Maintenance mode: nothing is started, stopped or promoted by itself. What an operator asks for is done, and a primary that
//! runs takes an office that is vacant: after the store was away for longer than a lease, after a move to another store.
//! Clients are led by the lease, and nobody else may take it now.

use super::{Choice, sync, take_lease, wishes};
use crate::model::{Cluster, Rule, Timeline, View};

pub(super) fn choose(view: &View, cluster: &Cluster) -> Choice {
    if let Some(choice) = wishes::paused(view, cluster) {
        return choice;
    }
    match vacant_office(view, cluster) {
        Some(timeline) => Choice::store(Rule::PrimaryTakesLease, take_lease(cluster, timeline)),
        None => synchronous(view, cluster).unwrap_or(Choice::wait(Rule::Paused)),
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
