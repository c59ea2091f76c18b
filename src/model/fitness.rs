//! What keeps a member from leading well: its disk, and a PostgreSQL that crashes or hangs again and again.

use serde::{Deserialize, Serialize};

use super::{Moment, Span};

/// How fit a member is to lead. The order is the order of preference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fitness {
    /// It could not do the work: nothing reaches its disk.
    Unfit,
    /// It leads only if nobody better can: its disk is full, or its PostgreSQL crashed again and again.
    LastResort,
    /// What is not told, as by agents of another kind, is no reason against anybody.
    #[default]
    Fit,
}

/// What the probe has found where PostgreSQL writes. Of several places the worst one counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// No write has reached the disk since then: one is under way, or all have failed.
    pub unwritten_since: Option<Moment>,
    /// What PostgreSQL may still fill; `None` while it is not known.
    pub free_bytes: Option<u64>,
    /// A write was refused because there is no room, whatever is said to be free.
    pub refused_for_space: bool,
}

/// How this member's primary has ended without having been asked to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crashes {
    /// How many in a row, each soon after PostgreSQL had come up.
    pub in_a_row: u32,
    pub last_at: Option<Moment>,
    /// Since when it has been a running primary.
    pub up_since: Option<Moment>,
}

impl Fitness {
    pub fn word(self) -> &'static str {
        match self {
            Fitness::Unfit => "unfit",
            Fitness::LastResort => "last_resort",
            Fitness::Fit => "fit",
        }
    }
}

impl Disk {
    /// The next WAL segment may not fit any more; without it PostgreSQL cannot commit.
    pub const FULL_BELOW: u64 = 32 << 20;
    /// Who takes over from a full member has room for more than a moment.
    pub const ROOMY_FROM: u64 = 128 << 20;

    pub fn is_full(&self) -> bool {
        self.refused_for_space || self.free_bytes.is_some_and(|free| free < Disk::FULL_BELOW)
    }

    pub fn has_stalled(&self, now: Moment, patience: Span) -> bool {
        self.unwritten_since.is_some_and(|since| patience <= now.since(since))
    }
}

impl Crashes {
    /// So many in a row, and somebody else should try.
    pub const MAX: u32 = 3;
    /// A primary that lived longer did not crash soon after its start.
    const SOON: Span = Span::from_secs(60);
    /// They count for as long as this.
    const REMEMBERED: Span = Span::from_secs(600);

    pub fn is_loop(&self, now: Moment) -> bool {
        Crashes::MAX <= self.in_a_row
            && self.last_at.is_some_and(|last| now.since(last) < Crashes::REMEMBERED)
    }

    /// A primary has ended by itself.
    pub fn count(&mut self, now: Moment) {
        let lived = self.up_since.take().map_or(Span::ZERO, |since| now.since(since));
        let follows =
            lived < Crashes::SOON && self.last_at.is_some_and(|last| now.since(last) < Crashes::REMEMBERED);
        self.in_a_row = if follows { self.in_a_row.saturating_add(1) } else { 1 };
        self.last_at = Some(now);
    }

    /// One that hung and had to be stopped is as bad as many that crashed: it has cost half a lease already.
    pub fn count_hang(&mut self, now: Moment) {
        *self = Crashes { in_a_row: Crashes::MAX, last_at: Some(now), up_since: None };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Span = Span::from_secs(60);

    /// PostgreSQL comes up and lives for as long as each of these.
    fn after(lives: &[u64]) -> (Crashes, Moment) {
        let (mut crashes, mut now) = (Crashes::default(), Moment::from_ms(1_000));
        for secs in lives {
            crashes.up_since.get_or_insert(now);
            now = now + Span::from_secs(*secs);
            crashes.count(now);
        }
        (crashes, now)
    }

    fn check(lives: &[u64], is_loop: bool) {
        let (crashes, now) = after(lives);
        assert_eq!(crashes.is_loop(now), is_loop, "{lives:?}: {crashes:?}");
    }

    #[test]
    fn crashes_soon_after_each_other_are_a_loop_and_those_of_a_long_life_are_not() {
        check(&[], false);
        check(&[3], false);
        check(&[3, 3], false);
        check(&[3, 3, 3], true);
        check(&[86_400, 3, 3], true);
        check(&[3, 3, 86_400], false);
        check(&[59, 59, 59], true);
        check(&[61, 61, 61, 61], false);
    }

    #[test]
    fn a_loop_is_forgotten_after_a_while() {
        let (crashes, now) = after(&[3, 3, 3]);
        assert!(crashes.is_loop(now + MINUTE.times(9)));
        assert!(!crashes.is_loop(now + MINUTE.times(10)));
    }

    #[test]
    fn one_hang_counts_like_a_loop() {
        let (mut crashes, now) = after(&[]);
        crashes.count_hang(now);
        assert!(crashes.is_loop(now));
    }

    #[test]
    fn a_disk_is_full_when_little_is_left_or_when_it_says_so() {
        let free = |bytes| Disk { free_bytes: bytes, ..Disk::default() };
        assert!(!free(None).is_full(), "what is not known is not full");
        assert!(!free(Some(Disk::FULL_BELOW)).is_full());
        assert!(free(Some(Disk::FULL_BELOW - 1)).is_full());
        assert!(Disk { refused_for_space: true, ..free(Some(1 << 40)) }.is_full());
    }
}
