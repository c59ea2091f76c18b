//! What anybody may ask an agent, as balancers and people do: over HTTP, by its address.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// One request over a connection of its own, as a balancer makes it.
pub fn request(host: &str, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
    let address: SocketAddr = format!("{host}:8008").parse().expect("an address");
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(40))).ok()?;
    let head = format!("{method} {path} HTTP/1.0\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all((head + body).as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let status = answer.split_whitespace().nth(1)?.parse().ok()?;
    Some((status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()))
}

pub fn status(host: &str) -> Option<Value> {
    serde_json::from_str(&request(host, "GET", "/patroni", "")?.1).ok()
}

pub fn is_primary(host: &str) -> bool {
    request(host, "GET", "/primary", "").is_some_and(|(status, _)| status == 200)
}

/// The leader, if there is exactly one, everybody else streams, and all are on one timeline.
pub fn healthy_leader<'a>(hosts: &[&'a str]) -> Option<&'a str> {
    let documents: Vec<(&str, Value)> =
        hosts.iter().map(|&host| Some((host, status(host)?))).collect::<Option<_>>()?;
    let leaders: Vec<&str> = hosts.iter().copied().filter(|host| is_primary(host)).collect();
    let [leader] = leaders[..] else { return None };
    let timeline = |document: &Value| document["timeline"].as_u64();
    let agreed = timeline(&documents.first()?.1)?;
    let healthy = |(host, document): &(&str, Value)| {
        timeline(document) == Some(agreed)
            && (*host == leader || document["replication_state"] == "streaming")
    };
    documents.iter().all(healthy).then_some(leader)
}
