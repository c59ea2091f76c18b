//! The cluster as the store tells it: one snapshot of every key, in our words.
//! How the keys are spelled is `store::format`'s business.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Fork, Intents, Lineage, Lsn, MemberName, Position, SessionId, SystemId, Term, Timeline, Whose};

/// One consistent reading of a cluster's place in the store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    pub initialize: Initialize,
    /// While the data is being made: the session that the right to do so hangs on.
    pub maker: Option<SessionId>,
    pub leader: Option<Leader>,
    pub members: BTreeMap<MemberName, MemberRecord>,
    pub config: Option<Versioned<Value>>,
    pub status: Status,
    pub failover: Option<Versioned<FailoverRequest>>,
    pub sync: Option<Versioned<SyncState>>,
    /// Oldest first.
    pub history: Vec<HistoryLine>,
    pub failsafe: BTreeMap<MemberName, String>,
    pub claim: Option<Versioned<Claim>>,
    #[serde(default)]
    pub intents: Option<Versioned<Intents>>,
}

/// A value with the store's version of it, for compare-and-set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Versioned<T> {
    pub value: T,
    pub version: i64,
}

/// Whether the cluster's data has ever been made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Initialize {
    #[default]
    Absent,
    /// Somebody runs initdb right now.
    Running,
    Done(SystemId),
    /// The key holds something that is neither.
    Unrecognized,
}

/// The leader key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leader {
    pub name: MemberName,
    pub term: Term,
    /// The session whose end takes the key away; none if somebody wrote the key by hand.
    pub session: Option<SessionId>,
}

/// The highest timeline that anybody was allowed to begin. Written together with the leader key, so that two leaders
/// never begin timelines with the same number, even if the first one dies before anybody hears of its promotion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    pub timeline: Timeline,
    pub by: MemberName,
}

/// What a member says of itself: Patroni's document, field for field and in its order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemberRecord {
    pub conn_url: String,
    pub api_url: String,
    pub state: MemberState,
    pub role: MemberRole,
    pub version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_url: Option<String>,
    /// Only ever written as `false`; that it is missing means yes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_after_promote: Option<bool>,
    #[serde(skip_serializing_if = "Tags::is_empty")]
    pub tags: Tags,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending_restart: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending_restart_reason: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xlog_location: Option<Lsn>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay_lsn: Option<Lsn>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receive_lsn: Option<Lsn>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replication_state: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeline: Option<Timeline>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduled_restart: Option<Value>,
    /// Whose the scheduled restart is. Patroni has no such field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart_wanted: Option<Whose>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pause: Option<bool>,
    /// How the watchdog is, for people; Patroni has no such field and passes it over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watchdog: Option<String>,
    /// `closed` while this primary lets no client in, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gate: Option<String>,
    /// How far a clone has come, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copying: Option<String>,
    /// The version of our agent, which Patroni's members pass over. Without it, the member is one of theirs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenure: Option<String>,
}

/// Where PostgreSQL can be reached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Address {
    pub host: String,
    pub port: u16,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberRole {
    #[serde(alias = "master")]
    Primary,
    StandbyLeader,
    #[default]
    Replica,
    Demoted,
    Uninitialized,
    Promoted,
    #[serde(other)]
    Unrecognized,
}

/// The states of Patroni's documents, in the order of its metric.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberState {
    #[serde(rename = "initializing new cluster")]
    Bootstrapping,
    #[serde(rename = "initdb failed")]
    BootstrapFailed,
    #[serde(rename = "running custom bootstrap script")]
    CustomBootstrapping,
    #[serde(rename = "custom bootstrap failed")]
    CustomBootstrapFailed,
    #[serde(rename = "creating replica")]
    CreatingReplica,
    #[serde(rename = "running")]
    Running,
    #[serde(rename = "starting")]
    Starting,
    #[serde(rename = "starting after custom bootstrap")]
    BootstrapStarting,
    #[serde(rename = "start failed")]
    StartFailed,
    #[serde(rename = "restarting")]
    Restarting,
    #[serde(rename = "restart failed")]
    RestartFailed,
    #[serde(rename = "stopping")]
    Stopping,
    #[default]
    #[serde(rename = "stopped")]
    Stopped,
    #[serde(rename = "stop failed")]
    StopFailed,
    #[serde(rename = "crashed")]
    Crashed,
    #[serde(other)]
    Unknown,
}

/// A member's tags. Any key is allowed; some have a meaning for the rules.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tags(pub BTreeMap<String, Value>);

/// The leader's last word on its own position.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optime: Option<Lsn>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub slots: BTreeMap<String, Lsn>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retain_slots: Vec<String>,
    /// The leader of that timeline has stopped in good order, and its WAL ended here. Patroni passes the field over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_on: Option<Timeline>,
}

/// Somebody's wish that another member leads. With a leader named it is a switchover, without one a failover.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverRequest {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<MemberName>,
    #[serde(default, rename = "member", skip_serializing_if = "Option::is_none")]
    pub candidate: Option<MemberName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_at: Option<String>,
    /// Who asked for it, and why. Patroni and its tools say nothing of that, and pass it over.
    #[serde(flatten)]
    pub whose: Option<Whose>,
}

/// Who may lead without loss, in the synchronous modes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncState {
    pub leader: Option<MemberName>,
    pub quorum: u32,
    pub standbys: Vec<MemberName>,
}

/// One line of `/history`: a timeline, where it was left, and what is known of why, when and for whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryLine {
    pub timeline: Timeline,
    pub switch: Lsn,
    pub reason: String,
    pub timestamp: Option<String>,
    pub new_leader: Option<MemberName>,
}

impl Cluster {
    /// Members whose slots are kept though they have no record any more: by name where the history tells it, or else by slot.
    pub fn gone(&self) -> BTreeSet<String> {
        let present: BTreeSet<String> = self.members.keys().map(MemberName::slot).collect();
        let led = |slot: &str| {
            let mut leaders = self.history.iter().filter_map(|line| line.new_leader.as_ref());
            leaders.find(|name| name.slot() == slot).map(ToString::to_string)
        };
        let gone = self.status.retain_slots.iter().filter(|slot| !present.contains(*slot));
        gone.map(|slot| led(slot).unwrap_or_else(|| slot.clone())).collect()
    }

    pub fn system_id(&self) -> Option<SystemId> {
        match self.initialize {
            Initialize::Done(system) => Some(system),
            Initialize::Absent | Initialize::Running | Initialize::Unrecognized => None,
        }
    }

    pub fn leader_name(&self) -> Option<&MemberName> {
        self.leader.as_ref().map(|leader| &leader.name)
    }

    pub fn leader_record(&self) -> Option<&MemberRecord> {
        self.members.get(self.leader_name()?)
    }

    /// Does it fall to this member to write what any member could: the leader, or anybody where nobody of ours leads?
    pub fn falls_to(&self, me: &MemberName) -> bool {
        match self.leader_name() {
            Some(leader) if leader == me => true,
            Some(_) => self.leader_record().is_some_and(|record| !record.is_ours()),
            None => self.system_id().is_some(),
        }
    }

    /// The lineage that the present leader writes on, once both it and the history have told enough to know.
    pub fn lineage(&self) -> Option<Lineage> {
        let timeline = self.leader_record()?.timeline?;
        // What the record of a new leader says is older than its term until it has reached the timeline it has claimed.
        let claim = self.claim.as_ref().map(|claim| &claim.value);
        // The leader of a standby cluster is on the timeline of the cluster that it follows; its claim is for later.
        let follows_another = self.leader_record()?.role == MemberRole::StandbyLeader;
        let claim = claim.filter(|_| !follows_another);
        if claim.is_some_and(|claim| Some(&claim.by) == self.leader_name() && claim.timeline != timeline) {
            return None;
        }
        let lines = self.history.iter().filter(|line| line.timeline < timeline);
        let told = timeline == Timeline::FIRST
            || lines.clone().next_back().is_some_and(|l| l.timeline.next() == timeline);
        // A line of no length is of a timeline that this lineage never had. Somebody may have led on it all the same.
        let mut ancestors: Vec<Fork> = Vec::new();
        for line in lines {
            if ancestors.last().is_none_or(|before| before.at < line.switch) {
                ancestors.push(Fork { parent: line.timeline, at: line.switch });
            }
        }
        told.then_some(Lineage { timeline, ancestors })
    }

    /// The highest timeline that a leader of this cluster is known to have had or to have been allowed.
    pub fn highest_timeline(&self) -> Timeline {
        let led = self.history.last().map(|line| line.timeline.next());
        let claimed = self.claim.as_ref().map(|claim| claim.value.timeline);
        led.max(claimed).unwrap_or(Timeline::FIRST)
    }
}

impl MemberRecord {
    /// The host and port of `conn_url`.
    pub fn address(&self) -> Option<Address> {
        let rest = self.conn_url.split_once("://")?.1;
        let authority = rest.split(['/', '?']).next()?;
        let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let (host, port) = match authority.strip_prefix('[') {
            Some(bracketed) => {
                let (host, rest) = bracketed.split_once(']')?;
                (host, rest.strip_prefix(':'))
            }
            None => match authority.rsplit_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let port = match port {
            Some(port) => port.parse().ok()?,
            None => 5432,
        };
        (!host.is_empty()).then(|| Address { host: host.to_owned(), port })
    }

    /// Written by an agent of ours.
    pub fn is_ours(&self) -> bool {
        self.tenure.is_some()
    }

    /// A guardian stops this member's PostgreSQL before anybody else may lead. In maintenance mode none does.
    pub fn is_fenced(&self) -> bool {
        self.is_ours() && self.pause != Some(true)
    }

    /// How far this member's WAL reaches, received or written.
    pub fn position(&self) -> Option<Position> {
        let lsn = self.receive_lsn.max(self.replay_lsn).max(self.xlog_location)?;
        Some(Position { timeline: self.timeline?, lsn })
    }

    /// A running primary that has also finished the checkpoint after its promotion: only then does pg_rewind see its
    /// timeline.
    pub fn is_rewind_source(&self) -> bool {
        self.role == MemberRole::Primary
            && self.state == MemberState::Running
            && self.checkpoint_after_promote != Some(false)
    }
}

impl Tags {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn nofailover(&self) -> bool {
        self.flag("nofailover")
            || self.0.get("failover_priority").and_then(Value::as_i64).is_some_and(|p| p <= 0)
    }

    /// Higher is preferred among members that are equally far.
    pub fn failover_priority(&self) -> i64 {
        match self.0.get("failover_priority").and_then(Value::as_i64) {
            _ if self.flag("nofailover") => 0,
            Some(priority) => priority.max(0),
            None => 1,
        }
    }

    /// As they are told to others. A flag that is off says nothing, except where it speaks against a priority.
    #[must_use]
    pub fn told(&self) -> Tags {
        let mut told = self.clone();
        told.0.retain(|tag, value| match tag.as_str() {
            "nofailover" if self.0.contains_key("failover_priority") => true,
            "nosync" if self.0.contains_key("sync_priority") => true,
            "clonefrom" | "nofailover" | "noloadbalance" | "nosync" | "nostream" => {
                *value != Value::Bool(false)
            }
            _ => true,
        });
        told
    }

    pub fn noloadbalance(&self) -> bool {
        self.flag("noloadbalance")
    }

    /// No WAL is streamed: it comes from the archive.
    pub fn nostream(&self) -> bool {
        self.flag("nostream")
    }

    /// The member to replicate from in place of the leader.
    pub fn replicatefrom(&self) -> Option<&str> {
        self.0.get("replicatefrom").and_then(Value::as_str).filter(|name| !name.is_empty())
    }

    pub fn clonefrom(&self) -> bool {
        self.flag("clonefrom")
    }

    /// Never a synchronous standby.
    pub fn nosync(&self) -> bool {
        self.flag("nosync") || self.0.get("sync_priority").and_then(Value::as_i64).is_some_and(|p| p <= 0)
    }

    /// Higher is preferred as a synchronous standby.
    pub fn sync_priority(&self) -> i64 {
        match self.0.get("sync_priority").and_then(Value::as_i64) {
            _ if self.nosync() => 0,
            Some(priority) => priority.max(0),
            None => 1,
        }
    }

    /// YAML and environment give booleans in several spellings.
    fn flag(&self, key: &str) -> bool {
        match self.0.get(key) {
            Some(Value::Bool(flag)) => *flag,
            Some(Value::String(text)) => {
                matches!(text.to_ascii_lowercase().as_str(), "true" | "on" | "yes" | "1")
            }
            Some(Value::Number(number)) => number.as_i64() == Some(1),
            Some(Value::Null | Value::Array(_) | Value::Object(_)) | None => false,
        }
    }
}

impl FailoverRequest {
    pub fn is_switchover(&self) -> bool {
        self.leader.is_some()
    }

    pub fn is_empty(&self) -> bool {
        self.leader.is_none() && self.candidate.is_none() && self.scheduled_at.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Descent;

    fn record(url: &str) -> MemberRecord {
        MemberRecord { conn_url: url.to_owned(), ..MemberRecord::default() }
    }

    #[test]
    fn an_address_is_read_from_every_form_of_url() {
        let check = |url: &str, host: &str, port| {
            assert_eq!(record(url).address(), Some(Address { host: host.to_owned(), port }), "{url}");
        };
        check("postgres://127.0.0.1:5551/postgres", "127.0.0.1", 5551);
        check("postgres://[fd00::1]:5432/postgres", "fd00::1", 5432);
        check("postgres://db1/postgres?application_name=x", "db1", 5432);
        check("postgres://u:p@db1:7/x", "db1", 7);
        assert_eq!(record("nonsense").address(), None);
        assert_eq!(record("postgres://:1/x").address(), None);
    }

    #[test]
    fn a_member_record_of_patroni_is_read_and_written_unchanged() {
        let text = r#"{"conn_url":"postgres://127.0.0.1:5551/postgres","api_url":"http://127.0.0.1:8101/patroni","state":"running","role":"replica","version":"4.1.5","tags":{"clonefrom":true},"xlog_location":67393640,"replay_lsn":67393640,"receive_lsn":67393640,"replication_state":"streaming","timeline":1}"#;
        let record: MemberRecord = serde_json::from_str(text).expect("Patroni's own example");
        assert_eq!(serde_json::to_string(&record).expect("a record is JSON"), text);
    }

    #[test]
    fn a_timeline_of_no_length_is_no_ancestor() {
        let line = |timeline, switch| HistoryLine {
            timeline: Timeline(timeline),
            switch: Lsn(switch),
            reason: String::new(),
            timestamp: None,
            new_leader: None,
        };
        let leader: MemberName = "turku".parse().expect("a good name");
        let record = MemberRecord { timeline: Some(Timeline(4)), ..MemberRecord::default() };
        let cluster = Cluster {
            leader: Some(Leader { name: leader.clone(), term: Term(1), session: None }),
            members: BTreeMap::from([(leader, record)]),
            history: vec![line(1, 50), line(2, 80), line(3, 80)],
            ..Cluster::default()
        };
        let lineage = cluster.lineage().expect("the last line tells where it began");
        assert_eq!(lineage.descent_of(Position::new(3, 60)), Descent::Diverged);
        assert_eq!(lineage.descent_of(Position::new(2, 60)), Descent::OnLineage);
    }

    #[test]
    fn words_of_a_later_version_are_survived() {
        let record: MemberRecord =
            serde_json::from_str(r#"{"state":"levitating","role":"bystander","new":1}"#).expect("lenient");
        assert_eq!((record.state, record.role), (MemberState::Unknown, MemberRole::Unrecognized));
    }
}
