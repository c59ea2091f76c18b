//! `events`: what the members have decided, as their flight recorders have kept it, in one timeline; and what each change of the
//! leader was made of.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use hyper::Method;
use serde_json::{Value, json};

use super::access::{Access, AccessArguments};
use super::cluster::{Cluster, Member};
use super::console::{hinted, print, warn};
use super::document::Document;
use super::explain::members_of;
use super::table::{Column, Format, Table};
use super::{time, yaml};
use crate::clock;
use crate::model::{Entry, Span};
use crate::recorder::timeline::{Change, Story, Told, tell};
use crate::recorder::{FILES, read_file};

/// One member is asked so often at most; its ring is shorter.
const PAGES_MAX: usize = 64;
/// Whoever does not answer for so long is down for this purpose.
const PATIENCE: Duration = Duration::from_secs(10);
/// A difference of clocks that is worth a word, beyond how long the question took.
const CLOCK_DIFFERENCE_MS: u64 = 500;

#[derive(Debug, Args)]
pub struct EventsArguments {
    /// The cluster [default: the configured scope]
    cluster_name: Option<String>,
    /// From when on: a time, or how long ago, as in 90s, 30m, 2h, 7d [default: 24h, and everything with --failover or --ring]
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    /// Only one change of the leader: the last one, or that to a timeline
    #[arg(long, value_name = "last|TIMELINE")]
    failover: Option<String>,
    /// Read this file of a flight recorder instead of asking the members; may be given several times
    #[arg(long, value_name = "FILE")]
    ring: Vec<PathBuf>,
    /// Ask this member's REST API who the members are, where the store does not answer: http://HOST:8008
    #[arg(long, value_name = "URL", conflicts_with = "ring")]
    via: Option<String>,
    /// With -f json: what was known at each decision as well, for `tenurectl replay`
    #[arg(long)]
    views: bool,
    /// The form of the output
    #[arg(short, long, value_enum, default_value_t = Format::Pretty)]
    format: Format,
}

/// What was gathered, and what could not be.
#[derive(Debug, Default)]
pub struct Gathered {
    pub entries: Vec<Entry>,
    /// Who has not told, and why.
    pub missing: BTreeMap<String, String>,
    /// By how much a member's clock differs from this machine's, in milliseconds.
    pub clocks: BTreeMap<String, i64>,
}

pub async fn events(from: &AccessArguments, arguments: &EventsArguments) -> Result<()> {
    if arguments.views && arguments.format != Format::Json {
        bail!(super::UsageError("--views goes with -f json".to_owned()));
    }
    let whole = arguments.failover.is_some() || !arguments.ring.is_empty();
    let since = match arguments.since.as_deref() {
        Some(text) => since(text, clock::wall_ms())?,
        None if whole => 0,
        None => clock::wall_ms().saturating_sub(24 * 3_600_000),
    };
    let gathered = if arguments.ring.is_empty() {
        let access = Access::new(from)?;
        let scope = access.scope(arguments.cluster_name.as_deref())?;
        ask_everybody(
            &access,
            &members_of(&access, &scope, arguments.via.as_deref()).await?,
            since,
            arguments.views,
        )
        .await
    } else {
        read_rings(&arguments.ring, since)?
    };
    let Gathered { entries, missing, clocks } = gathered;
    let mut story = tell(entries, &time::told);
    if let Some(wanted) = &arguments.failover {
        story = only(story, wanted)?;
    }
    print(&match arguments.format {
        Format::Pretty => pretty(&story, &missing, &clocks),
        Format::Tsv => table(&story).render(Format::Tsv, "\t"),
        Format::Json => {
            format!("{}\n", Document::from(&document(&story, &missing, &clocks, arguments.views)).to_json())
        }
        Format::Yaml => yaml::block(&Document::from(&document(&story, &missing, &clocks, false))),
    })?;
    if arguments.format == Format::Tsv {
        for (member, why) in &missing {
            warn(format!("nothing from {member}: {why}"));
        }
    }
    Ok(())
}

/// A time, or how long ago.
fn since(text: &str, now_ms: u64) -> Result<u64> {
    if let Some(seconds) = time::length(text) {
        return Ok(now_ms.saturating_sub(seconds.saturating_mul(1_000)));
    }
    match time::parse(Some(text)).map_err(|error| anyhow!(error))? {
        Some(at) => Ok(at.unix_ms()),
        None => Ok(now_ms),
    }
}

// Gathering.

pub async fn ask_everybody(access: &Access, cluster: &Cluster, since: u64, views: bool) -> Gathered {
    let mut gathered = Gathered::default();
    for member in &cluster.members {
        match ask(access, member, since, views).await {
            Ok((entries, difference)) => {
                gathered.entries.extend(entries);
                gathered.clocks.extend(difference.map(|ms| (member.name.clone(), ms)));
            }
            Err(error) => {
                gathered.missing.insert(member.name.clone(), format!("{error:#}"));
            }
        }
    }
    let told: BTreeSet<&str> = cluster.members.iter().map(|member| member.name.as_str()).collect();
    for name in everybody_named(&gathered.entries, cluster) {
        if !told.contains(name.as_str()) {
            let why = format!(
                "it is down or gone; its files {} are in its tenure.state_dir (--ring)",
                FILES.join(" and ")
            );
            gathered.missing.insert(name, why);
        }
    }
    gathered
}

/// Members that are down have no record in the store; others have spoken of them.
fn everybody_named(entries: &[Entry], cluster: &Cluster) -> BTreeSet<String> {
    let leaders = entries.iter().filter_map(|entry| entry.evidence.leader.clone());
    let claims = entries.iter().filter_map(|entry| Some(entry.evidence.claim.as_ref()?.by.clone()));
    let led = cluster.history.iter().filter_map(|line| line.get(4)?.as_text().map(str::to_owned));
    leaders.chain(claims).map(|name| name.to_string()).chain(led).chain(cluster.gone()).collect()
}

async fn ask(access: &Access, member: &Member, since: u64, views: bool) -> Result<(Vec<Entry>, Option<i64>)> {
    if member.get("tenure").is_none() {
        bail!("it is no member of Tenure's, and keeps no such record");
    }
    let (mut entries, mut after, mut difference) = (Vec::new(), 0, None);
    for _ in 0..PAGES_MAX {
        let target = format!("events?since={since}&after={after}&views={views}");
        let asked = clock::wall_ms();
        let question = access.members.ask(member, Method::GET, Some(&target), None);
        let reply = tokio::time::timeout(PATIENCE, question).await.context("no answer in time")??;
        let answered = clock::wall_ms();
        if reply.status != 200 {
            bail!("it answers {} to /events; is it of an older version?", reply.status);
        }
        let page: Value = serde_json::from_str(&reply.text).context("understand the answer")?;
        difference =
            page.get("unix_ms").and_then(Value::as_u64).and_then(|its| differs(its, asked, answered));
        for value in page.get("entries").and_then(Value::as_array).into_iter().flatten() {
            entries.push(Entry::read(&value.to_string())?);
        }
        let Some(last) = entries.last().filter(|_| page.get("more") == Some(&Value::Bool(true))) else {
            break;
        };
        after = last.number;
    }
    Ok((entries, difference))
}

/// By how much, if it is more than the way there and back explains.
fn differs(its: u64, asked: u64, answered: u64) -> Option<i64> {
    let allowed = CLOCK_DIFFERENCE_MS;
    let (ahead, behind) = (its.saturating_sub(answered), asked.saturating_sub(its));
    let ms = if allowed < ahead {
        i64::try_from(ahead).ok()?
    } else if allowed < behind {
        -i64::try_from(behind).ok()?
    } else {
        return None;
    };
    Some(ms)
}

pub fn read_rings(paths: &[PathBuf], since: u64) -> Result<Gathered> {
    let mut gathered = Gathered::default();
    for path in paths {
        let (entries, unread) = read_file(path).with_context(|| format!("read {}", path.display()))?;
        if entries.is_empty() {
            let why = unread.first.unwrap_or_else(|| "there is nothing in it".to_owned());
            bail!("{} holds no entries of a flight recorder: {why}", path.display());
        }
        if 0 < unread.lines {
            let why = unread.first.unwrap_or_default();
            warn(format!("{} lines of {} are no entries: {why}", unread.lines, path.display()));
        }
        gathered.entries.extend(entries.into_iter().filter(|entry| since <= entry.unix_ms));
    }
    Ok(gathered)
}

// One change of the leader.

fn only(story: Story, wanted: &str) -> Result<Story> {
    let found = if wanted == "last" {
        story.changes.last()
    } else {
        let timeline: u32 = wanted.parse().map_err(|_| {
            super::UsageError(
                "--failover wants `last` or the number of a timeline, as in `tenurectl history`".to_owned(),
            )
        })?;
        story.changes.iter().rev().find(|change| change.timeline.0 == timeline)
    };
    let Some(change) = found.cloned() else {
        return Err(hinted(
            format!("no change of the leader ({wanted}) is in what the members have kept"),
            "a member that is down may have it: `tenurectl events --ring FILE` reads its files",
        ));
    };
    let until = change.stages.last().map_or(change.until_ms, |stage| stage.at_ms);
    let from = change.last_words.first().map_or(change.from_ms, |told| told.at_ms.min(change.from_ms));
    let entries =
        story.entries.into_iter().filter(|told| from <= told.at_ms && told.at_ms <= until).collect();
    Ok(Story { entries, changes: vec![change], behind: story.behind })
}

// Showing.

fn pretty(story: &Story, missing: &BTreeMap<String, String>, clocks: &BTreeMap<String, i64>) -> String {
    let mut text = String::new();
    let width = story.entries.iter().map(|told| told.entry.member.as_str().len()).max().unwrap_or(0);
    for told in &story.entries {
        let entry = &told.entry;
        let _ =
            writeln!(text, "{}  {:width$}  {}", time::told(told.at_ms), entry.member.as_str(), said(entry));
    }
    for change in &story.changes {
        let _ = write!(text, "\n{}", summary(change));
    }
    if story.entries.is_empty() {
        text += "nothing was decided anew in that time\n";
    }
    let notes = notes(story, missing, clocks);
    if !notes.is_empty() {
        let _ = writeln!(text, "\n{}", notes.join("\n"));
    }
    text
}

fn said(entry: &Entry) -> String {
    let mut text = format!("{}: {}", entry.rule, entry.sentence);
    if !entry.step.is_empty() {
        let _ = write!(text, " [{}]", entry.step);
    }
    if 0 < entry.passed_over {
        let _ =
            write!(text, " (after {} more decisions by rules that came again and again)", entry.passed_over);
    }
    if 0 < entry.dropped {
        let _ = write!(text, " ({} entries before it were lost)", entry.dropped);
    }
    text
}

fn summary(change: &Change) -> String {
    let former = change.from.as_ref().map(|from| format!("{from} -> ")).unwrap_or_default();
    let begin = time::told(change.from_ms);
    let mut text =
        format!("Timeline {}: {former}{} ({}), {begin}\n", change.timeline, change.to, change.kind.word());
    let mut before = change.from_ms;
    for stage in &change.stages {
        let (total, step) = (stage.at_ms.saturating_sub(change.from_ms), stage.at_ms.saturating_sub(before));
        before = stage.at_ms;
        let (total, step) = (seconds(total), seconds(step));
        let _ = writeln!(
            text,
            "  {total:>9}  {step:>10}  {:26}  {}: {}",
            stage.what,
            stage.member,
            stage.why,
            step = format!("+{step}")
        );
    }
    if let Some(loss) = &change.loss {
        let _ = writeln!(text, "  lost: {loss}");
    }
    if !change.last_words.is_empty() {
        text += "  what the former leader did:\n";
    }
    for told in &change.last_words {
        let evidence = &told.entry.evidence;
        let left = evidence.lease_left.map(|left| format!(", {left} of the lease left")).unwrap_or_default();
        let silent = evidence.store_silent.map(|span| format!(" since {span}")).unwrap_or_default();
        let facts = format!("PostgreSQL: {}; store {}{silent}{left}", evidence.postgres, evidence.store);
        let _ = writeln!(text, "    {}  {} ({facts})", time::told(told.at_ms), said(&told.entry));
    }
    text
}

fn seconds(ms: u64) -> String {
    format!("{}.{:03} s", ms / 1_000, ms % 1_000)
}

fn notes(story: &Story, missing: &BTreeMap<String, String>, clocks: &BTreeMap<String, i64>) -> Vec<String> {
    let nothing = missing.iter().map(|(member, why)| format!("nothing from {member}: {why}"));
    let behind = story.behind.iter().map(|(member, ms)| {
        format!(
            "the clock of {member} was at least {} behind: its times were moved by that",
            Span::from_ms(*ms)
        )
    });
    let differ = clocks.iter().map(|(member, ms)| {
        let way = if *ms < 0 { "behind" } else { "ahead of" };
        format!("the clock of {member} is now {} {way} this machine's", Span::from_ms(ms.unsigned_abs()))
    });
    nothing.chain(behind).chain(differ).collect()
}

fn table(story: &Story) -> Table {
    let columns = ["Time", "Member", "Rule", "Sentence", "Step"].map(Column::left).to_vec();
    let row = |told: &Told| {
        let Entry { member, rule, sentence, step, .. } = &told.entry;
        [&time::told(told.at_ms), member.as_str(), rule, sentence, step].map(Document::text).to_vec()
    };
    Table { title: String::new(), columns: Some(columns), rows: story.entries.iter().map(row).collect() }
}

fn document(
    story: &Story,
    missing: &BTreeMap<String, String>,
    clocks: &BTreeMap<String, i64>,
    views: bool,
) -> Value {
    let entry = |told: &Told| {
        let entry = if views { told.entry.clone() } else { told.entry.clone().without_view() };
        let mut value = serde_json::to_value(entry).unwrap_or_default();
        value["at"] = time::told(told.at_ms).into();
        value
    };
    let change = |change: &Change| {
        let stages: Vec<Value> = change
            .stages
            .iter()
            .map(|stage| {
                json!({
                    "stage": stage.what,
                    "at": time::told(stage.at_ms),
                    "after_ms": stage.at_ms.saturating_sub(change.from_ms),
                    "member": stage.member,
                    "sentence": stage.why,
                })
            })
            .collect();
        json!({
            "kind": change.kind.word(),
            "timeline": change.timeline,
            "from": change.from,
            "to": change.to,
            "stages": stages,
            "loss": change.loss,
            "last_words": change.last_words.iter().map(entry).collect::<Vec<_>>(),
        })
    };
    json!({
        "entries": story.entries.iter().map(entry).collect::<Vec<_>>(),
        "changes": story.changes.iter().map(change).collect::<Vec<_>>(),
        "missing": missing,
        "clocks_behind_ms": story.behind,
        "clocks_differ_ms": clocks,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_time_or_how_long_ago() {
        let at = |text: &str| since(text, 100_000_000).expect(text);
        assert_eq!((at("90s"), at("1h"), at("1d")), (99_910_000, 96_400_000, 13_600_000));
        assert_eq!(at("1970-01-01T00:00:05Z"), 5_000);
        assert!(since("yesterday", 0).is_err() && since("5 apples", 0).is_err());
    }

    #[test]
    fn a_clock_differs_only_by_more_than_the_question_took() {
        assert_eq!(differs(10_000, 9_000, 11_000), None);
        assert_eq!(differs(11_400, 9_000, 11_000), None);
        assert_eq!(differs(13_000, 9_000, 11_000), Some(2_000));
        assert_eq!(differs(1_000, 9_000, 11_000), Some(-8_000));
    }
}
