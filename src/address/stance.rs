//! What the holder has been ordered, as a value: what it takes, what it refuses, and when it ends. No clock, no socket.

use crate::model::{Moment, Span, Until};

use super::netlink::Lifetime;
use super::wire::{Refusal, Request};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stance {
    /// Nobody has said anything since the start. What a predecessor has left stays as long as the kernel was told to keep it.
    #[default]
    Unknown,
    Away,
    Asking,
    /// What is on its interface stays, and what is not is not added.
    Adopting {
        until: Until,
    },
    Holding {
        until: Until,
    },
}

/// After each of these the neighbours are told again that an address is here: the first word may be lost, and a switch that has just
/// learnt of a new path may take its time.
const ANNOUNCE_AFTER: [Span; 6] = [
    Span::ZERO,
    Span::from_ms(100),
    Span::from_ms(500),
    Span::from_secs(1),
    Span::from_secs(3),
    Span::from_secs(10),
];
/// So often the network is asked for the owner before the address is ours.
const ASK_AFTER: [Span; 3] = [Span::ZERO, Span::from_ms(100), Span::from_ms(200)];
/// Less than the kernel's own error.
const WOKEN_LATE: Span = Span::from_ms(50);
/// As long as another host answers as well.
const DEFEND_EVERY: Span = Span::from_secs(5);

impl Stance {
    pub fn after(self, request: Request, now: Moment) -> Result<Stance, Refusal> {
        match (request, self) {
            (Request::Status, stance) => Ok(stance),
            (Request::Away, _) => Ok(Stance::Away),
            (Request::Ask, _) => Ok(Stance::Asking),
            // A word that came too late must not become a promise.
            (Request::Extend { until } | Request::Hold { until }, _) if until.has_passed(now) => {
                Err(Refusal::Past)
            }
            (Request::Hold { until }, _) | (Request::Extend { until }, Stance::Holding { .. }) => {
                Ok(Stance::Holding { until })
            }
            (Request::Extend { until }, Stance::Unknown | Stance::Adopting { .. }) => {
                Ok(Stance::Adopting { until })
            }
            (Request::Extend { .. }, stance @ (Stance::Away | Stance::Asking)) => Ok(stance),
        }
    }

    /// When what is in force ends by itself.
    pub fn ends_at(self) -> Option<Moment> {
        match self {
            Stance::Holding { until: Until::Moment(at) } | Stance::Adopting { until: Until::Moment(at) } => {
                Some(at)
            }
            Stance::Holding { until: Until::Revoked } | Stance::Adopting { until: Until::Revoked } => None,
            Stance::Unknown | Stance::Away | Stance::Asking => None,
        }
    }
}

/// How long the kernel is to keep an address: not longer than the order counts. `None` for less than it can count.
pub fn lifetime(until: Until, now: Moment) -> Option<Lifetime> {
    match until {
        Until::Revoked => Some(Lifetime::Unbounded),
        Until::Moment(at) => {
            // The greatest number means for ever.
            let seconds = whole_seconds(at, now).min(u64::from(u32::MAX) - 1);
            let seconds = u32::try_from(seconds).unwrap_or(0);
            (0 < seconds).then_some(Lifetime::Seconds(seconds))
        }
    }
}

/// The kernel counts whole seconds. When so many are left that nothing is lost by it, it is told again.
pub fn tell_again_at(until: Until, now: Moment) -> Option<Moment> {
    match until {
        Until::Revoked => None,
        Until::Moment(at) => {
            let counted = Span::from_secs(whole_seconds(at, now)).as_ms();
            let again = Moment::from_ms(at.as_ms().saturating_sub(counted));
            (0 < counted && now < again).then_some(again)
        }
    }
}

fn whole_seconds(at: Moment, now: Moment) -> u64 {
    (now.until(at) + WOKEN_LATE).as_ms() / 1000
}

/// When the announcement of this number is due, of an address that was taken at `taken_at`.
pub fn announce_at(taken_at: Moment, number: usize) -> Option<Moment> {
    ANNOUNCE_AFTER.get(number).map(|after| taken_at + *after)
}

/// The same for questions, of an address that is asked for since `since`.
pub fn ask_at(since: Moment, number: usize) -> Option<Moment> {
    ASK_AFTER.get(number).map(|after| since + *after)
}

/// Whether another host that was heard at `heard_at` counts at `now`, and is to be answered.
pub fn still_contends(heard_at: Moment, now: Moment) -> bool {
    now.since(heard_at) < DEFEND_EVERY.times(3)
}

pub fn defend_at(last: Moment) -> Moment {
    last + DEFEND_EVERY
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Moment = Moment::from_ms(10_000);

    fn until(ms: u64) -> Until {
        Until::Moment(Moment::from_ms(ms))
    }

    #[test]
    fn what_is_told_too_late_is_no_promise() {
        for request in [Request::Hold { until: until(10_000) }, Request::Extend { until: until(9_999) }] {
            for stance in [Stance::Unknown, Stance::Away, Stance::Holding { until: until(10_500) }] {
                assert_eq!(stance.after(request, NOW), Err(Refusal::Past), "{stance:?} {request:?}");
            }
        }
    }

    #[test]
    fn who_restarts_under_its_lease_keeps_what_it_has_and_takes_nothing() {
        let extend = Request::Extend { until: until(20_000) };
        let after = |stance: Stance| stance.after(extend, NOW).expect("in time");
        assert_eq!(after(Stance::Holding { until: until(11_000) }), Stance::Holding { until: until(20_000) });
        // A holder that was restarted in the meantime.
        assert_eq!(after(Stance::Unknown), Stance::Adopting { until: until(20_000) });
        assert_eq!(after(Stance::Away), Stance::Away);
        assert_eq!(after(Stance::Asking), Stance::Asking);
    }

    #[test]
    fn the_kernel_is_never_told_more_than_the_order_says() {
        assert_eq!(lifetime(until(13_900), NOW), Some(Lifetime::Seconds(3)));
        assert_eq!(lifetime(until(10_900), NOW), None);
        assert_eq!(lifetime(until(u64::MAX), NOW), Some(Lifetime::Seconds(u32::MAX - 1)));
        assert_eq!(lifetime(Until::Revoked, NOW), Some(Lifetime::Unbounded));
    }

    #[test]
    fn the_kernel_is_told_again_when_its_seconds_fit() {
        let again = tell_again_at(until(13_900), NOW).expect("0.9 s are not counted");
        assert_eq!(again, Moment::from_ms(10_900));
        for late in [0, 40] {
            let woken = again + Span::from_ms(late);
            assert_eq!(lifetime(until(13_900), woken), Some(Lifetime::Seconds(3)), "{late} ms late");
            assert_eq!(tell_again_at(until(13_900), woken), None, "once is enough");
        }
        assert_eq!(tell_again_at(until(10_900), NOW), None);
        assert_eq!(tell_again_at(Until::Revoked, NOW), None);
    }

    #[test]
    fn the_first_announcement_is_at_once_and_there_is_a_last() {
        assert_eq!(announce_at(NOW, 0), Some(NOW));
        assert_eq!(announce_at(NOW, ANNOUNCE_AFTER.len()), None);
        assert_eq!(ask_at(NOW, 0), Some(NOW));
        assert!(
            ASK_AFTER.iter().all(|after| after.as_ms() < 300),
            "nothing waits for these, and they end soon"
        );
    }

    fn request() -> impl Strategy<Value = Request> {
        let until = prop_oneof![4 => (0u64..200).prop_map(until), 1 => Just(Until::Revoked)];
        prop_oneof![
            Just(Request::Away),
            Just(Request::Ask),
            Just(Request::Status),
            until.clone().prop_map(|until| Request::Hold { until }),
            until.prop_map(|until| Request::Extend { until }),
        ]
    }

    proptest! {
        /// The law of this file: an address is added by an order to hold it and by nothing else, and an end that has been set is put
        /// off only in time.
        #[test]
        fn nothing_is_held_without_an_order(script in proptest::collection::vec((request(), 0u64..30), 0..40)) {
            let (mut stance, mut now) = (Stance::default(), Moment::default());
            for (request, pause) in script {
                now = now + Span::from_ms(pause);
                if stance.ends_at().is_some_and(|at| at <= now) {
                    stance = Stance::Away;
                }
                let Ok(after) = stance.after(request, now) else { continue };
                let holds = |stance: Stance| matches!(stance, Stance::Holding { .. });
                let ordered = matches!(request, Request::Hold { .. });
                prop_assert!(ordered || holds(stance) || !holds(after));
                prop_assert!(after.ends_at().is_none_or(|at| now < at));
                stance = after;
            }
        }
    }
}
