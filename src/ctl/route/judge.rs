//! What HAProxy is to be told, from what the store, the agents and HAProxy say. Pure.
//!
//! A server is never brought up on the store's word: its agent must answer HAProxy's own question with 200. It is taken down
//! on the store's word, as soon as another member holds the leader key. Everything else is left to HAProxy's checks.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};

use super::haproxy::{Order, Server};
use crate::model::{Address, Cluster, MemberRecord, MemberRole, MemberState, Term};

/// What matters here of the cluster in the store. Whatever else changes there changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picture {
    pub holder: Option<(String, Term)>,
    pub members: BTreeMap<String, Member>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    address: Option<Address>,
    pub api_url: String,
    role: MemberRole,
    state: MemberState,
}

/// A backend and the question that its checks ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub backend: String,
    pub path: String,
}

/// The checks that only the leader passes.
const OF_THE_LEADER: [&str; 6] = ["", "primary", "master", "leader", "read-write", "standby-leader"];

/// Member and path.
pub type Question = (String, String);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Yes,
    No,
    /// Nobody answered.
    Silence,
}

/// How fresh the picture is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// The store has just said so.
    LeaderChanged,
    /// It may be old: something else is why we look.
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    pub server: Server,
    pub order: Order,
    pub why: String,
}

impl Picture {
    pub fn of(cluster: &Cluster) -> Picture {
        let holder = cluster.leader.as_ref().map(|leader| (leader.name.to_string(), leader.term));
        let member = |record: &MemberRecord| Member {
            address: record.address(),
            api_url: record.api_url.clone(),
            role: record.role,
            state: record.state,
        };
        let members =
            cluster.members.iter().map(|(name, record)| (name.to_string(), member(record))).collect();
        Picture { holder, members }
    }

    pub fn holder_name(&self) -> Option<&str> {
        self.holder.as_ref().map(|(name, _)| name.as_str())
    }

    /// Whose server this is: the member of its name, or else of its address. A name that contradicts the address says nothing.
    fn member_of(&self, server: &Server) -> Option<&str> {
        let at_address = |member: &Member| {
            member.address.as_ref().is_some_and(|address| {
                address.port == server.port
                    && (address.host == server.address || Some(&address.host) == server.host.as_ref())
            })
        };
        let by_address =
            self.members.iter().find(|(_, member)| at_address(member)).map(|(name, _)| name.as_str());
        match (self.members.get_key_value(&server.name), by_address) {
            (Some((name, _)), None) => Some(name.as_str()),
            (Some((name, _)), Some(other)) => (name == other).then_some(other),
            (None, by_address) => by_address,
        }
    }
}

impl Service {
    /// `BACKEND=/PATH`.
    pub fn parse(text: &str) -> Result<Service> {
        match text.split_once('=') {
            Some((backend, path)) if !backend.is_empty() && path.starts_with('/') => {
                Ok(Service { backend: backend.to_owned(), path: path.to_owned() })
            }
            Some(_) | None => bail!("{text:?} is not BACKEND=/PATH, such as primary=/primary"),
        }
    }

    fn check(&self) -> &str {
        self.path.trim_start_matches('/').split(['?', '/']).next().unwrap_or_default()
    }

    pub fn is_of_the_leader(&self) -> bool {
        OF_THE_LEADER.contains(&self.check())
    }

    /// Should this member say yes, sooner or later, by what the store says?
    pub fn awaits(&self, picture: &Picture, name: &str) -> bool {
        let leads = picture.holder_name() == Some(name);
        if self.is_of_the_leader() {
            return leads;
        }
        let runs = picture.members.get(name).is_some_and(|member| member.state == MemberState::Running);
        let alike = self.check() == "read-only" || self.check() == "health";
        runs && (alike || !leads)
    }
}

/// Whom to ask what.
pub fn questions(picture: &Picture, services: &[Service], servers: &[Server]) -> BTreeSet<Question> {
    let mut questions = BTreeSet::new();
    for service in services {
        for server in servers.iter().filter(|server| server.backend == service.backend) {
            if let Some(name) = picture.member_of(server) {
                questions.insert((name.to_owned(), service.path.clone()));
            }
        }
    }
    questions
}

/// What is to be said now. Who has not answered yet is nobody to judge.
pub fn judge(
    picture: &Picture,
    news: News,
    services: &[Service],
    servers: &[Server],
    answers: &BTreeMap<Question, Answer>,
) -> Vec<Push> {
    let mut pushes = Vec::new();
    for service in services {
        let ours: Vec<&Server> = servers.iter().filter(|server| server.backend == service.backend).collect();
        let holder = picture.holder_name();
        // Where the leader itself is not found, the names may mean something else than we think.
        let found = holder.is_some() && ours.iter().any(|server| picture.member_of(server) == holder);
        for server in ours.into_iter().filter(|server| !server.held) {
            let name = picture.member_of(server);
            let answer = name.and_then(|name| answers.get(&(name.to_owned(), service.path.clone()))).copied();
            let verdict = if service.is_of_the_leader() {
                of_the_leader(holder.filter(|_| found), name, answer, news)
            } else {
                of_others(answer)
            };
            let Some((up, why)) = verdict else { continue };
            let push = |order| Push { server: server.clone(), order, why: why.clone() };
            if up != server.up {
                pushes.push(push(if up { Order::Up } else { Order::Down }));
            }
            // A server that was down already may have sessions from before, which end with the term of its member.
            if !up && service.is_of_the_leader() && (server.up || holder.is_some()) {
                pushes.push(push(Order::EndSessions));
            }
        }
    }
    // Room is made before anybody comes in.
    pushes.sort_by_key(|push| push.order == Order::Up);
    pushes
}

/// Up or down, and why; nothing: that is for the checks to find out.
fn of_the_leader(
    holder: Option<&str>,
    name: Option<&str>,
    answer: Option<Answer>,
    news: News,
) -> Option<(bool, String)> {
    let leads = |holder: &str| format!("{holder} leads");
    match (holder, answer) {
        (Some(holder), Some(Answer::Yes)) if name == Some(holder) => {
            Some((true, format!("{holder} leads, and its agent says that it serves")))
        }
        // Not yet promoted, or no longer well: its agent is asked again, and by the checks.
        (Some(holder), _) if name == Some(holder) => None,
        (Some(holder), answer) => match (news, answer) {
            (News::LeaderChanged, _) => Some((false, leads(holder))),
            // The picture may be older than its answer.
            (News::Other, None | Some(Answer::Yes)) => None,
            (News::Other, Some(Answer::No | Answer::Silence)) => Some((false, leads(holder))),
        },
        // A key that has gone says nothing of a primary that the others let go on without a store.
        (None, Some(Answer::No)) => name.map(|name| {
            (false, format!("nobody is known to lead, and the agent of {name} says that it does not serve"))
        }),
        (None, Some(Answer::Yes | Answer::Silence) | None) => None,
    }
}

fn of_others(answer: Option<Answer>) -> Option<(bool, String)> {
    match answer? {
        Answer::Yes => Some((true, "its agent says that it serves".to_owned())),
        Answer::No => Some((false, "its agent says that it does not serve".to_owned())),
        Answer::Silence => None,
    }
}
