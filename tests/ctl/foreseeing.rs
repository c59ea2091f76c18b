//! More states of a cluster in which the leader's host is lost: who was foreseen to take over does so, and nobody else.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::explaining::{comes_true, document, foreseen, name, others, rule};
use crate::patroni::succeeds;
use crate::support::lab::{Lab, Setup, in_lab};
use crate::support::wait_for;

#[test]
fn whoever_is_foreseen_takes_over() {
    let dynamic = "maximum_lag_on_failover: 1048576";
    in_lab(&Setup { dynamic, ..Setup::default() }, async |lab| {
        lab.start_everybody();
        lab.healthy().await;
        nothing_is_wrong(lab).await;
        one_is_kept_from_it_by_an_operator(lab).await;
        everybody_is_kept_from_it(lab).await;
        the_agent_of_one_is_frozen(lab).await;
        one_is_too_far_behind(lab).await;
        a_quorum_has_every_commit(lab).await;
        the_others_consent_without_the_store(lab).await;
    });
}

fn set(lab: &Lab, setting: &str) {
    succeeds(lab, &["edit-config", "-s", setting, "--force"], "Configuration changed");
}

/// Nobody else than `able` would take over, and each member knows it.
async fn only(lab: &Lab, able: &str, known: impl Fn(&Value) -> bool) -> Vec<String> {
    let takes = |told: &Value| {
        let takes = told["takes"].as_array().map_or(&[][..], |takes| &takes[..]);
        takes.len() == 1 && takes[0]["member"] == able
    };
    foreseen(lab, |told| known(told) && takes(told)).await.0
}

/// Both others can, and each says so.
async fn nothing_is_wrong(lab: &mut Lab) {
    let leader = lab.healthy().await;
    let both = |told: &Value| told["takes"].as_array().is_some_and(|takes| takes.len() == 2);
    let (takes, _) = foreseen(lab, both).await;
    comes_true(lab, leader, &takes).await;
}

async fn one_is_kept_from_it_by_an_operator(lab: &mut Lab) {
    let leader = lab.healthy().await;
    let [kept, able] = others(leader).map(|node| name(lab, node));
    succeeds(lab, &["maintenance", &kept, "--reason", "a new disk"], "is in maintenance");
    let takes = only(lab, &able, |told| told["members"][&kept]["rule"] == "candidate_barred").await;
    comes_true(lab, leader, &takes).await;
    succeeds(lab, &["maintenance", &kept, "--end"], "has ended");
}

/// Until one of them may again.
async fn everybody_is_kept_from_it(lab: &mut Lab) {
    let leader = lab.healthy().await;
    let rest = others(leader);
    let names = rest.map(|node| name(lab, node));
    for kept in &names {
        succeeds(lab, &["nofailover", kept], "is not promoted");
    }
    let barred = |told: &Value| names.iter().all(|kept| told["members"][kept]["rule"] == "candidate_barred");
    let (takes, told) = foreseen(lab, barred).await;
    assert!(takes.is_empty(), "{told:#}");
    lab.nodes[leader].power_off();
    wait_for("nobody who takes over", async || {
        let cluster = document(lab, &["explain"]);
        let barred = rest.iter().all(|&node| rule(lab, node).as_deref() == Some("candidate_barred"));
        (cluster["leader"].is_null() && barred).then_some(())
    })
    .await;
    succeeds(lab, &["nofailover", &names[1], "--end"], "has ended");
    assert_eq!(lab.leader_among(&rest).await, rest[1]);
    succeeds(lab, &["nofailover", &names[0], "--end"], "has ended");
    lab.nodes[leader].start_agent();
    assert_eq!(lab.healthy().await, rest[1]);
}

async fn the_agent_of_one_is_frozen(lab: &mut Lab) {
    let leader = lab.healthy().await;
    let [frozen, able] = others(leader);
    lab.nodes[frozen].signal_agent(Signal::SIGSTOP);
    let silent = name(lab, frozen);
    only(lab, &name(lab, able), |told| told["unknown"][&silent].is_string()).await;
    lab.nodes[leader].power_off();
    assert_eq!(lab.leader_among(&[able]).await, able);
    lab.nodes[frozen].signal_agent(Signal::SIGCONT);
    lab.nodes[leader].start_agent();
    assert_eq!(lab.healthy().await, able);
}

/// Its WAL receiver stands still while more is written than a candidate may lack.
async fn one_is_too_far_behind(lab: &mut Lab) {
    let leader = lab.healthy().await;
    let [late, able] = others(leader);
    let receiver = wal_receiver(lab, late);
    kill(receiver, Signal::SIGSTOP).expect("it runs");
    let client = lab.client(leader).await;
    let write = "CREATE TABLE much AS SELECT repeat(md5(i::text), 32) FROM generate_series(1, 8000) i";
    client.batch_execute(write).await.expect("the leader takes it");
    client.batch_execute("DROP TABLE much").await.expect("the leader takes it");
    drop(client);
    let far = name(lab, late);
    let is_far = |told: &Value| told["members"][&far]["rule"] == "candidate_too_far_behind";
    only(lab, &name(lab, able), is_far).await;
    lab.nodes[leader].power_off();
    assert_eq!(lab.leader_among(&others(leader)).await, able);
    kill(receiver, Signal::SIGCONT).expect("it runs");
    lab.nodes[leader].start_agent();
    assert_eq!(lab.healthy().await, able);
}

fn wal_receiver(lab: &Lab, node: usize) -> Pid {
    let postmaster = lab.nodes[node].postmaster_pid().expect("PostgreSQL runs");
    let children = std::fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children"));
    let children = children.expect("the kernel tells");
    let is_receiver = |pid: &&str| {
        std::fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|title| String::from_utf8_lossy(&title).contains("walreceiver"))
    };
    let pid = children.split_whitespace().find(is_receiver).expect("a standby that streams");
    Pid::from_raw(pid.parse().expect("a number"))
}

async fn a_quorum_has_every_commit(lab: &mut Lab) {
    let leader = lab.healthy().await;
    set(lab, "synchronous_mode=quorum");
    let proved = |told: &Value| {
        let takes = told["takes"].as_array().map_or(&[][..], |takes| &takes[..]);
        // Whoever lags for a moment would not be foreseen, and may take over a moment later.
        takes.len() == 2 && takes.iter().all(|takes| takes["loss"] == "0: synchronous")
    };
    let (takes, _) = foreseen(lab, proved).await;
    comes_true(lab, leader, &takes).await;
    set(lab, "synchronous_mode=null");
    let off =
        async || (!lab.nodes[0].request("GET", "/cluster", "")?.1.contains("quorum_standby")).then_some(());
    wait_for("asynchronous standbys", off).await;
}

/// With failsafe mode on, who is lost is replaced all the same.
async fn the_others_consent_without_the_store(lab: &mut Lab) {
    let leader = lab.healthy().await;
    set(lab, "failsafe_mode=true");
    wait_for("the members that would be asked", async || {
        let (status, told) = lab.nodes[leader].request("GET", "/failsafe", "")?;
        (status == 200 && lab.nodes.iter().all(|node| told.contains(&node.name))).then_some(())
    })
    .await;
    let (takes, _) =
        foreseen(lab, |told| told["takes"].as_array().is_some_and(|takes| takes.len() == 2)).await;
    comes_true(lab, leader, &takes).await;
}
