//! Who is let in, over TLS and without, by certificate, password and list; and clients that only want to be in the way.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper::Method;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};
use tenure::api::Doors;
use tenure::config::RestApi;
use tenure::model::Secret;
use tenure::peers::http::Login;
use tenure::peers::{self, tls};

use super::*;

const PASSWORD: &str = "sesame";

/// An authority, and a certificate from it that serves as a server's and as a client's.
struct Papers {
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
    encrypted_key: PathBuf,
}

impl Papers {
    fn make(directory: &Path, name: &str) -> Papers {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca =
            CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
        let key = KeyPair::generate().expect("a key");
        // Members are called by addresses that no certificate names.
        let cert = CertificateParams::new(vec!["db1.example.org".to_owned()]).expect("a good name");
        let cert = cert.signed_by(&key, &ca).expect("the authority signs");
        let write = |file: &str, text: &str| {
            let path = directory.join(format!("{name}-{file}.pem"));
            std::fs::write(&path, text).expect("the directory can be written to");
            path
        };
        Papers {
            ca: write("ca", &ca.pem()),
            cert: write("cert", &cert.pem()),
            key: write("key", &key.serialize_pem()),
            encrypted_key: write("encrypted-key", &encrypted(&key.serialize_der())),
        }
    }

    fn client(&self, with_certificate: bool) -> peers::Client {
        let files = tls::ClientFiles {
            cafile: Some(self.ca.clone()),
            certfile: with_certificate.then(|| self.cert.clone()),
            keyfile: with_certificate.then(|| self.key.clone()),
            keyfile_password: None,
        };
        let config = tls::client(&files).expect("good files");
        peers::Client { tls: Some(Arc::new(config)), authentication: None }
    }
}

fn encrypted(key: &[u8]) -> String {
    let how = pkcs8::pkcs5::pbes2::Parameters::pbkdf2_sha256_aes256cbc(2048, b"saltsalt", &[7; 16]);
    let key = pkcs8::PrivateKeyInfo::try_from(key).expect("a key");
    let hidden = key.encrypt_with_params(how.expect("good parameters"), PASSWORD).expect("encrypted");
    hidden.to_pem("ENCRYPTED PRIVATE KEY", pkcs8::LineEnding::LF).expect("text").to_string()
}

/// A section `restapi` with these settings beside the addresses.
fn section(settings: Value) -> RestApi {
    let mut whole = json!({"listen": "127.0.0.1:8008", "connect_address": "127.0.0.1:8008"});
    if let (Value::Object(whole), Value::Object(settings)) = (&mut whole, settings) {
        whole.extend(settings);
    }
    serde_json::from_value(whole).expect("a good section")
}

fn doors(settings: Value) -> Doors {
    Doors::open(&section(settings)).expect("good settings")
}

async fn server(settings: Value) -> Server {
    Server::behind(doors(settings), standby(), Limits::default(), || NOW).await
}

/// The code of an answer, or what there was instead.
async fn ask(server: &Server, client: &peers::Client, method: Method, path: &str) -> Result<u16, String> {
    let url = format!("https://{}{path}", server.address);
    let body = (method != Method::GET).then(|| "[]".into());
    let reply = client.call(method, &url, body, DEADLINE, 64 << 10).await;
    reply.map(|reply| reply.status).map_err(|error| error.to_string())
}

#[tokio::test]
async fn members_speak_tls_with_whoever_has_a_certificate_of_their_authority() {
    let directory = tempfile::tempdir().expect("a directory");
    let (ours, others) = (Papers::make(directory.path(), "ours"), Papers::make(directory.path(), "others"));
    let server = server(json!({"certfile": ours.cert, "keyfile": ours.key})).await;
    assert_eq!(ask(&server, &ours.client(false), Method::GET, "/replica").await, Ok(200));
    let stranger = ask(&server, &others.client(false), Method::GET, "/replica").await;
    assert!(stranger.expect_err("another authority").contains("invalid peer certificate"));
    let believing = tls::client(&tls::ClientFiles::default()).expect("no files");
    let believing = peers::Client { tls: Some(Arc::new(believing)), authentication: None };
    assert_eq!(ask(&server, &believing, Method::GET, "/replica").await, Ok(200));
    // Plain HTTP gets no answer at all.
    assert!(!server.raw("GET /replica HTTP/1.0\r\n\r\n").await.contains("200"));
    server.end().await;
}

#[tokio::test]
async fn a_client_certificate_is_asked_for_as_configured() {
    let directory = tempfile::tempdir().expect("a directory");
    let (ours, others) = (Papers::make(directory.path(), "ours"), Papers::make(directory.path(), "others"));
    let with = |verify: &str| json!({"certfile": ours.cert, "keyfile": ours.key, "cafile": ours.ca, "verify_client": verify});
    // The body is not an object, so whoever is let in hears 400.
    let optional = server(with("optional")).await;
    assert_eq!(ask(&optional, &ours.client(false), Method::GET, "/replica").await, Ok(200));
    assert_eq!(ask(&optional, &ours.client(false), Method::PUT, "/config").await, Ok(403));
    assert_eq!(ask(&optional, &ours.client(true), Method::PUT, "/config").await, Ok(400));
    let mut stranger = others.client(true);
    stranger.tls = tls::client(&tls::ClientFiles {
        cafile: Some(ours.ca.clone()),
        certfile: Some(others.cert.clone()),
        keyfile: Some(others.key.clone()),
        keyfile_password: None,
    })
    .map(Arc::new)
    .ok();
    assert!(ask(&optional, &stranger, Method::GET, "/replica").await.is_err());
    optional.end().await;
    let required = server(with("required")).await;
    assert!(ask(&required, &ours.client(false), Method::GET, "/replica").await.is_err());
    assert_eq!(ask(&required, &ours.client(true), Method::GET, "/replica").await, Ok(200));
    assert_eq!(ask(&required, &ours.client(true), Method::PUT, "/config").await, Ok(400));
    required.end().await;
}

#[tokio::test]
async fn a_new_certificate_is_shown_without_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let (old, new) = (Papers::make(directory.path(), "old"), Papers::make(directory.path(), "new"));
    let server = server(json!({"certfile": old.cert, "keyfile": old.key})).await;
    assert_eq!(ask(&server, &old.client(false), Method::GET, "/replica").await, Ok(200));
    server.doors.send_replace(Arc::new(doors(json!({"certfile": new.cert, "keyfile": new.key}))));
    assert_eq!(ask(&server, &new.client(false), Method::GET, "/replica").await, Ok(200));
    assert!(ask(&server, &old.client(false), Method::GET, "/replica").await.is_err());
    server.end().await;
}

#[tokio::test]
async fn an_encrypted_key_needs_its_password() {
    let directory = tempfile::tempdir().expect("a directory");
    let papers = Papers::make(directory.path(), "ours");
    let open = |password: Option<&str>| {
        let key =
            json!({"certfile": papers.cert, "keyfile": papers.encrypted_key, "keyfile_password": password});
        Doors::open(&section(key))
            .map(|_| ())
            .map_err(|why| why.split(": ").last().unwrap_or_default().to_owned())
    };
    assert_eq!(open(Some(PASSWORD)), Ok(()));
    assert_eq!(
        open(Some("wrong")),
        Err("the key cannot be decrypted with the password that is set".to_owned())
    );
    assert_eq!(open(None), Err("the key is encrypted, and no password for it is set".to_owned()));
    let old = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n";
    std::fs::write(&papers.encrypted_key, old).expect("our own file");
    assert!(open(Some(PASSWORD)).expect_err("an old form").contains("openssl pkcs8 -topk8"));
    let without_ca =
        section(json!({"certfile": papers.cert, "keyfile": papers.key, "verify_client": "required"}));
    assert!(Doors::open(&without_ca).is_err());
    assert!(Doors::open(&section(json!({"certfile": "/nonexistent/cert.pem"}))).is_err());
}

#[tokio::test]
async fn changing_needs_the_password_and_asking_does_not() {
    let server = server(json!({"authentication": {"username": "admin", "password": PASSWORD}})).await;
    for path in ["/config", "/switchover", "/restart", "/reload", "/drill", "/mpp", "/nonsense"] {
        let answer = server.raw(format!("POST {path} HTTP/1.0\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.0 401 Unauthorized\r\n"), "{path}: {answer}");
        assert!(answer.contains("www-authenticate: Basic realm=\"Patroni\""), "{answer}");
        assert!(answer.ends_with("no auth header received"), "{answer}");
    }
    let wrong = server.raw("PUT /config HTTP/1.0\r\nAuthorization: Basic eDp5\r\n\r\n").await;
    assert!(wrong.ends_with("\r\n\r\nnot authenticated"), "{wrong}");
    for path in ["/replica", "/config", "/patroni", "/metrics", "/cluster"] {
        assert_eq!(server.code(&format!("GET {path} HTTP/1.0\r\n\r\n")).await, "200", "{path}");
    }
    let login = Login { username: "admin".to_owned(), password: Secret::new(PASSWORD) };
    let client = peers::Client { tls: None, authentication: Some(login) };
    let url = format!("http://{}/config", server.address);
    let reply =
        client.call(Method::PUT, &url, Some("[]".into()), DEADLINE, 64 << 10).await.expect("an answer");
    assert_eq!(reply.status, 400);
    server.end().await;
}

#[tokio::test]
async fn only_who_is_on_the_list_may_change_something() {
    let change = "PUT /config HTTP/1.0\r\n\r\n";
    for (settings, code) in [
        (json!({"allowlist": ["10.0.0.0/8"]}), "403"),
        (json!({"allowlist": ["10.0.0.0/8", "127.0.0.0/8"]}), "411"),
        (json!({"allowlist_include_members": true}), "411"),
        (json!({"allowlist": ["10.0.0.1"], "allowlist_include_members": false}), "403"),
    ] {
        let server = server(settings.clone()).await;
        assert_eq!(server.code(change).await, code, "{settings}");
        assert_eq!(server.code("POST /drill HTTP/1.0\r\n\r\n").await, code, "{settings}");
        assert_eq!(server.code("GET /config HTTP/1.0\r\n\r\n").await, "200");
        server.end().await;
    }
    let members = server(json!({"allowlist": ["10.0.0.1"], "allowlist_include_members": true})).await;
    assert_eq!(members.code(change).await, "411");
    assert_eq!(members.code("POST /failsafe HTTP/1.0\r\n\r\n").await, "403", "being a member is not enough");
    members.end().await;
    let named = server(json!({"allowlist": ["localhost"]})).await;
    let mut code = named.code(change).await;
    while code == "403" {
        tokio::task::yield_now().await;
        code = named.code(change).await;
    }
    assert_eq!(code, "411", "as soon as the name has been looked up");
    named.end().await;
    assert!(Doors::open(&section(json!({"allowlist": ["10.0.0.0/33"]}))).is_err());
}

#[tokio::test]
async fn every_answer_with_a_body_bears_the_extra_headers() {
    let directory = tempfile::tempdir().expect("a directory");
    let papers = Papers::make(directory.path(), "ours");
    let plain = json!({"http_extra_headers": {"X-Site": "turku"}, "https_extra_headers": {"X-Secure": "1"},
                       "server_tokens": "productonly"});
    let server = server(plain.clone()).await;
    let answer = server.raw("GET /patroni HTTP/1.0\r\n\r\n").await;
    assert!(answer.contains("\r\nx-site: turku\r\n") && !answer.contains("x-secure"), "{answer}");
    assert!(answer.contains("\r\nserver: Tenure\r\n"), "{answer}");
    let bare = server.raw("HEAD /patroni HTTP/1.0\r\n\r\n").await;
    assert!(!bare.contains("x-site") && !bare.contains("server:"), "{bare}");
    server.end().await;
    let mut over_tls = plain;
    over_tls["certfile"] = json!(papers.cert);
    over_tls["keyfile"] = json!(papers.key);
    over_tls["https_extra_headers"]["X-Site"] = json!("oulu");
    let headers = doors(over_tls).headers;
    let shown: Vec<_> = headers.iter().map(|(k, v)| (k.as_str(), v.to_str().expect("text"))).collect();
    assert_eq!(shown, [("server", "Tenure"), ("x-secure", "1"), ("x-site", "oulu")]);
}

#[tokio::test]
async fn handshakes_that_never_end_do_not_keep_others_out() {
    let directory = tempfile::tempdir().expect("a directory");
    let papers = Papers::make(directory.path(), "ours");
    let limits = Limits { connections_max: 8, ..Limits::default() };
    let doors = doors(json!({"certfile": papers.cert, "keyfile": papers.key}));
    let server = Server::behind(doors, primary(), limits, || NOW).await;
    let client = papers.client(false);
    let mut idle = Vec::new();
    for round in 0..20 {
        idle.push(server.connect("").await);
        idle.push(server.connect(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").await);
        assert_eq!(ask(&server, &client, Method::GET, "/primary").await, Ok(200), "round {round}");
    }
    rest(idle.swap_remove(0)).await;
    server.end().await;
    let limits = Limits { patience: Duration::from_millis(100), ..Limits::default() };
    let slow = Server::behind(doors_of(&papers), primary(), limits, || NOW).await;
    assert_eq!(slow.raw(b"\x16\x03\x01").await, "", "a slow handshake is let go");
    slow.end().await;
}

fn doors_of(papers: &Papers) -> Doors {
    doors(json!({"certfile": papers.cert, "keyfile": papers.key}))
}
