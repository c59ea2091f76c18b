//! `/doctor`: what this host tells of itself to `tenurectl doctor`. Patroni has no such path. Somebody else examines; whoever asks waits
//! for it, and not for ever.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::answer::Answer;
use crate::doctor::HostFacts;

/// Longer than an examination takes, whatever hangs.
const PATIENCE: Duration = Duration::from_secs(8);
const WAITING_MAX: usize = 16;
const FORMAT: u32 = 1;

/// Where an examination is asked for.
#[derive(Clone, Debug)]
pub struct Checkups(mpsc::Sender<oneshot::Sender<Arc<HostFacts>>>);

/// Where it is heard of.
pub type Asking = mpsc::Receiver<oneshot::Sender<Arc<HostFacts>>>;

impl Checkups {
    pub fn new() -> (Checkups, Asking) {
        let (sender, asked) = mpsc::channel(WAITING_MAX);
        (Checkups(sender), asked)
    }
}

pub async fn doctor(checkups: &Checkups) -> Answer {
    let (reply, told) = oneshot::channel();
    if checkups.0.try_send(reply).is_err() {
        return Answer::sentence(503, "too many ask for an examination");
    }
    match timeout(PATIENCE, told).await {
        Ok(Ok(facts)) => Answer::json(200, &json!({"format": FORMAT, "facts": *facts})),
        Ok(Err(_)) | Err(_) => Answer::sentence(503, "the examination did not end in time"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_asks_hears_what_was_found() {
        let (checkups, mut asked) = Checkups::new();
        let examining = async {
            let reply = asked.recv().await.expect("somebody asks");
            let facts = HostFacts { agent: "0.1.0".to_owned(), ..HostFacts::default() };
            reply.send(Arc::new(facts)).expect("somebody waits");
        };
        let (answer, ()) = tokio::join!(doctor(&checkups), examining);
        let document: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
        let facts: HostFacts = serde_json::from_value(document["facts"].clone()).expect("facts");
        assert_eq!((answer.status, facts.agent.as_str()), (200, "0.1.0"));
    }

    #[tokio::test]
    async fn nobody_waits_where_nobody_examines() {
        let (checkups, asked) = Checkups::new();
        drop(asked);
        assert_eq!(doctor(&checkups).await.status, 503);
    }
}
