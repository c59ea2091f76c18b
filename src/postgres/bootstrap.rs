//! Making a new cluster's data. The server that this needs listens on a private socket only, so that nobody else meets
//! PostgreSQL before its leader holds the lease.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::clone::{refuse_if_not_empty, refuse_options};
use super::command::{prepared, run_well};
use super::config_files::{Recovery, append_hba, configure};
use super::error::{Error, Trying};
use super::files::{make_private_directory, remove_if_there, write_durably};
use super::parameters::enforced;
use super::programs::Programs;
use super::settings::{InstanceSettings, Login, ProgramOption};
use super::sql::{Session, Target, connect, quoted_name, quoted_text};
use super::start::{launch, refuse_if_running, sweep};
use super::stop::{Stopped, stop_at_once, stop_orderly};
use super::unfinished::{mark, marked, unmark, word};
use crate::model::{Span, Unfinished};

const OPTIONS_NOT_ALLOWED: &[&str] =
    &["pgdata", "nosync", "no-sync", "pwfile", "sync-only", "version", "username"];

/// initdb, the roles and the operator's script. Leaves a data directory that was shut down in good order, or a mark.
pub async fn bootstrap(settings: &InstanceSettings, patience: Span) -> Result<Vec<String>, Error> {
    let what = format!("make a new cluster in {}", settings.data_dir.display());
    refuse_if_running(settings, &what)?;
    if let Some(work) = marked(settings) {
        return Err(Error::refused(what, format!("a {} has not ended here", word(work))));
    }
    sweep(settings).await?;
    refuse_if_not_empty(settings, &what)?;
    refuse_options(&what, &settings.initdb, OPTIONS_NOT_ALLOWED)?;
    let programs = Programs::of(settings).await?;
    let private = PrivatePlace::make(settings)?;
    mark(settings, Unfinished::Bootstrap)?;
    let made = async {
        run_initdb(settings, &programs, &private, patience).await?;
        furnish(settings, &programs, &private, patience).await
    };
    match made.await {
        Ok(complaints) => {
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

/// Everything that needs a running server.
async fn furnish(
    settings: &InstanceSettings,
    programs: &Programs,
    private: &PrivatePlace,
    patience: Span,
) -> Result<Vec<String>, Error> {
    let configured = configure(settings, programs, &Recovery::Primary, None).await?;
    if settings.pg_hba.is_empty() && !settings.bootstrap_pg_hba.is_empty() {
        append_hba(settings, &settings.bootstrap_pg_hba)?;
    }
    let started =
        launch(settings, programs, &private.options(settings, &configured.parameters)?, patience).await?;
    if !started.accepting {
        return Err(Error::out_of_time("start the new cluster", patience));
    }
    let target = private.target(settings);
    let session = connect("connect to the new cluster", &target, patience).await?;
    make_roles(settings, &session, patience).await?;
    if let Some(hook) = &settings.hooks.post_bootstrap {
        run_hook(settings, programs, hook, &target, patience).await?;
    }
    drop(session);
    match stop_orderly(settings, patience).await? {
        Stopped::InOrder => Ok(configured.complaints),
        Stopped::AtOnce => Err(Error::out_of_time("shut the new cluster down", patience)),
    }
}

async fn make_roles(settings: &InstanceSettings, session: &Session, patience: Span) -> Result<(), Error> {
    let quiet = "SET log_statement = 'none'; SET log_min_duration_statement = -1; \
                 SET log_min_error_statement = 'panic'";
    session.run("keep passwords out of the log", quiet, patience).await?;
    if settings.superuser.password.is_some() {
        make_role(session, &settings.superuser, "LOGIN SUPERUSER", patience).await?;
    }
    if settings.replication.username != settings.superuser.username {
        make_role(session, &settings.replication, "LOGIN REPLICATION", patience).await?;
    }
    let rewind = settings.rewind.as_ref().filter(|login| login.username != settings.superuser.username);
    if let Some(login) = rewind {
        if login.username != settings.replication.username {
            make_role(session, login, "LOGIN", patience).await?;
        }
        session.run("grant what rewinding needs", &rewind_grants(&login.username), patience).await?;
    }
    Ok(())
}

async fn make_role(session: &Session, login: &Login, rights: &str, patience: Span) -> Result<(), Error> {
    let what = format!("make the role {}", login.username);
    let asked =
        format!("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = {})", quoted_text(&login.username));
    let exists: bool = session.row(&what, &asked, patience).await?.try_get(0).trying(|| what.clone())?;
    let verb = if exists { "ALTER" } else { "CREATE" };
    let mut statement = format!("{verb} ROLE {} WITH {rights}", quoted_name(&login.username));
    if let Some(password) = &login.password {
        // The server gets to see a verifier only; so does its log, should an extension write one of its own.
        let verifier = postgres_protocol::password::scram_sha_256(password.reveal().as_bytes());
        statement.push_str(" PASSWORD ");
        statement.push_str(&quoted_text(&verifier));
    }
    session.run(&what, &statement, patience).await
}

fn rewind_grants(role: &str) -> String {
    let functions = [
        "pg_ls_dir(text, boolean, boolean)",
        "pg_stat_file(text, boolean)",
        "pg_read_binary_file(text)",
        "pg_read_binary_file(text, bigint, bigint, boolean)",
    ];
    let grant =
        |function: &&str| format!("GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO {}", quoted_name(role));
    functions.iter().map(grant).collect::<Vec<_>>().join("; ")
}

async fn run_hook(
    settings: &InstanceSettings,
    programs: &Programs,
    hook: &str,
    target: &Target,
    patience: Span,
) -> Result<(), Error> {
    let port = target.port.to_string();
    let conninfo = super::conninfo::format(&BTreeMap::from([
        ("dbname", target.database.as_str()),
        ("user", target.login.username.as_str()),
        ("host", target.host.as_str()),
        ("port", port.as_str()),
    ]));
    let mut command = prepared("/bin/sh", settings.identity()?);
    command.arg("-c").arg(format!("{hook} \"$1\"")).arg("post_bootstrap").arg(conninfo);
    command.env("PGOPTIONS", "-c synchronous_commit=local -c statement_timeout=0");
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}", programs.bin_dir.display()));
    run_well("run the post_bootstrap script", command, patience).await.map(drop)
}

/// A directory that only PostgreSQL's user may enter, for the socket, its access list and the password file.
struct PrivatePlace {
    path: PathBuf,
}

impl PrivatePlace {
    fn make(settings: &InstanceSettings) -> Result<PrivatePlace, Error> {
        // A socket's path must be short, so it is not beside the data directory.
        let parents = [settings.socket_dir.clone(), Some(std::env::temp_dir())];
        let name = format!("tenure-{}-{}", std::process::id(), settings.port);
        let mut failure = None;
        for parent in parents.into_iter().flatten() {
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

    fn options(
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

    fn target(&self, settings: &InstanceSettings) -> Target {
        Target {
            host: self.path.display().to_string(),
            port: settings.port,
            database: "postgres".to_owned(),
            login: Login { password: None, ..settings.superuser.clone() },
        }
    }
}

impl Drop for PrivatePlace {
    fn drop(&mut self) {
        for file in ["password", "pg_hba.conf"] {
            let _ = remove_if_there(&self.path.join(file));
        }
        // Fails while a server still has its socket here; the server removes that when it ends.
        let _ = std::fs::remove_dir(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rewinding_role_gets_exactly_what_it_needs() {
        let grants = rewind_grants("re\"wind");
        assert_eq!(grants.matches("GRANT EXECUTE").count(), 4);
        assert!(grants.ends_with("(text, bigint, bigint, boolean) TO \"re\"\"wind\""));
    }
}
