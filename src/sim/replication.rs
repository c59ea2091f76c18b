//! Streaming, as PostgreSQL does it: by timeline numbers and positions, never by content. And the clients' writes.

use super::network::Place;
use super::postgres::{Branch, Data, Record, Server, records_before};
use super::world::{Happening, World};
use super::{MS, Time};
use crate::model::{Fork, SyncMode, Timeline};

const LOOK_EVERY: Time = 25 * MS;

/// WAL on its way to a standby.
#[derive(Clone, Debug)]
pub(super) struct Batch {
    source: usize,
    first: usize,
    /// The record before the first one, to see whether the two really belong together.
    before: Option<Record>,
    records: Vec<Record>,
    timeline: Timeline,
    branch: Branch,
    forks: Vec<Fork>,
}

impl World {
    pub fn senders_look(&mut self) {
        for host in 0..self.hosts.len() {
            self.send_to(host);
            self.senders_give_up(host);
        }
        self.after(LOOK_EVERY, Happening::SendersLook);
    }

    fn send_to(&mut self, host: usize) {
        let pg = &self.hosts[host].pg;
        let stuck = pg.stalled || self.hosts[host].disk_full;
        if pg.server != Server::Standby || pg.batch_under_way || stuck {
            return;
        }
        let upstream = pg.upstream.filter(|&source| {
            let there = &self.hosts[source];
            source != host
                && there.up
                && match there.pg.server {
                    Server::Primary | Server::Standby => there.pg.hung_since.is_none(),
                    Server::Stopping { .. } => true,
                    Server::Down | Server::Starting { .. } => false,
                }
                && self.network.both_ways(Place::Host(host), Place::Host(source))
        });
        let (pg_life, batch) = (pg.life, upstream.and_then(|source| self.batch(source, host)));
        match batch {
            None => self.hosts[host].pg.streaming = false,
            Some(batch) if batch.records.is_empty() && Some(batch.timeline) == self.timeline(host) => {
                self.hosts[host].pg.streaming = true;
                if self.policy.sync.mode != SyncMode::Off && self.has_news_for_upstream(host) {
                    self.answer_upstream(host);
                }
            }
            Some(batch) => {
                self.hosts[host].pg.batch_under_way = true;
                let takes = (self.network)
                    .travel(&mut self.random, Place::Host(batch.source), Place::Host(host))
                    .unwrap_or(200 * MS);
                // A standby that falls behind for a moment: who counts it as synchronous must not.
                let synchronous = self.policy.sync.mode != SyncMode::Off;
                let hiccups =
                    synchronous && self.random.chance(self.network.habits.last_record_lost_permille / 8);
                let takes = if hiccups { takes + self.random.between(0, 3_000 * MS) } else { takes };
                self.after(takes, Happening::BatchArrives { host, pg_life, batch: Box::new(batch) });
            }
        }
    }

    fn timeline(&self, host: usize) -> Option<Timeline> {
        self.hosts[host].pg.data.as_ref().map(|data| data.timeline)
    }

    /// What the walsender at `source` would send; nothing if it refuses.
    fn batch(&self, source: usize, host: usize) -> Option<Batch> {
        let (from, to) = (self.hosts[source].pg.data.as_ref()?, self.hosts[host].pg.data.as_ref()?);
        let first = to.wal.len();
        let on_its_history = from.timeline == to.timeline && first <= from.wal.len()
            || from.forks.iter().any(|f| f.parent == to.timeline && first <= records_before(f.at));
        (from.system == to.system && on_its_history).then(|| batch_of(from, source, first))
    }

    pub fn batch_arrives(&mut self, host: usize, pg_life: u64, batch: &Batch) {
        let pg = &mut self.hosts[host].pg;
        if pg.life != pg_life || pg.server != Server::Standby {
            return;
        }
        pg.batch_under_way = false;
        let Some(data) = pg.data.as_mut() else { return };
        if data.wal.len() < batch.first || pg.upstream != Some(batch.source) {
            return;
        }
        let known = data.wal.len() - batch.first;
        let fits = batch.first == 0
            || data.wal.get(batch.first - 1).copied() == batch.before
                && data.wal[batch.first..].iter().zip(&batch.records).all(|(here, there)| here == there);
        if batch.records.len() < known {
            return;
        }
        data.wal.extend(&batch.records[known..]);
        (data.timeline, data.branch) = (batch.timeline, batch.branch);
        data.forks.clone_from(&batch.forks);
        pg.streaming = true;
        if self.policy.sync.mode != SyncMode::Off {
            self.answer_upstream(host);
        }
        if !fits {
            let (name, source) = (self.hosts[host].name.clone(), self.hosts[batch.source].name.clone());
            self.laws.breaks(format!("lineage: {name} streams from {source}, but their records differ"));
        }
    }

    /// A primary that stops in good order waits until its standbys have everything; a standby may miss the end.
    pub fn send_last_records(&mut self, source: usize) {
        for host in 0..self.hosts.len() {
            let pg = &self.hosts[host].pg;
            let connected = pg.server == Server::Standby && pg.streaming && pg.upstream == Some(source);
            if !connected || !self.network.both_ways(Place::Host(host), Place::Host(source)) {
                continue;
            }
            let pg_life = pg.life;
            let lost = self.random.chance(self.network.habits.last_record_lost_permille);
            let Some(mut batch) = self.batch(source, host) else { continue };
            if lost {
                batch.records.pop();
            }
            let takes = self.random.between(MS, 5 * MS);
            self.after(takes, Happening::BatchArrives { host, pg_life, batch: Box::new(batch) });
        }
    }

    /// On every host sits a client that writes wherever it is allowed to.
    pub fn clients_write(&mut self) {
        for host in 0..self.hosts.len() {
            let reachable = self.network.both_ways(Place::Clients, Place::Host(host));
            let pg = &self.hosts[host].pg;
            if !pg.accepts_writes() || !reachable {
                continue;
            }
            self.client_commits(host);
            // Sooner or later the next segment does not fit, and PostgreSQL panics.
            if self.hosts[host].disk_full && self.random.chance(20) {
                self.crash_postgres(host);
            }
        }
        let pause = self.random.between(100 * MS, 180 * MS);
        self.after(pause, Happening::ClientsWrite);
    }
}

fn batch_of(from: &Data, source: usize, first: usize) -> Batch {
    Batch {
        source,
        first,
        before: first.checked_sub(1).and_then(|before| from.wal.get(before)).copied(),
        records: from.wal[first..].to_vec(),
        timeline: from.timeline,
        branch: from.branch,
        forks: from.forks.clone(),
    }
}
