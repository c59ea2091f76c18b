//! An answer before it becomes HTTP: a code, headers, bytes. JSON is spelled as Patroni's Python spells it, because
//! scripts out there cut it with grep.

use std::io;

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// A code and nothing else: what load balancers want.
    pub fn status_only(status: u16) -> Answer {
        Answer { status, headers: Vec::new(), body: Vec::new() }
    }

    pub fn json(status: u16, document: &impl Serialize) -> Answer {
        Answer::of(status, "application/json", spell(document))
    }

    /// JSON that has been spelled already.
    pub fn json_text(status: u16, text: String) -> Answer {
        Answer::of(status, "application/json", text.into_bytes())
    }

    /// One sentence. Patroni calls these text/html; a member's name in one must not become markup.
    pub fn sentence(status: u16, text: impl Into<String>) -> Answer {
        Answer::of(status, "text/plain; charset=utf-8", text.into().into_bytes())
    }

    /// Tells browsers and curl to ask for a password.
    pub fn unauthorized(sentence: &str) -> Answer {
        let mut answer = Answer::sentence(401, sentence);
        answer.headers.insert(0, ("www-authenticate", "Basic realm=\"Patroni\"".to_owned()));
        answer
    }

    pub fn metrics(text: String) -> Answer {
        Answer::of(200, "text/plain", text.into_bytes())
    }

    /// The same answer for somebody who wants only its code.
    #[must_use]
    pub fn without_body(self) -> Answer {
        Answer::status_only(self.status)
    }

    pub fn of(status: u16, content_type: &str, body: Vec<u8>) -> Answer {
        Answer { status, headers: vec![("content-type", content_type.to_owned())], body }
    }
}

/// `", "` and `": "` between, ASCII only.
pub fn spell(document: &impl Serialize) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    let mut serializer = Serializer::with_formatter(&mut out, PythonSpelling);
    document.serialize(&mut serializer).expect("our documents have text keys and no failing serializers");
    out
}

struct PythonSpelling;

impl Formatter for PythonSpelling {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }

    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, out: &mut W, text: &str) -> io::Result<()> {
        // Nearly everything is ASCII, and goes out in one piece.
        let mut rest = text;
        while let Some(place) = rest.bytes().position(|byte| !matches!(byte, b' '..=b'~')) {
            let (plain, from) = rest.split_at(place);
            out.write_all(plain.as_bytes())?;
            let mut characters = from.chars();
            if let Some(character) = characters.next() {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    write!(out, "\\u{unit:04x}")?;
                }
            }
            rest = characters.as_str();
        }
        out.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_is_spelled_as_python_spells_it() {
        let check = |value: serde_json::Value, text: &str| {
            assert_eq!(String::from_utf8(spell(&value)).expect("ASCII"), text);
        };
        check(json!({"a": [1, true, null], "b": {}}), r#"{"a": [1, true, null], "b": {}}"#);
        check(json!([]), "[]");
        check(json!("Åbo 🐘 \u{7f}\n\"\u{1}"), r#""\u00c5bo \ud83d\udc18 \u007f\n\"\u0001""#);
    }

    #[test]
    fn whoever_wants_only_the_code_gets_neither_headers_nor_body() {
        let answer = Answer::sentence(503, "x").without_body();
        assert_eq!(answer, Answer::status_only(503));
    }
}
