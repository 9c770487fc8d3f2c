//! Certificate, key and what else all TLS connections of a server share.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::crypto::ring::Ticketer;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The names of HTTP/2 and HTTP/1.1 in ALPN, the preferred one first.
pub(crate) const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// A certificate chain and its private key.
#[derive(Debug, Clone)]
pub struct Tls(pub(crate) Arc<ServerConfig>);

/// Why certificate and key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or has no such section.
    #[error("{}: {error}; expected {expected} in PEM", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Its expected content.
        expected: &'static str,
        /// The cause.
        error: pem::Error,
    },
    /// The file has no certificate.
    #[error("{}: no certificate; expected one or more, the server's own first, in PEM", .0.display())]
    NoCertificate(PathBuf),
    /// Key and certificate do not match, or are of an unsupported kind.
    #[error("{} and {}: {error}", certificates.display(), key.display())]
    Refused {
        /// The certificate file.
        certificates: PathBuf,
        /// The key file.
        key: PathBuf,
        /// The cause.
        error: rustls::Error,
    },
}

impl Tls {
    /// Reads the certificate chain, the server certificate first, and its private key from PEM files.
    ///
    /// # Errors
    /// When a file cannot be read or is not PEM, or key and certificate do not match.
    pub fn read(certificates: &Path, key: &Path) -> Result<Self, TlsError> {
        let file = |path: &Path, expected| {
            let path = path.to_owned();
            move |error| TlsError::File { path, expected, error }
        };
        let chain = CertificateDer::pem_file_iter(certificates)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(file(certificates, "certificates"))?;
        if chain.is_empty() {
            return Err(TlsError::NoCertificate(certificates.to_owned()));
        }
        let private = PrivateKeyDer::from_pem_file(key).map_err(file(key, "a private key"))?;
        let refused = |error| TlsError::Refused { certificates: certificates.to_owned(), key: key.to_owned(), error };
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private))
            .map_err(refused)?;
        config.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
        // Sessions are resumed from what their clients keep (RFC 8446, §2.2; RFC 5077), so they cost no memory here. The keys
        // change every six hours. Those of another `Tls` differ, so that sessions do not outlive a certificate.
        config.ticketer = Ticketer::new().map_err(refused)?;
        // A client that comes back gets a new one.
        config.send_tls13_tickets = 1;
        Ok(Self(Arc::new(config)))
    }
}
