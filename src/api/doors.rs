//! How the server presents itself and whom it lets in, as the configuration says it: made whole when the files are read,
//! and replaced as a whole when they change.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use hyper::header::{HeaderName, HeaderValue};
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::WebPkiClientVerifier;
use rustls::{ServerConfig, SupportedCipherSuite};
use tokio_rustls::TlsAcceptor;

use crate::config::{RestApi, ServerTokens, Ui, VerifyClient};
use crate::peers::tls::{certificates, key, roots};

use super::access::Access;

#[derive(Clone)]
pub struct Doors {
    pub tls: Option<TlsAcceptor>,
    pub access: Access,
    /// For each answer that has a body.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub ui: Ui,
}

impl Default for Doors {
    fn default() -> Doors {
        let headers = vec![(hyper::header::SERVER, HeaderValue::from_static(FULL_NAME))];
        Doors { tls: None, access: Access::default(), headers, ui: Ui::On }
    }
}

const FULL_NAME: &str = concat!("Tenure/", env!("CARGO_PKG_VERSION"));

impl Doors {
    /// With the page as it is wanted.
    #[must_use]
    pub fn with_page(self, ui: Ui) -> Doors {
        Doors { ui, ..self }
    }

    /// Reads the certificate files. The error is for an operator.
    pub fn open(config: &RestApi) -> Result<Doors, String> {
        let tls = config.certfile.as_ref().map(|certfile| acceptor(config, certfile)).transpose()?;
        let needed = tls.is_some() && config.verify_client != VerifyClient::None;
        let allowlist = config.allowlist.iter().map(|entry| entry.parse()).collect::<Result<_, String>>();
        let mut access = Access::default().with_password(config.authentication.as_ref());
        access.allowlist = allowlist.map_err(|why| format!("restapi.allowlist: {why}"))?;
        access.include_members = config.allowlist_include_members;
        access.certificate_needed = needed;
        let name = match config.server_tokens {
            ServerTokens::Original | ServerTokens::Minimal => FULL_NAME,
            ServerTokens::ProductOnly => "Tenure",
        };
        let mut headers = vec![(hyper::header::SERVER, HeaderValue::from_static(name))];
        let secure = config.https_extra_headers.iter().filter(|_| tls.is_some());
        for (name, value) in config.http_extra_headers.iter().chain(secure) {
            let why = |error: &dyn fmt::Display| format!("restapi: the extra header {name:?}: {error}");
            let key = HeaderName::try_from(name.as_str()).map_err(|error| why(&error))?;
            let value = HeaderValue::try_from(value.as_str()).map_err(|error| why(&error))?;
            headers.retain(|(known, _)| *known != key);
            headers.push((key, value));
        }
        Ok(Doors { tls, access, headers, ui: Ui::On })
    }

    /// The files that are read again when they have changed.
    pub fn files(config: &RestApi) -> Vec<PathBuf> {
        config.certfile.iter().chain(&config.keyfile).chain(&config.cafile).cloned().collect()
    }
}

fn acceptor(config: &RestApi, certfile: &std::path::Path) -> Result<TlsAcceptor, String> {
    let chain = certificates(certfile)?;
    let key = key(config.keyfile.as_deref().unwrap_or(certfile), config.keyfile_password.as_ref())?;
    let mut provider = ring::default_provider();
    if let Some(wanted) = &config.ciphers {
        provider.cipher_suites = ciphers(wanted, &provider)?;
    }
    let provider = Arc::new(provider);
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("restapi.ciphers: {error}"))?;
    let builder = match (config.verify_client, &config.cafile) {
        (VerifyClient::None, _) => builder.with_no_client_auth(),
        (VerifyClient::Optional | VerifyClient::Required, None) => {
            return Err(
                "restapi.verify_client needs restapi.cafile: who else should vouch for clients?".into()
            );
        }
        (verify, Some(cafile)) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(cafile)?), provider);
            let verifier = match verify {
                VerifyClient::Required => verifier,
                VerifyClient::Optional | VerifyClient::None => verifier.allow_unauthenticated(),
            };
            let verifier = verifier.build().map_err(|error| format!("use {}: {error}", cafile.display()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut server = builder
        .with_single_cert(chain, key)
        .map_err(|error| format!("use {}: {error}", certfile.display()))?;
    server.alpn_protocols = vec![b"http/1.1".to_vec(), b"http/1.0".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(server)))
}

/// OpenSSL's list, as far as it can mean something here: names choose, `!names` exclude, and every class of ciphers that
/// anybody would write holds all the modern ones that there are.
fn ciphers(wanted: &str, provider: &CryptoProvider) -> Result<Vec<SupportedCipherSuite>, String> {
    let name = |suite: &SupportedCipherSuite| format!("{:?}", suite.suite()).replace("TLS13_", "TLS_");
    let openssl = |suite: &SupportedCipherSuite| {
        let name = name(suite).replace("TLS_ECDHE", "ECDHE").replace("WITH_", "").replace('_', "-");
        name.replace("AES-128", "AES128")
            .replace("AES-256", "AES256")
            .replace("-POLY1305-SHA256", "-POLY1305")
    };
    let parts: Vec<&str> = wanted.split([':', ',', ' ']).filter(|part| !part.is_empty()).collect();
    let class = |part: &str| {
        ["ALL", "DEFAULT", "HIGH", "ECDH", "ECDHE", "EECDH", "TLSV1.2"]
            .iter()
            .any(|class| part.split('+').any(|one| one.eq_ignore_ascii_case(class)))
    };
    let chosen = |suite: &SupportedCipherSuite| {
        parts.iter().any(|part| class(part) || *part == name(suite) || *part == openssl(suite))
    };
    let excluded = |suite: &SupportedCipherSuite| {
        parts
            .iter()
            .filter_map(|part| part.strip_prefix(['!', '-']))
            .any(|part| openssl(suite).contains(part))
    };
    let all = &provider.cipher_suites;
    let suites: Vec<_> = all.iter().copied().filter(|suite| chosen(suite) && !excluded(suite)).collect();
    if suites.is_empty() {
        let known: Vec<String> = all.iter().map(openssl).collect();
        return Err(format!("restapi.ciphers: none of {wanted:?} is there; there are {}", known.join(", ")));
    }
    Ok(suites)
}

impl fmt::Debug for Doors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doors")
            .field("tls", &self.tls.is_some())
            .field("access", &self.access)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_ciphers_chooses_among_those_that_there_are() {
        let provider = ring::default_provider();
        let count = |wanted: &str| ciphers(wanted, &provider).map(|suites| suites.len()).unwrap_or_default();
        assert_eq!(count("HIGH:!aNULL:!MD5"), provider.cipher_suites.len());
        assert_eq!(count("ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES128-GCM-SHA256"), 2);
        assert_eq!(count("ECDHE-RSA-CHACHA20-POLY1305"), 1);
        assert_eq!(count("TLS_AES_256_GCM_SHA384"), 1);
        assert_eq!(count("ECDHE+AESGCM:!AES128:!CHACHA20"), 3);
        assert_eq!(count("RC4-SHA"), 0);
    }
}
