//! Requests to the members' REST APIs, as `patronictl` makes them: one connection each, Basic authentication, TLS.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use hyper::http::request::Builder;
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::caller;
use super::cluster::Member;
use super::document::Document;
use super::tls::{self, Trust};
use crate::config::Credentials;
use crate::model::{SAID_BY, SAID_WHY};

const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: usize = 4 << 20;

#[derive(Clone, Debug)]
pub struct Members {
    /// The value of the header.
    pub authorization: Option<String>,
    pub trust: Trust,
    pub patience: Duration,
    /// Why something is asked for: members of ours note it.
    pub reason: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    pub text: String,
}

impl Members {
    #[must_use]
    pub fn because(&self, reason: Option<&str>) -> Members {
        Members { reason: reason.and_then(crate::model::words), ..self.clone() }
    }

    /// `endpoint` replaces the path of the member's own URL; without it, that path is asked.
    pub async fn ask(
        &self,
        member: &Member,
        method: Method,
        endpoint: Option<&str>,
        body: Option<Document>,
    ) -> Result<Reply> {
        let Some(url) = member.api_url() else {
            bail!("the member {} has not published the address of its REST API", member.name);
        };
        let asked = || format!("ask {} at {url}", member.name);
        let target = Target::parse(url, endpoint).with_context(asked)?;
        self.exchange(&target, method, body).await.with_context(asked)
    }

    /// The status that a health check gets, as balancers ask: `path` replaces the one of the member's URL.
    pub async fn check(&self, url: &str, path: &str) -> Result<u16> {
        let target = Target::parse(url, Some(path.trim_start_matches('/')))?;
        Ok(self.exchange(&target, Method::OPTIONS, None).await?.status)
    }

    async fn exchange(&self, target: &Target, method: Method, body: Option<Document>) -> Result<Reply> {
        let connect = TcpStream::connect((target.host.as_str(), target.port));
        let stream = timeout(CONNECT_PATIENCE.min(self.patience), connect).await;
        let stream = stream.context("no connection in time")?.context("connect")?;
        let request = self.request(target, method, body)?;
        let answer = async {
            if target.tls {
                let config = self.trust.client(self.trust.strictness())?;
                let handshake = timeout(CONNECT_PATIENCE, tls::wrap(stream, &target.host, config)).await;
                send(handshake.context("no TLS handshake in time")?.context("agree on TLS")?, request).await
            } else {
                send(stream, request).await
            }
        };
        let seconds = self.patience.as_secs();
        match timeout(self.patience, answer).await {
            Ok(answer) => answer,
            Err(_) => bail!(
                "no answer within {seconds} s (--request-timeout); the request may still be carried out"
            ),
        }
    }

    fn request(
        &self,
        target: &Target,
        method: Method,
        body: Option<Document>,
    ) -> Result<Request<Full<Bytes>>> {
        let mut request = Request::builder()
            .method(method)
            .uri(&target.path)
            .header(HOST, &target.authority)
            .header(USER_AGENT, concat!("Tenure/", env!("CARGO_PKG_VERSION")))
            .header(CONNECTION, "close");
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if *request.method_ref().unwrap_or(&Method::GET) != Method::GET {
            request = said(request, SAID_BY, Some(&caller::by()));
            request = said(request, SAID_WHY, self.reason.as_deref());
        }
        let body = body.map(|body| Bytes::from(body.to_json())).unwrap_or_default();
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request.header(CONTENT_LENGTH, body.len());
        request.body(Full::new(body)).context("make the request")
    }
}

/// What no header can hold is not said.
fn said(request: Builder, name: &str, text: Option<&str>) -> Builder {
    match text.and_then(|text| HeaderValue::from_bytes(text.as_bytes()).ok()) {
        Some(value) => request.header(name, value),
        None => request,
    }
}

async fn send<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Reply>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.context("speak HTTP")?;
    let answer = async {
        let response = sender.send_request(request).await.context("wait for the answer")?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("read the answer: {error}"))?.to_bytes();
        Ok(Reply { status, text: String::from_utf8_lossy(&body).into_owned() })
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

#[derive(Debug, PartialEq, Eq)]
struct Target {
    tls: bool,
    host: String,
    port: u16,
    authority: String,
    path: String,
}

impl Target {
    fn parse(url: &str, endpoint: Option<&str>) -> Result<Target> {
        let uri: Uri = url.parse().context("this is not a URL")?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            Some(_) | None => bail!("the URL does not begin with http:// or https://"),
        };
        let authority = uri.authority().context("the URL names no host")?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() || authority.as_str().contains('@') {
            bail!("the URL must name a host, and neither user nor password");
        }
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let own = uri.path_and_query().map_or("/", |path| path.as_str());
        let path = endpoint.map_or_else(|| own.to_owned(), |endpoint| format!("/{endpoint}"));
        Ok(Target { tls, host, port, authority: authority.as_str().to_owned(), path })
    }
}

/// The header's value for a user and a password.
pub fn basic(login: &Credentials) -> String {
    format!("Basic {}", base64(format!("{}:{}", login.username, login.password.reveal()).as_bytes()))
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * place) & 63) as usize];
            out.push(if place <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_replaces_the_path_of_a_members_url() {
        let target = Target::parse("https://[fd00::1]:8008/patroni", Some("restart")).expect("a URL");
        assert_eq!((target.host.as_str(), target.port, target.path.as_str()), ("fd00::1", 8008, "/restart"));
        assert!(target.tls);
        let own = Target::parse("http://db1/patroni", None).expect("a URL");
        assert_eq!((own.port, own.path.as_str(), own.tls), (80, "/patroni", false));
        for wrong in ["", "db1:8008", "ftp://db1", "http://", "http://u:p@db1/"] {
            assert!(Target::parse(wrong, None).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_login_is_spelled_in_base64() {
        for (plain, encoded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }
}
