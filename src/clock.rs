//! The one place that reads clocks and lets time pass.

use nix::time::{ClockId, clock_gettime};

use crate::model::{Moment, Span};

/// This host's boot clock. It goes on while the host sleeps, and no operator can set it.
pub fn now() -> Moment {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has had CLOCK_BOOTTIME since 2.6.39");
    let ms = time
        .tv_sec()
        .unsigned_abs()
        .saturating_mul(1000)
        .saturating_add(time.tv_nsec().unsigned_abs() / 1_000_000);
    Moment::from_ms(ms)
}

/// Microseconds of CLOCK_MONOTONIC, which systemd reckons by. Nothing is decided by it.
pub fn monotonic_us() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("Linux has always had CLOCK_MONOTONIC");
    let us = time.tv_nsec().unsigned_abs() / 1000;
    time.tv_sec().unsigned_abs().saturating_mul(1_000_000).saturating_add(us)
}

/// The wall clock, for people only: nothing is decided by it.
#[expect(clippy::disallowed_methods, reason = "this is the place")]
pub fn wall() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

/// The same as text: ISO 8601 with its offset.
pub fn wall_text() -> String {
    wall().strftime("%Y-%m-%dT%H:%M:%S+00:00").to_string()
}

/// A time since 1970 as such a text, to the millisecond.
pub fn text_of(unix_ms: u64) -> String {
    let at = i64::try_from(unix_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    at.unwrap_or_default().strftime("%Y-%m-%dT%H:%M:%S%.3f+00:00").to_string()
}

/// Milliseconds since 1970 by the wall clock, for people as well.
pub fn wall_ms() -> u64 {
    u64::try_from(wall().as_millisecond()).unwrap_or(0)
}

/// A named pause between two looks or two attempts. Never a substitute for a condition.
pub async fn pause(span: Span) {
    tokio::time::sleep(span.as_duration()).await;
}
