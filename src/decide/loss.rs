//! What a promotion loses at most. A bound is only said where something proves it: the synchronous mode, an orderly end, or a
//! leader that was asked and whose answer has been overtaken by what is here. That a position was published proves nothing of
//! what came after it.

use super::fault::{self, Fault};
use super::sync::{self, Right};
use crate::model::{
    Cluster, Descent, Heard, Lag, Lineage, Loss, Lsn, MemberRole, MemberState, PeerStatus, Position, Proof,
    Running, Serving, Span, Timeline, View, Word,
};

/// Words that are kept while this member is behind all of them.
const WORDS_MAX: usize = 64;

/// What is lost if this member begins a new timeline where it stands now.
pub(super) fn bound(view: &View, cluster: &Cluster, running: &Running) -> Loss {
    let Some(position) = running.position() else { return Loss::NotKnown };
    if sync::is_active(view, cluster) && sync::right(view, cluster, position) == Right::Complete {
        return Loss::Nothing(Proof::Synchronous);
    }
    let highest = cluster.highest_timeline();
    let wrote_last = |claim: &crate::model::Claim| claim.by == view.me && claim.timeline == highest;
    if position.timeline == highest && cluster.claim.as_ref().is_some_and(|claim| wrote_last(&claim.value)) {
        return Loss::Nothing(Proof::OwnData);
    }
    let published = cluster.status.optime.filter(|_| position.timeline == highest);
    let ended = cluster.status.ended_on == Some(highest) || fault::active(Fault::TakesStatusForEnd);
    if let Some(end) = published.filter(|_| ended) {
        // Only the record of the shutdown itself lies beyond.
        return match position.lsn.lag_behind(end) {
            Lag(0) => Loss::Nothing(Proof::OrderlyEnd),
            bytes => Loss::AtMost(bytes),
        };
    }
    let heard = &view.memory.heard;
    let Some(since) = complete_until(heard, running).map(|word| word.asked_at) else { return Loss::NotKnown };
    let known = known_end(view, position.timeline).into_iter().chain(published).max();
    // A leader may have led on by the others' consent, without a key. No promise is in force any more.
    let by_consent = view.policy.failsafe || view.memory.promise.is_some();
    let until = view.memory.no_leader_since.filter(|_| !by_consent).unwrap_or(view.now);
    Loss::Within { since, until: until.max(since), known: known.map(|end| position.lsn.lag_behind(end)) }
}

/// What a leader has said. Words that this member has long overtaken are forgotten.
pub(super) fn remember(heard: &mut Heard, word: Word, running: Option<&Running>) {
    let newer = heard.words.last().is_none_or(|last| last.asked_at < word.asked_at);
    if !newer {
        return;
    }
    heard.words.push(word);
    let overtaken = running.and_then(|running| complete_until(heard, running)).map(|word| word.asked_at);
    heard.words.retain(|word| overtaken.is_none_or(|at| at <= word.asked_at));
    if WORDS_MAX < heard.words.len() {
        // The oldest one is the first to be overtaken.
        heard.words.remove(1);
    }
}

/// Where a leader that answers says that its WAL ends, and how long before the question that was.
pub fn end_told(status: &PeerStatus) -> Option<(Position, Span)> {
    let leads = status.role == MemberRole::Primary && status.state == MemberState::Running;
    let ago = if status.stale { status.looked_ago? } else { Span::ZERO };
    Some((status.position.filter(|_| leads)?, ago))
}

/// The newest word of which everything is here.
fn complete_until(heard: &Heard, running: &Running) -> Option<Word> {
    let here = running.position()?;
    let ancestors = match &running.serving {
        Serving::Standby { forks, .. } | Serving::Primary { forks, .. } => forks.clone().unwrap_or_default(),
    };
    let lineage = Lineage { timeline: here.timeline, ancestors };
    let is_here = |word: &&Word| {
        let reached = word.end.timeline != here.timeline || word.end.lsn <= here.lsn;
        reached && lineage.descent_of(word.end) == Descent::OnLineage
    };
    heard.words.iter().rev().find(is_here).copied()
}

/// How far anybody is known to have come on a timeline.
fn known_end(view: &View, timeline: Timeline) -> Option<Lsn> {
    let heard = view.memory.heard.words.iter().map(|word| word.end);
    let peers = super::race::standing(view).filter_map(|(_, peer)| peer.position);
    heard.chain(peers).filter(|end| end.timeline == timeline).map(|end| end.lsn).max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Claim, Fork, Memory, Moment, Policy, Status, Synchrony, SystemId, Versioned};

    fn standby(timeline: u32, lsn: u64, forks: &[(u32, u64)]) -> Running {
        let fork = |&(parent, at): &(u32, u64)| Fork { parent: Timeline(parent), at: Lsn(at) };
        Running {
            system: SystemId(1),
            serving: Serving::Standby {
                timeline: Timeline(timeline),
                received: Some(Lsn(lsn)),
                replayed: Some(Lsn(lsn)),
                streaming: false,
                upstream: None,
                forks: Some(forks.iter().map(fork).collect()),
                starved: false,
            },
            silent_since: None,
            version: 150_000,
            synchrony: Synchrony::default(),
        }
    }

    fn word(at: u64, timeline: u32, lsn: u64) -> Word {
        Word { asked_at: Moment::from_ms(at), end: Position::new(timeline, lsn) }
    }

    fn view(words: &[Word]) -> View {
        let mind = super::super::mind::Mind::new(
            "turku".parse().expect("a good name"),
            crate::model::Tags::default(),
            Policy::default(),
            true,
        );
        let heard = Heard { asked_at: None, words: words.to_vec() };
        let no_leader_since = Some(Moment::from_ms(9_000));
        View { memory: Memory { no_leader_since, heard, ..Memory::default() }, ..mind.view().clone() }
    }

    fn cluster(by: &str, ended_on: Option<u32>) -> Cluster {
        let claim = Claim { timeline: Timeline(2), by: by.parse().expect("a good name") };
        let ended_on = ended_on.map(Timeline);
        Cluster {
            claim: Some(Versioned { value: claim, version: 1 }),
            status: Status { optime: Some(Lsn(100)), ended_on, ..Status::default() },
            ..Cluster::default()
        }
    }

    fn within(since: u64, known: Option<u64>) -> Loss {
        let (since, until) = (Moment::from_ms(since), Moment::from_ms(9_000));
        Loss::Within { since, until, known: known.map(Lag) }
    }

    #[test]
    fn what_was_published_is_no_bound_and_an_orderly_end_is_one() {
        let check = |ended_on, lsn, loss| {
            assert_eq!(bound(&view(&[]), &cluster("oulu", ended_on), &standby(2, lsn, &[])), loss);
        };
        check(None, 120, Loss::NotKnown);
        check(Some(2), 120, Loss::Nothing(Proof::OrderlyEnd));
        check(Some(2), 90, Loss::AtMost(Lag(10)));
        // Somebody has been allowed to write since.
        check(Some(1), 120, Loss::NotKnown);
    }

    #[test]
    fn everything_is_here_that_was_acknowledged_before_a_word_that_has_been_overtaken() {
        let words = [word(1_000, 2, 50), word(2_000, 2, 70), word(3_000, 2, 130)];
        let check = |words: &[Word], at: &Running, loss| {
            assert_eq!(bound(&view(words), &cluster("oulu", None), at), loss);
        };
        check(&words, &standby(2, 80, &[]), within(2_000, Some(50)));
        check(&words, &standby(2, 130, &[]), within(3_000, Some(0)));
        check(&words, &standby(2, 40, &[]), Loss::NotKnown);
        check(&[word(1_000, 1, 30)], &standby(2, 60, &[(1, 40)]), within(1_000, Some(40)));
        // It was said of what the present timeline has left out.
        check(&[word(1_000, 1, 50)], &standby(2, 60, &[(1, 40)]), Loss::NotKnown);
    }

    #[test]
    fn who_has_written_last_itself_loses_nothing() {
        let loss = |by| bound(&view(&[]), &cluster(by, None), &standby(2, 10, &[]));
        assert_eq!(loss("turku"), Loss::Nothing(Proof::OwnData));
        assert_eq!(loss("oulu"), Loss::NotKnown);
    }

    #[test]
    fn few_words_are_kept_and_the_oldest_that_may_yet_count_is_among_them() {
        let mut heard = Heard::default();
        for at in 1..=200 {
            remember(&mut heard, word(at, 2, at), Some(&standby(2, 0, &[])));
        }
        assert_eq!((heard.words.len(), heard.words[0]), (WORDS_MAX, word(1, 2, 1)));
        remember(&mut heard, word(201, 2, 201), Some(&standby(2, 199, &[])));
        assert_eq!(heard.words[0], word(199, 2, 199));
        remember(&mut heard, word(150, 2, 500), None);
        assert_eq!(heard.words.len(), 3);
    }
}
