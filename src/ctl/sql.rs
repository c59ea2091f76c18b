//! A connection to a member's PostgreSQL for the operator: user, password and TLS are found as libpq finds them.

use std::error::Error;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail};
use nix::unistd::{Uid, User};
use tokio::task::JoinSet;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config};

use super::tls::{ForPostgres, Strictness, Trust};
use crate::model::{Address, Secret};

/// What the command line says; the environment and the password file fill the gaps.
#[derive(Clone, Debug, Default)]
pub struct Login {
    pub user: Option<String>,
    pub password: Option<Secret>,
    pub database: Option<String>,
}

#[derive(Debug)]
pub struct Connection {
    pub client: Client,
    /// Moves the bytes, and ends with the connection.
    _driver: JoinSet<()>,
}

pub async fn connect(address: &Address, login: &Login) -> Result<Connection> {
    let user = match login.user.clone().or_else(|| variable("PGUSER")) {
        Some(user) => user,
        None => system_user()?,
    };
    let database = login.database.clone().or_else(|| variable("PGDATABASE")).unwrap_or_else(|| user.clone());
    let password = match &login.password {
        Some(password) => Some(password.clone()),
        None => variable("PGPASSWORD").map(Secret::new).or_else(|| saved_password(address, &database, &user)),
    };
    let (mode, strictness) = ssl_mode(variable("PGSSLMODE").as_deref())?;
    let mut config = Config::new();
    config.host(&address.host).port(address.port).user(&user).dbname(&database).ssl_mode(mode);
    config.application_name("Tenure ctl");
    if let Some(options) = variable("PGOPTIONS") {
        config.options(options);
    }
    if let Some(password) = &password {
        config.password(password.reveal());
    }
    let trust = Trust {
        cacert: variable("PGSSLROOTCERT").map(PathBuf::from),
        certfile: variable("PGSSLCERT").map(PathBuf::from),
        keyfile: variable("PGSSLKEY").map(PathBuf::from),
        ..Trust::default()
    };
    let connector = ForPostgres(trust.client(strictness)?);
    let connected = config.connect(connector).await;
    let (client, connection) = connected.map_err(|error| {
        anyhow!("connect to {}:{} as {user}: {}", address.host, address.port, chain(&error))
    })?;
    let mut driver = JoinSet::new();
    driver.spawn(async move {
        // A broken connection is told by the statement that meets it.
        let _ = connection.await;
    });
    Ok(Connection { client, _driver: driver })
}

/// An error with its causes in one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn system_user() -> Result<String> {
    let user = User::from_uid(Uid::effective()).context("look up your name")?;
    Ok(user.context("you have no name on this machine; use -U")?.name)
}

fn ssl_mode(mode: Option<&str>) -> Result<(SslMode, Strictness)> {
    Ok(match mode {
        Some("disable") => (SslMode::Disable, Strictness::AnyCertificate),
        None | Some("prefer" | "allow") => (SslMode::Prefer, Strictness::AnyCertificate),
        Some("require") => (SslMode::Require, Strictness::AnyCertificate),
        Some("verify-ca") => (SslMode::Require, Strictness::AnyName),
        Some("verify-full") => (SslMode::Require, Strictness::Full),
        Some(other) => {
            bail!("PGSSLMODE: {other:?} is none of disable, allow, prefer, require, verify-ca, verify-full")
        }
    })
}

/// As libpq does it, a password file that others may read is not used.
fn saved_password(address: &Address, database: &str, user: &str) -> Option<Secret> {
    let path = variable("PGPASSFILE").map(PathBuf::from);
    let path = path.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".pgpass")))?;
    let metadata = std::fs::metadata(&path).ok()?;
    if !metadata.is_file() {
        return None;
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        super::console::warn(format!("{} is not used: others may read it (chmod 600)", path.display()));
        return None;
    }
    let text = std::fs::read_to_string(path).ok()?;
    let port = address.port.to_string();
    password_in(&text, [&address.host, &port, database, user]).map(Secret::new)
}

fn password_in(text: &str, wanted: [&str; 4]) -> Option<String> {
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let fields = fields(line);
        let (password, rest) = fields.get(4).zip(fields.get(..4))?;
        let fits = rest.iter().zip(wanted).all(|(field, wanted)| field == "*" || field == wanted);
        fits.then(|| password.clone())
    })
}

/// Colons between, backslashes before what is meant as it is.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        let next = match character {
            ':' => {
                fields.push(String::new());
                continue;
            }
            '\\' => characters.next().unwrap_or('\\'),
            other => other,
        };
        if let Some(field) = fields.last_mut() {
            field.push(next);
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_fits_holds_the_password() {
        let text = "# mine\nfd00\\:\\:1:5432:*:bob:a\\:b\\\\c\n*:*:shop:bob:second\n*:*:*:*:last\n";
        let check = |wanted, password: &str| assert_eq!(password_in(text, wanted).as_deref(), Some(password));
        check(["fd00::1", "5432", "x", "bob"], "a:b\\c");
        check(["db1", "5433", "shop", "bob"], "second");
        check(["db1", "5433", "shop", "eve"], "last");
        assert_eq!(password_in("a:b\n", ["a", "b", "c", "d"]), None);
    }

    #[test]
    fn ssl_is_as_strict_as_libpq_would_be() {
        assert_eq!(ssl_mode(None).expect("known").1, Strictness::AnyCertificate);
        assert_eq!(ssl_mode(Some("verify-full")).expect("known").1, Strictness::Full);
        assert!(ssl_mode(Some("always")).is_err());
    }
}
