//! The server around the answers: HTTP/1, plain or over TLS, one request a connection, everything bounded. A client that is slow,
//! silent or many costs only itself: when the connections run out, the oldest that still waits for its client goes.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use crate::clock;
use crate::model::{Moment, Note, SAID_BY, SAID_WHY, Standing, words};
use crate::peers;
use crate::recorder::Recorder;
use crate::store::Store;

use super::access::{self, Resolved};
use super::act::{Command, act};
use super::answer::Answer;
use super::checkup::{self, Checkups};
use super::doors::Doors;
use super::drill::Drills;
use super::fresh::{self, Looks};
use super::query::Target;
use super::ui::{self, Live, Pool, Shown};
use super::{origin, read, recorded};

/// Host names in the allowlist, and of members, are looked up this often.
const LOOK_UP_EVERY: Duration = Duration::from_secs(10);
const LOOK_UP_PATIENCE: Duration = Duration::from_secs(5);

/// What the server needs of the agent.
#[derive(Clone, Debug)]
pub struct Api {
    pub standings: watch::Receiver<Arc<Standing>>,
    pub commands: mpsc::Sender<Command>,
    pub clock: fn() -> Moment,
    pub limits: Limits,
    pub doors: watch::Receiver<Arc<Doors>>,
    /// How other members are asked.
    pub peers: watch::Receiver<Arc<peers::Client>>,
    /// Where a fresh look at PostgreSQL is asked for.
    pub looks: Looks,
    /// What this member has decided so far.
    pub recorder: Recorder,
    /// Where an examination of this host is asked for.
    pub checkups: Checkups,
    /// Where faults are asked for.
    pub drills: Drills,
    /// Examined together with the members, and nothing else.
    pub store: Store,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub connections_max: usize,
    /// Requests that change something, at the same time. Less than the connections, so that checks are always served.
    pub actions_max: usize,
    /// For a client to send its request, and again to take the answer.
    pub patience: Duration,
    pub body_bytes_max: usize,
    /// Pages that are told what happens, at the same time. They give way to everybody else when connections run out.
    pub streams_max: usize,
    /// How long one of them is told, until it has to ask again.
    pub stream_life: Duration,
    /// Questions of pages that other members are asked for.
    pub questions_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections_max: 256,
            actions_max: 8,
            patience: Duration::from_secs(5),
            body_bytes_max: 256 << 10,
            streams_max: 16,
            stream_life: Duration::from_mins(5),
            questions_max: 4,
        }
    }
}

impl Api {
    pub fn standing(&self) -> Arc<Standing> {
        Arc::clone(&self.standings.borrow())
    }
}

/// Serves until `stop`, then gives the actions under way the usual patience to end.
pub async fn serve(listeners: Vec<TcpListener>, api: Api, stop: impl Future<Output = ()>) {
    let api = Arc::new(api);
    let actions = Arc::new(Semaphore::new(api.limits.actions_max));
    let pool = Arc::new(Pool::new(api.limits.streams_max, api.limits.questions_max));
    let mut tasks = JoinSet::new();
    let mut open = VecDeque::new();
    let mut complained = false;
    let (names, resolved) = watch::channel(Arc::new(Resolved::new()));
    tasks.spawn(look_up_names(Arc::clone(&api), names));
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => break,
            accepted = accept(&listeners) => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                complained = false;
                forget_ended(&mut tasks, &mut open);
                if open.len() >= api.limits.connections_max && !make_room(&mut open) {
                    continue;
                }
                let acting = Arc::new(AtomicBool::new(false));
                let connection = Connection {
                    api: Arc::clone(&api),
                    actions: Arc::clone(&actions),
                    pool: Arc::clone(&pool),
                    acting: Arc::clone(&acting),
                    streaming: AtomicBool::new(false),
                    peer,
                    doors: Arc::clone(&api.doors.borrow()),
                    resolved: Arc::clone(&resolved.borrow()),
                };
                let task = tasks.spawn(connection.welcome(stream));
                open.push_back(Open { task, acting });
            }
            Err(error) => {
                if !complained {
                    tracing::warn!("accept a REST connection: {error}");
                    complained = true;
                }
                // Out of descriptors, mostly: accepting again at once would only spin.
                if error.kind() != io::ErrorKind::ConnectionAborted {
                    sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
    drop(listeners);
    drop(resolved);
    open.iter().filter(|one| !one.acting.load(Ordering::Relaxed)).for_each(|one| one.task.abort());
    let ended = timeout(api.limits.patience, async { while tasks.join_next().await.is_some() {} }).await;
    if ended.is_err() {
        tasks.shutdown().await;
    }
}

/// From whichever has one first.
async fn accept(listeners: &[TcpListener]) -> io::Result<(TcpStream, SocketAddr)> {
    poll_fn(|context| {
        let ready = listeners.iter().find_map(|listener| match listener.poll_accept(context) {
            Poll::Ready(accepted) => Some(accepted),
            Poll::Pending => None,
        });
        ready.map_or(Poll::Pending, Poll::Ready)
    })
    .await
}

/// When somebody new comes, and not whenever somebody goes: that would wake the one who accepts a second time for each connection.
fn forget_ended(tasks: &mut JoinSet<()>, open: &mut VecDeque<Open>) {
    let mut ended = false;
    while tasks.try_join_next().is_some() {
        ended = true;
    }
    if ended {
        open.retain(|one| !one.task.is_finished());
    }
}

/// Keeps the addresses of the names that somebody may be let in by. One at a time: nobody waits for a name server.
async fn look_up_names(api: Arc<Api>, resolved: watch::Sender<Arc<Resolved>>) {
    loop {
        let names = {
            let standing = api.standing();
            api.doors.borrow().access.names(standing.view.store.cluster.as_ref())
        };
        let mut all = Resolved::new();
        for name in names {
            let found = timeout(LOOK_UP_PATIENCE, tokio::net::lookup_host((name.as_str(), 0))).await;
            let before = || resolved.borrow().get(&name).cloned().unwrap_or_default();
            let addresses = match found {
                Ok(Ok(found)) => found.map(|address| address.ip().to_canonical()).collect(),
                Ok(Err(_)) | Err(_) => before(),
            };
            all.insert(name.clone(), addresses);
        }
        resolved.send_replace(Arc::new(all));
        tokio::select! {
            () = resolved.closed() => return,
            () = sleep(LOOK_UP_EVERY) => {}
        }
    }
}

/// A connection as the accepting loop sees it.
#[derive(Debug)]
struct Open {
    task: AbortHandle,
    acting: Arc<AtomicBool>,
}

/// Lets go of the oldest connection that does not act. An honest client has its answer before it becomes that.
fn make_room(open: &mut VecDeque<Open>) -> bool {
    let oldest = open.iter().position(|one| !one.acting.load(Ordering::Relaxed));
    match oldest.and_then(|place| open.remove(place)) {
        Some(one) => {
            one.task.abort();
            true
        }
        None => false,
    }
}

#[derive(Debug)]
struct Connection {
    api: Arc<Api>,
    actions: Arc<Semaphore>,
    pool: Arc<Pool>,
    acting: Arc<AtomicBool>,
    /// The answer goes on for as long as a stream may live.
    streaming: AtomicBool,
    peer: SocketAddr,
    doors: Arc<Doors>,
    resolved: Arc<Resolved>,
}

impl Connection {
    async fn welcome(self, stream: TcpStream) {
        let Some(tls) = &self.doors.tls else { return self.serve(stream, false).await };
        // A handshake costs processor time, and a slow one a connection: both are bounded by how many there may be.
        match timeout(self.api.limits.patience, tls.accept(stream)).await {
            Ok(Ok(stream)) => {
                let shown = stream.get_ref().1.peer_certificates().is_some();
                self.serve(stream, shown).await;
            }
            Ok(Err(error)) => tracing::debug!(peer = %self.peer, "TLS handshake: {error}"),
            Err(_) => tracing::debug!(peer = %self.peer, "the TLS handshake took too long"),
        }
    }

    async fn serve(&self, stream: impl AsyncRead + AsyncWrite + Unpin, certificate_shown: bool) {
        let patience = self.api.limits.patience;
        let let_go_at = Instant::now() + self.api.limits.stream_life + patience;
        let service = service_fn(|request| async move {
            let shown = self.show(request, certificate_shown).await;
            self.streaming.store(matches!(shown, Shown::Live(_)), Ordering::Relaxed);
            Ok::<_, Infallible>(response(shown, &self.doors))
        });
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(patience)
            .keep_alive(false)
            // Simple clients close their side as soon as they have asked.
            .half_close(true)
            .max_headers(64)
            .max_buf_size(16 << 10)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(serving);
        loop {
            tokio::select! {
                ended = &mut serving => {
                    if let Err(error) = ended {
                        tracing::debug!(peer = %self.peer, "REST connection: {error}");
                    }
                    return;
                }
                // An action has deadlines of its own, and a stream a life; everything else depends on the client only.
                () = sleep(patience * 2) => {
                    let streams = self.streaming.load(Ordering::Relaxed) && Instant::now() < let_go_at;
                    if !self.acting.load(Ordering::Relaxed) && !streams {
                        return;
                    }
                }
            }
        }
    }

    async fn show(&self, request: Request<Incoming>, certificate_shown: bool) -> Shown {
        let target = Target::parse(request.uri().path_and_query().map_or("/", |target| target.as_str()));
        if request.method() == Method::GET && target.endpoint() == "ui" {
            return ui::show(&self.api, &self.pool, &self.doors, &target).await;
        }
        Shown::Whole(self.answer(request, &target, certificate_shown).await)
    }

    async fn answer(&self, request: Request<Incoming>, target: &Target, certificate_shown: bool) -> Answer {
        let now = (self.api.clock)();
        match *request.method() {
            // What elections compare is asked for here, by our members and by Patroni's.
            Method::GET if target.endpoint() == "patroni" => {
                let standing = self.fresh(now - target.looked_within()).await;
                read::get(&standing, target, now, (self.api.clock)())
            }
            Method::GET if target.endpoint() == "events" => {
                recorded::events(&self.api.recorder, clock::wall_ms(), target)
            }
            // Whoever asks compares it with the views of others: what will happen next depends on who is how far.
            Method::GET if target.endpoint() == "view" => {
                let standing = self.fresh(now).await;
                recorded::view(&standing, clock::wall_ms(), (self.api.clock)())
            }
            Method::GET if target.endpoint() == "doctor" => checkup::doctor(&self.api.checkups).await,
            Method::GET => read::get(&self.api.standing(), target, now, now),
            Method::HEAD | Method::OPTIONS => read::head(&self.api.standing(), target, now),
            _ => self.act(request, target, certificate_shown).await,
        }
    }

    async fn fresh(&self, since: Moment) -> Arc<Standing> {
        fresh::standing_since(&self.api.looks, &self.api.standings, since).await
    }

    async fn act(&self, request: Request<Incoming>, target: &Target, certificate_shown: bool) -> Answer {
        let (head, body) = request.into_parts();
        if let Some(refusal) = origin::refuses(&head.headers, self.doors.ui) {
            tracing::warn!(peer = %self.peer, "{} /{} from a browser was refused", head.method, target.endpoint());
            return refusal;
        }
        let client = access::Client {
            address: self.peer.ip(),
            certificate_shown,
            authorization: head.headers.get(AUTHORIZATION).map(HeaderValue::as_bytes),
        };
        let standing = self.api.standing();
        let members_count = target.endpoint() != "failsafe";
        let cluster = standing.view.store.cluster.as_ref();
        // Before anything of the body is read.
        if let Some(refusal) = self.doors.access.refuses(client, cluster, &self.resolved, members_count) {
            tracing::warn!(peer = %self.peer, "{} /{} was refused", head.method, target.endpoint());
            return origin::asks_quietly(&head.headers, refusal);
        }
        let announced =
            head.headers.contains_key(CONTENT_LENGTH) || head.headers.contains_key(TRANSFER_ENCODING);
        let note = self.note(&head.headers);
        let body = match self.read(body).await {
            Ok(body) => body,
            Err(refusal) => return refusal,
        };
        let Ok(_permit) = self.actions.try_acquire() else {
            return Answer::sentence(503, "too many requests are under way");
        };
        self.acting.store(true, Ordering::Relaxed);
        let answer = act(&self.api, &head.method, target, announced.then_some(&*body), note).await;
        self.acting.store(false, Ordering::Relaxed);
        answer
    }

    /// Who asks, as far as that is known: what our command says of its user, or whom the password let in, or the address.
    fn note(&self, headers: &HeaderMap) -> Note {
        let said = |name: &str| words(&String::from_utf8_lossy(headers.get(name)?.as_bytes()));
        let user = || self.doors.access.user(headers.get(AUTHORIZATION).map(HeaderValue::as_bytes)?);
        let by = said(SAID_BY).or_else(user).unwrap_or_else(|| self.peer.ip().to_canonical().to_string());
        Note { by, why: said(SAID_WHY), at: clock::wall_text() }
    }

    async fn read(&self, body: Incoming) -> Result<Bytes, Answer> {
        let limits = self.api.limits;
        let too_long =
            || Answer::sentence(413, format!("the body is longer than {} bytes", limits.body_bytes_max));
        if body.size_hint().lower() > limits.body_bytes_max as u64 {
            return Err(too_long());
        }
        match timeout(limits.patience, Limited::new(body, limits.body_bytes_max).collect()).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_long()),
            Ok(Err(_)) => Err(Answer::sentence(400, "the body could not be read")),
            Err(_) => Err(Answer::sentence(408, "the body did not arrive in time")),
        }
    }
}

type Body = Either<Full<Bytes>, Live>;

fn response(shown: Shown, doors: &Doors) -> Response<Body> {
    let answer = match shown {
        Shown::Whole(answer) => answer,
        Shown::Live(live) => {
            let head = response(Shown::Whole(ui::stream_head()), doors);
            return head.map(|_| Either::Right(live));
        }
    };
    let mut response = Response::new(Either::Left(Full::new(Bytes::from(answer.body))));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if !answer.headers.is_empty() {
        response.headers_mut().extend(doors.headers.iter().cloned());
    }
    for (name, value) in answer.headers {
        if let Ok(value) = HeaderValue::try_from(value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}
