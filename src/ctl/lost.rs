//! `tenurectl lost`: what was set aside before a rewind or a clone, and what stands in it. With `-D` it reads files beside a data
//! directory and asks nobody; else the members tell what they have.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use futures_util::future::join_all;

use super::UsageError;
use super::access::Access;
use super::console::{print, warn};
use super::doctor::gather;
use super::document::Document;
use super::table::{Column, Format, Table};
use crate::doctor::{HostFacts, KeptFacts, Untold};
use crate::model::Span;
use crate::postgres::{Diverged, list_diverged, list_kept, programs_for, summarize_diverged};

/// Reading a gibibyte of WAL takes seconds, unless the disk is slow.
const SUMMARY: Span = Span::from_secs(60);

#[derive(Debug, Args)]
pub struct LostArguments {
    /// The cluster whose members are asked [default: the configured scope]
    #[arg(conflicts_with = "pgdata")]
    cluster_name: Option<String>,
    /// Look beside this data directory of this machine instead of asking the members
    #[arg(short = 'D', long, value_name = "DIR")]
    pgdata: Option<PathBuf>,
    /// Summarize the records of the newest diverged WAL with pg_waldump, with -D
    #[arg(long, requires = "pgdata")]
    stats: bool,
    /// Where pg_waldump is, unless it is where packages install PostgreSQL of the data directory's version
    #[arg(long, value_name = "DIR", requires = "stats")]
    bin_dir: Option<PathBuf>,
    #[arg(short, long, value_enum, default_value_t)]
    format: Format,
}

impl LostArguments {
    pub fn is_about_this_machine(&self) -> bool {
        self.pgdata.is_some()
    }
}

pub fn lost_here(arguments: &LostArguments) -> Result<()> {
    let Some(data_dir) = &arguments.pgdata else {
        bail!(UsageError("whose data directory? Name it with -D".to_owned()))
    };
    let data_dir = std::path::absolute(data_dir)?;
    let read = || format!("read what lies beside {}", data_dir.display());
    let kept = list_kept(&data_dir).with_context(read)?;
    print(&table(&kept, None).render(arguments.format, "\t"))?;
    if !arguments.stats {
        return Ok(());
    }
    let diverged = list_diverged(&data_dir).with_context(read)?;
    let newest = diverged.iter().rev().find_map(|(place, about)| Some((place, about.as_ref()?)));
    let Some((place, about)) = newest else { return Ok(()) };
    let programs = arguments.bin_dir.clone().map_or_else(|| programs_for(&data_dir), Ok)?;
    print(&summary(&programs, place, about)?)
}

/// Of every member that answers.
pub async fn lost(access: &Access, arguments: &LostArguments) -> Result<()> {
    let scope = access.scope(arguments.cluster_name.as_deref())?;
    let cluster = access.read(&scope).await?;
    let asked = join_all(cluster.members.iter().map(|member| gather::host(access, member))).await;
    let (mut kept, mut owners) = (Vec::new(), Vec::new());
    for (member, told) in cluster.members.iter().zip(asked) {
        match told {
            Ok(HostFacts { kept: its, .. }) => {
                owners.extend(its.iter().map(|_| member.name.clone()));
                kept.extend(its);
            }
            Err(Untold::NotOurs) => warn(format!("nothing from {}: it is run by Patroni", member.name)),
            Err(Untold::Silent(why) | Untold::Older(why)) => {
                warn(format!("nothing from {}: {why}", member.name));
            }
        }
    }
    print(&table(&kept, Some(&owners)).render(arguments.format, "\t"))
}

fn summary(programs: &Path, place: &Path, about: &Diverged) -> Result<String> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    Ok(runtime.block_on(summarize_diverged(programs, place, about, SUMMARY))?)
}

/// With `owners`, the member that has each stands first.
fn table(kept: &[KeptFacts], owners: Option<&[String]>) -> Table {
    let mut columns = vec![
        Column::left("Kept"),
        Column::left("What"),
        Column::right("TL"),
        Column::left("From"),
        Column::left("To"),
        Column::right("Bytes"),
        Column::left("Why"),
        Column::left("Path"),
    ];
    if owners.is_some() {
        columns.insert(0, Column::left("Member"));
    }
    let shown = |value: Option<String>| Document::Text(value.unwrap_or_default());
    let row = |(place, kept): (usize, &KeptFacts)| {
        let mut row = vec![
            Document::text(&kept.at),
            Document::text(&kept.what),
            shown(kept.timeline.map(|timeline| timeline.to_string())),
            shown(kept.from.map(|lsn| lsn.to_string())),
            shown(kept.to.map(|lsn| lsn.to_string())),
            shown(kept.bytes.map(|bytes| bytes.to_string())),
            Document::text(&kept.why),
            Document::text(&kept.path),
        ];
        if let Some(owner) = owners.and_then(|owners| owners.get(place)) {
            row.insert(0, Document::text(owner));
        }
        row
    };
    let rows = kept.iter().enumerate().map(row).collect();
    Table { title: String::new(), columns: Some(columns), rows }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Lsn, Timeline};

    #[test]
    fn what_is_kept_is_listed_with_where_it_begins_and_ends() {
        let wal = KeptFacts {
            path: "/d.diverged-20261121T051200Z".to_owned(),
            what: "diverged WAL".to_owned(),
            at: "2026-11-21T05:12:00Z".to_owned(),
            timeline: Some(Timeline(3)),
            from: Some(Lsn(0x0300_0148)),
            to: Some(Lsn(0x0300_0200)),
            bytes: Some(16 << 20),
            why: "rewind from oulu:5432".to_owned(),
        };
        let directory = KeptFacts {
            path: "/d.set-aside-20261120T051200Z".to_owned(),
            what: "data directory".to_owned(),
            at: "20261120T051200Z".to_owned(),
            ..KeptFacts::default()
        };
        let kept = [wal, directory];
        let told = table(&kept, None).render(Format::Tsv, "\t");
        let lines: Vec<&str> = told.lines().collect();
        assert_eq!(
            lines[1..],
            [
                "2026-11-21T05:12:00Z\tdiverged WAL\t3\t0/3000148\t0/3000200\t16777216\trewind from oulu:5432\t/d.diverged-20261121T051200Z",
                "20261120T051200Z\tdata directory\t\t\t\t\t\t/d.set-aside-20261120T051200Z",
            ]
        );
        let owners = ["turku".to_owned(), "oulu".to_owned()];
        let told = table(&kept, Some(&owners)).render(Format::Tsv, "\t");
        assert!(
            told.starts_with("Member\t") && told.contains("\noulu\t20261120T051200Z\tdata directory"),
            "{told}"
        );
    }
}
