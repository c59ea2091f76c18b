//! `show-timing`: how short and how long the running store lets a lease be, and what follows from it for a cluster.

use anyhow::{Context, Result};
use serde_json::Value;

use super::access::Access;
use super::console::{print, warn};
use super::document::Document;
use super::table::{Column, Format, Table};
use crate::config::timing_of;
use crate::model::{Moment, Span, Timing};
use crate::store::{SessionLimits, Store};

#[derive(Debug, clap::Args)]
pub struct TimingArguments {
    /// The cluster [default: the configured scope]
    cluster_name: Option<String>,
    /// The form of the output
    #[arg(short, long, value_enum, default_value_t = Format::Pretty)]
    format: Format,
}

pub async fn show(access: &Access, arguments: &TimingArguments) -> Result<()> {
    let scope = access.scope(arguments.cluster_name.as_deref())?;
    let store = access.store(&scope)?;
    let limits = store.session_limits(access.store_patience()).await;
    let limits = limits.with_context(|| access.named_store())?;
    let config = access.read_from(&store, &scope).await?.config.map(|config| config.value);
    let wanted = wanted(&config.unwrap_or(Value::Null));
    for sentence in complaints(wanted.ttl, &store, limits) {
        warn(sentence);
    }
    print(&table(&access.whereabouts(), wanted, &store, limits).render(arguments.format, "\t"))
}

/// As an agent reads it: what makes no sense counts as not set.
fn wanted(config: &Value) -> Timing {
    timing_of(config).or_else(|_| timing_of(&Value::Null)).unwrap_or_else(|error| error.timing)
}

/// What a `ttl` comes to in this store.
pub fn complaints(ttl: Span, store: &Store, limits: SessionLimits) -> Vec<String> {
    let raised = ttl.max(store.ttl_min());
    let granted = limits.granted(raised);
    let mut all = Vec::new();
    if raised != ttl {
        all.push(format!("a ttl of {ttl} is too short for this store; {raised} is used"));
    }
    if raised < granted {
        all.push(format!(
            "a ttl of {raised} is shorter than the store's shortest lease: a lost leader is replaced after {granted}"
        ));
    }
    if granted < raised {
        all.push(format!(
            "a ttl of {raised} is longer than the store's longest lease: {granted} is what counts"
        ));
    }
    all
}

fn table(place: &str, wanted: Timing, store: &Store, limits: SessionLimits) -> Table {
    let timing = Timing::for_ttl(wanted.ttl.max(store.ttl_min()));
    let granted = limits.granted(timing.ttl);
    let timing = Timing { ttl: granted.min(timing.ttl), ..timing };
    // Spans, counted from a renewal.
    let after = |moment: Moment| moment.since(Moment::default()).to_string();
    let begin = Moment::default();
    let rows = [
        ("store", place.to_owned(), ""),
        ("shortest lease", limits.shortest.to_string(), "read from the running servers"),
        (
            "longest lease",
            limits.longest.map_or_else(|| "any".to_owned(), |span| span.to_string()),
            "read from the running servers",
        ),
        ("ttl", wanted.ttl.to_string(), "what the cluster's configuration asks for"),
        ("renewed every", timing.renew_every.to_string(), ""),
        (
            "demoted after",
            after(timing.demote_at(begin)),
            "without a renewal: PostgreSQL is stopped in good order",
        ),
        ("fenced after", after(timing.fence_at(begin)), "the guardian kills what is left"),
        ("deadline after", after(timing.deadline(begin)), "no commit is acknowledged from here on"),
        ("free after", granted.to_string(), "the store lets another member lead"),
    ];
    let row = |(name, value, about): (&str, String, &str)| {
        vec![Document::text(name), Document::Text(value), Document::text(about)]
    };
    Table {
        title: String::new(),
        columns: Some(vec![Column::left("Timing"), Column::left("Value"), Column::left("Meaning")]),
        rows: rows.map(row).into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::{AdapterSettings, Memory, StoreSettings, ZookeeperSettings};

    const SECOND: Span = Span::from_secs(1);

    fn store(adapter: AdapterSettings) -> Store {
        let (namespace, scope) = ("/service".to_owned(), "batman".to_owned());
        Store::connect(&StoreSettings { namespace, scope, adapter })
    }

    fn limits(shortest: u64, longest: Option<u64>) -> SessionLimits {
        SessionLimits { shortest: Span::from_secs(shortest), longest: longest.map(Span::from_secs) }
    }

    #[test]
    fn what_counts_is_told_with_the_moments_that_follow() {
        let store = store(AdapterSettings::Memory(Memory::new()));
        let text = table("etcd at a", Timing::for_ttl(SECOND.times(10)), &store, limits(2, None));
        let text = text.render(Format::Tsv, "\t");
        for line in [
            "store\tetcd at a\t",
            "shortest lease\t2 s\t",
            "longest lease\tany\t",
            "demoted after\t8 s\t",
            "free after\t10 s\t",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }

    #[test]
    fn a_ttl_that_the_store_does_not_grant_is_told() {
        let memory = store(AdapterSettings::Memory(Memory::new()));
        let zookeeper = store(AdapterSettings::Zookeeper(ZookeeperSettings::default()));
        let check = |store: &Store, ttl: u64, limits, sentences: &[&str]| {
            let found = complaints(SECOND.times(ttl), store, limits);
            assert_eq!(found.len(), sentences.len(), "{found:?}");
            assert!(found.iter().zip(sentences).all(|(found, part)| found.contains(part)), "{found:?}");
        };
        check(&memory, 30, limits(2, None), &[]);
        check(&memory, 5, limits(15, None), &["a lost leader is replaced after 15 s"]);
        check(&zookeeper, 5, limits(4, Some(40)), &["8 s is used"]);
        check(&zookeeper, 60, limits(4, Some(40)), &["40 s is what counts"]);
    }

    #[test]
    fn a_ttl_that_makes_no_sense_counts_as_not_set() {
        for config in [json!(null), json!({"ttl": "x"}), json!({"ttl": 2})] {
            assert_eq!(wanted(&config).ttl, Span::from_secs(30), "{config}");
        }
        assert_eq!(wanted(&json!({"ttl": 12})).ttl, Span::from_secs(12));
    }
}
