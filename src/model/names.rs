//! Names and numbers that identify things. Each is checked once, where it enters.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The name of a member: its key in the store, its `application_name`, the stem of its slot's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MemberName(String);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("a name must not be empty")]
    Empty,
    #[error("a name must not be longer than 255 characters, this one has {0}")]
    TooLong(usize),
    #[error("a name must not contain {0:?}")]
    Character(char),
}

impl MemberName {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of the physical replication slot that serves this member, by Patroni's rule.
    pub fn slot(&self) -> String {
        let mut slot = String::with_capacity(self.0.len());
        for character in self.0.chars().flat_map(char::to_lowercase) {
            match character {
                'a'..='z' | '0'..='9' | '_' => slot.push(character),
                '-' | '.' => slot.push('_'),
                other => slot.extend(['u'].into_iter().chain(format!("{:04}", u32::from(other)).chars())),
            }
        }
        slot.truncate(63);
        slot
    }
}

impl FromStr for MemberName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<MemberName, NameError> {
        check_name(text)?;
        Ok(MemberName(text.to_owned()))
    }
}

impl TryFrom<String> for MemberName {
    type Error = NameError;
    fn try_from(text: String) -> Result<MemberName, NameError> {
        text.parse()
    }
}

impl From<MemberName> for String {
    fn from(name: MemberName) -> String {
        name.0
    }
}

impl Borrow<str> for MemberName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MemberName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

fn check_name(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.chars().count() > 255 {
        return Err(NameError::TooLong(text.chars().count()));
    }
    match text.chars().find(|&c| c == '/' || c == '\0' || c.is_control()) {
        Some(bad) => Err(NameError::Character(bad)),
        None => Ok(()),
    }
}

/// PostgreSQL's own number of a cluster's data, the same on all of its members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SystemId(pub u64);

impl fmt::Display for SystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The number of one right to lead. The store gives it when the leader key is created, and it only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Term(pub u64);

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The store's number for a connection of ours that must be kept alive: etcd's lease, ZooKeeper's session.
/// A member's own key and the leader key both live and die with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId(pub i64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_refused_with_the_reason() {
        assert_eq!("".parse::<MemberName>(), Err(NameError::Empty));
        assert_eq!("a/b".parse::<MemberName>(), Err(NameError::Character('/')));
        assert!("node-1.example.org".parse::<MemberName>().is_ok());
    }

    #[test]
    fn a_slot_is_named_as_patroni_names_it() {
        let slot = |name: &str| name.parse::<MemberName>().expect("a good name").slot();
        assert_eq!(slot("Node-1.b"), "node_1_b");
        assert_eq!(slot("a b"), "au0032b");
        assert_eq!(slot(&"x".repeat(80)).len(), 63);
    }
}
