//! Moments as operators write and read them. Nothing is decided by these: agents check every schedule for themselves.

use jiff::civil::{DateTime, Time};
use jiff::fmt::temporal::Pieces;
use jiff::tz::{Offset, TimeZone};
use jiff::{Timestamp, Zoned};

use crate::clock;

/// Now, on the wall where the operator sits.
pub fn now() -> Zoned {
    clock::wall().to_zoned(TimeZone::system())
}

/// `2026-11-21 09:00:00.12345`: what stands before the outcome of a request.
pub fn stamp() -> String {
    format!("{}.{:05}", whole_seconds(&now()), now().subsec_nanosecond() / 10_000)
}

/// `2026-11-21 09:00:00`.
pub fn stamp_in_seconds() -> String {
    whole_seconds(&now())
}

fn whole_seconds(at: &Zoned) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// Seconds in `90s`, `30m`, `2h` or `7d`.
pub fn length(text: &str) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(seconds)
}

/// ISO 8601 with its offset, for what is written into the store.
pub fn iso(at: &Zoned) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
}

/// A stored time, on the wall where the operator sits; word for word where it is none.
pub fn local(text: &str) -> String {
    match text.parse::<Timestamp>() {
        Ok(at) => whole_seconds(&at.to_zoned(TimeZone::system())),
        Err(_) => text.to_owned(),
    }
}

/// A time since 1970 on the wall where the operator sits: `2026-11-21 09:00:00.123`.
pub fn told(unix_ms: u64) -> String {
    let at =
        i64::try_from(unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or_default();
    at.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S%.3f").to_string()
}

/// An hour from now, as an example of what to type.
pub fn example() -> String {
    let later = now().checked_add(jiff::Span::new().hours(1)).unwrap_or_else(|_| now());
    later.strftime("%Y-%m-%dT%H:%M").to_string()
}

/// A moment with the offset it was written with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    at: Timestamp,
    offset: Offset,
}

/// ISO 8601, or only a time today; without a zone it is the operator's own. `now` and nothing are no schedule.
pub fn parse(text: Option<&str>) -> Result<Option<Schedule>, String> {
    parse_on(text, &now())
}

fn parse_on(text: Option<&str>, today: &Zoned) -> Result<Option<Schedule>, String> {
    let text = text.unwrap_or_default().trim();
    if text.is_empty() || text == "now" {
        return Ok(None);
    }
    read(text, today).map(Some).ok_or_else(|| {
        format!(
            "Unable to parse scheduled timestamp ({text}). It should be in an unambiguous format (e.g. ISO 8601)"
        )
    })
}

fn read(text: &str, today: &Zoned) -> Option<Schedule> {
    let zone = today.time_zone();
    let (civil, offset) = if let Ok(pieces) = Pieces::parse(text) {
        (pieces.date().to_datetime(pieces.time().unwrap_or_default()), pieces.to_numeric_offset())
    } else {
        let time = ["%H:%M", "%H:%M:%S"].iter().find_map(|form| Time::strptime(form, text).ok())?;
        (today.date().to_datetime(time), None)
    };
    schedule(civil, offset, zone)
}

fn schedule(civil: DateTime, offset: Option<Offset>, zone: &TimeZone) -> Option<Schedule> {
    if let Some(offset) = offset {
        return Some(Schedule { at: offset.to_timestamp(civil).ok()?, offset });
    }
    let zoned = civil.to_zoned(zone.clone()).ok()?;
    Some(Schedule { at: zoned.timestamp(), offset: zoned.offset() })
}

impl Schedule {
    /// As Python's `isoformat`: what agents are sent.
    pub fn iso(&self) -> String {
        self.spelled("T")
    }

    pub fn zoned(&self) -> Zoned {
        self.at.to_zoned(TimeZone::fixed(self.offset))
    }

    /// Milliseconds since 1970.
    pub fn unix_ms(&self) -> u64 {
        u64::try_from(self.at.as_millisecond()).unwrap_or(0)
    }

    /// As Python shows it to people.
    pub fn shown(&self) -> String {
        self.spelled(" ")
    }

    fn spelled(&self, between: &str) -> String {
        let zoned = self.at.to_zoned(TimeZone::fixed(self.offset));
        let micros = zoned.subsec_nanosecond() / 1000;
        let fraction = if micros == 0 { String::new() } else { format!(".{micros:06}") };
        format!(
            "{}{between}{}{fraction}{}",
            zoned.strftime("%Y-%m-%d"),
            zoned.strftime("%H:%M:%S"),
            zoned.strftime("%:z")
        )
    }
}

/// What another agent has stored, in the one spelling.
pub fn iso_of(text: &str) -> Option<String> {
    let pieces = Pieces::parse(text).ok()?;
    let civil = pieces.date().to_datetime(pieces.time().unwrap_or_default());
    let offset = pieces.to_numeric_offset()?;
    Some(Schedule { at: offset.to_timestamp(civil).ok()?, offset }.iso())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_without_a_zone_is_the_operators_own() {
        let today: Zoned = "2026-11-21T09:00:00+02:00[+02:00]".parse().expect("a moment");
        let check = |text: &str, iso: &str| {
            let schedule = parse_on(Some(text), &today).unwrap_or_else(|why| panic!("{why}"));
            assert_eq!(schedule.expect("a schedule").iso(), iso, "{text}");
        };
        check("2026-11-22T10:00", "2026-11-22T10:00:00+02:00");
        check("2026-11-22 10:00:30.5", "2026-11-22T10:00:30.500000+02:00");
        check("2026-11-22T10:00:00Z", "2026-11-22T10:00:00+00:00");
        check("2026-11-22T10:00-03", "2026-11-22T10:00:00-03:00");
        check("2026-11-22", "2026-11-22T00:00:00+02:00");
        check("23:30", "2026-11-21T23:30:00+02:00");
        for text in [None, Some(""), Some("now")] {
            assert_eq!(parse_on(text, &today), Ok(None));
        }
        assert!(parse_on(Some("tomorrow"), &today).expect_err("ambiguous").contains("(tomorrow)"));
    }

    #[test]
    fn what_is_stored_is_shown_in_one_spelling() {
        assert_eq!(iso_of("2026-11-21T10:00:00Z").as_deref(), Some("2026-11-21T10:00:00+00:00"));
        assert_eq!(
            iso_of("2026-11-21T10:00:00.250+02:00").as_deref(),
            Some("2026-11-21T10:00:00.250000+02:00")
        );
        assert_eq!(iso_of("soon"), None);
    }
}
