//! Long work on PostgreSQL: one job at a time, in order, each of which can be cut short. A finished job goes to the eyes,
//! which look at what it has left behind before the loop hears of it.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::clock;
use crate::decide::mind::JobOutcome;
use crate::model::{Address, Gate, Job, Span, SyncNames, Timeline};
use crate::postgres::{self, InstanceSettings, ReplicaMethod};

/// These bounds only end what hangs for ever: nothing is decided by them.
const CLONE: Span = Span::from_secs(7 * 24 * 3600);
const REWIND: Span = Span::from_secs(24 * 3600);
const BOOTSTRAP: Span = Span::from_secs(1800);
const PROMOTE: Span = Span::from_secs(600);
const CHECKPOINT: Span = Span::from_secs(1800);
/// Other work waits meanwhile.
const SYNCHRONIZE: Span = Span::from_secs(3);
const NAMES: Span = Span::from_secs(10);

#[derive(Clone, Debug)]
pub enum Assignment {
    /// `source`: where a clone or a rewind copies from.
    Start {
        id: u64,
        job: Job,
        source: Option<Address>,
        start_patience: Span,
    },
    Cancel {
        id: u64,
    },
}

/// A job has come to its end; what it has left behind is still to be looked at.
#[derive(Clone, Copy, Debug)]
pub struct Finished {
    pub id: u64,
    pub outcome: JobOutcome,
}

pub struct Workshop {
    pub settings: watch::Receiver<Arc<InstanceSettings>>,
    pub assignments: mpsc::Receiver<Assignment>,
    pub finished: mpsc::Sender<Finished>,
    /// How far a clone has come.
    pub gauge: postgres::Gauge,
}

struct Bench {
    id: u64,
    job: Job,
    task: JoinHandle<Result<JobOutcome, String>>,
}

impl Workshop {
    /// Works until nobody assigns any more; what is under way then is cut short.
    pub async fn work(mut self) {
        let mut bench: Option<Bench> = None;
        loop {
            let ended = async {
                match &mut bench {
                    Some(bench) => (&mut bench.task).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // What has ended is told before anything new begins.
                biased;
                result = ended => {
                    if let Some(done) = bench.take() {
                        self.finish(&done, result).await;
                    }
                }
                assignment = self.assignments.recv() => match assignment {
                    Some(Assignment::Start { id, job, source, start_patience }) => {
                        clear(&mut bench).await;
                        let settings = self.settings.borrow().clone();
                        let work = perform(settings, job.clone(), source, start_patience, self.gauge.clone());
                        #[expect(clippy::disallowed_methods, reason = "the bench holds it, and clears it before it goes")]
                        let task = tokio::spawn(work);
                        bench = Some(Bench { id, job, task });
                    }
                    Some(Assignment::Cancel { id }) => {
                        if bench.as_ref().is_some_and(|bench| bench.id == id) {
                            clear(&mut bench).await;
                            let _ = self.finished.send(Finished { id, outcome: JobOutcome::Cancelled }).await;
                        }
                    }
                    None => {
                        clear(&mut bench).await;
                        return;
                    }
                },
            }
        }
    }

    async fn finish(&self, done: &Bench, result: Result<Result<JobOutcome, String>, tokio::task::JoinError>) {
        let outcome = match result {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => {
                tracing::warn!(job = done.job.name(), "{error}");
                JobOutcome::Failed
            }
            Err(error) => {
                tracing::error!(job = done.job.name(), %error, "the job broke down");
                JobOutcome::Failed
            }
        };
        // The eyes end only with the agent.
        let _ = self.finished.send(Finished { id: done.id, outcome }).await;
    }
}

/// Cuts short what is on the bench, and waits until it has let go: its programs are killed with it.
async fn clear(bench: &mut Option<Bench>) {
    if let Some(bench) = bench.take() {
        bench.task.abort();
        // Aborted or just ended: either way it has let go.
        let _ = bench.task.await;
    }
}

async fn perform(
    settings: Arc<InstanceSettings>,
    job: Job,
    source: Option<Address>,
    start_patience: Span,
    gauge: postgres::Gauge,
) -> Result<JobOutcome, String> {
    let settings = settings.as_ref();
    let from = |source: Option<Address>| source.ok_or("the address to copy from is not known".to_owned());
    let done = |result: Result<(), postgres::Error>| result.map(|()| JobOutcome::Done);
    let told = |result: Result<Vec<String>, postgres::Error>| {
        result.map(|complaints| {
            complain(&complaints);
            JobOutcome::Done
        })
    };
    let result = match job {
        Job::Bootstrap => match postgres::bootstrap(settings, bootstrap_patience(settings)).await {
            Ok(complaints) => {
                complain(&complaints);
                return made(settings).await;
            }
            Err(error) => Err(error),
        },
        Job::Clone { .. } => done(postgres::clone_from(settings, &from(source)?, CLONE, &gauge).await),
        Job::CloneWithoutLeader => done(postgres::clone_without_leader(settings, CLONE).await),
        // The lease is held meanwhile, and nobody accepts writes: as long as for a start, and no longer.
        Job::PrePromote { .. } => match &settings.hooks.pre_promote {
            Some(line) => done(postgres::run_hook(settings, "pre_promote", line, &[], start_patience).await),
            None => Ok(JobOutcome::Done),
        },
        Job::Rewind { .. } => done(postgres::rewind_from(settings, &from(source)?, REWIND).await),
        Job::StartPrimary { names, gate, .. } => {
            postgres::write_names(settings, &names).map_err(|error| error.to_string())?;
            let started = match gate {
                Gate::Open => postgres::start_primary(settings, start_patience).await,
                Gate::Closed => postgres::start_gated_primary(settings, start_patience).await,
            };
            told(started.map(|started| started.complaints))
        }
        Job::StartStandby { upstream } => {
            // Whoever promotes it by hand shall not wait for the standbys of another primary.
            postgres::write_names(settings, &SyncNames::Unmanaged).map_err(|error| error.to_string())?;
            let started = postgres::start_standby(settings, upstream, start_patience).await;
            told(started.map(|started| started.complaints))
        }
        Job::Promote { timeline, names, .. } => match promote(settings, timeline, &names).await {
            Ok(()) => Ok(JobOutcome::Done),
            Err(error @ postgres::Error::Refused { .. }) => Err(error),
            Err(error) => {
                // It may have begun another timeline, or begin one later: neither may be written on.
                let stopped = postgres::stop_at_once(settings).await;
                return Err(stopped.err().map_or(error.to_string(), |stop| format!("{error}; then {stop}")));
            }
        },
        // The methods of this cluster's replicas copy this cluster; the other one is copied as its section says.
        Job::CloneRemote => {
            match postgres::clone_from(&built_in(settings), &from(source)?, CLONE, &gauge).await {
                Ok(()) => return made(settings).await,
                Err(error) => Err(error),
            }
        }
        Job::RewindRemote => done(postgres::rewind_from(settings, &from(source)?, REWIND).await),
        Job::CopySlots { slots, upstream, .. } => told(
            postgres::copy_slots(settings, &from(source)?, &slots, upstream, start_patience)
                .await
                .map(|started| started.complaints),
        ),
        Job::Follow { upstream } => told(postgres::follow(settings, upstream).await),
        Job::StopOrderly { by, .. } => {
            postgres::stop_orderly(settings, clock::now().until(by)).await.map(|_| JobOutcome::Done)
        }
        Job::StopFast { by } => {
            postgres::stop_fast(settings, clock::now().until(by)).await.map(|_| JobOutcome::Done)
        }
        Job::StopAtOnce => done(postgres::stop_at_once(settings).await),
        Job::SetAside => postgres::set_aside(settings).await.map(|kept| {
            if let Some(kept) = kept {
                tracing::warn!("the former data directory is kept as {}", kept.display());
            }
            JobOutcome::Done
        }),
        Job::Checkpoint => done(postgres::checkpoint(settings, CHECKPOINT).await),
        Job::OpenGate => done(postgres::open_gate(settings, SYNCHRONIZE).await),
        Job::Synchronize { names } => told(postgres::synchronize(settings, &names, SYNCHRONIZE).await),
    };
    result.map_err(|error| error.to_string())
}

fn built_in(settings: &InstanceSettings) -> InstanceSettings {
    InstanceSettings { replica_methods: vec![ReplicaMethod::Basebackup], ..settings.clone() }
}

/// A restored backup has to be copied, and then to be recovered.
fn bootstrap_patience(settings: &InstanceSettings) -> Span {
    if settings.bootstrap_method.is_some() { CLONE } else { BOOTSTRAP }
}

/// The first commit waits for whom it should: nothing is promoted before.
async fn promote(
    settings: &InstanceSettings,
    timeline: Timeline,
    names: &SyncNames,
) -> Result<(), postgres::Error> {
    let prepared = postgres::prepare_promotion(settings, names, NAMES).await;
    let refused = |error: postgres::Error| postgres::Error::Refused {
        what: format!("promote to timeline {timeline}"),
        why: error.to_string(),
    };
    prepared.map_err(refused)?;
    postgres::promote(settings, timeline, PROMOTE).await
}

/// Settings that are not used as they stand.
pub fn complain(complaints: &[String]) {
    for complaint in complaints {
        tracing::warn!("{complaint}");
    }
}

/// The identity of what a bootstrap has made.
async fn made(settings: &InstanceSettings) -> Result<JobOutcome, String> {
    let programs = postgres::Programs::of(settings).await.map_err(|error| error.to_string())?;
    let file = postgres::read_control_data(settings, &programs, Span::from_secs(30)).await;
    file.map(|file| JobOutcome::Made(file.control.system)).map_err(|error| error.to_string())
}
