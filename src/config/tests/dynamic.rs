//! The settings in the store: what they come to, and what is survived.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::*;
use super::{GOOD, good};
use crate::model::Span;

#[test]
fn a_running_cluster_survives_what_stands_in_its_config() {
    let local = good(GOOD).config;
    let check = |dynamic: Value, words: &[&str]| {
        let (policy, warnings) = policy_from(&dynamic, &local);
        assert_eq!(warnings.iter().map(Problem::to_string).collect::<Vec<_>>(), words, "{dynamic}");
        policy
    };
    let plain = check(json!({}), &[]);
    assert_eq!(
        (plain.timing.ttl, plain.loop_wait, plain.retry_timeout),
        (Span::from_secs(30), Span::from_secs(10), Span::from_secs(10))
    );
    assert!(!plain.use_rewind && !plain.reclone_when_diverged && !plain.reclone_when_rewind_fails);

    let quick = check(json!({"ttl": 10}), &[]);
    assert_eq!((quick.loop_wait, quick.retry_timeout), (Span::from_secs(1), Span::from_ms(4_500)));
    check(
        json!({"ttl": 10, "loop_wait": 5, "retry_timeout": 4}),
        &[
            "/config: loop_wait: loop_wait + 2 * retry_timeout is more than the ttl of 10 s; loop_wait 2 s and retry_timeout 4 s are used",
        ],
    );
    let wrong = check(
        json!({"ttl": "soon", "maximum_lag_on_failover": [1], "pause": 3, "frobnicate": 1, "synchronous_mode": "sometimes"}),
        &[
            "/config: frobnicate: there is no such setting",
            "/config: ttl: found \"soon\", wanted a number of seconds, at least 0, such as 30 or 500ms; the default is used",
            "/config: synchronous_mode: found \"sometimes\", wanted one of off, on, quorum; the default is used",
            "/config: maximum_lag_on_failover: found a list, wanted a number of bytes, at least 0, such as 1048576 or 1MB; the default is used",
            "/config: pause: found \"3\", wanted true or false; the default is used",
        ],
    );
    assert_eq!((wrong.timing.ttl, wrong.lag_bytes_max, wrong.pause), (Span::from_secs(30), 1 << 20, false));
    assert_eq!(check(json!({"ttl": 4, "unsafe_timing": "on"}), &[]).timing.ttl, Span::from_secs(4));
    check(json!([1]), &["/config: : is not a mapping; the defaults are used"]);
    assert!(check(json!({"standby_cluster": {"host": "a", "port": 5433}}), &[]).follows.is_some());
    assert!(check(json!({"standby_cluster": {}}), &[]).follows.is_none());
    let own = good(&format!("{GOOD}  use_pg_rewind: false\n")).config;
    assert!(
        !policy_from(&json!({"postgresql": {"use_pg_rewind": true}}), &own).0.use_rewind,
        "its own file wins"
    );
    let barred = good(&format!("{GOOD}tags: {{nofailover: yes}}\n")).config;
    assert!(!policy_from(&json!({}), &barred).0.may_bootstrap);
}

#[test]
fn a_stop_is_bounded_only_where_replication_is_synchronous() {
    let local = good(GOOD).config;
    let bound = |dynamic: Value| policy_from(&dynamic, &local).0.stop_timeout;
    assert_eq!(bound(json!({"primary_stop_timeout": 7})), None);
    assert_eq!(bound(json!({"primary_stop_timeout": 7, "synchronous_mode": "off"})), None);
    assert_eq!(bound(json!({"primary_stop_timeout": 0, "synchronous_mode": "on"})), None);
    let seven = Some(Span::from_secs(7));
    assert_eq!(bound(json!({"primary_stop_timeout": 7, "synchronous_mode": "quorum"})), seven);
    let older = json!({"master_stop_timeout": 7, "synchronous_mode": true});
    assert_eq!(bound(older), seven);
    let both = json!({"primary_stop_timeout": 7, "master_stop_timeout": 9, "synchronous_mode": true});
    assert_eq!(bound(both), seven);
    let (policy, _) = policy_from(&json!({"failsafe_mode": "on", "max_timelines_history": "3"}), &local);
    assert!(policy.failsafe);
    assert_eq!(policy.history_lines_max, 3);
}

#[test]
fn parameters_that_must_be_the_same_everywhere_are_not_taken_from_one_member() {
    let local = good(&format!(
        "{GOOD}  parameters: {{Max_Connections: 7, work_mem: 1MB, port: 1}}\n  pg_hba: [own]\n"
    ))
    .config;
    let dynamic = json!({"postgresql": {
        "parameters": {"max_connections": 50, "work_mem": "9MB", "wal_log_hints": true, "listen_addresses": "x", "a": null},
        "pg_hba": ["shared"], "pg_ident": ["shared"], "use_slots": "off",
    }});
    let wishes = wishes_from(&dynamic, &local);
    let parameters: Vec<_> = wishes.parameters.iter().map(|(name, text)| format!("{name}={text}")).collect();
    assert_eq!(parameters, ["max_connections=50", "wal_log_hints=on", "work_mem=1MB"]);
    assert_eq!(wishes.pg_hba, Some(vec!["own".to_owned()]));
    assert_eq!(wishes.pg_ident, Some(vec!["shared".to_owned()]));
    assert!(!wishes.use_slots);
}

#[test]
fn new_dynamic_settings_are_held_to_the_table() {
    let check = |dynamic: Value, words: &[&str]| {
        let problems: Vec<_> = validate_dynamic(&dynamic).iter().map(Problem::to_string).collect();
        assert_eq!(problems, words, "{dynamic}");
    };
    check(json!({"ttl": 30, "loop_wait": 10, "postgresql": {"parameters": {"a": 1}}, "pause": null}), &[]);
    check(
        json!({"loop_wait": 0}),
        &["/config: loop_wait: found \"0\", wanted a number of seconds, at least 1, such as 30 or 500ms"],
    );
    check(json!(7), &["/config: the file must be a mapping of settings"]);
    check(
        json!({"standby_cluster": {"host": "a", "create_replica_methods": ["x"]}}),
        &[
            "/config: standby_cluster.create_replica_methods: this version cannot do this yet (how the first member is made)",
        ],
    );
}

proptest! {
    #[test]
    fn nothing_in_the_store_makes_the_policy_panic_or_unsafe(
        key in prop::sample::select(vec!["ttl", "loop_wait", "retry_timeout", "maximum_lag_on_failover", "pause", "postgresql", "standby_cluster"]),
        text in "\\PC{0,12}", number in any::<f64>(), whole in any::<i64>(),
    ) {
        let local = good(GOOD).config;
        for value in [json!(text), json!(number), json!(whole), json!([text]), json!({"x": whole})] {
            let dynamic = json!({key: value});
            let (policy, _) = policy_from(&dynamic, &local);
            prop_assert!(policy.timing.check().is_ok());
            prop_assert!(policy.loop_wait + policy.retry_timeout.times(2) <= policy.timing.ttl);
            let _ = (validate_dynamic(&dynamic), wishes_from(&dynamic, &local));
        }
    }
}
