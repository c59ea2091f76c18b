//! One timeline out of the rings of several members, and what each change of leader in it was made of. Pure.
//!
//! Members have clocks of their own. Causes come before effects all the same: nobody can have seen a claim before it was asked
//! for. Where a clock says otherwise, all that its member said is moved by as much, and that is told.

use std::collections::BTreeMap;

use crate::model::{Entry, MemberName, Severity, Timeline};

/// Less than this no clock is blamed for.
const TOLERANCE_MS: u64 = 50;
/// So long before the key of a leader is gone, what it did may be why.
const BEFORE_MS: u64 = 60_000;
/// So long after the new one is primary, others are looked at that join it.
const AFTER_MS: u64 = 120_000;
const LAST_WORDS_MAX: usize = 8;

#[derive(Clone, Debug, Default)]
pub struct Story {
    /// In order, with the time that was corrected where it had to be.
    pub entries: Vec<Told>,
    pub changes: Vec<Change>,
    /// How far behind the others a member's clock is, at least, in milliseconds.
    pub behind: BTreeMap<MemberName, u64>,
}

#[derive(Clone, Debug)]
pub struct Told {
    pub at_ms: u64,
    pub entry: Entry,
}

/// A lease that was taken, and what followed.
#[derive(Clone, Debug)]
pub struct Change {
    pub kind: Kind,
    pub timeline: Timeline,
    pub from: Option<MemberName>,
    pub to: MemberName,
    pub stages: Vec<Stage>,
    /// What the former leader did before.
    pub last_words: Vec<Told>,
    pub loss: Option<String>,
    pub from_ms: u64,
    pub until_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    First,
    Failover,
    Switchover,
    OrderlyEnd,
    /// By the member that led before.
    Again,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    pub what: &'static str,
    pub at_ms: u64,
    pub member: MemberName,
    pub why: String,
}

impl Kind {
    pub fn word(self) -> &'static str {
        match self {
            Kind::First => "first leader",
            Kind::Failover => "failover",
            Kind::Switchover => "switchover",
            Kind::OrderlyEnd => "handover by a leader that ended",
            Kind::Again => "the lease was taken again",
        }
    }
}

/// `at` spells a time of the wall clock.
pub fn tell(entries: Vec<Entry>, at: &dyn Fn(u64) -> String) -> Story {
    let mut lines: BTreeMap<MemberName, Vec<Told>> = BTreeMap::new();
    for entry in entries {
        let told = Told { at_ms: entry.unix_ms, entry };
        lines.entry(told.entry.member.clone()).or_default().push(told);
    }
    for line in lines.values_mut() {
        line.sort_by_key(|told| told.entry.number);
        line.dedup_by_key(|told| told.entry.number);
        let mut latest = 0;
        for told in line {
            latest = told.at_ms.max(latest);
            told.at_ms = latest;
        }
    }
    let behind = correct(&mut lines);
    let mut entries: Vec<Told> = lines.into_values().flatten().collect();
    entries.sort_by(|a, b| {
        (a.at_ms, &a.entry.member, a.entry.number).cmp(&(b.at_ms, &b.entry.member, b.entry.number))
    });
    let changes = changes(&entries, at);
    Story { entries, changes, behind }
}

/// Moves the members that saw a claim before it was asked for.
fn correct(lines: &mut BTreeMap<MemberName, Vec<Told>>) -> BTreeMap<MemberName, u64> {
    let mut behind = BTreeMap::new();
    let mut claims: Vec<(Timeline, MemberName)> = lines
        .values()
        .flatten()
        .filter_map(|told| Some((told.entry.evidence.claims?, told.entry.member.clone())))
        .collect();
    claims.sort();
    claims.dedup();
    for (timeline, by) in claims {
        let asked = |told: &&Told| told.entry.evidence.claims == Some(timeline);
        let Some(cause) = lines.get(&by).and_then(|line| line.iter().find(asked)).map(|told| told.at_ms)
        else {
            continue;
        };
        let shows = |told: &&Told| {
            told.entry
                .evidence
                .claim
                .as_ref()
                .is_some_and(|claim| claim.timeline == timeline && claim.by == by)
        };
        for (member, line) in lines.iter_mut().filter(|(member, _)| **member != by) {
            let Some(effect) = line.iter().find(shows).map(|told| told.at_ms) else { continue };
            let early = cause.saturating_sub(effect);
            if TOLERANCE_MS < early {
                for told in line.iter_mut() {
                    told.at_ms += early;
                }
                *behind.entry(member.clone()).or_insert(0) += early;
            }
        }
    }
    behind
}

fn changes(entries: &[Told], at: &dyn Fn(u64) -> String) -> Vec<Change> {
    let mut all = Vec::new();
    for (place, take) in entries.iter().enumerate() {
        if let Some(timeline) = take.entry.evidence.claims
            && let Some(change) = change(entries, place, take, timeline, at)
        {
            all.push(change);
        }
    }
    all
}

/// What became of an attempt to take the lease; nothing, if somebody else was first.
fn change(
    entries: &[Told],
    place: usize,
    take: &Told,
    timeline: Timeline,
    at: &dyn Fn(u64) -> String,
) -> Option<Change> {
    let to = &take.entry.member;
    let (before, after) = (&entries[..place], &entries[place + 1..]);
    let own = || after.iter().filter(|told| told.entry.member == *to);
    let until_next = || own().take_while(|told| told.entry.evidence.claims.is_none());
    let taken = until_next().find(|told| told.entry.evidence.term.is_some())?;
    let no_leader = take.entry.evidence.no_leader_for.map(|span| take.at_ms.saturating_sub(span.as_ms()));
    let led_before = before.iter().rev().filter(|told| told.entry.member == *to);
    let from = led_before.clone().find_map(|told| told.entry.evidence.leader.clone());
    let gone_ms = no_leader.unwrap_or(take.at_ms);
    let primary = until_next().find(|told| told.entry.evidence.is_primary);
    let until_ms = primary.unwrap_or(taken).at_ms;

    let mut stages = Vec::new();
    let mut stage = |what, at_ms, told: &Told| {
        let why = told.entry.sentence.clone();
        stages.push(Stage { what, at_ms, member: told.entry.member.clone(), why });
    };
    let of_former = |told: &&Told| Some(&told.entry.member) == from.as_ref() && from.as_ref() != Some(to);
    let near = |told: &&Told| gone_ms.saturating_sub(BEFORE_MS) <= told.at_ms && told.at_ms <= until_ms;
    let mut last_words: Vec<Told> = entries.iter().filter(of_former).filter(near).cloned().collect();
    last_words.drain(..last_words.len().saturating_sub(LAST_WORDS_MAX));
    if let Some(first) = last_words.iter().find(|told| is_trouble(&told.entry)) {
        stage("the leader leaves", first.at_ms, first);
    }
    if let Some(since) = no_leader {
        stage("the store shows no leader", since, take);
    }
    let race = before.iter().find(|told| told.entry.member == *to && gone_ms <= told.at_ms);
    if let Some(race) = race.filter(|told| told.entry.rule.starts_with("race_")) {
        stage("the race begins", race.at_ms, race);
    }
    stage("the race is decided", take.at_ms, take);
    stage("the lease is held", taken.at_ms, taken);
    if let Some(promotes) = until_next().find(|told| told.entry.rule == "leader_promotes") {
        stage("PostgreSQL is promoted", promotes.at_ms, promotes);
    }
    if let Some(primary) = primary {
        stage("PostgreSQL is primary", primary.at_ms, primary);
    }
    let mut followers: BTreeMap<&MemberName, &Told> = BTreeMap::new();
    let follows = |told: &&Told| {
        told.entry.evidence.leader.as_ref() == Some(to) && told.entry.rule.starts_with("follows_")
    };
    let others = after.iter().filter(|told| told.entry.member != *to && told.at_ms <= until_ms + AFTER_MS);
    for told in others.take_while(|told| told.entry.evidence.claims.is_none()).filter(follows) {
        followers.entry(&told.entry.member).or_insert(told);
    }
    let mut joined: Vec<&Told> = followers.into_values().collect();
    joined.sort_by_key(|told| told.at_ms);
    for told in joined {
        stage("a member follows", told.at_ms, told);
    }

    let takeover = until_next().find_map(|told| Some((told, told.entry.evidence.takeover?)));
    let loss = takeover.filter(|(_, takeover)| takeover.timeline == timeline).map(|(told, takeover)| {
        takeover.loss.told(|moment| at(told.at_ms.saturating_sub(told.entry.moment.since(moment).as_ms())))
    });
    let has = |rule: &str| last_words.iter().any(|told| told.entry.rule.starts_with(rule));
    let kind = match &from {
        None => Kind::First,
        Some(from) if from == to => Kind::Again,
        Some(_) if has("ending_") => Kind::OrderlyEnd,
        Some(_) if take.entry.rule == "candidate_named" || has("switchover_") => Kind::Switchover,
        Some(_) => Kind::Failover,
    };
    stages.sort_by_key(|stage| stage.at_ms);
    let from_ms = stages.first().map_or(take.at_ms, |stage| stage.at_ms);
    let loss = loss.filter(|_| matches!(kind, Kind::Failover | Kind::Switchover | Kind::OrderlyEnd));
    Some(Change { kind, timeline, from, to: to.clone(), stages, last_words, loss, from_ms, until_ms })
}

/// Does a leader that decides so leave, or is it about to?
fn is_trouble(entry: &Entry) -> bool {
    let severe = entry.known_rule().is_some_and(|rule| rule.severity() != Severity::Info);
    severe || entry.rule.starts_with("switchover_") || entry.rule.starts_with("ending_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Claim, ENTRY_FORMAT, Evidence, Loss, Moment, Rule, Span, Takeover, Term};

    fn name(name: &str) -> MemberName {
        name.parse().expect("a name")
    }

    fn entry(member: &str, number: u64, unix_ms: u64, rule: Rule, evidence: Evidence) -> Entry {
        Entry {
            format: ENTRY_FORMAT,
            number,
            member: name(member),
            unix_ms,
            moment: Moment::from_ms(unix_ms),
            rule: rule.code().to_owned(),
            other_member: None,
            sentence: rule.sentence().to_owned(),
            step: String::new(),
            evidence,
            passed_over: 0,
            dropped: 0,
            plan: None,
            view: None,
        }
    }

    fn seen(leader: Option<&str>, claim: (u32, &str)) -> Evidence {
        Evidence {
            leader: leader.map(name),
            claim: Some(Claim { timeline: Timeline(claim.0), by: name(claim.1) }),
            no_leader_for: leader.is_none().then_some(Span::from_ms(100)),
            ..Evidence::default()
        }
    }

    /// Turku is lost; oulu takes over; vaasa, whose clock is `vaasa_behind` late, follows.
    fn failover(vaasa_behind: u64) -> Vec<Entry> {
        let no_leader_for = Some(Span::from_ms(400));
        let takes = Evidence { claims: Some(Timeline(2)), no_leader_for, ..seen(None, (1, "turku")) };
        let loss =
            Loss::Within { since: Moment::from_ms(9_000), until: Moment::from_ms(20_000), known: None };
        let held = Evidence {
            term: Some(Term(7)),
            takeover: Some(Takeover { timeline: Timeline(2), loss }),
            ..seen(Some("oulu"), (2, "oulu"))
        };
        let primary = Evidence { is_primary: true, ..held.clone() };
        vec![
            entry("turku", 3, 9_500, Rule::LeaderOutlivesSilence, seen(Some("turku"), (1, "turku"))),
            entry("oulu", 1, 1_000, Rule::FollowsLeader, seen(Some("turku"), (1, "turku"))),
            entry("oulu", 2, 20_100, Rule::RaceAsks, seen(None, (1, "turku"))),
            entry("oulu", 3, 20_400, Rule::CandidateTakes, takes),
            entry("oulu", 4, 20_450, Rule::LeaderPromotes, held),
            entry("oulu", 5, 20_900, Rule::LeaderStays, primary),
            entry("vaasa", 9, 1_000, Rule::FollowsLeader, seen(Some("turku"), (1, "turku"))),
            entry(
                "vaasa",
                10,
                20_500 - vaasa_behind,
                Rule::FollowsNewLeader,
                seen(Some("oulu"), (2, "oulu")),
            ),
        ]
    }

    fn spelled(ms: u64) -> String {
        ms.to_string()
    }

    #[test]
    fn a_failover_is_told_stage_by_stage() {
        let story = tell(failover(0), &spelled);
        let [change] = &story.changes[..] else { panic!("{:?}", story.changes) };
        assert_eq!(
            (change.kind, &change.from, &change.to),
            (Kind::Failover, &Some(name("turku")), &name("oulu"))
        );
        let stages: Vec<(&str, u64, &str)> =
            change.stages.iter().map(|stage| (stage.what, stage.at_ms, stage.member.as_str())).collect();
        let wanted = [
            ("the leader leaves", 9_500, "turku"),
            ("the store shows no leader", 20_000, "oulu"),
            ("the race begins", 20_100, "oulu"),
            ("the race is decided", 20_400, "oulu"),
            ("the lease is held", 20_450, "oulu"),
            ("PostgreSQL is promoted", 20_450, "oulu"),
            ("a member follows", 20_500, "vaasa"),
            ("PostgreSQL is primary", 20_900, "oulu"),
        ];
        assert_eq!(stages, wanted);
        assert_eq!(change.loss.as_deref(), Some("at most the last 11.0 s since 9000"));
        assert!(story.behind.is_empty());
    }

    #[test]
    fn who_sees_a_claim_before_it_was_asked_for_has_a_clock_that_is_behind() {
        let story = tell(failover(5_100), &spelled);
        assert_eq!(story.behind, [(name("vaasa"), 5_000)].into());
        let order: Vec<&str> = story.entries.iter().map(|told| told.entry.member.as_str()).collect();
        assert_eq!(order, ["oulu", "vaasa", "turku", "oulu", "oulu", "vaasa", "oulu", "oulu"]);
    }

    #[test]
    fn an_attempt_that_another_was_faster_than_is_no_change_of_leader() {
        let takes = Evidence { claims: Some(Timeline(2)), ..seen(None, (1, "turku")) };
        let mut entries = failover(0);
        entries.push(entry("vaasa", 11, 20_401, Rule::CandidateTakes, takes));
        entries.push(entry("vaasa", 12, 20_601, Rule::FollowsLeader, seen(Some("oulu"), (2, "oulu"))));
        assert_eq!(tell(entries, &spelled).changes.len(), 1);
    }

    #[test]
    fn a_clock_that_steps_back_does_not_turn_a_members_own_order_around() {
        let at = |number, ms| entry("oulu", number, ms, Rule::FollowsLeader, Evidence::default());
        let story = tell(vec![at(2, 500), at(1, 1_000), at(3, 700), at(3, 700)], &spelled);
        let order: Vec<u64> = story.entries.iter().map(|told| told.entry.number).collect();
        assert_eq!(order, [1, 2, 3]);
    }
}
