//! The watchdog device in the words of rules and people: whether it stands behind the guardian, and if not, why not.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Span, Timing};

/// What the guardian last said of the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Watchdog {
    /// No guardian has said anything.
    #[default]
    Unknown,
    /// The operators want none.
    Off,
    /// It is there and can be used; there is nothing to guard now.
    Ready {
        timeout: Span,
    },
    /// Resets the machine when the guardian has not fed it for so long.
    Armed {
        timeout: Span,
        /// It cannot be switched off any more (nowayout): the guardian feeds it for as long as it lives.
        stays: bool,
    },
    Failed(WatchdogFailure),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WatchdogFailure {
    Absent,
    Busy,
    Denied,
    /// It answers no question that a watchdog answers.
    Foreign,
    /// It fires later than a lost term allows.
    TooLate {
        timeout: Span,
    },
    /// It does not come back from what it was asked.
    Hangs,
    Failing {
        errno: i32,
    },
}

/// What the lease asks of a device. Devices count whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchdogTimes {
    /// What it is to be set to.
    pub timeout: Span,
    /// A longer one could not be fed in time after every renewal and still fire by the deadline.
    pub longest: Span,
    pub kill_budget: Span,
}

impl WatchdogTimes {
    /// Less than this would reset a machine that is merely busy.
    const USEFUL: Span = Span::from_secs(2);
    const SHORTEST: Span = Span::from_secs(1);

    /// As in Patroni: the ttl without the safety margin, or half of the ttl if the margin is -1. Also half where the margin
    /// leaves next to nothing, which Patroni's long leases cannot come to; and never more than fits.
    pub fn of(timing: &Timing, safety_margin_s: i64) -> WatchdogTimes {
        let longest = timing.ttl.minus(timing.margin).minus(timing.renew_every);
        let half = timing.ttl.scaled(1, 2);
        let without_margin = u64::try_from(safety_margin_s)
            .map_or(half, |secs| timing.ttl.minus(Span::from_ms(secs.saturating_mul(1000))));
        let wanted = if without_margin < WatchdogTimes::USEFUL { half } else { without_margin };
        let whole = Span::from_secs(wanted.min(longest).as_ms() / 1000);
        WatchdogTimes {
            timeout: whole.max(WatchdogTimes::SHORTEST),
            longest,
            kill_budget: timing.kill_budget,
        }
    }
}

impl Watchdog {
    /// The longest path of a device, in bytes.
    pub const PATH_MAX: usize = 255;

    pub fn is_armed(self) -> bool {
        matches!(self, Watchdog::Armed { .. })
    }

    /// Could it stand behind a leader, as far as anybody knows?
    pub fn can_be_armed(self) -> bool {
        match self {
            Watchdog::Ready { .. } | Watchdog::Armed { .. } => true,
            Watchdog::Unknown | Watchdog::Off | Watchdog::Failed(_) => false,
        }
    }

    pub fn timeout(self) -> Option<Span> {
        match self {
            Watchdog::Ready { timeout } | Watchdog::Armed { timeout, .. } => Some(timeout),
            Watchdog::Unknown | Watchdog::Off | Watchdog::Failed(_) => None,
        }
    }
}

impl WatchdogFailure {
    /// Who has to do what, for people who see it in a log.
    pub fn remedy(self) -> &'static str {
        match self {
            WatchdogFailure::Absent => {
                "load a watchdog driver (`modprobe softdog` if the machine has none) or correct watchdog.device"
            }
            WatchdogFailure::Busy => {
                "mostly systemd as process 1: set RuntimeWatchdogSec=off in system.conf, or name a second device in watchdog.device"
            }
            WatchdogFailure::Denied => {
                "let the guardian's user write to it: a udev rule such as KERNEL==\"watchdog\", OWNER=\"postgres\", MODE=\"0600\""
            }
            WatchdogFailure::Foreign => "name a watchdog in watchdog.device",
            WatchdogFailure::TooLate { .. } => "use another driver or a longer ttl",
            WatchdogFailure::Hangs => {
                "see what the kernel says of it; a management controller may be restarting"
            }
            WatchdogFailure::Failing { .. } => "see what the kernel says of it",
        }
    }
}

/// Whole seconds mostly, and shown as such.
impl fmt::Display for Watchdog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Watchdog::Unknown => f.write_str("unknown"),
            Watchdog::Off => f.write_str("off"),
            Watchdog::Ready { timeout } => write!(f, "ready, {timeout}"),
            Watchdog::Armed { timeout, stays: false } => write!(f, "armed, {timeout}"),
            Watchdog::Armed { timeout, stays: true } => write!(f, "armed, {timeout}, cannot be stopped"),
            Watchdog::Failed(failure) => write!(f, "not armed: {failure}"),
        }
    }
}

impl fmt::Display for WatchdogFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WatchdogFailure::Absent => f.write_str("there is no such device"),
            WatchdogFailure::Busy => f.write_str("another process holds the device"),
            WatchdogFailure::Denied => f.write_str("not permitted to open the device"),
            WatchdogFailure::Foreign => f.write_str("it is not a watchdog"),
            WatchdogFailure::TooLate { timeout } => {
                write!(f, "the device takes {timeout} and no less, later than the lease allows")
            }
            WatchdogFailure::Hangs => f.write_str("the device does not answer"),
            WatchdogFailure::Failing { errno } => write!(f, "the device fails (error {errno})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_whether_it_is_armed_or_why_not() {
        let check = |watchdog: Watchdog, text| assert_eq!(watchdog.to_string(), text);
        let timeout = Span::from_secs(9);
        check(Watchdog::Armed { timeout, stays: false }, "armed, 9 s");
        check(Watchdog::Armed { timeout, stays: true }, "armed, 9 s, cannot be stopped");
        check(Watchdog::Failed(WatchdogFailure::Busy), "not armed: another process holds the device");
        check(
            Watchdog::Failed(WatchdogFailure::TooLate { timeout: Span::from_secs(60) }),
            "not armed: the device takes 60 s and no less, later than the lease allows",
        );
    }

    #[test]
    fn the_timeout_is_what_the_margin_leaves_and_what_the_lease_allows() {
        let check = |ttl, margin, timeout| {
            let times = WatchdogTimes::of(&Timing::for_ttl(Span::from_secs(ttl)), margin);
            assert_eq!(times.timeout, Span::from_secs(timeout), "ttl {ttl}, margin {margin}");
            assert!(times.timeout <= times.longest);
        };
        check(30, 5, 25);
        check(30, -1, 15);
        check(30, 20, 10);
        check(10, 5, 5);
        check(10, 0, 8);
        check(5, 5, 2);
        check(5, i64::MAX, 2);
    }

    #[test]
    fn only_what_was_seen_to_work_can_be_armed() {
        assert!(Watchdog::Ready { timeout: Span::from_secs(5) }.can_be_armed());
        assert!(!Watchdog::Unknown.can_be_armed());
        assert!(!Watchdog::Failed(WatchdogFailure::Absent).can_be_armed());
    }
}
