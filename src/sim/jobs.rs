//! Work on PostgreSQL: what each job does, how long it takes, and what it leaves behind when it fails or is cut short.

use super::commits::Waiting;
use super::host::ActiveJob;
use super::network::Place;
use super::postgres::{Data, Instance, Server, lsn_after, records_before};
use super::world::{Happening, World};
use super::{MS, SECOND, Time};
use crate::decide::mind::JobOutcome;
use crate::model::{
    Address, ControlState, Gate, Job, MemberName, Moment, Position, SyncNames, SystemId, Timeline, Unfinished,
};

impl World {
    pub fn begin_job(&mut self, host: usize, life: u64, id: u64, job: Job) {
        let habit = self.network.habits.job_failure_permille;
        let told = self.hosts[host].failing.get_mut(job.name());
        let fails = match told {
            Some(times) if 0 < *times => {
                *times -= 1;
                true
            }
            Some(_) | None => !job.is_stop() && self.random.chance(habit),
        };
        self.hosts[host].job_serial += 1;
        let serial = self.hosts[host].job_serial;
        self.hosts[host].job =
            Some(ActiveJob { serial, agent_life: life, id, job: job.clone(), fails, phase: 0 });
        let slow = self.hosts[host].slow_disk || self.hosts[host].stalled_since.is_some();
        let disk = if slow { self.random.between(0, 3 * SECOND) } else { 0 };
        match job {
            Job::Bootstrap => {
                self.must_be_vacant(host, "bootstrap");
                self.hosts[host].pg.unfinished = Some(Unfinished::Bootstrap);
                self.job_goes_on(host, 1_500 * MS + disk);
            }
            // There is no repository of backups in this world.
            Job::CloneWithoutLeader => self.job_goes_on(host, 2 * SECOND),
            Job::PrePromote { .. } => self.job_goes_on(host, 200 * MS),
            // What the other cluster is like is not simulated: it gives no copy.
            Job::CloneRemote | Job::RewindRemote => self.finish_job(host, JobOutcome::Failed),
            Job::CopySlots { .. } => self.job_goes_on(host, 300 * MS),
            Job::Clone { .. } => {
                self.must_be_vacant(host, "clone");
                self.hosts[host].pg.unfinished = Some(Unfinished::Clone);
                self.job_goes_on(host, 2 * SECOND + disk);
            }
            Job::Rewind { .. } | Job::StopOrderly { .. } | Job::StopFast { .. } => {
                self.job_goes_on(host, 100 * MS);
            }
            Job::StartPrimary { names, gate, .. } => {
                self.hosts[host].pg.names = names;
                self.hosts[host].pg.gate = gate;
                self.launch(host, true, None, fails, disk);
            }
            Job::StartStandby { upstream } => {
                self.hosts[host].pg.names = SyncNames::Unmanaged;
                self.launch(host, false, upstream, fails, disk);
            }
            Job::Promote { timeline, names, .. } => {
                self.hosts[host].pg.names = names;
                self.begin_promotion(host, timeline, fails, disk);
            }
            Job::Synchronize { names } => {
                let takes = self.names_are_written(host, names);
                self.job_goes_on_at(host, self.now + takes);
            }
            Job::Follow { .. } | Job::SetAside | Job::OpenGate => self.job_goes_on(host, 20 * MS),
            Job::Checkpoint => self.job_goes_on(host, 200 * MS + disk),
            Job::StopAtOnce => self.stop_at_once(host),
        }
    }

    /// What has not been finished stays where it is; a server that was told to do something does it.
    pub fn cancel_job(&mut self, host: usize, life: u64, id: u64) {
        if self.hosts[host].job.take_if(|job| job.id == id && job.agent_life == life).is_some() {
            self.after(MS, Happening::AgentHearsJob { host, life, id, outcome: JobOutcome::Cancelled });
        }
    }

    pub fn finish_job(&mut self, host: usize, outcome: JobOutcome) {
        if let Some(ActiveJob { agent_life: life, id, .. }) = self.hosts[host].job.take() {
            self.after(MS, Happening::AgentHearsJob { host, life, id, outcome });
        }
    }

    fn job_goes_on(&mut self, host: usize, usual: Time) {
        let takes = self.pace(usual);
        self.job_goes_on_at(host, self.now + takes);
    }

    fn job_goes_on_at(&mut self, host: usize, at: Time) {
        if let Some(ActiveJob { serial, agent_life: life, .. }) = self.hosts[host].job {
            self.at(at, Happening::JobAdvances { host, life, serial });
        }
    }

    pub fn job_advances(&mut self, host: usize, serial: u64) {
        let Some(active) = self.hosts[host].job.as_mut().filter(|job| job.serial == serial) else { return };
        active.phase += 1;
        let ActiveJob { job, fails, phase, .. } = active.clone();
        match job {
            Job::Bootstrap => self.end_bootstrap(host, fails),
            Job::Clone { from } => self.end_clone(host, &from, fails),
            Job::CloneWithoutLeader => self.finish_job(host, JobOutcome::Failed),
            Job::PrePromote { .. } => {
                self.finish_job(host, if fails { JobOutcome::Failed } else { JobOutcome::Done });
            }
            Job::Rewind { from } if phase == 1 => self.prepare_rewind(host, &from, fails),
            Job::Rewind { from } => self.end_rewind(host, &from, fails),
            Job::StartPrimary { .. } | Job::StartStandby { .. } | Job::Promote { .. } => {
                let failed = fails || self.hosts[host].pg.server == Server::Down;
                self.finish_job(host, if failed { JobOutcome::Failed } else { JobOutcome::Done });
            }
            Job::Follow { upstream } => {
                let to = upstream.as_ref().and_then(|address| self.host_named(&address.host));
                let pg = &mut self.hosts[host].pg;
                (pg.upstream, pg.upstream_address, pg.streaming) = (to, upstream, false);
                self.finish_job(host, JobOutcome::Done);
            }
            Job::SetAside => {
                let pg = &mut self.hosts[host].pg;
                pg.unfinished = None;
                pg.set_aside.extend(pg.data.take());
                self.finish_job(host, JobOutcome::Done);
            }
            Job::Checkpoint => self.end_checkpoint(host, fails),
            Job::Synchronize { .. } => self.end_synchronize(host, fails),
            Job::OpenGate => self.open_gate(host, fails),
            Job::StopOrderly { by, .. } | Job::StopFast { by } if phase == 1 => self.stop_in_order(host, by),
            Job::StopOrderly { .. } | Job::StopFast { .. } => self.stop_at_once(host),
            Job::CopySlots { .. } => self.finish_job(host, JobOutcome::Done),
            Job::StopAtOnce | Job::CloneRemote | Job::RewindRemote => {}
        }
    }

    fn must_be_vacant(&mut self, host: usize, job: &str) {
        if self.hosts[host].pg.data.is_some() {
            let name = &self.hosts[host].name;
            self.laws.breaks(format!("S5: a {job} began in the data directory of {name}, which holds data"));
            self.hosts[host].pg.data = None;
        }
    }

    fn end_bootstrap(&mut self, host: usize, fails: bool) {
        if fails {
            return self.finish_job(host, JobOutcome::Failed);
        }
        let system = SystemId(self.random.next());
        let branch = self.laws.new_branch();
        let pg = &mut self.hosts[host].pg;
        pg.unfinished = None;
        pg.data = Some(Data::made(system, branch));
        self.finish_job(host, JobOutcome::Made(system));
    }

    /// A server that can be copied from, as seen from `host`.
    fn source(&self, host: usize, from: &MemberName) -> Option<&Instance> {
        let source = self.host_named(from.as_str())?;
        let reachable = self.network.both_ways(Place::Host(host), Place::Host(source));
        let pg = &self.hosts[source].pg;
        let serves = match pg.server {
            Server::Primary => true,
            // Who leads a standby cluster is copied from as well.
            Server::Standby => self.policy.follows.is_some(),
            Server::Down | Server::Starting { .. } | Server::Stopping { .. } => false,
        };
        (reachable && self.hosts[source].up && serves && pg.hung_since.is_none()).then_some(pg)
    }

    fn end_clone(&mut self, host: usize, from: &MemberName, fails: bool) {
        let copy = self.source(host, from).and_then(|source| source.data.clone()).filter(|_| !fails);
        let Some(mut data) = copy else { return self.finish_job(host, JobOutcome::Failed) };
        data.state = ControlState::InProduction;
        data.checkpoint = data.position();
        (data.recovery_end, data.standby_signal, data.backup_label) = (None, true, true);
        let pg = &mut self.hosts[host].pg;
        pg.unfinished = None;
        pg.data = Some(data);
        self.finish_job(host, JobOutcome::Done);
    }

    /// Sometimes it fails before anything has been touched.
    fn prepare_rewind(&mut self, host: usize, from: &MemberName, fails: bool) {
        let untouched = fails && self.random.chance(500);
        if untouched || self.source(host, from).is_none() || self.hosts[host].pg.data.is_none() {
            return self.finish_job(host, JobOutcome::Failed);
        }
        self.hosts[host].pg.unfinished = Some(Unfinished::Rewind);
        self.job_goes_on(host, SECOND);
    }

    fn end_rewind(&mut self, host: usize, from: &MemberName, fails: bool) {
        let copy = self.source(host, from).map(|source| (source.data.clone(), source.checkpointed));
        let (Some((Some(mut data), checkpointed)), Some(target), false) =
            (copy, self.hosts[host].pg.data.clone(), fails)
        else {
            return self.finish_job(host, JobOutcome::Failed);
        };
        let before_last = data.forks.last().map(|fork| fork.parent);
        let shown = if checkpointed { data.timeline } else { before_last.unwrap_or(data.timeline) };
        self.hosts[host].pg.unfinished = None;
        // "No rewind required": it looks no further than the numbers of the timelines.
        if shown == target.timeline {
            return self.finish_job(host, JobOutcome::Done);
        }
        let (told, truly) = (target.parted_by_history(&data), target.common_with(&data));
        if truly < told {
            let name = &self.hosts[host].name;
            self.laws.breaks(format!(
                "lineage: {name} was rewound to record {told}, but its records differ from {from}'s since {truly}"
            ));
        }
        data.state = ControlState::InArchiveRecovery;
        data.recovery_end = Some(data.position());
        (data.standby_signal, data.backup_label) = (true, true);
        let pg = &mut self.hosts[host].pg;
        pg.kept.extend(&target.wal[truly..]);
        pg.data = Some(data);
        self.finish_job(host, JobOutcome::Done);
    }

    fn end_checkpoint(&mut self, host: usize, fails: bool) {
        let pg = &mut self.hosts[host].pg;
        let done = !fails && pg.server == Server::Primary && pg.hung_since.is_none();
        if let Some(data) = pg.data.as_mut().filter(|_| done) {
            data.checkpoint = data.position();
            pg.checkpointed = true;
        }
        self.finish_job(host, if done { JobOutcome::Done } else { JobOutcome::Failed });
    }

    fn open_gate(&mut self, host: usize, fails: bool) {
        let pg = &mut self.hosts[host].pg;
        let done = !fails && pg.server == Server::Primary && pg.hung_since.is_none();
        if done {
            pg.waiting.gate = Gate::Open;
            self.tell(host, "* lets clients in");
        }
        self.finish_job(host, if done { JobOutcome::Done } else { JobOutcome::Failed });
    }

    // Up.

    fn launch(&mut self, host: usize, as_primary: bool, upstream: Option<Address>, fails: bool, disk: Time) {
        let since = self.local(host);
        let to = upstream.as_ref().and_then(|address| self.host_named(&address.host));
        let machine = &mut self.hosts[host];
        let startable = machine.pg.server == Server::Down && machine.pg.data.is_some() && !fails;
        if machine.pg.unfinished.is_some() && machine.pg.data.is_some() {
            let name = machine.name.clone();
            self.laws.breaks(format!("{name} started what an interrupted job has left behind"));
        }
        let machine = &mut self.hosts[host];
        if let Some(data) = machine.pg.data.as_mut().filter(|_| startable) {
            machine.managed = true;
            data.standby_signal = !as_primary;
            machine.pg.server = Server::Starting { as_primary, since };
            machine.pg.life += 1;
            (machine.pg.upstream, machine.pg.upstream_address) = (to, upstream);
            let pg_life = machine.pg.life;
            let takes = self.pace(250 * MS) + disk;
            self.after(takes, Happening::PostgresIsUp { host, pg_life });
            let life = self.hosts[host].guardian.life;
            self.after(MS, Happening::GuardianLooks { host, life });
        }
        self.job_goes_on(host, 150 * MS);
    }

    pub fn postgres_is_up(&mut self, host: usize, pg_life: u64) {
        let pg = &mut self.hosts[host].pg;
        let (Server::Starting { as_primary, .. }, true) = (pg.server, pg.life == pg_life) else { return };
        let Some(data) = pg.data.as_mut() else { return };
        pg.checkpointed = true;
        data.backup_label = false;
        if as_primary {
            data.state = ControlState::InProduction;
            data.recovery_end = None;
            pg.server = Server::Primary;
            pg.waiting = Waiting::come_back(&pg.names, pg.gate, data.wal.len());
            self.primary_begins(host);
            self.may_die_again(host);
        } else {
            data.state = ControlState::InArchiveRecovery;
            pg.server = Server::Standby;
        }
    }

    fn begin_promotion(&mut self, host: usize, timeline: Timeline, fails: bool, disk: Time) {
        let pg = &self.hosts[host].pg;
        let pg_life = pg.life;
        let possible =
            pg.server == Server::Standby && pg.data.as_ref().is_some_and(|d| d.timeline < timeline);
        if possible && !fails {
            let takes = self.pace(150 * MS) + disk;
            self.after(takes, Happening::PostgresPromotes { host, pg_life, timeline });
        } else {
            self.finish_job(host, JobOutcome::Failed);
        }
    }

    pub fn postgres_promotes(&mut self, host: usize, pg_life: u64, timeline: Timeline) {
        let pg = &mut self.hosts[host].pg;
        if pg.life != pg_life || pg.server != Server::Standby {
            return;
        }
        let branch = self.laws.new_branch();
        let Some(data) = pg.data.as_mut() else { return };
        data.begin_timeline(timeline, branch);
        (pg.server, pg.checkpointed, pg.streaming) = (Server::Primary, false, false);
        pg.waiting = Waiting::begin(&pg.names);
        self.primary_begins(host);
        self.may_die_again(host);
        if matches!(self.hosts[host].job, Some(ActiveJob { job: Job::Promote { .. }, .. })) {
            self.finish_job(host, JobOutcome::Done);
        }
    }

    fn may_die_again(&mut self, host: usize) {
        if self.hosts[host].crash_loops {
            let (lives, pg_life) = (self.random.between(SECOND, 8 * SECOND), self.hosts[host].pg.life);
            self.after(lives, Happening::PostgresDiesAgain { host, pg_life });
        }
    }

    pub fn postgres_dies_again(&mut self, host: usize, pg_life: u64) {
        let machine = &self.hosts[host];
        if machine.crash_loops && machine.pg.life == pg_life && machine.pg.server == Server::Primary {
            self.crash_postgres(host);
        }
    }

    // Down.

    fn stop_in_order(&mut self, host: usize, by: Moment) {
        let now = self.local(host);
        let pg = &mut self.hosts[host].pg;
        let was_primary = match pg.server {
            Server::Down => return self.finish_job(host, JobOutcome::Done),
            Server::Starting { .. } => return self.stop_at_once(host),
            Server::Primary => true,
            Server::Standby => false,
            Server::Stopping { was_primary } => was_primary,
        };
        let hung = pg.hung_since.is_some();
        // From now on it takes no new connection: to whoever looks it is silent.
        pg.hung_since.get_or_insert(now);
        pg.server = Server::Stopping { was_primary };
        let pg_life = pg.life;
        if !hung {
            let takes = self.pace(200 * MS);
            self.after(takes, Happening::PostgresHasStopped { host, pg_life, in_good_order: true });
        }
        let latest = self.hosts[host].clock.shows(by);
        self.job_goes_on_at(host, latest.max(self.now + 10 * MS));
    }

    pub fn wake_postgres(&mut self, host: usize) {
        let pg = &mut self.hosts[host].pg;
        let pg_life = pg.life;
        if let Server::Stopping { .. } = pg.server {
            self.after(200 * MS, Happening::PostgresHasStopped { host, pg_life, in_good_order: true });
        } else {
            pg.hung_since = None;
        }
    }

    fn stop_at_once(&mut self, host: usize) {
        let pg_life = self.hosts[host].pg.life;
        if self.hosts[host].pg.server == Server::Down {
            return self.finish_job(host, JobOutcome::Done);
        }
        let slowly = self.hosts[host].slow_disk && self.hosts[host].guardian.alive;
        let takes = if slowly { self.random.between(0, 2 * SECOND) } else { self.pace(60 * MS) };
        self.after(takes, Happening::PostgresHasStopped { host, pg_life, in_good_order: false });
    }

    pub fn postgres_has_stopped(&mut self, host: usize, pg_life: u64, in_good_order: bool) {
        let pg = &mut self.hosts[host].pg;
        if pg.life != pg_life || pg.server == Server::Down {
            return;
        }
        if !in_good_order {
            return self.crash_postgres(host);
        }
        let Some(data) = pg.data.as_mut() else { return };
        if pg.server == (Server::Stopping { was_primary: true }) {
            data.checkpoint = data.position();
            data.append();
            data.state = ControlState::ShutDown;
            self.send_last_records(host);
        } else {
            data.state = ControlState::ShutDownInRecovery;
            data.recovery_end = Some(data.position());
        }
        self.postgres_is_gone(host);
    }

    /// However it ends: killed, stopped at once, or by its own fault.
    pub fn crash_postgres(&mut self, host: usize) {
        let chance = self.random.next();
        let pg = &mut self.hosts[host].pg;
        if let Some(data) = pg.data.as_mut() {
            match pg.server {
                Server::Down => return,
                Server::Primary | Server::Stopping { was_primary: true } => {
                    data.state = ControlState::InProduction;
                }
                Server::Starting { as_primary: true, .. } => {
                    if data.state == ControlState::InProduction {
                        data.state = ControlState::InCrashRecovery;
                    }
                }
                Server::Starting { as_primary: false, .. } => {}
                Server::Standby | Server::Stopping { was_primary: false } => {
                    data.state = ControlState::InArchiveRecovery;
                    data.recovery_end = Some(somewhere_before_the_end(data, chance));
                }
            }
        }
        self.postgres_is_gone(host);
    }

    fn postgres_is_gone(&mut self, host: usize) {
        let pg = &mut self.hosts[host].pg;
        (pg.server, pg.streaming, pg.hung_since, pg.batch_under_way) = (Server::Down, false, None, false);
        pg.waiting = Waiting::default();
        pg.life += 1;
        match self.hosts[host].job.as_ref().map(|job| &job.job) {
            Some(Job::StopAtOnce | Job::StopOrderly { .. } | Job::StopFast { .. }) => {
                self.finish_job(host, JobOutcome::Done);
            }
            Some(Job::Promote { .. }) => self.finish_job(host, JobOutcome::Failed),
            Some(
                Job::Bootstrap
                | Job::Clone { .. }
                | Job::CloneWithoutLeader
                | Job::PrePromote { .. }
                | Job::Rewind { .. }
                | Job::StartPrimary { .. }
                | Job::StartStandby { .. }
                | Job::Follow { .. }
                | Job::CloneRemote
                | Job::RewindRemote
                | Job::CopySlots { .. }
                | Job::SetAside
                | Job::Checkpoint
                | Job::Synchronize { .. }
                | Job::OpenGate,
            )
            | None => {}
        }
        self.agent_notices_exit(host);
    }
}

/// The control file of a standby says how far it must replay again, not how far it has come.
fn somewhere_before_the_end(data: &Data, chance: u64) -> Position {
    let told = data.recovery_end.map_or(data.checkpoint.lsn, |end| end.lsn.max(data.checkpoint.lsn));
    let begun = data.forks.last().map_or(told, |fork| told.max(fork.at));
    let (low, high) = (records_before(begun).min(data.wal.len()), data.wal.len());
    let at = low + usize::try_from(chance % (high - low + 1) as u64).unwrap_or(0);
    Position { timeline: data.timeline, lsn: lsn_after(at) }
}

impl Instance {
    pub fn is_up(&self) -> bool {
        self.server != Server::Down
    }

    /// Could it acknowledge a commit now or in a moment?
    pub fn may_write(&self) -> bool {
        match self.server {
            Server::Primary
            | Server::Starting { as_primary: true, .. }
            | Server::Stopping { was_primary: true } => true,
            Server::Down
            | Server::Standby
            | Server::Starting { as_primary: false, .. }
            | Server::Stopping { was_primary: false } => false,
        }
    }
}
