//! Who may change something: the allowlist, the client's certificate, the password, in this order. Questions are free.

use std::collections::BTreeMap;
use std::fmt;
use std::hint::black_box;
use std::net::IpAddr;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::config::Credentials;
use crate::model::{Cluster, words};

use super::answer::Answer;

/// Host names with the addresses that they had when they were last looked up.
pub type Resolved = BTreeMap<String, Vec<IpAddr>>;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Access {
    pub allowlist: Vec<Allowed>,
    pub include_members: bool,
    /// Whoever connects over TLS must have shown a certificate.
    pub certificate_needed: bool,
    expected: Option<Expected>,
}

/// The value of the header that a good client sends.
#[derive(Clone, PartialEq)]
struct Expected(String);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allowed {
    Network { address: IpAddr, bits: u8 },
    Name(String),
}

/// Somebody who asks.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    pub address: IpAddr,
    pub certificate_shown: bool,
    pub authorization: Option<&'a [u8]>,
}

impl Access {
    #[must_use]
    pub fn with_password(mut self, credentials: Option<&Credentials>) -> Access {
        self.expected = credentials.map(|credentials| {
            let both = format!("{}:{}", credentials.username, credentials.password.reveal());
            Expected(format!("Basic {}", STANDARD.encode(both)))
        });
        self
    }

    /// `failsafe` questions come from members, and being one is not enough for them.
    pub fn refuses(
        &self,
        client: Client,
        cluster: Option<&Cluster>,
        resolved: &Resolved,
        members_count: bool,
    ) -> Option<Answer> {
        if !self.admits(client.address, cluster.filter(|_| members_count), resolved) {
            return Some(Answer::sentence(403, "Access is denied"));
        }
        if self.certificate_needed && !client.certificate_shown {
            return Some(Answer::sentence(403, "client certificate required"));
        }
        let Expected(expected) = self.expected.as_ref()?;
        match client.authorization {
            None => Some(Answer::unauthorized("no auth header received")),
            Some(given) if same(given, expected.as_bytes()) => None,
            Some(_) => Some(Answer::unauthorized("not authenticated")),
        }
    }

    pub fn wants_password(&self) -> bool {
        self.expected.is_some()
    }

    /// The user of a good client's password; none where no password is asked for.
    pub fn user(&self, authorization: &[u8]) -> Option<String> {
        self.expected.as_ref()?;
        let encoded = authorization.strip_prefix(b"Basic ")?;
        let login = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
        words(login.split_once(':')?.0)
    }

    fn admits(&self, address: IpAddr, cluster: Option<&Cluster>, resolved: &Resolved) -> bool {
        if self.allowlist.is_empty() && !self.include_members {
            return true;
        }
        let address = address.to_canonical();
        let known = |name: &str| resolved.get(name).is_some_and(|all| all.contains(&address));
        let listed = self.allowlist.iter().any(|allowed| match allowed {
            Allowed::Network { address: network, bits } => contains(*network, *bits, address),
            Allowed::Name(name) => known(name),
        });
        let member = |host: &str| host.parse::<IpAddr>().map_or_else(|_| known(host), |ip| ip == address);
        listed || (self.include_members && members(cluster).any(|host| member(&host)))
    }

    /// Names that must be looked up before anybody is let in by them.
    pub fn names(&self, cluster: Option<&Cluster>) -> Vec<String> {
        let listed = self.allowlist.iter().filter_map(|allowed| match allowed {
            Allowed::Name(name) => Some(name.clone()),
            Allowed::Network { .. } => None,
        });
        let members = members(cluster.filter(|_| self.include_members));
        listed.chain(members.filter(|host| host.parse::<IpAddr>().is_err())).collect()
    }
}

fn members(cluster: Option<&Cluster>) -> impl Iterator<Item = String> {
    let records = cluster.into_iter().flat_map(|cluster| cluster.members.values());
    records.filter_map(|record| {
        let uri: hyper::Uri = record.api_url.parse().ok()?;
        let host = uri.host()?;
        Some(host.trim_start_matches('[').trim_end_matches(']').to_owned())
    })
}

impl FromStr for Allowed {
    type Err = String;

    /// An address, a network with its bits, or a host name.
    fn from_str(text: &str) -> Result<Allowed, String> {
        let text = text.trim();
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        match (address.parse::<IpAddr>(), bits) {
            (Ok(address), bits) => {
                let most = if address.is_ipv4() { 32 } else { 128 };
                let bits = bits.map_or(Some(most), |bits| bits.parse().ok().filter(|bits| *bits <= most));
                let bits = bits.ok_or_else(|| format!("{text:?} is no network: wanted bits up to {most}"))?;
                Ok(Allowed::Network { address, bits })
            }
            (Err(_), None) if !text.is_empty() => Ok(Allowed::Name(text.to_owned())),
            (Err(_), _) => Err(format!("{text:?} is neither an address nor a network nor a host name")),
        }
    }
}

fn contains(network: IpAddr, bits: u8, address: IpAddr) -> bool {
    let shift = |width: u8| u32::from(width - bits);
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            let apart = network.to_bits() ^ address.to_bits();
            apart.checked_shr(shift(32)).unwrap_or(0) == 0
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            let apart = network.to_bits() ^ address.to_bits();
            apart.checked_shr(shift(128)).unwrap_or(0) == 0
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

/// How long this takes tells nothing of where the two begin to differ.
fn same(given: &[u8], expected: &[u8]) -> bool {
    let mut apart = usize::from(given.len() != expected.len());
    for (place, byte) in expected.iter().enumerate() {
        apart |= usize::from(black_box(given.get(place).copied().unwrap_or_default() ^ byte));
    }
    black_box(apart) == 0
}

impl fmt::Debug for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::fixtures::three_members;
    use super::*;
    use crate::model::Secret;

    fn asks(access: &Access, address: &str, shown: bool, header: Option<&str>) -> (u16, String) {
        let client = Client {
            address: address.parse().expect("an address"),
            certificate_shown: shown,
            authorization: header.map(str::as_bytes),
        };
        let resolved = Resolved::from([("db1".to_owned(), vec!["10.1.0.9".parse().expect("an address")])]);
        let refusal = access.refuses(client, Some(&three_members()), &resolved, true);
        refusal.map_or((200, String::new()), |answer| {
            (answer.status, String::from_utf8(answer.body).expect("text"))
        })
    }

    fn allowing(list: &[&str]) -> Access {
        let allowlist = list.iter().map(|text| text.parse().expect("a good entry")).collect();
        Access { allowlist, ..Access::default() }
    }

    #[test]
    fn only_who_is_listed_gets_in() {
        let access = allowing(&["10.0.0.0/8", "192.168.1.7", "fd00::/16", "db1"]);
        for (list, address, code) in [
            (&access, "10.255.0.1", 200),
            (&access, "11.0.0.1", 403),
            (&access, "::ffff:10.0.0.1", 200),
            (&access, "192.168.1.7", 200),
            (&access, "192.168.1.8", 403),
            (&access, "fd00:1::1", 200),
            (&access, "127.0.0.1", 403),
            (&allowing(&["0.0.0.0/0"]), "8.8.8.8", 200),
            (&allowing(&["db1"]), "10.1.0.9", 200),
            (&allowing(&["db2"]), "10.1.0.9", 403),
            (&Access { include_members: true, ..Access::default() }, "127.0.0.1", 200),
            (&Access { include_members: true, ..Access::default() }, "127.0.0.2", 403),
            (&Access::default(), "8.8.8.8", 200),
        ] {
            assert_eq!(asks(list, address, false, None).0, code, "{address}");
        }
        assert_eq!(asks(&allowing(&["10.0.0.1"]), "9.9.9.9", false, None).1, "Access is denied");
    }

    #[test]
    fn a_password_must_be_the_right_one() {
        let credentials = Credentials { username: "admin".into(), password: Secret::new("sesame") };
        let access = Access::default().with_password(Some(&credentials));
        let good = format!("Basic {}", STANDARD.encode("admin:sesame"));
        let table = [
            (None, 401, "no auth header received"),
            (Some("Basic x"), 401, "not authenticated"),
            (Some(""), 401, "not authenticated"),
            (Some(&*format!("{good}=")), 401, "not authenticated"),
            (Some(&*good), 200, ""),
        ];
        for (header, code, sentence) in table {
            assert_eq!(asks(&access, "127.0.0.1", false, header), (code, sentence.to_owned()), "{header:?}");
        }
        assert!(!format!("{access:?}").contains(&good));
        assert_eq!(access.user(good.as_bytes()).as_deref(), Some("admin"));
        assert_eq!((access.user(b"Basic x"), Access::default().user(good.as_bytes())), (None, None));
    }

    #[test]
    fn the_checks_come_in_patronis_order() {
        let access = Access { certificate_needed: true, ..allowing(&["10.0.0.1"]) };
        assert_eq!(asks(&access, "9.9.9.9", false, None).1, "Access is denied");
        assert_eq!(asks(&access, "10.0.0.1", false, None).1, "client certificate required");
        assert_eq!(asks(&access, "10.0.0.1", true, None).0, 200);
    }

    proptest! {
        #[test]
        fn every_entry_is_read_or_refused(text in "\\PC{0,20}|[0-9a-f:.]{1,20}/[0-9]{0,3}", address: u32, bits in 0u8..=32) {
            let _ = text.parse::<Allowed>();
            let address = IpAddr::V4(std::net::Ipv4Addr::from_bits(address));
            prop_assert!(contains(address, bits, address));
        }
    }
}
