//! Changes are told as they were, and what has an end comes to it.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn by(who: &str) -> Note {
    Note { by: who.to_owned(), why: None, at: "2026-11-22T05:00:00+00:00".to_owned() }
}

#[expect(clippy::needless_pass_by_value, reason = "a table of calls reads better")]
fn told(before: Value, after: Value) -> Vec<String> {
    let shown = |value: &Option<Value>| value.as_ref().map_or("-".to_owned(), Value::to_string);
    let (before, after) = (&before, &after);
    let line = |d: Difference| format!("{}: {} > {}", d.setting, shown(&d.from), shown(&d.to));
    differences(before, after).into_iter().map(line).collect()
}

#[test]
fn a_change_is_told_setting_by_setting() {
    let before =
        json!({"ttl": 30, "pause": true, "postgresql": {"parameters": {"a": 1, "b": 2}}, "slots": {}});
    let after = json!({"ttl": 20, "postgresql": {"parameters": {"b": 2, "c": {"d": 3}}}, "slots": null});
    assert_eq!(
        told(before, after),
        [
            "pause: true > -",
            "postgresql.parameters.a: 1 > -",
            "postgresql.parameters.c.d: - > 3",
            "slots: {} > null",
            "ttl: 30 > 20"
        ]
    );
    assert_eq!(told(json!({}), json!({})), [""; 0]);
    assert_eq!(told(json!({}), json!({"slots": {}})), ["slots: - > {}"]);
}

#[test]
fn no_secret_and_no_long_text_is_kept() {
    let after = json!({
        "standby_cluster": {"restore_command": "PGPASSWORD=hunter2 fetch", "url": "s3://me:hunter2@there/"},
        "auth": {"password": "hunter2"},
        "long": "x".repeat(1000),
    });
    let told = told(json!({}), after).join("\n");
    assert!(!told.contains("hunter2") && told.matches(HIDDEN).count() == 3, "{told}");
    assert!(told.len() < 600, "{told}");
}

#[test]
fn what_nobody_has_noted_was_somebody() {
    let (one, two, three) = (json!({"ttl": 10}), json!({"ttl": 20}), json!({"ttl": 30}));
    let begun = Intents::default().caught_up(None, &one, "t").expect("a history begins");
    assert_eq!((begun.changes.len(), begun.caught_up(None, &one, "t")), (0, None));
    let noted = begun.noting(&by("anna@ops"), Some(&one), &two);
    assert_eq!((noted.changes.len(), noted.caught_up(Some(&one), &two, "t")), (1, None));
    let seen = noted.caught_up(Some(&two), &three, "t").expect("nobody has noted it");
    assert_eq!(seen.changes[1].by, SOMEBODY);
    assert_eq!(seen.changes[1].what.as_ref().map(Vec::len), Some(1));
    // Whoever has not seen what it was says so.
    let unseen = noted.caught_up(Some(&one), &three, "t").expect("nobody has noted it");
    assert_eq!(unseen.changes[1].what, None);
}

#[test]
fn old_changes_are_forgotten_and_what_is_not_known_is_kept() {
    let mut intents: Intents =
        serde_json::from_value(json!({"later": [1], "changes": [{"at": "t", "by": "a", "how": 2}]}))
            .expect("intents");
    let value = serde_json::to_value(&intents).expect("JSON");
    assert_eq!(value, json!({"later": [1], "changes": [{"at": "t", "by": "a", "how": 2}]}));
    for number in 0..100 {
        intents = intents.noting(&by("a"), Some(&json!({"ttl": number})), &json!({"ttl": number + 1}));
    }
    assert_eq!(intents.changes.len(), CHANGES_MAX);
    for number in 0..100 {
        let config = |n| json!({"a": format!("{n}{}", "x".repeat(150)), "b": n});
        intents = intents.noting(&by("a"), Some(&config(number)), &config(number + 1));
    }
    let length = serde_json::to_string(&intents).expect("JSON").len();
    assert!((CHANGES_BYTES_MAX / 2..CHANGES_BYTES_MAX + 1000).contains(&length), "{length}");
}

#[test]
fn a_pause_has_an_owner_unless_nobody_knows_who_began_it() {
    let (on, off) = (json!({"pause": true}), json!({}));
    let begun = Intents::default().noting(&by("anna"), Some(&off), &on);
    assert_eq!(begun.pause.as_ref().map(ToString::to_string), Some("by anna".to_owned()));
    // It stays hers when something else is changed, and goes away however it ends.
    let later = begun.noting(&by("ben"), Some(&on), &json!({"pause": true, "ttl": 5}));
    assert_eq!(later.pause, begun.pause);
    assert_eq!(begun.caught_up(Some(&on), &off, "t").expect("it has ended").pause, None);
    let lost = Intents { noted: Some(fingerprint(&off)), ..begun.clone() };
    assert_eq!(lost.caught_up(Some(&off), &off, "t").expect("it has ended").pause, None);
    let somebody = Intents { noted: Some(fingerprint(&off)), ..Intents::default() };
    assert_eq!(somebody.caught_up(Some(&off), &on, "t").expect("it has begun").pause, None);
}

#[test]
fn what_a_member_is_kept_from_ends_and_shows_in_its_tags() {
    let intents: Intents = serde_json::from_value(json!({"members": {
        "a": {"kind": "maintenance", "by": "anna", "since": "1", "until": "5"},
        "b": {"kind": "nofailover", "by": "ben", "since": "1", "why": "old disks"},
    }}))
    .expect("intents");
    let name = |name: &str| name.parse::<MemberName>().expect("a name");
    let at = |now: &'static str| move |until: &str| until <= now;
    let tags = |member: &str, now| {
        let kept = intents.of_member(&name(member), at(now));
        kept.map_or(Tags::default(), |kept| kept.kind.added_to(&Tags::default()))
    };
    assert!(tags("a", "4").nofailover() && tags("a", "4").noloadbalance());
    assert!(tags("b", "9").nofailover() && !tags("b", "9").noloadbalance());
    assert!(tags("a", "5").is_empty() && tags("c", "1").is_empty());
    assert_eq!(intents.without_ended(at("4")), None);
    let left = intents.without_ended(at("5")).expect("one has ended");
    assert_eq!(left.members.keys().map(MemberName::as_str).collect::<Vec<_>>(), ["b"]);
    assert_eq!(left.members[&name("b")].intent.to_string(), "by ben: old disks");
}

#[test]
fn words_are_one_short_line() {
    assert_eq!(words(" disk\nchange\t"), Some("disk change".to_owned()));
    assert_eq!(words(" \n"), None);
    assert_eq!(words(&"ä".repeat(1000)).map(|line| line.chars().count()), Some(WORDS_CHARACTERS_MAX));
}

fn config() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0..3).prop_map(Value::from),
        "[a-c]{0,2}".prop_map(Value::from)
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            proptest::collection::btree_map("[a-c]", inner, 0..3).prop_map(|map| json!(map))
        ]
    })
}

proptest! {
    #[test]
    fn a_difference_is_found_exactly_where_the_fingerprints_differ(one in config(), other in config()) {
        let (one, other) = (json!({"c": one}), json!({"c": other}));
        let same = one == other;
        prop_assert_eq!(differences(&one, &other).is_empty(), same);
        prop_assert_eq!(fingerprint(&one) == fingerprint(&other), same);
    }
}
