//! What a drill has shown: text for people, a document for programs. Pure: `page` makes a page of the same.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::guards::Checked;
use super::ledger::{Ack, Gap, Usual};
use super::lost::{compare, loss_of};
use super::picture::Picture;
use super::run::{Course, TableFate};
use super::situation::Situation;
use super::{Fault, Wanted, guards_document, guards_told};
use crate::ctl::{caller, events, time};
use crate::model::{Loss, Moment, Span};
use crate::recorder::timeline::{Change, Story};

/// The form of the document.
const FORMAT: u32 = 1;
/// Of rows that are missing, so many are named.
const NAMED_MAX: usize = 20;

#[derive(Clone, Debug)]
pub struct Report {
    pub scope: String,
    pub fault: Fault,
    pub target: String,
    pub by: String,
    pub why: Option<String>,
    /// All of these in milliseconds since 1970.
    pub began_ms: u64,
    pub ended_ms: u64,
    pub asked_ms: Option<u64>,
    pub answer: Option<String>,
    pub route: String,
    pub replication: &'static str,
    pub synchronous_commit: String,
    pub checked: Vec<Checked>,
    /// What makes the drill a failure; nothing if all is well.
    pub problems: Vec<String>,
    /// What else is worth a word.
    pub notes: Vec<String>,
    pub gap: Option<GapTold>,
    pub usual: Usual,
    pub rows: Rows,
    /// What the promotion could have lost at most, in the members' words.
    pub loss: Option<String>,
    /// After the fault was asked for.
    pub happened: Option<Span>,
    pub whole: Option<Span>,
    pub before: Picture,
    pub after: Option<Picture>,
    pub changes: Vec<Change>,
    pub lines: Vec<Line>,
    pub table: TableFate,
    pub troubles: BTreeMap<String, u32>,
    story: Story,
    untold: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GapTold {
    pub span: Span,
    /// When the last row before it was acknowledged, and the first one after it.
    pub last_ms: Option<u64>,
    pub first_ms: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    pub sent: u64,
    pub acknowledged: usize,
    pub uncertain: usize,
    pub uncertain_there: usize,
    pub refused: u64,
    /// None: the table could not be read.
    pub missing: Option<usize>,
    pub missing_named: Vec<u64>,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub at_ms: u64,
    /// A member, or the drill itself.
    pub who: String,
    pub what: String,
    pub own: bool,
}

/// Before it begins.
pub fn what_may_be_lost(fault: Fault, situation: &Situation) -> String {
    match fault {
        Fault::Switchover => "The handover is in good order: nothing that was acknowledged is lost.".to_owned(),
        Fault::Agent => "PostgreSQL runs on without its agent: clients should notice nothing.".to_owned(),
        Fault::Postmaster | Fault::Host if situation.facts.synchronous => {
            "Synchronous mode is on: what was acknowledged is there after a failover.".to_owned()
        }
        Fault::Postmaster | Fault::Host => {
            "REPLICATION IS ASYNCHRONOUS: if another member takes over, what was acknowledged in the last moments may be \
             lost, your clients' rows as well."
                .to_owned()
        }
    }
}

/// What a course is held against.
#[derive(Clone, Copy, Debug)]
struct Judged {
    fault: Fault,
    within: Span,
}

impl Report {
    pub fn of(
        wanted: &Wanted<'_>,
        situation: &Situation,
        checked: &[Checked],
        target: &str,
        course: &Course,
    ) -> Report {
        let served = situation.route.as_ref().ok();
        let wall = |moment: Moment| wall(course, moment);
        let gap = course.ledger.gap(course.written_until);
        let after_fault = |at: Option<Moment>| Some(at?.since(course.asked?.0));
        let changes: Vec<Change> = course.story.changes.clone();
        let missing = course.verdict.as_ref().map(|verdict| verdict.missing.as_slice());
        let loss = loss_of(&course.story);
        let mut report = Report {
            scope: wanted.scope.to_owned(),
            fault: wanted.fault,
            target: target.to_owned(),
            by: caller::by(),
            why: wanted.why.map(str::to_owned),
            began_ms: course.began_ms,
            ended_ms: course.ended_ms,
            asked_ms: course.asked.map(|(_, ms)| ms),
            answer: course.answer.clone(),
            route: format!("{}, as {} in {}", wanted.way.told(), wanted.way.user, wanted.way.database),
            replication: if situation.facts.synchronous { "synchronous" } else { "asynchronous" },
            synchronous_commit: served.map(|served| served.synchronous_commit.clone()).unwrap_or_default(),
            checked: checked.to_vec(),
            problems: Vec::new(),
            notes: Vec::new(),
            gap: gap.map(|gap| GapTold {
                span: gap.span,
                last_ms: gap.last.map(|ack| wall(ack.answered)),
                first_ms: gap.first.map(|ack| wall(ack.answered)),
            }),
            usual: course.ledger.usual(),
            rows: Rows {
                sent: course.ledger.sent(),
                acknowledged: course.ledger.acknowledged(),
                uncertain: course.ledger.uncertain(),
                uncertain_there: course.verdict.as_ref().map_or(0, |verdict| verdict.uncertain_there),
                refused: course.ledger.refused(),
                missing: missing.map(<[Ack]>::len),
                missing_named: missing
                    .unwrap_or_default()
                    .iter()
                    .take(NAMED_MAX)
                    .map(|ack| ack.row)
                    .collect(),
            },
            loss: changes.last().and_then(|change| change.loss.clone()),
            happened: after_fault(course.watched.happened),
            whole: after_fault(course.watched.whole),
            before: course.before.clone(),
            after: course.watched.last.clone(),
            changes,
            lines: lines(course, gap.as_ref(), target),
            table: course.table.clone(),
            troubles: course.ledger.troubles().clone(),
            story: course.story.clone(),
            untold: course.untold.clone(),
        };
        let judged = Judged { fault: wanted.fault, within: wanted.within };
        report.judge(judged, course, gap.as_ref(), loss);
        report
    }

    fn judge(&mut self, wanted: Judged, course: &Course, gap: Option<&Gap>, loss: Option<Loss>) {
        if let Some(why) = &course.broken_off {
            self.problems.push(format!("the drill was broken off: {why}"));
        } else if course.watched.whole.is_none() || !course.watched.wanting.is_empty() {
            let wanting = course.watched.wanting.join("; ");
            self.problems.push(format!("the cluster did not come back within {}: {wanting}", wanted.within));
        }
        match &course.verdict {
            None => self
                .problems
                .push("the rows could not be read: which of them are there is not known".to_owned()),
            Some(verdict) => {
                let missing = &verdict.missing;
                if !missing.is_empty() {
                    let rows = if missing.len() == 1 { "row is" } else { "rows are" };
                    let compared = compare(missing, gap, loss);
                    self.problems.push(format!("{} acknowledged {rows} missing: {compared}", missing.len()));
                }
                if 0 < verdict.strangers {
                    self.notes.push(format!(
                        "{} rows in the table were never sent by this drill",
                        verdict.strangers
                    ));
                }
            }
        }
        if let TableFate::Left(table, why) = &course.table {
            self.problems.push(format!("the table {table} is still there ({why}): DROP TABLE {table}"));
        }
        let led_by = course.watched.last.as_ref().and_then(|after| after.leader.clone());
        if wanted.fault == Fault::Agent && led_by.is_some_and(|leader| leader != self.target) {
            let why = "the end of an agent should not change the leader: was it started again in time?";
            self.notes.push(why.to_owned());
        }
        if wanted.fault == Fault::Host && course.watched.happened.is_some() {
            self.notes.push(match (&course.boot_before, &course.boot_after) {
                (Some(before), Some(after)) if before == after => {
                    "the boot id is the same: what was reset was no machine with a kernel of its own"
                        .to_owned()
                }
                (Some(_), Some(_)) => "the machine has booted anew".to_owned(),
                (None, _) | (_, None) => "whether the machine has booted anew was not told".to_owned(),
            });
        }
        if self.synchronous_commit == "off" {
            let why = "synchronous_commit is off for this user: an acknowledged row need not be on any disk";
            self.notes.push(why.to_owned());
        }
    }

    /// One line for the top.
    pub fn verdict(&self) -> String {
        match self.problems.len() {
            0 => format!("drill {} on {}: all is well", self.fault.word(), self.scope),
            1 => format!("drill {} on {}: 1 problem", self.fault.word(), self.scope),
            count => format!("drill {} on {}: {count} problems", self.fault.word(), self.scope),
        }
    }

    /// What was measured, as pairs for both forms.
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        let why = self.why.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
        let mut facts = vec![
            ("fault", self.fault.deed(&self.target)),
            ("asked by", format!("{}{why}", self.by)),
            ("asked at", self.asked_ms.map_or("it was never asked for".to_owned(), time::told)),
            ("answer", self.answer.clone().unwrap_or_else(|| "none".to_owned())),
            ("route", self.route.clone()),
            ("replication", format!("{}, synchronous_commit {}", self.replication, self.synchronous_commit)),
            ("write gap", self.gap_told()),
            ("before it", self.usual_told()),
            ("rows", self.rows_told()),
        ];
        if let Some(loss) = &self.loss {
            facts.push(("could be lost", loss.clone()));
        }
        let after = |span: Option<Span>| {
            span.map_or("never".to_owned(), |span| {
                format!("{} after it was asked for", seconds(span.as_ms()))
            })
        };
        facts.push(("fault seen", after(self.happened)));
        facts.push(("whole again", after(self.whole)));
        facts.push((
            "table",
            match &self.table {
                TableFate::NeverMade => "was never made".to_owned(),
                TableFate::Dropped(name) => format!("{name}, dropped"),
                TableFate::Left(name, why) => format!("{name} IS STILL THERE: {why}"),
            },
        ));
        facts
    }

    fn gap_told(&self) -> String {
        let Some(gap) = self.gap else { return "not measured: the fault was never asked for".to_owned() };
        let at = |ms: Option<u64>, otherwise: &str| ms.map_or(otherwise.to_owned(), time::told);
        format!(
            "{} (last row {}, first row after it {})",
            seconds(gap.span.as_ms()),
            at(gap.last_ms, "none"),
            at(gap.first_ms, "none")
        )
    }

    fn usual_told(&self) -> String {
        let Usual { rows, median, longest } = self.usual;
        format!("{rows} rows, half of them within {median}, at most {longest} between two")
    }

    fn rows_told(&self) -> String {
        let Rows { sent, acknowledged, uncertain, uncertain_there, refused, missing, missing_named } =
            &self.rows;
        let missing = match missing {
            None => "which of them are there is not known".to_owned(),
            Some(0) => "none of the acknowledged is missing".to_owned(),
            Some(count) => {
                let named: Vec<String> = missing_named.iter().map(u64::to_string).collect();
                let more = if named.len() < *count { " …" } else { "" };
                format!("{count} OF THE ACKNOWLEDGED MISSING ({}{more})", named.join(", "))
            }
        };
        format!(
            "{sent} sent, {acknowledged} acknowledged, {uncertain} uncertain ({uncertain_there} of them there), {refused} refused; {missing}"
        )
    }

    pub fn text(&self) -> String {
        let mut text = format!("{}\n", self.verdict());
        for problem in &self.problems {
            let _ = writeln!(text, "  PROBLEM  {problem}");
        }
        for note in &self.notes {
            let _ = writeln!(text, "  note     {note}");
        }
        text.push('\n');
        for (what, fact) in self.facts() {
            let _ = writeln!(text, "  {what:13}  {fact}");
        }
        let _ = writeln!(text, "\nMembers, before and after:");
        for (name, before, after) in self.members() {
            let _ = writeln!(text, "  {name}\n    {before}\n    {after}");
        }
        for change in &self.changes {
            let _ = write!(text, "\n{}", events::summary(change));
        }
        let _ = writeln!(text, "\nWhat happened, in seconds since the fault was asked for:");
        let width = self.lines.iter().map(|line| line.who.len()).max().unwrap_or(0);
        for line in &self.lines {
            let _ = writeln!(text, "  {:>10}  {:width$}  {}", self.since(line.at_ms), line.who, line.what);
        }
        for (member, why) in &self.untold {
            let _ = writeln!(text, "  nothing from {member}: {why}");
        }
        if !self.troubles.is_empty() {
            text += "\nWhat the writer met:\n";
            for (trouble, count) in &self.troubles {
                let _ = writeln!(text, "  {count:>5} x {trouble}");
            }
        }
        let _ = write!(text, "\nGuards:\n{}", guards_told(&self.checked));
        text
    }

    /// With its sign.
    pub fn since(&self, at_ms: u64) -> String {
        let from = self.asked_ms.unwrap_or(self.began_ms);
        if at_ms < from { format!("-{}", plain(from - at_ms)) } else { format!("+{}", plain(at_ms - from)) }
    }

    /// Each member, as it was and as it is.
    pub fn members(&self) -> Vec<(String, String, String)> {
        let told = |picture: &Picture, name: &str| {
            let leads = picture.leader.as_deref() == Some(name);
            picture.members.get(name).map_or("not there".to_owned(), |seen| seen.told(leads))
        };
        let after =
            |name: &str| self.after.as_ref().map_or("not looked at".to_owned(), |after| told(after, name));
        let names =
            self.before.members.keys().chain(self.after.iter().flat_map(|after| after.members.keys()));
        let names: std::collections::BTreeSet<&String> = names.collect();
        names.into_iter().map(|name| (name.clone(), told(&self.before, name), after(name))).collect()
    }

    pub fn document(&self) -> Value {
        let table = match &self.table {
            TableFate::NeverMade => json!({"name": null, "dropped": true}),
            TableFate::Dropped(name) => json!({"name": name, "dropped": true}),
            TableFate::Left(name, why) => json!({"name": name, "dropped": false, "why": why}),
        };
        let line = |line: &Line| json!({"at": time::told(line.at_ms), "unix_ms": line.at_ms, "who": line.who, "what": line.what});
        json!({
            "format": FORMAT,
            "cluster": self.scope,
            "fault": self.fault.word(),
            "member": self.target,
            "by": self.by,
            "why": self.why,
            "good": self.problems.is_empty(),
            "problems": self.problems,
            "notes": self.notes,
            "began": time::told(self.began_ms),
            "asked": self.asked_ms.map(time::told),
            "ended": time::told(self.ended_ms),
            "answer": self.answer,
            "route": self.route,
            "replication": self.replication,
            "synchronous_commit": self.synchronous_commit,
            "gap": self.gap.map(|gap| json!({
                "ms": gap.span.as_ms(),
                "last_row": gap.last_ms.map(time::told),
                "first_row": gap.first_ms.map(time::told),
            })),
            "usual": {"rows": self.usual.rows, "median_ms": self.usual.median.as_ms(), "longest_ms": self.usual.longest.as_ms()},
            "rows": {
                "sent": self.rows.sent,
                "acknowledged": self.rows.acknowledged,
                "uncertain": self.rows.uncertain,
                "uncertain_there": self.rows.uncertain_there,
                "refused": self.rows.refused,
                "missing": self.rows.missing,
                "missing_named": self.rows.missing_named,
            },
            "loss": self.loss,
            "fault_seen_after_ms": self.happened.map(Span::as_ms),
            "whole_after_ms": self.whole.map(Span::as_ms),
            "table": table,
            "before": self.before,
            "after": self.after,
            "guards": guards_document(&self.checked),
            "timeline": self.lines.iter().map(line).collect::<Vec<_>>(),
            "troubles": self.troubles,
            "recorders": events::document(&self.story, &self.untold, &BTreeMap::new(), false),
        })
    }
}

/// Times here are of one clock, and are told by where the wall clock stood when the fault was asked for.
fn wall(course: &Course, moment: Moment) -> u64 {
    let Some((asked, asked_ms)) = course.asked else { return course.began_ms };
    (asked_ms + moment.since(asked).as_ms()).saturating_sub(asked.since(moment).as_ms())
}

fn lines(course: &Course, gap: Option<&Gap>, target: &str) -> Vec<Line> {
    let told = course.story.entries.iter().map(|told| Line {
        at_ms: told.at_ms,
        who: told.entry.member.to_string(),
        what: events::said(&told.entry),
        own: false,
    });
    let own = |moment: Moment, who: &str, what: String| Line {
        at_ms: wall(course, moment),
        who: who.to_owned(),
        what,
        own: true,
    };
    let mut lines: Vec<Line> = told.collect();
    if let Some((asked, _)) = course.asked {
        lines.push(own(asked, "drill", format!("{target} is asked for it")));
    }
    if let Some(gap) = gap {
        let rows = [
            (gap.last, "the last row before the gap is acknowledged"),
            (gap.first, "the first row after the gap is acknowledged"),
        ];
        for (ack, what) in rows.into_iter().filter_map(|(ack, what)| Some((ack?, what))) {
            lines.push(own(ack.answered, "writer", format!("{what} ({})", ack.row)));
        }
    }
    let begins = course.asked.map(|(asked, _)| asked);
    for arrival in
        course.ledger.arrivals().iter().filter(|arrival| begins.is_some_and(|begins| begins <= arrival.at))
    {
        lines.push(own(arrival.at, "writer", format!("connected to {}", arrival.server)));
    }
    let seen = [
        (course.watched.happened, "the fault is seen"),
        (course.watched.whole, "the cluster is whole again"),
    ];
    for (at, what) in seen.into_iter().filter_map(|(at, what)| Some((at?, what))) {
        lines.push(own(at, "drill", what.to_owned()));
    }
    // What came at the same moment stays in the order in which it was told.
    lines.sort_by_key(|line| line.at_ms);
    lines
}

fn seconds(ms: u64) -> String {
    format!("{} s", plain(ms))
}

fn plain(ms: u64) -> String {
    format!("{}.{:03}", ms / 1_000, ms % 1_000)
}

#[cfg(test)]
pub mod tests;
