//! A cluster of Patroni's becomes one of Tenure's, node by node under a writer, and goes back: PostgreSQL runs on wherever its
//! role stays, and no acknowledged row is lost.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};

use nix::unistd::Pid;

use crate::patroni::{Said, config_file, configuration, healthy, run, tool, with_patronictl};
use crate::support::lab::Lab;
use crate::support::wait_for;

/// The agents of Patroni's that run, by node.
struct Patronis(Vec<Option<Child>>);

#[test]
fn a_cluster_of_patronis_becomes_tenures_node_by_node_and_goes_back_while_everybody_writes() {
    with_patronictl(3, async |lab| {
        let mut patronis = Patronis((0..3).map(|_| None).collect());
        for node in 0..3 {
            fs::write(config_file(&lab.nodes[node]), configuration(lab, &lab.nodes[node])).expect("our own");
            fs::copy(config_file(&lab.nodes[node]), lab.nodes[node].dir.join("tenure.yml")).expect("our own");
            patronis.start(lab, node);
        }
        let outcome = futures_util::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(async {
            let leader = healthy(lab).await;
            lab.create_ledger(leader).await;
            let own = "alter system set work_mem = '5555kB'";
            lab.client(leader).await.batch_execute(own).await.expect("a superuser may");
            let base = base_file(lab, leader);
            let writer = lab.write_anywhere();
            lab.more_rows(50).await;
            let leader = rolling(lab, &mut patronis, leader).await;
            let leader = in_maintenance_mode(lab, &mut patronis, leader).await;
            drop(writer);
            assert_eq!(lab.missing_rows(leader).await, 0);
            // What is the operator's own in the data directory has seen both agents come and go.
            assert_eq!(base_file(lab, leader), base);
            let client = lab.client(leader).await;
            let row = client.query_one("select current_setting('work_mem')", &[]).await.expect("an answer");
            assert_eq!(row.get::<_, &str>(0), "5555kB");
            println!("in all, the longest time without an acknowledged row: {}", lab.ledger.longest_gap());
            lab.ledger.check_one_history_at_a_time();
        }));
        if let Err(panic) = outcome.await {
            for node in &lab.nodes {
                let log = fs::read_to_string(node.dir.join("patroni.log")).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                println!("---- {}\n{}", node.name, lines[lines.len().saturating_sub(60)..].join("\n"));
            }
            std::panic::resume_unwind(panic);
        }
        for node in &mut lab.nodes {
            node.power_off();
        }
    });
}

/// Standbys first, then a switchover, then the former leader; there and back.
async fn rolling(lab: &mut Lab, patronis: &mut Patronis, first: usize) -> usize {
    let (second, third) = ((first + 1) % 3, (first + 2) % 3);
    let checked = migrate(lab, second, &["check"]);
    println!("tenurectl migrate check\n{}", checked.stdout);
    assert!(checked.code == 0, "{checked:#?}");
    let refused = migrate(lab, first, &["to-tenure", "--stop", "false", "--start", "false"]);
    assert!(refused.code == 1 && refused.stderr.contains("it leads"), "{refused:#?}");
    let dry = migrate(lab, second, &["to-tenure", "--dry-run"]);
    let by_hand = format!("kill -s KILL {}", patronis.pid(second));
    assert!(dry.code == 0 && dry.stdout.contains(&by_hand), "{dry:#?}");
    let told = migrate(lab, second, &["to-tenure"]);
    assert!(told.code == 1 && told.stderr.contains(&by_hand), "{told:#?}");

    for node in [second, third] {
        patronis.bring_to_tenure(lab, node).await;
        assert_eq!(well(lab).await, first);
    }
    let again = migrate(lab, second, &["to-tenure"]);
    assert!(again.code == 0 && again.stdout.contains("Tenure is in charge already"), "{again:#?}");
    switch(lab, first, second, "from Patroni to Tenure").await;
    patronis.bring_to_tenure(lab, first).await;
    assert_eq!(well(lab).await, second);
    lab.more_rows(50).await;

    for node in [first, third] {
        patronis.bring_to_patroni(lab, node).await;
        assert_eq!(well(lab).await, second);
    }
    switch(lab, second, first, "from Tenure to Patroni").await;
    patronis.bring_to_patroni(lab, second).await;
    assert_eq!(well(lab).await, first);
    lab.more_rows(50).await;
    first
}

/// The leader itself changes hands, and nobody else has to lead meanwhile.
async fn in_maintenance_mode(lab: &mut Lab, patronis: &mut Patronis, leader: usize) -> usize {
    operate(lab, leader, &["pause", "--wait"]);
    patronis.bring_to_tenure(lab, leader).await;
    operate(lab, leader, &["resume", "--wait"]);
    assert_eq!(well(lab).await, leader);
    assert!(lab.nodes[leader].status().is_some_and(|status| status["tenure"]["guardian"] == "armed"));
    lab.more_rows(50).await;
    operate(lab, leader, &["pause", "--wait"]);
    // A renewal of the lease, of which there is one in each second, does not arm the guardian again.
    let renewed = || lab.nodes[leader].status()?["dcs_last_seen"].as_u64();
    let before = wait_for("the leader's word from the store", async || renewed()).await;
    wait_for("some more renewals", async || (renewed()? > before + 2).then_some(())).await;
    let guardian = lab.nodes[leader].status().map(|status| status["tenure"]["guardian"].clone());
    assert_eq!(guardian, Some("ready".into()), "it is disarmed as long as the maintenance mode lasts");
    patronis.bring_to_patroni(lab, leader).await;
    operate(lab, leader, &["resume", "--wait"]);
    assert_eq!(well(lab).await, leader);
    lab.more_rows(50).await;
    leader
}

/// What was PostgreSQL's own configuration before any agent came.
fn base_file(lab: &Lab, node: usize) -> String {
    let file = lab.nodes[node].dir.join("data/postgresql.base.conf");
    fs::read_to_string(file).expect("both agents keep it")
}

/// One leader, everybody streams from it, and each has a slot of its own there.
async fn well(lab: &Lab) -> usize {
    let leader = healthy(lab).await;
    let client = lab.client(leader).await;
    wait_for("an active slot for each standby", async || {
        let slots = "select slot_name::text from pg_replication_slots where active order by 1";
        let rows = client.query(slots, &[]).await.ok()?;
        let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        let others = lab.nodes.iter().enumerate().filter(|(node, _)| *node != leader);
        (names == others.map(|(_, other)| other.name.clone()).collect::<Vec<_>>()).then_some(())
    })
    .await;
    leader
}

async fn switch(lab: &Lab, from: usize, to: usize, what: &str) {
    let rows = lab.ledger.count();
    let name = |node: usize| lab.nodes[node].name.as_str();
    let arguments = ["switchover", "lab", "--leader", name(from), "--candidate", name(to), "--force"];
    operate(lab, from, &arguments);
    assert_eq!(well(lab).await, to, "{what}");
    lab.more_rows(50).await;
    let times: Vec<_> = lab.ledger.rows()[rows..].iter().map(|row| row.answered).collect();
    let gap = times.windows(2).map(|pair| pair[1].since(pair[0])).max().unwrap_or_default();
    println!("a switchover {what}: {gap} without an acknowledged row");
}

fn operate(lab: &Lab, node: usize, arguments: &[&str]) -> Said {
    let file = config_file(&lab.nodes[node]).display().to_string();
    let said = run(
        Path::new(env!("CARGO_BIN_EXE_tenurectl")),
        &[&["-c", file.as_str()], arguments].concat(),
        "",
        &[],
    );
    println!("tenurectl {}\n{}{}", arguments.join(" "), said.stdout, said.stderr);
    assert_eq!(said.code, 0, "{arguments:?}: {said:#?}");
    said
}

fn migrate(lab: &Lab, node: usize, arguments: &[&str]) -> Said {
    migrate_with(&config_file(&lab.nodes[node]), arguments)
}

fn migrate_with(file: &Path, arguments: &[&str]) -> Said {
    let file = file.display().to_string();
    let arguments = [&["-c", file.as_str(), "migrate"], arguments].concat();
    run(Path::new(env!("CARGO_BIN_EXE_tenurectl")), &arguments, "", &[])
}

impl Patronis {
    fn start(&mut self, lab: &Lab, node: usize) {
        let at = &lab.nodes[node];
        let log = fs::File::options().append(true).create(true).open(at.dir.join("patroni.log"));
        let log = log.expect("our own directory");
        let mut command = at.machine.command("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
        command.arg(tool("patroni").expect("it was looked for")).arg(config_file(at));
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", &at.dir);
        command.current_dir(&at.dir).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a second handle")).stderr(log);
        self.0[node] = Some(command.spawn().expect("ip and setpriv are installed"));
    }

    fn pid(&self, node: usize) -> Pid {
        let child = self.0[node].as_ref().expect("it runs");
        Pid::from_raw(i32::try_from(child.id()).expect("a pid"))
    }

    async fn bring_to_tenure(&mut self, lab: &mut Lab, node: usize) {
        let postmaster = lab.nodes[node].postmaster_pid();
        let stop = format!("kill -s KILL {}", self.pid(node));
        let said = while_called(lab, node, "to-tenure", &stop, async |lab| {
            lab.nodes[node].start_agent();
        });
        println!("{}", said.await.stdout);
        self.0[node].take().expect("it ran").wait().expect("our own child");
        assert_eq!(lab.nodes[node].postmaster_pid(), postmaster, "PostgreSQL runs on");
    }

    async fn bring_to_patroni(&mut self, lab: &mut Lab, node: usize) {
        let postmaster = lab.nodes[node].postmaster_pid();
        let stop = format!("kill -s USR1 {}", lab.nodes[node].agent_pid());
        let said = while_called(lab, node, "to-patroni", &stop, async |lab| {
            self.start(lab, node);
        });
        println!("{}", said.await.stdout);
        lab.nodes[node].reap_agent();
        assert_eq!(lab.nodes[node].postmaster_pid(), postmaster, "PostgreSQL runs on");
    }
}

/// The command in one thread, and in this one what its start asks for: an agent must be this process's child.
async fn while_called(
    lab: &mut Lab,
    node: usize,
    action: &'static str,
    stop: &str,
    start: impl AsyncFnOnce(&mut Lab),
) -> Said {
    let file = config_file(&lab.nodes[node]);
    let flag = lab.nodes[node].dir.join("start-now");
    let (stop, touch) = (stop.to_owned(), format!("touch {}", flag.display()));
    let namespace = lab.hub.name.clone();
    let calling = std::thread::spawn(move || {
        crate::support::netns::enter(&namespace);
        migrate_with(&file, &[action, "--stop", &stop, "--start", &touch])
    });
    wait_for("the command to start the other agent", async || {
        (flag.exists() || calling.is_finished()).then_some(())
    })
    .await;
    if flag.exists() {
        fs::remove_file(&flag).expect("our own");
        start(lab).await;
    }
    let said = calling.join().expect("the command was called");
    assert_eq!(said.code, 0, "{action} on {}: {said:#?}", lab.nodes[node].name);
    said
}

impl Drop for Patronis {
    fn drop(&mut self) {
        for child in self.0.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
