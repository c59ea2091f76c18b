//! The store does not answer, and PostgreSQL here cannot accept writes.

use super::{Choice, may_try_again};
use crate::model::{Job, Postgres, Rule, View};

pub(super) fn choose(view: &View) -> Choice {
    match &view.postgres {
        Postgres::Running(_) | Postgres::Starting { .. } => Choice::wait(Rule::CutOffStands),
        // Made here and never led: there is nothing to read, and another member may have made the cluster meanwhile.
        Postgres::Stopped { control }
            if control.never_led || view.cluster().is_none_or(|cluster| cluster.system_id().is_none()) =>
        {
            Choice::wait(Rule::CutOffWaits)
        }
        // Reads go on. Whether its records fit the next leader's is looked at when the store is back.
        Postgres::Stopped { control }
            if !control.backup_label && may_try_again(view, view.memory.failures.starts) =>
        {
            Choice::run(Rule::CutOffStartsStandby, Job::StartStandby { upstream: None })
        }
        Postgres::Stopped { .. }
        | Postgres::Unobserved
        | Postgres::Empty
        | Postgres::Unfinished { .. }
        | Postgres::Unusable { .. } => Choice::wait(Rule::CutOffWaits),
    }
}
