//! The REST API beside Patroni's, state by state: two clusters alike on one etcd, one of Patroni's and one of ours, are brought into
//! the same states, and whatever can be asked is asked of both. What differs stands in `deliberate.rs`, or is a fault.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::answers::{self, Question};
use crate::comparison::{Comparison, all_questions, questions, questions_for_a_leader};
use crate::patroni::{Patroni, configuration, print_logs, with_patronictl_in};
use crate::support::lab::{Lab, Node, Setup};
use crate::support::wait_for;

/// The machines of a side: the founder and leader, its replica, and the only member of a cluster that follows the founder's.
pub const MEMBERS: [&str; 3] = ["first", "second", "far"];
const FIRST: usize = 0;
const SECOND: usize = 1;
const FAR: usize = 2;
/// Where each side's machines begin.
pub const SIDES: [usize; 2] = [0, 3];

#[test]
fn rest_answers_as_patronis_does_in_every_state() {
    let setup = Setup { nodes: 6, ttl: 20, ..Setup::default() };
    with_patronictl_in(&setup, async |lab| {
        let mut patronis = Vec::new();
        let outcome = std::panic::AssertUnwindSafe(compare(lab, &mut patronis));
        let outcome = futures_util::FutureExt::catch_unwind(outcome).await;
        if let Err(panic) = outcome {
            print_logs(lab);
            std::panic::resume_unwind(panic);
        }
        for node in &mut lab.nodes {
            node.power_off();
        }
        drop(patronis);
    });
}

async fn compare(lab: &mut Lab, patronis: &mut Vec<Patroni>) {
    let mut comparison = Comparison::default();
    found(lab, patronis).await;
    let everybody = [FIRST, SECOND, FAR];

    comparison.look(lab, "in order", &everybody, &all_questions()).await;
    comparison.look(lab, "in order", &[FIRST, FAR], &questions_for_a_leader()).await;

    lag(lab, true).await;
    comparison.look(lab, "the replica lags", &everybody, &questions()).await;
    lag(lab, false).await;

    tag(lab, "noloadbalance", true).await;
    comparison.look(lab, "noloadbalance", &[SECOND], &questions()).await;
    tag(lab, "noloadbalance", false).await;

    patch(lab, r#"{"synchronous_mode": true}"#);
    until(lab, SECOND, "/patroni", "a synchronous standby", |status| status["sync_standby"] == true).await;
    until(lab, FIRST, "/patroni", "its word in force", |status| waits_for_somebody(status, "sync")).await;
    comparison.look(lab, "synchronous", &[FIRST, SECOND], &questions()).await;
    patch(lab, r#"{"synchronous_mode": "quorum"}"#);
    until(lab, SECOND, "/patroni", "a quorum standby", |status| status["quorum_standby"] == true).await;
    comparison.look(lab, "synchronous by quorum", &[FIRST, SECOND], &questions()).await;
    patch(lab, r#"{"synchronous_mode": null}"#);

    pending(lab, &mut comparison).await;
    comparison.look(lab, "a restart is pending, and more is scheduled", &[FIRST, SECOND], &questions()).await;
    let gone = ["/switchover", "/restart"].map(|path| Question::operator("DELETE", path, None));
    comparison.once(lab, "what was scheduled is taken back", FIRST, &gone[0]);
    comparison.once(lab, "what was scheduled is taken back", SECOND, &gone[1]);

    // Whoever is to lead after nobody has led for a while is settled.
    tag(lab, "nofailover", true).await;
    paused(lab, &mut comparison).await;

    store_down(lab, &mut comparison).await;
    starting(lab, &mut comparison).await;
    comparison.judge();
}

fn waits_for_somebody(status: &Value, how: &str) -> bool {
    status["replication"].as_array().into_iter().flatten().any(|sender| sender["sync_state"] == how)
}

/// Both sides, first their founders.
async fn found(lab: &mut Lab, patronis: &mut Vec<Patroni>) {
    for node in SIDES[1]..lab.nodes.len() {
        let text = side_configuration(lab, &lab.nodes[node]);
        fs::write(lab.nodes[node].dir.join("tenure.yml"), text).expect("our own directory");
    }
    patronis.push(Patroni::start_with(&lab.nodes[..SECOND], |node| side_configuration(lab, node)));
    lab.nodes[SIDES[1]].start_agent();
    until(lab, FIRST, "/cluster", "a founder that leads", |cluster| {
        cluster["members"][0]["role"] == "leader" && cluster["members"][0]["state"] == "running"
    })
    .await;
    patronis.push(Patroni::start_with(&lab.nodes[SECOND..SIDES[1]], |node| side_configuration(lab, node)));
    for member in [SECOND, FAR] {
        lab.nodes[SIDES[1] + member].start_agent();
    }
    in_order_again(lab).await;
    until(lab, FAR, "/standby-leader", "a leader of the cluster that follows", |status| {
        status["role"] == "standby_leader" && status["replication_state"] == "streaming"
    })
    .await;
    // Something to replay, and when it happened.
    for side in SIDES {
        let client = lab.client(side).await;
        client.batch_execute("create table written (number int)").await.expect("a primary makes tables");
    }
}

/// Everything for a side is written alike; only the scope differs.
fn side_configuration(lab: &Lab, node: &Node) -> String {
    let index = lab.nodes.iter().position(|other| other.name == node.name).expect("one of them");
    let (side, member) = (index / MEMBERS.len(), index % MEMBERS.len());
    let text = configuration(lab, node);
    let (text, _) = text.rsplit_once("tags:").expect("tags come last");
    let name = MEMBERS[member];
    let scope = format!("{}{}", ["theirs", "ours"][side], if member == FAR { "-far" } else { "" });
    let follows = if member == FAR {
        format!("  dcs:\n    standby_cluster: {{host: {}, port: 5432}}\n", lab.nodes[SIDES[side]].address)
    } else {
        "  dcs:\n".to_owned()
    };
    let text = text
        .replace("scope: lab", &format!("scope: {scope}"))
        .replace(&format!("name: {}\n", node.name), &format!("name: {name}\n"))
        .replace("  dcs:\n", &follows);
    format!("{text}tags: {{zone: {name}, weight: 1.5}}\n")
}

/// Both sides' members of that name.
fn pair(lab: &Lab, member: usize) -> [&Node; 2] {
    SIDES.map(|side| &lab.nodes[side + member])
}

async fn until(lab: &Lab, member: usize, path: &str, what: &str, holds: impl Fn(&Value) -> bool) {
    for (node, side) in pair(lab, member).into_iter().zip(["Patroni's", "our"]) {
        wait_for(&format!("{what} on {side} side, {}", MEMBERS[member]), async || {
            let document: Value = serde_json::from_str(&node.request("GET", path, "")?.1).ok()?;
            holds(&document).then_some(())
        })
        .await;
    }
}

/// Both clusters' settings.
fn patch(lab: &Lab, body: &str) {
    for node in pair(lab, FIRST) {
        let said = answers::lines(&node.address, &Question::operator("PATCH", "/config", Some(body)));
        assert!(said.contains("code 200"), "{body}: {said:?}");
    }
}

/// The standby waits with each commit for an hour after it was made.
async fn lag(lab: &Lab, on: bool) {
    let delay = if on { "{\"recovery_min_apply_delay\": \"1h\"}" } else { "null" };
    patch(lab, &format!("{{\"postgresql\": {{\"recovery_conf\": {delay}}}}}"));
    setting(lab, "recovery_min_apply_delay", if on { "1h" } else { "0" }).await;
    if on {
        for side in SIDES {
            let client = lab.client(side).await;
            client.batch_execute("insert into written values (1)").await.expect("a primary writes");
            let much = "select pg_logical_emit_message(false, 'test', repeat('x', 3000000))";
            client.batch_execute(much).await.expect("a primary writes");
        }
    }
    until(lab, SECOND, "/patroni", "its lag", |status| {
        let at = |field: &str| status["xlog"][field].as_u64().unwrap_or_default();
        (at("received_location").saturating_sub(at("replayed_location")) > 2_000_000) == on
    })
    .await;
    until(lab, FIRST, "/cluster", "its lag in the store", |cluster| {
        let mut members = cluster["members"].as_array().into_iter().flatten();
        members.any(|member| member["replay_lag"].as_u64().is_some_and(|lag| (lag > 2_000_000) == on))
    })
    .await;
}

/// What the replicas' PostgreSQL has in force.
async fn setting(lab: &Lab, name: &str, begins: &str) {
    for side in SIDES {
        let client = lab.client(side + SECOND).await;
        let query = format!("select current_setting('{name}')");
        wait_for(name, async || {
            let row = client.query_one(&query, &[]).await.ok()?;
            row.get::<_, &str>(0).starts_with(begins).then_some(())
        })
        .await;
    }
}

async fn tag(lab: &Lab, tag: &str, on: bool) {
    for (node, file) in pair(lab, SECOND).into_iter().zip(["patroni.yml", "tenure.yml"]) {
        let path = node.dir.join(file);
        let text = fs::read_to_string(&path).expect("our own file");
        let (before, _) = text.rsplit_once("tags:").expect("tags come last");
        fs::write(path, format!("{before}tags: {{zone: second, weight: 1.5, {tag}: {on}}}\n"))
            .expect("our own file");
        answers::lines(&node.address, &Question::operator("POST", "/reload", Some("{}")));
    }
    // A tag that is not set may be left out.
    until(lab, SECOND, "/patroni", tag, |status| status["tags"][tag].as_bool().unwrap_or_default() == on)
        .await;
}

async fn pending(lab: &Lab, comparison: &mut Comparison) {
    patch(lab, r#"{"postgresql": {"parameters": {"max_connections": 120}}}"#);
    for member in [FIRST, SECOND] {
        until(lab, member, "/patroni", "a pending restart", |status| status["pending_restart"] == true).await;
    }
    let state = "something is scheduled";
    let switchover = r#"{"leader": "first", "candidate": "second", "scheduled_at": "2100-01-01T10:00Z"}"#;
    comparison.once(lab, state, FIRST, &Question::operator("POST", "/switchover", Some(switchover)));
    let restart = Question::operator(
        "POST",
        "/restart",
        Some(r#"{"schedule": "2100-01-01T10:00Z", "role": "replica", "restart_pending": "True"}"#),
    );
    comparison.once(lab, state, SECOND, &restart);
    comparison.once(lab, state, SECOND, &restart);
    until(lab, FIRST, "/cluster", "both schedules", |cluster| {
        let members = cluster["members"].as_array().map(Vec::as_slice).unwrap_or_default();
        members.iter().any(|member| !member["scheduled_restart"].is_null())
            && !cluster["scheduled_switchover"].is_null()
    })
    .await;
}

async fn paused(lab: &Lab, comparison: &mut Comparison) {
    patch(lab, r#"{"pause": true}"#);
    for member in [FIRST, SECOND] {
        until(lab, member, "/patroni", "maintenance", |status| status["pause"] == true).await;
    }
    let mut asked = questions();
    for (path, body) in [
        ("/switchover", r#"{"leader": "first"}"#),
        ("/switchover", r#"{"leader": "first", "scheduled_at": "2100-01-01T10:00Z"}"#),
        ("/restart", r#"{"schedule": "2100-01-01T10:00Z"}"#),
    ] {
        asked.push(Question::operator("POST", path, Some(body)));
    }
    comparison.look(lab, "paused", &[FIRST, SECOND], &asked).await;
    for (member, state) in [(SECOND, "paused, its PostgreSQL stopped"), (FIRST, "paused, nobody runs")] {
        for node in pair(lab, member) {
            wait_for("a stopped PostgreSQL", async || {
                // Patroni starts it once more if it was about to compare timelines, whatever the mode.
                ask_to_stop(node, "fast");
                let document: Value = serde_json::from_str(&node.request("GET", "/patroni", "")?.1).ok()?;
                (document["state"] == "stopped").then_some(())
            })
            .await;
        }
        comparison.look(lab, state, &[FIRST, SECOND], &questions()).await;
    }
    // Nobody comes up with what was pending.
    patch(lab, r#"{"pause": null, "postgresql": {"parameters": {"max_connections": null}}}"#);
    in_order_again(lab).await;
}

/// The replica waits for a file of the archive that does not come.
async fn starting(lab: &Lab, comparison: &mut Comparison) {
    let hold = lab.nodes[0].dir.parent().expect("the lab's directory").join("hold");
    let command = format!("while [ -e {} ]; do sleep 0.1; done; false", hold.display());
    let body = serde_json::json!({"postgresql": {"recovery_conf": {"restore_command": command}}});
    patch(lab, &body.to_string());
    setting(lab, "restore_command", "while").await;
    fs::write(&hold, "").expect("our own directory");
    for node in pair(lab, SECOND) {
        // One that stops in good order would wait for the command that waits.
        ask_to_stop(node, "immediate");
    }
    until(lab, SECOND, "/patroni", "a PostgreSQL that starts", |status| status["state"] == "starting").await;
    comparison.look(lab, "starting", &[SECOND], &questions()).await;
    fs::remove_file(&hold).expect("it is there");
    in_order_again(lab).await;
    patch(lab, r#"{"postgresql": {"recovery_conf": null}}"#);
}

async fn store_down(lab: &mut Lab, comparison: &mut Comparison) {
    lab.store_servers[0].kill();
    until(lab, FIRST, "/patroni", "a leader that has let go", |status| {
        status["role"] == "replica" && status["state"] == "running" && status["cluster_unlocked"] == true
    })
    .await;
    for member in [SECOND, FAR] {
        until(lab, member, "/patroni", "a store that is missed", |status| status["cluster_unlocked"] == true)
            .await;
    }
    comparison.look(lab, "the store is down", &[FIRST, SECOND, FAR], &questions()).await;
    lab.store_servers[0].start();
    in_order_again(lab).await;
    comparison.look(lab, "the store is back", &[FIRST, SECOND, FAR], &questions()).await;
    patch(lab, r#"{"pause": true}"#);
    for member in [FIRST, SECOND] {
        until(lab, member, "/patroni", "maintenance", |status| status["pause"] == true).await;
    }
    lab.store_servers[0].kill();
    for member in [FIRST, SECOND] {
        until(lab, member, "/patroni", "a store that is missed", |status| status["cluster_unlocked"] == true)
            .await;
    }
    comparison.look(lab, "paused, the store is down", &[FIRST, SECOND], &questions()).await;
    lab.store_servers[0].start();
    wait_for("a store that takes settings", async || {
        let take = |node: &Node| {
            let said = answers::lines(
                &node.address,
                &Question::operator("PATCH", "/config", Some(r#"{"pause": null}"#)),
            );
            said.iter().any(|line| line == "code 200")
        };
        pair(lab, FIRST).into_iter().all(take).then_some(())
    })
    .await;
    in_order_again(lab).await;
}

/// The founder leads, its replica and the cluster that follows stream.
async fn in_order_again(lab: &Lab) {
    until(lab, FIRST, "/primary", "a leader", |status| {
        status["role"] == "primary" && status["replication"].as_array().is_some_and(|all| all.len() == 2)
    })
    .await;
    until(lab, FIRST, "/cluster", "a leader and a streaming replica", |cluster| {
        cluster["members"][0]["role"] == "leader" && cluster["members"][1]["state"] == "streaming"
    })
    .await;
}

/// Not waited for: pg_ctl could not tell whoever is started next from whoever it has stopped.
fn ask_to_stop(node: &Node, mode: &str) {
    let data = node.dir.join("data");
    if !data.join("postmaster.pid").exists() {
        return;
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
    command.arg(Setup::default().bin_dir.join("pg_ctl")).args(["stop", "-W", "-m", mode, "-D"]).arg(data);
    command.output().expect("setpriv is installed");
}
