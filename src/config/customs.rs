//! The settings by which operators put programs of their own in the place of ours or beside them: callbacks, hooks, ways to
//! make a replica or a cluster; and those that may be set for one member or for all.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::check::{Findings, check};
use super::load::without_nulls;
use super::problem::{Problem, nearest};
use super::settings::Table;
use super::yaml::{Node, Place};
use crate::model::{CommandLine, Occasion};

/// Part of the section `postgresql`. What is not set here may be set for the whole cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Customs {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub callbacks: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pre_promote: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before_stop: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub create_replica_methods: Option<Vec<String>>,
    /// Its older name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub create_replica_method: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub basebackup: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery_conf: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub custom_conf: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_base_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bin_name: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub krbsrvname: Option<String>,
    /// What else stands in the section: the options of the methods, under their names.
    #[serde(flatten)]
    pub sections: BTreeMap<String, Value>,
}

/// A command with options of its own, as a section describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Method {
    pub name: String,
    pub command: String,
    /// Everything but the command, as it is written on a command line.
    pub options: Vec<(String, String)>,
    /// The options that say how it is to be run.
    pub no_params: bool,
    pub keep_data: bool,
    pub no_leader: bool,
    pub keep_existing_recovery_conf: bool,
    pub recovery_conf: BTreeMap<String, String>,
}

pub const BUILT_IN_METHOD: &str = "basebackup";

impl Customs {
    /// This member's own settings above those of the cluster, each as a whole.
    #[must_use]
    pub fn over(&self, shared: Customs) -> Customs {
        let mut sections = shared.sections;
        sections.extend(self.sections.clone());
        Customs {
            callbacks: self.callbacks.clone().or(shared.callbacks),
            pre_promote: self.pre_promote.clone().or(shared.pre_promote),
            before_stop: self.before_stop.clone().or(shared.before_stop),
            create_replica_methods: self.create_replica_methods.clone().or(shared.create_replica_methods),
            create_replica_method: self.create_replica_method.clone().or(shared.create_replica_method),
            basebackup: self.basebackup.clone().or(shared.basebackup),
            recovery_conf: self.recovery_conf.clone().or(shared.recovery_conf),
            custom_conf: self.custom_conf.clone().or(shared.custom_conf),
            config_base_name: self.config_base_name.clone().or(shared.config_base_name),
            bin_name: self.bin_name.clone().or(shared.bin_name),
            krbsrvname: self.krbsrvname.clone().or(shared.krbsrvname),
            sections,
        }
    }

    /// How a replica is made, the first way first. `None` is pg_basebackup.
    pub fn replica_methods(&self) -> Vec<Option<Method>> {
        let listed = self.create_replica_methods.as_ref().or(self.create_replica_method.as_ref());
        let listed = listed.filter(|names| !names.is_empty());
        let Some(names) = listed else { return vec![None] };
        let method = |name: &String| match name.as_str() {
            BUILT_IN_METHOD => None,
            name => Some(Method::of(name, self.sections.get(name))),
        };
        names.iter().map(method).collect()
    }

    pub fn callback(&self, occasion: Occasion) -> Option<CommandLine> {
        command(self.callbacks.as_ref()?.get(occasion.name()))
    }
}

impl Method {
    pub fn of(name: &str, section: Option<&Value>) -> Method {
        let empty = Map::new();
        let section = section.and_then(Value::as_object).unwrap_or(&empty);
        let flag = |key: &str| section.get(key).is_some_and(is_true);
        let texts = |key: &str| {
            let map = section.get(key).and_then(Value::as_object).into_iter().flatten();
            map.filter(|(_, value)| !value.is_null())
                .map(|(name, value)| (name.clone(), text(value)))
                .collect()
        };
        let options = section.iter().filter(|(key, value)| *key != "command" && !value.is_object());
        Method {
            name: name.to_owned(),
            command: section.get("command").and_then(Value::as_str).unwrap_or(name).to_owned(),
            options: options.map(|(key, value)| (key.clone(), python_text(value))).collect(),
            no_params: flag("no_params"),
            keep_data: flag("keep_data"),
            no_leader: flag("no_leader"),
            keep_existing_recovery_conf: flag("keep_existing_recovery_conf"),
            recovery_conf: texts("recovery_conf"),
        }
    }
}

/// A command that was checked when it was read; what has become wrong since counts as none.
pub fn command(text: Option<&String>) -> Option<CommandLine> {
    text.filter(|text| !text.trim().is_empty())?.parse().ok()
}

/// What `/config` says, as far as it can be used, and what is wrong with the rest.
pub fn shared_customs(dynamic: &Value, place: &Place) -> (Customs, Vec<Problem>) {
    let Some(section) = dynamic.get("postgresql") else { return Default::default() };
    let only = Value::Object(Map::from_iter([("postgresql".to_owned(), section.clone())]));
    let mut findings = Findings::default();
    let checked = Value::Object(check(&Node::from_json(&only, place), Table::Dynamic, &mut findings));
    let section = without_nulls(checked).get("postgresql").cloned().unwrap_or_default();
    let customs: Customs = serde_json::from_value(section).unwrap_or_default();
    complain(&customs, &mut |key, message, hint| {
        findings.errors.push(Problem { hint, ..Problem::about(Some(place.clone()), key, message) });
    });
    let ours = |problem: &Problem| {
        let key = problem.key.as_deref().and_then(|key| key.strip_prefix("postgresql."));
        key.is_some_and(|key| !ELSEWHERE.iter().any(|other| key.starts_with(other)))
    };
    (customs, findings.errors.0.into_iter().filter(ours).collect())
}

/// These are read one by one, and complained of there.
const ELSEWHERE: [&str; 5] =
    ["use_pg_rewind", "use_slots", "pg_ctl_timeout", "remove_data_directory_on", "parameters"];

// These would take the copy somewhere else, or into a form that cannot be started.
const BASEBACKUP_BARRED: [&str; 16] = [
    "pgdata",
    "format",
    "wal-method",
    "xlog-method",
    "gzip",
    "version",
    "dbname",
    "host",
    "port",
    "username",
    "password",
    "write-recovery-conf",
    "no-sync",
    "manifest-only",
    "target",
    "incremental",
];

/// Tells what a value of the right kind still gets wrong: a key, what is wrong, and what to do.
pub fn complain(customs: &Customs, tell: &mut dyn FnMut(&str, String, Option<String>)) {
    let known = Occasion::ALL.map(Occasion::name);
    for (name, text) in customs.callbacks.iter().flatten() {
        let key = format!("postgresql.callbacks.{name}");
        if known.contains(&name.as_str()) {
            check_command(&key, Some(text), tell);
        } else {
            let meant = nearest(name, known).map(|name| format!("did you mean {name}?"));
            let hint = meant.unwrap_or_else(|| format!("there are {}", known.join(", ")));
            tell(&key, "there is no such callback".to_owned(), Some(hint));
        }
    }
    check_command("postgresql.pre_promote", customs.pre_promote.as_ref(), tell);
    check_command("postgresql.before_stop", customs.before_stop.as_ref(), tell);
    for method in customs.replica_methods().iter().flatten() {
        check_command(&format!("postgresql.{}.command", method.name), Some(&method.command), tell);
    }
    for option in customs.basebackup.iter().flatten() {
        let name = option.split('=').next().unwrap_or(option);
        let packs_here = name == "compress" && !option.starts_with("compress=server");
        if BASEBACKUP_BARRED.contains(&name) || packs_here {
            let message = format!("the option {name} cannot be given to pg_basebackup here");
            let hint = if packs_here {
                "only a compression on the server, such as server-gzip"
            } else {
                "remove it"
            };
            tell("postgresql.basebackup", message, Some(hint.to_owned()));
        }
    }
    for (key, name) in [("config_base_name", customs.config_base_name.as_ref())]
        .into_iter()
        .chain(customs.bin_name.iter().flatten().map(|(key, name)| (key.as_str(), Some(name))))
    {
        if name.is_some_and(|name| name.is_empty() || name.contains('/')) {
            let key = if key == "config_base_name" { key.to_owned() } else { format!("bin_name.{key}") };
            tell(
                &format!("postgresql.{key}"),
                "wanted the name of a file, without a directory".to_owned(),
                None,
            );
        }
    }
}

pub fn check_command(key: &str, text: Option<&String>, tell: &mut dyn FnMut(&str, String, Option<String>)) {
    let text = text.filter(|text| !text.trim().is_empty());
    if let Some(Err(why)) = text.map(|text| text.parse::<CommandLine>()) {
        tell(key, format!("cannot be read as a command: {why}"), None);
    }
}

fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(number) => number.as_i64() != Some(0),
        Value::String(text) => super::values::flag(text).unwrap_or(!text.is_empty()),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// As Patroni writes a value on a command line: Python's words.
fn python_text(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::String(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => text(value),
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            value.to_string()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shared(postgresql: &Value) -> (Customs, Vec<String>) {
        let place = Place { source: "/config".into(), at: None };
        let (customs, problems) = shared_customs(&json!({ "postgresql": postgresql }), &place);
        (customs, problems.iter().map(Problem::to_string).collect())
    }

    #[test]
    fn a_method_is_a_command_with_its_options_in_pythons_words() {
        let (customs, problems) = shared(&json!({
            "create_replica_methods": "pgbackrest, basebackup",
            "pgbackrest": {"command": "/bin/restore 'a b'", "no_leader": true, "keep_data": "on", "jobs": 4},
            "basebackup": ["verbose", {"max-rate": "10M"}],
        }));
        assert_eq!(problems, [""; 0]);
        let methods = customs.replica_methods();
        let [Some(method), None] = &methods[..] else { panic!("{methods:?}") };
        assert!(method.no_leader && method.keep_data && !method.no_params);
        let options: Vec<String> =
            method.options.iter().map(|(key, value)| format!("--{key}={value}")).collect();
        assert_eq!(options, ["--jobs=4", "--keep_data=on", "--no_leader=True"]);
        assert_eq!(
            customs.basebackup.as_deref(),
            Some(&["verbose".to_owned(), "max-rate=10M".to_owned()][..])
        );
        assert_eq!(Customs::default().replica_methods(), [None]);
    }

    #[test]
    fn a_members_own_setting_replaces_the_shared_one_as_a_whole() {
        let (cluster, _) = shared(&json!({"callbacks": {"on_start": "/a"}, "pre_promote": "/p"}));
        let own = Customs {
            callbacks: Some(BTreeMap::from([("on_stop".to_owned(), "/b c".to_owned())])),
            ..Customs::default()
        };
        let both = own.over(cluster);
        assert_eq!(both.callback(Occasion::Start), None);
        assert_eq!(both.callback(Occasion::Stop).expect("ours").arguments(), ["c"]);
        assert_eq!(both.pre_promote.as_deref(), Some("/p"));
    }

    #[test]
    fn what_cannot_be_carried_out_is_told_by_name() {
        let (_, problems) = shared(&json!({
            "callbacks": {"on_roll_change": "/x", "on_stop": "'x"},
            "basebackup": {"pgdata": "/x", "compress": "gzip"},
            "bin_name": {"pg_ctl": "/usr/bin/x"},
            "lisetn": 1,
        }));
        assert_eq!(
            problems,
            [
                "/config: postgresql.lisetn: there is no such setting",
                "/config: postgresql.callbacks.on_roll_change: there is no such callback",
                "/config: postgresql.callbacks.on_stop: cannot be read as a command: a quote is not closed",
                "/config: postgresql.basebackup: the option compress cannot be given to pg_basebackup here",
                "/config: postgresql.basebackup: the option pgdata cannot be given to pg_basebackup here",
                "/config: postgresql.bin_name.pg_ctl: wanted the name of a file, without a directory",
            ]
        );
    }
}
