//! Settings from environment variables: `PATRONI_…` in Patroni's names, and the same with `TENURE_…`, which win.
//! A secret may come from a file instead, whose name stands in the variable with `_FILE` appended.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::check::{Findings, check_value};
use super::problem::{Problem, nearest};
use super::settings::{Kind, Setting, State, Table, variable};
use super::yaml::{self, Content, Node, Place};

/// The prefixes, the weaker one first.
pub const PREFIXES: [&str; 2] = ["PATRONI_", "TENURE_"];

/// A whole configuration as YAML, where no file is given.
pub const WHOLE: &str = "CONFIGURATION";

// Variables of Patroni's that have a short form, and of ours that are no settings.
const OLDER: [(&str, &str); 3] =
    [("LOGLEVEL", "log.level"), ("LOGFORMAT", "log.format"), ("LOG_DATEFMT", "log.dateformat")];
const NOT_SETTINGS: [&str; 6] = [
    "TENURE_BLESS",
    "TENURE_FUZZ_MINUTES",
    "TENURE_FUZZ_SEED",
    "TENURE_SIM_MINUTES",
    "TENURE_TEST_RUN",
    "TENURE_CONFIG",
];

/// Does this variable configure an agent? PostgreSQL must not see it.
pub fn is_ours(name: &str) -> bool {
    PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// The settings in the variables with one prefix. `read_file` fetches the text of a `_FILE`.
pub fn settings(
    variables: &BTreeMap<String, String>,
    prefix: &str,
    read_file: &dyn Fn(&str) -> Result<String, String>,
    findings: &mut Findings,
) -> Map<String, Value> {
    let mut settings = Map::new();
    for (name, text) in variables {
        let Some(suffix) = name.strip_prefix(prefix) else { continue };
        if text.is_empty() || suffix == WHOLE || NOT_SETTINGS.contains(&name.as_str()) {
            continue;
        }
        let place = Place { source: name.as_str().into(), at: None };
        let Some((row, from_file)) = row_of(suffix) else {
            unknown(name, suffix, prefix, &place, findings);
            continue;
        };
        let text = if from_file {
            match read_file(text) {
                // Editors and `echo` end a file with a line feed that is no part of the password.
                Ok(content) => content.trim_end_matches(['\n', '\r']).to_owned(),
                Err(why) => {
                    let message = format!("found {text:?}, wanted a readable file: {why}");
                    findings.errors.push(Problem::about(Some(place), row.path, message));
                    continue;
                }
            }
        } else {
            text.clone()
        };
        let node = match node_of(&text, row, &place) {
            Ok(node) => node,
            Err(problem) => {
                findings.errors.push(Problem { key: Some(row.path.to_owned()), ..problem });
                continue;
            }
        };
        if let Some(value) = check_value(&node, row, findings) {
            findings.places.insert(row.path.to_owned(), place);
            insert(&mut settings, row.path, value);
        }
    }
    settings
}

fn row_of(suffix: &str) -> Option<(&'static Setting, bool)> {
    let named = |suffix: &str| Table::Local.rows().find(|row| variable(row).as_deref() == Some(suffix));
    if let Some(row) = named(suffix) {
        return Some((row, false));
    }
    if let Some((_, path)) = OLDER.iter().find(|(older, _)| *older == suffix) {
        return Table::Local.find(path).map(|row| (row, false));
    }
    let row = named(suffix.strip_suffix("_FILE")?)?;
    (row.kind == Kind::Secret).then_some((row, true))
}

/// Lists and mappings are written as in YAML, or bare.
fn node_of(text: &str, row: &Setting, place: &Place) -> Result<Node, Problem> {
    let scalar = || Node {
        place: place.clone(),
        content: Content::Scalar { text: text.trim().to_owned(), plain: false },
    };
    let wrapped = match (row.kind, text.trim_start().as_bytes().first()) {
        (Kind::Words | Kind::Choices(_) | Kind::VirtualAddresses | Kind::LogFormat, Some(b'['))
        | (Kind::Texts, Some(b'{')) => text.to_owned(),
        (Kind::Words | Kind::Choices(_) | Kind::VirtualAddresses, _) => return Ok(scalar()),
        (Kind::Texts, _) => format!("{{{text}}}"),
        (Kind::Secret, _) => {
            let content = Content::Scalar { text: text.to_owned(), plain: false };
            return Ok(Node { place: place.clone(), content });
        }
        (
            Kind::Text
            | Kind::Name
            | Kind::KeyPart
            | Kind::Flag
            | Kind::Number { .. }
            | Kind::Seconds { .. }
            | Kind::Bytes { .. }
            | Kind::Mode
            | Kind::Choice(_)
            | Kind::Listen
            | Kind::Connect
            | Kind::Lines
            | Kind::Options
            | Kind::LogFormat
            | Kind::DateFormat
            | Kind::Anything
            | Kind::Dynamic,
            _,
        ) => return Ok(scalar()),
    };
    yaml::parse(&place.source, &wrapped)
}

fn unknown(name: &str, suffix: &str, prefix: &str, place: &Place, findings: &mut Findings) {
    // PATRONI_ZOOKEEPER_HOSTS and the like stand for whole sections.
    let section = suffix.split('_').next().unwrap_or(suffix).to_ascii_lowercase();
    if let Some(row) = Table::Local.find(&section).filter(|row| row.state == State::Unsafe) {
        let message = format!("this version cannot do this yet ({})", row.about);
        return findings.errors.push(Problem::about(Some(place.clone()), row.path, message));
    }
    let names: Vec<String> = Table::Local.rows().filter_map(variable).collect();
    let problem =
        Problem::at(place.clone(), "there is no such setting; the variable has no effect".to_owned());
    findings.warnings.push(match nearest(suffix, names.iter().map(String::as_str)) {
        Some(meant) => problem.hint(format!("did you mean {prefix}{meant} rather than {name}?")),
        None => problem,
    });
}

pub(super) fn insert(settings: &mut Map<String, Value>, path: &str, value: Value) {
    match path.split_once('.') {
        None => {
            settings.insert(path.to_owned(), value);
        }
        Some((section, rest)) => {
            let below = settings.entry(section).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(below) = below {
                insert(below, rest, value);
            }
        }
    }
}
