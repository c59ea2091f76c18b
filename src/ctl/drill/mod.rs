//! `drill`: brings a chosen fault upon the running cluster, once everything that must be so is so and somebody has said yes; measures what
//! clients notice with a writer of its own along the real route, looks for every acknowledged row, and reports.
//!
//! `situation` is what is known before, `guards` judge it, `run` does it, `ledger` counts, `report` and `page` tell.

mod guards;
mod ledger;
mod lost;
mod page;
mod picture;
mod report;
mod run;
mod situation;
mod writer;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};
use tokio_postgres::Config;
use tokio_postgres::config::TargetSessionAttrs;

use super::access::Access;
use super::cluster::Cluster;
use super::console::{Aborted, hinted, print, prompt, prompt_secret};
use super::document::Document;
use super::sql::{Login, Way};
use super::table::Format;
use super::{UsageError, time, yaml};
use crate::model::{Drill, Secret, Span};
use guards::{Checked, Found, Guard, Said, Window, examine};
use report::Report;
use situation::{Situation, look};

/// Longer than this nobody means.
const SECONDS_MAX: u64 = 7_200;

#[derive(Debug, Args)]
#[command(
    after_help = "Exit status: 0 all is well, 1 rows are missing or the cluster did not come back or the drill was broken off, 2 a guard has refused"
)]
pub struct DrillArguments {
    /// What is done: to the leader, its PostgreSQL, its agent or its machine
    #[arg(value_enum)]
    fault: Fault,
    /// The cluster [default: the configured scope]
    cluster_name: Option<String>,
    /// Only look whether everything is as it must be, and do nothing
    #[arg(long, conflicts_with_all = ["yes", "report"])]
    check: bool,
    /// Do not ask for the cluster's name
    #[arg(long)]
    yes: bool,
    /// For a switchover: who shall lead
    #[arg(long, value_name = "NAME")]
    candidate: Option<String>,
    /// The way that clients take, as for psql: 'host=db.example.org port=5000' [default: the members themselves, whichever takes
    /// writes]
    #[arg(long, value_name = "CONNINFO")]
    route: Option<String>,
    /// The schema for the drill's own table
    #[arg(long, value_name = "NAME", default_value = "public")]
    schema: String,
    /// Database user [default: as with psql]
    #[arg(short = 'U', long, value_name = "NAME")]
    username: Option<String>,
    /// Ask for the database user's password
    #[arg(long)]
    password: bool,
    /// Database [default: as with psql]
    #[arg(short, long, value_name = "NAME")]
    dbname: Option<String>,
    /// Write on for at least so long after the fault
    #[arg(long = "for", value_name = "SECONDS", default_value_t = 15)]
    lasts: u64,
    /// How long the cluster may take until it is whole again
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    within: u64,
    /// Only at this time of the day, by the clock here: 02:00-04:00
    #[arg(long, value_name = "FROM-TO")]
    window: Option<Window>,
    /// There is a backup, and somebody has restored it
    #[arg(long)]
    backup_checked: bool,
    /// Go on although this guard fails; may be given several times
    #[arg(long = "override", value_name = "GUARD")]
    overridden: Vec<Guard>,
    /// Why; members write it down
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Also write report.txt, report.json and report.html into this directory
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// The form of the output
    #[arg(short, long, value_enum, default_value_t = Format::Pretty)]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Fault {
    /// The leader hands over in good order
    Switchover,
    /// The leader's postmaster is killed
    Postmaster,
    /// The leader's agent is killed
    Agent,
    /// The leader's guardian is stopped, so that the watchdog device resets the machine
    Host,
}

/// It has been told; this is only how to end.
#[derive(Debug, thiserror::Error)]
#[error("the drill has ended")]
pub struct Ended(pub u8);

/// A guard has refused.
const REFUSED: u8 = 2;

/// A drill that is to be.
pub struct Wanted<'a> {
    pub fault: Fault,
    pub scope: &'a str,
    pub candidate: Option<&'a str>,
    pub way: Way,
    pub schema: &'a str,
    pub lasts: Span,
    pub within: Span,
    pub why: Option<&'a str>,
}

impl Fault {
    pub fn word(self) -> &'static str {
        match self {
            Fault::Switchover => "switchover",
            Fault::Postmaster => "postmaster",
            Fault::Agent => "agent",
            Fault::Host => "host",
        }
    }

    /// What the leader's agent is asked for; a switchover is an ordinary request.
    pub fn drill(self) -> Option<Drill> {
        match self {
            Fault::Switchover => None,
            Fault::Postmaster => Some(Drill::Postmaster),
            Fault::Agent => Some(Drill::Agent),
            Fault::Host => Some(Drill::Host),
        }
    }

    pub fn deed(self, target: &str) -> String {
        match self {
            Fault::Switchover => format!("{target} hands over in good order"),
            Fault::Postmaster => format!("the postmaster of {target} is killed"),
            Fault::Agent => format!("the agent of {target} is killed"),
            Fault::Host => {
                format!("the guardian of {target} is stopped, so that its watchdog device resets the machine")
            }
        }
    }

    pub fn unseen(self, target: &str) -> String {
        match self {
            Fault::Switchover => format!("{target} has not handed over"),
            Fault::Postmaster => format!("the PostgreSQL of {target} was not seen to be started anew"),
            Fault::Agent => format!("the agent of {target} was not seen to be started anew"),
            Fault::Host => format!("{target} was not seen to come back from a reset"),
        }
    }
}

impl Wanted<'_> {
    /// What members write down beside the name.
    fn reason(&self) -> String {
        match self.why {
            Some(why) => format!("tenurectl drill {}: {why}", self.fault.word()),
            None => format!("tenurectl drill {}", self.fault.word()),
        }
    }
}

pub async fn drill(access: &Access, arguments: &DrillArguments) -> Result<()> {
    check_usage(arguments)?;
    let scope = access.scope(arguments.cluster_name.as_deref())?;
    let password =
        if arguments.password { Some(Secret::new(prompt_secret("Password").await?)) } else { None };
    let login = Login { user: arguments.username.clone(), password, database: arguments.dbname.clone() };
    let way = way(arguments.route.as_deref(), &login, &access.read(&scope).await?)?;
    let wanted = Wanted {
        fault: arguments.fault,
        scope: &scope,
        candidate: arguments.candidate.as_deref(),
        way,
        schema: &arguments.schema,
        lasts: Span::from_secs(arguments.lasts),
        within: Span::from_secs(arguments.within),
        why: arguments.reason.as_deref(),
    };
    let (mut situation, mut checked) = examined(access, arguments, &wanted).await?;
    if arguments.check {
        print(&checked_told(arguments, &situation, &checked))?;
        return if checked.iter().any(Checked::refuses) { Err(Ended(REFUSED).into()) } else { Ok(()) };
    }
    refuse(arguments, &situation, &checked)?;
    if !arguments.yes {
        print(&question(&wanted, &situation, &checked))?;
        let typed = prompt(&format!("Type the name of the cluster ({scope}) to begin"), None).await?;
        if typed.trim() != scope {
            return Err(Aborted.into());
        }
        // Whoever was asked may have thought for a while.
        (situation, checked) = examined(access, arguments, &wanted).await?;
        refuse(arguments, &situation, &checked)?;
    }
    let target = situation.facts.leader.clone().context("nobody leads")?;
    let directory = arguments.report.as_deref().map(directory).transpose()?;
    let course = run::run(access, &wanted, &situation.cluster, &target).await?;
    let report = Report::of(&wanted, &situation, &checked, &target, &course);
    print(&match arguments.format {
        Format::Pretty | Format::Tsv => report.text(),
        Format::Json => format!("{}\n", Document::from(&report.document()).to_json()),
        Format::Yaml => yaml::block(&Document::from(&report.document())),
    })?;
    if let Some(directory) = directory {
        write(&directory, &report)?;
    }
    if report.problems.is_empty() { Ok(()) } else { Err(Ended(1).into()) }
}

fn check_usage(arguments: &DrillArguments) -> Result<()> {
    let wrong = |why: &str| Err(UsageError(why.to_owned()).into());
    if arguments.format == Format::Tsv {
        return wrong("a report has no rows: use -f pretty, json or yaml");
    }
    if arguments.candidate.is_some() && arguments.fault != Fault::Switchover {
        return wrong("--candidate goes with a switchover: after a fault the members decide");
    }
    if ![arguments.lasts, arguments.within].iter().all(|seconds| (1..=SECONDS_MAX).contains(seconds)) {
        return wrong("--for and --within want a number of seconds, at most 7200");
    }
    Ok(())
}

/// As clients would connect; without a word about it, to whichever member takes writes.
fn way(route: Option<&str>, login: &Login, cluster: &Cluster) -> Result<Way> {
    let mut config = match route {
        Some(route) => named(route)?,
        None => members(cluster),
    };
    if config.get_hosts().is_empty() {
        bail!("no host to connect to is known: name one with --route");
    }
    if config.get_connect_timeout().is_none() {
        // With several hosts, one that is silent must not keep the others waiting.
        config.connect_timeout(std::time::Duration::from_secs(1));
    }
    Way::new(config, login)
}

fn named(route: &str) -> Result<Config> {
    let config: Config = route.parse().context("understand --route")?;
    if config.get_password().is_some() {
        let hint = "PGPASSWORD, a password file (~/.pgpass) or --password";
        return Err(hinted("--route holds a password, which every user of this machine could read", hint));
    }
    Ok(config)
}

fn members(cluster: &Cluster) -> Config {
    let mut config = Config::new();
    for address in cluster.members.iter().filter_map(super::cluster::Member::address) {
        config.host(&address.host).port(address.port);
    }
    config.target_session_attrs(TargetSessionAttrs::ReadWrite);
    config
}

async fn examined(
    access: &Access,
    arguments: &DrillArguments,
    wanted: &Wanted<'_>,
) -> Result<(Situation, Vec<Checked>)> {
    let situation = look(access, wanted.scope, &wanted.way, wanted.schema).await?;
    let said = Said {
        candidate: arguments.candidate.clone(),
        window: arguments.window,
        backup_checked: arguments.backup_checked,
        overridden: arguments.overridden.clone(),
    };
    let checked = examine(wanted.fault, &situation, &said, time::now().time());
    Ok((situation, checked))
}

/// Everything that is not as it must be, at once.
fn refuse(arguments: &DrillArguments, situation: &Situation, checked: &[Checked]) -> Result<()> {
    if !checked.iter().any(Checked::refuses) {
        return Ok(());
    }
    print(&checked_told(arguments, situation, checked))?;
    Err(Ended(REFUSED).into())
}

fn checked_told(arguments: &DrillArguments, situation: &Situation, checked: &[Checked]) -> String {
    let document = || {
        json!({
            "cluster": situation.facts.scope,
            "fault": arguments.fault.word(),
            "leader": situation.facts.leader,
            "refused": checked.iter().any(Checked::refuses),
            "guards": guards_document(checked),
        })
    };
    match arguments.format {
        Format::Pretty | Format::Tsv => {
            let refused: Vec<&str> =
                checked.iter().filter(|one| one.refuses()).map(|one| one.guard.code()).collect();
            let outcome = if refused.is_empty() {
                "Every guard lets it through; nothing has been done.\n".to_owned()
            } else {
                format!("Refused by {}; nothing has been done.\n", refused.join(", "))
            };
            format!("{}{outcome}", guards_told(checked))
        }
        Format::Json => format!("{}\n", Document::from(&document()).to_json()),
        Format::Yaml => yaml::block(&Document::from(&document())),
    }
}

fn guards_told(checked: &[Checked]) -> String {
    let mut text = String::new();
    for Checked { guard, found, overridden } in checked {
        let code = guard.code();
        let _ = match found {
            Found::Holds(measured) => writeln!(text, "  ok          {code:10}  {measured}"),
            Found::Fails { measured, .. } if *overridden => {
                writeln!(text, "  overridden  {code:10}  {measured}")
            }
            Found::Fails { measured, remedy } => {
                writeln!(text, "  refuses     {code:10}  {measured}\n{:26}do: {remedy}", "")
            }
        };
    }
    text
}

fn guards_document(checked: &[Checked]) -> Value {
    let guard = |one: &Checked| {
        let (measured, remedy) = match &one.found {
            Found::Holds(measured) => (measured, None),
            Found::Fails { measured, remedy } => (measured, Some(remedy)),
        };
        json!({
            "guard": one.guard.code(),
            "holds": remedy.is_none(),
            "overridden": one.overridden,
            "measured": measured,
            "remedy": remedy,
        })
    };
    checked.iter().map(guard).collect()
}

/// What somebody has to know who types the name.
fn question(wanted: &Wanted<'_>, situation: &Situation, checked: &[Checked]) -> String {
    let leader = situation.facts.leader.as_deref().unwrap_or("nobody");
    let mut text = guards_told(checked);
    let _ = writeln!(text, "\nThis is no rehearsal: {} in {}.", wanted.fault.deed(leader), wanted.scope);
    let _ = writeln!(text, "Clients cannot write for a while, and their connections to {leader} may end.");
    let _ = writeln!(text, "{}", report::what_may_be_lost(wanted.fault, situation));
    let _ = writeln!(
        text,
        "A table of its own is made in the schema {} of {}, written to along {}, and dropped afterwards.",
        wanted.schema,
        wanted.way.database,
        wanted.way.told()
    );
    text
}

/// Before anything is done: a report that cannot be written is of no use.
fn directory(path: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(path).with_context(|| format!("make {}", path.display()))?;
    let probe = path.join("report.txt");
    let opened = std::fs::File::options().append(true).create(true).open(&probe);
    opened.with_context(|| format!("write {}", probe.display()))?;
    Ok(path.to_owned())
}

fn write(directory: &Path, report: &Report) -> Result<()> {
    let document = serde_json::to_string_pretty(&report.document()).context("write the report as JSON")?;
    for (name, text) in
        [("report.txt", report.text()), ("report.json", document + "\n"), ("report.html", page::page(report))]
    {
        let path = directory.join(name);
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    eprintln!("the report is in {}", directory.display());
    Ok(())
}
