//! What every member knows and decides now: asked of all of them when a page wants to know, at the same time and not for ever. However
//! many pages ask, the members are asked once a second at most.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use hyper::{Method, Uri};
use serde_json::{Map, Value, json};
use tokio::sync::Mutex;

use crate::clock;
use crate::decide::asked::{Account, Asked, facts};
use crate::decide::foresight::primary_lost;
use crate::decide::foretold::{WhatIf, told};
use crate::model::{Cluster, MemberName, MemberRecord, Moment, Span, Standing};

use super::super::answer::Answer;
use super::super::query::Target;
use super::super::recorded;
use super::super::server::Api;
use super::events::{severity_word, spelled};

/// Whoever does not answer for so long counts as silent.
const PATIENCE: Duration = Duration::from_secs(2);
const VIEW_BYTES_MAX: usize = 1 << 20;
const APART: Span = Span::from_secs(1);

/// What was last heard, and when it was asked.
#[derive(Debug, Default)]
pub struct Asking(Mutex<Option<(Moment, Arc<Asked>)>>);

impl Asking {
    /// Whoever comes while somebody asks waits for the same answers.
    pub async fn everybody(&self, api: &Api) -> Arc<Asked> {
        let mut last = self.0.lock().await;
        let now = clock::now();
        if let Some((asked_at, asked)) = last.as_ref()
            && now.since(*asked_at) < APART
        {
            return Arc::clone(asked);
        }
        let asked = Arc::new(everybody(api).await);
        *last = Some((now, Arc::clone(&asked)));
        asked
    }
}

async fn everybody(api: &Api) -> Asked {
    let standing = api.standing();
    let mut asked = Asked::default();
    let members = members(&standing);
    let answers = join_all(members.iter().map(|(name, record)| account(api, &standing, name, record))).await;
    for ((name, _), answer) in members.iter().zip(answers) {
        match answer {
            Ok(account) => drop(asked.accounts.insert(name.clone(), account)),
            Err(why) => drop(asked.silent.insert(name.clone(), why)),
        }
    }
    asked.note_who_is_missing();
    asked.note_who_is_gone(&standing.view.cluster().map(Cluster::gone).unwrap_or_default());
    asked
}

/// As the store last told, and this member in any case.
pub fn members(standing: &Standing) -> Vec<(MemberName, MemberRecord)> {
    let known = standing.view.cluster().map(|cluster| cluster.members.clone()).unwrap_or_default();
    let own =
        (!known.contains_key(&standing.view.me)).then(|| (standing.view.me.clone(), MemberRecord::default()));
    known.into_iter().chain(own).collect()
}

async fn account(
    api: &Api,
    standing: &Standing,
    name: &MemberName,
    record: &MemberRecord,
) -> Result<Account, String> {
    let (status, body) = if *name == standing.view.me {
        let own = recorded::view(standing, clock::wall_ms(), (api.clock)());
        (own.status, Bytes::from(own.body))
    } else {
        ask(api, record, "/view", PATIENCE, VIEW_BYTES_MAX).await?
    };
    Account::read(status, &body).map_err(|error| error.to_string())
}

/// One question to another member.
pub async fn ask(
    api: &Api,
    record: &MemberRecord,
    path: &str,
    patience: Duration,
    bytes_max: usize,
) -> Result<(u16, Bytes), String> {
    if record.tenure.is_none() {
        return Err("it is no member of Tenure's: by which rules it acts is not known".to_owned());
    }
    let url = beside(&record.api_url, path).ok_or("it has not published the address of its REST API")?;
    let client = Arc::clone(&api.peers.borrow());
    let reply = client.call(Method::GET, &url, None, patience, bytes_max).await;
    reply.map(|reply| (reply.status, reply.body)).map_err(|error| error.to_string())
}

/// Another path of the same server.
fn beside(api_url: &str, path: &str) -> Option<String> {
    let uri: Uri = api_url.parse().ok()?;
    Some(format!("{}://{}{path}", uri.scheme_str()?, uri.authority()?))
}

/// `/ui/members`: what each of them does, why, and what it goes by.
pub fn members_told(asked: &Asked) -> Answer {
    let lost = primary_lost(&asked.live()).ok();
    let member = |(name, account): (&MemberName, &Account)| {
        let entry = &account.entry;
        let facts: Vec<Value> = facts(account).into_iter().map(|(what, fact)| json!([what, fact])).collect();
        let lost = lost.as_ref().and_then(|lost| lost.members.get(name));
        let document = json!({
            "rule": entry.rule,
            "sentence": entry.sentence,
            "step": entry.step,
            "severity": entry.known_rule().map_or("info", |rule| severity_word(rule.severity())),
            "primary": entry.evidence.is_primary,
            "timeline": entry.evidence.position.map(|position| position.timeline),
            "lsn": entry.evidence.position.map(|position| position.lsn),
            "facts": facts,
            "if_lost": lost.map(|reason| json!({"rule": reason.rule, "sentence": reason.to_string()})),
        });
        (name.to_string(), document)
    };
    let members: Map<String, Value> = asked.accounts.iter().map(member).collect();
    let unknown: Map<String, Value> =
        asked.unknown().map(|(name, why)| (name.to_string(), why.clone().into())).collect();
    Answer::json(200, &json!({"leader": asked.live().leader().ok(), "members": members, "unknown": unknown}))
}

/// `/ui/what-if?if=primary-lost`, in the words of `tenurectl explain --if`.
pub fn what_if(asked: &Asked, target: &Target) -> Answer {
    let what = match target.value("if").unwrap_or_default().parse::<WhatIf>() {
        Ok(what) => what,
        Err(why) => return Answer::sentence(400, why),
    };
    match told(asked, &what, &spelled) {
        Ok((text, document)) => Answer::json(200, &json!({"text": text, "foreseen": document})),
        Err(unforeseen) => Answer::sentence(409, unforeseen.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_path_of_the_same_server() {
        let check =
            |url: &str, wanted: Option<&str>| assert_eq!(beside(url, "/view").as_deref(), wanted, "{url}");
        check("http://db1:8008/patroni", Some("http://db1:8008/view"));
        check("https://[fd00::1]/patroni?x=y", Some("https://[fd00::1]/view"));
        check("db1:8008", None);
        check("", None);
    }
}
