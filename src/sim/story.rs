//! Stories: a script above the dashes, what every member decided below. `TENURE_BLESS=1` writes what is below anew.
//!
//! A script is lines of `verb who…`: `members`, `ttl`, `start`, `settle`, `wait`, and the troubles of `run_line`.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use super::faults::Trouble;
use super::network::{Habits, Place};
use super::world::{Line, World};
use super::{SECOND, Time};
use crate::decide::mind::Event;
use crate::model::{Ask, Errand, Job, MemberName, Policy, Span, Step, SyncMode, SyncNames, Timing};

/// Nothing decided differently for this long: more than any lease of a story lasts.
const QUIET: Time = 15 * SECOND;
const SETTLE_MAX: Time = 300 * SECOND;

/// A few words on a step, for stories.
pub(super) fn describe(step: &Step) -> String {
    match step {
        Step::Wait => String::new(),
        Step::Store(Errand::TakeInitialize) => ": take the initialize key".to_owned(),
        Step::Store(Errand::FinishInitialize { .. }) => ": write the initialize key".to_owned(),
        Step::Store(Errand::AbandonInitialize) => ": give the initialize key back".to_owned(),
        Step::Store(Errand::TakeLease { claim }) => {
            format!(": take the lease, for timeline {}", claim.timeline)
        }
        Step::Store(Errand::ReleaseLease { .. }) => ": release the lease".to_owned(),
        Step::Store(Errand::ClearFailover { .. }) => ": clear the request".to_owned(),
        Step::Store(Errand::MakeDue { .. }) => ": ask for it now".to_owned(),
        Step::Store(Errand::EndPause { .. }) => ": end maintenance mode".to_owned(),
        Step::Store(Errand::WriteSync { state, .. }) => {
            let names: Vec<&str> = state.standbys.iter().map(MemberName::as_str).collect();
            format!(": write /sync, {} of [{}]", state.quorum + 1, names.join(","))
        }
        Step::Store(Errand::ClearSync { .. }) => ": delete /sync".to_owned(),
        Step::Run(Job::Synchronize { names: SyncNames::Ours(commits) }) => format!(": wait for [{commits}]"),
        Step::AskPeers(_) => ": ask".to_owned(),
        Step::Run(Job::Promote { timeline, .. }) => format!(": promote to timeline {timeline}"),
        Step::Run(job) => format!(": {}", job.name()),
        Step::Cancel => ": cancel".to_owned(),
        Step::Exit => ": exit".to_owned(),
    }
}

pub(super) fn run(script: &str) -> (World, String) {
    let mut world = World::new(7, 3, Habits::quiet(), Policy::default());
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let spoken = matches!(words[0], "members" | "ttl" | "settle" | "wait" | "healthy");
        if !spoken {
            world.lines.push(Line { at: world.now, who: "==".to_owned(), what: line.to_owned() });
        }
        world = run_line(world, line, &words);
        if let Some(law) = &world.laws.broken {
            panic!("a law was broken: {law}\n{}", render(&world));
        }
    }
    world.look_for_every_record();
    let told = render(&world);
    (world, told)
}

fn run_line(mut world: World, line: &str, words: &[&str]) -> World {
    let host = |world: &World, name: &str| {
        world.host_named(name).unwrap_or_else(|| panic!("{line:?}: there is no {name}"))
    };
    let place = |world: &World, name: &str| match name {
        "store" => Place::Store,
        "clients" => Place::Clients,
        name => Place::Host(host(world, name)),
    };
    match words {
        ["members", count] => {
            let count = count.parse().expect("a number of members");
            return World::new(7, count, Habits::quiet(), world.policy);
        }
        ["ttl", secs] => {
            world.policy.timing = Timing::for_ttl(Span::from_secs(secs.parse().expect("seconds")));
        }
        ["synchronous", words @ ..] => {
            for word in words {
                match *word {
                    "on" => world.policy.sync.mode = SyncMode::On,
                    "quorum" => world.policy.sync.mode = SyncMode::Quorum,
                    "off" => world.policy.sync.mode = SyncMode::Off,
                    "strict" => world.policy.sync.strict = true,
                    "gate" => world.policy.sync.gate = true,
                    "no-gate" => world.policy.sync.gate = false,
                    count => world.policy.sync.node_count = count.parse().expect("how many"),
                }
            }
            tell_policy(&mut world);
        }
        ["lag", "at", "most", bytes] => world.policy.lag_bytes_max = bytes.parse().expect("bytes"),
        ["failsafe", "mode"] => world.policy.failsafe = true,
        ["hook", "before", "promotions"] => world.policy.asks_before_promotion = true,
        ["watchdog", "required"] => world.policy.watchdog_required = true,
        ["break", "watchdog", name] => {
            let host = host(&world, name);
            world.break_watchdog(host, true);
        }
        ["mend", "watchdog", name] => {
            let host = host(&world, name);
            world.break_watchdog(host, false);
        }
        ["healthy"] => make_healthy(&mut world),
        ["start", "all"] => (0..world.hosts.len()).for_each(|host| world.start_agent(host)),
        ["start", name] => world.start_agent(host(&world, name)),
        ["settle"] => settle(&mut world),
        ["wait", secs] => {
            let seconds: f64 = secs.parse().expect("seconds");
            world.run_for(
                Time::try_from(std::time::Duration::from_secs_f64(seconds).as_micros()).expect("short"),
            );
        }
        ["cut", "off", name] => {
            let host = host(&world, name);
            world.cut_off(host);
        }
        ["heal", name] => {
            let host = host(&world, name);
            world.heal_host(host);
        }
        ["cut", from, "to", to] => {
            let (from, to) = (place(&world, from), place(&world, to));
            world.network.cut(from, to);
        }
        ["heal", from, "to", to] => {
            let (from, to) = (place(&world, from), place(&world, to));
            world.network.heal(from, to);
        }
        ["kill", "postgres", name] => world.crash_postgres_if_up(host(&world, name)),
        ["kill", "agent", name] => world.crash_agent(host(&world, name)),
        ["kill", "guardian", name] => world.kill_guardian(host(&world, name)),
        ["kill", "host", name] => world.crash_host(host(&world, name)),
        ["boot", name] => world.boot(host(&world, name)),
        ["freeze", name] => world.freeze_agent(host(&world, name), true),
        ["thaw", name] => world.freeze_agent(host(&world, name), false),
        ["hang", name] => world.begin(Trouble::PostgresHangs(host(&world, name))),
        ["stall", "disk", name] => world.begin(Trouble::DiskStalls(host(&world, name))),
        ["repair", "disk", name] => world.pass(Trouble::DiskStalls(host(&world, name))),
        ["fill", "disk", name] => world.begin(Trouble::DiskFills(host(&world, name))),
        ["clear", "disk", name] => world.pass(Trouble::DiskFills(host(&world, name))),
        ["crash", "again", "and", "again", name] => world.begin(Trouble::CrashLoops(host(&world, name))),
        ["hang", "loop", name] => world.begin(Trouble::LoopHangs(host(&world, name))),
        ["unhang", "loop", name] => world.pass(Trouble::LoopHangs(host(&world, name))),
        ["end", name] => world.begin(Trouble::AgentEnds(host(&world, name))),
        ["tag", name, tag] => {
            let host = host(&world, name);
            world.hosts[host].tags.0.insert((*tag).to_owned(), true.into());
            world.learn(host, Event::Tags(world.hosts[host].tags.clone()));
        }
        ["tag", name, tag, value] => {
            let host = host(&world, name);
            world.hosts[host].tags.0.insert((*tag).to_owned(), (*value).into());
            world.learn(host, Event::Tags(world.hosts[host].tags.clone()));
        }
        ["follow", "another", "cluster"] => world.begin(Trouble::FollowsAnother),
        ["lead", "again"] => world.pass(Trouble::FollowsAnother),
        ["found", "running", name] => {
            let host = host(&world, name);
            world.put_running_primary(host);
        }
        ["delete", "leader", "key"] => world.delete_leader_key(),
        ["switchover"] => world.ask_for_switchover(None),
        ["failover", "to", name] => {
            let name = world.hosts[host(&world, name)].name.clone();
            world.store.request_failover(None, Some(name));
            world.tell_watchers();
        }
        ["switchover", "to", name] => world.ask_for_switchover(Some(host(&world, name))),
        ["switchover", "to", name, "in", secs] => {
            let at = world.now + secs.parse::<Time>().expect("seconds") * SECOND;
            world.ask_for_switchover_at(host(&world, name), at);
        }
        ["restart", name] => world.ask(host(&world, name), Ask::Restart { timeout: None }),
        ["restart", name, "within", secs] => {
            let timeout = Some(Span::from_secs(secs.parse().expect("seconds")));
            world.ask(host(&world, name), Ask::Restart { timeout });
        }
        ["reinitialize", name] => {
            world.ask(host(&world, name), Ask::Reinitialize { force: false, from_leader: false });
        }
        ["reinitialize", name, "now"] => {
            world.ask(host(&world, name), Ask::Reinitialize { force: true, from_leader: false });
        }
        ["pause"] => set_pause(&mut world, true),
        ["pause", "for", secs] => {
            let end = world.now + secs.parse::<Time>().expect("seconds") * SECOND;
            set_pause(&mut world, true);
            world.store.pause_until(end);
            world.tell_watchers();
        }
        ["resume"] => set_pause(&mut world, false),
        ["store", "fails"] => world.store_stops(),
        ["store", "returns"] => world.store_starts(),
        ["store", "elects"] => world.store_elects(SECOND),
        ["remove", "data", name] => world.remove_data(host(&world, name)),
        ["lose", "answer", name] => {
            let host = host(&world, name);
            world.hosts[host].answers_to_lose = 1;
        }
        ["fail", kind, name, times] => {
            let kind = ["rewind", "clone", "promote", "pre_promote", "start-as-primary"]
                .into_iter()
                .find(|k| k == kind)
                .expect("a kind of job");
            let host = host(&world, name);
            world.hosts[host].failing.insert(
                if kind == "start-as-primary" { "start as primary" } else { kind },
                times.parse().expect("how often"),
            );
        }
        _ => panic!("{line:?} is not understood"),
    }
    world
}

pub(super) fn set_pause(world: &mut World, pause: bool) {
    world.set_pause(pause);
    tell_policy(world);
}

fn tell_policy(world: &mut World) {
    for host in 0..world.hosts.len() {
        world.learn(host, Event::Policy(Box::new(world.policy.clone())));
    }
}

/// A cluster as it should be, led by the first member. How it came about is another story.
fn make_healthy(world: &mut World) {
    world.start_agent(0);
    assert!(world.run_until(20 * SECOND, |world| world.primary() == Some(0)), "the first member leads");
    (1..world.hosts.len()).for_each(|host| world.start_agent(host));
    assert!(world.run_until(30 * SECOND, World::healthy), "the others follow");
    world.run_for(3 * SECOND);
    world.lines.clear();
}

/// Until nobody has decided anything new for a while.
fn settle(world: &mut World) {
    let end = world.now + SETTLE_MAX;
    loop {
        let since = world.lines.last().map_or(world.now, |line| line.at).max(world.now.saturating_sub(QUIET));
        world.run_for((since + QUIET).saturating_sub(world.now).max(SECOND));
        let last = world.lines.last().map_or(0, |line| line.at);
        if last + QUIET <= world.now || end <= world.now || world.laws.broken.is_some() {
            return;
        }
    }
}

pub(super) fn render(world: &World) -> String {
    let mut text = String::new();
    for Line { at, who, what } in &world.lines {
        let (seconds, millis) = (at / SECOND, at % SECOND / 1000);
        let _ = writeln!(text, "{seconds:4}.{millis:03}  {who:<7} {what}");
    }
    let _ = writeln!(text, "acknowledged {}, lost {}", world.laws.acknowledged.len(), world.lost());
    let long: Vec<String> = (world.laws.outages.iter().skip(1))
        .map(|(from, to)| format!("{}.{:01} s", (to - from) / SECOND, (to - from) % SECOND / 100_000))
        .collect();
    if !long.is_empty() {
        let _ = writeln!(text, "nobody accepted writes for {}", long.join(", "));
    }
    text
}

fn stories() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stories");
    let mut found: Vec<PathBuf> = std::fs::read_dir(&folder)
        .expect("tests/stories exists")
        .map(|entry| entry.expect("a folder can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .filter(|path| path.file_stem().is_some_and(|stem| stem != "seeds"))
        .collect();
    found.sort();
    found
}

#[test]
fn every_story_is_told_as_it_is_written() {
    let bless = std::env::var_os("TENURE_BLESS").is_some();
    let only = std::env::var("TENURE_STORY").ok();
    let mut wrong = Vec::new();
    for path in stories() {
        if only.as_ref().is_some_and(|only| !path.ends_with(format!("{only}.txt"))) {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("a story can be read");
        let (script, below) = text.split_once("----\n").unwrap_or((&text, ""));
        let (_, told) = run(script);
        if bless {
            std::fs::write(&path, format!("{}\n----\n{told}", script.trim_end()))
                .expect("a story can be written");
        } else if told != below {
            let differs = told.lines().zip(below.lines()).find(|(now, written)| now != written);
            wrong.push(format!("{}: {differs:?}", path.display()));
        }
    }
    assert!(
        wrong.is_empty(),
        "stories that go otherwise (TENURE_BLESS=1 rewrites them):\n{}",
        wrong.join("\n")
    );
}
