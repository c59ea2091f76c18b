//! What goes into a mind and what comes out of it: the closed lists of events and commands.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{
    Ask, Cluster, Consent, Disk, Errand, FenceOrder, Guardian, Job, Lease, MemberName, Moment, Outcome,
    PeerAnswer, Plan, Policy, Postgres, RemoteStanding, Session, SessionId, Span, SystemId, Tags, Term, View,
    Watchdog,
};

/// Everything that a member can learn.
#[derive(Clone, Debug)]
pub enum Event {
    /// Time has passed.
    Tick,
    Snapshot(Box<Cluster>),
    /// The store may have changed without our hearing of it.
    StoreSilent,
    Lease(LeaseEvent),
    ErrandEnded(ErrandOutcome),
    /// PostgreSQL was looked at.
    Postgres(Seen),
    /// What the probe of the disk has come to.
    Disk(Disk),
    JobEnded {
        id: u64,
        outcome: JobOutcome,
        seen: Seen,
    },
    PeersAnswered {
        round: u64,
        answers: BTreeMap<MemberName, PeerAnswer>,
    },
    /// The leader's answer to the question where its WAL ends.
    LeaderAnswered {
        asked_at: Moment,
        answer: Box<PeerAnswer>,
    },
    /// Said once in the beginning even if none answers: nothing is decided before.
    Guardian(Guardian),
    /// What the guardian says of the device behind it.
    Watchdog(Watchdog),
    Policy(Box<Policy>),
    Tags(Tags),
    /// An operator asks something of this member's PostgreSQL.
    Asked {
        id: u64,
        ask: Ask,
    },
    /// The cluster that this one follows was asked, and answered or did not.
    Remote(Option<RemoteStanding>),
    /// The logical slots that the leader has and this standby lacks.
    SlotsToCopy(BTreeSet<String>),
    /// When the scheduled switchover falls due, by the wall clock as it stands now.
    SwitchoverDue(Option<Moment>),
    /// When maintenance mode ends by itself, by the wall clock as it stands now.
    PauseEnds(Option<Moment>),
    /// Failsafe mode: who has agreed that this member leads on.
    ConsentAnswered {
        round: u64,
        agreed: BTreeSet<MemberName>,
    },
    /// Failsafe mode: a leader asks this member to leave the lease to it for so long.
    ConsentAsked {
        id: u64,
        from: MemberName,
        wanted: Span,
    },
    /// An orderly end is asked for.
    End,
}

/// What a look at PostgreSQL has shown. It is as old as the look's beginning, however long the answer took.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    pub postgres: Postgres,
    pub looked_at: Moment,
}

/// What the keeper of the lease reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseEvent {
    Opened(Session),
    /// The session lives, and with a term: the leader key was seen to be ours, after `session.asked_at`.
    Renewed {
        session: Session,
        term: Option<Term>,
    },
    /// The session lives, but the leader key of that term is not ours.
    KeyNotOurs {
        term: Term,
    },
    SessionGone {
        session: SessionId,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrandOutcome {
    Done,
    Taken {
        term: Term,
    },
    /// Somebody else was first.
    Conflict,
    /// It may or may not have happened.
    Unanswered,
    Refused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobOutcome {
    Done,
    /// A bootstrap has made this.
    Made(SystemId),
    Failed,
    Cancelled,
}

/// Everything that a member can do.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    Errand(Errand),
    /// Look at PostgreSQL now: what is known of it is older than the question to the others.
    Look,
    AskPeers {
        round: u64,
        questions: Vec<PeerQuestion>,
    },
    /// Ask the leader where its WAL ends. Nothing waits for the answer.
    AskLeader {
        asked_at: Moment,
        question: PeerQuestion,
    },
    StartJob {
        id: u64,
        job: Job,
    },
    CancelJob {
        id: u64,
    },
    Fence(FenceOrder),
    /// Ask these members to leave the lease alone for its length. Whoever has not agreed in time has not agreed.
    AskConsent {
        round: u64,
        lease: Lease,
        questions: Vec<PeerQuestion>,
    },
    AnswerConsent {
        id: u64,
        consent: Consent,
    },
    /// Tell an operator's callback.
    Call(super::callbacks::Call),
    /// Tell whoever asked.
    Answer {
        id: u64,
        outcome: Outcome,
    },
    Exit,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerQuestion {
    pub member: MemberName,
    pub api_url: String,
    pub patience: Span,
}

/// A look of the leader's at its PostgreSQL that is no older will do: many members ask, and each look costs it.
pub const LOOKED_WITHIN: Span = Span::from_ms(500);

/// What the keeper of the lease may do without asking again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseOrders {
    /// Renew nothing after this.
    pub until: Moment,
    /// See that the leader key of this term is ours, too.
    pub hold: Option<Term>,
    /// Tell the guardian of each new deadline of that term. Not in maintenance mode, in which it is disarmed.
    pub guard: bool,
    pub ttl: Span,
    pub renew_every: Span,
    /// Another member leads, and our record is there: all that the session needs is not to end, and so long it may go unrenewed.
    pub rest: Option<Span>,
}

impl LeaseOrders {
    /// Must the keeper hear of these at once, which has `known` ones? Of more time alone it takes note when the time it knew of is over.
    pub fn is_news(&self, known: &LeaseOrders, now: Moment) -> bool {
        let as_before = LeaseOrders { until: known.until, ..*self } == *known;
        !as_before || self.until < known.until || known.until <= now
    }

    /// How often the session is renewed. `rests`: the store loses nothing by it if nobody renews for a while.
    pub fn every(&self, rests: bool) -> Span {
        self.rest.filter(|_| rests).unwrap_or(self.renew_every)
    }
}

/// The result of one turn of the loop.
#[derive(Clone, Debug)]
pub struct Turn {
    pub plan: Plan,
    /// What was decided upon, whenever the reason is another one than before. Carrying the plan out has begun to change it.
    pub upon: Option<Box<View>>,
    pub commands: Vec<Command>,
    pub lease: LeaseOrders,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_time_alone_is_no_news_to_a_keeper_that_has_some() {
        let at = Moment::from_ms;
        let orders = |until: u64, hold| LeaseOrders { until: at(until), hold, ..LeaseOrders::default() };
        for (known, now, given, wanted) in [
            (orders(5, None), 4, orders(9, None), false),
            (orders(5, None), 4, orders(5, None), false),
            (orders(5, None), 5, orders(9, None), true),
            (orders(5, None), 4, orders(3, None), true),
            (orders(5, None), 4, orders(9, Some(Term(1))), true),
        ] {
            assert_eq!(given.is_news(&known, at(now)), wanted, "{known:?} at {now}, {given:?}");
        }
    }
}
