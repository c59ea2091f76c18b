//! Writes to the store that an operator asked for through REST. They wish; the rules decide what comes of it.

use std::time::Duration;

use tokio::sync::mpsc;

use crate::api::{Command, Written};
use crate::store::{Expect, Store, StoreError};

/// Carries out one request after the other until nobody can ask any more.
pub async fn serve(store: Store, mut commands: mpsc::Receiver<Command>, within: Duration) {
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
            Command::WriteConfig { config, if_version, reply } => {
                let expect = if_version.map_or(Expect::Anything, Expect::Version);
                let _ = reply.send(written(store.put_config(&config, expect, within).await));
            }
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
