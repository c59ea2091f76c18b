//! Which ports a play needs, and who has them if they are taken.

use std::fs;
use std::net::TcpListener;

use anyhow::{Result, bail};

pub const HOST: &str = "127.0.0.1";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    shift: u16,
}

impl Ports {
    pub fn shifted_by(shift: u16) -> Ports {
        Ports { shift }
    }

    pub fn read_write(self) -> u16 {
        self.at(5000)
    }

    pub fn read_only(self) -> u16 {
        self.at(5001)
    }

    pub fn statistics(self) -> u16 {
        self.at(7000)
    }

    pub fn etcd_client(self) -> u16 {
        self.at(23_790)
    }

    pub fn etcd_peer(self) -> u16 {
        self.at(23_800)
    }

    pub fn zookeeper(self) -> u16 {
        self.at(23_810)
    }

    pub fn postgres(self, member: u16) -> u16 {
        self.at(5440 + member)
    }

    pub fn rest(self, member: u16) -> u16 {
        self.at(8010 + member)
    }

    fn at(self, port: u16) -> u16 {
        port.wrapping_add(self.shift)
    }

    /// Every port with what it is for.
    fn all(self, members: u16) -> Vec<(u16, String)> {
        let mut all = vec![
            (self.read_write(), "HAProxy, read-write".to_owned()),
            (self.read_only(), "HAProxy, read-only".to_owned()),
            (self.statistics(), "HAProxy's statistics".to_owned()),
            (self.etcd_client(), "etcd's clients".to_owned()),
            (self.etcd_peer(), "etcd's peers".to_owned()),
            (self.zookeeper(), "ZooKeeper".to_owned()),
        ];
        for member in 1..=members {
            all.push((self.postgres(member), format!("PostgreSQL {member}")));
            all.push((self.rest(member), format!("REST API {member}")));
        }
        all
    }

    /// Names every port that is taken, and by whom.
    pub fn check(self, members: u16) -> Result<()> {
        let taken: Vec<String> = (self.all(members).into_iter())
            .filter(|(port, _)| TcpListener::bind((HOST, *port)).is_err())
            .map(|(port, purpose)| {
                format!(
                    "  {port} ({purpose}) is taken by {}",
                    holder(port).unwrap_or_else(|| "somebody".to_owned())
                )
            })
            .collect();
        if !taken.is_empty() {
            bail!(
                "ports are taken:\n{}\nhint: stop them, or run `tenurectl play --shift 100`",
                taken.join("\n")
            );
        }
        Ok(())
    }
}

/// The process that listens on a port, as far as /proc tells this user.
fn holder(port: u16) -> Option<String> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"].iter().find_map(|table| listener(table, port))?;
    let wanted = format!("socket:[{inode}]");
    for process in fs::read_dir("/proc").ok()?.filter_map(Result::ok) {
        let pid = process.file_name();
        let pid = pid.to_string_lossy();
        if !pid.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else { continue };
        let holds = |path| fs::read_link(path).is_ok_and(|target| target.to_string_lossy() == wanted);
        if descriptors.filter_map(Result::ok).any(|descriptor| holds(descriptor.path())) {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (pid {pid})", name.trim()));
        }
    }
    None
}

/// The inode of the socket that listens on `port`.
fn listener(table: &str, port: u16) -> Option<String> {
    const LISTEN: &str = "0A";
    let text = fs::read_to_string(table).ok()?;
    text.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let local = fields.get(1)?.rsplit_once(':')?.1;
        let matches = u16::from_str_radix(local, 16) == Ok(port) && fields.get(3) == Some(&LISTEN);
        matches.then(|| fields.get(9).map(ToString::to_string))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named_with_its_holder() {
        let taken = TcpListener::bind((HOST, 0)).expect("a free port");
        let port = taken.local_addr().expect("it is bound").port();
        let holder = holder(port).expect("we hold it");
        assert!(holder.ends_with(&format!("(pid {})", std::process::id())), "{holder}");
    }
}
