//! HAProxy's configuration, as far as it decides where clients go: read leniently, and held against the members and the lease.

use super::{Check, Facts, Finding, MemberFacts, Ward};
use crate::model::Span;

/// More than a balancer of one cluster needs.
const LINES_MAX: usize = 20_000;

/// What agents answer by role; a path counts wherever such a word stands in it.
pub const ROLE_WORDS: [&str; 9] =
    ["leader", "master", "primary", "read-write", "replica", "read-only", "health", "sync", "quorum"];
/// Answered by every member alike, if it is asked with GET.
const SAME_FOR_ALL: [&str; 8] =
    ["/patroni", "/liveness", "/readiness", "/cluster", "/config", "/history", "/metrics", "/view"];

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct File {
    pub sections: Vec<Section>,
}

/// A `backend` or `listen`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Section {
    pub name: String,
    asks: Asks,
    servers: Vec<Server>,
}

/// How a section checks, with what it has from `defaults`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Asks {
    http: bool,
    method: Option<String>,
    path: Option<String>,
    port: Option<u16>,
    tls: bool,
    usual: Manner,
}

/// The words of a `server` line that matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Manner {
    checked: Option<bool>,
    port: Option<u16>,
    tls: Option<bool>,
    inter: Option<Span>,
    fastinter: Option<Span>,
    fall: Option<u64>,
    shuts: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Server {
    name: String,
    host: String,
    port: Option<u16>,
    manner: Manner,
}

/// Whatever is not understood is passed over.
pub fn parse(text: &str) -> File {
    let mut file = File::default();
    let mut defaults = Asks::default();
    let mut section: Option<Section> = None;
    let mut in_defaults = false;
    for line in text.lines().take(LINES_MAX) {
        let line = line.split('#').next().unwrap_or_default();
        let words: Vec<&str> = line.split_whitespace().collect();
        match *words.as_slice() {
            [] => {}
            [
                kind @ ("global" | "defaults" | "frontend" | "listen" | "backend" | "peers" | "resolvers"
                | "userlist"),
                ..,
            ] => {
                file.sections.extend(section.take());
                in_defaults = kind == "defaults";
                if in_defaults {
                    defaults = Asks::default();
                } else if matches!(kind, "listen" | "backend") {
                    let name = words.get(1).copied().unwrap_or_default().to_owned();
                    section = Some(Section { name, asks: defaults.clone(), servers: Vec::new() });
                }
            }
            ["server", name, address, ref rest @ ..] => {
                if let Some(section) = &mut section {
                    let (host, port) = host_and_port(address);
                    let mut manner = section.asks.usual.clone();
                    manner.learn(rest);
                    section.servers.push(Server { name: name.to_owned(), host, port, manner });
                }
            }
            ref words => match &mut section {
                Some(section) => section.asks.learn(words),
                None if in_defaults => defaults.learn(words),
                None => {}
            },
        }
    }
    file.sections.extend(section);
    file
}

impl Asks {
    fn learn(&mut self, words: &[&str]) {
        match *words {
            ["option", "httpchk", ref rest @ ..] => {
                self.http = true;
                match *rest {
                    [] => {}
                    [path] => self.path = Some(path.to_owned()),
                    [method, path, ..] => {
                        self.method = Some(method.to_ascii_uppercase());
                        self.path = Some(path.to_owned());
                    }
                }
            }
            ["http-check", "send", ref rest @ ..] => {
                for pair in rest.windows(2) {
                    match *pair {
                        ["meth", method] => self.method = Some(method.to_ascii_uppercase()),
                        ["uri", path] => self.path = Some(path.to_owned()),
                        _ => {}
                    }
                }
            }
            ["http-check", "connect", ref rest @ ..] => {
                self.tls |= rest.contains(&"ssl");
                let port = rest.windows(2).find(|pair| pair[0] == "port");
                self.port = port.and_then(|pair| pair[1].parse().ok()).or(self.port);
            }
            ["no", "option", "httpchk", ..] => self.http = false,
            ["default-server", ref rest @ ..] => self.usual.learn(rest),
            _ => {}
        }
    }
}

impl Manner {
    fn learn(&mut self, words: &[&str]) {
        let mut words = words.iter().copied();
        while let Some(word) = words.next() {
            match word {
                "check" => self.checked = Some(true),
                "no-check" => self.checked = Some(false),
                "check-ssl" => self.tls = Some(true),
                "no-check-ssl" => self.tls = Some(false),
                "port" => self.port = words.next().and_then(|port| port.parse().ok()),
                "inter" => self.inter = words.next().and_then(span),
                "fastinter" => self.fastinter = words.next().and_then(span),
                "fall" => self.fall = words.next().and_then(|times| times.parse().ok()),
                "on-marked-down" => self.shuts = words.next() == Some("shutdown-sessions"),
                _ => {}
            }
        }
    }

    /// Until a server that answers otherwise than it should counts as down, at worst.
    fn notices_within(&self) -> Span {
        let inter = self.inter.unwrap_or(Span::from_secs(2));
        let again = self.fastinter.unwrap_or(inter);
        inter + again.times(self.fall.unwrap_or(3).saturating_sub(1))
    }
}

/// Milliseconds where no unit is given.
fn span(text: &str) -> Option<Span> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().ok()?;
    let factor = match &text[digits.len()..] {
        "" | "ms" => 1,
        "us" => return Some(Span::from_ms(number / 1000)),
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    Some(Span::from_ms(number.saturating_mul(factor)))
}

fn host_and_port(address: &str) -> (String, Option<u16>) {
    let address = address.trim_start_matches("ipv4@").trim_start_matches("ipv6@");
    let bare = |host: &str| host.trim_start_matches('[').trim_end_matches(']').to_owned();
    match address.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') && port.parse::<u16>().is_ok() => {
            (bare(host), port.parse().ok())
        }
        Some(_) | None => (bare(address), None),
    }
}

pub(super) fn examine(facts: &Facts, file: &File, ward: &mut Ward) {
    let ours: Vec<&Section> = (file.sections.iter())
        .filter(|section| section.servers.iter().any(|server| member_of(facts, server).is_some()))
        .collect();
    if ours.is_empty() {
        return ward.find(Finding::of(
            Check::ProxyUnread,
            format!("{} sections, no member among their servers", file.sections.len()),
        ));
    }
    ward.made(Check::ProxyUnread);
    for section in ours {
        judge(facts, section, ward);
    }
}

fn member_of<'a>(facts: &'a Facts, server: &Server) -> Option<&'a MemberFacts> {
    let here = |member: &&MemberFacts| {
        member.host.as_deref() == Some(server.host.as_str()) || member.addresses.contains(&server.host)
    };
    let mut found = facts.members.iter().filter(here);
    // Members that share an address are told apart by their ports.
    let first = found.next()?;
    Some(
        found
            .find(|member| member.port == server.port)
            .filter(|_| first.port != server.port)
            .unwrap_or(first),
    )
}

fn judge(facts: &Facts, section: &Section, ward: &mut Ward) {
    let name = &section.name;
    let checks = [
        Check::ProxyNoCheck,
        Check::ProxyPath,
        Check::ProxyPort,
        Check::ProxyTls,
        Check::ProxyMissing,
        Check::ProxyStranger,
        Check::ProxyKeepsSessions,
        Check::ProxySlow,
    ];
    for check in checks {
        ward.made(check);
    }
    if !section.asks.http {
        let measured =
            format!("{name}: no option httpchk: every PostgreSQL that takes connections counts as up");
        ward.find(Finding::of(Check::ProxyNoCheck, measured));
    }
    let path = section.asks.path.as_deref().unwrap_or("/");
    let path = path.split('?').next().unwrap_or(path);
    let method = section.asks.method.as_deref().unwrap_or("OPTIONS");
    let by_role = path == "/" || ROLE_WORDS.iter().any(|word| path.contains(word));
    let same_for_all = SAME_FOR_ALL.contains(&path);
    if section.asks.http && (same_for_all || !by_role) {
        let all = method == "GET" && same_for_all;
        let comes = if all { "200 from every member" } else { "503 from every member" };
        ward.find(Finding::of(Check::ProxyPath, format!("{name}: {method} {path} brings {comes}")));
    }
    for server in &section.servers {
        judge_server(facts, section, server, ward);
    }
    for member in &facts.members {
        let there = section.servers.iter().any(|server| {
            member_of(facts, server).is_some_and(|found| found.name == member.name)
                || server.name == member.name
        });
        if !there && member.host.is_some() {
            ward.find(
                Finding::of(Check::ProxyMissing, format!("{name} has no server for it")).about(&member.name),
            );
        }
    }
    // What is the same for all servers is told once.
    let each = || section.servers.iter().map(|server| &server.manner);
    if !each().all(|manner| manner.shuts) {
        ward.find(Finding::of(
            Check::ProxyKeepsSessions,
            format!("{name}: no on-marked-down shutdown-sessions"),
        ));
    }
    let slowest = each().map(Manner::notices_within).max().unwrap_or_default();
    if facts.timing.ttl < slowest {
        let ttl = facts.timing.ttl;
        let measured = format!(
            "{name}: up to {slowest} until a server counts as down, by inter, fastinter and fall; ttl is {ttl}"
        );
        ward.find(Finding::of(Check::ProxySlow, measured));
    }
}

fn judge_server(facts: &Facts, section: &Section, server: &Server, ward: &mut Ward) {
    let (name, manner) = (&section.name, &server.manner);
    let Some(member) = member_of(facts, server) else {
        // What a name means there is not known here.
        if server.host.parse::<std::net::IpAddr>().is_ok() {
            let measured = format!("{name}: {} at {}", server.name, server.host);
            ward.find(Finding::of(Check::ProxyStranger, measured));
        }
        return;
    };
    if manner.checked != Some(true) {
        let finding = Finding::of(Check::ProxyNoCheck, format!("{name}: {} is not checked", server.name));
        return ward.find(finding.about(&member.name));
    }
    let Some(rest) = member.rest.as_ref().filter(|_| section.asks.http) else { return };
    let port = manner.port.or(section.asks.port).or(server.port);
    if port != Some(rest.port) {
        let port = port.map_or("none".to_owned(), |port| port.to_string());
        let measured =
            format!("{name}: {} is checked on port {port}, its REST API is on {}", server.name, rest.port);
        let finding = Finding::of(Check::ProxyPort, measured).about(&member.name);
        ward.find(finding.mend(format!("check port {}", rest.port)));
    }
    let tls = manner.tls.unwrap_or(section.asks.tls);
    if tls != rest.tls {
        let (asked, speaks) = if tls { ("with TLS", "without") } else { ("without TLS", "with it") };
        let measured = format!("{name}: {} is checked {asked}, its REST API is {speaks}", server.name);
        ward.find(Finding::of(Check::ProxyTls, measured).about(&member.name));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::fixtures::{finds, finds_nothing};
    use super::*;

    const GOOD: &str = include_str!("../../packaging/files/haproxy.cfg");

    fn with(from: &str, to: &str) -> impl Fn(&mut Facts) {
        assert!(GOOD.contains(from), "{from}");
        // What clients write to; the other section stays as it is.
        let text = GOOD.replacen(from, to, 1);
        move |facts: &mut Facts| {
            for (member, host) in facts.members.iter_mut().zip(["10.0.0.11", "10.0.0.12", "10.0.0.13"]) {
                member.host = Some(host.to_owned());
                member.addresses = [host.to_owned()].into();
            }
            facts.haproxy = Some(parse(&text));
        }
    }

    #[test]
    fn the_example_that_is_shipped_has_no_findings() {
        finds_nothing(with("", ""));
    }

    #[test]
    fn each_way_to_lead_clients_astray_is_found() {
        let db1 = "server db1 10.0.0.11:5432 check port 8008";
        finds(
            with("option httpchk OPTIONS /primary", ""),
            &[(Check::ProxyNoCheck, "", "primary: no option httpchk")],
        );
        finds(with(db1, "server db1 10.0.0.11:5432"), &[(Check::ProxyNoCheck, "db1", "db1 is not checked")]);
        finds(
            with("OPTIONS /primary", "OPTIONS /mster"),
            &[(Check::ProxyPath, "", "OPTIONS /mster brings 503 from every member")],
        );
        finds(
            with("OPTIONS /primary", "GET /patroni"),
            &[(Check::ProxyPath, "", "GET /patroni brings 200 from every member")],
        );
        finds(
            with(db1, "server db1 10.0.0.11:5432 check port 8080"),
            &[(Check::ProxyPort, "db1", "port 8080, its REST API is on 8008")],
        );
        finds(
            with(db1, "server db1 10.0.0.11:5432 check port 8008 check-ssl"),
            &[(Check::ProxyTls, "db1", "checked with TLS")],
        );
        finds(with(db1, ""), &[(Check::ProxyMissing, "db1", "primary has no server for it")]);
        let other = format!("{db1}\n server db9 10.0.0.19:5432 check port 8008");
        finds(with(db1, &other), &[(Check::ProxyStranger, "", "db9 at 10.0.0.19")]);
        finds(
            with(" on-marked-down shutdown-sessions", ""),
            &[(Check::ProxyKeepsSessions, "", "primary: no on-marked-down")],
        );
        finds(with("inter 1s fastinter 250ms", "inter 10s"), &[(Check::ProxySlow, "", "up to 20 s until")]);
        finds(|facts| facts.haproxy = Some(parse("global\n")), &[(Check::ProxyUnread, "", "0 sections")]);
    }

    #[test]
    fn defaults_and_further_spellings_count() {
        let text = "defaults\n option httpchk\n http-check send meth GET uri /primary\n http-check connect port 8008 ssl\n \
                    default-server check inter 500 fall 2 on-marked-down shutdown-sessions\nbackend pg\n server a [fd00::1]:5432\n";
        let file = parse(text);
        let section = &file.sections[0];
        assert_eq!(
            (section.asks.path.as_deref(), section.asks.port, section.asks.tls),
            (Some("/primary"), Some(8008), true)
        );
        let server = &section.servers[0];
        assert_eq!(
            (server.host.as_str(), server.port, server.manner.checked),
            ("fd00::1", Some(5432), Some(true))
        );
        assert_eq!(server.manner.notices_within(), Span::from_secs(1));
    }

    proptest! {
        #[test]
        fn no_file_makes_the_reader_panic(text in "(listen|server|default-server|option httpchk|http-check|port|inter|:|\\[|1s|\n| |\\PC){0,40}") {
            let _ = parse(&text);
        }
    }
}
