//! The part of the mind that sends errands to the store and takes in how they ended.

use super::super::fault::{self, Fault};
use super::{Command, ErrandOutcome, Mind};
use crate::model::{Errand, SentSync, Span, Term};

/// An errand that failed is not repeated at once.
const ERRAND_PAUSE: Span = Span::from_ms(200);

impl Mind {
    pub(super) fn end_errand(&mut self, outcome: ErrandOutcome) {
        let Some(errand) = self.errand.take() else { return };
        self.view.work.errand_since = None;
        self.errand_lost_at = match outcome {
            ErrandOutcome::Done | ErrandOutcome::Taken { .. } => None,
            ErrandOutcome::Conflict | ErrandOutcome::Unanswered | ErrandOutcome::Refused => {
                Some(self.view.now)
            }
        };
        let memory = &mut self.view.memory;
        match (errand, outcome) {
            (Errand::TakeLease { .. }, ErrandOutcome::Taken { term }) => {
                memory.failures.starts = 0;
                if let Some(session) = self.view.session {
                    self.confirm_lease(term, session);
                }
            }
            (Errand::TakeLease { .. }, ErrandOutcome::Unanswered)
                if fault::active(Fault::BelievesTheUnanswered) =>
            {
                let term = self.view.cluster().and_then(|c| c.leader.as_ref()).map_or(Term(1), |l| l.term);
                if let Some(session) = self.view.session {
                    self.confirm_lease(term, session);
                }
            }
            (Errand::ReleaseLease { .. }, ErrandOutcome::Done | ErrandOutcome::Conflict) => {
                memory.handover = None;
            }
            (Errand::WriteSync { term, .. }, ErrandOutcome::Done) => {
                memory.sync.written_in = Some(term);
                memory.sync.sent.iter_mut().for_each(|sent| sent.done = true);
            }
            (
                Errand::TakeLease { .. }
                | Errand::TakeInitialize
                | Errand::FinishInitialize { .. }
                | Errand::AbandonInitialize
                | Errand::ReleaseLease { .. }
                | Errand::ClearFailover { .. }
                | Errand::MakeDue { .. }
                | Errand::EndPause { .. }
                | Errand::WriteSync { .. }
                | Errand::ClearSync { .. },
                _,
            ) => {}
        }
    }

    pub(super) fn send_errand(&mut self, errand: Errand, commands: &mut Vec<Command>) {
        let lost_just_now = self.errand_lost_at.is_some_and(|lost| self.view.now.since(lost) < ERRAND_PAUSE);
        if self.errand.is_some() || lost_just_now {
            return;
        }
        if let Errand::TakeLease { claim } = errand {
            self.count_cost(claim);
        }
        if let Errand::ReleaseLease { term } = errand {
            // From here on the key may go at any moment, even if no answer ever comes.
            self.view.lease = None;
            self.view.memory.released = Some(term);
            // Sent again, it is still for that switchover, though the first answer has ended the handover.
            self.view.memory.stepped_down |= self.view.memory.handover.is_some();
            self.calls.extend(self.told.after_giving_up(&self.view));
        }
        if let Errand::WriteSync { term, state, version } = &errand {
            self.view.memory.sync.sent =
                Some(SentSync { term: *term, state: state.clone(), version: *version, done: false });
        }
        self.errand = Some(errand.clone());
        self.view.work.errand_since = Some(self.view.now);
        commands.push(Command::Errand(errand));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Handover, Moment, Policy, Tags};

    #[test]
    fn who_gives_the_lease_back_twice_has_still_stepped_down() {
        let mut mind = Mind::new("turku".parse().expect("a name"), Tags::default(), Policy::default(), true);
        let to = "oulu".parse().expect("a name");
        mind.view.memory.handover = Some(Handover { to, begun_at: Moment::default() });
        for _ in 0..2 {
            mind.send_errand(Errand::ReleaseLease { term: Term(7) }, &mut Vec::new());
            assert!(mind.view.memory.stepped_down);
            // The answer is here, and the snapshot still has the key.
            mind.end_errand(ErrandOutcome::Done);
            assert!(mind.view.memory.handover.is_none());
        }
    }
}
