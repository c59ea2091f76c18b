//! What is done to a cluster, and how it is undone.

use clap::ValueEnum;
use nix::sys::signal::{Signal, kill};
use serde_json::json;
use tenure::clock;
use tenure::model::Span;

use crate::stage::{Stage, eventually};
use crate::support::store_server::StoreServer;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Fault {
    /// The primary's postmaster gets SIGKILL
    Postmaster,
    /// The primary's machine falls silent, with everything on it
    Host,
    /// The leader's agent gets SIGKILL, and is started again
    AgentKilled,
    /// The leader's agent is stopped, and goes on later
    AgentFrozen,
    /// The primary's network cable is cut, and mended later
    Link,
    /// The leader of etcd gets SIGKILL
    EtcdLeader,
    /// Two of three servers of etcd are gone, and come back later
    EtcdQuorum,
    /// An operator's switchover
    Switchover,
    /// The leader's agent is stopped in good order
    Stop,
    /// PostgreSQL is restarted on a replica
    ReplicaRestart,
}

impl Fault {
    pub fn name(self) -> &'static str {
        match self {
            Fault::Postmaster => "postmaster killed",
            Fault::Host => "host lost",
            Fault::AgentKilled => "agent killed",
            Fault::AgentFrozen => "agent frozen",
            Fault::Link => "link cut",
            Fault::EtcdLeader => "etcd leader killed",
            Fault::EtcdQuorum => "etcd quorum lost",
            Fault::Switchover => "switchover",
            Fault::Stop => "orderly stop",
            Fault::ReplicaRestart => "replica restarted",
        }
    }

    /// How long it lasts, if it is undone by time.
    pub fn lasts(self, hold: Span) -> Option<Span> {
        match self {
            Fault::AgentFrozen | Fault::Link | Fault::EtcdQuorum => Some(hold),
            Fault::Postmaster
            | Fault::Host
            | Fault::AgentKilled
            | Fault::EtcdLeader
            | Fault::Switchover
            | Fault::Stop
            | Fault::ReplicaRestart => None,
        }
    }

    /// Does it to the leader, or to a replica of its. What must be undone, `undo` is told.
    pub async fn inject(self, stage: &mut Stage<'_>, leader: usize) -> Vec<usize> {
        match self {
            Fault::Postmaster => {
                let postmaster = stage.lab.nodes[leader].postmaster_pid().expect("a running primary");
                kill(postmaster, Signal::SIGKILL).expect("it runs");
            }
            Fault::Host => stage.lose_host(leader),
            Fault::AgentKilled => stage.crash_agent(leader).await,
            Fault::AgentFrozen => stage.signal_agent(leader, Signal::SIGSTOP),
            Fault::Link => stage.lab.nodes[leader].machine.cut(),
            Fault::EtcdLeader => {
                let leads = stage.lab.store_servers.iter().position(StoreServer::leads);
                let leads = leads.expect("etcd has a leader");
                stage.lab.store_servers[leads].kill();
                return vec![leads];
            }
            Fault::EtcdQuorum => {
                for server in [0, 1] {
                    stage.lab.store_servers[server].kill();
                }
                return vec![0, 1];
            }
            Fault::Switchover => {
                let candidate = (leader + 1) % stage.lab.nodes.len();
                let names = [leader, candidate].map(|node| stage.lab.nodes[node].name.clone());
                let wish = json!({"leader": names[0], "candidate": names[1]});
                let answer = stage.lab.nodes[leader].request("POST", "/switchover", &wish.to_string());
                assert_eq!(answer.as_ref().map(|(status, _)| *status), Some(200), "{answer:?}");
            }
            Fault::Stop => stage.end_agent(leader).await,
            Fault::ReplicaRestart => {
                let replica = (leader + 1) % stage.lab.nodes.len();
                let answer = stage.lab.nodes[replica].request("POST", "/restart", "{}");
                assert_eq!(answer.as_ref().map(|(status, _)| *status), Some(200), "{answer:?}");
            }
        }
        Vec::new()
    }

    /// Everything is as before, but for who leads.
    pub async fn undo(self, stage: &mut Stage<'_>, leader: usize, servers: &[usize]) {
        match self {
            Fault::Host => {
                stage.lab.nodes[leader].machine.heal();
                stage.start_agent(leader);
            }
            Fault::AgentFrozen => stage.signal_agent(leader, Signal::SIGCONT),
            Fault::Link => stage.lab.nodes[leader].machine.heal(),
            Fault::Stop => stage.start_agent(leader),
            Fault::EtcdLeader | Fault::EtcdQuorum => {
                for &server in servers {
                    stage.lab.store_servers[server].start();
                }
                let leads =
                    eventually(async || stage.lab.store_servers.iter().any(StoreServer::leads).then_some(()));
                leads.await.expect("etcd elects a leader");
            }
            Fault::Postmaster | Fault::AgentKilled | Fault::Switchover | Fault::ReplicaRestart => {}
        }
        // Whoever was frozen must have had a turn before anybody asks how it is.
        clock::pause(Span::from_ms(100)).await;
    }
}
