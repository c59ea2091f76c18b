//! A client that writes rows and remembers every one that was acknowledged, with when, where and on which timeline.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tenure::clock;
use tenure::model::{Moment, Span};
use tokio_postgres::{Client, Config, NoTls};

use super::netns::{Namespace, enter};

/// One row that PostgreSQL said is committed.
#[derive(Clone, Debug)]
pub struct Acknowledged {
    pub writer: String,
    pub row: i64,
    pub timeline: u32,
    pub sent: Moment,
    pub answered: Moment,
}

/// Everything that any writer was told.
#[derive(Clone, Debug, Default)]
pub struct Ledger(Arc<Mutex<Vec<Acknowledged>>>);

pub struct Writer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Ledger {
    pub fn rows(&self) -> Vec<Acknowledged> {
        self.0.lock().expect("no writer panics while it holds the ledger").clone()
    }

    pub fn count(&self) -> usize {
        self.rows().len()
    }

    /// The law S1, as clients see it: once a row of a timeline has been acknowledged, no row that was sent later is
    /// acknowledged on an older one.
    pub fn check_one_history_at_a_time(&self) {
        let rows = self.rows();
        for newer in &rows {
            let overlap =
                rows.iter().find(|older| older.timeline < newer.timeline && newer.answered < older.sent);
            if let Some(older) = overlap {
                panic!(
                    "two histories at once: {} was told of row {} on timeline {} after {} had been told of row {} on {}",
                    older.writer, older.row, older.timeline, newer.writer, newer.row, newer.timeline
                );
            }
        }
    }

    /// The longest time without an acknowledged row.
    pub fn longest_gap(&self) -> Span {
        let mut times: Vec<Moment> = self.rows().iter().map(|row| row.answered).collect();
        times.sort();
        times.windows(2).map(|pair| pair[1].since(pair[0])).max().unwrap_or_default()
    }

    /// The acknowledged rows that are not there.
    pub async fn missing(&self, client: &Client) -> Vec<Acknowledged> {
        // Looked at first: what is acknowledged from now on, this query may not see.
        let acknowledged = self.rows();
        let stored =
            client.query("select writer, row from ledger", &[]).await.expect("the ledger can be read");
        let stored: BTreeSet<(String, i64)> = stored.iter().map(|row| (row.get(0), row.get(1))).collect();
        acknowledged.into_iter().filter(|row| !stored.contains(&(row.writer.clone(), row.row))).collect()
    }
}

impl Writer {
    /// Writes from inside `namespace` to the first of `hosts` that takes writes, row after row, until dropped.
    pub fn start(
        name: &str,
        namespace: &Namespace,
        hosts: &[String],
        password: &str,
        ledger: &Ledger,
    ) -> Writer {
        let stop = Arc::new(AtomicBool::new(false));
        let (name, hosts, password) = (name.to_owned(), hosts.to_vec(), password.to_owned());
        let (ledger, stopped) = (ledger.clone(), stop.clone());
        let namespace = namespace.name.clone();
        let thread = std::thread::Builder::new().name(format!("writer {name}")).spawn(move || {
            enter(&namespace);
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(write(&name, &hosts, &password, &ledger, &stopped));
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

async fn write(name: &str, hosts: &[String], password: &str, ledger: &Ledger, stop: &AtomicBool) {
    let mut row = 0;
    while !stop.load(Ordering::Relaxed) {
        for host in hosts {
            if let Some(client) = connect(host, password).await {
                write_until_failure(name, &client, &mut row, ledger, stop).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn write_until_failure(name: &str, client: &Client, row: &mut i64, ledger: &Ledger, stop: &AtomicBool) {
    let insert = "insert into ledger (writer, row) values ($1, $2) \
                  returning ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int";
    while !stop.load(Ordering::Relaxed) {
        *row += 1;
        let sent = clock::now();
        let answer =
            tokio::time::timeout(Duration::from_secs(2), client.query_one(insert, &[&name, &*row])).await;
        let Ok(Ok(answer)) = answer else { return };
        let timeline: i32 = answer.get(0);
        let acknowledged = Acknowledged {
            writer: name.to_owned(),
            row: *row,
            timeline: timeline.unsigned_abs(),
            sent,
            answered: clock::now(),
        };
        ledger.0.lock().expect("no writer panics while it holds the ledger").push(acknowledged);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A connection as the superuser, or nothing if the host does not take one soon.
pub async fn connect(host: &str, password: &str) -> Option<Client> {
    let mut config = Config::new();
    config.host(host).port(5432).user("postgres").password(password).dbname("postgres");
    config.connect_timeout(Duration::from_secs(1));
    let (client, connection) =
        tokio::time::timeout(Duration::from_secs(2), config.connect(NoTls)).await.ok()?.ok()?;
    #[expect(clippy::disallowed_methods, reason = "it ends with its client")]
    tokio::spawn(connection);
    Some(client)
}
