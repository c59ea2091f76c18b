//! What HAProxy is told in every situation.

use super::haproxy::Order::{Down, EndSessions, Up};
use super::haproxy::{Order, Server};
use super::judge::{Answer, News, Picture, Question, Service, judge, questions};
use crate::model::{Cluster, Leader, MemberRecord, MemberState, Term};

use std::collections::BTreeMap;

fn picture(leader: Option<&str>) -> Picture {
    let record = |number: u8| MemberRecord {
        conn_url: format!("postgres://10.0.0.{number}:5432/postgres"),
        api_url: format!("http://10.0.0.{number}:8008/patroni"),
        state: MemberState::Running,
        ..MemberRecord::default()
    };
    let leader =
        leader.map(|name| Leader { name: name.parse().expect("a name"), term: Term(3), session: None });
    let members = [("db1", 1), ("db2", 2)];
    let members = members.map(|(name, number)| (name.parse().expect("a name"), record(number)));
    Picture::of(&Cluster { leader, members: members.into(), ..Cluster::default() })
}

fn server(backend: &str, number: u8, up: bool) -> Server {
    Server {
        backend: backend.to_owned(),
        name: format!("db{number}"),
        address: format!("10.0.0.{number}"),
        host: None,
        port: 5432,
        up,
        held: false,
    }
}

fn services() -> [Service; 2] {
    ["primary=/primary", "replicas=/replica?lag=1MB"].map(|text| Service::parse(text).expect("well-formed"))
}

fn answers(told: &[(&str, &str, Answer)]) -> BTreeMap<Question, Answer> {
    told.iter().map(|(name, path, answer)| (((*name).to_owned(), (*path).to_owned()), *answer)).collect()
}

fn orders(
    leader: Option<&str>,
    news: News,
    servers: &[Server],
    told: &[(&str, &str, Answer)],
) -> Vec<(Order, String)> {
    let pushes = judge(&picture(leader), news, &services(), servers, &answers(told));
    pushes
        .into_iter()
        .map(|push| (push.order, format!("{}/{}", push.server.backend, push.server.name)))
        .collect()
}

fn expected(told: &[(Order, &str)]) -> Vec<(Order, String)> {
    told.iter().map(|(order, server)| (*order, (*server).to_owned())).collect()
}

#[test]
fn a_new_leader_takes_the_others_down_before_it_is_confirmed_and_comes_up_after() {
    let primary = [server("primary", 1, true), server("primary", 2, false)];
    let check = |told: &[_], wanted: &[_]| {
        assert_eq!(orders(Some("db2"), News::LeaderChanged, &primary, told), expected(wanted), "{told:?}");
    };
    let out = [(Down, "primary/db1"), (EndSessions, "primary/db1")];
    check(&[], &out);
    check(&[("db2", "/primary", Answer::No)], &out);
    check(&[("db2", "/primary", Answer::Silence)], &out);
    // Even if its agent has not heard of it.
    check(&[("db1", "/primary", Answer::Yes)], &out);
    check(&[("db2", "/primary", Answer::Yes)], &[out[0], out[1], (Up, "primary/db2")]);
}

#[test]
fn an_old_picture_takes_nobody_down_who_says_that_it_serves() {
    let primary = [server("primary", 1, true), server("primary", 2, true)];
    let check = |told: &[_], wanted: &[_]| {
        assert_eq!(orders(Some("db2"), News::Other, &primary, told), expected(wanted), "{told:?}");
    };
    check(&[], &[]);
    check(&[("db1", "/primary", Answer::Yes)], &[]);
    for answer in [Answer::No, Answer::Silence] {
        check(&[("db1", "/primary", answer)], &[(Down, "primary/db1"), (EndSessions, "primary/db1")]);
    }
}

#[test]
fn without_a_leader_only_an_answer_takes_a_server_down() {
    let primary = [server("primary", 1, true), server("primary", 2, false)];
    let check = |answer, wanted: &[_]| {
        let told = [("db1", "/primary", answer)];
        assert_eq!(orders(None, News::LeaderChanged, &primary, &told), expected(wanted), "{answer:?}");
    };
    check(Answer::Yes, &[]);
    check(Answer::Silence, &[]);
    check(Answer::No, &[(Down, "primary/db1"), (EndSessions, "primary/db1")]);
}

#[test]
fn a_leader_that_does_not_answer_is_left_to_the_checks() {
    for up in [true, false] {
        for answer in [Answer::No, Answer::Silence] {
            let told = [("db1", "/primary", answer)];
            assert_eq!(orders(Some("db1"), News::Other, &[server("primary", 1, up)], &told), []);
        }
    }
}

#[test]
fn replicas_follow_the_answers_and_keep_their_sessions() {
    let path = "/replica?lag=1MB";
    let replicas = [server("replicas", 1, false), server("replicas", 2, true)];
    let told = [("db1", path, Answer::Yes), ("db2", path, Answer::No)];
    let wanted = expected(&[(Down, "replicas/db2"), (Up, "replicas/db1")]);
    assert_eq!(orders(Some("db2"), News::LeaderChanged, &replicas, &told), wanted);
    let told = [("db1", path, Answer::Silence), ("db2", path, Answer::Silence)];
    assert_eq!(orders(Some("db2"), News::LeaderChanged, &replicas, &told), []);
}

#[test]
fn what_an_operator_has_taken_out_stays_out() {
    let held = |number| Server { held: true, ..server("primary", number, number == 1) };
    let told = [("db2", "/primary", Answer::Yes)];
    assert_eq!(orders(Some("db2"), News::LeaderChanged, &[held(1), held(2)], &told), []);
    // And says nothing against what is done with the others.
    let wanted = expected(&[(Down, "primary/db1"), (EndSessions, "primary/db1")]);
    let others = [server("primary", 1, true), held(2)];
    assert_eq!(orders(Some("db2"), News::LeaderChanged, &others, &told), wanted);
}

#[test]
fn servers_are_known_by_name_or_by_address_and_not_by_names_that_contradict() {
    let named = |name: &str, number| Server { name: name.to_owned(), ..server("primary", number, false) };
    let asked = |server: Server| questions(&picture(Some("db2")), &services(), &[server]);
    let db2 = || [("db2".to_owned(), "/primary".to_owned())].into();
    assert_eq!(asked(named("db2", 2)), db2());
    assert_eq!(asked(named("two", 2)), db2());
    // In front of it stands something else, such as a pooler, at an address of its own.
    assert_eq!(asked(Server { port: 6432, ..named("db2", 2) }), db2());
    assert_eq!(asked(named("db2", 1)), [].into());
    assert_eq!(asked(named("two", 7)), [].into());
}

#[test]
fn a_backend_without_the_leader_is_none_of_ours() {
    let strangers = [server("primary", 8, true), server("primary", 1, true)];
    assert_eq!(orders(Some("db2"), News::LeaderChanged, &strangers, &[]), []);
}

#[test]
fn a_member_that_has_gone_from_the_store_goes_down_when_another_one_leads() {
    let lost = [server("primary", 3, true), server("primary", 2, false)];
    let wanted = expected(&[(Down, "primary/db3"), (EndSessions, "primary/db3")]);
    assert_eq!(orders(Some("db2"), News::LeaderChanged, &lost, &[]), wanted);
}

#[test]
fn a_service_says_whom_it_waits_for() {
    let check = |path: &str, leader, other| {
        let service = Service::parse(&format!("b={path}")).expect("well-formed");
        let picture = picture(Some("db1"));
        assert_eq!(
            (service.awaits(&picture, "db1"), service.awaits(&picture, "db2")),
            (leader, other),
            "{path}"
        );
    };
    check("/", true, false);
    check("/primary?tag_zone=a", true, false);
    check("/read-write", true, false);
    check("/replica", false, true);
    check("/read-only", true, true);
    check("/asynchronous", false, true);
    for wrong in ["primary", "=/primary", "primary=primary", ""] {
        assert!(Service::parse(wrong).is_err(), "{wrong}");
    }
}
