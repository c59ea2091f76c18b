//! `/ui/events`: the state of the cluster as this member knows it, as server-sent events: whenever it changes, and as a sign of life.
//! A stream ends by itself after a while, and the browser asks again.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::unfold;
use http_body_util::StreamBody;
use hyper::body::Frame;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Duration, Instant, sleep_until, timeout_at};

use crate::clock;
use crate::config::Ui;
use crate::model::{Contact, FailoverRequest, Lsn, MemberName, Standing, SyncMode};

use super::super::answer::spell;
use super::super::fresh;
use super::super::look::Look;
use super::super::server::Api;
use super::super::{cluster, status};
use super::events::severity_word;

/// Between two documents, however fast things change.
const APART: Duration = Duration::from_millis(400);
/// A page that hears nothing for longer knows that nobody speaks.
const SIGN_OF_LIFE: Duration = Duration::from_secs(2);

type Frames = Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>;

/// The body of an answer that goes on.
pub type Live = StreamBody<Frames>;

struct Teller {
    api: Api,
    standings: watch::Receiver<Arc<Standing>>,
    /// The last document, without what changes all the time.
    told: Vec<u8>,
    waiting: VecDeque<Bytes>,
    next_at: Instant,
    ends_at: Instant,
    _permit: OwnedSemaphorePermit,
}

#[derive(Debug, Serialize)]
struct Document<'a> {
    me: &'a MemberName,
    agent: &'static str,
    /// Whether the page may act.
    acts: bool,
    /// Whether REST wants a password for that.
    password: bool,
    leader: Option<&'a MemberName>,
    /// The number of the last entry of this member's flight recorder.
    newest: Option<u64>,
    rule: Rule<'a>,
    store: &'static str,
    synchronous: &'static str,
    failsafe: bool,
    request: Option<&'a FailoverRequest>,
    cluster: Option<cluster::Document<'a>>,
}

#[derive(Debug, Serialize)]
struct Rule<'a> {
    code: &'a str,
    sentence: String,
    step: String,
    severity: &'static str,
}

/// What changes all the time, and is worth no document of its own.
#[derive(Debug, Serialize)]
struct Pulse<'a> {
    unix_ms: u64,
    /// How far the primary is known to have written.
    end: Option<Lsn>,
    store_silent_ms: Option<u64>,
    status: status::Document<'a>,
}

pub fn live(api: &Api, permit: OwnedSemaphorePermit) -> Live {
    let now = Instant::now();
    let teller = Teller {
        standings: api.standings.clone(),
        told: Vec::new(),
        waiting: [Bytes::from_static(b"retry: 1000\n\n")].into(),
        next_at: now,
        ends_at: now + api.limits.stream_life,
        api: api.clone(),
        _permit: permit,
    };
    StreamBody::new(Box::pin(unfold(teller, Teller::go_on)))
}

impl Teller {
    async fn go_on(mut self) -> Option<(Result<Frame<Bytes>, Infallible>, Teller)> {
        loop {
            if let Some(text) = self.waiting.pop_front() {
                return Some((Ok(Frame::data(text)), self));
            }
            if self.ends_at <= Instant::now() {
                return None;
            }
            self.look().await?;
        }
    }

    /// Until there is something to tell. Nothing, if the agent ends.
    async fn look(&mut self) -> Option<()> {
        sleep_until(self.next_at.min(self.ends_at)).await;
        let due = (Instant::now() + SIGN_OF_LIFE).min(self.ends_at);
        // What is told first is not older than the question.
        fresh::standing_since(&self.api.looks, &self.api.standings, (self.api.clock)()).await;
        loop {
            let standing = Arc::clone(&self.standings.borrow_and_update());
            let (document, pulse) = spelled(&self.api, &standing);
            if document != self.told {
                self.waiting.push_back(event("cluster", &document));
                self.told = document;
            }
            if !self.waiting.is_empty() || due <= Instant::now() {
                self.waiting.push_back(event("pulse", &pulse));
                self.next_at = Instant::now() + APART;
                return Some(());
            }
            if let Ok(Err(_)) = timeout_at(due, self.standings.changed()).await {
                return None;
            }
        }
    }
}

fn spelled(api: &Api, standing: &Standing) -> (Vec<u8>, Vec<u8>) {
    let (document, pulse) = documents(api, Look::new(standing, (api.clock)()));
    (spell(&document), spell(&pulse))
}

fn documents<'a>(api: &Api, look: Look<'a>) -> (Document<'a>, Pulse<'a>) {
    let doors = api.doors.borrow();
    let view = look.view();
    let plan = &look.standing.plan;
    let cluster = look.cluster();
    let document = Document {
        me: &view.me,
        agent: env!("CARGO_PKG_VERSION"),
        acts: doors.ui == Ui::On,
        password: doors.access.wants_password(),
        leader: cluster.and_then(|cluster| cluster.leader_name()),
        newest: api.recorder.newest(),
        rule: Rule {
            code: plan.reason.rule.code(),
            sentence: plan.reason.to_string(),
            step: plan.step.told(),
            severity: severity_word(plan.reason.rule.severity()),
        },
        store: match view.store.contact {
            Contact::Never => "never",
            Contact::Current if look.store_is_current() => "answers",
            Contact::Current | Contact::Silent { .. } => "silent",
        },
        synchronous: match view.policy.sync.mode {
            SyncMode::Off => "off",
            SyncMode::On => "on",
            SyncMode::Quorum => "quorum",
        },
        failsafe: look.failsafe_active(),
        request: cluster
            .and_then(|cluster| Some(&cluster.failover.as_ref()?.value))
            .filter(|request| !request.is_empty()),
        cluster: cluster.map(|known| cluster::document(look, known)),
    };
    let pulse = Pulse {
        unix_ms: clock::wall_ms(),
        end: own_end(look).or_else(|| look.primary_end()),
        store_silent_ms: match view.store.contact {
            Contact::Silent { since } => Some(look.now.since(since).as_ms()),
            Contact::Never | Contact::Current => None,
        },
        status: status::document(look),
    };
    (document, pulse)
}

/// A primary knows best.
fn own_end(look: Look) -> Option<Lsn> {
    let running = look.answering().filter(|running| running.is_primary())?;
    Some(running.position()?.lsn)
}

fn event(name: &str, document: &[u8]) -> Bytes {
    let mut text = format!("event: {name}\ndata: ").into_bytes();
    // Without line breaks: it is spelled on one line, and what stands in texts is escaped.
    text.extend_from_slice(document);
    text.extend_from_slice(b"\n\n");
    Bytes::from(text)
}
