//! Which standbys shall be synchronous. Who can be is a fact; who is, is kept as long as nothing speaks against it.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::resolver::Electorate;
use crate::model::{
    Cluster, Commits, Lsn, MemberName, MemberRecord, MemberState, Moment, Span, SyncMode, Synchrony, View,
};

/// A synchronous standby that stops streaming is waited for this long, commits with it: most come back at once.
const PATIENCE: Span = Span::from_secs(3);

/// Who leads and commits in the end, if nothing changes meanwhile. `here` holds now.
pub(super) fn wanted(
    view: &View,
    cluster: &Cluster,
    synchrony: &Synchrony,
    here: &Electorate,
) -> (Electorate, Commits) {
    let policy = &view.policy.sync;
    let quorum_mode = policy.mode == SyncMode::Quorum;
    let mut chosen = ranked(view, cluster, synchrony, here);
    if quorum_mode {
        // Who may not lead is only worth its word where others are too few.
        let able = chosen.iter().filter(|able| !able.barred).count();
        chosen.truncate(able.max(policy.node_count));
    } else {
        chosen.truncate(policy.node_count);
    }
    let voters: BTreeSet<MemberName> = chosen.into_iter().map(|able| able.name).collect();
    if voters.is_empty() && policy.strict {
        // Who has every commit keeps the right to lead, and commits wait until one of them is back.
        let commits = here.commits(quorum_mode);
        let commits = if commits.wait_for == 0 { Commits::blocked() } else { commits };
        return (here.clone(), commits);
    }
    let wait_for = if quorum_mode { policy.node_count.min(voters.len()) } else { voters.len() };
    let quorum = voters.len() - wait_for;
    let electorate = Electorate { leader: view.me.clone(), voters, quorum };
    let commits = electorate.commits(quorum_mode);
    (electorate, commits)
}

#[derive(Debug)]
struct Able {
    name: MemberName,
    barred: bool,
    present: bool,
    priority: i64,
    stands: bool,
    at: Lsn,
}

/// Best first.
fn ranked(view: &View, cluster: &Cluster, synchrony: &Synchrony, here: &Electorate) -> Vec<Able> {
    let standing = |name: &MemberName| here.voters.contains(name);
    let may = |(name, record): &(&MemberName, &MemberRecord)| {
        **name != view.me
            && record.state == MemberState::Running
            && !record.tags.nosync()
            // In the key the names stand between commas.
            && !name.as_str().contains(',')
    };
    let mut able: Vec<Able> = (cluster.members.iter())
        .filter(may)
        .filter_map(|(name, record)| {
            let at = answered(synchrony, name);
            (at.is_some() || (standing(name) && is_waited_for(view, name))).then(|| Able {
                name: name.clone(),
                barred: record.tags.nofailover(),
                present: at.is_some(),
                priority: record.tags.sync_priority(),
                stands: standing(name),
                at: at.unwrap_or_default(),
            })
        })
        .collect();
    if let Some(limit) = view.policy.sync.lag_bytes_max {
        let own =
            view.postgres.running().and_then(crate::model::Running::position).map(|position| position.lsn);
        let furthest = if able.len() < 2 { own } else { able.iter().map(|able| able.at).max() };
        let furthest = furthest.unwrap_or_default();
        able.retain(|able| !able.present || able.at.lag_behind(furthest).0 <= limit);
    }
    able.sort_by_key(|able| {
        let rank = (able.present, able.priority, able.stands, able.at);
        (able.barred, Reverse(rank), able.name.clone())
    });
    able
}

/// How far commits could wait for it. Where several call themselves so, the last of them counts.
fn answered(synchrony: &Synchrony, name: &MemberName) -> Option<Lsn> {
    rows(synchrony, name).map(|receiver| receiver.answered).min()
}

fn rows<'a>(
    synchrony: &'a Synchrony,
    name: &'a MemberName,
) -> impl Iterator<Item = &'a crate::model::Receiver> + 'a {
    synchrony.receivers.iter().filter(|receiver| receiver.name.eq_ignore_ascii_case(name.as_str()))
}

/// Who has everything up to `mark` on its disk.
pub(super) fn confirmed(cluster: &Cluster, synchrony: &Synchrony, mark: Lsn) -> BTreeSet<MemberName> {
    let has = |name: &&MemberName| {
        let furthest = rows(synchrony, name).map(|receiver| receiver.flushed).min();
        furthest.is_some_and(|flushed| mark <= flushed)
    };
    cluster.members.keys().filter(has).cloned().collect()
}

/// It streamed a moment ago, or this member has become the primary a moment ago and nobody has found it yet.
fn is_waited_for(view: &View, name: &MemberName) -> bool {
    let memory = &view.memory;
    let within = |since: Option<Moment>, patience| since.is_some_and(|at| view.now.since(at) < patience);
    within(memory.sync.seen.get(&name.as_str().to_ascii_lowercase()).copied(), PATIENCE)
        || within(memory.crashes.up_since, view.policy.loop_wait.max(PATIENCE))
}
