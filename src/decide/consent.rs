//! Failsafe mode. A leader that the store does not answer asks everybody who could take the lease to leave it alone for as
//! long as a lease lasts. If all of them promise, that is as good as a renewal at the moment when they were asked: whoever
//! could lead counts from later. Here is decided when to ask, whom, whether to promise, and what a promise forbids.

use std::collections::BTreeMap;

use super::fault::{self, Fault};
use super::{Choice, race, take_lease};
use crate::model::{
    Cluster, Consent, Errand, Job, MemberName, MemberRole, MemberState, Moment, PeerAnswer, PeerStatus,
    Postgres, Promise, Reason, Rule, Running, Span, Step, View,
};

/// Nobody binds a member for longer, whatever is asked.
pub const PROMISE_MAX: Span = Span::from_secs(3_600);
/// Between two rounds of questions.
pub const AGAIN: Span = Span::from_ms(500);

/// Is the lease old enough that the others should be asked, and may it be prolonged?
pub(super) fn wanted(view: &View) -> bool {
    let Some(lease) = view.lease_in_force() else { return false };
    let stops = view.work.job.as_ref().is_some_and(|running| running.job.is_stop());
    view.policy.failsafe
        && !view.policy.pause
        && !view.ending
        && !stops
        && view.postgres.is_primary()
        && view.memory.handover.is_none()
        && due_at(lease.asked_at, view) <= view.now
        && !another_leads(view)
        && topology(view).is_some()
}

/// A quarter of a lease without a renewal: more than one has been missed, and there is time to ask more than once.
fn due_at(asked_at: Moment, view: &View) -> Moment {
    asked_at + view.policy.timing.ttl.scaled(1, 4)
}

pub(super) fn until_due(view: &View) -> Span {
    match view.lease_in_force() {
        Some(_) if wanted(view) => AGAIN,
        Some(lease) if view.policy.failsafe && view.now < due_at(lease.asked_at, view) => {
            view.now.until(due_at(lease.asked_at, view))
        }
        Some(_) | None => super::LOOK_AGAIN,
    }
}

fn another_leads(view: &View) -> bool {
    let leader = view.cluster().and_then(Cluster::leader_name);
    !view.cut_off() && leader.is_some_and(|leader| *leader != view.me)
}

/// Everybody who must agree: whoever the store allows to take the lease, or is about to, and whoever was seen beside them. `None` if
/// the store has not been told that this member is one of them: then others may not know that they are bound.
pub(super) fn topology(view: &View) -> Option<BTreeMap<MemberName, String>> {
    let cluster = view.cluster()?;
    cluster.failsafe.contains_key(&view.me).then(|| {
        let told = cluster.failsafe.iter().map(|(name, url)| (name.clone(), url.clone()));
        let seen = cluster.members.iter().map(|(name, record)| (name.clone(), record.api_url.clone()));
        let mut everybody = view.memory.electorate.clone();
        everybody.extend(view.memory.offered.clone());
        everybody.extend(told.chain(seen).filter(|(_, url)| !url.is_empty()));
        everybody.remove(&view.me);
        everybody
    })
}

/// May `from` lead on without the store? `taking`: this member has asked the store for the lease and has no answer.
pub(super) fn answer(view: &View, from: &MemberName, taking: bool) -> Consent {
    if !view.policy.failsafe {
        return Consent::Off;
    }
    let rises = view
        .work
        .job
        .as_ref()
        .is_some_and(|running| matches!(running.job, Job::Promote { .. } | Job::StartPrimary { .. }));
    let leads = view.postgres.may_accept_writes() || view.lease.is_some() || rises || taking;
    let bound_to_another = in_force(view).is_some_and(|promise| promise.to != *from);
    // Nobody that has been followed by another leader comes back by asking.
    let outdated = view.memory.last_leader.as_ref().is_some_and(|last| last != from);
    if leads || bound_to_another || outdated || from == &view.me || view.postgres == Postgres::Unobserved {
        return Consent::Denied;
    }
    let position = view.postgres.running().and_then(Running::position);
    Consent::Granted { reached: position.map(|position| position.lsn) }
}

/// The promise that binds this member now.
pub(super) fn in_force(view: &View) -> Option<&Promise> {
    view.memory.promise.as_ref().filter(|promise| view.now < promise.until)
}

/// The primary leads by the others' consent, and the store is back.
pub(super) fn store_is_back(view: &View, cluster: &Cluster, running: &Running) -> Option<Choice> {
    if !view.leads_by_consent() {
        return None;
    }
    let by_consent = || Some(Choice::wait(Rule::LeaderByConsent));
    match &cluster.leader {
        Some(leader) if leader.name != view.me => {
            Some(Choice::run(Reason::about(Rule::OtherLeads, &leader.name), Job::StopAtOnce))
        }
        Some(_) => None,
        // The session has ended meanwhile: nobody has taken the key, because everybody has promised not to.
        None if cluster.system_id() == Some(running.system) && view.session.is_some() => {
            let timeline = running.position()?.timeline;
            if timeline < cluster.highest_timeline() {
                return Some(Choice::run(Rule::LeaderOnOldTimeline, Job::StopAtOnce));
            }
            Some(Choice::store(Rule::LeaderTakesAgain, take_lease(cluster, timeline)))
        }
        None => by_consent(),
    }
}

/// What failsafe mode forbids is not done, whatever the situation.
pub(super) fn as_promised(view: &View, choice: Choice) -> Choice {
    match (&choice.step, in_force(view)) {
        _ if fault::active(Fault::ForgetsItsPromise) => choice,
        // Somebody else has made a primary of it since the promise was given. In maintenance mode nothing is stopped.
        (Step::Store(Errand::TakeLease { .. }), Some(_))
            if view.postgres.may_accept_writes() && !view.policy.pause =>
        {
            Choice::run(Rule::PrimaryBarred, Job::StopAtOnce)
        }
        (Step::Store(Errand::TakeLease { .. }), Some(promise)) => has_promised(view, promise),
        // A request for the lease that was thought lost has reached the store after all.
        (
            Step::Run(Job::PrePromote { .. } | Job::Promote { .. } | Job::StartPrimary { .. }),
            Some(promise),
        ) => match &view.lease {
            Some(lease) => Choice::store(
                Reason::about(Rule::LeaderHasPromised, &promise.to),
                Errand::ReleaseLease { term: lease.term },
            ),
            None => choice,
        },
        (Step::Store(Errand::TakeLease { .. }), None) => barred(view).unwrap_or(choice),
        (_, Some(_) | None) => choice,
    }
}

/// Why a candidate need not even ask where the others stand.
pub(super) fn forbids(view: &View) -> Option<Choice> {
    match in_force(view) {
        _ if fault::active(Fault::ForgetsItsPromise) => None,
        Some(promise) => Some(has_promised(view, promise)),
        None => barred(view),
    }
}

fn has_promised(view: &View, promise: &Promise) -> Choice {
    Choice::wait(Reason::about(Rule::CandidateHasPromised, &promise.to))
        .again_in(view.now.until(promise.until))
}

/// Did the last leader count on this member, has an operator named it, or does nobody lead without the store for certain? Nobody
/// waits in a race for one that may not take part.
pub(super) fn may_take(view: &View, cluster: &Cluster, member: &MemberName) -> bool {
    !view.policy.failsafe
        || cluster.failsafe.is_empty()
        || cluster.failsafe.contains_key(member)
        || race::named(cluster) == Some(member)
        || nobody_leads_by_consent(view, cluster)
}

/// Everybody whom the last leader counted on, itself among them, has said since its lease ended that it does not lead.
fn nobody_leads_by_consent(view: &View, cluster: &Cluster) -> bool {
    let others = cluster.failsafe.keys().filter(|name| **name != view.me);
    let denies = |name: &MemberName| matches!(view.peers.answers.get(name), Some(PeerAnswer::Stands(peer)) if leads_nothing(peer));
    race::answers_are_fresh(view) && view.peers.complete && others.into_iter().all(denies)
}

/// A lease is led on with by consent only while PostgreSQL runs as a primary. One that has not been looked at may do so.
fn leads_nothing(peer: &PeerStatus) -> bool {
    let replica = peer.role == MemberRole::Replica && peer.state == MemberState::Running;
    let nothing = matches!(peer.state, MemberState::Stopped | MemberState::CreatingReplica);
    !peer.stale && (replica || peer.role == MemberRole::Uninitialized && nothing)
}

/// Reasons not to take the lease that come from the mode itself.
fn barred(view: &View) -> Option<Choice> {
    let cluster = view.cluster()?;
    let told = &cluster.failsafe;
    // Whoever leads already has asked everybody, and gives promises to nobody.
    if !view.policy.failsafe || told.is_empty() || view.postgres.may_accept_writes() {
        return None;
    }
    if !may_take(view, cluster, &view.me) {
        return Some(Choice::wait(Rule::CandidateNotAsked));
    }
    // What a former life of this agent has promised is not known any more; for longer than this it cannot bind.
    let free_at = view.memory.begun_at? + view.policy.timing.ttl;
    let others = told.keys().any(|name| *name != view.me);
    (others && view.now < free_at)
        .then(|| Choice::wait(Rule::CandidateMayHavePromised).again_in(view.now.until(free_at)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::mind::{Event, Mind};
    use crate::model::{
        Contact, FenceOrder, Guardian, Initialize, Leader, Policy, Position, Serving, StoreView, Synchrony,
        SystemId, Tags, Term,
    };

    fn name(name: &str) -> MemberName {
        name.parse().expect("a good name")
    }

    /// A member that is asked by turku, five seconds after it has begun.
    fn check(change: impl Fn(&mut View), taking: bool, wanted: &Consent) {
        let policy = Policy { failsafe: true, ..Policy::default() };
        let mut mind = Mind::new(name("oulu"), Tags::default(), policy, true);
        let leader = Leader { name: name("turku"), term: Term(3), session: None };
        let cluster = Cluster { leader: Some(leader), ..Cluster::default() };
        mind.apply(Moment::from_ms(5_000), Event::Snapshot(Box::new(cluster)));
        let mut view = mind.view().clone();
        view.postgres = Postgres::Empty;
        change(&mut view);
        assert_eq!(answer(&view, &name("turku"), taking), *wanted);
    }

    #[test]
    fn only_who_could_keep_a_promise_gives_one() {
        let granted = Consent::Granted { reached: None };
        check(|_| {}, false, &granted);
        check(|_| {}, true, &Consent::Denied);
        check(|view| view.policy.failsafe = false, false, &Consent::Off);
        check(|view| view.postgres = Postgres::Unobserved, false, &Consent::Denied);
        check(|view| view.memory.last_leader = Some(name("vaasa")), false, &Consent::Denied);
        check(|view| view.memory.last_leader = None, false, &granted);
        let promised = |to: &str, until: u64| Promise { to: name(to), until: Moment::from_ms(until) };
        check(|view| view.memory.promise = Some(promised("vaasa", 6_000)), false, &Consent::Denied);
        check(|view| view.memory.promise = Some(promised("vaasa", 4_000)), false, &granted);
        check(|view| view.memory.promise = Some(promised("turku", 6_000)), false, &granted);
        let lease = crate::model::Lease {
            term: Term(4),
            asked_at: Moment::from_ms(4_000),
            timing: Policy::default().timing,
        };
        check(|view| view.lease = Some(lease), false, &Consent::Denied);
    }

    /// What is done with a primary that somebody has made by hand of a member that is bound by a promise.
    fn primary_of_a_promiser(pause: bool) -> (Rule, Step) {
        let mut view = Mind::new(name("oulu"), Tags::default(), Policy::default(), true).view().clone();
        view.policy = Policy { failsafe: true, pause, ..Policy::default() };
        let cluster = Cluster { initialize: Initialize::Done(SystemId(7)), ..Cluster::default() };
        view.store = StoreView { cluster: Some(cluster), contact: Contact::Current };
        view.memory.promise = Some(Promise { to: name("turku"), until: view.now + Span::from_secs(5) });
        let position = Position::new(1, 100);
        view.guardian = Guardian::Ready { confirmed: FenceOrder::Disarm };
        view.postgres = Postgres::Running(Running {
            system: SystemId(7),
            serving: Serving::Primary { position, checkpointed: true, forks: None },
            silent_since: None,
            version: 150_000,
            synchrony: Synchrony::default(),
        });
        let plan = crate::decide::decide(&view);
        (plan.reason.rule, plan.step)
    }

    #[test]
    fn in_maintenance_mode_a_promise_keeps_the_lease_away_and_stops_nothing() {
        assert_eq!(primary_of_a_promiser(true), (Rule::CandidateHasPromised, Step::Wait));
        let (_, step) = primary_of_a_promiser(false);
        assert_eq!(step, Step::Run(Job::StopAtOnce));
    }
}
