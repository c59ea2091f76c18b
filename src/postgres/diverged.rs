//! The WAL that only this directory has: copied beside it, with the control file, before pg_rewind takes it away. Bounded in
//! size, number and age.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::sys::statvfs::statvfs;
use serde::{Deserialize, Serialize};

use super::command::{prepared, run};
use super::control::ControlFile;
use super::error::{Error, Trying};
use super::files::{give_to, make_private_directory, names_in, sync_parent, write_durably};
use super::set_aside::{list_set_aside, stamp, stamped};
use super::settings::{InstanceSettings, RunAs};
use crate::doctor::KeptFacts;
use crate::model::{Lsn, Position, Span, SystemId, Timeline};

const MARK: &str = ".diverged-";
const ABOUT: &str = "about.json";
/// One divergence is seldom larger; what is left out is said.
const BYTES_MAX: u64 = 1 << 30;
/// The copy leaves most of what is free to the rewind and to PostgreSQL.
const SHARE_OF_FREE: u64 = 4;
/// We keep fewer; somebody may have put more there.
const KEPT_TOLD_MAX: usize = 50;
/// Older ones go when another one is made.
const AGE_MAX: Span = Span::from_secs(30 * 24 * 3600);

/// What is known of WAL that was kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diverged {
    pub kept_at: String,
    pub why: String,
    pub system: SystemId,
    /// Where the other history left this one: what follows, nobody else has.
    pub timeline: Timeline,
    pub from: Lsn,
    /// The last record that the control file tells of: it is on this timeline.
    pub to_timeline: Timeline,
    pub to: Lsn,
    pub bytes: u64,
    /// Segments for which there was no room.
    pub left_out: usize,
}

/// Where pg_rewind says that the two histories part; none where it has nothing to do.
pub(super) fn point_of_divergence(said: &str) -> Option<Position> {
    let (_, rest) = said.split_once("servers diverged at WAL location ")?;
    let (lsn, rest) = rest.split_once(" on timeline ")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some(Position { timeline: Timeline(digits.parse().ok()?), lsn: lsn.trim().parse().ok()? })
}

/// Copies the WAL behind `fork` and the control file. Whatever stands in the directory stays as it is.
pub(super) async fn keep_diverged(
    settings: &InstanceSettings,
    file: &ControlFile,
    fork: Position,
    why: &str,
) -> Result<PathBuf, Error> {
    let what = format!("keep the WAL of {} behind {fork}", settings.data_dir.display());
    let stamp = stamp();
    let place = settings.beside(&format!("{MARK}{stamp}"));
    let last = file.control.position();
    let about = Diverged {
        kept_at: crate::clock::wall().to_string(),
        why: why.to_owned(),
        system: file.control.system,
        timeline: fork.timeline,
        from: fork.lsn,
        to_timeline: last.timeline,
        to: last.lsn,
        bytes: 0,
        left_out: 0,
    };
    // A standby may have received more than its control file tells of.
    let end = file.control.was_primary().then_some(last.lsn);
    let span = Segments { bytes: file.wal_segment_bytes, from: fork.lsn, end };
    let (data_dir, owner) = (settings.data_dir.clone(), settings.identity()?);
    let keep = settings.set_aside_max.max(1);
    let copied = tokio::task::spawn_blocking(move || {
        let about = copy(&data_dir, &place, &span, about, owner)?;
        remove_oldest(&data_dir, keep)?;
        Ok::<_, Error>((place, about))
    });
    let (place, about) = copied.await.trying(|| what.clone())?.trying(|| what)?;
    if 0 < about.left_out {
        let (left_out, bytes) = (about.left_out, about.bytes);
        tracing::warn!(
            "{left_out} segments of diverged WAL are not kept, for want of room; {bytes} bytes are"
        );
    }
    Ok(place)
}

/// What is kept beside a data directory, oldest first. One whose description cannot be read is told without it.
pub fn list_diverged(data_dir: &Path) -> io::Result<Vec<(PathBuf, Option<Diverged>)>> {
    let Some((parent, name)) = data_dir.parent().zip(data_dir.file_name()) else { return Ok(Vec::new()) };
    let kept = stamped(names_in(parent)?, &format!("{}{MARK}", name.to_string_lossy()));
    let read = |place: &Path| serde_json::from_slice(&fs::read(place.join(ABOUT)).ok()?).ok();
    Ok(kept.into_iter().map(|name| parent.join(name)).map(|place| (place.clone(), read(&place))).collect())
}

/// Diverged WAL and data directories that were set aside, the oldest of each kind first, as many of the newest as fit into an answer.
pub fn list_kept(data_dir: &Path) -> io::Result<Vec<KeptFacts>> {
    let diverged = list_diverged(data_dir)?.into_iter().map(|(place, about)| {
        let path = place.display().to_string();
        let Some(about) = about else {
            return KeptFacts { path, what: "diverged WAL, not whole".to_owned(), ..KeptFacts::default() };
        };
        KeptFacts {
            path,
            what: "diverged WAL".to_owned(),
            at: about.kept_at,
            timeline: Some(about.timeline),
            from: Some(about.from),
            to: Some(about.to),
            bytes: Some(about.bytes),
            why: about.why,
        }
    });
    let set_aside = list_set_aside(data_dir)?.into_iter().map(|place| {
        let path = place.display().to_string();
        let at = path.rsplit('-').next().unwrap_or_default().to_owned();
        KeptFacts { path, what: "data directory".to_owned(), at, ..KeptFacts::default() }
    });
    let mut kept: Vec<KeptFacts> = diverged.chain(set_aside).collect();
    let surplus = kept.len().saturating_sub(KEPT_TOLD_MAX);
    kept.drain(..surplus);
    Ok(kept)
}

/// How many records of which kind there are, in the words of pg_waldump.
pub async fn summarize_diverged(
    programs: &Path,
    place: &Path,
    about: &Diverged,
    patience: Span,
) -> Result<String, Error> {
    let what = format!("summarize the WAL in {}", place.display());
    let mut command = prepared(programs.join("pg_waldump"), None);
    command.env("LC_ALL", "C").arg("--stats").arg("-p").arg(place);
    command.arg(format!("--timeline={}", about.timeline)).arg(format!("--start={}", about.from));
    if about.to_timeline == about.timeline && about.from < about.to {
        command.arg(format!("--end={}", about.to));
    }
    let outcome = run(&what, command, patience).await?;
    // It fails at the end of the WAL, having told what it has read.
    if outcome.stdout.is_empty() { Err(Error::failed(what, outcome.complaint())) } else { Ok(outcome.stdout) }
}

/// Which segments hold WAL behind a position.
struct Segments {
    bytes: u64,
    from: Lsn,
    end: Option<Lsn>,
}

impl Segments {
    /// Beyond the end there are files as well: those that PostgreSQL will use next, full of old bytes.
    fn contain(&self, name: &str) -> bool {
        self.number(name).is_some_and(|number| {
            self.from.0 / self.bytes <= number && self.end.is_none_or(|end| number <= end.0 / self.bytes)
        })
    }

    /// The number of a segment, counted from the beginning of WAL: eight digits of the timeline, eight and eight of its place.
    fn number(&self, name: &str) -> Option<u64> {
        let digits = name.len() == 24 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        let part = |range| u64::from_str_radix(name.get(range)?, 16).ok();
        let per_file = (1 << 32) / self.bytes.max(1);
        digits.then(|| Some(part(8..16)? * per_file + part(16..24)?)).flatten()
    }
}

fn copy(
    data_dir: &Path,
    place: &Path,
    span: &Segments,
    about: Diverged,
    owner: Option<RunAs>,
) -> Result<Diverged, Error> {
    make_private_directory(place, owner)?;
    let mut about = about;
    let mut copy_all = || -> io::Result<()> {
        let free = statvfs(place).map_or(0, |disk| disk.blocks_available() * disk.fragment_size());
        let budget = BYTES_MAX.min(free / SHARE_OF_FREE);
        let wal = data_dir.join("pg_wal");
        for name in names_in(&wal)? {
            let text = name.to_string_lossy();
            let history = text.ends_with(".history");
            if !history && !span.contain(&text) {
                continue;
            }
            let bytes = fs::metadata(wal.join(&name))?.len();
            if budget < about.bytes + bytes {
                about.left_out += 1;
                continue;
            }
            copy_file(&wal.join(&name), &place.join(&name), owner)?;
            about.bytes += bytes;
        }
        copy_file(&data_dir.join("global/pg_control"), &place.join("pg_control"), owner)
    };
    copy_all().trying(|| format!("copy WAL to {}", place.display()))?;
    let text = serde_json::to_string_pretty(&about).trying(|| "describe the WAL that is kept".to_owned())?;
    // Written last: what has no description is not whole.
    write_durably(&place.join(ABOUT), &text, 0o600, owner)?;
    sync_parent(place).trying(|| format!("write {}", place.display()))?;
    Ok(about)
}

fn copy_file(from: &Path, to: &Path, owner: Option<RunAs>) -> io::Result<()> {
    fs::copy(from, to)?;
    give_to(to, owner)?;
    fs::File::open(to)?.sync_all()
}

/// Only what carries our mark and stamp; never the newest.
fn remove_oldest(data_dir: &Path, keep: usize) -> Result<(), Error> {
    let remove = || -> io::Result<()> {
        let mut kept: Vec<PathBuf> = list_diverged(data_dir)?.into_iter().map(|(place, _)| place).collect();
        kept.pop();
        let too_many = (kept.len() + 1).saturating_sub(keep);
        for (index, place) in kept.iter().enumerate() {
            let made = fs::metadata(place)?.modified()?;
            let too_old = SystemTime::from(crate::clock::wall())
                .duration_since(made)
                .is_ok_and(|age| AGE_MAX.as_duration() < age);
            if index < too_many || too_old {
                fs::remove_dir_all(place)?;
            }
        }
        Ok(())
    };
    remove().trying(|| format!("remove the oldest WAL kept beside {}", data_dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pg_rewind_says_where_two_histories_part() {
        let said =
            "pg_rewind: servers diverged at WAL location 0/3000148 on timeline 1\npg_rewind: rewinding";
        assert_eq!(point_of_divergence(said), Some(Position::new(1, 0x0300_0148)));
        assert_eq!(point_of_divergence("pg_rewind: no rewind required"), None);
        assert_eq!(point_of_divergence("servers diverged at WAL location x on timeline y"), None);
    }

    #[test]
    fn the_segments_behind_the_fork_are_kept_and_nothing_else() {
        let span = Segments { bytes: 16 << 20, from: Lsn(0x0300_0148), end: Some(Lsn(0x1_0000_0028)) };
        for (name, kept) in [
            ("000000010000000000000002", false),
            ("000000010000000000000003", true),
            ("0000000200000000000000FF", true),
            ("000000010000000100000000", true),
            ("000000010000000100000001", false),
            ("000000010000000000000003.partial", false),
            ("archive_status", false),
        ] {
            assert_eq!(span.contain(name), kept, "{name}");
        }
    }

    #[test]
    fn what_is_kept_is_described_and_the_oldest_goes_first() {
        let parent = tempfile::tempdir().expect("a directory");
        let data_dir = parent.path().join("data");
        fs::create_dir_all(data_dir.join("pg_wal")).expect("made");
        fs::create_dir_all(data_dir.join("global")).expect("made");
        fs::write(data_dir.join("global/pg_control"), "control").expect("written");
        for name in ["000000010000000000000002", "000000010000000000000003", "00000001.history"] {
            fs::write(data_dir.join("pg_wal").join(name), "wal").expect("written");
        }
        let span = Segments { bytes: 16 << 20, from: Lsn(0x0300_0000), end: None };
        let about = Diverged {
            kept_at: "2026-11-21T05:12:00Z".to_owned(),
            why: "rewound".to_owned(),
            system: SystemId(1),
            timeline: Timeline(1),
            from: span.from,
            to_timeline: Timeline(1),
            to: Lsn(0x0300_0100),
            bytes: 0,
            left_out: 0,
        };
        for day in 1..=3 {
            let place = parent.path().join(format!("data.diverged-202611{day:02}T051200Z"));
            copy(&data_dir, &place, &span, about.clone(), None).expect("copied");
        }
        remove_oldest(&data_dir, 2).expect("removed");
        let kept = list_diverged(&data_dir).expect("readable");
        let names: Vec<_> =
            kept.iter().map(|(place, _)| place.file_name().expect("a name").to_owned()).collect();
        assert_eq!(names, ["data.diverged-20261102T051200Z", "data.diverged-20261103T051200Z"]);
        assert_eq!(kept[0].1, Some(Diverged { bytes: 6, ..about }));
        assert!(
            kept[0].0.join("000000010000000000000003").is_file() && kept[0].0.join("pg_control").is_file()
        );
        assert!(!kept[0].0.join("000000010000000000000002").exists());
    }
}
