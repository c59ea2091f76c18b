//! Each server's own word on itself, by the one question of four letters that every server answers: `srvr`.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Zookeeper;
use super::settings::Server;
use crate::doctor::{ServerState, StoreFacts, StoreServer};
use crate::store::StoreError;

const ANSWER_BYTES_MAX: u64 = 16 << 10;

impl Zookeeper {
    pub(in crate::store) async fn vitals(&self, within: Duration) -> Result<StoreFacts, StoreError> {
        let (servers, tls) =
            self.0.addresses().map_err(|fault| fault.named("ask a server of the store", None))?;
        // Behind TLS it is not asked: that the store answers is seen elsewhere.
        if tls {
            return Ok(StoreFacts::default());
        }
        let asked = servers.into_iter().map(|server| async move {
            let state = match timeout(within, ask(&server)).await {
                Ok(Ok(text)) => read(&text),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("no answer".to_owned()),
            };
            StoreServer {
                name: server.to_string(),
                host: server.host.clone(),
                addresses: BTreeSet::new(),
                state,
            }
        });
        Ok(StoreFacts { servers: join_all(asked).await, ..StoreFacts::default() })
    }
}

async fn ask(server: &Server) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((server.host.as_str(), server.port)).await?;
    stream.write_all(b"srvr").await?;
    let mut text = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut text).await?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn read(text: &str) -> Result<ServerState, String> {
    let mode = text.lines().find_map(|line| line.strip_prefix("Mode: "));
    match mode {
        Some(mode) => Ok(ServerState {
            leads: matches!(mode.trim(), "leader" | "standalone"),
            ..ServerState::default()
        }),
        // It lives, and may not tell.
        None if text.contains("whitelist") => Ok(ServerState::default()),
        None => Err(text.lines().next().unwrap_or("an empty answer").to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_tells_whether_it_leads_or_why_it_serves_nobody() {
        let leads = |text: &str| read(text).map(|state| state.leads);
        assert_eq!(leads("Zookeeper version: 3.8\nZxid: 0x5\nMode: leader\nNode count: 5\n"), Ok(true));
        assert_eq!(leads("Zxid: 0x5\nMode: follower\n"), Ok(false));
        assert_eq!(leads("srvr is not executed because it is not in the whitelist.\n"), Ok(false));
        let idle = "This ZooKeeper instance is not currently serving requests\n";
        assert_eq!(leads(idle), Err(idle.trim().to_owned()));
    }
}
