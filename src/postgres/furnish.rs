//! Everything about a new cluster that needs its running server: the end of a recovery, the roles, the operator's scripts.
//! The server listens on a private socket, and archives nothing.

use std::collections::BTreeMap;
use std::fs;

use tokio::process::Command;
use tokio::time::{Instant, sleep};

use super::bootstrap::PrivatePlace;
use super::command::{prepared, run_with_descendants};
use super::config_files::{Recovery, append_hba, configure};
use super::control::{has, read_control_data};
use super::error::{Error, Trying};
use super::files::{remove_durably, write_durably};
use super::process::{PidFileStatus, running_postmaster};
use super::programs::Programs;
use super::settings::{CustomMethod, InstanceSettings, Login};
use super::sql::{Session, Target, connect, quoted_name, quoted_text};
use super::start::{last_words, launch};
use super::stop::{Stopped, stop_orderly};
use crate::model::Span;

/// Leaves a server that was shut down in good order.
pub(super) async fn furnish(
    settings: &InstanceSettings,
    programs: &Programs,
    private: &PrivatePlace,
    patience: Span,
) -> Result<Vec<String>, Error> {
    let restored = settings.bootstrap_method.as_ref();
    let floors = match restored {
        Some(_) => Some(read_control_data(settings, programs, patience).await?.floors),
        None => None,
    };
    let own_settings = settings.data_dir.join("postgresql.auto.conf");
    let left_behind = fs::read_to_string(&own_settings).ok();
    let configured = configure(settings, programs, &Recovery::Primary, floors.as_ref()).await?;
    let mut options = private.options(settings, &configured.parameters)?;
    match restored {
        Some(method) => {
            if let Some(text) = left_behind.filter(|_| method.keep_existing_recovery_conf) {
                write_durably(&own_settings, &text, 0o600, settings.identity()?)?;
            }
            prepare_recovery(settings, method, &mut options)?;
            // What is written here is nobody's WAL before a leader goes on with it.
            options.insert("archive_command".to_owned(), String::new());
            if 15 <= programs.major {
                options.insert("archive_library".to_owned(), String::new());
            }
        }
        None if settings.pg_hba.is_empty() && !settings.bootstrap_pg_hba.is_empty() => {
            append_hba(settings, &settings.bootstrap_pg_hba)?;
        }
        None => {}
    }
    let deadline = Instant::now() + patience.as_duration();
    if !launch(settings, programs, &options, patience).await?.accepting {
        until_accepting(settings, deadline, patience).await?;
    }
    let target = private.target(settings);
    let session = connect("connect to the new cluster", &target, patience).await?;
    if restored.is_some() {
        until_recovered(settings, &session, deadline, patience).await?;
    }
    make_roles(settings, &session, patience).await?;
    if let Some(line) = &settings.hooks.post_bootstrap {
        let mut command = prepared(line.program(), settings.identity()?);
        command.args(line.arguments()).arg(conninfo(&target));
        run_script("run the post_bootstrap script", scripted(command, programs), patience).await?;
    }
    run_init_sql(settings, programs, &session, &target, patience).await?;
    drop(session);
    match stop_orderly(settings, patience).await? {
        Stopped::InOrder => Ok(configured.complaints),
        Stopped::AtOnce => Err(Error::out_of_time("shut the new cluster down", patience)),
    }
}

/// What PostgreSQL is to recover to, after a method of the operator's has made the data.
fn prepare_recovery(
    settings: &InstanceSettings,
    method: &CustomMethod,
    options: &mut BTreeMap<String, String>,
) -> Result<(), Error> {
    let signal = |name: &str| settings.data_dir.join(name);
    let mut ends_by_itself = method.keep_existing_recovery_conf;
    if method.recovery_conf.is_empty() {
        if !method.keep_existing_recovery_conf {
            remove_durably(&signal("recovery.signal"))?;
            remove_durably(&signal("standby.signal"))?;
        }
    } else {
        remove_durably(&signal("standby.signal"))?;
        write_durably(&signal("recovery.signal"), "", 0o600, settings.identity()?)?;
        let wanted = method.recovery_conf.iter().filter(|(name, _)| *name != "standby_mode");
        options.extend(wanted.map(|(name, value)| (name.clone(), value.clone())));
        ends_by_itself |= options.get("recovery_target_action").is_some_and(|action| action == "promote");
    }
    if has(&settings.data_dir, "standby.signal") {
        let why = "it has left a standby.signal, and the recovery of a standby never ends";
        return Err(Error::failed(format!("recover what {} has made", method.name), why));
    }
    if ends_by_itself {
        // A server that lets readers in would have to stop wherever the old primary had more of something.
        options.insert("hot_standby".to_owned(), "off".to_owned());
    }
    Ok(())
}

/// A server that lets nobody in before its recovery has ended is up for pg_ctl when that begins.
async fn until_accepting(
    settings: &InstanceSettings,
    deadline: Instant,
    patience: Span,
) -> Result<(), Error> {
    let what = "recover the data of the new cluster";
    loop {
        match running_postmaster(&settings.data_dir) {
            Some((_, file)) if file.status == PidFileStatus::Ready => return Ok(()),
            Some(_) if deadline < Instant::now() => return Err(Error::out_of_time(what, patience)),
            // It can only be looked at again.
            Some(_) => sleep(Span::from_ms(100).as_duration()).await,
            None => return Err(Error::failed(what, last_words(settings))),
        }
    }
}

/// A server that waits at its target is told to go on: whoever makes a cluster wants it to end there.
async fn until_recovered(
    settings: &InstanceSettings,
    session: &Session,
    deadline: Instant,
    patience: Span,
) -> Result<(), Error> {
    let what = "recover the data of the new cluster";
    loop {
        let row = session.row(what, "SELECT pg_is_in_recovery()", patience).await?;
        let recovers: bool = row.try_get(0).trying(|| what.to_owned())?;
        if !recovers {
            return Ok(());
        }
        let resume = "SELECT CASE WHEN pg_is_wal_replay_paused() THEN pg_wal_replay_resume()::text END";
        // It fails if recovery has ended meanwhile, which is seen above.
        let _ = session.row(what, resume, patience).await;
        if running_postmaster(&settings.data_dir).is_none() {
            return Err(Error::failed(what, "PostgreSQL has ended on the way"));
        }
        if deadline < Instant::now() {
            return Err(Error::out_of_time(what, patience));
        }
        // The server tells nobody that recovery has ended; it can only be asked again.
        sleep(Span::from_ms(100).as_duration()).await;
    }
}

/// Each file once in the life of the data: one that was run before the backup was taken is not run again.
async fn run_init_sql(
    settings: &InstanceSettings,
    programs: &Programs,
    session: &Session,
    target: &Target,
    patience: Span,
) -> Result<(), Error> {
    if settings.init_sql.is_empty() {
        return Ok(());
    }
    let what = "run the SQL files of bootstrap.init_sql";
    let record = "CREATE SCHEMA IF NOT EXISTS tenure; \
                  CREATE TABLE IF NOT EXISTS tenure.init_sql \
                  (file text PRIMARY KEY, sha256 text NOT NULL, run_at timestamptz NOT NULL DEFAULT now())";
    session.run(what, record, patience).await?;
    for path in &settings.init_sql {
        let what = format!("run {} of bootstrap.init_sql", path.display());
        let text = fs::read(path).trying(|| what.clone())?;
        let name = quoted_text(&path.display().to_string());
        let known = format!("SELECT EXISTS (SELECT FROM tenure.init_sql WHERE file = {name})");
        if session.row(&what, &known, patience).await?.try_get(0).trying(|| what.clone())? {
            tracing::info!("{} has been run in this database before, and is not run again", path.display());
            continue;
        }
        let mut command = programs.command(settings, "psql")?;
        command.args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1"]);
        command.arg(format!("--file={}", path.display())).arg(format!("--dbname={}", conninfo(target)));
        run_script(&what, scripted(command, programs), patience).await?;
        let digest = format!("encode(sha256(decode('{}', 'hex')), 'hex')", hex(&text));
        let insert = format!("INSERT INTO tenure.init_sql (file, sha256) VALUES ({name}, {digest})");
        session.run(&what, &insert, patience).await?;
        tracing::info!("{} was run in the new cluster", path.display());
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// For the server on the private socket, which asks for no password.
fn conninfo(target: &Target) -> String {
    let port = target.port.to_string();
    super::conninfo::format(&BTreeMap::from([
        ("dbname", target.database.as_str()),
        ("user", target.login.username.as_str()),
        ("host", target.host.as_str()),
        ("port", port.as_str()),
    ]))
}

fn scripted(mut command: Command, programs: &Programs) -> Command {
    command.env("PGOPTIONS", "-c synchronous_commit=local -c statement_timeout=0");
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}", programs.bin_dir.display()));
    command
}

async fn run_script(what: &str, command: Command, patience: Span) -> Result<(), Error> {
    let outcome = run_with_descendants(what, command, patience).await?;
    if outcome.status.success() { Ok(()) } else { Err(Error::failed(what, outcome.complaint())) }
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
