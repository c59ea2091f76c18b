//! Changes of the configuration together with what is said of them: both are written at once, or neither is.

use std::time::Duration;

use serde_json::Value;

use super::format::{self, Key};
use super::kv::{Must, Transaction, Verdict};
use super::{Expect, Store, StoreError};
use crate::model::{Cluster, Intents, MemberName, Note, words};

/// How often others may write while we do.
const CHANGES_MAX: usize = 8;

/// The cluster, and the versions of the two keys, whatever they hold; 0: there is none.
#[derive(Clone, Debug)]
pub struct Seen {
    pub cluster: Cluster,
    pub config_version: i64,
    intents_version: i64,
}

/// What is to stand in the two keys. None: as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Amendment {
    pub config: Option<Value>,
    pub intents: Option<Intents>,
}

impl Store {
    /// The dynamic configuration, with a note of who has changed it. Returns its new version.
    pub async fn change_config(
        &self,
        config: &Value,
        expect: Expect,
        note: &Note,
        within: Duration,
    ) -> Result<i64, StoreError> {
        const ATTEMPT: &str = "write the configuration";
        let edit = |seen: &Seen| {
            let before = seen.cluster.config.as_ref();
            if before.is_some_and(|before| before.value == *config) {
                return Ok(Amendment::default());
            }
            match expect {
                Expect::Version(version) if version != seen.config_version => {
                    Err(StoreError::conflict(ATTEMPT, "somebody else has changed it"))
                }
                Expect::Version(_) | Expect::Anything => {
                    let nothing = Value::Object(serde_json::Map::new());
                    let absent = (seen.config_version == 0).then_some(&nothing);
                    let before = before.map(|config| &config.value).or(absent);
                    let intents = seen.intents().noting(note, before, config);
                    Ok(Amendment { config: Some(config.clone()), intents: Some(intents) })
                }
            }
        };
        self.amend(ATTEMPT, edit, within).await
    }

    /// Notes a change that nobody has noted. `before` is what the configuration was when it was last looked at.
    pub async fn catch_up(
        &self,
        before: Option<&Value>,
        at: &str,
        within: Duration,
    ) -> Result<(), StoreError> {
        let edit = |seen: &Seen| {
            let now = seen.cluster.config.as_ref().map(|config| &config.value);
            let intents = now.and_then(|now| seen.intents().caught_up(before, now, at));
            Ok(Amendment { config: None, intents })
        };
        self.amend("note the change of the configuration", edit, within).await.map(drop)
    }

    /// Takes maintenance mode out of the configuration, if the two keys are as they were read.
    pub async fn end_pause(
        &self,
        me: &MemberName,
        versions: (i64, i64),
        at: &str,
        within: Duration,
    ) -> Result<i64, StoreError> {
        const ATTEMPT: &str = "end maintenance mode";
        let edit = |seen: &Seen| {
            let intents = seen.intents();
            let (Some(pause), Some(config)) = (&intents.pause, &seen.cluster.config) else {
                return Err(StoreError::conflict(ATTEMPT, "somebody else has ended it"));
            };
            if (seen.config_version, seen.intents_version) != versions {
                return Err(StoreError::conflict(ATTEMPT, "somebody else has changed it"));
            }
            let mut ended = config.value.clone();
            ended.as_object_mut().map(|settings| settings.remove("pause"));
            let why = words(&format!("the end of the pause {pause}"));
            let note = Note { by: me.to_string(), why, at: at.to_owned() };
            let intents = intents.noting(&note, Some(&config.value), &ended);
            Ok(Amendment { config: Some(ended), intents: Some(intents) })
        };
        self.amend(ATTEMPT, edit, within).await
    }

    /// Reads the cluster, and writes what `edit` makes of it if nobody has written there meanwhile; otherwise again. Returns the
    /// version of the configuration.
    pub async fn amend(
        &self,
        attempt: &'static str,
        edit: impl Fn(&Seen) -> Result<Amendment, StoreError>,
        within: Duration,
    ) -> Result<i64, StoreError> {
        let amended = async {
            for _ in 0..CHANGES_MAX {
                let seen = self.seen(attempt, within).await?;
                let amendment = edit(&seen)?;
                if amendment == Amendment::default() {
                    return Ok(seen.config_version);
                }
                let writes_config = amendment.config.is_some();
                let transaction = self.amending(&seen, &amendment);
                match self.adapter.transact(attempt, transaction, within).await? {
                    Verdict::Done { revision } if writes_config => return Ok(revision),
                    Verdict::Done { .. } => return Ok(seen.config_version),
                    Verdict::Failed { .. } => {}
                }
            }
            Err(StoreError::conflict(attempt, "others keep writing there"))
        };
        match tokio::time::timeout(within, amended).await {
            Ok(result) => result,
            Err(_) => Err(StoreError::unanswered(attempt, "the store took too long")),
        }
    }

    async fn seen(&self, attempt: &'static str, within: Duration) -> Result<Seen, StoreError> {
        let entries = self.adapter.read(attempt, self.place.base(), within).await?.entries;
        let version = |key: &Key| {
            let path = self.place.path(key);
            entries.iter().find(|entry| entry.path == path).map_or(0, |entry| entry.version)
        };
        let (config_version, intents_version) = (version(&Key::Config), version(&Key::Intents));
        let (cluster, _) = format::read::cluster(&self.place, &entries);
        Ok(Seen { cluster, config_version, intents_version })
    }

    fn amending(&self, seen: &Seen, amendment: &Amendment) -> Transaction {
        let (config, intents) = (self.place.path(&Key::Config), self.place.path(&Key::Intents));
        let mut transaction = Transaction::default()
            .when(&config, Must::HaveVersion(seen.config_version))
            .when(&intents, Must::HaveVersion(seen.intents_version));
        if let Some(value) = &amendment.config {
            transaction = transaction.put(&config, format::config(value));
        }
        if let Some(value) = &amendment.intents {
            transaction = transaction.put(&intents, format::intents(value));
        }
        transaction
    }
}

impl Seen {
    pub fn intents(&self) -> Intents {
        self.cluster.intents.as_ref().map(|intents| intents.value.clone()).unwrap_or_default()
    }
}
