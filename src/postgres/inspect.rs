//! What `tenurectl doctor` wants to know of a running server: a few settings, slots, roles, collations, and whom pg_hba.conf lets in.

use std::net::IpAddr;
use std::path::Path;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;
use serde::Deserialize;
use tokio::task::spawn_blocking;

use super::error::{Error, Trying};
use super::gate;
use super::settings::{InstanceSettings, Login};
use super::sql::{Session, Target, connect, quoted_text};
use crate::doctor::{
    Admission, Entry, HbaRule, Knock, Network, PostgresFacts, RoleFacts, SlotFacts, Transport, admits,
};
use crate::model::{MemberName, Span};

/// Of slots, lines and databases: more tell nobody more.
const ROWS_MAX: usize = 200;

/// Another member, and where it would come from.
#[derive(Clone, Debug)]
pub struct Caller {
    pub member: MemberName,
    pub address: IpAddr,
}

/// What was found, and what was not.
#[derive(Clone, Debug)]
pub struct Inspection {
    pub facts: PostgresFacts,
    /// Files of certificates that the server uses, by the setting that names them.
    pub certificates: Vec<(String, String)>,
    /// Why pg_hba.conf could not be looked at.
    pub hba_unknown: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Told {
    in_recovery: bool,
    settings: std::collections::BTreeMap<String, String>,
    archives: bool,
    archives_nowhere: bool,
    archive_fails_at: Option<String>,
    slots: Vec<SlotFacts>,
    wal_bytes_per_hour: Option<u64>,
    sorts_by_libc: bool,
    sorts_by_icu: bool,
    libc_collation: Option<String>,
    icu_collation: Option<String>,
    stale: Vec<String>,
    lowered: Vec<String>,
    replicator_can: Option<Rights>,
    rewinder_can: Option<Rights>,
}

#[derive(Debug, Deserialize)]
struct Rights {
    login: bool,
    replication: bool,
    superuser: bool,
    lacks: Vec<String>,
}

/// Bounded by a small multiple of `patience`. On a connection of its own.
pub async fn inspect(
    settings: &InstanceSettings,
    callers: &[Caller],
    patience: Span,
) -> Result<Inspection, Error> {
    const WHAT: &str = "look at PostgreSQL";
    let session = connect(WHAT, &Target::local(settings), patience).await?;
    let version: i32 = session
        .row(WHAT, "SELECT current_setting('server_version_num')::int", patience)
        .await?
        .try_get(0)
        .trying(|| WHAT.to_owned())?;
    let version = version.unsigned_abs();
    let told: Told = document(&session, WHAT, &statement(settings, version), patience).await?;
    let mut facts = PostgresFacts {
        version,
        in_recovery: told.in_recovery,
        settings: told.settings,
        archives: told.archives,
        archives_nowhere: told.archives_nowhere,
        archive_fails_at: told.archive_fails_at,
        slots: told.slots,
        wal_bytes_per_hour: told.wal_bytes_per_hour,
        sorts_by_libc: told.sorts_by_libc,
        sorts_by_icu: told.sorts_by_icu,
        libc_collation: told.libc_collation,
        icu_collation: told.icu_collation,
        stale_collations: told.stale,
        lowered_commits: told.lowered,
        replication_role: role(&settings.replication, told.replicator_can, &Needs::Replication),
        rewind_role: role(settings.rewind_login(), told.rewinder_can, &Needs::Rewind),
        ..PostgresFacts::default()
    };
    let speaks_tls = facts.setting("ssl") == Some("on");
    let certificates = ["ssl_cert_file", "ssl_ca_file"].into_iter().filter_map(|name| {
        let path = facts.settings.remove(name).filter(|path| speaks_tls && !path.is_empty())?;
        Some((name.to_owned(), settings.data_dir.join(path).display().to_string()))
    });
    let certificates = certificates.collect();
    let lines = document::<Vec<HbaRule>>(&session, "read pg_hba.conf", HBA, patience).await;
    let hba_unknown = match lines {
        Ok(rules) => {
            let wrong =
                rules.iter().filter_map(|rule| Some(format!("line {}: {}", rule.line, rule.error.as_ref()?)));
            facts.hba_errors = wrong.take(ROWS_MAX).collect();
            let trusting = rules.iter().filter(|rule| rule.trusts_others());
            facts.hba_trusts = trusting.map(|rule| format!("line {}", rule.line)).take(ROWS_MAX).collect();
            let networks = own_networks();
            let admission = |caller: &Caller| admission(settings, &rules, &networks, caller, speaks_tls);
            facts.admissions = callers.iter().map(admission).collect();
            None
        }
        Err(error) => Some(error.to_string()),
    };
    if settings.gated {
        let row = session.row(WHAT, "SELECT current_setting('hba_file')", patience).await?;
        let file: String = row.try_get(0).trying(|| WHAT.to_owned())?;
        let own = settings.clone();
        let refused = spawn_blocking(move || gate::refusal(&own, Path::new(&file)));
        facts.gate_refused = refused.await.ok().flatten();
    }
    Ok(Inspection { facts, certificates, hba_unknown })
}

async fn document<T: for<'de> Deserialize<'de>>(
    session: &Session,
    what: &str,
    statement: &str,
    patience: Span,
) -> Result<T, Error> {
    let row = session.row(what, statement, patience).await?;
    let text: String = row.try_get(0).trying(|| what.to_owned())?;
    serde_json::from_str(&text).trying(|| what.to_owned())
}

enum Needs {
    Replication,
    Rewind,
}

fn role(login: &Login, rights: Option<Rights>, needs: &Needs) -> RoleFacts {
    let mut lacks = Vec::new();
    match rights {
        None => lacks.push("everything: there is no such role".to_owned()),
        Some(rights) => {
            if !rights.login {
                lacks.push("LOGIN".to_owned());
            }
            match needs {
                Needs::Replication if !rights.replication && !rights.superuser => {
                    lacks.push("REPLICATION".to_owned());
                }
                Needs::Rewind if !rights.superuser => lacks.extend(rights.lacks),
                Needs::Replication | Needs::Rewind => {}
            }
        }
    }
    RoleFacts { name: login.username.clone(), lacks }
}

fn admission(
    settings: &InstanceSettings,
    rules: &[HbaRule],
    networks: &[Network],
    caller: &Caller,
    speaks_tls: bool,
) -> Admission {
    let enters = |database, login: &Login| {
        let knock = Knock { database, user: &login.username, address: caller.address, networks };
        admits(rules, knock, transports(login, speaks_tls))
    };
    let replication: Entry = enters(None, &settings.replication);
    let rewind = enters(Some(&*settings.database), settings.rewind_login());
    Admission { member: caller.member.to_string(), address: caller.address.to_string(), replication, rewind }
}

/// As PostgreSQL finds them: what every interface that is up says. None where the kernel does not tell.
fn own_networks() -> Vec<Network> {
    let ip = |address: Option<SockaddrStorage>| -> Option<IpAddr> {
        let address = address?;
        let four = address.as_sockaddr_in().map(|address| address.ip().into());
        four.or_else(|| address.as_sockaddr_in6().map(|address| address.ip().into()))
    };
    let found = getifaddrs().into_iter().flatten();
    found.filter_map(|one| Some(Network { address: ip(one.address)?, mask: ip(one.netmask)? })).collect()
}

/// How libpq would come, by this member's own settings: those of the others should be the same.
fn transports(login: &Login, speaks_tls: bool) -> &'static [Transport] {
    match (login.options.get("sslmode").map(String::as_str), speaks_tls) {
        (Some("disable"), _) | (None | Some("allow" | "prefer"), false) => &[Transport::Plain],
        (None | Some("allow" | "prefer"), true) => &[Transport::Encrypted, Transport::Plain],
        (Some(_), _) => &[Transport::Encrypted],
    }
}

const HBA: &str = "SELECT coalesce(json_agg(json_build_object(
        'line', line_number, 'kind', type, 'databases', database, 'users', user_name, 'address', address,
        'netmask', netmask, 'method', auth_method, 'error', error)), '[]')::text
    FROM (SELECT * FROM pg_hba_file_rules LIMIT 5000) rules";

const SETTINGS: &str = "'fsync', 'full_page_writes', 'synchronous_commit', 'data_checksums', 'wal_log_hints', 'max_wal_senders', \
    'max_replication_slots', 'wal_keep_size', 'max_slot_wal_keep_size', 'wal_sender_timeout', 'wal_receiver_timeout', 'ssl', \
    'ssl_cert_file', 'ssl_ca_file'";

const REWIND_FUNCTIONS: [&str; 4] = [
    "pg_ls_dir(text, boolean, boolean)",
    "pg_stat_file(text, boolean)",
    "pg_read_binary_file(text)",
    "pg_read_binary_file(text, bigint, bigint, boolean)",
];

fn statement(settings: &InstanceSettings, version: u32) -> String {
    // An average of a few minutes would foresee the end of the world after every bulk load.
    let rate = if version >= 140_000 {
        "(SELECT CASE WHEN NOT pg_is_in_recovery() AND now() - stats_reset > interval '1 hour'
            THEN (wal_bytes / extract(epoch FROM now() - stats_reset) * 3600)::bigint END FROM pg_stat_wal)"
    } else {
        "NULL"
    };
    let (by_icu, stale) = if version >= 150_000 {
        (
            "EXISTS (SELECT FROM pg_database WHERE datallowconn AND datlocprovider = 'i')",
            "(SELECT coalesce(json_agg('database ' || datname), '[]') FROM (SELECT datname FROM pg_database
                WHERE datallowconn AND datcollversion <> pg_database_collation_actual_version(oid) LIMIT 200) d)",
        )
    } else {
        ("false", "'[]'::json")
    };
    let libc = if version >= 150_000 { "datlocprovider = 'c' AND" } else { "" };
    // What sorts as bytes is the same everywhere.
    let by_bytes = |column: &str| format!("({column} IN ('C', 'POSIX') OR {column} ILIKE 'C.%')");
    let (replicator, rewinder) =
        (rights(&settings.replication, &[]), rights(settings.rewind_login(), &REWIND_FUNCTIONS));
    format!(
        "SELECT json_build_object(
            'in_recovery', pg_is_in_recovery(),
            'settings', (SELECT json_object_agg(name, setting) FROM pg_settings WHERE name IN ({SETTINGS})),
            'archives', current_setting('archive_mode') <> 'off',
            'archives_nowhere', current_setting('archive_mode') <> 'off' AND current_setting('archive_command') = ''
                AND coalesce(current_setting('archive_library', true), '') = '',
            'archive_fails_at', (SELECT CASE WHEN last_failed_time > coalesce(last_archived_time, '-infinity')
                THEN last_failed_wal END FROM pg_stat_archiver),
            'slots', (SELECT coalesce(json_agg(json_build_object('name', slot_name, 'active', active,
                'lost', coalesce(wal_status = 'lost', false), 'retained_bytes',
                CASE WHEN NOT pg_is_in_recovery()
                    THEN greatest(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint END)), '[]')
                FROM (SELECT * FROM pg_replication_slots WHERE NOT temporary ORDER BY slot_name LIMIT 200) s),
            'wal_bytes_per_hour', {rate},
            'sorts_by_libc', EXISTS (SELECT FROM pg_database WHERE {libc} datallowconn AND NOT {}),
            'sorts_by_icu', {by_icu},
            'libc_collation', (SELECT pg_collation_actual_version(oid) FROM pg_collation
                WHERE collprovider = 'c' AND NOT {} LIMIT 1),
            'icu_collation', (SELECT pg_collation_actual_version(oid) FROM pg_collation
                WHERE collprovider = 'i' AND collname = 'und-x-icu' LIMIT 1),
            'stale', {stale},
            'lowered', (SELECT coalesce(json_agg(told), '[]') FROM (
                SELECT concat_ws(' in ', 'role ' || rolname, 'database ' || datname) || ': ' || said AS told
                FROM pg_db_role_setting
                    CROSS JOIN LATERAL unnest(setconfig) AS said
                    LEFT JOIN pg_roles ON pg_roles.oid = setrole
                    LEFT JOIN pg_database ON pg_database.oid = setdatabase
                WHERE said ~* '^synchronous_commit=(off|local|false|no|f|n|0)$' ORDER BY told LIMIT 200) l),
            'replicator_can', {replicator},
            'rewinder_can', {rewinder})::text",
        by_bytes("datcollate"),
        by_bytes("collcollate"),
    )
}

fn rights(login: &Login, functions: &[&str]) -> String {
    let lacks: Vec<String> = functions
        .iter()
        .map(|function| {
            let name = quoted_text(&format!("pg_catalog.{function}"));
            let lack = quoted_text(&format!("EXECUTE ON FUNCTION {function}"));
            format!("CASE WHEN NOT has_function_privilege(oid, {name}, 'EXECUTE') THEN {lack} END")
        })
        .collect();
    let lacks = format!("array_to_json(array_remove(ARRAY[{}]::text[], NULL))", lacks.join(", "));
    format!(
        "(SELECT json_build_object('login', rolcanlogin, 'replication', rolreplication, 'superuser', rolsuper, 'lacks', {lacks})
            FROM pg_roles WHERE rolname = {})",
        quoted_text(&login.username)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_lacks_what_its_work_needs() {
        let rights = |login, replication, superuser| {
            Some(Rights { login, replication, superuser, lacks: vec!["EXECUTE".to_owned()] })
        };
        let lacks = |rights, needs| role(&Login::named("r"), rights, needs).lacks;
        assert_eq!(lacks(None, &Needs::Rewind), ["everything: there is no such role"]);
        assert_eq!(lacks(rights(false, true, false), &Needs::Replication), ["LOGIN"]);
        assert_eq!(lacks(rights(true, false, false), &Needs::Replication), ["REPLICATION"]);
        assert_eq!(lacks(rights(true, false, false), &Needs::Rewind), ["EXECUTE"]);
        assert!(lacks(rights(true, false, true), &Needs::Rewind).is_empty());
        assert!(lacks(rights(true, false, true), &Needs::Replication).is_empty());
    }

    #[test]
    fn how_a_member_comes_depends_on_both_ends() {
        let login = |mode: &str| {
            let mut login = Login::named("r");
            login.options.insert("sslmode".to_owned(), mode.to_owned());
            login
        };
        assert_eq!(transports(&Login::named("r"), true).len(), 2);
        assert_eq!(transports(&Login::named("r"), false), [Transport::Plain]);
        assert_eq!(transports(&login("verify-full"), true), [Transport::Encrypted]);
        assert_eq!(transports(&login("disable"), true), [Transport::Plain]);
    }

    #[test]
    fn a_name_cannot_leave_its_quotes() {
        assert!(rights(&Login::named("it's"), &[]).contains("rolname = 'it''s'"));
    }
}
