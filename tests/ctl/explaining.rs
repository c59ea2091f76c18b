//! What an operator is told of a cluster of ours: what would happen, what then happens, and what is told of it afterwards.

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::patroni::{ours, succeeds};
use crate::support::lab::{Lab, Setup, in_lab};
use crate::support::wait_for;

#[test]
fn what_is_foreseen_happens_and_is_told_afterwards() {
    in_lab(&Setup::default(), async |lab| {
        lab.start_everybody();
        let first = lab.healthy().await;
        explains_what_is(lab, first);
        crate::doctoring::finds_what_will_bite(lab, first).await;
        crate::topping::shows_the_cluster_and_acts_on_it(lab, first).await;
        a_member_that_may_not_lead(lab).await;
        a_member_that_is_preferred(lab).await;
        a_synchronous_standby(lab).await;
        maintenance(lab).await;
        a_member_that_is_down(lab).await;
        tells_what_was(lab).await;
        a_store_that_is_down(lab).await;
    });
}

pub fn others(leader: usize) -> [usize; 2] {
    [(leader + 1) % 3, (leader + 2) % 3]
}

pub fn name(lab: &Lab, node: usize) -> String {
    lab.nodes[node].name.clone()
}

pub fn document(lab: &Lab, arguments: &[&str]) -> Value {
    let text = succeeds(lab, &[arguments, &["-f", "json"]].concat(), "{");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"))
}

/// What each member says that it does now.
pub fn rule(lab: &Lab, node: usize) -> Option<String> {
    let (_, text) = lab.nodes[node].request("GET", "/view", "")?;
    let document: Value = serde_json::from_str(&text).ok()?;
    Some(document["entry"]["rule"].as_str()?.to_owned())
}

async fn tags(lab: &Lab, node: usize, tags: &str) {
    let node = &lab.nodes[node];
    let path = node.dir.join("tenure.yml");
    let text = std::fs::read_to_string(&path).expect("our own file");
    let before = text.split("tags:").next().unwrap_or_default();
    std::fs::write(&path, format!("{before}tags: {tags}\n")).expect("our own file");
    node.signal_agent(Signal::SIGHUP);
    let wanted: Value = serde_json::from_str(tags).expect("JSON is YAML");
    let told = |status: &Value| status.get("tags").cloned().unwrap_or_else(|| serde_json::json!({}));
    wait_for("the tags", async || (told(&node.status()?) == wanted).then_some(())).await;
}

/// Who would take over, by what every member of `asked` knows once it knows of the state.
pub async fn foreseen(lab: &Lab, ready: impl Fn(&Value) -> bool) -> (Vec<String>, Value) {
    wait_for("foresight in the state that was made", async || {
        let foreseen = document(lab, &["explain", "--if", "primary-lost"]);
        let takes = foreseen["takes"].as_array()?;
        let takes =
            takes.iter().map(|takes| Some(takes["member"].as_str()?.to_owned())).collect::<Option<_>>()?;
        ready(&foreseen).then_some((takes, foreseen))
    })
    .await
}

/// The leader's host is lost; who leads then must be who was foreseen. The host comes back.
pub async fn comes_true(lab: &mut Lab, leader: usize, foreseen: &[String]) -> usize {
    lab.nodes[leader].power_off();
    let next = lab.leader_among(&others(leader)).await;
    assert!(foreseen.contains(&name(lab, next)), "{foreseen:?} were foreseen, and {} leads", name(lab, next));
    lab.nodes[leader].start_agent();
    assert_eq!(lab.healthy().await, next);
    next
}

fn explains_what_is(lab: &Lab, leader: usize) {
    let leads = name(lab, leader);
    let text = succeeds(lab, &["explain"], &format!("lab is led by {leads}\n"));
    assert!(text.contains(&format!("{leads}  leader_stays: leading\n")), "{text}");
    for node in others(leader) {
        assert!(
            text.contains(&format!("{}  follows_leader: following {leads}\n", name(lab, node))),
            "{text}"
        );
    }
    let one = document(lab, &["explain", &leads]);
    assert_eq!(one["members"].as_object().map(serde_json::Map::len), Some(1), "{one:#}");
    assert_eq!(one["members"][&leads]["evidence"]["is_primary"], true, "{one:#}");
    let nobody = ours(lab, &["explain", "somebody"], "");
    assert_eq!((nobody.code, nobody.stderr.as_str()), (1, "Error: there is no member somebody in lab\n"));
    let lost = document(lab, &["explain", "--if", "store-lost"]);
    assert_eq!(
        (&lost["leads_on"], &lost["at_the_end"]["rule"]),
        (&false.into(), &"lease_ran_out".into()),
        "{lost:#}"
    );
    succeeds(lab, &["explain", "--if", "ttl=1"], "it is refused unless unsafe_timing is set");
    assert_eq!(ours(lab, &["explain", "--if", "rain"], "").code, 2);
}

async fn a_member_that_may_not_lead(lab: &mut Lab) {
    let leader = lab.healthy().await;
    let [barred, able] = others(leader);
    tags(lab, barred, r#"{"nofailover": true}"#).await;
    let to = name(lab, barred);
    wait_for("what speaks against a switchover", async || {
        let switch = document(lab, &["explain", "--if", &format!("switchover={to}")]);
        assert_eq!(switch["to"], Value::Null, "{switch:#}");
        (switch["obstacles"][&to] == "it may not lead (nofailover)").then_some(())
    })
    .await;
    let refused = ours(lab, &["switchover", "--candidate", &to, "--force"], "");
    assert_ne!(refused.code, 0, "{refused:#?}");
    let (takes, told) = foreseen(lab, |told| told["members"][&to]["rule"] == "candidate_barred").await;
    assert_eq!(takes, [name(lab, able)], "{told:#}");
    comes_true(lab, leader, &takes).await;
    tags(lab, barred, "{}").await;
}

async fn a_member_that_is_preferred(lab: &mut Lab) {
    let leader = lab.healthy().await;
    let [preferred, other] = others(leader);
    tags(lab, preferred, r#"{"failover_priority": 7}"#).await;
    let yields = name(lab, other);
    let (takes, told) = foreseen(lab, |told| told["members"][&yields]["rule"] == "candidate_yields").await;
    assert_eq!(takes, [name(lab, preferred)], "{told:#}");
    comes_true(lab, leader, &takes).await;
    tags(lab, preferred, "{}").await;
}

async fn a_synchronous_standby(lab: &mut Lab) {
    let leader = lab.healthy().await;
    succeeds(lab, &["edit-config", "-s", "synchronous_mode=true", "--force"], "Configuration changed");
    let (takes, told) = foreseen(lab, |told| told["takes"][0]["loss"] == "0: synchronous").await;
    crate::doctoring::commits_that_wait_for_nobody(lab).await;
    assert_eq!(takes.len(), 1, "{told:#}");
    let barred = told["members"].as_object().expect("members").values();
    assert_eq!(barred.filter(|one| one["rule"] == "candidate_not_synchronous").count(), 1, "{told:#}");
    comes_true(lab, leader, &takes).await;
    succeeds(lab, &["edit-config", "-s", "synchronous_mode=null", "--force"], "Configuration changed");
    let off = async || {
        let (status, config) = lab.nodes[0].request("GET", "/cluster", "")?;
        (status == 200 && !config.contains("sync_standby")).then_some(())
    };
    wait_for("asynchronous standbys", off).await;
    lab.healthy().await;
}

/// Nobody takes over, as it was said, until maintenance ends.
async fn maintenance(lab: &mut Lab) {
    let leader = lab.healthy().await;
    succeeds(lab, &["pause", "--wait"], "paused");
    let (takes, told) = foreseen(lab, |told| told["takes"].as_array().is_some_and(Vec::is_empty)).await;
    assert!(takes.is_empty(), "{told:#}");
    lab.nodes[leader].power_off();
    let rest = others(leader);
    wait_for("a store without a leader, and nobody who cares", async || {
        let (_, cluster) = lab.nodes[rest[0]].request("GET", "/cluster", "")?;
        let nobody = !cluster.contains("\"leader\"");
        (nobody && rest.iter().all(|&node| rule(lab, node).as_deref() == Some("paused"))).then_some(())
    })
    .await;
    let text = succeeds(lab, &["explain"], "lab: nobody leads now\n");
    assert!(text.contains("maintenance mode is on"), "{text}");
    // Nobody is left to answer for the leader; the wish goes to the store.
    succeeds(lab, &["resume"], "resumed");
    let next = lab.leader_among(&rest).await;
    lab.nodes[leader].start_agent();
    assert_eq!(lab.healthy().await, next);
}

async fn a_member_that_is_down(lab: &mut Lab) {
    let leader = lab.healthy().await;
    let [down, able] = others(leader);
    lab.nodes[down].power_off();
    let gone = name(lab, down);
    let is_gone = |told: &Value| {
        let why = told["unknown"][&gone].as_str();
        why.is_some_and(|why| why.contains("no record in the store"))
    };
    let (takes, told) = foreseen(lab, is_gone).await;
    assert_eq!(takes, [name(lab, able)], "{told:#}");
    // What it did is on its disk.
    let events = document(lab, &["events"]);
    assert!(events["missing"][&gone].as_str().is_some_and(|why| why.contains("events.jsonl")), "{events:#}");
    let ring = lab.nodes[down].dir.join("state/events.jsonl").display().to_string();
    let its = document(lab, &["events", "--ring", &ring]);
    assert!(
        its["entries"]
            .as_array()
            .is_some_and(|entries| entries.iter().all(|entry| entry["member"] == gone.as_str()))
    );
    let replayed = ours(lab, &["replay", &ring], "");
    assert!(replayed.code == 0 && replayed.stderr.contains(" 0 of them otherwise"), "{replayed:#?}");
    lab.nodes[leader].power_off();
    let next = lab.leader_among(&[able]).await;
    lab.nodes[leader].start_agent();
    lab.nodes[down].start_agent();
    assert_eq!(lab.healthy().await, next);
}

/// Who the others are is remembered by each member; what it decides without the store is told.
async fn a_store_that_is_down(lab: &mut Lab) {
    let leader = lab.healthy().await;
    let leads = name(lab, leader);
    lab.store_servers[0].kill();
    let via = format!("http://{}:8008", lab.nodes[others(leader)[0]].address);
    wait_for("a leader that hears nothing of the store", async || {
        let told = document(lab, &["explain", "--via", &via]);
        let rule = told["members"][&leads]["rule"].as_str()?;
        ["leader_outlives_silence", "lease_ran_out", "cut_off_stands"].contains(&rule).then_some(())
    })
    .await;
    let refused = ours(lab, &["--store-timeout", "1", "explain"], "");
    assert!(
        refused.code == 1 && refused.stderr.contains("hint: ") && refused.stderr.contains("--via"),
        "{refused:#?}"
    );
}

/// Everybody is back: the timeline is whole and in order.
async fn tells_what_was(lab: &Lab) {
    let leader = lab.healthy().await;
    let leads = name(lab, leader);
    let followed = |last: &Value| {
        let stages = last["changes"][0]["stages"].as_array().map_or(&[][..], |stages| &stages[..]);
        stages.iter().any(|stage| stage["stage"] == "a member follows")
    };
    let last = wait_for("the last change with its followers", async || {
        let last = document(lab, &["events", "--failover", "last"]);
        followed(&last).then_some(last)
    })
    .await;
    let change = &last["changes"][0];
    assert_eq!((&change["to"], &change["kind"]), (&leads.as_str().into(), &"failover".into()), "{last:#}");
    assert!(change["loss"].is_string(), "{last:#}");
    let stages = change["stages"].as_array().expect("stages");
    let mut after = 0;
    let mut wanted = [
        "the store shows no leader",
        "the race is decided",
        "the lease is held",
        "PostgreSQL is promoted",
        "PostgreSQL is primary",
    ]
    .into_iter()
    .peekable();
    for stage in stages {
        let at = stage["after_ms"].as_u64().expect("milliseconds");
        assert!(after <= at, "{last:#}");
        after = at;
        wanted.next_if(|what| stage["stage"] == *what);
    }
    assert_eq!(wanted.next(), None, "{last:#}");

    let all = document(lab, &["events", "--since", "1d"]);
    assert_eq!(all["missing"], serde_json::json!({}), "{:#}", all["missing"]);
    let changes = all["changes"].as_array().expect("changes");
    let kinds: Vec<&str> = changes.iter().filter_map(|change| change["kind"].as_str()).collect();
    let failovers = kinds.iter().filter(|kind| **kind == "failover").count();
    assert!(kinds[0] == "first leader" && 5 <= failovers, "{changes:#?}");
    let timelines: Vec<u64> = changes.iter().filter_map(|change| change["timeline"].as_u64()).collect();
    assert!(timelines.is_sorted(), "{timelines:?}");
    for node in &lab.nodes {
        let entries = all["entries"].as_array().expect("entries").iter();
        let numbers: Vec<u64> = entries
            .filter(|entry| entry["member"] == node.name.as_str())
            .filter_map(|entry| entry["number"].as_u64())
            .collect();
        let whole: Vec<u64> = (1..=numbers.len() as u64).collect();
        assert_eq!(numbers, whole, "{} has lost entries, or tells them out of order", node.name);
    }
    let text = succeeds(lab, &["events", "--failover", "last"], &format!("-> {leads} (failover)"));
    assert!(text.contains("  lost: "), "{text}");
    println!("{text}{}", succeeds(lab, &["explain"], &leads));
    println!("{}", succeeds(lab, &["explain", "--if", "primary-lost"], "until somebody holds the lease"));
    println!("{}", succeeds(lab, &["explain", "--if", "store-lost"], &leads));
    println!("{}", succeeds(lab, &["explain", "--if", "ttl=4"], "If ttl were 4 s"));
}
