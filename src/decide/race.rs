//! The cluster has data and nobody leads it: who takes the lease?

use std::collections::BTreeSet;

use super::fault::{self, Fault};
use super::sync::{self, Right};
use super::{Choice, consent, fetch, fitness, fitness_told, may_try_again, take_lease};
use crate::model::{
    Cluster, FailoverRequest, Fitness, Guardian, Job, Lsn, MemberName, MemberRole, MemberState, Moment,
    Obstacle, PeerAnswer, PeerStatus, Position, Postgres, Question, Reason, Rule, Running, Span, Step,
    Timeline, View,
};

/// Answers older than this are asked for again.
const ANSWERS_KEEP: Span = Span::from_ms(1500);
/// How long a member whose key is alive may take to answer, and one whose key has gone.
pub(super) const PATIENCE_ALIVE: Span = Span::from_secs(1);
pub(super) const PATIENCE_GONE: Span = Span::from_ms(300);
/// No WAL for so long, which is two looks and a little more, and its writer is believed to be gone.
const UNFENCED_QUIET: Span = Span::from_ms(2_500);
const ASKS_ALOUD: Span = Span::from_secs(3);
/// A member that yields looks again after this.
pub(super) const YIELD: Span = Span::from_ms(500);

/// Who goes first. The order of the fields is the order of importance.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    fitness: Fitness,
    position: Position,
    priority: i64,
    /// A delayed standby would have to replay for long before it could lead.
    has_replayed: bool,
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
        Postgres::Stopped { control } if control.never_led => Choice::wait(Rule::BootstrapUnled),
        Postgres::Empty if view.policy.clones_without_leader => {
            if may_try_again(view, view.memory.failures.clones) {
                Choice::run(Rule::ClonesWithoutLeader, Job::CloneWithoutLeader)
            } else {
                Choice::wait(Rule::RejoinBacksOff)
            }
        }
        Postgres::Stopped { control }
            if (!control.backup_label || view.policy.restores_backups)
                && may_try_again(view, view.memory.failures.starts) =>
        {
            Choice::run(Rule::RaceStartsStandby, Job::StartStandby { upstream: None })
        }
        Postgres::Empty if nobody_else_has_data(view) => Choice::run(Rule::SiteClones, Job::CloneRemote),
        Postgres::Stopped { .. }
        | Postgres::Empty
        | Postgres::Unfinished { .. }
        | Postgres::Unusable { .. } => Choice::wait(Rule::RaceWaitsForData),
        Postgres::Unobserved => Choice::wait(Rule::LooksAtPostgres),
    }
}

/// The data was made here a moment ago, nobody else can have any, and there is all that has to guard it.
fn may_lead_its_creation(view: &View, cluster: &Cluster) -> bool {
    let made = (view.postgres.never_led()).then(|| view.postgres.system_id()).flatten();
    let made = made.or(view.memory.bootstrapped);
    made.is_some()
        && made == cluster.system_id()
        // A claim of its own that it has not begun to use, be it because its agent has died.
        && cluster.claim.as_ref().is_none_or(|claim| view.postgres.never_led() && claim.value.by == view.me)
        && cluster.history.is_empty()
        && view.guardian != Guardian::Absent
        && !view.lacks_watchdog()
}

/// Where a standby cluster has long had no leader, its data is to be had from the other cluster.
fn nobody_else_has_data(view: &View) -> bool {
    let copyable = view.policy.follows.as_ref().is_some_and(|remote| remote.address.is_some());
    let patience = view.policy.timing.ttl.times(2);
    let long = view.memory.no_leader_since.is_some_and(|since| patience <= view.now.since(since));
    copyable && long && may_try_again(view, view.memory.failures.starts)
}

fn candidate(view: &View, cluster: &Cluster, running: &Running, position: Position) -> Choice {
    if view.tags.nofailover() {
        return Choice::wait(Rule::CandidateBarred);
    }
    if let Some(forbidden) = consent::forbids(view) {
        // The answers may show that nobody leads on without the store.
        let wonders = forbidden.reason.rule == Rule::CandidateNotAsked && !answers_are_fresh(view);
        let ask = || Choice::step(Rule::CandidateNotAsked, Step::AskPeers(questions(view, cluster)));
        return if wonders { ask() } else { forbidden };
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
    if view.promotion_refused(view.now) {
        return Choice::wait(Rule::CandidateRefusedByHook);
    }
    // Every attempt uses a timeline up.
    if !may_try_again(view, view.memory.failures.promotions) {
        return Choice::wait(Rule::CandidateBacksOff);
    }
    let request = request(cluster);
    let named = named(cluster);
    // What nobody else can change is decided before anybody is asked. An operator's *failover* counts for more.
    let forced = named == Some(&view.me) && request.is_some_and(|request| !request.is_switchover());
    if sync::barred(view, cluster, &view.me) && !forced {
        return Choice::wait(Rule::CandidateNotSynchronous);
    }
    let lag = position.lsn.lag_behind(cluster.status.optime.unwrap_or(Lsn::ZERO));
    if request.is_none() && lag_limit(view, cluster) < lag.0 {
        return Choice::wait(Rule::CandidateTooFarBehind);
    }
    let on_old_timeline = checks_timeline(view) && position.timeline < led_timeline(cluster);
    if on_old_timeline && named != Some(&view.me) {
        return Choice::wait(Rule::CandidateOnOldTimeline);
    }
    if !answers_are_fresh(view) {
        return Choice::step(asks(view, cluster), Step::AskPeers(questions(view, cluster)));
    }
    // Our own position is one of those that are compared.
    let looked = view.peers.asked_at <= Some(view.looked_at) || fault::active(Fault::ComparesOldPosition);
    if !view.peers.complete || !looked {
        return Choice::wait(asks(view, cluster));
    }
    if let Some(peer) = standing(view).find(|(_, peer)| runs_as_primary(peer)).map(|(name, _)| name) {
        return Choice::wait(Reason::about(Rule::CandidateSeesPrimary, peer)).again_in(YIELD);
    }
    if let Some((leader, quiet_at)) = unfenced_primary(view, cluster) {
        return Choice::wait(Reason::about(Rule::CandidateSeesPrimary, leader))
            .again_in(view.now.until(quiet_at));
    }
    if let Right::Refused(rule) = sync::right(view, cluster, position)
        && !forced
    {
        return Choice::wait(rule).again_in(YIELD);
    }
    if named == Some(&view.me) {
        if let Some(choice) = fetch::first(view, cluster, running, position) {
            return choice;
        }
        return Choice::store(Rule::CandidateNamed, claim_next(view, cluster, position.timeline));
    }
    if let Some(peer) = request.and_then(|request| preferred_by(request, view, cluster)) {
        return Choice::wait(Reason::about(Rule::CandidateYieldsToNamed, peer)).again_in(YIELD);
    }
    let mine = Rank {
        priority: view.tags.failover_priority(),
        has_replayed: has_replayed(view, running.unreplayed()),
        ..rank(view, cluster, fitness_told(view, view.now), position)
    };
    let may_lead = |name: &MemberName, peer: &PeerStatus| {
        eligible(peer) && !sync::barred(view, cluster, name) && consent::may_take(view, cluster, name)
    };
    let ahead = standing(view).filter(|(name, peer)| may_lead(name, peer)).find(|(_, peer)| {
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

/// A leader of Patroni's, or one in maintenance mode, whose key has run out may have lost its agent and not its PostgreSQL: no
/// guardian has stopped that. Where its WAL goes on arriving it lives, and is not deposed. An agent that is there answers for
/// itself: one that gave its key back, or one that has just come back and takes the key again.
fn unfenced_primary<'a>(view: &'a View, cluster: &Cluster) -> Option<(&'a MemberName, Moment)> {
    let leader = view.memory.unfenced_leader.as_ref()?;
    let answers = matches!(view.peers.answers.get(leader), Some(PeerAnswer::Stands(_)));
    let unheard = !(answers && cluster.members.contains_key(leader));
    let since = view.memory.no_leader_since?;
    let moved_at = view.memory.received.map_or(since, |(_, at)| since.max(at));
    let quiet_at = moved_at + UNFENCED_QUIET;
    let expired = unheard && view.memory.last_leader.as_ref() == Some(leader);
    let waits = expired && view.now < quiet_at && !fault::active(Fault::DeposesTheUnfenced);
    waits.then_some((leader, quiet_at))
}

/// Whoever lacks votes asks again and again, and does not say so each time.
fn asks(view: &View, cluster: &Cluster) -> Rule {
    let long = view.memory.no_leader_since.is_some_and(|since| ASKS_ALOUD < view.now.since(since));
    if long && sync::needs_votes(view, cluster) { Rule::CandidateLacksVotes } else { Rule::RaceAsks }
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

/// The timelines of a standby cluster are another cluster's.
fn checks_timeline(view: &View) -> bool {
    view.policy.check_timeline && view.policy.follows.is_none()
}

fn led_timeline(cluster: &Cluster) -> Timeline {
    cluster.history.last().map_or(Timeline::FIRST, |line| line.timeline.next())
}

/// Answers count if they were asked for after the last leader had gone: only then are positions final.
pub(super) fn answers_are_fresh(view: &View) -> bool {
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
    obstacle(peer).is_none()
}

/// What keeps a member from leading, by its own words.
pub(super) fn obstacle(peer: &PeerStatus) -> Option<Obstacle> {
    if peer.tags.nofailover() {
        Some(Obstacle::NoFailover)
    } else if peer.watchdog_failed {
        Some(Obstacle::CannotBeFenced)
    } else if peer.state != MemberState::Running {
        Some(Obstacle::NotRunning(peer.state))
    } else {
        (peer.fitness == Fitness::Unfit).then_some(Obstacle::Unfit)
    }
}

fn rank_of(view: &View, cluster: &Cluster, peer: &PeerStatus) -> Option<Rank> {
    Some(Rank {
        priority: peer.tags.failover_priority(),
        has_replayed: has_replayed(view, peer.unreplayed),
        ..rank(view, cluster, peer.fitness, peer.position?)
    })
}

/// Coarse, so that two who replay at full speed do not each take the other for the further one.
fn has_replayed(view: &View, unreplayed: u64) -> bool {
    unreplayed <= view.policy.lag_bytes_max
}

/// Everybody must rank everybody alike. Being fit counts only for who may take the lease by its position: who is a last
/// resort would otherwise wait for somebody who waits as well.
fn rank(view: &View, cluster: &Cluster, fitness: Fitness, position: Position) -> Rank {
    let lag = position.lsn.lag_behind(cluster.status.optime.unwrap_or(Lsn::ZERO));
    let on_old_timeline = checks_timeline(view) && position.timeline < led_timeline(cluster);
    let may_take = lag.0 <= lag_limit(view, cluster) && !on_old_timeline;
    let fitness = if may_take { fitness } else { fitness.min(Fitness::LastResort) };
    Rank { fitness, position, priority: 0, has_replayed: false }
}

/// Where it is known who has every commit, what the leader has written beyond was never acknowledged.
fn lag_limit(view: &View, cluster: &Cluster) -> u64 {
    if sync::is_active(view, cluster) { u64::MAX } else { view.policy.lag_bytes_max }
}

/// The member that a request prefers to this one, if it can take over.
fn preferred_by<'a>(
    request: &'a FailoverRequest,
    view: &'a View,
    cluster: &Cluster,
) -> Option<&'a MemberName> {
    let may = |name: &MemberName, peer: &PeerStatus| {
        let barred = request.is_switchover() && sync::barred(view, cluster, name);
        eligible(peer) && !barred && consent::may_take(view, cluster, name)
    };
    match (&request.candidate, &request.leader) {
        (Some(named), _) => {
            standing(view).find(|(name, peer)| *name == named && may(name, peer)).map(|(name, _)| name)
        }
        (None, Some(leader)) if *leader == view.me => {
            standing(view).find(|(name, peer)| may(name, peer)).map(|(name, _)| name)
        }
        (None, Some(_) | None) => None,
    }
}
