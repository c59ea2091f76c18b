//! The form of the log's lines in Python's words: `%(asctime)s %(levelname)s: %(message)s`, or a list of fields for JSON.

use jiff::civil::date;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What can be told of a line. Python has threads and functions where there is nothing alike; what comes closest is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attribute {
    Time,
    Epoch,
    Milliseconds,
    LevelName,
    LevelNumber,
    /// The whole path of the module, such as `tenure::agent`.
    Target,
    /// Its last part.
    Module,
    FileName,
    FilePath,
    LineNumber,
    Process,
    Program,
    Message,
}

const NAMES: &[(&str, Attribute)] = &[
    ("asctime", Attribute::Time),
    ("created", Attribute::Epoch),
    ("filename", Attribute::FileName),
    ("funcName", Attribute::Module),
    ("levelname", Attribute::LevelName),
    ("levelno", Attribute::LevelNumber),
    ("lineno", Attribute::LineNumber),
    ("message", Attribute::Message),
    ("module", Attribute::Module),
    ("msecs", Attribute::Milliseconds),
    ("name", Attribute::Target),
    ("pathname", Attribute::FilePath),
    ("process", Attribute::Process),
    ("processName", Attribute::Program),
    ("taskName", Attribute::Program),
    ("thread", Attribute::Process),
    ("threadName", Attribute::Program),
];

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub struct LogFormat {
    source: Value,
    pub parts: Parts,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Parts {
    Line(Vec<Part>),
    /// Each with the name that it goes by.
    Fields(Vec<(Attribute, String)>),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    Text(String),
    Told { attribute: Attribute, width: usize, filling: Filling },
}

/// What a part that is shorter than its width is filled with, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filling {
    Before,
    After,
    Zeros,
}

/// Nobody reads a line that is padded further.
const WIDTH_MAX: usize = 200;

impl TryFrom<Value> for LogFormat {
    type Error = String;

    fn try_from(source: Value) -> Result<LogFormat, String> {
        let parts = match &source {
            Value::String(text) => Parts::Line(parts_of(text)?),
            Value::Array(items) => Parts::Fields(fields_of(items)?),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => return Err(wanted()),
        };
        Ok(LogFormat { source, parts })
    }
}

impl From<LogFormat> for Value {
    fn from(format: LogFormat) -> Value {
        format.source
    }
}

impl LogFormat {
    /// What a line of JSON has of it, and under which names.
    pub fn fields(&self) -> Vec<(Attribute, String)> {
        match &self.parts {
            Parts::Fields(fields) => fields.clone(),
            Parts::Line(parts) => {
                let name = |wanted: Attribute| NAMES.iter().find(|(_, attribute)| *attribute == wanted);
                let told = parts.iter().filter_map(|part| match part {
                    Part::Told { attribute, .. } => name(*attribute),
                    Part::Text(_) => None,
                });
                told.map(|(name, attribute)| (*attribute, (*name).to_owned())).collect()
            }
        }
    }
}

/// Can a time be written so?
pub fn check_date_format(format: &str) -> Result<(), String> {
    let some_time = date(2026, 11, 21).at(4, 50, 45, 0).in_tz("UTC").map_err(|why| why.to_string())?;
    jiff::fmt::strtime::format(format, &some_time)
        .map(drop)
        .map_err(|why| format!("a form of time as strftime has it; {why}"))
}

fn wanted() -> String {
    "text such as \"%(asctime)s %(levelname)s: %(message)s\", or a list of fields".to_owned()
}

fn attribute(name: &str) -> Result<Attribute, String> {
    let found = NAMES.iter().find(|(known, _)| *known == name).map(|(_, attribute)| *attribute);
    found.ok_or_else(|| {
        let names: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
        format!("names of which there is something to tell, not {name:?}: {}", names.join(", "))
    })
}

fn fields_of(items: &[Value]) -> Result<Vec<(Attribute, String)>, String> {
    let field = |item: &Value| match item {
        Value::String(name) => Ok((attribute(name)?, name.clone())),
        Value::Object(pair) => match pair.iter().collect::<Vec<_>>().as_slice() {
            [(name, Value::String(called))] => Ok((attribute(name)?, called.clone())),
            _ => Err("fields, each a name or one name with another to go by".to_owned()),
        },
        _ => Err(wanted()),
    };
    items.iter().map(field).collect()
}

fn parts_of(text: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        plain.push_str(before);
        if let Some(after) = after.strip_prefix('%') {
            plain.push('%');
            rest = after;
            continue;
        }
        let (name, after) = after
            .strip_prefix('(')
            .and_then(|after| after.split_once(')'))
            .ok_or("each % followed by a name in parentheses, or by another %")?;
        let flags = after.len() - after.trim_start_matches(['-', '0', '+', ' ', '#']).len();
        let (flags, after) = after.split_at(flags);
        let digits = after.len() - after.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (width, after) = after.split_at(digits);
        let width: usize = if width.is_empty() { 0 } else { width.parse().unwrap_or(usize::MAX) };
        if after.starts_with('.') {
            return Err(format!("%({name}) without a precision: nothing is cut short"));
        }
        let after = after
            .strip_prefix(['s', 'd', 'f', 'r', 'i'])
            .ok_or_else(|| format!("%({name}) followed by its kind, such as %({name})s"))?;
        if WIDTH_MAX < width {
            return Err(format!("%({name}) no wider than {WIDTH_MAX}"));
        }
        let filling = match flags {
            flags if flags.contains('-') => Filling::After,
            flags if flags.contains('0') => Filling::Zeros,
            _ => Filling::Before,
        };
        if !plain.is_empty() {
            parts.push(Part::Text(std::mem::take(&mut plain)));
        }
        parts.push(Part::Told { attribute: attribute(name)?, width, filling });
        rest = after;
    }
    plain.push_str(rest);
    if !plain.is_empty() {
        parts.push(Part::Text(plain));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(value: Value) -> Result<Parts, String> {
        LogFormat::try_from(value).map(|format| format.parts)
    }

    #[test]
    fn a_line_is_text_and_what_is_told() {
        let told = |attribute, width, filling| Part::Told { attribute, width, filling };
        let text = |text: &str| Part::Text(text.to_owned());
        assert_eq!(
            read(json!("%(asctime)s 100%% %(levelname)-8s|%(lineno)04d %(name)s")),
            Ok(Parts::Line(vec![
                told(Attribute::Time, 0, Filling::Before),
                text(" 100% "),
                told(Attribute::LevelName, 8, Filling::After),
                text("|"),
                told(Attribute::LineNumber, 4, Filling::Zeros),
                text(" "),
                told(Attribute::Target, 0, Filling::Before),
            ]))
        );
    }

    #[test]
    fn fields_may_go_by_other_names() {
        let fields =
            vec![(Attribute::Message, "message".to_owned()), (Attribute::Time, "@timestamp".to_owned())];
        assert_eq!(read(json!(["message", {"asctime": "@timestamp"}])), Ok(Parts::Fields(fields)));
        let line = LogFormat::try_from(json!("%(levelname)s: %(message)s")).expect("it is right");
        let names: Vec<String> = line.fields().into_iter().map(|(_, name)| name).collect();
        assert_eq!(names, ["levelname", "message"]);
    }

    #[test]
    fn what_cannot_be_told_is_named() {
        let check = |value: Value, part: &str| {
            let why = read(value).expect_err("it is wrong");
            assert!(why.contains(part), "{why}");
        };
        check(json!("%(nonsense)s"), "\"nonsense\"");
        check(json!("100%"), "another %");
        check(json!("%(message)"), "%(message)s");
        check(json!("%(name).10s"), "precision");
        check(json!("%(message)999999999999999999999s"), "200");
        check(json!([{"message": "a", "asctime": "b"}]), "each a name");
        check(json!(7), "a list of fields");
        assert_eq!(check_date_format("%d/%b/%Y %H:%M:%S"), Ok(()));
        assert!(check_date_format("%!").is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[%()a-z0-9.\\- é]{0,40}") {
            let _ = read(json!(text));
            let _ = check_date_format(&text);
        }
    }
}
