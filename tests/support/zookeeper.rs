//! Real ZooKeeper servers on free loopback ports, which end with the test whatever becomes of them; and a client of a few lines
//! for what the store itself never does.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tenure::clock;
use tenure::model::Span;

const PATIENCE: Span = Span::from_secs(60);
const ASK: Duration = Duration::from_secs(5);

/// Servers that make up one ZooKeeper.
pub struct Zookeeper {
    /// Dropped, and with them the processes ended, before their directory is.
    pub servers: Vec<Server>,
    _home: TempDir,
}

pub struct Server {
    /// `host:port`.
    pub endpoint: String,
    home: PathBuf,
    encrypted: bool,
    child: Option<Child>,
}

/// ZooKeeper's other implementation of connections, which can encrypt them.
const ENCRYPTED: [&str; 1] =
    ["-Dzookeeper.serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory"];

/// How the servers of one test differ from the usual.
#[derive(Default)]
pub struct Setup {
    pub servers: usize,
    /// Lines for each server's configuration.
    pub lines: Vec<String>,
    pub encrypted: bool,
}

impl Zookeeper {
    pub async fn single() -> Zookeeper {
        Zookeeper::start(&Setup { servers: 1, ..Setup::default() }).await
    }

    pub async fn three() -> Zookeeper {
        Zookeeper::start(&Setup { servers: 3, ..Setup::default() }).await
    }

    pub async fn start(setup: &Setup) -> Zookeeper {
        let home = TempDir::with_prefix("tenure-zookeeper-").expect("a temporary directory");
        let ports: Vec<[u16; 3]> =
            (0..setup.servers).map(|_| [free_port(), free_port(), free_port()]).collect();
        let peers: Vec<String> =
            ports.iter().map(|[_, follow, elect]| format!("127.0.0.1:{follow}:{elect}")).collect();
        let server = |(n, [client, ..]): (usize, &[u16; 3])| {
            let mut lines = setup.lines.clone();
            lines.push(format!(
                "{}={client}",
                if setup.encrypted { "secureClientPort" } else { "clientPort" }
            ));
            let dir = home.path().join(format!("z{n}"));
            write_home(&dir, n, &peers, &lines);
            let mut server = Server {
                endpoint: format!("127.0.0.1:{client}"),
                home: dir,
                encrypted: setup.encrypted,
                child: None,
            };
            server.start();
            server
        };
        let servers: Vec<Server> = ports.iter().enumerate().map(server).collect();
        if !setup.encrypted {
            for server in &servers {
                server.healthy().await;
            }
        }
        Zookeeper { servers, _home: home }
    }

    pub fn endpoints(&self) -> Vec<String> {
        self.servers.iter().map(|server| server.endpoint.clone()).collect()
    }

    pub async fn healthy(&self) {
        for server in &self.servers {
            server.healthy().await;
        }
    }

    /// Which of them leads the others.
    pub fn leader(&self) -> usize {
        let leads = |server: &Server| mode(&server.endpoint).as_deref() == Some("leader");
        self.servers.iter().position(leads).expect("healthy servers have a leader")
    }
}

impl Server {
    pub fn start(&mut self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.home.join("log"));
        let log = log.expect("our own directory");
        let mut command = Command::new("java");
        if self.encrypted {
            command.args(ENCRYPTED);
        }
        command.args(arguments(&self.home)).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a second handle")).stderr(log);
        // A test that is killed cannot clean up; the kernel does it then.
        // SAFETY: prctl is safe to call between fork and exec.
        unsafe { command.pre_exec(|| prctl::set_pdeathsig(Signal::SIGKILL).map_err(Into::into)) };
        self.child = Some(command.spawn().expect("java is installed"));
    }

    /// It serves, which it does only with a majority.
    pub async fn healthy(&self) {
        let until = clock::now() + PATIENCE;
        while mode(&self.endpoint).is_none() {
            let log = std::fs::read_to_string(self.home.join("log")).unwrap_or_default();
            assert!(clock::now() < until, "ZooKeeper at {} does not serve:\n{log}", self.endpoint);
            clock::pause(Span::from_ms(50)).await;
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
        let until = clock::now() + PATIENCE;
        while !all_threads_stopped(self.pid()) {
            assert!(clock::now() < until, "ZooKeeper at {} does not stop", self.endpoint);
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

/// Everything that the server with this number needs: `peers` are all servers, as `host:port:port`.
pub fn write_home(dir: &Path, n: usize, peers: &[String], lines: &[String]) {
    let data = dir.join("data");
    std::fs::create_dir_all(&data).expect("our own directory");
    let mut all: Vec<String> = [
        "tickTime=500",
        "initLimit=20",
        "syncLimit=4",
        "maxSessionTimeout=1000000",
        "maxClientCnxns=0",
        "admin.enableServer=false",
    ]
    .map(str::to_owned)
    .to_vec();
    all.push(format!("dataDir={}", data.display()));
    if 1 < peers.len() {
        std::fs::write(data.join("myid"), n.to_string()).expect("our own directory");
        all.extend(peers.iter().enumerate().map(|(n, peer)| format!("server.{n}={peer}")));
    }
    all.extend(lines.iter().cloned());
    std::fs::write(dir.join("zoo.cfg"), all.join("\n")).expect("our own directory");
}

/// For a small server that starts fast.
pub fn arguments(dir: &Path) -> Vec<String> {
    // Debian's zookeeper.jar names the rest of what it needs, except for what encryption needs.
    let jars =
        ["zookeeper", "slf4j-simple", "netty-codec", "netty-resolver", "netty-transport-native-unix-common"];
    let class_path = jars.map(|jar| format!("/usr/share/java/{jar}.jar")).join(":");
    let options = [
        "-Xmx96m",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        "-Dorg.slf4j.simpleLogger.showDateTime=true",
        "-cp",
        &class_path,
        "org.apache.zookeeper.server.quorum.QuorumPeerMain",
    ];
    let configuration = dir.join("zoo.cfg").display().to_string();
    options.into_iter().map(str::to_owned).chain([configuration]).collect()
}

/// What a server says of itself: `standalone`, `leader` or `follower`. Nothing if it does not serve.
pub fn mode(endpoint: &str) -> Option<String> {
    let mut stream = dial(endpoint).ok()?;
    stream.write_all(b"srvr").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.lines().find_map(|line| line.strip_prefix("Mode: ")).map(str::to_owned)
}

/// Writes a znode whoever owns it, and makes it with everything above it if it is not there.
pub fn put(endpoint: &str, path: &str, value: &[u8]) {
    let mut raw = Raw::connect(endpoint);
    // Any version will do.
    let set = [text(path), buffer(value), (-1_i32).to_be_bytes().to_vec()].concat();
    let mut answered = raw.ask(5, &set).0;
    if answered == -101 {
        for (at, _) in path.match_indices('/').skip(1) {
            raw.create(&path[..at], b"");
        }
        answered = raw.create(path, value);
    }
    assert_eq!(answered, 0, "write {path}");
}

pub fn delete(endpoint: &str, path: &str) {
    let body = [text(path), (-1_i32).to_be_bytes().to_vec()].concat();
    assert_eq!(Raw::connect(endpoint).ask(2, &body).0, 0, "delete {path}");
}

/// The access list of a znode, as permissions, scheme and id of each entry. Only who may read the znode is told.
pub fn access_list(endpoint: &str, path: &str, digest: &str) -> Vec<(i32, String, String)> {
    let mut raw = Raw::connect(endpoint);
    let shown = raw.ask(100, &[vec![0; 4], text("digest"), text(digest)].concat()).0;
    assert_eq!(shown, 0, "show who we are");
    let (code, body) = raw.ask(6, &text(path));
    assert_eq!(code, 0, "read the access list of {path}");
    let mut rest = &body[..];
    let int = |rest: &mut &[u8]| {
        let (head, tail) = rest.split_at(4);
        *rest = tail;
        i32::from_be_bytes(head.try_into().expect("four bytes"))
    };
    let mut entries = Vec::new();
    for _ in 0..int(&mut rest) {
        let permissions = int(&mut rest);
        let mut word = || {
            let length = usize::try_from(int(&mut rest)).expect("a length");
            let (head, tail) = rest.split_at(length);
            rest = tail;
            String::from_utf8(head.to_vec()).expect("text")
        };
        entries.push((permissions, word(), word()));
    }
    entries
}

struct Raw(TcpStream);

impl Raw {
    fn connect(endpoint: &str) -> Raw {
        let mut raw = Raw(dial(endpoint).expect("the server is there"));
        let hello = [&[0; 12][..], &10_000_i32.to_be_bytes(), &[0; 8], &buffer(&[0; 16]), &[0]].concat();
        raw.0.write_all(&buffer(&hello)).expect("the server listens");
        raw.frame();
        raw
    }

    fn create(&mut self, path: &str, value: &[u8]) -> i32 {
        let everybody =
            [&1_i32.to_be_bytes()[..], &31_i32.to_be_bytes(), &text("world"), &text("anyone")].concat();
        self.ask(1, &[text(path), buffer(value), everybody, vec![0; 4]].concat()).0
    }

    /// The code and what comes with it.
    fn ask(&mut self, operation: i32, body: &[u8]) -> (i32, Vec<u8>) {
        let question = [&1_i32.to_be_bytes()[..], &operation.to_be_bytes(), body].concat();
        self.0.write_all(&buffer(&question)).expect("the server listens");
        let answer = self.frame();
        let code = i32::from_be_bytes(answer[12..16].try_into().expect("four bytes"));
        (code, answer[16..].to_vec())
    }

    fn frame(&mut self) -> Vec<u8> {
        let mut length = [0; 4];
        self.0.read_exact(&mut length).expect("the server answers");
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        self.0.read_exact(&mut frame).expect("the server answers");
        frame
    }
}

fn dial(endpoint: &str) -> std::io::Result<TcpStream> {
    let address: SocketAddr = endpoint.parse().expect("an address");
    let stream = TcpStream::connect_timeout(&address, ASK)?;
    stream.set_read_timeout(Some(ASK))?;
    Ok(stream)
}

fn buffer(bytes: &[u8]) -> Vec<u8> {
    let length = i32::try_from(bytes.len()).expect("short").to_be_bytes();
    [&length[..], bytes].concat()
}

fn text(text: &str) -> Vec<u8> {
    buffer(text.as_bytes())
}

fn all_threads_stopped(pid: Pid) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process is there");
    threads.flatten().all(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // The name in parentheses may itself contain anything.
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('T'))
    })
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it is bound").port()
}
