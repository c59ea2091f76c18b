//! What must hold on etcd must hold on ZooKeeper: whole nodes on a real one.

use nix::sys::signal::Signal;
use tenure::model::Span;

use crate::support::lab::{Lab, Setup, in_lab};
use crate::support::store_server::{StoreKind, StoreServer};
use crate::support::wait_for;
use crate::{founded, lose_a_host, others, passes};

const TTL: u32 = 10;

fn on_zookeeper(servers: usize) -> Setup {
    Setup { store: StoreKind::Zookeeper, store_servers: servers, ttl: TTL, ..Setup::default() }
}

/// Every chance to do harm.
async fn two_lease_times() {
    passes(Span::from_secs(u64::from(2 * TTL))).await;
}

#[test]
fn a_lost_host_is_replaced_and_comes_back() {
    in_lab(&on_zookeeper(1), async |lab| lose_a_host(lab).await);
}

#[test]
fn a_primary_that_is_cut_off_stops_by_its_deadline_and_rejoins() {
    in_lab(&on_zookeeper(1), async |lab| {
        let leader = founded(lab).await;
        let writers = [lab.write_anywhere(), lab.write_at(leader)];
        lab.more_rows(100).await;
        lab.nodes[leader].machine.cut();
        let next = lab.leader_among(&others(leader)).await;
        lab.more_rows(100).await;
        two_lease_times().await;
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
fn a_frozen_agent_loses_its_lease_and_its_primary() {
    in_lab(&on_zookeeper(1), async |lab| {
        let leader = founded(lab).await;
        let writers = [lab.write_anywhere(), lab.write_at(leader)];
        lab.more_rows(100).await;
        lab.nodes[leader].signal_agent(Signal::SIGSTOP);
        lab.leader_among(&others(leader)).await;
        lab.more_rows(100).await;
        lab.nodes[leader].signal_agent(Signal::SIGCONT);
        let next = lab.healthy().await;
        drop(writers);
        assert!(others(leader).contains(&next));
        lab.missing_rows(next).await;
        lab.ledger.check_one_history_at_a_time();
    });
}

#[test]
fn a_restarted_agent_goes_on_with_its_session_and_causes_no_outage() {
    in_lab(&on_zookeeper(1), async |lab| {
        let leader = founded(lab).await;
        let postmaster = lab.nodes[leader].postmaster_pid();
        let writer = lab.write_anywhere();
        lab.more_rows(50).await;
        lab.nodes[leader].kill_agent();
        lab.nodes[leader].start_agent();
        two_lease_times().await;
        lab.more_rows(50).await;
        drop(writer);
        assert_eq!(lab.healthy().await, leader);
        assert_eq!(lab.nodes[leader].postmaster_pid(), postmaster);
        nothing_happened(lab, leader).await;
    });
}

#[test]
fn a_switchover_goes_there_and_back_without_loss() {
    in_lab(&on_zookeeper(1), async |lab| {
        let first = founded(lab).await;
        let writer = lab.write_anywhere();
        lab.more_rows(50).await;
        let second = others(first)[0];
        for (from, to) in [(first, second), (second, first)] {
            let wish = serde_json::json!({"leader": lab.nodes[from].name, "candidate": lab.nodes[to].name});
            let (status, text) =
                lab.nodes[from].request("POST", "/switchover", &wish.to_string()).expect("an answer");
            assert_eq!(status, 200, "{text}");
            assert_eq!(lab.healthy().await, to);
            lab.more_rows(50).await;
        }
        drop(writer);
        assert_eq!(lab.missing_rows(first).await, 0);
        lab.ledger.check_one_history_at_a_time();
    });
}

#[test]
fn losing_the_leader_of_zookeeper_costs_nothing() {
    in_lab(&on_zookeeper(3), async |lab| {
        let leader = founded(lab).await;
        let writer = lab.write_anywhere();
        lab.more_rows(50).await;
        let first = lab.store_servers.iter().position(StoreServer::leads).expect("ZooKeeper has a leader");
        lab.store_servers[first].kill();
        wait_for("ZooKeeper's new leader", async || {
            lab.store_servers
                .iter()
                .enumerate()
                .any(|(index, server)| index != first && server.leads())
                .then_some(())
        })
        .await;
        two_lease_times().await;
        lab.more_rows(200).await;
        drop(writer);
        assert_eq!(lab.healthy().await, leader, "nobody had a reason to take over");
        nothing_happened(lab, leader).await;
    });
}

#[test]
fn without_a_store_the_primary_stops_and_with_it_leads_again() {
    in_lab(&on_zookeeper(3), async |lab| {
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

async fn nothing_happened(lab: &Lab, leader: usize) {
    assert!(lab.ledger.rows().iter().all(|row| row.timeline == 1));
    assert_eq!(lab.missing_rows(leader).await, 0);
}
