//! `tenurectl play`: a whole cluster of real processes on loopback, in one foreground command. Keys break it, the table
//! shows how it mends. Everything lies in one directory, which the next start picks up again.

mod files;
mod ports;
mod screen;
mod world;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use crossterm::event::KeyCode;
use tokio::signal::unix::{SignalKind, signal};

use super::terminal::{self, Input, is_interrupt};
use crate::clock;
use crate::model::Span;
use screen::{Screen, Table};
use world::World;

/// How often the table is drawn again.
const REDRAW: Duration = Duration::from_millis(500);
/// Keys wait here; nobody presses more of them between two drawings.
const KEYS: usize = 16;

#[derive(Debug, clap::Args)]
pub struct PlayArguments {
    /// What the members share
    #[arg(long, value_enum, default_value_t = StoreKind::Etcd)]
    store: StoreKind,
    /// Where everything lies [default: tenure-play-UID in /var/tmp, with the store's name if it is not etcd]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Add N to every port, if the usual ones are taken
    #[arg(long, value_name = "N", default_value_t = 0)]
    shift: u16,
    /// The directory with PostgreSQL's programs [default: the newest installed]
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// Lease time in seconds [default: 5, and 8 on ZooKeeper]
    #[arg(long, value_name = "SECONDS")]
    ttl: Option<u32>,
    /// Stop by itself after this many seconds
    #[arg(long, value_name = "SECONDS")]
    stop_after: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum StoreKind {
    Etcd,
    Zookeeper,
}

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    KillPostgres,
    FreezeOrThaw,
    SwitchOver,
    Stop,
}

pub fn play(arguments: &PlayArguments) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.context("start the runtime")?.block_on(run(arguments))
}

async fn run(arguments: &PlayArguments) -> Result<()> {
    let mut world = World::prepare(arguments)?;
    let outcome = match world.start().await {
        Ok(()) => watch(&mut world, arguments.stop_after).await,
        Err(error) => Err(error),
    };
    eprintln!("stopping; the data stays in {}", world.dir().display());
    world.stop().await;
    outcome
}

/// Draws and obeys until somebody has had enough.
async fn watch(world: &mut World, stop_after: Option<u64>) -> Result<()> {
    let mut screen = Screen::open(terminal::is_there())?;
    let mut keys = screen.is_interactive().then(|| terminal::keyboard(KEYS));
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut redraw = tokio::time::interval(REDRAW);
    let enough = clock::pause(Span::from_secs(stop_after.unwrap_or(u64::from(u32::MAX))));
    tokio::pin!(enough);
    let mut message = String::new();
    loop {
        let wish = tokio::select! {
            _ = redraw.tick() => None,
            Some(input) = terminal::next(keys.as_mut()) => wish(input),
            _ = interrupt.recv() => Some(Wish::Stop),
            _ = terminate.recv() => Some(Wish::Stop),
            () = &mut enough => Some(Wish::Stop),
        };
        match wish {
            Some(Wish::Stop) => break,
            Some(Wish::KillPostgres) => message = world.kill_primary_postgres(),
            Some(Wish::FreezeOrThaw) => message = world.freeze_or_thaw(),
            Some(Wish::SwitchOver) => message = world.begin_switchover(),
            None => {}
        }
        world.check_children()?;
        let rows = world.members().await;
        if let Some(news) = world.news() {
            message = news;
        }
        screen.draw(&Table { rows, connections: world.connections(), message: message.clone() })?;
    }
    Ok(())
}

fn wish(input: Input) -> Option<Wish> {
    let Input::Key(key) = input else { return None };
    match key.code {
        _ if is_interrupt(key) => Some(Wish::Stop),
        KeyCode::Char('k') => Some(Wish::KillPostgres),
        KeyCode::Char('f') => Some(Wish::FreezeOrThaw),
        KeyCode::Char('s') => Some(Wish::SwitchOver),
        KeyCode::Char('q') => Some(Wish::Stop),
        _ => None,
    }
}
