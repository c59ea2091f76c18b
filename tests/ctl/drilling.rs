//! `tenurectl drill` on clusters of ours: every guard refuses, faults are brought about and measured, what is missing is found, and whatever
//! happens the drill cleans up behind itself.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};
use serde_json::{Value, json};

use crate::patroni::{Said, ours, succeeds};
use crate::support::lab::{Lab, PASSWORD, Setup, in_lab};
use crate::support::wait_for;
use crate::support::watchdog_device::{Happening, WatchdogDevice};

/// A lab has one server of the store, and no archive.
const OF_THE_LAB: [&str; 3] = ["--backup-checked", "--override", "store"];

#[test]
fn a_drill_is_refused_by_every_guard_and_by_the_member_itself() {
    in_lab(&Setup::default(), async |lab| {
        lab.start_everybody();
        let leader = lab.healthy().await;
        keep_secrets(lab);
        what_nobody_allows(lab, leader).await;
        allow(lab, r"[postmaster, agent, host]").await;
        what_the_agent_itself_refuses(lab, leader);
        what_the_cluster_is_not_ready_for(lab, leader).await;
        where_the_route_does_not_lead(lab, leader);
        what_is_asked_for_wrongly(lab);
        nobody_says_yes(lab, leader).await;
        a_standby_is_down(lab, leader).await;
        assert_eq!(lab.healthy().await, leader, "nothing was done");
        assert_eq!(lab.nodes[leader].status().expect("it answers")["timeline"], 1);
    });
}

#[test]
fn drills_are_done_measured_and_reported() {
    in_lab(&Setup::default(), async |lab| {
        lab.start_everybody();
        lab.healthy().await;
        keep_secrets(lab);
        allow(lab, r"[postmaster, agent]").await;
        a_switchover(lab).await;
        a_dead_postmaster(lab).await;
        a_dead_agent(lab).await;
        a_row_that_was_removed(lab).await;
        a_drill_that_is_interrupted(lab).await;
    });
}

/// The device takes the power of the leader's machine away, and somebody starts it again.
#[test]
fn a_host_is_reset_by_its_watchdog() {
    if !WatchdogDevice::available() {
        println!("not run: a device over FUSE needs root and /dev/fuse");
        return;
    }
    in_lab(&Setup { watchdogs: true, ..Setup::default() }, async |lab| {
        lab.start_everybody();
        lab.healthy().await;
        keep_secrets(lab);
        allow(lab, "[host]").await;
        let leader = ready(lab, "host").await;
        let (name, drill) = (lab.nodes[leader].name.clone(), begin(lab, "host", &[]));
        let expired = async || {
            let device = lab.nodes[leader].watchdog.as_ref()?;
            (device.count(Happening::Expired) == 1).then_some(())
        };
        wait_for("the watchdog to fire", expired).await;
        lab.nodes[leader].power_off();
        lab.nodes[leader].start_agent();
        let report = good(&drill.end());
        assert_eq!(
            (&report["fault"], &report["member"]),
            (&"host".into(), &name.as_str().into()),
            "{report:#}"
        );
        let told = report["notes"].to_string();
        assert!(told.contains("no machine with a kernel of its own"), "{told}");
        assert!(report["after"]["leader"].is_string(), "{report:#}");
        noted_by(&report, &name, "the guardian is stopped");
        no_table(lab).await;
    });
}

/// The lab's own files are readable for everybody, which `doctor` calls an error.
fn keep_secrets(lab: &Lab) {
    let agent = User::from_name("postgres").expect("a user database").expect("the packages made it");
    for node in &lab.nodes {
        let path = node.dir.join("tenure.yml");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("our own file");
        chown(&path, Some(agent.uid.as_raw()), None).expect("root may");
    }
}

async fn allow(lab: &Lab, drills: &str) {
    for node in &lab.nodes {
        let path = node.dir.join("tenure.yml");
        let text = fs::read_to_string(&path).expect("our own file");
        fs::write(&path, text.replace("\ntenure:\n", &format!("\ntenure:\n  drills: {drills}\n")))
            .expect("our own file");
        node.signal_agent(Signal::SIGHUP);
    }
    let allowed = async || {
        let says = |node: &crate::support::lab::Node| {
            let (_, text) = node.request("GET", "/doctor", "")?;
            let document: Value = serde_json::from_str(&text).ok()?;
            Some(document["facts"]["drills"].as_array()?.is_empty())
        };
        lab.nodes.iter().all(|node| says(node) == Some(false)).then_some(())
    };
    wait_for("every agent to allow drills", allowed).await;
}

/// What a check says, and which guards refuse.
fn check(lab: &Lab, fault: &str, arguments: &[&str]) -> (Said, Vec<String>, Value) {
    let said = ours(lab, &[&["drill", fault, "--check", "-f", "json"], arguments].concat(), "");
    let document: Value =
        serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said:#?}"));
    let guards = document["guards"].as_array().expect("guards").iter();
    let refuses = guards.filter(|one| one["holds"] == false && one["overridden"] == false);
    let refuses: Vec<String> = refuses.map(|one| one["guard"].as_str().expect("text").to_owned()).collect();
    assert_eq!((said.code == 2, said.code == 0), (!refuses.is_empty(), refuses.is_empty()), "{said:#?}");
    (said, refuses, document)
}

#[track_caller]
fn refuses(lab: &Lab, fault: &str, arguments: &[&str], guards: &[&str]) -> Value {
    let (_, refuses, document) = check(lab, fault, &[&OF_THE_LAB, arguments].concat());
    assert_eq!(refuses, guards, "{document:#}");
    document
}

/// Everything lets it through. After a failover some job may be under way for a moment.
async fn ready(lab: &Lab, fault: &str) -> usize {
    let leader = lab.healthy().await;
    let nothing_refuses = async || check(lab, fault, &OF_THE_LAB).1.is_empty().then_some(());
    wait_for("every guard to let it through", nothing_refuses).await;
    leader
}

async fn what_nobody_allows(lab: &Lab, leader: usize) {
    let (found, document) = wait_for("a cluster that has come to rest", async || {
        let (_, found, document) = check(lab, "postmaster", &[]);
        (!found.contains(&"standbys".to_owned()) && !found.contains(&"under_way".to_owned()))
            .then_some((found, document))
    })
    .await;
    assert_eq!(found, ["allowed", "store", "backup"], "all of them are named at once: {document:#}");
    let remedy = document["guards"][2]["remedy"].as_str().expect("text");
    assert!(remedy.contains("tenure.drills: [postmaster]"), "{document:#}");
    refuses(lab, "postmaster", &[], &["allowed"]);
    refuses(lab, "host", &[], &["allowed", "watchdog"]);
    refuses(lab, "switchover", &[], &[]);
    // Without --check as well, and with --yes.
    let said = ours(lab, &["drill", "postmaster", "lab", "--yes"], "");
    let sentence = "Refused by allowed, store, backup; nothing has been done.\n";
    assert!(said.code == 2 && said.stdout.ends_with(sentence), "{said:#?}");
    println!("{}", said.stdout);
    let asked = json!({"fault": "postmaster", "member": lab.nodes[leader].name}).to_string();
    let (status, text) = lab.nodes[leader].request("POST", "/drill", &asked).expect("an answer");
    assert!(status == 403 && text.contains("set tenure.drills: [postmaster]"), "{status} {text}");
}

fn what_the_agent_itself_refuses(lab: &Lab, leader: usize) {
    let ask = |node: usize, body: Value| {
        lab.nodes[node].request("POST", "/drill", &body.to_string()).expect("an answer")
    };
    let other = (leader + 1) % 3;
    let [leads, follows] = [leader, other].map(|node| lab.nodes[node].name.clone());
    for (node, body, code, part) in [
        (other, json!({"fault": "agent", "member": follows}), 409, "does not lead"),
        (leader, json!({"fault": "agent", "member": follows}), 409, "and the drill is for"),
        (leader, json!({"fault": "host", "member": leads}), 409, "nothing would reset this machine"),
        (leader, json!({"fault": "rain", "member": leads}), 400, "postmaster, agent, host"),
    ] {
        let (status, text) = ask(node, body);
        assert!(status == code && text.contains(part), "{status} {text}");
    }
}

async fn what_the_cluster_is_not_ready_for(lab: &Lab, leader: usize) {
    refuses(lab, "postmaster", &[], &[]);
    refuses(lab, "host", &[], &["watchdog"]);
    // Exactly one of these holds, whatever time it is.
    let [morning, evening] = ["00:00-12:00", "12:00-00:00"].map(|window| {
        let (_, refuses, _) = check(lab, "agent", &[&OF_THE_LAB[..], &["--window", window]].concat());
        refuses == ["window"]
    });
    assert!(morning ^ evening);
    succeeds(lab, &["pause", "--wait"], "paused");
    refuses(lab, "agent", &[], &["paused", "guardian"]);
    succeeds(lab, &["resume", "--wait"], "resumed");
    ready(lab, "agent").await;
    succeeds(lab, &["switchover", "--scheduled", "2100-01-01T10:00", "--force"], "Switchover scheduled");
    refuses(lab, "agent", &[], &["scheduled"]);
    refuses(lab, "agent", &["--override", "scheduled"], &[]);
    succeeds(lab, &["flush", "lab", "switchover"], "Success: scheduled switchover deleted");
    let other = lab.nodes[(leader + 1) % 3].name.clone();
    refuses(lab, "switchover", &["--candidate", &lab.nodes[leader].name], &["candidate"]);
    refuses(lab, "switchover", &["--candidate", &other], &[]);
}

fn where_the_route_does_not_lead(lab: &Lab, leader: usize) {
    let route = |node: usize| format!("host={} port=5432 dbname=postgres", lab.nodes[node].address);
    let check = |route: &str, guards: &[&str]| refuses(lab, "agent", &["--route", route], guards);
    check(&route(leader), &[]);
    let told = check(&route((leader + 1) % 3), &["route"]);
    assert!(told.to_string().contains("which is a standby"), "{told:#}");
    check("host=10.99.0.99 port=5432 connect_timeout=1", &["route"]);
    refuses(lab, "agent", &["--schema", "nowhere"], &["route"]);
    let said = ours(lab, &["drill", "agent", "--check", "--route", "host=x password=hunter2"], "");
    assert!(said.code == 1 && said.stderr.contains("--route holds a password"), "{said:#?}");
    assert!(!said.stderr.contains("hunter2"), "{said:#?}");
}

fn what_is_asked_for_wrongly(lab: &Lab) {
    for arguments in [
        &["rain"][..],
        &["agent", "--override", "leader"],
        &["agent", "--window", "night"],
        &["agent", "--candidate", "node2"],
        &["agent", "--for", "0"],
        &["agent", "-f", "tsv"],
    ] {
        let said = ours(lab, &[&["drill"], arguments].concat(), "");
        assert_eq!(said.code, 2, "{said:#?}");
    }
}

async fn nobody_says_yes(lab: &Lab, leader: usize) {
    let said = ours(lab, &[&["drill", "postmaster"], &OF_THE_LAB[..]].concat(), "yes\n");
    let asked =
        format!("This is no rehearsal: the postmaster of {} is killed in lab.\n", lab.nodes[leader].name);
    assert!(said.code == 1 && said.stderr.contains("Aborted!") && said.stdout.contains(&asked), "{said:#?}");
    assert!(said.stdout.contains("REPLICATION IS ASYNCHRONOUS"), "{said:#?}");
    assert!(said.stdout.contains("  overridden  store "), "what is overridden is named: {said:#?}");
    no_table(lab).await;
}

async fn a_standby_is_down(lab: &mut Lab, leader: usize) {
    let down = (leader + 1) % 3;
    lab.nodes[down].power_off();
    let noticed = async || (check(lab, "agent", &OF_THE_LAB).1 == ["spare", "standbys"]).then_some(());
    wait_for("the guards to miss a standby", noticed).await;
    refuses(lab, "agent", &["--override", "spare", "--override", "standbys"], &[]);
    lab.nodes[down].start_agent();
    ready(lab, "agent").await;
}

/// A drill under way.
struct Drill {
    child: Child,
    dir: tempfile::TempDir,
}

fn begin(lab: &Lab, fault: &str, arguments: &[&str]) -> Drill {
    let dir = tempfile::tempdir().expect("a directory");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tenurectl"));
    command.arg("-c").arg(lab.nodes[0].dir.join("tenure.yml")).args(["drill", fault, "lab", "-f", "json"]);
    command.args(OF_THE_LAB).args(["--for", "3", "--within", "60", "--reason", "a test"]);
    command.arg("--report").arg(dir.path().join("report")).args(arguments);
    command.env_clear().env("PATH", "/usr/bin:/bin").env("PGUSER", "postgres").env("PGPASSWORD", PASSWORD);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    // Whoever is refused asks nothing.
    let _ = child.stdin.take().expect("piped").write_all(b"lab\n");
    Drill { child, dir }
}

/// What it said in the end, with the files that it has written.
struct Ended {
    said: Said,
    report: Value,
    text: String,
    page: String,
}

impl Drill {
    fn end(self) -> Ended {
        let output = self.child.wait_with_output().expect("our own child");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let said = Said {
            code: output.status.code().unwrap_or(-1),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        };
        let read = |name: &str| {
            let path: PathBuf = self.dir.path().join("report").join(name);
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}: {said:#?}", path.display()))
        };
        let report = serde_json::from_str(&read("report.json")).expect("JSON");
        Ended { report, text: read("report.txt"), page: read("report.html"), said }
    }
}

/// Every acknowledged row is there, and everybody is back.
#[track_caller]
fn good(ended: &Ended) -> Value {
    let Ended { said, report, text, page } = ended;
    assert!(said.code == 0 && report["good"] == true, "{said:#?}\n{text}");
    assert!(said.stdout.contains("\"good\": true"), "{said:#?}");
    let rows = &report["rows"];
    assert!(rows["missing"] == 0 && 100 <= rows["acknowledged"].as_u64().expect("a number"), "{report:#}");
    let (gap, usual) = (report["gap"]["ms"].as_u64(), report["usual"]["rows"].as_u64());
    assert!(gap.is_some() && 100 <= usual.expect("a number"), "{report:#}");
    assert!(report["gap"]["first_row"].is_string() && report["table"]["dropped"] == true, "{report:#}");
    assert_eq!(report["why"], "a test");
    assert!(text.contains(": all is well\n") && text.contains("Guards:\n  ok "), "{text}");
    assert!(page.starts_with("<!DOCTYPE html>") && page.contains(": all is well</h1>"), "{page}");
    assert!(!text.contains(PASSWORD) && !page.contains(PASSWORD) && !said.stderr.contains(PASSWORD));
    println!("{text}");
    report.clone()
}

/// The member's own recorder says who has asked for it, and why.
#[track_caller]
fn noted_by(report: &Value, member: &str, deed: &str) {
    let lines = report["timeline"].as_array().expect("a timeline");
    let noted = lines.iter().any(|line| {
        let what = line["what"].as_str().unwrap_or_default();
        line["who"] == member
            && what.starts_with("drill_asked: ")
            && what.contains("has asked for a drill (tenurectl drill ")
            && what.contains(": a test)")
            && what.contains(deed)
    });
    assert!(noted, "{lines:#?}");
}

async fn no_table(lab: &Lab) {
    let leader = lab.healthy().await;
    assert_eq!(table(lab, leader).await, None, "the drill has dropped its table");
}

async fn table(lab: &Lab, leader: usize) -> Option<String> {
    let client = lab.client(leader).await;
    let asked = "select relname::text from pg_class where relname like 'tenure_drill_%' and relkind = 'r'";
    client.query_opt(asked, &[]).await.ok()?.map(|row| row.get(0))
}

/// By the name that is typed, and along a route of several hosts.
async fn a_switchover(lab: &Lab) {
    let leader = ready(lab, "switchover").await;
    let to = lab.nodes[(leader + 1) % 3].name.clone();
    let hosts: Vec<&str> = lab.nodes.iter().map(|node| node.address.as_str()).collect();
    let route = format!("host={} dbname=postgres target_session_attrs=read-write", hosts.join(","));
    let drill = begin(lab, "switchover", &["--candidate", &to, "--route", &route]);
    let report = good(&drill.end());
    assert_eq!(report["after"]["leader"], to.as_str(), "{report:#}");
    let change = &report["recorders"]["changes"][0];
    assert_eq!((&change["kind"], &change["to"]), (&"switchover".into(), &to.as_str().into()), "{report:#}");
    assert!(report["answer"].as_str().is_some_and(|answer| answer.contains("Successfully switched over")));
    assert!(report["gap"]["ms"].as_u64() > Some(0), "{report:#}");
    no_table(lab).await;
    assert!(lab.nodes[leader].log().contains("switchover requested over REST"));
}

async fn a_dead_postmaster(lab: &Lab) {
    let leader = ready(lab, "postmaster").await;
    let (name, before) = (lab.nodes[leader].name.clone(), lab.nodes[leader].postmaster_pid());
    let report = good(&begin(lab, "postmaster", &["--yes"]).end());
    noted_by(&report, &name, "the postmaster of this PostgreSQL is killed");
    assert_ne!(lab.nodes[leader].postmaster_pid(), before, "it is another one now");
    assert!(lab.nodes[leader].log().contains("a drill was asked for: "), "the log says so as well");
    no_table(lab).await;
    // What happened is told truthfully to whoever asks afterwards.
    let events = succeeds(lab, &["events", "--since", "5m"], "drill_asked: ");
    assert!(events.contains("has asked for a drill (tenurectl drill postmaster: a test)"), "{events}");
}

/// In a lab nobody starts agents again but the test.
async fn a_dead_agent(lab: &mut Lab) {
    let leader = ready(lab, "agent").await;
    let (name, postmaster) = (lab.nodes[leader].name.clone(), lab.nodes[leader].postmaster_pid());
    let drill = begin(lab, "agent", &["--yes"]);
    wait_for("the agent to kill itself", async || lab.nodes[leader].agent_has_ended().then_some(())).await;
    lab.nodes[leader].start_agent();
    let report = good(&drill.end());
    noted_by(&report, &name, "this agent kills itself");
    assert_eq!(report["after"]["leader"], name.as_str(), "nobody had a reason to take over: {report:#}");
    assert_eq!(lab.nodes[leader].postmaster_pid(), postmaster, "PostgreSQL is the same");
    assert_eq!(report["rows"]["uncertain"], 0, "clients noticed nothing: {report:#}");
    no_table(lab).await;
}

/// The fault that the look at the rows is there for.
async fn a_row_that_was_removed(lab: &Lab) {
    let leader = ready(lab, "switchover").await;
    let drill = begin(lab, "switchover", &["--yes"]);
    let name = wait_for("the drill's table", async || table(lab, leader).await).await;
    let client = lab.client(leader).await;
    let remove = format!("delete from public.{name} where row = 7");
    let removed = async || (client.execute(&remove, &[]).await.ok()? == 1).then_some(());
    wait_for("a row to remove", removed).await;
    let Ended { said, report, text, .. } = drill.end();
    assert_eq!((said.code, &report["good"]), (1, &false.into()), "{said:#?}");
    assert_eq!(
        (&report["rows"]["missing"], &report["rows"]["missing_named"]),
        (&1.into(), &json!([7])),
        "{report:#}"
    );
    assert!(text.contains("  PROBLEM  1 acknowledged row is missing: "), "{text}");
    assert!(text.contains("1 OF THE ACKNOWLEDGED MISSING (7)"), "{text}");
    no_table(lab).await;
}

async fn a_drill_that_is_interrupted(lab: &Lab) {
    let leader = ready(lab, "postmaster").await;
    let postmaster = lab.nodes[leader].postmaster_pid();
    let drill = begin(lab, "postmaster", &["--yes"]);
    wait_for("the drill's table", async || table(lab, leader).await).await;
    let pid = i32::try_from(drill.child.id()).expect("a pid");
    kill(Pid::from_raw(pid), Signal::SIGINT).expect("it runs");
    let Ended { said, report, text, .. } = drill.end();
    assert_eq!(said.code, 1, "{said:#?}");
    assert!(text.contains("  PROBLEM  the drill was broken off: it was interrupted\n"), "{text}");
    assert_eq!((&report["asked"], &report["table"]["dropped"]), (&Value::Null, &true.into()), "{report:#}");
    assert_eq!(lab.nodes[leader].postmaster_pid(), postmaster, "nothing was done yet");
    no_table(lab).await;
    // A directory that cannot be written to is found before anything is done.
    let said = ours(
        lab,
        &[&["drill", "postmaster", "--yes", "--report", "/proc/nowhere"], &OF_THE_LAB[..]].concat(),
        "",
    );
    assert!(said.code == 1 && said.stderr.contains("make /proc/nowhere"), "{said:#?}");
    assert!(!Path::new("/proc/nowhere").exists());
    assert_eq!(lab.nodes[leader].postmaster_pid(), postmaster, "nothing was done");
}
