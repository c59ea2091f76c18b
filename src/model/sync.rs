//! Synchronous replication: what operators want, what PostgreSQL waits for, and what it tells of its standbys.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Lag, Lsn, MemberName, Moment, Span, SyncState, Term};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SyncMode {
    #[default]
    Off,
    /// Every commit waits for each of the synchronous standbys.
    On,
    /// Every commit waits for some of them, and who leads next must have asked enough of them.
    Quorum,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncPolicy {
    pub mode: SyncMode,
    /// Commits wait rather than be acknowledged by the primary alone.
    pub strict: bool,
    pub node_count: usize,
    /// How far a synchronous standby may be behind the furthest one; none: as far as it likes.
    pub lag_bytes_max: Option<u64>,
    /// A PostgreSQL that was started as the primary lets clients in only when whoever may be elected has what it came up with.
    #[serde(default)]
    pub gate: bool,
}

impl Default for SyncPolicy {
    fn default() -> SyncPolicy {
        SyncPolicy { mode: SyncMode::Off, strict: false, node_count: 1, lag_bytes_max: None, gate: false }
    }
}

impl SyncPolicy {
    /// Is a primary's start one that clients have to wait for?
    pub fn is_gated(&self) -> bool {
        self.gate && self.mode != SyncMode::Off
    }
}

/// Whom a primary lets in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Gate {
    /// Whomever pg_hba.conf says.
    #[default]
    Open,
    /// Of those, only Tenure's own roles.
    Closed,
}

/// What PostgreSQL's `synchronous_standby_names` is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SyncNames {
    /// Whatever operators have written into the parameters.
    #[default]
    Unmanaged,
    Ours(Commits),
}

/// Whose word every commit waits for, beside the primary's own disk: `wait_for` of `names`. To wait for one of nobody is to
/// wait until somebody is named.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Commits {
    pub wait_for: usize,
    /// Any of them, or the first ones that are there. Where all are waited for it is only a way of writing.
    pub any: bool,
    pub names: BTreeSet<MemberName>,
}

/// No standby calls itself so: a commit that waits for it waits until the names change.
const NOBODY: &str = "__tenure_no_synchronous_standby__";

impl Commits {
    /// The primary alone.
    pub fn alone() -> Commits {
        Commits::default()
    }

    /// Nobody can give the word.
    pub fn blocked() -> Commits {
        Commits { wait_for: 1, ..Commits::default() }
    }

    pub fn is_blocked(&self) -> bool {
        self.names.len() < self.wait_for
    }

    /// As it stands in the configuration; one name in the mode `on` stands there alone, as Patroni writes it.
    pub fn text(&self) -> String {
        if self.wait_for == 0 {
            return String::new();
        }
        if self.names.is_empty() {
            return NOBODY.to_owned();
        }
        let names: Vec<String> = self.names.iter().map(|name| quoted(name.as_str())).collect();
        let (count, names) = (self.wait_for, names.join(","));
        match (self.any, self.names.len()) {
            (true, _) => format!("ANY {count} ({names})"),
            (false, 1) if count == 1 => names,
            (false, _) => format!("{count} ({names})"),
        }
    }

    /// What one of our own texts says; nothing where somebody else has written it.
    pub fn read(text: &str) -> Option<Commits> {
        let text = text.trim();
        if text.is_empty() {
            return Some(Commits::alone());
        }
        if text == NOBODY {
            return Some(Commits::blocked());
        }
        let (any, rest) = match text.strip_prefix("ANY ") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (wait_for, list) = match rest.split_once(" (") {
            Some((count, list)) if count.bytes().all(|byte| byte.is_ascii_digit()) => {
                (count.parse().ok()?, list.strip_suffix(')')?)
            }
            Some(_) | None if any => return None,
            Some(_) | None => (1, rest),
        };
        let commits = Commits { wait_for, any, names: names_in(list)? };
        // Whatever would be written otherwise is not ours.
        (commits.text() == text && 0 < wait_for).then_some(commits)
    }
}

fn names_in(list: &str) -> Option<BTreeSet<MemberName>> {
    let mut names = BTreeSet::new();
    let mut rest = list;
    while !rest.is_empty() {
        let (name, after) = if let Some(inside) = rest.strip_prefix('"') {
            in_quotes(inside)?
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            (rest[..end].to_owned(), &rest[end..])
        };
        names.insert(name.parse().ok()?);
        rest = if after.is_empty() { "" } else { after.strip_prefix(',')? };
    }
    Some(names)
}

/// Up to the closing quote; one that is doubled is part of the name.
fn in_quotes(text: &str) -> Option<(String, &str)> {
    let (mut name, mut rest) = (String::new(), text);
    loop {
        let (part, after) = rest.split_once('"')?;
        name.push_str(part);
        let Some(more) = after.strip_prefix('"') else { return Some((name, after)) };
        name.push('"');
        rest = more;
    }
}

fn quoted(name: &str) -> String {
    let first = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let plain = first && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '$');
    let keyword = ["any", "first"].contains(&name.to_ascii_lowercase().as_str());
    if plain && !keyword { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

impl fmt::Display for Commits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

impl fmt::Display for GateTold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let GateTold { until, closed_ms, lacking, may_lack } = self;
        write!(
            f,
            "closed for {}, until whoever may lead next has WAL up to {until}",
            Span::from_ms(*closed_ms)
        )?;
        let names: Vec<&str> = lacking.iter().map(MemberName::as_str).collect();
        match (names.len(), *may_lack) {
            (0, _) => Ok(()),
            (_, 0) => write!(f, "; not confirmed by {}", names.join(", ")),
            (_, may) => write!(f, "; not confirmed by {}, and {may} of them need not", names.join(", ")),
        }
    }
}

/// What a running PostgreSQL says of synchronous replication.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Synchrony {
    /// `synchronous_standby_names` in force.
    pub names: String,
    /// The file with the names that are ours is there.
    pub managed: bool,
    /// Who streams from it.
    pub receivers: Vec<Receiver>,
    #[serde(default)]
    pub gate: Gate,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receiver {
    /// `application_name`
    pub name: String,
    /// How far it has WAL on its disk.
    pub flushed: Lsn,
    /// As far as commits wait for it, by the `synchronous_commit` that is set for the server.
    pub answered: Lsn,
}

/// What a leader remembers of its own dealings with the synchronous modes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SyncMemory {
    /// These names are in force in every process that acknowledges a commit, and every commit after `mark` was acknowledged
    /// by them.
    pub proof: Option<SyncProof>,
    /// What was last asked to be written, and over which version. As long as the store shows that version nobody knows
    /// which of the two holds.
    pub sent: Option<SentSync>,
    /// The last term in which a write of this agent is known to have been carried out.
    pub written_in: Option<Term>,
    /// When each standby, by its name in lower case, was last seen streaming.
    pub seen: BTreeMap<String, Moment>,
    /// When setting the names last failed.
    pub failed_at: Option<Moment>,
    /// As long as PostgreSQL keeps its gate closed.
    #[serde(default)]
    pub gate: Option<ClosedGate>,
}

/// A gate that is closed, and what for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClosedGate {
    /// Everything that PostgreSQL came up with lies before it.
    pub mark: Lsn,
    /// Since when this agent has seen it closed.
    pub since: Moment,
    /// The most that a standby which streams was seen to lack of it, in bytes.
    pub lacked: u64,
    /// When opening it last failed.
    pub failed_at: Option<Moment>,
}

impl ClosedGate {
    /// For the end of a sentence.
    pub fn waited(&self, now: Moment) -> String {
        format!(
            "; they were kept out for {}, and {} of WAL were waited for",
            now.since(self.since),
            Lag(self.lacked)
        )
    }
}

/// A closed gate, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GateTold {
    pub until: Lsn,
    pub closed_ms: u64,
    /// Who counts in an election and is not known to have everything up to there.
    pub lacking: Vec<MemberName>,
    /// With so many of them left it opens.
    pub may_lack: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncProof {
    pub names: String,
    pub mark: Lsn,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentSync {
    pub term: Term,
    pub state: SyncState,
    pub version: i64,
    /// The store has said that it is done; the snapshot that shows it is on its way.
    pub done: bool,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn commits(wait_for: usize, any: bool, names: &[&str]) -> Commits {
        let names = names.iter().map(|name| name.parse().expect("a good name")).collect();
        Commits { wait_for, any, names }
    }

    #[test]
    fn the_names_are_written_as_patroni_writes_them() {
        let check = |commits: Commits, text: &str| {
            assert_eq!(commits.text(), text);
            assert_eq!(Commits::read(text), Some(commits));
        };
        check(Commits::alone(), "");
        check(Commits::blocked(), NOBODY);
        check(commits(1, false, &["node_1"]), "node_1");
        check(commits(1, false, &["node-1"]), "\"node-1\"");
        check(commits(1, false, &["first"]), "\"first\"");
        check(commits(2, false, &["b", "a-1"]), "2 (\"a-1\",b)");
        check(commits(1, true, &["a"]), "ANY 1 (a)");
        check(commits(2, true, &["a", "b c\"d"]), "ANY 2 (a,\"b c\"\"d\")");
    }

    #[test]
    fn what_others_have_written_is_not_taken_for_ours() {
        for text in
            ["*", "ANY 1 (*)", "FIRST 1 (a)", "a, b", "ANY x (a)", "1 (a", "ANY 1 (\"a)", "0 (a)", "\"a\""]
        {
            assert_eq!(Commits::read(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_name_survives(names in prop::collection::btree_set("[a-zA-Z0-9 _.\"$-]{1,12}", 1..4), any: bool) {
            let names: BTreeSet<MemberName> = names.iter().filter_map(|name| name.parse().ok()).collect();
            let commits = Commits { wait_for: names.len().max(1), any, names };
            prop_assert_eq!(Commits::read(&commits.text()), Some(commits));
        }
    }
}
