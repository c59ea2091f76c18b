//! What operators have said of the cluster beside the settings themselves: who has changed what, and why. It is the key `intents`,
//! which Patroni and its tools pass over; the settings themselves stand where Patroni has them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{MemberName, Tags};

/// Older changes are forgotten.
pub const CHANGES_MAX: usize = 50;
/// All of them together: every member reads them with each snapshot.
const CHANGES_BYTES_MAX: usize = 24 << 10;
/// What one change tells of. The rest is only counted.
const DIFFERENCES_MAX: usize = 12;
const VALUE_CHARACTERS_MAX: usize = 160;
/// A name or a reason.
pub const WORDS_CHARACTERS_MAX: usize = 200;

/// The headers in which our command says who uses it and why, where a member of ours writes for it.
pub const SAID_BY: &str = "tenure-by";
pub const SAID_WHY: &str = "tenure-reason";

/// Nobody of ours has written the change.
pub const SOMEBODY: &str = "unknown";
const HIDDEN: &str = "(hidden)";

/// The value of the key. Fields that this version does not know are written back as they were.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Intents {
    /// The maintenance mode of the whole cluster. That it is on stands in the configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pause: Option<Intent>,
    /// What single members are kept from.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub members: BTreeMap<MemberName, MemberIntent>,
    /// The latest is the last.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
    /// The fingerprint of the configuration that the changes lead up to. Another one has been changed by somebody who did not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noted: Option<String>,
    #[serde(flatten)]
    pub others: Map<String, Value>,
}

/// Something that is meant to end: whose it is, and when. Times are of the wall clock, in ISO 8601 with their offset.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Intent {
    pub by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    pub since: String,
    /// None: it ends when somebody ends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    #[serde(flatten)]
    pub others: Map<String, Value>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemberIntent {
    pub kind: IntentKind,
    #[serde(flatten)]
    pub intent: Intent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IntentKind {
    /// The member is not promoted, and serves no reads through a balancer.
    Maintenance,
    /// The member is not promoted.
    Nofailover,
}

/// A change of the configuration that members share.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// By the wall clock, in ISO 8601 with its offset.
    pub at: String,
    pub by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// None: nobody knows what stood there before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub what: Option<Vec<Difference>>,
    /// How many more settings were changed together with these.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more: usize,
    #[serde(flatten)]
    pub others: Map<String, Value>,
}

/// One setting, by its path. None: it was not there, or is not any more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    pub setting: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Value>,
}

/// Who wants something, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whose {
    pub by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// Who writes, why, and when that is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Note {
    pub by: String,
    pub why: Option<String>,
    pub at: String,
}

impl Intents {
    /// With the change from one configuration to another at the end.
    #[must_use]
    pub fn noting(&self, note: &Note, before: Option<&Value>, after: &Value) -> Intents {
        let mut intents = self.clone();
        intents.noted = Some(fingerprint(after));
        let begins = is_paused(after) && before.is_some_and(|before| !is_paused(before));
        if !is_paused(after) {
            intents.pause = None;
        } else if begins {
            intents.pause = (note.by != SOMEBODY).then(|| Intent::of(note, None));
        }
        let mut what = before.map(|before| differences(before, after));
        if what.as_ref().is_some_and(Vec::is_empty) {
            return intents;
        }
        let more = what.as_ref().map_or(0, |what| what.len().saturating_sub(DIFFERENCES_MAX));
        if let Some(what) = &mut what {
            what.truncate(DIFFERENCES_MAX);
        }
        let Note { by, why, at } = note.clone();
        intents.changes.push(Change { at, by, why, what, more, others: Map::new() });
        intents.forget();
        intents
    }

    /// With the change that nobody has noted, if there is one. `before` is what the configuration was when it was last looked at.
    pub fn caught_up(&self, before: Option<&Value>, now: &Value, at: &str) -> Option<Intents> {
        let print = fingerprint(now);
        let Some(noted) = &self.noted else {
            // A history begins here.
            return Some(Intents { noted: Some(print), ..self.clone() });
        };
        if *noted == print {
            let over = self.pause.is_some() && !is_paused(now);
            return over.then(|| Intents { pause: None, ..self.clone() });
        }
        let before = before.filter(|before| fingerprint(before) == *noted);
        let note = Note { by: SOMEBODY.to_owned(), why: None, at: at.to_owned() };
        Some(self.noting(&note, before, now))
    }

    /// Whose it is and when it ends, without what else somebody may have written.
    #[must_use]
    pub fn kept(&self) -> Intents {
        let bare = |intent: &Intent| Intent { why: None, others: Map::new(), ..intent.clone() };
        let member = |kept: &MemberIntent| MemberIntent { intent: bare(&kept.intent), ..kept.clone() };
        let members = self.members.iter().map(|(name, kept)| (name.clone(), member(kept)));
        Intents { pause: self.pause.as_ref().map(bare), members: members.collect(), ..Intents::default() }
    }

    /// Without what has come to its end by itself; None: nothing has. A pause ends with the configuration.
    pub fn without_ended(&self, has_come: impl Fn(&str) -> bool) -> Option<Intents> {
        let mut intents = self.clone();
        intents.members.retain(|_, member| !member.intent.until.as_deref().is_some_and(&has_come));
        (intents.members.len() < self.members.len()).then_some(intents)
    }

    /// What the member is kept from now.
    pub fn of_member(&self, name: &MemberName, has_come: impl Fn(&str) -> bool) -> Option<&MemberIntent> {
        self.members.get(name).filter(|member| !member.intent.until.as_deref().is_some_and(has_come))
    }

    fn forget(&mut self) {
        let surplus = self.changes.len().saturating_sub(CHANGES_MAX);
        self.changes.drain(..surplus);
        let length = |change: &Change| serde_json::to_string(change).map_or(0, |text| text.len());
        let lengths: Vec<usize> = self.changes.iter().map(length).collect();
        let mut left: usize = lengths.iter().sum();
        let too_long = lengths.iter().take_while(|length| {
            let goes = CHANGES_BYTES_MAX < left;
            left -= **length;
            goes
        });
        let surplus = too_long.count();
        self.changes.drain(..surplus);
    }
}

impl Intent {
    pub fn of(note: &Note, until: Option<String>) -> Intent {
        let Note { by, why, at } = note.clone();
        Intent { by, why, since: at, until, others: Map::new() }
    }
}

/// `until 2026-11-22T06:00:00+00:00, by anna@ops1: new disks`.
impl Whose {
    pub fn of(note: &Note) -> Whose {
        Whose { by: note.by.clone(), why: note.why.clone() }
    }
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "by {}", self.by)?;
        self.why.iter().try_for_each(|why| write!(f, ": {why}"))
    }
}

impl fmt::Display for Intent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(until) = &self.until {
            write!(f, "until {until}, ")?;
        }
        write!(f, "by {}", self.by)?;
        self.why.iter().try_for_each(|why| write!(f, ": {why}"))
    }
}

impl IntentKind {
    pub fn word(self) -> &'static str {
        match self {
            IntentKind::Maintenance => "maintenance",
            IntentKind::Nofailover => "nofailover",
        }
    }

    /// The member's own tags and those that this adds, so that Patroni's members and balancers understand it.
    #[must_use]
    pub fn added_to(self, tags: &Tags) -> Tags {
        let added: &[&str] = match self {
            IntentKind::Maintenance => &["nofailover", "noloadbalance"],
            IntentKind::Nofailover => &["nofailover"],
        };
        let mut tags = tags.clone();
        tags.0.extend(added.iter().map(|tag| ((*tag).to_owned(), Value::Bool(true))));
        tags
    }
}

/// Does a configuration say that maintenance mode is on?
pub fn is_paused(config: &Value) -> bool {
    match config.get("pause") {
        Some(Value::Bool(paused)) => *paused,
        Some(Value::Number(number)) => number.as_i64() == Some(1),
        Some(Value::String(text)) => {
            matches!(text.to_ascii_lowercase().as_str(), "on" | "true" | "yes" | "1")
        }
        Some(Value::Null | Value::Array(_) | Value::Object(_)) | None => false,
    }
}

/// What somebody has said of himself or of his reasons: one line, and not a long one. None: nothing was said.
pub fn words(text: &str) -> Option<String> {
    let line: String = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    let line: String = line.trim().chars().take(WORDS_CHARACTERS_MAX).collect();
    (!line.is_empty()).then_some(line)
}

/// Setting by setting, in the order of their names.
pub fn differences(before: &Value, after: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    compare("", Some(before), Some(after), &mut found);
    found
}

fn compare(path: &str, before: Option<&Value>, after: Option<&Value>, found: &mut Vec<Difference>) {
    if before == after {
        return;
    }
    let section = |value: Option<&Value>| match value {
        Some(Value::Object(section)) => Some(section.clone()),
        None => Some(Map::new()),
        Some(_) => None,
    };
    let empty = |value: Option<&Value>| value.and_then(Value::as_object).is_some_and(Map::is_empty);
    match (section(before), section(after)) {
        (Some(old), Some(new)) if !(empty(before) || empty(after)) || path.is_empty() => {
            let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            for name in names {
                let below = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                compare(&below, old.get(name), new.get(name), found);
            }
        }
        (_, _) => found.push(Difference {
            setting: path.to_owned(),
            from: before.map(|value| shown(path, value)),
            to: after.map(|value| shown(path, value)),
        }),
    }
}

/// A value that is not too long to be kept, and no secret.
fn shown(path: &str, value: &Value) -> Value {
    const SECRETS: [&str; 4] = ["password", "passphrase", "secret", "token"];
    let text = value.to_string();
    let secret = |text: &str| {
        let text = text.to_ascii_lowercase();
        SECRETS.iter().any(|word| text.contains(word))
    };
    // A URL may carry a login.
    let login = text.split_once("://").is_some_and(|(_, rest)| rest.contains('@'));
    if secret(path) || secret(&text) || login {
        return HIDDEN.into();
    }
    if VALUE_CHARACTERS_MAX < text.chars().count() {
        let begin: String = text.chars().take(VALUE_CHARACTERS_MAX).collect();
        return format!("{begin}…").into();
    }
    value.clone()
}

/// The same for configurations that say the same in whatever order. It tells changes from none, and guards nothing.
pub fn fingerprint(config: &Value) -> String {
    let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
    hash.value(config);
    format!("{:016x}", hash.0)
}

struct Fnv(u64);

impl Fnv {
    fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Object(members) => {
                self.bytes(b"{");
                let names: BTreeSet<&String> = members.keys().collect();
                for name in names {
                    self.bytes(Value::from(name.as_str()).to_string().as_bytes());
                    self.value(&members[name]);
                }
                self.bytes(b"}");
            }
            Value::Array(items) => {
                self.bytes(b"[");
                for item in items {
                    self.value(item);
                }
                self.bytes(b"]");
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                self.bytes(value.to_string().as_bytes());
                self.bytes(b",");
            }
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests;
