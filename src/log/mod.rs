//! The log: to the journal when systemd runs us, otherwise lines on stderr.
//! Whoever logs never waits: lines go into a bounded queue that one thread empties, and what does not fit is dropped and
//! counted. A full pipe or a stuck journal must not hold up the loop that renews the lease.

mod file;
mod form;
mod journal;
mod line;
mod storm;

use std::io::{IsTerminal, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;
use tracing::callsite::{Callsite, Identifier};
use tracing::field::FieldSet;
use tracing::metadata::Kind;
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::Registry;
use tracing_subscriber::reload;

use crate::clock;
use crate::config::{Level as ConfiguredLevel, Log};
use file::LogFile;
use form::Form;
use line::{Author, Line};
use storm::Storm;

/// Keeps the log going. Dropping it writes what is still queued, for as long as a second.
#[derive(Debug)]
pub struct Logging {
    tuner: LogTuner,
    writer: Option<(JoinHandle<()>, Receiver<()>)>,
}

/// Lets the log take up other settings.
#[derive(Clone, Debug)]
pub struct LogTuner {
    filter: reload::Handle<Targets, Registry>,
    queue: SyncSender<Entry>,
}

enum Entry {
    Line(Line),
    Settings(Box<Log>),
    End,
}

/// Where lines go and what they look like.
struct Output {
    author: Author,
    form: Form,
    journal: bool,
    file: Option<LogFile>,
    /// The last line did not fit into the file.
    file_failed: bool,
    coloured: bool,
}

struct Queue {
    sender: SyncSender<Entry>,
    dropped: Arc<AtomicU64>,
}

#[derive(Debug, thiserror::Error)]
#[error("start the log: {0}")]
pub struct LogError(String);

/// Start logging for the whole process, in the name of a member of a cluster.
pub fn start(settings: &Log, cluster: &str, member: &str) -> Result<Logging, LogError> {
    let mut output = Output {
        author: Author { cluster: cluster.to_owned(), member: member.to_owned() },
        form: Form::of(settings),
        journal: journal::holds_stderr(),
        file: LogFile::wanted(settings),
        file_failed: false,
        coloured: std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
    };
    let (queue, lines) = queue(settings.max_queue_size);
    let (done, ended) = sync_channel(1);
    let (sender, missed) = (queue.sender.clone(), Arc::clone(&queue.dropped));
    let writer = std::thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || {
            write_lines(&lines, &missed, &mut output);
            let _ = done.send(());
        })
        .map_err(|why| LogError(why.to_string()))?;
    let (filter, handle) = reload::Layer::new(targets(settings));
    let subscriber = Registry::default().with(queue.with_filter(filter));
    tracing::subscriber::set_global_default(subscriber).map_err(|why| LogError(why.to_string()))?;
    Ok(Logging { tuner: LogTuner { filter: handle, queue: sender }, writer: Some((writer, ended)) })
}

fn queue(length: usize) -> (Queue, Receiver<Entry>) {
    let (sender, lines) = sync_channel(length.max(1));
    (Queue { sender, dropped: Arc::default() }, lines)
}

impl Logging {
    pub fn tuner(&self) -> LogTuner {
        self.tuner.clone()
    }
}

impl LogTuner {
    /// Levels, files and the form of the lines; the queue stays as long as it was. What is already queued is written as before.
    pub fn take_up(&self, settings: &Log) {
        // It fails only when the subscriber has gone, and then nobody logs.
        let _ = self.filter.reload(targets(settings));
        if let Err(TrySendError::Full(_)) = self.queue.try_send(Entry::Settings(Box::new(settings.clone()))) {
            tracing::warn!("the log is too busy to take up its settings; reload once more");
        }
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        // The subscriber lives as long as the process and holds the queue open, so the end is sent, not implied.
        let _ = self.tuner.queue.try_send(Entry::End);
        if let Some((writer, ended)) = self.writer.take()
            && ended.recv_timeout(Duration::from_secs(1)).is_ok()
        {
            let _ = writer.join();
        }
    }
}

/// Our own modules at the configured level; libraries one step quieter, since their footsteps are nobody's decisions.
fn targets(settings: &Log) -> Targets {
    let own = level_of(settings.level);
    let libraries = own.min(LevelFilter::WARN);
    let ours = ["tenure", "tenured", "tenurectl", "tenure_fence", "tenure_address"].map(|name| (name, own));
    let single = settings.loggers.iter().filter_map(|(module, name)| {
        let level: ConfiguredLevel = serde_json::from_value(Value::from(name.to_ascii_uppercase())).ok()?;
        Some((module.clone(), level_of(level)))
    });
    Targets::new().with_default(libraries).with_targets(ours).with_targets(single)
}

fn level_of(level: ConfiguredLevel) -> LevelFilter {
    match level {
        ConfiguredLevel::Debug => LevelFilter::DEBUG,
        ConfiguredLevel::Info => LevelFilter::INFO,
        ConfiguredLevel::Warning => LevelFilter::WARN,
        ConfiguredLevel::Error | ConfiguredLevel::Critical => LevelFilter::ERROR,
    }
}

impl<S: Subscriber> Layer<S> for Queue {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        match self.sender.try_send(Entry::Line(Line::of(event))) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            Err(TrySendError::Full(_)) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

fn write_lines(lines: &Receiver<Entry>, dropped: &AtomicU64, output: &mut Output) {
    let mut storm = Storm::default();
    loop {
        let patience = if storm.is_quiet() { Duration::from_mins(1) } else { Duration::from_secs(1) };
        match lines.recv_timeout(patience) {
            Ok(Entry::Line(line)) if storm.admits(&line, clock::now()) => output.write(&line),
            Ok(Entry::Settings(settings)) => output.take_up(&settings),
            Ok(Entry::Line(_)) | Err(RecvTimeoutError::Timeout) => {}
            Ok(Entry::End) | Err(RecvTimeoutError::Disconnected) => {
                storm.end().iter().for_each(|line| output.write(line));
                return;
            }
        }
        storm.ended(clock::now()).iter().for_each(|line| output.write(line));
        let missed = dropped.swap(0, Ordering::Relaxed);
        if missed > 0 {
            output.write(&Line {
                at: line::now(),
                place: &DROPPED,
                sentence: "log lines were dropped, because they came faster than they could be written"
                    .to_owned(),
                fields: vec![("lines", missed.to_string())],
            });
        }
    }
}

impl Output {
    fn take_up(&mut self, settings: &Log) {
        self.form = Form::of(settings);
        self.file = LogFile::wanted(settings);
        self.file_failed = false;
    }

    fn write(&mut self, line: &Line) {
        let journaled = self.journal && journal::send(line, &self.author).is_ok();
        if journaled && self.file.is_none() {
            return;
        }
        let text = self.form.written(line, &self.author, self.coloured && self.file.is_none());
        if let Some(file) = &mut self.file {
            let failed = file.write(&text).err();
            // Said when it begins, elsewhere: a full disk does not get fuller by it.
            if let Some(why) = &failed
                && !self.file_failed
            {
                let _ = writeln!(std::io::stderr().lock(), "write the log file: {why}");
            }
            self.file_failed = failed.is_some();
        }
        if journaled || self.file.is_some() && !self.file_failed {
            return;
        }
        // Nobody is left to tell if stderr is gone.
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }
}

/// The place of the one line that the log itself says. Said through the queue, it could be dropped as well.
static DROPPED: Metadata<'static> = Metadata::new(
    "dropped",
    module_path!(),
    Level::WARN,
    Some(file!()),
    Some(line!()),
    Some(module_path!()),
    FieldSet::new(&[], Identifier(&Own)),
    Kind::EVENT,
);

struct Own;

impl Callsite for Own {
    fn set_interest(&self, _: Interest) {}

    fn metadata(&self) -> &Metadata<'_> {
        &DROPPED
    }
}

/// What is logged by `work`, as lines.
#[cfg(test)]
pub(crate) fn captured(work: impl FnOnce()) -> Vec<Line> {
    let (queue, lines) = queue(10_000);
    tracing::subscriber::with_default(Registry::default().with(queue), work);
    let lines = lines.try_iter().filter_map(|entry| match entry {
        Entry::Line(line) => Some(line),
        Entry::Settings(_) | Entry::End => None,
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use tracing::info;

    use super::*;
    use crate::config::LogForm;

    #[test]
    fn a_full_queue_drops_and_counts_and_never_waits() {
        let (queue, lines) = queue(2);
        let dropped = Arc::clone(&queue.dropped);
        tracing::subscriber::with_default(Registry::default().with(queue), || {
            for number in 0..5 {
                info!(number, "counting");
            }
        });
        assert_eq!(dropped.load(Ordering::Relaxed), 3);
        let Ok(Entry::Line(first)) = lines.recv() else { panic!("the first fitted") };
        assert_eq!(first.message(), "counting number=0");
    }

    #[test]
    fn levels_are_chosen_for_us_for_libraries_and_for_single_modules() {
        let mut settings = Log { level: ConfiguredLevel::Debug, ..Log::default() };
        settings.loggers.insert("h2".to_owned(), "info".to_owned());
        settings.loggers.insert("tower".to_owned(), "nonsense".to_owned());
        let targets = targets(&settings);
        assert!(targets.would_enable("tenure::agent", &Level::DEBUG));
        assert!(targets.would_enable("h2::codec", &Level::INFO));
        assert!(!targets.would_enable("h2::codec", &Level::DEBUG));
        assert!(!targets.would_enable("hyper", &Level::INFO));
        assert!(!targets.would_enable("tower", &Level::INFO));
    }

    #[test]
    fn everything_queued_before_the_end_is_written() {
        let (sender, lines) = sync_channel(8);
        for line in captured(|| ["one", "two"].iter().for_each(|sentence| info!("{sentence}"))) {
            sender.send(Entry::Line(line)).expect("there is room");
        }
        sender.send(Entry::End).expect("there is room");
        sender.send(Entry::End).expect("there is room");
        let author = Author { cluster: "c".to_owned(), member: "m".to_owned() };
        let dir = tempfile::tempdir().expect("a directory");
        let settings = Log {
            dir: Some(dir.path().to_owned()),
            form: LogForm::Json,
            static_fields: [("site".to_owned(), "north".to_owned())].into(),
            ..Log::default()
        };
        let mut output = Output {
            author,
            form: Form::of(&settings),
            journal: false,
            file: LogFile::wanted(&settings),
            file_failed: false,
            coloured: true,
        };
        write_lines(&lines, &AtomicU64::new(0), &mut output);
        let text = std::fs::read_to_string(dir.path().join("patroni.log")).expect("it was written");
        let lines_written: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(lines_written.len(), 2);
        assert!(lines_written.iter().all(|line| line["site"] == "north"));
        assert_eq!(lines_written[1]["message"], "two");
        assert!(matches!(lines.try_recv(), Ok(Entry::End)), "the end stops the writer");
        assert!(lines.try_recv().is_err());
    }
}
