//! Files that must be whole or absent after a crash, and belong to PostgreSQL's user.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use super::error::{Error, Trying};
use super::settings::RunAs;

/// Writes the file only if its content or mode differs, by an atomic rename. Says whether it has.
pub(super) fn write_if_changed(
    path: &Path,
    content: &str,
    mode: u32,
    owner: Option<RunAs>,
) -> Result<bool, Error> {
    let same_content = fs::read(path).is_ok_and(|present| present == content.as_bytes());
    let same_mode = fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o777 == mode);
    if same_content && same_mode {
        return Ok(false);
    }
    write_durably(path, content, mode, owner)?;
    Ok(true)
}

/// After this has returned, a crash leaves the new content; before, the old one.
pub(super) fn write_durably(
    path: &Path,
    content: &str,
    mode: u32,
    owner: Option<RunAs>,
) -> Result<(), Error> {
    write_bytes_durably(path, content.as_bytes(), mode, owner)
}

pub(super) fn write_bytes_durably(
    path: &Path,
    content: &[u8],
    mode: u32,
    owner: Option<RunAs>,
) -> Result<(), Error> {
    let mut temporary = path.to_path_buf().into_os_string();
    temporary.push(".tenure-new");
    let temporary = PathBuf::from(temporary);
    let write = || -> io::Result<()> {
        remove_if_there(&temporary)?;
        // Made with its final mode, so that a secret is at no moment readable by others.
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        give_to(&temporary, owner)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_parent(path)
    };
    write().trying(|| format!("write {}", path.display()))
}

pub(super) fn remove_durably(path: &Path) -> Result<(), Error> {
    let remove = || -> io::Result<()> {
        if remove_if_there(path)? {
            sync_parent(path)?;
        }
        Ok(())
    };
    remove().trying(|| format!("remove {}", path.display()))
}

pub(super) fn rename_durably(from: &Path, to: &Path) -> Result<(), Error> {
    let rename = || -> io::Result<()> {
        fs::rename(from, to)?;
        sync_parent(from)?;
        sync_parent(to)
    };
    rename().trying(|| format!("rename {} to {}", from.display(), to.display()))
}

/// A directory that only its owner may enter.
pub(super) fn make_private_directory(path: &Path, owner: Option<RunAs>) -> Result<(), Error> {
    let make = || -> io::Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new().mode(0o700).create(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
        give_to(path, owner)
    };
    make().trying(|| format!("make the directory {}", path.display()))
}

pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if parent != Path::new("") => File::open(parent)?.sync_all(),
        Some(_) | None => Ok(()),
    }
}

pub(super) fn give_to(path: &Path, owner: Option<RunAs>) -> io::Result<()> {
    match owner {
        Some(owner) => chown(path, Some(owner.uid().as_raw()), Some(owner.gid().as_raw())),
        None => Ok(()),
    }
}

/// Says whether it was there.
pub(super) fn remove_if_there(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Files in a data directory that its group may read are readable by the group too, as PostgreSQL does it.
pub(super) fn file_mode_in(directory: &Path) -> u32 {
    let group_may_read = fs::metadata(directory).is_ok_and(|metadata| metadata.mode() & 0o050 == 0o050);
    if group_may_read { 0o640 } else { 0o600 }
}

/// The names in a directory, sorted; none if it does not exist.
pub(super) fn names_in(directory: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    match fs::read_dir(directory) {
        Ok(entries) => {
            let mut names = entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
            names.sort();
            Ok(names)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The end of a file, however long it is.
pub(super) fn tail_of(path: &Path, bytes_max: u64) -> io::Result<String> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(bytes_max)))?;
    let mut tail = Vec::new();
    file.take(bytes_max).read_to_end(&mut tail)?;
    Ok(String::from_utf8_lossy(&tail).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_once_and_then_left_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("file");
        assert_eq!(write_if_changed(&path, "a", 0o600, None), Ok(true));
        let inode = fs::metadata(&path).expect("it is there").ino();
        assert_eq!(write_if_changed(&path, "a", 0o600, None), Ok(false));
        assert_eq!(fs::metadata(&path).expect("it is there").ino(), inode);
        assert_eq!(write_if_changed(&path, "a", 0o640, None), Ok(true));
        assert_eq!(write_if_changed(&path, "b", 0o640, None), Ok(true));
        assert_eq!(fs::read_to_string(&path).expect("it is there"), "b");
        assert_eq!(names_in(directory.path()).expect("readable").len(), 1);
    }

    #[test]
    fn an_error_names_the_file() {
        let error = write_durably(Path::new("/nonexistent/x"), "", 0o600, None).expect_err("no directory");
        assert!(error.to_string().starts_with("write /nonexistent/x: "), "{error}");
    }
}
