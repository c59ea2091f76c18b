//! A machine and what runs on it. What survives what: the data directory survives everything, PostgreSQL and the
//! guardian survive the agent, nothing else survives the machine.

use std::collections::{BTreeMap, BTreeSet};

use super::guardian::Guardian;
use super::postgres::Instance;
use super::store::Request;
use super::world::Happening;
use super::{MS, Time};
use crate::decide::mind::{Event, LeaseOrders, Mind};
use crate::decide::publish::Identity;
use crate::model::{
    Job, Lease, MemberName, MemberRecord, Moment, PeerAnswer, Reason, Session, SessionId, Status, Tags, Term,
    Until,
};
use crate::store::zookeeper::Touches;

#[derive(Clone, Debug)]
pub(super) struct Host {
    pub name: MemberName,
    pub tags: Tags,
    pub up: bool,
    pub clock: Clock,
    pub agent: Option<Agent>,
    /// Grows with every agent that starts.
    pub agent_life: u64,
    pub guardian: Guardian,
    pub pg: Instance,
    pub job: Option<ActiveJob>,
    pub job_serial: u64,
    /// What an agent leaves for its successor; gone after a reboot.
    pub saved_session: Option<SessionId>,
    /// Stands beside the data directory: an agent has run this PostgreSQL before.
    pub managed: bool,
    pub slow_disk: bool,
    /// Nothing reaches the disk since then.
    pub stalled_since: Option<Moment>,
    pub disk_full: bool,
    /// PostgreSQL here crashes soon after it has begun to accept writes.
    pub crash_loops: bool,
    /// The next so many jobs of this kind fail.
    pub failing: BTreeMap<&'static str, u32>,
    pub answers_to_lose: u32,
    /// What the store has told this machine of its right to lead, and until when that lasts by the machine's own clock.
    pub office: Option<(Term, Moment)>,
    /// The virtual address is here, and until when if nobody says more.
    pub address: Option<Until>,
}

impl Host {
    pub fn new(name: MemberName, clock: Clock) -> Host {
        Host {
            name,
            tags: Tags::default(),
            up: true,
            clock,
            agent: None,
            agent_life: 0,
            guardian: Guardian::default(),
            pg: Instance::empty(),
            job: None,
            job_serial: 0,
            saved_session: None,
            managed: false,
            slow_disk: false,
            stalled_since: None,
            disk_full: false,
            crash_loops: false,
            failing: BTreeMap::new(),
            answers_to_lose: 0,
            office: None,
            address: None,
        }
    }
}

/// A boot clock: how fast it runs, and when it started.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    pub ppm: i64,
    pub booted_at: Time,
    pub ahead_ms: u64,
}

/// The agent's shell around the mind.
#[derive(Clone, Debug)]
pub(super) struct Agent {
    pub life: u64,
    pub mind: Mind,
    pub identity: Identity,
    pub frozen: bool,
    /// The loop alone hangs: the keeper of the lease is a thread of its own.
    pub hung: bool,
    /// What has arrived at the process while it was frozen.
    pub inbox: Vec<Happening>,
    pub keeper: Keeper,
    pub pending: BTreeMap<u64, Purpose>,
    pub wake: u64,
    pub looks: u64,
    pub looked: u64,
    pub watching: bool,
    pub seen_revision: i64,
    pub heard_at: Moment,
    pub reading: bool,
    pub asking: Option<Asking>,
    pub seeking: Option<Seeking>,
    /// Leaders that wait for this member's consent: who, in which life, in which round.
    pub askers: BTreeMap<u64, (usize, u64, u64)>,
    pub asked: u64,
    pub written: Written,
    pub reason: Option<Reason>,
    /// What has been confirmed to this very agent: the term, and when the renewal was asked for that lasts longest.
    pub confirmed: BTreeMap<Term, Moment>,
    /// What the loop has not come to.
    pub backlog: Vec<Event>,
    pub turns: (Time, u32),
    /// When the last commands are carried out: they go through queues, and later ones do not overtake them.
    pub acts_at: Time,
}

/// The thread that renews the session.
#[derive(Clone, Debug, Default)]
pub(super) struct Keeper {
    pub session: Option<Session>,
    pub orders: LeaseOrders,
    pub asking: bool,
    /// The term of the last renewal, and when it was sent.
    pub held: Option<Term>,
    pub asked_at: Time,
    /// The only tick that counts.
    pub due: Time,
    /// What ZooKeeper's leader has certainly heard over the present connection.
    pub touches: Option<Touches>,
}

/// Why a request was sent.
#[derive(Clone, Debug)]
pub(super) enum Purpose {
    Open { asked_at: Moment },
    Renew { asked_at: Moment, session: SessionId, hold: Option<Term>, shown: bool },
    Errand,
    Member(Box<MemberRecord>),
    Status(Status),
    History,
    Failsafe,
    Read,
    Close,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Written {
    pub record: Option<(SessionId, MemberRecord, Moment)>,
    pub record_under_way: bool,
    pub status: Option<(Status, Moment)>,
    pub status_under_way: bool,
    pub history_under_way: bool,
    pub failsafe_under_way: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Asking {
    pub round: u64,
    pub waiting: BTreeSet<MemberName>,
    pub answers: BTreeMap<MemberName, PeerAnswer>,
}

/// A round of failsafe mode.
#[derive(Clone, Debug)]
pub(super) struct Seeking {
    pub round: u64,
    pub lease: Lease,
    pub asked: BTreeSet<MemberName>,
    pub waiting: BTreeSet<MemberName>,
    pub agreed: BTreeSet<MemberName>,
}

#[derive(Clone, Debug)]
pub(super) struct ActiveJob {
    pub serial: u64,
    pub agent_life: u64,
    pub id: u64,
    pub job: Job,
    pub fails: bool,
    pub phase: u32,
}

impl Agent {
    /// Is this the business of the keeper's thread?
    pub fn is_keepers(&self, happening: &Happening) -> bool {
        match happening {
            Happening::KeeperTicks { .. } => true,
            Happening::AgentHearsStore { ticket, .. } | Happening::AgentGivesUpOnStore { ticket, .. } => {
                matches!(self.pending.get(ticket), Some(Purpose::Open { .. } | Purpose::Renew { .. }))
            }
            _ => false,
        }
    }
}

impl Clock {
    pub fn read(&self, now: Time) -> Moment {
        Moment::from_ms(self.ahead_ms + self.elapsed(now) / MS)
    }

    /// When this clock will first show `moment`.
    pub fn shows(&self, moment: Moment) -> Time {
        let local = moment.as_ms().saturating_sub(self.ahead_ms) * MS;
        let mut at =
            self.booted_at + u64::try_from(scale(local, 1_000_000, 1_000_000 + self.ppm)).unwrap_or(0);
        while self.read(at) < moment {
            at += 1;
        }
        at
    }

    fn elapsed(&self, now: Time) -> Time {
        let since = now.saturating_sub(self.booted_at);
        u64::try_from(scale(since, 1_000_000 + self.ppm, 1_000_000)).unwrap_or(0)
    }
}

fn scale(value: u64, numerator: i64, denominator: i64) -> i128 {
    i128::from(value) * i128::from(numerator) / i128::from(denominator)
}

impl Purpose {
    /// How long the sender waits.
    pub fn patience(&self) -> Time {
        match self {
            Purpose::Open { .. } | Purpose::Renew { .. } | Purpose::Read => 1_000 * MS,
            Purpose::Errand
            | Purpose::Member(_)
            | Purpose::Status(_)
            | Purpose::History
            | Purpose::Failsafe
            | Purpose::Close => 3_000 * MS,
        }
    }
}

/// A request and why it is made.
pub(super) struct Call {
    pub purpose: Purpose,
    pub request: Request,
}
