//! Rows that are missing, held against what the new leader said that its promotion could cost. Pure.

use super::ledger::{Ack, Gap};
use crate::model::Loss;
use crate::recorder::timeline::{Kind, Story};

/// What the last change of the leader could cost.
pub fn loss_of(story: &Story) -> Option<Loss> {
    let change = story.changes.last().filter(|change| change.kind != Kind::First)?;
    let takeovers = story.entries.iter().filter_map(|told| told.entry.evidence.takeover);
    takeovers
        .filter(|takeover| takeover.timeline == change.timeline)
        .map(|takeover| takeover.loss)
        .next_back()
}

/// What is missing, held against what the new leader has said.
pub fn compare(missing: &[Ack], gap: Option<&Gap>, loss: Option<Loss>) -> String {
    let Some(loss) = loss else {
        return "no change of the leader explains it; somebody has removed them, or PostgreSQL has lost what it acknowledged".to_owned();
    };
    let bound = match loss {
        Loss::Nothing(_) => {
            return "the new leader had said that nothing is lost: this must not be".to_owned();
        }
        Loss::AtMost(bytes) => {
            return format!(
                "the new leader had said that at most {bytes} are lost, which rows cannot be held against"
            );
        }
        Loss::NotKnown => return "how much could be lost was not known".to_owned(),
        Loss::Within { since, until, .. } => until.since(since),
    };
    // As old as the oldest of them was when the old primary last acknowledged anything.
    let last = gap.and_then(|gap| gap.last).map(|ack| ack.answered);
    let oldest = missing.iter().map(|ack| ack.sent).min();
    let Some(age) = last.zip(oldest).map(|(last, oldest)| last.since(oldest)) else {
        return format!("the new leader had said that at most the last {bound} are lost");
    };
    if age <= bound {
        format!(
            "they are of the last {age}, and the new leader had said that at most the last {bound} are lost"
        )
    } else {
        format!(
            "they are of the last {age}, and the new leader had said that no more than the last {bound} are lost: this must not be"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Lag, Moment, Proof, Span};

    #[test]
    fn what_is_missing_is_held_against_what_the_new_leader_has_said() {
        let at = Moment::from_ms;
        let ack = Ack { row: 2, sent: at(1_018), answered: at(1_020) };
        let gap = Gap { last: Some(ack), first: None, span: Span::from_ms(1_500) };
        let missing = [ack];
        let within = |ms: u64| Loss::Within { since: at(5_000 - ms), until: at(5_000), known: None };
        for (loss, wanted) in [
            (None, "no change of the leader explains it"),
            (Some(Loss::Nothing(Proof::Synchronous)), "this must not be"),
            (Some(within(2)), "they are of the last 2 ms, and the new leader had said that at most"),
            (Some(within(1)), "this must not be"),
            (Some(Loss::AtMost(Lag(7))), "rows cannot be held against"),
            (Some(Loss::NotKnown), "was not known"),
        ] {
            let said = compare(&missing, Some(&gap), loss);
            assert!(said.contains(wanted), "{loss:?}: {said}");
        }
    }
}
