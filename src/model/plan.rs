//! What a decision asks for. Carrying it out leaves no choice to make.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{
    Address, FailoverRequest, Gate, MemberName, Moment, Reason, Span, SyncNames, SyncState, SystemId, Term,
    Timeline,
};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub reason: Reason,
    pub step: Step,
    /// Until when the session may be renewed without a further decision.
    pub renew_until: Moment,
    pub fence: FenceOrder,
    /// Failsafe mode: ask the others to agree that this member leads on.
    #[serde(default)]
    pub seek_consent: bool,
    /// When to decide again if nothing happens before.
    pub look_again: Moment,
}

/// The one thing to do next. Doing it changes the view, and the view is decided upon anew.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Step {
    Wait,
    /// A write to the store that somebody else may win.
    Store(Errand),
    /// Ask these members where they stand.
    AskPeers(Vec<Question>),
    /// Long work on PostgreSQL, one at a time.
    Run(Job),
    /// Stop the long work that runs, because it has lost its reason.
    Cancel,
    /// Everything that an orderly end asks for is done.
    Exit,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Errand {
    /// Claim the right to make the cluster's data; the claim dies with our session.
    TakeInitialize,
    /// The data is made: name it, and publish the first configuration.
    FinishInitialize {
        system: SystemId,
    },
    AbandonInitialize,
    /// Take the leader key, and with it the right to write on (or begin) the claimed timeline.
    TakeLease {
        claim: NewClaim,
    },
    /// Give the leader key back: PostgreSQL has been stopped.
    ReleaseLease {
        term: Term,
    },
    ClearFailover {
        version: i64,
    },
    /// The time of a scheduled switchover has come: put the request without its time in place of that version.
    MakeDue {
        request: FailoverRequest,
        version: i64,
    },
    /// Maintenance mode has come to its end: take it out of the configuration of that version, and what is said of it out of
    /// the intents of that one.
    EndPause {
        config: i64,
        intents: i64,
    },
    /// Who may lead without loss, in place of that version (0: there is none).
    WriteSync {
        term: Term,
        state: SyncState,
        version: i64,
    },
    /// Anybody may lead again.
    ClearSync {
        term: Term,
        version: i64,
    },
}

/// A member to ask, and how long to wait for its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    pub member: MemberName,
    pub patience: Span,
}

/// The wish to write on a timeline, and the version of the claim that the wish was based on (0: there was none).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewClaim {
    pub timeline: Timeline,
    pub seen_version: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Job {
    /// initdb, users, the operator's scripts; leaves a stopped PostgreSQL that never listened to anybody else.
    Bootstrap,
    Clone {
        from: MemberName,
    },
    /// The same by a method of the operator's that needs nobody who runs.
    CloneWithoutLeader,
    Rewind {
        from: MemberName,
    },
    /// The same two with a server of the cluster that this one follows.
    CloneRemote,
    RewindRemote,
    StartPrimary {
        term: Term,
        names: SyncNames,
        #[serde(default)]
        gate: Gate,
    },
    StartStandby {
        upstream: Option<Address>,
    },
    /// The operator's command that must agree to a promotion.
    PrePromote {
        term: Term,
    },
    Promote {
        term: Term,
        timeline: Timeline,
        names: SyncNames,
    },
    /// Point a running standby at another server, or at none.
    Follow {
        upstream: Option<Address>,
    },
    /// Bring the leader's logical slots here. PostgreSQL has to be down for a moment.
    CopySlots {
        from: MemberName,
        slots: BTreeSet<String>,
        /// What the standby replicates from, before and after.
        upstream: Option<Address>,
    },
    /// Checkpoint, then stop in good order; whatever still lives at `by` is stopped at once.
    StopOrderly {
        by: Moment,
        handover: Option<MemberName>,
    },
    /// The same without the checkpoint before: time is short, or there is nobody to hand over to.
    StopFast {
        by: Moment,
    },
    StopAtOnce,
    /// Move a directory that must not be started out of the way, keeping it.
    SetAside,
    Checkpoint,
    /// Change whose word commits wait for, and see that every process of PostgreSQL does.
    Synchronize {
        names: SyncNames,
    },
    /// Let clients in.
    OpenGate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FenceOrder {
    /// Kill PostgreSQL at `fence_at`, unless told of a later moment before.
    Arm { term: Term, fence_at: Moment },
    /// No PostgreSQL here can accept writes.
    Disarm,
    /// Nothing is known that would change the last order.
    Keep,
}

impl Job {
    /// Work that would harm a data directory if it were cut short is left to end.
    pub fn can_be_cancelled(&self) -> bool {
        match self {
            Job::Clone { .. }
            | Job::CloneWithoutLeader
            | Job::CloneRemote
            | Job::StartStandby { .. }
            | Job::StartPrimary { .. }
            | Job::PrePromote { .. }
            | Job::Checkpoint
            | Job::Synchronize { .. }
            | Job::OpenGate => true,
            Job::Bootstrap
            | Job::Rewind { .. }
            | Job::RewindRemote
            | Job::CopySlots { .. }
            | Job::Promote { .. }
            | Job::Follow { .. }
            | Job::StopOrderly { .. }
            | Job::StopFast { .. }
            | Job::StopAtOnce
            | Job::SetAside => false,
        }
    }

    /// A stop goes ahead of whatever else runs.
    pub fn is_stop(&self) -> bool {
        match self {
            Job::StopOrderly { .. } | Job::StopFast { .. } | Job::StopAtOnce => true,
            Job::Bootstrap
            | Job::Clone { .. }
            | Job::CloneWithoutLeader
            | Job::PrePromote { .. }
            | Job::Rewind { .. }
            | Job::CloneRemote
            | Job::RewindRemote
            | Job::CopySlots { .. }
            | Job::StartPrimary { .. }
            | Job::StartStandby { .. }
            | Job::Promote { .. }
            | Job::Follow { .. }
            | Job::SetAside
            | Job::Checkpoint
            | Job::Synchronize { .. }
            | Job::OpenGate => false,
        }
    }

    /// One word for logs and REST.
    pub fn name(&self) -> &'static str {
        match self {
            Job::Bootstrap => "bootstrap",
            Job::Clone { .. } => "clone",
            Job::CloneWithoutLeader => "clone without a leader",
            Job::PrePromote { .. } => "pre_promote",
            Job::Rewind { .. } => "rewind",
            Job::CloneRemote => "clone from afar",
            Job::RewindRemote => "rewind from afar",
            Job::CopySlots { .. } => "copy slots",
            Job::StartPrimary { .. } => "start as primary",
            Job::StartStandby { .. } => "start as standby",
            Job::Promote { .. } => "promote",
            Job::Follow { .. } => "follow",
            Job::StopOrderly { .. } => "stop in good order",
            Job::StopFast { .. } => "stop fast",
            Job::StopAtOnce => "stop at once",
            Job::SetAside => "set aside",
            Job::Checkpoint => "checkpoint",
            Job::Synchronize { .. } => "set the synchronous standbys",
            Job::OpenGate => "open the gate",
        }
    }
}
