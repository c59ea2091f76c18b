//! Whole nodes as real processes: etcd, `tenured` with its guardian and PostgreSQL, each machine in a network namespace of
//! its own. Faults by signal and by cutting the cable.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};
use serde_json::Value;
use tokio_postgres::Client;

use super::majors::bin_dirs;
use super::netns::{self, Namespace};
use super::writer::{Ledger, Writer, connect};
use super::{wait_blocking, wait_for, zookeeper};

pub const PASSWORD: &str = "secret-of-the-tests";
const HUB: &str = "10.99.0.1";

/// What the members share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    Etcd,
    Zookeeper,
}

/// How a lab differs from three nodes on one etcd with a short lease.
pub struct Setup {
    pub nodes: usize,
    pub store: StoreKind,
    /// Servers of the store.
    pub etcds: usize,
    pub ttl: u32,
    /// PostgreSQL's programs.
    pub bin_dir: PathBuf,
}

impl Default for Setup {
    fn default() -> Setup {
        let bin_dir = bin_dirs().swap_remove(0);
        Setup { nodes: 3, store: StoreKind::Etcd, etcds: 1, ttl: 5, bin_dir }
    }
}

pub struct Lab {
    // Dropped first to last: machines before the hub, everything before the directory.
    pub nodes: Vec<Node>,
    pub etcds: Vec<Etcd>,
    pub hub: Namespace,
    pub ledger: Ledger,
    _dir: tempfile::TempDir,
}

pub struct Node {
    pub name: String,
    pub address: String,
    pub dir: PathBuf,
    pub machine: Namespace,
    binaries: PathBuf,
    agent: Option<Child>,
}

/// A server of the store: etcd, or ZooKeeper.
pub struct Etcd {
    pub machine: Namespace,
    kind: StoreKind,
    address: String,
    name: String,
    arguments: Vec<String>,
    dir: PathBuf,
    server: Option<Child>,
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
        let etcds = Etcd::cluster(setup, &id, &hub, dir.path());
        let hosts: Vec<String> = etcds.iter().map(Etcd::endpoint).collect();
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
                Node { name, address, dir: node_dir, machine, binaries: binaries.clone(), agent: None }
            })
            .collect();
        Lab { nodes, etcds, hub, ledger: Ledger::default(), _dir: dir }
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

    pub async fn healthy_among(&self, members: &[usize]) -> usize {
        wait_for("one leader and streaming standbys", async || {
            let documents: Vec<(usize, Value)> =
                members.iter().filter_map(|&index| Some((index, self.nodes[index].status()?))).collect();
            let leaders: Vec<usize> = members
                .iter()
                .copied()
                .filter(|&index| self.nodes[index].http_status("/primary") == Some(200))
                .collect();
            let [leader] = leaders[..] else { return None };
            let streams = |(index, document): &(usize, Value)| {
                *index == leader || document["replication_state"] == "streaming"
            };
            let timeline = |document: &Value| document["timeline"].as_u64();
            let agreed = timeline(&documents.first()?.1);
            let healthy = documents.len() == members.len()
                && documents.iter().all(streams)
                && documents
                    .iter()
                    .all(|(_, document)| timeline(document).is_some() && timeline(document) == agreed);
            healthy.then_some(leader)
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
            let errors: Vec<String> =
                node.log().lines().filter(|l| l.contains(" ERROR ")).map(str::to_owned).collect();
            assert!(errors.is_empty(), "{} logged errors:\n{}", node.name, errors.join("\n"));
        }
    }
}

impl Node {
    pub fn start_agent(&mut self) {
        let log = fs::File::options()
            .append(true)
            .create(true)
            .open(self.dir.join("tenured.log"))
            .expect("our own log");
        let mut command = self.machine.command("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
        command.arg(self.binaries.join("tenured")).arg(self.dir.join("tenure.yml"));
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("TENURE_LOG_LEVEL", "DEBUG");
        command.current_dir(&self.dir).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a second handle")).stderr(log);
        self.agent = Some(command.spawn().expect("ip and setpriv are installed"));
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

    /// Asks the agent to end and waits until it has.
    pub fn end_agent(&mut self) {
        self.signal_agent(Signal::SIGTERM);
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

    pub fn postmaster_pid(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.dir.join("data/postmaster.pid")).ok()?;
        text.lines().next()?.trim().parse().ok().map(Pid::from_raw)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("tenured.log")).unwrap_or_default()
    }

    pub fn status(&self) -> Option<Value> {
        serde_json::from_str(&self.request("GET", "/patroni", "")?.1).ok()
    }

    pub fn http_status(&self, path: &str) -> Option<u16> {
        Some(self.request("GET", path, "")?.0)
    }

    /// One request over a connection of its own, as a balancer makes it.
    pub fn request(&self, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
        let address: SocketAddr = format!("{}:8008", self.address).parse().expect("an address");
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(40))).ok()?;
        let head = format!(
            "{method} {path} HTTP/1.0\r\nHost: {}\r\nContent-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        stream.write_all((head + body).as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let status = answer.split_whitespace().nth(1)?.parse().ok()?;
        Some((status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()))
    }
}

impl Etcd {
    fn address(index: usize) -> String {
        format!("10.99.0.{}", 21 + index)
    }

    fn endpoint(&self) -> String {
        let port = match self.kind {
            StoreKind::Etcd => 2379,
            StoreKind::Zookeeper => 2181,
        };
        format!("{}:{port}", self.address)
    }

    fn cluster(setup: &Setup, id: &str, hub: &Namespace, dir: &Path) -> Vec<Etcd> {
        let start = |index: usize| {
            let (name, address) = (format!("e{index}"), Etcd::address(index));
            let arguments = match setup.store {
                StoreKind::Etcd => Etcd::etcd_arguments(setup.etcds, index, dir),
                StoreKind::Zookeeper => Etcd::zookeeper_arguments(setup.etcds, index, &dir.join(&name)),
            };
            let machine = Namespace::spoke(format!("{id}-{name}"), hub, &name, &address);
            let kind = setup.store;
            let mut etcd =
                Etcd { machine, kind, address, name, arguments, dir: dir.to_owned(), server: None };
            etcd.start();
            etcd
        };
        (0..setup.etcds).map(start).collect()
    }

    fn zookeeper_arguments(count: usize, index: usize, home: &Path) -> Vec<String> {
        let peers: Vec<String> =
            (0..count).map(|index| format!("{}:2888:3888", Etcd::address(index))).collect();
        zookeeper::write_home(home, index, &peers, &["clientPort=2181".to_owned()]);
        zookeeper::arguments(home)
    }

    fn etcd_arguments(count: usize, index: usize, dir: &Path) -> Vec<String> {
        let members: Vec<String> =
            (0..count).map(|index| format!("e{index}=http://{}:2380", Etcd::address(index))).collect();
        let members = members.join(",");
        let address = Etcd::address(index);
        let name = format!("e{index}");
        let data = dir.join(&name);
        let flags = [
            ("--name", name.clone()),
            ("--data-dir", data.display().to_string()),
            ("--listen-client-urls", format!("http://{address}:2379")),
            ("--advertise-client-urls", format!("http://{address}:2379")),
            ("--listen-peer-urls", format!("http://{address}:2380")),
            ("--initial-advertise-peer-urls", format!("http://{address}:2380")),
            ("--initial-cluster", members),
            ("--logger", "zap".to_owned()),
        ];
        flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
    }

    pub fn start(&mut self) {
        let log =
            fs::File::options().append(true).create(true).open(self.dir.join(format!("{}.log", self.name)));
        let log = log.expect("our own log");
        let mut command = self.machine.command(match self.kind {
            StoreKind::Etcd => "etcd",
            StoreKind::Zookeeper => "java",
        });
        command.args(&self.arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.server = Some(command.spawn().expect("the store is installed"));
    }

    pub fn kill(&mut self) {
        self.machine.kill_everybody();
        if let Some(mut server) = self.server.take() {
            let _ = server.wait();
        }
    }

    pub fn leads(&self) -> bool {
        let endpoint = self.endpoint();
        if self.kind == StoreKind::Zookeeper {
            return zookeeper::mode(&endpoint).as_deref() == Some("leader");
        }
        let output = self
            .machine
            .command("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &endpoint, "endpoint", "status", "-w", "json"])
            .output()
            .expect("etcdctl is installed");
        let Ok(Value::Array(status)) = serde_json::from_slice::<Value>(&output.stdout) else { return false };
        let status = &status[0]["Status"];
        status["leader"] == status["header"]["member_id"] && !status["leader"].is_null()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.power_off();
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

fn configuration(setup: &Setup, name: &str, address: &str, dir: &Path, etcds: &[String]) -> String {
    let (dir, etcds, ttl) = (dir.display(), etcds.join(","), setup.ttl);
    let bin_dir = setup.bin_dir.display();
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
  hosts: {etcds}
tenure:
  state_dir: {dir}/state
bootstrap:
  dcs:
    ttl: {ttl}
    loop_wait: 1
    retry_timeout: 3
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
  data_dir: {dir}/data
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

/// The build directory may be out of an unprivileged user's reach.
fn copy_binaries(dir: &Path) -> PathBuf {
    let target = dir.join("bin");
    fs::create_dir(&target).expect("our own directory");
    for binary in
        [env!("CARGO_BIN_EXE_tenured"), env!("CARGO_BIN_EXE_tenure-fence"), env!("CARGO_BIN_EXE_tenurectl")]
    {
        let name = Path::new(binary).file_name().expect("a file name");
        fs::copy(binary, target.join(name)).expect("a binary that was built");
    }
    target
}

fn make_dir(dir: &Path) {
    fs::create_dir(dir).expect("our own directory");
    let user =
        User::from_name("postgres").expect("a user database").expect("the packages made a user postgres");
    chown(dir, Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("root may");
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
