//! The recorder on real files: what it keeps, what it leaves out, and what it does when the disk does not take it.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::decide::decide;
use crate::decide::mind::Mind;
use crate::model::{Policy, Rule, Tags};

fn note(rule: Rule, at_ms: u64) -> Note {
    let mind = Mind::new("oulu".parse().expect("a name"), Tags::default(), Policy::default(), false);
    let view = View { now: Moment::from_ms(at_ms), ..mind.view().clone() };
    let plan = Plan { reason: rule.into(), ..decide(&view) };
    Note { view: Box::new(view), plan, unix_ms: at_ms }
}

fn writer(dir: &Path) -> Writer {
    let (files, earlier, next) = Files::open(dir);
    let memory = Arc::new(Mutex::new(Memory::default()));
    locked(&memory, |memory| memory.begin(earlier));
    Writer { files, next, dropped: Arc::default(), memory, recent: Vec::new(), held: None, passed_over: 0 }
}

fn told(memory: &Mutex<Memory>) -> Vec<Entry> {
    let page = locked(memory, |memory| memory.page(0, 0, true, usize::MAX));
    page.entries.iter().map(|text| Entry::read(text).expect("an entry")).collect()
}

fn rules(entries: &[Entry]) -> Vec<(u64, &str, u32, bool)> {
    entries.iter().map(|e| (e.number, e.rule.as_str(), e.passed_over, e.view.is_some())).collect()
}

fn place() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

#[test]
fn the_next_life_goes_on_behind_the_last_entry_and_passes_over_a_torn_one() {
    let dir = place();
    let mut first = writer(dir.path());
    first.take(note(Rule::WaitsForStore, 1_000));
    first.take(note(Rule::LeaderStays, 2_000));
    drop(first);
    let path = dir.path().join(FILES[0]);
    let mode = std::fs::metadata(&path).expect("it was written").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut file = std::fs::File::options().append(true).open(&path).expect("our own file");
    std::io::Write::write_all(&mut file, b"{\"format\": 1, \"numb").expect("room");
    drop(file);
    let mut second = writer(dir.path());
    second.take(note(Rule::FollowsLeader, 3_000));
    let wanted =
        vec![(1, "waits_for_store", 0, true), (2, "leader_stays", 0, true), (3, "follows_leader", 0, true)];
    assert_eq!(rules(&told(&second.memory)), wanted);
    let (read, unread) = read_file(&path).expect("our own file");
    assert_eq!((rules(&read), unread.lines), (wanted, 1));
}

#[test]
fn rules_that_take_turns_for_long_do_not_push_out_what_led_to_them() {
    let dir = place();
    let mut writer = writer(dir.path());
    writer.take(note(Rule::LeaderStays, 0));
    for turn in 0..2_000 {
        let rule = if turn % 2 == 0 { Rule::RaceAsks } else { Rule::CandidateYields };
        writer.take(note(rule, 1_000 + 500 * turn));
    }
    writer.settle();
    let entries = told(&writer.memory);
    assert_eq!(entries[0].rule, "leader_stays");
    let whole = entries.iter().filter(|entry| entry.view.is_some()).count();
    let counted: u32 = entries.iter().map(|entry| entry.passed_over).sum();
    // A thousand seconds: two brief entries in five of them, and two whole ones in sixty.
    assert!(entries.len() <= 410 && whole <= 40, "{} entries, {whole} of them whole", entries.len());
    assert_eq!(entries.len() - 1 + counted as usize, 2_000);
    let bytes = std::fs::metadata(dir.path().join(FILES[0])).expect("it was written").len();
    assert!(bytes < ring::FILE_BYTES_MAX / 2, "{bytes}");
}

#[test]
fn the_files_and_the_memory_are_bounded_and_hold_the_newest() {
    let dir = place();
    let mut writer = writer(dir.path());
    let mut rules = Rule::ALL.iter().cycle();
    for turn in 0..4_000 {
        writer.take(note(*rules.next().expect("it goes round"), 70_000 * turn));
    }
    for name in FILES {
        let bytes = std::fs::metadata(dir.path().join(name)).expect("both are there").len();
        assert!(bytes <= ring::FILE_BYTES_MAX + (64 << 10), "{name} has {bytes} bytes");
    }
    let entries = told(&writer.memory);
    assert_eq!(entries.last().map(|entry| entry.number), Some(4_000));
    assert!(1 < entries[0].number);
    let page = locked(&writer.memory, |memory| memory.page(0, 3_000, false, 10_000));
    assert!(page.more && page.oldest == Some(entries[0].number));
    assert_eq!(Entry::read(&page.entries[0]).expect("an entry").number, 3_001);
}

#[test]
fn where_nothing_can_be_written_the_memory_still_tells_and_a_queue_that_is_full_says_so() {
    let dir = place();
    let mut writer = writer(&dir.path().join("gone"));
    writer.dropped.store(3, Ordering::Relaxed);
    writer.take(note(Rule::LeaderStays, 1_000));
    writer.take(note(Rule::LeaseRanOut, 2_000));
    let entries = told(&writer.memory);
    assert_eq!(entries.iter().map(|entry| entry.dropped).collect::<Vec<_>>(), [3, 0]);
}
