//! What agents hear of the end of their leader's WAL; and the law that nobody loses more by a promotion than it has said.

use std::collections::BTreeSet;

use super::laws::Laws;
use super::network::Place;
use super::postgres::{Record, Server};
use super::world::{Happening, World};
use super::{MS, Time};
use crate::decide::mind::{Event, LOOKED_WITHIN, PeerQuestion};
use crate::decide::publish;
use crate::model::{Loss, Moment, PeerAnswer, PeerStatus, Timeline};

impl World {
    /// Nothing waits for the answer, and it changes nothing in this world, not even its chances.
    pub fn ask_leader(&mut self, host: usize, asked_at: Moment, question: &PeerQuestion) {
        let Some(asked) = self.host_named(question.member.as_str()) else { return };
        let asker_life = self.hosts[host].agent_life;
        let takes = self.unhurried(host);
        self.after(takes, Happening::LeaderIsAsked { host: asked, asker: host, asker_life, asked_at });
    }

    /// The leader's agent answers, and looks before if it has not for a while.
    pub fn leader_is_asked(&mut self, host: usize, asker: usize, asker_life: u64, asked_at: Moment) {
        let there = &self.hosts[host];
        let reachable = self.network.both_ways(Place::Host(host), Place::Host(asker));
        let Some(agent) = there.agent.as_ref().filter(|agent| there.up && reachable && !agent.hung) else {
            return;
        };
        let view = agent.mind.view();
        let record = publish::member_record(view, &agent.identity);
        let ago = self.local(host).since(view.looked_at);
        let looked_ago = Some(ago).filter(|ago| *ago <= LOOKED_WITHIN);
        let running = if looked_ago.is_some() { view.postgres.clone() } else { there.pg.observe() };
        let position =
            running.running().filter(|running| running.is_primary() && running.silent_since.is_none());
        let answer = PeerAnswer::Stands(PeerStatus {
            role: record.role,
            state: record.state,
            position: position.and_then(crate::model::Running::position),
            stale: looked_ago.is_some(),
            looked_ago,
            ..PeerStatus::default()
        });
        let takes = self.unhurried(asker);
        let answer = Box::new(answer);
        self.after(takes, Happening::AgentHearsLeader { host: asker, life: asker_life, asked_at, answer });
    }

    pub fn agent_hears_leader(&mut self, host: usize, asked_at: Moment, answer: Box<PeerAnswer>) {
        let now = self.local(host);
        if let Some(agent) = self.hosts[host].agent.as_mut().filter(|agent| !agent.hung) {
            agent.mind.apply(now, Event::LeaderAnswered { asked_at, answer });
        }
    }

    /// Up to half a second, and other each time.
    fn unhurried(&self, host: usize) -> Time {
        let salt = self.now / MS + host as u64 * 37;
        MS + salt.wrapping_mul(0x9E37_79B9_7F4A_7C15) % (500 * MS)
    }

    /// A timeline begins: what was acknowledged and is not on it must be within what was said.
    pub fn look_at_loss(&mut self, index: usize, timeline: Timeline) {
        let host = &self.hosts[index];
        let Some(data) = host.pg.data.as_ref().filter(|_| host.pg.server == Server::Primary) else { return };
        let there: BTreeSet<Record> = data.wal.iter().copied().collect();
        let Laws { acknowledged, lost, excused, .. } = &self.laws;
        let news: Vec<(Time, Record)> = (acknowledged.iter())
            .filter(|(_, record)| {
                !there.contains(record) && !lost.contains(record) && !excused.contains(record)
            })
            .copied()
            .collect();
        self.laws.lost.extend(news.iter().map(|(_, record)| *record));
        let takeover = host.agent.as_ref().and_then(|agent| agent.mind.view().memory.takeover);
        let Some(takeover) = takeover.filter(|takeover| takeover.timeline == timeline) else { return };
        let clock = host.clock;
        let name = host.name.clone();
        let told = takeover.loss.told(|at| format!("{} ms", clock.shows(at) / MS));
        let after_the_key = self.laws.key_deleted || self.policy.pause || self.laws.resumed_at.is_some();
        let exceeds = |at: Time| match takeover.loss {
            Loss::Nothing(_) => true,
            Loss::AtMost(bytes) => bytes.0 < super::postgres::RECORD_BYTES * news.len() as u64,
            Loss::Within { since, until, .. } => {
                at + MS < clock.shows(since) || (clock.shows(until) + MS < at && !after_the_key)
            }
            Loss::NotKnown => false,
        };
        if let Some((at, _)) = news.iter().find(|(at, _)| exceeds(*at)) {
            let (at, count) = (at / MS, news.len());
            self.laws.breaks(format!(
                "loss: {name} said \"{told}\", and loses {count} records, one of which was acknowledged at {at} ms"
            ));
        }
    }
}
