//! Who can reach whom, and how long that takes. Every direction of every pair is a link of its own.

use std::collections::BTreeSet;

use super::random::Random;
use super::{MS, Time};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Host(usize),
    Store,
    Clients,
}

/// How unreliable this world is.
#[derive(Clone, Debug)]
pub(super) struct Habits {
    /// A message is lost although the link is up.
    pub loss_permille: u64,
    /// A message arrives long after its sender has stopped waiting.
    pub late_permille: u64,
    pub late_max: Time,
    pub delay: (Time, Time),
    /// Work on PostgreSQL fails although nothing is wrong with it.
    pub job_failure_permille: u64,
    /// The last record of a shutdown does not reach a standby.
    pub last_record_lost_permille: u64,
    /// Clock rates differ by at most this.
    pub clock_ppm: i64,
    /// Jobs take between the first and the second percentage of their usual time.
    pub pace_percent: (u64, u64),
}

impl Habits {
    /// For stories: everything takes its usual time.
    pub fn quiet() -> Habits {
        Habits {
            loss_permille: 0,
            late_permille: 0,
            late_max: 0,
            delay: (MS, MS),
            job_failure_permille: 0,
            last_record_lost_permille: 0,
            clock_ppm: 0,
            pace_percent: (100, 100),
        }
    }

    /// For long lives.
    pub fn rough() -> Habits {
        Habits {
            loss_permille: 3,
            late_permille: 3,
            late_max: 9_000 * MS,
            delay: (MS / 5, 12 * MS),
            job_failure_permille: 40,
            last_record_lost_permille: 150,
            clock_ppm: 10_000,
            pace_percent: (30, 300),
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Network {
    cuts: BTreeSet<(Place, Place)>,
    pub habits: Habits,
}

impl Network {
    pub fn new(habits: Habits) -> Network {
        Network { cuts: BTreeSet::new(), habits }
    }

    pub fn open(&self, from: Place, to: Place) -> bool {
        from == to || !self.cuts.contains(&(from, to))
    }

    pub fn both_ways(&self, a: Place, b: Place) -> bool {
        self.open(a, b) && self.open(b, a)
    }

    pub fn cut(&mut self, from: Place, to: Place) {
        self.cuts.insert((from, to));
    }

    pub fn heal(&mut self, from: Place, to: Place) {
        self.cuts.remove(&(from, to));
    }

    pub fn heal_everything(&mut self) {
        self.cuts.clear();
    }

    /// How long a message takes; nothing if it never arrives.
    pub fn travel(&self, random: &mut Random, from: Place, to: Place) -> Option<Time> {
        let habits = &self.habits;
        if !self.open(from, to) || random.chance(habits.loss_permille) {
            return None;
        }
        if random.chance(habits.late_permille) {
            return Some(random.between(habits.delay.1, habits.late_max));
        }
        Some(random.between(habits.delay.0, habits.delay.1))
    }
}
