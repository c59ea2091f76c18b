//! The part of the mind that remembers what it has seen of synchronous standbys, and since when names are in force.

use super::super::fault::{self, Fault};
use super::{JobOutcome, Mind};
use crate::model::{Job, Lsn, Postgres, Running, Span, SyncNames, SyncProof};

/// Nobody asks when a standby was seen that has been gone for longer.
const SEEN_KEEP: Span = Span::from_secs(60);

impl Mind {
    pub(super) fn learn_synchrony(&mut self, seen: &Postgres) {
        let now = self.view.now;
        let memory = &mut self.view.memory.sync;
        let Some(running) = seen.running().filter(|running| running.is_primary()) else {
            memory.proof = None;
            memory.seen.clear();
            return;
        };
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
