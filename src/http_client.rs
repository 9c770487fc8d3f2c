//! HTTP/1.1 requests to other servers, with or without TLS, on a connection of their own or on kept ones.

pub(crate) mod pool;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue};
use hyper::http::uri::Authority;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// Time to connect, TLS included.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Time for an answer to begin.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_secs(40);

/// Why there is no answer, in a few words.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Which certificates a client accepts.
pub(crate) enum Trust<'a> {
    /// Those that the system trusts.
    System,
    /// Those of the authorities in this PEM text.
    Authorities(&'a [u8]),
    /// Any.
    Any,
}

/// Who a client is: PEM texts.
pub(crate) struct Identity<'a> {
    /// Its certificate, and those up to an authority that the server trusts.
    pub(crate) chain: &'a [u8],
    /// The key of the certificate.
    pub(crate) key: &'a [u8],
}

/// Sends a request on a connection of its own, and waits for the head of the response. Without `tls`, in plain text.
pub(crate) async fn send(
    authority: &Authority,
    tls: Option<Arc<ClientConfig>>,
    mut request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, Failure> {
    let stream = connect(authority, tls).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the connection, whose errors the request reports.
    tokio::spawn(connection);
    request.headers_mut().insert(HOST, HeaderValue::from_str(authority.as_str())?);
    Ok(timeout(ANSWER_LIMIT, sender.send_request(request)).await.map_err(|_| "no answer in time")??)
}

/// Opens a connection. Without `tls`, in plain text.
async fn connect(authority: &Authority, tls: Option<Arc<ClientConfig>>) -> Result<Box<dyn Io>, Failure> {
    let port = authority.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
    let host = authority.host().trim_matches(['[', ']']).to_owned();
    let connect = async {
        let stream = TcpStream::connect((host.as_str(), port)).await?;
        stream.set_nodelay(true)?;
        let stream: Box<dyn Io> = match tls {
            Some(config) => {
                let name = ServerName::try_from(host.clone()).map_err(std::io::Error::other)?;
                Box::new(TlsConnector::from(config).connect(name, stream).await?)
            }
            None => Box::new(stream),
        };
        std::io::Result::Ok(stream)
    };
    Ok(timeout(CONNECT_LIMIT, connect).await.map_err(|_| "no answer in time")??)
}

/// A configuration that trusts these certificates.
pub(crate) fn tls(trust: &Trust<'_>) -> Result<Arc<ClientConfig>, Failure> {
    client_config(trust, None)
}

/// A configuration that trusts these certificates, of a client that the server may ask who it is.
pub(crate) fn client_config(trust: &Trust<'_>, identity: Option<Identity<'_>>) -> Result<Arc<ClientConfig>, Failure> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let mut roots = RootCertStore::empty();
    let config = match trust {
        Trust::Any => {
            let verifier = Arc::new(AcceptAny(provider));
            config.dangerous().with_custom_certificate_verifier(verifier)
        }
        // Certificates that cannot be read are not trusted.
        Trust::System => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            config.with_root_certificates(roots)
        }
        Trust::Authorities(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem) {
                roots.add(certificate?)?;
            }
            if roots.is_empty() {
                return Err("expected at least one certificate in PEM".into());
            }
            config.with_root_certificates(roots)
        }
    };
    Ok(Arc::new(match identity {
        None => config.with_no_client_auth(),
        Some(Identity { chain, key }) => {
            let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<_, _>>()?;
            config.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key)?)?
        }
    }))
}

/// A connection.
pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// Accepts any certificate, whose key the server must have.
#[derive(Debug)]
struct AcceptAny(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
