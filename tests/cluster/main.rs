//! Whole nodes as real processes, and what a client sees when they fail. See `support::lab`.

mod addresses;
mod backup;
mod customs;
mod failsafe;
mod fencing;
mod gate;
mod liveness;
mod page;
mod replicas;
mod rest;
mod service;
mod soak;
#[path = "../support/mod.rs"]
mod support;
mod synchronous;
mod topology;
mod zookeeper;

use nix::sys::signal::Signal;

use support::lab::{Lab, Node, Setup, in_lab};
use support::majors::bin_dirs;
use support::wait_for;
use tenure::clock;
use tenure::model::Span;

/// Three empty nodes become a cluster, with the writers' table on the leader.
async fn founded(lab: &mut Lab) -> usize {
    founded_with(lab, &[]).await
}

/// The same, with further variables in the agents' environment.
async fn founded_with(lab: &mut Lab, variables: &[(&str, &str)]) -> usize {
    lab.nodes.iter_mut().for_each(|node| node.start_agent_with(variables));
    let leader = lab.healthy().await;
    lab.create_ledger(leader).await;
    leader
}

fn others(leader: usize) -> Vec<usize> {
    (0..3).filter(|&index| index != leader).collect()
}

/// Harm that would be done needs time to be done in.
async fn passes(time: Span) {
    let until = clock::now() + time;
    wait_for("time to pass", async || (until <= clock::now()).then_some(())).await;
}

/// In the last line of the history.
async fn says_what_it_lost(lab: &Lab, leader: usize, words: &str) {
    let told = || lab.nodes[leader].request("GET", "/history", "").filter(|(status, _)| *status == 200);
    wait_for("the history to say what was lost", async || {
        let lines: Vec<serde_json::Value> = serde_json::from_str(&told()?.1).ok()?;
        lines.last()?[2].as_str()?.contains(words).then_some(())
    })
    .await;
}

#[test]
fn three_empty_nodes_become_a_cluster() {
    in_lab(&Setup::default(), async |lab| {
        let leader = founded(lab).await;
        let writer = lab.write_anywhere();
        lab.more_rows(50).await;
        drop(writer);
        assert_eq!(lab.missing_rows(leader).await, 0);
        for index in others(leader) {
            assert_eq!(lab.nodes[index].http_status("/replica"), Some(200));
            assert_eq!(lab.nodes[index].http_status("/primary"), Some(503));
        }
    });
}

#[test]
fn a_changed_file_is_taken_up_on_sighup_and_a_wrong_one_is_not() {
    in_lab(&Setup { nodes: 1, ..Setup::default() }, async |lab| {
        lab.nodes[0].start_agent();
        lab.healthy().await;
        let path = lab.nodes[0].dir.join("tenure.yml");
        let before = std::fs::read_to_string(&path).expect("our own file");
        let tags = |lab: &Lab| lab.nodes[0].status().map(|document| document["tags"].clone());
        for (addition, expected) in
            [("tags:\n  zone: a\n", "a"), ("tags: [\n", "a"), ("tags:\n  zone: b\n", "b")]
        {
            std::fs::write(&path, format!("{before}{addition}")).expect("our own file");
            lab.nodes[0].signal_agent(Signal::SIGHUP);
            let told = if addition.ends_with("[\n") { "is not taken up" } else { "was read again" };
            wait_for("the agent to have read its file", async || {
                lab.nodes[0].log().contains(told).then_some(())
            })
            .await;
            wait_for("the tags", async || (tags(lab)?["zone"] == expected).then_some(())).await;
        }
        assert_eq!(lab.nodes[0].http_status("/primary"), Some(200));
    });
}

#[test]
fn a_killed_postmaster_is_replaced_without_loss() {
    in_lab(&Setup::default(), async |lab| {
        let leader = founded(lab).await;
        let writer = lab.write_anywhere();
        lab.more_rows(100).await;
        let postmaster = lab.nodes[leader].postmaster_pid().expect("a running primary");
        nix::sys::signal::kill(postmaster, Signal::SIGKILL).expect("it runs");
        lab.more_rows(100).await;
        drop(writer);
        let leader = lab.healthy().await;
        assert_eq!(lab.missing_rows(leader).await, 0);
        lab.ledger.check_one_history_at_a_time();
    });
}

#[test]
fn a_lost_host_is_replaced_and_comes_back() {
    in_lab(&Setup::default(), async |lab| lose_a_host(lab).await);
}

/// On every major version that is there besides the system's own.
#[test]
fn a_lost_host_is_replaced_and_comes_back_on_other_majors() {
    for bin_dir in bin_dirs().into_iter().skip(1) {
        println!("with {}", bin_dir.display());
        in_lab(&Setup { bin_dir, ..Setup::default() }, async |lab| lose_a_host(lab).await);
    }
}

async fn lose_a_host(lab: &mut Lab) {
    let leader = founded(lab).await;
    let writer = lab.write_anywhere();
    lab.more_rows(100).await;
    lab.nodes[leader].machine.cut();
    lab.nodes[leader].power_off();
    lab.leader_among(&others(leader)).await;
    lab.more_rows(100).await;
    lab.nodes[leader].machine.heal();
    lab.nodes[leader].start_agent();
    let next = lab.healthy().await;
    drop(writer);
    says_what_it_lost(lab, next, "lost: at most the last ").await;
    // Replication is asynchronous: the last rows that the lost host acknowledged may be gone, and are counted.
    lab.missing_rows(next).await;
    lab.ledger.check_one_history_at_a_time();
}

#[test]
fn a_primary_that_is_cut_off_stops_by_its_deadline_and_rejoins() {
    in_lab(&Setup::default(), async |lab| {
        let leader = founded(lab).await;
        let writers = [lab.write_anywhere(), lab.write_at(leader)];
        lab.more_rows(100).await;
        lab.nodes[leader].machine.cut();
        let next = lab.leader_among(&others(leader)).await;
        lab.more_rows(100).await;
        // Two lease times and more: the old primary has had every chance to do harm.
        passes(Span::from_secs(10)).await;
        lab.nodes[leader].machine.heal();
        lab.healthy().await;
        drop(writers);
        lab.ledger.check_one_history_at_a_time();
        let client = lab.client(next).await;
        let missing = lab.ledger.missing(&client).await;
        // Only what the cut-off side was told after the cut may be gone: replication is asynchronous.
        let name = lab.nodes[leader].name.clone();
        assert!(missing.iter().all(|row| row.writer == name || row.timeline == 1), "{missing:?}");
    });
}

#[test]
fn losing_the_leader_of_etcd_costs_nothing() {
    in_lab(&Setup { store_servers: 3, ..Setup::default() }, async |lab| {
        let leader = founded(lab).await;
        let writer = lab.write_anywhere();
        lab.more_rows(50).await;
        let first = lab
            .store_servers
            .iter()
            .position(support::store_server::StoreServer::leads)
            .expect("etcd has a leader");
        lab.store_servers[first].kill();
        wait_for("etcd's new leader", async || {
            lab.store_servers
                .iter()
                .enumerate()
                .any(|(index, server)| index != first && server.leads())
                .then_some(())
        })
        .await;
        lab.more_rows(200).await;
        drop(writer);
        assert_eq!(lab.healthy().await, leader, "nobody had a reason to take over");
        assert!(lab.ledger.rows().iter().all(|row| row.timeline == 1));
        assert_eq!(lab.missing_rows(leader).await, 0);
    });
}

#[test]
fn without_a_store_the_primary_stops_and_with_it_leads_again() {
    in_lab(&Setup { store_servers: 3, ..Setup::default() }, async |lab| {
        let leader = founded(lab).await;
        let writer = lab.write_anywhere();
        lab.more_rows(50).await;
        lab.store_servers[0].kill();
        lab.store_servers[1].kill();
        wait_for("a primary that has stopped", async || {
            (lab.nodes[leader].http_status("/primary") == Some(503)).then_some(())
        })
        .await;
        lab.store_servers[0].start();
        lab.store_servers[1].start();
        let next = lab.healthy().await;
        lab.more_rows(50).await;
        drop(writer);
        lab.missing_rows(next).await;
        lab.ledger.check_one_history_at_a_time();
    });
}

#[test]
fn a_restarted_agent_causes_no_outage() {
    in_lab(&Setup::default(), async |lab| {
        let leader = founded(lab).await;
        let postmaster = lab.nodes[leader].postmaster_pid();
        let writer = lab.write_anywhere();
        lab.more_rows(50).await;
        lab.nodes[leader].kill_agent();
        lab.nodes[leader].start_agent();
        // Longer than the lease could have lived without the new agent.
        passes(Span::from_secs(7)).await;
        lab.more_rows(50).await;
        drop(writer);
        assert_eq!(lab.healthy().await, leader);
        assert_eq!(lab.nodes[leader].postmaster_pid(), postmaster);
        assert!(lab.ledger.rows().iter().all(|row| row.timeline == 1));
        assert_eq!(lab.missing_rows(leader).await, 0);
    });
}

#[test]
fn a_lost_data_directory_is_cloned_anew() {
    in_lab(&Setup::default(), async |lab| {
        let leader = founded(lab).await;
        let writer = lab.write_anywhere();
        lab.more_rows(50).await;
        let victim = others(leader)[0];
        lab.nodes[victim].power_off();
        std::fs::remove_dir_all(lab.nodes[victim].dir.join("data")).expect("our own directory");
        lab.nodes[victim].start_agent();
        assert_eq!(lab.healthy().await, leader);
        drop(writer);
        assert_eq!(lab.missing_rows(leader).await, 0);
    });
}

#[test]
fn a_switchover_goes_there_and_back_without_loss() {
    in_lab(&Setup::default(), async |lab| {
        let first = founded(lab).await;
        let writer = lab.write_anywhere();
        lab.more_rows(50).await;
        let second = others(first)[0];
        for (from, to) in [(first, second), (second, first)] {
            switches_over(lab, from, to).await;
            says_what_it_lost(lab, to, "lost: 0: the former leader stopped in good order").await;
        }
        // In maintenance mode nothing happens by itself, and an operator may still say who is to lead.
        maintenance(lab, true).await;
        switches_over(lab, first, second).await;
        maintenance(lab, false).await;
        switches_over(lab, second, first).await;
        drop(writer);
        assert_eq!(lab.missing_rows(first).await, 0);
        lab.ledger.check_one_history_at_a_time();
    });
}

async fn switches_over(lab: &Lab, from: usize, to: usize) {
    let wish = serde_json::json!({"leader": lab.nodes[from].name, "candidate": lab.nodes[to].name});
    let said = lab.nodes[from].request("POST", "/switchover", &wish.to_string()).expect("an answer");
    assert_eq!(said, (200, format!("Successfully switched over to \"{}\"", lab.nodes[to].name)));
    assert_eq!(lab.healthy().await, to);
    lab.more_rows(50).await;
}

async fn maintenance(lab: &Lab, on: bool) {
    let wish = serde_json::json!({"pause": on.then_some(true)}).to_string();
    let (status, text) = lab.nodes[0].request("PATCH", "/config", &wish).expect("an answer");
    assert_eq!(status, 200, "{text}");
    wait_for("everybody to know of the maintenance mode", async || {
        let knows = |node: &Node| node.status().is_some_and(|status| (status["pause"] == true) == on);
        lab.nodes.iter().all(knows).then_some(())
    })
    .await;
}

#[test]
fn an_agent_that_ends_in_good_order_hands_over_without_loss() {
    in_lab(&Setup::default(), async |lab| {
        let leader = founded(lab).await;
        let writer = lab.write_anywhere();
        lab.more_rows(50).await;
        lab.nodes[leader].end_agent();
        assert!(lab.nodes[leader].postmaster_pid().is_none(), "PostgreSQL was stopped");
        let next = lab.leader_among(&others(leader)).await;
        lab.more_rows(50).await;
        drop(writer);
        assert_eq!(lab.missing_rows(next).await, 0);
        lab.nodes[leader].start_agent();
        lab.healthy().await;
        lab.ledger.check_one_history_at_a_time();
    });
}
