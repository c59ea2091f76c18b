//! YAML as a tree that remembers where everything stood, so that a complaint can name the line.
//! Scalars keep their text: what `off` or `0640` means depends on the setting. Which settings exist is `settings`' business.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, Tag};
use serde_json::Value;

use super::problem::Problem;

/// Where something was written: a file with line and column, or an environment variable.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub source: Arc<str>,
    /// Line and column, both from 1.
    pub at: Option<(usize, usize)>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub place: Place,
    pub content: Content,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// `plain` is text without quotes, which may mean a number, a boolean or nothing.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub key: String,
    pub place: Place,
    pub value: Node,
}

// A configuration has a few hundred nodes; these bounds only stop what was made to exhaust memory or the stack.
const BYTES_MAX: usize = 4 << 20;
const DEPTH_MAX: usize = 64;
const NODES_MAX: usize = 100_000;

/// Read one document. An empty one is an empty mapping, as far as a configuration is concerned.
pub fn parse(source: &str, text: &str) -> Result<Node, Problem> {
    let origin = Place { source: source.into(), at: None };
    if text.len() > BYTES_MAX {
        return Err(Problem::at(origin, format!("the file is larger than {} MB", BYTES_MAX >> 20)));
    }
    // Some editors on other systems begin a file with this mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader =
        Reader { events: Parser::new_from_str(text), origin, anchors: BTreeMap::new(), nodes: 0 };
    reader.document()
}

struct Reader<'t> {
    events: Parser<'t, saphyr_parser::StrInput<'t>>,
    origin: Place,
    anchors: BTreeMap<usize, Node>,
    nodes: usize,
}

impl<'t> Reader<'t> {
    fn document(&mut self) -> Result<Node, Problem> {
        let mut document = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => break,
                Event::Nothing | Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd => {}
                _ if document.is_some() => {
                    return Err(Problem::at(self.place(span), "a second document begins here".to_owned())
                        .hint("one file holds one configuration; several files are merged"));
                }
                event => document = Some(self.node(event, span, 0)?),
            }
        }
        let empty = Node { place: self.origin.clone(), content: Content::Map(Vec::new()) };
        Ok(document.filter(|node| !node.is_null()).unwrap_or(empty))
    }

    fn next(&mut self) -> Result<(Event<'t>, Span), Problem> {
        match self.events.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(self.syntax(&error)),
            None => Err(Problem::at(self.origin.clone(), "the text ends in the middle".to_owned())),
        }
    }

    fn node(&mut self, event: Event<'t>, span: Span, depth: usize) -> Result<Node, Problem> {
        let place = self.place(span);
        self.nodes += 1;
        if depth > DEPTH_MAX || self.nodes > NODES_MAX {
            return Err(Problem::at(place, "this is nested too deeply or repeats too much".to_owned()));
        }
        let (anchor, content) = match event {
            Event::Alias(anchor) => return self.alias(anchor, place),
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain;
                let plain = match tag.as_deref() {
                    None => plain,
                    Some(tag) => plain_by_tag(tag).ok_or_else(|| unknown_tag(tag, &place))?,
                };
                (anchor, Content::Scalar { text: text.into_owned(), plain })
            }
            Event::SequenceStart(anchor, tag) => {
                refuse_tag(tag.as_deref(), &place)?;
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break,
                        (event, span) => items.push(self.node(event, span, depth + 1)?),
                    }
                }
                (anchor, Content::List(items))
            }
            Event::MappingStart(anchor, tag) => {
                refuse_tag(tag.as_deref(), &place)?;
                (anchor, Content::Map(self.entries(depth)?))
            }
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::SequenceEnd
            | Event::MappingEnd => {
                return Err(Problem::at(place, "a value is missing here".to_owned()));
            }
        };
        let node = Node { place, content };
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn entries(&mut self, depth: usize) -> Result<Vec<Entry>, Problem> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut merged: Vec<Entry> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                break;
            }
            let key = self.node(event, span, depth + 1)?;
            let (event, span) = self.next()?;
            let value = self.node(event, span, depth + 1)?;
            let Content::Scalar { text, plain } = key.content else {
                return Err(Problem::at(key.place, "a key must be a plain word".to_owned()));
            };
            if text == "<<" && plain {
                merged.extend(merge_sources(value)?);
                continue;
            }
            if let Some(first) = entries.iter().find(|entry| entry.key == text) {
                let line = first.place.at.map_or(0, |(line, _)| line);
                return Err(Problem::at(key.place, format!("{text} stands here a second time"))
                    .hint(format!("the first is in line {line}; keep one of them")));
            }
            entries.push(Entry { key: text, place: key.place, value });
        }
        // What is written out wins over what is merged in, and of the merged the first one does.
        for entry in merged {
            if !entries.iter().any(|own| own.key == entry.key) {
                entries.push(entry);
            }
        }
        Ok(entries)
    }

    fn alias(&mut self, anchor: usize, place: Place) -> Result<Node, Problem> {
        let Some(node) = self.anchors.get(&anchor) else {
            return Err(Problem::at(place, "this refers to an anchor that does not exist yet".to_owned()));
        };
        let size = node.size();
        let node = node.clone();
        self.nodes += size;
        if self.nodes > NODES_MAX {
            return Err(Problem::at(place, "this repeats too much".to_owned()));
        }
        Ok(node)
    }

    fn place(&self, span: Span) -> Place {
        Place { source: self.origin.source.clone(), at: Some((span.start.line(), span.start.col() + 1)) }
    }

    fn syntax(&self, error: &ScanError) -> Problem {
        let at = Some((error.marker().line(), error.marker().col() + 1));
        let place = Place { source: self.origin.source.clone(), at };
        Problem::at(place, format!("this is not YAML: {}", error.info()))
    }
}

fn merge_sources(value: Node) -> Result<Vec<Entry>, Problem> {
    match value.content {
        Content::Map(entries) => Ok(entries),
        Content::List(items) => {
            let mut entries = Vec::new();
            for item in items {
                entries.extend(merge_sources(item)?);
            }
            Ok(entries)
        }
        Content::Scalar { .. } => {
            Err(Problem::at(value.place, "only mappings can be merged with <<".to_owned()))
        }
    }
}

/// Does this tag leave the meaning of a scalar to its text?
fn plain_by_tag(tag: &Tag) -> Option<bool> {
    if !tag.is_yaml_core_schema() {
        return None;
    }
    match tag.suffix.as_str() {
        "str" => Some(false),
        "int" | "bool" | "float" | "null" => Some(true),
        _ => None,
    }
}

fn refuse_tag(tag: Option<&Tag>, place: &Place) -> Result<(), Problem> {
    match tag {
        Some(tag) if !tag.is_yaml_core_schema() => Err(unknown_tag(tag, place)),
        Some(_) | None => Ok(()),
    }
}

fn unknown_tag(tag: &Tag, place: &Place) -> Problem {
    Problem::at(place.clone(), format!("the tag {}{} is not understood here", tag.handle, tag.suffix))
}

impl Node {
    pub fn is_null(&self) -> bool {
        match &self.content {
            Content::Scalar { text, plain } => *plain && is_null(text),
            Content::List(_) | Content::Map(_) => false,
        }
    }

    /// The value of a key of a mapping.
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.content {
            Content::Map(entries) => entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value),
            Content::Scalar { .. } | Content::List(_) => None,
        }
    }

    /// The value as JSON, with YAML 1.1's reading of plain words, because that is what Patroni's files are written in.
    pub fn to_json(&self) -> Value {
        match &self.content {
            Content::Scalar { text, plain: false } => Value::String(text.clone()),
            Content::Scalar { text, plain: true } => plain_value(text),
            Content::List(items) => Value::Array(items.iter().map(Node::to_json).collect()),
            Content::Map(entries) => {
                Value::Object(entries.iter().map(|e| (e.key.clone(), e.value.to_json())).collect())
            }
        }
    }

    /// A tree from JSON, all of it at one place.
    pub fn from_json(value: &Value, place: &Place) -> Node {
        let scalar = |text: String, plain| Content::Scalar { text, plain };
        let content = match value {
            Value::Null => scalar(String::new(), true),
            Value::Bool(flag) => scalar(flag.to_string(), true),
            Value::Number(number) => scalar(number.to_string(), true),
            Value::String(text) => scalar(text.clone(), false),
            Value::Array(items) => {
                Content::List(items.iter().map(|item| Node::from_json(item, place)).collect())
            }
            Value::Object(map) => Content::Map(
                map.iter()
                    .map(|(key, value)| Entry {
                        key: key.clone(),
                        place: place.clone(),
                        value: Node::from_json(value, place),
                    })
                    .collect(),
            ),
        };
        Node { place: place.clone(), content }
    }

    fn size(&self) -> usize {
        1 + match &self.content {
            Content::Scalar { .. } => 0,
            Content::List(items) => items.iter().map(Node::size).sum(),
            Content::Map(entries) => entries.iter().map(|entry| entry.value.size()).sum(),
        }
    }
}

fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

fn plain_value(text: &str) -> Value {
    if is_null(text) {
        return Value::Null;
    }
    match text {
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => return Value::Bool(true),
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Value::Bool(false);
        }
        _ => {}
    }
    integer(text).map(Value::from).or_else(|| float(text)).unwrap_or_else(|| Value::String(text.to_owned()))
}

/// An integer as YAML 1.1 writes it: `0640` is octal. Its base-60 form is left out on purpose: nobody means it.
pub fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let digits = digits.replace('_', "");
    let (digits, radix) = match digits.get(..2) {
        Some("0x") => (&digits[2..], 16),
        Some("0b") => (&digits[2..], 2),
        Some("0o") => (&digits[2..], 8),
        Some(_) if digits.starts_with('0') => (&digits[1..], 8),
        Some(_) | None => (digits.as_str(), 10),
    };
    // `from_str_radix` would take a second sign.
    let magnitude =
        digits.chars().all(|c| c.is_digit(radix)).then(|| i64::from_str_radix(digits, radix).ok())??;
    Some(if negative { -magnitude } else { magnitude })
}

fn float(text: &str) -> Option<Value> {
    let digits = text.trim_start_matches(['-', '+']);
    let begins = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    let numeric = digits.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-'));
    if !(begins && numeric && digits.contains('.')) {
        return None;
    }
    serde_json::Number::from_f64(text.parse().ok()?).map(Value::Number)
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)?;
        match self.at {
            Some((line, column)) => write!(f, ":{line}:{column}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn json_of(text: &str) -> Value {
        parse("t.yml", text).expect("good YAML").to_json()
    }

    fn complaint(text: &str) -> String {
        parse("t.yml", text).expect_err("bad YAML").to_string()
    }

    #[test]
    fn plain_words_mean_what_patronis_reader_makes_of_them() {
        let text = "a: on\nb: 'on'\nc: 0640\nd: 1.5\ne: ~\nf: 12:30\ng: 1_000\nh: !!str 7\ni: -3\nj: 2026-11-21\nk: 08\n";
        assert_eq!(
            json_of(text),
            json!({"a": true, "b": "on", "c": 416, "d": 1.5, "e": null, "f": "12:30", "g": 1000, "h": "7", "i": -3,
                   "j": "2026-11-21", "k": "08"})
        );
    }

    #[test]
    fn anchors_and_merges_work_as_in_real_files() {
        let text = "base: &b {x: 1, y: 2}\none:\n  <<: *b\n  y: 3\ntwo: {<<: [*b, {z: 4}]}\nlist: [*b]\n";
        assert_eq!(
            json_of(text),
            json!({"base": {"x": 1, "y": 2}, "one": {"x": 1, "y": 3}, "two": {"x": 1, "y": 2, "z": 4},
                   "list": [{"x": 1, "y": 2}]})
        );
    }

    #[test]
    fn an_empty_file_is_an_empty_mapping() {
        for text in ["", "# nothing\n", "---\n", "~", "\u{feff}"] {
            assert_eq!(json_of(text), json!({}), "{text:?}");
        }
    }

    #[test]
    fn what_is_not_yaml_is_named_with_its_line() {
        assert_eq!(complaint("scope: a\nname: [x\nfoo: bar\n").split(": this").next(), Some("t.yml:3:4"));
        assert_eq!(complaint("a: 1\nb: 2\na: 3\n"), "t.yml:3:1: a stands here a second time");
        assert_eq!(complaint("a: 1\n---\nb: 2\n"), "t.yml:3:1: a second document begins here");
        assert_eq!(complaint("a: !vault x\n"), "t.yml:1:4: the tag !vault is not understood here");
        assert_eq!(complaint("a: *b\n").split(':').nth(1), Some("1"));
    }

    #[test]
    fn text_made_to_explode_is_refused() {
        let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let below = level - 1;
            laughs += &format!("a{level}: &a{level} [{}]\n", format!("*a{below}, ").repeat(10));
        }
        assert!(complaint(&laughs).contains("repeats too much"));
        assert!(parse("t.yml", &"[".repeat(5_000)).is_err());
        assert!(parse("t.yml", &"- ".repeat(5_000)).is_err());
        assert!(parse("t.yml", &"a: {".repeat(5_000)).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn no_text_makes_the_reader_panic(text in r"[ -~\n\t]{0,60}", odd in "\\PC{0,20}") {
            let _ = parse("t.yml", &text).map(|node| node.to_json());
            let _ = parse("t.yml", &odd).map(|node| node.to_json());
        }

        #[test]
        fn no_yaml_like_text_makes_the_reader_panic(text in r##"([a-b:\-\[\]{},&*!|>'"#?%@~<\n ]|: |- |<<: |\n  |0x|0b|0o){0,40}"##) {
            let _ = parse("t.yml", &text).map(|node| node.to_json());
        }

        #[test]
        fn json_comes_back_as_it_went_in(numbers in proptest::collection::vec(any::<i32>(), 0..5), word in "[a-z:# '\"]{0,12}") {
            let value = json!({"n": numbers, "w": word, "t": true, "z": null});
            let place = Place { source: "t".into(), at: None };
            prop_assert_eq!(Node::from_json(&value, &place).to_json(), value);
        }
    }
}
