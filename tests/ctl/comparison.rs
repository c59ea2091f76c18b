//! Everything that can be asked over REST, asked of a member of Patroni's and of one of ours. A difference counts when it lasts and
//! does not stand in the table.

use std::collections::BTreeSet;

use tenure::clock;
use tenure::model::Span;

use crate::answers::{self, Asker, Question, differences};
use crate::deliberate::{DELIBERATE, fits};
use crate::side_by_side::{MEMBERS, SIDES};
use crate::support::lab::Lab;

/// A difference has to last for so many looks: clusters move on their own, and not in step.
const LOOKS: u32 = 24;
const BETWEEN_LOOKS: Span = Span::from_ms(250);

const HEALTH: &[&str] = &[
    "/",
    "/primary",
    "/master",
    "/read-write",
    "/leader",
    "/standby-leader",
    "/standby_leader",
    "/replica",
    "/replica?lag=10kB",
    "/replica?lag=1GB",
    "/replica?lag=nonsense",
    "/replica?tag_zone=second",
    "/replica?tag_zone=other",
    "/read-only",
    "/read-only?lag=10kB",
    "/read-only?tag_zone=second",
    "/health",
    "/health?tag_weight=1.5",
    "/sync",
    "/synchronous",
    "/quorum",
    "/async",
    "/asynchronous",
    "/async?lag=10kB",
    "/read-only-sync",
    "/read-only-synchronous",
    "/read-only-quorum",
    "/liveness",
    "/readiness",
    "/readiness?lag=10kB",
    "/readiness?lag=1GB",
    "/readiness?mode=write",
    "/nonsense",
    "/replica/deeper",
];
const INFORMATION: &[&str] =
    &["/patroni", "/patroni/deeper", "/cluster", "/history", "/config", "/failsafe", "/metrics"];
const CODE_ONLY: &[(&str, &str)] = &[
    ("HEAD", "/"),
    ("HEAD", "/replica"),
    ("HEAD", "/replica?lag=10kB"),
    ("HEAD", "/patroni"),
    ("HEAD", "/metrics"),
    ("HEAD", "/liveness"),
    ("OPTIONS", "/"),
    ("OPTIONS", "/primary"),
    ("OPTIONS", "/leader"),
    ("OPTIONS", "/read-only-sync"),
    ("OPTIONS", "/cluster"),
];
/// Nothing is changed by any of these.
const HARMLESS: &[(&str, &str, &[Option<&str>])] = &[
    (
        "PATCH",
        "/config",
        &[None, Some(""), Some("{}"), Some("[]"), Some("7"), Some("{nonsense"), Some("{\"ttl\": 20}")],
    ),
    ("PUT", "/config", &[None, Some(""), Some("{}"), Some("[]"), Some("{nonsense")]),
    (
        "POST",
        "/switchover",
        &[
            None,
            Some(""),
            Some("{}"),
            Some("[1]"),
            Some("{nonsense"),
            Some(r#"{"candidate": "second"}"#),
            Some(r#"{"leader": "second"}"#),
            Some(r#"{"leader": "first", "candidate": "first"}"#),
            Some(r#"{"leader": "first", "candidate": "nobody"}"#),
            Some(r#"{"leader": "first", "scheduled_at": "2100-01-01T10:00"}"#),
            Some(r#"{"leader": "first", "scheduled_at": "2000-01-01T10:00Z"}"#),
            Some(r#"{"leader": "first", "scheduled_at": "teatime"}"#),
        ],
    ),
    (
        "POST",
        "/failover",
        &[
            None,
            Some("{}"),
            Some(r#"{"candidate": "nobody"}"#),
            Some(r#"{"candidate": "second", "scheduled_at": "2100-01-01T10:00Z"}"#),
        ],
    ),
    ("DELETE", "/switchover", &[None, Some("{}")]),
    (
        "POST",
        "/restart",
        &[
            Some("[1]"),
            Some("{nonsense"),
            Some(r#"{"role": "any"}"#),
            Some(r#"{"postgres_version": "9.5.0"}"#),
            Some(r#"{"postgres_version": "x"}"#),
            Some(r#"{"postgres_version": "9.6"}"#),
            Some(r#"{"timeout": 0}"#),
            Some(r#"{"timeout": "soon"}"#),
            Some(r#"{"colour": 1}"#),
            Some(r#"{"schedule": "2100-01-01T10:00"}"#),
            Some(r#"{"schedule": "2000-01-01T10:00Z"}"#),
            Some(r#"{"schedule": "teatime"}"#),
        ],
    ),
    ("DELETE", "/restart", &[None]),
    ("POST", "/reload", &[None]),
    ("POST", "/sigterm", &[None]),
    ("POST", "/failsafe", &[None, Some("{}"), Some("{nonsense")]),
    ("POST", "/citus", &[None, Some("{}")]),
    ("POST", "/mpp", &[Some("{nonsense")]),
    ("POST", "/nonsense", &[None, Some("{}")]),
    ("PUT", "/", &[Some("{}")]),
    ("DELETE", "/config", &[None]),
    ("PATCH", "/patroni", &[Some("{}")]),
];
/// Nothing is changed by these on a leader. On a replica Patroni begins, also when it cannot read the body.
const HARMLESS_FOR_A_LEADER: &[Option<&str>] = &[None, Some("{}"), Some("[1]"), Some("{nonsense")];

/// Whatever only asks.
pub fn questions() -> Vec<Question> {
    let read = HEALTH.iter().chain(INFORMATION).map(|path| Question::new("GET", path));
    read.chain(CODE_ONLY.iter().map(|(method, path)| Question::new(method, path))).collect()
}

/// And whatever would change something if it were well meant.
pub fn all_questions() -> Vec<Question> {
    let mut all = questions();
    for (method, path, bodies) in HARMLESS {
        all.extend(bodies.iter().map(|body| Question::operator(method, path, *body)));
        for asker in [Asker::Stranger, Asker::Guesser] {
            all.push(Question { method, path, body: Some("{}".to_owned()), asker });
        }
    }
    all
}

pub fn questions_for_a_leader() -> Vec<Question> {
    HARMLESS_FOR_A_LEADER.iter().map(|body| Question::operator("POST", "/reinitialize", *body)).collect()
}

#[derive(Default)]
pub struct Comparison {
    /// Lines of the table that were seen, by row and place.
    seen: BTreeSet<(usize, usize)>,
    /// All of them are told at the end: a run is long, and one difference seldom comes alone.
    faults: BTreeSet<String>,
    asked: usize,
}

impl Comparison {
    /// Asks both sides everything, and again what differs, until it no longer does.
    pub async fn look(&mut self, lab: &Lab, state: &str, members: &[usize], questions: &[Question]) {
        let began = clock::now();
        let pairs = |&member| questions.iter().map(move |question| (member, question));
        let mut open: Vec<(usize, &Question)> = members.iter().flat_map(pairs).collect();
        let mut faults = BTreeSet::new();
        for look in 0..LOOKS {
            faults.clear();
            open.retain(|&(member, question)| {
                let found = self.ask(lab, state, member, question);
                let differs = !found.is_empty();
                faults.extend(found);
                differs
            });
            if open.is_empty() {
                break;
            }
            if look + 1 < LOOKS {
                clock::pause(BETWEEN_LOOKS).await;
            }
        }
        println!("{state}: compared in {}", clock::now().since(began));
        for fault in &faults {
            println!("{fault}");
        }
        self.faults.append(&mut faults);
    }

    /// The differences that do not stand in the table.
    fn ask(&mut self, lab: &Lab, state: &str, member: usize, question: &Question) -> Vec<String> {
        self.asked += 1;
        let [theirs, ours] = SIDES.map(|side| answers::lines(&lab.nodes[side + member].address, question));
        let name = question.name();
        let mut found = Vec::new();
        for line in differences(&theirs, &ours) {
            let mut known = false;
            for (index, row) in DELIBERATE.iter().enumerate() {
                if row.covers(state, MEMBERS[member], &name) {
                    let fitting = row.lines.iter().enumerate().filter(|(_, pattern)| fits(pattern, &line));
                    for (place, _) in fitting {
                        known = true;
                        self.seen.insert((index, place));
                    }
                }
            }
            if !known {
                found.push(format!("{state} | {} | {name} | {line}", MEMBERS[member]));
            }
        }
        found
    }

    /// Fails on what differs and is not in the table, and on what is in the table and does not differ.
    pub fn judge(self) {
        println!("{} questions were asked of both", self.asked);
        let mut faults: Vec<String> = self.faults.into_iter().collect();
        for (index, row) in DELIBERATE.iter().enumerate() {
            let unseen =
                row.lines.iter().enumerate().filter(|(place, _)| !self.seen.contains(&(index, *place)));
            faults.extend(unseen.map(|(_, line)| format!("no longer differs: {:?}: {line}", row.asked)));
        }
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    }
}
