//! What the flight recorder keeps of a view is enough to decide again: lives of the simulator, looked at as they go on.

use super::SECOND;
use super::lives::{begin, plan_of};
use super::world::World;
use crate::decide::decide;
use crate::model::Entry;

fn look_at_everybody(world: &World, looked: &mut usize) {
    for host in &world.hosts {
        let Some(agent) = host.agent.as_ref() else { continue };
        let view = agent.mind.view();
        let plan = decide(view);
        let text = serde_json::to_string(&Entry::of(view, &plan, 1, 1)).expect("an entry is JSON");
        let entry = Entry::read(&text).expect("what was written can be read");
        let again = decide(&entry.view().expect("what was known can be read"));
        assert_eq!(again, plan, "another plan for what was kept of {text}");
        *looked += 1;
    }
}

#[test]
fn a_view_that_was_kept_gives_the_same_plan() {
    let mut looked = 0;
    for seed in 0..5 {
        let mut world = begin(seed, &plan_of(seed));
        for _ in 0..600 {
            world.run_for(SECOND / 3);
            look_at_everybody(&world, &mut looked);
        }
    }
    assert!(5_000 < looked, "{looked} views");
}
