//! `explain --if`: what `decide::foresight` says, in text and as a document.

use std::fmt::Write;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::explain::{Asked, WhatIf};
use super::time;
use super::timing::complaints;
use crate::decide::foresight::{
    Foreseen, Phase, Switch, Takes, WithoutStore, primary_lost, store_lost, switchover,
};
use crate::model::{Moment, Reason, Rule, Span, Timing};
use crate::store::Store;

pub async fn told(
    store: &Store,
    patience: Duration,
    asked: &Asked,
    what: &WhatIf,
) -> Result<(String, Value)> {
    let live = asked.live();
    let (mut text, mut document) = match what {
        WhatIf::PrimaryLost => {
            let foreseen = primary_lost(&live)?;
            (lost(asked, &foreseen), lost_document(asked, &foreseen))
        }
        WhatIf::StoreLost => {
            let foreseen = store_lost(&live)?;
            (without_store(&foreseen), without_store_document(&foreseen))
        }
        WhatIf::Switchover(to) => {
            let foreseen = switchover(&live, to)?;
            (switch(&foreseen), switch_document(&foreseen))
        }
        WhatIf::Ttl(ttl) => {
            let limits = store.session_limits(patience).await.context("ask the store for its leases")?;
            let raised = (*ttl).max(store.ttl_min());
            let timing = Timing::for_ttl(raised);
            let mut complaints = complaints(*ttl, store, limits);
            complaints.extend(
                timing
                    .check()
                    .err()
                    .map(|error| format!("it is refused unless unsafe_timing is set: {error}")),
            );
            // The store holds a lease for at least as long as it can.
            let lasts = Timing { ttl: limits.granted(raised).max(raised), ..timing };
            let (now, then) = (primary_lost(&live)?, primary_lost(&live.with_timing(lasts))?);
            (
                other_ttl(*ttl, &now, &then, timing, &complaints),
                ttl_document(&now, &then, timing, &complaints),
            )
        }
    };
    for (name, why) in &asked.gone {
        let _ = writeln!(text, "  not known: what {name} would do ({why})");
    }
    for (name, why) in &asked.silent {
        let _ = writeln!(text, "  not known: what {name} would do ({why}); it counts as silent");
    }
    document["unknown"] =
        asked.unknown().map(|(name, why)| (name.to_string(), Value::from(why.clone()))).collect();
    Ok((text, document))
}

fn reasoned(reason: &Reason) -> String {
    format!("{}: {reason}", reason.rule.code())
}

fn reason_document(reason: &Reason) -> Value {
    json!({"rule": reason.rule, "sentence": reason.to_string()})
}

// The primary's host is lost.

fn lost(asked: &Asked, foreseen: &Foreseen) -> String {
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
        let _ = writeln!(text, "    could be lost: {}", loss(asked, takes));
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

fn loss(asked: &Asked, takes: &Takes) -> String {
    let spell = |moment: Moment| {
        let Some(standing) = asked.standings.get(&takes.member) else {
            return "a time that is not known".to_owned();
        };
        time::told(standing.unix_ms.saturating_sub(standing.moment.since(moment).as_ms()))
    };
    takes.takeover.loss.told(spell)
}

fn sum(phases: &[Phase]) -> (Span, Span) {
    phases
        .iter()
        .fold((Span::ZERO, Span::ZERO), |(best, worst), phase| (best + phase.best, worst + phase.worst))
}

fn total(phases: &[Phase]) -> String {
    let (best, worst) = sum(phases);
    format!("at best {best}, at worst {worst}")
}

fn phases(all: &[Phase]) -> String {
    let mut text = String::new();
    for Phase { what, best, worst, why } in all {
        let _ = writeln!(text, "    {what:22}  {best} to {worst}: {why}");
    }
    text
}

fn phase_documents(phases: &[Phase]) -> Vec<Value> {
    let document = |phase: &Phase| json!({"what": phase.what, "best_ms": phase.best.as_ms(), "worst_ms": phase.worst.as_ms(), "why": phase.why});
    phases.iter().map(document).collect()
}

fn lost_document(asked: &Asked, foreseen: &Foreseen) -> Value {
    let takes = |takes: &Takes| {
        json!({
            "member": takes.member,
            "timeline": takes.takeover.timeline,
            "reason": reason_document(&takes.reason),
            "then": takes.then.iter().map(reason_document).collect::<Vec<_>>(),
            "promotes": takes.promotes,
            "loss": loss(asked, takes),
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

// Another ttl.

fn other_ttl(ttl: Span, now: &Foreseen, then: &Foreseen, timing: Timing, complaints: &[String]) -> String {
    let mut text = format!("If ttl were {ttl}:\n");
    for complaint in complaints {
        let _ = writeln!(text, "  {complaint}");
    }
    let _ = writeln!(
        text,
        "  a lost primary's lease is taken after: {} (now {})",
        total(&then.phases),
        total(&now.phases)
    );
    text += &phases(&then.phases);
    let begin = Moment::default();
    let after = |moment: Moment| moment.since(begin);
    let _ = writeln!(
        text,
        "  a leader that cannot renew stops PostgreSQL {} after its last renewal, its guardian kills after {}",
        after(timing.demote_at(begin)),
        after(timing.fence_at(begin)),
    );
    let _ = writeln!(text, "  so much may go wrong in between: {} of missed renewals", timing.slack());
    text
}

fn ttl_document(now: &Foreseen, then: &Foreseen, timing: Timing, complaints: &[String]) -> Value {
    let spans = |foreseen: &Foreseen| {
        let (best, worst) = sum(&foreseen.phases);
        json!({"best": best.as_ms(), "worst": worst.as_ms()})
    };
    json!({
        "if": "ttl",
        "complaints": complaints,
        "lease_taken_ms": spans(then),
        "lease_taken_ms_now": spans(now),
        "phases": phase_documents(&then.phases),
        "timing": timing,
    })
}
