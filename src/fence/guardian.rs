//! The guardian itself: one thread, one loop, one wait. Nothing in here allocates, opens a file of a disk or waits for
//! anybody but `poll`. The watchdog device, which a driver may make wait, is the feeder's business.
//!
//! It keeps one law: from `fence_at` on, nothing of PostgreSQL is alive, until an agent disarms it or gives it a
//! deadline that lies ahead.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::process::ExitCode;

use nix::errno::Errno;
use nix::fcntl::Flock;
use nix::libc;
use nix::sys::signalfd::SignalFd;
use nix::sys::socket::{
    MsgFlags, SockFlag, accept4, getsockopt, recv, send, setsockopt, sockopt::PeerCredentials,
    sockopt::SndBuf,
};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{Expiration, TimerFd, TimerSetTimeFlags};
use nix::time::{ClockId, clock_gettime};

use crate::model::{Moment, Span, Watchdog, WatchdogFailure};

use super::allocations;
use super::feed::Permit;
use super::feeder::Feeder;
use super::kill::{Aim, Killer};
use super::line::Line;
use super::log::{Level, Log};
use super::orders::Orders;
use super::wire::{
    Answer, DATAGRAM_MAX, Means, Process, Refusal, Report, Request, Standing, State, Target, Why,
};

/// An agent has two or three connections; what is left is for its successor and for people who look.
const CONNECTIONS_MAX: usize = 16;

/// The loop turns at least this often.
const HEARTBEAT: Span = Span::from_secs(1);

/// Rounds of a kill come faster at first.
const PAUSE_MIN: Span = Span::from_ms(1);
const PAUSE_MAX: Span = Span::from_ms(50);
const SAY_EVERY: Span = Span::from_secs(1);

/// After a kill: an agent that was frozen in the middle of a start may finish it when it thaws.
const LOOK_EVERY_AT_FIRST: Span = Span::from_ms(100);
const LOOK_EVERY: Span = Span::from_secs(1);
const AT_FIRST: Span = Span::from_secs(5);

/// What can wake the guardian, besides its connections.
#[derive(Debug)]
pub struct Ears {
    pub listener: OwnedFd,
    pub timer: TimerFd,
    pub signals: SignalFd,
}

#[derive(Debug)]
pub struct Guardian {
    ears: Ears,
    connections: [Option<OwnedFd>; CONNECTIONS_MAX],
    orders: Orders,
    aim: Aim,
    killer: Killer,
    pace: Pace,
    report: Option<Report>,
    reports: u32,
    feeder: Feeder,
    /// Counted from the moment of the kill to that of the watchdog.
    kill_budget: Span,
    watchdog_told: Watchdog,
    log: Log,
    stop_asked: bool,
    own_cgroup: Option<String>,
    socket_path: CString,
    /// Held as long as the process lives.
    _lock: Flock<File>,
}

/// When the next round of a kill, or the next look after one, is due.
#[derive(Debug, Default)]
struct Pace {
    next: Moment,
    pause: Span,
    said_at: Moment,
    fenced_at: Moment,
}

/// Milliseconds of CLOCK_BOOTTIME: the clock that goes on while the machine sleeps.
pub fn boot_clock() -> Moment {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has had this clock since 2.6.39");
    let secs = u64::try_from(time.tv_sec()).unwrap_or(0);
    let ms = u64::try_from(time.tv_nsec() / 1_000_000).unwrap_or(0);
    Moment::from_ms(secs * 1000 + ms)
}

impl Guardian {
    pub fn new(
        ears: Ears,
        killer: Killer,
        feeder: Feeder,
        log: Log,
        own_cgroup: Option<String>,
        lock: Flock<File>,
        socket_path: CString,
    ) -> Guardian {
        Guardian {
            ears,
            connections: [const { None }; CONNECTIONS_MAX],
            orders: Orders::default(),
            aim: Aim::default(),
            killer,
            pace: Pace::default(),
            report: None,
            reports: 0,
            feeder,
            kill_budget: Span::ZERO,
            watchdog_told: Watchdog::Off,
            log,
            stop_asked: false,
            own_cgroup,
            socket_path,
            _lock: lock,
        }
    }

    pub fn watch(mut self) -> ExitCode {
        loop {
            let wake_at = self.turn();
            self.log.flush(self.orders.may_stop());
            if self.stop_asked && self.orders.may_stop() {
                return self.leave();
            }
            self.wait_until(wake_at);
            self.feeder.hear_news();
            self.hear_signals();
            self.hear_agents();
            self.let_in();
        }
    }

    /// Does what is due and says when to come back.
    fn turn(&mut self) -> Moment {
        let now = boot_clock();
        if let Some(why) = self.orders.run_out(now) {
            self.begin(why, now);
        }
        self.feeder.permit(self.permit());
        self.tell_of_watchdog(now);
        match self.orders.state() {
            State::Idle => now + HEARTBEAT,
            State::Armed { fence_at, .. } => fence_at,
            State::Killing { .. } | State::Fenced { .. } if now < self.pace.next => self.pace.next,
            State::Killing { .. } => self.round(),
            State::Fenced { .. } => self.look_again(now),
        }
    }

    /// The law of the third ring: the device fires by the deadline, unless nothing of PostgreSQL is left or it is known
    /// that nothing of it can write.
    fn permit(&self) -> Permit {
        match self.orders.state() {
            State::Idle | State::Fenced { .. } => Permit::Release,
            State::Armed { fence_at, .. } | State::Killing { fence_at, .. } => {
                Permit::Until(fence_at + self.kill_budget)
            }
        }
    }

    fn tell_of_watchdog(&mut self, now: Moment) {
        let watchdog = self.feeder.state(now);
        if watchdog == self.watchdog_told {
            return;
        }
        self.watchdog_told = watchdog;
        let device = self.feeder.device();
        match watchdog {
            Watchdog::Unknown => {}
            Watchdog::Off
            | Watchdog::Ready { .. }
            | Watchdog::Armed { stays: false, .. }
            | Watchdog::Failed(WatchdogFailure::Absent) => {
                self.log.say(Level::Info, now, format_args!("watchdog {device}: {watchdog}"));
            }
            Watchdog::Armed { stays: true, .. } => {
                let what = "if this guardian dies and none takes its place, the machine is reset";
                self.log.say(Level::Warning, now, format_args!("watchdog {device}: {watchdog}; {what}"));
            }
            Watchdog::Failed(failure) => {
                let remedy = failure.remedy();
                self.log.say(Level::Warning, now, format_args!("watchdog {device}: {watchdog}; {remedy}"));
            }
        }
    }

    fn begin(&mut self, why: Why, now: Moment) {
        let (State::Armed { term, fence_at }
        | State::Killing { term, fence_at }
        | State::Fenced { term, fence_at }) = self.orders.state()
        else {
            return;
        };
        self.reports = self.reports.wrapping_add(1);
        self.report = Some(Report {
            number: self.reports,
            term,
            why,
            means: self.aim.means(),
            fence_at,
            began_at: now,
            ended_at: None,
            processes: 0,
        });
        self.pace = Pace { next: now, pause: PAUSE_MIN, said_at: now, fenced_at: now };
        self.killer.begin();
    }

    fn round(&mut self) -> Moment {
        let round = self.killer.round(&mut self.aim);
        let now = boot_clock();
        let Some(report) = &mut self.report else { return now };
        report.processes = self.killer.found();
        report.means = round.by;
        if round.complete {
            report.ended_at = Some(now);
            let report = *report;
            self.aim.forget_postmaster();
            self.orders.killed();
            self.pace.fenced_at = now;
            self.pace.next = now + LOOK_EVERY_AT_FIRST;
            self.say_killed(&report, now);
            return self.pace.next;
        }
        if self.pace.said_at + SAY_EVERY <= now {
            self.pace.said_at = now;
            let took = now.since(report.began_at);
            let trouble = round.trouble.map_or("each has been sent SIGKILL", Errno::desc);
            let what = format_args!("{} of PostgreSQL still alive after {took}: {trouble}", round.alive);
            self.log.say(Level::Error, now, what);
        }
        if round.alive > 0 {
            self.pace.next = now + self.pace.pause;
            self.pace.pause = self.pace.pause.times(2).min(PAUSE_MAX);
        }
        self.pace.next
    }

    /// The law holds after the kill, too.
    fn look_again(&mut self, now: Moment) -> Moment {
        if self.killer.look(&mut self.aim)
            && let Some(why) = self.orders.seen_alive()
        {
            self.begin(why, now);
            return now;
        }
        let early = now.since(self.pace.fenced_at) < AT_FIRST;
        self.pace.next = now + if early { LOOK_EVERY_AT_FIRST } else { LOOK_EVERY };
        self.pace.next
    }

    fn say_killed(&mut self, report: &Report, now: Moment) {
        let why = match report.why {
            Why::Deadline => "the term ran out and no newer deadline had come",
            Why::Ordered => "the agent asked for it",
            Why::Returned => "it was started again although the term had run out; disarm the guardian first",
        };
        let by = match report.means {
            Means::Cgroup => "by its control group",
            Means::Tree => "process by process",
        };
        let Report { term, processes, fence_at, began_at, .. } = report;
        let (late, took) = (began_at.since(*fence_at), now.since(*began_at));
        self.log.say(
            Level::Error,
            now,
            format_args!(
                "killed PostgreSQL, term {term}: {why}; {by}, {processes} in all, begun {late} after \
                 the deadline, nothing left after {took}"
            ),
        );
    }

    fn wait_until(&mut self, wake_at: Moment) {
        let secs = i64::try_from(wake_at.as_ms() / 1000).unwrap_or(i64::MAX);
        let nanos = i64::try_from(wake_at.as_ms() % 1000 * 1_000_000).unwrap_or(0);
        // Zero would mean never.
        let at = TimeSpec::new(secs, nanos.max(1));
        let set = self.ears.timer.set(Expiration::OneShot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME);
        if let Err(errno) = set {
            self.log.say(Level::Error, boot_clock(), format_args!("set the timer: {}", errno.desc()));
        }

        let wanted = |fd: RawFd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        // The kernel passes over negative numbers.
        let mut fds = [wanted(-1); 4 + CONNECTIONS_MAX];
        fds[0] = wanted(self.ears.timer.as_fd().as_raw_fd());
        fds[1] = wanted(self.ears.signals.as_fd().as_raw_fd());
        if self.connections.iter().any(Option::is_none) {
            fds[2] = wanted(self.ears.listener.as_raw_fd());
        }
        fds[3] = wanted(self.feeder.news());
        for (slot, connection) in fds[4..].iter_mut().zip(&self.connections) {
            slot.fd = connection.as_ref().map_or(-1, AsRawFd::as_raw_fd);
        }
        // A second clock, should the timer ever fail us.
        let patience = boot_clock().until(wake_at).min(HEARTBEAT).as_ms() + 1;
        let patience = i32::try_from(patience).unwrap_or(1000);
        // SAFETY: as many entries as we say.
        unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, patience) };
    }

    fn hear_signals(&mut self) {
        // A stop is asked for with one of three signals; the others have no meaning here.
        while let Ok(Some(signal)) = self.ears.signals.read_signal() {
            let number = i32::try_from(signal.ssi_signo).unwrap_or(0);
            if ![libc::SIGTERM, libc::SIGINT, libc::SIGQUIT].contains(&number) {
                continue;
            }
            self.stop_asked = true;
            if let (State::Armed { term, fence_at } | State::Killing { term, fence_at }, now) =
                (self.orders.state(), boot_clock())
            {
                let left = now.until(fence_at);
                let what = format_args!(
                    "asked to stop by pid {}, but armed for term {term} for another {left}: stopping now would leave \
                     a primary without its guardian; will stop when disarmed",
                    signal.ssi_pid
                );
                self.log.say(Level::Warning, now, what);
            }
        }
    }

    /// One word of each, then back to the clock.
    fn hear_agents(&mut self) {
        for slot in 0..CONNECTIONS_MAX {
            let Some(fd) = self.connections[slot].as_ref().map(AsRawFd::as_raw_fd) else { continue };
            let mut datagram = [0u8; DATAGRAM_MAX];
            // With MSG_TRUNC the length of what was sent, not of what fitted.
            let stays = match recv(fd, &mut datagram, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC) {
                Err(Errno::EAGAIN | Errno::EINTR) => true,
                Ok(0) | Err(_) => false,
                Ok(length) => {
                    let request = match datagram.get(..length) {
                        Some(datagram) => Request::parse(datagram),
                        None => Err(Refusal::Malformed),
                    };
                    let refused = request.and_then(|request| self.obey(&request)).err();
                    self.answer(fd, refused)
                }
            };
            if !stays {
                self.connections[slot] = None;
            }
        }
    }

    fn obey(&mut self, request: &Request<'_>) -> Result<(), Refusal> {
        let now = boot_clock();
        if let Some(why) = self.orders.run_out(now) {
            self.begin(why, now);
        }
        let before = self.orders.state().term();
        match *request {
            Request::Arm { term, fence_at, target } => {
                self.refuse_own_cgroup(target.as_ref())?;
                self.orders.arm(term, fence_at, now)?;
                if let Some(target) = &target {
                    self.aim.take(target, self.killer.proc());
                }
                if before != Some(term) {
                    let by = self.aim.means().word();
                    self.log.say(Level::Info, now, format_args!("armed for term {term}, by {by}"));
                }
            }
            Request::Aim(target) => {
                self.refuse_own_cgroup(Some(&target))?;
                if let State::Killing { .. } = self.orders.state() {
                    return Err(Refusal::Killing);
                }
                self.aim.take(&target, self.killer.proc());
            }
            Request::Disarm { term } => {
                self.orders.disarm(term)?;
                if let Some(before) = before {
                    self.log.say(Level::Info, now, format_args!("disarmed, was armed for term {before}"));
                }
            }
            Request::Fence { term } => {
                let why = self.orders.fence(term, now)?;
                self.begin(why, now);
            }
            Request::Watch(watch) => {
                self.kill_budget = watch.times.kill_budget;
                self.feeder.order(Some(&watch));
            }
            Request::Unwatch => self.feeder.order(None),
            Request::Status => {}
            Request::Acknowledge { report } => {
                self.report = self.report.filter(|kept| kept.number != report || kept.ended_at.is_none());
            }
        }
        Ok(())
    }

    fn refuse_own_cgroup(&self, target: Option<&Target<'_>>) -> Result<(), Refusal> {
        let Some(path) = target.and_then(|target| target.cgroup) else { return Ok(()) };
        let winding = path.split('/').any(|part| part == "..");
        let holds_us = self.own_cgroup.as_deref().is_some_and(|own| {
            own.strip_prefix(path.trim_end_matches('/'))
                .is_some_and(|below| below.is_empty() || below.starts_with('/'))
        });
        if winding || holds_us { Err(Refusal::OwnCgroup) } else { Ok(()) }
    }

    fn standing(&self) -> Standing {
        let lives = |held: &Process| {
            let stat = self.killer.proc().stat(held.pid);
            stat.is_some_and(|stat| stat.process == *held && !stat.ended)
        };
        Standing {
            state: self.orders.state(),
            postmaster: self.aim.postmaster().filter(lives),
            means: self.aim.means(),
            allocations: allocations::since_start(),
            watchdog: self.feeder.state(boot_clock()),
        }
    }

    /// `false` if nobody takes the answer.
    fn answer(&self, fd: RawFd, refused: Option<Refusal>) -> bool {
        let data_dir = self.killer.data_dir();
        let answer = Answer { refused, standing: self.standing(), report: self.report, data_dir };
        let mut line: Line<DATAGRAM_MAX> = Line::new();
        answer.write(&mut line).is_ok()
            && send(fd, line.as_bytes(), MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL).is_ok()
    }

    /// Whoever is neither root nor our own user is shown the door; whoever finds no room waits outside.
    fn let_in(&mut self) {
        for slot in 0..CONNECTIONS_MAX {
            if self.connections[slot].is_some() {
                continue;
            }
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let Ok(fd) = accept4(self.ears.listener.as_raw_fd(), flags) else { return };
            // SAFETY: a descriptor that the kernel has just made for us.
            let connection = unsafe { OwnedFd::from_raw_fd(fd) };
            let own_uid = nix::unistd::geteuid().as_raw();
            match getsockopt(&connection, PeerCredentials).map(|peer| (peer.uid(), peer.pid())) {
                Ok((uid, _)) if uid == own_uid || uid == 0 => {
                    // Answers are short, and nobody may make us keep many.
                    let _ = setsockopt(&connection, SndBuf, &16384);
                    self.connections[slot] = Some(connection);
                }
                Ok((uid, pid)) => {
                    let what = format_args!("turned away pid {pid} of user {uid}");
                    self.log.say(Level::Warning, boot_clock(), what);
                }
                Err(_) => {}
            }
        }
    }

    fn leave(mut self) -> ExitCode {
        let state = match self.orders.state() {
            State::Fenced { .. } => "PostgreSQL is dead",
            State::Idle | State::Armed { .. } | State::Killing { .. } => "not armed",
        };
        self.feeder.end();
        let now = boot_clock();
        if let Watchdog::Armed { timeout, .. } = self.feeder.state(now) {
            let what = "the watchdog cannot be stopped: the machine is reset in";
            let unless = "unless another guardian or a shutdown takes it over";
            self.log.say(Level::Error, now, format_args!("{what} {timeout}, {unless}"));
        }
        self.log.say(Level::Info, now, format_args!("stopped: {state}"));
        self.log.flush(true);
        // SAFETY: a path that ends in a NUL.
        unsafe { libc::unlink(self.socket_path.as_ptr()) };
        ExitCode::SUCCESS
    }
}
