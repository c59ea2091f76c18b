//! The log's own file, where one is wanted: when it is full it is set aside under a number and a new one begun, and the oldest
//! goes. Only the log's thread comes here, so a disk that is slow or full costs lines and holds up nobody.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::config::Log;

/// Patroni's name: whoever ships or reads its log finds ours.
const NAME: &str = "patroni.log";

#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    mode: Option<u32>,
    size_max: u64,
    kept: u32,
    /// With its size. None yet, or none after something went wrong.
    open: Option<(File, u64)>,
}

impl LogFile {
    /// `None` if no file is wanted. Nothing is opened before there is something to write: an agent whose log has no room
    /// must start all the same.
    pub fn wanted(settings: &Log) -> Option<LogFile> {
        Some(LogFile {
            path: settings.dir.as_ref()?.join(NAME),
            mode: settings.mode.map(|mode| mode.0),
            size_max: settings.file_size,
            kept: settings.file_num,
            open: None,
        })
    }

    /// After an error the next line tries again from the beginning.
    pub fn write(&mut self, text: &str) -> io::Result<()> {
        let (mut file, mut size) = match self.open.take() {
            Some(open) => open,
            None => open(&self.path, self.mode)?,
        };
        let length = text.len() as u64;
        // A file begins with at least one line, however long that is.
        if size > 0 && self.size_max < size + length {
            drop(file);
            self.turn()?;
            (file, size) = open(&self.path, self.mode)?;
        }
        file.write_all(text.as_bytes())?;
        self.open = Some((file, size + length));
        Ok(())
    }

    fn turn(&self) -> io::Result<()> {
        let numbered = |number: u32| PathBuf::from(format!("{}.{number}", self.path.display()));
        for number in (1..self.kept).rev() {
            rename(&numbered(number), &numbered(number + 1))?;
        }
        if self.kept == 0 {
            fs::remove_file(&self.path)?;
        } else {
            rename(&self.path, &numbered(1))?;
        }
        Ok(())
    }
}

fn open(path: &Path, mode: Option<u32>) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    if let Some(mode) = mode {
        file.set_permissions(Permissions::from_mode(mode))?;
    }
    let size = file.metadata()?.len();
    Ok((file, size))
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::FileMode;

    fn settings(dir: &Path, file_num: u32) -> Log {
        let mode = Some(FileMode(0o640));
        Log { dir: Some(dir.to_owned()), mode, file_num, file_size: 20, ..Log::default() }
    }

    fn content(dir: &Path, name: &str) -> Option<String> {
        fs::read_to_string(dir.join(name)).ok()
    }

    #[test]
    fn a_full_file_is_set_aside_and_the_oldest_goes() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut file = LogFile::wanted(&settings(dir.path(), 2)).expect("it is wanted");
        for number in 0..8 {
            file.write(&format!("line {number}\n")).expect("room");
        }
        assert_eq!(content(dir.path(), "patroni.log").as_deref(), Some("line 6\nline 7\n"));
        assert_eq!(content(dir.path(), "patroni.log.1").as_deref(), Some("line 4\nline 5\n"));
        assert_eq!(content(dir.path(), "patroni.log.2").as_deref(), Some("line 2\nline 3\n"));
        assert_eq!(content(dir.path(), "patroni.log.3"), None);
        let mode = fs::metadata(dir.path().join("patroni.log")).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        // A successor goes on where the file ends.
        drop(file);
        let mut file = LogFile::wanted(&settings(dir.path(), 2)).expect("it is wanted");
        file.write("line 8\n").expect("room");
        assert_eq!(content(dir.path(), "patroni.log").as_deref(), Some("line 8\n"));
    }

    #[test]
    fn without_older_files_a_full_one_begins_anew() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut file = LogFile::wanted(&settings(dir.path(), 0)).expect("it is wanted");
        for line in ["a line that is longer than a file may be\n", "next\n", "after\n", "one more line\n"] {
            file.write(line).expect("room");
        }
        assert_eq!(content(dir.path(), "patroni.log").as_deref(), Some("one more line\n"));
        assert_eq!(fs::read_dir(dir.path()).expect("a directory").count(), 1);
    }

    #[test]
    fn a_file_that_cannot_be_written_is_tried_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let later = dir.path().join("later");
        let mut file = LogFile::wanted(&settings(&later, 1)).expect("it is wanted");
        file.write("lost\n").expect_err("there is no directory");
        fs::create_dir(&later).expect("our own directory");
        file.write("found\n").expect("room");
        assert_eq!(content(&later, "patroni.log").as_deref(), Some("found\n"));
    }
}
