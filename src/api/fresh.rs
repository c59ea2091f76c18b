//! Answers that are not older than the question. An election compares what members say of their positions, and a look at
//! PostgreSQL that is a second old may miss the last records.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::model::{Moment, Standing};

/// Less than anybody waits for an answer; after it, what is known is told, and that it is older.
const PATIENCE: Duration = Duration::from_millis(250);

/// Where somebody who needs a look at PostgreSQL says so. However many ask, they share the next look.
#[derive(Clone, Debug)]
pub struct Looks(watch::Sender<Moment>);

impl Looks {
    pub fn new() -> (Looks, watch::Receiver<Moment>) {
        let (sender, receiver) = watch::channel(Moment::default());
        (Looks(sender), receiver)
    }

    /// A look is wanted that begins no earlier.
    pub fn want(&self, since: Moment) {
        self.0.send_if_modified(|wanted| {
            let later = *wanted < since;
            *wanted = since.max(*wanted);
            later
        });
    }
}

/// The standing after a look that began no earlier than `since`, or the last one if that takes too long.
pub async fn standing_since(
    looks: &Looks,
    standings: &watch::Receiver<Arc<Standing>>,
    since: Moment,
) -> Arc<Standing> {
    let looked = |standing: &Arc<Standing>| since <= standing.view.looked_at;
    let known = Arc::clone(&standings.borrow());
    if looked(&known) {
        return known;
    }
    looks.want(since);
    let mut standings = standings.clone();
    // An agent that has ended has said its last word.
    let in_time = timeout(PATIENCE, standings.wait_for(looked)).await.is_ok();
    if !in_time {
        tracing::debug!("PostgreSQL was not looked at in time; telling what was known");
    }
    Arc::clone(&standings.borrow())
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::standby;
    use super::*;

    fn looked_at(ms: u64) -> Arc<Standing> {
        let mut standing = standby();
        standing.view.looked_at = Moment::from_ms(ms);
        Arc::new(standing)
    }

    #[tokio::test]
    async fn an_answer_waits_for_the_look_that_it_asked_for() {
        let (looks, mut wanted) = Looks::new();
        let (sender, standings) = watch::channel(looked_at(1_000));
        let since = Moment::from_ms(1_500);
        let eyes = async {
            wanted.wait_for(|since| *since == Moment::from_ms(1_500)).await.expect("somebody asks");
            sender.send_replace(looked_at(1_499));
            sender.send_replace(looked_at(1_501));
        };
        let (standing, ()) = tokio::join!(standing_since(&looks, &standings, since), eyes);
        assert_eq!(standing.view.looked_at, Moment::from_ms(1_501));
        let known = standing_since(&looks, &standings, since).await;
        assert_eq!(known.view.looked_at, Moment::from_ms(1_501));
    }

    #[tokio::test]
    async fn nobody_waits_for_a_look_that_does_not_come() {
        let (looks, _wanted) = Looks::new();
        let (_sender, standings) = watch::channel(looked_at(1_000));
        let standing = standing_since(&looks, &standings, Moment::from_ms(1_500)).await;
        assert_eq!(standing.view.looked_at, Moment::from_ms(1_000));
    }

    #[test]
    fn an_earlier_wish_does_not_take_a_later_one_back() {
        let (looks, wanted) = Looks::new();
        looks.want(Moment::from_ms(7));
        looks.want(Moment::from_ms(5));
        assert_eq!(*wanted.borrow(), Moment::from_ms(7));
    }
}
