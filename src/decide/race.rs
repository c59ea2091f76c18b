//! The cluster has data and nobody leads it: who takes the lease?

use std::collections::BTreeSet;

use super::fault::{self, Fault};
use super::{Choice, consent, fitness, fitness_told, may_try_again, take_lease};
use crate::model::{
    Cluster, FailoverRequest, Fitness, Guardian, Job, Lsn, MemberName, MemberRole, MemberState, Moment,
    PeerAnswer, PeerStatus, Position, Postgres, Question, Reason, Rule, Running, Span, Step, Timeline, View,
};

/// Answers older than this are asked for again.
const ANSWERS_KEEP: Span = Span::from_ms(1500);
/// How long a member whose key is alive may take to answer, and one whose key has gone.
const PATIENCE_ALIVE: Span = Span::from_secs(1);
const PATIENCE_GONE: Span = Span::from_ms(300);
/// No WAL for so long, which is two looks and a little more, and its writer is believed to be gone.
const UNFENCED_QUIET: Span = Span::from_ms(2_500);
/// A member that yields looks again after this.
const YIELD: Span = Span::from_ms(500);

/// Who goes first. The order of the fields is the order of importance.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    fitness: Fitness,
    position: Position,
    priority: i64,
}

pub(super) fn choose(view: &View, cluster: &Cluster) -> Choice {
    match &view.postgres {
        Postgres::Running(running) => match running.position() {
            Some(position) => candidate(view, cluster, running, position),
            None => Choice::wait(Rule::CandidateUnknown),
        },
        Postgres::Starting { .. } => Choice::wait(Rule::RaceStarting),
        Postgres::Stopped { control } if may_lead_its_creation(view, cluster) => {
            Choice::store(Rule::BootstrapLeads, take_lease(cluster, control.position().timeline))
        }
        Postgres::Stopped { control }
            if !control.backup_label && may_try_again(view, view.memory.failures.starts) =>
        {
            Choice::run(Rule::RaceStartsStandby, Job::StartStandby { upstream: None })
        }
        Postgres::Stopped { .. }
        | Postgres::Empty
        | Postgres::Unfinished { .. }
        | Postgres::Unusable { .. } => Choice::wait(Rule::RaceWaitsForData),
        Postgres::Unobserved => Choice::wait(Rule::LooksAtPostgres),
    }
}

/// The data was made here a moment ago, nobody else can have any, and there is all that has to guard it.
fn may_lead_its_creation(view: &View, cluster: &Cluster) -> bool {
    view.memory.bootstrapped.is_some()
        && view.memory.bootstrapped == cluster.system_id()
        && cluster.claim.is_none()
        && cluster.history.is_empty()
        && view.guardian != Guardian::Absent
        && !view.lacks_watchdog()
}

fn candidate(view: &View, cluster: &Cluster, running: &Running, position: Position) -> Choice {
    if view.tags.nofailover() {
        return Choice::wait(Rule::CandidateBarred);
    }
    if let Some(forbidden) = consent::forbids(view) {
        return forbidden;
    }
    // Neither could be promoted.
    if running.silent_since.is_some() && !fault::active(Fault::TakesUnfit) {
        return Choice::wait(Rule::CandidateSilent);
    }
    if fitness(view) == Fitness::Unfit && !fault::active(Fault::TakesUnfit) {
        return Choice::wait(Rule::CandidateDiskStalled);
    }
    if view.guardian == Guardian::Absent {
        return Choice::wait(Rule::CandidateWithoutGuardian);
    }
    if view.lacks_watchdog() && !fault::active(Fault::LeadsUnwatched) {
        return Choice::wait(Rule::CandidateWithoutWatchdog);
    }
    // Every attempt uses a timeline up.
    if !may_try_again(view, view.memory.failures.promotions) {
        return Choice::wait(Rule::CandidateBacksOff);
    }
    let request = request(cluster);
    let named = named(cluster);
    // What nobody else can change is decided before anybody is asked.
    let lag = position.lsn.lag_behind(cluster.status.optime.unwrap_or(Lsn::ZERO));
    if request.is_none() && view.policy.lag_bytes_max < lag.0 {
        return Choice::wait(Rule::CandidateTooFarBehind);
    }
    let on_old_timeline = view.policy.check_timeline && position.timeline < led_timeline(cluster);
    if on_old_timeline && named != Some(&view.me) {
        return Choice::wait(Rule::CandidateOnOldTimeline);
    }
    if !answers_are_fresh(view) {
        return Choice::step(Rule::RaceAsks, Step::AskPeers(questions(view, cluster)));
    }
    // Our own position is one of those that are compared.
    let looked = view.peers.asked_at <= Some(view.looked_at) || fault::active(Fault::ComparesOldPosition);
    if !view.peers.complete || !looked {
        return Choice::wait(Rule::RaceAsks);
    }
    if let Some(peer) = standing(view).find(|(_, peer)| runs_as_primary(peer)).map(|(name, _)| name) {
        return Choice::wait(Reason::about(Rule::CandidateSeesPrimary, peer)).again_in(YIELD);
    }
    if let Some((leader, quiet_at)) = unfenced_primary(view, cluster) {
        return Choice::wait(Reason::about(Rule::CandidateSeesPrimary, leader))
            .again_in(view.now.until(quiet_at));
    }
    if named == Some(&view.me) {
        return Choice::store(Rule::CandidateNamed, claim_next(view, cluster, position.timeline));
    }
    if let Some(peer) = request.and_then(|request| preferred_by(request, view, cluster)) {
        return Choice::wait(Reason::about(Rule::CandidateYieldsToNamed, peer)).again_in(YIELD);
    }
    let mine = rank(view, cluster, fitness_told(view, view.now), position, view.tags.failover_priority());
    let may_take =
        |name: &MemberName, peer: &PeerStatus| eligible(peer) && consent::may_take(view, cluster, name);
    let ahead = standing(view).filter(|(name, peer)| may_take(name, peer)).find(|(_, peer)| {
        rank_of(view, cluster, peer).is_some_and(|rank| mine < rank) && !fault::active(Fault::YieldsToNobody)
    });
    match ahead {
        Some((peer, _)) => Choice::wait(Reason::about(Rule::CandidateYields, peer)).again_in(YIELD),
        None => Choice::store(Rule::CandidateTakes, claim_next(view, cluster, position.timeline)),
    }
}

/// A request that is meant now.
fn request(cluster: &Cluster) -> Option<&FailoverRequest> {
    (cluster.failover.as_ref().map(|request| &request.value))
        .filter(|request| !request.is_empty() && request.scheduled_at.is_none())
}

/// Who shall lead, if somebody has said so.
pub(super) fn named(cluster: &Cluster) -> Option<&MemberName> {
    request(cluster)?.candidate.as_ref()
}

/// A leader of Patroni's whose key has run out may have lost its agent and not its PostgreSQL: no guardian has stopped that.
/// Where its WAL goes on arriving it lives, and is not deposed. A key that was given back leaves its owner's record there.
fn unfenced_primary<'a>(view: &'a View, cluster: &Cluster) -> Option<(&'a MemberName, Moment)> {
    let leader = view.memory.unfenced_leader.as_ref()?;
    let expired = !cluster.members.contains_key(leader) && view.memory.last_leader.as_ref() == Some(leader);
    let since = view.memory.no_leader_since?;
    let moved_at = view.memory.received.map_or(since, |(_, at)| since.max(at));
    let quiet_at = moved_at + UNFENCED_QUIET;
    let waits = expired && view.now < quiet_at && !fault::active(Fault::DeposesTheUnfenced);
    waits.then_some((leader, quiet_at))
}

/// The next timeline is above every one that anybody has led, claimed or reached.
fn claim_next(view: &View, cluster: &Cluster, mine: Timeline) -> crate::model::Errand {
    if fault::active(Fault::IgnoresClaims) {
        return take_lease(cluster, mine.next());
    }
    let reached =
        standing(view).filter_map(|(_, peer)| peer.position).map(|position| position.timeline).max();
    let highest = cluster.highest_timeline().max(mine).max(reached.unwrap_or(mine));
    take_lease(cluster, highest.next())
}

fn led_timeline(cluster: &Cluster) -> Timeline {
    cluster.history.last().map_or(Timeline::FIRST, |line| line.timeline.next())
}

/// Answers count if they were asked for after the last leader had gone: only then are positions final.
fn answers_are_fresh(view: &View) -> bool {
    if fault::active(Fault::UsesOldAnswers) {
        return view.peers.asked_at.is_some();
    }
    let after_the_leader = |asked: Moment| view.memory.no_leader_since.is_some_and(|since| since <= asked);
    view.peers.asked_at.is_some_and(|asked| after_the_leader(asked) && view.now.since(asked) < ANSWERS_KEEP)
}

fn questions(view: &View, cluster: &Cluster) -> Vec<Question> {
    let everybody: BTreeSet<&MemberName> =
        cluster.members.keys().chain(view.memory.electorate.keys()).chain(cluster.failsafe.keys()).collect();
    let ask = |member: &MemberName| Question {
        member: member.clone(),
        patience: if cluster.members.contains_key(member) { PATIENCE_ALIVE } else { PATIENCE_GONE },
    };
    everybody.into_iter().filter(|&member| *member != view.me).map(ask).collect()
}

pub(super) fn standing(view: &View) -> impl Iterator<Item = (&MemberName, &PeerStatus)> {
    view.peers.answers.iter().filter_map(|(name, answer)| match answer {
        PeerAnswer::Stands(status) => Some((name, status)),
        PeerAnswer::Silent => None,
    })
}

fn runs_as_primary(peer: &PeerStatus) -> bool {
    peer.role == MemberRole::Primary && peer.state == MemberState::Running
}

pub(super) fn eligible(peer: &PeerStatus) -> bool {
    !peer.tags.nofailover()
        && !peer.watchdog_failed
        && peer.state == MemberState::Running
        && peer.fitness != Fitness::Unfit
}

fn rank_of(view: &View, cluster: &Cluster, peer: &PeerStatus) -> Option<Rank> {
    Some(rank(view, cluster, peer.fitness, peer.position?, peer.tags.failover_priority()))
}

/// Everybody must rank everybody alike. Being fit counts only for who may take the lease by its position: who is a last
/// resort would otherwise wait for somebody who waits as well.
fn rank(view: &View, cluster: &Cluster, fitness: Fitness, position: Position, priority: i64) -> Rank {
    let lag = position.lsn.lag_behind(cluster.status.optime.unwrap_or(Lsn::ZERO));
    let on_old_timeline = view.policy.check_timeline && position.timeline < led_timeline(cluster);
    let may_take = lag.0 <= view.policy.lag_bytes_max && !on_old_timeline;
    Rank { fitness: if may_take { fitness } else { fitness.min(Fitness::LastResort) }, position, priority }
}

/// The member that a request prefers to this one, if it can take over.
fn preferred_by<'a>(
    request: &'a FailoverRequest,
    view: &'a View,
    cluster: &Cluster,
) -> Option<&'a MemberName> {
    let may_take =
        |name: &MemberName, peer: &PeerStatus| eligible(peer) && consent::may_take(view, cluster, name);
    match (&request.candidate, &request.leader) {
        (Some(named), _) => {
            standing(view).find(|(name, peer)| *name == named && eligible(peer)).map(|(name, _)| name)
        }
        (None, Some(leader)) if *leader == view.me => {
            standing(view).find(|(name, peer)| may_take(name, peer)).map(|(name, _)| name)
        }
        (None, Some(_) | None) => None,
    }
}
