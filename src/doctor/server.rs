//! One PostgreSQL: durability, replication, what it keeps and where that goes.

use super::{Check, Facts, Finding, MemberFacts, PostgresFacts, SlotFacts, Ward, bytes, listed, roughly};
use crate::model::Span;

/// An hour to bring a standby back is little.
const AWAY_AT_LEAST: Span = Span::from_secs(3_600);
/// A slot that nobody reads may keep this much before anybody is told.
const RETAINED_MAX: u64 = 1 << 30;

pub fn examine(facts: &Facts, member: &MemberFacts, ward: &mut Ward) {
    let Some(host) = member.host_facts() else { return };
    let name = member.name.as_str();
    let Some(server) = &host.postgres else {
        let why = host.unknown.get("PostgreSQL").cloned().unwrap_or_else(|| "it does not run".to_owned());
        return ward.find(Finding::of(Check::PostgresUnknown, why).about(name));
    };
    ward.made(Check::PostgresUnknown);
    durability(facts, server, name, ward);
    replication(facts, server, name, ward);
    kept(facts, member, server, ward);
    let stale = listed(server.stale_collations.iter().map(String::as_str));
    ward.check(
        Check::CollationStale,
        (!stale.is_empty()).then(|| Finding::of(Check::CollationStale, stale).about(name)),
    );
}

fn durability(facts: &Facts, server: &PostgresFacts, name: &str, ward: &mut Ward) {
    let off: Vec<&str> =
        ["fsync", "full_page_writes"].into_iter().filter(|name| server.is_off(name)).collect();
    ward.check(
        Check::DurabilityOff,
        (!off.is_empty())
            .then(|| Finding::of(Check::DurabilityOff, format!("off: {}", listed(off))).about(name)),
    );
    let level = server.setting("synchronous_commit").unwrap_or("on");
    let waits_not = facts.synchronous && matches!(level, "off" | "local");
    let measured = || format!("synchronous_commit is {level}");
    ward.check(
        Check::CommitsDoNotWait,
        waits_not.then(|| Finding::of(Check::CommitsDoNotWait, measured()).about(name)),
    );
    let lowered = listed(server.lowered_commits.iter().map(String::as_str));
    let without_promise = facts.synchronous && !lowered.is_empty();
    ward.check(
        Check::SessionsDoNotWait,
        without_promise.then(|| Finding::of(Check::SessionsDoNotWait, lowered.clone()).about(name)),
    );
    let unsummed = server.is_off("data_checksums");
    ward.check(
        Check::ChecksumsOff,
        unsummed.then(|| Finding::of(Check::ChecksumsOff, "data_checksums is off").about(name)),
    );
    let unhinted = unsummed && server.is_off("wal_log_hints");
    ward.check(
        Check::CannotRewind,
        unhinted.then(|| {
            Finding::of(Check::CannotRewind, "neither data_checksums nor wal_log_hints").about(name)
        }),
    );
}

fn replication(facts: &Facts, server: &PostgresFacts, name: &str, ward: &mut Ward) {
    let others = i64::try_from(facts.members.len().saturating_sub(1)).unwrap_or(i64::MAX);
    let mut enough = |check, setting: &str, needed: i64| {
        if let Some(number) = server.number(setting) {
            let measured = || format!("{setting} is {number}; {others} other members need {needed}");
            ward.check(check, (number < needed).then(|| Finding::of(check, measured()).about(name)));
        }
    };
    // pg_basebackup takes two.
    enough(Check::SendersFew, "max_wal_senders", others.saturating_add(2));
    enough(Check::SlotsFew, "max_replication_slots", others);
    let endless: Vec<&str> = ["wal_sender_timeout", "wal_receiver_timeout"]
        .into_iter()
        .filter(|setting| server.number(setting) == Some(0))
        .collect();
    let found = (!endless.is_empty())
        .then(|| Finding::of(Check::NeverNoticesLoss, format!("0: {}", listed(endless))).about(name));
    ward.check(Check::NeverNoticesLoss, found);
}

fn kept(facts: &Facts, member: &MemberFacts, server: &PostgresFacts, ward: &mut Ward) {
    let name = member.name.as_str();
    ward.made(Check::SlotLost);
    ward.made(Check::SlotRetains);
    for SlotFacts { name: slot, active, lost, retained_bytes } in &server.slots {
        if *lost {
            ward.find(Finding::of(Check::SlotLost, format!("the slot {slot}")).about(name));
        } else if let Some(retained) = retained_bytes.filter(|retained| !active && RETAINED_MAX < *retained) {
            let measured = format!("the slot {slot}, which nobody reads, keeps {}", bytes(retained));
            ward.find(Finding::of(Check::SlotRetains, measured).about(name));
        }
    }
    let archive = if server.archives_nowhere {
        Some("archive_mode is on, and no archive_command or archive_library says where to".to_owned())
    } else {
        server.archive_fails_at.as_ref().map(|segment| format!("{segment} could not be archived"))
    };
    ward.check(
        Check::ArchiveFails,
        archive.map(|measured| Finding::of(Check::ArchiveFails, measured).about(name)),
    );
    // Members' slots keep what their members need.
    let slots = member.view.as_ref().is_ok_and(|view| view.policy.slots.use_slots);
    if slots || Some(&member.name) != facts.leader.as_ref() {
        return;
    }
    let (Some(megabytes), Some(rate)) = (server.number("wal_keep_size"), server.wal_bytes_per_hour) else {
        return;
    };
    let keeps = u64::try_from(megabytes).unwrap_or(0) << 20;
    let lasts = u128::from(keeps) * 3_600 / u128::from(rate.max(1));
    let lasts = Span::from_secs(u64::try_from(lasts).unwrap_or(u64::MAX));
    let measured = || {
        format!(
            "wal_keep_size is {}, {} of WAL an hour on the average: {}",
            bytes(keeps),
            bytes(rate),
            roughly(lasts)
        )
    };
    ward.check(
        Check::KeepsLittleWal,
        (lasts < AWAY_AT_LEAST).then(|| Finding::of(Check::KeepsLittleWal, measured()).about(name)),
    );
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{finds, finds_nothing, host, server, view};
    use super::*;

    fn set(facts: &mut Facts, member: usize, name: &str, value: &str) {
        server(facts, member).settings.insert(name.to_owned(), value.to_owned());
    }

    #[test]
    fn a_server_that_could_not_be_asked_is_not_known() {
        let silent = |facts: &mut Facts| {
            host(facts, 1).postgres = None;
            host(facts, 1).unknown.insert("PostgreSQL".to_owned(), "no answer within 3 s".to_owned());
        };
        finds(silent, &[(Check::PostgresUnknown, "db2", "no answer within 3 s")]);
    }

    #[test]
    fn durability_is_not_for_sale() {
        finds(|facts| set(facts, 0, "fsync", "off"), &[(Check::DurabilityOff, "db1", "off: fsync")]);
        finds(|facts| set(facts, 0, "data_checksums", "off"), &[(Check::ChecksumsOff, "db1", "is off")]);
        let neither = |facts: &mut Facts| {
            set(facts, 0, "data_checksums", "off");
            set(facts, 0, "wal_log_hints", "off");
        };
        finds(neither, &[(Check::ChecksumsOff, "db1", ""), (Check::CannotRewind, "db1", "neither")]);
        finds_nothing(|facts| set(facts, 0, "synchronous_commit", "local"));
        let local = |facts: &mut Facts| {
            facts.synchronous = true;
            set(facts, 0, "synchronous_commit", "local");
        };
        finds(local, &[(Check::CommitsDoNotWait, "db1", "synchronous_commit is local")]);
        let role = |facts: &mut Facts| {
            server(facts, 0).lowered_commits =
                vec!["role app in database shop: synchronous_commit=off".to_owned()];
        };
        finds_nothing(role);
        let promised = |facts: &mut Facts| {
            facts.synchronous = true;
            role(facts);
        };
        finds(promised, &[(Check::SessionsDoNotWait, "db1", "role app in database shop")]);
    }

    #[test]
    fn there_is_room_for_every_other_member() {
        finds(
            |facts| set(facts, 1, "max_wal_senders", "3"),
            &[(Check::SendersFew, "db2", "is 3; 2 other members need 4")],
        );
        finds_nothing(|facts| set(facts, 1, "max_wal_senders", "4"));
        finds(
            |facts| set(facts, 1, "max_replication_slots", "1"),
            &[(Check::SlotsFew, "db2", "is 1; 2 other members need 2")],
        );
        finds(
            |facts| set(facts, 1, "wal_sender_timeout", "0"),
            &[(Check::NeverNoticesLoss, "db2", "0: wal_sender_timeout")],
        );
    }

    #[test]
    fn what_is_kept_has_an_end() {
        let slot = |active, lost, retained| {
            move |facts: &mut Facts| {
                let slot = SlotFacts { name: "old".to_owned(), active, lost, retained_bytes: Some(retained) };
                server(facts, 0).slots = vec![slot];
            }
        };
        finds(
            slot(false, false, 2 << 30),
            &[(Check::SlotRetains, "db1", "the slot old, which nobody reads, keeps 2.0 GB")],
        );
        finds_nothing(slot(true, false, 2 << 30));
        finds_nothing(slot(false, false, 1 << 20));
        finds(slot(false, true, 0), &[(Check::SlotLost, "db1", "the slot old")]);
        let failing = |facts: &mut Facts| {
            server(facts, 0).archive_fails_at = Some("000000010000000000000007".to_owned());
        };
        finds(failing, &[(Check::ArchiveFails, "db1", "000000010000000000000007 could not")]);
        finds(
            |facts| server(facts, 0).archives_nowhere = true,
            &[(Check::ArchiveFails, "db1", "no archive_command")],
        );
        finds(
            |facts| server(facts, 0).stale_collations.push("database app".to_owned()),
            &[(Check::CollationStale, "db1", "database app")],
        );
    }

    #[test]
    fn without_slots_wal_must_last_until_a_standby_is_back() {
        let slotless = |facts: &mut Facts| {
            view(facts, 0).policy.slots.use_slots = false;
            server(facts, 0).wal_bytes_per_hour = Some(1 << 30);
        };
        finds(
            slotless,
            &[(
                Check::KeepsLittleWal,
                "db1",
                "wal_keep_size is 128.0 MB, 1.0 GB of WAL an hour on the average: 7 minutes",
            )],
        );
        finds_nothing(|facts| server(facts, 0).wal_bytes_per_hour = Some(1 << 30));
    }
}
