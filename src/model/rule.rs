//! The named reasons of decisions. A rule's name stands in the log, the metrics, `tenurectl`, the stories and the manual.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{MemberName, MessageId};

/// Why a member does what it does now: the rule, and the other member that it speaks of, if any.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    pub rule: Rule,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<MemberName>,
}

// A row is a name, its code, its sentence and, if the rule changes the cluster or calls for an operator, the journal's number
// for it. Such a number is random, never changes, and is never used again: other people's filters hold it.
macro_rules! rules {
    (@message) => { None };
    (@message $id:literal) => { Some(MessageId::new($id)) };
    ($($(#[$doc:meta])* $name:ident = $code:literal: $sentence:literal $([$id:literal])?,)*) => {
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

            /// The journal's MESSAGE_ID.
            pub fn message_id(self) -> Option<MessageId> {
                match self { $(Rule::$name => rules!(@message $($id)?),)* }
            }
        }
    };
}

rules! {
    // Starting up.
    LooksAtPostgres = "looks_at_postgres": "looking at PostgreSQL for the first time",
    WaitsForStore = "waits_for_store": "waiting for a first answer from the store",
    ForeignData = "foreign_data": "the data directory belongs to another cluster than the store's; nothing is done with it" ["0cb30fa378bd4cecb7b1128400333b7a"],
    UnusableData = "unusable_data": "the data directory cannot be read as PostgreSQL's; nothing is done with it" ["85f5589976924b0f8dc2b454901ab005"],
    AwaitsDisarm = "awaits_disarm": "PostgreSQL is stopped; waiting until the guardian has been told",
    JobLostItsReason = "job_lost_its_reason": "stopping work that has lost its reason",

    // Leading.
    LeaderStays = "leader_stays": "leading",
    LeaderOutlivesSilence = "leader_outlives_silence": "leading; the store does not answer, and the lease still runs" ["8f9c292d8f0d463ca2179d30b14fad8a"],
    LeaderByConsent = "leader_by_consent": "leading; the store does not answer, and every member has agreed to leave the lease here (failsafe mode)" ["e458fe31958c4d438c84c2293dc4ffe8"],
    LeaderTakesAgain = "leader_takes_again": "led by the other members' consent while the store was away; taking the lease again" ["522063c1902143598dd04e131f3ea6e6"],
    LeaderHasPromised = "leader_has_promised": "holds the lease, but has promised to leave it to {member}; giving it back" ["c205f779723944749a10d17a4317604a"],
    LeaderAwaitsSnapshot = "leader_awaits_snapshot": "took the lease; waiting to see it in the store",
    LeaderAwaitsGuardian = "leader_awaits_guardian": "holds the lease; waiting for the guardian to confirm the deadline",
    LeaderWithoutGuardian = "leader_without_guardian": "leading without a guardian; the lease is not renewed until one answers" ["2532f2a59aca4c81b38bf890e29124eb"],
    LeaderWithoutWatchdog = "leader_without_watchdog": "leading without the watchdog that is required; the lease is not renewed until it is armed" ["389c4bca846642089da7d40a11a5f9de"],
    LeaderCannotBeGuarded = "leader_cannot_be_guarded": "holds the lease without the guardian or the required watchdog that leading needs; giving the lease back" ["4b035662b3bb4dfab7bcffd7830cd435"],
    LeaderUnfit = "leader_unfit": "PostgreSQL does not answer; the lease is not renewed while another member is looked for" ["9d7c37bd96a8443cbf4c717b2f355a09"],
    LeaderRestartsHung = "leader_restarts_hung": "PostgreSQL does not answer and nobody else can lead; stopping it at once to start it in place" ["1fff301b3d2d40eb9110e8e67b706e92"],
    LeaderDiskStalled = "leader_disk_stalled": "nothing reaches the disk here; looking for another member that can lead" ["a87e9fcc39bd4ca98a2e21a1bb30d999"],
    LeaderDiskFull = "leader_disk_full": "leading; the disk is full, and no member with room can take over" ["c778905c096245498d3c08afa1510814"],
    LeaderAsksAround = "leader_asks_around": "PostgreSQL keeps failing here; asking whether another member can lead" ["34fc089a479b468489bf087ce42ab9d0"],
    LeaderMakesWay = "leader_makes_way": "PostgreSQL cannot do its work here; making way for {member}" ["a6b3da1793b54ffabc6b7f4f0c2d3af7"],
    LeaderRunsHook = "leader_runs_hook": "holds the lease; running pre_promote before PostgreSQL is promoted",
    LeaderRefusedByHook = "leader_refused_by_hook": "pre_promote did not agree to the promotion; giving the lease back" ["74f5bba131de4f03bc406244d0058970"],
    LeaderPromotes = "leader_promotes": "holds the lease; promoting PostgreSQL" ["c3ab234189c744b8addf71a358b588ff"],
    LeaderRestarts = "leader_restarts": "holds the lease and PostgreSQL is down; starting it in place" ["cc36187a06ca49a3b81e3d29cedf1509"],
    LeaderStartsStandby = "leader_starts_standby": "holds the lease; starting PostgreSQL as a standby in order to promote it",
    LeaderStarting = "leader_starting": "holds the lease; PostgreSQL is starting",
    LeaderCheckpoints = "leader_checkpoints": "leading; writing the first checkpoint after the promotion",
    LeaderOnOldTimeline = "leader_on_old_timeline": "PostgreSQL came up on another timeline than the claimed one; stopping it" ["87e43441f83b4d0788f888e2fd05b498"],
    LeaderGivesUp = "leader_gives_up": "PostgreSQL cannot be brought up here; giving the lease back" ["9e80313e78d347ec93d0ee3679621f5e"],
    LeaderHasNoData = "leader_has_no_data": "holds the lease without usable data; giving it back" ["f11dbd84f80548b0ba26890a927fdb90"],
    LeaderHasNoClaim = "leader_has_no_claim": "holds the lease without the right to begin a timeline; giving it back" ["695f7861c60f4df7a586c585167589b7"],
    LeaderClearsRequest = "leader_clears_request": "the request to switch over is done or cannot be carried out; clearing it",

    // Synchronous replication.
    SyncBegins = "sync_begins": "leading; beginning with synchronous replication" ["ba3d1caec51c4ce1a5a9e856fdceb678"],
    SyncTakesOver = "sync_takes_over": "holds the lease; writing into the store who may lead after this member" ["552af70ee9904b0d83ab484448d7612d"],
    SyncWrites = "sync_writes": "leading; writing into the store who may lead without loss" ["b56c054fa29942d3bad707924ced460f"],
    SyncNames = "sync_names": "leading; changing the standbys that commits wait for" ["8c0f1a3e9fe34b3fa9a60e3acfd3c008"],
    SyncEnds = "sync_ends": "leading; synchronous replication is switched off, and commits wait for nobody any more" ["66c20a454fb34210b252f447a0f0e57f"],
    SyncAlone = "sync_alone": "leading; no standby is synchronous, so nobody else may lead without loss" ["df8e74e85a6442b391508142545b7b6c"],
    SyncBlocks = "sync_blocks": "leading; too few synchronous standbys stream, and commits wait for them" ["dfed72775e90474c909ec15892e59f6d"],

    // The gate.
    GateClosed = "gate_closed": "leading; clients wait until the synchronous standbys have every commit that PostgreSQL was started with" ["3046b9434f324a30a465044699e65e79"],
    GateOpens = "gate_opens": "leading; whoever may lead next has every commit that PostgreSQL was started with; letting clients in" ["f7d10d36e2d44fc783de97d43e2db6b3"],

    // Handing over.
    DiskFullHandsOver = "disk_full_hands_over": "the disk is full; handing over to {member}, which has room" ["a0f152fe74f24f37a458afaea768b98d"],
    SwitchoverAsks = "switchover_asks": "asked to switch over; asking the members who can take over",
    SwitchoverImpossible = "switchover_impossible": "asked to switch over, but no member can take over; clearing the request" ["1da0619a7553466ebe735ebadbd79682"],
    SwitchoverPaused = "switchover_paused": "asked to switch over in maintenance mode, to nobody in particular; clearing the request" ["192cf5973c354e5d8c5d7fd67a297476"],
    SwitchoverStops = "switchover_stops": "switching over to {member}; stopping PostgreSQL in good order" ["0d48070182f947dbbffa561922826c08"],
    SwitchoverConfirms = "switchover_confirms": "switching over; waiting until a candidate has the last record",
    SwitchoverReleases = "switchover_releases": "switching over to {member}, which has every record; giving the lease back" ["4da7e2ba2825472490a050f6d6388e23"],
    SwitchoverFails = "switchover_fails": "asked to take over, and PostgreSQL cannot be promoted here; clearing the request" ["85c162b024c04452b09aab2fc88ef838"],
    SwitchoverAbandoned = "switchover_abandoned": "no candidate received the last record in time; leading on" ["b51e900cc22a459db3dd41ec95dc652e"],

    SwitchoverFallsDue = "switchover_falls_due": "the time of the scheduled switchover has come; asking everybody for it now" ["b89aa0a087c74987ab2da464e9048964"],
    SwitchoverStale = "switchover_stale": "the time of the scheduled switchover has passed, or cannot be read; clearing the request" ["17ef993135f242649e4352200e191351"],

    // An operator's wishes.
    PauseEnds = "pause_ends": "the time that maintenance mode was given is over; ending it" ["224f3043a2f44608a05b5ab5f194340f"],
    RestartStops = "restart_stops": "asked to restart; stopping PostgreSQL in good order" ["312f091a83d14dfaac69d781a5d5598a"],
    RestartStarts = "restart_starts": "asked to restart in maintenance mode; starting PostgreSQL" ["0af64182acc642c0a010aacc73a6e7be"],
    RestartTookTooLong = "restart_took_too_long": "PostgreSQL did not come back within the time given for the restart; giving the lease back" ["816cf8d047c841588a5e80693bc2b432"],
    ReinitializeCancels = "reinitialize_cancels": "asked to make this member's data anew; stopping the work under way",
    ReinitializeAsks = "reinitialize_asks": "asked to make this member's data anew; asking {member} whether it can be copied from",
    ReinitializeStops = "reinitialize_stops": "asked to make this member's data anew; stopping PostgreSQL",
    ReinitializeSetsAside = "reinitialize_sets_aside": "asked to make this member's data anew; setting the old data aside" ["a6ffaac78b934fe1852b22296184ccdb"],

    // Losing the lease.
    LeaseRanOut = "lease_ran_out": "the lease could not be renewed in time; stopping PostgreSQL before another member may lead" ["d3875cefe4d348f3b4c1a7caae4a2201"],
    LeaseLost = "lease_lost": "the lease is gone; stopping PostgreSQL at once" ["e93484031c9041f2b02c4d5dbf33715c"],
    OtherLeads = "other_leads": "{member} leads; stopping the PostgreSQL that still accepts writes here" ["cbee20e17f344bfa9a2ffd9b0251b97b"],
    ReturnsToLease = "returns_to_lease": "back beside a running primary; taking up its lease again" ["5f3851e6c1a44f94a508be97634d2240"],
    PrimaryTakesLease = "primary_takes_lease": "found a running primary and no leader; taking the lease for it" ["fea3fbba047c40eea7f156f79c44f2ad"],
    PrimaryBarred = "primary_barred": "found a running primary that may not lead; stopping it" ["3a43176a655342d486d12ebe58e65606"],

    // Cut off from the store.
    CutOffStands = "cut_off_stands": "cut off from the store; the standby keeps running" ["736880fc954c4ab9888a3508644ca09d"],
    CutOffStartsStandby = "cut_off_starts_standby": "cut off from the store; starting PostgreSQL as a standby, for reading" ["d80732e5cd5c46b1b74e2d779031f717"],
    CutOffWaits = "cut_off_waits": "cut off from the store; waiting" ["579bb8c8278d4a92b0e9be47949cd996"],

    // Following.
    FollowsLeader = "follows_leader": "following {member}",
    FollowsNewLeader = "follows_new_leader": "following {member} from now on" ["32ea01e26e884dcb84a43b39405ec148"],
    FollowsSource = "follows_source": "replicating from {member}, as the tag replicatefrom says",
    TurnsToSource = "turns_to_source": "replicating from {member} from now on, as the tag replicatefrom says" ["6188fc7cc7ca41fea03b9969be7c75ec"],
    FollowsInstead = "follows_instead": "the member that the tag replicatefrom names cannot be used; following {member}" ["4327cdbc532d4ff8bce02cc633b09ac8"],
    FollowsArchive = "follows_archive": "replicating from the archive only (nostream)",
    TurnsToArchive = "turns_to_archive": "replicating from the archive only from now on (nostream)",
    StandbyStarved = "standby_starved": "the WAL asks for more connections, workers or locks than this standby has; stopping it to start with enough" ["559c0f5f611b4265b08ca86fef0c2c42"],
    CopiesSlots = "copies_slots": "copying logical replication slots from {member}; PostgreSQL is down for a moment" ["c1b444b721b54300b1169d91d298ae90"],
    FollowerStarting = "follower_starting": "PostgreSQL is starting as a standby",
    FollowerStarts = "follower_starts": "starting PostgreSQL as a standby of {member}",
    FollowerDiverged = "follower_diverged": "this standby has records that {member} never had; stopping it to rewind" ["35d5a4d2658a432091225bb72550599b"],
    RejoinWaitsForLineage = "rejoin_waits_for_lineage": "waiting until {member} has told where its timeline began",
    RejoinWaitsForCheckpoint = "rejoin_waits_for_checkpoint": "waiting for the first checkpoint of {member} before rewinding",
    RejoinRewinds = "rejoin_rewinds": "rewinding to the timeline of {member}" ["e777a5353d884e70b7274d06f62e03cb"],
    RejoinSetsAside = "rejoin_sets_aside": "the data cannot be rewound; setting it aside to clone from {member}" ["e7c13c51e1c848eaa48546eb95f5c1c3"],
    RejoinBlocked = "rejoin_blocked": "the data has diverged from {member} and may be neither rewound nor cloned by the settings; an operator must decide" ["12d17e317cf8422da92e4444353ea58e"],
    RejoinBacksOff = "rejoin_backs_off": "the last attempt to come back failed; waiting before the next one" ["dcfeb51a3a9b42ae980b23a30c7e5850"],
    Clones = "clones": "cloning from {member}" ["2b630d9125404d6b9d8dd2ac8f8e99d1"],
    ClonesWithoutLeader = "clones_without_leader": "there is no leader and no data here; making a copy of the data by a method that needs no leader",
    CloneWaitsForLeader = "clone_waits_for_leader": "the data directory is empty; waiting until {member} can be cloned from",
    ClearsUnfinished = "clears_unfinished": "setting aside what an interrupted attempt left behind" ["ca2b544f9c1c48d3b38a6c13788e49fe"],
    OwnOldLease = "own_old_lease": "the leader key bears this member's name but is not its own; waiting for its end",
    AwaitsRelease = "awaits_release": "has given the lease back; waiting for the store to say so",
    ReleasesAgain = "releases_again": "gave the lease back without hearing an answer; giving it back again",
    AwaitsRenewal = "awaits_renewal": "holds the leader key; waiting for the store to confirm it",

    // Leading a standby cluster.
    SiteFollows = "site_follows": "leading a standby cluster, which follows another one",
    SiteTurns = "site_turns": "leading a standby cluster; following the other cluster from now on" ["aa46abddb37b4e66b9c7b869fc461143"],
    SiteAsks = "site_asks": "leading a standby cluster; waiting for a word of the other cluster before following it",
    SiteStarts = "site_starts": "leading a standby cluster; starting PostgreSQL as a standby",
    SiteStarting = "site_starting": "leading a standby cluster; PostgreSQL is starting",
    SiteDemotes = "site_demotes": "this cluster has become a standby cluster; stopping the primary" ["c8cedc9a9c3c44ce81ba371c45fa3e8f"],
    SiteDiverged = "site_diverged": "this standby has records that the other cluster never had; stopping it to rewind" ["d58d8072e27740b798868b68f71b5130"],
    SiteRewinds = "site_rewinds": "rewinding to the timeline of the other cluster" ["f9e948b14c81400aba23c3e2cf4f2709"],
    SiteSetsAside = "site_sets_aside": "the data cannot be rewound to the other cluster's; setting it aside to clone" ["1ad37f1b3fd246dd8b5ea101978d32c3"],
    SiteOtherHistory = "site_other_history": "the other cluster has a timeline of the same number and another history; an operator must decide which data is right" ["c42f661d2421496a9fbef17ef04bf3fa"],
    SiteClones = "site_clones": "making a standby cluster; cloning from the other cluster" ["094ab186b8be4b0ebb98c9253f47f56b"],

    // No leader: the race.
    RaceStartsStandby = "race_starts_standby": "there is no leader; starting PostgreSQL as a standby to be able to take part",
    RaceWaitsForData = "race_waits_for_data": "there is no leader and no usable data here; waiting for a leader" ["1404d4c18bdd4edaba2f6e6cf9d8e9a8"],
    RaceStarting = "race_starting": "there is no leader; PostgreSQL is starting",
    RaceAsks = "race_asks": "there is no leader; asking the other members where they stand",
    CandidateTakes = "candidate_takes": "no member is further; taking the lease" ["1af4f77cf84e4d488ce51359981e535c"],
    CandidateFetches = "candidate_fetches": "named as the next leader; receiving first what {member} has more of" ["9a8cae721713480f8877b1171d0f23ef"],
    CandidateNamed = "candidate_named": "named as the next leader; taking the lease" ["60e8090b6f2b44a7b962caf88ce1ba3a"],
    CandidateBarred = "candidate_barred": "there is no leader, and this member may not lead (nofailover)" ["12036d4fd9404555a00e36050566c8fa"],
    CandidateHasPromised = "candidate_has_promised": "there is no leader, and this member has promised {member} to leave the lease to it",
    CandidateMayHavePromised = "candidate_may_have_promised": "there is no leader; waiting as long as a promise could bind that was given before this agent was started",
    CandidateNotAsked = "candidate_not_asked": "there is no leader, and the last one did not count on this member (failsafe mode)" ["63f109e2900e45e58940c4577e4aa6c8"],
    CandidateUnknown = "candidate_unknown": "there is no leader, and this member's position is not known",
    CandidateTooFarBehind = "candidate_too_far_behind": "there is no leader, and this member lacks more than the lag limit allows" ["af3acfbe811846af8644fec7b4be73d3"],
    CandidateOnOldTimeline = "candidate_on_old_timeline": "there is no leader, and this member is on an older timeline than the last one" ["6b126ee52f9e41c08a9f3b537d7490de"],
    CandidateNotSynchronous = "candidate_not_synchronous": "there is no leader, and this member may lack commits: it is not a synchronous standby" ["f385806f229d4573a46269a34eb09718"],
    CandidateLacksVotes = "candidate_lacks_votes": "there is no leader, and too few voters say that this member has every commit" ["58a967382d3648b094d052557b57f5ab"],
    CandidateYields = "candidate_yields": "there is no leader; {member} is further or preferred",
    CandidateYieldsToNamed = "candidate_yields_to_named": "there is no leader; {member} has been named as the next one",
    CandidateAwaitsStop = "candidate_awaits_stop": "asked to take over in maintenance mode, and {member} is not known to have stopped" ["4dfcbd6941a243bd9cf603e6e0311117"],
    CandidateSeesPrimary = "candidate_sees_primary": "there is no leader, but {member} still runs as a primary" ["a0c62a99e03042d1a0333dc7e6ce0127"],
    CandidateBacksOff = "candidate_backs_off": "there is no leader; promoting PostgreSQL failed here, and it is tried again later" ["3c6899979ea2492885755ceaa66ec1eb"],
    CandidateRefusedByHook = "candidate_refused_by_hook": "there is no leader, and pre_promote has just kept this member from leading" ["c0a1a1bd898943508a65b55c64010a09"],
    CandidateSilent = "candidate_silent": "there is no leader, and PostgreSQL here does not answer" ["13f60bfe4e334d00a7db4d2dd498dc60"],
    CandidateDiskStalled = "candidate_disk_stalled": "there is no leader, and nothing reaches the disk here" ["53782b44120e496aa57e0984fa0bd1a2"],
    CandidateWithoutGuardian = "candidate_without_guardian": "there is no leader, and no guardian answers here" ["c674cc3aee23427cbf4fa317655b10c9"],
    CandidateWithoutWatchdog = "candidate_without_watchdog": "there is no leader, and the watchdog that is required cannot be armed here" ["2d97cb5a047044f3a771b54891a4271d"],

    // Making a cluster.
    BootstrapTakes = "bootstrap_takes": "there is no cluster yet; claiming the right to make it" ["fbe888c7bf7d4ac68f6e0b492620547e"],
    BootstrapMakes = "bootstrap_makes": "making the cluster's data",
    BootstrapFinishes = "bootstrap_finishes": "the cluster's data is made; publishing its identity" ["1cc4861391ef4173b613c940bba1a9c8"],
    BootstrapAbandons = "bootstrap_abandons": "making the cluster's data failed; giving the right back" ["b98fa7d3716a41c48aab277715b15cd4"],
    BootstrapLeads = "bootstrap_leads": "made the cluster's data; taking the first lease" ["bfbceb6a73f547609ecfc108373ff5ae"],
    BootstrapWaits = "bootstrap_waits": "waiting for another member to make the cluster's data",
    BootstrapUnled = "bootstrap_unled": "made the cluster's data, which nobody has led yet; waiting until it can be led or is known to be of no use",
    BootstrapBarred = "bootstrap_barred": "there is no cluster yet, and this member may not make one" ["f002f23dac474e7bb412d54b78b4463a"],
    BootstrapBlocked = "bootstrap_blocked": "the store's initialize key holds something unknown; an operator must decide" ["3cdf2d3324734d70956dc67416e4585f"],
    AdoptsData = "adopts_data": "the store does not know the cluster of this primary's data; publishing its identity" ["8e2ebeddedc941fba733fa923bf10f9b"],
    AdoptionWaits = "adoption_waits": "the store does not know this standby's cluster; waiting for its primary's agent",

    // Maintenance.
    Paused = "paused": "maintenance mode: nothing is started, stopped or promoted" ["4cb062fca49843dcab0d33b8fbcd16a6"],
    PausedReleases = "paused_releases": "maintenance mode, and PostgreSQL does not run here; giving the lease back" ["ec55c824d0b74b7caee4bbc2d7e147a0"],

    // Ending.
    EndingStops = "ending_stops": "asked to end; stopping PostgreSQL in good order" ["9fac4ff2a5214882ada92041d89cf20e"],
    EndingConfirms = "ending_confirms": "asked to end; waiting until a candidate has the last record",
    EndingReleases = "ending_releases": "asked to end; giving the lease back" ["038b416ccfe34c9b88afe3baaba22bf8"],
    EndingWaits = "ending_waits": "asked to end; waiting for the work under way",
    Ended = "ended": "ended in good order" ["ef1c30a3dc8646fb89e0338b89a193a1"],
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
