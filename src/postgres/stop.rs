//! Stopping PostgreSQL: in good order, at once, or by killing everything that belongs to it.

use std::collections::BTreeSet;
use std::path::Path;

use nix::sys::signal::Signal;
use tokio::time::{sleep, timeout};

use super::custom::before_stop;
use super::error::{Error, Trying};
use super::process::{PidFileStatus, Postmaster, family_of, running_postmaster, watch_exit};
use super::settings::InstanceSettings;
use super::sql::{Target, connect};

use crate::clock;
use crate::model::Span;

/// How an instance came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// With a shutdown checkpoint, and after every connected standby had it.
    InOrder,
    /// It will have to recover when it starts again.
    AtOnce,
}

const QUIT: Span = Span::from_secs(1);
const KILL: Span = Span::from_secs(10);

/// Writes everything dirty first, so that the shutdown itself is short; then stops. What still lives after `patience`
/// is stopped at once.
pub async fn stop_orderly(settings: &InstanceSettings, patience: Span) -> Result<Stopped, Error> {
    let deadline = clock::now() + patience;
    if running_postmaster(&settings.data_dir).is_some_and(|(_, file)| file.status == PidFileStatus::Ready) {
        // A shutdown without it takes longer but is as good: that it failed is of no consequence.
        let _ = timeout(patience.scaled(1, 2).as_duration(), checkpoint(settings, patience)).await;
    }
    stop_fast(settings, clock::now().until(deadline)).await
}

/// Stops without ado. What still lives after `patience` is stopped at once.
pub async fn stop_fast(settings: &InstanceSettings, patience: Span) -> Result<Stopped, Error> {
    let what = "stop PostgreSQL";
    let deadline = clock::now() + patience;
    let Some((postmaster, _)) = running_postmaster(&settings.data_dir) else {
        kill_completely(settings, KILL).await?;
        return Ok(Stopped::AtOnce);
    };
    // The rest of the time is for the stop itself.
    before_stop(settings, patience.scaled(1, 2)).await;
    let watch = watch_exit(postmaster).trying(|| what.to_owned())?;
    postmaster.signal(Signal::SIGINT).trying(|| what.to_owned())?;
    if timeout(clock::now().until(deadline).as_duration(), watch.ended()).await.is_err() {
        stop_at_once(settings).await?;
        return Ok(Stopped::AtOnce);
    }
    kill_completely(settings, KILL).await?;
    Ok(Stopped::InOrder)
}

/// Without waiting for anybody. Nothing that was acknowledged is lost by it, the next start replays it.
pub async fn stop_at_once(settings: &InstanceSettings) -> Result<(), Error> {
    let what = "stop PostgreSQL at once";
    if let Some((postmaster, _)) = running_postmaster(&settings.data_dir) {
        let watch = watch_exit(postmaster).trying(|| what.to_owned())?;
        postmaster.signal(Signal::SIGQUIT).trying(|| what.to_owned())?;
        // Killing is next; that this was not enough is no error.
        let _ = timeout(QUIT.as_duration(), watch.ended()).await;
    }
    kill_completely(settings, KILL).await
}

/// Leaves no process of the instance alive, or says that it could not.
///
/// A postmaster that is killed alone leaves servers behind that can still acknowledge a commit. So it is frozen first,
/// which keeps it from making new ones, and goes last.
pub async fn kill_completely(settings: &InstanceSettings, patience: Span) -> Result<(), Error> {
    let killed = timeout(patience.as_duration(), kill_all(&settings.data_dir)).await;
    let Err(_) = killed else { return Ok(()) };
    // Whatever cannot be killed now must at least get no new siblings.
    if let Some((postmaster, _)) = running_postmaster(&settings.data_dir) {
        let _ = postmaster.signal(Signal::SIGKILL);
    }
    let left: Vec<String> = family_of(&settings.data_dir).iter().map(|one| one.pid.to_string()).collect();
    if left.is_empty() {
        return Ok(());
    }
    Err(Error::failed(
        "kill PostgreSQL",
        format!("processes {} do not go within {patience}", left.join(", ")),
    ))
}

/// Ends what nobody looks after any more, and nobody else: a new postmaster may be on its way up beside it.
pub async fn end_leftovers(those: &BTreeSet<Postmaster>, patience: Span) -> Result<(), Error> {
    for one in those {
        // Whether it has gone is looked at below, whatever this says.
        let _ = one.signal(Signal::SIGKILL);
    }
    let those: Vec<Postmaster> = those.iter().copied().collect();
    if timeout(patience.as_duration(), until_gone(&those)).await.is_ok() {
        return Ok(());
    }
    let left =
        those.iter().filter(|one| one.lives()).map(|one| one.pid.to_string()).collect::<Vec<_>>().join(", ");
    let why = format!("processes {left} do not go within {patience}");
    Err(Error::failed("end what a dead postmaster has left behind", why))
}

async fn kill_all(data_dir: &Path) {
    loop {
        let postmaster = running_postmaster(data_dir).map(|(postmaster, _)| postmaster);
        if let Some(postmaster) = postmaster {
            let _ = postmaster.signal(Signal::SIGSTOP);
        }
        let family = family_of(data_dir);
        let children: Vec<Postmaster> =
            family.iter().copied().filter(|one| Some(one.pid) != postmaster.map(|p| p.pid)).collect();
        match (children.is_empty(), postmaster) {
            (true, None) => return,
            (true, Some(postmaster)) => {
                let _ = postmaster.signal(Signal::SIGKILL);
                until_gone(&[postmaster]).await;
            }
            (false, _) => {
                for child in &children {
                    // Looked at again below, whatever this says.
                    let _ = child.signal(Signal::SIGKILL);
                }
                until_gone(&children).await;
            }
        }
    }
}

/// Zombies have gone: their frozen parent cannot reap them.
async fn until_gone(processes: &[Postmaster]) {
    while processes.iter().any(Postmaster::lives) {
        // There may be hundreds; a descriptor for each would be worse than looking again.
        sleep(Span::from_ms(2).as_duration()).await;
    }
}

/// Writes everything dirty to disk. On a primary this also makes a new timeline known to the control file.
pub async fn checkpoint(settings: &InstanceSettings, patience: Span) -> Result<(), Error> {
    let what = "checkpoint";
    let session = connect(what, &Target::local(settings), patience).await?;
    session.run(what, "CHECKPOINT", patience).await
}
