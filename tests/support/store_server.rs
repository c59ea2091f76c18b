//! The servers of the store as processes, each in a network namespace of its own.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use serde_json::Value;

use super::lab::Setup;
use super::netns::Namespace;
use super::zookeeper;

/// What the members share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    Etcd,
    Zookeeper,
}

/// Its place among the addresses.
const ANOTHER: usize = 8;

/// A server of the store: etcd, or ZooKeeper.
pub struct StoreServer {
    pub machine: Namespace,
    kind: StoreKind,
    address: String,
    name: String,
    arguments: Vec<String>,
    dir: PathBuf,
    server: Option<Child>,
}

impl StoreServer {
    fn address(index: usize) -> String {
        format!("10.99.0.{}", 21 + index)
    }

    pub fn endpoint(&self) -> String {
        let port = match self.kind {
            StoreKind::Etcd => 2379,
            StoreKind::Zookeeper => 2181,
        };
        format!("{}:{port}", self.address)
    }

    pub fn cluster(setup: &Setup, id: &str, hub: &Namespace, dir: &Path) -> Vec<StoreServer> {
        StoreServer::servers(setup.store, 0..setup.store_servers, id, hub, dir)
    }

    /// A store of one server beside the one that a lab begins with.
    pub fn another(kind: StoreKind, hub: &Namespace, dir: &Path) -> StoreServer {
        let id = hub.name.trim_end_matches("-hub");
        StoreServer::servers(kind, ANOTHER..ANOTHER + 1, id, hub, dir).remove(0)
    }

    fn servers(
        kind: StoreKind,
        indexes: Range<usize>,
        id: &str,
        hub: &Namespace,
        dir: &Path,
    ) -> Vec<StoreServer> {
        let start = |index: usize| {
            let (name, address) = (format!("e{index}"), StoreServer::address(index));
            let arguments = match kind {
                StoreKind::Etcd => StoreServer::etcd_arguments(indexes.clone(), index, dir),
                StoreKind::Zookeeper => {
                    StoreServer::zookeeper_arguments(indexes.clone(), index, &dir.join(&name))
                }
            };
            let machine = Namespace::spoke(format!("{id}-{name}"), hub, &name, &address);
            let mut server =
                StoreServer { machine, kind, address, name, arguments, dir: dir.to_owned(), server: None };
            server.start();
            server
        };
        indexes.clone().map(start).collect()
    }

    fn zookeeper_arguments(indexes: Range<usize>, index: usize, home: &Path) -> Vec<String> {
        let peers: Vec<String> =
            indexes.map(|index| format!("{}:2888:3888", StoreServer::address(index))).collect();
        zookeeper::write_home(home, index, &peers, &["clientPort=2181".to_owned()]);
        zookeeper::arguments(home)
    }

    fn etcd_arguments(indexes: Range<usize>, index: usize, dir: &Path) -> Vec<String> {
        let members: Vec<String> =
            indexes.map(|index| format!("e{index}=http://{}:2380", StoreServer::address(index))).collect();
        let members = members.join(",");
        let address = StoreServer::address(index);
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

impl Drop for StoreServer {
    fn drop(&mut self) {
        self.kill();
    }
}
