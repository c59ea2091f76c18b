//! What an agent costs while nothing happens, and how many health checks it answers: each over a connection of its own, as
//! balancers make them.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use nix::unistd::{Pid, SysconfVar, sysconf};
use tenure::clock;
use tenure::model::Span;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::time::timeout;

use crate::stage::{Plan, Stage, System, eventually, in_lab, to_seconds};
use crate::support::rest;

/// Checks that are under way at the same time, one thread asking: one balancer that waits for each answer, and a rack of them.
const CALLERS: [usize; 2] = [1, 32];
const CALLED_FOR: Span = Span::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, serde::Serialize)]
pub struct Footprint {
    /// Leader and replica, the guardian included.
    pub resident_mib: [f64; 2],
    pub guardian_mib: f64,
    /// Of one processor, with HAProxy's checks.
    pub processor_percent: [f64; 2],
    /// By one caller, and by many.
    pub called: [Called; 2],
    pub first_answer_ms: u64,
}

#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Called {
    pub callers: usize,
    pub requests_per_s: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// What was left of the leader's lease when least was left, by the answers: it says whether the agent came to its own work.
    pub lease_left_min_ms: Option<u64>,
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
        let called = CALLERS.map(|callers| called(&stage.lab.nodes[leader].address, callers));
        measured = Some(Footprint {
            resident_mib,
            guardian_mib,
            processor_percent: [0, 1].map(|of| (after[of] - before[of]) / watched * 100.0),
            called,
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

fn called(address: &str, callers: usize) -> Called {
    let address: SocketAddr = format!("{address}:8008").parse().expect("an address");
    // A thread of its own: what asks and what runs the lab are not to wait for each other.
    let asking = std::thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let until = clock::now() + CALLED_FOR;
        let all = (0..callers).map(|_| async move {
            let (mut took_us, mut lease_left_ms) = (Vec::new(), Vec::new());
            while clock::now() < until {
                let began = clock::monotonic_us();
                if let Some(answer) = call(address).await {
                    took_us.push(clock::monotonic_us() - began);
                    // Not each: reading costs the one who asks.
                    if took_us.len() % 50 == 0 {
                        lease_left_ms.extend(lease_left_in(&answer));
                    }
                }
            }
            (took_us, lease_left_ms)
        });
        runtime.block_on(join_all(all))
    });
    let (took_us, lease_left_ms): (Vec<_>, Vec<_>) =
        asking.join().expect("it only calls").into_iter().unzip();
    let (mut took_us, lease_left_ms) = (took_us.concat(), lease_left_ms.concat());
    took_us.sort_unstable();
    let at = |percent: usize| millis(took_us.get(took_us.len() * percent / 100).copied().unwrap_or(0));
    let count = f64::from(u32::try_from(took_us.len()).unwrap_or(u32::MAX));
    Called {
        callers,
        requests_per_s: count / to_seconds(CALLED_FOR),
        p50_ms: at(50),
        p99_ms: at(99),
        lease_left_min_ms: lease_left_ms.into_iter().min(),
    }
}

fn lease_left_in(answer: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(answer).ok()?;
    let (_, after) = text.split_once("\"lease_left_ms\": ")?;
    after.split(|other: char| !other.is_ascii_digit()).next()?.parse().ok()
}

/// The whole answer, over a connection that is dropped as soon as it is there: so HAProxy closes those of its checks.
async fn call(address: SocketAddr) -> Option<Vec<u8>> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        stream.set_zero_linger().ok()?;
        stream.write_all(b"GET /primary HTTP/1.0\r\n\r\n").await.ok()?;
        let mut answer = Vec::with_capacity(4096);
        while !is_whole(&answer) && 0 < stream.read_buf(&mut answer).await.ok()? {}
        answer.starts_with(b"HTTP/1.").then_some(answer)
    };
    timeout(PATIENCE, exchange).await.ok()?
}

/// One that does not say how long it is ends with the connection.
fn is_whole(answer: &[u8]) -> bool {
    let Some(head) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let text = String::from_utf8_lossy(&answer[..head]).to_ascii_lowercase();
    let told =
        text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    told.is_some_and(|length| head + 4 + length <= answer.len())
}

async fn first_answer_ms(stage: &mut Stage<'_>, node: usize) -> Option<u64> {
    stage.end_agent(node).await;
    let began = clock::now();
    stage.start_agent(node);
    let address: SocketAddr = format!("{}:8008", stage.lab.nodes[node].address).parse().ok()?;
    eventually(async || call(address).await).await?;
    let took = clock::now().since(began).as_ms();
    // Left as it was found.
    eventually(async || rest::status(&stage.lab.nodes[node].address)).await?;
    Some(took)
}

fn millis(us: u64) -> f64 {
    f64::from(u32::try_from(us).unwrap_or(u32::MAX)) / 1000.0
}
