//! Password files: how a password reaches libpq without passing through a command line, the environment or a setting.

use std::path::{Path, PathBuf};

use super::error::Error;
use super::files::{remove_if_there, write_durably, write_if_changed};
use super::settings::{InstanceSettings, Login};
use crate::model::Address;

/// The one that `primary_conninfo` names.
pub(super) fn write_standing(settings: &InstanceSettings, upstream: &Address) -> Result<(), Error> {
    if let Some(line) = line(upstream, &settings.replication) {
        write_if_changed(&settings.pgpass, &line, 0o600, settings.identity()?)?;
    }
    Ok(())
}

/// One for a single job, gone when the job is.
#[derive(Debug)]
pub(super) struct PassFile {
    path: PathBuf,
}

impl PassFile {
    pub fn write(
        settings: &InstanceSettings,
        job: &str,
        address: &Address,
        login: &Login,
    ) -> Result<PassFile, Error> {
        let mut path = settings.pgpass.clone().into_os_string();
        path.push(format!(".{job}"));
        let file = PassFile { path: PathBuf::from(path) };
        let content = line(address, login).unwrap_or_default();
        write_durably(&file.path, &content, 0o600, settings.identity()?)?;
        Ok(file)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for PassFile {
    fn drop(&mut self) {
        // It is readable by nobody else, and the next job writes it anew.
        let _ = remove_if_there(&self.path);
    }
}

fn line(address: &Address, login: &Login) -> Option<String> {
    let password = login.password.as_ref()?;
    let port = address.port.to_string();
    let of_host = |host: &str| {
        let host = if host.starts_with('/') { "localhost" } else { host };
        let fields = [host, &port, "*", &login.username, password.reveal()];
        let escape = |field: &&str| field.replace('\\', "\\\\").replace(':', "\\:");
        fields.iter().map(escape).collect::<Vec<_>>().join(":") + "\n"
    };
    Some(address.host.split(',').map(|host| of_host(host.trim())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colons_and_backslashes_are_escaped() {
        let address = Address { host: "fd00::1".to_owned(), port: 5432 };
        let login = Login::named("a:b").with_password("c\\d");
        assert_eq!(line(&address, &login).as_deref(), Some("fd00\\:\\:1:5432:*:a\\:b:c\\\\d\n"));
        assert_eq!(line(&address, &Login::named("x")), None);
    }
}
