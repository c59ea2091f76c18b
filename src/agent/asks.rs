//! What operators ask of this member's PostgreSQL: who waits for which answer, and the restart that is to come. A restart
//! at some time is kept in memory only, as Patroni keeps it: it dies with the agent.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio::sync::oneshot;

use crate::api::{Command, Restart, conditions_hold};
use crate::decide::mind::Event;
use crate::model::{Ask, Consent, Moment, Outcome, Span, Standing, Whose};

/// How late a restart may begin, at least; the same as for a switchover.
const LATENESS: Span = Span::from_secs(15);

#[derive(Debug, Default)]
pub struct Asks {
    asked: u64,
    waiting: BTreeMap<u64, oneshot::Sender<Outcome>>,
    leaders: BTreeMap<u64, oneshot::Sender<Consent>>,
    scheduled: Option<Scheduled>,
}

#[derive(Debug)]
struct Scheduled {
    at: Timestamp,
    restart: Restart,
    whose: Whose,
    /// When PostgreSQL had been started. If it is started anew meanwhile, what was wanted has happened.
    postmaster_start_time: Option<String>,
}

impl Asks {
    /// What the mind must hear of a request.
    pub fn take(&mut self, command: Command, postmaster_start_time: Option<String>) -> Option<Event> {
        match command {
            Command::Ask { ask, reply } => {
                self.asked += 1;
                self.waiting.insert(self.asked, reply);
                Some(Event::Asked { id: self.asked, ask })
            }
            Command::Consent { from, wanted, reply } => {
                self.asked += 1;
                self.leaders.insert(self.asked, reply);
                Some(Event::ConsentAsked { id: self.asked, from, wanted })
            }
            Command::ScheduleRestart { restart, whose, reply } => {
                let free = self.scheduled.is_none();
                if let Some(schedule) = restart.schedule.as_ref().filter(|_| free) {
                    self.scheduled =
                        Some(Scheduled { at: schedule.at, restart, whose, postmaster_start_time });
                }
                // Whoever has stopped waiting for the answer will not miss it.
                let _ = reply.send(free);
                None
            }
            Command::DeleteRestart { reply } => {
                let _ = reply.send(self.scheduled.take().is_some());
                None
            }
            // The store's, and the signals' business.
            Command::RequestFailover { .. }
            | Command::ClearFailover { .. }
            | Command::WriteConfig { .. }
            | Command::Reload => None,
        }
    }

    pub fn answer(&mut self, id: u64, outcome: Outcome) {
        if let Some(reply) = self.waiting.remove(&id) {
            let _ = reply.send(outcome);
        } else {
            tracing::info!("the scheduled restart: {outcome:?}");
        }
    }

    pub fn consent(&mut self, id: u64, consent: Consent) {
        // A leader that has stopped waiting for the answer does not count it.
        if let Some(reply) = self.leaders.remove(&id) {
            let _ = reply.send(consent);
        }
    }

    /// The scheduled restart, once, when its time has come.
    pub fn due(&mut self, standing: &Standing, wall: Timestamp) -> Option<Event> {
        let scheduled = self.scheduled.as_ref()?;
        let restarted = match (&scheduled.postmaster_start_time, &standing.facts.postmaster_start_time) {
            (Some(before), Some(now)) => before != now,
            (Some(_) | None, Some(_) | None) => false,
        };
        if restarted {
            tracing::info!("PostgreSQL has been restarted meanwhile: the scheduled restart is dropped");
            self.scheduled = None;
            return None;
        }
        if standing.view.policy.pause || wall < scheduled.at {
            return None;
        }
        let Scheduled { at, restart, .. } = self.scheduled.take()?;
        let latest = standing.view.policy.loop_wait.scaled(3, 2).max(LATENESS);
        if latest.as_duration() < wall.duration_since(at).unsigned_abs() {
            tracing::warn!("the time of the scheduled restart has passed: it is dropped");
            return None;
        }
        if !conditions_hold(&restart.conditions, standing) {
            tracing::info!("the conditions of the scheduled restart are not satisfied: it is dropped");
            return None;
        }
        self.asked += 1;
        Some(Event::Asked { id: self.asked, ask: Ask::Restart { timeout: restart.timeout } })
    }

    /// Whose the scheduled restart is.
    pub fn wanted(&self) -> Option<Whose> {
        self.scheduled.as_ref().map(|scheduled| scheduled.whose.clone())
    }

    /// As it stands in the member's record.
    pub fn document(&self) -> Option<Value> {
        let scheduled = self.scheduled.as_ref()?;
        let mut document = scheduled.restart.document.clone();
        if let Some(started) = &scheduled.postmaster_start_time {
            document.insert("postmaster_start_time".to_owned(), started.clone().into());
        }
        Some(Value::Object(document))
    }
}

/// When a time of the wall clock comes, on the boot clock, if nobody sets the wall clock meanwhile. A time that cannot
/// be read has been due for ever.
pub fn moment_of(text: &str, now: Moment, wall: Timestamp) -> Moment {
    let Ok(at) = text.parse::<Timestamp>() else { return Moment::default() };
    let span = |length: SignedDuration| {
        Span::from_ms(u64::try_from(length.unsigned_abs().as_millis()).unwrap_or(u64::MAX))
    };
    let ahead = at.duration_since(wall);
    if ahead.is_negative() { now - span(ahead) } else { now + span(ahead) }
}
