//! Write-ahead log: where a member stands, and how timelines descend from each other.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A byte position in the write-ahead log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lsn(pub u64);

/// PostgreSQL's number of a history of writes; a promotion begins a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timeline(pub u32);

/// Where a member stands. Ordered by timeline first: a higher one was begun by a later leader, so its writes are the
/// ones that clients were told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    pub timeline: Timeline,
    pub lsn: Lsn,
}

/// Bytes of WAL between two positions of one lineage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Lag(pub u64);

/// The ancestry of a timeline: each ancestor with the position at which the next one forked off, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    pub timeline: Timeline,
    pub ancestors: Vec<Fork>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fork {
    pub parent: Timeline,
    pub at: Lsn,
}

impl Fork {
    /// The forks that lead to `timeline`, without a gap in the numbers.
    ///
    /// A number that is left out is of a timeline whose leader was never followed by this one. Nobody who has written on
    /// it stands on this lineage, so it was left before its first byte.
    pub fn without_gaps(real: impl IntoIterator<Item = Fork>, timeline: Timeline) -> Vec<Fork> {
        let mut real = real.into_iter().peekable();
        (Timeline::FIRST.0..timeline.0)
            .map(Timeline)
            .map(|parent| {
                real.next_if(|fork| fork.parent == parent).unwrap_or(Fork { parent, at: Lsn::ZERO })
            })
            .collect()
    }
}

/// How a position relates to a lineage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Descent {
    /// On the lineage: whoever stands here can simply stream on.
    OnLineage,
    /// Past the fork at which the lineage left its timeline, or on a timeline that the lineage never had.
    Diverged,
}

impl Lsn {
    pub const ZERO: Lsn = Lsn(0);

    /// How far `self` is behind `ahead`; nothing if it is not.
    pub fn lag_behind(self, ahead: Lsn) -> Lag {
        Lag(ahead.0.saturating_sub(self.0))
    }
}

impl Timeline {
    pub const FIRST: Timeline = Timeline(1);

    #[must_use]
    pub fn next(self) -> Timeline {
        Timeline(self.0.saturating_add(1))
    }
}

impl Position {
    pub fn new(timeline: u32, lsn: u64) -> Position {
        Position { timeline: Timeline(timeline), lsn: Lsn(lsn) }
    }
}

impl Lineage {
    pub fn root() -> Lineage {
        Lineage { timeline: Timeline::FIRST, ancestors: Vec::new() }
    }

    /// Where the WAL of a member that has *replayed or written* up to `position` stands relative to this lineage.
    pub fn descent_of(&self, position: Position) -> Descent {
        if position.timeline == self.timeline {
            return Descent::OnLineage;
        }
        match self.fork_from(position.timeline) {
            Some(at) if position.lsn <= at => Descent::OnLineage,
            Some(_) | None => Descent::Diverged,
        }
    }

    /// The same for a member that was shut down cleanly as a primary: its last record *begins* at `checkpoint`, so the
    /// lineage must have left strictly later to contain it.
    pub fn descent_of_shut_down_primary(&self, checkpoint: Position) -> Descent {
        if checkpoint.timeline == self.timeline {
            return Descent::OnLineage;
        }
        match self.fork_from(checkpoint.timeline) {
            Some(at) if checkpoint.lsn < at => Descent::OnLineage,
            Some(_) | None => Descent::Diverged,
        }
    }

    /// Where this lineage left `timeline`, if that is one of its ancestors.
    pub fn fork_from(&self, timeline: Timeline) -> Option<Lsn> {
        self.ancestors.iter().find(|fork| fork.parent == timeline).map(|fork| fork.at)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on timeline {}", self.lsn, self.timeline)
    }
}

impl fmt::Display for Lag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes < 10 << 10 => write!(f, "{bytes} B"),
            bytes if bytes < 10 << 20 => write!(f, "{} kB", bytes >> 10),
            bytes => write!(f, "{} MB", bytes >> 20),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a WAL position: two hexadecimal numbers with a slash between them are wanted, like 16/B374D848"
)]
pub struct LsnError(String);

impl FromStr for Lsn {
    type Err = LsnError;

    fn from_str(text: &str) -> Result<Lsn, LsnError> {
        let wrong = || LsnError(text.to_owned());
        let (high, low) = text.split_once('/').ok_or_else(wrong)?;
        Ok(Lsn(u64::from(half(high).ok_or_else(wrong)?) << 32 | u64::from(half(low).ok_or_else(wrong)?)))
    }
}

/// `from_str_radix` alone would also take a sign.
fn half(digits: &str) -> Option<u32> {
    let hexadecimal = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
    hexadecimal.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_position_survives_being_written_and_read(raw: u64) {
            prop_assert_eq!(Lsn(raw).to_string().parse::<Lsn>(), Ok(Lsn(raw)));
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in ".{0,24}") {
            let _ = text.parse::<Lsn>();
        }

        #[test]
        fn whoever_is_behind_somebody_on_the_lineage_is_on_it_too(at in 0u64..100, lsn in 0u64..100, less in 0u64..100) {
            let lineage = Lineage { timeline: Timeline(2), ancestors: vec![Fork { parent: Timeline(1), at: Lsn(at) }] };
            if lineage.descent_of(Position::new(1, lsn)) == Descent::OnLineage {
                prop_assert_eq!(lineage.descent_of(Position::new(1, lsn.saturating_sub(less))), Descent::OnLineage);
            }
        }
    }

    #[test]
    fn what_is_not_a_position_is_refused() {
        for text in ["", "1", "/", "1/", "+1/2", "1/123456789", "x/y", "1/2/3"] {
            assert!(text.parse::<Lsn>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_primary_that_stopped_at_the_fork_has_one_record_too_many() {
        let lineage =
            Lineage { timeline: Timeline(2), ancestors: vec![Fork { parent: Timeline(1), at: Lsn(80) }] };
        assert_eq!(lineage.descent_of(Position::new(1, 80)), Descent::OnLineage);
        assert_eq!(lineage.descent_of_shut_down_primary(Position::new(1, 80)), Descent::Diverged);
        assert_eq!(lineage.descent_of(Position::new(3, 10)), Descent::Diverged);
    }
}
