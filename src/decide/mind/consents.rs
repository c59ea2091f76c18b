//! The part of the mind that asks for the others' consent, counts it, and keeps what it has promised itself.

use std::collections::BTreeSet;

use super::super::consent::{self, AGAIN};
use super::super::fault::{self, Fault};
use super::{Command, Mind, PeerQuestion};
use crate::model::{Consent, Errand, Lease, MemberName, Moment, Promise, Span};

/// Nobody is waited for longer than Patroni's members wait.
const PATIENCE_MAX: Span = Span::from_secs(2);

/// The questions under way.
#[derive(Clone, Debug, Default)]
pub(super) struct Seeking {
    round: u64,
    /// The lease as it will be if everybody agrees.
    lease: Option<Lease>,
    asked: BTreeSet<MemberName>,
    last: Option<Moment>,
}

impl Mind {
    pub(super) fn seek_consent(&mut self, commands: &mut Vec<Command>) {
        let now = self.view.now;
        let timing = self.view.policy.timing;
        let patience = timing.ttl.scaled(1, 4).min(PATIENCE_MAX);
        let waits = self.seeking.lease.is_some_and(|asked| now.since(asked.asked_at) < patience + AGAIN);
        let lately = self.seeking.last.is_some_and(|last| now.since(last) < AGAIN);
        let (Some(lease), false) = (self.view.lease, waits || lately) else { return };
        let Some(topology) = consent::topology(&self.view) else { return };
        let asked = Lease { term: lease.term, asked_at: now, timing };
        self.seeking = Seeking {
            round: self.seeking.round + 1,
            lease: Some(asked),
            asked: topology.keys().cloned().collect(),
            last: Some(now),
        };
        // Where nobody else may take the lease, nobody is asked, and everybody has agreed.
        if !topology.is_empty() {
            self.view.memory.others_bound_until = Some(now + patience + timing.ttl);
        }
        let question = |(member, api_url): (MemberName, String)| PeerQuestion { member, api_url, patience };
        commands.push(Command::AskConsent {
            round: self.seeking.round,
            lease: asked,
            questions: topology.into_iter().map(question).collect(),
        });
    }

    pub(super) fn learn_consent(&mut self, round: u64, agreed: &BTreeSet<MemberName>) {
        let Some(asked) = self.seeking.lease.take_if(|_| round == self.seeking.round) else { return };
        let everybody = if fault::active(Fault::LeadsByFewerConsents) {
            !agreed.is_empty()
        } else {
            self.seeking.asked.is_subset(agreed)
        };
        let released = self.view.memory.released == Some(asked.term);
        let Some(lease) = self.view.lease.filter(|lease| everybody && lease.term == asked.term && !released)
        else {
            return;
        };
        let asked = if fault::active(Fault::CountsFromTheAnswer) {
            Lease { asked_at: self.view.now, ..asked }
        } else {
            asked
        };
        self.view.memory.consent = Some(asked);
        if lease.deadline() < asked.deadline() {
            self.view.lease = Some(asked);
        }
    }

    /// A leader asks. The promise counts from now, which is after it asked.
    pub(super) fn learn_question(&mut self, id: u64, from: MemberName, wanted: Span) {
        let taking = matches!(self.errand, Some(Errand::TakeLease { .. }));
        let mut consent = consent::answer(&self.view, &from, taking);
        if consent::PROMISE_MAX < wanted {
            consent = Consent::Denied;
        }
        if let Consent::Granted { .. } = consent {
            let until = self.view.now + wanted.max(self.view.policy.timing.ttl);
            let before = self.view.memory.promise.as_ref().map(|promise| promise.until);
            let until = before.map_or(until, |before| before.max(until));
            self.view.memory.promise = Some(Promise { to: from, until });
        }
        self.consents.push((id, consent));
    }

    /// The store has ended what it granted. What the members have granted stays.
    pub(super) fn keep_what_is_consented(&mut self) {
        let (now, term) = (self.view.now, self.view.lease.map(|lease| lease.term));
        self.view.lease = (self.view.memory.consent)
            .filter(|consent| Some(consent.term) == term && now < consent.fence_at());
    }
}
