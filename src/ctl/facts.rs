//! What is only told: `list`, `topology`, `dsn` and `version`; and `remove`, after which nothing is left to tell.

use anyhow::{Context, Result, bail};
use hyper::Method;

use super::access::Access;
use super::cluster::{Cluster, Member, Role};
use super::console::{Watch, echo, hinted, print, prompt, warn};
use super::document::Document;
use super::members::{self, Shape};
use super::table::Format;
use super::time;

#[derive(Debug, clap::Args)]
pub struct ListArguments {
    /// The clusters [default: the configured scope]
    cluster_names: Vec<String>,
    /// Show more
    #[arg(short, long)]
    extended: bool,
    /// Print the time first
    #[arg(short, long)]
    timestamp: bool,
    /// The form of the output
    #[arg(short, long, value_enum, default_value_t = Format::Pretty)]
    format: Format,
    /// Update the screen every 2 seconds
    #[arg(short = 'W')]
    every_two: bool,
    /// Update the screen every so many seconds
    #[arg(short, long, value_name = "SECONDS")]
    watch: Option<f64>,
}

#[derive(Debug, clap::Args)]
pub struct TopologyArguments {
    /// The clusters [default: the configured scope]
    cluster_names: Vec<String>,
    /// Update the screen every 2 seconds
    #[arg(short = 'W')]
    every_two: bool,
    /// Update the screen every so many seconds
    #[arg(short, long, value_name = "SECONDS")]
    watch: Option<f64>,
}

#[derive(Debug, clap::Args)]
pub struct DsnArguments {
    /// The cluster [default: the configured scope]
    cluster_name: Option<String>,
    /// Any member with this role
    #[arg(short, long, value_enum)]
    role: Option<Role>,
    /// This member
    #[arg(short, long, value_name = "NAME")]
    member: Option<String>,
}

#[derive(Debug, clap::Args)]
pub struct VersionArguments {
    /// The cluster whose members are asked; without it, only this command's version is told
    cluster_name: Option<String>,
    /// Only these members
    member_names: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub struct RemoveArguments {
    /// The cluster
    cluster_name: String,
    /// The form in which the cluster is shown
    #[arg(short, long, value_enum, default_value_t = Format::Pretty)]
    format: Format,
}

pub async fn list(access: &Access, arguments: &ListArguments) -> Result<()> {
    let watch = Watch::new(arguments.every_two, arguments.watch, true)?;
    let shape = Shape::List(arguments.format);
    list_in(access, &arguments.cluster_names, shape, arguments.extended, arguments.timestamp, watch).await
}

pub async fn topology(access: &Access, arguments: &TopologyArguments) -> Result<()> {
    let watch = Watch::new(arguments.every_two, arguments.watch, true)?;
    list_in(access, &arguments.cluster_names, Shape::Topology, false, false, watch).await
}

async fn list_in(
    access: &Access,
    named: &[String],
    shape: Shape,
    extended: bool,
    timestamp: bool,
    mut watch: Watch,
) -> Result<()> {
    let configured = || access.configured_scope().map(str::to_owned).into_iter().collect();
    let scopes: Vec<String> = if named.is_empty() { configured() } else { named.to_vec() };
    if scopes.is_empty() {
        warn("Listing members: No cluster names were provided");
        return Ok(());
    }
    loop {
        if timestamp {
            echo(time::stamp_in_seconds())?;
        }
        for scope in &scopes {
            print(&members::render(&access.read(scope).await?, shape, extended))?;
        }
        if !watch.again().await? {
            return Ok(());
        }
    }
}

pub async fn dsn(access: &Access, arguments: &DsnArguments) -> Result<()> {
    let scope = access.scope(arguments.cluster_name.as_deref())?;
    let cluster = access.read(&scope).await?;
    let member = any_member(&cluster, arguments.role, arguments.member.as_deref())?;
    let Some(member) = member else { bail!("Can not find a suitable member") };
    let Some(address) = member.address() else {
        return Err(hinted(
            format!("the member {} has not published where its PostgreSQL listens", member.name),
            format!("look with `tenurectl list {scope}` whether it runs"),
        ));
    };
    echo(format!("host={} port={}", address.host, address.port))
}

/// The first member with a role, or with a name; the leader if neither is asked for.
pub fn any_member(cluster: &Cluster, role: Option<Role>, name: Option<&str>) -> Result<Option<Member>> {
    let role = match (role, name) {
        (Some(_), Some(_)) => bail!("--role and --member are mutually exclusive options"),
        (Some(role), None) => role,
        (None, Some(_)) => Role::Any,
        (None, None) => Role::Leader,
    };
    Ok(cluster.with_role(role).into_iter().find(|member| name.is_none_or(|name| member.name == name)))
}

/// Before any configuration is read: this much needs none.
pub fn own_version() -> Result<()> {
    echo(concat!("tenurectl version ", env!("CARGO_PKG_VERSION")))
}

impl VersionArguments {
    pub fn asks_members(&self) -> bool {
        self.cluster_name.is_some()
    }
}

pub async fn version(access: &Access, arguments: &VersionArguments) -> Result<()> {
    own_version()?;
    let Some(scope) = &arguments.cluster_name else { return Ok(()) };
    echo("")?;
    let wanted =
        |member: &&Member| arguments.member_names.is_empty() || arguments.member_names.contains(&member.name);
    let cluster = access.read(scope).await?;
    for member in cluster.members.iter().filter(|member| member.api_url().is_some()).filter(wanted) {
        match member_version(access, member).await {
            Ok(version) => echo(format!("{}: {version}", member.name))?,
            Err(error) => echo(format!("{}: failed to get version: {error:#}", member.name))?,
        }
    }
    Ok(())
}

async fn member_version(access: &Access, member: &Member) -> Result<String> {
    let reply = access.members.ask(member, Method::GET, None, None).await?;
    let document = Document::parse(reply.text.as_bytes()).context("understand the answer")?;
    let of = |section: &str| document.get(section).and_then(|part| part.get("version")).map(Document::shown);
    let agent = match of("tenure") {
        Some(own) => format!("Tenure {own}"),
        None => format!("Patroni {}", of("patroni").unwrap_or_else(|| "None".to_owned())),
    };
    let server = document.get("server_version").and_then(Document::as_integer).filter(|number| *number > 0);
    Ok(match server {
        Some(number) => format!("{agent} PostgreSQL {}", server_version(number)),
        None => agent,
    })
}

fn server_version(number: i128) -> String {
    if number < 100_000 {
        format!("{}.{}.{}", number / 10_000, number / 100 % 100, number % 100)
    } else {
        format!("{}.{}", number / 10_000, number % 100)
    }
}

pub async fn remove(access: &Access, arguments: &RemoveArguments) -> Result<()> {
    let scope = &arguments.cluster_name;
    let store = access.store(scope)?;
    let cluster = access.read_from(&store, scope).await?;
    print(&members::render(&cluster, Shape::List(arguments.format), false))?;
    if prompt("Please confirm the cluster name to remove", None).await? != *scope {
        bail!("Cluster names specified do not match");
    }
    let sentence = "Yes I am aware";
    let question =
        format!("You are about to remove all information in DCS for {scope}, please type: \"{sentence}\"");
    if prompt(&question, None).await? != sentence {
        bail!("You did not exactly type \"{sentence}\"");
    }
    if let Some(leader) = &cluster.leader {
        let question = "This cluster currently is healthy. Please specify the leader name to continue";
        if prompt(question, None).await? != *leader {
            bail!("You did not specify the current leader of the cluster");
        }
    }
    store.remove_cluster(access.store_patience()).await.with_context(|| access.named_store())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_version_is_written_as_people_say_it() {
        for (number, text) in [(90624, "9.6.24"), (100_000, "10.0"), (150_018, "15.18")] {
            assert_eq!(server_version(number), text);
        }
    }
}
