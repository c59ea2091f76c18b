//! Our command on a cluster of Patroni's: everything that changes something.

use nix::sys::signal::{Signal, kill};

use crate::patroni::{Patroni, healthy, in_patroni_lab, ours, ours_with, succeeds};
use crate::support::lab::Lab;
use crate::support::wait_for;

#[test]
fn our_command_governs_a_cluster_of_patronis() {
    in_patroni_lab(async |lab, patroni| {
        switch_and_fail_over(lab).await;
        configure(lab).await;
        restart_reload_reinit(lab).await;
        schedule_and_flush(lab).await;
        pause_and_resume(lab);
        the_store_is_enough(lab, patroni).await;
        remove(lab);
    });
}

fn name(lab: &Lab, node: usize) -> String {
    lab.nodes[node].name.clone()
}

async fn switch_and_fail_over(lab: &Lab) {
    let first = healthy(lab).await;
    let second = name(lab, 1 - first);
    let text =
        succeeds(lab, &["switchover", "--force"], &format!("Successfully switched over to \"{second}\""));
    assert!(text.starts_with("Current cluster topology\n+ Cluster: lab ("), "{text}");
    assert_eq!(healthy(lab).await, 1 - first);
    let said = ours(lab, &["failover", "lab"], &format!("{}\ny\n", name(lab, first)));
    let wanted = format!("Successfully failed over to \"{}\"", name(lab, first));
    assert!(said.code == 0 && said.stdout.contains(&wanted), "{said:#?}");
    assert_eq!(healthy(lab).await, first);
    let history = succeeds(lab, &["history", "-f", "tsv"], &name(lab, first));
    assert_eq!(history.lines().count(), 3, "{history}");
}

async fn configure(lab: &Lab) {
    let text = succeeds(
        lab,
        &["edit-config", "-s", "ttl=25", "-p", "max_connections=120", "--force"],
        "Configuration changed",
    );
    assert!(text.contains("-ttl: 20\n+ttl: 25\n") && text.contains("+    max_connections: 120\n"), "{text}");
    succeeds(lab, &["show-config"], "\nttl: 25\n");
    // The editor's own changes, after a question.
    let editor = [("EDITOR", "sed -i s/25/30/")];
    let said = ours_with(lab, &["edit-config"], "y\n", &editor);
    assert!(
        said.code == 0 && said.stdout.ends_with("Apply these changes? [y/N]: Configuration changed\n"),
        "{said:#?}"
    );
    succeeds(lab, &["show-config"], "\nttl: 30\n");
    wait_for("everybody's pending restart", async || {
        let text = ours(lab, &["list"], "").stdout;
        (text.matches("max_connections: 100->120").count() == lab.nodes.len()).then_some(())
    })
    .await;
}

async fn restart_reload_reinit(lab: &Lab) {
    let leader = healthy(lab).await;
    let replica = name(lab, 1 - leader);
    let text = succeeds(lab, &["restart", "lab", "--pending", "--force"], "Success: restart on member node1");
    assert!(text.contains("Success: restart on member node2"), "{text}");
    healthy(lab).await;
    wait_for("no pending restart", async || {
        (!ours(lab, &["list"], "").stdout.contains("max_connections")).then_some(())
    })
    .await;
    succeeds(
        lab,
        &["reload", "lab", "--force"],
        "Reload request received for member node2 and will be processed within 1 seconds",
    );
    let refused = ours(lab, &["reinit", "lab", &name(lab, leader), "--force"], "");
    let hint = format!("hint: {} is the leader; somebody else has to lead first: ", name(lab, leader));
    assert!(refused.code == 1 && refused.stderr.contains(&hint), "{refused:#?}");
    let text = succeeds(
        lab,
        &["reinit", "lab", &replica, "--force", "--wait"],
        &format!("Success: reinitialize for member {replica}"),
    );
    assert!(text.ends_with(&format!("Reinitialize is completed on: {replica}\n")), "{text}");
    healthy(lab).await;
    succeeds(lab, &["query", "-c", "create table written (a int)", "-r", "primary"], "");
    wait_for("the row to be read", async || {
        let said = ours(lab, &["query", "-c", "select count(*) from written", "-m", &replica], "");
        (said.stdout == "count\n0\n").then_some(())
    })
    .await;
}

async fn schedule_and_flush(lab: &Lab) {
    let leader = healthy(lab).await;
    let replica = name(lab, 1 - leader);
    succeeds(lab, &["switchover", "--scheduled", "2100-01-01T10:00", "--force"], "Switchover scheduled");
    succeeds(lab, &["list"], " Switchover scheduled at: 2100-01-01T10:00:00+02:00\n");
    succeeds(lab, &["flush", "lab", "switchover"], "Success: scheduled switchover deleted");
    succeeds(lab, &["flush", "lab", "switchover"], "No pending scheduled switchover");
    let later = ["restart", "lab", &replica, "--scheduled", "2100-01-01T10:00Z", "--force"];
    succeeds(lab, &later, &format!("Success: restart scheduled on member {replica}"));
    wait_for("the scheduled restart", async || {
        ours(lab, &["list"], "").stdout.contains("2100-01-01T10:00:00+00:00").then_some(())
    })
    .await;
    succeeds(lab, &later, &format!("Success: restart scheduled on member {replica}"));
    let text = succeeds(
        lab,
        &["flush", "lab", "restart", "--force"],
        &format!("Success: flush scheduled restart for member {replica}"),
    );
    assert!(text.contains(&format!("No scheduled restart for member {}", name(lab, leader))), "{text}");
}

fn pause_and_resume(lab: &Lab) {
    succeeds(
        lab,
        &["pause", "--wait"],
        "'pause' request sent, waiting until it is recognized by all nodes\nSuccess: cluster management is paused\n",
    );
    succeeds(lab, &["list"], " Maintenance mode: on\n");
    let again = ours(lab, &["pause"], "");
    assert_eq!((again.code, again.stderr.as_str()), (1, "Error: Cluster is already paused\n"));
    succeeds(lab, &["resume", "--wait"], "Success: cluster management is resumed\n");
}

/// The leader's agent hangs: the wish goes to the store, and is carried out when the agent is back.
async fn the_store_is_enough(lab: &Lab, patroni: &Patroni) {
    let leader = healthy(lab).await;
    let from = name(lab, leader);
    kill(patroni.pid(leader), Signal::SIGSTOP).expect("it runs");
    let said = ours(lab, &["--request-timeout", "2", "switchover", "--leader", &from, "--force"], "");
    kill(patroni.pid(leader), Signal::SIGCONT).expect("it is there");
    assert!(
        said.code == 0 && said.stdout.contains("Could not switchover using Patroni api, falling back to DCS"),
        "{said:#?}"
    );
    assert!(said.stderr.contains(&format!("ask {from} at http://")), "{said:#?}");
    wait_for("the other one to lead", async || (healthy(lab).await == 1 - leader).then_some(())).await;
}

fn remove(lab: &mut Lab) {
    let leader = ours(lab, &["list", "-f", "json"], "").stdout;
    let members: serde_json::Value = serde_json::from_str(&leader).expect("JSON");
    let leads = members.as_array().expect("a list").iter().find(|member| member["Role"] == "Leader");
    let leader = leads.expect("a leader")["Member"].as_str().expect("a name").to_owned();
    for node in &mut lab.nodes {
        node.power_off();
    }
    let said = ours(lab, &["remove", "lab"], &format!("lab\nYes I am aware\n{leader}\n"));
    assert_eq!(said.code, 0, "{said:#?}");
    succeeds(lab, &["list"], "(uninitialized)");
}
