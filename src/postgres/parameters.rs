//! The parameters that PostgreSQL is run with: the operator's, and those that replication depends on with their floors.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::control::StandbyFloors;
use super::settings::InstanceSettings;

/// What is to be in force, and what had to be changed for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Effective {
    pub parameters: BTreeMap<String, String>,
    /// Sentences for the operator.
    pub complaints: Vec<String>,
}

/// Those that must be the same in the file and in force, whatever ALTER SYSTEM says: they go on the command line too.
const ENFORCED: &[&str] = &[
    "listen_addresses",
    "port",
    "cluster_name",
    "wal_level",
    "hot_standby",
    "max_connections",
    "max_wal_senders",
    "max_prepared_transactions",
    "max_locks_per_transaction",
    "track_commit_timestamp",
    "max_replication_slots",
    "max_worker_processes",
    "wal_log_hints",
];

/// After a crash of one of its processes.
pub(super) const COMES_BACK: &str = "restart_after_crash";

struct Controlled {
    name: &'static str,
    default: &'static str,
    accepts: Accepts,
}

#[derive(Clone, Copy)]
enum Accepts {
    OnlyDefault,
    WalLevel,
    AtLeast(u64),
    MegabytesAtLeast(u64),
    Switch,
}

const CONTROLLED: &[Controlled] = &[
    Controlled { name: "hot_standby", default: "on", accepts: Accepts::OnlyDefault },
    Controlled { name: "max_connections", default: "100", accepts: Accepts::AtLeast(25) },
    Controlled { name: "max_locks_per_transaction", default: "64", accepts: Accepts::AtLeast(32) },
    Controlled { name: "max_prepared_transactions", default: "0", accepts: Accepts::AtLeast(0) },
    Controlled { name: "max_replication_slots", default: "10", accepts: Accepts::AtLeast(4) },
    Controlled { name: "max_wal_senders", default: "10", accepts: Accepts::AtLeast(3) },
    Controlled { name: "max_worker_processes", default: "8", accepts: Accepts::AtLeast(2) },
    Controlled { name: "track_commit_timestamp", default: "off", accepts: Accepts::Switch },
    Controlled { name: "wal_keep_size", default: "128MB", accepts: Accepts::MegabytesAtLeast(16) },
    Controlled { name: "wal_level", default: "replica", accepts: Accepts::WalLevel },
    Controlled { name: "wal_log_hints", default: "on", accepts: Accepts::Switch },
];

/// A standby must not have less than `floors`.
pub(super) fn effective(settings: &InstanceSettings, floors: Option<&StandbyFloors>) -> Effective {
    let mut effective = Effective { parameters: settings.parameters.clone(), complaints: Vec::new() };
    translate_old_names(&mut effective.parameters);
    for controlled in CONTROLLED {
        let value = accepted(controlled, &mut effective);
        effective.parameters.insert(controlled.name.to_owned(), value);
    }
    for (name, floor) in floors.iter().flat_map(|floors| &floors.0) {
        let wanted = effective.parameters.get(*name).and_then(|value| value.trim().parse::<u64>().ok());
        if wanted.is_some_and(|wanted| wanted < *floor) {
            effective.complaints.push(format!(
                "{name} stays at {floor} until the primary's WAL asks for less: a standby cannot run with fewer"
            ));
            effective.parameters.insert((*name).to_owned(), floor.to_string());
        }
    }
    if settings.gated {
        let set = effective.parameters.insert(COMES_BACK.to_owned(), "off".to_owned());
        if set.is_some_and(|set| !same_value(&set, "off")) {
            let why = "a primary that comes back by itself would let clients in at once";
            effective
                .complaints
                .push(format!("{COMES_BACK} stays off as long as synchronous_gate is on: {why}"));
        }
    }
    let socket_dir = settings.socket_dir.as_ref().map(|directory| directory.display().to_string());
    if let Some(directory) = socket_dir {
        effective.parameters.entry("unix_socket_directories".to_owned()).or_insert(directory);
    }
    let fixed = [
        ("listen_addresses", settings.listen.clone()),
        ("port", settings.port.to_string()),
        ("cluster_name", settings.scope.clone()),
    ];
    effective.parameters.extend(fixed.map(|(name, value)| (name.to_owned(), value)));
    effective
}

/// The part of the parameters that goes on the command line.
pub(super) fn enforced(parameters: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let enforced = ENFORCED.iter().filter_map(|name| parameters.get_key_value(*name));
    enforced.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Do two spellings of a parameter's value mean the same?
pub(super) fn same_value(one: &str, other: &str) -> bool {
    let (one, other) = (one.trim(), other.trim());
    let level = |text: &str| if text == "hot_standby" { "replica".to_owned() } else { text.to_owned() };
    match (switch(one), switch(other), one.parse::<u64>(), other.parse::<u64>()) {
        (_, _, Ok(one), Ok(other)) => one == other,
        (Some(one), Some(other), _, _) => one == other,
        _ => level(one) == level(other),
    }
}

/// What stands on the command line PostgreSQL does not count as pending, so it is compared here.
pub(super) fn pending_restart(
    settings: &InstanceSettings,
    counted: Option<&Value>,
    in_force: &BTreeMap<String, String>,
) -> Option<Value> {
    let mut pending: Map<String, Value> = match counted {
        Some(Value::Object(pending)) => pending.clone(),
        Some(_) | None => Map::new(),
    };
    for (name, wanted) in enforced(&effective(settings, None).parameters) {
        if let Some(present) = in_force.get(&name).filter(|present| !same_value(present, &wanted)) {
            pending.insert(name, json!({ "old_value": present, "new_value": wanted }));
        }
    }
    (!pending.is_empty()).then_some(Value::Object(pending))
}

fn accepted(controlled: &Controlled, effective: &mut Effective) -> String {
    let default = controlled.default.to_owned();
    let Some(wanted) = effective.parameters.get(controlled.name) else { return default };
    let wanted = wanted.trim();
    let accepted = match controlled.accepts {
        Accepts::OnlyDefault => same_value(wanted, controlled.default).then(|| default.clone()),
        Accepts::WalLevel => match wanted.to_ascii_lowercase().as_str() {
            "hot_standby" | "replica" => Some("replica".to_owned()),
            "logical" => Some("logical".to_owned()),
            _ => None,
        },
        Accepts::AtLeast(least) => {
            wanted.parse::<u64>().is_ok_and(|number| least <= number).then(|| wanted.to_owned())
        }
        Accepts::MegabytesAtLeast(least) => {
            megabytes(wanted).is_some_and(|size| least <= size).then(|| wanted.to_owned())
        }
        Accepts::Switch => switch(wanted).map(|on| if on { "on" } else { "off" }.to_owned()),
    };
    accepted.unwrap_or_else(|| {
        let name = controlled.name;
        effective
            .complaints
            .push(format!("postgresql parameter {name}={wanted} failed validation, defaulting to {default}"));
        default
    })
}

/// Before PostgreSQL 13 what to keep was counted in segments.
fn translate_old_names(parameters: &mut BTreeMap<String, String>) {
    if let Some(segments) = parameters.remove("wal_keep_segments")
        && let Ok(segments) = segments.trim().parse::<u64>()
    {
        let size = format!("{}MB", segments.saturating_mul(16));
        parameters.entry("wal_keep_size".to_owned()).or_insert(size);
    }
}

fn megabytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.trim().parse().ok()?;
    match text[digits.len()..].trim() {
        "" | "MB" => Some(number),
        "kB" => Some(number / 1024),
        "GB" => number.checked_mul(1 << 10),
        "TB" => number.checked_mul(1 << 20),
        _ => None,
    }
}

fn switch(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" | "1" | "t" | "y" => Some(true),
        "off" | "false" | "no" | "0" | "f" | "n" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::model::Address;

    fn settings(parameters: &[(&str, &str)]) -> InstanceSettings {
        let address = Address { host: "db1".to_owned(), port: 5432 };
        let name = "db1".parse().expect("a good name");
        let parameters = parameters.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        InstanceSettings {
            parameters,
            ..InstanceSettings::new(name, "demo", PathBuf::from("/data"), address)
        }
    }

    #[test]
    fn what_replication_needs_cannot_be_switched_off() {
        let check = |name: &str, wanted: &str, got: &str| {
            let effective = effective(&settings(&[(name, wanted)]), None);
            assert_eq!(effective.parameters[name], got, "{name}={wanted}");
            assert_eq!(effective.complaints.is_empty(), same_value(wanted, got), "{name}={wanted}");
        };
        check("hot_standby", "off", "on");
        check("max_connections", "24", "100");
        check("max_connections", "25", "25");
        check("max_connections", "many", "100");
        check("wal_level", "minimal", "replica");
        check("wal_level", "hot_standby", "replica");
        check("wal_level", "logical", "logical");
        check("wal_keep_size", "15", "128MB");
        check("wal_keep_size", "1GB", "1GB");
        check("wal_log_hints", "false", "off");
    }

    #[test]
    fn a_gated_postgresql_does_not_come_back_by_itself() {
        let check = |parameters: &[(&str, &str)], complaints: usize| {
            let gated = InstanceSettings { gated: true, ..settings(parameters) };
            let effective = effective(&gated, None);
            assert_eq!(
                (&*effective.parameters["restart_after_crash"], effective.complaints.len()),
                ("off", complaints)
            );
        };
        check(&[], 0);
        check(&[("restart_after_crash", "false")], 0);
        check(&[("restart_after_crash", "on")], 1);
        assert!(!effective(&settings(&[]), None).parameters.contains_key("restart_after_crash"));
    }

    #[test]
    fn where_it_listens_is_not_a_parameter() {
        let effective = effective(&settings(&[("port", "1"), ("listen_addresses", "x")]), None);
        assert_eq!(
            (&*effective.parameters["port"], &*effective.parameters["listen_addresses"]),
            ("5432", "db1")
        );
    }

    #[test]
    fn segments_to_keep_become_a_size() {
        let effective = effective(&settings(&[("wal_keep_segments", "8")]), None);
        assert_eq!(effective.parameters["wal_keep_size"], "128MB");
        assert!(!effective.parameters.contains_key("wal_keep_segments"));
    }

    #[test]
    fn a_standby_has_at_least_what_its_primary_had() {
        let floors = StandbyFloors(BTreeMap::from([("max_connections", 200), ("max_wal_senders", 5)]));
        let effective = effective(&settings(&[]), Some(&floors));
        assert_eq!(effective.parameters["max_connections"], "200");
        assert_eq!(effective.parameters["max_wal_senders"], "10");
        assert_eq!(effective.complaints.len(), 1);
    }
}
