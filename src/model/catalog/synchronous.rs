//! The explanations of the synchronous modes.

use super::super::Rule;
use super::{Explanation, rule};

pub const SYNCHRONOUS: &[Explanation] = &[
    rule(
        Rule::SyncBegins,
        "Synchronous replication has been switched on. The key /sync says from now on who may lead without loss; first that \
         is this leader alone.",
        "Nothing. Standbys become synchronous as soon as they have what was committed before.",
    ),
    rule(
        Rule::SyncTakesOver,
        "A new leader writes into the key /sync who may lead after it, before it accepts its first commit. An agent that was \
         started again writes it once more, so that nothing that the one before it has sent can still arrive.",
        "Nothing.",
    ),
    rule(
        Rule::SyncWrites,
        "The set of synchronous standbys has changed, and the key /sync with it.",
        "Nothing, if it comes seldom. If standbys come and go, look at their replication and at the network.",
    ),
    rule(
        Rule::SyncNames,
        "synchronous_standby_names of this primary changes, without a restart. Which names it has stands in PostgreSQL's \
         own `SHOW synchronous_standby_names`.",
        "Nothing.",
    ),
    rule(
        Rule::SyncEnds,
        "synchronous_mode was switched off. Commits no longer wait for a standby, and a failover may lose the last ones.",
        "Nothing, if that is meant.",
    ),
    rule(
        Rule::SyncAlone,
        "No standby streams that may be synchronous. Commits are acknowledged by this primary alone, and if it fails nobody \
         takes over by itself: nobody else has every commit. (synchronous_mode_strict would make commits wait.)",
        "Look at the standbys: do they run, do they stream, are they tagged nosync, are they further behind than \
         maximum_lag_on_syncnode? If the primary is lost, `tenurectl failover --candidate` gives the office to a member \
         that you choose, and what it lacks is lost.",
    ),
    rule(
        Rule::SyncBlocks,
        "Fewer standbys stream than every commit waits for. Without synchronous_mode_strict one that does not come back is given \
         up after a few seconds; with it commits wait until one does.",
        "Look at the standbys: do they run, do they stream, are they tagged nosync? Switching synchronous_mode_strict off \
         lets commits pass without them.",
    ),
    rule(
        Rule::GateClosed,
        "PostgreSQL was started again as the primary, and shows commits that no standby may have: recovery cannot tell them from \
         others. As synchronous_gate asks, only Tenure's own roles are let in until the standbys that the key /sync rests on \
         have flushed them. Balancers are told that this member is no primary.",
        "Nothing, if it lasts for a moment. Otherwise look at the standbys: do they run, do they stream? `tenurectl explain` says \
         which of them lack what. Switching synchronous_gate off lets clients in at once; what they read then may be lost by a \
         failover.",
    ),
    rule(
        Rule::GateOpens,
        "Whoever may lead next has every commit that PostgreSQL was started with. Clients are let in. The line says how long they \
         were kept out.",
        "Nothing.",
    ),
    rule(
        Rule::CandidateNotSynchronous,
        "There is no leader, and the key /sync does not name this member: it may lack commits that were acknowledged.",
        "Bring back the former leader or one of the members that /sync names. If they are lost, `tenurectl failover \
         --candidate` makes this member the leader; what it lacks is lost.",
    ),
    rule(
        Rule::CandidateLacksVotes,
        "There is no leader, and fewer voters than the key /sync asks for can be reached, or some are further than this \
         member: it may lack commits that were acknowledged.",
        "Bring back the former leader or enough of the members that /sync names. If they are lost, `tenurectl failover \
         --candidate` makes this member the leader; what it lacks is lost.",
    ),
];
