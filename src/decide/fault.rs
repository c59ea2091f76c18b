//! Deliberate faults, for tests only: the simulator must notice every one of them. Outside tests none is ever active, and
//! the compiler removes the questions.

/// One way in which the rules could be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(test), allow(dead_code))]
pub(crate) enum Fault {
    /// Acts on a lease however old it is.
    IgnoresDeadline,
    /// Counts a lease from when the answer came.
    CountsFromTheAnswer,
    /// Takes ZooKeeper's answer for a proof that its leader has heard of the session.
    CountsFromEveryAnswer,
    /// Believes that a request without an answer was granted.
    BelievesTheUnanswered,
    /// Takes its own timeline plus one, whatever others were allowed.
    IgnoresClaims,
    /// Starts or promotes without a guardian's word.
    LeadsUnguarded,
    /// Takes the lease without the watchdog that is required.
    LeadsUnwatched,
    /// Starts as a primary whatever timelines others have had.
    RestartsOnOldTimeline,
    /// Follows a leader without looking whether the records fit.
    SkipsDivergence,
    /// Keeps the virtual address when the lease has been given back or lost.
    KeepsAddress,
    /// Gives the lease back while PostgreSQL still runs.
    ReleasesBeforeStop,
    /// Takes silence of the store for a store without a leader.
    SilenceIsNoLeader,
    /// Goes on leading although the key is not its own.
    KeepsLostKey,
    /// Decides a race by answers that are older than the leader's end.
    UsesOldAnswers,
    /// Clones into a directory that holds data.
    ClonesOverData,
    /// Tells its last position without looking, as if it had looked.
    AnswersFromMemory,
    /// Compares the others' positions with what it knew of its own before it asked.
    ComparesOldPosition,
    /// Yields to nobody in a race.
    YieldsToNobody,
    /// Disarms the guardian while PostgreSQL accepts writes.
    DisarmsWhileWritable,
    /// Renews whatever state PostgreSQL is in.
    RenewsUnfit,
    /// Hands over to somebody who lacks the last record.
    HandsOverTooEarly,
    /// Takes the lease with a disk or a PostgreSQL that does not work.
    TakesUnfit,
    /// Makes way for whoever stands there, however full.
    MakesWayForAnybody,
    /// Starts a primary that crashes in place for ever.
    RestartsForEver,
    /// Lets the lease be renewed however long the loop is silent.
    PermitsForEver,
    /// Takes or uses the lease that it has promised to leave to another member.
    ForgetsItsPromise,
    /// Takes over from a primary that nobody has fenced and that still writes.
    DeposesTheUnfenced,
    /// Leads on if only some have agreed.
    LeadsByFewerConsents,
    /// Replicates from whoever the tag names, whatever state that member is in.
    CascadesFromAnybody,
    /// Replicates from a member that replicates from it.
    CascadesInCircles,
    /// Leaves the primary of a cluster that has become a standby cluster as it is.
    WritesInStandbyCluster,
    /// Keeps the slots of members that have gone for ever.
    KeepsSlotsForEver,
    /// Starts what an interrupted clone or rewind has left.
    StartsUnfinished,
    /// Writes who may lead before commits wait for them.
    SyncElectsFirst,
    /// Commits wait for less before the electorate asks for more.
    SyncSkipsRetreat,
    /// Counts a standby as synchronous before it has what was committed earlier.
    SyncTrustsUnconfirmed,
    /// Takes names for in force as soon as they are written.
    SyncSkipsProof,
    /// Does not wait to hear what has become of its last write.
    SyncForgetsWrites,
    /// Writes over whatever the key holds.
    SyncIgnoresVersions,
    /// Promotes without saying that it is the leader now.
    SyncSkipsTakeover,
    /// Elects whoever is furthest.
    SyncLetsAnybodyLead,
    /// Elects a voter that has asked nobody.
    SyncCountsNoVotes,
    /// Takes the position that the former leader published last for the end of its WAL.
    TakesStatusForEnd,
    /// Lets clients in as soon as PostgreSQL is up.
    GateOpensAtOnce,
    /// Lets clients in as soon as one of several voters has what they will see.
    GateTrustsOne,
    /// Takes a word of the leader for as young as the look at what it is compared with.
    CountsWordsFromTheAnswer,
    /// Takes what a leader has seen some time ago for what it saw when it was asked.
    TakesOldWordsForNew,
}

#[cfg(not(test))]
pub(crate) const fn active(_: Fault) -> bool {
    false
}

#[cfg(test)]
pub(crate) use switch::{active, with};

#[cfg(test)]
mod switch {
    use std::cell::Cell;

    use super::Fault;

    thread_local! {
        static ACTIVE: Cell<Option<Fault>> = const { Cell::new(None) };
    }

    pub(crate) fn active(fault: Fault) -> bool {
        ACTIVE.get() == Some(fault)
    }

    /// Runs with one fault; it ends with the run, even if that panics.
    pub(crate) fn with<T>(fault: Fault, run: impl FnOnce() -> T) -> T {
        struct Reset;
        impl Drop for Reset {
            fn drop(&mut self) {
                ACTIVE.set(None);
            }
        }
        ACTIVE.set(Some(fault));
        let _reset = Reset;
        run()
    }
}
