//! Patroni's own command, and ours, on a cluster of our agents: what our REST API offers.

use serde_json::Value;

use crate::patroni::{operate, ours, theirs, with_patronictl};
use crate::support::lab::Lab;
use crate::support::wait_for;
use crate::watchers::{
    Addresses, checks_see_the_cluster_as_it_is, leader_key, the_leader_key_names_the_leader_and_stands_still,
};

#[test]
fn patronis_command_governs_a_cluster_of_ours() {
    with_patronictl(3, async |lab| {
        lab.start_everybody();
        let first = lab.healthy().await;
        the_same_is_told(lab).await;
        checks_see_the_cluster_as_it_is(lab, first).await;
        the_leader_key_names_the_leader_and_stands_still(lab, first).await;
        let addresses = Addresses::managed(lab);
        addresses.lead_to(lab, first).await;
        let second = (first + 1) % 3;
        let (from, to) = (lab.nodes[first].name.clone(), lab.nodes[second].name.clone());
        let there = theirs(lab, &["switchover", "lab", "--leader", &from, "--candidate", &to, "--force"], "");
        assert!(there.stdout.contains(&format!("Successfully switched over to \"{to}\"")), "{there:#?}");
        assert_eq!(lab.healthy().await, second);
        assert_eq!(leader_key(lab).0, to);
        addresses.lead_to(lab, second).await;
        let back = ours(lab, &["switchover", "--candidate", &from, "--force"], "");
        assert!(back.stdout.contains(&format!("Successfully switched over to \"{from}\"")), "{back:#?}");
        assert_eq!(lab.healthy().await, first);
        addresses.lead_to(lab, first).await;
        drop(addresses);
        the_same_is_told(lab).await;

        let changed = theirs(lab, &["edit-config", "-s", "maximum_lag_on_failover=2097152", "--force"], "");
        assert!(changed.stdout.ends_with("Configuration changed\n"), "{changed:#?}");
        theirs(lab, &["edit-config", "-s", "synchronous_mode=on", "--force"], "");
        wait_for("a synchronous standby", async || {
            theirs(lab, &["list"], "").stdout.contains("Sync Standby").then_some(())
        })
        .await;
        the_same_is_told(lab).await;
        let query = theirs(lab, &["query", "-c", "select pg_is_in_recovery()", "-r", "primary"], "");
        assert_eq!(query.stdout, "pg_is_in_recovery\nFalse\n", "{query:#?}");
        let told = ours(lab, &["version", "lab", "node1"], "");
        assert!(told.stdout.contains("\n\nnode1: Tenure "), "{told:#?}");
        // Ours is asked the same where the store is ZooKeeper, and of members of both kinds.
        operate(lab, theirs, first, second).await;
    });
}

pub async fn the_same_is_told(lab: &Lab) {
    for arguments in
        [&["list"][..], &["list", "-f", "json"], &["topology"], &["history"], &["show-config"], &["dsn"]]
    {
        wait_for("a cluster that stands still", async || {
            let before = theirs(lab, arguments, "");
            let told = ours(lab, arguments, "");
            if told.stdout == before.stdout && told.code == before.code {
                return Some(());
            }
            let after = theirs(lab, arguments, "");
            assert!(after != before, "{arguments:?}\ntheirs: {before:#?}\nours: {told:#?}");
            None
        })
        .await;
    }
    let members: Value = serde_json::from_str(&ours(lab, &["list", "-f", "json"], "").stdout).expect("JSON");
    assert_eq!(members.as_array().map(Vec::len), Some(3));
}
