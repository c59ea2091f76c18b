//! From the command line to a guardian that is ready: everything that allocates, opens files or may fail happens here,
//! before the first agent is let in.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::libc;
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};

use super::allocations;
use super::feeder::Feeder;
use super::guardian::{Ears, Guardian, boot_clock};
use super::kill::Killer;
use super::log::{Level, Log};
use super::processes::Proc;
use super::wire::{PATH_MAX, VERSION};
use crate::config::{self, Sources};

/// Another guardian watches this instance.
pub const EXIT_HELD: u8 = 3;
const EXIT_USAGE: u8 = 2;

/// Above ordinary real-time work, below the kernel's own threads.
const PRIORITY: i32 = 50;

/// The deepest the stack gets is about 16 kB; touched in advance, so that it is locked.
const STACK_TOUCHED: usize = 128 * 1024;

const USAGE: &str = "\
Kills PostgreSQL when the term of its agent runs out.

usage: tenure-fence --socket PATH --data-dir PATH
       tenure-fence --config PATH

  --socket PATH    where the agent reaches it; PATH.lock beside it makes sure that there is only one
  --data-dir PATH  the data directory of the PostgreSQL that is watched
  --config PATH    the configuration of the agent, which says both
  --version        print the version of the program and of its protocol

exit status: 0 stopped while disarmed, 1 could not start, 2 wrong usage, 3 another guardian is there already
";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Given(Options),
    AsTheAgent { config: PathBuf },
}

#[derive(Debug, PartialEq, Eq)]
struct Options {
    socket: PathBuf,
    data_dir: PathBuf,
}

#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("another guardian{} watches this instance: {} is locked", .pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default(), .lock.display())]
    Held { pid: Option<u32>, lock: PathBuf },
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
}

pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--help" || argument == "-h") {
        print!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    if arguments.iter().any(|argument| argument == "--version") {
        println!("tenure-fence {} ({VERSION})", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    let asked = match Asked::parse(&arguments) {
        Ok(asked) => asked,
        Err(error) => {
            eprintln!("error: {error:#}\n\n{USAGE}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match asked.options().map_err(StartError::from).and_then(|options| start(&options)) {
        Ok(guardian) => guardian.watch(),
        Err(error @ StartError::Held { .. }) => {
            eprintln!("error: {error}");
            ExitCode::from(EXIT_HELD)
        }
        Err(StartError::Failed(error)) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Asked {
    fn parse(arguments: &[OsString]) -> anyhow::Result<Asked> {
        let (mut socket, mut data_dir, mut config) = (None, None, None);
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let slot = match argument.to_str() {
                Some("--socket") => &mut socket,
                Some("--data-dir") => &mut data_dir,
                Some("--config") => &mut config,
                _ => bail!("unknown argument {}", argument.display()),
            };
            let value = arguments.next().with_context(|| format!("{} needs a path", argument.display()))?;
            *slot = Some(std::path::absolute(value).with_context(|| format!("read {}", argument.display()))?);
        }
        if let Some(config) = config {
            if socket.is_some() || data_dir.is_some() {
                bail!("--config says both --socket and --data-dir already");
            }
            return Ok(Asked::AsTheAgent { config });
        }
        Ok(Asked::Given(Options {
            socket: socket.context("--socket is missing")?,
            data_dir: data_dir.context("--data-dir is missing")?,
        }))
    }

    fn options(self) -> anyhow::Result<Options> {
        match self {
            Asked::Given(options) => Ok(options),
            Asked::AsTheAgent { config } => Options::of_agent(config),
        }
    }
}

impl Options {
    /// As the agent with the same files and the same environment has them.
    fn of_agent(path: PathBuf) -> anyhow::Result<Options> {
        let loaded = config::load(&Sources::of_process(vec![path]));
        let config =
            loaded.map_err(|problems| anyhow::anyhow!("{}", problems.to_string().trim_end()))?.config;
        // Whoever of the two begins first makes it.
        let dir = config.state_dir();
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.with_context(|| format!("make {} (tenure.state_dir)", dir.display()))?;
        Ok(Options { socket: config.guardian_socket(), data_dir: config.postgresql.data_dir })
    }
}

fn start(options: &Options) -> Result<Guardian, StartError> {
    stand_alone();
    let lock = take_lock(&options.socket)?;
    let data_dir = canonical(&options.data_dir)?;
    let own_pid = nix::unistd::getpid().as_raw();
    let proc = Proc::open().context("open /proc")?;
    if proc.stat(own_pid).is_none() {
        return Err(anyhow::anyhow!("read /proc: it does not show this process").into());
    }
    let ears = Ears {
        listener: open_socket(&options.socket)?,
        timer: TimerFd::new(ClockId::CLOCK_BOOTTIME, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)
            .context("make a timer")?,
        signals: take_signals().context("take the signals")?,
    };
    let mut log = Log::to_stderr();
    escape_the_oom_killer(&mut log);
    go_first(&mut log);
    // After the one, whose priority it inherits; before the other, which locks its stack, too.
    let feeder = Feeder::start().context("start the thread for the watchdog")?;
    stay_in_memory(&mut log);
    let killer = Killer::new(proc, data_dir, own_pid);
    let socket = std::ffi::CString::new(options.socket.as_os_str().as_encoded_bytes())
        .context("read the path of the socket")?;
    log.say(
        Level::Info,
        boot_clock(),
        format_args!("watching over {}, not armed (pid {own_pid})", killer.data_dir()),
    );
    let guardian = Guardian::new(ears, killer, feeder, log, own_cgroup(), lock, socket);
    say_ready()?;
    allocations::seal();
    Ok(guardian)
}

/// Away from whoever started us: no descriptor, directory, terminal or session of theirs is kept.
fn stand_alone() {
    // SAFETY: nothing of ours is open yet but the three standard streams. An old kernel does not know the call, and
    // what it leaves open harms nobody.
    unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0u32) };
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    // A service manager has made a session for us already.
    let _ = nix::unistd::setsid();
    // Whatever stood here may be unmounted.
    let _ = nix::unistd::chdir("/");
}

/// The lock goes away with the process, however it ends; the file stays.
fn take_lock(socket: &Path) -> Result<Flock<std::fs::File>, StartError> {
    let mut path = socket.as_os_str().to_owned();
    path.push(".lock");
    let path = PathBuf::from(path);
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("open {}", path.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            lock.set_len(0).context("write the lock file")?;
            writeln!(lock, "{}", std::process::id()).context("write the lock file")?;
            Ok(lock)
        }
        Err((file, Errno::EWOULDBLOCK)) => {
            let mut text = String::new();
            let _ = file.take(32).read_to_string(&mut text);
            Err(StartError::Held { pid: text.trim().parse().ok(), lock: path })
        }
        Err((_, errno)) => Err(anyhow::Error::new(errno).context(format!("lock {}", path.display())).into()),
    }
}

/// As the kernel will write it in `/proc/<pid>/cwd`. The directory itself may not have been made yet.
fn canonical(path: &Path) -> anyhow::Result<String> {
    let found = match std::fs::canonicalize(path) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            match (path.parent(), path.file_name()) {
                (Some(parent), Some(name)) => PathBuf::from(canonical(parent)?).join(name),
                _ => bail!("find {}", path.display()),
            }
        }
        Err(error) => return Err(error).with_context(|| format!("find {}", path.display())),
    };
    let text = found.to_str().with_context(|| format!("{} is not UTF-8", found.display()))?;
    if text.len() > PATH_MAX || text.contains('\n') || found.parent().is_none() {
        bail!("{} cannot be watched: a path of at most {PATH_MAX} bytes is wanted", found.display());
    }
    Ok(text.to_owned())
}

fn open_socket(path: &Path) -> anyhow::Result<OwnedFd> {
    let tried = || format!("listen on {}", path.display());
    // We hold the lock, so whoever made this socket is gone.
    if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        std::fs::remove_file(path).with_context(tried)?;
    }
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let listener = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).with_context(tried)?;
    let address = UnixAddr::new(path).with_context(tried)?;
    bind(listener.as_raw_fd(), &address).with_context(tried)?;
    listen(&listener, Backlog::new(64).with_context(tried)?).with_context(tried)?;
    Ok(listener)
}

/// All signals that can be taken arrive as something to read, so that none ends us by surprise.
fn take_signals() -> nix::Result<SignalFd> {
    let all = SigSet::all();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&all), None)?;
    SignalFd::with_flags(&all, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
}

// What makes us run when nobody else does. Each is a favour that may be refused; then the log says what is missing.

fn escape_the_oom_killer(log: &mut Log) {
    let spared = ["-1000", "-900", "-500"]
        .into_iter()
        .any(|score| std::fs::write("/proc/self/oom_score_adj", score).is_ok());
    let already = || {
        std::fs::read_to_string("/proc/self/oom_score_adj")
            .is_ok_and(|score| score.trim().parse::<i32>().is_ok_and(|score| score <= -500))
    };
    if !spared && !already() {
        let what = "not permitted to escape the OOM killer (OOMScoreAdjust=-1000 would)";
        log.say(Level::Warning, boot_clock(), format_args!("{what}"));
    }
}

fn go_first(log: &mut Log) {
    let parameters = libc::sched_param { sched_priority: PRIORITY };
    // SAFETY: a structure that the call only reads.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) } != 0 {
        let what = "not permitted to run with real-time priority (LimitRTPRIO=50 or CAP_SYS_NICE would)";
        log.say(Level::Warning, boot_clock(), format_args!("{what}: {}", Errno::last().desc()));
    }
}

fn stay_in_memory(log: &mut Log) {
    touch_stack();
    // Not what is mapped later: nothing is, but a stack that may not grow because of a limit would end us.
    if let Err(errno) = mlockall(MlockAllFlags::MCL_CURRENT) {
        let what = "not permitted to lock its memory (LimitMEMLOCK=infinity or CAP_IPC_LOCK would)";
        log.say(Level::Warning, boot_clock(), format_args!("{what}: {}", errno.desc()));
    }
}

#[inline(never)]
#[allow(clippy::large_stack_arrays)]
fn touch_stack() {
    std::hint::black_box([1u8; STACK_TOUCHED]);
}

/// The path of our own control group in the file system, so that nobody makes us kill ourselves.
fn own_cgroup() -> Option<String> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "))?.split(' ').nth(4)?;
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let mut own = String::new();
    write!(own, "{}{}", mount.trim_end_matches('/'), path).ok()?;
    Some(own)
}

/// To the service manager, if it asked to be told, and to whoever reads our standard output, which is closed then.
fn say_ready() -> anyhow::Result<()> {
    // Nobody listening is no reason to give up.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let mut stdout = std::io::stdout();
    let _ = stdout.write_all(b"ready\n").and_then(|()| stdout.flush());
    let null =
        std::fs::OpenOptions::new().read(true).write(true).open("/dev/null").context("open /dev/null")?;
    nix::unistd::dup2_stdout(null.as_fd()).context("close the standard output")?;
    nix::unistd::dup2_stdin(null.as_fd()).context("close the standard input")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Asked, String> {
        let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        Asked::parse(&arguments).map_err(|error| error.to_string())
    }

    #[test]
    fn both_paths_are_wanted_and_nothing_else() {
        let options = parse(&["--socket", "/run/x", "--data-dir", "/data"]).expect("complete");
        assert_eq!(options, Asked::Given(Options { socket: "/run/x".into(), data_dir: "/data".into() }));
        assert_eq!(parse(&["--config", "/x"]), Ok(Asked::AsTheAgent { config: "/x".into() }));
        assert_eq!(parse(&["--socket", "/run/x"]), Err("--data-dir is missing".to_owned()));
        assert_eq!(parse(&["--socket"]), Err("--socket needs a path".to_owned()));
        assert_eq!(
            parse(&["--config", "/x", "--socket", "/run/x"]),
            Err("--config says both --socket and --data-dir already".to_owned())
        );
        assert_eq!(parse(&["--force"]), Err("unknown argument --force".to_owned()));
    }

    #[test]
    fn a_data_directory_may_be_a_link_and_need_not_exist() {
        let dir = tempfile::tempdir().expect("a directory");
        let real = std::fs::canonicalize(dir.path()).expect("it exists");
        std::fs::create_dir(real.join("real")).expect("made");
        std::os::unix::fs::symlink(real.join("real"), real.join("link")).expect("linked");
        let check = |path: &str, wanted: &str| {
            assert_eq!(PathBuf::from(canonical(&real.join(path)).expect("found")), real.join(wanted));
        };
        check("link", "real");
        check("link/not/yet", "real/not/yet");
        assert!(canonical(Path::new("/")).is_err());
    }
}
