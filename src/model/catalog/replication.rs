//! The explanations of what concerns replication: where WAL comes from, slots, and clusters that follow another one.

use super::super::Rule;
use super::{Explanation, rule};

pub const REPLICATION: &[Explanation] = &[
    rule(
        Rule::TurnsToSource,
        "The tag `replicatefrom` of this member names another standby, and that one can be replicated from now.",
        "Nothing.",
    ),
    rule(
        Rule::FollowsInstead,
        "The member that `replicatefrom` names is not there, does not run, is far behind, has diverged, or the tags lead \
         back to this member. Until that changes, this member replicates from the leader.",
        "`tenurectl topology` shows the members and their tags. Nothing, if the member is only down for a while.",
    ),
    rule(
        Rule::StandbyStarved,
        "The primary was restarted with more max_connections, max_worker_processes, max_wal_senders, \
         max_prepared_transactions or max_locks_per_transaction than this standby has. A standby cannot replay such WAL; \
         it is started again with as much as the primary has.",
        "Nothing. To avoid the interruption, restart the standbys before the primary when such a setting is raised.",
    ),
    rule(
        Rule::CopiesSlots,
        "The configuration names logical replication slots that must survive a failover, and this standby lacks one that \
         the leader has. PostgreSQL before 17 can take a slot in only while it is down.",
        "Nothing. A consumer may go on here after a failover; see docs/slots.md for what it may rely on.",
    ),
    rule(
        Rule::SiteTurns,
        "This member leads a standby cluster and now replicates from the other cluster that `standby_cluster` names.",
        "Nothing.",
    ),
    rule(
        Rule::SiteDemotes,
        "`standby_cluster` was set, so that nobody in this cluster may accept writes. The primary is stopped in good order, \
         and comes back as a standby of the other cluster.",
        "Nothing, if it was meant. Otherwise `tenurectl promote-cluster`, or take `standby_cluster` out of the dynamic \
         configuration.",
    ),
    rule(
        Rule::SiteDiverged,
        "This standby leads a standby cluster and has records that the other cluster never had: mostly because its own \
         cluster accepted writes when the other one had already taken over.",
        "The records are lost for the cluster; what pg_rewind does depends on the settings. See docs/standby-clusters.md.",
    ),
    rule(
        Rule::SiteRewinds,
        "The data has diverged from the other cluster's; pg_rewind takes it back to where they parted.",
        "Nothing.",
    ),
    rule(
        Rule::SiteSetsAside,
        "The data has diverged from the other cluster's and cannot be rewound. It is kept beside the data directory, and \
         the member gives the lease back in order to be cloned anew.",
        "Look at the log for why the rewind failed. Remove the directory that was set aside when nothing in it is needed.",
    ),
    rule(
        Rule::SiteOtherHistory,
        "Both clusters have begun a timeline of the same number independently of each other. PostgreSQL and pg_rewind know \
         timelines by their numbers only and would mix the two, so this member replicates from nobody.",
        "Decide which cluster's data is right. To take the other cluster's: stop the agents here, move the data directories \
         away, and start the agents; they clone.",
    ),
    rule(
        Rule::SiteClones,
        "There is no data in this standby cluster yet, and this member has the right to make it: it copies the other \
         cluster's primary.",
        "Nothing. If it fails, the log says why: mostly the replication user's password or the other cluster's pg_hba.conf.",
    ),
];
