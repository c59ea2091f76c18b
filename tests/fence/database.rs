//! A real PostgreSQL for the tests of the guardian.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};

use crate::stage::{Instance, standing_in, stat, until};

/// A PostgreSQL of our own, run by an ordinary user.
pub struct Database {
    pub data: PathBuf,
    bin: PathBuf,
    port: u16,
    user: Option<User>,
}

impl Database {
    pub fn make(instance: &Instance) -> Database {
        let user = nix::unistd::geteuid().is_root().then(|| {
            let named = |name| User::from_name(name).expect("the list of users");
            named("postgres").or_else(|| named("nobody")).expect("an ordinary user")
        });
        if let Some(user) = &user {
            for path in [instance.dir.path(), &instance.settings.data_dir] {
                nix::unistd::chown(path, Some(user.uid), Some(user.gid)).expect("given away");
            }
        }
        let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = port.local_addr().expect("an address").port();
        let database = Database { data: instance.settings.data_dir.clone(), bin: find_bin(), port, user };
        database.run("initdb", &["-U", "postgres", "-A", "trust", "-N", "-E", "UTF8", "--no-locale"]);
        database
    }

    pub fn run(&self, program: &str, arguments: &[&str]) {
        let mut command = Command::new(self.bin.join(program));
        command.arg("-D").arg(&self.data).args(arguments).current_dir("/").stdin(Stdio::null());
        if let Some(user) = &self.user {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        let log = self.data.with_file_name("commands.log");
        let file = || std::fs::OpenOptions::new().create(true).append(true).open(&log).expect("a file");
        let status = command.stdout(file()).stderr(file()).status().expect("run");
        let logs = [log, self.data.with_file_name("postgres.log")];
        let said = logs.map(|log| std::fs::read_to_string(log).unwrap_or_default());
        assert!(status.success(), "{program}: {}\n{}", said[0], said[1]);
    }

    /// Returns the postmaster, whose end we have to take note of: `gone`.
    pub fn start(&self) -> i32 {
        nix::sys::prctl::set_child_subreaper(true).expect("made its parent");
        let log = self.data.with_file_name("postgres.log");
        let options =
            format!("-c listen_addresses=127.0.0.1 -c port={} -c unix_socket_directories=", self.port);
        self.run("pg_ctl", &["-w", "-o", &options, "-l", log.to_str().expect("UTF-8"), "start"]);
        let text = std::fs::read_to_string(self.data.join("postmaster.pid")).expect("a pid file");
        text.lines().next().and_then(|line| line.parse().ok()).expect("a pid")
    }

    /// PostgreSQL does not start again while its last postmaster is still in the list, be it as a zombie.
    pub async fn gone(&self, postmaster: i32) {
        let flags = Some(nix::sys::wait::WaitPidFlag::WNOHANG);
        until("the postmaster is gone", async || {
            let _ = nix::sys::wait::waitpid(Pid::from_raw(postmaster), flags);
            stat(postmaster).is_none()
        })
        .await;
    }

    pub async fn connect(&self) -> tokio_postgres::Client {
        let parameters = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", self.port);
        let (client, connection) =
            tokio_postgres::connect(&parameters, tokio_postgres::NoTls).await.expect("connected");
        tokio::spawn(connection);
        client
    }

    /// Begins a transaction that commits as soon as the file `gate` is there. Returns when it waits for that; the task
    /// says whether the commit was acknowledged.
    pub async fn commit_at_the_gate(&self) -> tokio::task::JoinHandle<bool> {
        let watcher = self.connect().await;
        watcher.batch_execute("CREATE TABLE work (id int)").await.expect("a table");
        let client = self.connect().await;
        let commit = tokio::spawn(async move {
            let script = "BEGIN; INSERT INTO work VALUES (1); \
                DO $$ BEGIN WHILE (SELECT size FROM pg_stat_file('gate', true)) IS NULL LOOP END LOOP; END $$; \
                COMMIT";
            client.batch_execute(script).await.is_ok()
        });
        until("the transaction is at work", async || {
            let at_work = "SELECT count(*) FROM pg_stat_activity \
                WHERE state = 'active' AND query LIKE 'BEGIN; INSERT%' AND backend_xid IS NOT NULL";
            watcher.query_one(at_work, &[]).await.expect("an answer").get::<_, i64>(0) == 1
        })
        .await;
        commit
    }

    pub fn open_the_gate(&self) {
        std::fs::write(self.data.join("gate"), "open").expect("written");
    }

    pub fn processes(&self) -> Vec<i32> {
        standing_in(&self.data)
    }
}

/// However a test ends, nothing is left running.
impl Drop for Database {
    fn drop(&mut self) {
        for pid in self.processes() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

pub fn find_bin() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let debian = versions.map(|entry| entry.path().join("bin"));
    let red_hat = (13..=18).map(|version| PathBuf::from(format!("/usr/pgsql-{version}/bin")));
    let found = debian.chain(red_hat).filter(|bin| bin.join("postgres").exists()).max();
    found.expect("these tests need the programs of a PostgreSQL server")
}
