//! The contract. Each sentence is tried on every store.

use std::collections::BTreeMap;

use serde_json::json;
use tenure::model::{
    Claim, FailoverRequest, Initialize, Leader, SessionId, Span, SyncState, SystemId, Term, Timeline,
    Versioned,
};
use tenure::store::{Expect, StoreEvent};

use crate::notes::*;
use crate::rig::*;

macro_rules! contract {
    ($($sentence:ident)*) => {
        mod memory {
            $(#[tokio::test] async fn $sentence() { super::$sentence(super::Rig::memory()).await })*
        }
        mod etcd {
            $(#[tokio::test] async fn $sentence() { super::$sentence(super::Rig::etcd().await).await })*
        }
        mod zookeeper {
            $(#[tokio::test] async fn $sentence() { super::$sentence(super::Rig::zookeeper().await).await })*
        }
    };
}

contract! {
    a_new_place_is_empty
    one_member_takes_the_lease_and_the_others_are_told_whose_it_is
    terms_grow
    no_session_is_shorter_than_the_store_says
    a_renewal_confirms_the_term_or_says_that_the_key_is_not_ours
    a_session_is_found_again_by_its_number
    an_ended_session_takes_its_own_keys_away_and_no_others
    a_claim_is_won_together_with_the_lease_or_not_at_all
    a_lease_that_is_ours_already_is_taken_again_only_with_the_same_claim
    a_released_lease_leaves_the_last_word_of_its_holder
    a_lease_that_is_not_ours_any_more_is_released_without_a_trace
    the_right_to_make_a_cluster_dies_with_its_holder
    a_cluster_is_named_once_and_keeps_its_configuration
    a_deposed_leader_writes_nothing
    a_configuration_is_replaced_only_in_the_version_that_was_read
    a_change_of_the_configuration_is_noted_together_with_it
    a_change_of_the_leader_is_noted_once_and_by_the_leader_only
    the_synchronous_state_is_replaced_only_in_the_version_that_was_read
    one_wish_for_another_leader_stands_at_a_time
    values_that_no_one_of_ours_wrote_are_survived
    a_watch_tells_of_changes_here_and_of_none_elsewhere
    a_silent_store_is_noticed_and_so_is_its_return
    a_lease_whose_answer_was_lost_is_found_to_be_ours
    a_silent_store_answers_no_call
    clusters_are_listed_and_removed
    whoever_shows_a_cluster_gets_its_keys_word_for_word
}

async fn a_new_place_is_empty(rig: Rig) {
    let store = rig.store();
    let mut watch = store.watch();
    let seen = until(&mut watch, |_| true).await;
    assert_eq!(*seen, tenure::model::Cluster::default());
    assert_eq!(snapshot(&store).await, *seen);
}

async fn one_member_takes_the_lease_and_the_others_are_told_whose_it_is(rig: Rig) {
    let (store, other) = (rig.store(), rig.store());
    let (ours, theirs) = (session(&store, LIFE).await, session(&other, LIFE).await);
    let term = store.take_lease(ours, &name("turku"), None, LONG).await.expect("nobody leads");
    let refusal = other.take_lease(theirs, &name("oulu"), None, LONG).await.expect_err("somebody leads");
    assert!(refusal.to_string().contains("turku"), "{refusal}");
    conflict(Err::<(), _>(refusal));
    // A namesake with another session is somebody else.
    conflict(other.take_lease(theirs, &name("turku"), None, LONG).await);
    let leader = Leader { name: name("turku"), term, session: Some(ours) };
    assert_eq!(snapshot(&other).await.leader, Some(leader));
}

async fn terms_grow(rig: Rig) {
    let store = rig.store();
    let ours = session(&store, LIFE).await;
    let mut last = Term(0);
    for _ in 0..3 {
        let term = store.take_lease(ours, &name("turku"), None, LONG).await.expect("nobody leads");
        assert!(last < term);
        store.release_lease(&name("turku"), term, None, false, LONG).await.expect("it is ours");
        last = term;
    }
}

async fn no_session_is_shorter_than_the_store_says(rig: Rig) {
    let store = rig.store();
    let limits = store.session_limits(LONG).await.expect("it is asked for");
    let opened = store.open_session(Span::from_secs(1), LONG).await.expect("a session is granted");
    assert_eq!(opened.ttl, limits.granted(Span::from_secs(1)), "{limits:?}");
    let vitals = store.vitals(LONG).await.expect("it is asked for");
    assert_eq!((vitals.shortest_lease, vitals.longest_lease), (Some(limits.shortest), limits.longest));
    assert!(
        vitals.servers.iter().all(|server| server.state.as_ref().is_ok_and(|state| state.leads)),
        "{vitals:?}"
    );
}

async fn a_renewal_confirms_the_term_or_says_that_the_key_is_not_ours(rig: Rig) {
    let (store, me) = (rig.store(), name("turku"));
    let ours = session(&store, LIFE).await;
    conflict(store.renew(ours, &me, Some(Term(1)), LONG).await);
    let term = store.take_lease(ours, &me, None, LONG).await.expect("nobody leads");
    whole_life(store.renew(ours, &me, Some(term), LONG).await.expect("it is ours"));
    conflict(store.renew(ours, &me, Some(Term(term.0 - 1)), LONG).await);
    conflict(store.renew(ours, &name("oulu"), Some(term), LONG).await);
    store.release_lease(&me, term, None, false, LONG).await.expect("it is ours");
    conflict(store.renew(ours, &me, Some(term), LONG).await);
    whole_life(store.renew(ours, &me, None, LONG).await.expect("the session lives"));
}

async fn a_session_is_found_again_by_its_number(rig: Rig) {
    let me = name("turku");
    let ours = session(&rig.store(), LIFE).await;
    let next_life = rig.store();
    whole_life(next_life.renew(ours, &me, None, LONG).await.expect("it lives"));
    next_life.close_session(ours, LONG).await.expect("it is ours");
    next_life.close_session(ours, LONG).await.expect("twice is as good");
    gone(next_life.renew(ours, &me, None, LONG).await);
    gone(next_life.take_lease(ours, &me, None, LONG).await);
    gone(next_life.put_member(SessionId(4711), &me, &record("x"), LONG).await);
}

async fn an_ended_session_takes_its_own_keys_away_and_no_others(rig: Rig) {
    let (store, me) = (rig.store(), name("turku"));
    let mut watch = store.watch();
    let ours = session(&store, TTL).await;
    let term = store.take_lease(ours, &me, Some(claim(1, 0)), LONG).await.expect("nobody leads");
    let members = BTreeMap::from([(me.clone(), "http://turku:8008/patroni".to_owned())]);
    let state = SyncState { leader: Some(me.clone()), ..SyncState::default() };
    let wish = FailoverRequest { candidate: Some(name("oulu")), ..FailoverRequest::default() };
    store.put_initialize(&me, term, SYSTEM, LONG).await.expect("we lead");
    store.put_config(&json!({"ttl": 30}), Expect::Version(0), LONG).await.expect("there is none");
    store.put_member(ours, &me, &record("turku"), LONG).await.expect("the session lives");
    store.put_status(&me, term, &status(9), LONG).await.expect("we lead");
    store.put_history(&me, term, &[line(1)], LONG).await.expect("we lead");
    store.put_failsafe(&me, term, &members, LONG).await.expect("we lead");
    store.put_sync(&me, term, &state, 0, LONG).await.expect("we lead");
    store.request_failover(&wish, None, LONG).await.expect("nobody has asked");
    let before = until(&mut watch, |cluster| cluster.failover.is_some() && !cluster.members.is_empty()).await;

    let after = until(&mut watch, |cluster| cluster.leader.is_none()).await;
    let after = if after.members.is_empty() {
        after
    } else {
        until(&mut watch, |cluster| cluster.members.is_empty()).await
    };
    let mut expected = (*before).clone();
    expected.leader = None;
    expected.members.clear();
    assert_eq!(*after, expected);
    assert_eq!(after.initialize, Initialize::Done(SYSTEM));
    gone(store.renew(ours, &me, Some(term), LONG).await);
}

async fn a_claim_is_won_together_with_the_lease_or_not_at_all(rig: Rig) {
    let (store, me) = (rig.store(), name("turku"));
    let ours = session(&store, LIFE).await;
    let term = store.take_lease(ours, &me, Some(claim(2, 0)), LONG).await.expect("nobody leads");
    let claimed = snapshot(&store).await.claim.expect("a claim");
    assert_eq!(claimed.value, Claim { timeline: Timeline(2), by: me.clone() });
    store.release_lease(&me, term, None, false, LONG).await.expect("it is ours");

    let (other, them) = (rig.store(), name("oulu"));
    let theirs = session(&other, LIFE).await;
    conflict(other.take_lease(theirs, &them, Some(claim(2, 0)), LONG).await);
    assert_eq!(snapshot(&store).await.leader, None);
    other.take_lease(theirs, &them, Some(claim(3, claimed.version)), LONG).await.expect("the claim was read");
    let claimed = snapshot(&store).await.claim.expect("a claim").value;
    assert_eq!(claimed, Claim { timeline: Timeline(3), by: them });
}

async fn a_lease_that_is_ours_already_is_taken_again_only_with_the_same_claim(rig: Rig) {
    let (store, me) = (rig.store(), name("turku"));
    let ours = session(&store, LIFE).await;
    let term = store.take_lease(ours, &me, Some(claim(2, 0)), LONG).await.expect("nobody leads");
    assert_eq!(store.take_lease(ours, &me, Some(claim(2, 0)), LONG).await.expect("it is ours"), term);
    conflict(store.take_lease(ours, &me, Some(claim(3, 0)), LONG).await);
    let version = snapshot(&store).await.claim.expect("a claim").version;
    conflict(store.take_lease(ours, &me, Some(claim(3, version)), LONG).await);
    assert_eq!(snapshot(&store).await.claim.expect("a claim").value.timeline, Timeline(2));
}

async fn a_released_lease_leaves_the_last_word_of_its_holder(rig: Rig) {
    let (store, me) = (rig.store(), name("turku"));
    let ours = session(&store, LIFE).await;
    let term = store.take_lease(ours, &me, None, LONG).await.expect("nobody leads");
    store.put_member(ours, &me, &record("turku"), LONG).await.expect("the session lives");
    let bound = BTreeMap::from([(me.clone(), "http://turku:8008/patroni".to_owned())]);
    store.put_failsafe(&me, term, &bound, LONG).await.expect("we lead");
    store.release_lease(&me, term, Some(&status(99)), true, LONG).await.expect("it is ours");
    let cluster = snapshot(&store).await;
    assert_eq!((cluster.leader, cluster.status, cluster.failsafe), (None, status(99), BTreeMap::new()));
    assert_eq!(cluster.members[&me], record("turku"));
}

async fn a_lease_that_is_not_ours_any_more_is_released_without_a_trace(rig: Rig) {
    let (store, me, them) = (rig.store(), name("turku"), name("oulu"));
    let ours = session(&store, LIFE).await;
    let old = store.take_lease(ours, &me, None, LONG).await.expect("nobody leads");
    store.release_lease(&me, old, Some(&status(1)), false, LONG).await.expect("it is ours");
    store.release_lease(&me, old, Some(&status(2)), false, LONG).await.expect("it is nobody's");
    let theirs = session(&store, LIFE).await;
    store.take_lease(theirs, &them, None, LONG).await.expect("nobody leads");
    store.release_lease(&me, old, Some(&status(3)), false, LONG).await.expect("it is not ours");
    let cluster = snapshot(&store).await;
    assert_eq!((cluster.leader_name(), &cluster.status), (Some(&them), &status(1)));
}

async fn the_right_to_make_a_cluster_dies_with_its_holder(rig: Rig) {
    let store = rig.store();
    let mut watch = store.watch();
    let (ours, theirs) = (session(&store, TTL).await, session(&store, LIFE).await);
    store.take_initialize(ours, LONG).await.expect("nobody makes it");
    store.take_initialize(ours, LONG).await.expect("it is ours already");
    conflict(store.take_initialize(theirs, LONG).await);
    until(&mut watch, |cluster| cluster.initialize == Initialize::Running).await;
    until(&mut watch, |cluster| cluster.initialize == Initialize::Absent).await;
    store.take_initialize(theirs, LONG).await.expect("nobody makes it any more");
    assert_eq!(snapshot(&store).await.maker, Some(theirs));
    store.abandon_initialize(ours, LONG).await.expect("it is another's, and is left alone");
    conflict(store.finish_initialize(Some(ours), SYSTEM, &json!({}), LONG).await);
    assert_eq!(snapshot(&store).await.initialize, Initialize::Running);
    store.abandon_initialize(theirs, LONG).await.expect("it is theirs");
    assert_eq!(snapshot(&store).await.initialize, Initialize::Absent);
    store.abandon_initialize(theirs, LONG).await.expect("twice is as good");
}

async fn a_cluster_is_named_once_and_keeps_its_configuration(rig: Rig) {
    let store = rig.store();
    let ours = session(&store, TTL).await;
    store.take_initialize(ours, LONG).await.expect("nobody makes it");
    store.finish_initialize(Some(ours), SYSTEM, &json!({"ttl": 10}), LONG).await.expect("we make it");
    store.close_session(ours, LONG).await.expect("it is ours");
    store.finish_initialize(None, SYSTEM, &json!({"ttl": 20}), LONG).await.expect("it has this name already");
    conflict(store.finish_initialize(None, SystemId(SYSTEM.0 + 1), &json!({}), LONG).await);
    store.abandon_initialize(ours, LONG).await.expect("a name is left standing");
    conflict(store.take_initialize(session(&store, LIFE).await, LONG).await);
    let cluster = snapshot(&store).await;
    assert_eq!(cluster.initialize, Initialize::Done(SYSTEM));
    assert_eq!(cluster.config.expect("a configuration").value, json!({"ttl": 10}));

    // An operator may have put a configuration there first, and the right to make the cluster may have run out.
    let early = rig.store_of("robin");
    early.put_config(&json!({"ttl": 5}), Expect::Anything, LONG).await.expect("anything goes");
    early.finish_initialize(None, SYSTEM, &json!({"ttl": 10}), LONG).await.expect("nobody has named it");
    let cluster = snapshot(&early).await;
    assert_eq!(cluster.initialize, Initialize::Done(SYSTEM));
    assert_eq!(cluster.config.expect("a configuration").value, json!({"ttl": 5}));
}

async fn a_deposed_leader_writes_nothing(rig: Rig) {
    let (store, me) = (rig.store(), name("turku"));
    let ours = session(&store, LIFE).await;
    let old = store.take_lease(ours, &me, None, LONG).await.expect("nobody leads");
    store.put_status(&me, old, &status(1), LONG).await.expect("we lead");
    store.release_lease(&me, old, None, false, LONG).await.expect("it is ours");
    store.take_lease(ours, &me, None, LONG).await.expect("nobody leads");
    let before = snapshot(&store).await;
    assert_eq!((before.sync.as_ref(), &before.status), (None, &status(1)));
    conflict(store.put_status(&me, old, &status(2), LONG).await);
    conflict(store.put_history(&me, old, &[line(1)], LONG).await);
    conflict(store.put_failsafe(&me, old, &BTreeMap::new(), LONG).await);
    conflict(store.put_initialize(&me, old, SYSTEM, LONG).await);
    conflict(store.put_sync(&me, old, &SyncState::default(), 0, LONG).await);
    rig.write("sync", b"{}").await;
    let version = snapshot(&store).await.sync.expect("a state").version;
    conflict(store.delete_sync(&me, old, version, LONG).await);
    let after = snapshot(&store).await;
    assert!(after.sync.is_some());
    assert_eq!(tenure::model::Cluster { sync: None, ..after }, before);
}

async fn a_configuration_is_replaced_only_in_the_version_that_was_read(rig: Rig) {
    let store = rig.store();
    let first = store.put_config(&json!({"ttl": 10}), Expect::Version(0), LONG).await.expect("there is none");
    conflict(store.put_config(&json!({"ttl": 20}), Expect::Version(0), LONG).await);
    let second =
        store.put_config(&json!({"ttl": 20}), Expect::Version(first), LONG).await.expect("it was read");
    conflict(store.put_config(&json!({"ttl": 30}), Expect::Version(first), LONG).await);
    // The second answer may have been lost: what we want stands there.
    let again = store.put_config(&json!({"ttl": 20}), Expect::Version(first), LONG).await;
    assert_eq!(again.expect("it stands as we want it"), second);
    let config = snapshot(&store).await.config.expect("a configuration");
    assert_eq!(config, Versioned { value: json!({"ttl": 20}), version: second });
    store.put_config(&json!({"ttl": 40}), Expect::Anything, LONG).await.expect("anything goes");
}

async fn the_synchronous_state_is_replaced_only_in_the_version_that_was_read(rig: Rig) {
    let (store, me) = (rig.store(), name("turku"));
    let ours = session(&store, LIFE).await;
    let term = store.take_lease(ours, &me, None, LONG).await.expect("nobody leads");
    let with =
        |standby: &str| SyncState { leader: Some(me.clone()), quorum: 0, standbys: vec![name(standby)] };
    let first = store.put_sync(&me, term, &with("oulu"), 0, LONG).await.expect("there is none");
    conflict(store.put_sync(&me, term, &with("vaasa"), 0, LONG).await);
    let second = store.put_sync(&me, term, &with("vaasa"), first, LONG).await.expect("it was read");
    assert_eq!(store.put_sync(&me, term, &with("vaasa"), first, LONG).await.expect("it stands"), second);
    conflict(store.delete_sync(&me, term, first, LONG).await);
    assert_eq!(snapshot(&store).await.sync, Some(Versioned { value: with("vaasa"), version: second }));
    store.delete_sync(&me, term, second, LONG).await.expect("it was read");
    store.delete_sync(&me, term, second, LONG).await.expect("twice is as good");
    assert_eq!(snapshot(&store).await.sync, None);
}

async fn one_wish_for_another_leader_stands_at_a_time(rig: Rig) {
    let store = rig.store();
    let wish = |candidate: &str| FailoverRequest {
        leader: Some(name("turku")),
        candidate: Some(name(candidate)),
        ..FailoverRequest::default()
    };
    let first = store.request_failover(&wish("oulu"), None, LONG).await.expect("nobody has asked");
    conflict(store.request_failover(&wish("vaasa"), None, LONG).await);
    let second = store.request_failover(&wish("vaasa"), Some(first), LONG).await.expect("it was read");
    conflict(store.clear_failover(first, LONG).await);
    store.clear_failover(second, LONG).await.expect("it was read");
    store.clear_failover(second, LONG).await.expect("twice is as good");
    assert_eq!(snapshot(&store).await.failover, None);
    store.request_failover(&wish("oulu"), None, LONG).await.expect("nobody asks any more");
    rig.write("failover", br#"{ "leader": null }"#).await;
    store.request_failover(&wish("oulu"), None, LONG).await.expect("nobody asks for anything");
    rig.write("failover", br#"{"member": 5}"#).await;
    conflict(store.request_failover(&wish("oulu"), None, LONG).await);
}

async fn values_that_no_one_of_ours_wrote_are_survived(rig: Rig) {
    let store = rig.store();
    let mut watch = store.watch();
    let keys = [
        "initialize",
        "leader",
        "members/turku",
        "members/",
        "config",
        "status",
        "optime/leader",
        "failover",
        "sync",
        "history",
        "failsafe",
        "claim",
        "intents",
        "successions",
        "0/leader",
        "unheard/of",
    ];
    for value in [&b"{"[..], b"[]", b"{\"leader\":5,\"timeline\":0}", b"1e999", b"\xff\xfe"] {
        for key in keys {
            rig.write(key, value).await;
        }
    }
    rig.write("members/oulu", br#"{"conn_url":"postgres://oulu/"}"#).await;
    let seen = until(&mut watch, |cluster| cluster.members.contains_key("oulu")).await;
    assert_eq!(seen.initialize, Initialize::Unrecognized);
    assert_eq!((&seen.leader, &seen.config, &seen.claim), (&None, &None, &None));
}

async fn a_watch_tells_of_changes_here_and_of_none_elsewhere(rig: Rig) {
    let (store, other, similar) = (rig.store(), rig.store(), rig.store_of("batman2"));
    let mut watch = store.watch();
    until(&mut watch, |_| true).await;
    let theirs = session(&similar, LIFE).await;
    similar.take_lease(theirs, &name("joker"), None, LONG).await.expect("nobody leads there");
    let ours = session(&other, LIFE).await;
    let term = other.take_lease(ours, &name("turku"), None, LONG).await.expect("nobody leads here");
    match watch.next().await {
        StoreEvent::Snapshot { cluster, revision } => {
            assert_eq!(cluster.leader_name(), Some(&name("turku")));
            assert!(term.0 <= u64::try_from(revision).expect("revisions are positive"));
        }
        StoreEvent::Silent { error } => panic!("{error}"),
    }
    other.release_lease(&name("turku"), term, None, false, LONG).await.expect("it is ours");
    until(&mut watch, |cluster| cluster.leader.is_none()).await;
    other.put_config(&json!({"ttl": 10}), Expect::Anything, LONG).await.expect("anything goes");
    other.put_config(&json!({"ttl": 20}), Expect::Anything, LONG).await.expect("anything goes");
    until(&mut watch, |cluster| {
        cluster.config.as_ref().is_some_and(|config| config.value == json!({"ttl": 20}))
    })
    .await;
}

async fn a_silent_store_is_noticed_and_so_is_its_return(rig: Rig) {
    let store = rig.store();
    let mut watch = store.watch();
    until(&mut watch, |_| true).await;
    for _ in 0..2 {
        rig.freeze();
        until_silent(&mut watch).await;
        rig.thaw();
        until(&mut watch, |_| true).await;
    }
    store.put_config(&json!({"ttl": 20}), Expect::Anything, LONG).await.expect("anything goes");
    until(&mut watch, |cluster| cluster.config.is_some()).await;
}

async fn a_lease_whose_answer_was_lost_is_found_to_be_ours(rig: Rig) {
    let (store, me) = (rig.store(), name("turku"));
    let ours = session(&store, LIFE).await;
    rig.lose_answers();
    unanswered(store.take_lease(ours, &me, Some(claim(2, 0)), SHORT).await);
    rig.carry_answers();
    let term = store.take_lease(ours, &me, Some(claim(2, 0)), LONG).await.expect("it is ours");
    let leader = snapshot(&store).await.leader.expect("somebody leads");
    assert_eq!((leader.term, leader.session), (term, Some(ours)));
    store.renew(ours, &me, Some(term), LONG).await.expect("it is ours");
    rig.lose_answers();
    unanswered(store.release_lease(&me, term, Some(&status(5)), false, SHORT).await);
    rig.carry_answers();
    store.release_lease(&me, term, Some(&status(5)), false, LONG).await.expect("it is not ours any more");
    let cluster = snapshot(&store).await;
    assert_eq!((cluster.leader, cluster.status), (None, status(5)));
}

async fn a_silent_store_answers_no_call(rig: Rig) {
    let (store, me) = (rig.store(), name("turku"));
    let ours = session(&store, LIFE).await;
    let term = store.take_lease(ours, &me, None, LONG).await.expect("nobody leads");
    rig.freeze();
    unanswered(store.renew(ours, &me, Some(term), SHORT).await);
    unanswered(store.take_lease(ours, &me, None, SHORT).await);
    unanswered(store.snapshot(SHORT).await);
    unanswered(store.open_session(Span::from_secs(10), SHORT).await);
    rig.thaw();
    store.renew(ours, &me, Some(term), LONG).await.expect("it is ours");
}

async fn clusters_are_listed_and_removed(rig: Rig) {
    let (batman, robin) = (rig.store(), rig.store_of("robin"));
    batman.put_config(&json!({}), Expect::Anything, LONG).await.expect("anything goes");
    robin.put_config(&json!({}), Expect::Anything, LONG).await.expect("anything goes");
    let listed = |store: tenure::store::Store| async move {
        let scopes = store.clusters(LONG).await.expect("the store answers");
        scopes.into_iter().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(listed(batman.clone()).await, "batman robin");
    batman.remove_cluster(LONG).await.expect("anything goes");
    assert_eq!(listed(batman.clone()).await, "robin");
    assert!(snapshot(&robin).await.config.is_some());
}

async fn whoever_shows_a_cluster_gets_its_keys_word_for_word(rig: Rig) {
    let store = rig.store();
    rig.store_of("batman2").put_config(&json!({}), Expect::Anything, LONG).await.expect("anything goes");
    rig.write("members/turku", b"{\"state\":\"levitating\"}").await;
    rig.write("history", b"\xff").await;
    let entries = store.entries(LONG).await.expect("an answer");
    let told: Vec<(&str, &[u8])> =
        entries.iter().map(|entry| (entry.path.as_str(), entry.value.as_slice())).collect();
    let member = ("/service/batman/members/turku", &b"{\"state\":\"levitating\"}"[..]);
    assert_eq!(told, [("/service/batman/history", &b"\xff"[..]), member]);
    assert!(entries.iter().all(|entry| 0 < entry.version));
}
