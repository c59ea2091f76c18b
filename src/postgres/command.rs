//! Running one of PostgreSQL's programs to its end: with a bounded wait, bounded output, and nothing left behind.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::time::{Instant, timeout, timeout_at};

use super::error::{Error, Trying};
use super::process::descendants_of;
use super::settings::RunAs;
use crate::model::Span;

/// What a program said in the end; only the last part of it, should it have talked a lot.
#[derive(Debug)]
pub(super) struct Outcome {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

const OUTPUT_BYTES_MAX: usize = 64 << 10;

/// These would make PostgreSQL believe that it is us, or that it is somebody else's.
const ENVIRONMENT_NOT_INHERITED: &[&str] = &[
    "NOTIFY_SOCKET",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "FDSTORE",
    "CREDENTIALS_DIRECTORY",
    "RUNTIME_DIRECTORY",
    "STATE_DIRECTORY",
    "SYSTEMD_EXEC_PID",
    "MEMORY_PRESSURE_WATCH",
    "MEMORY_PRESSURE_WRITE",
    "MAINPID",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "LC_ALL",
    "LC_MESSAGES",
    "PGDATA",
    "PGHOST",
    "PGHOSTADDR",
    "PGPORT",
    "PGUSER",
    "PGDATABASE",
    "PGPASSWORD",
    "PGPASSFILE",
    "PGSERVICE",
    "PGSERVICEFILE",
    "PGOPTIONS",
    "PGAPPNAME",
    "PGSSLMODE",
    "PGREQUIRESSL",
    "PGTARGETSESSIONATTRS",
    "PGTZ",
    "PGCLIENTENCODING",
];

/// Our own settings, with passwords among them: none of PostgreSQL's business, nor of its extensions and scripts.
const PREFIXES_NOT_INHERITED: &[&str] = &["PATRONI_", "TENURE_"];

pub(super) fn prepared(program: impl AsRef<std::ffi::OsStr>, identity: Option<RunAs>) -> Command {
    let mut command = Command::new(program);
    for name in ENVIRONMENT_NOT_INHERITED {
        command.env_remove(name);
    }
    for (name, _) in std::env::vars_os() {
        if PREFIXES_NOT_INHERITED.iter().any(|prefix| name.as_encoded_bytes().starts_with(prefix.as_bytes()))
        {
            command.env_remove(name);
        }
    }
    if let Some(identity) = identity {
        // Without this the programs would still see root's groups.
        command.uid(identity.uid).gid(identity.gid);
    }
    // Our own working directory may be one that the other user must not enter.
    command.current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.process_group(0).kill_on_drop(true);
    command
}

/// What the command starts will live in this control group.
pub(super) fn start_in(command: &mut Command, control_group: &Path) -> std::io::Result<()> {
    let members = File::options().write(true).open(control_group.join("cgroup.procs"))?;
    // SAFETY: between fork and exec the closure only writes to a descriptor that has been open before.
    unsafe {
        command.pre_exec(move || {
            // "0" is the process that writes. One that stays outside is a PostgreSQL still.
            let _ = (&members).write(b"0");
            Ok(())
        });
    }
    Ok(())
}

/// Runs to the end and takes anything but success for an error, with the program's last words in it.
pub(super) async fn run_well(what: &str, command: Command, patience: Span) -> Result<String, Error> {
    let outcome = run(what, command, patience).await?;
    if outcome.status.success() { Ok(outcome.stdout) } else { Err(Error::failed(what, outcome.complaint())) }
}

/// The same. `heard` gets each line of stderr as it comes, and says whether it is no matter for an error message.
pub(super) async fn run_well_listening(
    what: &str,
    command: Command,
    patience: Span,
    mut heard: impl FnMut(&str) -> bool + Send,
) -> Result<(), Error> {
    let outcome = run_reaching(what, command, "", patience, Reach::Group, &mut heard).await?;
    if outcome.status.success() { Ok(()) } else { Err(Error::failed(what, outcome.complaint())) }
}

pub(super) async fn run(what: &str, command: Command, patience: Span) -> Result<Outcome, Error> {
    run_with_input(what, command, "", patience).await
}

pub(super) async fn run_with_input(
    what: &str,
    command: Command,
    input: &str,
    patience: Span,
) -> Result<Outcome, Error> {
    run_reaching(what, command, input, patience, Reach::Group, &mut |_| false).await
}

/// For programs of which nobody knows what they start, and which never start PostgreSQL to stay.
pub(super) async fn run_with_descendants(
    what: &str,
    command: Command,
    patience: Span,
) -> Result<Outcome, Error> {
    run_reaching(what, command, "", patience, Reach::Descendants, &mut |_| false).await
}

async fn run_reaching(
    what: &str,
    mut command: Command,
    input: &str,
    patience: Span,
    reach: Reach,
    heard: &mut (dyn FnMut(&str) -> bool + Send),
) -> Result<Outcome, Error> {
    if !input.is_empty() {
        command.stdin(Stdio::piped());
    }
    let deadline = Instant::now() + patience.as_duration();
    let mut child =
        command.spawn().trying(|| format!("{what}: start {}", command.as_std().get_program().display()))?;
    let group = Group { leader: child.id(), reach };
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let ending = async {
        if let Some(mut stdin) = stdin {
            // A program that ends without reading says why on stderr.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        child.wait().await
    };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let status = {
        let mut unheard = |_: &str| false;
        let reading = async {
            tokio::join!(read_tail(stdout, &mut out, &mut unheard), read_tail(stderr, &mut err, heard))
        };
        tokio::pin!(ending, reading);
        let ended = async {
            let status = tokio::select! {
                status = &mut ending => status,
                _ = &mut reading => return ending.await,
            };
            // Somebody whom the program has left behind may hold the pipes open for ever.
            let _ = timeout(Span::from_secs(1).as_duration(), &mut reading).await;
            status
        };
        timeout_at(deadline, ended).await
    };
    let status = status.map_err(|_| Error::out_of_time(what, patience))?.trying(|| what.to_owned())?;
    group.disband();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Outcome { status, stdout: text(out), stderr: text(err) })
}

/// What comes, without the lines of which `heard` says so.
async fn read_tail(
    pipe: Option<impl AsyncRead + Unpin>,
    tail: &mut Vec<u8>,
    heard: &mut (dyn FnMut(&str) -> bool + Send),
) {
    let Some(mut pipe) = pipe else { return };
    let mut chunk = vec![0; 8192];
    let mut line_begins = 0;
    while let Ok(length @ 1..) = pipe.read(&mut chunk).await {
        for &byte in &chunk[..length] {
            tail.push(byte);
            if byte == b'\n' {
                if heard(&String::from_utf8_lossy(&tail[line_begins..])) {
                    tail.truncate(line_begins);
                }
                line_begins = tail.len();
            }
        }
        if tail.len() > 2 * OUTPUT_BYTES_MAX {
            let too_much = tail.len() - OUTPUT_BYTES_MAX;
            tail.drain(..too_much);
            line_begins = line_begins.saturating_sub(too_much);
        }
    }
}

impl Outcome {
    /// The last lines that it wrote, in one.
    pub fn complaint(&self) -> String {
        let said = if self.stderr.trim().is_empty() { &self.stdout } else { &self.stderr };
        match last_lines(said, 6) {
            none if none.is_empty() => format!("{}", self.status),
            lines => format!("{} ({})", lines, self.status),
        }
    }
}

/// The last lines of a text, joined for an error message.
pub(super) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join("; ")
}

/// A program together with those that it has started itself: dropped, all of them are killed.
struct Group {
    leader: Option<u32>,
    reach: Reach,
}

/// Who goes with a program that is killed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// A postmaster that pg_ctl has started is not among them: it has a session of its own.
    Group,
    /// Those in other sessions as well.
    Descendants,
}

impl Group {
    fn disband(mut self) {
        self.leader = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.leader.and_then(|leader| i32::try_from(leader).ok()) {
            // That it has just ended by itself is no error. Whoever is frozen starts nobody while we look.
            let _ = killpg(Pid::from_raw(leader), Signal::SIGSTOP);
            let others = match self.reach {
                Reach::Group => Vec::new(),
                Reach::Descendants => descendants_of(leader),
            };
            let _ = killpg(Pid::from_raw(leader), Signal::SIGKILL);
            for other in others {
                let _ = other.signal(Signal::SIGKILL);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = prepared("/bin/sh", None);
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn a_failure_carries_the_programs_last_words() {
        let failure = run_well("make tea", shell("echo no water >&2; exit 3"), Span::from_secs(30)).await;
        assert_eq!(failure.expect_err("it failed").to_string(), "make tea: no water (exit status: 3)");
    }

    #[tokio::test]
    async fn a_program_that_takes_too_long_is_killed_with_its_children() {
        let directory = tempfile::tempdir().expect("a directory");
        let held = directory.path().join("held");
        let script = format!("sleep 600 & echo $! > {0}.new; mv {0}.new {0}; wait", held.display());
        let written = async {
            while !held.exists() {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            outcome = run("wait", shell(&script), Span::from_secs(60)) => panic!("ended: {outcome:?}"),
            () = written => {}
        }
        let child: i32 = std::fs::read_to_string(&held).expect("a pid").trim().parse().expect("a number");
        let gone = || crate::postgres::process::has_ended(child);
        while !gone() {
            tokio::task::yield_now().await;
        }
        let late = run("wait", shell("sleep 600"), Span::from_ms(1)).await.expect_err("too late");
        assert_eq!(late.to_string(), "wait: not done within 1 ms");
    }

    #[tokio::test]
    async fn a_hook_takes_those_with_it_that_have_left_its_group() {
        let directory = tempfile::tempdir().expect("a directory");
        let held = directory.path().join("held");
        let script = format!(
            "setsid sh -c 'echo $$ > {0}.new; mv {0}.new {0}; exec sleep 600' & wait",
            held.display()
        );
        let written = async {
            while !held.exists() {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            outcome = run_with_descendants("wait", shell(&script), Span::from_secs(60)) => panic!("ended: {outcome:?}"),
            () = written => {}
        }
        let child: i32 = std::fs::read_to_string(&held).expect("a pid").trim().parse().expect("a number");
        while !crate::postgres::process::has_ended(child) {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_flood_of_output_is_cut_to_its_end() {
        let outcome =
            run("talk", shell("yes | head -n 500000; echo end"), Span::from_secs(60)).await.expect("ended");
        assert!(outcome.stdout.len() <= 2 * OUTPUT_BYTES_MAX && outcome.stdout.ends_with("end\n"));
    }
}
