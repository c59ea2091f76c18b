//! The store knows of no data for this cluster: who may make it, and what everybody else does meanwhile.

use super::{Choice, may_try_again};
use crate::model::{Cluster, Control, Errand, Guardian, Initialize, Job, Postgres, Rule, SystemId, View};

pub(super) fn choose(view: &View, cluster: &Cluster) -> Choice {
    match cluster.initialize {
        Initialize::Absent => nobody(view),
        Initialize::Running if view.memory.bootstrapping => ours(view),
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
        Postgres::Stopped { control } if control.was_primary() => adopt(control),
        Postgres::Stopped { .. } | Postgres::Running(_) | Postgres::Starting { .. } => {
            Choice::wait(Rule::AdoptionWaits)
        }
        Postgres::Unobserved => Choice::wait(Rule::LooksAtPostgres),
    }
}

/// A member without a guardian could not lead what it makes.
fn may_bootstrap(view: &View) -> bool {
    let failures = view.memory.failures.starts;
    view.policy.may_bootstrap
        && may_try_again(view, failures)
        && !view.tags.nofailover()
        && view.guardian != Guardian::Absent
}

fn adopt(control: &Control) -> Choice {
    Choice::store(Rule::AdoptsData, Errand::FinishInitialize { system: control.system })
}

/// This member has claimed the making.
fn ours(view: &View) -> Choice {
    match (&view.postgres, view.memory.bootstrapped) {
        (Postgres::Empty, _) if may_try_again(view, view.memory.failures.starts) => {
            Choice::run(Rule::BootstrapMakes, Job::Bootstrap)
        }
        (Postgres::Unfinished { .. }, _) => Choice::run(Rule::ClearsUnfinished, Job::SetAside),
        (Postgres::Stopped { control }, Some(SystemId(made))) if control.system.0 == made => {
            Choice::store(Rule::BootstrapFinishes, Errand::FinishInitialize { system: control.system })
        }
        (
            Postgres::Empty
            | Postgres::Stopped { .. }
            | Postgres::Running(_)
            | Postgres::Starting { .. }
            | Postgres::Unusable { .. },
            _,
        ) => Choice::store(Rule::BootstrapAbandons, Errand::AbandonInitialize),
        (Postgres::Unobserved, _) => Choice::wait(Rule::LooksAtPostgres),
    }
}
