//! One cluster of either kind on the machines of a lab, with HAProxy and whatever supervises the agents.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;

use clap::ValueEnum;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tenure::clock;
use tenure::model::{Moment, Span};

use crate::support::haproxy::Haproxy;
use crate::support::lab::{self, Lab, Node, PASSWORD, Setup};
use crate::support::rest;
use crate::support::store_server::StoreServer;

/// Where HAProxy stands.
pub const HUB: &str = "10.99.0.1";
pub const PROXY_PORT: u16 = 5000;
/// Both kinds of agents are started again so long after they died, as a service manager would.
const RESTART_AFTER: Span = Span::from_ms(500);
/// What takes longer than this has failed.
pub const PATIENCE: Span = Span::from_secs(180);
const POLL: Span = Span::from_ms(20);
const ORDERLY_END: Span = Span::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum System {
    Tenure,
    Patroni,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Routing {
    /// The example of Patroni's manual
    Manual,
    /// Our example, with `tenurectl route`
    Ours,
}

/// ttl, `loop_wait`, `retry_timeout`.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    pub ttl: u32,
    pub loop_wait: u32,
    pub retry_timeout: u32,
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub tenure_ttl: u32,
    pub patroni_timing: Timing,
    pub patroni_routing: Routing,
    pub synchronous: bool,
    pub hold_s: u64,
    pub patroni: Option<PathBuf>,
}

/// The processes beside those of the lab.
pub struct Stage<'lab> {
    pub lab: &'lab mut Lab,
    plan: Plan,
    system: System,
    patroni: Vec<Option<Child>>,
    router: Option<Child>,
    _haproxy: Haproxy,
    dir: tempfile::TempDir,
}

impl System {
    pub fn name(self) -> &'static str {
        match self {
            System::Tenure => "Tenure",
            System::Patroni => "Patroni",
        }
    }
}

impl FromStr for Timing {
    type Err = String;

    fn from_str(text: &str) -> Result<Timing, String> {
        let numbers: Result<Vec<u32>, _> = text.split('/').map(str::parse).collect();
        match numbers.as_deref() {
            Ok([ttl, loop_wait, retry_timeout]) => {
                Ok(Timing { ttl: *ttl, loop_wait: *loop_wait, retry_timeout: *retry_timeout })
            }
            Ok(_) | Err(_) => Err("three numbers are wanted: ttl/loop_wait/retry_timeout".to_owned()),
        }
    }
}

impl Plan {
    pub fn setup(&self) -> Setup {
        let dynamic = if self.synchronous { "synchronous_mode: true" } else { "" };
        Setup { store_servers: 3, ttl: self.tenure_ttl, dynamic, ..Setup::default() }
    }

    pub fn timing(&self, system: System) -> Timing {
        match system {
            // As the lab writes them; they bound single requests there, not failovers.
            System::Tenure => Timing { ttl: self.tenure_ttl, loop_wait: 1, retry_timeout: 3 },
            System::Patroni => self.patroni_timing,
        }
    }

    pub fn routing(&self, system: System) -> Routing {
        match system {
            System::Tenure => Routing::Ours,
            System::Patroni => self.patroni_routing,
        }
    }
}

/// The real place: the user that Patroni runs as may not be allowed to walk through a link.
pub fn patroni_program() -> Option<PathBuf> {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/patroni").canonicalize().ok()?;
    Some(home.join("bin/patroni")).filter(|path| path.exists())
}

/// A lab that a thread of its own enters: a lab ends with everybody who lives in it, and a process lives where its first thread does.
/// What is wrong there has been printed when this returns.
pub fn in_lab(setup: &Setup, run: impl AsyncFnOnce(&mut Lab) + Send) {
    std::thread::scope(|threads| {
        let there = threads.spawn(|| lab::in_lab(setup, run));
        // The one word to come would be that it panicked.
        let _ = there.join();
    });
}

/// Waits, for as long as a broken system may need. None: it does not come.
pub async fn eventually<T>(mut condition: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let give_up = clock::now() + PATIENCE;
    while clock::now() < give_up {
        if let Some(result) = condition().await {
            return Some(result);
        }
        clock::pause(POLL).await;
    }
    None
}

impl<'lab> Stage<'lab> {
    /// A healthy cluster, with HAProxy in front. None: it did not become healthy.
    pub async fn open(lab: &'lab mut Lab, plan: &Plan, system: System) -> Option<Stage<'lab>> {
        let dir = tempfile::tempdir().expect("a directory");
        let haproxy = Haproxy::start(dir.path(), &haproxy_configuration(lab, plan.routing(system)));
        let nodes = lab.nodes.len();
        let mut stage = Stage {
            lab,
            plan: plan.clone(),
            system,
            patroni: (0..nodes).map(|_| None).collect(),
            router: None,
            _haproxy: haproxy,
            dir,
        };
        for node in 0..nodes {
            stage.start_agent(node);
        }
        if plan.routing(system) == Routing::Ours {
            stage.start_router();
        }
        stage.healthy().await.map(|_| stage)
    }

    pub fn system(&self) -> System {
        self.system
    }

    fn start_router(&mut self) {
        let log = fs::File::create(self.dir.path().join("route.log")).expect("our own directory");
        let mut command = Command::new(env!("CARGO_BIN_EXE_tenurectl"));
        let file = match self.system {
            System::Tenure => "tenure.yml",
            System::Patroni => "patroni.yml",
        };
        command.arg("-c").arg(self.lab.nodes[0].dir.join(file)).arg("route");
        command.arg("--socket").arg(self.dir.path().join("haproxy.sock"));
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a second handle")).stderr(log);
        self.router = Some(command.spawn().expect("it was built"));
    }

    pub fn start_agent(&mut self, node: usize) {
        match self.system {
            System::Tenure => self.lab.nodes[node].start_agent(),
            System::Patroni => {
                let configuration = patroni_configuration(self.lab, node, &self.plan);
                let program = self.plan.patroni.as_ref().expect("it was looked for");
                self.patroni[node] = Some(start_patroni(&self.lab.nodes[node], program, &configuration));
            }
        }
    }

    pub fn agent(&self, node: usize) -> Pid {
        match self.system {
            System::Tenure => self.lab.nodes[node].agent_pid(),
            System::Patroni => {
                let child = self.patroni[node].as_ref().expect("it was started");
                Pid::from_raw(i32::try_from(child.id()).expect("a pid"))
            }
        }
    }

    pub fn signal_agent(&self, node: usize, signal: Signal) {
        kill(self.agent(node), signal).expect("the agent runs");
    }

    /// Killed, and started again by whoever supervises it.
    pub async fn crash_agent(&mut self, node: usize) {
        match self.system {
            System::Tenure => self.lab.nodes[node].kill_agent(),
            System::Patroni => {
                self.signal_agent(node, Signal::SIGKILL);
                self.reap(node);
            }
        }
        clock::pause(RESTART_AFTER).await;
        self.start_agent(node);
    }

    /// As a service manager stops it. It stays stopped.
    pub async fn end_agent(&mut self, node: usize) {
        match self.system {
            System::Tenure => self.lab.nodes[node].end_agent(),
            System::Patroni => {
                self.signal_agent(node, Signal::SIGTERM);
                let give_up = clock::now() + ORDERLY_END;
                let mut child = self.patroni[node].take().expect("it was started");
                while child.try_wait().expect("our own child").is_none() {
                    assert!(clock::now() < give_up, "Patroni's agent does not end");
                    clock::pause(POLL).await;
                }
            }
        }
    }

    /// Silent, with everything on it.
    pub fn lose_host(&mut self, node: usize) {
        self.lab.nodes[node].machine.cut();
        self.lab.nodes[node].power_off();
        self.reap(node);
    }

    fn reap(&mut self, node: usize) {
        if let Some(mut child) = self.patroni[node].take() {
            let _ = child.wait();
        }
    }

    /// The leader, if there is one, everybody else streams, and all are on one timeline.
    pub async fn healthy(&self) -> Option<usize> {
        let hosts: Vec<&str> = self.lab.nodes.iter().map(|node| node.address.as_str()).collect();
        eventually(async || {
            let leader = rest::healthy_leader(&hosts)?;
            self.lab.nodes.iter().position(|node| node.address == leader)
        })
        .await
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        if let Some(mut router) = self.router.take() {
            let _ = router.kill();
            let _ = router.wait();
        }
        for node in 0..self.lab.nodes.len() {
            self.lab.nodes[node].power_off();
            self.reap(node);
        }
    }
}

fn start_patroni(node: &Node, program: &Path, configuration: &str) -> Child {
    let path = node.dir.join("patroni.yml");
    fs::write(&path, configuration).expect("our own directory");
    let log = fs::File::options().append(true).create(true).open(node.dir.join("patroni.log"));
    let log = log.expect("our own directory");
    let mut command = node.machine.command("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program).arg(path);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", &node.dir);
    command.current_dir(&node.dir).stdin(Stdio::null());
    command.stdout(log.try_clone().expect("a second handle")).stderr(log);
    command.spawn().expect("ip and setpriv are installed")
}

/// PostgreSQL's part is the one that the lab gives to Tenure.
fn patroni_configuration(lab: &Lab, node: usize, plan: &Plan) -> String {
    let node = &lab.nodes[node];
    let ours = fs::read_to_string(node.dir.join("tenure.yml")).expect("the lab wrote it");
    let postgresql = ours.split_once("\npostgresql:\n").expect("the lab's file has it").1;
    // Names of ours that Patroni does not know would only be warned of; both remove what cannot be rewound.
    let hosts: Vec<String> = lab.store_servers.iter().map(StoreServer::endpoint).collect();
    let (name, address, hosts) = (&node.name, &node.address, hosts.join(","));
    let Timing { ttl, loop_wait, retry_timeout } = plan.patroni_timing;
    let synchronous = plan.synchronous;
    format!(
        "scope: lab
name: {name}
restapi:
  listen: {address}:8008
  connect_address: {address}:8008
etcd3:
  hosts: {hosts}
watchdog:
  mode: 'off'
bootstrap:
  dcs:
    ttl: {ttl}
    loop_wait: {loop_wait}
    retry_timeout: {retry_timeout}
    synchronous_mode: {synchronous}
    postgresql:
      use_pg_rewind: true
      parameters:
        wal_keep_size: 256MB
  initdb:
    - encoding: UTF8
    - data-checksums
postgresql:
{postgresql}"
    )
}

fn haproxy_configuration(lab: &Lab, routing: Routing) -> String {
    match routing {
        Routing::Ours => {
            let text = include_str!("../../packaging/files/haproxy.cfg");
            let rest = &text[text.find("\ndefaults").expect("our example has it")..];
            rest.replace(" 10.0.0.", " 10.99.0.").replace("server db", "server node")
        }
        Routing::Manual => {
            let mut servers = String::new();
            for node in &lab.nodes {
                let (name, address) = (&node.name, &node.address);
                let _ = writeln!(servers, "    server {name} {address}:5432 maxconn 100 check port 8008");
            }
            format!(
                "defaults
    mode tcp
    retries 2
    timeout client 30m
    timeout connect 4s
    timeout server 30m
    timeout check 5s
listen primary
    bind *:{PROXY_PORT}
    option httpchk
    http-check expect status 200
    default-server inter 3s fall 3 rise 2 on-marked-down shutdown-sessions
{servers}"
            )
        }
    }
}

/// A connection string for clients: through HAProxy, or to whoever takes writes.
pub fn through_haproxy() -> tokio_postgres::Config {
    let mut config = client();
    config.host(HUB).port(PROXY_PORT);
    config
}

pub fn direct(addresses: &[String]) -> tokio_postgres::Config {
    let mut config = client();
    for address in addresses {
        config.host(address).port(5432);
    }
    config.target_session_attrs(tokio_postgres::config::TargetSessionAttrs::ReadWrite);
    config
}

pub fn at(address: &str) -> tokio_postgres::Config {
    let mut config = client();
    config.host(address).port(5432);
    config
}

fn client() -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config.user("postgres").password(PASSWORD).dbname("postgres");
    config.connect_timeout(CONNECT_TIMEOUT.as_duration()).tcp_user_timeout(TCP_USER_TIMEOUT.as_duration());
    config
}

pub const CONNECT_TIMEOUT: Span = Span::from_secs(2);
pub const TCP_USER_TIMEOUT: Span = Span::from_secs(5);

/// For how long since.
pub fn seconds_since(moment: Moment) -> f64 {
    to_seconds(clock::now().since(moment))
}

pub fn to_seconds(span: Span) -> f64 {
    span.as_duration().as_secs_f64()
}
