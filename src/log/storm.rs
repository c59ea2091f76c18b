//! Keeps one place in the code from filling the log: what says the same again and again is written a few times, then
//! counted, and the count is told. DEBUG lines go through: whoever asks for them wants all of them.

use std::collections::BTreeMap;

use tracing::Level;

use super::line::{Line, now as wall_now};
use crate::model::{Moment, Span};

/// So many lines from one place (and of one rule) are written within a window; the window begins with the first.
const LINES_MAX: u32 = 10;
const WINDOW: Span = Span::from_secs(30);

#[derive(Debug, Default)]
pub struct Storm {
    // Only windows that are open: one for each place that has said something lately.
    windows: BTreeMap<Place, Window>,
}

/// Module, line of the code, rule.
type Place = (&'static str, u32, String);

#[derive(Debug)]
struct Window {
    ends_at: Moment,
    written: u32,
    /// How many were not, and the last of them.
    kept_back: Option<(u64, Line)>,
}

impl Storm {
    /// May it be written? If not, it is counted.
    pub fn admits(&mut self, line: &Line, now: Moment) -> bool {
        if Level::INFO < *line.place.level() {
            return true;
        }
        let rule = line.field("rule").unwrap_or_default().to_owned();
        let place = (line.place.target(), line.place.line().unwrap_or(0), rule);
        let fresh = || Window { ends_at: now + WINDOW, written: 0, kept_back: None };
        let window = self.windows.entry(place).or_insert_with(fresh);
        if window.written < LINES_MAX {
            window.written += 1;
            return true;
        }
        let count = window.kept_back.as_ref().map_or(0, |(count, _)| *count);
        window.kept_back = Some((count + 1, line.clone()));
        false
    }

    /// Closes the windows that have ended; what each kept back is told in one line.
    pub fn ended(&mut self, now: Moment) -> Vec<Line> {
        let ended = self.windows.extract_if(.., |_, window| window.ends_at <= now);
        ended.filter_map(|(_, window)| window.kept_back).map(|(count, last)| summary(count, last)).collect()
    }

    /// The same for all of them, at the end of the log.
    pub fn end(&mut self) -> Vec<Line> {
        let windows = std::mem::take(&mut self.windows).into_values();
        windows.filter_map(|window| window.kept_back).map(|(count, last)| summary(count, last)).collect()
    }

    pub fn is_quiet(&self) -> bool {
        self.windows.is_empty()
    }
}

fn summary(count: u64, last: Line) -> Line {
    let sentence = format!("{count} more like this were not written; the last one: {}", last.sentence);
    let mut fields = last.fields;
    fields.push(("unwritten", count.to_string()));
    Line { at: wall_now(), place: last.place, sentence, fields }
}

#[cfg(test)]
mod tests {
    use tracing::{debug, info};

    use super::super::captured;
    use super::*;

    fn said_by_one_place(times: u32) -> Vec<Line> {
        captured(|| {
            for number in 0..times {
                info!(rule = "race_asks", number, "asking");
            }
        })
    }

    #[test]
    fn a_place_that_says_the_same_again_and_again_is_cut_short_and_counted() {
        let mut storm = Storm::default();
        let start = Moment::from_ms(5_000);
        let admitted = said_by_one_place(1000).iter().filter(|line| storm.admits(line, start)).count();
        assert_eq!(admitted, 10);
        assert!(storm.ended(start + Span::from_ms(29_999)).is_empty());
        let told = storm.ended(start + WINDOW);
        assert_eq!(told.len(), 1);
        assert_eq!(
            told[0].message(),
            "990 more like this were not written; the last one: asking rule=race_asks number=999 unwritten=990"
        );
        assert!(storm.is_quiet(), "and nothing is kept of it");
        assert!(storm.admits(&said_by_one_place(1)[0], start + WINDOW));
    }

    #[test]
    fn one_rule_does_not_use_up_what_another_may_say_from_the_same_place() {
        let mut storm = Storm::default();
        let start = Moment::from_ms(0);
        let rules = captured(|| {
            for rule in std::iter::repeat_n("race_asks", 50).chain(["candidate_takes"]) {
                info!(rule, "because");
            }
        });
        let admitted: Vec<&Line> = rules.iter().filter(|line| storm.admits(line, start)).collect();
        assert_eq!(admitted.last().and_then(|line| line.field("rule")), Some("candidate_takes"));
    }

    #[test]
    fn what_an_operator_has_asked_to_see_is_shown_whole() {
        let mut storm = Storm::default();
        let lines = captured(|| (0..100).for_each(|number| debug!(number, "a footstep")));
        assert!(lines.iter().all(|line| storm.admits(line, Moment::from_ms(0))));
        assert!(storm.is_quiet());
    }

    #[test]
    fn the_end_tells_what_was_kept_back() {
        let mut storm = Storm::default();
        for line in said_by_one_place(12) {
            storm.admits(&line, Moment::from_ms(0));
        }
        assert_eq!(storm.end().len(), 1);
    }
}
