//! The part of the mind that asks the leader again and again where its WAL ends. What was acknowledged before a question that has
//! been answered, and overtaken by what is here, is not lost if this member leads next.

use super::super::fault::{self, Fault};
use super::super::loss;
use super::{Command, Mind, PeerQuestion};
use crate::model::{Contact, Moment, NewClaim, PeerAnswer, Span, Takeover, Word};

const EVERY: Span = Span::from_secs(1);

impl Mind {
    /// The question that is due. An answer that takes longer than the pause between two counts for nothing.
    pub(super) fn ask_leader(&mut self) -> Option<Command> {
        let view = &self.view;
        let follows = view.postgres.running().is_some_and(|running| !running.is_primary());
        let due = view.memory.heard.asked_at.is_none_or(|asked| EVERY <= view.now.since(asked));
        if !follows || !due || view.store.contact != Contact::Current || view.policy.follows.is_some() {
            return None;
        }
        let cluster = view.cluster()?;
        let member = cluster.leader_name().filter(|leader| **leader != view.me)?.clone();
        let api_url = cluster.members.get(&member)?.api_url.clone();
        let asked_at = view.now;
        self.view.memory.heard.asked_at = Some(asked_at);
        Some(Command::AskLeader { asked_at, question: PeerQuestion { member, api_url, patience: EVERY } })
    }

    pub(super) fn learn_leaders_word(&mut self, asked_at: Moment, answer: &PeerAnswer) {
        let PeerAnswer::Stands(status) = answer else { return };
        let from_answer = fault::active(Fault::CountsWordsFromTheAnswer);
        let asked_at = if from_answer { self.view.now } else { asked_at };
        if let Some((end, ago)) = loss::end_told(status) {
            let ago = if fault::active(Fault::TakesOldWordsForNew) { Span::ZERO } else { ago };
            let word = Word { asked_at: asked_at - ago, end };
            loss::remember(&mut self.view.memory.heard, word, self.view.postgres.running());
        }
    }

    /// The lease is asked for in order to begin a timeline: what that costs is known now, and not later.
    pub(super) fn count_cost(&mut self, claim: NewClaim) {
        let standby = self.view.postgres.running().filter(|running| !running.is_primary());
        self.view.memory.takeover = standby.zip(self.view.cluster()).map(|(running, cluster)| Takeover {
            timeline: claim.timeline,
            loss: loss::bound(&self.view, cluster, running),
        });
    }
}
