//! The configuration files of a play. Pure: text from numbers.

use std::fmt::Write;
use std::path::Path;

use super::StoreKind;
use super::ports::{HOST, Ports};

/// Members are called after towns, so that nobody thinks that the first one is the primary.
pub const MEMBERS: [&str; 3] = ["turku", "oulu", "vaasa"];
pub const SCOPE: &str = "play";

/// One member's configuration.
pub fn member(
    index: u16,
    ports: Ports,
    dir: &Path,
    bin_dir: &Path,
    password: &str,
    (store, ttl): (StoreKind, u32),
) -> String {
    let name = MEMBERS[usize::from(index - 1)];
    let (rest, postgres) = (ports.rest(index), ports.postgres(index));
    let (store, store_port) = match store {
        StoreKind::Etcd => ("etcd3", ports.etcd_client()),
        StoreKind::Zookeeper => ("zookeeper", ports.zookeeper()),
    };
    let (home, bin_dir) = (dir.join(name), bin_dir.display());
    let home = home.display();
    format!(
        "# Written by `tenurectl play`; overwritten by its next start.
scope: {SCOPE}
name: {name}
restapi:
  listen: {HOST}:{rest}
  connect_address: {HOST}:{rest}
{store}:
  hosts: {HOST}:{store_port}
tenure:
  state_dir: {home}/state
bootstrap:
  dcs:
    ttl: {ttl}
    loop_wait: 1
    retry_timeout: 3
    postgresql:
      use_pg_rewind: true
      parameters:
        max_connections: 100
        wal_keep_size: 128MB
  initdb:
    - encoding: UTF8
    - data-checksums
postgresql:
  listen: {HOST}:{postgres}
  connect_address: {HOST}:{postgres}
  data_dir: {home}/data
  bin_dir: {bin_dir}
  pgpass: {home}/pgpass
  remove_data_directory_on_rewind_failure: true
  remove_data_directory_on_diverged_timelines: true
  authentication:
    superuser: {{username: postgres, password: {password}}}
    replication: {{username: replicator, password: {password}}}
    rewind: {{username: rewinder, password: {password}}}
  pg_hba:
    - local all all scram-sha-256
    - host all all {HOST}/32 scram-sha-256
    - host replication all {HOST}/32 scram-sha-256
  parameters:
    unix_socket_directories: {home}
    shared_buffers: 32MB
"
    )
}

/// One server with short ticks, so that short leases are possible.
pub fn zookeeper(ports: Ports, dir: &Path) -> String {
    format!(
        "# Written by `tenurectl play`; overwritten by its next start.
tickTime=500
dataDir={}
clientPort={}
clientPortAddress={HOST}
admin.enableServer=false
",
        dir.join("zookeeper").display(),
        ports.zookeeper()
    )
}

/// HAProxy asks each member's REST API who is primary and who a standby.
pub fn haproxy(ports: Ports) -> String {
    let mut text = format!(
        "# Written by `tenurectl play`; overwritten by its next start.
global
    maxconn 200

defaults
    mode tcp
    timeout connect 500ms
    timeout client 30m
    timeout server 30m
    timeout check 1s
    option redispatch 1
    retries 3

listen statistics
    mode http
    bind {HOST}:{}
    stats enable
    stats uri /
    stats refresh 2s
",
        ports.statistics()
    );
    for (name, port, check) in
        [("read_write", ports.read_write(), "/primary"), ("read_only", ports.read_only(), "/replica")]
    {
        let balance = if check == "/replica" { "\n    balance roundrobin" } else { "" };
        let _ = write!(
            text,
            "
listen {name}
    bind {HOST}:{port}{balance}
    option httpchk OPTIONS {check}
    http-check expect status 200
    default-server inter 500ms fastinter 200ms downinter 200ms fall 2 rise 1 on-marked-down shutdown-sessions
"
        );
        for (index, member) in (1..).zip(MEMBERS) {
            let (postgres, rest) = (ports.postgres(index), ports.rest(index));
            let _ = writeln!(text, "    server {member} {HOST}:{postgres} check port {rest}");
        }
    }
    text
}
