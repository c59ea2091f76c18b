//! The difference of two texts as Python's `difflib.unified_diff` tells it: the longest common run first, then what is
//! left and right of it.

use std::collections::BTreeMap;

/// Lines of agreement that are shown around a change.
const AROUND: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    before: usize,
    after: usize,
    length: usize,
}

/// Lines without their line feeds; none if the texts are equal.
pub fn unified(before: &str, after: &str) -> Vec<String> {
    let (before, after) = (lines(before), lines(after));
    let mut out = Vec::new();
    for group in groups(&common_runs(&before, &after), before.len(), after.len()) {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
        if out.is_empty() {
            out.extend(["--- ".to_owned(), "+++ ".to_owned()]);
        }
        let old = range(first.before.0, last.before.1);
        let new = range(first.after.0, last.after.1);
        out.push(format!("@@ -{old} +{new} @@"));
        for piece in group {
            if piece.same {
                out.extend(before[piece.before.0..piece.before.1].iter().map(|line| format!(" {line}")));
            } else {
                out.extend(before[piece.before.0..piece.before.1].iter().map(|line| format!("-{line}")));
                out.extend(after[piece.after.0..piece.after.1].iter().map(|line| format!("+{line}")));
            }
        }
    }
    out
}

fn lines(text: &str) -> Vec<&str> {
    text.trim_end_matches('\n').split('\n').collect()
}

fn range(from: usize, to: usize) -> String {
    match to - from {
        1 => format!("{}", from + 1),
        0 => format!("{from},0"),
        length => format!("{},{length}", from + 1),
    }
}

/// A stretch of both texts that agrees, or that does not.
#[derive(Clone, Copy, Debug)]
struct Piece {
    same: bool,
    before: (usize, usize),
    after: (usize, usize),
}

/// Changes that are near each other, with some agreement around them.
fn groups(runs: &[Run], before: usize, after: usize) -> Vec<Vec<Piece>> {
    let mut groups = Vec::new();
    let mut group: Vec<Piece> = Vec::new();
    let mut at = (0, 0);
    let end = Run { before, after, length: 0 };
    for run in runs.iter().chain([&end]) {
        if at != (run.before, run.after) {
            group.push(Piece { same: false, before: (at.0, run.before), after: (at.1, run.after) });
        }
        at = (run.before + run.length, run.after + run.length);
        let same = |from: usize, to: usize| Piece {
            same: true,
            before: (run.before + from, run.before + to),
            after: (run.after + from, run.after + to),
        };
        let last = run.before + run.length == before && run.after + run.length == after;
        match (group.is_empty(), last) {
            (true, _) => group.push(same(run.length.saturating_sub(AROUND), run.length)),
            (false, true) => group.push(same(0, run.length.min(AROUND))),
            (false, false) if 2 * AROUND < run.length => {
                group.push(same(0, AROUND));
                groups.push(std::mem::take(&mut group));
                group.push(same(run.length - AROUND, run.length));
            }
            (false, false) => group.push(same(0, run.length)),
        }
    }
    groups.push(group);
    groups.retain(|group| group.iter().any(|piece| !piece.same));
    groups
}

/// In order, neighbours joined.
fn common_runs(before: &[&str], after: &[&str]) -> Vec<Run> {
    let mut places: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, line) in after.iter().enumerate() {
        places.entry(line).or_default().push(index);
    }
    let mut runs = Vec::new();
    let mut waiting = vec![(0, before.len(), 0, after.len())];
    while let Some((from, to, other_from, other_to)) = waiting.pop() {
        let run = longest(before, &places, (from, to), (other_from, other_to));
        if run.length > 0 {
            runs.push(run);
            waiting.push((from, run.before, other_from, run.after));
            waiting.push((run.before + run.length, to, run.after + run.length, other_to));
        }
    }
    runs.sort_by_key(|run| run.before);
    let mut joined: Vec<Run> = Vec::new();
    for run in runs {
        match joined.last_mut() {
            Some(last)
                if last.before + last.length == run.before && last.after + last.length == run.after =>
            {
                last.length += run.length;
            }
            Some(_) | None => joined.push(run),
        }
    }
    joined
}

/// Of equally long ones, the first in `before`, and of those the first in `after`.
fn longest(
    before: &[&str],
    places: &BTreeMap<&str, Vec<usize>>,
    (from, to): (usize, usize),
    (other_from, other_to): (usize, usize),
) -> Run {
    let mut best = Run { before: from, after: other_from, length: 0 };
    // How long the run is that ends at this line of `after` and the last line of `before`.
    let mut ending: BTreeMap<usize, usize> = BTreeMap::new();
    for (index, line) in before.iter().enumerate().take(to).skip(from) {
        let mut next = BTreeMap::new();
        for &other in places.get(line).map(Vec::as_slice).unwrap_or_default() {
            if other < other_from || other_to <= other {
                continue;
            }
            let length =
                1 + other.checked_sub(1).and_then(|previous| ending.get(&previous)).copied().unwrap_or(0);
            next.insert(other, length);
            if best.length < length {
                best = Run { before: index + 1 - length, after: other + 1 - length, length };
            }
        }
        ending = next;
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(before: &str, after: &str, wanted: &[&str]) {
        assert_eq!(unified(before, after), wanted, "{before:?} {after:?}");
    }

    #[test]
    fn a_change_is_shown_with_three_lines_around_it() {
        let before = "a\nb\nc\nd\ne\nf\ng\nh\n";
        check(before, before, &[]);
        let after = "a\nb\nc\nd\nE\nf\ng\nh\n";
        check(
            before,
            after,
            &["--- ", "+++ ", "@@ -2,7 +2,7 @@", " b", " c", " d", "-e", "+E", " f", " g", " h"],
        );
        check("ttl: 30\n", "ttl: 20\n", &["--- ", "+++ ", "@@ -1 +1 @@", "-ttl: 30", "+ttl: 20"]);
    }

    #[test]
    fn changes_far_from_each_other_stand_apart() {
        let before: String = (0..20).map(|number| number.to_string() + "\n").collect();
        let after = before.replace("2\n", "two\n").replace("1two\n", "12\n");
        let after = after.replace("17\n", "");
        let diff = unified(&before, &after);
        let heads: Vec<&String> = diff.iter().filter(|line| line.starts_with("@@")).collect();
        assert_eq!(heads, ["@@ -1,6 +1,6 @@", "@@ -15,6 +15,5 @@"]);
    }

    #[test]
    fn lines_that_come_and_go_are_counted() {
        check("a\nb\n", "a\nx\nb\n", &["--- ", "+++ ", "@@ -1,2 +1,3 @@", " a", "+x", " b"]);
        check("a\nb\n", "b\n", &["--- ", "+++ ", "@@ -1,2 +1 @@", "-a", " b"]);
    }
}
