//! The guardian's log: lines to standard error that never allocate and never make it wait. What cannot be written now
//! stays in a small buffer; what does not fit is counted. A kill goes to the journal with fields, where there is one.

use std::fmt::{self, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixDatagram;

use nix::libc;
use nix::sys::stat::{FileStat, SFlag, fstat};

use crate::model::{Moment, Notice, Span, Term};

use super::line::Line;

/// So many lines may be said at once, and so many more after each `REFILL`: nobody fills a disk through us.
const BURST: u32 = 40;
const REFILL: Span = Span::from_secs(1);

/// systemd's address for messages with fields.
const JOURNAL: &str = "/run/systemd/journal/socket";

#[derive(Debug)]
pub struct Log {
    waiting: Line<8192>,
    dropped: u32,
    allowed: u32,
    refilled_at: Moment,
    fd: RawFd,
    kind: Kind,
    with_priority: bool,
    journal: Option<UnixDatagram>,
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
        let stat = fstat(stderr.as_fd());
        let mode = stat.map_or(0, |stat| stat.st_mode);
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
            journal: stat.ok().filter(is_read_by_journal).and_then(|_| connect(JOURNAL)),
        }
    }

    /// An error that has a number of its own in the journal, and a term.
    pub fn tell(&mut self, notice: Notice, term: Term, now: Moment, what: fmt::Arguments<'_>) {
        self.refill(now);
        if self.allowed > 0 && self.journal.as_ref().is_some_and(|to| send(to, notice, term, what).is_ok()) {
            self.allowed -= 1;
        } else {
            self.say(Level::Error, now, what);
        }
    }

    fn refill(&mut self, now: Moment) {
        if self.refilled_at + REFILL <= now {
            self.allowed = BURST;
            self.refilled_at = now;
        }
    }

    pub fn say(&mut self, level: Level, now: Moment, what: fmt::Arguments<'_>) {
        self.refill(now);
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

/// systemd names the stream that it gave us. Whoever has redirected it since wants lines there.
fn is_read_by_journal(stderr: &FileStat) -> bool {
    std::env::var("JOURNAL_STREAM")
        .is_ok_and(|stream| stream == format!("{}:{}", stderr.st_dev, stderr.st_ino))
}

/// Connected before anything is watched, so that no path has to be looked up later.
fn connect(path: &str) -> Option<UnixDatagram> {
    let journal = UnixDatagram::unbound().ok()?;
    journal.connect(path).ok()?;
    journal.set_nonblocking(true).ok()?;
    Some(journal)
}

/// One datagram in the journal's own form, one field a line.
fn send(journal: &UnixDatagram, notice: Notice, term: Term, what: fmt::Arguments<'_>) -> fmt::Result {
    let mut fields: Line<1024> = Line::new();
    writeln!(fields, "MESSAGE={what}")?;
    writeln!(fields, "PRIORITY=3\nSYSLOG_IDENTIFIER=tenure-fence")?;
    writeln!(fields, "MESSAGE_ID={}\nTENURE_TERM={}", notice.message_id(), term.0)?;
    journal.send(fields.as_bytes()).map(|_| ()).map_err(|_| fmt::Error)
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
    #[test]
    fn a_kill_is_told_to_the_journal_with_its_number_and_to_stderr_if_the_journal_takes_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("socket");
        let journal = UnixDatagram::bind(&path).expect("bound");
        journal.set_nonblocking(true).expect("set");
        let (stderr, mut read_stderr) = UnixStream::pair().expect("a pair");
        read_stderr.set_nonblocking(true).expect("set");
        let mut log = log_to(stderr.as_raw_fd(), Kind::Socket);
        log.journal = connect(path.to_str().expect("text"));
        let told = |log: &mut Log, second: u64| {
            let now = Moment::from_ms(second * 1000);
            log.tell(Notice::GuardianKilled, Term(7), now, format_args!("killed it"));
            log.flush(false);
        };

        told(&mut log, 1);
        let mut datagram = [0; 2048];
        let length = journal.recv(&mut datagram).expect("one datagram");
        assert_eq!(
            str::from_utf8(&datagram[..length]).expect("text"),
            "MESSAGE=killed it\nPRIORITY=3\nSYSLOG_IDENTIFIER=tenure-fence\n\
             MESSAGE_ID=a042c32b87f34e978fc587588e891efe\nTENURE_TERM=7\n"
        );
        let mut text = String::new();
        let _ = read_stderr.read_to_string(&mut text);
        assert_eq!(text, "", "it is said once");

        // Nobody reads: the kernel's queue fills, and then the lines go the other way. No call waits.
        (2..2000).for_each(|second| told(&mut log, second));
        let _ = read_stderr.read_to_string(&mut text);
        assert!(text.contains("error: killed it\n"), "{text}");
    }
}
