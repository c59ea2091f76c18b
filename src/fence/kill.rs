//! Killing all of one PostgreSQL, in rounds, until none of it is left. A round never waits; when to do the next one is
//! the caller's business.
//!
//! With a control group of its own the kernel kills all at once. Without, the postmaster is stopped first, so that it
//! starts nothing more and tells nobody anything, then everything that descends from it is killed, then itself. A
//! postmaster killed alone leaves backends behind that can still acknowledge a commit.

use std::fmt::Write;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::libc;
use nix::sys::stat::Mode;

use super::line::Line;
use super::processes::{Held, Proc, Stat};
use super::wire::{Means, PATH_MAX, Process, Target};

/// So many processes are remembered in one kill; whatever comes beyond is found anew in every round.
const MEMBERS_MAX: usize = 16 * 1024;

/// What an agent has told of its PostgreSQL, held so that the emergency needs no look-up.
#[derive(Debug, Default)]
pub struct Aim {
    postmaster: Option<Held>,
    cgroup: Option<Cgroup>,
    cgroup_path: Line<PATH_MAX>,
}

#[derive(Debug)]
struct Cgroup {
    kill: OwnedFd,
    events: OwnedFd,
    procs: OwnedFd,
}

/// Finds and kills.
#[derive(Debug)]
pub struct Killer {
    proc: Proc,
    members: Members,
    data_dir: String,
    own_pid: i32,
    /// How many processes the control group held when the kill began.
    in_cgroup: u32,
    by: Means,
    rounds: u32,
    clean_rounds: u32,
}

/// What one round has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Round {
    /// Processes that were still there.
    pub alive: u32,
    /// Nothing is left, and looking twice has confirmed it.
    pub complete: bool,
    /// How this kill was begun.
    pub by: Means,
    /// The first thing that did not work, if one did not.
    pub trouble: Option<Errno>,
}

impl Aim {
    /// Takes note of what was told. A postmaster that is gone already is not held.
    pub fn take(&mut self, target: &Target<'_>, proc: &Proc) {
        let held = self.postmaster.as_ref().map(|held| held.process);
        if held != target.postmaster || held.is_some_and(|held| !proc.is(held)) {
            self.postmaster = target.postmaster.and_then(|told| proc.hold(told));
        }
        let told = target.cgroup.unwrap_or_default();
        if told.as_bytes() != self.cgroup_path.as_bytes() || !self.cgroup_is_there() {
            self.cgroup_path.clear();
            let fits = self.cgroup_path.write_str(told).is_ok();
            self.cgroup = target.cgroup.filter(|_| fits).and_then(Cgroup::open);
        }
    }

    /// Everything that was held has been killed.
    pub fn forget_postmaster(&mut self) {
        self.postmaster = None;
    }

    pub fn postmaster(&self) -> Option<Process> {
        self.postmaster.as_ref().map(|held| held.process)
    }

    pub fn means(&self) -> Means {
        if self.cgroup.is_some() { Means::Cgroup } else { Means::Tree }
    }

    /// A control group that was removed and made again has the same path and is another one.
    fn cgroup_is_there(&self) -> bool {
        self.cgroup.as_ref().is_some_and(|cgroup| cgroup.populated().is_ok())
    }

    fn reopen_cgroup(&mut self) {
        let path = str::from_utf8(self.cgroup_path.as_bytes()).unwrap_or_default();
        self.cgroup = if path.is_empty() { None } else { Cgroup::open(path) };
    }
}

impl Cgroup {
    /// `None` where the kernel has no `cgroup.kill` (before 5.14) or we may not write to it.
    fn open(path: &str) -> Option<Cgroup> {
        let dir = open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).ok()?;
        let file = |name, flags: OFlag| {
            openat(&dir, name, flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW, Mode::empty()).ok()
        };
        Some(Cgroup {
            kill: file("cgroup.kill", OFlag::O_WRONLY)?,
            events: file("cgroup.events", OFlag::O_RDONLY)?,
            procs: file("cgroup.procs", OFlag::O_RDONLY)?,
        })
    }

    fn kill(&self) -> Result<(), Errno> {
        // SAFETY: one byte to a descriptor of ours.
        Errno::result(unsafe { libc::pwrite(self.kill.as_raw_fd(), b"1".as_ptr().cast(), 1, 0) }).map(drop)
    }

    fn populated(&self) -> Result<bool, Errno> {
        let mut buffer = [0u8; 256];
        let filled = nix::sys::uio::pread(&self.events, &mut buffer, 0)?;
        let text = buffer.get(..filled).unwrap_or_default();
        Ok(!text.split(|byte| *byte == b'\n').any(|line| line == b"populated 0"))
    }

    /// How many processes are in it, as far as one reading tells.
    fn count(&self) -> u32 {
        let mut buffer = [0u8; 8192];
        let (mut count, mut offset) = (0, 0);
        while let Ok(filled @ 1..) = nix::sys::uio::pread(&self.procs, &mut buffer, offset) {
            count += buffer.iter().take(filled).map(|byte| u32::from(*byte == b'\n')).sum::<u32>();
            offset += i64::try_from(filled).unwrap_or(i64::MAX);
            if offset > 1 << 20 {
                break;
            }
        }
        count
    }
}

impl Killer {
    pub fn new(proc: Proc, data_dir: String, own_pid: i32) -> Killer {
        Killer {
            proc,
            members: Members::new(),
            data_dir,
            own_pid,
            in_cgroup: 0,
            by: Means::Tree,
            rounds: 0,
            clean_rounds: 0,
        }
    }

    pub fn proc(&self) -> &Proc {
        &self.proc
    }

    pub fn data_dir(&self) -> &str {
        &self.data_dir
    }

    /// How many processes this kill has found until now.
    pub fn found(&self) -> u32 {
        self.members.found.max(self.in_cgroup)
    }

    /// Forget the last kill; the next round begins another.
    pub fn begin(&mut self) {
        self.members.clear();
        self.in_cgroup = 0;
        self.rounds = 0;
        self.clean_rounds = 0;
    }

    /// Is anything of PostgreSQL alive? Kills nothing.
    pub fn look(&mut self, aim: &mut Aim) -> bool {
        self.begin();
        if !aim.cgroup_is_there() {
            aim.reopen_cgroup();
        }
        self.gather(aim).is_ok_and(|alive| alive > 0)
            || aim.cgroup.as_ref().is_some_and(|cgroup| cgroup.populated() == Ok(true))
    }

    /// One round: kill whatever can be found.
    pub fn round(&mut self, aim: &mut Aim) -> Round {
        let first = self.rounds == 0;
        self.rounds = self.rounds.saturating_add(1);
        let mut trouble = None;
        let mut note = |result: Result<(), Errno>| match result {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => trouble = trouble.or(Some(errno)),
        };

        if let Some(cgroup) = aim.cgroup.as_ref().filter(|_| first) {
            self.in_cgroup = cgroup.count();
        }
        let in_cgroup = kill_cgroup(aim, &mut note);
        if first {
            self.by = if in_cgroup { Means::Cgroup } else { Means::Tree };
        }
        if let Some(postmaster) = aim.postmaster.as_ref().filter(|_| !in_cgroup) {
            note(postmaster.signal(libc::SIGSTOP));
        }
        let alive = match self.gather(aim) {
            Ok(alive) => alive,
            Err(errno) => {
                note(Err(errno));
                1
            }
        };
        let postmaster = aim.postmaster();
        for member in self.members.alive().filter(|member| Some(*member) != postmaster) {
            note(self.proc.signal(member, libc::SIGKILL));
        }
        // Not in the first round: by the second one, whatever it was starting when it was stopped has been found.
        if let Some(postmaster) = aim.postmaster.as_ref().filter(|_| in_cgroup || !first) {
            note(postmaster.signal(libc::SIGKILL));
        }

        // Memory knows of nothing: ask the disk, once, rather than believe that nothing runs.
        let asked = first && self.members.found == 0 && aim.postmaster.is_none() && self.read_pid_file();
        let populated = aim.cgroup.as_ref().is_some_and(|cgroup| cgroup.populated() == Ok(true));
        let clean = alive == 0 && !populated && !asked;
        self.clean_rounds = if clean { self.clean_rounds + 1 } else { 0 };
        // Twice: while the list was read, a process at its end may have started one at its beginning.
        Round {
            alive: alive.max(u32::from(populated)),
            complete: self.clean_rounds >= 2,
            by: self.by,
            trouble,
        }
    }

    /// Walks all processes and remembers those that belong to PostgreSQL. Returns how many of them are alive.
    fn gather(&mut self, aim: &Aim) -> Result<u32, Errno> {
        let Killer { proc, members, data_dir, own_pid, .. } = self;
        members.seen_anew();
        if let Some(postmaster) = aim.postmaster() {
            members.seed(postmaster);
        }
        let mut alive = 0;
        proc.each(|stat| {
            if stat.process.pid != *own_pid && members.admit(&stat, data_dir, proc) && !stat.ended {
                alive += 1;
            }
        })?;
        Ok(alive)
    }

    /// The only look at the disk, and only if no postmaster was ever told and none was found by where it stands.
    fn read_pid_file(&mut self) -> bool {
        let mut path: Line<{ PATH_MAX + 32 }> = Line::new();
        if write!(path, "{}/postmaster.pid", self.data_dir).is_err() {
            return false;
        }
        let Ok(path) = str::from_utf8(path.as_bytes()) else { return false };
        let Ok(file) = open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()) else { return false };
        let mut buffer = [0u8; 64];
        let Ok(filled) = nix::unistd::read(&file, &mut buffer) else { return false };
        let line = buffer.get(..filled).unwrap_or_default().split(|byte| *byte == b'\n').next();
        let pid =
            line.and_then(|line| str::from_utf8(line).ok()).and_then(|digits| digits.trim().parse().ok());
        // The file may be left over from before a crash, and its number be anybody's by now.
        let stat = pid
            .filter(|pid| *pid > 1 && *pid != self.own_pid)
            .filter(|pid| self.proc.stands_in(*pid, &self.data_dir))
            .and_then(|pid| self.proc.stat(pid));
        if let Some(stat) = stat {
            self.members.seed(stat.process);
        }
        stat.is_some()
    }
}

/// Has the kernel been told to kill the whole control group?
fn kill_cgroup(aim: &mut Aim, note: &mut impl FnMut(Result<(), Errno>)) -> bool {
    let Some(cgroup) = &aim.cgroup else { return false };
    let result = match cgroup.kill() {
        Err(Errno::ENODEV) => {
            // Removed and perhaps made again since it was told. Its path is no path on a disk.
            aim.reopen_cgroup();
            aim.cgroup.as_ref().map_or(Ok(()), Cgroup::kill)
        }
        result => result,
    };
    note(result);
    result.is_ok() && aim.cgroup.is_some()
}

/// The processes that belong to one PostgreSQL, in the order of their numbers.
#[derive(Debug)]
struct Members {
    list: Box<[Member]>,
    len: usize,
    found: u32,
}

#[derive(Clone, Copy, Debug)]
struct Member {
    process: Process,
    alive: bool,
    counted: bool,
}

impl Members {
    fn new() -> Members {
        let nobody = Member { process: Process { pid: 0, start: 0 }, alive: false, counted: false };
        Members { list: vec![nobody; MEMBERS_MAX].into_boxed_slice(), len: 0, found: 0 }
    }

    fn clear(&mut self) {
        self.len = 0;
        self.found = 0;
    }

    fn alive(&self) -> impl Iterator<Item = Process> {
        self.list[..self.len].iter().filter(|member| member.alive).map(|member| member.process)
    }

    /// The next walk will tell who is still alive.
    fn seen_anew(&mut self) {
        if self.len == self.list.len() {
            // Full: make room for who was found in vain.
            let mut kept = 0;
            for at in 0..self.len {
                if self.list[at].alive {
                    self.list[kept] = self.list[at];
                    kept += 1;
                }
            }
            self.len = kept;
        }
        self.list[..self.len].iter_mut().for_each(|member| member.alive = false);
    }

    /// Known from elsewhere; whether it is alive will be seen.
    fn seed(&mut self, process: Process) {
        if let Err(at) = self.find(process.pid) {
            self.insert(at, Member { process, alive: false, counted: false });
        }
    }

    /// Does this process belong to PostgreSQL? If it does, it is remembered, so that its own children are known by it.
    fn admit(&mut self, stat: &Stat, data_dir: &str, proc: &Proc) -> bool {
        if let Ok(at) = self.find(stat.process.pid) {
            if self.list[at].process == stat.process {
                self.see(at, stat);
                return true;
            }
            // The number is another process's by now.
            self.list.copy_within(at + 1..self.len, at);
            self.len -= 1;
        }
        // Each backend leads a session of its own: who has been left by its parent is still known by that.
        let related = [stat.parent, stat.group, stat.session].into_iter().any(|pid| self.find(pid).is_ok());
        let at_home = || stat.name.is_postgres() && proc.stands_in(stat.process.pid, data_dir);
        if !(related || at_home()) {
            return false;
        }
        if let Err(at) = self.find(stat.process.pid)
            && self.insert(at, Member { process: stat.process, alive: false, counted: false })
        {
            self.see(at, stat);
        }
        true
    }

    fn see(&mut self, at: usize, stat: &Stat) {
        let member = &mut self.list[at];
        member.alive = !stat.ended;
        if member.alive && !member.counted {
            member.counted = true;
            self.found += 1;
        }
    }

    fn find(&self, pid: i32) -> Result<usize, usize> {
        self.list[..self.len].binary_search_by_key(&pid, |member| member.process.pid)
    }

    /// `false` if there is no room.
    fn insert(&mut self, at: usize, member: Member) -> bool {
        if self.len == self.list.len() {
            return false;
        }
        self.list.copy_within(at..self.len, at + 1);
        self.list[at] = member;
        self.len += 1;
        true
    }
}
