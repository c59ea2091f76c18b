//! Whole configurations: what is read, what is refused and in which words.

mod customs;
mod discovery;
mod dynamic;
mod virtual_addresses;

use crate::model::Secret;
use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::settings::{LOCAL, State};
use super::*;
use crate::model::Span;

const GOOD: &str = "\
scope: demo
name: turku
restapi: {listen: '127.0.0.1:8008', connect_address: '127.0.0.1:8008'}
etcd3: {hosts: [127.0.0.1:2379]}
bootstrap: {dcs: {ttl: 10}}
postgresql:
  listen: 127.0.0.1:5432
  connect_address: 127.0.0.1:5432
  data_dir: /data
";

fn variables(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn load_all(texts: &[&str], environment: &[(&str, &str)]) -> Result<Loaded, Problems> {
    let names = ["node1.yml", "node2.yml", "node3.yml"];
    let texts: Vec<_> =
        names.iter().zip(texts).map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    load_texts(&texts, &variables(environment))
}

fn good(text: &str) -> Loaded {
    load_all(&[text], &[]).unwrap_or_else(|problems| panic!("{problems}"))
}

/// The good configuration with `extra` appended must be refused in exactly these words.
#[track_caller]
fn refused(extra: &str, words: &str) {
    let text = format!("{GOOD}{extra}");
    let problems = load_all(&[&text], &[]).expect_err("something is wrong here");
    assert_eq!(problems.to_string().trim_end(), words);
}

#[track_caller]
fn warned(loaded: &Loaded, words: &[&str]) {
    let warnings: Vec<String> = loaded.warnings.iter().map(Problem::to_string).collect();
    assert_eq!(warnings, words);
}

#[test]
fn a_small_configuration_is_enough() {
    let loaded = good(GOOD);
    warned(&loaded, &[]);
    let config = loaded.config;
    assert_eq!(
        (config.scope.as_str(), config.name.as_str(), config.namespace.as_str()),
        ("demo", "turku", "/service")
    );
    assert_eq!(config.etcd3.endpoints(), ["http://127.0.0.1:2379"]);
    assert_eq!(config.postgresql.authentication.superuser.username, "postgres");
    assert_eq!(config.postgresql.listen.port, 5432);
}

#[test]
fn a_wrong_value_is_named_with_its_place_and_what_is_wanted() {
    let text = GOOD.replace("listen: 127.0.0.1:5432", "listen: 5432x");
    let problems = load_all(&[&text], &[]).expect_err("no port");
    assert_eq!(
        problems.to_string(),
        "error: node1.yml:7:11: postgresql.listen: found \"5432x\", wanted host:port, such as 127.0.0.1:5432\n"
    );
}

#[test]
fn several_mistakes_are_told_at_once() {
    let text = "\
scope: a/b
name: ''
restapi: [1]
etcd3: {hosts: ['x:y'], cert: /c}
postgresql:
  lisetn: 127.0.0.1:5432
  connect_address: 0.0.0.0:5432
  data_dir: {a: b}
  use_pg_rewind: maybe
  authentication:
    superuser: {password: [secret]}
log: {level: LOUD}
";
    let problems = load_all(&[text], &[]).expect_err("nearly all of it");
    assert_eq!(
        problems.to_string(),
        "\
error: node1.yml:1:8: scope: found \"a/b\", wanted a name without a slash
error: node1.yml:2:7: name: found \"\", wanted a name; a name must not be empty
error: node1.yml:3:10: restapi: found a list, wanted settings below it
error: node1.yml:6:3: postgresql.lisetn: there is no such setting
hint: did you mean postgresql.listen?
error: node1.yml:7:20: postgresql.connect_address: found \"0.0.0.0:5432\", wanted an address that others can connect to, such as 10.0.0.1:5432
error: node1.yml:8:13: postgresql.data_dir: found a mapping, wanted text
error: node1.yml:9:18: postgresql.use_pg_rewind: found \"maybe\", wanted true or false
error: node1.yml:11:27: postgresql.authentication.superuser.password: found something else, wanted text (not shown)
error: node1.yml:12:14: log.level: found \"LOUD\", wanted one of DEBUG, INFO, WARN, WARNING, ERROR, FATAL, CRITICAL
error: node1.yml:3:1: restapi.listen: missing: where the REST API listens, host:port
hint: set it in the file, or as TENURE_RESTAPI_LISTEN
error: node1.yml:3:1: restapi.connect_address: missing: where others reach it, host:port
hint: set it in the file, or as TENURE_RESTAPI_CONNECT_ADDRESS
error: node1.yml:5:1: postgresql.listen: missing: where PostgreSQL listens, hosts:port
hint: set it in the file, or as TENURE_POSTGRESQL_LISTEN
error: node1.yml:4:9: etcd3.hosts: found \"x:y\", wanted host:port, such as 10.0.0.1:2379
error: node1.yml:4:25: etcd3.cert: has no key beside it
hint: set key too
"
    );
}

#[test]
fn what_is_not_there_yet_is_refused_or_warned_about_by_name() {
    refused(
        "citus: {group: 0}\n",
        "error: node1.yml:10:8: citus: this version cannot do this yet (Citus clusters: not planned)\n\
         hint: without it the cluster would not do what this file says; remove it if that is right",
    );
    refused(
        "exhibitor: {hosts: [a]}\n",
        "error: node1.yml:10:12: exhibitor: this version cannot do this yet (ZooKeeper found through Exhibitor, which nobody maintains any more: name the servers in zookeeper.hosts)\n\
         hint: without it the cluster would not do what this file says; remove it if that is right",
    );
    refused(
        "log: {format: [message]}\n",
        "error: node1.yml:10:7: log.format: a list of fields is for lines of JSON\n\
         hint: set log.type to json, or write the form as text",
    );
    refused(
        "watchdog: {device: watchdog1}\n",
        "error: node1.yml:10:12: watchdog.device: \"watchdog1\" is not an absolute path of at most 255 bytes",
    );
    let good_with_users = GOOD.replace("{dcs: {ttl: 10}}", "{dcs: {ttl: 10}, users: {a: {}}}");
    let loaded =
        good(&format!("{good_with_users}ttl: 30\ntags: {{nosync: true, rack: r7, nostream: false}}\n"));
    warned(
        &loaded,
        &[
            "node1.yml:5:36: bootstrap.users: has no effect in this version yet (gone from Patroni since 4.0)",
            "node1.yml:10:1: ttl: has no effect here: it is the same for the whole cluster",
        ],
    );
    assert_eq!(loaded.config.tags.0.get("rack"), Some(&json!("r7")));
}

#[test]
fn an_unknown_name_brings_the_one_that_was_meant() {
    refused(
        "data_dir: /x\n",
        "error: node1.yml:10:1: data_dir: there is no such setting\nhint: did you mean postgresql.data_dir?",
    );
    refused(
        "wathcdog: {}\n",
        "error: node1.yml:10:1: wathcdog: there is no such setting\nhint: did you mean watchdog?",
    );
    refused(
        "watchdog: {strength: 3}\n",
        "error: node1.yml:10:12: watchdog.strength: there is no such setting\n\
         hint: watchdog may hold mode, device, safety_margin, driver",
    );
}

#[test]
fn what_a_new_cluster_begins_with_is_checked_too() {
    let dcs = |dcs: &str| GOOD.replace("{ttl: 10}", dcs);
    let check = |text: &str, words: &str| {
        let problems = load_all(&[&dcs(text)], &[]).expect_err(text);
        assert_eq!(problems.to_string().trim_end(), words);
    };
    check(
        "{ttl: 4}",
        "error: node1.yml:5:19: bootstrap.dcs.ttl: a ttl of 4 s leaves 2 s for renewing: 4 s - margin 500 ms - kill \
         budget 500 ms - renewal period 1 s must be at least 3 s\n\
         hint: a ttl of 5 is the least, or set unsafe_timing: true beside it",
    );
    check(
        "{tll: 4}",
        "error: node1.yml:5:19: bootstrap.dcs.tll: there is no such setting\nhint: did you mean bootstrap.dcs.ttl?",
    );
    check(
        "{postgresql: {data_dir: /x}}",
        "error: node1.yml:5:32: bootstrap.dcs.postgresql.data_dir: differs from member to member and cannot be set for \
         the whole cluster\nhint: set postgresql.data_dir in each member's own file",
    );
    assert!(load_all(&[&dcs("{ttl: 4, unsafe_timing: true}")], &[]).is_ok());
    let loaded = good(&dcs(
        "{ttl: 20, postgresql: {use_slots: true, parameters: {hot_standby: on, max_connections: 50}}}",
    ));
    let bootstrap = loaded.config.bootstrap.expect("it is there");
    assert_eq!(
        bootstrap.dcs["postgresql"]["parameters"],
        json!({"hot_standby": true, "max_connections": 50})
    );
}

#[test]
fn later_layers_win_setting_by_setting_and_null_takes_away() {
    let second = "postgresql: {listen: '10.0.0.1:6000', parameters: {a: 2, b: ~}, pgpass: /p}\n";
    let first = format!("{GOOD}  parameters: {{a: 1, b: 1, c: 1}}\n");
    let environment =
        [("PATRONI_NAME", "oulu"), ("TENURE_POSTGRESQL_PGPASS", "/q"), ("PATRONI_POSTGRESQL_PGPASS", "/r")];
    let config = load_all(&[&first, second], &environment).expect("good").config;
    assert_eq!(config.name.as_str(), "oulu");
    assert_eq!(config.postgresql.listen.to_string(), "10.0.0.1:6000");
    assert_eq!(config.postgresql.connect_address.port, 5432);
    assert_eq!(config.postgresql.pgpass.as_deref(), Some(std::path::Path::new("/q")));
    let parameters: Vec<_> = config.postgresql.parameters.into_iter().collect();
    assert_eq!(parameters, [("a".to_owned(), "2".to_owned()), ("c".to_owned(), "1".to_owned())]);
}

#[test]
fn the_environment_alone_is_enough_and_is_checked_like_a_file() {
    let all = [
        ("PATRONI_SCOPE", "demo"),
        ("PATRONI_NAME", "turku"),
        ("PATRONI_RESTAPI_LISTEN", ":8008"),
        ("PATRONI_RESTAPI_CONNECT_ADDRESS", "10.0.0.1:8008"),
        ("PATRONI_ETCD3_HOSTS", "'a:1',b"),
        ("PATRONI_POSTGRESQL_LISTEN", "*:5432"),
        ("PATRONI_POSTGRESQL_CONNECT_ADDRESS", "10.0.0.1:5432"),
        ("PATRONI_POSTGRESQL_DATA_DIR", "/data"),
        ("PATRONI_SUPERUSER_PASSWORD", "0123"),
        ("PATRONI_REPLICATION_SSLMODE", "require"),
        ("PATRONI_LOGLEVEL", "warning"),
        ("PATRONI_LOG_LOGGERS", "tenure: DEBUG"),
        ("PATRONI_REPLICATION_USERNAME", ""),
    ];
    let mut all: Vec<_> = all.to_vec();
    all[4].1 = "a:1, b";
    let config = load_all(&[], &all).unwrap_or_else(|problems| panic!("{problems}")).config;
    assert_eq!(config.etcd3.endpoints(), ["http://a:1", "http://b:2379"]);
    assert_eq!(config.log.level, Level::Warning);
    assert_eq!(config.log.loggers["tenure"], "DEBUG");
    let authentication = config.postgresql.authentication;
    assert_eq!(authentication.superuser.password, Some(Secret::new("0123")));
    assert_eq!(authentication.replication.options["sslmode"], "require");
    assert_eq!(authentication.replication.username, "replicator");

    all[5].1 = "nowhere";
    all.push(("PATRONI_POSTGRSQL_BIN_DIR", "/b"));
    all.push(("PATRONI_CONSUL_HOST", "c"));
    let problems = load_all(&[], &all).expect_err("no port");
    assert_eq!(
        problems.to_string(),
        "error: PATRONI_CONSUL_HOST: consul: this version cannot do this yet (Consul as the store: not planned)\n\
         error: PATRONI_POSTGRESQL_LISTEN: postgresql.listen: found \"nowhere\", wanted host:port, such as 127.0.0.1:5432\n"
    );
    let loaded = load_all(&[GOOD], &[("PATRONI_POSTGRSQL_BIN_DIR", "/b")]).expect("only a warning");
    assert_eq!(
        loaded.warnings[0].render("warning"),
        "warning: PATRONI_POSTGRSQL_BIN_DIR: there is no such setting; the variable has no effect\n\
         hint: did you mean PATRONI_POSTGRESQL_BIN_DIR rather than PATRONI_POSTGRSQL_BIN_DIR?\n"
    );
}

#[test]
fn files_directories_and_secrets_in_files_are_read() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("10-base.yml"), GOOD).expect("written");
    std::fs::write(path("20-own.yaml"), "name: oulu\n").expect("written");
    std::fs::write(path("notes.txt"), "not: [yaml").expect("written");
    std::fs::write(path("secret"), "s3cret \n").expect("written");
    let secret = path("secret").display().to_string();
    let sources = |paths: &[&std::path::Path], pairs: &[(&str, &str)]| Sources {
        paths: paths.iter().map(|path| path.to_path_buf()).collect(),
        variables: variables(pairs),
        credentials: None,
    };
    let loaded =
        load(&sources(&[directory.path()], &[("TENURE_SUPERUSER_PASSWORD_FILE", &secret)])).expect("good");
    assert_eq!(loaded.config.name.as_str(), "oulu");
    let password = loaded.config.postgresql.authentication.superuser.password.expect("read");
    assert_eq!(password.reveal(), "s3cret ");

    let absent = path("absent.yml");
    let problems = load(&sources(&[&absent], &[])).expect_err("there is no such file");
    assert!(problems.to_string().contains("absent.yml: cannot be read: No such file"), "{problems}");
    let whole =
        load(&sources(&[], &[("PATRONI_CONFIGURATION", GOOD), ("PATRONI_NAME", "ignored")])).expect("good");
    assert_eq!(whole.config.name.as_str(), "turku");
}

#[test]
fn passwords_leave_no_trace_in_what_is_printed() {
    let text = GOOD.replace("hosts: [127.0.0.1:2379]", "url: 'https://root:hunter%32@10.0.0.1:2379/'")
        + "  authentication: {superuser: {password: hunter2}, rewind: {username: r, password: hunter2, sslpassword: hunter2}}\n\
           ctl: {authentication: {username: u, password: hunter2}}\n";
    let loaded = good(&text);
    let config = &loaded.config;
    assert_eq!(config.etcd3.password.as_ref().map(Secret::reveal), Some("hunter2"));
    assert_eq!(config.etcd3.endpoints(), ["https://10.0.0.1:2379"]);
    let shown = format!("{}{config:?}", loaded.to_yaml());
    assert!(!shown.contains("hunter"), "{shown}");
    assert!(shown.contains("username: root"), "{shown}");
}

#[test]
fn patronis_own_forms_of_a_file_are_read() {
    // The keys and forms of the documented samples, with YAML's shorter spellings mixed in.
    let text = "\
scope: batman
name: postgresql0
restapi:
  listen: 127.0.0.1:8008
  connect_address: 127.0.0.1:8008
etcd:
  host: 127.0.0.1:2379
bootstrap:
  dcs:
    ttl: 30
    loop_wait: 10
    retry_timeout: 10
    maximum_lag_on_failover: 1048576
    synchronous_mode: off
    postgresql:
      use_pg_rewind: true
      pg_hba:
      - host replication replicator 127.0.0.1/32 md5
      - host all all 0.0.0.0/0 md5
      parameters:
        wal_level: hot_standby
        hot_standby: \"on\"
  initdb:
  - encoding: UTF8
  - data-checksums
postgresql:
  listen: 127.0.0.1:5432
  connect_address: 127.0.0.1:5432
  data_dir: data/postgresql0
  pgpass: /tmp/pgpass0
  authentication:
    replication: &login
      username: replicator
      password: rep-pass
    superuser:
      <<: *login
      username: postgres
    rewind:
      username: rewind_user
      password: rewind_password
  parameters:
    unix_socket_directories: '..'
    shared_buffers: 0128
    fsync: off
  basebackup:
tags:
  noloadbalance: false
  clonefrom: false
  nostream: false
watchdog:
  mode: automatic
  device: /dev/watchdog
  safety_margin: 5
";
    let loaded = good(text);
    warned(&loaded, &[]);
    let config = loaded.config;
    assert_eq!(config.etcd3.endpoints(), ["http://127.0.0.1:2379"]);
    let bootstrap = config.bootstrap.as_ref().expect("it is there");
    assert_eq!(bootstrap.initdb, ["encoding=UTF8", "data-checksums"]);
    assert_eq!(config.postgresql.parameters["shared_buffers"], "0128");
    assert_eq!(config.postgresql.parameters["fsync"], "off");
    assert_eq!(config.postgresql.authentication.superuser.password, Some(Secret::new("rep-pass")));
    let dcs = Value::Object(bootstrap.dcs.clone().into_iter().collect());
    let (policy, warnings) = policy_from(&dcs, &config);
    assert_eq!(warnings, []);
    assert_eq!(
        (policy.timing.ttl, policy.use_rewind, policy.may_bootstrap),
        (Span::from_secs(30), true, true)
    );
}

const MADE: &str = "{dcs: {ttl: 10}, method: m, m: {command: /x}, post_bootstrap: /x, post_init: /x, init_sql: [/x], \
                    initdb: [x], pg_hba: [x]}";
const CUSTOMS: &str = "callbacks: {on_start: /x}\n  pre_promote: /x\n  before_stop: /x\n  create_replica_methods: [m]\n  \
                       create_replica_method: [m]\n  basebackup: [verbose]\n  recovery_conf: {a: b}\n  custom_conf: /x\n  \
                       config_base_name: x\n  krbsrvname: x\n  bin_name: {pg_ctl: a, initdb: a, pg_controldata: a, \
                       pg_basebackup: a, postgres: a, pg_rewind: a}";

#[test]
fn every_setting_of_the_table_reaches_its_type_or_says_why_not() {
    // What is printed knows every field that the types have.
    let text = format!(
        "{GOOD}  authentication: {{rewind: {{username: r}}}}\n  config_dir: /c\n  bin_dir: /b\n  pgpass: /p\n  \
         proxy_address: a:1\n  pg_hba: [x]\n  pg_ident: [x]\n  use_pg_rewind: true\n  pg_ctl_timeout: 1\n  \
         remove_data_directory_on_rewind_failure: true\n  remove_data_directory_on_diverged_timelines: true\n  {CUSTOMS}\n\
         ctl: {{cacert: a, certfile: a, keyfile: a, keyfile_password: a, authentication: {{username: a, password: b}}}}\n\
         tenure: {{state_dir: /s, guardian: /g, drills: [agent], virtual_addresses: [10.0.0.9 dev eth0]}}\n\
         log: {{format: '%(message)s', dateformat: '%H', dir: /l, mode: 0640}}\n"
    );
    let text = text.replace("{dcs: {ttl: 10}}", MADE);
    let text = text.replace(
        "{hosts: [127.0.0.1:2379]}",
        "{host: a, hosts: [b], url: 'http://u:p@c', proxy: 'http://d', srv: d, srv_suffix: x, cacert: a, cert: b, key: c}",
    );
    let config = good(&text.replace(
        "connect_address: '127.0.0.1:8008'}",
        "connect_address: '127.0.0.1:8008', authentication: {username: a, password: b}, certfile: a, keyfile: a, \
         keyfile_password: a, cafile: a, ciphers: a, verify_client: optional, allowlist: [a], \
         allowlist_include_members: true, http_extra_headers: {a: b}, https_extra_headers: {a: b}, \
         server_tokens: minimal}",
    ));
    let printed = serde_json::to_value(&config.config).expect("it can be printed");
    for row in LOCAL.iter().copied().flatten().filter(|row| row.state == State::Honoured) {
        // The last one counts in the dynamic settings alone.
        let by_role = ["etcd.", "zookeeper.", "tags.", "postgresql.authentication.", "postgresql.use_slots"];
        if by_role.iter().any(|prefix| row.path.starts_with(prefix)) {
            continue;
        }
        let reached = row.path.split('.').try_fold(&printed, |value, name| value.get(name));
        assert!(reached.is_some(), "{} is honoured, but no type holds it", row.path);
    }
}

const ETCD: &str = "etcd3: {hosts: [127.0.0.1:2379]}";

#[test]
fn zookeeper_is_configured_as_for_patroni() {
    let with = |section: &str| GOOD.replace(ETCD, &format!("zookeeper: {section}"));
    for hosts in ["[a, 'b:2182', c:2183/x]", "'a,b:2182, c:2183/x'", "\"['a', 'b:2182', 'c:2183/x']\""] {
        let zookeeper =
            good(&with(&format!("{{hosts: {hosts}}}"))).config.zookeeper.expect("it is the store");
        assert_eq!(zookeeper.hosts, ["a", "b:2182", "c:2183/x"], "{hosts}");
        assert!(zookeeper.verify && !zookeeper.use_ssl);
    }
    let everything = "{hosts: [a], use_ssl: true, cacert: /ca, cert: /c, key: /k, key_password: hunter2, verify: false, \
                      set_acls: {CN=agent: [ALL], 'digest:u:x': [READ, WRITE]}, auth_data: {digest: 'u:hunter2'}}";
    let loaded = good(&with(everything));
    let config = &loaded.config;
    let zookeeper = config.zookeeper.as_ref().expect("it is the store");
    assert_eq!(zookeeper.set_acls["digest:u:x"], ["READ", "WRITE"]);
    assert_eq!(zookeeper.auth_data["digest"].reveal(), "u:hunter2");
    assert!(!loaded.to_yaml().contains("hunter2") && !loaded.to_yaml().contains("etcd3"));
    let printed = serde_json::to_value(zookeeper).expect("it can be printed");
    for row in LOCAL.iter().copied().flatten().filter(|row| row.state == State::Honoured) {
        if let Some(name) = row.path.strip_prefix("zookeeper.") {
            assert!(printed.get(name).is_some(), "{name} is honoured, but no type holds it");
        }
    }
}

#[test]
fn what_is_wrong_with_zookeepers_section_is_named() {
    refused(
        "zookeeper: {hosts: [a]}\n",
        "error: node1.yml:10:1: zookeeper: there is a section zookeeper and a section etcd3, and only one can be the store\n\
         hint: keep one",
    );
    for (section, told) in [
        ("{use_ssl: true}", "names no server"),
        ("{hosts: ['a:b']}", "wanted host:port"),
        ("{hosts: [a/x, b]}", "a path behind the last one only"),
        ("{hosts: [a], set_acls: {x: [ANYTHING]}}", "wanted principals"),
        ("{hosts: [a], set_acls: [x]}", "wanted principals"),
        ("{hosts: [a], key: /k}", "has no cert beside it"),
        ("{hosts: [a], auth_data: {sasl: 'u:hunter2'}}", "SASL is not spoken"),
    ] {
        let text = GOOD.replace(ETCD, &format!("zookeeper: {section}"));
        let problems = load_all(&[&text], &[]).expect_err(section).to_string();
        assert!(problems.contains(told) && !problems.contains("hunter2"), "{section}: {problems}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_loader_panic(text in r"[ -~\n]{0,80}", name in "(PATRONI|TENURE)_[A-Z_]{0,16}", value in "\\PC{0,16}") {
        let _ = load_all(&[&text], &[(&name, &value)]);
        let _ = load_all(&[&format!("{GOOD}{text}")], &[]);
    }

    #[test]
    fn no_value_makes_a_setting_panic(row in 0usize..160, value in r#"[-0-9a-z:/@%\[\]{},.~* "']{0,24}"#) {
        let rows: Vec<_> = LOCAL.iter().copied().flatten().collect();
        let path: Vec<_> = rows[row % rows.len()].path.split('.').collect();
        let text = path.iter().rev().fold(value.clone(), |below, name| format!("{{{name}: {below}}}"));
        let _ = load_all(&[GOOD, &text], &[]);
    }
}
