//! What a report says of courses that went well, and of those that did not.

use super::super::guards::{Found, Guard};
use super::super::ledger::{Ledger, Verdict};
use super::super::picture::Seen;
use super::*;

fn at(ms: u64) -> Moment {
    Moment::from_ms(ms)
}

fn picture(leader: &str) -> Picture {
    let seen = |name: &str| Seen {
        role: if name == leader { "primary" } else { "replica" }.to_owned(),
        state: "running".to_owned(),
        timeline: Some(2),
        streams: name != leader,
        ..Seen::default()
    };
    let members = ["oulu", "turku"].map(|name| (name.to_owned(), seen(name))).into();
    Picture { leader: Some(leader.to_owned()), members }
}

/// Rows before and after 1.5 s without any.
fn course() -> Course {
    let mut ledger = Ledger::default();
    for ms in [1_000, 1_020, 2_520, 2_540] {
        let row = ledger.next_row().expect("there is room");
        ledger.acknowledge(Ack { row, sent: at(ms - 2), answered: at(ms) });
    }
    ledger.mark(at(1_030));
    let mut course = Course {
        began_ms: 10_000,
        ended_ms: 30_000,
        before: picture("oulu"),
        asked: Some((at(1_030), 11_030)),
        answer: Some("drill begins".to_owned()),
        ledger,
        written_until: at(2_550),
        verdict: Some(Verdict::default()),
        table: TableFate::Dropped("\"public\".\"tenure_drill_1_2\"".to_owned()),
        ..Course::default()
    };
    course.watched.happened = Some(at(1_500));
    course.watched.whole = Some(at(2_600));
    course.watched.last = Some(picture("turku"));
    course
}

fn told(course: &Course) -> Report {
    let gap = course.ledger.gap(course.written_until);
    let mut report = Report {
        scope: "lab".to_owned(),
        fault: Fault::Postmaster,
        target: "oulu".to_owned(),
        by: "anna@ops1".to_owned(),
        why: Some("quarterly".to_owned()),
        began_ms: course.began_ms,
        ended_ms: course.ended_ms,
        asked_ms: course.asked.map(|(_, ms)| ms),
        answer: course.answer.clone(),
        route: "10.0.0.1:5000, as app in shop".to_owned(),
        replication: "asynchronous",
        synchronous_commit: "on".to_owned(),
        checked: vec![Checked {
            guard: Guard::Leader,
            found: Found::Holds("oulu leads".to_owned()),
            overridden: false,
        }],
        problems: Vec::new(),
        notes: Vec::new(),
        gap: gap.map(|gap| GapTold {
            span: gap.span,
            last_ms: gap.last.map(|ack| wall(course, ack.answered)),
            first_ms: gap.first.map(|ack| wall(course, ack.answered)),
        }),
        usual: course.ledger.usual(),
        rows: Rows { sent: 4, acknowledged: 4, missing: Some(0), ..Rows::default() },
        loss: None,
        happened: Some(Span::from_ms(470)),
        whole: Some(Span::from_ms(1_570)),
        before: course.before.clone(),
        after: course.watched.last.clone(),
        changes: Vec::new(),
        lines: lines(course, gap.as_ref(), "oulu"),
        table: course.table.clone(),
        troubles: BTreeMap::new(),
        story: Story::default(),
        untold: BTreeMap::new(),
    };
    report.judge(within(), course, gap.as_ref(), None);
    report
}

fn within() -> Judged {
    Judged { fault: Fault::Postmaster, within: Span::from_secs(300) }
}

pub fn report() -> Report {
    told(&course())
}

#[test]
fn a_drill_that_went_well_says_what_it_cost() {
    let report = report();
    assert_eq!(
        (report.problems.len(), report.verdict()),
        (0, "drill postmaster on lab: all is well".to_owned())
    );
    let gap = report.gap.expect("measured");
    assert_eq!((gap.span, gap.last_ms, gap.first_ms), (Span::from_ms(1_500), Some(11_020), Some(12_520)));
    let text = report.text();
    for part in [
        "  fault          the postmaster of oulu is killed\n",
        "  asked by       anna@ops1 (quarterly)\n",
        "  write gap      1.500 s (last row ",
        "  whole again    1.570 s after it was asked for\n",
        "none of the acknowledged is missing\n",
        "      -0.010  writer  the last row before the gap is acknowledged (2)\n",
        "      +0.000  drill   oulu is asked for it\n",
        "      +1.490  writer  the first row after the gap is acknowledged (3)\n",
        "  ok          leader      oulu leads\n",
        "    primary, running, timeline 2, leads\n    replica, running, streaming, timeline 2\n",
    ] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
    let document = report.document();
    assert_eq!((&document["good"], &document["gap"]["ms"]), (&true.into(), &1_500.into()), "{document:#}");
}

#[test]
fn whatever_did_not_go_well_is_a_problem() {
    let check = |spoil: fn(&mut Course), wanted: &str| {
        let mut course = course();
        spoil(&mut course);
        let report = told(&course);
        let said = report.problems.join("\n");
        assert!(report.problems.len() == 1 && said.contains(wanted), "{said}");
        assert!(report.text().contains(&format!("  PROBLEM  {said}\n")));
    };
    check(
        |course| course.broken_off = Some("it was interrupted".to_owned()),
        "broken off: it was interrupted",
    );
    check(|course| course.watched.whole = None, "did not come back within 300 s");
    check(|course| course.watched.wanting.push("turku is not there".to_owned()), "turku is not there");
    check(|course| course.verdict = None, "the rows could not be read");
    let left =
        |course: &mut Course| course.table = TableFate::Left("\"t\"".to_owned(), "no answer".to_owned());
    check(left, "the table \"t\" is still there (no answer): DROP TABLE \"t\"");
    let lost = |course: &mut Course| {
        course.verdict.as_mut().expect("read").missing =
            vec![Ack { row: 2, sent: at(1_018), answered: at(1_020) }];
    };
    check(lost, "1 acknowledged row is missing: no change of the leader explains it");
}
