//! The guardian with real processes: stand-ins for a postmaster and its children, and a real PostgreSQL.

#![allow(clippy::disallowed_methods, reason = "a test owns its tasks, and gives up after a while")]

#[path = "fence/database.rs"]
mod database;
#[path = "fence/stage.rs"]
mod stage;
#[path = "fence/watchdog.rs"]
mod watchdog;
#[path = "support/watchdog_device.rs"]
mod watchdog_device;

use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use database::Database;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, recv, send, socket};
use nix::unistd::Pid;
use stage::{Cgroup, FAR, GUARDIAN, Instance, SOON, killed, lives, now, process, standing_in, state, until};
use tenure::fence::{Error, Guardian, LeaseLink, Means, Refusal, Refused, Settings, State, Target, Why};
use tenure::model::{Moment, Span, Term};

#[tokio::test]
async fn when_the_deadline_passes_everything_dies_and_nobody_else() {
    let mut instance = Instance::new();
    let guardian = instance.guardian().await;
    let tree = instance.tree().await;
    let target = tree.target();
    let bystander = instance.spawn(Command::new("sleep").arg("605"));
    let elsewhere = instance.dir.path().to_owned();
    let other_postgres = instance.stray("postgres", &elsewhere);

    let fence_at = now() + SOON;
    let status = guardian.arm(Term(7), fence_at, Some(&target)).await.expect("armed");
    assert_eq!(status.standing.postmaster, target.postmaster);
    let report = killed(&guardian).await;

    assert!(tree.none_lives());
    assert!(lives(bystander) && lives(other_postgres));
    assert_eq!((report.term, report.why, report.means), (Term(7), Why::Deadline, Means::Tree));
    assert_eq!((report.fence_at, report.processes), (fence_at, 5));
    assert!(fence_at <= report.began_at && report.began_at <= report.ended_at.expect("complete"));

    let status = guardian.status().await.expect("it answers");
    assert_eq!(status.standing.state, State::Fenced { term: Term(7), fence_at });
    assert_eq!(status.standing.allocations, 0);
    assert_eq!(guardian.acknowledge(&report).await.expect("taken").report, None);
}

#[tokio::test]
async fn a_deadline_that_is_moved_forward_in_time_harms_nobody() {
    let mut instance = Instance::new();
    let guardian = instance.guardian().await;
    let tree = instance.tree().await;
    let first = now() + SOON.times(3);
    guardian.arm(Term(7), first, Some(&tree.target())).await.expect("armed");
    let mut link = LeaseLink::new(instance.settings.socket.clone(), Span::from_secs(1));
    let later = first + FAR;
    let standing = link.send_arm(Term(7), later).expect("taken");
    assert_eq!(standing.state, State::Armed { term: Term(7), fence_at: later });
    until("the first deadline is long past", async || first + SOON < now()).await;
    assert_eq!(state(&guardian).await, State::Armed { term: Term(7), fence_at: later });
    assert!(tree.all_live());
    assert_eq!(guardian.status().await.expect("it answers").standing.allocations, 0);
}

/// Not a test of its own: what the next one starts as an agent, to kill it.
#[tokio::test]
async fn an_agent_for_another_test() {
    let Ok(socket) = std::env::var("TENURE_TEST_SOCKET") else { return };
    let number = |name: &str| std::env::var(name).expect("told").parse::<u64>().expect("a number");
    let socket = PathBuf::from(socket);
    let data_dir = socket.with_file_name("data");
    let settings = Settings { socket, data_dir, binary: Some(GUARDIAN.into()) };
    let guardian = Guardian::ensure(&settings).await.expect("a guardian");
    let pid = i32::try_from(number("TENURE_TEST_PID")).expect("a pid");
    let target = Target { postmaster: Some(process(pid)), cgroup: None };
    let fence_at = Moment::from_ms(number("TENURE_TEST_FENCE_AT"));
    guardian.arm(Term(7), fence_at, Some(&target)).await.expect("armed");
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn the_guardian_outlives_its_agent_and_still_kills() {
    let mut instance = Instance::new();
    let tree = instance.tree().await;
    let fence_at = now() + Span::from_secs(4);
    let mut command = Command::new(std::env::current_exe().expect("ourselves"));
    command
        .args(["--exact", "an_agent_for_another_test", "--nocapture"])
        .env("TENURE_TEST_SOCKET", &instance.settings.socket)
        .env("TENURE_TEST_PID", tree.postmaster.to_string())
        .env("TENURE_TEST_FENCE_AT", fence_at.as_ms().to_string())
        .stdout(Stdio::null())
        .process_group(0);
    let agent = instance.spawn(&mut command);
    let armed = State::Armed { term: Term(7), fence_at };
    let mut found = None;
    until("the agent has armed its guardian", async || {
        found = Guardian::connect(&instance.settings).await.ok();
        match &found {
            Some(guardian) => state(guardian).await == armed,
            None => false,
        }
    })
    .await;
    let guardian = found.expect("waited for");
    instance.started.extend(guardian.pid());

    // The whole group, as a terminal or a careless script would do it.
    kill(Pid::from_raw(-agent), Signal::SIGKILL).expect("killed");
    until("the agent is dead", async || !lives(agent)).await;

    let report = killed(&guardian).await;
    assert_eq!((report.why, report.processes), (Why::Deadline, 5));
    assert!(tree.none_lives());
}

#[tokio::test]
async fn what_an_agent_says_too_late_is_refused() {
    let mut instance = Instance::new();
    let guardian = instance.guardian().await;
    let refusal = |result: Result<_, Error>| match result {
        Err(Error::Refused { because, .. }) => because,
        other => panic!("not refused: {other:?}"),
    };
    let in_force = now() + FAR;
    assert_eq!(refusal(guardian.arm(Term(7), now() - SOON, None).await), Refusal::Past);
    guardian.arm(Term(7), in_force, None).await.expect("armed");
    assert_eq!(refusal(guardian.arm(Term(7), in_force - SOON, None).await), Refusal::EarlierDeadline);
    assert_eq!(refusal(guardian.arm(Term(6), in_force + FAR, None).await), Refusal::OlderTerm);
    assert_eq!(refusal(guardian.disarm(Term(6)).await), Refusal::OlderTerm);
    assert_eq!(refusal(guardian.fence(Term(8)).await), Refusal::NotArmed);
    let mut link = LeaseLink::new(instance.settings.socket.clone(), Span::from_secs(1));
    match link.send_arm(Term(6), in_force + FAR) {
        Err(Refused::Refused { because: Refusal::OlderTerm, standing }) => {
            assert_eq!(standing.state, State::Armed { term: Term(7), fence_at: in_force });
        }
        other => panic!("not refused: {other:?}"),
    }
    assert_eq!(state(&guardian).await, State::Armed { term: Term(7), fence_at: in_force });
}

#[tokio::test]
async fn there_is_only_one_guardian_and_its_death_is_noticed() {
    let mut instance = Instance::new();
    let guardian = instance.guardian().await;
    let pid = guardian.pid().expect("known");
    let second = Command::new(GUARDIAN)
        .args(["--socket".as_ref(), instance.settings.socket.as_os_str()])
        .args(["--data-dir".as_ref(), instance.settings.data_dir.as_os_str()])
        .output()
        .expect("started");
    assert_eq!(second.status.code(), Some(3));
    let said = String::from_utf8(second.stderr).expect("text");
    assert!(said.contains(&format!("pid {pid}")), "{said}");

    let same = Guardian::ensure(&instance.settings).await.expect("the one that is there");
    assert_eq!(same.pid(), Some(pid));
    let mut link = LeaseLink::new(instance.settings.socket.clone(), Span::from_secs(1));
    link.send_arm(Term(7), now() + FAR).expect("taken");

    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("killed");
    tokio::time::timeout(Duration::from_secs(30), guardian.gone()).await.expect("noticed");
    assert!(matches!(guardian.status().await, Err(Error::Absent { .. })));
    let next = instance.guardian().await;
    assert_ne!(next.pid(), Some(pid));
    assert_eq!(state(&next).await, State::Idle);
    // The thread that renews the lease finds the new one by itself.
    link.send_arm(Term(7), now() + FAR).expect("taken");
}

#[tokio::test]
async fn stopping_the_unit_never_leaves_a_primary_without_its_guardian() {
    let mut instance = Instance::new();
    let guardian = instance.guardian().await;
    let pid = Pid::from_raw(guardian.pid().expect("known"));
    let fence_at = now() + FAR;
    guardian.arm(Term(7), fence_at, None).await.expect("armed");
    for signal in [Signal::SIGHUP, Signal::SIGTERM, Signal::SIGINT, Signal::SIGUSR1, Signal::SIGTERM] {
        kill(pid, signal).expect("sent");
        assert_eq!(state(&guardian).await, State::Armed { term: Term(7), fence_at });
    }
    guardian.disarm(Term(7)).await.expect("disarmed");
    tokio::time::timeout(Duration::from_secs(30), guardian.gone()).await.expect("stopped");
    until("the socket is taken away", async || !instance.settings.socket.exists()).await;
}

#[tokio::test]
async fn whoever_stands_in_the_data_directory_is_found_without_being_told_and_may_not_return() {
    let mut instance = Instance::new();
    let guardian = instance.guardian().await;
    let data_dir = instance.settings.data_dir.clone();
    let first = instance.stray("postgres", &data_dir);
    // An operator's shell is no PostgreSQL.
    let shell = instance.spawn(Command::new("sleep").arg("606").current_dir(&data_dir));
    guardian.arm(Term(7), now() + SOON, None).await.expect("armed");
    assert_eq!(killed(&guardian).await.processes, 1);
    assert!(!lives(first));

    // A start that was under way when the term ran out ends no better.
    let second = instance.stray("postgres", &data_dir);
    until("it is killed again", async || !lives(second)).await;
    assert_eq!(killed(&guardian).await.why, Why::Returned);

    guardian.disarm(Term(7)).await.expect("disarmed");
    let standby = instance.stray("postgres", &data_dir);
    let disarmed_at = now();
    until("the guardian would have looked", async || disarmed_at + SOON < now()).await;
    assert!(lives(standby) && lives(shell));
    assert_eq!(guardian.status().await.expect("it answers").standing.allocations, 0);
}

#[tokio::test]
async fn the_pid_file_is_the_last_resort_and_is_not_believed_blindly() {
    let mut instance = Instance::new();
    let guardian = instance.guardian().await;
    let data_dir = instance.settings.data_dir.clone();
    let elsewhere = instance.dir.path().to_owned();
    let pid_file = data_dir.join("postmaster.pid");

    // Left over from before a crash, and the number is somebody else's now.
    let innocent = instance.stray("strangely_named", &elsewhere);
    std::fs::write(&pid_file, format!("{innocent}\n/data\n")).expect("written");
    guardian.arm(Term(7), now() + SOON, None).await.expect("armed");
    assert_eq!(killed(&guardian).await.processes, 0);
    assert!(lives(innocent));

    let postmaster = instance.stray("strangely_named", &data_dir);
    std::fs::write(&pid_file, format!("{postmaster}\n/data\n")).expect("written");
    guardian.arm(Term(8), now() + SOON, None).await.expect("armed");
    until("it is killed", async || !lives(postmaster)).await;
    assert_eq!(killed(&guardian).await.processes, 1);
}

#[tokio::test]
async fn processes_that_are_started_during_the_kill_do_not_escape_it() {
    let mut instance = Instance::new();
    let guardian = instance.guardian().await;
    let mark = instance.dir.path().join("started");
    // Like backends that run programs: sessions of their own, and children that come and go.
    let script = r#"
        for each in 1 2 3 4; do setsid sh -c 'while :; do echo >> "$MARK"; sleep 0.002; done' & done
        while :; do sleep 0.003; done
    "#;
    let mut command = Command::new("sh");
    command.args(["-c", script]).env("MARK", &mark).process_group(0);
    command.current_dir(&instance.settings.data_dir);
    let postmaster = instance.spawn(&mut command);
    until("they are busy", async || std::fs::read(&mark).is_ok_and(|marks| marks.len() > 40)).await;
    let target = Target { postmaster: Some(process(postmaster)), cgroup: None };
    guardian.arm(Term(7), now() + SOON, Some(&target)).await.expect("armed");
    assert!(killed(&guardian).await.processes >= 5);
    assert_eq!(standing_in(&instance.settings.data_dir), Vec::<i32>::new());
}

#[tokio::test]
async fn a_guardian_that_hangs_keeps_nobody_waiting() {
    let mut instance = Instance::new();
    let guardian = instance.guardian().await;
    let pid = Pid::from_raw(guardian.pid().expect("known"));
    let mut link = LeaseLink::new(instance.settings.socket.clone(), Span::from_ms(50));
    link.send_arm(Term(7), now() + FAR).expect("taken");
    kill(pid, Signal::SIGSTOP).expect("stopped");
    // More than may wait at the door.
    for _ in 0..3 {
        assert!(matches!(guardian.status().await, Err(Error::Unanswered(_))));
    }
    for _ in 0..100 {
        assert!(matches!(link.send_arm(Term(7), now() + FAR), Err(Refused::Unanswered(_))));
    }
    kill(pid, Signal::SIGCONT).expect("continued");
    until("it answers again", async || guardian.status().await.is_ok()).await;
    link.send_arm(Term(7), now() + FAR).expect("taken");
}

#[tokio::test]
async fn a_crowd_waits_outside_and_those_inside_are_served() {
    let mut instance = Instance::new();
    let guardian = instance.guardian().await;
    let socket = instance.settings.socket.clone();
    let mut inside = Vec::new();
    loop {
        let mut link = LeaseLink::new(socket.clone(), Span::from_ms(500));
        match link.send_arm(Term(7), now() + FAR) {
            Ok(_) => inside.push(link),
            Err(Refused::Unanswered(_)) => break,
            Err(refused) => panic!("{refused}"),
        }
        assert!(inside.len() < 100, "everybody was let in");
    }
    for link in &mut inside {
        link.send_arm(Term(7), now() + FAR).expect("taken");
    }
    drop(inside);
    until("there is room again", async || guardian.status().await.is_ok()).await;
}

#[tokio::test]
async fn an_agent_can_ask_for_the_kill_itself() {
    let mut instance = Instance::new();
    let guardian = instance.guardian().await;
    let tree = instance.tree().await;
    guardian.arm(Term(7), now() + FAR, None).await.expect("armed");
    guardian.aim(&tree.target()).await.expect("told");
    guardian.fence(Term(7)).await.expect("begun");
    assert_eq!(killed(&guardian).await.why, Why::Ordered);
    assert!(tree.none_lives());
}

#[tokio::test]
async fn strangers_are_turned_away() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let mut instance = Instance::new();
    let guardian = instance.guardian().await;
    let open_to_all = |path: &Path| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).expect("changed");
    };
    open_to_all(instance.dir.path());
    open_to_all(&instance.settings.socket);
    let socket_path = instance.settings.socket.clone();
    let answer = std::thread::spawn(move || {
        // SAFETY: the bare system call changes this thread only, which ends right after.
        unsafe { nix::libc::syscall(nix::libc::SYS_setresuid, 65534, 65534, 65534) };
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::empty(), None).expect("a socket");
        connect(fd.as_raw_fd(), &UnixAddr::new(&socket_path).expect("a path")).expect("the file lets us");
        let flags = nix::sys::socket::MsgFlags::MSG_NOSIGNAL;
        let _ = send(fd.as_raw_fd(), b"tenure-fence/1 status", flags);
        recv(fd.as_raw_fd(), &mut [0; 100], flags)
    })
    .join()
    .expect("no panic");
    assert!(matches!(answer, Ok(0) | Err(_)), "{answer:?}");
    assert_eq!(state(&guardian).await, State::Idle);
}

#[tokio::test]
async fn a_control_group_dies_as_a_whole() {
    let Some(cgroup) = Cgroup::make() else {
        eprintln!("skipped: no control groups of version 2 with cgroup.kill here");
        return;
    };
    let mut instance = Instance::new();
    let guardian = instance.guardian().await;
    let tree = instance.tree().await;
    tree.pids.iter().for_each(|pid| cgroup.add(*pid));
    // Related to nobody, and still in the group.
    let loner = instance.spawn(Command::new("sleep").arg("607"));
    cgroup.add(loner);
    let target = Target { postmaster: None, cgroup: Some(cgroup.path()) };
    let status = guardian.arm(Term(7), now() + SOON, Some(&target)).await.expect("armed");
    assert_eq!(status.standing.means, Means::Cgroup);
    let report = killed(&guardian).await;
    assert_eq!((report.means, report.processes), (Means::Cgroup, 6));
    assert!(tree.none_lives() && !lives(loner));
    assert_eq!(guardian.status().await.expect("it answers").standing.allocations, 0);
}

#[tokio::test]
async fn a_control_group_that_was_made_anew_is_found_again() {
    let Some(cgroup) = Cgroup::make() else { return };
    let mut instance = Instance::new();
    let guardian = instance.guardian().await;
    let target = Target { postmaster: None, cgroup: Some(cgroup.path()) };
    guardian.arm(Term(7), now() + SOON, Some(&target)).await.expect("armed");
    std::fs::remove_dir(&cgroup.0).expect("removed");
    std::fs::create_dir(&cgroup.0).expect("made anew");
    let member = instance.spawn(Command::new("sleep").arg("608"));
    cgroup.add(member);
    until("it is killed", async || !lives(member)).await;
    assert_eq!(killed(&guardian).await.means, Means::Cgroup);
}

#[tokio::test]
async fn a_control_group_that_holds_the_guardian_is_refused() {
    let Some(cgroup) = Cgroup::make() else { return };
    let mut instance = Instance::new();
    let guardian = instance.guardian().await;
    let mount = cgroup.0.parent().expect("a mount point").to_str().expect("UTF-8").to_owned();
    for path in [mount, format!("{}/..", cgroup.path())] {
        let target = Target { postmaster: None, cgroup: Some(path) };
        let refused = guardian.arm(Term(7), now() + FAR, Some(&target)).await;
        assert!(matches!(refused, Err(Error::Refused { because: Refusal::OwnCgroup, .. })), "{refused:?}");
    }
}

#[tokio::test]
async fn a_postmaster_killed_alone_leaves_a_backend_that_acknowledges_its_commit() {
    let instance = Instance::new();
    let database = Database::make(&instance);
    let postmaster = database.start();
    let commit = database.commit_at_the_gate().await;
    kill(Pid::from_raw(postmaster), Signal::SIGKILL).expect("killed");
    until("the postmaster is dead", async || !lives(postmaster)).await;
    database.open_the_gate();
    let acknowledged = commit.await.expect("no panic");
    assert!(acknowledged, "the backend did not outlive its postmaster: what is the guardian for?");
    until("the others have noticed", async || database.processes().is_empty()).await;
}

async fn no_commit_is_acknowledged_after_the_kill(cgroup: Option<&Cgroup>) {
    let mut instance = Instance::new();
    let guardian = instance.guardian().await;
    let database = Database::make(&instance);
    let postmaster = database.start();
    let commit = database.commit_at_the_gate().await;
    if let Some(cgroup) = cgroup {
        database.processes().into_iter().for_each(|pid| cgroup.add(pid));
    }
    let target = Target { postmaster: Some(process(postmaster)), cgroup: cgroup.map(Cgroup::path) };
    guardian.arm(Term(7), now() + SOON, Some(&target)).await.expect("armed");

    let report = killed(&guardian).await;
    assert_eq!(report.means, if cgroup.is_some() { Means::Cgroup } else { Means::Tree });
    assert!(report.processes > 5, "{report:?}");
    assert_eq!(database.processes(), Vec::<i32>::new());
    database.open_the_gate();
    assert!(!commit.await.expect("no panic"), "acknowledged after the kill");

    guardian.disarm(Term(7)).await.expect("disarmed");
    database.gone(postmaster).await;
    let again = database.start();
    let client = database.connect().await;
    let rows = client.query_one("SELECT count(*) FROM work", &[]).await.expect("an answer");
    assert_eq!(rows.get::<_, i64>(0), 0, "committed although nobody was told so");
    // An agent that died before it could tell the guardian of the new postmaster.
    guardian.arm(Term(8), now() + SOON, None).await.expect("armed");
    until("the new one is dead", async || !lives(again)).await;
    assert_eq!(killed(&guardian).await.term, Term(8));
    assert_eq!(guardian.status().await.expect("it answers").standing.allocations, 0);
}

#[tokio::test]
async fn no_commit_is_acknowledged_after_the_guardian_has_killed_process_by_process() {
    no_commit_is_acknowledged_after_the_kill(None).await;
}

#[tokio::test]
async fn no_commit_is_acknowledged_after_the_guardian_has_killed_the_control_group() {
    let Some(cgroup) = Cgroup::make() else {
        eprintln!("skipped: no control groups of version 2 with cgroup.kill here");
        return;
    };
    no_commit_is_acknowledged_after_the_kill(Some(&cgroup)).await;
}

#[test]
fn the_guardian_explains_itself() {
    let mut help = String::new();
    let mut child = Command::new(GUARDIAN).arg("--help").stdout(Stdio::piped()).spawn().expect("started");
    child.stdout.take().expect("piped").read_to_string(&mut help).expect("read");
    assert!(child.wait().expect("waited").success());
    assert!(help.contains("--data-dir"));
    let status = Command::new(GUARDIAN).stderr(Stdio::null()).status().expect("run");
    assert_eq!(status.code(), Some(2));
}
