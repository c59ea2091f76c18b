//! The servers of a ZooKeeper: asking one after the other within a deadline, and knowing who they are.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::connection::{Connection, Greeting};
use super::fault::Fault;
use super::sessions::Sessions;
use super::settings::{Ready, Server, ZookeeperSettings};
use crate::clock;
use crate::model::{Moment, SessionId, Span};
use crate::store::SessionLimits;
use crate::store::share::share;

/// Between rounds in which nobody answered.
const PAUSE: Duration = Duration::from_millis(100);
/// A session that nothing hangs on lives as long as its connection, and not much longer.
const PASSING: Span = Span::from_secs(10);
/// If nobody has answered for so long, a ZooKeeper made anew under the same addresses is believed, although it knows less than
/// we have seen.
const STRANGER_AFTER: Span = Span::from_secs(30);

pub(super) struct Ensemble {
    /// Tells this one from its siblings that share the sessions.
    home: u64,
    ready: Result<Ready, String>,
    pub sessions: Sessions,
    /// Whoever answered last is asked first.
    current: AtomicUsize,
    /// The last change that any server has told us of. One that knows less sends us away, so time never runs backwards.
    seen: Arc<AtomicI64>,
    heard_at: Mutex<Moment>,
    shared: Mutex<Option<Arc<Connection>>>,
    floors: Mutex<BTreeMap<usize, Span>>,
}

/// Through which connection to ask.
#[derive(Clone, Copy, Debug)]
pub(super) enum Line {
    /// One that everybody in this process shares, with a session that nothing hangs on.
    Shared,
    /// The one of a session that something hangs on.
    Of(SessionId),
}

impl Ensemble {
    pub(super) fn new(settings: &ZookeeperSettings) -> Ensemble {
        static HOMES: AtomicU64 = AtomicU64::new(1);
        Ensemble {
            home: HOMES.fetch_add(1, Ordering::Relaxed),
            ready: settings.ready(),
            sessions: settings.sessions.clone(),
            current: AtomicUsize::new(0),
            seen: Arc::default(),
            heard_at: Mutex::default(),
            shared: Mutex::default(),
            floors: Mutex::default(),
        }
    }

    /// Where a path of ours really lies.
    pub(super) fn place(&self, path: &str) -> String {
        self.ready.as_ref().map_or_else(|_| path.to_owned(), |ready| ready.place(path))
    }

    /// Puts a question to one server after the other until one answers or the deadline has passed. The question must bear
    /// to be put twice.
    pub(super) async fn ask<Answer, Asking>(
        &self,
        line: Line,
        attempt: &'static str,
        within: Duration,
        question: impl Fn(Arc<Connection>) -> Asking,
    ) -> Result<Answer, Fault>
    where
        Asking: Future<Output = Result<Answer, Fault>>,
    {
        let count = self.ready()?.servers.len();
        let until = Instant::now() + within;
        let mut failures = BTreeMap::new();
        loop {
            for turn in 0..count {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(told(&failures, within));
                }
                let asked = async { question(self.connection(line).await?).await };
                let fault = match timeout(share(left, count - turn), Box::pin(asked)).await {
                    Ok(Ok(answer)) => {
                        *locked(&self.heard_at) = clock::now();
                        return Ok(answer);
                    }
                    Ok(Err(Fault::SessionGone)) => {
                        if let Line::Of(session) = line {
                            self.sessions.forget(session);
                            return Err(Fault::SessionGone);
                        }
                        "the connection's session has ended".to_owned()
                    }
                    Ok(Err(Fault::Unanswered(text))) => text,
                    Ok(Err(fault @ Fault::Refused(_))) => return Err(fault),
                    Err(_) => "no answer".to_owned(),
                };
                let server = self.leave(line);
                tracing::debug!(server, fault, "{attempt}");
                failures.insert(server, fault);
            }
            if timeout_at(until, sleep(PAUSE)).await.is_err() {
                return Err(told(&failures, within));
            }
        }
    }

    /// Puts a question through a session's own connection, wherever in this process that is kept. Waits for one, and makes one
    /// only where the session is at home.
    pub(super) async fn ask_through<Answer, Asking>(
        &self,
        session: SessionId,
        attempt: &'static str,
        within: Duration,
        question: impl Fn(Arc<Connection>) -> Asking,
    ) -> Result<Answer, Fault>
    where
        Asking: Future<Output = Result<Answer, Fault>>,
    {
        if self.sessions.is_at_home(session, self.home) {
            return self.ask(Line::Of(session), attempt, within, question).await;
        }
        let mut changes = self.sessions.changes();
        let asked = async {
            loop {
                changes.mark_unchanged();
                if let Some(connection) = self.sessions.connection(session)? {
                    match question(connection.clone()).await {
                        // Its end is for the keeper to notice, which makes another.
                        Err(Fault::Unanswered(_)) if !connection.is_open() => {}
                        other => return other,
                    }
                }
                if changes.changed().await.is_err() {
                    return Err(Fault::unanswered("nobody keeps the session"));
                }
            }
        };
        let unheard = || Err(Fault::unanswered("the session has no connection that answers"));
        timeout(within, Box::pin(asked)).await.unwrap_or_else(|_| unheard())
    }

    /// Opens a session for something to hang on.
    pub(super) async fn open_session(
        &self,
        attempt: &'static str,
        ttl: Span,
        within: Duration,
    ) -> Result<Arc<Connection>, Fault> {
        let count = self.ready()?.servers.len();
        let until = Instant::now() + within;
        let mut failures = BTreeMap::new();
        loop {
            for turn in 0..count {
                let left = until.saturating_duration_since(Instant::now());
                let server = self.at();
                let greeting = Greeting { session: None, timeout: ttl, ends_with_connection: false };
                let greeted = async {
                    let floor = self.floor(server).await?;
                    let connection = Arc::new(self.greet(server, &greeting).await?);
                    self.sessions.keep(self.home, ttl, floor, &connection);
                    Ok(connection)
                };
                let fault = match timeout(share(left, count - turn), Box::pin(greeted)).await {
                    Ok(Ok(connection)) => return Ok(connection),
                    Ok(Err(fault @ Fault::Refused(_))) => return Err(fault),
                    Ok(Err(Fault::Unanswered(text))) => text,
                    Ok(Err(Fault::SessionGone)) => "no session is granted".to_owned(),
                    Err(_) => "no answer".to_owned(),
                };
                tracing::debug!(server = self.name(server), fault, "{attempt}");
                failures.insert(self.name(server), fault);
                self.turn_from(server);
            }
            if until <= Instant::now() || timeout_at(until, sleep(PAUSE)).await.is_err() {
                return Err(told(&failures, within));
            }
        }
    }

    /// The shortest session that a server grants. Found out with one that ends at once.
    pub(super) async fn floor(&self, server: usize) -> Result<Span, Fault> {
        if let Some(known) = locked(&self.floors).get(&server) {
            return Ok(*known);
        }
        let probe = Greeting { session: None, timeout: Span::from_ms(1), ends_with_connection: true };
        let floor = self.greet(server, &probe).await?.timeout;
        locked(&self.floors).insert(server, floor);
        Ok(floor)
    }

    /// Each server has settings of its own; those that do not answer are passed over.
    pub(super) async fn limits(
        &self,
        attempt: &'static str,
        within: Duration,
    ) -> Result<SessionLimits, Fault> {
        const ENDLESS: Span = Span::from_ms(i32::MAX as u64);
        let count = self.ready()?.servers.len();
        let until = Instant::now() + within;
        let (mut limits, mut failures) = (None::<SessionLimits>, BTreeMap::new());
        for server in 0..count {
            let probe = Greeting { session: None, timeout: ENDLESS, ends_with_connection: true };
            let asked = async {
                let shortest = self.floor(server).await?;
                Ok((shortest, self.greet(server, &probe).await?.timeout))
            };
            let left = until.saturating_duration_since(Instant::now());
            let fault = match timeout(share(left, count - server), Box::pin(asked)).await {
                Ok(Ok((shortest, longest))) => {
                    let known = limits.unwrap_or(SessionLimits { shortest, longest: None });
                    limits = Some(SessionLimits {
                        shortest: known.shortest.max(shortest),
                        longest: Some(known.longest.unwrap_or(longest).min(longest)),
                    });
                    continue;
                }
                Ok(Err(fault @ Fault::Refused(_))) => return Err(fault),
                Ok(Err(Fault::Unanswered(text))) => text,
                Ok(Err(Fault::SessionGone)) => "no session is granted".to_owned(),
                Err(_) => "no answer".to_owned(),
            };
            tracing::debug!(server = self.name(server), fault, "{attempt}");
            failures.insert(self.name(server), fault);
        }
        limits.ok_or_else(|| told(&failures, within))
    }

    /// The next question goes to somebody else first. Returns who answered last.
    pub(super) fn leave(&self, line: Line) -> String {
        let connection = match line {
            Line::Shared => locked(&self.shared).take(),
            Line::Of(session) => {
                let connection = self.sessions.connection(session).ok().flatten();
                self.sessions.lapse(session);
                connection
            }
        };
        let server = connection.as_ref().map_or(self.at(), |connection| connection.server);
        if let Some(connection) = connection {
            connection.cut();
        }
        self.turn_from(server);
        self.name(server)
    }

    pub(super) async fn connection(&self, line: Line) -> Result<Arc<Connection>, Fault> {
        match line {
            Line::Shared => {
                if let Some(connection) = locked(&self.shared).as_ref().filter(|known| known.is_open()) {
                    return Ok(Arc::clone(connection));
                }
                let greeting = Greeting { session: None, timeout: PASSING, ends_with_connection: true };
                let connection = Arc::new(self.greet(self.at(), &greeting).await?);
                *locked(&self.shared) = Some(Arc::clone(&connection));
                Ok(connection)
            }
            Line::Of(session) => {
                // A connection that another thread has made ends with that thread.
                if self.sessions.is_at_home(session, self.home)
                    && let Some(connection) = self.sessions.connection(session)?
                {
                    return Ok(connection);
                }
                let greeting = self.sessions.greeting(session).ok_or(Fault::SessionGone)?;
                let server = self.at();
                let floor = self.floor(server).await?;
                let connection = Arc::new(self.greet(server, &greeting).await?);
                self.sessions.keep(self.home, greeting.timeout, floor, &connection);
                Ok(connection)
            }
        }
    }

    async fn greet(&self, server: usize, greeting: &Greeting) -> Result<Connection, Fault> {
        let silent_for = clock::now().since(*locked(&self.heard_at));
        if STRANGER_AFTER <= silent_for && self.seen.swap(0, Ordering::Relaxed) != 0 {
            tracing::debug!(
                "no ZooKeeper server has answered for {silent_for}; one that knows less is believed now"
            );
        }
        let connection = Connection::open(self.ready()?, server, greeting, &self.seen).await?;
        *locked(&self.heard_at) = clock::now();
        Ok(connection)
    }

    /// Where the servers are, and whether they speak TLS.
    pub(super) fn addresses(&self) -> Result<(Vec<Server>, bool), Fault> {
        let ready = self.ready()?;
        Ok((ready.servers.clone(), ready.tls.is_some()))
    }

    fn ready(&self) -> Result<&Ready, Fault> {
        self.ready.as_ref().map_err(|error| Fault::Refused(error.clone()))
    }

    fn at(&self) -> usize {
        let count = self.ready.as_ref().map_or(1, |ready| ready.servers.len());
        self.current.load(Ordering::Relaxed) % count
    }

    fn turn_from(&self, server: usize) {
        if self.at() == server {
            self.current.store(server + 1, Ordering::Relaxed);
        }
    }

    fn name(&self, server: usize) -> String {
        let name = self.ready.as_ref().ok().and_then(|ready| ready.servers.get(server));
        name.map(ToString::to_string).unwrap_or_default()
    }
}

fn told(failures: &BTreeMap<String, String>, within: Duration) -> Fault {
    let each: Vec<String> = failures.iter().map(|(server, fault)| format!("{server}: {fault}")).collect();
    let within = Span::from_ms(u64::try_from(within.as_millis()).unwrap_or(u64::MAX));
    Fault::unanswered(format!("within {within}: {}", each.join("; ")))
}

/// What is kept under these locks is whole at any moment, whoever panicked.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Ensemble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let servers = self.ready.iter().flat_map(|ready| &ready.servers);
        f.debug_list().entries(servers.map(ToString::to_string)).finish()
    }
}
