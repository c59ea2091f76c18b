//! Whole nodes as real processes: etcd, `tenured` with its guardian and PostgreSQL, each machine in a network namespace of
//! its own. Faults by signal and by cutting the cable.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};
use serde_json::Value;
use tokio_postgres::Client;

use super::disk::OwnDisk;
use super::majors::bin_dirs;
use super::netns::{self, Namespace};
use super::rest;
use super::store_server::{StoreKind, StoreServer};
use super::watchdog_device::{Manners, WatchdogDevice};
use super::writer::{Ledger, Writer, connect};
use super::{wait_blocking, wait_for};

pub const PASSWORD: &str = "secret-of-the-tests";
const HUB: &str = "10.99.0.1";

/// How a lab differs from three nodes on one etcd with a short lease.
pub struct Setup {
    pub nodes: usize,
    pub store: StoreKind,
    /// Servers of the store.
    pub store_servers: usize,
    pub ttl: u32,
    /// PostgreSQL's programs.
    pub bin_dir: PathBuf,
    /// The data of each node lies on a disk of its own, of this size.
    pub disk_megabytes: Option<u64>,
    /// Further dynamic settings of the new cluster: `name: value, …`.
    pub dynamic: &'static str,
    /// Every node leads only with an armed watchdog, and has one that takes its power away.
    pub watchdogs: bool,
}

impl Default for Setup {
    fn default() -> Setup {
        let bin_dir = bin_dirs().swap_remove(0);
        Setup {
            nodes: 3,
            store: StoreKind::Etcd,
            store_servers: 1,
            ttl: 5,
            bin_dir,
            disk_megabytes: None,
            dynamic: "",
            watchdogs: false,
        }
    }
}

pub struct Lab {
    // Dropped first to last: machines before the hub, everything before the directory.
    pub nodes: Vec<Node>,
    pub store_servers: Vec<StoreServer>,
    pub hub: Namespace,
    pub ledger: Ledger,
    /// What an agent may complain of, since the test has done it.
    pub expected: Vec<&'static str>,
    _dir: tempfile::TempDir,
}

pub struct Node {
    pub watchdog: Option<WatchdogDevice>,
    pub name: String,
    pub address: String,
    pub dir: PathBuf,
    pub machine: Namespace,
    binaries: PathBuf,
    agent: Option<Child>,
    // Dropped after everybody who writes to it has gone.
    disk: Option<OwnDisk>,
}

/// Runs a test inside the hub of a lab of its own. Without root there are no namespaces, and the test says so.
pub fn in_lab(setup: &Setup, test: impl AsyncFnOnce(&mut Lab)) {
    if !netns::available() {
        println!("not run: network namespaces need root, ip and nft");
        return;
    }
    let mut lab = Lab::build(setup);
    netns::enter(&lab.hub.name);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(test(&mut lab))));
    if let Err(panic) = outcome {
        lab.print_logs();
        std::panic::resume_unwind(panic);
    }
    lab.check_logs();
}

impl Lab {
    fn build(setup: &Setup) -> Lab {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let id = format!("tn{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = tempfile::Builder::new().prefix("tenure-lab-").tempdir().expect("a temporary directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("our own directory");
        let hub = Namespace::hub(format!("{id}-hub"), HUB);
        let binaries = copy_binaries(dir.path());
        let store_servers = StoreServer::cluster(setup, &id, &hub, dir.path());
        let hosts: Vec<String> = store_servers.iter().map(StoreServer::endpoint).collect();
        let nodes = (0..setup.nodes)
            .map(|index| {
                let address = format!("10.99.0.{}", 11 + index);
                let name = format!("node{}", index + 1);
                let machine =
                    Namespace::spoke(format!("{id}-n{index}"), &hub, &format!("n{index}"), &address);
                let node_dir = dir.path().join(&name);
                make_dir(&node_dir);
                let configuration = configuration(setup, &name, &address, &node_dir, &hosts);
                fs::write(node_dir.join("tenure.yml"), configuration).expect("our own directory");
                let disk = setup.disk_megabytes.map(|size| OwnDisk::mount(node_dir.join("disk"), size));
                if let Some(disk) = &disk {
                    give_away(&disk.path);
                }
                let watchdog = setup.watchdogs.then(|| watchdog(&node_dir, &machine.name));
                let binaries = binaries.clone();
                Node { watchdog, name, address, dir: node_dir, machine, binaries, agent: None, disk }
            })
            .collect();
        Lab { nodes, store_servers, hub, ledger: Ledger::default(), expected: Vec::new(), _dir: dir }
    }

    pub fn start_everybody(&mut self) {
        for node in &mut self.nodes {
            node.start_agent();
        }
    }

    /// Exactly one leader, everybody else streaming from it, all on one timeline. Returns the leader's index.
    pub async fn healthy(&self) -> usize {
        let everybody: Vec<usize> = (0..self.nodes.len()).collect();
        self.healthy_among(&everybody).await
    }

    /// The same, if it is so now.
    pub fn healthy_now(&self) -> Option<usize> {
        let hosts: Vec<&str> = self.nodes.iter().map(|node| node.address.as_str()).collect();
        let leader = rest::healthy_leader(&hosts)?;
        self.nodes.iter().position(|node| node.address == leader)
    }

    pub async fn healthy_among(&self, members: &[usize]) -> usize {
        let hosts: Vec<&str> = members.iter().map(|&index| self.nodes[index].address.as_str()).collect();
        wait_for("one leader and streaming standbys", async || {
            let leader = rest::healthy_leader(&hosts)?;
            self.nodes.iter().position(|node| node.address == leader)
        })
        .await
    }

    /// A new leader among `members`.
    pub async fn leader_among(&self, members: &[usize]) -> usize {
        wait_for("a leader", async || {
            members.iter().copied().find(|&index| self.nodes[index].http_status("/primary") == Some(200))
        })
        .await
    }

    /// A client of a node as the superuser.
    pub async fn client(&self, node: usize) -> Client {
        wait_for("a connection", async || connect(&self.nodes[node].address, PASSWORD).await).await
    }

    /// The table that the writers fill, known on every standby.
    pub async fn create_ledger(&self, leader: usize) {
        let client = self.client(leader).await;
        let create = "create table ledger (writer text, row bigint, primary key (writer, row))";
        client.batch_execute(create).await.expect("a primary makes tables");
    }

    /// A writer on the hub that tries every node.
    pub fn write_anywhere(&self) -> Writer {
        let hosts: Vec<String> = self.nodes.iter().map(|node| node.address.clone()).collect();
        Writer::start("roaming", &self.hub, &hosts, PASSWORD, &self.ledger)
    }

    /// A writer on the node's own machine, which no cut cable separates from it.
    pub fn write_at(&self, node: usize) -> Writer {
        let node = &self.nodes[node];
        Writer::start(&node.name, &node.machine, std::slice::from_ref(&node.address), PASSWORD, &self.ledger)
    }

    /// Some more rows are acknowledged.
    pub async fn more_rows(&self, rows: usize) {
        let before = self.ledger.count();
        wait_for("acknowledged rows", async || (before + rows <= self.ledger.count()).then_some(())).await;
    }

    /// How many acknowledged rows are not there.
    pub async fn missing_rows(&self, leader: usize) -> usize {
        let client = self.client(leader).await;
        let missing = self.ledger.missing(&client).await.len();
        println!("{missing} of {} acknowledged rows are missing", self.ledger.count());
        missing
    }

    fn print_logs(&self) {
        for node in &self.nodes {
            println!("---- {}\n{}", node.name, tail(&node.log(), 60));
        }
    }

    /// An agent that logs an ERROR has found something that must not be.
    fn check_logs(&self) {
        for node in &self.nodes {
            let unexpected = |line: &&str| {
                line.contains(" ERROR ") && !self.expected.iter().any(|text| line.contains(text))
            };
            let errors: Vec<String> = node.log().lines().filter(unexpected).map(str::to_owned).collect();
            assert!(errors.is_empty(), "{} logged errors:\n{}", node.name, errors.join("\n"));
        }
    }
}

impl Node {
    pub fn start_agent(&mut self) {
        self.start_agent_with(&[]);
    }

    /// With further variables in its environment.
    pub fn start_agent_with(&mut self, variables: &[(&str, &str)]) {
        let log = fs::File::options()
            .append(true)
            .create(true)
            .open(self.dir.join("tenured.log"))
            .expect("our own log");
        let mut command = self.machine.command("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
        command.arg(self.binaries.join("tenured")).arg(self.dir.join("tenure.yml"));
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("TENURE_LOG_LEVEL", "DEBUG");
        command.envs(variables.iter().copied());
        command.current_dir(&self.dir).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a second handle")).stderr(log);
        self.agent = Some(command.spawn().expect("ip and setpriv are installed"));
    }

    /// A command of PostgreSQL's user on this machine, which may take a minute.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.machine.command("timeout");
        command.args(["--kill-after=5", "60", "setpriv"]);
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
        command.arg(program).current_dir("/").stdin(Stdio::null());
        command
    }

    /// The agent's own process: `ip netns exec` and `setpriv` replace themselves with it.
    pub fn agent_pid(&self) -> Pid {
        let agent = self.agent.as_ref().expect("the agent was started");
        Pid::from_raw(i32::try_from(agent.id()).expect("a pid"))
    }

    pub fn signal_agent(&self, signal: Signal) {
        kill(self.agent_pid(), signal).expect("the agent runs");
    }

    pub fn kill_agent(&mut self) {
        self.signal_agent(Signal::SIGKILL);
        self.agent.take().expect("the agent was started").wait().expect("our own child");
    }

    /// Has it been ended by somebody else, or by itself?
    pub fn agent_has_ended(&mut self) -> bool {
        let agent = self.agent.as_mut().expect("the agent was started");
        agent.try_wait().expect("our own child").is_some()
    }

    /// The agent has been ended by somebody else.
    pub fn reap_agent(&mut self) {
        let status = self.agent.take().expect("the agent was started").wait().expect("our own child");
        assert!(status.success(), "the agent ended with {status}");
    }

    /// Asks the agent to end and waits until it has.
    pub fn end_agent(&mut self) {
        self.ends_after(Signal::SIGTERM);
    }

    /// Makes the agent leave everything to its successor.
    pub fn leave_agent(&mut self) {
        self.ends_after(Signal::SIGUSR1);
    }

    fn ends_after(&mut self, signal: Signal) {
        self.signal_agent(signal);
        let mut agent = self.agent.take().expect("the agent was started");
        let status = wait_blocking("the agent's end", || agent.try_wait().expect("our own child"));
        assert!(status.success(), "the agent ended with {status}");
    }

    /// The machine loses its power.
    pub fn power_off(&mut self) {
        self.machine.kill_everybody();
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.wait();
        }
    }

    /// The guardian, which outlives its agent: the one process of that name in this machine.
    pub fn guardian_pid(&self) -> Option<Pid> {
        self.machine.pids().into_iter().find(|pid| {
            fs::read_to_string(format!("/proc/{pid}/comm"))
                .is_ok_and(|name| name.trim_end() == "tenure-fence")
        })
    }

    pub fn postmaster_pid(&self) -> Option<Pid> {
        let data_dir = if self.disk.is_some() { "disk/data" } else { "data" };
        let text = fs::read_to_string(self.dir.join(data_dir).join("postmaster.pid")).ok()?;
        text.lines().next()?.trim().parse().ok().map(Pid::from_raw)
    }

    pub fn disk(&mut self) -> &mut OwnDisk {
        self.disk.as_mut().expect("the setup gave it one")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("tenured.log")).unwrap_or_default()
    }

    pub fn status(&self) -> Option<Value> {
        rest::status(&self.address)
    }

    pub fn http_status(&self, path: &str) -> Option<u16> {
        Some(self.request("GET", path, "")?.0)
    }

    /// One request over a connection of its own, as a balancer makes it.
    pub fn request(&self, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
        rest::request(&self.address, method, path, body)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Nobody who waits for a frozen disk can be killed.
        if let Some(disk) = &mut self.disk {
            disk.thaw();
        }
        self.power_off();
    }
}

fn configuration(setup: &Setup, name: &str, address: &str, dir: &Path, store_servers: &[String]) -> String {
    let (dir, store_servers, ttl) = (dir.display(), store_servers.join(","), setup.ttl);
    let bin_dir = setup.bin_dir.display();
    let data = if setup.disk_megabytes.is_some() { "disk/data" } else { "data" };
    let dynamic = format!(", {}", setup.dynamic).replace(", ", "\n    ");
    let watchdog = if setup.watchdogs { "required" } else { "off" };
    let store = match setup.store {
        StoreKind::Etcd => "etcd3",
        StoreKind::Zookeeper => "zookeeper",
    };
    format!(
        "scope: lab
name: {name}
restapi:
  listen: {address}:8008
  connect_address: {address}:8008
{store}:
  hosts: {store_servers}
tenure:
  state_dir: {dir}/state
watchdog:
  mode: {watchdog}
  device: {dir}/watchdog
bootstrap:
  dcs:
    ttl: {ttl}
    loop_wait: 1
    retry_timeout: 3{dynamic}
    postgresql:
      use_pg_rewind: true
      parameters:
        wal_keep_size: 256MB
  initdb:
    - encoding: UTF8
    - data-checksums
postgresql:
  listen: {address}:5432
  connect_address: {address}:5432
  data_dir: {dir}/{data}
  bin_dir: {bin_dir}
  pgpass: {dir}/pgpass
  remove_data_directory_on_rewind_failure: true
  remove_data_directory_on_diverged_timelines: true
  authentication:
    superuser: {{username: postgres, password: {PASSWORD}}}
    replication: {{username: replicator, password: {PASSWORD}}}
    rewind: {{username: rewinder, password: {PASSWORD}}}
  pg_hba:
    - local all all trust
    - host all all 0.0.0.0/0 scram-sha-256
    - host replication all 0.0.0.0/0 scram-sha-256
  parameters:
    unix_socket_directories: {dir}
    shared_buffers: 16MB
    fsync: 'on'
"
    )
}

/// Takes the power of its machine away.
fn watchdog(dir: &Path, machine: &str) -> WatchdogDevice {
    let machine = machine.to_owned();
    WatchdogDevice::serve(&dir.join("watchdog"), Manners::default(), move || {
        netns::kill_everybody(&machine);
    })
}

/// The build directory may be out of an unprivileged user's reach.
fn copy_binaries(dir: &Path) -> PathBuf {
    let target = dir.join("bin");
    fs::create_dir(&target).expect("our own directory");
    for binary in [
        env!("CARGO_BIN_EXE_tenured"),
        env!("CARGO_BIN_EXE_tenure-fence"),
        env!("CARGO_BIN_EXE_tenure-address"),
        env!("CARGO_BIN_EXE_tenurectl"),
    ] {
        let name = Path::new(binary).file_name().expect("a file name");
        fs::copy(binary, target.join(name)).expect("a binary that was built");
    }
    target
}

fn make_dir(dir: &Path) {
    fs::create_dir(dir).expect("our own directory");
    give_away(dir);
}

fn give_away(dir: &Path) {
    let user =
        User::from_name("postgres").expect("a user database").expect("the packages made a user postgres");
    chown(dir, Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("root may");
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
