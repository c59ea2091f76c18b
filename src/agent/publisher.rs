//! Writes what this member publishes: its record, and as leader the status and the history. The latest wins; what did not
//! arrive is written again. Positions alone are not worth a write each time that they move.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::watch;

use crate::clock;
use crate::decide::publish::differs_in_substance;
use crate::model::{HistoryLine, MemberName, MemberRecord, Moment, SessionId, Span, Status, Term};
use crate::store::{Store, StoreError};

/// A write that failed is tried again after this.
const RETRY: Span = Span::from_secs(1);
/// With nothing to publish there is nothing to do but to wait for news.
const IDLE: Span = Span::from_secs(60);

/// What should stand in the store now.
#[derive(Clone, Debug, PartialEq)]
pub struct Publication {
    pub session: SessionId,
    /// Only a leader publishes status and history.
    pub term: Option<Term>,
    pub record: MemberRecord,
    /// Our record as the last snapshot has it.
    pub standing: Option<MemberRecord>,
    pub status: Option<Status>,
    pub history: Option<Vec<HistoryLine>>,
    /// Who takes part in failsafe mode, if that is news.
    pub failsafe: Option<BTreeMap<MemberName, String>>,
    /// How often positions are worth a write.
    pub positions_every: Span,
}

#[derive(Default)]
struct Written {
    record: Option<(SessionId, MemberRecord)>,
    record_at: Moment,
    status: Option<Status>,
    status_at: Moment,
}

/// Ends when the sender is gone.
pub async fn publish(
    store: Store,
    me: MemberName,
    mut wanted: watch::Receiver<Option<Publication>>,
    deadline: Duration,
) {
    let mut written = Written::default();
    loop {
        let publication = wanted.borrow_and_update().clone();
        let pause = match publication {
            None => IDLE,
            Some(publication) => match write(&store, &me, &publication, &mut written, deadline).await {
                Ok(()) => publication.positions_every,
                Err(error) => {
                    tracing::debug!(%error, "publish");
                    RETRY
                }
            },
        };
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = clock::pause(pause) => {}
        }
    }
}

async fn write(
    store: &Store,
    me: &MemberName,
    publication: &Publication,
    written: &mut Written,
    deadline: Duration,
) -> Result<(), StoreError> {
    let now = clock::now();
    let due = |at: Moment| publication.positions_every <= now.since(at);
    let record_is_news = match (&written.record, &publication.standing) {
        (Some((session, record)), Some(standing)) if *session == publication.session => {
            // An earlier write, given up because its answer was late, may have arrived after the last one.
            let overtaken = differs_in_substance(standing, &publication.record);
            differs_in_substance(record, &publication.record)
                || ((*record != publication.record || overtaken) && due(written.record_at))
        }
        (Some(_) | None, Some(_) | None) => true,
    };
    if let (Some(history), Some(term)) = (&publication.history, publication.term) {
        store.put_history(me, term, history, deadline).await?;
    }
    if let (Some(failsafe), Some(term)) = (&publication.failsafe, publication.term) {
        store.put_failsafe(me, term, failsafe, deadline).await?;
    }
    if record_is_news {
        store.put_member(publication.session, me, &publication.record, deadline).await?;
        written.record = Some((publication.session, publication.record.clone()));
        written.record_at = now;
    }
    if let (Some(status), Some(term)) = (&publication.status, publication.term)
        && written.status.as_ref() != Some(status)
        && (written.status.is_none() || due(written.status_at))
    {
        store.put_status(me, term, status, deadline).await?;
        written.status = Some(status.clone());
        written.status_at = now;
    }
    Ok(())
}
