//! One look at a cluster after the other: what the store holds, and what each member says of itself.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::future::join_all;

use super::super::access::Access;
use super::super::cluster::{Cluster, Member};
use super::super::document::Document;
use super::super::explain::ask_agent;
use super::super::intent::is_ours;
use super::super::{events, members};
use crate::clock;
use crate::decide::asked::{Account, guardian};
use crate::doctor::StoreFacts;
use crate::model::{Entry, Lease, Lsn, MemberName, Moment, Span, View, Watchdog};
use crate::store::Store;

/// Nobody waits longer for one member, or for the store: the screen says that it is silent instead.
const PATIENCE: Duration = Duration::from_secs(2);
/// The store's servers are examined so often at most.
const SERVERS_EVERY: Span = Span::from_secs(5);
/// What happened before the first look, and is still shown.
const EVENTS_SINCE: Span = Span::from_secs(900);
pub const EVENTS_MAX: usize = 200;

/// What was seen at one moment.
#[derive(Clone, Debug, Default)]
pub struct Look {
    pub taken: Moment,
    /// As the store last had it.
    pub cluster: Cluster,
    pub rows: Vec<Row>,
    pub store: StoreLine,
    /// The latest ones, the oldest first.
    pub events: VecDeque<Entry>,
}

#[derive(Clone, Debug, Default)]
pub struct Row {
    pub name: String,
    pub role: &'static str,
    pub leads: bool,
    pub state: String,
    pub timeline: String,
    /// In bytes; none for who leads, and where it is not known.
    pub lag: Option<u64>,
    pub term: Option<TermLook>,
    pub fence: String,
    /// By which rule it acts, or why that is not known.
    pub rule: String,
    pub answers: bool,
}

/// What is left of a lease, as it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TermLook {
    pub term: u64,
    /// Until the agent stops PostgreSQL, and of how much.
    pub lease: (Span, Span),
    /// Until the guardian kills, and of how much.
    pub fence: (Span, Span),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreLine {
    pub whereabouts: String,
    /// How long it took to answer, or why there is no answer.
    pub answer: Option<Result<Span, String>>,
    /// Of its servers: how many answer, of how many, and which leads.
    pub servers: Option<(usize, usize, Option<String>)>,
    pub alarms: Vec<String>,
}

/// Remembers between the looks what the next one needs.
pub struct Gatherer<'a> {
    access: &'a Access,
    store: Store,
    scope: String,
    cluster: Cluster,
    servers: Option<(Moment, StoreFacts)>,
    /// The last entry that each member has told: its time and its number.
    told: BTreeMap<MemberName, (u64, u64)>,
    events: VecDeque<Entry>,
    began_ms: u64,
}

impl<'a> Gatherer<'a> {
    pub fn new(access: &'a Access, scope: String) -> Result<Gatherer<'a>> {
        let store = access.store(&scope)?;
        let cluster = Cluster { scope: scope.clone(), ..Cluster::default() };
        let began_ms = clock::wall_ms().saturating_sub(EVENTS_SINCE.as_ms());
        let told = BTreeMap::new();
        Ok(Gatherer { access, store, scope, cluster, servers: None, told, events: VecDeque::new(), began_ms })
    }

    /// Gives itself back, so that the look may go on while keys are read.
    pub async fn look(mut self) -> (Gatherer<'a>, Look) {
        let store = self.ask_store().await;
        let cluster = self.cluster.clone();
        let (access, since) = (self.access, &self.told);
        let began = self.began_ms;
        let answers = join_all(cluster.members.iter().map(|member| async move {
            let from = since.iter().find(|(name, _)| name.as_str() == member.name).map(|(_, (ms, _))| *ms);
            let standing = within(PATIENCE, ask(access, member));
            let entries = within(PATIENCE, entries(access, member, from.unwrap_or(began)));
            let (standing, entries) = tokio::join!(standing, entries);
            // Whoever cannot tell them is silent in its row already.
            (standing, entries.unwrap_or_default())
        }))
        .await;
        let mut standings = Vec::new();
        for (member, (standing, entries)) in cluster.members.iter().zip(answers) {
            self.keep(entries);
            standings.push((member, standing));
        }
        let rows = rows(&cluster, &standings);
        let look = Look { taken: clock::now(), rows, store, events: self.events.clone(), cluster };
        (self, look)
    }

    async fn ask_store(&mut self) -> StoreLine {
        let asked_at = clock::now();
        let read = within(PATIENCE, self.access.read_from(&self.store, &self.scope)).await;
        let answer = read.map(|cluster| {
            self.cluster = cluster;
            clock::now().since(asked_at)
        });
        let is_old = |(seen, _): &(Moment, StoreFacts)| SERVERS_EVERY <= clock::now().since(*seen);
        if self.servers.as_ref().is_none_or(is_old) {
            let servers = within(PATIENCE, async { Ok(self.store.servers(PATIENCE).await?) }).await;
            self.servers = servers.ok().map(|facts| (clock::now(), facts));
        }
        let facts = self.servers.as_ref().map(|(_, facts)| facts).filter(|facts| !facts.servers.is_empty());
        let states = || facts.into_iter().flat_map(|facts| &facts.servers);
        let answering = states().filter(|server| server.state.is_ok()).count();
        let leader = states().find(|server| server.state.as_ref().is_ok_and(|state| state.leads));
        let alarms = states().flat_map(|server| {
            let alarms = server.state.as_ref().map(|state| state.alarms.clone()).unwrap_or_default();
            alarms.into_iter().map(|alarm| format!("{}: {alarm}", server.name))
        });
        StoreLine {
            whereabouts: self.access.whereabouts(),
            answer: Some(answer.map_err(|error| format!("{error:#}"))),
            servers: facts
                .map(|facts| (answering, facts.servers.len(), leader.map(|server| server.name.clone()))),
            alarms: alarms.collect(),
        }
    }

    /// What was told already is told again, since a question goes by time.
    fn keep(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            let last = self.told.get(&entry.member).copied();
            if last.is_some_and(|(ms, number)| entry.number <= number && entry.unix_ms <= ms) {
                continue;
            }
            self.told.insert(entry.member.clone(), (entry.unix_ms, entry.number));
            let place = self.events.partition_point(|kept| kept.unix_ms <= entry.unix_ms);
            self.events.insert(place, entry.without_view());
        }
        let over = self.events.len().saturating_sub(EVENTS_MAX);
        self.events.drain(..over);
    }
}

async fn within<T>(patience: Duration, asking: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(patience, asking)
        .await
        .with_context(|| format!("no answer within {} s", patience.as_secs()))?
}

async fn ask(access: &Access, member: &Member) -> Result<Account> {
    anyhow::ensure!(is_ours(member), "run by Patroni: by which rules it acts is not known");
    ask_agent(access, member).await
}

async fn entries(access: &Access, member: &Member, since: u64) -> Result<Vec<Entry>> {
    Ok(events::ask(access, member, since, false).await?.0)
}

fn rows(cluster: &Cluster, standings: &[(&Member, Result<Account>)]) -> Vec<Row> {
    let reached = |account: &Account| account.entry.evidence.position.map(|position| position.lsn);
    let leader_end = standings
        .iter()
        .filter(|(member, _)| cluster.duty(member).leads())
        .find_map(|(_, standing)| reached(standing.as_ref().ok()?));
    // What the leader wrote into the store is older than what it says.
    let stored_end = u64::try_from(cluster.optime).ok().map(Lsn).filter(|end| 0 < end.0);
    let leader_end = leader_end.or(stored_end);
    let row = |(member, standing): &(&Member, Result<Account>)| {
        let duty = cluster.duty(member);
        let known = standing.as_ref().ok();
        let stored = ["receive_lsn", "xlog_location"].iter().find_map(|field| member.position(field));
        let stored = stored.and_then(|lsn| u64::try_from(lsn).ok()).map(Lsn);
        let own_end = known.and_then(reached).or(stored);
        let lag = leader_end.zip(own_end).filter(|_| !duty.leads());
        Row {
            name: member.name.clone(),
            role: duty.title(),
            leads: duty.leads(),
            state: members::state(member, duty),
            timeline: member.get("timeline").map(Document::shown).unwrap_or_default(),
            lag: lag.map(|(leader, own)| own.lag_behind(leader).0),
            term: known.and_then(|standing| term(&standing.view, standing.moment)),
            fence: known.map(|standing| fence(&standing.view, standing.moment)).unwrap_or_default(),
            rule: match standing {
                Ok(standing) => events::said(&standing.entry),
                Err(error) => format!("{error:#}"),
            },
            answers: standing.is_ok() || !is_ours(member),
        }
    };
    let present = standings.iter().map(row);
    let gone = cluster.gone().into_iter().map(|name| Row {
        name,
        state: "gone".to_owned(),
        rule: "it has no record in the store: it is down, cut off or gone".to_owned(),
        ..Row::default()
    });
    let mut rows: Vec<Row> = present.chain(gone).collect();
    rows.sort_by(|one, other| one.name.cmp(&other.name));
    rows
}

fn term(view: &View, now: Moment) -> Option<TermLook> {
    let lease: &Lease = view.lease.as_ref()?;
    let of = |end: Moment| (now.until(end), lease.asked_at.until(end));
    Some(TermLook { term: lease.term.0, lease: of(lease.demote_at()), fence: of(lease.fence_at()) })
}

fn fence(view: &View, now: Moment) -> String {
    let guardian = guardian(view, now);
    match view.watchdog {
        Watchdog::Unknown | Watchdog::Off => format!("guardian: {guardian}"),
        Watchdog::Ready { .. } | Watchdog::Armed { .. } | Watchdog::Failed(_) => {
            format!("guardian: {guardian}; watchdog: {}", view.watchdog)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::cluster::fixtures::cluster;
    use super::*;

    #[test]
    fn whoever_does_not_answer_is_shown_by_what_the_store_knows() {
        let keys = [
            ("leader", "a"),
            ("status", r#"{"optime":1000,"retain_slots":["c"]}"#),
            ("members/a", r#"{"role":"primary","state":"running","timeline":3,"tenure":"1"}"#),
            ("members/b", r#"{"role":"replica","state":"running","receive_lsn":600,"timeline":3}"#),
        ];
        let cluster = cluster(&keys);
        let standings: Vec<(&Member, Result<Account>)> =
            cluster.members.iter().map(|member| (member, Err(anyhow::anyhow!("no answer")))).collect();
        let rows = rows(&cluster, &standings);
        let told: Vec<_> = rows.iter().map(|row| (row.name.as_str(), row.lag, row.answers)).collect();
        assert_eq!(told, [("a", None, false), ("b", Some(400), true), ("c", None, false)]);
        assert_eq!(rows[2].state, "gone");
    }
}
