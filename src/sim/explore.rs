//! Orders of events: from a few interesting moments, every order in which the next messages can arrive, within bounds.
//! What is passed over arrives late, never lost; guardians and clocks are not held up, since the rules trust them.

use std::mem::discriminant;

use super::faults::Trouble;
use super::network::Habits;
use super::world::{Happening, World};
use super::{MS, SECOND, Time};
use crate::model::Policy;

/// Messages that may overtake each other lie this close together.
const WINDOW: Time = 60 * MS;

/// How many orders: at each of `depth` steps one of the next `width` messages goes first.
struct Bounds {
    depth: u32,
    width: usize,
    /// How long the world then runs on by itself.
    afterwards: Time,
}

/// Follows every order; gives how many there were. `judge` says what is wrong at the end, if anything.
fn explore(world: &World, bounds: &Bounds, judge: &impl Fn(&World) -> Option<String>) -> u64 {
    if let Some(law) = &world.laws.broken {
        panic!("{law}\n{}", super::story::render(world));
    }
    let mut world = world.clone();
    let mut next = choices(&world, bounds.width);
    // Where there is nothing to choose, no choice is spent.
    while 0 < bounds.depth && next.len() == 1 {
        world.take(next[0]);
        next = choices(&world, bounds.width);
    }
    if bounds.depth == 0 || next.is_empty() {
        world.run_for(bounds.afterwards);
        if let Some(wrong) = world.laws.broken.clone().or_else(|| judge(&world)) {
            panic!("{wrong}\n{}", super::story::render(&world));
        }
        return 1;
    }
    let mut seen = 0;
    for key in next {
        let mut branch = world.clone();
        branch.take(key);
        seen += explore(&branch, &Bounds { depth: bounds.depth - 1, ..*bounds }, judge);
    }
    seen
}

/// What comes next by itself, and the messages that may overtake it: of each kind to each machine only the first, since
/// connections keep their order.
fn choices(world: &World, width: usize) -> Vec<(Time, u64)> {
    let Some(latest) = world.next_at().map(|first| first.max(world.now) + WINDOW) else { return Vec::new() };
    let mut chosen: Vec<(&(Time, u64), &Happening)> = Vec::new();
    for (key, happening) in world.queue.range(..(latest, 0)) {
        let same = |(_, other): &(&(Time, u64), &Happening)| {
            discriminant(*other) == discriminant(happening) && other.host() == happening.host()
        };
        if chosen.is_empty() || is_message(happening) && !chosen.iter().any(same) {
            chosen.push((key, happening));
        }
        if chosen.len() == width || is_punctual(happening) {
            break;
        }
    }
    chosen.into_iter().map(|(key, _)| *key).collect()
}

/// Nothing may be put before these: the arithmetic of the lease counts on them.
fn is_punctual(happening: &Happening) -> bool {
    matches!(
        happening,
        Happening::GuardianHears { .. }
            | Happening::GuardianLooks { .. }
            | Happening::GuardianHasKilled { .. }
            | Happening::StoreEndsSession { .. }
    )
}

fn is_message(happening: &Happening) -> bool {
    matches!(
        happening,
        Happening::StoreHears { .. }
            | Happening::AgentHearsStore { .. }
            | Happening::AgentHearsWatch { .. }
            | Happening::AgentSees { .. }
            | Happening::AgentActs { .. }
            | Happening::AgentHearsGuardian { .. }
            | Happening::AgentHearsPeer { .. }
            | Happening::AgentIsAsked { .. }
            | Happening::AgentAnswers { .. }
            | Happening::AgentHearsJob { .. }
            | Happening::AgentWakes { .. }
            | Happening::AgentBeats { .. }
            | Happening::KeeperTicks { .. }
    )
}

impl Happening {
    fn host(&self) -> Option<usize> {
        match self {
            Happening::StoreHears { host, .. }
            | Happening::AgentHearsStore { host, .. }
            | Happening::AgentHearsWatch { host, .. }
            | Happening::AgentSees { host, .. }
            | Happening::AgentActs { host, .. }
            | Happening::AgentHearsGuardian { host, .. }
            | Happening::AgentHearsPeer { host, .. }
            | Happening::AgentIsAsked { host, .. }
            | Happening::AgentAnswers { host, .. }
            | Happening::AgentHearsJob { host, .. }
            | Happening::AgentWakes { host, .. }
            | Happening::AgentBeats { host, .. }
            | Happening::KeeperTicks { host, .. } => Some(*host),
            _ => None,
        }
    }
}

/// A quiet cluster of three, led by the first member.
pub(super) fn healthy() -> World {
    let mut world = World::new(11, 3, Habits::quiet(), Policy::default());
    world.start_agent(0);
    assert!(world.run_until(20 * SECOND, |world| world.primary() == Some(0)), "the first member leads");
    (1..3).for_each(|host| world.start_agent(host));
    assert!(world.run_until(30 * SECOND, World::healthy), "the others follow");
    world.run_for(3 * SECOND);
    world.lines.clear();
    world
}

fn until(world: &mut World, reached: impl Fn(&World) -> bool) {
    for _ in 0..200_000 {
        if reached(world) {
            return;
        }
        let key = world.queue.first_key_value().map(|(key, _)| *key).expect("something always happens");
        world.take(key);
    }
    panic!("it never came to this");
}

fn one_leads(world: &World) -> Option<String> {
    world.primary().is_none().then(|| "nobody leads in the end".to_owned())
}

#[test]
fn a_restarted_agent_takes_its_primary_up_again_in_every_order() {
    let mut world = healthy();
    world.crash_agent(0);
    world.run_for(SECOND);
    world.start_agent(0);
    let bounds = Bounds { depth: 8, width: 4, afterwards: 4 * SECOND };
    let outages = world.laws.outages.len();
    let seen = explore(&world, &bounds, &|end| {
        (end.laws.outages.len() != outages || end.primary() != Some(0)).then(|| "S6: an outage".to_owned())
    });
    println!("{seen} orders");
}

#[test]
fn a_race_has_one_winner_in_every_order() {
    let mut world = healthy();
    world.crash_host(0);
    until(&mut world, |world| world.store.leader.is_none());
    let seen = explore(&world, &Bounds { depth: 8, width: 3, afterwards: 6 * SECOND }, &one_leads);
    println!("{seen} orders");
}

#[test]
fn a_race_with_lost_answers_has_one_winner_in_every_order() {
    let mut world = healthy();
    world.crash_host(0);
    (1..3).for_each(|host| world.hosts[host].answers_to_lose = 1);
    until(&mut world, |world| {
        world.store.leader.as_ref().is_some_and(|leader| leader.name.as_str() != "turku")
    });
    let seen = explore(&world, &Bounds { depth: 8, width: 3, afterwards: 8 * SECOND }, &one_leads);
    println!("{seen} orders");
}

#[test]
fn a_switchover_loses_nothing_in_any_order() {
    let mut world = healthy();
    world.ask_for_switchover(Some(1));
    until(&mut world, |world| !world.hosts[0].pg.is_up());
    let seen = explore(&world, &Bounds { depth: 8, width: 3, afterwards: 8 * SECOND }, &|end| {
        (0 < end.lost()).then(|| "records were lost".to_owned()).or_else(|| one_leads(end))
    });
    println!("{seen} orders");
}

#[test]
fn a_lease_that_runs_out_is_obeyed_in_every_order() {
    let mut world = healthy();
    world.cut_off(0);
    until(&mut world, |world| world.hosts[0].job.is_some());
    let seen = explore(&world, &Bounds { depth: 9, width: 3, afterwards: 8 * SECOND }, &one_leads);
    println!("{seen} orders");
}

#[test]
fn a_store_that_returns_at_the_last_moment_is_heard_in_every_order() {
    let mut world = healthy();
    world.strike(Trouble::StoreFails);
    until(&mut world, |world| world.hosts[0].job.is_some());
    world.store_starts();
    let seen = explore(&world, &Bounds { depth: 7, width: 3, afterwards: 12 * SECOND }, &one_leads);
    println!("{seen} orders");
}

#[test]
fn one_member_makes_the_cluster_in_every_order() {
    let mut world = World::new(11, 3, Habits::quiet(), Policy::default());
    (0..3).for_each(|host| world.start_agent(host));
    let seen = explore(&world, &Bounds { depth: 7, width: 3, afterwards: 8 * SECOND }, &one_leads);
    println!("{seen} orders");
}
