//! `POST /restart`, before anything is done: what may stand in the body, and whether the conditions in it hold.

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::config::milliseconds;
use crate::model::{MemberRole, Outcome, Refusal, Span, Standing};

use super::answer::Answer;
use super::look::Look;
use super::schedule::{self, Schedule};

/// A restart that was asked for, now or at some time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Restart {
    pub conditions: Conditions,
    pub timeout: Option<Span>,
    pub schedule: Option<Schedule>,
    /// The body as it is shown to others, the time in it spelled as it is stored.
    pub document: Map<String, Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    pub role: Option<MemberRole>,
    /// Only a server older than this.
    pub before_version: Option<u32>,
    pub pending: bool,
}

/// The restart in a body, or the answer that refuses it.
pub fn check(body: &Map<String, Value>, paused: bool, today: Timestamp) -> Result<Restart, Answer> {
    let mut restart = Restart { document: body.clone(), ..Restart::default() };
    for (key, value) in body {
        let refused = |sentence: String| Err(Answer::sentence(400, sentence));
        match key.as_str() {
            "schedule" if paused => {
                return Err(Answer::sentence(500, "Can't schedule restart in the paused state"));
            }
            "schedule" => {
                let schedule = schedule::parse("restart", value.as_str().unwrap_or_default(), today)?;
                restart.document.insert(key.clone(), schedule.text.clone().into());
                restart.schedule = Some(schedule);
            }
            "role" => {
                let Some(role) = role(value) else {
                    let sentence = "PostgreSQL role should be either primary, standby_leader, or replica";
                    return refused(sentence.to_owned());
                };
                restart.conditions.role = Some(role);
            }
            "postgres_version" => match version(&text(value)) {
                Ok(version) => restart.conditions.before_version = Some(version),
                Err(sentence) => return refused(sentence),
            },
            "timeout" => match timeout(&text(value)) {
                Some(timeout) => restart.timeout = Some(timeout),
                None => return refused("Timeout should be a positive number of seconds".to_owned()),
            },
            "restart_pending" => restart.conditions.pending = true,
            other => return refused(format!("Unknown filter for the scheduled restart: {other}")),
        }
    }
    Ok(restart)
}

/// Is this the member that was meant? Where PostgreSQL does not answer its version is not known, and not compared.
pub fn conditions_hold(conditions: &Conditions, standing: &Standing) -> bool {
    let look = Look::new(standing, standing.view.now);
    let version = look.answering().map(|running| running.version);
    let newer = conditions.before_version.zip(version).is_some_and(|(before, version)| before <= version);
    let pending = standing.facts.pending_restart.is_some() || !conditions.pending;
    conditions.role.is_none_or(|role| role == look.role()) && !newer && pending
}

pub fn answer(outcome: &Outcome) -> Answer {
    match outcome {
        Outcome::Done => Answer::sentence(200, "restarted successfully"),
        Outcome::Refused(refusal) => refused(*refusal),
        Outcome::Failed => Answer::sentence(503, "restart failed"),
    }
}

pub fn refused(refusal: Refusal) -> Answer {
    Answer::sentence(503, refusal.to_string())
}

fn role(value: &Value) -> Option<MemberRole> {
    match value.as_str()? {
        "primary" => Some(MemberRole::Primary),
        "standby_leader" => Some(MemberRole::StandbyLeader),
        "replica" => Some(MemberRole::Replica),
        _ => None,
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// `15.3` is 150003, and `9.6.24` was 90624.
fn version(text: &str) -> Result<u32, String> {
    let parts: Option<Vec<u32>> =
        text.split('.').map(|part| part.trim().parse().ok().filter(|part| *part < 100)).collect();
    let Some(parts) = parts else { return Err(format!("Invalid PostgreSQL version: {text}")) };
    match parts[..] {
        [major, minor] if 10 <= major => Ok(major * 10_000 + minor),
        [first, second, third] => Ok(first * 10_000 + second * 100 + third),
        _ => Err(format!("Invalid PostgreSQL version format: X.Y or X.Y.Z is accepted: {text}")),
    }
}

fn timeout(text: &str) -> Option<Span> {
    let ms = milliseconds(text).and_then(|ms| u64::try_from(ms).ok()).filter(|ms| 0 < *ms)?;
    // A week is no time limit any more.
    Some(Span::from_ms(ms.min(7 * 24 * 3_600_000)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::fixtures::*;
    use super::*;

    fn ask(body: &Value, paused: bool) -> Result<Restart, (u16, String)> {
        let today = "2026-11-21T09:00:00Z".parse().expect("a time");
        check(body.as_object().expect("an object"), paused, today)
            .map_err(|answer| (answer.status, String::from_utf8(answer.body).expect("text")))
    }

    #[test]
    fn a_restart_that_cannot_be_meant_is_refused_as_patroni_refuses_it() {
        let table = [
            (
                json!({"role": "any"}),
                400,
                "PostgreSQL role should be either primary, standby_leader, or replica",
            ),
            (json!({"postgres_version": "x"}), 400, "Invalid PostgreSQL version: x"),
            (
                json!({"postgres_version": "9.6"}),
                400,
                "Invalid PostgreSQL version format: X.Y or X.Y.Z is accepted: 9.6",
            ),
            (json!({"timeout": 0}), 400, "Timeout should be a positive number of seconds"),
            (json!({"timeout": "soon"}), 400, "Timeout should be a positive number of seconds"),
            (json!({"colour": 1}), 400, "Unknown filter for the scheduled restart: colour"),
            (
                json!({"schedule": "2026-11-21T10:00:00"}),
                400,
                "Timezone information is mandatory for the scheduled restart",
            ),
            (json!({"schedule": "2026-11-21T08:00:00Z"}), 422, "Cannot schedule restart in the past"),
            (
                json!({"schedule": 7}),
                422,
                "Unable to parse scheduled timestamp. It should be in an unambiguous format, e.g. ISO 8601",
            ),
        ];
        for (body, status, sentence) in table {
            assert_eq!(ask(&body, false), Err((status, sentence.to_owned())), "{body}");
        }
        let paused = ask(&json!({"schedule": "2026-11-21T10:00:00Z"}), true);
        assert_eq!(paused, Err((500, "Can't schedule restart in the paused state".to_owned())));
    }

    #[test]
    fn every_condition_is_read() {
        let restart = ask(
            &json!({"role": "replica", "postgres_version": "15.20", "timeout": "2min", "restart_pending": "True",
                    "schedule": "2026-11-21 12:00+02"}),
            false,
        );
        let restart = restart.expect("a good restart");
        let conditions =
            Conditions { role: Some(MemberRole::Replica), before_version: Some(150_020), pending: true };
        assert_eq!(restart.conditions, conditions);
        assert_eq!(restart.timeout, Some(Span::from_secs(120)));
        assert_eq!(restart.document["schedule"], "2026-11-21T12:00:00+02:00");
    }

    #[test]
    fn a_condition_that_does_not_hold_spares_the_member() {
        let holds = |conditions: &Conditions| conditions_hold(conditions, &standby());
        assert!(holds(&Conditions::default()));
        assert!(holds(&Conditions { role: Some(MemberRole::Replica), ..Conditions::default() }));
        assert!(!holds(&Conditions { role: Some(MemberRole::Primary), ..Conditions::default() }));
        assert!(holds(&Conditions { before_version: Some(150_019), ..Conditions::default() }));
        assert!(!holds(&Conditions { before_version: Some(150_018), ..Conditions::default() }));
        assert!(!holds(&Conditions { pending: true, ..Conditions::default() }));
        let pending = with(standby(), |s| s.facts.pending_restart = Some(json!({})));
        assert!(conditions_hold(&Conditions { pending: true, ..Conditions::default() }, &pending));
    }

    proptest! {
        #[test]
        fn no_body_makes_the_checks_panic(key in "role|schedule|timeout|postgres_version|\\PC{0,5}", value in "\\PC{0,12}|[0-9.]{0,24}", number: i64) {
            let _ = ask(&json!({key.clone(): value}), false);
            let _ = ask(&json!({key: number}), false);
        }
    }
}
