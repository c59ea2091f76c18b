//! The REST server on a real socket, with made-up standings: what clients of every kind see of it.

#![allow(clippy::disallowed_methods, reason = "a test owns its tasks, and gives up after a while")]

mod actions;
mod fuzz;
mod looks;
mod security;
mod ui;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::Method;
use serde_json::json;
use tenure::api::{Api, Checkups, Command, Doors, Drills, Limits, Looks, Written, serve};
use tenure::model::*;
use tenure::peers::http::call;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Nothing here takes as long; a test that would hang fails instead.
const DEADLINE: Duration = Duration::from_secs(20);
const NOW: Moment = Moment::from_ms(5_000);

#[tokio::test]
async fn old_and_new_clients_get_the_same_answers() {
    let server = Server::plain(standby()).await;
    for version in ["1.0", "1.1"] {
        let answer = server.raw(format!("GET /patroni HTTP/{version}\r\nHost: x\r\n\r\n")).await;
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.starts_with(&format!("HTTP/{version} 200 OK\r\n")), "{head}");
        assert!(head.contains("content-type: application/json"), "{head}");
        assert!(body.starts_with(r#"{"state": "running", "role": "replica""#), "{body}");
    }
    // HTTP/1.1 without a Host, as some checkers send it.
    assert_eq!(server.code("GET /replica HTTP/1.1\r\n\r\n").await, "200");
    server.end().await;
}

#[tokio::test]
async fn a_check_without_a_body_gets_only_its_code() {
    let server = Server::plain(primary()).await;
    // What HAProxy sends for `option httpchk OPTIONS /primary`.
    let requests = [
        ("OPTIONS /primary HTTP/1.0\r\n\r\n", "HTTP/1.0 200 OK\r\n"),
        ("OPTIONS /replica HTTP/1.0\r\n\r\n", "HTTP/1.0 503 Service Unavailable\r\n"),
        ("HEAD /primary HTTP/1.0\r\n\r\n", "HTTP/1.0 200 OK\r\n"),
        ("HEAD /patroni HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 503 Service Unavailable\r\n"),
        ("GET /liveness HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK\r\n"),
        ("GET /readiness HTTP/1.0\r\n\r\n", "HTTP/1.0 200 OK\r\n"),
    ];
    for (request, line) in requests {
        let answer = server.raw(request).await;
        assert!(answer.starts_with(line), "{request:?}: {answer:?}");
        assert!(answer.ends_with("\r\n\r\n") && !answer.contains("content-type"), "{request:?}: {answer:?}");
    }
    server.end().await;
}

#[tokio::test]
async fn primary_ends_with_the_lease_without_a_new_standing() {
    static CLOCK_MS: AtomicU64 = AtomicU64::new(5_000);
    let standing = primary();
    let deadline = standing.view.lease.expect("a primary has one").deadline().as_ms();
    let clock = || Moment::from_ms(CLOCK_MS.load(Ordering::SeqCst));
    let server = Server::start(standing, Limits::default(), clock).await;
    for (now_ms, code) in
        [(5_000, "200"), (deadline - 1, "200"), (deadline, "503"), (deadline + 60_000, "503")]
    {
        CLOCK_MS.store(now_ms, Ordering::SeqCst);
        assert_eq!(server.code("OPTIONS /primary HTTP/1.0\r\n\r\n").await, code, "at {now_ms} ms");
        assert_eq!(server.code("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await, code, "at {now_ms} ms");
    }
    server.end().await;
}

#[tokio::test]
async fn clients_that_never_finish_their_request_do_not_keep_others_out() {
    let limits = Limits { connections_max: 8, ..Limits::default() };
    let server = Server::start(primary(), limits, || NOW).await;
    let mut idle = Vec::new();
    for round in 0..30 {
        idle.push(server.connect("").await);
        idle.push(server.connect("GET /pri").await);
        idle.push(server.connect("POST /switchover HTTP/1.1\r\nContent-Length: 100\r\n\r\n{").await);
        assert_eq!(server.code("OPTIONS /primary HTTP/1.0\r\n\r\n").await, "200", "round {round}");
    }
    // Whoever came first has gone first.
    rest(idle.swap_remove(0)).await;
    server.end().await;
}

#[tokio::test]
async fn a_slow_client_is_let_go_after_a_while() {
    let limits = Limits { patience: Duration::from_millis(100), ..Limits::default() };
    let server = Server::start(primary(), limits, || NOW).await;
    for request in ["", "GET /pri", "GET /primary HTTP/1.1\r\nX: "] {
        let answer = server.raw(request).await;
        assert!(!answer.contains(" 200 "), "{request:?}: {answer:?}");
    }
    let slow_body = server.raw("PUT /config HTTP/1.1\r\nContent-Length: 9\r\n\r\n{").await;
    assert!(slow_body.starts_with("HTTP/1.1 408 "), "{slow_body:?}");
    server.end().await;
}

#[tokio::test]
async fn garbage_is_refused_and_survived() {
    let server = Server::plain(primary()).await;
    let long_header = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(40 << 10));
    let many_headers = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(200));
    let garbage: Vec<Vec<u8>> = vec![
        b"\r\n\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello\r\n\r\n".to_vec(),
        b"GET\r\n\r\n".to_vec(),
        b"GET / HTTP/9.9\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        b"\0\0\0\x08\x04\xd2\x16\x2f a PostgreSQL client\r\n\r\n".to_vec(),
        b"PUT /config HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}".to_vec(),
        b"PUT /config HTTP/1.1\r\nContent-Length: -1\r\n\r\n{}".to_vec(),
        b"PUT /config HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_vec(),
        long_header.into_bytes(),
        many_headers.into_bytes(),
    ];
    for bytes in garbage {
        let mut stream = server.connect(&bytes).await;
        let _ = stream.shutdown().await;
        let answer = rest(stream).await;
        assert!(!answer.contains(" 200 "), "{:?}: {answer:?}", String::from_utf8_lossy(&bytes));
    }
    // Odd, but lawful.
    assert_eq!(server.code("GET /%ff%00%zz?lag=%&tag_%=%&=&&& HTTP/1.1\r\n\r\n").await, "503");
    assert_eq!(server.code("GET http://elsewhere/primary HTTP/1.1\r\n\r\n").await, "200");
    assert_eq!(server.code("OPTIONS * HTTP/1.1\r\n\r\n").await, "503");
    assert_eq!(server.code("BREW /pot HTTP/1.1\r\n\r\n").await, "501");
    server.end().await;
}

#[tokio::test]
async fn a_body_that_cannot_be_used_is_refused_with_the_reason() {
    let limits = Limits { body_bytes_max: 1_000, ..Limits::default() };
    let server = Server::start(standby(), limits, || NOW).await;
    let with_body =
        |body: &str| format!("POST /switchover HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let requests = [
        ("POST /switchover HTTP/1.0\r\n\r\n".to_owned(), "411"),
        (with_body(""), "400"),
        (with_body("{"), "400"),
        (with_body("[]"), "400"),
        (with_body("{}"), "400"),
        (with_body(&"[".repeat(900)), "400"),
        (with_body(&" ".repeat(1_001)), "413"),
        ("PUT /nonsense HTTP/1.0\r\n\r\n".to_owned(), "501"),
        ("POST /mpp HTTP/1.0\r\n\r\n".to_owned(), "501"),
        ("POST /failsafe HTTP/1.0\r\n\r\n".to_owned(), "502"),
        ("POST /sigterm HTTP/1.0\r\n\r\n".to_owned(), "202"),
    ];
    for (request, code) in requests {
        assert_eq!(server.code(&request).await, code, "{request:?}");
    }
    server.end().await;
}

#[tokio::test]
async fn a_switchover_is_answered_when_the_new_leader_runs_as_a_primary() {
    let mut server = Server::plain(standby()).await;
    server.speaks_for_every_member();
    let body = json!({"leader": "oulu", "candidate": "turku"});
    let (asked, ()) = tokio::join!(say(server.address, Method::POST, "/switchover", body), async {
        let (request, reply) = server.failover_request().await;
        assert_eq!(
            (request.leader.clone(), request.candidate.clone()),
            (Some(name("oulu")), Some(name("turku")))
        );
        server.change(|cluster| cluster.failover = Some(Versioned { value: request, version: 9 }));
        reply.send(Written::Done).expect("somebody waits for the reply");
        server.change(|cluster| cluster.leader = None);
        server.change(|cluster| lead_by(cluster, "turku"));
    });
    assert_eq!(asked, (200, "Successfully switched over to \"turku\"".to_owned()));
    server.end().await;
}

#[tokio::test]
async fn a_switchover_that_is_taken_back_has_failed() {
    let mut server = Server::plain(standby()).await;
    server.speaks_for_every_member();
    let (asked, ()) =
        tokio::join!(say(server.address, Method::POST, "/switchover", json!({"leader": "oulu"})), async {
            let (request, reply) = server.failover_request().await;
            server.change(|cluster| cluster.failover = Some(Versioned { value: request, version: 9 }));
            reply.send(Written::Done).expect("somebody waits for the reply");
            server.change(|cluster| cluster.failover = None);
        });
    assert_eq!(asked, (503, "Switchover failed".to_owned()));
    server.end().await;
}

#[tokio::test]
async fn a_failover_needs_a_candidate_that_answers() {
    let server = Server::plain(standby()).await;
    let asked = say(server.address, Method::POST, "/failover", json!({"candidate": "vaasa"})).await;
    assert_eq!(asked, (412, "failover is not possible: no good candidates have been found".to_owned()));
    server.end().await;
}

#[tokio::test]
async fn while_an_action_waits_checks_are_answered_and_a_second_action_is_not() {
    let limits = Limits { actions_max: 1, connections_max: 2, ..Limits::default() };
    let mut server = Server::start(standby(), limits, || NOW).await;
    server.speaks_for_every_member();
    let body = json!({"leader": "oulu", "candidate": "turku"});
    let (asked, ()) = tokio::join!(say(server.address, Method::POST, "/switchover", body.clone()), async {
        let (_, reply) = server.failover_request().await;
        let second = say(server.address, Method::POST, "/switchover", body).await;
        assert_eq!(second, (503, "too many requests are under way".to_owned()));
        let mut idle = Vec::new();
        for _ in 0..10 {
            idle.push(server.connect("GET /").await);
            assert_eq!(server.code("OPTIONS /replica HTTP/1.0\r\n\r\n").await, "200");
        }
        drop(reply);
    });
    assert_eq!(asked, (503, "failed to write failover key into DCS".to_owned()));
    server.end().await;
}

#[tokio::test]
async fn a_scheduled_switchover_is_stored_and_deleted() {
    let mut server = Server::plain(standby()).await;
    let delete = |address| say(address, Method::DELETE, "/switchover", json!(null));
    assert_eq!(delete(server.address).await, (404, "no switchover is scheduled".to_owned()));
    let body = json!({"leader": "oulu", "scheduled_at": "2999-01-01T10:00:00+00:00"});
    let (asked, request) = tokio::join!(say(server.address, Method::POST, "/switchover", body), async {
        let (request, reply) = server.failover_request().await;
        reply.send(Written::Done).expect("somebody waits for the reply");
        request
    });
    assert_eq!(asked, (202, "Switchover scheduled".to_owned()));
    assert_eq!(request.scheduled_at.as_deref(), Some("2999-01-01T10:00:00+00:00"));
    server.change(|cluster| cluster.failover = Some(Versioned { value: request, version: 9 }));
    let (deleted, ()) = tokio::join!(delete(server.address), async {
        let Some(Command::ClearFailover { version: 9, reply }) = server.command().await else {
            panic!("the wrong command");
        };
        reply.send(Written::Conflict).expect("somebody waits for the reply");
    });
    assert_eq!(deleted.0, 409);
    server.end().await;
}

#[tokio::test]
async fn the_configuration_is_patched_and_replaced() {
    let mut server = Server::plain(standby()).await;
    let change = |address, method, body| say(address, method, "/config", body);
    let unchanged = change(server.address, Method::PATCH, json!({"ttl": 30})).await;
    assert_eq!(unchanged, (200, r#"{"loop_wait": 5, "ttl": 30}"#.to_owned()));
    let table = [
        (Method::PATCH, json!({"ttl": 20}), Some(3), Written::Done, 200, r#"{"loop_wait": 5, "ttl": 20}"#),
        (
            Method::PATCH,
            json!({"ttl": 20}),
            Some(3),
            Written::Conflict,
            409,
            "the configuration has been changed meanwhile",
        ),
        (Method::PUT, json!({"ttl": 20}), None, Written::Done, 200, r#"{"ttl": 20}"#),
        (
            Method::PUT,
            json!({"ttl": 20}),
            None,
            Written::Unanswered,
            502,
            "failed to write the configuration",
        ),
    ];
    for (method, body, version, outcome, code, text) in table {
        let (answer, ()) = tokio::join!(change(server.address, method, body), async {
            let Some(Command::WriteConfig { if_version, reply, .. }) = server.command().await else {
                panic!("the wrong command");
            };
            assert_eq!(if_version, version);
            reply.send(outcome).expect("somebody waits for the reply");
        });
        assert_eq!(answer, (code, text.to_owned()));
    }
    server.end().await;
}

struct Server {
    address: SocketAddr,
    standings: watch::Sender<Arc<Standing>>,
    doors: watch::Sender<Arc<Doors>>,
    wishes: watch::Receiver<Moment>,
    commands: mpsc::Receiver<Command>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Server {
    async fn plain(standing: Standing) -> Server {
        Server::start(standing, Limits::default(), || NOW).await
    }

    async fn start(standing: Standing, limits: Limits, clock: fn() -> Moment) -> Server {
        Server::behind(Doors::default(), standing, limits, clock).await
    }

    async fn behind(doors: Doors, standing: Standing, limits: Limits, clock: fn() -> Moment) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("an address");
        let (standings, receiver) = watch::channel(Arc::new(standing));
        let (sender, commands) = mpsc::channel(4);
        let (stop, stopped) = oneshot::channel();
        let (doors, doors_kept) = watch::channel(Arc::new(doors));
        let (_, peers) = watch::channel(Arc::default());
        let (looks, wishes) = Looks::new();
        let recorder = tenure::recorder::Recorder::idle();
        let api = Api {
            standings: receiver,
            commands: sender,
            clock,
            limits,
            doors: doors_kept,
            peers,
            looks,
            recorder,
            checkups: Checkups::new().0,
            drills: Drills::new().0,
            store: ui::memory(),
        };
        let stopped = async move {
            let _ = stopped.await;
        };
        let task = tokio::spawn(serve(vec![listener], api, stopped));
        Server { address, standings, doors, wishes, commands, stop, task }
    }

    /// Sends bytes and reads until the server closes.
    async fn raw(&self, request: impl AsRef<[u8]>) -> String {
        rest(self.connect(request).await).await
    }

    async fn connect(&self, request: impl AsRef<[u8]>) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.expect("the server listens");
        let _ = stream.write_all(request.as_ref()).await;
        stream
    }

    async fn code(&self, request: &str) -> String {
        let answer = self.raw(request).await;
        answer.split(' ').nth(1).unwrap_or_else(|| panic!("{request:?}: {answer:?}")).to_owned()
    }

    async fn command(&mut self) -> Option<Command> {
        timeout(DEADLINE, self.commands.recv()).await.expect("a command comes")
    }

    async fn failover_request(&mut self) -> (FailoverRequest, oneshot::Sender<Written>) {
        match self.command().await {
            Some(Command::RequestFailover { request, reply }) => (request, reply),
            other => panic!("a request was expected, not {other:?}"),
        }
    }

    /// Publishes a standing with a changed snapshot, as the loop does after a watch event.
    fn change(&self, change: impl FnOnce(&mut Cluster)) {
        self.standings.send_modify(|standing| {
            change(Arc::make_mut(standing).view.store.cluster.as_mut().expect("the fixture has a snapshot"));
        });
    }

    /// Every member's REST address is this server's, so that candidates can be asked.
    fn speaks_for_every_member(&self) {
        let url = format!("http://{}/patroni", self.address);
        self.change(|cluster| {
            cluster.members.values_mut().for_each(|record| record.api_url.clone_from(&url));
        });
    }

    async fn end(self) {
        let _ = self.stop.send(());
        timeout(DEADLINE, self.task).await.expect("the server ends").expect("without a panic");
    }
}

/// What is left to read before the server closes; a reset is an end too.
async fn rest(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = timeout(DEADLINE, stream.read_to_end(&mut bytes)).await.expect("the server closes");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What `tenurectl` does.
async fn say(address: SocketAddr, method: Method, path: &str, body: serde_json::Value) -> (u16, String) {
    let url = format!("http://{address}{path}");
    let body = (!body.is_null()).then(|| body.to_string().into());
    let reply = call(method, &url, body, DEADLINE, 64 << 10).await.expect("an answer");
    (reply.status, String::from_utf8_lossy(&reply.body).into_owned())
}

fn name(text: &str) -> MemberName {
    text.parse().expect("a good name")
}

/// `turku` leads.
fn primary() -> Standing {
    let mut standing = standby();
    standing.view.postgres = running(Serving::Primary {
        position: Position::new(2, 67_394_096),
        checkpointed: true,
        forks: Some(Vec::new()),
    });
    let timing = standing.view.policy.timing;
    standing.view.lease = Some(Lease { term: Term(7), asked_at: Moment::from_ms(4_800), timing });
    lead_by(standing.view.store.cluster.as_mut().expect("the fixture has a snapshot"), "turku");
    standing
}

/// `turku` follows `oulu`.
fn standby() -> Standing {
    let view = View {
        now: NOW,
        me: name("turku"),
        tags: Tags::default(),
        policy: Policy::default(),
        store: StoreView { cluster: Some(cluster()), contact: Contact::Current },
        session: None,
        lease: None,
        postgres: running(Serving::Standby {
            timeline: Timeline(2),
            received: Some(Lsn(67_394_096)),
            replayed: Some(Lsn(67_394_096)),
            streaming: true,
            upstream: None,
            forks: None,
            starved: false,
        }),
        looked_at: NOW,
        disk: Disk::default(),
        peers: PeerRound::default(),
        remote: None,
        work: Work::default(),
        guardian: Guardian::Ready { confirmed: FenceOrder::Disarm },
        watchdog: Watchdog::Unknown,
        memory: Memory::default(),
        ending: false,
    };
    let plan = Plan {
        seek_consent: false,
        reason: Rule::FollowsLeader.into(),
        step: Step::Wait,
        renew_until: NOW,
        fence: FenceOrder::Keep,
        look_again: Moment::from_ms(6_000),
    };
    Standing { view, plan, facts: Facts { scope: "batman".into(), ..Facts::default() } }
}

fn running(serving: Serving) -> Postgres {
    Postgres::Running(Running {
        system: SystemId(7),
        serving,
        silent_since: None,
        version: 150_018,
        synchrony: Synchrony::default(),
    })
}

fn cluster() -> Cluster {
    // A port that nobody listens on: whoever asks these members is refused at once.
    let record = MemberRecord {
        api_url: "http://127.0.0.1:1/patroni".into(),
        state: MemberState::Running,
        ..MemberRecord::default()
    };
    let mut cluster = Cluster {
        members: ["oulu", "turku", "vaasa"].map(|member| (name(member), record.clone())).into(),
        config: Some(Versioned { value: json!({"ttl": 30, "loop_wait": 5}), version: 3 }),
        ..Cluster::default()
    };
    lead_by(&mut cluster, "oulu");
    cluster
}

fn lead_by(cluster: &mut Cluster, leader: &str) {
    cluster.leader = Some(Leader { name: name(leader), term: Term(7), session: None });
    for (member, record) in &mut cluster.members {
        record.role = if member.as_str() == leader { MemberRole::Primary } else { MemberRole::Replica };
    }
}
