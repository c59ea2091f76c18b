//! When operators are told of what PostgreSQL does: which of their callbacks is called, and with which role. Patroni's
//! occasions; carrying a call out is somebody else's, and nothing here depends on its outcome.

use super::publish::member_role;
use crate::model::{Job, MemberRole, Occasion, Postgres, View};

/// One call of a callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    pub occasion: Occasion,
    pub role: MemberRole,
}

impl Call {
    /// The role in the words that a callback is given.
    pub fn role_word(self) -> &'static str {
        match self.role {
            MemberRole::Primary | MemberRole::Promoted => "primary",
            MemberRole::StandbyLeader => "standby_leader",
            MemberRole::Replica => "replica",
            MemberRole::Demoted => "demoted",
            MemberRole::Uninitialized | MemberRole::Unrecognized => "uninitialized",
        }
    }
}

/// What has been told last.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Told {
    up: bool,
    /// None before the first call.
    role: Option<MemberRole>,
    /// It was stopped in order to be started again.
    restarts: bool,
}

impl Told {
    /// PostgreSQL was looked at. `ended`: the job that has ended together with this look.
    pub fn after_a_look(&mut self, view: &View, ended: Option<&Job>) -> Option<Call> {
        let job = ended.or(view.work.job.as_ref().map(|running| &running.job));
        match &view.postgres {
            Postgres::Running(running) if running.silent_since.is_none() => self.is_up(member_role(view)),
            Postgres::Stopped { .. }
            | Postgres::Empty
            | Postgres::Unfinished { .. }
            | Postgres::Unusable { .. }
                if self.up =>
            {
                self.is_down(view, job.is_some_and(Job::is_stop))
            }
            // One that recovers from a crash of its own comes back as what it was.
            Postgres::Running(_)
            | Postgres::Starting { .. }
            | Postgres::Unobserved
            | Postgres::Stopped { .. }
            | Postgres::Empty
            | Postgres::Unfinished { .. }
            | Postgres::Unusable { .. } => None,
        }
    }

    /// The configuration of a running PostgreSQL was reloaded.
    pub fn after_a_reload(self) -> Option<Call> {
        let role = self.role.filter(|_| self.up)?;
        Some(Call { occasion: Occasion::Reload, role })
    }

    /// The lease is given back while PostgreSQL is down. One that was not stopped but has died has not been told of.
    pub fn after_giving_up(&mut self, view: &View) -> Option<Call> {
        if self.up || view.ending || self.role != Some(MemberRole::Primary) {
            return None;
        }
        self.role = Some(MemberRole::Demoted);
        Some(Call { occasion: Occasion::RoleChange, role: MemberRole::Demoted })
    }

    fn is_up(&mut self, role: MemberRole) -> Option<Call> {
        let before = std::mem::replace(self, Told { up: true, role: Some(role), restarts: false });
        let occasion = match before.role {
            Some(known) if known != role => Occasion::RoleChange,
            Some(_) if before.up => return None,
            Some(_) if before.restarts => Occasion::Restart,
            Some(_) | None => Occasion::Start,
        };
        Some(Call { occasion, role })
    }

    fn is_down(&mut self, view: &View, was_told_to_stop: bool) -> Option<Call> {
        self.up = false;
        self.restarts = view.is_restarting();
        if !was_told_to_stop || self.restarts {
            return None;
        }
        // A member that ends was what it was until its end.
        if self.role == Some(MemberRole::Primary) && !view.ending {
            self.role = Some(MemberRole::Demoted);
        }
        self.role.map(|role| Call { occasion: Occasion::Stop, role })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::mind::Mind;
    use crate::model::{
        Ask, Control, ControlState, Lsn, Moment, Policy, Position, Running, Serving, Span, Stage, Synchrony,
        SystemId, Tags, Timeline, Wish,
    };

    const SYSTEM: SystemId = SystemId(7);

    fn running(primary: bool) -> Postgres {
        let serving = if primary {
            Serving::Primary { position: Position::new(1, 80), checkpointed: true, forks: None }
        } else {
            let (received, replayed) = (Some(Lsn(80)), Some(Lsn(80)));
            Serving::Standby {
                timeline: Timeline(1),
                received,
                replayed,
                streaming: true,
                upstream: None,
                forks: None,
                starved: false,
            }
        };
        Postgres::Running(Running {
            system: SYSTEM,
            serving,
            silent_since: None,
            version: 150_000,
            synchrony: Synchrony::default(),
        })
    }

    fn stopped() -> Postgres {
        let control = Control {
            system: SYSTEM,
            state: ControlState::ShutDown,
            checkpoint: Position::new(1, 80),
            recovery_end: None,
            standby_signal: false,
            backup_label: false,
            never_led: false,
            rewindable: true,
        };
        Postgres::Stopped { control }
    }

    struct Teller {
        told: Told,
        view: View,
    }

    impl Teller {
        fn new() -> Teller {
            let name = "turku".parse().expect("a name");
            let mind = Mind::new(name, Tags::default(), Policy::default(), true);
            Teller { told: Told::default(), view: mind.view().clone() }
        }

        #[track_caller]
        fn sees(&mut self, postgres: Postgres, ended: Option<&Job>, expected: &str) {
            self.view.postgres = postgres;
            let call = self.told.after_a_look(&self.view, ended);
            assert_eq!(shown(call), expected);
        }
    }

    fn shown(call: Option<Call>) -> String {
        call.map(|call| format!("{} {}", call.occasion.name(), call.role_word())).unwrap_or_default()
    }

    const STOP: Job = Job::StopFast { by: Moment::from_ms(0) };

    #[test]
    fn a_switchover_is_told_as_patroni_tells_it() {
        let mut old = Teller::new();
        old.sees(running(true), None, "on_start primary");
        old.sees(running(true), None, "");
        old.sees(stopped(), Some(&STOP), "on_stop demoted");
        assert_eq!(shown(old.told.after_giving_up(&old.view)), "");
        old.sees(running(false), None, "on_role_change replica");
        assert_eq!(shown(old.told.after_a_reload()), "on_reload replica");
        let mut new = Teller::new();
        new.sees(running(false), None, "on_start replica");
        new.sees(running(true), None, "on_role_change primary");
    }

    #[test]
    fn a_restart_is_one_call_and_a_crash_is_told_by_the_start() {
        let mut teller = Teller::new();
        teller.sees(running(true), None, "on_start primary");
        let ask = Ask::Restart { timeout: Some(Span::from_secs(9)) };
        teller.view.memory.wish = Some(Wish { id: 1, ask, stage: Stage::Stopping, since: Moment::default() });
        teller.sees(stopped(), Some(&STOP), "");
        assert_eq!(shown(teller.told.after_a_reload()), "");
        teller.sees(running(true), None, "on_restart primary");
        teller.view.memory.wish = None;
        teller.sees(stopped(), None, "");
        teller.sees(running(true), None, "on_start primary");
    }

    #[test]
    fn a_primary_that_dies_and_gives_up_is_demoted_and_one_that_ends_is_not() {
        let mut teller = Teller::new();
        teller.sees(running(true), None, "on_start primary");
        teller.sees(stopped(), None, "");
        assert_eq!(shown(teller.told.after_giving_up(&teller.view)), "on_role_change demoted");
        assert_eq!(shown(teller.told.after_giving_up(&teller.view)), "");
        teller.sees(running(false), None, "on_role_change replica");

        let mut teller = Teller::new();
        teller.sees(running(true), None, "on_start primary");
        teller.view.ending = true;
        teller.sees(stopped(), Some(&STOP), "on_stop primary");
        assert_eq!(shown(teller.told.after_giving_up(&teller.view)), "");
    }
}
