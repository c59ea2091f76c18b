//! Reading /proc and sending signals without allocating: what runs, who belongs to whom, and a signal that reaches
//! exactly the process that was meant. What to kill is `kill`'s business.

use std::ffi::CStr;
use std::fmt::Write;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::libc;
use nix::sys::stat::Mode;

use super::line::Line;
use super::wire::Process;

/// The process file system, opened once.
#[derive(Debug)]
pub struct Proc {
    dir: OwnedFd,
}

/// One line of /proc/<pid>/stat, as far as anybody here asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    pub process: Process,
    pub name: Name,
    pub parent: i32,
    pub group: i32,
    pub session: i32,
    /// It has ended; somebody has yet to take note.
    pub ended: bool,
}

/// What the kernel calls a process: at most 15 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    bytes: [u8; 16],
    len: usize,
}

/// A process that cannot be mistaken for another: by a descriptor where the kernel has such, else by its start time.
#[derive(Debug)]
pub struct Held {
    pub process: Process,
    pidfd: Option<OwnedFd>,
}

impl Proc {
    pub fn open() -> io::Result<Proc> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let dir = nix::fcntl::open("/proc", flags, Mode::empty())?;
        Ok(Proc { dir })
    }

    /// Calls `each` with every process there is, and fails if the list cannot be read to its end.
    pub fn each(&self, mut each: impl FnMut(Stat)) -> Result<(), Errno> {
        // SAFETY: the descriptor is ours and open.
        Errno::result(unsafe { libc::lseek(self.dir.as_raw_fd(), 0, libc::SEEK_SET) })?;
        let mut entries = [0u8; 16 * 1024];
        loop {
            // SAFETY: the kernel writes at most as many bytes as the buffer has.
            let filled = Errno::result(unsafe {
                libc::syscall(libc::SYS_getdents64, self.dir.as_raw_fd(), entries.as_mut_ptr(), entries.len())
            })?;
            let Some(mut rest) = usize::try_from(filled).ok().and_then(|filled| entries.get(..filled)) else {
                return Err(Errno::EIO);
            };
            if rest.is_empty() {
                return Ok(());
            }
            while let Some((name, after)) = next_entry(rest) {
                rest = after;
                let pid = str::from_utf8(name).ok().and_then(|digits| digits.parse().ok());
                if let Some(stat) = pid.and_then(|pid| self.stat(pid)) {
                    each(stat);
                }
            }
        }
    }

    /// Takes hold of a process, unless it is gone or another has its number by now.
    pub fn hold(&self, process: Process) -> Option<Held> {
        let pidfd = pidfd_open(process.pid);
        // In this order: the descriptor is of the process that had the number a moment ago, and so is the start time.
        let held = Held { process, pidfd };
        self.is(process).then_some(held)
    }

    /// Sends a signal to this very process. `ESRCH` if it is gone.
    pub fn signal(&self, process: Process, signal: i32) -> Result<(), Errno> {
        self.hold(process).ok_or(Errno::ESRCH)?.signal(signal)
    }

    pub fn stat(&self, pid: i32) -> Option<Stat> {
        let mut buffer = [0u8; 1024];
        let filled = self.read(pid, "stat", &mut buffer)?;
        Stat::parse(filled)
    }

    /// Does this very process live, be it only as a zombie?
    pub fn is(&self, process: Process) -> bool {
        self.stat(process.pid).is_some_and(|stat| stat.process == process)
    }

    /// Is this the directory that the process stands in? Read from the link: the file system itself is not asked, it
    /// may hang.
    pub fn stands_in(&self, pid: i32, directory: &str) -> bool {
        let mut path: Line<48> = Line::new();
        if write!(path, "{pid}/cwd\0").is_err() {
            return false;
        }
        let Ok(path) = CStr::from_bytes_until_nul(path.as_bytes()) else { return false };
        let mut buffer = [0u8; 4096];
        // SAFETY: a path that ends in a NUL, and a buffer with its own length.
        let filled = unsafe {
            libc::readlinkat(
                self.dir.as_raw_fd(),
                path.as_ptr(),
                buffer.as_mut_ptr().cast::<libc::c_char>(),
                buffer.len(),
            )
        };
        usize::try_from(filled).is_ok_and(|filled| buffer.get(..filled) == Some(directory.as_bytes()))
    }

    fn read<'b>(&self, pid: i32, file: &str, buffer: &'b mut [u8]) -> Option<&'b [u8]> {
        let mut path: Line<48> = Line::new();
        write!(path, "{pid}/{file}\0").ok()?;
        let path = CStr::from_bytes_until_nul(path.as_bytes()).ok()?;
        let file = openat(&self.dir, path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).ok()?;
        let filled = nix::unistd::read(&file, buffer).ok()?;
        buffer.get(..filled)
    }
}

/// The name of the first entry of what `getdents64` filled, and the rest.
fn next_entry(entries: &[u8]) -> Option<(&[u8], &[u8])> {
    // Inode (8 bytes), offset (8), length of this record (2), type (1), then the name and a NUL.
    let length = usize::from(u16::from_ne_bytes(entries.get(16..18)?.try_into().ok()?));
    let name = entries.get(19..length)?;
    let end = name.iter().position(|byte| *byte == 0)?;
    Some((&name[..end], entries.get(length..)?))
}

impl Stat {
    /// The name stands in parentheses and may itself hold spaces and parentheses.
    pub fn parse(line: &[u8]) -> Option<Stat> {
        let open = line.iter().position(|byte| *byte == b'(')?;
        let close = line.iter().rposition(|byte| *byte == b')')?;
        let pid = str::from_utf8(line.get(..open)?).ok()?.trim_end().parse().ok()?;
        let name = Name::of(line.get(open + 1..close)?);
        let rest = str::from_utf8(line.get(close + 1..)?).ok()?;
        // From here on by the numbers of proc(5), of which the first after the name is 3.
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?;
        let mut number = |skip: usize| fields.nth(skip)?.parse::<i64>().ok();
        let (parent, group, session) = (number(0)?, number(0)?, number(0)?);
        let threads = number(20 - 7)?;
        let start = number(1)?;
        Some(Stat {
            process: Process { pid, start: start.try_into().ok()? },
            name,
            parent: parent.try_into().ok()?,
            group: group.try_into().ok()?,
            session: session.try_into().ok()?,
            // While other threads live, only the first one has ended.
            ended: matches!(state, "Z" | "X") && threads <= 1,
        })
    }
}

impl Name {
    pub fn of(name: &[u8]) -> Name {
        let len = name.len().min(16);
        let mut bytes = [0; 16];
        bytes[..len].copy_from_slice(&name[..len]);
        Name { bytes, len }
    }

    /// The names under which PostgreSQL and its relatives run.
    pub fn is_postgres(&self) -> bool {
        matches!(&self.bytes[..self.len], b"postgres" | b"postmaster" | b"edb-postgres" | b"edb-postmaster")
    }
}

impl Held {
    pub fn signal(&self, signal: i32) -> Result<(), Errno> {
        let sent = match &self.pidfd {
            // SAFETY: a descriptor of ours and no siginfo.
            Some(pidfd) => unsafe {
                libc::syscall(
                    libc::SYS_pidfd_send_signal,
                    pidfd.as_raw_fd(),
                    signal,
                    std::ptr::null::<libc::siginfo_t>(),
                    0,
                )
            },
            // SAFETY: no memory is involved.
            None => i64::from(unsafe { libc::kill(self.process.pid, signal) }),
        };
        Errno::result(sent).map(drop)
    }
}

/// `None` where the kernel is too old for it, too.
fn pidfd_open(pid: i32) -> Option<OwnedFd> {
    // SAFETY: two numbers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    // SAFETY: a descriptor that the kernel has just made for us.
    i32::try_from(fd).ok().filter(|fd| *fd >= 0).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    fn own_pid() -> i32 {
        i32::try_from(std::process::id()).expect("a pid is positive")
    }

    #[test]
    fn a_line_of_stat_is_read_whatever_the_process_calls_itself() {
        let line = b"812 (a) R (b) S 1 812 800 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 1000 55";
        let stat = Stat::parse(line).expect("a line of stat");
        assert_eq!(stat.process, Process { pid: 812, start: 4711 });
        assert_eq!((stat.parent, stat.group, stat.session, stat.ended), (1, 812, 800, false));
        assert!(!stat.name.is_postgres());
        let zombie = b"9 (postgres) Z 1 9 9 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 0 0";
        let stat = Stat::parse(zombie).expect("a line of stat");
        assert!(stat.ended && stat.name.is_postgres());
        let threaded = b"9 (postgres) Z 1 9 9 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 2 0 4711 0 0";
        assert!(!Stat::parse(threaded).expect("a line of stat").ended);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_readers_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = Stat::parse(&bytes);
            let _ = next_entry(&bytes);
        }
    }

    #[test]
    fn the_list_of_processes_holds_ourselves() {
        let mut seen = None;
        let proc = Proc::open().expect("/proc");
        proc.each(|stat| seen = if stat.process.pid == own_pid() { Some(stat) } else { seen }).expect("read");
        let stat = seen.expect("ourselves");
        assert!(proc.is(stat.process));
        let here = std::env::current_dir().expect("a directory");
        assert!(proc.stands_in(own_pid(), here.to_str().expect("UTF-8")));
        assert!(!proc.stands_in(own_pid(), "/proc"));
    }

    #[test]
    fn a_number_that_was_given_to_another_process_is_not_signalled() {
        let proc = Proc::open().expect("/proc");
        let mut child = Command::new("sleep").arg("600").spawn().expect("sleep");
        let pid = i32::try_from(child.id()).expect("a pid is positive");
        let now = proc.stat(pid).expect("it runs").process;
        let before = Process { pid, start: now.start - 1 };
        assert!(proc.hold(before).is_none());
        assert_eq!(proc.signal(before, libc::SIGKILL), Err(Errno::ESRCH));
        assert!(child.try_wait().expect("wait").is_none());
        assert_eq!(proc.signal(now, libc::SIGKILL), Ok(()));
        child.wait().expect("wait");
        assert_eq!(proc.signal(now, libc::SIGKILL), Err(Errno::ESRCH));
    }
}
