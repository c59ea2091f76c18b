//! Keeps a running PostgreSQL in the shape that is wanted while nothing else happens: its configuration files, and a
//! replication slot for each other member.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::eyes::Sight;
use super::workshop::complain;
use crate::clock;
use crate::decide::mind::Call;
use crate::decide::publish::member_role;
use crate::model::{Lsn, Moment, Occasion, Postgres, Serving, Span, Standing, View};
use crate::postgres::{self, InstanceSettings, Recovery};

/// Something always changes; slots and settings need not follow within less.
const PAUSE: Span = Span::from_secs(1);
/// Slots of members that stand still are looked after this often.
const EVERY: Span = Span::from_secs(10);
const PATIENCE: Span = Span::from_secs(5);
/// A slot keeps WAL for a member that has gone for as long as this, and no longer: disks are finite.
const SLOTS_KEEP: Span = Span::from_secs(30 * 60);

pub struct Upkeep {
    pub settings: watch::Receiver<Arc<InstanceSettings>>,
    pub standings: watch::Receiver<Arc<Standing>>,
    pub sight: watch::Receiver<Sight>,
    pub calls: mpsc::Sender<Call>,
}

impl Upkeep {
    /// Works until the loop ends.
    pub async fn work(mut self) {
        let mut applied: Option<(Arc<InstanceSettings>, Recovery)> = None;
        let mut members = BTreeSet::new();
        // When each member's slot was last wanted.
        let mut seen: BTreeMap<String, Moment> = BTreeMap::new();
        let mut looked_at = clock::now();
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
                let now_members = others(&standing.view);
                if now_members != members || EVERY <= clock::now().since(looked_at) {
                    let now = clock::now();
                    seen.extend(now_members.iter().map(|slot| (slot.clone(), now)));
                    let vanished = seen.extract_if(.., |_, last| SLOTS_KEEP < now.since(*last));
                    let vanished = vanished.map(|(slot, _)| slot).collect();
                    self.look_after_slots(&settings, &standing.view, &vanished).await;
                    (members, looked_at) = (now_members, clock::now());
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

    async fn look_after_slots(&self, settings: &InstanceSettings, view: &View, vanished: &BTreeSet<String>) {
        if !settings.use_slots {
            return;
        }
        let Some(cluster) = view.cluster() else { return };
        let wanted: BTreeMap<String, Option<Lsn>> = (cluster.members.iter())
            .filter(|(name, _)| **name != view.me)
            .map(|(name, record)| (name.slot(), record.position().map(|position| position.lsn)))
            .collect();
        let present = self.sight.borrow().slots.clone();
        let changes = postgres::slot_changes(&present, &wanted, vanished);
        match postgres::apply_slot_changes(settings, &changes, PATIENCE).await {
            Ok(complaints) => complain(&complaints),
            Err(error) => tracing::warn!("{error}"),
        }
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

fn others(view: &View) -> BTreeSet<String> {
    view.cluster()
        .into_iter()
        .flat_map(|cluster| cluster.members.keys())
        .map(crate::model::MemberName::slot)
        .collect()
}
