//! The third ring: a watchdog device behind the guardian. The device is served over FUSE; its "reset" is noted, or kills.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tenure::fence::{Guardian, State, Watch, Why};
use tenure::model::{Span, Term, Timing, Watchdog, WatchdogFailure, WatchdogTimes};

use super::stage::{FAR, Instance, Tree, killed, lives, now, state, until};
use super::watchdog_device::{Happening, Manners, WatchdogDevice};

/// A device in the instance's directory, and how often it has fired.
fn device(instance: &Instance, manners: Manners) -> Option<(WatchdogDevice, Arc<AtomicU32>)> {
    if !WatchdogDevice::available() {
        eprintln!("skipped: a device over FUSE needs root and /dev/fuse");
        return None;
    }
    let resets = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&resets);
    let path = instance.dir.path().join("watchdog");
    let device = WatchdogDevice::serve(&path, manners, move || {
        counted.fetch_add(1, Ordering::Relaxed);
    });
    Some((device, resets))
}

fn timing() -> Timing {
    Timing::for_ttl(Span::from_secs(5))
}

fn watch(device: &WatchdogDevice) -> Watch {
    Watch { device: device.path.display().to_string(), times: WatchdogTimes::of(&timing(), -1) }
}

const TIMEOUT: Span = Span::from_secs(2);

async fn says(guardian: &Guardian, wanted: Watchdog) {
    until(&format!("the guardian says {wanted}"), async || {
        guardian.status().await.is_ok_and(|status| status.standing.watchdog == wanted)
    })
    .await;
}

async fn ready(guardian: &Guardian, device: &WatchdogDevice) {
    guardian.watch(Some(&watch(device))).await.expect("told");
    says(guardian, Watchdog::Ready { timeout: TIMEOUT }).await;
}

async fn armed(guardian: &Guardian, device: &WatchdogDevice, tree: &Tree) {
    ready(guardian, device).await;
    guardian.arm(Term(7), now() + FAR, Some(&tree.target())).await.expect("armed");
    says(guardian, Watchdog::Armed { timeout: TIMEOUT, stays: false }).await;
}

#[tokio::test]
async fn a_device_is_tried_out_used_while_armed_and_let_go_with_the_magic_close() {
    let mut instance = Instance::new();
    let Some((device, resets)) = device(&instance, Manners::default()) else { return };
    let guardian = instance.guardian().await;
    let tree = instance.tree().await;
    ready(&guardian, &device).await;
    assert!(!device.runs() && !device.is_open(), "nothing is to be guarded yet");
    guardian.arm(Term(7), now() + FAR, Some(&tree.target())).await.expect("armed");
    says(&guardian, Watchdog::Armed { timeout: TIMEOUT, stays: false }).await;
    assert!(device.runs() && device.count(Happening::TimeoutSet(2)) == 2);
    let before = device.count(Happening::Fed);
    until("it is fed again and again", async || before + 3 < device.count(Happening::Fed)).await;
    guardian.disarm(Term(7)).await.expect("disarmed");
    says(&guardian, Watchdog::Ready { timeout: TIMEOUT }).await;
    until("it is closed", async || !device.is_open()).await;
    assert!(!device.runs() && device.count(Happening::ClosedRunning) == 0);
    assert_eq!(resets.load(Ordering::Relaxed), 0);
    assert_eq!(guardian.status().await.expect("it answers").standing.allocations, 0);
}

/// The law: the last feeding comes so early that the device would fire by the deadline, and not before the kill has had its time.
#[tokio::test]
async fn it_is_fed_for_a_deadline_only_as_long_as_it_would_still_fire_in_time() {
    let mut instance = Instance::new();
    let Some((device, resets)) = device(&instance, Manners::default()) else { return };
    let guardian = instance.guardian().await;
    let tree = instance.tree().await;
    ready(&guardian, &device).await;
    let fence_at = now() + Span::from_secs(4);
    guardian.arm(Term(7), fence_at, Some(&tree.target())).await.expect("armed");
    let deadline = fence_at + timing().kill_budget;
    let mut would_fire = Vec::new();
    let report = loop {
        would_fire.extend(device.fires_at());
        let status = guardian.status().await.expect("it answers");
        if let Some(report) = status.report.filter(|report| report.ended_at.is_some()) {
            break report;
        }
    };
    let last = would_fire.iter().max().expect("it ran");
    println!("deadline {deadline:?}, it would have fired at {last:?}; {report:?}");
    assert!(*last <= deadline);
    assert!(tree.none_lives());
    says(&guardian, Watchdog::Ready { timeout: TIMEOUT }).await;
    assert!(!device.runs());
    assert_eq!((report.why, resets.load(Ordering::Relaxed)), (Why::Deadline, 0));
    assert_eq!(guardian.status().await.expect("it answers").standing.allocations, 0);
}

#[tokio::test]
async fn a_frozen_guardian_is_not_waited_for() {
    let mut instance = Instance::new();
    let Some((device, resets)) = device(&instance, Manners::default()) else { return };
    let guardian = instance.guardian().await;
    let tree = instance.tree().await;
    ready(&guardian, &device).await;
    let fence_at = now() + Span::from_secs(4);
    guardian.arm(Term(7), fence_at, Some(&tree.target())).await.expect("armed");
    says(&guardian, Watchdog::Armed { timeout: TIMEOUT, stays: false }).await;
    kill(Pid::from_raw(guardian.pid().expect("known")), Signal::SIGSTOP).expect("stopped");
    until("the device fires", async || resets.load(Ordering::Relaxed) == 1).await;
    // A machine's clock would have stopped here; ours shows that it was in time.
    assert!(device.at(Happening::Expired).expect("it fired") <= fence_at + timing().kill_budget);
    assert!(tree.all_live(), "nobody else acted");
}

#[tokio::test]
async fn it_is_let_go_only_after_the_last_backend_is_gone() {
    let mut instance = Instance::new();
    let Some((device, resets)) = device(&instance, Manners::default()) else { return };
    let guardian = instance.guardian().await;
    let tree = instance.tree().await;
    armed(&guardian, &device, &tree).await;
    assert!(device.is_open() && tree.all_live());
    guardian.fence(Term(7)).await.expect("begun");
    let report = killed(&guardian).await;
    says(&guardian, Watchdog::Ready { timeout: TIMEOUT }).await;
    assert!(report.ended_at.expect("complete") <= device.at(Happening::Stopped).expect("it was stopped"));
    assert!(tree.none_lives());
    assert_eq!(resets.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_killed_guardian_leaves_the_device_running_and_the_next_one_takes_it_over() {
    let mut instance = Instance::new();
    let Some((device, resets)) = device(&instance, Manners::default()) else { return };
    let first = instance.guardian().await;
    let tree = instance.tree().await;
    armed(&first, &device, &tree).await;
    kill(Pid::from_raw(first.pid().expect("known")), Signal::SIGKILL).expect("killed");
    first.gone().await;
    until("it is closed", async || !device.is_open()).await;
    assert!(device.runs() && device.count(Happening::ClosedRunning) == 1);
    let second = instance.guardian().await;
    second.watch(Some(&watch(&device))).await.expect("told");
    second.arm(Term(7), now() + FAR, Some(&tree.target())).await.expect("armed");
    says(&second, Watchdog::Armed { timeout: TIMEOUT, stays: false }).await;
    kill(Pid::from_raw(second.pid().expect("known")), Signal::SIGKILL).expect("killed");
    second.gone().await;
    // A third one that has nothing to guard stops it.
    let third = instance.guardian().await;
    ready(&third, &device).await;
    assert!(!device.runs());
    assert_eq!(resets.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn why_a_device_cannot_be_used_is_said_and_it_is_tried_again() {
    let mut instance = Instance::new();
    let Some((device, _)) = device(&instance, Manners { busy: true, ..Manners::default() }) else { return };
    let guardian = instance.guardian().await;
    guardian.watch(Some(&watch(&device))).await.expect("told");
    says(&guardian, Watchdog::Failed(WatchdogFailure::Busy)).await;
    device.behave(Manners { foreign: true, ..Manners::default() });
    says(&guardian, Watchdog::Failed(WatchdogFailure::Foreign)).await;
    device.behave(Manners { timeout_min_s: 60, ..Manners::default() });
    let timeout = Span::from_secs(60);
    says(&guardian, Watchdog::Failed(WatchdogFailure::TooLate { timeout })).await;
    assert!(!device.runs(), "a device that fires too late is stopped");
    // Longer than asked for, and short enough.
    device.behave(Manners { timeout_min_s: 3, ..Manners::default() });
    says(&guardian, Watchdog::Ready { timeout: Span::from_secs(3) }).await;
    let nowhere = Watch { device: "/dev/no such device".to_owned(), ..watch(&device) };
    guardian.watch(Some(&nowhere)).await.expect("told");
    says(&guardian, Watchdog::Failed(WatchdogFailure::Absent)).await;
    guardian.watch(None).await.expect("told");
    says(&guardian, Watchdog::Off).await;
    let standing = guardian.status().await.expect("it answers").standing;
    assert_eq!((standing.state, standing.allocations), (State::Idle, 0));
}

#[tokio::test]
async fn a_device_that_cannot_be_stopped_is_fed_for_as_long_as_the_guardian_lives() {
    let mut instance = Instance::new();
    let manners = Manners { no_way_out: true, ..Manners::default() };
    let Some((device, resets)) = device(&instance, manners) else { return };
    let guardian = instance.guardian().await;
    let tree = instance.tree().await;
    guardian.watch(Some(&watch(&device))).await.expect("told");
    let stays = Watchdog::Armed { timeout: TIMEOUT, stays: true };
    says(&guardian, stays).await;
    for order in [Some(watch(&device)), None] {
        guardian.watch(order.as_ref()).await.expect("told");
        let before = device.count(Happening::Fed);
        until("it is fed on", async || before + 6 < device.count(Happening::Fed)).await;
        says(&guardian, stays).await;
    }
    // With a term, the law holds for this one, too.
    guardian.watch(Some(&watch(&device))).await.expect("told");
    let fence_at = now() + Span::from_secs(3);
    guardian.arm(Term(7), fence_at, Some(&tree.target())).await.expect("armed");
    until("the term has run out", async || {
        assert!(
            device.fires_at().is_none_or(|at| at <= fence_at + timing().kill_budget) || fence_at <= now()
        );
        matches!(state(&guardian).await, State::Fenced { .. })
    })
    .await;
    assert_eq!(resets.load(Ordering::Relaxed), 0);
    kill(Pid::from_raw(guardian.pid().expect("known")), Signal::SIGTERM).expect("asked");
    guardian.gone().await;
    until("the machine is reset, as was said", async || resets.load(Ordering::Relaxed) == 1).await;
}

/// A management controller that is being restarted makes its driver wait. The kill must not.
#[tokio::test]
async fn a_device_that_hangs_holds_no_kill_up() {
    let mut instance = Instance::new();
    let Some((device, _)) = device(&instance, Manners::default()) else { return };
    let guardian = instance.guardian().await;
    let tree = instance.tree().await;
    armed(&guardian, &device, &tree).await;
    device.behave(Manners { hangs: true, ..Manners::default() });
    says(&guardian, Watchdog::Failed(WatchdogFailure::Hangs)).await;
    guardian.fence(Term(7)).await.expect("begun");
    killed(&guardian).await;
    assert!(tree.none_lives());
    device.behave(Manners::default());
    says(&guardian, Watchdog::Ready { timeout: TIMEOUT }).await;
}

#[tokio::test]
async fn a_device_that_fails_is_reported_and_fed_again_when_it_works() {
    let mut instance = Instance::new();
    let Some((device, _)) = device(&instance, Manners::default()) else { return };
    let guardian = instance.guardian().await;
    let tree = instance.tree().await;
    armed(&guardian, &device, &tree).await;
    device.behave(Manners { fails: true, ..Manners::default() });
    says(&guardian, Watchdog::Failed(WatchdogFailure::Failing { errno: 5 })).await;
    device.behave(Manners::default());
    says(&guardian, Watchdog::Armed { timeout: TIMEOUT, stays: false }).await;
    assert!(lives(tree.postmaster));
}
