//! What the journal's catalog says about each message that has a number: what has happened, and what to do about it.
//! `journalctl -x` shows it below the line, and packaging/journal/tenure.catalog is written from here.

mod candidates;
mod failsafe;
mod maintenance;
mod notices;
mod replication;
mod synchronous;

use super::{MessageId, Notice, Rule};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Message {
    Rule(Rule),
    Notice(Notice),
}

#[derive(Clone, Copy, Debug)]
pub struct Explanation {
    pub message: Message,
    /// What has happened and what follows from it.
    pub meaning: &'static str,
    /// What an operator does who reads this at night.
    pub advice: &'static str,
}

impl Message {
    pub fn id(self) -> Option<MessageId> {
        match self {
            Message::Rule(rule) => rule.message_id(),
            Message::Notice(notice) => Some(notice.message_id()),
        }
    }

    pub fn sentence(self) -> &'static str {
        match self {
            Message::Rule(rule) => rule.sentence(),
            Message::Notice(notice) => notice.sentence(),
        }
    }
}

const fn rule(rule: Rule, meaning: &'static str, advice: &'static str) -> Explanation {
    Explanation { message: Message::Rule(rule), meaning, advice }
}

/// Every message that has a number.
pub fn catalog() -> impl Iterator<Item = &'static Explanation> {
    (CATALOG.iter())
        .chain(candidates::CANDIDATES)
        .chain(failsafe::FAILSAFE)
        .chain(maintenance::MAINTENANCE)
        .chain(replication::REPLICATION)
        .chain(synchronous::SYNCHRONOUS)
        .chain(notices::NOTICES)
}

const CATALOG: &[Explanation] = &[
    rule(
        Rule::ForeignData,
        "The system identifier of this data directory is not the one that the store holds for the cluster. The member \
         takes no part in the cluster: its PostgreSQL is neither started nor stopped nor changed.",
        "Find out which of the two is right: compare `pg_controldata` here with the `initialize` key in the store. If \
         this directory does not belong here, stop the agent, move the directory away and start the agent: it clones. If \
         the scope or the store in the configuration is wrong, correct it.",
    ),
    rule(
        Rule::UnusableData,
        "There is something in the data directory, but `pg_controldata` cannot read it. Nothing is done with it.",
        "Look at the directory, its owner and its mount: often a file system is not mounted. If it is really broken and \
         another member leads, stop the agent, move the directory away and start the agent: it clones.",
    ),
    rule(
        Rule::LeaderOutlivesSilence,
        "The store does not answer this leader. Clients are served until the lease ends, a few seconds from now; then \
         PostgreSQL is stopped, unless the store answers before.",
        "Look at the store: is it up, does it have a majority, can this machine reach it? Other members that still reach \
         it elect a new leader once the lease has ended.",
    ),
    rule(
        Rule::LeaderWithoutGuardian,
        "The guardian of this leader, tenure-fence, does not answer. The lease is not renewed until one does, because \
         nobody would stop PostgreSQL if this agent failed.",
        "Nothing, if it is back at once. Otherwise look at the unit tenure-fence@ of this instance and its journal.",
    ),
    rule(
        Rule::LeaderUnfit,
        "This primary has answered no new connection for half a lease. The lease is not renewed, so that another member \
         can take over.",
        "Look for a stopped or hung postmaster, a disk that does not answer (`dmesg`), and memory pressure on this \
         machine. A full max_connections or a long lock does not lead here.",
    ),
    rule(
        Rule::LeaderPromotes,
        "This member holds the lease and becomes the primary. The cluster has a new leader.",
        "Nothing. If nobody asked for it, look for the reason in the journal of the former leader.",
    ),
    rule(
        Rule::LeaderRestarts,
        "PostgreSQL of the leader is down, and is started again in its place, under the lease that still runs.",
        "Nothing, if it comes up. Look into PostgreSQL's own log for the reason why it went down.",
    ),
    rule(
        Rule::LeaderOnOldTimeline,
        "PostgreSQL crashed in the middle of its promotion and came back on the timeline before. It is stopped, to be \
         promoted again from there.",
        "Nothing, if a promotion follows. Look into PostgreSQL's own log for the crash.",
    ),
    rule(
        Rule::LeaderRefusedByHook,
        "This member had taken the lease, and the command in postgresql.pre_promote failed or did not end within \
         primary_start_timeout. PostgreSQL was not promoted, the lease is given back, and for the time of a lease this \
         member does not try to lead.",
        "Look at what the command has said, in the lines above. If nobody else takes over, correct what keeps it from \
         agreeing, or take the setting away.",
    ),
    rule(
        Rule::LeaderGivesUp,
        "PostgreSQL could not be started or promoted here, several times or for too long (primary_start_timeout). The \
         lease is given back, so that another member can take over.",
        "Look into PostgreSQL's own log here. Until it is repaired the cluster has one candidate less.",
    ),
    rule(
        Rule::LeaderHasNoData,
        "The data directory of the leader is empty or cannot be read. The lease is given back, so that another member \
         can take over.",
        "Find out what became of the directory: a mount that is missing, or a hand that removed it. As soon as another \
         member leads, this one clones from it.",
    ),
    rule(
        Rule::LeaderHasNoClaim,
        "This member holds the leader key, but somebody has changed the claim to a new timeline since. It does not \
         promote, and gives the lease back.",
        "Nothing, if a leader is found at once. If it comes again, find out who writes into the store by hand.",
    ),
    rule(
        Rule::SwitchoverStops,
        "This leader was asked to hand over. PostgreSQL is stopped in good order and then the other member takes over. \
         Clients cannot write meanwhile.",
        "Nothing. If the other member does not receive everything in time, this one leads on.",
    ),
    rule(
        Rule::SwitchoverReleases,
        "PostgreSQL is stopped here, the other member has every record, and the lease is given back for it.",
        "Nothing. A promotion of the other member follows.",
    ),
    rule(
        Rule::SwitchoverPaused,
        "Somebody has asked for a switchover past this member's REST API, without saying to whom, while the cluster is in \
         maintenance mode. Then only a candidate that is named is promoted.",
        "Ask again with a candidate, or `tenurectl resume` first.",
    ),
    rule(
        Rule::SwitchoverImpossible,
        "No member can take over: none answers, or none is close enough, healthy and allowed to lead. The request is \
         cleared and this member leads on.",
        "`tenurectl list` shows the members, their lag and their tags. Ask again when one of them can.",
    ),
    rule(
        Rule::SwitchoverFails,
        "An operator wants this member to lead. It has the lease, and PostgreSQL failed to be promoted several times. The request \
         is cleared, and the lease given back: as long as this member is named the others leave it alone.",
        "Look into PostgreSQL's own log here. Somebody else leads meanwhile.",
    ),
    rule(
        Rule::SwitchoverAbandoned,
        "The other member did not receive the last record in time, or PostgreSQL was not stopped in good order. The \
         request is cleared, and PostgreSQL starts again here as the primary.",
        "Look at the replication of the other member and at the network between the two, then ask again.",
    ),
    rule(
        Rule::LeaseRanOut,
        "The lease could not be renewed in time, because the store did not answer or because this agent did not let it be \
         renewed. PostgreSQL is stopped before the store can give the lease to another member.",
        "`tenurectl list` on another machine shows whether somebody leads now. Then find out why: the lines before this \
         one tell whether the store was silent or PostgreSQL did not answer. This member comes back by itself.",
    ),
    rule(
        Rule::LeaseLost,
        "The store says that this member's lease is gone, or nobody can say that it is not. PostgreSQL is stopped at once, \
         because another member may lead.",
        "`tenurectl list` shows whether somebody leads now. If it comes again, find out who removes keys from the store, \
         and whether this agent hangs for seconds (memory, processors, disk).",
    ),
    rule(
        Rule::OtherLeads,
        "Another member holds the lease, and a PostgreSQL that accepts writes runs here. It is stopped at once. What was \
         written to it after the other member took over is in no other place.",
        "Find out who started this PostgreSQL, or what kept the agent from stopping it before (it was frozen, or had \
         been ended). The member comes back by itself, by a rewind if it has records of its own.",
    ),
    rule(
        Rule::ReturnsToLease,
        "The agent has been started again beside a primary that goes on running, and takes up the lease of its former \
         life. Clients notice nothing.",
        "Nothing. If nobody restarted the agent, look above for the reason why it ended.",
    ),
    rule(
        Rule::PrimaryTakesLease,
        "A primary was running when the agent started, and nobody leads. The agent takes the lease for it.",
        "Nothing: it is how a cluster is taken over from another tool, or comes back after all agents were down.",
    ),
    rule(
        Rule::PrimaryBarred,
        "A primary runs here that may not lead: it is tagged nofailover, or a later timeline than its own is known. It is \
         stopped.",
        "If it was started by hand, do not do so again. It comes back as a standby of the next leader.",
    ),
    rule(
        Rule::CutOffStands,
        "The store does not answer this member. Its standby goes on replicating and can be read, but it can neither lead \
         nor learn of another leader.",
        "Look at the store and at the network from here to it. If all members say so, the store itself is down.",
    ),
    rule(
        Rule::CutOffStartsStandby,
        "The store does not answer, and PostgreSQL is down here. It is started as a standby, so that it can be read.",
        "Look at the store and at the network from here to it. Nobody can write here before the store answers.",
    ),
    rule(
        Rule::CutOffWaits,
        "The store does not answer, and PostgreSQL cannot be started here without it.",
        "Look at the store and at the network from here to it.",
    ),
    rule(
        Rule::FollowsNewLeader,
        "The cluster has another leader, and this standby follows it from now on. It is not restarted.",
        "Nothing.",
    ),
    rule(
        Rule::FollowerDiverged,
        "This standby has received records that the leader never had: the former leader sent them before it failed. It is \
         stopped and rewound.",
        "Nothing, if a rewind follows. The records were not part of what the new leader took over; see the lag of the \
         members before the failover, and synchronous replication if that must not happen.",
    ),
    rule(
        Rule::RejoinRewinds,
        "The data here has diverged from the leader's. pg_rewind brings it onto the leader's timeline; what only this \
         member had is no longer part of the database.",
        "Nothing, if the member follows afterwards.",
    ),
    rule(
        Rule::RejoinSetsAside,
        "The data here cannot be rewound. It is moved aside, whole, and the member clones from the leader.",
        "Watch the free space: there are two copies until the next directory is set aside. Another line says where the \
         old one is. Remove it when nobody needs it.",
    ),
    rule(
        Rule::RejoinBlocked,
        "The data here has diverged from the leader's. It cannot be rewound, and the settings do not allow a new clone. \
         The member stays down, and nothing is done with its data.",
        "If nothing in it is needed: `tenurectl reinit`, or permit it for the future by \
         remove_data_directory_on_rewind_failure and remove_data_directory_on_diverged_timelines (the directory is set \
         aside, not removed). For rewinding, PostgreSQL needs wal_log_hints or data checksums, and use_pg_rewind.",
    ),
    rule(
        Rule::RejoinBacksOff,
        "The last start, rewind or clone has failed. It is tried again after a pause that becomes longer each time, up \
         to half a minute.",
        "The line before this one says what failed: look there, and into PostgreSQL's own log.",
    ),
    rule(
        Rule::Clones,
        "There is no data here. The member copies all of it from the leader and follows it afterwards.",
        "Nothing. It takes as long as copying the database takes, and is bounded by the disk and the network.",
    ),
    rule(
        Rule::ClearsUnfinished,
        "A clone, a rewind or an initdb was interrupted, or another member has made the cluster first. What is left of it \
         here is moved aside, because PostgreSQL must not be started on it, and the member begins anew.",
        "Nothing, if the member comes back. Look above for what interrupted it.",
    ),
    rule(
        Rule::BootstrapTakes,
        "The store knows no data of this cluster. This member claims the right to make some.",
        "Nothing, if the cluster is new. If it should have data, stop the agents and look at the scope, the namespace and \
         the store of the configuration: they look in the wrong place, or the store has lost its content.",
    ),
    rule(
        Rule::BootstrapFinishes,
        "The first data of the cluster is made, and its identity is published. Other members clone from here.",
        "Nothing.",
    ),
    rule(
        Rule::BootstrapAbandons,
        "The cluster's first data could not be made. The right to make it is given back.",
        "The lines before this one say what failed.",
    ),
    rule(Rule::BootstrapLeads, "This member made the cluster's data and takes the first lease.", "Nothing."),
    rule(
        Rule::BootstrapBarred,
        "The store knows no data of this cluster, and this member may not make any: it has no bootstrap section, no \
         guardian, no room, or is tagged nofailover.",
        "Start a member that may, or that has the data. If the cluster should exist, look at the scope, the namespace \
         and the store of the configuration.",
    ),
    rule(
        Rule::BootstrapBlocked,
        "The `initialize` key in the store holds something that is neither a system identifier nor empty. No member makes \
         data or leads.",
        "Read the key. If the cluster has data, write the system identifier that `pg_controldata` shows into it; if it \
         has none, remove the key.",
    ),
    rule(
        Rule::AdoptsData,
        "The store does not know this cluster, but this member has its data as a primary. It publishes its identity, as \
         when a cluster is taken over or a store was emptied.",
        "Nothing, if this was intended. Otherwise make sure that no other primary of the same cluster exists.",
    ),
    rule(
        Rule::Paused,
        "The cluster is in maintenance mode. Nothing is started, stopped or promoted; there is no failover, and no \
         guardian stands by.",
        "`tenurectl resume` when the maintenance is over.",
    ),
    rule(
        Rule::PausedReleases,
        "The cluster is in maintenance mode, and the leader's PostgreSQL does not run. It is left so, and the lease is given \
         back: it would lead clients to a PostgreSQL that is not there.",
        "Start PostgreSQL by hand when your work is done, or promote another member by hand: whichever runs as a primary \
         takes the lease. `tenurectl resume` lets the members elect a leader.",
    ),
    rule(
        Rule::EndingStops,
        "The agent was asked to end, and stops PostgreSQL in good order. If it leads, another member takes over.",
        "Nothing. A checkpoint may take its time. To end the agent alone, pause the cluster first.",
    ),
    rule(
        Rule::EndingReleases,
        "The agent ends, and gives the lease back, so that nobody has to wait for its end.",
        "Nothing.",
    ),
    rule(
        Rule::Ended,
        "The agent has ended in good order, and with it its PostgreSQL unless paused.",
        "Nothing.",
    ),
    rule(
        Rule::LeaderWithoutWatchdog,
        "The settings require an armed watchdog device (`watchdog.mode: required`), and the guardian cannot rely \
         on it any more. The lease runs out unless the device is armed again, and another member takes over.",
        "Look at the watchdog's line in `tenurectl list -e` or in STATUS: it says why. See docs/fencing.md for \
         devices, modules and rights.",
    ),
    rule(
        Rule::LeaderCannotBeGuarded,
        "This member held the lease before its PostgreSQL was a primary, and neither a guardian nor the required \
         watchdog stands ready. It gives the lease back, so that another member can lead.",
        "See that the guardian runs (`systemctl status 'tenure-fence@*'`) and, where a watchdog is required, that \
         its device can be opened.",
    ),
    rule(
        Rule::LeaderRestartsHung,
        "PostgreSQL has stopped answering, and no other member can take over. It is stopped at once and started \
         in place.",
        "Find out why it hung: a postmaster that somebody has stopped, a debugger, a full process table, storage \
         that does not answer. See that there are standbys that can take over.",
    ),
    rule(
        Rule::LeaderDiskStalled,
        "Nothing that is written here reaches the disk. The lease is not renewed unless it is certain that nobody \
         else can lead.",
        "Look at the storage of this machine: the kernel's log, multipath, the array, a frozen file system.",
    ),
    rule(
        Rule::LeaderDiskFull,
        "The disk is full, or so nearly full that the next WAL segment may not fit, and no member with room can \
         take over. PostgreSQL goes on for as long as it can.",
        "Make room now: failed archiving and replication slots keep WAL (`pg_replication_slots`, \
         `pg_stat_archiver`), old files may lie beside the data. Never delete anything in pg_wal by hand.",
    ),
    rule(
        Rule::LeaderAsksAround,
        "PostgreSQL has crashed several times in a row, or does not come up. The others are asked whether one of \
         them can lead.",
        "Read PostgreSQL's own log: the reason for the crashes stands there.",
    ),
    rule(
        Rule::LeaderMakesWay,
        "PostgreSQL here cannot do its work: it hangs, crashes again and again, or its disk does. It has been \
         stopped and the lease given back for another member that is fit. Rows that had not been sent to it may \
         be missing there, as when a host is lost.",
        "Repair this machine before it is trusted again: storage, memory, PostgreSQL's log. It rejoins by itself \
         as a standby once it can.",
    ),
    rule(
        Rule::DiskFullHandsOver,
        "The disk of the leader is full. It hands over in good order to a member that has room, and nothing is \
         lost.",
        "Make room here: the member follows the new leader and will need as much.",
    ),
    rule(Rule::SwitchoverFallsDue, "The time of a switchover that was scheduled has come.", "Nothing."),
    rule(
        Rule::SwitchoverStale,
        "A scheduled switchover could not begin at its time, for instance because there was no leader then, or \
         its time cannot be read. The request has been removed and nothing was switched.",
        "Schedule it anew if it is still wanted.",
    ),
    rule(
        Rule::RestartStops,
        "Somebody has asked for a restart of this PostgreSQL by REST or `tenurectl restart`. A leader keeps its \
         lease meanwhile.",
        "Nothing. Clients of this server have to connect again.",
    ),
    rule(
        Rule::RestartTookTooLong,
        "A restart of the leader was given a time limit, and PostgreSQL did not come back within it. The lease is \
         given back, so that another member can lead.",
        "Read PostgreSQL's log for what it waits for: usually recovery after a stop that was not clean, or a \
         setting that keeps it from starting.",
    ),
    rule(
        Rule::ReinitializeSetsAside,
        "Somebody has asked to make this member's data anew. The old data directory is set aside, not deleted, \
         and a copy of the leader's is made.",
        "See that there is room for both. What was set aside goes by the limits of the configuration.",
    ),
];

#[cfg(test)]
mod tests;
