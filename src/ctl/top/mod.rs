//! `top`: the cluster live on a terminal, with single keys for what is done most. `gather` looks at the cluster, `state` is what is shown
//! and what keys do to it, `draw` makes lines of that.

mod draw;
mod gather;
mod state;

use std::future::Future;
use std::io::stdout;
use std::pin::Pin;

use anyhow::{Context, Result, bail};
use hyper::Method;
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;

use super::access::Access;
use super::cluster::Cluster;
use super::console::hinted;
use super::document::Document;
use super::rest::Reply;
use super::terminal::{self, Input, Taken};
use super::{pause, switch};
use crate::clock;
use crate::model::Span;
use draw::{Looks, draw};
use gather::Gatherer;
use state::{Act, Answer, Screen};

/// Keys wait here; nobody presses more of them between two drawings.
const KEYS: usize = 16;
/// What is noted of whatever is done from here.
const REASON: &str = "a key in tenurectl top";
/// Bars move so often at most.
const REDRAW: Span = Span::from_ms(500);

#[derive(Debug, clap::Args)]
pub struct TopArguments {
    /// The cluster [default: the configured scope]
    cluster_name: Option<String>,
    /// Seconds between two looks at the cluster; more of them for a slow line
    #[arg(short, long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=3600))]
    interval: u16,
    /// Only look
    #[arg(long)]
    read_only: bool,
    /// Nothing beyond ASCII [default: where the locale is not UTF-8]
    #[arg(long)]
    ascii: bool,
    /// No colours [default: where NO_COLOR is set or TERM is dumb or vt100]
    #[arg(long)]
    no_colour: bool,
}

pub async fn top(access: &Access, arguments: &TopArguments) -> Result<()> {
    let scope = access.scope(arguments.cluster_name.as_deref())?;
    if !terminal::is_there() {
        let hint = "for scripts there are `tenurectl list -f json` and `tenurectl explain -f json`";
        return Err(hinted("top needs a terminal", hint));
    }
    let gatherer = Gatherer::new(access, scope.clone())?;
    let taken = Taken::now()?;
    let outcome = watch(access, arguments, gatherer, scope).await;
    drop(taken);
    outcome
}

type Acting<'a> = Pin<Box<dyn Future<Output = (Act, Result<Reply>)> + 'a>>;

async fn watch(
    access: &Access,
    arguments: &TopArguments,
    gatherer: Gatherer<'_>,
    scope: String,
) -> Result<()> {
    let mut terminal = Terminal::new(CrosstermBackend::new(stdout())).context("prepare the terminal")?;
    let mut keys = terminal::keyboard(KEYS);
    let looks = looks(arguments);
    let interval = Span::from_secs(u64::from(arguments.interval));
    let redraw = REDRAW.max(interval.scaled(1, 4));
    let mut screen = Screen { read_only: arguments.read_only, ..Screen::default() };
    screen.look.cluster.scope = scope;
    let mut acting: Option<Acting> = None;
    let mut looking = Box::pin(gatherer.look());
    let mut waiting: Option<Gatherer> = None;
    loop {
        terminal.draw(|frame| draw(frame, &screen, looks, clock::now())).context("draw")?;
        let next_look = interval.minus(screen.age(clock::now()));
        if next_look == Span::ZERO
            && let Some(gatherer) = waiting.take()
        {
            looking = Box::pin(gatherer.look());
        }
        let idle = if waiting.is_some() { redraw.min(next_look) } else { redraw };
        tokio::select! {
            input = keys.recv() => match input {
                // Nobody sits there any more.
                None => bail!("the terminal has gone"),
                Some(Input::Resized) => {}
                Some(Input::Key(key)) => match screen.key(key) {
                    Answer::Nothing => {}
                    Answer::Quit => return Ok(()),
                    Answer::Do(act) => {
                        screen.under_way = Some(act.shown());
                        acting = Some(Box::pin(carry_out(access, screen.look.cluster.clone(), act)));
                    }
                },
            },
            (gatherer, look) = &mut looking, if waiting.is_none() => {
                screen.take(look);
                waiting = Some(gatherer);
            }
            (act, outcome) = ended(acting.as_mut()) => {
                acting = None;
                screen.under_way = None;
                screen.message = told(&act, outcome);
            }
            () = clock::pause(idle) => {}
        }
    }
}

/// What this terminal can show, unless the operator says otherwise.
fn looks(arguments: &TopArguments) -> Looks {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(variable).unwrap_or_default();
    let is_utf8 = locale.to_ascii_lowercase().replace('-', "").ends_with("utf8");
    let is_plain = variable("NO_COLOR").is_some()
        || variable("TERM").is_none_or(|term| matches!(term.as_str(), "dumb" | "vt100" | "vt220"));
    Looks { colour: !arguments.no_colour && !is_plain, unicode: !arguments.ascii && is_utf8 }
}

async fn ended(acting: Option<&mut Acting<'_>>) -> (Act, Result<Reply>) {
    match acting {
        Some(acting) => acting.await,
        None => std::future::pending().await,
    }
}

async fn carry_out(access: &Access, cluster: Cluster, act: Act) -> (Act, Result<Reply>) {
    let reason = Some(REASON);
    let reply = match &act {
        Act::Switchover { from, to } => switch::hand_over(access, &cluster, from, to.clone(), REASON).await,
        Act::Pause => pause::ask(access, &cluster, true, reason, &mut |_, _| {}).await,
        Act::Resume => pause::ask(access, &cluster, false, reason, &mut |_, _| {}).await,
        Act::Restart(name) => ask_one(access, &cluster, name, "restart", Document::Map(Vec::new())).await,
        Act::Reinit(name) => {
            let gently = Document::Map(vec![("force".to_owned(), Document::Bool(false))]);
            ask_one(access, &cluster, name, "reinitialize", gently).await
        }
    };
    (act, reply)
}

async fn ask_one(
    access: &Access,
    cluster: &Cluster,
    name: &str,
    what: &str,
    body: Document,
) -> Result<Reply> {
    let member = cluster.member(name).with_context(|| format!("{name} is not there any more"))?;
    access.members.because(Some(REASON)).ask(member, Method::POST, Some(what), Some(body)).await
}

fn told(act: &Act, outcome: Result<Reply>) -> String {
    let act = act.shown();
    match outcome {
        Ok(Reply { status: 200 | 202, text }) => {
            // The whole configuration answers a pause.
            let text = if text.starts_with('{') { "done" } else { text.trim() };
            format!("{act}: {text}")
        }
        Ok(Reply { status, text }) => format!("{act}: REFUSED ({status}): {}", text.trim()),
        Err(error) => format!("{act}: FAILED: {error:#}"),
    }
}
