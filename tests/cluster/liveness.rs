//! What counts as alive: a PostgreSQL that hangs or whose disk does is replaced, one that is only busy is not.

use nix::sys::signal::{Signal, kill};
use tenure::model::Span;

use super::support::disk;
use super::support::lab::{Lab, PASSWORD, Setup, in_lab};
use super::support::wait_for;
use super::support::writer::connect;
use super::{founded, others, passes};

/// Three lease times of the labs' five seconds.
const LONG: Span = Span::from_secs(15);

/// Runs on nodes whose data lies on disks of their own, where there can be such.
fn on_own_disks(test: impl AsyncFnOnce(&mut Lab)) {
    if disk::available() {
        in_lab(&Setup { disk_megabytes: Some(900), ..Setup::default() }, test);
    } else {
        println!("not run: disks in files need root, loop devices and fsfreeze");
    }
}

async fn rule(lab: &Lab, node: usize, rule: &str) {
    wait_for(&format!("the rule {rule}"), async || {
        (lab.nodes[node].status()?["tenure"]["rule"] == rule).then_some(())
    })
    .await;
}

#[test]
fn a_hung_postmaster_is_replaced_and_its_clients_are_told_nothing_false() {
    in_lab(&Setup::default(), async |lab| {
        let leader = founded(lab).await;
        let writers = [lab.write_anywhere(), lab.write_at(leader)];
        lab.more_rows(100).await;
        let postmaster = lab.nodes[leader].postmaster_pid().expect("a running primary");
        kill(postmaster, Signal::SIGSTOP).expect("it runs");
        lab.leader_among(&others(leader)).await;
        lab.more_rows(100).await;
        passes(LONG).await;
        // It has been killed long since, unless something went wrong.
        let _ = kill(postmaster, Signal::SIGCONT);
        let next = lab.healthy().await;
        assert_ne!(next, leader);
        drop(writers);
        lab.missing_rows(next).await;
        lab.ledger.check_one_history_at_a_time();
    });
}

#[test]
fn a_hung_postmaster_that_nobody_can_replace_is_started_again_in_place() {
    in_lab(&Setup { nodes: 1, ..Setup::default() }, async |lab| {
        lab.start_everybody();
        lab.healthy().await;
        lab.create_ledger(0).await;
        let writer = lab.write_at(0);
        lab.more_rows(50).await;
        let postmaster = lab.nodes[0].postmaster_pid().expect("a running primary");
        kill(postmaster, Signal::SIGSTOP).expect("it runs");
        wait_for("another postmaster", async || {
            lab.nodes[0].postmaster_pid().filter(|pid| *pid != postmaster).map(|_| ())
        })
        .await;
        lab.healthy().await;
        lab.more_rows(50).await;
        drop(writer);
        assert_eq!(lab.missing_rows(0).await, 0);
        assert!(lab.ledger.rows().iter().all(|row| row.timeline == 1));
    });
}

#[test]
fn a_primary_whose_disk_has_stalled_is_replaced() {
    on_own_disks(async |lab| {
        let leader = founded(lab).await;
        let writers = [lab.write_anywhere(), lab.write_at(leader)];
        lab.more_rows(100).await;
        lab.nodes[leader].disk().freeze();
        lab.leader_among(&others(leader)).await;
        lab.more_rows(100).await;
        passes(LONG).await;
        lab.nodes[leader].disk().thaw();
        let next = lab.healthy().await;
        assert_ne!(next, leader);
        drop(writers);
        lab.missing_rows(next).await;
        lab.ledger.check_one_history_at_a_time();
    });
}

#[test]
fn a_standby_whose_disk_has_stalled_is_no_candidate() {
    on_own_disks(async |lab| {
        let leader = founded(lab).await;
        let (stalled, other) = (others(leader)[0], others(leader)[1]);
        lab.nodes[stalled].disk().freeze();
        wait_for("the stall to be known", async || {
            (lab.nodes[stalled].status()?["tenure"]["fitness"] == "unfit").then_some(())
        })
        .await;
        lab.nodes[leader].power_off();
        assert_eq!(lab.leader_among(&others(leader)).await, other);
        let log = lab.nodes[stalled].log();
        assert!(log.contains("candidate_disk_stalled"), "it saw the race and took no part");
        lab.nodes[stalled].disk().thaw();
        lab.nodes[leader].start_agent();
        lab.healthy().await;
    });
}

#[test]
fn a_primary_with_a_full_disk_hands_over_to_a_member_with_room_and_loses_nothing() {
    on_own_disks(async |lab| {
        let leader = founded(lab).await;
        let writers = [lab.write_anywhere(), lab.write_at(leader)];
        lab.more_rows(100).await;
        lab.nodes[leader].disk().fill();
        let next = lab.leader_among(&others(leader)).await;
        lab.more_rows(100).await;
        let old = lab.nodes[leader].status().expect("its agent answers");
        assert_eq!(old["tenure"]["disk_full"], true, "{old}");
        lab.nodes[leader].disk().clear();
        assert_eq!(lab.healthy().await, next);
        drop(writers);
        assert_eq!(lab.missing_rows(next).await, 0);
        lab.ledger.check_one_history_at_a_time();
    });
}

#[test]
fn a_full_disk_is_no_reason_to_fail_over_to_an_equally_full_one() {
    on_own_disks(async |lab| {
        let leader = founded(lab).await;
        for index in others(leader).into_iter().chain([leader]) {
            lab.nodes[index].disk().fill();
            let full = async || (lab.nodes[index].status()?["tenure"]["disk_full"] == true).then_some(());
            wait_for("the full disk to be known", full).await;
        }
        rule(lab, leader, "leader_disk_full").await;
        let reader = lab.client(leader).await;
        passes(LONG).await;
        reader.query_one("select count(*) from ledger", &[]).await.expect("reads go on");
        assert_eq!(lab.nodes[leader].http_status("/primary"), Some(200));
        for index in 0..3 {
            lab.nodes[index].disk().clear();
        }
        rule(lab, leader, "leader_stays").await;
        assert_eq!(lab.healthy().await, leader);
    });
}

#[test]
fn a_primary_without_a_free_connection_goes_on_leading() {
    in_lab(&Setup::default(), async |lab| {
        let leader = founded(lab).await;
        let postmaster = lab.nodes[leader].postmaster_pid();
        let mut taken = Vec::new();
        while let Some(client) = connect(&lab.nodes[leader].address, PASSWORD).await {
            taken.push(client);
        }
        assert!(10 < taken.len(), "it got full: {}", taken.len());
        passes(LONG).await;
        assert_eq!(lab.nodes[leader].http_status("/primary"), Some(200));
        drop(taken);
        assert_eq!(lab.healthy().await, leader);
        assert_eq!(lab.nodes[leader].postmaster_pid(), postmaster);
    });
}

#[test]
fn a_lock_that_keeps_new_connections_waiting_is_not_death() {
    in_lab(&Setup::default(), async |lab| {
        let leader = founded(lab).await;
        let postmaster = lab.nodes[leader].postmaster_pid();
        let client = lab.client(leader).await;
        let lock = "begin; lock table pg_catalog.pg_authid in access exclusive mode";
        client.batch_execute(lock).await.expect("a superuser may");
        assert!(connect(&lab.nodes[leader].address, PASSWORD).await.is_none(), "nobody else gets in");
        passes(LONG).await;
        assert_eq!(lab.nodes[leader].http_status("/primary"), Some(200));
        client.batch_execute("rollback").await.expect("it is still there");
        assert_eq!(lab.healthy().await, leader);
        assert_eq!(lab.nodes[leader].postmaster_pid(), postmaster);
    });
}
