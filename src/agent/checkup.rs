//! Examines this member's own host when somebody asks (`GET /doctor`): files, disks, PostgreSQL, the way to the store. It changes nothing
//! and judges nothing. One examination at a time, whoever asks and however often, and each part of it ends in time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::net::lookup_host;
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

use crate::api::Asking;
use crate::clock;
use crate::config::{self, Config, Sources};
use crate::doctor::{Certificate, DiskFacts, HostFacts, KeptFacts, WatchdogMode};
use crate::model::{MemberName, Span, Standing};
use crate::peers::certificate;
use crate::postgres::{self, Caller, Inspection, InstanceSettings};
use crate::store::Store;

/// For PostgreSQL, and for the store, which are asked at the same time.
const PATIENCE: Duration = Duration::from_secs(3);
const STATEMENT: Span = Span::from_ms(1_500);
const FILES_WITHIN: Duration = Duration::from_secs(2);
const NAMES_WITHIN: Duration = Duration::from_secs(1);
/// Between two examinations.
const APART: Span = Span::from_secs(1);
/// Addresses of one member that are looked at.
const ADDRESSES_MAX: usize = 4;
const SMALL_FILE: u64 = 4 << 10;

pub struct Checkup {
    pub config: Config,
    pub reloads: watch::Receiver<Option<Box<Config>>>,
    pub sources: Sources,
    pub settings: watch::Receiver<Arc<InstanceSettings>>,
    pub standings: watch::Receiver<Arc<Standing>>,
    pub store: Store,
    pub asked: Asking,
}

/// What lies on this machine's disks.
#[derive(Debug, Default)]
struct Files {
    boot_id: Option<String>,
    system: Option<String>,
    readable_secrets: Vec<String>,
    certificates: Vec<Certificate>,
    disks: Vec<DiskFacts>,
    kept: Vec<KeptFacts>,
}

impl Checkup {
    /// Answers as long as somebody can ask.
    pub async fn serve(mut self) {
        // A disk that hangs holds up one thread, and not one more with every question.
        let mut looking: Option<JoinHandle<Files>> = None;
        while let Some(first) = self.asked.recv().await {
            let told = Arc::new(self.examine(&mut looking).await);
            let mut waiting: Vec<oneshot::Sender<Arc<HostFacts>>> = vec![first];
            while let Ok(next) = self.asked.try_recv() {
                waiting.push(next);
            }
            for reply in waiting {
                // Whoever has stopped waiting will not miss it.
                let _ = reply.send(Arc::clone(&told));
            }
            clock::pause(APART).await;
        }
    }

    async fn examine(&mut self, looking: &mut Option<JoinHandle<Files>>) -> HostFacts {
        if let Some(config) = self.reloads.borrow_and_update().clone() {
            self.config = *config;
        }
        let mut unknown = BTreeMap::new();
        let settings = self.settings.borrow().clone();
        let standing = self.standings.borrow().clone();
        let callers = callers(&standing, &mut unknown).await;
        let (server, trips) = tokio::join!(
            timeout(PATIENCE, postgres::inspect(&settings, &callers, STATEMENT)),
            self.store.round_trips(PATIENCE),
        );
        let mut host = HostFacts {
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            libc: Some(libc_version()),
            watchdog_mode: match self.config.watchdog.mode {
                config::WatchdogMode::Off => WatchdogMode::Off,
                config::WatchdogMode::Automatic => WatchdogMode::Automatic,
                config::WatchdogMode::Required => WatchdogMode::Required,
            },
            drills: self.config.tenure.drills.clone(),
            virtual_addresses: self.config.tenure.virtual_addresses.iter().map(ToString::to_string).collect(),
            address_standings: standing.facts.addresses.clone(),
            ..HostFacts::default()
        };
        let mut own_certificates = Vec::new();
        let what = "PostgreSQL".to_owned();
        match server {
            Ok(Ok(Inspection { facts, certificates, hba_unknown })) => {
                host.postgres = Some(facts);
                own_certificates = certificates;
                unknown.extend(hba_unknown.map(|why| ("pg_hba.conf".to_owned(), why)));
            }
            Ok(Err(error)) => drop(unknown.insert(what, error.to_string())),
            Err(_) => drop(unknown.insert(what, format!("no answer within {} s", PATIENCE.as_secs()))),
        }
        match trips {
            Ok(trips) => host.store = Some(trips),
            Err(error) => drop(unknown.insert("the store".to_owned(), super::sentry::chain(&error))),
        }
        let handle = looking.get_or_insert_with(|| {
            let (config, sources) = (self.config.clone(), self.sources.clone());
            spawn_blocking(move || Files::read(&config, &sources, &settings, own_certificates))
        });
        if let Ok(files) = timeout(FILES_WITHIN, handle).await {
            *looking = None;
            let files = files.unwrap_or_default();
            host.boot_id = files.boot_id;
            host.system = files.system;
            host.readable_secrets = files.readable_secrets;
            host.certificates = files.certificates;
            host.disks = files.disks;
            host.kept = files.kept;
        } else {
            let why = format!("the disks did not answer within {} s", FILES_WITHIN.as_secs());
            unknown.insert("files".to_owned(), why);
        }
        HostFacts { unknown, ..host }
    }
}

/// The other members, where their records say that they are.
async fn callers(standing: &Standing, unknown: &mut BTreeMap<String, String>) -> Vec<Caller> {
    let me = &standing.view.me;
    let members = standing.view.cluster().into_iter().flat_map(|cluster| &cluster.members);
    let others = members
        .filter(|(name, _)| *name != me)
        .filter_map(|(name, record)| Some((name, record.address()?.host)));
    let looked =
        join_all(others.map(|(name, host)| async move { (name.clone(), addresses(&host).await, host) }))
            .await;
    let mut callers: Vec<Caller> = Vec::new();
    let mut seen: BTreeSet<(MemberName, IpAddr)> = BTreeSet::new();
    for (member, found, host) in looked {
        if found.is_empty() {
            unknown.insert(format!("the address of {member}"), format!("{host} is not found"));
        }
        for address in found.into_iter().take(ADDRESSES_MAX) {
            if seen.insert((member.clone(), address)) {
                callers.push(Caller { member: member.clone(), address });
            }
        }
    }
    callers
}

async fn addresses(host: &str) -> Vec<IpAddr> {
    match timeout(NAMES_WITHIN, lookup_host((host, 0))).await {
        Ok(Ok(found)) => found.map(|address| address.ip().to_canonical()).collect(),
        Ok(Err(_)) | Err(_) => Vec::new(),
    }
}

impl Files {
    /// May hang with a disk. `served`: certificates of PostgreSQL's own.
    fn read(
        config: &Config,
        sources: &Sources,
        settings: &InstanceSettings,
        served: Vec<(String, String)>,
    ) -> Files {
        let release = small("/etc/os-release").unwrap_or_default();
        let pretty = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
        let secrets = config::files_with_secrets(sources).into_iter().chain(keys(config, settings));
        let readable = secrets.filter(|path| everybody_reads(path));
        let mut readable: Vec<String> = readable.map(|path| path.display().to_string()).collect();
        readable.sort();
        readable.dedup();
        let served = served.into_iter().map(|(setting, path)| (setting, PathBuf::from(path)));
        let certificates = certificates(config).into_iter().map(|(setting, path)| (setting.to_owned(), path));
        Files {
            boot_id: small("/proc/sys/kernel/random/boot_id").map(|text| text.trim().to_owned()),
            system: pretty.map(|name| name.trim_matches('"').to_owned()),
            readable_secrets: readable,
            certificates: certificates.chain(served).map(|(setting, path)| ending(setting, &path)).collect(),
            disks: disks(settings),
            kept: postgres::list_kept(&settings.data_dir).unwrap_or_default(),
        }
    }
}

fn small(path: &str) -> Option<String> {
    let mut text = String::new();
    fs::File::open(path).ok()?.take(SMALL_FILE).read_to_string(&mut text).ok()?;
    Some(text)
}

/// Private keys and passwords beside the configuration.
fn keys(config: &Config, settings: &InstanceSettings) -> Vec<PathBuf> {
    let zookeeper = config.zookeeper.as_ref();
    let named = [
        config.restapi.keyfile.as_ref().or(config.restapi.certfile.as_ref()),
        config.ctl.keyfile.as_ref().or(config.ctl.certfile.as_ref()),
        config.etcd3.key.as_ref().or(config.etcd3.cert.as_ref()),
        zookeeper.and_then(|zookeeper| zookeeper.key.as_ref().or(zookeeper.cert.as_ref())),
        Some(&settings.pgpass),
    ];
    named.into_iter().flatten().cloned().collect()
}

fn certificates(config: &Config) -> Vec<(&'static str, PathBuf)> {
    let zookeeper = config.zookeeper.as_ref();
    let named = [
        ("restapi.certfile", config.restapi.certfile.as_ref()),
        ("restapi.cafile", config.restapi.cafile.as_ref()),
        ("ctl.certfile", config.ctl.certfile.as_ref()),
        ("ctl.cacert", config.ctl.cacert.as_ref()),
        ("etcd3.cert", config.etcd3.cert.as_ref()),
        ("etcd3.cacert", config.etcd3.cacert.as_ref()),
        ("zookeeper.cert", zookeeper.and_then(|zookeeper| zookeeper.cert.as_ref())),
        ("zookeeper.cacert", zookeeper.and_then(|zookeeper| zookeeper.cacert.as_ref())),
    ];
    named.into_iter().filter_map(|(setting, path)| Some((setting, path?.clone()))).collect()
}

/// Of a chain the first one to end counts; of authorities the last one, since the old one stays beside the new one for a while.
fn ending(setting: String, path: &Path) -> Certificate {
    let authorities = setting.contains("ca");
    let pick = |all: Vec<u64>| if authorities { all.into_iter().max() } else { all.into_iter().min() };
    let ends = certificate::ends(path).map(|all| pick(all).unwrap_or_default());
    Certificate { setting, path: path.display().to_string(), ends }
}

/// A file is as open as the directories on the way to it.
fn everybody_reads(path: &Path) -> bool {
    let Ok(path) = path.canonicalize() else { return false };
    let may =
        |path: &Path, bit: u32| fs::metadata(path).is_ok_and(|data| data.permissions().mode() & bit != 0);
    may(&path, 0o004) && path.ancestors().skip(1).all(|directory| may(directory, 0o001))
}

fn disks(settings: &InstanceSettings) -> Vec<DiskFacts> {
    let places = postgres::probe_places(settings);
    let last = places.len().saturating_sub(1);
    let disk = |(number, place): (usize, &PathBuf)| DiskFacts {
        path: place.display().to_string(),
        // Where WAL has a disk of its own, it comes behind that of the data.
        holds_wal: number == last,
        total_bytes: postgres::disk_bytes(place),
        free_bytes: postgres::probe_free_bytes(place),
    };
    places.iter().enumerate().map(disk).collect()
}

/// What PostgreSQL sorts text with on this machine.
fn libc_version() -> String {
    // SAFETY: it returns a text that lives as long as the process.
    let text = unsafe { std::ffi::CStr::from_ptr(nix::libc::gnu_get_libc_version()) };
    text.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_as_open_as_the_way_to_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let mode = |path: &Path, mode: u32| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("our own");
        };
        let file = dir.path().join("secret");
        fs::write(&file, "x").expect("our own directory");
        mode(dir.path(), 0o755);
        for (open, wanted) in [(0o644, true), (0o640, false), (0o600, false)] {
            mode(&file, open);
            assert_eq!(everybody_reads(&file), wanted, "{open:o}");
        }
        mode(&file, 0o644);
        mode(dir.path(), 0o750);
        assert!(!everybody_reads(&file));
        assert!(!everybody_reads(Path::new("/nonexistent")));
    }
}
