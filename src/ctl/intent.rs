//! `maintenance` and `nofailover`: what a member is kept from, by whom, why and until when; and the end of a pause.

use anyhow::{Context, Result, bail};
use tokio::time::Instant;

use super::access::Access;
use super::caller;
use super::cluster::{Cluster, Member};
use super::console::{echo, hinted, warn};
use super::document::Document;
use super::time;
use crate::clock;
use crate::model::{Intent, IntentKind, MemberIntent, MemberName, Span, is_paused};
use crate::store::{Amendment, Seen, StoreError};

/// Nobody means longer.
const SECONDS_MAX: u64 = 366 * 86_400;
/// More than any cluster has members.
const MEMBERS_MAX: usize = 100;
/// How long a member that runs may take to take it up.
const TAKEN_UP_WITHIN: std::time::Duration = std::time::Duration::from_secs(15);

#[derive(Debug, clap::Args)]
pub struct Ending {
    /// How long, as in 90s, 30m, 2h, 7d; then it ends by itself
    #[arg(long = "for", value_name = "LENGTH", conflicts_with = "until")]
    length: Option<String>,
    /// When it ends by itself: ISO 8601, or a time today
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Why; it is kept in the store
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

#[derive(Debug, clap::Args)]
pub struct MemberArguments {
    /// The member
    member: String,
    /// The cluster [default: the configured scope]
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    #[command(flatten)]
    ending: Ending,
    /// End it now
    #[arg(long, conflicts_with_all = ["length", "until"])]
    end: bool,
}

impl Ending {
    /// ISO 8601, in the future; None: it ends when somebody ends it.
    pub fn until(&self) -> Result<Option<String>> {
        let now = time::now();
        let end = match (&self.length, &self.until) {
            (Some(length), _) => {
                let seconds = time::length(length).filter(|seconds| (1..=SECONDS_MAX).contains(seconds));
                let Some(seconds) = seconds.and_then(|seconds| i64::try_from(seconds).ok()) else {
                    bail!("--for {length}: wanted is a length of at most a year, such as 90s, 30m, 2h or 7d");
                };
                now.checked_add(jiff::Span::new().seconds(seconds)).context("find the end")?
            }
            (None, Some(until)) => {
                let at = time::parse(Some(until)).map_err(|why| anyhow::anyhow!(why))?;
                let Some(at) = at else { bail!("--until {until}: wanted is a time in the future") };
                at.zoned()
            }
            (None, None) => return Ok(None),
        };
        if end <= now {
            bail!("{} has passed already", time::iso(&end));
        }
        Ok(Some(time::iso(&end)))
    }
}

/// Writes the end of the pause together with the pause itself.
pub async fn pause_until(access: &Access, scope: &str, ending: &Ending, until: &str) -> Result<()> {
    let note = caller::note(ending.reason.as_deref());
    let edit = |seen: &Seen| {
        let Some(config) = &seen.cluster.config else {
            return Err(StoreError::conflict("pause", "the cluster has no valid configuration"));
        };
        let mut paused = config.value.clone();
        paused.as_object_mut().map(|settings| settings.insert("pause".to_owned(), true.into()));
        let mut intents = seen.intents().noting(&note, Some(&config.value), &paused);
        intents.pause = Some(Intent::of(&note, Some(until.to_owned())));
        let config = (!is_paused(&config.value)).then_some(paused);
        Ok(Amendment { config, intents: Some(intents) })
    };
    let done = access.store(scope)?.amend("pause", edit, access.store_patience()).await;
    done.map(drop).with_context(|| access.named_store())
}

pub async fn keep(access: &Access, arguments: &MemberArguments, kind: IntentKind) -> Result<()> {
    let scope = access.scope(arguments.cluster.as_deref())?;
    let name: MemberName = arguments.member.parse().with_context(|| arguments.member.clone())?;
    let cluster = access.read(&scope).await?;
    if arguments.end {
        return end(access, &scope, &cluster, &name, kind).await;
    }
    let until = arguments.ending.until()?;
    check(&cluster, &name, kind)?;
    let note = caller::note(arguments.ending.reason.as_deref());
    let intent = MemberIntent { kind, intent: Intent::of(&note, until.clone()) };
    let edit = |seen: &Seen| {
        let mut intents = seen.intents();
        intents.members.insert(name.clone(), intent.clone());
        if MEMBERS_MAX < intents.members.len() {
            return Err(StoreError::conflict("write it down", "there are too many of them"));
        }
        Ok(Amendment { config: None, intents: Some(intents) })
    };
    let written = access.store(&scope)?.amend("write it down", edit, access.store_patience()).await;
    written.with_context(|| access.named_store())?;
    let state = match kind {
        IntentKind::Maintenance => "is in maintenance",
        IntentKind::Nofailover => "is not promoted",
    };
    if !is_taken_up(access, &scope, name.as_str()).await? {
        warn(format!("{name} has not taken it up yet: does its agent run?"));
    }
    match until {
        Some(until) => echo(format!("Success: {name} {state} until {}", time::local(&until))),
        None => echo(format!("Success: {name} {state} until you end it with --end")),
    }
}

fn check(cluster: &Cluster, name: &MemberName, kind: IntentKind) -> Result<()> {
    let Some(member) = cluster.member(name.as_str()) else {
        let names: Vec<&str> = cluster.members.iter().map(|member| member.name.as_str()).collect();
        let hint = format!("the members are: {}", names.join(", "));
        return Err(hinted(format!("no member of {} is named {name}", cluster.scope), hint));
    };
    if !is_ours(member) {
        let hint = "set the tags nofailover and noloadbalance in its own configuration file";
        return Err(hinted(format!("{name} is run by Patroni, which knows no intents"), hint));
    }
    if kind == IntentKind::Maintenance && cluster.leader.as_deref() == Some(name.as_str()) {
        let hint = format!("hand over first: tenurectl switchover {} --leader {name}", cluster.scope);
        return Err(hinted(format!("{name} leads"), hint));
    }
    Ok(())
}

async fn end(
    access: &Access,
    scope: &str,
    cluster: &Cluster,
    name: &MemberName,
    kind: IntentKind,
) -> Result<()> {
    let intents = cluster.intents.iter().flat_map(|intents| &intents.members);
    if !intents.into_iter().any(|(other, member)| other == name && member.kind == kind) {
        bail!("there is no {} of {name} to end", kind.word());
    }
    let edit = |seen: &Seen| {
        let mut intents = seen.intents();
        let ended = intents.members.remove(name).is_some();
        Ok(Amendment { config: None, intents: ended.then_some(intents) })
    };
    let written = access.store(scope)?.amend("end it", edit, access.store_patience()).await;
    written.with_context(|| access.named_store())?;
    echo(format!("Success: the {} of {name} has ended", kind.word()))
}

/// Its record says so, which is what the others elect by.
async fn is_taken_up(access: &Access, scope: &str, name: &str) -> Result<bool> {
    let give_up = Instant::now() + TAKEN_UP_WITHIN;
    loop {
        let cluster = access.read(scope).await?;
        if cluster.member(name).is_some_and(Member::nofailover) {
            return Ok(true);
        }
        if give_up <= Instant::now() {
            return Ok(false);
        }
        clock::pause(Span::from_ms(250)).await;
    }
}

pub fn is_ours(member: &Member) -> bool {
    member.document.get("tenure").and_then(Document::as_text).is_some()
}

pub fn no_agent_of_ours(so: &str) -> anyhow::Error {
    hinted(format!("no member of this cluster is run by Tenure: {so}"), "leave --for and --until away")
}

#[cfg(test)]
mod tests {
    use super::super::cluster::fixtures::cluster;
    use super::*;

    fn ending(length: Option<&str>, until: Option<&str>) -> Result<Option<String>> {
        let text = |text: Option<&str>| text.map(str::to_owned);
        Ending { length: text(length), until: text(until), reason: None }.until()
    }

    #[test]
    fn an_end_lies_in_the_future_and_can_be_read() {
        assert_eq!(ending(None, None).expect("it ends when it is ended"), None);
        for (length, until) in [(Some("30m"), None), (None, Some("2100-01-01T10:00Z"))] {
            let end = ending(length, until).expect("an end").expect("an end");
            assert!(end.parse::<jiff::Timestamp>().is_ok_and(|end| clock::wall() < end), "{end}");
        }
        let wrong = [
            (Some("0s"), None, "a length of at most a year"),
            (Some("soon"), None, "a length of at most a year"),
            (Some("400d"), None, "a length of at most a year"),
            (Some("99999999999999999999d"), None, "a length of at most a year"),
            (None, Some("1999-01-01T10:00Z"), "has passed already"),
            (None, Some("now"), "a time in the future"),
            (None, Some("tomorrow"), "Unable to parse"),
        ];
        for (length, until, why) in wrong {
            let error = ending(length, until).expect_err("wrong").to_string();
            assert!(error.contains(why), "{length:?} {until:?}: {error}");
        }
    }

    #[test]
    fn only_who_can_be_kept_from_something_is() {
        let keys = [("leader", "a"), ("members/a", r#"{"tenure":"1"}"#), ("members/b", "{}")];
        let cluster = cluster(&keys);
        let check = |name: &str, kind, wrong: &str| {
            let checked = check(&cluster, &name.parse().expect("a name"), kind);
            let said = checked.err().map(|error| error.to_string()).unwrap_or_default();
            assert!(said.contains(wrong) && said.is_empty() == wrong.is_empty(), "{name}: {said}");
        };
        check("a", IntentKind::Nofailover, "");
        check("a", IntentKind::Maintenance, "a leads");
        check("b", IntentKind::Maintenance, "run by Patroni");
        check("c", IntentKind::Maintenance, "no member of batman is named c");
    }
}
