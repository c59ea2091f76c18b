//! A store in this process, for tests: the same contract as etcd, and faults on demand. Not a product.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::time::Instant;

use super::kv::{Entry, Reading, StoreId, Transaction, Verdict, Write};
use super::watch::{Publisher, Watch};
use super::{OpenedSession, Place, Renewal, StoreError};
use crate::model::{SessionId, Span};

const STORE: StoreId = StoreId(1);

/// Clones are the same store.
#[derive(Clone, Debug)]
pub struct Memory {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    revision: i64,
    entries: BTreeMap<String, Entry>,
    sessions: BTreeMap<SessionId, Life>,
    sessions_opened: i64,
    unreachable: bool,
    answers_to_lose: u32,
}

#[derive(Debug)]
struct Life {
    ttl: Span,
    ends: Instant,
}

impl Default for Memory {
    fn default() -> Memory {
        Memory { state: Arc::default(), changed: watch::channel(()).0 }
    }
}

impl Memory {
    pub fn new() -> Memory {
        Memory::default()
    }

    /// From now on nobody gets through, or everybody does again.
    pub fn set_reachable(&self, reachable: bool) {
        self.state().unreachable = !reachable;
        self.changed.send_replace(());
    }

    /// The next writes happen, but nobody hears of it.
    pub fn lose_answers(&self, count: u32) {
        self.state().answers_to_lose = count;
    }

    /// Writes what nobody of ours would have written.
    pub fn write(&self, path: &str, value: &[u8]) {
        let mut state = self.state();
        state.revision += 1;
        state.write(&Write::Put { path: path.to_owned(), value: value.to_owned(), session: None });
        drop(state);
        self.changed.send_replace(());
    }

    pub(super) fn read(&self, attempt: &'static str, prefix: &str) -> Result<Reading, StoreError> {
        let state = self.reached(attempt)?;
        let entries = state.below(prefix).cloned().collect();
        Ok(Reading { store: STORE, revision: state.revision, entries })
    }

    pub(super) fn transact(
        &self,
        attempt: &'static str,
        transaction: &Transaction,
    ) -> Result<Verdict, StoreError> {
        let mut state = self.reached(attempt)?;
        let holds = (transaction.checks.iter()).all(|check| check.must.holds(state.entries.get(&check.path)));
        if !holds {
            let look = |path| state.entries.get(path).cloned();
            return Ok(Verdict::Failed { seen: transaction.look_at.iter().map(look).collect() });
        }
        for write in &transaction.writes {
            if let Write::Put { session: Some(session), .. } = write
                && !state.sessions.contains_key(session)
            {
                return Err(StoreError::SessionGone { attempt, session: *session });
            }
        }
        state.revision += 1;
        for write in &transaction.writes {
            state.write(write);
        }
        let revision = state.revision;
        self.answered(attempt, state).map(|()| Verdict::Done { revision })
    }

    pub(super) fn remove(&self, attempt: &'static str, prefix: &str) -> Result<(), StoreError> {
        let mut state = self.reached(attempt)?;
        state.revision += 1;
        state.entries.retain(|path, _| !path.starts_with(prefix));
        self.answered(attempt, state)
    }

    pub(super) fn open_session(&self, ttl: Span) -> Result<OpenedSession, StoreError> {
        const ATTEMPT: &str = "open a session";
        let mut state = self.reached(ATTEMPT)?;
        state.sessions_opened += 1;
        let id = SessionId(state.sessions_opened);
        state.sessions.insert(id, Life { ttl, ends: Instant::now() + ttl.as_duration() });
        self.answered(ATTEMPT, state).map(|()| OpenedSession { id, ttl })
    }

    pub(super) fn renew(&self, session: SessionId, leader: &str) -> Result<Renewal, StoreError> {
        const ATTEMPT: &str = "renew the session";
        let mut state = self.reached(ATTEMPT)?;
        let Some(life) = state.sessions.get_mut(&session) else {
            return Err(StoreError::SessionGone { attempt: ATTEMPT, session });
        };
        life.ends = Instant::now() + life.ttl.as_duration();
        let ttl = life.ttl;
        let leader = state.entries.get(leader).cloned();
        self.answered(ATTEMPT, state).map(|()| Renewal { ttl, leader })
    }

    pub(super) fn close_session(&self, session: SessionId) -> Result<(), StoreError> {
        const ATTEMPT: &str = "close the session";
        let mut state = self.reached(ATTEMPT)?;
        state.end(session);
        self.answered(ATTEMPT, state)
    }

    pub(super) fn watch(&self, place: &Place) -> Watch {
        let (memory, base) = (self.clone(), place.base().to_owned());
        Watch::start(place, |publisher| memory.follow(base, publisher))
    }

    async fn follow(self, base: String, mut publisher: Publisher) {
        let mut changed = self.changed.subscribe();
        loop {
            match self.read("watch the cluster", &base) {
                Ok(reading) => publisher.publish(reading.store, reading.revision, &reading.entries),
                Err(error) => publisher.silent(error),
            }
            let next_end = self.state().sessions.values().map(|life| life.ends).min();
            tokio::select! {
                changed = changed.changed() => if changed.is_err() { return },
                () = async {
                    match next_end {
                        Some(at) => tokio::time::sleep_until(at).await,
                        None => std::future::pending().await,
                    }
                } => {}
                () = publisher.abandoned() => return,
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.expire(Instant::now());
        state
    }

    fn reached(&self, attempt: &'static str) -> Result<MutexGuard<'_, State>, StoreError> {
        let state = self.state();
        if state.unreachable {
            return Err(StoreError::unanswered(attempt, "the store cannot be reached"));
        }
        Ok(state)
    }

    /// Lets everybody see what was done, and the caller hear of it unless answers are being lost.
    fn answered(&self, attempt: &'static str, mut state: MutexGuard<'_, State>) -> Result<(), StoreError> {
        let lost = 0 < state.answers_to_lose;
        state.answers_to_lose = state.answers_to_lose.saturating_sub(1);
        drop(state);
        self.changed.send_replace(());
        if lost { Err(StoreError::unanswered(attempt, "the answer was lost")) } else { Ok(()) }
    }
}

impl State {
    fn below<'state>(&'state self, prefix: &'state str) -> impl Iterator<Item = &'state Entry> {
        let from = self.entries.range(prefix.to_owned()..);
        from.take_while(move |(path, _)| path.starts_with(prefix)).map(|(_, entry)| entry)
    }

    fn write(&mut self, write: &Write) {
        match write {
            Write::Put { path, value, session } => {
                let created = self.entries.get(path).map_or(self.revision, |entry| entry.created);
                let entry = Entry {
                    path: path.clone(),
                    value: value.clone(),
                    created,
                    version: self.revision,
                    session: *session,
                };
                self.entries.insert(path.clone(), entry);
            }
            Write::Delete { path } => {
                self.entries.remove(path);
            }
        }
    }

    fn expire(&mut self, now: Instant) {
        let ended: Vec<SessionId> =
            self.sessions.iter().filter(|(_, life)| life.ends <= now).map(|(id, _)| *id).collect();
        for session in ended {
            self.end(session);
        }
    }

    fn end(&mut self, session: SessionId) {
        if self.sessions.remove(&session).is_some() {
            self.revision += 1;
            self.entries.retain(|_, entry| entry.session != Some(session));
        }
    }
}
