//! Asking other members where they stand, over their REST APIs. Tenure's agents and Patroni's are asked alike.

pub mod certificate;
mod consent;
pub mod http;
mod status;
pub mod tls;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, bail};
use futures_util::future::join_all;
use hyper::Method;
use tokio::net::lookup_host;
use tokio::time::timeout;

use crate::model::{MemberName, PeerAnswer, PeerStatus};

pub use consent::{ConsentRequest, ask_consent};
pub use http::Client;
pub use status::{StatusError, read_status};

/// A status document has a line for each WAL sender; this is room for hundreds.
const BODY_BYTES_MAX: usize = 64 << 10;
const NAMES_WITHIN: Duration = Duration::from_secs(2);

/// Whom to ask, and how long to wait for the whole answer.
#[derive(Clone, Debug)]
pub struct Target {
    pub member: MemberName,
    pub api_url: String,
    pub patience: Duration,
}

/// Asks everybody at the same time. Whoever has not answered in full within its patience is silent.
pub async fn ask(client: &Client, targets: Vec<Target>) -> BTreeMap<MemberName, PeerAnswer> {
    let questions = targets.into_iter().map(|Target { member: name, api_url: url, patience }| async move {
        let answer = match ask_one(client, &url, patience).await {
            Ok(status) => PeerAnswer::Stands(status),
            Err(error) => {
                tracing::debug!(other_member = %name, "{error:#}");
                PeerAnswer::Silent
            }
        };
        (name, answer)
    });
    join_all(questions).await.into_iter().collect()
}

async fn ask_one(client: &Client, url: &str, patience: Duration) -> anyhow::Result<PeerStatus> {
    let reply = client.call(Method::GET, url, None, patience, BODY_BYTES_MAX).await?;
    if reply.status != 200 {
        bail!("ask {url}: answered with code {}", reply.status);
    }
    read_status(&reply.body).with_context(|| format!("read the answer of {url}"))
}

/// What a host's name resolves to, here and now; nothing where nobody tells in time.
pub async fn addresses(host: &str) -> BTreeSet<String> {
    match timeout(NAMES_WITHIN, lookup_host((host, 0))).await {
        Ok(Ok(found)) => found.map(|address| address.ip().to_canonical().to_string()).collect(),
        Ok(Err(_)) | Err(_) => BTreeSet::new(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;

    use super::*;
    use crate::model::Position;

    const STATUS: &str = r#"{"state": "running", "role": "replica", "timeline": 3, "xlog": {"received_location": 9, "replayed_location": 7}}"#;

    fn target(member: &str, api_url: String) -> Target {
        let member = member.parse().expect("a good name");
        Target { member, api_url, patience: Duration::from_millis(1_500) }
    }

    /// Peers that answer every connection with some bytes, and then hang or close.
    #[derive(Default)]
    struct Peers {
        targets: Vec<Target>,
        tasks: JoinSet<()>,
    }

    impl Peers {
        async fn add(&mut self, member: &str, answer: String, hangs: bool) {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
            let address = listener.local_addr().expect("an address");
            self.targets.push(target(member, format!("http://{address}/patroni")));
            self.tasks.spawn(async move {
                let mut kept = Vec::new();
                while let Ok((mut stream, _)) = listener.accept().await {
                    let _ = stream.read(&mut [0; 4096]).await;
                    let _ = stream.write_all(answer.as_bytes()).await;
                    if hangs {
                        kept.push(stream);
                    }
                }
            });
        }
    }

    #[tokio::test]
    async fn everybody_is_asked_and_whoever_hangs_is_silent() {
        let mut peers = Peers::default();
        // Patroni's server closes instead of giving a length; others give one and keep the connection.
        peers.add("closing", format!("HTTP/1.0 200 OK\r\n\r\n{STATUS}"), false).await;
        let keeping = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{STATUS}", STATUS.len());
        peers.add("keeping", keeping, true).await;
        peers.add("hung", String::new(), true).await;
        peers.add("cut-short", "HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n{\"state\"".into(), true).await;
        peers.add("garbage", "SSH-2.0-OpenSSH_9.2\r\n".into(), false).await;
        peers.add("failing", format!("HTTP/1.0 503 No\r\n\r\n{STATUS}"), false).await;
        let endless = format!("HTTP/1.0 200 OK\r\n\r\n{}", " ".repeat(BODY_BYTES_MAX + 1));
        peers.add("endless", endless, false).await;
        peers.targets.push(target("nonsense", "nonsense".to_owned()));

        let answers = ask(&Client::default(), peers.targets).await;

        assert_eq!(answers.len(), 8);
        for (member, answer) in &answers {
            match (member.as_str(), answer) {
                ("closing" | "keeping", PeerAnswer::Stands(status)) => {
                    assert_eq!(status.position, Some(Position::new(3, 9)), "{member}");
                }
                ("closing" | "keeping", PeerAnswer::Silent) => panic!("{member} is silent"),
                (_, answer) => assert_eq!(*answer, PeerAnswer::Silent, "{member}"),
            }
        }
        peers.tasks.shutdown().await;
    }
}
