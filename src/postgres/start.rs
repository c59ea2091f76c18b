//! Starting PostgreSQL and changing whom it follows while it runs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use tokio::time::sleep;

use super::command::{last_lines, run, start_in};
use super::config_files::{Recovery, configure};
use super::control::{has, read_control_data};
use super::error::{Error, Trying};
use super::files::{remove_durably, remove_if_there, tail_of, write_durably};
use super::gate;
use super::history::remove_idle_placeholders;
use super::parameters::enforced;
use super::process::{PidFileStatus, Postmaster, family_of, running_postmaster};
use super::programs::Programs;
use super::settings::InstanceSettings;
use super::stop::kill_completely;
use super::unfinished::{has_never_led, lead, marked, word};
use crate::model::{Address, Gate, Notice, Span};

/// A postmaster that runs, whether or not it lets anybody in yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    pub postmaster: Postmaster,
    /// Not yet: it still replays WAL, and goes on doing so.
    pub accepting: bool,
    /// Sentences for the operator: settings that are not used as they stand.
    pub complaints: Vec<String>,
}

/// How long the processes of an earlier life are given to go.
const SWEEP: Span = Span::from_secs(10);
const LOG_BYTES_MAX: u64 = 8 << 20;

/// Starts it open for writes. Only whoever holds the lease asks for this.
pub async fn start_primary(settings: &InstanceSettings, patience: Span) -> Result<Started, Error> {
    start_behind(Gate::Open, settings, patience).await
}

/// The same, with nobody let in but Tenure's own roles until `open_gate`. Where that cannot be done, with everybody.
pub async fn start_gated_primary(settings: &InstanceSettings, patience: Span) -> Result<Started, Error> {
    start_behind(Gate::Closed, settings, patience).await
}

async fn start_behind(gate: Gate, settings: &InstanceSettings, patience: Span) -> Result<Started, Error> {
    let programs = Programs::of(settings).await?;
    prepare(settings).await?;
    let configured = configure(settings, &programs, &Recovery::Primary, None).await?;
    remove_durably(&settings.data_dir.join("standby.signal"))?;
    remove_durably(&settings.data_dir.join("recovery.signal"))?;
    // From here on this is the cluster's data, whoever made it.
    lead(settings)?;
    let mut options = enforced(&configured.parameters);
    let file = match gate {
        Gate::Open => None,
        Gate::Closed => closed_gate(settings, &programs).await,
    };
    options.extend(file.map(|file| ("hba_file".to_owned(), file.display().to_string())));
    let started = launch(settings, &programs, &options, patience).await?;
    if !options.contains_key("hba_file") {
        gate::forget(settings)?;
    }
    Ok(Started { complaints: configured.complaints, ..started })
}

/// Clients that read too early are the smaller harm than clients that wait for a primary for ever.
async fn closed_gate(settings: &InstanceSettings, programs: &Programs) -> Option<PathBuf> {
    match gate::close(settings, programs).await {
        Ok(file) => Some(file),
        Err(error) => {
            let notice = Notice::StartedWithoutGate;
            tracing::warn!(message_id = %notice.message_id(), "{}: {error}", notice.sentence());
            None
        }
    }
}

/// Starts it as a standby of `upstream`, or of nobody.
pub async fn start_standby(
    settings: &InstanceSettings,
    upstream: Option<Address>,
    patience: Span,
) -> Result<Started, Error> {
    let programs = Programs::of(settings).await?;
    prepare(settings).await?;
    if has_never_led(settings) {
        let what = format!("start PostgreSQL in {} as a standby", settings.data_dir.display());
        return Err(Error::refused(what, "it was made here for a new cluster, and nobody has led it yet"));
    }
    let control = read_control_data(settings, &programs, patience).await?;
    let recovery = Recovery::Standby { upstream };
    let configured = configure(settings, &programs, &recovery, Some(&control.floors)).await?;
    remove_idle_placeholders(&settings.data_dir)?;
    remove_durably(&settings.data_dir.join("recovery.signal"))?;
    write_durably(&settings.data_dir.join("standby.signal"), "", 0o600, settings.identity()?)?;
    let started = launch(settings, &programs, &enforced(&configured.parameters), patience).await?;
    gate::forget(settings)?;
    Ok(Started { complaints: configured.complaints, ..started })
}

/// Points a running standby at another server or at none, without a restart.
pub async fn follow(
    settings: &InstanceSettings,
    upstream: impl Into<Option<Address>>,
) -> Result<Vec<String>, Error> {
    let upstream = upstream.into();
    let what = match &upstream {
        Some(upstream) => format!("follow {}:{}", upstream.host, upstream.port),
        None => "follow nobody".to_owned(),
    };
    if !has(&settings.data_dir, "standby.signal") {
        return Err(Error::refused(what, "it is not a standby"));
    }
    remove_idle_placeholders(&settings.data_dir)?;
    reload(settings, &Recovery::Standby { upstream }).await
}

/// Brings the files in line with the settings and tells the server. Gives sentences for the operator.
pub async fn reload(settings: &InstanceSettings, recovery: &Recovery) -> Result<Vec<String>, Error> {
    let what = "reload the configuration";
    let programs = Programs::of(settings).await?;
    let floors = match recovery {
        Recovery::Primary => None,
        Recovery::Standby { .. } => Some(read_control_data(settings, &programs, SWEEP).await?.floors),
    };
    let configured = configure(settings, &programs, recovery, floors.as_ref()).await?;
    gate::refresh(settings);
    match running_postmaster(&settings.data_dir) {
        Some((postmaster, _)) => postmaster.signal(Signal::SIGHUP).trying(|| what.to_owned())?,
        None => return Err(Error::refused(what, "PostgreSQL does not run")),
    }
    Ok(configured.complaints)
}

/// Makes sure that nothing of an earlier life is in the way, and that a start is allowed at all.
pub(super) async fn prepare(settings: &InstanceSettings) -> Result<(), Error> {
    let what = format!("start PostgreSQL in {}", settings.data_dir.display());
    if let Some(work) = marked(settings) {
        let why = format!("a {} has not ended here, so the data may not be whole", word(work));
        return Err(Error::refused(what, why));
    }
    refuse_if_running(settings, &what)?;
    sweep(settings).await
}

pub(super) fn refuse_if_running(settings: &InstanceSettings, what: &str) -> Result<(), Error> {
    match running_postmaster(&settings.data_dir) {
        Some((postmaster, _)) => {
            let why = format!("PostgreSQL already runs there as process {}", postmaster.pid);
            Err(Error::refused(what, why))
        }
        None => Ok(()),
    }
}

/// Ends what a dead postmaster has left behind. Its lock files can go too then: PostgreSQL would otherwise take a
/// zombie, or whoever has got the number since, for a postmaster.
pub(super) async fn sweep(settings: &InstanceSettings) -> Result<(), Error> {
    if !family_of(&settings.data_dir).is_empty() {
        kill_completely(settings, SWEEP).await?;
    }
    let mut stale = vec![settings.data_dir.join("postmaster.pid")];
    stale.extend(socket_locks(settings).into_iter().filter(|lock| locked_by(lock, &settings.data_dir)));
    for lock in stale {
        remove_if_there(&lock).trying(|| format!("remove {}", lock.display()))?;
    }
    Ok(())
}

fn socket_locks(settings: &InstanceSettings) -> Vec<PathBuf> {
    let mut directories = vec![settings.socket_directory()];
    let listed = settings.parameters.get("unix_socket_directories");
    directories.extend(listed.iter().flat_map(|list| list.split(',')).map(|one| PathBuf::from(one.trim())));
    let name = format!(".s.PGSQL.{}.lock", settings.port);
    directories.into_iter().map(|directory| directory.join(&name)).collect()
}

/// Its second line names the data directory.
fn locked_by(lock: &Path, data_dir: &Path) -> bool {
    let text = fs::read_to_string(lock).unwrap_or_default();
    text.lines().nth(1).is_some_and(|directory| Path::new(directory) == data_dir)
}

/// pg_ctl gives the postmaster a session and a parent of its own, so that it outlives us. It also tells when the
/// postmaster dies on the way; that it is up we see sooner by ourselves.
pub(super) async fn launch(
    settings: &InstanceSettings,
    programs: &Programs,
    options: &BTreeMap<String, String>,
    patience: Span,
) -> Result<Started, Error> {
    let what = format!("start PostgreSQL in {}", settings.data_dir.display());
    begin_log(settings)?;
    let mut command = programs.command(settings, "pg_ctl")?;
    if let Some(group) = &settings.control_group
        && let Err(error) = start_in(&mut command, group)
    {
        tracing::warn!(%error, "PostgreSQL is not started in its control group {}", group.display());
    }
    command.args(["start", "-w", "-s", "-D"]).arg(&settings.data_dir);
    command.args(["-t", &patience.as_ms().div_ceil(1000).to_string(), "-l"]).arg(&settings.log_file);
    command.args(["-o", &server_options(settings, options)]);
    if settings.bin_names.contains_key("postgres") {
        command.arg("-p").arg(programs.path(settings, "postgres"));
    }
    // Its own patience is in whole seconds, ours ends first or a little later.
    let started = run(&what, command, patience + Span::from_secs(5));
    let outcome = tokio::select! {
        postmaster = until_accepting(settings) => {
            return Ok(Started { postmaster, accepting: true, complaints: Vec::new() });
        }
        outcome = started => outcome,
    };
    match (running_postmaster(&settings.data_dir), outcome) {
        (Some((postmaster, file)), Ok(_) | Err(Error::OutOfTime { .. })) => {
            let accepting = file.status == PidFileStatus::Ready;
            Ok(Started { postmaster, accepting, complaints: Vec::new() })
        }
        (Some(_) | None, Err(error)) => Err(error),
        (None, Ok(outcome)) => {
            let why = match last_words(settings) {
                none if none.is_empty() => outcome.complaint(),
                words => words,
            };
            Err(Error::failed(what, why))
        }
    }
}

async fn until_accepting(settings: &InstanceSettings) -> Postmaster {
    // Whoever waits for a line of a file to change can only look again.
    let again = Span::from_ms(10).as_duration();
    loop {
        match running_postmaster(&settings.data_dir) {
            Some((postmaster, file)) if file.status == PidFileStatus::Ready && !file.standalone => {
                return postmaster;
            }
            Some(_) | None => sleep(again).await,
        }
    }
}

/// For the shell that pg_ctl hands them to.
fn server_options(settings: &InstanceSettings, options: &BTreeMap<String, String>) -> String {
    let mut all = Vec::new();
    if settings.config_is_elsewhere() {
        let file = settings.config_file();
        all.push(("config_file".to_owned(), file.display().to_string()));
    }
    all.extend(options.iter().map(|(name, value)| (name.clone(), value.clone())));
    let quoted = |text: String| format!("'{}'", text.replace('\'', "'\\''"));
    let option = |(name, value): (String, String)| format!("-c {}", quoted(format!("{name}={value}")));
    all.into_iter().map(option).collect::<Vec<_>>().join(" ")
}

/// Everything after this belongs to this start; a long log makes room first.
fn begin_log(settings: &InstanceSettings) -> Result<(), Error> {
    let path = &settings.log_file;
    if fs::metadata(path).is_ok_and(|log| LOG_BYTES_MAX < log.len()) {
        let mut older = path.clone().into_os_string();
        older.push(".1");
        fs::rename(path, older).trying(|| format!("rename {}", path.display()))?;
    }
    // What PostgreSQL said in earlier lives must not be taken for the reason of a failure now.
    let collected = settings.data_dir.join("current_logfiles");
    remove_if_there(&collected).trying(|| format!("remove {}", collected.display()))?;
    if !path.exists() {
        write_durably(path, "", 0o600, settings.identity()?)?;
    }
    Ok(())
}

/// The end of what PostgreSQL itself has said, on stderr or in the files of its own collector.
pub(super) fn last_words(settings: &InstanceSettings) -> String {
    let mut said = tail_of(&settings.log_file, 8192).unwrap_or_default();
    let collected = fs::read_to_string(settings.data_dir.join("current_logfiles")).unwrap_or_default();
    let files = collected.lines().filter_map(|line| line.strip_prefix("stderr "));
    for file in files {
        said += &tail_of(&settings.data_dir.join(file), 8192).unwrap_or_default();
    }
    last_lines(&said, 6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_cannot_leave_its_quotes() {
        let address = Address { host: "db1".to_owned(), port: 5432 };
        let name = "db1".parse().expect("a good name");
        let mut settings = InstanceSettings::new(name, "it's", PathBuf::from("/data"), address);
        let options = BTreeMap::from([("cluster_name".to_owned(), "it's; rm x".to_owned())]);
        assert_eq!(server_options(&settings, &options), "-c 'cluster_name=it'\\''s; rm x'");
        settings.config_dir = PathBuf::from("/etc/pg");
        assert!(
            server_options(&settings, &options).starts_with("-c 'config_file=/etc/pg/postgresql.conf' -c ")
        );
    }
}
