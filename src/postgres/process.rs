//! Which processes belong to an instance, and when they end. Signals are sent by `stop`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::unix::AsyncFd;
use tokio::io::{Interest, Ready};
use tokio::time::sleep;

use crate::model::Span;

/// How soon an end is noticed that the kernel does not tell.
const ASK_AGAIN: Span = Span::from_ms(20);

/// A process that cannot be mistaken for another one that gets its number later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Postmaster {
    pub pid: i32,
    /// Ticks of the boot clock.
    start_ticks: u64,
}

/// `postmaster.pid`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PidFile {
    pub pid: i32,
    /// A single-user server, which serves nobody else.
    pub standalone: bool,
    pub started_at: i64,
    pub status: PidFileStatus,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PidFileStatus {
    Starting,
    Stopping,
    /// Accepts connections.
    Ready,
    /// Up as a standby that lets nobody in.
    Standby,
    Unknown,
}

/// The postmaster of a data directory, if it lives. A zombie does not.
pub fn running_postmaster(data_dir: &Path) -> Option<(Postmaster, PidFile)> {
    let file = parse_pid_file(&fs::read_to_string(data_dir.join("postmaster.pid")).ok()?)?;
    let stat = read_stat(file.pid)?;
    if stat.ended() || Pid::this().as_raw() == file.pid {
        return None;
    }
    let ours = match works_in(file.pid) {
        Some(directory) => is_server(file.pid) && same_place(&directory, data_dir),
        // Somebody else's process is not for us to look into; then only its age tells.
        None => stat.started_near(file.started_at),
    };
    ours.then_some((Postmaster { pid: file.pid, start_ticks: stat.start_ticks }, file))
}

/// Reads `postmaster.pid`; none while it is only half written.
pub fn parse_pid_file(text: &str) -> Option<PidFile> {
    let mut lines = text.lines();
    let pid: i32 = lines.next()?.trim().parse().ok()?;
    let started_at = lines.nth(1)?.trim().parse().ok()?;
    let status = match lines.nth(4).map(str::trim) {
        // PostgreSQL writes the line last of all when it starts.
        Some("starting") | None => PidFileStatus::Starting,
        Some("stopping") => PidFileStatus::Stopping,
        Some("ready") => PidFileStatus::Ready,
        Some("standby") => PidFileStatus::Standby,
        Some(_) => PidFileStatus::Unknown,
    };
    (pid != 0).then(|| PidFile { pid: pid.saturating_abs(), standalone: pid < 0, started_at, status })
}

/// Everything that runs on a data directory: the postmaster's descendants, and servers that its death has orphaned.
/// The postmaster itself is among them.
pub(super) fn family_of(data_dir: &Path) -> BTreeSet<Postmaster> {
    let all = all_processes();
    let mut family = servers_in(data_dir, &all);
    family.extend(running_postmaster(data_dir).map(|(postmaster, _)| postmaster.pid));
    with_descendants(family, &all)
}

/// What runs on a data directory that has no postmaster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Servers that a dead postmaster has left behind, and whatever they have started.
    pub orphans: BTreeSet<Postmaster>,
    /// Servers that have not taken the name of a child of a postmaster: one that is about to become a postmaster itself, or to
    /// serve a single user, does not stand in `postmaster.pid` at first.
    pub emerging: BTreeSet<Postmaster>,
}

pub(super) fn left_behind(data_dir: &Path) -> Leftovers {
    let all = all_processes();
    let (orphans, emerging): (BTreeSet<i32>, BTreeSet<i32>) =
        servers_in(data_dir, &all).into_iter().partition(|pid| is_child_by_name(*pid));
    let (orphans, emerging) = (with_descendants(orphans, &all), with_descendants(emerging, &all));
    match running_postmaster(data_dir) {
        // It has emerged meanwhile, and all of them may be its children.
        Some(_) => Leftovers { orphans: BTreeSet::new(), emerging: &orphans | &emerging },
        None => Leftovers { orphans, emerging },
    }
}

fn servers_in(data_dir: &Path, all: &BTreeMap<i32, Stat>) -> BTreeSet<i32> {
    let works_there = |pid: i32| works_in(pid).is_some_and(|directory| same_place(&directory, data_dir));
    let alive = all.iter().filter(|(_, stat)| !stat.ended()).map(|(pid, _)| *pid);
    alive.filter(|pid| works_there(*pid) && is_server(*pid)).collect()
}

/// Shells of archive_command and the like work where they want; parentage finds them.
fn with_descendants(mut family: BTreeSet<i32>, all: &BTreeMap<i32, Stat>) -> BTreeSet<Postmaster> {
    loop {
        let children: Vec<i32> = (all.iter())
            .filter(|(pid, stat)| family.contains(&stat.parent) && !family.contains(pid) && !stat.ended())
            .map(|(pid, _)| *pid)
            .collect();
        if children.is_empty() {
            break;
        }
        family.extend(children);
    }
    family
        .iter()
        .map(|pid| Postmaster { pid: *pid, start_ticks: all.get(pid).map_or(0, |stat| stat.start_ticks) })
        .collect()
}

/// Whoever descends from a process now. Those whose parents have died are nobody's any more.
pub(super) fn descendants_of(pid: i32) -> Vec<Postmaster> {
    let family = with_descendants(BTreeSet::from([pid]), &all_processes());
    family.into_iter().filter(|one| one.pid != pid).collect()
}

impl Postmaster {
    pub fn lives(&self) -> bool {
        read_stat(self.pid).is_some_and(|stat| !stat.ended() && stat.start_ticks == self.start_ticks)
    }

    /// Ticks of the boot clock: with the pid, they name one process only.
    pub fn start_ticks(&self) -> u64 {
        self.start_ticks
    }

    /// Since when, in milliseconds of the boot clock.
    pub fn started_at_ms(&self) -> u64 {
        self.start_ticks.saturating_mul(1000) / ticks_per_second()
    }

    /// Not an error if it has gone.
    pub(super) fn signal(&self, signal: Signal) -> nix::Result<()> {
        if !self.lives() {
            return Ok(());
        }
        match kill(Pid::from_raw(self.pid), signal) {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Tells the end of a process that need not be our child.
#[derive(Debug)]
pub enum ExitWatch {
    /// It had gone already.
    Gone,
    /// The kernel tells.
    Told(AsyncFd<OwnedFd>),
    /// A kernel that has no descriptors of processes (before 5.3) is asked again and again.
    Asked(Postmaster),
}

/// As a drill wants it: it dies without a word, and its children are for the agent to find. Not an error if it has gone.
pub fn kill_postmaster(postmaster: Postmaster) -> nix::Result<()> {
    postmaster.signal(Signal::SIGKILL)
}

pub fn watch_exit(postmaster: Postmaster) -> io::Result<ExitWatch> {
    let descriptor = match open_pidfd(postmaster.pid) {
        Ok(descriptor) => descriptor,
        Err(error) => {
            return match error.raw_os_error() {
                Some(libc::ESRCH) => Ok(ExitWatch::Gone),
                // The second is how a container's filter denies a call that it does not know.
                Some(libc::ENOSYS | libc::EPERM) => Ok(ExitWatch::Asked(postmaster)),
                _ => Err(error),
            };
        }
    };
    // Only now is it certain whom the descriptor is of.
    if !postmaster.lives() {
        return Ok(ExitWatch::Gone);
    }
    // SAFETY: an OwnedFd is open and the same descriptor for as long as it lives, and the AsyncFd owns it.
    let descriptor = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?;
    Ok(ExitWatch::Told(descriptor))
}

impl ExitWatch {
    /// Returns when the process has ended. May be asked again.
    pub async fn ended(&self) {
        match self {
            ExitWatch::Gone => {}
            ExitWatch::Told(descriptor) => until_told(descriptor).await,
            ExitWatch::Asked(postmaster) => {
                while postmaster.lives() {
                    sleep(ASK_AGAIN.as_duration()).await;
                }
            }
        }
    }
}

async fn until_told(descriptor: &AsyncFd<OwnedFd>) {
    loop {
        match descriptor.ready(Interest::READABLE).await {
            Ok(mut guard) if guard.ready().is_readable() => {
                if readable(descriptor.get_ref()) {
                    return;
                }
                guard.clear_ready_matching(Ready::READABLE);
            }
            Ok(_) => {}
            // The runtime shuts down; nobody is left to be told.
            Err(_) => return,
        }
    }
}

fn readable(descriptor: &OwnedFd) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;
    let mut asked = [PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)];
    poll(&mut asked, PollTimeout::ZERO).is_ok_and(|ready| ready == 1)
}

fn open_pidfd(pid: i32) -> io::Result<OwnedFd> {
    // No flags: the only one of use to somebody came with Linux 5.10, and older kernels refuse what they do not know.
    // SAFETY: pidfd_open takes two integers and touches no memory of ours.
    let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let descriptor = i32::try_from(descriptor).map_err(io::Error::other)?;
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Gone, or a zombie.
#[cfg(test)]
pub(super) fn has_ended(pid: i32) -> bool {
    read_stat(pid).is_none_or(Stat::ended)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    state: char,
    parent: i32,
    start_ticks: u64,
}

impl Stat {
    fn ended(self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x')
    }

    /// Did it start within three seconds of this second since 1970?
    fn started_near(self, seconds: i64) -> bool {
        let boot = fs::read_to_string("/proc/stat").ok().and_then(|text| {
            text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse::<i64>().ok()
        });
        let after_boot = i64::try_from(self.start_ticks / ticks_per_second()).unwrap_or(i64::MAX);
        boot.is_some_and(|boot| boot.saturating_add(after_boot).abs_diff(seconds) <= 3)
    }
}

fn read_stat(pid: i32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name may contain anything, spaces and brackets too: what follows its last bracket is regular.
fn parse_stat(text: &str) -> Option<Stat> {
    let mut fields = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    Some(Stat { state, parent, start_ticks: fields.nth(17)?.parse().ok()? })
}

fn all_processes() -> BTreeMap<i32, Stat> {
    let Ok(entries) = fs::read_dir("/proc") else { return BTreeMap::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| Some((pid, read_stat(pid)?))).collect()
}

/// A postmaster and its children work in their data directory, whatever the clock did since they started.
fn works_in(pid: i32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/cwd")).ok()
}

/// A data directory that was removed under a running server still counts as that server's.
fn same_place(directory: &Path, data_dir: &Path) -> bool {
    let remembered = directory.to_string_lossy();
    let remembered = Path::new(remembered.trim_end_matches(" (deleted)"));
    remembered == data_dir || fs::canonicalize(data_dir).is_ok_and(|data_dir| remembered == data_dir)
}

/// An upgrade of the package leaves ` (deleted)` behind the name of the program that still runs.
fn is_server(pid: i32) -> bool {
    let program = match program_of(pid) {
        Ok(program) => program,
        // It still holds its sockets.
        Err(error) => return is_on_its_way_out(&error),
    };
    let name = program.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| {
        ["postgres", "postmaster", "edb-postgres"].contains(&name.trim_end_matches(" (deleted)"))
    })
}

/// Children of a postmaster call themselves `postgres: …` before they serve anybody. Whoever is on its way out has no name any more;
/// whoever has only just become a PostgreSQL has none yet, but a program.
fn is_child_by_name(pid: i32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|name| {
        name.starts_with(b"postgres: ")
            || name.is_empty() && program_of(pid).is_err_and(|error| is_on_its_way_out(&error))
    })
}

fn program_of(pid: i32) -> io::Result<PathBuf> {
    fs::read_link(format!("/proc/{pid}/exe"))
}

/// A process that ends gives up its memory first, and its program with it.
fn is_on_its_way_out(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

fn ticks_per_second() -> u64 {
    use nix::unistd::{SysconfVar, sysconf};
    sysconf(SysconfVar::CLK_TCK)
        .ok()
        .flatten()
        .and_then(|ticks| u64::try_from(ticks).ok())
        .unwrap_or(100)
        .max(1)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_pid_file_is_read_at_every_stage_of_a_start() {
        let text = "4711\n/data\n1770000000\n5432\n/tmp\n127.0.0.1\n  123 456\nready   \n";
        let file = parse_pid_file(text).expect("a whole file");
        assert_eq!((file.pid, file.standalone, file.status), (4711, false, PidFileStatus::Ready));
        let early = parse_pid_file("-4711\n/data\n1770000000\n").expect("enough of a file");
        assert_eq!((early.pid, early.standalone, early.status), (4711, true, PidFileStatus::Starting));
        assert_eq!(parse_pid_file("4711\n/da"), None);
        assert_eq!(parse_pid_file(""), None);
        assert_eq!(parse_pid_file("0\n/data\n1\n"), None);
    }

    #[test]
    fn a_process_with_a_confusing_name_is_understood() {
        let rest = "S 7 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 1 0 987 0";
        let stat = parse_stat(&format!("12 (a) b (c) {rest}")).expect("regular");
        assert_eq!(stat, Stat { state: 'S', parent: 7, start_ticks: 987 });
    }

    #[test]
    fn a_zombie_does_not_live() {
        let mut child = Command::new("/bin/true").spawn().expect("a child");
        let pid = i32::try_from(child.id()).expect("a pid");
        while !has_ended(pid) {
            std::thread::yield_now();
        }
        assert!(read_stat(pid).is_some(), "not reaped yet");
        assert!(!Postmaster { pid, start_ticks: 0 }.lives());
        child.wait().expect("reaped");
    }

    #[test]
    fn a_server_that_is_about_to_become_a_postmaster_is_no_orphan() {
        let directory = tempfile::tempdir().expect("a directory");
        let data_dir = directory.path().canonicalize().expect("a path");
        let program = data_dir.join("postgres");
        fs::copy("/bin/sleep", &program).expect("a program of that name");
        let server = |name: &str| {
            let mut command = Command::new(&program);
            command.arg0(name).arg("600").current_dir(&data_dir).spawn().expect("a child")
        };
        let pids = |those: &BTreeSet<Postmaster>| those.iter().map(|one| one.pid).collect::<Vec<_>>();
        let own = |child: &std::process::Child| i32::try_from(child.id()).expect("a pid");
        let mut children = [server("postgres: walwriter"), server("/usr/lib/postgresql/15/bin/postgres")];
        // The kernel lets us go on as soon as a child has its program; its name comes a moment later.
        for child in &children {
            let name = format!("/proc/{}/cmdline", own(child));
            while fs::read(&name).expect("alive").is_empty() {
                std::thread::yield_now();
            }
        }
        let left = left_behind(&data_dir);
        assert_eq!(
            (pids(&left.orphans), pids(&left.emerging)),
            (vec![own(&children[0])], vec![own(&children[1])])
        );
        for child in &mut children {
            child.kill().expect("killed");
            child.wait().expect("reaped");
        }
        assert_eq!(left_behind(&data_dir), Leftovers::default());
    }

    #[test]
    fn a_server_that_has_no_name_yet_is_no_orphan() {
        let directory = tempfile::tempdir().expect("a directory");
        let program = directory.path().join("postgres");
        fs::copy("/bin/sleep", &program).expect("a program of that name");
        for _ in 0..200 {
            let mut child = Command::new(&program).arg("600").spawn().expect("a child");
            let pid = i32::try_from(child.id()).expect("a pid");
            let name = format!("/proc/{pid}/cmdline");
            let mut taken_for_a_child = false;
            while fs::read(&name).expect("alive").is_empty() {
                taken_for_a_child |= is_child_by_name(pid);
            }
            child.kill().expect("killed");
            child.wait().expect("reaped");
            assert!(!taken_for_a_child);
        }
    }

    #[tokio::test]
    async fn the_end_of_a_process_is_told_by_any_kernel() {
        for kernel_tells in [true, false] {
            let mut child = Command::new("/bin/sleep").arg("600").spawn().expect("a child");
            let pid = i32::try_from(child.id()).expect("a pid");
            let postmaster = Postmaster { pid, start_ticks: read_stat(pid).expect("alive").start_ticks };
            let watch = if kernel_tells {
                watch_exit(postmaster).expect("a pidfd")
            } else {
                ExitWatch::Asked(postmaster)
            };
            assert_eq!(matches!(watch, ExitWatch::Told(_)), kernel_tells);
            assert!(postmaster.lives());
            let ended = watch.ended();
            tokio::pin!(ended);
            assert!(futures_util::FutureExt::now_or_never(&mut ended).is_none());
            child.kill().expect("killed");
            ended.await;
            assert!(!postmaster.lives());
            child.wait().expect("reaped");
            watch_exit(postmaster).expect("nobody there").ended().await;
        }
    }
}
