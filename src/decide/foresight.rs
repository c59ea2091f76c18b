//! What would happen if …: the views of the members as they stand, changed as a fault would change them, and decided upon by the
//! rules that act. What a rule cannot know, such as how long PostgreSQL takes to be promoted, is not guessed here either.

use std::collections::{BTreeMap, BTreeSet};

use super::fitness::DOUBTFUL;
use super::{consent, decide, fitness_told, handover, loss, publish, race};
use crate::model::{
    Claim, Consent, Contact, Errand, FailoverRequest, FenceOrder, Guardian, Job, Leader, Lease, Loss,
    MemberName, Moment, Obstacle, PeerAnswer, PeerRound, PeerStatus, Plan, Postgres, Reason, Running,
    SentSync, SessionId, Span, Step, Takeover, Term, Timing, Versioned, View, Watchdog,
};

/// Decisions that are looked at, one look after the other, until somebody takes the lease.
const TURNS_MAX: u32 = 64;
/// What goes before a promotion; one or two things, as a rule.
const STEPS_MAX: usize = 8;
/// How long after the end of the lease nobody is waited for any more.
const LONGEST: Span = Span::from_secs(60);

/// The live views of those members that have told theirs, and the names of all.
#[derive(Clone, Debug, Default)]
pub struct Live {
    pub views: BTreeMap<MemberName, View>,
    pub silent: BTreeSet<MemberName>,
}

/// What members would do, and what it would come to.
#[derive(Clone, Debug, PartialEq)]
pub struct Foreseen {
    pub leader: MemberName,
    /// By name, what each of the others would decide, once it had heard of everybody.
    pub members: BTreeMap<MemberName, Reason>,
    /// Who would take the lease. Where there are several, whoever reaches the store first.
    pub takes: Vec<Takes>,
    pub phases: Vec<Phase>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Takes {
    pub member: MemberName,
    pub reason: Reason,
    pub takeover: Takeover,
    /// What it would decide as the holder of the lease, one after the other, if all goes well.
    pub then: Vec<Reason>,
    pub promotes: bool,
}

/// A part of the time without a primary, and why it is as long as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Phase {
    pub what: &'static str,
    pub best: Span,
    pub worst: Span,
    pub why: String,
}

/// What becomes of a leader that the store does not answer.
#[derive(Clone, Debug, PartialEq)]
pub struct WithoutStore {
    pub leader: MemberName,
    pub at_once: Reason,
    /// In failsafe mode: what everybody who could take the lease would answer; nothing where the mode is off.
    pub consents: Option<BTreeMap<MemberName, bool>>,
    /// What the leader decides when its lease runs out; nothing if it leads on.
    pub at_the_end: Option<Reason>,
    pub until: Phase,
    pub others: BTreeMap<MemberName, Reason>,
}

/// What becomes of a request to hand over.
#[derive(Clone, Debug, PartialEq)]
pub struct Switch {
    pub leader: MemberName,
    pub reason: Reason,
    /// It would stop PostgreSQL, to hand over to that member.
    pub to: Option<MemberName>,
    /// Everybody else, with what stands against it.
    pub obstacles: BTreeMap<MemberName, Option<Obstacle>>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unforeseen {
    #[error("no member has told what it knows")]
    Nobody,
    #[error("nobody leads now")]
    NoLeader,
    #[error("the leader {0} does not tell what it knows")]
    LeaderSilent(MemberName),
    #[error("{0} is no other member of this cluster")]
    NoSuchMember(MemberName),
}

impl Live {
    /// The leader by the newest snapshot that anybody has.
    pub fn leader(&self) -> Result<MemberName, Unforeseen> {
        let current = |view: &&View| view.store.contact == Contact::Current;
        let view = self.views.values().find(current).or_else(|| self.views.values().next());
        let cluster = view.ok_or(Unforeseen::Nobody)?.cluster();
        cluster.and_then(|cluster| cluster.leader_name().cloned()).ok_or(Unforeseen::NoLeader)
    }

    fn view(&self, member: &MemberName) -> Result<&View, Unforeseen> {
        self.views.get(member).ok_or_else(|| Unforeseen::LeaderSilent(member.clone()))
    }

    /// With another ttl, as its setting would bring it.
    #[must_use]
    pub fn with_timing(&self, timing: Timing) -> Live {
        let mut changed = self.clone();
        changed.views.values_mut().for_each(|view| view.policy.timing = timing);
        changed
    }

    /// What everybody but these two would be told, if it asked around.
    fn answers(
        &self,
        asker: &MemberName,
        gone: Option<&MemberName>,
        waited: Span,
    ) -> BTreeMap<MemberName, PeerAnswer> {
        let heard = self.views.iter().map(|(name, view)| {
            let lost = Some(name) == gone;
            (
                name.clone(),
                if lost { PeerAnswer::Silent } else { PeerAnswer::Stands(stands(&later(view, waited))) },
            )
        });
        let silent = self.silent.iter().map(|name| (name.clone(), PeerAnswer::Silent));
        silent.chain(heard).filter(|(name, _)| name != asker).collect()
    }
}

/// The same member after a while. What had only just begun when it told its view, such as a write to its disk, has ended; what is
/// slow already goes on being slow.
fn later(view: &View, after: Span) -> View {
    let mut view = view.clone();
    let begun = |since: Moment| view.now.since(since) < DOUBTFUL;
    view.disk.unwritten_since = view.disk.unwritten_since.filter(|since| !begun(*since));
    if let Postgres::Running(running) = &mut view.postgres {
        running.silent_since = running.silent_since.filter(|since| !begun(*since));
    }
    view.now = view.now + after;
    view.looked_at = view.now;
    view
}

/// What a member would answer to `GET /patroni`.
fn stands(view: &View) -> PeerStatus {
    PeerStatus {
        role: publish::member_role(view),
        state: publish::member_state(view),
        position: view.postgres.running().and_then(Running::position),
        tags: view.tags.clone(),
        watchdog_failed: view.guardian == Guardian::Absent || view.lacks_watchdog(),
        fitness: fitness_told(view, view.now),
        stale: false,
        looked_ago: None,
        unreplayed: view.postgres.running().map_or(0, Running::unreplayed),
        free_bytes: view.disk.free_bytes,
    }
}

// The leader's host is lost.

/// The host of the leader is gone at this moment, with all that runs there.
pub fn primary_lost(live: &Live) -> Result<Foreseen, Unforeseen> {
    let leader = live.leader()?;
    let timing = live.views.get(&leader).or_else(|| live.views.values().next());
    let timing = timing.ok_or(Unforeseen::Nobody)?.policy.timing;
    let mut waited = Span::ZERO;
    let mut decided = race_after(live, &leader, timing.ttl);
    for _ in 0..TURNS_MAX {
        let takes = |plan: &Plan| matches!(plan.step, Step::Store(Errand::TakeLease { .. }));
        if decided.values().any(|(_, plan)| takes(plan)) {
            break;
        }
        // What only time can change is waited for.
        let again = decided.values().map(|(view, plan)| view.now.until(plan.look_again)).min();
        waited = waited + again.unwrap_or(LONGEST).max(Span::from_ms(100));
        if LONGEST < waited {
            break;
        }
        decided = race_after(live, &leader, timing.ttl + waited);
    }
    let takes: Vec<Takes> = decided.values().filter_map(|(view, plan)| takes(view, plan)).collect();
    let mut phases = vec![lease_ends(timing), asks(live, &leader)];
    if !takes.is_empty() && waited != Span::ZERO {
        let why = "until the rules let anybody take it".to_owned();
        phases.push(Phase { what: "waiting", best: waited, worst: waited, why });
    }
    let members = decided.into_iter().map(|(name, (_, plan))| (name, plan.reason)).collect();
    Ok(Foreseen { leader, members, takes, phases })
}

/// Everybody but the leader decides, `after` the loss, when the store has let the lease end and everybody has been asked.
fn race_after(live: &Live, leader: &MemberName, after: Span) -> BTreeMap<MemberName, (View, Plan)> {
    let others = live.views.iter().filter(|(name, _)| *name != leader);
    let decided = others.map(|(name, view)| {
        let ended_at = view.now + view.policy.timing.ttl.min(after);
        let mut view = later(view, after);
        if let Some(cluster) = &mut view.store.cluster {
            cluster.leader = None;
            cluster.members.remove(leader);
        }
        if let Some(session) = &mut view.session {
            session.asked_at = view.now;
        }
        view.memory.no_leader_since = Some(ended_at);
        view.memory.last_leader = Some(leader.clone());
        view.work.errand_since = None;
        view.work.asking_peers = false;
        let answers = live.answers(name, Some(leader), after);
        view.peers = PeerRound { asked_at: Some(view.now), complete: true, answers };
        let plan = decide(&view);
        (name.clone(), (view, plan))
    });
    decided.collect()
}

fn takes(view: &View, plan: &Plan) -> Option<Takes> {
    let Step::Store(Errand::TakeLease { claim }) = &plan.step else { return None };
    let cluster = view.cluster()?;
    let standby = view.postgres.running().filter(|running| !running.is_primary());
    let loss = standby.map_or(Loss::NotKnown, |running| loss::bound(view, cluster, running));
    let takeover = Takeover { timeline: claim.timeline, loss };
    let (then, promotes) = until_promotion(holding(view, takeover));
    let (member, reason) = (view.me.clone(), plan.reason.clone());
    Some(Takes { member, reason, takeover, then, promotes })
}

/// What goes before a promotion succeeds: the store takes what is written, the operator's command agrees.
fn until_promotion(mut view: View) -> (Vec<Reason>, bool) {
    let mut then = Vec::new();
    for _ in 0..STEPS_MAX {
        let plan = decide(&view);
        then.push(plan.reason);
        match plan.step {
            Step::Run(Job::Promote { .. } | Job::StartPrimary { .. }) => return (then, true),
            Step::Run(Job::PrePromote { term }) => view.memory.promotion_hook.agreed = Some(term),
            Step::Store(Errand::WriteSync { term, state, version }) => {
                view.memory.sync.written_in = Some(term);
                view.memory.sync.sent = Some(SentSync { term, state: state.clone(), version, done: true });
                if let Some(cluster) = &mut view.store.cluster {
                    cluster.sync = Some(Versioned { value: state, version: version + 1 });
                }
            }
            Step::Wait | Step::Store(_) | Step::AskPeers(_) | Step::Run(_) | Step::Cancel | Step::Exit => {
                break;
            }
        }
    }
    (then, false)
}

/// The lease is held, and the guardian stands by.
fn holding(view: &View, takeover: Takeover) -> View {
    let mut view = view.clone();
    // Above every term that the store has given so far.
    let term = Term(u64::MAX / 4);
    let session = view.session.map_or(SessionId(1), |session| session.id);
    let timing = view.policy.timing;
    let lease = Lease { term, asked_at: view.now, timing };
    let claim = Claim { timeline: takeover.timeline, by: view.me.clone() };
    if let Some(cluster) = &mut view.store.cluster {
        cluster.leader = Some(Leader { name: view.me.clone(), term, session: Some(session) });
        let version = cluster.claim.as_ref().map_or(0, |claim| claim.version) + 1;
        cluster.claim = Some(Versioned { value: claim, version });
    }
    view.lease = Some(lease);
    view.memory.takeover = Some(takeover);
    view.memory.no_leader_since = None;
    view.guardian = Guardian::Ready { confirmed: FenceOrder::Arm { term, fence_at: lease.fence_at() } };
    view.work.ordering_fence = false;
    if view.watchdog.can_be_armed() && view.policy.watchdog_required {
        view.watchdog = Watchdog::Armed { timeout: timing.ttl.scaled(1, 2), stays: false };
    }
    view
}

fn lease_ends(timing: Timing) -> Phase {
    let (ttl, every) = (timing.ttl, timing.renew_every);
    Phase {
        what: "the lease ends",
        best: ttl.minus(every),
        worst: ttl,
        why: format!("it lasts {ttl} from its last renewal, and is renewed every {every}"),
    }
}

/// The answers of the dead are waited for as well.
fn asks(live: &Live, leader: &MemberName) -> Phase {
    let silent: Vec<&str> =
        live.silent.iter().filter(|name| *name != leader).map(MemberName::as_str).collect();
    let gone = race::PATIENCE_GONE;
    let (worst, why) = if silent.is_empty() {
        (gone, format!("{leader} is asked as well, and waited for at most {gone}"))
    } else {
        let alive = race::PATIENCE_ALIVE;
        (alive, format!("{} may not answer, and is waited for at most {alive}", silent.join(", ")))
    };
    Phase { what: "the others are asked", best: Span::ZERO, worst, why }
}

// The store is lost.

/// The store answers nobody any more, and every member reaches every other one that has told its view.
pub fn store_lost(live: &Live) -> Result<WithoutStore, Unforeseen> {
    let leader = live.leader()?;
    let view = live.view(&leader)?;
    let at_once = decide(&cut_off(view, Span::ZERO)).reason;
    let consents = (view.policy.failsafe).then(|| consent::topology(view)).flatten().map(|topology| {
        let agrees = |member: &MemberName| {
            let asked =
                live.views.get(member).map(|asked| cut_off(asked, view.policy.timing.ttl.scaled(1, 4)));
            asked.is_some_and(|asked| {
                matches!(consent::answer(&asked, &leader, false), Consent::Granted { .. })
            })
        };
        topology.into_keys().map(|member| (member.clone(), agrees(&member))).collect::<BTreeMap<_, _>>()
    });
    let leads_on = consents.as_ref().is_some_and(|all| all.values().all(|agrees| *agrees));
    let timing = view.lease.map_or(view.policy.timing, |lease| lease.timing);
    let begin = Moment::default();
    let worst = timing.demote_at(begin).since(begin);
    let until = Phase {
        what: "the leader leads on",
        best: worst.minus(timing.renew_every),
        worst,
        why: format!(
            "{} from the last renewal: ttl {} - margin {} - kill budget {} - stop budget {}; renewed every {}",
            worst, timing.ttl, timing.margin, timing.kill_budget, timing.stop_budget, timing.renew_every
        ),
    };
    let left = view.lease.map_or(Span::ZERO, |lease| view.now.until(lease.demote_at()));
    let at_the_end = (!leads_on).then(|| decide(&cut_off(view, left)).reason);
    let others = live.views.iter().filter(|(name, _)| **name != leader);
    let others = others.map(|(name, view)| (name.clone(), decide(&cut_off(view, left)).reason)).collect();
    Ok(WithoutStore { leader, at_once, consents, at_the_end, until, others })
}

/// The store is silent, and has been for so long.
fn cut_off(view: &View, after: Span) -> View {
    let silent_since = view.now;
    let mut view = later(view, after);
    view.store.contact = Contact::Silent { since: silent_since };
    view
}

// Somebody asks for another leader.

pub fn switchover(live: &Live, to: &MemberName) -> Result<Switch, Unforeseen> {
    let leader = live.leader()?;
    let view = live.view(&leader)?;
    if *to == leader || !(live.views.contains_key(to) || live.silent.contains(to)) {
        return Err(Unforeseen::NoSuchMember(to.clone()));
    }
    let request = FailoverRequest {
        leader: Some(leader.clone()),
        candidate: Some(to.clone()),
        ..FailoverRequest::default()
    };
    let mut asked = view.clone();
    asked.looked_at = asked.now;
    asked.peers = PeerRound {
        asked_at: Some(asked.now),
        complete: true,
        answers: live.answers(&leader, None, Span::ZERO),
    };
    asked.work.asking_peers = false;
    let version = 1;
    asked.memory.request_seen = Some((version, asked.now));
    if let Some(cluster) = &mut asked.store.cluster {
        cluster.failover = Some(Versioned { value: request.clone(), version });
    }
    let plan = decide(&asked);
    let to = match &plan.step {
        Step::Run(Job::StopOrderly { handover, .. }) => handover.clone(),
        Step::Store(Errand::ReleaseLease { .. }) => plan.reason.member.clone(),
        Step::Wait | Step::Store(_) | Step::AskPeers(_) | Step::Run(_) | Step::Cancel | Step::Exit => None,
    };
    let obstacles = handover::obstacles(&asked, &request);
    Ok(Switch { leader, reason: plan.reason, to, obstacles })
}
