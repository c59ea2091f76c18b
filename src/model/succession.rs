//! How one leader followed another, in short. It is the key `successions`, which the new leader writes: what is left to read when the
//! machines, and the flight recorders on them, are gone. No rule looks at it, and Patroni and its tools pass it over.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{MemberName, Timeline};

/// Older ones are forgotten.
pub const SUCCESSIONS_MAX: usize = 20;
/// All of them together.
const BYTES_MAX: usize = 24 << 10;
const STAGES_MAX: usize = 16;
const SENTENCE_CHARACTERS_MAX: usize = 200;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Succession {
    /// That the new leader writes on.
    pub timeline: Timeline,
    /// In words: `failover`, `switchover` …
    pub kind: String,
    /// Who asked for it, if somebody did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<MemberName>,
    pub to: MemberName,
    /// When it began: ISO 8601, by the wall clock of who wrote it.
    pub at: String,
    pub stages: Vec<SuccessionStage>,
    /// What is lost by it, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<String>,
    /// What a newer version may have added.
    #[serde(flatten)]
    pub others: Map<String, Value>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SuccessionStage {
    pub stage: String,
    /// Since the beginning.
    pub after_ms: u64,
    pub member: MemberName,
    pub sentence: String,
}

/// The whole key with one more at its end; nothing if that timeline is there already. What is not understood is left out: only who writes
/// the key anew forgets it.
pub fn with_succession(known: &[u8], new: &Succession) -> Option<Vec<Succession>> {
    let mut all = successions(known);
    if all.iter().any(|succession| succession.timeline == new.timeline && succession.to == new.to) {
        return None;
    }
    all.push(new.bounded());
    let surplus = all.len().saturating_sub(SUCCESSIONS_MAX);
    all.drain(..surplus);
    let length = |all: &[Succession]| serde_json::to_string(all).map_or(0, |text| text.len());
    while 1 < all.len() && BYTES_MAX < length(&all) {
        all.remove(0);
    }
    Some(all)
}

/// The oldest first. What is none is passed over.
pub fn successions(value: &[u8]) -> Vec<Succession> {
    let entries: Vec<Value> = serde_json::from_slice(value).unwrap_or_default();
    entries.into_iter().filter_map(|entry| serde_json::from_value(entry).ok()).collect()
}

impl Succession {
    fn bounded(&self) -> Succession {
        let mut bounded = self.clone();
        bounded.stages.truncate(STAGES_MAX);
        for stage in &mut bounded.stages {
            stage.sentence = stage.sentence.chars().take(SENTENCE_CHARACTERS_MAX).collect();
        }
        bounded.loss = bounded.loss.map(|loss| loss.chars().take(SENTENCE_CHARACTERS_MAX).collect());
        bounded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn succession(timeline: u32, sentence: &str) -> Succession {
        let member: MemberName = "oulu".parse().expect("a name");
        let stage = SuccessionStage {
            stage: "the lease is held".to_owned(),
            after_ms: 40,
            member: member.clone(),
            sentence: sentence.to_owned(),
        };
        Succession {
            timeline: Timeline(timeline),
            kind: "failover".to_owned(),
            by: None,
            from: None,
            to: member,
            at: "2026-11-22T08:00:00Z".to_owned(),
            stages: vec![stage; 20],
            loss: None,
            others: Map::new(),
        }
    }

    fn spelled(all: &[Succession]) -> Vec<u8> {
        serde_json::to_vec(all).expect("JSON")
    }

    #[test]
    fn each_is_kept_once_and_all_of_them_are_bounded() {
        let mut value = Vec::new();
        for timeline in 1..=60 {
            let all = with_succession(&value, &succession(timeline, &"x".repeat(900))).expect("a new one");
            value = spelled(&all);
            assert!(with_succession(&value, &succession(timeline, "again")).is_none());
        }
        let kept = successions(&value);
        assert!(
            value.len() <= BYTES_MAX && 2 < kept.len() && kept.len() <= SUCCESSIONS_MAX,
            "{}",
            kept.len()
        );
        assert_eq!(kept.last().map(|last| last.timeline), Some(Timeline(60)));
        let stages = &kept[0].stages;
        assert_eq!((stages.len(), stages[0].sentence.len()), (STAGES_MAX, SENTENCE_CHARACTERS_MAX));
        let short: Vec<u8> = (1..=60).fold(Vec::new(), |value, timeline| {
            let one = Succession { stages: Vec::new(), ..succession(timeline, "") };
            spelled(&with_succession(&value, &one).expect("a new one"))
        });
        assert_eq!(successions(&short).len(), SUCCESSIONS_MAX);
    }

    #[test]
    fn what_nobody_understands_is_passed_over_and_what_is_only_new_is_kept() {
        for odd in ["", "7", "{}", "[7]", r#"[{"timeline":"x"}]"#] {
            assert_eq!(successions(odd.as_bytes()), [], "{odd}");
            assert_eq!(
                with_succession(odd.as_bytes(), &succession(2, "")).map(|all| all.len()),
                Some(1),
                "{odd}"
            );
        }
        let newer = r#"[{"timeline":2,"kind":"x","to":"oulu","at":"","stages":[],"colour":"red"}]"#;
        let all = with_succession(newer.as_bytes(), &succession(3, "")).expect("a new one");
        assert_eq!(all[0].others["colour"], "red");
    }
}
