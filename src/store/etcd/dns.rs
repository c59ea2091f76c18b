//! One question to DNS: who offers a service (SRV records, RFC 2782)? The C library has no safe way to ask for them.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, Question, RCODE, TYPE};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

const CONFIGURATION: &str = "/etc/resolv.conf";
/// One name server answers within this, or the next one is asked.
const PATIENCE: Duration = Duration::from_secs(2);
/// Name servers that are asked at most, as in the C library.
const NAME_SERVERS_MAX: usize = 3;
const DATAGRAM_MAX: usize = 4096;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Service {
    pub priority: u16,
    pub weight: u16,
    pub host: String,
    pub port: u16,
}

/// The name servers of this machine.
pub(super) fn name_servers() -> Vec<SocketAddr> {
    named_in(&std::fs::read_to_string(CONFIGURATION).unwrap_or_default())
}

fn named_in(configuration: &str) -> Vec<SocketAddr> {
    let named = configuration.lines().filter_map(|line| {
        let address = line.trim().strip_prefix("nameserver")?.trim();
        // A zone says through which interface: the kernel finds that out for all but link-local addresses.
        let address = address.split(['%', ' ', '\t', '#', ';']).next()?;
        Some(SocketAddr::new(address.parse::<IpAddr>().ok()?, 53))
    });
    let named: Vec<SocketAddr> = named.take(NAME_SERVERS_MAX).collect();
    if named.is_empty() { vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 53)] } else { named }
}

/// Whoever offers the service, the preferred ones first. Empty if the name is not known. The error is for an operator.
pub(super) async fn services(servers: &[SocketAddr], name: &str) -> Result<Vec<Service>, String> {
    let mut failures = Vec::new();
    for server in servers {
        match timeout(PATIENCE, ask(*server, name)).await {
            Ok(Ok(services)) => return Ok(services),
            Ok(Err(failure)) => failures.push(format!("{server}: {failure}")),
            Err(_) => failures.push(format!("{server}: no answer")),
        }
    }
    Err(failures.join("; "))
}

async fn ask(server: SocketAddr, name: &str) -> Result<Vec<Service>, String> {
    let question = Asked::new(name)?;
    let datagram = over_udp(server, &question).await.map_err(|error| error.to_string())?;
    match question.read(&datagram)? {
        Answer::Services(services) => Ok(services),
        Answer::Truncated => {
            let stream = over_tcp(server, &question).await.map_err(|error| error.to_string())?;
            match question.read(&stream)? {
                Answer::Services(services) => Ok(services),
                Answer::Truncated => Err("an answer that is cut short".to_owned()),
            }
        }
    }
}

async fn over_udp(server: SocketAddr, question: &Asked<'_>) -> std::io::Result<Vec<u8>> {
    let any = match server.ip() {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    // From then on nothing is received from anybody else.
    socket.connect(server).await?;
    socket.send(&question.bytes).await?;
    let mut datagram = vec![0; DATAGRAM_MAX];
    let length = socket.recv(&mut datagram).await?;
    datagram.truncate(length);
    Ok(datagram)
}

async fn over_tcp(server: SocketAddr, question: &Asked<'_>) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(question.bytes.len()).unwrap_or(u16::MAX);
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(&question.bytes).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

struct Asked<'a> {
    id: u16,
    name: Name<'a>,
    bytes: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Services(Vec<Service>),
    Truncated,
}

impl<'a> Asked<'a> {
    fn new(name: &'a str) -> Result<Asked<'a>, String> {
        let wrong = |error| format!("{name} is no name of DNS: {error}");
        // The keys of a new hasher are random: nobody can guess the number of the question.
        let [low, high, ..] = RandomState::new().build_hasher().finish().to_le_bytes();
        let id = u16::from_le_bytes([low, high]);
        let name = Name::new(name).map_err(wrong)?;
        let mut packet = Packet::new_query(id);
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
        packet.questions.push(Question::new(name.clone(), TYPE::SRV.into(), CLASS::IN.into(), false));
        Ok(Asked { id, name, bytes: packet.build_bytes_vec().map_err(wrong)? })
    }

    fn read(&self, bytes: &[u8]) -> Result<Answer, String> {
        let packet =
            Packet::parse(bytes).map_err(|error| format!("an answer that cannot be read: {error}"))?;
        let about = packet.questions.first().is_none_or(|question| question.qname == self.name);
        if packet.id() != self.id || !packet.has_flags(PacketFlag::RESPONSE) || !about {
            return Err("an answer to another question".to_owned());
        }
        if packet.has_flags(PacketFlag::TRUNCATION) {
            return Ok(Answer::Truncated);
        }
        match packet.rcode() {
            RCODE::NoError | RCODE::NameError => {}
            refusal => return Err(format!("refused: {refusal:?}")),
        }
        let services = packet.answers.iter().filter_map(|record| match &record.rdata {
            RData::SRV(service) => Some(Service {
                priority: service.priority,
                weight: service.weight,
                host: service.target.to_string().trim_end_matches('.').to_owned(),
                port: service.port,
            }),
            _ => None,
        });
        // A service that is decidedly not there has the root as its host.
        let mut services: Vec<Service> = services.filter(|service| !service.host.is_empty()).collect();
        services.sort_by(|a, b| {
            (a.priority, b.weight, &a.host, a.port).cmp(&(b.priority, a.weight, &b.host, b.port))
        });
        services.dedup();
        Ok(Answer::Services(services))
    }
}

#[cfg(test)]
mod tests;
