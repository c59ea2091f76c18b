//! A real HAProxy in the namespace of the calling thread, with what it says of its servers.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::wait_blocking;

pub struct Haproxy {
    dir: PathBuf,
    /// The old process first, as long as it has sessions.
    processes: Vec<Child>,
}

pub fn installed() -> bool {
    Command::new("haproxy").arg("-v").stdout(Stdio::null()).status().is_ok_and(|status| status.success())
}

impl Haproxy {
    /// `configuration` without its first section, which makes the runtime socket.
    pub fn start(dir: &Path, configuration: &str) -> Haproxy {
        let mut haproxy = Haproxy { dir: dir.to_owned(), processes: Vec::new() };
        let socket = haproxy.socket();
        let global =
            format!("global\n    maxconn 500\n    stats socket {} mode 600 level admin\n", socket.display());
        fs::write(dir.join("haproxy.cfg"), global + configuration).expect("our own directory");
        haproxy.spawn(&[]);
        haproxy
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.join("haproxy.sock")
    }

    /// As a service manager reloads it: a new process takes over, the old one ends with its sessions.
    pub fn reload(&mut self) {
        let old = self.pid();
        self.spawn(&["-sf", &old.to_string()]);
    }

    fn spawn(&mut self, arguments: &[&str]) {
        let log = fs::File::options().append(true).create(true).open(self.dir.join("haproxy.log"));
        let log = log.expect("our own directory");
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(self.dir.join("haproxy.cfg")).args(arguments);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a second handle")).stderr(log);
        let child = command.spawn().expect("haproxy is installed");
        let pid = child.id();
        self.processes.push(child);
        wait_blocking("HAProxy to answer", || {
            self.ask("show info")?.contains(&format!("Pid: {pid}\n")).then_some(())
        });
    }

    fn pid(&self) -> u32 {
        self.processes.last().expect("it was started").id()
    }

    /// The servers of a backend that get connections.
    pub fn up(&self, backend: &str) -> Vec<String> {
        let state =
            wait_blocking("the state of the servers", || self.ask(&format!("show servers state {backend}")));
        let fields = state.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let up = fields.filter(|fields| fields.len() > 6 && fields[1] == backend && fields[5] == "2");
        up.map(|fields| fields[3].to_owned()).collect()
    }

    pub fn ask(&self, command: &str) -> Option<String> {
        let mut stream = UnixStream::connect(self.socket()).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        stream.write_all(format!("{command}\n").as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
