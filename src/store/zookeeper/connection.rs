//! One connection to one server, with the session that it carries. Nothing is sent that nobody asked for: there are no pings,
//! so a session that nobody renews ends. What was asked and has no answer when the connection ends gets none.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::fault::Fault;
use super::jute::Malformed;
use super::message::{Acl, Code, Reply, Request, Welcome, XID_AUTH, XID_EVENT, credentials, greeting};
use super::settings::Ready;
use crate::clock;
use crate::model::{Moment, SessionId, Span};

/// More than one reading of a cluster asks at once.
const QUEUE: usize = 256;
/// ZooKeeper's own limit is 1 MiB.
const FRAME_MAX: usize = 16 << 20;
/// For the last words to a server that we leave.
const FAREWELL: Duration = Duration::from_secs(1);

/// Which session a connection is to carry.
#[derive(Clone, Debug)]
pub(super) struct Greeting {
    /// None: a new one.
    pub session: Option<(SessionId, Vec<u8>)>,
    pub timeout: Span,
    /// A session that nothing hangs on ends with its connection; any other outlives it.
    pub ends_with_connection: bool,
}

pub(super) struct Connection {
    pub session: SessionId,
    pub password: Vec<u8>,
    /// As long as the server lets the session live without a word from us.
    pub timeout: Span,
    /// Before the session was asked for or shown: the leader of the servers counts from later.
    pub greeted_at: Moment,
    /// Its place in the list of servers.
    pub server: usize,
    requests: mpsc::Sender<Asked>,
    /// Counts what the server told unasked.
    news: watch::Receiver<u64>,
    task: AbortHandle,
}

struct Asked {
    request: Request,
    answer: oneshot::Sender<Result<Reply, Fault>>,
}

/// An answer that is under way.
pub(super) struct Pending(oneshot::Receiver<Result<Reply, Fault>>);

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<Any: AsyncRead + AsyncWrite + Send + Unpin> Stream for Any {}

impl Connection {
    /// Without a deadline of its own: whoever asks has one. `seen` is the last change that we know of, so that a server that
    /// lags behind sends us away.
    pub(super) async fn open(
        ready: &Ready,
        server: usize,
        greet: &Greeting,
        seen: &Arc<AtomicI64>,
    ) -> Result<Connection, Fault> {
        let mut stream = dial(ready, server).await?;
        let (id, password) = greet.session.clone().unwrap_or((SessionId(0), vec![0; 16]));
        let timeout_ms = i32::try_from(greet.timeout.as_ms()).unwrap_or(i32::MAX);
        let greeted_at = clock::now();
        let hello = greeting(seen.load(Ordering::Relaxed), timeout_ms, id.0, &password);
        let sent = stream.write_all(&hello).await;
        sent.map_err(|error| Fault::unanswered(format!("greet the server: {error}")))?;
        let welcome = read_frame(&mut stream).await.map_err(|error| {
            Fault::unanswered(format!("the server hangs up, as one without a majority does: {error}"))
        })?;
        let welcome = Welcome::read(&welcome)?;
        let timeout = Span::from_ms(u64::try_from(welcome.timeout_ms).unwrap_or(0));
        if timeout == Span::ZERO {
            return Err(Fault::SessionGone);
        }
        for (scheme, credential) in &ready.credentials {
            authenticate(&mut stream, scheme, credential.reveal()).await?;
        }
        let (requests, receiver) = mpsc::channel(QUEUE);
        let (tell, news) = watch::channel(0);
        let acl = ready.acl.clone();
        let (seen, farewell) = (Arc::clone(seen), greet.ends_with_connection);
        #[expect(clippy::disallowed_methods, reason = "it ends with the connection that holds its handle")]
        let task = tokio::spawn(carry(stream, receiver, acl, tell, seen, farewell)).abort_handle();
        Ok(Connection {
            session: SessionId(welcome.session),
            password: welcome.password,
            timeout,
            greeted_at,
            server,
            requests,
            news,
            task,
        })
    }

    pub(super) async fn ask(&self, request: Request) -> Result<Reply, Fault> {
        self.send(request)?.answer().await
    }

    /// Answers come in the order of the questions, and what one connection asks is done in that order.
    pub(super) fn send(&self, request: Request) -> Result<Pending, Fault> {
        let (answer, receiver) = oneshot::channel();
        match self.requests.try_send(Asked { request, answer }) {
            Ok(()) => Ok(Pending(receiver)),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(Fault::unanswered("the connection has ended")),
            Err(mpsc::error::TrySendError::Full(_)) => {
                Err(Fault::unanswered("too many questions are waiting"))
            }
        }
    }

    /// Many questions at once, and their answers in the same order.
    pub(super) async fn ask_all(&self, requests: Vec<Request>) -> Result<Vec<Reply>, Fault> {
        let mut replies = Vec::with_capacity(requests.len());
        let mut requests = requests.into_iter().peekable();
        while requests.peek().is_some() {
            let part = requests.by_ref().take(QUEUE / 4).map(|request| self.send(request));
            let part: Vec<Pending> = part.collect::<Result<_, _>>()?;
            for pending in part {
                replies.push(pending.answer().await?);
            }
        }
        Ok(replies)
    }

    pub(super) fn is_open(&self) -> bool {
        !self.requests.is_closed()
    }

    /// Changes when something that is watched has changed; its end is the connection's.
    pub(super) fn news(&self) -> watch::Receiver<u64> {
        self.news.clone()
    }

    /// Nothing more is sent, not even what is waiting to be.
    pub(super) fn cut(&self) {
        self.task.abort();
    }
}

impl Pending {
    pub(super) async fn answer(self) -> Result<Reply, Fault> {
        self.0.await.unwrap_or_else(|_| Err(Fault::unanswered("the connection has ended")))
    }
}

async fn dial(ready: &Ready, server: usize) -> Result<Box<dyn Stream>, Fault> {
    let server = &ready.servers[server];
    let dialled = TcpStream::connect((server.host.as_str(), server.port)).await;
    let stream = dialled.map_err(|error| Fault::unanswered(error.to_string()))?;
    // Small questions, each waited for.
    stream.set_nodelay(true).map_err(|error| Fault::unanswered(error.to_string()))?;
    let Some(tls) = &ready.tls else { return Ok(Box::new(stream)) };
    let name = ServerName::try_from(server.host.clone())
        .map_err(|error| Fault::Refused(format!("{}: {error}", server.host)))?;
    let secured = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await;
    Ok(Box::new(secured.map_err(|error| Fault::unanswered(format!("agree on encryption: {error}")))?))
}

async fn authenticate(stream: &mut Box<dyn Stream>, scheme: &str, credential: &str) -> Result<(), Fault> {
    let broken = |error: std::io::Error| Fault::unanswered(format!("show our credentials: {error}"));
    stream.write_all(&credentials(scheme, credential)).await.map_err(broken)?;
    let (xid, reply) = Reply::read(&read_frame(stream).await.map_err(broken)?)?;
    match reply.code {
        _ if xid != XID_AUTH => Err(Malformed.into()),
        None => Ok(()),
        Some(code) => Err(Fault::of(code)),
    }
}

/// Until either side ends it.
async fn carry(
    stream: Box<dyn Stream>,
    mut requests: mpsc::Receiver<Asked>,
    acl: Vec<Acl>,
    tell: watch::Sender<u64>,
    seen: Arc<AtomicI64>,
    farewell: bool,
) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let waiting = Mutex::new(VecDeque::new());
    let fault = tokio::select! {
        fault = listen(&mut reader, &waiting, &tell, &seen) => fault,
        fault = speak(&mut writer, &mut requests, &waiting, &acl, farewell) => fault,
    };
    requests.close();
    let waiting = waiting.into_inner().unwrap_or_else(PoisonError::into_inner);
    let unsent = std::iter::from_fn(|| requests.try_recv().ok().map(|asked| asked.answer));
    for answer in waiting.into_iter().map(|(_, answer)| answer).chain(unsent) {
        // Whoever asked may have given up.
        let _ = answer.send(Err(fault.clone()));
    }
}

type Waiting = Mutex<VecDeque<(i32, oneshot::Sender<Result<Reply, Fault>>)>>;

async fn speak(
    writer: &mut WriteHalf<Box<dyn Stream>>,
    requests: &mut mpsc::Receiver<Asked>,
    waiting: &Waiting,
    acl: &[Acl],
    farewell: bool,
) -> Fault {
    let mut xid = 0_i32;
    while let Some(Asked { request, answer }) = requests.recv().await {
        xid = xid.checked_add(1).unwrap_or(1);
        waiting.lock().unwrap_or_else(PoisonError::into_inner).push_back((xid, answer));
        if let Err(error) = write(writer, &request.spelled(xid, acl)).await {
            return Fault::unanswered(format!("the connection has ended: {error}"));
        }
    }
    if farewell {
        let goodbye = Request::CloseSession.spelled(xid.checked_add(1).unwrap_or(1), acl);
        // A session whose end the server does not hear of ends by itself.
        let _ = timeout(FAREWELL, write(writer, &goodbye)).await;
    }
    Fault::unanswered("nobody needs the connection")
}

async fn write(writer: &mut WriteHalf<Box<dyn Stream>>, frame: &[u8]) -> std::io::Result<()> {
    writer.write_all(frame).await?;
    writer.flush().await
}

async fn listen(
    reader: &mut ReadHalf<Box<dyn Stream>>,
    waiting: &Waiting,
    tell: &watch::Sender<u64>,
    seen: &AtomicI64,
) -> Fault {
    loop {
        let frame = match read_frame(reader).await {
            Ok(frame) => frame,
            Err(error) => return Fault::unanswered(format!("the connection has ended: {error}")),
        };
        let Ok((xid, reply)) = Reply::read(&frame) else { return Malformed.into() };
        if xid == XID_EVENT {
            tell.send_modify(|count| *count = count.wrapping_add(1));
            continue;
        }
        let Some((expected, answer)) = waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
        else {
            return Malformed.into();
        };
        if expected != xid {
            let _ = answer.send(Err(Malformed.into()));
            return Malformed.into();
        }
        seen.fetch_max(reply.zxid, Ordering::Relaxed);
        let ended = matches!(reply.code, Some(Code::SessionExpired));
        let _ = answer.send(Ok(reply));
        if ended {
            return Fault::SessionGone;
        }
    }
}

async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Vec<u8>> {
    let length = usize::try_from(stream.read_i32().await?).unwrap_or(usize::MAX);
    if FRAME_MAX < length {
        return Err(std::io::Error::other("an answer that is too long"));
    }
    let mut frame = vec![0; length];
    stream.read_exact(&mut frame).await?;
    Ok(frame)
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("session", &self.session)
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}
