//! The table of checks: a name, how bad it is, why it matters, what to do.

use std::fmt;

/// The worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It bites at the next failover, or now.
    Error,
    /// It bites some day.
    Warning,
    /// It could not be told.
    Unknown,
}

impl Severity {
    pub const ALL: [Severity; 3] = [Severity::Error, Severity::Warning, Severity::Unknown];

    pub fn word(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Unknown => "unknown",
        }
    }
}

macro_rules! checks {
    ($($name:ident = $code:literal $severity:ident: $why:literal, $remedy:literal;)*) => {
        /// One thing that is looked at.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Check {
            $($name,)*
        }

        impl Check {
            pub const ALL: &[Check] = &[$(Check::$name),*];

            /// The stable name for machines, and for `--ignore`.
            pub fn code(self) -> &'static str {
                match self { $(Check::$name => $code,)* }
            }

            pub fn severity(self) -> Severity {
                match self { $(Check::$name => Severity::$severity,)* }
            }

            /// Why it matters, in one sentence for people.
            pub fn why(self) -> &'static str {
                match self { $(Check::$name => $why,)* }
            }

            pub fn remedy(self) -> &'static str {
                match self { $(Check::$name => $remedy,)* }
            }
        }
    };
}

checks! {
    // The store.
    StoreSilent = "store_silent" Error: "without the store nobody takes over, and a leader stops before its lease ends unless failsafe mode is on",
        "see why the servers do not answer; docs/stores.md";
    StoreAlarm = "store_alarm" Error: "a store with an alarm takes no writes: no lease can be taken",
        "`etcdctl alarm list` names it; for NOSPACE: `etcdctl compact`, `etcdctl defrag`, `etcdctl alarm disarm`";
    StoreServerDown = "store_server_down" Warning: "as long as one server is missing, the store survives fewer failures than it was made for",
        "start that server, or remove it from the store and from the settings";
    StoreServerStale = "store_server_stale" Warning: "a server that is far behind the others does not help to survive a failure",
        "look at its disk and its log; remove it and add it anew if it does not catch up";
    StoreEven = "store_even" Warning: "an even number of servers survives no more failures than one server less, and is likelier to lose one",
        "add a server, or remove one: three or five";
    StoreAlone = "store_alone" Warning: "one server is no redundancy: when it fails, so does every failover",
        "run three servers on three machines";
    StoreFewConfigured = "store_few_configured" Warning: "a client that knows few of the servers is cut off when those fail, though the store lives",
        "name every server in the settings of the store";
    StoreLeaderWithPrimary = "store_leader_with_primary" Warning: "losing that machine costs an election of the store on top of the failover",
        "`etcdctl move-leader`, or give the store machines of its own";
    StoreFilling = "store_filling" Warning: "a store that reaches its quota takes no more writes",
        "compact and defragment it, or raise `--quota-backend-bytes`";
    StoreSlow = "store_slow" Warning: "a renewal that waits for a slow disk or a slow line is one that may come too late",
        "give the store's servers disks of their own that sync fast, and a short line; or a longer ttl";
    // Timing.
    TimingRefused = "timing_refused" Error: "a ttl that leaves no time for renewing is not used",
        "`tenurectl edit-config -s ttl=10`";
    TimingNotGranted = "timing_not_granted" Warning: "the store grants another lease than the one that is asked for, so a lost leader is replaced at another time than expected",
        "see `tenurectl show-timing`; choose a ttl that the store grants";
    TimingElection = "timing_election" Warning: "while the store elects a leader no lease is renewed: a lease that is not longer costs the primary as well",
        "choose a longer ttl, or a shorter election timeout of the store; `tenurectl show-timing`";
    // The members.
    MemberSilent = "member_silent" Warning: "an agent that does not answer does not take over, and nothing else is known of its machine",
        "`systemctl status tenured@INSTANCE` there; see whether its REST port can be reached from here";
    MemberOlder = "member_older" Unknown: "the agent answers, but tells nothing of its host: it is older than this command",
        "upgrade the agent";
    NotOurs = "not_ours" Unknown: "a member of Patroni's cannot be asked about its host",
        "look at it by other means until it is migrated; docs/migration.md";
    HostUnknown = "host_unknown" Unknown: "the agent could not look at a part of its host",
        "see its log";
    NobodyTakesOver = "nobody_takes_over" Error: "there is nobody who could lead if the leader were lost",
        "add a member, or take `nofailover` from one; `tenurectl explain --if primary-lost`";
    NoLeader = "no_leader" Error: "nobody leads: nothing can be written",
        "`tenurectl explain`";
    SameMachine = "same_machine" Warning: "members on one machine are lost together",
        "give each member a machine of its own";
    Paused = "paused" Warning: "nothing fails over in maintenance mode",
        "`tenurectl resume`";
    VersionsAgents = "versions_agents" Warning: "members of different versions may decide differently",
        "upgrade all agents; PostgreSQL runs on meanwhile";
    VersionsPostgres = "versions_postgres" Warning: "after a failover clients meet another minor version; of different major versions nobody can follow",
        "upgrade PostgreSQL on the standbys first, then switch over";
    ClocksApart = "clocks_apart" Warning: "leases do not depend on wall clocks, but scheduled switchovers, certificates, logs and recovery to a time do",
        "run chrony or systemd-timesyncd on every machine";
    NotStreaming = "not_streaming" Warning: "a standby that does not stream falls behind and cannot take over without loss",
        "`tenurectl explain MEMBER`; see PostgreSQL's log there";
    PendingRestart = "pending_restart" Warning: "settings wait for a restart; the next failover may bring them into force when nobody expects it",
        "`tenurectl restart CLUSTER MEMBER --pending`";
    // A member's host.
    NoGuardian = "no_guardian" Error: "a member without a live guardian neither promotes nor goes on leading",
        "`systemctl status tenure-fence@INSTANCE`; docs/fencing.md";
    WatchdogMissing = "watchdog_missing" Error: "watchdog.mode is required, and without the device this member does not lead",
        "docs/fencing.md";
    WatchdogFailed = "watchdog_failed" Warning: "nothing resets the machine if kernel or guardian hang",
        "docs/fencing.md";
    WatchdogOff = "watchdog_off" Warning: "nothing resets the machine if kernel or guardian hang",
        "watchdog.mode: automatic, with a device that the guardian may open; docs/fencing.md";
    NoAddressHolder = "no_address_holder" Error: "tenure.virtual_addresses names addresses, and a new primary here would not get them",
        "`systemctl enable --now tenure-address@INSTANCE`, or see its journal; docs/virtual-address.md";
    AddressTroubled = "address_troubled" Error: "clients of a virtual address reach another host, or none",
        "docs/virtual-address.md";
    Unfit = "unfit" Error: "a member that is not fit makes way for others and does not take over",
        "`tenurectl explain MEMBER`; docs/liveness.md";
    SecretReadable = "secret_readable" Error: "every user of the machine can read a password or a key",
        "chmod o-r FILE";
    CertificateExpired = "certificate_expired" Error: "whoever checks it refuses the connection",
        "renew it; agents take up a new file by themselves";
    CertificateEnds = "certificate_ends" Warning: "whoever checks it will refuse the connection then",
        "renew it; agents take up a new file by themselves";
    CertificateUnreadable = "certificate_unreadable" Warning: "what cannot be read will not be taken up at the next start",
        "see that the file is there and the agent may read it";
    // PostgreSQL.
    PostgresUnknown = "postgres_unknown" Unknown: "PostgreSQL could not be asked, so its settings are not known",
        "`tenurectl explain MEMBER`; docs/liveness.md";
    DurabilityOff = "durability_off" Error: "a crash of the machine loses acknowledged commits or the whole database, and a failover cannot tell",
        "switch fsync and full_page_writes on";
    CommitsDoNotWait = "commits_do_not_wait" Warning: "synchronous mode is on, but commits do not wait for a standby",
        "set synchronous_commit to on, remote_write or remote_apply";
    SessionsDoNotWait = "sessions_do_not_wait" Warning: "synchronous mode is on, and what these sessions commit is in no promise: a failover may lose it",
        "`ALTER ROLE … RESET synchronous_commit` or `ALTER DATABASE …`, unless it is meant so (`--ignore sessions_do_not_wait`)";
    ChecksumsOff = "checksums_off" Warning: "a damaged page is not noticed, and is copied to every standby",
        "`pg_checksums --enable` on each member while it is stopped";
    CannotRewind = "cannot_rewind" Warning: "a former primary cannot be rewound and has to be cloned: without checksums pg_rewind needs wal_log_hints",
        "set wal_log_hints to on and restart, or enable data checksums";
    SendersFew = "senders_few" Error: "every other member and a clone of it need WAL senders here when this member leads",
        "raise max_wal_senders and restart; standbys first";
    SlotsFew = "slots_few" Error: "every other member needs a replication slot here when this member leads",
        "raise max_replication_slots and restart; standbys first";
    NeverNoticesLoss = "never_notices_loss" Warning: "with a timeout of 0 a connection whose other end has gone is never given up",
        "set wal_sender_timeout and wal_receiver_timeout to some seconds";
    KeepsLittleWal = "keeps_little_wal" Warning: "a standby that is away longer than this has to be cloned",
        "raise wal_keep_size, or let members have slots (use_slots)";
    SlotRetains = "slot_retains" Warning: "nobody reads this slot, and WAL is kept for it until the disk is full",
        "bring its reader back, or `SELECT pg_drop_replication_slot('…')`; bound it with max_slot_wal_keep_size";
    SlotLost = "slot_lost" Warning: "the WAL that this slot promised is gone: whoever reads it cannot go on",
        "clone the member that reads it, or make the subscription anew";
    DiskFull = "disk_full" Error: "the next WAL segment may not fit, and PostgreSQL stops when it does not",
        "make room: look for slots that keep WAL, a failing archive, logs";
    DiskForecast = "disk_forecast" Warning: "if WAL cannot be removed, because a slot keeps it or the archive fails, the disk is full after this time",
        "a larger disk for WAL, or max_slot_wal_keep_size";
    ArchiveFails = "archive_fails" Warning: "WAL is kept until it is archived: backups have a gap and the disk fills",
        "see PostgreSQL's log for what archive_command says";
    CollationsDiffer = "collations_differ" Error: "text sorts differently on another version of the library: indexes are wrong after a failover, and rows are not found",
        "run one release of the operating system (and ICU) on every member; after a change, REINDEX what sorts text";
    CollationStale = "collation_stale" Warning: "an index that was made with another version of the library may be wrong",
        "REINDEX what sorts text, then ALTER DATABASE … REFRESH COLLATION VERSION";
    // Who is let in.
    HbaBroken = "hba_broken" Error: "PostgreSQL does not take up a pg_hba.conf with an error, and does not start with it",
        "correct the line";
    HbaReplication = "hba_replication" Error: "this member would not follow the one that refuses it",
        "add to postgresql.pg_hba: host replication USER ADDRESS/32 scram-sha-256";
    HbaRewind = "hba_rewind" Error: "after a failover this member could not rewind, and would have to be cloned",
        "add to postgresql.pg_hba: host DATABASE USER ADDRESS/32 scram-sha-256";
    HbaUnknown = "hba_unknown" Unknown: "whether a line of pg_hba.conf lets the member in depends on what cannot be seen from here",
        "name addresses, users and databases, or try it";
    HbaTrust = "hba_trust" Warning: "whoever reaches the port from there is let in without a password",
        "use scram-sha-256";
    GateRefused = "gate_refused" Warning: "synchronous_gate is on, and no gate can be made from this pg_hba.conf: clients are let in at once after a restart",
        "name roles and databases one by one, or `all`; docs/gate.md";
    RoleReplication = "role_replication" Error: "members cannot follow this one",
        "ALTER ROLE … LOGIN REPLICATION";
    RoleRewind = "role_rewind" Error: "members cannot rewind from this one, and would have to be cloned",
        "GRANT EXECUTE on the functions that pg_rewind needs, or use the superuser";
    // HAProxy.
    ProxyUnread = "proxy_unread" Unknown: "no backend of members was found in the file",
        "name the file with `listen` or `backend` sections for PostgreSQL";
    ProxyNoCheck = "proxy_no_check" Error: "without a check of the role, writers are sent to standbys, and to an old primary",
        "option httpchk OPTIONS /primary, http-check expect status 200, and `check port 8008` for each server";
    ProxyPath = "proxy_path" Error: "every member answers the same to such a path: all of them are up, or none is",
        "ask for a role: OPTIONS /primary, OPTIONS /replica and the like";
    ProxyPort = "proxy_port" Error: "the check does not ask this member's agent",
        "`check port PORT` with the port of restapi.connect_address";
    ProxyTls = "proxy_tls" Error: "a check that does not speak what the agent speaks fails always",
        "check-ssl verify … where the REST API has a certificate, and nowhere else";
    ProxyMissing = "proxy_missing" Warning: "clients do not find this member when it leads",
        "add a `server` line for it";
    ProxyStranger = "proxy_stranger" Warning: "the server is no member of this cluster",
        "remove the line, or correct its address";
    ProxyKeepsSessions = "proxy_keeps_sessions" Warning: "clients stay connected to a primary that is none any more",
        "on-marked-down shutdown-sessions";
    ProxySlow = "proxy_slow" Warning: "clients are sent to the old primary long after the new one leads",
        "default-server inter 1s fastinter 250ms fall 2 rise 1, and timeout check 2s";
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl std::str::FromStr for Check {
    type Err = String;

    fn from_str(text: &str) -> Result<Check, String> {
        let found = Check::ALL.iter().find(|check| check.code() == text);
        found.copied().ok_or_else(|| format!("there is no check {text}; docs/doctor.md lists them"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_check_has_a_name_of_its_own_a_reason_and_a_remedy() {
        let codes: BTreeSet<&str> = Check::ALL.iter().map(|check| check.code()).collect();
        assert_eq!(codes.len(), Check::ALL.len());
        for check in Check::ALL {
            assert!(
                !check.why().is_empty() && !check.why().ends_with('.') && !check.remedy().is_empty(),
                "{check}"
            );
            assert_eq!(check.code().parse::<Check>(), Ok(*check));
        }
        assert!("no_such".parse::<Check>().is_err());
    }
}
