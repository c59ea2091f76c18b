//! Making a new cluster's data. The server that this needs listens on a private socket only, so that nobody else meets
//! PostgreSQL before its leader holds the lease.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use super::clone::{refuse_if_not_empty, refuse_options};
use super::command::run_well;
use super::custom::make_cluster;
use super::error::Error;
use super::files::{make_private_directory, names_in, remove_if_there, write_durably};
use super::furnish::furnish;
use super::parameters::enforced;
use super::programs::Programs;
use super::settings::{Hooks, InstanceSettings, Login, ProgramOption};
use super::sql::Target;
use super::start::{refuse_if_running, sweep};
use super::stop::stop_at_once;
use super::unfinished::{mark, mark_never_led, marked, unmark, word};
use crate::model::{Span, Unfinished};

const OPTIONS_NOT_ALLOWED: &[&str] =
    &["pgdata", "nosync", "no-sync", "pwfile", "sync-only", "version", "username"];

/// initdb or the operator's own method, the roles and the operator's scripts. Leaves a data directory that was shut down in good order, or a mark.
pub async fn bootstrap(settings: &InstanceSettings, patience: Span) -> Result<Vec<String>, Error> {
    // The private server's stop concerns nobody.
    let hooks = Hooks { before_stop: None, ..settings.hooks.clone() };
    let settings = &InstanceSettings { hooks, ..settings.clone() };
    let what = format!("make a new cluster in {}", settings.data_dir.display());
    refuse_if_running(settings, &what)?;
    if let Some(work) = marked(settings) {
        return Err(Error::refused(what, format!("a {} has not ended here", word(work))));
    }
    sweep(settings).await?;
    refuse_if_not_empty(settings, &what)?;
    refuse_options(&what, &settings.initdb, OPTIONS_NOT_ALLOWED)?;
    let programs = Programs::of(settings).await?;
    sweep_private_places(settings);
    let private = PrivatePlace::make(settings)?;
    mark(settings, Unfinished::Bootstrap)?;
    let made = async {
        let Some(method) = &settings.bootstrap_method else {
            run_initdb(settings, &programs, &private, patience).await?;
            return furnish(settings, &programs, &private, patience).await;
        };
        make_cluster(settings, method, patience).await?;
        // Only the data tells of which version it is.
        furnish(settings, &Programs::of(settings).await?, &private, patience).await
    };
    match made.await {
        Ok(complaints) => {
            if settings.bootstrap_method.is_some() {
                mark_never_led(settings)?;
            }
            unmark(settings)?;
            Ok(complaints)
        }
        Err(error) => {
            // What went wrong first is what the operator has to know.
            let _ = stop_at_once(settings).await;
            Err(error)
        }
    }
}

async fn run_initdb(
    settings: &InstanceSettings,
    programs: &Programs,
    private: &PrivatePlace,
    patience: Span,
) -> Result<(), Error> {
    if !settings.data_dir.exists() {
        make_private_directory(&settings.data_dir, settings.identity()?)?;
    }
    // The locale of our environment is the one that the operator wants for the databases, unless the options say it.
    let mut command = programs.command(settings, "initdb")?;
    command.arg(format!("--pgdata={}", settings.data_dir.display()));
    command.arg(format!("--username={}", settings.superuser.username));
    command.args(settings.initdb.iter().map(ProgramOption::argument));
    if let Some(password) = &settings.superuser.password {
        let file = private.path.join("password");
        write_durably(&file, &format!("{}\n", password.reveal()), 0o600, settings.identity()?)?;
        command.arg(format!("--pwfile={}", file.display()));
    }
    run_well("initdb", command, patience).await.map(drop)
}

const PRIVATE: &str = "tenure-";

/// A directory that only PostgreSQL's user may enter, for the socket, its access list and the password file.
pub(super) struct PrivatePlace {
    path: PathBuf,
}

impl PrivatePlace {
    fn make(settings: &InstanceSettings) -> Result<PrivatePlace, Error> {
        let name = format!("{PRIVATE}{}-{}", std::process::id(), settings.port);
        let mut failure = None;
        for parent in private_parents(settings) {
            let place = PrivatePlace { path: parent.join(&name) };
            match make_private_directory(&place.path, settings.identity()?) {
                Ok(()) => return Ok(place),
                Err(error) => failure = Some(error),
            }
            // Not ours to remove.
            std::mem::forget(place);
        }
        Err(failure.unwrap_or_else(|| Error::refused("make a private directory", "there is no place for it")))
    }

    pub fn options(
        &self,
        settings: &InstanceSettings,
        parameters: &BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, String>, Error> {
        let hba = self.path.join("pg_hba.conf");
        write_durably(&hba, "local all all trust\n", 0o600, settings.identity()?)?;
        let text = |path: &Path| path.display().to_string();
        let mut options = enforced(parameters);
        options.extend([
            ("listen_addresses".to_owned(), String::new()),
            ("unix_socket_directories".to_owned(), text(&self.path)),
            ("unix_socket_permissions".to_owned(), "0700".to_owned()),
            ("unix_socket_group".to_owned(), String::new()),
            ("hba_file".to_owned(), text(&hba)),
            // There is nobody yet whom a commit could wait for.
            ("synchronous_standby_names".to_owned(), String::new()),
        ]);
        Ok(options)
    }

    pub fn target(&self, settings: &InstanceSettings) -> Target {
        Target {
            host: self.path.display().to_string(),
            port: settings.port,
            database: "postgres".to_owned(),
            login: Login { password: None, ..settings.superuser.clone() },
        }
    }
}

/// A socket's path must be short, so it is not beside the data directory.
fn private_parents(settings: &InstanceSettings) -> impl Iterator<Item = PathBuf> {
    [settings.socket_dir.clone(), Some(std::env::temp_dir())].into_iter().flatten()
}

/// Removes what agents that died in the middle have left of theirs: there may be a password in it. Whatever else is there stays, and
/// links and directories of other users above all: everybody may write into /tmp.
pub(super) fn sweep_private_places(settings: &InstanceSettings) {
    let port = settings.port.to_string();
    let owners = [Some(geteuid().as_raw()), settings.identity().ok().flatten().map(|owner| owner.uid)];
    let is_ours = |path: &Path| {
        path.symlink_metadata().is_ok_and(|found| found.is_dir() && owners.contains(&Some(found.uid())))
    };
    for parent in private_parents(settings) {
        for name in names_in(&parent).unwrap_or_default() {
            let text = name.to_string_lossy();
            let of = text.strip_prefix(PRIVATE).and_then(|rest| rest.split_once('-'));
            let Some((pid, _)) = of.filter(|(_, of)| *of == port) else { continue };
            let is_dead = pid.parse::<u32>().is_ok_and(|pid| !Path::new(&format!("/proc/{pid}")).exists());
            let private = parent.join(&name);
            if is_dead && is_ours(&private) {
                clear(&private);
            }
        }
    }
}

fn clear(private: &Path) {
    for file in ["password", "pg_hba.conf"] {
        let _ = remove_if_there(&private.join(file));
    }
    // Fails while a server still has its socket here; the server removes that when it ends.
    let _ = std::fs::remove_dir(private);
}

impl Drop for PrivatePlace {
    fn drop(&mut self) {
        clear(&self.path);
    }
}
