//! The REST API beside Patroni's, state by state: two clusters alike on one etcd, one of Patroni's and one of ours, are brought into
//! the same states, and whatever can be asked is asked of both. What differs stands in `deliberate.rs`, or is a fault.

use std::fs;

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
