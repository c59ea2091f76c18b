//! What never may happen. Looked at after every step, with the eyes of somebody who knows the true time and everything
//! that happens anywhere.

use std::collections::{BTreeMap, BTreeSet};

use super::Time;
use super::host::Host;
use super::keeper::counted_from;
use super::postgres::{Branch, Record, Server};
use super::world::World;
use crate::decide::mind::{ErrandOutcome, Event, LeaseEvent};
use crate::model::{ControlState, Moment, Rule, SessionId, Span, SystemId, Term, Timeline};

/// How long a primary without a lease may take to be one again, or none, after maintenance mode.
const RESUMES: Time = 20 * super::SECOND;

#[derive(Clone, Debug, Default)]
pub(super) struct Laws {
    /// The first law that was broken, and how.
    pub broken: Option<String>,
    /// An operator has taken the key from a leader, who learns of it with its next renewal.
    pub key_deleted: bool,
    /// The cluster follows another one since then.
    pub follows_since: Option<Time>,
    /// Maintenance mode has ended then, for the last time.
    pub resumed_at: Option<Time>,
    /// The machines that maintenance mode has left without an agent, until there is one again.
    pub unattended: BTreeSet<usize>,
    pub planned_end: BTreeMap<SessionId, Time>,
    /// Every rule that anybody has decided by.
    pub rules: BTreeSet<Rule>,
    pub acknowledged: Vec<(Time, Record)>,
    /// Acknowledged while the store said who may lead without loss.
    pub protected: Vec<(Time, Record)>,
    /// Acknowledged, and lacking where somebody has begun to lead.
    pub lost: BTreeSet<Record>,
    /// Records that the test itself has destroyed.
    pub excused: BTreeSet<Record>,
    branches: BTreeMap<Timeline, Branch>,
    system: Option<SystemId>,
    last_branch: Branch,
    /// When nobody accepted writes for how long.
    pub writable: bool,
    pub changed_at: Time,
    pub outages: Vec<(Time, Time)>,
}

impl Laws {
    pub fn breaks(&mut self, what: String) {
        self.broken.get_or_insert(what);
    }

    pub fn new_branch(&mut self) -> Branch {
        self.last_branch += 1;
        self.last_branch
    }

    /// S2: whoever gives the lease back has stopped before.
    pub fn look_at_release(&mut self, host: &Host) {
        if host.pg.may_write() {
            self.breaks(format!("S2: {} gave the lease back while its PostgreSQL could write", host.name));
        }
    }

    /// The guardian is told to stand down only where nothing can write.
    pub fn look_at_disarm(&mut self, host: &Host) {
        if host.pg.may_write() {
            self.breaks(format!("guardian: disarmed while the PostgreSQL of {} could write", host.name));
        }
    }

    fn count_outage(&mut self, now: Time, writable: bool) {
        if self.writable != writable {
            if writable {
                self.outages.push((self.changed_at, now));
            }
            self.writable = writable;
            self.changed_at = now;
        }
    }
}

impl World {
    pub fn look_at_laws(&mut self) {
        self.look_at_addresses();
        let mut writer: Option<usize> = None;
        for index in 0..self.hosts.len() {
            if self.hosts[index].pg.server != Server::Primary {
                continue;
            }
            if let Some(other) = writer {
                let (a, b) = (&self.hosts[other].name, &self.hosts[index].name);
                self.laws.breaks(format!("S1: {a} and {b} accept writes at the same time"));
            }
            writer = Some(index);
            self.look_at_office(index);
            self.look_at_site(index);
        }
        let writable = writer.is_some_and(|host| self.hosts[host].pg.accepts_writes());
        self.laws.count_outage(self.now, writable);
    }

    /// Soon after a cluster has begun to follow another one, nobody in it accepts writes.
    fn look_at_site(&mut self, index: usize) {
        let patience = self.policy.timing.ttl.times(2).as_ms() * super::MS + 15 * super::SECOND;
        if self.laws.follows_since.is_some_and(|since| since + patience < self.now) {
            let name = self.hosts[index].name.clone();
            self.laws.breaks(format!("site: {name} accepts writes in a cluster that follows another one"));
        }
    }

    /// S2: writes only between taking the lease and the machine's own deadline.
    fn look_at_office(&mut self, index: usize) {
        let (now, now_true) = (self.local(index), self.now);
        let host = &self.hosts[index];
        // What nobody has ever managed is nobody's to judge; nor is there a deadline in maintenance mode.
        let settles = self.laws.resumed_at.is_some_and(|at| now_true < at + RESUMES)
            || self.laws.unattended.contains(&index);
        if !host.managed || self.policy.pause || settles {
            return;
        }
        match host.office {
            Some((_, deadline)) if now <= deadline => {}
            Some((term, _)) => self
                .laws
                .breaks(format!("S2: {} accepts writes after its own deadline for term {term}", host.name)),
            None => self.laws.breaks(format!("S2: {} accepts writes and never had a lease", host.name)),
        }
    }

    /// What the store has told this machine.
    pub fn note_office(&mut self, host: usize, term: Term, asked_at: Moment) {
        let deadline = self.policy.timing.deadline(asked_at);
        self.hosts[host].managed = true;
        let office = &mut self.hosts[host].office;
        if office.is_none_or(|known| known < (term, deadline)) {
            *office = Some((term, deadline));
        }
    }

    /// S4: only these are confirmations; an unanswered request is none.
    pub fn note_confirmation(&mut self, host: usize, event: &Event) {
        let Some(agent) = self.hosts[host].agent.as_ref() else { return };
        let confirmed = match event {
            Event::Lease(LeaseEvent::Renewed { session, term: Some(term) }) => {
                Some((*term, session.asked_at, counted_from(*session, self.policy.timing)))
            }
            Event::ErrandEnded(ErrandOutcome::Taken { term }) => {
                let counted = |session| counted_from(session, self.policy.timing);
                agent.mind.view().session.map(|session| (*term, session.asked_at, counted(session)))
            }
            _ => None,
        };
        let Some((term, asked_at, counted_from)) = confirmed else { return };
        if let Some(agent) = self.hosts[host].agent.as_mut() {
            let known = agent.confirmed.entry(term).or_insert(asked_at);
            *known = (*known).max(asked_at);
        }
        if agent_took(event) && self.hosts[host].office.is_none_or(|(known, _)| known <= term) {
            self.note_office(host, term, counted_from);
        }
    }

    /// S4 again, and that a lease in force is one that the store still keeps.
    pub fn look_at_mind(&mut self, index: usize) {
        let host = &self.hosts[index];
        let Some(agent) = host.agent.as_ref() else { return };
        let Some(lease) = agent.mind.view().lease_in_force() else { return };
        let name = &host.name;
        if agent.confirmed.get(&lease.term).is_none_or(|asked_at| *asked_at < lease.asked_at) {
            self.laws.breaks(format!("S4: {name} acts on term {} without the store's word", lease.term));
            return;
        }
        if self.laws.key_deleted {
            return;
        }
        // By the others' consent it may act without the key, as long as nobody else has it.
        if agent.mind.view().leads_by_consent() {
            if let Some(other) = self.store.leader.as_ref().filter(|leader| leader.name != *name) {
                self.laws.breaks(format!("consent: {name} leads by it, and {} has the lease", other.name));
            }
            return;
        }
        if self.store.leader.as_ref().is_none_or(|leader| leader.term != lease.term || leader.name != *name) {
            self.laws.breaks(format!("lease: {name} acts on term {}, which the store has ended", lease.term));
        }
    }

    /// Who takes the lease can do the work, as far as its own machine can know: a stall is seen within a second.
    pub fn look_at_candidate(&mut self, index: usize) {
        let view = self.hosts[index].agent.as_ref().map(|agent| agent.mind.view());
        if view.is_some_and(|view| {
            view.postgres.running().is_some() && Some(view.looked_at) < view.peers.asked_at
        }) {
            let name = self.hosts[index].name.clone();
            self.laws.breaks(format!("positions: {name} compares an older position than it asked for"));
        }
        let patience = self.policy.timing.unfit_after() + Span::from_secs(3);
        let host = &self.hosts[index];
        let stalled = host.stalled_since.is_some_and(|since| patience < self.local(index).since(since));
        if stalled && host.pg.server == Server::Standby {
            self.laws.breaks(format!("fitness: {} takes the lease with a disk that has stalled", host.name));
        }
    }

    /// A switchover loses nothing: when the lease is given back, somebody else has every record.
    pub fn look_at_handover(&mut self, index: usize) {
        let host = &self.hosts[index];
        let (Some(agent), Some(data)) = (host.agent.as_ref(), host.pg.data.as_ref()) else { return };
        if agent.reason.as_ref().is_none_or(|reason| reason.rule != Rule::SwitchoverReleases) {
            return;
        }
        // What a standby cluster has is the other cluster's to complete.
        if agent.mind.view().policy.follows.is_some() {
            return;
        }
        let complete = |other: &Host| {
            other.pg.data.as_ref().is_some_and(|copy| copy.common_with(data) == data.wal.len())
        };
        let excused = !self.laws.excused.is_empty();
        let somebody = self.hosts.iter().filter(|other| other.name != host.name).any(complete);
        if !somebody && !excused {
            let name = host.name.clone();
            self.laws
                .breaks(format!("switchover: {name} gave the lease back, and nobody has its last record"));
        }
    }

    /// A server begins to accept writes: timelines go forward, and each is begun once.
    pub fn primary_begins(&mut self, index: usize) {
        let name = self.hosts[index].name.clone();
        let Some(data) = self.hosts[index].pg.data.as_ref() else { return };
        let (timeline, branch, system) = (data.timeline, data.branch, data.system);
        self.tell(index, &format!("* accepts writes on timeline {timeline}"));
        self.look_for_protected_records(index);
        self.look_at_electorate();
        if *self.laws.system.get_or_insert(system) != system {
            self.laws.breaks(format!("bootstrap: {name} leads a second cluster's data"));
        }
        let newest = self.laws.branches.last_key_value().map(|(timeline, branch)| (*timeline, *branch));
        match newest {
            Some((highest, _)) if timeline < highest => self.laws.breaks(format!(
                "timelines: {name} leads on timeline {timeline} after timeline {highest} has been led"
            )),
            Some((highest, known)) if timeline == highest && branch != known => {
                self.laws.breaks(format!("timelines: timeline {timeline} was begun twice, now by {name}"));
            }
            Some(_) | None => {
                if self.laws.branches.insert(timeline, branch).is_none() {
                    self.look_at_loss(index, timeline);
                }
            }
        }
    }

    /// S5: every acknowledged record still exists somewhere.
    pub fn look_for_every_record(&mut self) {
        let mut there: BTreeSet<Record> = self.laws.excused.clone();
        for host in &self.hosts {
            there.extend(&host.pg.kept);
            for data in host.pg.data.iter().chain(&host.pg.set_aside) {
                there.extend(&data.wal);
            }
        }
        let missing = self.laws.acknowledged.iter().find(|(_, record)| !there.contains(record));
        if let Some((at, _)) = missing {
            let second = at / super::SECOND;
            self.laws.breaks(format!("S5: a record acknowledged at {second} s exists nowhere any more"));
        }
    }

    /// How many acknowledged records the present primary lacks.
    pub fn lost(&self) -> usize {
        let leading = self.hosts.iter().find(|host| host.pg.server == Server::Primary);
        let Some(data) = leading.and_then(|host| host.pg.data.as_ref()) else { return 0 };
        let there: BTreeSet<Record> = data.wal.iter().copied().collect();
        self.laws.acknowledged.iter().filter(|(_, record)| !there.contains(record)).count()
    }

    /// L1: one primary that the store knows, and everybody else streams from it.
    pub fn healthy(&self) -> bool {
        let Some(leader) = &self.store.leader else { return false };
        let Some(index) = self.host_named(leader.name.as_str()) else { return false };
        let primary = &self.hosts[index].pg;
        let Some(data) = primary.data.as_ref().filter(|_| primary.accepts_writes()) else { return false };
        let follows = |other: usize| {
            let host = &self.hosts[other];
            let copy = host.pg.data.as_ref();
            // Made by an agent that died before it could lose to somebody else's: an operator must decide.
            if copy.is_some_and(|copy| copy.system != data.system && copy.state == ControlState::ShutDown) {
                return true;
            }
            host.agent.is_some()
                && host.pg.server == Server::Standby
                && host.pg.streaming
                && copy.is_some_and(|copy| {
                    copy.timeline == data.timeline
                        && copy.common_with(data) == copy.wal.len()
                        && data.wal.len() - copy.wal.len() < 20
                })
        };
        self.hosts[index].agent.is_some()
            && self.hosts[index].guardian.armed.is_some()
            && (0..self.hosts.len()).all(|other| other == index || follows(other))
    }

    pub fn primary(&self) -> Option<usize> {
        self.hosts.iter().position(|host| host.pg.server == Server::Primary)
    }
}

fn agent_took(event: &Event) -> bool {
    matches!(event, Event::ErrandEnded(ErrandOutcome::Taken { .. }))
}
