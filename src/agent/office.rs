//! The loop: the one task that owns what this member knows. It takes the next event, decides, and hands out the commands.
//! It never waits for disk, network or PostgreSQL.

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::errands::{self, ErrandContext};
use super::eyes::Sight;
use super::publisher::Publication;
use super::service::Herald;
use super::wishes::Wishes;
use super::workshop::Assignment;
use crate::config::Config;
use crate::decide::mind::{Command, Event, LeaseEvent, LeaseOrders, Mind, PeerQuestion, Turn};
use crate::decide::publish::{self, Identity};
use crate::model::{Cluster, Errand, FenceOrder, Moment, Plan, Reason, SessionId, Span, Standing};
use crate::peers;
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
    /// For the tasks that the loop starts.
    pub answers: mpsc::Sender<Event>,
    pub store: Store,
    pub identity: Identity,
    pub wishes: Wishes,
    pub sight: watch::Receiver<Sight>,
    pub assignments: mpsc::Sender<Assignment>,
    pub guardian: watch::Sender<FenceOrder>,
    pub watchdog: watch::Sender<Option<fence::Watch>>,
    pub lease: watch::Sender<LeaseOrders>,
    pub publication: watch::Sender<Option<Publication>>,
    pub standing: watch::Sender<Arc<Standing>>,
    pub session: watch::Sender<Option<SessionId>>,
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
    desk: Desk,
    running: JoinSet<()>,
    last: Option<Reason>,
    config_version: Option<i64>,
    store_seen: Option<(Moment, u64)>,
    decisions: u64,
}

impl Office {
    pub fn new(mind: Mind, desk: Desk) -> Office {
        Office {
            mind,
            desk,
            running: JoinSet::new(),
            last: None,
            config_version: None,
            store_seen: None,
            decisions: 0,
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
                Some(_) = self.running.join_next() => continue,
            };
            self.learn(event);
            // What has arrived meanwhile is one situation, and is decided upon once.
            while let Ok(event) = self.desk.events.try_recv() {
                self.learn(event);
            }
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
        let version = cluster.config.as_ref().map(|config| config.version);
        if version == self.config_version {
            return;
        }
        self.config_version = version;
        let dynamic = cluster.config.as_ref().map_or(&Value::Null, |config| &config.value);
        let policy = self.desk.wishes.learn(dynamic);
        self.order_watchdog();
        self.mind.apply(now, Event::Policy(Box::new(policy)));
    }

    fn reload(&mut self) {
        let Some(config) = self.desk.reloads.borrow_and_update().clone() else { return };
        let now = clock::now();
        self.mind.apply(now, Event::Tags(config.tags.clone()));
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
            let news = *orders != turn.lease;
            *orders = turn.lease;
            news
        });
        self.tell(&turn.plan);
        let mut ended = false;
        for command in turn.commands {
            match command {
                Command::Errand(errand) => self.send_errand(errand),
                Command::AskPeers { round, questions } => self.ask_peers(round, questions),
                Command::StartJob { id, job } => {
                    let start_patience =
                        self.mind.view().policy.primary_start_timeout.max(Span::from_secs(60));
                    self.assign(Assignment::Start { id, job, source: self.source(), start_patience });
                }
                Command::CancelJob { id } => self.assign(Assignment::Cancel { id }),
                Command::Fence(order) => self.order_guardian(order),
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
        let view = self.mind.view();
        let term = view.lease.map(|lease| lease.term.0);
        let position = view.postgres.running().and_then(crate::model::Running::position);
        tracing::info!(
            rule = plan.reason.rule.code(),
            term,
            timeline = position.map(|position| position.timeline.0),
            lsn = position.map(|position| position.lsn.to_string()),
            "{}",
            plan.reason
        );
        self.last = Some(plan.reason.clone());
    }

    fn send_errand(&mut self, errand: Errand) {
        let view = self.mind.view();
        let status = view.cluster().map(|cluster| {
            let mut status = cluster.status.clone();
            if let crate::model::Postgres::Stopped { control } = &view.postgres {
                status.optime = Some(control.checkpoint.lsn);
            }
            status
        });
        let context = ErrandContext {
            me: view.me.clone(),
            session: view.session.map(|session| session.id),
            status,
            first_config: self.desk.wishes.first_dynamic(),
            deadline: view.policy.retry_timeout.min(Span::from_secs(5)).as_duration(),
        };
        let (store, answers) = (self.desk.store.clone(), self.desk.answers.clone());
        self.running.spawn(async move {
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
        self.running.spawn(async move {
            let target = |PeerQuestion { member, api_url, patience }| peers::Target {
                member,
                api_url,
                patience: patience.as_duration(),
            };
            let heard = peers::ask(questions.into_iter().map(target).collect()).await;
            let _ = answers.send(Event::PeersAnswered { round, answers: heard }).await;
        });
    }

    fn assign(&mut self, assignment: Assignment) {
        // The workshop takes assignments all the time; its queue is longer than what one loop can order.
        if self.desk.assignments.try_send(assignment).is_err() {
            tracing::error!("the workshop takes no assignments");
        }
    }

    /// Where a clone or rewind would copy from.
    fn source(&self) -> Option<crate::model::Address> {
        self.mind.view().cluster()?.leader_record()?.address()
    }

    fn publish(&mut self, plan: Plan) {
        let view = self.mind.view();
        let publication = view.session.zip(view.cluster()).map(|(session, cluster)| Publication {
            session: session.id,
            term: view.lease.map(|lease| lease.term),
            record: publish::member_record(view, &self.desk.identity),
            record_stands: cluster.members.contains_key(&view.me),
            status: publish::status(view, cluster),
            history: publish::history(view, cluster, &clock::wall().to_string()),
            positions_every: view.policy.loop_wait,
        });
        self.desk.publication.send_if_modified(|known| {
            let news = *known != publication;
            *known = publication;
            news
        });
        let mut facts = self.desk.sight.borrow().facts.clone();
        facts.scope.clone_from(&self.desk.scope);
        facts.store_last_seen_at = self.store_seen.map(|(at, _)| at);
        facts.decisions = self.decisions;
        facts.store_last_seen = self.store_seen.map(|(_, seconds)| seconds);
        self.desk.herald.turned(clock::now(), view, &plan, &facts);
        self.desk.standing.send_replace(Arc::new(Standing { view: view.clone(), plan, facts }));
    }
}
