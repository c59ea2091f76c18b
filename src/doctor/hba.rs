//! Would pg_hba.conf let somebody in? Its lines, as PostgreSQL's view `pg_hba_file_rules` shows them, decided as PostgreSQL decides: the
//! first that fits counts. Where a line depends on what cannot be seen from here (groups, names of hosts, patterns), that is said.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// A line of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct HbaRule {
    pub line: u32,
    pub kind: Option<String>,
    pub databases: Option<Vec<String>>,
    pub users: Option<Vec<String>>,
    pub address: Option<String>,
    pub netmask: Option<String>,
    pub method: Option<String>,
    pub error: Option<String>,
}

/// Somebody who wants in.
#[derive(Clone, Copy, Debug)]
pub struct Knock<'a> {
    /// `None` for physical replication, which no database's name fits.
    pub database: Option<&'a str>,
    pub user: &'a str,
    pub address: IpAddr,
    /// The networks that the server is in; none if they are not known.
    pub networks: &'a [Network],
}

/// A network, by an address in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    pub address: IpAddr,
    pub mask: IpAddr,
}

impl Network {
    fn holds(&self, address: IpAddr) -> bool {
        match (self.address, self.mask, address) {
            (IpAddr::V4(own), IpAddr::V4(mask), IpAddr::V4(other)) => {
                (own.to_bits() ^ other.to_bits()) & mask.to_bits() == 0
            }
            (IpAddr::V6(own), IpAddr::V6(mask), IpAddr::V6(other)) => {
                (own.to_bits() ^ other.to_bits()) & mask.to_bits() == 0
            }
            (IpAddr::V4(_) | IpAddr::V6(_), _, _) => false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Plain,
    Encrypted,
}

/// What comes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum Entry {
    Admitted {
        line: u32,
    },
    Rejected {
        line: u32,
    },
    NoLine,
    /// It depends on this line, which cannot be judged from here.
    Perhaps {
        line: u32,
    },
}

/// With libpq's habit of trying again in another way, the best of the transports counts.
pub fn admits(rules: &[HbaRule], knock: Knock, transports: &[Transport]) -> Entry {
    let rank = |entry: &Entry| match entry {
        Entry::Admitted { .. } => 0,
        Entry::Perhaps { .. } => 1,
        Entry::Rejected { .. } => 2,
        Entry::NoLine => 3,
    };
    let each = transports.iter().map(|transport| walk(rules, knock, *transport));
    each.min_by_key(rank).unwrap_or(Entry::NoLine)
}

fn walk(rules: &[HbaRule], knock: Knock, transport: Transport) -> Entry {
    let mut doubtful = Vec::new();
    let mut end = Entry::NoLine;
    for rule in rules.iter().filter(|rule| rule.error.is_none()) {
        match fits(rule, knock, transport) {
            Some(false) => {}
            Some(true) => {
                end = outcome(rule);
                break;
            }
            None => doubtful.push(rule),
        }
    }
    let enters = |entry: &Entry| matches!(entry, Entry::Admitted { .. });
    match doubtful.iter().find(|rule| enters(&outcome(rule)) != enters(&end)) {
        Some(rule) => Entry::Perhaps { line: rule.line },
        None => end,
    }
}

fn outcome(rule: &HbaRule) -> Entry {
    match rule.method.as_deref() {
        Some("reject") => Entry::Rejected { line: rule.line },
        Some(_) | None => Entry::Admitted { line: rule.line },
    }
}

/// `None`: it cannot be told from here.
fn fits(rule: &HbaRule, knock: Knock, transport: Transport) -> Option<bool> {
    let transport = match rule.kind.as_deref() {
        Some("host" | "hostnogssenc") => Some(true),
        Some("hostssl") => Some(transport == Transport::Encrypted),
        Some("hostnossl") => Some(transport == Transport::Plain),
        Some("local" | "hostgssenc") => Some(false),
        Some(_) | None => None,
    };
    let databases = rule.databases.iter().flatten().map(|named| database_fits(named, knock));
    let users = rule.users.iter().flatten().map(|named| user_fits(named, knock));
    let parts = [transport, any(databases), any(users), address_fits(rule, knock)];
    if parts.contains(&Some(false)) {
        Some(false)
    } else if parts.contains(&None) {
        None
    } else {
        Some(true)
    }
}

fn any(fits: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    let mut whole = Some(false);
    for one in fits {
        match one {
            Some(true) => return Some(true),
            Some(false) => {}
            None => whole = None,
        }
    }
    whole
}

fn database_fits(named: &str, knock: Knock) -> Option<bool> {
    match (named, knock.database) {
        ("replication", database) => Some(database.is_none()),
        (_, None) => Some(false),
        ("all", Some(_)) => Some(true),
        ("sameuser", Some(database)) => Some(database == knock.user),
        ("samerole" | "samegroup", Some(_)) => None,
        (pattern, Some(_)) if pattern.starts_with(['/', '@']) => None,
        (name, Some(database)) => Some(name == database),
    }
}

fn user_fits(named: &str, knock: Knock) -> Option<bool> {
    match named {
        "all" => Some(true),
        group if group.starts_with(['+', '/', '@']) => None,
        name => Some(name == knock.user),
    }
}

fn address_fits(rule: &HbaRule, knock: Knock) -> Option<bool> {
    let known = || (!knock.networks.is_empty()).then_some(knock.networks);
    match rule.address.as_deref()? {
        "all" => Some(true),
        "samehost" => Some(known()?.iter().any(|network| network.address == knock.address)),
        "samenet" => Some(known()?.iter().any(|network| network.holds(knock.address))),
        named => {
            let (address, mask) = (named.parse().ok()?, rule.netmask.as_deref()?.parse().ok()?);
            Some(Network { address, mask }.holds(knock.address))
        }
    }
}

impl HbaRule {
    /// Lets whoever comes from elsewhere in without asking for anything.
    pub fn trusts_others(&self) -> bool {
        let here = |text: &str| text.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        self.error.is_none()
            && self.method.as_deref() == Some("trust")
            && self.kind.as_deref().is_some_and(|kind| kind.starts_with("host"))
            && self.address.as_deref().is_some_and(|address| address != "samehost" && !here(address))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As the view shows `host all all 10.0.0.0/8 md5`.
    fn rule(text: &str) -> HbaRule {
        let words: Vec<&str> = text.split_whitespace().collect();
        let list = |words: &str| Some(words.split(',').map(str::to_owned).collect());
        let (address, netmask) = match words[3].split_once('/') {
            Some((address, mask)) => (address, Some(mask.to_owned())),
            None => (words[3], None),
        };
        HbaRule {
            line: words[5].parse().expect("a line"),
            kind: Some(words[0].to_owned()),
            databases: list(words[1]),
            users: list(words[2]),
            address: (address != "-").then(|| address.to_owned()),
            netmask,
            method: Some(words[4].to_owned()),
            error: None,
        }
    }

    fn check(lines: &[&str], database: Option<&str>, transports: &[Transport], wanted: &Entry) {
        let rules: Vec<HbaRule> = lines.iter().map(|line| rule(line)).collect();
        let address = "10.0.0.2".parse().expect("an address");
        let knock = Knock { database, user: "replicator", address, networks: &[] };
        assert_eq!(admits(&rules, knock, transports), *wanted, "{lines:?} {database:?}");
    }

    const PLAIN: &[Transport] = &[Transport::Plain];
    const EITHER: &[Transport] = &[Transport::Encrypted, Transport::Plain];

    #[test]
    fn all_databases_are_not_replication() {
        let all = &["host all all 0.0.0.0/0.0.0.0 md5 3"];
        check(all, None, PLAIN, &Entry::NoLine);
        check(all, Some("postgres"), PLAIN, &Entry::Admitted { line: 3 });
        check(
            &["host replication replicator 10.0.0.0/255.0.0.0 md5 4"],
            None,
            PLAIN,
            &Entry::Admitted { line: 4 },
        );
        check(
            &["host replication replicator 10.0.0.0/255.0.0.0 md5 4"],
            Some("postgres"),
            PLAIN,
            &Entry::NoLine,
        );
    }

    #[test]
    fn the_first_line_that_fits_counts() {
        let open = "host replication all 10.0.0.0/255.0.0.0 md5 2";
        let closed = "host replication all 10.0.0.2/255.255.255.255 reject 1";
        check(&[closed, open], None, PLAIN, &Entry::Rejected { line: 1 });
        check(&[open, closed], None, PLAIN, &Entry::Admitted { line: 2 });
        check(&["local replication all - trust 1"], None, PLAIN, &Entry::NoLine);
        check(&["host replication other all md5 1"], None, PLAIN, &Entry::NoLine);
        check(&["host replication all 10.0.0.3/255.255.255.255 md5 1"], None, PLAIN, &Entry::NoLine);
        check(&["host replication all fd00::/ffff:: md5 1"], None, PLAIN, &Entry::NoLine);
    }

    #[test]
    fn the_line_must_fit_how_the_member_connects() {
        let line = &["hostssl replication all all md5 1"];
        check(line, None, PLAIN, &Entry::NoLine);
        check(line, None, EITHER, &Entry::Admitted { line: 1 });
        check(&["hostnossl all all all md5 1"], Some("x"), &[Transport::Encrypted], &Entry::NoLine);
    }

    #[test]
    fn what_cannot_be_judged_matters_only_where_it_makes_a_difference() {
        let group = "host replication +members all md5 1";
        check(&[group], None, PLAIN, &Entry::Perhaps { line: 1 });
        check(&[group, "host replication all all md5 2"], None, PLAIN, &Entry::Admitted { line: 2 });
        check(&[group, "host replication all all reject 2"], None, PLAIN, &Entry::Perhaps { line: 1 });
        check(&["host replication all db2.example md5 1"], None, PLAIN, &Entry::Perhaps { line: 1 });
        check(&["host samerole all all md5 1"], Some("x"), PLAIN, &Entry::Perhaps { line: 1 });
        check(&["host /^a all all md5 1"], None, PLAIN, &Entry::NoLine);
    }

    #[test]
    fn the_server_knows_its_own_networks() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let networks = [
            Network { address: ip("fd00::1"), mask: ip("ffff:ffff:ffff:ffff::") },
            Network { address: ip("10.0.0.1"), mask: ip("255.255.255.0") },
        ];
        for (named, address, networks, wanted) in [
            ("samenet", "10.0.0.2", &networks[..], Entry::Admitted { line: 1 }),
            ("samenet", "10.0.1.2", &networks, Entry::NoLine),
            ("samenet", "fd00::2", &networks, Entry::Admitted { line: 1 }),
            ("samehost", "10.0.0.1", &networks, Entry::Admitted { line: 1 }),
            ("samehost", "10.0.0.2", &networks, Entry::NoLine),
            ("samenet", "10.0.0.2", &[], Entry::Perhaps { line: 1 }),
        ] {
            let knock = Knock { database: None, user: "x", address: ip(address), networks };
            let line = rule(&format!("host replication all {named} md5 1"));
            assert_eq!(admits(&[line], knock, PLAIN), wanted, "{named} {address}");
        }
    }

    #[test]
    fn trust_is_for_this_machine_alone() {
        for (line, trusts) in [
            ("host all all 0.0.0.0/0.0.0.0 trust 1", true),
            ("host all all all trust 1", true),
            ("host all all 127.0.0.1/255.255.255.255 trust 1", false),
            ("host all all samehost trust 1", false),
            ("local all all - trust 1", false),
            ("host all all all md5 1", false),
        ] {
            assert_eq!(rule(line).trusts_others(), trusts, "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_line_makes_the_judge_panic(text in "\\PC{0,8}", address in "[0-9a-f:.]{0,12}", bits: u32) {
            let rule = HbaRule {
                kind: Some("host".to_owned()),
                databases: Some(vec![text.clone()]),
                users: Some(vec![text]),
                address: Some(address.clone()),
                netmask: Some(address),
                ..HbaRule::default()
            };
            let address = std::net::Ipv4Addr::from_bits(bits).into();
            let knock = Knock { database: None, user: "x", address, networks: &[Network { address, mask: address }] };
            let _ = admits(&[rule], knock, EITHER);
        }
    }
}
