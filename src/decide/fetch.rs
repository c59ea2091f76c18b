//! A member that an operator has named need not be the one with the most WAL. What another standby has more of it receives first, so that naming
//! it costs no commit that is still there.

use super::Choice;
use super::race::{YIELD, standing};
use crate::model::{
    Cluster, Job, MemberRole, MemberState, Position, Reason, Rule, Running, Serving, Span, View,
};

/// Where nothing has come for so long nothing will: an operator who names somebody waits for an answer.
const QUIET: Span = Span::from_secs(3);

/// What is to be done before the lease is taken; nothing, where nobody has more, or it does not come.
pub(super) fn first(view: &View, cluster: &Cluster, running: &Running, position: Position) -> Option<Choice> {
    let Serving::Standby { upstream, .. } = &running.serving else { return None };
    if view.tags.nostream() {
        return None;
    }
    let has_more = |at: &Position| at.timeline == position.timeline && position.lsn < at.lsn;
    let (source, _) = standing(view)
        .filter(|(_, peer)| peer.state == MemberState::Running && peer.role == MemberRole::Replica)
        .filter_map(|(name, peer)| Some((name, peer.position.filter(has_more)?)))
        .max_by_key(|(_, at)| at.lsn)?;
    let address = cluster.members.get(source)?.address()?;
    let since = view.memory.fetching_since.unwrap_or(view.now);
    let moved = view.memory.received.map_or(since, |(_, at)| since.max(at));
    if QUIET <= view.now.since(moved) {
        return None;
    }
    let about = Reason::about(Rule::CandidateFetches, source);
    Some(if upstream.as_ref() == Some(&address) {
        Choice::wait(about).again_in(YIELD)
    } else {
        Choice::run(about, Job::Follow { upstream: Some(address) })
    })
}
