//! Long lives: a world from a seed, a plan of troubles from the same seed, then calm. A life that breaks a law is told
//! again with as few troubles as break it too.
//!
//! `TENURE_SIM_SEED=…` lives one life again; `TENURE_SIM_MINUTES=…` goes on with fresh seeds for that long;
//! `TENURE_SIM_LIVES=…` is how many of the fixed seeds are lived.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::faults::{Planned, Trouble, plan_from};
use super::network::{Habits, Place};
use super::random::Random;
use super::story::render;
use super::world::World;
use super::{SECOND, Time};
use crate::clock;
use crate::model::{Policy, Rule, Span, SyncMode, SyncPolicy, Timing};
use crate::store::zookeeper::TTL_MIN;

/// How long troubles go on, and how long everything may take afterwards: with clones, rewinds and their pauses.
const TROUBLED: Time = 180 * SECOND;
const CALM_MAX: Time = 240 * SECOND;
/// Healthy means healthy twice, this far apart.
const STEADY: Time = 5 * SECOND;
const LINES_SHOWN: usize = 150;
/// After so long without a leader an operator gives up what nobody has any more.
const NOBODY_FOR: Time = 60 * SECOND;

/// One life, as it follows from a seed. Gives the law that it broke, if it broke one.
pub(super) fn live(seed: u64, plan: &[Planned]) -> (World, Option<String>) {
    let mut world = begin(seed, plan);
    world.run_for(TROUBLED);
    world.calm();
    let calm_since = world.now;
    let mut healthy_since: Option<Time> = None;
    let mut led_at = world.now;
    let policy_sync = world.policy.sync.mode;
    while world.laws.broken.is_none() && world.now < calm_since + CALM_MAX {
        world.run_for(SECOND);
        restart_what_ended(&mut world);
        healthy_since =
            if world.healthy() && world.is_synchronous() { healthy_since.or(Some(world.now)) } else { None };
        led_at = if world.store.leader.is_some() { world.now } else { led_at };
        if led_at + NOBODY_FOR < world.now && policy_sync != SyncMode::Off {
            world.give_up_what_is_lost();
            led_at = world.now;
        }
        if healthy_since.is_some_and(|since| since + STEADY <= world.now) {
            world.look_for_every_record();
            let broken = world.laws.broken.clone();
            return (world, broken);
        }
    }
    let broken = world.laws.broken.clone().unwrap_or_else(|| {
        let seconds = CALM_MAX / SECOND;
        format!(
            "L1: {seconds} s after everything was repaired the cluster is not whole\n{}",
            world.standing()
        )
    });
    (world, Some(broken))
}

/// A world at its first moment, with its troubles before it.
pub(super) fn begin(seed: u64, plan: &[Planned]) -> World {
    let mut random = Random::new(seed ^ 0xC0FF_EE00);
    let members = [3, 3, 3, 2, 4, 5][random.index(6)];
    let mut ttl = [5, 10, 10, 15, 30][random.index(5)];
    let zookeeper = on_zookeeper(seed);
    if zookeeper {
        ttl = ttl.max(TTL_MIN.as_ms() / 1000);
    }
    let policy = Policy {
        timing: Timing::for_ttl(Span::from_secs(ttl)),
        watchdog_required: watchdogs(seed).is_some(),
        failsafe: failsafe(seed).is_some(),
        asks_before_promotion: seed.is_multiple_of(5),
        sync: synchronous(seed),
        ..Policy::default()
    };
    let mut world = World::new(seed, members, Habits::rough(), policy);
    if zookeeper {
        // As short a tick as the lease needs, and otherwise ZooKeeper's usual one.
        world.store.tick = Some(Span::from_ms(if ttl < 10 { 500 } else { 2_000 }));
    }
    if let Some(mut random) = cascades(seed) {
        for host in 0..members {
            let named = world.hosts[random.index(members)].name.to_string();
            if random.chance(700) {
                world.hosts[host].tags.0.insert("replicatefrom".to_owned(), named.into());
            }
        }
    }
    for host in 0..members {
        world.after(random.between(0, 2 * SECOND), super::world::Happening::AgentStarts { host });
    }
    world.plan(plan);
    world
}

pub(super) fn plan_of(seed: u64) -> Vec<Planned> {
    let mut random = Random::new(seed ^ 0xBAD_DA75);
    let members = [3, 3, 3, 2, 4, 5][Random::new(seed ^ 0xC0FF_EE00).index(6)];
    let mut plan = plan_from(&mut random, members, SECOND, TROUBLED);
    if let Some(mut random) = watchdogs(seed) {
        for _ in 0..4 {
            let (at, lasts) = (random.between(SECOND, TROUBLED), random.between(SECOND, 30 * SECOND));
            plan.push(Planned { at, lasts, trouble: Trouble::WatchdogFails(random.index(members)) });
        }
    }
    // What failsafe mode is for, more often than chance has it.
    if let Some(mut random) = failsafe(seed) {
        for _ in 0..4 {
            let (at, lasts) = (random.between(SECOND, TROUBLED), random.between(SECOND, 40 * SECOND));
            let host = Place::Host(random.index(members));
            let trouble = match random.below(3) {
                0 => Trouble::StoreFails,
                1 => Trouble::LinkBreaks(host, Place::Store),
                _ => Trouble::LinkBreaks(Place::Store, host),
            };
            plan.push(Planned { at, lasts, trouble });
        }
    }
    if let Some(mut random) = maintenance(seed) {
        for _ in 0..2 {
            let (at, lasts) =
                (random.between(10 * SECOND, TROUBLED), random.between(5 * SECOND, 60 * SECOND));
            plan.push(Planned { at, lasts, trouble: Trouble::Maintenance });
            let to = random.chance(800).then_some(random.index(members));
            plan.push(Planned { at: at + lasts / 3, lasts, trouble: Trouble::Switchover(to) });
        }
    }
    if let Some(mut random) = sites(seed) {
        let (at, lasts) = (random.between(10 * SECOND, 80 * SECOND), 100 * SECOND);
        plan.push(Planned { at, lasts, trouble: Trouble::FollowsAnother });
    }
    plan
}

/// In some lives failsafe mode is on.
fn failsafe(seed: u64) -> Option<Random> {
    let mut random = Random::new(seed ^ 0xFA11_5AFE);
    (random.below(3) == 0 && !is_from_before(seed)).then_some(random)
}

/// In some lives members replicate from others than the leader, or are told to do so in circles.
fn cascades(seed: u64) -> Option<Random> {
    let mut random = Random::new(seed ^ 0xCA5C_ADE5);
    (random.below(4) == 0 && !is_from_before(seed)).then_some(random)
}

/// In some lives the cluster is another one's standby for a while.
fn sites(seed: u64) -> Option<Random> {
    let mut random = Random::new(seed ^ 0x517E_517E);
    (random.below(5) == 0 && !is_from_before(seed)).then_some(random)
}

/// In some lives an operator does maintenance, and says who is to lead meanwhile.
fn maintenance(seed: u64) -> Option<Random> {
    let mut random = Random::new(seed ^ 0x0A11_0FF5);
    let some = random.below(5) == 0 && sites(seed).is_none() && !is_from_before(seed);
    some.then_some(random)
}

pub(super) fn on_zookeeper(seed: u64) -> bool {
    Random::new(seed ^ 0x5EED_2EE9).below(3) == 0 && !is_from_before(seed)
}

pub(super) fn in_synchronous_mode(seed: u64) -> bool {
    synchronous(seed).mode != SyncMode::Off
}

/// In half of the lives replication is synchronous; by chance of its own as well.
fn synchronous(seed: u64) -> SyncPolicy {
    let mut random = Random::new(seed ^ 0x0051_C51C);
    let mode = [SyncMode::Off, SyncMode::Off, SyncMode::On, SyncMode::Quorum][random.index(4)];
    let (strict, node_count) = (random.below(3) == 0, [1, 1, 2][random.index(3)]);
    match mode {
        SyncMode::Off => SyncPolicy::default(),
        _ if sites(seed).is_some() || is_from_before(seed) => SyncPolicy::default(),
        mode => SyncPolicy { mode, strict, node_count, lag_bytes_max: None, gate: gated(seed) },
    }
}

/// In half of those, clients are let into a primary that comes back only when they may see what it has.
fn gated(seed: u64) -> bool {
    Random::new(seed ^ 0x6A7E_6A7E).below(2) == 0
}

pub(super) fn behind_a_gate(seed: u64) -> bool {
    synchronous(seed).is_gated()
}

/// In some lives watchdogs are required, and fail. By chance of their own: what the other lives are does not change.
fn watchdogs(seed: u64) -> Option<Random> {
    let mut random = Random::new(seed ^ 0x0D06_F00D);
    (random.below(4) == 0).then_some(random)
}

fn restart_what_ended(world: &mut World) {
    for host in 0..world.hosts.len() {
        if world.hosts[host].agent.is_none() {
            world.start_agent(host);
        }
    }
}

/// What it takes to break the law: troubles are left out as long as some law still breaks.
fn shrink(seed: u64, plan: Vec<Planned>) -> Vec<Planned> {
    let mut plan = plan;
    let mut size = plan.len().div_ceil(2).max(1);
    loop {
        let mut at = 0;
        let mut shrunk = false;
        while at < plan.len() {
            let mut shorter = plan.clone();
            shorter.drain(at..(at + size).min(shorter.len()));
            if live(seed, &shorter).1.is_some() {
                plan = shorter;
                shrunk = true;
            } else {
                at += size;
            }
        }
        if size == 1 && !shrunk {
            return plan;
        }
        size = size.div_ceil(2).max(1);
    }
}

/// A life whose rules panic has broken a law, too.
pub(super) fn breaks(seed: u64) -> Option<String> {
    let lived = catch_unwind(AssertUnwindSafe(|| live(seed, &plan_of(seed)).1));
    lived.unwrap_or_else(|_| Some("a rule panicked".to_owned()))
}

fn tell(seed: u64, law: &str) -> String {
    let plan = shrink(seed, plan_of(seed));
    let (world, shortest) = live(seed, &plan);
    let story = render(&world);
    let lines: Vec<&str> = story.lines().collect();
    let shown = lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n");
    format!(
        "seed {seed} breaks a law: {law}\nwith {} troubles it is: {}\n{plan:#?}\n{shown}\nagain: TENURE_SIM_SEED={seed} \
         cargo nextest run --no-capture sim::lives\nkeep it, with a + before it, as a line of \
         tests/stories/seeds.txt\n",
        plan.len(),
        shortest.unwrap_or_default(),
    )
}

/// Each with the mark of those that have all the troubles which lives have today.
fn remembered() -> impl Iterator<Item = (u64, bool)> {
    let text = include_str!("../../tests/stories/seeds.txt");
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or("").trim());
    lines.filter(|line| !line.is_empty()).map(|line| {
        let number = line.strip_prefix('+').unwrap_or(line);
        (number.parse().expect("a seed"), line != number)
    })
}

/// What it once showed, it showed in a smaller world, and shows only there.
fn is_from_before(seed: u64) -> bool {
    remembered().any(|(known, today)| known == seed && !today)
}

fn check(seeds: impl Iterator<Item = u64>) -> u64 {
    let mut lived = 0;
    for seed in seeds {
        if let Some(law) = breaks(seed) {
            panic!("{}", tell(seed, &law));
        }
        lived += 1;
    }
    lived
}

fn asked_for(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn a_seed_can_be_lived_again() {
    if let Some(seed) = asked_for("TENURE_SIM_SEED") {
        check([seed].into_iter());
    }
}

#[test]
fn lives_that_once_went_wrong_go_well() {
    check(remembered().map(|(seed, _)| seed));
}

#[test]
fn no_life_of_the_fixed_seeds_breaks_a_law() {
    check(1..=asked_for("TENURE_SIM_LIVES").unwrap_or(4_000));
}

#[test]
fn no_life_of_a_fresh_seed_breaks_a_law() {
    let fresh = clock::wall().as_microsecond().unsigned_abs();
    println!("fresh seeds from {fresh}");
    let end = clock::now() + Span::from_secs(60 * asked_for("TENURE_SIM_MINUTES").unwrap_or(0));
    let mut lived = check(fresh..fresh + 100);
    while clock::now() < end {
        lived += check((fresh + lived)..(fresh + lived + 50));
    }
    println!("{lived} lives");
}

/// Rules that no life shows, each with the reason why. A rule that turns up here without one is dead, or untested.
const UNSEEN: &[(Rule, &str)] = &[
    (Rule::ForeignData, "only after an agent has died in the middle of making the first data"),
    (Rule::UnusableData, "no trouble spoils a directory so far"),
    (Rule::LeaderGivesUp, "story claimed_never_led"),
    (Rule::CandidateBacksOff, "story claimed_never_led"),
    (Rule::ClonesWithoutLeader, "by the settings only; its own test in decide"),
    (Rule::BootstrapUnled, "no life restores a backup; its own test in decide"),
    (Rule::OtherLeads, "the lease is over before; small views"),
    (Rule::PauseEnds, "nobody says an end here; story pause_ends"),
    (Rule::PrimaryTakesLease, "story primary_found"),
    (Rule::PrimaryBarred, "a managed primary has a lease or is down; small views"),
    (Rule::RejoinBlocked, "by the settings only"),
    (Rule::CandidateBarred, "story nofailover"),
    (Rule::CandidateUnknown, "a running standby always knows its position here"),
    (Rule::CandidateTooFarBehind, "story too_far_behind"),
    (Rule::CandidateOnOldTimeline, "by the settings only"),
    (Rule::CandidateSeesPrimary, "story leader_key_deleted"),
    (Rule::LeaderHasPromised, "a request for the lease must be thought lost, and arrive late; small views"),
    (Rule::CandidateNotAsked, "story failsafe_member_came_later"),
    (Rule::BootstrapBlocked, "nobody writes nonsense into the store"),
    (Rule::AdoptionWaits, "the data of a standby without a cluster; small views"),
    (Rule::Paused, "by the settings only"),
    (Rule::SwitchoverFails, "story switchover_promotion_fails"),
    (Rule::SwitchoverPaused, "story paused_switchover"),
    (Rule::PausedReleases, "story paused_stopped_by_hand"),
    (Rule::SwitchoverFallsDue, "story switchover_scheduled"),
    (Rule::SwitchoverStale, "story switchover_scheduled"),
    (Rule::RestartStarts, "story paused_restart"),
    (Rule::RestartTookTooLong, "story restart_too_slow"),
    (Rule::ReinitializeCancels, "story reinitialize"),
    (Rule::FollowsArchive, "story nostream"),
    (Rule::TurnsToArchive, "story nostream"),
    (Rule::StandbyStarved, "settings of PostgreSQL are not simulated"),
    (Rule::CopiesSlots, "slots are not simulated"),
    (
        Rule::SiteDiverged,
        "the other cluster is nowhere to be seen here; unit tests of decide::standby_cluster",
    ),
    (Rule::SiteSetsAside, "the same"),
    (Rule::SiteOtherHistory, "the same"),
    (Rule::SiteClones, "the same"),
    (Rule::SyncEnds, "by the settings only; story synchronous_off"),
    (Rule::LeaderOnOldTimeline, "a promotion is whole or not at all here; small views"),
];

#[test]
fn lives_go_through_every_rule() {
    let known = |rule: &Rule| UNSEEN.iter().any(|(known, _)| known == rule);
    let mut unseen: BTreeSet<Rule> = Rule::ALL.iter().copied().filter(|rule| !known(rule)).collect();
    for seed in 1..=1_000 {
        let (world, _) = live(seed, &plan_of(seed));
        unseen.retain(|rule| !world.laws.rules.contains(rule));
        if unseen.is_empty() {
            break;
        }
    }
    assert!(unseen.is_empty(), "no life shows {unseen:?}");
}

/// L1 with its number: a lost host costs the lease and a second and a half, whenever it is lost.
#[test]
fn a_lost_leader_is_replaced_within_the_budget() {
    let mut longest = 0;
    for seed in 1..=200 {
        let ttl = [5, 10, 15][Random::new(seed).index(3)];
        let policy = Policy { timing: Timing::for_ttl(Span::from_secs(ttl)), ..Policy::default() };
        let mut world = World::new(seed, 3, Habits::quiet(), policy);
        (0..3).for_each(|host| world.start_agent(host));
        assert!(world.run_until(60 * SECOND, World::healthy), "seed {seed}: a cluster is made");
        let moment = Random::new(seed ^ 0xDEAD).below(3 * SECOND);
        world.run_for(moment);
        let lost_at = world.now;
        world.crash_host(world.primary().expect("it is healthy"));
        assert!(
            world.run_until(60 * SECOND, |world| world.primary().is_some()),
            "seed {seed}: somebody leads"
        );
        let took = world.now - lost_at;
        assert!(took <= ttl * SECOND + 1_500 * super::MS, "seed {seed}: {took} us with a lease of {ttl} s");
        longest = longest.max(took.saturating_sub(ttl * SECOND));
    }
    println!("at most {longest} us longer than the lease");
}

impl World {
    /// Where everybody stands, for whoever must find out why.
    fn standing(&self) -> String {
        let line = |host: &super::host::Host| {
            let reason = host.agent.as_ref().and_then(|agent| agent.reason.clone());
            let data = host
                .pg
                .data
                .as_ref()
                .map(|data| (data.position().to_string(), data.state, data.backup_label));
            format!(
                "{}: {reason:?} {:?} {data:?} streaming {} unfinished {:?} guardian {:?} job {:?}\n",
                host.name, host.pg.server, host.pg.streaming, host.pg.unfinished, host.guardian, host.job
            )
        };
        let leader = format!("leader {:?}\n", self.store.leader);
        self.hosts.iter().map(line).fold(leader, |text, line| text + &line)
    }
}
