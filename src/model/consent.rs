//! Failsafe mode's words: what a leader asks of everybody who could take the lease, and what they answer.

use serde::{Deserialize, Serialize};

use super::{Lsn, MemberName, Moment};

/// What this member has promised: to leave the lease to that one until then, whatever the store says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    pub to: MemberName,
    pub until: Moment,
}

/// What a member answers to a leader that the store does not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Consent {
    /// Promised. How far its WAL reaches, if that is known.
    Granted { reached: Option<Lsn> },
    /// It leads, is about to, or knows that somebody else does.
    Denied,
    /// There is no failsafe mode here.
    Off,
}
