//! docs/metrics.md: every metric that `/metrics` can show, as the code shows it; and the proof that alerts and dashboard ask for no other.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::fixtures::{NOW, name, primary, snapshot, standby, with};
use super::look::Look;
use super::metrics::metrics;
use crate::model::{AddressStanding, Intent, IntentKind, Intents, MemberIntent, Standing, Versioned};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
const ALERTS: &str = include_str!("../../packaging/files/prometheus-rules.yml");
const DASHBOARD: &str = include_str!("../../packaging/files/grafana-dashboard.json");

struct Metric {
    name: String,
    kind: String,
    labels: String,
    help: String,
}

/// A standby shows some that a primary does not have.
fn all() -> Vec<Metric> {
    let ends = |s: &mut Standing| {
        let until = Some("2026-11-22T06:00:00+00:00".to_owned());
        let intent = Intent { until, ..Intent::default() };
        let kept = MemberIntent { kind: IntentKind::Maintenance, intent };
        let value = Intents { members: [(name("vaasa"), kept)].into(), ..Intents::default() };
        snapshot(s).intents = Some(Versioned { value, version: 3 });
    };
    let shown = |s: &mut Standing| {
        ends(s);
        let address = "10.0.0.100/24 dev eth0".parse().expect("one");
        s.facts.addresses = vec![AddressStanding { address, held: true, duplicate: None, failure: None }];
    };
    let text = metrics(Look::new(&with(standby(), shown), NOW));
    let lines: Vec<&str> = text.lines().collect();
    let helps = lines.iter().filter_map(|line| line.strip_prefix("# HELP ")?.split_once(' '));
    let metric = |(name, help): (&str, &str)| {
        let kind = lines.iter().find_map(|line| line.strip_prefix(&format!("# TYPE {name} ")));
        let labels = lines.iter().find_map(|line| line.strip_prefix(&format!("{name}{{"))?.split_once('}'));
        let labels = labels.map(|(labels, _)| labels.split(',').filter_map(|label| label.split('=').next()));
        let labels: Vec<String> = labels.into_iter().flatten().map(|label| format!("`{label}`")).collect();
        Metric {
            name: name.to_owned(),
            kind: kind.expect("every metric has a type").to_owned(),
            labels: labels.join(", "),
            help: help.to_owned(),
        }
    };
    helps.map(metric).collect()
}

fn page() -> String {
    let mut page = String::from(
        "# Metrics\n\n\
        Written by `make docs` from `src/api/metrics.rs`; do not edit.\n\n\
        Each agent shows these at `GET /metrics` on its REST port, as text for Prometheus. Names that begin with `patroni_` are\n\
        Patroni's and mean the same; those that begin with `tenure_` are ours. `scope` is the cluster, `name` the member.\n\
        `patroni_postgres_streaming` and `patroni_postgres_in_archive_recovery` are there while PostgreSQL answers. Shipped beside\n\
        them: alerts (`prometheus-rules.yml`, [what to do](alerts.md)) and a dashboard (`grafana-dashboard.json`), in\n\
        `/usr/share/doc/tenure/examples`. What changes seldom and has to be looked for is told by [`tenurectl doctor`](doctor.md).\n\n\
        | name | type | labels | meaning |\n| --- | --- | --- | --- |\n",
    );
    for Metric { name, kind, labels, help } in all() {
        writeln!(page, "| `{name}` | {kind} | {labels} | {help} |").expect("text grows");
    }
    page
}

#[test]
fn the_page_of_metrics_is_up_to_date() {
    let wanted = page();
    if std::env::var_os("TENURE_BLESS").is_some() {
        std::fs::write(PAGE, &wanted).expect("docs/ can be written");
    }
    let written = std::fs::read_to_string(PAGE).unwrap_or_default();
    assert!(written == wanted, "docs/metrics.md is stale: run `make docs`");
}

#[test]
fn the_page_leaves_no_metric_out() {
    let listed: BTreeSet<String> = all().into_iter().map(|metric| metric.name).collect();
    for standing in [primary(), standby()] {
        let text = metrics(Look::new(&standing, NOW));
        let shown = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
        for name in shown {
            assert!(listed.contains(name), "{name}");
        }
    }
}

#[test]
fn alerts_and_dashboard_ask_for_metrics_that_there_are() {
    let listed: BTreeSet<String> = all().into_iter().map(|metric| metric.name).collect();
    for (what, text) in [("the alerts", ALERTS), ("the dashboard", DASHBOARD)] {
        let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        let words = text.split(|letter| !is_part(letter));
        let asked: BTreeSet<&str> =
            words.filter(|word| word.starts_with("patroni_") || word.starts_with("tenure_")).collect();
        assert!(7 < asked.len(), "{what}: {asked:?}");
        for name in asked {
            assert!(listed.contains(name), "{what}: {name} is no metric of ours");
        }
    }
}
