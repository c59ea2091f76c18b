//! The transitions of the synchronous modes, as a pure function from what holds to the one thing to change next.
//!
//! Two things are changed in turn: the *electorate* (the key `/sync`: who may be elected, and by how many) and the *commits*
//! (`synchronous_standby_names`: whose word an acknowledgement waits for). Between any two steps, and with a crash in between,
//! this holds:
//!
//! > Whoever may be elected has every commit that was acknowledged.
//!
//! A member is elected if it is as far as `quorum + 1` of {leader} ∪ voters, itself among them. A commit is acknowledged when it
//! is on the leader's disk and on those of `wait_for` of the names. The two overlap in at least one member if
//!
//! > |{leader} ∪ voters ∪ names| ≤ quorum + wait_for + 1,    or every election needs the leader itself.
//!
//! The mode `on` is the case of quorum 0: each voter may lead alone, so commits wait for every one of them.
//! Commits of before are the other half: an electorate that asks less of a member than the one before may only hold once
//! enough of its voters have what was committed before the present names were in force.

use std::collections::BTreeSet;

use super::super::fault::{self, Fault};
use crate::model::{Commits, MemberName, SyncState};

/// Who may be elected.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Electorate {
    pub leader: MemberName,
    pub voters: BTreeSet<MemberName>,
    pub quorum: usize,
}

/// What holds, and what shall.
#[derive(Clone, Debug)]
pub(crate) struct Situation {
    pub electorate: Electorate,
    pub commits: Commits,
    /// Who has everything that was committed before the present names were in force, beside the leader; nothing if it is not
    /// known since when they are.
    pub confirmed: Option<BTreeSet<MemberName>>,
    pub wanted: (Electorate, Commits),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Transition {
    Settled,
    /// The next electorate.
    Elect(Electorate),
    /// The next names. Those that hold already: see since when they do.
    Commit(Commits),
    /// Until standbys have what was committed before.
    Await,
}

pub(crate) fn next(now: &Situation) -> Transition {
    let (here, commits) = (&now.electorate, &now.commits);
    let (there, wanted) = (&now.wanted.0, &now.wanted.1);
    if !is_safe(here, commits) {
        return Transition::Commit(here.commits(wanted.any));
    }
    if here == there {
        return if commits == wanted { Transition::Settled } else { Transition::Commit(wanted.clone()) };
    }
    if fault::active(Fault::SyncElectsFirst) {
        return Transition::Elect(there.clone());
    }
    if is_safe(there, commits) {
        return towards(now);
    }
    // Commits must ask for more before the electorate may ask for less, …
    let together = here.voters.union(&there.voters).count();
    let more = together.saturating_sub(here.quorum).max(wanted.wait_for);
    if more <= wanted.names.len() {
        let strict = Commits { wait_for: more, ..wanted.clone() };
        if is_safe(there, &strict) {
            return Transition::Commit(strict);
        }
    }
    // … or the electorate for more before commits may ask for less.
    let voters: BTreeSet<MemberName> = here.voters.intersection(&there.voters).cloned().collect();
    let quorum = here.quorum.min(voters.len()).max(there.quorum);
    let retreat = Electorate { leader: here.leader.clone(), voters, quorum };
    if retreat == *here || fault::active(Fault::SyncSkipsRetreat) {
        Transition::Commit(wanted.clone())
    } else {
        Transition::Elect(retreat)
    }
}

/// The names in force allow the wanted electorate. Do enough of its voters have what was committed before?
fn towards(now: &Situation) -> Transition {
    let (here, there) = (&now.electorate, &now.wanted.0);
    let nobody = BTreeSet::new();
    let confirmed = now.confirmed.as_ref().unwrap_or(&nobody);
    if here.is_followed_by(there, confirmed) || fault::active(Fault::SyncTrustsUnconfirmed) {
        return Transition::Elect(there.clone());
    }
    if now.confirmed.is_none() {
        return Transition::Commit(now.commits.clone());
    }
    if here.quorum == 0 && there.quorum == 0 {
        let has_all = |name: &&MemberName| confirmed.contains(*name) || here.voters.contains(*name);
        let voters: BTreeSet<MemberName> = there.voters.iter().filter(has_all).cloned().collect();
        if voters != here.voters {
            return Transition::Elect(Electorate { voters, ..there.clone() });
        }
    }
    Transition::Await
}

/// Can nobody be elected under `electorate` who lacks a commit acknowledged under `commits`?
pub(crate) fn is_safe(electorate: &Electorate, commits: &Commits) -> bool {
    let others = commits.names.iter().filter(|name| **name != electorate.leader);
    let together = electorate.voters.union(&others.cloned().collect()).count();
    electorate.needs_leader() || commits.is_blocked() || together <= electorate.quorum + commits.wait_for
}

impl Electorate {
    pub fn of(state: &SyncState) -> Option<Electorate> {
        let leader = state.leader.clone()?;
        let same = |name: &&MemberName| !name.as_str().eq_ignore_ascii_case(leader.as_str());
        let voters = state.standbys.iter().filter(same).cloned().collect();
        Some(Electorate { voters, quorum: usize::try_from(state.quorum).unwrap_or(usize::MAX), leader })
    }

    pub fn only(leader: &MemberName) -> Electorate {
        Electorate { leader: leader.clone(), voters: BTreeSet::new(), quorum: 0 }
    }

    pub fn state(&self) -> SyncState {
        SyncState {
            leader: Some(self.leader.clone()),
            quorum: u32::try_from(self.quorum).unwrap_or(u32::MAX),
            standbys: self.voters.iter().cloned().collect(),
        }
    }

    pub fn contains(&self, name: &MemberName) -> bool {
        let same = |known: &MemberName| known.as_str().eq_ignore_ascii_case(name.as_str());
        same(&self.leader) || self.voters.iter().any(same)
    }

    /// Nobody is elected without it.
    fn needs_leader(&self) -> bool {
        self.voters.len() <= self.quorum
    }

    /// The fewest words that a commit must wait for under this electorate.
    pub fn commits(&self, any: bool) -> Commits {
        let wait_for = self.voters.len().saturating_sub(self.quorum);
        if wait_for == 0 {
            return Commits::alone();
        }
        Commits { wait_for, any: any || wait_for < self.voters.len(), names: self.voters.clone() }
    }

    /// May `next` hold after this one? Either it asks no less of whoever is elected, or whoever is elected has asked somebody
    /// who has confirmed, or the leader.
    fn is_followed_by(&self, next: &Electorate, confirmed: &BTreeSet<MemberName>) -> bool {
        let strangers = next.voters.difference(&self.voters).count();
        let asks_no_less = self.leader == next.leader && self.quorum + strangers <= next.quorum;
        let unconfirmed = next.voters.iter().filter(|name| !confirmed.contains(*name)).count();
        asks_no_less || unconfirmed <= next.quorum
    }

    /// `me` leads now: what holds from then on, before its first commit. Elected by `mode on`, everybody who could have been
    /// elected instead has every commit so far; the former leader is gone, and commits shall not wait for it. In the quorum
    /// mode it becomes a voter like others.
    pub fn taken_over_by(&self, me: &MemberName, quorum_mode: bool) -> Electorate {
        if self.leader == *me {
            return self.clone();
        }
        let mut voters = self.voters.clone();
        let was_voter = voters.remove(me);
        if self.quorum == 0 {
            // Nobody knows how far a member that nobody could elect had come.
            return if was_voter {
                Electorate { leader: me.clone(), voters, quorum: 0 }
            } else {
                Electorate::only(me)
            };
        }
        if !quorum_mode {
            return Electorate::only(me);
        }
        voters.insert(self.leader.clone());
        Electorate { leader: me.clone(), voters, quorum: self.quorum + usize::from(!was_voter) }
    }
}

#[cfg(test)]
#[path = "resolver_tests.rs"]
mod tests;
