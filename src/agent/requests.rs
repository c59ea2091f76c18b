//! Writes to the store that an operator asked for through REST. They wish; the rules decide what comes of it.

use std::time::Duration;

use tokio::sync::mpsc;

use crate::api::{Command, Written};
use crate::store::{Expect, Store, StoreError};

/// Where those requests go that are not for the store.
pub struct Inside {
    /// To the loop.
    pub asks: mpsc::Sender<Command>,
    pub reload: mpsc::Sender<()>,
}

/// Writes that wait for one another: more than an operator can want at once.
const WRITES: usize = 16;

/// Carries out requests until nobody can ask any more: those for the store one after the other, however long it takes to
/// answer, and those for the loop at once. A leader that asks for consent asks because the store is silent.
pub async fn serve(store: Store, commands: mpsc::Receiver<Command>, inside: Inside, within: Duration) {
    let (writes, written) = mpsc::channel(WRITES);
    tokio::join!(sort(commands, inside, writes), write(store, written, within));
}

async fn sort(mut commands: mpsc::Receiver<Command>, inside: Inside, writes: mpsc::Sender<Command>) {
    while let Some(command) = commands.recv().await {
        match command {
            Command::Reload => {
                // One that waits already will read the same files.
                let _ = inside.reload.try_send(());
            }
            command @ (Command::Ask { .. }
            | Command::Consent { .. }
            | Command::ScheduleRestart { .. }
            | Command::DeleteRestart { .. }) => {
                // What does not fit is dropped, and whoever asked hears that nobody answered.
                if inside.asks.try_send(command).is_err() {
                    tracing::warn!("a REST request was dropped: the loop has too many of them");
                }
            }
            command @ (Command::RequestFailover { .. }
            | Command::ClearFailover { .. }
            | Command::WriteConfig { .. }) => {
                if writes.try_send(command).is_err() {
                    tracing::warn!("a REST request was dropped: too many writes wait for the store");
                }
            }
        }
    }
}

async fn write(store: Store, mut commands: mpsc::Receiver<Command>, within: Duration) {
    while let Some(command) = commands.recv().await {
        // Whoever has stopped waiting for the answer will not miss it.
        match command {
            Command::RequestFailover { request, reply } => {
                let result = store.request_failover(&request, None, within).await;
                let _ = reply.send(written(result));
            }
            Command::ClearFailover { version, reply } => {
                let _ = reply.send(written(store.clear_failover(version, within).await));
            }
            Command::WriteConfig { config, if_version, note, reply } => {
                let expect = if_version.map_or(Expect::Anything, Expect::Version);
                let _ = reply.send(written(store.change_config(&config, expect, &note, within).await));
            }
            Command::Ask { .. }
            | Command::Consent { .. }
            | Command::ScheduleRestart { .. }
            | Command::DeleteRestart { .. }
            | Command::Reload => {}
        }
    }
}

fn written<T>(result: Result<T, StoreError>) -> Written {
    match result {
        Ok(_) => Written::Done,
        Err(StoreError::Conflict { .. }) => Written::Conflict,
        Err(
            error @ (StoreError::Unanswered { .. }
            | StoreError::Refused { .. }
            | StoreError::SessionGone { .. }),
        ) => {
            tracing::warn!("{}", super::sentry::chain(&error));
            Written::Unanswered
        }
    }
}
