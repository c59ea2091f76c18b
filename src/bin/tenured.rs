//! The agent's command line. What the agent does is `tenure::agent`'s business.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser;
use tenure::agent::{self, Arguments};
use tenure::config::{self, Loaded, Sources};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let sources = Sources::of_process(arguments.config.clone());
    let Loaded { config, warnings } = match config::load(&sources) {
        Ok(loaded) => loaded,
        Err(problems) => {
            eprint!("{problems}");
            if arguments.config.is_empty() {
                eprintln!("hint: no configuration file was given; `tenured --help` tells how");
            }
            return ExitCode::FAILURE;
        }
    };
    for warning in &warnings {
        eprint!("{}", warning.render("warning"));
    }
    if arguments.print_config {
        // A reader that has seen enough closes the pipe; that is no failure of ours.
        let _ = std::io::stdout().lock().write_all(config.to_yaml().as_bytes());
        return ExitCode::SUCCESS;
    }
    if arguments.validate_config {
        return ExitCode::SUCCESS;
    }
    let logging = match tenure::log::start(&config.log, config.name.as_str()) {
        Ok(logging) => logging,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = agent::run(config, sources);
    drop(logging);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
