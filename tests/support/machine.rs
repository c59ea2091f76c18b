//! A machine with a systemd of its own as process 1: `systemd-nspawn` on a private copy of the image, in a network namespace
//! and a control group of its own. It has power, which can go; it can be frozen; it reboots when it wants to, and whoever
//! resets it boots it again.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;

use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::cgroup::Group;
use super::netns::Namespace;
use super::wait_blocking;

/// systemd-nspawn's way to say that process 1 wants a reboot.
const EXIT_REBOOT: i32 = 133;
/// Seconds that a command inside may take.
const COMMAND_SECONDS: &str = "60";

pub struct Machine {
    pub name: String,
    pub address: String,
    pub network: Namespace,
    /// Its files, as it sees them.
    pub root: PathBuf,
    dir: PathBuf,
    binds: Vec<String>,
    power: Arc<Power>,
    supervisor: Option<JoinHandle<()>>,
}

/// What a reset needs, also from another thread.
pub struct Power {
    pub group: Group,
    /// Boot again after the kill.
    again: AtomicBool,
    boots: AtomicU32,
}

impl Power {
    /// What a watchdog device does.
    pub fn reset(&self) {
        self.again.store(true, Ordering::SeqCst);
        self.group.kill();
    }

    pub fn boots(&self) -> u32 {
        self.boots.load(Ordering::SeqCst)
    }
}

impl Machine {
    /// A machine that is off. `layers` are what its disk begins with, the uppermost first.
    pub fn new(
        group: &str,
        dir: &Path,
        layers: &[PathBuf],
        network: Namespace,
        name: &str,
        address: &str,
    ) -> Machine {
        let [root, upper, work] = ["root", "upper", "work"].map(|part| dir.join(part));
        for part in [&root, &upper, &work] {
            fs::create_dir_all(part).expect("our own directory");
        }
        let lower: Vec<String> = layers.iter().map(|layer| layer.display().to_string()).collect();
        let options =
            format!("lowerdir={},upperdir={},workdir={}", lower.join(":"), upper.display(), work.display());
        mount("overlay", &root, "overlay", &options);
        fs::write(root.join("etc/hostname"), format!("{name}\n")).expect("our own disk");
        // An identity from the start, or systemd would take this for a first boot and enable everything.
        let id = name.bytes().fold(0u128, |id, byte| id << 8 | u128::from(byte));
        fs::write(root.join("etc/machine-id"), format!("{id:032x}\n")).expect("our own disk");
        let power =
            Power { group: Group::make(group), again: AtomicBool::new(false), boots: AtomicU32::new(0) };
        Machine {
            name: name.to_owned(),
            address: address.to_owned(),
            network,
            root,
            dir: dir.to_owned(),
            binds: Vec::new(),
            power: Arc::new(power),
            supervisor: None,
        }
    }

    /// A file of the host that stands in the machine's place from the next boot.
    pub fn bind(&mut self, outside: &Path, inside: &str) {
        self.binds.push(format!("--bind={}:{inside}", outside.display()));
    }

    pub fn power(&self) -> Arc<Power> {
        self.power.clone()
    }

    pub fn is_on(&self) -> bool {
        self.power.group.populated()
    }

    pub fn power_on(&mut self) {
        self.join();
        let (arguments, power) = (self.arguments(), self.power.clone());
        let console = self.dir.join("console.log");
        power.again.store(false, Ordering::SeqCst);
        let before = power.boots();
        let name = format!("power of {}", self.name);
        let supervisor =
            std::thread::Builder::new().name(name).spawn(move || supervise(&arguments, &power, &console));
        self.supervisor = Some(supervisor.expect("a thread"));
        wait_blocking("the power to be on", || (before < self.power.boots() && self.is_on()).then_some(()));
    }

    /// The power goes: nobody here gets another instruction.
    pub fn power_off(&mut self) {
        self.power.again.store(false, Ordering::SeqCst);
        self.power.group.kill();
        self.join();
    }

    pub fn freeze(&self) {
        self.power.group.freeze();
    }

    pub fn thaw(&self) {
        self.power.group.thaw();
    }

    /// Waits until the machine has switched itself off.
    pub fn until_off(&mut self) {
        wait_blocking("the machine to switch itself off", || {
            self.supervisor.as_ref().is_none_or(JoinHandle::is_finished).then_some(())
        });
        self.join();
    }

    /// Waits until systemd has started everything.
    pub fn until_booted(&self) {
        wait_blocking("a machine that has booted", || {
            let state = self.run("systemctl is-system-running");
            match String::from_utf8_lossy(&state.stdout).trim() {
                "running" => Some(()),
                "degraded" => {
                    panic!(
                        "{} booted with failures:\n{}",
                        self.name,
                        self.ask("systemctl --failed --no-legend")
                    )
                }
                _ => None,
            }
        });
    }

    /// Runs a shell's line inside, in bounded time. Without a process 1 to run beside, it fails.
    pub fn run(&self, line: &str) -> Output {
        let leader = self.leader().unwrap_or_default().to_string();
        let output = Command::new("timeout")
            .args(["--kill-after=5", COMMAND_SECONDS, "nsenter", "--target", &leader, "--all", "--"])
            .args([
                "/usr/bin/env",
                "-i",
                "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
                "SYSTEMD_PAGER=",
                "LC_ALL=C.UTF-8",
            ])
            .args(["/bin/sh", "-c", line])
            .current_dir("/")
            .stdin(Stdio::null())
            .output();
        output.expect("timeout and nsenter are installed")
    }

    /// What a shell's line inside prints; it must succeed.
    pub fn ask(&self, line: &str) -> String {
        let output = self.run(line);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{}: {line}: {}\n{out}{err}", self.name, output.status);
        out.into_owned()
    }

    /// Sends a signal to a process, given by its number on the host.
    pub fn signal(pid: Pid, signal: Signal) {
        kill(pid, signal).expect("the process runs");
    }

    /// The main process of a unit, by its number on the host.
    pub fn main_process(&self, unit: &str) -> Option<Pid> {
        let inside: u32 = self.property(unit, "MainPID").parse().ok().filter(|&pid| pid != 0)?;
        self.on_host(inside)
    }

    pub fn property(&self, unit: &str, property: &str) -> String {
        self.ask(&format!("systemctl show --value --property={property} {unit}")).trim().to_owned()
    }

    /// The number on the host of a process that has the given one inside.
    pub fn on_host(&self, inside: u32) -> Option<Pid> {
        let is_meant = |pid: &i32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
            numbers.split_whitespace().next_back().is_some_and(|last| last.parse() == Ok(inside))
        };
        self.pids().into_iter().find(is_meant).map(Pid::from_raw)
    }

    /// Everybody in the machine's control groups, but for systemd-nspawn itself.
    fn pids(&self) -> Vec<i32> {
        let mut found = Vec::new();
        let mut directories = vec![self.power.group.path().join("payload")];
        while let Some(directory) = directories.pop() {
            let listed = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
            found.extend(listed.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
            let below = fs::read_dir(&directory).into_iter().flatten().flatten().map(|entry| entry.path());
            directories.extend(below.filter(|path| path.is_dir()));
        }
        found
    }

    /// Process 1, by its number on the host.
    fn leader(&self) -> Option<i32> {
        let scope = self.power.group.path().join("payload/init.scope/cgroup.procs");
        fs::read_to_string(scope).ok()?.split_whitespace().next()?.parse().ok()
    }

    /// The lines of the machine's journals, of all boots, also when it is off.
    pub fn journal(&self, arguments: &[&str]) -> String {
        let directory = self.root.join("var/log/journal");
        let mut command = Command::new("journalctl");
        command.args(["--quiet", "--no-pager", "--directory"]).arg(directory).args(arguments);
        let output = command.output().expect("journalctl is installed");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub fn console(&self) -> String {
        fs::read_to_string(self.dir.join("console.log")).unwrap_or_default()
    }

    fn arguments(&self) -> Vec<String> {
        let root = self.root.display();
        let mut arguments = vec![
            "--quiet".to_owned(),
            format!("--directory={root}"),
            format!("--machine={}", self.name),
            "--boot".to_owned(),
            // There may be no machined, and no systemd, on the host.
            "--register=no".to_owned(),
            "--keep-unit".to_owned(),
            format!("--network-namespace-path=/run/netns/{}", self.network.name),
            // What a machine has and a container has not: a guardian locks its memory, a unit may filter addresses.
            "--capability=CAP_NET_ADMIN,CAP_IPC_LOCK,CAP_BPF".to_owned(),
            "--system-call-filter=bpf".to_owned(),
            "--resolv-conf=off".to_owned(),
            "--timezone=off".to_owned(),
            "--link-journal=no".to_owned(),
        ];
        arguments.extend(self.binds.iter().cloned());
        arguments
    }

    fn join(&mut self) {
        if let Some(supervisor) = self.supervisor.take() {
            let outcome = supervisor.join();
            assert!(outcome.is_ok() || std::thread::panicking(), "the power of {} failed", self.name);
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.power_off();
        self.power.group.remove();
    }
}

/// One boot after the other, until the machine is switched off.
fn supervise(arguments: &[String], power: &Power, console: &Path) {
    loop {
        // Killed, but perhaps not gone: whoever still closes a device must not meet its next life.
        wait_blocking("the machine's last life to end", || (!power.group.populated()).then_some(()));
        power.group.clear();
        let log = fs::File::options().append(true).create(true).open(console).expect("our own log");
        let mut nspawn = spawn(arguments, &power.group, log);
        power.boots.fetch_add(1, Ordering::SeqCst);
        let status = nspawn.wait().expect("our own child");
        let again = power.again.swap(false, Ordering::SeqCst);
        if !again && status.code() != Some(EXIT_REBOOT) {
            return;
        }
    }
}

fn spawn(arguments: &[String], group: &Group, log: fs::File) -> std::process::Child {
    let doors = group.doors();
    let doors_raw: Vec<i32> = doors.iter().map(AsRawFd::as_raw_fd).collect();
    // In a process namespace of its own, whose end is the end of everybody in it: a test that is killed leaves nothing.
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--", "systemd-nspawn"]);
    command.args(arguments).env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1");
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("a second handle")).stderr(log);
    // SAFETY: system calls on descriptors that were opened before; nothing allocates.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            for &door in &doors_raw {
                if libc::write(door, b"0".as_ptr().cast(), 1) != 1 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    let child = command.spawn().expect("unshare is installed");
    drop(doors);
    child
}

pub fn mount(source: &str, target: &Path, kind: &str, options: &str) {
    let output = Command::new("mount").args(["-t", kind, "-o", options, source]).arg(target).output();
    let output = output.expect("mount is installed");
    let what = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "mount {kind} on {}: {what}", target.display());
}
