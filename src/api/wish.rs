//! Requests to switch over or fail over, checked before anything is written: pure, with Patroni's codes and sentences
//! in its order. Whether a candidate can really take over is asked of the candidates themselves, by `act`.

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::model::{
    Cluster, FailoverRequest, Fitness, MemberName, MemberRole, MemberState, Note, PeerAnswer, Whose,
};

use super::answer::Answer;
use super::look::{Look, SyncDuty, names};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Switchover,
    Failover,
}

/// A request that passed every check that can be made from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    pub kind: Kind,
    pub request: FailoverRequest,
    /// Who leads now, and would no longer.
    pub leader: Option<MemberName>,
    /// The members that could take over, with their REST addresses. Nobody is asked before a scheduled switchover.
    pub candidates: Vec<(MemberName, String)>,
}

/// How a request stands, by the last snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Still in the store, and nobody else leads yet.
    Waiting,
    /// Taken back, and nobody else leads.
    Cleared,
    Led {
        by: MemberName,
        /// It has also said that its PostgreSQL is a running primary.
        serving: bool,
    },
}

impl Kind {
    pub fn word(self) -> &'static str {
        match self {
            Kind::Switchover => "switchover",
            Kind::Failover => "failover",
        }
    }

    pub fn title(self) -> &'static str {
        match self {
            Kind::Switchover => "Switchover",
            Kind::Failover => "Failover",
        }
    }

    fn past(self) -> &'static str {
        match self {
            Kind::Switchover => "switched",
            Kind::Failover => "failed",
        }
    }
}

/// The wish in a body, or the answer that refuses it.
pub fn check(
    asked: Kind,
    body: &Map<String, Value>,
    look: Look,
    note: &Note,
    today: Timestamp,
) -> Result<Wish, Answer> {
    let text = |key: &str| match body.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
        Some(_) => Err(Answer::sentence(400, format!("{key} should be a text"))),
    };
    let leader = text("leader")?;
    let candidate = text("candidate")?.map_or_else(|| text("member"), |candidate| Ok(Some(candidate)))?;
    let scheduled = text("scheduled_at")?;
    // A failover from a named leader is a switchover.
    let kind = if leader.is_some() { Kind::Switchover } else { asked };

    match (kind, leader, candidate) {
        (Kind::Failover, _, None) => {
            return Err(Answer::sentence(400, "Failover could be performed only to a specific candidate"));
        }
        (Kind::Switchover, None, _) => {
            return Err(Answer::sentence(400, "Switchover could be performed only from a specific leader"));
        }
        (Kind::Failover, _, Some(_)) | (Kind::Switchover, Some(_), _) => (),
    }
    let scheduled_at = scheduled.map(|text| schedule(kind, text, look.paused(), today)).transpose()?;
    if look.paused() && candidate.is_none() {
        let sentence = "Switchover is possible only to a specific candidate in a paused state";
        return Err(Answer::sentence(400, sentence));
    }
    if leader.is_some() && leader == candidate {
        return Err(Answer::sentence(400, "Switchover target and source are the same"));
    }
    let Some(cluster) = look.cluster() else {
        return Err(Answer::sentence(503, "the store has not answered yet"));
    };
    let candidates = if scheduled_at.is_some() {
        Vec::new()
    } else {
        candidates(kind, leader, candidate, cluster, look.sync_mode())
            .map_err(|sentence| Answer::sentence(412, sentence))?
    };
    let name = |text: Option<&str>| match text.map(str::parse::<MemberName>).transpose() {
        Ok(name) => Ok(name),
        Err(why) => Err(Answer::sentence(400, why.to_string())),
    };
    Ok(Wish {
        kind,
        request: FailoverRequest {
            leader: name(leader)?,
            candidate: name(candidate)?,
            scheduled_at,
            whose: Some(Whose::of(note)),
        },
        leader: cluster.leader_name().cloned(),
        candidates,
    })
}

/// A time with its zone, in ISO 8601.
fn schedule(kind: Kind, text: &str, paused: bool, today: Timestamp) -> Result<String, Answer> {
    if kind == Kind::Failover {
        return Err(Answer::sentence(400, "Failover can't be scheduled"));
    }
    if paused {
        return Err(Answer::sentence(400, "Can't schedule switchover in the paused state"));
    }
    Ok(super::schedule::parse(kind.word(), text, today)?.text)
}

/// Who could take over, by the store; or why nobody can.
fn candidates(
    kind: Kind,
    leader: Option<&str>,
    candidate: Option<&str>,
    cluster: &Cluster,
    sync_mode: Option<SyncDuty>,
) -> Result<Vec<(MemberName, String)>, String> {
    let present = cluster.leader_name().map(MemberName::as_str);
    if leader.is_some() && leader != present {
        return Err("leader name does not match".to_owned());
    }
    let synchronous = |member: &str| cluster.sync.as_ref().is_some_and(|sync| names(&sync.value, member));
    let members = |wanted: &dyn Fn(&str) -> bool| -> Vec<(MemberName, String)> {
        (cluster.members.iter())
            .filter(|(name, _)| wanted(name.as_str()))
            .map(|(name, record)| (name.clone(), record.api_url.clone()))
            .collect()
    };
    let (found, sentence) = match (candidate, sync_mode) {
        (Some(candidate), Some(SyncDuty::Sync)) if kind == Kind::Switchover && !synchronous(candidate) => {
            return Err("candidate name does not match with sync_standby".to_owned());
        }
        (Some(candidate), _) => (members(&|name| name == candidate), "candidate does not exists".to_owned()),
        (None, Some(SyncDuty::Sync)) => {
            (members(&synchronous), format!("{} is not possible: can not find sync_standby", kind.word()))
        }
        (None, Some(SyncDuty::Quorum) | None) => (
            members(&|name| Some(name) != present),
            format!("{} is not possible: cluster does not have members except leader", kind.word()),
        ),
    };
    if found.is_empty() { Err(sentence) } else { Ok(found) }
}

/// Could whoever answered so be promoted?
pub fn can_take_over(answer: &PeerAnswer) -> bool {
    match answer {
        PeerAnswer::Silent => false,
        PeerAnswer::Stands(status) => {
            !status.tags.nofailover()
                && !status.watchdog_failed
                && status.fitness != Fitness::Unfit
                && status.role != MemberRole::Uninitialized
        }
    }
}

/// How the wish stands in a snapshot.
pub fn progress(wish: &Wish, cluster: &Cluster) -> Progress {
    match cluster.leader_name() {
        Some(leader) if wish.leader.as_ref() != Some(leader) => {
            let record = cluster.members.get(leader);
            let serving = record.is_some_and(|record| {
                matches!(record.role, MemberRole::Primary | MemberRole::StandbyLeader)
                    && record.state == MemberState::Running
            });
            Progress::Led { by: leader.clone(), serving }
        }
        Some(_) | None => match &cluster.failover {
            Some(request) if !request.value.is_empty() => Progress::Waiting,
            Some(_) | None => Progress::Cleared,
        },
    }
}

/// What to say once somebody else leads.
pub fn led(wish: &Wish, by: &MemberName) -> Answer {
    let done = wish.kind.past();
    let sentence = match &wish.request.candidate {
        Some(candidate) if candidate != by => {
            let done = match wish.kind {
                Kind::Switchover => "Switched",
                Kind::Failover => "Failed",
            };
            format!("{done} over to \"{by}\" instead of \"{candidate}\"")
        }
        Some(_) | None => format!("Successfully {done} over to \"{by}\""),
    };
    Answer::sentence(200, sentence)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::fixtures::*;
    use super::{Wish, *};
    use crate::model::*;

    const TODAY: &str = "2026-11-21T09:00:00Z";

    #[expect(clippy::needless_pass_by_value, reason = "a table of calls reads better")]
    fn ask(kind: Kind, standing: &Standing, body: Value) -> Result<Wish, Answer> {
        let body = body.as_object().expect("an object").clone();
        check(kind, &body, Look::new(standing, NOW), &Note::default(), TODAY.parse().expect("a time"))
    }

    #[expect(clippy::needless_pass_by_value, reason = "a table of calls reads better")]
    fn refused(kind: Kind, standing: &Standing, body: Value, status: u16, sentence: &str) {
        let answer = ask(kind, standing, body.clone()).expect_err("it should be refused");
        let got = (answer.status, String::from_utf8(answer.body).expect("UTF-8"));
        assert_eq!(got, (status, sentence.to_owned()), "{body}");
    }

    #[test]
    fn a_wish_that_cannot_be_is_refused_with_patronis_sentence() {
        use Kind::{Failover, Switchover};
        let plain = standby();
        let paused = with(standby(), |s| s.view.policy.pause = true);
        let sync = with(standby(), be_sync);
        let table = [
            (Failover, &plain, json!({}), 400, "Failover could be performed only to a specific candidate"),
            (
                Switchover,
                &plain,
                json!({"candidate": "turku"}),
                400,
                "Switchover could be performed only from a specific leader",
            ),
            (
                Failover,
                &plain,
                json!({"candidate": "turku", "scheduled_at": "2026-11-21T10:00:00Z"}),
                400,
                "Failover can't be scheduled",
            ),
            (
                Switchover,
                &paused,
                json!({"leader": "oulu", "scheduled_at": "2026-11-21T10:00:00Z"}),
                400,
                "Can't schedule switchover in the paused state",
            ),
            (
                Switchover,
                &plain,
                json!({"leader": "oulu", "scheduled_at": "2026-11-21T10:00:00"}),
                400,
                "Timezone information is mandatory for the scheduled switchover",
            ),
            (
                Switchover,
                &plain,
                json!({"leader": "oulu", "scheduled_at": "2026-11-21T08:00:00Z"}),
                422,
                "Cannot schedule switchover in the past",
            ),
            (
                Switchover,
                &plain,
                json!({"leader": "oulu", "scheduled_at": "teatime"}),
                422,
                "Unable to parse scheduled timestamp. It should be in an unambiguous format, e.g. ISO 8601",
            ),
            (
                Switchover,
                &paused,
                json!({"leader": "oulu"}),
                400,
                "Switchover is possible only to a specific candidate in a paused state",
            ),
            (
                Switchover,
                &plain,
                json!({"leader": "oulu", "candidate": "oulu"}),
                400,
                "Switchover target and source are the same",
            ),
            (Switchover, &plain, json!({"leader": "vaasa"}), 412, "leader name does not match"),
            (
                Switchover,
                &sync,
                json!({"leader": "oulu", "candidate": "vaasa"}),
                412,
                "candidate name does not match with sync_standby",
            ),
            (Failover, &plain, json!({"candidate": "kuopio"}), 412, "candidate does not exists"),
            (Failover, &plain, json!({"candidate": 7}), 400, "candidate should be a text"),
            (Failover, &empty(), json!({"candidate": "turku"}), 503, "the store has not answered yet"),
        ];
        for (kind, standing, body, status, sentence) in table {
            refused(kind, standing, body, status, sentence);
        }
        let alone = with(standby(), |s| snapshot(s).members.retain(|name, _| name.as_str() == "oulu"));
        refused(
            Switchover,
            &alone,
            json!({"leader": "oulu"}),
            412,
            "switchover is not possible: cluster does not have members except leader",
        );
        let sync_gone = with(sync, |s| {
            snapshot(s).members.remove("turku");
        });
        refused(
            Switchover,
            &sync_gone,
            json!({"leader": "oulu"}),
            412,
            "switchover is not possible: can not find sync_standby",
        );
    }

    #[test]
    fn a_good_wish_names_the_members_to_ask() {
        let wish = ask(Kind::Switchover, &standby(), json!({"leader": "oulu"})).expect("a good wish");
        assert_eq!(wish.leader, Some(name("oulu")));
        let asked: Vec<_> = wish.candidates.iter().map(|(name, url)| (name.as_str(), url.as_str())).collect();
        assert_eq!(
            asked,
            [("turku", "http://127.0.0.1:8101/patroni"), ("vaasa", "http://127.0.0.1:8102/patroni")]
        );
        let failover = ask(Kind::Failover, &standby(), json!({"member": "vaasa"})).expect("a good wish");
        assert_eq!((failover.request.leader, failover.request.candidate), (None, Some(name("vaasa"))));
        let named = ask(Kind::Failover, &standby(), json!({"leader": "oulu", "candidate": "vaasa"}));
        assert_eq!(named.expect("a good wish").kind, Kind::Switchover);
    }

    #[test]
    fn a_schedule_is_stored_with_its_own_zone() {
        let table = [
            ("2026-11-21T10:00:00Z", "2026-11-21T10:00:00+00:00"),
            ("2026-11-21 12:30+02:00", "2026-11-21T12:30:00+02:00"),
            ("2026-11-21T12:30:00.25+02", "2026-11-21T12:30:00.25+02:00"),
        ];
        for (text, stored) in table {
            let wish = ask(Kind::Switchover, &standby(), json!({"leader": "oulu", "scheduled_at": text}));
            let wish = wish.unwrap_or_else(|answer| panic!("{text}: {answer:?}"));
            assert_eq!(wish.request.scheduled_at.as_deref(), Some(stored));
            assert_eq!(wish.candidates, []);
        }
    }

    proptest! {
        #[test]
        fn no_body_makes_the_checks_panic(leader in "\\PC{0,8}", candidate in "\\PC{0,8}", at in "[-+0-9TZ:. ]{0,30}|\\PC{0,20}") {
            for kind in [Kind::Switchover, Kind::Failover] {
                let _ = ask(kind, &standby(), json!({"leader": leader, "candidate": candidate, "scheduled_at": at}));
                let _ = ask(kind, &standby(), json!({"leader": "oulu", "scheduled_at": at}));
            }
        }
    }

    #[test]
    fn only_who_answers_and_may_lead_can_take_over() {
        let stands = |status: PeerStatus| can_take_over(&PeerAnswer::Stands(status));
        let barred = Tags([("nofailover".to_owned(), json!(true))].into());
        assert!(stands(PeerStatus::default()));
        assert!(!can_take_over(&PeerAnswer::Silent));
        assert!(!stands(PeerStatus { watchdog_failed: true, ..PeerStatus::default() }));
        assert!(!stands(PeerStatus { fitness: Fitness::Unfit, ..PeerStatus::default() }));
        assert!(!stands(PeerStatus { tags: barred, ..PeerStatus::default() }));
    }

    #[test]
    fn a_wish_is_followed_through_the_snapshots() {
        let wish =
            ask(Kind::Switchover, &standby(), json!({"leader": "oulu", "candidate": "turku"})).expect("good");
        let mut cluster = three_members();
        assert_eq!(progress(&wish, &cluster), Progress::Cleared);
        cluster.failover = Some(Versioned { value: wish.request.clone(), version: 1 });
        assert_eq!(progress(&wish, &cluster), Progress::Waiting);
        cluster.leader = None;
        assert_eq!(progress(&wish, &cluster), Progress::Waiting);
        cluster.leader = Some(Leader { name: name("turku"), term: Term(8), session: None });
        assert_eq!(progress(&wish, &cluster), Progress::Led { by: name("turku"), serving: false });
        cluster.members.get_mut("turku").expect("a member").role = MemberRole::Primary;
        assert_eq!(progress(&wish, &cluster), Progress::Led { by: name("turku"), serving: true });
        assert_eq!(led(&wish, &name("turku")).body, b"Successfully switched over to \"turku\"");
        assert_eq!(led(&wish, &name("vaasa")).body, b"Switched over to \"vaasa\" instead of \"turku\"");
    }
}
