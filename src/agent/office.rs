//! The loop: the one task that owns what this member knows. It takes the next event, decides, and hands out the commands.
//! It never waits for disk, network or PostgreSQL.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::addresses::{self, Addresses};
use super::asks::{Asks, moment_of};
use super::errands::{self, ErrandContext};
use super::eyes::Sight;
use super::noting;
use super::publisher::Publication;
use super::service::Herald;
use super::wishes::Wishes;
use super::workshop::Assignment;
use crate::api;
use crate::config::Config;
use crate::decide::mind::{
    Call, Command, Event, LOOKED_WITHIN, LeaseEvent, LeaseOrders, Mind, PeerQuestion, Turn,
};
use crate::decide::publish::{self, Identity};
use crate::model::{
    Cluster, Copying, Errand, Facts, FenceOrder, Job, Lease, MemberName, MemberRecord, MessageId, Moment,
    Plan, Reason, Rule, Running, SessionId, Severity, Span, Standing, Tags, View,
};
use crate::peers;
use crate::recorder::{Note, Recorder};
use crate::store::Store;
use crate::{clock, fence};

/// Everything that the loop speaks with.
pub struct Desk {
    pub events: mpsc::Receiver<Event>,
    /// This member's own files, whenever they were read again.
    pub reloads: watch::Receiver<Option<Box<Config>>>,
    /// Somebody else is to take over everything as it is.
    pub leave: watch::Receiver<bool>,
    pub herald: Herald,
    /// What operators ask of this member's PostgreSQL.
    pub asks: mpsc::Receiver<api::Command>,
    /// How other members are asked.
    pub peers: watch::Receiver<Arc<peers::Client>>,
    /// For the tasks that the loop starts.
    pub answers: mpsc::Sender<Event>,
    pub store: Store,
    pub identity: Identity,
    pub wishes: Wishes,
    pub sight: watch::Receiver<Sight>,
    pub copying: watch::Receiver<Option<Copying>>,
    pub looks: api::Looks,
    pub assignments: mpsc::Sender<Assignment>,
    pub calls: mpsc::Sender<Call>,
    pub guardian: watch::Sender<FenceOrder>,
    pub watchdog: watch::Sender<Option<fence::Watch>>,
    pub lease: watch::Sender<LeaseOrders>,
    pub publication: watch::Sender<Option<Publication>>,
    pub standing: watch::Sender<Arc<Standing>>,
    pub session: watch::Sender<Option<SessionId>>,
    pub recorder: Recorder,
    pub addresses: watch::Receiver<Addresses>,
    pub scope: String,
}

/// How the loop came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// PostgreSQL has been stopped, or was left alone on purpose, and the lease given back.
    InOrder,
    /// Everything goes on for the next agent.
    Left,
}

pub struct Office {
    mind: Mind,
    /// As this member's own file has them. What operators keep it from is added.
    tags: Tags,
    desk: Desk,
    running: JoinSet<()>,
    last: Option<Reason>,
    config_version: Option<i64>,
    store_seen: Option<(Moment, u64)>,
    decisions: u64,
    asks: Asks,
}

impl Office {
    pub fn new(mind: Mind, desk: Desk) -> Office {
        Office {
            tags: mind.view().tags.clone(),
            mind,
            desk,
            running: JoinSet::new(),
            last: None,
            config_version: None,
            store_seen: None,
            decisions: 0,
            asks: Asks::default(),
        }
    }

    /// Works until an orderly end is complete, or until it is told to leave.
    pub async fn work(mut self) -> End {
        let mut look_again = Moment::default();
        loop {
            let wait = clock::now().until(look_again).min(self.desk.herald.patience());
            let event = tokio::select! {
                event = self.desk.events.recv() => match event {
                    Some(event) => event,
                    None => return End::InOrder,
                },
                // An end that has begun is carried through.
                Ok(()) = self.desk.leave.changed(), if !self.mind.view().ending => {
                    self.desk.herald.leaves();
                    return End::Left;
                }
                () = clock::pause(wait) => Event::Tick,
                Ok(()) = self.desk.reloads.changed() => {
                    self.reload();
                    Event::Tick
                }
                Some(command) = self.desk.asks.recv() => {
                    let started = self.desk.sight.borrow().facts.postmaster_start_time.clone();
                    self.asks.take(command, started).unwrap_or(Event::Tick)
                }
                Some(_) = self.running.join_next() => continue,
            };
            self.learn(event);
            // What has arrived meanwhile is one situation, and is decided upon once.
            while let Ok(event) = self.desk.events.try_recv() {
                self.learn(event);
            }
            self.look_at_schedules();
            let turn = self.mind.turn(clock::now());
            self.decisions += 1;
            look_again = turn.plan.look_again;
            if self.act(turn) {
                return End::InOrder;
            }
        }
    }

    fn learn(&mut self, event: Event) {
        let now = clock::now();
        match &event {
            Event::Snapshot(cluster) => {
                self.store_seen = Some((now, clock::wall().as_second().unsigned_abs()));
                self.learn_policy(now, cluster);
            }
            Event::Lease(LeaseEvent::Opened(session) | LeaseEvent::Renewed { session, .. }) => {
                self.store_seen = Some((now, clock::wall().as_second().unsigned_abs()));
                self.desk.session.send_if_modified(|known| {
                    let news = *known != Some(session.id);
                    *known = Some(session.id);
                    news
                });
            }
            _ => {}
        }
        self.mind.apply(now, event);
    }

    /// The dynamic configuration is part of the snapshot, and takes effect with it.
    fn learn_policy(&mut self, now: Moment, cluster: &Cluster) {
        // Where the key has gone or cannot be read, what it said last holds: a standby cluster must not become a primary one
        // by that.
        let Some(config) =
            cluster.config.as_ref().filter(|config| Some(config.version) != self.config_version)
        else {
            return;
        };
        self.config_version = Some(config.version);
        let policy = self.desk.wishes.learn(&config.value);
        self.order_watchdog();
        self.mind.apply(now, Event::Policy(Box::new(policy)));
    }

    /// What is to happen at some time of the wall clock.
    fn look_at_schedules(&mut self) {
        let (now, wall) = (clock::now(), clock::wall());
        let request = self.mind.view().cluster().and_then(|cluster| cluster.failover.as_ref());
        let at = request.and_then(|request| request.value.scheduled_at.as_ref());
        let due = at.map(|at| moment_of(at, now, wall));
        self.mind.apply(now, Event::SwitchoverDue(due));
        self.look_at_intents(now, wall);
        let standing = Arc::clone(&self.desk.standing.borrow());
        if let Some(event) = self.asks.due(&standing, wall) {
            self.mind.apply(now, event);
        }
    }

    fn look_at_intents(&mut self, now: Moment, wall: jiff::Timestamp) {
        let intents = self.mind.view().cluster().and_then(|cluster| cluster.intents.as_ref());
        let until = intents.and_then(|intents| intents.value.pause.as_ref()?.until.as_ref());
        let ends = until.map(|until| moment_of(until, now, wall));
        let kept =
            intents.and_then(|intents| intents.value.of_member(&self.mind.view().me, noting::has_come));
        let tags = kept.map_or_else(|| self.tags.clone(), |kept| kept.kind.added_to(&self.tags));
        self.mind.apply(now, Event::PauseEnds(ends));
        if self.mind.view().tags != tags {
            self.mind.apply(now, Event::Tags(tags));
        }
    }

    fn reload(&mut self) {
        let Some(config) = self.desk.reloads.borrow_and_update().clone() else { return };
        let now = clock::now();
        self.tags = config.tags.told();
        let policy = self.desk.wishes.relearn(*config);
        self.order_watchdog();
        self.mind.apply(now, Event::Policy(Box::new(policy)));
        self.desk.herald.reloaded();
    }

    fn order_watchdog(&self) {
        let wanted = self.desk.wishes.watch();
        self.desk.watchdog.send_if_modified(|known| {
            let news = *known != wanted;
            *known = wanted;
            news
        });
    }

    /// Carries a turn out. True when the end is reached.
    fn act(&mut self, turn: Turn) -> bool {
        self.desk.lease.send_if_modified(|orders| {
            // In here, where the keeper does not read: see there.
            let news = turn.lease.is_news(orders, clock::now());
            *orders = turn.lease;
            news
        });
        self.tell(&turn.plan);
        if let Some(view) = turn.upon {
            self.desk.recorder.note(Note { view, plan: turn.plan.clone(), unix_ms: clock::wall_ms() });
        }
        let mut ended = false;
        for command in turn.commands {
            match command {
                Command::Errand(errand) => self.send_errand(errand),
                Command::Look => self.desk.looks.want(clock::now()),
                Command::AskPeers { round, questions } => self.ask_peers(round, questions),
                Command::AskLeader { asked_at, question } => self.ask_leader(asked_at, question),
                Command::StartJob { id, job } => {
                    let start_patience =
                        self.mind.view().policy.primary_start_timeout.max(Span::from_secs(60));
                    let source = self.source(&job);
                    self.assign(Assignment::Start { id, job, source, start_patience });
                }
                Command::CancelJob { id } => self.assign(Assignment::Cancel { id }),
                Command::Fence(order) => self.order_guardian(order),
                Command::AskConsent { round, lease, questions } => self.ask_consent(round, lease, questions),
                Command::AnswerConsent { id, consent } => self.asks.consent(id, consent),
                Command::Call(call) => self.call(call),
                Command::Answer { id, outcome } => self.asks.answer(id, outcome),
                Command::Exit => ended = true,
            }
        }
        self.publish(turn.plan);
        ended
    }

    fn tell(&mut self, plan: &Plan) {
        if self.last.as_ref() == Some(&plan.reason) {
            return;
        }
        tell(self.mind.view(), &plan.reason);
        self.last = Some(plan.reason.clone());
    }

    fn send_errand(&mut self, errand: Errand) {
        let view = self.mind.view();
        let status = view.cluster().map(|cluster| publish::last_status(view, cluster));
        let context = ErrandContext {
            me: view.me.clone(),
            session: view.session.map(|session| session.id),
            status,
            bound: view.cluster().is_some_and(|cluster| !cluster.failsafe.is_empty()),
            first_config: self.desk.wishes.first_dynamic(),
            deadline: view.policy.retry_timeout.min(Span::from_secs(5)).as_duration(),
        };
        let (store, answers) = (self.desk.store.clone(), self.desk.answers.clone());
        let releases = matches!(errand, Errand::ReleaseLease { .. });
        let gone = releases.then(|| addresses::left(self.desk.addresses.clone(), self.decisions));
        self.running.spawn(async move {
            // Before anybody else can have them.
            if let Some(gone) = gone {
                gone.await;
            }
            let outcome = errands::carry_out(&store, errand, context).await;
            // A loop that has ended needs no answer.
            let _ = answers.send(Event::ErrandEnded(outcome)).await;
        });
    }

    /// The sentry carries out the latest order; one that it has not come to yet is out of date.
    fn order_guardian(&self, order: FenceOrder) {
        self.desk.guardian.send_replace(order);
    }

    fn ask_peers(&mut self, round: u64, questions: Vec<PeerQuestion>) {
        let answers = self.desk.answers.clone();
        let client = Arc::clone(&self.desk.peers.borrow());
        self.running.spawn(async move {
            let heard = peers::ask(&client, questions.into_iter().map(target).collect()).await;
            let _ = answers.send(Event::PeersAnswered { round, answers: heard }).await;
        });
    }

    fn ask_consent(&mut self, round: u64, lease: Lease, questions: Vec<PeerQuestion>) {
        let identity = &self.desk.identity;
        let view = self.mind.view();
        let request = peers::ConsentRequest {
            name: view.me.clone(),
            conn_url: identity.conn_url.clone(),
            api_url: identity.api_url.clone(),
            slots: view.cluster().map(|cluster| cluster.status.slots.clone()).unwrap_or_default(),
            promise_ms: lease.timing.ttl.as_ms(),
        };
        let answers = self.desk.answers.clone();
        let client = Arc::clone(&self.desk.peers.borrow());
        self.running.spawn(async move {
            let agreed = peers::ask_consent(&client, &request, questions.into_iter().map(target)).await;
            let _ = answers.send(Event::ConsentAnswered { round, agreed }).await;
        });
    }

    fn ask_leader(&mut self, asked_at: Moment, question: PeerQuestion) {
        let answers = self.desk.answers.clone();
        let client = Arc::clone(&self.desk.peers.borrow());
        let mut target = target(question);
        target.api_url += &format!("?{}={}", api::LOOKED_WITHIN, LOOKED_WITHIN.as_ms());
        self.running.spawn(async move {
            let heard = peers::ask(&client, vec![target]).await;
            for answer in heard.into_values() {
                // A loop that does not come to it hears the next one.
                let _ = answers.try_send(Event::LeaderAnswered { asked_at, answer: Box::new(answer) });
            }
        });
    }

    fn assign(&mut self, assignment: Assignment) {
        // The workshop takes assignments all the time; its queue is longer than what one loop can order.
        if self.desk.assignments.try_send(assignment).is_err() {
            tracing::error!("the workshop takes no assignments");
        }
    }

    fn call(&self, call: Call) {
        if self.desk.calls.try_send(call).is_err() {
            tracing::warn!("{} is not called: too many callbacks wait", call.occasion.name());
        }
    }

    /// Where the job copies from, if it does.
    fn source(&self, job: &Job) -> Option<crate::model::Address> {
        let view = self.mind.view();
        let cluster = view.cluster();
        match job {
            Job::CloneRemote | Job::RewindRemote => view.policy.follows.as_ref()?.address.clone(),
            Job::Clone { from } => cluster?.members.get(from)?.address(),
            Job::Rewind { .. } | Job::CopySlots { .. } => cluster?.leader_record()?.address(),
            Job::Bootstrap
            | Job::CloneWithoutLeader
            | Job::StartPrimary { .. }
            | Job::StartStandby { .. }
            | Job::PrePromote { .. }
            | Job::Promote { .. }
            | Job::Follow { .. }
            | Job::StopOrderly { .. }
            | Job::StopFast { .. }
            | Job::StopAtOnce
            | Job::SetAside
            | Job::Checkpoint
            | Job::Synchronize { .. }
            | Job::OpenGate => None,
        }
    }

    fn publish(&mut self, plan: Plan) {
        let facts = self.facts();
        let view = self.mind.view();
        let publication = view.session.zip(view.cluster()).map(|(session, cluster)| Publication {
            session: session.id,
            term: view.lease.map(|lease| lease.term),
            record: MemberRecord {
                pending_restart: facts.pending_restart.is_some().then_some(true),
                pending_restart_reason: facts.pending_restart.clone(),
                scheduled_restart: facts.scheduled_restart.clone(),
                restart_wanted: facts.restart_wanted.clone(),
                copying: facts.copying.map(|copying| copying.to_string()),
                ..publish::member_record(view, &self.desk.identity)
            },
            standing: cluster.members.get(&view.me).cloned(),
            status: publish::status_with_slots(view, cluster, &self.desk.sight.borrow().slots),
            history: publish::history(view, cluster, wall_clock()),
            failsafe: publish::failsafe(view, cluster),
            positions_every: view.policy.loop_wait,
        });
        self.desk.publication.send_if_modified(|known| {
            let news = *known != publication;
            *known = publication;
            news
        });
        self.desk.herald.turned(clock::now(), view, &plan, &facts);
        self.desk.standing.send_replace(Arc::new(Standing { view: view.clone(), plan, facts }));
    }

    fn facts(&self) -> Facts {
        let mut facts = self.desk.sight.borrow().facts.clone();
        facts.scope.clone_from(&self.desk.scope);
        facts.store_last_seen_at = self.store_seen.map(|(at, _)| at);
        facts.decisions = self.decisions;
        facts.store_last_seen = self.store_seen.map(|(_, seconds)| seconds);
        facts.scheduled_restart = self.asks.document();
        facts.restart_wanted = self.asks.wanted();
        facts.copying = *self.desk.copying.borrow();
        facts.addresses.clone_from(&self.desk.addresses.borrow().standings);
        facts
    }
}

fn target(question: PeerQuestion) -> peers::Target {
    let PeerQuestion { member, api_url, patience } = question;
    peers::Target { member, api_url, patience: patience.as_duration() }
}

/// Tells moments of the boot clock by the wall clock as it stands now.
fn wall_clock() -> impl Fn(Moment) -> String {
    let (now, wall) = (clock::now(), clock::wall());
    move |at| {
        let ago = std::time::Duration::from_millis(now.since(at).as_ms());
        wall.checked_sub(ago).unwrap_or(wall).round(jiff::Unit::Millisecond).unwrap_or(wall).to_string()
    }
}

/// A rule is told once, when it begins to hold.
fn tell(view: &View, reason: &Reason) {
    let position = view.postgres.running().and_then(Running::position);
    let takeover = view.memory.takeover.filter(|_| reason.rule == Rule::LeaderPromotes);
    let loss = takeover.map(|takeover| takeover.loss);
    let cost = loss.map(|loss| format!("; lost: {}", loss.told(wall_clock()))).unwrap_or_default();
    let gate = view.memory.sync.gate.filter(|_| reason.rule == Rule::GateOpens);
    let waited = gate.map(|gate| gate.waited(view.now)).unwrap_or_default();
    macro_rules! say {
        ($level:expr) => {
            tracing::event!(
                $level,
                rule = reason.rule.code(),
                term = view.lease.map(|lease| lease.term.0),
                timeline = position.map(|position| position.timeline.0),
                lsn = position.map(|position| position.lsn.to_string()),
                other_member = reason.member.as_ref().map(MemberName::as_str),
                message_id = reason.rule.message_id().map(MessageId::as_str),
                loss_ms_max = loss.and_then(|loss| loss.span_max()).map(Span::as_ms),
                loss_bytes_max = loss.and_then(|loss| loss.bytes_max()).map(|bytes| bytes.0),
                loss_bytes_known = loss.and_then(|loss| loss.bytes_known()).map(|bytes| bytes.0),
                gate_ms = gate.map(|gate| view.now.since(gate.since).as_ms()),
                gate_bytes = gate.map(|gate| gate.lacked),
                "{reason}{cost}{waited}"
            )
        };
    }
    match reason.rule.severity() {
        Severity::Info => say!(tracing::Level::INFO),
        Severity::Warning => say!(tracing::Level::WARN),
        Severity::Error => say!(tracing::Level::ERROR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::captured;
    use crate::model::{Policy, Tags};

    #[test]
    fn a_rule_is_told_with_its_fields_at_the_level_that_it_deserves() {
        let name = |name: &str| name.parse::<MemberName>().expect("a name");
        let mind = Mind::new(name("turku"), Tags::default(), Policy::default(), true);
        let lines = captured(|| {
            tell(mind.view(), &Rule::RejoinBlocked.into());
            tell(mind.view(), &Reason::about(Rule::OtherLeads, &name("oulu")));
            tell(mind.view(), &Rule::LeaderStays.into());
        });
        let told = lines.iter().map(|line| {
            let fields = ["rule", "other_member", "message_id", "term"].map(|name| line.field(name));
            (*line.place.level(), fields)
        });
        let id = |rule: Rule| rule.message_id().map(MessageId::as_str);
        let expected = [
            (tracing::Level::ERROR, [Some("rejoin_blocked"), None, id(Rule::RejoinBlocked), None]),
            (tracing::Level::WARN, [Some("other_leads"), Some("oulu"), id(Rule::OtherLeads), None]),
            (tracing::Level::INFO, [Some("leader_stays"), None, None, None]),
        ];
        assert_eq!(told.collect::<Vec<_>>(), expected);
    }
}
