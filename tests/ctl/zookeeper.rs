//! Both commands on a cluster of ours whose store is ZooKeeper, and a cluster of our agents and Patroni's on one.

use std::fs;
use std::process::{Child, Stdio};

use tenure::clock;
use tenure::model::Span;

use crate::patroni::{ours, succeeds, theirs, tool, with_patronictl_in};
use crate::reverse::the_same_is_told;
use crate::support::lab::{Lab, Setup};
use crate::support::store_server::StoreKind;
use crate::support::wait_for;

const TTL: u32 = 10;

fn on_zookeeper(nodes: usize, ttl: u32) -> Setup {
    Setup { nodes, ttl, store: StoreKind::Zookeeper, ..Setup::default() }
}

#[test]
fn both_commands_govern_a_cluster_on_zookeeper() {
    with_patronictl_in(&on_zookeeper(3, TTL), async |lab| {
        lab.start_everybody();
        let first = lab.healthy().await;
        the_same_is_told(lab).await;
        facts(lab, first);
        change_leaders(lab, first).await;
        the_same_is_told(lab).await;
        configure(lab).await;
        restart_reload_reinit(lab).await;
        maintain(lab).await;
        remove(lab);
    });
}

fn name(lab: &Lab, node: usize) -> String {
    lab.nodes[node].name.clone()
}

fn facts(lab: &Lab, leader: usize) {
    let timing = succeeds(lab, &["show-timing", "-f", "tsv"], "shortest lease\t1 s\t");
    for line in ["store\tZooKeeper at 10.99.0.21:2181\t", "longest lease\t1000 s\t", "free after\t10 s\t"] {
        assert!(timing.contains(line), "{line:?}: {timing}");
    }
    succeeds(lab, &["version", "lab"], &format!("{}: Tenure ", name(lab, leader)));
    succeeds(lab, &["query", "-c", "select pg_is_in_recovery()", "-r", "primary"], "False");
    let by_url = ours(lab, &["-d", "zookeeper://10.99.0.21", "list", "-f", "tsv"], "");
    assert!(by_url.code == 0 && by_url.stdout.lines().count() == 4, "{by_url:#?}");
}

async fn change_leaders(lab: &Lab, first: usize) {
    let second = (first + 1) % 3;
    let (from, to) = (name(lab, first), name(lab, second));
    let there = theirs(lab, &["switchover", "lab", "--leader", &from, "--candidate", &to, "--force"], "");
    assert!(there.stdout.contains(&format!("Successfully switched over to \"{to}\"")), "{there:#?}");
    assert_eq!(lab.healthy().await, second);
    succeeds(lab, &["switchover", "--candidate", &from, "--force"], "Successfully switched over");
    assert_eq!(lab.healthy().await, first);
    succeeds(lab, &["failover", "--candidate", &to, "--force"], "Successfully failed over");
    assert_eq!(lab.healthy().await, second);
    let later = ["switchover", "--scheduled", "2100-01-01T10:00", "--force"];
    succeeds(lab, &later, "Switchover scheduled");
    // The leader flushes what it has seen in the store.
    wait_for("a leader that knows of the schedule", async || {
        let (_, cluster) = lab.nodes[second].request("GET", "/cluster", "")?;
        cluster.contains("scheduled_switchover").then_some(())
    })
    .await;
    succeeds(lab, &["flush", "lab", "switchover"], "Success: scheduled switchover deleted");
}

async fn configure(lab: &Lab) {
    let theirs = theirs(lab, &["edit-config", "-s", "maximum_lag_on_failover=2097152", "--force"], "");
    assert!(theirs.stdout.ends_with("Configuration changed\n"), "{theirs:#?}");
    succeeds(lab, &["edit-config", "-p", "max_connections=120", "--force"], "Configuration changed");
    succeeds(lab, &["show-config"], "max_connections: 120");
    wait_for("everybody's pending restart", async || {
        let text = ours(lab, &["list"], "").stdout;
        (text.matches("max_connections: 100->120").count() == 3).then_some(())
    })
    .await;
}

async fn restart_reload_reinit(lab: &Lab) {
    let leader = lab.healthy().await;
    let replica = name(lab, (leader + 1) % 3);
    succeeds(lab, &["restart", "lab", "--pending", "--force"], "Success: restart on member node3");
    assert_eq!(lab.healthy().await, leader);
    succeeds(lab, &["reload", "lab", "--force"], "Reload request received for member node2");
    let done = format!("Reinitialize is completed on: {replica}\n");
    let text = succeeds(lab, &["reinit", "lab", &replica, "--force", "--wait"], &done);
    assert!(text.ends_with(&done), "{text}");
    assert_eq!(lab.healthy().await, leader);
}

/// A paused PostgreSQL is left alone, by its guardian when the lease runs out, and by an agent that knows of no store.
async fn maintain(lab: &mut Lab) {
    let leader = lab.healthy().await;
    let paused = theirs(lab, &["pause", "--wait"], "");
    assert!(paused.stdout.ends_with("Success: cluster management is paused\n"), "{paused:#?}");
    succeeds(lab, &["list"], " Maintenance mode: on\n");
    let postmaster = lab.nodes[leader].postmaster_pid();
    lab.store_servers[0].kill();
    // Every chance to do harm.
    clock::pause(Span::from_secs(u64::from(TTL) + 2)).await;
    assert_eq!(lab.nodes[leader].http_status("/primary"), Some(200));
    lab.nodes[leader].kill_agent();
    lab.nodes[leader].start_agent();
    wait_for("an agent that knows of its PostgreSQL and of no store", async || {
        let status = lab.nodes[leader].status()?;
        (status["pause"] == true && status["state"] == "running").then_some(())
    })
    .await;
    lab.store_servers[0].start();
    wait_for("the lease of the primary that was left alone", async || {
        (lab.nodes[leader].http_status("/primary") == Some(200)).then_some(())
    })
    .await;
    assert_eq!(lab.nodes[leader].postmaster_pid(), postmaster);
    wait_for("a command that is answered", async || {
        let said = ours(lab, &["resume", "--wait"], "");
        (said.code == 0).then_some(())
    })
    .await;
    assert_eq!(lab.healthy().await, leader);
    assert_eq!(lab.nodes[leader].postmaster_pid(), postmaster);
}

fn remove(lab: &mut Lab) {
    let list = ours(lab, &["list", "-f", "json"], "").stdout;
    let members: serde_json::Value = serde_json::from_str(&list).expect("JSON");
    let leader = members.as_array().expect("a list").iter().find(|member| member["Role"] == "Leader");
    let leader = leader.expect("a leader")["Member"].as_str().expect("a name").to_owned();
    for node in &mut lab.nodes {
        node.power_off();
    }
    let said = ours(lab, &["remove", "lab"], &format!("lab\nYes I am aware\n{leader}\n"));
    assert_eq!(said.code, 0, "{said:#?}");
    succeeds(lab, &["list"], "(uninitialized)");
}

/// One member of ours and one of Patroni's, from the same configuration file, which hand over to each other.
#[test]
fn our_agents_and_patronis_hand_over_to_each_other_on_zookeeper() {
    with_patronictl_in(&on_zookeeper(2, 20), async |lab| {
        lab.nodes[0].start_agent();
        wait_for("our leader", async || (lab.nodes[0].http_status("/primary") == Some(200)).then_some(()))
            .await;
        lab.create_ledger(0).await;
        let patroni = Guest::start(lab, 1);
        let writer = lab.write_anywhere();
        lab.more_rows(50).await;
        follows(lab, 0).await;
        for (from, to) in [(0, 1), (1, 0), (0, 1)] {
            let (leader, candidate) = (name(lab, from), name(lab, to));
            let command = if from == 0 { theirs } else { ours };
            let wish = ["switchover", "lab", "--leader", &leader, "--candidate", &candidate, "--force"];
            let said = command(lab, &wish, "");
            let wanted = format!("Successfully switched over to \"{candidate}\"");
            assert!(said.stdout.contains(&wanted), "{said:#?}\n{}", patroni.log());
            follows(lab, to).await;
            lab.more_rows(50).await;
        }
        drop(writer);
        assert_eq!(lab.missing_rows(1).await, 0);
        lab.ledger.check_one_history_at_a_time();
    });
}

/// One leads, and the other streams from it on the same timeline.
async fn follows(lab: &Lab, leader: usize) {
    wait_for("a leader and its standby", async || {
        let (ahead, behind) = (lab.nodes[leader].status()?, lab.nodes[1 - leader].status()?);
        let leads = lab.nodes[leader].http_status("/primary") == Some(200);
        let streams = behind["replication_state"] == "streaming" && behind["timeline"] == ahead["timeline"];
        (leads && streams).then_some(())
    })
    .await;
}

/// Patroni's agent on the machine of a member, with the configuration that ours would have.
struct Guest {
    child: Child,
    log: std::path::PathBuf,
}

impl Guest {
    fn start(lab: &Lab, node: usize) -> Guest {
        let node = &lab.nodes[node];
        let path = node.dir.join("patroni.log");
        let log = fs::File::create(&path).expect("our own directory");
        let mut command = node.machine.command("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
        command.arg(tool("patroni").expect("it was looked for")).arg(node.dir.join("tenure.yml"));
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", &node.dir);
        command.current_dir(&node.dir).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a second handle")).stderr(log);
        Guest { child: command.spawn().expect("ip and setpriv are installed"), log: path }
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("---- Patroni\n{}", self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
