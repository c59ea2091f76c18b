//! What a member tells the others of itself through the store: its record, and as leader the status and the history.

use std::collections::BTreeMap;

use super::slots;
use crate::model::{
    Cluster, ControlState, Fork, HistoryLine, Job, Lsn, MemberName, MemberRecord, MemberRole, MemberState,
    Moment, Postgres, Running, Serving, SlotRow, Status, Timeline, View, Watchdog,
};

/// The reason that PostgreSQL's own history files give for every promotion of ours.
const UNTARGETED: &str = "no recovery target specified";

/// What is written in every record of this member and does not depend on what it knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub conn_url: String,
    pub api_url: String,
    pub version: String,
}

/// The member's own record as it should stand in the store now.
pub fn member_record(view: &View, identity: &Identity) -> MemberRecord {
    let mut record = MemberRecord {
        conn_url: identity.conn_url.clone(),
        api_url: identity.api_url.clone(),
        state: member_state(view),
        role: member_role(view),
        version: identity.version.clone(),
        tags: view.tags.clone(),
        pause: view.policy.pause.then_some(true),
        watchdog: (view.watchdog != Watchdog::Unknown).then(|| view.watchdog.to_string()),
        tenure: Some(env!("CARGO_PKG_VERSION").to_owned()),
        ..MemberRecord::default()
    };
    let Some(running) = view.postgres.running() else { return record };
    match &running.serving {
        Serving::Primary { position, checkpointed, .. } => {
            record.checkpoint_after_promote = (!checkpointed).then_some(false);
            record.xlog_location = Some(position.lsn);
            record.timeline = Some(position.timeline);
            record.gate = running.is_gated().then(|| "closed".to_owned());
        }
        Serving::Standby { timeline, received, replayed, streaming, .. } => {
            record.xlog_location = (*received).max(*replayed);
            record.replay_lsn = *replayed;
            record.receive_lsn = *received;
            let state = if *streaming { "streaming" } else { "in archive recovery" };
            record.replication_state = Some(state.to_owned());
            record.timeline = Some(*timeline);
        }
    }
    record
}

/// Is the difference more than WAL or a clone moving on? Then the others must hear of it at once.
pub fn differs_in_substance(old: &MemberRecord, new: &MemberRecord) -> bool {
    let still = |record: &MemberRecord| MemberRecord {
        xlog_location: None,
        replay_lsn: None,
        receive_lsn: None,
        copying: None,
        ..record.clone()
    };
    still(old) != still(new)
}

/// The leader's word on its position. A standby that leads and is about to be promoted has nothing to say.
pub fn status(view: &View, cluster: &Cluster) -> Option<Status> {
    let lsn = leading_position(view)?;
    Some(Status { optime: Some(lsn), ended_on: None, ..cluster.status.clone() })
}

/// The last word of a leader that gives the lease back.
pub fn last_status(view: &View, cluster: &Cluster) -> Status {
    match &view.postgres {
        Postgres::Stopped { control } if control.was_primary() => {
            let at = control.checkpoint;
            let ended = control.state == ControlState::ShutDown && at.timeline == cluster.highest_timeline();
            Status { optime: Some(at.lsn), ended_on: ended.then_some(at.timeline), ..cluster.status.clone() }
        }
        Postgres::Unobserved
        | Postgres::Empty
        | Postgres::Unfinished { .. }
        | Postgres::Unusable { .. }
        | Postgres::Stopped { .. }
        | Postgres::Starting { .. }
        | Postgres::Running(_) => cluster.status.clone(),
    }
}

/// The same with what a leader says of its slots.
pub fn status_with_slots(view: &View, cluster: &Cluster, present: &[SlotRow]) -> Option<Status> {
    let status = status(view, cluster)?;
    let (slots, retain_slots) = slots::told(view, present, status.optime?);
    Some(Status { slots, retain_slots, ..status })
}

fn leading_position(view: &View) -> Option<Lsn> {
    view.lease_in_force()?;
    let leads = |running: &&Running| running.is_primary() || view.policy.follows.is_some();
    Some(view.postgres.running().filter(leads)?.position()?.lsn)
}

/// Who takes part in failsafe mode, if the store is to be told anew: everybody who has said where to find it. Not while this
/// member leads by consent: somebody who was not asked would be free to take the lease.
pub fn failsafe(view: &View, cluster: &Cluster) -> Option<BTreeMap<MemberName, String>> {
    view.lease_in_force().filter(|_| view.policy.failsafe && !view.cut_off() && !view.leads_by_consent())?;
    let records = cluster.members.iter().filter(|(_, record)| !record.api_url.is_empty());
    let members: BTreeMap<MemberName, String> =
        records.map(|(name, record)| (name.clone(), record.api_url.clone())).collect();
    (members.contains_key(&view.me) && members != cluster.failsafe).then_some(members)
}

/// The lines that `/history` should have, if the leader has something to add to it. `wall_clock` tells a moment, for people.
pub fn history(
    view: &View,
    cluster: &Cluster,
    wall_clock: impl Fn(Moment) -> String,
) -> Option<Vec<HistoryLine>> {
    view.lease_in_force()?;
    let running = view.postgres.running()?;
    let (timeline, forks) = match &running.serving {
        Serving::Primary { position, forks: Some(forks), .. } => (position.timeline, forks),
        // Whoever follows the leader of a standby cluster must know where it comes from.
        Serving::Standby { timeline, forks: Some(forks), .. } if view.policy.follows.is_some() => {
            (*timeline, forks)
        }
        Serving::Primary { forks: None, .. } | Serving::Standby { .. } => return None,
    };
    if timeline == Timeline::FIRST {
        return (!cluster.history.is_empty()).then(Vec::new);
    }
    let told = cluster.history.last().is_some_and(|last| {
        forks.last().is_some_and(|fork| fork.parent == last.timeline && fork.at == last.switch)
    });
    if told || forks.is_empty() {
        return None;
    }
    let newest = forks.len() - 1;
    let kept = match view.policy.history_lines_max {
        0 => forks.len(),
        max => max.min(forks.len()),
    };
    let line = |(index, fork): (usize, &Fork)| {
        let stored =
            cluster.history.iter().find(|line| line.timeline == fork.parent && line.switch == fork.at);
        match stored {
            Some(line) => line.clone(),
            None if index == newest => HistoryLine {
                timeline: fork.parent,
                switch: fork.at,
                reason: reason(view, timeline, &wall_clock),
                timestamp: Some(wall_clock(view.now)),
                new_leader: Some(view.me.clone()),
            },
            None => HistoryLine {
                timeline: fork.parent,
                switch: fork.at,
                reason: UNTARGETED.to_owned(),
                timestamp: None,
                new_leader: None,
            },
        }
    };
    Some(forks.iter().enumerate().skip(forks.len() - kept).map(line).collect())
}

/// What PostgreSQL says itself, and what was lost at most.
fn reason(view: &View, timeline: Timeline, wall_clock: impl Fn(Moment) -> String) -> String {
    match view.memory.takeover.filter(|takeover| takeover.timeline == timeline) {
        Some(takeover) => format!("{UNTARGETED}; lost: {}", takeover.loss.told(wall_clock)),
        None => UNTARGETED.to_owned(),
    }
}

pub(super) fn member_state(view: &View) -> MemberState {
    if view.is_restarting() {
        return MemberState::Restarting;
    }
    if let Some(running) = &view.work.job {
        match running.job {
            Job::Bootstrap => return MemberState::Bootstrapping,
            Job::Clone { .. } | Job::CloneWithoutLeader | Job::CloneRemote => {
                return MemberState::CreatingReplica;
            }
            Job::CopySlots { .. } => return MemberState::Restarting,
            Job::StopOrderly { .. } | Job::StopFast { .. } | Job::StopAtOnce => return MemberState::Stopping,
            Job::StartPrimary { .. } | Job::StartStandby { .. } => return MemberState::Starting,
            Job::Rewind { .. }
            | Job::RewindRemote
            | Job::PrePromote { .. }
            | Job::Promote { .. }
            | Job::Follow { .. }
            | Job::SetAside
            | Job::Checkpoint
            | Job::Synchronize { .. }
            | Job::OpenGate => {}
        }
    }
    match &view.postgres {
        Postgres::Running(running) if running.silent_since.is_some() => MemberState::Unknown,
        Postgres::Running(_) => MemberState::Running,
        Postgres::Starting { .. } => MemberState::Starting,
        Postgres::Stopped { control } if 0 < view.memory.failures.starts && !control.backup_label => {
            MemberState::StartFailed
        }
        Postgres::Stopped { control } => match control.state {
            ControlState::InProduction | ControlState::InCrashRecovery if !control.backup_label => {
                MemberState::Crashed
            }
            ControlState::StartingUp
            | ControlState::ShutDown
            | ControlState::ShutDownInRecovery
            | ControlState::ShuttingDown
            | ControlState::InCrashRecovery
            | ControlState::InArchiveRecovery
            | ControlState::InProduction => MemberState::Stopped,
        },
        Postgres::Unobserved | Postgres::Empty | Postgres::Unfinished { .. } | Postgres::Unusable { .. } => {
            MemberState::Stopped
        }
    }
}

pub fn member_role(view: &View) -> MemberRole {
    match &view.postgres {
        Postgres::Running(running) if running.is_primary() => MemberRole::Primary,
        Postgres::Starting { as_primary: true, .. } => MemberRole::Primary,
        Postgres::Stopped { control } if control.was_primary() => MemberRole::Demoted,
        Postgres::Running(_) if view.policy.follows.is_some() && view.lease_in_force().is_some() => {
            MemberRole::StandbyLeader
        }
        Postgres::Running(_) | Postgres::Starting { .. } | Postgres::Stopped { .. } => MemberRole::Replica,
        Postgres::Unobserved | Postgres::Empty | Postgres::Unfinished { .. } | Postgres::Unusable { .. } => {
            MemberRole::Uninitialized
        }
    }
}
