//! What a line looks like where it is text: in our own form, in one that Python's words describe, or as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Map, Value, json};
use tracing::Level;

use super::line::{Author, Line, escaped};
use crate::config::{Attribute, Filling, Log, LogForm, LogFormat, Part, Parts};

const OWN_TIME: &str = "%Y-%m-%d %H:%M:%S%.3f";
const JSON_TIME: &str = "%Y-%m-%dT%H:%M:%S%.3f%:z";

#[derive(Clone, Debug)]
pub struct Form {
    kind: LogForm,
    format: Option<LogFormat>,
    time: Option<String>,
    static_fields: BTreeMap<String, String>,
}

impl Form {
    pub fn of(settings: &Log) -> Form {
        Form {
            kind: settings.form,
            format: settings.format.clone(),
            time: settings.dateformat.clone(),
            static_fields: settings.static_fields.clone(),
        }
    }

    /// With the end of the line.
    pub fn written(&self, line: &Line, author: &Author, coloured: bool) -> String {
        let mut text = match (self.kind, &self.format) {
            (LogForm::Json, _) => self.json(line, author).to_string(),
            (LogForm::Plain, Some(LogFormat { parts: Parts::Line(parts), .. })) => self.told(parts, line),
            (LogForm::Plain, Some(_) | None) => self.own(line, author, coloured),
        };
        text.push('\n');
        text
    }

    fn own(&self, line: &Line, author: &Author, coloured: bool) -> String {
        let level = *line.place.level();
        let colour = match level {
            _ if !coloured => None,
            Level::ERROR => Some("31"),
            Level::WARN => Some("33"),
            _ => None,
        };
        let level = match colour {
            Some(code) => format!("\u{1b}[{code}m{level}\u{1b}[0m"),
            None => level.to_string(),
        };
        let at = line.at.strftime(self.time.as_deref().unwrap_or(OWN_TIME));
        format!("{at} {level} {}: {}", author.member, line.message())
    }

    fn told(&self, parts: &[Part], line: &Line) -> String {
        let mut text = String::new();
        for part in parts {
            let (attribute, width, filling) = match part {
                Part::Text(plain) => {
                    text.push_str(plain);
                    continue;
                }
                Part::Told { attribute, width, filling } => (*attribute, *width, *filling),
            };
            let told = match self.attribute(attribute, line) {
                _ if attribute == Attribute::Message => line.message(),
                Value::String(told) => told,
                number => number.to_string(),
            };
            let written = match filling {
                Filling::Before => write!(text, "{told:>width$}"),
                Filling::After => write!(text, "{told:<width$}"),
                Filling::Zeros => write!(text, "{told:0>width$}"),
            };
            written.expect("text grows");
        }
        text
    }

    fn json(&self, line: &Line, author: &Author) -> Value {
        let text = |(name, value): (&str, &str)| (name.to_owned(), Value::from(value));
        let mut fields: Map<String, Value> = Map::new();
        fields.extend(self.static_fields.iter().map(|(name, value)| text((name, value))));
        fields.extend(line.fields.iter().map(|(name, value)| text((name, value))));
        // The line's own words win over a field that happens to bear the same name.
        if let Some(format) = &self.format {
            let told = format.fields().into_iter();
            fields.extend(told.map(|(attribute, name)| (name, self.attribute(attribute, line))));
        } else {
            let at = line.at.strftime(self.time.as_deref().unwrap_or(JSON_TIME)).to_string();
            fields.extend([
                text(("asctime", &at)),
                text(("levelname", python_name(*line.place.level()).0)),
                text(("cluster", &author.cluster)),
                text(("member", &author.member)),
                text(("module", line.place.target())),
                text(("message", &line.sentence)),
            ]);
        }
        Value::Object(fields)
    }

    fn attribute(&self, attribute: Attribute, line: &Line) -> Value {
        let target = line.place.target();
        let path = line.place.file().unwrap_or_default();
        let last = |text: &str, mark| text.rsplit(mark).next().unwrap_or_default().to_owned();
        let milliseconds = line.at.millisecond();
        match attribute {
            Attribute::Time => match &self.time {
                Some(format) => line.at.strftime(format).to_string().into(),
                None => format!("{},{milliseconds:03}", line.at.strftime("%Y-%m-%d %H:%M:%S")).into(),
            },
            Attribute::Epoch => json!(line.at.timestamp().as_duration().as_secs_f64()),
            Attribute::Milliseconds => milliseconds.into(),
            Attribute::LevelName => python_name(*line.place.level()).0.into(),
            Attribute::LevelNumber => python_name(*line.place.level()).1.into(),
            Attribute::Target => target.into(),
            Attribute::Module => last(target, "::").into(),
            Attribute::FileName => last(path, "/").into(),
            Attribute::FilePath => path.into(),
            Attribute::LineNumber => line.place.line().into(),
            Attribute::Process => std::process::id().into(),
            Attribute::Program => "tenured".into(),
            Attribute::Message => escaped(&line.sentence).into(),
        }
    }
}

/// And Python's number for it.
fn python_name(level: Level) -> (&'static str, u8) {
    match level {
        Level::ERROR => ("ERROR", 40),
        Level::WARN => ("WARNING", 30),
        Level::INFO => ("INFO", 20),
        _ => ("DEBUG", 10),
    }
}

#[cfg(test)]
mod tests {
    use tracing::{error, info, warn};

    use super::super::captured;
    use super::*;

    fn settings(kind: LogForm, format: Value) -> Log {
        Log { form: kind, format: LogFormat::try_from(format).ok(), ..Log::default() }
    }

    fn written(settings: &Log, line: &Line, coloured: bool) -> String {
        let author = Author { cluster: "batman".to_owned(), member: "turku".to_owned() };
        let at = "2026-11-21T04:50:45.123[UTC]".parse().expect("a time");
        Form::of(settings).written(&Line { at, ..line.clone() }, &author, coloured)
    }

    #[test]
    fn a_line_reads_as_a_sentence_with_its_fields() {
        let lines = captured(|| info!(term = 7, why = "no answer", none = "", "leading"));
        assert_eq!(
            written(&Log::default(), &lines[0], false),
            "2026-11-21 04:50:45.123 INFO turku: leading term=7 why=\"no answer\" none=\"\"\n"
        );
        assert_eq!(
            written(&settings(LogForm::Json, Value::Null), &lines[0], false),
            "{\"asctime\":\"2026-11-21T04:50:45.123+00:00\",\"cluster\":\"batman\",\"levelname\":\"INFO\",\
             \"member\":\"turku\",\"message\":\"leading\",\"module\":\"tenure::log::form::tests\",\"none\":\"\",\
             \"term\":\"7\",\"why\":\"no answer\"}\n"
        );
    }

    #[test]
    fn a_line_takes_the_form_that_pythons_words_describe() {
        let lines = captured(|| warn!(term = 7, "leading"));
        let check = |kind, format: Value, time: Option<&str>, wanted: &str| {
            let settings = Log { dateformat: time.map(str::to_owned), ..settings(kind, format) };
            assert_eq!(written(&settings, &lines[0], true), format!("{wanted}\n"));
        };
        let patronis = "%(asctime)s %(levelname)s: %(message)s";
        check(LogForm::Plain, json!(patronis), None, "2026-11-21 04:50:45,123 WARNING: leading term=7");
        let short = "%(levelname)-8s|%(levelno)04d|%(module)7s %(asctime)s";
        check(LogForm::Plain, json!(short), Some("%H.%M"), "WARNING |0030|  tests 04.50");
        check(
            LogForm::Json,
            json!(["message", {"levelname": "severity"}, "created"]),
            None,
            "{\"created\":1795236645.123,\"message\":\"leading\",\"severity\":\"WARNING\",\"term\":\"7\"}",
        );
        check(LogForm::Json, json!("%(message)s"), None, "{\"message\":\"leading\",\"term\":\"7\"}");
    }

    #[test]
    fn what_is_meant_for_programs_is_in_json() {
        let lines = captured(|| info!(message_id = "abc", other_member = "oulu", "following oulu"));
        let text = written(&settings(LogForm::Json, Value::Null), &lines[0], false);
        assert!(text.contains("\"message_id\":\"abc\""), "{text}");
    }

    #[test]
    fn nothing_from_outside_breaks_a_line_or_moves_the_cursor() {
        let lines = captured(|| info!(name = "a\nb", "two\nlines \u{1b}[2J"));
        for settings in [Log::default(), settings(LogForm::Plain, json!("%(message)s"))] {
            let text = written(&settings, &lines[0], false);
            assert_eq!(text.matches('\n').count(), 1, "{text}");
            assert!(!text.contains('\u{1b}'));
        }
    }

    #[test]
    fn colours_are_for_terminals_and_for_what_is_wrong() {
        let lines = captured(|| {
            info!("x");
            error!("x");
        });
        assert!(!written(&Log::default(), &lines[0], true).contains('\u{1b}'));
        assert!(written(&Log::default(), &lines[1], true).contains("\u{1b}[31mERROR\u{1b}[0m turku: x"));
    }
}
