//! `/cluster`, `/history`, `/config` and `/failsafe`: the last snapshot of the store, retold. Patroni asks the store
//! anew and hangs when it is silent; here the answer comes at once and says how old it is.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use crate::model::{
    Cluster, Contact, HistoryLine, Intent, Lsn, MemberIntent, MemberName, MemberRecord, MemberRole, Tags,
    Whose,
};

use super::answer::Answer;
use super::look::{Look, SyncDuty, names};
use super::status::state_text;

#[derive(Debug, Serialize)]
pub struct Document<'a> {
    members: Vec<Member<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pause: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scheduled_switchover: Option<Scheduled<'a>>,
    scope: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenure: Option<Beside<'a>>,
}

#[derive(Debug, Serialize)]
struct Member<'a> {
    name: &'a MemberName,
    role: &'static str,
    state: &'a str,
    api_url: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeline: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pending_restart: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pending_restart_reason: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scheduled_restart: Option<&'a Value>,
    #[serde(skip_serializing_if = "Tags::is_empty")]
    tags: &'a Tags,
    #[serde(skip_serializing_if = "Option::is_none")]
    copying: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gate: Option<&'a str>,
    #[serde(flatten)]
    position: Option<Position>,
}

/// Only of those who do not lead: how far they are behind the leader's last word.
#[derive(Debug, Serialize)]
struct Position {
    receive_lag: Value,
    receive_lsn: Value,
    replay_lag: Value,
    replay_lsn: Value,
    lag: Value,
    lsn: Value,
}

#[derive(Debug, Serialize)]
struct Scheduled<'a> {
    at: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'a MemberName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<&'a MemberName>,
}

#[derive(Debug, Serialize)]
struct Beside<'a> {
    /// The store does not answer, and has not for so long.
    #[serde(skip_serializing_if = "Option::is_none")]
    store_silent_ms: Option<u64>,
    /// Whose the pause is, and until when.
    #[serde(skip_serializing_if = "Option::is_none")]
    paused: Option<&'a Intent>,
    /// What members are kept from.
    #[serde(skip_serializing_if = "Option::is_none")]
    kept: Option<&'a BTreeMap<MemberName, MemberIntent>>,
    /// Whose the scheduled switchover is.
    #[serde(skip_serializing_if = "Option::is_none")]
    scheduled_switchover: Option<&'a Whose>,
}

pub fn cluster(look: Look) -> Answer {
    let Some(cluster) = look.cluster() else { return nothing_known() };
    Answer::json(200, &document(look, cluster))
}

pub fn document<'a>(look: Look<'a>, cluster: &'a Cluster) -> Document<'a> {
    let request = cluster.failover.as_ref().map(|failover| &failover.value);
    Document {
        members: cluster.members.iter().map(|(name, record)| member(look, cluster, name, record)).collect(),
        pause: look.paused().then_some(true),
        scheduled_switchover: request.and_then(|request| {
            let at = request.scheduled_at.as_deref()?;
            Some(Scheduled { at, from: request.leader.as_ref(), to: request.candidate.as_ref() })
        }),
        scope: &look.standing.facts.scope,
        tenure: beside(look),
    }
}

fn beside(look: Look) -> Option<Beside> {
    let store_silent_ms = match look.view().store.contact {
        Contact::Silent { since } => Some(look.now.since(since).as_ms()),
        Contact::Never | Contact::Current => None,
    };
    let paused = look.intents().and_then(|intents| intents.pause.as_ref()).filter(|_| look.paused());
    let kept = look.intents().map(|intents| &intents.members).filter(|members| !members.is_empty());
    let request = look.cluster().and_then(|cluster| cluster.failover.as_ref()).map(|request| &request.value);
    let scheduled_switchover =
        request.filter(|request| request.scheduled_at.is_some()).and_then(|request| request.whose.as_ref());
    let anything =
        store_silent_ms.is_some() || paused.is_some() || kept.is_some() || scheduled_switchover.is_some();
    anything.then_some(Beside { store_silent_ms, paused, kept, scheduled_switchover })
}

pub fn history(look: Look) -> Answer {
    let Some(cluster) = look.cluster() else { return nothing_known() };
    Answer::json(200, &cluster.history.iter().map(line).collect::<Vec<_>>())
}

pub fn config(look: Look) -> Answer {
    match look.cluster().and_then(|cluster| cluster.config.as_ref()) {
        Some(config) if config.value.is_object() => Answer::json(200, &config.value),
        Some(_) | None => Answer::sentence(502, "the cluster has no valid configuration"),
    }
}

pub fn failsafe(look: Look) -> Answer {
    match look.cluster() {
        Some(cluster) if !cluster.failsafe.is_empty() => Answer::json(200, &cluster.failsafe),
        Some(_) | None => Answer::sentence(502, "the cluster has no failsafe members"),
    }
}

fn nothing_known() -> Answer {
    Answer::sentence(503, "the store has not answered yet")
}

fn member<'a>(
    look: Look,
    cluster: &'a Cluster,
    name: &'a MemberName,
    record: &'a MemberRecord,
) -> Member<'a> {
    let leads = cluster.leader_name() == Some(name);
    let address = record.address();
    let role = role(look, cluster, name, record, leads);
    Member {
        name,
        role,
        state: match &record.replication_state {
            // A standby leader streams as well.
            Some(state) if role != "leader" => state,
            Some(_) | None => state_text(record.state),
        },
        api_url: &record.api_url,
        port: address.as_ref().map(|address| address.port),
        host: address.map(|address| address.host),
        timeline: record.timeline.map(|timeline| timeline.0),
        pending_restart: record.pending_restart,
        pending_restart_reason: record.pending_restart_reason.as_ref(),
        scheduled_restart: record.scheduled_restart.as_ref(),
        tags: &record.tags,
        copying: record.copying.as_deref(),
        gate: record.gate.as_deref(),
        position: (!leads).then(|| position(record, cluster.status.optime.unwrap_or_default())),
    }
}

fn role(
    look: Look,
    cluster: &Cluster,
    name: &MemberName,
    record: &MemberRecord,
    leads: bool,
) -> &'static str {
    let synchronous = cluster.sync.as_ref().is_some_and(|sync| names(&sync.value, name.as_str()));
    match look.sync_mode() {
        _ if leads && record.role == MemberRole::StandbyLeader => "standby_leader",
        _ if leads => "leader",
        Some(SyncDuty::Sync) if synchronous => "sync_standby",
        Some(SyncDuty::Quorum) if synchronous => "quorum_standby",
        Some(SyncDuty::Sync | SyncDuty::Quorum) | None => "replica",
    }
}

fn position(record: &MemberRecord, leader_end: Lsn) -> Position {
    let pair = |lsn: Option<Lsn>| match lsn {
        Some(lsn) => (json!(lsn.lag_behind(leader_end).0), json!(lsn.to_string())),
        None => (json!("unknown"), json!("unknown")),
    };
    let (receive_lag, receive_lsn) = pair(record.receive_lsn);
    let (replay_lag, replay_lsn) = pair(record.replay_lsn);
    let (lag, lsn) = pair(record.xlog_location);
    Position { receive_lag, receive_lsn, replay_lag, replay_lsn, lag, lsn }
}

/// As long as what is known: three, four or five entries.
fn line(line: &HistoryLine) -> Vec<Value> {
    let mut entries = vec![json!(line.timeline), json!(line.switch), json!(line.reason)];
    if let Some(timestamp) = &line.timestamp {
        entries.push(json!(timestamp));
        entries.extend(line.new_leader.as_ref().map(|leader| json!(leader)));
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::*;
    use super::*;
    use crate::model::*;

    fn check(answer: Answer, status: u16, wanted: &str) {
        assert_eq!(
            (answer.status, String::from_utf8(answer.body).expect("UTF-8").as_str()),
            (status, wanted)
        );
    }

    fn look(standing: &Standing) -> Look<'_> {
        Look::new(standing, NOW)
    }

    #[test]
    fn the_cluster_is_told_as_patroni_tells_it() {
        let standing = with(standby(), |s| {
            let cluster = snapshot(s);
            cluster.members.remove(&name("vaasa"));
            cluster.status.optime = Some(Lsn(REPLAYED + 100));
            tag_member(cluster, "turku");
        });
        check(
            cluster(look(&standing)),
            200,
            r#"{"members": [{"name": "oulu", "role": "leader", "state": "running", "api_url": "http://127.0.0.1:8100/patroni", "host": "127.0.0.1", "port": 5550, "timeline": 3}, {"name": "turku", "role": "replica", "state": "streaming", "api_url": "http://127.0.0.1:8101/patroni", "host": "127.0.0.1", "port": 5551, "timeline": 3, "tags": {"clonefrom": true}, "receive_lag": 100, "receive_lsn": "0/4045BC0", "replay_lag": 100, "replay_lsn": "0/4045BC0", "lag": 100, "lsn": "0/4045BC0"}], "scope": "batman"}"#,
        );
    }

    #[test]
    fn a_schedule_a_pause_and_a_silent_store_are_told() {
        let standing = with(standby(), |s| {
            s.view.policy.pause = true;
            s.view.store.contact = Contact::Silent { since: Moment::from_ms(3_500) };
            let cluster = snapshot(s);
            cluster.members.clear();
            cluster.failover = Some(Versioned {
                value: FailoverRequest {
                    leader: Some(name("oulu")),
                    candidate: Some(name("turku")),
                    scheduled_at: Some("2026-11-21T10:00:00+00:00".into()),
                    whose: Some(Whose { by: "anna@ops".into(), why: Some("a new disk".into()) }),
                },
                version: 9,
            });
        });
        check(
            cluster(look(&standing)),
            200,
            r#"{"members": [], "pause": true, "scheduled_switchover": {"at": "2026-11-21T10:00:00+00:00", "from": "oulu", "to": "turku"}, "scope": "batman", "tenure": {"store_silent_ms": 1500, "scheduled_switchover": {"by": "anna@ops", "why": "a new disk"}}}"#,
        );
    }

    #[test]
    fn the_duties_of_the_synchronous_modes_are_roles() {
        let role_of_turku = |standing: &Standing| {
            let answer = cluster(look(standing));
            let document: Value = serde_json::from_slice(&answer.body).expect("JSON");
            document["members"][1]["role"].as_str().expect("a role").to_owned()
        };
        assert_eq!(role_of_turku(&with(standby(), be_sync)), "sync_standby");
        assert_eq!(role_of_turku(&with(standby(), be_quorum)), "quorum_standby");
    }

    #[test]
    fn an_unknown_position_is_called_unknown() {
        let standing = with(standby(), |s| {
            snapshot(s).members.insert(name("turku"), MemberRecord::default());
        });
        let body = String::from_utf8(cluster(look(&standing)).body).expect("UTF-8");
        assert!(
            body.contains(r#""receive_lag": "unknown", "receive_lsn": "unknown", "replay_lag""#),
            "{body}"
        );
    }

    #[test]
    fn history_and_config_come_from_the_last_snapshot() {
        let standing = standby();
        check(
            history(look(&standing)),
            200,
            r#"[[1, 67393640, "no recovery target specified", "2026-11-20T23:29:18.640000+00:00", "oulu"]]"#,
        );
        check(config(look(&standing)), 200, r#"{"loop_wait": 5, "ttl": 30}"#);
        assert_eq!(history(look(&empty())).status, 503);
        assert_eq!(cluster(look(&empty())).status, 503);
        assert_eq!((config(look(&empty())).status, failsafe(look(&standing)).status), (502, 502));
    }

    fn tag_member(cluster: &mut Cluster, member: &str) {
        let record = cluster.members.get_mut(member).expect("a member of the fixture");
        record.tags.0.insert("clonefrom".into(), json!(true));
    }
}
