//! A connection to a member's PostgreSQL for the operator: user, password and TLS are found as libpq finds them.

use std::error::Error;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail};
use nix::unistd::{Uid, User};
use tokio::task::JoinSet;
use tokio_postgres::config::{Host, SslMode};
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

/// A server, or several of them, with all that it takes to log in.
#[derive(Clone, Debug)]
pub struct Way {
    config: Config,
    connector: ForPostgres,
    pub user: String,
    pub database: String,
}

pub async fn connect(address: &Address, login: &Login) -> Result<Connection> {
    let mut config = Config::new();
    config.host(&address.host).port(address.port);
    Way::new(config, login)?.connect().await
}

impl Way {
    /// `config` says where, and may say more; the login goes before it.
    pub fn new(mut config: Config, login: &Login) -> Result<Way> {
        let user = login.user.clone().or_else(|| config.get_user().map(str::to_owned));
        let user = match user.or_else(|| variable("PGUSER")) {
            Some(user) => user,
            None => system_user()?,
        };
        let database = login.database.clone().or_else(|| config.get_dbname().map(str::to_owned));
        let database = database.or_else(|| variable("PGDATABASE")).unwrap_or_else(|| user.clone());
        let saved = || addresses(&config).iter().find_map(|at| saved_password(at, &database, &user));
        let password = match &login.password {
            Some(password) => Some(password.clone()),
            None => variable("PGPASSWORD").map(Secret::new).or_else(saved),
        };
        let (mode, strictness) = match variable("PGSSLMODE") {
            Some(mode) => ssl_mode(Some(&mode))?,
            None => (config.get_ssl_mode(), Strictness::AnyCertificate),
        };
        config.user(&user).dbname(&database).ssl_mode(mode).application_name("Tenure ctl");
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
        Ok(Way { config, connector: ForPostgres(trust.client(strictness)?), user, database })
    }

    /// Where it leads to, without a password.
    pub fn told(&self) -> String {
        let spell = |at: &Address| {
            let Address { host, port } = at;
            if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
        };
        addresses(&self.config).iter().map(spell).collect::<Vec<_>>().join(", ")
    }

    pub async fn connect(&self) -> Result<Connection> {
        let connected = self.config.connect(self.connector.clone()).await;
        let (client, connection) = connected
            .map_err(|error| anyhow!("connect to {} as {}: {}", self.told(), self.user, chain(&error)))?;
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            // A broken connection is told by the statement that meets it.
            let _ = connection.await;
        });
        Ok(Connection { client, _driver: driver })
    }
}

/// As libpq pairs hosts with ports.
fn addresses(config: &Config) -> Vec<Address> {
    let ports = config.get_ports();
    let port = |index: usize| ports.get(index).or_else(|| ports.last()).copied().unwrap_or(5432);
    let host = |host: &Host| match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(directory) => directory.display().to_string(),
    };
    let hosts = config.get_hosts().iter().enumerate();
    hosts.map(|(index, found)| Address { host: host(found), port: port(index) }).collect()
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
