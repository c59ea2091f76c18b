//! The stream of snapshots: the latest one wins, nothing piles up, and time never runs backwards in it.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::format::read::{Reported, cluster};
use super::kv::{Entry, StoreId};
use super::{Place, StoreError};
use crate::model::Cluster;

/// So many readings in a row from before the last snapshot are taken for a lagging server. If all say the same for this
/// long, the store has been restored from a backup, and an agent that went on waiting would wait for ever.
const BACKWARDS_MAX: u32 = 20;

#[derive(Clone, Debug)]
pub enum StoreEvent {
    /// The whole cluster as of a revision of the store. A write of ours with a higher revision is not in it yet.
    Snapshot { cluster: Arc<Cluster>, revision: i64 },
    /// The last snapshot may be out of date. The next snapshot says that the store speaks again.
    Silent { error: StoreError },
}

/// The receiving end. The task that watches ends with it.
#[derive(Debug)]
pub struct Watch {
    news: watch::Receiver<News>,
    delivered: u64,
    silence_told: bool,
    task: JoinHandle<()>,
}

/// The sending end, for the adapters.
#[derive(Debug)]
pub(super) struct Publisher {
    place: Place,
    news: watch::Sender<News>,
    reported: Reported,
    last: Option<(StoreId, i64)>,
    backwards: u32,
}

#[derive(Debug, Default)]
struct News {
    /// Counts what must be told: snapshots that differ, and the ends of silences.
    number: u64,
    snapshot: Option<(Arc<Cluster>, i64)>,
    silence: Option<StoreError>,
}

impl Watch {
    /// Starts the task that watches.
    pub(super) fn start<Task>(place: &Place, watching: impl FnOnce(Publisher) -> Task) -> Watch
    where
        Task: Future<Output = ()> + Send + 'static,
    {
        let (sender, receiver) = watch::channel(News::default());
        let publisher = Publisher {
            place: place.clone(),
            news: sender,
            reported: Reported::default(),
            last: None,
            backwards: 0,
        };
        #[expect(clippy::disallowed_methods, reason = "it ends with the watch that holds its handle")]
        let task = tokio::spawn(watching(publisher));
        Watch { news: receiver, delivered: 0, silence_told: false, task }
    }

    /// The next event. A snapshot that was overtaken by a newer one is never seen; a silence is told once. Nothing is lost
    /// if the future is dropped.
    pub async fn next(&mut self) -> StoreEvent {
        loop {
            {
                let news = self.news.borrow_and_update();
                if let Some((cluster, revision)) = &news.snapshot
                    && self.delivered < news.number
                {
                    self.delivered = news.number;
                    self.silence_told = false;
                    return StoreEvent::Snapshot { cluster: cluster.clone(), revision: *revision };
                }
                if let Some(error) = &news.silence
                    && !self.silence_told
                {
                    self.silence_told = true;
                    return StoreEvent::Silent { error: error.clone() };
                }
            }
            if self.news.changed().await.is_err() {
                // Only a panic in the watching task leads here: the cluster cannot be seen any more.
                if self.silence_told {
                    return std::future::pending().await;
                }
                self.silence_told = true;
                let error = StoreError::unanswered("watch the cluster", "the watching task has ended");
                return StoreEvent::Silent { error };
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Publisher {
    /// May a reading of this revision follow what was published last?
    pub(super) fn admits(&mut self, store: StoreId, revision: i64) -> bool {
        let backwards = self.last.is_some_and(|(known, last)| known == store && revision < last);
        if !backwards {
            self.backwards = 0;
            return true;
        }
        self.backwards += 1;
        if self.backwards < BACKWARDS_MAX {
            return false;
        }
        tracing::warn!(
            revision,
            "the store has gone back in time, as if restored from a backup; going along"
        );
        self.backwards = 0;
        self.last = None;
        true
    }

    /// Makes a snapshot of what was read, and tells it if it differs from the last one or ends a silence.
    pub(super) fn publish<'entry>(
        &mut self,
        store: StoreId,
        revision: i64,
        entries: impl IntoIterator<Item = &'entry Entry>,
    ) {
        self.last = Some((store, revision));
        let (cluster, oddities) = cluster(&self.place, entries);
        self.reported.warn(oddities);
        self.news.send_if_modified(|news| {
            let known = news.snapshot.as_ref().is_some_and(|(known, _)| **known == cluster);
            if known && news.silence.is_none() {
                return false;
            }
            news.number += 1;
            news.snapshot = Some((Arc::new(cluster), revision));
            news.silence = None;
            true
        });
    }

    pub(super) fn silent(&mut self, error: StoreError) {
        self.news.send_if_modified(|news| {
            let first = news.silence.is_none();
            news.silence = Some(error);
            first
        });
    }

    /// Nobody listens any more.
    pub(super) async fn abandoned(&self) {
        self.news.closed().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORE: StoreId = StoreId(1);

    fn entry(path: &str, value: &str, version: i64) -> Entry {
        Entry { path: path.to_owned(), value: value.into(), created: version, version, session: None }
    }

    fn silence() -> StoreError {
        StoreError::unanswered("watch the cluster", "a test")
    }

    /// A watch whose publisher the test holds.
    async fn watch() -> (Watch, Publisher) {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let watch = Watch::start(&Place::new("service", "batman"), |publisher| async move {
            sender.send(publisher).expect("the test takes it");
        });
        (watch, receiver.await.expect("the task gives it"))
    }

    async fn revision(watch: &mut Watch) -> Option<i64> {
        match watch.next().await {
            StoreEvent::Snapshot { revision, .. } => Some(revision),
            StoreEvent::Silent { .. } => None,
        }
    }

    #[tokio::test]
    async fn the_latest_snapshot_wins_and_comes_before_the_silence_that_followed_it() {
        let (mut watch, mut publisher) = watch().await;
        publisher.publish(STORE, 1, &[]);
        publisher.publish(STORE, 2, &[entry("/service/batman/leader", "a", 2)]);
        publisher.silent(silence());
        publisher.silent(silence());
        assert_eq!(revision(&mut watch).await, Some(2));
        assert_eq!(revision(&mut watch).await, None);
        publisher.publish(STORE, 3, &[entry("/service/batman/leader", "a", 2)]);
        assert_eq!(
            revision(&mut watch).await,
            Some(3),
            "the end of a silence is told even if nothing changed"
        );
    }

    #[tokio::test]
    async fn a_snapshot_that_says_nothing_new_is_not_told() {
        let (mut watch, mut publisher) = watch().await;
        publisher.publish(STORE, 1, &[]);
        assert_eq!(revision(&mut watch).await, Some(1));
        publisher.publish(STORE, 2, &[]);
        publisher.publish(STORE, 3, &[entry("/service/batman/leader", "a", 3)]);
        assert_eq!(revision(&mut watch).await, Some(3));
    }

    #[tokio::test]
    async fn time_runs_backwards_only_if_everybody_keeps_saying_so() {
        let (_watch, mut publisher) = watch().await;
        publisher.publish(STORE, 10, &[]);
        assert!(!publisher.admits(STORE, 9));
        assert!(publisher.admits(STORE, 10));
        assert!(publisher.admits(StoreId(2), 1), "another store counts for itself");
        for _ in 1..BACKWARDS_MAX {
            assert!(!publisher.admits(STORE, 9));
        }
        assert!(publisher.admits(STORE, 9));
    }
}
