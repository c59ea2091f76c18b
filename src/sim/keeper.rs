//! The keeper of the lease: renews within its orders, tells the guardian at once and the agent afterwards.

use super::guardian::Speaker;
use super::host::{Call, Purpose};
use super::store::{Answer, Request};
use super::world::{Happening, World};
use super::{MS, Time};
use crate::decide::fault::{self, Fault};
use crate::decide::mind::{Event, LeaseEvent, LeaseOrders};
use crate::model::{FenceOrder, Moment, Session, SessionId, Span, Term, Timing};
use crate::store::zookeeper::{Touches, lost_max};

const RETRY: Time = 200 * MS;

impl World {
    pub fn keeper_ticks(&mut self, host: usize, life: u64) {
        let (now, true_now) = (self.local(host), self.now);
        let jitter = self.random.between(0, 3 * MS);
        let rests = self.store.tick.is_none();
        let Some(agent) = self.hosts[host].agent.as_mut() else { return };
        let keeper = &mut agent.keeper;
        // Another one has been ordered since, or has come before this one.
        if true_now < keeper.due {
            return;
        }
        let (orders, session) = (keeper.orders, keeper.session);
        let due = true_now + every(orders, rests) + jitter;
        keeper.due = due;
        if !keeper.asking && now < orders.until {
            keeper.asking = true;
            keeper.held = orders.hold;
            keeper.asked_at = true_now;
            let call = match session {
                Some(session) => {
                    let shown = keeper.touches.is_none();
                    renewal(now, session.id, orders.hold, self.hosts[host].name.clone(), shown)
                }
                None => Call {
                    purpose: Purpose::Open { asked_at: now },
                    request: Request::Open { ttl: self.policy.timing.ttl },
                },
            };
            self.ask_store(host, call);
        }
        self.at(due, Happening::KeeperTicks { host, life });
    }

    /// A term that is new to the keeper is looked at at once, and where the rest ends the next renewal may be due already.
    pub fn keeper_heeds_orders(&mut self, host: usize) {
        let (true_now, rests) = (self.now, self.store.tick.is_none());
        let Some(agent) = self.hosts[host].agent.as_mut() else { return };
        let (life, keeper) = (agent.life, &mut agent.keeper);
        let by_orders = keeper.asked_at + every(keeper.orders, rests);
        let due = if keeper.orders.hold == keeper.held { by_orders.max(true_now) } else { true_now };
        if !keeper.asking && due < keeper.due {
            keeper.due = due;
            self.at(due, Happening::KeeperTicks { host, life });
        }
    }

    /// After an answer, or after none in time.
    pub fn keeper_has_asked(&mut self, host: usize, answer: Option<&Answer>) {
        let true_now = self.now;
        let Some(agent) = self.hosts[host].agent.as_mut() else { return };
        let (life, keeper) = (agent.life, &mut agent.keeper);
        keeper.asking = false;
        let soon = match answer {
            Some(Answer::SessionGone) => true_now,
            None if keeper.session.is_some() => true_now + RETRY,
            Some(_) | None => keeper.due,
        };
        if soon < keeper.due {
            keeper.due = soon;
            self.at(soon, Happening::KeeperTicks { host, life });
        }
        self.keeper_heeds_orders(host);
    }

    /// A new agent begins with its predecessor's session, if there was one.
    pub fn keeper_starts(&mut self, host: usize, life: u64) {
        if let Some(id) = self.hosts[host].saved_session {
            let (now, true_now) = (self.local(host), self.now);
            let Some(agent) = self.hosts[host].agent.as_mut() else { return };
            agent.keeper.asking = true;
            agent.keeper.asked_at = true_now;
            let call = renewal(now, id, None, self.hosts[host].name.clone(), true);
            self.ask_store(host, call);
        }
        self.after(MS, Happening::KeeperTicks { host, life });
    }

    pub fn session_opened(&mut self, host: usize, asked_at: Moment, answer: Option<&Answer>) {
        let ttl = self.policy.timing.ttl;
        let Some(agent) = self.hosts[host].agent.as_mut() else { return };
        let Some(Answer::Opened(id)) = answer else { return };
        let session = Session { id: *id, asked_at, ttl };
        agent.keeper.session = Some(session);
        agent.keeper.touches = self.store.tick.map(|tick| Touches::from(asked_at, tick.times(2)));
        self.hosts[host].saved_session = Some(*id);
        self.learn(host, Event::Lease(LeaseEvent::Opened(session)));
    }

    pub fn session_renewed(
        &mut self,
        host: usize,
        asked_at: Moment,
        id: SessionId,
        (hold, shown): (Option<Term>, bool),
        answer: Option<&Answer>,
    ) {
        let timing = self.policy.timing;
        let (now, tick) = (self.local(host), self.store.tick);
        let Some(agent) = self.hosts[host].agent.as_mut() else { return };
        let held_still = hold.filter(|_| agent.keeper.orders.hold == hold);
        match answer {
            Some(Answer::Renewed { key_ours }) => {
                let mut lost = Span::ZERO;
                if let Some(tick) = tick {
                    if shown || agent.keeper.touches.is_none() {
                        agent.keeper.touches = Some(Touches::from(asked_at, tick.times(2)));
                    }
                    if let Some(touches) = agent.keeper.touches.as_mut() {
                        lost = asked_at.since(touches.answered(asked_at, now));
                        if lost_max(timing.ttl, touches.settle) < lost {
                            // The next one goes over a new connection.
                            agent.keeper.touches = None;
                            return;
                        }
                    }
                    if fault::active(Fault::CountsFromEveryAnswer) {
                        lost = Span::ZERO;
                    }
                }
                let session = Session { id, asked_at, ttl: timing.ttl.minus(lost) };
                agent.keeper.session = Some(session);
                match held_still {
                    Some(term) if *key_ours => self.term_confirmed(host, session, term, timing),
                    Some(term) => {
                        self.learn(host, Event::Lease(LeaseEvent::KeyNotOurs { term }));
                        self.learn(host, Event::Lease(LeaseEvent::Renewed { session, term: None }));
                    }
                    None => self.learn(host, Event::Lease(LeaseEvent::Renewed { session, term: None })),
                }
            }
            Some(Answer::SessionGone) => {
                agent.keeper.session = None;
                self.hosts[host].saved_session = None;
                self.learn(host, Event::Lease(LeaseEvent::SessionGone { session: id }));
            }
            // No answer, or one that says nothing: the next tick asks again.
            Some(
                Answer::Opened(_)
                | Answer::Errand(_)
                | Answer::Written
                | Answer::NotWritten
                | Answer::Cluster(..),
            )
            | None => {}
        }
    }

    fn term_confirmed(&mut self, host: usize, session: Session, term: Term, timing: Timing) {
        let granted = Timing { ttl: session.ttl.min(timing.ttl), ..timing };
        let fence_at = granted.fence_at(session.asked_at);
        if self.hosts[host].agent.as_ref().is_some_and(|agent| agent.keeper.orders.guard) {
            self.order_guardian(host, FenceOrder::Arm { term, fence_at }, Speaker::Keeper);
        }
        self.note_office(host, term, counted_from(session, timing));
        self.learn(host, Event::Lease(LeaseEvent::Renewed { session, term: Some(term) }));
    }
}

/// When a whole session of the usual length would have begun to end when this one does.
pub(super) fn counted_from(session: Session, timing: Timing) -> Moment {
    session.asked_at - timing.ttl.minus(session.ttl)
}

fn every(orders: LeaseOrders, rests: bool) -> Time {
    orders.every(rests).as_ms().max(100) * MS
}

fn renewal(
    asked_at: Moment,
    session: SessionId,
    hold: Option<Term>,
    name: crate::model::MemberName,
    shown: bool,
) -> Call {
    Call {
        purpose: Purpose::Renew { asked_at, session, hold, shown },
        request: Request::Renew { session, hold, name, shown },
    }
}
