//! The agent's command line. What the agent does is `tenure::agent`'s business.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser;
use tenure::agent::{self, Arguments, Inheritance, Service};
use tenure::config::{self, Sources};

fn main() -> ExitCode {
    // Before anything else is opened: the descriptors that systemd has handed over are known by their numbers.
    let inheritance = Inheritance::take();
    let arguments = Arguments::parse();
    if let Some(unit) = &arguments.leave_on_restart {
        let main_pid = std::env::var("MAINPID").ok();
        return match agent::leave_on_restart(unit, main_pid.as_deref()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("warning: {error:#}; {unit} is stopped in good order");
                ExitCode::FAILURE
            }
        };
    }
    let sources = Sources::of_process(arguments.config.clone());
    let loaded = match config::load(&sources) {
        Ok(loaded) => loaded,
        Err(problems) => {
            eprint!("{problems}");
            if arguments.config.is_empty() {
                eprintln!("hint: no configuration file was given; `tenured --help` tells how");
            }
            return ExitCode::FAILURE;
        }
    };
    for warning in &loaded.warnings {
        eprint!("{}", warning.render("warning"));
    }
    if arguments.print_config {
        // A reader that has seen enough closes the pipe; that is no failure of ours.
        let _ = std::io::stdout().lock().write_all(loaded.to_yaml().as_bytes());
        return ExitCode::SUCCESS;
    }
    if arguments.validate_config {
        return ExitCode::SUCCESS;
    }
    let config = loaded.config;
    let logging = match tenure::log::start(&config.log, &config.scope, config.name.as_str()) {
        Ok(logging) => logging,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let service = Service { inheritance, guardian_unit: arguments.guardian_unit, log: logging.tuner() };
    let outcome = agent::run(config, sources, service);
    drop(logging);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
