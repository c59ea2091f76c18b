//! The part of the mind that remembers what it has seen of synchronous standbys, and since when names are in force.

use super::super::fault::{self, Fault};
use super::{JobOutcome, Mind};
use crate::model::{
    ClosedGate, Gate, Job, Lsn, Moment, Postgres, Running, Serving, Span, SyncNames, SyncProof,
};

/// Nobody asks when a standby was seen that has been gone for longer.
const SEEN_KEEP: Span = Span::from_secs(60);

impl Mind {
    pub(super) fn learn_synchrony(&mut self, seen: &Postgres) {
        let now = self.view.now;
        let memory = &mut self.view.memory.sync;
        let Some(running) = seen.running().filter(|running| running.is_primary()) else {
            memory.proof = None;
            memory.seen.clear();
            memory.gate = None;
            return;
        };
        memory.gate = closed_gate(memory.gate, running, now);
        memory.proof.take_if(|proof| proof.names != running.synchrony.names);
        memory.seen.retain(|_, at| now.since(*at) < SEEN_KEEP);
        if running.silent_since.is_none() {
            let names = running.synchrony.receivers.iter().map(|receiver| receiver.name.to_ascii_lowercase());
            memory.seen.extend(names.map(|name| (name, now)));
        }
    }

    /// Names that were set are proved to be in force, everywhere, by when the job ended. What was committed by older ones was
    /// on the disk here by then.
    pub(super) fn learn_names(&mut self, job: &Job, outcome: JobOutcome) {
        if let (Job::OpenGate, JobOutcome::Failed) = (job, outcome)
            && let Some(gate) = &mut self.view.memory.sync.gate
        {
            gate.failed_at = Some(self.view.now);
        }
        let Job::Synchronize { names } = job else { return };
        let running = self.view.postgres.running().filter(|running| running.is_primary());
        let written = running.map(|running| running.synchrony.names.clone());
        let position = running.and_then(Running::position);
        let memory = &mut self.view.memory.sync;
        match (names, outcome, position) {
            (SyncNames::Ours(commits), JobOutcome::Done, Some(position)) => {
                let names = commits.text();
                let mark = if fault::active(Fault::SyncSkipsProof) { Lsn::ZERO } else { position.lsn };
                memory.proof = (written == Some(names.clone())).then_some(SyncProof { names, mark });
                memory.failed_at = memory.proof.is_none().then_some(self.view.now);
            }
            (SyncNames::Unmanaged, JobOutcome::Done, _) => memory.failed_at = None,
            (SyncNames::Ours(_) | SyncNames::Unmanaged, JobOutcome::Cancelled, _) => {}
            (SyncNames::Ours(_) | SyncNames::Unmanaged, _, _) => memory.failed_at = Some(self.view.now),
        }
    }
}

/// Nobody but ourselves has written since PostgreSQL was started: wherever its WAL ends when it is first asked, what it came up with
/// lies before. What only its files say may be older than its end.
fn closed_gate(known: Option<ClosedGate>, running: &Running, now: Moment) -> Option<ClosedGate> {
    if running.synchrony.gate == Gate::Open {
        return None;
    }
    let Serving::Primary { position, forks, .. } = &running.serving else { return None };
    let told = running.silent_since.is_none() && forks.is_some();
    let fresh = || told.then_some(ClosedGate { mark: position.lsn, since: now, lacked: 0, failed_at: None });
    let gate = known.or_else(fresh)?;
    let lacked = running.synchrony.receivers.iter().map(|receiver| receiver.flushed.lag_behind(gate.mark).0);
    Some(ClosedGate { lacked: lacked.max().unwrap_or(0).max(gate.lacked), ..gate })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Position, Receiver, Synchrony, SystemId};

    fn gated(lsn: u64, told: bool, standby: u64) -> Running {
        let receiver = Receiver { name: "oulu".to_owned(), flushed: Lsn(standby), answered: Lsn(standby) };
        let synchrony = Synchrony { gate: Gate::Closed, receivers: vec![receiver], ..Synchrony::default() };
        let forks = told.then(Vec::new);
        let serving = Serving::Primary { position: Position::new(1, lsn), checkpointed: true, forks };
        Running { system: SystemId(1), serving, silent_since: None, version: 170_000, synchrony }
    }

    #[test]
    fn a_gate_waits_for_what_postgresql_has_said_first() {
        let (first, later) = (Moment::from_ms(1_000), Moment::from_ms(2_000));
        assert_eq!(closed_gate(None, &gated(100, false, 0), first), None, "its files know less");
        let closed = closed_gate(None, &gated(200, true, 150), first).expect("closed");
        assert_eq!(closed, ClosedGate { mark: Lsn(200), since: first, lacked: 50, failed_at: None });
        let behind = closed_gate(Some(closed), &gated(300, true, 120), later);
        assert_eq!(behind, Some(ClosedGate { lacked: 80, ..closed }), "what came later is its own");
        let mut open = gated(300, true, 200);
        open.synchrony.gate = Gate::Open;
        assert_eq!(closed_gate(Some(closed), &open, later), None);
    }
}
