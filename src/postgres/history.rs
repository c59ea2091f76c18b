//! Timeline history files: the ancestry of a timeline as PostgreSQL writes it into pg_wal.

use std::fs;
use std::path::{Path, PathBuf};

use super::error::{Error, Trying};
use super::files::{names_in, remove_durably};
use crate::model::{Fork, Lsn, Timeline};

/// `%08X.history`: each ancestor with the position at which it was left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryFile {
    pub timeline: Timeline,
    /// Oldest first.
    pub forks: Vec<HistoryFork>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryFork {
    pub parent: Timeline,
    pub at: Lsn,
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HistoryFileError {
    #[error("line {0} is not a timeline, a position and a reason: {1:?}")]
    Line(usize, String),
    #[error(
        "line {0} does not name a later timeline than the line before, or none before the file's own: {1}"
    )]
    Order(usize, Timeline),
}

impl HistoryFile {
    pub fn parse(timeline: Timeline, text: &str) -> Result<HistoryFile, HistoryFileError> {
        let mut forks: Vec<HistoryFork> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let content = line.split('#').next().unwrap_or_default().trim_start();
            if content.trim().is_empty() {
                continue;
            }
            let fork =
                parse_line(content).ok_or_else(|| HistoryFileError::Line(index + 1, line.to_owned()))?;
            let newest = forks.last().map_or(Timeline(0), |last| last.parent);
            if fork.parent <= newest || timeline <= fork.parent {
                return Err(HistoryFileError::Order(index + 1, fork.parent));
            }
            forks.push(fork);
        }
        Ok(HistoryFile { timeline, forks })
    }

    pub fn format(&self) -> String {
        let line = |fork: &HistoryFork| format!("{}\t{}\t{}\n", fork.parent, fork.at, fork.reason);
        self.forks.iter().map(line).collect()
    }

    /// Where each timeline before this one was left.
    pub fn forks_without_gaps(&self) -> Vec<Fork> {
        let real = self.forks.iter().map(|fork| Fork { parent: fork.parent, at: fork.at });
        Fork::without_gaps(real, self.timeline)
    }

    /// A stand-in for a timeline that somebody was allowed to begin and never led.
    ///
    /// It makes PostgreSQL pass over the number when it chooses one for itself, and since it forks off before any data,
    /// no running standby ever follows it. A standby that *starts*, however, takes the newest number that it finds for
    /// its target and refuses to go there: without a real one above, stand-ins must be gone by then.
    pub fn placeholder(timeline: Timeline) -> HistoryFile {
        let reason = "tenure: claimed and never led".to_owned();
        HistoryFile { timeline, forks: vec![HistoryFork { parent: Timeline::FIRST, at: Lsn(0x100), reason }] }
    }

    fn is_placeholder(&self) -> bool {
        *self == HistoryFile::placeholder(self.timeline)
    }
}

/// Three fields with white space between them; the reason may contain more of it.
fn parse_line(line: &str) -> Option<HistoryFork> {
    let (parent, rest) = line.split_once(char::is_whitespace)?;
    let rest = rest.trim_start();
    let (at, reason) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let parent = parent.bytes().all(|byte| byte.is_ascii_digit()).then(|| parent.parse().ok())??;
    Some(HistoryFork { parent: Timeline(parent), at: at.parse().ok()?, reason: reason.trim().to_owned() })
}

/// A timeline number that PostgreSQL could have made; the file of a claim is never longer than this.
const TIMELINES_MAX: u32 = 100_000;

/// The ancestry of a timeline as its history file in `data_dir` tells it; none while there is no readable file.
pub(super) fn read_forks(data_dir: &Path, timeline: Timeline) -> Option<Vec<Fork>> {
    if timeline == Timeline::FIRST {
        return Some(Vec::new());
    }
    if TIMELINES_MAX < timeline.0 {
        return None;
    }
    let text = fs::read_to_string(history_path(data_dir, timeline)).ok()?;
    let file = HistoryFile::parse(timeline, &text).ok()?;
    // A real file always has its parent in it; a half-written one may not.
    (!file.forks.is_empty()).then(|| file.forks_without_gaps())
}

/// Removes the stand-ins that no real timeline has come of. They would keep a standby from starting, and later hide
/// the real file of a timeline that they only stand for here.
pub(super) fn remove_idle_placeholders(data_dir: &Path) -> Result<(), Error> {
    let directory = data_dir.join("pg_wal");
    let names = names_in(&directory).trying(|| format!("read {}", directory.display()))?;
    let timelines = names.iter().filter_map(|name| {
        let digits = name.to_str()?.strip_suffix(".history")?;
        (digits.len() == 8).then(|| u32::from_str_radix(digits, 16).ok())?.map(Timeline)
    });
    // The newest number first, down to the first real one.
    let mut newest_first: Vec<Timeline> = timelines.collect();
    newest_first.sort_by(|one, other| other.cmp(one));
    for timeline in newest_first {
        let path = history_path(data_dir, timeline);
        let text = fs::read_to_string(&path).trying(|| format!("read {}", path.display()))?;
        if !HistoryFile::parse(timeline, &text).is_ok_and(|file| file.is_placeholder()) {
            break;
        }
        remove_durably(&path)?;
    }
    Ok(())
}

pub(super) fn history_path(data_dir: &Path, timeline: Timeline) -> PathBuf {
    data_dir.join("pg_wal").join(format!("{:08X}.history", timeline.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn forks(text: &str, timeline: u32) -> Vec<(u32, u64)> {
        let file = HistoryFile::parse(Timeline(timeline), text).expect("a good file");
        file.forks_without_gaps().iter().map(|fork| (fork.parent.0, fork.at.0)).collect()
    }

    #[test]
    fn a_file_of_postgresql_is_understood() {
        let text = "1\t0/3000110\tno recovery target specified\n\n2\t0/5000000\tbefore 2026-11-21\n";
        assert_eq!(forks(text, 3), [(1, 0x0300_0110), (2, 0x0500_0000)]);
        let file = HistoryFile::parse(Timeline(3), text).expect("a good file");
        assert_eq!(file.forks[1].reason, "before 2026-11-21");
    }

    #[test]
    fn a_skipped_timeline_was_left_before_its_first_byte() {
        assert_eq!(forks("1\t0/80\tx\n4\t0/90\tx\n", 6), [(1, 0x80), (2, 0), (3, 0), (4, 0x90), (5, 0)]);
    }

    #[test]
    fn a_wrong_line_is_named() {
        let error = |text: &str| HistoryFile::parse(Timeline(3), text).expect_err("bad").to_string();
        assert_eq!(error("# x\n1 0/z x"), "line 2 is not a timeline, a position and a reason: \"1 0/z x\"");
        assert!(error("2\t0/1\tx\n1\t0/2\tx").contains("line 2"));
        assert!(error("3\t0/1\tx").contains("line 1"));
    }

    #[test]
    fn a_placeholder_is_one_line() {
        assert_eq!(
            HistoryFile::placeholder(Timeline(7)).format(),
            "1\t0/100\ttenure: claimed and never led\n"
        );
    }

    #[test]
    fn only_stand_ins_above_the_newest_real_file_are_idle() {
        let directory = tempfile::tempdir().expect("a directory");
        fs::create_dir(directory.path().join("pg_wal")).expect("made");
        let path = |number| history_path(directory.path(), Timeline(number));
        for number in [2, 4, 5, 7] {
            fs::write(path(number), HistoryFile::placeholder(Timeline(number)).format()).expect("written");
        }
        fs::write(path(3), "1\t0/3000000\treal\n").expect("written");
        remove_idle_placeholders(directory.path()).expect("removed");
        assert_eq!([2, 3, 4, 5, 7].map(|number| path(number).exists()), [true, true, false, false, false]);
    }

    proptest! {
        #[test]
        fn a_file_survives_being_written_and_read(
            steps in prop::collection::vec((1u32..5, any::<u64>(), "[a-z]([a-z ]{0,10}[a-z])?"), 0..8),
        ) {
            let mut timeline = 0;
            let mut forks = Vec::new();
            for (step, at, reason) in steps {
                timeline += step;
                forks.push(HistoryFork { parent: Timeline(timeline), at: Lsn(at), reason });
            }
            let file = HistoryFile { timeline: Timeline(timeline + 1), forks };
            prop_assert_eq!(HistoryFile::parse(file.timeline, &file.format()), Ok(file.clone()));
            let whole = file.forks_without_gaps();
            prop_assert!(whole.iter().enumerate().all(|(index, fork)| fork.parent.0 as usize == index + 1));
            prop_assert_eq!(whole.len(), timeline as usize);
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in "[0-9a-fA-F/#\\t\\n -]{0,60}", timeline in 0u32..9) {
            let _ = HistoryFile::parse(Timeline(timeline), &text);
        }
    }
}
