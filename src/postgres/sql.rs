//! A connection to the local server, with everything pinned that a user could have bent.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls, Row, Statement, ToStatement};

use super::error::{Error, Trying};
use super::settings::{InstanceSettings, Login};
use crate::model::Span;

/// Dropping it closes the connection.
#[derive(Debug)]
pub(super) struct Session {
    client: Client,
    driver: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// How a server meets a new connection.
#[derive(Debug)]
pub(super) enum Greeting {
    Welcome(Session),
    /// It answered, so it is alive: every connection is taken, the password is wrong, …
    TurnedAway(String),
    /// It starts, stops, or recovers from a crash of one of its processes.
    NotYet(String),
    Silent(String),
}

/// Where to connect, and as whom.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub host: String,
    pub port: u16,
    pub database: String,
    pub login: Login,
}

impl Target {
    /// The server that clients see, from this machine.
    pub fn local(settings: &InstanceSettings) -> Target {
        Target {
            host: settings.local_host(),
            port: settings.port,
            database: settings.database.clone(),
            login: settings.superuser.clone(),
        }
    }
}

/// Opens a new connection. `patience` bounds this, and every statement on it on the server's side.
pub(super) async fn greet(target: &Target, patience: Span) -> Greeting {
    let mut config = Config::new();
    config.host(&target.host).port(target.port).dbname(&target.database).user(&target.login.username);
    config.application_name("Tenure");
    let timeout_ms = patience.as_ms();
    config.options(format!(
        "-c search_path=pg_catalog -c statement_timeout={timeout_ms} -c lock_timeout={timeout_ms} \
         -c client_min_messages=warning -c synchronous_commit=local -c default_transaction_read_only=off \
         -c standard_conforming_strings=on"
    ));
    if let Some(password) = &target.login.password {
        config.password(password.reveal());
    }
    match timeout(patience.as_duration(), config.connect(NoTls)).await {
        Ok(Ok((client, connection))) => {
            // A broken connection is told by the statement that meets it.
            #[expect(clippy::disallowed_methods, reason = "it ends with the session that holds its handle")]
            let driver = tokio::spawn(async move {
                let _ = connection.await;
            });
            Greeting::Welcome(Session { client, driver })
        }
        Ok(Err(error)) => match error.as_db_error() {
            Some(said) if *said.code() == SqlState::CANNOT_CONNECT_NOW => {
                Greeting::NotYet(said.message().to_owned())
            }
            Some(said) => Greeting::TurnedAway(said.message().to_owned()),
            // A password that is missing on our side is asked for by a server that lives.
            None if sentence(&error).contains("password") => Greeting::TurnedAway(sentence(&error)),
            None => Greeting::Silent(sentence(&error)),
        },
        Err(_) => Greeting::Silent(format!("no answer within {patience}")),
    }
}

/// Does the postmaster answer? Asked whether it speaks TLS, a child of it says yes or no before it looks at anything else:
/// no catalogue, no lock, no limit of connections.
pub(super) async fn knock(target: &Target, patience: Span) -> bool {
    let answer = async {
        if target.host.starts_with('/') {
            let path = format!("{}/.s.PGSQL.{}", target.host, target.port);
            ask_for_tls(UnixStream::connect(path).await?).await
        } else {
            ask_for_tls(TcpStream::connect((target.host.as_str(), target.port)).await?).await
        }
    };
    timeout(patience.as_duration(), answer).await.is_ok_and(|answer| answer.is_ok())
}

/// That it hangs up is an answer, too: only a postmaster that takes connections can.
async fn ask_for_tls(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
    stream.write_all(&SSL_REQUEST).await?;
    stream.read(&mut [0]).await.map(|_| ())
}

/// A connection or the reason why there is none.
pub(super) async fn connect(what: &str, target: &Target, patience: Span) -> Result<Session, Error> {
    match greet(target, patience).await {
        Greeting::Welcome(session) => Ok(session),
        Greeting::TurnedAway(why) | Greeting::NotYet(why) | Greeting::Silent(why) => {
            Err(Error::failed(what, why))
        }
    }
}

impl Session {
    pub async fn prepared(&self, what: &str, statement: &str, patience: Span) -> Result<Statement, Error> {
        let asked = timeout(patience.as_duration(), self.client.prepare(statement)).await;
        asked
            .map_err(|_| Error::out_of_time(what, patience))?
            .map_err(|error| sentence(&error))
            .trying(|| what.to_owned())
    }

    pub async fn row<S: ToStatement + ?Sized>(
        &self,
        what: &str,
        statement: &S,
        patience: Span,
    ) -> Result<Row, Error> {
        let asked = timeout(patience.as_duration(), self.client.query_one(statement, &[])).await;
        asked
            .map_err(|_| Error::out_of_time(what, patience))?
            .map_err(|error| sentence(&error))
            .trying(|| what.to_owned())
    }

    pub async fn run(&self, what: &str, statements: &str, patience: Span) -> Result<(), Error> {
        let asked = timeout(patience.as_duration(), self.client.batch_execute(statements)).await;
        asked
            .map_err(|_| Error::out_of_time(what, patience))?
            .map_err(|error| sentence(&error))
            .trying(|| what.to_owned())
    }
}

/// tokio-postgres' own text says "db error" and leaves the rest to its source.
fn sentence(error: &tokio_postgres::Error) -> String {
    match (error.as_db_error(), std::error::Error::source(error)) {
        (Some(said), _) => said.message().to_owned(),
        (None, Some(source)) => format!("{error}: {source}"),
        (None, None) => error.to_string(),
    }
}

/// For the few names and texts that cannot be parameters.
pub(super) fn quoted_name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Standard strings: only the quote itself is special.
pub(super) fn quoted_text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
