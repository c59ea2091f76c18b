//! Failsafe mode's question, as Patroni's members ask it: may this leader go on without the store?

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures_util::future::join_all;
use hyper::Method;
use serde::Serialize;

use super::{Client, Target};
use crate::model::{Lsn, MemberName};

const BODY_BYTES_MAX: usize = 4 << 10;

/// Patroni's document, and how long the promise is to last: Patroni's members promise their own ttl and pass that over.
#[derive(Clone, Debug, Serialize)]
pub struct ConsentRequest {
    pub name: MemberName,
    pub conn_url: String,
    pub api_url: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub slots: BTreeMap<String, Lsn>,
    pub promise_ms: u64,
}

/// Asks everybody at the same time; tells who has agreed. Anything but a clear yes is none.
pub async fn ask_consent(
    client: &Client,
    request: &ConsentRequest,
    targets: impl Iterator<Item = Target>,
) -> BTreeSet<MemberName> {
    let body = Bytes::from(serde_json::to_vec(request).expect("names and numbers are JSON"));
    let questions = targets.map(|Target { member, api_url, patience }| {
        let body = body.clone();
        async move {
            let url = endpoint(&api_url)?;
            match client.call(Method::POST, &url, Some(body), patience, BODY_BYTES_MAX).await {
                Ok(reply) if reply.status == 200 && *reply.body == *b"Accepted" => Some(member),
                Ok(reply) => {
                    let said = String::from_utf8_lossy(&reply.body).into_owned();
                    tracing::warn!(other_member = %member, code = reply.status, "does not agree: {said:?}");
                    None
                }
                Err(error) => {
                    tracing::warn!(other_member = %member, "ask for consent: {error}");
                    None
                }
            }
        }
    });
    join_all(questions).await.into_iter().flatten().collect()
}

/// `http://host:8008/patroni` tells where the API is.
fn endpoint(api_url: &str) -> Option<String> {
    let (scheme, rest) = api_url.split_once("://")?;
    let authority = rest.split('/').next().filter(|authority| !authority.is_empty())?;
    Some(format!("{scheme}://{authority}/failsafe"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_goes_to_another_path_of_the_same_server() {
        let asked = endpoint("https://[fd00::1]:8008/patroni");
        assert_eq!(asked.as_deref(), Some("https://[fd00::1]:8008/failsafe"));
        assert_eq!(endpoint("http://db1:8008").as_deref(), Some("http://db1:8008/failsafe"));
        assert_eq!((endpoint(""), endpoint("http:///patroni")), (None, None));
    }

    #[test]
    fn the_document_is_patronis() {
        let request = ConsentRequest {
            name: "turku".parse().expect("a name"),
            conn_url: "postgres://a:5432/postgres".to_owned(),
            api_url: "http://a:8008/patroni".to_owned(),
            slots: BTreeMap::from([("oulu".to_owned(), Lsn(16))]),
            promise_ms: 10_000,
        };
        assert_eq!(
            serde_json::to_value(&request).expect("JSON"),
            serde_json::json!({
                "name": "turku", "conn_url": "postgres://a:5432/postgres", "api_url": "http://a:8008/patroni",
                "slots": {"oulu": 16}, "promise_ms": 10_000,
            })
        );
    }
}
