//! The order of things when one agent takes a member's PostgreSQL over from the other. Each step looks first, so that a change
//! that was interrupted is carried on by the same command.

use std::time::Duration;

use anyhow::{Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::Instant;

use super::super::console::{echo, hinted};
use super::Ground;
use super::here::{self, Agent, Here, Kind};
use super::units::{self, Means, Unit};
use crate::clock;
use crate::config::{Config, validate_dynamic};
use crate::model::Span;
use crate::postgres::Postmaster;

const LOOK_EVERY: Span = Span::from_ms(250);

/// Why a member cannot be taken over now, and what helps.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Obstacle {
    what: String,
    remedy: String,
}

pub async fn change(ground: &Ground<'_>, to: Kind, dry_run: bool, patience: Duration) -> Result<()> {
    let config = here::configuration(&ground.file)?.config;
    let me = config.name.as_str();
    let seen = here::look(ground, &config).await?;
    let from = to.other();
    let Some(postmaster) = seen.postmaster else {
        return Err(hinted(
            format!("no PostgreSQL runs on {}", config.postgresql.data_dir.display()),
            format!(
                "start it with its present agent, {}; only a running PostgreSQL is taken over",
                from.name()
            ),
        ));
    };
    if seen.agent.kind() == Some(to) {
        echo(format!("{me}: {} is in charge already; PostgreSQL runs (pid {})", to.name(), postmaster.pid))?;
        return Ok(());
    }
    let pid = postmaster.pid;
    match &seen.agent {
        Agent::Answers { .. } => {
            if let Some(Obstacle { what, remedy }) = obstacle(&seen, me, &config, to) {
                return Err(hinted(format!("{me} is not taken over: {what}"), remedy));
            }
            let role = if seen.is_leader(me) { "primary" } else { "standby" };
            echo(format!("{me}: {} is in charge; PostgreSQL runs as a {role} (pid {pid})", from.name()))?;
        }
        Agent::Silent(why) => {
            if let Some(Obstacle { what, remedy }) = silence(&seen, me, from, why) {
                return Err(hinted(format!("{me} is not taken over: {what}"), remedy));
            }
            echo(format!("{me}: nobody is in charge; PostgreSQL runs (pid {pid})"))?;
        }
    }
    let (stop, start) = lines(ground, &seen, to);
    let stop_needed = seen.agent.kind() == Some(from);
    if dry_run {
        return print(stop.as_ref().filter(|_| stop_needed), start.as_ref(), &seen, from, to);
    }
    if stop_needed {
        let Some(stop) = stop else { return Err(by_hand(&seen, from, to)) };
        may_run(ground)?;
        echo(format!("{me}: ending {} and leaving PostgreSQL", from.name()))?;
        units::run(&stop)?;
    }
    let seen = until_gone(ground, &config, from, postmaster, patience).await?;
    if seen.is_leader(me) && !seen.cluster.is_paused() {
        return elected_meanwhile(ground, &seen, from);
    }
    if to == Kind::Tenure {
        until_key_lapsed(ground, &config, patience).await?;
    }
    let Some(start) = start else {
        return Err(hinted(
            format!("{} has gone from {me}, and there is no unit that starts {}", from.name(), to.name()),
            format!(
                "start it with this member's configuration; `tenurectl migrate to-{}` again tells whether it is in charge",
                word(to)
            ),
        ));
    };
    // Whoever has been started already, by an earlier call, is only waited for.
    if seen.processes.iter().all(|one| one.kind != to) {
        may_run(ground)?;
        echo(format!("{me}: starting {}", to.name()))?;
        if to == Kind::Patroni {
            end_guardian_and_memory(&config, patience).await?;
        }
        units::run(&start)?;
    }
    until_in_charge(ground, &config, to, postmaster, patience).await?;
    if seen.cluster.is_paused() {
        echo(format!("{me}: the cluster is in maintenance mode; `tenurectl resume` ends it"))?;
    }
    Ok(())
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Patroni => "patroni",
        Kind::Tenure => "tenure",
    }
}

/// Whether one may go on where no agent answers. Whoever may still act on the lease is not ended blindly.
fn silence(seen: &Here, me: &str, from: Kind, why: &str) -> Option<Obstacle> {
    if let Some(process) = seen.processes.iter().find(|process| process.kind == from) {
        return Some(Obstacle {
            what: format!("{} runs (pid {}) and does not answer: {why}", from.name(), process.pid),
            remedy: "find out why: it is not known whether it leads".to_owned(),
        });
    }
    (seen.is_leader(me) && !seen.cluster.is_paused()).then(|| Obstacle {
        what: format!("it leads, and {} has gone", from.name()),
        remedy: format!("start {} again at once, before its lease ends", from.name()),
    })
}

/// What must hold before an agent is ended without its PostgreSQL.
fn obstacle(seen: &Here, me: &str, config: &Config, to: Kind) -> Option<Obstacle> {
    let no = |what: String, remedy: &str| Some(Obstacle { what, remedy: remedy.to_owned() });
    let cluster = &seen.cluster;
    let Some(record) = cluster.member(me) else {
        return no(format!("the store knows no member {me} of {}", config.scope), "tenurectl list");
    };
    if to == Kind::Tenure
        && let Some(config) = &cluster.config
        && let Some(problem) = validate_dynamic(&config.value).first()
    {
        let what = format!("Tenure does not take the cluster's shared configuration: {problem}");
        return no(what, "`tenurectl migrate check` tells everything that is in the way");
    }
    let state = seen.agent.says("state");
    if state != "running" {
        let what = format!("its PostgreSQL is said to be {state:?}, not running");
        return no(what, "wait until its present agent has finished what it does");
    }
    if cluster.failover_version.is_some()
        && cluster.failover.as_ref().is_some_and(|one| !one.value.is_empty())
    {
        return no("a switchover is asked for".to_owned(), "wait for it, or `tenurectl flush` it");
    }
    let Some(leader) = &cluster.leader else {
        return no("the cluster has no leader".to_owned(), "wait until it has one: tenurectl list");
    };
    if leader == me {
        return leaders_obstacle(seen, record.is_on("pause"));
    }
    if !seen.streams {
        let what = format!("it does not stream from {leader}");
        return no(what, "wait until `tenurectl list` shows it as streaming");
    }
    None
}

/// The leader key hangs on its agent's session. Only in maintenance mode does nobody mind that it lapses.
fn leaders_obstacle(seen: &Here, recognised: bool) -> Option<Obstacle> {
    match (seen.cluster.is_paused(), recognised) {
        (true, true) => None,
        (true, false) => Some(Obstacle {
            what: "it leads, and has not recognised the maintenance mode yet".to_owned(),
            remedy: "try again in a moment".to_owned(),
        }),
        (false, _) => Some(Obstacle {
            what: "it leads".to_owned(),
            remedy: "switch over to another member first: tenurectl switchover; or, where there is none, \
                     `tenurectl pause --wait` before and `tenurectl resume` after"
                .to_owned(),
        }),
    }
}

/// The lines that stop the one and start the other; None where nobody knows any.
fn lines(ground: &Ground<'_>, seen: &Here, to: Kind) -> (Option<Vec<String>>, Option<Vec<String>>) {
    let names = match &ground.means {
        Means::Commands { stop, start } => return (Some(vec![stop.clone()]), Some(vec![start.clone()])),
        Means::Units(names) => names,
    };
    let patroni = names.patroni(seen);
    let unit = |kind: Kind| match kind {
        Kind::Patroni => units::look(&patroni),
        Kind::Tenure => units::look(&names.agent()),
    };
    // An agent that runs beside its unit would outlive the unit's stop.
    let governs = |unit: &Unit, kind: Kind| {
        let own = |process: &&here::Process| process.kind == kind;
        seen.processes
            .iter()
            .filter(own)
            .all(|process| unit.main_pid == Some(process.pid) || process.unit.as_ref() == Some(&unit.name))
    };
    let from = to.other();
    let stops = unit(from).is_some_and(|unit| governs(&unit, from));
    let stop = stops.then(|| units::stop_lines(from, names, &patroni));
    let start = unit(to).map(|_| units::start_lines(to, names, &patroni, &ground.file));
    (stop, start)
}

fn print(
    stop: Option<&Vec<String>>,
    start: Option<&Vec<String>>,
    seen: &Here,
    from: Kind,
    to: Kind,
) -> Result<()> {
    let by_hand = units::stop_by_hand(from, seen);
    echo(format!("# ends {} and leaves PostgreSQL", from.name()))?;
    for line in stop.unwrap_or(&by_hand) {
        echo(line)?;
    }
    echo(format!("# starts {}", to.name()))?;
    match start {
        Some(lines) => lines.iter().try_for_each(echo),
        None => echo(format!("# (no unit of {} is known here: start it as you do)", to.name())),
    }
}

fn by_hand(seen: &Here, from: Kind, to: Kind) -> anyhow::Error {
    let lines = units::stop_by_hand(from, seen);
    let how = if lines.is_empty() { "end its process by SIGKILL".to_owned() } else { lines.join("; ") };
    hinted(
        format!("{} runs here without a unit of systemd, so it must be ended by hand", from.name()),
        format!(
            "keep whatever supervises it from starting it again, then `{how}`, start {}, and call this again",
            to.name()
        ),
    )
}

/// Units are root's.
fn may_run(ground: &Ground<'_>) -> Result<()> {
    let units = matches!(ground.means, Means::Units(_));
    if units && !nix::unistd::geteuid().is_root() {
        return Err(hinted("units are stopped and started by root", "try again with sudo"));
    }
    Ok(())
}

async fn until_gone(
    ground: &Ground<'_>,
    config: &Config,
    from: Kind,
    postmaster: Postmaster,
    patience: Duration,
) -> Result<Here> {
    let me = &config.name;
    let give_up = Instant::now() + patience;
    loop {
        let seen = here::look(ground, config).await?;
        if seen.postmaster != Some(postmaster) {
            return Err(hinted(
                format!("PostgreSQL (pid {}) has ended together with {}", postmaster.pid, from.name()),
                format!("start {} again; look into its log for what has stopped PostgreSQL", from.name()),
            ));
        }
        if seen.agent.kind() != Some(from) && !seen.processes.iter().any(|one| one.kind == from) {
            let pid = postmaster.pid;
            echo(format!("{me}: {} has gone; PostgreSQL runs on (pid {pid})", from.name()))?;
            return Ok(seen);
        }
        if give_up <= Instant::now() {
            bail!("{} is still here after {} s", from.name(), patience.as_secs());
        }
        clock::pause(LOOK_EVERY).await;
    }
}

/// The agent took the lease after we had looked, and before it was ended. Only itself can keep it.
fn elected_meanwhile(ground: &Ground<'_>, seen: &Here, from: Kind) -> Result<()> {
    let (_, again) = lines(ground, seen, from);
    if let (Some(again), Means::Units(_)) = (again, &ground.means) {
        units::run(&again)?;
    }
    Err(hinted(
        format!("{} was elected leader at this very moment", from.name()),
        format!(
            "make sure that {} runs again at once; then switch over first: tenurectl switchover",
            from.name()
        ),
    ))
}

/// A leader key of Patroni's session is nothing that Tenure could renew. Until it has lapsed, the end of the maintenance mode
/// would find a primary without a lease, and stop it.
async fn until_key_lapsed(ground: &Ground<'_>, config: &Config, patience: Duration) -> Result<()> {
    let me = config.name.as_str();
    let give_up = Instant::now() + patience;
    let mut told = false;
    loop {
        let cluster = ground.access.read(&config.scope).await?;
        if cluster.leader.as_deref() != Some(me) {
            return Ok(());
        }
        if !told {
            echo(format!("{me}: waiting for the end of Patroni's lease (ttl)"))?;
            told = true;
        }
        if give_up <= Instant::now() {
            return Err(hinted(
                format!("the leader key of {me} is still there after {} s", patience.as_secs()),
                "make sure that Patroni does not run, and call this again with a longer --patience",
            ));
        }
        clock::pause(LOOK_EVERY).await;
    }
}

/// A guardian that an agent has started by itself outlives it, and ends when it is asked to unless a primary would be left
/// without one. And a later life of Tenure here must not believe that it has governed until then.
async fn end_guardian_and_memory(config: &Config, patience: Duration) -> Result<()> {
    let socket = config.guardian_socket().display().to_string();
    let give_up = Instant::now() + patience;
    let mut asked = std::collections::BTreeSet::new();
    loop {
        let guardians = here::guardians(&socket);
        if guardians.is_empty() {
            break;
        }
        for pid in guardians {
            if asked.insert(pid) {
                // Whoever has gone meanwhile is what we wanted.
                let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            }
        }
        if give_up <= Instant::now() {
            return Err(hinted(
                "the guardian stays: it believes that it stands by a primary with a lease",
                "do not start Patroni beside it; start Tenure again, and look into the guardian's log",
            ));
        }
        clock::pause(LOOK_EVERY).await;
    }
    let _ = std::fs::remove_file(config.state_dir().join("session"));
    Ok(())
}

async fn until_in_charge(
    ground: &Ground<'_>,
    config: &Config,
    to: Kind,
    postmaster: Postmaster,
    patience: Duration,
) -> Result<()> {
    let me = config.name.as_str();
    let give_up = Instant::now() + patience;
    loop {
        let seen = here::look(ground, config).await?;
        if let Some(what) = arrived(&seen, to) {
            if seen.postmaster != Some(postmaster) {
                let now = seen.postmaster.map_or("none".to_owned(), |now| now.pid.to_string());
                bail!(
                    "{} is in charge of {me}, but PostgreSQL was started anew (pid {}, now {now})",
                    to.name(),
                    postmaster.pid
                );
            }
            return echo(format!(
                "{me}: {} is in charge; PostgreSQL runs on as a {what} (pid {})",
                to.name(),
                postmaster.pid
            ));
        }
        if give_up <= Instant::now() {
            let heard = match &seen.agent {
                Agent::Silent(why) => why.clone(),
                Agent::Answers { kind, .. } => {
                    format!("{} answers, and PostgreSQL is {:?}", kind.name(), seen.agent.says("state"))
                }
            };
            return Err(hinted(
                format!("{} is not in charge of {me} after {} s: {heard}", to.name(), patience.as_secs()),
                format!("look into its log; the way back is `tenurectl migrate to-{}`", word(to.other())),
            ));
        }
        clock::pause(LOOK_EVERY).await;
    }
}

/// What PostgreSQL is, once the new agent says so.
fn arrived(seen: &Here, to: Kind) -> Option<&'static str> {
    if seen.agent.kind() != Some(to) || seen.agent.says("state") != "running" {
        return None;
    }
    match seen.agent.says("role") {
        "primary" | "master" => Some("primary"),
        "replica" if seen.streams => Some("standby that streams"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::cluster::fixtures::cluster;
    use super::super::super::document::Document;
    use super::*;

    const LEADS: [(&str, &str); 3] =
        [("leader", "b"), ("members/a", "{}"), ("members/b", r#"{"pause":true}"#)];

    fn here(keys: &[(&str, &str)], status: &str) -> Here {
        let status = Document::parse(status.as_bytes()).expect("JSON");
        let agent = Agent::Answers { kind: Kind::Patroni, version: "4.1.5".to_owned(), status };
        let streams = agent.says("replication_state") == "streaming";
        Here { agent, processes: Vec::new(), postmaster: None, streams, cluster: cluster(keys) }
    }

    fn config(name: &str) -> Config {
        let text = format!(
            "scope: batman\nname: {name}\nrestapi: {{listen: '*:8008', connect_address: '10.0.0.1:8008'}}\n\
             etcd3: {{host: 10.0.0.9}}\n\
             postgresql: {{listen: '*:5432', connect_address: '10.0.0.1:5432', data_dir: /data}}\n"
        );
        let loaded = crate::config::load_texts(&[("x".to_owned(), text)], &std::collections::BTreeMap::new());
        loaded.expect("a good configuration").config
    }

    #[test]
    fn an_agent_that_is_silent_is_not_ended_and_a_leader_without_one_is_not_left_to_lapse() {
        let check = |processes: &[Kind], more: &[(&str, &str)], me: &str, wanted: Option<&str>| {
            let mut seen = here(&[&LEADS[..], more].concat(), "{}");
            let process = |kind: &Kind| here::Process { pid: 1, kind: *kind, unit: None };
            seen.processes = processes.iter().map(process).collect();
            let found = silence(&seen, me, Kind::Patroni, "no connection").map(|it| it.what);
            let fits = found.as_deref().map(|it| wanted.is_some_and(|wanted| it.contains(wanted)));
            assert_eq!(fits, wanted.map(|_| true), "{processes:?} {more:?} {me}: {found:?}");
        };
        check(&[], &[], "a", None);
        check(&[Kind::Tenure], &[], "a", None);
        check(&[Kind::Patroni], &[], "a", Some("does not answer"));
        check(&[], &[], "b", Some("it leads"));
        check(&[], &[("config", r#"{"pause":true}"#)], "b", None);
    }

    #[test]
    fn only_a_streaming_replica_is_taken_over_and_a_leader_in_maintenance_mode() {
        let streams = r#"{"state":"running","replication_state":"streaming"}"#;
        let check = |me: &str, more: &[(&str, &str)], status: &str, wanted: Option<&str>| {
            let keys = [&LEADS[..], more].concat();
            let found = obstacle(&here(&keys, status), me, &config(me), Kind::Tenure).map(|it| it.what);
            let fits = match (&found, wanted) {
                (Some(found), Some(wanted)) => found.contains(wanted),
                (found, wanted) => found.is_none() && wanted.is_none(),
            };
            assert!(fits, "{me} {more:?} {status}: {found:?}, not {wanted:?}");
        };
        check("a", &[], streams, None);
        check("a", &[], r#"{"state":"running"}"#, Some("does not stream from b"));
        check("a", &[], r#"{"state":"starting"}"#, Some("starting"));
        check("c", &[], streams, Some("knows no member c"));
        check("a", &[("failover", r#"{"leader":"b"}"#)], streams, Some("a switchover is asked for"));
        check("a", &[("config", r#"{"ttl":1}"#)], streams, Some("ttl"));
        check("b", &[], r#"{"state":"running"}"#, Some("it leads"));
        check("b", &[("config", r#"{"pause":true}"#)], r#"{"state":"running"}"#, None);
        let late = [("leader", "b"), ("members/b", "{}"), ("config", r#"{"pause":true}"#)];
        let found = obstacle(&here(&late, r#"{"state":"running"}"#), "b", &config("b"), Kind::Tenure);
        assert!(found.is_some_and(|it| it.what.contains("not recognised")));
    }
}
