//! The status document: what `/patroni` and every health check answer. Fields, order and formats are Patroni's, because
//! its agents elect leaders by them; what is ours comes last, under `tenure`.

use serde::Serialize;
use serde_json::Value;

use crate::decide::{fitness_told, gate_told};
use crate::model::{
    AddressStanding, FenceOrder, Fitness, GateTold, Guardian, Intent, Lsn, MemberIntent, MemberName,
    MemberState, Moment, ReplicationRow, Serving, Span, Tags, Whose,
};

use super::look::{Look, SyncDuty};

/// The Patroni whose interfaces these documents have. Peers and scripts compare it.
pub const PATRONI_VERSION: &str = "4.1.5";

#[derive(Debug, Serialize)]
pub struct Document<'a> {
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    postmaster_start_time: Option<&'a str>,
    role: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_version: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    xlog: Option<Xlog<'a>>,
    #[serde(skip_serializing_if = "is_false")]
    sync_standby: bool,
    #[serde(skip_serializing_if = "is_false")]
    quorum_standby: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeline: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replication_state: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    replication: Vec<Sender<'a>>,
    #[serde(skip_serializing_if = "is_false")]
    pause: bool,
    #[serde(skip_serializing_if = "is_false")]
    cluster_unlocked: bool,
    #[serde(skip_serializing_if = "is_false")]
    failsafe_mode_is_active: bool,
    dcs_last_seen: u64,
    #[serde(skip_serializing_if = "Tags::is_empty")]
    tags: &'a Tags,
    #[serde(skip_serializing_if = "Option::is_none")]
    database_system_identifier: Option<String>,
    #[serde(skip_serializing_if = "is_false")]
    pending_restart: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pending_restart_reason: Option<&'a Value>,
    patroni: Patroni<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scheduled_restart: Option<Value>,
    #[serde(skip_serializing_if = "is_false")]
    watchdog_failed: bool,
    tenure: Tenure<'a>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Xlog<'a> {
    Primary {
        location: Lsn,
    },
    /// Numbers even where nothing is known: Patroni's agents compare them without looking.
    Standby {
        received_location: Lsn,
        replayed_location: Lsn,
        replayed_timestamp: Option<&'a str>,
        paused: bool,
    },
}

#[derive(Debug, Serialize)]
struct Sender<'a> {
    usename: &'a str,
    application_name: &'a str,
    client_addr: Option<&'a str>,
    state: &'a str,
    sync_state: &'a str,
    sync_priority: i32,
}

#[derive(Debug, Serialize)]
struct Patroni<'a> {
    version: &'static str,
    scope: &'a str,
    name: &'a MemberName,
}

#[derive(Debug, Serialize)]
struct Tenure<'a> {
    version: &'static str,
    rule: &'static str,
    sentence: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    term: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_left_ms: Option<u64>,
    guardian: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    watchdog: Option<String>,
    #[serde(skip_serializing_if = "is_false")]
    stale: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    looked_ms_ago: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fitness: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    disk_free_bytes: Option<u64>,
    #[serde(skip_serializing_if = "is_false")]
    disk_full: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    disk_stalled_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    copying: Option<CloneProgress>,
    /// PostgreSQL lets no client in yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    gate: Option<GateTold>,
    /// What this member is kept from, and whose the cluster's pause is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pause: Option<&'a Intent>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kept: Option<&'a MemberIntent>,
    /// Whose the scheduled restart is.
    #[serde(skip_serializing_if = "Option::is_none")]
    restart_wanted: Option<&'a Whose>,
    #[serde(skip_serializing_if = "<[AddressStanding]>::is_empty")]
    virtual_addresses: &'a [AddressStanding],
}

/// A clone that is being made.
#[derive(Debug, Serialize)]
struct CloneProgress {
    copied_bytes: u64,
    whole_bytes: Option<u64>,
    percent: Option<u64>,
    bytes_per_second: Option<u64>,
    left_s: Option<u64>,
}

pub fn document(look: Look<'_>) -> Document<'_> {
    let (view, facts) = (look.view(), &look.standing.facts);
    let answering = look.answering();
    let duty = look.sync_duty();
    let system = view.postgres.system_id().or_else(|| look.cluster()?.system_id());
    Document {
        state: state_text(look.state()),
        postmaster_start_time: answering.and(facts.postmaster_start_time.as_deref()),
        role: serde_json::to_value(look.role()).unwrap_or_default(),
        server_version: answering.map(|running| running.version),
        xlog: answering.map(|running| xlog(look, &running.serving)),
        sync_standby: answering.is_some() && duty == Some(SyncDuty::Sync),
        quorum_standby: answering.is_some() && duty == Some(SyncDuty::Quorum),
        timeline: answering.map(|running| timeline(&running.serving)),
        replication_state: answering
            .filter(|running| !running.is_primary())
            .and(facts.replication_state.as_deref()),
        replication: answering.map(|_| facts.replication.iter().map(sender).collect()).unwrap_or_default(),
        pause: look.paused(),
        cluster_unlocked: is_unlocked(look),
        failsafe_mode_is_active: look.failsafe_active(),
        dcs_last_seen: facts.store_last_seen.unwrap_or_default(),
        tags: look.tags(),
        database_system_identifier: system.map(|system| system.to_string()),
        pending_restart: facts.pending_restart.is_some(),
        pending_restart_reason: facts.pending_restart.as_ref(),
        patroni: Patroni { version: PATRONI_VERSION, scope: &facts.scope, name: &view.me },
        scheduled_restart: facts.scheduled_restart.as_ref().map(without_start_time),
        watchdog_failed: look.cannot_be_fenced(),
        tenure: Tenure {
            version: env!("CARGO_PKG_VERSION"),
            rule: look.rule().code(),
            sentence: look.standing.plan.reason.to_string(),
            job: view.work.job.as_ref().map(|running| running.job.name()),
            term: look.lease().map(|lease| lease.term.0),
            lease_left_ms: look.lease_left().map(Span::as_ms),
            guardian: guardian_word(view.guardian, look.now),
            watchdog: look.watchdog(),
            stale: look.is_stale(),
            looked_ms_ago: look.looked_ago().map(Span::as_ms),
            fitness: Some(fitness_told(view, look.now))
                .filter(|fitness| *fitness != Fitness::Fit)
                .map(Fitness::word),
            disk_free_bytes: view.disk.free_bytes,
            disk_full: view.disk.is_full(),
            disk_stalled_ms: disk_stalled(look).map(Span::as_ms),
            pause: look.intents().and_then(|intents| intents.pause.as_ref()).filter(|_| look.paused()),
            kept: look.intents().and_then(|intents| intents.members.get(&view.me)),
            restart_wanted: facts.restart_wanted.as_ref(),
            gate: gate_told(view),
            virtual_addresses: &facts.addresses,
            copying: facts.copying.map(|copying| CloneProgress {
                copied_bytes: copying.copied,
                whole_bytes: copying.whole,
                percent: copying.percent(),
                bytes_per_second: copying.rate(),
                left_s: copying.left().map(|left| left.as_ms() / 1000),
            }),
        },
    }
}

/// Only the store is told which PostgreSQL is meant.
fn without_start_time(scheduled: &Value) -> Value {
    let mut shown = scheduled.clone();
    if let Value::Object(members) = &mut shown {
        members.remove("postmaster_start_time");
    }
    shown
}

/// How long nothing has reached the disk, where that is longer than a write usually takes.
pub fn disk_stalled(look: Look) -> Option<Span> {
    let since = look.view().disk.unwritten_since?;
    Some(look.now.since(since)).filter(|stalled| Span::from_secs(1) <= *stalled)
}

/// Nobody is known to lead.
pub fn is_unlocked(look: Look) -> bool {
    !look.store_is_current() || look.cluster().is_none_or(|cluster| cluster.leader.is_none())
}

/// Patroni's words; an unknown state is `unknown`.
pub fn state_text(state: MemberState) -> &'static str {
    match state {
        MemberState::Bootstrapping => "initializing new cluster",
        MemberState::BootstrapFailed => "initdb failed",
        MemberState::CustomBootstrapping => "running custom bootstrap script",
        MemberState::CustomBootstrapFailed => "custom bootstrap failed",
        MemberState::CreatingReplica => "creating replica",
        MemberState::Running => "running",
        MemberState::Starting => "starting",
        MemberState::BootstrapStarting => "starting after custom bootstrap",
        MemberState::StartFailed => "start failed",
        MemberState::Restarting => "restarting",
        MemberState::RestartFailed => "restart failed",
        MemberState::Stopping => "stopping",
        MemberState::Stopped => "stopped",
        MemberState::StopFailed => "stop failed",
        MemberState::Crashed => "crashed",
        MemberState::Unknown => "unknown",
    }
}

pub fn timeline(serving: &Serving) -> u32 {
    match serving {
        Serving::Primary { position, .. } => position.timeline.0,
        Serving::Standby { timeline, .. } => timeline.0,
    }
}

fn xlog<'a>(look: Look<'a>, serving: &Serving) -> Xlog<'a> {
    let facts = &look.standing.facts;
    match serving {
        Serving::Primary { position, .. } => Xlog::Primary { location: position.lsn },
        Serving::Standby { received, replayed, .. } => Xlog::Standby {
            received_location: received.or(*replayed).unwrap_or_default(),
            replayed_location: replayed.unwrap_or_default(),
            replayed_timestamp: facts.replayed_timestamp.as_deref(),
            paused: facts.replay_paused,
        },
    }
}

fn sender(row: &ReplicationRow) -> Sender<'_> {
    Sender {
        usename: &row.usename,
        application_name: &row.application_name,
        client_addr: row.client_addr.as_deref(),
        state: &row.state,
        sync_state: &row.sync_state,
        sync_priority: row.sync_priority,
    }
}

pub fn guardian_word(guardian: Guardian, now: Moment) -> &'static str {
    match guardian {
        Guardian::Absent => "absent",
        Guardian::Ready { confirmed: FenceOrder::Arm { fence_at, .. } } if fence_at <= now => "fencing",
        Guardian::Ready { confirmed: FenceOrder::Arm { .. } } => "armed",
        Guardian::Ready { confirmed: FenceOrder::Disarm | FenceOrder::Keep } => "ready",
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(flag: &bool) -> bool {
    !flag
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::answer::spell;
    use super::super::fixtures::*;
    use super::*;
    use crate::model::*;

    fn text(standing: &Standing) -> String {
        String::from_utf8(spell(&document(Look::new(standing, NOW)))).expect("ASCII")
    }

    /// Patroni's own part, up to `tenure`.
    fn check(standing: &Standing, wanted: &str) {
        let text = text(standing);
        let (ours, _) = text.split_once(", \"tenure\": ").expect("our part comes last");
        assert_eq!(ours, wanted);
    }

    #[test]
    fn a_primary_says_what_patronis_primary_says() {
        let tagged = with(primary(), |s| {
            tag(s, "clonefrom", true);
            tag(s, "mytag", "hello");
        });
        check(
            &tagged,
            r#"{"state": "running", "postmaster_start_time": "2026-11-20 23:31:38.848976+00:00", "role": "primary", "server_version": 150018, "xlog": {"location": 67394096}, "timeline": 2, "replication": [{"usename": "replicator", "application_name": "oulu", "client_addr": "127.0.0.1", "state": "streaming", "sync_state": "async", "sync_priority": 0}], "dcs_last_seen": 1795217605, "tags": {"clonefrom": true, "mytag": "hello"}, "database_system_identifier": "7710399124836129887", "patroni": {"version": "4.1.5", "scope": "batman", "name": "turku"}"#,
        );
    }

    #[test]
    fn a_standby_says_what_patronis_standby_says() {
        check(
            &standby(),
            r#"{"state": "running", "postmaster_start_time": "2026-11-20 23:31:38.848976+00:00", "role": "replica", "server_version": 150018, "xlog": {"received_location": 67394496, "replayed_location": 67394496, "replayed_timestamp": null, "paused": false}, "timeline": 3, "replication_state": "streaming", "dcs_last_seen": 1795217605, "database_system_identifier": "7710399124836129887", "patroni": {"version": "4.1.5", "scope": "batman", "name": "turku"}"#,
        );
    }

    #[test]
    fn everything_unusual_stands_in_its_place() {
        let unusual = with(standby(), |s| {
            be_sync(s);
            s.view.policy.pause = true;
            snapshot(s).leader = None;
            s.view.guardian = Guardian::Absent;
            s.facts.pending_restart =
                Some(json!({"max_connections": {"old_value": "100", "new_value": "101"}}));
        });
        let text = text(&unusual);
        let order = [
            "xlog",
            "sync_standby\": true",
            "timeline",
            "replication_state",
            "pause\": true",
            "cluster_unlocked\": true",
            "dcs_last_seen",
            "database_system_identifier",
            "pending_restart\": true",
            "pending_restart_reason",
            "patroni",
            "watchdog_failed\": true",
            "tenure",
        ];
        let places: Vec<_> =
            order.iter().map(|field| text.find(&format!("\"{field}")).expect(field)).collect();
        assert!(places.is_sorted(), "{text}");
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        check(
            &empty(),
            r#"{"state": "unknown", "role": "replica", "cluster_unlocked": true, "dcs_last_seen": 0, "patroni": {"version": "4.1.5", "scope": "batman", "name": "turku"}, "watchdog_failed": true"#,
        );
        let silent = text(&with(primary(), be_silent));
        assert!(silent.starts_with(r#"{"state": "unknown", "role": "primary", "dcs_last_seen""#), "{silent}");
    }

    #[test]
    fn a_primary_that_went_down_is_still_the_leader_until_its_lease_ends() {
        let down = with(primary(), be_stopped);
        assert!(text(&down).starts_with(r#"{"state": "crashed", "role": "primary", "#));
        let lapsed = with(down, |s| s.view.lease = None);
        assert!(text(&lapsed).starts_with(r#"{"state": "crashed", "role": "demoted", "#));
    }

    #[test]
    fn our_own_part_explains_the_member() {
        let text = text(&primary());
        let ours = format!(
            r#", "tenure": {{"version": "{}", "rule": "leader_stays", "sentence": "leading", "term": 7, "lease_left_ms": 9300, "guardian": "armed"}}}}"#,
            env!("CARGO_PKG_VERSION")
        );
        assert!(text.ends_with(&ours), "{text}");
    }

    #[test]
    fn a_disk_that_fails_is_told_to_whoever_asks() {
        let disk = |disk| text(&with(standby(), |s| s.view.disk = disk));
        let since = |ms| Some(Moment::from_ms(NOW.as_ms() - ms));
        assert!(disk(Disk::default()).ends_with(r#""guardian": "ready"}}"#));
        let full = disk(Disk { free_bytes: Some(4096), ..Disk::default() });
        assert!(full.ends_with(r#""fitness": "last_resort", "disk_free_bytes": 4096, "disk_full": true}}"#));
        let slow = disk(Disk { unwritten_since: since(1_600), ..Disk::default() });
        assert!(slow.ends_with(r#""fitness": "last_resort", "disk_stalled_ms": 1600}}"#), "{slow}");
        let stalled = disk(Disk { unwritten_since: since(5_000), ..Disk::default() });
        assert!(stalled.ends_with(r#""fitness": "unfit", "disk_stalled_ms": 5000}}"#), "{stalled}");
        assert!(disk(Disk { unwritten_since: since(20), ..Disk::default() }).ends_with(r#""ready"}}"#));
    }

    #[test]
    fn the_watchdog_is_shown_and_keeps_a_member_that_requires_it_from_being_chosen() {
        let timeout = Span::from_secs(5);
        let armed = with(primary(), |s| s.view.watchdog = Watchdog::Armed { timeout, stays: false });
        assert!(text(&armed).ends_with(r#""guardian": "armed", "watchdog": "armed, 5 s"}}"#));
        let failed =
            with(standby(), |s| s.view.watchdog = Watchdog::Failed(crate::model::WatchdogFailure::Busy));
        assert!(text(&failed).contains(r#""watchdog": "not armed: another process holds the device""#));
        assert!(!text(&failed).contains("watchdog_failed"));
        let required = with(failed, |s| s.view.policy.watchdog_required = true);
        assert!(text(&required).contains(r#""watchdog_failed": true"#));
    }

    #[test]
    fn a_closed_gate_is_told_with_what_it_waits_for() {
        let gated = text(&with(primary(), be_gated));
        let told = r#""gate": {"until": 67394000, "closed_ms": 1000, "lacking": ["oulu"], "may_lack": 0}}}"#;
        assert!(gated.contains(r#""state": "running""#) && gated.ends_with(told), "{gated}");
    }

    #[test]
    fn virtual_addresses_are_shown_where_there_are_any() {
        let held = with(primary(), |s| {
            let address = "10.0.0.100 dev eth0".parse().expect("one");
            s.facts.addresses = vec![AddressStanding { address, held: true, duplicate: None, failure: None }];
        });
        let shown = r#""virtual_addresses": [{"address": "10.0.0.100/32 dev eth0", "held": true}]}}"#;
        assert!(text(&held).ends_with(shown), "{}", text(&held));
    }

    #[test]
    fn every_state_has_the_word_that_the_store_uses() {
        use MemberState as S;
        for state in
            [S::Bootstrapping, S::CreatingReplica, S::Running, S::Starting, S::StartFailed, S::Crashed]
        {
            assert_eq!(serde_json::to_value(state).expect("a word"), state_text(state));
        }
    }
}
