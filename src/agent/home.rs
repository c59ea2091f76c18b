//! The agent's own directory: what it must find again after a crash.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use tokio::sync::watch;

use crate::config::Config;
use crate::model::{Secret, SessionId, Standing};
use crate::store::StoreSettings;

/// Nobody else's agent works here as long as this lives.
#[derive(Clone, Debug)]
pub struct Home {
    dir: PathBuf,
    _lock: Arc<Flock<File>>,
}

impl Home {
    pub fn open(config: &Config) -> Result<Home> {
        let dir = config.state_dir();
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .with_context(|| format!("make {} (tenure.state_dir)", dir.display()))?;
        let path = dir.join("lock");
        let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = file.with_context(|| format!("write {}", path.display()))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Home { dir, _lock: Arc::new(lock) }),
            Err(_) => bail!("another agent works in {}", dir.display()),
        }
    }

    /// The session of this member's last life, with its secret if it has one. That there was one also says that this member
    /// has been run before.
    pub fn session(&self) -> Option<(SessionId, Option<Secret>)> {
        let text = fs::read_to_string(self.session_file()).ok()?;
        let mut words = text.split_whitespace();
        let id = words.next()?.parse().ok().map(SessionId)?;
        Some((id, words.next().map(Secret::new)))
    }

    /// Written whole and replaced at once: half a number would be another session's.
    pub fn remember_session(&self, id: SessionId, secret: Option<&Secret>) -> Result<()> {
        let fresh = self.dir.join("session.new");
        let write = || -> std::io::Result<()> {
            let mut file =
                File::options().create(true).truncate(true).write(true).mode(0o600).open(&fresh)?;
            writeln!(file, "{} {}", id.0, secret.map_or("", Secret::reveal))?;
            file.sync_all()?;
            fs::rename(&fresh, self.session_file())?;
            File::open(&self.dir)?.sync_all()
        };
        write().with_context(|| format!("write {}", self.session_file().display()))
    }

    /// Was the cluster in maintenance mode when it was last heard of? A restarted agent goes by that until it hears more.
    pub fn paused(&self) -> bool {
        self.pause_file().exists()
    }

    pub fn remember_pause(&self, paused: bool) -> Result<()> {
        let path = self.pause_file();
        let write = || -> std::io::Result<()> {
            if paused {
                File::options().create(true).truncate(false).write(true).mode(0o600).open(&path)?;
            } else if path.exists() {
                fs::remove_file(&path)?;
            }
            File::open(&self.dir)?.sync_all()
        };
        write().with_context(|| format!("write {}", path.display()))
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn pause_file(&self) -> PathBuf {
        self.dir.join("paused")
    }

    fn session_file(&self) -> PathBuf {
        self.dir.join("session")
    }
}

/// Keeps the number of the session where the next life of this agent finds it.
pub async fn remember_session(
    home: Home,
    store: StoreSettings,
    mut session: watch::Receiver<Option<SessionId>>,
) {
    while session.changed().await.is_ok() {
        let Some(id) = *session.borrow_and_update() else { continue };
        let (home, secret) = (home.clone(), store.session_secret(id));
        let written = tokio::task::spawn_blocking(move || home.remember_session(id, secret.as_ref())).await;
        if let Ok(Err(error)) = written {
            tracing::warn!("{error:#}; a restarted agent will have to wait for the end of its own lease");
        }
    }
}

/// Keeps it where the next life of this agent finds it before it hears from the store.
pub async fn remember_pause(home: Home, mut standings: watch::Receiver<Arc<Standing>>) {
    let mut known = home.paused();
    loop {
        let paused = standings.borrow_and_update().view.policy.pause;
        if paused != known {
            let home = home.clone();
            match tokio::task::spawn_blocking(move || home.remember_pause(paused)).await {
                Ok(Ok(())) => known = paused,
                Ok(Err(error)) => tracing::warn!("{error:#}"),
                Err(_) => return,
            }
        }
        if standings.changed().await.is_err() {
            return;
        }
    }
}
