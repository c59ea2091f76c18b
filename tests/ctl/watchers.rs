//! What watches a Patroni cluster from outside finds on ours what it looks for: check_patroni's checks over REST, and the leader
//! key, which tools that move an address (vip-manager) compare with a member's name.

use std::path::Path;
use std::process::{Child, Stdio};

use serde_json::Value;

use crate::patroni::{fetched, ours, run, tool};
use crate::support::lab::{Lab, Node};
use crate::support::wait_for;

const GOOD: i32 = 0;
const CRITICAL: i32 = 2;

pub async fn checks_see_the_cluster_as_it_is(lab: &Lab, leader: usize) {
    let replica = (leader + 1) % 3;
    let everybody: Vec<usize> = (0..3).collect();
    let state = lab.nodes[0].dir.join("check").display().to_string();
    let timeline = lab.nodes[leader].status().expect("it answers")["timeline"].to_string();
    let version = lab.nodes[leader].status().expect("it answers")["patroni"]["version"].clone();
    let version = version.as_str().expect("text");
    for (nodes, arguments, wanted) in [
        (&[leader][..], "node_is_alive", GOOD),
        (&[leader], "node_is_primary", GOOD),
        (&[leader], "node_is_leader", GOOD),
        (&[leader], "node_is_leader --is-standby-leader", CRITICAL),
        (&[leader], "node_is_replica", CRITICAL),
        (&[leader], "node_is_pending_restart", GOOD),
        (&[leader], &format!("node_tl_has_changed --timeline {timeline}"), GOOD),
        (&[leader], "node_tl_has_changed --timeline 4711", CRITICAL),
        (&[leader], &format!("node_patroni_version --patroni-version {version}"), GOOD),
        (&[replica], "node_is_alive", GOOD),
        (&[replica], "node_is_primary", CRITICAL),
        (&[replica], "node_is_leader", CRITICAL),
        (&[replica], "node_is_replica --max-lag 16MB", GOOD),
        (&[replica], "node_is_replica --is-async", GOOD),
        (&[replica], "node_is_replica --is-sync", CRITICAL),
        (&everybody, "cluster_node_count --critical 3: --healthy-critical 3:", GOOD),
        (&everybody, "cluster_node_count --critical 4:", CRITICAL),
        (&everybody, "cluster_has_leader", GOOD),
        (&everybody, "cluster_has_replica --critical 2: --max-lag 16MB", GOOD),
        (&everybody, "cluster_has_replica --critical 3:", CRITICAL),
        (&everybody, "cluster_is_in_maintenance", GOOD),
        (&everybody, "cluster_has_scheduled_action", GOOD),
        // Nothing was saved before the first.
        (&everybody, &format!("cluster_config_has_changed --save --state-file {state}"), CRITICAL),
        (&everybody, &format!("cluster_config_has_changed --state-file {state}"), GOOD),
    ] {
        check(lab, nodes, arguments, wanted).await;
    }
    let paused = ours(lab, &["pause", "--wait"], "");
    assert_eq!(paused.code, 0, "{paused:#?}");
    check(lab, &everybody, "cluster_is_in_maintenance", CRITICAL).await;
    check(lab, &everybody, &format!("cluster_config_has_changed --state-file {state}"), CRITICAL).await;
    let resumed = ours(lab, &["resume", "--wait"], "");
    assert_eq!(resumed.code, 0, "{resumed:#?}");
    check(lab, &everybody, "cluster_is_in_maintenance", GOOD).await;
    let later = ["switchover", "--scheduled", "2100-01-01T10:00", "--force"];
    let scheduled = ours(lab, &later, "");
    assert_eq!(scheduled.code, 0, "{scheduled:#?}");
    check(lab, &everybody, "cluster_has_scheduled_action", CRITICAL).await;
    ours(lab, &["flush", "lab", "switchover"], "");
    check(lab, &everybody, "cluster_has_scheduled_action", GOOD).await;
}

/// A member tells what it knew a moment ago, so a check may need a second look.
async fn check(lab: &Lab, nodes: &[usize], arguments: &str, wanted: i32) {
    let program = tool("check_patroni").expect("it is fetched with Patroni");
    let addresses: Vec<&str> = nodes.iter().map(|&node| lab.nodes[node].address.as_str()).collect();
    let endpoints = addresses.iter().map(|address| format!("http://{address}:8008")).collect::<Vec<_>>();
    let endpoints = endpoints.join(",");
    let words: Vec<&str> = ["-e", &endpoints].into_iter().chain(arguments.split(' ')).collect();
    let mut last = None;
    let what = format!("check_patroni {arguments} to end with {wanted}");
    wait_for(&what, async || {
        let said = run(&program, &words, "", &[]);
        let fits = said.code == wanted;
        if last.as_ref() != Some(&said) {
            let line = said.stdout.lines().next().unwrap_or(&said.stderr);
            println!("check_patroni {arguments}: {} {line}", said.code);
        }
        last = Some(said);
        fits.then_some(())
    })
    .await;
}

/// Whoever watches the key hears of a change of the leader and of nothing else: the key is written once, and its lease is kept.
pub async fn the_leader_key_names_the_leader_and_stands_still(lab: &Lab, leader: usize) {
    let (name, before) = leader_key(lab);
    assert_eq!(name, lab.nodes[leader].name);
    let heard = || lab.nodes[leader].status()?["dcs_last_seen"].as_u64();
    let first = wait_for("the leader's word from the store", async || heard()).await;
    wait_for("the lease to be renewed for longer than its time", async || {
        (heard()? > first + 6).then_some(())
    })
    .await;
    assert_eq!(leader_key(lab), (name, before), "a renewal does not write the key");
}

/// Whom it names, and when it was written.
pub fn leader_key(lab: &Lab) -> (String, u64) {
    let endpoint = lab.store_servers[0].endpoint();
    let words = ["--endpoints", &endpoint, "get", "/service/lab/leader", "-w", "fields"];
    let said = run(Path::new("/usr/bin/etcdctl"), &words, "", &[("ETCDCTL_API", "3")]);
    let field = |name: &str| {
        let line = said.stdout.lines().find_map(|line| line.strip_prefix(&format!("\"{name}\" : ")));
        line.unwrap_or_else(|| panic!("{name} in {said:#?}")).to_owned()
    };
    let text: Value = serde_json::from_str(&field("Value")).expect("text in quotes");
    (text.as_str().expect("text").to_owned(), field("ModRevision").parse().expect("a number"))
}

/// A vip-manager beside every agent, each of which takes one address to its machine while the leader key names its member.
pub struct Addresses {
    managers: Vec<Child>,
}

const ADDRESS: &str = "10.99.0.200";

impl Addresses {
    pub fn managed(lab: &Lab) -> Addresses {
        let Some(program) = fetched("vip-manager/usr/bin/vip-manager") else {
            println!("not run: vip-manager (scripts/fetch-vip-manager) is needed");
            return Addresses { managers: Vec::new() };
        };
        let store = format!("http://{}", lab.store_servers[0].endpoint());
        let manager = |node: &Node| {
            let words = [
                "--ip",
                ADDRESS,
                "--netmask",
                "24",
                "--interface",
                "eth0",
                "--dcs-type",
                "etcd",
                "--interval",
                "100",
            ];
            let mut command = node.machine.command(&program.display().to_string());
            command.args(words).args(["--dcs-endpoints", &store]);
            command.args(["--trigger-key", "/service/lab/leader", "--trigger-value", &node.name]);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn().expect("ip is installed")
        };
        Addresses { managers: lab.nodes.iter().map(manager).collect() }
    }

    /// One machine has the address, the leader's.
    pub async fn lead_to(&self, lab: &Lab, leader: usize) {
        if self.managers.is_empty() {
            return;
        }
        let has = |node: &Node| {
            let told =
                node.machine.command("ip").args(["-oneline", "address", "show", "dev", "eth0"]).output();
            String::from_utf8_lossy(&told.expect("ip is installed").stdout).contains(&format!(" {ADDRESS}/"))
        };
        wait_for("the address at the leader, and nowhere else", async || {
            lab.nodes.iter().enumerate().all(|(index, node)| has(node) == (index == leader)).then_some(())
        })
        .await;
    }
}

impl Drop for Addresses {
    fn drop(&mut self) {
        for manager in &mut self.managers {
            // One that has ended by itself is what we want.
            let _ = manager.kill();
            let _ = manager.wait();
        }
    }
}
