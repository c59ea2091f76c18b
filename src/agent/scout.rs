//! Asks the cluster that a standby cluster follows where its timeline comes from, as long as that matters: while this
//! member leads and does not stream from there.

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use crate::clock;
use crate::decide::mind::Event;
use crate::model::{Address, Postgres, RemoteStanding, Serving, Span, Standing, View};
use crate::postgres::{InstanceSettings, ask_lineage};

const EVERY: Span = Span::from_secs(5);
const PATIENCE: Span = Span::from_secs(10);

pub struct Scout {
    pub settings: watch::Receiver<Arc<InstanceSettings>>,
    pub standings: watch::Receiver<Arc<Standing>>,
    pub events: mpsc::Sender<Event>,
    /// Who asks: it takes a program and a file.
    pub hands: Handle,
}

impl Scout {
    /// Works until the loop ends.
    pub async fn look_around(mut self) {
        let mut complaint: Option<String> = None;
        loop {
            let whom = |standing: &Arc<Standing>| whom_to_ask(&standing.view);
            let found = self.standings.wait_for(|standing| whom(standing).is_some()).await;
            let Ok(address) = found.map(|standing| whom(&standing)) else { return };
            let Some(address) = address else { continue };
            let settings = self.settings.borrow().clone();
            // Counted from before the question: what is said then is at most so old.
            let asked_at = clock::now();
            let asking = self.hands.spawn(async move {
                ask_lineage(&settings, &address, PATIENCE).await.map_err(|error| error.to_string())
            });
            let Ok(answer) = asking.await else { return };
            let told = match answer {
                Ok((system, lineage)) => {
                    complaint = None;
                    Some(RemoteStanding { asked_at, system, lineage })
                }
                Err(error) => {
                    if complaint.as_ref() != Some(&error) {
                        tracing::warn!("{error}");
                    }
                    complaint = Some(error);
                    None
                }
            };
            if self.events.send(Event::Remote(told)).await.is_err() {
                return;
            }
            clock::pause(EVERY).await;
        }
    }
}

fn whom_to_ask(view: &View) -> Option<Address> {
    let address = view.policy.follows.as_ref()?.address.clone()?;
    let matters = match &view.postgres {
        Postgres::Running(running) => {
            matches!(running.serving, Serving::Standby { streaming: false, .. })
        }
        Postgres::Stopped { .. } => true,
        Postgres::Starting { .. }
        | Postgres::Unobserved
        | Postgres::Empty
        | Postgres::Unfinished { .. }
        | Postgres::Unusable { .. } => false,
    };
    (matters && view.lease_in_force().is_some()).then_some(address)
}
