//! What foresight says, in text and as a document: what `tenurectl explain --if` prints and what the web page shows.

use std::fmt::Write;

use serde_json::{Value, json};

use super::asked::Asked;
use super::foresight::{
    Foreseen, Phase, Switch, Takes, Unforeseen, WithoutStore, primary_lost, store_lost, switchover,
};
use crate::model::{MemberName, Moment, Reason, Rule, Span};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhatIf {
    PrimaryLost,
    StoreLost,
    Switchover(MemberName),
}

impl std::str::FromStr for WhatIf {
    type Err = String;

    fn from_str(text: &str) -> Result<WhatIf, String> {
        match text.split_once('=') {
            None if text == "primary-lost" => Ok(WhatIf::PrimaryLost),
            None if text == "store-lost" => Ok(WhatIf::StoreLost),
            Some(("switchover", name)) => {
                name.parse().map(WhatIf::Switchover).map_err(|error| format!("{error}"))
            }
            Some(_) | None => Err("it is primary-lost, store-lost or switchover=MEMBER".to_owned()),
        }
    }
}

/// Spells a time of a wall clock, in milliseconds since 1970.
pub type Spell<'a> = &'a dyn Fn(u64) -> String;

pub fn told(asked: &Asked, what: &WhatIf, spell: Spell) -> Result<(String, Value), Unforeseen> {
    let live = asked.live();
    let (text, document) = match what {
        WhatIf::PrimaryLost => {
            let foreseen = primary_lost(&live)?;
            (lost(asked, &foreseen, spell), lost_document(asked, &foreseen, spell))
        }
        WhatIf::StoreLost => {
            let foreseen = store_lost(&live)?;
            (without_store(&foreseen), without_store_document(&foreseen))
        }
        WhatIf::Switchover(to) => {
            let foreseen = switchover(&live, to)?;
            (switch(&foreseen), switch_document(&foreseen))
        }
    };
    Ok(with_the_unknown(asked, text, document))
}

/// Of whom nothing is known, nothing is foreseen.
pub fn with_the_unknown(asked: &Asked, mut text: String, mut document: Value) -> (String, Value) {
    for (name, why) in &asked.gone {
        let _ = writeln!(text, "  not known: what {name} would do ({why})");
    }
    for (name, why) in &asked.silent {
        let _ = writeln!(text, "  not known: what {name} would do ({why}); it counts as silent");
    }
    document["unknown"] =
        asked.unknown().map(|(name, why)| (name.to_string(), Value::from(why.clone()))).collect();
    (text, document)
}

fn reasoned(reason: &Reason) -> String {
    format!("{}: {reason}", reason.rule.code())
}

fn reason_document(reason: &Reason) -> Value {
    json!({"rule": reason.rule, "sentence": reason.to_string()})
}

// The primary's host is lost.

fn lost(asked: &Asked, foreseen: &Foreseen, spell: Spell) -> String {
    let mut text = format!("If the host of {} were lost now:\n", foreseen.leader);
    let takers: Vec<&str> = foreseen.takes.iter().map(|takes| takes.member.as_str()).collect();
    match takers[..] {
        [] => text += "  nobody would take over\n",
        [one] => {
            let _ = writeln!(text, "  {one} would take over");
        }
        _ => {
            let _ = writeln!(
                text,
                "  {} are equal: whoever reaches the store first takes over",
                takers.join(" and ")
            );
        }
    }
    for takes in &foreseen.takes {
        let Takes { member, reason, takeover, then, promotes } = takes;
        let _ = writeln!(text, "  {member}: {}, for timeline {}", reasoned(reason), takeover.timeline);
        for reason in then {
            let _ = writeln!(text, "    then: {}", reasoned(reason));
        }
        if !promotes {
            text += "    what follows then is not foreseen\n";
        }
        let _ = writeln!(text, "    could be lost: {}", loss(asked, takes, spell));
    }
    for (member, reason) in foreseen.members.iter().filter(|(name, _)| !takers.contains(&name.as_str())) {
        let _ = writeln!(text, "  {member}: {}", reasoned(reason));
    }
    if takers.is_empty() {
        return text;
    }
    let may = |rule| matches!(rule, Rule::CandidateTakes | Rule::CandidateYields | Rule::CandidateLacksVotes);
    if 1 < foreseen.members.values().filter(|reason| may(reason.rule)).count() {
        text += "  that is by what their WAL holds now: whoever is further when the lease ends goes first\n";
    }
    let _ = writeln!(text, "  until somebody holds the lease: {}", total(&foreseen.phases));
    text += &phases(&foreseen.phases);
    text += "  then the guardian confirms and PostgreSQL is promoted, which no rule can know the length of\n";
    text
}

fn loss(asked: &Asked, takes: &Takes, spell: Spell) -> String {
    let spelled = |moment: Moment| match asked.accounts.get(&takes.member) {
        Some(account) => spell(account.unix_ms.saturating_sub(account.moment.since(moment).as_ms())),
        None => "a time that is not known".to_owned(),
    };
    takes.takeover.loss.told(spelled)
}

pub fn sum(phases: &[Phase]) -> (Span, Span) {
    phases
        .iter()
        .fold((Span::ZERO, Span::ZERO), |(best, worst), phase| (best + phase.best, worst + phase.worst))
}

pub fn total(phases: &[Phase]) -> String {
    let (best, worst) = sum(phases);
    format!("at best {best}, at worst {worst}")
}

pub fn phases(all: &[Phase]) -> String {
    let mut text = String::new();
    for Phase { what, best, worst, why } in all {
        let _ = writeln!(text, "    {what:22}  {best} to {worst}: {why}");
    }
    text
}

pub fn phase_documents(phases: &[Phase]) -> Vec<Value> {
    let document = |phase: &Phase| json!({"what": phase.what, "best_ms": phase.best.as_ms(), "worst_ms": phase.worst.as_ms(), "why": phase.why});
    phases.iter().map(document).collect()
}

fn lost_document(asked: &Asked, foreseen: &Foreseen, spell: Spell) -> Value {
    let takes = |takes: &Takes| {
        json!({
            "member": takes.member,
            "timeline": takes.takeover.timeline,
            "reason": reason_document(&takes.reason),
            "then": takes.then.iter().map(reason_document).collect::<Vec<_>>(),
            "promotes": takes.promotes,
            "loss": loss(asked, takes, spell),
            "loss_ms_max": takes.takeover.loss.span_max().map(Span::as_ms),
            "loss_bytes_max": takes.takeover.loss.bytes_max().map(|bytes| bytes.0),
        })
    };
    let members: serde_json::Map<String, Value> =
        foreseen.members.iter().map(|(name, reason)| (name.to_string(), reason_document(reason))).collect();
    let (best, worst) = sum(&foreseen.phases);
    json!({
        "if": "primary-lost",
        "leader": foreseen.leader,
        "takes": foreseen.takes.iter().map(takes).collect::<Vec<_>>(),
        "members": members,
        "lease_taken_ms": {"best": best.as_ms(), "worst": worst.as_ms()},
        "phases": phase_documents(&foreseen.phases),
    })
}

// The store is lost.

fn without_store(foreseen: &WithoutStore) -> String {
    let WithoutStore { leader, at_once, consents, at_the_end, until, others } = foreseen;
    let mut text = format!("If the store answered nobody from now on:\n  {leader}: {}\n", reasoned(at_once));
    if let Some(consents) = consents {
        for (member, agrees) in consents {
            let _ = writeln!(
                text,
                "    {member} {} (failsafe mode)",
                if *agrees { "would agree" } else { "would not agree" }
            );
        }
    }
    match at_the_end {
        None => {
            let _ = writeln!(text, "  {leader} leads on for as long as everybody agrees");
        }
        Some(reason) => {
            let _ =
                writeln!(text, "  after {} to {}, {leader}: {}", until.best, until.worst, reasoned(reason));
            let _ = writeln!(text, "    {}", until.why);
            text += "  nobody can take over without the store\n";
        }
    }
    for (member, reason) in others {
        let _ = writeln!(text, "  {member}: {}", reasoned(reason));
    }
    text
}

fn without_store_document(foreseen: &WithoutStore) -> Value {
    let others: serde_json::Map<String, Value> =
        foreseen.others.iter().map(|(name, reason)| (name.to_string(), reason_document(reason))).collect();
    json!({
        "if": "store-lost",
        "leader": foreseen.leader,
        "at_once": reason_document(&foreseen.at_once),
        "consents": foreseen.consents,
        "at_the_end": foreseen.at_the_end.as_ref().map(reason_document),
        "leads_on": foreseen.at_the_end.is_none(),
        "phases": phase_documents(std::slice::from_ref(&foreseen.until)),
        "members": others,
    })
}

// A switchover.

fn switch(foreseen: &Switch) -> String {
    let Switch { leader, reason, to, obstacles } = foreseen;
    let mut text = format!("If {leader} were asked to hand over:\n  {leader}: {}\n", reasoned(reason));
    match to {
        Some(to) => {
            let _ = writeln!(
                text,
                "  it would stop PostgreSQL in good order, and {to} would lead; nothing is lost"
            );
        }
        None => text += "  it would not hand over\n",
    }
    for (member, obstacle) in obstacles {
        let _ = match obstacle {
            Some(obstacle) => writeln!(text, "  {member}: {obstacle}"),
            None => writeln!(text, "  {member}: nothing speaks against it"),
        };
    }
    text
}

fn switch_document(foreseen: &Switch) -> Value {
    let obstacles: serde_json::Map<String, Value> = (foreseen.obstacles.iter())
        .map(|(name, obstacle)| (name.to_string(), obstacle.map(|obstacle| obstacle.to_string()).into()))
        .collect();
    json!({
        "if": "switchover",
        "leader": foreseen.leader,
        "reason": reason_document(&foreseen.reason),
        "to": foreseen.to,
        "obstacles": obstacles,
    })
}
