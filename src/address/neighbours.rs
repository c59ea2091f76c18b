//! Speaking with the neighbours about an address: asking who has it, telling them that it is here, and hearing who else says so.
//! ARP for IPv4 (RFC 826, RFC 5227), neighbour discovery for IPv6 (RFC 4861).

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{MsgFlags, recv};

/// A link-layer address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

/// A network interface as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub mac: Mac,
}

/// One socket that hears of one address on one interface.
#[derive(Debug)]
pub struct Neighbours {
    socket: OwnedFd,
    ip: IpAddr,
    link: Link,
}

const BROADCAST: Mac = Mac([0xff; 6]);
const NOBODY: Mac = Mac([0; 6]);
const ETH_P_ARP: u16 = 0x0806;
const ARP_REQUEST: u16 = 1;
const ARP_REPLY: u16 = 2;
const ARP_LENGTH: usize = 28;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// ff02::1
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const OVERRIDE: u8 = 0x20;
const SOURCE_LINK_ADDRESS: u8 = 1;
const TARGET_LINK_ADDRESS: u8 = 2;
/// Only what has passed no router counts; others drop what has another one.
const HOPS: i32 = 255;
/// `ICMP6_FILTER` of linux/icmpv6.h.
const ICMP6_FILTER: i32 = 1;
/// Datagrams that are read at one time, however many come.
const READ_MAX: usize = 64;

impl Neighbours {
    pub fn open(ip: IpAddr, link: Link) -> io::Result<Neighbours> {
        let socket = match ip {
            IpAddr::V4(_) => open_arp(link.index)?,
            IpAddr::V6(_) => open_icmp(link.index)?,
        };
        Ok(Neighbours { socket, ip, link })
    }

    pub fn link(&self) -> Link {
        self.link
    }

    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Asks who has the address, in a way that changes nobody's tables.
    pub fn ask(&self) -> io::Result<()> {
        match self.ip {
            IpAddr::V4(ip) => {
                let probe = arp(ARP_REQUEST, (self.link.mac, Ipv4Addr::UNSPECIFIED), (NOBODY, ip));
                self.send_arp(&probe)
            }
            IpAddr::V6(ip) => self.send_icmp(solicited_nodes(ip), &solicitation(ip, self.link.mac)),
        }
    }

    /// Tells everybody that the address is here. Some hosts and switches take note of requests only, some of replies.
    pub fn announce(&self) -> io::Result<()> {
        match self.ip {
            IpAddr::V4(ip) => {
                self.send_arp(&arp(ARP_REQUEST, (self.link.mac, ip), (NOBODY, ip)))?;
                self.send_arp(&arp(ARP_REPLY, (self.link.mac, ip), (BROADCAST, ip)))
            }
            IpAddr::V6(ip) => self.send_icmp(ALL_NODES, &advertisement(ip, self.link.mac)),
        }
    }

    /// The last other host that has spoken as the owner of the address.
    pub fn hear(&self) -> Option<Mac> {
        let mut other = None;
        let mut buffer = [0u8; 256];
        for _ in 0..READ_MAX {
            let Ok(filled) = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) else {
                break;
            };
            let datagram = &buffer[..filled.min(buffer.len())];
            let owner = match self.ip {
                IpAddr::V4(ip) => arp_owner(datagram, ip),
                IpAddr::V6(ip) => advertised_owner(datagram, ip),
            };
            other = owner.filter(|owner| *owner != self.link.mac).or(other);
        }
        other
    }

    fn send_arp(&self, packet: &[u8]) -> io::Result<()> {
        let mut to = link_address(self.link.index);
        to.sll_halen = 6;
        to.sll_addr[..6].copy_from_slice(&BROADCAST.0);
        self.send(packet, &to)
    }

    fn send_icmp(&self, to: Ipv6Addr, packet: &[u8]) -> io::Result<()> {
        let to = libc::sockaddr_in6 {
            sin6_family: libc::sa_family_t::try_from(libc::AF_INET6).unwrap_or(0),
            sin6_port: 0,
            sin6_flowinfo: 0,
            sin6_addr: libc::in6_addr { s6_addr: to.octets() },
            sin6_scope_id: self.link.index,
        };
        self.send(packet, &to)
    }

    fn send<Address>(&self, packet: &[u8], to: &Address) -> io::Result<()> {
        // SAFETY: an address of the length that is told, and bytes that live as long as the call.
        let outcome = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                packet.as_ptr().cast(),
                packet.len(),
                libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
                std::ptr::from_ref(to).cast(),
                length_of::<Address>(),
            )
        };
        Errno::result(outcome).map(|_| ()).map_err(io::Error::from)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: Vec<String> = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        f.write_str(&bytes.join(":"))
    }
}

fn open_arp(link: u32) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    let socket = made(libc::AF_PACKET, kind, i32::from(ETH_P_ARP.to_be()))?;
    let here = link_address(link);
    // SAFETY: an address of the length that is told.
    let bound =
        unsafe { libc::bind(socket.as_raw_fd(), (&raw const here).cast(), length_of::<libc::sockaddr_ll>()) };
    Errno::result(bound)?;
    Ok(socket)
}

/// The kernel adds the checksum, and a source address of the interface.
fn open_icmp(link: u32) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    let socket = made(libc::AF_INET6, kind, libc::IPPROTO_ICMPV6)?;
    // A bit that is set blocks its type.
    let mut filter = [u32::MAX; 8];
    filter[usize::from(ADVERTISEMENT) / 32] &= !(1u32 << (ADVERTISEMENT % 32));
    let link = i32::try_from(link).unwrap_or(0);
    set(&socket, libc::IPPROTO_ICMPV6, ICMP6_FILTER, &filter)?;
    set(&socket, libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_IF, &link)?;
    set(&socket, libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_HOPS, &HOPS)?;
    set(&socket, libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_LOOP, &0i32)?;
    Ok(socket)
}

fn made(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: a call without pointers.
    let fd = Errno::result(unsafe { libc::socket(family, kind, protocol) })?;
    // SAFETY: a descriptor that the kernel has just made for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn set<T>(socket: &OwnedFd, level: i32, option: i32, value: &T) -> io::Result<()> {
    // SAFETY: a value of the length that is told.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(value).cast(),
            length_of::<T>(),
        )
    };
    Errno::result(outcome).map(|_| ()).map_err(io::Error::from)
}

fn length_of<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0)
}

fn link_address(link: u32) -> libc::sockaddr_ll {
    libc::sockaddr_ll {
        sll_family: libc::c_ushort::try_from(libc::AF_PACKET).unwrap_or(0),
        sll_protocol: ETH_P_ARP.to_be(),
        sll_ifindex: i32::try_from(link).unwrap_or(0),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    }
}

/// Ethernet and IPv4.
fn arp(operation: u16, from: (Mac, Ipv4Addr), to: (Mac, Ipv4Addr)) -> [u8; ARP_LENGTH] {
    let mut packet = [0; ARP_LENGTH];
    packet[..6].copy_from_slice(&[0, 1, 8, 0, 6, 4]);
    packet[6..8].copy_from_slice(&operation.to_be_bytes());
    packet[8..14].copy_from_slice(&from.0.0);
    packet[14..18].copy_from_slice(&from.1.octets());
    packet[18..24].copy_from_slice(&to.0.0);
    packet[24..28].copy_from_slice(&to.1.octets());
    packet
}

/// Who sends as this address; a probe of somebody who asks for it does not.
fn arp_owner(packet: &[u8], ip: Ipv4Addr) -> Option<Mac> {
    let is_arp = packet.get(..6)? == [0, 1, 8, 0, 6, 4];
    let owner = packet.get(8..14)?.try_into().ok().map(Mac)?;
    (is_arp && packet.get(14..18)? == ip.octets()).then_some(owner)
}

/// The group of those whose addresses end in the same 24 bits: where solicitations go.
fn solicited_nodes(ip: Ipv6Addr) -> Ipv6Addr {
    let [.., high, low] = ip.segments();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | (high & 0xff), low)
}

fn solicitation(target: Ipv6Addr, mac: Mac) -> [u8; 32] {
    discovery(SOLICITATION, 0, target, SOURCE_LINK_ADDRESS, mac)
}

/// That nobody asked for, and that replaces what they knew.
fn advertisement(target: Ipv6Addr, mac: Mac) -> [u8; 32] {
    discovery(ADVERTISEMENT, OVERRIDE, target, TARGET_LINK_ADDRESS, mac)
}

fn discovery(kind: u8, flags: u8, target: Ipv6Addr, option: u8, mac: Mac) -> [u8; 32] {
    let mut packet = [0; 32];
    packet[0] = kind;
    packet[4] = flags;
    packet[8..24].copy_from_slice(&target.octets());
    // Its length is counted in eights.
    packet[24..26].copy_from_slice(&[option, 1]);
    packet[26..].copy_from_slice(&mac.0);
    packet
}

fn advertised_owner(packet: &[u8], ip: Ipv6Addr) -> Option<Mac> {
    let advertises = packet.first() == Some(&ADVERTISEMENT) && packet.get(8..24)? == ip.octets();
    let mut options = packet.get(24..)?;
    while advertises && let &[kind, eights, ..] = options {
        let length = usize::from(eights) * 8;
        if kind == TARGET_LINK_ADDRESS && eights == 1 {
            return options.get(2..8)?.try_into().ok().map(Mac);
        }
        // One of length nought would be read for ever.
        options = options.get(length.max(8)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OURS: Mac = Mac([2, 0, 0, 0, 0, 0xa]);
    const V4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 100);
    const V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0x12_34, 0x56_78);

    fn hex(bytes: &[u8]) -> String {
        let shown: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        shown.concat()
    }

    #[test]
    fn arp_is_written_as_rfc_826_and_5227_say() {
        let probe = arp(ARP_REQUEST, (OURS, Ipv4Addr::UNSPECIFIED), (NOBODY, V4));
        assert_eq!(
            hex(&probe),
            concat!("0001080006040001", "02000000000a", "00000000", "000000000000", "0a000064")
        );
        let told = arp(ARP_REPLY, (OURS, V4), (BROADCAST, V4));
        assert_eq!(
            hex(&told),
            concat!("0001080006040002", "02000000000a", "0a000064", "ffffffffffff", "0a000064")
        );
    }

    #[test]
    fn who_speaks_as_the_owner_is_heard_and_who_only_asks_is_not() {
        let other = Mac([2, 0, 0, 0, 0, 0xb]);
        assert_eq!(arp_owner(&arp(ARP_REPLY, (other, V4), (OURS, Ipv4Addr::UNSPECIFIED)), V4), Some(other));
        assert_eq!(arp_owner(&arp(ARP_REQUEST, (other, V4), (NOBODY, V4)), V4), Some(other));
        assert_eq!(arp_owner(&arp(ARP_REQUEST, (other, Ipv4Addr::UNSPECIFIED), (NOBODY, V4)), V4), None);
        assert_eq!(arp_owner(&arp(ARP_REPLY, (other, V4), (OURS, V4)), Ipv4Addr::new(10, 0, 0, 99)), None);
        assert_eq!(advertised_owner(&advertisement(V6, other), V6), Some(other));
        assert_eq!(advertised_owner(&advertisement(V6, other), Ipv6Addr::LOCALHOST), None);
        assert_eq!(advertised_owner(&solicitation(V6, other), V6), None);
    }

    #[test]
    fn neighbour_discovery_is_written_as_rfc_4861_says() {
        assert_eq!(solicited_nodes(V6).to_string(), "ff02::1:ff34:5678");
        assert_eq!(
            hex(&advertisement(V6, OURS)),
            concat!("8800000020000000", "20010db8000000000000000012345678", "020102000000000a")
        );
        assert_eq!(
            hex(&solicitation(V6, OURS)),
            concat!("8700000000000000", "20010db8000000000000000012345678", "010102000000000a")
        );
        // Behind an option that is not known.
        let mut longer = advertisement(V6, OURS).to_vec();
        longer.splice(24..24, [14, 2].into_iter().chain([0; 14]));
        assert_eq!(advertised_owner(&longer, V6), Some(OURS));
    }

    proptest! {
        #[test]
        fn no_packet_makes_a_reader_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..64), cut: bool) {
            let _ = (arp_owner(&bytes, V4), advertised_owner(&bytes, V6));
            if cut && 24 <= bytes.len() {
                bytes[0] = ADVERTISEMENT;
                bytes[8..24].copy_from_slice(&V6.octets());
                let _ = advertised_owner(&bytes, V6);
            }
        }
    }
}
