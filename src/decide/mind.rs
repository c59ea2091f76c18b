//! One member's knowledge and what follows from it: events go in, commands come out. Pure, so that the daemon and the
//! simulator run the very same code; only carrying out the commands differs.

mod asked;
mod consents;
mod counts;
mod errands;
mod heard;
mod snapshots;
mod synchrony;
mod timeline;
mod unfenced;

use std::collections::BTreeMap;

pub use super::callbacks::Call;
use super::callbacks::Told;
pub use super::events::*;
use super::fault::{self, Fault};
use super::{decide, is_to_be_guarded};
use crate::model::{
    Cluster, Consent, Disk, Errand, Failures, FenceOrder, Guardian, Handover, Job, Lease, MemberName,
    MemberRole, Memory, Moment, Outcome, PeerAnswer, PeerRound, Plan, Policy, Postgres, Reason, Rule,
    RunningJob, Serving, Session, Span, Stage, Step, StoreView, Tags, Term, Timing, View, Watchdog, Work,
};

#[derive(Clone, Debug)]
pub struct Mind {
    view: View,
    /// Of the last decision.
    reason: Option<Reason>,
    errand: Option<Errand>,
    /// When an errand last failed: the snapshot that explains why is on its way.
    errand_lost_at: Option<Moment>,
    round: u64,
    job_id: u64,
    /// The keeper of the lease has told the guardian a deadline since our last order.
    armed_by_keeper: bool,
    /// What was seen of PostgreSQL before anything was heard of the guardian: without its word a new agent would take a
    /// primary under a lease that still runs for one that has lost it.
    seen_too_early: Option<Seen>,
    guardian_heard: bool,
    /// How wishes have ended that nobody has been told of yet.
    answers: Vec<(u64, Outcome)>,
    seeking: consents::Seeking,
    /// What leaders in failsafe mode have not been told yet.
    consents: Vec<(u64, Consent)>,
    /// Of which an operator's callbacks have been told.
    told: Told,
    calls: Vec<Call>,
}

impl Mind {
    pub fn new(me: MemberName, tags: Tags, policy: Policy, managed: bool) -> Mind {
        let view = View {
            now: Moment::default(),
            me,
            tags,
            policy,
            store: StoreView::default(),
            session: None,
            lease: None,
            postgres: Postgres::Unobserved,
            looked_at: Moment::default(),
            disk: Disk::default(),
            peers: PeerRound::default(),
            remote: None,
            work: Work::default(),
            guardian: Guardian::Absent,
            watchdog: Watchdog::Unknown,
            memory: Memory { managed, ..Memory::default() },
            ending: false,
        };
        Mind {
            view,
            reason: None,
            errand: None,
            errand_lost_at: None,
            round: 0,
            job_id: 0,
            armed_by_keeper: false,
            seen_too_early: None,
            guardian_heard: false,
            answers: Vec::new(),
            seeking: consents::Seeking::default(),
            consents: Vec::new(),
            told: Told::default(),
            calls: Vec::new(),
        }
    }

    pub fn view(&self) -> &View {
        &self.view
    }

    pub fn apply(&mut self, now: Moment, event: Event) {
        self.view.now = now;
        self.view.memory.begun_at.get_or_insert(now);
        match event {
            Event::Tick => {}
            Event::Snapshot(cluster) => self.learn_cluster(*cluster),
            Event::StoreSilent => self.learn_silence(),
            Event::Lease(event) => self.learn_lease(event),
            Event::ErrandEnded(outcome) => self.end_errand(outcome),
            Event::Postgres(seen) => self.learn_postgres(seen, None),
            Event::Disk(disk) => self.view.disk = disk,
            Event::JobEnded { id, outcome, seen } => self.end_job(id, outcome, seen),
            Event::PeersAnswered { round, answers } => self.learn_peers(round, answers),
            Event::LeaderAnswered { asked_at, answer } => self.learn_leaders_word(asked_at, &answer),
            Event::Guardian(guardian) => self.learn_guardian(guardian),
            Event::Watchdog(watchdog) => self.view.watchdog = watchdog,
            Event::Policy(policy) => self.view.policy = *policy,
            Event::Tags(tags) => self.view.tags = tags,
            Event::Asked { id, ask } => self.learn_wish(id, ask),
            Event::ConsentAnswered { round, agreed } => self.learn_consent(round, &agreed),
            Event::ConsentAsked { id, from, wanted } => self.learn_question(id, from, wanted),
            Event::Remote(remote) => self.view.remote = remote,
            Event::SlotsToCopy(slots) => self.view.memory.slots_to_copy = slots,
            Event::SwitchoverDue(due) => self.view.memory.switchover_due = due,
            Event::PauseEnds(ends) => self.view.memory.pause_ends = ends,
            Event::End => self.view.ending = true,
        }
    }

    /// Decide, and say what that asks for beyond what is already under way.
    pub fn turn(&mut self, now: Moment) -> Turn {
        self.view.now = now;
        let mut commands = Vec::new();
        self.advance_wish();
        self.view.memory.stepped_down &= !self.is_succeeded();
        let mut plan = decide(&self.view);
        let mut upon = self.news(&plan);
        if let Step::AskPeers(questions) = &plan.step {
            self.ask_peers(questions.clone(), &mut commands);
            // Where there is nobody to ask, the answer is known at once.
            if self.view.peers.complete {
                plan = decide(&self.view);
                upon = self.news(&plan);
            }
        }
        self.reason = Some(plan.reason.clone());
        self.note_fetching(&plan);
        self.order_fence(plan.fence, &mut commands);
        match plan.step.clone() {
            Step::Wait | Step::AskPeers(_) => {}
            Step::Store(errand) => self.send_errand(errand, &mut commands),
            Step::Run(job) => self.start_job(job, &plan.reason, &mut commands),
            Step::Cancel => self.cancel_job(&mut commands),
            Step::Exit => commands.push(Command::Exit),
        }
        if plan.seek_consent {
            self.seek_consent(&mut commands);
        }
        commands.extend(self.consents.drain(..).map(|(id, consent)| Command::AnswerConsent { id, consent }));
        commands.extend(self.ask_leader());
        commands.extend(self.calls.drain(..).map(Command::Call));
        commands.extend(self.answers.drain(..).map(|(id, outcome)| Command::Answer { id, outcome }));
        let lease = LeaseOrders {
            until: plan.renew_until,
            hold: self.term_to_hold(),
            guard: is_to_be_guarded(&self.view) && !self.view.policy.pause,
            ttl: self.view.policy.timing.ttl,
            renew_every: self.view.policy.timing.renew_every,
            rest: self.rest(),
        };
        self.offer();
        Turn { plan, upon, commands, lease }
    }

    /// Who is led renews seldom. Our record hangs on our session: by that it is noticed if somebody ends it.
    fn rest(&self) -> Option<Span> {
        let (session, cluster) = (self.view.session?, self.view.cluster()?);
        let led = cluster.leader.as_ref().is_some_and(|leader| leader.name != self.view.me);
        let recorded = cluster.members.contains_key(&self.view.me);
        let timing = self.view.policy.timing;
        // A session keeps what it was granted, whatever the policy says since.
        let rest = session.ttl.min(timing.ttl).scaled(1, 3).max(timing.renew_every);
        (led && recorded && self.term_to_hold().is_none()).then_some(rest)
    }

    /// Somebody leads in place of the one that has stepped down, or it leads again itself.
    fn is_succeeded(&self) -> bool {
        let running = self.view.postgres.running().map(|running| &running.serving);
        match running {
            Some(Serving::Primary { .. }) => true,
            Some(Serving::Standby { .. }) => {
                let record = self.view.cluster().and_then(Cluster::leader_record);
                record.is_some_and(|record| record.role == MemberRole::Primary)
            }
            None => false,
        }
    }

    fn news(&self, plan: &Plan) -> Option<Box<View>> {
        (self.reason.as_ref() != Some(&plan.reason)).then(|| Box::new(self.view.clone()))
    }

    // What is learnt.

    fn learn_lease(&mut self, event: LeaseEvent) {
        match event {
            LeaseEvent::Opened(session) => {
                self.view.session = Some(session);
                self.keep_what_is_consented();
            }
            LeaseEvent::Renewed { session, term } => {
                self.view.session = Some(session);
                self.armed_by_keeper |= term.is_some();
                if let Some(term) = term
                    && self.view.memory.released != Some(term)
                {
                    self.confirm_lease(term, session);
                }
            }
            LeaseEvent::KeyNotOurs { .. } if fault::active(Fault::KeepsLostKey) => {}
            LeaseEvent::KeyNotOurs { term } => {
                if self.view.lease.is_some_and(|lease| lease.term == term) {
                    self.keep_what_is_consented();
                }
            }
            LeaseEvent::SessionGone { session } => {
                if self.view.session.is_some_and(|ours| ours.id == session) {
                    self.view.session = None;
                    self.keep_what_is_consented();
                }
            }
        }
    }

    /// The deadline counts from the last renewal of the session: the key hangs on it, and lives at least as long.
    fn confirm_lease(&mut self, term: Term, session: Session) {
        let newer =
            self.view.lease.is_none_or(|lease| lease.term < term || lease.asked_at < session.asked_at);
        if newer {
            let timing =
                Timing { ttl: session.ttl.min(self.view.policy.timing.ttl), ..self.view.policy.timing };
            let asked_at =
                if fault::active(Fault::CountsFromTheAnswer) { self.view.now } else { session.asked_at };
            self.view.lease = Some(Lease { term, asked_at, timing });
            self.view.memory.has_led = true;
            self.view.memory.managed = true;
        }
    }

    /// `ended`: the job that has ended together with this look.
    fn learn_postgres(&mut self, seen: Seen, ended: Option<&Job>) {
        if !self.guardian_heard {
            self.seen_too_early = Some(seen);
            return;
        }
        let Seen { postgres, looked_at } = seen;
        self.count_crashes(&postgres, ended);
        let failures = &mut self.view.memory.failures;
        match postgres.running().map(|running| &running.serving) {
            Some(Serving::Primary { .. }) => failures.promotions = 0,
            // It comes back well, which says nothing of whether it can be promoted.
            Some(Serving::Standby { streaming: true, .. }) => {
                let promotions = failures.promotions;
                let last_at = failures.last_at.filter(|_| 0 < promotions);
                *failures = Failures { promotions, last_at, ..Failures::default() };
            }
            Some(Serving::Standby { .. }) | None => {}
        }
        self.learn_received(&postgres);
        self.learn_timeline(&postgres);
        self.learn_synchrony(&postgres);
        self.view.postgres = postgres;
        self.calls.extend(self.told.after_a_look(&self.view, ended));
        self.view.looked_at = looked_at;
    }

    fn learn_peers(&mut self, round: u64, answers: BTreeMap<MemberName, PeerAnswer>) {
        if round == self.round {
            self.view.work.asking_peers = false;
            self.view.peers.complete = true;
            self.view.peers.answers = answers;
        }
    }

    fn learn_guardian(&mut self, guardian: Guardian) {
        self.view.guardian = guardian;
        if guardian == Guardian::Absent {
            self.view.watchdog = Watchdog::Unknown;
        }
        self.view.work.ordering_fence = false;
        self.guardian_heard = true;
        if let Some(seen) = self.seen_too_early.take() {
            self.learn_postgres(seen, None);
        }
    }

    // What ends.

    fn end_job(&mut self, id: u64, outcome: JobOutcome, seen: Seen) {
        let ended = self.view.work.job.take_if(|_| id == self.job_id);
        if let Some(RunningJob { job, .. }) = &ended {
            self.count_outcome(job, outcome);
            if let (Job::StopOrderly { handover: Some(_), .. }, Some(handover)) =
                (job, &mut self.view.memory.handover)
            {
                handover.begun_at = self.view.now;
            }
            self.end_restart_that_failed(job, outcome);
            if matches!((job, outcome), (Job::Follow { .. }, JobOutcome::Done)) {
                self.calls.extend(self.told.after_a_reload());
            }
        }
        self.learn_postgres(seen, ended.as_ref().map(|running| &running.job));
        if let Some(running) = &ended {
            self.learn_names(&running.job, outcome);
        }
    }

    // What begins.

    fn ask_peers(&mut self, questions: Vec<crate::model::Question>, commands: &mut Vec<Command>) {
        if self.view.work.asking_peers {
            return;
        }
        self.round += 1;
        let url = |member: &MemberName| {
            let known = self
                .view
                .cluster()
                .and_then(|cluster| cluster.members.get(member))
                .map(|r| r.api_url.clone());
            let told = || self.view.cluster().and_then(|cluster| cluster.failsafe.get(member)).cloned();
            known.or_else(|| self.view.memory.electorate.get(member).cloned()).or_else(told)
        };
        let questions: Vec<PeerQuestion> = (questions.into_iter())
            .filter_map(|question| {
                let api_url = url(&question.member)?;
                Some(PeerQuestion { api_url, member: question.member, patience: question.patience })
            })
            .collect();
        let alone = questions.is_empty();
        self.view.peers =
            PeerRound { asked_at: Some(self.view.now), complete: alone, answers: BTreeMap::new() };
        self.view.work.asking_peers = !alone;
        // Positions are compared: ours must not be older than theirs.
        commands.push(Command::Look);
        if !alone {
            commands.push(Command::AskPeers { round: self.round, questions });
        }
    }

    fn start_job(&mut self, job: Job, reason: &Reason, commands: &mut Vec<Command>) {
        if let Some(running) = &self.view.work.job {
            let goes_first =
                job.is_stop() && running.job != job && !(running.job.is_stop() && job != Job::StopAtOnce);
            if !goes_first {
                return;
            }
            commands.push(Command::CancelJob { id: self.job_id });
        }
        match &job {
            Job::StopOrderly { handover: Some(to), .. } => {
                self.view.memory.handover = Some(Handover { to: to.clone(), begun_at: self.view.now });
            }
            Job::StartPrimary { .. } | Job::StartStandby { .. } => {
                let memory = &mut self.view.memory;
                if memory.handover.take().is_some() && self.view.lease.is_some() {
                    memory.handover_in_vain_at = Some(self.view.now);
                }
            }
            Job::Bootstrap
            | Job::Clone { .. }
            | Job::CloneWithoutLeader
            | Job::PrePromote { .. }
            | Job::Rewind { .. }
            | Job::CloneRemote
            | Job::RewindRemote
            | Job::CopySlots { .. }
            | Job::Promote { .. }
            | Job::Follow { .. }
            | Job::StopOrderly { handover: None, .. }
            | Job::StopFast { .. }
            | Job::StopAtOnce
            | Job::SetAside
            | Job::Checkpoint
            | Job::Synchronize { .. }
            | Job::OpenGate => {}
        }
        if matches!(reason.rule, Rule::RestartStops | Rule::ReinitializeStops) {
            self.go_on_with_wish(Stage::Stopping);
        }
        self.job_id += 1;
        self.view.work.job = Some(RunningJob {
            job: job.clone(),
            reason: reason.clone(),
            since: self.view.now,
            cancelled: false,
        });
        commands.push(Command::StartJob { id: self.job_id, job });
    }

    fn cancel_job(&mut self, commands: &mut Vec<Command>) {
        if let Some(running) = &mut self.view.work.job
            && !running.cancelled
        {
            running.cancelled = true;
            commands.push(Command::CancelJob { id: self.job_id });
        }
    }

    /// The guardian hears what it does not stand by yet.
    fn order_fence(&mut self, order: FenceOrder, commands: &mut Vec<Command>) {
        let Guardian::Ready { confirmed } = self.view.guardian else { return };
        let stands = match (order, confirmed) {
            (FenceOrder::Keep, _) => true,
            (FenceOrder::Disarm, FenceOrder::Disarm) => !self.armed_by_keeper,
            (FenceOrder::Arm { term, fence_at }, FenceOrder::Arm { term: armed, fence_at: until }) => {
                term == armed && fence_at <= until
            }
            (FenceOrder::Disarm | FenceOrder::Arm { .. }, _) => false,
        };
        // One at a time: an order that overtakes another would undo it, and nobody would know which one stands.
        if stands || self.view.work.ordering_fence {
            return;
        }
        self.view.work.ordering_fence = true;
        self.armed_by_keeper = false;
        commands.push(Command::Fence(order));
    }

    /// The term whose key the renewals look at: ours, or one that the snapshot shows to hang on our session.
    fn term_to_hold(&self) -> Option<Term> {
        let shown = self.view.cluster().and_then(|cluster| cluster.leader.as_ref()).filter(|leader| {
            leader.name == self.view.me
                && leader.session.is_some()
                && leader.session == self.view.session.map(|session| session.id)
        });
        let term = self.view.lease.map(|lease| lease.term).max(shown.map(|leader| leader.term));
        term.filter(|&term| self.view.memory.released != Some(term))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Contact, Leader, MemberRecord, SessionId};

    fn name(name: &str) -> MemberName {
        name.parse().expect("a good name")
    }

    /// The orders of turku's keeper, whose session is the first one.
    fn orders(leader: Option<Leader>, session: Option<SessionId>, recorded: &[&str]) -> LeaseOrders {
        let mut mind = Mind::new(name("turku"), Tags::default(), Policy::default(), true);
        let session = session.map(|id| Session { id, asked_at: Moment::default(), ttl: Span::from_secs(6) });
        mind.view.session = session;
        let members = recorded.iter().map(|member| (name(member), MemberRecord::default())).collect();
        let cluster = Cluster { leader, members, ..Cluster::default() };
        mind.view.store = StoreView { cluster: Some(cluster), contact: Contact::Current };
        mind.turn(Moment::from_ms(100_000)).lease
    }

    #[test]
    fn only_who_is_led_and_recorded_may_renew_seldom() {
        let (first, second) = (SessionId(1), SessionId(2));
        let leader =
            |who: &str, session| Some(Leader { name: name(who), term: Term(3), session: Some(session) });
        let all = ["turku", "oulu"];
        let led = orders(leader("oulu", second), Some(first), &all);
        assert_eq!(led.hold, None);
        assert_eq!(
            led.every(true),
            Span::from_secs(2),
            "a third of what was granted, not of the ttl of the policy"
        );
        assert_eq!(led.every(false), led.renew_every);

        let leads = orders(leader("turku", first), Some(first), &all);
        assert_eq!((leads.hold, leads.rest), (Some(Term(3)), None));
        assert_eq!(leads.every(true), leads.renew_every);
        for (why, orders) in [
            ("nobody leads", orders(None, Some(first), &all)),
            ("its former life leads", orders(leader("turku", second), Some(first), &all)),
            ("it has no session", orders(leader("oulu", second), None, &all)),
            ("its record has gone", orders(leader("oulu", second), Some(first), &["oulu"])),
        ] {
            assert_eq!((orders.hold, orders.rest), (None, None), "{why}");
        }
    }
}
