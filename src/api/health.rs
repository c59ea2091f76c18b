//! The health checks that load balancers and orchestrators ask: 200 or 503, from what is known at this moment.

use serde_json::Value;

use crate::model::{Lsn, MemberRole, MemberState, Serving};

use super::look::{Look, SyncDuty};
use super::query::Target;

/// What a path asks, in Patroni's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    StandbyLeader,
    Leader,
    Primary,
    Replica,
    ReadOnly,
    Health,
    Sync,
    Quorum,
    Async,
    ReadOnlyQuorum,
    ReadOnlySync,
}

/// The check that a path names. Most names count wherever they stand in the path; the first match wins.
pub fn check_of(path: &str) -> Option<Check> {
    let has = |word: &str| path.contains(word);
    match path {
        "" | "/" => Some(Check::Primary),
        _ if has("standby_leader") || has("standby-leader") => Some(Check::StandbyLeader),
        _ if has("leader") => Some(Check::Leader),
        _ if has("master") || has("primary") || has("read-write") => Some(Check::Primary),
        _ if has("replica") => Some(Check::Replica),
        _ if has("read-only") && !has("sync") && !has("quorum") => Some(Check::ReadOnly),
        _ if has("health") => Some(Check::Health),
        "/sync" | "/synchronous" => Some(Check::Sync),
        "/quorum" => Some(Check::Quorum),
        "/async" | "/asynchronous" => Some(Check::Async),
        "/read-only-quorum" => Some(Check::ReadOnlyQuorum),
        "/read-only-sync" | "/read-only-synchronous" => Some(Check::ReadOnlySync),
        _ => None,
    }
}

/// 200 or 503.
pub fn code(look: Look, target: &Target) -> u16 {
    if check_of(&target.path).is_some_and(|check| passes(look, check, target)) { 200 } else { 503 }
}

pub fn passes(look: Look, check: Check, target: &Target) -> bool {
    let role = look.role();
    match check {
        Check::StandbyLeader => is_standby_leader(look),
        Check::Leader => {
            !look.is_gated() && (look.lease().is_some() || (look.left_alone() && leads_by_role(role)))
        }
        Check::Primary => is_primary(look),
        Check::Replica => serves_as_replica(look, target),
        Check::ReadOnly => leads(look) && tags_match(look, target) || serves_as_replica(look, target),
        Check::Health => look.state() == MemberState::Running && tags_match(look, target),
        Check::Sync => has_duty(look, SyncDuty::Sync) && serves_as_replica(look, target),
        Check::Quorum => has_duty(look, SyncDuty::Quorum) && serves_as_replica(look, target),
        // Without the store nobody knows whose duty it is to be synchronous.
        Check::Async => {
            look.store_is_current() && look.sync_duty().is_none() && serves_as_replica(look, target)
        }
        Check::ReadOnlySync => serves_reads_with(look, SyncDuty::Sync, target),
        Check::ReadOnlyQuorum => serves_reads_with(look, SyncDuty::Quorum, target),
    }
}

/// 200 while the loop decides on time, 503 once it has been silent for longer than a lease lives.
pub fn liveness(look: Look) -> u16 {
    let ttl = look.view().policy.timing.ttl;
    let patience = if look.view().postgres.is_primary() { ttl } else { ttl.times(2) };
    if look.paused() || look.loop_late_by() < patience { 200 } else { 503 }
}

/// May a rolling restart go on to the next member?
pub fn readiness(look: Look, target: &Target) -> u16 {
    let ready = (look.lease().is_some() && !look.is_gated())
        || (look.state() == MemberState::Running
            && look.standing.facts.replication_state.as_deref() == Some("streaming")
            && (look.store_is_current()
                || look.failsafe_active()
                || look.standing.facts.upstream_end.is_some())
            && caught_up(look, target));
    if ready { 200 } else { 503 }
}

/// The lease alone is not enough, as it is for Patroni: a client sent to a PostgreSQL that does not accept writes only
/// finds out later.
fn is_primary(look: Look) -> bool {
    let lawful = look.lease().is_some() || look.left_alone();
    lawful && look.view().postgres.is_primary() && !look.standby_cluster() && !look.is_gated()
}

fn is_standby_leader(look: Look) -> bool {
    let follows = matches!(look.role(), MemberRole::Replica | MemberRole::StandbyLeader);
    (look.lease().is_some() && look.standby_cluster() && follows)
        || (look.left_alone() && look.role() == MemberRole::StandbyLeader)
}

fn leads(look: Look) -> bool {
    is_primary(look) || is_standby_leader(look)
}

fn leads_by_role(role: MemberRole) -> bool {
    matches!(role, MemberRole::Primary | MemberRole::StandbyLeader)
}

fn serves_as_replica(look: Look, target: &Target) -> bool {
    look.role() == MemberRole::Replica
        && look.state() == MemberState::Running
        && !look.tags().noloadbalance()
        && lags_at_most(look, target.lag_bytes_max())
        && tags_match(look, target)
}

fn has_duty(look: Look, duty: SyncDuty) -> bool {
    look.store_is_current() && look.sync_duty() == Some(duty)
}

fn serves_reads_with(look: Look, duty: SyncDuty, target: &Target) -> bool {
    look.store_is_current()
        && (leads(look) && tags_match(look, target)
            || has_duty(look, duty) && serves_as_replica(look, target))
}

fn lags_at_most(look: Look, limit: Option<u64>) -> bool {
    match (limit, look.primary_end()) {
        (Some(limit), Some(end)) => replayed(look).unwrap_or_default().lag_behind(end).0 <= limit,
        (None, _) | (_, None) => true,
    }
}

fn caught_up(look: Look, target: &Target) -> bool {
    let limit = target.lag_bytes_max().unwrap_or(look.view().policy.lag_bytes_max);
    let reached = match target.value("mode") {
        Some("write") => received(look),
        Some(_) | None => replayed(look),
    };
    match (reached, look.primary_end()) {
        (Some(reached), Some(end)) => reached.lag_behind(end).0 <= limit,
        (None, _) => false,
        (Some(_), None) => true,
    }
}

fn replayed(look: Look) -> Option<Lsn> {
    match &look.view().postgres.running()?.serving {
        Serving::Standby { replayed, .. } => *replayed,
        Serving::Primary { position, .. } => Some(position.lsn),
    }
}

fn received(look: Look) -> Option<Lsn> {
    match &look.view().postgres.running()?.serving {
        Serving::Standby { received, replayed, .. } => (*received).max(*replayed),
        Serving::Primary { position, .. } => Some(position.lsn),
    }
}

/// `tag_<name>=<value>`: text is compared as it is, everything else as its lower-case text.
fn tags_match(look: Look, target: &Target) -> bool {
    target.tags().all(|(name, wanted)| match look.tags().0.get(name) {
        None => false,
        Some(Value::String(text)) => text == wanted,
        Some(Value::Null) => wanted == "none",
        Some(other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_))) => {
            other.to_string().to_lowercase() == wanted
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fixtures::*;
    use super::*;

    #[test]
    fn every_word_that_the_doctor_takes_for_a_role_is_one() {
        for word in crate::doctor::haproxy::ROLE_WORDS {
            assert!(check_of(&format!("/{word}")).is_some(), "{word}");
        }
    }
    use crate::model::*;

    fn check(standing: &Standing, now_ms: u64, target: &str, wanted: u16) {
        let got = code(Look::new(standing, Moment::from_ms(now_ms)), &Target::parse(target));
        assert_eq!(got, wanted, "{target} at {now_ms} ms");
    }

    #[test]
    fn every_state_answers_every_check() {
        // The columns: primary, leader, replica, read-only, health, sync, async, read-only-sync, standby-leader
        let paths = [
            "/primary",
            "/leader",
            "/replica",
            "/read-only",
            "/health",
            "/sync",
            "/async",
            "/read-only-sync",
            "/standby-leader",
        ];
        let table: &[(&str, Standing, &str)] = &[
            ("a primary in office", primary(), "11.11..1."),
            ("a standby", standby(), "..111.1.."),
            ("a synchronous standby", with(standby(), be_sync), "..1111.1."),
            ("a quorum standby", with(standby(), be_quorum), "..111...."),
            (
                "a standby that is kept out of balancing",
                with(standby(), |s| tag(s, "noloadbalance", true)),
                "....1....",
            ),
            ("a standby that does not answer", with(standby(), be_silent), "........."),
            ("a primary that lets no client in yet", with(primary(), be_gated), "....1...."),
            ("a leader whose PostgreSQL is down", with(primary(), be_stopped), ".1......."),
            ("a leader that still recovers", with(primary(), be_recovering), ".1111.1.."),
            ("a primary without a lease", with(primary(), |s| s.view.lease = None), "....1...."),
            ("a standby cluster's leader", with(primary(), be_standby_cluster), ".1.11..11"),
            ("nothing yet", empty(), "........."),
        ];
        for (name, standing, row) in table {
            let got: String = paths
                .iter()
                .map(|path| match code(Look::new(standing, NOW), &Target::parse(path)) {
                    200 => '1',
                    _ => '.',
                })
                .collect();
            assert_eq!(&got, row, "{name}");
        }
    }

    #[test]
    fn primary_ends_with_the_lease_whatever_the_loop_does() {
        let standing = primary();
        let deadline = standing.view.lease.expect("a primary has one").deadline().as_ms();
        check(&standing, deadline - 1, "/primary", 200);
        for path in ["/primary", "/", "/leader", "/read-write", "/master", "/read-only"] {
            check(&standing, deadline, path, 503);
        }
    }

    #[test]
    fn maintenance_lets_a_primary_outlive_a_silent_store() {
        let silent = with(with(primary(), lose_the_store), |s| s.view.policy.pause = true);
        for ms in (5_000..60_000).step_by(100).chain([900_000]) {
            check(&silent, ms, "/primary", 200);
        }
        check(&with(silent.clone(), be_stopped), 900_000, "/primary", 503);
        let led_by_another = with(silent, |s| lead_by(s, "vaasa"));
        check(&led_by_another, 900_000, "/primary", 503);
    }

    #[test]
    fn without_the_store_a_standby_serves_reads_and_has_no_duty() {
        let cut_off = with(standby(), lose_the_store);
        for (path, wanted) in [("/replica", 200), ("/read-only", 200), ("/async", 503), ("/sync", 503)] {
            check(&cut_off, 900_000, path, wanted);
        }
    }

    #[test]
    fn a_name_counts_wherever_it_stands_and_the_first_wins() {
        let table = [
            ("/", Some(Check::Primary)),
            ("/x/primary/y", Some(Check::Primary)),
            ("/standby-leader", Some(Check::StandbyLeader)),
            ("/standby_leader", Some(Check::StandbyLeader)),
            ("/leader/primary", Some(Check::Leader)),
            ("/replica/sync", Some(Check::Replica)),
            ("/read-only", Some(Check::ReadOnly)),
            ("/read-only-sync", Some(Check::ReadOnlySync)),
            ("/read-only-synchronous", Some(Check::ReadOnlySync)),
            ("/read-only-quorum", Some(Check::ReadOnlyQuorum)),
            ("/healthy", Some(Check::Health)),
            ("/synchronous", Some(Check::Sync)),
            ("/sync/x", None),
            ("/asynchronous", Some(Check::Async)),
            ("/quorum", Some(Check::Quorum)),
            ("/patroni", None),
        ];
        for (path, wanted) in table {
            assert_eq!(check_of(path), wanted, "{path}");
        }
    }

    #[test]
    fn a_replica_may_lag_by_what_the_request_allows() {
        let behind = with(standby(), |s| optime(s, REPLAYED + 20_000));
        check(&behind, 5_000, "/replica", 200);
        check(&behind, 5_000, "/replica?lag=20000", 200);
        check(&behind, 5_000, "/replica?lag=19999", 503);
        check(&behind, 5_000, "/replica?lag=10kB", 503);
        check(&behind, 5_000, "/read-only?lag=10kB", 503);
        check(&behind, 5_000, "/async?lag=1MB", 200);
        check(&behind, 5_000, "/replica?lag=much", 200);
        let told_by_upstream = with(standby(), |s| s.facts.upstream_end = Some(Lsn(REPLAYED + 20_000)));
        check(&told_by_upstream, 5_000, "/replica?lag=10kB", 503);
    }

    #[test]
    fn tags_that_are_asked_for_must_be_there() {
        let tagged = with(standby(), |s| {
            s.view.tags = serde_json::from_value(json!({"zone": "a", "new": true, "rank": 3})).expect("tags");
        });
        check(&tagged, 5_000, "/replica?tag_zone=a&tag_new=true&tag_rank=3", 200);
        for wrong in
            ["/replica?tag_zone=b", "/replica?tag_new=True", "/replica?tag_other=a", "/health?tag_zone=b"]
        {
            check(&tagged, 5_000, wrong, 503);
        }
        check(&primary(), 5_000, "/primary?tag_zone=b", 200);
        check(&primary(), 5_000, "/read-only?tag_zone=b", 503);
    }

    #[test]
    fn liveness_ends_when_the_loop_has_been_silent_for_a_lease() {
        let at = |standing: &Standing, ms| liveness(Look::new(standing, Moment::from_ms(ms)));
        let due = primary().plan.look_again.as_ms();
        assert_eq!((at(&primary(), due + 9_999), at(&primary(), due + 10_000)), (200, 503));
        assert_eq!((at(&standby(), due + 19_999), at(&standby(), due + 20_000)), (200, 503));
        assert_eq!(at(&with(primary(), |s| s.view.policy.pause = true), due + 99_999), 200);
    }

    #[test]
    fn a_standby_is_ready_once_it_streams_and_has_caught_up() {
        let ready =
            |standing: &Standing, target: &str| readiness(Look::new(standing, NOW), &Target::parse(target));
        assert_eq!(ready(&primary(), "/readiness"), 200);
        assert_eq!(ready(&with(primary(), be_stopped), "/readiness"), 200);
        assert_eq!(ready(&with(primary(), be_gated), "/readiness"), 503);
        assert_eq!(ready(&standby(), "/readiness"), 200);
        assert_eq!(ready(&with(standby(), |s| s.facts.replication_state = None), "/readiness"), 503);
        let behind = with(standby(), |s| optime(s, REPLAYED + (2 << 20)));
        assert_eq!(ready(&behind, "/readiness"), 503);
        assert_eq!(ready(&behind, "/readiness?lag=3MB"), 200);
        let only_received = with(behind, |s| receive(s, REPLAYED + (2 << 20)));
        assert_eq!(ready(&only_received, "/readiness"), 503);
        assert_eq!(ready(&only_received, "/readiness?mode=write"), 200);
        assert_eq!(ready(&empty(), "/readiness"), 503);
    }
}
