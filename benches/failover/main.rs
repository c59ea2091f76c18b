//! The cost of faults, as clients see it: Tenure and Patroni in turn, on the same machines, with the same PostgreSQL, store,
//! clients and faults. `make bench`; what is measured and how: docs/benchmarks.md.

mod chart;
mod clients;
mod faults;
mod footprint;
mod grown;
mod growth;
mod herd;
mod measure;
mod report;
mod stage;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use faults::Fault;
use herd::Size;
use measure::Outcome;
use stage::{Plan, Routing, System, Timing};
use support::netns;

/// Measure what faults cost under Tenure and under Patroni
#[derive(Debug, Parser)]
#[command(name = "failover")]
struct Arguments {
    /// How often each fault is measured
    #[arg(long, default_value_t = 5)]
    repetitions: u32,
    /// Only these faults; may be repeated
    #[arg(long, value_enum)]
    fault: Vec<Fault>,
    /// Only this system; may be repeated
    #[arg(long, value_enum)]
    system: Vec<System>,
    /// Tenure's ttl, in seconds: 15 is the profile safe, 10 norm, 5 fast
    #[arg(long, default_value_t = 10)]
    tenure_ttl: u32,
    /// Patroni's ttl, loop_wait and retry_timeout: 30/10/10 are its defaults, 20/1/3 the least that it accepts
    #[arg(long, default_value = "30/10/10")]
    patroni_timing: Timing,
    /// HAProxy for Patroni: as its manual has it, or as we ship it, with `tenurectl route`
    #[arg(long, value_enum, default_value_t = Routing::Manual)]
    patroni_routing: Routing,
    /// Synchronous replication, for both
    #[arg(long)]
    synchronous: bool,
    /// How many seconds a frozen agent, a cut link and a lost store last
    #[arg(long, default_value_t = 40)]
    hold: u64,
    /// Measure only what the agents use: memory, processor, requests a second
    #[arg(long)]
    footprint: bool,
    /// How many seconds an idle agent is watched
    #[arg(long, default_value_t = 60)]
    idle: u64,
    /// Measure only what one store carries: up to a thousand clusters, and clusters of up to thirty members; half an hour
    #[arg(long)]
    growth: bool,
    /// Only this size of `--growth`; may be repeated
    #[arg(long, value_name = "CLUSTERSxMEMBERS", requires = "growth")]
    size: Vec<Size>,
    /// What `--growth` starts beside the cluster that it measures
    #[arg(long, hide = true, value_name = "CLUSTERSxMEMBERS", requires = "herd_store")]
    herd: Option<Size>,
    #[arg(long, hide = true, value_delimiter = ',')]
    herd_store: Vec<String>,
    /// Where the results go: failover.json and failover.svg
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
    /// Given by `cargo bench`, and without a meaning here
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let (Some(size), Some(system)) = (arguments.herd, arguments.system.first()) {
        return match herd::run(*system, size, arguments.tenure_ttl, &arguments.herd_store) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    let patroni = stage::patroni_program();
    if !netns::available() || !support::haproxy::installed() {
        eprintln!("error: root, ip, nft and haproxy are needed");
        return ExitCode::FAILURE;
    }
    let mut systems = chosen(&arguments.system, System::value_variants());
    if patroni.is_none() && systems.contains(&System::Patroni) {
        eprintln!(
            "error: Patroni is not there; fetch it with scripts/fetch-patroni, or choose --system tenure"
        );
        return ExitCode::FAILURE;
    }
    systems.dedup();
    let plan = Plan {
        tenure_ttl: arguments.tenure_ttl,
        patroni_timing: arguments.patroni_timing,
        patroni_routing: arguments.patroni_routing,
        synchronous: arguments.synchronous,
        hold_s: arguments.hold,
        patroni,
    };
    let settings = report::settings(&plan);
    println!("{settings}");
    if arguments.footprint {
        let outcomes: Vec<_> = systems
            .iter()
            .map(|system| (*system, footprint::measure(&plan, *system, arguments.idle)))
            .collect();
        return written(&report::footprint(&arguments.out, &settings, &outcomes));
    }
    if arguments.growth {
        let measure = |size: Size, system: System| {
            let found = growth::measure(&plan, system, size);
            println!("{}", grown::line(system, size, found.as_ref()));
            (system, size, found)
        };
        let one = |size: &Size| systems.iter().map(|system| measure(*size, *system)).collect::<Vec<_>>();
        let found: Vec<_> = chosen(&arguments.size, &growth::SIZES).iter().flat_map(one).collect();
        return written(&grown::write(&arguments.out, &settings, &found));
    }
    let faults = chosen(&arguments.fault, Fault::value_variants());
    let mut outcomes: Vec<Outcome> = Vec::new();
    for repetition in 0..arguments.repetitions {
        for fault in &faults {
            for system in &systems {
                let of = (repetition, arguments.repetitions);
                let Some(outcome) = measure::run(&plan, *system, *fault, of) else {
                    eprintln!("{} under {}: failed, and not counted; see above", fault.name(), system.name());
                    outcomes.push(Outcome::failed(*system, *fault));
                    continue;
                };
                println!("{}", report::line(&outcome));
                outcomes.push(outcome);
            }
        }
    }
    println!("\n{}", report::table(&outcomes));
    written(&report::write(&arguments.out, &settings, &outcomes))
}

fn chosen<T: Copy>(named: &[T], all: &[T]) -> Vec<T> {
    if named.is_empty() { all.to_vec() } else { named.to_vec() }
}

fn written(outcome: &std::io::Result<String>) -> ExitCode {
    match outcome {
        Ok(place) => {
            println!("written to {place}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: write the results: {error}");
            ExitCode::FAILURE
        }
    }
}
