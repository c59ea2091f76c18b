//! `tenurectl`: the operator's command. It does what `patronictl` does, with the same arguments, questions and answers, on
//! clusters of Tenure's and of Patroni's agents alike.
//!
//! `access` is the way to the store and the members, `cluster` what they tell. One file per family of commands; `table`,
//! `yaml`, `document` and `diff` make text of it.

mod access;
mod act;
mod caller;
mod cluster;
mod config_history;
mod configuration;
mod console;
mod diff;
mod doctor;
mod document;
mod drill;
mod events;
mod explain;
mod facts;
mod foresee;
mod history;
mod intent;
mod lost;
mod manual;
mod members;
mod migrate;
mod move_store;
mod pause;
mod play;
mod query;
mod replay;
mod rest;
mod route;
mod site;
mod sql;
mod switch;
mod table;
mod terminal;
mod time;
mod timing;
mod tls;
mod top;
mod words;
mod yaml;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use access::{Access, AccessArguments};
use console::{Aborted, Hinted, Unread};

use crate::model::IntentKind;

/// Operates PostgreSQL clusters that are run by Tenure or by Patroni.
///
/// Every command of patronictl is here under its own name, with its arguments, questions and output. Settings come from a
/// configuration file (an agent's will do), from the environment variables PATRONI_… and TENURE_…, and from the options.
#[derive(Debug, Parser)]
#[command(name = "tenurectl", version, max_term_width = 100)]
struct Arguments {
    #[command(flatten)]
    access: AccessArguments,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the members of a cluster
    List(facts::ListArguments),
    /// Show the members of a cluster as a tree of replication
    Topology(facts::TopologyArguments),
    /// Show when the cluster has had which leader
    History(history::HistoryArguments),
    /// Show by which rule each member acts and what it knows; or, with --if, what would happen
    Explain(explain::ExplainArguments),
    /// Show everything that will bite later, each with its remedy; the exit status is for monitoring
    Doctor(doctor::DoctorArguments),
    /// Bring a fault upon the running cluster, with guards before, a writer meanwhile and a report afterwards
    Drill(Box<drill::DrillArguments>),
    /// Show what the members have decided, and what each change of the leader was made of
    Events(events::EventsArguments),
    /// Decide again what a flight recorder has kept, by the rules of this version
    Replay(replay::ReplayArguments),
    /// List what was set aside before data was rewound or cloned, on every member or beside one data directory
    Lost(lost::LostArguments),
    /// Show the cluster's shared configuration
    ShowConfig(configuration::ShowArguments),
    /// Show how long leases may be in the running store, and what follows for the cluster
    ShowTiming(timing::TimingArguments),
    /// Change the cluster's shared configuration
    EditConfig(configuration::EditArguments),
    /// Watch the cluster live, and act on it with single keys
    Top(top::TopArguments),
    /// Show who has changed the cluster's shared configuration, when and why
    ConfigHistory(config_history::ConfigHistoryArguments),
    /// Hand over to a replica, in good order
    Switchover(switch::SwitchoverArguments),
    /// Make a replica the leader, also where there is none
    Failover(switch::FailoverArguments),
    /// Restart PostgreSQL on members
    Restart(act::RestartArguments),
    /// Have members read their configuration files again
    Reload(act::ReloadArguments),
    /// Replace the data of replicas by a new copy
    Reinit(act::ReinitArguments),
    /// Discard what is scheduled
    Flush(act::FlushArguments),
    /// Begin maintenance: nobody is promoted or demoted by itself
    Pause(pause::PauseArguments),
    /// End maintenance
    Resume(pause::ResumeArguments),
    /// Keep a member from leading and from serving reads while somebody works on it
    Maintenance(intent::MemberArguments),
    /// Keep a member from leading
    Nofailover(intent::MemberArguments),
    /// Print how to connect to a member
    Dsn(facts::DsnArguments),
    /// Run SQL on a member
    Query(query::QueryArguments),
    /// Print the version of this command and of running members
    Version(facts::VersionArguments),
    /// Remove a cluster from the store
    Remove(facts::RemoveArguments),
    /// Move a cluster to another store while PostgreSQL runs on
    MoveStore(move_store::MoveArguments),
    /// Make a cluster the standby of another one
    DemoteCluster(site::DemoteArguments),
    /// Make a standby cluster independent
    PromoteCluster(site::PromoteArguments),
    /// Put members of a running cluster under Tenure in Patroni's place, and back
    Migrate(migrate::MigrateArguments),
    /// Beside HAProxy: push each change of the leader to it at once
    Route(route::RouteArguments),
    /// Run a whole cluster on this machine to play with: etcd, three members, HAProxy
    Play(play::PlayArguments),
    /// Print the completions for a shell
    Completions(manual::CompletionsArguments),
    /// Write the man pages of all programs into a directory
    #[command(hide = true)]
    Man(manual::ManArguments),
}

/// A wrong command line that only the command itself could see.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct UsageError(String);

/// Ends as `patronictl` does: 0, 1 after an error, 2 after wrong usage.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let is_doctor = matches!(arguments.command, Command::Doctor(_));
    let outcome = match arguments.command {
        Command::Replay(arguments) => return replayed(replay::replay(&arguments)),
        Command::Play(arguments) => play::play(&arguments),
        Command::Completions(arguments) => manual::completions(&arguments),
        Command::Man(arguments) => manual::man(&arguments),
        Command::Lost(arguments) if arguments.is_about_this_machine() => lost::lost_here(&arguments),
        Command::Version(arguments) if !arguments.asks_members() => facts::own_version(),
        command => run(&arguments.access, command),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_doctor => undiagnosed(&error),
        Err(error) => complain(&error),
    }
}

/// What monitoring takes for "unknown" must not look like a warning.
fn undiagnosed(error: &anyhow::Error) -> ExitCode {
    if let Some(doctor::Diagnosed(code)) = error.downcast_ref() {
        return ExitCode::from(*code);
    }
    complain(error);
    ExitCode::from(doctor::UNTOLD)
}

/// 1 where the rules of this version decide otherwise.
fn replayed(outcome: Result<bool>) -> ExitCode {
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => complain(&error),
    }
}

/// An error and its chain are printed once, here.
fn complain(error: &anyhow::Error) -> ExitCode {
    if error.is::<Unread>() {
        return ExitCode::FAILURE;
    }
    if let Some(drill::Ended(code)) = error.downcast_ref() {
        return ExitCode::from(*code);
    }
    if error.is::<Aborted>() {
        eprintln!("Aborted!");
        return ExitCode::FAILURE;
    }
    eprintln!("Error: {}", format!("{error:#}").trim_end());
    if let Some(hinted) = error.chain().find_map(|cause| cause.downcast_ref::<Hinted>()) {
        eprintln!("hint: {}", hinted.hint);
    }
    if error.is::<UsageError>() { ExitCode::from(2) } else { ExitCode::FAILURE }
}

fn run(access: &AccessArguments, command: Command) -> Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = carry_out(access, command) => outcome,
            () = interrupted() => {
                eprintln!();
                Err(Aborted.into())
            }
        }
    });
    // A thread may still be waiting for a line from the terminal.
    runtime.shutdown_background();
    outcome
}

/// Ctrl-C, unless another program has the terminal.
async fn interrupted() {
    loop {
        if tokio::signal::ctrl_c().await.is_err() {
            return std::future::pending().await;
        }
        if !console::is_lent() {
            return;
        }
    }
}

async fn carry_out(from: &AccessArguments, command: Command) -> Result<()> {
    // A file can be read where there is no configuration.
    if let Command::Events(arguments) = &command {
        return events::events(from, arguments).await;
    }
    let access = &Access::new(from)?;
    match command {
        Command::List(arguments) => facts::list(access, &arguments).await,
        Command::Topology(arguments) => facts::topology(access, &arguments).await,
        Command::History(arguments) => history::history(access, &arguments).await,
        Command::Explain(arguments) => explain::explain(access, &arguments).await,
        Command::Doctor(arguments) => doctor::doctor(access, &arguments).await,
        Command::Drill(arguments) => drill::drill(access, &arguments).await,
        Command::ShowConfig(arguments) => configuration::show(access, &arguments).await,
        Command::ShowTiming(arguments) => timing::show(access, &arguments).await,
        Command::EditConfig(arguments) => configuration::edit(access, &arguments).await,
        Command::ConfigHistory(arguments) => config_history::show(access, &arguments).await,
        Command::Switchover(arguments) => switch::switchover(access, &arguments).await,
        Command::Failover(arguments) => switch::failover(access, &arguments).await,
        Command::Restart(arguments) => act::restart(access, &arguments).await,
        Command::Reload(arguments) => act::reload(access, &arguments).await,
        Command::Reinit(arguments) => act::reinit(access, &arguments).await,
        Command::Flush(arguments) => act::flush(access, &arguments).await,
        Command::Pause(arguments) => pause::pause(access, &arguments).await,
        Command::Resume(arguments) => pause::resume(access, &arguments).await,
        Command::Maintenance(arguments) => intent::keep(access, &arguments, IntentKind::Maintenance).await,
        Command::Nofailover(arguments) => intent::keep(access, &arguments, IntentKind::Nofailover).await,
        Command::Dsn(arguments) => facts::dsn(access, &arguments).await,
        Command::Query(arguments) => query::query(access, &arguments).await,
        Command::Version(arguments) => facts::version(access, &arguments).await,
        Command::Remove(arguments) => facts::remove(access, &arguments).await,
        Command::MoveStore(arguments) => move_store::move_store(access, from, &arguments).await,
        Command::DemoteCluster(arguments) => site::demote(access, &arguments).await,
        Command::PromoteCluster(arguments) => site::promote(access, &arguments).await,
        Command::Lost(arguments) => lost::lost(access, &arguments).await,
        Command::Top(arguments) => top::top(access, &arguments).await,
        Command::Route(arguments) => route::route(access, &arguments).await,
        Command::Migrate(arguments) => migrate::migrate(from, access, &arguments).await,
        Command::Play(_) | Command::Completions(_) | Command::Man(_) => Ok(()),
        Command::Events(_) | Command::Replay(_) => Ok(()),
    }
}
