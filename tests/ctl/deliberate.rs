//! Where our REST API answers otherwise than Patroni's in the same state, and why: the one table. The comparison
//! (`side_by_side.rs`) fails on a difference that does not stand here, and on a row that no longer differs; the page
//! docs/differences.md is checked against it by tests/tidy.rs.

use std::fmt::Write as _;

/// In texts with a star, the star stands for anything.
pub struct Difference {
    /// Nothing means: in every state.
    pub states: &'static [&'static str],
    /// Nothing means: every member.
    pub members: &'static [&'static str],
    pub asked: &'static [&'static str],
    /// What only Patroni says begins with a minus, what only we say with a plus.
    pub lines: &'static [&'static str],
    pub patroni: &'static str,
    pub tenure: &'static str,
    pub why: &'static str,
}

pub const DELIBERATE: &[Difference] = &[
    Difference {
        states: &[],
        members: &[],
        asked: &["GET *"],
        lines: &["+ tenure.*"],
        patroni: "",
        tenure: "the document ends with an object `tenure`",
        why: "it says why the member does what it does, and how old the answer is",
    },
    Difference {
        states: &[],
        members: &[],
        asked: &["GET /metrics"],
        lines: &["+ # TYPE tenure_*", "+ metric tenure_*"],
        patroni: "",
        tenure: "further metrics, `tenure_…`",
        why: "the lease, the guardian, the watchdog and the disk",
    },
    Difference {
        states: &[],
        members: &[],
        asked: &["*"],
        lines: &["- content-type: text/html", "+ content-type: text/plain; charset=utf-8"],
        patroni: "sentences are `text/html`",
        tenure: "sentences are `text/plain`",
        why: "a member's name in a sentence must not become markup",
    },
    Difference {
        states: &[],
        members: &[],
        asked: &["*"],
        lines: &["- content-type: text/html;charset=utf-8", "- a page of HTML", "+ says: *"],
        patroni: "some errors are a page of HTML",
        tenure: "a sentence that says what is wrong",
        why: "it is read by people in a terminal",
    },
    Difference {
        states: &["in order"],
        members: &[],
        asked: &["POST /citus*", "POST /mpp*"],
        lines: &["- code *", "+ code 501", "+ code 401", "+ www-authenticate: *"],
        patroni: "200, and `/mpp` without any check of access",
        tenure: "501, after the checks of access",
        why: "there are no Citus clusters here",
    },
    Difference {
        states: &["in order"],
        members: &[],
        asked: &["* with* password"],
        lines: &["- code 501", "+ code 401", "+ www-authenticate: *"],
        patroni: "501 for a method that a path does not have, to everybody",
        tenure: "401 to who has no password, 501 to who has",
        why: "access is checked before anything else is looked at",
    },
    Difference {
        states: &["synchronous by quorum"],
        members: &["first"],
        asked: &["GET *"],
        lines: &[
            "- replication[second].sync_state = \"sync\"",
            "+ replication[second].sync_state = \"quorum\"",
        ],
        patroni: "`synchronous_standby_names` stays as it was in the mode before until who is synchronous changes",
        tenure: "it is written anew with the mode",
        why: "what is written says what is in force",
    },
    Difference {
        states: &["paused, its PostgreSQL stopped", "paused, nobody runs"],
        members: &[],
        asked: &["GET *"],
        lines: &[
            "- pending_restart*",
            "- members[*].pending_restart*",
            "- metric patroni_pending_restart = 1",
            "+ metric patroni_pending_restart = 0",
        ],
        patroni: "a stopped PostgreSQL keeps its pending restart",
        tenure: "it has none",
        why: "it takes up every setting when it is started",
    },
    Difference {
        states: &["paused, nobody runs"],
        members: &["first"],
        asked: &["GET *"],
        lines: &[
            "- role = \"primary\"",
            "+ role = \"demoted\"",
            "- metric patroni_primary = 1",
            "+ metric patroni_primary = 0",
        ],
        patroni: "a leader whose PostgreSQL was stopped has given the key back and goes on calling itself primary",
        tenure: "it calls itself demoted",
        why: "who counts primaries counts those that run",
    },
    Difference {
        states: &["the store is down", "paused, the store is down"],
        members: &[],
        asked: &["GET /cluster", "GET /history", "GET /config"],
        lines: &["- no answer", "+ code 200", "+ content-type: application/json", "+ *"],
        patroni: "the connection is closed without an answer after `retry_timeout`",
        tenure: "what was last known, at once; `/cluster` says since when nothing newer is (`tenure.store_silent_ms`)",
        why: "whoever watches the cluster needs it most when the store is down",
    },
    Difference {
        states: &["the store is down"],
        members: &["far"],
        asked: &["GET *", "HEAD *"],
        lines: &[
            "- role = \"standby_leader\"",
            "+ role = \"replica\"",
            "- code 503",
            "+ code 200",
            "- metric patroni_standby_leader = 1",
            "+ metric patroni_standby_leader = 0",
            "- metric patroni_replica = 0",
            "+ metric patroni_replica = 1",
        ],
        patroni: "the leader of a standby cluster goes on calling itself that, and serves nobody",
        tenure: "without a lease it is a replica, and serves reads",
        why: "it holds what it held before, and replicates without the store",
    },
    Difference {
        states: &["the store is back"],
        members: &["far"],
        asked: &["GET /history"],
        lines: &["+ *"],
        patroni: "a standby cluster tells nothing of timelines that began elsewhere",
        tenure: "it tells them",
        why: "who follows its leader must know where a timeline comes from",
    },
];

impl Difference {
    pub fn covers(&self, state: &str, member: &str, asked: &str) -> bool {
        let among = |all: &[&str], one: &str| all.is_empty() || all.contains(&one);
        among(self.states, state)
            && among(self.members, member)
            && self.asked.iter().any(|pattern| fits(pattern, asked))
    }
}

pub fn fits(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut parts = parts.peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.is_empty()
}

/// The rows as the manual shows them.
pub fn page() -> String {
    let mut page = String::from(
        "| asked | in which state | Patroni | Tenure | why |\n| --- | --- | --- | --- | --- |\n",
    );
    let code = |words: &[&str]| {
        words.iter().map(|word| format!("`{}`", word.replace('|', "\\|"))).collect::<Vec<_>>().join(", ")
    };
    for row in DELIBERATE {
        let members =
            if row.members.is_empty() { String::new() } else { format!(" ({})", row.members.join(", ")) };
        let states = if row.states.is_empty() { "any".to_owned() } else { row.states.join("; ") };
        let (asked, patroni, tenure, why) = (code(row.asked), row.patroni, row.tenure, row.why);
        writeln!(page, "| {asked} | {states}{members} | {patroni} | {tenure} | {why} |").expect("text grows");
    }
    page
}
