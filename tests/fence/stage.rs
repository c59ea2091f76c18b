//! What the tests of the guardian play with: a place for one instance, stand-ins for PostgreSQL, control groups.

use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tenure::fence::{Guardian, Process, Report, Settings, State, Target};
use tenure::model::{Moment, Span};

pub const GUARDIAN: &str = env!("CARGO_BIN_EXE_tenure-fence");
pub const FAR: Span = Span::from_secs(600);
pub const SOON: Span = Span::from_ms(500);

pub fn now() -> Moment {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).expect("a clock");
    Moment::from_ms(time.tv_sec().cast_unsigned() * 1000 + time.tv_nsec().cast_unsigned() / 1_000_000)
}

/// A test waits for a condition, with a deadline.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < Duration::from_secs(30), "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What the kernel says of a process: its state and when it began.
pub fn stat(pid: i32) -> Option<(char, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(22 - 4)?.parse().ok()?))
}

pub fn lives(pid: i32) -> bool {
    stat(pid).is_some_and(|(state, _)| !"ZX".contains(state))
}

pub fn process(pid: i32) -> Process {
    Process { pid, start: stat(pid).expect("it runs").1 }
}

pub fn standing_in(directory: &Path) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").expect("processes").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == directory))
        .filter(|pid| lives(*pid))
        .collect()
}

/// A place for one instance. Whatever was started for it ends with it.
pub struct Instance {
    pub dir: TempDir,
    pub settings: Settings,
    children: Vec<Child>,
    pub started: Vec<i32>,
}

impl Instance {
    pub fn new() -> Instance {
        let dir = tempfile::tempdir().expect("a directory");
        let root = std::fs::canonicalize(dir.path()).expect("it exists");
        let data_dir = root.join("data");
        std::fs::create_dir(&data_dir).expect("made");
        let settings = Settings { socket: root.join("fence.sock"), data_dir, binary: Some(GUARDIAN.into()) };
        Instance { dir, settings, children: Vec::new(), started: Vec::new() }
    }

    pub async fn guardian(&mut self) -> Guardian {
        let guardian = Guardian::ensure(&self.settings).await.expect("a guardian");
        self.started.extend(guardian.pid());
        guardian
    }

    pub fn spawn(&mut self, command: &mut Command) -> i32 {
        let child = command.stdin(Stdio::null()).spawn().expect("started");
        let pid = i32::try_from(child.id()).expect("a pid is positive");
        self.children.push(child);
        pid
    }

    /// Like a postmaster: children with sessions of their own, a grandchild, and one that ignores what it can.
    pub async fn tree(&mut self) -> Tree {
        let list = self.dir.path().join("pids");
        let script = r#"
            say() { echo "$1" >> "$LIST"; }
            say $$
            setsid sh -c 'trap "" TERM INT HUP; echo $$ >> "$LIST"; sleep 601 & echo $! >> "$LIST"; wait' &
            setsid sleep 602 & say $!
            sleep 603 & say $!
            wait
        "#;
        let mut command = Command::new("sh");
        command.args(["-c", script]).env("LIST", &list).process_group(0);
        let postmaster = self.spawn(&mut command);
        let mut pids = Vec::new();
        until("the tree stands", async || {
            let text = std::fs::read_to_string(&list).unwrap_or_default();
            pids = text.split_whitespace().map(|pid| pid.parse().expect("a pid")).collect();
            pids.len() == 5
        })
        .await;
        self.started.extend(&pids);
        Tree { postmaster, pids }
    }

    /// A process that looks like one of PostgreSQL's and belongs to nobody that anybody knows.
    pub fn stray(&mut self, name: &str, directory: &Path) -> i32 {
        let program = self.dir.path().join(name);
        if !program.exists() {
            symlink("/bin/sleep", &program).expect("linked");
        }
        self.spawn(Command::new(program).arg("604").current_dir(directory))
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        for pid in &self.started {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub struct Tree {
    pub postmaster: i32,
    pub pids: Vec<i32>,
}

impl Tree {
    pub fn target(&self) -> Target {
        Target { postmaster: Some(process(self.postmaster)), cgroup: None }
    }

    pub fn all_live(&self) -> bool {
        self.pids.iter().all(|pid| lives(*pid))
    }

    pub fn none_lives(&self) -> bool {
        !self.pids.iter().any(|pid| lives(*pid))
    }
}

pub async fn state(guardian: &Guardian) -> State {
    guardian.status().await.expect("it answers").standing.state
}

pub async fn killed(guardian: &Guardian) -> Report {
    let mut report = None;
    until("the kill is complete", async || {
        report = guardian.status().await.expect("it answers").report;
        report.is_some_and(|report: Report| report.ended_at.is_some())
    })
    .await;
    report.expect("waited for")
}

/// The directory of a fresh control group, where this machine lets us make one that can be killed.
pub struct Cgroup(pub PathBuf);

impl Cgroup {
    pub fn make() -> Option<Cgroup> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "))?.split(' ').nth(4)?;
        let name = format!("tenure-test-{}-{}", std::process::id(), now().as_ms());
        let cgroup = Cgroup(Path::new(mount).join(name));
        std::fs::create_dir(&cgroup.0).ok()?;
        cgroup.0.join("cgroup.kill").exists().then_some(cgroup)
    }

    pub fn path(&self) -> String {
        self.0.to_str().expect("UTF-8").to_owned()
    }

    pub fn add(&self, pid: i32) {
        std::fs::write(self.0.join("cgroup.procs"), pid.to_string()).expect("moved");
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let begun = Instant::now();
        while std::fs::remove_dir(&self.0).is_err() && begun.elapsed() < Duration::from_secs(5) {
            std::thread::yield_now();
        }
    }
}
