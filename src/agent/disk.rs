//! The probe of the disks that PostgreSQL writes to: does a small write still reach them, and is there room?
//!
//! One thread for ever, which may hang as long as it likes; whoever wants to know reads its last word and waits for nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;

use tokio::sync::{mpsc, watch};

use crate::clock;
use crate::decide::mind::Event;
use crate::model::{Disk, Moment, Span};
use crate::postgres::{InstanceSettings, ProbeError, probe_free_bytes, probe_places, probe_write};

/// Between two probes, and between two readings of what the probe says.
const EVERY: Span = Span::from_secs(1);
/// A write that takes so long is told; whether anything follows from it is the rules' business.
const SLOW: Span = Span::from_secs(2);
/// The same complaint is not told more often.
const TELL_EVERY: Span = Span::from_secs(60);

/// What the probe knows at this moment.
#[derive(Clone, Debug, Default)]
struct Word {
    disk: Disk,
    /// Where, and why.
    trouble: Option<(PathBuf, String)>,
}

/// Ends the thread when it is dropped, at the latest with the write under way.
pub struct Probe {
    words: watch::Receiver<Word>,
    _stop: SyncSender<()>,
}

/// Starts the thread.
pub fn start(settings: watch::Receiver<Arc<InstanceSettings>>) -> std::io::Result<(Probe, JoinHandle<()>)> {
    let (word, words) = watch::channel(Word::default());
    let (stop, stopped) = sync_channel(1);
    let thread = std::thread::Builder::new()
        .name("disk-probe".to_owned())
        .spawn(move || probe_until_stopped(&settings, &word, &stopped))?;
    Ok((Probe { words, _stop: stop }, thread))
}

impl Probe {
    /// Tells the loop what is known, and again every second as long as a disk is not well; and the operator what is wrong. Ends
    /// with the loop.
    pub async fn report(self, events: mpsc::Sender<Event>) {
        let mut told = Told::default();
        let mut known = None;
        loop {
            let word = self.words.borrow().clone();
            told.tell(&word, clock::now());
            let well = word.disk.unwritten_since.is_none() && !word.disk.is_full();
            if (known.replace(word.disk) != Some(word.disk) || !well)
                && events.send(Event::Disk(word.disk)).await.is_err()
            {
                return;
            }
            clock::pause(EVERY).await;
        }
    }
}

fn probe_until_stopped(
    settings: &watch::Receiver<Arc<InstanceSettings>>,
    word: &watch::Sender<Word>,
    stopped: &Receiver<()>,
) {
    while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(EVERY.as_duration()) {
        let settings = settings.borrow().clone();
        let before = word.borrow().disk.unwritten_since;
        let began = before.unwrap_or_else(clock::now);
        word.send_modify(|word| word.disk.unwritten_since = Some(began));
        let found = probe(&settings, began);
        word.send_replace(found);
    }
}

/// `began`: since when nothing has reached the disk, if it turns out that nothing does.
fn probe(settings: &InstanceSettings, began: Moment) -> Word {
    let mut word = Word::default();
    for place in probe_places(settings) {
        match probe_write(settings, &place) {
            Ok(()) => {}
            Err(ProbeError::Full(why)) => {
                word.disk.refused_for_space = true;
                word.trouble = Some((place.clone(), why));
            }
            Err(ProbeError::Broken(why)) => {
                word.disk.unwritten_since = Some(began);
                word.trouble = Some((place.clone(), why));
            }
            // A file that we may not write says nothing of the disk.
            Err(ProbeError::Ours(why)) => word.trouble = Some((place.clone(), why)),
        }
        let free = probe_free_bytes(&place);
        word.disk.free_bytes = [word.disk.free_bytes, free].into_iter().flatten().min();
    }
    word
}

/// What has been told of the disk, and when.
#[derive(Default)]
struct Told {
    last: Option<(Complaint, Moment)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Complaint {
    Slow,
    Full,
    Trouble(String),
}

impl Told {
    fn tell(&mut self, word: &Word, now: Moment) {
        let Some(complaint) = complaint_of(word, now) else {
            if self.last.take().is_some() {
                tracing::info!(free_bytes = word.disk.free_bytes, "the disk is well again");
            }
            return;
        };
        if !self.is_news(&complaint, now) {
            return;
        }
        let place = word.trouble.as_ref().map(|(place, _)| place.display().to_string());
        match complaint {
            Complaint::Slow => {
                let since = word.disk.unwritten_since.map_or(Span::ZERO, |since| now.since(since));
                tracing::warn!(place, "nothing has reached the disk of the data directory for {since}");
            }
            Complaint::Full => tracing::warn!(
                place,
                free_bytes = word.disk.free_bytes,
                "the disk is full: PostgreSQL stops when its next WAL segment does not fit"
            ),
            Complaint::Trouble(why) => tracing::warn!(place, "probe the disk: {why}"),
        }
    }

    /// Another complaint is told at once, the same one now and then.
    fn is_news(&mut self, complaint: &Complaint, now: Moment) -> bool {
        let told =
            (self.last.as_ref()).is_some_and(|(known, at)| known == complaint && now.since(*at) < TELL_EVERY);
        if !told {
            self.last = Some((complaint.clone(), now));
        }
        !told
    }
}

fn complaint_of(word: &Word, now: Moment) -> Option<Complaint> {
    if word.disk.has_stalled(now, SLOW) {
        return Some(Complaint::Slow);
    }
    if word.disk.is_full() {
        return Some(Complaint::Full);
    }
    word.trouble.as_ref().map(|(_, why)| Complaint::Trouble(why.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Moment {
        Moment::from_ms(1_000) + Span::from_secs(secs)
    }

    #[test]
    fn the_same_complaint_is_told_once_a_minute_and_another_one_at_once() {
        let mut told = Told::default();
        let news: Vec<u64> = (0..200).filter(|secs| told.is_news(&Complaint::Full, at(*secs))).collect();
        assert_eq!(news, [0, 60, 120, 180]);
        assert!(told.is_news(&Complaint::Slow, at(200)));
        assert!(!told.is_news(&Complaint::Slow, at(201)));
    }

    #[test]
    fn a_write_under_way_is_slow_only_after_a_while_and_outranks_a_full_disk() {
        let disk = Disk { unwritten_since: Some(at(10)), free_bytes: Some(0), refused_for_space: false };
        let word = Word { disk, trouble: None };
        assert_eq!(complaint_of(&word, at(11)), Some(Complaint::Full));
        assert_eq!(complaint_of(&word, at(12)), Some(Complaint::Slow));
        assert_eq!(complaint_of(&Word::default(), at(12)), None);
    }

    #[test]
    fn the_thread_probes_what_is_there_and_ends_with_its_owner() {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("PG_VERSION"), "15\n").expect("written");
        let address = crate::model::Address { host: "127.0.0.1".to_owned(), port: 1 };
        let name = "turku".parse().expect("a good name");
        let mut settings = InstanceSettings::new(name, "demo", directory.path().to_owned(), address);
        settings.run_as = None;
        let (_sender, receiver) = watch::channel(Arc::new(settings));
        let (mut probe, thread) = start(receiver).expect("a thread");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let known = |word: &Word| word.disk.free_bytes.is_some() && word.disk.unwritten_since.is_none();
        runtime.block_on(async { probe.words.wait_for(known).await.map(|_| ()) }).expect("it goes on");
        assert!(directory.path().join(crate::postgres::PROBE_FILE).exists());
        drop(probe);
        thread.join().expect("it ends");
    }
}
