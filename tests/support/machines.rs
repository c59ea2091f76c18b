//! Three machines with systemd, etcd and Tenure on them, installed as its packages will, on one bridge. Nothing outlives the
//! test: mounts and processes are in namespaces that end with it, and files are in memory.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::Pid;
use serde_json::Value;
use tenure::clock;
use tenure::model::Span;
use tokio_postgres::Client;

use super::cgroup::Group;
use super::machine::{Machine, mount};
use super::netns::{self, Namespace};
use super::watchdog_device::{Manners, WatchdogDevice};
use super::writer::{Ledger, Writer, connect};
use super::{rest, wait_for};

/// Where `scripts/test-machines` says that the image is. Without it there is nothing to boot.
const IMAGE: &str = "TENURE_MACHINE_IMAGE";
/// The run that this test belongs to, in the names of what can be left behind.
const RUN: &str = "TENURE_MACHINE_RUN";
/// Where `scripts/test-packages` has put the packages.
const PACKAGES: &str = "TENURE_PACKAGES";
const HUB: &str = "10.99.0.1";
pub const PASSWORD: &str = "secret-of-the-tests";
pub const AGENT: &str = "tenured@main.service";
pub const GUARDIAN: &str = "tenure-fence@main.service";
pub const DATA_DIR: &str = "var/lib/postgresql/main";

/// How Tenure comes onto the machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Brought {
    /// The programs of this build and the units of the repository are there, and /etc/tenure/main.yml.
    AsFiles,
    /// Not at all: the packages that `scripts/test-packages` has made lie in /root/n and /root/next.
    AsPackages,
}

/// How machines differ from three with a lease of ten seconds and no watchdog.
#[derive(Clone, Debug)]
pub struct Setup {
    pub ttl: u32,
    /// A device that resets the machine, and members that do not lead without it.
    pub watchdog: bool,
    pub brought: Brought,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup { ttl: 10, watchdog: false, brought: Brought::AsFiles }
    }
}

pub struct Site {
    // Dropped first to last: machines before the hub, everything before the ground it stands on.
    pub machines: Vec<Machine>,
    /// One a machine, if any: it goes on whatever its machine does.
    pub watchdogs: Vec<WatchdogDevice>,
    pub hub: Namespace,
    pub ledger: Ledger,
    /// Where the members keep their data, as a path inside of a machine without its first slash.
    pub data_dir: String,
    ttl: Span,
    _ground: Ground,
}

/// Runs a test with three machines that have booted; nothing of Tenure runs yet.
pub fn on_machines(setup: &Setup, test: impl AsyncFnOnce(&mut Site)) {
    let Some(image) = std::env::var_os(IMAGE).map(PathBuf::from) else {
        println!("not run: it needs machines to boot, which `make test-machines` makes");
        return;
    };
    assert!(netns::available() && Group::available(), "machines need root, ip, nft and control groups");
    if setup.brought == Brought::AsPackages && std::env::var_os(PACKAGES).is_none() {
        println!("not run: it needs packages, which `make test-packages` makes");
        return;
    }
    if setup.watchdog && !WatchdogDevice::available() {
        println!("not run: a watchdog device without hardware needs /dev/fuse");
        return;
    }
    let mut site = Site::build(setup, &image);
    netns::enter(&site.hub.name);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        for machine in &mut site.machines {
            machine.power_on();
        }
        site.machines.iter().for_each(Machine::until_booted);
        runtime.block_on(test(&mut site));
        site.check_logs();
    }));
    if let Err(panic) = outcome {
        site.print_logs();
        drop(site);
        std::panic::resume_unwind(panic);
    }
}

impl Site {
    fn build(setup: &Setup, image: &Path) -> Site {
        let ground = Ground::prepare();
        let dir = ground.path().to_owned();
        let run = std::env::var(RUN).unwrap_or_else(|_| "alone".to_owned());
        let id = format!("tenure-{run}-{}", std::process::id());
        let hub = Namespace::hub("hub".to_owned(), HUB);
        let packages = dir.join("packages");
        match setup.brought {
            Brought::AsFiles => install_files(&packages),
            Brought::AsPackages => put_packages(&packages),
        }
        let mut watchdogs = Vec::new();
        let machines = (0..3).map(|index| {
            let (name, address) = (name(index), address(index));
            let network = Namespace::spoke(name.clone(), &hub, &format!("cable{index}"), &address);
            let layers = [packages.clone(), image.to_owned()];
            let group = format!("{id}-{name}");
            let mut machine = Machine::new(&group, &dir.join(&name), &layers, network, &name, &address);
            let etc = machine.root.join("etc");
            fs::write(etc.join("default/etcd"), etcd_environment(index)).expect("our own disk");
            let written = match setup.brought {
                Brought::AsFiles => etc.join("tenure/main.yml"),
                // For whom it suits; nothing makes a directory before the package does.
                Brought::AsPackages => machine.root.join("root/main.yml"),
            };
            fs::create_dir_all(written.parent().expect("it is in a directory")).expect("our own disk");
            fs::write(written, configuration(setup, index)).expect("our own disk");
            if setup.watchdog {
                let (device, power) = (dir.join(format!("{name}-watchdog")), machine.power());
                machine.bind(&device, "/dev/watchdog");
                watchdogs.push(WatchdogDevice::serve(&device, Manners::default(), move || power.reset()));
            }
            machine
        });
        let machines: Vec<Machine> = machines.collect();
        let ttl = Span::from_secs(u64::from(setup.ttl));
        Site {
            machines,
            watchdogs,
            hub,
            ledger: Ledger::default(),
            data_dir: DATA_DIR.to_owned(),
            ttl,
            _ground: ground,
        }
    }

    /// Three empty machines become a cluster by their units, with the writers' table on the leader.
    pub async fn founded(&self) -> usize {
        for machine in &self.machines {
            // Passwords stand in it.
            machine.ask("chgrp postgres /etc/tenure/main.yml && chmod 640 /etc/tenure/main.yml");
            // Started as well, not waited for: the store needs a second member, and a member needs the store.
            machine.ask(&format!("systemctl enable --quiet --now --no-block etcd.service {AGENT}"));
        }
        self.begun().await
    }

    /// What was started becomes a cluster, with the writers' table on the leader.
    pub async fn begun(&self) -> usize {
        let leader = self.healthy().await;
        let create = "create table ledger (writer text, row bigint, primary key (writer, row))";
        self.client(leader).await.batch_execute(create).await.expect("a primary makes tables");
        leader
    }

    /// Exactly one leader, everybody else streaming from it, all on one timeline. Returns the leader's index.
    pub async fn healthy(&self) -> usize {
        let hosts: Vec<&str> = self.machines.iter().map(|machine| machine.address.as_str()).collect();
        wait_for("one leader and streaming standbys", async || {
            let leader = rest::healthy_leader(&hosts)?;
            hosts.iter().position(|host| *host == leader)
        })
        .await
    }

    /// A leader other than `former`.
    pub async fn leader_besides(&self, former: usize) -> usize {
        wait_for("another leader", async || others(former).into_iter().find(|&index| self.leads(index))).await
    }

    pub fn leads(&self, index: usize) -> bool {
        rest::is_primary(&self.machines[index].address)
    }

    pub fn status(&self, index: usize) -> Option<Value> {
        rest::status(&self.machines[index].address)
    }

    /// The term that a leader says it leads for.
    pub async fn term(&self, index: usize) -> u64 {
        wait_for("a leader's term", async || self.status(index)?["tenure"]["term"].as_u64()).await
    }

    /// By its number inside its machine.
    pub fn postmaster(&self, index: usize) -> Option<u32> {
        let file = self.machines[index].root.join(&self.data_dir).join("postmaster.pid");
        fs::read_to_string(file).ok()?.lines().next()?.trim().parse().ok()
    }

    pub fn agent(&self, index: usize) -> Pid {
        self.machines[index].main_process(AGENT).expect("the agent runs")
    }

    /// Longer than the lease could have lived if nobody had renewed it.
    pub async fn lease_outlived(&self) {
        let until = clock::now() + self.ttl;
        wait_for("a lease time to pass", async || (until <= clock::now()).then_some(())).await;
    }

    pub async fn until_boots(&self, index: usize, boots: u32) {
        wait_for("another boot", async || (boots <= self.machines[index].power().boots()).then_some(()))
            .await;
        self.machines[index].until_booted();
    }

    /// A client of a machine's PostgreSQL as the superuser.
    pub async fn client(&self, index: usize) -> Client {
        wait_for("a connection", async || connect(&self.machines[index].address, PASSWORD).await).await
    }

    /// A writer on the hub that tries every machine.
    pub fn write_anywhere(&self) -> Writer {
        let hosts: Vec<String> = self.machines.iter().map(|machine| machine.address.clone()).collect();
        Writer::start("roaming", &self.hub, &hosts, PASSWORD, &self.ledger)
    }

    /// A writer on the machine's own network, which no cut cable separates from it, and which is not frozen with it.
    pub fn write_at(&self, index: usize) -> Writer {
        let machine = &self.machines[index];
        let host = std::slice::from_ref(&machine.address);
        Writer::start(&machine.name, &machine.network, host, PASSWORD, &self.ledger)
    }

    /// Sessions that are open before a machine freezes, for what is sent to it meanwhile.
    pub async fn sessions(&self, index: usize, count: usize) -> Vec<Client> {
        let mut sessions = Vec::new();
        while sessions.len() < count {
            sessions.push(self.client(index).await);
        }
        sessions
    }

    /// Some more rows are acknowledged.
    pub async fn more_rows(&self, rows: usize) {
        let before = self.ledger.count();
        wait_for("acknowledged rows", async || (before + rows <= self.ledger.count()).then_some(())).await;
    }

    /// How many rows a writer sent without being told that they are committed, though it went on afterwards.
    pub fn failed_rows(&self, writer: &str) -> i64 {
        let rows: Vec<i64> =
            self.ledger.rows().iter().filter(|row| row.writer == writer).map(|row| row.row).collect();
        let last = rows.iter().max().copied().unwrap_or_default();
        last - i64::try_from(rows.len()).expect("a number of rows")
    }

    /// How many acknowledged rows are not there.
    pub async fn missing_rows(&self, leader: usize) -> usize {
        let client = self.client(leader).await;
        let missing = self.ledger.missing(&client).await.len();
        println!("{missing} of {} acknowledged rows are missing", self.ledger.count());
        missing
    }

    fn print_logs(&self) {
        let units = ["--unit=tenured@*", "--unit=tenure-fence@*", "--unit=tenure-address@*"];
        let arguments = [&["--lines=120", "--output=short-precise"], &units[..]].concat();
        for machine in &self.machines {
            println!("---- {}\n{}", machine.name, machine.journal(&arguments));
        }
    }

    /// An agent that logs an ERROR has found something that must not be.
    fn check_logs(&self) {
        for machine in &self.machines {
            let journal = machine.journal(&["--output=short-precise", "_SYSTEMD_SLICE=system-tenured.slice"]);
            assert!(!journal.is_empty(), "{} has no journal of its agent", machine.name);
            let errors: Vec<&str> = journal.lines().filter(|line| line.contains(" ERROR ")).collect();
            assert!(errors.is_empty(), "{} logged errors:\n{}", machine.name, errors.join("\n"));
        }
    }
}

pub fn others(index: usize) -> Vec<usize> {
    (0..3).filter(|&other| other != index).collect()
}

/// A directory in memory, in a mount namespace that ends with the thread that asked and all of its children.
struct Ground(tempfile::TempDir);

impl Ground {
    fn prepare() -> Ground {
        unshare(CloneFlags::CLONE_NEWNS).expect("root may make namespaces");
        let private = Command::new("mount").args(["--make-rprivate", "/"]).status();
        assert!(private.is_ok_and(|status| status.success()), "the mounts of the test are its own");
        // The names of network namespaces and of machines are ours alone, too.
        for names in ["/run/netns", "/run/systemd/nspawn"] {
            fs::create_dir_all(names).expect("root may");
            mount("tmpfs", Path::new(names), "tmpfs", "mode=755");
        }
        let dir =
            tempfile::Builder::new().prefix("tenure-machines-").tempdir().expect("a temporary directory");
        mount("tmpfs", dir.path(), "tmpfs", "mode=755,size=6g");
        Ground(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        // With everything that is mounted below it.
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

/// Onto every machine's disk: a directory of packages for each version.
fn put_packages(layer: &Path) {
    let source = std::env::var_os(PACKAGES).map(PathBuf::from).expect("asked for before");
    for version in ["n", "next"] {
        let target = layer.join("root").join(version);
        fs::create_dir_all(&target).expect("our own directory");
        for entry in fs::read_dir(source.join(version)).expect("a directory of packages").flatten() {
            if entry.path().is_file() {
                fs::copy(entry.path(), target.join(entry.file_name())).expect("a package");
            }
        }
    }
}

/// What the packages bring: the programs and the units.
fn install_files(layer: &Path) {
    let [programs, units] = ["usr/bin", "usr/lib/systemd/system"].map(|part| layer.join(part));
    for dir in [&programs, &units] {
        fs::create_dir_all(dir).expect("our own directory");
    }
    for binary in [
        env!("CARGO_BIN_EXE_tenured"),
        env!("CARGO_BIN_EXE_tenure-fence"),
        env!("CARGO_BIN_EXE_tenure-address"),
        env!("CARGO_BIN_EXE_tenurectl"),
    ] {
        let name = Path::new(binary).file_name().expect("a file name");
        fs::copy(binary, programs.join(name)).expect("a binary that was built");
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    for entry in fs::read_dir(source).expect("the repository has units").flatten() {
        let kinds = ["service", "socket", "slice", "target", "path", "timer"];
        if entry.path().extension().is_some_and(|kind| kinds.iter().any(|known| kind == *known)) {
            let target = units.join(entry.file_name());
            fs::copy(entry.path(), &target).expect("a unit of the repository");
            fs::set_permissions(&target, fs::Permissions::from_mode(0o644)).expect("our own directory");
        }
    }
}

fn name(index: usize) -> String {
    format!("node{}", index + 1)
}

fn address(index: usize) -> String {
    format!("10.99.0.{}", 11 + index)
}

/// As it should be installed: without pre-vote, a member of etcd 3.4 that comes back from a partition unseats the leader.
fn etcd_environment(index: usize) -> String {
    let (name, address) = (name(index), address(index));
    let members: Vec<String> =
        (0..3).map(|index| format!("{}=http://{}:2380", self::name(index), self::address(index))).collect();
    let members = members.join(",");
    format!(
        "ETCD_NAME={name}
ETCD_LISTEN_CLIENT_URLS=http://{address}:2379
ETCD_ADVERTISE_CLIENT_URLS=http://{address}:2379
ETCD_LISTEN_PEER_URLS=http://{address}:2380
ETCD_INITIAL_ADVERTISE_PEER_URLS=http://{address}:2380
ETCD_INITIAL_CLUSTER={members}
ETCD_PRE_VOTE=true
"
    )
}

fn configuration(setup: &Setup, index: usize) -> String {
    let (name, address) = (name(index), address(index));
    let hosts: Vec<String> = (0..3).map(|index| format!("{}:2379", self::address(index))).collect();
    let (hosts, ttl) = (hosts.join(","), setup.ttl);
    let watchdog = if setup.watchdog { "required" } else { "off" };
    format!(
        "scope: main
name: {name}
restapi:
  listen: {address}:8008
  connect_address: {address}:8008
etcd3:
  hosts: {hosts}
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
  data_dir: /{DATA_DIR}
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
    shared_buffers: 16MB
watchdog:
  mode: '{watchdog}'
  device: /dev/watchdog
  safety_margin: 5
"
    )
}
