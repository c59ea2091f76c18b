//! Watching a cluster's znodes. ZooKeeper tells once that something has changed, not what: then everything is read again, and
//! asked to be told anew. A reading every second makes it certain: it finds a server that is frozen or cut off.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::connection::Connection;
use super::ensemble::{Ensemble, Line};
use super::fault::Fault;
use super::look::{self, Watching};
use crate::store::Place;
use crate::store::watch::{Publisher, Watch};

const ATTEMPT: &str = "watch the cluster";
const READ_EVERY: Duration = Duration::from_secs(1);
/// How long all servers together may take before we say that the store is silent.
const ROUND: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(250);
/// Nothing but an operator will change that.
const PAUSE_REFUSED: Duration = Duration::from_secs(2);

pub(super) fn start(ensemble: Arc<Ensemble>, place: &Place) -> Watch {
    let base = place.base().to_owned();
    Watch::start(place, |publisher| watch(ensemble, base, publisher))
}

async fn watch(ensemble: Arc<Ensemble>, base: String, mut publisher: Publisher) {
    loop {
        let ask = |connection: Arc<Connection>| {
            let (base, place) = (base.clone(), ensemble.place(&base));
            async move {
                // What changes while we read counts as news afterwards.
                let mut news = connection.news();
                news.mark_unchanged();
                Ok((look::below(&connection, &base, &place, Watching::Yes).await?, news))
            }
        };
        match ensemble.ask(Line::Shared, ATTEMPT, ROUND, ask).await {
            Ok((reading, mut news)) if publisher.admits(reading.store, reading.revision) => {
                publisher.publish(reading.store, reading.revision, &reading.entries);
                // That nothing has changed for so long, and that the connection has ended, both call for a reading.
                let _ = timeout(READ_EVERY, news.changed()).await;
            }
            Ok(_) => {
                publisher.silent(Fault::unanswered("the server answers from the past").named(ATTEMPT, None));
                ensemble.leave(Line::Shared);
                sleep(PAUSE).await;
            }
            Err(fault) => {
                let pause = if let Fault::Refused(_) = fault { PAUSE_REFUSED } else { PAUSE };
                publisher.silent(fault.named(ATTEMPT, None));
                sleep(pause).await;
            }
        }
    }
}
