//! Layering: files in order, then systemd's credentials, then `PATRONI_…`, then `TENURE_…`. The later wins, setting by setting.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use figment::value::{Dict, Map as Profiles};
use figment::{Figment, Metadata, Profile, Provider};
use serde_json::{Map, Value};

use super::check::{Findings, check};
use super::problem::{Problem, Problems};
use super::settings::{Kind, Table};
use super::types::Config;
use super::yaml::{self, Content, Node, Place};
use super::{credentials, environment, whole};

/// Where a configuration is read from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Files, or directories of `*.yml` and `*.yaml` files.
    pub paths: Vec<PathBuf>,
    pub variables: BTreeMap<String, String>,
    /// Where systemd has put the unit's credentials.
    pub credentials: Option<PathBuf>,
}

#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    pub warnings: Vec<Problem>,
    /// Where each setting was given; none for what is as it is by itself.
    pub origins: BTreeMap<String, Place>,
}

/// One source's settings, after its check.
struct Layer {
    name: String,
    settings: Map<String, Value>,
}

const FILE_BYTES_MAX: u64 = 4 << 20;

impl Sources {
    /// The given files, this process's environment and its credentials.
    pub fn of_process(paths: Vec<PathBuf>) -> Sources {
        let text = |os: std::ffi::OsString| os.to_string_lossy().into_owned();
        let variables = std::env::vars_os().map(|(name, value)| (text(name), text(value)));
        Sources {
            paths,
            variables: variables.filter(|(name, _)| environment::is_ours(name)).collect(),
            credentials: std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from),
        }
    }
}

/// Read, check and unite everything.
pub fn load(sources: &Sources) -> Result<Loaded, Problems> {
    let mut findings = Findings::default();
    let (texts, variables) = texts_of(sources, &mut findings)?;
    let credentials = match &sources.credentials {
        Some(directory) => credentials::settings(directory, &mut findings),
        None => Map::new(),
    };
    unite(&texts, &variables, credentials, findings)
}

/// A text with its name, and the variables that count beside the texts.
pub(super) type Texts = (Vec<(String, String)>, BTreeMap<String, String>);

pub(super) fn texts_of(sources: &Sources, findings: &mut Findings) -> Result<Texts, Problems> {
    let mut texts = Vec::new();
    for path in files_of(&sources.paths)? {
        let text = read(&path).map_err(|why| unreadable(&path, &why))?;
        warn_of_readers(&path, &text, findings);
        texts.push((path.display().to_string(), text));
    }
    let mut variables = sources.variables.clone();
    if texts.is_empty() {
        // Patroni's rule: a whole configuration in one variable stands alone.
        for prefix in environment::PREFIXES {
            let name = format!("{prefix}{}", environment::WHOLE);
            if let Some(text) = variables.get(&name).filter(|text| !text.is_empty()).cloned() {
                texts = vec![(name, text)];
                variables.clear();
                break;
            }
        }
    }
    Ok((texts, variables))
}

/// The same from texts with their names, without looking at any configuration file.
pub fn load_texts(
    texts: &[(String, String)],
    variables: &BTreeMap<String, String>,
) -> Result<Loaded, Problems> {
    unite(texts, variables, Map::new(), Findings::default())
}

fn unite(
    texts: &[(String, String)],
    variables: &BTreeMap<String, String>,
    credentials: Map<String, Value>,
    mut findings: Findings,
) -> Result<Loaded, Problems> {
    let mut layers = Vec::new();
    for (name, text) in texts {
        match yaml::parse(name, text) {
            Ok(tree) => layers.push((name.clone(), check(&tree, Table::Local, &mut findings))),
            Err(problem) => findings.errors.push(problem),
        }
    }
    layers.push(("credentials".to_owned(), credentials));
    layers.extend(layers_of_environment(variables, &mut findings));
    let mut merged = merged_layers(layers).map_err(|why| unexpected(&why))?;
    let files: Vec<&str> = texts.iter().map(|(name, _)| name.as_str()).collect();
    whole::complete(&mut merged, &files, &mut findings);
    if !findings.errors.is_empty() {
        return Err(findings.errors);
    }
    let config: Config = serde_json::from_value(merged).map_err(|why| unexpected(&why.to_string()))?;
    Ok(Loaded { config, warnings: findings.warnings, origins: findings.places })
}

/// What the variables set, the weaker prefix first.
pub(super) fn layers_of_environment(
    variables: &BTreeMap<String, String>,
    findings: &mut Findings,
) -> Vec<(String, Map<String, Value>)> {
    let fetch = |path: &str| read(Path::new(path)).map_err(|why| why.to_string());
    let layer = |prefix| (format!("{prefix}*"), environment::settings(variables, prefix, &fetch, findings));
    environment::PREFIXES.map(layer).into()
}

/// All layers in one, the later winning.
pub(super) fn merged_layers(layers: Vec<(String, Map<String, Value>)>) -> Result<Value, String> {
    let mut figment = Figment::new();
    for (name, settings) in layers {
        figment = figment.merge(Layer { name, settings });
    }
    let merged: Value = figment.extract().map_err(|why| why.to_string())?;
    Ok(without_nulls(merged))
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name.clone())
    }

    fn data(&self) -> Result<Profiles<Profile, Dict>, figment::Error> {
        let value = figment::value::Value::serialize(&self.settings)?;
        Ok(Profile::Default.collect(value.into_dict().unwrap_or_default()))
    }
}

/// The table and the types disagree, which a test should have shown. Still nothing that may panic.
pub(super) fn unexpected(why: &str) -> Problems {
    Problem {
        place: None,
        key: None,
        message: format!("the settings cannot be understood: {why}"),
        hint: None,
    }
    .into()
}

/// A null takes away what an earlier layer has set. What a new cluster begins with is stored as it stands: there a slot
/// without a word is a physical one.
pub(super) fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.into_iter().filter(|(_, value)| !value.is_null());
            let kept = kept.map(|(key, value)| {
                let value = if key == "dcs" { value } else { without_nulls(value) };
                (key, value)
            });
            Value::Object(kept.collect())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => value,
    }
}

fn files_of(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Problems> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let entries = fs::read_dir(path).map_err(|why| unreadable(path, &why))?;
        let mut found = Vec::new();
        for entry in entries {
            let file = entry.map_err(|why| unreadable(path, &why))?.path();
            if file.extension().is_some_and(|kind| kind == "yml" || kind == "yaml") {
                found.push(file);
            }
        }
        if found.is_empty() {
            let place = Place { source: path.display().to_string().into(), at: None };
            let message = "there is no *.yml or *.yaml file in this directory".to_owned();
            return Err(Problem::at(place, message).into());
        }
        found.sort();
        files.extend(found);
    }
    Ok(files)
}

pub(super) fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    // One byte more than is allowed, so that too much is noticed and not cut off.
    fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    Ok(text)
}

fn unreadable(path: &Path, why: &std::io::Error) -> Problems {
    let place = Place { source: path.display().to_string().into(), at: None };
    Problem::at(place, format!("cannot be read: {why}")).into()
}

/// Passwords in a file that everybody may read are worth a word.
fn warn_of_readers(path: &Path, text: &str, findings: &mut Findings) {
    let readable = fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o004 != 0);
    let name = path.display().to_string();
    if readable && yaml::parse(&name, text).is_ok_and(|tree| holds_secret(&tree, "")) {
        let place = Place { source: name.as_str().into(), at: None };
        let problem =
            Problem::at(place, "holds passwords, and every user of this machine may read it".to_owned());
        findings.warnings.push(problem.hint(format!("chmod o-r {name}")));
    }
}

/// The files that hold secrets, of those that are read.
pub fn files_with_secrets(sources: &Sources) -> Vec<PathBuf> {
    let secret = |path: &PathBuf| {
        let name = path.display().to_string();
        read(path).is_ok_and(|text| yaml::parse(&name, &text).is_ok_and(|tree| holds_secret(&tree, "")))
    };
    files_of(&sources.paths).unwrap_or_default().into_iter().filter(secret).collect()
}

fn holds_secret(node: &Node, path: &str) -> bool {
    match &node.content {
        Content::Map(entries) => entries.iter().any(|entry| {
            let below = if path.is_empty() { entry.key.clone() } else { format!("{path}.{}", entry.key) };
            holds_secret(&entry.value, &below)
        }),
        Content::Scalar { .. } => {
            !node.is_null() && Table::Local.find(path).is_some_and(|row| row.kind == Kind::Secret)
        }
        Content::List(_) => false,
    }
}
