//! What the writer of a drill was told, row by row, and what follows: the gap, and which rows have to be there. Pure: time is an argument.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Moment, Span};

/// A writer that has written so much stops: nobody needs more, and memory has a bound.
pub const ROWS_MAX: u64 = 1_000_000;
/// Connections that are told of one by one.
const ARRIVALS_MAX: usize = 50;
/// Different complaints that are kept.
const TROUBLES_MAX: usize = 12;

/// A row that PostgreSQL said is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    pub row: u64,
    pub sent: Moment,
    pub answered: Moment,
}

/// A connection that was made, and to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    pub at: Moment,
    pub server: String,
}

/// The longest time without an acknowledged row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    pub last: Option<Ack>,
    /// None: no row has been acknowledged since.
    pub first: Option<Ack>,
    pub span: Span,
}

/// How rows came before the fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usual {
    pub rows: usize,
    /// From sending to hearing, half of the rows took no longer.
    pub median: Span,
    /// Between two acknowledged rows.
    pub longest: Span,
}

#[derive(Clone, Debug, Default)]
pub struct Ledger {
    sent: u64,
    acknowledged: Vec<Ack>,
    /// Sent, and nobody has said what became of them.
    uncertain: Vec<u64>,
    /// PostgreSQL has said that it does not take them: it was none that takes writes.
    refused: u64,
    marked: Option<Moment>,
    arrivals: Vec<Arrival>,
    troubles: BTreeMap<String, u32>,
}

/// What is in the table, held against what was said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Acknowledged, and not there.
    pub missing: Vec<Ack>,
    /// Nobody has said so, and yet they are there.
    pub uncertain_there: usize,
    /// In the table, and never sent by this writer.
    pub strangers: usize,
}

impl Ledger {
    /// The number of the next row; none once there are enough.
    pub fn next_row(&mut self) -> Option<u64> {
        if ROWS_MAX <= self.sent {
            return None;
        }
        self.sent += 1;
        Some(self.sent)
    }

    pub fn acknowledge(&mut self, ack: Ack) {
        self.acknowledged.push(ack);
    }

    pub fn doubt(&mut self, row: u64, why: &str) {
        self.uncertain.push(row);
        self.complain(why);
    }

    pub fn refuse(&mut self, why: &str) {
        self.refused += 1;
        self.complain(why);
    }

    /// Why there is no connection, or none any more.
    pub fn complain(&mut self, why: &str) {
        let why = why.replace('\n', " ");
        if self.troubles.contains_key(&why) || self.troubles.len() < TROUBLES_MAX {
            *self.troubles.entry(why).or_insert(0) += 1;
        }
    }

    pub fn arrive(&mut self, arrival: Arrival) {
        if self.arrivals.len() < ARRIVALS_MAX {
            self.arrivals.push(arrival);
        }
    }

    /// The fault is asked for now.
    pub fn mark(&mut self, at: Moment) {
        self.marked = Some(at);
    }

    pub fn sent(&self) -> u64 {
        self.sent
    }

    pub fn acknowledged(&self) -> usize {
        self.acknowledged.len()
    }

    pub fn uncertain(&self) -> usize {
        self.uncertain.len()
    }

    pub fn refused(&self) -> u64 {
        self.refused
    }

    pub fn arrivals(&self) -> &[Arrival] {
        &self.arrivals
    }

    pub fn troubles(&self) -> &BTreeMap<String, u32> {
        &self.troubles
    }

    /// Has a row been sent and acknowledged since?
    pub fn flows_since(&self, at: Moment) -> bool {
        self.acknowledged.last().is_some_and(|ack| at <= ack.sent)
    }

    /// The longest time without a row, of those that the fault can have to do with: they end after it. One that has not ended lasts
    /// until `now`.
    pub fn gap(&self, now: Moment) -> Option<Gap> {
        let marked = self.marked?;
        let begins = self.acknowledged.iter().position(|ack| marked <= ack.answered);
        let Some(begins) = begins else {
            let last = self.acknowledged.last().copied();
            return Some(Gap {
                last,
                first: None,
                span: now.since(last.map_or(marked, |last| last.answered)),
            });
        };
        // A pair whose later row came after the fault.
        let pairs = self.acknowledged[begins.saturating_sub(1)..].windows(2);
        let ended = pairs.map(|pair| Gap {
            last: Some(pair[0]),
            first: Some(pair[1]),
            span: pair[1].answered.since(pair[0].answered),
        });
        let last = self.acknowledged.last().copied();
        let open = last.map(|last| Gap { last: Some(last), first: None, span: now.since(last.answered) });
        // The earlier one of two that are equal.
        ended.chain(open).reduce(|longest, gap| if longest.span < gap.span { gap } else { longest })
    }

    pub fn usual(&self) -> Usual {
        let before = |ack: &&Ack| self.marked.is_none_or(|marked| ack.answered < marked);
        let acks: Vec<&Ack> = self.acknowledged.iter().take_while(before).collect();
        let mut took: Vec<Span> = acks.iter().map(|ack| ack.answered.since(ack.sent)).collect();
        took.sort();
        let longest = acks.windows(2).map(|pair| pair[1].answered.since(pair[0].answered)).max();
        Usual {
            rows: acks.len(),
            median: took.get(took.len() / 2).copied().unwrap_or_default(),
            longest: longest.unwrap_or_default(),
        }
    }

    pub fn verdict(&self, stored: &BTreeSet<u64>) -> Verdict {
        let there = |row: &u64| stored.contains(row);
        Verdict {
            missing: self.acknowledged.iter().filter(|ack| !there(&ack.row)).copied().collect(),
            uncertain_there: self.uncertain.iter().filter(|row| there(row)).count(),
            strangers: stored.iter().filter(|row| !(1..=self.sent).contains(*row)).count(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::from_ms(ms)
    }

    /// Rows that were acknowledged at these times, each a millisecond after it was sent.
    fn ledger(acks: &[u64], marked: Option<u64>) -> Ledger {
        let mut ledger = Ledger::default();
        for ms in acks {
            let row = ledger.next_row().expect("there is room");
            ledger.acknowledge(Ack { row, sent: at(ms - 1), answered: at(*ms) });
        }
        if let Some(marked) = marked {
            ledger.mark(at(marked));
        }
        ledger
    }

    #[track_caller]
    fn check(acks: &[u64], marked: u64, now: u64, wanted: (Option<u64>, Option<u64>, u64)) {
        let gap = ledger(acks, Some(marked)).gap(at(now)).expect("a fault was asked for");
        let ms = |ack: Option<Ack>| ack.map(|ack| ack.answered.as_ms());
        assert_eq!((ms(gap.last), ms(gap.first), gap.span.as_ms()), wanted, "{acks:?}");
    }

    #[test]
    fn the_gap_is_from_the_last_row_before_to_the_first_row_after() {
        check(&[1_000, 1_020, 1_040, 3_000, 3_020], 1_050, 3_030, (Some(1_040), Some(3_000), 1_960));
        // A fault that takes a while to be felt.
        check(&[1_000, 1_020, 1_100, 1_120, 4_000, 4_020], 1_050, 4_030, (Some(1_120), Some(4_000), 2_880));
        // What was slow before the fault is not its doing.
        check(&[1_000, 9_000, 9_020, 9_040], 9_010, 9_050, (Some(9_000), Some(9_020), 20));
        // It lasts as long as nothing comes.
        check(&[1_000, 1_020], 1_030, 7_020, (Some(1_020), None, 6_000));
        check(&[1_000, 1_020, 1_040], 1_030, 7_040, (Some(1_040), None, 6_000));
        check(&[], 1_030, 2_030, (None, None, 1_000));
        assert_eq!(ledger(&[1_000, 2_000], None).gap(at(3_000)), None);
    }

    #[test]
    fn what_was_usual_is_what_came_before_the_fault() {
        let usual = ledger(&[1_000, 1_020, 1_060, 5_000], Some(1_070)).usual();
        let wanted = Usual { rows: 3, median: Span::from_ms(1), longest: Span::from_ms(40) };
        assert_eq!(usual, wanted);
        assert_eq!(Ledger::default().usual(), Usual::default());
    }

    #[test]
    fn only_what_was_acknowledged_has_to_be_there() {
        let mut ledger = ledger(&[1_000, 1_020, 1_040], Some(1_030));
        for _ in 0..2 {
            let row = ledger.next_row().expect("there is room");
            ledger.doubt(row, "no answer");
        }
        ledger.refuse("read-only");
        assert_eq!(ledger.verdict(&[1, 2, 3].into()), Verdict::default());
        let verdict = ledger.verdict(&[1, 3, 5, 9].into());
        let missing: Vec<u64> = verdict.missing.iter().map(|ack| ack.row).collect();
        assert_eq!((missing, verdict.uncertain_there, verdict.strangers), (vec![2], 1, 1));
        assert_eq!(
            (ledger.sent(), ledger.acknowledged(), ledger.uncertain(), ledger.refused()),
            (5, 3, 2, 1)
        );
        assert_eq!(ledger.troubles().get("no answer"), Some(&2));
        assert!(ledger.flows_since(at(1_039)) && !ledger.flows_since(at(1_040)));
    }

    #[test]
    fn memory_has_a_bound() {
        let mut ledger = Ledger { sent: ROWS_MAX - 1, ..Ledger::default() };
        assert_eq!((ledger.next_row(), ledger.next_row()), (Some(ROWS_MAX), None));
        for number in 0..100 {
            ledger.complain(&format!("trouble {number}"));
            ledger.arrive(Arrival { at: at(number), server: String::new() });
        }
        assert_eq!((ledger.troubles().len(), ledger.arrivals().len()), (TROUBLES_MAX, ARRIVALS_MAX));
    }

    proptest! {
        #[test]
        fn no_gap_after_the_fault_is_longer_than_the_one_that_is_told(
            pauses in proptest::collection::vec(1u64..5_000, 1..40), marked in 0u64..100_000, later in 0u64..5_000,
        ) {
            let mut now = 10;
            let acks: Vec<u64> = pauses.iter().map(|pause| { now += pause; now }).collect();
            let end = now + later;
            let gap = ledger(&acks, Some(marked)).gap(at(end)).expect("a fault was asked for");
            for pair in acks.windows(2).filter(|pair| marked <= pair[1]) {
                prop_assert!(pair[1] - pair[0] <= gap.span.as_ms());
            }
            prop_assert!(end - now <= gap.span.as_ms() || marked > now);
        }
    }
}
