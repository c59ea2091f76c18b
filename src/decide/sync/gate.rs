//! The gate of a primary that was started again. Recovery shows commits that waited for a standby when PostgreSQL ended, as if they
//! had been acknowledged; a failover could lose what clients have read of them. With the gate, clients are let in once whoever may
//! be elected has everything that PostgreSQL came up with.

use super::super::Choice;
use super::super::fault::{self, Fault};
use super::{RETRY, choice, electorate, has_written, unanswered};
use crate::model::{Cluster, Gate, GateTold, Job, Lease, Lsn, MemberName, Rule, Running, View};

/// How a PostgreSQL is to be started as the primary. Where nobody else may lead, nothing can be lost; in the strict mode nothing may
/// count that is here alone.
pub(in super::super) fn gate_to_begin_with(view: &View, cluster: &Cluster) -> Gate {
    let policy = &view.policy.sync;
    let promised = electorate(view, cluster).is_some_and(|here| policy.strict || !here.voters.is_empty());
    if policy.is_gated() && promised { Gate::Closed } else { Gate::Open }
}

/// The gate is closed, and nothing speaks for that any more.
pub(in super::super) fn opens_gate(
    view: &View,
    cluster: &Cluster,
    lease: &Lease,
    running: &Running,
) -> Option<Choice> {
    let failed_at = view.memory.sync.gate.and_then(|gate| gate.failed_at);
    let failed_lately = failed_at.is_some_and(|at| view.now.since(at) < RETRY);
    if !running.is_gated() || failed_lately || running.silent_since.is_some() {
        return None;
    }
    may_open(view, cluster, lease, running).then(|| Choice::run(Rule::GateOpens, Job::OpenGate))
}

fn may_open(view: &View, cluster: &Cluster, lease: &Lease, running: &Running) -> bool {
    let policy = &view.policy.sync;
    if !policy.is_gated() || fault::active(Fault::GateOpensAtOnce) {
        return true;
    }
    let Some(gate) = &view.memory.sync.gate else { return false };
    // Who may be elected must be known for certain.
    if unanswered(view, cluster, lease).is_some() || !has_written(view, lease) {
        return false;
    }
    let Some(here) = electorate(view, cluster).filter(|here| here.leader == view.me) else { return false };
    if here.voters.is_empty() {
        return !policy.strict;
    }
    let lacking = lacking(view, cluster, running, gate.mark).len();
    if fault::active(Fault::GateTrustsOne) {
        return lacking < here.voters.len();
    }
    // Whoever is elected has asked so many that one of them has it, or the leader.
    lacking <= here.quorum
}

/// Who counts in an election, and is not known to have everything up to `mark` on its disk.
fn lacking(view: &View, cluster: &Cluster, running: &Running, mark: Lsn) -> Vec<MemberName> {
    let has = choice::confirmed(cluster, &running.synchrony, mark);
    let voters = electorate(view, cluster).map(|here| here.voters).unwrap_or_default();
    voters.into_iter().filter(|name| !has.contains(name)).collect()
}

/// What people want to know of a gate that is closed.
pub(crate) fn gate_told(view: &View) -> Option<GateTold> {
    let running = view.postgres.running().filter(|running| running.is_gated())?;
    let (cluster, gate) = (view.cluster()?, view.memory.sync.gate?);
    Some(GateTold {
        until: gate.mark,
        closed_ms: view.now.since(gate.since).as_ms(),
        lacking: lacking(view, cluster, running, gate.mark),
        may_lack: electorate(view, cluster).map_or(0, |here| here.quorum),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::mind::{Event, Mind};
    use crate::model::{
        ClosedGate, Leader, MemberRecord, Moment, Policy, Position, Receiver, SentSync, Serving, Span,
        SyncMode, SyncPolicy, SyncState, Synchrony, SystemId, Tags, Term, Timing, Versioned,
    };

    const NOW: Moment = Moment::from_ms(10_000);
    const TERM: Term = Term(3);
    const MARK: Lsn = Lsn(100);

    fn name(name: &str) -> MemberName {
        name.parse().expect("a good name")
    }

    fn lease() -> Lease {
        Lease { term: TERM, asked_at: NOW, timing: Timing::for_ttl(Span::from_secs(10)) }
    }

    /// Turku leads behind its gate, with these voters.
    fn closed(mode: SyncMode, quorum: u32, voters: &[&str]) -> View {
        let sync = SyncPolicy { mode, gate: true, ..SyncPolicy::default() };
        let policy = Policy { sync, ..Policy::default() };
        let mut mind = Mind::new(name("turku"), Tags::default(), policy, true);
        let members = ["turku", "oulu", "vaasa"].map(|member| (name(member), MemberRecord::default()));
        let standbys = voters.iter().map(|voter| name(voter)).collect();
        let state = SyncState { leader: Some(name("turku")), quorum, standbys };
        mind.apply(
            NOW,
            Event::Snapshot(Box::new(Cluster {
                members: members.into(),
                leader: Some(Leader { name: name("turku"), term: TERM, session: None }),
                sync: Some(Versioned { value: state, version: 7 }),
                ..Cluster::default()
            })),
        );
        let mut view = mind.view().clone();
        view.memory.sync.written_in = Some(TERM);
        view.memory.sync.gate = Some(ClosedGate { mark: MARK, since: NOW, lacked: 0, failed_at: None });
        view
    }

    fn running(confirmed: &[(&str, u64)]) -> Running {
        let receiver = |(name, flushed): &(&str, u64)| {
            let flushed = Lsn(*flushed);
            Receiver { name: (*name).to_owned(), flushed, answered: flushed }
        };
        let receivers = confirmed.iter().map(receiver).collect();
        let position = Position::new(1, 150);
        Running {
            system: SystemId(1),
            serving: Serving::Primary { position, checkpointed: true, forks: Some(Vec::new()) },
            silent_since: None,
            version: 170_000,
            synchrony: Synchrony { gate: Gate::Closed, receivers, ..Synchrony::default() },
        }
    }

    fn opens(view: &View, confirmed: &[(&str, u64)]) -> bool {
        let cluster = view.cluster().expect("a snapshot");
        opens_gate(view, cluster, &lease(), &running(confirmed)).is_some()
    }

    #[test]
    fn whoever_may_be_elected_must_have_it() {
        let one = closed(SyncMode::On, 0, &["oulu"]);
        assert!(!opens(&one, &[]) && !opens(&one, &[("vaasa", 200)]) && !opens(&one, &[("oulu", 99)]));
        assert!(opens(&one, &[("oulu", 100)]) && opens(&one, &[("OULU", 101), ("vaasa", 3)]));
        // Two that call themselves so: the one that is behind counts.
        assert!(!opens(&one, &[("oulu", 100), ("oulu", 40)]));
        let both = closed(SyncMode::On, 0, &["oulu", "vaasa"]);
        assert!(!opens(&both, &[("oulu", 100), ("vaasa", 99)]));
        assert!(opens(&both, &[("oulu", 100), ("vaasa", 100)]));
    }

    #[test]
    fn an_election_that_must_ask_somebody_who_has_it_is_harmless() {
        let view = closed(SyncMode::Quorum, 1, &["oulu", "vaasa"]);
        assert!(!opens(&view, &[]) && !opens(&view, &[("oulu", 99), ("vaasa", 99)]));
        assert!(opens(&view, &[("oulu", 100)]) && opens(&view, &[("vaasa", 100)]));
        // Nobody is elected without the leader itself.
        assert!(opens(&closed(SyncMode::Quorum, 2, &["oulu", "vaasa"]), &[]));
    }

    #[test]
    fn where_nobody_else_may_lead_only_the_strict_mode_waits() {
        let mut view = closed(SyncMode::On, 0, &[]);
        assert!(opens(&view, &[]));
        view.policy.sync.strict = true;
        assert!(!opens(&view, &[("oulu", 200)]));
    }

    #[test]
    fn what_is_not_known_for_certain_keeps_it_closed() {
        let good = closed(SyncMode::On, 0, &["oulu"]);
        let check = |change: fn(&mut View), expected: bool| {
            let mut view = good.clone();
            change(&mut view);
            assert_eq!(opens(&view, &[("oulu", 100)]), expected);
        };
        check(|_| {}, true);
        check(|view| view.memory.sync.gate = None, false);
        check(|view| view.memory.sync.written_in = Some(Term(2)), false);
        check(
            |view| {
                let state = SyncState { leader: None, quorum: 0, standbys: Vec::new() };
                view.memory.sync.sent = Some(SentSync { term: TERM, state, version: 7, done: true });
            },
            false,
        );
        check(
            |view| {
                let failed_at = Some(view.now);
                view.memory.sync.gate = view.memory.sync.gate.map(|gate| ClosedGate { failed_at, ..gate });
            },
            false,
        );
        let cluster = good.cluster().expect("a snapshot");
        let silent = Running { silent_since: Some(NOW), ..running(&[("oulu", 100)]) };
        assert!(opens_gate(&good, cluster, &lease(), &silent).is_none());
    }

    #[test]
    fn an_operator_may_open_it() {
        let mut view = closed(SyncMode::On, 0, &["oulu"]);
        view.memory.sync.gate = None;
        view.policy.sync.gate = false;
        assert!(opens(&view, &[]));
        view.policy.sync.gate = true;
        view.policy.sync.mode = SyncMode::Off;
        assert!(opens(&view, &[]));
    }

    #[test]
    fn it_is_closed_only_where_it_has_something_to_wait_for() {
        let begins = |view: &View| gate_to_begin_with(view, view.cluster().expect("a snapshot"));
        let mut view = closed(SyncMode::On, 0, &["oulu"]);
        assert_eq!(begins(&view), Gate::Closed);
        view.policy.sync.gate = false;
        assert_eq!(begins(&view), Gate::Open);
        view.policy.sync = SyncPolicy { gate: true, ..SyncPolicy::default() };
        assert_eq!(begins(&view), Gate::Open);
        let mut alone = closed(SyncMode::On, 0, &[]);
        assert_eq!(begins(&alone), Gate::Open);
        alone.policy.sync.strict = true;
        assert_eq!(begins(&alone), Gate::Closed);
    }

    #[test]
    fn what_it_waits_for_is_told() {
        let mut view = closed(SyncMode::Quorum, 1, &["oulu", "vaasa"]);
        view.now = NOW + Span::from_secs(2);
        view.postgres = crate::model::Postgres::Running(running(&[("oulu", 99)]));
        assert_eq!(
            gate_told(&view).expect("closed").to_string(),
            "closed for 2 s, until whoever may lead next has WAL up to 0/64; not confirmed by oulu, vaasa, and 1 of \
             them need not"
        );
    }
}
