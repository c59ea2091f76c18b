//! What the adapter must know of one instance: where it lives, who may log in, what it is to run with.
//! Reading it from the configuration is `config`'s business.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid};

use super::error::Error;
use crate::model::{Address, CommandLine, MemberName, Occasion, Remote, Secret};

#[derive(Clone, Debug, PartialEq)]
pub struct InstanceSettings {
    pub name: MemberName,
    pub scope: String,
    pub data_dir: PathBuf,
    /// Where postgresql.conf lives; the data directory itself unless the distribution keeps it apart.
    pub config_dir: PathBuf,
    /// The stem of postgresql.conf's name.
    pub config_base_name: String,
    /// Found by the distribution's layout when it is not given.
    pub bin_dir: Option<PathBuf>,
    /// Other names of PostgreSQL's programs.
    pub bin_names: BTreeMap<String, String>,
    /// `listen_addresses`
    pub listen: String,
    pub port: u16,
    pub connect_address: Address,
    pub database: String,
    pub superuser: Login,
    pub replication: Login,
    /// The superuser rewinds where there is none.
    pub rewind: Option<Login>,
    /// Written by us: the password that `primary_conninfo` refers to.
    pub pgpass: PathBuf,
    /// Where the server's own unix socket is; PostgreSQL's default where it is not given.
    pub socket_dir: Option<PathBuf>,
    pub use_unix_socket: bool,
    /// The dynamic and the local ones, already merged.
    pub parameters: BTreeMap<String, String>,
    pub recovery_conf: BTreeMap<String, String>,
    /// Included in place of `postgresql.base.conf`.
    pub custom_conf: Option<PathBuf>,
    /// The file is left alone while there are no lines.
    pub pg_hba: Vec<String>,
    pub pg_ident: Vec<String>,
    pub initdb: Vec<ProgramOption>,
    /// Appended to pg_hba.conf of a new cluster that has no `pg_hba`.
    pub bootstrap_pg_hba: Vec<String>,
    pub basebackup: Vec<ProgramOption>,
    /// How a copy of the cluster's data is made; the next one if one fails.
    pub replica_methods: Vec<ReplicaMethod>,
    /// What makes a new cluster's data in initdb's place.
    pub bootstrap_method: Option<CustomMethod>,
    /// Run once in the database of a new cluster.
    pub init_sql: Vec<PathBuf>,
    pub use_slots: bool,
    /// Standbys must be able to take over logical slots.
    pub copied_slots: bool,
    /// Clients are kept out of a primary that comes back until its standbys have caught up. So PostgreSQL must not come back by itself.
    pub gated: bool,
    /// The cluster that this one follows.
    pub remote: Option<Remote>,
    pub hooks: Hooks,
    /// What PostgreSQL writes to stderr until its own logging takes over.
    pub log_file: PathBuf,
    /// A control group that is to hold PostgreSQL and nothing else.
    pub control_group: Option<PathBuf>,
    /// Who PostgreSQL runs as when the agent is root; the owner of the data directory where it is not given.
    pub run_as: Option<RunAs>,
    /// How many directories that were set aside are kept.
    pub set_aside_max: usize,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hooks {
    /// Run with a conninfo as its argument when a new cluster's data has been made.
    pub post_bootstrap: Option<CommandLine>,
    /// Must succeed before a promotion.
    pub pre_promote: Option<CommandLine>,
    pub before_stop: Option<CommandLine>,
    pub callbacks: BTreeMap<Occasion, CommandLine>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplicaMethod {
    Basebackup,
    Custom(CustomMethod),
}

/// A command of the operator's that makes a data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomMethod {
    pub name: String,
    pub command: CommandLine,
    /// Given to it as `--name=value`.
    pub options: Vec<(String, String)>,
    /// Nothing but its own options is given to it.
    pub no_params: bool,
    /// What an earlier method has left in the directory is left there.
    pub keep_data: bool,
    /// It needs nobody who runs.
    pub no_leader: bool,
    /// For a new cluster: the recovery settings that it leaves behind are the ones to recover with.
    pub keep_existing_recovery_conf: bool,
    /// For a new cluster: what to recover with.
    pub recovery_conf: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Login {
    pub username: String,
    pub password: Option<Secret>,
    /// Further libpq keys: `sslmode`, `sslcert`, `gssencmode` …
    pub options: BTreeMap<String, String>,
}

/// `--name` or `--name=value` of initdb or pg_basebackup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramOption {
    pub name: String,
    pub value: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunAs {
    pub uid: u32,
    pub gid: u32,
}

impl InstanceSettings {
    /// The usual settings of an instance in `data_dir`.
    pub fn new(
        name: MemberName,
        scope: &str,
        data_dir: PathBuf,
        connect_address: Address,
    ) -> InstanceSettings {
        let beside = |suffix: &str| {
            let mut path = data_dir.clone().into_os_string();
            path.push(suffix);
            PathBuf::from(path)
        };
        InstanceSettings {
            name,
            scope: scope.to_owned(),
            config_dir: data_dir.clone(),
            config_base_name: "postgresql".to_owned(),
            bin_dir: None,
            bin_names: BTreeMap::new(),
            listen: connect_address.host.clone(),
            port: connect_address.port,
            connect_address,
            database: "postgres".to_owned(),
            superuser: Login::named("postgres"),
            replication: Login::named("replicator"),
            rewind: None,
            pgpass: beside(".pgpass"),
            socket_dir: None,
            use_unix_socket: false,
            parameters: BTreeMap::new(),
            recovery_conf: BTreeMap::new(),
            custom_conf: None,
            pg_hba: Vec::new(),
            pg_ident: Vec::new(),
            initdb: Vec::new(),
            bootstrap_pg_hba: Vec::new(),
            basebackup: Vec::new(),
            replica_methods: vec![ReplicaMethod::Basebackup],
            bootstrap_method: None,
            init_sql: Vec::new(),
            use_slots: true,
            copied_slots: false,
            gated: false,
            remote: None,
            hooks: Hooks::default(),
            log_file: beside(".log"),
            control_group: None,
            run_as: None,
            set_aside_max: 2,
            data_dir,
        }
    }

    /// Who pg_rewind logs in as.
    pub fn rewind_login(&self) -> &Login {
        self.rewind.as_ref().unwrap_or(&self.superuser)
    }

    /// The file that PostgreSQL reads its settings from.
    pub(super) fn config_file(&self) -> PathBuf {
        self.config_dir.join(format!("{}.conf", self.config_base_name))
    }

    /// Would PostgreSQL find that file by itself?
    pub(super) fn config_is_elsewhere(&self) -> bool {
        self.config_file() != self.data_dir.join("postgresql.conf")
    }

    /// What was there before us, as a file name.
    pub(super) fn base_config(&self) -> String {
        format!("{}.base.conf", self.config_base_name)
    }

    /// A path beside the data directory that carries its name.
    pub(super) fn beside(&self, suffix: &str) -> PathBuf {
        let mut path = self.data_dir.clone().into_os_string();
        path.push(suffix);
        PathBuf::from(path)
    }

    /// As whom PostgreSQL's programs must be run and its files be owned, if that is not ourselves.
    pub(super) fn identity(&self) -> Result<Option<RunAs>, Error> {
        if !Uid::effective().is_root() {
            return Ok(None);
        }
        let owner = || nearest_owner(&self.data_dir);
        match self.run_as.or_else(owner) {
            Some(identity) if identity.uid != 0 => Ok(Some(identity)),
            Some(_) | None => Err(Error::refused(
                format!("run PostgreSQL in {}", self.data_dir.display()),
                "it does not run as root, and neither does the data directory belong to another user \
                 nor is one configured",
            )),
        }
    }

    /// Where a local client finds the server.
    pub(super) fn local_host(&self) -> String {
        if self.use_unix_socket {
            return self.socket_directory().display().to_string();
        }
        let mut listened = self.listen.split(',').map(str::trim).filter(|host| !host.is_empty());
        match listened.clone().find(|host| matches!(*host, "*" | "0.0.0.0" | "localhost" | "127.0.0.1")) {
            Some("127.0.0.1") => "127.0.0.1".to_owned(),
            Some(_) => "localhost".to_owned(),
            None if listened.clone().any(|host| host == "::") => "::1".to_owned(),
            None => listened.next().unwrap_or(&self.connect_address.host).to_owned(),
        }
    }

    pub(super) fn socket_directory(&self) -> PathBuf {
        let configured = self.parameters.get("unix_socket_directories");
        let first = configured.and_then(|list| list.split(',').map(str::trim).find(|dir| !dir.is_empty()));
        match (&self.socket_dir, first) {
            (Some(directory), _) => directory.clone(),
            (None, Some(directory)) => PathBuf::from(directory),
            (None, None) if Path::new("/var/run/postgresql").is_dir() => PathBuf::from("/var/run/postgresql"),
            (None, None) => PathBuf::from("/tmp"),
        }
    }
}

/// A data directory that does not exist yet will be made in somebody's directory.
fn nearest_owner(path: &Path) -> Option<RunAs> {
    let metadata = path.ancestors().find_map(|ancestor| ancestor.metadata().ok())?;
    Some(RunAs { uid: metadata.uid(), gid: metadata.gid() })
}

impl Login {
    pub fn named(username: &str) -> Login {
        Login { username: username.to_owned(), password: None, options: BTreeMap::new() }
    }

    #[must_use]
    pub fn with_password(mut self, password: &str) -> Login {
        self.password = Some(Secret::new(password));
        self
    }
}

impl ProgramOption {
    pub fn flag(name: &str) -> ProgramOption {
        ProgramOption { name: name.to_owned(), value: None }
    }

    pub fn value(name: &str, value: &str) -> ProgramOption {
        ProgramOption { name: name.to_owned(), value: Some(value.to_owned()) }
    }

    pub(super) fn argument(&self) -> String {
        match &self.value {
            Some(value) => format!("--{}={value}", self.name),
            None => format!("--{}", self.name),
        }
    }
}

impl ReplicaMethod {
    /// Does it need nobody to copy from?
    pub fn works_alone(&self) -> bool {
        match self {
            ReplicaMethod::Basebackup => false,
            ReplicaMethod::Custom(method) => method.no_leader,
        }
    }

    pub(super) fn keeps_data(&self) -> bool {
        match self {
            ReplicaMethod::Basebackup => false,
            ReplicaMethod::Custom(method) => method.keep_data,
        }
    }
}

impl RunAs {
    pub(super) fn uid(self) -> Uid {
        Uid::from_raw(self.uid)
    }

    pub(super) fn gid(self) -> Gid {
        Gid::from_raw(self.gid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(listen: &str) -> InstanceSettings {
        let address = Address { host: "db1".to_owned(), port: 5432 };
        let name = "db1".parse().expect("a good name");
        let settings = InstanceSettings::new(name, "demo", PathBuf::from("/nonexistent/data"), address);
        InstanceSettings { listen: listen.to_owned(), ..settings }
    }

    #[test]
    fn a_local_client_goes_where_the_server_listens() {
        for (listen, host) in [
            ("*", "localhost"),
            ("0.0.0.0", "localhost"),
            ("10.0.0.1, 127.0.0.1", "127.0.0.1"),
            ("10.0.0.1,10.0.0.2", "10.0.0.1"),
            ("::", "::1"),
            ("", "db1"),
        ] {
            assert_eq!(settings(listen).local_host(), host, "{listen}");
        }
    }

    #[test]
    fn a_socket_is_looked_for_where_postgresql_puts_it() {
        let mut settings = settings("*");
        settings.use_unix_socket = true;
        settings.parameters.insert("unix_socket_directories".to_owned(), "/run/a, /run/b".to_owned());
        assert_eq!(settings.local_host(), "/run/a");
    }

    #[test]
    fn a_password_is_not_printed() {
        let login = Login::named("x").with_password("sesame");
        assert!(!format!("{login:?}").contains("sesame"));
    }
}
