//! The named reasons of decisions. A rule's name stands in the log, the metrics, `tenurectl`, the stories and the manual.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::MemberName;

/// Why a member does what it does now: the rule, and the other member that it speaks of, if any.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    pub rule: Rule,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<MemberName>,
}

macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident = $code:literal: $sentence:literal,)*) => {
        /// One row of the decision table.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Rule {
            $($(#[$doc])* $name,)*
        }

        impl Rule {
            pub const ALL: &[Rule] = &[$(Rule::$name),*];

            /// The stable name for machines.
            pub fn code(self) -> &'static str {
                match self { $(Rule::$name => $code,)* }
            }

            /// One sentence for people; `{member}` stands for the other member.
            pub fn sentence(self) -> &'static str {
                match self { $(Rule::$name => $sentence,)* }
            }
        }
    };
}

rules! {
    // Starting up.
    LooksAtPostgres = "looks_at_postgres": "looking at PostgreSQL for the first time",
    WaitsForStore = "waits_for_store": "waiting for a first answer from the store",
    ForeignData = "foreign_data": "the data directory belongs to another cluster than the store's; nothing is done with it",
    UnusableData = "unusable_data": "the data directory cannot be read as PostgreSQL's; nothing is done with it",
    AwaitsDisarm = "awaits_disarm": "PostgreSQL is stopped; waiting until the guardian has been told",
    JobLostItsReason = "job_lost_its_reason": "stopping work that has lost its reason",

    // Leading.
    LeaderStays = "leader_stays": "leading",
    LeaderOutlivesSilence = "leader_outlives_silence": "leading; the store does not answer, and the lease still runs",
    LeaderAwaitsSnapshot = "leader_awaits_snapshot": "took the lease; waiting to see it in the store",
    LeaderAwaitsGuardian = "leader_awaits_guardian": "holds the lease; waiting for the guardian to confirm the deadline",
    LeaderWithoutGuardian = "leader_without_guardian": "leading without a guardian; the lease is not renewed until one answers",
    LeaderWithoutWatchdog = "leader_without_watchdog": "leading without the watchdog that is required; the lease is not renewed until it is armed",
    LeaderCannotBeGuarded = "leader_cannot_be_guarded": "holds the lease without the guardian or the required watchdog that leading needs; giving the lease back",
    LeaderUnfit = "leader_unfit": "PostgreSQL does not answer; the lease is not renewed",
    LeaderPromotes = "leader_promotes": "holds the lease; promoting PostgreSQL",
    LeaderRestarts = "leader_restarts": "holds the lease and PostgreSQL is down; starting it in place",
    LeaderStartsStandby = "leader_starts_standby": "holds the lease; starting PostgreSQL as a standby in order to promote it",
    LeaderStarting = "leader_starting": "holds the lease; PostgreSQL is starting",
    LeaderCheckpoints = "leader_checkpoints": "leading; writing the first checkpoint after the promotion",
    LeaderOnOldTimeline = "leader_on_old_timeline": "PostgreSQL came up on another timeline than the claimed one; stopping it",
    LeaderGivesUp = "leader_gives_up": "PostgreSQL cannot be brought up here; giving the lease back",
    LeaderHasNoData = "leader_has_no_data": "holds the lease without usable data; giving it back",
    LeaderHasNoClaim = "leader_has_no_claim": "holds the lease without the right to begin a timeline; giving it back",
    LeaderClearsRequest = "leader_clears_request": "the request to switch over is done or cannot be carried out; clearing it",

    // Handing over.
    SwitchoverAsks = "switchover_asks": "asked to switch over; asking the members who can take over",
    SwitchoverImpossible = "switchover_impossible": "asked to switch over, but no member can take over; clearing the request",
    SwitchoverStops = "switchover_stops": "switching over to {member}; stopping PostgreSQL in good order",
    SwitchoverConfirms = "switchover_confirms": "switching over; waiting until a candidate has the last record",
    SwitchoverReleases = "switchover_releases": "switching over to {member}, which has every record; giving the lease back",
    SwitchoverAbandoned = "switchover_abandoned": "no candidate received the last record in time; leading on",

    // Losing the lease.
    LeaseRanOut = "lease_ran_out": "the lease could not be renewed in time; stopping PostgreSQL before another member may lead",
    LeaseLost = "lease_lost": "the lease is gone; stopping PostgreSQL at once",
    OtherLeads = "other_leads": "{member} leads; stopping the PostgreSQL that still accepts writes here",
    ReturnsToLease = "returns_to_lease": "back beside a running primary; taking up its lease again",
    PrimaryTakesLease = "primary_takes_lease": "found a running primary and no leader; taking the lease for it",
    PrimaryBarred = "primary_barred": "found a running primary that may not lead; stopping it",

    // Cut off from the store.
    CutOffStands = "cut_off_stands": "cut off from the store; the standby keeps running",
    CutOffStartsStandby = "cut_off_starts_standby": "cut off from the store; starting PostgreSQL as a standby, for reading",
    CutOffWaits = "cut_off_waits": "cut off from the store; waiting",

    // Following.
    FollowsLeader = "follows_leader": "following {member}",
    FollowsNewLeader = "follows_new_leader": "following {member} from now on",
    FollowerStarting = "follower_starting": "PostgreSQL is starting as a standby",
    FollowerStarts = "follower_starts": "starting PostgreSQL as a standby of {member}",
    FollowerDiverged = "follower_diverged": "this standby has records that {member} never had; stopping it to rewind",
    RejoinWaitsForLineage = "rejoin_waits_for_lineage": "waiting until {member} has told where its timeline began",
    RejoinWaitsForCheckpoint = "rejoin_waits_for_checkpoint": "waiting for the first checkpoint of {member} before rewinding",
    RejoinRewinds = "rejoin_rewinds": "rewinding to the timeline of {member}",
    RejoinSetsAside = "rejoin_sets_aside": "the data cannot be rewound; setting it aside to clone from {member}",
    RejoinBlocked = "rejoin_blocked": "the data has diverged from {member} and may be neither rewound nor cloned by the settings; an operator must decide",
    RejoinBacksOff = "rejoin_backs_off": "the last attempt to come back failed; waiting before the next one",
    Clones = "clones": "cloning from {member}",
    CloneWaitsForLeader = "clone_waits_for_leader": "the data directory is empty; waiting until {member} can be cloned from",
    ClearsUnfinished = "clears_unfinished": "setting aside what an interrupted attempt left behind",
    OwnOldLease = "own_old_lease": "the leader key bears this member's name but is not its own; waiting for its end",
    ReleasesAgain = "releases_again": "gave the lease back without hearing an answer; giving it back again",
    AwaitsRenewal = "awaits_renewal": "holds the leader key; waiting for the store to confirm it",

    // No leader: the race.
    RaceStartsStandby = "race_starts_standby": "there is no leader; starting PostgreSQL as a standby to be able to take part",
    RaceWaitsForData = "race_waits_for_data": "there is no leader and no usable data here; waiting for a leader",
    RaceStarting = "race_starting": "there is no leader; PostgreSQL is starting",
    RaceAsks = "race_asks": "there is no leader; asking the other members where they stand",
    CandidateTakes = "candidate_takes": "no member is further; taking the lease",
    CandidateNamed = "candidate_named": "named as the next leader; taking the lease",
    CandidateBarred = "candidate_barred": "there is no leader, and this member may not lead (nofailover)",
    CandidateUnknown = "candidate_unknown": "there is no leader, and this member's position is not known",
    CandidateTooFarBehind = "candidate_too_far_behind": "there is no leader, and this member lacks more than the lag limit allows",
    CandidateOnOldTimeline = "candidate_on_old_timeline": "there is no leader, and this member is on an older timeline than the last one",
    CandidateYields = "candidate_yields": "there is no leader; {member} is further or preferred",
    CandidateYieldsToNamed = "candidate_yields_to_named": "there is no leader; {member} has been named as the next one",
    CandidateSeesPrimary = "candidate_sees_primary": "there is no leader, but {member} still runs as a primary",
    CandidateBacksOff = "candidate_backs_off": "there is no leader; promoting PostgreSQL failed here, and it is tried again later",
    CandidateWithoutGuardian = "candidate_without_guardian": "there is no leader, and no guardian answers here",
    CandidateWithoutWatchdog = "candidate_without_watchdog": "there is no leader, and the watchdog that is required cannot be armed here",

    // Making a cluster.
    BootstrapTakes = "bootstrap_takes": "there is no cluster yet; claiming the right to make it",
    BootstrapMakes = "bootstrap_makes": "making the cluster's data",
    BootstrapFinishes = "bootstrap_finishes": "the cluster's data is made; publishing its identity",
    BootstrapAbandons = "bootstrap_abandons": "making the cluster's data failed; giving the right back",
    BootstrapLeads = "bootstrap_leads": "made the cluster's data; taking the first lease",
    BootstrapWaits = "bootstrap_waits": "waiting for another member to make the cluster's data",
    BootstrapBarred = "bootstrap_barred": "there is no cluster yet, and this member may not make one",
    BootstrapBlocked = "bootstrap_blocked": "the store's initialize key holds something unknown; an operator must decide",
    AdoptsData = "adopts_data": "the store does not know the cluster of this primary's data; publishing its identity",
    AdoptionWaits = "adoption_waits": "the store does not know this standby's cluster; waiting for its primary's agent",

    // Maintenance.
    Paused = "paused": "maintenance mode: nothing is started, stopped or promoted",

    // Ending.
    EndingStops = "ending_stops": "asked to end; stopping PostgreSQL in good order",
    EndingConfirms = "ending_confirms": "asked to end; waiting until a candidate has the last record",
    EndingReleases = "ending_releases": "asked to end; giving the lease back",
    EndingWaits = "ending_waits": "asked to end; waiting for the work under way",
    Ended = "ended": "ended in good order",
}

impl Reason {
    pub fn about(rule: Rule, member: &MemberName) -> Reason {
        Reason { rule, member: Some(member.clone()) }
    }
}

impl From<Rule> for Reason {
    fn from(rule: Rule) -> Reason {
        Reason { rule, member: None }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.member {
            Some(member) => f.write_str(&self.rule.sentence().replace("{member}", member.as_str())),
            None => f.write_str(&self.rule.sentence().replace("{member}", "another member")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_rule_has_a_code_and_a_sentence_of_its_own() {
        let codes: BTreeSet<_> = Rule::ALL.iter().map(|rule| rule.code()).collect();
        let sentences: BTreeSet<_> = Rule::ALL.iter().map(|rule| rule.sentence()).collect();
        assert_eq!((codes.len(), sentences.len()), (Rule::ALL.len(), Rule::ALL.len()));
    }

    #[test]
    fn a_code_is_the_name_that_serde_writes() {
        for rule in Rule::ALL {
            assert_eq!(serde_json::to_value(rule).expect("a rule is JSON"), rule.code());
        }
    }
}
