//! Bytes from outside, spoiled at random, given to every reader and to the REST server: no crash, no hang, no more memory than
//! a reader may use. A short run is part of the tests; `make fuzz` goes on for minutes. A failure names the seed of its case:
//! `TENURE_FUZZ_SEED=…` tries that one again.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc as blocking;

use tenure::clock;
use tenure::config::{Sources, load_operator, load_texts, parse_yaml, policy_from, validate_dynamic};
use tenure::peers::read_status;
use tenure::postgres::{HistoryFile, parse_control_data};
use tenure::store::Place;
use tenure::store::format::read;
use tenure::store::kv::Entry;
use tokio::io::AsyncWriteExt as _;

use super::*;

/// Cases of a short run, for each reader and for REST.
const CASES: u64 = 1_500;
const REQUESTS: u64 = 150;
/// Longer than anything that is read in one piece in earnest, short enough to try thousands.
const BYTES_MAX: usize = 128 << 10;
/// A case that takes longer than this hangs.
const HANGS_AFTER: Duration = Duration::from_secs(30);
/// What all of it together may take beyond what was in use before.
const MEMORY_KB_MAX: u64 = 512 << 10;

struct Reader {
    name: &'static str,
    seeds: &'static [&'static str],
    read: fn(&[u8]),
}

const READERS: &[Reader] = &[
    Reader { name: "YAML", seeds: YAML, read: |bytes| drop(parse_yaml("fuzz", &text(bytes))) },
    Reader { name: "the configuration", seeds: YAML, read: read_configuration },
    Reader { name: "an operator's configuration", seeds: YAML, read: read_as_operator },
    Reader { name: "the dynamic configuration", seeds: VALUES, read: read_dynamic },
    Reader { name: "the store", seeds: VALUES, read: read_store },
    Reader { name: "a member's status", seeds: VALUES, read: |bytes| drop(read_status(bytes)) },
    Reader { name: "a history file", seeds: HISTORIES, read: read_history },
    Reader { name: "pg_controldata", seeds: HISTORIES, read: |bytes| drop(parse_control_data(&text(bytes))) },
];

const YAML: &[&str] = &[
    "scope: demo\nname: node1\nrestapi: {listen: '10.0.0.1:8008', connect_address: '10.0.0.1:8008'}\netcd3:\n  hosts: \
     [10.0.0.1:2379, '[::1]:2379']\nbootstrap:\n  dcs: {ttl: 30, postgresql: {parameters: {max_connections: 100}}}\n  \
     initdb:\n  - encoding: UTF8\n  - data-checksums\npostgresql:\n  listen: 0.0.0.0:5432\n  connect_address: 10.0.0.1:5432\n  \
     data_dir: /d\n  authentication:\n    superuser: {username: postgres, password: x}\n    replication: &r {username: r, \
     password: y}\n    rewind: *r\n  pg_hba: [local all all trust]\ntags: {nofailover: true, zone: a}\n",
    "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n<<: {d: !!str 1}\n? e\n: |\n  text\n  more\nf: >-\n  folded\n",
    "zookeeper:\n  hosts: 'a:2181,b/x'\n  set_acls: {CN=a: [ALL]}\n  auth_data: {digest: 'u:p'}\nctl: {insecure: on}\n",
];

const VALUES: &[&str] = &[
    r#"{"conn_url":"postgres://10.0.0.1:5432/postgres","api_url":"http://10.0.0.1:8008/patroni","state":"running","role":"replica","version":"4.1.5","xlog_location":67394096,"replay_lsn":67394096,"receive_lsn":67394096,"replication_state":"streaming","timeline":2,"tags":{"nofailover":true,"clonefrom":false},"pause":true}"#,
    r#"{"ttl":30,"loop_wait":10,"retry_timeout":10,"maximum_lag_on_failover":1048576,"postgresql":{"use_pg_rewind":true,"parameters":{"max_connections":100},"pg_hba":["local all all trust"]},"pause":true,"slots":{"a":{"type":"physical"}}}"#,
    r#"[[1,25623960,"no recovery target specified","2026-01-02T03:04:05+00:00","b"],[2,25624341,"x"]]"#,
    r#"{"optime":67393640,"slots":{"turku":1},"retain_slots":["oulu"]}"#,
    r#"{"leader":"a","sync_standby":"b,c","quorum":1}"#,
    r#"{"leader":"a","member":"b","scheduled_at":"2026-01-02T03:04:05+00:00"}"#,
    r#"{"timeline":7,"by":"turku"}"#,
    "7710399124836129887",
    r#"{"state": "running", "role": "primary", "server_version": 150018, "xlog": {"location": 67394096}, "timeline": 2, "replication": [{"usename": "r"}], "dcs_last_seen": 1795217605, "database_system_identifier": "7", "patroni": {"version": "4.1.5", "scope": "b", "name": "n"}}"#,
];

const HISTORIES: &[&str] = &[
    "1\t0/3000000\tno recovery target specified\n\n2\t0/5000148\tbefore 2026-01-02\n# a comment\n3\tA/0\tx\n",
    "pg_control version number:            1300\nDatabase system identifier:           7710399124836129887\nDatabase \
     cluster state:               in production\nLatest checkpoint location:           0/3000028\nLatest checkpoint's \
     TimeLineID:       1\nData page checksum version:           1\nwal_level setting:                    replica\n",
];

const BODIES: &[&str] = &[
    r#"{"leader":"turku","candidate":"oulu","scheduled_at":"2030-01-02T03:04:05+00:00"}"#,
    r#"{"ttl":30,"pause":null,"postgresql":{"parameters":{"max_connections":100}}}"#,
    r#"{"schedule":"2030-01-02T03:04Z","role":"replica","postgres_version":"15.0","timeout":"10","restart_pending":true}"#,
    r#"{"force":true,"from-leader":true}"#,
];

/// What breaks readers: ends, beginnings, numbers at the edge, halves of characters.
const WORDS: &[&[u8]] = &[
    b"\0",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"\xc3",
    b"[",
    b"{",
    b"}",
    b"]",
    b"\"",
    b"'",
    b"\\",
    b"\\u",
    b"\\ud83d",
    b":",
    b"- ",
    b"\n",
    b"\r\n",
    b"\t",
    b"  ",
    b"&a ",
    b"*a",
    b"!!",
    b"|",
    b">",
    b"%",
    b"---\n",
    b"...\n",
    b"null",
    b"true",
    b"-1",
    b"0x",
    b"1e999",
    b"-0.0",
    b"9223372036854775808",
    b"18446744073709551616",
    b"99999999999999999999999999",
    b"~",
    b"\xe2\x80\xa8",
    b"\"leader\":",
    b"\"timeline\":",
    b"<<: ",
];

/// splitmix64.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end.max(1)).expect("small")).expect("below a usize")
    }

    fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let from = self.below(length + 1);
        from..from + self.below((length - from).min(64) + 1)
    }
}

/// One case: a good document with a few things wrong.
fn spoiled(seeds: &[&str], seed: u64) -> Vec<u8> {
    let mut chance = Chance(seed);
    let mut bytes = chance.one_of(seeds).as_bytes().to_vec();
    for _ in 0..=chance.below(8) {
        let at = chance.below(bytes.len() + 1);
        let range = chance.range(bytes.len());
        match chance.below(7) {
            0 if !bytes.is_empty() => {
                let at = chance.below(bytes.len());
                bytes[at] ^= 1 << chance.below(8);
            }
            1 => drop(bytes.drain(range)),
            2 => drop(bytes.splice(at..at, chance.one_of(WORDS).iter().copied())),
            // The same again and again, which also nests.
            3 => {
                let piece = match chance.below(2) {
                    0 => bytes[range].to_vec(),
                    _ => chance.one_of(WORDS).to_vec(),
                };
                let times = 1 << chance.below(13);
                let many: Vec<u8> = piece.iter().copied().cycle().take(piece.len() * times).collect();
                bytes.splice(at..at, many);
            }
            4 => {
                let other = chance.one_of(seeds).as_bytes();
                let part = chance.range(other.len());
                bytes.splice(range, other[part].iter().copied());
            }
            5 => bytes.truncate(at),
            _ => drop(bytes.splice(range, chance.one_of(WORDS).iter().copied())),
        }
        bytes.truncate(BYTES_MAX);
    }
    bytes
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn read_configuration(bytes: &[u8]) {
    let _ = load_texts(&[("fuzz".to_owned(), text(bytes))], &BTreeMap::new());
}

fn read_as_operator(bytes: &[u8]) {
    let variables = BTreeMap::from([("PATRONI_CONFIGURATION".to_owned(), text(bytes))]);
    let _ = load_operator(&Sources { paths: Vec::new(), variables, credentials: None }, false);
}

fn read_dynamic(bytes: &[u8]) {
    let Ok(value) = serde_json::from_slice(bytes) else { return };
    let _ = validate_dynamic(&value);
    let local = load_texts(&[("fuzz".to_owned(), YAML[0].to_owned())], &BTreeMap::new());
    let _ = policy_from(&value, &local.expect("the first one is good").config);
}

fn read_store(bytes: &[u8]) {
    let place = Place::new("service", "batman");
    let keys = "initialize leader members/a config status optime/leader failover sync history failsafe claim intents x";
    let entry = |key| Entry {
        path: format!("/service/batman/{key}"),
        value: bytes.to_vec(),
        created: 1,
        version: 1,
        session: None,
    };
    let entries: Vec<Entry> = keys.split(' ').map(entry).collect();
    let (cluster, _) = read::cluster(&place, &entries);
    let _ = (cluster.lineage(), cluster.highest_timeline(), cluster.leader_record());
}

fn read_history(bytes: &[u8]) {
    let _ = HistoryFile::parse(Timeline(9), &text(bytes));
}

fn asked_for(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

/// The seeds of the cases: one, a few that are always the same, or new ones until the time is over.
fn seeds(few: u64) -> Box<dyn Iterator<Item = u64>> {
    if let Some(seed) = asked_for("TENURE_FUZZ_SEED") {
        return Box::new(std::iter::once(seed));
    }
    let Some(minutes) = asked_for("TENURE_FUZZ_MINUTES") else { return Box::new(0..few) };
    let (begin, end) =
        (clock::wall().as_millisecond().unsigned_abs(), clock::now() + Span::from_secs(60 * minutes));
    Box::new((begin..).take_while(move |_| clock::now() < end))
}

#[test]
fn no_reader_crashes_or_hangs_or_grows_without_bound_on_spoiled_bytes() {
    let before = peak_memory_kb();
    let (heartbeat, heard) = blocking::channel();
    std::panic::set_hook(Box::new(|_| {}));
    let worker = std::thread::spawn(move || {
        for seed in seeds(CASES) {
            for reader in READERS {
                // Whoever listens has gone once something was found.
                let _ = heartbeat.send((reader.name, seed));
                let bytes = spoiled(reader.seeds, seed);
                if catch_unwind(AssertUnwindSafe(|| (reader.read)(&bytes))).is_err() {
                    return Err(format!("{}, seed {seed}: {}", reader.name, shown(&bytes)));
                }
            }
        }
        Ok(())
    });
    let (mut last, mut cases) = (("nothing", 0), 0_u64);
    loop {
        match heard.recv_timeout(HANGS_AFTER) {
            Ok(case) => (last, cases) = (case, cases + 1),
            Err(blocking::RecvTimeoutError::Disconnected) => break,
            Err(blocking::RecvTimeoutError::Timeout) => panic!("{} hangs on seed {}", last.0, last.1),
        }
    }
    let _ = std::panic::take_hook();
    let outcome = worker.join().expect("its panics are caught");
    assert_eq!(outcome, Ok(()), "a reader has panicked");
    let grown = peak_memory_kb().saturating_sub(before);
    println!("{cases} cases, {grown} kB more at the peak");
    assert!(grown <= MEMORY_KB_MAX, "{grown} kB");
}

fn shown(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes.iter().take(2_000) {
        // Writing to a String cannot fail.
        let _ = write!(text, "{}", std::ascii::escape_default(*byte));
    }
    text
}

/// The most memory that this process has ever had. With nextest, the test is a process of its own.
fn peak_memory_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux tells");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[tokio::test]
async fn spoiled_requests_are_answered_or_hung_up_on_and_checks_go_on() {
    const ENDPOINTS: [&str; 11] = [
        "POST /switchover",
        "POST /failover",
        "PATCH /config",
        "PUT /config",
        "POST /restart",
        "POST /reinitialize",
        "DELETE /switchover",
        "POST /failsafe",
        "GET /patroni?lag=1MB&replication_state=x",
        "GET /ui/what-if?if=switchover=oulu",
        "GET /ui/timeline?since=1",
    ];
    let mut server = Server::plain(primary()).await;
    let (_, nothing) = mpsc::channel(1);
    let mut commands = std::mem::replace(&mut server.commands, nothing);
    // Nobody carries anything out: each gets no answer, at once.
    let agent = tokio::spawn(async move { while commands.recv().await.is_some() {} });
    for seed in seeds(REQUESTS) {
        let mut chance = Chance(seed ^ 0x5eed);
        let body = spoiled(BODIES, seed);
        let head = format!(
            "{} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
            chance.one_of(&ENDPOINTS),
            body.len()
        );
        let mut request = [head.as_bytes(), &body].concat();
        if chance.below(4) == 0 {
            for _ in 0..4 {
                let at = chance.below(head.len());
                request[at] ^= 1 << chance.below(8);
            }
        }
        let mut stream = server.connect(&request).await;
        let _ = stream.shutdown().await;
        let answer = rest(stream).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1."), "seed {seed}: {answer:?}");
        if seed % 16 == 0 {
            assert_eq!(server.code("OPTIONS /primary HTTP/1.0\r\n\r\n").await, "200", "seed {seed}");
        }
    }
    server.end().await;
    agent.abort();
}
