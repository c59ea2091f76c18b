//! Asks the store, every member and the name server, all at the same time and none of them for ever. Whoever does not answer is part of
//! what is found.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::future::join_all;
use hyper::{Method, Uri};
use serde_json::Value;
use tokio::net::lookup_host;
use tokio::time::timeout;

use crate::clock;
use crate::config::timing_of;
use crate::ctl::access::Access;
use crate::ctl::cluster::{Cluster, Member};
use crate::ctl::explain::{Standing, ask_agent, members_of};
use crate::doctor::{Clock, Facts, HostFacts, MemberFacts, Rest, StoreFacts, Untold};
use crate::model::{SyncMode, Timing, View};

/// An agent takes some seconds for its examination.
const PATIENCE: Duration = Duration::from_secs(12);
const NAMES_WITHIN: Duration = Duration::from_secs(2);
const DOWN: &str = "it has no record in the store: it is down, or cut off";

pub async fn facts(access: &Access, scope: &str, via: Option<&str>) -> Result<Facts> {
    let cluster = members_of(access, scope, via).await?;
    let (store, mut members) = tokio::join!(
        store(access, scope),
        join_all(cluster.members.iter().map(|member| examine(access, member))),
    );
    for name in absent(&cluster, &members) {
        members.push(nobody(name));
    }
    members.sort_by(|one, other| one.name.cmp(&other.name));
    let view = members.iter().find_map(|member| member.view.as_deref().ok());
    let (timing, refused) = timing(&cluster, view);
    let policy = view.map(|view| &view.policy).filter(|_| cluster.config.is_none());
    Ok(Facts {
        scope: scope.to_owned(),
        leader: cluster.leader.clone(),
        timing,
        timing_refused: refused,
        paused: policy.map_or(cluster.is_paused(), |policy| policy.pause),
        synchronous: policy.map_or(cluster.is_synchronous(), |policy| policy.sync.mode != SyncMode::Off),
        members,
        store,
        haproxy: None,
        unix_ms: clock::wall_ms(),
    })
}

/// As the agents read it; where the store does not tell, as one of them has.
fn timing(cluster: &Cluster, view: Option<&View>) -> (Timing, Option<String>) {
    match (&cluster.config, view) {
        (None, Some(view)) => (view.policy.timing, None),
        (config, _) => match timing_of(config.as_ref().map_or(&Value::Null, |config| &config.value)) {
            Ok(timing) => (timing, None),
            Err(error) => (error.timing, Some(error.to_string())),
        },
    }
}

async fn store(access: &Access, scope: &str) -> Result<StoreFacts, String> {
    let store = access.store(scope).map_err(|error| format!("{error:#}"))?;
    let told = store.vitals(access.store_patience()).await;
    let mut facts = told.map_err(|error| format!("{:#}", anyhow::Error::from(error)))?;
    for server in &mut facts.servers {
        server.addresses = addresses(&server.host).await;
    }
    Ok(facts)
}

async fn examine(access: &Access, member: &Member) -> MemberFacts {
    let foreign = member.get("tenure").is_none();
    let address = member.address();
    let host = address.as_ref().map(|address| address.host.clone());
    let (addresses, asked) = tokio::join!(
        async {
            match &host {
                Some(host) => addresses(host).await,
                None => BTreeSet::new(),
            }
        },
        async { if foreign { None } else { Some(ask(access, member).await) } },
    );
    let (view, clock, told) = match asked {
        None => (Err("it is one of Patroni's".to_owned()), None, Err(Untold::NotOurs)),
        Some(asked) => asked,
    };
    let state = member.text("replication_state").or(member.text("state"));
    MemberFacts {
        name: member.name.clone(),
        foreign,
        may_lead: !member.nofailover(),
        state: state.map(str::to_owned),
        pending_restart: member.is_on("pending_restart"),
        host,
        port: address.map(|address| address.port),
        rest: member.api_url().and_then(rest),
        addresses,
        view,
        clock,
        told,
    }
}

type Asked = (Result<Box<View>, String>, Option<Clock>, Result<HostFacts, Untold>);

/// First what takes no time, so that the clocks can be compared, then the examination.
async fn ask(access: &Access, member: &Member) -> Asked {
    let (asked, before) = (clock::now(), clock::wall_ms());
    let standing = match ask_agent(access, member).await {
        Ok(standing) => standing,
        Err(error) => {
            let why = format!("{error:#}");
            return (Err(why.clone()), None, Err(Untold::Silent(why)));
        }
    };
    let took = clock::now().since(asked).as_ms();
    let Standing { view, moment, unix_ms, .. } = standing;
    // It has answered at some time in between.
    let here = i128::from(before) + i128::from(took / 2);
    let ahead = i64::try_from(i128::from(unix_ms) - here).unwrap_or(i64::MAX);
    let clock = Clock { ahead_ms: ahead, within_ms: took / 2 + 1 };
    // As old as it is, it is what would be decided upon now.
    let view = View { now: moment, ..view };
    (Ok(Box::new(view)), Some(clock), host(access, member).await)
}

async fn host(access: &Access, member: &Member) -> Result<HostFacts, Untold> {
    let question = access.members.ask(member, Method::GET, Some("doctor"), None);
    let reply = timeout(PATIENCE, question).await.context("no answer in time").and_then(|reply| reply);
    let reply = reply.map_err(|error| Untold::Silent(format!("{error:#}")))?;
    match serde_json::from_str::<Value>(&reply.text) {
        Ok(mut document) if reply.status == 200 => {
            let facts = document.get_mut("facts").map(Value::take).unwrap_or_default();
            serde_json::from_value(facts)
                .map_err(|error| Untold::Older(format!("its answer is not understood: {error}")))
        }
        // As to any path that it does not know, it tells how it is.
        Ok(_) => Err(Untold::Older(format!("it answers {} to /doctor", reply.status))),
        Err(_) => Err(Untold::Silent(reply.text)),
    }
}

/// Members that have no record any more, by what the others still know of them.
fn absent(cluster: &Cluster, members: &[MemberFacts]) -> BTreeSet<String> {
    let views = members.iter().filter_map(|member| member.view.as_ref().ok());
    let known = views.flat_map(|view| view.memory.electorate.keys().map(ToString::to_string));
    let mut absent: BTreeSet<String> = known.chain(cluster.gone()).collect();
    for member in members {
        absent.remove(&member.name);
    }
    absent
}

fn nobody(name: String) -> MemberFacts {
    MemberFacts {
        name,
        foreign: false,
        may_lead: true,
        state: None,
        pending_restart: false,
        host: None,
        port: None,
        rest: None,
        addresses: BTreeSet::new(),
        view: Err(DOWN.to_owned()),
        clock: None,
        told: Err(Untold::Silent(DOWN.to_owned())),
    }
}

fn rest(url: &str) -> Option<Rest> {
    let uri: Uri = url.parse().ok()?;
    let tls = match uri.scheme_str()? {
        "https" => true,
        "http" => false,
        _ => return None,
    };
    let host = uri.host()?.trim_start_matches('[').trim_end_matches(']').to_owned();
    Some(Rest { tls, host, port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }) })
}

async fn addresses(host: &str) -> BTreeSet<String> {
    match timeout(NAMES_WITHIN, lookup_host((host, 0))).await {
        Ok(Ok(found)) => found.map(|address| address.ip().to_canonical().to_string()).collect(),
        Ok(Err(_)) | Err(_) => BTreeSet::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::cluster::fixtures::cluster;

    #[test]
    fn timing_comes_from_the_store_and_is_refused_as_agents_refuse_it() {
        let check = |config: &str| timing(&cluster(&[("config", config)]), None);
        assert_eq!(check(r#"{"ttl": 12}"#).0.ttl.as_ms(), 12_000);
        assert!(check(r#"{"ttl": 4}"#).1.is_some_and(|why| why.contains("leaves 2 s for renewing")));
        assert_eq!(timing(&cluster(&[]), None).0.ttl.as_ms(), 30_000);
    }

    #[test]
    fn who_has_no_record_any_more_is_not_forgotten() {
        let cluster = cluster(&[("members/a", "{}"), ("status", r#"{"optime":1,"retain_slots":["a","b"]}"#)]);
        assert_eq!(absent(&cluster, &[nobody("a".to_owned())]), ["b".to_owned()].into());
    }

    #[test]
    fn a_url_says_where_checks_should_go() {
        let found = rest("https://[fd00::1]:8008/patroni");
        assert_eq!(found, Some(Rest { tls: true, host: "fd00::1".to_owned(), port: 8008 }));
        assert_eq!(rest("nonsense"), None);
    }
}
