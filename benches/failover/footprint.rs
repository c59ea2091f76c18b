//! What an agent costs while nothing happens, and how many health checks it answers: each over a connection of its own, as
//! balancers make them.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use nix::unistd::{Pid, SysconfVar, sysconf};
use tenure::clock;
use tenure::model::Span;

use crate::stage::{Plan, Stage, System, eventually, in_lab, to_seconds};
use crate::support::rest;

const CALLERS: usize = 2;
const CALLED_FOR: Span = Span::from_secs(5);

#[derive(Clone, Debug, serde::Serialize)]
pub struct Footprint {
    /// Leader and replica, the guardian included.
    pub resident_mib: [f64; 2],
    pub guardian_mib: f64,
    /// Of one processor, with HAProxy's checks.
    pub processor_percent: [f64; 2],
    pub requests_per_s: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub first_answer_ms: u64,
}

pub fn measure(plan: &Plan, system: System, idle_s: u64) -> Option<Footprint> {
    let mut measured = None;
    in_lab(&plan.setup(), async |lab| {
        lab.expected.push("");
        let Some(mut stage) = Stage::open(lab, plan, system).await else { return };
        let Some(leader) = stage.healthy().await else { return };
        let replica = (leader + 1) % stage.lab.nodes.len();
        let both = [leader, replica];
        let before = both.map(|node| processor_s(&processes(&stage, node)));
        let began = clock::now();
        clock::pause(Span::from_secs(idle_s)).await;
        let watched = to_seconds(clock::now().since(began));
        let after = both.map(|node| processor_s(&processes(&stage, node)));
        let resident_mib = both.map(|node| processes(&stage, node).iter().map(|pid| resident_of(*pid)).sum());
        let guardian_mib = stage.lab.nodes[leader].guardian_pid().map_or(0.0, resident_of);
        let mut answers = called(&stage.lab.nodes[leader].address);
        answers.sort_unstable();
        let at = |percent: usize| millis(answers.get(answers.len() * percent / 100).copied().unwrap_or(0));
        let count = f64::from(u32::try_from(answers.len()).unwrap_or(u32::MAX));
        measured = Some(Footprint {
            resident_mib,
            guardian_mib,
            processor_percent: [0, 1].map(|of| (after[of] - before[of]) / watched * 100.0),
            requests_per_s: count / to_seconds(CALLED_FOR),
            p50_ms: at(50),
            p99_ms: at(99),
            first_answer_ms: first_answer_ms(&mut stage, replica).await.unwrap_or_default(),
        });
    });
    measured
}

/// The agent, and the guardian where there is one.
fn processes(stage: &Stage<'_>, node: usize) -> Vec<Pid> {
    std::iter::once(stage.agent(node)).chain(stage.lab.nodes[node].guardian_pid()).collect()
}

fn resident_of(pid: Pid) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or_default() / 1024.0
}

fn processor_s(pids: &[Pid]) -> f64 {
    let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
    let per_second = f64::from(i32::try_from(ticks).unwrap_or(100));
    let used = |pid: &Pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields: Vec<&str> =
            stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect()).unwrap_or_default();
        // utime and stime are the 14th and 15th field of all, and two lie before the bracket.
        fields.iter().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum::<f64>()
    };
    pids.iter().map(used).sum::<f64>() / per_second
}

/// How long each request took, in microseconds.
fn called(address: &str) -> Vec<u64> {
    let address: SocketAddr = format!("{address}:8008").parse().expect("an address");
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            std::thread::spawn(move || {
                let until = clock::now() + CALLED_FOR;
                let mut took = Vec::new();
                while clock::now() < until {
                    let began = clock::monotonic_us();
                    if call(address).is_some() {
                        took.push(clock::monotonic_us() - began);
                    }
                }
                took
            })
        })
        .collect();
    callers.into_iter().flat_map(|caller| caller.join().expect("it only calls")).collect()
}

fn call(address: SocketAddr) -> Option<()> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(b"GET /primary HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    answer.starts_with(b"HTTP/1.").then_some(())
}

async fn first_answer_ms(stage: &mut Stage<'_>, node: usize) -> Option<u64> {
    stage.end_agent(node).await;
    let began = clock::now();
    stage.start_agent(node);
    let address: SocketAddr = format!("{}:8008", stage.lab.nodes[node].address).parse().ok()?;
    eventually(async || call(address)).await?;
    let took = clock::now().since(began).as_ms();
    // Left as it was found.
    eventually(async || rest::status(&stage.lab.nodes[node].address)).await?;
    Some(took)
}

fn millis(us: u64) -> f64 {
    f64::from(u32::try_from(us).unwrap_or(u32::MAX)) / 1000.0
}
