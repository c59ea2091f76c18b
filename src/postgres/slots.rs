//! Carrying out what was planned for the replication slots of the local server.

use super::command::run_well;
use super::conninfo;
use super::error::Error;
use super::pgpass::PassFile;
use super::programs::Programs;
use super::settings::InstanceSettings;
use super::sql::{Session, Target, connect, quoted_name, quoted_text};
use crate::model::{Address, NewSlot, SlotAdvance, SlotPlan, Span};

/// What PostgreSQL says of a logical slot whose WAL has gone: nothing can move it any more.
const SPENT: &[&str] = &["has already been removed", "can no longer", "cannot be advanced"];

/// Gives a sentence for everything that did not work; it is planned again the next time.
pub async fn apply_slot_plan(
    settings: &InstanceSettings,
    plan: &SlotPlan,
    patience: Span,
) -> Result<Vec<String>, Error> {
    let mut complaints = Vec::new();
    if plan.is_empty() {
        return Ok(complaints);
    }
    let session = open(settings, &settings.database, patience).await?;
    for name in &plan.drop {
        run(&session, &drop_of(name), patience, &mut complaints).await?;
    }
    for slot in &plan.create {
        create(settings, &session, slot, patience, &mut complaints).await?;
    }
    for advance in &plan.advance {
        move_on(settings, &session, advance, patience, &mut complaints).await?;
    }
    for name in &plan.keep_copies {
        if let Err(error) = keep_copies(settings, name, patience).await {
            complaints.push(error.to_string());
        }
    }
    Ok(complaints)
}

struct Statement {
    what: String,
    text: String,
}

fn drop_of(name: &str) -> Statement {
    Statement {
        what: format!("drop the slot {name}"),
        text: format!("SELECT pg_drop_replication_slot({})", quoted_text(name)),
    }
}

async fn open(settings: &InstanceSettings, database: &str, patience: Span) -> Result<Session, Error> {
    let target = Target { database: database.to_owned(), ..Target::local(settings) };
    connect("change the replication slots", &target, patience).await
}

/// True if it worked. What the server refuses is a complaint; a connection that still works on it is of no more use.
async fn run(
    session: &Session,
    statement: &Statement,
    patience: Span,
    complaints: &mut Vec<String>,
) -> Result<bool, Error> {
    match session.run(&statement.what, &statement.text, patience).await {
        Ok(()) => Ok(true),
        Err(error @ (Error::Refused { .. } | Error::Failed { .. })) => {
            complaints.push(error.to_string());
            Ok(false)
        }
        Err(error @ Error::OutOfTime { .. }) => Err(error),
    }
}

async fn create(
    settings: &InstanceSettings,
    session: &Session,
    slot: &NewSlot,
    patience: Span,
    complaints: &mut Vec<String>,
) -> Result<(), Error> {
    match slot {
        NewSlot::Physical { name } => {
            let text = format!("SELECT pg_create_physical_replication_slot({}, true)", quoted_text(name));
            run(session, &Statement { what: format!("create the slot {name}"), text }, patience, complaints)
                .await?;
        }
        NewSlot::Logical { name, database, plugin, copies } => {
            let more = if *copies { ", false, false, true" } else { "" };
            let text = format!(
                "SELECT pg_create_logical_replication_slot({}, {}{more})",
                quoted_text(name),
                quoted_text(plugin)
            );
            match open(settings, database, patience).await {
                Ok(there) => {
                    let what = format!("create the logical slot {name}");
                    run(&there, &Statement { what, text }, patience, complaints).await?;
                }
                Err(error) => complaints.push(format!("create the logical slot {name}: {error}")),
            }
        }
    }
    Ok(())
}

async fn move_on(
    settings: &InstanceSettings,
    session: &Session,
    advance: &SlotAdvance,
    patience: Span,
    complaints: &mut Vec<String>,
) -> Result<(), Error> {
    let SlotAdvance { name, to, database } = advance;
    let statement = Statement {
        what: format!("advance the slot {name}"),
        text: format!("SELECT pg_replication_slot_advance({}, '{to}')", quoted_text(name)),
    };
    let Some(database) = database else {
        run(session, &statement, patience, complaints).await?;
        return Ok(());
    };
    let there = match open(settings, database, patience).await {
        Ok(there) => there,
        Err(error) => {
            complaints.push(format!("advance the slot {name}: {error}"));
            return Ok(());
        }
    };
    let moved = run(&there, &statement, patience, complaints).await?;
    // Copied anew, it can go on.
    let spent = complaints.last().is_some_and(|why| SPENT.iter().any(|words| why.contains(words)));
    if !moved && spent {
        run(session, &drop_of(name), patience, complaints).await?;
    }
    Ok(())
}

/// There is no function for it: the replication protocol has a command.
async fn keep_copies(settings: &InstanceSettings, name: &str, patience: Span) -> Result<(), Error> {
    let what = format!("let standbys keep copies of the slot {name}");
    let programs = Programs::of(settings).await?;
    let address = Address { host: settings.local_host(), port: settings.port };
    let login = &settings.superuser;
    let passfile = PassFile::write(settings, "alter", &address, login)?;
    let named = passfile.path().display().to_string();
    let keys = [("dbname", settings.database.as_str()), ("replication", "database")];
    let mut command = programs.plain_command(settings, "psql")?;
    command.args(["--no-psqlrc", "--no-password", "--quiet", "--set", "ON_ERROR_STOP=1", "--dbname"]);
    command.arg(conninfo::to_member(login, &address, &named, &keys));
    command.args(["--command", &format!("ALTER_REPLICATION_SLOT {} (FAILOVER true)", quoted_name(name))]);
    command.env("PGPASSFILE", passfile.path());
    run_well(&what, command, patience).await.map(|_| ())
}
