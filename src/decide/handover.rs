//! A leader gives the lease to somebody who has every record: because it was asked to, or because it ends.

use std::collections::BTreeMap;

use super::fault::{self, Fault};
use super::race::{eligible, standing};
use super::{Choice, fitness, race, sync};
use crate::model::{
    Cluster, Control, ControlState, Disk, Errand, FailoverRequest, Fitness, Job, Lag, Lease, MemberName,
    MemberRole, Obstacle, PeerAnswer, PeerStatus, Position, Question, Reason, Rule, Running, Span, Step,
    SyncMode, Versioned, View,
};

/// An orderly stop that takes longer is cut short; a switchover is then given up.
const STOP_BUDGET: Span = Span::from_secs(30);
/// How long a candidate may take to receive the last record.
const CONFIRM_BUDGET: Span = Span::from_secs(10);
const ENDING_BUDGET: Span = Span::from_secs(3);
const PATIENCE: Span = Span::from_secs(1);
/// How late a scheduled switchover may begin, at least.
const LATENESS: Span = Span::from_secs(15);
/// How old answers may be when a candidate is chosen, and when it is only waited for. The first is longer than the
/// patience: a round that had to wait for somebody silent must still count when it ends.
pub(super) const ANSWERS_KEEP: Span = Span::from_secs(2);
/// How often a leader with a full disk asks whether somebody has room, and how long it stays where handing over failed.
const FULL_ASKS_EVERY: Span = Span::from_secs(10);
const FULL_IN_VAIN: Span = Span::from_secs(300);
const CONFIRM_EVERY: Span = Span::from_ms(50);

/// A primary leads and looks whether somebody wants it to hand over.
pub(super) fn requested(view: &View, cluster: &Cluster, running: &Running) -> Option<Choice> {
    let Versioned { value: request, version } = cluster.failover.as_ref()?;
    let clear = |rule| Some(Choice::store(rule, Errand::ClearFailover { version: *version }));
    if request.is_empty() {
        return None;
    }
    // Who has promised to leave the lease to this member would leave it alone.
    if view.memory.others_bound_until.is_some_and(|bound| view.now < bound) {
        return None;
    }
    if request.scheduled_at.is_some() && !is_due(view) {
        return None;
    }
    if request.scheduled_at.is_some() && view.memory.switchover_due? + lateness_max(view) < view.now {
        return clear(Rule::SwitchoverStale);
    }
    let for_others = request.leader.as_ref().is_some_and(|leader| *leader != view.me);
    if for_others || request.candidate.as_ref() == Some(&view.me) {
        return clear(Rule::LeaderClearsRequest);
    }
    if request.scheduled_at.is_some() {
        // Everybody must know that it is meant now: whoever is named, and whoever would have to yield.
        let request = FailoverRequest { scheduled_at: None, ..request.clone() };
        let errand = Errand::MakeDue { request, version: *version };
        return Some(Choice::store(Rule::SwitchoverFallsDue, errand));
    }
    let (_, seen) = view.memory.request_seen?;
    if !answers_younger_than(view, ANSWERS_KEEP) || view.peers.asked_at < Some(seen) {
        return Some(Choice::step(
            Rule::SwitchoverAsks,
            Step::AskPeers(questions(view, cluster, Some(request))),
        ));
    }
    if !view.peers.complete {
        return Some(Choice::wait(Rule::SwitchoverAsks));
    }
    // Nobody is asked to take over who would do it worse.
    let no_worse = fitness(view).max(Fitness::LastResort);
    match best_candidate(view, cluster, Some(request), running.position()?, no_worse) {
        Some(_) if fault::active(Fault::ReleasesBeforeStop) => {
            let term = view.lease?.term;
            Some(Choice::store(Rule::SwitchoverReleases, Errand::ReleaseLease { term }))
        }
        // A standby that leads has nothing to finish.
        Some(to) if !running.is_primary() => {
            let term = view.lease?.term;
            let reason = Reason::about(Rule::SwitchoverReleases, to);
            Some(Choice::store(reason, Errand::ReleaseLease { term }))
        }
        Some(to) => Some(stop_for(view, Rule::SwitchoverStops, Some(to))),
        None => clear(Rule::SwitchoverImpossible),
    }
}

fn is_due(view: &View) -> bool {
    view.memory.switchover_due.is_some_and(|due| due <= view.now)
}

/// What could not begin in time is not wanted any more.
fn lateness_max(view: &View) -> Span {
    view.policy.loop_wait.scaled(3, 2).max(LATENESS)
}

/// How long until a scheduled switchover wants to be looked at.
pub(super) fn until_due(view: &View) -> Span {
    match view.memory.switchover_due {
        Some(due) if view.now < due => view.now.until(due),
        Some(_) | None => super::LOOK_AGAIN,
    }
}

/// Whether somebody who is fit can take over from a leader that is not.
pub(super) enum Successor<'a> {
    /// It must be asked first.
    Ask(Step),
    /// It has been asked.
    Asked,
    Somebody(&'a MemberName),
    Nobody,
}

/// Looks for somebody who is fit and on the lineage that ends here, or close enough to its end.
pub(super) fn successor<'a>(view: &'a View, cluster: &Cluster, here: Position) -> Successor<'a> {
    if !answers_younger_than(view, ANSWERS_KEEP) {
        return Successor::Ask(Step::AskPeers(questions(view, cluster, None)));
    }
    if !view.peers.complete {
        return Successor::Asked;
    }
    let written = here.lsn.max(cluster.status.optime.unwrap_or(here.lsn));
    let wanted = if fault::active(Fault::MakesWayForAnybody) { Fitness::LastResort } else { Fitness::Fit };
    match best_candidate(view, cluster, None, Position { lsn: written, ..here }, wanted) {
        Some(member) => Successor::Somebody(member),
        None => Successor::Nobody,
    }
}

/// Has everybody who could lead said that it cannot? Silence is no such answer.
pub(super) fn nobody_else_can_lead(view: &View) -> bool {
    let Some(cluster) = view.cluster().filter(|_| view.peers.complete) else { return false };
    let cannot = |name: &MemberName| match view.peers.answers.get(name) {
        _ if sync::barred(view, cluster, name) => true,
        Some(PeerAnswer::Stands(peer)) => !eligible(peer),
        Some(PeerAnswer::Silent) | None => false,
    };
    answers_younger_than(view, ANSWERS_KEEP)
        && (cluster.members.iter())
            .filter(|(name, record)| **name != view.me && !record.tags.nofailover())
            .all(|(name, _)| cannot(name))
}

/// The leader's disk is full: hand over in good order while that is still possible, but only to somebody with room.
pub(super) fn because_full(view: &View, cluster: &Cluster, running: &Running) -> Option<Choice> {
    let in_vain = |at| view.now.since(at) < FULL_IN_VAIN;
    if !view.disk.is_full() || view.memory.handover_in_vain_at.is_some_and(in_vain) {
        return None;
    }
    let asked_lately = answers_younger_than(view, FULL_ASKS_EVERY);
    let stale = !answers_younger_than(view, ANSWERS_KEEP);
    if asked_lately && stale {
        return None;
    }
    match successor(view, cluster, running.position()?) {
        Successor::Ask(step) => Some(Choice::step(Rule::LeaderDiskFull, step)),
        Successor::Asked | Successor::Nobody => None,
        Successor::Somebody(to) if has_room(view, to) => {
            Some(stop_for(view, Rule::DiskFullHandsOver, Some(to)))
        }
        Successor::Somebody(_) => None,
    }
}

fn has_room(view: &View, member: &MemberName) -> bool {
    let free = |peer: &PeerStatus| peer.free_bytes.is_none_or(|free| Disk::ROOMY_FROM <= free);
    standing(view).any(|(name, peer)| name == member && free(peer))
        || fault::active(Fault::MakesWayForAnybody)
}

/// The leader has stopped PostgreSQL in order to hand over.
pub(super) fn stopped(view: &View, cluster: &Cluster, lease: &Lease, control: &Control) -> Option<Choice> {
    let handover = view.memory.handover.as_ref()?;
    let request = cluster.failover.as_ref();
    let late = CONFIRM_BUDGET < view.now.since(handover.begun_at);
    let in_good_order = control.state == ControlState::ShutDown;
    if let Some(to) = holder_of_last_record(view, cluster, request.map(|r| &r.value), control)
        && in_good_order
    {
        let reason = Reason::about(Rule::SwitchoverReleases, to);
        return Some(Choice::store(reason, Errand::ReleaseLease { term: lease.term }));
    }
    if !in_good_order || late {
        let request = request.filter(|request| !request.value.is_empty())?;
        return Some(Choice::store(
            Rule::SwitchoverAbandoned,
            Errand::ClearFailover { version: request.version },
        ));
    }
    Some(confirm(view, cluster, Rule::SwitchoverConfirms))
}

/// An ending leader's PostgreSQL has stopped: wait a little for somebody who has everything. `None` when there is nothing
/// more to wait for.
pub(super) fn before_end(view: &View, cluster: &Cluster, control: &Control) -> Option<Choice> {
    let handover = view.memory.handover.as_ref()?;
    let waited_enough = ENDING_BUDGET < view.now.since(handover.begun_at);
    let pointless = control.state != ControlState::ShutDown
        || holder_of_last_record(view, cluster, None, control).is_some();
    (!waited_enough && !pointless).then(|| confirm(view, cluster, Rule::EndingConfirms))
}

/// Stop in good order, with somebody in mind.
pub(super) fn stop_for(view: &View, rule: Rule, to: Option<&MemberName>) -> Choice {
    let reason = Reason { rule, member: to.cloned() };
    let by = view.now + view.policy.stop_timeout.unwrap_or(STOP_BUDGET);
    Choice::run(reason, Job::StopOrderly { by, handover: to.cloned() })
}

/// Any replica that is known to stream, for a leader that ends.
pub(super) fn any_replica<'a>(view: &View, cluster: &'a Cluster) -> Option<&'a MemberName> {
    let streams =
        |record: &crate::model::MemberRecord| record.replication_state.as_deref() == Some("streaming");
    (cluster.members.iter())
        .filter(|(name, _)| !sync::barred(view, cluster, name))
        .find(|(name, record)| **name != view.me && streams(record) && !record.tags.nofailover())
        .map(|(name, _)| name)
}

fn confirm(view: &View, cluster: &Cluster, rule: Rule) -> Choice {
    if answers_younger_than(view, CONFIRM_EVERY) || view.work.asking_peers {
        return Choice::wait(rule).again_in(CONFIRM_EVERY);
    }
    Choice::step(rule, Step::AskPeers(questions(view, cluster, None))).again_in(CONFIRM_EVERY)
}

pub(super) fn answers_younger_than(view: &View, age: Span) -> bool {
    view.peers.asked_at.is_some_and(|asked| view.now.since(asked) < age)
}

fn questions(view: &View, cluster: &Cluster, request: Option<&FailoverRequest>) -> Vec<Question> {
    let named = request.and_then(|request| request.candidate.as_ref());
    let votes = view.policy.sync.mode == SyncMode::Quorum;
    (cluster.members.keys())
        // Who is named may need the votes of the others.
        .filter(|&member| *member != view.me && (named.is_none_or(|named| named == member) || votes))
        .map(|member| Question { member: member.clone(), patience: PATIENCE })
        .collect()
}

/// The member that is furthest among those who may take over.
fn best_candidate<'a>(
    view: &'a View,
    cluster: &Cluster,
    request: Option<&FailoverRequest>,
    here: Position,
    fitness_min: Fitness,
) -> Option<&'a MemberName> {
    let named = request.and_then(|request| request.candidate.as_ref());
    standing(view)
        .filter(|(name, _)| named.is_none_or(|named| named == *name))
        .filter(|(name, peer)| obstacle(view, cluster, request, here, fitness_min, (name, peer)).is_none())
        .max_by_key(|(_, peer)| (peer.position, peer.tags.failover_priority()))
        .map(|(name, _)| name)
}

/// What speaks against a member as the next leader, if anything does.
fn obstacle(
    view: &View,
    cluster: &Cluster,
    request: Option<&FailoverRequest>,
    here: Position,
    fitness_min: Fitness,
    (name, peer): (&MemberName, &PeerStatus),
) -> Option<Obstacle> {
    if let Some(its_own) = race::obstacle(peer) {
        return Some(its_own);
    }
    if peer.fitness < fitness_min {
        return Some(Obstacle::LessFit(peer.fitness));
    }
    if peer.role != MemberRole::Replica {
        return Some(Obstacle::NoStandby);
    }
    if !sync::may_take_over(view, cluster, request, name) {
        return Some(Obstacle::NotSynchronous);
    }
    let Some(position) = peer.position else { return Some(Obstacle::PositionUnknown) };
    if position.timeline != here.timeline {
        return Some(Obstacle::OtherTimeline { its: position.timeline, leaders: here.timeline });
    }
    let (lag, limit) = (position.lsn.lag_behind(here.lsn), Lag(view.policy.lag_bytes_max));
    (limit < lag).then_some(Obstacle::Behind { lag, limit })
}

/// The same of everybody, for a request that the leader has before it.
pub(super) fn obstacles(view: &View, request: &FailoverRequest) -> BTreeMap<MemberName, Option<Obstacle>> {
    let here = view.postgres.position();
    let no_worse = fitness(view).max(Fitness::LastResort);
    let of = |(name, answer): (&MemberName, &PeerAnswer)| {
        let (PeerAnswer::Stands(peer), Some((cluster, here))) = (answer, view.cluster().zip(here)) else {
            return (name.clone(), Some(Obstacle::Silent));
        };
        (name.clone(), obstacle(view, cluster, Some(request), here, no_worse, (name, peer)))
    };
    view.peers.answers.iter().map(of).collect()
}

/// Somebody who may take over and has received more than the beginning of the shutdown's record.
fn holder_of_last_record<'a>(
    view: &'a View,
    cluster: &Cluster,
    request: Option<&FailoverRequest>,
    control: &Control,
) -> Option<&'a MemberName> {
    let named = request.and_then(|request| request.candidate.as_ref());
    let handover = view.memory.handover.as_ref()?;
    let asked_since = view.peers.asked_at.is_some_and(|asked| handover.begun_at <= asked);
    let complete = |position: Position| {
        position.timeline == control.checkpoint.timeline
            && (control.checkpoint.lsn < position.lsn || fault::active(Fault::HandsOverTooEarly))
    };
    standing(view)
        .filter(|_| asked_since)
        .filter(|(name, peer)| eligible(peer) && named.is_none_or(|named| named == *name))
        .filter(|(name, _)| sync::may_take_over(view, cluster, request, name))
        .find(|(_, peer)| peer.position.is_some_and(complete))
        .map(|(name, _)| name)
}
