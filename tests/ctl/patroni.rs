//! Patroni's agents in the machines of a lab, and the two commands side by side.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};

use serde_json::Value;

use crate::support::lab::{Lab, Node, PASSWORD, Setup, in_lab};
use crate::support::{netns, wait_for};

/// A cluster of Patroni's agents, called `lab`.
pub struct Patroni {
    children: Vec<Child>,
}

/// What a command said and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

pub fn tool(name: &str) -> Option<PathBuf> {
    // The real place: the user that Patroni runs as may not be allowed to walk through the link.
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/patroni").canonicalize().ok()?;
    Some(home.join("bin").join(name)).filter(|path| path.exists())
}

/// The same of what other scripts have fetched.
pub fn fetched(path: &str) -> Option<PathBuf> {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools").join(path).canonicalize().ok()
}

/// Is there all that it takes? Says so if something is missing.
pub fn available() -> bool {
    let there = tool("patronictl").is_some() && netns::available();
    if !there {
        println!(
            "not run: Patroni (scripts/fetch-patroni) and network namespaces (root, ip, nft) are needed"
        );
    }
    there
}

/// Runs a test in a lab whose agents nobody has started.
pub fn with_patronictl(nodes: usize, test: impl AsyncFnOnce(&mut Lab)) {
    with_patronictl_in(&Setup { nodes, ..Setup::default() }, test);
}

pub fn with_patronictl_in(setup: &Setup, test: impl AsyncFnOnce(&mut Lab)) {
    if !available() {
        return;
    }
    in_lab(setup, test);
}

/// Runs a test on a cluster of two Patroni agents that is up.
pub fn in_patroni_lab(test: impl AsyncFnOnce(&mut Lab, &Patroni)) {
    with_patronictl(2, async |lab| {
        let patroni = Patroni::start(lab);
        let outcome = std::panic::AssertUnwindSafe(async {
            healthy(lab).await;
            test(lab, &patroni).await;
        });
        let outcome = futures_util::FutureExt::catch_unwind(outcome).await;
        if let Err(panic) = outcome {
            print_logs(lab);
            std::panic::resume_unwind(panic);
        }
        for node in &mut lab.nodes {
            node.power_off();
        }
        drop(patroni);
    });
}

/// The ends of the logs of Patroni's agents.
pub fn print_logs(lab: &Lab) {
    for node in &lab.nodes {
        println!("---- {}\n{}", node.name, log_of(node));
    }
}

impl Patroni {
    fn start(lab: &Lab) -> Patroni {
        Patroni::start_with(&lab.nodes, |node| configuration(lab, node))
    }

    pub fn start_with(nodes: &[Node], configuration: impl Fn(&Node) -> String) -> Patroni {
        let children = nodes.iter().map(|node| spawn(node, &configuration(node)));
        Patroni { children: children.collect() }
    }

    pub fn pid(&self, node: usize) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(i32::try_from(self.children[node].id()).expect("a pid"))
    }
}

/// A member of Patroni's among ours: no password is asked for over REST.
pub fn start_member(node: &Node) -> Child {
    spawn(node, &configuration_with(node, "", ""))
}

/// The end of what it has logged.
pub fn log_of(node: &Node) -> String {
    let log = fs::read_to_string(node.dir.join("patroni.log")).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

fn spawn(node: &Node, configuration: &str) -> Child {
    let path = config_file(node);
    fs::write(&path, configuration).expect("our own directory");
    let log = node.dir.join("patroni.log");
    let log = fs::File::options().append(true).create(true).open(log).expect("our own directory");
    let mut command = node.machine.command("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
    command.arg(tool("patroni").expect("it was looked for")).arg(path);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", &node.dir);
    command.current_dir(&node.dir).stdin(Stdio::null());
    command.stdout(log.try_clone().expect("a second handle")).stderr(log);
    command.spawn().expect("ip and setpriv are installed")
}

impl Drop for Patroni {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// One leader, and everybody else has streamed all of it. Returns the leader's index.
pub async fn healthy(lab: &Lab) -> usize {
    followed(lab, |member| member["replay_lag"] == 0).await
}

/// As `healthy`, but for the lag: somebody writes all the time, and agents tell their positions now and then.
pub async fn streaming(lab: &Lab) -> usize {
    followed(lab, |_| true).await
}

async fn followed(lab: &Lab, near_enough: fn(&Value) -> bool) -> usize {
    wait_for("a healthy cluster of Patroni's", async || {
        let (_, text) = lab.nodes[0].request("GET", "/cluster", "")?;
        let cluster: Value = serde_json::from_str(&text).ok()?;
        let members = cluster["members"].as_array()?;
        let leads = |member: &&Value| member["role"] == "leader" && member["state"] == "running";
        let leader = members.iter().find(leads)?;
        let follows = |member: &Value| {
            member["name"] == leader["name"]
                || (member["state"] == "streaming"
                    && member["timeline"] == leader["timeline"]
                    && near_enough(member))
        };
        (members.len() == lab.nodes.len() && members.iter().all(follows)).then_some(())?;
        lab.nodes.iter().position(|node| leader["name"] == node.name.as_str())
    })
    .await
}

pub fn config_file(node: &Node) -> PathBuf {
    node.dir.join("patroni.yml")
}

pub fn run(program: &Path, arguments: &[&str], input: &str, variables: &[(&str, &str)]) -> Said {
    let mut command = std::process::Command::new(program);
    command.args(arguments).env_clear().env("PATH", "/usr/bin:/bin").env("PGUSER", "postgres");
    command.env("PGPASSWORD", PASSWORD).env("LANG", "C.UTF-8").env("TZ", "Europe/Helsinki");
    command.envs(variables.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    // Whoever asks nothing may have ended by now.
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    let Output { status, stdout, stderr } = child.wait_with_output().expect("our own child");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Said { code: status.code().unwrap_or(-1), stdout: text(stdout), stderr: text(stderr) }
}

/// The configuration that both commands are given.
pub fn given(lab: &Lab) -> String {
    let patronis = config_file(&lab.nodes[0]);
    let file = if patronis.exists() { patronis } else { lab.nodes[0].dir.join("tenure.yml") };
    file.display().to_string()
}

/// Either command, as a test calls it.
pub type Command = fn(&Lab, &[&str], &str) -> Said;

pub fn theirs_with(lab: &Lab, arguments: &[&str], input: &str, variables: &[(&str, &str)]) -> Said {
    let file = given(lab);
    let arguments = [&["-c", file.as_str()], arguments].concat();
    run(&tool("patronictl").expect("it was looked for"), &arguments, input, variables)
}

pub fn ours_with(lab: &Lab, arguments: &[&str], input: &str, variables: &[(&str, &str)]) -> Said {
    let file = given(lab);
    let arguments = [&["-c", file.as_str()], arguments].concat();
    run(Path::new(env!("CARGO_BIN_EXE_tenurectl")), &arguments, input, variables)
}

/// Restart and reload, asked of everybody, and reinitialize, asked of one who follows, by one of the commands.
pub async fn operate(lab: &Lab, command: Command, leader: usize, replica: usize) {
    let said = command(lab, &["restart", "lab", "--force"], "");
    for node in &lab.nodes {
        let wanted = format!("Success: restart on member {}", node.name);
        assert!(said.stdout.contains(&wanted), "{wanted}: {said:#?}");
    }
    assert_eq!(lab.healthy().await, leader);
    let said = command(lab, &["reload", "lab", "--force"], "");
    for node in &lab.nodes {
        let wanted = format!("Reload request received for member {}", node.name);
        assert!(said.stdout.contains(&wanted), "{wanted}: {said:#?}");
    }
    let replica = &lab.nodes[replica].name;
    let said = command(lab, &["reinit", "lab", replica, "--force", "--wait"], "");
    let wanted = format!("Success: reinitialize for member {replica}\n");
    assert!(said.stdout.contains(&wanted) && said.stdout.contains("is completed on"), "{said:#?}");
    assert_eq!(lab.healthy().await, leader);
}

pub fn theirs(lab: &Lab, arguments: &[&str], input: &str) -> Said {
    theirs_with(lab, arguments, input, &[])
}

pub fn ours(lab: &Lab, arguments: &[&str], input: &str) -> Said {
    ours_with(lab, arguments, input, &[])
}

/// Ours, which must succeed and say this.
pub fn succeeds(lab: &Lab, arguments: &[&str], saying: &str) -> String {
    let said = ours(lab, arguments, "");
    assert!(said.code == 0 && said.stdout.contains(saying), "{arguments:?} should say {saying:?}: {said:#?}");
    said.stdout
}

/// A member of a cluster of Patroni's alone.
pub fn configuration(lab: &Lab, node: &Node) -> String {
    let zone =
        if lab.nodes[0].name == node.name { "zone: a, clonefrom: true" } else { "zone: 'b: c', weight: 1.5" };
    let authentication = format!("  authentication: {{username: operator, password: {PASSWORD}}}\n");
    configuration_with(node, &authentication, zone)
}

fn configuration_with(node: &Node, authentication: &str, tags: &str) -> String {
    let (name, address, dir) = (&node.name, &node.address, node.dir.display());
    let bin_dir = Setup::default().bin_dir;
    let bin_dir = bin_dir.display();
    format!(
        "scope: lab
name: {name}
restapi:
  listen: {address}:8008
  connect_address: {address}:8008
{authentication}etcd3:
  hosts: 10.99.0.21:2379
tenure:
  state_dir: {dir}/state
bootstrap:
  dcs:
    ttl: 20
    loop_wait: 1
    retry_timeout: 3
    postgresql:
      use_pg_rewind: true
      parameters: {{wal_keep_size: 256MB, log_line_prefix: '%m [%p] '}}
  initdb: [{{encoding: UTF8}}, data-checksums]
postgresql:
  listen: {address}:5432
  connect_address: {address}:5432
  data_dir: {dir}/data
  bin_dir: {bin_dir}
  pgpass: {dir}/pgpass
  authentication:
    superuser: {{username: postgres, password: {PASSWORD}}}
    replication: {{username: replicator, password: {PASSWORD}}}
    rewind: {{username: rewinder, password: {PASSWORD}}}
  pg_hba:
    - local all all trust
    - host all all 0.0.0.0/0 scram-sha-256
    - host replication all 0.0.0.0/0 scram-sha-256
  parameters: {{unix_socket_directories: {dir}, shared_buffers: 16MB, fsync: 'off'}}
watchdog: {{mode: 'off'}}
tags: {{{tags}}}
"
    )
}
