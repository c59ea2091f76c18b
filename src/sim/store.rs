//! The store's own mind: keys, versions, sessions that end by its own clock. Requests come and answers go in `world`.

use std::collections::BTreeMap;
use std::rc::Rc;

use serde_json::json;

use super::{MS, Time};
use crate::decide::fault::{self, Fault};
use crate::decide::mind::ErrandOutcome;
use crate::model::{
    Claim, Cluster, Errand, FailoverRequest, HistoryLine, Initialize, Intent, Intents, Leader, MemberName,
    MemberRecord, SessionId, Span, Status, SyncState, SystemId, Term, Versioned,
};

#[derive(Clone, Debug)]
pub(super) enum Request {
    Open {
        ttl: Span,
    },
    /// `shown`: over a new connection, which ZooKeeper's leader hears of at once.
    Renew {
        session: SessionId,
        hold: Option<Term>,
        name: MemberName,
        shown: bool,
    },
    Close {
        session: SessionId,
    },
    Errand {
        errand: Errand,
        name: MemberName,
        session: Option<SessionId>,
        /// The last word of a leader that gives the lease back.
        status: Option<Box<Status>>,
    },
    PutMember {
        name: MemberName,
        record: Box<MemberRecord>,
        session: SessionId,
    },
    PutStatus {
        term: Term,
        status: Status,
    },
    PutHistory {
        term: Term,
        history: Vec<HistoryLine>,
    },
    PutFailsafe {
        term: Term,
        members: BTreeMap<MemberName, String>,
    },
    Read,
}

#[derive(Clone, Debug)]
pub(super) enum Answer {
    Opened(SessionId),
    Renewed {
        key_ours: bool,
    },
    SessionGone,
    Errand(ErrandOutcome),
    Written,
    /// A condition of the write did not hold.
    NotWritten,
    Cluster(Rc<Cluster>, i64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Making {
    Absent,
    Running(SessionId),
    Done(SystemId),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct StoreSession {
    ttl: Span,
    pub ends_at: Time,
    /// Since when the store's leader knows of the session, and what it has not heard of yet. (ZooKeeper only.)
    known_at: Time,
    unheard: [Time; UNHEARD_MAX],
}

/// More renewals than come within a tick.
const UNHEARD_MAX: usize = 8;

#[derive(Clone, Debug)]
pub(super) struct Store {
    pub up: bool,
    /// The store is ZooKeeper, with a tick of this length. Its leader ends sessions, and hears of those that are spoken to
    /// other servers every half tick. Here it always goes as badly as it can: the server that was spoken to is lost before
    /// it is asked again. Sessions end at ticks only.
    pub tick: Option<Span>,
    /// Its clock runs this much faster than true time.
    pub clock_ppm: i64,
    pub revision: i64,
    pub sessions: BTreeMap<SessionId, StoreSession>,
    pub leader: Option<Leader>,
    claim: Option<Versioned<Claim>>,
    making: Making,
    members: BTreeMap<MemberName, (MemberRecord, SessionId)>,
    status: Status,
    history: Vec<HistoryLine>,
    failsafe: BTreeMap<MemberName, String>,
    failover: Option<Versioned<FailoverRequest>>,
    pub sync: Option<Versioned<SyncState>>,
    intents: Option<Versioned<Intents>>,
    next_session: i64,
    snapshot: Option<(i64, Rc<Cluster>)>,
}

impl Store {
    pub fn new(clock_ppm: i64) -> Store {
        Store {
            up: true,
            tick: None,
            clock_ppm,
            revision: 1,
            sessions: BTreeMap::new(),
            leader: None,
            claim: None,
            making: Making::Absent,
            members: BTreeMap::new(),
            status: Status::default(),
            history: Vec::new(),
            failsafe: BTreeMap::new(),
            failover: None,
            sync: None,
            intents: None,
            next_session: 1,
            snapshot: None,
        }
    }

    pub fn answer(&mut self, now: Time, request: Request) -> Answer {
        match request {
            Request::Open { ttl } => {
                let id = SessionId(self.next_session);
                self.next_session += 1;
                self.sessions.insert(id, self.known(now, ttl));
                Answer::Opened(id)
            }
            Request::Renew { session, hold, name, shown } => self.renew(now, session, hold, &name, shown),
            Request::Close { session } => {
                self.end_session(session);
                Answer::Written
            }
            Request::Errand { errand, name, session, status } => {
                let outcome = self.run(&errand, name, session);
                if let (Errand::ReleaseLease { .. }, ErrandOutcome::Done, Some(status)) =
                    (errand, outcome, status)
                {
                    self.status = *status;
                }
                Answer::Errand(outcome)
            }
            Request::PutMember { name, record, session } => {
                if !self.sessions.contains_key(&session) {
                    return Answer::SessionGone;
                }
                self.members.insert(name, (*record, session));
                self.written()
            }
            // Only the leader of that term writes these: a word of an old one may arrive late.
            Request::PutStatus { term, status } if self.led_in(term) => {
                self.status = status;
                self.written()
            }
            Request::PutHistory { term, history } if self.led_in(term) => {
                self.history = history;
                self.written()
            }
            Request::PutFailsafe { term, members } if self.led_in(term) => {
                self.failsafe = members;
                self.written()
            }
            Request::PutStatus { .. } | Request::PutHistory { .. } | Request::PutFailsafe { .. } => {
                Answer::NotWritten
            }
            Request::Read => {
                let cluster = self.cluster();
                Answer::Cluster(cluster, self.revision)
            }
        }
    }

    pub fn cluster(&mut self) -> Rc<Cluster> {
        if let Some((revision, cluster)) = &self.snapshot
            && *revision == self.revision
        {
            return Rc::clone(cluster);
        }
        let cluster = Rc::new(Cluster {
            initialize: match self.making {
                Making::Absent => Initialize::Absent,
                Making::Running(_) => Initialize::Running,
                Making::Done(system) => Initialize::Done(system),
            },
            maker: match self.making {
                Making::Running(session) => Some(session),
                Making::Absent | Making::Done(_) => None,
            },
            leader: self.leader.clone(),
            members: self.members.iter().map(|(name, (record, _))| (name.clone(), record.clone())).collect(),
            config: Some(Versioned { value: json!({}), version: 1 }),
            status: self.status.clone(),
            failover: self.failover.clone(),
            sync: self.sync.clone(),
            history: self.history.clone(),
            failsafe: self.failsafe.clone(),
            claim: self.claim.clone(),
            intents: self.intents.clone(),
        });
        self.snapshot = Some((self.revision, Rc::clone(&cluster)));
        cluster
    }

    /// A session that has not been renewed in time ends, and what hangs on it goes away.
    pub fn expire(&mut self, now: Time, session: SessionId) {
        if self.up && self.sessions.get(&session).is_some_and(|session| session.ends_at <= now) {
            self.end_session(session);
        }
    }

    /// A new leader among the store's servers does not know when sessions were renewed last, and begins anew.
    pub fn extend_sessions(&mut self, now: Time) {
        let anew = self.sessions.iter().map(|(id, session)| (*id, self.known(now, session.ttl)));
        self.sessions = anew.collect();
    }

    pub fn request_failover(&mut self, leader: Option<MemberName>, candidate: Option<MemberName>) {
        self.schedule_failover(leader, candidate, None);
    }

    /// A time is a number of microseconds here.
    pub fn schedule_failover(
        &mut self,
        leader: Option<MemberName>,
        candidate: Option<MemberName>,
        at: Option<Time>,
    ) {
        let request =
            FailoverRequest { leader, candidate, scheduled_at: at.map(|at| at.to_string()), whose: None };
        self.revision += 1;
        self.failover = Some(Versioned { value: request, version: self.revision });
    }

    /// A time is a number of microseconds here, too.
    pub fn pause_until(&mut self, at: Time) {
        let pause = Intent { until: Some(at.to_string()), ..Intent::default() };
        self.revision += 1;
        let value = Intents { pause: Some(pause), ..Intents::default() };
        self.intents = Some(Versioned { value, version: self.revision });
    }

    fn end_of(&self, now: Time, ttl: Span) -> Time {
        let faster = u64::try_from(1_000_000 + self.clock_ppm).unwrap_or(1_000_000);
        let end = now + ttl.as_ms() * MS * 1_000_000 / faster;
        match self.tick {
            Some(tick) => end.next_multiple_of(tick.as_ms() * MS),
            None => end,
        }
    }

    /// A session that the store's leader has heard of just now.
    fn known(&self, now: Time, ttl: Span) -> StoreSession {
        StoreSession { ttl, ends_at: self.end_of(now, ttl), known_at: now, unheard: [now; UNHEARD_MAX] }
    }

    /// A session that was spoken to just now.
    fn spoken_to(&self, now: Time, session: StoreSession, shown: bool) -> StoreSession {
        let Some(tick) = self.tick.filter(|_| !shown) else { return self.known(now, session.ttl) };
        let asked_for_since = now.saturating_sub(tick.as_ms() * MS / 2);
        let heard = session.unheard.iter().copied().filter(|at| *at <= asked_for_since);
        let known_at = heard.fold(session.known_at, Time::max);
        let mut unheard = session.unheard;
        unheard.rotate_left(1);
        unheard[UNHEARD_MAX - 1] = now;
        StoreSession { known_at, unheard, ends_at: self.end_of(known_at, session.ttl), ..session }
    }

    fn renew(
        &mut self,
        now: Time,
        id: SessionId,
        hold: Option<Term>,
        name: &MemberName,
        shown: bool,
    ) -> Answer {
        let Some(session) = self.sessions.get(&id).copied() else { return Answer::SessionGone };
        self.sessions.insert(id, self.spoken_to(now, session, shown));
        let ours =
            |leader: &Leader| leader.name == *name && Some(leader.term) == hold && leader.session == Some(id);
        Answer::Renewed { key_ours: self.leader.as_ref().is_some_and(ours) }
    }

    fn run(&mut self, errand: &Errand, name: MemberName, session: Option<SessionId>) -> ErrandOutcome {
        let alive = session.filter(|session| self.sessions.contains_key(session));
        let Some(session) = alive else { return ErrandOutcome::Refused };
        let done = match errand {
            Errand::TakeInitialize if self.making == Making::Absent => {
                self.making = Making::Running(session);
                true
            }
            Errand::FinishInitialize { system }
                if self.making == Making::Running(session) || self.making == Making::Absent =>
            {
                self.making = Making::Done(*system);
                true
            }
            Errand::AbandonInitialize if self.making == Making::Running(session) => {
                self.making = Making::Absent;
                true
            }
            Errand::TakeLease { claim } => {
                let version = self.claim.as_ref().map_or(0, |claim| claim.version);
                if self.leader.is_some() || version != claim.seen_version {
                    return ErrandOutcome::Conflict;
                }
                self.revision += 1;
                let term = Term(u64::try_from(self.revision).unwrap_or(0));
                self.leader = Some(Leader { name: name.clone(), term, session: Some(session) });
                let value = Claim { timeline: claim.timeline, by: name };
                self.claim = Some(Versioned { value, version: self.revision });
                return ErrandOutcome::Taken { term };
            }
            Errand::ReleaseLease { term }
                if self.leader.as_ref().is_some_and(|l| l.name == name && l.term == *term) =>
            {
                self.leader = None;
                self.failsafe.clear();
                true
            }
            Errand::ClearFailover { version }
                if self.failover.as_ref().is_some_and(|request| request.version == *version) =>
            {
                self.failover = None;
                true
            }
            Errand::MakeDue { request, version }
                if self.failover.as_ref().is_some_and(|request| request.version == *version) =>
            {
                self.failover = Some(Versioned { value: request.clone(), version: self.revision + 1 });
                true
            }
            Errand::EndPause { intents, .. }
                if self.intents.as_ref().is_some_and(|present| present.version == *intents) =>
            {
                self.intents = None;
                true
            }
            Errand::WriteSync { term, state, version } if self.may_write_sync(*term, *version) => {
                self.sync = Some(Versioned { value: state.clone(), version: self.revision + 1 });
                true
            }
            Errand::ClearSync { term, version } if self.may_write_sync(*term, *version) => {
                self.sync = None;
                true
            }
            Errand::WriteSync { .. }
            | Errand::ClearSync { .. }
            | Errand::MakeDue { .. }
            | Errand::EndPause { .. }
            | Errand::TakeInitialize
            | Errand::FinishInitialize { .. }
            | Errand::AbandonInitialize
            | Errand::ReleaseLease { .. }
            | Errand::ClearFailover { .. } => false,
        };
        if !done {
            return ErrandOutcome::Conflict;
        }
        self.revision += 1;
        ErrandOutcome::Done
    }

    fn may_write_sync(&self, term: Term, version: i64) -> bool {
        let present = self.sync.as_ref().map_or(0, |sync| sync.version);
        (self.led_in(term) && present == version) || fault::active(Fault::SyncIgnoresVersions)
    }

    fn led_in(&self, term: Term) -> bool {
        self.leader.as_ref().is_some_and(|leader| leader.term == term)
    }

    fn written(&mut self) -> Answer {
        self.revision += 1;
        Answer::Written
    }

    fn end_session(&mut self, id: SessionId) {
        if self.sessions.remove(&id).is_none() {
            return;
        }
        self.revision += 1;
        self.members.retain(|_, (_, session)| *session != id);
        if self.leader.as_ref().is_some_and(|leader| leader.session == Some(id)) {
            self.leader = None;
        }
        if self.making == Making::Running(id) {
            self.making = Making::Absent;
        }
    }
}
