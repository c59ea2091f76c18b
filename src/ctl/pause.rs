//! `pause` and `resume`: the maintenance mode, in which nobody is promoted or demoted by itself.

use anyhow::{Result, bail};
use hyper::Method;
use tokio::time::Instant;

use super::access::Access;
use super::cluster::{Cluster, Member};
use super::console::{echo, warn};
use super::document::Document;
use super::intent::{self, Ending, no_agent_of_ours};
use super::rest::Reply;
use super::time;
use crate::clock;
use crate::model::Span;

#[derive(Debug, clap::Args)]
pub struct PauseArguments {
    /// The cluster [default: the configured scope]
    cluster_name: Option<String>,
    /// Wait until all members have recognised it
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    ending: Ending,
}

#[derive(Debug, clap::Args)]
pub struct ResumeArguments {
    /// The cluster [default: the configured scope]
    cluster_name: Option<String>,
    /// Wait until all members have recognised it
    #[arg(long)]
    wait: bool,
    /// Why, for config-history
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

pub async fn pause(access: &Access, arguments: &PauseArguments) -> Result<()> {
    let PauseArguments { cluster_name, wait, ending } = arguments;
    let scope = access.scope(cluster_name.as_deref())?;
    match ending.until()? {
        Some(until) => pause_until(access, &scope, ending, until, *wait).await,
        None => toggle(access, &scope, true, ending.reason.as_deref(), *wait).await,
    }
}

pub async fn resume(access: &Access, arguments: &ResumeArguments) -> Result<()> {
    let ResumeArguments { cluster_name, wait, reason } = arguments;
    let scope = access.scope(cluster_name.as_deref())?;
    toggle(access, &scope, false, reason.as_deref(), *wait).await
}

/// Also where the cluster is paused already: then this is when it ends.
async fn pause_until(access: &Access, scope: &str, ending: &Ending, until: String, wait: bool) -> Result<()> {
    let cluster = access.read(scope).await?;
    if cluster.config.is_none() {
        bail!("The config key does not exist in the cluster {scope}");
    }
    if !cluster.members.iter().any(intent::is_ours) {
        return Err(no_agent_of_ours("nobody would end the pause"));
    }
    intent::pause_until(access, scope, ending, &until).await?;
    if wait {
        until_applied(access, &cluster, true).await?;
    } else {
        success(true)?;
    }
    echo(format!("It ends by itself at {}", time::local(&until)))
}

async fn toggle(access: &Access, scope: &str, paused: bool, reason: Option<&str>, wait: bool) -> Result<()> {
    let cluster = access.read(scope).await?;
    if cluster.is_paused() == paused {
        bail!("Cluster is {} paused", if paused { "already" } else { "not" });
    }
    if !paused && cluster.leader.is_none() {
        warn(
            "nobody leads: whoever is fit takes over as soon as maintenance ends. A primary that runs without the store does not hear of \
             it, and accepts writes until it does: stop it first",
        );
    }
    let mut untold = |member: &Member, error: anyhow::Error| {
        warn(format!("{error:#}"));
        warn(format!("Member {} is not accessible", member.name));
    };
    match ask(access, &cluster, paused, reason, &mut untold).await? {
        reply if reply.status == 200 && wait => until_applied(access, &cluster, paused).await,
        reply if reply.status == 200 => success(paused),
        Reply { status, text } => {
            let action = if paused { "pause" } else { "resume" };
            echo(format!("Failed: {action} cluster management status code={status}, ({text})"))
        }
    }
}

/// The first member that answers carries it out.
pub async fn ask(
    access: &Access,
    cluster: &Cluster,
    paused: bool,
    reason: Option<&str>,
    untold: &mut dyn FnMut(&Member, anyhow::Error),
) -> Result<Reply> {
    let wish = if paused { Document::Bool(true) } else { Document::Null };
    let body = Document::Map(vec![("pause".to_owned(), wish)]);
    let members = access.members.because(reason);
    for member in cluster.leader_first() {
        match members.ask(&member, Method::PATCH, Some("config"), Some(body.clone())).await {
            Ok(reply) => return Ok(reply),
            Err(error) => untold(&member, error),
        }
    }
    bail!("Can not find accessible cluster member")
}

async fn until_applied(access: &Access, before: &Cluster, paused: bool) -> Result<()> {
    let action = if paused { "pause" } else { "resume" };
    echo(format!("'{action}' request sent, waiting until it is recognized by all nodes"))?;
    let rounds = u64::try_from(before.loop_wait()).unwrap_or(10);
    let give_up = Instant::now() + std::time::Duration::from_secs(rounds + 1);
    let asked = |name: &str| before.member(name).filter(|member| member.api_url().is_some());
    loop {
        let cluster = access.read(&before.scope).await?;
        let late: Vec<_> = (cluster.members.iter())
            .filter(|member| asked(&member.name).is_some() && member.is_on("pause") != paused)
            .collect();
        if late.is_empty() {
            return success(paused);
        }
        if give_up <= Instant::now() {
            // Whoever has not written anything since may be down, and then there is nobody to recognise it.
            let alive = late
                .iter()
                .filter(|member| asked(&member.name).is_some_and(|old| old.version != member.version));
            let names: Vec<&str> = alive.map(|member| member.name.as_str()).collect();
            if names.is_empty() {
                return success(paused);
            }
            let names = names.join(", ");
            return echo(format!("{names} members didn't recognized pause state after {rounds} seconds"));
        }
        clock::pause(Span::from_ms(250)).await;
    }
}

fn success(paused: bool) -> Result<()> {
    echo(format!("Success: cluster management is {}", if paused { "paused" } else { "resumed" }))
}
