//! What an operator asks one member to do with its own PostgreSQL, and what becomes of it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Moment, Span};

/// At most one at a time. It is dropped when it is fulfilled, and when it cannot be any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// For whoever waits for the answer.
    pub id: u64,
    pub ask: Ask,
    pub stage: Stage,
    pub since: Moment,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// With a timeout, a leader that is not up again by then gives the lease back.
    Restart { timeout: Option<Span> },
    /// `force`: a clone that is under way is cut short for it. `from_leader`: nobody else is copied from.
    Reinitialize { force: bool, from_leader: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    Asked,
    /// PostgreSQL is being stopped for it.
    Stopping,
    /// PostgreSQL is down, or there is no data any more. The usual rules bring it up again.
    Down,
}

/// How a wish ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Refused(Refusal),
    Failed,
}

/// Why a wish is not taken up, or was dropped before anything was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// This is under way.
    Busy(&'static str),
    Starting,
    Leads,
    NoLeader,
    /// A leader that cannot reach the store could not start PostgreSQL again.
    CutOff,
    /// Its PostgreSQL accepts writes under no lease, or is about to be stopped anyway.
    NotNow,
}

impl Ask {
    pub fn name(self) -> &'static str {
        match self {
            Ask::Restart { .. } => "restart",
            Ask::Reinitialize { .. } => "reinitialize",
        }
    }
}

impl Wish {
    pub fn is_restart(&self) -> bool {
        match self.ask {
            Ask::Restart { .. } => true,
            Ask::Reinitialize { .. } => false,
        }
    }

    pub fn is_from_leader(&self) -> bool {
        match self.ask {
            Ask::Reinitialize { from_leader, .. } => from_leader,
            Ask::Restart { .. } => false,
        }
    }

    /// When the time that an operator gave for a restart is over.
    pub fn gives_up_at(&self) -> Option<Moment> {
        match self.ask {
            Ask::Restart { timeout } => timeout.map(|timeout| self.since + timeout),
            Ask::Reinitialize { .. } => None,
        }
    }
}

/// Patroni's sentences where it has one.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Busy(what) => write!(f, "{what} already in progress"),
            Refusal::Starting => f.write_str("postgres is still starting"),
            Refusal::Leads => f.write_str("I am the leader, can not reinitialize"),
            Refusal::NoLeader => f.write_str("Cluster has no leader, can not reinitialize"),
            Refusal::CutOff => f.write_str("restart failed: the store does not answer"),
            Refusal::NotNow => f.write_str("this is not possible in the present situation"),
        }
    }
}
