//! When the watchdog device may be fed, as arithmetic. No clock, no device.
//!
//! The law: unless PostgreSQL is known to be dead, the device fires no later than the deadline of the term. It is fed only
//! while a whole timeout from now would still end before that.

use crate::model::{Moment, Span};

/// What the guardian allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permit {
    /// Nothing here can write, or operators have taken over: the device is not needed.
    Release,
    /// It has to have fired by then.
    Until(Moment),
}

/// Between looking at the clock and the device's counting anew.
const HANDLING: Span = Span::from_ms(10);

/// The last feeding decides how much time the kill has, so it is tried early, and once more as late as can be.
const LAST_TRIES: [Span; 2] = [Span::from_ms(100), Span::from_ms(5)];

const EVERY_MIN: Span = Span::from_ms(100);
const EVERY_MAX: Span = Span::from_secs(1);

/// After this it is not fed any more for the sake of this deadline.
pub fn last_call(deadline: Moment, timeout: Span) -> Moment {
    deadline - timeout - HANDLING
}

pub fn may_feed(permit: Permit, timeout: Span, now: Moment) -> bool {
    match permit {
        Permit::Release => true,
        // A deadline that lies nearer than the timeout leaves no last call: subtraction stops at zero.
        Permit::Until(deadline) => now + timeout + HANDLING <= deadline,
    }
}

/// When to feed it next, if nothing is heard before; none if this deadline allows no more.
pub fn next_feed(permit: Permit, timeout: Span, fed_at: Moment, now: Moment) -> Option<Moment> {
    let regular = fed_at + timeout.scaled(1, 4).max(EVERY_MIN).min(EVERY_MAX);
    let deadline = match permit {
        Permit::Release => return Some(regular.max(now)),
        Permit::Until(deadline) => deadline,
    };
    let last_call = last_call(deadline, timeout);
    if last_call < now {
        return None;
    }
    let tries = LAST_TRIES.into_iter().map(|before| last_call - before);
    tries.chain([regular]).filter(|at| fed_at < *at && *at <= last_call).min().map(|at| at.max(now))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{Timing, WatchdogTimes};

    fn at(ms: u64) -> Moment {
        Moment::from_ms(ms)
    }

    #[test]
    fn it_is_fed_last_just_before_it_would_fire_too_late() {
        let (permit, timeout) = (Permit::Until(at(9_500)), Span::from_secs(5));
        assert!(may_feed(permit, timeout, at(4_490)));
        assert!(!may_feed(permit, timeout, at(4_491)));
        assert_eq!(next_feed(permit, timeout, at(1_000), at(1_000)), Some(at(2_000)));
        assert_eq!(next_feed(permit, timeout, at(4_000), at(4_000)), Some(at(4_390)));
        assert_eq!(next_feed(permit, timeout, at(4_390), at(4_391)), Some(at(4_485)));
        assert_eq!(next_feed(permit, timeout, at(4_485), at(4_486)), None);
    }

    #[test]
    fn a_deadline_nearer_than_the_timeout_is_not_fed_for() {
        assert!(!may_feed(Permit::Until(at(4_000)), Span::from_secs(5), at(0)));
    }

    proptest! {
        /// Renewals come or do not: the device never fires later than the deadline in force, and never before the kill
        /// has had most of its time.
        #[test]
        fn it_fires_by_the_deadline_and_not_before_the_guardian_has_acted(
            ttl in 5u64..60, margin in -1i64..20, renewals in proptest::collection::vec(300u64..1_000, 1..8),
            lateness in 0u64..4,
        ) {
            let timing = Timing::for_ttl(Span::from_secs(ttl));
            let timeout = WatchdogTimes::of(&timing, margin).timeout;
            let mut now = at(10_000);
            let mut deadline = timing.deadline(now);
            let mut fires_at = now + timeout;
            let mut fed_at = now;
            for pause in renewals.into_iter().map(Some).chain([None]) {
                let news_at = pause.map(|pause| now + Span::from_ms(pause));
                while let Some(next) = next_feed(Permit::Until(deadline), timeout, fed_at, now) {
                    let woken = next + Span::from_ms(lateness);
                    if news_at.is_some_and(|news| news <= woken) {
                        break;
                    }
                    now = woken;
                    prop_assert!(now < fires_at, "a healthy machine is reset");
                    if may_feed(Permit::Until(deadline), timeout, now) {
                        (fed_at, fires_at) = (now, now + timeout);
                    } else {
                        break;
                    }
                }
                prop_assert!(fires_at <= deadline);
                if let Some(news) = news_at {
                    prop_assert!(news < fires_at, "a healthy machine is reset");
                    now = news;
                    deadline = timing.deadline(now);
                    prop_assert!(may_feed(Permit::Until(deadline), timeout, now));
                    (fed_at, fires_at) = (now, now + timeout);
                }
            }
            prop_assert!(deadline - timing.kill_budget.scaled(1, 2) <= fires_at, "{fires_at:?} {deadline:?}");
        }
    }
}
