//! A cluster as an operator sees it: what the members say of themselves, word for word, also where we do not know the
//! word; and the few facts that commands depend on. Odd values count as absent, as with Patroni.

use std::collections::BTreeSet;

use serde_json::Value;

use super::document::Document;
use crate::model::{self, Address, FailoverRequest, MemberName, MemberRecord, Versioned};
use crate::store::Place;
use crate::store::format::read;
use crate::store::kv::Entry;

#[derive(Clone, Debug, Default)]
pub struct Cluster {
    pub scope: String,
    /// The text of the key; None: there is none.
    pub initialize: Option<String>,
    pub leader: Option<String>,
    /// By name.
    pub members: Vec<Member>,
    /// An unreadable one counts as empty.
    pub config: Option<Versioned<Value>>,
    pub optime: i128,
    /// Slots of members that the leader keeps, also of those that have no record any more.
    pub retained_slots: Vec<String>,
    pub failover: Option<Versioned<FailoverRequest>>,
    /// The version of the failover key, whatever it holds; None: there is no such key.
    pub failover_version: Option<i64>,
    pub sync: model::SyncState,
    /// What operators have said of it.
    pub intents: Option<model::Intents>,
    /// Each line is a list.
    pub history: Vec<Vec<Document>>,
    /// The oldest first.
    pub successions: Vec<model::Succession>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Member {
    pub name: String,
    pub document: Document,
    /// Changes with each write of the record.
    pub version: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    Leader,
    StandbyLeader,
    SyncStandby,
    QuorumStandby,
    Replica,
}

/// Whom a command is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    Leader,
    Primary,
    StandbyLeader,
    Replica,
    Standby,
    Any,
}

impl Cluster {
    /// From every key below the cluster's place.
    pub fn read(scope: &str, place: &Place, entries: &[Entry]) -> Cluster {
        let (known, _) = read::cluster(place, entries);
        let mut cluster = Cluster {
            scope: scope.to_owned(),
            optime: known.status.optime.map_or(0, |lsn| i128::from(lsn.0)),
            retained_slots: known.status.retain_slots,
            failover: known.failover,
            intents: known.intents.map(|intents| intents.value),
            sync: known.sync.map(|sync| sync.value).unwrap_or_default(),
            ..Cluster::default()
        };
        for entry in entries {
            let Some(key) = entry.path.strip_prefix(place.base()) else { continue };
            let text = || String::from_utf8_lossy(&entry.value).into_owned();
            match key {
                "initialize" => cluster.initialize = Some(text()),
                "leader" => cluster.leader = Some(text()).filter(|name| !name.is_empty()),
                "failover" => cluster.failover_version = Some(entry.version),
                "config" => {
                    let value = serde_json::from_slice(&entry.value).ok().filter(Value::is_object);
                    let value = value.unwrap_or_else(|| Value::Object(serde_json::Map::new()));
                    cluster.config = Some(Versioned { value, version: entry.version });
                }
                "history" => cluster.history = history(&entry.value),
                "successions" => cluster.successions = model::successions(&entry.value),
                _ => {
                    if let Some(name) = key.strip_prefix("members/").filter(|name| !name.contains('/')) {
                        cluster.members.push(Member::read(name, entry));
                    }
                }
            }
        }
        cluster.members.sort_by(|one, other| one.name.cmp(&other.name));
        cluster
    }

    /// Members that had a record not long ago: by name, if the history tells it, or else by slot.
    pub fn gone(&self) -> BTreeSet<String> {
        let slot = |name: &str| name.parse::<MemberName>().map(|name| name.slot()).unwrap_or_default();
        let present: BTreeSet<String> = self.members.iter().map(|member| slot(&member.name)).collect();
        let led = || self.history.iter().filter_map(|line| line.get(4)?.as_text());
        let gone = self.retained_slots.iter().filter(|kept| !present.contains(*kept));
        gone.map(|kept| led().find(|name| slot(name) == *kept).unwrap_or(kept).to_owned()).collect()
    }

    pub fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name == name)
    }

    /// The leader, and an empty record if it has none.
    pub fn leading_member(&self) -> Option<Member> {
        let name = self.leader.as_ref()?;
        let nameless = || Member { name: name.clone(), ..Member::default() };
        Some(self.member(name).cloned().unwrap_or_else(nameless))
    }

    /// Everybody with a role, in the order of names.
    pub fn with_role(&self, role: Role) -> Vec<Member> {
        let leads = |member: &&Member| Some(&member.name) == self.leader.as_ref();
        match role {
            Role::Any => self.members.clone(),
            Role::Replica | Role::Standby => self.members.iter().filter(|m| !leads(m)).cloned().collect(),
            Role::Leader | Role::Primary | Role::StandbyLeader => {
                let Some(leader) = self.leading_member() else { return Vec::new() };
                let says = leader.text("role");
                let wanted = match role {
                    Role::Primary => says != Some("standby_leader"),
                    Role::StandbyLeader => !matches!(says, Some("primary" | "master")),
                    Role::Leader | Role::Replica | Role::Standby | Role::Any => true,
                };
                if wanted { vec![leader] } else { Vec::new() }
            }
        }
    }

    pub fn leader_first(&self) -> Vec<Member> {
        let (first, rest): (Vec<&Member>, Vec<&Member>) =
            self.members.iter().partition(|member| Some(&member.name) == self.leader.as_ref());
        first.into_iter().chain(rest).filter(|member| member.api_url().is_some()).cloned().collect()
    }

    pub fn duty(&self, member: &Member) -> Duty {
        if Some(&member.name) == self.leader.as_ref() {
            if self.is_standby_cluster() { Duty::StandbyLeader } else { Duty::Leader }
        } else if self.is_synchronous() && self.is_sync_standby(&member.name) {
            if self.is_quorum() { Duty::QuorumStandby } else { Duty::SyncStandby }
        } else {
            Duty::Replica
        }
    }

    /// PostgreSQL compares names without regard to case.
    pub fn is_sync_standby(&self, name: &str) -> bool {
        let same = |standby: &model::MemberName| standby.as_str().to_lowercase() == name.to_lowercase();
        self.sync.leader.is_some() && self.sync.standbys.iter().any(same)
    }

    pub fn is_sync_leader(&self, name: &str) -> bool {
        self.sync.leader.as_ref().is_some_and(|leader| leader.as_str().to_lowercase() == name.to_lowercase())
    }

    pub fn setting(&self, name: &str) -> Document {
        self.config.as_ref().and_then(|config| config.value.get(name)).map(Document::from).unwrap_or_default()
    }

    pub fn is_paused(&self) -> bool {
        self.setting("pause").is_on()
    }

    pub fn is_synchronous(&self) -> bool {
        (self.setting("synchronous_mode").is_on() || self.is_quorum()) && !self.is_standby_cluster()
    }

    pub fn is_standby_cluster(&self) -> bool {
        let upstream = self.setting("standby_cluster");
        ["host", "port", "restore_command"]
            .iter()
            .any(|name| upstream.get(name).is_some_and(Document::counts))
    }

    /// Seconds between two rounds of an agent.
    pub fn loop_wait(&self) -> i128 {
        self.setting("loop_wait").as_integer().filter(|seconds| *seconds > 0).unwrap_or(10)
    }

    fn is_quorum(&self) -> bool {
        self.setting("synchronous_mode").as_text().is_some_and(|mode| mode.eq_ignore_ascii_case("quorum"))
    }

    /// A switchover that waits for its time, with the time as Python's `isoformat` has it.
    pub fn scheduled_switchover(&self) -> Option<(&FailoverRequest, String)> {
        let request = &self.failover.as_ref()?.value;
        let at = request.scheduled_at.as_deref()?;
        Some((request, super::time::iso_of(at).unwrap_or_else(|| at.to_owned())))
    }
}

impl Duty {
    pub fn title(self) -> &'static str {
        match self {
            Duty::Leader => "Leader",
            Duty::StandbyLeader => "Standby Leader",
            Duty::SyncStandby => "Sync Standby",
            Duty::QuorumStandby => "Quorum Standby",
            Duty::Replica => "Replica",
        }
    }

    pub fn leads(self) -> bool {
        match self {
            Duty::Leader | Duty::StandbyLeader => true,
            Duty::SyncStandby | Duty::QuorumStandby | Duty::Replica => false,
        }
    }
}

impl Role {
    pub fn word(self) -> &'static str {
        match self {
            Role::Leader => "leader",
            Role::Primary => "primary",
            Role::StandbyLeader => "standby-leader",
            Role::Replica => "replica",
            Role::Standby => "standby",
            Role::Any => "any",
        }
    }
}

impl Member {
    fn read(name: &str, entry: &Entry) -> Member {
        let document = match Document::parse(&entry.value) {
            Ok(document @ Document::Map(_)) => document,
            // The form of Patroni before 1.0 is a URL.
            Ok(_) | Err(_) if entry.value.starts_with(b"postgres") => legacy(entry),
            Ok(_) | Err(_) => Document::Map(Vec::new()),
        };
        Member { name: name.to_owned(), document, version: entry.version }
    }

    pub fn get(&self, field: &str) -> Option<&Document> {
        self.document.get(field)
    }

    pub fn text(&self, field: &str) -> Option<&str> {
        self.get(field).and_then(Document::as_text).filter(|text| !text.is_empty())
    }

    pub fn api_url(&self) -> Option<&str> {
        self.text("api_url")
    }

    pub fn is_on(&self, field: &str) -> bool {
        self.get(field).is_some_and(Document::counts)
    }

    pub fn position(&self, field: &str) -> Option<i128> {
        self.get(field).and_then(Document::as_integer).filter(|lsn| *lsn > 0)
    }

    pub fn tag(&self, name: &str) -> Option<&Document> {
        self.get("tags").and_then(|tags| tags.get(name))
    }

    pub fn nofailover(&self) -> bool {
        match (self.tag("nofailover"), self.tag("failover_priority").and_then(Document::as_integer)) {
            (Some(flag), _) if *flag != Document::Null => {
                flag.counts() && !matches!(flag, Document::Text(_)) || flag.is_on()
            }
            (_, Some(priority)) => priority <= 0,
            (_, None) => false,
        }
    }

    /// Where PostgreSQL listens.
    pub fn address(&self) -> Option<Address> {
        if let Some(given) = self.get("conn_kwargs").filter(|given| given.counts()) {
            let host = given.get("host")?.as_text().filter(|host| !host.is_empty())?;
            let port = given.get("port").and_then(Document::as_integer);
            let port = port.and_then(|port| u16::try_from(port).ok()).unwrap_or(5432);
            return Some(Address { host: host.to_owned(), port });
        }
        let conn_url = self.text("conn_url")?.to_owned();
        let address = MemberRecord { conn_url, ..MemberRecord::default() }.address()?;
        Some(Address { host: address.host.to_lowercase(), ..address })
    }
}

fn legacy(entry: &Entry) -> Document {
    let (record, _) =
        read::cluster(&Place::new("", "x"), &[Entry { path: "/x/members/m".to_owned(), ..entry.clone() }]);
    let record = record.members.into_values().next().unwrap_or_default();
    let field = |name: &str, value: String| (name.to_owned(), Document::Text(value));
    Document::Map(vec![field("conn_url", record.conn_url), field("api_url", record.api_url)])
}

fn history(value: &[u8]) -> Vec<Vec<Document>> {
    let Ok(Document::List(lines)) = Document::parse(value) else { return Vec::new() };
    lines
        .into_iter()
        .filter_map(|line| match line {
            Document::List(fields) => Some(fields),
            Document::Null
            | Document::Bool(_)
            | Document::Integer(_)
            | Document::Float(_)
            | Document::Text(_)
            | Document::Map(_) => None,
        })
        .collect()
}

#[cfg(test)]
pub mod fixtures {
    use super::*;

    /// A cluster `batman` from its keys.
    pub fn cluster(keys: &[(&str, &str)]) -> Cluster {
        let place = Place::new("/service", "batman");
        let entries: Vec<Entry> = keys
            .iter()
            .enumerate()
            .map(|(index, (key, value))| Entry {
                path: format!("{}{key}", place.base()),
                value: value.as_bytes().to_vec(),
                created: 1,
                version: i64::try_from(index).expect("a few keys") + 1,
                session: None,
            })
            .collect();
        Cluster::read("batman", &place, &entries)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::fixtures::cluster;
    use super::*;

    fn names(members: &[Member]) -> Vec<&str> {
        members.iter().map(|member| member.name.as_str()).collect()
    }

    #[test]
    fn roles_are_those_of_the_store_and_of_the_leaders_own_word() {
        let keys = [
            ("leader", "b"),
            ("members/c", "{}"),
            ("members/b", r#"{"role":"standby_leader","api_url":"http://b"}"#),
            ("members/a", r#"{"api_url":"http://a"}"#),
        ];
        let cluster = cluster(&keys);
        let check = |role, wanted: &[&str]| assert_eq!(names(&cluster.with_role(role)), wanted, "{role:?}");
        check(Role::Any, &["a", "b", "c"]);
        check(Role::Leader, &["b"]);
        check(Role::StandbyLeader, &["b"]);
        check(Role::Primary, &[]);
        check(Role::Standby, &["a", "c"]);
        assert_eq!(names(&cluster.leader_first()), ["b", "a"]);
    }

    #[test]
    fn tags_bar_a_member_from_leading() {
        let check = |tags: &str, barred| {
            let cluster = cluster(&[("members/a", &format!(r#"{{"tags":{tags}}}"#))]);
            assert_eq!(cluster.members[0].nofailover(), barred, "{tags}");
        };
        check(r#"{"nofailover":true}"#, true);
        check(r#"{"nofailover":false,"failover_priority":0}"#, false);
        check(r#"{"failover_priority":0}"#, true);
        check(r#"{"failover_priority":2}"#, false);
        check("{}", false);
    }

    proptest! {
        #[test]
        fn no_value_in_the_store_makes_a_command_panic(
            key in "(members/a|leader|config|failover|sync|history|status|initialize|x)",
            value in r#"(\{|\}|\[|\]|"|:|,|null|true|-1|1e99|conn_url|api_url|tags|schedule|scheduled_restart|pending_restart_reason|replicatefrom|timeline|postgres://|\u{1f418}| ){0,24}"#,
            raw in proptest::collection::vec(any::<u8>(), 0..12),
        ) {
            for value in [value.clone().into_bytes(), raw.clone(), format!(r#"{{"scheduled_restart":{value},"tags":{value}}}"#).into_bytes()] {
                let place = Place::new("/service", "batman");
                let entry = Entry { path: format!("{}{key}", place.base()), value, created: 1, version: 1, session: None };
                let other = Entry { path: format!("{}members/b", place.base()), value: b"{\"tags\":{\"replicatefrom\":\"a\"}}".to_vec(), ..entry.clone() };
                let cluster = Cluster::read("batman", &place, &[entry, other]);
                for shape in super::super::members::Shape::ALL {
                    let _ = super::super::members::render(&cluster, shape, true);
                    let _ = super::super::members::render(&cluster, shape, false);
                }
                let _ = (cluster.leader_first(), cluster.with_role(Role::Primary), cluster.scheduled_switchover());
            }
        }
    }
}
