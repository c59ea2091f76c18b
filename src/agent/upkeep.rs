//! Keeps a running PostgreSQL in the shape that is wanted while nothing else happens: its configuration files and its
//! replication slots.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::eyes::Sight;
use super::workshop::complain;
use crate::clock;
use crate::decide::mind::{Call, Event};
use crate::decide::publish::member_role;
use crate::decide::slots::{self, SlotMemory};
use crate::model::{Moment, Occasion, Postgres, Serving, SlotPlan, Span, Standing, View};
use crate::postgres::{self, InstanceSettings, Recovery};

/// Something always changes; slots and settings need not follow within less.
const PAUSE: Span = Span::from_secs(1);
/// Slots that only move on are looked after this often, and so is what did not work.
const EVERY: Span = Span::from_secs(10);
/// What was changed is seen by then.
const SETTLE: Span = Span::from_secs(2);
const PATIENCE: Span = Span::from_secs(5);

pub struct Upkeep {
    pub settings: watch::Receiver<Arc<InstanceSettings>>,
    pub standings: watch::Receiver<Arc<Standing>>,
    pub sight: watch::Receiver<Sight>,
    pub calls: mpsc::Sender<Call>,
    pub events: mpsc::Sender<Event>,
}

/// What is known of the slots from one look to the next.
#[derive(Default)]
struct Slots {
    memory: SlotMemory,
    moved_at: Moment,
    not_before: Moment,
    /// Slots to copy as the last two looks had them: a server that has just started shows none.
    to_copy: BTreeSet<String>,
    told_to_copy: BTreeSet<String>,
    warned: BTreeMap<String, String>,
    complaints: Vec<String>,
}

impl Upkeep {
    /// Works until the loop ends.
    pub async fn work(mut self) {
        let mut applied: Option<(Arc<InstanceSettings>, Recovery)> = None;
        let mut slots = Slots::default();
        loop {
            if self.standings.changed().await.is_err() {
                return;
            }
            let standing = self.standings.borrow_and_update().clone();
            let settings = self.settings.borrow().clone();
            if let Some(recovery) = at_rest(&standing.view) {
                let wanted = (settings.clone(), recovery);
                if applied.as_ref().is_some_and(|known| *known != wanted) {
                    self.apply(&wanted.0, &wanted.1, &standing.view).await;
                }
                applied = Some(wanted);
                if slots.not_before <= clock::now()
                    && self.look_after(&mut slots, &settings, &standing.view).await.is_err()
                {
                    return;
                }
            } else {
                applied = None;
            }
            clock::pause(PAUSE).await;
        }
    }

    async fn apply(&self, settings: &InstanceSettings, recovery: &Recovery, view: &View) {
        match postgres::reload(settings, recovery).await {
            Ok(complaints) => {
                complain(&complaints);
                let call = Call { occasion: Occasion::Reload, role: member_role(view) };
                if self.calls.try_send(call).is_err() {
                    tracing::warn!("on_reload is not called: too many callbacks wait");
                }
            }
            Err(error) => tracing::warn!("{error}"),
        }
    }

    /// An error when the loop has ended.
    async fn look_after(
        &self,
        slots: &mut Slots,
        settings: &InstanceSettings,
        view: &View,
    ) -> Result<(), ()> {
        let present = self.sight.borrow().slots.clone();
        let mut plan = slots::plan(view, &present, &mut slots.memory);
        slots.warn(&plan);
        let copy = std::mem::take(&mut plan.copy);
        if slots.to_copy == copy && (slots.told_to_copy != copy || !copy.is_empty()) {
            slots.told_to_copy.clone_from(&copy);
            self.events.send(Event::SlotsToCopy(copy.clone())).await.map_err(|_| ())?;
        }
        slots.to_copy = copy;
        let now = clock::now();
        if now.since(slots.moved_at) < EVERY {
            plan.advance.clear();
        }
        if plan.is_empty() {
            return Ok(());
        }
        slots.moved_at = now;
        let complaints = match postgres::apply_slot_plan(settings, &plan, PATIENCE).await {
            Ok(complaints) => complaints,
            Err(error) => vec![error.to_string()],
        };
        slots.not_before = clock::now() + if complaints.is_empty() { SETTLE } else { EVERY };
        if slots.complaints != complaints {
            complain(&complaints);
        }
        slots.complaints = complaints;
        Ok(())
    }
}

impl Slots {
    /// Once for each slot, until it is well again. How much it keeps changes all the time, and is no news.
    fn warn(&mut self, plan: &SlotPlan) {
        for (name, warning) in &plan.warnings {
            if !self.warned.contains_key(name) {
                tracing::warn!("{warning}");
            }
        }
        self.warned.clone_from(&plan.warnings);
    }
}

/// What a PostgreSQL that runs undisturbed is, as its configuration should say it.
fn at_rest(view: &View) -> Option<Recovery> {
    if view.work.job.is_some() {
        return None;
    }
    let Postgres::Running(running) = &view.postgres else { return None };
    match &running.serving {
        Serving::Primary { .. } => view.lease_in_force().map(|_| Recovery::Primary),
        Serving::Standby { upstream, .. } => Some(Recovery::Standby { upstream: upstream.clone() }),
    }
}
