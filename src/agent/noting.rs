//! Notes changes of the configuration that nobody has noted: those of Patroni's tools and members, or of a hand in the store; and
//! takes away what has come to its end by itself. It is the leader's work, or anybody's where a member of Patroni's leads or nobody does: the store takes one note only.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;

use crate::clock;
use crate::model::{Intents, Span, Standing, View, fingerprint, is_paused};
use crate::store::{Amendment, Seen, Store, StoreError};

/// A note that could not be written is tried again after this.
const RETRY: Span = Span::from_secs(2);

/// Works until the loop ends.
pub async fn note_changes(store: Store, mut standings: watch::Receiver<Arc<Standing>>, within: Duration) {
    let mut seen_version = None;
    // What the configuration was when a note was last in order.
    let mut before: Option<Value> = None;
    loop {
        let standing = Arc::clone(&standings.borrow_and_update());
        let config = standing.view.cluster().and_then(|cluster| cluster.config.as_ref());
        let versions = config.map(|config| (config.version, intents_version(&standing.view)));
        if let Some(config) = config.filter(|_| versions != seen_version) {
            if is_in_order(&standing.view, &config.value) {
                before = Some(config.value.clone());
                seen_version = versions;
            } else if is_ours_to_note(&standing.view)
                && let Err(error) = store.catch_up(before.as_ref(), &clock::wall_text(), within).await
            {
                tracing::debug!("{}", super::sentry::chain(&error));
                clock::pause(RETRY).await;
            }
        }
        if is_ours_to_note(&standing.view)
            && intents(&standing.view).is_some_and(|intents| intents.without_ended(has_come).is_some())
            && let Err(error) = take_away(&store, within).await
        {
            tracing::debug!("{}", super::sentry::chain(&error));
            clock::pause(RETRY).await;
        }
        if standings.changed().await.is_err() {
            return;
        }
    }
}

async fn take_away(store: &Store, within: Duration) -> Result<(), StoreError> {
    let edit = |seen: &Seen| {
        let intents = seen.intents().without_ended(has_come);
        Ok(Amendment { config: None, intents })
    };
    store.amend("take away what has ended", edit, within).await.map(drop)
}

fn is_in_order(view: &View, config: &Value) -> bool {
    intents(view).is_some_and(|intents| {
        let over = intents.pause.is_some() && !is_paused(config);
        !over && intents.noted.as_ref() == Some(&fingerprint(config))
    })
}

fn intents_version(view: &View) -> Option<i64> {
    Some(view.cluster()?.intents.as_ref()?.version)
}

fn intents(view: &View) -> Option<&Intents> {
    Some(&view.cluster()?.intents.as_ref()?.value)
}

fn is_ours_to_note(view: &View) -> bool {
    !view.cut_off() && view.cluster().is_some_and(|cluster| cluster.falls_to(&view.me))
}

/// By the wall clock. A time that nobody can read has come.
pub(super) fn has_come(until: &str) -> bool {
    until.parse::<jiff::Timestamp>().map_or(true, |until| until <= clock::wall())
}
