//! Somebody else leads: follow, and come back onto the leader's lineage if need be.

use super::fault::{self, Fault};
use super::{Choice, may_try_again, set_aside, topology};
use crate::model::{
    Cluster, Control, Descent, Job, Leader, MemberName, MemberRecord, MemberRole, MemberState, Postgres,
    Reason, Rejoin, Rule, Running, Serving, Span, View,
};

/// After so many failed rewinds the directory is set aside, if the settings allow it.
const REWINDS_MAX: u32 = 3;
const STOP_BUDGET: Span = Span::from_secs(30);

pub(super) fn choose(view: &View, cluster: &Cluster, leader: &Leader) -> Choice {
    let about = |rule| Reason::about(rule, &leader.name);
    let record = cluster.members.get(&leader.name);
    match &view.postgres {
        Postgres::Running(running) => running_standby(view, cluster, leader, running),
        Postgres::Starting { .. } => Choice::wait(Rule::FollowerStarting),
        Postgres::Stopped { control } => stopped(view, cluster, leader, record, control),
        Postgres::Empty if !record.is_some_and(can_be_cloned) || cluster.system_id().is_none() => {
            Choice::wait(about(Rule::CloneWaitsForLeader))
        }
        Postgres::Empty if may_try_again(view, view.memory.failures.clones) => {
            let source = clone_source(view, cluster, leader);
            Choice::run(Reason::about(Rule::Clones, source), Job::Clone { from: source.clone() })
        }
        Postgres::Empty => Choice::wait(Rule::RejoinBacksOff),
        Postgres::Unfinished { .. } if fault::active(Fault::StartsUnfinished) => {
            Choice::run(Rule::FollowerStarts, Job::StartStandby { upstream: None })
        }
        Postgres::Unfinished { .. } => set_aside(view, Rule::ClearsUnfinished),
        Postgres::Unusable { .. } => Choice::wait(Rule::UnusableData),
        Postgres::Unobserved => Choice::wait(Rule::LooksAtPostgres),
    }
}

fn can_be_cloned(record: &MemberRecord) -> bool {
    record.state == MemberState::Running
        && matches!(record.role, MemberRole::Primary | MemberRole::StandbyLeader)
}

/// Members that are tagged for it spare the leader the work. Each new member begins with another one of them, and turns to
/// the leader itself when that did not succeed.
fn clone_source<'a>(view: &View, cluster: &'a Cluster, leader: &'a Leader) -> &'a MemberName {
    let timeline = cluster.members.get(&leader.name).and_then(|record| record.timeline);
    let serves = |(name, record): &(&MemberName, &MemberRecord)| {
        let runs = record.state == MemberState::Running && record.role == MemberRole::Replica;
        let sound = runs && record.timeline.is_some() && record.timeline == timeline;
        sound
            && **name != view.me
            && **name != leader.name
            && record.tags.clonefrom()
            && record.address().is_some()
    };
    let sources: Vec<&MemberName> = cluster.members.iter().filter(serves).map(|(name, _)| name).collect();
    let mine = view.me.as_str().bytes().map(usize::from).sum::<usize>();
    let leader_only = view.memory.wish.as_ref().is_some_and(crate::model::Wish::is_from_leader);
    let by_turns = view.memory.failures.clones.is_multiple_of(2);
    let chosen = sources.get(mine % sources.len().max(1)).filter(|_| by_turns && !leader_only);
    chosen.copied().unwrap_or(&leader.name)
}

fn running_standby(view: &View, cluster: &Cluster, leader: &Leader, running: &Running) -> Choice {
    let Serving::Standby { upstream, starved, .. } = &running.serving else {
        return Choice::run(Reason::about(Rule::OtherLeads, &leader.name), Job::StopAtOnce);
    };
    if let (Some(lineage), Some(position)) = (cluster.lineage(), running.position())
        && lineage.descent_of(position) == Descent::Diverged
        && !fault::active(Fault::SkipsDivergence)
    {
        if lineage.timeline < position.timeline && streams_from_a_patroni(cluster, leader, running) {
            return Choice::wait(Reason::about(Rule::FollowsLeader, &leader.name));
        }
        let by = view.now + STOP_BUDGET;
        return Choice::run(Reason::about(Rule::FollowerDiverged, &leader.name), Job::StopFast { by });
    }
    if *starved {
        return Choice::run(Rule::StandbyStarved, Job::StopFast { by: view.now + STOP_BUDGET });
    }
    let source = topology::source(view, cluster, &leader.name);
    let about = |rule| Reason { rule, member: source.member.cloned() };
    let known = source.address.is_some() || source.member.is_none();
    if known && *upstream != source.address {
        return Choice::run(about(source.turns), Job::Follow { upstream: source.address.clone() });
    }
    if let Some(choice) = copies_slots(view, cluster, leader, running) {
        return choice;
    }
    Choice::wait(about(source.stays))
}

/// A leader of Patroni's claims no timeline and writes its record once in a loop: who streams from it knows its timeline first.
fn streams_from_a_patroni(cluster: &Cluster, leader: &Leader, running: &Running) -> bool {
    let Serving::Standby { upstream: Some(upstream), streaming: true, .. } = &running.serving else {
        return false;
    };
    let record = cluster.members.get(&leader.name).filter(|record| !record.is_ours());
    record.and_then(MemberRecord::address).as_ref() == Some(upstream)
}

/// Consumers of a logical slot can go on after a failover only where the slot is.
fn copies_slots(view: &View, cluster: &Cluster, leader: &Leader, running: &Running) -> Option<Choice> {
    let Serving::Standby { timeline, streaming: true, upstream, .. } = &running.serving else { return None };
    let record = cluster.members.get(&leader.name).filter(|record| can_be_cloned(record))?;
    let slots = &view.memory.slots_to_copy;
    let wanted = !slots.is_empty() && record.timeline == Some(*timeline);
    (wanted && may_try_again(view, view.memory.failures.slot_copies)).then(|| {
        let job =
            Job::CopySlots { from: leader.name.clone(), slots: slots.clone(), upstream: upstream.clone() };
        Choice::run(Reason::about(Rule::CopiesSlots, &leader.name), job)
    })
}

fn stopped(
    view: &View,
    cluster: &Cluster,
    leader: &Leader,
    record: Option<&MemberRecord>,
    control: &Control,
) -> Choice {
    let about = |rule| Reason::about(rule, &leader.name);
    let (Some(lineage), Some(record)) = (cluster.lineage(), record) else {
        return Choice::wait(about(Rule::RejoinWaitsForLineage));
    };
    let failures = &view.memory.failures;
    let reclone = |allowed: bool| {
        if allowed && fault::active(Fault::ClonesOverData) {
            Choice::run(about(Rule::RejoinSetsAside), Job::Clone { from: leader.name.clone() })
        } else if allowed {
            set_aside(view, about(Rule::RejoinSetsAside))
        } else {
            Choice::wait(about(Rule::RejoinBlocked))
        }
    };
    let rejoin = if fault::active(Fault::SkipsDivergence) { Rejoin::Start } else { control.rejoin(&lineage) };
    match rejoin {
        Rejoin::Start if !may_try_again(view, failures.starts) => Choice::wait(Rule::RejoinBacksOff),
        Rejoin::Start => start(view, cluster, leader),
        // A restored backup is of the timeline that was led when it was made; the archive leads on from there.
        Rejoin::Clone
            if view.policy.restores_backups
                && lineage.descent_of(control.checkpoint) == Descent::OnLineage =>
        {
            if may_try_again(view, failures.starts) {
                start(view, cluster, leader)
            } else {
                Choice::wait(Rule::RejoinBacksOff)
            }
        }
        Rejoin::Clone => reclone(true),
        Rejoin::Rewind if !view.policy.use_rewind || !control.rewindable => {
            reclone(view.policy.reclone_when_diverged)
        }
        Rejoin::Rewind if REWINDS_MAX <= failures.rewinds => reclone(view.policy.reclone_when_rewind_fails),
        // No server of a standby cluster is one that pg_rewind could take every block from.
        Rejoin::Rewind if view.policy.follows.is_some() => {
            if may_try_again(view, failures.rewinds) {
                Choice::run(Rule::SiteRewinds, Job::RewindRemote)
            } else {
                Choice::wait(Rule::RejoinBacksOff)
            }
        }
        Rejoin::Rewind if !record.is_rewind_source() => Choice::wait(about(Rule::RejoinWaitsForCheckpoint)),
        Rejoin::Rewind if !may_try_again(view, failures.rewinds) => Choice::wait(Rule::RejoinBacksOff),
        Rejoin::Rewind => Choice::run(about(Rule::RejoinRewinds), Job::Rewind { from: leader.name.clone() }),
    }
}

fn start(view: &View, cluster: &Cluster, leader: &Leader) -> Choice {
    let source = topology::source(view, cluster, &leader.name);
    if source.address.is_none() && source.member.is_some() {
        return Choice::wait(Reason::about(Rule::RejoinWaitsForLineage, &leader.name));
    }
    let reason = Reason { rule: Rule::FollowerStarts, member: source.member.cloned() };
    Choice::run(reason, Job::StartStandby { upstream: source.address })
}
