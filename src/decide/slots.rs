//! Replication slots: which ones this member's PostgreSQL should have, and the way there from those that it has.
//! A pure plan; carrying it out is `agent::upkeep`'s business, off the lease's path.

use std::collections::{BTreeMap, BTreeSet};

use super::fault::{self, Fault};
use super::topology::is_expected_here;
use crate::model::{
    Cluster, Lsn, MemberRecord, MemberRole, Moment, NewSlot, PermanentSlot, Running, Serving, SlotAdvance,
    SlotCluster, SlotPlan, SlotRow, Span, View,
};

/// From this version on PostgreSQL itself keeps copies of logical slots on standbys.
const COPIES_SINCE: u32 = 170_000;

/// What the planner remembers of slots between two plans.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotMemory {
    /// Names that were wanted before, whatever has become of them: they are ours to drop.
    wanted: BTreeSet<String>,
    /// Since when slots that nobody has asked for stand idle.
    strangers: BTreeMap<String, Moment>,
}

enum Wanted<'a> {
    Physical { reached: Option<Lsn>, in_use_here: bool },
    Logical { database: &'a str, plugin: &'a str },
}

/// What should be done now. Nothing where too little is known.
pub fn plan(view: &View, present: &[SlotRow], memory: &mut SlotMemory) -> SlotPlan {
    let mut plan = SlotPlan::default();
    let Some(running) = view.postgres.running().filter(|_| view.policy.slots.use_slots) else { return plan };
    let Some(cluster) = view.cluster().filter(|cluster| !view.cut_off() && cluster.leader.is_some()) else {
        return plan;
    };
    // A primary without a lease is about to be stopped, and a leader is about to be promoted.
    let leads = view.lease_in_force().is_some();
    if running.is_primary() != (leads && view.policy.follows.is_none()) {
        return plan;
    }
    let wanted = wanted(view, cluster, leads);
    let by_name: BTreeMap<&str, &SlotRow> = present.iter().map(|slot| (slot.name.as_str(), slot)).collect();
    for (name, want) in &wanted {
        match want {
            Wanted::Physical { reached, in_use_here } => {
                physical(&mut plan, name, by_name.get(name.as_str()).copied(), *reached, *in_use_here);
            }
            Wanted::Logical { database, plugin } => {
                let slot = by_name.get(name.as_str()).copied();
                logical(&mut plan, (view, cluster, running), name, slot, (database, plugin));
            }
        }
    }
    memory.wanted.extend(wanted.keys().cloned());
    let unwanted: Vec<&SlotRow> = (present.iter())
        .filter(|slot| !wanted.contains_key(&slot.name) && is_ours_to_judge(view, slot))
        .collect();
    memory.strangers.retain(|name, _| unwanted.iter().any(|slot| slot.name == *name));
    if !view.policy.pause {
        for slot in unwanted {
            judge(&mut plan, view, slot, memory);
        }
    }
    warn_of_greed(&mut plan, running, present);
    plan
}

/// Called with each snapshot: whose slots are kept, and since when they have gone.
pub(super) fn remember_members(view: &mut View, cluster: &Cluster) {
    let (now, ttl) = (view.now, view.policy.slots.member_ttl);
    let before = view.store.cluster.as_ref().map(|cluster| &cluster.members);
    let seen = before.into_iter().flatten().chain(&cluster.members);
    let others = seen.filter(|(name, record)| **name != view.me && !record.tags.nostream());
    view.memory.member_slots.extend(others.map(|(name, _)| (name.slot(), now)));
    // The leader's word counts for everybody else; its own it only reads back.
    if view.lease.is_none() {
        let own = view.me.slot();
        let told = cluster.status.retain_slots.iter().filter(|name| **name != own);
        view.memory.member_slots.extend(told.map(|name| (name.clone(), now)));
    }
    let forgets = !fault::active(Fault::KeepsSlotsForEver);
    view.memory.member_slots.retain(|_, last| now.since(*last) <= ttl || !forgets);
}

/// What a leader says of its slots: how far each has come, and those of members that the others keep as well.
pub(super) fn told(view: &View, present: &[SlotRow], end: Lsn) -> (BTreeMap<String, Lsn>, Vec<String>) {
    let policy = &view.policy.slots;
    if !policy.use_slots {
        return (BTreeMap::new(), Vec::new());
    }
    let keeps_members = policy.member_ttl != Span::ZERO;
    let is_told = |slot: &&SlotRow| {
        policy.is_permanent(&slot.name)
            || (keeps_members && view.memory.member_slots.contains_key(&slot.name))
    };
    let reached = |slot: &SlotRow| if slot.physical { slot.restart } else { slot.confirmed };
    let mut slots: BTreeMap<String, Lsn> = (present.iter().filter(is_told))
        .filter_map(|slot| Some((slot.name.clone(), reached(slot)?)))
        .collect();
    slots.insert(view.me.slot(), end);
    let mut retained: BTreeSet<String> = view.memory.member_slots.keys().cloned().collect();
    if !view.tags.nostream() {
        retained.insert(view.me.slot());
    }
    retained.retain(|name| keeps_members && !policy.is_permanent(name));
    (slots, retained.into_iter().collect())
}

fn wanted<'a>(view: &'a View, cluster: &'a Cluster, leads: bool) -> BTreeMap<String, Wanted<'a>> {
    let policy = &view.policy.slots;
    let mut wanted = BTreeMap::new();
    let barred = view.tags.nofailover() && !leads;
    for (name, slot) in policy.permanent.iter().filter(|(name, _)| !barred && **name != view.me.slot()) {
        match slot {
            PermanentSlot::Physical { cluster: kind } if suits(*kind, view) => {
                // Who uses it follows the leader.
                let reached = cluster.status.slots.get(name).copied().filter(|_| !leads);
                wanted.insert(name.clone(), Wanted::Physical { reached, in_use_here: leads });
            }
            PermanentSlot::Logical { database, plugin }
                if view.policy.follows.is_none() && (leads || !view.tags.nostream()) =>
            {
                wanted.insert(name.clone(), Wanted::Logical { database, plugin });
            }
            PermanentSlot::Physical { .. } | PermanentSlot::Logical { .. } => {}
        }
    }
    for name in view.memory.member_slots.keys() {
        if !barred && policy.member_ttl != Span::ZERO {
            let reached = cluster.status.slots.get(name).copied();
            wanted.entry(name.clone()).or_insert(Wanted::Physical { reached, in_use_here: false });
        }
    }
    for (name, record) in cluster.members.iter().filter(|(name, _)| **name != view.me) {
        let here = is_expected_here(view, cluster, name);
        let asked_for = record.tags.replicatefrom() == Some(view.me.as_str());
        let keeps = if policy.member_ttl == Span::ZERO { here } else { !barred || asked_for };
        let slot = name.slot();
        if keeps && !record.tags.nostream() {
            let reached = reached_by(cluster, record);
            wanted.insert(slot, Wanted::Physical { reached, in_use_here: here });
        } else if !policy.is_permanent(&slot) {
            wanted.remove(&slot);
        }
    }
    wanted
}

fn suits(kind: SlotCluster, view: &View) -> bool {
    match kind {
        SlotCluster::Any => true,
        SlotCluster::Primary => view.policy.follows.is_none(),
        SlotCluster::Standby => view.policy.follows.is_some(),
    }
}

/// A member on the leader's timeline needs nothing before what it has. Of others nobody knows until they have rejoined.
fn reached_by(cluster: &Cluster, record: &MemberRecord) -> Option<Lsn> {
    let timeline = cluster.leader_record()?.timeline?;
    let standby = matches!(record.role, MemberRole::Replica | MemberRole::StandbyLeader);
    let position = record.position().filter(|position| standby && position.timeline == timeline)?;
    Some(position.lsn)
}

fn physical(
    plan: &mut SlotPlan,
    name: &str,
    slot: Option<&SlotRow>,
    reached: Option<Lsn>,
    in_use_here: bool,
) {
    let create = || NewSlot::Physical { name: name.to_owned() };
    match slot {
        None => plan.create.push(create()),
        // In use, or of a session that will take it along.
        Some(slot) if slot.active || slot.temporary => {}
        // What it holds back it holds for nobody: vacuum, or WAL that has gone already.
        Some(slot)
            if !slot.physical || slot.lost || slot.restart.is_none() || (slot.holds_xmin && !in_use_here) =>
        {
            plan.drop.push(name.to_owned());
            plan.create.push(create());
        }
        Some(slot) => {
            if let Some(to) = reached.filter(|to| slot.restart < Some(*to)) {
                plan.advance.push(SlotAdvance { name: name.to_owned(), to, database: None });
            }
        }
    }
}

fn logical(
    plan: &mut SlotPlan,
    (view, cluster, running): (&View, &Cluster, &Running),
    name: &str,
    slot: Option<&SlotRow>,
    (database, plugin): (&str, &str),
) {
    let copies = COPIES_SINCE <= running.version;
    let create = || NewSlot::Logical {
        name: name.to_owned(),
        database: database.to_owned(),
        plugin: plugin.to_owned(),
        copies,
    };
    let is_other = |slot: &SlotRow| {
        slot.physical || slot.database.as_deref() != Some(database) || slot.plugin.as_deref() != Some(plugin)
    };
    match (&running.serving, slot) {
        (_, Some(slot)) if slot.active || slot.temporary => {}
        (Serving::Primary { .. }, None) => plan.create.push(create()),
        // What it has lost cannot be had again: its consumer must begin anew, and should hear of it.
        (Serving::Primary { .. }, Some(slot)) if is_other(slot) || slot.lost => {
            plan.drop.push(name.to_owned());
            plan.create.push(create());
        }
        (Serving::Primary { .. }, Some(slot)) if copies && !slot.failover => {
            plan.keep_copies.push(name.to_owned());
        }
        (Serving::Primary { .. }, Some(_)) => {}
        // PostgreSQL does it by itself.
        (Serving::Standby { .. }, None) if copies => {}
        (Serving::Standby { .. }, Some(slot)) if slot.failover => {}
        (Serving::Standby { .. }, Some(slot)) if is_other(slot) || slot.lost || copies => {
            plan.drop.push(name.to_owned());
        }
        (Serving::Standby { replayed, .. }, Some(slot)) => {
            let to = cluster.status.slots.get(name).copied().min(*replayed);
            if let Some(to) = to.filter(|to| slot.confirmed < Some(*to)) {
                let database = Some(database.to_owned());
                plan.advance.push(SlotAdvance { name: name.to_owned(), to, database });
            }
        }
        (Serving::Standby { .. }, None) => {
            if cluster.status.slots.contains_key(name) && !view.tags.nofailover() {
                plan.copy.insert(name.to_owned());
            }
        }
    }
}

fn is_ours_to_judge(view: &View, slot: &SlotRow) -> bool {
    !slot.active
        && !slot.temporary
        && !slot.failover
        && !view.policy.slots.ignored.iter().any(|pattern| pattern.fits(slot))
}

/// Slots that nobody wants. Those that somebody else may have made are given the time that members are given.
fn judge(plan: &mut SlotPlan, view: &View, slot: &SlotRow, memory: &mut SlotMemory) {
    let since = *memory.strangers.entry(slot.name.clone()).or_insert(view.now);
    let grace = view.policy.slots.member_ttl;
    let ours = memory.wanted.contains(&slot.name) || slot.name == view.me.slot();
    if ours || slot.lost || grace <= view.now.since(since) {
        plan.drop.push(slot.name.clone());
    } else {
        plan.warnings.insert(
            slot.name.clone(),
            format!(
                "the replication slot {} is in nobody's configuration and keeps WAL; it is dropped if it stays unused for \
                 {grace}. Name it in slots or in ignore_slots to keep it",
                slot.name
            ),
        );
    }
}

/// More than half of what a slot may keep is used up.
fn warn_of_greed(plan: &mut SlotPlan, running: &Running, present: &[SlotRow]) {
    let Some(end) = running.position().map(|position| position.lsn) else { return };
    for slot in present.iter().filter(|slot| !slot.lost && !plan.drop.contains(&slot.name)) {
        let (Some(restart), Some(left)) = (slot.restart, slot.safe_bytes) else { continue };
        let (kept, left) = (restart.lag_behind(end).0, u64::try_from(left).unwrap_or(0));
        if left < kept {
            let name = &slot.name;
            let (kept, left) = (kept >> 20, left >> 20);
            plan.warnings.insert(
                name.clone(),
                format!(
                    "the replication slot {name} keeps {kept} MB of WAL; after {left} MB more PostgreSQL gives it up \
                     (max_slot_wal_keep_size)"
                ),
            );
        }
    }
}

#[cfg(test)]
mod tests;
