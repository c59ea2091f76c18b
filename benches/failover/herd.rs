//! Many clusters on one store: each member does to the store what an agent does, by either system's pattern, and nothing else.
//! Its WAL moves all the time. A process of its own, so that what it uses is not taken for the store's.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use etcd_client::{Client, ConnectOptions, PutOptions, WatchOptions};
use tenure::clock;
use tenure::model::{Lsn, MemberName, MemberRecord, Moment, SessionId, Span, Status, Term, Timing};
use tenure::store::{AdapterSettings, EtcdSettings, Store, StoreSettings};
use tokio::task::JoinSet;

use crate::stage::System;

const NAMESPACE: &str = "/service/";
/// Of a call to the store, as agents have it.
const WITHIN: Duration = Duration::from_secs(3);
/// After a call that failed.
const RETRY: Span = Span::from_ms(200);
/// How often positions that move are written, by both: the default `loop_wait`.
const POSITIONS: Span = Span::from_secs(10);
/// Patroni's default.
const PATRONI_TTL_S: i64 = 30;
/// Whoever started the herd hears of failed calls so often.
const TELL: Span = Span::from_secs(1);
/// The first word of the herd: everybody is at their place.
const READY: &str = "ready";

/// So many clusters of so many members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Size {
    pub clusters: u32,
    pub members: u32,
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        let numbers: Result<Vec<u32>, _> = text.split('x').map(str::parse).collect();
        match numbers.as_deref() {
            Ok([clusters, members]) => Ok(Size { clusters: *clusters, members: *members }),
            Ok(_) | Err(_) => Err("CLUSTERSxMEMBERS is wanted".to_owned()),
        }
    }
}

/// The process, as seen by whoever started it.
pub struct Herd {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
    failed: u64,
}

impl Herd {
    /// Returns when everybody has a session, and every cluster its leader. None: that did not come.
    pub fn start(
        system: System,
        size: Size,
        ttl_s: u32,
        endpoints: &[String],
        patience: Span,
    ) -> Option<Herd> {
        let mut command = Command::new(std::env::current_exe().ok()?);
        command.args(["--herd", &format!("{}x{}", size.clusters, size.members)]);
        command.args(["--herd-store", &endpoints.join(","), "--tenure-ttl", &ttl_s.to_string()]);
        command.args(["--system", &system.name().to_lowercase()]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().ok()?;
        let said = BufReader::new(child.stdout.take()?);
        let (sender, lines) = std::sync::mpsc::sync_channel(16);
        std::thread::spawn(move || said.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let herd = Herd { child, lines, failed: 0 };
        let first = herd.lines.recv_timeout(patience.as_duration()).ok();
        (first.as_deref() == Some(READY)).then_some(herd)
    }

    /// Calls that failed since this was asked last.
    pub fn failed(&mut self) -> u64 {
        let Some(now) = self.lines.try_iter().last().and_then(|line| line.parse().ok()) else { return 0 };
        now - std::mem::replace(&mut self.failed, now)
    }
}

impl Drop for Herd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Default)]
struct Tally {
    at_their_place: AtomicU32,
    failed: AtomicU64,
}

/// The process itself. It goes on until it is killed.
pub fn run(system: System, size: Size, ttl_s: u32, endpoints: &[String]) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("a runtime")?;
    let tally = Arc::new(Tally::default());
    runtime.block_on(async {
        let mut everybody = JoinSet::new();
        for cluster in 0..size.clusters {
            for member in 0..size.members {
                // Spread over the time in which each acts once, as agents that were started by people are.
                let of = u64::from(size.clusters * size.members);
                let late = POSITIONS.scaled(u64::from(cluster * size.members + member), of);
                let scope = format!("herd-{cluster}");
                let (endpoints, tally) = (endpoints.to_vec(), Arc::clone(&tally));
                everybody.spawn(async move {
                    clock::pause(late).await;
                    let life = Life { scope, member, endpoints, tally };
                    match system {
                        System::Tenure => life.live_as_tenured(ttl_s).await,
                        System::Patroni => life.live_as_patroni().await,
                    }
                });
            }
        }
        let all = size.clusters * size.members;
        while tally.at_their_place.load(Ordering::Relaxed) < all {
            clock::pause(TELL).await;
        }
        println!("{READY}");
        loop {
            println!("{}", tally.failed.load(Ordering::Relaxed));
            clock::pause(TELL).await;
        }
    })
}

struct Life {
    scope: String,
    member: u32,
    endpoints: Vec<String>,
    tally: Arc<Tally>,
}

impl Life {
    fn leads(&self) -> bool {
        self.member == 0
    }

    fn name(&self) -> String {
        format!("node{}", self.member)
    }

    fn record(&self, position: u64) -> MemberRecord {
        let address = format!("10.1.{}.{}", self.member / 250, self.member % 250);
        MemberRecord {
            conn_url: format!("postgres://{address}:5432/postgres"),
            api_url: format!("http://{address}:8008/patroni"),
            version: "4.1.5".to_owned(),
            xlog_location: Some(Lsn(position)),
            ..MemberRecord::default()
        }
    }

    /// None: it failed, and was counted.
    async fn count<T, E>(&self, outcome: Result<T, E>) -> Option<T> {
        if outcome.is_err() {
            self.tally.failed.fetch_add(1, Ordering::Relaxed);
            clock::pause(RETRY).await;
        }
        outcome.ok()
    }

    /// What `tenured` does: a watch, a lease that is kept on a connection of its own, a record, and as leader the status.
    async fn live_as_tenured(self, ttl_s: u32) {
        let settings = StoreSettings {
            namespace: NAMESPACE.to_owned(),
            scope: self.scope.clone(),
            adapter: AdapterSettings::Etcd(EtcdSettings {
                endpoints: self.endpoints.clone(),
                ..EtcdSettings::default()
            }),
        };
        let (keeping, looking) = (Store::connect(&settings), Store::connect(&settings));
        let timing = Timing::for_ttl(Span::from_secs(u64::from(ttl_s)));
        let every = if self.leads() { timing.renew_every } else { timing.ttl.scaled(1, 3) };
        let me: MemberName = self.name().parse().expect("a name");
        let (session, term) = loop {
            let opened = self.count(keeping.open_session(timing.ttl, WITHIN).await).await;
            let Some(session) = opened.map(|opened| opened.id) else { continue };
            if !self.leads() {
                break (session, None);
            }
            if let Some(term) = self.count(looking.take_lease(session, &me, None, WITHIN).await).await {
                break (session, Some(term));
            }
        };
        let mut watch = looking.watch();
        watch.next().await;
        self.tally.at_their_place.fetch_add(1, Ordering::Relaxed);
        let keep = async {
            loop {
                let began = clock::now();
                let renewed = keeping.renew(session, &me, term, WITHIN).await;
                if self.count(renewed).await.is_some() {
                    clock::pause(every.minus(clock::now().since(began))).await;
                }
            }
        };
        let look = async {
            loop {
                watch.next().await;
            }
        };
        tokio::join!(keep, look, self.publish(&looking, &me, session, term));
    }

    async fn publish(&self, store: &Store, me: &MemberName, session: SessionId, term: Option<Term>) {
        let mut position = 1 << 24;
        loop {
            let began = clock::now();
            position += 4096;
            self.count(store.put_member(session, me, &self.record(position), WITHIN).await).await;
            if let Some(term) = term {
                let status = Status { optime: Some(Lsn(position)), ..Status::default() };
                self.count(store.put_status(me, term, &status, WITHIN).await).await;
            }
            rest_of(began).await;
        }
    }

    /// What Patroni 4.1.5 does with etcd3 once in `loop_wait`: it keeps its lease alive and writes its record, which names a position; the
    /// leader writes the status. It reads by a watch. Its requests are JSON over HTTP, which costs etcd more than these.
    async fn live_as_patroni(self) {
        let base = format!("{NAMESPACE}{}/", self.scope);
        let options = ConnectOptions::new().with_timeout(WITHIN);
        let (mut client, lease) = loop {
            let connected = Client::connect(&self.endpoints, Some(options.clone())).await;
            let Some(mut client) = self.count(connected).await else { continue };
            let granted = client.lease_grant(PATRONI_TTL_S, None).await;
            if let Some(granted) = self.count(granted).await {
                break (client, granted.id());
            }
        };
        let held = || Some(PutOptions::new().with_lease(lease));
        let (record_key, status_key) = (format!("{base}members/{}", self.name()), format!("{base}status"));
        if self.leads() {
            self.count(client.put(format!("{base}leader"), self.name(), held()).await).await;
        }
        let mut watching = loop {
            // Without a bound in time: it is never to end.
            let connected = Client::connect(&self.endpoints, None).await;
            let Some(mut client) = self.count(connected).await else { continue };
            let options = WatchOptions::new().with_prefix();
            if let Some(stream) = self.count(client.watch(base.as_str(), Some(options)).await).await {
                break stream;
            }
        };
        self.tally.at_their_place.fetch_add(1, Ordering::Relaxed);
        let look = async { while let Ok(Some(_)) = watching.message().await {} };
        let keep = async {
            let mut position = 1 << 24;
            loop {
                let began = clock::now();
                position += 4096;
                self.count(client.lease_keep_alive(lease).await).await;
                let record = serde_json::to_string(&self.record(position)).expect("a record is JSON");
                self.count(client.put(record_key.as_str(), record, held()).await).await;
                if self.leads() {
                    let status = format!("{{\"optime\":{position}}}");
                    self.count(client.put(status_key.as_str(), status, None).await).await;
                }
                rest_of(began).await;
            }
        };
        tokio::join!(keep, look);
    }
}

async fn rest_of(began: Moment) {
    clock::pause(POSITIONS.minus(clock::now().since(began))).await;
}
