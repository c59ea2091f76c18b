//! A small write that must reach the disk, where PostgreSQL's own must. It may hang: whoever calls it has a thread to spare.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::statvfs::statvfs;

use super::settings::InstanceSettings;

/// Inside the data directory, because that may be a mount point. The prefix is that of PostgreSQL's own temporary files:
/// pg_basebackup and pg_checksums pass it over wherever it stands, pg_rewind below `pg_wal`; at the top, pg_rewind copies
/// it or removes it, which harms nobody.
pub const PROBE_FILE: &str = "pgsql_tmp.tenure-probe";

/// One block of most disks. Written over in place once it is there, as WAL is, so that it needs no room and no journal.
const BLOCK: [u8; 4096] = [0x74; 4096];

/// Why a write did not reach the disk.
#[derive(Debug, PartialEq, Eq)]
pub enum ProbeError {
    /// There is no room.
    Full(String),
    /// The disk takes no writes.
    Broken(String),
    /// We may not, or there is nothing to write to: this says nothing of the disk.
    Ours(String),
}

/// Where to probe: nowhere before there is data; and WAL where it lies on a disk of its own.
pub fn probe_places(settings: &InstanceSettings) -> Vec<PathBuf> {
    let data = settings.data_dir.clone();
    if !data.join("PG_VERSION").exists() {
        return Vec::new();
    }
    let device = |path: &Path| std::fs::metadata(path).map(|metadata| metadata.dev()).ok();
    let wal = data.join("pg_wal");
    let elsewhere = device(&wal).is_some_and(|there| Some(there) != device(&data));
    [Some(data), elsewhere.then_some(wal)].into_iter().flatten().collect()
}

/// Writes and waits until it has reached the disk.
pub fn probe_write(settings: &InstanceSettings, place: &Path) -> Result<(), ProbeError> {
    let path = place.join(PROBE_FILE);
    let write = || -> io::Result<()> {
        let file = open(settings, &path)?;
        file.write_all_at(&BLOCK, 0)?;
        file.sync_data()
    };
    write().map_err(|error| {
        let told = format!("write {}: {error}", path.display());
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOSPC | Errno::EDQUOT) => ProbeError::Full(told),
            Some(Errno::EROFS | Errno::EIO | Errno::ESTALE | Errno::ENODEV | Errno::ENXIO) => {
                ProbeError::Broken(told)
            }
            Some(_) | None => ProbeError::Ours(told),
        }
    })
}

/// What an ordinary user may still fill there; nothing at all where there are no more files to be had.
pub fn probe_free_bytes(place: &Path) -> Option<u64> {
    let disk = statvfs(place).ok()?;
    let no_more_files = disk.files() != 0 && disk.files_available() == 0;
    Some(if no_more_files { 0 } else { disk.blocks_available().saturating_mul(disk.fragment_size()) })
}

/// How large the file system is that holds it.
pub fn disk_bytes(place: &Path) -> Option<u64> {
    let disk = statvfs(place).ok()?;
    Some(disk.blocks().saturating_mul(disk.fragment_size()))
}

/// It belongs to whom the directory belongs to, and never to whom a link in it points.
fn open(settings: &InstanceSettings, path: &Path) -> io::Result<File> {
    let open = |options: &mut OpenOptions| {
        options.write(true).mode(0o600).custom_flags(OFlag::O_NOFOLLOW.bits()).open(path)
    };
    match open(&mut OpenOptions::new()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let file = open(OpenOptions::new().create_new(true))?;
            if let Ok(Some(owner)) = settings.identity() {
                fchown(&file, Some(owner.uid), Some(owner.gid))?;
            }
            Ok(file)
        }
        other => other,
    }
}
