//! Does it bite? Every deliberate fault in the rules must be noticed: by the small views, by a life from one of the first
//! seeds, or by both. A fault that nothing notices shows a law that is missing.

use std::ops::ControlFlow;

use super::explore::healthy;
use super::view_laws::broken_law;
use super::views::every_view;
use super::{SECOND, lives};
use crate::decide::fault::{self, Fault};
use crate::decide::mind::{Event, LeaseEvent, Mind};
use crate::model::{
    MemberRole, MemberState, Moment, PeerAnswer, PeerStatus, Policy, Position, Session, SessionId, Span,
    Tags, Term,
};

const LIVES: usize = 600;

fn views_notice(fault: Fault) -> Option<&'static str> {
    fault::with(fault, || {
        let mut noticed = None;
        every_view(|view, plan| {
            noticed = broken_law(view, plan);
            if noticed.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        noticed
    })
}

fn lives_notice(fault: Fault, concerned: fn(u64) -> bool) -> Option<String> {
    let mut seeds = (1..).filter(|&seed| concerned(seed)).take(LIVES);
    fault::with(fault, || seeds.find_map(|seed| Some(format!("seed {seed}: {}", lives::breaks(seed)?))))
}

/// Who must notice it. Where one net is enough the other may have the luck to notice, too.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Net {
    Views,
    Lives,
    SynchronousLives,
    GatedLives,
    LivesOnZookeeper,
    Both,
}

fn check(fault: Fault, net: Net) {
    if matches!(net, Net::Views | Net::Both) {
        let law = views_notice(fault);
        println!("{fault:?}: the views notice: {law:?}");
        assert!(law.is_some(), "no view notices {fault:?}");
    }
    let concerned = match net {
        Net::Views => return,
        Net::Lives | Net::Both => |_| true,
        Net::SynchronousLives => lives::in_synchronous_mode,
        Net::GatedLives => lives::behind_a_gate,
        Net::LivesOnZookeeper => lives::on_zookeeper,
    };
    let law = lives_notice(fault, concerned);
    println!("{fault:?}: the lives notice: {law:?}");
    assert!(law.is_some(), "no life notices {fault:?}");
}

macro_rules! bites {
    ($($name:ident: $fault:ident, $net:ident;)*) => {
        $(#[test] fn $name() { check(Fault::$fault, Net::$net); })*
    };
}

bites! {
    a_lease_is_not_acted_upon_for_ever: IgnoresDeadline, Views;
    a_lease_does_not_count_from_the_answer: CountsFromTheAnswer, Lives;
    an_answer_of_zookeeper_proves_only_what_was_said_before: CountsFromEveryAnswer, LivesOnZookeeper;
    an_unanswered_request_is_no_grant: BelievesTheUnanswered, Lives;
    claims_are_heeded: IgnoresClaims, Both;
    nobody_leads_unguarded: LeadsUnguarded, Views;
    nobody_leads_unwatched: LeadsUnwatched, Views;
    nobody_restarts_on_an_old_timeline: RestartsOnOldTimeline, Views;
    divergence_is_looked_for: SkipsDivergence, Both;
    the_address_is_left_with_the_lease: KeepsAddress, Both;
    the_lease_is_given_back_after_the_stop: ReleasesBeforeStop, Both;
    silence_is_not_an_empty_throne: SilenceIsNoLeader, Views;
    nothing_is_cloned_over: ClonesOverData, Views;
    who_is_behind_yields: YieldsToNobody, Views;
    old_answers_decide_nothing: UsesOldAnswers, Views;
    an_answer_is_not_older_than_the_question: AnswersFromMemory, Lives;
    ones_own_position_is_compared_as_it_is: ComparesOldPosition, Lives;
    the_guardian_stays_armed: DisarmsWhileWritable, Both;
    the_unfit_are_not_renewed: RenewsUnfit, Views;
    the_unfit_do_not_take: TakesUnfit, Views;
    way_is_made_for_the_fit: MakesWayForAnybody, Views;
    nobody_crashes_for_ever: RestartsForEver, Views;
    a_hung_loop_runs_out: PermitsForEver, Views;
    the_last_record_is_waited_for: HandsOverTooEarly, Both;
    the_unfenced_are_not_deposed: DeposesTheUnfenced, Views;
    promises_are_kept: ForgetsItsPromise, Both;
    everybody_must_agree: LeadsByFewerConsents, Lives;
    nothing_unfinished_is_started: StartsUnfinished, Both;
    a_standby_cluster_writes_nothing: WritesInStandbyCluster, Both;
    nobody_replicates_in_circles: CascadesInCircles, Lives;
    who_may_lead_is_written_last: SyncElectsFirst, SynchronousLives;
    who_may_not_lead_is_written_first: SyncSkipsRetreat, SynchronousLives;
    a_standby_confirms_before_it_counts: SyncTrustsUnconfirmed, SynchronousLives;
    names_are_seen_in_force: SyncSkipsProof, SynchronousLives;
    a_write_without_an_answer_is_remembered: SyncForgetsWrites, SynchronousLives;
    a_version_is_compared: SyncIgnoresVersions, SynchronousLives;
    who_takes_over_says_so_first: SyncSkipsTakeover, SynchronousLives;
    only_who_has_every_commit_is_elected: SyncLetsAnybodyLead, SynchronousLives;
    votes_are_counted: SyncCountsNoVotes, SynchronousLives;
    the_gate_waits: GateOpensAtOnce, GatedLives;
    the_gate_waits_for_everybody_it_must: GateTrustsOne, GatedLives;
    what_was_published_is_no_end: TakesStatusForEnd, Lives;
}

/// Nobody but an operator can take the key away from a living session, so no life has it; the mind is asked directly.
#[test]
fn a_lost_key_is_lost() {
    let leads_on = || {
        let session =
            Session { id: SessionId(1), asked_at: Moment::from_ms(1_000), ttl: Span::from_secs(10) };
        let me = "turku".parse().expect("a good name");
        let mut mind = Mind::new(me, Tags::default(), Policy::default(), true);
        let mut hear = |event| mind.apply(Moment::from_ms(1_500), Event::Lease(event));
        hear(LeaseEvent::Opened(session));
        hear(LeaseEvent::Renewed { session, term: Some(Term(5)) });
        hear(LeaseEvent::KeyNotOurs { term: Term(5) });
        mind.view().lease_in_force().is_some()
    };
    assert!(!leads_on());
    assert!(fault::with(Fault::KeepsLostKey, leads_on));
}

/// What a leader acknowledges between a question and its answer is seldom all that is lost; the mind is asked directly.
#[test]
fn a_word_is_as_old_as_its_question() {
    let asked_at = Moment::from_ms(1_000);
    let word_of = |looked_ago: Option<Span>| {
        let me = "turku".parse().expect("a good name");
        let mut mind = Mind::new(me, Tags::default(), Policy::default(), true);
        let status = PeerStatus {
            role: MemberRole::Primary,
            state: MemberState::Running,
            position: Some(Position::new(1, 100)),
            stale: looked_ago.is_some(),
            looked_ago,
            ..PeerStatus::default()
        };
        let answer = Box::new(PeerAnswer::Stands(status));
        mind.apply(Moment::from_ms(1_400), Event::LeaderAnswered { asked_at, answer });
        mind.view().memory.heard.words[0].asked_at
    };
    assert_eq!(word_of(None), asked_at);
    assert_ne!(fault::with(Fault::CountsWordsFromTheAnswer, || word_of(None)), asked_at);
    let ago = Span::from_ms(300);
    assert_eq!(word_of(Some(ago)), asked_at - ago);
    assert_ne!(fault::with(Fault::TakesOldWordsForNew, || word_of(Some(ago))), asked_at - ago);
}

/// The laws see what the rings are for: with the agent frozen and no guardian there is nobody left to stop PostgreSQL.
#[test]
fn a_frozen_agent_without_a_guardian_breaks_a_law() {
    let broken_law = |guarded: bool| {
        let mut world = healthy();
        world.freeze_agent(0, true);
        if !guarded {
            world.hosts[0].guardian.alive = false;
        }
        world.run_for(20 * SECOND);
        world.laws.broken
    };
    assert_eq!(broken_law(true), None);
    assert!(broken_law(false).is_some_and(|law| law.starts_with("S2")));
}
