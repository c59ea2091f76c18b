//! Local time as a number: milliseconds of CLOCK_BOOTTIME. Reading the clock is the shell's business (`clock`).

use std::fmt;
use std::ops::{Add, Sub};

use serde::{Deserialize, Serialize};

/// A point on this host's boot clock. Never compared between hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Moment(u64);

/// A length of time in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Span(u64);

impl Moment {
    pub const fn from_ms(ms: u64) -> Moment {
        Moment(ms)
    }

    pub const fn as_ms(self) -> u64 {
        self.0
    }

    /// How long ago `earlier` was; nothing if it lies ahead.
    pub const fn since(self, earlier: Moment) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }

    /// How long until `later`; nothing if it has passed.
    pub const fn until(self, later: Moment) -> Span {
        later.since(self)
    }
}

impl Span {
    pub const ZERO: Span = Span(0);

    pub const fn from_ms(ms: u64) -> Span {
        Span(ms)
    }

    pub const fn from_secs(secs: u64) -> Span {
        Span(secs.saturating_mul(1000))
    }

    pub const fn as_ms(self) -> u64 {
        self.0
    }

    pub const fn as_duration(self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0)
    }

    #[must_use]
    pub const fn times(self, factor: u64) -> Span {
        Span(self.0.saturating_mul(factor))
    }

    /// `self * numerator / denominator`, rounded down.
    #[must_use]
    pub const fn scaled(self, numerator: u64, denominator: u64) -> Span {
        Span(self.0.saturating_mul(numerator) / denominator)
    }

    #[must_use]
    pub const fn minus(self, other: Span) -> Span {
        Span(self.0.saturating_sub(other.0))
    }
}

impl Add<Span> for Moment {
    type Output = Moment;
    fn add(self, span: Span) -> Moment {
        Moment(self.0.saturating_add(span.0))
    }
}

impl Sub<Span> for Moment {
    type Output = Moment;
    fn sub(self, span: Span) -> Moment {
        Moment(self.0.saturating_sub(span.0))
    }
}

impl Add for Span {
    type Output = Span;
    fn add(self, other: Span) -> Span {
        Span(self.0.saturating_add(other.0))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ms if ms % 1000 == 0 => write!(f, "{} s", ms / 1000),
            ms if ms < 1000 => write!(f, "{ms} ms"),
            ms => write!(f, "{}.{} s", ms / 1000, ms % 1000 / 100),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_reads_like_a_person_would_say_it() {
        assert_eq!(Span::from_ms(250).to_string(), "250 ms");
        assert_eq!(Span::from_secs(10).to_string(), "10 s");
        assert_eq!(Span::from_ms(9_500).to_string(), "9.5 s");
    }

    #[test]
    fn time_never_wraps_around() {
        assert_eq!(Moment::from_ms(5) - Span::from_secs(1), Moment::from_ms(0));
        assert_eq!(Moment::from_ms(u64::MAX) + Span::from_secs(1), Moment::from_ms(u64::MAX));
        assert_eq!(Moment::from_ms(5).since(Moment::from_ms(9)), Span::ZERO);
    }
}
