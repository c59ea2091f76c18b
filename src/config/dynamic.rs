//! The dynamic settings, as they stand in the store's `/config`: strictly checked before they are written, and read
//! leniently afterwards, because a running cluster must survive whatever anybody has written there.

use std::collections::BTreeMap;

use serde_json::Value;

use super::check::{Findings, check};
use super::customs::{self, Customs, shared_customs};
use super::problem::Problem;
use super::replication;
use super::settings::{Kind, State, Table};
use super::types::{Config, WatchdogMode};
use super::values;
use super::yaml::{Node, Place};
use crate::model::{Policy, Remote, SlotPolicy, Span, SyncMode, SyncPolicy, Timing, TimingError};

/// Settings of PostgreSQL that must be the same everywhere, so that a member's own file cannot set them.
pub const CONTROLLED: &[&str] = &[
    "cluster_name",
    "hot_standby",
    "listen_addresses",
    "max_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "max_replication_slots",
    "max_wal_senders",
    "max_worker_processes",
    "port",
    "track_commit_timestamp",
    "wal_keep_segments",
    "wal_keep_size",
    "wal_level",
    "wal_log_hints",
];

// These follow from the agent's own settings, wherever else they are written.
const NEVER: [&str; 3] = ["cluster_name", "listen_addresses", "port"];

/// What operators want of PostgreSQL, from `/config` and this member's file together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PostgresWishes {
    pub parameters: BTreeMap<String, String>,
    /// None: leave the file alone.
    pub pg_hba: Option<Vec<String>>,
    pub pg_ident: Option<Vec<String>>,
    pub use_slots: bool,
    /// Every member must be able to take over logical slots.
    pub copied_slots: bool,
    /// A primary that was started again lets clients in later.
    pub gated: bool,
    pub follows: Option<Remote>,
    pub pg_ctl_timeout: Span,
    pub customs: Customs,
}

/// What the rules need to know. A value that is wrong counts as not set and is warned about.
pub fn policy_from(dynamic: &Value, local: &Config) -> (Policy, Vec<Problem>) {
    let mut reader = Reader { dynamic, warnings: Vec::new() };
    reader.shape();
    let (timing, loop_wait, retry_timeout) = reader.times();
    let own = &local.postgresql;
    let (shared, complaints) = shared_customs(dynamic, &of_config());
    reader.warnings.extend(complaints);
    let customs = own.customs.over(shared);
    let follows = reader.follows();
    // A cluster that follows another one has no commits of its own.
    let sync = if follows.is_some() { SyncPolicy::default() } else { reader.synchronous() };
    let policy = Policy {
        timing,
        loop_wait,
        retry_timeout,
        lag_bytes_max: reader.bytes("maximum_lag_on_failover", 1 << 20),
        primary_start_timeout: reader.start_timeout(),
        check_timeline: reader.flag("check_timeline", None, false),
        pause: reader.flag("pause", None, false),
        failsafe: reader.flag("failsafe_mode", None, false),
        history_lines_max: reader.count("max_timelines_history"),
        stop_timeout: reader.stop_timeout(sync.mode),
        sync,
        use_rewind: reader.flag("postgresql.use_pg_rewind", own.use_pg_rewind, false),
        reclone_when_rewind_fails: reader.flag(
            "postgresql.remove_data_directory_on_rewind_failure",
            own.remove_data_directory_on_rewind_failure,
            false,
        ),
        reclone_when_diverged: reader.flag(
            "postgresql.remove_data_directory_on_diverged_timelines",
            own.remove_data_directory_on_diverged_timelines,
            false,
        ),
        may_bootstrap: local.bootstrap.is_some() && !local.tags.nofailover(),
        watchdog_required: local.watchdog.mode == WatchdogMode::Required,
        asks_before_promotion: customs::command(customs.pre_promote.as_ref()).is_some(),
        restores_backups: customs.replica_methods().iter().any(Option::is_some),
        clones_without_leader: customs.replica_methods().iter().flatten().any(|method| method.no_leader),
        slots: reader.slots(),
        follows,
    };
    (policy, reader.warnings)
}

/// What PostgreSQL's own files should say.
pub fn wishes_from(dynamic: &Value, local: &Config) -> PostgresWishes {
    let own = &local.postgresql;
    let shared = dynamic.get("postgresql");
    let texts = |name: &str| shared.and_then(|s| s.get(name)).and_then(Value::as_object);
    let lines = |name: &str| {
        let items = shared.and_then(|s| s.get(name)).and_then(Value::as_array)?;
        Some(items.iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>())
    };
    let mut parameters: BTreeMap<String, String> = texts("parameters")
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| Some((name.to_ascii_lowercase(), parameter_text(value)?)))
        .collect();
    let local_parameters = own.parameters.iter().map(|(name, text)| (name.to_ascii_lowercase(), text));
    for (name, text) in local_parameters.filter(|(name, _)| !CONTROLLED.contains(&name.as_str())) {
        parameters.insert(name, text.clone());
    }
    parameters.retain(|name, _| !NEVER.contains(&name.as_str()));
    let mut reader = Reader { dynamic, warnings: Vec::new() };
    let timeout = reader.seconds("postgresql.pg_ctl_timeout", 60_000);
    PostgresWishes {
        parameters,
        pg_hba: own.pg_hba.clone().or_else(|| lines("pg_hba")),
        pg_ident: own.pg_ident.clone().or_else(|| lines("pg_ident")),
        use_slots: reader.use_slots(),
        copied_slots: replication::slots_from(dynamic, true).0.has_logical(),
        gated: reader.follows().is_none() && reader.synchronous().is_gated(),
        follows: reader.follows(),
        pg_ctl_timeout: own.pg_ctl_timeout.map_or(timeout, span_of_seconds),
        customs: own.customs.over(shared_customs(dynamic, &of_config()).0),
    }
}

/// Everything that is wrong with new dynamic settings, before they are written.
pub fn validate_dynamic(dynamic: &Value) -> Vec<Problem> {
    let mut findings = Findings::default();
    check(&Node::from_json(dynamic, &of_config()), Table::Dynamic, &mut findings);
    let mut problems = findings.errors.0;
    let told = shared_customs(dynamic, &of_config()).1;
    problems.extend(told.into_iter().filter(|problem| !problems.contains(problem)).collect::<Vec<_>>());
    problems.extend(replication::mistakes(dynamic));
    if let Err(error) = timing_of(dynamic) {
        let hint = "a ttl of 5 is the least, or set unsafe_timing: true beside it";
        problems.push(Problem::about(Some(of_config()), "ttl", error.to_string()).hint(hint));
    }
    problems
}

/// The lease's arithmetic for the given settings, if it leaves enough time.
pub fn timing_of(dynamic: &Value) -> Result<Timing, TimingError> {
    let read = |key: &str| dynamic.get(key).and_then(text_of);
    let ttl = read("ttl").and_then(|text| values::milliseconds(&text)).and_then(|ms| u64::try_from(ms).ok());
    let timing = Timing::for_ttl(Span::from_ms(ttl.filter(|ms| *ms >= 1000).unwrap_or(TTL_MS)));
    match read("unsafe_timing").as_deref().and_then(values::flag) {
        Some(true) => Ok(timing),
        Some(false) | None => timing.check(),
    }
}

const TTL_MS: u64 = 30_000;
const LOOP_WAIT_MS: u64 = 10_000;
const RETRY_TIMEOUT_MS: u64 = 10_000;

struct Reader<'a> {
    dynamic: &'a Value,
    warnings: Vec<Problem>,
}

impl Reader<'_> {
    /// What the types below never look at, and still should not pass unnoticed.
    fn shape(&mut self) {
        let Value::Object(settings) = self.dynamic else {
            return self.warn("", "is not a mapping; the defaults are used".to_owned());
        };
        for (name, value) in settings {
            let Some(row) = Table::Dynamic.find(name) else {
                if !Table::Dynamic.is_section(name) {
                    self.warn(name, "there is no such setting".to_owned());
                }
                continue;
            };
            let plain = Node::from_json(value, &of_config());
            let off =
                plain.is_null() || values::read(&plain, row.kind).is_ok_and(|v| values::is_off(&v, row));
            match row.state {
                State::NotYet | State::Unsafe if !off => {
                    self.warn(name, format!("has no effect in this version yet ({})", row.about));
                }
                State::NotYet | State::Unsafe | State::Honoured | State::Moot => {}
            }
        }
    }

    fn times(&mut self) -> (Timing, Span, Span) {
        // Warned about where it is of the wrong kind; judged as a whole afterwards.
        self.seconds_at_least("ttl", 1_000, TTL_MS);
        let timing = timing_of(self.dynamic).unwrap_or_else(|error| {
            self.warn("ttl", format!("{error}; 30 s are used"));
            Timing::for_ttl(Span::from_ms(TTL_MS))
        });
        let mut loop_wait = self.seconds_at_least("loop_wait", 1_000, LOOP_WAIT_MS);
        let mut retry_timeout = self.seconds_at_least("retry_timeout", 1_000, RETRY_TIMEOUT_MS);
        // Patroni's rule: two retries and one round fit into one lease. Its way of making room, too.
        let (ttl, second) = (timing.ttl, Span::from_secs(1));
        if loop_wait + retry_timeout.times(2) > ttl {
            let chosen = ["loop_wait", "retry_timeout"].iter().any(|key| self.dynamic.get(*key).is_some());
            if second + retry_timeout.times(2) > ttl {
                loop_wait = second;
                retry_timeout = ttl.minus(second).scaled(1, 2).max(Span::from_ms(500));
            } else {
                loop_wait = ttl.minus(retry_timeout.times(2));
            }
            if chosen {
                let used = format!("loop_wait {loop_wait} and retry_timeout {retry_timeout} are used");
                self.warn(
                    "loop_wait",
                    format!("loop_wait + 2 * retry_timeout is more than the ttl of {ttl}; {used}"),
                );
            }
        }
        (timing, loop_wait, retry_timeout)
    }

    fn slots(&mut self) -> SlotPolicy {
        let (slots, warnings) = replication::slots_from(self.dynamic, self.use_slots());
        self.warnings.extend(warnings);
        slots
    }

    fn use_slots(&mut self) -> bool {
        self.flag("postgresql.use_slots", None, true)
    }

    fn follows(&mut self) -> Option<Remote> {
        let (remote, warnings) = replication::follows_from(self.dynamic);
        self.warnings.extend(warnings);
        remote
    }

    fn start_timeout(&mut self) -> Span {
        match self.dynamic.get("primary_start_timeout") {
            Some(_) => self.seconds("primary_start_timeout", 300_000),
            None => self.seconds("master_start_timeout", 300_000),
        }
    }

    /// Patroni bounds the stop of a synchronous primary only: elsewhere the usual bound holds, which is never missing here.
    fn stop_timeout(&mut self, mode: SyncMode) -> Option<Span> {
        let older = self.dynamic.get("primary_stop_timeout").is_none();
        let bound = self.seconds(if older { "master_stop_timeout" } else { "primary_stop_timeout" }, 0);
        Some(bound).filter(|bound| mode != SyncMode::Off && Span::ZERO < *bound)
    }

    fn count(&mut self, path: &str) -> usize {
        let kind = Kind::Number { from: 0, to: i64::MAX };
        self.read(path, kind, |text| text.parse().ok()).unwrap_or(0)
    }

    fn synchronous(&mut self) -> SyncPolicy {
        let read = |text: &str| match text.to_ascii_lowercase().as_str() {
            "quorum" => Some(SyncMode::Quorum),
            other => values::flag(other).map(|on| if on { SyncMode::On } else { SyncMode::Off }),
        };
        let kind = Kind::Choice(&["off", "on", "quorum"]);
        let count = |text: &str| text.parse::<usize>().ok().filter(|count| 1 <= *count);
        let lag = |text: &str| values::bytes(text).filter(|bytes| -1 <= *bytes);
        let limit = self.read("maximum_lag_on_syncnode", Kind::Bytes { from: -1 }, lag);
        SyncPolicy {
            mode: self.read("synchronous_mode", kind, read).unwrap_or_default(),
            strict: self.flag("synchronous_mode_strict", None, false),
            gate: self.flag("synchronous_gate", None, false),
            node_count: self
                .read("synchronous_node_count", Kind::Number { from: 1, to: i64::MAX }, count)
                .unwrap_or(1),
            // As Patroni has it, nought does not mean that no lag is allowed.
            lag_bytes_max: limit.and_then(|bytes| u64::try_from(bytes).ok()).filter(|bytes| 0 < *bytes),
        }
    }

    fn seconds(&mut self, path: &str, default_ms: u64) -> Span {
        self.seconds_at_least(path, 0, default_ms)
    }

    fn seconds_at_least(&mut self, path: &str, least_ms: u64, default_ms: u64) -> Span {
        let read = |text: &str| {
            values::milliseconds(text).and_then(|ms| u64::try_from(ms).ok()).filter(|ms| *ms >= least_ms)
        };
        Span::from_ms(self.read(path, Kind::Seconds { from: 0 }, read).unwrap_or(default_ms))
    }

    fn bytes(&mut self, path: &str, default: u64) -> u64 {
        let read = |text: &str| values::bytes(text).and_then(|bytes| u64::try_from(bytes).ok());
        self.read(path, Kind::Bytes { from: 0 }, read).unwrap_or(default)
    }

    fn flag(&mut self, path: &str, local: Option<bool>, default: bool) -> bool {
        local.or_else(|| self.read(path, Kind::Flag, values::flag)).unwrap_or(default)
    }

    fn read<T>(&mut self, path: &str, kind: Kind, read: impl Fn(&str) -> Option<T>) -> Option<T> {
        let value = path.split('.').try_fold(self.dynamic, |value, name| value.get(name))?;
        if value.is_null() {
            return None;
        }
        let found = text_of(value);
        let good = found.as_deref().and_then(read);
        if good.is_none() {
            let node = Node::from_json(value, &of_config());
            let wanted = values::read(&node, kind).err().unwrap_or_else(|| "more".to_owned());
            let found = super::check::found(&node);
            self.warn(path, format!("found {found}, wanted {wanted}; the default is used"));
        }
        good
    }

    fn warn(&mut self, path: &str, message: String) {
        self.warnings.push(Problem::about(Some(of_config()), path, message));
    }
}

/// Complaints about what is in the store name its key.
fn of_config() -> Place {
    Place { source: "/config".into(), at: None }
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// PostgreSQL's word for a value; none takes the parameter away.
fn parameter_text(value: &Value) -> Option<String> {
    match value {
        Value::Bool(true) => Some("on".to_owned()),
        Value::Bool(false) => Some("off".to_owned()),
        Value::String(_) | Value::Number(_) => text_of(value),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "checked to be a number of seconds, none negative"
)]
fn span_of_seconds(seconds: f64) -> Span {
    Span::from_ms((seconds * 1000.0) as u64)
}
