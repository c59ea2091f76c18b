//! A copy of the cluster's data into an empty data directory, by pg_basebackup or by the operator's own methods.

use std::fs;
use std::path::{Path, PathBuf};

use tokio::time::Instant;

use super::command::run_well_listening;
use super::conninfo;
use super::custom;
use super::error::{Error, Trying};
use super::files::{make_private_directory, names_in};
use super::pgpass::PassFile;
use super::programs::Programs;
use super::progress::{Gauge, Reader};
use super::set_aside::{is_kept_here, make_place_for_links};
use super::settings::{InstanceSettings, ProgramOption, ReplicaMethod};
use super::start::{refuse_if_running, sweep};
use super::unfinished::{mark, marked, unmark};
use crate::model::{Address, Span, Unfinished};

/// These would take the copy somewhere else, or into a form that cannot be started.
const OPTIONS_NOT_ALLOWED: &[&str] = &[
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
];

/// Where a copy is made if the data directory also keeps what was set aside. The name is one that PostgreSQL's own
/// tools pass over.
const STAGING: &str = "pgsql_tmp.tenure-clone";

/// The data directory must be empty, or hold nothing but the remains of an earlier clone.
pub async fn clone_from(
    settings: &InstanceSettings,
    source: &Address,
    patience: Span,
    gauge: &Gauge,
) -> Result<(), Error> {
    let what = format!("clone from {}:{}", source.host, source.port);
    make_replica(settings, &what, Some((source, gauge)), patience).await
}

/// The same without anybody to copy from, by the methods that can do that.
pub async fn clone_without_leader(settings: &InstanceSettings, patience: Span) -> Result<(), Error> {
    make_replica(settings, "make a replica without a leader", None, patience).await
}

async fn make_replica(
    settings: &InstanceSettings,
    what: &str,
    source: Option<(&Address, &Gauge)>,
    patience: Span,
) -> Result<(), Error> {
    refuse_if_running(settings, what)?;
    sweep(settings).await?;
    discard_unfinished_clone(settings).await?;
    refuse_if_not_empty(settings, what)?;
    let methods: Vec<&ReplicaMethod> =
        settings.replica_methods.iter().filter(|method| source.is_some() || method.works_alone()).collect();
    if methods.is_empty() {
        return Err(Error::refused(what, "no method is configured that can do that"));
    }
    let deadline = Instant::now() + patience.as_duration();
    mark(settings, Unfinished::Clone)?;
    let mut failure = None;
    for method in methods {
        if let Some(error) = failure.take() {
            tracing::warn!("{error}; trying the next method");
            if !method.keeps_data() {
                empty(settings).await?;
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Span::from_ms(u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
        let made = match (method, source) {
            (ReplicaMethod::Basebackup, Some((source, gauge))) => {
                basebackup(settings, what, source, left, gauge).await
            }
            (ReplicaMethod::Basebackup, None) => continue,
            (ReplicaMethod::Custom(method), source) => {
                custom::make_replica(settings, method, source.map(|(address, _)| address), left).await
            }
        };
        match made {
            Ok(()) => return unmark(settings),
            Err(error) => failure = Some(error),
        }
    }
    discard_unfinished_clone(settings).await?;
    Err(failure.unwrap_or_else(|| Error::refused(what, "no method is configured")))
}

async fn basebackup(
    settings: &InstanceSettings,
    what: &str,
    source: &Address,
    patience: Span,
    gauge: &Gauge,
) -> Result<(), Error> {
    refuse_options(what, &settings.basebackup, OPTIONS_NOT_ALLOWED)?;
    let programs = Programs::of(settings).await?;
    refuse_packing(what, &settings.basebackup, programs.major)?;
    let passfile = PassFile::write(settings, "clone", source, &settings.replication)?;
    let target = make_target(settings)?;
    let mut command = programs.plain_command(settings, "pg_basebackup")?;
    let application = [("dbname", settings.database.as_str()), ("application_name", settings.name.as_str())];
    let passfile_name = passfile.path().display().to_string();
    command.arg(format!("--pgdata={}", target.display())).args(["-X", "stream", "--no-password"]);
    command.arg(format!(
        "--dbname={}",
        conninfo::to_member(&settings.replication, source, &passfile_name, &application)
    ));
    command.env("PGPASSFILE", passfile.path());
    if !settings.basebackup.iter().any(|option| option.name == "checkpoint") {
        // A spread one may take many minutes in which nothing is copied.
        command.arg("--checkpoint=fast");
    }
    if !settings.basebackup.iter().any(|option| option.name == "progress") {
        command.arg("--progress");
    }
    command.args(settings.basebackup.iter().map(ProgramOption::argument));
    let mut reader = Reader::begin(gauge);
    run_well_listening(what, command, patience, |line| reader.hear(line)).await?;
    if target != settings.data_dir {
        move_contents(&target, &settings.data_dir)?;
    }
    Ok(())
}

/// Only the server can pack a copy that is unpacked here, and only from version 15 on.
fn refuse_packing(what: &str, options: &[ProgramOption], major: u32) -> Result<(), Error> {
    let packs = |option: &&ProgramOption| option.name == "compress";
    match options.iter().find(packs) {
        Some(option) if major < 15 || !option.value.as_deref().unwrap_or_default().starts_with("server") => {
            Err(Error::refused(what, "compress must be a compression on the server, which version 15 brings"))
        }
        Some(_) | None => Ok(()),
    }
}

/// Removes what an interrupted clone has left. Nothing else is ever deleted: the mark stands only where the directory
/// had been empty.
pub async fn discard_unfinished_clone(settings: &InstanceSettings) -> Result<(), Error> {
    if marked(settings) != Some(Unfinished::Clone) {
        return Ok(());
    }
    let what = format!("remove the unfinished clone in {}", settings.data_dir.display());
    refuse_if_running(settings, &what)?;
    empty(settings).await?;
    unmark(settings)
}

/// Of what was made here under the mark.
async fn empty(settings: &InstanceSettings) -> Result<(), Error> {
    let what = format!("empty {}", settings.data_dir.display());
    let data_dir = settings.data_dir.clone();
    // Removing a large copy takes as long as it takes; nobody else waits for this thread.
    let removed = tokio::task::spawn_blocking(move || remove_contents(&data_dir)).await;
    removed.trying(|| what.clone())?.trying(|| what)
}

/// Nothing in it but what we keep there ourselves and what a file system brings along.
pub(super) fn is_empty(data_dir: &Path) -> std::io::Result<bool> {
    Ok(names_in(data_dir)?.iter().all(|name| is_kept_here(name)))
}

pub(super) fn refuse_if_not_empty(settings: &InstanceSettings, what: &str) -> Result<(), Error> {
    let directory = settings.data_dir.display();
    if is_empty(&settings.data_dir).trying(|| format!("read {directory}"))? {
        Ok(())
    } else {
        Err(Error::refused(what, format!("{directory} is not empty")))
    }
}

pub(super) fn refuse_options(
    what: &str,
    options: &[ProgramOption],
    not_allowed: &[&str],
) -> Result<(), Error> {
    match options.iter().find(|option| not_allowed.contains(&option.name.as_str())) {
        Some(option) => Err(Error::refused(what, format!("the option {} is not allowed", option.name))),
        None => Ok(()),
    }
}

fn make_target(settings: &InstanceSettings) -> Result<PathBuf, Error> {
    let data_dir = &settings.data_dir;
    let owner = settings.identity()?;
    if !data_dir.exists() {
        make_private_directory(data_dir, owner)?;
    }
    let bare = names_in(data_dir).trying(|| format!("read {}", data_dir.display()))?.is_empty();
    if bare {
        return Ok(data_dir.clone());
    }
    let staging = data_dir.join(STAGING);
    make_private_directory(&staging, owner)?;
    Ok(staging)
}

fn move_contents(from: &Path, to: &Path) -> Result<(), Error> {
    let move_all = || -> std::io::Result<()> {
        for name in names_in(from)? {
            fs::rename(from.join(&name), to.join(&name))?;
        }
        fs::remove_dir(from)?;
        fs::File::open(to)?.sync_all()
    };
    move_all().trying(|| format!("move {} to {}", from.display(), to.display()))
}

fn remove_contents(data_dir: &Path) -> Result<(), Error> {
    make_place_for_links(data_dir)?;
    let remove = || -> std::io::Result<()> {
        for name in names_in(data_dir)? {
            let path = data_dir.join(&name);
            if is_kept_here(&name) && name != STAGING {
                continue;
            }
            if path.symlink_metadata()?.is_dir() {
                fs::remove_dir_all(&path)?;
            } else {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    };
    remove().trying(|| format!("empty {}", data_dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_in_a_mount_point_does_not_fill_it() {
        let directory = tempfile::tempdir().expect("a directory");
        for name in ["lost+found", "pgsql_tmp.set-aside-20261121T051200Z"] {
            fs::create_dir(directory.path().join(name)).expect("made");
        }
        assert!(is_empty(directory.path()).expect("readable"));
        fs::write(directory.path().join("PG_VERSION"), "15\n").expect("written");
        assert!(!is_empty(directory.path()).expect("readable"));
        assert!(is_empty(Path::new("/nonexistent")).expect("nothing is empty"));
        remove_contents(directory.path()).expect("removed");
        assert_eq!(names_in(directory.path()).expect("readable").len(), 2);
    }
}
