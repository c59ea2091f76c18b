//! Commits that wait: a primary acknowledges a record when the standbys that its names ask for have answered for it. And the
//! law about them, S3.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::faults::Trouble;
use super::network::Place;
use super::postgres::{Data, Record, Server, lsn_after};
use super::store::Request;
use super::world::{Happening, World};
use super::{MS, SECOND, Time};
use crate::decide::mind::JobOutcome;
use crate::decide::sync::resolver::{Electorate, is_safe};
use crate::model::{Commits, Errand, Gate, MemberName, Receiver, SyncMode, SyncNames, Synchrony};

/// Clients that hear nothing do not write more and more.
const WAITING_MAX: usize = 6;
/// A standby that cannot be reached stays in the list until its sender gives up.
const SENDER_GIVES_UP: Time = 20 * SECOND;

/// What a server knows of commits and standbys; gone with its processes.
#[derive(Clone, Debug, Default)]
pub(super) struct Waiting {
    /// How many records there must be, and the last of them.
    commits: VecDeque<(usize, Record)>,
    /// How far each standby has said that it has come, and when it last said so.
    answers: BTreeMap<usize, (usize, Time)>,
    in_force: Commits,
    /// Some processes have not taken up the new names yet.
    former: Option<Commits>,
    pub gate: Gate,
    /// How many records there were when it came up again, as long as no client has read them.
    unread: Option<usize>,
}

impl Waiting {
    pub fn begin(names: &SyncNames) -> Waiting {
        Waiting { in_force: commits(names), ..Waiting::default() }
    }

    /// With records from before, some of which may be here alone.
    pub fn come_back(names: &SyncNames, gate: Gate, records: usize) -> Waiting {
        Waiting { gate, unread: Some(records), ..Waiting::begin(names) }
    }
}

fn commits(names: &SyncNames) -> Commits {
    match names {
        SyncNames::Ours(commits) => commits.clone(),
        SyncNames::Unmanaged => Commits::alone(),
    }
}

impl World {
    /// What a look tells of a primary.
    pub fn synchrony(&self, host: usize) -> Synchrony {
        let pg = &self.hosts[host].pg;
        let managed = matches!(pg.names, SyncNames::Ours(_));
        if pg.server != Server::Primary {
            return Synchrony { managed, ..Synchrony::default() };
        }
        let receiver = |(standby, (records, _)): (&usize, &(usize, Time))| {
            let flushed = lsn_after(*records);
            Receiver { name: self.hosts[*standby].name.to_string(), flushed, answered: flushed }
        };
        let receivers = pg.waiting.answers.iter().map(receiver).collect();
        Synchrony { names: pg.waiting.in_force.text(), managed, receivers, gate: pg.waiting.gate }
    }

    pub fn client_commits(&mut self, host: usize) {
        self.client_reads(host);
        let pg = &mut self.hosts[host].pg;
        if WAITING_MAX <= pg.waiting.commits.len() {
            return;
        }
        let Some(data) = pg.data.as_mut() else { return };
        let record = data.append();
        pg.waiting.commits.push_back((data.wal.len(), record));
        self.acknowledge(host);
    }

    /// Its sender does not know how far it has come, or has not heard from it for a second.
    pub fn has_news_for_upstream(&self, host: usize) -> bool {
        let pg = &self.hosts[host].pg;
        let (Some(source), Some(data)) = (pg.upstream, pg.data.as_ref()) else { return false };
        let known = self.hosts[source].pg.waiting.answers.get(&host);
        known.is_none_or(|(records, last)| *records != data.wal.len() || SECOND < self.now - last)
    }

    /// The standby has come so far, and says so.
    pub fn answer_upstream(&mut self, host: usize) {
        let pg = &self.hosts[host].pg;
        let (Some(source), Some(data)) = (pg.upstream, pg.data.as_ref()) else { return };
        let (records, pg_life) = (data.wal.len(), self.hosts[source].pg.life);
        let answer = Happening::StandbyAnswers { host: source, pg_life, standby: host, records };
        self.send(Place::Host(host), Place::Host(source), answer);
    }

    pub fn standby_answers(&mut self, host: usize, pg_life: u64, standby: usize, records: usize) {
        let now = self.now;
        let pg = &mut self.hosts[host].pg;
        if pg.life != pg_life
            || !matches!(pg.server, Server::Primary | Server::Stopping { was_primary: true })
        {
            return;
        }
        let known = pg.waiting.answers.entry(standby).or_insert((records, now));
        *known = (known.0.max(records), now);
        self.acknowledge(host);
    }

    /// Standbys that have gone are taken from the list: at once if they said so, otherwise when the sender gives up.
    pub fn senders_give_up(&mut self, host: usize) {
        let gone: Vec<usize> = (self.hosts[host].pg.waiting.answers.iter())
            .filter(|(standby, (_, last))| {
                let there = &self.hosts[**standby];
                let streams =
                    there.up && there.pg.server == Server::Standby && there.pg.upstream == Some(host);
                let reachable = self.network.both_ways(Place::Host(host), Place::Host(**standby));
                (!streams && reachable) || SENDER_GIVES_UP < self.now - last
            })
            .map(|(standby, _)| *standby)
            .collect();
        for standby in gone {
            self.hosts[host].pg.waiting.answers.remove(&standby);
        }
    }

    fn acknowledge(&mut self, host: usize) {
        let names: Vec<MemberName> = self.hosts.iter().map(|host| host.name.clone()).collect();
        let waiting = &mut self.hosts[host].pg.waiting;
        let answers = &waiting.answers;
        let given = |commits: &Commits, records: usize| {
            let said = |(standby, (reached, _)): &(&usize, &(usize, Time))| {
                records <= *reached && commits.names.contains(&names[**standby])
            };
            commits.wait_for <= answers.iter().filter(said).count()
        };
        let (in_force, former) = (waiting.in_force.clone(), waiting.former.clone());
        let enough =
            |records| given(&in_force, records) || former.as_ref().is_some_and(|c| given(c, records));
        let released = waiting.commits.iter().take_while(|(records, _)| enough(*records)).count();
        let released: Vec<Record> = waiting.commits.drain(..released).map(|(_, record)| record).collect();
        let protected = self.store.sync.as_ref().is_some_and(|sync| sync.value.leader.is_some());
        for record in released {
            self.laws.acknowledged.push((self.now, record));
            if protected && self.policy.sync.mode != SyncMode::Off {
                self.laws.protected.push((self.now, record));
            }
        }
    }

    // The names.

    /// Written and signalled; some processes take it up later than others.
    pub fn names_are_written(&mut self, host: usize, names: SyncNames) -> Time {
        let pg = &mut self.hosts[host].pg;
        let new = commits(&names);
        pg.names = names;
        if pg.server == Server::Primary {
            let former = std::mem::replace(&mut pg.waiting.in_force, new);
            pg.waiting.former.get_or_insert(former);
            self.look_at_electorate();
            self.acknowledge(host);
        }
        let takes = self.random.between(MS, 400 * MS);
        let pg_life = self.hosts[host].pg.life;
        self.after(takes, Happening::NamesAreInForce { host, pg_life });
        takes
    }

    pub fn names_are_in_force(&mut self, host: usize, pg_life: u64) {
        let pg = &mut self.hosts[host].pg;
        if pg.life == pg_life {
            pg.waiting.former = None;
        }
    }

    pub fn end_synchronize(&mut self, host: usize, fails: bool) {
        let pg = &self.hosts[host].pg;
        let done =
            !fails && pg.server == Server::Primary && pg.hung_since.is_none() && pg.waiting.former.is_none();
        self.finish_job(host, if done { JobOutcome::Done } else { JobOutcome::Failed });
    }

    // What goes wrong just when it does most harm.

    /// A write of `/sync` that arrives long after its sender has stopped waiting.
    pub fn takes_its_time(&mut self, request: &Request) -> bool {
        let rough = 0 < self.network.habits.late_permille;
        let writes = matches!(request, Request::Errand { errand: Errand::WriteSync { .. }, .. });
        rough && writes && self.random.chance(50)
    }

    /// The leader is lost a moment after it has said who may lead: now it shows whether they may.
    pub fn test_new_electorate(&mut self, leader: usize) {
        let rough = 0 < self.network.habits.late_permille;
        if rough && self.random.chance(80) {
            let (soon, lasts) = (self.random.between(0, 400 * MS), self.random.between(SECOND, 20 * SECOND));
            self.after(soon, Happening::Strikes(Trouble::HostCrashes(leader)));
            self.after(soon + lasts, Happening::Passes(Trouble::HostCrashes(leader)));
        }
    }

    // The laws.

    /// The invariant of the resolver, whatever happens to hold at this moment: nobody may be elected who lacks a commit that is
    /// acknowledged now.
    pub fn look_at_electorate(&mut self) {
        let leader = self.store.leader.as_ref().and_then(|leader| self.host_named(leader.name.as_str()));
        let (Some(index), Some(state)) = (leader, &self.store.sync) else { return };
        let host = &self.hosts[index];
        let commits = [Some(&host.pg.waiting.in_force), host.pg.waiting.former.as_ref()];
        let Some(electorate) = Electorate::of(&state.value).filter(|_| host.pg.server == Server::Primary)
        else {
            return;
        };
        let name = host.name.clone();
        let unsafe_now =
            commits.into_iter().flatten().find(|commits| !is_safe(&electorate, commits)).cloned();
        if electorate.leader != name {
            self.laws.breaks(format!("S3: {name} commits under the electorate of {}", electorate.leader));
        } else if let Some(commits) = unsafe_now {
            self.laws.breaks(format!("S3: {name} waits for {commits:?} under {electorate:?}"));
        }
    }

    /// G: what the first client sees of a primary that has come back, whoever may be elected has. What was committed to nobody but
    /// this primary is as good as acknowledged from now on.
    fn client_reads(&mut self, host: usize) {
        let Some(records) = self.hosts[host].pg.waiting.unread.take() else { return };
        let sync = self.store.sync.as_ref().and_then(|sync| Electorate::of(&sync.value));
        let (Some(electorate), true) = (sync, self.policy.sync.is_gated()) else { return };
        let name = self.hosts[host].name.clone();
        let Some(seen) = self.hosts[host].pg.data.as_ref().and_then(|data| data.wal.get(..records)) else {
            return;
        };
        let last = seen.last().copied();
        let lacks = |voter: &&MemberName| {
            let there = self.host_named(voter.as_str()).and_then(|at| self.hosts[at].pg.data.as_ref());
            // One whose disk was taken away lacks whatever it had confirmed.
            there.is_some_and(|data| data.wal.get(records - 1).copied() != last)
        };
        let lacking: Vec<String> = electorate.voters.iter().filter(lacks).map(ToString::to_string).collect();
        if electorate.leader == name && electorate.quorum < lacking.len() {
            self.laws
                .breaks(format!("G: clients of {name} see what {} may lead without", lacking.join(", ")));
        }
        let now = self.now;
        let seen: Vec<(Time, Record)> = seen.iter().map(|record| (now, *record)).collect();
        self.laws.protected.extend(seen);
    }

    /// S3: whoever begins to accept writes has every record that was acknowledged while the mode was on.
    pub fn look_for_protected_records(&mut self, index: usize) {
        let host = &self.hosts[index];
        let Some(data) = host.pg.data.as_ref().filter(|_| self.policy.sync.mode != SyncMode::Off) else {
            return;
        };
        let there: BTreeSet<Record> = data.wal.iter().copied().collect();
        let lost = (self.laws.protected.iter())
            .find(|(_, record)| !there.contains(record) && !self.laws.excused.contains(record));
        if let Some((at, _)) = lost {
            let (name, second) = (host.name.clone(), at / SECOND);
            self.laws
                .breaks(format!("S3: {name} leads without a record that was acknowledged at {second} s"));
        }
    }

    /// Nobody else is left who has every record: an operator decides for whoever has the most.
    pub fn give_up_what_is_lost(&mut self) {
        let furthest = (0..self.hosts.len())
            .filter(|host| {
                self.hosts[*host].pg.server == Server::Standby && self.hosts[*host].agent.is_some()
            })
            .max_by_key(|host| self.hosts[*host].pg.data.as_ref().map(Data::position));
        let Some(host) = furthest.filter(|_| self.store.leader.is_none()) else { return };
        let lost: Vec<Record> = self.laws.protected.drain(..).map(|(_, record)| record).collect();
        self.laws.excused.extend(lost);
        let name = self.hosts[host].name.clone();
        self.store.request_failover(None, Some(name));
        self.tell_watchers();
    }

    /// Every standby that shall be synchronous is, and nothing waits in vain.
    pub fn is_synchronous(&self) -> bool {
        let sync = &self.policy.sync;
        let Some(leader) = self.store.leader.as_ref() else { return false };
        let at = self.host_named(leader.name.as_str());
        let others = self.hosts.iter().filter(|host| host.pg.streaming && host.pg.upstream == at).count();
        let wanted = match sync.mode {
            SyncMode::Off => return self.store.sync.is_none(),
            SyncMode::On => others.min(sync.node_count),
            SyncMode::Quorum => others,
        };
        let Some(state) = self.store.sync.as_ref().map(|sync| &sync.value) else { return false };
        state.leader.as_ref() == Some(&leader.name) && state.standbys.len() == wanted
    }
}
