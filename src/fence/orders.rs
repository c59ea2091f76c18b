//! What a guardian has been ordered, as a value: which orders it takes, which it refuses, and when it is due. No clock,
//! no process, no socket.

use crate::model::{Moment, Term};

use super::wire::{Refusal, State, Why};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    state: State,
}

impl Orders {
    pub fn state(&self) -> State {
        self.state
    }

    /// Deadlines only move forward within a term, terms only move forward while one is armed: whatever an agent that was
    /// frozen and thawed still sends, it can neither end a term early nor hold up a newer one.
    pub fn arm(&mut self, term: Term, fence_at: Moment, now: Moment) -> Result<(), Refusal> {
        match self.state {
            State::Killing { .. } => return Err(Refusal::Killing),
            State::Armed { term: armed, .. } | State::Fenced { term: armed, .. } if term < armed => {
                return Err(Refusal::OlderTerm);
            }
            State::Armed { term: armed, fence_at: later }
            | State::Fenced { term: armed, fence_at: later }
                if term == armed && fence_at < later =>
            {
                return Err(Refusal::EarlierDeadline);
            }
            // A word that came too late must not become a promise.
            State::Idle | State::Armed { .. } | State::Fenced { .. } if fence_at <= now => {
                return Err(Refusal::Past);
            }
            State::Idle | State::Armed { .. } | State::Fenced { .. } => {}
        }
        self.state = State::Armed { term, fence_at };
        Ok(())
    }

    pub fn disarm(&mut self, term: Term) -> Result<(), Refusal> {
        match self.state {
            State::Idle => Ok(()),
            State::Killing { .. } => Err(Refusal::Killing),
            State::Armed { term: armed, .. } | State::Fenced { term: armed, .. } if term < armed => {
                Err(Refusal::OlderTerm)
            }
            State::Armed { .. } | State::Fenced { .. } => {
                self.state = State::Idle;
                Ok(())
            }
        }
    }

    /// Kill at once, by order. Only for the term that is armed: it must not be possible to kill somebody else's.
    pub fn fence(&mut self, term: Term, now: Moment) -> Result<Why, Refusal> {
        match self.state {
            State::Killing { .. } => Err(Refusal::Killing),
            State::Armed { term: armed, .. } if armed == term => {
                self.state = State::Killing { term, fence_at: now };
                Ok(Why::Ordered)
            }
            State::Idle | State::Armed { .. } | State::Fenced { .. } => Err(Refusal::NotArmed),
        }
    }

    /// The term has run out: from here on nothing is taken until the kill is complete.
    pub fn run_out(&mut self, now: Moment) -> Option<Why> {
        match self.state {
            State::Armed { term, fence_at } if fence_at <= now => {
                self.state = State::Killing { term, fence_at };
                Some(Why::Deadline)
            }
            State::Idle | State::Armed { .. } | State::Killing { .. } | State::Fenced { .. } => None,
        }
    }

    /// Something of PostgreSQL was seen alive after the term had run out and everything had been killed.
    pub fn seen_alive(&mut self) -> Option<Why> {
        match self.state {
            State::Fenced { term, fence_at } => {
                self.state = State::Killing { term, fence_at };
                Some(Why::Returned)
            }
            State::Idle | State::Armed { .. } | State::Killing { .. } => None,
        }
    }

    /// Nothing is left.
    pub fn killed(&mut self) {
        if let State::Killing { term, fence_at } = self.state {
            self.state = State::Fenced { term, fence_at };
        }
    }

    /// Would no primary lose its guardian if this one went away?
    pub fn may_stop(&self) -> bool {
        match self.state {
            State::Idle | State::Fenced { .. } => true,
            State::Armed { .. } | State::Killing { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Moment = Moment::from_ms(1000);

    fn armed(term: u64, fence_at: u64) -> Orders {
        let mut orders = Orders::default();
        orders.arm(Term(term), Moment::from_ms(fence_at), Moment::from_ms(0)).expect("armed");
        orders
    }

    fn at(ms: u64) -> Moment {
        Moment::from_ms(ms)
    }

    #[test]
    fn a_deadline_moves_forward_and_never_back() {
        let mut orders = armed(7, 5000);
        assert_eq!(orders.arm(Term(7), at(6000), NOW), Ok(()));
        assert_eq!(orders.arm(Term(7), at(6000), NOW), Ok(()));
        assert_eq!(orders.arm(Term(7), at(5999), NOW), Err(Refusal::EarlierDeadline));
        assert_eq!(orders.state(), State::Armed { term: Term(7), fence_at: at(6000) });
    }

    #[test]
    fn an_older_term_is_refused_while_a_newer_is_armed() {
        let mut orders = armed(7, 5000);
        assert_eq!(orders.arm(Term(6), at(9000), NOW), Err(Refusal::OlderTerm));
        assert_eq!(orders.disarm(Term(6)), Err(Refusal::OlderTerm));
        assert_eq!(orders.arm(Term(8), at(4000), NOW), Ok(()));
        assert_eq!(orders.disarm(Term(8)), Ok(()));
        // A store that was made anew counts terms from the beginning.
        assert_eq!(orders.arm(Term(1), at(9000), NOW), Ok(()));
    }

    #[test]
    fn a_deadline_that_has_passed_is_no_promise() {
        assert_eq!(Orders::default().arm(Term(7), NOW, NOW), Err(Refusal::Past));
        assert_eq!(armed(7, 5000).arm(Term(8), NOW, NOW), Err(Refusal::Past));
    }

    #[test]
    fn whoever_runs_out_is_killed_whatever_is_said_then() {
        let mut orders = armed(7, 5000);
        assert_eq!(orders.run_out(at(4999)), None);
        assert_eq!(orders.run_out(at(5000)), Some(Why::Deadline));
        for term in [6, 7, 8] {
            assert_eq!(orders.arm(Term(term), at(9000), at(5001)), Err(Refusal::Killing));
            assert_eq!(orders.disarm(Term(term)), Err(Refusal::Killing));
        }
        orders.killed();
        assert_eq!(orders.seen_alive(), Some(Why::Returned));
        orders.killed();
        assert!(orders.may_stop());
        assert_eq!(orders.arm(Term(7), at(9000), at(5002)), Ok(()));
    }

    #[test]
    fn only_the_armed_term_can_be_fenced_by_order() {
        let mut orders = armed(7, 5000);
        assert_eq!(orders.fence(Term(6), NOW), Err(Refusal::NotArmed));
        assert_eq!(orders.fence(Term(8), NOW), Err(Refusal::NotArmed));
        assert_eq!(orders.fence(Term(7), NOW), Ok(Why::Ordered));
        assert_eq!(orders.run_out(at(9000)), None);
    }

    #[derive(Clone, Debug)]
    enum Said {
        Arm(u64, u64),
        Disarm(u64),
        Fence(u64),
        Killed,
        SeenAlive,
    }

    fn said() -> impl Strategy<Value = Said> {
        prop_oneof![
            4 => (0u64..4, 0u64..300).prop_map(|(term, at)| Said::Arm(term, at)),
            1 => (0u64..4).prop_map(Said::Disarm),
            1 => (0u64..4).prop_map(Said::Fence),
            2 => Just(Said::Killed),
            1 => Just(Said::SeenAlive),
        ]
    }

    proptest! {
        /// The law of this file: once armed, the moment of the kill is put off only by a later deadline of the same or a
        /// newer term, and only before it has come.
        #[test]
        fn a_kill_is_put_off_only_in_time_and_only_by_who_may(
            script in proptest::collection::vec((said(), 0u64..20), 0..60)
        ) {
            let (mut orders, mut now) = (Orders::default(), at(0));
            for (what, pause) in script {
                now = at(now.as_ms() + pause);
                orders.run_out(now);
                let before = orders.state();
                match what {
                    Said::Arm(term, fence_at) => { let _ = orders.arm(Term(term), at(fence_at), now); }
                    Said::Disarm(term) => { let _ = orders.disarm(Term(term)); }
                    Said::Fence(term) => { let _ = orders.fence(Term(term), now); }
                    Said::Killed => orders.killed(),
                    Said::SeenAlive => { orders.seen_alive(); }
                }
                match (before, orders.state()) {
                    (State::Armed { term: old, fence_at: earlier }, State::Armed { term, fence_at }) => {
                        prop_assert!(now < earlier && now < fence_at);
                        prop_assert!(old < term || (old == term && earlier <= fence_at));
                    }
                    (State::Killing { .. }, after) => {
                        let finished = matches!(after, State::Fenced { .. });
                        prop_assert!(after == before || finished);
                    }
                    (State::Armed { .. }, after) => {
                        let skipped_the_kill = matches!(after, State::Fenced { .. });
                        prop_assert!(!skipped_the_kill);
                    }
                    (State::Idle | State::Fenced { .. }, after) => {
                        if let State::Armed { fence_at, .. } = after {
                            prop_assert!(after == before || now < fence_at);
                        }
                    }
                }
            }
        }
    }
}
