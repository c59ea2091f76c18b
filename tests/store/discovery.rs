//! etcd found through SRV records, which a real name server gives.

use std::error::Error as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use nix::sys::prctl;
use nix::sys::signal::Signal;
use tenure::store::{AdapterSettings, Discovery, EtcdSettings, Store, StoreError};

use crate::etcd_server::{Etcd, free_port};
use crate::rig::*;

const DOMAIN: &str = "tenure.test";

struct NameServer {
    port: u16,
    child: Option<Child>,
}

/// Port, priority.
type Record = (u16, u16);

impl NameServer {
    fn new() -> NameServer {
        NameServer { port: free_port(), child: None }
    }

    /// From now on these are the servers.
    fn say(&mut self, kind: &str, records: &[Record]) {
        self.end();
        let mut command = Command::new("dnsmasq");
        command.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--pid-file=",
        ]);
        command.args([
            "--log-facility=-",
            "--user=",
            "--group=",
            "--bind-interfaces",
            "--listen-address=127.0.0.1",
        ]);
        command.arg(format!("--port={}", self.port)).arg(format!("--local=/{DOMAIN}/"));
        for (port, priority) in records {
            command.arg(format!("--srv-host={kind}._tcp.{DOMAIN},localhost,{port},{priority}"));
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: prctl is safe to call between fork and exec.
        unsafe { command.pre_exec(|| prctl::set_pdeathsig(Signal::SIGKILL).map_err(Into::into)) };
        self.child = Some(command.spawn().expect("dnsmasq is installed"));
    }

    fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it is ours to kill");
            child.wait().expect("it is ours to wait for");
        }
    }

    fn store(&self, suffix: Option<&str>) -> Store {
        let discovery = Discovery {
            domain: DOMAIN.to_owned(),
            suffix: suffix.map(str::to_owned),
            name_servers: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))],
        };
        let settings = EtcdSettings { discovery: Some(discovery), ..EtcdSettings::default() };
        store(AdapterSettings::Etcd(settings), "batman")
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.end();
    }
}

/// The error with its causes.
fn told(error: &StoreError) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.fold(error.to_string(), |told, cause| format!("{told}: {cause}"))
}

fn port(endpoint: &str) -> u16 {
    endpoint.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("an endpoint has a port")
}

#[tokio::test]
async fn servers_are_found_where_dns_says_and_again_when_they_have_moved() {
    let mut etcd = Etcd::three().await;
    let mut dns = NameServer::new();
    let store = dns.store(None);

    let nobody = store.snapshot(SHORT).await.expect_err("there is no name server yet");
    let nobody = told(&nobody);
    assert!(nobody.contains(&format!("127.0.0.1:{}: ", dns.port)), "{nobody}");
    // More than fits into a datagram: the answer is asked for again over TCP.
    let nowhere = (0..40).map(|n| (n + 1, 100));
    let records: Vec<Record> = nowhere.chain([(port(&etcd.servers[0].endpoint), 1)]).collect();
    dns.say("_etcd-client", &records);
    let session = session(&store, LIFE).await;
    store.renew(session, &name("turku"), None, LONG).await.expect("the one that is preferred answers");

    dns.say("_etcd", &[(port(&etcd.servers[1].endpoint), 1)]);
    etcd.servers[0].kill();
    let moved = tokio::time::timeout(LONG * 3, async { while store.snapshot(SHORT).await.is_err() {} });
    moved
        .await
        .expect("nobody answers any more, so DNS is asked again, and a stranger is believed in the end");

    dns.end();
    store.snapshot(LONG).await.expect("what was found stays known");
}

#[tokio::test]
async fn records_that_lead_nowhere_are_explained() {
    let etcd = Etcd::single().await;
    let mut dns = NameServer::new();
    dns.say("_etcd-server", &[(2380, 1)]);
    let peers = dns.store(None);
    let told = tokio::time::timeout(LONG, async {
        loop {
            let problem = peers.snapshot(SHORT).await.expect_err("no server serves clients");
            if told(&problem)
                .contains("_etcd-server._tcp.tenure.test names where the servers speak to each other")
            {
                break;
            }
        }
    });
    told.await.expect("it is said");

    dns.say("_etcd-client-blue", &[(port(&etcd.servers[0].endpoint), 1)]);
    dns.store(Some("blue")).snapshot(LONG).await.expect("a cluster of several in the domain");
}
