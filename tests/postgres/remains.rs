//! What is set aside, and what is left of work that did not end.

use std::path::PathBuf;
use std::process::Command;

use tenure::model::{Postgres, Unfinished};
use tenure::postgres::{Gauge, clone_from, set_aside, start_standby, stop_orderly};

use super::support::{Instance, PATIENCE, bin_dirs};

#[tokio::test]
async fn a_directory_is_set_aside_whole_and_makes_room_for_a_clone() {
    for bin_dir in bin_dirs() {
        let turku = Instance::primary(&bin_dir, "turku").await;
        let mut oulu = Instance::standby_of(&turku, "oulu").await;
        stop_orderly(&oulu.settings, PATIENCE).await.expect("stopped");
        let kept = set_aside(&oulu.settings).await.expect("set aside").expect("something was there");
        assert_eq!(oulu.look().await.postgres, Postgres::Empty);
        assert!(kept.join("PG_VERSION").exists() && kept.join("global/pg_control").exists());
        clone_from(&oulu.settings, turku.address(), PATIENCE, &Gauge::default()).await.expect("cloned");
        start_standby(&oulu.settings, Some(turku.address().clone()), PATIENCE).await.expect("started");
        oulu.until_streaming().await;
    }
}

/// Goes when the test ends, however it ends.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// No disk begins there, so that only the kernel knows that the directory cannot be renamed.
#[tokio::test]
async fn a_directory_of_the_same_disk_that_is_mounted_in_its_place_keeps_its_contents_inside() {
    if !nix::unistd::geteuid().is_root() {
        println!("not run: mounting needs root");
        return;
    }
    let mut node = Instance::new(&bin_dirs()[0], "turku");
    let data_dir = node.settings.data_dir.clone();
    let elsewhere = data_dir.with_file_name("elsewhere");
    for directory in [&data_dir, &elsewhere] {
        std::fs::create_dir(directory).expect("our own directory");
    }
    std::fs::write(elsewhere.join("PG_VERSION"), "15\n").expect("our own directory");
    let mounted = Command::new("mount").arg("--bind").arg(&elsewhere).arg(&data_dir).status();
    assert!(mounted.expect("mount is installed").success());
    let _mounted = Mounted(data_dir.clone());
    let kept = set_aside(&node.settings).await.expect("set aside").expect("something was there");
    assert!(kept.starts_with(&data_dir) && kept.join("PG_VERSION").is_file(), "{}", kept.display());
    assert_eq!(node.look().await.postgres, Postgres::Empty);
}

#[tokio::test]
async fn work_that_ended_before_its_first_file_leaves_nothing_but_its_mark() {
    let mut node = Instance::new(&bin_dirs()[0], "turku");
    let data_dir = node.settings.data_dir.clone();
    let mark = PathBuf::from(format!("{}.tenure-unfinished", data_dir.display()));
    // No process has this number.
    let port = node.settings.port;
    let place = |pid: u32| data_dir.parent().expect("a directory").join(format!("tenure-{pid}-{port}"));
    let (dead, alive) = (place(u32::MAX), place(std::process::id()));
    for private in [&dead, &alive] {
        std::fs::create_dir(private).expect("our own directory");
        std::fs::write(private.join("password"), "secret").expect("our own directory");
    }
    // Somebody's trap: what it points to is not to be touched.
    let (trap, prey) = (place(u32::MAX - 1), data_dir.with_file_name("prey"));
    std::fs::create_dir(&prey).expect("our own directory");
    std::fs::write(prey.join("pg_hba.conf"), "").expect("our own directory");
    std::os::unix::fs::symlink(&prey, &trap).expect("our own directory");
    for begun in [false, true] {
        std::fs::write(&mark, "bootstrap\n").expect("our own directory");
        if begun {
            std::fs::create_dir(&data_dir).expect("our own directory");
        }
        assert_eq!(node.look().await.postgres, Postgres::Unfinished { work: Unfinished::Bootstrap });
        assert_eq!(set_aside(&node.settings).await.expect("nothing hinders it"), None);
        assert_eq!(node.look().await.postgres, Postgres::Empty);
    }
    assert!(!dead.exists() && alive.join("password").exists(), "the password of who died is gone");
    assert!(prey.join("pg_hba.conf").exists(), "links are not followed");
    let beside = std::fs::read_dir(data_dir.parent().expect("a directory")).expect("readable");
    let names = beside.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned());
    assert!(names.into_iter().all(|name| !name.contains("set-aside")), "nothing is kept of nothing");
}
