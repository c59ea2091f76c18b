//! `explain --if`: what `decide::foretold` says, and what another ttl would change, for which the store is asked what it grants.

use std::fmt::Write;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::explain::Supposed;
use super::time;
use super::timing::complaints;
use crate::decide::asked::Asked;
use crate::decide::foresight::{Foreseen, primary_lost};
use crate::decide::foretold::{self, phase_documents, phases, sum, total, with_the_unknown};
use crate::model::{Moment, Span, Timing};
use crate::store::Store;

pub async fn told(
    store: &Store,
    patience: Duration,
    asked: &Asked,
    what: &Supposed,
) -> Result<(String, Value)> {
    let ttl = match what {
        Supposed::Fault(what) => return Ok(foretold::told(asked, what, &time::told)?),
        Supposed::Ttl(ttl) => *ttl,
    };
    let live = asked.live();
    let limits = store.session_limits(patience).await.context("ask the store for its leases")?;
    let raised = ttl.max(store.ttl_min());
    let timing = Timing::for_ttl(raised);
    let mut complaints = complaints(ttl, store, limits);
    let refused = timing.check().err();
    complaints.extend(refused.map(|error| format!("it is refused unless unsafe_timing is set: {error}")));
    // The store holds a lease for at least as long as it can.
    let lasts = Timing { ttl: limits.granted(raised).max(raised), ..timing };
    let (now, then) = (primary_lost(&live)?, primary_lost(&live.with_timing(lasts))?);
    let text = other_ttl(ttl, &now, &then, timing, &complaints);
    Ok(with_the_unknown(asked, text, ttl_document(&now, &then, timing, &complaints)))
}

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
