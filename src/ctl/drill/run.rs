//! A drill, once it is allowed: the table, the writer, the fault, the wait until the cluster is whole, the look at the rows. Whatever happens,
//! Ctrl-C as well, the table is dropped or named, and what is known is told.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use hyper::Method;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::ledger::{Ledger, Verdict};
use super::picture::{self, Picture};
use super::writer::{self, Table, Writer};
use super::{Fault, Wanted};
use crate::clock;
use crate::ctl::access::Access;
use crate::ctl::caller;
use crate::ctl::cluster::Cluster;
use crate::ctl::console::Lent;
use crate::ctl::document::Document;
use crate::ctl::events;
use crate::ctl::time;
use crate::model::{Moment, Span};
use crate::recorder::timeline::{Story, tell};

/// Rows before the fault, so that it is known what is usual.
const ROWS_BEFORE: usize = 100;
const WARM_WITHIN: Span = Span::from_secs(30);
const LOOK_EVERY: Span = Span::from_ms(250);
/// How long the rows are asked for again and again, and the table is tried to be dropped.
const CLEAN_UP_WITHIN: Span = Span::from_secs(60);
const TRY_AGAIN: Span = Span::from_ms(500);
/// What members have decided before they were asked for the fault is another story; but clocks are apart.
const BEFORE_MS: u64 = 2_000;

/// What came of it, as far as it came.
#[derive(Debug, Default)]
pub struct Course {
    pub began_ms: u64,
    pub ended_ms: u64,
    pub before: Picture,
    pub boot_before: Option<String>,
    /// When the fault was asked for, here and by the wall clock.
    pub asked: Option<(Moment, u64)>,
    /// What was answered to that.
    pub answer: Option<String>,
    pub watched: Watched,
    pub boot_after: Option<String>,
    pub ledger: Ledger,
    /// When the writer ended.
    pub written_until: Moment,
    /// None: the table could not be read.
    pub verdict: Option<Verdict>,
    /// What became of the table.
    pub table: TableFate,
    pub story: Story,
    pub untold: BTreeMap<String, String>,
    /// Why it did not come to its end.
    pub broken_off: Option<String>,
}

/// How the cluster came back.
#[derive(Debug, Default)]
pub struct Watched {
    /// When the fault's trace was seen.
    pub happened: Option<Moment>,
    /// Since when the cluster was seen to be whole.
    pub whole: Option<Moment>,
    pub wanting: Vec<String>,
    pub last: Option<Picture>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TableFate {
    #[default]
    NeverMade,
    Dropped(String),
    /// Its name, and why it is still there.
    Left(String, String),
}

/// Ctrl-C and SIGTERM, which end a drill in good order.
struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    fn listen() -> Result<Interrupts> {
        let listen = |kind| signal(kind).context("listen for signals");
        Ok(Interrupts {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn come(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// An error means that nothing was done.
pub async fn run(access: &Access, wanted: &Wanted<'_>, cluster: &Cluster, target: &str) -> Result<Course> {
    // From here on Ctrl-C is ours.
    let lent = Lent::now();
    let mut interrupts = Interrupts::listen()?;
    let mut course = Course { began_ms: clock::wall_ms(), ..Course::default() };
    let names = cluster.members.iter().map(|member| &member.name);
    course.before = picture::take(access, wanted.scope, names).await?;
    if let Some(member) = cluster.member(target).filter(|_| wanted.fault == Fault::Host) {
        course.boot_before = picture::boot(access, member).await;
    }
    let name = format!("tenure_drill_{}_{}", course.began_ms, std::process::id());
    let connection = writer::connect(&wanted.way).await?;
    let table = Table::make(&connection.client, wanted.schema, name, &caller::by()).await?;
    drop(connection);
    talk(&format!("writing into {} along {}", table.quoted(), wanted.way.told()));
    let writer = Writer::start(&wanted.way, &table);
    let outcome = tokio::select! {
        outcome = attempt(access, wanted, cluster, target, &writer, &mut course) => outcome,
        () = interrupts.come() => Err(anyhow::anyhow!("it was interrupted")),
    };
    course.broken_off = outcome.err().map(|error| format!("{error:#}"));
    if let Some(why) = &course.broken_off {
        talk(&format!("broken off: {why}; cleaning up (once more Ctrl-C leaves the table where it is)"));
    }
    course.ledger = writer.end().await;
    course.written_until = clock::now();
    let quoted = table.quoted();
    course.table = TableFate::Left(quoted.clone(), "nobody has dropped it".to_owned());
    tokio::select! {
        () = settle(wanted, &table, &mut course) => {}
        () = interrupts.come() => {
            course.table = TableFate::Left(quoted, "it was interrupted again".to_owned());
        }
    }
    tokio::select! {
        () = look_back(access, wanted, cluster, target, &mut course) => {}
        () = interrupts.come() => {}
    }
    course.ended_ms = clock::wall_ms();
    drop(lent);
    Ok(course)
}

/// For whoever watches; the report comes in the end.
fn talk(sentence: &str) {
    eprintln!("{}  {sentence}", time::told(clock::wall_ms()));
}

async fn attempt(
    access: &Access,
    wanted: &Wanted<'_>,
    cluster: &Cluster,
    target: &str,
    writer: &Writer,
    course: &mut Course,
) -> Result<()> {
    warm_up(writer).await?;
    let asked = clock::now();
    course.asked = Some((asked, clock::wall_ms()));
    writer.read(|ledger| ledger.mark(asked));
    talk(&format!("{}: asking {target}", wanted.fault.deed(target)));
    let Course { before, answer, watched, .. } = course;
    let inject = async {
        let told = match inject(access, wanted, cluster, target).await {
            Ok(told) => told,
            Err(error) if error.is::<Refused>() => return Err(error),
            // It may have been the last that it did.
            Err(error) => format!("no answer: {error:#}"),
        };
        talk(&told);
        *answer = Some(told);
        Ok(())
    };
    let mark = Mark { asked, target, before };
    tokio::try_join!(inject, until_whole(access, wanted, &mark, writer, watched)).map(drop)
}

/// What is watched for.
struct Mark<'a> {
    asked: Moment,
    target: &'a str,
    before: &'a Picture,
}

async fn warm_up(writer: &Writer) -> Result<()> {
    let give_up = clock::now() + WARM_WITHIN;
    while writer.read(|ledger| ledger.acknowledged()) < ROWS_BEFORE {
        if give_up <= clock::now() {
            let troubles = writer.read(|ledger| ledger.troubles().keys().cloned().collect::<Vec<_>>());
            bail!(
                "{} rows were acknowledged within {WARM_WITHIN}, and {ROWS_BEFORE} are wanted before anything is done: {}",
                writer.read(|ledger| ledger.acknowledged()),
                troubles.join("; ")
            );
        }
        clock::pause(LOOK_EVERY).await;
    }
    Ok(())
}

/// Nothing was done.
#[derive(Debug, thiserror::Error)]
#[error("{member} refuses ({status}): {text}")]
struct Refused {
    member: String,
    status: u16,
    text: String,
}

async fn inject(access: &Access, wanted: &Wanted<'_>, cluster: &Cluster, target: &str) -> Result<String> {
    let member = cluster.member(target).with_context(|| format!("{target} has no record in the store"))?;
    let members = access.members.because(Some(&wanted.reason()));
    let text = |text: &str| Document::text(text);
    let (path, body) = match wanted.fault.drill() {
        None => {
            let candidate = wanted.candidate.map_or(Document::Null, text);
            let body = vec![("leader".to_owned(), text(target)), ("candidate".to_owned(), candidate)];
            ("switchover", body)
        }
        Some(drill) => {
            let body = vec![("fault".to_owned(), text(drill.word())), ("member".to_owned(), text(target))];
            ("drill", body)
        }
    };
    let reply = members.ask(member, Method::POST, Some(path), Some(Document::Map(body))).await?;
    match reply.status {
        200 | 202 => Ok(reply.text),
        // Nobody knows what has become of the request.
        503 if reply.text.contains("unknown") || reply.text.contains("may still") => Ok(reply.text),
        status => Err(Refused { member: target.to_owned(), status, text: reply.text }.into()),
    }
}

/// Until the fault has been seen, everybody is back, and rows come again; and long enough.
async fn until_whole(
    access: &Access,
    wanted: &Wanted<'_>,
    mark: &Mark<'_>,
    writer: &Writer,
    watched: &mut Watched,
) -> Result<()> {
    let Mark { asked, target, before } = *mark;
    let give_up = asked + wanted.within;
    loop {
        // A store that does not answer for a moment may be what the fault has done.
        match picture::take(access, wanted.scope, before.members.keys()).await {
            Ok(now) => {
                if watched.happened.is_none() && now.shows(wanted.fault, target, before) {
                    watched.happened = Some(clock::now());
                    talk("the fault has happened");
                }
                watched.wanting = now.wanting(before);
                watched.last = Some(now);
            }
            Err(error) => watched.wanting = vec![format!("{error:#}")],
        }
        let now = clock::now();
        let whole = watched.happened.is_some() && watched.wanting.is_empty();
        let flows = writer.read(|ledger| watched.happened.is_some_and(|at| ledger.flows_since(at)));
        if !whole {
            watched.whole = None;
        } else if watched.whole.is_none() {
            watched.whole = Some(now);
            talk("the cluster is whole again");
        }
        if whole && flows && asked + wanted.lasts <= now {
            return Ok(());
        }
        if give_up <= now {
            if watched.happened.is_none() {
                watched.wanting.push(wanted.fault.unseen(target));
            }
            if !flows {
                watched.wanting.push("the writer gets no rows acknowledged".to_owned());
            }
            return Ok(());
        }
        clock::pause(LOOK_EVERY).await;
    }
}

/// Which rows are there, and the end of the table. A route that has just changed may fail once or twice.
async fn settle(wanted: &Wanted<'_>, table: &Table, course: &mut Course) {
    let give_up = clock::now() + CLEAN_UP_WITHIN;
    loop {
        match clean_up(wanted, table, course).await {
            Ok(()) => {
                course.table = TableFate::Dropped(table.quoted());
                return;
            }
            Err(error) => {
                course.table = TableFate::Left(table.quoted(), format!("{error:#}"));
                if give_up <= clock::now() {
                    return;
                }
            }
        }
        clock::pause(TRY_AGAIN).await;
    }
}

async fn clean_up(wanted: &Wanted<'_>, table: &Table, course: &mut Course) -> Result<()> {
    let connection = writer::connect(&wanted.way).await?;
    let client = &connection.client;
    if course.verdict.is_none() {
        let stored = table.stored(client).await.context("read the rows")?;
        course.verdict = Some(course.ledger.verdict(&stored));
    }
    table.drop_it(client).await
}

/// Troubles of an hour ago are none of this drill's.
fn only_since(story: &mut Story, since: u64) {
    story.entries.retain(|told| since <= told.at_ms);
    story.changes.retain(|change| since <= change.until_ms);
    for change in &mut story.changes {
        change.stages.retain(|stage| since <= stage.at_ms);
        change.last_words.retain(|told| since <= told.at_ms);
        change.from_ms = change.stages.first().map_or(change.from_ms, |stage| stage.at_ms);
    }
}

/// What the members have decided meanwhile.
async fn look_back(
    access: &Access,
    wanted: &Wanted<'_>,
    cluster: &Cluster,
    target: &str,
    course: &mut Course,
) {
    let since = course.asked.map_or(course.began_ms, |(_, ms)| ms).saturating_sub(BEFORE_MS);
    let now = access.read(wanted.scope).await;
    // All of it: who led before is told by what a member decided then.
    let gathered = events::ask_everybody(access, now.as_ref().unwrap_or(cluster), 0, false).await;
    course.untold = gathered.missing;
    course.story = tell(gathered.entries, &time::told);
    only_since(&mut course.story, since);
    if wanted.fault == Fault::Host
        && let Some(member) = now.as_ref().ok().and_then(|now| now.member(target))
    {
        course.boot_after = picture::boot(access, member).await;
    }
}
