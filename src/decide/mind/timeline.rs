//! The part of the mind that remembers since when PostgreSQL is on its timeline.

use super::Mind;
use crate::model::Postgres;

impl Mind {
    pub(super) fn learn_timeline(&mut self, seen: &Postgres) {
        let Some(position) = seen.position() else { return };
        let known = &mut self.view.memory.timeline_since;
        if known.is_none_or(|(timeline, _)| timeline != position.timeline) {
            *known = Some((position.timeline, self.view.now));
        }
    }
}
