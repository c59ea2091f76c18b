//! The PostgreSQL adapter against real servers.

#![allow(clippy::disallowed_methods, reason = "a test owns its tasks, and gives up after a while")]

#[path = "postgres/gate.rs"]
mod gate;
#[path = "postgres/remains.rs"]
mod remains;
#[path = "postgres/slots.rs"]
mod slots;
#[path = "support/postgres.rs"]
mod support;

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{Instance, LOOK, PATIENCE, bin_dirs, tries};
use tenure::model::{ControlState, Lsn, Moment, Postgres, Serving, Span, Timeline, Unfinished};
use tenure::postgres::{
    Error, Gauge, Leftovers, Observer, bootstrap, checkpoint, clone_from, discard_unfinished_clone,
    end_leftovers, follow, kill_completely, list_diverged, promote, rewind_from, running_postmaster,
    set_aside, start_primary, start_standby, stop_at_once, stop_orderly, summarize_diverged, watch_exit,
};

async fn wait() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}

fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).expect("sent");
}

fn postmaster_of(instance: &Instance) -> i32 {
    running_postmaster(instance.data_dir()).expect("it runs").0.pid
}

#[tokio::test]
async fn a_new_cluster_meets_nobody_before_its_leader_starts_it() {
    for bin_dir in bin_dirs() {
        let mut node = Instance::new(&bin_dir, "turku");
        assert_eq!(node.look().await.postgres, Postgres::Empty);
        let told = node.data_dir().with_file_name("told");
        let script = format!("psql -AtX -c \\\"SHOW listen_addresses\\\" -d \\\"$1\\\" > {}", told.display());
        let hook = format!("sh -c \"{script}\" hook");
        node.settings.hooks.post_bootstrap = Some(hook.parse().expect("a command"));
        node.settings.parameters.insert("log_statement".to_owned(), "all".to_owned());
        bootstrap(&node.settings, PATIENCE).await.expect("bootstrapped");

        assert_eq!(std::fs::read_to_string(told).expect("the script ran"), "\n", "it listens nowhere");
        match node.look().await.postgres {
            Postgres::Stopped { control } => {
                assert_eq!(control.state, ControlState::ShutDown);
                assert!(control.rewindable && !control.standby_signal);
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(bootstrap(&node.settings, PATIENCE).await, Err(Error::Refused { .. })), "once only");

        start_primary(&node.settings, PATIENCE).await.expect("started");
        let running = node.running().await;
        assert_eq!(running.version / 10_000, major_of(&node));
        match running.serving {
            Serving::Primary { position, checkpointed, forks } => {
                assert_eq!((position.timeline, checkpointed, forks), (Timeline(1), true, Some(Vec::new())));
                assert!(Lsn::ZERO < position.lsn);
            }
            standby @ Serving::Standby { .. } => panic!("{standby:?}"),
        }
        for login in [&node.settings.superuser, &node.settings.replication] {
            node.try_sql(login, "SELECT 1").await.expect("the password is right");
        }
        let rewinder = node.settings.rewind.clone().expect("set");
        node.try_sql(&rewinder, "SELECT pg_stat_file('PG_VERSION', true)").await.expect("granted");
        assert!(!node.log().contains("secret") && !node.log().contains("SCRAM"), "{}", node.log());
    }
}

fn major_of(node: &Instance) -> u32 {
    let text = std::fs::read_to_string(node.data_dir().join("PG_VERSION")).expect("a version");
    text.trim().parse().expect("a number")
}

#[tokio::test]
async fn a_standby_is_promoted_over_a_gap_and_everybody_finds_back() {
    for bin_dir in bin_dirs() {
        let mut turku = Instance::primary(&bin_dir, "turku").await;
        let mut oulu = Instance::standby_of(&turku, "oulu").await;
        let mut vaasa = Instance::standby_of(&turku, "vaasa").await;
        turku.sql("CREATE TABLE kept (n int); INSERT INTO kept VALUES (1)").await;
        oulu.until_sql("SELECT count(*) FROM kept", "1").await;
        vaasa.until_sql("SELECT count(*) FROM kept", "1").await;
        match oulu.running().await.serving {
            Serving::Standby { timeline, received, replayed, upstream, .. } => {
                assert_eq!((timeline, upstream.as_ref()), (Timeline(1), Some(turku.address())));
                assert!(received.is_some() && replayed.is_some());
                assert!(received <= oulu.look().await.facts.upstream_end, "told by its upstream");
            }
            primary @ Serving::Primary { .. } => panic!("{primary:?}"),
        }
        let replication = turku.look().await.facts.replication;
        assert_eq!(replication.len(), 2);
        assert!(replication.iter().all(|row| row.state == "streaming"), "{replication:?}");

        // The old primary writes what nobody else gets to see, and crashes.
        let nobody = tenure::model::Address { host: "127.0.0.1".to_owned(), port: 1 };
        oulu.make_slot_for(&vaasa).await;
        follow(&vaasa.settings, oulu.address().clone()).await.expect("told");
        // Now vaasa cannot get ahead of oulu any more.
        turku.until_sql("SELECT count(*) FROM pg_stat_replication", "1").await;
        follow(&oulu.settings, nobody).await.expect("told");
        turku.until_sql("SELECT count(*) FROM pg_stat_replication", "0").await;
        turku.sql("INSERT INTO kept SELECT 1000 FROM generate_series(1, 5000)").await;
        stop_at_once(&turku.settings).await.expect("stopped");

        promote(&oulu.settings, Timeline(5), PATIENCE).await.expect("promoted");
        let promoted = oulu.running().await;
        match promoted.serving {
            Serving::Primary { position, forks: Some(forks), .. } => {
                assert_eq!(position.timeline, Timeline(5));
                let parents: Vec<u32> = forks.iter().map(|fork| fork.parent.0).collect();
                assert_eq!(parents, [1, 2, 3, 4]);
                assert!(forks[1..].iter().all(|fork| fork.at == Lsn::ZERO), "nobody led them: {forks:?}");
            }
            other => panic!("{other:?}"),
        }
        oulu.sql("INSERT INTO kept VALUES (2)").await;
        oulu.make_slot_for(&turku).await;
        vaasa.until_sql("SELECT count(*) FROM kept", "2").await;
        assert_eq!(vaasa.until_streaming().await.position().expect("known").timeline, Timeline(5));

        // pg_rewind sees the new timeline only after the checkpoint.
        checkpoint(&oulu.settings, PATIENCE).await.expect("done");
        assert!(matches!(oulu.running().await.serving, Serving::Primary { checkpointed: true, .. }));
        match turku.look().await.postgres {
            Postgres::Stopped { control } => assert_eq!(control.state, ControlState::InProduction),
            other => panic!("{other:?}"),
        }
        let conf = turku.data_dir().join("postgresql.base.conf");
        std::fs::write(&conf, "# of turku\n").expect("written");
        rewind_from(&turku.settings, oulu.address(), PATIENCE).await.expect("rewound");
        assert_eq!(std::fs::read_to_string(&conf).expect("kept"), "# of turku\n");
        let kept = list_diverged(turku.data_dir()).expect("readable");
        let [(place, Some(about))] = kept.as_slice() else { panic!("{kept:?}") };
        let told = summarize_diverged(&bin_dir, place, about, PATIENCE).await.expect("read");
        assert!(told.contains("Transaction"), "{told}");
        assert!(about.from < about.to && 0 < about.bytes && place.join("pg_control").is_file(), "{about:?}");
        start_standby(&turku.settings, Some(oulu.address().clone()), PATIENCE).await.expect("started");
        assert_eq!(turku.until_streaming().await.position().expect("known").timeline, Timeline(5));
        turku.until_sql("SELECT sum(n) FROM kept", "3").await;

        // Its upstream has gone: what timeline it is on is still known. The next leader goes on from there.
        stop_orderly(&oulu.settings, PATIENCE).await.expect("stopped");
        for _ in tries() {
            if matches!(vaasa.running().await.serving, Serving::Standby { streaming: false, .. }) {
                break;
            }
            wait().await;
        }
        vaasa.observer = Observer::default();
        assert_eq!(vaasa.running().await.position().expect("known").timeline, Timeline(5));
        promote(&vaasa.settings, Timeline(6), PATIENCE).await.expect("promoted");
        vaasa.make_slot_for(&turku).await;
        follow(&turku.settings, vaasa.address().clone()).await.expect("told");
        vaasa.sql("INSERT INTO kept VALUES (3)").await;
        turku.until_sql("SELECT sum(n) FROM kept", "6").await;

        // The one that stopped in good order had its last record streamed: it comes back without a rewind.
        match (oulu.look().await.postgres, vaasa.running().await.serving) {
            (Postgres::Stopped { control }, Serving::Primary { forks: Some(forks), position, .. }) => {
                let lineage = tenure::model::Lineage { timeline: position.timeline, ancestors: forks };
                assert_eq!(control.rejoin(&lineage), tenure::model::Rejoin::Start, "{control:?} {lineage:?}");
            }
            other => panic!("{other:?}"),
        }
        vaasa.make_slot_for(&oulu).await;
        start_standby(&oulu.settings, Some(vaasa.address().clone()), PATIENCE).await.expect("started");
        oulu.until_sql("SELECT sum(n) FROM kept", "6").await;
    }
}

#[tokio::test]
async fn a_timeline_that_is_not_free_is_refused_and_nothing_happens() {
    for bin_dir in bin_dirs() {
        let turku = Instance::primary(&bin_dir, "turku").await;
        let mut oulu = Instance::standby_of(&turku, "oulu").await;
        assert!(matches!(promote(&oulu.settings, Timeline(1), PATIENCE).await, Err(Error::Refused { .. })));
        assert!(matches!(promote(&turku.settings, Timeline(2), PATIENCE).await, Err(Error::Refused { .. })));
        oulu.until_streaming().await;
        promote(&oulu.settings, Timeline(2), PATIENCE).await.expect("promoted");
        assert_eq!(oulu.running().await.position().expect("known").timeline, Timeline(2));
    }
}

#[tokio::test]
async fn the_end_of_a_postmaster_is_told_and_what_it_leaves_behind_is_swept_up() {
    for bin_dir in bin_dirs() {
        let mut node = Instance::primary(&bin_dir, "turku").await;
        let (postmaster, _) = running_postmaster(node.data_dir()).expect("it runs");
        let watch = watch_exit(postmaster).expect("watched");
        let (client, driver) = node.connect(&node.settings.superuser).await.expect("connected");
        let backend: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.expect("told").get(0);
        let busy = tokio::spawn(async move { client.simple_query("SELECT pg_sleep(600)").await.is_err() });
        // Frozen, it does not notice that its postmaster has gone, and could finish a commit when it thaws.
        signal(backend, Signal::SIGSTOP);
        signal(postmaster.pid, Signal::SIGKILL);
        watch.ended().await;
        assert!(!postmaster.lives());
        let orphans = node.look().await.leftovers.orphans;
        assert!(!orphans.is_empty());
        end_leftovers(&orphans, PATIENCE).await.expect("ended");
        assert_eq!(node.processes(), Vec::<i32>::new());
        assert!(busy.await.expect("ended"), "its client is told");
        driver.abort();
        let seen = node.look().await;
        assert!(
            matches!(seen.postgres, Postgres::Stopped { .. }) && seen.leftovers == Leftovers::default(),
            "{seen:?}"
        );
        start_primary(&node.settings, PATIENCE).await.expect("started again");
        assert!(node.running().await.is_primary());
    }
}

#[tokio::test]
async fn no_way_to_stop_leaves_a_process() {
    for bin_dir in bin_dirs() {
        let mut node = Instance::primary(&bin_dir, "turku").await;
        stop_orderly(&node.settings, PATIENCE).await.expect("stopped");
        assert_eq!(node.processes(), Vec::<i32>::new());
        match node.look().await.postgres {
            Postgres::Stopped { control } => assert_eq!(control.state, ControlState::ShutDown),
            other => panic!("{other:?}"),
        }

        for way in ["at once", "in good order with a frozen server", "frozen and killed"] {
            start_primary(&node.settings, PATIENCE).await.expect("started");
            let (client, driver) = node.connect(&node.settings.superuser).await.expect("connected");
            let busy =
                tokio::spawn(async move { client.simple_query("SELECT pg_sleep(600)").await.is_err() });
            match way {
                "at once" => stop_at_once(&node.settings).await.expect("stopped"),
                "frozen and killed" => {
                    signal(postmaster_of(&node), Signal::SIGSTOP);
                    kill_completely(&node.settings, PATIENCE).await.expect("killed");
                }
                _ => {
                    signal(postmaster_of(&node), Signal::SIGSTOP);
                    stop_orderly(&node.settings, Span::from_ms(200)).await.expect("stopped");
                }
            }
            assert_eq!(node.processes(), Vec::<i32>::new(), "{way}");
            assert!(busy.await.expect("ended"), "{way}");
            driver.abort();
        }
        stop_orderly(&node.settings, PATIENCE).await.expect("stopped");
        stop_at_once(&node.settings).await.expect("stopped");
    }
}

#[tokio::test]
async fn a_running_server_is_adopted_as_it_is() {
    for bin_dir in bin_dirs() {
        let mut node = Instance::primary(&bin_dir, "turku").await;
        let before = node.look().await;
        let mut other = Observer::default();
        let seen = other.look(&node.settings, Moment::from_ms(1), LOOK).await;
        assert_eq!(seen.postmaster, before.postmaster);
        assert_eq!(seen.postgres.system_id(), before.postgres.system_id());
        assert!(seen.postgres.is_primary());
        assert!(matches!(start_primary(&node.settings, PATIENCE).await, Err(Error::Refused { .. })));
        assert!(matches!(set_aside(&node.settings).await, Err(Error::Refused { .. })));
        assert_eq!(node.look().await.postmaster, before.postmaster, "untouched");
    }
}

#[tokio::test]
async fn a_server_without_free_connections_is_alive() {
    for bin_dir in bin_dirs() {
        let mut node = Instance::new(&bin_dir, "turku");
        node.settings.parameters.insert("max_connections".to_owned(), "25".to_owned());
        bootstrap(&node.settings, PATIENCE).await.expect("bootstrapped");
        start_primary(&node.settings, PATIENCE).await.expect("started");
        let position = node.running().await.position().expect("known");
        let mut taken = Vec::new();
        for _ in 0..60 {
            match node.connect(&node.settings.superuser).await {
                Ok(connection) => taken.push(connection),
                Err(error) => {
                    assert_eq!(
                        error.code().map(tokio_postgres::error::SqlState::code),
                        Some("53300"),
                        "{error}"
                    );
                    break;
                }
            }
        }
        assert!(taken.len() < 60, "it never got full");
        let running = node.running().await;
        assert!(running.is_primary() && running.silent_since.is_none());
        assert!(position <= running.position().expect("known"), "the kept connection still tells");

        let mut newcomer = Observer::default();
        let seen = newcomer.look(&node.settings, Moment::from_ms(1), LOOK).await;
        let running = seen.postgres.running().expect("it runs");
        assert!(running.is_primary() && running.silent_since.is_none(), "{seen:?}");
        assert!(seen.complaint.is_some());
    }
}

#[tokio::test]
async fn a_frozen_postmaster_is_silent_until_it_goes_on() {
    for bin_dir in bin_dirs() {
        let mut node = Instance::primary(&bin_dir, "turku").await;
        assert_eq!(node.running().await.silent_since, None);
        signal(postmaster_of(&node), Signal::SIGSTOP);
        let look = |at| (Moment::from_ms(at), Span::from_ms(300));
        for at in [1000, 2000] {
            let (now, patience) = look(at);
            let seen = node.observer.look(&node.settings, now, patience).await;
            let running = seen.postgres.running().expect("it runs").clone();
            assert!(running.is_primary());
            assert_eq!(running.silent_since, Some(Moment::from_ms(1000)), "since the first time");
        }
        signal(postmaster_of(&node), Signal::SIGCONT);
        assert_eq!(node.running().await.silent_since, None);
    }
}

#[tokio::test]
async fn a_standby_that_cannot_reach_its_upstream_goes_on_starting() {
    for bin_dir in bin_dirs() {
        let turku = Instance::primary(&bin_dir, "turku").await;
        let mut oulu = Instance::new(&bin_dir, "oulu");
        clone_from(&oulu.settings, turku.address(), PATIENCE, &Gauge::default()).await.expect("cloned");
        turku.make_slot_for(&oulu).await;
        match oulu.look().await.postgres {
            Postgres::Stopped { control } => {
                assert!(control.backup_label && !control.was_primary(), "{control:?}");
            }
            other => panic!("{other:?}"),
        }
        // It must first be given WAL that only its source has.
        std::fs::remove_dir_all(oulu.data_dir().join("pg_wal")).expect("removed");
        std::fs::create_dir(oulu.data_dir().join("pg_wal")).expect("made");
        give_to_owner_of(oulu.data_dir(), &oulu.data_dir().join("pg_wal"));
        let nobody = tenure::model::Address { host: "127.0.0.1".to_owned(), port: 1 };
        let started = start_standby(&oulu.settings, Some(nobody), Span::from_secs(2)).await.expect("it runs");
        assert!(!started.accepting);
        match oulu.look().await.postgres {
            Postgres::Starting { as_primary, .. } => assert!(!as_primary),
            other => panic!("{other:?}"),
        }
        follow(&oulu.settings, turku.address().clone()).await.expect("told");
        oulu.until_streaming().await;
    }
}

fn give_to_owner_of(model: &std::path::Path, path: &std::path::Path) {
    use std::os::unix::fs::{MetadataExt, chown};
    let metadata = std::fs::metadata(model).expect("there");
    chown(path, Some(metadata.uid()), Some(metadata.gid())).expect("given");
}

#[tokio::test]
async fn a_clone_that_did_not_end_is_never_started_and_leaves_nothing() {
    for bin_dir in bin_dirs() {
        let turku = Instance::primary(&bin_dir, "turku").await;
        let mut oulu = Instance::new(&bin_dir, "oulu");
        let nobody = tenure::model::Address { host: "127.0.0.1".to_owned(), port: 1 };
        let failure =
            clone_from(&oulu.settings, &nobody, PATIENCE, &Gauge::default()).await.expect_err("nobody there");
        assert!(failure.to_string().starts_with("clone from 127.0.0.1:1: "), "{failure}");
        assert_eq!(oulu.look().await.postgres, Postgres::Empty);

        let begun = oulu.data_dir().join("backup_label");
        let slow = oulu.settings.clone();
        let slow = tenure::postgres::InstanceSettings {
            basebackup: vec![tenure::postgres::ProgramOption::value("max-rate", "1M")],
            ..slow
        };
        let gauge = Gauge::default();
        tokio::select! {
            outcome = clone_from(&slow, turku.address(), PATIENCE, &gauge) => panic!("it ended: {outcome:?}"),
            () = async { while !begun.exists() { wait().await } } => {}
        }
        assert_eq!(oulu.look().await.postgres, Postgres::Unfinished { work: Unfinished::Clone });
        let refused = start_primary(&oulu.settings, PATIENCE).await.expect_err("not whole");
        assert!(refused.to_string().contains("a clone has not ended here"), "{refused}");
        discard_unfinished_clone(&oulu.settings).await.expect("discarded");
        assert_eq!(oulu.look().await.postgres, Postgres::Empty);
        clone_from(&oulu.settings, turku.address(), PATIENCE, &Gauge::default()).await.expect("cloned");
    }
}

#[tokio::test]
async fn a_rewind_that_cannot_begin_leaves_the_directory_as_it_was() {
    for bin_dir in bin_dirs() {
        let mut node = Instance::primary(&bin_dir, "turku").await;
        stop_at_once(&node.settings).await.expect("stopped");
        let nobody = tenure::model::Address { host: "127.0.0.1".to_owned(), port: 1 };
        assert!(matches!(rewind_from(&node.settings, &nobody, PATIENCE).await, Err(Error::Failed { .. })));
        assert!(matches!(node.look().await.postgres, Postgres::Stopped { .. }), "no mark, and recovered");
        start_primary(&node.settings, PATIENCE).await.expect("started");
    }
}

#[tokio::test]
async fn a_parameter_that_postgresql_does_not_take_is_left_out_with_a_sentence() {
    for bin_dir in bin_dirs() {
        let mut node = Instance::primary(&bin_dir, "turku").await;
        stop_orderly(&node.settings, PATIENCE).await.expect("stopped");
        for (name, value) in [("no_such_thing", "1"), ("work_mem", "a lot"), ("port", "1"), ("geqo", "off")] {
            node.settings.parameters.insert(name.to_owned(), value.to_owned());
        }
        let started = start_primary(&node.settings, PATIENCE).await.expect("started");
        assert_eq!(started.complaints.len(), 2, "{:?}", started.complaints);
        assert_eq!(node.sql("SHOW geqo").await, ["off"]);
        node.settings.parameters.insert("max_connections".to_owned(), "50".to_owned());
        node.settings.parameters.insert("shared_buffers".to_owned(), "4MB".to_owned());
        tenure::postgres::reload(&node.settings, &tenure::postgres::Recovery::Primary).await.expect("told");
        let mut pending = serde_json::Value::Null;
        for _ in tries() {
            pending = node.look().await.facts.pending_restart.unwrap_or_default();
            if pending.get("shared_buffers").is_some() {
                break;
            }
            wait().await;
        }
        assert_eq!(pending["max_connections"]["new_value"], "50", "{pending}");
        assert_eq!(pending["shared_buffers"]["new_value"], "4MB", "{pending}");
    }
}

#[tokio::test]
async fn a_server_that_cannot_start_says_why() {
    for bin_dir in bin_dirs() {
        let node = Instance::primary(&bin_dir, "turku").await;
        stop_orderly(&node.settings, PATIENCE).await.expect("stopped");
        std::fs::remove_dir_all(node.data_dir().join("pg_wal")).expect("removed");
        let failure = start_primary(&node.settings, PATIENCE).await.expect_err("no WAL");
        assert!(failure.to_string().contains("pg_wal"), "{failure}");
    }
}

#[tokio::test]
async fn a_stand_in_that_came_to_nothing_keeps_no_standby_from_following() {
    for bin_dir in bin_dirs() {
        let turku = Instance::primary(&bin_dir, "turku").await;
        let mut oulu = Instance::standby_of(&turku, "oulu").await;
        let stand_in = |number: u32| oulu.data_dir().join(format!("pg_wal/{number:08X}.history"));
        for number in [2, 3] {
            std::fs::write(stand_in(number), "1\t0/100\ttenure: claimed and never led\n").expect("written");
            give_to_owner_of(oulu.data_dir(), &stand_in(number));
        }
        let files = [stand_in(2), stand_in(3)];
        // It looks for new timelines whenever its connection breaks.
        turku.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_replication").await;
        turku.sql("CREATE TABLE later (n int)").await;
        oulu.until_sql("SELECT count(*) FROM pg_class WHERE relname = 'later'", "1").await;

        stop_orderly(&oulu.settings, PATIENCE).await.expect("stopped");
        let started = start_standby(&oulu.settings, Some(turku.address().clone()), PATIENCE).await;
        assert!(started.expect("started").accepting);
        assert_eq!(oulu.until_streaming().await.position().expect("known").timeline, Timeline(1));
        assert!(files.iter().all(|file| !file.exists()), "nobody began a timeline after them");
    }
}
