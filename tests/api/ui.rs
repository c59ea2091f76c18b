//! The web page as the server gives it out, and which browsers it lets act: without a browser. With one: tests/cluster/page.rs.

use tenure::config::Ui;
use tenure::store::{AdapterSettings, Memory as MemoryStore, Store, StoreSettings};

use super::*;

/// A store that nobody has written to.
pub fn memory() -> Store {
    let adapter = AdapterSettings::Memory(MemoryStore::new());
    Store::connect(&StoreSettings { namespace: "/service".into(), scope: "batman".into(), adapter })
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")
}

async fn with_page(ui: Ui, limits: Limits) -> Server {
    Server::behind(Doors::default().with_page(ui), standby(), limits, || NOW).await
}

/// Reads a stream until it has said this.
async fn hears(stream: &mut TcpStream, heard: &mut String, wanted: &str) {
    let reading = async {
        let mut bytes = [0; 4096];
        while !heard.contains(wanted) {
            let count = stream.read(&mut bytes).await.expect("the stream goes on");
            assert_ne!(count, 0, "the stream ended before {wanted:?}: {heard}");
            heard.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    };
    let in_time = timeout(DEADLINE, reading).await.is_ok();
    assert!(in_time, "waited for {wanted:?}: {heard}");
}

#[tokio::test]
async fn the_page_and_its_parts_come_with_their_policy() {
    let server = Server::plain(standby()).await;
    let parts = [
        ("/ui", "200", "text/html"),
        ("/ui/page.css", "200", "text/css"),
        ("/ui/icon.svg", "200", "image/svg+xml"),
        ("/ui/page.js", "200", "text/javascript"),
        ("/ui/make.js", "200", "text/javascript"),
        ("/ui/members.js", "200", "text/javascript"),
        ("/ui/plot.js", "200", "text/javascript"),
        ("/ui/tell.js", "200", "text/javascript"),
        ("/ui/act.js", "200", "text/javascript"),
        ("/ui/members", "200", "application/json"),
        ("/ui/timeline", "200", "application/json"),
        ("/ui/what-if?if=store-lost", "409", "text/plain"),
        ("/ui/what-if?if=rain", "400", "text/plain"),
        ("/ui/", "308", "text/plain"),
        ("/ui/page", "404", "text/plain"),
        ("/ui/../../etc/passwd", "404", "text/plain"),
    ];
    for (path, code, kind) in parts {
        let answer = server.raw(get(path)).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{path}: {answer}");
        assert!(answer.contains(&format!("content-type: {kind}")), "{path}: {answer}");
        for header in [
            "content-security-policy: default-src 'none'; script-src 'self'; ",
            "frame-ancestors 'none'",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
            "cache-control: no-store",
        ] {
            assert!(answer.contains(header), "{path}: {header}: {answer}");
        }
        assert!(!answer.contains("set-cookie"), "{path}: {answer}");
    }
    // To balancers it is a path like any other.
    assert_eq!(server.code("OPTIONS /ui HTTP/1.0\r\n\r\n").await, "503");
    server.end().await;
}

#[tokio::test]
async fn what_other_members_do_is_told_as_far_as_they_answer() {
    let server = Server::plain(standby()).await;
    server.change(|cluster| {
        let oulu = cluster.members.get_mut("oulu").expect("a member of the fixture");
        oulu.tenure = Some("0.1.0".to_owned());
    });
    let answer = server.raw(get("/ui/members")).await;
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    let told: serde_json::Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(told["members"]["turku"]["rule"], "follows_leader", "{told:#}");
    let why = told["unknown"]["oulu"].as_str().expect("nobody listens there");
    assert!(why.starts_with("connect to 127.0.0.1:1:"), "{why}");
    assert_eq!(told["unknown"]["vaasa"], "it is no member of Tenure's: by which rules it acts is not known");
    server.end().await;
}

#[tokio::test]
async fn a_page_that_is_not_wanted_is_not_there() {
    let server = with_page(Ui::Off, Limits::default()).await;
    for path in ["/ui", "/ui/page.js", "/ui/events", "/ui/members"] {
        assert_eq!(server.code(&get(path)).await, "404", "{path}");
    }
    assert_eq!(server.code(&get("/replica")).await, "200");
    server.end().await;
}

#[tokio::test]
async fn a_stream_tells_what_changes() {
    let server = Server::plain(standby()).await;
    let (mut stream, mut heard) = (server.connect(get("/ui/events")).await, String::new());
    hears(&mut stream, &mut heard, "event: pulse\ndata: {\"unix_ms\": ").await;
    assert!(
        heard.starts_with("HTTP/1.1 200 OK\r\n") && heard.contains("content-type: text/event-stream"),
        "{heard}"
    );
    assert!(
        heard.contains("event: cluster\ndata: {\"me\": \"turku\", ")
            && heard.contains("\"leader\": \"oulu\"")
    );
    heard.clear();
    server.change(|cluster| lead_by(cluster, "vaasa"));
    hears(&mut stream, &mut heard, "\"leader\": \"vaasa\"").await;
    heard.clear();
    // Nothing changes, and there is a sign of life.
    hears(&mut stream, &mut heard, "event: pulse").await;
    assert!(!heard.contains("event: cluster"), "{heard}");
    server.end().await;
}

#[tokio::test]
async fn a_stream_ends_after_a_while() {
    let limits = Limits { stream_life: Duration::from_millis(300), ..Limits::default() };
    let server = with_page(Ui::On, limits).await;
    let told = server.raw(get("/ui/events")).await;
    assert!(told.contains("event: cluster") && told.ends_with("0\r\n\r\n"), "{told}");
    server.end().await;
}

#[tokio::test]
async fn whoever_does_not_read_its_stream_is_let_go() {
    let (stream_life, patience) = (Duration::from_millis(100), Duration::from_millis(100));
    let limits = Limits { stream_life, patience, streams_max: 1, ..Limits::default() };
    let server = with_page(Ui::On, limits).await;
    // More than lies on the way between two sockets.
    server.change(|cluster| {
        let oulu = cluster.members.get_mut("oulu").expect("a member of the fixture");
        oulu.api_url = "x".repeat(12 << 20);
    });
    let unread = server.connect(get("/ui/events")).await;
    unread.readable().await.expect("the answer begins");
    let mut heard = String::new();
    let room = async {
        while !heard.starts_with("HTTP/1.1 200 ") {
            heard.clear();
            let mut stream = server.connect(get("/ui/events")).await;
            hears(&mut stream, &mut heard, "\r\n").await;
        }
    };
    timeout(DEADLINE, room).await.expect("the other stream is given up");
    drop(unread);
    server.end().await;
}

#[tokio::test]
async fn streams_are_few_and_give_way_to_checks() {
    let limits = Limits { connections_max: 4, streams_max: 3, ..Limits::default() };
    let server = with_page(Ui::On, limits).await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        let (mut stream, mut heard) = (server.connect(get("/ui/events")).await, String::new());
        hears(&mut stream, &mut heard, "event: pulse").await;
        streams.push(stream);
    }
    assert_eq!(server.code(&get("/ui/events")).await, "503");
    let mut idle = Vec::new();
    for round in 0..20 {
        idle.push(server.connect("GET /pri").await);
        assert_eq!(server.code("OPTIONS /replica HTTP/1.0\r\n\r\n").await, "200", "round {round}");
    }
    // Whoever came first has gone first, and made room for another page.
    for mut stream in streams {
        let _ = timeout(DEADLINE, stream.read_to_end(&mut Vec::new())).await.expect("the stream was let go");
    }
    let (mut stream, mut heard) = (server.connect(get("/ui/events")).await, String::new());
    hears(&mut stream, &mut heard, "event: pulse").await;
    server.end().await;
}

#[tokio::test]
async fn a_browser_acts_from_our_own_page_only() {
    let ask = |headers: &str| format!("POST /failover HTTP/1.1\r\nHost: db1:8008\r\n{headers}\r\n");
    // Whoever is let in hears that a body is missing.
    let table = [
        ("", "411", "411"),
        ("Origin: http://db1:8008\r\n", "411", "403"),
        ("Origin: http://db1:8008\r\nSec-Fetch-Site: same-origin\r\n", "411", "403"),
        ("Tenure-Page: 1\r\n", "411", "403"),
        ("Origin: http://evil.example\r\n", "403", "403"),
        ("Origin: null\r\n", "403", "403"),
        ("Origin: http://db1:8008\r\nSec-Fetch-Site: cross-site\r\n", "403", "403"),
        ("Sec-Fetch-Site: same-site\r\n", "403", "403"),
    ];
    let (on, reading) =
        (with_page(Ui::On, Limits::default()).await, with_page(Ui::ReadOnly, Limits::default()).await);
    for (headers, code, code_reading) in table {
        assert_eq!(on.code(&ask(headers)).await, code, "{headers:?}");
        assert_eq!(reading.code(&ask(headers)).await, code_reading, "{headers:?}");
    }
    on.end().await;
    reading.end().await;
}

#[tokio::test]
async fn the_page_is_asked_for_a_password_without_a_word_to_the_browser() {
    let credentials =
        tenure::config::Credentials { username: "admin".into(), password: Secret::new("sesame") };
    let mut doors = Doors::default();
    doors.access = doors.access.with_password(Some(&credentials));
    let server = Server::behind(doors, standby(), Limits::default(), || NOW).await;
    let challenge = |answer: &str| {
        let line = answer.lines().find_map(|line| line.strip_prefix("www-authenticate: "));
        line.expect("a challenge").to_owned()
    };
    let plain = server.raw("POST /reload HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(challenge(&plain), "Basic realm=\"Patroni\"");
    let page = server.raw("POST /reload HTTP/1.1\r\nHost: x\r\nTenure-Page: 1\r\n\r\n").await;
    assert!(page.starts_with("HTTP/1.1 401 "), "{page}");
    assert_eq!(challenge(&page), "x-Basic realm=\"Patroni\"");
    server.end().await;
}
