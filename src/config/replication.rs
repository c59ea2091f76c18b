//! The dynamic settings of slots and of standby clusters, read leniently: what cannot be understood is left out and
//! warned about, because a running cluster must survive whatever anybody has written there.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::problem::Problem;
use super::values;
use super::yaml::Place;
use crate::model::{Address, PermanentSlot, Remote, SlotCluster, SlotPattern, SlotPolicy, Span};

/// Patroni's three names for the same setting; the first that holds something counts.
const PERMANENT: [&str; 3] = ["permanent_replication_slots", "permanent_slots", "slots"];
const NAME_MAX: usize = 63;

/// What operators want of slots, and what of it is wrong.
pub(super) fn slots_from(dynamic: &Value, use_slots: bool) -> (SlotPolicy, Vec<Problem>) {
    let mut warnings = Vec::new();
    let usual = SlotPolicy::default();
    let member_ttl = dynamic.get("member_slots_ttl").filter(|value| !value.is_null()).and_then(|value| {
        let read = seconds(value);
        if read.is_none() {
            warnings.push(warning("member_slots_ttl", "is no length of time; 30 minutes are used"));
        }
        read
    });
    let policy = SlotPolicy {
        use_slots,
        member_ttl: member_ttl.unwrap_or(usual.member_ttl),
        permanent: permanent(dynamic, &mut warnings),
        ignored: ignored(dynamic, &mut warnings),
    };
    (policy, warnings)
}

/// The cluster that this one follows, if it follows one.
pub(super) fn follows_from(dynamic: &Value) -> (Option<Remote>, Vec<Problem>) {
    let mut warnings = Vec::new();
    let Some(section) = dynamic.get("standby_cluster").and_then(Value::as_object) else {
        return (None, warnings);
    };
    let text = |name: &str| section.get(name).and_then(plain).filter(|text| !text.is_empty());
    let host = text("host");
    let port = text("port").filter(|port| port != "0");
    let restore_command = text("restore_command");
    if host.is_none() && port.is_none() && restore_command.is_none() {
        return (None, warnings);
    }
    let number = port.as_deref().map_or(Ok(5432), str::parse::<u16>);
    let address = match (host, number) {
        (Some(host), Ok(port)) => Some(Address { host, port }),
        (Some(_), Err(_)) => {
            warnings.push(warning("standby_cluster.port", "is no port; nothing is replicated from the host"));
            None
        }
        (None, _) if port.is_some() => {
            warnings.push(warning("standby_cluster.host", "is missing; nothing is replicated from the port"));
            None
        }
        (None, _) => None,
    };
    if other_methods(section) {
        warnings.push(warning(
            "standby_cluster.create_replica_methods",
            "only basebackup is known here, and used",
        ));
    }
    let remote = Remote {
        address,
        slot: text("primary_slot_name"),
        restore_command,
        archive_cleanup_command: text("archive_cleanup_command"),
        apply_delay: text("recovery_min_apply_delay"),
    };
    (Some(remote), warnings)
}

fn other_methods(section: &Map<String, Value>) -> bool {
    let methods = section.get("create_replica_methods").and_then(Value::as_array);
    methods.is_some_and(|methods| methods.iter().any(|method| method.as_str() != Some("basebackup")))
}

fn permanent(dynamic: &Value, warnings: &mut Vec<Problem>) -> BTreeMap<String, PermanentSlot> {
    let holds_something = |value: &&Value| match value {
        Value::Object(slots) => !slots.is_empty(),
        Value::Null => false,
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => true,
    };
    let named = PERMANENT.iter().find_map(|key| Some((*key, dynamic.get(*key).filter(holds_something)?)));
    let Some((key, value)) = named else { return BTreeMap::new() };
    let Value::Object(slots) = value else {
        warnings.push(warning(key, "is not a mapping of names; no slot is kept"));
        return BTreeMap::new();
    };
    let mut permanent = BTreeMap::new();
    for (name, wanted) in slots {
        match is_slot_name(name).then(|| slot(wanted)).flatten() {
            Some(slot) => {
                permanent.insert(name.clone(), slot);
            }
            None => warnings.push(warning(
                &format!("{key}.{name}"),
                "cannot be kept: a name has lower-case letters, digits and underscores, a logical slot has a database and a \
                 plugin",
            )),
        }
    }
    permanent
}

fn is_slot_name(name: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(good)
}

/// Without a word it is a physical one.
fn slot(wanted: &Value) -> Option<PermanentSlot> {
    let Value::Object(fields) = wanted else {
        let nothing = matches!(wanted, Value::Null | Value::Bool(false))
            || wanted.as_str().is_some_and(str::is_empty)
            || wanted.as_array().is_some_and(Vec::is_empty)
            || wanted.as_i64() == Some(0);
        return nothing.then_some(PermanentSlot::Physical { cluster: SlotCluster::Any });
    };
    let text = |name: &str| fields.get(name).and_then(plain);
    let cluster = match text("cluster_type").as_deref() {
        Some("primary") => SlotCluster::Primary,
        Some("standby") => SlotCluster::Standby,
        Some(_) => return None,
        None => SlotCluster::Any,
    };
    match text("type").as_deref() {
        Some("physical") => Some(PermanentSlot::Physical { cluster }),
        Some("logical") => {
            let database = text("database").filter(|text| !text.is_empty())?;
            let plugin = text("plugin").filter(|text| !text.is_empty())?;
            Some(PermanentSlot::Logical { database, plugin })
        }
        None if fields.is_empty() || fields.contains_key("cluster_type") => {
            Some(PermanentSlot::Physical { cluster })
        }
        Some(_) | None => None,
    }
}

fn ignored(dynamic: &Value, warnings: &mut Vec<Problem>) -> Vec<SlotPattern> {
    let Some(value) = dynamic.get("ignore_slots").filter(|value| !value.is_null()) else { return Vec::new() };
    let Some(patterns) = value.as_array() else {
        warnings.push(warning("ignore_slots", "is not a list; no slot is left alone"));
        return Vec::new();
    };
    let mut ignored = Vec::new();
    for (index, pattern) in patterns.iter().enumerate() {
        match pattern.as_object().and_then(pattern_of) {
            Some(pattern) => ignored.push(pattern),
            None => warnings.push(warning(
                &format!("ignore_slots.{index}"),
                "names no slots: wanted one or more of name, type, database and plugin",
            )),
        }
    }
    ignored
}

/// One that says nothing would fit every slot, which nobody means.
fn pattern_of(fields: &Map<String, Value>) -> Option<SlotPattern> {
    let text = |name: &str| fields.get(name).and_then(plain);
    let physical = match text("type").as_deref() {
        Some("physical") => Some(true),
        Some("logical") => Some(false),
        Some(_) => return None,
        None => None,
    };
    let pattern =
        SlotPattern { name: text("name"), physical, database: text("database"), plugin: text("plugin") };
    (pattern != SlotPattern::default()).then_some(pattern)
}

/// What is wrong with new settings, before they are written, beyond what the table of settings knows.
pub(super) fn mistakes(dynamic: &Value) -> Vec<Problem> {
    let mut found = Vec::new();
    permanent(dynamic, &mut found);
    ignored(dynamic, &mut found);
    found
}

fn seconds(value: &Value) -> Option<Span> {
    let ms = values::milliseconds(&plain(value)?)?;
    u64::try_from(ms).ok().map(Span::from_ms)
}

fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.trim().to_owned()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(_) | Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn warning(path: &str, message: &str) -> Problem {
    let place = Place { source: "/config".into(), at: None };
    Problem::about(Some(place), path, message.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn slots_are_read_in_every_form_of_patronis() {
        let dynamic = json!({
            "member_slots_ttl": "10min",
            "slots": {
                "archive": null, "plain": {"type": "physical"}, "here": {"type": "physical", "cluster_type": "standby"},
                "cdc": {"type": "logical", "database": "shop", "plugin": "pgoutput"},
            },
            "ignore_slots": [{"name": "barman", "type": "physical"}, {"plugin": "wal2json"}],
        });
        let (policy, warnings) = slots_from(&dynamic, true);
        assert!(warnings.is_empty(), "{warnings:?}");
        assert_eq!(policy.member_ttl, Span::from_secs(600));
        let any = PermanentSlot::Physical { cluster: SlotCluster::Any };
        let logical = PermanentSlot::Logical { database: "shop".to_owned(), plugin: "pgoutput".to_owned() };
        let wanted = [
            ("archive", any.clone()),
            ("cdc", logical),
            ("here", PermanentSlot::Physical { cluster: SlotCluster::Standby }),
            ("plain", any),
        ];
        assert_eq!(policy.permanent, wanted.map(|(name, slot)| (name.to_owned(), slot)).into());
        assert_eq!(policy.ignored.len(), 2);
        let older =
            json!({"slots": {"a": null}, "permanent_replication_slots": {"b": null}, "permanent_slots": {}});
        assert_eq!(slots_from(&older, true).0.permanent.keys().collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn what_is_wrong_is_named_and_the_rest_is_kept() {
        let check = |dynamic: Value, kept: usize, told: usize| {
            let (policy, warnings) = slots_from(&dynamic, true);
            assert_eq!(
                (policy.permanent.len() + policy.ignored.len(), warnings.len()),
                (kept, told),
                "{dynamic}"
            );
        };
        check(json!({"slots": {"Good": null, "good": null}}), 1, 1);
        check(json!({"slots": {"cdc": {"type": "logical", "database": "shop"}}}), 0, 1);
        check(json!({"slots": {"x": {"type": "odd"}, "y": 7, "z": {"plugin": "a"}}}), 0, 3);
        check(json!({"slots": [1]}), 0, 1);
        check(json!({"ignore_slots": [{}, {"name": "a"}, 7]}), 1, 2);
        check(json!({"ignore_slots": {"name": "a"}, "member_slots_ttl": "soon"}), 0, 2);
        check(json!({"slots": null, "ignore_slots": null, "member_slots_ttl": null}), 0, 0);
        check(json!([]), 0, 0);
    }

    #[test]
    fn a_standby_cluster_is_one_with_somewhere_to_get_wal_from() {
        let check = |section: Value, follows: Option<(Option<(&str, u16)>, usize)>| {
            let (remote, warnings) = follows_from(&json!({"standby_cluster": section.clone()}));
            let found = remote.map(|remote| (remote.address.map(|a| (a.host, a.port)), warnings.len()));
            let wanted = follows.map(|(at, told)| (at.map(|(host, port)| (host.to_owned(), port)), told));
            assert_eq!(found, wanted, "{section}");
        };
        check(json!({"host": "a,b", "port": 6000}), Some((Some(("a,b", 6000)), 0)));
        check(json!({"host": "a", "create_replica_methods": ["basebackup"]}), Some((Some(("a", 5432)), 0)));
        check(json!({"host": "a", "create_replica_methods": ["barman"]}), Some((Some(("a", 5432)), 1)));
        check(json!({"restore_command": "cp"}), Some((None, 0)));
        check(json!({"port": 5432}), Some((None, 1)));
        check(json!({"host": "a", "port": "many"}), Some((None, 1)));
        for nothing in [json!({}), json!(null), json!({"host": ""}), json!({"port": 0}), json!("a")] {
            check(nothing, None);
        }
    }
}
