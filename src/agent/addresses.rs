//! Tells the holder of the virtual addresses what each decision means for them, and everybody else how they are. The holder acts
//! by itself when nothing more is said; see docs/virtual-address.md.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;

use super::sentry::chain;
use crate::address::{Error, Holder, Request};
use crate::clock;
use crate::config::Config;
use crate::decide::address_order;
use crate::model::{AddressOrder, AddressStanding, Moment, Notice, Span, Standing, Until, VirtualAddress};

/// An order that has not changed is given again so often: somebody may have undone it, or the holder may be another one.
const AGAIN: Span = Span::from_secs(1);
/// The holder is not there, or has not done it.
const RETRY: Span = Span::from_ms(300);
/// How much later than it was told the kernel may take an address away.
const KERNEL_TAKES: Span = Span::from_ms(1_500);
/// In maintenance mode nothing ends by itself; whoever wants to lead elsewhere is kept waiting no longer than this.
const PATIENCE_WITHOUT_END: Span = Span::from_secs(2);

/// What is known of this member's virtual addresses.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Addresses {
    /// Of which decision this comes.
    decisions: u64,
    /// Until when they may be here; `None` if it is certain that they are not.
    bound: Option<Until>,
    /// Nothing is known as long as nobody holds them.
    pub standings: Vec<AddressStanding>,
}

pub struct Attendant {
    pub addresses: Vec<VirtualAddress>,
    pub socket: PathBuf,
    pub reloads: watch::Receiver<Option<Box<Config>>>,
    pub standings: watch::Receiver<Arc<Standing>>,
    pub told: watch::Sender<Addresses>,
}

impl Attendant {
    /// As long as the agent lives.
    pub async fn attend(mut self) {
        let mut holder = Holder::new(self.socket.clone());
        let mut last: Option<(Request, Moment)> = None;
        let mut failing = Failing::default();
        if !self.addresses.is_empty() {
            self.learn_of_predecessor(&mut holder).await;
        }
        loop {
            if let Some(config) = &*self.reloads.borrow_and_update() {
                self.addresses.clone_from(&config.tenure.virtual_addresses);
            }
            let (order, decisions) = {
                let standing = self.standings.borrow_and_update();
                (address_order(&standing.view), standing.facts.decisions)
            };
            let wanted = &self.addresses;
            let request = request_of(order).filter(|_| !wanted.is_empty());
            let now = clock::now();
            let due = match (request, last) {
                (Some(request), Some((said, at))) => request != said || AGAIN <= now.since(at),
                (Some(_), None) => true,
                (None, _) => false,
            };
            let mut wait = AGAIN;
            if let Some(request) = request.filter(|_| due) {
                // Before it is said: from here on it may have been done.
                self.told.send_modify(|told| told.bound = bound_after(request, told.bound));
                match holder.tell(request).await {
                    Ok(standings) => {
                        last = Some((request, now));
                        failing.ends();
                        failing.compare(wanted, &standings);
                        self.learn(request, standings, decisions);
                    }
                    Err(error) => {
                        last = None;
                        wait = RETRY;
                        failing.tell(&error);
                        self.told.send_modify(|told| {
                            told.decisions = decisions;
                            told.standings = Vec::new();
                        });
                    }
                }
            } else {
                self.told.send_modify(|told| told.decisions = decisions);
            }
            self.forget_what_has_ended();
            tokio::select! {
                changed = self.standings.changed() => if changed.is_err() { return },
                changed = self.reloads.changed() => {
                    last = None;
                    if changed.is_err() { return }
                }
                () = clock::pause(wait) => {}
            }
            // A holder that does not answer is not asked with every decision.
            if last.is_none() && wait == RETRY {
                clock::pause(RETRY).await;
            }
        }
    }

    /// What an earlier life of this agent has left counts no longer than its lease.
    async fn learn_of_predecessor(&self, holder: &mut Holder) {
        let lease = self.standings.borrow().view.policy.timing.ttl;
        let gone = holder.tell(Request::Status).await.is_ok_and(|all| all.iter().all(|one| !one.held));
        let bound = (!gone).then(|| Until::Moment(clock::now() + lease));
        self.told.send_modify(|told| told.bound = bound);
    }

    fn learn(&self, request: Request, standings: Vec<AddressStanding>, decisions: u64) {
        let here = standings.iter().any(|standing| standing.held);
        self.told.send_modify(|told| {
            told.decisions = decisions;
            let done = standings.iter().all(|standing| standing.failure.is_none());
            told.bound = match request {
                // The kernel has heard of no other end.
                Request::Hold { until } | Request::Extend { until } if done => Some(until).filter(|_| here),
                Request::Away | Request::Ask | Request::Status if done => told.bound.filter(|_| here),
                Request::Hold { .. }
                | Request::Extend { .. }
                | Request::Away
                | Request::Ask
                | Request::Status => told.bound,
            };
            told.standings = standings;
        });
    }

    /// Whatever became of the holder, the kernel has taken them away by now.
    fn forget_what_has_ended(&self) {
        let now = clock::now();
        self.told.send_if_modified(|told| match told.bound {
            Some(Until::Moment(at)) if at + KERNEL_TAKES <= now => {
                told.bound = None;
                true
            }
            Some(Until::Moment(_) | Until::Revoked) | None => false,
        });
    }
}

/// Waits until nobody reaches this member by a virtual address any more, as that decision wants it; never longer than until the kernel
/// takes them away by itself.
pub async fn left(mut told: watch::Receiver<Addresses>, decisions: u64) {
    let asked_at = clock::now();
    loop {
        let (done, ends_at) = {
            let told = told.borrow_and_update();
            let ends_at = match told.bound {
                Some(Until::Moment(at)) => at + KERNEL_TAKES,
                Some(Until::Revoked) | None => asked_at + PATIENCE_WITHOUT_END,
            };
            (decisions <= told.decisions && told.bound.is_none(), ends_at)
        };
        if done {
            return;
        }
        let now = clock::now();
        if ends_at <= now {
            tracing::warn!(
                "the lease is given back, and nobody has confirmed that the virtual addresses are gone"
            );
            return;
        }
        tokio::select! {
            changed = told.changed() => if changed.is_err() { return },
            () = clock::pause(now.until(ends_at)) => {}
        }
    }
}

fn request_of(order: AddressOrder) -> Option<Request> {
    match order {
        AddressOrder::Away => Some(Request::Away),
        AddressOrder::Ask => Some(Request::Ask),
        AddressOrder::Keep => None,
        AddressOrder::Extend { until } => Some(Request::Extend { until }),
        AddressOrder::Hold { until } => Some(Request::Hold { until }),
    }
}

/// The later of two ends counts, until they are known to be gone: the kernel may not have heard of the earlier one.
fn bound_after(request: Request, before: Option<Until>) -> Option<Until> {
    let later = |until: Until| match (until, before) {
        (Until::Revoked, _) | (_, Some(Until::Revoked)) => Until::Revoked,
        (Until::Moment(at), Some(Until::Moment(known))) => Until::Moment(at.max(known)),
        (Until::Moment(at), None) => Until::Moment(at),
    };
    match request {
        Request::Hold { until } => Some(later(until)),
        // What is not held is not taken by it.
        Request::Extend { until } => before.map(|_| later(until)),
        Request::Away | Request::Ask | Request::Status => before,
    }
}

/// Each trouble is told when it begins.
#[derive(Debug, Default)]
struct Failing {
    told: Option<String>,
}

impl Failing {
    fn tell(&mut self, error: &Error) {
        self.once(chain(error));
    }

    fn compare(&mut self, wanted: &[VirtualAddress], held: &[AddressStanding]) {
        if !held.iter().map(|standing| &standing.address).eq(wanted) {
            self.once("the holder has other addresses than tenure.virtual_addresses: restart it".to_owned());
        }
    }

    fn once(&mut self, text: String) {
        if self.told.as_ref() != Some(&text) {
            let notice = Notice::AddressHolderGone;
            tracing::warn!(message_id = %notice.message_id(), "{}: {text}", notice.sentence());
        }
        self.told = Some(text);
    }

    fn ends(&mut self) {
        self.told = None;
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;

    fn until(ms: u64) -> Until {
        Until::Moment(Moment::from_ms(ms))
    }

    #[test]
    fn the_latest_end_that_anybody_may_have_heard_of_counts() {
        let hold = |ms| Request::Hold { until: until(ms) };
        assert_eq!(bound_after(hold(5), None), Some(until(5)));
        assert_eq!(bound_after(hold(5), Some(until(9))), Some(until(9)));
        assert_eq!(bound_after(hold(5), Some(Until::Revoked)), Some(Until::Revoked));
        assert_eq!(bound_after(Request::Extend { until: until(5) }, None), None);
        assert_eq!(bound_after(Request::Away, Some(until(9))), Some(until(9)));
    }

    fn standing(held: bool, failure: Option<&str>) -> AddressStanding {
        AddressStanding {
            address: "10.0.0.100 dev eth0".parse().expect("one"),
            held,
            duplicate: None,
            failure: failure.map(str::to_owned),
        }
    }

    #[tokio::test]
    async fn the_lease_is_given_back_once_they_are_known_to_be_gone() {
        let far = Until::Moment(clock::now() + Span::from_secs(3_600));
        let (told, hearing) = watch::channel(Addresses { bound: Some(far), ..Addresses::default() });
        let mut waiting = std::pin::pin!(left(hearing, 7));
        let mut context = Context::from_waker(Waker::noop());
        let mut waits = || waiting.as_mut().poll(&mut context).is_pending();
        told.send_modify(|told| told.decisions = 7);
        assert!(waits(), "they may be here");
        // An older decision says nothing of what this one has ordered.
        told.send_modify(|told| *told = Addresses { decisions: 6, bound: None, standings: Vec::new() });
        assert!(waits(), "an older decision");
        told.send_modify(|told| told.decisions = 8);
        assert!(!waits(), "they are gone");
    }

    #[tokio::test]
    async fn what_has_ended_by_itself_keeps_nobody_waiting() {
        let (_told, hearing) = watch::channel(Addresses { bound: Some(until(1)), ..Addresses::default() });
        left(hearing, 7).await;
    }

    #[test]
    fn what_could_not_be_removed_is_not_gone() {
        let mind = crate::decide::mind::Mind::new(
            "turku".parse().expect("a name"),
            crate::model::Tags::default(),
            crate::model::Policy::default(),
            true,
        );
        let view = mind.view().clone();
        let plan = crate::decide::decide(&view);
        let (_, standings) =
            watch::channel(Arc::new(Standing { view, plan, facts: crate::model::Facts::default() }));
        let (_, reloads) = watch::channel(None);
        let (told, hearing) = watch::channel(Addresses::default());
        let attendant =
            Attendant { addresses: Vec::new(), socket: "/nowhere".into(), reloads, standings, told };
        let after = |request, standing| {
            attendant.told.send_modify(|told| told.bound = Some(until(9)));
            attendant.learn(request, vec![standing], 1);
            hearing.borrow().bound
        };
        assert_eq!(after(Request::Away, standing(false, None)), None);
        assert_eq!(after(Request::Away, standing(false, Some("no right"))), Some(until(9)));
        assert_eq!(after(Request::Away, standing(true, None)), Some(until(9)));
        assert_eq!(after(Request::Hold { until: until(5) }, standing(true, None)), Some(until(5)));
        assert_eq!(after(Request::Hold { until: until(5) }, standing(true, Some("no"))), Some(until(9)));
        assert_eq!(after(Request::Extend { until: until(5) }, standing(false, None)), None);
    }
}
