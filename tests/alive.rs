//! What counts as alive, asked of real servers: whatever keeps a connection waiting or out is not a postmaster that hangs.

#![allow(clippy::disallowed_methods, reason = "a test owns its tasks, and gives up after a while")]

#[expect(dead_code, reason = "others use more of it")]
#[path = "support/postgres.rs"]
mod support;

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{Instance, PATIENCE, bin_dirs, tries};
use tenure::model::{Moment, Postgres, Secret, Span};
use tenure::postgres::{
    Observer, PROBE_FILE, ProbeError, probe_free_bytes, probe_places, probe_write, rewind_from,
    running_postmaster, start_standby, stop_orderly,
};

/// A look shorter than any of the things that it must not be misled by.
const SHORT: Span = Span::from_ms(600);

async fn assert_alive(node: &mut Instance, observer: &mut Observer, why: &str) {
    let seen = observer.look(&node.settings, Moment::from_ms(1), SHORT).await;
    let running = seen.postgres.running().unwrap_or_else(|| panic!("{why}: {seen:?}"));
    assert!(running.is_primary() && running.silent_since.is_none(), "{why}: {seen:?}");
}

#[tokio::test]
async fn locks_on_what_a_connection_needs_are_not_death() {
    for bin_dir in bin_dirs() {
        let mut node = Instance::primary(&bin_dir, "turku").await;
        let mut known = Observer::default();
        assert_alive(&mut node, &mut known, "undisturbed").await;
        for catalog in ["pg_authid", "pg_database", "pg_class", "pg_replication_slots"] {
            let (client, driver) = node.connect(&node.settings.superuser).await.expect("connected");
            let lock = format!("BEGIN; LOCK TABLE pg_catalog.{catalog} IN ACCESS EXCLUSIVE MODE");
            client.batch_execute(&lock).await.expect("a superuser may");
            assert_alive(&mut node, &mut known, catalog).await;
            assert_alive(&mut node, &mut known, catalog).await;
            assert_alive(&mut node, &mut Observer::default(), catalog).await;
            client.batch_execute("ROLLBACK").await.expect("released");
            driver.abort();
        }
        assert_alive(&mut node, &mut known, "afterwards").await;
    }
}

#[tokio::test]
async fn a_login_that_is_refused_is_not_death() {
    for bin_dir in bin_dirs() {
        let mut node = Instance::primary(&bin_dir, "turku").await;
        for password in [None, Some(Secret::new("wrong"))] {
            node.settings.superuser.password = password;
            let mut newcomer = Observer::default();
            assert_alive(&mut node, &mut newcomer, "a wrong password").await;
        }
        node.settings.superuser.username = "nobody-knows".to_owned();
        let mut newcomer = Observer::default();
        assert_alive(&mut node, &mut newcomer, "a name that does not exist").await;
        node.settings.database = "nowhere".to_owned();
        let mut newcomer = Observer::default();
        assert_alive(&mut node, &mut newcomer, "a database that does not exist").await;
    }
}

/// A server that recovers because one of its processes has crashed starts anew under the same postmaster.
#[tokio::test]
async fn a_crashed_server_process_is_a_start_and_not_silence() {
    for bin_dir in bin_dirs() {
        let mut node = Instance::primary(&bin_dir, "turku").await;
        node.running().await;
        let postmaster = running_postmaster(node.data_dir()).expect("it runs").0;
        let (client, driver) = node.connect(&node.settings.superuser).await.expect("connected");
        let backend: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.expect("told").get(0);
        kill(Pid::from_raw(backend), Signal::SIGKILL).expect("sent");
        driver.abort();
        let mut back = false;
        for _ in tries() {
            match node.look().await.postgres {
                Postgres::Running(running) => {
                    // The connection of a look may be among those that the crash has cut.
                    let asked = node.try_sql(&node.settings.superuser, "SELECT 1").await;
                    back = asked.is_ok() && running.silent_since.is_none();
                }
                Postgres::Starting { as_primary, .. } => assert!(as_primary),
                other => panic!("{other:?}"),
            }
            if back {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(back, "it recovers");
        assert_eq!(running_postmaster(node.data_dir()).map(|(found, _)| found), Some(postmaster));
    }
}

/// What the probe leaves in the data directory is copied nowhere and disturbs nobody.
#[tokio::test]
async fn backups_and_rewinds_get_along_with_the_file_of_the_probe() {
    for bin_dir in bin_dirs() {
        let empty = Instance::new(&bin_dir, "vaasa");
        assert!(probe_places(&empty.settings).is_empty(), "before there is data nothing is written");
        let turku = Instance::primary(&bin_dir, "turku").await;
        for place in probe_places(&turku.settings) {
            probe_write(&turku.settings, &place).expect("written");
            probe_write(&turku.settings, &place).expect("written over");
            assert!(probe_free_bytes(&place).is_some_and(|free| 0 < free));
        }
        let probe_file = turku.data_dir().join(PROBE_FILE);
        assert!(probe_file.exists());
        let oulu = Instance::standby_of(&turku, "oulu").await;
        assert!(!oulu.data_dir().join(PROBE_FILE).exists(), "a backup passes it over");

        tenure::postgres::promote(&oulu.settings, tenure::model::Timeline(2), PATIENCE)
            .await
            .expect("promoted");
        tenure::postgres::checkpoint(&oulu.settings, PATIENCE).await.expect("done");
        turku.sql("CREATE TABLE lost (n int)").await;
        stop_orderly(&turku.settings, PATIENCE).await.expect("stopped");
        for place in probe_places(&oulu.settings) {
            probe_write(&oulu.settings, &place).expect("written");
        }
        oulu.make_slot_for(&turku).await;
        rewind_from(&turku.settings, oulu.address(), PATIENCE).await.expect("rewound");
        start_standby(&turku.settings, Some(oulu.address().clone()), PATIENCE).await.expect("started");
        let mut turku = turku;
        turku.until_streaming().await;
        for place in probe_places(&turku.settings) {
            probe_write(&turku.settings, &place).expect("written");
        }
    }
}

#[tokio::test]
async fn a_file_that_may_not_be_written_says_nothing_of_the_disk() {
    let node = Instance::primary(&bin_dirs()[0], "turku").await;
    let path = node.data_dir().join(PROBE_FILE);
    std::os::unix::fs::symlink("/etc/passwd", &path).expect("made");
    let refused = probe_write(&node.settings, node.data_dir());
    assert!(matches!(refused, Err(ProbeError::Ours(_))), "{refused:?}");
}
