//! `POST /drill`: an operator asks the leader's agent for a fault, to see what it costs. Patroni has no such path. Whether this member allows it
//! and can do it now is the agent's to say; it answers before it acts.

use std::time::Duration;

use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::answer::Answer;
use crate::model::{Drill, MemberName, Note};

/// The agent looks at its guardian and writes a line to its disk first.
const PATIENCE: Duration = Duration::from_secs(5);
/// A second drill at the same time is refused.
const WAITING_MAX: usize = 1;

/// A drill that somebody who is let in has asked for.
#[derive(Debug)]
pub struct DrillRequest {
    pub drill: Drill,
    /// Whom it was meant for.
    pub member: MemberName,
    pub note: Note,
    /// None: it is about to be done.
    pub reply: oneshot::Sender<Option<DrillRefusal>>,
}

/// Why it is not done. The sentences say what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DrillRefusal {
    /// By this member's own configuration.
    NotAllowed(String),
    NotNow(String),
}

/// Where drills are asked for.
#[derive(Clone, Debug)]
pub struct Drills(mpsc::Sender<DrillRequest>);

impl Drills {
    pub fn new() -> (Drills, mpsc::Receiver<DrillRequest>) {
        let (sender, asked) = mpsc::channel(WAITING_MAX);
        (Drills(sender), asked)
    }
}

pub async fn drill(drills: &Drills, body: &Map<String, Value>, note: Note) -> Answer {
    let (drill, member) = match wanted(body) {
        Ok(wanted) => wanted,
        Err(sentence) => return Answer::sentence(400, sentence),
    };
    let (reply, answered) = oneshot::channel();
    if drills.0.try_send(DrillRequest { drill, member, note, reply }).is_err() {
        return Answer::sentence(503, "another drill is under way");
    }
    match timeout(PATIENCE, answered).await {
        Ok(Ok(None)) => Answer::sentence(202, format!("drill begins: {}", drill.deed())),
        Ok(Ok(Some(DrillRefusal::NotAllowed(why)))) => Answer::sentence(403, why),
        Ok(Ok(Some(DrillRefusal::NotNow(why)))) => Answer::sentence(409, why),
        Ok(Err(_)) | Err(_) => Answer::sentence(503, "the agent did not answer: the drill may still begin"),
    }
}

fn wanted(body: &Map<String, Value>) -> Result<(Drill, MemberName), String> {
    if let Some(other) = body.keys().find(|key| !["fault", "member"].contains(&key.as_str())) {
        return Err(format!("a drill has no {other:?}: only fault and member"));
    }
    let text = |key: &str| {
        let text = body.get(key).and_then(Value::as_str);
        text.ok_or_else(|| format!("{key} is missing, or no text"))
    };
    let member = text("member")?.parse::<MemberName>().map_err(|error| error.to_string())?;
    Ok((text("fault")?.parse()?, member))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    async fn ask(drills: &Drills, body: Value) -> (u16, String) {
        let answer = drill(drills, body.as_object().expect("an object"), Note::default()).await;
        (answer.status, String::from_utf8(answer.body).expect("text"))
    }

    #[tokio::test]
    async fn a_drill_is_answered_before_it_is_done() {
        let (drills, mut asked) = Drills::new();
        let good = json!({"fault": "agent", "member": "oulu"});
        for (outcome, status, part) in [
            (None, 202, "this agent kills itself"),
            (Some(DrillRefusal::NotAllowed("set tenure.drills".to_owned())), 403, "set tenure.drills"),
            (Some(DrillRefusal::NotNow("it does not lead".to_owned())), 409, "it does not lead"),
        ] {
            let agent = async {
                let request = asked.recv().await.expect("somebody asks");
                assert_eq!((request.drill, request.member.as_str()), (Drill::Agent, "oulu"));
                request.reply.send(outcome).expect("somebody waits");
            };
            let ((code, text), ()) = tokio::join!(ask(&drills, good.clone()), agent);
            assert!(code == status && text.contains(part), "{code} {text}");
        }
        let dropped = tokio::join!(ask(&drills, good.clone()), async { drop(asked.recv().await) });
        assert_eq!(dropped.0.0, 503);
        drop(asked);
        assert_eq!(ask(&drills, good).await.0, 503);
    }

    #[tokio::test]
    async fn what_is_no_drill_never_reaches_the_agent() {
        let (drills, mut asked) = Drills::new();
        for (body, part) in [
            (json!({}), "member is missing"),
            (json!({"fault": "agent"}), "member is missing"),
            (json!({"member": "oulu"}), "fault is missing"),
            (json!({"fault": 7, "member": "oulu"}), "fault is missing"),
            (json!({"fault": "rain", "member": "oulu"}), "postmaster, agent, host"),
            (json!({"fault": "agent", "member": ""}), ""),
            (json!({"fault": "agent", "member": "oulu", "force": true}), "no \"force\""),
        ] {
            let (status, text) = ask(&drills, body.clone()).await;
            assert!(status == 400 && text.contains(part), "{body}: {status} {text}");
        }
        assert!(asked.try_recv().is_err());
    }
}
