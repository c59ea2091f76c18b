//! The path and the parameters of a request, read as Patroni reads them: blank values vanish, the first of several
//! counts.

use crate::model::Span;

/// In milliseconds. What is told then is older than the question, and says by how much.
pub const LOOKED_WITHIN: &str = "looked_within_ms";
const LOOKED_WITHIN_MAX: Span = Span::from_secs(1);

/// A request's target, taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    pub path: String,
    parameters: Vec<(String, String)>,
}

impl Target {
    pub fn parse(target: &str) -> Target {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let parameters = (query.split('&'))
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (decode(name), decode(value)))
            .filter(|(_, value)| !value.is_empty())
            .collect();
        Target { path: path.to_owned(), parameters }
    }

    /// The first component, which names the endpoint.
    pub fn endpoint(&self) -> &str {
        self.path.trim_start_matches('/').split('/').next().unwrap_or_default()
    }

    pub fn value(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// What `lag=` allows. What cannot be read sets no limit, as in Patroni.
    pub fn lag_bytes_max(&self) -> Option<u64> {
        self.value("lag").and_then(bytes)
    }

    /// How old a look at PostgreSQL may be for whoever asks. Nobody else is kept from a new one by what cannot be read.
    pub fn looked_within(&self) -> Span {
        let told = self.value(LOOKED_WITHIN).and_then(|ms| ms.parse().ok());
        told.map_or(Span::ZERO, Span::from_ms).min(LOOKED_WITHIN_MAX)
    }

    /// The tags that are asked for: each name once, with its first value.
    pub fn tags(&self) -> impl Iterator<Item = (&str, &str)> {
        (self.parameters.iter())
            .filter_map(|(key, _)| key.strip_prefix("tag_"))
            .filter_map(|tag| Some((tag, self.value(&format!("tag_{tag}"))?)))
    }
}

/// A number of bytes as PostgreSQL's settings write it: `1048576`, `16MB`, `1.5 GB`.
fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1 << 10,
        "mb" => 1 << 20,
        "gb" => 1 << 30,
        "tb" => 1 << 40,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 = whole.parse().ok()?;
    // Nine digits are more than a byte of a terabyte needs to be rounded to, and cannot overflow.
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let billionths: u128 = digits.parse().ok()?;
    let part = u64::try_from(u128::from(factor) * billionths / 1_000_000_000).ok()?;
    Some(whole.saturating_mul(factor).saturating_add(part))
}

/// `%41` and `+`. What is not a good escape stays as it is.
fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match (byte, after) {
            (b'+', _) => out.push(b' '),
            (b'%', [high, low, beyond @ ..]) => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => {
                    out.push(high << 4 | low);
                    rest = beyond;
                }
                _ => out.push(b'%'),
            },
            (other, _) => out.push(other),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn digit(character: u8) -> Option<u8> {
    char::from(character).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_target_is_taken_apart() {
        let target = Target::parse("/replica/x?lag=16MB&tag_zone=a%20b&tag_zone=c&tag_empty=&alone");
        assert_eq!((target.path.as_str(), target.endpoint()), ("/replica/x", "replica"));
        assert_eq!(target.lag_bytes_max(), Some(16 << 20));
        assert!(target.tags().all(|(name, value)| (name, value) == ("zone", "a b")));
        assert_eq!(target.value("alone"), None);
        assert_eq!(Target::parse("").endpoint(), "");
    }

    #[test]
    fn bytes_are_read_with_every_unit_and_otherwise_not_at_all() {
        let table = [
            ("0", Some(0)),
            ("1048576", Some(1 << 20)),
            ("10kB", Some(10 << 10)),
            ("16 MB", Some(16 << 20)),
            ("1.5GB", Some(3 << 29)),
            ("1TB", Some(1 << 40)),
            ("99999999999999999999", None),
            ("-1", None),
            ("10 apples", None),
            ("", None),
            (".", None),
        ];
        for (text, wanted) in table {
            assert_eq!(bytes(text), wanted, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_target_makes_the_reader_panic(text in "\\PC{0,60}", query in "[a-z%+=&0-9.]{0,40}") {
            let target = Target::parse(&format!("{text}?{query}&lag={query}"));
            let _ = (target.endpoint(), target.lag_bytes_max(), target.tags().count());
        }
    }
}
