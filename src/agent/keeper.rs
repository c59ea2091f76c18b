//! The keeper of the lease: a thread with a runtime and a store connection of its own, which waits for nobody else.
//! It renews while the loop's last orders allow it, tells the guardian each new deadline, and reports. It decides nothing.

use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::threads;
use crate::clock;
use crate::decide::mind::{Event, LeaseEvent, LeaseOrders};
use crate::fence::LeaseLink;
use crate::model::{MemberName, Moment, Session, SessionId, Span, Term, Timing};
use crate::store::{Store, StoreError, StoreSettings};

/// After a renewal without an answer the next one follows soon: the lease is running out meanwhile.
const RETRY: Span = Span::from_ms(200);
/// How often opening a session is tried.
const REOPEN: Span = Span::from_secs(1);
/// While nothing may be renewed there is nothing to do but to wait for other orders.
const IDLE: Span = Span::from_secs(60);

pub struct KeeperSettings {
    pub me: MemberName,
    pub store: StoreSettings,
    pub orders: watch::Receiver<LeaseOrders>,
    pub events: mpsc::Sender<Event>,
    pub guardian: LeaseLink,
    /// The session of this member's former life, if it may still be alive.
    pub former: Option<SessionId>,
}

/// Starts the thread. It ends when the sender of the orders is gone.
pub fn start(settings: KeeperSettings) -> std::io::Result<std::thread::JoinHandle<()>> {
    threads::alone("lease-keeper", || Keeper::new(settings).keep())
}

struct Keeper {
    me: MemberName,
    store: Store,
    orders: watch::Receiver<LeaseOrders>,
    events: mpsc::Sender<Event>,
    guardian: LeaseLink,
    session: Option<SessionId>,
    /// When the store was last asked, and how soon after it again whatever the orders say.
    asked: Option<(Moment, Option<Span>)>,
}

impl Keeper {
    fn new(settings: KeeperSettings) -> Keeper {
        Keeper {
            me: settings.me,
            store: Store::connect(&settings.store),
            orders: settings.orders,
            events: settings.events,
            guardian: settings.guardian,
            session: settings.former,
            asked: None,
        }
    }

    async fn keep(mut self) {
        let mut held = None;
        loop {
            // Before the orders are read: whoever gives more time in this very moment is then seen, or says so.
            let now = clock::now();
            let orders = *self.orders.borrow_and_update();
            let allowed = now < orders.until;
            if let Some(session) = self.session.filter(|_| !allowed) {
                self.store.let_lapse(session);
            }
            // A term that is new to us is looked at at once: a leader waits for it.
            if allowed && (self.next(orders) <= clock::now() || orders.hold != held) {
                held = orders.hold;
                let soon = self.once(orders).await;
                self.asked = Some((clock::now(), soon));
            }
            // Where any word of ours keeps the session alive, the last moment to speak must not be slept through.
            let wait = if allowed { clock::now().until(self.next(orders).min(orders.until)) } else { IDLE };
            tokio::select! {
                changed = self.orders.changed() => if changed.is_err() { return },
                () = clock::pause(wait) => {}
            }
        }
    }

    /// By the present orders: where the rest ends, what was waited for may be due already.
    fn next(&self, orders: LeaseOrders) -> Moment {
        let Some((asked, soon)) = self.asked else { return Moment::default() };
        asked + soon.unwrap_or_else(|| orders.every(self.store.rests_between_renewals()))
    }

    /// One renewal, or the opening of a session. Returns how soon the next must follow, if sooner than by the orders.
    async fn once(&mut self, orders: LeaseOrders) -> Option<Span> {
        match self.session {
            Some(id) => self.renew(id, orders).await,
            None => self.open(orders).await,
        }
    }

    async fn open(&mut self, orders: LeaseOrders) -> Option<Span> {
        let asked_at = clock::now();
        match self.store.open_session(orders.ttl, bound(orders)).await {
            Ok(opened) => {
                self.session = Some(opened.id);
                self.report(LeaseEvent::Opened(Session { id: opened.id, asked_at, ttl: opened.ttl })).await;
                None
            }
            Err(error) => {
                tracing::debug!(%error, "open a session");
                Some(REOPEN)
            }
        }
    }

    async fn renew(&mut self, id: SessionId, orders: LeaseOrders) -> Option<Span> {
        let asked_at = clock::now();
        match self.store.renew(id, &self.me, orders.hold, bound(orders)).await {
            Ok(ttl) => {
                let session = Session { id, asked_at, ttl };
                // By the latest orders: maintenance mode may have begun while the store was asked.
                let guard = self.orders.borrow().guard;
                if let Some(term) = orders.hold.filter(|_| guard) {
                    let timing = Timing { ttl: ttl.min(orders.ttl), ..Timing::for_ttl(orders.ttl) };
                    self.tell_guardian(term, timing.fence_at(asked_at));
                }
                self.report(LeaseEvent::Renewed { session, term: orders.hold }).await;
                None
            }
            Err(StoreError::Conflict { .. }) => {
                if let Some(term) = orders.hold {
                    self.report(LeaseEvent::KeyNotOurs { term }).await;
                }
                None
            }
            Err(StoreError::SessionGone { .. }) => {
                self.session = None;
                self.report(LeaseEvent::SessionGone { session: id }).await;
                Some(Span::ZERO)
            }
            Err(error @ (StoreError::Unanswered { .. } | StoreError::Refused { .. })) => {
                tracing::debug!(%error, "renew the session");
                Some(RETRY)
            }
        }
    }

    /// A guardian that does not take it keeps the earlier moment: nothing is lost but time.
    fn tell_guardian(&mut self, term: Term, fence_at: Moment) {
        if let Err(error) = self.guardian.send_arm(term, fence_at) {
            tracing::debug!(%error, "the deadline was not taken");
        }
    }

    /// The loop takes events all the time; if it does not, it hangs, and the keeper must not hang with it.
    async fn report(&self, event: LeaseEvent) {
        let sent = self.events.send_timeout(Event::Lease(event), Duration::from_millis(100)).await;
        if sent.is_err() {
            tracing::warn!("the loop takes no events");
        }
    }
}

/// A renewal that takes longer than this is as good as lost, and the next one is due.
fn bound(orders: LeaseOrders) -> Duration {
    orders.ttl.scaled(1, 4).max(Span::from_ms(500)).as_duration()
}
