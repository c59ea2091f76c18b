//! The servers of an etcd cluster: connecting, authenticating, and asking one after the other within a deadline.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_client::{Client, GetOptions};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::fault::Fault;
use super::roster::Roster;
use super::settings::{EtcdSettings, Server};
use crate::model::{SessionId, Span};
use crate::store::share::share;

/// Between rounds in which nobody answered.
const PAUSE: Duration = Duration::from_millis(100);
/// Servers of another etcd cluster are believed after nobody has answered for the known one for so long: etcd has then
/// been made anew under the same addresses. Before that, somebody has mixed two clusters in one list.
const STRANGER_AFTER: Duration = Duration::from_secs(30);

pub(super) struct Endpoints {
    roster: Roster,
    /// Whoever answered last is asked first.
    current: AtomicUsize,
    credentials: Option<(String, String)>,
    probe: String,
    /// Which etcd cluster this is, and when it last answered.
    identity: Mutex<Option<(u64, Instant)>>,
    ttl: Mutex<Option<(SessionId, Span)>>,
}

pub(super) struct Endpoint {
    server: Server,
    /// Connected, authenticated, and of the right cluster.
    client: Mutex<Option<Client>>,
    raft_term: AtomicU64,
}

impl Endpoints {
    pub(super) fn new(settings: &EtcdSettings, probe: String) -> Endpoints {
        Endpoints {
            roster: Roster::new(settings),
            current: AtomicUsize::new(0),
            credentials: settings.credentials(),
            probe,
            identity: Mutex::default(),
            ttl: Mutex::default(),
        }
    }

    /// Puts a question to one server after the other until one answers or the deadline has passed. The question must bear
    /// to be put twice.
    pub(super) async fn ask<Answer, Asking>(
        &self,
        attempt: &'static str,
        within: Duration,
        question: impl Fn(Client, Arc<Endpoint>) -> Asking,
    ) -> Result<Answer, Fault>
    where
        Asking: Future<Output = Result<Answer, Fault>>,
    {
        let until = Instant::now() + within;
        let servers = &*self.roster.servers(until).await?;
        let mut failures = vec![None; servers.len()];
        loop {
            let first = self.current.load(Ordering::Relaxed);
            for turn in 0..servers.len() {
                let at = (first + turn) % servers.len();
                let endpoint = &servers[at];
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    self.roster.doubt();
                    return Err(told(servers, &failures, within));
                }
                let asked =
                    timeout(share(left, servers.len() - turn), Box::pin(self.ask_one(endpoint, &question)))
                        .await;
                let fault = match asked {
                    Ok(Ok(answer)) => {
                        self.current.store(at, Ordering::Relaxed);
                        self.heard();
                        return Ok(answer);
                    }
                    Ok(Err(Fault::Unanswered { text, connection_broken })) => {
                        if connection_broken {
                            endpoint.forget();
                        }
                        text
                    }
                    Ok(Err(Fault::TokenStale(text))) if self.credentials.is_none() => {
                        return Err(Fault::Refused(text));
                    }
                    Ok(Err(Fault::TokenStale(text))) => text,
                    Ok(Err(
                        fault @ (Fault::Denied(_)
                        | Fault::Refused(_)
                        | Fault::SessionGone
                        | Fault::NoAuthentication),
                    )) => return Err(fault),
                    Err(_) => {
                        // Perhaps only this connection leads nowhere; the next try gets a new one.
                        endpoint.forget();
                        "no answer".to_owned()
                    }
                };
                tracing::debug!(server = endpoint.server.url, fault, "{attempt}");
                failures[at] = Some(fault);
            }
            if timeout_at(until, sleep(PAUSE)).await.is_err() {
                self.roster.doubt();
                return Err(told(servers, &failures, within));
            }
        }
    }

    /// Puts a question to every server at the same time.
    pub(super) async fn each<Answer, Asking>(
        &self,
        within: Duration,
        question: impl Fn(Client, Arc<Endpoint>) -> Asking,
    ) -> Result<Vec<(String, Result<Answer, Fault>)>, Fault>
    where
        Asking: Future<Output = Result<Answer, Fault>>,
    {
        let servers = self.roster.servers(Instant::now() + within).await?;
        let asked = servers.iter().map(|endpoint| async {
            let asked = timeout(within, Box::pin(self.ask_one(endpoint, &question))).await;
            (endpoint.url().to_owned(), asked.unwrap_or_else(|_| Err(Fault::unanswered("no answer"))))
        });
        Ok(futures_util::future::join_all(asked).await)
    }

    /// The next question goes to somebody else first.
    pub(super) fn avoid(&self, endpoint: &Endpoint) {
        let Some(servers) = self.roster.known() else { return };
        endpoint.forget();
        let at = self.current.load(Ordering::Relaxed);
        if servers.get(at).is_some_and(|current| current.server.url == endpoint.server.url) {
            self.current.store((at + 1) % servers.len(), Ordering::Relaxed);
        }
    }

    pub(super) fn remember_ttl(&self, session: SessionId, ttl: Span) {
        *locked(&self.ttl) = Some((session, ttl));
    }

    pub(super) fn known_ttl(&self, session: SessionId) -> Option<Span> {
        locked(&self.ttl).filter(|(known, _)| *known == session).map(|(_, ttl)| ttl)
    }

    async fn ask_one<Answer, Asking>(
        &self,
        endpoint: &Arc<Endpoint>,
        question: &impl Fn(Client, Arc<Endpoint>) -> Asking,
    ) -> Result<Answer, Fault>
    where
        Asking: Future<Output = Result<Answer, Fault>>,
    {
        let client = self.client(endpoint).await?;
        match question(client.clone(), endpoint.clone()).await {
            // Both are told before anything is done, so the question may be put again.
            Err(Fault::TokenStale(_) | Fault::Denied(_)) if self.credentials.is_some() => {
                self.authenticate(client.clone()).await?;
                question(client, endpoint.clone()).await
            }
            other => other,
        }
    }

    async fn client(&self, endpoint: &Endpoint) -> Result<Client, Fault> {
        if let Some(client) = locked(&endpoint.client).clone() {
            return Ok(client);
        }
        // No server is spoken to yet; that begins with the first request.
        let Server { url, options } = &endpoint.server;
        let mut client = Client::connect([url], Some(options.clone())).await?;
        if self.credentials.is_some() {
            self.authenticate(client.clone()).await?;
        }
        let presence = GetOptions::new().with_serializable().with_count_only();
        let answer = client.get(self.probe.as_str(), Some(presence)).await?;
        let header = answer.header().ok_or_else(Fault::headless)?;
        self.recognize(header.cluster_id())?;
        endpoint.note_raft_term(header.raft_term());
        *locked(&endpoint.client) = Some(client.clone());
        Ok(client)
    }

    /// The token is shared by all clones of the client.
    async fn authenticate(&self, mut client: Client) -> Result<(), Fault> {
        match client.update_user(self.credentials.clone()).await.map_err(Fault::from) {
            Ok(()) | Err(Fault::NoAuthentication) => Ok(()),
            Err(fault) => Err(fault),
        }
    }

    fn recognize(&self, cluster: u64) -> Result<(), Fault> {
        let mut identity = locked(&self.identity);
        match *identity {
            Some((known, heard_at)) if known != cluster => {
                if heard_at.elapsed() < STRANGER_AFTER {
                    return Err(Fault::unanswered(
                        "this server belongs to another etcd cluster than the rest",
                    ));
                }
                tracing::warn!("etcd is another cluster than before, under the same addresses; going along");
            }
            Some(_) | None => {}
        }
        *identity = Some((cluster, Instant::now()));
        Ok(())
    }

    fn heard(&self) {
        if let Some((_, heard_at)) = &mut *locked(&self.identity) {
            *heard_at = Instant::now();
        }
    }
}

impl Endpoint {
    pub(super) fn new(server: Server) -> Arc<Endpoint> {
        Arc::new(Endpoint { server, client: Mutex::default(), raft_term: AtomicU64::default() })
    }

    pub(super) fn url(&self) -> &str {
        &self.server.url
    }

    /// The last raft term that this server has told us of.
    pub(super) fn raft_term(&self) -> u64 {
        self.raft_term.load(Ordering::Relaxed)
    }

    pub(super) fn note_raft_term(&self, term: u64) {
        self.raft_term.store(term, Ordering::Relaxed);
    }

    /// The next question is put on a new connection, with a new token.
    pub(super) fn forget(&self) {
        *locked(&self.client) = None;
    }
}

fn told(servers: &[Arc<Endpoint>], failures: &[Option<String>], within: Duration) -> Fault {
    let each = servers.iter().zip(failures).filter_map(|(endpoint, failure)| {
        failure.as_ref().map(|failure| format!("{}: {failure}", endpoint.server.url))
    });
    let each: Vec<String> = each.collect();
    let within = Span::from_ms(u64::try_from(within.as_millis()).unwrap_or(u64::MAX));
    Fault::unanswered(format!("within {within}: {}", each.join("; ")))
}

/// What is kept under these locks is whole at any moment, whoever panicked.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let servers = self.roster.known();
        f.debug_list()
            .entries(servers.iter().flat_map(|servers| servers.iter()).map(|endpoint| endpoint.url()))
            .finish()
    }
}
