//! Whom to believe, and what to show, when a member or a server is spoken to over TLS.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Task, Poll};

use anyhow::{Context, Result, anyhow};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::console::hinted;

/// Where Debian and Red Hat keep the certificates that the system trusts.
const SYSTEM_CERTIFICATES: [&str; 2] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

/// What an operator's settings say about the members' REST APIs.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    pub insecure: bool,
    pub cacert: Option<PathBuf>,
    pub certfile: Option<PathBuf>,
    pub keyfile: Option<PathBuf>,
    /// The key's file needs a password.
    pub encrypted_key: bool,
}

/// How much of a server's certificate counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    Full,
    /// Signed by whom we trust, for whatever name.
    AnyName,
    AnyCertificate,
}

impl Trust {
    /// Insecure and with a certificate of our own, Patroni still wants to know who signed the other one.
    pub fn strictness(&self) -> Strictness {
        match (self.insecure, &self.certfile) {
            (false, _) => Strictness::Full,
            (true, Some(_)) => Strictness::AnyName,
            (true, None) => Strictness::AnyCertificate,
        }
    }

    pub fn client(&self, strictness: Strictness) -> Result<Arc<ClientConfig>> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .context("set up TLS")?;
        let builder = match strictness {
            Strictness::Full => builder.with_root_certificates(self.roots()?),
            Strictness::AnyName | Strictness::AnyCertificate => {
                let roots = match strictness {
                    Strictness::AnyName => Some(Arc::new(self.roots()?)),
                    Strictness::Full | Strictness::AnyCertificate => None,
                };
                let strict = roots.map(|roots| {
                    WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build()
                });
                let strict = strict.transpose().context("set up TLS")?;
                let verifier = Arc::new(Lenient { provider, strict });
                builder.dangerous().with_custom_certificate_verifier(verifier)
            }
        };
        let config = match &self.certfile {
            None => builder.with_no_client_auth(),
            Some(certfile) => {
                let keyfile = self.keyfile.as_ref().unwrap_or(certfile);
                builder
                    .with_client_auth_cert(certificates(certfile)?, self.key(keyfile)?)
                    .with_context(|| format!("use {} with {}", certfile.display(), keyfile.display()))?
            }
        };
        Ok(Arc::new(config))
    }

    fn roots(&self) -> Result<RootCertStore> {
        let system = || SYSTEM_CERTIFICATES.iter().map(PathBuf::from).find(|path| path.exists());
        let path = self.cacert.clone().or_else(system).ok_or_else(|| {
            hinted(
                "no cacert is configured, and the system has no certificates that it trusts",
                "set ctl.cacert",
            )
        })?;
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates(&path)?);
        Ok(roots)
    }

    fn key(&self, path: &Path) -> Result<PrivateKeyDer<'static>> {
        PrivateKeyDer::from_pem_file(path).map_err(|error| {
            if self.encrypted_key {
                let hint =
                    format!("openssl pkey -in {} -out plain.pem, and set ctl.keyfile to it", path.display());
                hinted(format!("read the key {}: encrypted keys cannot be read", path.display()), hint)
            } else {
                anyhow!("read the key {}: {error}", path.display())
            }
        })
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = || CertificateDer::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>();
    read().map_err(|error| anyhow!("read the certificates in {}: {error}", path.display()))
}

/// A TLS connection over an open one.
pub async fn wrap(
    stream: TcpStream,
    host: &str,
    config: Arc<ClientConfig>,
) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| io::Error::other(format!("{host:?} cannot be the name of a server")))?;
    TlsConnector::from(config).connect(name, stream).await
}

/// Believes more than it should, because it was told to.
#[derive(Debug)]
struct Lenient {
    provider: Arc<CryptoProvider>,
    strict: Option<Arc<WebPkiServerVerifier>>,
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(strict) = &self.strict else { return Ok(ServerCertVerified::assertion()) };
        match strict.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// TLS for PostgreSQL's protocol, which begins in the clear.
#[derive(Clone, Debug)]
pub struct ForPostgres(pub Arc<ClientConfig>);

#[derive(Debug)]
pub struct Handshake {
    host: String,
    config: Arc<ClientConfig>,
}

#[derive(Debug)]
pub struct Encrypted<S>(Box<TlsStream<S>>);

impl<S> tokio_postgres::tls::MakeTlsConnect<S> for ForPostgres
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = Encrypted<S>;
    type TlsConnect = Handshake;
    type Error = io::Error;

    fn make_tls_connect(&mut self, host: &str) -> io::Result<Handshake> {
        Ok(Handshake { host: host.to_owned(), config: Arc::clone(&self.0) })
    }
}

impl<S> tokio_postgres::tls::TlsConnect<S> for Handshake
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = Encrypted<S>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Encrypted<S>>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move {
            let name = ServerName::try_from(self.host.clone())
                .map_err(|_| io::Error::other(format!("{:?} cannot be the name of a server", self.host)))?;
            let stream = TlsConnector::from(self.config).connect(name, stream).await?;
            Ok(Encrypted(Box::new(stream)))
        })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> tokio_postgres::tls::TlsStream for Encrypted<S> {
    // Binding needs a hash of the server's certificate by its own algorithm, and plain SCRAM works without.
    fn channel_binding(&self) -> tokio_postgres::tls::ChannelBinding {
        tokio_postgres::tls::ChannelBinding::none()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Encrypted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(task, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Encrypted<S> {
    fn poll_write(mut self: Pin<&mut Self>, task: &mut Task<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(task, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(task)
    }
}
