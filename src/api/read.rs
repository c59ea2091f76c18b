//! Whatever only asks: GET, HEAD and OPTIONS. A pure function of the standing, the request and the time, so that no
//! question waits for anything here.

use crate::model::{Moment, Standing};

use super::answer::Answer;
use super::look::Look;
use super::query::Target;
use super::{cluster, health, metrics, status};

/// `/patroni` and its like answer to GET alone. HEAD and OPTIONS are health checks on any path: what HAProxy sends.
pub fn get(standing: &Standing, target: &Target, asked_at: Moment, now: Moment) -> Answer {
    let look = Look::new(standing, now);
    match target.endpoint() {
        "patroni" => Answer::json(200, &status::document(Look { asked_at: Some(asked_at), ..look })),
        "cluster" => cluster::cluster(look),
        "history" => cluster::history(look),
        "config" => cluster::config(look),
        "failsafe" => cluster::failsafe(look),
        "metrics" => Answer::metrics(metrics::metrics(look)),
        "liveness" => Answer::status_only(health::liveness(look)),
        "readiness" => Answer::status_only(health::readiness(look, target)),
        _ => Answer::json(health::code(look, target), &status::document(look)),
    }
}

pub fn head(standing: &Standing, target: &Target, now: Moment) -> Answer {
    Answer::status_only(health::code(Look::new(standing, now), target))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::fixtures::*;
    use super::*;
    use crate::model::Span;

    #[test]
    fn the_first_component_selects_the_endpoint() {
        let table = [
            ("/patroni", 200, "application/json"),
            ("/patroni/anything?x=y", 200, "application/json"),
            ("/cluster", 200, "application/json"),
            ("/history", 200, "application/json"),
            ("/config", 200, "application/json"),
            ("/metrics", 200, "text/plain"),
            ("/replica", 200, "application/json"),
            ("/primary", 503, "application/json"),
            ("/nonsense", 503, "application/json"),
            ("", 503, "application/json"),
        ];
        for (target, status, content_type) in table {
            let answer = get(&standby(), &Target::parse(target), NOW, NOW);
            assert_eq!(answer.status, status, "{target}");
            assert_eq!(answer.headers, [("content-type", content_type.to_owned())], "{target}");
        }
        for bare in ["/liveness", "/readiness"] {
            assert_eq!(get(&standby(), &Target::parse(bare), NOW, NOW), Answer::status_only(200));
        }
    }

    proptest! {
        #[test]
        fn every_path_is_answered_at_every_time(target in "/[a-z_/-]{0,20}(\\?[a-z_=&0-9%]{0,20})?", now_ms: u64) {
            let (target, now) = (Target::parse(&target), Moment::from_ms(now_ms));
            for standing in [empty(), standby(), primary(), with(primary(), be_stopped)] {
                prop_assert!([200, 502, 503].contains(&get(&standing, &target, now, now).status));
                prop_assert!([200, 503].contains(&head(&standing, &target, now).status));
            }
        }

        #[test]
        fn nobody_is_called_primary_after_the_deadline(late_ms in 0u64..1_000_000) {
            let deadline = primary().view.lease.expect("a primary has one").deadline();
            let late = deadline + Span::from_ms(late_ms);
            for path in ["/", "/primary", "/master", "/read-write", "/leader", "/read-only"] {
                prop_assert_eq!(head(&primary(), &Target::parse(path), late).status, 503);
            }
        }
    }

    #[test]
    fn head_is_a_health_check_on_any_path() {
        for (target, status) in [("/replica", 200), ("/primary", 503), ("/patroni", 503), ("/metrics", 503)] {
            assert_eq!(
                head(&standby(), &Target::parse(target), NOW),
                Answer::status_only(status),
                "{target}"
            );
        }
    }
}
