//! The log: to the journal when systemd runs us, otherwise lines on stderr.
//! Whoever logs never waits: lines go into a bounded queue that one thread empties, and what does not fit is dropped and
//! counted. A full pipe or a stuck journal must not hold up the loop that renews the lease.

use std::fmt::{self, Write as _};
use std::io::{IsTerminal, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::Zoned;
use libsystemd::logging::{self, Priority};
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::Registry;
use tracing_subscriber::reload;

use crate::config::{Level as ConfiguredLevel, Log, LogForm};

/// Keeps the log going. Dropping it writes what is still queued, for as long as a second.
#[derive(Debug)]
pub struct Logging {
    filter: reload::Handle<Targets, Registry>,
    queue: Option<SyncSender<Line>>,
    writer: Option<(JoinHandle<()>, Receiver<()>)>,
}

/// One event, with everything that any output needs.
struct Line {
    at: Zoned,
    level: Level,
    target: &'static str,
    sentence: String,
    fields: Vec<(&'static str, String)>,
}

/// Where lines go and what they look like.
struct Output {
    member: String,
    form: LogForm,
    journal: bool,
    coloured: bool,
}

struct Queue {
    sender: SyncSender<Line>,
    dropped: Arc<AtomicU64>,
}

#[derive(Debug, thiserror::Error)]
#[error("start the log: {0}")]
pub struct LogError(String);

/// Start logging for the whole process, in the name of a member.
pub fn start(settings: &Log, member: &str) -> Result<Logging, LogError> {
    let output = Output {
        member: member.to_owned(),
        form: settings.form,
        journal: logging::connected_to_journal(),
        coloured: std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
    };
    let (sender, lines) = sync_channel(settings.max_queue_size.max(1));
    let dropped = Arc::new(AtomicU64::new(0));
    let (done, ended) = sync_channel(1);
    let missed = Arc::clone(&dropped);
    let writer = std::thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || {
            write_lines(&lines, &missed, &output);
            let _ = done.send(());
        })
        .map_err(|why| LogError(why.to_string()))?;
    let (filter, handle) = reload::Layer::new(targets(settings));
    let layer = Queue { sender: sender.clone(), dropped };
    let subscriber = Registry::default().with(layer.with_filter(filter));
    tracing::subscriber::set_global_default(subscriber).map_err(|why| LogError(why.to_string()))?;
    Ok(Logging { filter: handle, queue: Some(sender), writer: Some((writer, ended)) })
}

impl Logging {
    /// Take up new levels after a reload. The form of the lines and the queue stay as they began.
    pub fn set_levels(&self, settings: &Log) {
        // It fails only when the subscriber has gone, and then nobody logs.
        let _ = self.filter.reload(targets(settings));
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        // The subscriber lives as long as the process and holds the queue open, so the end is sent, not implied.
        if let Some(queue) = self.queue.take() {
            let _ = queue.try_send(end_mark());
        }
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
    let ours = ["tenure", "tenured", "tenurectl", "tenure_fence"].map(|name| (name, own));
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
        let metadata: &Metadata<'static> = event.metadata();
        let mut fields = Fields::default();
        event.record(&mut fields);
        let line = Line {
            at: now(),
            level: *metadata.level(),
            target: metadata.target(),
            sentence: fields.sentence,
            fields: fields.others,
        };
        match self.sender.try_send(line) {
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            Err(TrySendError::Full(_)) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "people read when a line was written; nothing is decided by it"
)]
fn now() -> Zoned {
    Zoned::now()
}

// A target that no module has.
const END: &str = "";

fn end_mark() -> Line {
    Line { at: now(), level: Level::TRACE, target: END, sentence: String::new(), fields: Vec::new() }
}

fn write_lines(lines: &Receiver<Line>, dropped: &AtomicU64, output: &Output) {
    loop {
        match lines.recv_timeout(Duration::from_mins(1)) {
            Ok(line) if line.target == END => return,
            Ok(line) => output.write(&line),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let missed = dropped.swap(0, Ordering::Relaxed);
        if missed > 0 {
            output.write(&Line {
                at: now(),
                level: Level::WARN,
                target: module_path!(),
                sentence: "log lines were dropped, because they came faster than they could be written"
                    .to_owned(),
                fields: vec![("lines", missed.to_string())],
            });
        }
    }
}

impl Output {
    fn write(&self, line: &Line) {
        if self.journal && self.to_journal(line) {
            return;
        }
        let text = match self.form {
            LogForm::Plain => line.plain(&self.member, self.coloured),
            LogForm::Json => line.json(&self.member),
        };
        // Nobody is left to tell if stderr is gone.
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }

    fn to_journal(&self, line: &Line) -> bool {
        let priority = match line.level {
            Level::ERROR => Priority::Error,
            Level::WARN => Priority::Warning,
            Level::INFO => Priority::Info,
            _ => Priority::Debug,
        };
        // Short fields are part of the sentence for people, and fields of their own for `journalctl RULE=…`.
        let own = [
            ("SYSLOG_IDENTIFIER".to_owned(), "tenured".to_owned()),
            ("TENURE_MEMBER".to_owned(), self.member.clone()),
            ("TENURE_MODULE".to_owned(), line.target.to_owned()),
        ];
        let fields =
            line.fields.iter().map(|(name, value)| (format!("TENURE_{}", journal_name(name)), value.clone()));
        logging::journal_send(priority, &line.message(), own.into_iter().chain(fields)).is_ok()
    }
}

fn journal_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
}

impl Line {
    /// The sentence and its fields: `leading term=7`.
    fn message(&self) -> String {
        let mut text = escaped(&self.sentence);
        for (name, value) in &self.fields {
            let quoted = value.is_empty() || value.contains([' ', '"', '=']);
            let value = escaped(value);
            let written =
                if quoted { write!(text, " {name}={value:?}") } else { write!(text, " {name}={value}") };
            written.expect("text grows");
        }
        text
    }

    fn plain(&self, member: &str, coloured: bool) -> String {
        let colour = match self.level {
            _ if !coloured => None,
            Level::ERROR => Some("31"),
            Level::WARN => Some("33"),
            _ => None,
        };
        let level = match colour {
            Some(code) => format!("\u{1b}[{code}m{}\u{1b}[0m", self.level),
            None => self.level.to_string(),
        };
        format!("{} {level} {member}: {}\n", self.at.strftime("%Y-%m-%d %H:%M:%S%.3f"), self.message())
    }

    fn json(&self, member: &str) -> String {
        let mut fields = Map::new();
        for (name, value) in &self.fields {
            fields.insert((*name).to_owned(), Value::from(value.as_str()));
        }
        // The line's own words win over a field that happens to bear the same name.
        fields.insert("asctime".into(), self.at.strftime("%Y-%m-%dT%H:%M:%S%.3f%:z").to_string().into());
        fields.insert("levelname".into(), python_name(self.level).into());
        fields.insert("member".into(), member.into());
        fields.insert("module".into(), self.target.into());
        fields.insert("message".into(), self.sentence.as_str().into());
        format!("{}\n", Value::Object(fields))
    }
}

fn python_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "ERROR",
        Level::WARN => "WARNING",
        Level::INFO => "INFO",
        _ => "DEBUG",
    }
}

/// One event is one line, and what comes from outside does not move a terminal's cursor.
fn escaped(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { clean.extend(c.escape_default()) } else { clean.push(c) }
    }
    clean
}

/// Collects the fields of an event; the one named `message` is the sentence.
#[derive(Default)]
struct Fields {
    sentence: String,
    others: Vec<(&'static str, String)>,
}

impl Fields {
    fn put(&mut self, field: &Field, text: String) {
        match field.name() {
            "message" => self.sentence = text,
            // Left there by the bridge from the `log` crate; the module is told already.
            name if name.starts_with("log.") => {}
            name => self.others.push((name, text)),
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.to_owned());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        // The whole chain, once: what was tried, and what happened.
        let mut text = value.to_string();
        let mut cause = value.source();
        while let Some(error) = cause {
            write!(text, ": {error}").expect("text grows");
            cause = error.source();
        }
        self.put(field, text);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use tracing::{error, info};

    use super::*;

    fn line(sentence: &str, fields: &[(&'static str, &str)]) -> Line {
        Line {
            at: "2026-11-21T04:50:45.123[UTC]".parse().expect("a time"),
            level: Level::INFO,
            target: "tenure::agent",
            sentence: sentence.to_owned(),
            fields: fields.iter().map(|(name, value)| (*name, (*value).to_owned())).collect(),
        }
    }

    #[test]
    fn a_line_reads_as_a_sentence_with_its_fields() {
        let line = line("leading", &[("term", "7"), ("why", "no answer"), ("none", "")]);
        assert_eq!(
            line.plain("turku", false),
            "2026-11-21 04:50:45.123 INFO turku: leading term=7 why=\"no answer\" none=\"\"\n"
        );
        assert_eq!(
            line.json("turku"),
            "{\"asctime\":\"2026-11-21T04:50:45.123+00:00\",\"levelname\":\"INFO\",\"member\":\"turku\",\
             \"message\":\"leading\",\"module\":\"tenure::agent\",\"none\":\"\",\"term\":\"7\",\"why\":\"no answer\"}\n"
        );
    }

    #[test]
    fn nothing_from_outside_breaks_a_line_or_moves_the_cursor() {
        let text = line("two\nlines \u{1b}[2J", &[("name", "a\nb")]).plain("turku", false);
        assert_eq!(text.matches('\n').count(), 1, "{text}");
        assert!(!text.contains('\u{1b}'));
    }

    #[test]
    fn colours_are_for_terminals_and_for_what_is_wrong() {
        let mut line = line("x", &[]);
        assert!(!line.plain("m", true).contains('\u{1b}'));
        line.level = Level::ERROR;
        assert!(line.plain("m", true).contains("\u{1b}[31mERROR\u{1b}[0m m: x"));
    }

    #[test]
    fn a_full_queue_drops_and_counts_and_never_waits() {
        let (sender, lines) = sync_channel(2);
        let dropped = Arc::new(AtomicU64::new(0));
        let queue = Queue { sender, dropped: Arc::clone(&dropped) };
        tracing::subscriber::with_default(Registry::default().with(queue), || {
            for number in 0..5 {
                info!(number, "counting");
            }
        });
        assert_eq!(dropped.load(Ordering::Relaxed), 3);
        assert_eq!(lines.recv().expect("the first fitted").message(), "counting number=0");
    }

    #[test]
    fn an_error_is_told_with_its_causes() {
        let (sender, lines) = sync_channel(2);
        let queue = Queue { sender, dropped: Arc::default() };
        let error: std::io::Error = std::io::Error::other(LogError("no thread".to_owned()));
        tracing::subscriber::with_default(Registry::default().with(queue), || {
            error!(error = &error as &(dyn std::error::Error + 'static), "cannot begin");
        });
        let line = lines.recv().expect("one line");
        assert_eq!(line.message(), "cannot begin error=\"start the log: no thread\"");
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
        for sentence in ["one", "two"] {
            sender.send(line(sentence, &[])).expect("there is room");
        }
        sender.send(end_mark()).expect("there is room");
        sender.send(line("after the end", &[])).expect("there is room");
        let output = Output { member: "m".to_owned(), form: LogForm::Plain, journal: false, coloured: false };
        write_lines(&lines, &AtomicU64::new(0), &output);
        assert_eq!(lines.try_recv().expect("the end stops the writer").sentence, "after the end");
    }
}
