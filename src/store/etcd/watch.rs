//! Watching a cluster's keys. The stream of events is what makes a change known at once; a full read every second is what
//! makes it certain: it finds a stream that has stopped, a server that is frozen or cut off, and events that never came.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, WatchOptions, WatchStream};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};

use super::endpoint::{Endpoint, Endpoints};
use super::fault::Fault;
use super::{entry, read};
use crate::store::Place;
use crate::store::kv::{Entry, Reading, StoreId};
use crate::store::watch::{Publisher, Watch};

const ATTEMPT: &str = "watch the cluster";
const READ_EVERY: Duration = Duration::from_secs(1);
/// How long the server that we watch on may take to answer before we turn to another.
const PATIENCE: Duration = Duration::from_millis(1500);
/// How long all of them together may take before we say that the store is silent.
const ROUND: Duration = Duration::from_secs(2);
/// A stream that ends as soon as it begins must not be begun again without end.
const PAUSE: Duration = Duration::from_millis(250);
/// Nothing but an operator will change that, and a wrong password is dear to check.
const PAUSE_REFUSED: Duration = Duration::from_secs(2);

pub(super) fn start(endpoints: Arc<Endpoints>, place: &Place) -> Watch {
    let base = place.base().to_owned();
    Watch::start(place, |publisher| watch(endpoints, base, publisher))
}

async fn watch(endpoints: Arc<Endpoints>, base: String, mut publisher: Publisher) {
    loop {
        let ask = |client: Client, endpoint| {
            let base = base.clone();
            async move { Ok((read(client.clone(), base).await?, client, endpoint)) }
        };
        let mut pause = PAUSE;
        match endpoints.ask(ATTEMPT, ROUND, ask).await {
            Ok((reading, client, endpoint)) if publisher.admits(reading.store, reading.revision) => {
                let mut mirror = Mirror::of(reading);
                mirror.publish(&mut publisher);
                let fault = Box::pin(follow(client, &base, &mut mirror, &mut publisher)).await;
                tracing::debug!(server = endpoint.url(), ?fault, "the watch has ended");
                leave(&endpoints, &endpoint, &fault);
            }
            Ok((_, _, endpoint)) => {
                publisher.silent(Fault::from_the_past().named(ATTEMPT, None));
                endpoints.avoid(&endpoint);
            }
            Err(fault) => {
                if let Fault::Refused(_) | Fault::Denied(_) = fault {
                    pause = PAUSE_REFUSED;
                }
                publisher.silent(fault.named(ATTEMPT, None));
            }
        }
        sleep(pause).await;
    }
}

/// Until something goes wrong.
async fn follow(mut client: Client, base: &str, mirror: &mut Mirror, publisher: &mut Publisher) -> Fault {
    let options = WatchOptions::new().with_prefix().with_start_revision(mirror.revision + 1);
    let mut stream = match timeout(PATIENCE, client.watch(base, Some(options))).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return error.into(),
        Err(_) => return Fault::broken("no answer to the request to watch"),
    };
    let mut reads = interval_at(Instant::now() + READ_EVERY, READ_EVERY);
    reads.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let followed = tokio::select! {
            followed = one_message(&mut stream, mirror) => followed,
            _ = reads.tick() => one_read(client.clone(), base, mirror, publisher).await,
        };
        match followed {
            Ok(()) => mirror.publish(publisher),
            Err(fault) => return fault,
        }
    }
}

async fn one_message(stream: &mut WatchStream, mirror: &mut Mirror) -> Result<(), Fault> {
    let Some(message) = stream.message().await? else {
        return Err(Fault::unanswered("the stream has ended"));
    };
    if 0 < message.compact_revision() {
        return Err(Fault::unanswered("the revision to watch from has been compacted"));
    }
    if message.canceled() {
        // By an etcd that wants to see the password again, among others.
        return Err(Fault::TokenStale(message.cancel_reason().to_owned()));
    }
    for kv in message.events().iter().filter_map(etcd_client::Event::kv) {
        let Some(entry) = entry(kv) else { continue };
        // What is left of a deleted key has no versions.
        mirror.apply(entry, kv.version() == 0);
    }
    Ok(())
}

async fn one_read(
    client: Client,
    base: &str,
    mirror: &mut Mirror,
    publisher: &mut Publisher,
) -> Result<(), Fault> {
    let Ok(reading) = timeout(PATIENCE, read(client, base.to_owned())).await else {
        return Err(Fault::broken("no answer to a read"));
    };
    let reading = reading?;
    // The majority that confirms a read knows every event that the stream has told before.
    if !publisher.admits(reading.store, reading.revision) {
        return Err(Fault::from_the_past());
    }
    *mirror = Mirror::of(reading);
    Ok(())
}

/// A server that cannot answer is left for another one; one that only ended the stream may be asked again.
fn leave(endpoints: &Endpoints, endpoint: &Endpoint, fault: &Fault) {
    match fault {
        // The next read would be let in with the old token where only watching needs a new one.
        Fault::TokenStale(_) | Fault::Denied(_) => endpoint.forget(),
        Fault::Unanswered { connection_broken: true, .. } => endpoints.avoid(endpoint),
        Fault::Unanswered { connection_broken: false, .. }
        | Fault::NoAuthentication
        | Fault::Refused(_)
        | Fault::SessionGone => {}
    }
}

/// The keys as of the last read, and the events since.
struct Mirror {
    store: StoreId,
    read_at: i64,
    revision: i64,
    entries: BTreeMap<String, Entry>,
}

impl Mirror {
    fn of(reading: Reading) -> Mirror {
        Mirror {
            store: reading.store,
            read_at: reading.revision,
            revision: reading.revision,
            entries: reading.entries.into_iter().map(|entry| (entry.path.clone(), entry)).collect(),
        }
    }

    /// An event that a read has overtaken tells nothing new.
    fn apply(&mut self, entry: Entry, deleted: bool) {
        if entry.version <= self.read_at {
            return;
        }
        self.revision = self.revision.max(entry.version);
        if deleted {
            self.entries.remove(&entry.path);
        } else {
            self.entries.insert(entry.path.clone(), entry);
        }
    }

    fn publish(&self, publisher: &mut Publisher) {
        publisher.publish(self.store, self.revision, self.entries.values());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, version: i64) -> Entry {
        Entry { path: path.to_owned(), value: Vec::new(), created: 1, version, session: None }
    }

    fn paths(mirror: &Mirror) -> Vec<&str> {
        mirror.entries.keys().map(String::as_str).collect()
    }

    #[test]
    fn events_change_what_was_read_before_them_and_nothing_that_was_read_after() {
        let entries = vec![entry("a", 3), entry("b", 5)];
        let mut mirror = Mirror::of(Reading { store: StoreId(1), revision: 5, entries });
        mirror.apply(entry("a", 5), true);
        mirror.apply(entry("c", 4), false);
        assert_eq!((paths(&mirror), mirror.revision), (vec!["a", "b"], 5));
        // One transaction may write several keys at one revision.
        mirror.apply(entry("a", 7), true);
        mirror.apply(entry("c", 7), false);
        mirror.apply(entry("d", 7), false);
        assert_eq!((paths(&mirror), mirror.revision), (vec!["b", "c", "d"], 7));
    }
}
