//! Keeps the REST server's certificates, passwords and lists up to date, and what this member shows to others: when the
//! configuration has been read again, and when one of the files has changed.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use tokio::sync::watch;

use crate::api::Doors;
use crate::clock;
use crate::config::Config;
use crate::model::Span;
use crate::peers::{self, http::Login, tls};

/// Whoever renews certificates need not tell us: files are looked at this often.
const LOOK_EVERY: Span = Span::from_secs(10);

pub struct Doorkeeper {
    config: Config,
    reloads: watch::Receiver<Option<Box<Config>>>,
    doors: watch::Sender<Arc<Doors>>,
    peers: watch::Sender<Arc<peers::Client>>,
    stamps: Vec<Stamp>,
}

/// Which file it was, and when and how long: another one under the same name is another one.
type Stamp = Option<(u64, i64, i64, u64)>;

pub struct Opened {
    pub keeper: Doorkeeper,
    pub doors: watch::Receiver<Arc<Doors>>,
    pub peers: watch::Receiver<Arc<peers::Client>>,
}

impl Doorkeeper {
    /// What is wrong in the beginning keeps the agent from starting: it would be open to everybody, or closed to all.
    pub fn open(config: Config, reloads: watch::Receiver<Option<Box<Config>>>) -> Result<Opened> {
        let stamps = stamps(&files(&config));
        let doors = doors(&config).map_err(|why| anyhow!(why)).context("set up the REST API")?;
        let client = client(&config).map_err(|why| anyhow!(why)).context("set up requests to members")?;
        let (doors, doors_seen) = watch::channel(Arc::new(doors));
        let (peers, peers_seen) = watch::channel(Arc::new(client));
        let keeper = Doorkeeper { config, reloads, doors, peers, stamps };
        Ok(Opened { keeper, doors: doors_seen, peers: peers_seen })
    }

    /// Stays as long as the agent.
    pub async fn stay(mut self) {
        loop {
            let told = tokio::select! {
                changed = self.reloads.changed() => match changed {
                    Ok(()) => true,
                    Err(_) => return,
                },
                () = clock::pause(LOOK_EVERY) => false,
            };
            if told && let Some(config) = self.reloads.borrow_and_update().clone() {
                if config.restapi.listen != self.config.restapi.listen {
                    tracing::warn!("restapi.listen has changed: it is used when the agent is started again");
                }
                self.config = *config;
            }
            let paths = files(&self.config);
            // A disk that hangs holds up this task and nothing else.
            let Ok(stamps) = tokio::task::spawn_blocking(move || stamps(&paths)).await else { continue };
            if told || stamps != self.stamps {
                self.stamps = stamps;
                self.renew();
            }
        }
    }

    /// All of it or nothing: a certificate without its key is replaced by neither.
    fn renew(&self) {
        match (doors(&self.config), client(&self.config)) {
            (Ok(doors), Ok(client)) => {
                self.doors.send_replace(Arc::new(doors));
                self.peers.send_replace(Arc::new(client));
                tracing::info!("the REST API's certificates and lists were read again");
            }
            (Err(why), _) | (Ok(_), Err(why)) => {
                tracing::warn!("the REST API goes on with what it has: {why}");
            }
        }
    }
}

fn doors(config: &Config) -> Result<Doors, String> {
    Ok(Doors::open(&config.restapi)?.with_page(config.tenure.ui))
}

/// As Patroni's members ask one another: with what `ctl` says, and the authority of the REST API where it says nothing.
fn client(config: &Config) -> Result<peers::Client, String> {
    let (ctl, restapi) = (&config.ctl, &config.restapi);
    let files = tls::ClientFiles {
        cafile: ctl.cacert.clone().or_else(|| restapi.cafile.clone()).filter(|_| !ctl.insecure),
        certfile: ctl.certfile.clone(),
        keyfile: ctl.keyfile.clone(),
        keyfile_password: ctl.keyfile_password.clone(),
    };
    let login = ctl.authentication.as_ref().or(restapi.authentication.as_ref());
    Ok(peers::Client {
        tls: Some(Arc::new(tls::client(&files)?)),
        authentication: login
            .map(|login| Login { username: login.username.clone(), password: login.password.clone() }),
    })
}

fn files(config: &Config) -> Vec<PathBuf> {
    let ctl = [&config.ctl.cacert, &config.ctl.certfile, &config.ctl.keyfile];
    Doors::files(&config.restapi).into_iter().chain(ctl.into_iter().flatten().cloned()).collect()
}

fn stamps(files: &[PathBuf]) -> Vec<Stamp> {
    let stamp = |file: &PathBuf| {
        let data = file.metadata().ok()?;
        Some((data.ino(), data.mtime(), data.mtime_nsec(), data.size()))
    };
    files.iter().map(stamp).collect()
}
