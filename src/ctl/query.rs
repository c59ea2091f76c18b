//! `query`: SQL on one member, its rows in the formats of the other commands.

use std::fmt::Write as _;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::timeout;
use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::types::Type;

use super::access::Access;
use super::cluster::{Cluster, Role};
use super::console::{Watch, print, prompt_secret};
use super::document::Document;
use super::facts::any_member;
use super::sql::{Connection, Login, connect};
use super::table::{Column, Format, Table};
use super::time;
use crate::model::Secret;

#[derive(Debug, clap::Args)]
pub struct QueryArguments {
    /// The cluster [default: the configured scope]
    cluster_name: Option<String>,
    /// The SQL commands to execute
    #[arg(short, long, value_name = "SQL")]
    command: Option<String>,
    /// Execute the SQL commands from this file; - is stdin
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The form of the output
    #[arg(long, value_enum, default_value_t = Format::Tsv)]
    format: Format,
    /// What stands between columns
    #[arg(long, value_name = "TEXT", default_value = "\t", hide_default_value = true)]
    delimiter: String,
    /// On any member with this role
    #[arg(short, long, value_enum)]
    role: Option<Role>,
    /// On this member
    #[arg(short, long, value_name = "NAME")]
    member: Option<String>,
    /// Database user [default: as with psql]
    #[arg(short = 'U', long, value_name = "NAME")]
    username: Option<String>,
    /// Ask for the password
    #[arg(long)]
    password: bool,
    /// Database [default: as with psql]
    #[arg(short, long, value_name = "NAME")]
    dbname: Option<String>,
    /// Repeat every 2 seconds
    #[arg(short = 'W')]
    every_two: bool,
    /// Repeat every so many seconds
    #[arg(short, long, value_name = "SECONDS")]
    watch: Option<f64>,
}

const SQL_BYTES_MAX: u64 = 16 << 20;
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// Rows are kept until all are known, because a frame depends on the widest.
const CELLS_MAX: usize = 10_000_000;

pub async fn query(access: &Access, arguments: &QueryArguments) -> Result<()> {
    let sql = sql_of(arguments)?;
    let scope = access.scope(arguments.cluster_name.as_deref())?;
    let password =
        if arguments.password { Some(Secret::new(prompt_secret("Password").await?)) } else { None };
    let login = Login { user: arguments.username.clone(), password, database: arguments.dbname.clone() };
    let mut watch = Watch::new(arguments.every_two, arguments.watch, false)?;
    let cluster = access.read(&scope).await?;
    loop {
        let table = match timeout(access.request_patience, ask(&cluster, arguments, &login, &sql)).await {
            Ok(table) => table?,
            Err(_) => complaint(&format!(
                "no answer within {} s (--request-timeout)",
                access.request_patience.as_secs()
            )),
        };
        print(&table.render(arguments.format, &arguments.delimiter))?;
        if !watch.again().await? {
            return Ok(());
        }
    }
}

fn sql_of(arguments: &QueryArguments) -> Result<String> {
    match (&arguments.command, &arguments.file) {
        (Some(_), Some(_)) => bail!("--file and --command are mutually exclusive options"),
        (None, None) => bail!("You need to specify either --command or --file"),
        (Some(command), None) => Ok(command.clone()),
        (None, Some(file)) => {
            let mut sql = String::new();
            let read = if file.as_os_str() == "-" {
                std::io::stdin().lock().take(SQL_BYTES_MAX).read_to_string(&mut sql)
            } else {
                std::fs::File::open(file).and_then(|open| open.take(SQL_BYTES_MAX).read_to_string(&mut sql))
            };
            read.with_context(|| format!("read {}", file.display()))?;
            Ok(sql)
        }
    }
}

/// The rows, or one row that says what went wrong, as `patronictl` does.
async fn ask(cluster: &Cluster, arguments: &QueryArguments, login: &Login, sql: &str) -> Result<Table> {
    let nobody = match (&arguments.member, arguments.role) {
        (Some(member), _) => format!("No connection to member {member} is available"),
        (None, Some(role)) => format!("No connection to role '{}' is available", role.word()),
        (None, None) => "No connection is available".to_owned(),
    };
    let member = any_member(cluster, arguments.role, arguments.member.as_deref())?;
    let Some(address) = member.and_then(|member| member.address()) else { return Ok(sentence(nobody)) };
    let connection = match timeout(CONNECT_PATIENCE, connect(&address, login)).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return Ok(complaint(&format!("{error:#}"))),
        Err(_) => return Ok(complaint(&format!("connect to {}: no answer in time", address.host))),
    };
    if !fits(&connection, arguments.role).await? {
        return Ok(sentence(nobody));
    }
    Ok(rows(&connection, sql).await.unwrap_or_else(|error| complaint(&state_of(&error))))
}

/// The store may be behind: whoever asks for a primary must get one.
async fn fits(connection: &Connection, role: Option<Role>) -> Result<bool> {
    let standby = match role {
        None | Some(Role::Any | Role::Leader) => return Ok(true),
        Some(Role::Primary) => false,
        Some(Role::Replica | Role::Standby | Role::StandbyLeader) => true,
    };
    let row = connection.client.query_one("SELECT pg_catalog.pg_is_in_recovery()", &[]).await;
    Ok(row.context("ask the server whether it is a standby")?.get::<_, bool>(0) == standby)
}

/// The rows of the first statement that has any.
async fn rows(connection: &Connection, sql: &str) -> Result<Table, tokio_postgres::Error> {
    // Several statements cannot be prepared; then nothing is known of the types, and all is text.
    let types: Option<Vec<Type>> = match connection.client.prepare(sql).await {
        Ok(statement) => Some(statement.columns().iter().map(|column| column.type_().clone()).collect()),
        Err(_) => None,
    };
    let mut table = Table::default();
    let mut described = false;
    for message in connection.client.simple_query(sql).await? {
        match message {
            SimpleQueryMessage::RowDescription(columns) if !described => {
                described = true;
                // A row may have no columns at all, and then they have no names.
                let names: Vec<Column> = columns.iter().map(|column| Column::left(column.name())).collect();
                table.columns = Some(names).filter(|names| !names.is_empty());
            }
            SimpleQueryMessage::RowDescription(_) => break,
            SimpleQueryMessage::Row(row) => {
                let kind = |index: usize| types.as_ref().and_then(|types| types.get(index));
                let cells = (0..row.len()).map(|index| cell(row.get(index), kind(index)));
                table.rows.push(cells.collect());
                if CELLS_MAX < table.rows.len().saturating_mul(row.len()) {
                    break;
                }
            }
            SimpleQueryMessage::CommandComplete(_) if described => break,
            _ => {}
        }
    }
    Ok(table)
}

/// A value as psycopg understands it.
fn cell(text: Option<&str>, kind: Option<&Type>) -> Document {
    let Some(text) = text else { return Document::Null };
    let as_text = || Document::text(text);
    match kind {
        Some(&Type::BOOL) => Document::Bool(text == "t"),
        Some(&(Type::INT2 | Type::INT4 | Type::INT8 | Type::OID)) => {
            text.parse().map_or_else(|_| as_text(), Document::Integer)
        }
        Some(&(Type::FLOAT4 | Type::FLOAT8)) => text.parse().map_or_else(|_| as_text(), Document::Float),
        Some(&(Type::JSON | Type::JSONB)) => Document::parse(text.as_bytes()).unwrap_or_else(|_| as_text()),
        Some(&(Type::TIMESTAMP | Type::TIMESTAMPTZ)) => Document::Text(moment(text)),
        Some(_) | None => as_text(),
    }
}

/// Python writes all six digits of a second's fraction, and minutes in a zone.
fn moment(text: &str) -> String {
    let zone_at = text.get(11..).and_then(|time| time.find(['+', '-'])).map_or(text.len(), |at| at + 11);
    let (moment, zone) = text.split_at(zone_at);
    let mut out = match moment.split_once('.') {
        Some((whole, fraction)) => format!("{whole}.{fraction:0<6}"),
        None => moment.to_owned(),
    };
    let _ = write!(out, "{zone}{}", if zone.len() == 3 { ":00" } else { "" });
    out
}

fn state_of(error: &tokio_postgres::Error) -> String {
    match error.code() {
        Some(state) => state.code().to_owned(),
        None => super::sql::chain(error),
    }
}

fn complaint(why: &str) -> Table {
    sentence(format!("ERROR, SQLSTATE: {}", why.replace('\n', " ")))
}

fn sentence(text: String) -> Table {
    let row = vec![Document::Text(time::stamp_in_seconds()), Document::Text(text)];
    Table { title: String::new(), columns: None, rows: vec![row] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_what_psycopg_makes_of_them() {
        let check = |text: &str, kind: Type, shown: &str| {
            assert_eq!(cell(Some(text), Some(&kind)).shown(), shown, "{text}");
        };
        check("t", Type::BOOL, "True");
        check("7", Type::INT4, "7");
        check("1e+20", Type::FLOAT8, "1e+20");
        check("1", Type::FLOAT8, "1.0");
        check("007", Type::TEXT, "007");
        check("2026-11-21 10:00:00.5+02", Type::TIMESTAMPTZ, "2026-11-21 10:00:00.500000+02:00");
        check("2026-11-21 10:00:00", Type::TIMESTAMP, "2026-11-21 10:00:00");
        check("infinity", Type::TIMESTAMP, "infinity");
        check(r#"{"a":[1,null,"it's"]}"#, Type::JSONB, r#"{'a': [1, None, "it's"]}"#);
        assert_eq!(cell(None, Some(&Type::INT4)).shown(), "None");
    }
}
