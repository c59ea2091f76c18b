//! What one store of three servers carries: ever more clusters, and ever larger ones, by either system's pattern of access; and what a
//! failover of one real cluster takes meanwhile.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use tenure::clock;
use tenure::model::Span;

use crate::faults::Fault;
use crate::herd::{Herd, Size};
use crate::measure::{Outcome, on_stage};
use crate::stage::{PATIENCE, Plan, Stage, System, in_lab, to_seconds};
use crate::support::store_server::StoreServer;

/// Ever more clusters of three, and ever larger ones.
pub const SIZES: [Size; 6] = [
    Size { clusters: 0, members: 3 },
    Size { clusters: 10, members: 3 },
    Size { clusters: 100, members: 3 },
    Size { clusters: 1000, members: 3 },
    Size { clusters: 10, members: 10 },
    Size { clusters: 10, members: 30 },
];
/// A whole number of the agents' loops.
const WATCHED: Span = Span::from_secs(30);

/// Beside a real cluster of three, which is in it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Growth {
    pub system: &'static str,
    pub size: Size,
    pub store: Load,
    /// Calls of the herd that failed in that time.
    pub herd_failed: u64,
    pub host_lost: Outcome,
}

/// Of all three servers.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct Load {
    pub requests_per_s: f64,
    /// Both ways.
    pub kib_per_s: f64,
    pub writes_per_s: f64,
    /// Of one processor.
    pub processor_percent: f64,
}

/// What the servers have counted since they began.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    requests: f64,
    bytes: f64,
    writes: f64,
    processor_s: f64,
}

/// None: something of it did not come to its end.
pub fn measure(plan: &Plan, system: System, size: Size) -> Option<Growth> {
    let mut growth = None;
    in_lab(&plan.setup(), async |lab| {
        lab.expected.push("");
        let Some(mut stage) = Stage::open(lab, plan, system).await else { return };
        let endpoints: Vec<String> = stage.lab.store_servers.iter().map(StoreServer::endpoint).collect();
        let mut herd = None;
        if size.clusters != 0 {
            herd = Herd::start(system, size, plan.tenure_ttl, &endpoints, PATIENCE);
            if herd.is_none() {
                return;
            }
        }
        let Some(before) = counted(&endpoints) else { return };
        let already = herd.as_mut().map_or(0, Herd::failed);
        let began = clock::now();
        clock::pause(WATCHED).await;
        let watched_s = to_seconds(clock::now().since(began));
        let Some(after) = counted(&endpoints) else { return };
        let herd_failed = herd.as_mut().map_or(0, Herd::failed).saturating_sub(already);
        let Some(host_lost) = on_stage(&mut stage, plan, Fault::Host, (0, 1)).await else { return };
        drop(herd);
        let store = after.since(before, watched_s, endpoints.len());
        growth = Some(Growth { system: system.name(), size, store, herd_failed, host_lost });
    });
    growth
}

impl Counted {
    fn since(self, before: Counted, seconds: f64, servers: usize) -> Load {
        // Each server applies every write.
        let servers = f64::from(u32::try_from(servers).unwrap_or(u32::MAX));
        Load {
            requests_per_s: (self.requests - before.requests) / seconds,
            kib_per_s: (self.bytes - before.bytes) / 1024.0 / seconds,
            writes_per_s: (self.writes - before.writes) / servers / seconds,
            processor_percent: (self.processor_s - before.processor_s) / seconds * 100.0,
        }
    }
}

fn counted(endpoints: &[String]) -> Option<Counted> {
    let mut all = Counted::default();
    for endpoint in endpoints {
        let text = metrics(endpoint)?;
        let sum = |name: &str| sum(&text, name);
        // A message is a request, whether on a stream or by itself.
        all.requests += sum("grpc_server_msg_received_total");
        all.bytes += sum("etcd_network_client_grpc_received_bytes_total");
        all.bytes += sum("etcd_network_client_grpc_sent_bytes_total");
        // Its name until 3.4, and since.
        all.writes += sum("etcd_debugging_mvcc_put_total").max(sum("etcd_mvcc_put_total"));
        all.processor_s += sum("process_cpu_seconds_total");
    }
    Some(all)
}

fn metrics(endpoint: &str) -> Option<String> {
    let mut stream = TcpStream::connect(endpoint).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.starts_with("HTTP/1.0 200").then_some(text)
}

/// Of all lines of one name, whatever their labels.
fn sum(text: &str, name: &str) -> f64 {
    let of_name = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
    text.lines().filter(of_name).filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}
