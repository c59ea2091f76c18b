//! A watchdog device without hardware: one file over FUSE that answers the watchdog's ioctls, takes the magic close, lets in
//! one at a time, and calls back when nobody has fed it. Its clock runs on whatever happens to those who should feed it.
//!
//! Needs root and /dev/fuse; `available` tells. The file can be bind-mounted into another root. The kernel's own device is a
//! character device, this is a regular file; nothing else differs for who opens, writes, asks and closes.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::libc;
use tenure::clock;
use tenure::model::{Moment, Span};

/// How this device differs from a well-behaved one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manners {
    /// Once begun it cannot be stopped.
    pub no_way_out: bool,
    /// Closing it stops it, whatever was written before.
    pub no_magic_close: bool,
    /// Somebody else holds it.
    pub busy: bool,
    /// No timeout shorter than this can be set.
    pub timeout_min_s: u32,
    /// Writes get no answer, as from a management controller that is being restarted.
    pub hangs: bool,
    /// Writes fail.
    pub fails: bool,
    /// Whatever it is, it is no watchdog: no ioctl is answered.
    pub foreign: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happening {
    Opened,
    TimeoutSet(u32),
    Fed,
    /// By an ioctl or the magic close.
    Stopped,
    /// It was closed, and runs on.
    ClosedRunning,
    Expired,
}

#[derive(Debug)]
pub struct WatchdogDevice {
    pub path: PathBuf,
    state: Arc<Mutex<State>>,
    server: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct State {
    manners: Manners,
    timeout_s: u32,
    /// When it fires; none while it does not run.
    fires_at: Option<Moment>,
    open: bool,
    magic: bool,
    log: Vec<(Moment, Happening)>,
    ended: bool,
}

/// The kernel's usual default. Long, so that who forgets to set it is found out.
const TIMEOUT_AT_FIRST_S: u32 = 60;
const POLL: Span = Span::from_ms(20);
/// What is remembered of one device.
const LOG_MAX: usize = 10_000;

impl WatchdogDevice {
    pub fn available() -> bool {
        nix::unistd::geteuid().is_root() && Path::new("/dev/fuse").exists()
    }

    /// Serves the device at `path`, which is made, until it is dropped. `on_expiry` runs on a thread of its own, so that
    /// whoever dies by it can still close the file.
    pub fn serve(
        path: &Path,
        manners: Manners,
        on_expiry: impl Fn() + Send + Sync + 'static,
    ) -> WatchdogDevice {
        File::create(path).expect("a place of our own");
        let fuse = File::options().read(true).write(true).open("/dev/fuse").expect("FUSE");
        let options = format!("fd={},rootmode=100000,user_id=0,group_id=0,allow_other", fuse.as_raw_fd());
        let text = |bytes: &[u8]| CString::new(bytes).expect("no zeros");
        let (place, options) = (text(path.as_os_str().as_bytes()), text(options.as_bytes()));
        let (name, kind) = (text(b"tenure-watchdog"), text(b"fuse"));
        // SAFETY: texts that end in a zero and live longer than the call.
        let mounted =
            unsafe { libc::mount(name.as_ptr(), place.as_ptr(), kind.as_ptr(), 0, options.as_ptr().cast()) };
        assert!(mounted == 0, "mount {}: {}", path.display(), Errno::last());
        let state = Arc::new(Mutex::new(State {
            manners,
            timeout_s: TIMEOUT_AT_FIRST_S,
            fires_at: None,
            open: false,
            magic: false,
            log: Vec::new(),
            ended: false,
        }));
        let shared = Arc::clone(&state);
        let server = std::thread::Builder::new().name("watchdog-device".to_owned());
        let server = server.spawn(move || Server::new(fuse.into(), shared, Arc::new(on_expiry)).serve());
        WatchdogDevice { path: path.to_owned(), state, server: Some(server.expect("a thread")) }
    }

    /// Everything that has happened, oldest first.
    pub fn log(&self) -> Vec<(Moment, Happening)> {
        self.state().log.clone()
    }

    pub fn count(&self, what: Happening) -> usize {
        self.state().log.iter().filter(|(_, happened)| *happened == what).count()
    }

    pub fn at(&self, what: Happening) -> Option<Moment> {
        self.state().log.iter().rev().find(|(_, happened)| *happened == what).map(|(at, _)| *at)
    }

    pub fn runs(&self) -> bool {
        self.state().fires_at.is_some()
    }

    /// When it will fire if nobody feeds it.
    pub fn fires_at(&self) -> Option<Moment> {
        self.state().fires_at
    }

    pub fn is_open(&self) -> bool {
        self.state().open
    }

    pub fn behave(&self, manners: Manners) {
        self.state().manners = manners;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding it")
    }
}

impl Drop for WatchdogDevice {
    fn drop(&mut self) {
        self.state().ended = true;
        let place = CString::new(self.path.as_os_str().as_bytes()).expect("no zeros");
        // SAFETY: a text that ends in a zero.
        unsafe { libc::umount2(place.as_ptr(), libc::MNT_DETACH) };
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

// The words of the kernel's FUSE protocol that one file needs.
const GETATTR: u32 = 3;
const SETATTR: u32 = 4;
const OPEN: u32 = 14;
const WRITE: u32 = 16;
const RELEASE: u32 = 18;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const FORGET: u32 = 2;
const INTERRUPT: u32 = 36;
const DESTROY: u32 = 38;
const IOCTL: u32 = 39;
const BATCH_FORGET: u32 = 42;
const DIRECT_IO: u32 = 1;
const NODE_SIZE: usize = 88;

// And of its watchdogs.
const GETSUPPORT: u32 = 0x8028_5700;
const SETOPTIONS: u32 = 0x8004_5704;
const KEEPALIVE: u32 = 0x8004_5705;
const SETTIMEOUT: u32 = 0xC004_5706;
const GETTIMEOUT: u32 = 0x8004_5707;
const CAN_SET_TIMEOUT: u32 = 0x80;
const CAN_MAGIC_CLOSE: u32 = 0x100;
const CAN_KEEPALIVE: u32 = 0x8000;

struct Server {
    fuse: OwnedFd,
    state: Arc<Mutex<State>>,
    on_expiry: Arc<dyn Fn() + Send + Sync>,
    /// Writes that get no answer as long as the device hangs.
    unanswered: Vec<(u64, u32)>,
    resetting: Vec<JoinHandle<()>>,
}

/// What goes back to the kernel.
enum Reply {
    Data(Vec<u8>),
    Error(Errno),
    Nothing,
}

impl Server {
    fn new(fuse: OwnedFd, state: Arc<Mutex<State>>, on_expiry: Arc<dyn Fn() + Send + Sync>) -> Server {
        Server { fuse, state, on_expiry, unanswered: Vec::new(), resetting: Vec::new() }
    }

    fn serve(mut self) {
        let mut requests = File::from(self.fuse.try_clone().expect("a second handle"));
        let mut buffer = vec![0u8; 1 << 18];
        loop {
            if self.look_at_the_clock() {
                break;
            }
            let mut asked = libc::pollfd { fd: self.fuse.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one entry, and its number.
            let ready = unsafe { libc::poll(&raw mut asked, 1, i32::try_from(POLL.as_ms()).unwrap_or(20)) };
            if ready <= 0 {
                continue;
            }
            match requests.read(&mut buffer) {
                Ok(length) => self.answer(&buffer[..length]),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                // Unmounted.
                Err(_) => break,
            }
        }
        for reset in self.resetting {
            let _ = reset.join();
        }
    }

    /// True when the device is no longer wanted.
    fn look_at_the_clock(&mut self) -> bool {
        let now = clock::now();
        let mut state = self.state.lock().expect("nobody panics while holding it");
        if state.fires_at.is_some_and(|at| at <= now) {
            state.fires_at = None;
            state.open = false;
            state.note(Happening::Expired);
            let reset = Arc::clone(&self.on_expiry);
            let thread = std::thread::Builder::new().name("watchdog-reset".to_owned());
            self.resetting.push(thread.spawn(move || reset()).expect("a thread"));
        }
        let (hangs, ended) = (state.manners.hangs, state.ended);
        drop(state);
        if !hangs || ended {
            for (unique, size) in std::mem::take(&mut self.unanswered) {
                self.send(unique, &Reply::Data(words(&[size, 0])));
            }
        }
        ended
    }

    fn answer(&mut self, request: &[u8]) {
        let Some(header) = request.get(..40) else { return };
        let (op, unique) = (word(header, 4), u64::from(word(header, 8)) | u64::from(word(header, 12)) << 32);
        let body = &request[40..];
        let mut state = self.state.lock().expect("nobody panics while holding it");
        let reply = match op {
            INIT => Reply::Data(init()),
            GETATTR | SETATTR => Reply::Data(attributes()),
            OPEN => state.open(),
            WRITE if state.manners.hangs => {
                self.unanswered.push((unique, word(body, 16)));
                Reply::Nothing
            }
            WRITE => state.write(body),
            IOCTL => state.ioctl(body),
            RELEASE => state.release(),
            FLUSH => Reply::Data(Vec::new()),
            FORGET | INTERRUPT | BATCH_FORGET | DESTROY => Reply::Nothing,
            _ => Reply::Error(Errno::ENOSYS),
        };
        drop(state);
        self.send(unique, &reply);
    }

    fn send(&self, unique: u64, reply: &Reply) {
        let (error, data) = match reply {
            Reply::Nothing => return,
            Reply::Error(errno) => (-(*errno as i32), &[][..]),
            Reply::Data(data) => (0, &data[..]),
        };
        let length = u32::try_from(16 + data.len()).expect("short");
        let mut answer = words(&[length]);
        answer.extend(error.to_ne_bytes());
        answer.extend(unique.to_ne_bytes());
        answer.extend(data);
        // Whoever asked may be dead by now.
        let _ = File::from(self.fuse.try_clone().expect("a second handle")).write_all(&answer);
    }
}

impl State {
    fn note(&mut self, what: Happening) {
        if self.log.len() < LOG_MAX {
            self.log.push((clock::now(), what));
        }
    }

    fn begin_anew(&mut self) {
        self.fires_at = Some(clock::now() + Span::from_secs(u64::from(self.timeout_s)));
    }

    fn stop(&mut self) -> bool {
        if !self.manners.no_way_out && self.fires_at.take().is_some() {
            self.note(Happening::Stopped);
        }
        self.fires_at.is_none()
    }

    fn open(&mut self) -> Reply {
        if self.open || self.manners.busy {
            return Reply::Error(Errno::EBUSY);
        }
        (self.open, self.magic) = (true, false);
        self.note(Happening::Opened);
        self.begin_anew();
        Reply::Data(words(&[1, 0, DIRECT_IO, 0]))
    }

    fn write(&mut self, body: &[u8]) -> Reply {
        if self.manners.fails {
            return Reply::Error(Errno::EIO);
        }
        let size = word(body, 16);
        let text = body.get(40..40 + size as usize).unwrap_or_default();
        self.magic = text.contains(&b'V');
        if self.fires_at.is_some() {
            self.begin_anew();
            self.note(Happening::Fed);
        }
        Reply::Data(words(&[size, 0]))
    }

    fn ioctl(&mut self, body: &[u8]) -> Reply {
        if self.manners.foreign {
            return Reply::Error(Errno::ENOTTY);
        }
        let (command, room) = (word(body, 12), word(body, 28) as usize);
        let data = match command {
            GETSUPPORT => {
                let magic = if self.manners.no_magic_close { 0 } else { CAN_MAGIC_CLOSE };
                let mut info = words(&[CAN_SET_TIMEOUT | CAN_KEEPALIVE | magic, 0]);
                info.extend(b"tenure test device");
                info.resize(40, 0);
                info
            }
            KEEPALIVE => {
                self.begin_anew();
                self.note(Happening::Fed);
                words(&[1])
            }
            SETTIMEOUT => {
                self.timeout_s = word(body, 32).max(1).max(self.manners.timeout_min_s);
                self.note(Happening::TimeoutSet(self.timeout_s));
                self.begin_anew();
                words(&[self.timeout_s])
            }
            GETTIMEOUT => words(&[self.timeout_s]),
            // FUSE does not pass the value. The one that is used switches the device off.
            SETOPTIONS if self.stop() => words(&[0]),
            SETOPTIONS => return Reply::Error(Errno::EBUSY),
            _ => return Reply::Error(Errno::ENOTTY),
        };
        let mut reply = words(&[0, 0, 0, 0]);
        reply.extend(data.iter().take(room));
        Reply::Data(reply)
    }

    fn release(&mut self) -> Reply {
        self.open = false;
        if self.fires_at.is_some() {
            let may_stop = self.magic || self.manners.no_magic_close;
            if !(may_stop && self.stop()) {
                self.note(Happening::ClosedRunning);
            }
        }
        Reply::Data(Vec::new())
    }
}

fn init() -> Vec<u8> {
    let mut reply = words(&[7, 31, 0, 0, 16 | 16 << 16, 4096, 1]);
    reply.resize(64, 0);
    reply
}

/// A regular file that root may read and write. Nobody checks: the kernel leaves that to the server.
fn attributes() -> Vec<u8> {
    let mut reply = vec![0u8; 16];
    let mut node = vec![0u8; NODE_SIZE];
    node[0] = 1;
    node[60..64].copy_from_slice(&0o100_600u32.to_ne_bytes());
    node[64..68].copy_from_slice(&1u32.to_ne_bytes());
    reply.extend(node);
    reply
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |four| u32::from_ne_bytes(four.try_into().expect("four bytes")))
}

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}
