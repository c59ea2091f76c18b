//! What operators say with their wishes: who, why and until when; on a cluster of ours, beside Patroni's own command.

use serde_json::Value;

use crate::patroni::{ours, succeeds, theirs, with_patronictl};
use crate::support::lab::Lab;
use crate::support::wait_for;

#[test]
fn wishes_have_an_owner_a_reason_and_an_end() {
    with_patronictl(3, async |lab| {
        lab.start_everybody();
        let first = lab.healthy().await;
        changes_are_noted(lab).await;
        a_pause_ends_by_itself(lab).await;
        a_member_in_maintenance_is_not_elected_until_that_ends(lab, first).await;
    });
}

fn history(lab: &Lab) -> Vec<Value> {
    let text = succeeds(lab, &["config-history", "-f", "json"], "[");
    serde_json::from_str(&text).unwrap_or_else(|why| panic!("{why}: {text}"))
}

async fn changes_are_noted(lab: &Lab) {
    let edit = ["edit-config", "-s", "maximum_lag_on_failover=2000000", "--reason", "a slow link", "--force"];
    succeeds(lab, &edit, "Configuration changed");
    let changed = theirs(lab, &["edit-config", "-s", "maximum_lag_on_failover=3000000", "--force"], "");
    assert!(changed.stdout.ends_with("Configuration changed\n"), "{changed:#?}");
    let rows = wait_for("the leader to note what nobody has noted", async || {
        let rows = history(lab);
        (rows.last()?["Who"] == "unknown").then_some(rows)
    })
    .await;
    let [.., ours, theirs] = &rows[..] else { panic!("{rows:#?}") };
    let told = |row: &Value| [&row["Setting"], &row["From"], &row["To"], &row["Why"]].map(Value::to_string);
    let setting = "\"maximum_lag_on_failover\"";
    assert_eq!(told(ours)[2..], ["2000000", "\"a slow link\""], "{rows:#?}");
    assert!(ours["Who"].as_str().is_some_and(|who| who.contains('@')), "{rows:#?}");
    assert_eq!(told(theirs), [setting, "2000000", "3000000", "\"\""], "{rows:#?}");
}

async fn a_pause_ends_by_itself(lab: &Lab) {
    for (arguments, why) in [
        (["pause", "--for", "soon"], "wanted is a length"),
        (["pause", "--until", "1999-01-01T00:00Z"], "has passed already"),
    ] {
        let said = ours(lab, &arguments, "");
        assert!(said.code == 1 && said.stderr.contains(why), "{said:#?}");
    }
    succeeds(lab, &["pause", "--for", "1h", "--reason", "a new switch"], "It ends by itself at ");
    wait_for("everybody to know it", async || {
        let list = theirs(lab, &["list"], "").stdout;
        let paused = |node: &crate::support::lab::Node| Some(node.status()?["pause"] == true);
        (list.contains(" Maintenance mode: on\n") && lab.nodes.iter().all(|n| paused(n) == Some(true)))
            .then_some(())
    })
    .await;
    assert!(theirs(lab, &["show-config"], "").stdout.contains("pause: true\n"));
    let list = succeeds(lab, &["list"], " Maintenance mode: on\n Paused until ");
    assert!(list.contains(": a new switch\n"), "{list}");
    let status = lab.nodes[0].status().expect("a status");
    assert_eq!(status["tenure"]["pause"]["why"], "a new switch", "{status}");
    let metrics = lab.nodes[0].request("GET", "/metrics", "").expect("an answer").1;
    assert!(metrics.contains("tenure_intent_ends_seconds{"), "{metrics}");
    // It is brought forward, and comes.
    succeeds(lab, &["pause", "--for", "3s"], "It ends by itself at ");
    wait_for("the end of the pause", async || {
        (!theirs(lab, &["list"], "").stdout.contains("Maintenance mode")).then_some(())
    })
    .await;
    let rows = history(lab);
    let ended = rows.last().expect("a change");
    assert!(
        ended["Setting"] == "pause" && ended["Why"].to_string().contains("the end of the pause"),
        "{ended}"
    );
    lab.healthy().await;
    // One that was begun without us has nobody, and one that is ended without us neither.
    succeeds(lab, &["pause", "--for", "1h"], "It ends by itself at ");
    for (command, on) in [("resume", false), ("pause", true), ("resume", false)] {
        theirs(lab, &[command, "--wait"], "");
        wait_for("the change", async || {
            let list = ours(lab, &["list"], "").stdout;
            (list.contains("Maintenance mode: on") == on && !list.contains("Paused until")).then_some(())
        })
        .await;
    }
    lab.healthy().await;
}

async fn a_member_in_maintenance_is_not_elected_until_that_ends(lab: &Lab, first: usize) {
    let name = |node: usize| lab.nodes[node].name.as_str();
    let (kept, other) = ((first + 1) % 3, (first + 2) % 3);
    for (member, why) in [("nobody", "no member of lab is named nobody"), (name(first), "leads")] {
        let said = ours(lab, &["maintenance", member], "");
        assert!(said.code == 1 && said.stderr.contains(why) && said.stderr.contains("hint: "), "{said:#?}");
    }
    let begun = ["maintenance", name(kept), "--for", "1h", "--reason", "a new disk"];
    succeeds(lab, &begun, &format!("Success: {} is in maintenance until ", name(kept)));
    let tagged = theirs(lab, &["list"], "").stdout;
    assert!(tagged.contains("nofailover: true") && tagged.contains("noloadbalance: true"), "{tagged}");
    succeeds(lab, &["list"], &format!(" {} is in maintenance until ", name(kept)));
    assert_eq!(lab.nodes[kept].http_status("/replica"), Some(503));
    let there = theirs(lab, &["switchover", "lab", "--leader", name(first), "--force"], "");
    assert!(
        there.stdout.contains(&format!("Successfully switched over to \"{}\"", name(other))),
        "{there:#?}"
    );
    assert_eq!(lab.healthy().await, other);

    succeeds(lab, &["maintenance", name(kept), "--end"], "has ended");
    wait_for("its reads", async || (lab.nodes[kept].http_status("/replica") == Some(200)).then_some(()))
        .await;
    // By itself, too.
    succeeds(lab, &["nofailover", name(kept), "--for", "3s"], "is not promoted until ");
    wait_for("the end", async || {
        let list = ours(lab, &["list"], "").stdout;
        (!list.contains("nofailover") && !list.contains("not promoted")).then_some(())
    })
    .await;
    let back = ours(lab, &["switchover", "--candidate", name(kept), "--force"], "");
    assert!(back.stdout.contains(&format!("Successfully switched over to \"{}\"", name(kept))), "{back:#?}");
    assert_eq!(lab.healthy().await, kept);
}
