//! `explain`: by which rule each member acts now, what it knows, and when it looks again; and what would come of a fault, decided by
//! the same rules on the same views.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use futures_util::future::join_all;
use hyper::Method;
use serde_json::{Value, json};

use super::access::Access;
use super::cluster::{Cluster, Member};
use super::console::{hinted, print};
use super::document::Document;
use super::table::Format;
use super::{UsageError, foresee, yaml};
use crate::decide::fitness_told;
use crate::decide::foresight::{Foreseen, Live, primary_lost};
use crate::model::{
    Contact, Entry, Fitness, Guardian, Intents, Lsn, MemberName, MemberRecord, Moment, Position, Running,
    Span, SyncMode, View, Watchdog,
};

/// Whoever does not answer for so long counts as silent.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub struct ExplainArguments {
    /// Only this member
    member_name: Option<String>,
    /// The cluster [default: the configured scope]
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    /// Ask this member's REST API who the members are, where the store does not answer: http://HOST:8008
    #[arg(long, value_name = "URL")]
    via: Option<String>,
    /// What would happen: primary-lost, store-lost, ttl=SECONDS or switchover=MEMBER
    #[arg(long = "if", value_name = "WHAT")]
    what_if: Option<WhatIf>,
    /// The form of the output
    #[arg(short, long, value_enum, default_value_t = Format::Pretty)]
    format: Format,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhatIf {
    PrimaryLost,
    StoreLost,
    Ttl(Span),
    Switchover(MemberName),
}

impl std::str::FromStr for WhatIf {
    type Err = String;

    fn from_str(text: &str) -> Result<WhatIf, String> {
        match text.split_once('=') {
            None if text == "primary-lost" => Ok(WhatIf::PrimaryLost),
            None if text == "store-lost" => Ok(WhatIf::StoreLost),
            Some(("ttl", seconds)) => match seconds.parse::<u32>() {
                Ok(seconds) if 0 < seconds => Ok(WhatIf::Ttl(Span::from_secs(u64::from(seconds)))),
                Ok(_) | Err(_) => Err("ttl wants a number of seconds, as in ttl=4".to_owned()),
            },
            Some(("switchover", name)) => {
                name.parse().map(WhatIf::Switchover).map_err(|error| format!("{error}"))
            }
            Some(_) | None => {
                Err("it is primary-lost, store-lost, ttl=SECONDS or switchover=MEMBER".to_owned())
            }
        }
    }
}

/// What a member has said of itself just now.
#[derive(Clone, Debug)]
pub struct Standing {
    pub entry: Entry,
    pub view: View,
    /// Now, on its clocks.
    pub moment: Moment,
    pub unix_ms: u64,
    pub looks_again: Span,
}

/// Everybody who was asked.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    pub standings: BTreeMap<MemberName, Standing>,
    /// Who has not told, and why.
    pub silent: BTreeMap<MemberName, String>,
    /// Whom nobody asks any more.
    pub gone: BTreeMap<MemberName, String>,
}

impl Asked {
    pub fn live(&self) -> Live {
        let views = self.standings.iter().map(|(name, standing)| {
            // As old as it is, it is what would be decided upon now.
            (name.clone(), View { now: standing.moment, ..standing.view.clone() })
        });
        Live { views: views.collect(), silent: self.silent.keys().cloned().collect() }
    }
}

pub async fn explain(access: &Access, arguments: &ExplainArguments) -> Result<()> {
    if arguments.format == Format::Tsv {
        bail!(UsageError("an explanation has no rows: use -f pretty, json or yaml".to_owned()));
    }
    let scope = access.scope(arguments.cluster.as_deref())?;
    let store = access.store(&scope)?;
    let cluster = members_of(access, &scope, arguments.via.as_deref()).await?;
    let asked = ask_everybody(access, &cluster).await;
    if asked.standings.is_empty() && asked.silent.is_empty() {
        return Err(hinted(
            format!("the cluster {scope} has no members in {}", access.whereabouts()),
            "members that are down have no record there: look at them with `systemctl status tenured`",
        ));
    }
    let (text, document) = match &arguments.what_if {
        None => {
            let wanted = arguments.member_name.as_deref();
            if let Some(wanted) = wanted.filter(|wanted| !asked.knows(wanted)) {
                bail!("there is no member {wanted} in {scope}");
            }
            (told(&scope, &asked, wanted), documented(&scope, &asked, wanted))
        }
        Some(_) if arguments.member_name.is_some() => {
            bail!(UsageError("--if is about the whole cluster: leave the member out".to_owned()));
        }
        Some(what) => foresee::told(&store, access.store_patience(), &asked, what).await?,
    };
    print(&match arguments.format {
        Format::Pretty | Format::Tsv => text,
        Format::Json => format!("{}\n", Document::from(&document).to_json()),
        Format::Yaml => yaml::block(&Document::from(&document)),
    })
}

// Asking.

/// By the store's word, or by what a member has last heard of the store.
pub async fn members_of(access: &Access, scope: &str, via: Option<&str>) -> Result<Cluster> {
    let Some(url) = via else {
        let read = access.read(scope).await;
        let hint = "a member remembers who the others are: ask it with --via http://HOST:8008";
        return read.map_err(|error| hinted(format!("{error:#}"), hint));
    };
    let document = Document::Map(vec![("api_url".to_owned(), Document::text(url))]);
    let one = Member { name: "the member".to_owned(), document, version: 0 };
    let standing = ask_agent(access, &one).await?;
    let known = standing.view.cluster().cloned().unwrap_or_default();
    let member = |(name, record): (&MemberName, &MemberRecord)| Member {
        name: name.to_string(),
        document: Document::from(&serde_json::to_value(record).unwrap_or_default()),
        version: 0,
    };
    let leader = known.leader_name().map(ToString::to_string);
    Ok(Cluster {
        scope: scope.to_owned(),
        leader,
        members: known.members.iter().map(member).collect(),
        retained_slots: known.status.retain_slots.clone(),
        ..Cluster::default()
    })
}

async fn ask_everybody(access: &Access, cluster: &Cluster) -> Asked {
    let mut asked = Asked::default();
    let answers = join_all(cluster.members.iter().map(|member| ask(access, member))).await;
    for (member, answer) in cluster.members.iter().zip(answers) {
        let Ok(name) = member.name.parse::<MemberName>() else { continue };
        match answer {
            Ok(standing) => {
                asked.standings.insert(name, standing);
            }
            Err(error) => {
                asked.silent.insert(name, format!("{error:#}"));
            }
        }
    }
    // Whoever is down has no record any more; those who saw it in the last term still know it.
    let known: BTreeSet<MemberName> = asked
        .standings
        .values()
        .flat_map(|standing| standing.view.memory.electorate.keys().cloned())
        .collect();
    for name in known.into_iter().filter(|name| !asked.standings.contains_key(name)) {
        asked
            .silent
            .entry(name)
            .or_insert_with(|| "it has no record in the store: it is down, or cut off".to_owned());
    }
    for name in cluster.gone().iter().filter_map(|name| name.parse::<MemberName>().ok()) {
        if !asked.knows(name.as_str()) {
            let why =
                "its slot is still kept, but it has no record in the store: it is down, cut off or gone";
            asked.gone.insert(name, why.to_owned());
        }
    }
    asked
}

async fn ask(access: &Access, member: &Member) -> Result<Standing> {
    if member.get("tenure").is_none() {
        bail!("it is no member of Tenure's: by which rules it acts is not known");
    }
    ask_agent(access, member).await
}

pub async fn ask_agent(access: &Access, member: &Member) -> Result<Standing> {
    let question = access.members.ask(member, Method::GET, Some("view"), None);
    let reply = tokio::time::timeout(PATIENCE, question).await.context("no answer in time")??;
    if reply.status != 200 {
        bail!("it answers {} to /view; is it of an older version?", reply.status);
    }
    let document: Value = serde_json::from_str(&reply.text).context("understand the answer")?;
    let number =
        |name: &str| document.get(name).and_then(Value::as_u64).with_context(|| format!("no {name} is told"));
    let entry = Entry::read(&document.get("entry").cloned().unwrap_or_default().to_string())?;
    Ok(Standing {
        view: entry.view()?,
        moment: Moment::from_ms(number("moment")?),
        unix_ms: number("unix_ms")?,
        looks_again: Span::from_ms(number("looks_again_in_ms")?),
        entry: entry.without_view(),
    })
}

impl Asked {
    fn knows(&self, name: &str) -> bool {
        self.standings.contains_key(name) || self.unknown().any(|(unknown, _)| unknown.as_str() == name)
    }

    pub fn unknown(&self) -> impl Iterator<Item = (&MemberName, &String)> {
        self.silent.iter().chain(&self.gone)
    }
}

// Telling.

fn told(scope: &str, asked: &Asked, wanted: Option<&str>) -> String {
    let lost = if_lost(asked);
    let mut text = format!("{}\n", headline(scope, asked));
    for (name, standing) in &asked.standings {
        if wanted.is_some_and(|wanted| name.as_str() != wanted) {
            continue;
        }
        let entry = &standing.entry;
        let step = if entry.step.is_empty() { String::new() } else { format!(" [{}]", entry.step) };
        let _ = writeln!(text, "\n{name}  {}: {}{step}", entry.rule, entry.sentence);
        for (what, fact) in facts(standing) {
            let _ = writeln!(text, "  {what:12}  {fact}");
        }
        if let Some((leader, reason)) =
            lost.as_ref().and_then(|lost| Some((&lost.leader, lost.members.get(name)?)))
        {
            let _ =
                writeln!(text, "  {:12}  {}: {reason}", format!("if {leader} is lost"), reason.rule.code());
        }
    }
    for (name, why) in asked.unknown() {
        if wanted.is_none_or(|wanted| name.as_str() == wanted) {
            let _ = writeln!(text, "\n{name}  not known: {why}");
        }
    }
    text
}

fn headline(scope: &str, asked: &Asked) -> String {
    match asked.live().leader() {
        Ok(leader) => format!("{scope} is led by {leader}"),
        Err(why) => format!("{scope}: {why}"),
    }
}

fn if_lost(asked: &Asked) -> Option<Foreseen> {
    primary_lost(&asked.live()).ok()
}

fn documented(scope: &str, asked: &Asked, wanted: Option<&str>) -> Value {
    let lost = if_lost(asked);
    let is_wanted = |name: &MemberName| wanted.is_none_or(|wanted| name.as_str() == wanted);
    let members = asked.standings.iter().filter(|(name, _)| is_wanted(name)).map(|(name, standing)| {
        let entry = &standing.entry;
        let lost = lost.as_ref().and_then(|lost| lost.members.get(name));
        let facts: serde_json::Map<String, Value> =
            facts(standing).into_iter().map(|(what, fact)| (what.to_owned(), fact.into())).collect();
        let document = json!({
            "rule": entry.rule,
            "sentence": entry.sentence,
            "step": entry.step,
            "evidence": entry.evidence,
            "facts": facts,
            "looks_again_in_ms": standing.looks_again.as_ms(),
            "if_the_leader_is_lost": lost.map(|reason| json!({"rule": reason.rule, "sentence": reason.to_string()})),
        });
        (name.to_string(), document)
    });
    let members: serde_json::Map<String, Value> = members.collect();
    let unknown: serde_json::Map<String, Value> = (asked.unknown().filter(|(name, _)| is_wanted(name)))
        .map(|(name, why)| (name.to_string(), why.clone().into()))
        .collect();
    json!({"cluster": scope, "leader": asked.live().leader().ok(), "members": members, "unknown": unknown})
}

/// What a decision goes by, as far as a reader wants to see it.
fn intents(view: &View) -> Option<&Intents> {
    Some(&view.cluster()?.intents.as_ref()?.value)
}

fn facts(standing: &Standing) -> Vec<(&'static str, String)> {
    let (view, evidence, now) = (&standing.view, &standing.entry.evidence, standing.moment);
    let mut facts = Vec::new();
    let mut fact = |what, text: String| facts.push((what, text));
    let reached = evidence.position.map(|at| place(at, evidence.leader_end, view)).unwrap_or_default();
    fact("PostgreSQL", format!("{}{reached}", evidence.postgres));
    if let Some(lease) = &view.lease {
        let left = now.until(lease.demote_at());
        fact(
            "lease",
            format!(
                "term {}, {left} left to act on it, {} until the guardian kills",
                lease.term,
                now.until(lease.fence_at())
            ),
        );
    }
    let since = match view.store.contact {
        Contact::Silent { since } => format!(" for {}", now.since(since)),
        Contact::Never | Contact::Current => String::new(),
    };
    let leader = match (&evidence.leader, view.memory.no_leader_since) {
        (Some(leader), _) => format!("{leader} leads"),
        (None, Some(since)) => format!("nobody has led for {}", now.since(since)),
        (None, None) => "nobody leads".to_owned(),
    };
    fact("store", format!("{}{since}; by its last word {leader}", evidence.store));
    fact("guardian", guardian(view, now));
    if !matches!(view.watchdog, Watchdog::Unknown | Watchdog::Off) {
        fact("watchdog", view.watchdog.to_string());
    }
    match fitness_told(view, now) {
        Fitness::Fit => {}
        fitness @ (Fitness::LastResort | Fitness::Unfit) => fact("fitness", fitness.word().to_owned()),
    }
    if !view.tags.is_empty() {
        let tags = view.tags.0.iter().map(|(tag, value)| format!("{tag}={value}"));
        fact("tags", tags.collect::<Vec<_>>().join(", "));
    }
    if view.policy.pause {
        let intent = intents(view).and_then(|intents| intents.pause.as_ref());
        let whose = intent.map(|pause| format!(" {pause}")).unwrap_or_default();
        fact("pause", format!("maintenance mode is on{whose}"));
    }
    if let Some(kept) = intents(view).and_then(|intents| intents.members.get(&view.me)) {
        fact(kept.kind.word(), kept.intent.to_string());
    }
    if view.policy.sync.mode != SyncMode::Off {
        fact("synchronous", synchrony(view));
    }
    if let Some(request) =
        view.cluster().and_then(|cluster| cluster.failover.as_ref()).filter(|r| !r.value.is_empty())
    {
        let to = request.value.candidate.as_ref().map_or("anybody", MemberName::as_str);
        let at = request.value.scheduled_at.as_ref().map(|at| format!(" at {at}")).unwrap_or_default();
        let whose = request.value.whose.as_ref().map(|whose| format!(", {whose}")).unwrap_or_default();
        fact("request", format!("that {to} leads{at}{whose}"));
    }
    if let Some(running) = &view.work.job {
        fact("work", format!("{}, for {}", running.job.name(), now.since(running.since)));
    }
    if let Some(promise) = view.memory.promise.as_ref().filter(|promise| now < promise.until) {
        fact("promise", format!("to leave the lease to {} for {}", promise.to, now.until(promise.until)));
    }
    fact("looks again", format!("in {}, or as soon as anything changes", standing.looks_again));
    facts
}

fn place(at: Position, leader_end: Option<Lsn>, view: &View) -> String {
    let mut text = format!(", timeline {} at {}", at.timeline, at.lsn);
    if let Some(end) = leader_end.filter(|_| !view.postgres.is_primary()) {
        let _ = write!(text, ", {} behind the leader's last word", at.lsn.lag_behind(end));
    }
    match view.postgres.running().map(Running::unreplayed) {
        Some(0) | None => {}
        Some(bytes) => {
            let _ = write!(text, ", {} not replayed", crate::model::Lag(bytes));
        }
    }
    text
}

pub fn guardian(view: &View, now: Moment) -> String {
    match view.guardian {
        Guardian::Absent => "none answers".to_owned(),
        Guardian::Ready { .. } if view.guardian.is_armed(now) => "armed".to_owned(),
        Guardian::Ready { .. } => "ready".to_owned(),
    }
}

fn synchrony(view: &View) -> String {
    let mode = match view.policy.sync.mode {
        SyncMode::Off => "off",
        SyncMode::On => "on",
        SyncMode::Quorum => "quorum",
    };
    match view.cluster().and_then(|cluster| cluster.sync.as_ref()).map(|sync| &sync.value) {
        Some(state) => {
            let names: Vec<&str> = state.standbys.iter().map(MemberName::as_str).collect();
            let leader = state.leader.as_ref().map_or("nobody", MemberName::as_str);
            format!(
                "{mode}; /sync names {leader} as leader, standbys [{}], quorum {}",
                names.join(", "),
                state.quorum
            )
        }
        None => format!("{mode}; there is no /sync yet"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_what_if_is_one_of_four() {
        let check =
            |text: &str, wanted: Option<WhatIf>| assert_eq!(text.parse::<WhatIf>().ok(), wanted, "{text}");
        check("primary-lost", Some(WhatIf::PrimaryLost));
        check("store-lost", Some(WhatIf::StoreLost));
        check("ttl=4", Some(WhatIf::Ttl(Span::from_secs(4))));
        check("switchover=db-2", Some(WhatIf::Switchover("db-2".parse().expect("a name"))));
        for wrong in ["", "ttl", "ttl=0", "ttl=soon", "switchover", "switchover=", "rain"] {
            check(wrong, None);
        }
    }
}
