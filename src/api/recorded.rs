//! `/events`, what the flight recorder has kept, and `/view`, what this member knows and does at this moment: the two that Patroni
//! has not. Like all that only ask they wait for nothing, and an answer has a bound.

use serde_json::json;

use crate::model::{ENTRY_FORMAT, Entry, Moment, Standing};
use crate::recorder::{Page, Recorder};

use super::answer::Answer;
use super::query::Target;

/// Of entries in one answer. Whoever wants more asks for what comes after the last one.
const BYTES_MAX: usize = 256 << 10;

/// `since=` in milliseconds since 1970, `after=` the number of an entry, `views=true` for what was known at each decision.
pub fn events(recorder: &Recorder, unix_ms: u64, target: &Target) -> Answer {
    let number = |name: &str| match target.value(name) {
        None => Ok(0),
        Some(text) => {
            text.parse::<u64>().map_err(|_| Answer::sentence(400, format!("{name} must be a number")))
        }
    };
    let (since, after) = match (number("since"), number("after")) {
        (Ok(since), Ok(after)) => (since, after),
        (Err(refusal), _) | (_, Err(refusal)) => return refusal,
    };
    let views = match target.value("views") {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Answer::sentence(400, "views must be true or false"),
    };
    let Page { entries, more, oldest } = recorder.page(since, after, views, BYTES_MAX);
    let oldest = oldest.map_or_else(|| "null".to_owned(), |number| number.to_string());
    let entries = entries.join(", ");
    // The entries are JSON already, and long: nothing that anybody asks for may keep the loop from its turn.
    Answer::json_text(
        200,
        format!(
            r#"{{"format": {ENTRY_FORMAT}, "unix_ms": {unix_ms}, "oldest": {oldest}, "more": {more}, "entries": [{entries}]}}"#
        ),
    )
}

/// The decision that holds, as an entry with the number 0, and how old it is.
pub fn view(standing: &Standing, unix_ms: u64, now: Moment) -> Answer {
    let (view, plan) = (&standing.view, &standing.plan);
    let age = now.since(view.now);
    let entry = Entry::of(view, plan, 0, unix_ms.saturating_sub(age.as_ms()));
    let document = json!({
        "format": ENTRY_FORMAT,
        "unix_ms": unix_ms,
        "moment": now,
        "looks_again_in_ms": now.until(plan.look_again).as_ms(),
        "entry": entry,
    });
    Answer::json(200, &document)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::fixtures::*;
    use super::*;

    fn document(answer: &Answer) -> Value {
        assert_eq!(answer.status, 200);
        serde_json::from_slice(&answer.body).expect("JSON")
    }

    #[test]
    fn the_view_is_told_as_it_was_decided_upon() {
        let standing = standby();
        let told = document(&view(&standing, 10_000, NOW));
        let entry = Entry::read(&told["entry"].to_string()).expect("an entry");
        assert_eq!(entry.view().expect("a view"), standing.view.kept());
        assert_eq!(entry.plan().expect("a plan"), standing.plan);
        assert_eq!(entry.unix_ms, 10_000 - NOW.since(standing.view.now).as_ms());
    }

    #[test]
    fn what_events_does_not_understand_it_refuses() {
        let ask = |target: &str| events(&Recorder::idle(), 5, &Target::parse(target));
        let none = document(&ask("/events?since=7&views=true"));
        assert_eq!(none, json!({"format": 1, "unix_ms": 5, "oldest": null, "more": false, "entries": []}));
        for wrong in ["/events?since=yesterday", "/events?after=-1", "/events?views=some"] {
            assert_eq!(ask(wrong).status, 400, "{wrong}");
        }
    }
}
