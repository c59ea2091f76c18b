//! How fit this member is to lead: what it tells the others, and what it goes by itself.

use crate::model::{Fitness, Moment, Running, Span, View};

/// A write that takes longer than this is no reason to leave, but one not to come.
pub(super) const DOUBTFUL: Span = Span::from_ms(1_500);

pub(super) fn fitness(view: &View) -> Fitness {
    fitness_at(view, view.now)
}

fn fitness_at(view: &View, now: Moment) -> Fitness {
    if view.disk.has_stalled(now, view.policy.timing.unfit_after()) {
        Fitness::Unfit
    } else if view.disk.is_full() || view.memory.crashes.is_loop(now) {
        Fitness::LastResort
    } else {
        Fitness::Fit
    }
}

/// What the others are told, and what everybody ranks by: disks that stall together are not all found out at once.
pub fn fitness_told(view: &View, now: Moment) -> Fitness {
    if view.promotion_refused(now) {
        return Fitness::Unfit;
    }
    let doubtful = view.disk.has_stalled(now, DOUBTFUL);
    fitness_at(view, now).min(if doubtful { Fitness::LastResort } else { Fitness::Fit })
}

/// A primary that has not answered for half a lease will not answer soon.
pub(super) fn has_hung(view: &View, running: &Running) -> bool {
    let patience = view.policy.timing.unfit_after();
    running.is_primary() && running.silent_since.is_some_and(|since| patience <= view.now.since(since))
}
