//! etcd's own troubles: servers that die, freeze, restart, forget old revisions, and want to be shown who asks.

use std::time::Duration;

use etcd_client::{CompactionOptions, Permission};
use serde_json::json;
use tempfile::TempDir;
use tenure::model::Span;
use tenure::store::{AdapterSettings, EtcdSettings, Expect, Store, StoreEvent};

use crate::etcd_server::{Certificates, Etcd};
use crate::proxy::{Proxy, Wire};
use crate::rig::*;

/// What a renewal that is due every second can afford.
const TIGHT: Duration = Duration::from_secs(4);

fn at(endpoints: Vec<String>) -> Store {
    store(AdapterSettings::Etcd(EtcdSettings { endpoints, ..EtcdSettings::default() }), "batman")
}

async fn configure(store: &Store, ttl: u32) {
    store.put_config(&json!({ "ttl": ttl }), Expect::Anything, LONG).await.expect("anything goes");
}

async fn until_configured(watch: &mut tenure::store::Watch, ttl: u32) {
    let wanted = json!({ "ttl": ttl });
    until(watch, |cluster| cluster.config.as_ref().is_some_and(|config| config.value == wanted)).await;
}

#[tokio::test]
async fn a_frozen_server_costs_a_call_only_its_share() {
    let etcd = Etcd::three().await;
    let (store, me) = (at(etcd.endpoints()), name("turku"));
    let ours = session(&store, LIFE).await;
    let term = store.take_lease(ours, &me, None, LONG).await.expect("nobody leads");
    let mut watch = store.watch();
    until(&mut watch, |cluster| cluster.leader.is_some()).await;

    // The one that all of this goes to.
    etcd.servers[0].freeze();
    let renewed = tokio::time::timeout(LONG, async {
        // A frozen leader of etcd is replaced first, and until then nobody can answer.
        while store.renew(ours, &me, Some(term), TIGHT).await.is_err() {}
    });
    renewed.await.expect("the other two are a majority");
    store.renew(ours, &me, Some(term), TIGHT).await.expect("whoever answered is asked first");
    configure(&store, 20).await;
    until_configured(&mut watch, 20).await;
    etcd.servers[0].thaw();
    etcd.healthy().await;
    assert_eq!(snapshot(&store).await.leader.expect("a leader").term, term);
}

#[tokio::test]
async fn a_dead_leader_of_etcd_costs_neither_the_lease_nor_the_watch() {
    let mut etcd = Etcd::three().await;
    let leader = etcd.leader().await;
    let mut endpoints = etcd.endpoints();
    endpoints.rotate_left(leader);
    let (store, me) = (at(endpoints), name("turku"));
    let ours = session(&store, Span::from_secs(10)).await;
    let term = store.take_lease(ours, &me, Some(claim(2, 0)), LONG).await.expect("nobody leads");
    let mut watch = store.watch();
    until(&mut watch, |cluster| cluster.leader.is_some()).await;
    etcd.servers[leader].kill();
    let until_renewed = tokio::time::timeout(LONG, async {
        while store.renew(ours, &me, Some(term), TIGHT).await.is_err() {}
    });
    until_renewed.await.expect("the other two elect a leader");
    configure(&store, 20).await;
    until_configured(&mut watch, 20).await;
    etcd.servers[leader].start();
    etcd.healthy().await;
    assert_eq!(snapshot(&store).await.leader.expect("a leader").term, term);
}

#[tokio::test]
async fn a_minority_answers_nothing() {
    let mut etcd = Etcd::three().await;
    let (store, me) = (at(etcd.endpoints()), name("turku"));
    let ours = session(&store, LIFE).await;
    let term = store.take_lease(ours, &me, None, LONG).await.expect("nobody leads");
    let mut watch = store.watch();
    until(&mut watch, |cluster| cluster.leader.is_some()).await;
    etcd.servers[1].kill();
    etcd.servers[2].kill();
    unanswered(store.renew(ours, &me, Some(term), SHORT).await);
    unanswered(store.release_lease(&me, term, None, false, SHORT).await);
    until_silent(&mut watch).await;
    etcd.servers[1].start();
    until(&mut watch, |_| true).await;
}

#[tokio::test]
async fn a_server_that_was_killed_and_started_again_is_found_with_all_it_knew() {
    let mut etcd = Etcd::single().await;
    let (store, me) = (at(etcd.endpoints()), name("turku"));
    let ours = session(&store, LIFE).await;
    let term = store.take_lease(ours, &me, None, LONG).await.expect("nobody leads");
    store.put_member(ours, &me, &record("turku"), LONG).await.expect("the session lives");
    let mut watch = store.watch();
    let before = until(&mut watch, |cluster| !cluster.members.is_empty()).await;
    etcd.servers[0].kill();
    until_silent(&mut watch).await;
    unanswered(store.renew(ours, &me, Some(term), SHORT).await);
    etcd.servers[0].start();
    store.renew(ours, &me, Some(term), LONG).await.expect("etcd has not forgotten");
    assert_eq!(until(&mut watch, |_| true).await, before);
    configure(&store, 20).await;
    until_configured(&mut watch, 20).await;
}

#[tokio::test]
async fn whoever_watches_before_etcd_is_there_is_told_so_and_sees_it_come() {
    let mut etcd = Etcd::single().await;
    etcd.servers[0].kill();
    let mut watch = at(etcd.endpoints()).watch();
    match watch.next().await {
        StoreEvent::Silent { error } => unanswered(Err::<(), _>(error)),
        StoreEvent::Snapshot { cluster, .. } => panic!("{cluster:?}"),
    }
    etcd.servers[0].start();
    until(&mut watch, |_| true).await;
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_elsewhere() {
    let etcd = Etcd::three().await;
    let wire = Proxy::to(&etcd.servers[0].endpoint).await;
    let (store, me) = (at(vec![wire.address.to_string(), etcd.servers[1].endpoint.clone()]), name("turku"));
    let ours = session(&store, LIFE).await;
    wire.set(Wire::Mute);
    let term = store.take_lease(ours, &me, Some(claim(2, 0)), TIGHT).await.expect("it is ours either way");
    let cluster = snapshot(&store).await;
    assert_eq!(cluster.leader.expect("a leader").term, term);
    store.renew(ours, &me, Some(term), LONG).await.expect("it is ours");
    configure(&store, 20).await;
}

#[tokio::test]
async fn a_watch_goes_on_although_what_it_missed_was_compacted() {
    let etcd = Etcd::single().await;
    let wire = Proxy::to(&etcd.servers[0].endpoint).await;
    let (direct, far) = (at(etcd.endpoints()), at(vec![wire.address.to_string()]));
    configure(&direct, 10).await;
    let mut watch = far.watch();
    until_configured(&mut watch, 10).await;
    wire.set(Wire::Cut);
    for ttl in 11..30 {
        configure(&direct, ttl).await;
    }
    let mut client = etcd.client().await;
    let revision = client.get("x", None).await.expect("etcd answers").header().expect("a header").revision();
    let physical = Some(CompactionOptions::new().with_physical());
    client.compact(revision, physical).await.expect("etcd compacts");
    wire.set(Wire::Open);
    until_configured(&mut watch, 29).await;
    configure(&direct, 30).await;
    until_configured(&mut watch, 30).await;
}

#[tokio::test]
async fn snapshots_never_go_back_while_servers_come_and_go() {
    let etcd = Etcd::three().await;
    let (store, writer) = (at(etcd.endpoints()), at(vec![etcd.servers[2].endpoint.clone()]));
    let mut watch = store.watch();
    let (mut last, mut ttl) = (0, 10);
    for frozen in [0, 1, 0] {
        etcd.servers[frozen].freeze();
        ttl += 1;
        configure(&writer, ttl).await;
        let wanted = json!({ "ttl": ttl });
        let looked = tokio::time::timeout(LONG, async {
            loop {
                if let StoreEvent::Snapshot { cluster, revision } = watch.next().await {
                    assert!(last <= revision, "{last} {revision}");
                    last = revision;
                    if cluster.config.as_ref().is_some_and(|config| config.value == wanted) {
                        return;
                    }
                }
            }
        });
        looked.await.expect("it is seen in time");
        etcd.servers[frozen].thaw();
        etcd.healthy().await;
    }
}

#[tokio::test]
async fn servers_of_two_etcd_clusters_are_never_mixed() {
    let (ours, foreign) = (Etcd::single().await, Etcd::single().await);
    let store = at(vec![ours.servers[0].endpoint.clone(), foreign.servers[0].endpoint.clone()]);
    configure(&store, 10).await;
    ours.servers[0].freeze();
    let refusal =
        store.put_config(&json!({}), Expect::Anything, SHORT).await.expect_err("nobody of ours answers");
    let cause = std::error::Error::source(&refusal).expect("a cause").to_string();
    assert!(cause.contains("another etcd cluster"), "{cause}");
    unanswered(Err::<(), _>(refusal));
    assert_eq!(snapshot(&at(foreign.endpoints())).await.config, None);
}

#[tokio::test]
async fn a_thread_with_a_runtime_of_its_own_renews_while_another_is_stuck() {
    let etcd = Etcd::single().await;
    let (store, me) = (at(etcd.endpoints()), name("turku"));
    let ours = session(&store, LIFE).await;
    let term = store.take_lease(ours, &me, None, LONG).await.expect("nobody leads");
    let own = at(etcd.endpoints());
    let keeper = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(own.renew(ours, &name("turku"), Some(term), LONG))
    });
    // This blocks the only thread of this test's runtime.
    let renewed = keeper.join().expect("the keeper does not panic");
    assert_eq!(renewed.expect("it is ours"), LIFE);
}

#[tokio::test]
async fn etcd_with_certificates_talks_to_those_who_have_one() {
    let files = TempDir::new().expect("a temporary directory");
    let certificates = Certificates::make(files.path(), "ours");
    let strangers = Certificates::make(files.path(), "strangers");
    let etcd = Etcd::encrypted(&certificates).await;
    let with = |ca: &Certificates, identity: Option<&Certificates>| {
        let settings = EtcdSettings {
            endpoints: etcd.endpoints(),
            cacert: Some(ca.ca.clone()),
            cert: identity.map(|files| files.cert.clone()),
            key: identity.map(|files| files.key.clone()),
            ..EtcdSettings::default()
        };
        store(AdapterSettings::Etcd(settings), "batman")
    };
    let (store, me) = (with(&certificates, Some(&certificates)), name("turku"));
    let ours = session(&store, LIFE).await;
    let term = store.take_lease(ours, &me, None, LONG).await.expect("nobody leads");
    store.renew(ours, &me, Some(term), LONG).await.expect("it is ours");
    until(&mut store.watch(), |cluster| cluster.leader.is_some()).await;

    unanswered(with(&certificates, None).snapshot(SHORT).await);
    unanswered(with(&certificates, Some(&strangers)).snapshot(SHORT).await);
    let distrust =
        with(&strangers, Some(&certificates)).snapshot(SHORT).await.expect_err("whom do we talk to?");
    let cause = std::error::Error::source(&distrust).expect("a cause").to_string();
    assert!(cause.contains("certificate"), "{cause}");
    let mut missing = certificates.clone();
    missing.ca = files.path().join("missing.pem");
    refused(with(&missing, None).snapshot(SHORT).await);
}

#[tokio::test]
async fn a_token_that_has_become_invalid_is_replaced_in_every_call() {
    let mut etcd = Etcd::single().await;
    let mut root = with_users(&etcd).await;
    let (store, me) = (as_user(&etcd, "agent", "secret"), name("turku"));
    let ours = session(&store, LIFE).await;
    let term = store.take_lease(ours, &me, None, LONG).await.expect("nobody leads");
    let mut watch = store.watch();
    until(&mut watch, |cluster| cluster.leader.is_some()).await;

    // Changing a password ends all tokens of its user, and makes what is in flight old.
    let mut invalidate = async || {
        root.user_change_password("agent", "secret").await.expect("root may");
    };
    invalidate().await;
    store.renew(ours, &me, Some(term), LONG).await.expect("it is ours");
    invalidate().await;
    configure(&store, 20).await;
    until_configured(&mut watch, 20).await;
    invalidate().await;
    store.put_member(ours, &me, &record("turku"), LONG).await.expect("the session lives");
    invalidate().await;
    assert!(snapshot(&store).await.leader.is_some());
    invalidate().await;
    session(&store, LIFE).await;

    // A server forgets all tokens when it is started again.
    etcd.servers[0].kill();
    until_silent(&mut watch).await;
    etcd.servers[0].start();
    store.renew(ours, &me, Some(term), LONG).await.expect("it is ours");
    configure(&store, 30).await;
    until_configured(&mut watch, 30).await;
    store.close_session(ours, LONG).await.expect("it is ours");
}

#[tokio::test]
async fn etcd_with_users_refuses_strangers_and_what_a_user_may_not_do() {
    let etcd = Etcd::single().await;
    let _root = with_users(&etcd).await;
    refused(as_user(&etcd, "agent", "wrong").snapshot(LONG).await);
    refused(as_user(&etcd, "nobody", "secret").snapshot(LONG).await);
    refused(at(etcd.endpoints()).snapshot(LONG).await);
    let elsewhere = EtcdSettings {
        endpoints: etcd.endpoints(),
        username: Some("agent".to_owned()),
        password: Some("secret".to_owned()),
        ..EtcdSettings::default()
    };
    let elsewhere = store(AdapterSettings::Etcd(elsewhere), "robin");
    refused(elsewhere.put_config(&json!({}), Expect::Anything, LONG).await);
    configure(&as_user(&etcd, "agent", "secret"), 20).await;
}

#[tokio::test]
async fn a_password_where_none_is_wanted_does_no_harm() {
    let etcd = Etcd::single().await;
    configure(&as_user(&etcd, "agent", "secret"), 20).await;
}

fn as_user(etcd: &Etcd, user: &str, password: &str) -> Store {
    let settings = EtcdSettings {
        endpoints: etcd.endpoints(),
        username: Some(user.to_owned()),
        password: Some(password.to_owned()),
        ..EtcdSettings::default()
    };
    store(AdapterSettings::Etcd(settings), "batman")
}

/// From now on only `root` and `agent` may do anything, and `agent` only in its own cluster's place.
async fn with_users(etcd: &Etcd) -> etcd_client::Client {
    let mut client = etcd.client().await;
    client.role_add("batman").await.expect("no role yet");
    let place = Permission::read_write("/service/batman/").with_prefix();
    client.role_grant_permission("batman", place).await.expect("there is the role");
    for (user, role) in [("root", "root"), ("agent", "batman")] {
        client.user_add(user, "secret", None).await.expect("no user yet");
        client.user_grant_role(user, role).await.expect("there is the role");
    }
    client.auth_enable().await.expect("there is a root");
    client.update_user(Some(("root".to_owned(), "secret".to_owned()))).await.expect("the right password");
    client
}
