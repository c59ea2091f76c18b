//! Bringing a directory that went its own way back onto another member's lineage, by pg_rewind.

use super::command::{run, run_well, run_with_input};
use super::config_files::{Recovery, configure, keep_files};
use super::conninfo;
use super::control::read_control_data;
use super::diverged::{keep_diverged, point_of_divergence};
use super::error::{Error, Trying};
use super::files::remove_durably;
use super::pgpass::PassFile;
use super::programs::Programs;
use super::settings::InstanceSettings;
use super::start::{refuse_if_running, sweep};
use super::unfinished::{mark, marked, unmark, word};
use crate::model::{Address, ControlState, Span, Unfinished};

/// The source must be a primary that has made a checkpoint since its promotion.
///
/// Everything that can fail without harm is tried first. After that the mark stands, and a failure means that the
/// directory is beyond repair.
pub async fn rewind_from(settings: &InstanceSettings, source: &Address, patience: Span) -> Result<(), Error> {
    let what = format!("rewind from {}:{}", source.host, source.port);
    refuse_if_running(settings, &what)?;
    if let Some(work) = marked(settings) {
        return Err(Error::refused(what, format!("a {} has not ended here", word(work))));
    }
    sweep(settings).await?;
    let programs = Programs::of(settings).await?;
    recover_alone(settings, &programs, patience).await?;
    if restores_wal(settings) {
        // pg_rewind reads from this directory's own file where WAL that is missing here comes from. A primary's does not say it.
        let floors = read_control_data(settings, &programs, patience).await?.floors;
        let recovery = Recovery::Standby { upstream: Some(source.clone()) };
        configure(settings, &programs, &recovery, Some(&floors)).await?;
    }

    let passfile = PassFile::write(settings, "rewind", source, settings.rewind_login())?;
    let rewind = Rewind { settings, programs: &programs, source, passfile: &passfile };
    let trial = run(&what, rewind.command(&["--dry-run"])?, patience).await?;
    if !trial.status.success() {
        return Err(Error::failed(what, trial.complaint()));
    }
    if let Some(fork) = point_of_divergence(&trial.stderr) {
        let file = read_control_data(settings, &programs, patience).await?;
        let place = keep_diverged(settings, &file, fork, &what).await?;
        tracing::warn!("the WAL that only this member has, behind {fork}, is kept in {}", place.display());
    }
    let own_files = keep_files(settings);
    mark(settings, Unfinished::Rewind)?;
    run_well(&what, rewind.command(&[])?, patience).await?;
    // It brings the source's configuration along.
    own_files.put_back(settings)?;
    unmark(settings)
}

struct Rewind<'a> {
    settings: &'a InstanceSettings,
    programs: &'a Programs,
    source: &'a Address,
    passfile: &'a PassFile,
}

impl Rewind<'_> {
    fn command(&self, more: &[&str]) -> Result<tokio::process::Command, Error> {
        let settings = self.settings;
        let mut command = self.programs.plain_command(settings, "pg_rewind")?;
        let passfile = self.passfile.path().display().to_string();
        let attributes = [
            ("dbname", settings.database.as_str()),
            ("application_name", settings.name.as_str()),
            // A source that has lost its office in the meantime would lead us astray.
            ("target_session_attrs", "read-write"),
        ];
        let source = conninfo::to_member(settings.rewind_login(), self.source, &passfile, &attributes);
        command.arg("-D").arg(&settings.data_dir).arg(format!("--source-server={source}"));
        command.env("PGPASSFILE", self.passfile.path()).env("PGOPTIONS", "-c statement_timeout=0");
        let config_elsewhere = settings.config_is_elsewhere();
        if config_elsewhere && 15 <= self.programs.major {
            let file = settings.config_file();
            command.arg(format!("--config-file={}", file.display()));
        }
        if restores_wal(settings) && (15 <= self.programs.major || !config_elsewhere) {
            command.arg("--restore-target-wal");
        }
        command.args(more);
        Ok(command)
    }
}

fn restores_wal(settings: &InstanceSettings) -> bool {
    [&settings.parameters, &settings.recovery_conf]
        .into_iter()
        .any(|place| place.contains_key("restore_command"))
}

/// A server that crashed has to finish its recovery before it can be compared, without anybody to talk to. This is
/// what any start would do first; nothing that was acknowledged is lost by it.
async fn recover_alone(
    settings: &InstanceSettings,
    programs: &Programs,
    patience: Span,
) -> Result<(), Error> {
    let what = format!("recover {} in single-user mode", settings.data_dir.display());
    let control = read_control_data(settings, programs, patience).await?.control;
    match control.state {
        ControlState::ShutDown | ControlState::ShutDownInRecovery => return Ok(()),
        ControlState::StartingUp
        | ControlState::ShuttingDown
        | ControlState::InCrashRecovery
        | ControlState::InArchiveRecovery
        | ControlState::InProduction => {}
    }
    if control.backup_label {
        return Err(Error::refused(what, "it is a backup that has never been started"));
    }
    // A single-user server cannot be a standby. The next start of one writes the file anew.
    for signal in ["standby.signal", "recovery.signal"] {
        remove_durably(&settings.data_dir.join(signal))?;
    }
    let mut command = programs.plain_command(settings, "postgres")?;
    command.arg("--single").arg("-D").arg(&settings.data_dir);
    if settings.config_is_elsewhere() {
        let file = settings.config_file();
        command.arg("-c").arg(format!("config_file={}", file.display()));
    }
    // WAL that nobody else may ever see is not archived.
    command.args(["-c", "archive_mode=on", "-c", "archive_command=false"]);
    command.arg("template1");
    let outcome = run_with_input(&what, command, "", patience).await?;
    if !outcome.status.success() {
        return Err(Error::failed(what, outcome.complaint()));
    }
    let state = read_control_data(settings, programs, patience).await?.control.state;
    (state == ControlState::ShutDown).then_some(()).ok_or("it is not shut down afterwards").trying(|| what)
}
