//! What can go wrong with PostgreSQL, by what the caller can do about it.

use std::fmt::Display;

use crate::model::Span;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Never like this: nothing was changed, and trying again without changing something is useless.
    #[error("{what}: {why}")]
    Refused { what: String, why: String },
    /// It was tried and did not succeed. What is half done is marked as such on disk.
    #[error("{what}: {why}")]
    Failed { what: String, why: String },
    /// It was not done in time, and may still happen or have happened.
    #[error("{what}: not done within {patience}")]
    OutOfTime { what: String, patience: Span },
}

impl Error {
    pub(super) fn refused(what: impl Into<String>, why: impl Display) -> Error {
        Error::Refused { what: what.into(), why: why.to_string() }
    }

    pub(super) fn failed(what: impl Into<String>, why: impl Display) -> Error {
        Error::Failed { what: what.into(), why: why.to_string() }
    }

    pub(super) fn out_of_time(what: impl Into<String>, patience: Span) -> Error {
        Error::OutOfTime { what: what.into(), patience }
    }
}

/// `std::io::Error` says what happened, and never to which file.
pub(super) trait Trying<T> {
    fn trying(self, what: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T, E: Display> Trying<T> for Result<T, E> {
    fn trying(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|why| Error::failed(what(), why))
    }
}
