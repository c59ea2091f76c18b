//! Maintenance mode: nothing is started, stopped or promoted by itself. What an operator asks for is done: a restart, a switchover
//! to somebody named. A primary that runs takes an office that is vacant: after the store was away for longer than a lease, after a
//! move to another store, or when an operator has promoted it by hand. Clients are led by the lease: a leader that an operator
//! has stopped gives it back.

use super::{
    Choice, following, handover, leading, own_key, race, shows_our_term, sync, take_lease, topology, wishes,
};
use crate::model::{
    Cluster, Descent, Errand, Initialize, Job, Leader, Lease, MemberName, MemberRole, PeerAnswer, Postgres,
    Reason, Rule, Running, Serving, Step, Timeline, Versioned, View,
};

/// From this version on PostgreSQL turns to another upstream without a restart.
const FOLLOWS_BY_RELOAD: u32 = 130_000;

pub(super) fn choose(view: &View, cluster: &Cluster) -> Choice {
    if let Some(choice) = wishes::paused(view, cluster) {
        return choice;
    }
    if let Some(leader) = half_released(view, cluster) {
        return own_key(view, leader);
    }
    if let Some(choice) = ends(view, cluster) {
        return choice;
    }
    if let Some(choice) = opens_gate(view, cluster) {
        return choice;
    }
    if let Some(lease) = view.lease_in_force() {
        return leading(view, cluster, lease);
    }
    if let Some(choice) = takes_part(view, cluster) {
        return choice;
    }
    match vacant_office(view, cluster) {
        Some(timeline) => Choice::store(Rule::PrimaryTakesLease, take_lease(cluster, timeline)),
        None => turns(view, cluster).unwrap_or(Choice::wait(Rule::Paused)),
    }
}

/// The lease was given back, and the store may not have heard of it.
fn half_released<'a>(view: &View, cluster: &'a Cluster) -> Option<&'a Leader> {
    let leader = cluster.leader.as_ref()?;
    (leader.name == view.me && view.memory.released == Some(leader.term)).then_some(leader)
}

/// Whoever began the maintenance has said when it ends. A switchover that is under way is brought to its end before.
fn ends(view: &View, cluster: &Cluster) -> Option<Choice> {
    let due = view.memory.pause_ends.is_some_and(|at| at <= view.now);
    let busy = view.memory.handover.is_some() || view.memory.stepped_down;
    if !due || busy || view.cut_off() || !cluster.falls_to(&view.me) {
        return None;
    }
    let (config, intents) = (cluster.config.as_ref()?.version, cluster.intents.as_ref()?.version);
    Some(Choice::store(Rule::PauseEnds, Errand::EndPause { config, intents }))
}

/// Clients do not wait for a store that is silent: nobody is elected meanwhile, and who could be stays as it was last written.
fn opens_gate(view: &View, cluster: &Cluster) -> Option<Choice> {
    sync::opens_gate(view, cluster, view.lease.as_ref()?, view.postgres.running()?)
}

fn leading(view: &View, cluster: &Cluster, lease: &Lease) -> Choice {
    let release = || Choice::store(Rule::PausedReleases, Errand::ReleaseLease { term: lease.term });
    let current = !view.cut_off() && shows_our_term(view, cluster, lease);
    let asked = asked_to_take_part(view, cluster);
    match &view.postgres {
        Postgres::Running(running) => match &running.serving {
            Serving::Primary { .. } if current => primary(view, cluster, lease, running),
            Serving::Standby { timeline, .. } if asked => leading::standby(view, cluster, lease, *timeline),
            Serving::Standby { .. } if view.policy.follows.is_none() => release(),
            Serving::Primary { .. } | Serving::Standby { .. } => Choice::wait(Rule::Paused),
        },
        // It was stopped for a switchover, and comes up again if nothing comes of that.
        Postgres::Stopped { control } if view.memory.handover.is_some() && current => {
            leading::stopped(view, cluster, lease, control)
        }
        Postgres::Stopped { .. } if view.memory.handover.is_some() => {
            Choice::wait(Rule::LeaderAwaitsSnapshot)
        }
        Postgres::Stopped { .. }
        | Postgres::Empty
        | Postgres::Unfinished { .. }
        | Postgres::Unusable { .. } => release(),
        Postgres::Starting { .. } | Postgres::Unobserved => Choice::wait(Rule::Paused),
    }
}

fn primary(view: &View, cluster: &Cluster, lease: &Lease, running: &Running) -> Choice {
    requested(view, cluster, running)
        // Commits may be waiting for a standby that has gone.
        .or_else(|| sync::keep(view, cluster, lease, running))
        .unwrap_or(Choice::wait(if running.is_gated() { Rule::GateClosed } else { Rule::Paused }))
}

/// A switchover to somebody named, now. Whatever else is asked for is not to come true at some later time, when the
/// maintenance ends.
fn requested(view: &View, cluster: &Cluster, running: &Running) -> Option<Choice> {
    let Versioned { value: request, version } = cluster.failover.as_ref()?;
    if request.is_empty() || request.scheduled_at.is_some() {
        return None;
    }
    if request.candidate.is_none() {
        return Some(Choice::store(Rule::SwitchoverPaused, Errand::ClearFailover { version: *version }));
    }
    let answers = running.silent_since.is_none();
    handover::requested(view, cluster, running).filter(|_| answers)
}

/// The two whom a switchover concerns: who is named, and who has stepped down for it.
fn asked_to_take_part(view: &View, cluster: &Cluster) -> bool {
    view.memory.stepped_down || race::named(cluster) == Some(&view.me)
}

fn takes_part(view: &View, cluster: &Cluster) -> Option<Choice> {
    if view.postgres.may_accept_writes() || view.cut_off() || !asked_to_take_part(view, cluster) {
        return None;
    }
    match (&cluster.leader, cluster.initialize) {
        (Some(leader), _) if leader.name == view.me => Some(own_key(view, leader)),
        // Whoever is named has not led yet; nothing of its own is to be mended.
        (Some(leader), _) => view.memory.stepped_down.then(|| following::choose(view, cluster, leader)),
        (None, Initialize::Done(_)) => Some(candidate(view, cluster)),
        (None, Initialize::Absent | Initialize::Running | Initialize::Unrecognized) => None,
    }
}

/// No guardian stops a primary in maintenance mode, and one that is cut off stays one when its lease ends. So nobody takes over from
/// it by a switchover unless it has stopped; a failover is the operator's to judge.
fn candidate(view: &View, cluster: &Cluster) -> Choice {
    let choice = race::choose(view, cluster);
    let from = cluster.failover.as_ref().and_then(|request| request.value.leader.as_ref());
    let takes = matches!(&choice.step, Step::Store(Errand::TakeLease { .. }));
    match from.filter(|from| takes && !has_stopped(view, cluster, from)) {
        Some(from) => Choice::wait(Reason::about(Rule::CandidateAwaitsStop, from)).again_in(race::YIELD),
        None => choice,
    }
}

fn has_stopped(view: &View, cluster: &Cluster, leader: &MemberName) -> bool {
    let ended = cluster.status.ended_on == Some(cluster.highest_timeline());
    let denies = match view.peers.answers.get(leader) {
        Some(PeerAnswer::Stands(peer)) => {
            !peer.stale && matches!(peer.role, MemberRole::Demoted | MemberRole::Replica)
        }
        Some(PeerAnswer::Silent) | None => false,
    };
    // A standby cluster has no primary.
    ended || denies || *leader == view.me || view.policy.follows.is_some()
}

/// A standby that runs follows the leader, whoever made it one, as far as that needs no restart.
fn turns(view: &View, cluster: &Cluster) -> Option<Choice> {
    let leader = cluster.leader_name().filter(|leader| **leader != view.me && !view.cut_off())?;
    let running = view.postgres.running().filter(|running| FOLLOWS_BY_RELOAD <= running.version)?;
    let Serving::Standby { upstream, .. } = &running.serving else { return None };
    let fits = cluster.lineage()?.descent_of(running.position()?) != Descent::Diverged;
    let source = topology::source(view, cluster, leader);
    let elsewhere = source.address.is_some() && source.address != *upstream;
    let reason = Reason { rule: source.turns, member: source.member.cloned() };
    (fits && elsewhere).then(|| Choice::run(reason, Job::Follow { upstream: source.address.clone() }))
}

/// The timeline on which this member's primary may lead. One that others have gone beyond may not. Whoever is named as the next one waits
/// for a primary that runs: it takes its office again and hands it over.
fn vacant_office(view: &View, cluster: &Cluster) -> Option<Timeline> {
    let running = view.postgres.running().filter(|running| running.is_primary())?;
    let answers = running.silent_since.is_none();
    let vacant = cluster.leader.is_none() && view.lease.is_none() && !view.cut_off();
    let ours = cluster.system_id() == Some(running.system);
    let timeline = running.position()?.timeline;
    let newest = cluster.highest_timeline() <= timeline;
    let barred = view.tags.nofailover() || sync::barred(view, cluster, &view.me);
    (vacant && ours && newest && answers && !barred).then_some(timeline)
}
