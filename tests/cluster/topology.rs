//! Who replicates from whom, through which slots, and clusters that follow another one: whole nodes.

use serde_json::{Value, json};
use tokio_postgres::Client;

use super::others;
use super::support::lab::{Lab, Setup, in_lab};
use super::support::wait_for;

pub fn change(lab: &Lab, node: usize, settings: &Value) {
    let (code, text) = lab.nodes[node].request("PATCH", "/config", &settings.to_string()).expect("an answer");
    assert_eq!(code, 200, "{text}");
}

/// Changes a node's file before its agent starts.
pub fn configure(lab: &Lab, node: usize, changes: &[(&str, &str)]) {
    let path = lab.nodes[node].dir.join("tenure.yml");
    let mut text = std::fs::read_to_string(&path).expect("our own file");
    for (from, to) in changes {
        assert!(text.contains(from), "{from:?} is not in {text}");
        text = text.replace(from, to);
    }
    std::fs::write(&path, text).expect("our own file");
}

pub async fn one(client: &Client, query: &str) -> String {
    let rows = client.simple_query(query).await.expect("an answer");
    let found = rows.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    found.unwrap_or_default()
}

/// The query gives that text, sooner or later, whatever becomes of connections meanwhile.
pub async fn until(lab: &Lab, node: usize, query: &str, wanted: &str) {
    let name = &lab.nodes[node].name;
    wait_for(&format!("{wanted:?} from {name} for {query}"), async || {
        let client = lab.client(node).await;
        let rows = client.simple_query(query).await.ok()?;
        let found = rows.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        (found.unwrap_or_default() == wanted).then_some(())
    })
    .await;
}

fn has_slot(name: &str) -> String {
    format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{name}'")
}

fn streams_to(name: &str) -> String {
    format!("SELECT count(*) FROM pg_stat_replication WHERE application_name = '{name}'")
}

#[test]
fn slots_and_sources_follow_what_happens_to_the_members() {
    in_lab(&Setup::default(), async |lab| {
        for node in 0..3 {
            let slots = "    member_slots_ttl: 4\n    slots:\n      keep:\n      cdc: {type: logical, database: postgres, \
                         plugin: pgoutput}\n    postgresql:\n";
            let logical = "wal_keep_size: 256MB\n        wal_level: logical";
            configure(
                lab,
                node,
                &[
                    ("    postgresql:\n      use_", &format!("{slots}      use_")),
                    ("wal_keep_size: 256MB", logical),
                ],
            );
        }
        lab.start_everybody();
        let leader = lab.healthy().await;
        lab.create_ledger(leader).await;
        let [source, cascade] = others(leader)[..] else { unreachable!("there are three") };
        let names: Vec<String> = lab.nodes.iter().map(|node| node.name.clone()).collect();

        // Everybody has a slot for everybody else, and the permanent ones; the logical one had to be copied.
        for node in 0..3 {
            for name in names.iter().filter(|name| **name != names[node]) {
                until(lab, node, &has_slot(name), "1").await;
            }
            until(lab, node, &has_slot("keep"), "1").await;
        }
        // A standby has no WAL from before it was made, so the consumer has to come so far first.
        let client = lab.client(leader).await;
        let advance = "SELECT pg_replication_slot_advance('cdc', pg_current_wal_lsn())";
        wait_for("the logical slot everywhere", async || {
            client.batch_execute("CHECKPOINT").await.ok()?;
            client.batch_execute(advance).await.ok()?;
            for node in 0..3 {
                let rows = lab.client(node).await.simple_query(&has_slot("cdc")).await.ok()?;
                let there = rows.iter().any(|message| {
                    matches!(message, tokio_postgres::SimpleQueryMessage::Row(row) if row.get(0) == Some("1"))
                });
                there.then_some(())?;
            }
            Some(())
        })
        .await;
        assert_eq!(lab.healthy().await, leader);
        assert_ne!(one(&client, "SHOW max_slot_wal_keep_size").await, "-1");

        // A member that replicates from another standby goes to the leader when that one dies, and back.
        let path = lab.nodes[cascade].dir.join("tenure.yml");
        let text = std::fs::read_to_string(&path).expect("our own file");
        std::fs::write(&path, format!("{text}tags:\n  replicatefrom: {}\n", names[source]))
            .expect("our own file");
        lab.nodes[cascade].signal_agent(nix::sys::signal::Signal::SIGHUP);
        until(lab, source, &streams_to(&names[cascade]), "1").await;
        let stranger = "SELECT pg_create_physical_replication_slot('stranger', true)";
        client.batch_execute(stranger).await.expect("a slot");
        lab.nodes[source].power_off();
        until(lab, leader, &streams_to(&names[cascade]), "1").await;
        // Its slot goes with it after a while, and so does what nobody has asked for.
        until(lab, leader, &has_slot(&names[source]), "0").await;
        until(lab, leader, &has_slot("stranger"), "0").await;
        until(lab, leader, &has_slot("keep"), "1").await;
        assert!(
            lab.nodes[leader].log().contains("the replication slot stranger is in nobody's configuration")
        );
        lab.nodes[source].start_agent();
        until(lab, source, &streams_to(&names[cascade]), "1").await;
        until(lab, leader, &has_slot(&names[source]), "1").await;

        // The primary gets more connections than its standbys have: they come back with as many.
        change(lab, leader, &json!({"postgresql": {"parameters": {"max_connections": 130}}}));
        wait_for("a pending restart", async || {
            lab.nodes[leader].status()?.get("pending_restart").map(|_| ())
        })
        .await;
        let restarted = lab.nodes[leader].request("POST", "/restart", "{}").expect("an answer");
        assert_eq!(restarted.0, 200, "{}", restarted.1);
        for node in 0..3 {
            until(lab, node, "SHOW max_connections", "130").await;
        }
        assert_eq!(lab.healthy().await, leader);

        // A consumer of the logical slot goes on where the next leader is.
        let client = lab.client(leader).await;
        client.batch_execute(advance).await.expect("a slot that moves");
        let reached =
            one(&client, "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = 'cdc'")
                .await;
        let follows = format!(
            "SELECT confirmed_flush_lsn >= '{reached}' FROM pg_replication_slots WHERE slot_name = 'cdc'"
        );
        for node in others(leader) {
            until(lab, node, &follows, "t").await;
        }
        lab.nodes[leader].power_off();
        let next = lab.leader_among(&others(leader)).await;
        let client = lab.client(next).await;
        client.batch_execute("INSERT INTO ledger VALUES ('here', 1)").await.expect("a primary");
        client.batch_execute(advance).await.expect("a slot that moves on");
        lab.nodes[leader].start_agent();
        lab.healthy().await;
    });
}

const NORTH: [usize; 2] = [0, 1];
const SOUTH: [usize; 2] = [2, 3];

fn hosts(lab: &Lab, site: [usize; 2]) -> String {
    site.map(|node| lab.nodes[node].address.clone()).join(",")
}

/// One standby leader that streams from afar, the other member from it, all on that timeline.
async fn follows(lab: &Lab, site: [usize; 2], timeline: u64) -> usize {
    wait_for("a standby cluster that streams", async || {
        let standing = |node: usize| {
            let status = lab.nodes[node].status()?;
            let well = status["replication_state"] == "streaming" && status["timeline"] == timeline;
            well.then(|| status["role"] == "standby_leader")
        };
        let leads = [standing(site[0])?, standing(site[1])?];
        match leads {
            [true, false] => Some(site[0]),
            [false, true] => Some(site[1]),
            [true, true] | [false, false] => None,
        }
    })
    .await
}

async fn writes(lab: &Lab, node: usize, row: u32) {
    let client = lab.client(node).await;
    let insert = format!("INSERT INTO ledger VALUES ('site', {row})");
    client.batch_execute(&insert).await.expect("a primary takes rows");
}

#[test]
fn a_standby_cluster_follows_takes_over_and_gives_back() {
    in_lab(&Setup { nodes: 4, ..Setup::default() }, async |lab| {
        let (north, south) = (hosts(lab, NORTH), hosts(lab, SOUTH));
        let follow = format!(
            "  dcs:\n    standby_cluster: {{host: '{north}', port: 5432, primary_slot_name: south}}\n"
        );
        for node in SOUTH {
            configure(lab, node, &[("scope: lab", "scope: south"), ("  dcs:\n", &follow)]);
        }
        for node in NORTH {
            lab.nodes[node].start_agent();
        }
        let first = lab.healthy_among(&NORTH).await;
        lab.create_ledger(first).await;
        change(lab, first, &json!({"slots": {"south": {"type": "physical"}}}));
        for node in SOUTH {
            lab.nodes[node].start_agent();
        }
        let leader = follows(lab, SOUTH, 1).await;
        let other = SOUTH[usize::from(leader == SOUTH[0])];
        let answers = |node: usize| {
            ["/primary", "/standby-leader", "/replica"].map(|path| lab.nodes[node].http_status(path))
        };
        assert_eq!(answers(leader), [Some(503), Some(200), Some(503)]);
        assert_eq!(answers(other), [Some(503), Some(503), Some(200)]);
        writes(lab, first, 1).await;
        for node in SOUTH {
            until(lab, node, "SELECT count(*) FROM ledger", "1").await;
        }

        // Its leader is lost: the other one follows the north in its place.
        lab.nodes[leader].power_off();
        wait_for("another standby leader", async || {
            (lab.nodes[other].http_status("/standby-leader") == Some(200)).then_some(())
        })
        .await;
        writes(lab, first, 2).await;
        until(lab, other, "SELECT count(*) FROM ledger", "2").await;
        lab.nodes[leader].start_agent();
        assert_eq!(follows(lab, SOUTH, 1).await, other);

        // The sites change places, and nobody has to be rewound for it.
        change(lab, first, &json!({"standby_cluster": {"host": south, "port": 5432}}));
        wait_for("the north to stop writing", async || {
            (lab.nodes[first].http_status("/standby-leader") == Some(200)).then_some(())
        })
        .await;
        change(lab, other, &json!({"standby_cluster": null}));
        assert_eq!(lab.healthy_among(&SOUTH).await, other);
        writes(lab, other, 3).await;
        let site_leader = follows(lab, NORTH, 2).await;
        for node in NORTH {
            until(lab, node, "SELECT count(*) FROM ledger", "3").await;
            assert!(!lab.nodes[node].log().contains("rewinding"), "{}", lab.nodes[node].log());
        }

        // By mistake both write. What the north wrote alone is rewound when it follows again.
        change(lab, site_leader, &json!({"standby_cluster": null}));
        let wrong = lab.leader_among(&NORTH).await;
        lab.healthy_among(&NORTH).await;
        writes(lab, wrong, 4).await;
        writes(lab, other, 5).await;
        change(lab, wrong, &json!({"standby_cluster": {"host": south, "port": 5432}}));
        let back = follows(lab, NORTH, 2).await;
        for node in NORTH {
            until(lab, node, "SELECT sum(row) FROM ledger", "11").await;
        }
        assert!(lab.nodes[back].log().contains("site_rewinds"), "{}", lab.nodes[back].log());
    });
}
