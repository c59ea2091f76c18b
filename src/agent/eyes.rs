//! Looks at PostgreSQL: every second, when its postmaster ends, and when a job is done. One task, one look at a time, so
//! that what it reports is in order: a job's end is only told together with a look that began after it.

use std::future::pending;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::workshop::Finished;
use crate::clock;
use crate::decide::mind::{Event, Seen};
use crate::model::{Facts, Moment, Postgres, SlotRow, Span};
use crate::postgres::{
    ExitWatch, InstanceSettings, Observation, Observer, Postmaster, end_leftovers, watch_exit,
};

const LOOK_EVERY: Span = Span::from_secs(1);
/// Between two looks at a PostgreSQL that is on its way up or down.
const LOOK_SOON: Span = Span::from_ms(100);
/// However often somebody asks, there is this much between the beginnings of two looks.
const LOOKS_APART: Span = Span::from_ms(20);
const ORPHANS: Span = Span::from_secs(5);
/// A postmaster writes its pid file almost at once; on a busy machine that takes a while.
const EMERGES_WITHIN: Span = Span::from_secs(60);
/// How long PostgreSQL may take to answer one question.
const PATIENCE: Span = Span::from_secs(2);

/// What others than the loop want to know of the last look.
#[derive(Clone, Debug, Default)]
pub struct Sight {
    pub facts: Facts,
    pub slots: Vec<SlotRow>,
    pub postmaster: Option<Postmaster>,
}

pub struct Eyes {
    pub settings: watch::Receiver<Arc<InstanceSettings>>,
    pub events: mpsc::Sender<Event>,
    pub finished: mpsc::Receiver<Finished>,
    /// Somebody needs a look that begins no earlier.
    pub wanted: watch::Receiver<Moment>,
    pub sight: watch::Sender<Sight>,
}

impl Eyes {
    /// Looks until nobody wants to know any more.
    pub async fn look(mut self) {
        let mut observer = Observer::default();
        let mut exit: Option<(Postmaster, ExitWatch)> = None;
        let mut finished = None;
        let mut complaint = None;
        let mut emerging_since: Option<Moment> = None;
        loop {
            let settings = self.settings.borrow().clone();
            let looked_at = clock::now();
            let seen = observer.look(&settings, looked_at, PATIENCE).await;
            if complaint != seen.complaint {
                if let Some(why) = &seen.complaint {
                    tracing::warn!("{why}");
                }
                complaint.clone_from(&seen.complaint);
            }
            emerging_since =
                emerging_since.or(Some(looked_at)).filter(|_| !seen.leftovers.emerging.is_empty());
            let hangs = emerging_since.is_some_and(|since| EMERGES_WITHIN < looked_at.since(since));
            let doomed = if hangs { &seen.leftovers.emerging } else { &seen.leftovers.orphans };
            if !doomed.is_empty() {
                // Backends that outlive their postmaster can still acknowledge commits: until they are gone, nothing is
                // stopped, whatever the files say.
                if let Err(error) = end_leftovers(doomed, ORPHANS).await {
                    tracing::error!("{error}");
                    clock::pause(LOOK_SOON).await;
                }
                continue;
            }
            if !seen.leftovers.emerging.is_empty() {
                // Neither stopped nor a server yet.
                clock::pause(LOOK_SOON).await;
                continue;
            }
            watch_over(&mut exit, seen.postmaster);
            let wait = if in_motion(&seen.postgres) { LOOK_SOON } else { LOOK_EVERY };
            if self.report(seen, looked_at, finished.take()).await.is_err() {
                return;
            }
            let ended = async {
                match &exit {
                    Some((_, watch)) => watch.ended().await,
                    None => pending().await,
                }
            };
            tokio::select! {
                done = self.finished.recv() => match done {
                    Some(done) => finished = Some(done),
                    None => return,
                },
                () = ended => exit = None,
                () = asked_again(&mut self.wanted, looked_at) => {}
                () = clock::pause(wait) => {}
            }
        }
    }

    async fn report(
        &self,
        seen: Observation,
        looked_at: Moment,
        finished: Option<Finished>,
    ) -> Result<(), mpsc::error::SendError<Event>> {
        let Observation { postgres, facts, slots, postmaster, .. } = seen;
        // Whoever waits for a change waits for another postmaster; the rest is looked at when it is needed.
        self.sight.send_if_modified(|known| {
            let news = known.postmaster != postmaster;
            *known = Sight { facts, slots, postmaster };
            news
        });
        let seen = Seen { postgres, looked_at };
        let event = match finished {
            Some(Finished { id, outcome }) => Event::JobEnded { id, outcome, seen },
            None => Event::Postgres(seen),
        };
        self.events.send(event).await
    }
}

/// Ends when somebody wants a look that begins later than the last one did.
async fn asked_again(wanted: &mut watch::Receiver<Moment>, looked_at: Moment) {
    if wanted.wait_for(|since| looked_at < *since).await.is_err() {
        pending::<()>().await;
    }
    clock::pause(clock::now().until(looked_at + LOOKS_APART)).await;
}

fn in_motion(postgres: &Postgres) -> bool {
    match postgres {
        Postgres::Starting { .. } => true,
        Postgres::Running(running) => running.silent_since.is_some(),
        Postgres::Unobserved
        | Postgres::Empty
        | Postgres::Unfinished { .. }
        | Postgres::Unusable { .. }
        | Postgres::Stopped { .. } => false,
    }
}

/// Keeps watching the same postmaster, and turns to a new one.
fn watch_over(exit: &mut Option<(Postmaster, ExitWatch)>, postmaster: Option<Postmaster>) {
    if exit.as_ref().map(|(watched, _)| *watched) == postmaster {
        return;
    }
    *exit = postmaster.and_then(|postmaster| match watch_exit(postmaster) {
        Ok(watch) => Some((postmaster, watch)),
        Err(error) => {
            tracing::warn!(%error, "watch the postmaster; its end will be seen a little later");
            None
        }
    });
}
