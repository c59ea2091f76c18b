//! What is said to the journal beside the sentence: the number of a message, and how much it matters.

use std::fmt;

use super::Rule;

/// The journal's MESSAGE_ID: the same for the same kind of event, for ever and everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(&'static str);

/// Does anybody have to do something about it?
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It goes as it should.
    Info,
    /// An operator may have to act.
    Warning,
    /// This member does nothing more for the cluster until an operator acts.
    Error,
}

/// What is worth a MESSAGE_ID and is no rule: the guardian's part, drills, a start, and virtual addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Notice {
    /// Said by the guardian.
    GuardianKilled,
    /// Said by the agent, when it reads the guardian's report.
    KillReported,
    /// Said by the agent.
    GuardianGone,
    /// Said by the agent, before it does what it was asked for.
    DrillAsked,
    /// Said by the agent: the watchdog device that should have reset the machine has not.
    DrillInVain,
    /// Said by the agent, when it starts PostgreSQL.
    StartedWithoutGate,
    /// Said by the holder of the virtual addresses, as are the next three.
    AddressTaken,
    AddressReleased,
    AddressDuplicate,
    AddressFailed,
    /// Said by the agent.
    AddressHolderGone,
}

impl MessageId {
    /// Of 32 hexadecimal digits in lower case, as the journal writes it.
    pub const fn new(number: &'static str) -> MessageId {
        MessageId(number)
    }

    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Notice {
    pub const ALL: &[Notice] = &[
        Notice::GuardianKilled,
        Notice::KillReported,
        Notice::GuardianGone,
        Notice::DrillAsked,
        Notice::DrillInVain,
        Notice::StartedWithoutGate,
        Notice::AddressTaken,
        Notice::AddressReleased,
        Notice::AddressDuplicate,
        Notice::AddressFailed,
        Notice::AddressHolderGone,
    ];

    pub const fn sentence(self) -> &'static str {
        match self {
            Notice::GuardianKilled => "the guardian killed PostgreSQL",
            Notice::KillReported => "the guardian has killed PostgreSQL",
            Notice::GuardianGone => "the guardian is gone",
            Notice::DrillAsked => "a drill was asked for",
            Notice::DrillInVain => "the watchdog device has not reset this machine",
            Notice::StartedWithoutGate => "PostgreSQL is started without its gate",
            Notice::AddressTaken => "took a virtual address",
            Notice::AddressReleased => "left a virtual address",
            Notice::AddressDuplicate => "another host answers for a virtual address",
            Notice::AddressFailed => "a virtual address cannot be brought where it belongs",
            Notice::AddressHolderGone => "nobody holds the virtual addresses of this member",
        }
    }

    pub const fn message_id(self) -> MessageId {
        match self {
            Notice::GuardianKilled => MessageId("a042c32b87f34e978fc587588e891efe"),
            Notice::KillReported => MessageId("05901e4a7eec45c4936036d8c51788d5"),
            Notice::GuardianGone => MessageId("e779c0af112140f7af16cfcb166ee630"),
            Notice::DrillAsked => MessageId("83c566fb2c384175b3d08d51433ca5c4"),
            Notice::DrillInVain => MessageId("00e2f37fe4c94220a23fec910fc975a8"),
            Notice::StartedWithoutGate => MessageId("16d71306e3684c328c4cca875a11151d"),
            Notice::AddressTaken => MessageId("ff82b75546da4fdaa5d551d440ef5475"),
            Notice::AddressReleased => MessageId("c1a05459754145958376dbd53230208b"),
            Notice::AddressDuplicate => MessageId("cabe2215e379436e9939ec559784ce46"),
            Notice::AddressFailed => MessageId("9ab47a0d741c42e49695194ff51cba66"),
            Notice::AddressHolderGone => MessageId("1793c6bfa7fb4b96a7520a09a2b6373f"),
        }
    }
}

/// Rules under which a member is out of office or out of the cluster until somebody acts.
const ERRORS: &[Rule] = &[
    Rule::ForeignData,
    Rule::UnusableData,
    Rule::RejoinBlocked,
    Rule::BootstrapBlocked,
    Rule::SiteOtherHistory,
];

const WARNINGS: &[Rule] = &[
    Rule::LeaderOutlivesSilence,
    Rule::LeaderByConsent,
    Rule::LeaderHasPromised,
    Rule::CandidateNotAsked,
    Rule::LeaderWithoutGuardian,
    Rule::LeaderUnfit,
    Rule::LeaderRestarts,
    Rule::LeaderOnOldTimeline,
    Rule::LeaderGivesUp,
    Rule::LeaderRefusedByHook,
    Rule::CandidateRefusedByHook,
    Rule::LeaderHasNoData,
    Rule::PausedReleases,
    Rule::LeaderHasNoClaim,
    Rule::SwitchoverPaused,
    Rule::SwitchoverImpossible,
    Rule::SwitchoverFails,
    Rule::SwitchoverAbandoned,
    Rule::LeaseRanOut,
    Rule::LeaseLost,
    Rule::OtherLeads,
    Rule::PrimaryBarred,
    Rule::CutOffStands,
    Rule::CutOffStartsStandby,
    Rule::CutOffWaits,
    Rule::FollowerDiverged,
    Rule::RejoinSetsAside,
    Rule::RejoinBacksOff,
    Rule::ClearsUnfinished,
    Rule::RaceWaitsForData,
    Rule::CandidateTooFarBehind,
    Rule::CandidateOnOldTimeline,
    Rule::CandidateAwaitsStop,
    Rule::CandidateSeesPrimary,
    Rule::CandidateBacksOff,
    Rule::CandidateWithoutGuardian,
    Rule::LeaderWithoutWatchdog,
    Rule::LeaderCannotBeGuarded,
    Rule::LeaderRestartsHung,
    Rule::LeaderDiskStalled,
    Rule::LeaderDiskFull,
    Rule::LeaderAsksAround,
    Rule::LeaderMakesWay,
    Rule::DiskFullHandsOver,
    Rule::SwitchoverStale,
    Rule::RestartTookTooLong,
    Rule::CandidateSilent,
    Rule::CandidateDiskStalled,
    Rule::CandidateWithoutWatchdog,
    Rule::BootstrapAbandons,
    Rule::FollowsInstead,
    Rule::StandbyStarved,
    Rule::SiteDiverged,
    Rule::SiteSetsAside,
    Rule::SyncAlone,
    Rule::SyncBlocks,
    Rule::GateClosed,
    Rule::CandidateNotSynchronous,
    Rule::CandidateLacksVotes,
];

impl Rule {
    /// How the log tells that a member now acts by this rule.
    pub fn severity(self) -> Severity {
        if ERRORS.contains(&self) {
            Severity::Error
        } else if WARNINGS.contains(&self) {
            Severity::Warning
        } else {
            Severity::Info
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_message_id_is_random_and_the_only_one_of_its_kind() {
        let ids: Vec<MessageId> = (Rule::ALL.iter().filter_map(|rule| rule.message_id()))
            .chain(Notice::ALL.iter().map(|notice| notice.message_id()))
            .collect();
        let different: BTreeSet<MessageId> = ids.iter().copied().collect();
        assert_eq!(different.len(), ids.len());
        for id in ids {
            let text = id.as_str();
            assert!(
                text.len() == 32 && text.bytes().all(|byte| b"0123456789abcdef".contains(&byte)),
                "{text}"
            );
            // As `journalctl --new-id128` and uuidgen make them: version 4 of RFC 9562.
            assert_eq!(&text[12..13], "4", "{text}");
            assert!("89ab".contains(&text[16..17]), "{text}");
        }
    }

    #[test]
    fn what_may_need_an_operator_has_a_message_id() {
        for rule in Rule::ALL {
            assert!(rule.severity() == Severity::Info || rule.message_id().is_some(), "{}", rule.code());
        }
    }
}
