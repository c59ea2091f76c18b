//! What is known before a drill: gathered as `doctor` gathers it, with what stands in the way and what the rules would decide.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::Result;

use super::writer::{self, Served};
use crate::ctl::access::Access;
use crate::ctl::cluster::{Cluster, Member};
use crate::ctl::doctor::gather;
use crate::ctl::sql::Way;
use crate::decide::foresight::{Live, primary_lost};
use crate::doctor::{Facts, MemberFacts};
use crate::model::{Lsn, MemberName, Postgres, Running, Serving, Timeline, View};

#[derive(Clone, Debug)]
pub struct Situation {
    pub cluster: Cluster,
    pub facts: Facts,
    pub follows_another: bool,
    /// Everybody but the leader, with whether it could lead.
    pub standbys: BTreeMap<String, Able>,
    /// Who would take over by the members' own rules; none where that is not known.
    pub takes: Option<Vec<String>>,
    pub scheduled: Vec<String>,
    pub under_way: Vec<String>,
    pub route: Result<Served, String>,
}

/// Could it take over?
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Able {
    Yes,
    No(String),
}

impl fmt::Display for Able {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Able::Yes => f.write_str("it could lead"),
            Able::No(why) => f.write_str(why),
        }
    }
}

impl Situation {
    pub fn leading(&self) -> Option<&MemberFacts> {
        let leader = self.facts.leader.as_ref()?;
        self.facts.members.iter().find(|member| member.name == *leader)
    }

    pub fn leader_view(&self) -> Option<&View> {
        self.leading()?.view.as_deref().ok()
    }

    pub fn able(&self) -> Vec<(&String, &Able)> {
        self.standbys.iter().filter(|(_, able)| **able == Able::Yes).collect()
    }
}

/// Everybody is asked at the same time, and nothing is changed.
pub async fn look(access: &Access, scope: &str, way: &Way, schema: &str) -> Result<Situation> {
    let (facts, cluster, route) =
        tokio::join!(gather::facts(access, scope, None), access.read(scope), writer::look(way, schema),);
    Ok(told(facts?, cluster?, route.map_err(|error| format!("{error:#}"))))
}

/// What follows from what was heard. Pure.
pub fn told(facts: Facts, cluster: Cluster, route: Result<Served, String>) -> Situation {
    let live = live(&facts);
    let foreseen = primary_lost(&live).ok();
    let takes =
        foreseen.map(|foreseen| foreseen.takes.iter().map(|takes| takes.member.to_string()).collect());
    let leader = facts.leader.clone();
    let view = facts.members.iter().find(|member| Some(&member.name) == leader.as_ref());
    let view = view.and_then(|member| member.view.as_deref().ok());
    let others = facts.members.iter().filter(|member| Some(&member.name) != leader.as_ref());
    let standbys =
        others.map(|member| (member.name.clone(), able(member, cluster.member(&member.name), view)));
    Situation {
        standbys: standbys.collect(),
        follows_another: view.map_or(cluster.is_standby_cluster(), |view| view.policy.follows.is_some()),
        takes,
        scheduled: scheduled(&cluster),
        under_way: under_way(&facts, &cluster),
        route,
        cluster,
        facts,
    }
}

fn live(facts: &Facts) -> Live {
    let mut live = Live::default();
    for member in &facts.members {
        let Ok(name) = member.name.parse::<MemberName>() else { continue };
        match &member.view {
            Ok(view) => drop(live.views.insert(name, view.as_ref().clone())),
            Err(_) => drop(live.silent.insert(name)),
        }
    }
    live
}

fn able(member: &MemberFacts, record: Option<&Member>, leader: Option<&View>) -> Able {
    let no = |why: &str| Able::No(why.to_owned());
    if !member.may_lead {
        return no("by its tags it does not lead");
    }
    let view = match &member.view {
        Ok(view) => view,
        // A member of Patroni's says in the store what it says at all.
        Err(_) if member.foreign => {
            let streams = record.is_some_and(|record| record.text("replication_state") == Some("streaming"));
            return if streams { Able::Yes } else { no("by its record it does not stream") };
        }
        Err(why) => return Able::No(why.clone()),
    };
    let Postgres::Running(Running { serving, silent_since: None, .. }) = &view.postgres else {
        return no("its PostgreSQL does not run, or does not answer");
    };
    let Serving::Standby { timeline, received, streaming: true, .. } = serving else {
        return no("it does not stream");
    };
    let Some((leads_on, end)) = leader.and_then(written) else { return Able::Yes };
    if *timeline != leads_on {
        return Able::No(format!("it is on timeline {timeline}, and the leader on {leads_on}"));
    }
    let behind = received.unwrap_or_default().lag_behind(end);
    let most = view.policy.lag_bytes_max;
    if most < behind.0 {
        return Able::No(format!(
            "it is {behind} behind, and {most} bytes are allowed (maximum_lag_on_failover)"
        ));
    }
    Able::Yes
}

/// Where the leader writes, and how far it had when it was last looked at.
fn written(leader: &View) -> Option<(Timeline, Lsn)> {
    let position = leader.postgres.position()?;
    Some((position.timeline, position.lsn))
}

fn scheduled(cluster: &Cluster) -> Vec<String> {
    let mut found = Vec::new();
    if let Some((_, at)) = cluster.scheduled_switchover() {
        found.push(format!("a switchover is scheduled at {at}"));
    }
    for member in cluster.members.iter().filter(|member| member.is_on("scheduled_restart")) {
        found.push(format!("a restart of {} is scheduled", member.name));
    }
    found
}

fn under_way(facts: &Facts, cluster: &Cluster) -> Vec<String> {
    let mut found = Vec::new();
    let request = cluster.failover.as_ref().map(|failover| &failover.value);
    if request.is_some_and(|request| !request.is_empty() && request.scheduled_at.is_none()) {
        found.push("a switchover or failover is asked for".to_owned());
    }
    for member in &facts.members {
        let Ok(view) = &member.view else { continue };
        if let Some(running) = &view.work.job {
            found.push(format!("{}: {}", member.name, running.job.name()));
        }
        if let Some(wish) = &view.memory.wish {
            found.push(format!("{}: {} is asked for", member.name, wish.ask.name()));
        }
        if view.ending {
            found.push(format!("the agent of {} is ending", member.name));
        }
    }
    found
}
