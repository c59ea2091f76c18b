//! The virtual addresses go with the primary, and only one machine has them at a time, whatever is frozen or killed. A client on the
//! hub reaches the primary by them and learns of every move from the network alone. What each machine had is told by `ip monitor`.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tenure::model::Span;

use super::support::lab::{Lab, PASSWORD, Setup, in_lab};
use super::support::netns::Namespace;
use super::support::wait_for;
use super::support::writer::connect;
use super::{founded, maintenance, others, passes, switches_over};

const V4: &str = "10.99.0.100";
const V6: &str = "fd00:99::100";
/// Longer than a lease, with all that may come after it.
const A_TERM: Span = Span::from_secs(8);

/// What runs on the nodes beside the lab's own.
struct Stage {
    holders: BTreeMap<usize, Child>,
    monitors: Vec<Child>,
}

/// An address came to a node, or went from it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Move {
    at: String,
    address: &'static str,
    node: usize,
    came: bool,
}

impl Stage {
    /// Before anybody runs.
    fn build(lab: &Lab) -> Stage {
        ip(&["-n", &lab.hub.name, "addr", "add", "fd00:99::1/64", "dev", "hub0", "nodad"]);
        let mut stage = Stage { holders: BTreeMap::new(), monitors: Vec::new() };
        for (index, node) in lab.nodes.iter().enumerate() {
            let own = format!("fd00:99::{}/64", 11 + index);
            ip(&["-n", &node.machine.name, "addr", "add", &own, "dev", "eth0", "nodad"]);
            let path = node.dir.join("tenure.yml");
            let text = fs::read_to_string(&path).expect("our own file");
            let addresses = format!("tenure:\n  virtual_addresses: [{V4}/24 dev eth0, '{V6} dev eth0']\n");
            let text = text
                .replace("tenure:\n", &addresses)
                .replace(&format!("  listen: {}:5432", node.address), "  listen: '*:5432'")
                .replace(
                    "    - host all all 0.0.0.0/0",
                    "    - host all all ::/0 scram-sha-256\n    - host all all 0.0.0.0/0",
                );
            fs::write(&path, text).expect("our own file");
            let log = fs::File::create(node.dir.join("monitor.log")).expect("our own directory");
            let mut monitor = Command::new("ip");
            monitor.args(["-n", &node.machine.name, "-ts", "-o", "monitor", "address"]);
            let monitor =
                monitor.env("TZ", "UTC").stdin(Stdio::null()).stdout(log).stderr(Stdio::null()).spawn();
            stage.monitors.push(monitor.expect("ip is installed"));
            stage.start_holder(lab, index);
        }
        stage
    }

    /// With the two capabilities of its unit, and no others.
    fn start_holder(&mut self, lab: &Lab, index: usize) {
        let node = &lab.nodes[index];
        let log =
            fs::File::options().append(true).create(true).open(holder_log(lab, index)).expect("our own log");
        let mut command = node.machine.command("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
        command.args(["--inh-caps=-all,+net_admin,+net_raw", "--ambient-caps=+net_admin,+net_raw"]);
        command.arg(node.dir.with_file_name("bin").join("tenure-address")).arg(node.dir.join("tenure.yml"));
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.current_dir(&node.dir).stdin(Stdio::null());
        let child = command.stdout(log.try_clone().expect("a second handle")).stderr(log).spawn();
        self.holders.insert(index, child.expect("ip and setpriv are installed"));
    }

    fn signal_holder(&self, index: usize, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.holders[&index].id()).expect("a pid"));
        kill(pid, signal).expect("the holder runs");
    }

    fn kill_holder(&mut self, index: usize) {
        self.signal_holder(index, Signal::SIGKILL);
        self.holders.get_mut(&index).expect("it was started").wait().expect("our own child");
    }
}

impl Stage {
    /// Everything of Tenure and PostgreSQL at once, and not who only watches.
    fn kill_everybody(&mut self, lab: &mut Lab, index: usize) {
        let monitor = i32::try_from(self.monitors[index].id()).expect("a pid");
        for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
            for pid in lab.nodes[index].machine.pids().into_iter().filter(|pid| pid.as_raw() != monitor) {
                // Whoever has gone by now is what we wanted.
                let _ = kill(pid, signal);
            }
        }
        self.holders.get_mut(&index).expect("it was started").wait().expect("our own child");
        lab.nodes[index].kill_agent();
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for child in self.holders.values_mut().chain(&mut self.monitors) {
            // Whoever has gone by now is what we wanted.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn ip(arguments: &[&str]) -> String {
    let output = Command::new("ip").args(arguments).output().expect("ip is installed");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn holder_log(lab: &Lab, index: usize) -> PathBuf {
    lab.nodes[index].dir.join("address.log")
}

/// The word behind another one.
fn behind(text: &str, word: &str) -> Option<String> {
    text.split_whitespace().skip_while(|found| *found != word).nth(1).map(str::to_owned)
}

fn mac(namespace: &Namespace) -> String {
    let shown = ip(&["-n", &namespace.name, "-o", "link", "show", "eth0"]);
    behind(&shown, "link/ether").expect("an Ethernet device")
}

/// Every time that an address came or went, in order. What only prolongs its time is no move.
fn moves(lab: &Lab) -> Vec<Move> {
    let mut moves = Vec::new();
    for (node, machine) in lab.nodes.iter().enumerate() {
        let log = fs::read_to_string(machine.dir.join("monitor.log")).unwrap_or_default();
        for address in [V4, V6] {
            let mut here = false;
            for line in log.lines().filter(|line| line.contains(&format!(" {address}/"))) {
                let came = !line.contains("] Deleted ");
                let at = line.split(']').next().expect("a time").to_owned();
                if std::mem::replace(&mut here, came) != came {
                    moves.push(Move { at, address, node, came });
                }
            }
        }
    }
    moves.sort();
    moves
}

/// The law: gone from one before it comes to another.
fn one_at_a_time(lab: &Lab) {
    let moves = moves(lab);
    for address in [V4, V6] {
        let mut owner = None;
        for moved in moves.iter().filter(|moved| moved.address == address) {
            match (moved.came, owner) {
                (true, Some(other)) => panic!("node {other} and node {} have it: {moves:#?}", moved.node),
                (true, None) => owner = Some(moved.node),
                (false, _) => owner = None,
            }
        }
        assert!(owner.is_some(), "nobody has {address}: {moves:#?}");
    }
}

/// A client of the addresses is a client of this node, which accepts writes.
async fn reached(lab: &Lab, node: usize) {
    let ours = lab.nodes[node].dir.join("data").display().to_string();
    for address in [V4, V6] {
        wait_for("the primary behind the address", async || {
            let client = connect(address, PASSWORD).await?;
            let row = client
                .query_one("select current_setting('data_directory'), pg_is_in_recovery()", &[])
                .await
                .ok()?;
            (row.get::<_, &str>(0) == ours && !row.get::<_, bool>(1)).then_some(())
        })
        .await;
    }
}

/// What the hub's kernel has been told, without having asked: nobody has connected since.
async fn neighbours_know(lab: &Lab, node: usize) {
    let wanted = mac(&lab.nodes[node].machine);
    for address in [V4, V6] {
        wait_for("the neighbour to have heard of the move", async || {
            let known = ip(&["-n", &lab.hub.name, "neigh", "show", address, "dev", "hub0"]);
            (behind(&known, "lladdr")? == wanted).then_some(())
        })
        .await;
    }
}

fn shown(lab: &Lab, node: usize) -> Option<Vec<serde_json::Value>> {
    lab.nodes[node].status()?["tenure"]["virtual_addresses"].as_array().cloned()
}

async fn holds(lab: &Lab, node: usize, held: bool) {
    wait_for("the status to tell of the addresses", async || {
        let all = shown(lab, node)?;
        (all.len() == 2 && all.iter().all(|one| one["held"] == held)).then_some(())
    })
    .await;
}

#[test]
fn the_addresses_go_with_a_switchover_and_the_neighbours_follow() {
    in_lab(&Setup::default(), async |lab| {
        let _stage = Stage::build(lab);
        let first = founded(lab).await;
        let writer = lab.write_anywhere();
        lab.more_rows(50).await;
        let second = others(first)[0];
        reached(lab, first).await;
        for (from, to) in [(first, second), (second, first)] {
            switches_over(lab, from, to).await;
            neighbours_know(lab, to).await;
            reached(lab, to).await;
            holds(lab, to, true).await;
            holds(lab, from, false).await;
        }
        let (_, metrics) = lab.nodes[first].request("GET", "/metrics", "").expect("an answer");
        assert!(metrics.contains(&format!("address=\"{V4}/24 dev eth0\"}} 1\n")), "{metrics}");
        // An agent that ends in good order gives them back as well.
        lab.nodes[first].end_agent();
        let next = lab.leader_among(&others(first)).await;
        reached(lab, next).await;
        lab.nodes[first].start_agent();
        lab.healthy().await;
        drop(writer);
        one_at_a_time(lab);
        assert_eq!(lab.missing_rows(next).await, 0);
    });
}

#[test]
fn whatever_is_frozen_or_killed_the_addresses_go_before_another_has_them() {
    in_lab(&Setup::default(), async |lab| {
        let mut stage = Stage::build(lab);
        let first = founded(lab).await;
        reached(lab, first).await;

        println!("a frozen agent: the holder acts at the deadline");
        lab.nodes[first].signal_agent(Signal::SIGSTOP);
        let second = lab.leader_among(&others(first)).await;
        reached(lab, second).await;
        let log = fs::read_to_string(holder_log(lab, first)).expect("a log");
        assert!(log.contains("its deadline has come"), "{log}");
        lab.nodes[first].signal_agent(Signal::SIGCONT);
        assert_eq!(lab.healthy().await, second);

        println!("a frozen agent and a frozen holder: the kernel acts");
        stage.signal_holder(second, Signal::SIGSTOP);
        lab.nodes[second].signal_agent(Signal::SIGSTOP);
        let third = lab.leader_among(&others(second)).await;
        reached(lab, third).await;
        lab.nodes[second].signal_agent(Signal::SIGCONT);
        stage.signal_holder(second, Signal::SIGCONT);
        assert_eq!(lab.healthy().await, third);

        println!("nobody is left on a machine that still has its network");
        stage.kill_everybody(lab, third);
        let next = lab.leader_among(&others(third)).await;
        reached(lab, next).await;
        stage.start_holder(lab, third);
        lab.nodes[third].start_agent();
        lab.healthy().await;
        holds(lab, third, false).await;
        one_at_a_time(lab);
        // Each move was one: nobody has lost them meanwhile.
        let came = moves(lab).into_iter().filter(|moved| moved.came && moved.address == V4);
        assert_eq!(came.map(|moved| moved.node).collect::<Vec<_>>(), [first, second, third, next]);
    });
}

#[test]
fn successors_and_maintenance_leave_the_addresses_where_the_primary_is() {
    in_lab(&Setup::default(), async |lab| {
        let mut stage = Stage::build(lab);
        let leader = founded(lab).await;
        reached(lab, leader).await;
        lab.nodes[leader].kill_agent();
        lab.nodes[leader].start_agent();
        passes(A_TERM).await;
        lab.nodes[leader].leave_agent();
        lab.nodes[leader].start_agent();
        passes(A_TERM).await;
        stage.kill_holder(leader);
        stage.start_holder(lab, leader);
        passes(A_TERM).await;

        // In maintenance mode the primary needs no agent, nor does its address.
        maintenance(lab, true).await;
        wait_for("an address without an end", async || {
            let shown = ip(&["-n", &lab.nodes[leader].machine.name, "-o", "addr", "show", "dev", "eth0"]);
            let of = |address: &str| shown.lines().find(|line| line.contains(&format!(" {address}/")));
            [V4, V6]
                .iter()
                .all(|address| of(address).is_some_and(|line| line.contains("valid_lft forever")))
                .then_some(())
        })
        .await;
        lab.nodes[leader].kill_agent();
        stage.kill_holder(leader);
        passes(A_TERM).await;
        reached(lab, leader).await;
        stage.start_holder(lab, leader);
        lab.nodes[leader].start_agent();
        holds(lab, leader, true).await;
        maintenance(lab, false).await;
        assert_eq!(lab.healthy().await, leader);
        assert_eq!(moves(lab).len(), 2, "they came once: {:#?}", moves(lab));

        let writer = lab.write_anywhere();
        lab.more_rows(50).await;
        let next = others(leader)[0];
        switches_over(lab, leader, next).await;
        reached(lab, next).await;
        drop(writer);
        one_at_a_time(lab);
    });
}

#[test]
fn an_address_that_a_stranger_has_is_taken_and_told_of() {
    in_lab(&Setup { nodes: 1, ..Setup::default() }, async |lab| {
        let _stage = Stage::build(lab);
        let name = lab.hub.name.replace("-hub", "-rival");
        let rival = Namespace::spoke(name, &lab.hub, "rival", "10.99.0.66");
        ip(&["-n", &rival.name, "addr", "add", &format!("{V4}/24"), "dev", "eth0"]);
        ip(&["-n", &rival.name, "addr", "add", &format!("{V6}/64"), "dev", "eth0", "nodad"]);
        lab.nodes[0].start_agent();
        lab.healthy().await;
        let stranger = mac(&rival);
        wait_for("the stranger to be told of", async || {
            let all = shown(lab, 0)?;
            let told = all.iter().all(|one| one["held"] == true && one["duplicate"] == stranger.as_str());
            (all.len() == 2 && told).then_some(())
        })
        .await;
        let log = fs::read_to_string(holder_log(lab, 0)).expect("a log");
        let told = log.lines().filter(|line| line.contains("another host answers for a virtual address"));
        assert_eq!(told.count(), 2, "once for each: {log}");
        drop(rival);
        wait_for("the stranger to be forgotten", async || {
            shown(lab, 0)?.iter().all(|one| one["duplicate"].is_null()).then_some(())
        })
        .await;
        reached(lab, 0).await;
    });
}
