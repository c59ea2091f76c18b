//! What PyYAML writes, learnt from it; `scripts/fetch-patroni` brings it, and then it is asked anew.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::*;

fn document(json: &str) -> Document {
    Document::parse(json.as_bytes()).expect("JSON")
}

#[test]
fn a_configuration_is_written_as_patronictl_shows_it() {
    let config = r#"{"ttl":30,"loop_wait":5,"maximum_lag_on_failover":1048576,"postgresql":{"use_pg_rewind":true,
        "pg_hba":["local all all trust","host all all 0.0.0.0/0 md5"],"parameters":{"wal_level":"logical","max_connections":"100","log_line_prefix":"%m [%p] "}},
        "slots":{},"ignore_slots":[],"standby_cluster":null,"pause":false,"tags":[{"a":1,"b":[1,[2,3]]}]}"#;
    let text = "\
ignore_slots: []
loop_wait: 5
maximum_lag_on_failover: 1048576
pause: false
postgresql:
  parameters:
    log_line_prefix: '%m [%p] '
    max_connections: '100'
    wal_level: logical
  pg_hba:
  - local all all trust
  - host all all 0.0.0.0/0 md5
  use_pg_rewind: true
slots: {}
standby_cluster: null
tags:
- a: 1
  b:
  - 1
  - - 2
    - 3
ttl: 30
";
    assert_eq!(block(&document(config)), text);
}

#[test]
fn braces_and_brackets_stand_on_one_line() {
    let tags = document(r#"{"replicatefrom":"a","nofailover":true,"list":[1,"x, y"],"none":{}}"#);
    assert_eq!(flow(&tags), "{list: [1, 'x, y'], nofailover: true, none: {}, replicatefrom: a}\n");
}

#[test]
fn words_that_mean_something_else_are_quoted() {
    let check = |text: &str, written: &str| {
        assert_eq!(block(&Document::List(vec![Document::text(text)])), format!("- {written}\n"), "{text}");
    };
    for word in ["on", "No", "null", "~", "", "1", "0x1f", "1_0", "12:30", "1.5", ".5", "-.inf", "2026-11-21"]
    {
        check(word, &format!("'{word}'"));
    }
    for word in ["16MB", "1e3", "a:b", "127.0.0.1:5432", "-x", "a#b", "08", "é", "2026-11-21T10"] {
        check(word, word);
    }
    check("it's: so", "'it''s: so'");
    check("a\tb", "\"a\\tb\"");
    check("a\nb", "'a\n\n  b'");
    check("\u{1f418}", "\u{1f418}");
    check("\u{7}\u{1f418}", "\"\\a\\U0001F418\"");
}

/// Any document, made of what has a meaning in YAML.
fn documents() -> impl Strategy<Value = Document> {
    let text = prop_oneof![
        r#"[ a-c0-9:\-#,'"\n\\{}\[\]?!%@.é🐘\t~]{0,12}"#,
        "([a-z]{1,9} ){0,60}",
        "[0-9:_.eE+\\-]{0,9}",
        "[a-z]{100,140}",
        "(x\t|yy ){60,90}",
        "20[0-9]{2}-[01]?[0-9]-[0-3]?[0-9]([tT ][0-9]{1,2}:[0-9]{2}:[0-9]{2}(\\.[0-9]*)?(Z| ?\\+[0-9]{1,2}(:[0-9]{2})?)?)?",
        Just("yes".to_owned()),
    ];
    let leaf = prop_oneof![
        Just(Document::Null),
        any::<bool>().prop_map(Document::Bool),
        any::<i64>().prop_map(|number| Document::Integer(number.into())),
        prop_oneof![Just(1e16), Just(1e-7), Just(0.5), -1e6..1e6].prop_map(Document::Float),
        text.clone().prop_map(Document::Text),
    ];
    leaf.prop_recursive(4, 24, 4, move |inner| {
        let map = proptest::collection::btree_map(text.clone(), inner.clone(), 0..4);
        prop_oneof![
            proptest::collection::vec(inner, 0..4).prop_map(Document::List),
            map.prop_map(|map| Document::Map(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn whatever_is_written_is_read_back_the_same(document in documents()) {
        // Our own reader takes no base-60 numbers, so only what is quoted matters here: nothing may be lost or broken.
        for text in [block(&document), flow(&document)] {
            let read = crate::config::parse_yaml("t", &text);
            prop_assert!(read.is_ok(), "{}\n{:?}", text, read);
        }
    }
}

/// PyYAML itself, on a thousand documents.
#[test]
fn pyyaml_writes_the_same() {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/patroni/bin/python");
    if !python.exists() {
        println!("not run: there is no Patroni; scripts/fetch-patroni brings it");
        return;
    }
    let mut runner = TestRunner::deterministic();
    let strategy = documents();
    let documents: Vec<Document> =
        (0..1000).map(|_| strategy.new_tree(&mut runner).expect("a document").current()).collect();
    let program = "import json, sys, yaml\n\
        dump = lambda d, flow: yaml.safe_dump(d, default_flow_style=flow, encoding=None, allow_unicode=True, width=200)\n\
        print(json.dumps([[dump(d, False), dump(d, True)] for d in map(json.loads, sys.stdin)]))\n";
    let mut child = Command::new(python)
        .args(["-c", program])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Python starts");
    let input: String = documents.iter().map(|document| document.to_json() + "\n").collect();
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("Python reads");
    let output = child.wait_with_output().expect("Python ends");
    let written: Vec<[String; 2]> = serde_json::from_slice(&output.stdout).expect("JSON from Python");
    for (document, [in_block, in_flow]) in documents.iter().zip(written) {
        assert_eq!(block(document), in_block, "{document:?}");
        assert_eq!(flow(document), in_flow, "{document:?}");
    }
}
