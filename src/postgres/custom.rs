//! Programs of the operator's: hooks, and commands that make a data directory. They run as PostgreSQL's user, are waited
//! for within bounds, and are killed with everything that they have started when they take too long or lose their reason.

use std::path::Path;

use tokio::process::Command;

use super::command::{Outcome, prepared, run_with_descendants};
use super::conninfo;
use super::error::{Error, Trying};
use super::files::{make_private_directory, remove_if_there};
use super::pgpass::PassFile;
use super::programs::data_major;
use super::settings::{CustomMethod, InstanceSettings};
use crate::model::{Address, CommandLine, Span};

/// Lines of a program's output that are told in the log; the last ones.
const LINES_TOLD: usize = 20;

/// A hook that was run. Its failure is an error with its last words.
pub async fn run_hook(
    settings: &InstanceSettings,
    name: &str,
    line: &CommandLine,
    arguments: &[&str],
    patience: Span,
) -> Result<(), Error> {
    let mut command = prepared_line(settings, line)?;
    command.args(arguments);
    ran_well(&format!("run {name}"), name, command, patience).await
}

/// Before PostgreSQL is told to stop. That it fails, or takes longer than there is time, keeps nobody from stopping.
pub(super) async fn before_stop(settings: &InstanceSettings, patience: Span) {
    if let Some(line) = &settings.hooks.before_stop
        && let Err(error) = run_hook(settings, "before_stop", line, &[], patience).await
    {
        tracing::warn!("{error}; PostgreSQL is stopped all the same");
    }
}

/// Has a method of the operator's make a copy of the cluster's data.
pub(super) async fn make_replica(
    settings: &InstanceSettings,
    method: &CustomMethod,
    source: Option<&Address>,
    patience: Span,
) -> Result<(), Error> {
    let mut command = prepared_line(settings, &method.command)?;
    // Without these, the options that are ours are not the command's.
    let ours = |name: &str| matches!(name, "no_params" | "no_leader" | "keep_data");
    let options = method.options.iter().filter(|(name, _)| !method.no_params || !ours(name));
    command.args(options.map(|(name, value)| format!("--{name}={value}")));
    let passfile = match source {
        Some(source) => Some(PassFile::write(settings, "clone", source, &settings.replication)?),
        None => None,
    };
    let passfile_name = passfile.as_ref().map(|file| file.path().display().to_string()).unwrap_or_default();
    if !method.no_params {
        let application =
            [("dbname", settings.database.as_str()), ("application_name", settings.name.as_str())];
        let connstring = source
            .map(|source| conninfo::to_member(&settings.replication, source, &passfile_name, &application));
        command.arg(format!("--scope={}", settings.scope)).arg("--role=replica");
        command.arg(format!("--datadir={}", settings.data_dir.display()));
        command.arg(format!("--connstring={}", connstring.unwrap_or_default()));
    }
    if let Some(passfile) = &passfile {
        command.env("PGPASSFILE", passfile.path());
    }
    make_data(settings, method, command, patience).await
}

/// Has a method of the operator's make the data of a new cluster.
pub(super) async fn make_cluster(
    settings: &InstanceSettings,
    method: &CustomMethod,
    patience: Span,
) -> Result<(), Error> {
    let mut command = prepared_line(settings, &method.command)?;
    if !method.no_params {
        command.arg(format!("--scope={}", settings.scope));
        command.arg(format!("--datadir={}", settings.data_dir.display()));
    }
    let ours = ["no_params", "keep_existing_recovery_conf", "recovery_conf", "scope", "datadir"];
    let options = method.options.iter().filter(|(name, _)| !ours.contains(&name.as_str()));
    command.args(options.map(|(name, value)| format!("--{name}={value}")));
    make_data(settings, method, command, patience).await
}

async fn make_data(
    settings: &InstanceSettings,
    method: &CustomMethod,
    command: Command,
    patience: Span,
) -> Result<(), Error> {
    let (what, data_dir) = (format!("make the data by {}", method.name), &settings.data_dir);
    if !data_dir.exists() {
        make_private_directory(data_dir, settings.identity()?)?;
    }
    ran_well(&what, &method.name, command, patience).await?;
    if data_major(data_dir).is_none() {
        let why = format!("it has left no data of PostgreSQL's in {}", data_dir.display());
        return Err(Error::failed(what, why));
    }
    // What a tool may leave behind to have a standby promoted at once.
    remove_if_there(&data_dir.join("promote")).map(drop).trying(|| what)
}

fn prepared_line(settings: &InstanceSettings, line: &CommandLine) -> Result<Command, Error> {
    let mut command = prepared(Path::new(line.program()), settings.identity()?);
    command.args(line.arguments());
    Ok(command)
}

async fn ran_well(what: &str, name: &str, command: Command, patience: Span) -> Result<(), Error> {
    let outcome = run_with_descendants(what, command, patience).await?;
    tell(name, &outcome);
    if outcome.status.success() { Ok(()) } else { Err(Error::failed(what, outcome.complaint())) }
}

fn tell(name: &str, outcome: &Outcome) {
    let lines: Vec<&str> = outcome.stdout.lines().chain(outcome.stderr.lines()).collect();
    for line in &lines[lines.len().saturating_sub(LINES_TOLD)..] {
        tracing::info!(program = name, "{line}");
    }
    tracing::debug!(program = name, "ended with {}", outcome.status);
}
