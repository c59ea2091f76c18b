//! How to reach ZooKeeper, as the configuration says it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::message::Acl;
use super::sessions::Sessions;
use crate::model::Secret;
use crate::peers::tls::{certificates, key};

/// The servers are tried in this order; the one that answered last is asked first.
#[derive(Clone, Debug, Default)]
pub struct ZookeeperSettings {
    /// `host` or `host:port`, and behind the last one perhaps the path below which everything lies.
    pub hosts: Vec<String>,
    pub tls: Option<TlsSettings>,
    /// What we show of ourselves: the scheme (`digest`) and its credential (`user:password`).
    pub credentials: BTreeMap<String, Secret>,
    /// Who may use what we write. Nobody named: everybody.
    pub acl: Vec<Acl>,
    /// Shared by all stores that are made from clones of these settings: what hangs on a session must be written through
    /// its own connection.
    pub sessions: Sessions,
}

#[derive(Clone, Debug, Default)]
pub struct TlsSettings {
    /// Whom to believe. Without it, the certificates that the system trusts.
    pub cacert: Option<PathBuf>,
    pub cert: Option<PathBuf>,
    /// Without it, the key stands in `cert`.
    pub key: Option<PathBuf>,
    pub key_password: Option<Secret>,
    /// Without it, anybody may play the server.
    pub verify: bool,
}

pub(super) const PORT: u16 = 2181;

/// The permissions that an access list can name, and `ALL` of them.
pub const PERMISSIONS: [(&str, i32); 6] =
    [("CREATE", 4), ("READ", 1), ("WRITE", 2), ("DELETE", 8), ("ADMIN", 16), ("ALL", 31)];

/// Where Debian and Red Hat keep the certificates that the system trusts.
const SYSTEM_CERTIFICATES: [&str; 2] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

/// The settings, ready to connect with.
pub(super) struct Ready {
    pub servers: Vec<Server>,
    /// The path below which everything lies; empty, or without a slash at its end.
    pub chroot: String,
    pub tls: Option<Arc<ClientConfig>>,
    pub credentials: BTreeMap<String, Secret>,
    pub acl: Vec<Acl>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    pub host: String,
    pub port: u16,
}

impl ZookeeperSettings {
    /// Reads the certificate files. The error is for an operator.
    pub(super) fn ready(&self) -> Result<Ready, String> {
        let mut chroot = String::new();
        let mut servers = Vec::new();
        for host in &self.hosts {
            let (host, below) = host.split_once('/').unwrap_or((host, ""));
            if !below.trim_matches('/').is_empty() {
                chroot = format!("/{}", below.trim_matches('/'));
            }
            servers.push(server(host)?);
        }
        if servers.is_empty() {
            return Err("no ZooKeeper host is given".to_owned());
        }
        let everybody = Acl { permissions: 31, scheme: "world".to_owned(), id: "anyone".to_owned() };
        Ok(Ready {
            servers,
            chroot,
            tls: self.tls.as_ref().map(TlsSettings::config).transpose()?,
            credentials: self.credentials.clone(),
            acl: if self.acl.is_empty() { vec![everybody] } else { self.acl.clone() },
        })
    }
}

fn server(text: &str) -> Result<Server, String> {
    let text = text.trim();
    let bare = |host: &str| host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let wrong = || format!("{text:?} is no ZooKeeper host, such as 10.0.0.1:{PORT}");
    let (host, port) = match text.rsplit_once(':') {
        Some((host, _)) if host.contains(':') && !host.ends_with(']') => (bare(text), PORT),
        Some((host, port)) if !text.ends_with(']') => (bare(host), port.parse().map_err(|_| wrong())?),
        Some(_) | None => (bare(text), PORT),
    };
    if host.is_empty() { Err(wrong()) } else { Ok(Server { host, port }) }
}

impl TlsSettings {
    fn config(&self) -> Result<Arc<ClientConfig>, String> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("set up TLS: {error}"))?;
        let builder = if self.verify {
            builder.with_root_certificates(self.roots()?)
        } else {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
        };
        let config = match &self.cert {
            None => builder.with_no_client_auth(),
            Some(cert) => {
                let path = self.key.as_ref().unwrap_or(cert);
                builder
                    .with_client_auth_cert(certificates(cert)?, key(path, self.key_password.as_ref())?)
                    .map_err(|error| format!("use {} with {}: {error}", cert.display(), path.display()))?
            }
        };
        Ok(Arc::new(config))
    }

    fn roots(&self) -> Result<RootCertStore, String> {
        let mut roots = RootCertStore::empty();
        let path = match &self.cacert {
            Some(path) => path.clone(),
            None => (SYSTEM_CERTIFICATES.iter().map(PathBuf::from).find(|path| path.exists()))
                .ok_or("no cacert is given, and the system has no certificates that it trusts")?,
        };
        let (taken, _) = roots.add_parsable_certificates(certificates(&path)?);
        if taken == 0 { Err(format!("there is no certificate in {}", path.display())) } else { Ok(roots) }
    }
}

/// For `verify: false`: the line is encrypted, but with whom is not known.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

impl Ready {
    /// Where a path of ours really lies.
    pub(super) fn place(&self, path: &str) -> String {
        match path.trim_end_matches('/') {
            "" if self.chroot.is_empty() => "/".to_owned(),
            path => format!("{}{path}", self.chroot),
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(hosts: &[&str]) -> Result<Ready, String> {
        let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        ZookeeperSettings { hosts, ..ZookeeperSettings::default() }.ready()
    }

    #[test]
    fn hosts_may_leave_out_the_port_and_the_last_one_may_carry_the_path_of_everything() {
        let ready =
            ready(&["zk1", "zk2:2182", "[fd00::1]:2183", "fd00::2/tenure/here/"]).expect("good hosts");
        let shown: Vec<String> = ready.servers.iter().map(Server::to_string).collect();
        assert_eq!(shown, ["zk1:2181", "zk2:2182", "[fd00::1]:2183", "[fd00::2]:2181"]);
        assert_eq!(ready.place("/service/batman/"), "/tenure/here/service/batman");
        assert_eq!(ready.place("/"), "/tenure/here");
    }

    #[test]
    fn without_a_chroot_paths_are_what_they_are() {
        let ready = ready(&["zk1"]).expect("a good host");
        assert_eq!(ready.place("/service/batman/leader"), "/service/batman/leader");
        assert_eq!(ready.place("/"), "/");
    }

    #[test]
    fn a_host_that_is_none_is_named() {
        assert!(ready(&[]).is_err());
        for wrong in ["zk1:port", "zk1:99999", "", ":2181"] {
            assert!(ready(&[wrong]).is_err_and(|error| error.contains("is no ZooKeeper host")), "{wrong:?}");
        }
    }

    #[test]
    fn a_certificate_that_cannot_be_read_is_named() {
        let tls = TlsSettings {
            cacert: Some("/nonexistent/ca.pem".into()),
            verify: true,
            ..TlsSettings::default()
        };
        assert!(tls.config().expect_err("no such file").starts_with("read /nonexistent/ca.pem: "));
    }
}
