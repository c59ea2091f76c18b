//! What `--growth` found, as a table, JSON and charts: in all, and for each cluster and member.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::chart::{BOTH, Bar, Row, bars};
use crate::growth::Growth;
use crate::herd::Size;
use crate::stage::System;

/// Each size under each system, and what was found, if anything.
pub type Grown = (System, Size, Option<Growth>);

const HEAD: &str = "| system | clusters beside the measured one | members of each | requests a second, all | for each member | KiB a second, all | writes a second, all | processor of the three etcd, % of one core | calls that failed | host of the measured cluster's leader lost: s through HAProxy | lost rows, HAProxy / direct |
| --- | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: |
";

pub fn write(out: &Path, settings: &str, grown: &[Grown]) -> std::io::Result<String> {
    let mut text = HEAD.to_owned();
    for (system, size, found) in grown {
        text.push_str(&line(*system, *size, found.as_ref()));
        text.push('\n');
    }
    println!("\n{text}");
    fs::create_dir_all(out)?;
    let runs: Vec<_> = grown
        .iter()
        .map(|(system, size, found)| json!({"system": system.name(), "size": size, "found": found}))
        .collect();
    let document = json!({"settings": settings.lines().collect::<Vec<_>>(), "growth": runs});
    fs::write(out.join("growth.json"), format!("{document:#}\n"))?;
    fs::write(out.join("growth.md"), format!("```\n{settings}```\n\n{text}"))?;
    let requests = chart(grown, "Requests to the store a second, for each member", per_member);
    fs::write(out.join("growth-requests.svg"), requests)?;
    let processor = "Processor of the three etcd for each member, % of one core";
    let processor = chart(grown, processor, |found| found.store.processor_percent / everybody(found.size));
    fs::write(out.join("growth-processor.svg"), processor)?;
    Ok(out.display().to_string())
}

/// A row of the table.
pub fn line(system: System, Size { clusters, members }: Size, found: Option<&Growth>) -> String {
    let Some(found) = found else {
        return format!("| {} | {clusters} | {members} | failed | | | | | | | |", system.name());
    };
    format!(
        "| {} | {clusters} | {members} | {:.1} | {:.2} | {:.1} | {:.1} | {:.1} | {} | {:.2} | {} / {} |",
        system.name(),
        found.store.requests_per_s,
        per_member(found),
        found.store.kib_per_s,
        found.store.writes_per_s,
        found.store.processor_percent,
        found.herd_failed,
        found.host_lost.gap_proxy_s,
        found.host_lost.lost_proxy,
        found.host_lost.lost_direct,
    )
}

/// With the members of the cluster that is measured.
fn everybody(size: Size) -> f64 {
    f64::from(3 + size.clusters * size.members)
}

fn per_member(found: &Growth) -> f64 {
    found.store.requests_per_s / everybody(found.size)
}

fn chart(grown: &[Grown], title: &str, figure: impl Fn(&Growth) -> f64) -> String {
    let row = |size: &Size| {
        let bar = |system: System| {
            let of = |(by, at, _): &&Grown| *by == system && at == size;
            let length = figure(grown.iter().find(of)?.2.as_ref()?);
            Some(Bar { system, length, worst: length })
        };
        Row {
            label: format!("{} x {}", size.clusters, size.members),
            bars: BOTH.into_iter().filter_map(bar).collect(),
        }
    };
    let mut sizes: Vec<&Size> = grown.iter().map(|(_, size, _)| size).collect();
    sizes.dedup();
    let rows: Vec<Row> = sizes.into_iter().map(row).collect();
    bars(
        title,
        "clusters x members beside the measured cluster of three; even bars: what one more costs is the same",
        &rows,
    )
}
