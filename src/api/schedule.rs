//! A time in the future that an operator has written down, with Patroni's codes and sentences where it is not one.

use jiff::Timestamp;
use jiff::fmt::temporal::Pieces;
use jiff::tz::TimeZone;

use super::answer::Answer;

/// The moment, and how it is stored: in ISO 8601, in the zone that it came with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    pub at: Timestamp,
    pub text: String,
}

pub fn parse(action: &str, text: &str, today: Timestamp) -> Result<Schedule, Answer> {
    let unreadable = || {
        Answer::sentence(
            422,
            "Unable to parse scheduled timestamp. It should be in an unambiguous format, e.g. ISO 8601",
        )
    };
    let pieces = Pieces::parse(text).map_err(|_| unreadable())?;
    let Some(offset) = pieces.to_numeric_offset() else {
        return Err(Answer::sentence(
            400,
            format!("Timezone information is mandatory for the scheduled {action}"),
        ));
    };
    let civil = pieces.date().to_datetime(pieces.time().unwrap_or_default());
    let at = offset.to_timestamp(civil).map_err(|_| unreadable())?;
    if at < today {
        return Err(Answer::sentence(422, format!("Cannot schedule {action} in the past")));
    }
    let text = at.to_zoned(TimeZone::fixed(offset)).strftime("%Y-%m-%dT%H:%M:%S%.f%:z").to_string();
    Ok(Schedule { at, text })
}
