//! `/ui/timeline`: what all members have decided of late, put in one order, and what each change of the leader was made of: what
//! `tenurectl events` shows, as far as it fits on a page.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::clock;
use crate::model::{Entry, MemberName, MemberRecord, Severity, Standing};
use crate::recorder::timeline::{Change, Story, Told, tell};

use super::super::answer::Answer;
use super::super::query::Target;
use super::super::recorded;
use super::super::server::Api;
use super::asking;

/// So far back a page looks.
const HOURS: u64 = 24;
const PATIENCE: Duration = Duration::from_secs(2);
/// One page of a recorder has half of this.
const BYTES_MAX: usize = 512 << 10;
/// For all the pages of one recorder. They come oldest first.
const ALL_WITHIN: Duration = Duration::from_secs(7);
/// More than a recorder holds.
const PAGES_MAX: usize = 64;
const ENTRIES_MAX: usize = 300;
const CHANGES_MAX: usize = 20;

#[derive(Debug, Deserialize)]
struct Page {
    more: bool,
    entries: Vec<Value>,
}

pub async fn timeline(api: &Api) -> Answer {
    let standing = api.standing();
    let members = asking::members(&standing);
    let since = clock::wall_ms().saturating_sub(HOURS * 3_600_000);
    let asked = members.iter().map(|(name, record)| async {
        let told = timeout(ALL_WITHIN, pages(api, &standing, name, record, since)).await;
        told.unwrap_or_else(|_| Err("it did not tell all in time".to_owned()))
    });
    let answers: Vec<_> = members.iter().map(|(name, _)| name.clone()).zip(join_all(asked).await).collect();
    // Long lists, and nothing may keep the loop from its turn.
    match spawn_blocking(move || document(answers)).await {
        Ok(document) => Answer::json(200, &document),
        Err(_) => Answer::sentence(500, "the timeline could not be put together"),
    }
}

/// All that one member has to say, page by page; or why it says nothing.
async fn pages(
    api: &Api,
    standing: &Standing,
    name: &MemberName,
    record: &MemberRecord,
    since: u64,
) -> Result<Vec<Entry>, String> {
    let (mut entries, mut after) = (Vec::new(), 0);
    for _ in 0..PAGES_MAX {
        let path = format!("/events?since={since}&after={after}");
        let (status, body) = if *name == standing.view.me {
            let own = recorded::events(&api.recorder, clock::wall_ms(), &Target::parse(&path));
            (own.status, Bytes::from(own.body))
        } else {
            asking::ask(api, record, &path, PATIENCE, BYTES_MAX).await?
        };
        if status != 200 {
            return Err(format!("it answers {status} to /events; is it of an older version?"));
        }
        let (page, more) = read(body).await?;
        after = page.last().map_or(after, |entry| entry.number);
        entries.extend(page);
        if !more {
            break;
        }
    }
    Ok(entries)
}

async fn read(body: Bytes) -> Result<(Vec<Entry>, bool), String> {
    let read = move || {
        let page: Page = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
        let entries: Result<Vec<Entry>, _> =
            page.entries.iter().map(|entry| Entry::read(&entry.to_string())).collect();
        Ok((entries.map_err(|error| error.to_string())?, page.more))
    };
    spawn_blocking(read).await.map_err(|_| "its answer could not be read".to_owned())?
}

fn document(answers: Vec<(MemberName, Result<Vec<Entry>, String>)>) -> Value {
    let (mut entries, mut missing) = (Vec::new(), BTreeMap::new());
    for (name, answer) in answers {
        match answer {
            Ok(told) => entries.extend(told),
            Err(why) => drop(missing.insert(name, why)),
        }
    }
    let Story { entries, changes, behind } = tell(entries, &spelled);
    let left_out = entries.len().saturating_sub(ENTRIES_MAX);
    json!({
        "hours": HOURS,
        // The newest first: they are what one looks for.
        "entries": entries.iter().rev().take(ENTRIES_MAX).map(entry).collect::<Vec<_>>(),
        "left_out": left_out,
        "changes": changes.iter().rev().take(CHANGES_MAX).map(change).collect::<Vec<_>>(),
        "missing": missing,
        "clocks_behind_ms": behind,
    })
}

fn entry(told: &Told) -> Value {
    let Entry { member, number, rule, sentence, step, passed_over, dropped, .. } = &told.entry;
    json!({
        "at_ms": told.at_ms,
        "member": member,
        "number": number,
        "rule": rule,
        "sentence": sentence,
        "step": step,
        "severity": told.entry.known_rule().map_or("info", |rule| severity_word(rule.severity())),
        "passed_over": passed_over,
        "dropped": dropped,
    })
}

fn change(change: &Change) -> Value {
    let stages = change.stages.iter().map(|stage| {
        json!({
            "what": stage.what,
            "after_ms": stage.at_ms.saturating_sub(change.from_ms),
            "member": stage.member,
            "sentence": stage.why,
        })
    });
    json!({
        "kind": change.kind.word(),
        "timeline": change.timeline,
        "from": change.from,
        "to": change.to,
        "at_ms": change.from_ms,
        "stages": stages.collect::<Vec<_>>(),
        "loss": change.loss,
    })
}

pub fn severity_word(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "info",
        Severity::Warning => "warning",
        Severity::Error => "error",
    }
}

/// `2026-11-21 09:00:00.123 UTC`: where the reader sits is not known here.
pub fn spelled(unix_ms: u64) -> String {
    let at = i64::try_from(unix_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    at.unwrap_or_default().strftime("%Y-%m-%d %H:%M:%S%.3f UTC").to_string()
}

#[cfg(test)]
mod tests {
    use super::super::super::fixtures::{name, standby};
    use super::*;

    fn entries(count: u64) -> Vec<Entry> {
        let standing = standby();
        let entry = |number| Entry::of(&standing.view, &standing.plan, number, number * 1_000).without_view();
        (1..=count).map(entry).collect()
    }

    #[test]
    fn the_newest_come_first_and_who_says_nothing_is_named() {
        let answers = vec![(name("turku"), Ok(entries(3))), (name("oulu"), Err("it is down".to_owned()))];
        let told = document(answers);
        let numbers: Vec<u64> = told["entries"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|one| one["number"].as_u64())
            .collect();
        assert_eq!(numbers, [3, 2, 1]);
        assert_eq!((&told["missing"]["oulu"], &told["left_out"]), (&"it is down".into(), &0.into()));
        let told = document(vec![(name("turku"), Ok(entries(ENTRIES_MAX as u64 + 7)))]);
        assert_eq!(told["left_out"], 7);
        assert_eq!(told["entries"].as_array().map(Vec::len), Some(ENTRIES_MAX));
    }

    #[tokio::test]
    async fn a_page_is_read_as_rest_writes_it() {
        let body = json!({"format": 1, "unix_ms": 5, "oldest": 1, "more": true, "entries": entries(2)});
        let (read_back, more) = read(body.to_string().into()).await.expect("a page");
        assert_eq!((read_back, more), (entries(2), true));
        assert!(read(Bytes::from_static(b"{}")).await.is_err());
    }

    #[test]
    fn a_time_is_spelled_without_a_place() {
        assert_eq!(spelled(1_795_217_605_123), "2026-11-20 23:33:25.123 UTC");
    }
}
