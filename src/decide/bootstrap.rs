//! The store knows of no data for this cluster: who may make it, and what everybody else does meanwhile.

use super::{Choice, may_try_again, set_aside};
use crate::model::{Cluster, Errand, Guardian, Initialize, Job, Postgres, Rule, SystemId, View};

pub(super) fn choose(view: &View, cluster: &Cluster) -> Choice {
    match cluster.initialize {
        Initialize::Absent => nobody(view),
        Initialize::Running if is_ours(view, cluster) && view.policy.follows.is_some() => {
            copy_of_another(view)
        }
        Initialize::Running if is_ours(view, cluster) => ours(view),
        Initialize::Running => Choice::wait(Rule::BootstrapWaits),
        Initialize::Unrecognized => Choice::wait(Rule::BootstrapBlocked),
        Initialize::Done(_) => super::race::choose(view, cluster),
    }
}

fn nobody(view: &View) -> Choice {
    match &view.postgres {
        Postgres::Empty | Postgres::Unfinished { .. } if may_bootstrap(view) => {
            Choice::store(Rule::BootstrapTakes, Errand::TakeInitialize)
        }
        Postgres::Empty | Postgres::Unfinished { .. } | Postgres::Unusable { .. } => {
            Choice::wait(Rule::BootstrapBarred)
        }
        // What was a primary may have gone its own way, which only the other cluster can tell.
        Postgres::Stopped { control } if control.was_primary() || view.policy.follows.is_some() => {
            adopt(control.system)
        }
        Postgres::Running(running) if view.policy.follows.is_some() => adopt(running.system),
        Postgres::Stopped { .. } | Postgres::Running(_) | Postgres::Starting { .. } => {
            Choice::wait(Rule::AdoptionWaits)
        }
        Postgres::Unobserved => Choice::wait(Rule::LooksAtPostgres),
    }
}

/// A member without a guardian or a required watchdog could not lead what it makes.
fn may_bootstrap(view: &View) -> bool {
    let failures = view.memory.failures.starts;
    view.policy.may_bootstrap
        && may_try_again(view, failures)
        && !view.tags.nofailover()
        && view.guardian != Guardian::Absent
        && !view.lacks_watchdog()
}

fn adopt(system: SystemId) -> Choice {
    Choice::store(Rule::AdoptsData, Errand::FinishInitialize { system })
}

/// This member has claimed the making of a standby cluster: its data is another cluster's.
fn copy_of_another(view: &View) -> Choice {
    match &view.postgres {
        Postgres::Empty if may_try_again(view, view.memory.failures.starts) => {
            Choice::run(Rule::SiteClones, Job::CloneRemote)
        }
        Postgres::Empty => Choice::wait(Rule::RejoinBacksOff),
        Postgres::Unfinished { .. } => set_aside(view, Rule::ClearsUnfinished),
        Postgres::Stopped { control } => {
            Choice::store(Rule::BootstrapFinishes, Errand::FinishInitialize { system: control.system })
        }
        Postgres::Running(_) | Postgres::Starting { .. } | Postgres::Unusable { .. } => {
            Choice::store(Rule::BootstrapAbandons, Errand::AbandonInitialize)
        }
        Postgres::Unobserved => Choice::wait(Rule::LooksAtPostgres),
    }
}

/// Seen in the store, not remembered from an answer: an answer may be lost, and a snapshot may be older than it.
fn is_ours(view: &View, cluster: &Cluster) -> bool {
    cluster.maker.is_some() && cluster.maker == view.session.map(|session| session.id)
}

/// This member has claimed the making.
fn ours(view: &View) -> Choice {
    match &view.postgres {
        Postgres::Empty if may_try_again(view, view.memory.failures.starts) => {
            Choice::run(Rule::BootstrapMakes, Job::Bootstrap)
        }
        Postgres::Unfinished { .. } => set_aside(view, Rule::ClearsUnfinished),
        // The claim was made with nothing here, so this was made since, be it by an agent that has died meanwhile.
        Postgres::Stopped { control } if control.was_primary() => {
            Choice::store(Rule::BootstrapFinishes, Errand::FinishInitialize { system: control.system })
        }
        Postgres::Empty
        | Postgres::Stopped { .. }
        | Postgres::Running(_)
        | Postgres::Starting { .. }
        | Postgres::Unusable { .. } => Choice::store(Rule::BootstrapAbandons, Errand::AbandonInitialize),
        Postgres::Unobserved => Choice::wait(Rule::LooksAtPostgres),
    }
}
