//! How an agent tells the holder of its virtual addresses what to do. Every question has a short deadline.

use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::model::AddressStanding;

use super::wire::{Answer, DATAGRAM_MAX, Refusal, Request};

/// The kernel is asked for each address, and answers at once.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// The holder at one socket, whoever it is at the moment.
#[derive(Debug)]
pub struct Holder {
    socket: PathBuf,
    connection: Option<UnixStream>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It may have done what was asked, or not.
    #[error("ask the holder of the virtual addresses at {}", .socket.display())]
    Unanswered { socket: PathBuf, source: io::Error },
    /// It has not.
    #[error("ask the holder of the virtual addresses: refused, {}", .0.sentence())]
    Refused(Refusal),
}

impl Holder {
    pub fn new(socket: PathBuf) -> Holder {
        Holder { socket, connection: None }
    }

    /// How the addresses are once it has been done.
    pub async fn tell(&mut self, request: Request) -> Result<Vec<AddressStanding>, Error> {
        let exchanged = match timeout(ANSWER_WITHIN, self.exchange(request)).await {
            Ok(exchanged) => exchanged,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        let answer = exchanged.map_err(|source| Error::Unanswered { socket: self.socket.clone(), source })?;
        match answer.refused {
            None => Ok(answer.addresses),
            Some(refusal) => Err(Error::Refused(refusal)),
        }
    }

    async fn exchange(&mut self, request: Request) -> io::Result<Answer> {
        // Kept only after a whole exchange: an answer that comes late is never taken for that to a later question.
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => open(&self.socket)?,
        };
        connection.write_all(&request.write()).await?;
        let mut datagram = vec![0u8; DATAGRAM_MAX];
        let length = connection.read(&mut datagram).await?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let answer = Answer::parse(&datagram[..length]).ok_or(io::ErrorKind::InvalidData)?;
        self.connection = Some(connection);
        Ok(answer)
    }
}

fn open(path: &Path) -> io::Result<UnixStream> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    UnixStream::from_std(fd.into())
}
