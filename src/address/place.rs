//! One virtual address on its interface: put there, taken away, announced, and listened for.

use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrLike as _;

use crate::model::{AddressStanding, Moment, Notice, VirtualAddress};

use super::neighbours::{Link, Mac, Neighbours};
use super::netlink::{Lifetime, Netlink};
use super::stance::{announce_at, ask_at, defend_at, still_contends};
use super::wire::FAILURE_MAX;

/// The kernel's `ARPHRD_ETHER`.
const ETHERNET: u16 = 1;

#[derive(Debug)]
pub struct Place {
    address: VirtualAddress,
    neighbours: Option<Neighbours>,
    taken_at: Option<Moment>,
    announced: usize,
    asking_since: Option<Moment>,
    asked: usize,
    /// Another host has answered, and when it last did.
    contender: Option<(Mac, Moment)>,
    defended_at: Moment,
    failure: Option<String>,
}

impl Place {
    pub fn new(address: VirtualAddress) -> Place {
        Place {
            address,
            neighbours: None,
            taken_at: None,
            announced: 0,
            asking_since: None,
            asked: 0,
            contender: None,
            defended_at: Moment::default(),
            failure: None,
        }
    }

    pub fn standing(&self) -> AddressStanding {
        AddressStanding {
            address: self.address.clone(),
            held: self.taken_at.is_some(),
            duplicate: self.contender.map(|(mac, _)| mac.to_string()),
            failure: self.failure.clone(),
        }
    }

    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.neighbours.as_ref().map(Neighbours::socket)
    }

    /// Puts the address on its interface, or renews the time that the kernel keeps it for.
    pub fn hold(&mut self, netlink: &mut Netlink, lifetime: Lifetime, now: Moment) {
        let added = self.link().and_then(|link| {
            let added = netlink.add(&self.address, link.index, lifetime)?;
            Ok((link, added))
        });
        match added {
            Ok((link, added)) => {
                self.failure = None;
                if self.taken_at.is_none() || added {
                    if self.taken_at.is_some() {
                        tracing::warn!("{} was taken away by somebody else, and is back", self.address);
                    }
                    self.taken_at = Some(now);
                    self.announced = 0;
                    self.asking_since = None;
                    self.tell_taken();
                }
                self.listen(link, now);
                self.tend(now);
            }
            Err(error) => {
                self.taken_at = self.taken_at.filter(|_| self.is_there());
                self.fail("add", &error);
            }
        }
    }

    /// The same for an address that is there already; another one is not added.
    pub fn adopt(&mut self, netlink: &mut Netlink, lifetime: Lifetime, now: Moment) {
        if self.taken_at.is_some() || self.is_there() {
            self.hold(netlink, lifetime, now);
        }
    }

    pub fn leave(&mut self, netlink: &mut Netlink, why: &str) {
        let was_held = self.taken_at.take().is_some();
        self.neighbours = None;
        self.contender = None;
        self.asking_since = None;
        let removed = match self.link() {
            Ok(link) => netlink.remove(&self.address, link.index),
            // With the interface the address has gone as well.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        };
        match removed {
            Ok(removed) => {
                self.failure = None;
                if removed || was_held {
                    let notice = Notice::AddressReleased;
                    tracing::info!(message_id = %notice.message_id(), "{}: {}, {why}", notice.sentence(), self.address);
                }
            }
            Err(error) => {
                // It is there, as far as anybody knows; the next order tries again.
                self.taken_at = was_held.then(Moment::default);
                self.announced = usize::MAX;
                self.fail("remove", &error);
            }
        }
    }

    /// Asks the network who has the address. Nobody waits for the answer.
    pub fn ask(&mut self, now: Moment) {
        if self.asking_since.is_some() {
            return;
        }
        self.asking_since = Some(now);
        self.asked = 0;
        match self.link() {
            Ok(link) => self.listen(link, now),
            Err(error) => self.fail("ask for", &error),
        }
        self.tend(now);
    }

    /// Does what is due.
    pub fn tend(&mut self, now: Moment) {
        let Some(neighbours) = &self.neighbours else { return };
        let heard = neighbours.hear();
        let mut said = Ok(());
        if let Some(taken_at) = self.taken_at {
            while announce_at(taken_at, self.announced).is_some_and(|at| at <= now) {
                self.announced += 1;
                said = said.and(neighbours.announce());
            }
            if self.contender.is_some() && defend_at(self.defended_at) <= now {
                self.defended_at = now;
                said = said.and(neighbours.announce()).and(neighbours.ask());
            }
        }
        if let Some(since) = self.asking_since {
            while ask_at(since, self.asked).is_some_and(|at| at <= now) {
                self.asked += 1;
                said = said.and(neighbours.ask());
            }
        }
        if let Err(error) = said {
            self.fail("announce", &error);
        }
        self.note(heard, now);
    }

    /// When something is due.
    pub fn next_at(&self) -> Option<Moment> {
        self.neighbours.as_ref()?;
        let announcement = self.taken_at.and_then(|at| announce_at(at, self.announced));
        let question = self.asking_since.and_then(|since| ask_at(since, self.asked));
        let defence = self.contender.map(|_| defend_at(self.defended_at));
        [announcement, question, defence].into_iter().flatten().min()
    }

    fn note(&mut self, heard: Option<Mac>, now: Moment) {
        match (heard, self.contender) {
            (Some(mac), before) => {
                self.contender = Some((mac, now));
                if before.is_none_or(|(known, _)| known != mac) {
                    self.defended_at = now;
                    let notice = Notice::AddressDuplicate;
                    tracing::warn!(message_id = %notice.message_id(), "{}: {} is with {mac}", notice.sentence(), self.address);
                }
            }
            (None, Some((mac, at))) if !still_contends(at, now) => {
                self.contender = None;
                tracing::info!("{mac} no longer answers for {}", self.address);
            }
            (None, _) => {}
        }
    }

    /// Hears what is said of the address on this interface; on another socket if it is another interface by now.
    fn listen(&mut self, link: Link, now: Moment) {
        if self.neighbours.as_ref().is_some_and(|known| known.link() == link) {
            return;
        }
        match Neighbours::open(self.address.ip, link) {
            Ok(neighbours) => {
                if self.asking_since.is_none() {
                    // Nobody was asked before it was taken.
                    self.asking_since = Some(now);
                    self.asked = 0;
                }
                self.neighbours = Some(neighbours);
            }
            Err(error) => self.fail("announce", &error),
        }
    }

    fn link(&self) -> io::Result<Link> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, "there is no such interface");
        let mut found = getifaddrs()?.filter(|found| found.interface_name == self.address.interface);
        let link = found.find_map(|found| found.address?.as_link_addr().copied()).ok_or_else(missing)?;
        if link.hatype() != ETHERNET {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the interface is no Ethernet"));
        }
        let mac = link.addr().ok_or_else(missing)?;
        Ok(Link { index: u32::try_from(link.ifindex()).map_err(|_| missing())?, mac: Mac(mac) })
    }

    fn is_there(&self) -> bool {
        let here = |found: nix::ifaddrs::InterfaceAddress| {
            let address = found.address?;
            let ip: IpAddr = match address.family()? {
                nix::sys::socket::AddressFamily::Inet => address.as_sockaddr_in()?.ip().into(),
                nix::sys::socket::AddressFamily::Inet6 => address.as_sockaddr_in6()?.ip().into(),
                _ => return None,
            };
            Some(found.interface_name == self.address.interface && self.address.ip == ip)
        };
        getifaddrs().is_ok_and(|mut found| found.any(|found| here(found) == Some(true)))
    }

    fn tell_taken(&self) {
        let notice = Notice::AddressTaken;
        tracing::info!(message_id = %notice.message_id(), "{}: {}", notice.sentence(), self.address);
    }

    /// Told when it begins, and not with each attempt.
    fn fail(&mut self, what: &str, error: &io::Error) {
        let mut text = format!("{what} {}: {error}", self.address);
        text.truncate(
            (0..=FAILURE_MAX.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0),
        );
        if self.failure.as_ref() != Some(&text) {
            let notice = Notice::AddressFailed;
            tracing::error!(message_id = %notice.message_id(), "{}: {text}", notice.sentence());
        }
        self.failure = Some(text);
    }
}
