//! Troubles: what goes wrong, for how long, and how it ends. A plan of troubles is made from a seed before the world
//! begins, so that a failing one can be made shorter.

use super::guardian::Guardian;
use super::host::{Clock, Host};
use super::network::Place;
use super::postgres::{Data, Server};
use super::random::Random;
use super::world::{Happening, Line, World};
use super::{MS, SECOND, Time};
use crate::decide::mind::Event;
use crate::model::{Address, Ask, ControlState, Remote, SystemId};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    AgentCrashes(usize),
    AgentFreezes(usize),
    PostgresCrashes(usize),
    PostgresHangs(usize),
    HostCrashes(usize),
    GuardianDies(usize),
    /// One direction of one link.
    LinkBreaks(Place, Place),
    HostIsCutOff(usize),
    StoreFails,
    StoreElects,
    Switchover(Option<usize>),
    Restart(usize),
    Reinitialize(usize),
    AgentEnds(usize),
    DataVanishes(usize),
    DiskIsSlow(usize),
    DiskStalls(usize),
    DiskFills(usize),
    CrashLoops(usize),
    LoopHangs(usize),
    AnswerIsLost(usize),
    /// Only where one is required does it matter.
    WatchdogFails(usize),
    /// Maintenance mode, for as long as it takes until everybody who may be a primary listens again.
    Maintenance,
    /// An operator makes the cluster the standby of another one, which is nowhere to be seen.
    FollowsAnother,
}

/// A trouble, when it strikes, and how long it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Planned {
    pub at: Time,
    pub lasts: Time,
    pub trouble: Trouble,
}

impl World {
    pub fn plan(&mut self, plan: &[Planned]) {
        for planned in plan {
            self.at(planned.at, Happening::Strikes(planned.trouble));
            self.at(planned.at + planned.lasts, Happening::Passes(planned.trouble));
        }
    }

    pub fn strike(&mut self, trouble: Trouble) {
        let line = Line { at: self.now, who: "==".to_owned(), what: format!("{trouble:?}") };
        self.lines.push(line);
        self.begin(trouble);
    }

    pub fn begin(&mut self, trouble: Trouble) {
        match trouble {
            Trouble::AgentCrashes(host) if self.fenced_without_agent(host) => self.crash_agent(host),
            Trouble::AgentFreezes(host) if self.fenced_without_agent(host) => self.freeze_agent(host, true),
            Trouble::AgentCrashes(_) | Trouble::AgentFreezes(_) => {}
            Trouble::PostgresCrashes(host) => self.crash_postgres_if_up(host),
            Trouble::PostgresHangs(host) => {
                let since = self.local(host);
                let pg = &mut self.hosts[host].pg;
                if matches!(pg.server, Server::Primary | Server::Standby) {
                    pg.hung_since = Some(since);
                }
            }
            Trouble::HostCrashes(host) => self.crash_host(host),
            Trouble::GuardianDies(host) => self.kill_guardian(host),
            Trouble::LinkBreaks(from, to) => self.network.cut(from, to),
            Trouble::HostIsCutOff(host) => self.cut_off(host),
            Trouble::StoreFails => self.store_stops(),
            Trouble::StoreElects => {
                let takes = self.random.between(200 * MS, 1_500 * MS);
                self.store_elects(takes);
            }
            Trouble::Switchover(to) => self.ask_for_switchover(to),
            Trouble::Restart(host) => self.ask(host, Ask::Restart { timeout: None }),
            Trouble::Reinitialize(host) => {
                self.ask(host, Ask::Reinitialize { force: false, from_leader: false });
            }
            Trouble::AgentEnds(host) => {
                if self.hosts[host].agent.as_ref().is_some_and(|agent| !agent.frozen) {
                    self.learn(host, Event::End);
                }
            }
            Trouble::DataVanishes(host) => self.remove_data(host),
            Trouble::DiskIsSlow(host) => self.hosts[host].slow_disk = true,
            Trouble::DiskStalls(host) => {
                let now = self.local(host);
                self.hosts[host].stalled_since.get_or_insert(now);
                self.hosts[host].pg.stalled = true;
            }
            Trouble::DiskFills(host) => self.hosts[host].disk_full = true,
            Trouble::CrashLoops(host) => {
                self.hosts[host].crash_loops = true;
                self.crash_postgres_if_up(host);
            }
            Trouble::LoopHangs(host) => {
                let fenced = self.fenced_without_agent(host);
                if let Some(agent) = self.hosts[host].agent.as_mut().filter(|_| fenced) {
                    agent.hung = true;
                }
            }
            Trouble::AnswerIsLost(host) => self.hosts[host].answers_to_lose += 1,
            Trouble::WatchdogFails(host) => self.break_watchdog(host, true),
            Trouble::FollowsAnother => self.follow_another(true),
            Trouble::Maintenance => self.maintain(true),
        }
    }

    pub fn pass(&mut self, trouble: Trouble) {
        match trouble {
            Trouble::AgentCrashes(host) => self.start_agent(host),
            Trouble::AgentEnds(host) => self.start_agent_when_ended(host, trouble),
            Trouble::AgentFreezes(host) => self.freeze_agent(host, false),
            Trouble::PostgresHangs(host) => self.wake_postgres(host),
            Trouble::HostCrashes(host) => self.boot(host),
            Trouble::LinkBreaks(from, to) => self.network.heal(from, to),
            Trouble::HostIsCutOff(host) => self.heal_host(host),
            Trouble::StoreFails => self.store_starts(),
            Trouble::DiskIsSlow(host) => self.hosts[host].slow_disk = false,
            Trouble::DiskStalls(host) => self.repair_disk(host),
            Trouble::DiskFills(host) => self.hosts[host].disk_full = false,
            Trouble::CrashLoops(host) => self.hosts[host].crash_loops = false,
            Trouble::LoopHangs(host) => self.unhang_loop(host),
            Trouble::AnswerIsLost(host) => self.hosts[host].answers_to_lose = 0,
            Trouble::WatchdogFails(host) => self.break_watchdog(host, false),
            Trouble::FollowsAnother => self.follow_another(false),
            Trouble::Maintenance if self.policy.pause && !self.everybody_listens() => {
                self.after(SECOND, Happening::Passes(trouble));
            }
            Trouble::Maintenance => self.maintain(false),
            Trouble::PostgresCrashes(_)
            | Trouble::GuardianDies(_)
            | Trouble::StoreElects
            | Trouble::Switchover(_)
            | Trouble::Restart(_)
            | Trouble::Reinitialize(_)
            | Trouble::DataVanishes(_) => {}
        }
    }

    /// One ring may break, not two at once: the watchdog, which would be the third, is not simulated.
    fn fenced_without_agent(&self, host: usize) -> bool {
        let machine = &self.hosts[host];
        machine.guardian.alive && (machine.guardian.armed.is_some() || !machine.pg.may_write())
    }

    pub fn crash_agent(&mut self, host: usize) {
        self.hosts[host].agent = None;
        self.hosts[host].job = None;
    }

    pub fn freeze_agent(&mut self, host: usize, frozen: bool) {
        let Some(agent) = self.hosts[host].agent.as_mut() else { return };
        agent.frozen = frozen;
        if !frozen {
            for happening in std::mem::take(&mut agent.inbox) {
                self.after(0, happening);
            }
        }
    }

    fn repair_disk(&mut self, host: usize) {
        self.hosts[host].stalled_since = None;
        self.hosts[host].pg.stalled = false;
    }

    fn unhang_loop(&mut self, host: usize) {
        let Some(agent) = self.hosts[host].agent.as_mut() else { return };
        agent.hung = false;
        let (backlog, inbox) = (std::mem::take(&mut agent.backlog), std::mem::take(&mut agent.inbox));
        for event in backlog {
            self.learn(host, event);
        }
        for happening in inbox {
            self.after(0, happening);
        }
    }

    pub fn crash_postgres_if_up(&mut self, host: usize) {
        if self.hosts[host].pg.is_up() {
            self.crash_postgres(host);
        }
    }

    pub fn crash_host(&mut self, host: usize) {
        self.crash_agent(host);
        self.crash_postgres_if_up(host);
        let machine = &mut self.hosts[host];
        machine.up = false;
        machine.guardian =
            Guardian { alive: false, life: machine.guardian.life + 1, armed: None, ..machine.guardian };
        machine.saved_session = None;
        machine.office = None;
    }

    pub fn boot(&mut self, host: usize) {
        let machine = &mut self.hosts[host];
        if machine.up {
            return;
        }
        machine.up = true;
        machine.clock = Clock { booted_at: self.now, ahead_ms: 5_000, ..machine.clock };
        self.after(500 * MS, Happening::AgentStarts { host });
    }

    /// The agent brings it back. Nobody kills it where the agent could not act either.
    pub fn kill_guardian(&mut self, host: usize) {
        let machine = &mut self.hosts[host];
        let writable = machine.pg.server == Server::Primary;
        // An agent that has come back beside its primary and has not heard of its lease is a ring that does not hold yet.
        let other_ring_holds = machine.agent.as_ref().is_some_and(|agent| {
            !agent.frozen && !agent.hung && (!writable || agent.mind.view().lease.is_some())
        });
        if machine.guardian.alive && other_ring_holds {
            machine.guardian =
                Guardian { alive: false, life: machine.guardian.life + 1, armed: None, ..machine.guardian };
            self.tell_guardian_state(host);
        }
    }

    pub fn cut_off(&mut self, host: usize) {
        for other in self.others(host) {
            self.network.cut(Place::Host(host), other);
            self.network.cut(other, Place::Host(host));
        }
    }

    pub fn heal_host(&mut self, host: usize) {
        for other in self.others(host) {
            self.network.heal(Place::Host(host), other);
            self.network.heal(other, Place::Host(host));
        }
    }

    /// Clients sit beside the host: they go on writing there as long as they are let.
    fn others(&self, host: usize) -> Vec<Place> {
        let hosts = (0..self.hosts.len()).filter(|&other| other != host).map(Place::Host);
        hosts.chain([Place::Store]).collect()
    }

    pub fn ask_for_switchover(&mut self, to: Option<usize>) {
        let leader = self.store.leader.as_ref().map(|leader| leader.name.clone());
        let candidate = to.map(|host| self.hosts[host].name.clone());
        if leader.is_some() && leader != candidate && self.store.up {
            self.store.request_failover(leader, candidate);
        }
    }

    pub fn ask_for_switchover_at(&mut self, to: usize, at: Time) {
        let leader = self.store.leader.as_ref().map(|leader| leader.name.clone());
        let candidate = self.hosts[to].name.clone();
        self.store.schedule_failover(leader, Some(candidate), Some(at));
        self.tell_watchers();
    }

    /// By REST, on the machine itself.
    pub fn ask(&mut self, host: usize, ask: Ask) {
        // Where it would take the last copy away, an operator does not ask for it.
        let copies = self.hosts.iter().filter(|other| other.up && other.pg.server == Server::Standby).count();
        let harmless =
            matches!(ask, Ask::Restart { .. }) || 2 <= copies || self.hosts[host].pg.data.is_none();
        if harmless && self.hosts[host].agent.as_ref().is_some_and(|agent| !agent.frozen) {
            self.learn(host, Event::Asked { id: 0, ask });
        }
    }

    /// Only where a copy is left elsewhere is there anything to learn from it.
    pub fn remove_data(&mut self, host: usize) {
        let copies = self.hosts.iter().filter(|other| other.up && other.pg.server == Server::Standby).count();
        if copies < 2 {
            return;
        }
        self.crash_postgres_if_up(host);
        if let Some(data) = self.hosts[host].pg.data.take() {
            self.laws.excused.extend(data.wal);
        }
    }

    /// By an operator's hand: the session that it hung on lives.
    pub fn delete_leader_key(&mut self) {
        self.laws.key_deleted = true;
        self.store.leader = None;
        self.store.revision += 1;
        self.tell_watchers();
    }

    /// The setting is in the store, and reaches every agent that listens.
    pub fn follow_another(&mut self, follows: bool) {
        let elsewhere = Address { host: "elsewhere".to_owned(), port: 5432 };
        let remote = Remote { address: Some(elsewhere), ..Remote::default() };
        self.policy.follows = follows.then_some(remote);
        self.laws.follows_since = follows.then_some(self.now);
        self.tell_policy();
    }

    /// An operator begins and ends it when every agent can hear of it.
    fn maintain(&mut self, on: bool) {
        if self.policy.pause == on || !self.everybody_listens() {
            return;
        }
        self.set_pause(on);
        self.tell_policy();
    }

    /// Whose agent is not there when maintenance mode ends has nobody who could stop it before it is.
    pub fn set_pause(&mut self, on: bool) {
        self.policy.pause = on;
        self.laws.resumed_at = (!on).then_some(self.now);
        let unattended = (0..self.hosts.len()).filter(|&host| !on && self.hosts[host].agent.is_none());
        self.laws.unattended = unattended.collect();
    }

    /// Every agent hears what the store says, and whoever may write has the key: nobody but an operator knows otherwise whether a
    /// primary that nobody fences still runs.
    fn everybody_listens(&self) -> bool {
        let leader = self.store.leader.as_ref().map(|leader| &leader.name);
        let listens = |(index, host): (usize, &Host)| {
            let hears = host.agent.as_ref().is_some_and(|agent| !agent.frozen && !agent.hung);
            let reached = self.network.both_ways(Place::Host(index), Place::Store);
            hears && reached && (!host.pg.may_write() || Some(&host.name) == leader)
        };
        self.hosts.iter().enumerate().all(listens)
    }

    fn tell_policy(&mut self) {
        for host in 0..self.hosts.len() {
            let life = self.hosts[host].agent_life;
            self.after(MS, Happening::AgentHearsPolicy { host, life });
        }
    }

    /// A PostgreSQL that was there before any agent was.
    pub fn put_running_primary(&mut self, host: usize) {
        let branch = self.laws.new_branch();
        let mut data = Data::made(SystemId(1), branch);
        data.state = ControlState::InProduction;
        self.hosts[host].pg.data = Some(data);
        self.hosts[host].pg.server = Server::Primary;
        self.primary_begins(host);
    }

    fn start_agent_when_ended(&mut self, host: usize, trouble: Trouble) {
        let ending = self.hosts[host].agent.as_ref().is_some_and(|agent| agent.mind.view().ending);
        if ending {
            self.after(SECOND, Happening::Passes(trouble));
        } else {
            self.start_agent(host);
        }
    }

    /// Everything that was broken works again.
    pub fn calm(&mut self) {
        let habits = &mut self.network.habits;
        (habits.loss_permille, habits.late_permille) = (0, 0);
        (habits.job_failure_permille, habits.last_record_lost_permille) = (0, 0);
        self.network.heal_everything();
        self.store_starts();
        self.follow_another(false);
        // Agents that have just been started must have looked around.
        self.after(5 * SECOND, Happening::Passes(Trouble::Maintenance));
        for host in 0..self.hosts.len() {
            self.freeze_agent(host, false);
            self.unhang_loop(host);
            self.repair_disk(host);
            self.boot(host);
            self.start_agent(host);
            let machine = &mut self.hosts[host];
            (machine.slow_disk, machine.answers_to_lose) = (false, 0);
            (machine.disk_full, machine.crash_loops) = (false, false);
            self.wake_postgres(host);
            self.break_watchdog(host, false);
        }
    }
}

/// A plan for so many hosts: a trouble every few seconds, most of them short, some longer than the lease.
pub(super) fn plan_from(random: &mut Random, hosts: usize, from: Time, to: Time) -> Vec<Planned> {
    let mut plan = Vec::new();
    let mut at = from;
    loop {
        at += random.between(200 * MS, 16 * SECOND);
        if to <= at {
            return plan;
        }
        let lasts = match random.below(4) {
            0 => random.between(10 * MS, SECOND),
            1 | 2 => random.between(SECOND, 9 * SECOND),
            _ => random.between(9 * SECOND, 30 * SECOND),
        };
        plan.push(Planned { at, lasts, trouble: trouble_from(random, hosts) });
        // Beside the troubles, not instead of them: an old seed keeps its life.
        if at.is_multiple_of(7) {
            let host = usize::try_from(at / 7).unwrap_or(0) % hosts;
            let trouble =
                if at.is_multiple_of(2) { Trouble::Restart(host) } else { Trouble::Reinitialize(host) };
            plan.push(Planned { at: at + lasts / 2, lasts, trouble });
        }
    }
}

fn trouble_from(random: &mut Random, hosts: usize) -> Trouble {
    let host = random.index(hosts);
    let place = |random: &mut Random| match random.below(4) {
        0 => Place::Store,
        _ => Place::Host(random.index(hosts)),
    };
    match random.below(34) {
        0..=2 => Trouble::AgentCrashes(host),
        3..=5 => Trouble::AgentFreezes(host),
        6..=7 => Trouble::PostgresCrashes(host),
        8 => Trouble::PostgresHangs(host),
        9..=10 => Trouble::HostCrashes(host),
        11 => Trouble::GuardianDies(host),
        12..=13 => Trouble::LinkBreaks(place(random), Place::Host(host)),
        14..=15 => Trouble::LinkBreaks(Place::Host(host), place(random)),
        16..=18 => Trouble::HostIsCutOff(host),
        19 => Trouble::StoreFails,
        20 => Trouble::StoreElects,
        21..=22 => Trouble::Switchover(random.chance(600).then_some(host)),
        23 => Trouble::AgentEnds(host),
        24 => Trouble::DataVanishes(host),
        25 => Trouble::DiskIsSlow(host),
        26 => Trouble::DiskStalls(host),
        27 => Trouble::DiskFills(host),
        28 => Trouble::CrashLoops(host),
        29 => Trouble::LoopHangs(host),
        _ => Trouble::AnswerIsLost(host),
    }
}
