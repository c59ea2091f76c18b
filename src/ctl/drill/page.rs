//! The report as one page of HTML that needs nothing else: no script, no picture, no font from anywhere. Everything that was not written here is
//! escaped. Pure.

use std::fmt::Write as _;

use super::guards::Found;
use super::report::{Line, Report};
use crate::ctl::time;
use crate::recorder::timeline::Change;

const STYLE: &str = "\
:root{color-scheme:light dark;--back:#fff;--ink:#1c2024;--faint:#667078;--line:#d8dde2;--good:#1a7f4b;--bad:#c0392b;--warn:#a66a00;--bar:#4a7bd0;--soft:#f3f5f7}
@media(prefers-color-scheme:dark){:root{--back:#14171a;--ink:#e4e8eb;--faint:#98a2ab;--line:#333a41;--good:#54c58a;--bad:#ff7b6b;--warn:#e0a84a;--bar:#7fa8f0;--soft:#1d2226}}
body{background:var(--back);color:var(--ink);font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:0 auto;padding:1.5rem}
h1{font-size:1.5rem;margin:0 0 .2rem}h2{font-size:1.1rem;margin:2rem 0 .5rem}
table{border-collapse:collapse;width:100%}td,th{text-align:left;vertical-align:top;padding:.25rem .8rem .25rem 0;border-bottom:1px solid var(--line)}
th{font-weight:600;white-space:nowrap}.faint{color:var(--faint)}.good{color:var(--good)}.bad{color:var(--bad);font-weight:600}.warn{color:var(--warn)}
.big{display:flex;flex-wrap:wrap;gap:1rem;margin:1rem 0}.big div{background:var(--soft);border:1px solid var(--line);border-radius:.4rem;padding:.6rem 1rem}
.big b{display:block;font-size:1.4rem;font-variant-numeric:tabular-nums}.number{font-variant-numeric:tabular-nums;white-space:nowrap;text-align:right}
.track{position:relative;min-width:12rem;width:30%;height:1.2rem}.track i{position:absolute;top:.25rem;height:.7rem;min-width:3px;background:var(--bar);border-radius:2px}
.track i.gap{background:var(--bad);opacity:.55}.own td{background:var(--soft)}.scroll{overflow-x:auto}";

pub fn page(report: &Report) -> String {
    let mut page = String::new();
    let good = report.problems.is_empty();
    let verdict = escaped(&report.verdict());
    let _ = write!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{verdict}</title>\n<style>\n{STYLE}\n</style>\n</head>\n<body>\n<h1 class=\"{}\">{verdict}</h1>\n",
        if good { "good" } else { "bad" }
    );
    let _ = writeln!(
        page,
        "<p class=\"faint\">{} to {}</p>",
        escaped(&time::told(report.began_ms)),
        escaped(&time::told(report.ended_ms))
    );
    for problem in &report.problems {
        let _ = writeln!(page, "<p class=\"bad\">{}</p>", escaped(problem));
    }
    for note in &report.notes {
        let _ = writeln!(page, "<p class=\"warn\">{}</p>", escaped(note));
    }
    figures(&mut page, report);
    facts(&mut page, report);
    members(&mut page, report);
    for change in &report.changes {
        stages(&mut page, change);
    }
    timeline(&mut page, report);
    troubles(&mut page, report);
    guards(&mut page, report);
    page += "</body>\n</html>\n";
    page
}

/// Whatever somebody else has written.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe += "&amp;",
            '<' => safe += "&lt;",
            '>' => safe += "&gt;",
            '"' => safe += "&quot;",
            '\'' => safe += "&#39;",
            other => safe.push(other),
        }
    }
    safe
}

fn figures(page: &mut String, report: &Report) {
    let span = |span: Option<crate::model::Span>| span.map_or("–".to_owned(), |span| span.to_string());
    let missing = report.rows.missing.map_or("?".to_owned(), |count| count.to_string());
    let figures = [
        (span(report.gap.map(|gap| gap.span)), "without an acknowledged row", "number"),
        (span(report.whole), "until the cluster was whole", "number"),
        (report.rows.acknowledged.to_string(), "rows acknowledged", "number"),
        (missing, "of them missing", if report.rows.missing == Some(0) { "good" } else { "bad" }),
        (report.rows.uncertain.to_string(), "rows uncertain", "number"),
    ];
    *page += "<div class=\"big\">\n";
    for (figure, what, class) in figures {
        let _ = writeln!(page, "<div><b class=\"{class}\">{}</b>{what}</div>", escaped(&figure));
    }
    *page += "</div>\n";
}

fn facts(page: &mut String, report: &Report) {
    *page += "<h2>What was done, and what came of it</h2>\n<table>\n";
    for (what, fact) in report.facts() {
        let _ = writeln!(page, "<tr><th>{what}</th><td>{}</td></tr>", escaped(&fact));
    }
    *page += "</table>\n";
}

fn members(page: &mut String, report: &Report) {
    *page += "<h2>Members</h2>\n<table>\n<tr><th></th><th>before</th><th>after</th></tr>\n";
    for (name, before, after) in report.members() {
        let [name, before, after] = [name, before, after].map(|text| escaped(&text));
        let _ = writeln!(page, "<tr><th>{name}</th><td>{before}</td><td>{after}</td></tr>");
    }
    *page += "</table>\n";
}

/// What a change of the leader was made of, each stage as long as it took.
fn stages(page: &mut String, change: &Change) {
    let former = change.from.as_ref().map(|from| format!("{from} to ")).unwrap_or_default();
    let title = format!("Timeline {}: {former}{} ({})", change.timeline, change.to, change.kind.word());
    let _ = writeln!(page, "<h2>{}</h2>\n<div class=\"scroll\"><table>", escaped(&title));
    let end = change.stages.last().map_or(change.until_ms, |stage| stage.at_ms).max(change.until_ms);
    let whole = end.saturating_sub(change.from_ms);
    let mut before = change.from_ms;
    for stage in &change.stages {
        let (from, until) =
            (before.saturating_sub(change.from_ms), stage.at_ms.saturating_sub(change.from_ms));
        before = stage.at_ms;
        let member = escaped(stage.member.as_str());
        let _ = writeln!(
            page,
            "<tr><td class=\"number\">{} s</td><td>{}</td><td class=\"track\">{}</td><td>{member}: {}</td></tr>",
            thousandths(until),
            escaped(stage.what),
            bar(from, until, whole, ""),
            escaped(&stage.why)
        );
    }
    *page += "</table></div>\n";
}

fn timeline(page: &mut String, report: &Report) {
    let (Some(first), Some(last)) = (report.lines.first(), report.lines.last()) else { return };
    let (from, whole) = (first.at_ms, last.at_ms.saturating_sub(first.at_ms));
    *page += "<h2>What happened</h2>\n<p class=\"faint\">Seconds since the fault was asked for. The red bar is the write gap.</p>\n\
              <div class=\"scroll\"><table>\n";
    let gap = report.gap.and_then(|gap| Some((gap.last_ms?, gap.first_ms.unwrap_or(last.at_ms))));
    let gap = gap.map(|(begins, ends)| {
        bar(begins.saturating_sub(from), ends.saturating_sub(from).min(whole), whole, "gap")
    });
    for Line { at_ms, who, what, own } in &report.lines {
        let at = at_ms.saturating_sub(from);
        let _ = writeln!(
            page,
            "<tr{}><td class=\"number\">{}</td><td>{}</td><td class=\"track\">{}{}</td><td>{}</td></tr>",
            if *own { " class=\"own\"" } else { "" },
            report.since(*at_ms),
            escaped(who),
            gap.as_deref().unwrap_or_default(),
            bar(at, at, whole, ""),
            escaped(what)
        );
    }
    *page += "</table></div>\n";
}

/// From where to where on a track that is as long as the whole.
fn bar(from: u64, until: u64, whole: u64, class: &str) -> String {
    let share = |ms: u64| u128::from(ms.min(whole)) * 1_000 / u128::from(whole.max(1));
    let (left, right) = (share(from), share(until.max(from)));
    let percent = |share: u128| format!("{}.{}%", share / 10, share % 10);
    format!("<i class=\"{class}\" style=\"left:{};width:{}\"></i>", percent(left), percent(right - left))
}

fn thousandths(ms: u64) -> String {
    format!("{}.{:03}", ms / 1_000, ms % 1_000)
}

fn troubles(page: &mut String, report: &Report) {
    if report.troubles.is_empty() {
        return;
    }
    *page += "<h2>What the writer met</h2>\n<table>\n";
    for (trouble, count) in &report.troubles {
        let _ = writeln!(page, "<tr><td class=\"number\">{count} ×</td><td>{}</td></tr>", escaped(trouble));
    }
    *page += "</table>\n";
}

fn guards(page: &mut String, report: &Report) {
    *page += "<h2>Guards</h2>\n<table>\n";
    for checked in &report.checked {
        let (class, word, measured) = match &checked.found {
            Found::Holds(measured) => ("good", "ok", measured),
            Found::Fails { measured, .. } if checked.overridden => ("warn", "overridden", measured),
            Found::Fails { measured, .. } => ("bad", "refuses", measured),
        };
        let (code, measured) = (checked.guard.code(), escaped(measured));
        let _ =
            writeln!(page, "<tr><th>{code}</th><td class=\"{class}\">{word}</td><td>{measured}</td></tr>");
    }
    *page += "</table>\n";
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::*;

    #[test]
    fn nothing_that_others_have_written_becomes_markup() {
        let evil = "<script>alert('x')</script>\"&";
        let mut report = report();
        report.scope = evil.to_owned();
        report.why = Some(evil.to_owned());
        report.answer = Some(evil.to_owned());
        report.problems.push(evil.to_owned());
        report.notes.push(evil.to_owned());
        report.troubles.insert(evil.to_owned(), 3);
        report.lines.push(Line { at_ms: 20_000, who: evil.to_owned(), what: evil.to_owned(), own: true });
        let page = page(&report);
        assert!(!page.contains("<script") && !page.contains("alert('"), "{page}");
        assert!(page.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&quot;&amp;"), "{page}");
    }

    #[test]
    fn a_page_needs_nothing_from_anywhere_and_follows_the_readers_colours() {
        let page = page(&report());
        for foreign in ["http:", "https:", "src=", "href=", "url(", "@import", "<script", "<link"] {
            assert!(!page.contains(foreign), "{foreign}");
        }
        assert!(page.contains("default-src 'none'") && page.contains("prefers-color-scheme:dark"));
        for part in ["the postmaster of oulu is killed", "1.5 s", "<th>leader</th>", "left:0.0%"] {
            assert!(page.contains(part), "{part}: {page}");
        }
    }

    #[test]
    fn a_bar_stays_on_its_track() {
        assert_eq!(bar(250, 500, 1_000, "gap"), "<i class=\"gap\" style=\"left:25.0%;width:25.0%\"></i>");
        assert_eq!(bar(500, 9_000, 1_000, ""), "<i class=\"\" style=\"left:50.0%;width:50.0%\"></i>");
        assert_eq!(bar(0, 0, 0, ""), "<i class=\"\" style=\"left:0.0%;width:0.0%\"></i>");
        assert_eq!(bar(700, 300, 1_000, ""), "<i class=\"\" style=\"left:70.0%;width:0.0%\"></i>");
    }
}
