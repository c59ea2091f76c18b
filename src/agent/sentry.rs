//! Stands between the loop and the guardian: carries out the loop's latest order, tells which PostgreSQL to aim at, and
//! reports what the guardian has confirmed, or that there is none. A guardian that dies is replaced at once.

use tokio::sync::{mpsc, watch};

use super::eyes::Sight;
use crate::clock;
use crate::decide::mind::Event;
use crate::fence::{self, Error, Guardian, Process, State, Status, Target};
use crate::model::{self, FenceOrder, Span, Watchdog, WatchdogFailure};

/// Between two attempts to find or start a guardian, or to be heard by one.
const RETRY: Span = Span::from_ms(500);
const IDLE: Span = Span::from_secs(60);
/// How often the guardian is asked for its watchdog, and how often while the device is being opened.
const LOOK_AT_WATCHDOG: Span = Span::from_secs(1);
const WATCHDOG_COMES: Span = Span::from_ms(50);

pub struct Sentry {
    pub settings: fence::Settings,
    pub orders: watch::Receiver<FenceOrder>,
    pub watchdog: watch::Receiver<Option<fence::Watch>>,
    pub sight: watch::Receiver<Sight>,
    pub events: mpsc::Sender<Event>,
}

impl Sentry {
    /// Stands until the agent ends. `first` is the guardian that was found when it started.
    pub async fn stand(mut self, first: Option<Guardian>) {
        let mut found = first;
        let mut complained = false;
        loop {
            if let Some(guardian) = found.take() {
                complained = false;
                if self.serve(&guardian).await.is_err() {
                    return;
                }
                tracing::warn!("the guardian is gone");
            }
            if self.report(model::Guardian::Absent).await.is_err() {
                return;
            }
            match Guardian::ensure(&self.settings).await {
                Ok(guardian) => found = Some(guardian),
                Err(error) => {
                    if !std::mem::replace(&mut complained, true) {
                        tracing::error!("{}", chain(&error));
                    }
                    clock::pause(RETRY).await;
                }
            }
        }
    }

    /// Serves one guardian until it is gone. An error means that the agent is.
    async fn serve(&mut self, guardian: &Guardian) -> Result<(), AgentGone> {
        let mut aimed = None;
        let mut done = None;
        let mut watched = None;
        let mut told = Watchdog::Unknown;
        match guardian.status().await {
            Ok(status) => self.learn(guardian, &status).await?,
            Err(error) => {
                tracing::warn!("{}", chain(&error));
                return Ok(());
            }
        }
        loop {
            let order = *self.orders.borrow_and_update();
            let target = target(&self.sight.borrow_and_update());
            let watch = self.watchdog.borrow_and_update().clone();
            let mut wait = IDLE;
            if done != Some(order) || aimed != Some(target.clone()) {
                match in_force(carry_out(guardian, order, &target).await) {
                    Ok(status) => {
                        (done, aimed) = (Some(order), Some(target));
                        self.learn(guardian, &status).await?;
                    }
                    Err(error) => {
                        tracing::warn!("{}", chain(&error));
                        wait = RETRY;
                    }
                }
            }
            // After the order: a new guardian must be armed before anything else is done with it.
            let asked = if watched.as_ref() == Some(&watch) {
                guardian.status().await
            } else {
                guardian.watch(watch.as_ref()).await
            };
            let watchdog = match in_force(asked) {
                Ok(status) => {
                    wait = wait.min(patience_with_watchdog(watch.as_ref(), &status));
                    watched = Some(watch);
                    status.standing.watchdog
                }
                Err(error) => {
                    tracing::warn!("{}", chain(&error));
                    wait = RETRY;
                    Watchdog::Unknown
                }
            };
            if std::mem::replace(&mut told, watchdog) != watchdog {
                tell(watchdog);
                self.events.send(Event::Watchdog(watchdog)).await.map_err(|_| AgentGone)?;
            }
            tokio::select! {
                () = guardian.gone() => return Ok(()),
                changed = self.orders.changed() => changed.map_err(|_| AgentGone)?,
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
            tracing::warn!(
                term = report.term.0,
                processes = report.processes,
                "the guardian has killed PostgreSQL"
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

async fn carry_out(guardian: &Guardian, order: FenceOrder, target: &Target) -> Result<Status, Error> {
    if target.postmaster.is_some() {
        guardian.aim(target).await?;
    }
    guardian.order(order, None).await
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

fn target(sight: &Sight) -> Target {
    let postmaster =
        sight.postmaster.map(|postmaster| Process { pid: postmaster.pid, start: postmaster.start_ticks() });
    Target { postmaster, cgroup: None }
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
