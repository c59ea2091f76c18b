//! Reading the status document of another member. A field that is missing or strange is unknown, and nothing else
//! becomes unknown with it: an election must not fail because of a field that it does not need.

use serde_json::{Map, Value};

use crate::model::{Lsn, MemberRole, MemberState, PeerStatus, Position, Span, Tags, Timeline};

#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    #[error("the status is not JSON: {0}")]
    NotJson(#[from] serde_json::Error),
    #[error("the status is not a JSON object")]
    NotAnObject,
}

pub fn read_status(bytes: &[u8]) -> Result<PeerStatus, StatusError> {
    let Value::Object(document) = serde_json::from_slice(bytes)? else {
        return Err(StatusError::NotAnObject);
    };
    // `wal` is the same section as older agents call it.
    let xlog = document.get("xlog").or_else(|| document.get("wal")).and_then(Value::as_object);
    let location = xlog.and_then(|xlog| lsn(xlog, "location"));
    let received = xlog.and_then(|xlog| lsn(xlog, "received_location").max(lsn(xlog, "replayed_location")));
    let timeline =
        document.get("timeline").and_then(Value::as_u64).and_then(|number| u32::try_from(number).ok());
    Ok(PeerStatus {
        // Only a primary writes, whatever else it calls itself.
        role: if location.is_some() { MemberRole::Primary } else { role(&document) },
        state: state(&document),
        position: position(timeline, location.or(received)),
        tags: match document.get("tags") {
            Some(Value::Object(tags)) => Tags(tags.clone().into_iter().collect()),
            Some(_) | None => Tags::default(),
        },
        unreplayed: xlog.map_or(0, unreplayed),
        watchdog_failed: document.get("watchdog_failed") == Some(&Value::Bool(true)),
        fitness: own(&document, "fitness")
            .and_then(|word| serde_json::from_value(word.clone()).ok())
            .unwrap_or_default(),
        stale: own(&document, "stale") == Some(&Value::Bool(true)),
        looked_ago: own(&document, "looked_ms_ago").and_then(Value::as_u64).map(Span::from_ms),
        free_bytes: own(&document, "disk_free_bytes").and_then(Value::as_u64),
    })
}

/// What only agents of our kind tell.
fn own<'a>(document: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    document.get("tenure")?.get(key)
}

/// Both or nothing. Zero is how Patroni writes that it does not know.
fn position(timeline: Option<u32>, lsn: Option<Lsn>) -> Option<Position> {
    let timeline = timeline.filter(|timeline| *timeline > 0)?;
    let lsn = lsn.filter(|lsn| *lsn > Lsn::ZERO)?;
    Some(Position { timeline: Timeline(timeline), lsn })
}

/// None of it where one of the two is not told.
fn unreplayed(xlog: &Map<String, Value>) -> u64 {
    match (lsn(xlog, "received_location"), lsn(xlog, "replayed_location")) {
        (Some(received), Some(replayed)) => replayed.lag_behind(received).0,
        (Some(_) | None, _) => 0,
    }
}

fn lsn(section: &Map<String, Value>, key: &str) -> Option<Lsn> {
    section.get(key)?.as_u64().map(Lsn)
}

fn role(document: &Map<String, Value>) -> MemberRole {
    let word = document.get("role").cloned().unwrap_or_default();
    serde_json::from_value(word).unwrap_or(MemberRole::Unrecognized)
}

fn state(document: &Map<String, Value>) -> MemberState {
    let word = document.get("state").cloned().unwrap_or_default();
    serde_json::from_value(word).unwrap_or(MemberState::Unknown)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::model::Fitness;

    #[expect(clippy::needless_pass_by_value, reason = "a table of calls reads better")]
    fn check(document: Value, wanted: PeerStatus) {
        let got = read_status(document.to_string().as_bytes()).expect("a status");
        assert_eq!(got, wanted, "{document}");
    }

    fn stands(role: MemberRole, state: MemberState, position: Option<Position>) -> PeerStatus {
        PeerStatus { role, state, position, ..PeerStatus::default() }
    }

    #[test]
    fn the_documents_of_patroni_are_read() {
        let primary = r#"{"state": "running", "postmaster_start_time": "2026-11-20 23:26:44.616823+00:00", "role": "primary", "server_version": 150018, "xlog": {"location": 67394096}, "timeline": 2, "replication": [{"usename": "replicator", "application_name": "node-2", "client_addr": "127.0.0.1", "state": "streaming", "sync_state": "async", "sync_priority": 0}], "dcs_last_seen": 1795217369, "tags": {"clonefrom": true, "mytag": "hello"}, "database_system_identifier": "7710399124836129887", "patroni": {"version": "4.1.5", "scope": "batman", "name": "node-1"}}"#;
        let status = read_status(primary.as_bytes()).expect("Patroni's own example");
        assert_eq!((status.role, status.position), (MemberRole::Primary, Some(Position::new(2, 67_394_096))));
        assert!(status.tags.clonefrom() && !status.watchdog_failed);

        let stopped = json!({"state": "stopped", "role": "replica", "watchdog_failed": true});
        let wanted =
            PeerStatus { watchdog_failed: true, ..stands(MemberRole::Replica, MemberState::Stopped, None) };
        check(stopped, wanted);
    }

    #[test]
    fn a_position_is_the_furthest_that_is_told() {
        let standby =
            |xlog: Value| json!({"state": "running", "role": "replica", "timeline": 3, "xlog": xlog});
        let at = |lsn| stands(MemberRole::Replica, MemberState::Running, Some(Position::new(3, lsn)));
        check(standby(json!({"received_location": 5, "replayed_location": 7})), at(7));
        let held_back = PeerStatus { unreplayed: 2, ..at(9) };
        check(standby(json!({"received_location": 9, "replayed_location": 7})), held_back);
        check(standby(json!({"received_location": null, "replayed_location": 7})), at(7));
        let nowhere = stands(MemberRole::Replica, MemberState::Running, None);
        check(standby(json!({"received_location": 0, "replayed_location": 0})), nowhere.clone());
        check(standby(json!({"received_location": -1, "replayed_location": "7"})), nowhere.clone());
        check(json!({"state": "running", "role": "replica", "xlog": {"replayed_location": 7}}), nowhere);
    }

    #[test]
    fn how_fit_a_peer_is_is_read_and_nothing_told_is_no_reproach() {
        let told = |tenure: Value| {
            let document = json!({"state": "running", "role": "replica", "tenure": tenure}).to_string();
            let status = read_status(document.as_bytes()).expect("a status");
            (status.fitness, status.free_bytes, status.stale)
        };
        assert_eq!(told(json!({})), (Fitness::Fit, None, false));
        assert_eq!(told(json!({"fitness": "unfit"})), (Fitness::Unfit, None, false));
        let full = json!({"fitness": "last_resort", "disk_free_bytes": 4096, "disk_full": true});
        assert_eq!(told(full), (Fitness::LastResort, Some(4096), false));
        assert_eq!(told(json!({"stale": true})), (Fitness::Fit, None, true));
        assert_eq!(told(json!({"fitness": 7, "disk_free_bytes": "x"})), (Fitness::Fit, None, false));
        assert_eq!(told(json!([])), (Fitness::Fit, None, false));
    }

    #[test]
    fn strange_fields_are_unknown_and_spoil_nothing_else() {
        let strange = json!({"state": 7, "role": ["x"], "timeline": 1e99, "xlog": [], "tags": "x", "watchdog_failed": "no"});
        check(strange, stands(MemberRole::Unrecognized, MemberState::Unknown, None));
        let old = json!({"state": "running", "role": "master", "timeline": 1, "wal": {"location": 8}});
        check(old, stands(MemberRole::Primary, MemberState::Running, Some(Position::new(1, 8))));
        let writes = json!({"role": "replica", "timeline": 1, "xlog": {"location": 8}});
        check(writes, stands(MemberRole::Primary, MemberState::Unknown, Some(Position::new(1, 8))));
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for text in ["", "[]", "null", "7", "\"x\"", "{", "<html>"] {
            assert!(read_status(text.as_bytes()).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes: Vec<u8>) {
            let _ = read_status(&bytes);
        }

        #[test]
        fn no_mutilated_status_makes_the_reader_panic(cut in 0usize..120, byte: u8) {
            let mut bytes = br#"{"state": "running", "role": "replica", "timeline": 3, "xlog": {"received_location": 9, "replayed_location": 7}}"#.to_vec();
            if let Some(place) = bytes.get_mut(cut) {
                *place = byte;
            }
            let _ = read_status(&bytes);
            bytes.truncate(cut);
            let _ = read_status(&bytes);
        }
    }
}
