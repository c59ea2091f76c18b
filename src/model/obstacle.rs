//! Why a member may not take over from a leader that could hand over: one reason, the first that counts.

use std::fmt;

use super::{Fitness, Lag, MemberState, Timeline};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// Nothing was heard of it.
    Silent,
    NoFailover,
    CannotBeFenced,
    NotRunning(MemberState),
    Unfit,
    /// Fit, but less than the leader is.
    LessFit(Fitness),
    NoStandby,
    NotSynchronous,
    PositionUnknown,
    OtherTimeline {
        its: Timeline,
        leaders: Timeline,
    },
    Behind {
        lag: Lag,
        limit: Lag,
    },
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Obstacle::Silent => f.write_str("it does not answer"),
            Obstacle::NoFailover => f.write_str("it may not lead (nofailover)"),
            Obstacle::CannotBeFenced => {
                f.write_str("its guardian or the watchdog that is required does not stand by")
            }
            Obstacle::NotRunning(state) => write!(f, "its PostgreSQL is not running ({})", word_of(*state)),
            Obstacle::Unfit => {
                f.write_str("it cannot lead now: nothing reaches its disk, or pre_promote refused")
            }
            Obstacle::LessFit(fitness) => write!(f, "it is less fit than the leader ({})", fitness.word()),
            Obstacle::NoStandby => f.write_str("its PostgreSQL is no standby"),
            Obstacle::NotSynchronous => {
                f.write_str("it may lack commits: it is not a synchronous standby, or too few voters answer")
            }
            Obstacle::PositionUnknown => f.write_str("its position is not known"),
            Obstacle::OtherTimeline { its, leaders } => {
                write!(f, "it is on timeline {its}, and the leader is on {leaders}")
            }
            Obstacle::Behind { lag, limit } => {
                write!(f, "it is {lag} behind, and {limit} are allowed (maximum_lag_on_failover)")
            }
        }
    }
}

fn word_of(state: MemberState) -> String {
    serde_json::to_value(state).ok().and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default()
}
