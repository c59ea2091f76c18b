//! The guardian's rules, as `tenure-fence` has them: an order is only ever replaced by a later one, an expired order goes
//! on killing, and nothing but an order or its own death changes it.

use super::world::{Happening, World};
use super::{MS, Time};
use crate::model::{FenceOrder, Guardian as Known, Moment, Span, Term, Watchdog, WatchdogFailure};

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Guardian {
    pub alive: bool,
    pub life: u64,
    pub armed: Option<(Term, Moment)>,
    /// The watchdog device of this machine cannot be used.
    pub watchdog_broken: bool,
}

/// Who gives an order, and hears the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaker {
    Agent,
    Keeper,
}

const HEARD_AFTER: Time = MS / 5;

impl Guardian {
    /// Takes an order in, or not; says what is in force.
    pub fn obey(&mut self, order: FenceOrder) -> FenceOrder {
        match order {
            FenceOrder::Arm { term, fence_at } => match self.armed {
                Some((armed, at)) if term < armed || (term == armed && fence_at < at) => {}
                Some(_) | None => self.armed = Some((term, fence_at)),
            },
            FenceOrder::Disarm => self.armed = None,
            FenceOrder::Keep => {}
        }
        self.in_force()
    }

    pub fn in_force(&self) -> FenceOrder {
        match self.armed {
            Some((term, fence_at)) => FenceOrder::Arm { term, fence_at },
            None => FenceOrder::Disarm,
        }
    }

    pub fn watchdog(&self) -> Watchdog {
        let timeout = Span::from_secs(5);
        match (self.alive, self.watchdog_broken, self.armed) {
            (false, ..) => Watchdog::Unknown,
            (true, true, _) => Watchdog::Failed(WatchdogFailure::Absent),
            (true, false, Some(_)) => Watchdog::Armed { timeout, stays: false },
            (true, false, None) => Watchdog::Ready { timeout },
        }
    }

    pub fn kills_at(&self, now: Moment) -> bool {
        self.alive && self.armed.is_some_and(|(_, fence_at)| fence_at <= now)
    }
}

impl World {
    pub fn start_guardian(&mut self, host: usize) {
        if !self.hosts[host].up || self.hosts[host].guardian.alive {
            return;
        }
        let guardian = &mut self.hosts[host].guardian;
        *guardian = Guardian { alive: true, life: guardian.life + 1, armed: None, ..*guardian };
        self.tell_guardian_state(host);
    }

    pub fn break_watchdog(&mut self, host: usize, broken: bool) {
        if self.hosts[host].guardian.watchdog_broken != broken {
            self.hosts[host].guardian.watchdog_broken = broken;
            self.tell_guardian_state(host);
        }
    }

    /// The agent learns what the guardian holds; it finds its death out just as fast.
    pub fn tell_guardian_state(&mut self, host: usize) {
        let guardian = self.hosts[host].guardian;
        let known =
            if guardian.alive { Known::Ready { confirmed: guardian.in_force() } } else { Known::Absent };
        let life = self.hosts[host].agent_life;
        self.after(HEARD_AFTER, Happening::AgentHearsGuardian { host, life, known });
    }

    pub fn order_guardian(&mut self, host: usize, order: FenceOrder, from: Speaker) {
        let life = self.hosts[host].guardian.life;
        self.after(HEARD_AFTER, Happening::GuardianHears { host, life, order, from });
    }

    pub fn guardian_hears(&mut self, host: usize, life: u64, order: FenceOrder, from: Speaker) {
        let guardian = &mut self.hosts[host].guardian;
        if !guardian.alive || guardian.life != life {
            return;
        }
        guardian.obey(order);
        if let Some((_, fence_at)) = guardian.armed {
            let late = self.random.between(0, 10 * MS);
            let at = self.hosts[host].clock.shows(fence_at) + late;
            self.at(at, Happening::GuardianLooks { host, life });
        }
        if from == Speaker::Agent {
            self.tell_guardian_state(host);
        }
    }

    /// The moment may have moved on since this look was planned.
    pub fn guardian_looks(&mut self, host: usize, life: u64) {
        let now = self.local(host);
        let guardian = self.hosts[host].guardian;
        if guardian.life == life && guardian.kills_at(now) && self.hosts[host].pg.data.is_some() {
            let takes = self.random.between(MS, 300 * MS);
            let pg_life = self.hosts[host].pg.life;
            self.after(takes, Happening::GuardianHasKilled { host, pg_life });
        }
    }

    pub fn guardian_has_killed(&mut self, host: usize, pg_life: u64) {
        if self.hosts[host].pg.life == pg_life && self.hosts[host].pg.is_up() {
            self.tell(host, "the guardian has killed PostgreSQL");
            self.crash_postgres(host);
        }
    }
}
