//! What an operator asks for over REST, on whole nodes.

use serde_json::{Value, json};
use tenure::model::Span;

use super::support::lab::{Lab, Setup, in_lab};
use super::support::wait_for;
use super::{founded, others, passes};

fn ask(lab: &Lab, node: usize, method: &str, path: &str, body: &Value) -> (u16, String) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    lab.nodes[node].request(method, path, &body).expect("an answer")
}

fn said(code: u16, sentence: &str) -> (u16, String) {
    (code, sentence.to_owned())
}

#[test]
fn a_restarted_primary_keeps_its_lease_and_its_rows() {
    in_lab(&Setup::default(), async |lab| {
        let leader = founded(lab).await;
        let term = lab.nodes[leader].status().expect("it answers")["tenure"]["term"].clone();
        let writer = lab.write_anywhere();
        lab.more_rows(50).await;
        let skipped = ask(lab, leader, "POST", "/restart", &json!({"role": "replica"}));
        assert_eq!(skipped, said(503, "restart conditions are not satisfied"));
        for node in [leader, others(leader)[0]] {
            let postmaster = lab.nodes[node].postmaster_pid();
            assert_eq!(ask(lab, node, "POST", "/restart", &json!({})), said(200, "restarted successfully"));
            assert_ne!(lab.nodes[node].postmaster_pid(), postmaster);
            lab.more_rows(50).await;
        }
        drop(writer);
        assert_eq!(lab.healthy().await, leader);
        assert_eq!(lab.nodes[leader].status().expect("it answers")["tenure"]["term"], term);
        assert!(lab.ledger.rows().iter().all(|row| row.timeline == 1));
        assert_eq!(lab.missing_rows(leader).await, 0);
    });
}

#[test]
fn a_replica_is_made_anew_and_the_leader_refuses() {
    in_lab(&Setup::default(), async |lab| {
        for node in &lab.nodes {
            let path = node.dir.join("tenure.yml");
            let settings = std::fs::read_to_string(&path).expect("our own file");
            // Long enough to be seen.
            std::fs::write(&path, settings + "  basebackup:\n    - max-rate: 6M\n").expect("our own file");
        }
        let leader = founded(lab).await;
        let writer = lab.write_anywhere();
        lab.more_rows(50).await;
        let refused = ask(lab, leader, "POST", "/reinitialize", &json!({}));
        assert_eq!(refused, said(503, "I am the leader, can not reinitialize"));
        let replica = others(leader)[0];
        let mark = lab.nodes[replica].dir.join("data/of-the-old-data");
        std::fs::write(&mark, "").expect("our own directory");
        let begun = ask(lab, replica, "POST", "/reinitialize", &json!({"from_leader": true}));
        assert_eq!(begun, said(200, "reinitialize started"));
        wait_for("the old data to be gone", async || (!mark.exists()).then_some(())).await;
        wait_for("a clone that tells how far it has come", async || {
            let copying = lab.nodes[replica].status()?["tenure"]["copying"].clone();
            (0 < copying["percent"].as_u64()? && copying["whole_bytes"].is_u64()).then_some(())
        })
        .await;
        wait_for("the others to know of it", async || {
            let (_, cluster) = lab.nodes[leader].request("GET", "/cluster", "")?;
            cluster.contains("\"copying\": \"").then_some(())
        })
        .await;
        assert_eq!(lab.healthy().await, leader);
        assert!(lab.nodes[replica].status().expect("it answers")["tenure"]["copying"].is_null());
        lab.more_rows(50).await;
        drop(writer);
        assert_eq!(lab.missing_rows(leader).await, 0);
    });
}

#[test]
fn what_is_scheduled_happens_at_its_time_and_is_seen_until_then() {
    in_lab(&Setup::default(), async |lab| {
        let leader = founded(lab).await;
        let next = others(leader)[0];
        let writer = lab.write_anywhere();
        let soon =
            |seconds: i64| (tenure::clock::wall() + jiff::SignedDuration::from_secs(seconds)).to_string();
        let wish = json!({"leader": lab.nodes[leader].name, "candidate": lab.nodes[next].name, "scheduled_at": soon(6)});
        assert_eq!(ask(lab, leader, "POST", "/switchover", &wish), said(202, "Switchover scheduled"));
        let other = others(leader)[1];
        let at = json!({"schedule": soon(6), "restart_pending": null});
        assert_eq!(ask(lab, other, "POST", "/restart", &at), said(202, "Restart scheduled"));
        assert_eq!(
            ask(lab, other, "DELETE", "/restart", &Value::Null),
            said(200, "scheduled restart deleted")
        );
        let postmaster = lab.nodes[other].postmaster_pid();
        let at = json!({"schedule": soon(6)});
        assert_eq!(ask(lab, other, "POST", "/restart", &at), said(202, "Restart scheduled"));
        assert_eq!(
            ask(lab, other, "POST", "/restart", &at),
            said(409, "Another restart is already scheduled")
        );
        wait_for("the schedules to be shown", async || {
            let cluster: Value =
                serde_json::from_str(&lab.nodes[next].request("GET", "/cluster", "")?.1).ok()?;
            let members = cluster["members"].as_array()?;
            let restart = members.iter().any(|member| !member["scheduled_restart"].is_null());
            (restart && !cluster["scheduled_switchover"].is_null()).then_some(())
        })
        .await;
        passes(Span::from_secs(2)).await;
        assert_eq!(lab.nodes[leader].http_status("/primary"), Some(200), "its time has not come");
        assert_eq!(lab.leader_among(&[next]).await, next);
        assert_eq!(lab.healthy().await, next);
        wait_for("the scheduled restart", async || {
            let now = lab.nodes[other].postmaster_pid();
            (now.is_some() && now != postmaster).then_some(())
        })
        .await;
        lab.more_rows(20).await;
        drop(writer);
        assert_eq!(lab.missing_rows(next).await, 0);
    });
}
