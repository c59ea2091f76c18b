//! What the agent's loop last knew and decided, for everybody who only looks: REST, metrics, systemd's status line.

use serde_json::Value;

use super::{AddressStanding, Copying, Lsn, Moment, Plan, View, Whose};

/// Published by the loop after every decision, never waited for.
#[derive(Clone, Debug)]
pub struct Standing {
    pub view: View,
    pub plan: Plan,
    pub facts: Facts,
}

/// What the status documents tell beyond what decisions need.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    pub scope: String,
    /// `YYYY-MM-DD HH:MM:SS.ffffff+00:00`
    pub postmaster_start_time: Option<String>,
    pub replayed_timestamp: Option<String>,
    pub replay_paused: bool,
    /// `streaming` or `in archive recovery`, of a standby.
    pub replication_state: Option<String>,
    pub replication: Vec<ReplicationRow>,
    /// How far the upstream's WAL reached when it last said so, on a standby that streams.
    pub upstream_end: Option<Lsn>,
    pub pending_restart: Option<Value>,
    /// A restart that is to come: its time, its conditions, and when PostgreSQL had been started.
    pub scheduled_restart: Option<Value>,
    pub restart_wanted: Option<Whose>,
    /// Seconds since 1970 at which the store last answered.
    pub store_last_seen: Option<u64>,
    /// The same on the boot clock.
    pub store_last_seen_at: Option<Moment>,
    /// How far the clone that is being made has come.
    pub copying: Option<Copying>,
    /// How this member's virtual addresses are; nothing if it has none, or if nobody holds them.
    pub addresses: Vec<AddressStanding>,
    /// How many decisions the agent has made since it started.
    pub decisions: u64,
}

/// A WAL sender of this member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicationRow {
    pub usename: String,
    pub application_name: String,
    pub client_addr: Option<String>,
    pub state: String,
    pub sync_state: String,
    pub sync_priority: i32,
}
