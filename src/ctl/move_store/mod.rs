//! `move-store`: a cluster leaves its store for another one, while PostgreSQL runs on. The command copies what the cluster
//! knows, watches the members come over one by one as they are given the new store, and seals the old one. At no time do
//! two stores have a leader that lives: in maintenance mode only the primary that runs takes a vacant office.

mod stage;

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use tokio::time::Instant;

use super::access::{Access, AccessArguments};
use super::cluster::Cluster;
use super::console::{Aborted, confirm, echo, hinted, warn};
use super::timing;
use crate::clock;
use crate::config::timing_of;
use crate::model::Span;
use crate::store::Store;
use stage::{Side, Stage, judge};

/// How often both stores are looked at.
const EVERY: Span = Span::from_ms(500);

#[derive(Debug, clap::Args)]
pub struct MoveArguments {
    /// The cluster [default: the configured scope]
    cluster_name: Option<String>,
    /// The new store: the configuration file that the members will have, or [etcd3://|zookeeper://]HOST[:PORT][/NAMESPACE]
    #[arg(long, value_name = "FILE|URL")]
    to: String,
    /// Look at both stores, tell what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask for confirmation at any point
    #[arg(long)]
    force: bool,
}

/// One of the two stores and how it is reached.
struct End<'a> {
    access: &'a Access,
    store: Store,
    scope: String,
}

pub async fn move_store(access: &Access, from: &AccessArguments, arguments: &MoveArguments) -> Result<()> {
    let scope = access.scope(arguments.cluster_name.as_deref())?;
    let toward = Access::new(&toward(from, &arguments.to))?;
    let (old, new) = (End::of(access, &scope)?, End::of(&toward, &scope)?);
    if let Some(other) = toward.configured_scope().filter(|other| *other != old.scope) {
        bail!("the cluster keeps its name: {} is for {other}, and this is {}", arguments.to, old.scope);
    }
    let (here, there) = (old.read().await?, new.read().await?);
    let stage = judged(&old.scope, &here, &there)?;
    echo(format!(
        "Cluster {}: from {} to {}",
        old.scope,
        old.access.whereabouts(),
        new.access.whereabouts()
    ))?;
    warn_of_timing(&new, &here.cluster).await?;
    if arguments.dry_run {
        return tell(&stage, &here, &new);
    }
    if stage == Stage::Copy
        && !arguments.force
        && !confirm("Copy the cluster, and wait for its members?").await?
    {
        return Err(Aborted.into());
    }
    let give_up = Instant::now() + old.access.wait_patience;
    let mut told = None;
    loop {
        let (here, there) = (old.read().await?, new.read().await?);
        let stage = judged(&old.scope, &here, &there)?;
        if told.as_ref() != Some(&stage) {
            announce(&stage, told.as_ref(), &here)?;
        }
        match &stage {
            Stage::Copy => {
                let copied =
                    new.store.receive(&here.cargo, &there.entries, new.access.store_patience()).await;
                copied.with_context(|| new.access.named_store())?;
            }
            Stage::Seal { leader } => {
                let sealed = old.store.seal(leader, old.access.store_patience()).await;
                sealed.with_context(|| old.access.named_store())?;
            }
            Stage::Done { .. } => return Ok(()),
            Stage::Members { .. } | Stage::OldLease if give_up <= Instant::now() => {
                return Err(hinted(
                    format!("not all of it has happened within {} s", old.access.wait_patience.as_secs()),
                    "run the same command again: it goes on where it was",
                ));
            }
            Stage::Members { .. } | Stage::OldLease => clock::pause(EVERY).await,
        }
        told = Some(stage);
    }
}

fn toward(from: &AccessArguments, to: &str) -> AccessArguments {
    if !to.contains("//") && Path::new(to).exists() {
        AccessArguments { config_file: Some(to.into()), dcs_url: None, ..from.clone() }
    } else {
        AccessArguments { dcs_url: Some(to.to_owned()), ..from.clone() }
    }
}

impl End<'_> {
    fn of<'a>(access: &'a Access, scope: &str) -> Result<End<'a>> {
        Ok(End { store: access.store(scope)?, access, scope: scope.to_owned() })
    }

    async fn read(&self) -> Result<Side> {
        let entries = self.store.entries(self.access.store_patience()).await;
        let entries = entries.with_context(|| self.access.named_store())?;
        Ok(Side::of(&self.scope, &self.store, entries))
    }
}

fn judged(scope: &str, here: &Side, there: &Side) -> Result<Stage> {
    judge(scope, here, there).map_err(|obstacle| hinted(obstacle.sentence, obstacle.hint))
}

/// A store with other limits may make another lease of the same settings.
async fn warn_of_timing(new: &End<'_>, cluster: &Cluster) -> Result<()> {
    let limits = new.store.session_limits(new.access.store_patience()).await;
    let limits = limits.with_context(|| new.access.named_store())?;
    let config =
        cluster.config.as_ref().map(|config| &config.value).ok_or_else(|| anyhow!("no configuration"))?;
    let timing = timing_of(config).unwrap_or_else(|error| error.timing);
    for sentence in timing::complaints(timing.ttl, &new.store, limits) {
        warn(sentence);
    }
    Ok(())
}

/// For `--dry-run`: what there is to be done from here on.
fn tell(stage: &Stage, here: &Side, new: &End<'_>) -> Result<()> {
    let copies = format!("would copy {}", here.cargo_told());
    let next = match stage {
        Stage::Copy => copies,
        Stage::Members { standbys, leader } => waits_for(standbys, leader.as_deref()),
        Stage::OldLease => "would wait for the end of the lease in the old store".to_owned(),
        Stage::Seal { .. } => "would seal the old store".to_owned(),
        Stage::Done { leader } => {
            format!("nothing is left to do: {leader} leads in {}", new.access.whereabouts())
        }
    };
    echo(next)?;
    if *stage == Stage::Copy {
        let cluster = &here.cluster;
        let (leader, standbys): (Vec<_>, Vec<_>) = cluster
            .members
            .iter()
            .map(|m| m.name.clone())
            .partition(|name| Some(name) == cluster.leader.as_ref());
        let standbys: BTreeSet<String> = standbys.into_iter().collect();
        echo(format!(
            "would wait for the members: {}",
            waits_for(&standbys, leader.first().map(String::as_str))
        ))?;
        echo("would seal the old store")?;
    }
    echo("nothing was changed")
}

fn announce(stage: &Stage, before: Option<&Stage>, here: &Side) -> Result<()> {
    match (stage, before) {
        (Stage::Copy, None) => echo(format!("Copying {}", here.cargo_told())),
        // Again and again: the leader goes on writing where it is.
        (Stage::Copy, Some(_)) => Ok(()),
        (Stage::Members { standbys, leader }, None | Some(Stage::Copy)) => {
            echo(
                "Give every member the new store in its configuration, and restart its agent; PostgreSQL runs on:",
            )?;
            echo(format!("  {}", waits_for(standbys, leader.as_deref())))
        }
        (Stage::Members { standbys, leader }, Some(_)) => {
            echo(format!("  {}", waits_for(standbys, leader.as_deref())))
        }
        (Stage::OldLease, _) => {
            echo("All members have come. Waiting for the end of the lease in the old store")
        }
        (Stage::Seal { .. }, _) => echo("Sealing the old store"),
        (Stage::Done { leader }, _) => {
            echo(format!("Success: {leader} leads in the new store"))?;
            echo(
                "hint: end the maintenance there: `tenurectl -c NEW.yml resume`. What is left in the old store keeps an agent",
            )?;
            echo("that was forgotten from leading there; when there is none: `tenurectl -c OLD.yml remove`")
        }
    }
}

fn waits_for(standbys: &BTreeSet<String>, leader: Option<&str>) -> String {
    let names: Vec<&str> = standbys.iter().map(String::as_str).collect();
    match (names.is_empty(), leader) {
        (true, None) => "the leader".to_owned(),
        (true, Some(leader)) => format!("{leader}, the leader"),
        (false, None) => names.join(", "),
        (false, Some(leader)) => format!("{}; then {leader}, the leader", names.join(", ")),
    }
}
