//! Real PostgreSQL instances on loopback in temporary directories, stopped with everything that belongs to them.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::path::Path;
use std::time::Duration;

use nix::unistd::{Uid, User};
use tenure::model::{Address, Moment, Postgres, Running, Serving, Span};
use tenure::postgres::{
    Gauge, InstanceSettings, Login, Observation, Observer, ProgramOption, RunAs, bootstrap, clone_from,
    kill_completely, start_primary, start_standby,
};
use tokio_postgres::{NoTls, SimpleQueryMessage};

#[path = "majors.rs"]
mod majors;
pub use majors::bin_dirs;

/// How long anything may take that happens sooner or later.
pub const PATIENCE: Span = Span::from_secs(120);
/// How long one look may take.
pub const LOOK: Span = Span::from_secs(2);

pub struct Instance {
    pub settings: InstanceSettings,
    pub observer: Observer,
    /// Removed last.
    _directory: tempfile::TempDir,
}

impl Instance {
    /// Settings and a place; nothing runs yet.
    pub fn new(bin_dir: &Path, name: &str) -> Instance {
        let directory =
            tempfile::Builder::new().prefix("tenure-pg-").tempdir_in("/tmp").expect("a directory");
        let run_as = unprivileged();
        if let Some(run_as) = run_as {
            chown(directory.path(), Some(run_as.uid), Some(run_as.gid)).expect("given away");
        }
        let address = Address { host: "127.0.0.1".to_owned(), port: free_port() };
        let name = name.parse().expect("a good name");
        let mut settings = InstanceSettings::new(name, "demo", directory.path().join("data"), address);
        settings.bin_dir = Some(bin_dir.to_path_buf());
        settings.run_as = run_as;
        settings.superuser = Login::named("postgres").with_password("super-secret");
        settings.replication = Login::named("replicator").with_password("replication-secret");
        settings.rewind = Some(Login::named("rewinder").with_password("rewind-secret"));
        settings.socket_dir = Some(directory.path().to_path_buf());
        settings.initdb = vec![
            ProgramOption::flag("data-checksums"),
            ProgramOption::value("encoding", "UTF8"),
            ProgramOption::value("auth", "scram-sha-256"),
        ];
        settings.pg_hba = vec![
            "host all all 127.0.0.1/32 scram-sha-256".to_owned(),
            "host replication replicator 127.0.0.1/32 scram-sha-256".to_owned(),
        ];
        // The operating system survives these tests, and nobody needs to be spared a connection.
        let parameters = [("fsync", "off"), ("wal_retrieve_retry_interval", "100ms")];
        settings.parameters =
            BTreeMap::from(parameters.map(|(name, value)| (name.to_owned(), value.to_owned())));
        Instance { settings, observer: Observer::default(), _directory: directory }
    }

    /// A new cluster that runs as a primary.
    pub async fn primary(bin_dir: &Path, name: &str) -> Instance {
        let instance = Instance::new(bin_dir, name);
        bootstrap(&instance.settings, PATIENCE).await.expect("bootstrapped");
        let started = start_primary(&instance.settings, PATIENCE).await.expect("started");
        assert!(started.accepting);
        instance
    }

    /// A copy of `primary` that runs as its standby.
    pub async fn standby_of(primary: &Instance, name: &str) -> Instance {
        let bin_dir = primary.settings.bin_dir.clone().expect("given");
        let mut instance = Instance::new(&bin_dir, name);
        clone_from(&instance.settings, primary.address(), PATIENCE, &Gauge::default()).await.expect("cloned");
        primary.make_slot_for(&instance).await;
        start_standby(&instance.settings, Some(primary.address().clone()), PATIENCE).await.expect("started");
        instance.until_streaming().await;
        instance
    }

    pub async fn make_slot_for(&self, member: &Instance) {
        let slot = member.settings.name.slot();
        let statement = format!("SELECT pg_create_physical_replication_slot('{slot}', true)");
        self.sql(&statement).await;
    }

    pub fn address(&self) -> &Address {
        &self.settings.connect_address
    }

    pub fn data_dir(&self) -> &Path {
        &self.settings.data_dir
    }

    pub async fn look(&mut self) -> Observation {
        self.look_at(Moment::from_ms(1)).await
    }

    pub async fn look_at(&mut self, now: Moment) -> Observation {
        self.observer.look(&self.settings, now, LOOK).await
    }

    pub async fn running(&mut self) -> Running {
        match self.look().await.postgres {
            Postgres::Running(running) => running,
            other => panic!("{} does not run: {other:?}", self.settings.name),
        }
    }

    pub async fn until_streaming(&mut self) -> Running {
        for _ in tries() {
            let seen = self.look().await;
            if let Postgres::Running(running) = seen.postgres
                && matches!(running.serving, Serving::Standby { streaming: true, .. })
            {
                return running;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{} does not stream: {}", self.settings.name, self.log());
    }

    /// The first column of every row, as the superuser over TCP.
    pub async fn sql(&self, statement: &str) -> Vec<String> {
        self.try_sql(&self.settings.superuser, statement)
            .await
            .unwrap_or_else(|error| panic!("{statement}: {error:?}"))
    }

    pub async fn try_sql(
        &self,
        login: &Login,
        statement: &str,
    ) -> Result<Vec<String>, tokio_postgres::Error> {
        let (client, driver) = self.connect(login).await?;
        let rows = client.simple_query(statement).await;
        driver.abort();
        let first = |message: SimpleQueryMessage| match message {
            SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
            _ => None,
        };
        Ok(rows?.into_iter().filter_map(first).collect())
    }

    pub async fn connect(
        &self,
        login: &Login,
    ) -> Result<(tokio_postgres::Client, tokio::task::JoinHandle<()>), tokio_postgres::Error> {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(self.address().port).user(&login.username).dbname("postgres");
        config.connect_timeout(PATIENCE.as_duration());
        if let Some(password) = &login.password {
            config.password(password.reveal());
        }
        let (client, connection) = config.connect(NoTls).await?;
        let driver = tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok((client, driver))
    }

    /// Waits until the statement gives this.
    pub async fn until_sql(&self, statement: &str, expected: &str) {
        let mut last = Ok(Vec::new());
        for _ in tries() {
            // What it asks for may not have arrived yet, or the server may be about to come up.
            last = self.try_sql(&self.settings.superuser, statement).await;
            if last.as_ref().is_ok_and(|rows| rows == &[expected]) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{statement} gives {last:?} and not {expected}; {}", self.log());
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.settings.log_file).unwrap_or_default()
    }

    /// Every live process that works in the data directory.
    pub fn processes(&self) -> Vec<i32> {
        let pids = std::fs::read_dir("/proc").expect("proc").filter_map(|entry| {
            let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let place = std::fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
            (place == self.settings.data_dir).then_some(pid)
        });
        pids.collect()
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let settings = self.settings.clone();
        let stop = move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(kill_completely(&settings, PATIENCE))
        };
        // A thread of its own: the test's runtime cannot be waited for from within.
        let stopped = std::thread::spawn(stop).join();
        if !std::thread::panicking() {
            stopped.expect("no panic").expect("nothing is left");
        }
    }
}

/// Enough looks at something that happens sooner or later, with a little time between them.
pub fn tries() -> std::ops::Range<u32> {
    0..3000
}

fn unprivileged() -> Option<RunAs> {
    if !Uid::effective().is_root() {
        return None;
    }
    let named = |name| User::from_name(name).ok().flatten();
    let user = named("postgres").or_else(|| named("nobody")).expect("an unprivileged user");
    Some(RunAs { uid: user.uid.as_raw(), gid: user.gid.as_raw() })
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    listener.local_addr().expect("an address").port()
}
