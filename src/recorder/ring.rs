//! The ring itself: two files of lines of JSON, the newer of which becomes the older one when it is full, and the same in memory
//! for whoever asks.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::model::Entry;

/// Newer, then older.
pub const FILES: [&str; 2] = ["events.jsonl", "events.1.jsonl"];
/// A file that has grown to this is the older one from then on.
pub const FILE_BYTES_MAX: u64 = 2 << 20;
/// The view of a very large cluster is not kept.
const ENTRY_BYTES_MAX: usize = 256 << 10;
const MEMORY_BYTES_MAX: usize = 4 << 20;

/// An entry as text: what is asked for nearly always, and the view with the plan beside it.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    pub number: u64,
    pub unix_ms: u64,
    pub brief: String,
    pub whole: Option<String>,
}

#[derive(Debug, Default)]
pub struct Memory {
    kept: VecDeque<Kept>,
    bytes: usize,
}

/// An answer of bounded size.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// Texts of JSON.
    pub entries: Vec<String>,
    /// There are more behind the last one.
    pub more: bool,
    /// The number of the oldest entry that is there at all.
    pub oldest: Option<u64>,
}

/// Lines that are no entries, and what was wrong with the first of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Unread {
    pub lines: u64,
    pub first: Option<String>,
}

impl Kept {
    pub fn of(entry: Entry) -> Kept {
        let spell =
            |entry: &Entry| serde_json::to_string(entry).expect("an entry has text keys and plain values");
        let whole = entry.view.is_some().then(|| spell(&entry)).filter(|text| text.len() <= ENTRY_BYTES_MAX);
        let (number, unix_ms) = (entry.number, entry.unix_ms);
        Kept { number, unix_ms, brief: spell(&entry.without_view()), whole }
    }

    fn text(&self) -> &str {
        self.whole.as_deref().unwrap_or(&self.brief)
    }

    fn bytes(&self) -> usize {
        self.brief.len() + self.whole.as_ref().map_or(0, String::len)
    }
}

impl Memory {
    /// What was there before this life, older than anything that has been said in it.
    pub fn begin(&mut self, earlier: Vec<Kept>) {
        let later = std::mem::take(self);
        earlier.into_iter().chain(later.kept).for_each(|kept| self.push(kept));
    }

    pub fn push(&mut self, kept: Kept) {
        self.bytes += kept.bytes();
        self.kept.push_back(kept);
        while MEMORY_BYTES_MAX < self.bytes {
            let Some(oldest) = self.kept.pop_front() else { return };
            self.bytes -= oldest.bytes();
        }
    }

    pub fn newest(&self) -> Option<u64> {
        self.kept.back().map(|kept| kept.number)
    }

    pub fn page(&self, since_unix_ms: u64, after: u64, views: bool, bytes_max: usize) -> Page {
        let mut page = Page { oldest: self.kept.front().map(|kept| kept.number), ..Page::default() };
        let mut bytes = 0;
        for kept in self.kept.iter().filter(|kept| since_unix_ms <= kept.unix_ms && after < kept.number) {
            let text = if views { kept.text() } else { &kept.brief };
            bytes += text.len();
            if bytes_max < bytes && !page.entries.is_empty() {
                page.more = true;
                break;
            }
            page.entries.push(text.to_owned());
        }
        page
    }
}

/// The files, written by one thread only.
#[derive(Debug)]
pub struct Files {
    dir: PathBuf,
    newer: Option<File>,
    bytes: u64,
    /// The last line may have come to the disk in part.
    torn: bool,
    unsynced: bool,
    complained: bool,
}

impl Files {
    /// The files of a directory, what they hold, and the number of the next entry.
    pub fn open(dir: &Path) -> (Files, Vec<Kept>, u64) {
        let mut earlier = Vec::new();
        for name in FILES.iter().rev() {
            let path = dir.join(name);
            if !path.exists() {
                continue;
            }
            match read_file(&path) {
                Ok((entries, unread)) => {
                    earlier.extend(entries.into_iter().map(Kept::of));
                    if 0 < unread.lines {
                        tracing::info!(
                            "{} lines of {} are no entries, as after a power cut",
                            unread.lines,
                            path.display()
                        );
                    }
                }
                Err(error) => tracing::warn!("the flight recorder cannot read {}: {error}", path.display()),
            }
        }
        let next = earlier.iter().map(|kept| kept.number).max().unwrap_or(0) + 1;
        let files = Files {
            dir: dir.to_owned(),
            newer: None,
            bytes: 0,
            torn: false,
            unsynced: false,
            complained: false,
        };
        (files, earlier, next)
    }

    /// What cannot be written is in memory all the same.
    pub fn append(&mut self, kept: &Kept) {
        match self.try_append(kept.text()) {
            Ok(()) => {
                if std::mem::take(&mut self.complained) {
                    tracing::info!("the flight recorder writes again");
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut self.complained, true) {
                    let dir = self.dir.display();
                    tracing::warn!(
                        "the flight recorder cannot write in {dir}, and goes on in memory: {error}"
                    );
                }
            }
        }
    }

    fn try_append(&mut self, line: &str) -> std::io::Result<()> {
        if self.newer.is_some() && FILE_BYTES_MAX <= self.bytes {
            self.newer = None;
            let [newer, older] = FILES.map(|name| self.dir.join(name));
            fs::rename(newer, older)?;
        }
        let mut file = match self.newer.take() {
            Some(file) => file,
            None => self.open_newer()?,
        };
        let begin = if self.torn { "\n" } else { "" };
        let text = format!("{begin}{line}\n");
        self.torn = true;
        self.unsynced = true;
        file.write_all(text.as_bytes())?;
        self.torn = false;
        self.bytes += text.len() as u64;
        self.newer = Some(file);
        Ok(())
    }

    fn open_newer(&mut self) -> std::io::Result<File> {
        let path = self.dir.join(FILES[0]);
        let mut file = File::options().read(true).append(true).create(true).mode(0o600).open(path)?;
        self.bytes = file.metadata()?.len();
        self.torn = !ends_with_a_line(&mut file, self.bytes)?;
        Ok(file)
    }

    /// So that a power cut takes no more than the last second.
    pub fn sync(&mut self) {
        if let Some(file) = self.newer.as_ref().filter(|_| self.unsynced) {
            self.unsynced = false;
            if let Err(error) = file.sync_data() {
                tracing::debug!("bring the flight recorder's entries to the disk: {error}");
            }
        }
    }
}

fn ends_with_a_line(file: &mut File, bytes: u64) -> std::io::Result<bool> {
    if bytes == 0 {
        return Ok(true);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// The entries of one file of a ring, as they stand there. A line that was cut short, or that is none of ours, is counted.
pub fn read_file(path: &Path) -> std::io::Result<(Vec<Entry>, Unread)> {
    let mut bytes = Vec::new();
    let bound = 2 * FILE_BYTES_MAX + ENTRY_BYTES_MAX as u64;
    File::open(path)?.take(bound).read_to_end(&mut bytes)?;
    let (mut entries, mut unread) = (Vec::new(), Unread::default());
    for line in String::from_utf8_lossy(&bytes).lines().filter(|line| !line.trim().is_empty()) {
        match Entry::read(line) {
            Ok(entry) => entries.push(entry),
            Err(error) => {
                unread.lines += 1;
                unread.first.get_or_insert_with(|| error.to_string());
            }
        }
    }
    Ok((entries, unread))
}
