//! Who may take over under the synchronous modes: whoever certainly has every commit that was acknowledged.

use super::super::fault::{self, Fault};
use super::super::race::standing;
use super::electorate;
use crate::model::{Cluster, FailoverRequest, Lsn, MemberName, Position, Rule, SyncMode, Timeline, View};

/// What the electorate says of this member, as a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Right {
    /// Nobody is asked for more than its position.
    Asynchronous,
    /// It has every commit.
    Complete,
    Refused(Rule),
}

/// May nobody but an operator's own word make `name` the leader? Known without asking anybody.
pub(in super::super) fn barred(view: &View, cluster: &Cluster, name: &MemberName) -> bool {
    if view.policy.sync.mode != SyncMode::On || fault::active(Fault::SyncLetsAnybodyLead) {
        return false;
    }
    electorate(view, cluster).is_some_and(|here| !here.contains(name))
}

/// The other members have been asked, after the last leader had gone.
pub(in super::super) fn right(view: &View, cluster: &Cluster, position: Position) -> Right {
    if view.policy.sync.mode == SyncMode::Off || fault::active(Fault::SyncLetsAnybodyLead) {
        return Right::Asynchronous;
    }
    let Some(here) = electorate(view, cluster) else { return Right::Asynchronous };
    if barred(view, cluster, &view.me) {
        return Right::Refused(Rule::CandidateNotSynchronous);
    }
    if here.leader == view.me && has_led_last(cluster, position) {
        return Right::Complete;
    }
    let votes = (standing(view))
        .filter(|(name, _)| **name != view.me && here.contains(name))
        // What somebody remembers may be older than what it has since confirmed to the last leader.
        .filter(|(_, peer)| !peer.stale && peer.position.is_some_and(|there| there <= position))
        .count();
    let own = usize::from(here.contains(&view.me));
    if here.quorum < votes + own || fault::active(Fault::SyncCountsNoVotes) {
        Right::Complete
    } else {
        Right::Refused(Rule::CandidateLacksVotes)
    }
}

/// Is it known only from the others whether this member may lead?
pub(in super::super) fn needs_votes(view: &View, cluster: &Cluster) -> bool {
    let votes = electorate(view, cluster).is_some_and(|here| 0 < here.quorum || !here.contains(&view.me));
    view.policy.sync.mode != SyncMode::Off && votes
}

/// The leader that the electorate names has every commit, as long as it still is the one that wrote last: members of Patroni
/// name themselves only after their promotion in the quorum mode.
fn has_led_last(cluster: &Cluster, position: Position) -> bool {
    let led = cluster.history.last().map_or(Timeline::FIRST, |line| line.timeline.next());
    led <= position.timeline && cluster.status.optime.unwrap_or(Lsn::ZERO) <= position.lsn
}

/// May a leader hand over to `name`? A *failover* is an operator's word that loss does not matter.
pub(in super::super) fn may_take_over(
    view: &View,
    cluster: &Cluster,
    request: Option<&FailoverRequest>,
    name: &MemberName,
) -> bool {
    let forced = request.is_some_and(|request| !request.is_switchover());
    if forced || view.policy.sync.mode == SyncMode::Off {
        return true;
    }
    let Some(here) = electorate(view, cluster) else { return true };
    if view.policy.sync.mode == SyncMode::On && here.quorum == 0 {
        return here.contains(name);
    }
    // Whoever is to be elected by votes needs voters that can be asked.
    let votes = standing(view).filter(|(voter, _)| *voter != name && here.contains(voter)).count();
    here.quorum < votes + usize::from(here.contains(name))
}
