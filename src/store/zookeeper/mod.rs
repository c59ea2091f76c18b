//! ZooKeeper, spoken to without a client library: a lease needs to know exactly what was asked when and answered by whom, and
//! that nothing keeps a session alive behind our back. Libraries ping by themselves, connect again by themselves, and keep the
//! number of the last change, which makes a reading of many znodes one of a single moment, to themselves.
//!
//! Every question goes to one server at a time, with its share of the deadline, and to the next one if that share runs out. A
//! write whose answer was lost is asked again: it compares versions, so it cannot happen twice.

mod connection;
mod ensemble;
mod fault;
mod jute;
mod look;
mod message;
mod sessions;
mod settings;
mod vitals;
mod watch;
mod write;

use std::sync::Arc;
use std::time::Duration;

pub use message::Acl;
pub use sessions::Sessions;
#[cfg(test)]
pub(crate) use sessions::Touches;
pub use settings::{PERMISSIONS, TlsSettings, ZookeeperSettings};

use super::kv::{Entry, Reading, Transaction, Verdict, Write};
use super::watch::Watch;
use super::{OpenedSession, Place, Renewal, SessionLimits, StoreError};
use crate::clock;
use crate::model::{Moment, SessionId, Span};
use connection::Connection;
use ensemble::{Ensemble, Line};
use fault::Fault;
use look::Watching;
use message::{ANY_VERSION, Code, Request};

/// With anything shorter there would be nothing left for a renewal that fails: see `lost_max`.
pub const TTL_MIN: Span = Span::from_secs(8);

/// Clones share their connections.
#[derive(Clone, Debug)]
pub(super) struct Zookeeper(Arc<Ensemble>);

/// What one renewal found out.
struct Found {
    leader: Option<Entry>,
    leader_is_ours: bool,
    sent: Moment,
    answered: Moment,
}

impl Zookeeper {
    pub(super) fn new(settings: &ZookeeperSettings) -> Zookeeper {
        Zookeeper(Arc::new(Ensemble::new(settings)))
    }

    pub(super) async fn read(
        &self,
        attempt: &'static str,
        prefix: &str,
        within: Duration,
    ) -> Result<Reading, StoreError> {
        let ask = |connection: Arc<Connection>| {
            let (prefix, place) = (prefix.to_owned(), self.0.place(prefix));
            async move { look::below(&connection, &prefix, &place, Watching::No).await }
        };
        let read = self.0.ask(Line::Shared, attempt, within, ask).await;
        read.map_err(|fault| fault.named(attempt, None))
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
        let transaction = Arc::new(transaction);
        let ask = |connection: Arc<Connection>| {
            let (transaction, ensemble) = (Arc::clone(&transaction), Arc::clone(&self.0));
            async move { write::transact(&connection, &transaction, &ensemble).await }
        };
        let done = match session {
            Some(session) => self.0.ask_through(session, attempt, within, ask).await,
            None => self.0.ask(Line::Shared, attempt, within, ask).await,
        };
        done.map_err(|fault| fault.named(attempt, session))
    }

    pub(super) async fn remove(
        &self,
        attempt: &'static str,
        prefix: &str,
        within: Duration,
    ) -> Result<(), StoreError> {
        let ask = |connection: Arc<Connection>| {
            let (prefix, place) = (prefix.to_owned(), self.0.place(prefix));
            async move { write::remove(&connection, &prefix, &place).await }
        };
        let removed = self.0.ask(Line::Shared, attempt, within, ask).await;
        removed.map_err(|fault| fault.named(attempt, None))
    }

    /// A session whose grant is lost on the way goes away by itself.
    pub(super) async fn open_session(
        &self,
        ttl: Span,
        within: Duration,
    ) -> Result<OpenedSession, StoreError> {
        const ATTEMPT: &str = "open a session";
        let opened = self.0.open_session(ATTEMPT, ttl, within).await;
        let connection = opened.map_err(|fault| fault.named(ATTEMPT, None))?;
        Ok(OpenedSession { id: connection.session, ttl: connection.timeout })
    }

    pub(super) async fn session_limits(&self, within: Duration) -> Result<SessionLimits, StoreError> {
        const ATTEMPT: &str = "ask for the shortest session";
        self.0.limits(ATTEMPT, within).await.map_err(|fault| fault.named(ATTEMPT, None))
    }

    /// Any question keeps the session alive, but an answer alone proves little: a server that follows the leader answers reads
    /// by itself, and one that was the leader goes on answering for some time after the others have left it. So whoever has the
    /// leader key asks for a write that changes nothing, which takes a majority, and reads the key behind it. Everybody else
    /// asks the leader of the servers by way of a sync. And what is granted counts from when that leader has certainly heard
    /// of the session (`sessions::Touches`), which may be somewhat before this renewal.
    pub(super) async fn renew(
        &self,
        session: SessionId,
        leader: &str,
        within: Duration,
    ) -> Result<Renewal, StoreError> {
        const ATTEMPT: &str = "renew the session";
        let asked_at = clock::now();
        let ask = |connection: Arc<Connection>| {
            let (ensemble, leader) = (Arc::clone(&self.0), leader.to_owned());
            async move { confirm(&ensemble, connection, session, &leader, asked_at).await }
        };
        let renewed = self.0.ask(Line::Of(session), ATTEMPT, within, ask).await;
        renewed.map_err(|fault| fault.named(ATTEMPT, Some(session)))
    }

    /// From now on nothing keeps the session alive until it is renewed again: not even what others write for it.
    pub(super) fn let_lapse(&self, session: SessionId) {
        self.0.sessions.lapse(session);
    }

    pub(super) async fn close_session(&self, session: SessionId, within: Duration) -> Result<(), StoreError> {
        const ATTEMPT: &str = "close the session";
        let ask = |connection: Arc<Connection>| async move {
            match connection.ask(Request::CloseSession).await?.code {
                None => Ok(()),
                Some(code) => Err(Fault::of(code)),
            }
        };
        let closed = self.0.ask_through(session, ATTEMPT, within, ask).await;
        closed.map_err(|fault| fault.named(ATTEMPT, Some(session)))?;
        self.0.sessions.forget(session);
        Ok(())
    }

    pub(super) fn watch(&self, place: &Place) -> Watch {
        watch::start(self.0.clone(), place)
    }
}

/// How much shorter than a whole session a grant may be. With anything older the session is shown anew.
pub(crate) fn lost_max(ttl: Span, settle: Span) -> Span {
    let quarter = ttl.scaled(1, 4);
    quarter + settle.min(quarter)
}

async fn confirm(
    ensemble: &Ensemble,
    mut connection: Arc<Connection>,
    session: SessionId,
    leader: &str,
    asked_at: Moment,
) -> Result<Renewal, Fault> {
    let (sessions, place) = (&ensemble.sessions, ensemble.place(leader));
    for _ in 0..2 {
        let found = renew(&connection, session, leader, &place, sessions.leads(session)).await?;
        let ttl = connection.timeout;
        let Some(proof) = sessions.proven(session, &connection, found.sent, found.answered) else {
            return Err(Fault::unanswered("another connection has taken this one's place"));
        };
        sessions.note_leading(session, found.leader_is_ours);
        let lost = asked_at.since(proof.alive_at);
        if lost <= lost_max(ttl, proof.settle) {
            return Ok(Renewal { ttl: ttl.minus(lost), leader: found.leader });
        }
        // After a pause the last certain word is old. The session is shown to its server anew.
        sessions.lapse(session);
        connection = ensemble.connection(Line::Of(session)).await?;
        sessions.note_leading(session, found.leader_is_ours);
    }
    Err(Fault::unanswered("the leader of the servers does not hear of the session"))
}

/// `leads` is a guess that saves a round trip; what is found out does not depend on it.
async fn renew(
    connection: &Connection,
    session: SessionId,
    leader: &str,
    place: &str,
    leads: bool,
) -> Result<Found, Fault> {
    let mut majority = leads;
    loop {
        let sent = clock::now();
        let confirmation = connection.send(if majority {
            // Changes nothing, and whether it can be done does not matter: a majority must agree that it was asked.
            Request::Multi(vec![Request::Check { path: place.to_owned(), version: ANY_VERSION }])
        } else {
            Request::Sync { path: place.to_owned() }
        })?;
        let reply = connection.send(Request::Data { path: place.to_owned(), watch: false })?;
        let confirmation = confirmation.answer().await?;
        let failure = if majority { confirmation.multi_failure()? } else { confirmation.code };
        let reply = reply.answer().await?;
        let found = match reply.code {
            None => {
                let (data, stat) = reply.data()?;
                Some(stat.entry(leader, data))
            }
            Some(Code::NoNode) => None,
            Some(code) => return Err(Fault::of(code)),
        };
        let ours = found.as_ref().is_some_and(|entry| entry.session == Some(session));
        match failure {
            None | Some(Code::NoNode) if !ours => {}
            None if majority => {}
            // Nobody but the leader of the servers was asked, or the key came between our two questions.
            None | Some(Code::NoNode) => {
                majority = true;
                continue;
            }
            Some(code) => return Err(Fault::of(code)),
        }
        return Ok(Found { leader: found, leader_is_ours: ours, sent, answered: clock::now() });
    }
}
