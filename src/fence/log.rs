//! The guardian's log: lines to standard error that never allocate and never make it wait. What cannot be written now
//! stays in a small buffer; what does not fit is counted.

use std::fmt::{self, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};

use nix::libc;
use nix::sys::stat::{SFlag, fstat};

use crate::model::{Moment, Span};

use super::line::Line;

/// So many lines may be said at once, and so many more after each `REFILL`: nobody fills a disk through us.
const BURST: u32 = 40;
const REFILL: Span = Span::from_secs(1);

#[derive(Debug)]
pub struct Log {
    waiting: Line<8192>,
    dropped: u32,
    allowed: u32,
    refilled_at: Moment,
    fd: RawFd,
    kind: Kind,
    with_priority: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// As systemd gives it: can be asked not to wait.
    Socket,
    /// A pipe or a terminal: can be asked whether it would wait.
    Stream,
    /// A file may wait for its disk, and nobody can tell before.
    File,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Error,
    Warning,
    Info,
}

impl Log {
    pub fn to_stderr() -> Log {
        let stderr = std::io::stderr();
        let mode = fstat(stderr.as_fd()).map_or(0, |stat| stat.st_mode);
        let kind = match SFlag::from_bits_truncate(mode & SFlag::S_IFMT.bits()) {
            SFlag::S_IFSOCK => Kind::Socket,
            SFlag::S_IFREG => Kind::File,
            _ => Kind::Stream,
        };
        Log {
            waiting: Line::new(),
            dropped: 0,
            allowed: BURST,
            refilled_at: Moment::from_ms(0),
            fd: stderr.as_raw_fd(),
            kind,
            with_priority: std::env::var_os("JOURNAL_STREAM").is_some(),
        }
    }

    pub fn say(&mut self, level: Level, now: Moment, what: fmt::Arguments<'_>) {
        if self.refilled_at + REFILL <= now {
            self.allowed = BURST;
            self.refilled_at = now;
        }
        let mut line: Line<768> = Line::new();
        if self.allowed == 0 || compose(&mut line, self.with_priority, level, now, what).is_err() {
            self.dropped = self.dropped.saturating_add(1);
            return;
        }
        self.allowed -= 1;
        if self.waiting.room() < line.as_bytes().len() + 64 {
            self.dropped = self.dropped.saturating_add(1);
            return;
        }
        if self.dropped > 0 {
            let dropped = std::mem::take(&mut self.dropped);
            // There is room for it, see above.
            let _ = writeln!(self.waiting, "tenure-fence: {dropped} lines were not written");
        }
        let _ = self.waiting.write_str(str::from_utf8(line.as_bytes()).unwrap_or("?\n"));
    }

    /// Writes what waits, without waiting. A file is written to only where a stalled disk may hold us up.
    pub fn flush(&mut self, may_wait_for_a_disk: bool) {
        while !self.waiting.as_bytes().is_empty() {
            let text = self.waiting.as_bytes();
            let written = match self.kind {
                // SAFETY: a buffer with its length.
                Kind::Socket => unsafe {
                    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
                    libc::send(self.fd, text.as_ptr().cast(), text.len(), flags)
                },
                Kind::Stream if !would_take(self.fd) => return,
                Kind::File if !may_wait_for_a_disk => return,
                // A pipe that says that it takes something takes 4096 bytes at once.
                // SAFETY: a buffer with its length.
                Kind::Stream | Kind::File => unsafe {
                    libc::write(self.fd, text.as_ptr().cast(), text.len().min(4096))
                },
            };
            match usize::try_from(written) {
                Ok(written @ 1..) => self.waiting.consume(written),
                Ok(0) => return,
                Err(_) if nix::errno::Errno::last() == nix::errno::Errno::EAGAIN => return,
                // Nobody reads any more.
                Err(_) => self.waiting.clear(),
            }
        }
    }
}

fn compose<const N: usize>(
    line: &mut Line<N>,
    with_priority: bool,
    level: Level,
    now: Moment,
    what: fmt::Arguments<'_>,
) -> fmt::Result {
    let (priority, word) = match level {
        Level::Error => (3, "error: "),
        Level::Warning => (4, "warning: "),
        Level::Info => (6, ""),
    };
    if with_priority {
        // The journal knows the time and who speaks.
        writeln!(line, "<{priority}>{what}")
    } else {
        let (secs, ms) = (now.as_ms() / 1000, now.as_ms() % 1000);
        writeln!(line, "tenure-fence [{secs}.{ms:03}] {word}{what}")
    }
}

fn would_take(fd: RawFd) -> bool {
    let mut asked = libc::pollfd { fd, events: libc::POLLOUT, revents: 0 };
    // SAFETY: one entry, and its number.
    unsafe { libc::poll(&raw mut asked, 1, 0) == 1 }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn log_to(fd: RawFd, kind: Kind) -> Log {
        Log { fd, kind, ..Log::to_stderr() }
    }

    #[test]
    fn nobody_reading_holds_nobody_up_and_nothing_grows() {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        let mut log = log_to(ours.as_raw_fd(), Kind::Socket);
        for second in 0..60 {
            for _ in 0..50 {
                log.say(Level::Info, Moment::from_ms(second * 1000), format_args!("{:500}", "words"));
            }
            log.flush(false);
        }
        assert!(log.dropped > 0);
        theirs.set_nonblocking(true).expect("set");
        let mut read = Vec::new();
        let _ = theirs.read_to_end(&mut read);
        log.flush(false);
        log.say(Level::Error, Moment::from_ms(90_000), format_args!("heard again"));
        log.flush(false);
        let _ = theirs.read_to_end(&mut read);
        let text = String::from_utf8(read).expect("text");
        assert!(text.contains("lines were not written"));
        assert!(text.ends_with("heard again\n"));
    }

    #[test]
    fn a_file_is_left_alone_while_it_must_not_be_waited_for() {
        let mut file = tempfile::tempfile().expect("a file");
        let mut log = log_to(file.as_raw_fd(), Kind::File);
        log.say(Level::Info, Moment::from_ms(1), format_args!("later"));
        log.flush(false);
        assert_eq!(file.metadata().expect("stat").len(), 0);
        log.flush(true);
        let mut text = String::new();
        std::io::Seek::rewind(&mut file).expect("rewind");
        file.read_to_string(&mut text).expect("read");
        assert!(text.ends_with("later\n"), "{text}");
    }
}
