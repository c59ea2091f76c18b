//! How the agent's loop speaks with its guardian: finds it or starts it, gives it orders, and hears when it dies. Every
//! question has a short deadline and a connection of its own, so that a late answer is never taken for another one's.

use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::model::{self, FenceOrder, Moment, Term, WatchdogTimes};

use super::line::Line;
use super::start::EXIT_HELD;
use super::wire::{self, Answer, DATAGRAM_MAX, PATH_MAX, Process, Refusal, Report, Request, Standing, State};

const ANSWER_WITHIN: Duration = Duration::from_millis(500);
const START_WITHIN: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
pub struct Settings {
    pub socket: PathBuf,
    pub data_dir: PathBuf,
    /// Where `tenure-fence` is; beside our own executable if nothing is said.
    pub binary: Option<PathBuf>,
}

/// A guardian that has answered, and a connection that ends when it does.
#[derive(Debug)]
pub struct Guardian {
    socket: PathBuf,
    /// As the guardian spells it.
    data_dir: String,
    vigil: UnixStream,
    pid: Option<i32>,
    /// If we have started it. It outlives us; while we live, somebody must take note of its end.
    #[allow(dead_code)]
    child: Option<Child>,
}

/// What the agent knows of its PostgreSQL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    pub postmaster: Option<Process>,
    /// The directory of a control group that holds this PostgreSQL and nothing else.
    pub cgroup: Option<String>,
}

/// Which watchdog device is to stand behind the guardian.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    pub device: String,
    pub times: WatchdogTimes,
}

/// What the guardian says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    pub standing: Standing,
    /// The last kill, until it is acknowledged.
    pub report: Option<Report>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none.
    #[error("reach the guardian at {}", .socket.display())]
    Absent { socket: PathBuf, source: io::Error },
    /// It may have done what was asked, or not.
    #[error("ask the guardian: no answer")]
    Unanswered(#[source] io::Error),
    /// It has not, and this is what is in force instead.
    #[error("ask the guardian: refused, {}", .because.sentence())]
    Refused { because: Refusal, status: Box<Status> },
    /// Whoever answers is not our guardian.
    #[error("ask the guardian at {}: {why}", .socket.display())]
    Foreign { socket: PathBuf, why: String },
    #[error("start the guardian {}: {why}", .binary.display())]
    NotStarted { binary: PathBuf, why: String },
}

impl Guardian {
    /// The guardian that is there.
    pub async fn connect(settings: &Settings) -> Result<Guardian, Error> {
        let vigil = open(&settings.socket)?;
        let peer = vigil.peer_cred().map_err(Error::Unanswered)?;
        let own_uid = nix::unistd::geteuid().as_raw();
        let foreign = |why| Error::Foreign { socket: settings.socket.clone(), why };
        if peer.uid() != own_uid && peer.uid() != 0 {
            return Err(foreign(format!("it belongs to user {}", peer.uid())));
        }
        let mut guardian = Guardian {
            socket: settings.socket.clone(),
            data_dir: String::new(),
            vigil,
            pid: peer.pid(),
            child: None,
        };
        let (_, data_dir) = guardian.ask_anybody(&Request::Status).await?;
        if !is_same_directory(&settings.data_dir, Path::new(&data_dir)).await {
            return Err(foreign(format!("it watches over {data_dir}")));
        }
        guardian.data_dir = data_dir;
        Ok(guardian)
    }

    /// The guardian that is there; if there is none, one is started in a session of its own.
    pub async fn ensure(settings: &Settings) -> Result<Guardian, Error> {
        match Guardian::connect(settings).await {
            Err(Error::Absent { .. }) => {}
            found => return found,
        }
        let child = start(settings).await?;
        let mut guardian = Guardian::connect(settings).await?;
        guardian.child = child;
        Ok(guardian)
    }

    pub fn pid(&self) -> Option<i32> {
        self.pid
    }

    /// Without a target, the one told before stays.
    pub async fn arm(&self, term: Term, fence_at: Moment, target: Option<&Target>) -> Result<Status, Error> {
        let target = target.map(Target::as_wire);
        self.ask(&Request::Arm { term, fence_at, target }).await
    }

    /// Whom to kill; changes no deadline.
    pub async fn aim(&self, target: &Target) -> Result<Status, Error> {
        self.ask(&Request::Aim(target.as_wire())).await
    }

    pub async fn disarm(&self, term: Term) -> Result<Status, Error> {
        self.ask(&Request::Disarm { term }).await
    }

    /// Kill everything now. The answer says that it has begun; `status` says when it is over.
    pub async fn fence(&self, term: Term) -> Result<Status, Error> {
        self.ask(&Request::Fence { term }).await
    }

    pub async fn status(&self) -> Result<Status, Error> {
        self.ask(&Request::Status).await
    }

    /// The report has been read; the guardian may forget it.
    pub async fn acknowledge(&self, report: &Report) -> Result<Status, Error> {
        self.ask(&Request::Acknowledge { report: report.number }).await
    }

    /// `None` for no device. How it is follows in the next answers: a device may take its time.
    pub async fn watch(&self, watch: Option<&Watch>) -> Result<Status, Error> {
        match watch {
            Some(Watch { device, times }) => {
                self.ask(&Request::Watch(wire::Watch { times: *times, device })).await
            }
            None => self.ask(&Request::Unwatch).await,
        }
    }

    /// Carries out a plan's order. What is in force then is in the answer: `Status::guardian`.
    pub async fn order(&self, order: FenceOrder, target: Option<&Target>) -> Result<Status, Error> {
        match order {
            FenceOrder::Arm { term, fence_at } => self.arm(term, fence_at, target).await,
            FenceOrder::Keep => self.status().await,
            FenceOrder::Disarm => {
                let status = self.status().await?;
                match status.standing.state.term() {
                    Some(term) => self.disarm(term).await,
                    None => Ok(status),
                }
            }
        }
    }

    /// Returns when the guardian has died, and not before.
    pub async fn gone(&self) {
        let mut nothing = [0u8; 64];
        loop {
            if self.vigil.readable().await.is_err() {
                return;
            }
            match self.vigil.try_read(&mut nothing) {
                // Nothing was asked here, so nothing is said.
                Ok(1..) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) => return,
            }
        }
    }

    async fn ask(&self, request: &Request<'_>) -> Result<Status, Error> {
        let (answered, data_dir) = self.ask_anybody(request).await?;
        if data_dir != self.data_dir {
            return Err(self.foreign(&format!("it watches over {data_dir}")));
        }
        answered
    }

    fn foreign(&self, why: &str) -> Error {
        Error::Foreign { socket: self.socket.clone(), why: why.to_owned() }
    }

    /// With whose guardian it is.
    async fn ask_anybody(&self, request: &Request<'_>) -> Result<(Result<Status, Error>, String), Error> {
        let mut line: Line<DATAGRAM_MAX> = Line::new();
        request.write(&mut line).map_err(|_| self.foreign("the request is too long"))?;
        let mut buffer = vec![0u8; DATAGRAM_MAX];
        let exchange = async {
            let mut connection = open(&self.socket)?;
            connection.write_all(line.as_bytes()).await.map_err(Error::Unanswered)?;
            connection.read(&mut buffer).await.map_err(Error::Unanswered)
        };
        let filled = match timeout(ANSWER_WITHIN, exchange).await {
            Err(_) => return Err(Error::Unanswered(io::ErrorKind::TimedOut.into())),
            Ok(Ok(0)) => return Err(Error::Unanswered(io::ErrorKind::UnexpectedEof.into())),
            Ok(filled) => filled?,
        };
        let answer = buffer.get(..filled).and_then(Answer::parse);
        let answer = answer.ok_or_else(|| self.foreign("it speaks another language or version"))?;
        let status = Status { standing: answer.standing, report: answer.report };
        let answered = match answer.refused {
            None => Ok(status),
            Some(because) => Err(Error::Refused { because, status: Box::new(status) }),
        };
        Ok((answered, answer.data_dir.to_owned()))
    }
}

impl Status {
    /// In the words of the rules.
    pub fn guardian(&self) -> model::Guardian {
        let confirmed = match self.standing.state {
            State::Idle => FenceOrder::Disarm,
            // A moment that has passed: whoever asks whether it watches hears no.
            State::Armed { term, fence_at }
            | State::Killing { term, fence_at }
            | State::Fenced { term, fence_at } => FenceOrder::Arm { term, fence_at },
        };
        model::Guardian::Ready { confirmed }
    }
}

impl Target {
    fn as_wire(&self) -> wire::Target<'_> {
        let cgroup = self.cgroup.as_deref().filter(|path| path.len() <= PATH_MAX);
        wire::Target { postmaster: self.postmaster, cgroup }
    }
}

/// The guardian knows the directory by the path that the kernel has for it, and began before it may have been made.
async fn is_same_directory(ours: &Path, theirs: &Path) -> bool {
    let known_as = |path: PathBuf| async move {
        let found = timeout(ANSWER_WITHIN, tokio::fs::canonicalize(path)).await;
        found.ok().and_then(Result::ok)
    };
    if ours == theirs || known_as(ours.to_owned()).await.is_some_and(|found| found == theirs) {
        return true;
    }
    match (ours.parent(), ours.file_name()) {
        (Some(parent), Some(name)) => {
            known_as(parent.to_owned()).await.is_some_and(|found| found.join(name) == theirs)
        }
        _ => false,
    }
}

fn open(path: &Path) -> Result<UnixStream, Error> {
    let opened = || -> io::Result<UnixStream> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
        UnixStream::from_std(fd.into())
    };
    opened().map_err(|source| match Errno::from_raw(source.raw_os_error().unwrap_or(0)) {
        // It is there, and lets nobody in.
        Errno::EAGAIN => Error::Unanswered(source),
        _ => Error::Absent { socket: path.to_owned(), source },
    })
}

/// `None` if another was faster.
async fn start(settings: &Settings) -> Result<Option<Child>, Error> {
    let binary = match &settings.binary {
        Some(binary) => binary.clone(),
        None => std::env::current_exe().unwrap_or_default().with_file_name("tenure-fence"),
    };
    let failed = |why: String| Error::NotStarted { binary: binary.clone(), why };
    let mut child = Command::new(&binary)
        .arg("--socket")
        .arg(&settings.socket)
        .arg("--data-dir")
        .arg(&settings.data_dir)
        // Neither our secrets nor our service manager's socket are its business.
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let stdout = child.stdout.take().ok_or_else(|| failed("its output is missing".to_owned()))?;
    let ready = async {
        let mut line = String::new();
        let mut reader = BufReader::new(stdout.take(64));
        let _ = reader.read_line(&mut line).await;
        if line == "ready\n" { None } else { Some(child.wait().await) }
    };
    match timeout(START_WITHIN, ready).await {
        Ok(None) => Ok(Some(child)),
        Ok(Some(Ok(status))) if status.code() == Some(i32::from(EXIT_HELD)) => Ok(None),
        Ok(Some(Ok(status))) => Err(failed(format!("it ended with {status}"))),
        Ok(Some(Err(error))) => Err(failed(error.to_string())),
        Err(_) => {
            // Nobody has armed it, so nothing is lost with it.
            let _ = child.start_kill();
            Err(failed(format!("it was not ready within {} s", START_WITHIN.as_secs())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guardian_that_has_killed_watches_over_nothing() {
        let (term, fence_at) = (Term(7), Moment::from_ms(5000));
        let check = |state, now: u64, watches: bool| {
            let status = Status { standing: Standing { state, ..Standing::default() }, report: None };
            assert_eq!(status.guardian().watches(term, Moment::from_ms(now)), watches, "{state:?}");
        };
        check(State::Idle, 1, false);
        check(State::Armed { term, fence_at }, 4999, true);
        check(State::Armed { term, fence_at }, 5000, false);
        check(State::Fenced { term, fence_at }, 5001, false);
        check(State::Armed { term: Term(8), fence_at }, 1, false);
    }
}
