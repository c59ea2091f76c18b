//! `/metrics`: Patroni's names in its order, then a few of our own.

use std::fmt::{Display, Write};

use crate::decide::fitness_told;
use crate::model::{AddressStanding, Guardian, Lag, Lsn, MemberRole, MemberState, Serving};

use super::look::{Look, SyncDuty};
use super::status::{PATRONI_VERSION, disk_stalled, is_unlocked, timeline};

pub fn metrics(look: Look) -> String {
    let mut page = Page::new(look);
    patronis(&mut page, look);
    ours(&mut page, look);
    page.text
}

fn patronis(page: &mut Page, look: Look) {
    let facts = &look.standing.facts;
    let answering = look.answering();
    let role = look.role();
    let location = |of: fn(&Serving) -> Option<Lsn>| {
        answering.and_then(|running| of(&running.serving)).unwrap_or_default().0
    };
    let duty = answering.and_then(|_| look.sync_duty());

    page.gauge("patroni_version", "Patroni semver without periods.", version_digits());
    page.gauge(
        "patroni_postgres_running",
        "Value is 1 if Postgres is running, 0 otherwise.",
        flag(look.state() == MemberState::Running),
    );
    page.gauge(
        "patroni_postmaster_start_time",
        "Epoch seconds since Postgres started.",
        epoch(answering.and(facts.postmaster_start_time.as_deref())),
    );
    page.gauge(
        "patroni_primary",
        "Value is 1 if this node is the leader, 0 otherwise.",
        flag(role == MemberRole::Primary),
    );
    page.counter(
        "patroni_xlog_location",
        "Current location of the Postgres transaction log, 0 if this node is not the leader.",
        location(written),
    );
    page.gauge(
        "patroni_standby_leader",
        "Value is 1 if this node is the standby_leader, 0 otherwise.",
        flag(role == MemberRole::StandbyLeader),
    );
    page.gauge(
        "patroni_replica",
        "Value is 1 if this node is a replica, 0 otherwise.",
        flag(role == MemberRole::Replica),
    );
    page.gauge(
        "patroni_sync_standby",
        "Value is 1 if this node is a sync standby, 0 otherwise.",
        flag(duty == Some(SyncDuty::Sync)),
    );
    page.gauge(
        "patroni_quorum_standby",
        "Value is 1 if this node is a quorum standby, 0 otherwise.",
        flag(duty == Some(SyncDuty::Quorum)),
    );
    page.counter(
        "patroni_xlog_received_location",
        "Current location of the received Postgres transaction log, 0 if this node is not a replica.",
        location(received),
    );
    page.counter(
        "patroni_xlog_replayed_location",
        "Current location of the replayed Postgres transaction log, 0 if this node is not a replica.",
        location(replayed),
    );
    page.gauge(
        "patroni_xlog_replayed_timestamp",
        "Epoch seconds of the last replayed transaction, 0 if unknown.",
        epoch(answering.and(facts.replayed_timestamp.as_deref())),
    );
    page.gauge(
        "patroni_xlog_paused",
        "Value is 1 if the replay of WAL is paused, 0 otherwise.",
        flag(answering.is_some() && facts.replay_paused),
    );
    if let Some(running) = answering {
        let state = (!running.is_primary()).then_some(facts.replication_state.as_deref()).flatten();
        page.gauge(
            "patroni_postgres_streaming",
            "Value is 1 if Postgres is streaming, 0 otherwise.",
            flag(state == Some("streaming")),
        );
        page.gauge(
            "patroni_postgres_in_archive_recovery",
            "Value is 1 if Postgres is replicating from the archive, 0 otherwise.",
            flag(state == Some("in archive recovery")),
        );
    }
    page.gauge(
        "patroni_postgres_server_version",
        "Version of Postgres, 0 if it does not run.",
        answering.map_or(0, |running| running.version),
    );
    page.gauge(
        "patroni_cluster_unlocked",
        "Value is 1 if the cluster has no leader, 0 if it has one.",
        flag(is_unlocked(look)),
    );
    page.gauge(
        "patroni_failsafe_mode_is_active",
        "Value is 1 if failsafe mode is active, 0 otherwise.",
        flag(look.failsafe_active()),
    );
    page.gauge(
        "patroni_postgres_timeline",
        "Timeline of Postgres, 0 if it does not run.",
        answering.map_or(0, |running| timeline(&running.serving)),
    );
    page.gauge(
        "patroni_dcs_last_seen",
        "Epoch seconds at which the store last answered.",
        facts.store_last_seen.unwrap_or_default(),
    );
    page.gauge(
        "patroni_pending_restart",
        "Value is 1 if Postgres needs a restart, 0 otherwise.",
        flag(facts.pending_restart.is_some()),
    );
    page.gauge(
        "patroni_is_paused",
        "Value is 1 if automatic failover is disabled, 0 otherwise.",
        flag(look.paused()),
    );
    page.help("patroni_postgres_state", "Current state of Postgres.");
    page.text += STATE_COMMENT;
    page.sample("patroni_postgres_state", "gauge", "", state_index(look.state()));
}

fn ours(page: &mut Page, look: Look) {
    let standing = look.standing;
    let left_ms = look.lease_left().map_or(0, crate::model::Span::as_ms);
    page.gauge(
        "tenure_lease_remaining_seconds",
        "Seconds until no commit may be acknowledged without a renewal, 0 without a lease.",
        format_args!("{}.{:03}", left_ms / 1000, left_ms % 1000),
    );
    page.gauge(
        "tenure_term",
        "Number of the right to lead that this member holds, 0 if none.",
        look.lease().map_or(0, |lease| lease.term.0),
    );
    page.help("tenure_rule", "The rule of the last decision.");
    page.sample("tenure_rule", "gauge", &format!(",rule=\"{}\"", look.rule().code()), 1);
    page.counter("tenure_decisions_total", "Decisions since the agent started.", standing.facts.decisions);
    page.gauge(
        "tenure_guardian_ready",
        "Value is 1 if the guardian answers, 0 otherwise.",
        flag(matches!(standing.view.guardian, Guardian::Ready { .. })),
    );
    page.gauge(
        "tenure_fitness",
        "2 if this member is fit to lead, 1 if only where nobody else is, 0 if it cannot.",
        fitness_told(look.view(), look.now) as u8,
    );
    page.gauge(
        "tenure_disk_free_bytes",
        "Bytes that PostgreSQL can still fill on its fullest disk, -1 if not known.",
        look.view().disk.free_bytes.map_or("-1".to_owned(), |free| free.to_string()),
    );
    page.gauge(
        "tenure_disk_full",
        "Value is 1 if the next WAL segment may not fit, 0 otherwise.",
        flag(look.view().disk.is_full()),
    );
    let stalled_ms = disk_stalled(look).map_or(0, crate::model::Span::as_ms);
    page.gauge(
        "tenure_disk_stalled_seconds",
        "Seconds for which nothing has reached the disk, 0 while writes do.",
        format_args!("{}.{:03}", stalled_ms / 1000, stalled_ms % 1000),
    );
    page.gauge(
        "tenure_watchdog_armed",
        "Value is 1 if the watchdog device is armed, 0 otherwise.",
        flag(standing.view.watchdog.is_armed()),
    );
    let timeout_ms = standing.view.watchdog.timeout().map_or(0, crate::model::Span::as_ms);
    page.gauge(
        "tenure_watchdog_timeout_seconds",
        "Seconds after which the watchdog device resets the machine unless it is fed, 0 if none can be armed.",
        format_args!("{}.{:03}", timeout_ms / 1000, timeout_ms % 1000),
    );
    let loss = standing.view.memory.takeover.map(|takeover| takeover.loss);
    let bytes = |bytes: Option<Lag>| bytes.map_or("-1".to_owned(), |bytes| bytes.0.to_string());
    let span = loss.and_then(|loss| loss.span_max()).map(crate::model::Span::as_ms);
    page.gauge(
        "tenure_promotion_loss_seconds_max",
        "Seconds whose commits this member's last promotion can have lost at most, -1 if not known or never promoted.",
        span.map_or("-1".to_owned(), |ms| format!("{}.{:03}", ms / 1000, ms % 1000)),
    );
    page.gauge(
        "tenure_promotion_loss_bytes_max",
        "Bytes of WAL that this member's last promotion can have lost at most, -1 if not known or never promoted.",
        bytes(loss.and_then(|loss| loss.bytes_max())),
    );
    page.gauge(
        "tenure_promotion_loss_bytes_known",
        "Bytes of WAL that this member's last promotion is known to lack, -1 if not known or never promoted.",
        bytes(loss.and_then(|loss| loss.bytes_known())),
    );
    page.gauge(
        "tenure_gate_closed",
        "Value is 1 while this primary lets no client in, until its synchronous standbys have caught up, 0 otherwise.",
        flag(look.is_gated()),
    );
    addresses(page, look);
    intents(page, look);
    page.gauge(
        "tenure_job_running",
        "Value is 1 while long work on Postgres is under way, 0 otherwise.",
        flag(standing.view.work.job.is_some()),
    );
}

/// Samples for each virtual address, if anybody holds them.
fn addresses(page: &mut Page, look: Look) {
    let all = &look.standing.facts.addresses;
    if all.is_empty() {
        return;
    }
    let mut show = |name: &str, help: &str, value: fn(&AddressStanding) -> bool| {
        page.help(name, help);
        let _ = writeln!(page.text, "# TYPE {name} gauge");
        for standing in all {
            let address = escaped(&standing.address.to_string());
            let value = flag(value(standing));
            let _ = writeln!(page.text, "{name}{{{},address=\"{address}\"}} {value}", page.labels);
        }
    };
    show(
        "tenure_virtual_address_held",
        "Value is 1 if the virtual address is on this member, 0 otherwise.",
        |one| one.held,
    );
    show(
        "tenure_virtual_address_troubled",
        "Value is 1 if another host answers for the virtual address, or it could not be brought where it belongs, 0 otherwise.",
        |one| one.duplicate.is_some() || one.failure.is_some(),
    );
}

/// One sample for each that has an end or a time; every member tells of all of them, and of its own restart.
fn intents(page: &mut Page, look: Look) {
    let whole = look.intents().and_then(|intents| intents.pause.as_ref()).filter(|_| look.paused());
    let whole = whole.map(|pause| ("pause", "", pause.until.as_deref()));
    let members = look.intents().into_iter().flat_map(|intents| &intents.members);
    let members = members.map(|(name, kept)| (kept.kind.word(), name.as_str(), kept.intent.until.as_deref()));
    let request = look.cluster().and_then(|cluster| cluster.failover.as_ref());
    let switchover = request.map(|request| ("switchover", "", request.value.scheduled_at.as_deref()));
    let restart = look.standing.facts.scheduled_restart.as_ref();
    let restart = restart.and_then(|restart| restart.get("schedule")).and_then(serde_json::Value::as_str);
    let restart = restart.map(|at| ("restart", look.view().me.as_str(), Some(at)));
    let mut named = false;
    for (kind, member, end) in whole.into_iter().chain(members).chain(switchover).chain(restart) {
        let Some(end) = end else { continue };
        if !std::mem::replace(&mut named, true) {
            page.help(
                "tenure_intent_ends_seconds",
                "Epoch seconds at which something that an operator has said ends, or is carried out.",
            );
            let _ = writeln!(page.text, "# TYPE tenure_intent_ends_seconds gauge");
        }
        let labels = format!(",kind=\"{kind}\",member=\"{}\"", escaped(member));
        let _ =
            writeln!(page.text, "tenure_intent_ends_seconds{{{}{labels}}} {}", page.labels, epoch(Some(end)));
    }
}

/// The page as it grows; every sample bears the same labels.
struct Page {
    text: String,
    labels: String,
}

impl Page {
    fn new(look: Look) -> Page {
        let scope = escaped(&look.standing.facts.scope);
        let name = escaped(look.view().me.as_str());
        Page { text: String::with_capacity(8 << 10), labels: format!("scope=\"{scope}\",name=\"{name}\"") }
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.help(name, help);
        self.sample(name, "gauge", "", value);
    }

    fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.help(name, help);
        self.sample(name, "counter", "", value);
    }

    fn help(&mut self, name: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP {name} {help}");
    }

    fn sample(&mut self, name: &str, kind: &str, more_labels: &str, value: impl Display) {
        let labels = &self.labels;
        let _ = writeln!(self.text, "# TYPE {name} {kind}\n{name}{{{labels}{more_labels}}} {value}");
    }
}

const STATE_COMMENT: &str = "# Values: 0=initdb, 1=initdb_failed, 2=custom_bootstrap, 3=custom_bootstrap_failed, \
    4=creating_replica, 5=running, 6=starting, 7=bootstrap_starting, 8=start_failed, 9=restarting, \
    10=restart_failed, 11=stopping, 12=stopped, 13=stop_failed, 14=crashed\n";

fn state_index(state: MemberState) -> i8 {
    match state {
        MemberState::Bootstrapping => 0,
        MemberState::BootstrapFailed => 1,
        MemberState::CustomBootstrapping => 2,
        MemberState::CustomBootstrapFailed => 3,
        MemberState::CreatingReplica => 4,
        MemberState::Running => 5,
        MemberState::Starting => 6,
        MemberState::BootstrapStarting => 7,
        MemberState::StartFailed => 8,
        MemberState::Restarting => 9,
        MemberState::RestartFailed => 10,
        MemberState::Stopping => 11,
        MemberState::Stopped => 12,
        MemberState::StopFailed => 13,
        MemberState::Crashed => 14,
        MemberState::Unknown => -1,
    }
}

/// 4.1.5 becomes 040105.
fn version_digits() -> String {
    PATRONI_VERSION.split('.').fold(String::new(), |digits, part| digits + &format!("{part:0>2}"))
}

fn flag(value: bool) -> u8 {
    u8::from(value)
}

/// Seconds since 1970 with what there is of their fraction; 0 if the time is not known or not readable.
fn epoch(time: Option<&str>) -> String {
    let time: Option<jiff::Timestamp> = time.and_then(|text| text.parse().ok());
    time.map_or_else(
        || "0".to_owned(),
        |time| {
            let micros = time.as_microsecond();
            format!("{}.{:06}", micros / 1_000_000, micros.rem_euclid(1_000_000))
        },
    )
}

fn escaped(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn written(serving: &Serving) -> Option<Lsn> {
    match serving {
        Serving::Primary { position, .. } => Some(position.lsn),
        Serving::Standby { .. } => None,
    }
}

fn received(serving: &Serving) -> Option<Lsn> {
    match serving {
        Serving::Primary { .. } => None,
        Serving::Standby { received, replayed, .. } => received.or(*replayed),
    }
}

fn replayed(serving: &Serving) -> Option<Lsn> {
    match serving {
        Serving::Primary { .. } => None,
        Serving::Standby { replayed, .. } => *replayed,
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::*;
    use super::*;
    use crate::model::*;

    fn page(standing: &Standing) -> String {
        metrics(Look::new(standing, NOW))
    }

    fn check(standing: &Standing, samples: &[&str]) {
        let page = page(standing);
        for sample in samples {
            let (name, value) = sample.split_once(' ').expect("name and value");
            let line = format!("{name}{{scope=\"batman\",name=\"turku\"}} {value}\n");
            assert!(page.contains(&line), "{line} in {page}");
        }
    }

    #[test]
    fn the_page_begins_as_patronis_does_and_ends_with_a_newline() {
        let page = page(&primary());
        assert!(page.starts_with(
            "# HELP patroni_version Patroni semver without periods.\n# TYPE patroni_version gauge\n\
             patroni_version{scope=\"batman\",name=\"turku\"} 040105\n"
        ));
        assert!(page.ends_with('\n'));
    }

    #[test]
    fn a_primary_and_a_standby_are_measured() {
        check(
            &primary(),
            &[
                "patroni_postgres_running 1",
                "patroni_postmaster_start_time 1795217498.848976",
                "patroni_primary 1",
                "patroni_xlog_location 67394096",
                "patroni_replica 0",
                "patroni_xlog_replayed_location 0",
                "patroni_postgres_server_version 150018",
                "patroni_cluster_unlocked 0",
                "patroni_postgres_timeline 2",
                "patroni_postgres_state 5",
                "tenure_lease_remaining_seconds 9.300",
                "tenure_term 7",
                "tenure_decisions_total 42",
                "tenure_watchdog_armed 0",
                "tenure_watchdog_timeout_seconds 0.000",
                "tenure_gate_closed 0",
            ],
        );
        check(&with(primary(), be_gated), &["patroni_primary 1", "tenure_gate_closed 1"]);
        check(
            &with(standby(), be_sync),
            &[
                "patroni_primary 0",
                "patroni_replica 1",
                "patroni_sync_standby 1",
                "patroni_xlog_received_location 67394496",
                "patroni_postgres_streaming 1",
                "patroni_dcs_last_seen 1795217605",
                "tenure_lease_remaining_seconds 0.000",
            ],
        );
    }

    #[test]
    fn what_has_a_time_is_measured() {
        let at = "2026-11-22T06:00:00+00:00";
        let standing = with(standby(), |s| {
            s.facts.scheduled_restart = Some(serde_json::json!({"schedule": at}));
            let value = FailoverRequest { scheduled_at: Some(at.to_owned()), ..FailoverRequest::default() };
            snapshot(s).failover = Some(Versioned { value, version: 3 });
        });
        let page = metrics(Look::new(&standing, NOW));
        for labels in [r#"kind="switchover",member="""#, r#"kind="restart",member="turku""#] {
            let sample =
                format!(r#"tenure_intent_ends_seconds{{scope="batman",name="turku",{labels}}} 1795327200"#);
            assert!(page.contains(&sample), "{sample}: {page}");
        }
    }

    #[test]
    fn a_member_that_knows_nothing_is_measured_too() {
        check(
            &empty(),
            &["patroni_postmaster_start_time 0", "patroni_postgres_state -1", "patroni_cluster_unlocked 1"],
        );
        assert!(!page(&empty()).contains("patroni_postgres_streaming"));
    }

    #[test]
    fn every_name_has_one_help_one_type_and_one_sample() {
        let page = page(&with(primary(), |s| s.facts.scope = "a\"b\\c\nd".into()));
        let mut names = 0;
        for line in page.lines().filter_map(|line| line.strip_prefix("# HELP ")) {
            let name = line.split(' ').next().expect("a name");
            assert_eq!(
                page.matches(&format!("\n{name}{{scope=\"a\\\"b\\\\c\\nd\",name=")).count(),
                1,
                "{name}"
            );
            assert_eq!(page.matches(&format!("# TYPE {name} ")).count(), 1, "{name}");
            names += 1;
        }
        assert!(names > 25);
    }
}
