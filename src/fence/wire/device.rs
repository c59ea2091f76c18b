//! What is said of the watchdog device: the order to use one, and how it is.

use std::fmt::{self, Write};

use super::Fields;
use crate::model::{Span, Watchdog, WatchdogFailure, WatchdogTimes};

/// The longest path of a device.
pub const DEVICE_MAX: usize = Watchdog::PATH_MAX;

/// Which device stands behind the guardian, and what the lease asks of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watch<'a> {
    pub times: WatchdogTimes,
    pub device: &'a str,
}

impl Watch<'_> {
    pub(super) fn write(&self, line: &mut impl Write) -> fmt::Result {
        let WatchdogTimes { timeout, longest, kill_budget } = self.times;
        write!(line, " timeout={} longest={}", timeout.as_ms(), longest.as_ms())?;
        write!(line, " kill_budget={} device={}", kill_budget.as_ms(), self.device)
    }
}

impl<'a> Fields<'a> {
    pub(super) fn watch(&self) -> Option<Watch<'a>> {
        let device = self.path.filter(|path| {
            path.len() <= DEVICE_MAX && path.starts_with('/') && !path.contains(['\0', '\n'])
        })?;
        let span = |key| self.number(key).map(Span::from_ms);
        let times = WatchdogTimes {
            timeout: span("timeout").filter(|timeout| Span::ZERO < *timeout)?,
            longest: span("longest")?,
            kill_budget: span("kill_budget")?,
        };
        Some(Watch { times, device })
    }

    /// `None` for what no guardian of this version says. An older one says nothing of it.
    pub(super) fn watchdog(&self) -> Option<Watchdog> {
        let timeout = self.number("watchdog_timeout").map(Span::from_ms);
        Some(match self.text("watchdog") {
            None => Watchdog::Unknown,
            Some("off") => Watchdog::Off,
            Some("ready") => Watchdog::Ready { timeout: timeout? },
            Some("armed") => Watchdog::Armed { timeout: timeout?, stays: false },
            Some("stays") => Watchdog::Armed { timeout: timeout?, stays: true },
            Some("absent") => Watchdog::Failed(WatchdogFailure::Absent),
            Some("busy") => Watchdog::Failed(WatchdogFailure::Busy),
            Some("denied") => Watchdog::Failed(WatchdogFailure::Denied),
            Some("foreign") => Watchdog::Failed(WatchdogFailure::Foreign),
            Some("late") => Watchdog::Failed(WatchdogFailure::TooLate { timeout: timeout? }),
            Some("hangs") => Watchdog::Failed(WatchdogFailure::Hangs),
            Some("fails") => {
                let errno = self.number("watchdog_error")?.try_into().ok()?;
                Watchdog::Failed(WatchdogFailure::Failing { errno })
            }
            Some(_) => return None,
        })
    }
}

pub(super) fn write_watchdog(line: &mut impl Write, watchdog: Watchdog) -> fmt::Result {
    let word = match watchdog {
        Watchdog::Unknown => return Ok(()),
        Watchdog::Off => "off",
        Watchdog::Ready { .. } => "ready",
        Watchdog::Armed { stays: false, .. } => "armed",
        Watchdog::Armed { stays: true, .. } => "stays",
        Watchdog::Failed(failure) => match failure {
            WatchdogFailure::Absent => "absent",
            WatchdogFailure::Busy => "busy",
            WatchdogFailure::Denied => "denied",
            WatchdogFailure::Foreign => "foreign",
            WatchdogFailure::TooLate { .. } => "late",
            WatchdogFailure::Hangs => "hangs",
            WatchdogFailure::Failing { .. } => "fails",
        },
    };
    write!(line, " watchdog={word}")?;
    match watchdog {
        Watchdog::Ready { timeout }
        | Watchdog::Armed { timeout, .. }
        | Watchdog::Failed(WatchdogFailure::TooLate { timeout }) => {
            write!(line, " watchdog_timeout={}", timeout.as_ms())
        }
        Watchdog::Failed(WatchdogFailure::Failing { errno }) => write!(line, " watchdog_error={errno}"),
        Watchdog::Unknown | Watchdog::Off | Watchdog::Failed(_) => Ok(()),
    }
}
