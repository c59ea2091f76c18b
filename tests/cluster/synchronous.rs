//! The synchronous modes on real PostgreSQL: what was acknowledged is there after every failover.

use serde_json::json;

use crate::support::lab::{Lab, Setup, in_lab};
use crate::support::majors::bin_dirs;
use crate::support::wait_for;
use crate::{founded, others};

pub fn synchronous(dynamic: &'static str) -> Setup {
    Setup { dynamic, ..Setup::default() }
}

/// The system's own PostgreSQL, and a newer one.
pub fn on_two_majors(dynamic: &'static str, test: &impl AsyncFn(&mut Lab)) {
    for bin_dir in bin_dirs().into_iter().take(2) {
        println!("with {}", bin_dir.display());
        in_lab(&Setup { bin_dir, ..synchronous(dynamic) }, async |lab| test(lab).await);
    }
}

/// As many members as there should be call themselves synchronous.
pub async fn synchronous_members(lab: &Lab, path: &str, count: usize) -> Vec<usize> {
    wait_for("synchronous standbys", async || {
        let ours = |index: &usize| lab.nodes[*index].http_status(path) == Some(200);
        let found: Vec<usize> = (0..lab.nodes.len()).filter(ours).collect();
        (found.len() == count).then_some(found)
    })
    .await
}

async fn names_in_force(lab: &Lab, leader: usize) -> String {
    let row = lab.client(leader).await.query_one("show synchronous_standby_names", &[]).await;
    row.expect("it answers").get(0)
}

fn switch_over(lab: &Lab, from: usize, to: usize) -> (u16, String) {
    let wish = json!({"leader": lab.nodes[from].name, "candidate": lab.nodes[to].name});
    lab.nodes[from].request("POST", "/switchover", &wish.to_string()).expect("an answer")
}

async fn lose_and_find_again(lab: &mut Lab, leader: usize) -> usize {
    lab.nodes[leader].machine.cut();
    lab.nodes[leader].power_off();
    let next = lab.leader_among(&others(leader)).await;
    lab.more_rows(50).await;
    lab.nodes[leader].machine.heal();
    lab.nodes[leader].start_agent();
    assert_eq!(lab.healthy().await, next);
    assert_eq!(lab.missing_rows(next).await, 0);
    next
}

#[test]
fn with_one_synchronous_standby_no_acknowledged_row_is_lost() {
    on_two_majors("synchronous_mode: on", &async |lab| {
        let first = founded(lab).await;
        let standby = synchronous_members(lab, "/synchronous", 1).await[0];
        let spare = others(first).into_iter().find(|index| *index != standby).expect("the third one");
        assert_eq!(names_in_force(lab, first).await, lab.nodes[standby].name);
        assert_eq!(lab.nodes[spare].http_status("/asynchronous"), Some(200));
        let (status, text) = switch_over(lab, first, spare);
        assert_eq!((status, text.as_str()), (412, "candidate name does not match with sync_standby"));
        let writers = [lab.write_anywhere(), lab.write_at(first)];
        lab.more_rows(50).await;
        let second = lose_and_find_again(lab, first).await;
        assert_eq!(second, standby, "nobody else has every row");

        // The standby that is lost is replaced by the other one.
        let standby = synchronous_members(lab, "/synchronous", 1).await[0];
        lab.nodes[standby].power_off();
        lab.more_rows(50).await;
        lab.nodes[standby].start_agent();
        lab.healthy().await;
        let to = synchronous_members(lab, "/synchronous", 1).await[0];
        assert_eq!(switch_over(lab, second, to).0, 200);
        assert_eq!(lab.healthy().await, to);
        lab.more_rows(50).await;
        drop(writers);
        assert_eq!(lab.missing_rows(to).await, 0);
        lab.ledger.check_one_history_at_a_time();
    });
}

#[test]
fn with_a_quorum_of_standbys_no_acknowledged_row_is_lost() {
    on_two_majors("synchronous_mode: quorum", &async |lab| {
        let first = founded(lab).await;
        synchronous_members(lab, "/quorum", 2).await;
        let [one, other] = others(first)[..] else { panic!("three nodes") };
        let expected = format!("ANY 1 ({},{})", lab.nodes[one].name, lab.nodes[other].name);
        assert_eq!(names_in_force(lab, first).await, expected);
        let writers = [lab.write_anywhere(), lab.write_at(first)];
        lab.more_rows(50).await;
        let second = lose_and_find_again(lab, first).await;
        synchronous_members(lab, "/quorum", 2).await;
        assert_eq!(switch_over(lab, second, first).0, 200);
        assert_eq!(lab.healthy().await, first);
        lab.more_rows(50).await;
        drop(writers);
        assert_eq!(lab.missing_rows(first).await, 0);
        lab.ledger.check_one_history_at_a_time();
    });
}

#[test]
fn a_strict_primary_acknowledges_nothing_alone() {
    in_lab(&synchronous("synchronous_mode: on, synchronous_mode_strict: on"), async |lab| {
        let leader = founded(lab).await;
        synchronous_members(lab, "/synchronous", 1).await;
        let writer = lab.write_anywhere();
        lab.more_rows(20).await;
        for index in others(leader) {
            lab.nodes[index].power_off();
        }
        wait_for("a commit that waits", async || {
            let client = lab.client(leader).await;
            let count = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'";
            let row = client.query_one(count, &[]).await.ok()?;
            (0 < row.get::<_, i64>(0)).then_some(())
        })
        .await;
        let before = lab.ledger.count();
        crate::passes(tenure::model::Span::from_secs(5)).await;
        assert_eq!(lab.ledger.count(), before, "nothing was acknowledged by the primary alone");
        for index in others(leader) {
            lab.nodes[index].start_agent();
        }
        assert_eq!(lab.healthy().await, leader);
        lab.more_rows(20).await;

        // Switched off, the key and the names go away.
        let off = json!({"synchronous_mode": null, "synchronous_mode_strict": null});
        assert_eq!(
            lab.nodes[leader].request("PATCH", "/config", &off.to_string()).expect("an answer").0,
            200
        );
        wait_for("no synchronous standby", async || {
            names_in_force(lab, leader).await.is_empty().then_some(())
        })
        .await;
        synchronous_members(lab, "/asynchronous", 2).await;
        drop(writer);
        assert_eq!(lab.missing_rows(leader).await, 0);
    });
}
