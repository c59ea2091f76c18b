//! The holder itself: one thread, one loop. It does what the last order says until that order ends by itself; whoever freezes or
//! kills it leaves the rest to the kernel, which has been told the same end.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::fcntl::Flock;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;
use nix::sys::socket::{SockFlag, accept4, getsockopt, sockopt::PeerCredentials};

use crate::clock;
use crate::model::{Moment, Span, VirtualAddress};

use super::netlink::Netlink;
use super::place::Place;
use super::stance::{Stance, lifetime, tell_again_at};
use super::wire::{Answer, DATAGRAM_MAX, Refusal, Request, VERSION};

/// An agent has one; what is left is for its successor and for people who look.
const CONNECTIONS_MAX: usize = 8;
/// The loop turns at least this often: `poll` counts by a clock that stands still while the machine sleeps.
const HEARTBEAT: Span = Span::from_ms(500);

/// What can wake the holder, besides its connections and the network.
#[derive(Debug)]
pub struct Ears {
    pub listener: OwnedFd,
    pub signals: SignalFd,
}

#[derive(Debug)]
pub struct HolderLoop {
    ears: Ears,
    connections: Vec<UnixStream>,
    netlink: Netlink,
    places: Vec<Place>,
    stance: Stance,
    /// When the kernel is told once more how long an address stays.
    again_at: Option<Moment>,
    /// Held as long as the process lives.
    _lock: Flock<File>,
}

impl HolderLoop {
    pub fn new(ears: Ears, netlink: Netlink, addresses: &[VirtualAddress], lock: Flock<File>) -> HolderLoop {
        let places = addresses.iter().cloned().map(Place::new).collect();
        HolderLoop {
            ears,
            connections: Vec::new(),
            netlink,
            places,
            stance: Stance::default(),
            again_at: None,
            _lock: lock,
        }
    }

    /// Until a signal asks it to end. What it holds stays for its successor, as long as the kernel was told to keep it.
    pub fn work(mut self) {
        loop {
            let now = clock::now();
            self.run_out(now);
            if self.again_at.is_some_and(|at| at <= now) {
                self.carry_out(now);
            }
            self.places.iter_mut().for_each(|place| place.tend(now));
            self.wait(now);
            if matches!(self.ears.signals.read_signal(), Ok(Some(_))) {
                tracing::info!("ends; what is held is the next holder's, or goes when its time is over");
                return;
            }
            self.hear_agents();
            self.let_in();
        }
    }

    fn run_out(&mut self, now: Moment) {
        if self.stance.ends_at().is_some_and(|at| at <= now) {
            self.stance = Stance::Away;
            self.leave("its deadline has come and no later one was told");
        }
    }

    fn leave(&mut self, why: &str) {
        for place in &mut self.places {
            place.leave(&mut self.netlink, why);
        }
    }

    /// Carries out what is in force now. An order that is given again is carried out again: somebody may have undone it.
    fn take(&mut self, request: Request) -> Result<(), Refusal> {
        let now = clock::now();
        self.run_out(now);
        let before = self.stance;
        self.stance = before.after(request, now)?;
        if request == Request::Status {
            return Ok(());
        }
        if self.stance == Stance::Asking && before != Stance::Asking {
            self.leave("this member is not primary");
        }
        self.carry_out(now);
        Ok(())
    }

    fn carry_out(&mut self, now: Moment) {
        self.again_at = None;
        match self.stance {
            Stance::Unknown => {}
            Stance::Away => self.leave("the agent says so"),
            Stance::Asking => self.places.iter_mut().for_each(|place| place.ask(now)),
            Stance::Adopting { until } => {
                self.again_at = tell_again_at(until, now);
                if let Some(lifetime) = lifetime(until, now) {
                    self.places.iter_mut().for_each(|place| place.adopt(&mut self.netlink, lifetime, now));
                }
            }
            Stance::Holding { until } => {
                self.again_at = tell_again_at(until, now);
                if let Some(lifetime) = lifetime(until, now) {
                    self.places.iter_mut().for_each(|place| place.hold(&mut self.netlink, lifetime, now));
                }
            }
        }
    }

    fn wait(&self, now: Moment) {
        let due = self
            .places
            .iter()
            .filter_map(Place::next_at)
            .chain(self.stance.ends_at())
            .chain(self.again_at)
            .min();
        let patience = due.map_or(HEARTBEAT, |at| now.until(at).min(HEARTBEAT)).as_ms();
        let mut fds: Vec<PollFd<'_>> = [self.ears.listener.as_fd(), self.ears.signals.as_fd()]
            .into_iter()
            .filter(|fd| {
                self.connections.len() < CONNECTIONS_MAX || fd.as_raw_fd() != self.ears.listener.as_raw_fd()
            })
            .chain(self.connections.iter().map(AsFd::as_fd))
            .chain(self.places.iter().filter_map(Place::socket))
            .map(|fd: BorrowedFd<'_>| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        // One more than what is left, so that the loop does not turn in the last millisecond.
        let patience = PollTimeout::try_from(patience + 1).unwrap_or(PollTimeout::ZERO);
        // Whatever it says, everybody is looked at.
        let _ = poll(&mut fds, patience);
    }

    /// One word of each, then back to the clock.
    fn hear_agents(&mut self) {
        let mut connections = std::mem::take(&mut self.connections);
        connections.retain_mut(|connection| {
            let mut datagram = vec![0u8; DATAGRAM_MAX];
            let asked = match connection.read(&mut datagram) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return true,
                Ok(0) | Err(_) => return false,
                Ok(length) => Request::parse(&datagram[..length]),
            };
            let refused = asked.and_then(|request| self.take(request)).err();
            let addresses = self.places.iter().map(Place::standing).collect();
            let answer = Answer { version: VERSION, refused, addresses };
            // Whoever takes no answer has gone.
            connection.write_all(&answer.write()).is_ok()
        });
        self.connections = connections;
    }

    /// Whoever is neither root nor our own user is shown the door; whoever finds no room waits outside.
    fn let_in(&mut self) {
        while self.connections.len() < CONNECTIONS_MAX {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let Ok(fd) = accept4(self.ears.listener.as_raw_fd(), flags) else { return };
            // SAFETY: a descriptor that the kernel has just made for us.
            let connection = unsafe { OwnedFd::from_raw_fd(fd) };
            let own_uid = nix::unistd::geteuid().as_raw();
            match getsockopt(&connection, PeerCredentials).map(|peer| (peer.uid(), peer.pid())) {
                Ok((uid, _)) if uid == own_uid || uid == 0 => self.connections.push(connection.into()),
                Ok((uid, pid)) => tracing::warn!("turned away pid {pid} of user {uid}"),
                Err(_) => {}
            }
        }
    }
}
