//! Certificates and keys from PEM files, and how members are spoken to over TLS.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use crate::model::Secret;

/// Who we are to others, and whom we believe.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClientFiles {
    /// Whoever shows a certificate that comes from here is believed, whatever name is on it. Without it nobody is asked
    /// who he is.
    pub cafile: Option<PathBuf>,
    pub certfile: Option<PathBuf>,
    /// Without it, the key stands in `certfile`.
    pub keyfile: Option<PathBuf>,
    pub keyfile_password: Option<Secret>,
}

/// The error is for an operator.
pub fn client(files: &ClientFiles) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let chain = match &files.cafile {
        None => None,
        Some(path) => {
            let roots = Arc::new(roots(path)?);
            let verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build();
            Some(verifier.map_err(|error| format!("use {}: {error}", path.display()))?)
        }
    };
    let verifier = Arc::new(ChainOnly { chain, provider: Arc::clone(&provider) });
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let Some(certfile) = &files.certfile else { return Ok(builder.with_no_client_auth()) };
    let key = key(files.keyfile.as_ref().unwrap_or(certfile), files.keyfile_password.as_ref())?;
    builder
        .with_client_auth_cert(certificates(certfile)?, key)
        .map_err(|error| format!("use {}: {error}", certfile.display()))
}

pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let failed = |why: &dyn std::fmt::Display| format!("read {}: {why}", path.display());
    let bytes = std::fs::read(path).map_err(|error| failed(&error))?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let all = all.map_err(|error| failed(&error))?;
    if all.is_empty() { Err(failed(&"there is no certificate in it")) } else { Ok(all) }
}

pub fn roots(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| format!("trust {}: {error}", path.display()))?;
    }
    Ok(roots)
}

/// An encrypted key must be PKCS#8, which is what OpenSSL has written by default since 2010.
pub fn key(path: &Path, password: Option<&Secret>) -> Result<PrivateKeyDer<'static>, String> {
    let failed = |why: &dyn std::fmt::Display| format!("read {}: {why}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| failed(&error))?;
    let section = text.find("-----BEGIN ENCRYPTED PRIVATE KEY-----").map(|begin| &text[begin..]);
    if let Some(section) = section {
        const END: &str = "-----END ENCRYPTED PRIVATE KEY-----";
        let end = section.find(END).ok_or_else(|| failed(&"the encrypted key has no end"))? + END.len();
        let password =
            password.ok_or_else(|| failed(&"the key is encrypted, and no password for it is set"))?;
        let (_, document) =
            pkcs8::SecretDocument::from_pem(&section[..end]).map_err(|error| failed(&error))?;
        let info =
            pkcs8::EncryptedPrivateKeyInfo::try_from(document.as_bytes()).map_err(|error| failed(&error))?;
        let plain = info
            .decrypt(password.reveal())
            .map_err(|_| failed(&"the key cannot be decrypted with the password that is set"))?;
        return Ok(PrivatePkcs8KeyDer::from(plain.as_bytes().to_vec()).into());
    }
    if text.contains("Proc-Type: 4,ENCRYPTED") {
        let hint = "this old form of an encrypted key is not supported; `openssl pkcs8 -topk8` converts it";
        return Err(failed(&hint));
    }
    PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| failed(&error))
}

/// Members are called by whatever address is in the store, and their certificates seldom name it. Who has a certificate
/// of our own authority is one of us; without an authority, all that is asked for is that nobody listens in.
#[derive(Debug)]
struct ChainOnly {
    chain: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ChainOnly {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
