//! What etcd's errors mean for us. What is not known here means that there was no answer.

use std::error::Error as _;
use std::fmt::Write as _;

use etcd_client::Error;

use crate::model::SessionId;
use crate::store::StoreError;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Ask somebody else.
    Unanswered {
        text: String,
        connection_broken: bool,
    },
    /// The token has run out, or somebody has changed users or roles since we got it: show the password again.
    TokenStale(String),
    /// Our user may not do that, as far as this server knows.
    Denied(String),
    /// There are no users and passwords here: go on without a token.
    NoAuthentication,
    Refused(String),
    SessionGone,
}

/// gRPC's numbers.
mod code {
    pub const INVALID_ARGUMENT: i32 = 3;
    pub const NOT_FOUND: i32 = 5;
    pub const PERMISSION_DENIED: i32 = 7;
    pub const RESOURCE_EXHAUSTED: i32 = 8;
    pub const FAILED_PRECONDITION: i32 = 9;
    pub const UNIMPLEMENTED: i32 = 12;
    pub const UNAUTHENTICATED: i32 = 16;
}

impl Fault {
    pub(super) fn unanswered(text: impl Into<String>) -> Fault {
        Fault::Unanswered { text: text.into(), connection_broken: false }
    }

    pub(super) fn broken(text: impl Into<String>) -> Fault {
        Fault::Unanswered { text: text.into(), connection_broken: true }
    }

    pub(super) fn from_the_past() -> Fault {
        Fault::broken("the server answers from the past")
    }

    pub(super) fn headless() -> Fault {
        Fault::unanswered("an answer without a header")
    }

    /// How the error of a whole attempt reads.
    pub(super) fn named(self, attempt: &'static str, session: Option<SessionId>) -> StoreError {
        match (self, session) {
            (Fault::Unanswered { text, .. } | Fault::TokenStale(text), _) => {
                StoreError::unanswered(attempt, text)
            }
            (Fault::Denied(text) | Fault::Refused(text), _) => StoreError::refused(attempt, text),
            (Fault::SessionGone, Some(session)) => StoreError::SessionGone { attempt, session },
            (Fault::SessionGone, None) => StoreError::unanswered(attempt, "a session has ended"),
            (Fault::NoAuthentication, _) => StoreError::refused(attempt, "authentication is not enabled"),
        }
    }

    fn of_status(code: i32, message: &str, text: String, connection_broken: bool) -> Fault {
        match code {
            code::UNAUTHENTICATED => Fault::TokenStale(text),
            code::INVALID_ARGUMENT
                if message.contains("revision of auth store is old")
                    || message.contains("user name is empty") =>
            {
                Fault::TokenStale(text)
            }
            code::PERMISSION_DENIED => Fault::Denied(text),
            code::NOT_FOUND if message.contains("lease not found") => Fault::SessionGone,
            code::FAILED_PRECONDITION if message.contains("authentication is not enabled") => {
                Fault::NoAuthentication
            }
            code::RESOURCE_EXHAUSTED if message.contains("space exceeded") => Fault::Refused(text),
            code::INVALID_ARGUMENT | code::UNIMPLEMENTED => Fault::Refused(text),
            _ => Fault::Unanswered { text, connection_broken },
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Fault {
        match error {
            Error::GRpcStatus(status) => {
                let mut text = status.message().to_owned();
                let mut cause = status.source();
                // The outer causes only say that there was an error; the innermost says which.
                while let Some(inner) = cause.and_then(std::error::Error::source) {
                    cause = Some(inner);
                }
                if let Some(cause) = cause {
                    // Writing to a String cannot fail.
                    let _ = write!(text, ": {cause}");
                }
                let broken = status.source().is_some();
                Fault::of_status(status.code() as i32, status.message(), text, broken)
            }
            Error::LeaseKeepAliveError(text) if text == "lease not found" => Fault::SessionGone,
            Error::InvalidArgs(text) => Fault::Refused(text),
            Error::InvalidUri(error) => Fault::Refused(error.to_string()),
            Error::TransportError(error) => {
                let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
                Fault::broken(format!("{error}{cause}"))
            }
            other => Fault::broken(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etcds_errors_are_sorted_by_what_to_do() {
        let check = |code: i32, message: &str, expected: &dyn Fn(&Fault) -> bool| {
            let fault = Fault::of_status(code, message, message.to_owned(), false);
            assert!(expected(&fault), "{code} {message}: {fault:?}");
        };
        let stale = |fault: &Fault| matches!(fault, Fault::TokenStale(_));
        check(16, "etcdserver: invalid auth token", &stale);
        check(3, "etcdserver: revision of auth store is old", &stale);
        check(3, "etcdserver: user name is empty", &stale);
        let refused = |fault: &Fault| matches!(fault, Fault::Refused(_));
        check(3, "etcdserver: authentication failed, invalid user ID or password", &refused);
        check(8, "etcdserver: mvcc: database space exceeded", &refused);
        check(7, "etcdserver: permission denied", &|fault| matches!(fault, Fault::Denied(_)));
        check(5, "etcdserver: requested lease not found", &|fault| *fault == Fault::SessionGone);
    }

    #[test]
    fn an_error_that_nobody_knows_is_no_answer() {
        for code in (0..20).filter(|code| ![3, 7, 12, 16].contains(code)) {
            let fault = Fault::of_status(code, "something new", "something new".to_owned(), false);
            assert_eq!(fault, Fault::unanswered("something new"), "{code}");
        }
    }
}
