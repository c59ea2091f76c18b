//! One data directory and the server on it. WAL is a row of records of one size; every record carries the hash of
//! everything before it, so that two directories with equal last records are equal throughout.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::commits::Waiting;
use crate::model::{
    Address, Control, ControlState, Fork, Gate, Lsn, Moment, Position, Postgres as Observed, Running,
    Serving, SyncNames, Synchrony, SystemId, Timeline, Unfinished,
};

pub(super) const RECORD_BYTES: u64 = 0x100;
const FIRST_LSN: u64 = 0x0100_0000;
/// initdb writes this much.
const FIRST_RECORDS: usize = 8;

/// A record is the hash of its predecessor, its branch and its number: equal hashes mean equal pasts.
pub(super) type Record = u64;

/// The number of one promotion (or initdb): who wrote a record, whatever number the timeline has.
pub(super) type Branch = u64;

#[derive(Clone, Debug)]
pub(super) struct Data {
    pub system: SystemId,
    pub wal: Vec<Record>,
    pub timeline: Timeline,
    pub branch: Branch,
    pub forks: Vec<Fork>,
    pub state: ControlState,
    pub checkpoint: Position,
    pub recovery_end: Option<Position>,
    pub standby_signal: bool,
    pub backup_label: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Server {
    Down,
    Starting { as_primary: bool, since: Moment },
    Primary,
    Standby,
    Stopping { was_primary: bool },
}

#[derive(Clone, Debug)]
pub(super) struct Instance {
    pub data: Option<Data>,
    pub unfinished: Option<Unfinished>,
    pub server: Server,
    /// Grows whenever a server starts or ends, so that what was meant for an earlier one is dropped.
    pub life: u64,
    pub upstream: Option<usize>,
    pub upstream_address: Option<Address>,
    pub streaming: bool,
    pub batch_under_way: bool,
    pub checkpointed: bool,
    pub hung_since: Option<Moment>,
    /// Nothing reaches its disk, so nothing is acknowledged.
    pub stalled: bool,
    pub set_aside: Vec<Data>,
    /// Records that a rewind took out of the way.
    pub kept: Vec<Record>,
    /// What stands in the file.
    pub names: SyncNames,
    /// How it was started last.
    pub gate: Gate,
    pub waiting: Waiting,
}

impl Data {
    pub fn made(system: SystemId, branch: Branch) -> Data {
        let mut data = Data {
            system,
            wal: Vec::new(),
            timeline: Timeline::FIRST,
            branch,
            forks: Vec::new(),
            state: ControlState::ShutDown,
            checkpoint: Position { timeline: Timeline::FIRST, lsn: Lsn(FIRST_LSN) },
            recovery_end: None,
            standby_signal: false,
            backup_label: false,
        };
        for _ in 0..FIRST_RECORDS {
            data.checkpoint.lsn = data.end();
            data.append();
        }
        data
    }

    pub fn append(&mut self) -> Record {
        let mut hasher = DefaultHasher::new();
        (self.wal.last(), self.branch, self.wal.len()).hash(&mut hasher);
        let record = hasher.finish();
        self.wal.push(record);
        record
    }

    pub fn end(&self) -> Lsn {
        lsn_after(self.wal.len())
    }

    pub fn position(&self) -> Position {
        Position { timeline: self.timeline, lsn: self.end() }
    }

    pub fn begin_timeline(&mut self, timeline: Timeline, branch: Branch) {
        self.forks.push(Fork { parent: self.timeline, at: self.end() });
        self.timeline = timeline;
        self.branch = branch;
        self.standby_signal = false;
        self.state = ControlState::InProduction;
        self.recovery_end = None;
        self.append();
    }

    /// How many records are equal.
    pub fn common_with(&self, other: &Data) -> usize {
        let same = |&at: &usize| self.wal.get(at - 1) == other.wal.get(at - 1);
        let shorter = self.wal.len().min(other.wal.len());
        if shorter == 0 || same(&shorter) {
            return shorter;
        }
        let (mut equal, mut different) = (0, shorter);
        while equal + 1 < different {
            let middle = usize::midpoint(equal, different);
            if same(&middle) { equal = middle } else { different = middle }
        }
        equal
    }

    /// Where the histories of the two say that they parted, as pg_rewind would find out: it trusts timeline numbers.
    pub fn parted_by_history(&self, other: &Data) -> usize {
        let mut index = 0;
        loop {
            let (mine, theirs) = (self.segment(index), other.segment(index));
            if mine.is_none() || theirs.is_none() || mine.map(|s| s.0) != theirs.map(|s| s.0) {
                let before = index.checked_sub(1);
                let end = |data: &Data| before.and_then(|i| data.segment(i)).map_or(0, |s| s.1);
                return end(self).min(end(other));
            }
            if mine.map(|s| s.1) != theirs.map(|s| s.1) {
                return mine.map_or(0, |s| s.1).min(theirs.map_or(0, |s| s.1));
            }
            index += 1;
        }
    }

    /// The timeline with this index in the ancestry, and how many records there are at its end.
    fn segment(&self, index: usize) -> Option<(Timeline, usize)> {
        match self.forks.get(index) {
            Some(fork) => Some((fork.parent, records_before(fork.at))),
            None if index == self.forks.len() => Some((self.timeline, self.wal.len())),
            None => None,
        }
    }

    pub fn control(&self) -> Control {
        Control {
            system: self.system,
            state: self.state,
            checkpoint: self.checkpoint,
            recovery_end: self.recovery_end,
            standby_signal: self.standby_signal,
            backup_label: self.backup_label,
            never_led: false,
            rewindable: true,
        }
    }
}

impl Instance {
    pub fn empty() -> Instance {
        Instance {
            data: None,
            unfinished: None,
            server: Server::Down,
            life: 0,
            upstream: None,
            upstream_address: None,
            streaming: false,
            batch_under_way: false,
            checkpointed: true,
            hung_since: None,
            stalled: false,
            set_aside: Vec::new(),
            kept: Vec::new(),
            names: SyncNames::Unmanaged,
            gate: Gate::Open,
            waiting: Waiting::default(),
        }
    }

    pub fn accepts_writes(&self) -> bool {
        let gated = self.waiting.gate == Gate::Closed;
        self.server == Server::Primary && self.hung_since.is_none() && !self.stalled && !gated
    }

    pub fn observe(&self) -> Observed {
        if let Some(work) = self.unfinished {
            return Observed::Unfinished { work };
        }
        let Some(data) = &self.data else { return Observed::Empty };
        match self.server {
            Server::Down => Observed::Stopped { control: data.control() },
            Server::Starting { as_primary, since } => {
                Observed::Starting { since, as_primary, system: data.system }
            }
            Server::Primary | Server::Stopping { was_primary: true } => {
                self.running(data, self.primary(data))
            }
            Server::Standby | Server::Stopping { was_primary: false } => {
                self.running(data, self.standby(data))
            }
        }
    }

    fn running(&self, data: &Data, serving: Serving) -> Observed {
        Observed::Running(Running {
            system: data.system,
            serving,
            silent_since: self.hung_since,
            version: 170_000,
            synchrony: Synchrony::default(),
        })
    }

    fn primary(&self, data: &Data) -> Serving {
        Serving::Primary {
            position: data.position(),
            checkpointed: self.checkpointed,
            forks: Some(Fork::without_gaps(data.forks.iter().copied(), data.timeline)),
        }
    }

    fn standby(&self, data: &Data) -> Serving {
        Serving::Standby {
            timeline: data.timeline,
            received: Some(data.end()),
            replayed: Some(data.end()),
            streaming: self.streaming,
            upstream: self.upstream_address.clone(),
            forks: Some(Fork::without_gaps(data.forks.iter().copied(), data.timeline)),
            starved: false,
        }
    }
}

pub(super) fn lsn_after(records: usize) -> Lsn {
    Lsn(FIRST_LSN + RECORD_BYTES * records as u64)
}

pub(super) fn records_before(lsn: Lsn) -> usize {
    usize::try_from(lsn.0.saturating_sub(FIRST_LSN) / RECORD_BYTES).unwrap_or(0)
}
