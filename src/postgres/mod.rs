//! One PostgreSQL instance, through pg_ctl, its files and SQL. It carries out and reports; it decides nothing.
//!
//! Every operation takes its patience and gives up after it. Dropping its future kills the programs that it has started,
//! but never a running postmaster: that one outlives the agent.

mod bootstrap;
mod clone;
mod command;
mod config_files;
mod conninfo;
mod control;
mod copy_slots;
mod custom;
mod details;
mod diverged;
mod error;
mod files;
mod furnish;
mod gate;
mod history;
mod inspect;
mod narrowed;
mod observe;
mod parameters;
mod pgpass;
mod probe;
mod process;
mod programs;
mod progress;
mod promote;
mod reached;
mod remote;
mod rewind;
mod server_check;
mod set_aside;
mod settings;
mod slots;
mod sql;
mod start;
mod stop;
mod synchronous;
mod unfinished;

pub use bootstrap::bootstrap;
pub use clone::{clone_from, clone_without_leader, discard_unfinished_clone};
pub use config_files::{Configured, Recovery, configure};
pub use control::{ControlDataError, ControlFile, StandbyFloors, parse_control_data, read_control_data};
pub use copy_slots::copy_slots;
pub use custom::run_hook;
pub use diverged::{Diverged, list_diverged, list_kept, summarize_diverged};
pub use error::Error;
pub use gate::open_gate;
pub use history::{HistoryFile, HistoryFileError, HistoryFork};
pub use inspect::{Caller, Inspection, inspect};
pub use observe::{Observation, Observer};
pub use probe::{PROBE_FILE, ProbeError, disk_bytes, probe_free_bytes, probe_places, probe_write};
pub use process::{
    ExitWatch, Leftovers, PidFile, PidFileStatus, Postmaster, kill_postmaster, running_postmaster, watch_exit,
};
pub use programs::{Programs, installed_majors, programs_for};
pub use progress::Gauge;
pub use promote::promote;
pub use remote::ask_lineage;
pub use rewind::rewind_from;
pub use set_aside::set_aside;
pub use settings::{CustomMethod, Hooks, InstanceSettings, Login, ProgramOption, ReplicaMethod, RunAs};
pub use slots::apply_slot_plan;
pub use start::{Started, follow, reload, start_gated_primary, start_primary, start_standby};
pub use stop::{Stopped, checkpoint, end_leftovers, kill_completely, stop_at_once, stop_fast, stop_orderly};
pub use synchronous::{prepare_promotion, synchronize, write_names};
