//! An orderly end has been asked for: hand over if somebody can take over, stop PostgreSQL, give the lease back.

use super::{Choice, handover};
use crate::model::{Errand, Postgres, Rule, Step, View};

pub(super) fn choose(view: &View) -> Choice {
    if view.policy.pause {
        return Choice::step(Rule::Ended, Step::Exit);
    }
    match &view.postgres {
        Postgres::Running(_) | Postgres::Starting { .. } => {
            let leads = view.lease.is_some();
            let to =
                view.cluster().filter(|_| leads).and_then(|cluster| handover::any_replica(view, cluster));
            handover::stop_for(view, Rule::EndingStops, to)
        }
        Postgres::Stopped { control } => {
            let waiting = (view.cluster().filter(|_| view.lease.is_some() && !view.cut_off()))
                .and_then(|cluster| handover::before_end(view, cluster, control));
            waiting.unwrap_or_else(|| release_and_exit(view))
        }
        Postgres::Unobserved | Postgres::Empty | Postgres::Unfinished { .. } | Postgres::Unusable { .. } => {
            release_and_exit(view)
        }
    }
}

fn release_and_exit(view: &View) -> Choice {
    if view.work.errand_since.is_some() {
        return Choice::wait(Rule::EndingWaits);
    }
    let leader =
        view.cluster().and_then(|cluster| cluster.leader.as_ref()).filter(|leader| leader.name == view.me);
    let unanswered = leader.map(|leader| leader.term).filter(|term| view.memory.released == Some(*term));
    match view.lease.filter(|lease| view.now < lease.deadline()).map(|lease| lease.term).or(unanswered) {
        // Where the store is gone the lease ends by itself, and nobody waits for that here.
        Some(term) if !view.cut_off() => Choice::store(Rule::EndingReleases, Errand::ReleaseLease { term }),
        // A guardian that is left armed would stay on watch over nothing.
        Some(_) | None if view.guardian.is_armed(view.now) => Choice::wait(Rule::AwaitsDisarm),
        Some(_) | None => Choice::step(Rule::Ended, Step::Exit),
    }
}
