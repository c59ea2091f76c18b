//! Looking at one instance: its files, its postmaster, and what it says of itself.

use std::path::Path;
use std::pin::pin;

use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

use super::clone::is_empty;
use super::conninfo::address_of;
use super::control::{ControlFile, has, read_control_data};
use super::details::{Details, Inquiry};
use super::error::Error;
use super::gate;
use super::history::read_forks;
use super::parameters::pending_restart;
use super::process::{Leftovers, PidFile, PidFileStatus, Postmaster, left_behind, running_postmaster};
use super::programs::{Programs, data_major};
use super::reached::standby_timeline;
use super::settings::InstanceSettings;
use super::sql::{Greeting, Session, Target, greet, knock};
use super::synchronous;
use super::unfinished::marked;
use crate::clock;
use crate::model::{
    Facts, Fork, Lsn, Moment, Position, Postgres, Running, Serving, SlotRow, Span, Synchrony, SystemId,
    Timeline, Unfinished,
};

/// What one look has found.
#[derive(Clone, Debug, Default)]
pub struct Observation {
    pub postgres: Postgres,
    /// What PostgreSQL knows of them; the rest is the agent's.
    pub facts: Facts,
    pub slots: Vec<SlotRow>,
    pub postmaster: Option<Postmaster>,
    /// What runs without a postmaster. Each orphan can still acknowledge a commit: as long as there are any, nothing here is
    /// stopped, whatever else it looks like, and `end_leftovers` is what ends them.
    pub leftovers: Leftovers,
    /// Why something is not known.
    pub complaint: Option<String>,
}

/// Keeps what one look needs of the look before.
#[derive(Debug, Default)]
pub struct Observer {
    /// A connection that answers even when every other one is taken.
    kept: Option<Inquiry>,
    known: Option<Known>,
    forks: Option<(Timeline, Vec<Fork>)>,
    /// A disk that hangs holds up one thread, and not one more with every look.
    looking: Option<JoinHandle<Files>>,
}

/// What this postmaster has said when it last said something.
#[derive(Debug)]
struct Known {
    postmaster: Postmaster,
    running: Option<Running>,
    system: Option<SystemId>,
    received_timeline: Option<Timeline>,
    silent_since: Option<Moment>,
    starting_since: Option<Moment>,
}

/// What lies on the disk.
#[derive(Debug)]
struct Files {
    unfinished: Option<Unfinished>,
    empty: Result<bool, String>,
    postmaster: Option<(Postmaster, PidFile)>,
    leftovers: Leftovers,
    standby_signal: bool,
    /// `synchronous_standby_names` is ours.
    managed: bool,
    /// Somebody has closed a gate here and has not opened it.
    gate_made: bool,
}

/// What a server answers.
enum Answer {
    Told(Box<Details>),
    /// It lives, and that is all that is known.
    Lives(String),
    NotYet(String),
    Silent(String),
}

impl Observer {
    /// Bounded by a small multiple of `patience`, whatever hangs.
    pub async fn look(&mut self, settings: &InstanceSettings, now: Moment, patience: Span) -> Observation {
        let Some(files) = self.look_at_files(settings, patience).await else {
            return self.behind_a_hung_disk(settings, now, patience);
        };
        let mut seen = Observation {
            facts: facts_of(settings),
            leftovers: files.leftovers.clone(),
            ..Observation::default()
        };
        if let Some(work) = files.unfinished {
            self.forget();
            seen.postgres = Postgres::Unfinished { work };
            seen.postmaster = files.postmaster.map(|(postmaster, _)| postmaster);
            return seen;
        }
        if let Some((postmaster, file)) = &files.postmaster {
            seen.postmaster = Some(*postmaster);
            return self.look_at_server(settings, &files, *postmaster, file, (now, patience), seen).await;
        }
        self.forget();
        seen.postgres = match &files.empty {
            Ok(true) => Postgres::Empty,
            Ok(false) => match control_of(settings, patience).await {
                Ok(file) => Postgres::Stopped { control: file.control },
                Err(why) => Postgres::Unusable { why },
            },
            Err(why) => Postgres::Unusable { why: why.clone() },
        };
        seen
    }

    fn forget(&mut self) {
        self.kept = None;
        self.known = None;
    }

    async fn look_at_files(&mut self, settings: &InstanceSettings, patience: Span) -> Option<Files> {
        let looking = self.looking.get_or_insert_with(|| {
            let settings = settings.clone();
            spawn_blocking(move || Files::read(&settings))
        });
        let looked = timeout(patience.as_duration(), looking).await.ok()?;
        self.looking = None;
        looked.ok()
    }

    /// The last known state, silent: no decision may rest on anything newer.
    fn behind_a_hung_disk(
        &mut self,
        settings: &InstanceSettings,
        now: Moment,
        patience: Span,
    ) -> Observation {
        let mut seen = Observation {
            facts: facts_of(settings),
            complaint: Some(format!("the data directory cannot be read within {patience}")),
            ..Observation::default()
        };
        if let Some(known) = &mut self.known {
            let since = *known.silent_since.get_or_insert(now);
            seen.postmaster = Some(known.postmaster);
            if let Some(running) = &known.running {
                seen.postgres = Postgres::Running(Running { silent_since: Some(since), ..running.clone() });
            }
        }
        seen
    }

    async fn look_at_server(
        &mut self,
        settings: &InstanceSettings,
        files: &Files,
        postmaster: Postmaster,
        file: &PidFile,
        (now, patience): (Moment, Span),
        mut seen: Observation,
    ) -> Observation {
        if self.known.as_ref().is_none_or(|known| known.postmaster != postmaster) {
            self.kept = None;
            self.known = Some(Known::new(postmaster));
        }
        // While it starts or serves a single user there is nobody to ask.
        let answer = if file.standalone || file.status == PidFileStatus::Starting {
            Answer::NotYet("it starts".to_owned())
        } else {
            self.ask(settings, file.status == PidFileStatus::Ready, patience).await
        };
        let Some(known) = &mut self.known else { return seen };
        match answer {
            Answer::Told(details) => {
                known.silent_since = None;
                known.starting_since = None;
                known.received_timeline = details.received_timeline.or(known.received_timeline);
                let timeline = standby_timeline(&settings.data_dir, &details, known.received_timeline);
                let on = if details.in_recovery { Some(timeline) } else { details.timeline };
                let forks = self.forks_of(&settings.data_dir, on, patience).await;
                fill_facts(&mut seen.facts, settings, &details);
                let starved = is_starved(settings, &details, patience).await;
                let gate = gate::seen(settings, files.gate_made, Some(&details.hba_file));
                let synchrony = synchronous::seen(settings, &details, files.managed, gate);
                let running = running_from(&details, timeline, forks, starved, synchrony);
                seen.slots = details.slots;
                if let (Some(known), Some(running)) = (&mut self.known, running) {
                    known.system = Some(running.system);
                    known.running = Some(running.clone());
                    seen.postgres = Postgres::Running(running);
                }
                seen
            }
            // A server that shuts down lets nobody in any more, and may still have somebody inside.
            Answer::NotYet(why) if file.status != PidFileStatus::Stopping => {
                known.silent_since = None;
                let started = Moment::from_ms(postmaster.started_at_ms());
                let restarted = known.running.is_some();
                let since = *known.starting_since.get_or_insert(if restarted { now } else { started });
                seen.complaint = Some(why);
                if known.system.is_none() {
                    known.system = control_of(settings, patience).await.ok().map(|file| file.control.system);
                }
                let as_primary = !files.standby_signal && !file.standalone;
                match known.system {
                    Some(system) => seen.postgres = Postgres::Starting { since, as_primary, system },
                    None => {
                        seen.postgres = Postgres::Unusable {
                            why: "a server starts here without a control file".to_owned(),
                        };
                    }
                }
                seen
            }
            Answer::Lives(why) => {
                known.silent_since = None;
                self.as_last_known(settings, files, why, patience, seen).await
            }
            Answer::NotYet(why) | Answer::Silent(why) => {
                known.silent_since.get_or_insert(now);
                self.as_last_known(settings, files, why, patience, seen).await
            }
        }
    }

    /// The kept connection tells what there is to know, even when there are no more connections to be had, and a child that the
    /// postmaster has just made shows that it is alive, which the kept one would hide.
    async fn ask(&mut self, settings: &InstanceSettings, ready: bool, patience: Span) -> Answer {
        let target = Target::local(settings);
        let mut unheard = None;
        if let Some(kept) = self.kept.as_ref().filter(|_| ready)
            && knock(&target, patience.scaled(1, 4)).await
        {
            match kept.ask(patience).await {
                Ok(details) => return Answer::Told(Box::new(details)),
                Err(error) => unheard = Some(error.to_string()),
            }
        }
        match greet_or_knock(&target, patience).await {
            Greeting::Silent(why) => Answer::Silent(why),
            Greeting::NotYet(why) => Answer::NotYet(why),
            // The kept one may only have waited for a lock. There is nothing to replace it by where nobody is let in.
            Greeting::TurnedAway(why) => match &self.kept {
                Some(kept) if unheard.is_none() => match kept.ask(patience).await {
                    Ok(details) => Answer::Told(Box::new(details)),
                    Err(error) => Answer::Lives(error.to_string()),
                },
                Some(_) | None => Answer::Lives(unheard.unwrap_or(why)),
            },
            Greeting::Welcome(session) => {
                self.kept = None;
                match first_answer(session, patience).await {
                    Ok((kept, details)) => {
                        self.kept = Some(kept);
                        Answer::Told(Box::new(details))
                    }
                    Err(error) => Answer::Lives(error.to_string()),
                }
            }
        }
    }

    /// It tells nothing new. What it was it still is, except that a standby may have been promoted meanwhile: then its
    /// signal file has gone.
    async fn as_last_known(
        &mut self,
        settings: &InstanceSettings,
        files: &Files,
        why: String,
        patience: Span,
        mut seen: Observation,
    ) -> Observation {
        seen.complaint = Some(why);
        let Some(known) = &mut self.known else { return seen };
        let running = match &known.running {
            Some(running) if running.is_primary() || files.standby_signal => Some(running.clone()),
            Some(running) => Some(Running { serving: silent_primary(running.position()), ..running.clone() }),
            None => control_of(settings, patience).await.ok().map(|file| {
                known.system = Some(file.control.system);
                running_by_files(settings, &file, files)
            }),
        };
        seen.postgres = match running {
            Some(running) => Postgres::Running(Running { silent_since: known.silent_since, ..running }),
            None => Postgres::Unusable { why: "a server runs here without a control file".to_owned() },
        };
        seen
    }

    async fn forks_of(
        &mut self,
        data_dir: &Path,
        timeline: Option<Timeline>,
        patience: Span,
    ) -> Option<Vec<Fork>> {
        let timeline = timeline?;
        if self.forks.as_ref().is_none_or(|(known, _)| *known != timeline) {
            let data_dir = data_dir.to_path_buf();
            let reading = spawn_blocking(move || read_forks(&data_dir, timeline));
            let forks = timeout(patience.as_duration(), reading).await.ok()?.ok()??;
            self.forks = Some((timeline, forks));
        }
        self.forks.as_ref().map(|(_, forks)| forks.clone())
    }
}

impl Known {
    fn new(postmaster: Postmaster) -> Known {
        Known {
            postmaster,
            running: None,
            system: None,
            received_timeline: None,
            silent_since: None,
            starting_since: None,
        }
    }
}

impl Files {
    fn read(settings: &InstanceSettings) -> Files {
        let data_dir = &settings.data_dir;
        let postmaster = running_postmaster(data_dir);
        let leftovers = if postmaster.is_none() { left_behind(data_dir) } else { Leftovers::default() };
        let told = |error| format!("read {}: {error}", data_dir.display());
        // Where a server runs there is something.
        let empty = if postmaster.is_none() { is_empty(data_dir).map_err(told) } else { Ok(false) };
        Files {
            unfinished: marked(settings),
            empty,
            postmaster,
            leftovers,
            standby_signal: has(data_dir, "standby.signal"),
            managed: synchronous::is_managed(settings),
            gate_made: gate::is_made(settings),
        }
    }
}

async fn first_answer(session: Session, patience: Span) -> Result<(Inquiry, Details), Error> {
    let inquiry = Inquiry::open(session, patience).await?;
    let details = inquiry.ask(patience).await?;
    Ok((inquiry, details))
}

/// A new connection waits for the postmaster, which must not hang, and then for locks, name servers and whatever else
/// authentication needs, which may. Where it takes long, the postmaster alone is asked: it lives if it answers anything.
async fn greet_or_knock(target: &Target, patience: Span) -> Greeting {
    let half = patience.scaled(1, 2);
    let mut greeting = pin!(greet(target, patience));
    let knocking = async {
        clock::pause(half).await;
        knock(target, half).await
    };
    let answered = tokio::select! {
        greeting = &mut greeting => return greeting,
        answered = knocking => answered,
    };
    match greeting.await {
        Greeting::Silent(why) if answered => {
            Greeting::TurnedAway(format!("the postmaster answers, and a new connection waits: {why}"))
        }
        greeting => greeting,
    }
}

async fn control_of(settings: &InstanceSettings, patience: Span) -> Result<ControlFile, String> {
    let programs = Programs::of(settings).await.map_err(|error| error.to_string())?;
    read_control_data(settings, &programs, patience).await.map_err(|error| error.to_string())
}

fn running_from(
    details: &Details,
    standby_timeline: Timeline,
    forks: Option<Vec<Fork>>,
    starved: bool,
    synchrony: Synchrony,
) -> Option<Running> {
    let serving = match (details.in_recovery, details.timeline, details.flushed) {
        (false, Some(timeline), Some(lsn)) => Serving::Primary {
            position: Position { timeline, lsn },
            checkpointed: details.control_timeline == Some(timeline),
            forks,
        },
        // It was promoted while it answered; the next look sees it whole.
        (false, _, _) => silent_primary(None),
        (true, _, _) => Serving::Standby {
            timeline: standby_timeline,
            received: details.received,
            replayed: details.replayed,
            streaming: details.streaming,
            upstream: address_of(&details.conninfo),
            forks,
            starved,
        },
    };
    Some(Running {
        system: details.system?,
        serving,
        silent_since: None,
        version: details.version,
        synchrony,
    })
}

/// Since PostgreSQL 14 a standby whose settings the primary's WAL has outgrown pauses, and would end when it is told to go
/// on. Its control file says what it would need.
async fn is_starved(settings: &InstanceSettings, details: &Details, patience: Span) -> bool {
    if !details.in_recovery || !details.paused {
        return false;
    }
    let Ok(programs) = Programs::of(settings).await else { return false };
    let Ok(file) = read_control_data(settings, &programs, patience).await else { return false };
    file.floors.0.iter().any(|(name, floor)| {
        details
            .in_force
            .get(*name)
            .and_then(|value| value.parse::<u64>().ok())
            .is_some_and(|has| has < *floor)
    })
}

fn silent_primary(position: Option<Position>) -> Serving {
    let position = position.unwrap_or(Position { timeline: Timeline::FIRST, lsn: Lsn::ZERO });
    Serving::Primary { position, checkpointed: false, forks: None }
}

fn running_by_files(settings: &InstanceSettings, file: &ControlFile, files: &Files) -> Running {
    let position = file.control.position();
    let serving = if files.standby_signal {
        Serving::Standby {
            timeline: position.timeline,
            received: None,
            replayed: Some(position.lsn),
            streaming: false,
            upstream: None,
            forks: None,
            starved: false,
        }
    } else {
        silent_primary(Some(position))
    };
    let version = data_major(&settings.data_dir).unwrap_or(0) * 10_000;
    let gate = gate::seen(settings, files.gate_made, None);
    let synchrony = Synchrony { gate, ..Synchrony::default() };
    Running { system: file.control.system, serving, silent_since: None, version, synchrony }
}

fn facts_of(settings: &InstanceSettings) -> Facts {
    Facts { scope: settings.scope.clone(), ..Facts::default() }
}

fn fill_facts(facts: &mut Facts, settings: &InstanceSettings, details: &Details) {
    facts.postmaster_start_time.clone_from(&details.started_timestamp);
    facts.replayed_timestamp.clone_from(&details.replayed_timestamp);
    facts.replay_paused = details.paused;
    facts.replication_state = match (details.in_recovery, details.streaming, details.restores) {
        (true, true, _) => Some("streaming".to_owned()),
        (true, false, true) => Some("in archive recovery".to_owned()),
        (true, false, false) | (false, _, _) => None,
    };
    facts.upstream_end = details.upstream_end;
    facts.replication.clone_from(&details.replication);
    facts.pending_restart = pending_restart(settings, details.pending_restart.as_ref(), &details.in_force);
}
