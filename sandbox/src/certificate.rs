//! A self-signed certificate for servers on this machine, and clients that trust no other.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use tokio_rustls::rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};

/// A self-signed certificate and its key, as files.
#[derive(Clone, Debug)]
pub(crate) struct Certificate {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Certificate {
    /// The certificate that was created in `directory`.
    pub(crate) fn in_directory(directory: &Path) -> Self {
        Self { certificate: directory.join("cert.pem"), key: directory.join("key.pem") }
    }

    /// Creates a certificate for 127.0.0.1 in `directory` with the program openssl.
    ///
    /// # Errors
    /// If openssl is missing or fails.
    pub(crate) fn create(directory: &Path) -> Result<Self> {
        let paths = Self::in_directory(directory);
        let created = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
            .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"])
            // Otherwise openssl creates a CA certificate, which clients reject for a server.
            .args(["-addext", "basicConstraints=critical,CA:FALSE", "-days", "30", "-out"])
            .arg(&paths.certificate)
            .arg("-keyout")
            .arg(&paths.key)
            .stdin(Stdio::null())
            .output()
            .context("TLS requires openssl: install it, or run without TLS")?;
        let output = String::from_utf8_lossy(&created.stderr);
        ensure!(created.status.success(), "openssl cannot create a certificate: {}", output.trim_end());
        Ok(paths)
    }

    /// A client that trusts only this certificate and offers the ALPN `protocol`.
    ///
    /// # Errors
    /// If the certificate cannot be read.
    pub(crate) fn client(&self, protocol: &[u8]) -> Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&self.certificate).context("cannot read the certificate")?)?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        Ok(Arc::new(config))
    }
}
