//! A JSON document that keeps the order of its keys, and how Python prints one: scripts out there cut that text.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

#[derive(Clone, Debug, Default, PartialEq)]
pub enum Document {
    #[default]
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Document>),
    /// Each key once.
    Map(Vec<(String, Document)>),
}

impl Document {
    pub fn parse(bytes: &[u8]) -> serde_json::Result<Document> {
        serde_json::from_slice(bytes)
    }

    pub fn text(text: impl Into<String>) -> Document {
        Document::Text(text.into())
    }

    pub fn get(&self, key: &str) -> Option<&Document> {
        self.entries()?.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    pub fn entries(&self) -> Option<&[(String, Document)]> {
        match self {
            Document::Map(entries) => Some(entries),
            Document::Null
            | Document::Bool(_)
            | Document::Integer(_)
            | Document::Float(_)
            | Document::Text(_)
            | Document::List(_) => None,
        }
    }

    pub fn as_text(&self) -> Option<&str> {
        match self {
            Document::Text(text) => Some(text),
            Document::Null
            | Document::Bool(_)
            | Document::Integer(_)
            | Document::Float(_)
            | Document::List(_)
            | Document::Map(_) => None,
        }
    }

    /// A whole number, or text that is one.
    pub fn as_integer(&self) -> Option<i128> {
        match self {
            Document::Integer(number) => Some(*number),
            Document::Text(text) => text.trim().parse().ok(),
            Document::Null
            | Document::Bool(_)
            | Document::Float(_)
            | Document::List(_)
            | Document::Map(_) => None,
        }
    }

    /// What Python takes for true: anything but nothing, zero and emptiness.
    pub fn counts(&self) -> bool {
        match self {
            Document::Null => false,
            Document::Bool(flag) => *flag,
            Document::Integer(number) => *number != 0,
            Document::Float(number) => *number != 0.0,
            Document::Text(text) => !text.is_empty(),
            Document::List(items) => !items.is_empty(),
            Document::Map(entries) => !entries.is_empty(),
        }
    }

    /// As Patroni reads a switch: a boolean in any of its spellings.
    pub fn is_on(&self) -> bool {
        match self {
            Document::Bool(flag) => *flag,
            Document::Integer(number) => *number == 1,
            Document::Text(text) => {
                matches!(text.trim().to_ascii_lowercase().as_str(), "on" | "true" | "yes" | "1")
            }
            Document::Null | Document::Float(_) | Document::List(_) | Document::Map(_) => false,
        }
    }

    /// As Python's `str()` shows it in a table.
    pub fn shown(&self) -> String {
        match self {
            Document::Null => "None".to_owned(),
            Document::Bool(true) => "True".to_owned(),
            Document::Bool(false) => "False".to_owned(),
            Document::Integer(number) => number.to_string(),
            Document::Float(number) => float(*number),
            Document::Text(text) => text.clone(),
            Document::List(_) | Document::Map(_) => self.inner(),
        }
    }

    /// As Python's `repr()` shows it inside a list or a mapping.
    fn inner(&self) -> String {
        match self {
            Document::Text(text) => {
                let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
                let escaped = text.replace('\\', "\\\\").replace('\n', "\\n").replace('\t', "\\t");
                let escaped = if quote == '\'' { escaped.replace('\'', "\\'") } else { escaped };
                format!("{quote}{escaped}{quote}")
            }
            Document::List(items) => {
                format!("[{}]", items.iter().map(Document::inner).collect::<Vec<_>>().join(", "))
            }
            Document::Map(entries) => {
                let pair = |(key, value): &(String, Document)| {
                    format!("{}: {}", Document::text(key).inner(), value.inner())
                };
                format!("{{{}}}", entries.iter().map(pair).collect::<Vec<_>>().join(", "))
            }
            Document::Null | Document::Bool(_) | Document::Integer(_) | Document::Float(_) => self.shown(),
        }
    }

    /// As Python's `json.dumps` writes it.
    pub fn to_json(&self) -> String {
        let mut out = String::new();
        self.write_json(&mut out);
        out
    }

    fn write_json(&self, out: &mut String) {
        match self {
            Document::Null => out.push_str("null"),
            Document::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
            Document::Integer(number) => out.push_str(&number.to_string()),
            Document::Float(number) => out.push_str(&float(*number)),
            Document::Text(text) => quote(text, out),
            Document::List(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    out.push_str(if index == 0 { "" } else { ", " });
                    item.write_json(out);
                }
                out.push(']');
            }
            Document::Map(entries) => {
                out.push('{');
                for (index, (key, value)) in entries.iter().enumerate() {
                    out.push_str(if index == 0 { "" } else { ", " });
                    quote(key, out);
                    out.push_str(": ");
                    value.write_json(out);
                }
                out.push('}');
            }
        }
    }
}

/// The shortest digits that name the number, with Python's exponents.
pub fn float(number: f64) -> String {
    let text = format!("{number:?}");
    match text.split_once('e') {
        None if number.is_nan() => "NaN".to_owned(),
        None if number.is_infinite() => (if number < 0.0 { "-Infinity" } else { "Infinity" }).to_owned(),
        None => text,
        Some((digits, exponent)) => {
            let (sign, exponent) = match exponent.strip_prefix('-') {
                Some(exponent) => ('-', exponent),
                None => ('+', exponent),
            };
            format!("{digits}e{sign}{exponent:0>2}")
        }
    }
}

fn quote(text: &str, out: &mut String) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            ' '..='\u{7f}' => out.push(character),
            _ => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
    out.push('"');
}

impl From<&Value> for Document {
    fn from(value: &Value) -> Document {
        match value {
            Value::Null => Document::Null,
            Value::Bool(flag) => Document::Bool(*flag),
            Value::Number(number) => match number.as_i128() {
                Some(number) => Document::Integer(number),
                None => Document::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => Document::Text(text.clone()),
            Value::Array(items) => Document::List(items.iter().map(Document::from).collect()),
            Value::Object(map) => {
                Document::Map(map.iter().map(|(key, value)| (key.clone(), Document::from(value))).collect())
            }
        }
    }
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Document, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Document;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Document, E> {
        Ok(Document::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Document, E> {
        Ok(Document::Bool(flag))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Document, E> {
        Ok(Document::Integer(i128::from(number)))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Document, E> {
        Ok(Document::Integer(i128::from(number)))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Document, E> {
        Ok(Document::Float(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Document, E> {
        Ok(Document::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Document, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Document::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Document, A::Error> {
        let mut map: Vec<(String, Document)> = Vec::new();
        while let Some((key, value)) = entries.next_entry::<String, Document>()? {
            match map.iter_mut().find(|(name, _)| *name == key) {
                Some((_, earlier)) => *earlier = value,
                None => map.push((key, value)),
            }
        }
        Ok(Document::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_printed_as_python_prints_it_in_the_order_it_came() {
        let check = |text: &str, printed: &str| {
            assert_eq!(Document::parse(text.as_bytes()).expect("JSON").to_json(), printed, "{text}");
        };
        check(r#"{"z":[1,true,null],"a":{},"z":["Åbo 🐘"]}"#, r#"{"z": ["\u00c5bo \ud83d\udc18"], "a": {}}"#);
        check(
            "[1.5,1e16,1e-5,0.0001,-0.0,18446744073709551615]",
            "[1.5, 1e+16, 1e-05, 0.0001, -0.0, 18446744073709551615]",
        );
        check(r#""\b\u0001\"\\\u007f""#, "\"\\b\\u0001\\\"\\\\\u{7f}\"");
    }

    #[test]
    fn emptiness_and_zero_do_not_count() {
        for text in ["null", "false", "0", "0.0", "\"\"", "[]", "{}"] {
            assert!(!Document::parse(text.as_bytes()).expect("JSON").counts(), "{text}");
        }
        assert!(Document::text("0").counts());
    }
}
