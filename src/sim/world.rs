//! Time, the queue of what happens next, and the store's side of every conversation. `step` takes the next happening,
//! lets the machines react, and has the laws looked at.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::faults::Trouble;
use super::guardian::Speaker;
use super::host::{Call, Clock, Host};
use super::laws::Laws;
use super::network::{Habits, Network, Place};
use super::random::Random;
use super::replication::Batch;
use super::store::{Answer, Request, Store};
use super::{MS, NAMES, SECOND, Time};
use crate::decide::mind::{Command, ErrandOutcome, Event, JobOutcome, Seen};
use crate::model::{
    Cluster, Errand, FenceOrder, Guardian as Known, MemberName, Moment, PeerAnswer, Policy, Position,
    SessionId, Span, Timeline,
};

/// etcd looks for sessions that have ended twice a second.
const EXPIRY_LATE_MAX: Time = 500 * MS;
const BEAT: Time = SECOND;

#[derive(Clone, Debug)]
pub(super) enum Happening {
    StoreHears { host: usize, life: u64, ticket: u64, request: Box<Request> },
    StoreEndsSession { session: SessionId },
    StoreBeats,
    StoreReturns { elected: u64 },
    AgentHearsStore { host: usize, life: u64, ticket: u64, answer: Box<Answer> },
    AgentGivesUpOnStore { host: usize, life: u64, ticket: u64 },
    AgentHearsWatch { host: usize, life: u64, cluster: Rc<Cluster>, revision: i64 },
    AgentWakes { host: usize, life: u64, wake: u64 },
    AgentBeats { host: usize, life: u64 },
    AgentLooks { host: usize, life: u64 },
    AgentSees { host: usize, life: u64, look: u64, seen: Box<Seen> },
    AgentActs { host: usize, life: u64, commands: Vec<Command> },
    AgentHearsGuardian { host: usize, life: u64, known: Known },
    AgentHearsPeer { host: usize, life: u64, round: u64, member: MemberName, answer: Box<PeerAnswer> },
    AgentIsAsked { host: usize, asker: usize, asker_life: u64, round: u64 },
    AgentIsAskedToAgree { host: usize, from: MemberName, wanted: Span, asker: (usize, u64, u64) },
    AgentHearsConsent { host: usize, life: u64, round: u64, member: MemberName, agreed: bool },
    AgentAnswers { host: usize, life: u64, question: Question },
    LeaderIsAsked { host: usize, asker: usize, asker_life: u64, asked_at: Moment },
    AgentHearsLeader { host: usize, life: u64, asked_at: Moment, answer: Box<PeerAnswer> },
    AgentHearsJob { host: usize, life: u64, id: u64, outcome: JobOutcome },
    AgentHearsPolicy { host: usize, life: u64 },
    AgentStarts { host: usize },
    JobAdvances { host: usize, life: u64, serial: u64 },
    KeeperTicks { host: usize, life: u64 },
    GuardianHears { host: usize, life: u64, order: FenceOrder, from: Speaker },
    GuardianLooks { host: usize, life: u64 },
    GuardianHasKilled { host: usize, pg_life: u64 },
    GuardianStarts { host: usize },
    PostgresDiesAgain { host: usize, pg_life: u64 },
    PostgresIsUp { host: usize, pg_life: u64 },
    PostgresHasStopped { host: usize, pg_life: u64, in_good_order: bool },
    PostgresPromotes { host: usize, pg_life: u64, timeline: Timeline },
    BatchArrives { host: usize, pg_life: u64, batch: Box<Batch> },
    StandbyAnswers { host: usize, pg_life: u64, standby: usize, records: usize },
    NamesAreInForce { host: usize, pg_life: u64 },
    SendersLook,
    ClientsWrite,
    Strikes(Trouble),
    Passes(Trouble),
}

/// What one agent asks another, and where that one truly stood when the question came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    pub asker: usize,
    pub asker_life: u64,
    pub round: u64,
    pub asked_at: Moment,
    pub stood_at: Option<Position>,
}

impl Happening {
    /// The agent that must be awake for this to happen.
    fn agent(&self) -> Option<(usize, Option<u64>)> {
        match self {
            Happening::AgentHearsStore { host, life, .. }
            | Happening::AgentGivesUpOnStore { host, life, .. }
            | Happening::AgentHearsWatch { host, life, .. }
            | Happening::AgentWakes { host, life, .. }
            | Happening::AgentBeats { host, life }
            | Happening::AgentLooks { host, life }
            | Happening::AgentSees { host, life, .. }
            | Happening::AgentAnswers { host, life, .. }
            | Happening::AgentActs { host, life, .. }
            | Happening::AgentHearsGuardian { host, life, .. }
            | Happening::AgentHearsPeer { host, life, .. }
            | Happening::AgentHearsConsent { host, life, .. }
            | Happening::AgentHearsLeader { host, life, .. }
            | Happening::AgentHearsJob { host, life, .. }
            | Happening::AgentHearsPolicy { host, life }
            | Happening::JobAdvances { host, life, .. }
            | Happening::KeeperTicks { host, life } => Some((*host, Some(*life))),
            Happening::AgentIsAsked { host, .. }
            | Happening::AgentIsAskedToAgree { host, .. }
            | Happening::LeaderIsAsked { host, .. } => Some((*host, None)),
            Happening::StoreHears { .. }
            | Happening::StoreEndsSession { .. }
            | Happening::StoreBeats
            | Happening::StoreReturns { .. }
            | Happening::AgentStarts { .. }
            | Happening::GuardianHears { .. }
            | Happening::GuardianLooks { .. }
            | Happening::GuardianHasKilled { .. }
            | Happening::GuardianStarts { .. }
            | Happening::PostgresDiesAgain { .. }
            | Happening::PostgresIsUp { .. }
            | Happening::PostgresHasStopped { .. }
            | Happening::PostgresPromotes { .. }
            | Happening::BatchArrives { .. }
            | Happening::StandbyAnswers { .. }
            | Happening::NamesAreInForce { .. }
            | Happening::SendersLook
            | Happening::ClientsWrite
            | Happening::Strikes(_)
            | Happening::Passes(_) => None,
        }
    }
}

/// One line of what was to be seen.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub at: Time,
    pub who: String,
    pub what: String,
}

#[derive(Clone, Debug)]
pub(super) struct World {
    pub now: Time,
    pub queue: BTreeMap<(Time, u64), Happening>,
    sequence: u64,
    pub random: Random,
    pub network: Network,
    pub store: Store,
    pub hosts: Vec<Host>,
    pub policy: Policy,
    pub laws: Laws,
    pub lines: Vec<Line>,
    pub next_ticket: u64,
    elections: u64,
    /// Requests that a store without a majority has taken in and will carry out when it can.
    held: Vec<Happening>,
}

impl World {
    pub fn new(seed: u64, members: usize, habits: Habits, policy: Policy) -> World {
        let mut random = Random::new(seed);
        let ppm = |random: &mut Random| {
            let span = u64::try_from(habits.clock_ppm).unwrap_or(0);
            i64::try_from(random.below(2 * span + 1)).unwrap_or(0) - habits.clock_ppm
        };
        let store = Store::new(ppm(&mut random));
        let ahead = |random: &mut Random| if habits.clock_ppm == 0 { 0 } else { random.below(1_000_000) };
        let hosts = (NAMES[..members].iter())
            .map(|name| {
                let clock =
                    Clock { ppm: ppm(&mut random), booted_at: 0, ahead_ms: 100_000 + ahead(&mut random) };
                Host::new(name.parse().expect("our own names are good"), clock)
            })
            .collect();
        let mut world = World {
            now: 0,
            queue: BTreeMap::new(),
            sequence: 0,
            random,
            network: Network::new(habits),
            store,
            hosts,
            policy,
            laws: Laws::default(),
            lines: Vec::new(),
            next_ticket: 1,
            elections: 0,
            held: Vec::new(),
        };
        for host in 0..members {
            world.start_guardian(host);
        }
        world.after(BEAT, Happening::StoreBeats);
        world.after(MS, Happening::SendersLook);
        world.after(MS, Happening::ClientsWrite);
        world
    }

    pub fn at(&mut self, time: Time, happening: Happening) {
        self.sequence += 1;
        self.queue.insert((time.max(self.now), self.sequence), happening);
    }

    pub fn after(&mut self, delay: Time, happening: Happening) {
        self.at(self.now + delay, happening);
    }

    pub fn local(&self, host: usize) -> Moment {
        self.hosts[host].clock.read(self.now)
    }

    pub fn tell(&mut self, host: usize, what: &str) {
        self.lines.push(Line { at: self.now, who: self.hosts[host].name.to_string(), what: what.to_owned() });
    }

    pub fn host_named(&self, name: &str) -> Option<usize> {
        self.hosts.iter().position(|host| host.name.as_str() == name)
    }

    /// The usual time of some work, at this world's pace.
    pub fn pace(&mut self, usual: Time) -> Time {
        let (low, high) = self.network.habits.pace_percent;
        usual * self.random.between(low, high) / 100
    }

    pub fn send(&mut self, from: Place, to: Place, happening: Happening) {
        if let Some(delay) = self.network.travel(&mut self.random, from, to) {
            self.after(delay, happening);
        }
    }

    // Time goes on.

    pub fn run_for(&mut self, span: Time) {
        let end = self.now + span;
        while self.laws.broken.is_none() && self.next_at().is_some_and(|at| at <= end) {
            self.step();
        }
        self.now = self.now.max(end);
    }

    /// Looks ten times a second.
    pub fn run_until(&mut self, limit: Time, reached: impl Fn(&World) -> bool) -> bool {
        let end = self.now + limit;
        while self.laws.broken.is_none() && self.now < end {
            if reached(self) {
                return true;
            }
            self.run_for(100 * MS);
        }
        reached(self)
    }

    pub fn next_at(&self) -> Option<Time> {
        self.queue.first_key_value().map(|((at, _), _)| *at)
    }

    fn step(&mut self) {
        if let Some(key) = self.queue.first_key_value().map(|(key, _)| *key) {
            self.take(key);
        }
    }

    /// Lets one of the things that wait in the queue happen now.
    pub fn take(&mut self, key: (Time, u64)) {
        let Some(happening) = self.queue.remove(&key) else { return };
        self.now = self.now.max(key.0);
        self.dispatch(happening);
        self.look_at_laws();
    }

    pub fn dispatch(&mut self, happening: Happening) {
        if let Some((host, life)) = happening.agent() {
            let Some(agent) = self.hosts[host].agent.as_mut() else { return };
            if life.is_some_and(|life| life != agent.life) {
                return;
            }
            if agent.frozen || (agent.hung && !agent.is_keepers(&happening)) {
                agent.inbox.push(happening);
                return;
            }
        }
        match happening {
            Happening::StoreHears { host, life, ticket, request } => {
                self.store_hears(host, life, ticket, request);
            }
            Happening::StoreEndsSession { session } => self.store_ends_session(session),
            Happening::StoreBeats => self.store_beats(),
            Happening::StoreReturns { elected } => self.store_returns(elected),
            Happening::AgentHearsStore { host, ticket, answer, .. } => {
                self.agent_hears_store(host, ticket, Some(&answer));
            }
            Happening::AgentGivesUpOnStore { host, ticket, .. } => self.agent_hears_store(host, ticket, None),
            Happening::AgentHearsWatch { host, cluster, revision, .. } => {
                self.agent_hears_watch(host, &cluster, revision);
            }
            Happening::AgentWakes { host, wake, .. } => self.agent_wakes(host, wake),
            Happening::AgentBeats { host, life } => self.agent_beats(host, life),
            Happening::AgentLooks { host, life } => {
                self.agent_looks(host, life);
            }
            Happening::AgentSees { host, look, seen, .. } => self.agent_sees(host, look, *seen),
            Happening::AgentActs { host, life, commands } => self.agent_acts(host, life, commands),
            Happening::AgentHearsGuardian { host, known, .. } => self.agent_hears_guardian(host, known),
            Happening::AgentHearsPeer { host, round, member, answer, .. } => {
                self.agent_hears_peer(host, round, member, *answer);
            }
            Happening::AgentIsAsked { host, asker, asker_life, round } => {
                self.agent_is_asked(host, asker, asker_life, round);
            }
            Happening::AgentIsAskedToAgree { host, from, wanted, asker } => {
                self.agent_is_asked_to_agree(host, from, wanted, asker);
            }
            Happening::AgentHearsConsent { host, round, member, agreed, .. } => {
                self.agent_hears_consent(host, round, member, agreed);
            }
            Happening::LeaderIsAsked { host, asker, asker_life, asked_at } => {
                self.leader_is_asked(host, asker, asker_life, asked_at);
            }
            Happening::AgentHearsLeader { host, asked_at, answer, .. } => {
                self.agent_hears_leader(host, asked_at, answer);
            }
            Happening::AgentAnswers { host, question, .. } => self.agent_answers(host, question),
            Happening::AgentHearsJob { host, id, outcome, .. } => self.agent_hears_job(host, id, outcome),
            Happening::AgentHearsPolicy { host, .. } => {
                self.learn(host, Event::Policy(Box::new(self.policy.clone())));
            }
            Happening::AgentStarts { host } => self.start_agent(host),
            Happening::JobAdvances { host, serial, .. } => self.job_advances(host, serial),
            Happening::KeeperTicks { host, life } => self.keeper_ticks(host, life),
            Happening::GuardianHears { host, life, order, from } => {
                self.guardian_hears(host, life, order, from);
            }
            Happening::GuardianLooks { host, life } => self.guardian_looks(host, life),
            Happening::GuardianHasKilled { host, pg_life } => self.guardian_has_killed(host, pg_life),
            Happening::GuardianStarts { host } => self.start_guardian(host),
            Happening::PostgresDiesAgain { host, pg_life } => self.postgres_dies_again(host, pg_life),
            Happening::PostgresIsUp { host, pg_life } => self.postgres_is_up(host, pg_life),
            Happening::PostgresHasStopped { host, pg_life, in_good_order } => {
                self.postgres_has_stopped(host, pg_life, in_good_order);
            }
            Happening::PostgresPromotes { host, pg_life, timeline } => {
                self.postgres_promotes(host, pg_life, timeline);
            }
            Happening::BatchArrives { host, pg_life, batch } => self.batch_arrives(host, pg_life, &batch),
            Happening::StandbyAnswers { host, pg_life, standby, records } => {
                self.standby_answers(host, pg_life, standby, records);
            }
            Happening::NamesAreInForce { host, pg_life } => self.names_are_in_force(host, pg_life),
            Happening::SendersLook => self.senders_look(),
            Happening::ClientsWrite => self.clients_write(),
            Happening::Strikes(trouble) => self.strike(trouble),
            Happening::Passes(trouble) => self.pass(trouble),
        }
    }

    // The store.

    pub fn ask_store(&mut self, host: usize, call: Call) {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let Some(agent) = self.hosts[host].agent.as_mut() else { return };
        let life = agent.life;
        let patience = call.purpose.patience();
        agent.pending.insert(ticket, call.purpose);
        self.after(patience, Happening::AgentGivesUpOnStore { host, life, ticket });
        let request = Box::new(call.request);
        if self.takes_its_time(&request) {
            let later = self.random.between(SECOND, 9 * SECOND);
            self.after(later, Happening::StoreHears { host, life, ticket, request });
            return;
        }
        self.send(Place::Host(host), Place::Store, Happening::StoreHears { host, life, ticket, request });
    }

    fn store_hears(&mut self, host: usize, life: u64, ticket: u64, request: Box<Request>) {
        if !self.store.up {
            if self.random.chance(500) {
                self.held.push(Happening::StoreHears { host, life, ticket, request });
            }
            return;
        }
        let before = self.store.revision;
        let taking =
            matches!(&*request, Request::Errand { errand: crate::model::Errand::TakeLease { .. }, .. });
        let writes_sync = matches!(&*request, Request::Errand { errand: Errand::WriteSync { .. }, .. });
        let ends_pause = matches!(&*request, Request::Errand { errand: Errand::EndPause { .. }, .. });
        let answer = self.store.answer(self.now, *request);
        if ends_pause && matches!(answer, Answer::Errand(ErrandOutcome::Done)) {
            super::story::set_pause(self, false);
        }
        if let Answer::Opened(_) | Answer::Renewed { .. } = answer {
            self.plan_expiry();
        }
        if before != self.store.revision {
            self.look_at_electorate();
            self.tell_watchers();
        }
        if writes_sync && matches!(answer, Answer::Errand(ErrandOutcome::Done)) {
            self.test_new_electorate(host);
        }
        if taking && 0 < self.hosts[host].answers_to_lose {
            self.hosts[host].answers_to_lose -= 1;
            return;
        }
        let answer = Box::new(answer);
        let back = Happening::AgentHearsStore { host, life, ticket, answer };
        self.send(Place::Store, Place::Host(host), back);
    }

    fn plan_expiry(&mut self) {
        let ends: Vec<(SessionId, Time)> =
            self.store.sessions.iter().map(|(id, session)| (*id, session.ends_at)).collect();
        for (session, ends_at) in ends {
            if self.laws.planned_end.insert(session, ends_at) != Some(ends_at) {
                let late = self.random.between(0, EXPIRY_LATE_MAX);
                self.at(ends_at + late, Happening::StoreEndsSession { session });
            }
        }
    }

    fn store_ends_session(&mut self, session: SessionId) {
        let before = self.store.revision;
        self.store.expire(self.now, session);
        if before != self.store.revision {
            self.laws.planned_end.remove(&session);
            self.tell_watchers();
        }
    }

    pub fn tell_watchers(&mut self) {
        for host in 0..self.hosts.len() {
            self.tell_watcher(host);
        }
    }

    fn tell_watcher(&mut self, host: usize) {
        let revision = self.store.revision;
        let Some(agent) = self.hosts[host].agent.as_ref().filter(|agent| agent.watching) else { return };
        let life = agent.life;
        let cluster = self.store.cluster();
        self.send(
            Place::Store,
            Place::Host(host),
            Happening::AgentHearsWatch { host, life, cluster, revision },
        );
    }

    /// A watch that has nothing to tell says so.
    fn store_beats(&mut self) {
        if self.store.up {
            self.tell_watchers();
        }
        self.after(BEAT, Happening::StoreBeats);
    }

    /// Without a majority the store answers nobody. What it has heard it may carry out later.
    pub fn store_stops(&mut self) {
        self.store.up = false;
        self.elections += 1;
    }

    pub fn store_elects(&mut self, takes: Time) {
        self.store_stops();
        let elected = self.elections;
        self.after(takes, Happening::StoreReturns { elected });
    }

    fn store_returns(&mut self, elected: u64) {
        if elected == self.elections {
            self.store_starts();
        }
    }

    pub fn store_starts(&mut self) {
        if self.store.up {
            return;
        }
        self.store.up = true;
        self.store.extend_sessions(self.now);
        self.plan_expiry();
        for happening in std::mem::take(&mut self.held) {
            self.after(0, happening);
        }
    }
}
