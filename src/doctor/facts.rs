//! What there is to know. What an agent tells of its host travels as JSON; whatever a field is missing in is of another version, and what
//! is not known is `None`.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::haproxy::File;
use super::hba::Entry;
use crate::model::{AddressStanding, Drill, Lsn, Span, Timeline, Timing, View};

/// Everything about one cluster.
#[derive(Clone, Debug)]
pub struct Facts {
    pub scope: String,
    pub leader: Option<String>,
    /// As the cluster's configuration asks for it.
    pub timing: Timing,
    /// Agents refuse it, for this reason.
    pub timing_refused: Option<String>,
    pub paused: bool,
    pub synchronous: bool,
    pub members: Vec<MemberFacts>,
    pub store: Result<StoreFacts, String>,
    pub haproxy: Option<File>,
    /// Now, by the wall clock of who asks.
    pub unix_ms: u64,
}

#[derive(Clone, Debug)]
pub struct MemberFacts {
    pub name: String,
    /// One of Patroni's.
    pub foreign: bool,
    /// It could lead, by its tags.
    pub may_lead: bool,
    /// By its own word in the store.
    pub state: Option<String>,
    pub pending_restart: bool,
    /// Where its PostgreSQL is, as the store has it.
    pub host: Option<String>,
    pub port: Option<u16>,
    pub rest: Option<Rest>,
    /// What its names resolve to, here.
    pub addresses: BTreeSet<String>,
    /// What its agent knows and decides by; or why that is not known.
    pub view: Result<Box<View>, String>,
    pub clock: Option<Clock>,
    pub told: Result<HostFacts, Untold>,
}

/// Why an agent has told nothing of its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Untold {
    /// It does not answer.
    Silent(String),
    /// It answers, and does not know the question.
    Older(String),
    NotOurs,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rest {
    pub tls: bool,
    pub host: String,
    pub port: u16,
}

/// A wall clock beside that of who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    pub ahead_ms: i64,
    /// It may be this much more or less.
    pub within_ms: u64,
}

/// The servers of the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreFacts {
    pub shortest_lease: Option<Span>,
    pub longest_lease: Option<Span>,
    /// With anything shorter an agent leaves nothing for a renewal that fails.
    pub shortest_useful: Span,
    /// Those that the settings name.
    pub servers: Vec<StoreServer>,
    /// How many vote, if the store tells.
    pub voters: Option<usize>,
    /// From here.
    pub round_trips: Option<RoundTrips>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreServer {
    pub name: String,
    pub host: String,
    pub addresses: BTreeSet<String>,
    pub state: Result<ServerState, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerState {
    pub leads: bool,
    /// How many changes it knows of, if it tells.
    pub index: Option<u64>,
    pub used_bytes: Option<u64>,
    pub quota_bytes: Option<u64>,
    pub alarms: Vec<String>,
}

/// How long the store takes to answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundTrips {
    /// A read that a majority confirms.
    pub read: Span,
    /// A write that reaches the disks of a majority; none where it was not tried.
    pub write: Option<Span>,
}

/// What an agent tells of its host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostFacts {
    /// The agent's version.
    pub agent: String,
    /// The same on all that runs on one kernel, and anew with each boot.
    pub boot_id: Option<String>,
    pub system: Option<String>,
    pub libc: Option<String>,
    pub watchdog_mode: WatchdogMode,
    /// The faults that this member would bring upon itself for a drill.
    pub drills: Vec<Drill>,
    /// As they are configured, and as their holder has them; nothing of the latter if there is none.
    pub virtual_addresses: Vec<String>,
    pub address_standings: Vec<AddressStanding>,
    pub store: Option<RoundTrips>,
    /// Files with secrets that everybody may read.
    pub readable_secrets: Vec<String>,
    pub certificates: Vec<Certificate>,
    pub disks: Vec<DiskFacts>,
    /// What was set aside before data was rewound or cloned, the oldest first.
    pub kept: Vec<KeptFacts>,
    pub postgres: Option<PostgresFacts>,
    /// What could not be looked at, and why.
    pub unknown: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WatchdogMode {
    Off,
    #[default]
    Automatic,
    Required,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// The setting that names it.
    pub setting: String,
    pub path: String,
    /// Seconds since 1970 at which the first one in the file ends; or what is wrong with it.
    pub ends: Result<u64, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskFacts {
    pub path: String,
    pub holds_wal: bool,
    pub total_bytes: Option<u64>,
    pub free_bytes: Option<u64>,
}

/// Diverged WAL, or a whole data directory, beside the data directory of a member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KeptFacts {
    pub path: String,
    pub what: String,
    /// As far as it is known.
    pub at: String,
    pub timeline: Option<Timeline>,
    pub from: Option<Lsn>,
    pub to: Option<Lsn>,
    pub bytes: Option<u64>,
    pub why: String,
}

/// What PostgreSQL tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PostgresFacts {
    /// As PostgreSQL's number, 150018.
    pub version: u32,
    pub in_recovery: bool,
    /// Those that are looked at, in PostgreSQL's own units.
    pub settings: BTreeMap<String, String>,
    pub archives: bool,
    /// It archives, and no command says where to.
    pub archives_nowhere: bool,
    /// The segment that could not be archived last, if none has been since.
    pub archive_fails_at: Option<String>,
    pub slots: Vec<SlotFacts>,
    /// On the average since the statistics began, of a primary.
    pub wal_bytes_per_hour: Option<u64>,
    /// Do databases or indexes sort text by a library?
    pub sorts_by_libc: bool,
    pub sorts_by_icu: bool,
    /// The versions of the libraries, as the server sees them.
    pub libc_collation: Option<String>,
    pub icu_collation: Option<String>,
    /// Databases and collations that were made with another version.
    pub stale_collations: Vec<String>,
    /// Roles and databases whose sessions begin with commits that wait for no standby.
    pub lowered_commits: Vec<String>,
    pub replication_role: RoleFacts,
    pub rewind_role: RoleFacts,
    /// Line and error.
    pub hba_errors: Vec<String>,
    /// Lines that let others than this machine in without a password.
    pub hba_trusts: Vec<String>,
    /// Why no gate can be made from pg_hba.conf, where one is asked for.
    pub gate_refused: Option<String>,
    /// Whether the other members would be let in.
    pub admissions: Vec<Admission>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SlotFacts {
    pub name: String,
    pub active: bool,
    pub lost: bool,
    pub retained_bytes: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RoleFacts {
    pub name: String,
    /// What it lacks.
    pub lacks: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admission {
    pub member: String,
    pub address: String,
    pub replication: Entry,
    pub rewind: Entry,
}

impl PostgresFacts {
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(String::as_str)
    }

    pub fn number(&self, name: &str) -> Option<i64> {
        self.setting(name)?.trim().parse().ok()
    }

    pub fn is_off(&self, name: &str) -> bool {
        self.setting(name) == Some("off")
    }
}

impl MemberFacts {
    /// What the agent has told of its host, if it has.
    pub fn host_facts(&self) -> Option<&HostFacts> {
        self.told.as_ref().ok()
    }

    pub fn postgres(&self) -> Option<&PostgresFacts> {
        self.host_facts()?.postgres.as_ref()
    }
}
