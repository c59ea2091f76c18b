//! ZooKeeper's own troubles: servers that die, freeze, lag, lose their leader, and want to be shown who asks; sessions that
//! belong to one connection at a time, and that nothing may keep alive but their keeper.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use tenure::clock;
use tenure::model::{Secret, SessionId, Span, Term};
use tenure::store::zookeeper::{Acl, TlsSettings};
use tenure::store::{AdapterSettings, Expect, Store, StoreEvent, StoreSettings, ZookeeperSettings};

use crate::etcd_server::Certificates;
use crate::proxy::{Proxy, Wire};
use crate::rig::*;
use crate::zookeeper_server::{Setup, Zookeeper, access_list, delete, put};

/// What a renewal that is due every second can afford.
const TIGHT: Duration = Duration::from_secs(4);

fn settings(hosts: Vec<String>) -> ZookeeperSettings {
    ZookeeperSettings { hosts, ..ZookeeperSettings::default() }
}

fn at(hosts: Vec<String>) -> Store {
    store(AdapterSettings::Zookeeper(settings(hosts)), "batman")
}

async fn configure(store: &Store, ttl: u32) {
    store.put_config(&json!({ "ttl": ttl }), Expect::Anything, LONG).await.expect("anything goes");
}

async fn until_configured(watch: &mut tenure::store::Watch, ttl: u32) {
    let wanted = json!({ "ttl": ttl });
    until(watch, |cluster| cluster.config.as_ref().is_some_and(|config| config.value == wanted)).await;
}

async fn until_renewed(store: &Store, ours: SessionId, term: Term) {
    let renewed = tokio::time::timeout(LONG, async {
        while store.renew(ours, &name("turku"), Some(term), TIGHT).await.is_err() {}
    });
    renewed.await.expect("a majority is there");
}

#[tokio::test]
async fn frozen_killed_and_restarted_servers_cost_neither_the_lease_nor_the_watch() {
    let mut zookeeper = Zookeeper::three().await;
    let (store, me) = (at(zookeeper.endpoints()), name("turku"));
    let ours = session(&store, Span::from_secs(30)).await;
    let term = store.take_lease(ours, &me, Some(claim(2, 0)), LONG).await.expect("nobody leads");
    let mut watch = store.watch();
    until(&mut watch, |cluster| cluster.leader.is_some()).await;

    // The one that all of this goes to, whatever it is among the servers.
    zookeeper.servers[0].freeze();
    until_renewed(&store, ours, term).await;
    configure(&store, 20).await;
    until_configured(&mut watch, 20).await;
    zookeeper.servers[0].thaw();
    zookeeper.healthy().await;

    // A new leader among the servers gives every session its whole time again.
    let leader = zookeeper.leader();
    zookeeper.servers[leader].kill();
    until_renewed(&store, ours, term).await;
    configure(&store, 21).await;
    until_configured(&mut watch, 21).await;
    zookeeper.servers[leader].start();
    zookeeper.healthy().await;
    assert_eq!(snapshot(&store).await.leader.expect("a leader").term, term);
}

#[tokio::test]
async fn a_minority_answers_nothing() {
    let mut zookeeper = Zookeeper::three().await;
    // Whom we speak to is the one that will be left.
    let alone = zookeeper.leader();
    let mut endpoints = zookeeper.endpoints();
    endpoints.rotate_left(alone);
    let (store, me) = (at(endpoints), name("turku"));
    let ours = session(&store, LIFE).await;
    let term = store.take_lease(ours, &me, None, LONG).await.expect("nobody leads");
    store.renew(ours, &me, Some(term), LONG).await.expect("it is ours");
    let mut watch = store.watch();
    until(&mut watch, |cluster| cluster.leader.is_some()).await;
    // Frozen and not killed: nobody tells it.
    let lost: Vec<usize> = (0..3).filter(|server| *server != alone).collect();
    for server in &lost {
        zookeeper.servers[*server].freeze();
    }
    // It takes itself for the leader for some time yet, and answers reads; a lease needs more.
    unanswered(store.renew(ours, &me, Some(term), SHORT).await);
    unanswered(store.release_lease(&me, term, None, false, SHORT).await);
    until_silent(&mut watch).await;
    for server in &lost {
        zookeeper.servers[*server].thaw();
    }
    zookeeper.healthy().await;
    until(&mut watch, |_| true).await;
    zookeeper.servers[lost[0]].kill();
    until_renewed_or_released(&store, ours, term).await;
}

/// The release that nobody answered may have happened.
async fn until_renewed_or_released(store: &Store, ours: SessionId, term: Term) {
    let looked = tokio::time::timeout(LONG, async {
        loop {
            match store.renew(ours, &name("turku"), Some(term), TIGHT).await {
                Ok(_) | Err(tenure::store::StoreError::Conflict { .. }) => return,
                Err(_) => {}
            }
        }
    });
    looked.await.expect("two are a majority");
}

#[tokio::test]
async fn a_server_that_was_killed_and_started_again_is_found_with_all_it_knew() {
    let mut zookeeper = Zookeeper::single().await;
    let (store, me) = (at(zookeeper.endpoints()), name("turku"));
    let ours = session(&store, LIFE).await;
    let term = store.take_lease(ours, &me, None, LONG).await.expect("nobody leads");
    store.put_member(ours, &me, &record("turku"), LONG).await.expect("the session lives");
    let mut watch = store.watch();
    let before = until(&mut watch, |cluster| !cluster.members.is_empty()).await;
    zookeeper.servers[0].kill();
    until_silent(&mut watch).await;
    unanswered(store.renew(ours, &me, Some(term), SHORT).await);
    zookeeper.servers[0].start();
    store.renew(ours, &me, Some(term), LONG).await.expect("ZooKeeper has not forgotten");
    assert_eq!(until(&mut watch, |_| true).await, before);
    configure(&store, 20).await;
    until_configured(&mut watch, 20).await;
}

#[tokio::test]
async fn whoever_watches_before_zookeeper_is_there_is_told_so_and_sees_it_come() {
    let mut zookeeper = Zookeeper::single().await;
    zookeeper.servers[0].kill();
    let mut watch = at(zookeeper.endpoints()).watch();
    match watch.next().await {
        StoreEvent::Silent { error } => unanswered(Err::<(), _>(error)),
        StoreEvent::Snapshot { cluster, .. } => panic!("{cluster:?}"),
    }
    zookeeper.servers[0].start();
    until(&mut watch, |_| true).await;
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_elsewhere() {
    let zookeeper = Zookeeper::three().await;
    let wire = Proxy::to(&zookeeper.servers[0].endpoint).await;
    let store = at(vec![wire.address.to_string(), zookeeper.servers[1].endpoint.clone()]);
    let me = name("turku");
    let ours = session(&store, LIFE).await;
    wire.set(Wire::Mute);
    let term = store.take_lease(ours, &me, Some(claim(2, 0)), TIGHT).await.expect("it is ours either way");
    assert_eq!(snapshot(&store).await.leader.expect("a leader").term, term);
    store.renew(ours, &me, Some(term), LONG).await.expect("it is ours");
    configure(&store, 20).await;
}

#[tokio::test]
async fn nothing_keeps_a_session_alive_but_renewals() {
    let zookeeper = Zookeeper::single().await;
    let shared = settings(zookeeper.endpoints());
    let of = |settings: &ZookeeperSettings| store(AdapterSettings::Zookeeper(settings.clone()), "batman");
    let (keeper, publisher, me) = (of(&shared), of(&shared), name("turku"));
    let mut watch = at(zookeeper.endpoints()).watch();
    let ours = session(&keeper, TTL).await;
    publisher.take_lease(ours, &me, None, LONG).await.expect("nobody leads");
    until(&mut watch, |cluster| cluster.leader.is_some()).await;

    // An open connection that says nothing is no sign of life.
    until(&mut watch, |cluster| cluster.leader.is_none()).await;

    // And once the keeper may not renew, nobody else's writes are signs of life either.
    let ours = session(&keeper, TTL).await;
    publisher.take_lease(ours, &me, None, LONG).await.expect("nobody leads");
    until(&mut watch, |cluster| cluster.leader.is_some()).await;
    keeper.let_lapse(ours);
    let busy = async {
        loop {
            unanswered(publisher.put_member(ours, &me, &record("turku"), Duration::from_millis(200)).await);
        }
    };
    tokio::select! {
        () = busy => {}
        _ = until(&mut watch, |cluster| cluster.leader.is_none()) => {}
    }
}

#[tokio::test]
async fn a_session_that_lapsed_only_briefly_goes_on() {
    let zookeeper = Zookeeper::single().await;
    let shared = settings(zookeeper.endpoints());
    let of = || store(AdapterSettings::Zookeeper(shared.clone()), "batman");
    let (keeper, publisher, me) = (of(), of(), name("turku"));
    let ours = session(&keeper, LIFE).await;
    let term = publisher.take_lease(ours, &me, None, LONG).await.expect("nobody leads");
    keeper.let_lapse(ours);
    let said = record("turku");
    let (written, renewed) =
        tokio::join!(publisher.put_member(ours, &me, &said, LONG), keeper.renew(ours, &me, Some(term), LONG));
    written.expect("it waits for the connection");
    whole_life(renewed.expect("it is ours"));
}

#[tokio::test]
async fn the_next_life_of_an_agent_goes_on_with_the_session_if_it_knows_the_secret() {
    let zookeeper = Zookeeper::single().await;
    let fresh = || StoreSettings {
        namespace: "service".to_owned(),
        scope: "batman".to_owned(),
        adapter: AdapterSettings::Zookeeper(settings(zookeeper.endpoints())),
    };
    let (first, me) = (fresh(), name("turku"));
    let store = Store::connect(&first);
    let ours = session(&store, LIFE).await;
    let term = store.take_lease(ours, &me, None, LONG).await.expect("nobody leads");
    let secret = first.session_secret(ours).expect("it is ours");
    assert!(!format!("{first:?}").contains(secret.reveal().split(':').nth(1).expect("a password")));

    let next = fresh();
    next.adopt_session(ours, &secret);
    let next_life = Store::connect(&next);
    whole_life(next_life.renew(ours, &me, Some(term), LONG).await.expect("it is ours"));
    // The session has moved: what the first life still had under way is not done.
    unanswered(store.put_member(ours, &me, &record("turku"), Duration::ZERO).await);
    whole_life(next_life.renew(ours, &me, Some(term), LONG).await.expect("it is ours"));

    let wrong = fresh();
    wrong.adopt_session(ours, &Secret::new("600000:00112233445566778899aabbccddeeff"));
    gone(Store::connect(&wrong).renew(ours, &me, Some(term), LONG).await);
    gone(Store::connect(&fresh()).renew(ours, &me, Some(term), LONG).await);
}

#[tokio::test]
async fn a_thread_with_a_runtime_of_its_own_renews_while_another_is_stuck() {
    let zookeeper = Zookeeper::single().await;
    let shared = settings(zookeeper.endpoints());
    let of = |settings: &ZookeeperSettings| store(AdapterSettings::Zookeeper(settings.clone()), "batman");
    let (store, me) = (of(&shared), name("turku"));
    let ours = session(&store, LIFE).await;
    let term = store.take_lease(ours, &me, None, LONG).await.expect("nobody leads");
    let own = of(&shared);
    let keeper = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(own.renew(ours, &name("turku"), Some(term), LONG))
    });
    // This blocks the only thread of this test's runtime.
    let renewed = keeper.join().expect("the keeper does not panic");
    whole_life(renewed.expect("it is ours"));
}

#[tokio::test]
async fn a_lease_is_granted_from_the_last_word_that_certainly_counts() {
    let zookeeper = Zookeeper::single().await;
    let (store, me) = (at(zookeeper.endpoints()), name("turku"));
    let ttl = Span::from_secs(20);
    let ours = session(&store, ttl).await;
    let term = store.take_lease(ours, &me, None, LONG).await.expect("nobody leads");
    let until = clock::now() + Span::from_secs(4);
    let mut shortest = ttl;
    while clock::now() < until {
        let granted = store.renew(ours, &me, Some(term), LONG).await.expect("it is ours");
        shortest = shortest.min(granted);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // A quarter, and the second that is allowed for at the least; what is older than that is never built upon.
    assert!(ttl.minus(Span::from_secs(6)) <= shortest && shortest < ttl, "{shortest}");
}

#[tokio::test]
async fn the_server_decides_how_short_and_how_long_a_session_is() {
    let lines = vec!["minSessionTimeout=3000".to_owned(), "maxSessionTimeout=8000".to_owned()];
    let zookeeper = Zookeeper::start(&Setup { servers: 1, lines, ..Setup::default() }).await;
    let store = at(zookeeper.endpoints());
    let limits = store.session_limits(LONG).await.expect("it is asked for");
    assert_eq!((limits.shortest, limits.longest), (Span::from_secs(3), Some(Span::from_secs(8))));
    for (asked, granted) in [(1, 3), (5, 5), (60, 8)] {
        let opened = store.open_session(Span::from_secs(asked), LONG).await.expect("a session is granted");
        assert_eq!(opened.ttl, Span::from_secs(granted), "{asked}");
        let me = name("turku");
        let renewed = store.renew(opened.id, &me, None, LONG).await.expect("it lives");
        assert!(renewed <= Span::from_secs(granted), "{asked}");
    }
}

#[tokio::test]
async fn a_leader_key_that_somebody_else_has_made_anew_is_never_taken_for_ours() {
    let zookeeper = Zookeeper::single().await;
    let (store, me) = (at(zookeeper.endpoints()), name("turku"));
    let ours = session(&store, LIFE).await;
    let term = store.take_lease(ours, &me, Some(claim(2, 0)), LONG).await.expect("nobody leads");
    // By hand, with our own name and the same count of writes.
    let endpoint = &zookeeper.servers[0].endpoint;
    delete(endpoint, "/service/batman/leader");
    put(endpoint, "/service/batman/leader", b"turku");
    conflict(store.renew(ours, &me, Some(term), LONG).await);
    conflict(store.put_status(&me, term, &status(1), LONG).await);
    store.release_lease(&me, term, None, false, LONG).await.expect("it is not ours");
    assert!(snapshot(&store).await.leader.is_some());
}

#[tokio::test]
async fn the_first_version_of_a_znode_is_a_version_like_any_other() {
    let zookeeper = Zookeeper::single().await;
    let store = at(zookeeper.endpoints());
    let first = store.put_config(&json!({"ttl": 10}), Expect::Version(0), LONG).await.expect("there is none");
    put(&zookeeper.servers[0].endpoint, "/service/batman/config", br#"{"ttl": 15}"#);
    conflict(store.put_config(&json!({"ttl": 20}), Expect::Version(first), LONG).await);
}

#[tokio::test]
async fn of_many_who_have_read_the_same_version_one_writes() {
    let zookeeper = Zookeeper::single().await;
    let store = at(zookeeper.endpoints());
    let mut version = store.put_config(&json!({}), Expect::Version(0), LONG).await.expect("there is none");
    for round in 0..10 {
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..8 {
            let own = at(zookeeper.endpoints());
            writers.spawn(async move {
                own.snapshot(LONG).await.expect("an answer");
                own.put_config(&json!({"by": [round, writer]}), Expect::Version(version), LONG).await
            });
        }
        let done: Vec<i64> = writers.join_all().await.into_iter().filter_map(Result::ok).collect();
        assert_eq!(done.len(), 1, "{done:?}");
        version = done[0];
    }
}

#[tokio::test]
async fn snapshots_are_of_one_moment_while_others_write() {
    let zookeeper = Zookeeper::single().await;
    // So many znodes that they cannot all be asked for at once.
    for extra in 0..150 {
        put(&zookeeper.servers[0].endpoint, &format!("/service/batman/extra{extra}"), b"");
    }
    let (store, writer, me) = (at(zookeeper.endpoints()), at(zookeeper.endpoints()), name("turku"));
    let ours = session(&writer, LIFE).await;
    let writing = tokio::spawn(async move {
        let mut version = 0;
        for timeline in 1.. {
            // The lease and the claim change together.
            let term = writer.take_lease(ours, &me, Some(claim(timeline, version)), LONG).await;
            let term = term.expect("nobody leads");
            version = i64::try_from(term.0).expect("a small number");
            // Long enough for a reading to come between, and too short for most not to be disturbed.
            tokio::time::sleep(Duration::from_millis(20)).await;
            writer.release_lease(&me, term, None, false, LONG).await.expect("it is ours");
        }
    });
    let (mut seen, until) = (0, clock::now() + Span::from_secs(60));
    while seen < 40 {
        assert!(clock::now() < until, "only {seen} snapshots");
        // A cluster that does not stand still for a moment is not read at all; that is said.
        let Ok(cluster) = store.snapshot(LONG).await else { continue };
        if let (Some(leader), Some(claim)) = (cluster.leader, cluster.claim) {
            assert_eq!(u64::try_from(claim.version), Ok(leader.term.0));
            seen += 1;
        }
    }
    writing.abort();
}

#[tokio::test]
async fn znodes_hang_on_sessions_lie_below_the_chroot_and_carry_the_access_list() {
    let zookeeper = Zookeeper::single().await;
    let endpoint = &zookeeper.servers[0].endpoint;
    let digest = |password: &str, acl: Vec<Acl>| {
        let hosts = vec![format!("{endpoint}/tenure/here")];
        let credentials = [("digest".to_owned(), Secret::new(format!("agent:{password}")))].into();
        store(AdapterSettings::Zookeeper(ZookeeperSettings { credentials, acl, ..settings(hosts) }), "batman")
    };
    // "auth" is whoever has shown who he is.
    let only_us = vec![Acl { permissions: 31, scheme: "auth".to_owned(), id: String::new() }];
    let (store, me) = (digest("secret", only_us), name("turku"));
    let ours = session(&store, LIFE).await;
    store.take_lease(ours, &me, Some(claim(2, 0)), LONG).await.expect("nobody leads");
    store.put_member(ours, &me, &record("turku"), LONG).await.expect("the session lives");
    let mut watch = store.watch();
    until(&mut watch, |cluster| cluster.leader.is_some() && cluster.claim.is_some()).await;
    assert_eq!(store.clusters(LONG).await.expect("an answer").into_iter().collect::<Vec<_>>(), ["batman"]);
    let list = access_list(endpoint, "/tenure/here/service/batman/leader", "agent:secret");
    assert_eq!(list.len(), 1);
    assert_eq!((list[0].0, list[0].1.as_str()), (31, "digest"));
    assert!(list[0].2.starts_with("agent:") && !list[0].2.contains("secret"), "{list:?}");

    refused(digest("wrong", Vec::new()).snapshot(LONG).await);
    refused(at(vec![format!("{endpoint}/tenure/here")]).put_config(&json!({}), Expect::Anything, LONG).await);
    store.remove_cluster(LONG).await.expect("it is ours");
    until(&mut watch, |cluster| cluster.leader.is_none() && cluster.members.is_empty()).await;
}

#[tokio::test]
async fn zookeeper_with_certificates_talks_to_those_who_have_one() {
    let files = TempDir::new().expect("a temporary directory");
    let certificates = Certificates::make(files.path(), "ours");
    let strangers = Certificates::make(files.path(), "strangers");
    let both = files.path().join("both.pem");
    let read = |path| std::fs::read_to_string(path).expect("our own file");
    std::fs::write(&both, read(&certificates.key) + &read(&certificates.cert)).expect("our own directory");
    let lines = vec![
        format!("ssl.keyStore.location={}", both.display()),
        "ssl.keyStore.type=PEM".to_owned(),
        format!("ssl.trustStore.location={}", certificates.ca.display()),
        "ssl.trustStore.type=PEM".to_owned(),
        "ssl.clientAuth=need".to_owned(),
        // The client's own certificate bears the server's name here.
        "ssl.hostnameVerification=false".to_owned(),
    ];
    let zookeeper = Zookeeper::start(&Setup { servers: 1, lines, encrypted: true }).await;
    let with = |ca: &Certificates, identity: Option<&Certificates>, verify: bool| {
        let tls = TlsSettings {
            cacert: Some(ca.ca.clone()),
            cert: identity.map(|files| files.cert.clone()),
            key: identity.map(|files| files.key.clone()),
            key_password: Some(Secret::new("of the key")),
            verify,
        };
        let settings = ZookeeperSettings { tls: Some(tls), ..settings(zookeeper.endpoints()) };
        store(AdapterSettings::Zookeeper(settings), "batman")
    };
    let (store, me) = (with(&certificates, Some(&certificates), true), name("turku"));
    let ours = session(&store, LIFE).await;
    let term = store.take_lease(ours, &me, None, LONG).await.expect("nobody leads");
    store.renew(ours, &me, Some(term), LONG).await.expect("it is ours");
    until(&mut store.watch(), |cluster| cluster.leader.is_some()).await;

    unanswered(with(&certificates, None, true).snapshot(SHORT).await);
    unanswered(with(&certificates, Some(&strangers), true).snapshot(SHORT).await);
    let distrust =
        with(&strangers, Some(&certificates), true).snapshot(SHORT).await.expect_err("whom do we talk to?");
    let cause = std::error::Error::source(&distrust).expect("a cause").to_string();
    assert!(cause.contains("certificate"), "{cause}");
    assert!(with(&strangers, Some(&certificates), false).snapshot(LONG).await.is_ok(), "nobody is asked");
    let locked = Certificates { key: encrypted(&certificates.key), ..certificates.clone() };
    assert!(with(&certificates, Some(&locked), true).snapshot(LONG).await.is_ok(), "the password is known");
    let mut missing = certificates.clone();
    missing.ca = files.path().join("missing.pem");
    refused(with(&missing, None, true).snapshot(SHORT).await);
}

/// The same key in a file of its own, with a password.
fn encrypted(key: &Path) -> PathBuf {
    let text = std::fs::read_to_string(key).expect("our own file");
    let plain = rcgen::KeyPair::from_pem(&text).expect("a key").serialize_der();
    let how = pkcs8::pkcs5::pbes2::Parameters::pbkdf2_sha256_aes256cbc(2048, b"saltsalt", &[7; 16]);
    let plain = pkcs8::PrivateKeyInfo::try_from(&plain[..]).expect("a key");
    let hidden = plain.encrypt_with_params(how.expect("good parameters"), "of the key").expect("encrypted");
    let path = key.with_extension("locked");
    let text = hidden.to_pem("ENCRYPTED PRIVATE KEY", pkcs8::LineEnding::LF).expect("text");
    std::fs::write(&path, text.as_bytes()).expect("our own directory");
    path
}
