//! Clients that write one row a transaction and note what was acknowledged: through HAProxy, by several hosts as libpq
//! connects, and on each node to see who takes writes at all.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use tenure::clock;
use tenure::model::{Moment, Span};
use tokio_postgres::{Client, Config, NoTls};

use crate::stage::CONNECT_TIMEOUT;
use crate::support::netns::enter;

/// A client gives up a row that is not acknowledged within this, and connects anew.
pub const ROW_PATIENCE: Span = Span::from_secs(2);
/// Between two rows of one client.
pub const ROW_PAUSE: Span = Span::from_ms(5);
/// Between two attempts to connect.
pub const RECONNECT_PAUSE: Span = Span::from_ms(20);
/// Between two rows of the one that asks a node whether it takes writes.
pub const PROBE_PAUSE: Span = Span::from_ms(50);
/// Two acknowledgements of one node that are no further apart are one time in which it took writes.
const ONE_TIME: Span = Span::from_ms(250);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    Proxy,
    Direct,
    /// On the node of this number.
    Node(usize),
}

#[derive(Clone, Debug)]
pub struct Row {
    pub way: Way,
    writer: String,
    number: i64,
    pub answered: Moment,
}

#[derive(Clone, Debug, Default)]
pub struct Ledger(Arc<Mutex<Vec<Row>>>);

/// Writes until it is dropped.
pub struct Writer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Ledger {
    pub fn rows(&self) -> Vec<Row> {
        self.0.lock().expect("no writer panics while it holds the ledger").clone()
    }

    /// The last acknowledgement on this way.
    pub fn last(&self, way: Way) -> Option<Moment> {
        let rows = self.0.lock().expect("no writer panics while it holds the ledger");
        rows.iter().filter(|row| row.way == way).map(|row| row.answered).max()
    }

    /// What was acknowledged, split into what is there and what is not.
    pub async fn split(&self, client: &Client) -> Result<(Vec<Row>, Vec<Row>), tokio_postgres::Error> {
        // Looked at first: what is acknowledged from now on, this query may not see.
        let rows = self.rows();
        let stored = client.query("select writer, row from ledger", &[]).await?;
        let stored: BTreeSet<(String, i64)> = stored.iter().map(|row| (row.get(0), row.get(1))).collect();
        Ok(rows.into_iter().partition(|row| stored.contains(&(row.writer.clone(), row.number))))
    }
}

/// The longest time without one of these rows being acknowledged, of those that ended after `from`.
pub fn longest_gap(rows: &[Row], way: Way, from: Moment, until: Moment) -> Span {
    let mut times: Vec<Moment> = rows.iter().filter(|row| row.way == way).map(|row| row.answered).collect();
    times.push(until);
    times.sort();
    let gaps = times.windows(2).filter(|pair| from <= pair[1] && pair[1] <= until);
    gaps.map(|pair| pair[1].since(pair[0])).max().unwrap_or_default()
}

/// For how long two nodes took writes at once, by their own word.
pub fn two_primaries(rows: &[Row], nodes: usize) -> Span {
    let times: Vec<Vec<(Moment, Moment)>> = (0..nodes).map(|node| writable(rows, node)).collect();
    let mut both = Span::ZERO;
    for (node, ours) in times.iter().enumerate() {
        for theirs in &times[node + 1..] {
            for (from, until) in ours {
                for (since, to) in theirs {
                    both = both + (*from).max(*since).until((*until).min(*to));
                }
            }
        }
    }
    both
}

fn writable(rows: &[Row], node: usize) -> Vec<(Moment, Moment)> {
    // When it was written is not known better than that it was before the answer.
    let mut answers: Vec<Moment> =
        rows.iter().filter(|row| row.way == Way::Node(node)).map(|row| row.answered).collect();
    answers.sort();
    let mut times: Vec<(Moment, Moment)> = Vec::new();
    for at in answers {
        match times.last_mut() {
            Some((_, until)) if at.since(*until) <= ONE_TIME => *until = at,
            Some(_) | None => times.push((at, at)),
        }
    }
    times
}

impl Writer {
    pub fn start(way: Way, number: usize, namespace: &str, config: Config, ledger: &Ledger) -> Writer {
        let stop = Arc::new(AtomicBool::new(false));
        let name = match way {
            Way::Proxy => format!("proxy-{number}"),
            Way::Direct => format!("direct-{number}"),
            Way::Node(node) => format!("node-{node}"),
        };
        let (namespace, ledger, stopped) = (namespace.to_owned(), ledger.clone(), stop.clone());
        let thread = std::thread::Builder::new().name(name.clone()).spawn(move || {
            enter(&namespace);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(write(way, &name, &config, &ledger, &stopped));
        });
        Writer { stop, thread: Some(thread.expect("a thread")) }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn write(way: Way, name: &str, config: &Config, ledger: &Ledger, stop: &AtomicBool) {
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        if let Some(client) = connect(config).await {
            write_until_failure(way, name, &client, &mut number, ledger, stop).await;
        }
        clock::pause(RECONNECT_PAUSE).await;
    }
}

/// Each host is asked once. As with libpq, `connect_timeout` bounds all that is said until a connection may be used, and not only the
/// connection that TCP makes: HAProxy takes that before it has a server.
pub async fn connect(config: &Config) -> Option<Client> {
    let hosts = u32::try_from(config.get_hosts().len()).ok()?;
    let patience = CONNECT_TIMEOUT.as_duration() * hosts;
    let (client, connection) = tokio::time::timeout(patience, config.connect(NoTls)).await.ok()?.ok()?;
    #[expect(clippy::disallowed_methods, reason = "it ends with its client")]
    tokio::spawn(connection);
    Some(client)
}

async fn write_until_failure(
    way: Way,
    name: &str,
    client: &Client,
    number: &mut i64,
    ledger: &Ledger,
    stop: &AtomicBool,
) {
    let pause = if matches!(way, Way::Node(_)) { PROBE_PAUSE } else { ROW_PAUSE };
    while !stop.load(Ordering::Relaxed) {
        *number += 1;
        match tokio::time::timeout(ROW_PATIENCE.as_duration(), insert(client, name, *number)).await {
            Ok(Ok(_)) => {
                let row = Row { way, writer: name.to_owned(), number: *number, answered: clock::now() };
                ledger.0.lock().expect("no writer panics while it holds the ledger").push(row);
            }
            // A standby's refusal is an answer, and its connection good for the next question.
            Ok(Err(error))
                if matches!(way, Way::Node(_)) && !client.is_closed() && error.as_db_error().is_some() => {}
            Ok(Err(_)) | Err(_) => return,
        }
        clock::pause(pause).await;
    }
}

async fn insert(client: &Client, name: &str, number: i64) -> Result<u64, tokio_postgres::Error> {
    client.execute("insert into ledger (writer, row) values ($1, $2)", &[&name, &number]).await
}
