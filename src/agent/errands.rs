//! Writes to the store that a decision asked for. Each has a deadline and one of five outcomes.

use std::time::Duration;

use serde_json::Value;

use crate::clock;
use crate::decide::mind::ErrandOutcome;
use crate::model::{Errand, MemberName, SessionId, Status};
use crate::store::{Store, StoreError};

/// What an errand needs besides itself.
#[derive(Clone, Debug)]
pub struct ErrandContext {
    pub me: MemberName,
    pub session: Option<SessionId>,
    /// What a leader that gives the lease back last knew of its position.
    pub status: Option<Status>,
    /// Has failsafe mode bound anybody?
    pub bound: bool,
    /// The first dynamic configuration of a new cluster.
    pub first_config: Value,
    pub deadline: Duration,
}

pub async fn carry_out(store: &Store, errand: Errand, context: ErrandContext) -> ErrandOutcome {
    let ErrandContext { me, session, status, bound, first_config, deadline } = context;
    let done = |result: Result<(), StoreError>| result.map(|()| ErrandOutcome::Done);
    let result = match (&errand, session) {
        (Errand::TakeLease { claim }, Some(session)) => {
            (store.take_lease(session, &me, Some(*claim), deadline).await)
                .map(|term| ErrandOutcome::Taken { term })
        }
        (Errand::TakeInitialize, Some(session)) => done(store.take_initialize(session, deadline).await),
        // Without a session there is nothing that the key could hang on; the keeper is opening one.
        (Errand::TakeLease { .. } | Errand::TakeInitialize, None) => return ErrandOutcome::Refused,
        (Errand::FinishInitialize { system }, _) => {
            done(store.finish_initialize(session, *system, &first_config, deadline).await)
        }
        (Errand::AbandonInitialize, Some(session)) => done(store.abandon_initialize(session, deadline).await),
        // The claim has ended with its session.
        (Errand::AbandonInitialize, None) => Ok(ErrandOutcome::Done),
        (Errand::ReleaseLease { term }, _) => {
            done(store.release_lease(&me, *term, status.as_ref(), bound, deadline).await)
        }
        (Errand::MakeDue { request, version }, _) => {
            store.request_failover(request, Some(*version), deadline).await.map(|_| ErrandOutcome::Done)
        }
        (Errand::EndPause { config, intents }, _) => store
            .end_pause(&me, (*config, *intents), &clock::wall_text(), deadline)
            .await
            .map(|_| ErrandOutcome::Done),
        (Errand::WriteSync { term, state, version }, _) => {
            store.put_sync(&me, *term, state, *version, deadline).await.map(|_| ErrandOutcome::Done)
        }
        (Errand::ClearSync { term, version }, _) => {
            done(store.delete_sync(&me, *term, *version, deadline).await)
        }
        (Errand::ClearFailover { version }, _) => done(store.clear_failover(*version, deadline).await),
    };
    result.unwrap_or_else(|error| {
        let outcome = match error {
            StoreError::Conflict { .. } => ErrandOutcome::Conflict,
            StoreError::Unanswered { .. } => ErrandOutcome::Unanswered,
            StoreError::Refused { .. } | StoreError::SessionGone { .. } => ErrandOutcome::Refused,
        };
        if outcome == ErrandOutcome::Conflict {
            // Somebody was faster, which is what races are for.
            tracing::debug!(?errand, "{}", super::sentry::chain(&error));
        } else {
            tracing::warn!(?errand, "{}", super::sentry::chain(&error));
        }
        outcome
    })
}
