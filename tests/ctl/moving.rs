//! A cluster moves to another store and back while it is written to, and no PostgreSQL notices.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::unistd::Pid;

use crate::patroni::{Said, run};
use crate::support::lab::{Lab, Node, Setup, in_lab};
use crate::support::store_server::{StoreKind, StoreServer};
use crate::support::{wait_blocking, wait_for};

const TENURECTL: &str = env!("CARGO_BIN_EXE_tenurectl");

/// A run of `move-store`, whose words are read while it works.
struct Move {
    child: Child,
    output: PathBuf,
}

/// One of the stores, as the members' configuration names it.
#[derive(Clone)]
struct Home {
    section: String,
    file: PathBuf,
}

#[test]
fn a_cluster_moves_from_zookeeper_to_etcd_and_back_while_it_is_written_to() {
    in_lab(&Setup { store: StoreKind::Zookeeper, ttl: 10, ..Setup::default() }, async |lab| {
        lab.start_everybody();
        let leader = lab.healthy().await;
        lab.create_ledger(leader).await;
        let dir = lab.nodes[0].dir.parent().expect("the lab's own").to_owned();
        let another = StoreServer::another(StoreKind::Etcd, &lab.hub, &dir);
        let old = Home::new(lab, "zookeeper", &lab.store_servers[0], &dir);
        let new = Home::new(lab, "etcd3", &another, &dir);
        wait_for("the other store", async || (list(&new).code == 0).then_some(())).await;
        let postmasters = postmasters(lab);
        let writer = lab.write_anywhere();
        lab.more_rows(50).await;

        let early = tenurectl(&old, &["move-store", "--to", &new.path(), "--force"]);
        assert!(early.code == 1 && early.stderr.contains("hint: tenurectl pause lab --wait"), "{early:#?}");
        there(lab, &old, &new, leader).await;
        assert_eq!(lab.healthy().await, leader);
        lab.more_rows(50).await;
        and_back(lab, &new, &old, leader).await;
        assert_eq!(lab.healthy().await, leader);
        lab.more_rows(50).await;
        drop(writer);
        assert_eq!(self::postmasters(lab), postmasters, "no PostgreSQL was started anew");
        assert!(lab.ledger.rows().iter().all(|row| row.timeline == 1));
        assert_eq!(lab.missing_rows(leader).await, 0);
        lab.ledger.check_one_history_at_a_time();

        // The lease, the claim and the guardian go on in the store that the cluster has come back to.
        let next = lab.nodes[(leader + 1) % 3].name.clone();
        let said = tenurectl(&old, &["switchover", "--candidate", &next, "--force"]);
        assert!(said.stdout.contains(&format!("Successfully switched over to \"{next}\"")), "{said:#?}");
        lab.healthy().await;
    });
}

/// As an operator does it: looks first, is interrupted once, moves the standbys first, restarts agents in good order.
async fn there(lab: &mut Lab, old: &Home, new: &Home, leader: usize) {
    let paused = tenurectl(old, &["pause", "--wait"]);
    assert!(paused.stdout.ends_with("Success: cluster management is paused\n"), "{paused:#?}");
    let dry = tenurectl(old, &["move-store", "--to", &new.path(), "--dry-run"]);
    assert!(dry.code == 0 && dry.stdout.ends_with("nothing was changed\n"), "{dry:#?}");
    assert!(dry.stdout.contains("would copy claim (") && dry.stdout.contains("; then node"), "{dry:#?}");
    assert!(list(new).stdout.contains("(uninitialized)"), "nothing was copied");

    let interrupted = Move::start(old, new);
    interrupted.says("restart its agent").await;
    drop(interrupted);
    let moving = Move::start(old, new);
    moving.says("restart its agent").await;
    let config = tenurectl(new, &["show-config"]);
    assert!(config.code == 0 && config.stdout.contains("pause: true"), "{config:#?}");
    for node in (0..3).filter(|&node| node != leader) {
        lab.nodes[node].leave_agent();
        move_in(lab, new, node).await;
    }
    moving.says(&format!("  {}, the leader\n", lab.nodes[leader].name)).await;
    lab.nodes[leader].leave_agent();
    move_in(lab, new, leader).await;
    moving.succeeds();

    // Whoever comes back to the old store finds an office that is never vacant.
    assert!(list(old).stdout.contains(" Maintenance mode: on"));
    let again = tenurectl(old, &["move-store", "--to", &new.path(), "--force"]);
    assert!(again.code == 0 && again.stdout.contains("Success: "), "{again:#?}");
    let resumed = tenurectl(new, &["resume", "--wait"]);
    assert!(resumed.stdout.ends_with("Success: cluster management is resumed\n"), "{resumed:#?}");
}

/// The other way round, and with agents that are killed: nothing that they did not say in time may hurt.
async fn and_back(lab: &mut Lab, from: &Home, to: &Home, leader: usize) {
    let paused = tenurectl(from, &["pause", "--wait"]);
    assert_eq!(paused.code, 0, "{paused:#?}");
    let moving = Move::start(from, to);
    moving.says("restart its agent").await;
    lab.nodes[leader].kill_agent();
    move_in(lab, to, leader).await;
    for node in (0..3).filter(|&node| node != leader) {
        lab.nodes[node].kill_agent();
        move_in(lab, to, node).await;
    }
    moving.succeeds();
    let resumed = tenurectl(to, &["resume", "--wait"]);
    assert_eq!(resumed.code, 0, "{resumed:#?}");
}

/// Gives a member the other store, and starts its agent.
async fn move_in(lab: &mut Lab, home: &Home, node: usize) {
    let path = lab.nodes[node].dir.join("tenure.yml");
    fs::write(&path, home.configuration(&path)).expect("our own directory");
    lab.nodes[node].start_agent();
    let name = lab.nodes[node].name.clone();
    wait_for("the member in its new store", async || {
        let members: serde_json::Value =
            serde_json::from_str(&tenurectl(home, &["list", "-f", "json"]).stdout).ok()?;
        members.as_array()?.iter().any(|member| member["Member"] == name.as_str()).then_some(())
    })
    .await;
}

fn postmasters(lab: &Lab) -> Vec<Option<Pid>> {
    let pids: Vec<Option<Pid>> = lab.nodes.iter().map(Node::postmaster_pid).collect();
    assert!(pids.iter().all(Option::is_some));
    pids
}

fn tenurectl(home: &Home, arguments: &[&str]) -> Said {
    run(Path::new(TENURECTL), &[&["-c", home.path().as_str()], arguments].concat(), "", &[])
}

fn list(home: &Home) -> Said {
    tenurectl(home, &["list"])
}

impl Home {
    fn new(lab: &Lab, kind: &str, server: &StoreServer, dir: &Path) -> Home {
        let home = Home {
            section: format!("{kind}:\n  hosts: {}\n", server.endpoint()),
            file: dir.join(format!("{kind}.yml")),
        };
        let configuration = home.configuration(&lab.nodes[0].dir.join("tenure.yml"));
        fs::write(&home.file, configuration).expect("our own directory");
        home
    }

    /// A member's configuration with this store instead of the one that it names.
    fn configuration(&self, path: &Path) -> String {
        let text = fs::read_to_string(path).expect("our own file");
        let begin = text.find("zookeeper:\n").or_else(|| text.find("etcd3:\n")).expect("it names a store");
        let end = begin + text[begin..].find("tenure:\n").expect("what follows it");
        format!("{}{}{}", &text[..begin], self.section, &text[end..])
    }

    fn path(&self) -> String {
        self.file.display().to_string()
    }
}

impl Move {
    fn start(from: &Home, to: &Home) -> Move {
        let output = from.file.with_extension("out");
        let file = fs::File::create(&output).expect("our own directory");
        let mut command = Command::new(TENURECTL);
        command.args(["-c", &from.path(), "move-store", "--to", &to.path(), "--force"]);
        command.stdin(Stdio::null()).stdout(file.try_clone().expect("a second handle")).stderr(file);
        Move { child: command.spawn().expect("the program starts"), output }
    }

    async fn says(&self, words: &str) {
        wait_for(words, async || self.said().contains(words).then_some(())).await;
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.output).expect("our own file")
    }

    fn succeeds(mut self) {
        let ended = wait_blocking("the end of the move", || self.child.try_wait().expect("our own child"));
        assert!(ended.success() && self.said().contains("Success: "), "{}", self.said());
    }
}

impl Drop for Move {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
