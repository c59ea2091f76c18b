//! One watchdog device: open it, set it, feed it, stop it. Knows no deadline. Nothing here allocates.

use std::ffi::CStr;
use std::fmt::Write;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc::{self, c_int};

use super::line::Line;
use crate::model::{Span, WatchdogFailure};

/// Once opened it runs, until it is stopped.
#[derive(Debug)]
pub struct Device {
    fd: OwnedFd,
    magic_close: bool,
}

/// `struct watchdog_info` of linux/watchdog.h.
#[repr(C)]
struct Info {
    options: u32,
    firmware_version: u32,
    identity: [u8; 32],
}

const CAN_MAGIC_CLOSE: u32 = 0x100;
const DISABLE: c_int = 1;

mod ask {
    use super::Info;

    nix::ioctl_read!(support, b'W', 0, Info);
    // The header calls it a reading one; the kernel reads the value all the same.
    nix::ioctl_read!(set_options, b'W', 4, super::c_int);
    nix::ioctl_readwrite!(set_timeout, b'W', 6, super::c_int);
    nix::ioctl_read!(timeout, b'W', 7, super::c_int);
}

impl Device {
    /// Begins to count with whatever timeout it has.
    pub fn open(path: &CStr) -> Result<Device, WatchdogFailure> {
        // Not waiting: a FIFO in its place would, until somebody reads it.
        let flags = libc::O_WRONLY | libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOCTTY;
        // SAFETY: a path that ends in a zero.
        let fd = Errno::result(unsafe { libc::open(path.as_ptr(), flags) }).map_err(failure)?;
        // SAFETY: a descriptor that the kernel has just made for us.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let mut info = Info { options: 0, firmware_version: 0, identity: [0; 32] };
        // SAFETY: a structure of the size that the kernel writes.
        match unsafe { ask::support(fd.as_raw_fd(), &raw mut info) } {
            Ok(_) => Ok(Device { fd, magic_close: info.options & CAN_MAGIC_CLOSE != 0 }),
            // What answers nothing is no watchdog, and nothing was written to it.
            Err(Errno::ENOTTY | Errno::EINVAL) => Err(WatchdogFailure::Foreign),
            Err(errno) => Err(failure(errno)),
        }
    }

    /// Counts anew, from the timeout that the driver has made of it.
    pub fn set_timeout(&self, wanted: Span) -> Result<Span, WatchdogFailure> {
        let mut secs = c_int::try_from(wanted.as_ms() / 1000).unwrap_or(c_int::MAX);
        // One that cannot be set is still read, and may fit.
        // SAFETY: a number that the call reads and writes.
        let _ = unsafe { ask::set_timeout(self.fd.as_raw_fd(), &raw mut secs) };
        // SAFETY: a number that the call writes.
        unsafe { ask::timeout(self.fd.as_raw_fd(), &raw mut secs) }.map_err(failure)?;
        Ok(Span::from_secs(u64::try_from(secs).unwrap_or(0)))
    }

    pub fn feed(&self) -> Result<(), WatchdogFailure> {
        self.write(b"1").map_err(failure)
    }

    /// Stops it and closes it. One that cannot be stopped is given back: closing it would reset the machine.
    pub fn stop(self) -> Result<(), Device> {
        let mut options = DISABLE;
        // SAFETY: a number that the call reads.
        let stopped = unsafe { ask::set_options(self.fd.as_raw_fd(), &raw mut options) };
        match stopped {
            Ok(_) => {
                // It has stopped already; a driver that looks only at the letter is told, too.
                let _ = self.write(b"V");
                Ok(())
            }
            Err(Errno::EBUSY) => Err(self),
            Err(_) if self.magic_close && self.write(b"V").is_ok() => Ok(()),
            Err(_) => Err(self),
        }
    }

    fn write(&self, text: &[u8]) -> Result<(), Errno> {
        // SAFETY: a buffer with its length.
        let written = unsafe { libc::write(self.fd.as_raw_fd(), text.as_ptr().cast(), text.len()) };
        Errno::result(written).map(drop)
    }
}

/// Would the kernel refuse to stop this device, and does it not run yet? Then it is better not begun before it is needed.
/// `false` where the kernel does not tell.
pub fn sleeps_and_could_not_be_stopped(path: &CStr) -> bool {
    // SAFETY: all zeros are a valid value of this structure.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: a path that ends in a zero and a structure that the call writes.
    let found = unsafe { libc::stat(path.as_ptr(), &raw mut stat) } == 0;
    if !found || stat.st_mode & libc::S_IFMT != libc::S_IFCHR {
        return false;
    }
    let (major, minor) = (libc::major(stat.st_rdev), libc::minor(stat.st_rdev));
    let says = |attribute: &str, answer: &[u8]| {
        let mut file: Line<96> = Line::new();
        // The old name of the first device has no attributes of its own.
        let written = match (major, minor) {
            (10, 130) => write!(file, "/sys/class/watchdog/watchdog0/{attribute}\0"),
            _ => write!(file, "/sys/dev/char/{major}:{minor}/{attribute}\0"),
        };
        let path = CStr::from_bytes_until_nul(file.as_bytes()).ok().filter(|_| written.is_ok());
        path.is_some_and(|path| begins_with(path, answer))
    };
    says("nowayout", b"1") && says("state", b"inactive")
}

fn begins_with(path: &CStr, answer: &[u8]) -> bool {
    // SAFETY: a path that ends in a zero.
    let fd = unsafe { libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    if fd < 0 {
        return false;
    }
    // SAFETY: a descriptor that the kernel has just made for us.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut buffer = [0u8; 32];
    nix::unistd::read(&fd, &mut buffer).is_ok_and(|filled| buffer[..filled].starts_with(answer))
}

fn failure(errno: Errno) -> WatchdogFailure {
    match errno {
        Errno::ENOENT | Errno::ENXIO | Errno::ENODEV | Errno::ENOTDIR => WatchdogFailure::Absent,
        Errno::EBUSY => WatchdogFailure::Busy,
        Errno::EACCES | Errno::EPERM | Errno::EROFS => WatchdogFailure::Denied,
        errno => WatchdogFailure::Failing { errno: errno as i32 },
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn what_is_not_a_watchdog_is_refused_and_not_written_to() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| CString::new(dir.path().join(name).as_os_str().as_bytes()).expect("no zeros");
        std::fs::write(dir.path().join("file"), "as it was").expect("written");
        nix::unistd::mkfifo(&dir.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("made");
        let why = |name| Device::open(&path(name)).map(drop);
        assert_eq!(why("file"), Err(WatchdogFailure::Foreign));
        assert_eq!(std::fs::read_to_string(dir.path().join("file")).expect("read"), "as it was");
        assert_eq!(why("nothing"), Err(WatchdogFailure::Absent));
        assert_eq!(why("fifo"), Err(WatchdogFailure::Absent));
        assert_eq!(Device::open(c"/dev/null").map(drop), Err(WatchdogFailure::Foreign));
        assert!(!sleeps_and_could_not_be_stopped(c"/dev/null"));
    }
}
