//! How to reach etcd, as the configuration says it.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};

/// The servers are tried in this order; the one that answered last is asked first.
#[derive(Clone, Default)]
pub struct EtcdSettings {
    /// `host:port` or a URL.
    pub endpoints: Vec<String>,
    /// Instead of them.
    pub discovery: Option<Discovery>,
    pub username: Option<String>,
    pub password: Option<String>,
    /// Whom to believe. Without it, the certificates that the system trusts.
    pub cacert: Option<PathBuf>,
    pub cert: Option<PathBuf>,
    /// Without it, the key stands in `cert`.
    pub key: Option<PathBuf>,
}

/// Servers that DNS names, in SRV records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Discovery {
    pub domain: String,
    /// Tells several etcd clusters of one domain apart.
    pub suffix: Option<String>,
    /// Whom to ask. The system's, if there are none.
    pub name_servers: Vec<SocketAddr>,
}

/// Where Debian and Red Hat keep the certificates that the system trusts.
const SYSTEM_CERTIFICATES: [&str; 2] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

/// etcd hangs up on whoever pings more often than every 5 s, or while nothing is under way.
const PING_EVERY: Duration = Duration::from_secs(6);
const PING_PATIENCE: Duration = Duration::from_secs(4);

/// One server, ready to be connected to.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub url: String,
    pub options: ConnectOptions,
}

impl EtcdSettings {
    /// Reads the certificate files. The error is for an operator.
    pub(super) fn servers(&self) -> Result<Vec<Server>, String> {
        self.servers_at(&self.endpoints)
    }

    pub(super) fn servers_at(&self, endpoints: &[String]) -> Result<Vec<Server>, String> {
        if endpoints.is_empty() {
            return Err("no etcd endpoint is given".to_owned());
        }
        let urls: Vec<String> = endpoints.iter().map(|endpoint| self.url(endpoint)).collect();
        if urls.iter().any(|url| url.contains('@')) {
            return Err("an etcd endpoint must not contain a user: there are settings for that".to_owned());
        }
        let tls = urls.iter().any(|url| url.starts_with("https:")).then(|| self.tls()).transpose()?;
        let server = |url: String| {
            let mut options = ConnectOptions::new()
                .with_require_leader(true)
                .with_keep_alive(PING_EVERY, PING_PATIENCE)
                .with_keep_alive_while_idle(false);
            if let Some(tls) = tls.clone().filter(|_| url.starts_with("https:")) {
                options = options.with_tls(match bracketed_host(&url) {
                    Some(host) => tls.domain_name(host),
                    None => tls,
                });
            }
            Server { url, options }
        };
        Ok(urls.into_iter().map(server).collect())
    }

    pub(super) fn credentials(&self) -> Option<(String, String)> {
        Some((self.username.clone()?, self.password.clone().unwrap_or_default()))
    }

    fn url(&self, endpoint: &str) -> String {
        let endpoint = endpoint.trim().trim_end_matches('/');
        match (endpoint.contains("://"), &self.cacert, &self.cert) {
            (true, _, _) => endpoint.to_owned(),
            (false, None, None) => format!("http://{endpoint}"),
            (false, _, _) => format!("https://{endpoint}"),
        }
    }

    fn tls(&self) -> Result<TlsOptions, String> {
        let trusted = match &self.cacert {
            Some(path) => read(path)?,
            None => (SYSTEM_CERTIFICATES.iter().find_map(|path| std::fs::read(path).ok()))
                .ok_or("no cacert is given, and the system has no certificates that it trusts")?,
        };
        let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(trusted));
        if let Some(cert) = &self.cert {
            let key = self.key.as_ref().unwrap_or(cert);
            tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
        }
        Ok(tls)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("read {}: {error}", path.display()))
}

/// Certificates name an IPv6 address without the brackets that a URL needs.
fn bracketed_host(url: &str) -> Option<String> {
    let (host, _) = url.split_once("://")?.1.strip_prefix('[')?.split_once(']')?;
    Some(host.to_owned())
}

impl fmt::Debug for EtcdSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdSettings")
            .field("endpoints", &self.endpoints)
            .field("discovery", &self.discovery)
            .field("username", &self.username)
            .field("cacert", &self.cacert)
            .field("cert", &self.cert)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(endpoint: &str) -> EtcdSettings {
        EtcdSettings { endpoints: vec![endpoint.to_owned()], ..EtcdSettings::default() }
    }

    #[test]
    fn an_endpoint_without_a_scheme_is_encrypted_if_there_is_a_certificate() {
        let plain = settings("etcd1:2379");
        assert_eq!(plain.url("etcd1:2379"), "http://etcd1:2379");
        let encrypted = EtcdSettings { cacert: Some("ca.pem".into()), ..plain };
        assert_eq!(encrypted.url("etcd1:2379"), "https://etcd1:2379");
        assert_eq!(encrypted.url("http://etcd1:2379/"), "http://etcd1:2379");
    }

    #[test]
    fn a_certificate_that_cannot_be_read_is_named() {
        let broken = EtcdSettings { cacert: Some("/nonexistent/ca.pem".into()), ..settings("etcd1:2379") };
        assert!(broken.servers().expect_err("no such file").starts_with("read /nonexistent/ca.pem: "));
        assert!(settings("http://user:secret@etcd1:2379").servers().is_err());
        assert!(EtcdSettings::default().servers().is_err());
    }

    #[test]
    fn the_password_is_never_shown() {
        let secret = EtcdSettings { password: Some("hunter2".to_owned()), ..settings("etcd1:2379") };
        assert!(!format!("{secret:?}").contains("hunter2"));
    }

    #[test]
    fn an_ipv6_address_is_verified_without_its_brackets() {
        assert_eq!(bracketed_host("https://[fd00::1]:2379"), Some("fd00::1".to_owned()));
        assert_eq!(bracketed_host("https://etcd1:2379"), None);
    }
}
