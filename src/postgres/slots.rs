//! Physical replication slots for the other members: what is there, what is wanted, and the way from one to the other.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::error::Error;
use super::settings::InstanceSettings;
use super::sql::{Target, connect, quoted_text};
use crate::model::{Lsn, Span};

/// One line of `pg_replication_slots`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SlotRow {
    pub name: String,
    pub physical: bool,
    pub temporary: bool,
    pub active: bool,
    #[serde(deserialize_with = "lsn_in_words")]
    pub restart: Option<Lsn>,
    /// PostgreSQL has removed WAL that it was to keep.
    pub lost: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotChanges {
    /// Before the creations: a slot in both is made anew.
    pub drop: Vec<String>,
    pub create: Vec<String>,
    /// Where nobody streams from, slots would keep WAL for ever.
    pub advance: Vec<(String, Lsn)>,
}

/// `wanted`: the slots that should be here, each with how far its member is known to be.
/// `vanished`: slots of members that have left the cluster. Nothing else is ever dropped: it may be somebody's.
pub fn slot_changes(
    present: &[SlotRow],
    wanted: &BTreeMap<String, Option<Lsn>>,
    vanished: &BTreeSet<String>,
) -> SlotChanges {
    let mut changes = SlotChanges::default();
    let by_name: BTreeMap<&str, &SlotRow> = present.iter().map(|slot| (slot.name.as_str(), slot)).collect();
    for (name, reached) in wanted {
        match by_name.get(name.as_str()) {
            None => changes.create.push(name.clone()),
            // In use, or somebody else's of the same name.
            Some(slot) if slot.active || slot.temporary || !slot.physical => {}
            Some(slot) if slot.lost || slot.restart.is_none() => {
                changes.drop.push(name.clone());
                changes.create.push(name.clone());
            }
            Some(slot) => {
                changes
                    .advance
                    .extend(reached.filter(|at| slot.restart < Some(*at)).map(|at| (name.clone(), at)));
            }
        }
    }
    let ours = |slot: &&SlotRow| vanished.contains(&slot.name) && !wanted.contains_key(&slot.name);
    let unused = |slot: &&SlotRow| slot.physical && !slot.active && !slot.temporary;
    changes.drop.extend(present.iter().filter(ours).filter(unused).map(|slot| slot.name.clone()));
    changes
}

/// Gives a sentence for everything that did not work; it is wanted again the next time.
pub async fn apply_slot_changes(
    settings: &InstanceSettings,
    changes: &SlotChanges,
    patience: Span,
) -> Result<Vec<String>, Error> {
    if changes.is_empty() {
        return Ok(Vec::new());
    }
    let session = connect("change the replication slots", &Target::local(settings), patience).await?;
    let mut complaints = Vec::new();
    for (what, statement) in statements(changes) {
        match session.run(&what, &statement, patience).await {
            Ok(()) => {}
            Err(error @ (Error::Refused { .. } | Error::Failed { .. })) => complaints.push(error.to_string()),
            // The connection still works on it.
            Err(error @ Error::OutOfTime { .. }) => return Err(error),
        }
    }
    Ok(complaints)
}

fn statements(changes: &SlotChanges) -> Vec<(String, String)> {
    let drop = |name: &String| {
        (format!("drop the slot {name}"), format!("SELECT pg_drop_replication_slot({})", quoted_text(name)))
    };
    let create = |name: &String| {
        let statement = format!("SELECT pg_create_physical_replication_slot({}, true)", quoted_text(name));
        (format!("create the slot {name}"), statement)
    };
    let advance = |(name, at): &(String, Lsn)| {
        let statement = format!("SELECT pg_replication_slot_advance({}, '{at}')", quoted_text(name));
        (format!("advance the slot {name}"), statement)
    };
    let dropped = changes.drop.iter().map(drop);
    dropped.chain(changes.create.iter().map(create)).chain(changes.advance.iter().map(advance)).collect()
}

impl SlotChanges {
    pub fn is_empty(&self) -> bool {
        self.drop.is_empty() && self.create.is_empty() && self.advance.is_empty()
    }
}

/// PostgreSQL's JSON has positions as text.
fn lsn_in_words<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Lsn>, D::Error> {
    let text = Option::<String>::deserialize(from)?;
    text.map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(name: &str, restart: u64) -> SlotRow {
        SlotRow { name: name.to_owned(), physical: true, restart: Some(Lsn(restart)), ..SlotRow::default() }
    }

    fn changes(present: &[SlotRow], wanted: &[(&str, Option<u64>)], vanished: &[&str]) -> SlotChanges {
        let wanted = wanted.iter().map(|(name, at)| ((*name).to_owned(), at.map(Lsn))).collect();
        slot_changes(present, &wanted, &vanished.iter().map(|name| (*name).to_owned()).collect())
    }

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn what_is_missing_is_made_and_what_is_unknown_is_left_alone() {
        let found = changes(&[slot("mine", 1), slot("theirs", 1)], &[("mine", None), ("new", None)], &[]);
        assert_eq!(found, SlotChanges { create: names(&["new"]), ..SlotChanges::default() });
    }

    #[test]
    fn only_an_unused_slot_of_a_vanished_member_is_dropped() {
        let active = SlotRow { active: true, ..slot("busy", 1) };
        let logical = SlotRow { physical: false, ..slot("logical", 1) };
        let found = changes(
            &[slot("gone", 1), active, logical, slot("back", 1)],
            &[("back", None)],
            &["gone", "busy", "logical", "back"],
        );
        assert_eq!(found, SlotChanges { drop: names(&["gone"]), ..SlotChanges::default() });
    }

    #[test]
    fn an_unused_slot_follows_its_member_and_never_goes_back() {
        let found = changes(&[slot("a", 10), slot("b", 10)], &[("a", Some(20)), ("b", Some(5))], &[]);
        assert_eq!(found.advance, [("a".to_owned(), Lsn(20))]);
    }

    #[test]
    fn a_slot_that_keeps_nothing_is_made_anew() {
        let lost = SlotRow { lost: true, ..slot("lost", 1) };
        let empty = SlotRow { restart: None, ..slot("void", 1) };
        let found = changes(&[lost, empty], &[("lost", Some(9)), ("void", None)], &[]);
        assert_eq!((&found.drop, &found.create), (&names(&["lost", "void"]), &names(&["lost", "void"])));
        assert!(found.advance.is_empty());
    }

    #[test]
    fn a_row_is_read_from_postgresqls_json() {
        let rows: Vec<SlotRow> =
            serde_json::from_str(r#"[{"name":"a","physical":true,"active":false,"restart":"0/10","x":1}]"#)
                .expect("rows");
        assert_eq!(rows, [slot("a", 16)]);
    }
}
