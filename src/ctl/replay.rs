//! `replay`: what this version's rules make of views that a flight recorder has kept. It reads files and asks nobody.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;

use super::console::{print, warn};
use super::document::Document;
use super::events::read_rings;
use super::table::{Column, Format, Table};
use super::time;
use crate::decide::decide;
use crate::model::{Entry, EntryError};

#[derive(Debug, Args)]
pub struct ReplayArguments {
    /// A file of a flight recorder, or the output of `tenurectl events --views -f json`
    file: PathBuf,
    /// Show every decision, and not only those that would be others now
    #[arg(short, long)]
    all: bool,
    /// The form of the output
    #[arg(short, long, value_enum, default_value_t = Format::Pretty)]
    format: Format,
}

struct Replayed {
    entry: Entry,
    now: String,
    now_step: String,
}

impl Replayed {
    fn differs(&self) -> bool {
        self.now != self.entry.rule || self.now_step != self.entry.step
    }
}

/// True if every view that could be decided upon gives what it gave.
pub fn replay(arguments: &ReplayArguments) -> Result<bool> {
    let (mut replayed, mut without, mut others) = (Vec::new(), 0, 0);
    for entry in entries(arguments)? {
        match entry.view() {
            Ok(view) => {
                let plan = decide(&view);
                let now = plan.reason.rule.code().to_owned();
                replayed.push(Replayed { now, now_step: plan.step.told(), entry });
            }
            Err(EntryError::NoView) => without += 1,
            Err(EntryError::NotAnEntry(_) | EntryError::OtherFormat(_) | EntryError::OtherView(_)) => {
                others += 1;
            }
        }
    }
    if 0 < others {
        warn(format!("{others} views are another version's and cannot be decided upon here"));
    }
    let different = replayed.iter().filter(|one| one.differs()).count();
    print(&table(&replayed, arguments.all).render(arguments.format, "\t"))?;
    eprintln!(
        "{} decisions were taken again, {different} of them otherwise; {without} were kept without their views",
        replayed.len()
    );
    if replayed.is_empty() {
        bail!("there is nothing to decide upon in {}", arguments.file.display());
    }
    Ok(different == 0)
}

fn entries(arguments: &ReplayArguments) -> Result<Vec<Entry>> {
    let path = &arguments.file;
    let text = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let Ok(document) = serde_json::from_slice::<Value>(&text) else {
        return Ok(read_rings(std::slice::from_ref(path), 0)?.entries);
    };
    match document.get("entries").and_then(Value::as_array) {
        Some(entries) => entries.iter().map(|value| Ok(Entry::read(&value.to_string())?)).collect(),
        // A ring of one line is one document.
        None => Ok(read_rings(std::slice::from_ref(path), 0)?.entries),
    }
}

fn table(replayed: &[Replayed], all: bool) -> Table {
    let columns = ["Time", "Member", "Rule", "Step", "Rule now", "Step now"].map(Column::left).to_vec();
    let row = |one: &Replayed| {
        let Entry { member, rule, step, unix_ms, .. } = &one.entry;
        [&time::told(*unix_ms), member.as_str(), rule, step, &one.now, &one.now_step]
            .map(Document::text)
            .to_vec()
    };
    let shown = replayed.iter().filter(|one| all || one.differs()).map(row).collect();
    Table { title: String::new(), columns: Some(columns), rows: shown }
}
