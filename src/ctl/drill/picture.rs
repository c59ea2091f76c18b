//! How the members stand at one moment, as each of them says; whether the fault has happened, and whether the cluster is whole again. Asking
//! is here as well; judging is pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::future::join_all;
use hyper::Method;
use serde::Serialize;
use serde_json::Value;
use tokio::time::timeout;

use super::Fault;
use crate::ctl::access::Access;
use crate::ctl::cluster::Member;
use crate::ctl::explain::ask_agent;
use crate::doctor::HostFacts;
use crate::model::Moment;

/// Whoever does not answer for so long is down for this purpose.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Picture {
    pub leader: Option<String>,
    pub members: BTreeMap<String, Seen>,
}

/// One member, by its own word.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Seen {
    pub role: String,
    pub state: String,
    pub timeline: Option<u64>,
    pub streams: bool,
    /// When its PostgreSQL was started.
    pub postgres_since: Option<String>,
    /// When this life of its agent began, on its boot clock.
    pub agent_since: Option<Moment>,
    /// Nothing else is known of it then.
    pub silent: Option<String>,
}

/// `known`: members that have to be told of, whether the store still knows them or not.
pub async fn take<'a>(
    access: &Access,
    scope: &str,
    known: impl IntoIterator<Item = &'a String>,
) -> Result<Picture> {
    let cluster = &access.read(scope).await?;
    let there = cluster.members.iter().map(|member| member.name.clone());
    let names: BTreeSet<String> = known.into_iter().cloned().chain(there).collect();
    let asked = join_all(names.into_iter().map(|name| async move {
        let seen = match cluster.member(&name) {
            None => Seen { silent: Some("it has no record in the store".to_owned()), ..Seen::default() },
            Some(member) => ask_member(access, member)
                .await
                .unwrap_or_else(|error| Seen { silent: Some(format!("{error:#}")), ..Seen::default() }),
        };
        (name, seen)
    }));
    Ok(Picture { members: asked.await.into_iter().collect(), leader: cluster.leader.clone() })
}

async fn ask_member(access: &Access, member: &Member) -> Result<Seen> {
    let question = access.members.ask(member, Method::GET, Some("patroni"), None);
    let reply = timeout(PATIENCE, question).await.context("no answer in time")??;
    let document: Value = serde_json::from_str(&reply.text).context("understand the answer")?;
    let text = |name: &str| document.get(name).and_then(Value::as_str).map(str::to_owned);
    let agent_since = match document.get("tenure") {
        None => None,
        Some(_) => ask_agent(access, member).await?.entry.evidence.agent_since,
    };
    Ok(Seen {
        role: text("role").unwrap_or_default(),
        state: text("state").unwrap_or_default(),
        timeline: document.get("timeline").and_then(Value::as_u64),
        streams: text("replication_state").as_deref() == Some("streaming"),
        postgres_since: text("postmaster_start_time"),
        agent_since,
        silent: None,
    })
}

/// The boot of a member's machine; none where it does not tell.
pub async fn boot(access: &Access, member: &Member) -> Option<String> {
    let question = access.members.ask(member, Method::GET, Some("doctor"), None);
    let reply = timeout(PATIENCE * 3, question).await.ok()?.ok()?;
    let mut document: Value = serde_json::from_str(&reply.text).ok()?;
    let facts = document.get_mut("facts").map(Value::take)?;
    serde_json::from_value::<HostFacts>(facts).ok()?.boot_id
}

impl Picture {
    /// The fault has left its trace on the member that it was for.
    pub fn shows(&self, fault: Fault, target: &str, before: &Picture) -> bool {
        let (Some(then), now) = (before.members.get(target), self.members.get(target)) else { return false };
        let now = now.filter(|seen| seen.silent.is_none());
        match fault {
            Fault::Switchover => self.leader.as_deref().is_some_and(|leader| leader != target),
            Fault::Postmaster => now
                .is_some_and(|now| now.postgres_since.is_some() && now.postgres_since != then.postgres_since),
            Fault::Agent | Fault::Host => {
                now.is_some_and(|now| now.agent_since.is_some() && now.agent_since != then.agent_since)
            }
        }
    }

    /// What is still wanting, one sentence for each; nothing if everybody who was there is where it belongs.
    pub fn wanting(&self, before: &Picture) -> Vec<String> {
        let Some(leader) = &self.leader else { return vec!["nobody leads".to_owned()] };
        let led = self.members.get(leader).filter(|seen| seen.silent.is_none());
        let Some(led) = led else { return vec![format!("{leader} leads, and does not answer")] };
        let mut wanting = Vec::new();
        if led.state != "running" || !["primary", "master"].contains(&led.role.as_str()) {
            wanting.push(format!("{leader} leads, and its PostgreSQL is {} ({})", led.role, led.state));
        }
        for name in before.members.keys().filter(|name| *name != leader) {
            match self.members.get(name) {
                None => wanting.push(format!("{name} is not there")),
                Some(Seen { silent: Some(why), .. }) => wanting.push(format!("{name}: {why}")),
                Some(seen) if !seen.streams => {
                    wanting.push(format!("{name} does not stream ({})", seen.state));
                }
                Some(seen) if seen.timeline != led.timeline => {
                    wanting.push(format!("{name} is on another timeline than {leader}"));
                }
                Some(_) => {}
            }
        }
        wanting
    }
}

impl Seen {
    pub fn told(&self, leads: bool) -> String {
        if let Some(why) = &self.silent {
            return format!("silent: {why}");
        }
        let timeline = self.timeline.map(|timeline| format!(", timeline {timeline}")).unwrap_or_default();
        let streams = if self.streams { ", streaming" } else { "" };
        let leads = if leads { ", leads" } else { "" };
        format!("{}, {}{streams}{timeline}{leads}", self.role, self.state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(role: &str, streams: bool, timeline: u64) -> Seen {
        Seen {
            role: role.to_owned(),
            state: "running".to_owned(),
            timeline: Some(timeline),
            streams,
            postgres_since: Some("then".to_owned()),
            agent_since: Some(Moment::from_ms(5)),
            silent: None,
        }
    }

    fn picture() -> Picture {
        let members = [("a", seen("primary", false, 1)), ("b", seen("replica", true, 1))];
        let members = members.map(|(name, seen)| (name.to_owned(), seen)).into();
        Picture { leader: Some("a".to_owned()), members }
    }

    fn spoilt(spoil: impl Fn(&mut Picture)) -> Picture {
        let mut picture = picture();
        spoil(&mut picture);
        picture
    }

    fn member<'a>(picture: &'a mut Picture, name: &str) -> &'a mut Seen {
        picture.members.get_mut(name).expect("it is there")
    }

    #[test]
    fn a_cluster_is_whole_when_everybody_is_back() {
        let check = |spoil: fn(&mut Picture), wanted: &[&str]| {
            assert_eq!(spoilt(spoil).wanting(&picture()), wanted);
        };
        check(|_| {}, &[]);
        check(|now| now.leader = None, &["nobody leads"]);
        check(|now| drop(now.members.remove("b")), &["b is not there"]);
        check(|now| member(now, "b").silent = Some("gone".to_owned()), &["b: gone"]);
        check(|now| member(now, "a").silent = Some("gone".to_owned()), &["a leads, and does not answer"]);
        check(|now| member(now, "b").streams = false, &["b does not stream (running)"]);
        check(|now| member(now, "b").timeline = Some(2), &["b is on another timeline than a"]);
        check(
            |now| member(now, "a").state = "starting".to_owned(),
            &["a leads, and its PostgreSQL is primary (starting)"],
        );
        let swapped = |now: &mut Picture| {
            now.leader = Some("b".to_owned());
            *member(now, "a") = seen("replica", true, 2);
            *member(now, "b") = seen("primary", false, 2);
        };
        check(swapped, &[]);
    }

    #[test]
    fn each_fault_leaves_a_trace() {
        let check = |fault, spoil: fn(&mut Picture), wanted| {
            assert_eq!(spoilt(spoil).shows(fault, "a", &picture()), wanted, "{fault:?}");
        };
        for fault in [Fault::Switchover, Fault::Postmaster, Fault::Agent, Fault::Host] {
            check(fault, |_| {}, false);
        }
        check(Fault::Switchover, |now| now.leader = Some("b".to_owned()), true);
        check(Fault::Switchover, |now| now.leader = None, false);
        check(Fault::Postmaster, |now| member(now, "a").postgres_since = Some("now".to_owned()), true);
        check(Fault::Postmaster, |now| member(now, "a").postgres_since = None, false);
        for fault in [Fault::Agent, Fault::Host] {
            check(fault, |now| member(now, "a").agent_since = Some(Moment::from_ms(4)), true);
            check(fault, |now| member(now, "a").silent = Some("no answer".to_owned()), false);
        }
    }
}
