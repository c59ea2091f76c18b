//! Ending recovery on exactly the timeline that the store has granted.

use std::path::Path;

use tokio::time::{Instant, sleep, timeout_at};

use super::command::run_well;
use super::control::has;
use super::error::{Error, Trying};
use super::files::write_if_changed;
use super::history::{HistoryFile, history_path, remove_idle_placeholders};
use super::process::{running_postmaster, watch_exit};
use super::programs::Programs;
use super::settings::{InstanceSettings, RunAs};
use super::sql::{Session, Target, connect};
use crate::model::{Span, Timeline};

/// More than any cluster goes through between two looks at it; a claim beyond is a mistake.
const SKIPPED_MAX: u32 = 10_000;

/// Returns when PostgreSQL takes writes on `claimed`. Any other timeline is an error, and the instance must then be
/// stopped: another member may have been granted the one that it has begun.
pub async fn promote(settings: &InstanceSettings, claimed: Timeline, patience: Span) -> Result<(), Error> {
    let what = format!("promote to timeline {claimed}");
    let deadline = Instant::now() + patience.as_duration();
    let programs = Programs::of(settings).await?;
    let Some((postmaster, _)) = running_postmaster(&settings.data_dir) else {
        return Err(Error::refused(what, "PostgreSQL does not run"));
    };
    if !has(&settings.data_dir, "standby.signal") {
        return Err(Error::refused(what, "it is not a standby"));
    }
    let died = watch_exit(postmaster).trying(|| what.clone())?;
    let session = connect(&what, &Target::local(settings), patience).await?;
    let own = session.row(&what, "SELECT timeline_id FROM pg_control_checkpoint()", patience).await?;
    let own: i32 = own.try_get(0).trying(|| what.clone())?;
    let own = Timeline(u32::try_from(own).trying(|| what.clone())?);
    let mut command = programs.plain_command(settings, "pg_ctl")?;
    // Whether it has worked is asked of the server itself, sooner and with the timeline.
    command.args(["promote", "-W", "-s", "-D"]).arg(&settings.data_dir);
    leave_only(&what, &settings.data_dir, own, claimed, settings.identity()?)?;
    if let Err(error) = run_well(&what, command, patience).await {
        if let Error::Refused { .. } | Error::Failed { .. } = error {
            // It stays a standby, which stand-ins would keep from starting again.
            remove_idle_placeholders(&settings.data_dir)?;
        }
        return Err(error);
    }
    let promoted = tokio::select! {
        promoted = timeout_at(deadline, until_primary(&what, &session, patience)) => promoted,
        () = died.ended() => return Err(Error::failed(what, "PostgreSQL has ended on the way")),
    };
    let begun = promoted.map_err(|_| Error::out_of_time(what.clone(), patience))??;
    if begun == claimed {
        Ok(())
    } else {
        Err(Error::failed(what, format!("PostgreSQL has begun timeline {begun} instead")))
    }
}

/// PostgreSQL takes the first number, counted upwards from its own, that no history file exists for. Stand-ins make it
/// pass over the ones that others were granted.
fn leave_only(
    what: &str,
    data_dir: &Path,
    own: Timeline,
    claimed: Timeline,
    owner: Option<RunAs>,
) -> Result<(), Error> {
    if claimed <= own {
        return Err(Error::refused(what, format!("it is on timeline {own} already")));
    }
    if history_path(data_dir, claimed).exists() {
        return Err(Error::refused(what, "somebody has begun it already: its history file is here"));
    }
    if SKIPPED_MAX < claimed.0 - own.0 {
        return Err(Error::refused(what, format!("that is too far from timeline {own}")));
    }
    for number in own.0 + 1..claimed.0 {
        let path = history_path(data_dir, Timeline(number));
        if !path.exists() {
            write_if_changed(&path, &HistoryFile::placeholder(Timeline(number)).format(), 0o600, owner)?;
        }
    }
    Ok(())
}

async fn until_primary(what: &str, session: &Session, patience: Span) -> Result<Timeline, Error> {
    let statement = "SELECT CASE WHEN pg_is_in_recovery() THEN NULL \
                     ELSE substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) END";
    loop {
        let row = session.row(what, statement, patience).await?;
        let timeline: Option<String> = row.try_get(0).trying(|| what.to_owned())?;
        if let Some(digits) = timeline {
            return u32::from_str_radix(&digits, 16).map(Timeline).trying(|| what.to_owned());
        }
        // The server tells nobody that recovery has ended; it can only be asked again.
        sleep(Span::from_ms(5).as_duration()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leave(data_dir: &Path, own: u32, claimed: u32) -> Result<(), Error> {
        leave_only("promote", data_dir, Timeline(own), Timeline(claimed), None)
    }

    #[test]
    fn the_numbers_between_are_taken_and_a_real_file_is_kept() {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(directory.path().join("pg_wal")).expect("a directory");
        let path = |number| history_path(directory.path(), Timeline(number));
        std::fs::write(path(3), "1\t0/3000000\treal\n").expect("written");
        assert_eq!(leave(directory.path(), 1, 5), Ok(()));
        let read = |number| std::fs::read_to_string(path(number)).expect("there");
        assert_eq!((read(2), read(4)), (HistoryFile::placeholder(Timeline(2)).format(), read(2)));
        assert_eq!(read(3), "1\t0/3000000\treal\n");
        assert!(!path(1).exists() && !path(5).exists());
    }

    #[test]
    fn a_timeline_that_is_taken_or_behind_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(directory.path().join("pg_wal")).expect("a directory");
        std::fs::write(history_path(directory.path(), Timeline(2)), "1\t0/3000000\treal\n").expect("written");
        for (own, claimed) in [(1, 2), (3, 3), (4, 3), (1, 50_000)] {
            assert!(
                matches!(leave(directory.path(), own, claimed), Err(Error::Refused { .. })),
                "{own} {claimed}"
            );
        }
    }
}
