//! `/ui/doctor`: what `tenurectl doctor` tells, gathered from here: every member, the store and the name server, none of them for ever.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value;
use tokio::time::timeout;

use crate::clock;
use crate::config::timing_of;
use crate::decide::asked::Account;
use crate::doctor::{Clock, Facts, HostFacts, MemberFacts, Rest, StoreFacts, Untold, examine};
use crate::model::{Cluster, MemberName, MemberRecord, Standing, SyncMode, View};
use crate::peers::addresses;

use super::super::answer::Answer;
use super::super::server::Api;
use super::super::status::state_text;
use super::super::{checkup, recorded};
use super::asking;

/// All of it together is shorter than a connection lives.
const VIEW_WITHIN: Duration = Duration::from_millis(1_500);
const HOST_WITHIN: Duration = Duration::from_millis(6_500);
const STORE_WITHIN: Duration = Duration::from_secs(3);
const BYTES_MAX: usize = 1 << 20;

pub async fn doctor(api: &Api) -> Answer {
    let facts = gather(api).await;
    let report = examine(&facts);
    Answer::json(200, &report.document(&facts.scope, facts.leader.as_deref()))
}

async fn gather(api: &Api) -> Facts {
    let standing = api.standing();
    let members = asking::members(&standing);
    let (store, mut told) = tokio::join!(
        store(api),
        join_all(members.iter().map(|(name, record)| member(api, &standing, name, record))),
    );
    let cluster = standing.view.cluster();
    let views = told.iter().filter_map(|member: &MemberFacts| member.view.as_ref().ok());
    let mut absent: BTreeSet<String> = views
        .flat_map(|view| view.memory.electorate.keys().map(ToString::to_string))
        .chain(cluster.map(Cluster::gone).unwrap_or_default())
        .collect();
    for member in &told {
        absent.remove(&member.name);
    }
    told.extend(absent.into_iter().map(MemberFacts::nobody));
    told.sort_by(|one, other| one.name.cmp(&other.name));
    let config = cluster.and_then(|cluster| cluster.config.as_ref());
    let timing = timing_of(config.map_or(&Value::Null, |config| &config.value));
    let policy = &standing.view.policy;
    Facts {
        scope: standing.facts.scope.clone(),
        leader: cluster.and_then(Cluster::leader_name).map(ToString::to_string),
        timing: policy.timing,
        timing_refused: timing.err().map(|error| error.to_string()).filter(|_| config.is_some()),
        paused: policy.pause,
        synchronous: policy.sync.mode != SyncMode::Off,
        members: told,
        store,
        haproxy: None,
        unix_ms: clock::wall_ms(),
    }
}

async fn store(api: &Api) -> Result<StoreFacts, String> {
    let vitals = timeout(STORE_WITHIN * 2, api.store.vitals(STORE_WITHIN)).await;
    let told = vitals.map_err(|_| "no answer in time".to_owned())?;
    let mut facts = told.map_err(|error| format!("{:#}", anyhow::Error::from(error)))?;
    for server in &mut facts.servers {
        server.addresses = addresses(&server.host).await;
    }
    Ok(facts)
}

async fn member(api: &Api, standing: &Standing, name: &MemberName, record: &MemberRecord) -> MemberFacts {
    let own = *name == standing.view.me;
    let foreign = record.tenure.is_none() && !own;
    let address = record.address();
    let host = address.as_ref().map(|address| address.host.clone());
    let (addresses, (view, clock, told)) = tokio::join!(
        async {
            match &host {
                Some(host) => addresses(host).await,
                None => BTreeSet::new(),
            }
        },
        async {
            if foreign {
                (Err("it is one of Patroni's".to_owned()), None, Err(Untold::NotOurs))
            } else {
                ask(api, own.then_some(standing), record).await
            }
        },
    );
    let state = record.replication_state.clone();
    MemberFacts {
        name: name.to_string(),
        foreign,
        may_lead: !record.tags.nofailover(),
        state: state.or_else(|| Some(state_text(record.state).to_owned())),
        pending_restart: record.pending_restart == Some(true),
        host,
        port: address.map(|address| address.port),
        rest: Rest::of(&record.api_url),
        addresses,
        view,
        clock,
        told,
    }
}

type Asked = (Result<Box<View>, String>, Option<Clock>, Result<HostFacts, Untold>);

/// First what takes no time, so that the clocks can be compared, then the examination. This member asks itself.
async fn ask(api: &Api, own: Option<&Standing>, record: &MemberRecord) -> Asked {
    let (asked, before) = (clock::now(), clock::wall_ms());
    let view = match own {
        Some(standing) => {
            let view = recorded::view(standing, before, (api.clock)());
            Ok((view.status, view.body.into()))
        }
        None => asking::ask(api, record, "/view", VIEW_WITHIN, BYTES_MAX).await,
    };
    let account =
        view.and_then(|(status, body)| Account::read(status, &body).map_err(|error| error.to_string()));
    let account = match account {
        Ok(account) => account,
        Err(why) => return (Err(why.clone()), None, Err(Untold::Silent(why))),
    };
    let clock = Clock::beside(account.unix_ms, before, clock::now().since(asked).as_ms());
    let host = match own {
        Some(_) => {
            let examined = timeout(HOST_WITHIN, checkup::doctor(&api.checkups)).await;
            let examined = examined.map_err(|_| "no answer in time".to_owned());
            examined.map(|answer| (answer.status, answer.body.into()))
        }
        None => asking::ask(api, record, "/doctor", HOST_WITHIN, BYTES_MAX).await,
    };
    let host = host.map_err(Untold::Silent).and_then(|(status, body)| HostFacts::read(status, &body));
    (Ok(Box::new(account.present_view())), Some(clock), host)
}
