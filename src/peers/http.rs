//! One HTTP/1.1 exchange with a deadline and a limit on what is read: all that agents and `tenurectl` need of each
//! other. No pool, no redirects, no retries.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::model::Secret;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    pub body: Bytes,
}

/// Variants by what may have happened on the other side.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Never sent: nothing happened.
    #[error("{0}")]
    Refused(String),
    #[error("connect to {authority}: {why}")]
    Unreachable { authority: String, why: String },
    /// Sent, perhaps: it may have happened.
    #[error("ask {authority}: {why}")]
    Unanswered { authority: String, why: String },
}

/// Who asks: with TLS and a password, or without.
#[derive(Clone, Debug, Default)]
pub struct Client {
    /// Without it, only plain HTTP is spoken.
    pub tls: Option<Arc<ClientConfig>>,
    /// Sent with requests that change something, and with no others: a question needs none.
    pub authentication: Option<Login>,
}

#[derive(Clone, Debug)]
pub struct Login {
    pub username: String,
    pub password: Secret,
}

impl Client {
    /// Sends one request and reads the whole answer, of at most `body_bytes_max`, within `patience`.
    pub async fn call(
        &self,
        method: Method,
        url: &str,
        body: Option<Bytes>,
        patience: Duration,
        body_bytes_max: usize,
    ) -> Result<Reply, CallError> {
        call_as(self, method, url, body, patience, body_bytes_max).await
    }
}

/// The same over plain HTTP, as nobody in particular.
pub async fn call(
    method: Method,
    url: &str,
    body: Option<Bytes>,
    patience: Duration,
    body_bytes_max: usize,
) -> Result<Reply, CallError> {
    call_as(&Client::default(), method, url, body, patience, body_bytes_max).await
}

async fn call_as(
    client: &Client,
    method: Method,
    url: &str,
    body: Option<Bytes>,
    patience: Duration,
    body_bytes_max: usize,
) -> Result<Reply, CallError> {
    let target = Target::parse(url)?;
    let connector = match (target.secure, &client.tls) {
        (false, _) => None,
        (true, Some(tls)) => Some(TlsConnector::from(Arc::clone(tls))),
        (true, None) => {
            return Err(CallError::Refused(format!("{url:?} wants TLS, which is not set up here")));
        }
    };
    let request = request(client, method, &target, body)?;
    let started = tokio::time::Instant::now();
    let stream = match timeout(patience, TcpStream::connect((target.host.as_str(), target.port))).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(target.unreachable(error.to_string())),
        Err(_) => return Err(target.unreachable(format!("no answer within {} ms", patience.as_millis()))),
    };
    let exchanging = async {
        let Some(connector) = connector else {
            return exchange(stream, &target, request, body_bytes_max).await;
        };
        // Nothing has been asked before both have agreed on a key.
        let name = ServerName::try_from(target.host.clone())
            .map_err(|_| target.unreachable("its name cannot be a certificate's".to_owned()))?;
        let stream = connector.connect(name, stream).await;
        let stream = stream.map_err(|error| target.unreachable(format!("TLS: {error}")))?;
        exchange(stream, &target, request, body_bytes_max).await
    };
    match timeout(patience.saturating_sub(started.elapsed()), exchanging).await {
        Ok(outcome) => outcome,
        Err(_) => Err(target.unanswered(format!("no answer within {} ms", patience.as_millis()))),
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    target: &Target,
    request: Request<Full<Bytes>>,
    body_bytes_max: usize,
) -> Result<Reply, CallError> {
    let failed = |error: hyper::Error| target.unanswered(error.to_string());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(failed)?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), body_bytes_max).collect().await;
        match body {
            Ok(body) => Ok(Reply { status, body: body.to_bytes() }),
            Err(error) if error.is::<LengthLimitError>() => {
                Err(target.unanswered(format!("the answer is longer than {body_bytes_max} bytes")))
            }
            Err(error) => Err(target.unanswered(error.to_string())),
        }
    };
    // The connection moves the bytes; whatever ends it, the answer tells how far it came.
    let moving = async {
        let _ = connection.await;
        std::future::pending().await
    };
    tokio::select! {
        answer = answer => answer,
        never = moving => never,
    }
}

fn request(
    client: &Client,
    method: Method,
    target: &Target,
    body: Option<Bytes>,
) -> Result<Request<Full<Bytes>>, CallError> {
    let changes = !matches!(method, Method::GET | Method::HEAD | Method::OPTIONS);
    let mut request = Request::builder()
        .method(method)
        .uri(&target.path)
        .header(HOST, &target.authority)
        .header(USER_AGENT, concat!("Tenure/", env!("CARGO_PKG_VERSION")))
        .header(CONNECTION, "close");
    if let Some(login) = client.authentication.as_ref().filter(|_| changes) {
        let both = STANDARD.encode(format!("{}:{}", login.username, login.password.reveal()));
        request = request.header(AUTHORIZATION, format!("Basic {both}"));
    }
    if let Some(body) = &body {
        request = request.header(CONTENT_TYPE, "application/json").header(CONTENT_LENGTH, body.len());
    }
    request.body(Full::new(body.unwrap_or_default())).map_err(|error| CallError::Refused(error.to_string()))
}

#[derive(Debug)]
struct Target {
    authority: String,
    host: String,
    port: u16,
    path: String,
    secure: bool,
}

impl Target {
    fn parse(url: &str) -> Result<Target, CallError> {
        let refused = |why: &str| CallError::Refused(format!("{url:?} {why}"));
        let uri: Uri = url.parse().map_err(|_| refused("is not a URL"))?;
        let secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            Some(_) | None => return Err(refused("does not begin with http:// or https://")),
        };
        let authority = uri.authority().ok_or_else(|| refused("names no host"))?;
        // A password in a URL would end up in logs; Basic authentication has a place of its own.
        if authority.as_str().contains('@') {
            return Err(CallError::Refused("a member's URL must not carry a user or password".to_owned()));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(refused("names no host"));
        }
        let port = match authority.port_u16() {
            Some(port) => port,
            None if authority.as_str().len() == authority.host().len() => {
                if secure {
                    443
                } else {
                    80
                }
            }
            None => return Err(refused("has a port that is not a number below 65536")),
        };
        Ok(Target {
            secure,
            host,
            port,
            authority: authority.as_str().to_owned(),
            path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        })
    }

    fn unreachable(&self, why: String) -> CallError {
        CallError::Unreachable { authority: self.authority.clone(), why }
    }

    fn unanswered(&self, why: String) -> CallError {
        CallError::Unanswered { authority: self.authority.clone(), why }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart_or_refused() {
        let check = |url: &str, wanted: Option<(&str, u16, &str)>| {
            let target = Target::parse(url).ok();
            let got = target.as_ref().map(|target| (target.host.as_str(), target.port, target.path.as_str()));
            assert_eq!(got, wanted, "{url}");
        };
        check("http://db1:8008/patroni", Some(("db1", 8008, "/patroni")));
        check("http://[fd00::1]:8008/patroni?x=y", Some(("fd00::1", 8008, "/patroni?x=y")));
        check("http://db1", Some(("db1", 80, "/")));
        check("https://db1", Some(("db1", 443, "/")));
        for wrong in
            ["ftp://db1/", "db1:8008", "/patroni", "http://", "http://u:p@db1/", "http://db1:x/", "\u{1}"]
        {
            check(wrong, None);
        }
    }
}
