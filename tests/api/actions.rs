//! Requests to one member about its own PostgreSQL, and what is said of them.

use serde_json::{Value, json};
use tenure::model::{Ask, Outcome, Refusal};

use super::*;

/// What the loop is asked for, with its reply.
async fn asked(server: &mut Server) -> (Ask, oneshot::Sender<Outcome>) {
    match server.command().await {
        Some(Command::Ask { ask, reply }) => (ask, reply),
        other => panic!("a wish was expected, not {other:?}"),
    }
}

async fn post(address: SocketAddr, path: &str, body: Value) -> (u16, String) {
    say(address, Method::POST, path, body).await
}

#[tokio::test]
async fn a_restart_is_answered_when_it_has_ended() {
    let mut server = Server::plain(standby()).await;
    let timed = Ask::Restart { timeout: Some(Span::from_secs(30)) };
    let plain = Ask::Restart { timeout: None };
    let busy = Outcome::Refused(Refusal::Busy("reinitialize"));
    let table = [
        (json!(null), plain, Outcome::Done, 200, "restarted successfully"),
        (json!({}), plain, Outcome::Failed, 503, "restart failed"),
        (json!({"timeout": "30s", "role": "replica"}), timed, Outcome::Done, 200, "restarted successfully"),
        (json!({"timeout": 30}), timed, busy, 503, "reinitialize already in progress"),
        (json!(null), plain, Outcome::Refused(Refusal::Starting), 503, "postgres is still starting"),
    ];
    for (body, wanted, outcome, code, sentence) in table {
        let (answer, ()) = tokio::join!(post(server.address, "/restart", body), async {
            let (ask, reply) = asked(&mut server).await;
            assert_eq!(ask, wanted);
            reply.send(outcome).expect("somebody waits for the reply");
        });
        assert_eq!(answer, (code, sentence.to_owned()));
    }
    let unmet = post(server.address, "/restart", json!({"role": "primary"})).await;
    assert_eq!(unmet, (503, "restart conditions are not satisfied".to_owned()));
    let wrong = post(server.address, "/restart", json!({"role": "any"})).await;
    assert_eq!(wrong.0, 400);
    let (dropped, ()) = tokio::join!(post(server.address, "/restart", json!(null)), async {
        drop(asked(&mut server).await);
    });
    assert_eq!(dropped, (503, "restart status unknown".to_owned()));
    server.end().await;
}

#[tokio::test]
async fn a_restart_to_come_is_kept_and_deleted() {
    let mut server = Server::plain(standby()).await;
    let at = json!({"schedule": "2999-01-01T10:00:00+02:00", "restart_pending": "True"});
    for (free, code, sentence) in
        [(true, 202, "Restart scheduled"), (false, 409, "Another restart is already scheduled")]
    {
        let (answer, ()) = tokio::join!(post(server.address, "/restart", at.clone()), async {
            let Some(Command::ScheduleRestart { restart, whose, reply }) = server.command().await else {
                panic!("the wrong command");
            };
            assert_eq!(json!(restart.document), at);
            // Nobody has said who they are: the address must do.
            assert_eq!(whose.to_string(), "by 127.0.0.1");
            reply.send(free).expect("somebody waits for the reply");
        });
        assert_eq!(answer, (code, sentence.to_owned()));
    }
    for (there, code, sentence) in
        [(true, 200, "scheduled restart deleted"), (false, 404, "no restarts are scheduled")]
    {
        let delete = say(server.address, Method::DELETE, "/restart", json!(null));
        let (answer, ()) = tokio::join!(delete, async {
            let Some(Command::DeleteRestart { reply }) = server.command().await else {
                panic!("the wrong command");
            };
            reply.send(there).expect("somebody waits for the reply");
        });
        assert_eq!(answer, (code, sentence.to_owned()));
    }
    server.standings.send_modify(|standing| Arc::make_mut(standing).view.policy.pause = true);
    let paused = post(server.address, "/restart", at).await;
    assert_eq!(paused, (500, "Can't schedule restart in the paused state".to_owned()));
    server.end().await;
}

#[tokio::test]
async fn making_the_data_anew_is_answered_when_it_begins() {
    let mut server = Server::plain(standby()).await;
    let refused = Outcome::Refused;
    let table = [
        (json!(null), false, Outcome::Done, 200, "reinitialize started"),
        (json!({"force": true, "from_leader": true}), true, Outcome::Done, 200, "reinitialize started"),
        (
            json!({"force": false}),
            false,
            refused(Refusal::Leads),
            503,
            "I am the leader, can not reinitialize",
        ),
        (json!({}), false, refused(Refusal::NoLeader), 503, "Cluster has no leader, can not reinitialize"),
        (json!({}), false, refused(Refusal::Busy("clone")), 503, "clone already in progress"),
    ];
    for (body, force, outcome, code, sentence) in table {
        let (answer, ()) = tokio::join!(post(server.address, "/reinitialize", body), async {
            let (ask, reply) = asked(&mut server).await;
            assert_eq!(ask, Ask::Reinitialize { force, from_leader: force });
            reply.send(outcome).expect("somebody waits for the reply");
        });
        assert_eq!(answer, (code, sentence.to_owned()));
    }
    server.end().await;
}

#[tokio::test]
async fn reloading_is_scheduled_and_what_cannot_be_is_said() {
    let mut server = Server::plain(standby()).await;
    assert_eq!(post(server.address, "/reload", json!(null)).await, (202, "reload scheduled".to_owned()));
    assert!(matches!(server.command().await, Some(Command::Reload)));
    for (path, code) in [("/sigterm", 202), ("/failsafe", 502), ("/mpp", 501), ("/citus", 501)] {
        assert_eq!(post(server.address, path, json!({"type": "x"})).await.0, code, "{path}");
    }
    server.end().await;
}

/// Who is allowed what, and what is done, is the agent's business, and there is none here.
#[tokio::test]
async fn a_drill_without_an_agent_is_none() {
    let server = Server::plain(standby()).await;
    for (body, code) in [
        (json!({"fault": "agent", "member": "turku"}), 503),
        (json!({"fault": "rain", "member": "turku"}), 400),
        (json!({"fault": "agent"}), 400),
        (json!([]), 400),
    ] {
        assert_eq!(post(server.address, "/drill", body.clone()).await.0, code, "{body}");
    }
    server.end().await;
}

#[tokio::test]
async fn a_setting_that_is_newly_wrong_is_refused_and_an_old_one_is_in_nobodys_way() {
    let mut server = Server::plain(standby()).await;
    for (method, body) in [
        (Method::PATCH, json!({"ttl": "soon"})),
        (Method::PATCH, json!({"ttl": 1})),
        (Method::PATCH, json!({"postgresql": {"parametres": {}}})),
        (Method::PUT, json!({"loop_wait": -1})),
    ] {
        let (code, sentence) = say(server.address, method, "/config", body.clone()).await;
        assert_eq!(code, 422, "{body}: {sentence}");
    }
    let old = json!({"ttl": 30, "colour": "blue"});
    server.change(|cluster| cluster.config = Some(Versioned { value: old, version: 4 }));
    let patch = say(server.address, Method::PATCH, "/config", json!({"pause": true}));
    let (answer, ()) = tokio::join!(patch, async {
        let Some(Command::WriteConfig { if_version: Some(4), reply, .. }) = server.command().await else {
            panic!("the wrong command");
        };
        reply.send(Written::Done).expect("somebody waits for the reply");
    });
    assert_eq!(answer.0, 200, "{}", answer.1);
    server.end().await;
}

#[tokio::test]
async fn a_patch_goes_on_top_of_what_somebody_else_has_just_written() {
    let mut server = Server::plain(standby()).await;
    let patch = say(server.address, Method::PATCH, "/config", json!({"ttl": 20}));
    let (answer, ()) = tokio::join!(patch, async {
        for (version, outcome) in [(3, Written::Conflict), (4, Written::Done)] {
            let Some(Command::WriteConfig { config, if_version, reply, .. }) = server.command().await else {
                panic!("the wrong command");
            };
            assert_eq!((if_version, &config["ttl"]), (Some(version), &json!(20)));
            reply.send(outcome).expect("somebody waits for the reply");
            // The snapshot comes later than the refusal.
            server.standings.send_modify(|standing| {
                let cluster = Arc::make_mut(standing).view.store.cluster.as_mut().expect("a snapshot");
                let value = json!({"loop_wait": 7, "ttl": 30});
                cluster.config = Some(Versioned { value, version: 4 });
            });
        }
    });
    assert_eq!(answer, (200, r#"{"loop_wait": 7, "ttl": 20}"#.to_owned()));
    server.end().await;
}
