//! The members beside one another: who answers, who could take over, and where they are not alike.

use std::collections::{BTreeMap, BTreeSet};

use super::{Check, Facts, Finding, HostFacts, MemberFacts, PostgresFacts, Untold, Ward, listed};

/// Clocks that are this far apart put the lines of two logs in the wrong order.
const APART_MS: u64 = 1_000;

pub fn examine(facts: &Facts, ward: &mut Ward) {
    answers(facts, ward);
    leads(facts, ward);
    machines(facts, ward);
    versions(facts, ward);
    collations(facts, ward);
    ward.check(Check::Paused, facts.paused.then(|| Finding::of(Check::Paused, "maintenance mode is on")));
    for member in &facts.members {
        standing(facts, member, ward);
    }
}

fn answers(facts: &Facts, ward: &mut Ward) {
    for check in [Check::MemberSilent, Check::MemberOlder, Check::NotOurs, Check::HostUnknown] {
        ward.made(check);
    }
    for member in &facts.members {
        let finding = match &member.told {
            Err(Untold::Silent(why)) => Finding::of(Check::MemberSilent, why.clone()),
            Err(Untold::Older(why)) => Finding::of(Check::MemberOlder, why.clone()),
            Err(Untold::NotOurs) => Finding::of(Check::NotOurs, "it is one of Patroni's"),
            Ok(told) => {
                for (what, why) in told.unknown.iter().filter(|(what, _)| *what != "PostgreSQL") {
                    ward.find(Finding::of(Check::HostUnknown, format!("{what}: {why}")).about(&member.name));
                }
                continue;
            }
        };
        ward.find(finding.about(&member.name));
    }
}

fn leads(facts: &Facts, ward: &mut Ward) {
    let none = facts.leader.is_none();
    ward.check(Check::NoLeader, none.then(|| Finding::of(Check::NoLeader, "the store names no leader")));
    let able: Vec<&str> = (facts.members.iter())
        .filter(|member| member.may_lead && Some(&member.name) != facts.leader.as_ref())
        .filter(|member| !matches!(member.told, Err(Untold::Silent(_))))
        .map(|member| member.name.as_str())
        .collect();
    let measured =
        || format!("{} members, of whom nobody else is reachable and may lead", facts.members.len());
    ward.check(
        Check::NobodyTakesOver,
        able.is_empty().then(|| Finding::of(Check::NobodyTakesOver, measured())),
    );
}

fn machines(facts: &Facts, ward: &mut Ward) {
    let mut kernels: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (member, host) in told(facts) {
        if let Some(boot) = &host.boot_id {
            kernels.entry(boot).or_default().push(&member.name);
        }
    }
    ward.made(Check::SameMachine);
    for names in kernels.into_values().filter(|names| names.len() > 1) {
        ward.find(Finding::of(Check::SameMachine, format!("{} run on one kernel", listed(names))));
    }
}

fn told(facts: &Facts) -> impl Iterator<Item = (&MemberFacts, &HostFacts)> {
    facts.members.iter().filter_map(|member| Some((member, member.host_facts()?)))
}

fn servers(facts: &Facts) -> impl Iterator<Item = (&MemberFacts, &PostgresFacts)> {
    facts.members.iter().filter_map(|member| Some((member, member.postgres()?)))
}

/// `1.2 on db1, db2; 1.3 on db3`, if there is more than one.
fn different<'a>(each: impl Iterator<Item = (&'a str, String)>) -> Option<String> {
    let mut by_value: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for (member, value) in each {
        by_value.entry(value).or_default().insert(member);
    }
    let shown =
        by_value.iter().map(|(value, members)| format!("{value} on {}", listed(members.iter().copied())));
    (by_value.len() > 1).then(|| shown.collect::<Vec<_>>().join("; "))
}

fn versions(facts: &Facts, ward: &mut Ward) {
    let agents = told(facts).map(|(member, host)| (member.name.as_str(), host.agent.clone()));
    let found = different(agents).map(|measured| Finding::of(Check::VersionsAgents, measured));
    ward.check(Check::VersionsAgents, found);
    let postgres = servers(facts).map(|(member, server)| {
        (member.name.as_str(), format!("{}.{}", server.version / 10_000, server.version % 10_000))
    });
    let found = different(postgres).map(|measured| Finding::of(Check::VersionsPostgres, measured));
    ward.check(Check::VersionsPostgres, found);
}

/// Only a library that something is sorted by matters.
fn collations(facts: &Facts, ward: &mut Ward) {
    ward.made(Check::CollationsDiffer);
    let by_libc = servers(facts).any(|(_, server)| server.sorts_by_libc);
    let by_icu = servers(facts).any(|(_, server)| server.sorts_by_icu);
    let libc = |member: &MemberFacts| {
        let seen = member.postgres().and_then(|server| server.libc_collation.clone());
        seen.or_else(|| member.host_facts()?.libc.clone())
    };
    let each = facts
        .members
        .iter()
        .filter_map(|member| Some((member.name.as_str(), format!("glibc {}", libc(member)?))));
    if let Some(measured) = different(each).filter(|_| by_libc) {
        ward.find(Finding::of(Check::CollationsDiffer, measured));
    }
    let each = servers(facts).filter_map(|(member, server)| {
        Some((member.name.as_str(), format!("ICU collation {}", server.icu_collation.as_ref()?)))
    });
    if let Some(measured) = different(each).filter(|_| by_icu) {
        ward.find(Finding::of(Check::CollationsDiffer, measured));
    }
}

/// What the store and the clocks say of one member.
fn standing(facts: &Facts, member: &MemberFacts, ward: &mut Ward) {
    let name = member.name.as_str();
    if let Some(clock) = member.clock {
        let apart = clock.ahead_ms.unsigned_abs().saturating_sub(clock.within_ms);
        let side = if clock.ahead_ms < 0 { "behind" } else { "ahead of" };
        let measured = || {
            format!(
                "{} ms {side} the clock here, give or take {} ms",
                clock.ahead_ms.unsigned_abs(),
                clock.within_ms
            )
        };
        let found = (APART_MS < apart).then(|| Finding::of(Check::ClocksApart, measured()).about(name));
        ward.check(Check::ClocksApart, found);
    }
    let leads = Some(&member.name) == facts.leader.as_ref();
    if let Some(state) = &member.state {
        // Agents that are silent have been told of already.
        let matters = facts.leader.is_some() && !leads && !matches!(member.told, Err(Untold::Silent(_)));
        let found = (matters && state != "streaming")
            .then(|| Finding::of(Check::NotStreaming, format!("its state is {state}")).about(name));
        ward.check(Check::NotStreaming, found);
    }
    let pending = member.pending_restart.then(|| {
        let remedy = format!("`tenurectl restart {} {name} --pending`", facts.scope);
        Finding::of(Check::PendingRestart, "by its own word in the store").about(name).mend(remedy)
    });
    ward.check(Check::PendingRestart, pending);
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{finds, finds_nothing, host, server};
    use super::super::{Clock, Untold};
    use super::*;

    #[test]
    fn who_tells_nothing_is_told_of() {
        let silent = |facts: &mut Facts| facts.members[1].told = Err(Untold::Silent("no answer".to_owned()));
        finds(silent, &[(Check::MemberSilent, "db2", "no answer")]);
        finds(|facts| facts.members[1].told = Err(Untold::NotOurs), &[(Check::NotOurs, "db2", "Patroni")]);
        let older = |facts: &mut Facts| facts.members[1].told = Err(Untold::Older("404".to_owned()));
        finds(older, &[(Check::MemberOlder, "db2", "404")]);
        let partly = |facts: &mut Facts| {
            host(facts, 1).unknown.insert("files".to_owned(), "not read in time".to_owned());
        };
        finds(partly, &[(Check::HostUnknown, "db2", "files: not read in time")]);
    }

    #[test]
    fn somebody_must_be_able_to_take_over() {
        finds(|facts| facts.leader = None, &[(Check::NoLeader, "", "names no leader")]);
        let barred = |facts: &mut Facts| {
            facts.members[1].may_lead = false;
            facts.members[2].may_lead = false;
        };
        finds(barred, &[(Check::NobodyTakesOver, "", "3 members")]);
        finds_nothing(|facts| facts.members[1].may_lead = false);
    }

    #[test]
    fn members_should_be_alike_and_apart() {
        finds(
            |facts| host(facts, 2).agent = "0.2.0".to_owned(),
            &[(Check::VersionsAgents, "", "0.1.0 on db1, db2; 0.2.0 on db3")],
        );
        finds(|facts| server(facts, 2).version = 150_019, &[(Check::VersionsPostgres, "", "15.19 on db3")]);
        finds(
            |facts| host(facts, 2).boot_id = Some("boot 1".to_owned()),
            &[(Check::SameMachine, "", "db1, db3 run on one kernel")],
        );
        let other = |facts: &mut Facts| server(facts, 2).libc_collation = Some("2.28".to_owned());
        finds(other, &[(Check::CollationsDiffer, "", "glibc 2.28 on db3; glibc 2.36 on db1, db2")]);
        finds_nothing(|facts| {
            other(facts);
            (0..3).for_each(|member| server(facts, member).sorts_by_libc = false);
        });
        let icu = |facts: &mut Facts| {
            server(facts, 0).sorts_by_icu = true;
            server(facts, 0).icu_collation = Some("153.120".to_owned());
            server(facts, 1).icu_collation = Some("153.121".to_owned());
        };
        finds(icu, &[(Check::CollationsDiffer, "", "ICU collation 153.120 on db1")]);
    }

    #[test]
    fn clocks_are_compared_within_what_the_question_took() {
        let clock = |ahead_ms, within_ms| {
            move |facts: &mut Facts| facts.members[1].clock = Some(Clock { ahead_ms, within_ms })
        };
        finds(clock(-2_500, 10), &[(Check::ClocksApart, "db2", "2500 ms behind the clock here")]);
        finds_nothing(clock(2_500, 1_600));
        finds_nothing(clock(900, 0));
    }

    #[test]
    fn what_a_member_says_of_itself_counts() {
        finds(
            |facts| facts.members[1].state = Some("running".to_owned()),
            &[(Check::NotStreaming, "db2", "its state is running")],
        );
        finds_nothing(|facts| facts.members[0].state = Some("running".to_owned()));
        finds(
            |facts| facts.members[1].pending_restart = true,
            &[(Check::PendingRestart, "db2", "by its own word")],
        );
        finds(|facts| facts.paused = true, &[(Check::Paused, "", "maintenance mode is on")]);
    }
}
