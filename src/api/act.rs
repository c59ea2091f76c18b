//! Requests that change something. What can be checked is checked here; the write itself is the agent's, which owns the
//! store: it gets a command and replies. The result of a switchover is then read off the standings.

use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use crate::config::validate_dynamic;
use crate::model::{
    Ask, Consent, Contact, FailoverRequest, MemberName, Note, Outcome, Refusal, Span, Standing, Whose,
};
use crate::peers;

use super::answer::Answer;
use super::drill;
use super::look::Look;
use super::query::Target;
use super::restart::{self, Restart, conditions_hold};
use super::server::Api;
use super::settings::merge;
use super::wish::{self, Kind, Progress, Wish, can_take_over};

/// One write for the agent's loop to carry out. Each is answered exactly once; a reply that is dropped counts as
/// [`Written::Unanswered`].
#[derive(Debug)]
pub enum Command {
    /// Put the request into the failover key, whatever is there.
    RequestFailover { request: FailoverRequest, reply: oneshot::Sender<Written> },
    /// Empty the failover key if it still has this version.
    ClearFailover { version: i64, reply: oneshot::Sender<Written> },
    /// Replace the configuration; with a version, only if it is still that one.
    WriteConfig { config: Value, if_version: Option<i64>, note: Note, reply: oneshot::Sender<Written> },
    /// Something that this member does with its own PostgreSQL, if the rules allow it.
    Ask { ask: Ask, reply: oneshot::Sender<Outcome> },
    /// A leader in failsafe mode asks to be left the lease for so long.
    Consent { from: MemberName, wanted: Span, reply: oneshot::Sender<Consent> },
    /// The reply is false if there is another one already.
    ScheduleRestart { restart: Restart, whose: Whose, reply: oneshot::Sender<bool> },
    /// The reply is false if there was none.
    DeleteRestart { reply: oneshot::Sender<bool> },
    /// Read this member's files again.
    Reload,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    Done,
    /// Somebody else wrote first; nothing was changed.
    Conflict,
    /// The store did not answer: it may have happened.
    Unanswered,
}

/// The agent's loop answers within this whatever happens, and a busy one a little later.
const AGENT_PATIENCE: Duration = Duration::from_secs(1);
/// How long a restart takes at most besides the start itself: the rules give it up before.
const RESTART_PATIENCE: Duration = Duration::from_secs(90);
/// How long members are given to say whether they could take over.
const POLL_PATIENCE: Duration = Duration::from_secs(2);
/// How long a new leader is waited for to be promoted before the answer is given without that.
const PROMOTION_PATIENCE: Duration = Duration::from_secs(5);
/// How long a snapshot may take to show a request that has been written.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(3);

/// `body` is `None` if the request announced none. `note` says who asks.
pub async fn act(api: &Api, method: &Method, target: &Target, body: Option<&[u8]>, note: Note) -> Answer {
    let answer = match (method.as_str(), target.endpoint()) {
        ("POST", "switchover") => request_failover(api, Kind::Switchover, body, &note).await,
        ("POST", "failover") => request_failover(api, Kind::Failover, body, &note).await,
        ("DELETE", "switchover") => Ok(delete_switchover(api).await),
        ("PATCH", "config") => patch_config(api, body, note).await,
        ("PUT", "config") => put_config(api, body, note).await,
        ("POST", "reload") => Ok(reload(api)),
        ("POST", "restart") => restart(api, body, &note).await,
        ("DELETE", "restart") => Ok(delete_restart(api).await),
        ("POST", "reinitialize") => reinitialize(api, body, &note).await,
        ("POST", "failsafe") => failsafe(api, body).await,
        ("POST", "drill") => drill(api, body, note).await,
        // On Unix Patroni only says so, too; ending an agent is its service manager's business.
        ("POST", "sigterm") => Ok(Answer::sentence(202, "shutdown scheduled")),
        ("POST", "citus" | "mpp") => {
            Ok(Answer::sentence(501, "Citus clusters are not supported: there is no coordinator here"))
        }
        _ => Ok(Answer::sentence(501, format!("Unsupported method ('{method}')"))),
    };
    answer.unwrap_or_else(|refusal| refusal)
}

async fn request_failover(
    api: &Api,
    asked: Kind,
    body: Option<&[u8]>,
    note: &Note,
) -> Result<Answer, Answer> {
    let body = object(body)?;
    let standing = api.standing();
    let look = Look::new(&standing, (api.clock)());
    let wish = wish::check(asked, &body, look, note, crate::clock::wall())?;
    if wish.request.scheduled_at.is_none() && !somebody_can_take_over(api, wish.candidates.clone()).await {
        let sentence = format!("{} is not possible: no good candidates have been found", wish.kind.word());
        return Err(Answer::sentence(412, sentence));
    }
    tracing::info!(
        leader = wish.request.leader.as_ref().map(MemberName::as_str),
        candidate = wish.request.candidate.as_ref().map(MemberName::as_str),
        scheduled_at = wish.request.scheduled_at,
        by = note.by,
        why = note.why,
        "{} requested over REST",
        wish.kind.word()
    );
    let request = wish.request.clone();
    match order(api, |reply| Command::RequestFailover { request, reply }).await {
        Written::Done if wish.request.scheduled_at.is_some() => {
            Ok(Answer::sentence(202, "Switchover scheduled"))
        }
        Written::Done => {
            let rounds = standing.view.policy.loop_wait.as_duration().max(Duration::from_secs(10));
            Ok(outcome(api, &wish, rounds * 2).await)
        }
        Written::Conflict | Written::Unanswered => {
            Err(Answer::sentence(503, "failed to write failover key into DCS"))
        }
    }
}

async fn somebody_can_take_over(api: &Api, candidates: Vec<(MemberName, String)>) -> bool {
    let target = |(member, api_url)| peers::Target { member, api_url, patience: POLL_PATIENCE };
    let client = Arc::clone(&api.peers.borrow());
    peers::ask(&client, candidates.into_iter().map(target).collect()).await.values().any(can_take_over)
}

/// Follows the standings until somebody else leads, the request is gone, or time is up.
async fn outcome(api: &Api, wish: &Wish, patience: Duration) -> Answer {
    let deadline = Instant::now() + patience;
    let mut standings = api.standings.clone();
    let mut seen_waiting = false;
    let mut last: Option<(Progress, Instant)> = None;
    loop {
        let standing = Arc::clone(&standings.borrow_and_update());
        let progress = progress(wish, &standing);
        seen_waiting |= progress == Some(Progress::Waiting);
        let since = match (&last, &progress) {
            (Some((before, since)), Some(now)) if before == now => *since,
            (Some(_) | None, Some(_) | None) => Instant::now(),
        };
        let until = match &progress {
            Some(Progress::Led { by, serving: true }) => return wish::led(wish, by),
            Some(Progress::Led { serving: false, .. }) => since + PROMOTION_PATIENCE,
            Some(Progress::Cleared) if seen_waiting => return failed(wish),
            Some(Progress::Cleared) => since + SNAPSHOT_PATIENCE,
            Some(Progress::Waiting) | None => deadline,
        };
        let in_time = timeout_at(until.min(deadline), standings.changed()).await;
        if !matches!(in_time, Ok(Ok(()))) {
            return match progress {
                Some(Progress::Led { by, .. }) => wish::led(wish, &by),
                Some(Progress::Cleared) => failed(wish),
                Some(Progress::Waiting) | None => {
                    Answer::sentence(503, format!("{} status unknown", wish.kind.title()))
                }
            };
        }
        last = progress.map(|progress| (progress, since));
    }
}

/// `None` while the store is silent: an old snapshot proves nothing.
fn progress(wish: &Wish, standing: &Standing) -> Option<Progress> {
    match standing.view.store.contact {
        Contact::Current => standing.view.store.cluster.as_ref().map(|cluster| wish::progress(wish, cluster)),
        Contact::Never | Contact::Silent { .. } => None,
    }
}

fn failed(wish: &Wish) -> Answer {
    Answer::sentence(503, format!("{} failed", wish.kind.title()))
}

async fn delete_switchover(api: &Api) -> Answer {
    let standing = api.standing();
    let scheduled = (standing.view.store.cluster.as_ref())
        .and_then(|cluster| cluster.failover.as_ref())
        .filter(|failover| failover.value.scheduled_at.is_some());
    let Some(version) = scheduled.map(|failover| failover.version) else {
        return Answer::sentence(404, "no switchover is scheduled");
    };
    match order(api, |reply| Command::ClearFailover { version, reply }).await {
        Written::Done => Answer::sentence(200, "scheduled switchover deleted"),
        Written::Conflict => Answer::sentence(409, "the switchover has been changed meanwhile"),
        Written::Unanswered => {
            Answer::sentence(503, "failed to delete the switchover: no answer from the store")
        }
    }
}

/// Merged into the configuration that stands in the store: where that is another one than was last seen here, into that one.
async fn patch_config(api: &Api, body: Option<&[u8]>, note: Note) -> Result<Answer, Answer> {
    let patch = object(body)?;
    let mut standings = api.standings.clone();
    let deadline = Instant::now() + SNAPSHOT_PATIENCE;
    loop {
        let standing = Arc::clone(&standings.borrow_and_update());
        let present = standing.view.store.cluster.as_ref().and_then(|cluster| cluster.config.as_ref());
        let Some((version, config)) =
            present.and_then(|config| Some((config.version, config.value.as_object()?)))
        else {
            return Err(Answer::sentence(503, "the cluster has no valid configuration to change"));
        };
        let Some(merged) = merge(config, &patch) else { return Ok(Answer::json(200, config)) };
        let config = Value::Object(merged.clone());
        refuse_new_problems(&config, present.map(|present| &present.value))?;
        let note = note.clone();
        let write = |reply| Command::WriteConfig { config, if_version: Some(version), note, reply };
        match order(api, write).await {
            Written::Done => return Ok(Answer::json(200, &merged)),
            Written::Conflict => {}
            Written::Unanswered => {
                let sentence = "failed to write the configuration: no answer from the store";
                return Err(Answer::sentence(503, sentence));
            }
        }
        let is_other = |standing: &Arc<Standing>| config_version(standing) != Some(version);
        if !matches!(timeout_at(deadline, standings.wait_for(is_other)).await, Ok(Ok(_))) {
            return Err(Answer::sentence(409, "the configuration has been changed meanwhile"));
        }
    }
}

fn config_version(standing: &Standing) -> Option<i64> {
    Some(standing.view.cluster()?.config.as_ref()?.version)
}

async fn put_config(api: &Api, body: Option<&[u8]>, note: Note) -> Result<Answer, Answer> {
    let config = Value::Object(object(body)?);
    let standing = api.standing();
    let present = standing.view.store.cluster.as_ref().and_then(|cluster| cluster.config.as_ref());
    if present.is_some_and(|present| present.value == config) {
        return Ok(Answer::json(200, &config));
    }
    refuse_new_problems(&config, present.map(|present| &present.value))?;
    let answer = Answer::json(200, &config);
    match order(api, |reply| Command::WriteConfig { config, if_version: None, note, reply }).await {
        Written::Done => Ok(answer),
        Written::Conflict | Written::Unanswered => {
            Err(Answer::sentence(502, "failed to write the configuration"))
        }
    }
}

/// A setting that was wrong before stays what it is: whoever changes another one must be able to.
fn refuse_new_problems(config: &Value, present: Option<&Value>) -> Result<(), Answer> {
    let known = present.map(validate_dynamic).unwrap_or_default();
    let news: Vec<String> = (validate_dynamic(config).iter())
        .filter(|problem| !known.contains(problem))
        .map(ToString::to_string)
        .collect();
    if news.is_empty() { Ok(()) } else { Err(Answer::sentence(422, news.join("\n"))) }
}

fn reload(api: &Api) -> Answer {
    // A queue that is full holds one already, or the agent has other troubles.
    match api.commands.try_send(Command::Reload) {
        Ok(()) => Answer::sentence(202, "reload scheduled"),
        Err(_) => Answer::sentence(503, "too many requests are under way"),
    }
}

async fn restart(api: &Api, body: Option<&[u8]>, note: &Note) -> Result<Answer, Answer> {
    let body = optional_object(body)?;
    let standing = api.standing();
    let whose = Whose::of(note);
    let restart = restart::check(&body, standing.view.policy.pause, crate::clock::wall())?;
    let filters = Value::Object(restart.document.clone());
    if restart.schedule.is_some() {
        tracing::info!(%filters, "a restart was scheduled over REST {whose}");
        let command = |reply| Command::ScheduleRestart { restart, whose, reply };
        let scheduled = ask(api, Duration::ZERO, command).await;
        return Ok(match scheduled {
            Some(true) => Answer::sentence(202, "Restart scheduled"),
            Some(false) => Answer::sentence(409, "Another restart is already scheduled"),
            None => Answer::sentence(503, "the agent did not answer"),
        });
    }
    if !conditions_hold(&restart.conditions, &standing) {
        return Err(Answer::sentence(503, "restart conditions are not satisfied"));
    }
    tracing::info!(%filters, "a restart was requested over REST {whose}");
    let wanted = Ask::Restart { timeout: restart.timeout };
    let patience = RESTART_PATIENCE
        + restart.timeout.unwrap_or(standing.view.policy.primary_start_timeout).as_duration();
    match ask(api, patience, |reply| Command::Ask { ask: wanted, reply }).await {
        Some(outcome) => Ok(restart::answer(&outcome)),
        None => Err(Answer::sentence(503, "restart status unknown")),
    }
}

async fn delete_restart(api: &Api) -> Answer {
    match ask(api, Duration::ZERO, |reply| Command::DeleteRestart { reply }).await {
        Some(true) => Answer::sentence(200, "scheduled restart deleted"),
        Some(false) => Answer::sentence(404, "no restarts are scheduled"),
        None => Answer::sentence(503, "the agent did not answer"),
    }
}

async fn reinitialize(api: &Api, body: Option<&[u8]>, note: &Note) -> Result<Answer, Answer> {
    let body = optional_object(body)?;
    let force = body.get("force").is_some_and(truthy);
    let from_leader = body.get("from_leader").is_some_and(truthy);
    tracing::info!(force, "making the data anew was requested over REST {}", Whose::of(note));
    let wanted = Ask::Reinitialize { force, from_leader };
    match ask(api, Duration::ZERO, |reply| Command::Ask { ask: wanted, reply }).await {
        Some(Outcome::Done) => Ok(Answer::sentence(200, "reinitialize started")),
        Some(Outcome::Refused(refusal)) => Err(restart::refused(refusal)),
        Some(Outcome::Failed) => Err(restart::refused(Refusal::NotNow)),
        None => Err(Answer::sentence(503, "the agent did not answer")),
    }
}

async fn drill(api: &Api, body: Option<&[u8]>, note: Note) -> Result<Answer, Answer> {
    Ok(drill::drill(&api.drills, &object(body)?, note).await)
}

/// The codes and sentences are Patroni's: its leaders go on only if they read exactly this. The position helps them to keep
/// slots of standbys of standbys.
async fn failsafe(api: &Api, body: Option<&[u8]>) -> Result<Answer, Answer> {
    let off = || Answer::sentence(502, "failsafe_mode is not enabled");
    let standing = api.standing();
    if !standing.view.policy.failsafe {
        return Err(off());
    }
    let body = object(body)?;
    let from = body.get("name").and_then(Value::as_str).and_then(|name| name.parse().ok());
    let from: MemberName = from.ok_or_else(|| Answer::sentence(400, "the body names no member"))?;
    let wanted = body.get("promise_ms").and_then(Value::as_u64).map_or(Span::ZERO, Span::from_ms);
    match ask(api, Duration::ZERO, |reply| Command::Consent { from, wanted, reply }).await {
        Some(Consent::Granted { reached }) => {
            let mut answer = Answer::sentence(200, "Accepted");
            answer.headers.extend(reached.map(|reached| ("lsn", reached.0.to_string())));
            Ok(answer)
        }
        Some(Consent::Denied) => Err(Answer::sentence(500, "Running as a leader")),
        Some(Consent::Off) => Err(off()),
        None => Err(Answer::sentence(503, "the agent did not answer")),
    }
}

/// What Python takes for true.
fn truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(members) => !members.is_empty(),
    }
}

/// Hands a write to the loop and waits for its reply, as long as the store may take.
async fn order(api: &Api, command: impl FnOnce(oneshot::Sender<Written>) -> Command) -> Written {
    let patience = api.standing().view.policy.retry_timeout.as_duration();
    ask(api, patience, command).await.unwrap_or(Written::Unanswered)
}

/// `patience` is what the work may take; the agent itself answers within a second.
async fn ask<T>(
    api: &Api,
    patience: Duration,
    command: impl FnOnce(oneshot::Sender<T>) -> Command,
) -> Option<T> {
    let (reply, answered) = oneshot::channel();
    match api.commands.try_send(command(reply)) {
        Ok(()) => (),
        Err(mpsc::error::TrySendError::Full(_)) => {
            tracing::warn!("a REST request was refused: the agent's command queue is full");
            return None;
        }
        Err(mpsc::error::TrySendError::Closed(_)) => return None,
    }
    timeout(patience + AGENT_PATIENCE, answered).await.ok()?.ok()
}

/// The object in a body that may be left out.
fn optional_object(body: Option<&[u8]>) -> Result<Map<String, Value>, Answer> {
    match body {
        None | Some([] | b"{}") => Ok(Map::new()),
        Some(body) => object(Some(body)),
    }
}

/// The object in a body that must have one.
fn object(body: Option<&[u8]>) -> Result<Map<String, Value>, Answer> {
    let Some(body) = body else {
        return Err(Answer::sentence(411, "a body with a Content-Length is required"));
    };
    match serde_json::from_slice(body) {
        Ok(Value::Object(object)) if !object.is_empty() => Ok(object),
        Ok(Value::Object(_)) => Err(Answer::sentence(400, "the body must not be an empty object")),
        Ok(_) => Err(Answer::sentence(400, "the body must be a JSON object")),
        Err(error) => Err(Answer::sentence(400, format!("the body is not JSON: {error}"))),
    }
}
