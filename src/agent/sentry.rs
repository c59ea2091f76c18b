//! Stands between the loop and the guardian: carries out the loop's latest order, tells which PostgreSQL to aim at, and
//! reports what the guardian has confirmed, or that there is none. A guardian that dies is replaced at once.

use std::path::{Path, PathBuf};

use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use super::cgroup;
use super::eyes::Sight;
use crate::clock;
use crate::decide::mind::Event;
use crate::fence::{self, Error, Guardian, Process, State, Status, Target};
use crate::model::{self, FenceOrder, Moment, Span, Watchdog, WatchdogFailure};

/// Between two attempts to find or start a guardian, or to be heard by one.
const RETRY: Span = Span::from_ms(500);
const IDLE: Span = Span::from_secs(60);
/// How often the guardian is asked for its watchdog, and how often while the device is being opened.
const LOOK_AT_WATCHDOG: Span = Span::from_secs(1);
const WATCHDOG_COMES: Span = Span::from_ms(50);

pub struct Sentry {
    pub settings: fence::Settings,
    /// Who starts the guardian, if not we.
    pub unit: Option<String>,
    /// Where we start PostgreSQL; one that was started elsewhere stays there.
    pub postgres_group: Option<PathBuf>,
    pub orders: watch::Receiver<FenceOrder>,
    pub watchdog: watch::Receiver<Option<fence::Watch>>,
    pub sight: watch::Receiver<Sight>,
    pub events: mpsc::Sender<Event>,
    /// Who looks for a guardian and starts one: a program comes from a disk.
    pub hands: Handle,
}

impl Sentry {
    /// Stands until the agent ends. `first` is the guardian that was found when it started.
    pub async fn stand(mut self, first: Option<Guardian>) {
        let mut found = first;
        let mut failures: u32 = 0;
        loop {
            if let Some(guardian) = found.take() {
                failures = 0;
                if self.serve(&guardian).await.is_err() {
                    return;
                }
                let notice = model::Notice::GuardianGone;
                tracing::warn!(message_id = %notice.message_id(), "{}", notice.sentence());
            }
            if self.report(model::Guardian::Absent).await.is_err() {
                return;
            }
            let (settings, unit) = (self.settings.clone(), self.unit.clone());
            let looking = self.hands.spawn(async move { find(&settings, unit.as_deref()).await });
            match looking.await {
                // Only an end of the agent cuts it short.
                Err(_) => return,
                Ok(Ok(guardian)) => found = Some(guardian),
                Ok(Err(error)) => {
                    failures = failures.saturating_add(1);
                    if failures == self.failures_to_tell() {
                        let unit = self
                            .unit
                            .as_deref()
                            .map_or_else(String::new, |unit| format!(" ({unit} runs it)"));
                        tracing::error!("{}{unit}", chain(&error));
                    }
                    clock::pause(RETRY).await;
                }
            }
        }
    }

    /// A unit takes a moment to bring a guardian back; our own attempt has failed if it has failed.
    fn failures_to_tell(&self) -> u32 {
        if self.unit.is_some() { 3 } else { 1 }
    }

    /// Serves one guardian until it is gone. An error means that the agent is.
    async fn serve(&mut self, guardian: &Guardian) -> Result<(), AgentGone> {
        let mut aimed = None;
        let mut done = None;
        let mut watched = None;
        let mut told = Watchdog::Unknown;
        let mut look_at = Moment::default();
        match guardian.status().await {
            Ok(status) => self.learn(guardian, &status).await?,
            Err(error) => {
                tracing::warn!("{}", chain(&error));
                return Ok(());
            }
        }
        loop {
            // An order that is given again is carried out again: the keeper may have armed the guardian meanwhile.
            let again = self.orders.has_changed().map_err(|_| AgentGone)?;
            let order = *self.orders.borrow_and_update();
            let target = target(&self.sight.borrow_and_update(), self.postgres_group.as_deref());
            let watch = self.watchdog.borrow_and_update().clone();
            if again {
                done = None;
            }
            let mut asks_again = None;
            let mut answer = None;
            if done != Some(order) || aimed.as_ref() != Some(&target) {
                let carried_out =
                    carry_out(guardian, order, (aimed.as_ref() != Some(&target)).then_some(&target)).await;
                match &carried_out {
                    Ok(status) => {
                        (done, aimed) = (Some(order), Some(target));
                        self.learn(guardian, status).await?;
                    }
                    // What it refuses now it may do soon: in the middle of a kill it takes no order.
                    Err(Error::Refused { status, .. }) => {
                        asks_again = Some(RETRY);
                        self.learn(guardian, status).await?;
                    }
                    Err(_) => asks_again = Some(RETRY),
                }
                answer = Some(in_force(carried_out));
            }
            // After the order: a new guardian must be armed before anything else is done with it.
            if watched.as_ref() != Some(&watch) {
                let asked = in_force(guardian.watch(watch.as_ref()).await);
                watched = asked.is_ok().then(|| watch.clone());
                answer = Some(asked);
            } else if answer.is_none() && look_at <= clock::now() {
                answer = Some(in_force(guardian.status().await));
            }
            if let Some(answer) = answer {
                let (watchdog, patience) = match answer {
                    Ok(status) => (status.standing.watchdog, patience_with_watchdog(watch.as_ref(), &status)),
                    Err(error) => {
                        tracing::warn!("{}", chain(&error));
                        (Watchdog::Unknown, RETRY)
                    }
                };
                look_at = clock::now() + patience;
                if std::mem::replace(&mut told, watchdog) != watchdog {
                    tell(watchdog);
                    self.events.send(Event::Watchdog(watchdog)).await.map_err(|_| AgentGone)?;
                }
            }
            let wait = asks_again.unwrap_or(IDLE).min(clock::now().until(look_at));
            tokio::select! {
                () = guardian.gone() => return Ok(()),
                changed = self.orders.changed() => {
                    changed.map_err(|_| AgentGone)?;
                    done = None;
                }
                changed = self.watchdog.changed() => changed.map_err(|_| AgentGone)?,
                changed = self.sight.changed() => changed.map_err(|_| AgentGone)?,
                () = clock::pause(wait) => {}
            }
        }
    }

    /// A report of a kill is read once, told, and may then be forgotten.
    async fn learn(&self, guardian: &Guardian, status: &Status) -> Result<(), AgentGone> {
        if let Some(report) = &status.report
            && report.ended_at.is_some()
        {
            let notice = model::Notice::KillReported;
            tracing::warn!(
                term = report.term.0,
                processes = report.processes,
                message_id = %notice.message_id(),
                "{}",
                notice.sentence()
            );
            if let Err(error) = guardian.acknowledge(report).await {
                tracing::debug!("{}", chain(&error));
            }
        }
        self.report(status.guardian()).await
    }

    async fn report(&self, guardian: model::Guardian) -> Result<(), AgentGone> {
        self.events.send(Event::Guardian(guardian)).await.map_err(|_| AgentGone)
    }
}

/// Nobody is there any more to stand for.
struct AgentGone;

/// What the guardian stands by, be it another thing than what was asked.
fn in_force(answer: Result<Status, Error>) -> Result<Status, Error> {
    match answer {
        Err(Error::Refused { status, .. }) => Ok(*status),
        answer => answer,
    }
}

/// `aim`: whom to aim at, if that is news to it.
async fn carry_out(guardian: &Guardian, order: FenceOrder, aim: Option<&Target>) -> Result<Status, Error> {
    if let Some(target) = aim.filter(|target| target.postmaster.is_some()) {
        guardian.aim(target).await?;
    }
    guardian.order(order, None).await
}

/// The guardian that is there, or, unless a unit does that, one that we start.
pub async fn find(settings: &fence::Settings, unit: Option<&str>) -> Result<Guardian, Error> {
    match unit {
        Some(_) => Guardian::connect(settings).await,
        None => Guardian::ensure(settings).await,
    }
}

/// The device is opened and closed after the guardian has answered.
fn patience_with_watchdog(watch: Option<&fence::Watch>, status: &Status) -> Span {
    let armed = matches!(status.standing.state, State::Armed { .. });
    match (watch, status.standing.watchdog) {
        (None, Watchdog::Off | Watchdog::Unknown) => IDLE,
        (Some(_), Watchdog::Off) => WATCHDOG_COMES,
        (Some(_), Watchdog::Ready { .. }) if armed => WATCHDOG_COMES,
        (Some(_), Watchdog::Armed { stays: false, .. }) if !armed => WATCHDOG_COMES,
        (
            Some(_) | None,
            Watchdog::Unknown | Watchdog::Ready { .. } | Watchdog::Armed { .. } | Watchdog::Failed(_),
        ) => LOOK_AT_WATCHDOG,
    }
}

fn tell(watchdog: Watchdog) {
    match watchdog {
        Watchdog::Unknown => {}
        // Most machines have none, and where one is required the rules say so.
        Watchdog::Failed(WatchdogFailure::Absent) => tracing::info!("watchdog {watchdog}"),
        Watchdog::Failed(failure) => tracing::warn!("watchdog {watchdog}; {}", failure.remedy()),
        Watchdog::Off | Watchdog::Ready { .. } | Watchdog::Armed { .. } => {
            tracing::info!("watchdog {watchdog}");
        }
    }
}

fn target(sight: &Sight, group: Option<&Path>) -> Target {
    let postmaster =
        sight.postmaster.map(|postmaster| Process { pid: postmaster.pid, start: postmaster.start_ticks() });
    let group = group.filter(|group| postmaster.is_some_and(|found| cgroup::holds(group, found.pid)));
    Target { postmaster, cgroup: group.and_then(Path::to_str).map(str::to_owned) }
}

pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;
