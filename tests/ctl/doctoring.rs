//! `tenurectl doctor` on a cluster of ours: what a lab is told of that is in order, and real faults, found with their remedies.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;

use nix::sys::signal::Signal;
use nix::unistd::User;
use serde_json::Value;

use crate::patroni::{ours, succeeds};
use crate::support::lab::Lab;
use crate::support::wait_for;

/// A lab has one store server, one kernel and no watchdogs, and says so. How fast its disk is depends on who else is at work.
const OF_THE_LAB: [&str; 4] = ["store_alone", "same_machine", "watchdog_off", "store_slow"];

pub async fn finds_what_will_bite(lab: &mut Lab, leader: usize) {
    passwords_in_the_open(lab);
    is_in_order(lab);
    a_gap_in_pg_hba(lab, leader).await;
    a_pending_restart(lab).await;
    a_balancer(lab);
    an_agent_that_is_down(lab, leader).await;
}

/// How it ends, and what it says.
fn doctor(lab: &Lab, arguments: &[&str]) -> (i32, Value) {
    let said = ours(lab, &[&["doctor", "-f", "json"], arguments].concat(), "");
    let told = serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said:#?}"));
    (said.code, told)
}

fn findings<'a>(told: &'a Value, check: &str) -> Vec<&'a Value> {
    let all = told["findings"].as_array().expect("findings");
    all.iter().filter(|finding| finding["check"] == check).collect()
}

fn config_file(lab: &Lab, node: usize) -> PathBuf {
    lab.nodes[node].dir.join("tenure.yml")
}

/// The lab's own files are readable for everybody: they hold passwords.
fn passwords_in_the_open(lab: &Lab) {
    let (code, told) = doctor(lab, &[]);
    let found = findings(&told, "secret_readable");
    assert_eq!((code, found.len()), (2, 3), "{told:#}");
    let first = config_file(lab, 0).display().to_string();
    let remedy = format!("chmod o-r {first}");
    assert!(found.iter().any(|finding| finding["remedy"] == remedy.as_str()), "{told:#}");
    let agent = User::from_name("postgres").expect("a user database").expect("the packages made it");
    for node in 0..lab.nodes.len() {
        let path = config_file(lab, node);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("our own file");
        chown(&path, Some(agent.uid.as_raw()), None).expect("root may");
    }
}

fn is_in_order(lab: &Lab) {
    let (code, told) = doctor(lab, &[]);
    println!("{}", ours(lab, &["doctor"], "").stdout);
    let found: Vec<&str> = told["findings"]
        .as_array()
        .expect("findings")
        .iter()
        .filter_map(|one| one["check"].as_str())
        .collect();
    assert!(found.iter().all(|check| OF_THE_LAB.contains(check)), "{told:#}");
    assert_eq!((code, &told["errors"], &told["unknown"]), (1, &0.into(), &0.into()), "{told:#}");
    let ignored: Vec<&str> = OF_THE_LAB.iter().flat_map(|check| ["--ignore", *check]).collect();
    let (code, told) = doctor(lab, &ignored);
    assert_eq!((code, &told["findings"]), (0, &serde_json::json!([])), "{told:#}");
    for check in
        ["hba_replication", "hba_rewind", "role_rewind", "collations_differ", "senders_few", "clocks_apart"]
    {
        assert!(
            told["good"].as_array().is_some_and(|good| good.contains(&check.into())),
            "{check}: {told:#}"
        );
    }
    let quiet = ours(lab, &[&["doctor", "--quiet"], &*ignored].concat(), "");
    assert_eq!((quiet.code, quiet.stdout.as_str()), (0, ""), "{quiet:#?}");
    let one = ours(lab, &["doctor", "node2"], "");
    assert!(one.stdout.contains("watchdog_off  node2") && !one.stdout.contains("  node1"), "{one:#?}");
    assert_eq!(ours(lab, &["doctor", "somebody"], "").code, 3);
    assert_eq!(ours(lab, &["doctor", "--ignore", "rain"], "").code, 2);
}

async fn a_gap_in_pg_hba(lab: &Lab, leader: usize) {
    let path = config_file(lab, leader);
    let text = fs::read_to_string(&path).expect("our own file");
    let line = "host replication all 0.0.0.0/0 scram-sha-256";
    assert!(text.contains(line), "{text}");
    let spared = &lab.nodes[(leader + 1) % 3];
    let refused = &lab.nodes[(leader + 2) % 3];
    let narrow = format!("host replication all {}/32 scram-sha-256", spared.address);
    fs::write(&path, text.replace(line, &narrow)).expect("our own file");
    lab.nodes[leader].signal_agent(Signal::SIGHUP);
    let told = wait_for("the gap", async || {
        let (_, told) = doctor(lab, &[]);
        (!findings(&told, "hba_replication").is_empty()).then_some(told)
    })
    .await;
    let found = findings(&told, "hba_replication");
    assert_eq!((found.len(), &found[0]["member"]), (1, &lab.nodes[leader].name.as_str().into()), "{told:#}");
    let measured = found[0]["measured"].as_str().expect("text");
    assert!(measured.contains(&refused.name) && measured.contains("no line lets it in"), "{told:#}");
    let remedy =
        format!("add to postgresql.pg_hba: host replication replicator {}/32 scram-sha-256", refused.address);
    assert_eq!(found[0]["remedy"], remedy.as_str(), "{told:#}");
    println!("{}", ours(lab, &["doctor", "--quiet", &lab.nodes[leader].name], "").stdout);
    fs::write(&path, text).expect("our own file");
    lab.nodes[leader].signal_agent(Signal::SIGHUP);
    wait_for("no gap", async || findings(&doctor(lab, &[]).1, "hba_replication").is_empty().then_some(()))
        .await;
}

async fn a_pending_restart(lab: &Lab) {
    succeeds(lab, &["edit-config", "-p", "max_worker_processes=9", "--force"], "Configuration changed");
    let told = wait_for("everybody's pending restart", async || {
        let (_, told) = doctor(lab, &[]);
        (findings(&told, "pending_restart").len() == 3).then_some(told)
    })
    .await;
    let remedies: Vec<&Value> =
        findings(&told, "pending_restart").into_iter().map(|finding| &finding["remedy"]).collect();
    assert_eq!(remedies[0], "`tenurectl restart lab node1 --pending`", "{told:#}");
    succeeds(lab, &["edit-config", "-p", "max_worker_processes=null", "--force"], "Configuration changed");
    wait_for("nothing pending", async || {
        findings(&doctor(lab, &[]).1, "pending_restart").is_empty().then_some(())
    })
    .await;
}

fn a_balancer(lab: &Lab) {
    let path = lab.nodes[0].dir.join("haproxy.cfg");
    let check = |port: u16| {
        let server = |node: &crate::support::lab::Node| {
            format!("    server {} {}:5432 check port {port}\n", node.name, node.address)
        };
        let servers: String = lab.nodes.iter().map(server).collect();
        let text = format!(
            "listen primary\n    bind *:5000\n    option httpchk OPTIONS /primary\n    http-check expect status 200\n    \
             default-server inter 1s fastinter 250ms fall 2 rise 1 on-marked-down shutdown-sessions\n{servers}"
        );
        fs::write(&path, text).expect("our own directory");
        doctor(lab, &["--haproxy", &path.display().to_string()])
    };
    assert_eq!(findings(&check(8008).1, "proxy_port").len(), 0);
    let (code, told) = check(8009);
    assert_eq!((code, findings(&told, "proxy_port").len()), (2, 3), "{told:#}");
}

async fn an_agent_that_is_down(lab: &mut Lab, leader: usize) {
    let down = (leader + 1) % 3;
    lab.nodes[down].kill_agent();
    let name = lab.nodes[down].name.clone();
    let (code, told) = doctor(lab, &[]);
    let silent = findings(&told, "member_silent");
    assert_eq!((code, silent.len(), &silent[0]["member"]), (1, 1, &name.as_str().into()), "{told:#}");
    assert!(
        silent[0]["remedy"].as_str().is_some_and(|remedy| remedy.contains("systemctl status")),
        "{told:#}"
    );
    lab.nodes[down].start_agent();
    assert_eq!(lab.healthy().await, leader);
}

/// In synchronous mode. Each member tells it when it has replayed it.
pub async fn commits_that_wait_for_nobody(lab: &Lab) {
    let measured = || -> Vec<String> {
        let (_, told) = doctor(lab, &[]);
        let found = findings(&told, "sessions_do_not_wait");
        found.iter().filter_map(|finding| Some(finding["measured"].as_str()?.to_owned())).collect()
    };
    succeeds(
        lab,
        &["query", "-r", "primary", "-c", "ALTER ROLE rewinder SET synchronous_commit = local"],
        "",
    );
    wait_for("everybody to name the role", async || {
        (measured() == ["role rewinder: synchronous_commit=local"; 3]).then_some(())
    })
    .await;
    succeeds(lab, &["query", "-r", "primary", "-c", "ALTER ROLE rewinder RESET synchronous_commit"], "");
    wait_for("nobody to name it", async || measured().is_empty().then_some(())).await;
}
