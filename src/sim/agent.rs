//! The agent's shell: carries events to the mind and commands to the machines, as the daemon does.

use std::collections::{BTreeMap, BTreeSet};

use super::guardian::Speaker;
use super::host::{Agent, Asking, Call, Keeper, Purpose, Written};
use super::network::Place;
use super::store::{Answer, Request};
use super::story::describe;
use super::world::{Happening, Question, World};
use super::{MS, SECOND, Time};
use crate::decide::address_order;
use crate::decide::fault::{self, Fault};
use crate::decide::fitness_told;
use crate::decide::mind::{Command, ErrandOutcome, Event, JobOutcome, Mind, PeerQuestion, Seen};
use crate::decide::publish::{self, Identity};
use crate::model::{
    Cluster, Disk, Errand, FenceOrder, Guardian as Known, MemberName, MemberState, PeerAnswer, PeerStatus,
    Postgres as Observed, Running, Span,
};

const LOOK_EVERY: Time = 500 * MS;
/// Whoever is asked answers after this even if the look has not come to an end.
const LOOK_PATIENCE: Time = 250 * MS;
const SILENT_AFTER: Span = Span::from_ms(2_500);
/// More turns in a second mean that the agent is busy with itself.
const TURNS_MAX: u32 = 1_500;

impl World {
    pub fn start_agent(&mut self, host: usize) {
        if !self.hosts[host].up || self.hosts[host].agent.is_some() {
            return;
        }
        let now = self.local(host);
        if self.laws.unattended.remove(&host) {
            self.laws.resumed_at = Some(self.now);
        }
        let machine = &mut self.hosts[host];
        machine.agent_life += 1;
        let life = machine.agent_life;
        let name = machine.name.clone();
        let mind = Mind::new(name.clone(), machine.tags.clone(), self.policy.clone(), machine.managed);
        let identity = Identity {
            conn_url: format!("postgres://{name}:5432/postgres"),
            api_url: format!("http://{name}:8008/patroni"),
            version: "0.1.0".to_owned(),
        };
        machine.agent = Some(Agent {
            life,
            mind,
            identity,
            frozen: false,
            hung: false,
            inbox: Vec::new(),
            keeper: Keeper::default(),
            pending: BTreeMap::new(),
            wake: 0,
            looks: 0,
            looked: 0,
            watching: false,
            seen_revision: 0,
            heard_at: now,
            reading: false,
            asking: None,
            seeking: None,
            askers: BTreeMap::new(),
            asked: 0,
            written: Written::default(),
            reason: None,
            confirmed: BTreeMap::new(),
            backlog: Vec::new(),
            turns: (0, 0),
            acts_at: 0,
        });
        self.tell_guardian_state(host);
        self.keeper_starts(host, life);
        self.after(MS, Happening::AgentBeats { host, life });
        self.turn(host);
    }

    /// An event reaches the mind, and what follows from it is done.
    pub fn learn(&mut self, host: usize, event: Event) {
        let now = self.local(host);
        self.note_confirmation(host, &event);
        let Some(agent) = self.hosts[host].agent.as_mut() else { return };
        if agent.hung {
            agent.backlog.push(event);
            return;
        }
        agent.mind.apply(now, event);
        self.turn(host);
    }

    fn turn(&mut self, host: usize) {
        let (now, true_now) = (self.local(host), self.now);
        let late = if self.random.chance(5) { self.random.between(0, 80 * MS) } else { 0 };
        let clock = self.hosts[host].clock;
        let Some(agent) = self.hosts[host].agent.as_mut() else { return };
        let request = agent.mind.view().cluster().and_then(|cluster| cluster.failover.as_ref());
        let at = request.and_then(|request| request.value.scheduled_at.as_ref());
        let due = at.and_then(|at| at.parse().ok()).map(|at| clock.read(at));
        agent.mind.apply(now, Event::SwitchoverDue(due));
        let intents = agent.mind.view().cluster().and_then(|cluster| cluster.intents.as_ref());
        let until = intents.and_then(|intents| intents.value.pause.as_ref()?.until.as_ref());
        let ends = until.and_then(|at| at.parse().ok()).map(|at| clock.read(at));
        agent.mind.apply(now, Event::PauseEnds(ends));
        let mut turn = agent.mind.turn(now);
        let order = address_order(agent.mind.view());
        // Callbacks change nothing in this world, not even its chances.
        turn.commands.retain(|command| !matches!(command, Command::Call(_)));
        let asked =
            turn.commands.extract_if(.., |command| matches!(command, Command::AskLeader { .. })).next();
        agent.keeper.orders = turn.lease;
        agent.wake += 1;
        let (life, wake) = (agent.life, agent.wake);
        agent.turns = if agent.turns.0 == true_now / SECOND {
            (agent.turns.0, agent.turns.1 + 1)
        } else {
            (true_now / SECOND, 0)
        };
        self.laws.rules.insert(turn.plan.reason.rule);
        let busy = TURNS_MAX < agent.turns.1;
        let step = describe(&turn.plan.step);
        // Every attempt is told, and between attempts what is new.
        let acts = (turn.commands.iter())
            .any(|command| matches!(command, Command::Errand(_) | Command::StartJob { .. }));
        if acts || agent.reason.as_ref() != Some(&turn.plan.reason) {
            agent.reason = Some(turn.plan.reason.clone());
            let of =
                turn.plan.reason.member.as_ref().map(|member| format!(" ({member})")).unwrap_or_default();
            let what = format!("{:?}{of}{step}", turn.plan.reason.rule);
            self.tell(host, &what);
        }
        if busy {
            self.laws.breaks(format!("an agent turns in circles: {:?}", turn.plan));
        }
        let at = self.hosts[host].clock.shows(turn.plan.look_again.max(now + Span::from_ms(1)));
        self.at(at + late, Happening::AgentWakes { host, life, wake });
        if !turn.commands.is_empty() {
            let takes = self.random.between(0, 2 * MS);
            let Some(agent) = self.hosts[host].agent.as_mut() else { return };
            agent.acts_at = agent.acts_at.max(true_now + takes);
            let acts_at = agent.acts_at;
            self.at(acts_at, Happening::AgentActs { host, life, commands: turn.commands });
        }
        if let Some(Command::AskLeader { asked_at, question }) = asked {
            self.ask_leader(host, asked_at, &question);
        }
        self.keeper_heeds_orders(host);
        self.order_address(host, order);
        self.look_at_mind(host);
        self.publish(host, now);
    }

    pub fn agent_wakes(&mut self, host: usize, wake: u64) {
        if self.hosts[host].agent.as_ref().is_some_and(|agent| agent.wake == wake) {
            self.learn(host, Event::Tick);
        }
    }

    /// Twice a second: look at PostgreSQL, and whether the store still talks.
    pub fn agent_beats(&mut self, host: usize, life: u64) {
        let now = self.local(host);
        self.agent_looks(host, life);
        let Some(agent) = self.hosts[host].agent.as_mut() else { return };
        let silent = agent.watching && SILENT_AFTER < now.since(agent.heard_at);
        if silent {
            agent.watching = false;
        }
        if !agent.watching && !agent.reading {
            agent.reading = true;
            self.ask_store(host, Call { purpose: Purpose::Read, request: Request::Read });
        }
        if silent {
            self.learn(host, Event::StoreSilent);
        }
        let every = self.random.between(LOOK_EVERY * 9 / 10, LOOK_EVERY);
        self.after(every, Happening::AgentBeats { host, life });
    }

    /// What is seen is as old as the look, however long the answer takes.
    pub fn agent_looks(&mut self, host: usize, life: u64) -> Time {
        let slow = if self.hosts[host].slow_disk { self.random.between(0, 2 * SECOND) } else { 0 };
        let takes = slow + self.random.between(MS, 20 * MS);
        let seen = Box::new(Seen { postgres: self.observe(host), looked_at: self.local(host) });
        self.probe_disk(host);
        let Some(agent) = self.hosts[host].agent.as_mut() else { return takes };
        agent.looks += 1;
        let look = agent.looks;
        self.after(takes, Happening::AgentSees { host, life, look, seen });
        takes
    }

    fn observe(&self, host: usize) -> Observed {
        match self.hosts[host].pg.observe() {
            Observed::Running(running) => {
                Observed::Running(Running { synchrony: self.synchrony(host), ..running })
            }
            other => other,
        }
    }

    /// The probe is a thread of its own, whose last word is there to be read whenever the agent looks.
    fn probe_disk(&mut self, host: usize) {
        let machine = &self.hosts[host];
        let free_bytes = Some(if machine.disk_full { 0 } else { 1 << 40 });
        let disk = Disk { unwritten_since: machine.stalled_since, free_bytes, refused_for_space: false };
        if machine.agent.as_ref().is_some_and(|agent| agent.mind.view().disk != disk) {
            self.learn(host, Event::Disk(disk));
        }
    }

    pub fn agent_sees(&mut self, host: usize, look: u64, seen: Seen) {
        let Some(agent) = self.hosts[host].agent.as_mut() else { return };
        if agent.looked < look {
            agent.looked = look;
            self.learn(host, Event::Postgres(seen));
        }
    }

    /// PostgreSQL has ended by itself: a pidfd tells within milliseconds.
    pub fn agent_notices_exit(&mut self, host: usize) {
        let life = self.hosts[host].agent_life;
        self.after(2 * MS, Happening::AgentLooks { host, life });
    }

    pub fn agent_hears_job(&mut self, host: usize, id: u64, outcome: JobOutcome) {
        let seen = Seen { postgres: self.observe(host), looked_at: self.local(host) };
        let Some(agent) = self.hosts[host].agent.as_mut() else { return };
        // A look that began before the job ended tells old news.
        agent.looked = agent.looks;
        self.learn(host, Event::JobEnded { id, outcome, seen });
    }

    pub fn agent_hears_guardian(&mut self, host: usize, known: Known) {
        if known == Known::Absent {
            let takes = self.pace(400 * MS);
            self.after(takes, Happening::GuardianStarts { host });
        }
        if self.policy.watchdog_required {
            let watchdog = self.hosts[host].guardian.watchdog();
            self.learn(host, Event::Watchdog(watchdog));
        }
        self.learn(host, Event::Guardian(known));
    }

    // The store.

    pub fn agent_hears_watch(&mut self, host: usize, cluster: &Cluster, revision: i64) {
        let now = self.local(host);
        let Some(agent) = self.hosts[host].agent.as_mut().filter(|agent| agent.watching) else { return };
        agent.heard_at = now;
        if agent.seen_revision < revision {
            agent.seen_revision = revision;
            self.learn(host, Event::Snapshot(Box::new(cluster.clone())));
        }
    }

    pub fn agent_hears_store(&mut self, host: usize, ticket: u64, answer: Option<&Answer>) {
        let now = self.local(host);
        let Some(agent) = self.hosts[host].agent.as_mut() else { return };
        let Some(purpose) = agent.pending.remove(&ticket) else { return };
        match purpose {
            Purpose::Open { asked_at } => {
                self.session_opened(host, asked_at, answer);
                self.keeper_has_asked(host, answer);
            }
            Purpose::Renew { asked_at, session, hold, shown } => {
                self.session_renewed(host, asked_at, session, (hold, shown), answer);
                self.keeper_has_asked(host, answer);
            }
            Purpose::Errand => {
                let outcome = match answer {
                    Some(Answer::Errand(outcome)) => *outcome,
                    Some(_) | None => ErrandOutcome::Unanswered,
                };
                self.learn(host, Event::ErrandEnded(outcome));
            }
            Purpose::Member(record) => {
                agent.written.record_under_way = false;
                let session = agent.mind.view().session.map(|session| session.id);
                agent.written.record = match answer {
                    Some(Answer::Written) => session.map(|session| (session, *record, now)),
                    Some(_) | None => None,
                };
            }
            Purpose::Status(status) => {
                agent.written.status_under_way = false;
                if let Some(Answer::Written) = answer {
                    agent.written.status = Some((status, now));
                }
            }
            Purpose::History => agent.written.history_under_way = false,
            Purpose::Failsafe => agent.written.failsafe_under_way = false,
            Purpose::Read => {
                agent.reading = false;
                if let Some(Answer::Cluster(cluster, revision)) = answer {
                    agent.watching = true;
                    agent.heard_at = now;
                    // The guard against going back in time, as in the store's adapter.
                    if agent.seen_revision <= *revision {
                        agent.seen_revision = *revision;
                        self.learn(host, Event::Snapshot(Box::new((**cluster).clone())));
                    }
                }
            }
            Purpose::Close => {}
        }
    }

    // The commands.

    pub fn agent_acts(&mut self, host: usize, life: u64, commands: Vec<Command>) {
        for command in commands {
            match command {
                Command::Errand(errand) => self.run_errand(host, errand),
                Command::Look => {
                    self.agent_looks(host, life);
                }
                Command::AskPeers { round, questions } => self.ask_peers(host, life, round, &questions),
                Command::StartJob { id, job } => self.begin_job(host, life, id, job),
                Command::CancelJob { id } => self.cancel_job(host, life, id),
                Command::Fence(order) => self.order_fence(host, order),
                Command::AskConsent { round, lease, questions } => {
                    self.ask_consent(host, life, round, lease, &questions);
                }
                Command::AnswerConsent { id, consent } => self.answer_consent(host, id, &consent),
                Command::AskLeader { .. } | Command::Answer { .. } | Command::Call(_) => {}
                Command::Exit => self.agent_exits(host),
            }
        }
    }

    fn run_errand(&mut self, host: usize, errand: Errand) {
        if let Errand::TakeLease { .. } = errand {
            self.look_at_candidate(host);
        }
        if let Errand::ReleaseLease { .. } = errand {
            self.laws.look_at_release(&self.hosts[host]);
            self.look_at_handover(host);
            self.hosts[host].office = None;
        }
        let name = self.hosts[host].name.clone();
        let Some(agent) = self.hosts[host].agent.as_ref() else { return };
        let session = agent.mind.view().session.map(|session| session.id);
        let view = agent.mind.view();
        let status = view.cluster().map(|cluster| Box::new(publish::last_status(view, cluster)));
        self.ask_store(
            host,
            Call { purpose: Purpose::Errand, request: Request::Errand { errand, name, session, status } },
        );
    }

    fn order_fence(&mut self, host: usize, order: FenceOrder) {
        // In maintenance mode the guardian is disarmed, and everybody is told so. An order of its last moment may be on its way.
        let ends = self.laws.resumed_at.is_some_and(|at| self.now < at + SECOND);
        if order == FenceOrder::Disarm && !self.policy.pause && !ends {
            self.laws.look_at_disarm(&self.hosts[host]);
        }
        self.order_guardian(host, order, Speaker::Agent);
    }

    fn agent_exits(&mut self, host: usize) {
        self.tell(host, "the agent has ended");
        if let Some(session) = self.hosts[host].saved_session.take() {
            self.ask_store(host, Call { purpose: Purpose::Close, request: Request::Close { session } });
        }
        self.hosts[host].agent = None;
        self.hosts[host].job = None;
    }

    // The peers.

    fn ask_peers(&mut self, host: usize, life: u64, round: u64, questions: &[PeerQuestion]) {
        let waiting: BTreeSet<MemberName> =
            questions.iter().map(|question| question.member.clone()).collect();
        let Some(agent) = self.hosts[host].agent.as_mut() else { return };
        agent.asking = Some(Asking { round, waiting, answers: BTreeMap::new() });
        for question in questions {
            let member = question.member.clone();
            let silent = Box::new(PeerAnswer::Silent);
            self.after(
                question.patience.as_ms() * MS,
                Happening::AgentHearsPeer { host, life, round, member, answer: silent },
            );
            if let Some(peer) = self.host_named(question.member.as_str()) {
                let asked = Happening::AgentIsAsked { host: peer, asker: host, asker_life: life, round };
                self.send(Place::Host(host), Place::Host(peer), asked);
            }
        }
    }

    /// Answered after a look, or from memory where that takes too long.
    pub fn agent_is_asked(&mut self, host: usize, asker: usize, asker_life: u64, round: u64) {
        let asked_at = self.local(host);
        let Some(life) = self.hosts[host].agent.as_ref().map(|agent| agent.life) else { return };
        let stood_at = self.hosts[host].pg.observe().running().and_then(Running::position);
        let takes = if fault::active(Fault::AnswersFromMemory) { 0 } else { self.agent_looks(host, life) };
        let question = Question { asker, asker_life, round, asked_at, stood_at };
        self.after(takes.min(LOOK_PATIENCE), Happening::AgentAnswers { host, life, question });
    }

    pub fn agent_answers(&mut self, host: usize, question: Question) {
        let Question { asker, asker_life, round, asked_at, stood_at } = question;
        let now = self.local(host);
        let Some(agent) = self.hosts[host].agent.as_ref() else { return };
        let view = agent.mind.view();
        let record = publish::member_record(view, &agent.identity);
        let status = PeerStatus {
            role: record.role,
            state: record.state,
            position: record.position(),
            tags: record.tags.clone(),
            unreplayed: view.postgres.running().map_or(0, Running::unreplayed),
            watchdog_failed: view.guardian == Known::Absent || view.lacks_watchdog(),
            fitness: fitness_told(view, now),
            stale: view.looked_at < asked_at && !fault::active(Fault::AnswersFromMemory),
            looked_ago: None,
            free_bytes: view.disk.free_bytes,
        };
        let member = view.me.clone();
        let older = !status.stale && status.state == MemberState::Running && status.position < stood_at;
        let answer = Box::new(PeerAnswer::Stands(status));
        let back = Happening::AgentHearsPeer {
            host: asker,
            life: asker_life,
            round,
            member: member.clone(),
            answer,
        };
        self.send(Place::Host(host), Place::Host(asker), back);
        if older {
            self.laws
                .breaks(format!("positions: {member} answers with an older position than it was asked at"));
        }
    }

    pub fn agent_hears_peer(&mut self, host: usize, round: u64, member: MemberName, answer: PeerAnswer) {
        let Some(agent) = self.hosts[host].agent.as_mut() else { return };
        let Some(asking) = agent.asking.as_mut().filter(|asking| asking.round == round) else { return };
        if asking.waiting.remove(&member) {
            asking.answers.insert(member, answer);
        }
        if asking.waiting.is_empty() {
            let answers = std::mem::take(&mut asking.answers);
            agent.asking = None;
            self.learn(host, Event::PeersAnswered { round, answers });
        }
    }
}
