//! `demote-cluster` and `promote-cluster`: a whole cluster becomes the standby of another one, and back.

use anyhow::{Context, Result, bail};
use hyper::Method;
use tokio::time::Instant;

use super::access::Access;
use super::act::show;
use super::cluster::{Cluster, Member};
use super::console::{confirm, echo};
use super::document::Document;
use super::time;
use crate::clock;
use crate::model::Span;

#[derive(Debug, clap::Args)]
pub struct DemoteArguments {
    /// The cluster [default: the configured scope]
    cluster_name: Option<String>,
    /// Do not ask for confirmation at any point
    #[arg(long)]
    force: bool,
    /// Address of the remote node
    #[arg(long)]
    host: Option<String>,
    /// Port of the remote node
    #[arg(long)]
    port: Option<u16>,
    /// Command to restore WAL records from the remote primary
    #[arg(long, value_name = "COMMAND")]
    restore_command: Option<String>,
    /// Name of the slot on the remote node to use for replication
    #[arg(long, value_name = "NAME")]
    primary_slot_name: Option<String>,
}

#[derive(Debug, clap::Args)]
pub struct PromoteArguments {
    /// The cluster [default: the configured scope]
    cluster_name: Option<String>,
    /// Do not ask for confirmation at any point
    #[arg(long)]
    force: bool,
}

pub async fn demote(access: &Access, arguments: &DemoteArguments) -> Result<()> {
    let text = |value: &Option<String>| value.as_deref().filter(|text| !text.is_empty()).map(Document::text);
    let port = arguments.port.filter(|port| *port != 0).map(|port| Document::Integer(port.into()));
    let (host, restore) = (text(&arguments.host), text(&arguments.restore_command));
    if host.is_none() && port.is_none() && restore.is_none() {
        bail!("At least --host, --port or --restore-command should be specified");
    }
    let fields = [
        ("host", host),
        ("port", port),
        ("primary_slot_name", text(&arguments.primary_slot_name)),
        ("restore_command", restore),
    ];
    let upstream = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    change(access, arguments.cluster_name.as_deref(), arguments.force, Document::Map(upstream.collect()))
        .await
}

pub async fn promote(access: &Access, arguments: &PromoteArguments) -> Result<()> {
    change(access, arguments.cluster_name.as_deref(), arguments.force, Document::Null).await
}

async fn change(access: &Access, named: Option<&str>, force: bool, upstream: Document) -> Result<()> {
    let scope = access.scope(named)?;
    let cluster = access.read(&scope).await?;
    let demotes = upstream.counts();
    let (verb, wanted) = if demotes { ("demot", "standby_leader") } else { ("promot", "primary") };
    let Some(leader) = cluster.leading_member() else {
        bail!("Cluster has no leader, {verb}ion is not possible")
    };
    if leader.text("role") == Some(wanted) {
        bail!("Cluster is already in the required state");
    }
    echo("Current cluster topology")?;
    show(&cluster)?;
    if !force && !confirm(&format!("Are you sure you want to {verb}e {scope} cluster?")).await? {
        bail!("Aborted cluster {verb}ion");
    }
    let body = Document::Map(vec![("standby_cluster".to_owned(), upstream)]);
    let reply = access.members.ask(&leader, Method::PATCH, Some("config"), Some(body)).await;
    let reply = reply.with_context(|| format!("Failed to {verb}e {scope} cluster"))?;
    if reply.status != 200 {
        let (status, text) = (reply.status, reply.text);
        bail!("Failed to {verb}e {scope} cluster: /config PATCH status code={status}, ({text})");
    }
    let change = Change { verb, wanted, demotes, leader };
    until_changed(access, &scope, &change).await
}

struct Change {
    /// Without its ending.
    verb: &'static str,
    wanted: &'static str,
    demotes: bool,
    /// Who led before.
    leader: Member,
}

async fn until_changed(access: &Access, scope: &str, change: &Change) -> Result<()> {
    let give_up = Instant::now() + access.wait_patience;
    loop {
        let cluster = access.read(scope).await?;
        if change.is_complete(&cluster) {
            echo(format!("{} cluster is successfully {}ed", time::stamp_in_seconds(), change.verb))?;
            return show(&cluster);
        }
        echo(format!("{} {}", time::stamp_in_seconds(), change.progress(&cluster)))?;
        if give_up <= Instant::now() {
            bail!(
                "waited {} s (--wait-timeout); the change is still under way",
                access.wait_patience.as_secs()
            );
        }
        clock::pause(Span::from_secs(1)).await;
    }
}

impl Change {
    fn is_complete(&self, cluster: &Cluster) -> bool {
        let runs = |member: &Member| member.text("state") == Some("running");
        let led = cluster.leading_member().is_some_and(|l| l.text("role") == Some(self.wanted) && runs(&l));
        led && (!self.demotes || cluster.member(&self.leader.name).is_some_and(runs))
    }

    fn progress(&self, cluster: &Cluster) -> String {
        let leader = cluster.leading_member();
        let says = |field| leader.as_ref().and_then(|leader| leader.text(field)).unwrap_or("None").to_owned();
        let unlocked = if leader.is_none() { "True" } else { "False" };
        let mut text = format!(
            "cluster is unlocked: {unlocked}, leader role: {}, leader state: {}",
            says("role"),
            says("state")
        );
        let moved = leader.as_ref().is_some_and(|leader| leader.name != self.leader.name);
        let before = cluster.member(&self.leader.name).and_then(|member| member.text("state"));
        if let Some(state) = before.filter(|_| self.demotes && moved) {
            text += &format!(", previous leader state: '{state}'");
        }
        text
    }
}
