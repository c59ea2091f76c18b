//! Runs the operator's callbacks, one at a time: a new one ends the one before it, with everything that it has started.
//! Reloads have a place of their own, so that they end no news of another kind. Nobody waits for a callback.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::decide::mind::Call;
use crate::model::{Occasion, Span};
use crate::postgres::{InstanceSettings, run_hook};

/// A callback that takes longer hangs.
const PATIENCE: Span = Span::from_secs(600);
/// For the last one, when the agent ends.
pub const LAST_PATIENCE: Duration = Duration::from_secs(10);

pub struct Callbacks {
    pub settings: watch::Receiver<Arc<InstanceSettings>>,
    pub calls: mpsc::Receiver<Call>,
}

/// At most one callback.
#[derive(Default)]
struct Place(JoinSet<()>);

impl Callbacks {
    /// Works until nobody calls any more, and then for as long as the last ones take.
    pub async fn work(mut self) {
        let (mut news, mut reloads) = (Place::default(), Place::default());
        while let Some(call) = self.calls.recv().await {
            let place = match call.occasion {
                Occasion::Reload => &mut reloads,
                Occasion::Start | Occasion::Stop | Occasion::Restart | Occasion::RoleChange => &mut news,
            };
            let settings = self.settings.borrow().clone();
            if settings.hooks.callbacks.contains_key(&call.occasion) {
                place.take(settings, call).await;
            }
        }
        let last = async {
            while news.0.join_next().await.is_some() {}
            while reloads.0.join_next().await.is_some() {}
        };
        if tokio::time::timeout(LAST_PATIENCE, last).await.is_err() {
            tracing::warn!("a callback did not end in time and is killed");
        }
    }
}

impl Place {
    async fn take(&mut self, settings: Arc<InstanceSettings>, call: Call) {
        while self.0.try_join_next().is_some() {}
        if !self.0.is_empty() {
            tracing::warn!("the callback before {} still runs and is killed", call.occasion.name());
            self.0.shutdown().await;
        }
        self.0.spawn(async move {
            let name = call.occasion.name();
            let Some(line) = settings.hooks.callbacks.get(&call.occasion) else { return };
            let arguments = [name, call.role_word(), settings.scope.as_str()];
            tracing::info!(role = call.role_word(), "calling {name}");
            if let Err(error) = run_hook(&settings, name, line, &arguments, PATIENCE).await {
                tracing::warn!("{error}");
            }
        });
    }
}
