//! What the rules say in situations that the simulator's world does not know: backups, and who is copied from.

use super::decide;
use super::mind::Mind;
use crate::model::{
    Address, Ask, Claim, Cluster, Contact, Control, ControlState, Failures, FenceOrder, Guardian, Initialize,
    Job, Leader, Lease, Lsn, MemberName, MemberRecord, MemberRole, MemberState, Moment, Policy, Position,
    Postgres, Reason, Rule, Running, RunningJob, Serving, Span, Stage, Step, StoreView, SyncMode, SyncNames,
    SyncState, Synchrony, SystemId, Tags, Term, Timeline, Unfinished, Versioned, View, Wish,
};

const SYSTEM: SystemId = SystemId(7);

fn name(name: &str) -> MemberName {
    name.parse().expect("a good name")
}

/// Turku's, with nobody leading and nothing wrong.
fn view(postgres: Postgres) -> View {
    let mut view = Mind::new(name("turku"), Tags::default(), Policy::default(), false).view().clone();
    let cluster = Cluster { initialize: Initialize::Done(SYSTEM), ..Cluster::default() };
    view.store = StoreView { cluster: Some(cluster), contact: Contact::Current };
    view.guardian = Guardian::Ready { confirmed: FenceOrder::Disarm };
    view.postgres = postgres;
    view
}

fn cluster(view: &mut View) -> &mut Cluster {
    view.store.cluster.as_mut().expect("it was given one")
}

/// Restored to the beginning of timeline 2, and shut down in good order.
fn restored() -> Postgres {
    let control = Control {
        system: SYSTEM,
        state: ControlState::ShutDown,
        checkpoint: Position::new(2, 80),
        recovery_end: None,
        standby_signal: false,
        backup_label: false,
        never_led: true,
        rewindable: true,
    };
    Postgres::Stopped { control }
}

fn claimed_by(view: &mut View, by: &str) {
    let claim = Claim { timeline: Timeline(2), by: name(by) };
    cluster(view).claim = Some(Versioned { value: claim, version: 1 });
}

#[track_caller]
fn check(view: &View, rule: Rule) -> Step {
    let plan = decide(view);
    assert_eq!(plan.reason.rule, rule, "{:?}", plan.step);
    plan.step
}

#[test]
fn restored_data_is_led_by_who_is_first_and_set_aside_by_everybody_else() {
    let mut unled = view(restored());
    assert!(matches!(check(&unled, Rule::BootstrapLeads), Step::Store(_)));
    claimed_by(&mut unled, "turku");
    check(&unled, Rule::BootstrapLeads);
    claimed_by(&mut unled, "oulu");
    assert_eq!(check(&unled, Rule::ClearsUnfinished), Step::Run(Job::SetAside));

    // Whoever leads without a claim is one of Patroni's members.
    let mut led = view(restored());
    cluster(&mut led).leader = Some(Leader { name: name("oulu"), term: Term(1), session: None });
    assert_eq!(check(&led, Rule::ClearsUnfinished), Step::Run(Job::SetAside));
}

#[test]
fn what_cannot_be_set_aside_is_not_tried_again_at_once() {
    let mut led = view(Postgres::Unfinished { work: Unfinished::Clone });
    cluster(&mut led).leader = Some(Leader { name: name("oulu"), term: Term(1), session: None });
    check(&led, Rule::ClearsUnfinished);
    led.memory.failures = Failures { set_asides: 1, last_at: Some(led.now), ..Failures::default() };
    check(&led, Rule::RejoinBacksOff);
    led.now = led.now + Span::from_secs(1);
    check(&led, Rule::ClearsUnfinished);
}

#[test]
fn restored_data_is_never_started_as_a_standby() {
    let mut unguarded = view(restored());
    unguarded.guardian = Guardian::Absent;
    assert_eq!(check(&unguarded, Rule::BootstrapUnled), Step::Wait);
    let mut cut_off = view(restored());
    cut_off.store.contact = Contact::Silent { since: Moment::default() };
    assert_eq!(check(&cut_off, Rule::CutOffWaits), Step::Wait);
}

#[test]
fn a_copy_without_a_leader_is_made_only_where_there_is_a_way_to_make_it() {
    let mut empty = view(Postgres::Empty);
    check(&empty, Rule::RaceWaitsForData);
    empty.policy.clones_without_leader = true;
    assert_eq!(check(&empty, Rule::ClonesWithoutLeader), Step::Run(Job::CloneWithoutLeader));
}

#[test]
fn members_that_are_tagged_for_it_are_copied_from_before_the_leader_is() {
    let mut empty = view(Postgres::Empty);
    let record = |host: &str, role, tagged: bool| {
        let mut tags = Tags::default();
        tags.0.insert("clonefrom".to_owned(), tagged.into());
        let conn_url = format!("postgres://{host}:5432/postgres");
        let state = MemberState::Running;
        MemberRecord { conn_url, state, role, tags, timeline: Some(Timeline(2)), ..MemberRecord::default() }
    };
    let members = &mut cluster(&mut empty).members;
    members.insert(name("oulu"), record("oulu", MemberRole::Primary, false));
    members.insert(name("vaasa"), record("vaasa", MemberRole::Replica, true));
    members.insert(name("kemi"), record("kemi", MemberRole::Replica, false));
    cluster(&mut empty).leader = Some(Leader { name: name("oulu"), term: Term(1), session: None });
    let from = |view: &View, source: &str| {
        assert_eq!(check(view, Rule::Clones), Step::Run(Job::Clone { from: name(source) }));
    };
    from(&empty, "vaasa");
    let ask = Ask::Reinitialize { force: false, from_leader: true };
    empty.memory.wish = Some(Wish { id: 1, ask, stage: Stage::Down, since: Moment::default() });
    from(&empty, "oulu");
    empty.memory.wish = None;
    empty.memory.failures.clones = 1;
    from(&empty, "oulu");
    empty.memory.failures.clones = 0;
    cluster(&mut empty).members.get_mut(&name("vaasa")).expect("it is there").timeline = Some(Timeline(1));
    from(&empty, "oulu");
}

/// In synchronous mode `/sync` comes first where the store can be asked. Where it cannot, nobody is elected either.
#[test]
fn a_restart_in_maintenance_mode_does_not_wait_for_a_silent_store() {
    let Postgres::Stopped { control } = restored() else { unreachable!("it is stopped") };
    let mut view = view(Postgres::Stopped { control: Control { never_led: false, ..control } });
    view.policy.pause = true;
    view.policy.sync.mode = SyncMode::On;
    let lease = Lease { term: Term(3), asked_at: view.now, timing: view.policy.timing };
    view.lease = Some(lease);
    cluster(&mut view).leader = Some(Leader { name: name("turku"), term: Term(3), session: None });
    let value = SyncState { leader: Some(name("turku")), ..SyncState::default() };
    cluster(&mut view).sync = Some(Versioned { value, version: 7 });
    let ask = Ask::Restart { timeout: None };
    view.memory.wish = Some(Wish { id: 1, ask, stage: Stage::Down, since: view.now });
    assert!(matches!(check(&view, Rule::SyncTakesOver), Step::Store(_)));
    view.store.contact = Contact::Silent { since: view.now };
    assert!(matches!(check(&view, Rule::RestartStarts), Step::Run(Job::StartPrimary { .. })));
}

#[test]
fn who_streams_from_patronis_new_leader_does_not_wait_for_its_record() {
    let standby = |host: &str, streaming| {
        let upstream = Some(Address { host: host.to_owned(), port: 5432 });
        let reached = Some(Lsn(120));
        Postgres::Running(Running {
            system: SYSTEM,
            serving: Serving::Standby {
                timeline: Timeline(2),
                received: reached,
                replayed: reached,
                streaming,
                upstream,
                forks: None,
                starved: false,
            },
            silent_since: None,
            version: 150_000,
            synchrony: Synchrony::default(),
        })
    };
    let follower = |postgres, tenure: Option<&str>| {
        let mut view = view(postgres);
        let record = MemberRecord {
            conn_url: "postgres://oulu:5432/postgres".to_owned(),
            state: MemberState::Running,
            role: MemberRole::Primary,
            timeline: Some(Timeline(1)),
            tenure: tenure.map(str::to_owned),
            ..MemberRecord::default()
        };
        cluster(&mut view).members.insert(name("oulu"), record);
        cluster(&mut view).leader = Some(Leader { name: name("oulu"), term: Term(1), session: None });
        view
    };
    assert_eq!(check(&follower(standby("oulu", true), None), Rule::FollowsLeader), Step::Wait);
    check(&follower(standby("oulu", false), None), Rule::FollowerDiverged);
    check(&follower(standby("vaasa", true), None), Rule::FollowerDiverged);
    // Ours claims its timeline before it begins it.
    check(&follower(standby("oulu", true), Some("0.1.0")), Rule::FollowerDiverged);
}

#[test]
fn a_restart_waits_for_work_that_ends_in_a_moment_and_is_refused_for_other() {
    let position = Position::new(1, 100);
    let serving = Serving::Primary { position, checkpointed: true, forks: None };
    let mut view = view(Postgres::Running(Running {
        system: SYSTEM,
        serving,
        silent_since: None,
        version: 150_000,
        synchrony: Synchrony::default(),
    }));
    view.lease = Some(Lease { term: Term(3), asked_at: view.now, timing: view.policy.timing });
    let mut refused = |job| {
        view.work.job = Some(RunningJob {
            job,
            reason: Reason::from(Rule::LeaderStays),
            since: view.now,
            cancelled: false,
        });
        super::wishes::refusal(&view, Ask::Restart { timeout: None }).is_some()
    };
    assert!(!refused(Job::Synchronize { names: SyncNames::Unmanaged }));
    assert!(!refused(Job::Checkpoint));
    assert!(refused(Job::StartStandby { upstream: None }));
}

#[test]
fn a_guardian_that_was_left_armed_stays_so_while_a_promotion_may_end() {
    let at = |ms| Moment::from_ms(ms);
    let standby = Serving::Standby {
        timeline: Timeline(1),
        received: Some(Lsn(80)),
        replayed: Some(Lsn(80)),
        streaming: false,
        upstream: None,
        forks: None,
        starved: false,
    };
    let running = Running {
        system: SYSTEM,
        serving: standby,
        silent_since: None,
        version: 170_000,
        synchrony: Synchrony::default(),
    };
    let mut view = view(Postgres::Running(running));
    let armed = |fence_at| Guardian::Ready { confirmed: FenceOrder::Arm { term: Term(3), fence_at } };
    (view.now, view.memory.begun_at) = (at(20_500), Some(at(20_000)));
    view.guardian = armed(at(25_000));
    assert_eq!(decide(&view).fence, FenceOrder::Keep);
    view.guardian = armed(at(21_400));
    assert_eq!(decide(&view).fence, FenceOrder::Disarm, "it would kill a standby");
    view.guardian = armed(at(28_000));
    view.now = at(23_100);
    assert_eq!(decide(&view).fence, FenceOrder::Disarm, "it would have ended by now");
}
