//! The configuration as types, once it has been checked. Field names are the settings' names.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::customs::{Customs, Method};
use super::log_format::LogFormat;
use super::store_types::{Etcd, Zookeeper};
use super::values;
use crate::model::{Address, Drill, MemberName, Secret, Tags, VirtualAddress};

/// Everything that one agent's files and environment say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    pub scope: String,
    #[serde(default = "default_namespace")]
    pub namespace: String,
    pub name: MemberName,
    pub restapi: RestApi,
    #[serde(default, alias = "etcd", skip_serializing_if = "Etcd::is_unused")]
    pub etcd3: Etcd,
    /// If it is there, it is the store, and `etcd3` is unused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zookeeper: Option<Zookeeper>,
    /// None: this member makes no new cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<Bootstrap>,
    pub postgresql: Postgresql,
    #[serde(default)]
    pub tags: Tags,
    #[serde(default)]
    pub watchdog: Watchdog,
    #[serde(default)]
    pub log: Log,
    #[serde(default)]
    pub ctl: Ctl,
    #[serde(default)]
    pub tenure: Own,
}

/// What Patroni has no word for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Own {
    /// Where the agent keeps what it must find again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_dir: Option<PathBuf>,
    /// The guardian's program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guardian: Option<PathBuf>,
    /// What `tenurectl drill` may do to this member.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub drills: Vec<Drill>,
    pub ui: Ui,
    /// What goes with the primary, and `tenure-address` holds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub virtual_addresses: Vec<VirtualAddress>,
}

/// The web page at `/ui`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ui {
    #[default]
    On,
    /// It shows, and no browser may act.
    ReadOnly,
    Off,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RestApi {
    pub listen: Listen,
    #[serde(with = "as_text")]
    pub connect_address: Address,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authentication: Option<Credentials>,
    /// HTTPS is spoken if it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certfile: Option<PathBuf>,
    /// Without it, the key stands in `certfile`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keyfile: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keyfile_password: Option<Secret>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cafile: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ciphers: Option<String>,
    #[serde(default)]
    pub verify_client: VerifyClient,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowlist: Vec<String>,
    #[serde(default)]
    pub allowlist_include_members: bool,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub http_extra_headers: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub https_extra_headers: BTreeMap<String, String>,
    #[serde(default)]
    pub server_tokens: ServerTokens,
}

/// Who must show a certificate: nobody, whoever changes something, everybody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VerifyClient {
    #[default]
    None,
    Optional,
    Required,
}

/// How the server names itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServerTokens {
    #[default]
    Original,
    Minimal,
    ProductOnly,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bootstrap {
    /// Becomes `/config` of a new cluster.
    pub dcs: BTreeMap<String, Value>,
    /// Options without dashes: `data-checksums`, `encoding=UTF8`.
    pub initdb: Vec<String>,
    pub pg_hba: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub post_bootstrap: Option<String>,
    /// Its older name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub post_init: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub init_sql: Vec<String>,
    /// What else stands in the section: the method's options, under its name.
    #[serde(flatten)]
    pub sections: BTreeMap<String, Value>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Postgresql {
    pub listen: Listen,
    #[serde(with = "as_text")]
    pub connect_address: Address,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_address: Option<String>,
    pub data_dir: PathBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_dir: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bin_dir: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pgpass: Option<PathBuf>,
    #[serde(default = "default_database")]
    pub database: String,
    #[serde(default)]
    pub authentication: Authentication,
    #[serde(default)]
    pub use_unix_socket: bool,
    #[serde(default)]
    pub parameters: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pg_hba: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pg_ident: Option<Vec<String>>,
    // The rest may also be set for the whole cluster; what is set here wins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub use_pg_rewind: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remove_data_directory_on_rewind_failure: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remove_data_directory_on_diverged_timelines: Option<bool>,
    /// Seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pg_ctl_timeout: Option<f64>,
    #[serde(flatten)]
    pub customs: Customs,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Authentication {
    pub superuser: Login,
    pub replication: Login,
    /// None: the superuser rewinds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rewind: Option<Login>,
}

/// How to log in as one role. What is not set is left to libpq.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Login {
    pub username: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sslpassword: Option<Secret>,
    /// `sslmode`, `sslcert`, `channel_binding` and the like, by libpq's names.
    #[serde(flatten)]
    pub options: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Credentials {
    pub username: String,
    pub password: Secret,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Watchdog {
    pub mode: WatchdogMode,
    pub device: PathBuf,
    pub safety_margin: i64,
    pub driver: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WatchdogMode {
    #[serde(alias = "disable", alias = "disabled")]
    Off,
    #[default]
    Automatic,
    #[serde(alias = "require")]
    Required,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Log {
    pub level: Level,
    /// Levels of single modules, by the module's name.
    pub loggers: BTreeMap<String, String>,
    #[serde(rename = "type")]
    pub form: LogForm,
    pub max_queue_size: usize,
    /// Besides the journal, and instead of stderr, lines go into files here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dir: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<FileMode>,
    /// How many full files are kept.
    pub file_num: u32,
    pub file_size: u64,
    /// How a line looks; `None` is our own form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<LogFormat>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dateformat: Option<String>,
    /// What is added to each line of JSON.
    pub static_fields: BTreeMap<String, String>,
}

/// Permissions, written in octal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct FileMode(pub u32);

impl From<FileMode> for String {
    fn from(mode: FileMode) -> String {
        format!("0{:o}", mode.0)
    }
}

impl TryFrom<String> for FileMode {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<FileMode, Self::Error> {
        u32::from_str_radix(&text, 8).map(FileMode)
    }
}

/// Python's names, because files and habits have them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Level {
    Debug,
    #[default]
    Info,
    #[serde(alias = "WARN")]
    Warning,
    Error,
    #[serde(alias = "FATAL")]
    Critical,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogForm {
    #[default]
    Plain,
    Json,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ctl {
    pub insecure: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cacert: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certfile: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keyfile: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keyfile_password: Option<Secret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authentication: Option<Credentials>,
}

/// Addresses to listen on, all with one port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Listen {
    /// Never empty; `*` means every address.
    pub hosts: Vec<String>,
    pub port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("host:port is wanted, such as 127.0.0.1:5432")]
pub struct ListenError;

impl Config {
    /// The agent's own directory: what it must find again, and the socket of its guardian.
    pub fn state_dir(&self) -> PathBuf {
        let usual = || PathBuf::from("/var/lib/tenure").join(format!("{}-{}", self.scope, self.name));
        self.tenure.state_dir.clone().unwrap_or_else(usual)
    }

    pub fn guardian_socket(&self) -> PathBuf {
        self.state_dir().join("guardian.sock")
    }

    pub fn address_socket(&self) -> PathBuf {
        self.state_dir().join("address.sock")
    }
}

impl Bootstrap {
    /// The method that takes initdb's place.
    pub fn custom(&self) -> Option<Method> {
        let name = self.method.as_deref().filter(|name| !matches!(*name, "" | "initdb"))?;
        Some(Method::of(name, self.sections.get(name)))
    }
}

impl FromStr for Listen {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Listen, ListenError> {
        let (hosts, port) = text.rsplit_once(':').ok_or(ListenError)?;
        let digits = port.trim();
        let port: u16 = digits.parse().map_err(|_| ListenError)?;
        if port == 0 || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(ListenError);
        }
        let hosts: Vec<String> = match hosts.trim() {
            "" => vec!["*".to_owned()],
            hosts => hosts.split(',').map(|host| bare(host.trim()).to_owned()).collect(),
        };
        let wrong = |host: &String| host.is_empty() || host.contains(char::is_whitespace);
        if hosts.iter().any(wrong) { Err(ListenError) } else { Ok(Listen { hosts, port }) }
    }
}

fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, host) in self.hosts.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            if host.contains(':') { write!(f, "{comma}[{host}]")? } else { write!(f, "{comma}{host}")? }
        }
        write!(f, ":{}", self.port)
    }
}

impl TryFrom<String> for Listen {
    type Error = ListenError;
    fn try_from(text: String) -> Result<Listen, ListenError> {
        text.parse()
    }
}

impl From<Listen> for String {
    fn from(listen: Listen) -> String {
        listen.to_string()
    }
}

impl Default for Authentication {
    fn default() -> Authentication {
        let login = |name: &str| Login { username: name.to_owned(), ..Login::default() };
        Authentication { superuser: login("postgres"), replication: login("replicator"), rewind: None }
    }
}

impl Default for Watchdog {
    fn default() -> Watchdog {
        Watchdog {
            mode: WatchdogMode::default(),
            device: "/dev/watchdog".into(),
            safety_margin: 5,
            driver: "default".to_owned(),
        }
    }
}

impl Default for Log {
    fn default() -> Log {
        Log {
            level: Level::default(),
            loggers: BTreeMap::new(),
            form: LogForm::default(),
            max_queue_size: 1000,
            dir: None,
            mode: None,
            file_num: 4,
            file_size: 25_000_000,
            format: None,
            dateformat: None,
            static_fields: BTreeMap::new(),
        }
    }
}

fn default_namespace() -> String {
    "/service".to_owned()
}

fn default_database() -> String {
    "postgres".to_owned()
}

/// Addresses are written as `host:port`.
mod as_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::{Address, values};

    pub fn serialize<S: Serializer>(address: &Address, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&values::show(address))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Address, D::Error> {
        let text = String::deserialize(deserializer)?;
        values::address(&text, None).ok_or_else(|| D::Error::custom("host:port is wanted"))
    }
}

#[cfg(test)]
mod tests;
