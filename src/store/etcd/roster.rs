//! Which servers there are to ask: those that the configuration names, or those that DNS names now.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::dns;
use super::endpoint::Endpoint;
use super::fault::Fault;
use super::settings::{Discovery, EtcdSettings, Server};

/// What DNS has said is asked again after this.
const REFRESH: Duration = Duration::from_mins(10);
/// And no sooner than this, whatever happens.
const REFRESH_MIN: Duration = Duration::from_secs(5);
/// While nothing is known yet.
const RETRY: Duration = Duration::from_secs(1);

/// The kinds of records, in the order in which they are looked for, and whether their servers speak TLS. The first kind that
/// there is counts.
const KINDS: [(&str, bool); 4] =
    [("_etcd-client-ssl", true), ("_etcd-client", false), ("_etcd-ssl", true), ("_etcd", false)];
/// Where the servers speak to each other, and not to clients.
const PEERS: [&str; 2] = ["_etcd-server-ssl", "_etcd-server"];

pub(super) type Servers = Arc<[Arc<Endpoint>]>;

pub(super) struct Roster {
    found: watch::Sender<Result<Servers, String>>,
    search: Option<Search>,
}

struct Search {
    work: Work,
    /// It ends with us.
    task: OnceLock<JoinSet<()>>,
}

#[derive(Clone)]
struct Work {
    settings: EtcdSettings,
    discovery: Discovery,
    found: watch::Sender<Result<Servers, String>>,
    doubt: Arc<Notify>,
}

impl Roster {
    pub(super) fn new(settings: &EtcdSettings) -> Roster {
        let known = match &settings.discovery {
            None => settings.servers().map(|servers| merged(&[], servers)),
            Some(discovery) => Err(format!("DNS has not said yet which servers {} has", discovery.domain)),
        };
        let found = watch::Sender::new(known);
        let search = settings.discovery.clone().map(|discovery| {
            let (settings, found) = (settings.clone(), found.clone());
            Search { work: Work { settings, discovery, found, doubt: Arc::default() }, task: OnceLock::new() }
        });
        Roster { found, search }
    }

    /// Waits for DNS only as long as nothing is known.
    pub(super) async fn servers(&self, until: Instant) -> Result<Servers, Fault> {
        let Some(search) = &self.search else {
            return self.found.borrow().clone().map_err(Fault::Refused);
        };
        search.task.get_or_init(|| {
            let mut task = JoinSet::new();
            task.spawn(search.work.clone().goes_on());
            task
        });
        let mut found = self.found.subscribe();
        // Whether or not it came in time: what is known now counts.
        let _ = timeout_at(until, found.wait_for(Result::is_ok)).await;
        self.found.borrow().clone().map_err(Fault::unanswered)
    }

    pub(super) fn known(&self) -> Option<Servers> {
        self.found.borrow().clone().ok()
    }

    /// Nobody answers: perhaps the servers are others by now.
    pub(super) fn doubt(&self) {
        if let Some(search) = &self.search {
            search.work.doubt.notify_one();
        }
    }
}

impl Work {
    async fn goes_on(self) {
        loop {
            let known = self.found.borrow().clone().unwrap_or_else(|_| Arc::new([]));
            let servers = match self.search().await {
                Ok(endpoints) => self.settings.servers_at(&endpoints),
                Err(problem) => Err(problem),
            };
            match servers {
                Ok(servers) => {
                    let servers = merged(&known, servers);
                    if urls(&servers) != urls(&known) {
                        tracing::info!(domain = self.discovery.domain, servers = ?urls(&servers), "found etcd through DNS");
                    }
                    let _ = self.found.send_replace(Ok(servers));
                }
                Err(problem) if known.is_empty() => {
                    tracing::warn!(domain = self.discovery.domain, problem, "cannot find etcd through DNS");
                    let _ = self.found.send_replace(Err(problem));
                    sleep(RETRY).await;
                    continue;
                }
                Err(problem) => {
                    tracing::warn!(
                        domain = self.discovery.domain,
                        problem,
                        "cannot find etcd through DNS; going on with the servers that are known"
                    );
                }
            }
            sleep(REFRESH_MIN).await;
            let _ = timeout(REFRESH, self.doubt.notified()).await;
        }
    }

    /// The servers as URLs.
    async fn search(&self) -> Result<Vec<String>, String> {
        let Discovery { domain, suffix, name_servers } = &self.discovery;
        let name_servers = if name_servers.is_empty() { dns::name_servers() } else { name_servers.clone() };
        let record = |kind: &str| match suffix {
            Some(suffix) => format!("{kind}-{suffix}._tcp.{domain}"),
            None => format!("{kind}._tcp.{domain}"),
        };
        for (kind, tls) in KINDS {
            let services = dns::services(&name_servers, &record(kind)).await?;
            if !services.is_empty() {
                let scheme = if tls { "https" } else { "http" };
                let url = |service: &dns::Service| format!("{scheme}://{}:{}", service.host, service.port);
                return Ok(services.iter().map(url).collect());
            }
        }
        for kind in PEERS {
            if !dns::services(&name_servers, &record(kind)).await?.is_empty() {
                return Err(format!(
                    "{} names where the servers speak to each other; add records {} for where they serve clients",
                    record(kind),
                    record("_etcd-client-ssl")
                ));
            }
        }
        Err(format!("there are no SRV records {} or {}", record("_etcd-client-ssl"), record("_etcd-client")))
    }
}

/// Whom we are connected with already stays connected.
fn merged(known: &[Arc<Endpoint>], servers: Vec<Server>) -> Servers {
    let kept = |server: Server| {
        let same = known.iter().find(|endpoint| endpoint.url() == server.url);
        same.cloned().unwrap_or_else(|| Endpoint::new(server))
    };
    servers.into_iter().map(kept).collect()
}

fn urls(servers: &[Arc<Endpoint>]) -> Vec<&str> {
    servers.iter().map(|endpoint| endpoint.url()).collect()
}
