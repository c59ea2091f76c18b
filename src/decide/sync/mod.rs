//! Synchronous replication: who may lead without loss (the key `/sync`), and whose word commits wait for. What follows what is
//! the `resolver`'s business, which standbys are wanted is `choice`'s, who may be elected is `election`'s; here the present
//! state is put together, and one transition becomes one step.

mod choice;
mod election;
mod gate;
pub(crate) mod resolver;

pub(super) use election::{Right, barred, may_take_over, needs_votes, right};
pub(crate) use gate::gate_told;
pub(super) use gate::{gate_to_begin_with, opens_gate};

use super::Choice;
use super::fault::{self, Fault};
use crate::model::{
    Cluster, Commits, Errand, Job, Lease, Lsn, MemberName, Reason, Rule, Running, RunningJob, Span, Step,
    SyncMode, SyncNames, SyncState, View,
};
use resolver::{Electorate, Situation, Transition, is_safe};

/// Names that could not be set are set again after this.
const RETRY: Span = Span::from_secs(2);
const SETTLES: Span = Span::from_secs(5);

/// What a primary that holds the lease does next for the synchronous modes; none where there is nothing to do but to wait.
pub(super) fn keep(view: &View, cluster: &Cluster, lease: &Lease, running: &Running) -> Option<Choice> {
    if view.cut_off() || !super::shows_our_term(view, cluster, lease) || running.silent_since.is_some() {
        return None;
    }
    let write = |rule, next: &Electorate| Some(write(rule, cluster, lease, next));
    if let Some(choice) = unanswered(view, cluster, lease) {
        return Some(choice).filter(|choice| choice.step != Step::Wait);
    }
    let here = electorate(view, cluster);
    if view.policy.sync.mode == SyncMode::Off {
        return end(lease, cluster, running, here.is_some()).filter(|choice| may_set(view, choice));
    }
    let Some(here) = here else {
        return write(Rule::SyncBegins, &Electorate::only(&view.me));
    };
    let commits = Commits::read(&running.synchrony.names).filter(|_| running.synchrony.managed);
    let mine = here.taken_over_by(&view.me, view.policy.sync.mode == SyncMode::Quorum);
    let any = view.policy.sync.mode == SyncMode::Quorum;
    let Some(commits) = commits.filter(|commits| is_safe(&mine, commits)) else {
        let choice = set(begin_with(view, &mine, any));
        return may_set(view, &choice).then_some(choice);
    };
    if mine != here || !has_written(view, lease) {
        return write(Rule::SyncTakesOver, &mine);
    }
    let wanted = choice::wanted(view, cluster, &running.synchrony, &here);
    let proof = (view.memory.sync.proof.as_ref()).filter(|proof| proof.names == running.synchrony.names);
    let confirmed = proof.map(|proof| choice::confirmed(cluster, &running.synchrony, proof.mark));
    let situation = Situation { electorate: here, commits, confirmed, wanted };
    match resolver::next(&situation) {
        Transition::Settled | Transition::Await => None,
        Transition::Elect(next) => write(Rule::SyncWrites, &next),
        Transition::Commit(next) => Some(set(next)).filter(|choice| may_set(view, choice)),
    }
}

/// The mode has been switched off.
fn end(lease: &Lease, cluster: &Cluster, running: &Running, written: bool) -> Option<Choice> {
    if written {
        let errand = Errand::ClearSync { term: lease.term, version: version(cluster) };
        return Some(Choice::store(Rule::SyncEnds, errand));
    }
    let job = Job::Synchronize { names: SyncNames::Unmanaged };
    running.synchrony.managed.then(|| Choice::run(Rule::SyncEnds, job))
}

/// How a primary that leads undisturbed calls what it does.
pub(super) fn leads(view: &View, cluster: &Cluster, running: &Running) -> Reason {
    if running.is_gated() {
        return Rule::GateClosed.into();
    }
    if view.policy.sync.mode == SyncMode::Off {
        return Rule::LeaderStays.into();
    }
    let electorate = electorate(view, cluster);
    let alone = electorate.as_ref().is_none_or(|here| here.voters.is_empty());
    if commits_wait(cluster, running) {
        Rule::SyncBlocks.into()
    } else if alone && cluster.members.len() > 1 {
        Rule::SyncAlone.into()
    } else {
        Rule::LeaderStays.into()
    }
}

/// Fewer standbys stream than every commit waits for.
fn commits_wait(cluster: &Cluster, running: &Running) -> bool {
    let commits = Commits::read(&running.synchrony.names).unwrap_or_default();
    let present = choice::confirmed(cluster, &running.synchrony, Lsn::ZERO);
    commits.names.intersection(&present).count() < commits.wait_for
}

/// A new leader has nobody yet who could follow it without loss. Its first checkpoint may wait for that a little.
pub(super) fn is_settling(view: &View, cluster: &Cluster) -> bool {
    let new = view.memory.crashes.up_since.is_some_and(|since| view.now.since(since) < SETTLES);
    let alone = electorate(view, cluster).is_some_and(|here| here.voters.is_empty());
    new && alone && view.policy.sync.mode != SyncMode::Off && 1 < cluster.members.len()
}

/// A write of `/sync` that may still arrive. What holds is not known before the store shows another version than the one it
/// was to replace.
fn unanswered(view: &View, cluster: &Cluster, lease: &Lease) -> Option<Choice> {
    let version = version(cluster);
    let sent = (view.memory.sync.sent.as_ref())
        .filter(|sent| (sent.term, sent.version) == (lease.term, version))
        .filter(|_| !fault::active(Fault::SyncForgetsWrites))?;
    if sent.done || view.work.errand_since.is_some() {
        return Some(Choice::wait(Rule::SyncWrites));
    }
    let errand = Errand::WriteSync { term: lease.term, state: sent.state.clone(), version };
    Some(Choice::store(Rule::SyncWrites, errand))
}

/// An agent that was started again in its term does not know what the one before it has sent. A write of its own makes
/// that come too late.
fn has_written(view: &View, lease: &Lease) -> bool {
    view.memory.sync.written_in == Some(lease.term) || fault::active(Fault::SyncForgetsWrites)
}

/// A PostgreSQL is about to accept writes: what must be known, and stand in the store, before it does.
pub(super) fn before_writing(view: &View, cluster: &Cluster, lease: &Lease) -> Option<Choice> {
    let here = electorate(view, cluster).filter(|_| view.policy.sync.mode != SyncMode::Off)?;
    if let Some(choice) = unanswered(view, cluster, lease) {
        return Some(choice);
    }
    let mine = here.taken_over_by(&view.me, view.policy.sync.mode == SyncMode::Quorum);
    let stands = mine == here && has_written(view, lease);
    if stands || fault::active(Fault::SyncSkipsTakeover) {
        return None;
    }
    if view.work.errand_since.is_some() {
        return Some(Choice::wait(Rule::SyncTakesOver));
    }
    Some(write(Rule::SyncTakesOver, cluster, lease, &mine))
}

/// The names that a PostgreSQL begins to accept writes with.
pub(super) fn names_to_begin_with(view: &View, cluster: &Cluster) -> SyncNames {
    let any = view.policy.sync.mode == SyncMode::Quorum;
    if view.policy.sync.mode == SyncMode::Off {
        return SyncNames::Unmanaged;
    }
    let here = electorate(view, cluster).unwrap_or_else(|| Electorate::only(&view.me));
    SyncNames::Ours(begin_with(view, &here, any))
}

fn begin_with(view: &View, electorate: &Electorate, any: bool) -> Commits {
    let commits = electorate.commits(any);
    if commits.wait_for == 0 && view.policy.sync.strict { Commits::blocked() } else { commits }
}

/// The first checkpoint after a promotion may take minutes, and commits may be waiting.
pub(super) fn overtakes(view: &View, running: &RunningJob) -> Option<Choice> {
    let lease = view.lease_in_force()?;
    let (cluster, postgres) =
        (view.cluster()?, view.postgres.running().filter(|running| running.is_primary())?);
    if running.job != Job::Checkpoint || running.cancelled {
        return None;
    }
    let choice = keep(view, cluster, lease, postgres)?;
    match choice.step {
        Step::Run(_) => commits_wait(cluster, postgres).then(|| Choice::step(choice.reason, Step::Cancel)),
        Step::Wait | Step::Store(_) | Step::AskPeers(_) | Step::Cancel | Step::Exit => Some(choice),
    }
}

/// Does the key say who may lead?
pub(super) fn is_active(view: &View, cluster: &Cluster) -> bool {
    view.policy.sync.mode != SyncMode::Off && electorate(view, cluster).is_some()
}

/// The electorate that the store shows, in the members' own spelling. Its names are compared without case.
fn electorate(view: &View, cluster: &Cluster) -> Option<Electorate> {
    let state = &cluster.sync.as_ref()?.value;
    let known = |name: &MemberName| {
        let same = |other: &&MemberName| other.as_str().eq_ignore_ascii_case(name.as_str());
        let mut spelled = cluster.members.keys().chain([&view.me]);
        spelled.find(same).unwrap_or(name).clone()
    };
    Electorate::of(&SyncState {
        leader: state.leader.as_ref().map(known),
        quorum: state.quorum,
        standbys: state.standbys.iter().map(known).collect(),
    })
}

fn version(cluster: &Cluster) -> i64 {
    cluster.sync.as_ref().map_or(0, |sync| sync.version)
}

fn write(rule: Rule, cluster: &Cluster, lease: &Lease, next: &Electorate) -> Choice {
    let errand = Errand::WriteSync { term: lease.term, state: next.state(), version: version(cluster) };
    Choice::store(rule, errand)
}

fn set(commits: Commits) -> Choice {
    Choice::run(Rule::SyncNames, Job::Synchronize { names: SyncNames::Ours(commits) })
}

fn may_set(view: &View, choice: &Choice) -> bool {
    let failed_lately = view.memory.sync.failed_at.is_some_and(|at| view.now.since(at) < RETRY);
    !failed_lately || !matches!(choice.step, Step::Run(_))
}
