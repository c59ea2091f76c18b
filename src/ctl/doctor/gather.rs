//! Asks the store, every member and the name server, all at the same time and none of them for ever. Whoever does not answer is part of
//! what is found.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::future::join_all;
use hyper::Method;
use serde_json::Value;
use tokio::time::timeout;

use crate::clock;
use crate::config::timing_of;
use crate::ctl::access::Access;
use crate::ctl::cluster::{Cluster, Member};
use crate::ctl::explain::{ask_agent, members_of};
use crate::doctor::{Clock, Facts, HostFacts, MemberFacts, Rest, StoreFacts, Untold};
use crate::model::{SyncMode, Timing, View};
use crate::peers::addresses;

/// An agent takes some seconds for its examination.
const PATIENCE: Duration = Duration::from_secs(12);

pub async fn facts(access: &Access, scope: &str, via: Option<&str>) -> Result<Facts> {
    let cluster = members_of(access, scope, via).await?;
    let (store, mut members) = tokio::join!(
        store(access, scope),
        join_all(cluster.members.iter().map(|member| examine(access, member))),
    );
    for name in absent(&cluster, &members) {
        members.push(MemberFacts::nobody(name));
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
        rest: member.api_url().and_then(Rest::of),
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
    let account = match ask_agent(access, member).await {
        Ok(account) => account,
        Err(error) => {
            let why = format!("{error:#}");
            return (Err(why.clone()), None, Err(Untold::Silent(why)));
        }
    };
    let clock = Clock::beside(account.unix_ms, before, clock::now().since(asked).as_ms());
    (Ok(Box::new(account.present_view())), Some(clock), host(access, member).await)
}

pub async fn host(access: &Access, member: &Member) -> Result<HostFacts, Untold> {
    let question = access.members.ask(member, Method::GET, Some("doctor"), None);
    let reply = timeout(PATIENCE, question).await.context("no answer in time").and_then(|reply| reply);
    let reply = reply.map_err(|error| Untold::Silent(format!("{error:#}")))?;
    HostFacts::read(reply.status, reply.text.as_bytes())
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
