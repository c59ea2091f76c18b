//! Brings a fault upon this member when an operator asks for it (`POST /drill`), where its own configuration allows that. It writes down who
//! has asked, answers, and then acts: the answer is the last that anybody hears of it.

use std::process;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::{mpsc, watch};

use super::eyes::Sight;
use crate::api::{DrillRefusal, DrillRequest};
use crate::clock;
use crate::config::Config;
use crate::fence::{self, Guardian};
use crate::model::{DRILL_CODE, Drill, Note, Notice, Remark, Span, Standing, Watchdog};
use crate::postgres::{Postmaster, kill_postmaster};
use crate::recorder::Recorder;

/// For the answer to travel: what is killed afterwards may be what sends it.
const ANSWER_TRAVELS: Span = Span::from_ms(250);
/// What the recorder's disk may take to hold what was written down.
const WRITTEN_WITHIN: Duration = Duration::from_secs(1);
/// A device fires after its timeout, or a little later.
const RESET_TAKES: Span = Span::from_secs(10);

pub struct Driller {
    pub config: Config,
    pub reloads: watch::Receiver<Option<Box<Config>>>,
    pub standings: watch::Receiver<Arc<Standing>>,
    pub sight: watch::Receiver<Sight>,
    pub fence: fence::Settings,
    pub recorder: Recorder,
    pub asked: mpsc::Receiver<DrillRequest>,
}

/// What is about to be done, and to whom.
#[derive(Debug)]
enum Deed {
    KillPostmaster(Postmaster),
    KillAgent,
    /// The guardian, and the time after which its device should have reset the machine.
    StopGuardian {
        guardian: Pid,
        timeout: Span,
    },
}

impl Driller {
    /// Answers as long as somebody can ask.
    pub async fn serve(mut self) {
        while let Some(DrillRequest { drill, member, note, reply }) = self.asked.recv().await {
            if let Some(config) = self.reloads.borrow_and_update().clone() {
                self.config = *config;
            }
            let standing = Arc::clone(&self.standings.borrow());
            let postmaster = self.sight.borrow().postmaster;
            let deed = match refused(&self.config, &standing, drill, member.as_str()) {
                Some(refusal) => Err(refusal),
                None => prepare(drill, &standing, postmaster, &self.fence).await,
            };
            match deed {
                Err(refusal) => {
                    tracing::warn!(by = note.by, "a drill was refused: {drill}");
                    // Whoever has stopped waiting will not miss it.
                    let _ = reply.send(Some(refusal));
                }
                Ok(deed) => {
                    self.write_down(drill, &note, standing).await;
                    // Whoever has stopped waiting has been told that it may begin all the same.
                    let _ = reply.send(None);
                    clock::pause(ANSWER_TRAVELS).await;
                    act(deed).await;
                }
            }
        }
    }

    /// In the log and in the flight recorder, whose file outlives this agent and this machine's memory.
    async fn write_down(&self, drill: Drill, note: &Note, standing: Arc<Standing>) {
        let sentence = sentence(drill, note);
        let notice = Notice::DrillAsked;
        tracing::warn!(message_id = %notice.message_id(), by = note.by, why = note.why, "{}: {sentence}", notice.sentence());
        let remark = Remark { at: clock::now(), code: DRILL_CODE, sentence };
        self.recorder.remark(standing, remark, clock::wall_ms());
        let recorder = self.recorder.clone();
        let _ = tokio::task::spawn_blocking(move || recorder.finish(WRITTEN_WITHIN)).await;
    }
}

fn sentence(drill: Drill, note: &Note) -> String {
    let why = note.why.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
    format!("{} has asked for a drill{why}: {}", note.by, drill.deed())
}

/// What speaks against it, by the configuration and by what the loop last knew.
fn refused(config: &Config, standing: &Standing, drill: Drill, member: &str) -> Option<DrillRefusal> {
    let (view, me) = (&standing.view, &standing.view.me);
    let not_now = |why: String| Some(DrillRefusal::NotNow(why));
    if member != me.as_str() {
        return not_now(format!("this is {me}, and the drill is for {member}"));
    }
    if !config.tenure.drills.contains(&drill) {
        let others = config.tenure.drills.iter().filter(|other| **other != drill).map(|other| other.word());
        let wanted: Vec<&str> = others.chain([drill.word()]).collect();
        let remedy = format!("set tenure.drills: [{}] in its configuration and reload", wanted.join(", "));
        return Some(DrillRefusal::NotAllowed(format!("{me} does not allow a drill of {drill}: {remedy}")));
    }
    let leads = view.lease.as_ref().is_some_and(|lease| clock::now() < lease.demote_at());
    if !leads || !view.postgres.is_primary() {
        return not_now(format!("{me} does not lead: a drill is for the primary"));
    }
    if view.policy.pause {
        return not_now("maintenance mode is on: nothing would be done about the fault".to_owned());
    }
    if view.ending {
        return not_now(format!("the agent of {me} is ending"));
    }
    if let Some(running) = &view.work.job {
        return not_now(format!("{} is under way on {me}", running.job.name()));
    }
    None
}

async fn prepare(
    drill: Drill,
    standing: &Standing,
    postmaster: Option<Postmaster>,
    fence: &fence::Settings,
) -> Result<Deed, DrillRefusal> {
    let not_now = |why: &str| DrillRefusal::NotNow(why.to_owned());
    match drill {
        Drill::Postmaster => {
            let living = postmaster.filter(Postmaster::lives);
            living.map(Deed::KillPostmaster).ok_or_else(|| not_now("no postmaster is known to run here"))
        }
        Drill::Agent => Ok(Deed::KillAgent),
        Drill::Host => {
            let Watchdog::Armed { timeout, .. } = standing.view.watchdog else {
                let why = format!(
                    "the watchdog device is {}: nothing would reset this machine",
                    standing.view.watchdog
                );
                return Err(DrillRefusal::NotNow(why));
            };
            let guardian = Guardian::connect(fence).await.ok().and_then(|guardian| guardian.pid());
            let guardian =
                guardian.filter(|pid| 1 < *pid).ok_or_else(|| not_now("the guardian does not answer"))?;
            Ok(Deed::StopGuardian { guardian: Pid::from_raw(guardian), timeout })
        }
    }
}

async fn act(deed: Deed) {
    match deed {
        Deed::KillPostmaster(postmaster) => {
            if let Err(error) = kill_postmaster(postmaster) {
                tracing::error!("kill the postmaster, as the drill wants it: {error}");
            }
        }
        Deed::KillAgent => {
            let me = i32::try_from(process::id()).map(Pid::from_raw);
            // As from outside: nothing is given back, and nobody is told.
            let killed = me.map(|me| kill(me, Signal::SIGKILL));
            tracing::error!("kill this agent, as the drill wants it: {killed:?}");
        }
        Deed::StopGuardian { guardian, timeout } => stop_guardian(guardian, timeout + RESET_TAKES).await,
    }
}

/// The device is not fed any more, and resets the machine within its timeout. Where it does not, it is not left unguarded.
async fn stop_guardian(guardian: Pid, within: Span) {
    if let Err(error) = kill(guardian, Signal::SIGSTOP) {
        tracing::error!("stop the guardian, as the drill wants it: {error}");
        return;
    }
    clock::pause(within).await;
    let notice = Notice::DrillInVain;
    tracing::error!(
        message_id = %notice.message_id(),
        "{} within {within}; the guardian goes on",
        notice.sentence()
    );
    if let Err(error) = kill(guardian, Signal::SIGCONT) {
        tracing::error!("let the guardian go on: {error}");
    }
}

#[cfg(test)]
mod tests;
