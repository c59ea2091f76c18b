//! Reading what stands in the store, whoever wrote it. Nothing here panics or refuses the whole for a part: a value that
//! makes no sense counts as absent and is named in an oddity. Where half an understanding would be dangerous (who may
//! lead, who must be asked), the whole value counts as absent.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{INITIALIZING, Key, Place};
use crate::model::{
    Claim, Cluster, FailoverRequest, HistoryLine, Initialize, Intent, Intents, Leader, Lsn, MemberIntent,
    MemberName, MemberRecord, Status, SyncState, SystemId, Term, Timeline, Versioned, Whose, words,
};
use crate::store::kv::Entry;

/// A value that no one of ours would have written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Oddity {
    pub path: String,
    pub version: i64,
    pub problem: String,
}

/// Which oddities have been reported, so that each is reported once.
#[derive(Debug, Default)]
pub struct Reported(BTreeMap<String, i64>);

/// Folds the keys of a cluster's place into what they say.
pub fn cluster<'entry>(
    place: &Place,
    entries: impl IntoIterator<Item = &'entry Entry>,
) -> (Cluster, Vec<Oddity>) {
    let (mut cluster, mut oddities) = (Cluster::default(), Vec::new());
    let (mut status, mut legacy_optime) = (None, None);
    for entry in entries {
        let Some(key) = place.key(&entry.path) else { continue };
        let mut problems = Problems::default();
        match key {
            Key::Initialize => {
                cluster.initialize = initialize(&entry.value, &mut problems);
                cluster.maker = entry.session.filter(|_| cluster.initialize == Initialize::Running);
            }
            Key::Leader => cluster.leader = leader(entry, &mut problems),
            Key::Member(name) => {
                if let Some(record) = member(&entry.value, &mut problems) {
                    cluster.members.insert(name, record);
                }
            }
            Key::Config => {
                let config = object(&entry.value, &mut problems).map(Value::Object);
                cluster.config = versioned(config, entry);
            }
            Key::Status => status = read_status(&entry.value, &mut problems),
            Key::LegacyOptime => legacy_optime = optime(&entry.value, &mut problems),
            Key::Failover => {
                let request = failover(&entry.value, &mut problems);
                cluster.failover = versioned(request.filter(|request| !request.is_empty()), entry);
            }
            Key::Sync => cluster.sync = versioned(sync(&entry.value, &mut problems), entry),
            Key::History => cluster.history = history(&entry.value, &mut problems),
            Key::Failsafe => cluster.failsafe = failsafe(&entry.value, &mut problems),
            Key::Claim => cluster.claim = versioned(claim(&entry.value, &mut problems), entry),
            Key::Intents => cluster.intents = versioned(Some(intents(&entry.value, &mut problems)), entry),
            Key::Successions => {}
        }
        if let Some(problem) = problems.0 {
            oddities.push(Oddity { path: entry.path.clone(), version: entry.version, problem });
        }
    }
    cluster.status = status.unwrap_or(Status { optime: legacy_optime, ..Status::default() });
    (cluster, oddities)
}

impl Reported {
    /// Those that have not been reported in this version of their key. What is gone is forgotten, so this stays small.
    pub fn news(&mut self, oddities: Vec<Oddity>) -> Vec<Oddity> {
        let present: BTreeMap<String, i64> =
            oddities.iter().map(|oddity| (oddity.path.clone(), oddity.version)).collect();
        let known = std::mem::replace(&mut self.0, present);
        oddities.into_iter().filter(|oddity| known.get(&oddity.path) != Some(&oddity.version)).collect()
    }

    pub fn warn(&mut self, oddities: Vec<Oddity>) {
        for Oddity { path, version, problem } in self.news(oddities) {
            tracing::warn!(%path, version, "the store holds a value that is not understood: {problem}");
        }
    }
}

/// The first problem of a value: one is enough to have a person look at it.
#[derive(Default)]
struct Problems(Option<String>);

impl Problems {
    fn add(&mut self, problem: impl Into<String>) {
        self.0.get_or_insert_with(|| problem.into());
    }

    /// Notes the error, if it is one.
    fn note<T, E: ToString>(&mut self, what: &str, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.add(format!("{what}: {}", error.to_string()))).ok()
    }
}

fn versioned<T>(value: Option<T>, entry: &Entry) -> Option<Versioned<T>> {
    Some(Versioned { value: value?, version: entry.version })
}

/// Patroni, too, takes nothing shorter than ten digits for a system identifier.
fn initialize(value: &[u8], problems: &mut Problems) -> Initialize {
    if value == INITIALIZING.as_bytes() {
        return Initialize::Running;
    }
    let digits = std::str::from_utf8(value).ok().map(str::trim);
    let digits = digits.filter(|text| 10 <= text.len() && text.bytes().all(|b| b.is_ascii_digit()));
    if let Some(system) = digits.and_then(|text| text.parse().ok()) {
        return Initialize::Done(SystemId(system));
    }
    problems.add("this is not a system identifier");
    Initialize::Unrecognized
}

fn leader(entry: &Entry, problems: &mut Problems) -> Option<Leader> {
    let text = problems.note("text", std::str::from_utf8(&entry.value))?;
    let name = problems.note("name", text.parse::<MemberName>())?;
    let term = problems.note("revision", u64::try_from(entry.created))?;
    Some(Leader { name, term: Term(term), session: entry.session })
}

/// Field by field: a field that makes no sense is left out, the rest of the record still counts.
fn member(value: &[u8], problems: &mut Problems) -> Option<MemberRecord> {
    if value.starts_with(b"postgres") {
        return Some(legacy_member(&String::from_utf8_lossy(value)));
    }
    let mut document = object(value, problems)?;
    document.retain(|field, value| {
        let alone = Map::from_iter([(field.clone(), value.clone())]);
        problems.note(field, serde_json::from_value::<MemberRecord>(Value::Object(alone))).is_some()
    });
    problems.note("record", serde_json::from_value(Value::Object(document)))
}

/// The form of Patroni before 1.0: a URL whose `application_name` is the address of the REST API.
fn legacy_member(text: &str) -> MemberRecord {
    let (conn_url, query) = text.split_once('?').unwrap_or((text, ""));
    let api_url = query.split('&').find_map(|pair| pair.strip_prefix("application_name="));
    MemberRecord {
        conn_url: conn_url.to_owned(),
        api_url: api_url.map(percent_decoded).unwrap_or_default(),
        ..MemberRecord::default()
    }
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let escape = (first == b'%').then(|| tail.get(..2)).flatten();
        let decoded =
            escape.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        bytes.push(decoded.unwrap_or(first));
        rest = if decoded.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A document, or the bare integer of Patroni before 2.1.
fn read_status(value: &[u8], problems: &mut Problems) -> Option<Status> {
    let mut document = match json(value, problems)? {
        Value::Object(document) => document,
        bare => return integer(&bare, problems).map(|lsn| Status { optime: Some(lsn), ..Status::default() }),
    };
    let optime = document.remove("optime").filter(|optime| !optime.is_null());
    let slots = match document.remove("slots") {
        Some(Value::Object(slots)) => slots,
        None | Some(Value::Null) => Map::new(),
        Some(_) => {
            problems.add("slots: this is not an object");
            Map::new()
        }
    };
    let retain_slots = document.remove("retain_slots").filter(|slots| !slots.is_null());
    let ended_on = document.remove("ended_on").filter(|timeline| !timeline.is_null());
    Some(Status {
        optime: optime.and_then(|optime| integer(&optime, problems)),
        slots: (slots.into_iter()).filter_map(|(slot, lsn)| Some((slot, integer(&lsn, problems)?))).collect(),
        retain_slots: retain_slots
            .and_then(|slots| problems.note("retain_slots", serde_json::from_value(slots)))
            .unwrap_or_default(),
        ended_on: ended_on.and_then(|timeline| problems.note("ended_on", serde_json::from_value(timeline))),
    })
}

fn optime(value: &[u8], problems: &mut Problems) -> Option<Lsn> {
    let value = json(value, problems)?;
    integer(&value, problems)
}

/// A position as a number, or as text that is one.
fn integer(value: &Value, problems: &mut Problems) -> Option<Lsn> {
    let number = match value {
        Value::String(text) => text.trim().parse().ok(),
        Value::Number(number) => number.as_u64(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    if number.is_none() {
        problems.add("this is not a WAL position");
    }
    number.map(Lsn)
}

/// A wish half understood is not carried out.
fn failover(value: &[u8], problems: &mut Problems) -> Option<FailoverRequest> {
    let document = match serde_json::from_slice(value) {
        Ok(Value::Object(document)) => document,
        Ok(_) => {
            problems.add("this is not an object");
            return None;
        }
        Err(_) => return legacy_failover(value, problems),
    };
    let scheduled_at = optional_text(&document, "scheduled_at", problems)?;
    let leader = optional_text(&document, "leader", problems)?;
    let candidate = optional_text(&document, "member", problems)?;
    let said = |field: &str| document.get(field).and_then(Value::as_str).and_then(words);
    Some(FailoverRequest {
        leader: optional_name("leader", leader, problems)?,
        candidate: optional_name("member", candidate, problems)?,
        scheduled_at: scheduled_at.map(str::to_owned),
        whose: said("by").map(|by| Whose { by, why: said("why") }),
    })
}

/// The form `leader:candidate`, either of which may be missing.
fn legacy_failover(value: &[u8], problems: &mut Problems) -> Option<FailoverRequest> {
    let text = problems.note("text", std::str::from_utf8(value))?;
    let mut parts = text.split(':').map(str::trim).map(|part| (!part.is_empty()).then_some(part));
    Some(FailoverRequest {
        leader: optional_name("leader", parts.next().flatten(), problems)?,
        candidate: optional_name("candidate", parts.next().flatten(), problems)?,
        scheduled_at: None,
        whose: None,
    })
}

#[expect(clippy::option_option, reason = "outside: is it understood; inside: is there a text")]
fn optional_text<'document>(
    document: &'document Map<String, Value>,
    field: &str,
    problems: &mut Problems,
) -> Option<Option<&'document str>> {
    match document.get(field) {
        None | Some(Value::Null) => Some(None),
        Some(Value::String(text)) => Some((!text.is_empty()).then_some(text)),
        Some(_) => {
            problems.add(format!("{field}: this is not text"));
            None
        }
    }
}

#[expect(clippy::option_option, reason = "outside: is it understood; inside: is there a name")]
fn optional_name(what: &str, text: Option<&str>, problems: &mut Problems) -> Option<Option<MemberName>> {
    text.map_or(Some(None), |text| problems.note(what, text.parse()).map(Some))
}

/// A standby whose name makes no sense is left out: then fewer members may lead, never more.
fn sync(value: &[u8], problems: &mut Problems) -> Option<SyncState> {
    let document = object(value, problems)?;
    let leader = match document.get("leader") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) if text.is_empty() => None,
        Some(value) => Some(problems.note("leader", from_value(value))?),
    };
    let standbys = match document.get("sync_standby") {
        None | Some(Value::Null) => "",
        Some(Value::String(text)) => text,
        Some(_) => {
            problems.add("sync_standby: this is not text");
            ""
        }
    };
    let names = standbys.split(',').map(str::trim).filter(|name| !name.is_empty());
    let quorum = document.get("quorum").and_then(Value::as_u64).and_then(|quorum| u32::try_from(quorum).ok());
    Some(SyncState {
        quorum: if leader.is_some() { quorum.unwrap_or(0) } else { 0 },
        leader,
        standbys: names.filter_map(|name| problems.note("sync_standby", name.parse())).collect(),
    })
}

/// Line by line, and in the order of the timelines whatever order they stand in: the last one counts most.
fn history(value: &[u8], problems: &mut Problems) -> Vec<HistoryLine> {
    let Some(lines) = problems.note("JSON", serde_json::from_slice::<Vec<Value>>(value)) else {
        return Vec::new();
    };
    let mut lines: Vec<HistoryLine> = lines.iter().filter_map(|line| history_line(line, problems)).collect();
    lines.sort_by_key(|line| line.timeline);
    lines
}

fn history_line(line: &Value, problems: &mut Problems) -> Option<HistoryLine> {
    let fields = line.as_array().map(Vec::as_slice);
    let Some([timeline, switch, reason, rest @ ..]) = fields else {
        problems.add("a line has fewer than three fields");
        return None;
    };
    Some(HistoryLine {
        timeline: problems.note("timeline", from_value(timeline))?,
        switch: problems.note("position", from_value(switch))?,
        reason: reason.as_str().unwrap_or_default().to_owned(),
        timestamp: rest.first().and_then(Value::as_str).map(str::to_owned),
        new_leader: rest.get(1).and_then(Value::as_str).and_then(|name| name.parse().ok()),
    })
}

/// All or nothing: a leader that lost one of these lines would not ask that member before it goes on leading.
fn failsafe(value: &[u8], problems: &mut Problems) -> BTreeMap<MemberName, String> {
    problems.note("JSON", serde_json::from_slice(value)).unwrap_or_default()
}

fn claim(value: &[u8], problems: &mut Problems) -> Option<Claim> {
    let claim: Claim = problems.note("JSON", serde_json::from_slice(value))?;
    if claim.timeline < Timeline::FIRST {
        problems.add("there is no such timeline");
        return None;
    }
    Some(claim)
}

/// Field by field. What cannot be read is forgotten when the key is next written; what is only not known stays.
fn intents(value: &[u8], problems: &mut Problems) -> Intents {
    // Whoever writes the key anew must compare versions, also where nothing of it is understood.
    let mut document = object(value, problems).unwrap_or_default();
    let changes = match document.remove("changes") {
        Some(Value::Array(changes)) => changes,
        None | Some(Value::Null) => Vec::new(),
        Some(_) => {
            problems.add("changes: this is not a list");
            Vec::new()
        }
    };
    let changes = changes.iter().filter_map(|change| problems.note("changes", from_value(change)));
    let changes = changes.collect();
    let pause = document.remove("pause").filter(|pause| !pause.is_null());
    let members = match document.remove("members") {
        Some(Value::Object(members)) => members,
        None | Some(Value::Null) => Map::new(),
        Some(_) => {
            problems.add("members: this is not an object");
            Map::new()
        }
    };
    let members = members.into_iter().filter_map(|(name, member)| {
        let name = problems.note("members", name.parse::<MemberName>())?;
        let member: MemberIntent = problems.note("members", from_value(&member))?;
        ends_some_time(&member.intent, problems).then_some((name, member))
    });
    let members = members.collect();
    let pause: Option<Intent> = pause.and_then(|pause| problems.note("pause", from_value(&pause)));
    let noted = document.remove("noted").filter(|noted| !noted.is_null());
    Intents {
        pause: pause.filter(|pause| ends_some_time(pause, problems)),
        members,
        changes,
        noted: noted.and_then(|noted| problems.note("noted", from_value(&noted))),
        others: document,
    }
}

/// What ends at a time that nobody can read would end at once or never.
fn ends_some_time(intent: &Intent, problems: &mut Problems) -> bool {
    let Some(until) = &intent.until else { return true };
    problems.note("until", until.parse::<jiff::Timestamp>()).is_some()
}

fn json(value: &[u8], problems: &mut Problems) -> Option<Value> {
    problems.note("JSON", serde_json::from_slice(value))
}

fn object(value: &[u8], problems: &mut Problems) -> Option<Map<String, Value>> {
    match json(value, problems)? {
        Value::Object(document) => Some(document),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            problems.add("this is not an object");
            None
        }
    }
}

fn from_value<T: DeserializeOwned>(value: &Value) -> serde_json::Result<T> {
    T::deserialize(value)
}

#[cfg(test)]
mod tests;
