//! The feeder: the guardian's second thread, which alone touches the watchdog device, because a driver may wait for its
//! hardware and a kill must not. It is told what may be fed for and says how the device is; nothing else is shared. If it
//! hangs, nothing feeds the device, which is as it should be.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::libc;

use super::device::{Device, sleeps_and_could_not_be_stopped};
use super::feed::{Permit, may_feed, next_feed};
use super::guardian::boot_clock;
use super::wire::{DEVICE_MAX, Watch};
use crate::model::{Moment, Span, Watchdog, WatchdogFailure, WatchdogTimes};

/// A device that could not be used is tried again after this.
const RETRY: Span = Span::from_secs(5);
/// With nothing to feed there is nothing to do but to wait for news.
const IDLE: Span = Span::from_secs(60);
/// A driver that takes longer than this for anything hangs.
const ANSWERS_WITHIN: Span = Span::from_secs(1);
const STACK: usize = 128 * 1024;

/// What the guardian's thread holds of the feeder.
#[derive(Debug)]
pub struct Feeder {
    shared: Arc<Shared>,
    wanted: Wanted,
}

#[derive(Debug)]
struct Shared {
    wanted: Mutex<Wanted>,
    said: Mutex<Watchdog>,
    /// Since when the device has been asked something; 0 if it is not.
    asked_at: AtomicU64,
    ended: AtomicU64,
    /// For the feeder: what is wanted has changed.
    wake: OwnedFd,
    /// For the guardian: what is said has changed.
    news: OwnedFd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wanted {
    order: Option<Order>,
    permit: Permit,
    end: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Order {
    times: WatchdogTimes,
    /// Ends in a zero.
    path: [u8; DEVICE_MAX + 1],
}

impl Feeder {
    /// Starts the thread. When this returns, it has done all that allocates.
    pub fn start() -> std::io::Result<Feeder> {
        let wanted = Wanted { order: None, permit: Permit::Release, end: false };
        let shared = Arc::new(Shared {
            wanted: Mutex::new(wanted),
            said: Mutex::new(Watchdog::Off),
            asked_at: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            wake: bell()?,
            news: bell()?,
        });
        let (theirs, ready) = (Arc::clone(&shared), Arc::new(Barrier::new(2)));
        let begun = Arc::clone(&ready);
        std::thread::Builder::new().name("feeder".to_owned()).stack_size(STACK).spawn(move || {
            let mut bowl = Bowl::default();
            begun.wait();
            theirs.feed(&mut bowl);
        })?;
        ready.wait();
        Ok(Feeder { shared, wanted })
    }

    pub fn order(&mut self, watch: Option<&Watch<'_>>) {
        let order = watch.map(|watch| {
            let mut path = [0; DEVICE_MAX + 1];
            let device = watch.device.as_bytes();
            let length = device.len().min(DEVICE_MAX);
            path[..length].copy_from_slice(&device[..length]);
            Order { times: watch.times, path }
        });
        self.want(&Wanted { order, ..self.wanted });
    }

    pub fn permit(&mut self, permit: Permit) {
        self.want(&Wanted { permit, ..self.wanted });
    }

    /// What the device can be relied upon for.
    pub fn state(&self, now: Moment) -> Watchdog {
        let asked_at = self.shared.asked_at.load(Ordering::Acquire);
        if asked_at != 0 && ANSWERS_WITHIN < now.since(Moment::from_ms(asked_at)) {
            return Watchdog::Failed(WatchdogFailure::Hangs);
        }
        *held(&self.shared.said)
    }

    /// The path of the device that was ordered last.
    pub fn device(&self) -> &str {
        self.wanted.order.as_ref().and_then(|order| order.path().to_str().ok()).unwrap_or_default()
    }

    /// Readable when there is something new in `state`.
    pub fn news(&self) -> RawFd {
        self.shared.news.as_raw_fd()
    }

    pub fn hear_news(&self) {
        drain(&self.shared.news);
    }

    /// Lets go of the device, if it can be let go of, and ends the thread. Waits no longer than a device may take.
    pub fn end(&mut self) {
        self.want(&Wanted { order: None, permit: Permit::Release, end: true });
        let give_up = boot_clock() + ANSWERS_WITHIN;
        while self.shared.ended.load(Ordering::Acquire) == 0 {
            let left = boot_clock().until(give_up);
            if left == Span::ZERO {
                return;
            }
            wait(&self.shared.news, left);
            self.hear_news();
        }
    }

    fn want(&mut self, wanted: &Wanted) {
        if *wanted != self.wanted {
            self.wanted = *wanted;
            *held(&self.shared.wanted) = *wanted;
            ring(&self.shared.wake);
        }
    }
}

impl Order {
    fn path(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.path).unwrap_or(c"")
    }
}

impl Shared {
    fn feed(&self, bowl: &mut Bowl) {
        loop {
            let wanted = *held(&self.wanted);
            self.asked_at.store(boot_clock().as_ms().max(1), Ordering::Release);
            let next = bowl.turn(&wanted);
            self.asked_at.store(0, Ordering::Release);
            let said = bowl.said;
            let news = std::mem::replace(&mut *held(&self.said), said) != said;
            if wanted.end {
                self.ended.store(1, Ordering::Release);
            }
            if news || wanted.end {
                ring(&self.news);
            }
            if wanted.end {
                return;
            }
            let now = boot_clock();
            wait(&self.wake, next.map_or(IDLE, |next| now.until(next)));
            drain(&self.wake);
        }
    }
}

/// What the thread knows of the device.
#[derive(Debug)]
struct Bowl {
    order: Option<Order>,
    open: Option<Open>,
    said: Watchdog,
    retry_at: Option<Moment>,
}

#[derive(Debug)]
struct Open {
    device: Device,
    asked_for: Span,
    timeout: Span,
    fed_at: Moment,
    fed_for: Permit,
    /// It cannot be stopped.
    stays: bool,
}

impl Default for Bowl {
    fn default() -> Bowl {
        Bowl { order: None, open: None, said: Watchdog::Off, retry_at: None }
    }
}

impl Bowl {
    /// Does what is due. Returns when to come back.
    fn turn(&mut self, wanted: &Wanted) -> Option<Moment> {
        let now = boot_clock();
        if wanted.order != self.order {
            let same_device = wanted.order.map(|order| order.path) == self.order.map(|order| order.path);
            self.order = wanted.order;
            self.retry_at = None;
            if !same_device {
                self.let_go();
            }
            // Whatever was said of it was said of another device or timeout.
            if self.open.is_none() {
                self.said = Watchdog::Unknown;
            }
        }
        match (self.order, wanted.permit) {
            (None, _) => {
                self.let_go();
                if self.open.is_none() {
                    self.said = Watchdog::Off;
                }
                self.feed(Permit::Release, now)
            }
            (Some(order), Permit::Release) => {
                if self.open.is_none() && self.said == Watchdog::Unknown || self.is_due(now) {
                    self.try_out(&order, now);
                }
                self.let_go();
                self.feed(Permit::Release, now)
            }
            (Some(order), permit @ Permit::Until(_)) => self.guard(&order, permit, now),
        }
    }

    fn is_due(&self, now: Moment) -> bool {
        self.open.is_none() && self.retry_at.is_some_and(|at| at <= now)
    }

    /// Can it be used when it is needed? It is begun and stopped at once; that also stops one that a guardian before us
    /// has left running.
    fn try_out(&mut self, order: &Order, now: Moment) {
        if sleeps_and_could_not_be_stopped(order.path()) {
            self.said = Watchdog::Ready { timeout: order.times.timeout };
            self.retry_at = None;
        } else {
            self.begin(order, Permit::Release, now);
        }
    }

    fn guard(&mut self, order: &Order, permit: Permit, now: Moment) -> Option<Moment> {
        let allowed = may_feed(permit, order.times.timeout, now);
        let to_begin = self.open.is_none() && self.retry_at.is_none_or(|at| at <= now);
        if to_begin && allowed {
            self.begin(order, permit, now);
        } else if allowed && self.open.as_ref().is_some_and(|open| open.asked_for != order.times.timeout) {
            self.set(order, permit, now);
        }
        match &self.open {
            Some(open) if order.times.longest < open.timeout => {
                // It could not be stopped, and fires too late to be of use. That is no reason to reset a healthy machine.
                self.feed(Permit::Release, now)
            }
            Some(_) => self.feed(permit, now),
            None => self.retry_at.filter(|at| now < *at),
        }
    }

    fn begin(&mut self, order: &Order, permit: Permit, now: Moment) {
        match Device::open(order.path()) {
            Ok(device) => {
                self.open = Some(Open {
                    device,
                    asked_for: Span::ZERO,
                    timeout: Span::ZERO,
                    fed_at: now,
                    fed_for: permit,
                    stays: false,
                });
                self.set(order, permit, now);
            }
            Err(failure) => self.fail(failure, now),
        }
    }

    /// Sets the timeout, which feeds the device, too, and sees what the driver has made of it.
    fn set(&mut self, order: &Order, permit: Permit, now: Moment) {
        let Some(open) = &mut self.open else { return };
        let set = open.device.set_timeout(order.times.timeout);
        (open.asked_for, open.fed_at, open.fed_for) = (order.times.timeout, now, permit);
        match set {
            Ok(timeout) if timeout <= order.times.longest && Span::ZERO < timeout => {
                open.timeout = timeout;
                self.retry_at = None;
                self.said = Watchdog::Armed { timeout, stays: open.stays };
            }
            Ok(timeout) => {
                open.timeout = timeout;
                self.let_go();
                self.fail(WatchdogFailure::TooLate { timeout }, now);
            }
            Err(failure) => {
                self.let_go();
                self.fail(failure, now);
            }
        }
    }

    fn fail(&mut self, failure: WatchdogFailure, now: Moment) {
        self.said = Watchdog::Failed(failure);
        self.retry_at = Some(now + RETRY);
    }

    /// Stops the device and closes it, unless it cannot be stopped.
    fn let_go(&mut self) {
        let Some(open) = self.open.take_if(|open| !open.stays) else { return };
        let timeout = open.timeout;
        match open.device.stop() {
            Ok(()) => self.said = Watchdog::Ready { timeout },
            Err(device) => {
                self.open = Some(Open { device, stays: true, ..open });
                self.said = Watchdog::Armed { timeout, stays: true };
            }
        }
    }

    fn feed(&mut self, permit: Permit, now: Moment) -> Option<Moment> {
        let Some(open) = &mut self.open else { return self.retry_at.filter(|at| now < *at) };
        let due = next_feed(permit, open.timeout, open.fed_at, now).is_some_and(|at| at <= now);
        // The clock is looked at anew: beginning and setting may have taken their time.
        if (due || open.fed_for != permit) && may_feed(permit, open.timeout, boot_clock()) {
            let fits = self.order.is_some_and(|order| open.timeout <= order.times.longest);
            let useful = fits && Span::ZERO < open.timeout;
            open.fed_for = permit;
            match open.device.feed() {
                Ok(()) => {
                    open.fed_at = now;
                    if useful {
                        self.said = Watchdog::Armed { timeout: open.timeout, stays: open.stays };
                    }
                }
                Err(failure) => {
                    self.said = Watchdog::Failed(failure);
                    return Some(now + ANSWERS_WITHIN);
                }
            }
        }
        next_feed(permit, open.timeout, open.fed_at, now)
    }
}

/// The other thread never leaves half a value behind: each is written at once.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn bell() -> std::io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let fd = Errno::result(unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) })?;
    // SAFETY: a descriptor that the kernel has just made for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn ring(bell: &OwnedFd) {
    // One that is full has been rung.
    let _ = nix::unistd::write(bell, &1u64.to_ne_bytes());
}

fn drain(bell: &OwnedFd) {
    let _ = nix::unistd::read(bell, &mut [0; 8]);
}

fn wait(bell: &OwnedFd, at_most: Span) {
    let mut asked = libc::pollfd { fd: bell.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let patience = i32::try_from(at_most.as_ms()).unwrap_or(i32::MAX);
    // SAFETY: one entry, and its number.
    unsafe { libc::poll(&raw mut asked, 1, patience) };
}
