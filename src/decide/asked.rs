//! What members have said of themselves just now (`GET /view`), side by side: what a reader wants to see of each, and the live views that
//! foresight goes by. Who is asked, and how, is the business of the shells.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde_json::Value;

use super::foresight::Live;
use super::{fitness_told, gate_told};
use crate::model::{
    Contact, Entry, EntryError, Fitness, Guardian, Intents, Lsn, MemberName, Moment, Position, Running, Span,
    SyncMode, View, Watchdog,
};

/// What one member has said.
#[derive(Clone, Debug)]
pub struct Account {
    /// Without its view, which stands beside it.
    pub entry: Entry,
    pub view: View,
    /// Now, on its clocks.
    pub moment: Moment,
    pub unix_ms: u64,
    pub looks_again: Span,
}

/// Everybody who was asked.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    pub accounts: BTreeMap<MemberName, Account>,
    /// Who has not told, and why.
    pub silent: BTreeMap<MemberName, String>,
    /// Whom nobody asks any more.
    pub gone: BTreeMap<MemberName, String>,
}

#[derive(Debug, thiserror::Error)]
pub enum Unread {
    #[error("it answers {0} to /view; is it of an older version?")]
    Code(u16),
    #[error("understand the answer: {0}")]
    NotJson(#[from] serde_json::Error),
    #[error("understand the answer: no {0} is told")]
    Missing(&'static str),
    #[error(transparent)]
    Entry(#[from] EntryError),
}

impl Account {
    /// From the answer to `GET /view`.
    pub fn read(status: u16, body: &[u8]) -> Result<Account, Unread> {
        if status != 200 {
            return Err(Unread::Code(status));
        }
        let document: Value = serde_json::from_slice(body)?;
        let number =
            |name: &'static str| document.get(name).and_then(Value::as_u64).ok_or(Unread::Missing(name));
        let entry = Entry::read(&document.get("entry").cloned().unwrap_or_default().to_string())?;
        Ok(Account {
            view: entry.view()?,
            moment: Moment::from_ms(number("moment")?),
            unix_ms: number("unix_ms")?,
            looks_again: Span::from_ms(number("looks_again_in_ms")?),
            entry: entry.without_view(),
        })
    }

    /// As old as its view is, it is what would be decided upon now.
    pub fn present_view(&self) -> View {
        View { now: self.moment, ..self.view.clone() }
    }
}

impl Asked {
    pub fn live(&self) -> Live {
        let views = self.accounts.iter().map(|(name, account)| (name.clone(), account.present_view()));
        Live { views: views.collect(), silent: self.silent.keys().cloned().collect() }
    }

    /// Whoever is down has no record any more; those who saw it in the last term still know it.
    pub fn note_who_is_missing(&mut self) {
        let views = self.accounts.values().map(|account| &account.view);
        let known: BTreeSet<MemberName> =
            views.flat_map(|view| view.memory.electorate.keys().cloned()).collect();
        for name in known.into_iter().filter(|name| !self.accounts.contains_key(name)) {
            let why = || "it has no record in the store: it is down, or cut off".to_owned();
            self.silent.entry(name).or_insert_with(why);
        }
    }

    /// By what the store has kept of them.
    pub fn note_who_is_gone(&mut self, names: &BTreeSet<String>) {
        for name in names.iter().filter_map(|name| name.parse::<MemberName>().ok()) {
            if !self.knows(name.as_str()) {
                let why =
                    "its slot is still kept, but it has no record in the store: it is down, cut off or gone";
                self.gone.insert(name, why.to_owned());
            }
        }
    }

    pub fn knows(&self, name: &str) -> bool {
        self.accounts.contains_key(name) || self.unknown().any(|(unknown, _)| unknown.as_str() == name)
    }

    pub fn unknown(&self) -> impl Iterator<Item = (&MemberName, &String)> {
        self.silent.iter().chain(&self.gone)
    }
}

/// What a decision goes by, as far as a reader wants to see it.
pub fn facts(account: &Account) -> Vec<(&'static str, String)> {
    let (view, evidence, now) = (&account.view, &account.entry.evidence, account.moment);
    let mut facts = Vec::new();
    let mut fact = |what, text: String| facts.push((what, text));
    let reached = evidence.position.map(|at| place(at, evidence.leader_end, view)).unwrap_or_default();
    fact("PostgreSQL", format!("{}{reached}", evidence.postgres));
    if let Some(lease) = &view.lease {
        let left = now.until(lease.demote_at());
        fact(
            "lease",
            format!(
                "term {}, {left} left to act on it, {} until the guardian kills",
                lease.term,
                now.until(lease.fence_at())
            ),
        );
    }
    let since = match view.store.contact {
        Contact::Silent { since } => format!(" for {}", now.since(since)),
        Contact::Never | Contact::Current => String::new(),
    };
    let leader = match (&evidence.leader, view.memory.no_leader_since) {
        (Some(leader), _) => format!("{leader} leads"),
        (None, Some(since)) => format!("nobody has led for {}", now.since(since)),
        (None, None) => "nobody leads".to_owned(),
    };
    fact("store", format!("{}{since}; by its last word {leader}", evidence.store));
    fact("guardian", guardian(view, now));
    if !matches!(view.watchdog, Watchdog::Unknown | Watchdog::Off) {
        fact("watchdog", view.watchdog.to_string());
    }
    match fitness_told(view, now) {
        Fitness::Fit => {}
        fitness @ (Fitness::LastResort | Fitness::Unfit) => fact("fitness", fitness.word().to_owned()),
    }
    if !view.tags.is_empty() {
        let tags = view.tags.0.iter().map(|(tag, value)| format!("{tag}={value}"));
        fact("tags", tags.collect::<Vec<_>>().join(", "));
    }
    if view.policy.pause {
        let intent = intents(view).and_then(|intents| intents.pause.as_ref());
        let whose = intent.map(|pause| format!(" {pause}")).unwrap_or_default();
        fact("pause", format!("maintenance mode is on{whose}"));
    }
    if let Some(kept) = intents(view).and_then(|intents| intents.members.get(&view.me)) {
        fact(kept.kind.word(), kept.intent.to_string());
    }
    if view.policy.sync.mode != SyncMode::Off {
        fact("synchronous", synchrony(view));
    }
    if let Some(gate) = gate_told(view) {
        fact("gate", gate.to_string());
    }
    if let Some(request) =
        view.cluster().and_then(|cluster| cluster.failover.as_ref()).filter(|r| !r.value.is_empty())
    {
        let to = request.value.candidate.as_ref().map_or("anybody", MemberName::as_str);
        let at = request.value.scheduled_at.as_ref().map(|at| format!(" at {at}")).unwrap_or_default();
        let whose = request.value.whose.as_ref().map(|whose| format!(", {whose}")).unwrap_or_default();
        fact("request", format!("that {to} leads{at}{whose}"));
    }
    if let Some(running) = &view.work.job {
        fact("work", format!("{}, for {}", running.job.name(), now.since(running.since)));
    }
    if let Some(promise) = view.memory.promise.as_ref().filter(|promise| now < promise.until) {
        fact("promise", format!("to leave the lease to {} for {}", promise.to, now.until(promise.until)));
    }
    fact("looks again", format!("in {}, or as soon as anything changes", account.looks_again));
    facts
}

fn place(at: Position, leader_end: Option<Lsn>, view: &View) -> String {
    let mut text = format!(", timeline {} at {}", at.timeline, at.lsn);
    if let Some(end) = leader_end.filter(|_| !view.postgres.is_primary()) {
        let _ = write!(text, ", {} behind the leader's last word", at.lsn.lag_behind(end));
    }
    match view.postgres.running().map(Running::unreplayed) {
        Some(0) | None => {}
        Some(bytes) => {
            let _ = write!(text, ", {} not replayed", crate::model::Lag(bytes));
        }
    }
    text
}

pub fn guardian(view: &View, now: Moment) -> String {
    match view.guardian {
        Guardian::Absent => "none answers".to_owned(),
        Guardian::Ready { .. } if view.guardian.is_armed(now) => "armed".to_owned(),
        Guardian::Ready { .. } => "ready".to_owned(),
    }
}

fn synchrony(view: &View) -> String {
    let mode = match view.policy.sync.mode {
        SyncMode::Off => "off",
        SyncMode::On => "on",
        SyncMode::Quorum => "quorum",
    };
    match view.cluster().and_then(|cluster| cluster.sync.as_ref()).map(|sync| &sync.value) {
        Some(state) => {
            let names: Vec<&str> = state.standbys.iter().map(MemberName::as_str).collect();
            let leader = state.leader.as_ref().map_or("nobody", MemberName::as_str);
            format!(
                "{mode}; /sync names {leader} as leader, standbys [{}], quorum {}",
                names.join(", "),
                state.quorum
            )
        }
        None => format!("{mode}; there is no /sync yet"),
    }
}

fn intents(view: &View) -> Option<&Intents> {
    Some(&view.cluster()?.intents.as_ref()?.value)
}
