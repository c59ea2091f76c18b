//! Bringing logical replication slots of a primary to a standby of it, where PostgreSQL cannot do that by itself: their
//! state is one file each, which is taken in when the server starts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use super::control::read_control_data;
use super::error::{Error, Trying};
use super::files::{make_private_directory, write_bytes_durably};
use super::programs::Programs;
use super::reached::has_segment;
use super::remote::Far;
use super::settings::InstanceSettings;
use super::sql::quoted_text;
use super::start::{Started, start_standby};
use super::stop::stop_fast;
use crate::model::{Address, Lsn, Span};

/// A state file has a few hundred bytes.
const STATE_BYTES_MAX: usize = 64 << 10;
const ASK: Span = Span::from_secs(30);

/// The standby is down for as long as a stop and a start take. Nothing is stopped before everything has arrived.
pub async fn copy_slots(
    settings: &InstanceSettings,
    source: &Address,
    slots: &BTreeSet<String>,
    upstream: Option<Address>,
    patience: Span,
) -> Result<Started, Error> {
    let what = format!("copy the slots of {}:{}", source.host, source.port);
    let programs = Programs::of(settings).await?;
    let far = Far {
        settings,
        programs: &programs,
        address: source,
        login: settings.rewind_login(),
        purpose: "slots",
    };
    let said = far.ask(&what, &[], &statement(slots), ASK).await?;
    let mut states = read_states(&said, slots).trying(|| what.clone())?;
    if states.is_empty() {
        return Err(Error::refused(what, "it has none of them"));
    }
    // A slot whose WAL is not here cannot move, and would have to be copied again and again.
    let segment_bytes = read_control_data(settings, &programs, ASK).await?.wal_segment_bytes;
    states.retain(|_, state| has_segment(&settings.data_dir, state.restart, segment_bytes));
    if states.is_empty() {
        let why = "they need WAL from before this standby was made; their consumers must move on first";
        return Err(Error::refused(what, why));
    }
    stop_fast(settings, patience).await?;
    let written = states.iter().try_for_each(|(name, state)| write_state(settings, name, &state.content));
    let started = start_standby(settings, upstream, patience).await;
    written?;
    started
}

fn statement(slots: &BTreeSet<String>) -> String {
    let names: Vec<String> = slots.iter().map(|name| quoted_text(name)).collect();
    format!(
        "SELECT slot_name, restart_lsn, encode(pg_catalog.pg_read_binary_file('pg_replslot/' || slot_name || '/state'), 'hex') \
         FROM pg_catalog.pg_replication_slots \
         WHERE slot_type = 'logical' AND restart_lsn IS NOT NULL AND slot_name IN ({})",
        names.join(", ")
    )
}

/// What the source says of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    /// The oldest WAL that it needs.
    restart: Lsn,
    content: Vec<u8>,
}

/// Only slots that were asked for: a name becomes a path.
fn read_states(said: &str, slots: &BTreeSet<String>) -> Result<BTreeMap<String, State>, String> {
    let mut states = BTreeMap::new();
    for line in said.lines().filter(|line| !line.trim().is_empty()) {
        let (name, rest) = line.split_once('|').ok_or("a line without a position")?;
        let unreadable = || format!("the state of {name} cannot be read");
        let (restart, digits) = rest.split_once('|').ok_or_else(unreadable)?;
        let restart = restart.trim().parse().map_err(|_| unreadable())?;
        let content = bytes(digits.trim()).ok_or_else(unreadable)?;
        if slots.contains(name) {
            states.insert(name.to_owned(), State { restart, content });
        }
    }
    Ok(states)
}

fn bytes(digits: &str) -> Option<Vec<u8>> {
    let good = digits.len().is_multiple_of(2)
        && !digits.is_empty()
        && digits.len() <= 2 * STATE_BYTES_MAX
        && digits.is_ascii();
    let pair = |at: usize| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
    good.then(|| (0..digits.len()).step_by(2).map(pair).collect())?
}

/// A name with `.tmp` is removed by PostgreSQL when it starts: what was not finished is as if it had not begun.
fn write_state(settings: &InstanceSettings, name: &str, state: &[u8]) -> Result<(), Error> {
    let slots = settings.data_dir.join("pg_replslot");
    let (fresh, final_place) = (slots.join(format!("{name}.tmp")), slots.join(name));
    let what = || format!("write the slot {name}");
    let remove = |path: &PathBuf| match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    };
    remove(&fresh).trying(what)?;
    make_private_directory(&fresh, settings.identity()?)?;
    write_bytes_durably(&fresh.join("state"), state, 0o600, settings.identity()?)?;
    remove(&final_place).trying(what)?;
    fs::rename(&fresh, &final_place).trying(what)?;
    fs::File::open(&slots).and_then(|directory| directory.sync_all()).trying(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_asked_for_is_taken_and_only_whole() {
        let slots = BTreeSet::from(["cdc".to_owned()]);
        let states = read_states("cdc|0/10|00ff10\n../evil|0/10|00\n", &slots).expect("two lines");
        let wanted = State { restart: Lsn(16), content: vec![0, 255, 16] };
        assert_eq!(states, BTreeMap::from([("cdc".to_owned(), wanted)]));
        for bad in
            ["cdc", "cdc|", "cdc|0/10", "cdc|x|00", "cdc|0/10|", "cdc|0/10|0", "cdc|0/10|zz", "cdc|0/10|é0"]
        {
            assert!(read_states(bad, &slots).is_err(), "{bad}");
        }
        assert_eq!(read_states("\n", &slots), Ok(BTreeMap::new()));
    }
}
