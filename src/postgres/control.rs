//! The control file, through `pg_controldata`.

use std::collections::BTreeMap;
use std::path::Path;

use super::command::run_well;
use super::error::Error;
use super::programs::Programs;
use super::settings::InstanceSettings;
use super::unfinished::has_never_led;
use crate::model::{Control, ControlState, Lsn, Position, Span, SystemId, Timeline};

/// What the control file says, with what only starting needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlFile {
    pub control: Control,
    pub floors: StandbyFloors,
    pub wal_segment_bytes: u64,
}

/// A standby cannot run with less than its primary had when it wrote the WAL: parameter names and values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StandbyFloors(pub BTreeMap<&'static str, u64>);

/// `pg_controldata` and the files beside the control file.
pub async fn read_control_data(
    settings: &InstanceSettings,
    programs: &Programs,
    patience: Span,
) -> Result<ControlFile, Error> {
    let mut command = programs.plain_command(settings, "pg_controldata")?;
    command.arg(&settings.data_dir);
    let what = format!("read the control file of {}", settings.data_dir.display());
    let said = run_well(&what, command, patience).await?;
    let mut file = parse_control_data(&said).map_err(|why| Error::failed(what, why))?;
    file.control.standby_signal = has(&settings.data_dir, "standby.signal");
    file.control.backup_label = has(&settings.data_dir, "backup_label");
    file.control.never_led = has_never_led(settings);
    Ok(file)
}

pub(super) fn has(data_dir: &Path, file: &str) -> bool {
    data_dir.join(file).exists()
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlDataError {
    #[error("pg_controldata does not say {0:?}")]
    Missing(&'static str),
    #[error("pg_controldata says {1:?} for {0:?}, which is not understood")]
    Unreadable(&'static str, String),
}

/// Reads what `pg_controldata` prints in the C locale. The files beside the control file are not its business.
pub fn parse_control_data(said: &str) -> Result<ControlFile, ControlDataError> {
    let lines = Lines::read(said);
    let checkpoint = Position {
        timeline: Timeline(lines.number("Latest checkpoint's TimeLineID")?),
        lsn: lines.lsn("Latest checkpoint location")?,
    };
    let recovery_end = Position {
        timeline: Timeline(lines.number("Min recovery ending loc's timeline")?),
        lsn: lines.lsn("Minimum recovery ending location")?,
    };
    let checksums: u32 = lines.number("Data page checksum version")?;
    let control = Control {
        system: SystemId(lines.number("Database system identifier")?),
        state: lines.state()?,
        checkpoint,
        recovery_end: (recovery_end.lsn != Lsn::ZERO).then_some(recovery_end),
        standby_signal: false,
        backup_label: false,
        never_led: false,
        rewindable: checksums != 0 || lines.text("wal_log_hints setting")? == "on",
    };
    let floors = FLOORS.iter().map(|&(parameter, label)| Ok((parameter, lines.number(label)?)));
    Ok(ControlFile {
        control,
        floors: StandbyFloors(floors.collect::<Result<_, _>>()?),
        wal_segment_bytes: lines.number("Bytes per WAL segment")?,
    })
}

const FLOORS: &[(&str, &str)] = &[
    ("max_connections", "max_connections setting"),
    ("max_locks_per_transaction", "max_locks_per_xact setting"),
    ("max_prepared_transactions", "max_prepared_xacts setting"),
    ("max_wal_senders", "max_wal_senders setting"),
    ("max_worker_processes", "max_worker_processes setting"),
];

struct Lines<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Lines<'a> {
    fn read(said: &'a str) -> Lines<'a> {
        Lines(said.lines().filter_map(|line| line.split_once(':')).map(|(k, v)| (k, v.trim())).collect())
    }

    fn text(&self, label: &'static str) -> Result<&'a str, ControlDataError> {
        self.0.get(label).copied().ok_or(ControlDataError::Missing(label))
    }

    fn number<T: std::str::FromStr>(&self, label: &'static str) -> Result<T, ControlDataError> {
        let text = self.text(label)?;
        text.parse().map_err(|_| ControlDataError::Unreadable(label, text.to_owned()))
    }

    fn lsn(&self, label: &'static str) -> Result<Lsn, ControlDataError> {
        self.number(label)
    }

    fn state(&self) -> Result<ControlState, ControlDataError> {
        let label = "Database cluster state";
        Ok(match self.text(label)? {
            "starting up" => ControlState::StartingUp,
            "shut down" => ControlState::ShutDown,
            "shut down in recovery" => ControlState::ShutDownInRecovery,
            "shutting down" => ControlState::ShuttingDown,
            "in crash recovery" => ControlState::InCrashRecovery,
            "in archive recovery" => ControlState::InArchiveRecovery,
            "in production" => ControlState::InProduction,
            other => return Err(ControlDataError::Unreadable(label, other.to_owned())),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SAID: &str = "\
pg_control version number:            1300
Catalog version number:               202209061
Database system identifier:           7710491781769402274
Database cluster state:               in archive recovery
pg_control last modified:             Sat Nov 21 05:26:05 2026
Latest checkpoint location:           0/17414F8
Latest checkpoint's REDO location:    0/17414F8
Latest checkpoint's REDO WAL file:    000000010000000000000001
Latest checkpoint's TimeLineID:       3
Minimum recovery ending location:     1/2000
Min recovery ending loc's timeline:   4
wal_level setting:                    replica
wal_log_hints setting:                off
max_connections setting:              100
max_worker_processes setting:         8
max_wal_senders setting:              10
max_prepared_xacts setting:           0
max_locks_per_xact setting:           64
track_commit_timestamp setting:       off
Bytes per WAL segment:                16777216
Data page checksum version:           1
";

    #[test]
    fn what_pg_controldata_prints_is_understood() {
        let file = parse_control_data(SAID).expect("a good text");
        assert_eq!(
            file.control,
            Control {
                system: SystemId(7_710_491_781_769_402_274),
                state: ControlState::InArchiveRecovery,
                checkpoint: Position::new(3, 0x0174_14F8),
                recovery_end: Some(Position::new(4, 0x1_0000_2000)),
                standby_signal: false,
                backup_label: false,
                never_led: false,
                rewindable: true,
            }
        );
        assert_eq!(file.floors.0["max_connections"], 100);
        assert_eq!(file.wal_segment_bytes, 16 << 20);
    }

    #[test]
    fn hints_make_up_for_checksums() {
        let without = SAID.replace("version:           1", "version:           0");
        assert!(!parse_control_data(&without).expect("a good text").control.rewindable);
        let hints = without.replace("hints setting:                off", "hints setting:                on");
        assert!(parse_control_data(&hints).expect("a good text").control.rewindable);
    }

    #[test]
    fn a_primary_has_no_recovery_end() {
        let primary = SAID.replace("1/2000", "0/0");
        assert_eq!(parse_control_data(&primary).expect("a good text").control.recovery_end, None);
    }

    #[test]
    fn what_is_not_understood_is_named() {
        let error = |text: &str| parse_control_data(text).expect_err("a bad text").to_string();
        assert_eq!(error(""), "pg_controldata does not say \"Latest checkpoint's TimeLineID\"");
        assert_eq!(
            error(&SAID.replace("in archive recovery", "on holiday")),
            "pg_controldata says \"on holiday\" for \"Database cluster state\", which is not understood"
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(cut in 0usize..1400, insert in ".{0,12}") {
            let mut text: String = SAID.chars().take(cut).collect();
            text.push_str(&insert);
            let _ = parse_control_data(&text);
        }
    }
}
