//! pgBackRest beneath a whole cluster, as docs/backups.md describes it: members, a rewind and new clusters out of its repository.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tokio_postgres::Client;

use super::support::lab::{Lab, Node, Setup, in_lab};
use super::support::wait_for;
use super::topology::{configure, one, until};
use super::{founded, others};

/// The stanza of the cluster that every test begins with. Its name is that of the cluster.
const STANZA: &str = "lab";

/// What pgBackRest is called with on a node.
fn call(node: &Node, stanza: &str) -> String {
    format!("pgbackrest --config={} --stanza={stanza}", configuration(node).display())
}

fn configuration(node: &Node) -> PathBuf {
    node.dir.join("pgbackrest.conf")
}

/// The first node keeps the repository, and every node reaches it as its own directory.
fn repository(lab: &Lab) -> PathBuf {
    lab.nodes[0].dir.join("repository")
}

/// Runs a lab whose members archive into a repository, and are made from it where that succeeds.
fn in_lab_with_a_repository(setup: &Setup, test: impl AsyncFnOnce(&mut Lab)) {
    if !Command::new("pgbackrest").arg("version").output().is_ok_and(|output| output.status.success()) {
        println!("not run: pgBackRest is not installed");
        return;
    }
    in_lab(setup, async |lab| {
        let repository = repository(lab);
        for (index, node) in lab.nodes.iter().enumerate() {
            let dir = node.dir.display();
            let mut lines = format!(
                "[global]\nrepo1-path={}\nlock-path={dir}/lock\nspool-path={dir}/spool\nstart-fast=y\n\
                 compress-level=1\nlog-level-file=off\nlog-level-console=warn\n",
                repository.display()
            );
            for (stanza, data) in [(STANZA, "data"), ("by_time", "by_time"), ("by_name", "by_name")] {
                lines += &format!("[{stanza}]\npg1-path={dir}/{data}\npg1-socket-path={dir}\n");
            }
            fs::write(configuration(node), lines).expect("our own directory");
            let call = call(node, STANZA);
            let ours = format!(
                "    fsync: 'on'\n    archive_mode: 'on'\n    archive_command: {call} archive-push %p\n  \
                 create_replica_methods: [pgbackrest, basebackup]\n  pgbackrest:\n    \
                     command: {call} --delta restore\n    \
                     keep_data: true\n    no_params: true\n    no_leader: true\n  \
                 recovery_conf:\n    restore_command: {call} archive-get %f %p\n"
            );
            let without_slots = "use_pg_rewind: true\n      use_slots: false";
            let changes = [
                ("    fsync: 'on'\n", ours.as_str()),
                // So that the primary keeps no WAL for anybody: what a member misses only the repository has.
                ("use_pg_rewind: true", without_slots),
                ("wal_keep_size: 256MB", "wal_keep_size: 16MB"),
            ];
            configure(lab, index, &changes);
        }
        test(lab).await;
    });
}

/// Runs it as PostgreSQL's user on the node's machine, in bounded time.
fn pgbackrest(node: &Node, stanza: &str, more: &[&str]) -> String {
    let called = call(node, stanza);
    let mut words = called.split(' ');
    let mut command = node.command(words.next().unwrap_or_default());
    command.args(words).args(more);
    let output = command.output().expect("timeout and setpriv are installed");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "pgbackrest {}: {}\n{out}{err}", more.join(" "), output.status);
    out.into_owned()
}

/// Everything that has been written so far is in the repository.
async fn archived(lab: &Lab, leader: usize) {
    let client = lab.client(leader).await;
    // A segment that holds nothing is not archived.
    client.batch_execute("SELECT pg_logical_emit_message(true, 'test', 'x')").await.expect("a primary");
    let last = one(&client, "SELECT pg_walfile_name(pg_switch_wal())").await;
    let query = format!("SELECT last_archived_wal >= '{last}' FROM pg_stat_archiver");
    until(lab, leader, &query, "t").await;
}

async fn insert(client: &Client, word: &str) {
    let insert = format!("INSERT INTO kept VALUES ('{word}')");
    client.batch_execute(&insert).await.expect("a primary takes rows");
}

/// A cluster with a stanza and a table.
async fn founded_with_a_stanza(lab: &mut Lab) -> usize {
    let leader = founded(lab).await;
    pgbackrest(&lab.nodes[leader], STANZA, &["stanza-create"]);
    lab.client(leader).await.batch_execute("CREATE TABLE kept (word text)").await.expect("a primary");
    archived(lab, leader).await;
    leader
}

/// PostgreSQL keeps what the tool wrote into the copy that it began with.
fn label(node: &Node) -> String {
    fs::read_to_string(node.dir.join("data/backup_label.old")).unwrap_or_default()
}

fn came_from_the_repository(node: &Node) -> bool {
    label(node).contains("pgBackRest backup")
}

/// Takes the machine's power and its data.
fn loses_everything(node: &mut Node) {
    node.power_off();
    fs::remove_dir_all(node.dir.join("data")).expect("our own directory");
}

#[test]
fn members_are_made_from_a_pgbackrest_repository() {
    in_lab_with_a_repository(&Setup::default(), async |lab| {
        let leader = founded_with_a_stanza(lab).await;
        let [one_standby, other] = others(leader)[..] else { unreachable!("there are three") };
        // There was no backup yet: said, and made in another way.
        for node in [one_standby, other] {
            assert!(!came_from_the_repository(&lab.nodes[node]), "{}", label(&lab.nodes[node]));
            assert!(label(&lab.nodes[node]).contains("pg_basebackup"));
            assert!(lab.nodes[node].log().contains("make the data by pgbackrest: "));
            assert!(lab.nodes[node].log().contains("; trying the next method"));
        }
        let client = lab.client(leader).await;
        pgbackrest(&lab.nodes[leader], STANZA, &["--type=full", "backup"]);
        insert(&client, "after the backup").await;

        // A new member comes out of the repository, catches up from there, and streams.
        loses_everything(&mut lab.nodes[one_standby]);
        lab.nodes[one_standby].start_agent();
        assert_eq!(lab.healthy().await, leader);
        assert!(came_from_the_repository(&lab.nodes[one_standby]), "{}", label(&lab.nodes[one_standby]));
        until(lab, one_standby, "SELECT string_agg(word, ' ') FROM kept", "after the backup").await;

        // One that was away for longer than the primary keeps its WAL finds what it lacks in the repository.
        lab.nodes[other].power_off();
        let lacks = one(&client, "SELECT pg_walfile_name(pg_current_wal_lsn())").await;
        insert(&client, "while it was away").await;
        forgets(lab, leader, &client, &lacks).await;
        lab.nodes[other].start_agent();
        assert_eq!(lab.healthy().await, leader);
        until(lab, other, "SELECT count(*) FROM kept", "2").await;
        assert!(!lab.nodes[other].log().contains("rejoin_sets_aside"), "it was not copied anew");
        assert!(said(&lab.nodes[other]).contains(&format!("restored log file \"{lacks}\" from archive")));

        // Nobody leads, and there is nobody to copy from: the repository has everything that was archived.
        archived(lab, leader).await;
        drop(client);
        lab.nodes[other].power_off();
        loses_everything(&mut lab.nodes[one_standby]);
        lab.nodes[leader].end_agent();
        lab.nodes[one_standby].start_agent();
        assert_eq!(lab.leader_among(&[one_standby]).await, one_standby);
        assert!(lab.nodes[one_standby].log().contains("clones_without_leader"));
        until(lab, one_standby, "SELECT count(*) FROM kept", "2").await;
        // What the former leader wrote last, as it ended, is rewound.
        lab.nodes[leader].start_agent();
        lab.nodes[other].start_agent();
        let (former, leader) = (leader, lab.healthy().await);
        assert_eq!(leader, one_standby);
        assert!(lab.nodes[former].log().contains("rejoin_rewinds"));
        assert!(!lab.nodes[former].log().contains("rejoin_sets_aside"));

        // The backup is of an earlier timeline, and the archive leads on from there.
        loses_everything(&mut lab.nodes[other]);
        lab.nodes[other].start_agent();
        assert_eq!(lab.healthy().await, leader);
        assert!(came_from_the_repository(&lab.nodes[other]), "{}", label(&lab.nodes[other]));

        // A backup that is damaged is found out half-way, and no part of it remains.
        let damaged = repository(lab).join("backup/lab/latest/pg_data/global/pg_control.gz");
        fs::write(&damaged, "not a backup").expect("it is there");
        loses_everything(&mut lab.nodes[other]);
        let before = lab.nodes[other].log().len();
        lab.nodes[other].start_agent();
        assert_eq!(lab.healthy().await, leader);
        assert!(label(&lab.nodes[other]).contains("pg_basebackup"), "{}", label(&lab.nodes[other]));
        let log = lab.nodes[other].log();
        assert!(log[before..].contains("; trying the next method"), "{}", &log[before..]);
        until(lab, other, "SELECT count(*) FROM kept", "2").await;
    });
}

/// The primary writes until it has no more of that segment.
async fn forgets(lab: &Lab, leader: usize, client: &Client, segment: &str) {
    let segment = lab.nodes[leader].dir.join("data/pg_wal").join(segment);
    wait_for("WAL that the primary has no more", async || {
        let more = "SELECT pg_logical_emit_message(false, 'test', 'x'); SELECT pg_switch_wal(); CHECKPOINT";
        client.batch_execute(more).await.expect("a primary");
        (!segment.exists()).then_some(())
    })
    .await;
}

/// By PostgreSQL itself.
fn said(node: &Node) -> String {
    fs::read_to_string(node.dir.join("data.log")).unwrap_or_default()
}

/// The site of the primary, with the repository, is cut off from the others, which go on without it. What pg_rewind needs to
/// find where the histories part is no more in the old primary's own directory.
#[test]
fn what_pg_rewind_lacks_comes_from_the_repository() {
    let setup = Setup { dynamic: "maximum_lag_on_failover: 1073741824", ..Setup::default() };
    in_lab_with_a_repository(&setup, async |lab| {
        let old = founded_with_a_stanza(lab).await;
        let client = lab.client(old).await;
        insert(&client, "known to all").await;
        for node in others(old) {
            until(lab, node, "SELECT count(*) FROM kept", "1").await;
            away(&lab.nodes[node], true);
        }
        let standbys: Vec<&str> = others(old).iter().map(|&node| lab.nodes[node].address.as_str()).collect();
        lab.nodes[old].machine.withhold(5432, &standbys);
        let fork = one(&client, "SELECT pg_walfile_name(pg_current_wal_lsn())").await;
        insert(&client, "known to one").await;
        forgets(lab, old, &client, &fork).await;
        drop(client);
        lab.nodes[old].machine.cut();
        lab.nodes[old].power_off();

        let next = lab.healthy_among(&others(old)).await;
        insert(&lab.client(next).await, "afterwards").await;
        for node in others(old) {
            away(&lab.nodes[node], false);
        }
        lab.nodes[old].machine.heal();
        lab.nodes[old].machine.release();
        let before = lab.nodes[old].log().len();
        lab.nodes[old].start_agent();
        assert_eq!(lab.healthy().await, next);
        let log = lab.nodes[old].log();
        assert!(log[before..].contains("rejoin_rewinds"), "{}", &log[before..]);
        assert!(!log[before..].contains("rejoin_sets_aside"), "{}", &log[before..]);
        until(lab, old, "SELECT string_agg(word, ', ') FROM kept", "known to all, afterwards").await;
    });
}

/// The repository is out of the node's reach, or back.
fn away(node: &Node, gone: bool) {
    let (here, elsewhere) = (configuration(node), node.dir.join("pgbackrest.away"));
    let (from, to) = if gone { (here, elsewhere) } else { (elsewhere, here) };
    fs::rename(from, to).expect("our own file");
}

#[test]
fn a_new_cluster_is_made_from_a_pgbackrest_repository_as_of_a_point_in_time() {
    in_lab_with_a_repository(&Setup { nodes: 2, ..Setup::default() }, async |lab| {
        let leader = founded_with_a_stanza(lab).await;
        let client = lab.client(leader).await;
        insert(&client, "first").await;
        pgbackrest(&lab.nodes[leader], STANZA, &["--type=full", "backup"]);
        // A backup is chosen by whole seconds.
        let told = pgbackrest(&lab.nodes[leader], STANZA, &["info", "--output=json"]);
        let told: serde_json::Value = serde_json::from_str(&told).expect("a document");
        let end = &told[0]["backup"][0]["timestamp"]["stop"];
        let later = format!("SELECT {end} < floor(extract(epoch FROM clock_timestamp()))");
        until(lab, leader, &later, "t").await;
        insert(&client, "second").await;
        let moment = one(&client, "SELECT clock_timestamp()").await;
        insert(&client, "third").await;
        client.batch_execute("SELECT pg_create_restore_point('here')").await.expect("a primary");
        insert(&client, "fourth").await;
        archived(lab, leader).await;
        drop(client);

        let mut scope = STANZA;
        for (next, kind, target, words) in [
            ("by_time", "time", moment.as_str(), "first, second"),
            ("by_name", "name", "here", "first, second, third"),
        ] {
            for node in 0..2 {
                lab.nodes[node].power_off();
                becomes_part_of(lab, node, scope, next, (kind, target));
            }
            scope = next;
            lab.start_everybody();
            let leader = lab.healthy().await;
            for node in 0..2 {
                until(lab, node, "SELECT string_agg(word, ', ') FROM kept", words).await;
            }
            let status = lab.nodes[leader].status().expect("it answers");
            assert_eq!(status["timeline"], 2, "the end of the recovery began the next timeline");
            // It archives where nobody else does, and asks nobody else for WAL.
            pgbackrest(&lab.nodes[leader], next, &["stanza-create"]);
            archived(lab, leader).await;
            for node in 0..2 {
                let asked = one(&lab.client(node).await, "SHOW restore_command").await;
                assert!(!asked.contains("--stanza=lab"), "{asked}");
            }
        }
    });
}

/// The node's agent is to find or make another cluster, with other data, and its own stanza.
fn becomes_part_of(lab: &Lab, node: usize, scope: &str, next: &str, (kind, target): (&str, &str)) {
    let dir = lab.nodes[node].dir.display().to_string();
    // WAL is fetched into where the server works, which is not where the stanza's own cluster is.
    let from = format!("{} --pg1-path={dir}/{next}", call(&lab.nodes[node], STANZA));
    let method = format!(
        "  method: pgbackrest\n  pgbackrest:\n    \
             command: {from} --type={kind} \"--target={target}\" restore\n    \
             no_params: true\n    \
             recovery_conf:\n      restore_command: {from} archive-get %f %p\n      \
             recovery_target_{kind}: '{target}'\n"
    );
    let path = lab.nodes[node].dir.join("tenure.yml");
    let text = fs::read_to_string(&path).expect("our own file");
    let (before, after) = text.split_once("bootstrap:\n").expect("it says how a cluster is made");
    let (_, settings) = after.split_once("  dcs:\n").expect("it has settings for it");
    fs::write(&path, format!("{before}bootstrap:\n{method}  dcs:\n{settings}")).expect("our own file");
    let first = scope == STANZA;
    let (data, state) = if first { ("data", "state".to_owned()) } else { (scope, format!("state.{scope}")) };
    let changes = [
        (format!("scope: {scope}\n"), format!("scope: {next}\n")),
        (format!("data_dir: {dir}/{data}\n"), format!("data_dir: {dir}/{next}\n")),
        (format!("state_dir: {dir}/{state}\n"), format!("state_dir: {dir}/state.{next}\n")),
        (format!("--stanza={scope} archive-push"), format!("--stanza={next} archive-push")),
        (format!("--stanza={scope} --delta"), format!("--stanza={next} --delta")),
        (
            format!("  recovery_conf:\n    restore_command: {}", call(&lab.nodes[node], scope)),
            format!("  recovery_conf:\n    restore_command: {}", call(&lab.nodes[node], next)),
        ),
    ];
    let changes: Vec<(&str, &str)> = changes.iter().map(|(from, to)| (from.as_str(), to.as_str())).collect();
    configure(lab, node, &changes);
}
