//! Every setting there is, as a table: its name, what it may hold, how far this version honours it, and one line about it.
//! Checks, environment variables, hints and docs/configuration.md all come from here.

use crate::model::Drill;

/// One row. Sections need no row of their own: they are what stands before the dots.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    pub path: &'static str,
    pub kind: Kind,
    pub state: State,
    /// As it would be written; empty if there is none.
    pub default: &'static str,
    pub about: &'static str,
}

/// What a setting may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    /// Text that no message ever shows.
    Secret,
    /// A member's name.
    Name,
    /// Text that becomes part of a key in the store.
    KeyPart,
    Flag,
    Number {
        from: i64,
        to: i64,
    },
    /// A length of time: a number of seconds, or a number with a unit. `from` is in seconds.
    Seconds {
        from: i64,
    },
    /// A number of bytes, or a number with a unit.
    Bytes {
        from: i64,
    },
    /// File permissions, in octal.
    Mode,
    Choice(&'static [&'static str]),
    /// A list of some of these words, or text with commas.
    Choices(&'static [&'static str]),
    /// Addresses to listen on: `host:port`, several hosts with commas between them, `*` for all.
    Listen,
    /// An address that others reach this member by.
    Connect,
    Lines,
    /// A list, or text with commas.
    Words,
    /// Command-line options: a list of words and of single pairs.
    Options,
    /// A list of virtual addresses, or text with commas.
    VirtualAddresses,
    /// Names with text.
    Texts,
    /// How lines of the log look, in Python's words.
    LogFormat,
    /// How a time is written, in strftime's words.
    DateFormat,
    Anything,
    /// Checked by the table of dynamic settings.
    Dynamic,
}

/// How far this version honours a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Honoured,
    /// Patroni knows it, and leaving it out harms nobody: warned about.
    NotYet,
    /// Patroni knows it, and a cluster that relies on it must not run without: refused, unless it is switched off.
    Unsafe,
    /// It has no meaning here, by design: accepted in silence.
    Moot,
}

const fn row(path: &'static str, kind: Kind, default: &'static str, about: &'static str) -> Setting {
    Setting { path, kind, state: State::Honoured, default, about }
}

impl Setting {
    const fn not_yet(mut self) -> Setting {
        self.state = State::NotYet;
        self
    }

    const fn not_safely(mut self) -> Setting {
        self.state = State::Unsafe;
        self
    }

    const fn moot(mut self) -> Setting {
        self.state = State::Moot;
        self
    }
}

const FLAG: Kind = Kind::Flag;
const TEXT: Kind = Kind::Text;
const SECRET: Kind = Kind::Secret;
const SSLMODE: Kind = Kind::Choice(&["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]);
const GSSENCMODE: Kind = Kind::Choice(&["disable", "prefer", "require"]);
const BINDING: Kind = Kind::Choice(&["disable", "prefer", "require"]);
const NEGOTIATION: Kind = Kind::Choice(&["postgres", "direct"]);
pub const LEVELS: &[&str] = &["DEBUG", "INFO", "WARN", "WARNING", "ERROR", "FATAL", "CRITICAL"];

macro_rules! login {
    ($prefix:literal, $user:literal, $whose:literal) => {
        [
            row(concat!($prefix, ".username"), TEXT, $user, concat!("the role of ", $whose)),
            row(concat!($prefix, ".password"), SECRET, "", "its password"),
            row(concat!($prefix, ".sslmode"), SSLMODE, "prefer", "as in libpq"),
            row(concat!($prefix, ".sslcert"), TEXT, "", "as in libpq"),
            row(concat!($prefix, ".sslkey"), TEXT, "", "as in libpq"),
            row(concat!($prefix, ".sslpassword"), SECRET, "", "as in libpq"),
            row(concat!($prefix, ".sslrootcert"), TEXT, "", "as in libpq"),
            row(concat!($prefix, ".sslcrl"), TEXT, "", "as in libpq"),
            row(concat!($prefix, ".sslcrldir"), TEXT, "", "as in libpq"),
            row(concat!($prefix, ".gssencmode"), GSSENCMODE, "prefer", "as in libpq"),
            row(concat!($prefix, ".channel_binding"), BINDING, "prefer", "as in libpq"),
            row(concat!($prefix, ".sslnegotiation"), NEGOTIATION, "postgres", "as in libpq"),
        ]
    };
}

macro_rules! etcd {
    ($prefix:literal) => {
        [
            row(
                concat!($prefix, ".host"),
                TEXT,
                "",
                "one etcd server, host:port; the port is 2379 if left out",
            ),
            row(concat!($prefix, ".hosts"), Kind::Words, "", "several etcd servers"),
            row(
                concat!($prefix, ".url"),
                TEXT,
                "",
                "one etcd server as a URL, which may carry user and password",
            ),
            row(
                concat!($prefix, ".protocol"),
                Kind::Choice(&["http", "https"]),
                "http",
                "how to speak with them",
            ),
            row(concat!($prefix, ".username"), TEXT, "", "etcd's own user"),
            row(concat!($prefix, ".password"), SECRET, "", "its password"),
            row(concat!($prefix, ".cacert"), TEXT, "", "file with the certificates to trust"),
            row(concat!($prefix, ".cert"), TEXT, "", "file with this client's certificate"),
            row(concat!($prefix, ".key"), TEXT, "", "file with its private key"),
            row(concat!($prefix, ".srv"), TEXT, "", "a domain of DNS whose SRV records name the servers"),
            row(
                concat!($prefix, ".srv_suffix"),
                TEXT,
                "",
                "tells several etcd clusters of one domain apart: _etcd-client-SUFFIX",
            ),
            row(
                concat!($prefix, ".proxy"),
                TEXT,
                "",
                "an etcd proxy, as a URL, which may carry user and password",
            ),
            row(
                concat!($prefix, ".use_proxies"),
                FLAG,
                "false",
                "always so: only the servers that are named here are asked",
            )
            .moot(),
        ]
    };
}

/// What stands in the files of one agent.
#[rustfmt::skip] // a table, and rows are read as rows
pub const LOCAL: &[&[Setting]] = &[
    &[
        row("scope", Kind::KeyPart, "", "the cluster's name, the same on all members"),
        row("namespace", TEXT, "/service", "where in the store the clusters are kept"),
        row("name", Kind::Name, "", "this member's name, unique in the cluster"),
        row("thread_pool_size", Kind::Number { from: 0, to: i64::MAX }, "", "of Python's threads").moot(),
        row("thread_stack_size", Kind::Bytes { from: 0 }, "", "of Python's threads").moot(),
    ],
    &[
        row("restapi.listen", Kind::Listen, "", "where the REST API listens, host:port"),
        row("restapi.connect_address", Kind::Connect, "", "where others reach it, host:port"),
        row("restapi.authentication.username", TEXT, "", "user for requests that change something"),
        row("restapi.authentication.password", SECRET, "", "its password"),
        row("restapi.certfile", TEXT, "", "the server's certificate; HTTPS is spoken if it is set"),
        row("restapi.keyfile", TEXT, "", "its private key"),
        row("restapi.keyfile_password", SECRET, "", "the key's password"),
        row("restapi.cafile", TEXT, "", "the certificates to trust in clients and members"),
        row("restapi.ciphers", TEXT, "", "the ciphers to allow"),
        row("restapi.verify_client", Kind::Choice(&["none", "optional", "required"]), "none", "who must show a certificate"),
        row("restapi.allowlist", Kind::Words, "", "who may send requests that change something"),
        row("restapi.allowlist_include_members", FLAG, "false", "whether the members may"),
        row("restapi.http_extra_headers", Kind::Texts, "", "headers for each answer"),
        row("restapi.https_extra_headers", Kind::Texts, "", "headers for each answer over HTTPS"),
        row("restapi.server_tokens", Kind::Choice(&["original", "minimal", "productonly"]), "original", "how the server names itself"),
        row("restapi.request_queue_size", Kind::Number { from: 0, to: 4096 }, "5", "of Python's server").moot(),
        row("restapi.thread_pool_size", Kind::Number { from: 0, to: i64::MAX }, "5", "of Python's server").moot(),
    ],
    &etcd!("etcd3"),
    &etcd!("etcd"),
    &[
        row("zookeeper.hosts", Kind::Words, "", "ZooKeeper's servers, host:port; the port is 2181 if left out, and /path behind the last one is the path below which everything lies"),
        row("zookeeper.use_ssl", FLAG, "false", "encrypt the connections"),
        row("zookeeper.cacert", TEXT, "", "file with the certificates to trust"),
        row("zookeeper.cert", TEXT, "", "file with this client's certificate"),
        row("zookeeper.key", TEXT, "", "file with its private key; without it, the key is in the certificate's file"),
        row("zookeeper.key_password", SECRET, "", "the key's password"),
        row("zookeeper.verify", FLAG, "true", "whether the servers must show a certificate that is trusted, with their name in it"),
        row("zookeeper.set_acls", Kind::Anything, "", "who may use what is written: principals, each with a list of CREATE, READ, WRITE, DELETE, ADMIN, ALL"),
        row("zookeeper.auth_data", Kind::Texts, "", "what to show of ourselves: schemes, such as digest, each with its credential, such as user:password"),
        row("exhibitor", Kind::Anything, "", "ZooKeeper found through Exhibitor, which nobody maintains any more: name the servers in zookeeper.hosts").not_safely(),
        row("consul", Kind::Anything, "", "Consul as the store: not planned").not_safely(),
        row("kubernetes", Kind::Anything, "", "Kubernetes as the store: not planned").not_safely(),
        row("raft", Kind::Anything, "", "Patroni's own Raft: not planned").not_safely(),
        row("citus", Kind::Anything, "", "Citus clusters: not planned").not_safely(),
    ],
    &[
        row("bootstrap.dcs", Kind::Dynamic, "", "the dynamic settings that a new cluster begins with"),
        row("bootstrap.initdb", Kind::Options, "", "options of initdb"),
        row("bootstrap.pg_hba", Kind::Lines, "", "lines for pg_hba.conf if no others are configured"),
        row("bootstrap.post_bootstrap", TEXT, "", "command to run once the data is made"),
        row("bootstrap.post_init", TEXT, "", "older name of post_bootstrap"),
        row("bootstrap.method", TEXT, "initdb", "how a new cluster is made: initdb, or the name of a section beside it with a command"),
        row("bootstrap.init_sql", Kind::Words, "", "SQL files that psql runs once in the database of a new cluster, before anybody else may connect"),
        row("bootstrap.users", Kind::Anything, "", "gone from Patroni since 4.0").not_yet(),
    ],
    &[
        row("postgresql.listen", Kind::Listen, "", "where PostgreSQL listens, hosts:port"),
        row("postgresql.connect_address", Kind::Connect, "", "where others reach it, host:port"),
        row("postgresql.proxy_address", Kind::Connect, "", "a pooler before it, host:port, published for others"),
        row("postgresql.data_dir", TEXT, "", "the data directory"),
        row("postgresql.config_dir", TEXT, "", "where postgresql.conf is; the data directory if left out"),
        row("postgresql.config_base_name", TEXT, "postgresql", "the stem of postgresql.conf's name"),
        row("postgresql.bin_dir", TEXT, "", "where PostgreSQL's programs are; found by themselves if left out"),
        row("postgresql.bin_name.pg_ctl", TEXT, "", "another name of this program"),
        row("postgresql.bin_name.initdb", TEXT, "", "another name of this program"),
        row("postgresql.bin_name.pg_controldata", TEXT, "", "another name of this program"),
        row("postgresql.bin_name.pg_basebackup", TEXT, "", "another name of this program"),
        row("postgresql.bin_name.postgres", TEXT, "", "another name of this program"),
        row("postgresql.bin_name.pg_isready", TEXT, "", "another name of a program that is not used").moot(),
        row("postgresql.bin_name.pg_rewind", TEXT, "", "another name of this program"),
        row("postgresql.database", TEXT, "postgres", "the database to connect to"),
        row("postgresql.pgpass", TEXT, "", "password file to write; beside the data directory if left out"),
        row("postgresql.use_unix_socket", FLAG, "false", "connect through the socket rather than TCP"),
        row("postgresql.use_unix_socket_repl", FLAG, "false", "the same for replication connections, of which the agent makes none to its own server").moot(),
        row("postgresql.parameters", Kind::Texts, "", "PostgreSQL's settings on this member"),
        row("postgresql.pg_hba", Kind::Lines, "", "the whole of pg_hba.conf"),
        row("postgresql.pg_ident", Kind::Lines, "", "the whole of pg_ident.conf"),
        row("postgresql.recovery_conf", Kind::Texts, "", "recovery settings of standbys, such as restore_command"),
        row("postgresql.custom_conf", TEXT, "", "a file to include instead of the base configuration"),
        row("postgresql.callbacks", Kind::Texts, "", "commands to run on_start, on_stop, on_restart, on_reload, on_role_change"),
        row("postgresql.create_replica_methods", Kind::Words, "basebackup", "how a replica is made: basebackup, and names of sections beside it with a command; the next if one fails"),
        row("postgresql.create_replica_method", Kind::Words, "basebackup", "older name of create_replica_methods"),
        row("postgresql.basebackup", Kind::Options, "", "options of pg_basebackup"),
        row("postgresql.use_pg_rewind", FLAG, "false", "rewind a former primary that has diverged"),
        row("postgresql.remove_data_directory_on_rewind_failure", FLAG, "false", "clone anew if it cannot be rewound; the old directory is set aside, not removed"),
        row("postgresql.remove_data_directory_on_diverged_timelines", FLAG, "false", "the same where rewinding is switched off"),
        row("postgresql.pg_ctl_timeout", Kind::Seconds { from: 0 }, "60", "how long a start or stop may take"),
        row("postgresql.use_slots", FLAG, "true", "dynamic only: a replication slot for each member"),
        row("postgresql.pre_promote", TEXT, "", "command that must succeed before a promotion, within primary_start_timeout"),
        row("postgresql.before_stop", TEXT, "", "command to run before a stop, within half of the time that the stop has"),
        row("postgresql.krbsrvname", TEXT, "", "Kerberos service name"),
    ],
    &login!("postgresql.authentication.superuser", "postgres", "the agent"),
    &login!("postgresql.authentication.replication", "replicator", "standbys"),
    &login!("postgresql.authentication.rewind", "", "pg_rewind; the superuser if left out"),
    &[
        row("watchdog.mode", Kind::Choice(&["off", "automatic", "required", "disable", "disabled", "require"]), "automatic", "what stands behind the guardian: no device, one if it can be used, or no leading without one"),
        row("watchdog.device", TEXT, "/dev/watchdog", "the watchdog device"),
        row("watchdog.safety_margin", Kind::Number { from: -1, to: i64::MAX }, "5", "the device is set to ttl less so many seconds; -1: to half of ttl; never to more than the lease allows"),
        row("watchdog.driver", Kind::Choice(&["default"]), "default", "the kind of device"),
    ],
    &[
        row("tags.nofailover", FLAG, "false", "never lead"),
        row("tags.failover_priority", Kind::Number { from: i64::MIN, to: i64::MAX }, "1", "higher is preferred among members that are equally far; 0 never leads"),
        row("tags.noloadbalance", FLAG, "false", "answer /replica with 503"),
        row("tags.clonefrom", FLAG, "false", "others may clone from here"),
        row("tags.nosync", FLAG, "false", "never be a synchronous standby"),
        row("tags.sync_priority", Kind::Number { from: i64::MIN, to: i64::MAX }, "1", "higher is preferred as a synchronous standby"),
        row("tags.nostream", FLAG, "false", "replicate from the archive only"),
        row("tags.replicatefrom", TEXT, "", "replicate from this member while that is possible"),
    ],
    &[
        row("log.level", Kind::Choice(LEVELS), "INFO", "the least that is logged"),
        row("log.loggers", Kind::Texts, "", "levels of single modules"),
        row("log.type", Kind::Choice(&["plain", "json"]), "plain", "the form of a line"),
        row("log.max_queue_size", Kind::Number { from: 1, to: 1_000_000 }, "1000", "lines that may wait to be written; what is more is dropped and counted"),
        row("log.traceback_level", Kind::Choice(LEVELS), "ERROR", "of Python's tracebacks").moot(),
        row("log.format", Kind::LogFormat, "", "the form of a line in Python's words, such as `%(asctime)s %(levelname)s: %(message)s`; a list of fields for JSON"),
        row("log.dateformat", Kind::DateFormat, "", "the form of the time in strftime's words"),
        row("log.static_fields", Kind::Texts, "", "fields for each line of JSON"),
        row("log.dir", TEXT, "", "directory for log files, written besides the journal and instead of stderr; the file is called patroni.log"),
        row("log.mode", Kind::Mode, "", "permissions of log files; left out, the umask decides"),
        row("log.file_num", Kind::Number { from: 0, to: 10_000 }, "4", "full log files to keep"),
        row("log.file_size", Kind::Bytes { from: 1 }, "25000000", "size at which a log file is full"),
        row("log.deduplicate_heartbeat_logs", FLAG, "false", "always so: a decision is logged when it changes").moot(),
    ],
    &[
        row("ctl.insecure", FLAG, "false", "tenurectl: trust any certificate"),
        row("ctl.cacert", TEXT, "", "tenurectl: certificates to trust"),
        row("ctl.certfile", TEXT, "", "tenurectl: its certificate"),
        row("ctl.keyfile", TEXT, "", "tenurectl: its private key"),
        row("ctl.keyfile_password", SECRET, "", "tenurectl: the key's password"),
        row("ctl.authentication.username", TEXT, "", "tenurectl: user for the REST API"),
        row("ctl.authentication.password", SECRET, "", "tenurectl: its password"),
    ],
    &[
        row("tenure.state_dir", TEXT, "/var/lib/tenure/SCOPE-NAME", "where the agent keeps what it must find again after a crash"),
        row("tenure.guardian", TEXT, "", "the program of the guardian, if it is not beside the agent's"),
        row("tenure.drills", Kind::Choices(Drill::WORDS), "", "the faults that `tenurectl drill` may bring upon this member; none if left out"),
        row("tenure.ui", Kind::Choice(&["on", "read-only", "off"]), "on", "the web page at /ui: with everything, without actions, or not at all"),
        row("tenure.virtual_addresses", Kind::VirtualAddresses, "", "addresses that go with the primary, which tenure-address puts on their interfaces"),
    ],
];

/// What stands in `/config`, and under `bootstrap.dcs` for a new cluster.
#[rustfmt::skip] // a table, and rows are read as rows
pub const DYNAMIC: &[&[Setting]] = &[&[
    row("ttl", Kind::Seconds { from: 1 }, "30", "seconds that a leader's lease lasts"),
    row("loop_wait", Kind::Seconds { from: 1 }, "10", "seconds between two looks at what has not changed"),
    row("retry_timeout", Kind::Seconds { from: 1 }, "10", "seconds to keep trying the store and PostgreSQL"),
    row("unsafe_timing", FLAG, "false", "accept a ttl that leaves less than 3 s for renewing"),
    row("maximum_lag_on_failover", Kind::Bytes { from: 0 }, "1048576", "bytes that a candidate may be behind"),
    row("primary_start_timeout", Kind::Seconds { from: 0 }, "300", "seconds that a leader may try to start PostgreSQL"),
    row("master_start_timeout", Kind::Seconds { from: 0 }, "300", "older name of primary_start_timeout"),
    row("check_timeline", FLAG, "false", "only members on the latest timeline may lead"),
    row("pause", FLAG, "false", "maintenance mode: nothing is started, stopped or promoted by itself"),
    row("max_timelines_history", Kind::Number { from: 0, to: i64::MAX }, "0", "lines of /history to keep; 0 keeps all"),
    row("primary_stop_timeout", Kind::Seconds { from: 0 }, "0", "seconds that a synchronous primary may take to stop"),
    row("master_stop_timeout", Kind::Seconds { from: 0 }, "0", "older name of primary_stop_timeout"),
    row("synchronous_mode", Kind::Choice(&["off", "on", "quorum", "false", "true", "no", "yes", "0", "1"]), "off", "synchronous replication"),
    row("synchronous_mode_strict", FLAG, "false", "no commit without a synchronous standby"),
    row("synchronous_node_count", Kind::Number { from: 1, to: i64::MAX }, "1", "synchronous standbys to keep"),
    row("synchronous_gate", FLAG, "false", "after a start of the primary, let clients in only when whoever may lead next has every commit that it came up with"),
    row("maximum_lag_on_syncnode", Kind::Bytes { from: -1 }, "-1", "bytes that a synchronous standby may be behind"),
    row("failsafe_mode", FLAG, "false", "keep leading without the store if every member agrees"),
    row("member_slots_ttl", Kind::Seconds { from: 0 }, "30min", "how long the slot of a member that is gone is kept, and one that nobody has asked for; 0: members' slots only where they stream from"),
    row("slots", Kind::Anything, "", "permanent replication slots: names, each with nothing or with type, database, plugin, cluster_type"),
    row("permanent_slots", Kind::Anything, "", "another name of slots, which goes before it"),
    row("permanent_replication_slots", Kind::Anything, "", "another name of slots, which goes before both"),
    row("ignore_slots", Kind::Anything, "", "replication slots to leave alone: a list of name, type, database, plugin; what is not said fits any"),
    row("standby_cluster.host", TEXT, "", "follow the cluster with this host; several with commas"),
    row("standby_cluster.port", Kind::Number { from: 0, to: 65535 }, "5432", "its port"),
    row("standby_cluster.primary_slot_name", TEXT, "", "the replication slot to use there"),
    row("standby_cluster.restore_command", TEXT, "", "get WAL by this command, from an archive of that cluster"),
    row("standby_cluster.archive_cleanup_command", TEXT, "", "as in PostgreSQL"),
    row("standby_cluster.recovery_min_apply_delay", TEXT, "", "as in PostgreSQL, for the standby leader alone"),
    row("standby_cluster.create_replica_methods", Kind::Words, "basebackup", "how the first member is made").not_safely(),
]];

/// Members of `postgresql` that differ from member to member by nature, so that `/config` cannot set them.
pub const LOCAL_ONLY: &[&str] = &[
    "postgresql.connect_address",
    "postgresql.proxy_address",
    "postgresql.listen",
    "postgresql.config_dir",
    "postgresql.data_dir",
    "postgresql.pgpass",
    "postgresql.authentication",
];

/// One of the two tables with what belongs to it: the dynamic one borrows `postgresql.*` from the local one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    Local,
    Dynamic,
}

impl Table {
    pub fn rows(self) -> impl Iterator<Item = &'static Setting> {
        let (own, borrowed): (_, &[_]) = match self {
            Table::Local => (LOCAL, &[]),
            Table::Dynamic => (DYNAMIC, LOCAL),
        };
        let borrowed = borrowed.iter().copied().flatten().filter(|row| can_be_dynamic(row.path));
        own.iter().copied().flatten().chain(borrowed)
    }

    pub fn find(self, path: &str) -> Option<&'static Setting> {
        self.rows().find(|row| row.path == path)
    }

    /// Do settings stand below this path?
    pub fn is_section(self, path: &str) -> bool {
        self.rows().any(|row| row.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
    }

    /// The names that may stand directly below a section; at the top, if it is empty.
    pub fn names_in(self, section: &str) -> impl Iterator<Item = &'static str> {
        self.rows().filter_map(move |row| {
            let rest = match section {
                "" => row.path,
                section => row.path.strip_prefix(section)?.strip_prefix('.')?,
            };
            rest.split('.').next()
        })
    }
}

fn can_be_dynamic(path: &str) -> bool {
    path.starts_with("postgresql.")
        && !LOCAL_ONLY
            .iter()
            .any(|local| path.strip_prefix(local).is_some_and(|r| r.is_empty() || r.starts_with('.')))
}

/// The environment variable of a setting, without its prefix; Patroni's names. Tags, the watchdog, what is dynamic, and
/// everything that is more than a line have none.
pub fn variable(row: &Setting) -> Option<String> {
    let path = row.path;
    if ["tags.", "watchdog.", "bootstrap."].iter().any(|section| path.starts_with(section)) {
        return None;
    }
    match row.kind {
        Kind::Lines | Kind::Options | Kind::Anything | Kind::Dynamic => return None,
        Kind::Text
        | Kind::Secret
        | Kind::Name
        | Kind::KeyPart
        | Kind::Flag
        | Kind::Mode
        | Kind::Choice(_)
        | Kind::Choices(_)
        | Kind::Number { .. }
        | Kind::Seconds { .. }
        | Kind::Bytes { .. }
        | Kind::Listen
        | Kind::Connect
        | Kind::Words
        | Kind::VirtualAddresses
        | Kind::LogFormat
        | Kind::DateFormat
        | Kind::Texts => {}
    }
    let short = path
        .replace("postgresql.authentication.", "")
        .replace(".authentication.", ".")
        .replace("bin_name.", "bin_");
    Some(short.replace('.', "_").to_ascii_uppercase())
}
