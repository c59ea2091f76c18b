//! The sessions that are ours: their passwords, the connection that each is spoken through, and since when each of them is
//! known to be alive.
//!
//! What hangs on a session can only be written through the session's own connection. The keeper of the lease opens it, on its
//! own thread, and lets it lapse when it may not renew; everybody else in this process writes through it while it is there.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::connection::{Connection, Greeting};
use super::fault::Fault;
use crate::model::{Moment, Secret, SessionId, Span};

/// Renewals that are remembered until they count. They come about once a second.
const TOUCHES_MAX: usize = 32;
/// With ZooKeeper's usual tick of 2 s its leader asks the other servers every second whom they have heard.
const SETTLE_MIN: Span = Span::from_secs(1);

/// Clones share what they know.
#[derive(Clone)]
pub struct Sessions(Arc<Shared>);

struct Shared {
    kept: Mutex<BTreeMap<SessionId, Kept>>,
    changed: watch::Sender<()>,
}

struct Kept {
    password: Vec<u8>,
    /// As it was asked for: each server makes its own of it.
    timeout: Span,
    /// Who opened it last, or renewed it: only there may a connection be made, because it lives on a thread of its maker.
    home: u64,
    link: Option<Link>,
}

struct Link {
    connection: Arc<Connection>,
    touches: Touches,
    leading: bool,
}

/// When the leader of ZooKeeper's servers is known to have heard of a session.
///
/// It is the leader that ends sessions, and a server that follows it only passes on, when asked, whom it has heard since
/// it was last asked: every half tick. If that server is cut off right after it has answered us, the leader knows of an
/// earlier word of ours only. So an answer proves what we said some time before it, not what it answers; and only an answer
/// that came from the leader proves anything at all. Showing the session to a server is different: that is passed on at
/// once, and answered by the leader.
#[derive(Clone, Debug)]
pub(crate) struct Touches {
    certain: Moment,
    /// Sent and answered, oldest first.
    open: VecDeque<(Moment, Moment)>,
    pub(crate) settle: Span,
}

/// Since when a session is known to be alive, and how long a word of ours usually takes to count.
#[derive(Clone, Copy, Debug)]
pub(super) struct Proof {
    pub alive_at: Moment,
    pub settle: Span,
}

impl Default for Sessions {
    fn default() -> Sessions {
        Sessions(Arc::new(Shared { kept: Mutex::default(), changed: watch::channel(()).0 }))
    }
}

impl Sessions {
    /// What the next life of this agent must know to go on with the session.
    pub fn secret(&self, id: SessionId) -> Option<Secret> {
        let kept = self.kept();
        let kept = kept.get(&id)?;
        let mut text = format!("{}:", kept.timeout.as_ms());
        for byte in &kept.password {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        Some(Secret::new(text))
    }

    /// Takes over a session of a former life. A secret that is none leaves the session unknown, as one that has ended.
    pub fn adopt(&self, id: SessionId, secret: &Secret) {
        let Some((timeout, password)) = parsed(secret.reveal()) else { return };
        self.kept().entry(id).or_insert(Kept { password, timeout, home: 0, link: None });
    }

    /// Whoever writes through the session from now on does not find a connection, and none is made until its renewal.
    pub(super) fn lapse(&self, id: SessionId) {
        if let Some(link) = self.kept().get_mut(&id).and_then(|kept| kept.link.take()) {
            link.connection.cut();
        }
    }

    pub(super) fn forget(&self, id: SessionId) {
        self.lapse(id);
        self.kept().remove(&id);
        self.0.changed.send_replace(());
    }

    pub(super) fn keep(&self, home: u64, asked: Span, floor: Span, connection: &Arc<Connection>) {
        let link = Link {
            connection: Arc::clone(connection),
            touches: Touches::from(connection.greeted_at, floor),
            leading: false,
        };
        let password = connection.password.clone();
        let kept = Kept { password, timeout: asked, home, link: Some(link) };
        if let Some(Kept { link: Some(before), .. }) = self.kept().insert(connection.session, kept) {
            before.connection.cut();
        }
        self.0.changed.send_replace(());
    }

    /// The connection of the session, if there is one. A session that is none of ours has ended.
    pub(super) fn connection(&self, id: SessionId) -> Result<Option<Arc<Connection>>, Fault> {
        let kept = self.kept();
        let link = kept.get(&id).ok_or(Fault::SessionGone)?.link.as_ref();
        Ok(link.map(|link| Arc::clone(&link.connection)).filter(|connection| connection.is_open()))
    }

    pub(super) fn is_at_home(&self, id: SessionId, home: u64) -> bool {
        self.kept().get(&id).is_some_and(|kept| kept.home == home)
    }

    /// How to show the session to another server.
    pub(super) fn greeting(&self, id: SessionId) -> Option<Greeting> {
        let kept = self.kept();
        let Kept { password, timeout, .. } = kept.get(&id)?;
        Some(Greeting {
            session: Some((id, password.clone())),
            timeout: *timeout,
            ends_with_connection: false,
        })
    }

    /// Was the leader key ours when the session was last renewed?
    pub(super) fn leads(&self, id: SessionId) -> bool {
        self.kept().get(&id).and_then(|kept| kept.link.as_ref()).is_some_and(|link| link.leading)
    }

    pub(super) fn note_leading(&self, id: SessionId, leading: bool) {
        if let Some(link) = self.kept().get_mut(&id).and_then(|kept| kept.link.as_mut()) {
            link.leading = leading;
        }
    }

    /// A question over this connection that the leader of the servers has answered. Returns since when the session is known to be alive;
    /// nothing if another connection has taken this one's place.
    pub(super) fn proven(
        &self,
        id: SessionId,
        connection: &Arc<Connection>,
        sent: Moment,
        answered: Moment,
    ) -> Option<Proof> {
        let mut kept = self.kept();
        let link =
            kept.get_mut(&id)?.link.as_mut().filter(|link| Arc::ptr_eq(&link.connection, connection))?;
        Some(Proof { alive_at: link.touches.answered(sent, answered), settle: link.touches.settle })
    }

    /// Changes when a session gets a connection, or ends.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<SessionId, Kept>> {
        // What is kept under this lock is whole at any moment, whoever panicked.
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Touches {
    /// `floor` is the shortest session that the server grants, two ticks unless somebody has changed that.
    pub(crate) fn from(greeted_at: Moment, floor: Span) -> Touches {
        let settle = floor.scaled(1, 2).max(SETTLE_MIN);
        Touches { certain: greeted_at, open: VecDeque::new(), settle }
    }

    /// Since when is the session known to be alive, now that the leader has answered a question sent at `sent`?
    pub(crate) fn answered(&mut self, sent: Moment, answered: Moment) -> Moment {
        while let Some((earlier, heard_at)) = self.open.front().copied()
            && heard_at + self.settle <= sent
        {
            self.certain = self.certain.max(earlier);
            self.open.pop_front();
        }
        if self.open.len() == TOUCHES_MAX {
            self.open.pop_back();
        }
        self.open.push_back((sent, answered));
        self.certain
    }
}

/// Without the passwords.
impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.kept().keys()).finish()
    }
}

fn parsed(text: &str) -> Option<(Span, Vec<u8>)> {
    let (timeout, password) = text.trim().split_once(':')?;
    let byte = |at: usize| u8::from_str_radix(password.get(at..at + 2)?, 16).ok();
    let password = (0..password.len()).step_by(2).map(byte).collect::<Option<Vec<u8>>>()?;
    Some((Span::from_ms(timeout.parse().ok()?), password))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::from_ms(ms)
    }

    #[test]
    fn an_answer_proves_what_was_said_a_tick_before_it() {
        let mut touches = Touches::from(at(1_000), Span::from_secs(4));
        // Nothing but the greeting is sure until a tick has passed.
        assert_eq!(touches.answered(at(2_000), at(2_100)), at(1_000));
        assert_eq!(touches.answered(at(3_000), at(3_100)), at(1_000));
        assert_eq!(touches.answered(at(4_000), at(4_100)), at(1_000));
        assert_eq!(touches.answered(at(4_100), at(4_200)), at(2_000));
        // After a pause the answer proves the last word before it, and no later one.
        assert_eq!(touches.answered(at(30_000), at(30_010)), at(4_100));
        assert_eq!(touches.answered(at(30_020), at(30_030)), at(4_100));
        assert_eq!(touches.answered(at(32_010), at(32_030)), at(30_000));
    }

    #[test]
    fn short_sessions_do_not_mean_short_ticks() {
        let mut touches = Touches::from(at(0), Span::from_ms(100));
        touches.answered(at(1_000), at(1_010));
        assert_eq!(touches.answered(at(1_900), at(1_910)), at(0));
        assert_eq!(touches.answered(at(2_010), at(2_020)), at(1_000));
    }

    #[test]
    fn what_is_remembered_has_a_bound() {
        let mut touches = Touches::from(at(0), Span::from_secs(4));
        for n in 0..1_000 {
            touches.answered(at(n), at(n));
        }
        assert_eq!(touches.open.len(), TOUCHES_MAX);
    }

    #[test]
    fn a_session_is_handed_on_as_text_and_nothing_else_is_taken_for_one() {
        let (first, next) = (Sessions::default(), Sessions::default());
        let id = SessionId(7);
        first.adopt(id, &Secret::new("30000:00ff10".to_owned()));
        let secret = first.secret(id).expect("it is known");
        next.adopt(id, &secret);
        let greeting = next.greeting(id).expect("it is known");
        assert_eq!(greeting.session, Some((id, vec![0, 255, 16])));
        assert_eq!(greeting.timeout, Span::from_secs(30));
        for nonsense in ["", "30000", "x:00", "30000:0", "30000:zz", "30000:é"] {
            let sessions = Sessions::default();
            sessions.adopt(id, &Secret::new(nonsense.to_owned()));
            assert!(sessions.secret(id).is_none(), "{nonsense:?}");
        }
    }
}
