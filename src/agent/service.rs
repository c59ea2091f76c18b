//! What systemd is told: that the agent is ready, what it does, that its loop turns, that it reloads or ends.
//! Nothing here waits: a message that does not fit into systemd's queue is said again at the next turn.

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};

use crate::clock;
use crate::model::{Facts, Guardian, Moment, Plan, Postgres, Running, Serving, Span, View, Watchdog, Whose};

/// Each promise to systemd that an end is still on its way holds for this long, and is renewed in half the time.
const END_EXTENSION: Span = Span::from_secs(30);
/// An end that takes longer than this is systemd's to cut short.
const END_WITHIN: Span = Span::from_secs(15 * 60);
/// A lag changes with every look; nobody reads as fast.
const LAG_EVERY: Span = Span::from_secs(10);
const LAG_SHOWN_FROM: u64 = 1 << 20;
/// However short the lease: a loop that is only waiting for the processor is not to be taken for a hung one.
const WATCHDOG_MIN: Span = Span::from_ms(1500);

/// The socket on which systemd listens; silent where there is none.
#[derive(Clone, Debug, Default)]
pub struct Line {
    socket: Option<Arc<UnixDatagram>>,
    ready: Arc<AtomicBool>,
}

impl Line {
    /// `address` is what stood in `NOTIFY_SOCKET`.
    pub fn open(address: &str) -> std::io::Result<Line> {
        let socket = UnixDatagram::unbound()?;
        match address.strip_prefix('@') {
            Some(name) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
            None => socket.connect(address)?,
        }
        socket.set_nonblocking(true)?;
        Ok(Line { socket: Some(Arc::new(socket)), ready: Arc::default() })
    }

    /// False if it could not be said now.
    pub fn say(&self, words: &str) -> bool {
        self.socket.as_ref().is_none_or(|socket| socket.send(words.as_bytes()).is_ok())
    }

    /// Hands a descriptor over, for systemd to keep.
    pub fn store(&self, words: &str, descriptor: impl AsFd) {
        let Some(socket) = &self.socket else { return };
        let descriptors = [descriptor.as_fd().as_raw_fd()];
        let handed = [ControlMessage::ScmRights(&descriptors)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let sent =
            sendmsg::<UnixAddr>(socket.as_raw_fd(), &[IoSlice::new(words.as_bytes())], &handed, flags, None);
        if let Err(error) = sent {
            tracing::warn!(%error, "systemd does not keep the REST socket; it will be closed while the agent restarts");
        }
    }

    /// The files are about to be read again. Says nothing before the agent is ready: it could not end what it announces.
    pub fn reloading(&self) {
        if self.ready.load(Ordering::Relaxed) {
            self.say(&format!("RELOADING=1\nMONOTONIC_USEC={}", clock::monotonic_us()));
        }
    }

    /// They have been read, and taken up if they were good.
    pub fn reloaded(&self) {
        if self.ready.load(Ordering::Relaxed) {
            self.say("READY=1");
        }
    }
}

/// Speaks for the loop, once a turn.
#[derive(Debug)]
pub struct Herald {
    line: Line,
    said: Said,
}

impl Herald {
    /// `watchdog`: how long the unit lets the loop be silent.
    pub fn new(line: Line, watchdog: Option<Span>) -> Herald {
        Herald { line, said: Said { watchdog, ..Said::default() } }
    }

    /// The loop has turned, and this is what came of it.
    pub fn turned(&mut self, now: Moment, view: &View, plan: &Plan, facts: &Facts) {
        let mut said = self.said.clone();
        let words = said.next(now, view, plan, facts);
        if words.is_empty() || self.line.say(&words.join("\n")) {
            self.said = said;
            self.line.ready.store(self.said.ready, Ordering::Relaxed);
        }
    }

    /// The loop must turn again within this.
    pub fn patience(&self) -> Span {
        self.said.watchdog_now.map_or(Span::from_secs(60), feeding)
    }

    pub fn reloaded(&self) {
        self.line.reloaded();
    }

    pub fn leaves(&self) {
        self.line.say("STATUS=left PostgreSQL running for the next agent");
    }
}

/// What systemd has been told so far.
#[derive(Clone, Debug, Default)]
struct Said {
    ready: bool,
    /// As the unit has it.
    watchdog: Option<Span>,
    /// As it is in force.
    watchdog_now: Option<Span>,
    fed_at: Option<Moment>,
    status: String,
    lag: Option<String>,
    lag_at: Moment,
    ending_since: Option<Moment>,
    extended_at: Moment,
}

impl Said {
    fn next(&mut self, now: Moment, view: &View, plan: &Plan, facts: &Facts) -> Vec<String> {
        let mut words = Vec::new();
        // What is true then: REST answers, the guardian has been asked for, PostgreSQL has been looked at, and the loop has
        // decided what to do about it. A store that is down or a clone of hours are in the status, and hold up nobody.
        if !self.ready && !matches!(view.postgres, Postgres::Unobserved) {
            self.ready = true;
            words.push("READY=1".to_owned());
        }
        self.status(now, view, plan, facts, &mut words);
        self.watchdog(now, view, &mut words);
        if view.ending {
            self.ending(now, &mut words);
        }
        words
    }

    fn status(&mut self, now: Moment, view: &View, plan: &Plan, facts: &Facts, words: &mut Vec<String>) {
        let status = status(view, plan, facts);
        let lag = lag(view, facts).or_else(|| facts.copying.map(|copying| copying.to_string()));
        let lag_due = lag != self.lag && LAG_EVERY <= now.since(self.lag_at);
        if status != self.status || lag_due {
            let shown: Vec<&str> = [status.as_str()].into_iter().chain(lag.as_deref()).collect();
            words.push(format!("STATUS={}", shown.join("; ")));
            (self.status, self.lag, self.lag_at) = (status, lag, now);
        }
    }

    /// A frozen agent must be replaced while its lease still runs, so a short lease shortens the watchdog. Nothing ever
    /// lengthens what the unit says.
    fn watchdog(&mut self, now: Moment, view: &View, words: &mut Vec<String>) {
        let Some(unit) = self.watchdog else { return };
        let wanted = unit.min(view.policy.timing.ttl.scaled(3, 10).max(WATCHDOG_MIN));
        if self.watchdog_now.unwrap_or(unit) != wanted {
            words.push(format!("WATCHDOG_USEC={}", wanted.as_ms() * 1000));
        }
        self.watchdog_now = Some(wanted);
        if self.fed_at.is_none_or(|fed| feeding(wanted) <= now.since(fed)) {
            self.fed_at = Some(now);
            words.push("WATCHDOG=1".to_owned());
        }
    }

    fn ending(&mut self, now: Moment, words: &mut Vec<String>) {
        let since = *self.ending_since.get_or_insert_with(|| {
            words.push("STOPPING=1".to_owned());
            now
        });
        let due = since == now || END_EXTENSION.scaled(1, 2) <= now.since(self.extended_at);
        if due && now.since(since) < END_WITHIN {
            self.extended_at = now;
            words.push(format!("EXTEND_TIMEOUT_USEC={}", END_EXTENSION.as_ms() * 1000));
        }
    }
}

fn feeding(watchdog: Span) -> Span {
    watchdog.scaled(1, 3)
}

/// `leading (primary, term 7, timeline 3)`
fn status(view: &View, plan: &Plan, told: &Facts) -> String {
    let mut facts = vec![match &view.postgres {
        Postgres::Unobserved => "PostgreSQL not seen yet".to_owned(),
        Postgres::Empty => "no data".to_owned(),
        Postgres::Unfinished { .. } | Postgres::Unusable { .. } => "no usable data".to_owned(),
        Postgres::Stopped { .. } => "PostgreSQL stopped".to_owned(),
        Postgres::Starting { .. } => "PostgreSQL starting".to_owned(),
        Postgres::Running(running) => match running.serving {
            Serving::Primary { .. } => "primary".to_owned(),
            Serving::Standby { .. } => "standby".to_owned(),
        },
    }];
    facts.extend(view.lease_in_force().map(|lease| format!("term {}", lease.term.0)));
    let timeline = view.postgres.running().and_then(Running::position);
    facts.extend(timeline.map(|position| format!("timeline {}", position.timeline.0)));
    let intents = view.cluster().and_then(|cluster| cluster.intents.as_ref());
    if let Some(pause) =
        intents.and_then(|intents| intents.value.pause.as_ref()).filter(|_| view.policy.pause)
    {
        facts.push(format!("paused {pause}"));
    }
    if let Some(kept) = intents.and_then(|intents| intents.value.members.get(&view.me)) {
        facts.push(format!("{} {}", kept.kind.word(), kept.intent));
    }
    if view.postgres.running().is_some_and(Running::is_gated) {
        facts.push("gate closed".to_owned());
    }
    facts.extend(scheduled(view, told));
    if view.guardian == Guardian::Absent {
        facts.push("no guardian".to_owned());
    }
    match view.watchdog {
        Watchdog::Unknown | Watchdog::Off => {}
        Watchdog::Ready { .. } | Watchdog::Armed { .. } | Watchdog::Failed(_) => {
            facts.push(format!("watchdog {}", view.watchdog));
        }
    }
    format!("{} ({})", plan.reason, facts.join(", "))
}

/// What is to come, and whose it is.
fn scheduled(view: &View, told: &Facts) -> Vec<String> {
    let said = |what: &str, at: &str, whose: Option<&Whose>| {
        let whose = whose.map(|whose| format!(", {whose}")).unwrap_or_default();
        format!("{what} scheduled at {at}{whose}")
    };
    let request = view.cluster().and_then(|cluster| cluster.failover.as_ref()).map(|request| &request.value);
    let switchover = request.and_then(|request| {
        Some(said("switchover", request.scheduled_at.as_deref()?, request.whose.as_ref()))
    });
    let restart = told.scheduled_restart.as_ref().and_then(|restart| restart.get("schedule")?.as_str());
    let restart = restart.map(|at| said("restart", at, told.restart_wanted.as_ref()));
    switchover.into_iter().chain(restart).collect()
}

fn lag(view: &View, facts: &Facts) -> Option<String> {
    let running = view.postgres.running().filter(|running| !running.is_primary())?;
    let bytes = facts.upstream_end?.0.saturating_sub(running.position()?.lsn.0);
    (LAG_SHOWN_FROM <= bytes).then(|| format!("{} MB behind", bytes >> 20))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::decide;
    use crate::decide::mind::{Event, Mind, Seen};
    use crate::model::{Cluster, Copying, FailoverRequest, Lsn, Policy, SystemId, Tags, Timeline, Versioned};

    const WATCHDOG: Option<Span> = Some(Span::from_secs(3));

    fn view(events: Vec<Event>) -> View {
        let me = "n1".parse().expect("a good name");
        let mut mind = Mind::new(me, Tags::default(), Policy::default(), true);
        mind.apply(Moment::from_ms(1000), Event::Guardian(Guardian::Absent));
        for event in events {
            mind.apply(Moment::from_ms(1000), event);
        }
        mind.view().clone()
    }

    fn seen(postgres: Postgres) -> Event {
        Event::Postgres(Seen { postgres, looked_at: Moment::default() })
    }

    fn standby(lsn: u64) -> Postgres {
        let serving = Serving::Standby {
            timeline: Timeline(3),
            received: Some(Lsn(lsn)),
            replayed: Some(Lsn(lsn)),
            streaming: true,
            upstream: None,
            forks: None,
            starved: false,
        };
        Postgres::Running(Running {
            system: SystemId(1),
            serving,
            silent_since: None,
            version: 150_018,
            synchrony: crate::model::Synchrony::default(),
        })
    }

    fn next(said: &mut Said, at_ms: u64, view: &View, facts: &Facts) -> String {
        said.next(Moment::from_ms(at_ms), view, &decide(view), facts).join("\n")
    }

    #[test]
    fn a_clone_is_told_with_how_far_it_has_come() {
        let view = view(vec![seen(Postgres::Empty)]);
        let copying = Copying {
            begun_at: Moment::from_ms(1_000),
            told_at: Moment::from_ms(3_000),
            copied: 40 << 20,
            whole: Some(100 << 20),
        };
        let facts = Facts { copying: Some(copying), ..Facts::default() };
        let words = Said::default().next(Moment::from_ms(20_000), &view, &decide(&view), &facts).join("\n");
        assert!(words.contains("; 40 %, 40 MB of 100 MB, 20 MB/s, 3 s left"), "{words}");
    }

    #[test]
    fn what_is_to_come_is_told_with_whose_it_is() {
        let whose = |by: &str| Some(Whose { by: by.to_owned(), why: Some("a new disk".to_owned()) });
        let request = FailoverRequest {
            leader: Some("turku".parse().expect("a name")),
            scheduled_at: Some("2026-11-22T10:00:00+00:00".to_owned()),
            whose: whose("anna"),
            ..FailoverRequest::default()
        };
        let cluster =
            Cluster { failover: Some(Versioned { value: request, version: 4 }), ..Cluster::default() };
        let view = view(vec![seen(Postgres::Empty), Event::Snapshot(Box::new(cluster))]);
        let facts = Facts {
            scheduled_restart: Some(serde_json::json!({"schedule": "2026-11-22T11:00:00+00:00"})),
            restart_wanted: whose("ben"),
            ..Facts::default()
        };
        let words = next(&mut Said::default(), 1000, &view, &facts);
        for part in [
            "switchover scheduled at 2026-11-22T10:00:00+00:00, by anna: a new disk",
            "restart scheduled at 2026-11-22T11:00:00+00:00, by ben: a new disk",
        ] {
            assert!(words.contains(part), "{part}: {words}");
        }
    }

    #[test]
    fn it_is_ready_once_postgresql_has_been_looked_at_and_says_so_once() {
        let mut said = Said::default();
        let facts = Facts::default();
        let unseen = next(&mut said, 1000, &view(vec![]), &facts);
        assert_eq!(
            unseen,
            "STATUS=looking at PostgreSQL for the first time (PostgreSQL not seen yet, no guardian)"
        );
        let looked = view(vec![seen(Postgres::Empty)]);
        assert_eq!(
            next(&mut said, 1001, &looked, &facts),
            "READY=1\nSTATUS=waiting for a first answer from the store (no data, no guardian)"
        );
        assert_eq!(next(&mut said, 1002, &looked, &facts), "");
    }

    #[test]
    fn the_watchdog_is_fed_at_a_third_of_what_the_lease_leaves_of_it() {
        let check = |ttl: u64, unit: Option<Span>, expected: &str, patience: u64| {
            let mut said = Said { watchdog: unit, ..Said::default() };
            let mut view = view(vec![]);
            view.policy.timing = crate::model::Timing::for_ttl(Span::from_secs(ttl));
            let mut words = Vec::new();
            said.watchdog(Moment::from_ms(1000), &view, &mut words);
            assert_eq!(words.join(" "), expected);
            words.clear();
            said.watchdog(Moment::from_ms(1000 + patience - 1), &view, &mut words);
            assert!(words.is_empty(), "{words:?}");
            said.watchdog(Moment::from_ms(1000 + patience), &view, &mut words);
            assert_eq!(words.join(" "), if unit.is_some() { "WATCHDOG=1" } else { "" });
        };
        check(10, WATCHDOG, "WATCHDOG=1", 1000);
        check(30, WATCHDOG, "WATCHDOG=1", 1000);
        check(5, WATCHDOG, "WATCHDOG_USEC=1500000 WATCHDOG=1", 500);
        check(5, Some(Span::from_secs(1)), "WATCHDOG=1", 333);
        check(10, None, "", 1000);
    }

    #[test]
    fn an_end_is_announced_once_and_extended_for_a_while() {
        let mut said = Said::default();
        let ending = view(vec![seen(Postgres::Empty), Event::End]);
        let first = next(&mut said, 1000, &ending, &Facts::default());
        assert!(first.ends_with("STOPPING=1\nEXTEND_TIMEOUT_USEC=30000000"), "{first}");
        let mut later = |ms: u64| next(&mut said, 1000 + ms, &ending, &Facts::default());
        assert_eq!(later(14_999), "");
        assert_eq!(later(15_000), "EXTEND_TIMEOUT_USEC=30000000");
        assert_eq!(later(END_WITHIN.as_ms()), "");
    }

    #[test]
    fn a_lag_is_told_when_it_is_large_and_not_at_every_turn() {
        let mut said = Said::default();
        let facts = Facts { upstream_end: Some(Lsn(64 << 20)), ..Facts::default() };
        let mut at = |ms: u64, lsn: u64| next(&mut said, ms, &view(vec![seen(standby(lsn))]), &facts);
        assert!(at(1000, 4 << 20).ends_with("(standby, timeline 3, no guardian); 60 MB behind"));
        assert_eq!(at(2000, 14 << 20), "");
        assert!(at(11_000, 24 << 20).ends_with("; 40 MB behind"));
        assert!(at(21_000, 64 << 20).ends_with("no guardian)"));
    }

    #[test]
    fn systemd_gets_a_descriptor_to_keep() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("notify");
        let systemd = UnixDatagram::bind(&path).expect("bound");
        let line = Line::open(path.to_str().expect("UTF-8")).expect("connected");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
        line.store("FDSTORE=1\nFDNAME=rest", &listener);
        let (mut words, mut space) = ([0; 256], nix::cmsg_space!([std::os::fd::RawFd; 2]));
        let mut places = [std::io::IoSliceMut::new(&mut words)];
        let got = nix::sys::socket::recvmsg::<UnixAddr>(
            systemd.as_raw_fd(),
            &mut places,
            Some(&mut space),
            MsgFlags::empty(),
        )
        .expect("a message");
        let handed: Vec<_> = got.cmsgs().expect("whole").collect();
        assert!(
            matches!(&handed[..], [nix::sys::socket::ControlMessageOwned::ScmRights(one)] if one.len() == 1)
        );
        assert_eq!(got.bytes, "FDSTORE=1\nFDNAME=rest".len());
    }

    #[test]
    fn a_line_that_is_full_is_not_waited_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("notify");
        let systemd = UnixDatagram::bind(&path).expect("bound");
        let line = Line::open(path.to_str().expect("UTF-8")).expect("connected");
        let mut herald = Herald::new(line.clone(), None);
        while line.say("WATCHDOG=1") {}
        let mut turn = |view: &View| herald.turned(view.now, view, &decide(view), &Facts::default());
        let looked = view(vec![seen(Postgres::Empty)]);
        turn(&looked);
        systemd.set_nonblocking(true).expect("a socket");
        let mut buffer = [0; 4096];
        while systemd.recv(&mut buffer).is_ok() {}
        turn(&looked);
        let length = systemd.recv(&mut buffer).expect("said again");
        assert!(buffer[..length].starts_with(b"READY=1\n"));
    }
}
