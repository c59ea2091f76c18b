//! How leaders have followed each other, kept beside Patroni's history.

use std::time::Duration;

use super::format::{self, Key};
use super::kv::{Must, Verdict};
use super::lease::told;
use super::{Store, StoreError};
use crate::model::{MemberName, Succession, Term, with_succession};

impl Store {
    /// Adds one, unless it is there already. Only for who leads.
    pub async fn note_succession(
        &self,
        me: &MemberName,
        term: Term,
        new: &Succession,
        within: Duration,
    ) -> Result<(), StoreError> {
        const ATTEMPT: &str = "note how the leader has changed";
        let path = self.place.path(&Key::Successions);
        let entries = self.adapter.read(ATTEMPT, self.place.base(), within).await?.entries;
        let known = entries.into_iter().find(|entry| entry.path == path);
        let (value, version) = known.map_or((Vec::new(), 0), |entry| (entry.value, entry.version));
        let Some(all) = with_succession(&value, new) else { return Ok(()) };
        let transaction = self
            .while_leading(me, term)
            .when(&path, Must::HaveVersion(version))
            .put(&path, format::successions(&all));
        match self.adapter.transact(ATTEMPT, transaction, within).await? {
            Verdict::Done { .. } => Ok(()),
            Verdict::Failed { seen } => {
                Err(StoreError::conflict(ATTEMPT, told(seen.first().and_then(Option::as_ref))))
            }
        }
    }
}
