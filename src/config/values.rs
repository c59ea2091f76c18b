//! Reading one value as its kind wants it, into JSON of known shape. What it wants instead, in words, is the error.

use serde_json::{Value, json};

use super::log_format::{LogFormat, check_date_format};
use super::settings::{Kind, Setting};
use super::types::Listen;
use super::yaml::{Content, Node, integer};
use crate::model::{Address, MemberName, VirtualAddress};

/// Read a value that is not null. The error completes the sentence "found …, wanted …".
pub fn read(node: &Node, kind: Kind) -> Result<Value, String> {
    let line = || scalar(node);
    match kind {
        Kind::Text => line().map(Value::from).ok_or_else(|| "text".to_owned()),
        Kind::Secret => line().map(Value::from).ok_or_else(|| "text (not shown)".to_owned()),
        Kind::Name => {
            let text = line().ok_or("a name")?;
            text.parse::<MemberName>().map_err(|why| format!("a name; {why}"))?;
            Ok(text.into())
        }
        Kind::KeyPart => line()
            .filter(|text| !text.is_empty() && !text.contains(['/', '\0']))
            .map(Value::from)
            .ok_or_else(|| "a name without a slash".to_owned()),
        Kind::Flag => line().and_then(flag).map(Value::from).ok_or_else(|| "true or false".to_owned()),
        Kind::Number { from, to } => line()
            .and_then(integer)
            .filter(|number| (from..=to).contains(number))
            .map(Value::from)
            .ok_or_else(|| range("a whole number", from, to)),
        Kind::Seconds { from } => line()
            .and_then(milliseconds)
            .filter(|ms| *ms >= from * 1000)
            .map(|ms| if ms % 1000 == 0 { json!(ms / 1000) } else { json!(in_seconds(ms)) })
            .ok_or_else(|| format!("{}, such as 30 or 500ms", range("a number of seconds", from, i64::MAX))),
        Kind::Bytes { from } => {
            line().and_then(bytes).filter(|bytes| *bytes >= from).map(Value::from).ok_or_else(|| {
                format!("{}, such as 1048576 or 1MB", range("a number of bytes", from, i64::MAX))
            })
        }
        Kind::Mode => line()
            .and_then(|text| i64::from_str_radix(text, 8).ok())
            .filter(|mode| (0..=0o777).contains(mode))
            .map(|mode| format!("0{mode:o}").into())
            .ok_or_else(|| "permissions in octal, such as 0640".to_owned()),
        Kind::Choice(words) => line()
            .and_then(|text| words.iter().find(|word| word.eq_ignore_ascii_case(text)))
            .map(|word| Value::from(*word))
            .ok_or_else(|| format!("one of {}", words.join(", "))),
        Kind::Choices(wanted) => {
            let known = |word: &String| wanted.iter().find(|known| known.eq_ignore_ascii_case(word)).copied();
            let found = words(node).and_then(|words| words.iter().map(known).collect::<Option<Vec<&str>>>());
            found.map(Value::from).ok_or_else(|| format!("a list of some of {}", wanted.join(", ")))
        }
        Kind::Listen => line()
            .and_then(|text| text.parse::<Listen>().ok())
            .map(|listen| Value::from(listen.to_string()))
            .ok_or_else(|| "host:port, such as 127.0.0.1:5432".to_owned()),
        Kind::Connect => connect(line()),
        Kind::Lines => lines(node).map(Value::from).ok_or_else(|| "a list of lines".to_owned()),
        Kind::Words => words(node).map(Value::from).ok_or_else(|| "a list of words".to_owned()),
        Kind::VirtualAddresses => virtual_addresses(node),
        Kind::Options => options(node)
            .map(Value::from)
            .ok_or_else(|| "a list of options, such as - data-checksums and - encoding: UTF8".to_owned()),
        Kind::Texts => texts(node),
        Kind::LogFormat => {
            LogFormat::try_from(node.to_json())?;
            Ok(node.to_json())
        }
        Kind::DateFormat => {
            let text = line().ok_or("text")?;
            check_date_format(text)?;
            Ok(text.into())
        }
        Kind::Anything | Kind::Dynamic => Ok(node.to_json()),
    }
}

/// Does this value leave the matter as if the setting were not there?
pub fn is_off(value: &Value, row: &Setting) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::String(text) => {
            text.is_empty() || text == row.default || matches!(text.as_str(), "off" | "false" | "no" | "0")
        }
        Value::Number(number) => number.to_string() == row.default,
        Value::Array(items) => items.iter().all(|item| item == row.default),
        Value::Object(map) => map.is_empty(),
    }
}

fn scalar(node: &Node) -> Option<&str> {
    match &node.content {
        Content::Scalar { text, .. } => Some(text),
        Content::List(_) | Content::Map(_) => None,
    }
}

pub fn flag(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" | "1" => Some(true),
        "off" | "false" | "no" | "0" => Some(false),
        _ => None,
    }
}

/// A length of time in PostgreSQL's notation; without a unit it is seconds.
pub fn milliseconds(text: &str) -> Option<i64> {
    with_unit(text, |unit| {
        Some(match unit {
            "ms" => 1,
            "" | "s" => 1000,
            "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        })
    })
}

/// A size in PostgreSQL's notation; without a unit it is bytes.
pub fn bytes(text: &str) -> Option<i64> {
    with_unit(text, |unit| {
        Some(match unit {
            "" | "B" => 1,
            "kB" => 1 << 10,
            "MB" => 1 << 20,
            "GB" => 1 << 30,
            "TB" => 1 << 40,
            _ => return None,
        })
    })
}

fn with_unit(text: &str, factor: impl Fn(&str) -> Option<i64>) -> Option<i64> {
    let text = text.trim();
    let begins = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(begins);
    let (number, factor) = (number.trim(), factor(unit)?);
    // What JSON's own numbers may look like, and no more.
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |part: &str| part.len() <= 18 && part.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole.strip_prefix('-').unwrap_or(whole)) || !digits(fraction) {
        return None;
    }
    let base = whole.parse::<i64>().ok()?.checked_mul(factor)?;
    let Some(digits) =
        fraction.get(..fraction.len().min(6)).filter(|f| !f.is_empty() && !whole.starts_with('-'))
    else {
        return Some(base);
    };
    let scale = 10_i64.checked_pow(u32::try_from(digits.len()).ok()?)?;
    base.checked_add(digits.parse::<i64>().ok()?.checked_mul(factor)? / scale)
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds of settings are far below 2^52")]
fn in_seconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}

fn range(what: &str, from: i64, to: i64) -> String {
    match (from, to) {
        (i64::MIN, i64::MAX) => what.to_owned(),
        (from, i64::MAX) => format!("{what}, at least {from}"),
        (from, to) => format!("{what} from {from} to {to}"),
    }
}

fn connect(text: Option<&str>) -> Result<Value, String> {
    let wanted = "host:port, such as 10.0.0.1:5432";
    let address = text.and_then(|text| address(text, None)).ok_or(wanted)?;
    match address.host.as_str() {
        // Patroni lets 127.0.0.1 pass too, and clusters on one machine need it.
        "0.0.0.0" | "::" | "*" | "" => {
            Err("an address that others can connect to, such as 10.0.0.1:5432".to_owned())
        }
        _ => Ok(show(&address).into()),
    }
}

/// `host:port`, with brackets around an IPv6 address. A port that may be left out has a default.
pub fn address(text: &str, port: Option<u16>) -> Option<Address> {
    let text = text.trim();
    let (host, rest) = match text.strip_prefix('[') {
        Some(bracketed) => bracketed.split_once(']')?,
        None => text.rsplit_once(':').map_or((text, ""), |(host, _)| (host, &text[host.len()..])),
    };
    let unbracketed = !text.starts_with('[');
    if host.is_empty() || (unbracketed && host.contains(':')) || host.contains(char::is_whitespace) {
        return None;
    }
    let port = match rest.strip_prefix(':') {
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok()?,
        Some(_) => return None,
        None if rest.is_empty() => port?,
        None => return None,
    };
    (port > 0).then(|| Address { host: host.to_owned(), port })
}

/// The inverse of `address`.
pub fn show(address: &Address) -> String {
    let Address { host, port } = address;
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn lines(node: &Node) -> Option<Vec<String>> {
    match &node.content {
        Content::List(items) => items.iter().map(|item| scalar(item).map(str::to_owned)).collect(),
        Content::Scalar { .. } | Content::Map(_) => None,
    }
}

fn words(node: &Node) -> Option<Vec<String>> {
    match &node.content {
        Content::Scalar { text, .. } => {
            // A list as Python prints it is read as one: '[' and a quote never begin a word.
            let quotes = ['\'', '"'];
            let listed = text.trim().strip_prefix('[').filter(|rest| rest.trim_start().starts_with(quotes));
            let text = listed.and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
            let words = text.split(',').map(|word| word.trim().trim_matches(quotes).to_owned());
            Some(words.filter(|word| !word.is_empty()).collect())
        }
        Content::List(_) => lines(node),
        Content::Map(_) => None,
    }
}

fn virtual_addresses(node: &Node) -> Result<Value, String> {
    let wanted = "a list of addresses, such as - 10.0.0.100/24 dev eth0";
    let texts = words(node).ok_or(wanted)?;
    let parse = |text: &String| text.parse::<VirtualAddress>().map_err(|why| format!("{wanted}; {why}"));
    let addresses = texts.iter().map(parse).collect::<Result<Vec<_>, String>>()?;
    if VirtualAddress::COUNT_MAX < addresses.len() {
        return Err(format!("{wanted}, at most {}", VirtualAddress::COUNT_MAX));
    }
    let twice = addresses
        .iter()
        .enumerate()
        .find(|(at, one)| addresses[..*at].iter().any(|other| other.ip == one.ip));
    if let Some((_, address)) = twice {
        return Err(format!("{wanted}, each once; {} is there twice", address.ip));
    }
    Ok(addresses.iter().map(ToString::to_string).collect::<Vec<_>>().into())
}

/// As the command line wants them, without the dashes: `name` or `name=value`.
fn options(node: &Node) -> Option<Vec<String>> {
    let pair = |key: &str, value: &Node| match scalar(value) {
        Some(_) if value.is_null() => Some(key.to_owned()),
        Some(text) => Some(format!("{key}={text}")),
        None => None,
    };
    match &node.content {
        Content::Map(entries) => entries.iter().map(|entry| pair(&entry.key, &entry.value)).collect(),
        Content::List(items) => items
            .iter()
            .map(|item| match &item.content {
                Content::Scalar { text, .. } => Some(text.clone()),
                Content::Map(entries) => match entries.as_slice() {
                    [entry] => pair(&entry.key, &entry.value),
                    _ => None,
                },
                Content::List(_) => None,
            })
            .collect(),
        Content::Scalar { .. } => None,
    }
}

fn texts(node: &Node) -> Result<Value, String> {
    let Content::Map(entries) = &node.content else { return Err("names with values".to_owned()) };
    let mut texts = serde_json::Map::new();
    for entry in entries {
        let value = match scalar(&entry.value) {
            _ if entry.value.is_null() => Value::Null,
            // As written, so that PostgreSQL sees what the operator sees.
            Some(text) => text.into(),
            None => return Err(format!("a single value for {}", entry.key)),
        };
        texts.insert(entry.key.clone(), value);
    }
    Ok(texts.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_and_sizes_are_read_in_postgresqls_notation() {
        let check = |text, ms| assert_eq!(milliseconds(text), ms, "{text}");
        check("30", Some(30_000));
        check("1.5", Some(1_500));
        check("500ms", Some(500));
        check("5 min", Some(300_000));
        check("30m", None);
        check("", None);
        check("x", None);
        check("1e3", None);
        assert_eq!(bytes("1MB"), Some(1 << 20));
        assert_eq!(bytes("-1"), Some(-1));
        assert_eq!(bytes("9999999999999TB"), None);
    }

    #[test]
    fn an_address_needs_a_host_and_a_port() {
        let check = |text, wanted: Option<&str>| {
            assert_eq!(address(text, None).map(|address| show(&address)).as_deref(), wanted, "{text}");
        };
        check("10.0.0.1:5432", Some("10.0.0.1:5432"));
        check("[::1]:5432", Some("[::1]:5432"));
        check("::1:5432", None);
        check("5432x", None);
        check("host:", None);
        check("host:0", None);
        check("host:70000", None);
        check("host:+1", None);
        assert_eq!(address("etcd1", Some(2379)).map(|a| show(&a)).as_deref(), Some("etcd1:2379"));
    }

    proptest! {
        #[test]
        fn no_text_makes_a_reader_panic(text in "\\PC{0,24}", short in "[-.0-9a-zA-Z:\\[\\] ]{0,12}") {
            for text in [text, short] {
                let _ = (milliseconds(&text), bytes(&text), address(&text, Some(1)), flag(&text));
                let _ = text.parse::<Listen>();
            }
        }
    }
}
