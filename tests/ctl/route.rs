//! `tenurectl route` beside a real HAProxy whose own checks come once an hour, so that only what is pushed can explain where
//! connections go.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::json;

use crate::patroni::{ours, succeeds};
use crate::support::haproxy::{self, Haproxy};
use crate::support::lab::{Lab, PASSWORD, Setup, in_lab};
use crate::support::wait_for;
use crate::support::writer::{Writer, connect};

/// Where HAProxy stands, on the port that the writers know.
const PROXY: &str = "10.99.0.1";

#[test]
fn a_pushed_change_of_the_leader_reroutes_what_slow_checks_would_not() {
    if !haproxy::installed() {
        println!("not run: haproxy is not installed");
        return;
    }
    in_lab(&Setup { ttl: 10, ..Setup::default() }, async |lab| {
        let dir = tempfile::tempdir().expect("a directory");
        lab.start_everybody();
        let first = lab.healthy().await;
        lab.create_ledger(first).await;
        let mut haproxy = Haproxy::start(dir.path(), &configuration(lab));

        pushes_once(lab, &haproxy, first).await;
        let router = Router::start(lab, &haproxy, dir.path());
        let writer = Writer::start("balanced", &lab.hub, &[PROXY.to_owned()], PASSWORD, &lab.ledger);
        rows_on(lab, 1).await;
        let second = switches_over(lab, &haproxy, first).await;
        let third = loses_its_host(lab, &haproxy, second).await;

        haproxy.reload();
        routed(lab, &haproxy, third).await;
        lab.more_rows(20).await;

        loses_its_store(lab, &haproxy, &router).await;
        drop(writer);
        assert!(!router.log().contains("panicked"), "{}", router.log());
        lab.ledger.check_one_history_at_a_time();
    });
}

/// Before anything watches: a fresh HAProxy takes everybody for healthy.
async fn pushes_once(lab: &Lab, haproxy: &Haproxy, leader: usize) {
    let socket = haproxy.socket().display().to_string();
    let before = haproxy.up("primary");
    let dry = ["route", "--once", "--dry-run", "--socket", &socket];
    let other = &lab.nodes[(leader + 1) % 3].name;
    succeeds(lab, &dry, &format!("shutdown sessions server primary/{other}: "));
    assert_eq!(haproxy.up("primary"), before);
    let there = |server: &String| *server == lab.nodes[leader].name;
    assert!(
        before.len() > 1 || !before.iter().any(there),
        "the checks have not come to everybody: {before:?}"
    );
    succeeds(lab, &["route", "--once", "--socket", &socket], "");
    routed(lab, haproxy, leader).await;
    // What cannot work is said.
    let wrong = ours(lab, &["route", "--once", "--socket", "/nonexistent/haproxy.sock"], "");
    assert!(wrong.code == 1 && wrong.stderr.contains("hint: HAProxy needs `stats socket PATH"), "{wrong:#?}");
    let wrong = ours(lab, &["route", "--once", "--socket", &socket, "--backend", "nowhere=/primary"], "");
    assert!(wrong.code == 1 && wrong.stderr.contains("in a backend of this name: nowhere"), "{wrong:#?}");
}

async fn switches_over(lab: &Lab, haproxy: &Haproxy, from: usize) -> usize {
    let to = (from + 1) % 3;
    let wish = json!({"leader": lab.nodes[from].name, "candidate": lab.nodes[to].name});
    let (status, text) =
        lab.nodes[from].request("POST", "/switchover", &wish.to_string()).expect("an answer");
    assert_eq!(status, 200, "{text}");
    rows_on(lab, 2).await;
    lab.healthy().await;
    routed(lab, haproxy, to).await;
    to
}

/// Its host falls silent: nobody closes the connections to it but HAProxy.
async fn loses_its_host(lab: &mut Lab, haproxy: &Haproxy, lost: usize) -> usize {
    let idle = connect(PROXY, PASSWORD).await.expect("a primary behind HAProxy");
    lab.nodes[lost].machine.cut();
    lab.nodes[lost].power_off();
    let survivors: Vec<usize> = (0..3).filter(|&index| index != lost).collect();
    let next = lab.leader_among(&survivors).await;
    rows_on(lab, 3).await;
    wait_for("the end of a session with the lost host", async || idle.is_closed().then_some(())).await;
    assert_eq!(haproxy.up("primary"), [lab.nodes[next].name.clone()]);
    lab.nodes[lost].machine.heal();
    lab.nodes[lost].start_agent();
    lab.healthy().await
}

async fn loses_its_store(lab: &mut Lab, haproxy: &Haproxy, router: &Router) {
    lab.store_servers[0].kill();
    wait_for("the word of it", async || {
        router.log().contains("leaving everything to HAProxy's checks").then_some(())
    })
    .await;
    lab.store_servers[0].start();
    let leader = lab.healthy().await;
    lab.more_rows(20).await;
    routed(lab, haproxy, leader).await;
    wait_for("the word of its return", async || {
        router.log().contains("the store answers again").then_some(())
    })
    .await;
}

/// Writers come to the leader, readers to everybody else.
async fn routed(lab: &Lab, haproxy: &Haproxy, leader: usize) {
    let (writers, readers): (Vec<usize>, Vec<usize>) = (0..3).partition(|&index| index == leader);
    let names = |members: Vec<usize>| -> Vec<String> {
        members.into_iter().map(|index| lab.nodes[index].name.clone()).collect()
    };
    let (writers, readers) = (names(writers), names(readers));
    wait_for("HAProxy to be told", async || {
        (haproxy.up("primary") == writers && haproxy.up("replicas") == readers).then_some(())
    })
    .await;
}

/// Rows are acknowledged through HAProxy on this timeline.
async fn rows_on(lab: &Lab, timeline: u32) {
    wait_for("rows through HAProxy", async || {
        lab.ledger.rows().iter().any(|row| row.writer == "balanced" && timeline <= row.timeline).then_some(())
    })
    .await;
}

fn configuration(lab: &Lab) -> String {
    let mut text = "defaults
    mode tcp
    timeout client 30m
    timeout server 30m
    timeout connect 1s
"
    .to_owned();
    for (name, bind, check) in
        [("primary", "10.99.0.1:5432", "/primary"), ("replicas", "10.99.0.1:5433", "/replica")]
    {
        let _ = write!(
            text,
            "listen {name}
    bind {bind}
    option httpchk OPTIONS {check}
    http-check expect status 200
    default-server inter 1h fastinter 1h downinter 1h fall 2 rise 2
"
        );
        for node in &lab.nodes {
            let _ = writeln!(text, "    server {} {}:5432 check port 8008", node.name, node.address);
        }
    }
    text
}

struct Router {
    child: Child,
    log: PathBuf,
}

impl Router {
    fn start(lab: &Lab, haproxy: &Haproxy, dir: &Path) -> Router {
        let path = dir.join("route.log");
        let log = fs::File::create(&path).expect("our own directory");
        let mut command = Command::new(env!("CARGO_BIN_EXE_tenurectl"));
        command.arg("-c").arg(lab.nodes[0].dir.join("tenure.yml"));
        command.arg("route").arg("--socket").arg(haproxy.socket());
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a second handle")).stderr(log);
        Router { child: command.spawn().expect("it was built"), log: path }
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        println!("---- route\n{}", self.log());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
