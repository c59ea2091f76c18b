//! What can only be judged once every layer is in: what is missing, and what does not fit together.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::check::Findings;
use super::customs::{self, Customs};
use super::problem::Problem;
use super::settings::{Table, variable};
use super::types::{Bootstrap, Listen};
use super::values::address;
use super::yaml::Place;
use crate::model::{VirtualAddress, Watchdog};

const REQUIRED: [&str; 7] = [
    "scope",
    "name",
    "restapi.listen",
    "restapi.connect_address",
    "postgresql.listen",
    "postgresql.connect_address",
    "postgresql.data_dir",
];

// The agent gives these to initdb itself, or they would leave no usable data directory behind.
const INITDB_BARRED: [&str; 5] = ["pgdata", "nosync", "pwfile", "sync-only", "version"];

/// Complain about what is missing or contradicts itself, and fill in what follows from the rest.
pub fn complete(merged: &mut Value, files: &[&str], findings: &mut Findings) {
    let mut whole = Whole { merged, findings, files };
    whole.required();
    whole.store();
    whole.timing();
    whole.initdb();
    whole.customs();
    whole.logins();
    whole.tags();
    whole.watchdog();
    whole.virtual_addresses();
    whole.log();
}

/// The part of it that concerns the store.
pub fn complete_store(merged: &mut Value, files: &[&str], findings: &mut Findings) {
    Whole { merged, findings, files }.store();
}

struct Whole<'a> {
    merged: &'a mut Value,
    findings: &'a mut Findings,
    files: &'a [&'a str],
}

impl Whole<'_> {
    fn required(&mut self) {
        for path in REQUIRED {
            // What was there but wrong has its own complaint.
            if self.text(path).is_some_and(|text| !text.is_empty()) || self.was_wrong(path) {
                continue;
            }
            let Some(row) = Table::Local.find(path) else { continue };
            let mut problem = self.missing(path, &format!("missing: {}", row.about));
            if let Some(name) = variable(row) {
                problem = problem.hint(format!("set it in the file, or as TENURE_{name}"));
            }
            self.findings.errors.push(problem);
        }
    }

    fn store(&mut self) {
        let present =
            |name: &str| self.merged.get(name).and_then(Value::as_object).filter(|map| !map.is_empty());
        let sections: Vec<&str> =
            ["zookeeper", "etcd", "etcd3"].into_iter().filter(|name| present(name).is_some()).collect();
        let section = match sections[..] {
            [one] => one,
            [first, second, ..] => {
                let message = format!(
                    "there is a section {first} and a section {second}, and only one can be the store"
                );
                let hint = if first == "etcd" {
                    "keep one; both mean etcd's version 3 interface"
                } else {
                    "keep one"
                };
                return self.error(first, message, Some(hint));
            }
            [] => {
                let other = ["exhibitor", "consul", "kubernetes", "raft"];
                if !other.iter().chain(&["etcd3", "etcd", "zookeeper"]).any(|name| self.was_wrong(name)) {
                    let problem = self.missing("etcd3", "missing: the store that the members share");
                    self.findings.errors.push(
                        problem.hint("add: etcd3: {hosts: [10.0.0.1:2379, 10.0.0.2:2379, 10.0.0.3:2379]}"),
                    );
                }
                return;
            }
        };
        if section == "zookeeper" {
            self.zookeeper_hosts();
            self.zookeeper_access();
            return;
        }
        self.hosts(section);
        self.url(section, "url");
        self.url(section, "proxy");
        self.discovery(section);
        let has = |name: &str| self.text(&format!("{section}.{name}")).is_some();
        match (has("cert"), has("key")) {
            (true, false) => {
                self.error(&format!("{section}.cert"), "has no key beside it".into(), Some("set key too"));
            }
            (false, true) => {
                self.error(&format!("{section}.key"), "has no cert beside it".into(), Some("set cert too"));
            }
            (true, true) | (false, false) => {}
        }
    }

    fn hosts(&mut self, section: &str) {
        let path = |name| format!("{section}.{name}");
        let listed = self.value(&path("hosts")).and_then(Value::as_array).cloned().unwrap_or_default();
        let hosts = listed.iter().filter_map(Value::as_str).map(|host| (path("hosts"), host.to_owned()));
        let single = self.text(&path("host")).map(|host| (path("host"), host.to_owned()));
        let all: Vec<(String, String)> = hosts.chain(single).collect();
        for (key, host) in &all {
            if address(host, Some(2379)).is_none() {
                let message = format!("found {host:?}, wanted host:port, such as 10.0.0.1:2379");
                self.error(key, message, None);
            }
        }
        let elsewhere = ["url", "proxy", "srv"].map(path);
        if all.is_empty()
            && elsewhere.iter().all(|name| self.text(name).is_none())
            && !self.was_wrong(section)
        {
            let problem = self.missing(section, "names no server");
            self.findings
                .errors
                .push(problem.hint("set hosts, such as [10.0.0.1:2379, 10.0.0.2:2379, 10.0.0.3:2379]"));
        }
    }

    fn discovery(&mut self, section: &str) {
        let set = |name: &str| self.text(&format!("{section}.{name}")).is_some();
        let given =
            |name: &str| self.value(&format!("{section}.{name}")).is_some_and(|value| !value.is_null());
        let (srv, proxy) = (set("srv"), set("proxy"));
        let named = ["host", "hosts", "url"].into_iter().find(|name| given(name));
        match named {
            Some(name) if srv && !proxy => {
                self.warn(&format!("{section}.{name}"), "is not used: srv names the servers".to_owned());
            }
            Some(_) | None if srv && proxy => {
                self.warn(&format!("{section}.srv"), "is not used: only the proxy is asked".to_owned());
            }
            Some(_) | None if set("srv_suffix") && !srv => {
                self.error(
                    &format!("{section}.srv_suffix"),
                    "has no srv beside it".to_owned(),
                    Some("set srv too"),
                );
            }
            Some(_) | None => {}
        }
        if let Some(domain) = self.text(&format!("{section}.srv")) {
            let label = |label: &str| !label.is_empty() && label.len() < 64;
            let name = domain.trim_end_matches('.');
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
            if !name.split('.').all(label) || !name.chars().all(plain) || name.len() > 200 {
                let message = format!("found {domain:?}, wanted a domain, such as example.com");
                self.error(&format!("{section}.srv"), message, None);
            }
        }
    }

    fn zookeeper_hosts(&mut self) {
        const KEY: &str = "zookeeper.hosts";
        let listed = self.value(KEY).and_then(Value::as_array).cloned().unwrap_or_default();
        let hosts: Vec<&str> = listed.iter().filter_map(Value::as_str).collect();
        for (index, host) in hosts.iter().enumerate() {
            let (server, below) = host.split_once('/').unwrap_or((host, ""));
            if address(server, Some(2181)).is_none() || (!below.is_empty() && index + 1 < hosts.len()) {
                let message = format!(
                    "found {host:?}, wanted host:port, such as 10.0.0.1:2181, and a path behind the last one only"
                );
                self.error(KEY, message, None);
            }
        }
        if hosts.is_empty() && !self.was_wrong("zookeeper") {
            let problem = self.missing("zookeeper", "names no server");
            let hint = "set hosts, such as [10.0.0.1:2181, 10.0.0.2:2181, 10.0.0.3:2181]";
            self.findings.errors.push(problem.hint(hint));
        }
    }

    fn zookeeper_access(&mut self) {
        const KEY: &str = "zookeeper.set_acls";
        const PERMISSIONS: [&str; 6] = ["CREATE", "READ", "WRITE", "DELETE", "ADMIN", "ALL"];
        let named = |value: &Value| {
            value.as_array().is_some_and(|all| {
                all.iter().all(|one| one.as_str().is_some_and(|one| PERMISSIONS.contains(&one)))
            })
        };
        let right = match self.value(KEY) {
            None | Some(Value::Null) => true,
            Some(Value::Object(principals)) => principals.values().all(named),
            Some(_) => false,
        };
        if !right {
            let message = format!("wanted principals, each with a list of {}", PERMISSIONS.join(", "));
            self.error(KEY, message, Some("such as {\"CN=agent\": [ALL]}"));
        }
        if self.value("zookeeper.auth_data.sasl").is_some_and(|value| !value.is_null()) {
            let message = "SASL is not spoken: its DIGEST-MD5 is obsolete (RFC 6331)".to_owned();
            self.error("zookeeper.auth_data", message, Some("use digest, or a client certificate"));
        }
        // What is written out as nothing is not there.
        if let Some(section) = self.merged.get_mut("zookeeper").and_then(Value::as_object_mut) {
            section.retain(|_, value| !value.is_null());
        }
        if self.text("zookeeper.key").is_some() && self.text("zookeeper.cert").is_none() {
            self.error("zookeeper.key", "has no cert beside it".into(), Some("set cert too"));
        }
        let files = ["cacert", "cert"].iter().any(|name| self.text(&format!("zookeeper.{name}")).is_some());
        if files && self.value("zookeeper.use_ssl") != Some(&Value::Bool(true)) {
            let place = self.findings.places.get("zookeeper").cloned();
            let message = "has certificates, but connections are not encrypted".to_owned();
            let problem = Problem::about(place, "zookeeper", message).hint("set use_ssl: true");
            self.findings.warnings.push(problem);
        }
    }

    /// A URL's user and password move to where they are kept hidden.
    fn url(&mut self, section: &str, name: &str) {
        let key = format!("{section}.{name}");
        let Some(url) = self.text(&key).map(str::to_owned) else { return };
        let parts = url.split_once("://").filter(|(scheme, _)| matches!(*scheme, "http" | "https"));
        let Some((scheme, rest)) = parts else {
            // Not shown: it may hold a password.
            return self.error(&key, "wanted a URL, such as https://10.0.0.1:2379".into(), None);
        };
        let rest = rest.trim_end_matches('/');
        let (login, host) = rest.rsplit_once('@').map_or((None, rest), |(login, host)| (Some(login), host));
        if address(host, Some(2379)).is_none() {
            return self.error(
                &key,
                "wanted a URL with a host and a port, such as https://10.0.0.1:2379".into(),
                None,
            );
        }
        let Some(map) = self.merged.get_mut(section).and_then(Value::as_object_mut) else { return };
        map.insert(name.to_owned(), json!(format!("{scheme}://{host}")));
        if let Some((user, password)) = login.map(|login| login.split_once(':').unwrap_or((login, ""))) {
            let place = self.findings.places.get(&key).cloned();
            for (name, text) in [("username", user), ("password", password)] {
                map.entry(name).or_insert_with(|| json!(decoded(text)));
                if let Some(place) = &place {
                    self.findings.places.entry(format!("{section}.{name}")).or_insert_with(|| place.clone());
                }
            }
        }
    }

    fn timing(&mut self) {
        let Some(dcs) = self.value("bootstrap.dcs").cloned() else { return };
        if let Err(error) = super::dynamic::timing_of(&dcs) {
            let place = self.findings.places.get("bootstrap.dcs.ttl").cloned();
            let problem = Problem::about(place, "bootstrap.dcs.ttl", error.to_string());
            self.findings
                .errors
                .push(problem.hint("a ttl of 5 is the least, or set unsafe_timing: true beside it"));
        }
    }

    fn initdb(&mut self) {
        let options = self.value("bootstrap.initdb").and_then(Value::as_array).cloned().unwrap_or_default();
        for option in options.iter().filter_map(Value::as_str) {
            let name = option.split('=').next().unwrap_or(option);
            if INITDB_BARRED.contains(&name) {
                let message = format!("the option {name} cannot be given to initdb here");
                self.error("bootstrap.initdb", message, Some("remove it: the agent takes care of it"));
            }
        }
    }

    fn customs(&mut self) {
        let section =
            |name: &str| self.value(name).filter(|value| !value.is_null()).cloned().unwrap_or_default();
        let customs: Customs = serde_json::from_value(section("postgresql")).unwrap_or_default();
        let bootstrap: Bootstrap = serde_json::from_value(section("bootstrap")).unwrap_or_default();
        let mut wrong = Vec::new();
        let mut tell = |key: &str, message, hint| wrong.push((key.to_owned(), message, hint));
        customs::complain(&customs, &mut tell);
        for (key, text) in
            [("post_bootstrap", &bootstrap.post_bootstrap), ("post_init", &bootstrap.post_init)]
        {
            customs::check_command(&format!("bootstrap.{key}"), text.as_ref(), &mut tell);
        }
        if let Some(method) = bootstrap.custom() {
            let key = format!("bootstrap.{}", method.name);
            if bootstrap.sections.get(&method.name).is_none_or(|section| section.get("command").is_none()) {
                let hint = format!("add the section {key} with a command, or remove bootstrap.method");
                tell(
                    "bootstrap.method",
                    format!("names {}, and there is no command of it", method.name),
                    Some(hint),
                );
            }
            customs::check_command(&format!("{key}.command"), Some(&method.command), &mut tell);
            if method.recovery_conf.get("recovery_target_action").is_some_and(|action| action == "shutdown") {
                let message = "a PostgreSQL that shuts down at its target never becomes a cluster".to_owned();
                tell(
                    &format!("{key}.recovery_conf"),
                    message,
                    Some("recovery_target_action: promote".to_owned()),
                );
            }
        }
        for (key, message, hint) in wrong {
            let place = nearest_place(&self.findings.places, &key);
            self.findings.errors.push(Problem { place, key: Some(key), message, hint });
        }
    }

    fn logins(&mut self) {
        for (role, username) in [("superuser", "postgres"), ("replication", "replicator")] {
            let path = ["postgresql", "authentication", role];
            let mut below = Some(&mut *self.merged);
            for name in path {
                below = below
                    .and_then(Value::as_object_mut)
                    .map(|map| map.entry(name).or_insert_with(|| Value::Object(Map::new())));
            }
            if let Some(login) = below.and_then(Value::as_object_mut) {
                login.entry("username").or_insert_with(|| json!(username));
            }
        }
        // A section with nothing in it is no login.
        let pointer = "/postgresql/authentication/rewind/username";
        if self.merged.pointer(pointer).is_none()
            && let Some(Value::Object(all)) = self.merged.pointer_mut("/postgresql/authentication")
        {
            all.remove("rewind");
        }
    }

    fn tags(&mut self) {
        for (flag, priority) in [("nofailover", "failover_priority"), ("nosync", "sync_priority")] {
            let flagged = self.value(&format!("tags.{flag}")).and_then(Value::as_bool);
            let number = self.value(&format!("tags.{priority}")).and_then(Value::as_i64);
            if let (Some(flagged), Some(number)) = (flagged, number)
                && flagged == (number > 0)
            {
                let message = format!("{flag}: {flagged} contradicts {priority}: {number}; {flag} is taken");
                let place = self.findings.places.get(&format!("tags.{priority}")).cloned();
                let key = format!("tags.{priority}");
                self.findings
                    .warnings
                    .push(Problem::about(place, &key, message).hint(format!("remove {priority}")));
            }
        }
    }

    fn watchdog(&mut self) {
        let device = self.text("watchdog.device").unwrap_or("/");
        let longest = Watchdog::PATH_MAX;
        if !device.starts_with('/') || longest < device.len() {
            let message = format!("{device:?} is not an absolute path of at most {longest} bytes");
            self.error("watchdog.device", message, None);
        }
    }

    fn virtual_addresses(&mut self) {
        let path = "tenure.virtual_addresses";
        let named =
            self.value(path).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        let addresses: Vec<VirtualAddress> = named.filter_map(|text| text.parse().ok()).collect();
        let heard = self.text("postgresql.listen").and_then(|text| text.parse::<Listen>().ok());
        for VirtualAddress { ip, .. } in addresses {
            for own in ["postgresql.connect_address", "restapi.connect_address"] {
                let host = self.text(own).and_then(|text| address(text, None)).map(|address| address.host);
                if host.and_then(|host| host.parse::<IpAddr>().ok()) == Some(ip) {
                    let message = format!(
                        "{ip} is this member's own address ({own}), which must not go away with the lease"
                    );
                    self.error(path, message, Some("name an address that no member has for itself"));
                }
            }
            let wildcard = if ip.is_ipv4() { "0.0.0.0" } else { "::" };
            let covers = |host: &String| host == "*" || host == wildcard || host.parse() == Ok(ip);
            if heard.as_ref().is_some_and(|listen| !listen.hosts.iter().any(covers)) {
                self.warn(
                    path,
                    format!(
                        "PostgreSQL does not listen on {ip}: postgresql.listen should name * or {wildcard}"
                    ),
                );
            }
        }
    }

    fn log(&mut self) {
        let json = self.text("log.type").is_some_and(|form| form.eq_ignore_ascii_case("json"));
        if !json && self.value("log.format").is_some_and(Value::is_array) {
            let message = "a list of fields is for lines of JSON".to_owned();
            self.error("log.format", message, Some("set log.type to json, or write the form as text"));
        }
    }

    fn value(&self, path: &str) -> Option<&Value> {
        path.split('.').try_fold(&*self.merged, |value, name| value.get(name))
    }

    fn text(&self, path: &str) -> Option<&str> {
        self.value(path).and_then(Value::as_str)
    }

    fn was_wrong(&self, path: &str) -> bool {
        let below = |key: &String| {
            key.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        self.findings.errors.0.iter().any(|problem| match &problem.key {
            Some(key) => below(key),
            // Not YAML at all: nothing can be said about what is missing.
            None => true,
        })
    }

    fn error(&mut self, path: &str, message: String, hint: Option<&str>) {
        let place = self.findings.places.get(path).cloned();
        let hint = hint.map(str::to_owned);
        self.findings.errors.push(Problem { place, key: Some(path.to_owned()), message, hint });
    }

    fn warn(&mut self, path: &str, message: String) {
        let place = self.findings.places.get(path).cloned();
        self.findings.warnings.push(Problem { place, key: Some(path.to_owned()), message, hint: None });
    }

    /// What is missing has no line; the section that should hold it may have one.
    fn missing(&self, path: &str, message: &str) -> Problem {
        let section = path.rsplit_once('.').map_or("", |(section, _)| section);
        let place = self.findings.places.get(section).or_else(|| self.findings.places.get(path)).cloned();
        let message = match (&place, self.files) {
            (None, [file]) => format!("{message} (in {file})"),
            (None | Some(_), _) => message.to_owned(),
        };
        Problem::about(place, path, message)
    }
}

/// Where a setting stands, or else the section around it.
pub fn nearest_place(places: &BTreeMap<String, Place>, path: &str) -> Option<Place> {
    let mut path = path;
    loop {
        if let Some(place) = places.get(path) {
            return Some(place.clone());
        }
        path = path.rsplit_once('.')?.0;
    }
}

/// Undo the percent signs of a URL. What is not one stays as it is.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let code = code.filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        match (first, code.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            (other, _) => {
                bytes.push(*other);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
