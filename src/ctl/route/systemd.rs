//! What systemd is told: that we are there, what we do, that the loop turns. Silent where there is no systemd.

use sd_notify::NotifyState::{Ready, Status, Watchdog};

use crate::clock;
use crate::model::{Moment, Span};

#[derive(Debug)]
pub struct Line {
    feeding: Option<Span>,
    fed: Option<Moment>,
    status: String,
}

impl Line {
    pub fn open() -> Line {
        let every = sd_notify::watchdog_enabled()
            .map(|limit| Span::from_ms(u64::try_from(limit.as_millis() / 3).unwrap_or(u64::MAX)));
        Line { feeding: every, fed: None, status: String::new() }
    }

    /// The loop has turned. It is ready from the first turn on: it can do without a store and without HAProxy for a while, and
    /// whoever is started after it shall not wait for them.
    pub fn turned(&mut self, status: &str) {
        let now = clock::now();
        let mut words = Vec::new();
        if self.fed.is_none() {
            words.push(Ready);
        }
        if status != self.status {
            words.push(Status(status));
        }
        if self.fed.is_none_or(|fed| self.feeding.is_some_and(|every| fed + every <= now)) {
            words.push(Watchdog);
            self.fed = Some(now);
        }
        // What could not be said now is said at the next change.
        if !words.is_empty() && sd_notify::notify(&words).is_ok() {
            status.clone_into(&mut self.status);
        }
    }
}
