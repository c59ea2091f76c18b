//! What operators want, as numbers that the rules use. Reading it from files and from `/config` is `config`'s business.

use serde::{Deserialize, Serialize};

use super::{Moment, Remote, SlotPolicy, Span, SyncPolicy};

/// The settings that decisions depend on, the same on every member but for the last few.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    pub timing: Timing,
    pub loop_wait: Span,
    pub retry_timeout: Span,
    /// A candidate may be this many bytes behind the leader's last word.
    pub lag_bytes_max: u64,
    /// How long a leader may try to bring its PostgreSQL up before somebody else should lead; zero: not at all.
    pub primary_start_timeout: Span,
    pub check_timeline: bool,
    pub pause: bool,
    /// May a leader that the store does not answer lead on if everybody agrees?
    #[serde(default)]
    pub failsafe: bool,
    /// Lines of the history that are kept; zero: all of them.
    #[serde(default)]
    pub history_lines_max: usize,
    /// How long an orderly stop may take, where operators bound it.
    #[serde(default)]
    pub stop_timeout: Option<Span>,
    #[serde(default)]
    pub sync: SyncPolicy,
    pub use_rewind: bool,
    /// May a data directory that cannot be rewound be set aside and cloned anew?
    pub reclone_when_rewind_fails: bool,
    /// May a data directory on a foreign timeline be set aside and cloned anew where rewinding is switched off?
    pub reclone_when_diverged: bool,
    /// Local: does this member know how to make a new cluster?
    pub may_bootstrap: bool,
    /// Local: does this member lead only with an armed watchdog device?
    #[serde(default)]
    pub watchdog_required: bool,
    /// Local: is there a command that must agree to every promotion?
    #[serde(default)]
    pub asks_before_promotion: bool,
    /// Local: can a copy of the data be had without anybody who runs?
    #[serde(default)]
    pub clones_without_leader: bool,
    /// Local: may data here be an older backup, which catches up from an archive?
    #[serde(default)]
    pub restores_backups: bool,
    #[serde(default)]
    pub slots: SlotPolicy,
    /// Another cluster that this one is the standby of: nobody here accepts writes.
    #[serde(default)]
    pub follows: Option<Remote>,
}

/// The arithmetic of the lease. All of it is local time; see ARCHITECTURE.md, "The lease".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    pub ttl: Span,
    pub renew_every: Span,
    pub margin: Span,
    pub kill_budget: Span,
    pub stop_budget: Span,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a ttl of {} leaves {} for renewing: {} - margin {} - kill budget {} - renewal period {} must be at least {}",
    .timing.ttl, .timing.slack(), .timing.ttl, .timing.margin, .timing.kill_budget, .timing.renew_every, Timing::SLACK_MIN
)]
pub struct TimingError {
    pub timing: Timing,
}

impl Timing {
    pub const SLACK_MIN: Span = Span::from_secs(3);
    const UNFIT_AFTER_MIN: Span = Span::from_ms(4_500);

    /// The usual arithmetic for a time to live.
    pub fn for_ttl(ttl: Span) -> Timing {
        Timing {
            ttl,
            renew_every: Span::from_secs(1).min(ttl.scaled(1, 4)),
            margin: Span::from_ms(500).max(ttl.scaled(1, 20)),
            kill_budget: Span::from_ms(500),
            stop_budget: Span::from_secs(1).max(ttl.scaled(1, 10)),
        }
    }

    /// What is left for missed renewals.
    pub fn slack(&self) -> Span {
        self.ttl.minus(self.margin).minus(self.kill_budget).minus(self.renew_every)
    }

    pub fn check(self) -> Result<Timing, TimingError> {
        if self.slack() < Timing::SLACK_MIN { Err(TimingError { timing: self }) } else { Ok(self) }
    }

    /// No commit may be acknowledged after this. Counted from before the renewal was sent: the store counts from when
    /// the request arrived, so we always let go first.
    pub fn deadline(&self, asked_at: Moment) -> Moment {
        asked_at + self.ttl.minus(self.margin)
    }

    /// For so long PostgreSQL may be silent, or its disk take no write, before somebody else should lead. Half a lease,
    /// and never less than two failed looks in a row: one of them may be a coincidence.
    pub fn unfit_after(&self) -> Span {
        self.ttl.scaled(1, 2).max(Timing::UNFIT_AFTER_MIN)
    }

    /// The guardian starts killing here.
    pub fn fence_at(&self, asked_at: Moment) -> Moment {
        self.deadline(asked_at) - self.kill_budget
    }

    /// The agent starts stopping here, so that an orderly stop is over before the guardian would act.
    pub fn demote_at(&self, asked_at: Moment) -> Moment {
        self.fence_at(asked_at) - self.stop_budget
    }
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            timing: Timing::for_ttl(Span::from_secs(10)),
            loop_wait: Span::from_secs(10),
            retry_timeout: Span::from_secs(10),
            lag_bytes_max: 1 << 20,
            primary_start_timeout: Span::from_secs(300),
            check_timeline: false,
            pause: false,
            failsafe: false,
            history_lines_max: 0,
            stop_timeout: None,
            sync: SyncPolicy::default(),
            use_rewind: true,
            reclone_when_rewind_fails: true,
            reclone_when_diverged: true,
            may_bootstrap: true,
            watchdog_required: false,
            asks_before_promotion: false,
            clones_without_leader: false,
            restores_backups: false,
            slots: SlotPolicy::default(),
            follows: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_stage_comes_before_the_next(ttl_ms in 1_000u64..120_000, asked_ms in 0u64..1_000_000) {
            let (timing, asked) = (Timing::for_ttl(Span::from_ms(ttl_ms)), Moment::from_ms(asked_ms));
            prop_assert!(timing.demote_at(asked) <= timing.fence_at(asked));
            prop_assert!(timing.fence_at(asked) <= timing.deadline(asked));
            prop_assert!(timing.deadline(asked) <= asked + timing.ttl);
        }
    }

    #[test]
    fn the_profiles_pass_and_what_is_shorter_is_refused_with_its_arithmetic() {
        for secs in [5, 10, 15, 20, 30] {
            assert!(Timing::for_ttl(Span::from_secs(secs)).check().is_ok(), "{secs}");
        }
        let refused = Timing::for_ttl(Span::from_secs(4)).check().expect_err("too short");
        assert_eq!(
            refused.to_string(),
            "a ttl of 4 s leaves 2 s for renewing: 4 s - margin 500 ms - kill budget 500 ms - renewal period 1 s \
             must be at least 3 s"
        );
    }
}
