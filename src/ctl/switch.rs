//! `switchover` and `failover`: through the leader's REST API, and through the store if that does not answer.

use anyhow::{Context, Result, bail};
use hyper::Method;

use super::access::Access;
use super::act::show;
use super::caller;
use super::cluster::{Cluster, Member};
use super::console::{confirm, echo, prompt, warn};
use super::document::Document;
use super::rest::Reply;
use super::time::{self, Schedule};
use crate::model::{FailoverRequest, Whose};

#[derive(Debug, clap::Args)]
pub struct SwitchoverArguments {
    /// The cluster [default: the configured scope]
    cluster_name: Option<String>,
    /// The name of the current leader
    #[arg(long, visible_alias = "primary", value_name = "NAME")]
    leader: Option<String>,
    /// The name of the candidate
    #[arg(long, value_name = "NAME")]
    candidate: Option<String>,
    /// When, in an unambiguous format (e.g. ISO 8601)
    #[arg(long, value_name = "TIME")]
    scheduled: Option<String>,
    /// Why; it is kept with the request, and with what came of it
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Do not ask for confirmation at any point
    #[arg(long)]
    force: bool,
}

#[derive(Debug, clap::Args)]
pub struct FailoverArguments {
    /// The cluster [default: the configured scope]
    cluster_name: Option<String>,
    /// The name of the candidate
    #[arg(long, value_name = "NAME")]
    candidate: Option<String>,
    /// Why; it is kept with the request, and with what came of it
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Do not ask for confirmation at any point
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    Switchover,
    Failover,
}

impl Action {
    fn word(self) -> &'static str {
        match self {
            Action::Switchover => "switchover",
            Action::Failover => "failover",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Action::Switchover => "Switchover",
            Action::Failover => "Failover",
        }
    }
}

/// What the operator has settled on.
struct Wish {
    action: Action,
    leader: Option<String>,
    candidate: Option<String>,
    schedule: Option<Schedule>,
    reason: Option<String>,
}

pub async fn switchover(access: &Access, arguments: &SwitchoverArguments) -> Result<()> {
    let scope = access.scope(arguments.cluster_name.as_deref())?;
    let cluster = first_look(access, &scope).await?;
    let Some(leader) = &cluster.leader else { bail!("This cluster has no leader") };
    let from = match (&arguments.leader, arguments.force) {
        (Some(from), _) => from.clone(),
        (None, true) => leader.clone(),
        (None, false) => {
            let question = if cluster.is_standby_cluster() { "Standby Leader" } else { "Primary" };
            prompt(question, Some(leader)).await?
        }
    };
    if from != *leader {
        bail!("Member {from} is not the leader of cluster {scope}");
    }
    let candidate =
        candidate(&cluster, Action::Switchover, arguments.candidate.clone(), arguments.force).await?;
    let mut scheduled = arguments.scheduled.clone();
    if scheduled.is_none() && !arguments.force {
        let question = format!("When should the switchover take place (e.g. {} ) ", time::example());
        scheduled = Some(prompt(&question, Some("now")).await?);
    }
    let schedule = time::parse(scheduled.as_deref()).map_err(anyhow::Error::msg)?;
    if schedule.is_some() && cluster.is_paused() {
        bail!("Can't schedule switchover in the paused state");
    }
    let reason = arguments.reason.clone();
    let wish = Wish { action: Action::Switchover, leader: Some(from), candidate, schedule, reason };
    if !arguments.force {
        confirm_wish(&cluster, &wish).await?;
    }
    carry_out(access, cluster, &wish).await
}

pub async fn failover(access: &Access, arguments: &FailoverArguments) -> Result<()> {
    let scope = access.scope(arguments.cluster_name.as_deref())?;
    let cluster = first_look(access, &scope).await?;
    let given = arguments.candidate.clone();
    let Some(candidate) = candidate(&cluster, Action::Failover, given, arguments.force).await? else {
        bail!("Failover could be performed only to a specific candidate");
    };
    let synchronous = cluster.is_sync_standby(&candidate) || cluster.is_sync_leader(&candidate);
    if !arguments.force && cluster.is_synchronous() && cluster.sync.leader.is_some() && !synchronous {
        let question = format!("Are you sure you want to failover to the asynchronous node {candidate}?");
        if !confirm(&question).await? {
            bail!("Aborting failover");
        }
    }
    let (candidate, reason) = (Some(candidate), arguments.reason.clone());
    let wish = Wish { action: Action::Failover, leader: None, candidate, schedule: None, reason };
    if !arguments.force {
        confirm_wish(&cluster, &wish).await?;
    }
    carry_out(access, cluster, &wish).await
}

async fn first_look(access: &Access, scope: &str) -> Result<Cluster> {
    let cluster = access.read(scope).await?;
    echo("Current cluster topology")?;
    show(&cluster)?;
    Ok(cluster)
}

/// Who shall lead; none if the members may choose.
async fn candidate(
    cluster: &Cluster,
    action: Action,
    given: Option<String>,
    force: bool,
) -> Result<Option<String>> {
    let leads = |member: &&Member| Some(&member.name) == cluster.leader.as_ref();
    let possible: Vec<&str> = (cluster.members.iter())
        .filter(|member| !leads(member) && !member.nofailover())
        .map(|member| member.name.as_str())
        .collect();
    if possible.is_empty() {
        bail!("No candidates found to {} to", action.word());
    }
    let chosen = match given {
        Some(given) => given,
        None if force => String::new(),
        None => {
            let names: Vec<String> = possible.iter().map(|name| format!("'{name}'")).collect();
            prompt(&format!("Candidate [{}]", names.join(", ")), Some("")).await?
        }
    };
    if chosen.is_empty() {
        return Ok(None);
    }
    if !possible.contains(&chosen.as_str()) {
        if Some(&chosen) == cluster.leader.as_ref() {
            bail!("Member {chosen} is already the leader of cluster {}", cluster.scope);
        }
        bail!("Member {chosen} does not exist in cluster {} or is tagged as nofailover", cluster.scope);
    }
    Ok(Some(chosen))
}

async fn confirm_wish(cluster: &Cluster, wish: &Wish) -> Result<()> {
    let demoting = cluster
        .leader
        .as_ref()
        .map(|leader| format!(", demoting current leader {leader}"))
        .unwrap_or_default();
    let (action, scope) = (wish.action.word(), &cluster.scope);
    match wish.schedule {
        Some(schedule) => {
            let at = schedule.iso();
            let question =
                format!("Are you sure you want to schedule switchover of cluster {scope} at {at}{demoting}?");
            if !confirm(&question).await? {
                bail!("Aborting scheduled {action}");
            }
        }
        None => {
            if !confirm(&format!("Are you sure you want to {action} cluster {scope}{demoting}?")).await? {
                bail!("Aborting {action}");
            }
        }
    }
    Ok(())
}

async fn carry_out(access: &Access, cluster: Cluster, wish: &Wish) -> Result<()> {
    let action = wish.action;
    match ask(access, &cluster, wish).await {
        Ok(reply) if matches!(reply.status, 200 | 202) => {
            echo(format!("{} {}", time::stamp(), reply.text))?;
            show(&access.read(&cluster.scope).await?)
        }
        Ok(reply) => echo(format!("{} failed, details: {}, {}", action.title(), reply.status, reply.text)),
        Err(error) => {
            warn(format!("{error:#}"));
            warn("Failing over to DCS");
            let word = action.word();
            echo(format!("{} Could not {word} using Patroni api, falling back to DCS", time::stamp()))?;
            write_down(access, &cluster, wish).await?;
            show(&cluster)
        }
    }
}

/// Now. Without a candidate the members choose; where `leader` does not lead any more it is refused.
pub async fn hand_over(
    access: &Access,
    cluster: &Cluster,
    leader: &str,
    candidate: Option<String>,
    reason: &str,
) -> Result<Reply> {
    let (leader, reason) = (Some(leader.to_owned()), Some(reason.to_owned()));
    ask(access, cluster, &Wish { action: Action::Switchover, leader, candidate, schedule: None, reason })
        .await
}

async fn ask(access: &Access, cluster: &Cluster, wish: &Wish) -> Result<Reply> {
    let candidate = || cluster.member(wish.candidate.as_deref()?).cloned();
    let member = cluster.leading_member().or_else(candidate).context("there is no member to ask")?;
    let text = |value: &Option<String>| value.as_ref().map_or(Document::Null, Document::text);
    let mut body = vec![("candidate".to_owned(), text(&wish.candidate))];
    if wish.action == Action::Switchover {
        body.push(("leader".to_owned(), text(&wish.leader)));
    }
    if let Some(schedule) = wish.schedule {
        body.push(("scheduled_at".to_owned(), Document::Text(schedule.iso())));
    }
    let body = Document::Map(body);
    let members = access.members.because(wish.reason.as_deref());
    let reply = members.ask(&member, Method::POST, Some(wish.action.word()), Some(body.clone())).await?;
    // Agents before 1.4 know only the one word.
    let too_old = reply.status == 501 && reply.text.contains("Server does not support this operation");
    if wish.action == Action::Switchover && too_old {
        return members.ask(&member, Method::POST, Some("failover"), Some(body)).await;
    }
    Ok(reply)
}

/// The wish in the store, which every member sees. Whatever stood there is replaced, unless it has changed meanwhile.
async fn write_down(access: &Access, cluster: &Cluster, wish: &Wish) -> Result<()> {
    let name = |name: &Option<String>| name.as_deref().map(str::parse).transpose();
    let request = FailoverRequest {
        leader: name(&wish.leader).context("the leader's name")?,
        candidate: name(&wish.candidate).context("the candidate's name")?,
        scheduled_at: wish.schedule.map(|schedule| schedule.iso()),
        whose: Some(Whose::of(&caller::note(wish.reason.as_deref()))),
    };
    let store = access.store(&cluster.scope)?;
    let replaces = access.read_from(&store, &cluster.scope).await?.failover_version;
    let written = store.request_failover(&request, replaces, access.store_patience()).await;
    written.with_context(|| access.named_store()).map(drop)
}
