//! How the thread that renews the lease tells the guardian each new deadline: one datagram there, one back, within
//! milliseconds. No tokio, since that thread waits for nobody.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt::SendTimeout,
};
use nix::sys::time::TimeVal;

use crate::model::{Moment, Span, Term};

use super::line::Line;
use super::wire::{Answer, DATAGRAM_MAX, Refusal, Request, Standing};

#[derive(Debug)]
pub struct LeaseLink {
    socket: PathBuf,
    patience: Span,
    connection: Option<UnixStream>,
}

/// Why the guardian did not take a deadline.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It may have taken it, or not.
    #[error("tell the guardian a deadline: no answer")]
    Unanswered(#[source] io::Error),
    /// It has not, and this is what is in force instead.
    #[error("tell the guardian a deadline: refused, {}", .because.sentence())]
    Refused { because: Refusal, standing: Standing },
}

impl LeaseLink {
    /// Connects when there is something to say, and anew when the guardian is another one by then.
    pub fn new(socket: PathBuf, patience: Span) -> LeaseLink {
        LeaseLink { socket, patience, connection: None }
    }

    pub fn send_arm(&mut self, term: Term, fence_at: Moment) -> Result<Standing, Refused> {
        let request = Request::Arm { term, fence_at, target: None };
        let had_connection = self.connection.is_some();
        let mut answered = self.ask(&request);
        if had_connection && answered.as_ref().is_err_and(|error| is_hang_up(error.kind())) {
            // The guardian that we knew is gone; another may be there already.
            answered = self.ask(&request);
        }
        let (refused, standing) = answered.map_err(Refused::Unanswered)?;
        match refused {
            None => Ok(standing),
            Some(because) => Err(Refused::Refused { because, standing }),
        }
    }

    fn ask(&mut self, request: &Request<'_>) -> io::Result<(Option<Refusal>, Standing)> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => open(&self.socket, self.patience)?,
        };
        let mut line: Line<DATAGRAM_MAX> = Line::new();
        request.write(&mut line).map_err(|_| ErrorKind::InvalidInput)?;
        connection.write_all(line.as_bytes())?;
        let mut buffer = [0u8; DATAGRAM_MAX];
        let filled = connection.read(&mut buffer)?;
        if filled == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let datagram = buffer.get(..filled).unwrap_or_default();
        let answer = Answer::parse(datagram).ok_or(ErrorKind::InvalidData)?;
        // Kept only after a whole exchange: an answer that comes late is never taken for that to a later question.
        self.connection = Some(connection);
        Ok((answer.refused, answer.standing))
    }
}

fn is_hang_up(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}

fn open(path: &Path, patience: Span) -> io::Result<UnixStream> {
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    // Before connecting: a guardian that hangs lets nobody in.
    let ms = i64::try_from(patience.as_ms()).unwrap_or(i64::MAX).max(1);
    setsockopt(&fd, SendTimeout, &TimeVal::new(ms / 1000, ms % 1000 * 1000))?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    let stream = UnixStream::from(fd);
    stream.set_read_timeout(Some(Span::from_ms(patience.as_ms().max(1)).as_duration()))?;
    Ok(stream)
}
