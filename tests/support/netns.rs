//! Network namespaces: a hub with a bridge, and one namespace a machine, joined by a virtual cable that can be cut.
//! Needs root; `available` tells.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[derive(Debug)]
pub struct Namespace {
    pub name: String,
}

impl Namespace {
    /// A namespace with a loopback device and nothing else.
    pub fn create(name: String) -> Namespace {
        run(&["ip", "netns", "add", &name]);
        let namespace = Namespace { name };
        run(&["ip", "-n", &namespace.name, "link", "set", "lo", "up"]);
        namespace
    }

    /// The middle of a star: a bridge with an address for whoever watches and writes.
    pub fn hub(name: String, address: &str) -> Namespace {
        let hub = Namespace::create(name);
        run(&["ip", "-n", &hub.name, "link", "add", "hub0", "type", "bridge"]);
        run(&["ip", "-n", &hub.name, "addr", "add", &format!("{address}/24"), "dev", "hub0"]);
        run(&["ip", "-n", &hub.name, "link", "set", "hub0", "up"]);
        hub
    }

    /// A machine on the star.
    pub fn spoke(name: String, hub: &Namespace, cable: &str, address: &str) -> Namespace {
        let spoke = Namespace::create(name);
        let end = ["link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns"];
        run(&[&["ip", "-n", &hub.name], &end[..], &[&spoke.name]].concat());
        run(&["ip", "-n", &hub.name, "link", "set", cable, "master", "hub0", "up"]);
        run(&["ip", "-n", &spoke.name, "addr", "add", &format!("{address}/24"), "dev", "eth0"]);
        run(&["ip", "-n", &spoke.name, "link", "set", "eth0", "up"]);
        spoke
    }

    /// Cuts the cable as a real partition does: packets vanish, the device stays up.
    pub fn cut(&self) {
        let rules = "add table inet cut; \
                     add chain inet cut in { type filter hook input priority 0; }; \
                     add chain inet cut out { type filter hook output priority 0; }; \
                     add rule inet cut in iifname eth0 drop; \
                     add rule inet cut out oifname eth0 drop";
        run(&["ip", "netns", "exec", &self.name, "nft", rules]);
    }

    pub fn heal(&self) {
        run(&["ip", "netns", "exec", &self.name, "nft", "delete table inet cut"]);
    }

    /// What the server on this port sends to those addresses vanishes; everything else arrives.
    pub fn withhold(&self, port: u16, from: &[&str]) {
        let rule = format!(
            "add table inet withheld; \
             add chain inet withheld out {{ type filter hook output priority 0; }}; \
             add rule inet withheld out tcp sport {port} ip daddr {{ {} }} drop",
            from.join(", ")
        );
        run(&["ip", "netns", "exec", &self.name, "nft", &rule]);
    }

    /// It arrives again.
    pub fn release(&self) {
        run(&["ip", "netns", "exec", &self.name, "nft", "delete table inet withheld"]);
    }

    /// Everybody who lives here.
    pub fn pids(&self) -> Vec<Pid> {
        pids(&self.name)
    }

    /// The power goes: nobody here gets another instruction.
    pub fn kill_everybody(&self) {
        kill_everybody(&self.name);
    }

    /// A command that runs here.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }
}

fn pids(name: &str) -> Vec<Pid> {
    let output = Command::new("ip").args(["netns", "pids", name]).output().expect("ip is there");
    String::from_utf8_lossy(&output.stdout)
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .filter(|&pid| !is_zombie(pid))
        .map(Pid::from_raw)
        .collect()
}

/// The power of the machine of this name goes.
pub fn kill_everybody(name: &str) {
    for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
        for pid in pids(name) {
            // Whoever has gone by now is what we wanted.
            let _ = kill(pid, signal);
        }
    }
    super::wait_blocking("everybody in a namespace to be gone", || pids(name).is_empty().then_some(()));
}

/// Whoever is dead and only waits for its parent to notice runs no more.
fn is_zombie(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, fields)| fields.starts_with('Z'))
}

/// Moves the calling thread into a namespace.
pub fn enter(name: &str) {
    let path = PathBuf::from("/run/netns").join(name);
    let handle = File::open(&path).expect("a namespace that was made");
    setns(handle, CloneFlags::CLONE_NEWNET).expect("root may change namespaces");
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.kill_everybody();
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// May this user make network namespaces, and are the tools there?
pub fn available() -> bool {
    let works = |arguments: &[&str]| {
        Command::new(arguments[0]).args(&arguments[1..]).output().is_ok_and(|output| output.status.success())
    };
    nix::unistd::geteuid().is_root() && works(&["ip", "netns", "list"]) && works(&["nft", "--version"])
}

fn run(command: &[&str]) {
    let output = Command::new(command[0]).args(&command[1..]).output().expect("the tool is installed");
    assert!(output.status.success(), "{}: {}", command.join(" "), String::from_utf8_lossy(&output.stderr));
}
