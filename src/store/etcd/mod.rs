//! etcd v3 over gRPC. Every question goes to one server at a time, with its share of the deadline, and to the next one if
//! that share runs out: a dead or frozen server never costs the whole deadline. (The client's own balancer would hand a
//! request to any server that once accepted a connection, and leave it there.)
//!
//! A write whose answer was lost is asked again on the next server. That is safe because every write here is either
//! guarded by checks that its first success makes fail, or writes the same value over itself.

mod dns;
mod endpoint;
mod fault;
mod roster;
mod settings;
mod vitals;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, GetOptions, KeyValue, PutOptions, Txn, TxnOp, TxnOpResponse,
};

pub use settings::{Discovery, EtcdSettings};

use super::kv::{Check, Entry, Must, Reading, StoreId, Transaction, Verdict, Write};
use super::watch::Watch;
use super::{OpenedSession, Place, Renewal, SessionLimits, StoreError};
use crate::model::{SessionId, Span};
use endpoint::{Endpoint, Endpoints};
use fault::Fault;

/// How often in one renewal etcd may be found to have changed its own leader.
const TERM_CHANGES_MAX: u32 = 3;

/// Clones share their connections.
#[derive(Clone, Debug)]
pub(super) struct Etcd(Arc<Endpoints>);

impl Etcd {
    /// `probe` is a key that our user may read.
    pub(super) fn new(settings: &EtcdSettings, probe: String) -> Etcd {
        Etcd(Arc::new(Endpoints::new(settings, probe)))
    }

    pub(super) async fn read(
        &self,
        attempt: &'static str,
        prefix: &str,
        within: Duration,
    ) -> Result<Reading, StoreError> {
        let ask = |client: Client, _| read(client, prefix.to_owned());
        self.0.ask(attempt, within, ask).await.map_err(|failure| failure.named(attempt, None))
    }

    pub(super) async fn transact(
        &self,
        attempt: &'static str,
        transaction: Transaction,
        within: Duration,
    ) -> Result<Verdict, StoreError> {
        let session = transaction.writes.iter().find_map(|write| match write {
            Write::Put { session, .. } => *session,
            Write::Delete { .. } => None,
        });
        let txn = spelled(&transaction);
        let ask = |mut client: Client, _| {
            let txn = txn.clone();
            async move {
                let response = client.txn(txn).await?;
                if !response.succeeded() {
                    let seen = response.op_responses().into_iter().map(|response| match response {
                        TxnOpResponse::Get(found) => found.kvs().first().and_then(entry),
                        TxnOpResponse::Put(_) | TxnOpResponse::Delete(_) | TxnOpResponse::Txn(_) => None,
                    });
                    return Ok(Verdict::Failed { seen: seen.collect() });
                }
                let header = response.header().ok_or_else(Fault::headless)?;
                Ok(Verdict::Done { revision: header.revision() })
            }
        };
        self.0.ask(attempt, within, ask).await.map_err(|failure| failure.named(attempt, session))
    }

    pub(super) async fn remove(
        &self,
        attempt: &'static str,
        prefix: &str,
        within: Duration,
    ) -> Result<(), StoreError> {
        let ask = |mut client: Client, _| {
            let prefix = prefix.to_owned();
            async move {
                client.delete(prefix, Some(DeleteOptions::new().with_prefix())).await?;
                Ok(())
            }
        };
        self.0.ask(attempt, within, ask).await.map_err(|failure| failure.named(attempt, None))
    }

    /// A grant whose answer is lost leaves a lease behind that nobody renews: it goes away by itself.
    pub(super) async fn open_session(
        &self,
        ttl: Span,
        within: Duration,
    ) -> Result<OpenedSession, StoreError> {
        const ATTEMPT: &str = "open a session";
        let seconds = i64::try_from(ttl.as_ms().div_ceil(1000)).unwrap_or(i64::MAX).max(1);
        let ask = |mut client: Client, _| async move {
            let granted = client.lease_grant(seconds, None).await?;
            Ok((SessionId(granted.id()), span(granted.ttl())))
        };
        let (id, ttl) =
            self.0.ask(ATTEMPT, within, ask).await.map_err(|failure| failure.named(ATTEMPT, None))?;
        self.0.remember_ttl(id, ttl);
        Ok(OpenedSession { id, ttl })
    }

    /// Found out with a lease that ends at once: etcd derives its minimum from its election timeout, and tells it nowhere else.
    pub(super) async fn session_limits(&self, within: Duration) -> Result<SessionLimits, StoreError> {
        const ATTEMPT: &str = "ask for the shortest lease";
        let ask = |mut client: Client, _| async move {
            let granted = client.lease_grant(1, None).await?;
            // One that stays ends by itself.
            let _ = client.lease_revoke(granted.id()).await;
            Ok(SessionLimits { shortest: span(granted.ttl()), longest: None })
        };
        self.0.ask(ATTEMPT, within, ask).await.map_err(|failure| failure.named(ATTEMPT, None))
    }

    /// A lease is kept alive by whoever believes to lead etcd, without asking the others. One that has been deposed may
    /// therefore confirm a renewal that its successor never hears of. So the server must tell of the same raft term
    /// before the renewal and in a read after it that a majority has confirmed: then it was the true leader that renewed.
    pub(super) async fn renew(
        &self,
        session: SessionId,
        leader: &str,
        within: Duration,
    ) -> Result<Renewal, StoreError> {
        const ATTEMPT: &str = "renew the session";
        let known_ttl = self.0.known_ttl(session);
        let ask = |client: Client, endpoint: Arc<Endpoint>| {
            renew(client, endpoint, session, leader.to_owned(), known_ttl)
        };
        let renewal = self
            .0
            .ask(ATTEMPT, within, ask)
            .await
            .map_err(|failure| failure.named(ATTEMPT, Some(session)))?;
        self.0.remember_ttl(session, renewal.ttl);
        Ok(renewal)
    }

    pub(super) async fn close_session(&self, session: SessionId, within: Duration) -> Result<(), StoreError> {
        const ATTEMPT: &str = "close the session";
        let ask = |mut client: Client, _| async move {
            client.lease_revoke(session.0).await?;
            Ok(())
        };
        self.0.ask(ATTEMPT, within, ask).await.map_err(|failure| failure.named(ATTEMPT, Some(session)))
    }

    pub(super) fn watch(&self, place: &Place) -> Watch {
        watch::start(self.0.clone(), place)
    }
}

/// All keys below a prefix, confirmed by a majority to be the present ones.
async fn read(mut client: Client, prefix: String) -> Result<Reading, Fault> {
    let response = client.get(prefix, Some(GetOptions::new().with_prefix())).await?;
    let header = response.header().ok_or_else(Fault::headless)?;
    Ok(Reading {
        store: StoreId(header.cluster_id()),
        revision: header.revision(),
        entries: response.kvs().iter().filter_map(entry).collect(),
    })
}

async fn renew(
    mut client: Client,
    endpoint: Arc<Endpoint>,
    session: SessionId,
    leader: String,
    known_ttl: Option<Span>,
) -> Result<Renewal, Fault> {
    for _ in 0..=TERM_CHANGES_MAX {
        let term_before = endpoint.raft_term();
        client.lease_keep_alive(session.0).await?;
        let response = client.get(leader.as_str(), None).await?;
        let term_after = response.header().ok_or_else(Fault::headless)?.raft_term();
        endpoint.note_raft_term(term_after);
        if term_before != term_after {
            continue;
        }
        let ttl = match known_ttl {
            Some(ttl) => ttl,
            None => granted_ttl(client, session).await?,
        };
        return Ok(Renewal { ttl, leader: response.kvs().first().and_then(entry) });
    }
    Err(Fault::unanswered("etcd keeps changing its own leader"))
}

/// Of a session that another life of this agent has opened.
async fn granted_ttl(mut client: Client, session: SessionId) -> Result<Span, Fault> {
    let life = client.lease_time_to_live(session.0, None).await?;
    if life.ttl() <= 0 {
        return Err(Fault::SessionGone);
    }
    Ok(span(life.granted_ttl()))
}

fn span(seconds: i64) -> Span {
    Span::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// A key that is not text is none of ours.
fn entry(kv: &KeyValue) -> Option<Entry> {
    Some(Entry {
        path: kv.key_str().ok()?.to_owned(),
        value: kv.value().to_vec(),
        created: kv.create_revision(),
        version: kv.mod_revision(),
        session: (kv.lease() != 0).then_some(SessionId(kv.lease())),
    })
}

fn spelled(transaction: &Transaction) -> Txn {
    let checks: Vec<Compare> = transaction.checks.iter().map(spelled_check).collect();
    let writes: Vec<TxnOp> = transaction.writes.iter().map(spelled_write).collect();
    let looks: Vec<TxnOp> = transaction.look_at.iter().map(|path| TxnOp::get(path.as_str(), None)).collect();
    Txn::new().when(checks).and_then(writes).or_else(looks)
}

fn spelled_check(Check { path, must }: &Check) -> Compare {
    let path = path.as_str();
    match must {
        Must::BeAbsent => Compare::create_revision(path, CompareOp::Equal, 0),
        Must::HaveVersion(version) => Compare::mod_revision(path, CompareOp::Equal, *version),
        Must::BeCreatedAt(revision) => Compare::create_revision(path, CompareOp::Equal, *revision),
        Must::Hold(value) => Compare::value(path, CompareOp::Equal, value.as_slice()),
    }
}

fn spelled_write(write: &Write) -> TxnOp {
    match write {
        Write::Put { path, value, session } => {
            let options = session.map(|session| PutOptions::new().with_lease(session.0));
            TxnOp::put(path.as_str(), value.as_slice(), options)
        }
        Write::Delete { path } => TxnOp::delete(path.as_str(), None),
    }
}
