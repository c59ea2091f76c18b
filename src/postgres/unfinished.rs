//! The mark beside a data directory that says: what began here has not ended, never start this.

use std::fs;
use std::path::PathBuf;

use super::error::Error;
use super::files::{remove_durably, write_durably};
use super::settings::InstanceSettings;
use crate::model::Unfinished;

/// Beside and not inside, because what makes the directory wants it empty.
pub(super) fn marker_path(settings: &InstanceSettings) -> PathBuf {
    settings.beside(".tenure-unfinished")
}

/// Says that the data was restored for a new cluster and that nobody has led it. Two members that restore the same backup
/// one after the other get the same identity and the same timeline, and different data: only one of them may ever lead, and
/// the other must not follow.
fn never_led_path(settings: &InstanceSettings) -> PathBuf {
    settings.beside(".tenure-never-led")
}

pub(super) fn has_never_led(settings: &InstanceSettings) -> bool {
    never_led_path(settings).exists()
}

pub(super) fn mark_never_led(settings: &InstanceSettings) -> Result<(), Error> {
    write_durably(&never_led_path(settings), "", 0o600, settings.identity()?)
}

/// Under a lease, or because it is not what it was.
pub(super) fn lead(settings: &InstanceSettings) -> Result<(), Error> {
    if has_never_led(settings) { remove_durably(&never_led_path(settings)) } else { Ok(()) }
}

/// Durable before the first byte of the work.
pub(super) fn mark(settings: &InstanceSettings, work: Unfinished) -> Result<(), Error> {
    lead(settings)?;
    write_durably(&marker_path(settings), &format!("{}\n", word(work)), 0o600, settings.identity()?)
}

/// The work has ended well, or its remains have gone.
pub(super) fn unmark(settings: &InstanceSettings) -> Result<(), Error> {
    remove_durably(&marker_path(settings))
}

/// What has not ended here. A mark that cannot be read is one all the same, and the most harmless reading of it is a
/// rewind: that is never deleted.
pub(super) fn marked(settings: &InstanceSettings) -> Option<Unfinished> {
    match fs::read_to_string(marker_path(settings)) {
        Ok(text) => [Unfinished::Bootstrap, Unfinished::Clone]
            .into_iter()
            .find(|work| text.trim() == word(*work))
            .or(Some(Unfinished::Rewind)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(_) => Some(Unfinished::Rewind),
    }
}

pub(super) fn word(work: Unfinished) -> &'static str {
    match work {
        Unfinished::Bootstrap => "bootstrap",
        Unfinished::Clone => "clone",
        Unfinished::Rewind => "rewind",
    }
}
