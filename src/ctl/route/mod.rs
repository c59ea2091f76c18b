//! `tenurectl route`: beside HAProxy, it pushes each change of the leader through the runtime socket as soon as the store
//! tells of it. HAProxy's own checks stay as they are: each of them overwrites what was pushed, so a mistake made here lasts
//! until the next check.

mod haproxy;
mod judge;
#[cfg(test)]
mod judge_tests;
mod systemd;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::signal::unix::{SignalKind, signal};

use self::haproxy::{Haproxy, Order, Process, Server};
use self::judge::{Answer, News, Picture, Question, Service, judge, questions};
use super::access::Access;
use super::console::{echo, hinted, warn};
use super::rest::Members;
use crate::clock;
use crate::model::{Moment, Span};
use crate::store::{StoreEvent, Watch};

/// What our example of a configuration has.
const USUAL: [&str; 2] = ["primary=/primary", "replicas=/replica"];
/// So often HAProxy is asked whether it is still the same process.
const LOOK: Span = Span::from_secs(1);
/// An agent answers from memory.
const ASK: Duration = Duration::from_millis(800);
/// How long somebody who should say yes is asked again, and how often. After that it is for the checks to find out.
const SOON: Span = Span::from_secs(10);
const SOON_EVERY: Span = Span::from_ms(50);
const LATER: Span = Span::from_secs(60);
const LATER_EVERY: Span = Span::from_ms(500);

#[derive(Debug, clap::Args)]
pub struct RouteArguments {
    /// The cluster [default: the configured scope]
    cluster_name: Option<String>,
    /// HAProxy's runtime socket, of level admin
    #[arg(long, value_name = "PATH", default_value = "/run/haproxy/admin.sock")]
    socket: PathBuf,
    /// A backend of HAProxy's and the path that its checks ask for; may be repeated [default: those of primary=/primary and
    /// replicas=/replica that there are]
    #[arg(long = "backend", value_name = "BACKEND=/PATH")]
    backends: Vec<String>,
    /// Look and push once, then end
    #[arg(long)]
    once: bool,
    /// Print what would be pushed, and push nothing
    #[arg(long)]
    dry_run: bool,
}

type Asking = Pin<Box<dyn Future<Output = (Question, Answer)>>>;

struct Router {
    haproxy: Haproxy,
    services: Vec<Service>,
    /// Named by the operator, so it matters if they are not there.
    chosen: bool,
    members: Members,
    once: bool,
    dry_run: bool,
    /// The process that has been told everything so far; none if something went wrong.
    told: Option<Process>,
    picture: Option<Picture>,
    news: News,
    since: Moment,
    answers: BTreeMap<Question, Answer>,
    asking: FuturesUnordered<Asking>,
    /// Whose sessions were ended since the leader or HAProxy changed.
    ended: BTreeSet<(String, String)>,
    /// What a dry run has said already.
    said: BTreeSet<String>,
    trouble: Troubles,
}

/// What is wrong, said when it begins and when it ends.
#[derive(Debug, Default)]
struct Troubles {
    store: Option<String>,
    haproxy: Option<String>,
}

pub async fn route(access: &Access, arguments: &RouteArguments) -> Result<()> {
    let scope = access.scope(arguments.cluster_name.as_deref())?;
    let chosen = !arguments.backends.is_empty();
    let services: Result<Vec<Service>> = if chosen {
        arguments.backends.iter().map(|text| Service::parse(text)).collect()
    } else {
        USUAL.iter().map(|text| Service::parse(text)).collect()
    };
    let mut router = Router {
        haproxy: Haproxy::at(arguments.socket.clone()),
        services: services?,
        chosen,
        members: Members { patience: ASK, ..access.members.clone() },
        once: arguments.once,
        dry_run: arguments.dry_run,
        told: None,
        picture: None,
        news: News::Other,
        since: clock::now(),
        answers: BTreeMap::new(),
        asking: FuturesUnordered::new(),
        ended: BTreeSet::new(),
        said: BTreeSet::new(),
        trouble: Troubles::default(),
    };
    let mut watch = access.store(&scope)?.watch();
    if arguments.once {
        return router.once(&mut watch, access).await;
    }
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    tokio::select! {
        outcome = router.run(&mut watch) => outcome,
        _ = terminate.recv() => Ok(()),
    }
}

impl Router {
    /// Never ends by itself.
    async fn run(&mut self, watch: &mut Watch) -> Result<()> {
        let mut look = tokio::time::interval(LOOK.as_duration());
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut systemd = systemd::Line::open();
        loop {
            tokio::select! {
                event = watch.next() => self.heard(event).await?,
                Some((question, answer)) = self.asking.next() => self.answered(question, answer).await?,
                _ = look.tick() => self.look().await?,
            }
            systemd.turned(&self.status());
        }
    }

    /// One picture, one answer of everybody.
    async fn once(&mut self, watch: &mut Watch, access: &Access) -> Result<()> {
        let event = tokio::time::timeout(access.store_patience(), watch.next()).await;
        let event = event.with_context(|| access.named_store())?;
        if let StoreEvent::Silent { error } = event {
            return Err(error).with_context(|| access.named_store());
        }
        self.heard(event).await?;
        self.look().await?;
        while let Some((question, answer)) = self.asking.next().await {
            self.answered(question, answer).await?;
        }
        match self.trouble.haproxy.take() {
            Some(trouble) => Err(hinted(
                trouble,
                "HAProxy needs `stats socket PATH mode 660 level admin`; name it with --socket PATH",
            )),
            None => Ok(()),
        }
    }

    async fn heard(&mut self, event: StoreEvent) -> Result<()> {
        match event {
            StoreEvent::Silent { error } => {
                self.trouble.store(Some(error.to_string()));
                Ok(())
            }
            StoreEvent::Snapshot { cluster, .. } => {
                self.trouble.store(None);
                let picture = Picture::of(&cluster);
                let Some(before) = self.picture.replace(picture.clone()) else {
                    return self.begin(News::Other).await;
                };
                if before.holder != picture.holder {
                    self.ended.clear();
                    return self.begin(News::LeaderChanged).await;
                }
                if before == picture { Ok(()) } else { self.begin(self.news).await }
            }
        }
    }

    /// Another process of HAProxy has to be told everything anew.
    async fn look(&mut self) -> Result<()> {
        match self.haproxy.process().await {
            Ok(process) if self.told == Some(process) => Ok(()),
            Ok(process) => {
                self.trouble.haproxy(None);
                self.told = Some(process);
                self.ended.clear();
                // Who knows how long ago the store has spoken.
                self.begin(News::Other).await
            }
            Err(error) => {
                self.failed(&error);
                Ok(())
            }
        }
    }

    /// Says what can be said at once, and asks everybody.
    async fn begin(&mut self, news: News) -> Result<()> {
        self.news = news;
        self.since = clock::now();
        self.answers.clear();
        self.asking.clear();
        let Some(servers) = self.push().await? else { return Ok(()) };
        let Some(picture) = &self.picture else { return Ok(()) };
        for question in questions(picture, &self.services, &servers) {
            let asking = self.ask(question, Span::ZERO);
            self.asking.push(asking);
        }
        Ok(())
    }

    async fn answered(&mut self, question: Question, answer: Answer) -> Result<()> {
        let (name, path) = &question;
        let awaited = self.picture.as_ref().is_some_and(|picture| {
            self.services.iter().any(|service| service.path == *path && service.awaits(picture, name))
        });
        if awaited
            && answer != Answer::Yes
            && !self.once
            && let Some(pause) = again_after(clock::now().since(self.since))
        {
            let asking = self.ask(question.clone(), pause);
            self.asking.push(asking);
        }
        if self.answers.insert(question, answer) != Some(answer) {
            self.push().await?;
        }
        Ok(())
    }

    fn ask(&self, question: Question, pause: Span) -> Asking {
        let (name, path) = &question;
        let url = self.picture.as_ref().and_then(|picture| picture.members.get(name));
        let url = url.map(|member| member.api_url.clone()).unwrap_or_default();
        let (members, path) = (self.members.clone(), path.clone());
        Box::pin(async move {
            clock::pause(pause).await;
            let answer = match members.check(&url, &path).await {
                Ok(200) => Answer::Yes,
                Ok(_) => Answer::No,
                Err(_) => Answer::Silence,
            };
            (question, answer)
        })
    }

    /// Brings HAProxy to what is known now. None: it could not be reached.
    async fn push(&mut self) -> Result<Option<Vec<Server>>> {
        let Some(picture) = self.picture.clone() else { return Ok(None) };
        let servers = match self.haproxy.servers().await {
            Ok(servers) => servers,
            Err(error) => {
                self.failed(&error);
                return Ok(None);
            }
        };
        self.check_backends(&servers);
        for push in judge(&picture, self.news, &self.services, &servers, &self.answers) {
            let server = &push.server;
            if push.order == Order::EndSessions
                && !self.ended.insert((server.backend.clone(), server.name.clone()))
            {
                continue;
            }
            let line = format!("{}: {}", push.order.command(server), push.why);
            if self.dry_run {
                if self.said.insert(line.clone()) {
                    echo(line)?;
                }
                continue;
            }
            match self.haproxy.give(server, push.order).await {
                Ok(()) => echo(line)?,
                Err(error) => self.failed(&error),
            }
        }
        Ok(Some(servers))
    }

    fn check_backends(&mut self, servers: &[Server]) {
        let there = |service: &Service| servers.iter().any(|server| server.backend == service.backend);
        let missing: Vec<&str> = self
            .services
            .iter()
            .filter(|service| !there(service))
            .map(|service| service.backend.as_str())
            .collect();
        if !missing.is_empty() && (self.chosen || missing.len() == self.services.len()) {
            let trouble = format!("HAProxy has no server in a backend of this name: {}", missing.join(", "));
            self.trouble.haproxy(Some(trouble));
        }
    }

    /// The next look finds a process that has not been told everything.
    fn failed(&mut self, error: &anyhow::Error) {
        self.told = None;
        self.trouble.haproxy(Some(format!("{error:#}")));
    }

    fn status(&self) -> String {
        if let Some(trouble) = self.trouble.haproxy.as_ref().or(self.trouble.store.as_ref()) {
            return format!("leaves everything to HAProxy's checks: {trouble}");
        }
        match self.picture.as_ref().map(Picture::holder_name) {
            None => "waits for the store".to_owned(),
            Some(None) => "nobody leads".to_owned(),
            Some(Some(name)) => format!("{name} leads"),
        }
    }
}

/// When to ask again, so long after the change.
fn again_after(passed: Span) -> Option<Span> {
    if passed < SOON { Some(SOON_EVERY) } else { (passed < LATER).then_some(LATER_EVERY) }
}

impl Troubles {
    fn store(&mut self, now: Option<String>) {
        tell("the store", &mut self.store, now);
    }

    fn haproxy(&mut self, now: Option<String>) {
        tell("HAProxy", &mut self.haproxy, now);
    }
}

/// One line when a trouble begins, changes or ends.
fn tell(whom: &str, before: &mut Option<String>, now: Option<String>) {
    match (&before, &now) {
        (_, Some(trouble)) if before.as_ref() != Some(trouble) => {
            warn(format!("leaving everything to HAProxy's checks: {trouble}"));
        }
        (Some(_), None) => eprintln!("{whom} answers again"),
        (Some(_), Some(_)) | (None, None | Some(_)) => {}
    }
    *before = now;
}
