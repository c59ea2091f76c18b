//! Somebody else leads: follow, and come back onto the leader's lineage if need be.

use super::fault::{self, Fault};
use super::{Choice, may_try_again};
use crate::model::{
    Cluster, Control, Descent, Job, Leader, MemberRecord, MemberRole, MemberState, Postgres, Reason, Rejoin,
    Rule, Running, Serving, Span, View,
};

/// After so many failed rewinds the directory is set aside, if the settings allow it.
const REWINDS_MAX: u32 = 3;
const STOP_BUDGET: Span = Span::from_secs(30);

pub(super) fn choose(view: &View, cluster: &Cluster, leader: &Leader) -> Choice {
    let about = |rule| Reason::about(rule, &leader.name);
    let record = cluster.members.get(&leader.name);
    match &view.postgres {
        Postgres::Running(running) => running_standby(view, cluster, leader, record, running),
        Postgres::Starting { .. } => Choice::wait(Rule::FollowerStarting),
        Postgres::Stopped { control } => stopped(view, cluster, leader, record, control),
        Postgres::Empty if !record.is_some_and(can_be_cloned) || cluster.system_id().is_none() => {
            Choice::wait(about(Rule::CloneWaitsForLeader))
        }
        Postgres::Empty if may_try_again(view, view.memory.failures.clones) => {
            Choice::run(about(Rule::Clones), Job::Clone { from: leader.name.clone() })
        }
        Postgres::Empty => Choice::wait(Rule::RejoinBacksOff),
        Postgres::Unfinished { .. } if fault::active(Fault::StartsUnfinished) => {
            Choice::run(Rule::FollowerStarts, Job::StartStandby { upstream: None })
        }
        Postgres::Unfinished { .. } => Choice::run(Rule::ClearsUnfinished, Job::SetAside),
        Postgres::Unusable { .. } => Choice::wait(Rule::UnusableData),
        Postgres::Unobserved => Choice::wait(Rule::LooksAtPostgres),
    }
}

fn can_be_cloned(record: &MemberRecord) -> bool {
    record.state == MemberState::Running && record.role == MemberRole::Primary
}

fn running_standby(
    view: &View,
    cluster: &Cluster,
    leader: &Leader,
    record: Option<&MemberRecord>,
    running: &Running,
) -> Choice {
    let Serving::Standby { upstream, .. } = &running.serving else {
        return Choice::run(Reason::about(Rule::OtherLeads, &leader.name), Job::StopAtOnce);
    };
    if let (Some(lineage), Some(position)) = (cluster.lineage(), running.position())
        && lineage.descent_of(position) == Descent::Diverged
        && !fault::active(Fault::SkipsDivergence)
    {
        let by = view.now + STOP_BUDGET;
        return Choice::run(Reason::about(Rule::FollowerDiverged, &leader.name), Job::StopFast { by });
    }
    match record.and_then(MemberRecord::address) {
        Some(address) if upstream.as_ref() != Some(&address) => Choice::run(
            Reason::about(Rule::FollowsNewLeader, &leader.name),
            Job::Follow { upstream: address },
        ),
        Some(_) | None => Choice::wait(Reason::about(Rule::FollowsLeader, &leader.name)),
    }
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
            Choice::run(about(Rule::RejoinSetsAside), Job::SetAside)
        } else {
            Choice::wait(about(Rule::RejoinBlocked))
        }
    };
    let rejoin = if fault::active(Fault::SkipsDivergence) { Rejoin::Start } else { control.rejoin(&lineage) };
    match rejoin {
        Rejoin::Start if !may_try_again(view, failures.starts) => Choice::wait(Rule::RejoinBacksOff),
        Rejoin::Start => match record.address() {
            Some(upstream) => {
                Choice::run(about(Rule::FollowerStarts), Job::StartStandby { upstream: Some(upstream) })
            }
            None => Choice::wait(about(Rule::RejoinWaitsForLineage)),
        },
        Rejoin::Clone => reclone(true),
        Rejoin::Rewind if !view.policy.use_rewind || !control.rewindable => {
            reclone(view.policy.reclone_when_diverged)
        }
        Rejoin::Rewind if REWINDS_MAX <= failures.rewinds => reclone(view.policy.reclone_when_rewind_fails),
        Rejoin::Rewind if !record.is_rewind_source() => Choice::wait(about(Rule::RejoinWaitsForCheckpoint)),
        Rejoin::Rewind if !may_try_again(view, failures.rewinds) => Choice::wait(Rule::RejoinBacksOff),
        Rejoin::Rewind => Choice::run(about(Rule::RejoinRewinds), Job::Rewind { from: leader.name.clone() }),
    }
}
