//! This member's PostgreSQL as its agent sees it.

use serde::{Deserialize, Serialize};

use super::{Address, Descent, Fork, Gate, Lineage, Lsn, Moment, Position, Synchrony, SystemId, Timeline};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Postgres {
    /// Nobody has looked yet.
    #[default]
    Unobserved,
    /// No data directory, or an empty one.
    Empty,
    /// A bootstrap, clone or rewind began here and did not end: never to be started.
    Unfinished {
        work: Unfinished,
    },
    /// There is something, but it cannot be read as a data directory.
    Unusable {
        why: String,
    },
    Stopped {
        control: Control,
    },
    Starting {
        since: Moment,
        as_primary: bool,
        system: SystemId,
    },
    Running(Running),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unfinished {
    Bootstrap,
    Clone,
    Rewind,
}

/// What `pg_controldata` and the files beside it say of a stopped PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    pub system: SystemId,
    pub state: ControlState,
    pub checkpoint: Position,
    /// How far a standby must replay before it is consistent again.
    pub recovery_end: Option<Position>,
    pub standby_signal: bool,
    /// The directory is a backup that has not been started yet.
    pub backup_label: bool,
    /// It was restored here for a new cluster, and nobody has led it yet.
    #[serde(default)]
    pub never_led: bool,
    /// Checksums or wal_log_hints are on, so pg_rewind can work.
    pub rewindable: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ControlState {
    StartingUp,
    ShutDown,
    ShutDownInRecovery,
    ShuttingDown,
    InCrashRecovery,
    InArchiveRecovery,
    InProduction,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Running {
    pub system: SystemId,
    pub serving: Serving,
    /// It has not answered a new connection since then. `None` while it answers.
    pub silent_since: Option<Moment>,
    /// Server version as PostgreSQL's number, 150018.
    pub version: u32,
    #[serde(default)]
    pub synchrony: Synchrony,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Serving {
    Primary {
        position: Position,
        /// pg_control knows the present timeline: the checkpoint after the promotion is done.
        checkpointed: bool,
        /// Where each timeline before the present one was left; `None` while the history file has not been read.
        forks: Option<Vec<Fork>>,
    },
    Standby {
        timeline: Timeline,
        received: Option<Lsn>,
        replayed: Option<Lsn>,
        streaming: bool,
        /// Where `primary_conninfo` points.
        upstream: Option<Address>,
        /// Where each timeline before the present one was left, as far as its history file has come.
        #[serde(default)]
        forks: Option<Vec<Fork>>,
        /// The WAL asks for more connections, workers or locks than it was started with: it replays nothing more.
        #[serde(default)]
        starved: bool,
    },
}

/// What a stopped directory must go through before it can follow a lineage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejoin {
    Start,
    Rewind,
    /// A backup that was taken on another timeline: it can neither replay nor rewind to this one.
    Clone,
}

impl Postgres {
    pub fn running(&self) -> Option<&Running> {
        match self {
            Postgres::Running(running) => Some(running),
            Postgres::Unobserved
            | Postgres::Empty
            | Postgres::Unfinished { .. }
            | Postgres::Unusable { .. }
            | Postgres::Stopped { .. }
            | Postgres::Starting { .. } => None,
        }
    }

    pub fn is_primary(&self) -> bool {
        self.running().is_some_and(Running::is_primary)
    }

    /// Could a client's commit be acknowledged here now or in a moment, whatever the agent does?
    pub fn may_accept_writes(&self) -> bool {
        match self {
            Postgres::Running(running) => running.is_primary(),
            Postgres::Starting { as_primary, .. } => *as_primary,
            Postgres::Unobserved
            | Postgres::Empty
            | Postgres::Unfinished { .. }
            | Postgres::Unusable { .. }
            | Postgres::Stopped { .. } => false,
        }
    }

    /// Is this data that was restored here for a new cluster, and that nobody has led?
    pub fn never_led(&self) -> bool {
        match self {
            Postgres::Stopped { control } => control.never_led,
            Postgres::Unobserved
            | Postgres::Empty
            | Postgres::Unfinished { .. }
            | Postgres::Unusable { .. }
            | Postgres::Starting { .. }
            | Postgres::Running(_) => false,
        }
    }

    pub fn position(&self) -> Option<Position> {
        match self {
            Postgres::Running(running) => running.position(),
            Postgres::Stopped { control } => Some(control.position()),
            Postgres::Unobserved
            | Postgres::Empty
            | Postgres::Unfinished { .. }
            | Postgres::Unusable { .. }
            | Postgres::Starting { .. } => None,
        }
    }

    pub fn system_id(&self) -> Option<SystemId> {
        match self {
            Postgres::Stopped { control } => Some(control.system),
            Postgres::Starting { system, .. } => Some(*system),
            Postgres::Running(running) => Some(running.system),
            Postgres::Unobserved
            | Postgres::Empty
            | Postgres::Unfinished { .. }
            | Postgres::Unusable { .. } => None,
        }
    }
}

impl Running {
    /// Bytes of WAL that a standby has received and not replayed.
    pub fn unreplayed(&self) -> u64 {
        match &self.serving {
            Serving::Standby { received: Some(received), replayed: Some(replayed), .. } => {
                replayed.lag_behind(*received).0
            }
            Serving::Standby { .. } | Serving::Primary { .. } => 0,
        }
    }

    pub fn is_primary(&self) -> bool {
        matches!(self.serving, Serving::Primary { .. })
    }

    /// A primary that lets no client in yet.
    pub fn is_gated(&self) -> bool {
        self.is_primary() && self.synchrony.gate == Gate::Closed
    }

    /// How far its WAL reaches: written, received or replayed.
    pub fn position(&self) -> Option<Position> {
        match &self.serving {
            Serving::Primary { position, .. } => Some(*position),
            Serving::Standby { timeline, received, replayed, .. } => {
                Some(Position { timeline: *timeline, lsn: (*received).max(*replayed)? })
            }
        }
    }
}

impl Control {
    /// Was it a primary whose last words may be on nobody else's disk?
    pub fn was_primary(&self) -> bool {
        match self.state {
            ControlState::ShutDown | ControlState::ShuttingDown | ControlState::InCrashRecovery => {
                !self.standby_signal
            }
            ControlState::InProduction => !self.standby_signal && !self.backup_label,
            ControlState::StartingUp | ControlState::ShutDownInRecovery | ControlState::InArchiveRecovery => {
                false
            }
        }
    }

    /// The furthest position that the control file vouches for. A crashed primary may have written more.
    pub fn position(&self) -> Position {
        match self.recovery_end {
            Some(end) if !self.was_primary() => end.max(self.checkpoint),
            Some(_) | None => self.checkpoint,
        }
    }

    /// How this directory gets onto `lineage`.
    pub fn rejoin(&self, lineage: &Lineage) -> Rejoin {
        let same_timeline = self.position().timeline == lineage.timeline;
        if self.backup_label {
            return if same_timeline { Rejoin::Start } else { Rejoin::Clone };
        }
        let descent = match self.state {
            ControlState::ShutDown if self.was_primary() => {
                lineage.descent_of_shut_down_primary(self.checkpoint)
            }
            // What it wrote after its last checkpoint is not in the control file; pg_rewind looks for itself.
            _ if self.was_primary() && !same_timeline => Descent::Diverged,
            ControlState::StartingUp
            | ControlState::ShutDown
            | ControlState::ShutDownInRecovery
            | ControlState::ShuttingDown
            | ControlState::InCrashRecovery
            | ControlState::InArchiveRecovery
            | ControlState::InProduction => lineage.descent_of(self.position()),
        };
        match descent {
            Descent::OnLineage => Rejoin::Start,
            Descent::Diverged => Rejoin::Rewind,
        }
    }
}
