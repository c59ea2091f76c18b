//! What the WAL files tell: the timeline that a standby's WAL reaches into, which SQL does not tell once it has stopped
//! streaming, and whether some WAL is there at all.

use std::path::Path;

use super::details::Details;
use crate::model::{Lsn, Timeline};

/// The timeline that a standby's WAL reaches into. While it streams, its receiver knows; afterwards nothing in SQL
/// does, and the control file lags behind: then the segments that it has received tell.
pub(super) fn standby_timeline(data_dir: &Path, details: &Details, remembered: Option<Timeline>) -> Timeline {
    let told = [details.control_timeline, details.recovery_timeline, remembered].into_iter().flatten().max();
    let told = told.unwrap_or(Timeline::FIRST);
    if details.received_timeline.is_some() {
        return told;
    }
    let reached = details.received.max(details.replayed);
    let on_disk = reached.and_then(|lsn| newest_segment_timeline(data_dir, lsn, details.wal_segment_bytes));
    on_disk.map_or(told, |timeline| timeline.max(told))
}

/// Is the segment there, of whatever timeline, that holds this position?
pub(super) fn has_segment(data_dir: &Path, lsn: Lsn, segment_bytes: u64) -> bool {
    newest_segment_timeline(data_dir, Lsn(lsn.0.saturating_add(1)), segment_bytes).is_some()
}

/// The newest timeline that has a segment with the last byte before `reached`.
fn newest_segment_timeline(data_dir: &Path, reached: Lsn, segment_bytes: u64) -> Option<Timeline> {
    let suffix = segment_suffix(Lsn(reached.0.checked_sub(1)?), segment_bytes)?;
    let entries = std::fs::read_dir(data_dir.join("pg_wal")).ok()?;
    let timelines = entries.filter_map(|entry| {
        let name = entry.ok()?.file_name();
        let digits = name.to_str()?.strip_suffix(suffix.as_str())?;
        (digits.len() == 8).then(|| u32::from_str_radix(digits, 16).ok())?
    });
    timelines.max().map(Timeline)
}

/// The part of a WAL file's name that follows the timeline.
fn segment_suffix(lsn: Lsn, segment_bytes: u64) -> Option<String> {
    let number = lsn.0.checked_div(segment_bytes)?;
    let per_file_id = (1u64 << 32).checked_div(segment_bytes).filter(|count| *count != 0)?;
    Some(format!("{:08X}{:08X}", number / per_file_id, number % per_file_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_named_as_postgresql_names_it() {
        let check = |lsn: u64, bytes: u64, name: &str| {
            assert_eq!(segment_suffix(Lsn(lsn), bytes).as_deref(), Some(name), "{lsn:X}");
        };
        check(0x0300_0110, 16 << 20, "0000000000000003");
        check(0x0000_0002_FF00_0000, 16 << 20, "00000002000000FF");
        check(0x0000_0001_4000_0000, 1 << 30, "0000000100000001");
        assert_eq!(segment_suffix(Lsn(1), 0), None);
    }

    #[test]
    fn the_newest_timeline_with_the_last_byte_counts() {
        let directory = tempfile::tempdir().expect("a directory");
        let wal = directory.path().join("pg_wal");
        std::fs::create_dir(&wal).expect("made");
        for name in ["000000010000000000000003", "000000020000000000000003", "000000030000000000000004"] {
            std::fs::write(wal.join(name), "").expect("written");
        }
        let newest = |lsn| newest_segment_timeline(directory.path(), Lsn(lsn), 16 << 20);
        assert_eq!(newest(0x0300_0110), Some(Timeline(2)));
        assert_eq!(
            newest(0x0400_0000),
            Some(Timeline(2)),
            "a position at a border is the end of the segment before"
        );
        assert_eq!(newest(0x0500_0001), None);
    }
}
