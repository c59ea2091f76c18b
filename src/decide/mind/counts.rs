//! The part of the mind that counts what fails: crashes of PostgreSQL, and work that did not succeed.

use super::super::fitness;
use super::{JobOutcome, Mind};
use crate::model::{Job, Postgres};

impl Mind {
    /// A primary that ends without having been told to, or lets nobody in any more because it recovers from a crash.
    pub(super) fn count_crashes(&mut self, seen: &Postgres, ended: Option<&Job>) {
        let now = self.view.now;
        let job = ended.or(self.view.work.job.as_ref().map(|running| &running.job));
        let crashes = match (&self.view.postgres, seen) {
            (_, Postgres::Running(running)) if running.is_primary() => {
                self.view.memory.crashes.up_since.get_or_insert(now);
                return;
            }
            (Postgres::Running(before), Postgres::Stopped { .. } | Postgres::Starting { .. }) => {
                before.is_primary()
            }
            // A start that fails as long as its job waits for it is counted by that.
            (Postgres::Starting { as_primary, .. }, Postgres::Stopped { .. }) => *as_primary && job.is_none(),
            (_, _) => false,
        };
        let hung =
            (self.view.postgres.running()).is_some_and(|running| fitness::has_hung(&self.view, running));
        let memory = &mut self.view.memory.crashes;
        match job {
            Some(Job::StopAtOnce) | None if crashes && hung => memory.count_hang(now),
            Some(job) if job.is_stop() => memory.up_since = None,
            Some(_) | None if crashes => memory.count(now),
            Some(_) | None => {}
        }
    }

    pub(super) fn count_outcome(&mut self, job: &Job, outcome: JobOutcome) {
        if let JobOutcome::Made(system) = outcome {
            self.view.memory.bootstrapped = Some(system);
        }
        if let Job::CopySlots { .. } = job {
            // What is still missing is told again.
            self.view.memory.slots_to_copy.clear();
        }
        let failures = &mut self.view.memory.failures;
        let counter = match job {
            Job::Bootstrap | Job::StartPrimary { .. } | Job::StartStandby { .. } => &mut failures.starts,
            Job::Rewind { .. } | Job::RewindRemote => &mut failures.rewinds,
            Job::Clone { .. } | Job::CloneWithoutLeader => &mut failures.clones,
            // It makes the cluster's data, as a bootstrap does.
            Job::CloneRemote => &mut failures.starts,
            Job::CopySlots { .. } => &mut failures.slot_copies,
            Job::PrePromote { term } => {
                let (term, now) = (*term, self.view.now);
                let hook = &mut self.view.memory.promotion_hook;
                match outcome {
                    JobOutcome::Done => hook.agreed = Some(term),
                    JobOutcome::Failed => hook.refused = Some((term, now)),
                    JobOutcome::Made(_) | JobOutcome::Cancelled => {}
                }
                return;
            }
            Job::Promote { .. } => &mut failures.promotions,
            Job::SetAside => {
                if outcome == JobOutcome::Done {
                    failures.rewinds = 0;
                }
                &mut failures.set_asides
            }
            Job::Checkpoint if outcome == JobOutcome::Failed => {
                failures.last_at = Some(self.view.now);
                return;
            }
            Job::Follow { .. }
            | Job::StopOrderly { .. }
            | Job::StopFast { .. }
            | Job::StopAtOnce
            | Job::Checkpoint
            | Job::Synchronize { .. }
            | Job::OpenGate => return,
        };
        match outcome {
            JobOutcome::Failed => {
                *counter = counter.saturating_add(1);
                failures.last_at = Some(self.view.now);
            }
            JobOutcome::Done if !matches!(job, Job::Rewind { .. } | Job::RewindRemote) => *counter = 0,
            JobOutcome::Done | JobOutcome::Made(_) | JobOutcome::Cancelled => {}
        }
    }
}
