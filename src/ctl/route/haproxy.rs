//! HAProxy's runtime socket: what it says of its servers, and the few orders that are given to it. One connection for each
//! command, so that a reload, which replaces the process behind the socket, needs no care.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// It answers from memory.
const PATIENCE: Duration = Duration::from_secs(1);
const ANSWER_BYTES_MAX: u64 = 4 << 20;
/// `srv_op_state` of a server that gets no connections.
const STOPPED: u32 = 0;

#[derive(Clone, Debug)]
pub struct Haproxy {
    socket: PathBuf,
}

/// One process of HAProxy. Another one knows nothing of what the last was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    pid: u32,
}

/// A server of a backend, as HAProxy knows it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub backend: String,
    pub name: String,
    /// An IP address, and the name that it was found by.
    pub address: String,
    pub host: Option<String>,
    pub port: u16,
    pub up: bool,
    /// An operator has taken it out of service, and only an operator brings it back.
    pub held: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Order {
    Up,
    Down,
    EndSessions,
}

impl Haproxy {
    pub fn at(socket: PathBuf) -> Haproxy {
        Haproxy { socket }
    }

    pub fn place(&self) -> String {
        self.socket.display().to_string()
    }

    pub async fn process(&self) -> Result<Process> {
        parse_process(&self.ask("show info").await?)
    }

    pub async fn servers(&self) -> Result<Vec<Server>> {
        parse_servers(&self.ask("show servers state").await?)
    }

    pub async fn give(&self, server: &Server, order: Order) -> Result<()> {
        let command = order.command(server);
        // Nothing but a blank line says that it was done.
        match self.ask(&command).await?.trim() {
            "" => Ok(()),
            complaint => bail!("{command}: {complaint}"),
        }
    }

    async fn ask(&self, command: &str) -> Result<String> {
        let exchange = async {
            let mut stream = UnixStream::connect(&self.socket).await.context("connect")?;
            stream.write_all(format!("{command}\n").as_bytes()).await.context("send")?;
            let mut answer = Vec::new();
            stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await.context("read the answer")?;
            anyhow::Ok(String::from_utf8_lossy(&answer).into_owned())
        };
        let asked = || format!("ask HAProxy at {}", self.place());
        timeout(PATIENCE, exchange)
            .await
            .context("no answer within 1 s")
            .and_then(|done| done)
            .with_context(asked)
    }
}

impl Order {
    pub fn command(self, server: &Server) -> String {
        let Server { backend, name, .. } = server;
        match self {
            Order::Up => format!("set server {backend}/{name} health up"),
            Order::Down => format!("set server {backend}/{name} health down"),
            Order::EndSessions => format!("shutdown sessions server {backend}/{name}"),
        }
    }
}

fn parse_process(text: &str) -> Result<Process> {
    let pid = text.lines().find_map(|line| line.strip_prefix("Pid: ")?.trim().parse().ok());
    // Whoever may not give orders is told so in place of an answer.
    let pid = pid.with_context(|| format!("this is no answer of HAProxy's: {}", first_line(text)))?;
    Ok(Process { pid })
}

/// The first line is the version of the format, the second one names the columns.
fn parse_servers(text: &str) -> Result<Vec<Server>> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let version = lines.next().unwrap_or_default();
    if version != "1" {
        bail!("HAProxy lists its servers in a form that is not known here: {}", first_line(text));
    }
    let columns =
        lines.next().and_then(|line| line.strip_prefix("# ")).context("the columns have no names")?;
    let columns: Vec<&str> = columns.split(' ').collect();
    lines.map(|line| parse_server(&columns, line).with_context(|| format!("read {line:?}"))).collect()
}

fn parse_server(columns: &[&str], line: &str) -> Result<Server> {
    let fields: Vec<&str> = line.split(' ').collect();
    let field = |name: &str| {
        let at = columns.iter().position(|column| *column == name);
        at.and_then(|at| fields.get(at)).copied().with_context(|| format!("there is no {name}"))
    };
    let number = |name: &str| field(name)?.parse::<u32>().with_context(|| format!("{name} is no number"));
    Ok(Server {
        backend: field("be_name")?.to_owned(),
        name: field("srv_name")?.to_owned(),
        address: field("srv_addr")?.to_owned(),
        host: Some(field("srv_fqdn")?).filter(|host| *host != "-").map(str::to_owned),
        port: u16::try_from(number("srv_port")?).context("srv_port is no port")?,
        up: number("srv_op_state")? != STOPPED,
        held: number("srv_admin_state")? != 0,
    })
}

fn first_line(text: &str) -> &str {
    text.lines().find(|line| !line.is_empty()).unwrap_or("nothing")
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATE: &str = "1
# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr srv_agent_addr srv_agent_port
2 primary 1 db1 10.0.0.11 2 0 1 1 2 15 3 2 6 0 0 0 - 5432 - 0 8008 - - 8008
2 primary 2 db2 10.0.0.12 0 1 1 1 4 17 2 0 6 0 0 0 db2.example 5432 - 0 8008 - - 8008

";

    #[test]
    fn the_state_of_servers_is_read_by_the_names_of_its_columns() {
        let servers = parse_servers(STATE).expect("HAProxy's own words");
        let db1 = Server {
            backend: "primary".to_owned(),
            name: "db1".to_owned(),
            address: "10.0.0.11".to_owned(),
            host: None,
            port: 5432,
            up: true,
            held: false,
        };
        let db2 = Server {
            name: "db2".to_owned(),
            address: "10.0.0.12".to_owned(),
            host: Some("db2.example".to_owned()),
            up: false,
            held: true,
            ..db1.clone()
        };
        assert_eq!(servers, [db1, db2]);
    }

    #[test]
    fn what_is_no_answer_is_an_error_and_never_an_empty_list() {
        for text in ["", "Permission denied\n", "2\n# be_id\n", "1\n", "1\n# be_id be_name\n1 a\n"] {
            assert!(parse_servers(text).is_err(), "{text:?}");
        }
        assert!(parse_process("Permission denied\n").is_err());
        assert_eq!(parse_process("Name: HAProxy\nPid: 17\n").expect("an answer"), Process { pid: 17 });
    }
}
