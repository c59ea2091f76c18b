//! A primary that lets only Tenure's own roles in, on real servers.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tenure::model::{Gate, Running};
use tenure::postgres::{
    Login, Recovery, open_gate, reload, running_postmaster, start_gated_primary, start_primary, stop_at_once,
};

use super::support::{Instance, PATIENCE, bin_dirs};

/// A stopped primary with a role that is nobody's of ours.
async fn with_application(bin_dir: &std::path::Path) -> (Instance, Login) {
    let node = Instance::primary(bin_dir, "turku").await;
    node.sql("CREATE ROLE app LOGIN PASSWORD 'application'").await;
    stop_at_once(&node.settings).await.expect("stopped");
    (node, Login::named("app").with_password("application"))
}

async fn refused(node: &Instance, login: &Login) -> String {
    let error = node.try_sql(login, "SELECT 1").await.expect_err("kept out");
    error.as_db_error().map_or(error.to_string(), |said| said.message().to_owned())
}

fn gate(running: &Running) -> Gate {
    running.synchrony.gate
}

fn beside(node: &Instance, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", node.data_dir().display()))
}

#[tokio::test]
async fn a_gate_lets_its_own_roles_in_and_everybody_when_it_opens() {
    for bin_dir in bin_dirs() {
        let (mut node, app) = with_application(&bin_dir).await;
        start_gated_primary(&node.settings, PATIENCE).await.expect("started");
        assert_eq!(gate(&node.running().await), Gate::Closed);
        assert!(refused(&node, &app).await.contains("pg_hba.conf rejects connection"));
        for login in [&node.settings.superuser, &node.settings.replication] {
            node.try_sql(login, "SELECT 1").await.expect("let in");
        }
        let _standby = Instance::standby_of(&node, "oulu").await;

        // What was changed meanwhile is still narrowed.
        node.settings.pg_hba.insert(0, "host all app 127.0.0.1/32 trust".to_owned());
        reload(&node.settings, &Recovery::Primary).await.expect("reloaded");
        node.sql("SELECT 1").await;
        assert!(refused(&node, &app).await.contains("pg_hba.conf rejects connection"));

        open_gate(&node.settings, PATIENCE).await.expect("opened");
        assert_eq!(gate(&node.running().await), Gate::Open);
        node.try_sql(&app, "SELECT 1").await.expect("let in");
        // The real file is the one that counts now, with what it refers to beside it.
        fs::write(node.data_dir().join("users"), "postgres\n").expect("our own directory");
        node.settings.pg_hba = vec![
            "host all @users 127.0.0.1/32 trust".to_owned(),
            "host all app 127.0.0.1/32 reject".to_owned(),
        ];
        reload(&node.settings, &Recovery::Primary).await.expect("reloaded");
        node.until_sql("SELECT count(*) FROM pg_hba_file_rules WHERE error IS NOT NULL", "0").await;
        node.sql("SELECT 1").await;
        assert!(refused(&node, &app).await.contains("rejects"));

        // From that file no gate can be made, and PostgreSQL starts without it.
        stop_at_once(&node.settings).await.expect("stopped");
        node.settings.pg_hba.pop();
        node.settings.pg_hba.push("host all app 127.0.0.1/32 trust".to_owned());
        start_gated_primary(&node.settings, PATIENCE).await.expect("started all the same");
        assert_eq!(gate(&node.running().await), Gate::Open);
        node.try_sql(&app, "SELECT 1").await.expect("let in");
        assert!(!beside(&node, ".tenure-gate").is_symlink());
    }
}

#[tokio::test]
async fn a_gate_counts_as_closed_until_postgresql_is_known_to_have_read_its_file() {
    let (mut node, app) = with_application(&bin_dirs()[0]).await;
    start_gated_primary(&node.settings, PATIENCE).await.expect("started");
    // An agent died on the way: the link leads to the real file, and PostgreSQL has heard of nothing.
    let (link, new) = (beside(&node, ".tenure-gate"), beside(&node, ".new"));
    symlink(node.data_dir(), &new).expect("our own directory");
    fs::rename(&new, &link).expect("our own directory");
    assert_eq!(gate(&node.running().await), Gate::Closed);
    assert!(refused(&node, &app).await.contains("rejects"));
    open_gate(&node.settings, PATIENCE).await.expect("opened");
    assert_eq!(gate(&node.running().await), Gate::Open);
    node.try_sql(&app, "SELECT 1").await.expect("let in");

    // A file that PostgreSQL does not take leaves it closed, however often it is tried.
    stop_at_once(&node.settings).await.expect("stopped");
    start_gated_primary(&node.settings, PATIENCE).await.expect("started");
    let real = node.data_dir().join("pg_hba.conf");
    let good = fs::read_to_string(&real).expect("readable");
    fs::write(&real, format!("{good}host all all 127.0.0.1/32 nonsense\n")).expect("our own directory");
    for _ in 0..2 {
        let why = open_gate(&node.settings, PATIENCE).await.expect_err("it is wrong").to_string();
        assert!(why.contains("nonsense"), "{why}");
        assert_eq!(gate(&node.running().await), Gate::Closed);
        assert!(refused(&node, &app).await.contains("rejects"));
    }
    fs::write(&real, good).expect("our own directory");
    open_gate(&node.settings, PATIENCE).await.expect("opened");
    node.try_sql(&app, "SELECT 1").await.expect("let in");
}

#[tokio::test]
async fn whoever_starts_postgresql_by_hand_meets_no_gate() {
    let (mut node, app) = with_application(&bin_dirs()[0]).await;
    start_gated_primary(&node.settings, PATIENCE).await.expect("started");
    assert!(refused(&node, &app).await.contains("rejects"));
    stop_at_once(&node.settings).await.expect("stopped");
    let bin_dir = node.settings.bin_dir.clone().expect("given");
    let mut by_hand = Command::new(bin_dir.join("pg_ctl"));
    by_hand.arg("start").arg("-w").arg("-D").arg(node.data_dir()).arg("-l").arg(&node.settings.log_file);
    if let Some(run_as) = node.settings.run_as {
        by_hand.uid(run_as.uid).gid(run_as.gid);
    }
    let started = by_hand.current_dir("/").status().expect("installed");
    assert!(started.success(), "{}", node.log());
    assert_eq!(gate(&node.running().await), Gate::Open);
    node.try_sql(&app, "SELECT 1").await.expect("let in");

    // A start without a gate leaves nothing of the last one.
    stop_at_once(&node.settings).await.expect("stopped");
    start_primary(&node.settings, PATIENCE).await.expect("started");
    let (postmaster, _) = running_postmaster(node.data_dir()).expect("it runs");
    kill(Pid::from_raw(postmaster.pid), Signal::SIGHUP).expect("it runs");
    node.try_sql(&app, "SELECT 1").await.expect("let in");
    assert!(!beside(&node, ".tenure-gate").is_symlink() && !beside(&node, ".tenure-gate-closed").exists());
}
