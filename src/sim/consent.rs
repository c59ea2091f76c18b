//! Failsafe mode's questions and answers between the agents.

use std::collections::BTreeSet;

use super::MS;
use super::host::Seeking;
use super::network::Place;
use super::world::{Happening, World};
use crate::decide::mind::{Event, PeerQuestion};
use crate::model::{Consent, Lease, MemberName};

impl World {
    pub fn ask_consent(
        &mut self,
        host: usize,
        life: u64,
        round: u64,
        lease: Lease,
        questions: &[PeerQuestion],
    ) {
        let waiting: BTreeSet<MemberName> =
            questions.iter().map(|question| question.member.clone()).collect();
        let from = self.hosts[host].name.clone();
        let Some(agent) = self.hosts[host].agent.as_mut() else { return };
        agent.seeking =
            Some(Seeking { round, lease, asked: waiting.clone(), waiting, agreed: BTreeSet::new() });
        for question in questions {
            let member = question.member.clone();
            self.after(
                question.patience.as_ms() * MS,
                Happening::AgentHearsConsent { host, life, round, member, agreed: false },
            );
            if let Some(peer) = self.host_named(question.member.as_str()) {
                let wanted = lease.timing.ttl;
                let asked = Happening::AgentIsAskedToAgree {
                    host: peer,
                    from: from.clone(),
                    wanted,
                    asker: (host, life, round),
                };
                self.send(Place::Host(host), Place::Host(peer), asked);
            }
        }
        if questions.is_empty() {
            self.end_round_of_consent(host);
        }
    }

    /// Everybody has answered, or been waited for.
    fn end_round_of_consent(&mut self, host: usize) {
        let Some(agent) = self.hosts[host].agent.as_mut() else { return };
        let Some(Seeking { round, lease, asked, agreed, .. }) = agent.seeking.take() else { return };
        let leads = agent.mind.view().lease.is_some_and(|held| held.term == lease.term);
        if leads && asked == agreed {
            let known = agent.confirmed.entry(lease.term).or_insert(lease.asked_at);
            *known = (*known).max(lease.asked_at);
            self.note_office(host, lease.term, lease.asked_at);
        }
        self.learn(host, Event::ConsentAnswered { round, agreed });
    }

    pub fn agent_is_asked_to_agree(
        &mut self,
        host: usize,
        from: MemberName,
        wanted: crate::model::Span,
        asker: (usize, u64, u64),
    ) {
        let Some(agent) = self.hosts[host].agent.as_mut() else { return };
        agent.asked += 1;
        let id = agent.asked;
        agent.askers.insert(id, asker);
        self.learn(host, Event::ConsentAsked { id, from, wanted });
    }

    pub fn answer_consent(&mut self, host: usize, id: u64, consent: &Consent) {
        let member = self.hosts[host].name.clone();
        let Some(agent) = self.hosts[host].agent.as_mut() else { return };
        let Some((asker, life, round)) = agent.askers.remove(&id) else { return };
        let agreed = matches!(consent, Consent::Granted { .. });
        let back = Happening::AgentHearsConsent { host: asker, life, round, member, agreed };
        self.send(Place::Host(host), Place::Host(asker), back);
    }

    pub fn agent_hears_consent(&mut self, host: usize, round: u64, member: MemberName, agreed: bool) {
        let Some(agent) = self.hosts[host].agent.as_mut() else { return };
        let Some(seeking) = agent.seeking.as_mut().filter(|seeking| seeking.round == round) else { return };
        if seeking.waiting.remove(&member) && agreed {
            seeking.agreed.insert(member);
        }
        if seeking.waiting.is_empty() {
            self.end_round_of_consent(host);
        }
    }
}
