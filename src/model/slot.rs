//! Replication slots: those that PostgreSQL has, and those that operators want.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Lsn, Span};

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
    pub plugin: Option<String>,
    pub database: Option<String>,
    /// How far the consumer of a logical slot has come.
    #[serde(deserialize_with = "lsn_in_words")]
    pub confirmed: Option<Lsn>,
    /// It holds vacuum back.
    pub holds_xmin: bool,
    /// PostgreSQL 17 and later keep a copy of it on standbys by themselves.
    pub failover: bool,
    /// How much more WAL may be written before PostgreSQL gives it up; none where there is no limit.
    pub safe_bytes: Option<i64>,
}

/// What operators want of slots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotPolicy {
    pub use_slots: bool,
    /// How long the slot of a member that has gone is kept. Zero: only slots that are streamed from are kept at all.
    pub member_ttl: Span,
    pub permanent: BTreeMap<String, PermanentSlot>,
    /// Slots that are somebody else's.
    pub ignored: Vec<SlotPattern>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PermanentSlot {
    Physical { cluster: SlotCluster },
    Logical { database: String, plugin: String },
}

/// In which kind of cluster a permanent slot is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SlotCluster {
    #[default]
    Any,
    Primary,
    Standby,
}

/// What is not said fits every slot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotPattern {
    pub name: Option<String>,
    pub physical: Option<bool>,
    pub database: Option<String>,
    pub plugin: Option<String>,
}

/// What is to be done about the slots of one server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotPlan {
    /// Before the creations: a slot in both is made anew.
    pub drop: Vec<String>,
    pub create: Vec<NewSlot>,
    /// Where nobody streams from, slots would keep WAL for ever.
    pub advance: Vec<SlotAdvance>,
    /// Logical slots that PostgreSQL shall keep copies of on its standbys.
    pub keep_copies: Vec<String>,
    /// Logical slots that only the leader has.
    pub copy: BTreeSet<String>,
    /// Slots that an operator should know of, each with a sentence.
    pub warnings: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NewSlot {
    Physical {
        name: String,
    },
    /// `copies`: PostgreSQL keeps copies of it on its standbys.
    Logical {
        name: String,
        database: String,
        plugin: String,
        copies: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotAdvance {
    pub name: String,
    pub to: Lsn,
    /// Of a logical slot: only a session there may move it.
    pub database: Option<String>,
}

impl SlotPlan {
    pub fn is_empty(&self) -> bool {
        self.drop.is_empty()
            && self.create.is_empty()
            && self.advance.is_empty()
            && self.keep_copies.is_empty()
    }
}

impl SlotPolicy {
    pub fn is_permanent(&self, name: &str) -> bool {
        self.permanent.contains_key(name)
    }

    /// Are there logical slots that every member must be able to take over?
    pub fn has_logical(&self) -> bool {
        self.permanent.values().any(|slot| matches!(slot, PermanentSlot::Logical { .. }))
    }
}

impl SlotPattern {
    pub fn fits(&self, slot: &SlotRow) -> bool {
        let same = |wanted: &Option<String>, found: Option<&String>| {
            wanted.as_ref().is_none_or(|wanted| found == Some(wanted))
        };
        same(&self.name, Some(&slot.name))
            && self.physical.is_none_or(|physical| physical == slot.physical)
            && same(&self.database, slot.database.as_ref())
            && same(&self.plugin, slot.plugin.as_ref())
    }
}

impl Default for SlotPolicy {
    fn default() -> SlotPolicy {
        SlotPolicy {
            use_slots: true,
            member_ttl: Span::from_secs(30 * 60),
            permanent: BTreeMap::new(),
            ignored: Vec::new(),
        }
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

    #[test]
    fn a_row_is_read_from_postgresqls_json() {
        let rows: Vec<SlotRow> =
            serde_json::from_str(r#"[{"name":"a","physical":true,"active":false,"restart":"0/10","x":1}]"#)
                .expect("rows");
        let wanted =
            SlotRow { name: "a".to_owned(), physical: true, restart: Some(Lsn(16)), ..SlotRow::default() };
        assert_eq!(rows, [wanted]);
    }

    #[test]
    fn a_pattern_fits_what_it_does_not_speak_of() {
        let slot = SlotRow {
            name: "cdc".to_owned(),
            database: Some("shop".to_owned()),
            plugin: Some("pgoutput".to_owned()),
            ..SlotRow::default()
        };
        let text = |text: &str| Some(text.to_owned());
        let check = |pattern: SlotPattern, fits: bool| assert_eq!(pattern.fits(&slot), fits, "{pattern:?}");
        check(SlotPattern::default(), true);
        check(SlotPattern { name: text("cdc"), physical: Some(false), ..SlotPattern::default() }, true);
        check(SlotPattern { physical: Some(true), ..SlotPattern::default() }, false);
        check(SlotPattern { database: text("other"), ..SlotPattern::default() }, false);
        check(SlotPattern { plugin: text("pgoutput"), ..SlotPattern::default() }, true);
    }
}
