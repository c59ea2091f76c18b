//! The invariant of the resolver, looked at from outside: every set of members, every order of confirmations, a crash after
//! every step.

use super::*;
use crate::decide::fault;

fn name(name: &str) -> MemberName {
    name.parse().expect("a good name")
}

fn subsets(of: &BTreeSet<MemberName>) -> Vec<BTreeSet<MemberName>> {
    let all: Vec<&MemberName> = of.iter().collect();
    let chosen = |bits: usize| {
        let chosen = all.iter().enumerate().filter(|(index, _)| bits >> index & 1 == 1);
        chosen.map(|(_, name)| (*name).clone()).collect()
    };
    (0..1 << all.len()).map(chosen).collect()
}

fn standbys() -> BTreeSet<MemberName> {
    ["a", "b", "c"].map(name).into()
}

fn elections(electorate: &Electorate) -> Vec<BTreeSet<MemberName>> {
    let mut members = electorate.voters.clone();
    members.insert(electorate.leader.clone());
    let enough = |asked: &BTreeSet<MemberName>| asked.len() == electorate.quorum + 1;
    subsets(&members).into_iter().filter(enough).collect()
}

/// Commits that were acknowledged by these names, and who else has come to have them since.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Past {
    commits: Commits,
    holders: BTreeSet<MemberName>,
}

/// Does every election ask somebody who has the commit, whoever acknowledged it?
fn survives(past: &Past, electorate: &Electorate) -> bool {
    let words = subsets(&past.commits.names).into_iter().filter(|word| word.len() == past.commits.wait_for);
    words.into_iter().all(|word| {
        let has = |name: &MemberName| word.contains(name) || past.holders.contains(name);
        elections(electorate).iter().all(|asked| asked.iter().any(has))
    })
}

fn every_pair() -> Vec<(Electorate, Commits)> {
    let mut pairs = Vec::new();
    for voters in subsets(&standbys()) {
        for quorum in 0..=voters.len() {
            for names in subsets(&standbys()) {
                for wait_for in 0..=names.len() {
                    let electorate = Electorate { leader: name("l"), voters: voters.clone(), quorum };
                    let names = if wait_for == 0 { BTreeSet::new() } else { names.clone() };
                    pairs.push((electorate, Commits { wait_for, any: true, names }));
                }
            }
        }
    }
    pairs
}

fn every_target() -> Vec<(Electorate, Commits)> {
    let mut targets = Vec::new();
    for voters in subsets(&standbys()) {
        for wait_for in 1..=voters.len().max(1) {
            let quorum = voters.len().saturating_sub(wait_for);
            let electorate = Electorate { leader: name("l"), voters: voters.clone(), quorum };
            targets.push((electorate.clone(), electorate.commits(true)));
        }
    }
    targets
}

#[test]
fn what_is_called_safe_is_safe() {
    for (electorate, commits) in every_pair() {
        let past = Past { commits: commits.clone(), holders: [name("l")].into() };
        let truly = survives(&past, &electorate);
        assert!(truly || !is_safe(&electorate, &commits), "{electorate:?} {commits:?}");
    }
}

/// Walks from everywhere to everywhere. `law` names the first step that loses a commit.
fn walk(
    start: &(Electorate, Commits),
    target: &(Electorate, Commits),
    confirmations: usize,
) -> Result<usize, String> {
    let (mut electorate, mut commits) = start.clone();
    let leader = electorate.leader.clone();
    let mut past = vec![Past { commits: commits.clone(), holders: [leader.clone()].into() }];
    let mut confirmed = None;
    for step in 0..12 {
        look(&past, &electorate, step)?;
        let situation = Situation {
            electorate: electorate.clone(),
            commits: commits.clone(),
            confirmed: confirmed.clone(),
            wanted: target.clone(),
        };
        match next(&situation) {
            Transition::Settled => return Ok(step),
            Transition::Elect(next) => electorate = next,
            Transition::Commit(next) => {
                // While PostgreSQL takes them up both hold.
                past.push(Past { commits: next.clone(), holders: [leader.clone()].into() });
                look(&past, &electorate, step)?;
                commits = next;
                confirmed = Some(BTreeSet::new());
            }
            Transition::Await => {
                // One more standby has received what was committed before.
                let next = (0..3).map(|turn| ["a", "b", "c"][(turn + confirmations) % 3]).map(name);
                let known = confirmed.get_or_insert_default();
                let Some(new) = next.into_iter().find(|name| !known.contains(name)) else {
                    return Err(format!("waits for ever at {electorate:?} {commits:?}"));
                };
                let holds = past.len() - 1;
                for past in &mut past[..holds] {
                    past.holders.insert(new.clone());
                }
                known.insert(new);
            }
        }
    }
    Err(format!("does not arrive: {electorate:?} {commits:?}"))
}

/// Nobody can be elected who lacks a commit; and whoever is elected now, and takes over, can be followed by nobody who does.
fn look(past: &[Past], electorate: &Electorate, step: usize) -> Result<(), String> {
    if let Some(lost) = past.iter().find(|past| !survives(past, electorate)) {
        return Err(format!("step {step}: {electorate:?} loses {lost:?}"));
    }
    for elected in &electorate.voters {
        for quorum_mode in [false, true] {
            let next = electorate.taken_over_by(elected, quorum_mode);
            let with_it = |past: &Past| {
                let mut holders = past.holders.clone();
                holders.insert(elected.clone());
                Past { holders, ..past.clone() }
            };
            let commits = next.commits(quorum_mode);
            if !is_safe(&next, &commits) {
                return Err(format!("step {step}: {elected} takes over with {next:?} and {commits:?}"));
            }
            if let Some(lost) = past.iter().map(with_it).find(|past| !survives(past, &next)) {
                return Err(format!("step {step}: after {elected} took over, {next:?} loses {lost:?}"));
            }
        }
    }
    Ok(())
}

fn walk_everywhere() -> Result<usize, String> {
    let mut longest = 0;
    for start in every_pair().iter().filter(|(electorate, commits)| is_safe(electorate, commits)) {
        for target in every_target() {
            for confirmations in 0..3 {
                let steps = walk(start, &target, confirmations);
                longest = longest.max(steps.map_err(|law| format!("{start:?} to {target:?}: {law}"))?);
            }
        }
    }
    Ok(longest)
}

#[test]
fn no_step_on_any_way_loses_a_commit() {
    let longest = walk_everywhere().expect("no law is broken");
    assert!(2 <= longest, "there are ways of more than one step");
}

#[test]
fn every_shortcut_is_noticed() {
    for shortcut in [Fault::SyncElectsFirst, Fault::SyncSkipsRetreat, Fault::SyncTrustsUnconfirmed] {
        assert!(fault::with(shortcut, walk_everywhere).is_err(), "{shortcut:?} loses commits");
    }
}
