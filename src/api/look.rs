//! A standing, looked at when a request comes: what the endpoints ask of it. Everything that ends with time is compared
//! with the request's own time, never with the time of the loop's last decision.

use serde_json::Value;

use crate::model::{
    Cluster, Contact, ControlState, Intents, Job, Lease, Lsn, MemberRole, MemberState, Moment, Postgres,
    Rule, Running, Serving, Span, Standing, SyncState, Tags, Unfinished, View, Watchdog,
};

#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    pub standing: &'a Standing,
    pub now: Moment,
    /// Whoever asks wants to know whether PostgreSQL has been looked at since.
    pub asked_at: Option<Moment>,
}

/// What a standby owes to the synchronous modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncDuty {
    Sync,
    Quorum,
}

impl<'a> Look<'a> {
    pub fn new(standing: &'a Standing, now: Moment) -> Look<'a> {
        Look { standing, now, asked_at: None }
    }

    /// What is known of PostgreSQL is older than the question.
    pub fn is_stale(&self) -> bool {
        self.asked_at.is_some_and(|asked| self.view().looked_at < asked)
    }

    /// How long before the question that look was, if it was before.
    pub fn looked_ago(&self) -> Option<Span> {
        let asked_at = self.asked_at.filter(|_| self.is_stale())?;
        Some(asked_at.since(self.view().looked_at))
    }

    pub fn view(&self) -> &'a View {
        &self.standing.view
    }

    pub fn cluster(&self) -> Option<&'a Cluster> {
        self.view().store.cluster.as_ref()
    }

    /// What operators have said of it.
    pub fn intents(&self) -> Option<&'a Intents> {
        Some(&self.cluster()?.intents.as_ref()?.value)
    }

    /// The lease, for as long as commits may be acknowledged under it.
    pub fn lease(&self) -> Option<&'a Lease> {
        self.view().lease.as_ref().filter(|lease| self.now < lease.deadline())
    }

    pub fn lease_left(&self) -> Option<Span> {
        self.view().lease.as_ref().map(|lease| self.now.until(lease.deadline()))
    }

    /// Is the last snapshot recent enough to be believed? A loop that has stopped deciding has stopped reading too.
    pub fn store_is_current(&self) -> bool {
        let ttl = self.view().policy.timing.ttl;
        match self.view().store.contact {
            Contact::Never => false,
            Contact::Current => self.cluster().is_some() && self.loop_late_by() < ttl,
            Contact::Silent { since } => self.cluster().is_some() && self.now.since(since) < ttl,
        }
    }

    /// How long ago the loop should have decided again.
    pub fn loop_late_by(&self) -> Span {
        self.now.since(self.standing.plan.look_again)
    }

    pub fn failsafe_active(&self) -> bool {
        self.view().failsafe_active(self.now)
    }

    pub fn paused(&self) -> bool {
        self.view().policy.pause
    }

    /// Maintenance mode and a silent store: nobody is promoted, and this primary stays one although its lease has run
    /// out. Only a member that led when the store was last heard may say so.
    pub fn left_alone(&self) -> bool {
        let led = self.cluster().and_then(Cluster::leader_name) == Some(&self.view().me);
        // From the first moment of the silence: the lease ends before what the store has told is old.
        let silent = self.view().store.contact != Contact::Current || !self.store_is_current();
        self.paused() && silent && led
    }

    /// A primary that lets no client in yet.
    pub fn is_gated(&self) -> bool {
        self.view().postgres.running().is_some_and(Running::is_gated)
    }

    pub fn standby_cluster(&self) -> bool {
        self.view().policy.follows.is_some()
    }

    pub fn tags(&self) -> &'a Tags {
        &self.view().tags
    }

    /// PostgreSQL, if it runs and answers.
    pub fn answering(&self) -> Option<&'a Running> {
        self.view().postgres.running().filter(|running| running.silent_since.is_none())
    }

    pub fn role(&self) -> MemberRole {
        match &self.view().postgres {
            Postgres::Running(Running { serving: Serving::Primary { .. }, .. })
            | Postgres::Starting { as_primary: true, .. } => MemberRole::Primary,
            Postgres::Running(Running { serving: Serving::Standby { .. }, .. })
            | Postgres::Starting { as_primary: false, .. } => self.role_of_a_standby(),
            // Down, and to be started again in place: the others are told that the office is not vacant.
            Postgres::Stopped { control } if control.was_primary() && self.lease().is_some() => {
                MemberRole::Primary
            }
            Postgres::Stopped { control } if control.was_primary() => MemberRole::Demoted,
            Postgres::Empty | Postgres::Unfinished { work: Unfinished::Bootstrap | Unfinished::Clone } => {
                MemberRole::Uninitialized
            }
            Postgres::Stopped { .. }
            | Postgres::Unfinished { work: Unfinished::Rewind }
            | Postgres::Unobserved
            | Postgres::Unusable { .. } => MemberRole::Replica,
        }
    }

    fn role_of_a_standby(&self) -> MemberRole {
        if self.standby_cluster() && self.lease().is_some() {
            MemberRole::StandbyLeader
        } else {
            MemberRole::Replica
        }
    }

    pub fn state(&self) -> MemberState {
        let job = self.view().work.job.as_ref().map(|running| &running.job);
        if self.view().is_restarting() {
            return MemberState::Restarting;
        }
        match (&self.view().postgres, job) {
            (Postgres::Running(_) | Postgres::Starting { .. }, Some(Job::StopAtOnce)) => {
                MemberState::Stopping
            }
            (Postgres::Running(running), _) if running.silent_since.is_some() => MemberState::Unknown,
            (Postgres::Running(_), _) => MemberState::Running,
            (Postgres::Starting { .. }, _) => MemberState::Starting,
            (Postgres::Empty | Postgres::Unfinished { .. }, Some(Job::Bootstrap)) => {
                MemberState::Bootstrapping
            }
            (
                Postgres::Empty | Postgres::Unfinished { .. },
                Some(Job::Clone { .. } | Job::CloneWithoutLeader | Job::CloneRemote),
            ) => MemberState::CreatingReplica,
            (Postgres::Stopped { .. }, Some(Job::StartPrimary { .. } | Job::StartStandby { .. })) => {
                MemberState::Starting
            }
            (Postgres::Stopped { .. }, _) if self.view().memory.failures.starts > 0 => {
                MemberState::StartFailed
            }
            (Postgres::Stopped { control }, _) => match control.state {
                ControlState::InProduction | ControlState::InCrashRecovery if !control.backup_label => {
                    MemberState::Crashed
                }
                ControlState::InProduction
                | ControlState::InCrashRecovery
                | ControlState::StartingUp
                | ControlState::ShutDown
                | ControlState::ShutDownInRecovery
                | ControlState::ShuttingDown
                | ControlState::InArchiveRecovery => MemberState::Stopped,
            },
            (Postgres::Unobserved, _) => MemberState::Unknown,
            (Postgres::Empty | Postgres::Unfinished { .. } | Postgres::Unusable { .. }, _) => {
                MemberState::Stopped
            }
        }
    }

    pub fn sync_duty(&self) -> Option<SyncDuty> {
        let sync = &self.cluster()?.sync.as_ref()?.value;
        (self.role() == MemberRole::Replica && names(sync, self.view().me.as_str()))
            .then(|| self.sync_mode())?
    }

    /// What the cluster's synchronous mode calls its standbys; none if the mode is off.
    pub fn sync_mode(&self) -> Option<SyncDuty> {
        match self.setting("synchronous_mode")? {
            Value::String(word) if word.eq_ignore_ascii_case("quorum") => Some(SyncDuty::Quorum),
            Value::String(word) => matches!(word.to_ascii_lowercase().as_str(), "on" | "true" | "yes" | "1")
                .then_some(SyncDuty::Sync),
            Value::Bool(on) => on.then_some(SyncDuty::Sync),
            Value::Number(number) => (number.as_i64() == Some(1)).then_some(SyncDuty::Sync),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        }
    }

    /// How far the primary is known to have written: by its last word in the store, or by its WAL sender.
    pub fn primary_end(&self) -> Option<Lsn> {
        self.cluster().and_then(|cluster| cluster.status.optime).max(self.standing.facts.upstream_end)
    }

    /// No guardian answers, or the watchdog that is required cannot be armed: the rules keep such a member from leading.
    pub fn cannot_be_fenced(&self) -> bool {
        self.view().guardian == crate::model::Guardian::Absent || self.view().lacks_watchdog()
    }

    /// How the watchdog is, for people, as soon as anything is known of it.
    pub fn watchdog(&self) -> Option<String> {
        let watchdog = self.view().watchdog;
        (watchdog != Watchdog::Unknown).then(|| watchdog.to_string())
    }

    pub fn rule(&self) -> Rule {
        self.standing.plan.reason.rule
    }

    fn setting(&self, key: &str) -> Option<&'a Value> {
        self.cluster()?.config.as_ref()?.value.get(key)
    }
}

/// Does the sync key name this member? Compared without case, as Patroni does.
pub fn names(sync: &SyncState, member: &str) -> bool {
    sync.leader.is_some() && sync.standbys.iter().any(|name| name.as_str().eq_ignore_ascii_case(member))
}
