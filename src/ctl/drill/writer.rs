//! The client of a drill: one connection along the real route, one row after the other in a table of its own, each with a time limit.
//! A connection that fails is made anew at once. What it was told stands in the ledger.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::ledger::{Ack, Arrival, Ledger};
use crate::clock;
use crate::ctl::sql::{Connection, Way, chain};
use crate::model::Span;

/// A row that is not acknowledged within this is uncertain, and the connection is given up.
const ROW_WITHIN: Duration = Duration::from_secs(2);
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
const ROW_PAUSE: Span = Span::from_ms(20);
const RECONNECT_PAUSE: Span = Span::from_ms(20);
/// A statement that is no row: the table is made, read, dropped.
const STATEMENT_WITHIN: Duration = Duration::from_mins(1);

/// The drill's own table. It is known by more than its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    schema: String,
    name: String,
    oid: u32,
}

/// What the route leads to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served {
    pub server: String,
    pub in_recovery: bool,
    /// The cluster's identifier, where the user may ask for it.
    pub system: Option<u64>,
    pub synchronous_commit: String,
    /// May the user make a table in the schema?
    pub may_create: Option<bool>,
}

pub struct Writer {
    ledger: Arc<Mutex<Ledger>>,
    stop: watch::Sender<bool>,
    task: JoinSet<()>,
}

impl Writer {
    pub fn start(way: &Way, table: &Table) -> Writer {
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let (stop, stopped) = watch::channel(false);
        let mut task = JoinSet::new();
        task.spawn(write(way.clone(), table.clone(), Arc::clone(&ledger), stopped));
        Writer { ledger, stop, task }
    }

    pub fn read<T>(&self, of: impl FnOnce(&mut Ledger) -> T) -> T {
        with(&self.ledger, of)
    }

    /// What was told until now. A row that is under way is waited for.
    pub async fn end(mut self) -> Ledger {
        self.stop.send_replace(true);
        // Every wait of the task has an end; if it has none all the same, its row counts as sent and nothing more.
        if timeout(ROW_WITHIN + CONNECT_WITHIN, self.task.join_next()).await.is_err() {
            self.task.abort_all();
        }
        with(&self.ledger, std::mem::take)
    }
}

/// Nobody panics while holding it, and if: it is whole at any time.
fn with<T>(ledger: &Mutex<Ledger>, of: impl FnOnce(&mut Ledger) -> T) -> T {
    of(&mut ledger.lock().unwrap_or_else(PoisonError::into_inner))
}

async fn write(way: Way, table: Table, ledger: Arc<Mutex<Ledger>>, stop: watch::Receiver<bool>) {
    while !*stop.borrow() {
        match connect(&way).await {
            Ok(connection) => {
                if let Ok(server) = server(&connection.client).await {
                    with(&ledger, |ledger| ledger.arrive(Arrival { at: clock::now(), server }));
                }
                if !write_until_failure(&connection.client, &table, &ledger, &stop).await {
                    return;
                }
            }
            Err(error) => with(&ledger, |ledger| ledger.complain(&format!("{error:#}"))),
        }
        clock::pause(RECONNECT_PAUSE).await;
    }
}

/// False if it is time to end.
async fn write_until_failure(
    client: &Client,
    table: &Table,
    ledger: &Mutex<Ledger>,
    stop: &watch::Receiver<bool>,
) -> bool {
    while !*stop.borrow() {
        let Some(row) = with(ledger, Ledger::next_row) else { return false };
        let sent = clock::now();
        // No prepared statement: a pooler between may not keep it for us.
        let insert = format!("INSERT INTO {} (row) VALUES ({row})", table.quoted());
        match timeout(ROW_WITHIN, client.simple_query(&insert)).await {
            Ok(Ok(_)) => {
                with(ledger, |ledger| ledger.acknowledge(Ack { row, sent, answered: clock::now() }));
                clock::pause(ROW_PAUSE).await;
            }
            Ok(Err(error)) if error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION) => {
                with(ledger, |ledger| ledger.refuse(&chain(&error)));
                return true;
            }
            Ok(Err(error)) => {
                with(ledger, |ledger| ledger.doubt(row, &chain(&error)));
                return true;
            }
            Err(_) => {
                let why = format!("no answer within {} s", ROW_WITHIN.as_secs());
                with(ledger, |ledger| ledger.doubt(row, &why));
                return true;
            }
        }
    }
    false
}

pub async fn connect(way: &Way) -> Result<Connection> {
    match timeout(CONNECT_WITHIN, way.connect()).await {
        Ok(connected) => connected,
        Err(_) => bail!("connect to {}: no connection within {} s", way.told(), CONNECT_WITHIN.as_secs()),
    }
}

async fn server(client: &Client) -> Result<String> {
    let row = first(client, "SELECT host(inet_server_addr()), inet_server_port()").await?;
    Ok(match (row.first().cloned().flatten(), row.get(1).cloned().flatten()) {
        (Some(host), Some(port)) if host.contains(':') => format!("[{host}]:{port}"),
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (Some(_) | None, _) => "a local socket".to_owned(),
    })
}

/// Whom the route reaches, and what the user may do there. Nothing is changed.
pub async fn look(way: &Way, schema: &str) -> Result<Served> {
    let connection = connect(way).await?;
    let client = &connection.client;
    let asked = format!(
        "SELECT pg_is_in_recovery()::text, current_setting('synchronous_commit'), \
         (SELECT has_schema_privilege(oid, 'CREATE')::text FROM pg_catalog.pg_namespace WHERE nspname = {})",
        literal(schema)
    );
    let row = first(client, &asked).await?;
    let cell = |index: usize| row.get(index).cloned().flatten();
    // Some users may not ask.
    let system = first(client, "SELECT system_identifier::text FROM pg_catalog.pg_control_system()").await;
    let system = system.ok().and_then(|row| row.first()?.clone()?.parse::<i64>().ok());
    Ok(Served {
        server: server(client).await?,
        in_recovery: cell(0).as_deref() == Some("true"),
        system: system.map(i64::cast_unsigned),
        synchronous_commit: cell(1).unwrap_or_default(),
        may_create: cell(2).map(|flag| flag == "true"),
    })
}

/// The first row of an answer.
async fn first(client: &Client, statement: &str) -> Result<Vec<Option<String>>> {
    let mut rows = rows(client, statement).await?;
    if rows.is_empty() {
        bail!("PostgreSQL answers with no row to {statement}");
    }
    Ok(rows.swap_remove(0))
}

async fn rows(client: &Client, statement: &str) -> Result<Vec<Vec<Option<String>>>> {
    let answer = timeout(STATEMENT_WITHIN, client.simple_query(statement)).await;
    let answer = answer.with_context(|| format!("no answer within {} s", STATEMENT_WITHIN.as_secs()))?;
    let messages = answer.map_err(|error| anyhow::anyhow!("{}", chain(&error)))?;
    let cells = |message| match message {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|index| row.get(index).map(str::to_owned)).collect())
        }
        _ => None,
    };
    Ok(messages.into_iter().filter_map(cells).collect())
}

impl Table {
    /// Makes a table that was not there before. `by` says whose it is.
    pub async fn make(client: &Client, schema: &str, name: String, by: &str) -> Result<Table> {
        let mut table = Table { schema: schema.to_owned(), name, oid: 0 };
        let (quoted, comment) =
            (table.quoted(), literal(&format!("made by tenurectl drill for {by}; it may be dropped")));
        let what = || format!("make the table {quoted}");
        rows(client, &format!("CREATE TABLE {quoted} (row bigint PRIMARY KEY)")).await.with_context(what)?;
        rows(client, &format!("COMMENT ON TABLE {quoted} IS {comment}")).await.with_context(what)?;
        let found = table.find(client).await.with_context(what)?;
        table.oid = found.context("the table is not there").with_context(what)?;
        Ok(table)
    }

    /// Which table has this name and belongs to this user.
    async fn find(&self, client: &Client) -> Result<Option<u32>> {
        let asked = format!(
            "SELECT class.oid::text FROM pg_catalog.pg_class class JOIN pg_catalog.pg_namespace space \
             ON space.oid = class.relnamespace WHERE class.relname = {} AND space.nspname = {} AND class.relkind = 'r' \
             AND pg_catalog.pg_get_userbyid(class.relowner) = current_user",
            literal(&self.name),
            literal(&self.schema)
        );
        let found = rows(client, &asked).await?;
        Ok(found.first().and_then(|row| row.first()?.as_ref()?.parse().ok()))
    }

    pub fn quoted(&self) -> String {
        let quote = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        format!("{}.{}", quote(&self.schema), quote(&self.name))
    }

    pub async fn stored(&self, client: &Client) -> Result<BTreeSet<u64>> {
        let found = rows(client, &format!("SELECT row FROM {}", self.quoted())).await?;
        let number = |row: Vec<Option<String>>| row.first()?.as_ref()?.parse().ok();
        Ok(found.into_iter().filter_map(number).collect())
    }

    /// Only if it is the very table that was made, and this user's.
    pub async fn drop_it(&self, client: &Client) -> Result<()> {
        match self.find(client).await? {
            Some(oid) if oid == self.oid => {}
            Some(_) => bail!("{} is another table by now, and is left alone", self.quoted()),
            None => bail!("{} is not there any more, or belongs to somebody else", self.quoted()),
        }
        rows(client, &format!("DROP TABLE {}", self.quoted())).await.map(drop)
    }
}

fn literal(text: &str) -> String {
    // What a backslash means depends on a setting, unless it is said.
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_texts_cannot_break_out_of_their_quotes() {
        let table = Table { schema: "a\"b".to_owned(), name: "c".to_owned(), oid: 7 };
        assert_eq!(table.quoted(), "\"a\"\"b\".\"c\"");
        assert_eq!(literal("it's \\"), "E'it''s \\\\'");
    }
}
