//! A decision as data: what a member knew, by which rule it acted, and what it did. It is what the flight recorder keeps, what
//! `/events` and `/view` tell, and what `tenurectl replay` decides again.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Claim, Contact, Errand, Job, Lease, Lsn, MemberName, Moment, Plan, Position, Postgres, Reason, Rule,
    Running, SOMEBODY, Serving, Span, Step, SyncNames, Takeover, Term, Timeline, View,
};

/// The form of an entry. It becomes another one when an older reader would misunderstand what it reads; fields that it does not
/// know it passes over on purpose, since a newer agent may know more than the command that asks it.
pub const ENTRY_FORMAT: u32 = 1;

/// One decision. The numbers of a member's entries go up by one, over all lives of its agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub format: u32,
    pub number: u64,
    pub member: MemberName,
    /// Milliseconds since 1970, by the member's wall clock.
    pub unix_ms: u64,
    /// The same on its boot clock.
    pub moment: Moment,
    /// The code of the rule: text, because another version may know other rules.
    pub rule: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other_member: Option<MemberName>,
    pub sentence: String,
    /// What was done, in a few words; nothing where the member waits.
    #[serde(default)]
    pub step: String,
    pub evidence: Evidence,
    /// Decisions by rules that came again and again, just before this one, and are not entries of their own.
    #[serde(default)]
    pub passed_over: u32,
    /// Entries before this one that were lost, since the recorder could not keep up.
    #[serde(default)]
    pub dropped: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Value>,
    /// As `View::kept` leaves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub view: Option<Value>,
}

/// What is written down beside the decisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    pub at: Moment,
    pub code: &'static str,
    pub sentence: String,
}

/// The facts that a reader wants to see first. All of them stand in the view as well.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Evidence {
    /// When this life of the agent began, on the boot clock.
    pub agent_since: Option<Moment>,
    pub postgres: String,
    pub is_primary: bool,
    pub position: Option<Position>,
    /// The lease that this member holds, and how long it may still act on it.
    pub term: Option<Term>,
    pub lease_left: Option<Span>,
    /// As the last snapshot of the store has it.
    pub leader: Option<MemberName>,
    pub claim: Option<Claim>,
    /// How far the leader said that its WAL reached.
    pub leader_end: Option<Lsn>,
    pub store: String,
    pub store_silent: Option<Span>,
    /// For how long the store has shown no leader.
    pub no_leader_for: Option<Span>,
    /// The timeline that the lease is asked for.
    pub claims: Option<Timeline>,
    /// What a promotion under this lease costs at most.
    pub takeover: Option<Takeover>,
    pub paused: bool,
    /// Who wants another leader now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asked_for_by: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    #[error("this is no entry of a flight recorder: {0}")]
    NotAnEntry(serde_json::Error),
    #[error("the entry is of format {0}, and this version reads {ENTRY_FORMAT}")]
    OtherFormat(u64),
    #[error("the entry holds no view: only the rule was kept")]
    NoView,
    #[error("the view is another version's: {0}")]
    OtherView(serde_json::Error),
}

impl Entry {
    pub fn of(view: &View, plan: &Plan, number: u64, unix_ms: u64) -> Entry {
        let Reason { rule, member } = &plan.reason;
        Entry {
            format: ENTRY_FORMAT,
            number,
            member: view.me.clone(),
            unix_ms,
            moment: view.now,
            rule: rule.code().to_owned(),
            other_member: member.clone(),
            sentence: plan.reason.to_string(),
            step: plan.step.told(),
            evidence: Evidence::of(view, plan),
            passed_over: 0,
            dropped: 0,
            plan: serde_json::to_value(plan).ok(),
            view: serde_json::to_value(view.kept()).ok(),
        }
    }

    /// Something that befell this member and was no decision of its own. `code` stands in the place of a rule's.
    pub fn remark(view: &View, plan: &Plan, number: u64, unix_ms: u64, remark: Remark) -> Entry {
        let Remark { at, code, sentence } = remark;
        let entry = Entry::of(&View { now: at, ..view.clone() }, plan, number, unix_ms).without_view();
        // Whatever the decision before it asked for is told by that one.
        let evidence = Evidence { claims: None, ..entry.evidence };
        let (rule, step) = (code.to_owned(), String::new());
        Entry { rule, other_member: None, sentence, step, evidence, ..entry }
    }

    pub fn read(text: &str) -> Result<Entry, EntryError> {
        let value: Value = serde_json::from_str(text).map_err(EntryError::NotAnEntry)?;
        // What another format means by the other fields is not known.
        let format = value.get("format").and_then(Value::as_u64);
        if let Some(other) = format.filter(|format| *format != u64::from(ENTRY_FORMAT)) {
            return Err(EntryError::OtherFormat(other));
        }
        serde_json::from_value(value).map_err(EntryError::NotAnEntry)
    }

    pub fn view(&self) -> Result<View, EntryError> {
        let view = self.view.clone().ok_or(EntryError::NoView)?;
        serde_json::from_value(view).map_err(EntryError::OtherView)
    }

    pub fn plan(&self) -> Result<Plan, EntryError> {
        let plan = self.plan.clone().ok_or(EntryError::NoView)?;
        serde_json::from_value(plan).map_err(EntryError::OtherView)
    }

    /// The rule, if this version has one of that code.
    pub fn known_rule(&self) -> Option<Rule> {
        Rule::ALL.iter().copied().find(|rule| rule.code() == self.rule)
    }

    /// When something was that long before this entry, by the member's wall clock.
    pub fn unix_ms_before(&self, ago: Span) -> u64 {
        self.unix_ms.saturating_sub(ago.as_ms())
    }

    #[must_use]
    pub fn without_view(self) -> Entry {
        Entry { view: None, plan: None, ..self }
    }
}

impl Evidence {
    pub fn of(view: &View, plan: &Plan) -> Evidence {
        let cluster = view.cluster();
        let silent = match view.store.contact {
            Contact::Silent { since } => Some(view.now.since(since)),
            Contact::Never | Contact::Current => None,
        };
        Evidence {
            agent_since: view.memory.begun_at,
            postgres: told_of(&view.postgres).to_owned(),
            is_primary: view.postgres.is_primary(),
            position: view.postgres.position(),
            term: view.lease.map(|lease| lease.term),
            lease_left: view.lease.as_ref().map(|lease| view.now.until(Lease::demote_at(lease))),
            leader: cluster.and_then(|cluster| cluster.leader_name().cloned()),
            claim: cluster.and_then(|cluster| cluster.claim.as_ref()).map(|claim| claim.value.clone()),
            leader_end: cluster.and_then(|cluster| cluster.status.optime),
            store: match view.store.contact {
                Contact::Never => "has not answered yet",
                Contact::Current => "answers",
                Contact::Silent { .. } => "is silent",
            }
            .to_owned(),
            store_silent: silent,
            no_leader_for: view.memory.no_leader_since.map(|since| view.now.since(since)),
            claims: match &plan.step {
                Step::Store(Errand::TakeLease { claim }) => Some(claim.timeline),
                Step::Store(_)
                | Step::Wait
                | Step::AskPeers(_)
                | Step::Run(_)
                | Step::Cancel
                | Step::Exit => None,
            },
            takeover: view.memory.takeover.filter(|_| view.lease.is_some()),
            paused: view.policy.pause,
            asked_for_by: asked_for_by(view),
        }
    }
}

/// A wish whose time has not come is none yet.
fn asked_for_by(view: &View) -> Option<String> {
    let request = &view.cluster()?.failover.as_ref()?.value;
    let is_due =
        request.scheduled_at.is_none() || view.memory.switchover_due.is_some_and(|due| due <= view.now);
    let by = || request.whose.as_ref().map_or_else(|| SOMEBODY.to_owned(), |whose| whose.by.clone());
    (!request.is_empty() && is_due).then(by)
}

impl View {
    /// Without what no decision looks at: it is long, and an operator may have written a password into it.
    #[must_use]
    pub fn kept(&self) -> View {
        let mut kept = self.clone();
        if let Some(remote) = &mut kept.policy.follows {
            remote.restore_command = None;
            remote.archive_cleanup_command = None;
        }
        let Some(cluster) = &mut kept.store.cluster else { return kept };
        if let Some(config) = &mut cluster.config {
            config.value = Value::Null;
        }
        if let Some(intents) = &mut cluster.intents {
            intents.value = intents.value.kept();
        }
        if let Some(whose) = cluster.failover.as_mut().and_then(|request| request.value.whose.as_mut()) {
            whose.why = None;
        }
        for record in cluster.members.values_mut() {
            // Where PostgreSQL is, and nothing of who logs in.
            record.conn_url = record.address().map(|at| bare_url(&at.host, at.port)).unwrap_or_default();
            record.proxy_url = None;
            record.pending_restart_reason = None;
            record.scheduled_restart = None;
            record.restart_wanted = None;
        }
        for line in &mut cluster.history {
            line.reason.clear();
            line.timestamp = None;
            line.new_leader = None;
        }
        kept
    }
}

fn bare_url(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("postgres://[{host}]:{port}/")
    } else {
        format!("postgres://{host}:{port}/")
    }
}

/// What PostgreSQL is doing, in a few words.
fn told_of(postgres: &Postgres) -> &'static str {
    match postgres {
        Postgres::Unobserved => "not looked at yet",
        Postgres::Empty => "no data",
        Postgres::Unfinished { .. } => "data that is not whole",
        Postgres::Unusable { .. } => "data that cannot be read",
        Postgres::Stopped { .. } => "stopped",
        Postgres::Starting { .. } => "starting",
        Postgres::Running(Running { silent_since: Some(_), .. }) => "does not answer",
        Postgres::Running(Running { serving: Serving::Primary { .. }, .. }) => "primary",
        Postgres::Running(Running { serving: Serving::Standby { streaming: true, .. }, .. }) => {
            "standby, streaming"
        }
        Postgres::Running(Running { serving: Serving::Standby { .. }, .. }) => "standby, not streaming",
    }
}

impl Step {
    /// A few words; nothing for waiting.
    pub fn told(&self) -> String {
        match self {
            Step::Wait => String::new(),
            Step::Store(errand) => errand.told(),
            Step::AskPeers(questions) => {
                let names: Vec<&str> = questions.iter().map(|question| question.member.as_str()).collect();
                if names.is_empty() { "ask nobody".to_owned() } else { format!("ask {}", names.join(", ")) }
            }
            Step::Run(Job::Promote { timeline, .. }) => format!("promote to timeline {timeline}"),
            Step::Run(Job::Clone { from }) => format!("clone from {from}"),
            Step::Run(Job::Rewind { from }) => format!("rewind to {from}"),
            Step::Run(Job::StopOrderly { handover: Some(to), .. }) => {
                format!("stop in good order, to hand over to {to}")
            }
            Step::Run(Job::Synchronize { names: SyncNames::Ours(commits) }) => {
                format!("let commits wait for [{commits}]")
            }
            Step::Run(job) => job.name().to_owned(),
            Step::Cancel => "cancel the work under way".to_owned(),
            Step::Exit => "exit".to_owned(),
        }
    }
}

impl Errand {
    fn told(&self) -> String {
        match self {
            Errand::TakeInitialize => "take the initialize key".to_owned(),
            Errand::FinishInitialize { .. } => "write the initialize key".to_owned(),
            Errand::AbandonInitialize => "give the initialize key back".to_owned(),
            Errand::TakeLease { claim } => format!("take the lease, for timeline {}", claim.timeline),
            Errand::ReleaseLease { .. } => "give the lease back".to_owned(),
            Errand::ClearFailover { .. } => "clear the request".to_owned(),
            Errand::MakeDue { .. } => "ask for the switchover now".to_owned(),
            Errand::EndPause { .. } => "end maintenance mode".to_owned(),
            Errand::WriteSync { .. } => "write who may lead without loss".to_owned(),
            Errand::ClearSync { .. } => "let anybody lead".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::{Cluster, FenceOrder, Guardian, MemberRecord, Policy, Remote, Tags, Versioned};

    fn view() -> View {
        let record = MemberRecord {
            conn_url: "postgres://rep:hunter2@[::1]:5433/postgres?password=hunter2".to_owned(),
            proxy_url: Some("postgres://u:hunter2@proxy/".to_owned()),
            pending_restart_reason: Some(json!({"primary_conninfo": "hunter2"})),
            ..MemberRecord::default()
        };
        let config = json!({"postgresql": {"parameters": {"primary_conninfo": "password=hunter2"}}});
        View {
            now: Moment::from_ms(5_000),
            me: "oulu".parse().expect("a name"),
            tags: Tags::default(),
            policy: Policy {
                follows: Some(Remote {
                    restore_command: Some("PASSWORD=hunter2 fetch %f".to_owned()),
                    archive_cleanup_command: Some("hunter2".to_owned()),
                    ..Remote::default()
                }),
                ..Policy::default()
            },
            store: crate::model::StoreView {
                cluster: Some(Cluster {
                    members: [("turku".parse().expect("a name"), record)].into(),
                    config: Some(Versioned { value: config, version: 3 }),
                    ..Cluster::default()
                }),
                contact: Contact::Current,
            },
            session: None,
            lease: None,
            postgres: Postgres::Unobserved,
            looked_at: Moment::default(),
            disk: crate::model::Disk::default(),
            peers: crate::model::PeerRound::default(),
            remote: None,
            work: crate::model::Work::default(),
            guardian: Guardian::Absent,
            watchdog: crate::model::Watchdog::Unknown,
            memory: crate::model::Memory::default(),
            ending: false,
        }
    }

    fn plan() -> Plan {
        Plan {
            reason: Rule::LeaderStays.into(),
            step: Step::Wait,
            renew_until: Moment::default(),
            fence: FenceOrder::Keep,
            seek_consent: false,
            look_again: Moment::default(),
        }
    }

    #[test]
    fn an_entry_holds_nothing_that_anybody_could_have_written_a_password_into() {
        let text = serde_json::to_string(&Entry::of(&view(), &plan(), 1, 2)).expect("JSON");
        assert!(!text.contains("hunter2"), "{text}");
        assert!(text.contains("postgres://[::1]:5433/"), "{text}");
    }

    #[test]
    fn an_entry_is_read_as_it_was_written_and_gives_its_view_back() {
        let entry = Entry::of(&view(), &plan(), 7, 1_000);
        let read = Entry::read(&serde_json::to_string(&entry).expect("JSON")).expect("an entry");
        assert_eq!(read, entry);
        assert_eq!(read.view().expect("a view"), view().kept());
        assert_eq!(read.plan().expect("a plan"), plan());
        assert_eq!(read.known_rule(), Some(Rule::LeaderStays));
    }

    #[test]
    fn a_remark_is_an_entry_that_nothing_is_decided_by() {
        let remark =
            Remark { at: Moment::from_ms(6_000), code: "drill_asked", sentence: "a drill".to_owned() };
        let entry = Entry::remark(&view(), &plan(), 8, 1_000, remark);
        let read = Entry::read(&serde_json::to_string(&entry).expect("JSON")).expect("an entry");
        assert_eq!(
            (read.rule.as_str(), read.sentence.as_str(), read.moment.as_ms()),
            ("drill_asked", "a drill", 6_000)
        );
        assert!(read.known_rule().is_none() && matches!(read.view(), Err(EntryError::NoView)));
    }

    #[test]
    fn what_a_newer_agent_adds_is_passed_over_and_another_format_is_refused() {
        let mut value = serde_json::to_value(Entry::of(&view(), &plan(), 7, 1_000)).expect("JSON");
        value["weather"] = json!("rain");
        value["view"]["weather"] = json!("rain");
        value["evidence"]["weather"] = json!("rain");
        value["rule"] = json!("leader_dreams");
        let read = Entry::read(&value.to_string()).expect("an entry");
        assert_eq!((read.known_rule(), read.view().is_ok()), (None, true));
        value["format"] = json!(2);
        let refused = Entry::read(&value.to_string()).expect_err("another format").to_string();
        assert_eq!(refused, "the entry is of format 2, and this version reads 1");
    }
}
