//! The agent as a service: what systemd hears of it, what its children inherit, and what a restart costs. systemd itself is
//! played by a socket; the units are tried on machines.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::net::UnixDatagram;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tenure::model::Span;

use super::support::lab::{Lab, PASSWORD, Setup, in_lab};
use super::support::wait_for;
use super::{founded, passes};

/// systemd's end of `NOTIFY_SOCKET`.
struct Systemd {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Systemd {
    fn listen(lab: &Lab) -> (Systemd, String) {
        let path = lab.nodes[0].dir.join("notify");
        let socket = UnixDatagram::bind(&path).expect("our own directory");
        socket.set_nonblocking(true).expect("a socket");
        let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        fs::set_permissions(&path, everybody).expect("our own socket");
        (Systemd { socket, heard: Vec::new() }, path.display().to_string())
    }

    /// Waits for a line that begins like this, among those that nobody has asked for yet.
    async fn hears(&mut self, beginning: &str) -> String {
        wait_for(beginning, async || {
            let mut datagram = [0; 4096];
            while let Ok(length) = self.socket.recv(&mut datagram) {
                let words = String::from_utf8_lossy(&datagram[..length]).into_owned();
                self.heard.extend(words.lines().map(str::to_owned));
            }
            let place = self.heard.iter().position(|line| line.starts_with(beginning))?;
            self.heard.drain(..=place).next_back()
        })
        .await
    }
}

#[test]
fn systemd_hears_what_the_agent_does_from_its_start_to_its_end() {
    in_lab(&Setup { nodes: 1, ..Setup::default() }, async |lab| {
        let (mut systemd, path) = Systemd::listen(lab);
        lab.nodes[0].start_agent_with(&[
            ("NOTIFY_SOCKET", &path),
            ("WATCHDOG_USEC", "3000000"),
            ("CREDENTIALS_DIRECTORY", "/nonexistent"),
            ("PATRONI_SUPERUSER_PASSWORD", PASSWORD),
        ]);
        systemd.hears("READY=1").await;
        let status = systemd.hears("STATUS=leading (primary, term ").await;
        assert!(status.ends_with(", timeline 1)"), "{status}");
        // A lease of five seconds leaves less than the unit would.
        let agent = lab.nodes[0].agent_pid();
        for _ in 0..3 {
            systemd.hears("WATCHDOG=1").await;
        }
        inherits_nothing(lab, agent);
        lab.nodes[0].signal_agent(Signal::SIGHUP);
        systemd.hears("RELOADING=1").await;
        let clock = systemd.hears("MONOTONIC_USEC=").await;
        assert!(clock.trim_start_matches("MONOTONIC_USEC=").parse::<u64>().is_ok(), "{clock}");
        systemd.hears("READY=1").await;
        lab.nodes[0].end_agent();
        systemd.hears("STOPPING=1").await;
        systemd.hears("EXTEND_TIMEOUT_USEC=").await;
    });
}

/// Neither what systemd has told the agent nor what the agent has opened is seen by PostgreSQL.
fn inherits_nothing(lab: &Lab, agent: Pid) {
    let postmaster = lab.nodes[0].postmaster_pid().expect("a running primary");
    let environment = fs::read_to_string(format!("/proc/{postmaster}/environ")).expect("we are root");
    for name in ["NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_", "CREDENTIALS_", "TENURE_", "PATRONI_"] {
        assert!(!environment.split('\0').any(|variable| variable.starts_with(name)), "{name}");
    }
    assert!(!environment.contains(PASSWORD));
    let shared: Vec<_> = open_things(postmaster).intersection(&open_things(agent)).cloned().collect();
    assert!(shared.is_empty(), "PostgreSQL has of the agent's: {shared:?}");
}

/// What a process has open beyond its standard streams, as far as it can be told apart.
fn open_things(pid: Pid) -> BTreeSet<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").flatten();
    let beyond =
        entries.filter(|entry| entry.file_name().to_str().is_some_and(|fd| !["0", "1", "2"].contains(&fd)));
    let links = beyond.filter_map(|entry| fs::read_link(entry.path()).ok());
    let links = links.map(|link| link.display().to_string());
    // One inode serves every epoll and timer of the machine.
    links.filter(|link| !link.starts_with("anon_inode:") && !link.starts_with("/dev/")).collect()
}

#[test]
fn an_agent_that_leaves_and_its_successor_cost_nothing() {
    in_lab(&Setup::default(), async |lab| {
        let leader = founded(lab).await;
        let postmaster = lab.nodes[leader].postmaster_pid();
        let term = term(lab, leader);
        assert!(term.is_some());
        let writer = lab.write_anywhere();
        lab.more_rows(50).await;
        for _ in 0..3 {
            lab.nodes[leader].leave_agent();
            lab.nodes[leader].start_agent();
            // Its first answer is already that of a leader.
            let first = wait_for("an answer", async || lab.nodes[leader].http_status("/primary")).await;
            assert_eq!(first, 200);
            lab.more_rows(20).await;
        }
        // Longer than the lease could have lived without the new agent.
        passes(Span::from_secs(7)).await;
        lab.more_rows(50).await;
        drop(writer);
        assert_eq!(lab.healthy().await, leader);
        assert_eq!(lab.nodes[leader].postmaster_pid(), postmaster);
        assert_eq!(self::term(lab, leader), term);
        assert!(lab.ledger.rows().iter().all(|row| row.timeline == 1));
        assert_eq!(lab.missing_rows(leader).await, 0);
    });
}

fn term(lab: &Lab, node: usize) -> Option<serde_json::Value> {
    lab.nodes[node]
        .status()
        .map(|document| document["tenure"]["term"].clone())
        .filter(serde_json::Value::is_u64)
}

#[test]
fn a_member_whose_agent_leaves_in_the_middle_of_its_work_comes_up_all_the_same() {
    in_lab(&Setup::default(), async |lab| {
        lab.start_everybody();
        // While one makes the cluster, one clones, one waits: each is left alone in the middle, again and again.
        for round in 0..6 {
            let node = round % 3;
            wait_for("an agent that has begun", async || lab.nodes[node].http_status("/liveness")).await;
            lab.nodes[node].leave_agent();
            lab.nodes[node].start_agent();
        }
        let leader = lab.healthy().await;
        lab.create_ledger(leader).await;
        let writer = lab.write_anywhere();
        lab.more_rows(20).await;
        drop(writer);
        assert_eq!(lab.missing_rows(leader).await, 0);
    });
}
