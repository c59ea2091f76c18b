//! An address that goes with the primary: how it is written, what its holder is told, and what it says.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Moment;

/// `10.0.0.100/24 dev eth0`, as ip(8) writes it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VirtualAddress {
    pub ip: IpAddr,
    pub prefix: u8,
    pub interface: String,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VirtualAddressError {
    #[error("{0:?} is not written as ADDRESS/PREFIX dev INTERFACE")]
    Form(String),
    #[error("{0:?} is no IPv4 or IPv6 address")]
    Address(String),
    #[error("{0} cannot be the address of a host")]
    NotOfAHost(IpAddr),
    #[error("{0:?} is no length of a prefix from 1 to {1}")]
    Prefix(String, u8),
    #[error("{0:?} cannot be the name of a network interface")]
    Interface(String),
}

/// The kernel's longest name of an interface.
const INTERFACE_MAX: usize = 15;

/// What a decision means for the virtual addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressOrder {
    /// They are not ours: take them away if they are here.
    Away,
    /// They are about to become ours: ask the network whether somebody has them.
    Ask,
    /// Nothing is known that would change the last order, which has its own end.
    Keep,
    /// Whoever has them keeps them until then, and whoever has not does not take them.
    Extend {
        until: Until,
    },
    Hold {
        until: Until,
    },
}

/// How long an order counts if no other follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Until {
    Moment(Moment),
    /// In maintenance mode a primary has no deadline, and its address has none.
    Revoked,
}

/// How one virtual address is on this member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressStanding {
    pub address: VirtualAddress,
    pub held: bool,
    /// The link-layer address of another host that has answered for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duplicate: Option<String>,
    /// Why it could not be added, removed or announced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

impl VirtualAddress {
    /// So many may one member have.
    pub const COUNT_MAX: usize = 16;

    /// Only this one host.
    fn prefix_max(ip: IpAddr) -> u8 {
        if ip.is_ipv4() { 32 } else { 128 }
    }
}

impl FromStr for VirtualAddress {
    type Err = VirtualAddressError;

    fn from_str(text: &str) -> Result<VirtualAddress, VirtualAddressError> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let &[address, "dev", interface] = words.as_slice() else {
            return Err(VirtualAddressError::Form(text.to_owned()));
        };
        let (ip, prefix) = address.split_once('/').map_or((address, None), |(ip, prefix)| (ip, Some(prefix)));
        let ip: IpAddr = ip.parse().map_err(|_| VirtualAddressError::Address(ip.to_owned()))?;
        let of_a_host = match ip {
            IpAddr::V4(ip) => !ip.is_broadcast() && ip.octets()[0] != 0 && ip.octets()[0] < 224,
            // Link-local ones are one for each interface, and mapped ones are IPv4's.
            IpAddr::V6(ip) => ip.to_ipv4_mapped().is_none() && !ip.is_unicast_link_local(),
        };
        if !of_a_host || ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() {
            return Err(VirtualAddressError::NotOfAHost(ip));
        }
        let longest = VirtualAddress::prefix_max(ip);
        let prefix = match prefix {
            None => longest,
            Some(text) => (text.parse().ok())
                .filter(|prefix| (1..=longest).contains(prefix) && !text.starts_with(['+', '0']))
                .ok_or_else(|| VirtualAddressError::Prefix(text.to_owned(), longest))?,
        };
        let is_name = (1..=INTERFACE_MAX).contains(&interface.len())
            && !interface.contains(['/', ':'])
            && ![".", "..", "lo"].contains(&interface);
        if !is_name {
            return Err(VirtualAddressError::Interface(interface.to_owned()));
        }
        Ok(VirtualAddress { ip, prefix, interface: interface.to_owned() })
    }
}

impl fmt::Display for VirtualAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let VirtualAddress { ip, prefix, interface } = self;
        write!(f, "{ip}/{prefix} dev {interface}")
    }
}

impl TryFrom<String> for VirtualAddress {
    type Error = VirtualAddressError;

    fn try_from(text: String) -> Result<VirtualAddress, VirtualAddressError> {
        text.parse()
    }
}

impl From<VirtualAddress> for String {
    fn from(address: VirtualAddress) -> String {
        address.to_string()
    }
}

impl Until {
    pub fn has_passed(self, now: Moment) -> bool {
        match self {
            Until::Moment(at) => at <= now,
            Until::Revoked => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_written_as_ip_writes_it() {
        let check = |text: &str, wanted: &str| {
            let address: VirtualAddress = text.parse().expect("an address");
            assert_eq!(address.to_string(), wanted);
            assert_eq!(wanted.parse(), Ok(address), "the way back");
        };
        check("10.0.0.100/24 dev eth0", "10.0.0.100/24 dev eth0");
        check("  10.0.0.100  dev  bond0.17 ", "10.0.0.100/32 dev bond0.17");
        check("2001:DB8::64/64 dev eth0", "2001:db8::64/64 dev eth0");
        check("2001:db8::64 dev eth0", "2001:db8::64/128 dev eth0");
    }

    #[test]
    fn what_cannot_be_a_virtual_address_is_refused_with_its_reason() {
        let check = |text: &str, why: &str| {
            let refused = text.parse::<VirtualAddress>().expect_err(text);
            assert!(refused.to_string().contains(why), "{text}: {refused}");
        };
        check("", "is not written as");
        check("10.0.0.100/24", "is not written as");
        check("10.0.0.100/24 eth0", "is not written as");
        check("10.0.0/24 dev eth0", "no IPv4 or IPv6 address");
        check("db.example/24 dev eth0", "no IPv4 or IPv6 address");
        for ip in ["127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "::", "::1", "ff02::1", "fe80::1"]
        {
            check(&format!("{ip} dev eth0"), "cannot be the address of a host");
        }
        check("::ffff:10.0.0.1 dev eth0", "cannot be the address of a host");
        for prefix in ["0", "33", "-1", "+8", "024", "", "x"] {
            check(&format!("10.0.0.1/{prefix} dev eth0"), "no length of a prefix from 1 to 32");
        }
        check("2001:db8::1/129 dev eth0", "no length of a prefix from 1 to 128");
        for name in ["lo", "a/b", "eth0:1", "..", "a-name-that-is-too-long"] {
            check(&format!("10.0.0.1/24 dev {name}"), "cannot be the name of a network interface");
        }
    }

    #[test]
    fn what_is_without_an_end_never_passes() {
        let at = Moment::from_ms;
        assert!(Until::Moment(at(5)).has_passed(at(5)) && !Until::Moment(at(5)).has_passed(at(4)));
        assert!(!Until::Revoked.has_passed(at(u64::MAX)));
    }
}
