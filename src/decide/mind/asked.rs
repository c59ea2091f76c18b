//! The part of the mind that keeps an operator's wish: taken up or refused, taken further, answered once.

use super::super::wishes::{self, Progress};
use super::{JobOutcome, Mind};
use crate::model::{Ask, Job, Outcome, Stage, Wish};

impl Mind {
    pub(super) fn learn_wish(&mut self, id: u64, ask: Ask) {
        if let Some(refusal) = wishes::refusal(&self.view, ask) {
            self.answers.push((id, Outcome::Refused(refusal)));
            return;
        }
        let since = self.view.now;
        self.view.memory.wish = Some(Wish { id, ask, stage: Stage::Asked, since });
        // Copying a whole database takes longer than anybody waits for an answer.
        if let Ask::Reinitialize { .. } = ask {
            self.answers.push((id, Outcome::Done));
        }
    }

    pub(super) fn advance_wish(&mut self) {
        while let Some(wish) = &self.view.memory.wish {
            match wishes::progress(&self.view, wish) {
                Progress::Stands => return,
                Progress::Goes(stage) => self.go_on_with_wish(stage),
                Progress::Ends(outcome) => self.end_wish(outcome),
            }
        }
    }

    pub(super) fn go_on_with_wish(&mut self, stage: Stage) {
        if let Some(wish) = &mut self.view.memory.wish {
            wish.stage = stage;
        }
    }

    pub(super) fn end_wish(&mut self, outcome: Outcome) {
        if let Some(wish) = self.view.memory.wish.take_if(|wish| wish.is_restart()) {
            self.answers.push((wish.id, outcome));
        }
        self.view.memory.wish = None;
    }

    /// With a time limit the leader goes on trying until it is over.
    pub(super) fn end_restart_that_failed(&mut self, job: &Job, outcome: JobOutcome) {
        let starts = matches!(job, Job::StartPrimary { .. } | Job::StartStandby { .. });
        let restarting = self.view.is_restarting()
            && self.view.memory.wish.as_ref().is_some_and(|wish| wish.gives_up_at().is_none());
        if starts && restarting && outcome != JobOutcome::Done {
            self.end_wish(Outcome::Failed);
        }
    }
}
