//! What is asked of single members: `reload`, `restart`, `reinit` and `flush`.

use anyhow::{Result, anyhow, bail};
use hyper::Method;
use tokio::time::{Instant, timeout_at};

use super::access::Access;
use super::cluster::{Cluster, Member, Role};
use super::console::{confirm, echo, hinted, print, prompt, warn};
use super::document::Document;
use super::members::{self, Shape};
use super::rest::Reply;
use super::table::Format;
use super::time::{self, Schedule};
use crate::clock;
use crate::model::Span;

#[derive(Debug, clap::Args)]
pub struct ReloadArguments {
    /// The cluster
    cluster_name: String,
    /// Only these members
    member_names: Vec<String>,
    /// Only members with this role
    #[arg(short, long, value_enum, default_value_t = Role::Any)]
    role: Role,
    /// Do not ask for confirmation at any point
    #[arg(long)]
    force: bool,
}

#[derive(Debug, clap::Args)]
pub struct RestartArguments {
    /// The cluster
    cluster_name: String,
    /// Only these members
    member_names: Vec<String>,
    /// Only members with this role
    #[arg(short, long, value_enum, default_value_t = Role::Any)]
    role: Role,
    /// Restart a single member, whichever
    #[arg(long)]
    any: bool,
    /// When, in an unambiguous format (e.g. ISO 8601)
    #[arg(long, value_name = "TIME")]
    scheduled: Option<String>,
    /// Restart if the PostgreSQL version is less than provided (e.g. 9.5.2)
    #[arg(long, value_name = "VERSION")]
    pg_version: Option<String>,
    /// Restart if a restart is pending
    #[arg(long)]
    pending: bool,
    /// Return an error, and fail over if necessary, if a restart takes longer than this
    #[arg(long, value_name = "TIME")]
    timeout: Option<String>,
    /// Why; it is kept with a scheduled restart, and stands in the member's log
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Do not ask for confirmation at any point
    #[arg(long)]
    force: bool,
}

#[derive(Debug, clap::Args)]
pub struct ReinitArguments {
    /// The cluster
    cluster_name: String,
    /// Which replicas
    member_names: Vec<String>,
    /// Copy from the leader
    #[arg(long)]
    from_leader: bool,
    /// Wait until the copies are complete
    #[arg(long)]
    wait: bool,
    /// Do not ask for confirmation at any point
    #[arg(long)]
    force: bool,
}

#[derive(Debug, clap::Args)]
pub struct FlushArguments {
    /// The cluster
    cluster_name: String,
    /// Only these members, and last what is discarded: restart or switchover
    #[arg(required = true, value_name = "[MEMBER_NAMES]... restart|switchover")]
    member_names_and_target: Vec<String>,
    /// Only members with this role
    #[arg(short, long, value_enum, default_value_t = Role::Any)]
    role: Role,
    /// Do not ask for confirmation at any point
    #[arg(long)]
    force: bool,
}

/// Whom the operator chose, and how.
struct Choice<'a> {
    names: &'a [String],
    role: Role,
    /// How the role is called in a complaint.
    role_shown: &'a str,
    force: bool,
    action: &'a str,
}

pub async fn reload(access: &Access, arguments: &ReloadArguments) -> Result<()> {
    let cluster = access.read(&arguments.cluster_name).await?;
    let choice = Choice {
        names: &arguments.member_names,
        role: arguments.role,
        role_shown: &quoted(arguments.role),
        force: arguments.force,
        action: "reload",
    };
    let chosen = choose(&cluster, &choice).await?;
    confirm_now(&chosen, &choice).await?;
    for member in chosen {
        let reply = access.members.ask(&member, Method::POST, Some("reload"), None).await?;
        let name = &member.name;
        match reply.status {
            200 => echo(format!("No changes to apply on member {name}"))?,
            202 => echo(format!(
                "Reload request received for member {name} and will be processed within {} seconds",
                cluster.loop_wait()
            ))?,
            _ => echo(failure("reload", name, &reply))?,
        }
    }
    Ok(())
}

pub async fn restart(access: &Access, arguments: &RestartArguments) -> Result<()> {
    let cluster = access.read(&arguments.cluster_name).await?;
    let force = arguments.force;
    let choice = Choice {
        names: &arguments.member_names,
        role: arguments.role,
        role_shown: &quoted(arguments.role),
        force,
        action: "restart",
    };
    let mut chosen = choose(&cluster, &choice).await?;
    let mut scheduled = arguments.scheduled.clone();
    if scheduled.is_none() && !force {
        let question = format!("When should the restart take place (e.g. {}) ", time::example());
        scheduled = Some(prompt(&question, Some("now")).await?);
    }
    let schedule = time::parse(scheduled.as_deref()).map_err(anyhow::Error::msg)?;
    // Who needs a scheduled restart is only known at its time.
    if arguments.pending && schedule.is_none() {
        chosen.retain(|member| member.is_on("pending_restart"));
    }
    if arguments.any && !chosen.is_empty() {
        let chance = usize::try_from(clock::wall().subsec_nanosecond().unsigned_abs()).unwrap_or(0);
        chosen = vec![chosen.swap_remove(chance % chosen.len())];
    }
    match schedule {
        Some(schedule) => confirm_later(&chosen, &choice, schedule, arguments.pending).await?,
        None => confirm_now(&chosen, &choice).await?,
    }
    let mut version = arguments.pg_version.clone();
    if version.is_none() && !force {
        let question = "Restart if the PostgreSQL version is less than provided (e.g. 9.5.2) ";
        version = Some(prompt(question, Some("")).await?);
    }
    let version = version.filter(|version| !version.is_empty());
    if let Some(version) = &version {
        check_version(version)?;
    }
    if schedule.is_some() && cluster.is_paused() {
        bail!("Can't schedule restart in the paused state");
    }
    let body = restart_body(arguments, version.as_deref(), schedule);
    let members = access.members.because(arguments.reason.as_deref());
    for member in chosen {
        if schedule.is_some() && force && member.is_on("scheduled_restart") {
            let reply = members.ask(&member, Method::DELETE, Some("restart"), None).await?;
            if 400 <= reply.status {
                echo(failure("flush scheduled restart", &member.name, &reply))?;
            }
        }
        let reply = members.ask(&member, Method::POST, Some("restart"), Some(body.clone())).await?;
        let name = &member.name;
        match reply.status {
            200 => echo(format!("Success: restart on member {name}"))?,
            202 => echo(format!("Success: restart scheduled on member {name}"))?,
            409 => echo(format!("Failed: another restart is already scheduled on member {name}"))?,
            _ => echo(failure("restart", name, &reply))?,
        }
    }
    Ok(())
}

fn restart_body(arguments: &RestartArguments, version: Option<&str>, schedule: Option<Schedule>) -> Document {
    let fields = [
        ("restart_pending", arguments.pending.then_some(Document::Bool(true))),
        ("postgres_version", version.map(Document::text)),
        ("schedule", schedule.map(|schedule| Document::Text(schedule.iso()))),
        ("timeout", arguments.timeout.as_deref().map(Document::text)),
    ];
    Document::Map(fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect())
}

/// 10 and later have two numbers, what was before has three.
fn check_version(version: &str) -> Result<()> {
    let Ok(numbers) =
        version.split('.').map(|part| part.trim().parse::<u32>()).collect::<Result<Vec<_>, _>>()
    else {
        bail!("Invalid PostgreSQL version: {version}");
    };
    match numbers[..] {
        [major, _] if 10 <= major => Ok(()),
        [_, _, _] => Ok(()),
        _ => bail!("Invalid PostgreSQL version format: X.Y or X.Y.Z is accepted: {version}"),
    }
}

pub async fn reinit(access: &Access, arguments: &ReinitArguments) -> Result<()> {
    let cluster = access.read(&arguments.cluster_name).await?;
    let choice = Choice {
        names: &arguments.member_names,
        role: Role::Replica,
        role_shown: "replica",
        force: arguments.force,
        action: "reinitialize",
    };
    let chosen = choose(&cluster, &choice).await?;
    confirm_now(&chosen, &choice).await?;
    let mut waiting = Vec::new();
    for member in chosen {
        let mut force = arguments.force;
        let started = loop {
            let body = Document::Map(vec![
                ("force".to_owned(), Document::Bool(force)),
                ("from_leader".to_owned(), Document::Bool(arguments.from_leader)),
            ]);
            let reply = access.members.ask(&member, Method::POST, Some("reinitialize"), Some(body)).await?;
            if reply.status < 400 {
                echo(format!("Success: reinitialize for member {}", member.name))?;
                break true;
            }
            echo(failure("reinitialize", &member.name, &reply))?;
            let busy = reply.text.ends_with(" already in progress");
            if force || !busy || !confirm("Do you want to cancel it and reinitialize anyway?").await? {
                break false;
            }
            force = true;
        };
        if started && arguments.wait {
            waiting.push(member);
        }
    }
    wait_for_copies(access, waiting).await
}

/// Asks every other second, because a copy takes its time.
async fn wait_for_copies(access: &Access, mut waiting: Vec<Member>) -> Result<()> {
    let give_up = Instant::now() + access.wait_patience;
    let mut shown = 0;
    while !waiting.is_empty() {
        if waiting.len() != shown {
            echo(format!("Waiting for reinitialize to complete on: {}", names(&waiting)))?;
            shown = waiting.len();
        }
        if timeout_at(give_up, clock::pause(Span::from_secs(2))).await.is_err() {
            bail!("waited {} s (--wait-timeout) for {}", access.wait_patience.as_secs(), names(&waiting));
        }
        let mut still = Vec::new();
        for member in waiting {
            match state(access, &member).await {
                Ok(Some(state)) if state != "creating replica" => {
                    echo(format!("Reinitialize is completed on: {}", member.name))?;
                }
                Ok(_) => still.push(member),
                Err(error) => {
                    warn(format!("{error:#}"));
                    still.push(member);
                }
            }
        }
        waiting = still;
    }
    Ok(())
}

async fn state(access: &Access, member: &Member) -> Result<Option<String>> {
    let reply = access.members.ask(member, Method::GET, Some("patroni"), None).await?;
    let document = Document::parse(reply.text.as_bytes())?;
    Ok(document.get("state").and_then(Document::as_text).map(str::to_owned))
}

pub async fn flush(access: &Access, arguments: &FlushArguments) -> Result<()> {
    let Some((target, member_names)) = arguments.member_names_and_target.split_last() else {
        bail!("what is to be discarded? restart or switchover");
    };
    match target.as_str() {
        "restart" => flush_restarts(access, arguments, member_names).await,
        "switchover" => flush_switchover(access, &arguments.cluster_name).await,
        other => Err(super::UsageError(format!("'{other}' is not one of 'restart', 'switchover'.")).into()),
    }
}

async fn flush_restarts(access: &Access, arguments: &FlushArguments, member_names: &[String]) -> Result<()> {
    let cluster = access.read(&arguments.cluster_name).await?;
    let choice = Choice {
        names: member_names,
        role: arguments.role,
        role_shown: &quoted(arguments.role),
        force: arguments.force,
        action: "flush",
    };
    let chosen = choose(&cluster, &choice).await?;
    confirm_now(&chosen, &choice).await?;
    for member in chosen {
        if !member.is_on("scheduled_restart") {
            echo(format!("No scheduled restart for member {}", member.name))?;
            continue;
        }
        let reply = access.members.ask(&member, Method::DELETE, Some("restart"), None).await?;
        if reply.status < 400 {
            echo(format!("Success: flush scheduled restart for member {}", member.name))?;
        } else {
            echo(failure("flush scheduled restart", &member.name, &reply))?;
        }
    }
    Ok(())
}

/// Whoever answers first; if nobody does, the store.
async fn flush_switchover(access: &Access, scope: &str) -> Result<()> {
    let store = access.store(scope)?;
    let cluster = access.read_from(&store, scope).await?;
    let Some(version) = cluster.scheduled_switchover().and(cluster.failover_version) else {
        return echo("No pending scheduled switchover");
    };
    for member in cluster.leader_first() {
        match access.members.ask(&member, Method::DELETE, Some("switchover"), None).await {
            Ok(Reply { status: 200, text }) => return echo(format!("Success: {text}")),
            Ok(Reply { status: 404, text }) => return echo(format!("Failed: {text}")),
            Ok(Reply { status, text }) => {
                echo(format!("Failed: member={}, status_code={status}, ({text})", member.name))?;
            }
            Err(error) => {
                warn(format!("{error:#}"));
                warn(format!("Member {} is not accessible", member.name));
            }
        }
    }
    warn("Failing over to DCS");
    echo(format!("{} Could not find any accessible member of cluster {scope}", time::stamp()))?;
    Ok(store.clear_failover(version, access.store_patience()).await?)
}

/// The members that the arguments name, after the operator has seen the cluster.
async fn choose(cluster: &Cluster, choice: &Choice<'_>) -> Result<Vec<Member>> {
    let mut candidates = cluster.with_role(choice.role);
    if choice.names.is_empty() && candidates.is_empty() {
        bail!("{} cluster doesn't have any members", cluster.scope);
    }
    show(cluster)?;
    if !choice.names.is_empty() {
        candidates.retain(|member| choice.names.contains(&member.name));
        if candidates.is_empty() {
            return Err(nobody_among_named(cluster, choice));
        }
        return Ok(candidates);
    }
    if choice.action != "reinitialize" {
        return Ok(candidates);
    }
    if choice.force {
        return Ok(Vec::new());
    }
    let question = format!("Which member do you want to {} [{}]?", choice.action, names(&candidates));
    let name = prompt(&question, Some("")).await?;
    candidates.retain(|member| member.name == name);
    if candidates.is_empty() {
        bail!("{name} is not a member of cluster");
    }
    Ok(candidates)
}

fn nobody_among_named(cluster: &Cluster, choice: &Choice<'_>) -> anyhow::Error {
    let message = format!("No {} among provided members", choice.role_shown);
    let leader = cluster.leader.as_ref().filter(|leader| choice.names.contains(leader));
    match (leader, choice.action) {
        (Some(leader), "reinitialize") => {
            let first = format!("tenurectl switchover {} --leader {leader}", cluster.scope);
            hinted(message, format!("{leader} is the leader; somebody else has to lead first: {first}"))
        }
        (Some(_) | None, _) => anyhow!(message),
    }
}

async fn confirm_now(chosen: &[Member], choice: &Choice<'_>) -> Result<()> {
    let question = format!("Are you sure you want to {} members {}?", choice.action, names(chosen));
    if choice.force || confirm(&question).await? { Ok(()) } else { bail!("Aborted {}", choice.action) }
}

async fn confirm_later(
    chosen: &[Member],
    choice: &Choice<'_>,
    schedule: Schedule,
    pending: bool,
) -> Result<()> {
    let question = if pending {
        "The nodes needing a restart will be identified at the scheduled time, and might be different from the ones \
         showing pending restart right now. Is this fine?"
            .to_owned()
    } else {
        let (action, names, at) = (choice.action, names(chosen), schedule.shown());
        format!("Are you sure you want to schedule {action} of members {names} at {at}?")
    };
    if choice.force || confirm(&question).await? {
        Ok(())
    } else {
        bail!("Aborted scheduled {}", choice.action)
    }
}

/// The cluster as people see it.
pub fn show(cluster: &Cluster) -> Result<()> {
    print(&members::render(cluster, Shape::List(Format::Pretty), false))
}

fn names(members: &[Member]) -> String {
    members.iter().map(|member| member.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn quoted(role: Role) -> String {
    format!("'{}'", role.word())
}

fn failure(action: &str, member: &str, reply: &Reply) -> String {
    format!("Failed: {action} for member {member}, status code={}, ({})", reply.status, reply.text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_two_numbers_or_three() {
        for good in ["15.3", "9.6.24", "10.0"] {
            assert!(check_version(good).is_ok(), "{good}");
        }
        for bad in ["15", "9.6", "1.2.3.4", "x", "", "15."] {
            assert!(check_version(bad).is_err(), "{bad}");
        }
    }
}
