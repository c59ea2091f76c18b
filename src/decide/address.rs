//! What the virtual addresses of this member are to do. They go with the primary: taken when the promotion has ended, left before
//! the lease is given back, and gone by the moment at which the guardian kills.

use super::fault::{self, Fault};
use super::in_force;
use crate::model::{AddressOrder, Job, Lease, Postgres, Serving, Until, View};

pub fn address_order(view: &View) -> AddressOrder {
    if view.policy.pause {
        return in_maintenance(view);
    }
    match in_force(view) {
        Some(lease) => under_lease(view, lease),
        None => without_lease(view),
    }
}

fn under_lease(view: &View, lease: &Lease) -> AddressOrder {
    let until = Until::Moment(lease.fence_at());
    let promoting = matches!(
        view.work.job.as_ref().map(|running| &running.job),
        Some(Job::Promote { .. } | Job::PrePromote { .. })
    );
    match &view.postgres {
        // Who leads a standby cluster has no primary.
        Postgres::Running(running) => match running.serving {
            Serving::Primary { .. } if !promoting => AddressOrder::Hold { until },
            Serving::Primary { .. } => AddressOrder::Ask,
            Serving::Standby { .. } if view.policy.follows.is_some() => AddressOrder::Away,
            Serving::Standby { .. } => AddressOrder::Ask,
        },
        // A primary that stops says goodbye to its clients, and one that restarts here comes back to them.
        Postgres::Unobserved | Postgres::Starting { .. } | Postgres::Stopped { .. } => {
            AddressOrder::Extend { until }
        }
        Postgres::Empty | Postgres::Unfinished { .. } | Postgres::Unusable { .. } => AddressOrder::Away,
    }
}

fn without_lease(view: &View) -> AddressOrder {
    let unknown = view.postgres == Postgres::Unobserved;
    let undecided = match view.lease {
        // It has run out: PostgreSQL is being stopped, and what is held ends with it or at `fence_at`.
        Some(_) => view.postgres.may_accept_writes(),
        // Given back or lost: from here on somebody else may have it.
        None if view.memory.has_led => fault::active(Fault::KeepsAddress),
        // An agent that has just been started may take up the lease of its predecessor.
        None => view.postgres.may_accept_writes() || unknown,
    };
    if undecided && !somebody_else_leads(view) { AddressOrder::Keep } else { AddressOrder::Away }
}

/// The primary stays whatever happens, and its address stays with it.
fn in_maintenance(view: &View) -> AddressOrder {
    if somebody_else_leads(view) {
        return AddressOrder::Away;
    }
    let held = view.lease.is_some() || !view.memory.has_led;
    match &view.postgres {
        Postgres::Running(running) => match running.serving {
            // Without a word of the store nobody knows whether it leads.
            Serving::Primary { .. } if view.lease.is_none() && view.cluster().is_none() => AddressOrder::Keep,
            Serving::Primary { .. } => AddressOrder::Hold { until: Until::Revoked },
            Serving::Standby { .. } => AddressOrder::Away,
        },
        Postgres::Unobserved | Postgres::Starting { .. } | Postgres::Stopped { .. } if held => {
            AddressOrder::Keep
        }
        Postgres::Unobserved
        | Postgres::Starting { .. }
        | Postgres::Stopped { .. }
        | Postgres::Empty
        | Postgres::Unfinished { .. }
        | Postgres::Unusable { .. } => AddressOrder::Away,
    }
}

fn somebody_else_leads(view: &View) -> bool {
    let leader = view.cluster().and_then(|cluster| cluster.leader.as_ref());
    leader.is_some_and(|leader| leader.name != view.me)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::mind::Mind;
    use crate::model::{
        Cluster, Contact, Leader, Moment, Policy, Position, Reason, Rule, Running, RunningJob, Span,
        StoreView, SyncNames, Synchrony, SystemId, Tags, Term, Timeline, Timing,
    };

    const NOW: Moment = Moment::from_ms(100_000);

    fn running(serving: Serving) -> Postgres {
        let (system, synchrony) = (SystemId(7), Synchrony::default());
        Postgres::Running(Running { system, serving, silent_since: None, version: 150_000, synchrony })
    }

    fn primary() -> Postgres {
        running(Serving::Primary { position: Position::new(1, 80), checkpointed: true, forks: None })
    }

    fn standby() -> Postgres {
        running(Serving::Standby {
            timeline: Timeline(1),
            received: None,
            replayed: None,
            streaming: true,
            upstream: None,
            forks: None,
            starved: false,
        })
    }

    /// Turku's, under a lease that was renewed a second ago.
    fn leads(postgres: Postgres) -> View {
        let name = "turku".parse().expect("a name");
        let mut view = Mind::new(name, Tags::default(), Policy::default(), true).view().clone();
        let asked_at = Moment::from_ms(NOW.as_ms() - 1_000);
        view.now = NOW;
        view.lease = Some(Lease { term: Term(3), asked_at, timing: Timing::for_ttl(Span::from_secs(10)) });
        view.memory.has_led = true;
        view.store = StoreView { cluster: Some(Cluster::default()), contact: Contact::Current };
        view.postgres = postgres;
        view
    }

    fn with(mut view: View, change: impl FnOnce(&mut View)) -> AddressOrder {
        change(&mut view);
        address_order(&view)
    }

    fn fence_at() -> Until {
        Until::Moment(leads(primary()).lease.expect("given").fence_at())
    }

    fn oulu_leads(view: &mut View) {
        let leader = Leader { name: "oulu".parse().expect("a name"), term: Term(4), session: None };
        view.store.cluster.as_mut().expect("given").leader = Some(leader);
    }

    #[test]
    fn it_is_taken_when_the_promotion_has_ended_and_asked_for_before() {
        assert_eq!(address_order(&leads(standby())), AddressOrder::Ask);
        let promoting = with(leads(primary()), |view| {
            let names = SyncNames::default();
            let job = Job::Promote { term: Term(3), timeline: Timeline(2), names };
            let reason: Reason = Rule::LeaderPromotes.into();
            view.work.job = Some(RunningJob { job, reason, since: NOW, cancelled: false });
        });
        assert_eq!(promoting, AddressOrder::Ask);
        assert_eq!(address_order(&leads(primary())), AddressOrder::Hold { until: fence_at() });
    }

    #[test]
    fn it_stays_with_a_primary_that_comes_back_and_goes_with_the_lease() {
        let starting = Postgres::Starting { since: NOW, as_primary: true, system: SystemId(7) };
        assert_eq!(address_order(&leads(starting)), AddressOrder::Extend { until: fence_at() });
        assert_eq!(with(leads(primary()), |view| view.lease = None), AddressOrder::Away);
        let ran_out = |postgres| with(leads(postgres), |view| view.now = NOW + Span::from_secs(60));
        assert_eq!(ran_out(primary()), AddressOrder::Keep, "its own end has come by then");
        assert_eq!(ran_out(standby()), AddressOrder::Away);
        let deposed = with(leads(primary()), |view| {
            view.now = NOW + Span::from_secs(60);
            oulu_leads(view);
        });
        assert_eq!(deposed, AddressOrder::Away);
    }

    #[test]
    fn an_agent_that_has_just_started_leaves_the_primary_its_address() {
        let fresh = |postgres| {
            with(leads(postgres), |view| {
                view.lease = None;
                view.memory.has_led = false;
            })
        };
        assert_eq!(fresh(Postgres::Unobserved), AddressOrder::Keep);
        assert_eq!(fresh(primary()), AddressOrder::Keep);
        // What a crash has left over.
        assert_eq!(fresh(standby()), AddressOrder::Away);
        assert_eq!(fresh(Postgres::Empty), AddressOrder::Away);
    }

    #[test]
    fn in_maintenance_mode_it_is_where_the_primary_is() {
        let paused = |postgres, change: fn(&mut View)| {
            with(leads(postgres), |view| {
                view.policy.pause = true;
                change(view);
            })
        };
        let held = AddressOrder::Hold { until: Until::Revoked };
        assert_eq!(paused(primary(), |_| {}), held);
        assert_eq!(paused(primary(), |view| view.lease = None), held, "the store is away");
        assert_eq!(paused(primary(), oulu_leads), AddressOrder::Away);
        assert_eq!(paused(standby(), |_| {}), AddressOrder::Away);
        assert_eq!(paused(Postgres::Unobserved, |_| {}), AddressOrder::Keep);
    }

    #[test]
    fn who_leads_a_standby_cluster_has_none() {
        let follows =
            with(leads(standby()), |view| view.policy.follows = Some(crate::model::Remote::default()));
        assert_eq!(follows, AddressOrder::Away);
    }
}
