//! The part of the contract that is about what is told of changes: of the configuration, and of the leader.

use serde_json::{Map, json};
use tenure::model::{Note, Succession, Term, Timeline, successions};
use tenure::store::Expect;

use crate::rig::*;

pub async fn a_change_of_the_configuration_is_noted_together_with_it(rig: Rig) {
    let store = rig.store();
    let note = |by: &str| Note { by: by.to_owned(), why: None, at: "2026-11-22T05:00:00+00:00".to_owned() };
    let anybody = Expect::Anything;
    let first = store.change_config(&json!({"ttl": 10}), Expect::Version(0), &note("anna"), LONG).await;
    let first = first.expect("there is none");
    conflict(store.change_config(&json!({"ttl": 20}), Expect::Version(0), &note("ben"), LONG).await);
    let second = store.change_config(&json!({"ttl": 20}), Expect::Version(first), &note("carl"), LONG).await;
    let second = second.expect("it was read");
    // The second answer may have been lost: what we want stands there, and is not noted twice.
    let again = store.change_config(&json!({"ttl": 20}), Expect::Version(first), &note("carl"), LONG).await;
    assert_eq!(again.expect("it stands as we want it"), second);
    store.catch_up(None, "now", LONG).await.expect("there is nothing to note");
    // Somebody who notes nothing, and somebody who writes what nobody understands.
    store.put_config(&json!({"ttl": 30}), anybody, LONG).await.expect("anything goes");
    store.catch_up(Some(&json!({"ttl": 20})), "now", LONG).await.expect("it is noted");
    store.catch_up(Some(&json!({"ttl": 20})), "now", LONG).await.expect("it has been noted");
    rig.write("config", b"[").await;
    store.catch_up(None, "now", LONG).await.expect("there is nothing to note");
    store.change_config(&json!({"ttl": 40}), anybody, &note("dora"), LONG).await.expect("anything goes");
    let cluster = snapshot(&store).await;
    let intents = cluster.intents.expect("notes").value;
    let told = intents.changes.iter().map(|change| {
        let what = change.what.as_ref().map(|what| (what[0].from.clone(), what[0].to.clone()));
        (change.by.as_str(), what)
    });
    let ttl = |from: Option<i64>, to: i64| Some((from.map(Into::into), Some(to.into())));
    let expected = [
        ("anna", ttl(None, 10)),
        ("carl", ttl(Some(10), 20)),
        ("unknown", ttl(Some(20), 30)),
        ("dora", None),
    ];
    assert_eq!(told.collect::<Vec<_>>(), expected);
    rig.write("intents", b"[]").await;
    store.change_config(&json!({"ttl": 50}), anybody, &note("eva"), LONG).await.expect("anything goes");
    assert_eq!(snapshot(&store).await.intents.expect("notes").value.changes.len(), 1);
}

pub async fn a_change_of_the_leader_is_noted_once_and_by_the_leader_only(rig: Rig) {
    let (store, me) = (rig.store(), name("turku"));
    let ours = session(&store, LIFE).await;
    let term = store.take_lease(ours, &me, None, LONG).await.expect("nobody leads");
    let succession = |timeline| Succession {
        timeline: Timeline(timeline),
        kind: "failover".to_owned(),
        by: None,
        from: Some(name("oulu")),
        to: me.clone(),
        at: "2026-11-22T05:00:00.000+00:00".to_owned(),
        stages: Vec::new(),
        loss: None,
        others: Map::new(),
    };
    let timelines = async || -> Vec<u32> {
        let entries = store.entries(LONG).await.expect("the store answers");
        let entry = entries.iter().find(|entry| entry.path.ends_with("/successions"));
        let all = entry.map(|entry| successions(&entry.value)).unwrap_or_default();
        all.iter().map(|succession| succession.timeline.0).collect()
    };
    for timeline in [2, 3, 3, 2] {
        store.note_succession(&me, term, &succession(timeline), LONG).await.expect("we lead");
    }
    assert_eq!(timelines().await, [2, 3]);
    conflict(store.note_succession(&me, Term(term.0 + 1), &succession(4), LONG).await);
    conflict(store.note_succession(&name("oulu"), term, &succession(4), LONG).await);
    assert_eq!(timelines().await, [2, 3]);
    // What nobody understands is written over, and no snapshot is the worse for it.
    rig.write("successions", b"{").await;
    store.note_succession(&me, term, &succession(5), LONG).await.expect("we lead");
    assert_eq!(timelines().await, [5]);
    assert_eq!(snapshot(&store).await.leader.map(|leader| leader.name), Some(me));
}
