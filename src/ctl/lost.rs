//! `tenurectl lost`: what was set aside on this machine before a rewind or a clone, and what stands in it. It reads files beside
//! a data directory and asks nobody.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;

use super::console::print;
use super::document::Document;
use super::table::{Column, Format, Table};
use crate::model::Span;
use crate::postgres::{Diverged, list_diverged, list_set_aside, programs_for, summarize_diverged};

/// Reading a gibibyte of WAL takes seconds, unless the disk is slow.
const SUMMARY: Span = Span::from_secs(60);

#[derive(Debug, Args)]
pub struct LostArguments {
    /// The data directory beside which to look
    #[arg(short = 'D', long, value_name = "DIR")]
    pgdata: PathBuf,
    /// Summarize the records of the newest diverged WAL with pg_waldump
    #[arg(long)]
    stats: bool,
    /// Where pg_waldump is, unless it is where packages install PostgreSQL of the data directory's version
    #[arg(long, value_name = "DIR", requires = "stats")]
    bin_dir: Option<PathBuf>,
    #[arg(short, long, value_enum, default_value_t)]
    format: Format,
}

pub fn lost(arguments: &LostArguments) -> Result<()> {
    let data_dir = std::path::absolute(&arguments.pgdata)?;
    let read = || format!("read what lies beside {}", data_dir.display());
    let diverged = list_diverged(&data_dir).with_context(read)?;
    let set_aside = list_set_aside(&data_dir).with_context(read)?;
    print(&table(&diverged, &set_aside).render(arguments.format, "\t"))?;
    let newest = diverged.iter().rev().find_map(|(place, about)| Some((place, about.as_ref()?)));
    match newest.filter(|_| arguments.stats) {
        Some((place, about)) => {
            let programs = arguments.bin_dir.clone().map_or_else(|| programs_for(&data_dir), Ok)?;
            print(&summary(&programs, place, about)?)
        }
        None => Ok(()),
    }
}

fn summary(programs: &Path, place: &Path, about: &Diverged) -> Result<String> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    Ok(runtime.block_on(summarize_diverged(programs, place, about, SUMMARY))?)
}

fn table(diverged: &[(PathBuf, Option<Diverged>)], set_aside: &[PathBuf]) -> Table {
    let columns = vec![
        Column::left("Kept"),
        Column::left("What"),
        Column::right("TL"),
        Column::left("From"),
        Column::left("To"),
        Column::right("Bytes"),
        Column::left("Why"),
        Column::left("Path"),
    ];
    let path = |path: &Path| Document::text(path.display().to_string());
    let wal = |(place, about): &(PathBuf, Option<Diverged>)| {
        let cell =
            |of: &dyn Fn(&Diverged) -> String| Document::text(about.as_ref().map(of).unwrap_or_default());
        let what = if about.is_some() { "diverged WAL" } else { "diverged WAL, not whole" };
        vec![
            cell(&|about| about.kept_at.clone()),
            Document::text(what),
            cell(&|about| about.timeline.to_string()),
            cell(&|about| about.from.to_string()),
            cell(&|about| about.to.to_string()),
            cell(&|about| about.bytes.to_string()),
            cell(&|about| about.why.clone()),
            path(place),
        ]
    };
    let directory = |place: &PathBuf| {
        let stamp = place.to_string_lossy().rsplit('-').next().unwrap_or_default().to_owned();
        let mut row = vec![Document::text(&stamp), Document::text("data directory")];
        row.extend((2..7).map(|_| Document::text("")));
        row.push(path(place));
        row
    };
    let rows = diverged.iter().map(wal).chain(set_aside.iter().map(directory)).collect();
    Table { title: String::new(), columns: Some(columns), rows }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Lsn, SystemId, Timeline};

    #[test]
    fn what_is_kept_is_listed_with_where_it_begins_and_ends() {
        let about = Diverged {
            kept_at: "2026-11-21T05:12:00Z".to_owned(),
            why: "rewind from oulu:5432".to_owned(),
            system: SystemId(1),
            timeline: Timeline(3),
            from: Lsn(0x0300_0148),
            to_timeline: Timeline(3),
            to: Lsn(0x0300_0200),
            bytes: 16 << 20,
            left_out: 0,
        };
        let diverged = [("/d.diverged-20261121T051200Z".into(), Some(about)), ("/d.diverged-x".into(), None)];
        let told = table(&diverged, &["/d.set-aside-20261120T051200Z".into()]).render(Format::Tsv, "\t");
        let lines: Vec<&str> = told.lines().collect();
        assert_eq!(
            lines[1],
            "2026-11-21T05:12:00Z\tdiverged WAL\t3\t0/3000148\t0/3000200\t16777216\trewind from oulu:5432\t/d.diverged-20261121T051200Z"
        );
        assert_eq!(lines[2], "\tdiverged WAL, not whole\t\t\t\t\t\t/d.diverged-x");
        assert_eq!(lines[3], "20261120T051200Z\tdata directory\t\t\t\t\t\t/d.set-aside-20261120T051200Z");
    }
}
