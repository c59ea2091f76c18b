//! `/ui`: a page for people, and what it asks for. All of it is in this program, and nothing comes from elsewhere. Nothing is changed
//! here: what the page is told to do it asks of REST, like everybody else.

mod asking;
mod checkup;
mod events;
mod live;

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::config::Ui;

use super::answer::Answer;
use super::doors::Doors;
use super::query::Target;
use super::server::Api;

use asking::Asking;
pub use live::Live;

const HTML: &str = include_str!("page.html");
const ICON: &str = include_str!("icon.svg");
const STYLE: &str = include_str!("page.css");
const SCRIPTS: [(&str, &str); 6] = [
    ("/ui/page.js", include_str!("page.js")),
    ("/ui/make.js", include_str!("make.js")),
    ("/ui/members.js", include_str!("members.js")),
    ("/ui/plot.js", include_str!("plot.js")),
    ("/ui/tell.js", include_str!("tell.js")),
    ("/ui/act.js", include_str!("act.js")),
];

/// Only our own scripts, styles and answers; no markup out of text; in nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

/// What all pages together may take of this member.
#[derive(Debug)]
pub struct Pool {
    streams: Arc<Semaphore>,
    /// Questions that other members are asked on behalf of a page.
    questions: Semaphore,
    asking: Asking,
}

/// An answer, or one that goes on.
pub enum Shown {
    Whole(Answer),
    Live(Live),
}

impl Pool {
    pub fn new(streams_max: usize, questions_max: usize) -> Pool {
        Pool {
            streams: Arc::new(Semaphore::new(streams_max)),
            questions: Semaphore::new(questions_max),
            asking: Asking::default(),
        }
    }
}

pub async fn show(api: &Api, pool: &Pool, doors: &Doors, target: &Target) -> Shown {
    if doors.ui == Ui::Off {
        return Shown::Whole(Answer::sentence(404, "this member shows no page (tenure.ui: off)"));
    }
    if target.path == "/ui/events" {
        return match Arc::clone(&pool.streams).try_acquire_owned() {
            Ok(permit) => Shown::Live(live::live(api, permit)),
            Err(_) => Shown::Whole(guarded(Answer::sentence(503, "too many pages are open"))),
        };
    }
    Shown::Whole(guarded(answer(api, pool, target).await))
}

async fn answer(api: &Api, pool: &Pool, target: &Target) -> Answer {
    let asked = match target.path.as_str() {
        "/ui" => return Answer::of(200, "text/html; charset=utf-8", HTML.into()),
        // Every address in the page is told as seen from `/ui`, so that it works below any other path as well.
        "/ui/" => return redirect("../ui"),
        "/ui/page.css" => return Answer::of(200, "text/css; charset=utf-8", STYLE.into()),
        "/ui/icon.svg" => return Answer::of(200, "image/svg+xml", ICON.into()),
        path => match SCRIPTS.iter().find(|(name, _)| *name == path) {
            Some((_, script)) => {
                return Answer::of(200, "text/javascript; charset=utf-8", (*script).into());
            }
            None => path,
        },
    };
    let Ok(_permit) = pool.questions.try_acquire() else {
        return Answer::sentence(503, "too many pages ask at the same time");
    };
    match asked {
        "/ui/members" => asking::members_told(pool.asking.everybody(api).await.as_ref()),
        "/ui/what-if" => asking::what_if(pool.asking.everybody(api).await.as_ref(), target),
        "/ui/timeline" => events::timeline(api).await,
        "/ui/doctor" => checkup::doctor(api).await,
        _ => Answer::sentence(404, "the page has no such part"),
    }
}

fn redirect(to: &str) -> Answer {
    let mut answer = Answer::sentence(308, "the page is at /ui");
    answer.headers.push(("location", to.to_owned()));
    answer
}

/// What comes before a stream. Whoever stands between must not collect it.
pub fn stream_head() -> Answer {
    let mut head = guarded(Answer::of(200, "text/event-stream", Vec::new()));
    head.headers.push(("x-accel-buffering", "no".to_owned()));
    head
}

fn guarded(mut answer: Answer) -> Answer {
    let headers = HEADERS.map(|(name, value)| (name, value.to_owned()));
    answer.headers.extend(headers);
    answer
}

/// With each answer below `/ui`. Nothing is kept: the next version of the agent has another page.
const HEADERS: [(&str, &str); 5] = [
    ("content-security-policy", POLICY),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cache-control", "no-store"),
    ("cross-origin-resource-policy", "same-origin"),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// What would be blocked, or fetched from elsewhere, is not in there in the first place.
    #[test]
    fn the_page_is_whole_and_keeps_its_own_policy() {
        for (name, script) in SCRIPTS {
            for wrong in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "Storage",
                "cookie",
            ] {
                assert!(!script.contains(wrong), "{name}: {wrong}");
            }
            for line in script.lines().filter(|line| line.starts_with("import ")) {
                let (_, from) = line.split_once(" from \"./").unwrap_or_else(|| panic!("{name}: {line}"));
                let path = format!("/ui/{}", from.trim_end_matches("\";"));
                assert!(SCRIPTS.iter().any(|(known, _)| *known == path), "{name}: {line}");
            }
        }
        for (name, text) in [("page.html", HTML), ("page.css", STYLE)].into_iter().chain(SCRIPTS) {
            let foreign = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!foreign.contains("://") && !foreign.contains("url("), "{name} names another place");
            assert!(text.lines().count() <= 500, "{name} is too long to be read");
        }
        for wrong in ["style=", " onclick", " onload", "<style", "<script>"] {
            assert!(!HTML.contains(wrong), "{wrong}");
        }
    }
}
