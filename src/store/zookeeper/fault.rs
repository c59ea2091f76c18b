//! What ZooKeeper's errors mean for us. What is not known here means that there was no answer.

use super::jute::Malformed;
use super::message::Code;
use crate::model::SessionId;
use crate::store::StoreError;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Ask again, elsewhere.
    Unanswered(String),
    Refused(String),
    SessionGone,
}

impl Fault {
    pub(super) fn unanswered(text: impl Into<String>) -> Fault {
        Fault::Unanswered(text.into())
    }

    /// A code that the asker did not expect.
    pub(super) fn of(code: Code) -> Fault {
        match code {
            Code::SessionExpired => Fault::SessionGone,
            Code::NoAuth => Fault::Refused("the znode's access list does not let us".to_owned()),
            Code::AuthFailed => Fault::Refused("our credentials (auth_data) are not accepted".to_owned()),
            Code::InvalidAcl => {
                Fault::Refused("the access list to set (set_acls) is not accepted".to_owned())
            }
            Code::BadRequest(number) => Fault::Refused(format!("ZooKeeper's error {number}")),
            Code::NoNode => Fault::unanswered("the znode is gone"),
            Code::BadVersion | Code::NodeExists | Code::NotEmpty => {
                Fault::unanswered("others keep changing the znode")
            }
            Code::Other(number) => Fault::unanswered(format!("ZooKeeper's error {number}")),
        }
    }

    /// How the error of a whole attempt reads.
    pub(super) fn named(self, attempt: &'static str, session: Option<SessionId>) -> StoreError {
        match (self, session) {
            (Fault::Unanswered(text), _) => StoreError::unanswered(attempt, text),
            (Fault::Refused(text), _) => StoreError::refused(attempt, text),
            (Fault::SessionGone, Some(session)) => StoreError::SessionGone { attempt, session },
            // One that nothing hangs on: the next question opens another.
            (Fault::SessionGone, None) => {
                StoreError::unanswered(attempt, "the connection's session has ended")
            }
        }
    }
}

impl From<Malformed> for Fault {
    fn from(malformed: Malformed) -> Fault {
        Fault::Unanswered(malformed.to_string())
    }
}
