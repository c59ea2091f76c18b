//! What one member knows at one moment: everything that a decision may depend on, and nothing else.
//! A view in a log can be decided upon again and gives the same plan.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    Cluster, Crashes, Disk, FenceOrder, Fitness, Heard, Job, Lsn, MemberName, MemberRole, MemberState,
    Moment, Policy, Position, Postgres, Promise, Reason, RemoteStanding, SessionId, Span, Stage, SyncMemory,
    SystemId, Tags, Takeover, Term, Timeline, Timing, Watchdog, Wish,
};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct View {
    pub now: Moment,
    pub me: MemberName,
    pub tags: Tags,
    pub policy: Policy,
    pub store: StoreView,
    pub session: Option<Session>,
    pub lease: Option<Lease>,
    pub postgres: Postgres,
    /// When the look began that has shown it.
    #[serde(default)]
    pub looked_at: Moment,
    pub disk: Disk,
    pub peers: PeerRound,
    /// What the cluster that this one follows has last said of itself.
    #[serde(default)]
    pub remote: Option<RemoteStanding>,
    pub work: Work,
    pub guardian: Guardian,
    /// The device behind the guardian.
    #[serde(default)]
    pub watchdog: Watchdog,
    pub memory: Memory,
    /// An orderly end has been asked for.
    pub ending: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StoreView {
    /// The last snapshot; none before the first.
    pub cluster: Option<Cluster>,
    pub contact: Contact,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Contact {
    #[default]
    Never,
    Current,
    /// The snapshot may be out of date since then.
    Silent {
        since: Moment,
    },
}

/// Our connection to the store that must be kept alive, and when the store last did us that favour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    pub id: SessionId,
    /// When the last renewal that succeeded was *sent*.
    pub asked_at: Moment,
    pub ttl: Span,
}

/// The right to lead, as far as the store has confirmed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub term: Term,
    /// When the last renewal that succeeded was *sent*.
    pub asked_at: Moment,
    pub timing: Timing,
}

/// The answers of other members, all asked at the same moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PeerRound {
    /// `None` while nobody has been asked.
    pub asked_at: Option<Moment>,
    /// Every answer is in, or was waited for long enough.
    pub complete: bool,
    pub answers: BTreeMap<MemberName, PeerAnswer>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum PeerAnswer {
    Silent,
    Stands(PeerStatus),
}

/// What a member's REST API says of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PeerStatus {
    pub role: MemberRole,
    pub state: MemberState,
    pub position: Option<Position>,
    pub tags: Tags,
    pub watchdog_failed: bool,
    pub fitness: Fitness,
    /// Its position is from before it was asked: it may be further by now.
    #[serde(default)]
    pub stale: bool,
    /// How long before the question that was, if it is told.
    #[serde(default)]
    pub looked_ago: Option<Span>,
    /// Bytes of WAL that it has received and not replayed.
    #[serde(default)]
    pub unreplayed: u64,
    /// What is left on its fullest disk.
    pub free_bytes: Option<u64>,
}

/// What is under way. At most one job and one errand at a time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Work {
    pub job: Option<RunningJob>,
    /// A write to the store has been sent and not answered.
    pub errand_since: Option<Moment>,
    pub asking_peers: bool,
    /// The guardian has been given an order and has not answered: what it will stand by is not known.
    pub ordering_fence: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunningJob {
    pub job: Job,
    /// Why it was begun; why the member does what it does, as long as it runs.
    pub reason: Reason,
    pub since: Moment,
    pub cancelled: bool,
}

/// The process that kills PostgreSQL when the term runs out and the agent has not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Guardian {
    /// None answers. A member without a guardian does not become primary.
    #[default]
    Absent,
    Ready {
        /// The last order that it has acknowledged.
        confirmed: FenceOrder,
    },
}

/// What a member remembers between decisions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// Since when the snapshots have shown no leader.
    pub no_leader_since: Option<Moment>,
    /// Who led last.
    pub last_leader: Option<MemberName>,
    /// Everybody who took part when a leader was last seen, with the REST address: the dead leader's record goes away
    /// together with its key, and must still be asked.
    pub electorate: BTreeMap<MemberName, String>,
    /// This member has given the lease back for a switchover, and nobody has been promoted since.
    #[serde(default)]
    pub stepped_down: bool,
    /// Whom this leader has told the store to let lead, as long as no snapshot shows it.
    #[serde(default)]
    pub offered: BTreeMap<MemberName, String>,
    /// The last leader, if it has no guardian that stops its PostgreSQL in time: one of Patroni's.
    #[serde(default)]
    pub unfenced_leader: Option<MemberName>,
    /// How far a standby's WAL reached when it was last seen to move, and when that was.
    #[serde(default)]
    pub received: Option<(Lsn, Moment)>,
    /// Since when this member, named as the next leader, receives what another standby has more of.
    #[serde(default)]
    pub fetching_since: Option<Moment>,
    /// The timeline that PostgreSQL was last seen on, and since when it has been.
    #[serde(default)]
    pub timeline_since: Option<(Timeline, Moment)>,
    /// We have made this cluster's data in this life, and nobody has led it yet.
    pub bootstrapped: Option<SystemId>,
    /// This member has been run by Tenure in this cluster before: a primary found here may have lost its lease.
    pub managed: bool,
    /// It has held the lease since the agent started.
    pub has_led: bool,
    pub failures: Failures,
    pub crashes: Crashes,
    /// The version of the request for another leader, and when it was first seen: older answers say nothing about it.
    pub request_seen: Option<(i64, Moment)>,
    #[serde(default)]
    pub promotion_hook: PromotionHook,
    pub handover: Option<Handover>,
    /// When a handover last ended with this member leading on.
    pub handover_in_vain_at: Option<Moment>,
    /// The term that this member has asked the store to end. Whatever the answer was, it is never acted upon again.
    pub released: Option<Term>,
    /// What an operator has asked this member to do, as long as it is not done.
    pub wish: Option<Wish>,
    /// Slots of members, and when their members were last seen.
    #[serde(default)]
    pub member_slots: BTreeMap<String, Moment>,
    /// Logical slots that are to be copied from the leader, as the last look has shown.
    #[serde(default)]
    pub slots_to_copy: BTreeSet<String>,
    /// When the scheduled switchover of the last snapshot falls due, by the wall clock as it stands now; a time that
    /// nobody can read has been due for ever.
    pub switchover_due: Option<Moment>,
    /// When maintenance mode ends by itself, by the wall clock as it stands now.
    #[serde(default)]
    pub pause_ends: Option<Moment>,
    /// When this life of the agent began.
    #[serde(default)]
    pub begun_at: Option<Moment>,
    /// What this member has promised to a leader in failsafe mode.
    #[serde(default)]
    pub promise: Option<Promise>,
    /// The lease as the other members have last prolonged it.
    #[serde(default)]
    pub consent: Option<Lease>,
    /// Until when other members may hold to what they have promised this one.
    #[serde(default)]
    pub others_bound_until: Option<Moment>,
    #[serde(default)]
    pub sync: SyncMemory,
    /// What leaders have said of the end of their WAL.
    #[serde(default)]
    pub heard: Heard,
    /// What the timeline that this member was last allowed to begin costs at most.
    #[serde(default)]
    pub takeover: Option<Takeover>,
}

/// How often in a row something has failed, and when it last did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failures {
    pub starts: u32,
    pub rewinds: u32,
    pub clones: u32,
    pub promotions: u32,
    #[serde(default)]
    pub slot_copies: u32,
    #[serde(default)]
    pub set_asides: u32,
    pub last_at: Option<Moment>,
}

/// What the operator's command has said of promotions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromotionHook {
    pub agreed: Option<Term>,
    pub refused: Option<(Term, Moment)>,
}

/// A switchover or orderly end that this leader has begun.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Handover {
    pub to: MemberName,
    pub begun_at: Moment,
}

impl View {
    /// Has the guardian confirmed to kill PostgreSQL for this term, and is it not about to be told otherwise? And does the
    /// watchdog stand behind it, where that is required?
    pub fn is_guarded(&self, term: Term) -> bool {
        !self.work.ordering_fence && self.guardian.watches(term, self.now) && !self.lacks_armed_watchdog()
    }

    /// Operators require a watchdog, and it is not armed.
    pub fn lacks_armed_watchdog(&self) -> bool {
        self.policy.watchdog_required && !self.watchdog.is_armed()
    }

    /// Operators require a watchdog, and it could not be armed.
    pub fn lacks_watchdog(&self) -> bool {
        self.policy.watchdog_required && !self.watchdog.can_be_armed()
    }

    /// The lease, as long as this member may act on it.
    pub fn lease_in_force(&self) -> Option<&Lease> {
        self.lease.as_ref().filter(|lease| self.now < lease.demote_at())
    }

    /// The lease lasts because the other members have agreed, and not by the store's word.
    pub fn leads_by_consent(&self) -> bool {
        self.lease_in_force().is_some() && self.lease == self.memory.consent
    }

    /// Failsafe mode is at work: this leader leads by consent, or this member has promised somebody to leave the lease alone.
    pub fn failsafe_active(&self, now: Moment) -> bool {
        self.leads_by_consent() || self.memory.promise.as_ref().is_some_and(|promise| now < promise.until)
    }

    /// The operator's command has kept this member from being promoted, less than a lease ago.
    pub fn promotion_refused(&self, now: Moment) -> bool {
        let refused = self.memory.promotion_hook.refused.filter(|_| self.policy.asks_before_promotion);
        refused.is_some_and(|(_, at)| now.since(at) < self.policy.timing.ttl)
    }

    pub fn cluster(&self) -> Option<&Cluster> {
        self.store.cluster.as_ref()
    }

    /// PostgreSQL is on its way down or up because an operator asked for a restart.
    pub fn is_restarting(&self) -> bool {
        self.memory.wish.as_ref().is_some_and(|wish| wish.is_restart() && wish.stage != Stage::Asked)
    }

    pub fn cut_off(&self) -> bool {
        match self.store.contact {
            Contact::Never | Contact::Silent { .. } => true,
            Contact::Current => false,
        }
    }
}

impl Lease {
    pub fn deadline(&self) -> Moment {
        self.timing.deadline(self.asked_at)
    }

    pub fn fence_at(&self) -> Moment {
        self.timing.fence_at(self.asked_at)
    }

    pub fn demote_at(&self) -> Moment {
        self.timing.demote_at(self.asked_at)
    }
}

impl Guardian {
    /// Would it still kill, at a moment that lies ahead?
    pub fn is_armed(&self, now: Moment) -> bool {
        match self {
            Guardian::Ready { confirmed: FenceOrder::Arm { fence_at, .. } } => now < *fence_at,
            Guardian::Ready { confirmed: FenceOrder::Disarm | FenceOrder::Keep } | Guardian::Absent => false,
        }
    }

    /// Has it confirmed to kill PostgreSQL for this term, at a moment that lies ahead?
    pub fn watches(&self, term: Term, now: Moment) -> bool {
        match self {
            Guardian::Ready { confirmed: FenceOrder::Arm { term: armed, fence_at } } => {
                *armed == term && now < *fence_at
            }
            Guardian::Ready { confirmed: FenceOrder::Disarm | FenceOrder::Keep } | Guardian::Absent => false,
        }
    }
}
