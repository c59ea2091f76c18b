//! `migrate`: puts a member under Tenure in Patroni's place, and back, while its PostgreSQL runs on. Works on the machine that
//! it is called on, for the one member whose configuration file it is given.
//!
//! `check` looks and changes nothing, `judge` tells what it means. `here` is what is known of this machine, `questions` what
//! PostgreSQL is asked, `units` the commands that stop one agent and start the other, `change` the order of things.

mod change;
mod check;
mod here;
mod judge;
mod questions;
mod units;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Subcommand;

use super::access::{Access, AccessArguments};
use super::console::hinted;
use super::table::Format;
use units::Means;

#[derive(Debug, clap::Args)]
pub struct MigrateArguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Tell what stands in the way of putting this member under Tenure; changes nothing
    Check(CheckArguments),
    /// Put this member under Tenure; its PostgreSQL runs on
    ToTenure(ChangeArguments),
    /// Put this member back under Patroni; its PostgreSQL runs on
    ToPatroni(ChangeArguments),
}

#[derive(Debug, clap::Args)]
struct CheckArguments {
    /// The form of the output
    #[arg(short, long, value_enum, default_value_t = Format::Pretty)]
    format: Format,
    #[command(flatten)]
    means: MeansArguments,
}

#[derive(Debug, clap::Args)]
struct ChangeArguments {
    #[command(flatten)]
    means: MeansArguments,
    /// Print the commands that would be run, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// How long to wait for an agent to go, and for the other one to be in charge
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    patience: u32,
    /// A shell command, instead of the unit's stop: it must end the agent and leave PostgreSQL as it is
    #[arg(long, value_name = "COMMAND", requires = "start")]
    stop: Option<String>,
    /// A shell command, instead of the unit's start
    #[arg(long, value_name = "COMMAND", requires = "stop")]
    start: Option<String>,
}

#[derive(Debug, clap::Args)]
struct MeansArguments {
    /// The unit that runs Patroni [default: the running agent's own, else patroni.service]
    #[arg(long, value_name = "UNIT")]
    patroni_unit: Option<String>,
    /// The instance of tenured@.service, which reads /etc/tenure/INSTANCE.yml
    #[arg(long, value_name = "NAME", default_value = "main")]
    instance: String,
}

/// What every part of a migration is told.
#[derive(Debug)]
struct Ground<'a> {
    access: &'a Access,
    /// The member's configuration.
    file: PathBuf,
    means: Means,
}

pub async fn migrate(given: &AccessArguments, access: &Access, arguments: &MigrateArguments) -> Result<()> {
    let Some(file) = &given.config_file else {
        return Err(hinted(
            "a member's configuration file is needed",
            "name it before the command: tenurectl -c /etc/patroni/config.yml migrate check",
        ));
    };
    let file = std::path::absolute(file).unwrap_or_else(|_| file.clone());
    match &arguments.action {
        Action::Check(arguments) => {
            let means = Means::Units(units::Names::new(
                arguments.means.patroni_unit.as_deref(),
                &arguments.means.instance,
            )?);
            check::check(&Ground { access, file, means }, arguments.format).await
        }
        Action::ToTenure(arguments) => change_to(access, file, here::Kind::Tenure, arguments).await,
        Action::ToPatroni(arguments) => change_to(access, file, here::Kind::Patroni, arguments).await,
    }
}

async fn change_to(
    access: &Access,
    file: PathBuf,
    kind: here::Kind,
    arguments: &ChangeArguments,
) -> Result<()> {
    let means = match (&arguments.stop, &arguments.start) {
        (Some(stop), Some(start)) => Means::Commands { stop: stop.clone(), start: start.clone() },
        (Some(_) | None, _) => Means::Units(units::Names::new(
            arguments.means.patroni_unit.as_deref(),
            &arguments.means.instance,
        )?),
    };
    let patience = Duration::from_secs(u64::from(arguments.patience));
    change::change(&Ground { access, file, means }, kind, arguments.dry_run, patience).await
}
