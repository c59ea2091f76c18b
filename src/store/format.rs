//! How Tenure spells keys and values: byte for byte as Patroni 4.1 does, plus the keys of our own: `claim`, `intents`, `successions`.
//! Reading them back, forgivingly, is `format::read`.

pub mod read;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;

use serde::Serialize;
use serde_json::{Value, json};

use crate::model::{
    Claim, FailoverRequest, HistoryLine, Intents, MemberName, MemberRecord, Status, Succession, SyncState,
    SystemId,
};

/// Where a cluster lives in the store. Ends with a slash, so that `/service/a` never sees the keys of `/service/ab`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    namespace: String,
    base: String,
}

/// The keys below a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    Initialize,
    Leader,
    Member(MemberName),
    Config,
    Status,
    /// The legacy twin of `status`: only ever read.
    LegacyOptime,
    Failover,
    Sync,
    History,
    Failsafe,
    Claim,
    Intents,
    /// Nothing is decided by it, and no snapshot holds it.
    Successions,
}

/// What `failover` holds when nothing is wished for: the key itself is never deleted.
pub const NO_FAILOVER: &str = "{}";

/// What `initialize` holds while somebody runs initdb.
pub const INITIALIZING: &str = "";

const MEMBERS: &str = "members/";

impl Place {
    pub fn new(namespace: &str, scope: &str) -> Place {
        Place { namespace: collapsed(&["", namespace, ""]), base: collapsed(&["", namespace, scope, ""]) }
    }

    /// The prefix of all keys of the cluster.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The prefix of all clusters beside this one.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    pub fn path(&self, key: &Key) -> String {
        let name = match key {
            Key::Initialize => "initialize",
            Key::Leader => "leader",
            Key::Member(name) => return format!("{}{MEMBERS}{name}", self.base),
            Key::Config => "config",
            Key::Status => "status",
            Key::LegacyOptime => "optime/leader",
            Key::Failover => "failover",
            Key::Sync => "sync",
            Key::History => "history",
            Key::Failsafe => "failsafe",
            Key::Claim => "claim",
            Key::Intents => "intents",
            Key::Successions => "successions",
        };
        format!("{}{name}", self.base)
    }

    /// Which key a path is. A path that is none of ours is nobody's business here.
    pub fn key(&self, path: &str) -> Option<Key> {
        let name = path.strip_prefix(&self.base)?;
        match name {
            "initialize" => Some(Key::Initialize),
            "leader" => Some(Key::Leader),
            "config" => Some(Key::Config),
            "status" => Some(Key::Status),
            "optime/leader" => Some(Key::LegacyOptime),
            "failover" => Some(Key::Failover),
            "sync" => Some(Key::Sync),
            "history" => Some(Key::History),
            "failsafe" => Some(Key::Failsafe),
            "claim" => Some(Key::Claim),
            "intents" => Some(Key::Intents),
            "successions" => Some(Key::Successions),
            _ => name.strip_prefix(MEMBERS)?.parse().ok().map(Key::Member),
        }
    }

    /// The scope that a path in our namespace belongs to.
    pub fn scope_of<'path>(&self, path: &'path str) -> Option<&'path str> {
        let (scope, _) = path.strip_prefix(&self.namespace)?.split_once('/')?;
        (!scope.is_empty()).then_some(scope)
    }
}

pub fn leader(name: &MemberName) -> String {
    name.as_str().to_owned()
}

pub fn initialize(system: SystemId) -> String {
    system.to_string()
}

pub fn member(record: &MemberRecord) -> String {
    compact(record)
}

pub fn config(config: &Value) -> String {
    compact(config)
}

pub fn status(status: &Status) -> String {
    compact(status)
}

pub fn failover(request: &FailoverRequest) -> String {
    compact(request)
}

pub fn sync(state: &SyncState) -> String {
    #[derive(Serialize)]
    struct Document<'a> {
        leader: Option<&'a MemberName>,
        quorum: u32,
        sync_standby: Option<String>,
    }
    let mut names: Vec<&str> = state.standbys.iter().map(MemberName::as_str).collect();
    names.sort_unstable();
    compact(&Document {
        leader: state.leader.as_ref(),
        quorum: state.quorum,
        sync_standby: (!names.is_empty()).then(|| names.join(",")),
    })
}

pub fn history(lines: &[HistoryLine]) -> String {
    let lines: Vec<Value> = lines.iter().map(history_line).collect();
    compact(&lines)
}

pub fn failsafe(members: &BTreeMap<MemberName, String>) -> String {
    compact(members)
}

pub fn claim(claim: &Claim) -> String {
    compact(claim)
}

pub fn intents(intents: &Intents) -> String {
    compact(intents)
}

pub fn successions(successions: &[Succession]) -> String {
    compact(&successions)
}

/// Five fields, or the first three where nobody knows when and for whom it was.
fn history_line(line: &HistoryLine) -> Value {
    let mut fields = vec![json!(line.timeline), json!(line.switch), json!(line.reason)];
    if let Some(timestamp) = &line.timestamp {
        fields.push(json!(timestamp));
        fields.extend(line.new_leader.as_ref().map(|name| json!(name)));
    }
    Value::Array(fields)
}

fn collapsed(parts: &[&str]) -> String {
    let mut path = parts.join("/");
    while path.contains("//") {
        path = path.replace("//", "/");
    }
    path
}

fn compact(value: &impl Serialize) -> String {
    let mut bytes = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, Ascii);
    value
        .serialize(&mut serializer)
        .expect("the documents have text keys and Vec never fails to be written to");
    String::from_utf8(bytes).expect("the formatter writes ASCII only")
}

/// Compact JSON in which every character beyond ASCII is escaped, as Python writes it.
struct Ascii;

impl serde_json::ser::Formatter for Ascii {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, text: &str) -> io::Result<()> {
        if text.is_ascii() {
            return writer.write_all(text.as_bytes());
        }
        let mut escaped = String::with_capacity(text.len() * 2);
        for character in text.chars() {
            if character.is_ascii() {
                escaped.push(character);
                continue;
            }
            for unit in character.encode_utf16(&mut [0; 2]) {
                write!(escaped, "\\u{unit:04x}").map_err(io::Error::other)?;
            }
        }
        writer.write_all(escaped.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Lsn, Timeline};

    fn name(text: &str) -> MemberName {
        text.parse().expect("a good name")
    }

    #[test]
    fn runs_of_slashes_collapse() {
        for (namespace, scope) in [("service", "batman"), ("/service", "batman"), ("//service/", "/batman/")]
        {
            let place = Place::new(namespace, scope);
            assert_eq!(place.path(&Key::Leader), "/service/batman/leader", "{namespace} {scope}");
            assert_eq!(place.namespace(), "/service/");
        }
        assert_eq!(Place::new("", "batman").path(&Key::Status), "/batman/status");
        assert_eq!(Place::new("/a/b", "c").path(&Key::Member(name("n-1"))), "/a/b/c/members/n-1");
    }

    #[test]
    fn a_path_leads_back_to_its_key() {
        let place = Place::new("service", "batman");
        for key in [
            Key::Initialize,
            Key::Leader,
            Key::Member(name("turku")),
            Key::Config,
            Key::Status,
            Key::LegacyOptime,
            Key::Failover,
            Key::Sync,
            Key::History,
            Key::Failsafe,
            Key::Claim,
            Key::Intents,
        ] {
            assert_eq!(place.key(&place.path(&key)), Some(key));
        }
        for foreign in
            ["/service/batman2/leader", "/service/batman/members/", "/service/batman/members/a/b", "x"]
        {
            assert_eq!(place.key(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn a_scope_is_found_in_every_path_of_the_namespace() {
        let place = Place::new("service", "batman");
        assert_eq!(place.scope_of("/service/robin/leader"), Some("robin"));
        assert_eq!(place.scope_of("/service/robin/0/leader"), Some("robin"));
        assert_eq!(place.scope_of("/service/robin"), None);
        assert_eq!(place.scope_of("/other/robin/leader"), None);
    }

    #[test]
    fn documents_are_spelled_as_patroni_spells_them() {
        let state = SyncState { leader: Some(name("a")), quorum: 1, standbys: vec![name("c"), name("b")] };
        assert_eq!(sync(&state), r#"{"leader":"a","quorum":1,"sync_standby":"b,c"}"#);
        assert_eq!(sync(&SyncState::default()), r#"{"leader":null,"quorum":0,"sync_standby":null}"#);

        let request = FailoverRequest {
            leader: Some(name("a")),
            candidate: Some(name("b")),
            scheduled_at: Some("2026-01-02T03:04:05+00:00".to_owned()),
            whose: None,
        };
        let text = r#"{"leader":"a","member":"b","scheduled_at":"2026-01-02T03:04:05+00:00"}"#;
        assert_eq!(failover(&request), text);
        assert_eq!(failover(&FailoverRequest::default()), NO_FAILOVER);

        let told = Status {
            optime: Some(Lsn(67_393_640)),
            slots: BTreeMap::from([("turku".to_owned(), Lsn(1))]),
            retain_slots: vec!["oulu".to_owned()],
            ended_on: None,
        };
        assert_eq!(status(&told), r#"{"optime":67393640,"slots":{"turku":1},"retain_slots":["oulu"]}"#);
        assert_eq!(status(&Status::default()), "{}");

        let claimed = Claim { timeline: Timeline(7), by: name("turku") };
        assert_eq!(claim(&claimed), r#"{"timeline":7,"by":"turku"}"#);
        assert_eq!(failsafe(&BTreeMap::from([(name("a"), "http://a:8008/patroni".to_owned())])), {
            r#"{"a":"http://a:8008/patroni"}"#
        });
    }

    #[test]
    fn a_line_of_history_has_as_many_fields_as_are_known() {
        let line = |timestamp: Option<&str>, leader: Option<&str>| HistoryLine {
            timeline: Timeline(1),
            switch: Lsn(25),
            reason: "no recovery target specified".to_owned(),
            timestamp: timestamp.map(str::to_owned),
            new_leader: leader.map(name),
        };
        let lines = [line(None, None), line(Some("t"), None), line(Some("t"), Some("b"))];
        let reason = "no recovery target specified";
        assert_eq!(
            history(&lines),
            format!(r#"[[1,25,"{reason}"],[1,25,"{reason}","t"],[1,25,"{reason}","t","b"]]"#)
        );
        assert_eq!(history(&[]), "[]");
    }

    #[test]
    fn characters_beyond_ascii_are_escaped_as_python_escapes_them() {
        let text = config(&json!({"é": "\u{1F418} \"\n"}));
        assert_eq!(text, r#"{"\u00e9":"\ud83d\udc18 \"\n"}"#);
    }
}
