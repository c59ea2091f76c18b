//! Which bare words YAML 1.1 takes for something other than text: numbers of several bases, times, booleans, nothing.

/// Would YAML 1.1 read this bare word as something other than text?
pub fn means_something_else(text: &str) -> bool {
    matches!(
        text,
        "" | "~"
            | "null"
            | "Null"
            | "NULL"
            | "<<"
            | "="
            | "!"
            | "&"
            | "*"
            | "yes"
            | "Yes"
            | "YES"
            | "no"
            | "No"
            | "NO"
            | "true"
            | "True"
            | "TRUE"
            | "false"
            | "False"
            | "FALSE"
            | "on"
            | "On"
            | "ON"
            | "off"
            | "Off"
            | "OFF"
    ) || is_integer(text)
        || is_float(text)
        || is_time(text)
}

fn unsigned(text: &str) -> &str {
    text.strip_prefix(['-', '+']).unwrap_or(text)
}

fn all(text: &str, good: impl Fn(char) -> bool) -> bool {
    !text.is_empty() && text.chars().all(good)
}

fn digit_or_line(character: char) -> bool {
    character.is_ascii_digit() || character == '_'
}

/// `1:30`, in base 60.
fn is_sixties(rest: &str) -> bool {
    !rest.is_empty()
        && rest.split(':').all(|part| matches!(part.as_bytes(), [b'0'..=b'9'] | [b'0'..=b'5', b'0'..=b'9']))
}

fn is_integer(text: &str) -> bool {
    let digits = unsigned(text);
    if let Some(rest) = digits.strip_prefix("0b") {
        return all(rest, |c| matches!(c, '0' | '1' | '_'));
    }
    if let Some(rest) = digits.strip_prefix("0x") {
        return all(rest, |c| c.is_ascii_hexdigit() || c == '_');
    }
    if let Some(rest) = digits.strip_prefix('0') {
        return rest.is_empty() || all(rest, |c| matches!(c, '0'..='7' | '_'));
    }
    let (head, sixties) = digits.split_once(':').map_or((digits, None), |(head, rest)| (head, Some(rest)));
    head.starts_with(|c: char| c.is_ascii_digit())
        && all(head, digit_or_line)
        && sixties.is_none_or(is_sixties)
}

fn is_float(text: &str) -> bool {
    let digits = unsigned(text);
    if matches!(digits, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    let Some((head, rest)) = digits.split_once('.') else { return false };
    if let Some((first, sixties)) = head.split_once(':') {
        return first.starts_with(|c: char| c.is_ascii_digit())
            && all(first, digit_or_line)
            && is_sixties(sixties)
            && rest.chars().all(digit_or_line);
    }
    let (fraction, exponent) =
        rest.split_once(['e', 'E']).map_or((rest, None), |(fraction, exponent)| (fraction, Some(exponent)));
    let exponent_good = exponent.is_none_or(|exponent| {
        exponent.strip_prefix(['-', '+']).is_some_and(|digits| all(digits, |c| c.is_ascii_digit()))
    });
    let begins = |part: &str| part.starts_with(|c: char| c.is_ascii_digit()) && all(part, digit_or_line);
    let good = if head.is_empty() {
        digits == text && begins(fraction)
    } else {
        begins(head) && fraction.chars().all(digit_or_line)
    };
    good && exponent_good
}

/// `2026-11-21`, or with a time and perhaps a zone behind it.
fn is_time(text: &str) -> bool {
    let digits = |part: &str, from: usize, to: usize| {
        (from..=to).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit())
    };
    let date_end = text.find(['T', 't', ' ', '\t']).unwrap_or(text.len());
    let date: Vec<&str> = text[..date_end].split('-').collect();
    let [year, month, day] = date[..] else { return false };
    if date_end == text.len() {
        return digits(year, 4, 4) && digits(month, 2, 2) && digits(day, 2, 2);
    }
    let separator = text.as_bytes()[date_end];
    let time = match separator {
        b'T' | b't' => &text[date_end + 1..],
        _ => text[date_end..].trim_start_matches([' ', '\t']),
    };
    let zone_at = time.find(|c: char| !(c.is_ascii_digit() || c == ':' || c == '.')).unwrap_or(time.len());
    let (clock, zone) = time.split_at(zone_at);
    let (clock, fraction) = clock.split_once('.').map_or((clock, ""), |(clock, fraction)| (clock, fraction));
    let clock: Vec<&str> = clock.split(':').collect();
    let [hour, minute, second] = clock[..] else { return false };
    let zone = zone.trim_start_matches([' ', '\t']);
    let zone_good = zone == "Z"
        || (zone.is_empty() && zone_at == time.len())
        || zone.strip_prefix(['-', '+']).is_some_and(|zone| {
            let (hours, minutes) =
                zone.split_once(':').map_or((zone, None), |(hours, minutes)| (hours, Some(minutes)));
            digits(hours, 1, 2) && minutes.is_none_or(|minutes| digits(minutes, 2, 2))
        });
    digits(year, 4, 4)
        && digits(month, 1, 2)
        && digits(day, 1, 2)
        && digits(hour, 1, 2)
        && digits(minute, 2, 2)
        && digits(second, 2, 2)
        && fraction.bytes().all(|b| b.is_ascii_digit())
        && zone_good
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_times_and_switches_are_no_text() {
        for word in [
            "",
            "~",
            "on",
            "No",
            "0",
            "-12",
            "1_000",
            "0x1F",
            "0b1",
            "017",
            "190:20:30",
            "1.",
            "6.8e+5",
            ".5",
            "-.inf",
            ".NaN",
        ] {
            assert!(means_something_else(word), "{word}");
        }
        for word in ["2026-11-21", "2026-11-21T10:00:00Z", "2026-1-2 3:04:05.6 +02:00"] {
            assert!(means_something_else(word), "{word}");
        }
        for word in [
            "o",
            "-",
            "08",
            "0x",
            "1e3",
            "6.8e5",
            "1:60",
            "E:++",
            "2026-11-21T10",
            "2026-1-2",
            "1.2.3",
            "127.0.0.1",
        ] {
            assert!(!means_something_else(word), "{word}");
        }
    }
}
