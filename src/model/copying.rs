//! How far a copy of the cluster's data has come.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Lag, Moment, Span};

/// What pg_basebackup has last said of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copying {
    pub begun_at: Moment,
    pub told_at: Moment,
    pub copied: u64,
    /// What the server has estimated; it may grow meanwhile.
    pub whole: Option<u64>,
}

impl Copying {
    /// 100 only when it is done, which nobody says here.
    pub fn percent(&self) -> Option<u64> {
        let whole = self.whole.filter(|whole| 0 < *whole)?;
        Some((self.copied.saturating_mul(100) / whole).min(99))
    }

    /// Bytes per second since it began.
    pub fn rate(&self) -> Option<u64> {
        let took = self.told_at.since(self.begun_at).as_ms();
        (0 < took && 0 < self.copied).then(|| self.copied.saturating_mul(1000) / took)
    }

    /// At the same rate.
    pub fn left(&self) -> Option<Span> {
        let rate = self.rate().filter(|rate| 0 < *rate)?;
        Some(Span::from_secs(self.whole?.saturating_sub(self.copied) / rate))
    }
}

impl fmt::Display for Copying {
    /// `42 %, 1228 MB of 2900 MB, 88 MB/s, 19 s left`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(percent) = self.percent() {
            write!(f, "{percent} %, ")?;
        }
        write!(f, "{}", Lag(self.copied))?;
        if let Some(whole) = self.whole {
            write!(f, " of {}", Lag(whole))?;
        }
        if let Some(rate) = self.rate() {
            write!(f, ", {}/s", Lag(rate))?;
        }
        if let Some(left) = self.left() {
            write!(f, ", {left} left")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_told_with_its_rate_and_what_is_left() {
        let check = |copied, whole, ms: u64, told: &str| {
            let copying = Copying {
                begun_at: Moment::from_ms(1_000),
                told_at: Moment::from_ms(1_000 + ms),
                copied,
                whole,
            };
            assert_eq!(copying.to_string(), told);
        };
        check(0, None, 0, "0 B");
        check(0, Some(100 << 20), 500, "0 %, 0 B of 100 MB");
        check(40 << 20, Some(100 << 20), 2_000, "40 %, 40 MB of 100 MB, 20 MB/s, 3 s left");
        // More than was estimated.
        check(110 << 20, Some(100 << 20), 5_500, "99 %, 110 MB of 100 MB, 20 MB/s, 0 s left");
        check(5 << 10, None, 1_000, "5120 B, 5120 B/s");
    }
}
