//! What is printed and written: the settings of both, a line for each run, the table, JSON and a chart.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::json;

use crate::chart::{BOTH, Bar, Row, bars};
use crate::clients::{PROBE_PAUSE, RECONNECT_PAUSE, ROW_PATIENCE, ROW_PAUSE};
use crate::footprint::{Called, Footprint};
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

fn told(called: &Called) -> String {
    format!("{:.0}, {:.2}, {:.2}", called.requests_per_s, called.p50_ms, called.p99_ms)
}

pub fn footprint(
    out: &Path,
    settings: &str,
    outcomes: &[(System, Option<Footprint>)],
) -> std::io::Result<String> {
    let mut text = "| | resident, MiB: leader / replica | of it the guardian | processor, % of one core: leader / replica | GET /primary a second, p50 and p99 in ms: one caller | the same: 32 callers | least left of the lease meanwhile, ms | start to first answer, ms |
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
            "| {} | {:.1} / {:.1} | {:.1} | {:.2} / {:.2} | {} | {} | {} | {} |",
            system.name(),
            f.resident_mib[0],
            f.resident_mib[1],
            f.guardian_mib,
            f.processor_percent[0],
            f.processor_percent[1],
            told(&f.called[0]),
            told(&f.called[1]),
            f.called[1].lease_left_min_ms.map_or_else(String::new, |left| left.to_string()),
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

/// Two bars for each fault: the median gap through HAProxy, with a line up to the worst.
fn chart(outcomes: &[Outcome]) -> String {
    let rows = faults(outcomes).into_iter().map(|fault| {
        let bar = |system: System| {
            let runs = of(outcomes, system.name(), fault);
            let (middle, worst) = median(runs.iter().map(|outcome| outcome.gap_proxy_s))?;
            Some(Bar { system, length: middle, worst })
        };
        Row { label: fault.to_owned(), bars: BOTH.into_iter().filter_map(bar).collect() }
    });
    bars(
        "Seconds without an acknowledged write, through HAProxy",
        "median; thin line: worst; shorter is better",
        &rows.collect::<Vec<_>>(),
    )
}
