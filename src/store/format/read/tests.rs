//! What others have written is read leniently, and never makes us panic.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::model::{MemberRole, MemberState, SessionId, Tags, Whose};
use crate::store::format;

const BASE: &str = "/service/batman/";

fn place() -> Place {
    Place::new("service", "batman")
}

fn entry(name: &str, value: impl Into<Vec<u8>>) -> Entry {
    Entry { path: format!("{BASE}{name}"), value: value.into(), created: 3, version: 5, session: None }
}

/// Reads one key. Says whether something odd was found.
fn read(name: &str, value: &str) -> (Cluster, bool) {
    let (cluster, oddities) = cluster(&place(), &[entry(name, value)]);
    (cluster, !oddities.is_empty())
}

fn name(text: &str) -> MemberName {
    text.parse().expect("a good name")
}

#[test]
fn an_empty_place_is_an_empty_cluster() {
    assert_eq!(cluster(&place(), &[]), (Cluster::default(), Vec::new()));
}

#[test]
fn initialize_is_running_done_or_not_understood() {
    assert_eq!(read("initialize", "").0.initialize, Initialize::Running);
    let system = SystemId(7_303_421_567_890_123_456);
    assert_eq!(read("initialize", "7303421567890123456").0.initialize, Initialize::Done(system));
    for odd in ["123456789", "x", "-7303421567890123456", "99999999999999999999"] {
        let (cluster, is_odd) = read("initialize", odd);
        assert_eq!((cluster.initialize, is_odd), (Initialize::Unrecognized, true), "{odd}");
    }
}

#[test]
fn the_leader_is_known_by_name_term_and_session() {
    let key = Entry { session: Some(SessionId(9)), ..entry("leader", "turku") };
    let (cluster, _) = cluster(&place(), &[key]);
    let expected = Leader { name: name("turku"), term: Term(3), session: Some(SessionId(9)) };
    assert_eq!(cluster.leader, Some(expected));
    assert_eq!(read("leader", "a/b").0.leader, None);
    assert!(read("leader", "").1);
}

#[test]
fn one_odd_field_does_not_cost_a_member_its_record() {
    let (cluster, odd) = read(
        "members/turku",
        r#"{"conn_url":"postgres://a/b","state":"running","role":"master","timeline":"soon","xlog_location":-1,"pause":true}"#,
    );
    let record = &cluster.members[&name("turku")];
    assert!(odd);
    assert_eq!((record.state, record.role), (MemberState::Running, MemberRole::Primary));
    assert_eq!((record.timeline, record.xlog_location, record.pause), (None, None, Some(true)));
}

#[test]
fn a_member_record_of_the_oldest_form_is_a_url() {
    let (cluster, odd) = read(
        "members/a",
        "postgres://u:p@127.0.0.1:5436/postgres?application_name=http%3A//127.0.0.1:8009/patroni",
    );
    let record = &cluster.members[&name("a")];
    assert!(!odd);
    assert_eq!(record.conn_url, "postgres://u:p@127.0.0.1:5436/postgres");
    assert_eq!(record.api_url, "http://127.0.0.1:8009/patroni");
}

#[test]
fn a_status_may_be_a_document_a_number_or_the_legacy_key() {
    let check = |name: &str, value: &str, optime: Option<u64>| {
        assert_eq!(read(name, value).0.status.optime, optime.map(Lsn), "{name} {value}");
    };
    check("status", r#"{"optime":67393640}"#, Some(67_393_640));
    check("status", r#"{"optime":"67393640","slots":null}"#, Some(67_393_640));
    check("status", "67393640", Some(67_393_640));
    check("optime/leader", "67393640", Some(67_393_640));
    check("status", "{}", None);
    check("status", r#"{"optime":-3}"#, None);
    check("status", "soon", None);

    let both = [entry("status", r#"{"optime":2}"#), entry("optime/leader", "1")];
    assert_eq!(cluster(&place(), &both).0.status.optime, Some(Lsn(2)));

    let (cluster, odd) = read("status", r#"{"optime":1,"slots":{"a":5,"b":"x"},"retain_slots":["c"]}"#);
    assert!(odd);
    assert_eq!(cluster.status.slots, BTreeMap::from([("a".to_owned(), Lsn(5))]));
    assert_eq!(cluster.status.retain_slots, ["c"]);
}

#[test]
fn a_wish_to_fail_over_is_understood_wholly_or_not_at_all() {
    let check = |value: &str, expected: Option<(Option<&str>, Option<&str>)>, odd: bool| {
        let (cluster, is_odd) = read("failover", value);
        let found = cluster.failover.map(|versioned| {
            assert_eq!(versioned.version, 5);
            (versioned.value.leader, versioned.value.candidate)
        });
        assert_eq!(found, expected.map(|(a, b)| (a.map(name), b.map(name))), "{value}");
        assert_eq!(is_odd, odd, "{value}");
    };
    check("{}", None, false);
    check(r#"{"leader":null,"member":""}"#, None, false);
    check(r#"{"leader":"a","member":"b"}"#, Some((Some("a"), Some("b"))), false);
    check(r#"{"member":"b","unheard_of":1}"#, Some((None, Some("b"))), false);
    check("a:b", Some((Some("a"), Some("b"))), false);
    check(":b", Some((None, Some("b"))), false);
    check("a", Some((Some("a"), None)), false);
    check(r#"{"leader":"a","member":5}"#, None, true);
    check(r#"{"leader":"a","member":"b/c"}"#, None, true);
    check("[]", None, true);
}

#[test]
fn the_synchronous_state_never_lets_more_members_lead_than_it_names() {
    let read_sync = |value: &str| read("sync", value).0.sync.map(|versioned| versioned.value);
    let state = read_sync(r#"{"leader":"a","quorum":1,"sync_standby":"b, c"}"#).expect("a state");
    assert_eq!((state.leader, state.quorum), (Some(name("a")), 1));
    assert_eq!(state.standbys, [name("b"), name("c")]);
    assert_eq!(read_sync(r#"{"leader":null,"quorum":3,"sync_standby":null}"#), Some(SyncState::default()));
    assert_eq!(read_sync("{}"), Some(SyncState::default()));
    let (cluster, odd) = read("sync", r#"{"leader":"a","sync_standby":"b,c/d"}"#);
    assert!(odd);
    assert_eq!(cluster.sync.expect("a state").value.standbys, [name("b")]);
    assert_eq!(read_sync(r#"{"leader":5}"#), None);
}

#[test]
fn history_is_read_line_by_line_and_sorted() {
    let (cluster, odd) = read(
        "history",
        r#"[[2,50,"x","2026-01-02T03:04:05+00:00","b"],[1,25,"no recovery target specified"],[3],["x",1,"y"]]"#,
    );
    assert!(odd);
    let timelines: Vec<u32> = cluster.history.iter().map(|line| line.timeline.0).collect();
    assert_eq!(timelines, [1, 2]);
    assert_eq!(cluster.history[0].timestamp, None);
    assert_eq!(cluster.history[1].new_leader, Some(name("b")));
    assert_eq!(cluster.highest_timeline(), Timeline(3));
}

#[test]
fn the_list_of_whom_to_ask_is_read_wholly_or_not_at_all() {
    assert_eq!(read("failsafe", r#"{"a":"http://a:8008/patroni"}"#).0.failsafe.len(), 1);
    let (cluster, odd) = read("failsafe", r#"{"a":"http://a:8008/patroni","b":5}"#);
    assert_eq!((cluster.failsafe.len(), odd), (0, true));
}

#[test]
fn a_configuration_that_is_no_object_is_no_configuration() {
    assert!(read("config", r#"{"ttl":30}"#).0.config.is_some());
    for odd in ["", "[1]", "30", "{"] {
        let (cluster, is_odd) = read("config", odd);
        assert_eq!((cluster.config, is_odd), (None, true), "{odd}");
    }
}

#[test]
fn what_is_written_is_read_back() {
    let line = |timeline: u32, leader: Option<&str>| HistoryLine {
        timeline: Timeline(timeline),
        switch: Lsn(25),
        reason: "é".to_owned(),
        timestamp: leader.map(|_| "2026-01-02T03:04:05+00:00".to_owned()),
        new_leader: leader.map(name),
    };
    let state = SyncState { leader: Some(name("a")), quorum: 1, standbys: vec![name("b"), name("c")] };
    let request = FailoverRequest {
        leader: Some(name("a")),
        candidate: Some(name("ö")),
        scheduled_at: Some("t".to_owned()),
        whose: Some(Whose { by: "anna@ops".to_owned(), why: Some("a new disk".to_owned()) }),
    };
    let told = Status {
        optime: Some(Lsn(9)),
        slots: BTreeMap::from([("a".to_owned(), Lsn(1))]),
        retain_slots: vec!["b".to_owned()],
        ended_on: Some(Timeline(2)),
    };
    let lines = vec![line(1, None), line(2, Some("b"))];
    let claimed = Claim { timeline: Timeline(3), by: name("a") };
    let members = BTreeMap::from([(name("a"), "http://a".to_owned())]);
    let entries = [
        entry("sync", format::sync(&state)),
        entry("failover", format::failover(&request)),
        entry("status", format::status(&told)),
        entry("history", format::history(&lines)),
        entry("claim", format::claim(&claimed)),
        entry("failsafe", format::failsafe(&members)),
    ];
    let (cluster, oddities) = cluster(&place(), &entries);
    assert_eq!(oddities, []);
    assert_eq!(cluster.sync.map(|versioned| versioned.value), Some(state));
    assert_eq!(cluster.failover.map(|versioned| versioned.value), Some(request));
    assert_eq!(cluster.status, told);
    assert_eq!(cluster.history, lines);
    assert_eq!(cluster.claim.map(|versioned| versioned.value), Some(claimed));
    assert_eq!(cluster.failsafe, members);
}

/// Otherwise its own record would look to a member as if somebody had overwritten it.
#[test]
fn a_record_is_read_back_whole() {
    let written = MemberRecord {
        conn_url: "postgres://a:5432/postgres".to_owned(),
        api_url: "http://a:8008/patroni".to_owned(),
        state: MemberState::Running,
        role: MemberRole::Replica,
        version: "1.0".to_owned(),
        proxy_url: Some("postgres://p/".to_owned()),
        checkpoint_after_promote: Some(false),
        tags: Tags([("weight".to_owned(), 1.5.into()), ("clonefrom".to_owned(), true.into())].into()),
        pending_restart: Some(true),
        pending_restart_reason: Some(json!({"max_connections": {"old_value": "100", "new_value": "120"}})),
        xlog_location: Some(Lsn(25)),
        replay_lsn: Some(Lsn(24)),
        receive_lsn: Some(Lsn(25)),
        replication_state: Some("streaming".to_owned()),
        timeline: Some(Timeline(2)),
        scheduled_restart: Some(json!({"schedule": "2100-01-01T10:00:00+00:00"})),
        pause: Some(true),
        watchdog: Some("off".to_owned()),
        gate: Some("closed".to_owned()),
        copying: Some("1 of 2".to_owned()),
        restart_wanted: Some(Whose { by: "anna@ops".to_owned(), why: None }),
        tenure: Some("1.0".to_owned()),
    };
    let (cluster, oddities) = cluster(&place(), &[entry("members/a", format::member(&written))]);
    assert_eq!((cluster.members.get(&name("a")), oddities), (Some(&written), vec![]));
}

#[test]
fn an_oddity_is_reported_once_per_version() {
    let mut reported = Reported::default();
    let odd = |version| {
        let key = Entry { version, ..entry("config", "x") };
        cluster(&place(), &[key]).1
    };
    assert_eq!(reported.news(odd(5)).len(), 1);
    assert_eq!(reported.news(odd(5)).len(), 0);
    assert_eq!(reported.news(odd(6)).len(), 1);
    assert_eq!(reported.news(Vec::new()).len(), 0);
}

/// Text that is nearly what we would write reaches further into the readers than random bytes do.
fn nearly_json() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        Just("leader"),
        Just("member"),
        Just("sync_standby"),
        Just("quorum"),
        Just("optime"),
        Just("slots"),
        Just("timeline"),
        Just("by"),
        Just("tags"),
        Just("role"),
        Just("state"),
        Just("conn_url"),
        Just("a:b"),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
        word.clone().prop_map(Value::from),
    ];
    let document = leaf.prop_recursive(3, 24, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((word.clone(), inner), 0..6).prop_map(|fields| {
                Value::Object(fields.into_iter().map(|(field, value)| (field.to_owned(), value)).collect())
            }),
        ]
    });
    prop_oneof![
        document.prop_map(|value| value.to_string().into_bytes()),
        prop::collection::vec(any::<u8>(), 0..64),
        "postgres.{0,40}".prop_map(String::into_bytes),
    ]
}

proptest! {
    #[test]
    fn no_value_of_any_key_makes_the_reader_panic(value in nearly_json(), created: i64, version: i64) {
        let keys = [
            "initialize", "leader", "members/a", "members/", "config", "status", "optime/leader", "failover",
            "sync", "history", "failsafe", "claim", "intents", "something/else", "",
        ];
        let entries: Vec<Entry> = (keys.iter())
            .map(|key| Entry { created, version, ..entry(key, value.clone()) })
            .collect();
        let (cluster, _) = cluster(&place(), &entries);
        let _ = (cluster.lineage(), cluster.highest_timeline(), cluster.leader_record());
    }
}
