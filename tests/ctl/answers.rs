//! What an agent answers over REST, taken apart into lines that can be compared with another agent's: the code, the kind of the
//! body, the names of its fields and of its metrics, and the values that mean the same on every machine.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::support::lab::PASSWORD;

/// Longer than any agent waits for a store that is silent.
const PATIENCE: Duration = Duration::from_secs(40);

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    Operator,
    Stranger,
    /// Knows the name and not the password.
    Guesser,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub method: &'static str,
    pub path: &'static str,
    /// `None` announces no body at all.
    pub body: Option<String>,
    pub asker: Asker,
}

impl Question {
    pub fn new(method: &'static str, path: &'static str) -> Question {
        Question { method, path, body: None, asker: Asker::Stranger }
    }

    pub fn operator(method: &'static str, path: &'static str, body: Option<&str>) -> Question {
        Question { method, path, body: body.map(str::to_owned), asker: Asker::Operator }
    }

    /// As the table of differences and the reports name it.
    pub fn name(&self) -> String {
        let body = self.body.as_ref().map(|body| format!(" {body}")).unwrap_or_default();
        let asker = match self.asker {
            Asker::Guesser => " with a wrong password",
            Asker::Stranger if !["GET", "HEAD", "OPTIONS"].contains(&self.method) => " without a password",
            Asker::Operator | Asker::Stranger => "",
        };
        format!("{} {}{body}{asker}", self.method, self.path)
    }
}

struct Answer {
    code: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

/// What the agent at `host` answers, line by line.
pub fn lines(host: &str, question: &Question) -> BTreeSet<String> {
    let Some(answer) = ask(host, question) else { return ["no answer".to_owned()].into() };
    let mut lines = BTreeSet::from([format!("code {}", answer.code)]);
    // What every server says of itself and of the connection.
    let common = ["date", "server", "connection", "content-length"];
    let told = answer.headers.iter().filter(|(name, _)| !common.contains(&name.as_str()));
    lines.extend(told.map(|(name, value)| format!("{name}: {value}")));
    match answer.headers.get("content-type").map(String::as_str) {
        Some("application/json") => match serde_json::from_str(&answer.body) {
            Ok(document) => fields(&mut lines, "", &document, question.path == "/config"),
            Err(error) => _ = lines.insert(format!("not JSON: {error}")),
        },
        Some("text/plain") if question.path == "/metrics" => metrics(&mut lines, &answer.body),
        _ if answer.body.is_empty() => (),
        _ if answer.body.trim_start().starts_with("<!DOCTYPE") => {
            _ = lines.insert("a page of HTML".to_owned());
        }
        _ => _ = lines.insert(format!("says: {}", answer.body)),
    }
    lines
}

/// One request over a connection of its own. `None` if it was closed without an answer.
fn ask(host: &str, question: &Question) -> Option<Answer> {
    let address: SocketAddr = format!("{host}:8008").parse().expect("an address");
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).expect("a time that is not zero");
    let mut request = format!("{} {} HTTP/1.0\r\nHost: {host}\r\n", question.method, question.path);
    let password = match question.asker {
        Asker::Operator => Some(PASSWORD),
        Asker::Guesser => Some("a guess"),
        Asker::Stranger => None,
    };
    if let Some(password) = password {
        let basic = STANDARD.encode(format!("operator:{password}"));
        request += &format!("Authorization: Basic {basic}\r\n");
    }
    if let Some(body) = &question.body {
        request += &format!("Content-Length: {}\r\n", body.len());
    }
    request += "\r\n";
    request += question.body.as_deref().unwrap_or_default();
    stream.write_all(request.as_bytes()).ok()?;
    let mut text = Vec::new();
    // Whoever does not read the body it was sent resets the connection after its answer.
    let _ = stream.read_to_end(&mut text);
    let text = String::from_utf8_lossy(&text).into_owned();
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut head = head.split("\r\n");
    let code = head.next()?.split(' ').nth(1)?.parse().ok()?;
    let header =
        |line: &str| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()));
    Some(Answer { code, headers: head.filter_map(header).collect(), body: body.to_owned() })
}

/// Texts that mean the same wherever they stand.
const WORDS: [&str; 12] = [
    "state",
    "role",
    "replication_state",
    "sync_state",
    "usename",
    "application_name",
    "old_value",
    "new_value",
    "from",
    "to",
    "at",
    "schedule",
];

fn fields(lines: &mut BTreeSet<String>, path: &str, value: &Value, values_count: bool) {
    match value {
        Value::Object(members) => {
            for (key, value) in members {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                fields(lines, &path, value, values_count);
            }
        }
        Value::Array(items) => {
            for item in items {
                let name = item.get("name").or_else(|| item.get("application_name")).and_then(Value::as_str);
                fields(lines, &format!("{path}[{}]", name.unwrap_or_default()), item, values_count);
            }
        }
        Value::Bool(flag) => _ = lines.insert(format!("{path} = {flag}")),
        Value::Number(_) | Value::String(_)
            if values_count && path.rsplit('.').next() != Some("host")
                || WORDS.contains(&path.rsplit('.').next().unwrap_or_default()) =>
        {
            lines.insert(format!("{path} = {value}"));
        }
        Value::Number(_) => _ = lines.insert(format!("{path}: number")),
        // A time that is not known stands where its text would.
        Value::String(_) | Value::Null => _ = lines.insert(format!("{path}: text")),
    }
}

/// Names, types and labels, and the values of what is a flag or a state.
fn metrics(lines: &mut BTreeSet<String>, page: &str) {
    for line in page.lines().filter(|line| !line.is_empty()) {
        if line.starts_with("# TYPE") {
            lines.insert(line.to_owned());
        } else if !line.starts_with('#') {
            let (series, value) = line.rsplit_once(' ').unwrap_or((line, ""));
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let labels: Vec<&str> =
                labels.split(',').filter_map(|label| Some(label.split_once('=')?.0)).collect();
            lines.insert(format!("metric {name} {{{}}}", labels.join(",")));
            let differs = ["location", "time", "version", "last_seen"].iter().any(|part| name.contains(part));
            if !differs && value.len() <= 2 {
                lines.insert(format!("metric {name} = {value}"));
            }
        }
    }
}

/// What only one of them says: theirs with a minus, ours with a plus.
pub fn differences(theirs: &BTreeSet<String>, ours: &BTreeSet<String>) -> BTreeSet<String> {
    let only = |sign: &str, one: &BTreeSet<String>, other: &BTreeSet<String>| {
        one.difference(other).map(|line| format!("{sign} {line}")).collect::<BTreeSet<_>>()
    };
    &only("-", theirs, ours) | &only("+", ours, theirs)
}
