//! `explain`: by which rule each member acts now, what it knows, and when it looks again; and what would come of a fault, decided by
//! the same rules on the same views.

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
use crate::decide::asked::{Account, Asked, facts};
use crate::decide::foresight::{Foreseen, primary_lost};
use crate::decide::foretold::WhatIf;
use crate::model::{MemberName, MemberRecord, Span};

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
    what_if: Option<Supposed>,
    /// The form of the output
    #[arg(short, long, value_enum, default_value_t = Format::Pretty)]
    format: Format,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Supposed {
    Fault(WhatIf),
    Ttl(Span),
}

impl std::str::FromStr for Supposed {
    type Err = String;

    fn from_str(text: &str) -> Result<Supposed, String> {
        match text.split_once('=') {
            Some(("ttl", seconds)) => match seconds.parse::<u32>() {
                Ok(seconds) if 0 < seconds => Ok(Supposed::Ttl(Span::from_secs(u64::from(seconds)))),
                Ok(_) | Err(_) => Err("ttl wants a number of seconds, as in ttl=4".to_owned()),
            },
            Some(("switchover", _)) => text.parse().map(Supposed::Fault),
            Some(_) | None => text.parse().map(Supposed::Fault).map_err(|_: String| {
                "it is primary-lost, store-lost, ttl=SECONDS or switchover=MEMBER".to_owned()
            }),
        }
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
    if asked.accounts.is_empty() && asked.silent.is_empty() {
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
        let hint = "a member remembers who the others are: ask it with --via http://HOST:8008 (or https)";
        return read.map_err(|error| hinted(format!("{error:#}"), hint));
    };
    let document = Document::Map(vec![("api_url".to_owned(), Document::text(url))]);
    let one = Member { name: "the member".to_owned(), document, version: 0 };
    let account = ask_agent(access, &one).await?;
    let known = account.view.cluster().cloned().unwrap_or_default();
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
            Ok(account) => {
                asked.accounts.insert(name, account);
            }
            Err(error) => {
                asked.silent.insert(name, format!("{error:#}"));
            }
        }
    }
    asked.note_who_is_missing();
    asked.note_who_is_gone(&cluster.gone());
    asked
}

async fn ask(access: &Access, member: &Member) -> Result<Account> {
    if member.get("tenure").is_none() {
        bail!("it is no member of Tenure's: by which rules it acts is not known");
    }
    ask_agent(access, member).await
}

pub async fn ask_agent(access: &Access, member: &Member) -> Result<Account> {
    let question = access.members.ask(member, Method::GET, Some("view"), None);
    let reply = tokio::time::timeout(PATIENCE, question).await.context("no answer in time")??;
    Ok(Account::read(reply.status, reply.text.as_bytes())?)
}

// Telling.

fn told(scope: &str, asked: &Asked, wanted: Option<&str>) -> String {
    let lost = if_lost(asked);
    let mut text = format!("{}\n", headline(scope, asked));
    for (name, account) in &asked.accounts {
        if wanted.is_some_and(|wanted| name.as_str() != wanted) {
            continue;
        }
        let entry = &account.entry;
        let step = if entry.step.is_empty() { String::new() } else { format!(" [{}]", entry.step) };
        let _ = writeln!(text, "\n{name}  {}: {}{step}", entry.rule, entry.sentence);
        for (what, fact) in facts(account) {
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
    let members = asked.accounts.iter().filter(|(name, _)| is_wanted(name)).map(|(name, account)| {
        let entry = &account.entry;
        let lost = lost.as_ref().and_then(|lost| lost.members.get(name));
        let facts: serde_json::Map<String, Value> =
            facts(account).into_iter().map(|(what, fact)| (what.to_owned(), fact.into())).collect();
        let document = json!({
            "rule": entry.rule,
            "sentence": entry.sentence,
            "step": entry.step,
            "evidence": entry.evidence,
            "facts": facts,
            "looks_again_in_ms": account.looks_again.as_ms(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_what_if_is_one_of_four() {
        let check = |text: &str, wanted: Option<Supposed>| {
            assert_eq!(text.parse::<Supposed>().ok(), wanted, "{text}");
        };
        check("primary-lost", Some(Supposed::Fault(WhatIf::PrimaryLost)));
        check("store-lost", Some(Supposed::Fault(WhatIf::StoreLost)));
        check("ttl=4", Some(Supposed::Ttl(Span::from_secs(4))));
        let to = WhatIf::Switchover("db-2".parse().expect("a name"));
        check("switchover=db-2", Some(Supposed::Fault(to)));
        for wrong in ["", "ttl", "ttl=0", "ttl=soon", "switchover", "switchover=", "rain"] {
            check(wrong, None);
        }
    }
}
