//! One event with everything that any output needs, and its forms for stderr.

use std::fmt::{self, Write as _};

use jiff::Zoned;
use tracing::field::{Field, Visit};
use tracing::{Event, Metadata};

/// Fields for the journal and for programs, which would only make a line longer for people: the sentence says the same.
const FOR_PROGRAMS: &[&str] =
    &["message_id", "other_member", "loss_ms_max", "loss_bytes_max", "loss_bytes_known"];

/// In whose name lines are written.
#[derive(Clone, Debug)]
pub struct Author {
    pub cluster: String,
    pub member: String,
}

#[derive(Clone, Debug)]
pub struct Line {
    pub at: Zoned,
    /// The place in the code that says it.
    pub place: &'static Metadata<'static>,
    pub sentence: String,
    pub fields: Vec<(&'static str, String)>,
}

impl Line {
    pub fn of(event: &Event<'_>) -> Line {
        let mut fields = Fields::default();
        event.record(&mut fields);
        Line { at: now(), place: event.metadata(), sentence: fields.sentence, fields: fields.others }
    }

    pub fn field(&self, wanted: &str) -> Option<&str> {
        self.fields.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value.as_str())
    }

    /// The sentence and its fields: `leading term=7`.
    pub fn message(&self) -> String {
        let mut text = escaped(&self.sentence);
        for (name, value) in self.fields.iter().filter(|(name, _)| !FOR_PROGRAMS.contains(name)) {
            let quoted = value.is_empty() || value.contains([' ', '"', '=']);
            let value = escaped(value);
            let written =
                if quoted { write!(text, " {name}={value:?}") } else { write!(text, " {name}={value}") };
            written.expect("text grows");
        }
        text
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "people read when a line was written; nothing is decided by it"
)]
pub fn now() -> Zoned {
    Zoned::now()
}

/// One event is one line, and what comes from outside does not move a terminal's cursor.
pub fn escaped(text: &str) -> String {
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

    use super::super::captured;

    #[test]
    fn what_is_meant_for_programs_does_not_lengthen_the_line_for_people() {
        let lines = captured(|| info!(message_id = "abc", other_member = "oulu", "following oulu"));
        assert_eq!(lines[0].message(), "following oulu");
    }

    #[test]
    fn an_error_is_told_with_its_causes() {
        let error = std::io::Error::other(super::super::LogError("no thread".to_owned()));
        let lines = captured(|| error!(error = &error as &(dyn std::error::Error + 'static), "cannot begin"));
        assert_eq!(lines[0].message(), "cannot begin error=\"start the log: no thread\"");
    }
}
