//! YAML as PyYAML's `safe_dump` writes it, with sorted keys and lines of 200 columns: what operators compare, keep in
//! version control and feed to scripts. Reading YAML is `config`'s business.

use super::document::{Document, float};
use super::words::means_something_else;

/// A line is broken at the first space beyond this column.
const WIDTH: usize = 200;
/// A key of this length or more, with its quotes, stands on a line of its own after a question mark.
const KEY_MAX: usize = 123;

/// Mappings and lists over many lines.
pub fn block(document: &Document) -> String {
    let mut writer = Writer::default();
    match document {
        Document::Map(entries) if !entries.is_empty() => writer.mapping(entries, 0),
        Document::List(items) if !items.is_empty() => writer.list(items, 0),
        other => writer.leaf(other, 2),
    }
    writer.end(document)
}

/// Everything in braces and brackets, as JSON would have it.
pub fn flow(document: &Document) -> String {
    let mut writer = Writer::default();
    writer.flow(document, 2);
    writer.end(document)
}

#[derive(Default)]
struct Writer {
    out: String,
    column: usize,
    in_flow: usize,
}

impl Writer {
    /// A document that is a plain word needs a mark where it ends.
    fn end(mut self, document: &Document) -> String {
        self.out.push('\n');
        let open = match document {
            Document::List(_) | Document::Map(_) => false,
            Document::Text(text) => style(text, false, false) == Style::Plain,
            Document::Null | Document::Bool(_) | Document::Integer(_) | Document::Float(_) => true,
        };
        if open {
            self.out.push_str("...\n");
        }
        self.out
    }

    fn mapping(&mut self, entries: &[(String, Document)], indent: usize) {
        for (index, (key, value)) in sorted(entries).into_iter().enumerate() {
            if index > 0 {
                self.line(indent);
            }
            if is_simple(key) {
                self.text(key, indent + 2, true);
                self.push(":");
                self.value(value, indent);
            } else {
                self.push("? ");
                self.text(key, indent + 2, false);
                self.line(indent);
                self.push(":");
                self.item(value, indent);
            }
        }
    }

    /// What stands behind a key. A list is not indented there.
    fn value(&mut self, value: &Document, indent: usize) {
        match value {
            Document::Map(entries) if !entries.is_empty() => {
                self.line(indent + 2);
                self.mapping(entries, indent + 2);
            }
            Document::List(items) if !items.is_empty() => {
                self.line(indent);
                self.list(items, indent);
            }
            other => {
                self.push(" ");
                self.leaf(other, indent + 2);
            }
        }
    }

    fn list(&mut self, items: &[Document], indent: usize) {
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                self.line(indent);
            }
            self.push("-");
            self.item(item, indent);
        }
    }

    /// What stands behind a dash, on the same line.
    fn item(&mut self, item: &Document, indent: usize) {
        self.push(" ");
        match item {
            Document::Map(entries) if !entries.is_empty() => self.mapping(entries, indent + 2),
            Document::List(items) if !items.is_empty() => self.list(items, indent + 2),
            other => self.leaf(other, indent + 2),
        }
    }

    fn leaf(&mut self, document: &Document, indent: usize) {
        match document {
            Document::Text(text) => self.text(text, indent, false),
            Document::List(_) => self.push("[]"),
            Document::Map(_) => self.push("{}"),
            Document::Null | Document::Bool(_) | Document::Integer(_) | Document::Float(_) => {
                self.push(&scalar(document));
            }
        }
    }

    fn flow(&mut self, document: &Document, indent: usize) {
        match document {
            Document::Map(entries) => {
                self.in_flow += 1;
                self.push("{");
                for (index, (key, value)) in sorted(entries).into_iter().enumerate() {
                    self.next_in_flow(index, indent);
                    if is_simple(key) {
                        self.text(key, indent + 2, true);
                    } else {
                        self.push("? ");
                        self.text(key, indent + 2, false);
                        self.space_or_line(indent);
                    }
                    self.push(": ");
                    self.flow(value, indent + 2);
                }
                self.push("}");
                self.in_flow -= 1;
            }
            Document::List(items) => {
                self.in_flow += 1;
                self.push("[");
                for (index, item) in items.iter().enumerate() {
                    self.next_in_flow(index, indent);
                    self.flow(item, indent + 2);
                }
                self.push("]");
                self.in_flow -= 1;
            }
            Document::Text(text) => self.text(text, indent, false),
            Document::Null | Document::Bool(_) | Document::Integer(_) | Document::Float(_) => {
                self.push(&scalar(document));
            }
        }
    }

    fn next_in_flow(&mut self, index: usize, indent: usize) {
        if index > 0 {
            self.push(",");
        }
        if index > 0 || self.column > WIDTH {
            self.space_or_line(indent);
        }
    }

    fn space_or_line(&mut self, indent: usize) {
        if self.column > WIDTH {
            self.line(indent);
        } else {
            self.push(" ");
        }
    }

    /// `indent` is where a broken line goes on. A key is never broken.
    fn text(&mut self, text: &str, indent: usize, is_key: bool) {
        match style(text, is_key, self.in_flow > 0) {
            Style::Plain => self.words(text, indent, is_key, ""),
            Style::Single => self.words(&text.replace('\'', "''"), indent, is_key, "'"),
            Style::Double => self.double(text, indent, is_key),
        }
    }

    /// Plain or in single quotes: a line is broken at a lone space, a line feed is written as an empty line.
    fn words(&mut self, text: &str, indent: usize, is_key: bool, quote: &str) {
        self.push(quote);
        let characters: Vec<char> = text.chars().collect();
        let mut at = 0;
        while let Some(&first) = characters.get(at) {
            let alike =
                |same: &dyn Fn(char) -> bool| characters[at..].iter().take_while(|c| same(**c)).count();
            if first == ' ' {
                let spaces = alike(&|c| c == ' ');
                let inside = quote.is_empty() || (at != 0 && at + spaces != characters.len());
                if spaces == 1 && self.column > WIDTH && !is_key && inside {
                    self.line(indent);
                } else {
                    self.push(&" ".repeat(spaces));
                }
                at += spaces;
            } else if is_break(first) {
                let breaks = alike(&is_break);
                if first == '\n' {
                    self.out.push('\n');
                }
                for character in &characters[at..at + breaks] {
                    self.out.push(*character);
                }
                self.column = 0;
                self.push(&" ".repeat(indent));
                at += breaks;
            } else {
                let word = alike(&|c| c != ' ' && !is_break(c));
                let word_text: String = characters[at..at + word].iter().collect();
                self.push(&word_text);
                at += word;
            }
        }
        self.push(quote);
    }

    fn double(&mut self, text: &str, indent: usize, is_key: bool) {
        self.push("\"");
        let characters: Vec<char> = text.chars().collect();
        let mut start = 0;
        for end in 0..=characters.len() {
            let character = characters.get(end).copied();
            let plain = character.is_some_and(is_plain_in_quotes);
            if !plain {
                let run: String = characters[start..end].iter().collect();
                self.push(&run);
                start = end;
                if let Some(character) = character {
                    self.push(&escaped(character));
                    start = end + 1;
                }
            }
            let inside = 0 < end && end + 1 < characters.len();
            let stop = character == Some(' ') || start >= end;
            if inside && stop && self.column + end.saturating_sub(start) > WIDTH && !is_key {
                let run: String = characters[start.min(end)..end].iter().collect();
                start = start.max(end);
                self.push(&run);
                self.push("\\");
                self.line(indent);
                if characters.get(start) == Some(&' ') {
                    self.push("\\");
                }
            }
        }
        self.push("\"");
    }

    fn line(&mut self, indent: usize) {
        self.out.push('\n');
        self.column = 0;
        self.push(&" ".repeat(indent));
    }

    fn push(&mut self, text: &str) {
        self.out.push_str(text);
        self.column += text.chars().count();
    }
}

fn sorted(entries: &[(String, Document)]) -> Vec<(&String, &Document)> {
    let mut sorted: Vec<(&String, &Document)> = entries.iter().map(|(key, value)| (key, value)).collect();
    sorted.sort_by_key(|(key, _)| *key);
    sorted
}

fn is_simple(key: &str) -> bool {
    !key.is_empty() && key.chars().count() < KEY_MAX && !key.contains(is_break)
}

fn scalar(document: &Document) -> String {
    match document {
        Document::Bool(flag) => flag.to_string(),
        Document::Integer(number) => number.to_string(),
        Document::Float(number) if number.is_nan() => ".nan".to_owned(),
        Document::Float(number) if number.is_infinite() => {
            (if *number < 0.0 { "-.inf" } else { ".inf" }).to_owned()
        }
        Document::Float(number) => {
            let text = float(*number);
            // Without a point, YAML 1.1 would read it as text.
            if text.contains('.') { text } else { text.replacen('e', ".0e", 1) }
        }
        Document::Null | Document::Text(_) | Document::List(_) | Document::Map(_) => "null".to_owned(),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Plain,
    Single,
    Double,
}

fn style(text: &str, is_key: bool, in_flow: bool) -> Style {
    let seen = Seen::of(text);
    let plain = if in_flow { seen.plain_in_flow } else { seen.plain_in_block };
    if plain && !means_something_else(text) && !(is_key && (text.is_empty() || seen.broken)) {
        Style::Plain
    } else if seen.single && !(is_key && seen.broken) {
        Style::Single
    } else {
        Style::Double
    }
}

/// How a text may be written.
struct Seen {
    plain_in_flow: bool,
    plain_in_block: bool,
    single: bool,
    broken: bool,
}

impl Seen {
    fn of(text: &str) -> Seen {
        let characters: Vec<char> = text.chars().collect();
        let (Some(&first), Some(&last)) = (characters.first(), characters.last()) else {
            return Seen { plain_in_flow: false, plain_in_block: true, single: true, broken: false };
        };
        let marks_document = text.starts_with("---") || text.starts_with("...");
        let (mut flow_marks, mut block_marks) = (marks_document, marks_document);
        let (mut special, mut break_space, mut space_break) = (false, false, false);
        for (index, &character) in characters.iter().enumerate() {
            let before = index.checked_sub(1).map(|before| characters[before]);
            let after_blank = before.is_none_or(is_blank);
            let before_blank = characters.get(index + 1).is_none_or(|c| is_blank(*c));
            match (character, before) {
                (
                    '#' | ',' | '[' | ']' | '{' | '}' | '&' | '*' | '!' | '|' | '>' | '\'' | '"' | '%' | '@'
                    | '`',
                    None,
                ) => {
                    (flow_marks, block_marks) = (true, true);
                }
                ('?', None) | (':', _) => {
                    flow_marks = true;
                    block_marks |= before_blank;
                }
                ('-', None) if before_blank => (flow_marks, block_marks) = (true, true),
                (',' | '?' | '[' | ']' | '{' | '}', Some(_)) => flow_marks = true,
                ('#', Some(_)) if after_blank => (flow_marks, block_marks) = (true, true),
                _ => {}
            }
            special |= !is_printable(character);
            break_space |= character == ' ' && before.is_some_and(is_break);
            space_break |= is_break(character) && before == Some(' ');
        }
        let broken = characters.iter().any(|c| is_break(*c));
        let edge = |c: char| c == ' ' || is_break(c);
        let never_plain = edge(first) || edge(last) || break_space || space_break || special || broken;
        Seen {
            plain_in_flow: !never_plain && !flow_marks,
            plain_in_block: !never_plain && !block_marks,
            single: !break_space && !space_break && !special,
            broken,
        }
    }
}

fn is_break(character: char) -> bool {
    matches!(character, '\n' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

fn is_blank(character: char) -> bool {
    is_break(character) || matches!(character, '\0' | ' ' | '\t' | '\r')
}

fn is_printable(character: char) -> bool {
    matches!(character, '\n' | ' '..='~' | '\u{85}' | '\u{a0}'..='\u{fefe}' | '\u{ff00}'..='\u{fffd}' | '\u{10000}'..='\u{10fffe}')
}

fn is_plain_in_quotes(character: char) -> bool {
    match character {
        '"' | '\\' | '\u{2028}' | '\u{2029}' | '\u{feff}' => false,
        ' '..='~' | '\u{a0}'..='\u{fffd}' => true,
        _ => false,
    }
}

fn escaped(character: char) -> String {
    let short = match character {
        '\0' => '0',
        '\u{7}' => 'a',
        '\u{8}' => 'b',
        '\t' => 't',
        '\n' => 'n',
        '\u{b}' => 'v',
        '\u{c}' => 'f',
        '\r' => 'r',
        '\u{1b}' => 'e',
        '"' => '"',
        '\\' => '\\',
        '\u{85}' => 'N',
        '\u{2028}' => 'L',
        '\u{2029}' => 'P',
        other => {
            let code = u32::from(other);
            return match code {
                0..=0xff => format!("\\x{code:02X}"),
                0x100..=0xffff => format!("\\u{code:04X}"),
                _ => format!("\\U{code:08X}"),
            };
        }
    };
    format!("\\{short}")
}

#[cfg(test)]
#[path = "yaml_tests.rs"]
mod tests;
