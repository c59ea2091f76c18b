//! Random kills of nodes, agents, PostgreSQL, links and servers of etcd, with several writers, in the synchronous modes. Every
//! failover is counted, and every acknowledged row is looked for after it.
//!
//! `TENURE_SOAK_FAILOVERS=…` goes on until there were so many in each mode, `TENURE_SOAK_MINUTES=…` for at most so long in
//! each (`make soak`). Without them it is a few faults of each mode.

use nix::sys::signal::{Signal, kill};
use tenure::clock;
use tenure::model::{Moment, Span};

use crate::support::lab::{Lab, Setup, in_lab};
use crate::support::wait_for;
use crate::synchronous::synchronous_members;
use crate::{founded, others};

const FAULTS: u64 = 5;

#[derive(Clone, Copy, Debug)]
enum Fault {
    Host,
    Postmaster,
    Agent,
    Link,
    Etcd,
    Standby,
}

const FAULT_KINDS: [Fault; 6] =
    [Fault::Host, Fault::Postmaster, Fault::Agent, Fault::Link, Fault::Etcd, Fault::Standby];

/// What has come of it so far.
#[derive(Debug, Default)]
struct Tally {
    faults: u64,
    failovers: u64,
    rows: usize,
    lost: usize,
}

fn asked_for(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

struct Limits {
    failovers: Option<u64>,
    until: Option<Moment>,
}

impl Limits {
    fn from_environment() -> Limits {
        let minutes = asked_for("TENURE_SOAK_MINUTES");
        Limits {
            failovers: asked_for("TENURE_SOAK_FAILOVERS"),
            until: minutes.map(|minutes| clock::now() + Span::from_secs(60 * minutes)),
        }
    }

    fn reached(&self, tally: &Tally) -> bool {
        match (self.failovers, self.until) {
            (None, None) => FAULTS <= tally.faults,
            (failovers, until) => {
                failovers.is_some_and(|most| most <= tally.failovers)
                    || until.is_some_and(|at| at <= clock::now())
            }
        }
    }
}

#[test]
fn with_one_synchronous_standby_random_kills_lose_nothing() {
    soak("synchronous_mode: on", "/synchronous", 1);
}

#[test]
fn with_a_quorum_random_kills_lose_nothing() {
    soak("synchronous_mode: quorum", "/quorum", 2);
}

fn soak(dynamic: &'static str, path: &'static str, count: usize) {
    let seed = asked_for("TENURE_SOAK_SEED").unwrap_or_else(|| clock::wall().as_microsecond().unsigned_abs());
    println!("{dynamic}: TENURE_SOAK_SEED={seed}");
    in_lab(&Setup { store_servers: 3, dynamic, ..Setup::default() }, async |lab| {
        let mut leader = founded(lab).await;
        synchronous_members(lab, path, count).await;
        let writers = (0..lab.nodes.len()).map(|node| lab.write_at(node)).chain([lab.write_anywhere()]);
        let writers: Vec<_> = writers.collect();
        let (limits, mut tally, mut random) = (Limits::from_environment(), Tally::default(), seed);
        while !limits.reached(&tally) {
            lab.more_rows(20).await;
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // The first faults of every run are those that end in a failover.
            let kind = FAULT_KINDS[usize::try_from(random >> 33).unwrap_or(0) % FAULT_KINDS.len()];
            let kind = if tally.faults == 0 { Fault::Host } else { kind };
            strike_and_repair(lab, leader, kind).await;
            let next = lab.healthy().await;
            synchronous_members(lab, path, count).await;
            tally.faults += 1;
            tally.failovers += u64::from(next != leader);
            leader = next;
            let lost = lab.missing_rows(leader).await;
            (tally.lost, tally.rows) = (tally.lost + lost, lab.ledger.count());
            println!("{kind:?}: {tally:?}");
            assert_eq!(lost, 0, "{kind:?} lost acknowledged rows; TENURE_SOAK_SEED={seed}");
        }
        drop(writers);
        lab.ledger.check_one_history_at_a_time();
        println!("{dynamic}: {tally:?}");
        assert!(0 < tally.failovers);
    });
}

/// One fault, its consequences for a while, and the end of it.
async fn strike_and_repair(lab: &mut Lab, leader: usize, fault: Fault) {
    match fault {
        Fault::Host => {
            lab.nodes[leader].machine.cut();
            lab.nodes[leader].power_off();
            lab.leader_among(&others(leader)).await;
            lab.nodes[leader].machine.heal();
            lab.nodes[leader].start_agent();
        }
        Fault::Postmaster => {
            let Some(postmaster) = lab.nodes[leader].postmaster_pid() else { return };
            // It may have ended just now by itself.
            let _ = kill(postmaster, Signal::SIGKILL);
        }
        Fault::Agent => {
            lab.nodes[leader].kill_agent();
            lab.leader_among(&others(leader)).await;
            lab.nodes[leader].start_agent();
        }
        Fault::Link => {
            lab.nodes[leader].machine.cut();
            lab.leader_among(&others(leader)).await;
            lab.nodes[leader].machine.heal();
        }
        Fault::Etcd => {
            let first = wait_for("a leader of etcd", async || {
                lab.store_servers.iter().position(crate::support::store_server::StoreServer::leads)
            })
            .await;
            lab.store_servers[first].kill();
            lab.more_rows(50).await;
            lab.store_servers[first].start();
        }
        Fault::Standby => {
            let victim = others(leader)[0];
            lab.nodes[victim].power_off();
            lab.more_rows(50).await;
            lab.nodes[victim].start_agent();
        }
    }
}
