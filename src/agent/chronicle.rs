//! A new leader writes into the store how it came to lead, as its flight recorder has it: that is left when the machines are gone.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::clock;
use crate::model::{Entry, MemberName, Span, Standing, Succession, Term, Timeline, View};
use crate::recorder::Recorder;
use crate::recorder::timeline::tell;
use crate::store::Store;

/// The recorder has written down by then how the promotion ended.
const SETTLED: Span = Span::from_secs(3);
/// What could not be written is tried again after this, so often.
const RETRY: Span = Span::from_secs(5);
const ATTEMPTS: u32 = 12;
/// More than the ring holds: who led before may have been long ago.
const BYTES_MAX: usize = 8 << 20;

/// Works until the loop ends.
pub async fn write_down(
    store: Store,
    recorder: Recorder,
    mut standings: watch::Receiver<Arc<Standing>>,
    within: Duration,
) {
    let mut written: Option<Timeline> = None;
    loop {
        let leading = leads_on(&standings.borrow_and_update().view);
        if let Some((me, term, timeline)) = leading.filter(|(_, _, timeline)| written != Some(*timeline)) {
            written = Some(timeline);
            clock::pause(SETTLED).await;
            let still_leads = || leads_on(&standings.borrow().view).is_some_and(|(_, now, _)| now == term);
            keep_trying(&store, &recorder, &me, (term, timeline), still_leads, within).await;
        }
        if standings.changed().await.is_err() {
            return;
        }
    }
}

/// A leader that can work. One that follows another cluster is no primary, and leads all the same.
fn leads_on(view: &View) -> Option<(MemberName, Term, Timeline)> {
    let lease = view.lease_in_force()?;
    let claim = &view.cluster()?.claim.as_ref()?.value;
    let works = view.postgres.is_primary() || view.policy.follows.is_some();
    (works && claim.by == view.me).then(|| (view.me.clone(), lease.term, claim.timeline))
}

async fn keep_trying(
    store: &Store,
    recorder: &Recorder,
    me: &MemberName,
    (term, timeline): (Term, Timeline),
    still_leads: impl Fn() -> bool,
    within: Duration,
) {
    // A ring that was lost, or has gone round since, tells nothing.
    let (ring, to) = (recorder.clone(), me.clone());
    // A full ring takes its time, and the loop's threads have other things to do.
    let told = tokio::task::spawn_blocking(move || succession(&ring, &to, timeline)).await;
    let Ok(Some(succession)) = told else { return };
    for _ in 0..ATTEMPTS {
        match store.note_succession(me, term, &succession, within).await {
            Ok(()) => return,
            Err(error) => tracing::debug!("{}", super::sentry::chain(&error)),
        }
        // Whoever has led since writes down how.
        if !still_leads() {
            return;
        }
        clock::pause(RETRY).await;
    }
}

fn succession(recorder: &Recorder, me: &MemberName, timeline: Timeline) -> Option<Succession> {
    let page = recorder.page(0, 0, false, BYTES_MAX);
    let entries: Vec<Entry> = page.entries.iter().filter_map(|entry| Entry::read(entry).ok()).collect();
    let story = tell(entries, &clock::text_of);
    let change = story.changes.iter().rev().find(|change| change.timeline == timeline && change.to == *me)?;
    Some(change.succession(&clock::text_of))
}
