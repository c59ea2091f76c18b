//! Failsafe mode: the store is gone, and the primary goes on exactly as long as every member agrees.

use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::lab::{Lab, Setup, in_lab};
use crate::support::wait_for;
use crate::{founded, others, passes};
use tenure::model::Span;

#[test]
fn in_failsafe_mode_a_primary_outlives_the_store_while_every_member_agrees() {
    in_lab(&Setup::default(), async |lab| {
        let leader = founded(lab).await;
        let postmaster = lab.nodes[leader].postmaster_pid();
        let change = json!({"failsafe_mode": true}).to_string();
        let (code, text) = lab.nodes[leader].request("PATCH", "/config", &change).expect("an answer");
        assert_eq!(code, 200, "{text}");
        wait_for("everybody to know whom a leader must ask", async || {
            let told = |node: &crate::support::lab::Node| {
                let (code, text) = node.request("GET", "/failsafe", "")?;
                (code == 200 && text.matches("/patroni").count() == 3).then_some(())
            };
            lab.nodes.iter().map(told).collect::<Option<Vec<()>>>()
        })
        .await;

        let writer = lab.write_anywhere();
        lab.more_rows(50).await;
        lab.store_servers[0].kill();
        active(lab, leader, true).await;
        // Longer than any lease that the store has granted.
        passes(Span::from_secs(12)).await;
        lab.more_rows(50).await;
        for node in &lab.nodes {
            let status = node.status().expect("a status");
            assert_eq!(status["failsafe_mode_is_active"], true, "{}: {status}", node.name);
        }
        assert_eq!(lab.nodes[leader].http_status("/primary"), Some(200));
        lab.store_servers[0].start();
        active(lab, leader, false).await;
        assert_eq!(lab.healthy().await, leader);
        assert_eq!(lab.nodes[leader].postmaster_pid(), postmaster, "PostgreSQL was not restarted");
        assert!(lab.ledger.rows().iter().all(|row| row.timeline == 1));
        assert_eq!(lab.missing_rows(leader).await, 0);

        // Without one of them there is no agreement.
        let silent = others(leader)[0];
        lab.store_servers[0].kill();
        active(lab, leader, true).await;
        lab.nodes[silent].signal_agent(Signal::SIGSTOP);
        wait_for("the primary to stop", async || {
            let stopped = lab.nodes[leader].postmaster_pid() != postmaster;
            (stopped && lab.nodes[leader].http_status("/primary") == Some(503)).then_some(())
        })
        .await;
        lab.nodes[silent].signal_agent(Signal::SIGCONT);
        lab.store_servers[0].start();
        let next = lab.healthy().await;
        lab.more_rows(20).await;
        drop(writer);
        lab.missing_rows(next).await;
        lab.ledger.check_one_history_at_a_time();
    });
}

async fn active(lab: &Lab, node: usize, wanted: bool) {
    wait_for("failsafe mode to begin or end", async || {
        let status = lab.nodes[node].status()?;
        (status["failsafe_mode_is_active"] == true && wanted
            || status["failsafe_mode_is_active"].is_null() && !wanted)
            .then_some(())
    })
    .await;
}
