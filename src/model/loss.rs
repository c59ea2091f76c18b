//! What a change of leaders may have cost: how much of what the former leader acknowledged the new one can lack at most, and how
//! that is known. Worked out by `decide::loss`.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::{Lag, Moment, Position, Span, Timeline};

/// The bound on what a promotion loses of what had been acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Loss {
    Nothing(Proof),
    /// The former leader has said where its WAL ended.
    AtMost(Lag),
    /// Everything that was acknowledged before `since` is here, and nothing was acknowledged after `until`. How much was written
    /// in between, nobody knows.
    Within {
        since: Moment,
        until: Moment,
        /// What the former leader is known to have written beyond what is here: a lower bound.
        known: Option<Lag>,
    },
    NotKnown,
}

/// Why nothing is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Proof {
    /// The synchronous mode: everything that was acknowledged is here.
    Synchronous,
    /// The former leader has stopped in good order, and everything that it wrote is here.
    OrderlyEnd,
    /// This member has written last itself.
    OwnData,
}

/// What a member that takes the lease is about to begin, and at what cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Takeover {
    pub timeline: Timeline,
    pub loss: Loss,
}

/// What a leader has said of the end of its WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Word {
    /// When it was asked, by this member's clock. What it had acknowledged until then ends at or before `end`.
    pub asked_at: Moment,
    pub end: Position,
}

/// What this member has heard of leaders, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Heard {
    /// When a leader was last asked.
    pub asked_at: Option<Moment>,
    pub words: Vec<Word>,
}

impl Loss {
    /// A few words, for sentences. `at` tells a moment by the wall clock.
    pub fn told(&self, at: impl Fn(Moment) -> String) -> String {
        match self {
            Loss::Nothing(proof) => format!("0: {}", proof.told()),
            Loss::AtMost(bytes) => format!("at most {bytes}"),
            Loss::Within { since, until, known } => {
                let mut text =
                    format!("at most the last {} since {}", seconds(until.since(*since)), at(*since));
                if let Some(known) = known {
                    let _ = write!(text, "; {known} of it known");
                }
                text
            }
            Loss::NotKnown => "not known".to_owned(),
        }
    }

    /// The longest time whose commits can be lost.
    pub fn span_max(&self) -> Option<Span> {
        match self {
            Loss::Nothing(_) => Some(Span::ZERO),
            Loss::Within { since, until, .. } => Some(until.since(*since)),
            Loss::AtMost(_) | Loss::NotKnown => None,
        }
    }

    pub fn bytes_max(&self) -> Option<Lag> {
        match self {
            Loss::Nothing(_) => Some(Lag(0)),
            Loss::AtMost(bytes) => Some(*bytes),
            Loss::Within { .. } | Loss::NotKnown => None,
        }
    }

    /// What is known to have been written and to be missing.
    pub fn bytes_known(&self) -> Option<Lag> {
        match self {
            Loss::Nothing(_) => Some(Lag(0)),
            Loss::AtMost(bytes) => Some(*bytes),
            Loss::Within { known, .. } => *known,
            Loss::NotKnown => None,
        }
    }
}

impl Proof {
    fn told(self) -> &'static str {
        match self {
            Proof::Synchronous => "synchronous",
            Proof::OrderlyEnd => "the former leader stopped in good order",
            Proof::OwnData => "this member wrote last itself",
        }
    }
}

/// Rounded up: it is a bound.
fn seconds(span: Span) -> String {
    let tenths = span.as_ms().div_ceil(100);
    format!("{}.{} s", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_told_in_a_few_words() {
        let check = |loss: Loss, told: &str| assert_eq!(loss.told(|at| format!("{} ms", at.as_ms())), told);
        check(Loss::Nothing(Proof::Synchronous), "0: synchronous");
        check(Loss::AtMost(Lag(48 << 10)), "at most 48 kB");
        let (since, until) = (Moment::from_ms(1_000), Moment::from_ms(11_301));
        let known = Some(Lag(512));
        check(
            Loss::Within { since, until, known },
            "at most the last 10.4 s since 1000 ms; 512 B of it known",
        );
        check(Loss::Within { since, until, known: None }, "at most the last 10.4 s since 1000 ms");
        check(Loss::NotKnown, "not known");
    }
}
