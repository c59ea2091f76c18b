//! Whatever is written is read again, and what is not ours is refused.

use proptest::prelude::*;

use super::super::line::Line;
use super::*;
use crate::model::{Span, WatchdogFailure, WatchdogTimes};

fn written(write: impl FnOnce(&mut Line<DATAGRAM_MAX>) -> fmt::Result) -> Line<DATAGRAM_MAX> {
    let mut line = Line::new();
    write(&mut line).expect("it fits");
    line
}

fn process() -> impl Strategy<Value = Option<Process>> {
    proptest::option::of((2i32.., any::<u64>()).prop_map(|(pid, start)| Process { pid, start }))
}

fn times(ms: u64) -> WatchdogTimes {
    WatchdogTimes {
        timeout: Span::from_ms(ms),
        longest: Span::from_ms(ms + 1),
        kill_budget: Span::from_ms(500),
    }
}

fn watchdog() -> impl Strategy<Value = Watchdog> {
    let timeout = Span::from_secs(9);
    proptest::sample::select(vec![
        Watchdog::Unknown,
        Watchdog::Off,
        Watchdog::Ready { timeout },
        Watchdog::Armed { timeout, stays: false },
        Watchdog::Armed { timeout, stays: true },
        Watchdog::Failed(WatchdogFailure::Absent),
        Watchdog::Failed(WatchdogFailure::Busy),
        Watchdog::Failed(WatchdogFailure::Denied),
        Watchdog::Failed(WatchdogFailure::Foreign),
        Watchdog::Failed(WatchdogFailure::TooLate { timeout }),
        Watchdog::Failed(WatchdogFailure::Hangs),
        Watchdog::Failed(WatchdogFailure::Failing { errno: 5 }),
    ])
}

proptest! {
    #[test]
    fn a_request_survives_being_written_and_read(
        term: u64, fence_at: u64, report: u32, postmaster in process(), ms in 1u64..1_000_000,
        device in "/[a-z ./=_-]{0,40}",
        cgroup in proptest::option::of("/[a-z ./=_-]{0,40}"), told: bool,
    ) {
        let target = Target { postmaster, cgroup: cgroup.as_deref() };
        let (term, fence_at) = (Term(term), Moment::from_ms(fence_at));
        for request in [
            Request::Arm { term, fence_at, target: told.then_some(target) },
            Request::Aim(target),
            Request::Disarm { term },
            Request::Fence { term },
            Request::Watch(Watch { times: times(ms), device: &device }),
            Request::Unwatch,
            Request::Status,
            Request::Acknowledge { report },
        ] {
            let line = written(|line| request.write(line));
            prop_assert_eq!(Request::parse(line.as_bytes()), Ok(request));
        }
    }

    #[test]
    fn an_answer_survives_being_written_and_read(
        term: u64, at: u64, which in 0usize..4, refusal in 0usize..9, postmaster in process(),
        ended in proptest::option::of(any::<u64>()), reported: bool, data_dir in "/[a-z ./=]{0,40}",
        watchdog in watchdog(),
    ) {
        let (term, fence_at) = (Term(term), Moment::from_ms(at));
        let states = [
            State::Idle,
            State::Armed { term, fence_at },
            State::Killing { term, fence_at },
            State::Fenced { term, fence_at },
        ];
        let report = Report {
            number: 3, term, why: Why::Returned, means: Means::Tree, fence_at, began_at: fence_at,
            ended_at: ended.map(Moment::from_ms), processes: 12,
        };
        let answer = Answer {
            refused: Refusal::ALL.get(refusal).copied(),
            standing: Standing { state: states[which], postmaster, means: Means::Cgroup, allocations: 0, watchdog },
            report: reported.then_some(report),
            data_dir: &data_dir,
        };
        let line = written(|line| answer.write(line));
        prop_assert_eq!(Answer::parse(line.as_bytes()), Some(answer));
    }

    #[test]
    fn no_datagram_makes_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80), tail in "[ a-z=0-9/]{0,60}") {
        let _ = Request::parse(&bytes);
        let _ = Answer::parse(&bytes);
        let _ = Request::parse(format!("{VERSION} {tail}").as_bytes());
        let _ = Answer::parse(format!("{VERSION} {tail}").as_bytes());
    }
}

#[test]
fn what_is_not_a_request_is_refused_by_its_kind() {
    let check = |text: &str, refusal| assert_eq!(Request::parse(text.as_bytes()), Err(refusal), "{text}");
    check("", Refusal::Malformed);
    check("tenure-fence/2 status", Refusal::Version);
    check("tenure-fence/1 arm term=7", Refusal::Malformed);
    check("tenure-fence/1 arm term=7 fence_at=-1", Refusal::Malformed);
    check("tenure-fence/1 arm term=7 fence_at=1 pid=1 start=0", Refusal::Malformed);
    check("tenure-fence/1 aim pid=-5 start=0", Refusal::Malformed);
    check("tenure-fence/1 aim pid=0 start=0 cgroup=relative", Refusal::Malformed);
    check("tenure-fence/1 dance", Refusal::Malformed);
    check(
        "tenure-fence/1 watch timeout=0 longest=8500 kill_budget=500 device=/dev/watchdog",
        Refusal::Malformed,
    );
    check(
        "tenure-fence/1 watch timeout=5000 longest=8500 kill_budget=500 device=watchdog",
        Refusal::Malformed,
    );
    let long =
        format!("tenure-fence/1 watch timeout=1 longest=1 kill_budget=1 device=/{}", "d".repeat(DEVICE_MAX));
    check(&long, Refusal::Malformed);
}

#[test]
fn keys_of_a_later_version_are_passed_over() {
    let request = Request::parse(b"tenure-fence/1 disarm mood=calm term=4 colour=red\n");
    assert_eq!(request, Ok(Request::Disarm { term: Term(4) }));
}

#[test]
fn the_longest_answer_fits_into_a_datagram() {
    let (term, fence_at) = (Term(u64::MAX), Moment::from_ms(u64::MAX));
    let path = "/".repeat(PATH_MAX);
    let report = Report {
        number: u32::MAX,
        term,
        why: Why::Deadline,
        means: Means::Cgroup,
        fence_at,
        began_at: fence_at,
        ended_at: Some(fence_at),
        processes: u32::MAX,
    };
    let standing = Standing {
        state: State::Killing { term, fence_at },
        postmaster: Some(Process { pid: i32::MAX, start: u64::MAX }),
        means: Means::Cgroup,
        allocations: u64::MAX,
        watchdog: Watchdog::Failed(WatchdogFailure::TooLate { timeout: Span::from_ms(u64::MAX) }),
    };
    let answer =
        Answer { refused: Some(Refusal::EarlierDeadline), standing, report: Some(report), data_dir: &path };
    written(|line| answer.write(line));
}
