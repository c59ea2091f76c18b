//! The explanations of what is decided while nobody leads.

use super::super::Rule;
use super::{Explanation, rule};

pub const CANDIDATES: &[Explanation] = &[
    rule(
        Rule::CandidateRefusedByHook,
        "Nobody leads. A moment ago postgresql.pre_promote failed here, so this member leaves the lease to others for the \
         time of a lease.",
        "If no other member takes over, correct what keeps the command from agreeing.",
    ),
    rule(
        Rule::RaceWaitsForData,
        "Nobody leads, and this member has no data that it could lead with.",
        "If no member has any, restore a backup. Otherwise start the agent of a member that has.",
    ),
    rule(
        Rule::CandidateTakes,
        "Nobody leads, and no member that answers is further than this one. It takes the lease.",
        "Nothing. Look into the journal of the former leader for the reason why it is one no more.",
    ),
    rule(
        Rule::CandidateFetches,
        "This member was named as the next leader, and another standby has more WAL. It is received from there first, so that \
         nothing is lost that is still there. Where nothing comes for three seconds, this member leads without it.",
        "Nothing. If it led without it, see PostgreSQL's log here for why it could not stream from that member.",
    ),
    rule(Rule::CandidateNamed, "This member was named as the next leader, and takes the lease.", "Nothing."),
    rule(
        Rule::CandidateBarred,
        "Nobody leads. This member may not: it is tagged nofailover.",
        "If no other member can lead, remove the tag here and reload the agent, after having thought about why it is \
         there.",
    ),
    rule(
        Rule::CandidateTooFarBehind,
        "Nobody leads. This member lacks more than maximum_lag_on_failover of what the last leader had written, and does \
         not take over by itself.",
        "Bring the former leader back if that can be done: nothing is lost then. If it cannot, `tenurectl failover` with \
         this member as the candidate makes it the leader, and what it lacks is lost.",
    ),
    rule(
        Rule::CandidateOnOldTimeline,
        "Nobody leads. This member has not followed the last leader onto its timeline, and check_timeline forbids it to \
         take over.",
        "Bring back a member that is on the last timeline. If there is none any more, `tenurectl failover` with this \
         member as the candidate makes it the leader, and what it lacks is lost.",
    ),
    rule(
        Rule::CandidateAwaitsStop,
        "A switchover to this member was asked for in maintenance mode, and the lease of the former leader has run out instead of being \
         given back. No guardian stops a primary in maintenance mode: it may still accept writes.",
        "See to the former leader. If it is gone for good: `tenurectl failover --candidate` with the name of this member.",
    ),
    rule(
        Rule::CandidateSeesPrimary,
        "Nobody holds the lease, but another member says that it still runs as a primary. It is waited for.",
        "Look at the journal of that member's agent: it either takes the lease or stops its PostgreSQL. If that agent \
         cannot reach the store, repair that; to have another leader at once, stop PostgreSQL there.",
    ),
    rule(
        Rule::CandidateBacksOff,
        "Nobody leads, and the last promotion here has failed. It is tried again after a pause.",
        "Look into PostgreSQL's own log here for the reason.",
    ),
    rule(
        Rule::CandidateWithoutGuardian,
        "Nobody leads, and this member may not, because its guardian, tenure-fence, does not answer.",
        "Look at the unit tenure-fence@ of this instance and its journal, and start it.",
    ),
    rule(
        Rule::CandidateSilent,
        "Nobody leads, and this member cannot: its PostgreSQL does not answer.",
        "Find out why it hangs; another member that answers takes over by itself.",
    ),
    rule(
        Rule::CandidateDiskStalled,
        "Nobody leads, and this member cannot: nothing that is written here reaches the disk.",
        "Look at the storage of this machine; another member takes over by itself if it can.",
    ),
    rule(
        Rule::CandidateWithoutWatchdog,
        "Nobody leads, and this member may not: the settings require a watchdog device, and it cannot be armed \
         here.",
        "`tenurectl list -e` and the agent's status say why. See docs/fencing.md; `watchdog.mode: automatic` \
         leads without one.",
    ),
];
