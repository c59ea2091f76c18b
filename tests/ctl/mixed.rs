//! Members of both kinds in one cluster: two of ours and one of Patroni's, on one store. Whoever leads, the others follow;
//! whoever is asked, the lease changes hands; whoever dies, another one takes over.

use std::panic::AssertUnwindSafe;
use std::process::Child;

use futures_util::FutureExt;
use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};
use tenure::clock;
use tenure::model::Span;

use crate::patroni::{Command, available, log_of, operate, ours, start_member, theirs};
use crate::support::lab::{Lab, Setup, in_lab};
use crate::support::wait_for;
use crate::support::writer::Writer;

/// Node 1 runs our agent, node 2 Patroni's, and node 3 ours again, which may not lead: so it is known who comes next.
const OURS: usize = 0;
const THEIRS: usize = 1;
const FOLLOWER: usize = 2;
/// Patroni raises whatever is less.
const TTL: u32 = 20;

struct Mixed<'a> {
    lab: &'a mut Lab,
    patroni: Option<Child>,
}

fn in_mixed_lab(test: impl AsyncFnOnce(&mut Mixed)) {
    if !available() {
        return;
    }
    in_lab(&Setup { ttl: TTL, ..Setup::default() }, async |lab| {
        let path = lab.nodes[FOLLOWER].dir.join("tenure.yml");
        let settings = std::fs::read_to_string(&path).expect("our own file");
        std::fs::write(path, settings + "tags:\n  nofailover: true\n").expect("our own file");
        let mut mixed = Mixed { lab, patroni: None };
        let outcome = AssertUnwindSafe(test(&mut mixed)).catch_unwind().await;
        if let Err(panic) = outcome {
            println!("---- Patroni\n{}", log_of(&mixed.lab.nodes[THEIRS]));
            mixed.power_off(THEIRS);
            std::panic::resume_unwind(panic);
        }
        mixed.power_off(THEIRS);
    });
}

impl Mixed<'_> {
    fn start(&mut self, node: usize) {
        if node == THEIRS {
            self.patroni = Some(start_member(&self.lab.nodes[THEIRS]));
        } else {
            self.lab.nodes[node].start_agent();
        }
    }

    fn power_off(&mut self, node: usize) {
        self.lab.nodes[node].power_off();
        if node == THEIRS
            && let Some(mut child) = self.patroni.take()
        {
            child.wait().expect("our own child");
        }
    }

    async fn leads(&self, node: usize) {
        let name = &self.lab.nodes[node].name;
        wait_for(&format!("{name} to lead and the others to follow"), async || {
            (self.lab.healthy_now()? == node).then_some(())
        })
        .await;
    }

    /// A cluster of everybody, made by our agent, with a writer.
    async fn founded_by_us(&mut self) -> Writer {
        self.start(OURS);
        self.lab.leader_among(&[OURS]).await;
        self.start(THEIRS);
        self.start(FOLLOWER);
        self.leads(OURS).await;
        self.everybody_has_a_slot(OURS).await;
        self.lab.create_ledger(OURS).await;
        let writer = self.lab.write_anywhere();
        self.lab.more_rows(20).await;
        writer
    }

    async fn founded_by_patroni(&mut self) {
        self.start(THEIRS);
        wait_for("Patroni to make the cluster", async || {
            (self.lab.nodes[THEIRS].http_status("/primary") == Some(200)).then_some(())
        })
        .await;
        self.start(OURS);
        self.start(FOLLOWER);
        self.leads(THEIRS).await;
        self.everybody_has_a_slot(THEIRS).await;
        self.lab.create_ledger(THEIRS).await;
    }

    /// From the other one that may lead.
    async fn hand_to(&self, to: usize) {
        let wish = json!({"leader": self.name(OURS + THEIRS - to), "candidate": self.name(to)}).to_string();
        let asked = self.lab.nodes[to].request("POST", "/switchover", &wish).expect("an answer");
        assert_eq!(asked.0, 200, "{}", asked.1);
        self.leads(to).await;
    }

    async fn leads_without(&self, node: usize, lost: usize) {
        let name = &self.lab.nodes[node].name;
        let rest: Vec<usize> = (0..3).filter(|&other| other != lost).collect();
        assert_eq!(self.lab.healthy_among(&rest).await, node, "{name} leads");
    }

    fn name(&self, node: usize) -> &str {
        &self.lab.nodes[node].name
    }

    /// Who reserves WAL for whom at a node.
    async fn slots(&self, node: usize) -> Vec<String> {
        let query = "select slot_name::text from pg_replication_slots where active order by 1";
        let client = self.lab.client(node).await;
        let rows = client.query(query, &[]).await.expect("slots can be looked at");
        rows.iter().map(|row| row.get(0)).collect()
    }

    async fn everybody_has_a_slot(&self, leader: usize) {
        let others: Vec<&str> = (0..3).filter(|&node| node != leader).map(|node| self.name(node)).collect();
        wait_for("a slot for everybody who follows", async || {
            (self.slots(leader).await == others).then_some(())
        })
        .await;
    }

    fn failsafe_active(&self, node: usize) -> Option<bool> {
        Some(self.lab.nodes[node].status()?["failsafe_mode_is_active"] == true)
    }

    async fn one_history(&self, leader: usize) {
        let leading = self.lab.nodes[leader].status().expect("a status")["timeline"].as_u64();
        for node in [OURS, THEIRS] {
            wait_for("the history", async || {
                let (_, text) = self.lab.nodes[node].request("GET", "/history", "")?;
                let lines: Value = serde_json::from_str(&text).ok()?;
                let last = lines.as_array()?.last()?.clone();
                let agrees = last[0].as_u64()? + 1 == leading? && last[4].as_str() == Some(self.name(leader));
                agrees.then_some(())
            })
            .await;
        }
    }
}

#[test]
fn a_mixed_cluster_switches_over_both_ways_whoever_is_asked() {
    in_mixed_lab(async |mixed| {
        mixed.founded_by_patroni().await;
        let writer = mixed.lab.write_anywhere();
        mixed.lab.more_rows(20).await;

        let (us, them) = (mixed.name(OURS).to_owned(), mixed.name(THEIRS).to_owned());
        let said = theirs(mixed.lab, &["switchover", "--candidate", &us, "--force"], "");
        assert!(said.stdout.contains(&format!("Successfully switched over to \"{us}\"")), "{said:#?}");
        mixed.leads(OURS).await;
        mixed.everybody_has_a_slot(OURS).await;
        mixed.one_history(OURS).await;
        mixed.lab.more_rows(20).await;

        let said = ours(mixed.lab, &["switchover", "--candidate", &them, "--force"], "");
        assert!(said.stdout.contains(&format!("Successfully switched over to \"{them}\"")), "{said:#?}");
        mixed.leads(THEIRS).await;
        mixed.one_history(THEIRS).await;
        mixed.lab.more_rows(20).await;

        // Each is asked for what the other one does, without a candidate: there is but one.
        for (asked, from, to) in [(OURS, THEIRS, OURS), (THEIRS, OURS, THEIRS)] {
            let wish = json!({"leader": mixed.name(from)}).to_string();
            let answer = mixed.lab.nodes[asked].request("POST", "/switchover", &wish).expect("an answer");
            assert_eq!(answer, (200, format!("Successfully switched over to \"{}\"", mixed.name(to))));
            mixed.leads(to).await;
            mixed.lab.more_rows(20).await;
        }
        assert_eq!(mixed.lab.missing_rows(THEIRS).await, 0, "a switchover loses nothing");
        synchronous(mixed).await;
        drop(writer);

        maintenance(mixed).await;
        for (command, replica) in [(theirs as Command, OURS), (ours, FOLLOWER)] {
            operate(mixed.lab, command, THEIRS, replica).await;
        }
        mixed.lab.ledger.check_one_history_at_a_time();
    });
}

/// Either kind keeps the key that says who may lead, and the other one goes by it.
async fn synchronous(mixed: &Mixed<'_>) {
    let set = |mode: &str| {
        let said =
            ours(mixed.lab, &["edit-config", "-s", &format!("synchronous_mode={mode}"), "--force"], "");
        assert_eq!(said.code, 0, "{said:#?}");
    };
    set("on");
    for to in [OURS, THEIRS] {
        wait_for("the other one to be synchronous", async || {
            let said = ours(mixed.lab, &["list", "-f", "json"], "");
            let list: Value = serde_json::from_str(&said.stdout).ok()?;
            let waited_for =
                |member: &Value| member["Member"] == mixed.name(to) && member["Role"] == "Sync Standby";
            let known_to_itself = mixed.lab.nodes[to].http_status("/sync") == Some(200);
            (known_to_itself && list.as_array()?.iter().any(waited_for)).then_some(())
        })
        .await;
        mixed.hand_to(to).await;
        mixed.lab.more_rows(20).await;
    }
    assert_eq!(mixed.lab.missing_rows(THEIRS).await, 0);
    set("off");
    wait_for("commits that wait for nobody", async || {
        let client = mixed.lab.client(THEIRS).await;
        let row = client.query_one("show synchronous_standby_names", &[]).await.ok()?;
        row.get::<_, &str>(0).is_empty().then_some(())
    })
    .await;
}

/// Both kinds see the pause that either command asks for.
async fn maintenance(mixed: &Mixed<'_>) {
    for command in [theirs, ours] {
        let said = command(mixed.lab, &["pause", "--wait"], "");
        assert!(said.stdout.ends_with("Success: cluster management is paused\n"), "{said:#?}");
        for node in &mixed.lab.nodes {
            assert_eq!(node.status().expect("a status")["pause"], true, "{}", node.name);
        }
        let said = command(mixed.lab, &["resume", "--wait"], "");
        assert!(said.stdout.ends_with("Success: cluster management is resumed\n"), "{said:#?}");
    }
    mixed.leads(THEIRS).await;
}

#[test]
fn a_mixed_cluster_fails_over_both_ways() {
    in_mixed_lab(async |mixed| {
        let writer = mixed.founded_by_us().await;

        // PostgreSQL alone: in place, or handed over.
        kill_postmaster(mixed, OURS);
        mixed.lab.more_rows(20).await;
        let leader = mixed.lab.healthy().await;
        kill_postmaster(mixed, leader);
        mixed.lab.more_rows(20).await;
        if mixed.lab.healthy().await != OURS {
            mixed.hand_to(OURS).await;
        }

        // Whole machines, there and back.
        for (lost, next) in [(OURS, THEIRS), (THEIRS, OURS)] {
            mixed.power_off(lost);
            mixed.leads_without(next, lost).await;
            mixed.lab.more_rows(20).await;
            mixed.start(lost);
            mixed.leads(next).await;
        }

        drop(writer);
        mixed.one_history(OURS).await;
        mixed.lab.missing_rows(OURS).await;
        mixed.lab.ledger.check_one_history_at_a_time();
    });
}

#[test]
fn in_a_mixed_cluster_no_primary_is_deposed_that_may_still_write() {
    in_mixed_lab(async |mixed| {
        let writer = mixed.founded_by_us().await;

        // Patroni's agent dies alone, and its PostgreSQL, which nobody stops, goes on writing.
        mixed.hand_to(THEIRS).await;
        let agent = mixed.patroni.as_mut().expect("it was started");
        agent.kill().expect("it runs");
        agent.wait().expect("our own child");
        wait_for("the lease to be seen without an owner", async || {
            let status = mixed.lab.nodes[OURS].status()?;
            (status["tenure"]["rule"] == "candidate_sees_primary").then_some(())
        })
        .await;
        mixed.lab.more_rows(200).await;
        assert_eq!(mixed.lab.nodes[OURS].http_status("/primary"), Some(503));
        mixed.power_off(THEIRS);
        mixed.leads_without(OURS, THEIRS).await;
        mixed.lab.more_rows(20).await;
        mixed.start(THEIRS);
        mixed.leads(OURS).await;

        // Cut off with clients of its own, there and back.
        for (silent, next) in [(OURS, THEIRS), (THEIRS, OURS)] {
            let inside = mixed.lab.write_at(silent);
            mixed.lab.more_rows(20).await;
            mixed.lab.nodes[silent].machine.cut();
            mixed.leads_without(next, silent).await;
            mixed.lab.more_rows(20).await;
            drop(inside);
            mixed.lab.nodes[silent].machine.heal();
            mixed.leads(next).await;
        }
        drop(writer);
        mixed.one_history(OURS).await;
        mixed.lab.missing_rows(OURS).await;
        mixed.lab.ledger.check_one_history_at_a_time();
    });
}

fn kill_postmaster(mixed: &Mixed, node: usize) {
    let postmaster = mixed.lab.nodes[node].postmaster_pid().expect("PostgreSQL runs");
    kill(postmaster, Signal::SIGKILL).expect("it runs");
}

#[test]
fn in_a_mixed_cluster_either_kind_leads_on_without_the_store_by_the_others_consent() {
    in_mixed_lab(async |mixed| {
        mixed.founded_by_patroni().await;
        let said = ours(mixed.lab, &["edit-config", "-s", "failsafe_mode=true", "--force"], "");
        assert_eq!(said.code, 0, "{said:#?}");
        let writer = mixed.lab.write_anywhere();
        for leader in [THEIRS, OURS] {
            if leader == OURS {
                // Whoever has promised to leave the lease to somebody cannot be handed it meanwhile.
                wait_for("the promises to end", async || {
                    let bound = |node: usize| mixed.failsafe_active(node);
                    (!bound(OURS)? && !bound(FOLLOWER)?).then_some(())
                })
                .await;
                mixed.hand_to(OURS).await;
            }
            wait_for("everybody to be counted upon", async || {
                let told = |node: &crate::support::lab::Node| {
                    let (code, text) = node.request("GET", "/failsafe", "")?;
                    (code == 200 && text.matches("/patroni").count() == 3).then_some(())
                };
                mixed.lab.nodes.iter().map(told).collect::<Option<Vec<()>>>()
            })
            .await;
            mixed.lab.more_rows(20).await;
            let timeline = mixed.lab.nodes[leader].status().expect("a status")["timeline"].clone();
            mixed.lab.store_servers[0].kill();
            wait_for("failsafe mode everywhere", async || {
                (0..3).all(|node| mixed.failsafe_active(node) == Some(true)).then_some(())
            })
            .await;
            // Longer than any lease that the store has granted.
            let end = clock::now() + Span::from_secs(u64::from(TTL) + 5);
            wait_for("a lease's length", async || (end <= clock::now()).then_some(())).await;
            mixed.lab.more_rows(20).await;
            mixed.lab.store_servers[0].start();
            mixed.leads(leader).await;
            assert_eq!(mixed.lab.nodes[leader].status().expect("a status")["timeline"], timeline);
        }
        assert_eq!(mixed.lab.missing_rows(OURS).await, 0);
        drop(writer);
        mixed.lab.ledger.check_one_history_at_a_time();
    });
}
