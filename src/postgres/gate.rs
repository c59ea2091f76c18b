//! The gate of a primary: PostgreSQL is started with `hba_file` below a symbolic link, `DATA.tenure-gate`. While the gate is closed the
//! link leads to `DATA.tenure-gate-closed`, which holds a narrowed copy of pg_hba.conf; open, to where the real file is, so that PostgreSQL
//! reads that one, with whatever it refers to beside it. Nothing lies inside the data directory, where pg_rewind would stumble over it.
//!
//! The directory goes away only when PostgreSQL is known to have read the real file: as long as it is there, the gate counts as closed.
//! A PostgreSQL that is started by hand has nothing to do with any of this, because its own configuration names the real file.

use std::fs;
use std::io;
use std::os::unix::fs::{lchown, symlink};
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;

use super::command::run_well;
use super::error::{Error, Trying};
use super::files::{make_private_directory, remove_if_there, sync_parent, write_if_changed};
use super::narrowed::narrowed;
use super::process::running_postmaster;
use super::programs::Programs;
use super::settings::InstanceSettings;
use super::sql::{Target, connect};
use crate::model::{Gate, Span};

/// In the closed directory: a link to the real file.
const REAL: &str = "real";
const ASK: Span = Span::from_secs(30);

fn link(settings: &InstanceSettings) -> PathBuf {
    settings.beside(".tenure-gate")
}

fn closed(settings: &InstanceSettings) -> PathBuf {
    settings.beside(".tenure-gate-closed")
}

pub(super) fn is_made(settings: &InstanceSettings) -> bool {
    closed(settings).exists()
}

/// What is known of a server that says which file it reads, or of one that says nothing.
pub(super) fn seen(settings: &InstanceSettings, made: bool, hba_file: Option<&str>) -> Gate {
    let ours = hba_file.is_none_or(|file| Path::new(file).parent() == Some(&link(settings)));
    if made && ours { Gate::Closed } else { Gate::Open }
}

/// Closes it for a server that is started next. Gives the file to start it with.
pub(super) async fn close(settings: &InstanceSettings, programs: &Programs) -> Result<PathBuf, Error> {
    let what = "keep clients out of the PostgreSQL that is started";
    let real = real_file(what, settings, programs).await?;
    let name = real.file_name().map(PathBuf::from).filter(|name| name != Path::new(REAL));
    let (Some(name), true) = (name, real.is_absolute() && !real.starts_with(link(settings))) else {
        return Err(Error::refused(what, format!("the hba_file {} cannot be replaced", real.display())));
    };
    forget(settings)?;
    let narrow = narrowed_file(what, settings, &real)?;
    let (directory, owner) = (closed(settings), settings.identity()?);
    make_private_directory(&directory, owner)?;
    write_if_changed(&directory.join(&name), &narrow, 0o600, owner)?;
    point(&directory.join(REAL), &real, settings).trying(|| what.to_owned())?;
    point(&link(settings), &directory, settings).trying(|| what.to_owned())?;
    Ok(link(settings).join(name))
}

/// Brings the narrowed copy in line with a file that may have changed. One that cannot be narrowed changes nothing: the copy is of the
/// file that PostgreSQL was started with.
pub(super) fn refresh(settings: &InstanceSettings) {
    let what = "bring the gate in line with pg_hba.conf";
    let directory = closed(settings);
    let Ok(real) = fs::read_link(directory.join(REAL)) else { return };
    let Some(name) = real.file_name() else { return };
    let write = || -> Result<bool, Error> {
        let narrow = narrowed_file(what, settings, &real)?;
        write_if_changed(&directory.join(name), &narrow, 0o600, settings.identity()?)
    };
    // It may have been opened on the way.
    if let Err(error) = write()
        && is_made(settings)
    {
        tracing::warn!("{error}");
    }
}

/// A server was started without it.
pub(super) fn forget(settings: &InstanceSettings) -> Result<(), Error> {
    let forget = || -> io::Result<()> {
        remove_closed(settings)?;
        if remove_if_there(&link(settings))? { sync_parent(&settings.data_dir) } else { Ok(()) }
    };
    forget().trying(|| format!("remove {}", link(settings).display()))
}

/// Lets clients in. When this returns, PostgreSQL goes by its real file.
pub async fn open_gate(settings: &InstanceSettings, patience: Span) -> Result<(), Error> {
    let what = "let clients in";
    let Some((postmaster, _)) = running_postmaster(&settings.data_dir) else {
        return Err(Error::refused(what, "PostgreSQL does not run"));
    };
    let real = fs::read_link(closed(settings).join(REAL)).trying(|| what.to_owned())?;
    let directory = real.parent().ok_or_else(|| Error::failed(what, "the real file is nowhere"))?;
    point(&link(settings), directory, settings).trying(|| what.to_owned())?;
    postmaster.signal(Signal::SIGHUP).trying(|| what.to_owned())?;
    // A postmaster heeds its signals before it takes the next connection, but for one that it was taking already.
    drop(connect(what, &Target::local(settings), patience).await?);
    let session = connect(what, &Target::local(settings), patience).await?;
    let wrong = "SELECT string_agg(format('line %s: %s', line_number, error), '; ' ORDER BY line_number) \
                 FROM (SELECT line_number, error FROM pg_hba_file_rules WHERE error IS NOT NULL LIMIT 5) AS wrong";
    let row = session.row(what, wrong, patience).await?;
    if let Some(wrong) = row.try_get::<_, Option<String>>(0).trying(|| what.to_owned())? {
        return Err(Error::failed(what, format!("PostgreSQL does not take {}: {wrong}", real.display())));
    }
    remove_closed(settings).trying(|| what.to_owned())
}

/// Why no gate can be made from that file.
pub(super) fn refusal(settings: &InstanceSettings, file: &Path) -> Option<String> {
    narrowed_file("make the gate", settings, file).err().map(|error| error.to_string())
}

/// As the configuration has it, for whoever starts the server by hand.
async fn real_file(what: &str, settings: &InstanceSettings, programs: &Programs) -> Result<PathBuf, Error> {
    let mut command = programs.plain_command(settings, "postgres")?;
    command.arg("-D").arg(&settings.data_dir).args(["-C", "hba_file"]);
    command.arg("-c").arg(format!("config_file={}", settings.config_file().display()));
    Ok(PathBuf::from(run_well(what, command, ASK).await?.trim_end_matches('\n')))
}

fn narrowed_file(what: &str, settings: &InstanceSettings, real: &Path) -> Result<String, Error> {
    let text = fs::read_to_string(real).trying(|| format!("read {}", real.display()))?;
    let logins = [Some(&settings.superuser), Some(&settings.replication), settings.rewind.as_ref()];
    let mut roles: Vec<&str> = Vec::new();
    for login in logins.into_iter().flatten() {
        if !roles.contains(&login.username.as_str()) {
            roles.push(&login.username);
        }
    }
    let told = |why| Error::refused(what, format!("{}, {why}", real.display()));
    narrowed(&text, &roles).map_err(told)
}

/// Atomically.
fn point(link: &Path, to: &Path, settings: &InstanceSettings) -> io::Result<()> {
    let mut temporary = link.to_path_buf().into_os_string();
    temporary.push(".tenure-new");
    let temporary = PathBuf::from(temporary);
    remove_if_there(&temporary)?;
    symlink(to, &temporary)?;
    if let Some(owner) = settings.identity().map_err(io::Error::other)? {
        lchown(&temporary, Some(owner.uid().as_raw()), Some(owner.gid().as_raw()))?;
    }
    fs::rename(&temporary, link)?;
    sync_parent(link)
}

/// At once: half of it would say nothing.
fn remove_closed(settings: &InstanceSettings) -> io::Result<()> {
    let (directory, gone) = (closed(settings), settings.beside(".tenure-gate-gone"));
    let there = |outcome: io::Result<()>| match outcome {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    };
    there(fs::remove_dir_all(&gone))?;
    if there(fs::rename(&directory, &gone))? {
        sync_parent(&directory)?;
        fs::remove_dir_all(&gone)?;
    }
    Ok(())
}
