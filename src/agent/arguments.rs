//! The agent's command line: for the program itself and for its man page.

use std::path::PathBuf;

use clap::Parser;

/// Keep one PostgreSQL instance in or out of office.
///
/// One agent runs per instance, usually as the unit tenured@.service. Its settings come from the files given, then from the
/// environment variables PATRONI_… and TENURE_…; docs/configuration.md lists them. Patroni's files work as they are.
#[derive(Debug, Parser)]
#[command(name = "tenured", version, max_term_width = 100)]
pub struct Arguments {
    /// Files, or directories of *.yml files; the later win, setting by setting.
    #[arg(value_name = "CONFIG", env = "TENURE_CONFIG", value_delimiter = ':')]
    pub config: Vec<PathBuf>,

    /// Check the configuration and end.
    #[arg(long)]
    pub validate_config: bool,

    /// Print the configuration that results from all layers, each value with its origin, without passwords, and end.
    #[arg(long, visible_alias = "print")]
    pub print_config: bool,

    /// The unit that runs the guardian, which the agent then never starts by itself.
    #[arg(long, value_name = "UNIT")]
    pub guardian_unit: Option<String>,

    /// For the ExecStop= of a unit: if UNIT is being restarted, make the agent $MAINPID leave without touching PostgreSQL.
    #[arg(long, value_name = "UNIT", hide_short_help = true, conflicts_with_all = ["config", "guardian_unit"])]
    pub leave_on_restart: Option<String>,
}
