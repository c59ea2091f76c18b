//! What systemd has handed to this process: where to tell it things, how long the loop may be silent, open sockets.
//! The variables stay where they are; `postgres::command` keeps them from every child.

use std::ffi::OsString;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener as StdListener};
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd, RawFd};

use anyhow::{Context, Result};
use libsystemd::activation::{FileDescriptor, receive_descriptors_with_names};
use nix::libc;
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::Pid;
use tokio::net::{TcpListener, lookup_host};

use super::service::Line;
use crate::config::Listen;
use crate::model::Span;

const FIRST_SOCKET: RawFd = 3;
/// The name under which systemd keeps the REST listener for the next agent.
const STORED: &str = "rest";

#[derive(Debug, Default)]
pub struct Inheritance {
    pub line: Line,
    pub watchdog: Option<Span>,
    /// systemd has started this very process, so the control group around it is its own.
    pub main_process: bool,
    sockets: Vec<(String, OwnedFd)>,
}

/// The variables, read.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    line: Option<String>,
    watchdog: Option<Span>,
    main_process: bool,
}

impl Inheritance {
    /// Takes over what the process was started with. Called once, before anything else is opened.
    pub fn take() -> Inheritance {
        let told = read(|name| std::env::var_os(name), Pid::this().as_raw());
        let handed = receive_descriptors_with_names(false).unwrap_or_else(|error| {
            eprintln!("warning: the sockets that systemd hands over cannot be taken: {error}");
            Vec::new()
        });
        // SAFETY: nothing else has been opened yet, so these descriptors are nobody's but ours.
        let owned = |fd: FileDescriptor| unsafe { OwnedFd::from_raw_fd(fd.into_raw_fd()) };
        let sockets = handed.into_iter().map(|(fd, name)| (name, owned(fd))).collect();
        keep_from_children();
        let line = told.line.as_deref().map(Line::open);
        if let Some(Err(error)) = &line {
            eprintln!("warning: NOTIFY_SOCKET cannot be reached: {error}");
        }
        Inheritance {
            line: line.and_then(Result::ok).unwrap_or_default(),
            watchdog: told.watchdog,
            main_process: told.main_process,
            sockets,
        }
    }

    /// The REST listeners, one for each host of the setting: those that were handed over where they fit, new ones otherwise.
    pub async fn listeners(&mut self, listen: &Listen) -> Result<Vec<StdListener>> {
        let mut wanted = Vec::new();
        for host in &listen.hosts {
            wanted.push((host.as_str(), addresses(host, listen.port).await));
        }
        let mut found: Vec<Option<StdListener>> = wanted.iter().map(|_| None).collect();
        for (name, socket) in self.sockets.drain(..) {
            let listens = getsockopt(&socket, sockopt::AcceptConn).unwrap_or(false);
            let listener = StdListener::from(socket);
            let address = listener.local_addr();
            let fits = |(_, addresses): &(&str, Vec<SocketAddr>)| {
                listens && address.as_ref().is_ok_and(|address| addresses.contains(address))
            };
            let place = wanted.iter().position(fits).and_then(|place| found.get_mut(place));
            if let Some(place @ None) = place {
                listener.set_nonblocking(true).context("take over the REST socket")?;
                *place = Some(listener);
                tracing::info!("the REST socket was handed over by systemd ({name}), open all the time");
            } else if name.starts_with(STORED) {
                self.line.say(&format!("FDSTOREREMOVE=1\nFDNAME={name}"));
                tracing::info!("restapi.listen has changed to {listen}; a former socket is closed");
            } else {
                let is = address.map_or_else(|_| "no TCP socket".to_owned(), |address| address.to_string());
                tracing::warn!(
                    "systemd handed over a socket that is not used: {name} is {is}, and restapi.listen is {listen}"
                );
            }
        }
        let mut listeners = Vec::new();
        for (place, ((host, _), found)) in wanted.iter().zip(found).enumerate() {
            if let Some(listener) = found {
                listeners.push(listener);
                continue;
            }
            let listener = bind(host, listen.port).await?;
            self.line.store(&format!("FDSTORE=1\nFDNAME={STORED}-{place}\nFDPOLL=0"), &listener);
            listeners.push(listener);
        }
        Ok(listeners)
    }
}

/// On a machine without IPv6, `*` is every address of IPv4.
async fn bind(host: &str, port: u16) -> Result<StdListener> {
    let bound = if host == "*" {
        match TcpListener::bind(("::", port)).await {
            Ok(listener) => Ok(listener),
            Err(_) => TcpListener::bind(("0.0.0.0", port)).await,
        }
    } else {
        TcpListener::bind((bare(host), port)).await
    };
    bound.and_then(TcpListener::into_std).with_context(|| format!("listen on {host}:{port} (restapi.listen)"))
}

/// Where a socket for this host may listen.
async fn addresses(host: &str, port: u16) -> Vec<SocketAddr> {
    if host == "*" {
        return vec![(Ipv6Addr::UNSPECIFIED, port).into(), (Ipv4Addr::UNSPECIFIED, port).into()];
    }
    match lookup_host((bare(host), port)).await {
        Ok(addresses) => addresses.collect(),
        Err(_) => Vec::new(),
    }
}

fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

fn read(variable: impl Fn(&str) -> Option<OsString>, pid: i32) -> Told {
    let text = |name: &str| variable(name).and_then(|value| value.into_string().ok());
    let number = |name: &str| text(name).and_then(|text| text.parse::<u64>().ok());
    // Each of them names the process that it is meant for; others have only inherited it.
    let ours = |name: &str| number(name) == u64::try_from(pid).ok();
    Told {
        line: text("NOTIFY_SOCKET").filter(|path| path.starts_with(['/', '@'])),
        watchdog: number("WATCHDOG_USEC")
            .filter(|us| 0 < *us && (text("WATCHDOG_PID").is_none() || ours("WATCHDOG_PID")))
            .map(|us| Span::from_ms(us / 1000)),
        main_process: ours("SYSTEMD_EXEC_PID") || ours("WATCHDOG_PID"),
    }
}

/// Whatever else we were started with, open by somebody's oversight, is no business of our children either.
fn keep_from_children() {
    // SAFETY: only a flag of each descriptor changes. A kernel before 5.11 refuses, and then nothing is worse than before.
    unsafe {
        libc::syscall(libc::SYS_close_range, FIRST_SOCKET, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(variables: &[(&str, &str)]) -> Told {
        let find = |name: &str| variables.iter().find(|(known, _)| *known == name);
        read(|name| find(name).map(|(_, value)| OsString::from(value)), 42)
    }

    #[test]
    fn only_what_is_meant_for_this_process_is_taken() {
        assert_eq!(told(&[]), Told::default());
        let others =
            told(&[("WATCHDOG_PID", "41"), ("WATCHDOG_USEC", "3000000"), ("SYSTEMD_EXEC_PID", "41")]);
        assert_eq!(others, Told::default());
        let ours =
            told(&[("NOTIFY_SOCKET", "@abstract"), ("WATCHDOG_PID", "42"), ("WATCHDOG_USEC", "3000000")]);
        let wanted = Told {
            line: Some("@abstract".to_owned()),
            watchdog: Some(Span::from_secs(3)),
            main_process: true,
        };
        assert_eq!(ours, wanted);
    }

    fn handed(name: &str, listener: &StdListener) -> Inheritance {
        let copy = OwnedFd::from(listener.try_clone().expect("a second handle"));
        Inheritance { sockets: vec![(name.to_owned(), copy)], ..Inheritance::default() }
    }

    #[tokio::test]
    async fn a_socket_that_was_handed_over_is_used_with_whoever_waits_in_it() {
        let former = StdListener::bind("127.0.0.1:0").expect("loopback");
        let address = former.local_addr().expect("bound");
        let client = std::net::TcpStream::connect(address).expect("the queue takes it");
        let listen = address.to_string().parse().expect("host:port");
        let mut inheritance = handed("unit.socket", &former);
        drop(former);
        let listener = inheritance.listeners(&listen).await.expect("listeners").remove(0);
        let listener = TcpListener::from_std(listener).expect("a listener");
        let (_, peer) = listener.accept().await.expect("the client");
        assert_eq!(Some(peer), client.local_addr().ok());
    }

    #[tokio::test]
    async fn a_socket_of_another_address_is_not_used() {
        let other = StdListener::bind("127.0.0.1:0").expect("loopback");
        for name in ["rest", "unit.socket"] {
            let listen = Listen { hosts: vec!["127.0.0.1".to_owned()], port: 0 };
            let listener = handed(name, &other).listeners(&listen).await.expect("listeners").remove(0);
            assert_ne!(listener.local_addr().ok(), other.local_addr().ok(), "{name}");
        }
    }

    #[test]
    fn nonsense_is_not_believed() {
        for variables in [
            [("WATCHDOG_USEC", "0"), ("NOTIFY_SOCKET", "relative")],
            [("WATCHDOG_USEC", "soon"), ("NOTIFY_SOCKET", "")],
        ] {
            assert_eq!(told(&variables), Told::default());
        }
    }
}
