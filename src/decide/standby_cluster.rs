//! This cluster is the standby of another one: its leader replicates from there and accepts no writes.

use super::fault::{self, Fault};
use super::{Choice, handover, may_try_again, set_aside, shows_our_term, until_demotion, wishes};
use crate::model::{
    Cluster, Control, Descent, Errand, Job, Lease, Postgres, Rejoin, Remote, RemoteStanding, Rule, Running,
    Serving, Span, View,
};

/// Everything should reach the other cluster before this primary becomes a standby of it.
const DEMOTE_BUDGET: Span = Span::from_secs(60);
const STOP_BUDGET: Span = Span::from_secs(30);
/// What the other cluster has said longer ago may have changed since.
const REMOTE_KEEP: Span = Span::from_secs(15);
const STARTS_MAX: u32 = 3;
const REWINDS_MAX: u32 = 3;

/// This member holds the lease of a standby cluster.
pub(super) fn leading(view: &View, cluster: &Cluster, lease: &Lease, remote: &Remote) -> Choice {
    let choice = match &view.postgres {
        Postgres::Running(running) if running.is_primary() => demotes(view, running),
        Postgres::Running(running) => standby(view, cluster, lease, remote, running),
        Postgres::Starting { as_primary: true, .. } => Choice::run(Rule::SiteDemotes, Job::StopAtOnce),
        Postgres::Starting { .. } => Choice::wait(Rule::SiteStarting),
        Postgres::Stopped { control } => stopped(view, cluster, lease, remote, control),
        Postgres::Empty | Postgres::Unfinished { .. } | Postgres::Unusable { .. } => {
            Choice::store(Rule::LeaderHasNoData, Errand::ReleaseLease { term: lease.term })
        }
        Postgres::Unobserved => Choice::wait(Rule::LooksAtPostgres),
    };
    choice.again_in(until_demotion(view)).again_in(handover::until_due(view))
}

/// The cluster has just become a standby cluster, and this is its primary.
fn demotes(view: &View, running: &Running) -> Choice {
    if fault::active(Fault::WritesInStandbyCluster) {
        return Choice::wait(Rule::LeaderStays);
    }
    if running.silent_since.is_some() {
        return Choice::run(Rule::SiteDemotes, Job::StopAtOnce);
    }
    Choice::run(Rule::SiteDemotes, Job::StopOrderly { by: view.now + DEMOTE_BUDGET, handover: None })
}

fn standby(view: &View, cluster: &Cluster, lease: &Lease, remote: &Remote, running: &Running) -> Choice {
    if view.cut_off() {
        return Choice::wait(Rule::CutOffStands);
    }
    if !shows_our_term(view, cluster, lease) {
        return Choice::wait(Rule::LeaderAwaitsSnapshot);
    }
    if let Some(choice) = handover::requested(view, cluster, running) {
        return choice;
    }
    if let Some(choice) = wishes::leader(view) {
        return choice;
    }
    let Serving::Standby { upstream, starved, forks, .. } = &running.serving else {
        return Choice::wait(Rule::LooksAtPostgres);
    };
    if let (Some(position), Some(told)) = (running.position(), heard(view))
        && !fault::active(Fault::SkipsDivergence)
    {
        if told.lineage.descent_of(position) == Descent::Diverged {
            return Choice::run(Rule::SiteDiverged, Job::StopFast { by: view.now + STOP_BUDGET });
        }
        // Neither PostgreSQL nor pg_rewind could tell the two apart.
        let same_number = told.lineage.timeline == position.timeline;
        if same_number && forks.as_ref().is_some_and(|forks| *forks != told.lineage.ancestors) {
            return if upstream.is_some() {
                Choice::run(Rule::SiteOtherHistory, Job::Follow { upstream: None })
            } else {
                Choice::wait(Rule::SiteOtherHistory)
            };
        }
    }
    if *starved {
        return Choice::run(Rule::StandbyStarved, Job::StopFast { by: view.now + STOP_BUDGET });
    }
    if upstream.is_none() && remote.address.is_some() && heard(view).is_none() {
        return Choice::wait(Rule::SiteAsks);
    }
    if !remote.is_at(upstream.as_ref()) {
        return Choice::run(Rule::SiteTurns, Job::Follow { upstream: remote.address.clone() });
    }
    Choice::wait(Rule::SiteFollows)
}

fn stopped(view: &View, cluster: &Cluster, lease: &Lease, remote: &Remote, control: &Control) -> Choice {
    if view.cut_off() || !shows_our_term(view, cluster, lease) {
        return Choice::wait(Rule::LeaderAwaitsSnapshot);
    }
    let failures = &view.memory.failures;
    if STARTS_MAX <= failures.starts {
        return Choice::store(Rule::LeaderGivesUp, Errand::ReleaseLease { term: lease.term });
    }
    let again = |failed| may_try_again(view, failed);
    // Whether a former primary's timeline is the other cluster's own, or another one of the same number, is seen once it
    // runs. Before, it must not take any WAL.
    let upstream = remote.address.clone().filter(|_| !control.was_primary());
    let start = || Choice::run(Rule::SiteStarts, Job::StartStandby { upstream });
    let reclone = |allowed: bool| {
        if allowed { set_aside(view, Rule::SiteSetsAside) } else { Choice::wait(Rule::RejoinBlocked) }
    };
    match rejoin(view, control) {
        // As a standby it changes nothing that a rewind could not bring back.
        None | Some(Rejoin::Start) if again(failures.starts) => start(),
        Some(Rejoin::Clone) => reclone(true),
        Some(Rejoin::Rewind) if !view.policy.use_rewind || !control.rewindable => {
            reclone(view.policy.reclone_when_diverged)
        }
        Some(Rejoin::Rewind) if REWINDS_MAX <= failures.rewinds => {
            reclone(view.policy.reclone_when_rewind_fails)
        }
        Some(Rejoin::Rewind) if again(failures.rewinds) => Choice::run(Rule::SiteRewinds, Job::RewindRemote),
        None | Some(Rejoin::Start | Rejoin::Rewind) => Choice::wait(Rule::RejoinBacksOff),
    }
}

/// `None` while the other cluster has not said where it comes from.
fn rejoin(view: &View, control: &Control) -> Option<Rejoin> {
    let told = heard(view)?;
    if fault::active(Fault::SkipsDivergence) {
        return Some(Rejoin::Start);
    }
    Some(control.rejoin(&told.lineage))
}

/// What the other cluster has said of itself lately. A timeline that it has begun since then may have reached this member
/// already: a number that it did not know counts only if it was asked after this member had come to it.
fn heard(view: &View) -> Option<&RemoteStanding> {
    let told = view.remote.as_ref().filter(|remote| view.now.since(remote.asked_at) < REMOTE_KEEP)?;
    let ahead = view.postgres.position().is_some_and(|here| told.lineage.timeline < here.timeline);
    let asked_later = view.memory.timeline_since.is_none_or(|(_, since)| since <= told.asked_at);
    (!ahead || asked_later).then_some(told)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::mind::Mind;
    use crate::model::{
        Address, Contact, ControlState, Fork, Initialize, Leader, Lsn, Moment, Policy, Position, Reason,
        SessionId, Step, StoreView, Synchrony, SystemId, Tags, Term, Timeline, Timing,
    };

    const NOW: Moment = Moment::from_ms(1_000_000);

    fn remote() -> Remote {
        let address = Some(Address { host: "far".to_owned(), port: 5432 });
        Remote { address, ..Remote::default() }
    }

    fn lease() -> Lease {
        Lease { term: Term(1), asked_at: NOW, timing: Timing::for_ttl(Span::from_secs(10)) }
    }

    fn view(postgres: Postgres) -> View {
        let me = "turku".parse().expect("a good name");
        let policy = Policy { follows: Some(remote()), ..Policy::default() };
        let mut view = Mind::new(me, Tags::default(), policy, true).view().clone();
        view.now = NOW;
        let leader = Leader { name: view.me.clone(), term: Term(1), session: Some(SessionId(1)) };
        let cluster =
            Cluster { initialize: Initialize::Done(SystemId(1)), leader: Some(leader), ..Cluster::default() };
        view.store = StoreView { cluster: Some(cluster), contact: Contact::Current };
        view.lease = Some(lease());
        view.postgres = postgres;
        view
    }

    /// The other cluster began timeline 2 at `at`.
    fn told(view: &mut View, at: u64) {
        let fork = Fork { parent: Timeline(1), at: Lsn(at) };
        let lineage = crate::model::Lineage { timeline: Timeline(2), ancestors: vec![fork] };
        view.remote = Some(RemoteStanding { asked_at: NOW, system: SystemId(1), lineage });
    }

    fn standby(timeline: u32, lsn: u64, upstream: Option<&str>, fork: u64) -> Postgres {
        let serving = Serving::Standby {
            timeline: Timeline(timeline),
            received: Some(Lsn(lsn)),
            replayed: Some(Lsn(lsn)),
            streaming: false,
            upstream: upstream.map(|host| Address { host: host.to_owned(), port: 5432 }),
            forks: Some(if timeline == 1 {
                Vec::new()
            } else {
                vec![Fork { parent: Timeline(1), at: Lsn(fork) }]
            }),
            starved: false,
        };
        Postgres::Running(Running {
            system: SystemId(1),
            serving,
            silent_since: None,
            version: 150_000,
            synchrony: Synchrony::default(),
        })
    }

    fn stopped(lsn: u64, primary: bool) -> Postgres {
        let control = Control {
            system: SystemId(1),
            state: if primary { ControlState::ShutDown } else { ControlState::ShutDownInRecovery },
            checkpoint: Position::new(1, lsn),
            recovery_end: None,
            standby_signal: !primary,
            backup_label: false,
            never_led: false,
            rewindable: true,
        };
        Postgres::Stopped { control }
    }

    fn choice(view: &View) -> (Reason, Step) {
        let cluster = view.cluster().expect("it was given one");
        let choice = leading(view, cluster, &lease(), &remote());
        (choice.reason, choice.step)
    }

    fn check(view: &View, rule: Rule, step: &Step) {
        assert_eq!(choice(view), (rule.into(), step.clone()));
    }

    fn follow(host: Option<&str>) -> Step {
        let upstream = host.map(|host| Address { host: host.to_owned(), port: 5432 });
        Step::Run(Job::Follow { upstream })
    }

    #[test]
    fn a_standby_follows_the_other_cluster_as_soon_as_it_has_said_that_it_can() {
        let mut view = view(standby(1, 50, None, 0));
        check(&view, Rule::SiteAsks, &Step::Wait);
        told(&mut view, 100);
        check(&view, Rule::SiteTurns, &follow(Some("far")));
        view.postgres = standby(1, 50, Some("near"), 0);
        check(&view, Rule::SiteTurns, &follow(Some("far")));
        view.postgres = standby(1, 50, Some("far"), 0);
        check(&view, Rule::SiteFollows, &Step::Wait);
    }

    #[test]
    fn who_has_gone_its_own_way_is_stopped_and_rewound() {
        let mut running = view(standby(1, 150, Some("far"), 0));
        check(&running, Rule::SiteFollows, &Step::Wait);
        told(&mut running, 100);
        let by = NOW + STOP_BUDGET;
        check(&running, Rule::SiteDiverged, &Step::Run(Job::StopFast { by }));
        let mut down = view(stopped(150, false));
        told(&mut down, 100);
        check(&down, Rule::SiteRewinds, &Step::Run(Job::RewindRemote));
        down.memory.failures.rewinds = REWINDS_MAX;
        check(&down, Rule::SiteSetsAside, &Step::Run(Job::SetAside));
        down.policy.reclone_when_rewind_fails = false;
        check(&down, Rule::RejoinBlocked, &Step::Wait);
    }

    #[test]
    fn a_timeline_that_the_other_cluster_has_begun_meanwhile_is_no_divergence() {
        let mut view = view(standby(3, 150, Some("far"), 100));
        told(&mut view, 100);
        check(&view, Rule::SiteDiverged, &Step::Run(Job::StopFast { by: NOW + STOP_BUDGET }));
        view.memory.timeline_since = Some((Timeline(3), NOW + Span::from_ms(1)));
        check(&view, Rule::SiteFollows, &Step::Wait);
    }

    #[test]
    fn a_former_primary_starts_without_a_source_and_turns_to_it_when_their_history_is_one() {
        let mut view = view(stopped(99, true));
        check(&view, Rule::SiteStarts, &Step::Run(Job::StartStandby { upstream: None }));
        told(&mut view, 100);
        check(&view, Rule::SiteStarts, &Step::Run(Job::StartStandby { upstream: None }));
        // The last record of a shutdown begins where the other cluster has already gone another way.
        view.postgres = stopped(100, true);
        check(&view, Rule::SiteRewinds, &Step::Run(Job::RewindRemote));
        view.postgres = stopped(99, false);
        check(&view, Rule::SiteStarts, &Step::Run(Job::StartStandby { upstream: remote().address }));
    }

    #[test]
    fn two_timelines_of_one_number_are_never_mixed() {
        let mut view = view(standby(2, 120, None, 100));
        told(&mut view, 100);
        check(&view, Rule::SiteTurns, &follow(Some("far")));
        view.postgres = standby(2, 120, None, 90);
        check(&view, Rule::SiteOtherHistory, &Step::Wait);
        view.postgres = standby(2, 120, Some("far"), 90);
        check(&view, Rule::SiteOtherHistory, &follow(None));
        view.now = NOW + REMOTE_KEEP;
        check(&view, Rule::SiteFollows, &Step::Wait);
    }
}
