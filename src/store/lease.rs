//! Sessions, the lease, and the right to make a cluster's data. Every write here can be repeated after a lost answer: it is
//! done as soon as the store stands as it should, whoever's attempt it was that brought it there.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::format::{self, INITIALIZING, Key};
use super::kv::{Entry, Must, Transaction, Verdict};
use super::{Store, StoreError};
use crate::model::{Claim, MemberName, NewClaim, SessionId, Span, Status, SystemId, Term};

/// A session that the store has just granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenedSession {
    pub id: SessionId,
    /// What the store really grants, which may be more than was asked for.
    pub ttl: Span,
}

/// How short and how long a session of this store may be, whatever is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    pub shortest: Span,
    /// None: as long as anybody wants.
    pub longest: Option<Span>,
}

impl SessionLimits {
    pub fn granted(&self, asked: Span) -> Span {
        asked.min(self.longest.unwrap_or(asked)).max(self.shortest)
    }
}

impl Store {
    /// Read back from the running servers. Where they differ, what holds on all of them.
    pub async fn session_limits(&self, within: Duration) -> Result<SessionLimits, StoreError> {
        self.adapter.session_limits(within).await
    }

    pub async fn open_session(&self, ttl: Span, within: Duration) -> Result<OpenedSession, StoreError> {
        self.adapter.open_session(ttl, within).await
    }

    /// Keeps the session alive and, if a term is given, confirms that the leader key is still ours. Both must succeed.
    /// A lease counts from *before* this call was made, and only if it names the term.
    ///
    /// Returns how long the session lives from then on without another renewal.
    pub async fn renew(
        &self,
        session: SessionId,
        me: &MemberName,
        term: Option<Term>,
        within: Duration,
    ) -> Result<Span, StoreError> {
        let renewed = self.adapter.renew(session, &self.place.path(&Key::Leader), within).await?;
        match term {
            Some(term) if !is_ours(renewed.leader.as_ref(), session, me, term) => {
                Err(StoreError::conflict("renew the lease", told(renewed.leader.as_ref())))
            }
            Some(_) | None => Ok(renewed.ttl),
        }
    }

    /// Ends the session and takes every key away that hangs on it. One that has ended already is as good.
    pub async fn close_session(&self, session: SessionId, within: Duration) -> Result<(), StoreError> {
        match self.adapter.close_session(session, within).await {
            Err(StoreError::SessionGone { .. }) => Ok(()),
            other => other,
        }
    }

    /// Takes the leader key, if nobody has it, and with it the claim, if nobody has claimed since `seen_version`.
    /// That the key is ours says nothing of how long: only a renewal with the term does.
    pub async fn take_lease(
        &self,
        session: SessionId,
        me: &MemberName,
        claim: Option<NewClaim>,
        within: Duration,
    ) -> Result<Term, StoreError> {
        const ATTEMPT: &str = "take the lease";
        let (leader, claim_key) = (self.place.path(&Key::Leader), self.place.path(&Key::Claim));
        let mut transaction = Transaction::default()
            .when(&leader, Must::BeAbsent)
            .put_for(session, &leader, format::leader(me))
            .else_look_at(&leader)
            .else_look_at(&claim_key);
        let claimed =
            claim.map(|NewClaim { timeline, .. }| format::claim(&Claim { timeline, by: me.clone() }));
        if let (Some(claim), Some(claimed)) = (claim, &claimed) {
            transaction = transaction
                .when(&claim_key, Must::HaveVersion(claim.seen_version))
                .put(&claim_key, claimed.as_str());
        }
        let seen = match self.adapter.transact(ATTEMPT, transaction, within).await? {
            Verdict::Done { revision } => return term(ATTEMPT, revision),
            Verdict::Failed { seen } => seen,
        };
        let [holder, present_claim] = two(seen);
        match holder {
            // An earlier attempt of ours has reached the store and its answer was lost. It counts only with its claim.
            Some(holder) if belongs_to(&holder, session, me) => {
                let with_claim = claimed.is_none_or(|claimed| {
                    present_claim.is_some_and(|present| {
                        present.value == claimed.as_bytes() && present.version == holder.created
                    })
                });
                if with_claim {
                    term(ATTEMPT, holder.created)
                } else {
                    Err(StoreError::conflict(ATTEMPT, "it is ours already, with another claim"))
                }
            }
            Some(holder) => Err(StoreError::conflict(ATTEMPT, told(Some(&holder)))),
            None => Err(StoreError::conflict(ATTEMPT, "somebody else has claimed a timeline since")),
        }
    }

    /// Gives the leader key back, leaving the last word on our position. That it is not ours any more is as good, but
    /// then the status stays as the present leader wants it. Whoever gives it back does not lead on by anybody's consent:
    /// if failsafe mode has `bound` the others, they are free.
    pub async fn release_lease(
        &self,
        me: &MemberName,
        term: Term,
        status: Option<&Status>,
        bound: bool,
        within: Duration,
    ) -> Result<(), StoreError> {
        let leader = self.place.path(&Key::Leader);
        let mut transaction = self.while_leading(me, term).delete(&leader);
        if let Some(status) = status {
            transaction = transaction.put(&self.place.path(&Key::Status), format::status(status));
        }
        if bound {
            let nobody = format::failsafe(&BTreeMap::new());
            transaction = transaction.put(&self.place.path(&Key::Failsafe), nobody);
        }
        match self.adapter.transact("release the lease", transaction, within).await? {
            Verdict::Done { .. } | Verdict::Failed { .. } => Ok(()),
        }
    }

    /// Claims the right to make the cluster's data. The claim goes away with the session.
    pub async fn take_initialize(&self, session: SessionId, within: Duration) -> Result<(), StoreError> {
        const ATTEMPT: &str = "claim the right to make the cluster";
        let key = self.place.path(&Key::Initialize);
        let transaction = Transaction::default()
            .when(&key, Must::BeAbsent)
            .put_for(session, &key, INITIALIZING)
            .else_look_at(&key);
        match self.adapter.transact(ATTEMPT, transaction, within).await? {
            Verdict::Done { .. } => Ok(()),
            Verdict::Failed { seen } => match seen.into_iter().next().flatten() {
                Some(entry) if is_initializing(&entry) && entry.session == Some(session) => Ok(()),
                Some(entry) if is_initializing(&entry) => {
                    Err(StoreError::conflict(ATTEMPT, "somebody else is making it"))
                }
                Some(_) | None => Err(StoreError::conflict(ATTEMPT, "it has been made")),
            },
        }
    }

    /// The data is made: names it for good, and publishes the first configuration unless there is one. Whoever names the
    /// cluster first has made it; for everybody else, and while another session holds the claim, that is a conflict.
    pub async fn finish_initialize(
        &self,
        session: Option<SessionId>,
        system: SystemId,
        config: &Value,
        within: Duration,
    ) -> Result<(), StoreError> {
        const ATTEMPT: &str = "name the new cluster";
        let (initialize, config_key) = (self.place.path(&Key::Initialize), self.place.path(&Key::Config));
        let name = format::initialize(system);
        // What is there is only known once one of these has been tried; each looks at all that the next one needs.
        let (mut claim, mut first_config) = (Must::BeAbsent, true);
        for _ in 0..3 {
            let mut transaction = Transaction::default()
                .when(&initialize, claim)
                .put(&initialize, name.as_str())
                .else_look_at(&initialize)
                .else_look_at(&config_key);
            if first_config {
                transaction =
                    transaction.when(&config_key, Must::BeAbsent).put(&config_key, format::config(config));
            }
            let seen = match self.adapter.transact(ATTEMPT, transaction, within).await? {
                Verdict::Done { .. } => return Ok(()),
                Verdict::Failed { seen } => seen,
            };
            let [present, present_config] = two(seen);
            first_config = present_config.is_none();
            claim = match present {
                None => Must::BeAbsent,
                Some(entry) if is_initializing(&entry) && entry.session == session => {
                    Must::HaveVersion(entry.version)
                }
                Some(entry) if is_initializing(&entry) => {
                    return Err(StoreError::conflict(ATTEMPT, "somebody else is making it"));
                }
                Some(entry) if entry.value == name.as_bytes() => return Ok(()),
                Some(entry) => {
                    let other = String::from_utf8_lossy(&entry.value).into_owned();
                    return Err(StoreError::conflict(ATTEMPT, format!("it has been named {other:?}")));
                }
            };
        }
        Err(StoreError::conflict(ATTEMPT, "others keep changing it"))
    }

    /// Nothing came of it: somebody else may try. A name that stands, or another session's claim, is left standing.
    pub async fn abandon_initialize(&self, session: SessionId, within: Duration) -> Result<(), StoreError> {
        const ATTEMPT: &str = "abandon the new cluster";
        let key = self.place.path(&Key::Initialize);
        let look = Transaction::default().when(&key, Must::BeAbsent).else_look_at(&key);
        let seen = match self.adapter.transact(ATTEMPT, look, within).await? {
            Verdict::Done { .. } => return Ok(()),
            Verdict::Failed { seen } => seen.into_iter().next().flatten(),
        };
        let Some(ours) = seen.filter(|entry| is_initializing(entry) && entry.session == Some(session)) else {
            return Ok(());
        };
        let delete = Transaction::default().when(&key, Must::HaveVersion(ours.version)).delete(&key);
        match self.adapter.transact(ATTEMPT, delete, within).await? {
            Verdict::Done { .. } | Verdict::Failed { .. } => Ok(()),
        }
    }

    /// The beginning of every write that only the leader may do: a deposed one must not talk over its successor.
    pub(super) fn while_leading(&self, me: &MemberName, term: Term) -> Transaction {
        let leader = self.place.path(&Key::Leader);
        Transaction::default()
            .when(&leader, Must::Hold(format::leader(me).into()))
            .when(&leader, Must::BeCreatedAt(i64::try_from(term.0).unwrap_or(i64::MAX)))
            .else_look_at(&leader)
            .witnessed_by(&self.place.path(&Key::Claim))
    }
}

/// What the leader key says, for a person.
pub(super) fn told(leader: Option<&Entry>) -> String {
    match leader {
        Some(entry) => format!(
            "the leader key belongs to {:?} since revision {}",
            String::from_utf8_lossy(&entry.value),
            entry.created
        ),
        None => "there is no leader key".to_owned(),
    }
}

fn is_ours(leader: Option<&Entry>, session: SessionId, me: &MemberName, term: Term) -> bool {
    leader.is_some_and(|entry| belongs_to(entry, session, me) && u64::try_from(entry.created) == Ok(term.0))
}

fn belongs_to(entry: &Entry, session: SessionId, me: &MemberName) -> bool {
    entry.value == me.as_str().as_bytes() && entry.session == Some(session)
}

fn is_initializing(entry: &Entry) -> bool {
    entry.value == INITIALIZING.as_bytes()
}

fn term(attempt: &'static str, revision: i64) -> Result<Term, StoreError> {
    match u64::try_from(revision) {
        Ok(term) => Ok(Term(term)),
        Err(_) => Err(StoreError::unanswered(attempt, "the store gave a revision below zero")),
    }
}

fn two(seen: Vec<Option<Entry>>) -> [Option<Entry>; 2] {
    let mut seen = seen.into_iter();
    [seen.next().flatten(), seen.next().flatten()]
}
