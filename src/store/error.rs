//! What can come of asking the store, by what to do about it.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

/// Variants follow the reaction. An error that nobody knows is `Unanswered`: neither won nor lost.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// It may have happened. Look before acting on it either way.
    #[error("{attempt}: no answer from the store")]
    Unanswered {
        attempt: &'static str,
        #[source]
        cause: Cause,
    },
    /// Somebody else was first: the store is not as we expected.
    #[error("{attempt}: {found}")]
    Conflict { attempt: &'static str, found: String },
    /// Never like this: the same request will be refused again until somebody changes something.
    #[error("{attempt}: refused by the store")]
    Refused {
        attempt: &'static str,
        #[source]
        cause: Cause,
    },
    /// The session has ended, and with it every key that hung on it.
    #[error("{attempt}: session {session} has ended")]
    SessionGone { attempt: &'static str, session: crate::model::SessionId },
}

/// What happened, as told by the adapter. Cheap to pass on, since a silent store is announced to everybody.
#[derive(Clone, Debug)]
pub struct Cause(Arc<str>);

impl StoreError {
    pub fn unanswered(attempt: &'static str, cause: impl fmt::Display) -> StoreError {
        StoreError::Unanswered { attempt, cause: Cause::new(cause) }
    }

    pub fn refused(attempt: &'static str, cause: impl fmt::Display) -> StoreError {
        StoreError::Refused { attempt, cause: Cause::new(cause) }
    }

    pub fn conflict(attempt: &'static str, found: impl Into<String>) -> StoreError {
        StoreError::Conflict { attempt, found: found.into() }
    }
}

impl Cause {
    pub fn new(text: impl fmt::Display) -> Cause {
        Cause(text.to_string().into())
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Cause {}
