//! What is known of the member on this machine: its configuration, who governs it, and its PostgreSQL.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use hyper::Method;

use super::super::cluster::{Cluster, Member};
use super::super::document::Document;
use super::super::rest::Members;
use super::Ground;
use crate::config::{self, Config, Loaded, Sources};
use crate::model::Address;
use crate::postgres::{Postmaster, running_postmaster};

/// An agent that does not answer in this time has gone, or is as good as gone.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Patroni,
    Tenure,
}

/// Who answers where this member's REST API is.
#[derive(Clone, Debug, PartialEq)]
pub enum Agent {
    Answers { kind: Kind, version: String, status: Document },
    Silent(String),
}

/// A process of an agent for this member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    pub kind: Kind,
    /// The unit of systemd that it belongs to.
    pub unit: Option<String>,
}

#[derive(Debug)]
pub struct Here {
    pub agent: Agent,
    pub processes: Vec<Process>,
    pub postmaster: Option<Postmaster>,
    /// As a standby it receives WAL from the leader now.
    pub streams: bool,
    pub cluster: Cluster,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Patroni => "Patroni",
            Kind::Tenure => "Tenure",
        }
    }

    pub fn other(self) -> Kind {
        match self {
            Kind::Patroni => Kind::Tenure,
            Kind::Tenure => Kind::Patroni,
        }
    }
}

impl Agent {
    pub fn kind(&self) -> Option<Kind> {
        match self {
            Agent::Answers { kind, .. } => Some(*kind),
            Agent::Silent(_) => None,
        }
    }

    /// A word of its status document.
    pub fn says(&self, field: &str) -> &str {
        match self {
            Agent::Answers { status, .. } => {
                status.get(field).and_then(Document::as_text).unwrap_or_default()
            }
            Agent::Silent(_) => "",
        }
    }
}

impl Here {
    pub fn is_leader(&self, me: &str) -> bool {
        self.cluster.leader.as_deref() == Some(me)
    }
}

/// The member's configuration, as the agent would read it.
pub fn configuration(file: &Path) -> Result<Loaded> {
    let sources = Sources::of_process(vec![file.to_owned()]);
    config::load(&sources)
        .map_err(|problems| anyhow!("Tenure would not start with this configuration:\n{problems}"))
}

pub async fn look(ground: &Ground<'_>, config: &Config) -> Result<Here> {
    let cluster = ground.access.read(&config.scope).await?;
    let members = &ground.access.members;
    let members = Members { patience: members.patience.min(ANSWER_WITHIN), ..members.clone() };
    let agent = answer(&members, config).await.unwrap_or_else(|error| Agent::Silent(format!("{error:#}")));
    let streams = match agent.says("replication_state") {
        // Patroni before 3.1 does not say.
        "" => is_known_to_leader(&members, &cluster, config.name.as_str()).await,
        state => state == "streaming",
    };
    Ok(Here {
        agent,
        streams,
        processes: processes(&ground.file, &config.postgresql.data_dir),
        postmaster: running_postmaster(&config.postgresql.data_dir).map(|(postmaster, _)| postmaster),
        cluster,
    })
}

/// Does the leader say that it sends WAL to this member?
async fn is_known_to_leader(members: &Members, cluster: &Cluster, me: &str) -> bool {
    let Some(leader) = cluster.leading_member().filter(|leader| leader.name != me) else { return false };
    let Ok(reply) = members.ask(&leader, Method::GET, None, None).await else { return false };
    let Ok(status) = Document::parse(reply.text.as_bytes()) else { return false };
    let Some(Document::List(receivers)) = status.get("replication") else { return false };
    let word = |receiver: &Document, field: &str| receiver.get(field).map(Document::shown);
    receivers.iter().any(|receiver| {
        word(receiver, "application_name").as_deref() == Some(me)
            && word(receiver, "state").as_deref() == Some("streaming")
    })
}

async fn answer(members: &Members, config: &Config) -> Result<Agent> {
    let Address { host, port } = &config.restapi.connect_address;
    let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    let protocol = if config.restapi.certfile.is_some() { "https" } else { "http" };
    let url = ("api_url".to_owned(), Document::Text(format!("{protocol}://{host}:{port}/patroni")));
    let member =
        Member { name: config.name.to_string(), document: Document::Map(vec![url]), ..Member::default() };
    let reply = members.ask(&member, Method::GET, None, None).await?;
    let status = Document::parse(reply.text.as_bytes()).context("understand the answer")?;
    let version =
        |section: &str| status.get(section).and_then(|part| part.get("version")).map(Document::shown);
    let (kind, version) = match (version("tenure"), version("patroni")) {
        (Some(version), _) => (Kind::Tenure, version),
        (None, Some(version)) => (Kind::Patroni, version),
        (None, None) => {
            return Err(anyhow!("whoever answers at {host}:{port} is neither Patroni nor Tenure"));
        }
    };
    Ok(Agent::Answers { kind, version, status })
}

/// The agents' processes that name this member's configuration file, or a copy of it in /etc/tenure.
fn processes(file: &Path, data_dir: &Path) -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| process(pid, file, data_dir)).collect()
}

fn process(pid: i32, file: &Path, data_dir: &Path) -> Option<Process> {
    let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words: Vec<String> = (words.split(|byte| *byte == 0).filter(|word| !word.is_empty()))
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    let kind = kind_of(&words)?;
    let directory = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
    let file = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    let given = words.iter().skip(1).any(|word| {
        let path = directory.join(word);
        path.canonicalize().is_ok_and(|path| path == file)
            || (kind == Kind::Tenure && has_data_dir(&path, data_dir))
    });
    given.then(|| Process { pid, kind, unit: unit_of(pid) })
}

/// The guardians on a socket.
pub fn guardians(socket: &str) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = words.split(|byte| *byte == 0);
        words.next().is_some_and(|program| program.ends_with(b"tenure-fence"))
            && words.any(|word| word == socket.as_bytes())
    })
    .collect()
}

/// What runs is a program itself, or Python with a program.
fn kind_of(words: &[String]) -> Option<Kind> {
    let name = |word: &String| Path::new(word).file_name().map(|name| name.to_string_lossy().into_owned());
    words.iter().take(3).find_map(|word| match name(word)?.as_str() {
        "patroni" => Some(Kind::Patroni),
        "tenured" => Some(Kind::Tenure),
        _ => None,
    })
}

/// The instance's file is a copy, so the data directory tells whose it is.
fn has_data_dir(path: &Path, data_dir: &Path) -> bool {
    let is_file = path.extension().is_some_and(|kind| kind == "yml" || kind == "yaml");
    is_file && configuration(path).is_ok_and(|loaded| loaded.config.postgresql.data_dir == data_dir)
}

fn unit_of(pid: i32) -> Option<String> {
    unit_in(&fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?)
}

/// From the lines of `/proc/PID/cgroup`: the innermost service, below which an agent may have divided its group. Where both
/// versions of control groups are in use, only one of the lines tells.
fn unit_in(text: &str) -> Option<String> {
    let systemd = |line: &&str| line.starts_with("0::") || line.contains(":name=systemd:");
    let paths = text.lines().filter(systemd).filter_map(|line| line.splitn(3, ':').nth(2));
    let mut units = paths.filter_map(|path| path.split('/').rfind(|part| part.ends_with(".service")));
    // A login's own manager is not the agent's unit.
    units.find(|unit| !unit.starts_with("user@")).map(str::to_owned)
}

/// The file that the instance of our unit reads.
pub fn instance_file(instance: &str) -> PathBuf {
    Path::new("/etc/tenure").join(format!("{instance}.yml"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agents_process_is_known_by_its_program() {
        let check = |line: &str, kind| {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            assert_eq!(kind_of(&words), kind, "{line}");
        };
        check("/usr/bin/python3 /usr/bin/patroni /etc/patroni/config.yml", Some(Kind::Patroni));
        check("/opt/venv/bin/python /opt/venv/bin/patroni config.yml", Some(Kind::Patroni));
        check("/usr/bin/tenured --guardian-unit x /etc/tenure/main.yml", Some(Kind::Tenure));
        check("vi /etc/patroni/config.yml", None);
        check("tail -f /var/log/x patroni", None);
        check("patronictl list", None);
    }

    #[test]
    fn a_process_knows_its_unit_by_its_control_group() {
        let check = |text: &str, unit: Option<&str>| assert_eq!(unit_in(text).as_deref(), unit, "{text}");
        check("0::/system.slice/patroni.service\n", Some("patroni.service"));
        check(
            "0::/system.slice/system-patroni.slice/patroni@17-main.service\n",
            Some("patroni@17-main.service"),
        );
        check("0::/system.slice/tenured@main.service/agent\n", Some("tenured@main.service"));
        check("1:name=systemd:/system.slice/patroni.service\n", Some("patroni.service"));
        check("9:name=systemd:/\n0::/system.slice/patroni.service\n", Some("patroni.service"));
        check("0::/user.slice/user-0.slice/session-1.scope\n", None);
        check("0::/user.slice/user-0.slice/user@0.service/app.slice\n", None);
        check("0::/\n", None);
    }
}
