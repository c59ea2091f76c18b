//! The flight recorder: one entry for each change of rule, in a ring of bounded size on disk and in memory. The loop hands a note
//! over and goes on; a thread of the recorder's writes. A disk that is full or hangs costs entries, and nothing else.

mod ring;
pub mod timeline;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::model::{Entry, Moment, Plan, Reason, Remark, Span, Standing, View};
use ring::Files;
pub use ring::{FILES, Kept, Memory, Page, Unread, read_file};

/// Notes that wait to be written. A failover makes some ten.
const QUEUE: usize = 64;
/// The same rule again within this is counted and not written.
const COUNTED: Span = Span::from_secs(5);
/// The same rule again within this is written without its view: a member that waits for long must not push out what it waits
/// for.
const BRIEF: Span = Span::from_secs(60);
/// Rules whose last entries are remembered; there are fewer that take turns.
const RECENT_MAX: usize = 32;
/// When nothing has come for so long, what was held back is written, and everything is brought to the disk.
const QUIET: Duration = Duration::from_secs(1);

/// A decision to be kept.
#[derive(Debug)]
pub struct Note {
    pub view: Box<View>,
    pub plan: Plan,
    pub unix_ms: u64,
}

enum Order {
    Keep(Box<Note>),
    /// It befell the member while this stood.
    Remark {
        standing: Arc<Standing>,
        remark: Remark,
        unix_ms: u64,
    },
    /// Write down what waits, and answer.
    Finish(SyncSender<()>),
}

/// Where the loop leaves its notes and REST reads them.
#[derive(Clone, Debug)]
pub struct Recorder {
    orders: Option<SyncSender<Order>>,
    dropped: Arc<AtomicU64>,
    memory: Arc<Mutex<Memory>>,
}

impl Recorder {
    /// Keeps its files in `dir`. What former lives of the agent have left there is read first, by the thread.
    pub fn start(dir: &Path) -> std::io::Result<Recorder> {
        let (orders, received) = sync_channel(QUEUE);
        let recorder = Recorder { orders: Some(orders), ..Recorder::idle() };
        let (dropped, memory) = (Arc::clone(&recorder.dropped), Arc::clone(&recorder.memory));
        let dir = dir.to_owned();
        std::thread::Builder::new().name("recorder".to_owned()).spawn(move || {
            let (files, earlier, next) = Files::open(&dir);
            locked(&memory, |memory| memory.begin(earlier));
            Writer { files, next, dropped, memory, recent: Vec::new(), held: None, passed_over: 0 }
                .work(&received);
        })?;
        Ok(recorder)
    }

    /// Keeps nothing.
    pub fn idle() -> Recorder {
        Recorder { orders: None, dropped: Arc::default(), memory: Arc::default() }
    }

    /// Never waits.
    pub fn note(&self, note: Note) {
        let full = |orders: &SyncSender<Order>| orders.try_send(Order::Keep(Box::new(note))).is_err();
        if self.orders.as_ref().is_some_and(full) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Never waits either.
    pub fn remark(&self, standing: Arc<Standing>, remark: Remark, unix_ms: u64) {
        let order = Order::Remark { standing, remark, unix_ms };
        if self.orders.as_ref().is_some_and(|orders| orders.try_send(order).is_err()) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The agent ends: what has been noted comes to the disk, if it does so within `patience`.
    pub fn finish(&self, patience: Duration) {
        let (done, awaited) = sync_channel(1);
        if self.orders.as_ref().is_some_and(|orders| orders.try_send(Order::Finish(done)).is_ok()) {
            // A disk that hangs keeps nobody.
            let _ = awaited.recv_timeout(patience);
        }
    }

    /// The number of the last entry.
    pub fn newest(&self) -> Option<u64> {
        locked(&self.memory, |memory| memory.newest())
    }

    /// Entries that are neither older than `since_unix_ms` nor numbered up to `after`, oldest first, as many as fit.
    pub fn page(&self, since_unix_ms: u64, after: u64, views: bool, bytes_max: usize) -> Page {
        locked(&self.memory, |memory| memory.page(since_unix_ms, after, views, bytes_max))
    }
}

/// Nobody panics while holding it, and if: it is a list of texts, whole at any time.
fn locked<T>(memory: &Mutex<Memory>, of: impl FnOnce(&mut Memory) -> T) -> T {
    of(&mut memory.lock().unwrap_or_else(PoisonError::into_inner))
}

struct Writer {
    files: Files,
    next: u64,
    dropped: Arc<AtomicU64>,
    memory: Arc<Mutex<Memory>>,
    recent: Vec<Recent>,
    /// The last note, if it is one that came again and again.
    held: Option<Note>,
    passed_over: u32,
}

/// When a rule was last written down, and when with its view.
struct Recent {
    reason: Reason,
    written: Moment,
    whole: Moment,
}

impl Writer {
    fn work(mut self, orders: &Receiver<Order>) {
        loop {
            match orders.recv_timeout(QUIET) {
                Ok(Order::Keep(note)) => self.take(*note),
                Ok(Order::Remark { standing, remark, unix_ms }) => {
                    self.take_remark(&standing, remark, unix_ms);
                }
                Ok(Order::Finish(done)) => {
                    self.settle();
                    self.files.sync();
                    // Whoever asked may have gone.
                    let _ = done.try_send(());
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.settle();
                    self.files.sync();
                }
                Err(RecvTimeoutError::Disconnected) => {
                    self.settle();
                    self.files.sync();
                    return;
                }
            }
        }
    }

    fn take(&mut self, note: Note) {
        let now = note.view.now;
        let known = self.recent.iter().find(|recent| recent.reason == note.plan.reason);
        let within = |at: Moment, span: Span| at <= now && now.since(at) < span;
        match known {
            Some(recent) if within(recent.written, COUNTED) => {
                if self.held.replace(note).is_some() {
                    self.passed_over = self.passed_over.saturating_add(1);
                }
            }
            Some(recent) => {
                let brief = within(recent.whole, BRIEF);
                self.give_up_held();
                self.write(note, brief);
            }
            None => {
                self.give_up_held();
                self.write(note, false);
            }
        }
    }

    fn give_up_held(&mut self) {
        if self.held.take().is_some() {
            self.passed_over = self.passed_over.saturating_add(1);
        }
    }

    /// What a member has come to rest at is told, however often it has been there.
    fn settle(&mut self) {
        if let Some(note) = self.held.take() {
            self.write(note, true);
        }
    }

    fn write(&mut self, note: Note, brief: bool) {
        let Note { view, plan, unix_ms } = note;
        let entry = Entry::of(&view, &plan, self.next, unix_ms);
        self.remember(plan.reason, view.now, brief);
        self.append(entry, brief);
    }

    /// After the decisions that came before it.
    fn take_remark(&mut self, standing: &Standing, remark: Remark, unix_ms: u64) {
        self.settle();
        self.append(Entry::remark(&standing.view, &standing.plan, self.next, unix_ms, remark), true);
    }

    fn append(&mut self, entry: Entry, brief: bool) {
        self.next += 1;
        let passed_over = std::mem::take(&mut self.passed_over);
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        let entry = Entry { passed_over, dropped, ..entry };
        let kept = Kept::of(if brief { entry.without_view() } else { entry });
        self.files.append(&kept);
        locked(&self.memory, |memory| memory.push(kept));
    }

    fn remember(&mut self, reason: Reason, now: Moment, brief: bool) {
        let known = self.recent.iter().position(|recent| recent.reason == reason);
        let before = known.map(|place| self.recent.remove(place));
        let whole = before.filter(|_| brief).map_or(now, |before| before.whole);
        if RECENT_MAX <= self.recent.len() {
            self.recent.remove(0);
        }
        self.recent.push(Recent { reason, written: now, whole });
    }
}

#[cfg(test)]
mod tests;
