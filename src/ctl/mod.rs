//! `tenurectl`: the operator's command.

mod play;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "tenurectl", version, about = "Operates PostgreSQL clusters that are run by Tenure")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a whole cluster on this machine to play with: etcd, three members, HAProxy
    Play(play::PlayArguments),
}

/// Runs the command that the process was started with. An error is printed, and its chain, once, here.
pub fn main() -> std::process::ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.command {
        Command::Play(arguments) => play::play(&arguments),
    };
    match outcome {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
