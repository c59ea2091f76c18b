//! What every store must be able to do, below our words: read a prefix as of one moment, and change a few keys together
//! if they are as expected. The words (`lease`, `keys`) are written once on top of this, so that all adapters agree.

use crate::model::SessionId;

/// A key as it stands in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub path: String,
    pub value: Vec<u8>,
    /// The revision of the store at which the key was created.
    pub created: i64,
    /// The revision at which it was last written. Never 0.
    pub version: i64,
    /// The session whose end takes the key away.
    pub session: Option<SessionId>,
}

/// All keys below a prefix, as of one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    pub store: StoreId,
    pub revision: i64,
    pub entries: Vec<Entry>,
}

/// Which store it is: revisions of different ones have nothing to do with each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreId(pub u64);

/// Writes that happen together, or not at all if one of the checks fails.
#[derive(Clone, Debug, Default)]
pub struct Transaction {
    pub checks: Vec<Check>,
    pub writes: Vec<Write>,
    /// What to look at if a check fails, to know why.
    pub look_at: Vec<String>,
    /// Keys that change whenever one that is checked is deleted and made again. For stores that look before they write, and
    /// could not tell the new one from the old.
    pub witnesses: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct Check {
    pub path: String,
    pub must: Must,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Must {
    BeAbsent,
    /// Last written at this revision; 0: be absent.
    HaveVersion(i64),
    BeCreatedAt(i64),
    Hold(Vec<u8>),
}

#[derive(Clone, Debug)]
pub enum Write {
    Put { path: String, value: Vec<u8>, session: Option<SessionId> },
    Delete { path: String },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Done {
        /// The revision of the writes.
        revision: i64,
    },
    /// Nothing was written. What `look_at` named, in its order.
    Failed { seen: Vec<Option<Entry>> },
}

impl Transaction {
    #[must_use]
    pub fn when(mut self, path: &str, must: Must) -> Transaction {
        self.checks.push(Check { path: path.to_owned(), must });
        self
    }

    #[must_use]
    pub fn put(mut self, path: &str, value: impl Into<Vec<u8>>) -> Transaction {
        self.writes.push(Write::Put { path: path.to_owned(), value: value.into(), session: None });
        self
    }

    /// The key goes away with the session.
    #[must_use]
    pub fn put_for(mut self, session: SessionId, path: &str, value: impl Into<Vec<u8>>) -> Transaction {
        self.writes.push(Write::Put { path: path.to_owned(), value: value.into(), session: Some(session) });
        self
    }

    #[must_use]
    pub fn delete(mut self, path: &str) -> Transaction {
        self.writes.push(Write::Delete { path: path.to_owned() });
        self
    }

    #[must_use]
    pub fn else_look_at(mut self, path: &str) -> Transaction {
        self.look_at.push(path.to_owned());
        self
    }

    #[must_use]
    pub fn witnessed_by(mut self, path: &str) -> Transaction {
        self.witnesses.push(path.to_owned());
        self
    }
}

impl Write {
    pub fn path(&self) -> &str {
        match self {
            Write::Put { path, .. } | Write::Delete { path } => path,
        }
    }
}

impl Must {
    /// Does a key that stands like this satisfy the check? For stores that have no checks of their own.
    pub fn holds(&self, entry: Option<&Entry>) -> bool {
        match self {
            Must::BeAbsent | Must::HaveVersion(0) => entry.is_none(),
            Must::HaveVersion(version) => entry.is_some_and(|entry| entry.version == *version),
            Must::BeCreatedAt(revision) => entry.is_some_and(|entry| entry.created == *revision),
            Must::Hold(value) => entry.is_some_and(|entry| entry.value == *value),
        }
    }
}
