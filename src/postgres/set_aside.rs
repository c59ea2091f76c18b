//! Moving a data directory out of the way without losing it.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use super::bootstrap::sweep_private_places;
use super::clone::is_empty;
use super::error::{Error, Trying};
use super::files::{give_to, make_private_directory, names_in, sync_parent};
use super::settings::{InstanceSettings, RunAs};
use super::start::{refuse_if_running, sweep};
use super::unfinished::{lead, unmark};

const MARK: &str = ".set-aside-";
/// Inside a data directory that is a mount point. PostgreSQL's own tools pass over names that begin like this, so that
/// what is kept here is not copied into every backup.
const KEPT_INSIDE: &str = "pgsql_tmp.set-aside-";

/// Renames it, with its tablespaces, and says to what. The oldest ones that we have set aside before are removed. Where nothing is,
/// because whatever was begun here ended before its first file, only the mark of that is removed.
pub async fn set_aside(settings: &InstanceSettings) -> Result<Option<PathBuf>, Error> {
    let what = format!("set {} aside", settings.data_dir.display());
    refuse_if_running(settings, &what)?;
    sweep(settings).await?;
    sweep_private_places(settings);
    if is_empty(&settings.data_dir).trying(|| what.clone())? {
        lead(settings)?;
        return unmark(settings).map(|()| None);
    }
    let stamp = stamp();
    let (data_dir, owner) = (settings.data_dir.clone(), settings.identity()?);
    let keep = settings.set_aside_max.max(1);
    let moved = tokio::task::spawn_blocking(move || {
        let kept = move_aside(&data_dir, &stamp, owner)?;
        remove_oldest(&data_dir, keep).map(|()| kept)
    });
    let kept = moved.await.trying(|| what.clone())?.trying(|| what.clone())?;
    lead(settings)?;
    unmark(settings)?;
    Ok(Some(kept))
}

/// The data directories that were set aside, oldest first; those that lie inside, because it is a mount point, come last.
pub fn list_set_aside(data_dir: &Path) -> io::Result<Vec<PathBuf>> {
    let Some((parent, name)) = data_dir.parent().zip(data_dir.file_name()) else { return Ok(Vec::new()) };
    let beside = stamped(names_in(parent)?, &format!("{}{MARK}", name.to_string_lossy()));
    let inside = stamped(names_in(data_dir)?, KEPT_INSIDE);
    let beside = beside.into_iter().map(|name| parent.join(name));
    Ok(beside.chain(inside.into_iter().map(|name| data_dir.join(name))).collect())
}

/// Something in a data directory that does not count as data.
pub(super) fn is_kept_here(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    name == "lost+found" || name.starts_with(KEPT_INSIDE) || name == "pgsql_tmp.tenure-clone"
}

fn move_aside(data_dir: &Path, stamp: &str, owner: Option<RunAs>) -> Result<PathBuf, Error> {
    let what = || format!("set {} aside", data_dir.display());
    move_links_aside(data_dir, stamp).trying(what)?;
    let mut beside = data_dir.to_path_buf().into_os_string();
    beside.push(format!("{MARK}{stamp}"));
    let beside = PathBuf::from(beside);
    if beside.exists() {
        return Err(Error::failed(what(), format!("{} is there already", beside.display())));
    }
    match fs::rename(data_dir, &beside) {
        // A mount point, be it of another disk or of another directory of this one.
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => move_inside(data_dir, stamp, owner),
        renamed => {
            renamed.and_then(|()| sync_parent(data_dir)).trying(what)?;
            Ok(beside)
        }
    }
}

fn move_inside(data_dir: &Path, stamp: &str, owner: Option<RunAs>) -> Result<PathBuf, Error> {
    let inside = data_dir.join(format!("{KEPT_INSIDE}{stamp}"));
    make_private_directory(&inside, owner)?;
    let move_all = || -> io::Result<()> {
        for name in names_in(data_dir)?.into_iter().filter(|name| !is_kept_here(name)) {
            fs::rename(data_dir.join(&name), inside.join(&name))?;
        }
        fs::File::open(data_dir)?.sync_all()
    };
    move_all().trying(|| format!("move the contents of {}", data_dir.display()))?;
    Ok(inside)
}

/// Tablespaces and a pg_wal elsewhere would be found full by the next clone. Each is renamed in its own place, and the
/// link in the directory that is kept goes with it.
fn move_links_aside(data_dir: &Path, stamp: &str) -> io::Result<()> {
    for link in links_out_of(data_dir)? {
        let Ok(target) = fs::canonicalize(&link) else { continue };
        let metadata = fs::metadata(&target)?;
        let mut kept = target.clone().into_os_string();
        kept.push(format!("{MARK}{stamp}"));
        fs::rename(&target, &kept)?;
        fs::create_dir(&target)?;
        fs::set_permissions(&target, metadata.permissions())?;
        give_to(&target, Some(RunAs { uid: metadata.uid(), gid: metadata.gid() }))?;
        fs::remove_file(&link)?;
        symlink(&kept, &link)?;
    }
    Ok(())
}

/// The places outside that a clone has filled are emptied with it.
pub(super) fn make_place_for_links(data_dir: &Path) -> Result<(), Error> {
    let empty = || -> io::Result<()> {
        for link in links_out_of(data_dir)? {
            for name in names_in(&link)? {
                fs::remove_dir_all(link.join(name))?;
            }
        }
        Ok(())
    };
    empty().trying(|| format!("empty the tablespaces of {}", data_dir.display()))
}

fn links_out_of(data_dir: &Path) -> io::Result<Vec<PathBuf>> {
    let tablespaces = data_dir.join("pg_tblspc");
    let mut links: Vec<PathBuf> = names_in(&tablespaces)?.iter().map(|name| tablespaces.join(name)).collect();
    links.push(data_dir.join("pg_wal"));
    links.retain(|link| link.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink()));
    Ok(links)
}

/// Only what carries our stamp, and never the newest ones.
fn remove_oldest(data_dir: &Path, keep: usize) -> Result<(), Error> {
    let Some((parent, name)) = data_dir.parent().zip(data_dir.file_name()) else { return Ok(()) };
    let beside = format!("{}{MARK}", name.to_string_lossy());
    let remove = || -> io::Result<()> {
        for (directory, prefix) in [(parent, beside.as_str()), (data_dir, KEPT_INSIDE)] {
            let kept = stamped(names_in(directory)?, prefix);
            for name in &kept[..kept.len().saturating_sub(keep)] {
                let path = directory.join(name);
                for link in links_out_of(&path)? {
                    let target = fs::canonicalize(&link)?;
                    // Made by us as well; anything else behind the link is not ours.
                    if target.to_string_lossy().contains(MARK) {
                        fs::remove_dir_all(target)?;
                    }
                }
                fs::remove_dir_all(path)?;
            }
        }
        Ok(())
    };
    remove().trying(|| format!("remove the oldest of those set aside beside {}", data_dir.display()))
}

/// When something was set aside, in a form that sorts.
pub(super) fn stamp() -> String {
    crate::clock::wall().strftime("%Y%m%dT%H%M%SZ").to_string()
}

pub(super) fn stamped(names: Vec<OsString>, prefix: &str) -> Vec<OsString> {
    let is_stamp = |text: &str| {
        text.len() == "20261121T051200Z".len()
            && text.bytes().enumerate().all(|(at, byte)| match at {
                8 => byte == b'T',
                15 => byte == b'Z',
                _ => byte.is_ascii_digit(),
            })
    };
    let ours = |name: &OsString| name.to_string_lossy().strip_prefix(prefix).is_some_and(is_stamp);
    names.into_iter().filter(ours).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(day: u32) -> String {
        format!("202611{day:02}T051200Z")
    }

    #[test]
    fn only_the_newest_of_ours_are_kept() {
        let parent = tempfile::tempdir().expect("a directory");
        let data_dir = parent.path().join("data");
        for day in 1..=4 {
            fs::create_dir(&data_dir).expect("made");
            fs::write(data_dir.join("PG_VERSION"), "15\n").expect("written");
            move_aside(&data_dir, &stamp(day), None).expect("moved");
        }
        fs::create_dir(parent.path().join("data.set-aside-by-hand")).expect("made");
        remove_oldest(&data_dir, 2).expect("removed");
        let left = names_in(parent.path()).expect("readable");
        let expected = [
            format!("data.set-aside-{}", stamp(3)),
            format!("data.set-aside-{}", stamp(4)),
            "data.set-aside-by-hand".to_owned(),
        ];
        assert_eq!(left, expected.map(OsString::from));
    }

    #[test]
    fn a_tablespace_goes_with_its_directory_and_leaves_an_empty_place() {
        let parent = tempfile::tempdir().expect("a directory");
        let (data_dir, space) = (parent.path().join("data"), parent.path().join("space"));
        fs::create_dir_all(data_dir.join("pg_tblspc")).expect("made");
        fs::create_dir_all(space.join("PG_15")).expect("made");
        symlink(&space, data_dir.join("pg_tblspc/16384")).expect("linked");
        let kept = move_aside(&data_dir, &stamp(1), None).expect("moved");
        assert!(kept.join("pg_tblspc/16384/PG_15").is_dir(), "still whole");
        assert!(space.is_dir() && names_in(&space).expect("readable").is_empty());
        assert!(!data_dir.exists());
    }

    #[test]
    fn a_mount_point_keeps_its_contents_inside() {
        let parent = tempfile::tempdir().expect("a directory");
        fs::write(parent.path().join("PG_VERSION"), "15\n").expect("written");
        let kept = move_inside(parent.path(), &stamp(1), None).expect("moved");
        assert!(kept.join("PG_VERSION").is_file());
        assert!(super::super::clone::is_empty(parent.path()).expect("readable"));
    }
}
