//! Whom a standby replicates from: the leader, the member that its tag `replicatefrom` names, or nobody. Whom the leader of
//! a standby cluster replicates from is `standby_cluster`'s business.

use std::collections::BTreeSet;

use super::fault::{self, Fault};
use crate::model::{
    Address, Cluster, Descent, Lsn, MemberName, MemberRecord, MemberRole, MemberState, Rule, Tags, View,
};

/// Where WAL comes from, and why from there.
pub(super) struct Source<'a> {
    /// None where it comes from the archive alone.
    pub member: Option<&'a MemberName>,
    /// `None` as well while the member has not said where it is.
    pub address: Option<Address>,
    /// How it is told that this member replicates from there, and that it begins to.
    pub stays: Rule,
    pub turns: Rule,
}

/// What this member replicates from while `leader` leads.
pub(super) fn source<'a>(view: &'a View, cluster: &'a Cluster, leader: &'a MemberName) -> Source<'a> {
    if view.tags.nostream() {
        let (stays, turns) = (Rule::FollowsArchive, Rule::TurnsToArchive);
        return Source { member: None, address: None, stays, turns };
    }
    let address = |member| cluster.members.get(member).and_then(MemberRecord::address);
    let named = named_by(&view.tags, &view.me, cluster, leader);
    match named {
        Some(member) if is_usable(view, cluster, leader, member) => Source {
            member: Some(member),
            address: address(member),
            stays: Rule::FollowsSource,
            turns: Rule::TurnsToSource,
        },
        Some(_) => Source {
            member: Some(leader),
            address: address(leader),
            stays: Rule::FollowsInstead,
            turns: Rule::FollowsNewLeader,
        },
        None if names_somebody_unknown(view, cluster) => Source {
            member: Some(leader),
            address: address(leader),
            stays: Rule::FollowsInstead,
            turns: Rule::FollowsNewLeader,
        },
        None => Source {
            member: Some(leader),
            address: address(leader),
            stays: Rule::FollowsLeader,
            turns: Rule::FollowsNewLeader,
        },
    }
}

/// Would `member` replicate from here, if everything went as its tags say?
pub(super) fn is_expected_here(view: &View, cluster: &Cluster, member: &MemberName) -> bool {
    let Some(leader) = cluster.leader_name() else { return false };
    let Some(tags) = cluster.members.get(member).map(|record| &record.tags) else { return false };
    if tags.nostream() || member == leader {
        return false;
    }
    let source = named_by(tags, member, cluster, leader).unwrap_or(leader);
    *source == view.me
}

/// The member that the tag names, if that is another one than the leader and the member itself, and is there.
fn named_by<'a>(
    tags: &Tags,
    member: &MemberName,
    cluster: &'a Cluster,
    leader: &MemberName,
) -> Option<&'a MemberName> {
    let named = tags.replicatefrom()?;
    let (named, _) = cluster.members.iter().find(|(name, _)| name.as_str() == named)?;
    (named != member && named != leader).then_some(named)
}

fn names_somebody_unknown(view: &View, cluster: &Cluster) -> bool {
    let named = view.tags.replicatefrom();
    named.is_some_and(|named| !cluster.members.keys().any(|name| name.as_str() == named))
}

/// A standby that runs, is on the leader's lineage, and gets WAL itself or at least misses little of it.
fn is_usable(view: &View, cluster: &Cluster, leader: &MemberName, source: &MemberName) -> bool {
    let Some(record) = cluster.members.get(source) else { return false };
    let runs = record.state == MemberState::Running && record.role == MemberRole::Replica;
    let position = record.position();
    let behind = |lsn: Lsn| lsn.lag_behind(cluster.status.optime.unwrap_or(lsn)).0;
    let keeps_up = position.is_some_and(|position| behind(position.lsn) <= view.policy.lag_bytes_max);
    let streams = record.replication_state.as_deref() == Some("streaming");
    let strays = match (cluster.lineage(), position) {
        (Some(lineage), Some(position)) => lineage.descent_of(position) == Descent::Diverged,
        (Some(_) | None, _) => false,
    };
    (runs && (streams || keeps_up) && !strays && !leaves_loop(view, cluster, leader))
        || fault::active(Fault::CascadesFromAnybody)
}

/// The tags lead back to this member. Whoever comes first in such a loop follows the leader; the others are right then.
fn leaves_loop(view: &View, cluster: &Cluster, leader: &MemberName) -> bool {
    if fault::active(Fault::CascadesInCircles) {
        return false;
    }
    let mut passed = BTreeSet::from([&view.me]);
    let mut at = named_by(&view.tags, &view.me, cluster, leader);
    while let Some(member) = at {
        if *member == view.me {
            return passed.first() == Some(&&view.me);
        }
        if !passed.insert(member) {
            return false;
        }
        at = cluster.members.get(member).and_then(|record| named_by(&record.tags, member, cluster, leader));
    }
    false
}
