//! What is printed and written: the settings of both, a line for each run, the table, JSON and a chart.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::json;

use crate::clients::{PROBE_PAUSE, RECONNECT_PAUSE, ROW_PATIENCE, ROW_PAUSE};
use crate::footprint::Footprint;
use crate::measure::{CLIENTS, Outcome, WATCHED};
use crate::stage::{CONNECT_TIMEOUT, Plan, Routing, System, TCP_USER_TIMEOUT};

/// Everything that a reader needs to judge the comparison.
pub fn settings(plan: &Plan) -> String {
    let timing = plan.patroni_timing;
    let processors = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let routing = match plan.patroni_routing {
        Routing::Manual => "as its manual has it: inter 3s fall 3 rise 2 on-marked-down shutdown-sessions",
        Routing::Ours => "as for Tenure",
    };
    let replication = if plan.synchronous { "synchronous_mode: true" } else { "asynchronous" };
    let postgres = plan.setup().bin_dir;
    format!(
        "Machine: {processors} processors, load {}, {}
Cluster: 3 nodes and 3 etcd, each in a network namespace of its own, on this one machine; PostgreSQL of {}, {replication},
  fsync on, shared_buffers 16MB, wal_keep_size 256MB, use_pg_rewind, no watchdog device; agents are started again 0.5 s after their death
Tenure {}: ttl {} and defaults, HAProxy as shipped (inter 1s fastinter 250ms fall 2 rise 1 on-marked-down shutdown-sessions) with tenurectl route
Patroni: ttl {}, loop_wait {}, retry_timeout {} and defaults, HAProxy {routing}
Clients: {CLIENTS} through HAProxy, {CLIENTS} with several hosts and target_session_attrs=read-write, one row a transaction, {ROW_PAUSE} between
  rows; a row is given up after {ROW_PATIENCE}, a new connection tried {RECONNECT_PAUSE} later, connect_timeout {CONNECT_TIMEOUT}, tcp_user_timeout {TCP_USER_TIMEOUT}
On each node: one that asks every {PROBE_PAUSE} by a row of its own whether writes are taken there
Gap: the longest time without an acknowledged row that is still there in the end. Faults that are undone by time last {} s; watched for {WATCHED} at least
",
        first_word("/proc/loadavg"),
        kernel(),
        postgres.display(),
        env!("CARGO_PKG_VERSION"),
        plan.tenure_ttl,
        timing.ttl,
        timing.loop_wait,
        timing.retry_timeout,
        plan.hold_s,
    )
}

fn first_word(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().next().unwrap_or("unknown").to_owned()
}

fn kernel() -> String {
    format!("Linux {}", first_word("/proc/sys/kernel/osrelease"))
}

pub fn line(outcome: &Outcome) -> String {
    format!(
        "{:<18} {:<8} gap {:>6.2} s through HAProxy, {:>6.2} s direct; lost {} + {} (+ {} on nodes); two primaries {:.2} s; whole after {:.1} s",
        outcome.fault,
        outcome.system,
        outcome.gap_proxy_s,
        outcome.gap_direct_s,
        outcome.lost_proxy,
        outcome.lost_direct,
        outcome.lost_local,
        outcome.two_primaries_s,
        outcome.whole_s,
    )
}

/// The measured runs of one fault under one system.
fn of<'a>(outcomes: &'a [Outcome], system: &str, fault: &str) -> Vec<&'a Outcome> {
    let wanted = |outcome: &&Outcome| outcome.system == system && outcome.fault == fault && !outcome.failed;
    outcomes.iter().filter(wanted).collect()
}

fn faults(outcomes: &[Outcome]) -> Vec<&'static str> {
    let mut seen = BTreeSet::new();
    outcomes.iter().map(|outcome| outcome.fault).filter(|fault| seen.insert(*fault)).collect()
}

/// Median and worst.
fn median(figures: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    let (middle, last) = (figures.len() / 2, *figures.last()?);
    let median = if figures.len() % 2 == 1 {
        figures[middle]
    } else {
        f64::midpoint(figures[middle - 1], figures[middle])
    };
    Some((median, last))
}

/// Medians with the worst in brackets, in Markdown.
pub fn table(outcomes: &[Outcome]) -> String {
    let mut text = "| fault | system | n | through HAProxy, s | several hosts, s | lost rows, HAProxy / direct / on the node | two primaries, s | whole after, s |
| --- | --- | --: | --: | --: | --: | --: | --: |
"
    .to_owned();
    let (tenure, patroni) = (System::Tenure.name(), System::Patroni.name());
    for fault in faults(outcomes) {
        for system in [tenure, patroni] {
            let runs = of(outcomes, system, fault);
            let failed =
                outcomes.iter().filter(|o| o.failed && o.system == system && o.fault == fault).count();
            if runs.is_empty() && failed == 0 {
                continue;
            }
            let figure = |of: fn(&Outcome) -> f64| match median(runs.iter().map(|outcome| of(outcome))) {
                Some((median, worst)) => format!("{median:.2} ({worst:.2})"),
                None => "failed".to_owned(),
            };
            let sum = |of: fn(&Outcome) -> usize| runs.iter().map(|outcome| of(outcome)).sum::<usize>();
            let n =
                if failed == 0 { runs.len().to_string() } else { format!("{}, {failed} failed", runs.len()) };
            let _ = writeln!(
                text,
                "| {fault} | {system} | {n} | {} | {} | {} / {} / {} | {} | {} |",
                figure(|o| o.gap_proxy_s),
                figure(|o| o.gap_direct_s),
                sum(|o| o.lost_proxy),
                sum(|o| o.lost_direct),
                sum(|o| o.lost_local),
                figure(|o| o.two_primaries_s),
                figure(|o| o.whole_s),
            );
        }
        let median_of = |system, of_run: fn(&Outcome) -> f64| {
            median(of(outcomes, system, fault).into_iter().map(of_run)).map(|(median, _)| median)
        };
        let ratio =
            |of_run: fn(&Outcome) -> f64| match (median_of(tenure, of_run), median_of(patroni, of_run)) {
                (Some(ours), Some(theirs)) if 0.0 < ours => format!("{:.1}", theirs / ours),
                _ => String::new(),
            };
        let (proxy, direct) = (ratio(|o| o.gap_proxy_s), ratio(|o| o.gap_direct_s));
        if !proxy.is_empty() {
            let _ = writeln!(text, "| | Patroni / Tenure | | {proxy} | {direct} | | | |");
        }
    }
    text
}

/// What each failover of ours was made of, in the last run of its fault.
fn stages(outcomes: &[Outcome]) -> String {
    let mut text = String::new();
    for fault in faults(outcomes) {
        let runs = of(outcomes, System::Tenure.name(), fault);
        let Some(last) = runs.last().filter(|outcome| !outcome.stages.is_empty()) else { continue };
        let _ = writeln!(
            text,
            "{fault}, the last run: rows again through HAProxy {:.2} s after the last one before

| s after the fault | member | rule |
| --: | --- | --- |",
            last.gap_proxy_s
        );
        for line in &last.stages {
            let _ = writeln!(text, "| {:.3} | {} | {} |", line.after_s, line.member, line.rule);
        }
        text.push('\n');
    }
    text
}

pub fn write(out: &Path, settings: &str, outcomes: &[Outcome]) -> std::io::Result<String> {
    fs::create_dir_all(out)?;
    let document = json!({
        "settings": settings.lines().collect::<Vec<_>>(),
        "runs": outcomes,
    });
    fs::write(out.join("failover.json"), format!("{document:#}\n"))?;
    fs::write(out.join("failover.svg"), chart(outcomes))?;
    fs::write(
        out.join("failover.md"),
        format!("```\n{settings}```\n\n{}\n{}", table(outcomes), stages(outcomes)),
    )?;
    Ok(out.display().to_string())
}

pub fn footprint(
    out: &Path,
    settings: &str,
    outcomes: &[(System, Option<Footprint>)],
) -> std::io::Result<String> {
    let mut text = "| | resident, MiB: leader / replica | of it the guardian | processor, % of one core: leader / replica | GET /primary a second | p50, ms | p99, ms | start to first answer, ms |
| --- | --: | --: | --: | --: | --: | --: | --: |
"
    .to_owned();
    for (system, measured) in outcomes {
        let Some(f) = measured else {
            let _ = writeln!(text, "| {} | failed | | | | | | |", system.name());
            continue;
        };
        let _ = writeln!(
            text,
            "| {} | {:.1} / {:.1} | {:.1} | {:.2} / {:.2} | {:.0} | {:.2} | {:.2} | {} |",
            system.name(),
            f.resident_mib[0],
            f.resident_mib[1],
            f.guardian_mib,
            f.processor_percent[0],
            f.processor_percent[1],
            f.requests_per_s,
            f.p50_ms,
            f.p99_ms,
            f.first_answer_ms,
        );
    }
    println!("\n{text}");
    fs::create_dir_all(out)?;
    let measured: Vec<_> = outcomes
        .iter()
        .map(|(system, footprint)| json!({"system": system.name(), "footprint": footprint}))
        .collect();
    let document = json!({"settings": settings.lines().collect::<Vec<_>>(), "footprint": measured});
    fs::write(out.join("footprint.json"), format!("{document:#}\n"))?;
    fs::write(out.join("footprint.md"), format!("```\n{settings}```\n\n{text}"))?;
    Ok(out.display().to_string())
}

const LEFT: f64 = 150.0;
const WIDTH: f64 = 760.0;
const ROW: f64 = 46.0;
const TOP: f64 = 56.0;

/// Two bars for each fault: the median gap through HAProxy, with a line up to the worst.
fn chart(outcomes: &[Outcome]) -> String {
    let faults = faults(outcomes);
    let worst = outcomes.iter().map(|outcome| outcome.gap_proxy_s).fold(1.0, f64::max);
    let height = TOP + ROW * f64::from(u32::try_from(faults.len()).unwrap_or(u32::MAX)) + 20.0;
    let scale = (WIDTH - LEFT - 110.0) / worst;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"13\">
<rect width=\"100%\" height=\"100%\" fill=\"white\"/>
<text x=\"10\" y=\"22\" font-size=\"15\">Seconds without an acknowledged write, through HAProxy</text>
<text x=\"10\" y=\"40\" fill=\"#555\">median; thin line: worst; shorter is better</text>
"
    );
    let mut y = TOP;
    for fault in faults {
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{fault}</text>",
            LEFT - 10.0,
            y + 22.0
        );
        for (system, colour, shift) in [(System::Tenure, "#1b7f5c", 2.0), (System::Patroni, "#b0b7c3", 20.0)]
        {
            let runs = of(outcomes, system.name(), fault);
            let Some((median, worst)) = median(runs.iter().map(|outcome| outcome.gap_proxy_s)) else {
                continue;
            };
            let (top, long, farthest) = (y + shift, (median * scale).max(1.0), LEFT + worst * scale);
            let _ = writeln!(
                svg,
                "<rect x=\"{LEFT}\" y=\"{top}\" width=\"{long:.1}\" height=\"15\" fill=\"{colour}\"/>
<line x1=\"{LEFT}\" x2=\"{farthest:.1}\" y1=\"{middle}\" y2=\"{middle}\" stroke=\"black\" stroke-width=\"1\"/>
<text x=\"{:.1}\" y=\"{}\">{median:.2} {}</text>",
                farthest + 6.0,
                top + 12.0,
                system.name(),
                middle = top + 7.5,
            );
        }
        y += ROW;
    }
    svg + "</svg>\n"
}
