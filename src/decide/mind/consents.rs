//! The part of the mind that asks for the others' consent, counts it, and keeps what it has promised itself.

use std::collections::BTreeSet;

use super::super::consent::{self, AGAIN};
use super::super::fault::{self, Fault};
use super::super::publish;
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
        // Somebody may have joined since they were asked.
        let all_agreed = self.seeking.asked.is_subset(agreed)
            && consent::topology(&self.view)
                .is_some_and(|topology| topology.keys().all(|member| agreed.contains(member)));
        let everybody =
            if fault::active(Fault::LeadsByFewerConsents) { !agreed.is_empty() } else { all_agreed };
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

    /// The shell is about to tell the store who may lead. From now on whoever is new in it counts, and has consented to nothing.
    pub(super) fn offer(&mut self) {
        let offered = self.view.cluster().and_then(|cluster| publish::failsafe(&self.view, cluster));
        if let Some(members) = offered {
            self.view.memory.offered = members;
            self.view.memory.consent = None;
        }
    }

    /// The store has ended what it granted. What the members have granted stays.
    pub(super) fn keep_what_is_consented(&mut self) {
        let (now, term) = (self.view.now, self.view.lease.map(|lease| lease.term));
        self.view.lease = (self.view.memory.consent)
            .filter(|consent| Some(consent.term) == term && now < consent.fence_at());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::{
        Cluster, Contact, Leader, MemberRecord, Policy, Position, Postgres, Running, Serving, StoreView,
        Synchrony, SystemId, Tags, Term,
    };

    const BEGAN: Moment = Moment::from_ms(100_000);

    fn name(name: &str) -> MemberName {
        name.parse().expect("a good name")
    }

    fn url(name: &str) -> String {
        format!("http://{name}:8008/patroni")
    }

    fn seen(names: &[&str], told: &[&str]) -> Cluster {
        let record = |name: &&str| MemberRecord { api_url: url(name), ..MemberRecord::default() };
        Cluster {
            leader: Some(Leader { name: name("turku"), term: Term(3), session: None }),
            members: names.iter().map(|member| (name(member), record(member))).collect(),
            failsafe: told.iter().map(|member| (name(member), url(member))).collect(),
            ..Cluster::default()
        }
    }

    /// Turku leads, and the store knows of vaasa only, whom alone turku has asked.
    fn asking() -> Mind {
        let policy = Policy { failsafe: true, ..Policy::default() };
        let mut mind = Mind::new(name("turku"), Tags::default(), policy, true);
        let timing = mind.view.policy.timing;
        mind.view.now = BEGAN;
        mind.view.lease = Some(Lease { term: Term(3), asked_at: BEGAN, timing });
        mind.view.store = StoreView { cluster: None, contact: Contact::Current };
        mind.learn_cluster(seen(&["turku", "vaasa"], &["turku", "vaasa"]));
        mind.view.postgres = Postgres::Running(Running {
            system: SystemId(7),
            serving: Serving::Primary { position: Position::new(1, 100), checkpointed: true, forks: None },
            silent_since: None,
            version: 150_000,
            synchrony: Synchrony::default(),
        });
        mind.view.now = BEGAN + Span::from_secs(4);
        mind.seek_consent(&mut Vec::new());
        mind
    }

    fn vaasa_agrees(mind: &mut Mind) -> bool {
        mind.learn_consent(mind.seeking.round, &[name("vaasa")].into());
        mind.view.leads_by_consent()
    }

    #[test]
    fn who_has_joined_since_the_others_were_asked_has_not_agreed() {
        assert!(vaasa_agrees(&mut asking()));
        let mut joined = asking();
        joined.learn_cluster(seen(&["turku", "vaasa", "oulu"], &["turku", "vaasa"]));
        assert!(!vaasa_agrees(&mut joined));
        let mut offered = asking();
        offered.learn_cluster(seen(&["turku", "vaasa", "oulu"], &["turku", "vaasa"]));
        offered.offer();
        // Its own record is gone again, and the store may have been told all the same.
        offered.learn_cluster(seen(&["turku", "vaasa"], &["turku", "vaasa"]));
        assert!(!vaasa_agrees(&mut offered));
    }

    #[test]
    fn nobody_is_let_lead_by_a_leader_that_leads_by_consent() {
        let mut mind = asking();
        assert!(vaasa_agrees(&mut mind));
        let cluster = seen(&["turku", "vaasa", "oulu"], &["turku", "vaasa"]);
        mind.learn_cluster(cluster.clone());
        assert_eq!(publish::failsafe(&mind.view, &cluster), None);
        // A renewal covers whatever was consented to before it, and that counts no more from then on.
        let timing = mind.view.policy.timing;
        mind.view.lease = Some(Lease { term: Term(3), asked_at: mind.view.now + Span::from_ms(10), timing });
        let told = publish::failsafe(&mind.view, &cluster).map(|members| members.len());
        assert_eq!(told, Some(3));
        mind.offer();
        mind.keep_what_is_consented();
        assert_eq!(mind.view.lease, None);
    }

    #[test]
    fn what_a_snapshot_shows_need_not_be_remembered() {
        let mut mind = asking();
        mind.learn_cluster(seen(&["turku", "vaasa", "oulu"], &["turku", "vaasa"]));
        mind.offer();
        assert_eq!(mind.view.memory.offered.len(), 3);
        mind.learn_cluster(seen(&["turku", "vaasa", "oulu"], &["turku", "vaasa", "oulu"]));
        assert_eq!(mind.view.memory.offered, BTreeMap::new());
    }
}
