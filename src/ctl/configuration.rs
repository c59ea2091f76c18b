//! `show-config` and `edit-config`: the settings that the cluster's members share, in the store.

use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Map, Value};

use super::access::Access;
use super::console::{Lent, confirm, echo};
use super::document::Document;
use super::{caller, diff, yaml};
use crate::config::parse_yaml;
use crate::store::{Expect, StoreError};

#[derive(Debug, clap::Args)]
pub struct ShowArguments {
    /// The cluster [default: the configured scope]
    cluster_name: Option<String>,
}

#[derive(Debug, clap::Args)]
pub struct EditArguments {
    /// The cluster [default: the configured scope]
    cluster_name: Option<String>,
    /// Do not show the changes
    #[arg(short, long)]
    quiet: bool,
    /// Set one setting; may be given several times
    #[arg(short, long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Set one PostgreSQL parameter, short for -s postgresql.parameters.…; may be given several times
    #[arg(short, long = "pg", value_name = "NAME=VALUE")]
    pg: Vec<String>,
    /// Merge a file into the configuration; - is stdin
    #[arg(long, value_name = "FILE")]
    apply: Option<String>,
    /// Replace the whole configuration by a file; - is stdin
    #[arg(long, value_name = "FILE")]
    replace: Option<String>,
    /// Why, for config-history
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Do not ask for confirmation at any point
    #[arg(long)]
    force: bool,
}

/// A file of settings is a few kilobytes.
const FILE_BYTES_MAX: u64 = 4 << 20;

pub async fn show(access: &Access, arguments: &ShowArguments) -> Result<()> {
    let scope = access.scope(arguments.cluster_name.as_deref())?;
    match access.read(&scope).await?.config {
        Some(config) => echo(text_of(&config.value)),
        None => Ok(()),
    }
}

pub async fn edit(access: &Access, arguments: &EditArguments) -> Result<()> {
    let scope = access.scope(arguments.cluster_name.as_deref())?;
    let store = access.store(&scope)?;
    let cluster = access.read_from(&store, &scope).await?;
    let Some(config) = cluster.config else { bail!("The config key does not exist in the cluster {scope}") };
    let before = text_of(&config.value);
    let (after, changed) = match changed_by_arguments(&config.value, arguments)? {
        Some(changed) => (text_of(&changed), changed),
        None => edited(&before, &scope).await?,
    };
    if changed == config.value {
        return if arguments.quiet { Ok(()) } else { echo("Not changed") };
    }
    if !arguments.quiet {
        show_difference(&before, &after)?;
    }
    let from_stdin = [&arguments.apply, &arguments.replace].into_iter().flatten().any(|file| file == "-");
    if from_stdin && !arguments.force {
        return echo("Use --force option to apply changes");
    }
    if !arguments.force && !confirm("Apply these changes?").await? {
        return Ok(());
    }
    let note = caller::note(arguments.reason.as_deref());
    let expect = Expect::Version(config.version);
    match store.change_config(&changed, expect, &note, access.store_patience()).await {
        Ok(_) => echo("Configuration changed"),
        Err(StoreError::Conflict { .. }) => bail!("Config modification aborted due to concurrent changes"),
        Err(error) => Err(error).with_context(|| access.named_store()),
    }
}

fn text_of(config: &Value) -> String {
    yaml::block(&Document::from(config))
}

/// None: the arguments ask for nothing, so the operator wants to edit.
fn changed_by_arguments(config: &Value, arguments: &EditArguments) -> Result<Option<Value>> {
    let mut changed = config.clone();
    let mut asked = false;
    if let Some(file) = &arguments.replace {
        changed = Value::Object(Map::new());
        patch(&mut changed, &read_file(file)?);
        asked = true;
    }
    if let Some(file) = &arguments.apply {
        patch(&mut changed, &read_file(file)?);
        asked = true;
    }
    let parameters = arguments.pg.iter().map(|pair| format!("postgresql.parameters.{}", pair.trim_start()));
    for pair in arguments.set.iter().cloned().chain(parameters) {
        set(&mut changed, &pair)?;
        asked = true;
    }
    Ok(asked.then_some(changed))
}

fn read_file(file: &str) -> Result<Value> {
    let mut text = String::new();
    let read = if file == "-" {
        io::stdin().lock().take(FILE_BYTES_MAX).read_to_string(&mut text)
    } else {
        std::fs::File::open(file).and_then(|open| open.take(FILE_BYTES_MAX).read_to_string(&mut text))
    };
    read.with_context(|| format!("read {file}"))?;
    let value = value_of(file, &text)?;
    if !value.is_object() {
        bail!("{file}: settings are wanted, such as ttl: 30");
    }
    Ok(value)
}

fn value_of(source: &str, text: &str) -> Result<Value> {
    Ok(parse_yaml(source, text).map_err(|problem| anyhow!("{problem}"))?.to_json())
}

/// As the REST API merges: null takes away what is there, mappings merge into mappings, everything else replaces.
fn patch(config: &mut Value, changes: &Value) {
    let (Some(config), Some(changes)) = (config.as_object_mut(), changes.as_object()) else { return };
    for (name, change) in changes {
        match (config.get_mut(name), change) {
            (_, Value::Null) => {
                config.remove(name);
            }
            (Some(present @ Value::Object(_)), Value::Object(_)) => patch(present, change),
            // What reads the same is the same: '100' and 100 are one setting.
            (Some(present), change) if !change.is_object() && shown(present) == shown(change) => {}
            (_, change) => {
                config.insert(name.clone(), change.clone());
            }
        }
    }
}

fn shown(value: &Value) -> String {
    Document::from(value).shown()
}

/// `a.b=value`, the value as in YAML; null takes it away, and with it what is then empty.
fn set(config: &mut Value, pair: &str) -> Result<()> {
    let Some((path, value)) = pair.split_once('=') else { bail!("Invalid parameter setting {pair}") };
    let value = scalar_or_more(pair, value)?;
    let path: Vec<&str> = path.trim().split('.').collect();
    // A parameter's own name may have dots in it.
    let joined;
    let path = match &path[..] {
        ["postgresql", "parameters", first, rest @ ..] if !rest.is_empty() => {
            joined = [&[*first], rest].concat().join(".");
            vec!["postgresql", "parameters", joined.as_str()]
        }
        _ => path,
    };
    if !config.is_object() {
        *config = Value::Object(Map::new());
    }
    put(config, &path, value);
    Ok(())
}

/// An empty value is none, not an empty mapping.
fn scalar_or_more(source: &str, text: &str) -> Result<Value> {
    if text.trim().is_empty() {
        Ok(Value::Null)
    } else {
        value_of(source, text).map(|value| none_of(value, text))
    }
}

/// The reader of whole files takes a null for an empty file.
fn none_of(value: Value, text: &str) -> Value {
    let empty = value.as_object().is_some_and(Map::is_empty);
    if empty && !text.contains('{') { Value::Null } else { value }
}

fn put(config: &mut Value, path: &[&str], value: Value) {
    let Some(map) = config.as_object_mut() else { return };
    match path {
        [] => {}
        [name] => {
            if value.is_null() {
                map.remove(*name);
            } else {
                map.insert((*name).to_owned(), value);
            }
        }
        [name, rest @ ..] => {
            let below = map.entry(*name).or_insert_with(|| Value::Object(Map::new()));
            if !below.is_object() {
                *below = Value::Object(Map::new());
            }
            put(below, rest, value);
            if below.as_object().is_some_and(Map::is_empty) {
                map.remove(*name);
            }
        }
    }
}

/// What the operator makes of the text: as it was left, and what it means.
async fn edited(before: &str, scope: &str) -> Result<(String, Value)> {
    let prefix = format!("{}-config-", scope.replace('/', "_"));
    let mut file = EditedFile::create(&prefix).context("make a file to edit")?;
    file.write(before).context("write the file to edit")?;
    let status = {
        let _lent = Lent::now();
        editor(&file.path)?.status().await.context("start the editor")?
    };
    if !status.success() {
        bail!("Editor exited with return code {}", status.code().unwrap_or(-1));
    }
    let after = std::fs::read_to_string(&file.path).context("read the edited file")?;
    let changed = value_of("the edited configuration", &after)?;
    if !changed.is_object() {
        bail!("the edited configuration is no mapping of settings; nothing was changed");
    }
    Ok((after, changed))
}

/// `$EDITOR` may carry arguments of its own.
fn editor(path: &Path) -> Result<tokio::process::Command> {
    if let Some(editor) = std::env::var_os("EDITOR").filter(|editor| !editor.is_empty()) {
        let mut command = tokio::process::Command::new("sh");
        command.arg("-c").arg("eval \"$EDITOR\" '\"$1\"'").arg("sh").arg(path).env("EDITOR", editor);
        return Ok(command);
    }
    let directories = std::env::var_os("PATH").unwrap_or_default();
    let directories: Vec<_> = std::env::split_paths(&directories).collect();
    for name in ["editor", "vi"] {
        if let Some(program) = directories.iter().map(|directory| directory.join(name)).find(|p| p.is_file())
        {
            let mut command = tokio::process::Command::new(program);
            command.arg(path);
            return Ok(command);
        }
    }
    bail!("EDITOR environment variable is not set. editor or vi are not available")
}

/// Readable by us alone, and gone when it is dropped.
struct EditedFile {
    path: std::path::PathBuf,
    file: std::fs::File,
}

impl EditedFile {
    fn create(prefix: &str) -> io::Result<EditedFile> {
        use std::os::unix::fs::OpenOptionsExt;
        let name =
            format!("{prefix}{}-{}.yaml", std::process::id(), super::time::now().timestamp().as_nanosecond());
        let path = std::env::temp_dir().join(name);
        let file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(EditedFile { path, file })
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        self.file.write_all(text.as_bytes())?;
        self.file.flush()
    }
}

impl Drop for EditedFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn show_difference(before: &str, after: &str) -> Result<()> {
    let coloured = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    for line in diff::unified(before, after) {
        let colour = match line.as_bytes().first() {
            Some(b'+') => "\x1b[32m",
            Some(b'-') => "\x1b[31m",
            Some(b'@') => "\x1b[36m",
            Some(_) | None => "",
        };
        if coloured && !colour.is_empty() { echo(format!("{colour}{line}\x1b[0m"))? } else { echo(line)? }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn after(config: Value, pairs: &[&str]) -> Value {
        let mut config = config;
        for pair in pairs {
            set(&mut config, pair).unwrap_or_else(|why| panic!("{pair}: {why}"));
        }
        config
    }

    #[test]
    fn a_pair_sets_what_its_path_names() {
        let config = json!({"ttl": 30, "postgresql": {"parameters": {"a.b": "1", "wal_level": "logical"}}});
        assert_eq!(
            after(
                config.clone(),
                &["ttl=20", "pause=on", "postgresql.parameters.auto_explain.log=off", "x.y.z=[1, 'a']"]
            ),
            json!({"ttl": 20, "pause": true, "x": {"y": {"z": [1, "a"]}},
                   "postgresql": {"parameters": {"a.b": "1", "wal_level": "logical", "auto_explain.log": false}}})
        );
        assert_eq!(
            after(
                config.clone(),
                &["postgresql.parameters.a.b=null", "postgresql.parameters.wal_level=", "ttl=~"]
            ),
            json!({})
        );
        assert_eq!(after(config, &["ttl.x=1", "slots={}"])["ttl"], json!({"x": 1}));
        assert!(set(&mut json!({}), "ttl").is_err());
    }

    #[test]
    fn a_file_is_merged_or_replaces() {
        let mut config =
            json!({"ttl": 30, "postgresql": {"use_slots": true, "parameters": {"a": 1, "c": "3"}}});
        let changes = json!({"ttl": null, "x": null, "postgresql": {"parameters": {"a": null, "b": 2, "c": 3}}, "slots": {"s": null}});
        patch(&mut config, &changes);
        assert_eq!(
            config,
            json!({"postgresql": {"use_slots": true, "parameters": {"b": 2, "c": "3"}}, "slots": {"s": null}})
        );
    }
}
