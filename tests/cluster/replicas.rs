//! What a member receives from another standby before it leads, and where its data goes when it comes back too late.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::json;

use super::support::disk;
use super::support::lab::{Lab, Setup, in_lab};
use super::support::majors::bin_dirs;
use super::support::wait_for;
use super::topology::{change, configure, until};
use super::{founded, others};

#[test]
fn a_named_candidate_receives_first_what_another_standby_has_more_of() {
    for bin_dir in bin_dirs().into_iter().take(2) {
        println!("with {}", bin_dir.display());
        in_lab(&Setup { bin_dir, ..Setup::default() }, async |lab| fetches_first(lab).await);
    }
}

async fn fetches_first(lab: &mut Lab) {
    let leader = founded(lab).await;
    let [candidate, other] = others(leader)[..] else { unreachable!("there are three") };
    until(lab, candidate, "SELECT count(*) FROM ledger", "0").await;
    lab.nodes[leader].machine.withhold(5432, &[&lab.nodes[candidate].address]);
    let writer = lab.write_anywhere();
    lab.more_rows(100).await;
    drop(writer);
    wait_for("the other standby to have every row", async || {
        let client = lab.client(other).await;
        lab.ledger.missing(&client).await.is_empty().then_some(())
    })
    .await;
    let behind = lab.ledger.missing(&lab.client(candidate).await).await.len();
    assert!(100 <= behind, "only {behind} rows are missing where none can have arrived");
    lab.nodes[leader].machine.cut();
    lab.nodes[leader].power_off();

    let wish = json!({"candidate": lab.nodes[candidate].name}).to_string();
    let said = lab.nodes[other].request("POST", "/failover", &wish);
    assert_eq!(lab.leader_among(&others(leader)).await, candidate, "{said:?}");
    assert_eq!(lab.missing_rows(candidate).await, 0);
    assert!(lab.nodes[candidate].log().contains("candidate_fetches"));
    lab.nodes[leader].machine.heal();
    lab.nodes[leader].machine.release();
    lab.nodes[leader].start_agent();
    assert_eq!(lab.healthy().await, candidate);
    lab.ledger.check_one_history_at_a_time();
}

/// The directory itself is where a disk is mounted, so it cannot be renamed, and nothing beside it is on that disk.
#[test]
fn data_on_a_mount_point_is_set_aside_within_it() {
    if !disk::available() {
        println!("not run: disks in files need root, loop devices and fsfreeze");
        return;
    }
    in_lab(&Setup { disk_megabytes: Some(900), ..Setup::default() }, async |lab| {
        let victim = 2;
        let mount = lab.nodes[victim].dir.join("disk");
        let directory = format!("data_dir: {}", mount.display());
        configure(lab, victim, &[(&format!("{directory}/data"), &directory)]);
        fs::set_permissions(&mount, Permissions::from_mode(0o700)).expect("our own disk");
        // initdb does not make its cluster on a mount point; a clone does not mind.
        lab.nodes[0].start_agent();
        lab.nodes[1].start_agent();
        let first = lab.healthy_among(&[0, 1]).await;
        lab.create_ledger(first).await;
        lab.nodes[victim].start_agent();
        assert_eq!(lab.healthy().await, first);
        let wish = json!({"leader": lab.nodes[first].name, "candidate": lab.nodes[victim].name});
        lab.nodes[first].request("POST", "/switchover", &wish.to_string());
        assert_eq!(lab.healthy().await, victim);
        change(lab, victim, &json!({"postgresql": {"use_pg_rewind": false}}));

        // Rows that only this member has.
        let standbys: Vec<&str> =
            others(victim).iter().map(|&node| lab.nodes[node].address.as_str()).collect();
        lab.nodes[victim].machine.withhold(5432, &standbys);
        let writer = lab.write_at(victim);
        lab.more_rows(50).await;
        drop(writer);
        lab.nodes[victim].machine.cut();
        lab.nodes[victim].power_off();
        let next = lab.leader_among(&others(victim)).await;
        lab.nodes[victim].machine.heal();
        lab.nodes[victim].machine.release();
        lab.nodes[victim].start_agent();
        assert_eq!(lab.healthy().await, next);

        let written = lab.ledger.count();
        assert_eq!(lab.missing_rows(next).await, written, "none of them had arrived anywhere");
        let kept = set_aside_in(&mount);
        let [kept] = &kept[..] else { panic!("one directory was set aside, not {kept:?}") };
        let disk_of = |path: &Path| fs::metadata(path).expect("it is there").dev();
        assert_eq!(disk_of(kept), disk_of(&mount));
        assert_ne!(disk_of(&mount), disk_of(&lab.nodes[victim].dir));
        assert!(set_aside_in(&lab.nodes[victim].dir).is_empty(), "nothing has left the disk");
        assert!(written <= rows_in(lab, victim, kept), "every one of them is still there");
        until(lab, victim, "SELECT count(*) FROM ledger", "0").await;
    });
}

fn set_aside_in(directory: &Path) -> Vec<PathBuf> {
    let paths =
        fs::read_dir(directory).expect("our own directory").map(|entry| entry.expect("readable").path());
    let kept = |path: &PathBuf| {
        ["set-aside-", "diverged-"].iter().any(|mark| path.display().to_string().contains(mark))
    };
    paths.filter(kept).collect()
}

/// Of the ledger, as a server for one user tells it that is started on a directory which was set aside.
fn rows_in(lab: &Lab, node: usize, directory: &Path) -> usize {
    let mut command = lab.nodes[node].command(Setup::default().bin_dir.join("postgres"));
    command.arg("--single").arg("-D").arg(directory).arg("postgres");
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut server = command.spawn().expect("timeout and setpriv are installed");
    let mut stdin = server.stdin.take().expect("a pipe");
    stdin.write_all(b"SELECT count(*) FROM ledger\n").expect("it listens");
    drop(stdin);
    let output = server.wait_with_output().expect("our own child");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = said.split_once("count = \"").and_then(|(_, rest)| rest.split('"').next()?.parse().ok());
    number.unwrap_or_else(|| panic!("{} tells no number: {said}", directory.display()))
}
