//! Who uses this command: what the notes in the store say of a change.

use nix::unistd::{Uid, User, gethostname};

use super::time;
use crate::model::{Note, words};

/// `anna@ops1`. Behind `sudo` it is the one who has called that.
pub fn by() -> String {
    let named = |name: &str| std::env::var(name).ok().and_then(|value| words(&value));
    let of_uid = || User::from_uid(Uid::current()).ok().flatten().map(|user| user.name);
    let user = named("SUDO_USER").or_else(of_uid).unwrap_or_else(|| Uid::current().to_string());
    let host = gethostname().ok().and_then(|host| host.into_string().ok()).and_then(|host| words(&host));
    match host {
        Some(host) => format!("{user}@{host}"),
        None => user,
    }
}

pub fn note(why: Option<&str>) -> Note {
    Note { by: by(), why: why.and_then(words), at: time::iso(&time::now()) }
}
