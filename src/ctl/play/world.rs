//! The processes of a play: started, asked, broken and stopped. Everything that is started here is stopped here.

use std::fs;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use hyper::Method;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid, User};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::files::{self, MEMBERS};
use super::ports::{HOST, Ports};
use super::screen::Row;
use super::{PlayArguments, StoreKind};
use crate::clock;
use crate::model::{Moment, Span};
use crate::peers::http;

/// The store answers within this, or something is wrong.
const STORE_START: Span = Span::from_secs(20);
/// A member that does not answer within this is shown as silent.
const ASK: Duration = Duration::from_millis(400);
const SWITCHOVER: Duration = Duration::from_mins(1);
/// How long an orderly stop may take before the rest is killed.
const STOP: Span = Span::from_secs(30);
const POLL: Span = Span::from_ms(50);
const ANSWER_MAX: usize = 1 << 20;

/// Where Debian has it.
const ZOOKEEPER_JAR: &str = "/usr/share/java/zookeeper.jar";

pub struct World {
    dir: PathBuf,
    ports: Ports,
    bin_dir: PathBuf,
    password: String,
    user: Option<User>,
    programs: PathBuf,
    store: StoreKind,
    ttl: u32,
    children: Vec<Named>,
    frozen: Option<usize>,
    rows: Vec<Row>,
    news: (mpsc::Sender<String>, mpsc::Receiver<String>),
    background: JoinSet<()>,
}

struct Named {
    name: String,
    child: Child,
}

fn usual_dir(store: StoreKind) -> PathBuf {
    let store = match store {
        StoreKind::Etcd => "",
        // The data of one store's cluster means nothing to another's.
        StoreKind::Zookeeper => "zookeeper-",
    };
    format!("/var/tmp/tenure-play-{store}{}", Uid::current()).into()
}

impl World {
    /// Finds programs, ports and a user, and writes the files. Nothing runs yet.
    pub fn prepare(arguments: &PlayArguments) -> Result<World> {
        let members = u16::try_from(MEMBERS.len()).unwrap_or(u16::MAX);
        let ports = Ports::shifted_by(arguments.shift);
        ports.check(members)?;
        let user = unprivileged_user()?;
        let dir = arguments.dir.clone().unwrap_or_else(|| usual_dir(arguments.store));
        let dir = std::path::absolute(&dir).with_context(|| format!("find {}", dir.display()))?;
        let bin_dir = match &arguments.bin_dir {
            Some(dir) => dir.clone(),
            None => crate::postgres::installed_majors().pop().map(|(_, dir)| dir).ok_or_else(|| {
                anyhow!("found no PostgreSQL\nhint: run `make setup`, or name its programs with --bin-dir")
            })?,
        };
        let store_program = match arguments.store {
            StoreKind::Etcd => "etcd",
            StoreKind::Zookeeper => "java",
        };
        if arguments.store == StoreKind::Zookeeper && !Path::new(ZOOKEEPER_JAR).exists() {
            bail!("found no ZooKeeper in {ZOOKEEPER_JAR}\nhint: run `make setup`");
        }
        for program in [store_program, "haproxy"] {
            if find_program(program).is_none() {
                bail!("found no {program}\nhint: run `make setup`");
            }
        }
        make_dir(&dir, user.as_ref())?;
        let world = World {
            ports,
            bin_dir,
            password: password(&dir)?,
            programs: own_programs(&dir, user.is_some())?,
            user,
            store: arguments.store,
            ttl: arguments.ttl.unwrap_or(if arguments.store == StoreKind::Etcd { 5 } else { 8 }),
            children: Vec::new(),
            frozen: None,
            rows: Vec::new(),
            news: mpsc::channel(4),
            background: JoinSet::new(),
            dir,
        };
        world.write_files()?;
        Ok(world)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub async fn start(&mut self) -> Result<()> {
        let name = match self.store {
            StoreKind::Etcd => "etcd",
            StoreKind::Zookeeper => "ZooKeeper",
        };
        eprintln!("starting {name}, three members and HAProxy in {}", self.dir.display());
        match self.store {
            StoreKind::Etcd => self.start_etcd()?,
            StoreKind::Zookeeper => self.start_zookeeper()?,
        }
        self.wait_for_store(name).await?;
        for name in MEMBERS {
            let mut command = self.command(&self.programs.join("tenured"));
            command.arg(self.dir.join(name).join("tenure.yml"));
            self.spawn(name, command)?;
        }
        let mut haproxy = self.command(Path::new("haproxy"));
        haproxy.arg("-db").arg("-f").arg(self.dir.join("haproxy.cfg"));
        self.spawn("haproxy", haproxy)
    }

    /// Members first, standbys before the leader, so that nobody takes over from a cluster that ends.
    pub async fn stop(&mut self) {
        self.thaw();
        self.background.shutdown().await;
        let leader = self.leader().map(|index| MEMBERS[index].to_owned());
        let is_member = |name: &str| MEMBERS.contains(&name);
        self.stop_those(|name| is_member(name) && Some(name) != leader.as_deref()).await;
        self.stop_those(is_member).await;
        self.stop_those(|_| true).await;
    }

    /// A child that ends by itself is a fault of the play, and its log is the place to look.
    pub fn check_children(&mut self) -> Result<()> {
        for Named { name, child } in &mut self.children {
            if let Some(status) = child.try_wait().with_context(|| format!("look after {name}"))? {
                bail!(
                    "{name} ended with {status}; its log is {}",
                    self.dir.join(format!("{name}.log")).display()
                );
            }
        }
        Ok(())
    }

    pub fn connections(&self) -> Vec<(String, String)> {
        let url = |port| format!("postgresql://postgres:{}@{HOST}:{port}/postgres", self.password);
        let hosts: Vec<String> =
            (1..).zip(MEMBERS).map(|(i, _)| format!("{HOST}:{}", self.ports.postgres(i))).collect();
        let direct = format!(
            "postgresql://postgres:{}@{}/postgres?target_session_attrs=read-write",
            self.password,
            hosts.join(",")
        );
        vec![
            ("read-write".to_owned(), format!("psql '{}'", url(self.ports.read_write()))),
            ("read-only".to_owned(), format!("psql '{}'", url(self.ports.read_only()))),
            ("without HAProxy".to_owned(), format!("psql '{direct}'")),
            ("statistics".to_owned(), format!("http://{HOST}:{}/", self.ports.statistics())),
            ("logs and data".to_owned(), self.dir.display().to_string()),
        ]
    }

    /// Asks every member at once what it does.
    pub async fn members(&mut self) -> Vec<Row> {
        let mut asking = JoinSet::new();
        for (index, name) in (0u16..).zip(MEMBERS) {
            let url = format!("http://{HOST}:{}/patroni", self.ports.rest(index + 1));
            asking.spawn(async move {
                let answer = http::call(Method::GET, &url, None, ASK, ANSWER_MAX).await;
                let document = answer.ok().and_then(|answer| serde_json::from_slice(&answer.body).ok());
                (index, row(name, document.as_ref()))
            });
        }
        let mut rows = asking.join_all().await;
        rows.sort_by_key(|(index, _)| *index);
        self.rows = rows.into_iter().map(|(_, row)| row).collect();
        self.rows.clone()
    }

    /// What background work has to say since the last time.
    pub fn news(&mut self) -> Option<String> {
        self.news.1.try_recv().ok()
    }

    pub fn kill_primary_postgres(&mut self) -> String {
        let Some(leader) = self.leader() else { return "there is no primary to kill".to_owned() };
        let name = MEMBERS[leader];
        let Some(pid) = first_line_pid(&self.dir.join(name).join("data/postmaster.pid")) else {
            return format!("{name} has no postmaster");
        };
        match kill(pid, Signal::SIGKILL) {
            Ok(()) => format!("killed the postmaster of {name} (pid {pid})"),
            Err(error) => format!("could not kill the postmaster of {name}: {error}"),
        }
    }

    pub fn freeze_or_thaw(&mut self) -> String {
        if let Some(index) = self.frozen {
            self.thaw();
            return format!("thawed the agent of {}", MEMBERS[index]);
        }
        let Some(leader) = self.leader() else { return "there is no leader to freeze".to_owned() };
        let Some(pid) = self.pid_of(MEMBERS[leader]) else { return "the leader's agent is gone".to_owned() };
        match kill(pid, Signal::SIGSTOP) {
            Ok(()) => {
                self.frozen = Some(leader);
                format!("froze the agent of {}; press f to thaw it", MEMBERS[leader])
            }
            Err(error) => format!("could not freeze the agent: {error}"),
        }
    }

    pub fn begin_switchover(&mut self) -> String {
        let Some(leader) = self.leader() else { return "there is no leader to switch over from".to_owned() };
        let port = self.ports.rest(u16::try_from(leader + 1).unwrap_or(1));
        let url = format!("http://{HOST}:{port}/switchover");
        let body = json!({ "leader": MEMBERS[leader] }).to_string();
        let news = self.news.0.clone();
        self.background.spawn(async move {
            let said = match http::call(Method::POST, &url, Some(body.into()), SWITCHOVER, ANSWER_MAX).await {
                Ok(answer) => String::from_utf8_lossy(&answer.body).into_owned(),
                Err(error) => format!("the switchover was not answered: {error}"),
            };
            // A full channel has fresher news already.
            let _ = news.try_send(said);
        });
        format!("switching over from {}", MEMBERS[leader])
    }

    fn leader(&self) -> Option<usize> {
        self.rows.iter().position(|row| row.role == "primary")
    }

    fn thaw(&mut self) {
        if let Some(pid) = self.frozen.take().and_then(|index| self.pid_of(MEMBERS[index])) {
            // An agent that is gone need not be thawed.
            let _ = kill(pid, Signal::SIGCONT);
        }
    }

    fn pid_of(&self, name: &str) -> Option<Pid> {
        let named = self.children.iter().find(|named| named.name == name)?;
        i32::try_from(named.child.id()).ok().map(Pid::from_raw)
    }

    fn write_files(&self) -> Result<()> {
        for (index, name) in (1..).zip(MEMBERS) {
            let home = self.dir.join(name);
            make_dir(&home, self.user.as_ref())?;
            let store = (self.store, self.ttl);
            let text = files::member(index, self.ports, &self.dir, &self.bin_dir, &self.password, store);
            write_private(&home.join("tenure.yml"), &text, self.user.as_ref())?;
        }
        make_dir(&self.dir.join("etcd"), self.user.as_ref())?;
        make_dir(&self.dir.join("zookeeper"), self.user.as_ref())?;
        let zookeeper = files::zookeeper(self.ports, &self.dir);
        write_private(&self.dir.join("zoo.cfg"), &zookeeper, self.user.as_ref())?;
        write_private(&self.dir.join("haproxy.cfg"), &files::haproxy(self.ports), self.user.as_ref())
    }

    fn start_etcd(&mut self) -> Result<()> {
        let client = format!("http://{HOST}:{}", self.ports.etcd_client());
        let peer = format!("http://{HOST}:{}", self.ports.etcd_peer());
        let mut etcd = self.command(Path::new("etcd"));
        etcd.args(["--name", "play", "--data-dir"]).arg(self.dir.join("etcd"));
        etcd.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        etcd.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        etcd.args(["--initial-cluster", &format!("play={peer}"), "--auto-compaction-retention", "1"]);
        self.spawn("etcd", etcd)
    }

    fn start_zookeeper(&mut self) -> Result<()> {
        let mut zookeeper = self.command(Path::new("java"));
        zookeeper.args(["-Xmx128m", "-XX:+UseSerialGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]);
        zookeeper.args(["-cp", &format!("{ZOOKEEPER_JAR}:/usr/share/java/slf4j-simple.jar")]);
        zookeeper.arg("org.apache.zookeeper.server.quorum.QuorumPeerMain").arg(self.dir.join("zoo.cfg"));
        self.spawn("zookeeper", zookeeper)
    }

    async fn wait_for_store(&mut self, name: &str) -> Result<()> {
        let give_up: Moment = clock::now() + STORE_START;
        loop {
            self.check_children()?;
            if self.store_answers().await {
                return Ok(());
            }
            if give_up < clock::now() {
                bail!("{name} did not become healthy; its log is in {}", self.dir.display());
            }
            clock::pause(POLL).await;
        }
    }

    async fn store_answers(&self) -> bool {
        match self.store {
            StoreKind::Etcd => {
                let url = format!("http://{HOST}:{}/health", self.ports.etcd_client());
                let answer = http::call(Method::GET, &url, None, ASK, ANSWER_MAX).await;
                answer.is_ok_and(|answer| answer.status == 200)
            }
            // A server that takes connections before it serves closes them again, and the members ask again.
            StoreKind::Zookeeper => {
                tokio::net::TcpStream::connect((HOST, self.ports.zookeeper())).await.is_ok()
            }
        }
    }

    /// A command that runs as the unprivileged user and ends with this process, however that ends.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.dir).stdin(Stdio::null()).process_group(0);
        if let Some(user) = &self.user {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
            command.env("HOME", &self.dir).env("USER", &user.name);
        }
        // SAFETY: prctl is a plain system call, and is made between fork and exec as it must be.
        unsafe {
            command
                .pre_exec(|| nix::sys::prctl::set_pdeathsig(Signal::SIGTERM).map_err(std::io::Error::from));
        }
        command
    }

    fn spawn(&mut self, name: &str, mut command: Command) -> Result<()> {
        let path = self.dir.join(format!("{name}.log"));
        let log = fs::File::create(&path).with_context(|| format!("write {}", path.display()))?;
        let second = log.try_clone().with_context(|| format!("write {}", path.display()))?;
        let child = command.stdout(log).stderr(second).spawn().with_context(|| format!("start {name}"))?;
        self.children.push(Named { name: name.to_owned(), child });
        Ok(())
    }

    async fn stop_those(&mut self, chosen: impl Fn(&str) -> bool) {
        let mut chosen: Vec<Named> = self.children.extract_if(.., |named| chosen(&named.name)).collect();
        for named in &chosen {
            signal(named, Signal::SIGTERM);
        }
        let give_up: Moment = clock::now() + STOP;
        while !chosen.is_empty() {
            chosen.retain_mut(|named| matches!(named.child.try_wait(), Ok(None)));
            if give_up < clock::now() {
                for named in &mut chosen {
                    eprintln!("killing {}, which did not end", named.name);
                    signal(named, Signal::SIGKILL);
                }
            }
            clock::pause(POLL).await;
        }
    }
}

fn signal(named: &Named, signal: Signal) {
    if let Ok(pid) = i32::try_from(named.child.id()) {
        // Whoever has ended meanwhile needs no signal.
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

fn row(name: &str, document: Option<&Value>) -> Row {
    let Some(document) = document else {
        let silent = || "-".to_owned();
        return Row {
            member: name.to_owned(),
            role: silent(),
            state: "silent".to_owned(),
            timeline: silent(),
            position: silent(),
            lease: silent(),
            sentence: "does not answer".to_owned(),
        };
    };
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let xlog = &document["xlog"];
    let position = xlog["location"]
        .as_u64()
        .or(xlog["received_location"].as_u64())
        .or(xlog["replayed_location"].as_u64());
    let lease = document["tenure"]["lease_left_ms"].as_u64();
    Row {
        member: name.to_owned(),
        role: text(&document["role"]),
        state: text(document.get("replication_state").unwrap_or(&document["state"])),
        timeline: text(&document["timeline"]),
        position: position.map(|lsn| crate::model::Lsn(lsn).to_string()).unwrap_or_default(),
        lease: lease.map(|ms| format!("{}.{} s", ms / 1000, ms % 1000 / 100)).unwrap_or_default(),
        sentence: text(&document["tenure"]["sentence"]),
    }
}

/// PostgreSQL refuses to run as root: somebody else must run it then.
fn unprivileged_user() -> Result<Option<User>> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    for name in ["postgres", "nobody"] {
        if let Some(user) = User::from_name(name).with_context(|| format!("look up the user {name}"))? {
            return Ok(Some(user));
        }
    }
    bail!("PostgreSQL does not run as root, and there is no user postgres or nobody to run it as")
}

fn make_dir(dir: &Path, user: Option<&User>) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("open {}", dir.display()))?;
    give(dir, user)
}

fn give(path: &Path, user: Option<&User>) -> Result<()> {
    let Some(user) = user else { return Ok(()) };
    chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
        .with_context(|| format!("give {} to {}", path.display(), user.name))
}

fn write_private(path: &Path, text: &str, user: Option<&User>) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        std::io::Write::write_all(&mut file, text.as_bytes())
    };
    write().with_context(|| format!("write {}", path.display()))?;
    give(path, user)
}

/// The data keeps its password from one start to the next.
fn password(dir: &Path) -> Result<String> {
    let path = dir.join("password");
    if let Ok(text) = fs::read_to_string(&path) {
        return Ok(text.trim().to_owned());
    }
    let mut bytes = [0u8; 12];
    let mut random = fs::File::open("/dev/urandom").context("open /dev/urandom")?;
    std::io::Read::read_exact(&mut random, &mut bytes).context("read /dev/urandom")?;
    let text: String = bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    write_private(&path, &text, None)?;
    Ok(text)
}

/// Our own programs. The user that runs them may not reach the build directory, so it gets copies.
fn own_programs(dir: &Path, copy: bool) -> Result<PathBuf> {
    let here = std::env::current_exe().context("find this program")?;
    let here = here.parent().ok_or_else(|| anyhow!("this program lies nowhere"))?;
    for program in ["tenured", "tenure-fence"] {
        if !here.join(program).exists() {
            bail!("found no {program} in {}\nhint: run `cargo build`", here.display());
        }
    }
    if !copy {
        return Ok(here.to_owned());
    }
    let target = dir.join("bin");
    make_dir(&target, None)?;
    for program in ["tenured", "tenure-fence"] {
        let to = target.join(program);
        // A running program cannot be written over, but it can be replaced.
        let _ = fs::remove_file(&to);
        fs::copy(here.join(program), &to)
            .with_context(|| format!("copy {program} to {}", target.display()))?;
    }
    Ok(target)
}

fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into()])
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}

fn first_line_pid(path: &Path) -> Option<Pid> {
    fs::read_to_string(path).ok()?.lines().next()?.trim().parse().ok().map(Pid::from_raw)
}
