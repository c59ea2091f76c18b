//! Adding addresses to interfaces and taking them away, in the kernel's own messages (rtnetlink): a request of a few bytes each,
//! and the kernel's word on it.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto, setsockopt,
    socket, sockopt::ReceiveTimeout,
};
use nix::sys::time::TimeVal;

use crate::model::VirtualAddress;

const HEADER: usize = 16;
/// The kernel answers at once; this is for one that does not.
const ANSWER_WITHIN_MS: i64 = 500;
/// Words of the kernel that are not ours, before its answer to us is given up.
const STRANGERS_MAX: usize = 16;

/// How long the kernel is to keep an address if nobody says more. This is the last ring: it works when everybody else is frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    Seconds(u32),
    Unbounded,
}

#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    pub fn open() -> io::Result<Netlink> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        setsockopt(&socket, ReceiveTimeout, &TimeVal::new(0, ANSWER_WITHIN_MS * 1000))?;
        Ok(Netlink { socket, sequence: 0 })
    }

    /// True if it was not there.
    pub fn add(&mut self, address: &VirtualAddress, link: u32, lifetime: Lifetime) -> io::Result<bool> {
        match self.ask(libc::RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_EXCL, address, link, lifetime) {
            Ok(()) => Ok(true),
            Err(Errno::EEXIST) => {
                self.ask(libc::RTM_NEWADDR, libc::NLM_F_REPLACE, address, link, lifetime)?;
                Ok(false)
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// True if it was there.
    pub fn remove(&mut self, address: &VirtualAddress, link: u32) -> io::Result<bool> {
        match self.ask(libc::RTM_DELADDR, 0, address, link, Lifetime::Unbounded) {
            Ok(()) => Ok(true),
            Err(Errno::EADDRNOTAVAIL | Errno::ENODEV) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    fn ask(
        &mut self,
        kind: u16,
        flags: i32,
        address: &VirtualAddress,
        link: u32,
        lifetime: Lifetime,
    ) -> Result<(), Errno> {
        self.sequence = self.sequence.wrapping_add(1);
        let message = message(kind, flags, self.sequence, address, link, lifetime);
        sendto(self.socket.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        let mut buffer = [0u8; 1024];
        for _ in 0..STRANGERS_MAX {
            let filled = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            if let Some(verdict) = verdict(&buffer[..filled.min(buffer.len())], self.sequence) {
                return if verdict == 0 { Ok(()) } else { Err(Errno::from_raw(verdict)) };
            }
        }
        Err(Errno::EPROTO)
    }
}

/// `struct nlmsghdr`, `struct ifaddrmsg`, attributes. Numbers are in the byte order of the machine.
fn message(
    kind: u16,
    flags: i32,
    sequence: u32,
    address: &VirtualAddress,
    link: u32,
    lifetime: Lifetime,
) -> Vec<u8> {
    let (family, octets) = match address.ip {
        IpAddr::V4(ip) => (libc::AF_INET, ip.octets().to_vec()),
        IpAddr::V6(ip) => (libc::AF_INET6, ip.octets().to_vec()),
    };
    let mut body = vec![u8::try_from(family).unwrap_or(0), address.prefix, 0, 0];
    body.extend(link.to_ne_bytes());
    attribute(&mut body, libc::IFA_LOCAL, &octets);
    attribute(&mut body, libc::IFA_ADDRESS, &octets);
    if kind == libc::RTM_NEWADDR {
        let valid = match lifetime {
            Lifetime::Seconds(seconds) => seconds,
            Lifetime::Unbounded => u32::MAX,
        };
        // No connection of ours shall begin from an IPv6 address that goes away. The kernel's own detection of duplicates would hold
        // the address back for a second and more; and its route would share the lifetime, which may be another address's route.
        let (flags, preferred) = match address.ip {
            IpAddr::V4(_) => (0, valid),
            IpAddr::V6(_) => (libc::IFA_F_NODAD | libc::IFA_F_NOPREFIXROUTE, 0),
        };
        if flags != 0 {
            attribute(&mut body, libc::IFA_FLAGS, &flags.to_ne_bytes());
        }
        let times = [preferred, valid, 0, 0].map(u32::to_ne_bytes).concat();
        attribute(&mut body, libc::IFA_CACHEINFO, &times);
    }
    let flags = u16::try_from(libc::NLM_F_REQUEST | libc::NLM_F_ACK | flags).unwrap_or(0);
    let length = u32::try_from(HEADER + body.len()).unwrap_or(0);
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend(sequence.to_ne_bytes());
    message.extend(0u32.to_ne_bytes());
    message.extend(body);
    message
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(0);
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    // The next one begins at a multiple of four.
    body.resize(body.len().next_multiple_of(4), 0);
}

/// The number of the error in an answer to the request of this number, 0 for none. `None` for anything else.
fn verdict(datagram: &[u8], sequence: u32) -> Option<i32> {
    let word = |at: usize| datagram.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    let kind = datagram.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes)?;
    let is_ours = i32::from(kind) == libc::NLMSG_ERROR && word(8).map(u32::from_ne_bytes)? == sequence;
    is_ours.then(|| word(HEADER).map(i32::from_ne_bytes)).flatten().map(i32::saturating_neg)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hex(bytes: &[u8]) -> String {
        let byte = |(at, byte): (usize, &u8)| format!("{byte:02x}{}", if at % 4 == 3 { " " } else { "" });
        bytes.iter().enumerate().map(byte).collect::<Vec<_>>().concat()
    }

    /// On machines of the usual byte order.
    #[test]
    #[cfg(target_endian = "little")]
    fn messages_are_what_the_kernel_reads() {
        let v4: VirtualAddress = "10.0.0.100/24 dev eth0".parse().expect("one");
        let add = message(
            libc::RTM_NEWADDR,
            libc::NLM_F_CREATE | libc::NLM_F_EXCL,
            7,
            &v4,
            3,
            Lifetime::Seconds(9),
        );
        assert_eq!(
            hex(&add),
            "3c000000 14000506 07000000 00000000 \
             02180000 03000000 \
             08000200 0a000064 08000100 0a000064 \
             14000600 09000000 09000000 00000000 00000000 "
        );
        let v6: VirtualAddress = "2001:db8::64 dev eth0".parse().expect("one");
        let replace = message(libc::RTM_NEWADDR, libc::NLM_F_REPLACE, 8, &v6, 3, Lifetime::Unbounded);
        assert_eq!(
            hex(&replace),
            "5c000000 14000501 08000000 00000000 \
             0a800000 03000000 \
             14000200 20010db8 00000000 00000000 00000064 \
             14000100 20010db8 00000000 00000000 00000064 \
             08000800 02020000 \
             14000600 00000000 ffffffff 00000000 00000000 "
        );
        let remove = message(libc::RTM_DELADDR, 0, 9, &v4, 3, Lifetime::Unbounded);
        assert_eq!(
            hex(&remove),
            "28000000 15000500 09000000 00000000 \
             02180000 03000000 \
             08000200 0a000064 08000100 0a000064 "
        );
    }

    #[test]
    fn only_the_answer_to_the_request_counts() {
        let answer = |kind: i32, sequence: u32, error: i32| {
            let mut bytes = 36u32.to_ne_bytes().to_vec();
            bytes.extend(u16::try_from(kind).expect("small").to_ne_bytes());
            bytes.extend([0, 0]);
            bytes.extend(sequence.to_ne_bytes());
            bytes.extend([0; 4]);
            bytes.extend(error.to_ne_bytes());
            bytes
        };
        assert_eq!(verdict(&answer(libc::NLMSG_ERROR, 7, 0), 7), Some(0));
        assert_eq!(verdict(&answer(libc::NLMSG_ERROR, 7, -libc::EEXIST), 7), Some(libc::EEXIST));
        assert_eq!(verdict(&answer(libc::NLMSG_ERROR, 6, 0), 7), None);
        assert_eq!(verdict(&answer(libc::NLMSG_DONE, 7, 0), 7), None);
        assert_eq!(verdict(&answer(libc::NLMSG_ERROR, 7, 0)[..18], 7), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = verdict(&bytes, 1);
        }
    }
}
