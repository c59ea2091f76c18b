//! What an agent publishes, as the daemon's publisher does.

use super::host::{Call, Purpose};
use super::store::Request;
use super::world::World;
use crate::decide::publish;
use crate::model::{Moment, Span};

/// A record whose WAL positions alone have moved on is written this often.
const RECORD_EVERY: Span = Span::from_secs(2);
const STATUS_EVERY: Span = Span::from_secs(1);

impl World {
    pub fn publish(&mut self, host: usize, now: Moment) {
        let Some(agent) = self.hosts[host].agent.as_mut() else { return };
        let view = agent.mind.view();
        let Some(session) = view.session else { return };
        let mut calls = Vec::new();
        if !agent.written.record_under_way {
            let record = publish::member_record(view, &agent.identity);
            let standing = view.cluster().and_then(|cluster| cluster.members.get(&view.me));
            let overtaken = standing.is_some_and(|standing| publish::differs_in_substance(standing, &record));
            let due = match &agent.written.record {
                Some((in_session, old, at)) => {
                    *in_session != session.id
                        || publish::differs_in_substance(old, &record)
                        || ((*old != record || overtaken) && RECORD_EVERY <= now.since(*at))
                }
                None => true,
            };
            if due {
                let name = view.me.clone();
                agent.written.record_under_way = true;
                calls.push(Call {
                    purpose: Purpose::Member(Box::new(record.clone())),
                    request: Request::PutMember { name, record: Box::new(record), session: session.id },
                });
            }
        }
        if let (Some(cluster), Some(lease)) = (view.cluster(), view.lease_in_force()) {
            let term = lease.term;
            let recently = agent.written.status.as_ref().is_some_and(|(_, at)| now.since(*at) < STATUS_EVERY);
            if !agent.written.status_under_way
                && !recently
                && let Some(status) = publish::status(view, cluster)
            {
                agent.written.status_under_way = true;
                calls.push(Call {
                    purpose: Purpose::Status(status.clone()),
                    request: Request::PutStatus { term, status },
                });
            }
            if !agent.written.history_under_way
                && let Some(history) = publish::history(view, cluster, |at| at.as_ms().to_string())
            {
                agent.written.history_under_way = true;
                calls
                    .push(Call { purpose: Purpose::History, request: Request::PutHistory { term, history } });
            }
            if !agent.written.failsafe_under_way
                && let Some(members) = publish::failsafe(view, cluster)
            {
                agent.written.failsafe_under_way = true;
                let request = Request::PutFailsafe { term, members };
                calls.push(Call { purpose: Purpose::Failsafe, request });
            }
        }
        for call in calls {
            self.ask_store(host, call);
        }
    }
}
