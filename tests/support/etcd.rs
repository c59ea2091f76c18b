//! Real etcd servers on free loopback ports, which end with the test whatever becomes of it.

use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use etcd_client::Client;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

const START_PATIENCE: Duration = Duration::from_mins(1);

/// Servers that make up one etcd cluster.
pub struct Etcd {
    /// Dropped, and with them the processes ended, before their directory is.
    pub servers: Vec<Server>,
    home: TempDir,
}

pub struct Server {
    pub endpoint: String,
    arguments: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
}

/// Files of a certificate authority and of what it has signed.
#[derive(Clone)]
pub struct Certificates {
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Etcd {
    /// One server, without encryption or users.
    pub async fn single() -> Etcd {
        Etcd::start(1, None).await
    }

    pub async fn three() -> Etcd {
        Etcd::start(3, None).await
    }

    /// One server that only talks to clients with a certificate.
    pub async fn encrypted(certificates: &Certificates) -> Etcd {
        Etcd::start(1, Some(certificates)).await
    }

    async fn start(count: usize, certificates: Option<&Certificates>) -> Etcd {
        let home = TempDir::with_prefix("tenure-etcd-").expect("a temporary directory");
        let ports: Vec<(u16, u16)> = (0..count).map(|_| (free_port(), free_port())).collect();
        let members: Vec<String> = (ports.iter().enumerate())
            .map(|(n, (_, peer))| format!("m{n}=http://127.0.0.1:{peer}"))
            .collect();
        let mut servers: Vec<Server> = (ports.iter().enumerate())
            .map(|(n, ports)| Server::new(home.path(), n, *ports, &members.join(","), certificates))
            .collect();
        for server in &mut servers {
            server.start();
        }
        let etcd = Etcd { servers, home };
        if certificates.is_none() {
            etcd.healthy().await;
        }
        etcd
    }

    pub fn endpoints(&self) -> Vec<String> {
        self.servers.iter().map(|server| server.endpoint.clone()).collect()
    }

    /// A client for what the store itself never does.
    pub async fn client(&self) -> Client {
        Client::connect([&self.servers[0].endpoint], None).await.expect("a client is made without asking")
    }

    /// Every server answers a read that needs a majority.
    pub async fn healthy(&self) {
        for server in &self.servers {
            server.healthy().await;
        }
    }

    /// Which of them leads the others.
    pub async fn leader(&self) -> usize {
        for (n, server) in self.servers.iter().enumerate() {
            let mut client = Client::connect([&server.endpoint], None).await.expect("a client");
            let status = client.status().await.expect("a healthy server tells its status");
            if status.header().expect("a header").member_id() == status.leader() {
                return n;
            }
        }
        panic!("no server leads in {}", self.home.path().display());
    }
}

impl Server {
    fn new(
        home: &Path,
        n: usize,
        (client, peer): (u16, u16),
        members: &str,
        certificates: Option<&Certificates>,
    ) -> Server {
        let scheme = if certificates.is_some() { "https" } else { "http" };
        let (client, peer) = (format!("{scheme}://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        let data = home.join(format!("m{n}")).display().to_string();
        let mut arguments: Vec<String> = [
            ("--name", format!("m{n}").as_str()),
            ("--data-dir", &data),
            ("--listen-client-urls", &client),
            ("--advertise-client-urls", &client),
            ("--listen-peer-urls", &peer),
            ("--initial-advertise-peer-urls", &peer),
            ("--initial-cluster", members),
            // Two clusters of different tests must never take each other for their own.
            ("--initial-cluster-token", &home.display().to_string()),
            ("--logger", "zap"),
            ("--log-level", "warn"),
            ("--bcrypt-cost", "4"),
        ]
        .into_iter()
        .flat_map(|(name, value)| [name.to_owned(), value.to_owned()])
        .collect();
        if let Some(files) = certificates {
            let path = |path: &Path| path.display().to_string();
            arguments.extend([
                "--client-cert-auth".to_owned(),
                "--trusted-ca-file".to_owned(),
                path(&files.ca),
            ]);
            arguments.extend(["--cert-file".to_owned(), path(&files.cert)]);
            arguments.extend(["--key-file".to_owned(), path(&files.key)]);
        }
        Server { endpoint: client, arguments, log: home.join(format!("m{n}.log")), child: None }
    }

    pub fn start(&mut self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log).expect("a log file");
        let mut command = Command::new("etcd");
        command.args(&self.arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        // A test that is killed cannot clean up; the kernel does it then.
        // SAFETY: prctl is safe to call between fork and exec.
        unsafe { command.pre_exec(|| prctl::set_pdeathsig(Signal::SIGKILL).map_err(Into::into)) };
        self.child = Some(command.spawn().expect("etcd is installed"));
    }

    pub async fn healthy(&self) {
        let until = Instant::now() + START_PATIENCE;
        loop {
            let asked = async {
                let mut client = Client::connect([&self.endpoint], None).await?;
                client.get("health", None).await
            };
            if let Ok(Ok(_)) = timeout(Duration::from_secs(2), asked).await {
                return;
            }
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            assert!(Instant::now() < until, "etcd at {} is not healthy:\n{log}", self.endpoint);
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// SIGKILL, as the kernel or a power cut would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it is ours to kill");
            child.wait().expect("it is ours to wait for");
        }
    }

    /// SIGSTOP: connections stay, and nothing answers. The signal reaches one thread after the other, so what comes right
    /// after it might still be answered; this returns when nothing can be.
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
        let until = std::time::Instant::now() + START_PATIENCE;
        while !all_threads_stopped(self.pid()) {
            assert!(std::time::Instant::now() < until, "etcd at {} does not stop", self.endpoint);
            std::thread::yield_now();
        }
    }

    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("it is ours to signal");
    }

    fn pid(&self) -> Pid {
        let child = self.child.as_ref().expect("the server runs");
        Pid::from_raw(i32::try_from(child.id()).expect("a pid"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Certificates {
    /// An authority with one certificate that serves as the server's and as the client's.
    pub fn make(directory: &Path, name: &str) -> Certificates {
        use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca =
            CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
        let key = KeyPair::generate().expect("a key");
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let cert = (CertificateParams::new(names).expect("good names"))
            .signed_by(&key, &ca)
            .expect("the authority signs");
        let write = |file: &str, text: String| {
            let path = directory.join(format!("{name}-{file}.pem"));
            std::fs::write(&path, text).expect("the directory can be written to");
            path
        };
        Certificates {
            ca: write("ca", ca.pem()),
            cert: write("cert", cert.pem()),
            key: write("key", key.serialize_pem()),
        }
    }
}

fn all_threads_stopped(pid: Pid) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process is there");
    threads.flatten().all(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // The name in parentheses may itself contain anything.
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('T'))
    })
}

pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it is bound").port()
}
