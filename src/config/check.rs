//! Holding a tree of settings against the table: every mistake is collected with its place, what is right becomes plain
//! JSON of known shape.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::problem::{Problem, Problems, nearest};
use super::settings::{Kind, LOCAL_ONLY, Setting, State, Table};
use super::values;
use super::yaml::{Content, Entry, Node, Place};

/// What came of checking: also where each setting stood, for complaints that need the whole.
#[derive(Debug, Default)]
pub struct Findings {
    pub errors: Problems,
    pub warnings: Vec<Problem>,
    pub places: BTreeMap<String, Place>,
}

/// Check the settings of one source. What is wrong is left out of the result.
pub fn check(tree: &Node, table: Table, findings: &mut Findings) -> Map<String, Value> {
    let mut checker = Checker { table, shown: "", methods: methods_of(tree), findings };
    checker.section(tree, "")
}

/// The same for settings that stand below another name, such as `bootstrap.dcs`.
fn check_below(tree: &Node, table: Table, shown: &str, findings: &mut Findings) {
    Checker { table, shown, methods: Vec::new(), findings }.section(tree, "");
}

/// Check one value against its row, as it comes from an environment variable.
pub fn check_value(node: &Node, row: &Setting, findings: &mut Findings) -> Option<Value> {
    Checker { table: Table::Local, shown: "", methods: Vec::new(), findings }.value(node, row)
}

struct Checker<'a> {
    table: Table,
    /// What stands before the paths in complaints.
    shown: &'a str,
    /// Names that other settings give to sections of their own.
    methods: Vec<String>,
    findings: &'a mut Findings,
}

impl Checker<'_> {
    fn section(&mut self, node: &Node, path: &str) -> Map<String, Value> {
        let mut values = Map::new();
        let entries = match &node.content {
            Content::Map(entries) => entries.as_slice(),
            // "tags:" with nothing below it is common.
            Content::Scalar { .. } if node.is_null() => &[],
            Content::Scalar { .. } | Content::List(_) => {
                let message = match (self.shown, path) {
                    ("", "") => "the file must be a mapping of settings".to_owned(),
                    _ => format!("found {}, wanted settings below it", found(node)),
                };
                self.error(&node.place, path, message, None);
                &[]
            }
        };
        for entry in entries {
            let child = join(path, &entry.key);
            self.findings.places.insert(join(self.shown, &child), entry.place.clone());
            if let Some(row) = self.table.find(&child) {
                if let Some(value) = self.value(&entry.value, row) {
                    values.insert(entry.key.clone(), value);
                }
            } else if self.table.is_section(&child) {
                let below = self.section(&entry.value, &child);
                values.insert(entry.key.clone(), Value::Object(below));
            } else if path == "tags" || self.is_method(entry, path) {
                values.insert(entry.key.clone(), entry.value.to_json());
            } else {
                self.unknown(entry, path, &child);
            }
        }
        values
    }

    fn value(&mut self, node: &Node, row: &Setting) -> Option<Value> {
        if node.is_null() {
            // Nothing, written out, takes away what an earlier file has set.
            return Some(Value::Null);
        }
        let value = match values::read(node, row.kind) {
            Ok(value) => value,
            Err(wanted) => {
                let found = if row.kind == Kind::Secret { "something else" } else { &found(node) };
                self.error(&node.place, row.path, format!("found {found}, wanted {wanted}"), None);
                return None;
            }
        };
        if let (Kind::Texts, Content::Map(entries)) = (row.kind, &node.content) {
            for entry in entries {
                self.findings.places.insert(join(row.path, &entry.key), entry.place.clone());
            }
        }
        if row.kind == Kind::Dynamic {
            check_below(node, Table::Dynamic, row.path, self.findings);
        }
        match row.state {
            State::Honoured | State::Moot => {}
            State::NotYet | State::Unsafe if values::is_off(&value, row) => {}
            State::NotYet => self.warn(
                &node.place,
                row.path,
                format!("has no effect in this version yet ({})", row.about),
                None,
            ),
            State::Unsafe => self.error(
                &node.place,
                row.path,
                format!("this version cannot do this yet ({})", row.about),
                Some(
                    "without it the cluster would not do what this file says; remove it if that is right"
                        .into(),
                ),
            ),
        }
        Some(value)
    }

    /// A section with the options of a method: named by a setting, or known by its command, since the setting may stand
    /// elsewhere.
    fn is_method(&self, entry: &Entry, section: &str) -> bool {
        let is_mapping = matches!(entry.value.content, Content::Map(_));
        let named = self.methods.contains(&entry.key) || entry.value.get("command").is_some();
        is_mapping && named && ["postgresql", "bootstrap"].contains(&section)
    }

    fn unknown(&mut self, entry: &Entry, section: &str, path: &str) {
        if self.table == Table::Local && Table::Dynamic.find(path).is_some() {
            let message = "has no effect here: it is the same for the whole cluster".to_owned();
            let hint =
                format!("a new cluster takes it from bootstrap.dcs.{path}, a running one from its /config");
            return self.warn(&entry.place, path, message, Some(hint));
        }
        if self.table == Table::Dynamic && LOCAL_ONLY.contains(&path) {
            let message = "differs from member to member and cannot be set for the whole cluster".to_owned();
            let hint = format!("set {path} in each member's own file");
            return self.error(&entry.place, path, message, Some(hint));
        }
        let meant = nearest(&entry.key, self.table.names_in(section)).map(|name| join(section, name));
        // The right word in the wrong section, most often by wrong indentation.
        let elsewhere =
            || self.table.rows().map(|row| row.path).find(|row| last(row) == entry.key).map(str::to_owned);
        let hint = meant.or_else(elsewhere).map(|name| format!("did you mean {}?", join(self.shown, &name)));
        let hint = hint.or_else(|| names_hint(self.table, section));
        self.error(&entry.place, path, "there is no such setting".to_owned(), hint);
    }

    fn error(&mut self, place: &Place, path: &str, message: String, hint: Option<String>) {
        let problem = self.problem(place, path, message, hint);
        self.findings.errors.push(problem);
    }

    fn warn(&mut self, place: &Place, path: &str, message: String, hint: Option<String>) {
        let problem = self.problem(place, path, message, hint);
        self.findings.warnings.push(problem);
    }

    fn problem(&self, place: &Place, path: &str, message: String, hint: Option<String>) -> Problem {
        let key = join(self.shown, path);
        Problem { place: Some(place.clone()), key: (!key.is_empty()).then_some(key), message, hint }
    }
}

/// A short section is best explained by naming all that may stand in it.
fn names_hint(table: Table, section: &str) -> Option<String> {
    let mut names: Vec<_> = table.names_in(section).collect();
    names.dedup();
    (!section.is_empty() && names.len() <= 12).then(|| format!("{section} may hold {}", names.join(", ")))
}

fn methods_of(tree: &Node) -> Vec<String> {
    let named = [
        ("bootstrap", "method"),
        ("postgresql", "create_replica_methods"),
        ("postgresql", "create_replica_method"),
    ];
    let mut methods = Vec::new();
    for (section, setting) in named {
        let Some(node) = tree.get(section).and_then(|section| section.get(setting)) else { continue };
        if let Ok(Value::Array(names)) = values::read(node, Kind::Words) {
            methods.extend(names.iter().filter_map(Value::as_str).map(str::to_owned));
        }
    }
    methods
}

/// How a value is shown in a complaint.
pub fn found(node: &Node) -> String {
    match &node.content {
        Content::List(_) => "a list".to_owned(),
        Content::Map(_) => "a mapping".to_owned(),
        Content::Scalar { .. } if node.is_null() => "nothing".to_owned(),
        Content::Scalar { text, .. } if text.chars().count() > 60 => {
            format!("{:?}…", text.chars().take(60).collect::<String>())
        }
        Content::Scalar { text, .. } => format!("{text:?}"),
    }
}

fn join(section: &str, name: &str) -> String {
    match (section, name) {
        ("", name) => name.to_owned(),
        (section, "") => section.to_owned(),
        (section, name) => format!("{section}.{name}"),
    }
}

fn last(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}
