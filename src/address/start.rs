//! From the command line to a holder that is ready.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};

use super::holder::{Ears, HolderLoop};
use super::netlink::Netlink;
use crate::config::{self, Config, Loaded, Sources};
use crate::log;

/// What a unit shall not begin again by itself: only another configuration helps.
const EXIT_CONFIG: u8 = 78;
/// CAP_NET_ADMIN adds addresses, CAP_NET_RAW speaks with the neighbours.
const CAPABILITIES: [(u32, &str); 2] = [(12, "CAP_NET_ADMIN"), (13, "CAP_NET_RAW")];

/// Hold the virtual addresses of one PostgreSQL instance while it is primary.
///
/// One holder runs per instance, usually as the unit tenure-address@.service, beside the agent, which tells it when. It takes
/// tenure.virtual_addresses from the agent's configuration, and needs CAP_NET_ADMIN and CAP_NET_RAW. An address that it has
/// put on an interface goes with the lease, whatever happens to agent and holder.
///
/// Exit status: 0 ended by a signal, 1 could not start, 78 no virtual address is configured, or the configuration is wrong.
#[derive(Debug, Parser)]
#[command(name = "tenure-address", version, max_term_width = 100)]
pub struct Arguments {
    /// The files of the agent, or directories of *.yml files; the later win, setting by setting.
    #[arg(value_name = "CONFIG", env = "TENURE_CONFIG", value_delimiter = ':')]
    pub config: Vec<PathBuf>,
}

pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let loaded = match config::load(&Sources::of_process(arguments.config)) {
        Ok(loaded) => loaded,
        Err(problems) => {
            eprint!("{problems}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    // Its warnings are the agent's to tell.
    let Loaded { config, .. } = loaded;
    if config.tenure.virtual_addresses.is_empty() {
        eprintln!("error: tenure.virtual_addresses names no address: there is nothing to hold");
        return ExitCode::from(EXIT_CONFIG);
    }
    match run(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(config: &Config) -> Result<()> {
    check_capabilities(&std::fs::read_to_string("/proc/self/status").context("read /proc/self/status")?)?;
    // Before any thread begins, so that none takes a signal away.
    let signals = take_signals().context("take the signals")?;
    // The files are the agent's.
    let settings = config::Log { dir: None, ..config.log.clone() };
    let logging = log::start(&settings, &config.scope, config.name.as_str())?;
    let dir = config.state_dir();
    // Whoever begins first makes it.
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
    made.with_context(|| format!("make {} (tenure.state_dir)", dir.display()))?;
    let path = config.address_socket();
    let lock = take_lock(&path)?;
    let ears = Ears { listener: open_socket(&path)?, signals };
    let netlink = Netlink::open().context("open a socket to the kernel (netlink)")?;
    let addresses = &config.tenure.virtual_addresses;
    let listed: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    tracing::info!("holds nothing yet; {} for the primary", listed.join(", "));
    // Nobody listening is no reason to give up.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    HolderLoop::new(ears, netlink, addresses, lock).work();
    drop(logging);
    Ok(())
}

/// `status`: of this process, from /proc.
fn check_capabilities(status: &str) -> Result<()> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).context("find CapEff")?;
    let held = u64::from_str_radix(line.trim(), 16).context("read CapEff")?;
    let lacking = CAPABILITIES.iter().filter(|(bit, _)| held & (1 << bit) == 0);
    let lacking: Vec<&str> = lacking.map(|(_, name)| *name).collect();
    if !lacking.is_empty() {
        bail!("it lacks {}, which the unit tenure-address@.service has", lacking.join(" and "));
    }
    Ok(())
}

fn take_signals() -> nix::Result<SignalFd> {
    let mut wanted = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
        wanted.add(signal);
    }
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&wanted), None)?;
    SignalFd::with_flags(&wanted, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
}

/// The lock goes away with the process, however it ends; the file stays.
fn take_lock(socket: &Path) -> Result<Flock<std::fs::File>> {
    let path = socket.with_extension("lock");
    let mut options = std::fs::OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.with_context(|| format!("open {}", path.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, Errno::EWOULDBLOCK)) => bail!("another holder is there: {} is locked", path.display()),
        Err((_, errno)) => Err(errno).with_context(|| format!("lock {}", path.display())),
    }
}

fn open_socket(path: &Path) -> Result<OwnedFd> {
    let tried = || format!("listen on {}", path.display());
    // We hold the lock, so whoever made this socket is gone.
    if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        std::fs::remove_file(path).with_context(tried)?;
    }
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let listener = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).with_context(tried)?;
    bind(listener.as_raw_fd(), &UnixAddr::new(path).with_context(tried)?).with_context(tried)?;
    listen(&listener, Backlog::new(16).with_context(tried)?).with_context(tried)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lacking_is_named() {
        let check = |held: &str| {
            check_capabilities(&format!("Name:\tx\nCapEff:\t{held}\n")).map_err(|e| e.to_string())
        };
        assert_eq!(check("0000000000003000"), Ok(()));
        assert_eq!(check("000001ffffffffff"), Ok(()));
        let refused = check("0000000000000000").expect_err("nothing is held");
        assert!(refused.starts_with("it lacks CAP_NET_ADMIN and CAP_NET_RAW,"), "{refused}");
        assert!(check("0000000000001000").expect_err("half").starts_with("it lacks CAP_NET_RAW,"));
    }
}
