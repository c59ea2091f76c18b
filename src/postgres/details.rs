//! The one statement that tells everything about a running server, and the reading of its answer.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use tokio_postgres::{Row, Statement};

use super::error::{Error, Trying};
use super::sql::Session;
use crate::model::{Lsn, ReplicationRow, SlotRow, Span, SystemId, Timeline};

#[derive(Clone, Debug, Default)]
pub(super) struct Details {
    pub in_recovery: bool,
    pub system: Option<SystemId>,
    pub version: u32,
    /// Of a primary.
    pub timeline: Option<Timeline>,
    pub flushed: Option<Lsn>,
    pub control_timeline: Option<Timeline>,
    pub recovery_timeline: Option<Timeline>,
    pub received_timeline: Option<Timeline>,
    /// From another server; a stream that has just begun again is not behind what was replayed of an earlier one.
    pub received: Option<Lsn>,
    /// How far the server that this one streams from has written, by its last message.
    pub upstream_end: Option<Lsn>,
    pub replayed: Option<Lsn>,
    pub streaming: bool,
    pub paused: bool,
    pub replayed_timestamp: Option<String>,
    pub started_timestamp: Option<String>,
    pub conninfo: String,
    pub restores: bool,
    pub wal_segment_bytes: u64,
    pub replication: Vec<ReplicationRow>,
    pub hba_file: String,
    /// Of a primary.
    pub names: String,
    pub receivers: Vec<ReceiverRow>,
    pub slots: Vec<SlotRow>,
    /// Parameters that a restart would change, by PostgreSQL's own account.
    pub pending_restart: Option<Value>,
    /// The values in force of the parameters that stand on the command line.
    pub in_force: BTreeMap<String, String>,
}

/// A standby that streams from here, and how far it is.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct ReceiverRow {
    pub name: String,
    pub written: Option<String>,
    pub flushed: Option<String>,
    pub replayed: Option<String>,
}

const WHAT: &str = "ask PostgreSQL where it stands";
const STATEMENT: &str = "
SELECT pg_is_in_recovery() AS in_recovery,
    (SELECT system_identifier FROM pg_control_system()) AS system,
    current_setting('server_version_num')::int AS version,
    CASE WHEN pg_is_in_recovery() THEN NULL
        ELSE substr(pg_walfile_name(pg_current_wal_flush_lsn()), 1, 8) END AS timeline,
    CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_current_wal_flush_lsn()::text END AS flushed,
    (SELECT timeline_id FROM pg_control_checkpoint()) AS control_timeline,
    (SELECT min_recovery_end_timeline FROM pg_control_recovery()) AS recovery_timeline,
    (SELECT CASE WHEN latest_end_lsn IS NOT NULL THEN received_tli END FROM pg_stat_get_wal_receiver())
        AS received_timeline,
    (SELECT status FROM pg_stat_get_wal_receiver()) AS receiver_status,
    (SELECT latest_end_lsn::text FROM pg_stat_get_wal_receiver()) AS upstream_end,
    CASE WHEN pg_last_wal_receive_lsn() IS NOT NULL
        THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())::text END AS received,
    pg_last_wal_replay_lsn()::text AS replayed,
    CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() ELSE false END AS paused,
    to_char(pg_last_xact_replay_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US\"+00:00\"')
        AS replayed_timestamp,
    to_char(pg_postmaster_start_time() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US\"+00:00\"')
        AS started_timestamp,
    current_setting('primary_conninfo') AS conninfo,
    current_setting('restore_command') <> '' AS restores,
    (SELECT bytes_per_wal_segment FROM pg_control_init())::bigint AS wal_segment_bytes,
    (SELECT coalesce(json_agg(json_build_object(
        'usename', usename, 'application_name', application_name, 'client_addr', host(client_addr),
        'state', state, 'sync_state', sync_state, 'sync_priority', sync_priority) ORDER BY pid), '[]')::text
        FROM pg_stat_replication) AS replication,
    current_setting('hba_file') AS hba_file,
    current_setting('synchronous_standby_names') AS synchronous_names,
    (SELECT coalesce(json_agg(json_build_object(
        'name', application_name, 'written', write_lsn, 'flushed', flush_lsn, 'replayed', replay_lsn) ORDER BY pid), '[]')::text
        FROM pg_stat_replication WHERE state = 'streaming' AND flush_lsn IS NOT NULL) AS receivers,
    (SELECT coalesce(json_agg(json_build_object(
        'name', slot_name, 'physical', slot_type = 'physical', 'temporary', temporary, 'active', active,
        'restart', restart_lsn, 'lost', coalesce(wal_status = 'lost', false), 'plugin', plugin, 'database', database,
        'confirmed', confirmed_flush_lsn, 'holds_xmin', xmin IS NOT NULL OR catalog_xmin IS NOT NULL,
        'safe_bytes', safe_wal_size, 'failover', coalesce((to_jsonb(slot) ->> 'failover')::bool, false))
        ORDER BY slot_name), '[]')::text FROM pg_replication_slots slot) AS slots,
    (SELECT json_object_agg(s.name, json_build_object('old_value', current_setting(s.name), 'new_value',
        coalesce((SELECT f.setting FROM pg_file_settings f WHERE f.name = s.name ORDER BY f.seqno DESC LIMIT 1),
            s.boot_val, '')))::text
        FROM pg_settings s WHERE s.pending_restart AND s.name NOT LIKE 'recovery\\_target%') AS pending_restart,
    (SELECT json_object_agg(name, setting)::text FROM pg_settings WHERE source = 'command line') AS in_force";

/// A connection on which this is asked again and again: the server has read the statement already.
#[derive(Debug)]
pub(super) struct Inquiry {
    session: Session,
    statement: Statement,
}

impl Inquiry {
    pub async fn open(session: Session, patience: Span) -> Result<Inquiry, Error> {
        let statement = session.prepared(WHAT, STATEMENT, patience).await?;
        Ok(Inquiry { session, statement })
    }

    pub async fn ask(&self, patience: Span) -> Result<Details, Error> {
        let row = self.session.row(WHAT, &self.statement, patience).await?;
        read(&row).trying(|| WHAT.to_owned())
    }
}

fn read(row: &Row) -> Result<Details, String> {
    Ok(Details {
        in_recovery: column(row, "in_recovery")?,
        // PostgreSQL has no unsigned numbers, so that the upper half of them reads as negative.
        system: column::<Option<i64>>(row, "system")?.map(|system| SystemId(system.cast_unsigned())),
        version: u32::try_from(column::<i32>(row, "version")?).map_err(|error| error.to_string())?,
        timeline: hexadecimal(column(row, "timeline")?)?,
        flushed: lsn(column(row, "flushed")?)?,
        control_timeline: timeline(column(row, "control_timeline")?),
        recovery_timeline: timeline(column(row, "recovery_timeline")?),
        received_timeline: timeline(column(row, "received_timeline")?),
        received: lsn(column(row, "received")?)?,
        upstream_end: lsn(column(row, "upstream_end")?)?,
        replayed: lsn(column(row, "replayed")?)?,
        streaming: column::<Option<String>>(row, "receiver_status")?.as_deref() == Some("streaming"),
        paused: column(row, "paused")?,
        replayed_timestamp: column(row, "replayed_timestamp")?,
        started_timestamp: column(row, "started_timestamp")?,
        conninfo: column(row, "conninfo")?,
        restores: column(row, "restores")?,
        wal_segment_bytes: column::<i64>(row, "wal_segment_bytes")?.unsigned_abs(),
        replication: replication(column(row, "replication")?)?,
        hba_file: column(row, "hba_file")?,
        names: column(row, "synchronous_names")?,
        receivers: json(column(row, "receivers")?)?.unwrap_or_default(),
        slots: json(column(row, "slots")?)?.unwrap_or_default(),
        pending_restart: json(column(row, "pending_restart")?)?,
        in_force: json(column(row, "in_force")?)?.unwrap_or_default(),
    })
}

fn column<'a, T: tokio_postgres::types::FromSql<'a>>(row: &'a Row, name: &str) -> Result<T, String> {
    row.try_get(name).map_err(|error| error.to_string())
}

/// Zero is PostgreSQL's word for none.
fn timeline(number: Option<i32>) -> Option<Timeline> {
    number.and_then(|number| u32::try_from(number).ok()).filter(|number| *number != 0).map(Timeline)
}

fn hexadecimal(digits: Option<&str>) -> Result<Option<Timeline>, String> {
    let parsed = digits.map(|digits| u32::from_str_radix(digits, 16).map(Timeline));
    parsed.transpose().map_err(|error| error.to_string())
}

/// `0/0` is what a standby says that has not received anything.
fn lsn(text: Option<&str>) -> Result<Option<Lsn>, String> {
    let parsed: Option<Lsn> = text.map(str::parse).transpose().map_err(|error| format!("{error}"))?;
    Ok(parsed.filter(|lsn| *lsn != Lsn::ZERO))
}

fn json<T: serde::de::DeserializeOwned>(text: Option<&str>) -> Result<Option<T>, String> {
    text.map(serde_json::from_str).transpose().map_err(|error| error.to_string())
}

fn replication(text: Option<&str>) -> Result<Vec<ReplicationRow>, String> {
    let rows: Vec<Value> = json(text)?.unwrap_or_default();
    let word = |row: &Value, key: &str| row.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let read = |row: &Value| ReplicationRow {
        usename: word(row, "usename"),
        application_name: word(row, "application_name"),
        client_addr: row.get("client_addr").and_then(Value::as_str).map(str::to_owned),
        state: word(row, "state"),
        sync_state: word(row, "sync_state"),
        sync_priority: row
            .get("sync_priority")
            .and_then(Value::as_i64)
            .map_or(0, |n| i32::try_from(n).unwrap_or(0)),
    };
    Ok(rows.iter().map(read).collect())
}
