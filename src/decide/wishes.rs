//! What an operator has asked this member to do with its own PostgreSQL. Only what goes beyond the usual rules is here:
//! they bring PostgreSQL up again once it is down, or clone once there is no data.

use super::fault::{self, Fault};
use super::{Choice, following, handover, set_aside, sync, topology};
use crate::model::{
    Ask, Cluster, Errand, Job, Lease, MemberState, Outcome, PeerAnswer, Postgres, Question, Reason, Refusal,
    Rule, Running, RunningJob, Span, Stage, Step, View, Wish,
};

/// A restart that has not begun by then is refused: whoever asked may ask again.
const BEGIN_BUDGET: Span = Span::from_secs(10);
/// Other work may have to be cut short before the data can be made anew.
const CLEAR_BUDGET: Span = Span::from_secs(60);
/// What is not down by then is stopped at once. The lease is renewed meanwhile, so this bounds an outage.
const STOP_BUDGET: Span = Span::from_secs(60);
/// How long the leader may take to say that it is there.
const PATIENCE: Span = Span::from_secs(1);

/// What becomes of a wish, by what is seen now.
pub(super) enum Progress {
    Stands,
    Goes(Stage),
    Ends(Outcome),
}

/// Why this member does not take the wish up.
pub(super) fn refusal(view: &View, ask: Ask) -> Option<Refusal> {
    let force = matches!(ask, Ask::Reinitialize { force: true, .. });
    let replaceable = |wish: &Wish| force && !wish.is_restart();
    if view.ending {
        return Some(Refusal::NotNow);
    }
    if let Some(wish) = view.memory.wish.as_ref().filter(|wish| !replaceable(wish)) {
        return Some(Refusal::Busy(wish.ask.name()));
    }
    if view.memory.handover.is_some() {
        return Some(Refusal::Busy("switchover"));
    }
    match ask {
        Ask::Restart { .. } => restart_refusal(view),
        Ask::Reinitialize { .. } => reinitialize_refusal(view, force),
    }
}

fn restart_refusal(view: &View) -> Option<Refusal> {
    // What ends by itself in a moment is no reason to ask again, nor one that an operator would understand.
    let harmless = |running: &&RunningJob| {
        matches!(running.job, Job::Checkpoint | Job::Follow { .. } | Job::Synchronize { .. } | Job::OpenGate)
    };
    if let Some(running) = view.work.job.as_ref().filter(|running| !harmless(running)) {
        return Some(Refusal::Busy(running.job.name()));
    }
    match &view.postgres {
        Postgres::Running(running) if running.is_primary() => {
            if view.cut_off() {
                Some(Refusal::CutOff)
            } else {
                (!leads(view)).then_some(Refusal::NotNow)
            }
        }
        Postgres::Running(_) | Postgres::Stopped { .. } => None,
        Postgres::Starting { .. } => Some(Refusal::Starting),
        Postgres::Unobserved | Postgres::Empty | Postgres::Unfinished { .. } | Postgres::Unusable { .. } => {
            Some(Refusal::NotNow)
        }
    }
}

fn reinitialize_refusal(view: &View, force: bool) -> Option<Refusal> {
    if view.lease.is_some() || leads(view) || view.postgres.may_accept_writes() {
        return Some(Refusal::Leads);
    }
    let leader = view.cluster().and_then(Cluster::leader_name);
    if leader.is_none() || view.cut_off() {
        return Some(Refusal::NoLeader);
    }
    match &view.work.job {
        Some(running) if !force => Some(Refusal::Busy(running.job.name())),
        Some(_) | None => None,
    }
}

/// By the lease, or by the store in maintenance mode, where leases may run out.
fn leads(view: &View) -> bool {
    let by_store = view.cluster().and_then(Cluster::leader_name) == Some(&view.me);
    view.lease_in_force().is_some() || (view.policy.pause && by_store)
}

pub(super) fn progress(view: &View, wish: &Wish) -> Progress {
    let idle = view.work.job.is_none();
    let overdue = |budget: Span| wish.since + budget < view.now;
    let up = view.postgres.running().is_some_and(|running| running.silent_since.is_none());
    let vacant = view.postgres == Postgres::Empty;
    let stopped = matches!(view.postgres, Postgres::Stopped { .. });
    match (wish.stage, wish.ask) {
        (Stage::Asked | Stage::Stopping, Ask::Restart { .. }) if idle && stopped => {
            Progress::Goes(Stage::Down)
        }
        (Stage::Asked | Stage::Stopping, Ask::Reinitialize { .. }) if idle && vacant => {
            Progress::Goes(Stage::Down)
        }
        (Stage::Asked, Ask::Reinitialize { .. }) if view.lease.is_some() => {
            Progress::Ends(Outcome::Refused(Refusal::Leads))
        }
        (Stage::Asked, Ask::Restart { .. }) if overdue(BEGIN_BUDGET) => {
            Progress::Ends(Outcome::Refused(Refusal::NotNow))
        }
        (Stage::Asked, Ask::Reinitialize { .. }) if overdue(CLEAR_BUDGET) => {
            Progress::Ends(Outcome::Refused(Refusal::NotNow))
        }
        // It could not be stopped, or something else has brought it up again.
        (Stage::Stopping, _) if idle && view.postgres.running().is_some() => Progress::Ends(Outcome::Failed),
        (Stage::Down, _) if idle && up => Progress::Ends(Outcome::Done),
        (Stage::Down, Ask::Reinitialize { .. }) if view.lease.is_some() => Progress::Ends(Outcome::Failed),
        (Stage::Down, Ask::Restart { timeout }) => {
            // A leader that took too long has given the lease back first.
            let gone = timeout.is_none() || view.lease.is_none();
            let budget = timeout.unwrap_or(STOP_BUDGET + view.policy.primary_start_timeout);
            if overdue(budget) && gone { Progress::Ends(Outcome::Failed) } else { Progress::Stands }
        }
        (Stage::Asked | Stage::Stopping | Stage::Down, _) => Progress::Stands,
    }
}

/// A primary with a lease in force.
pub(super) fn leader(view: &View) -> Option<Choice> {
    let wish = asked(view).filter(|wish| wish.is_restart())?;
    Some(Choice::run(Rule::RestartStops, Job::StopOrderly { by: stop_by(view, wish), handover: None }))
}

/// Nothing here accepts writes.
pub(super) fn standby(view: &View, cluster: &Cluster) -> Option<Choice> {
    let wish = view.memory.wish.as_ref()?;
    let follows = cluster.leader_name().is_some_and(|leader| *leader != view.me) && !view.cut_off();
    match (wish.ask, wish.stage, &view.postgres) {
        (Ask::Restart { .. }, Stage::Asked, Postgres::Running(_)) => {
            Some(Choice::run(Rule::RestartStops, Job::StopFast { by: stop_by(view, wish) }))
        }
        (
            Ask::Reinitialize { .. },
            Stage::Asked,
            Postgres::Running(_) | Postgres::Starting { .. } | Postgres::Stopped { .. },
        ) if follows && !leader_is_there(view, cluster, wish) => asks_leader(view, cluster, wish),
        (Ask::Reinitialize { .. }, Stage::Asked, Postgres::Running(_) | Postgres::Starting { .. })
            if follows =>
        {
            Some(Choice::run(Rule::ReinitializeStops, Job::StopFast { by: view.now + BEGIN_BUDGET }))
        }
        (
            Ask::Reinitialize { .. },
            Stage::Asked | Stage::Stopping,
            Postgres::Stopped { .. } | Postgres::Unfinished { .. } | Postgres::Unusable { .. },
        ) if follows && fault::active(Fault::ClonesOverData) => {
            let from = cluster.leader_name()?.clone();
            Some(Choice::run(Rule::ReinitializeSetsAside, Job::Clone { from }))
        }
        (
            Ask::Reinitialize { .. },
            Stage::Asked | Stage::Stopping,
            Postgres::Stopped { .. } | Postgres::Unfinished { .. } | Postgres::Unusable { .. },
        ) if follows => Some(set_aside(view, Rule::ReinitializeSetsAside)),
        (Ask::Restart { .. } | Ask::Reinitialize { .. }, Stage::Asked | Stage::Stopping | Stage::Down, _) => {
            None
        }
    }
}

/// The store may show a leader for as long as its lease lasts, and this may be the last copy of the data.
fn leader_is_there(view: &View, cluster: &Cluster, wish: &Wish) -> bool {
    let answer = cluster.leader_name().and_then(|leader| view.peers.answers.get(leader));
    let there = matches!(answer, Some(PeerAnswer::Stands(peer)) if peer.state == MemberState::Running);
    there && view.peers.complete && has_asked(view, wish)
}

fn has_asked(view: &View, wish: &Wish) -> bool {
    handover::answers_younger_than(view, handover::ANSWERS_KEEP) && Some(wish.since) <= view.peers.asked_at
}

fn asks_leader(view: &View, cluster: &Cluster, wish: &Wish) -> Option<Choice> {
    let leader = cluster.leader_name()?;
    let reason = Reason::about(Rule::ReinitializeAsks, leader);
    if has_asked(view, wish) {
        return Some(Choice::wait(reason).again_in(PATIENCE));
    }
    Some(Choice::step(reason, Step::AskPeers(vec![Question { member: leader.clone(), patience: PATIENCE }])))
}

/// In maintenance mode nothing but the wish moves: what the usual rules would do next is done here.
pub(super) fn paused(view: &View, cluster: &Cluster) -> Option<Choice> {
    let wish = view.memory.wish.as_ref()?;
    if view.postgres.is_primary() {
        return leader(view);
    }
    match (wish.ask, wish.stage, &view.postgres) {
        (Ask::Restart { .. }, Stage::Down, Postgres::Stopped { control }) if control.was_primary() => {
            let term = cluster.leader.as_ref().filter(|_| leads(view))?.term;
            // Whoever is told that the lease was given back takes it that nothing writes here.
            if view.memory.released == Some(term) {
                return None;
            }
            // Nobody is elected in maintenance mode: PostgreSQL does not stay down because the store is silent.
            let lease = view.lease_in_force().filter(|_| !view.cut_off());
            if let Some(choice) = lease.and_then(|lease| sync::before_writing(view, cluster, lease)) {
                return Some(choice);
            }
            let names = sync::names_to_begin_with(view, cluster);
            let gate = sync::gate_to_begin_with(view, cluster);
            Some(Choice::run(Rule::RestartStarts, Job::StartPrimary { term, names, gate }))
        }
        (Ask::Restart { .. }, Stage::Down, Postgres::Stopped { .. }) => {
            let upstream = match (&view.policy.follows, cluster.leader_name()) {
                (Some(remote), Some(leader)) if *leader == view.me => remote.address.clone(),
                (_, Some(leader)) => topology::source(view, cluster, leader).address,
                (_, None) => None,
            };
            Some(Choice::run(Rule::RestartStarts, Job::StartStandby { upstream }))
        }
        (Ask::Reinitialize { .. }, Stage::Down, Postgres::Empty | Postgres::Stopped { .. }) => {
            let leader = cluster.leader.as_ref().filter(|leader| leader.name != view.me)?;
            Some(following::choose(view, cluster, leader))
        }
        (Ask::Restart { .. } | Ask::Reinitialize { .. }, Stage::Asked | Stage::Stopping | Stage::Down, _) => {
            standby(view, cluster)
        }
    }
}

/// Work under way that the wish goes ahead of.
pub(super) fn overtakes(view: &View, running: &RunningJob) -> Option<Choice> {
    let wish = view.memory.wish.as_ref()?;
    match (wish.ask, wish.stage, &running.job) {
        (Ask::Restart { .. }, Stage::Asked, Job::Checkpoint) => leader(view),
        (Ask::Restart { .. }, Stage::Down, Job::StartPrimary { .. })
            if wish.gives_up_at().is_some_and(|at| at <= view.now) =>
        {
            Some(Choice::run(Rule::RestartTookTooLong, Job::StopAtOnce))
        }
        (Ask::Reinitialize { force: true, .. }, Stage::Asked, job)
            if job.can_be_cancelled() && !running.cancelled && !view.postgres.may_accept_writes() =>
        {
            Some(Choice::step(Rule::ReinitializeCancels, Step::Cancel))
        }
        (Ask::Restart { .. } | Ask::Reinitialize { .. }, Stage::Asked | Stage::Stopping | Stage::Down, _) => {
            None
        }
    }
}

/// A leader's restart has not ended in the time that the operator gave: somebody else shall lead.
pub(super) fn took_too_long(view: &View, lease: &Lease) -> Option<Choice> {
    let wish = view.memory.wish.as_ref().filter(|wish| wish.stage == Stage::Down)?;
    let late = wish.gives_up_at().is_some_and(|at| at <= view.now) && !view.cut_off();
    match &view.postgres {
        Postgres::Starting { .. } if late => Some(Choice::run(Rule::RestartTookTooLong, Job::StopAtOnce)),
        Postgres::Stopped { .. } if late => {
            Some(Choice::store(Rule::RestartTookTooLong, Errand::ReleaseLease { term: lease.term }))
        }
        Postgres::Unobserved
        | Postgres::Empty
        | Postgres::Unfinished { .. }
        | Postgres::Unusable { .. }
        | Postgres::Stopped { .. }
        | Postgres::Starting { .. }
        | Postgres::Running(_) => None,
    }
}

/// Is PostgreSQL silent because it is being stopped for a restart? That has a deadline of its own.
pub(super) fn is_stopping(view: &View, running: &Running) -> bool {
    let stopping =
        view.memory.wish.as_ref().is_some_and(|wish| wish.is_restart() && wish.stage == Stage::Stopping);
    stopping && running.is_primary() && view.work.job.as_ref().is_some_and(|running| running.job.is_stop())
}

fn asked(view: &View) -> Option<&Wish> {
    view.memory.wish.as_ref().filter(|wish| wish.stage == Stage::Asked)
}

fn stop_by(view: &View, wish: &Wish) -> crate::model::Moment {
    let usual = view.now + STOP_BUDGET;
    wish.gives_up_at().map_or(usual, |at| at.min(usual))
}
