//! A primary that was started again shows commits that no standby has acknowledged. With `synchronous_gate` clients see them once the
//! standbys have them; without it, at once.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tenure::model::Span;
use tokio_postgres::{Client, Config, NoTls};

use super::support::lab::{Lab, in_lab};
use super::support::wait_for;
use super::synchronous::{on_two_majors, synchronous, synchronous_members};
use super::{founded, others, passes};

const GATED: &str = "synchronous_mode: on, synchronous_mode_strict: on, synchronous_gate: on";
const UNGATED: &str = "synchronous_mode: on, synchronous_mode_strict: on";
/// Of the application's role.
const PASSWORD: &str = "application";
const COUNT: &str = "select count(*) from seen";

/// A connection of the application's, or what it is told.
async fn application(lab: &Lab, node: usize) -> Result<Client, String> {
    let mut config = Config::new();
    config.host(&lab.nodes[node].address).port(5432).user("app").password(PASSWORD).dbname("postgres");
    config.connect_timeout(Duration::from_secs(1));
    match tokio::time::timeout(Duration::from_secs(2), config.connect(NoTls)).await {
        Ok(Ok((client, connection))) => {
            #[expect(clippy::disallowed_methods, reason = "it ends with its client")]
            tokio::spawn(connection);
            Ok(client)
        }
        Ok(Err(error)) => {
            Err(error.as_db_error().map_or(error.to_string(), |said| said.message().to_owned()))
        }
        Err(_) => Err("no answer".to_owned()),
    }
}

async fn number(client: &Client, query: &str) -> Option<i64> {
    Some(client.query_one(query, &[]).await.ok()?.get(0))
}

/// A cluster with a table of the application's, which every standby has.
async fn with_application(lab: &mut Lab) -> usize {
    let leader = founded(lab).await;
    synchronous_members(lab, "/synchronous", 1).await;
    let make = format!(
        "create role app login password '{PASSWORD}'; create table seen (n int); grant all on seen to app"
    );
    lab.client(leader).await.batch_execute(&make).await.expect("a primary makes tables");
    leader
}

/// The process that receives WAL on a standby.
fn receiver(lab: &Lab, node: usize) -> Option<Pid> {
    lab.nodes[node].machine.pids().into_iter().find(|pid| {
        let name = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&name).contains("walreceiver")
    })
}

/// No standby receives anything from now on.
async fn freeze_receivers(lab: &Lab, leader: usize) -> Vec<Pid> {
    let mut frozen = Vec::new();
    for node in others(leader) {
        let pid = wait_for("a WAL receiver", async || receiver(lab, node)).await;
        kill(pid, Signal::SIGSTOP).expect("it runs");
        frozen.push(pid);
    }
    frozen
}

/// The application's backend, as it waits for a standby.
async fn waiting_backend(lab: &Lab, leader: usize) -> Pid {
    let client = lab.client(leader).await;
    wait_for("a commit that waits", async || {
        let statement = "select pid from pg_stat_activity where wait_event = 'SyncRep' and usename = 'app'";
        let row = client.query_opt(statement, &[]).await.ok()??;
        Some(Pid::from_raw(row.get(0)))
    })
    .await
}

/// Beside the data directory.
fn beside(lab: &Lab, leader: usize, suffix: &str) -> PathBuf {
    lab.nodes[leader].dir.join(format!("data{suffix}"))
}

fn rule(lab: &Lab, node: usize) -> Option<String> {
    lab.nodes[node].status()?["tenure"]["rule"].as_str().map(str::to_owned)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Victim {
    Postmaster,
    Backend,
}

/// A commit waits for its standby, and PostgreSQL dies. Gives the frozen receivers when it is up again.
async fn die_with_a_commit_that_waits(lab: &Lab, leader: usize, victim: Victim) -> Vec<Pid> {
    let frozen = freeze_receivers(lab, leader).await;
    let writer = application(lab, leader).await.expect("let in");
    let before = lab.nodes[leader].postmaster_pid().expect("it runs");
    let backend = tokio::select! {
        outcome = writer.execute("insert into seen values (1)", &[]) => panic!("acknowledged: {outcome:?}"),
        backend = waiting_backend(lab, leader) => backend,
    };
    kill(if victim == Victim::Postmaster { before } else { backend }, Signal::SIGKILL).expect("it runs");
    // Tenure's own role is let in, and sees the row.
    wait_for("PostgreSQL with the row in it", async || {
        if lab.nodes[leader].postmaster_pid()? == before {
            return None;
        }
        let own = super::support::writer::connect(&lab.nodes[leader].address, super::support::lab::PASSWORD);
        (number(&own.await?, COUNT).await? == 1).then_some(())
    })
    .await;
    frozen
}

/// Nobody but Tenure's own roles gets in, and balancers are told.
async fn is_closed(lab: &Lab, leader: usize) {
    let document = wait_for("a gate that is told", async || {
        let document = lab.nodes[leader].status()?;
        (document["tenure"]["rule"] == "gate_closed").then_some(document)
    })
    .await;
    let refused = application(lab, leader).await.expect_err("the row that nobody acknowledged is to be seen");
    assert!(refused.contains("pg_hba.conf rejects connection"), "{refused}");
    for path in ["/", "/primary", "/read-write", "/leader", "/master", "/read-only", "/readiness"] {
        assert_eq!(lab.nodes[leader].http_status(path), Some(503), "{path}");
    }
    assert_eq!(lab.nodes[leader].http_status("/health"), Some(200));
    assert_eq!(lab.nodes[leader].http_status("/liveness"), Some(200));
    assert_eq!((&document["role"], &document["state"]), (&json!("primary"), &json!("running")));
    let lacking = document["tenure"]["gate"]["lacking"].as_array().map(Vec::len);
    assert_eq!(lacking, Some(1), "{document}");
    let (_, metrics) = lab.nodes[leader].request("GET", "/metrics", "").expect("an answer");
    assert!(metrics.lines().any(|line| line.starts_with("tenure_gate_closed{") && line.ends_with(" 1")));
}

async fn opens(lab: &Lab, leader: usize, frozen: &[Pid]) {
    for pid in frozen {
        kill(*pid, Signal::SIGCONT).expect("it was only stopped");
    }
    let client = wait_for("a gate that opens", async || application(lab, leader).await.ok()).await;
    assert_eq!(number(&client, COUNT).await, Some(1));
    wait_for("balancers to be told", async || {
        (lab.nodes[leader].http_status("/primary") == Some(200)).then_some(())
    })
    .await;
    assert_eq!(lab.nodes[leader].status().expect("an answer")["tenure"].get("gate"), None);
    assert!(!beside(lab, leader, ".tenure-gate-closed").exists());
    let real = fs::read_link(beside(lab, leader, ".tenure-gate")).expect("a link");
    assert_eq!(real, Path::new(&lab.nodes[leader].dir.join("data")));
}

#[test]
fn clients_of_a_primary_that_comes_back_see_what_a_standby_has() {
    on_two_majors(GATED, &async |lab| {
        let leader = with_application(lab).await;
        let frozen = die_with_a_commit_that_waits(lab, leader, Victim::Postmaster).await;
        is_closed(lab, leader).await;
        // The next agent finds it closed, and leaves it so.
        lab.nodes[leader].kill_agent();
        lab.nodes[leader].start_agent();
        is_closed(lab, leader).await;
        passes(Span::from_secs(6)).await;
        is_closed(lab, leader).await;
        opens(lab, leader, &frozen).await;
        let log = lab.nodes[leader].log();
        assert!(log.contains("letting clients in; they were kept out for "), "{log}");
        assert_eq!(lab.healthy().await, leader);
    });
}

#[test]
fn a_crashed_backend_comes_back_through_the_gate_and_an_operator_may_open_it() {
    in_lab(&synchronous(GATED), async |lab| {
        let leader = with_application(lab).await;
        let frozen = die_with_a_commit_that_waits(lab, leader, Victim::Backend).await;
        is_closed(lab, leader).await;
        let off = json!({"synchronous_gate": null}).to_string();
        assert_eq!(lab.nodes[leader].request("PATCH", "/config", &off).expect("an answer").0, 200);
        let client = wait_for("a gate that opens", async || application(lab, leader).await.ok()).await;
        assert_eq!(number(&client, COUNT).await, Some(1));
        wait_for("the usual rule", async || (rule(lab, leader)? != "gate_closed").then_some(())).await;
        opens(lab, leader, &frozen).await;
    });
}

/// What the gate is for.
#[test]
fn without_a_gate_clients_see_what_no_standby_has() {
    in_lab(&synchronous(UNGATED), async |lab| {
        let leader = with_application(lab).await;
        let frozen = die_with_a_commit_that_waits(lab, leader, Victim::Postmaster).await;
        let client = wait_for("a connection", async || application(lab, leader).await.ok()).await;
        assert_eq!(number(&client, COUNT).await, Some(1));
        for pid in frozen {
            kill(pid, Signal::SIGCONT).expect("it was only stopped");
        }
    });
}
