//! Requests to the server, over HTTP/1.1, with or without TLS.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{HOST, RETRY_AFTER};
use hyper::http::uri::{Authority, Scheme};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{ClientError, ServerOptions};

/// Time to connect, TLS included; time for an answer to begin, and for all of it.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
const ANSWER_LIMIT: Duration = Duration::from_secs(40);
/// The size of an answer that is read to its end, in bytes.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// Where a server is, such as `http://localhost:8001`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerUrl {
    is_tls: bool,
    authority: Authority,
}

/// The text is not a [`ServerUrl`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a URL without path and password, such as http://localhost:8001 or https://example.org")]
pub struct UrlError;

impl FromStr for ServerUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let uri: Uri = text.parse().map_err(|_| UrlError)?;
        let scheme = uri.scheme().ok_or(UrlError)?;
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or(UrlError)?;
        let is_tls = *scheme == Scheme::HTTPS;
        let is_known = is_tls || *scheme == Scheme::HTTP;
        if !is_known || uri.path() != "/" || uri.query().is_some() {
            return Err(UrlError);
        }
        Ok(Self { is_tls, authority: authority.clone() })
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}://{}", if self.is_tls { "https" } else { "http" }, self.authority)
    }
}

/// What became of a request.
pub(super) enum Answer {
    /// The body of a response with status 200.
    Ok(String),
    /// The client may try again.
    TryAgain(String, Option<Duration>),
    /// The line of a response with another status.
    Refused(String),
}

/// Sends a request and reads the answer to its end. `path` includes the query.
pub(super) async fn ask(
    server: &ServerOptions,
    path: &str,
    headers: &[(&str, &str)],
    body: String,
) -> Result<Answer, ClientError> {
    let again = |error: ClientError| match error {
        ClientError::Unavailable(reason) => Ok(Answer::TryAgain(reason, None)),
        error => Err(error),
    };
    let response = match open(server, "POST", path, headers, body).await {
        Ok(response) => response,
        Err(error) => return again(error),
    };
    let (head, body) = response.into_parts();
    let text = match timeout(ANSWER_LIMIT, Limited::new(body, MAX_ANSWER_BYTES).collect()).await {
        Ok(Ok(body)) => String::from_utf8_lossy(&body.to_bytes()).into_owned(),
        Ok(Err(error)) => {
            return Ok(Answer::TryAgain(format!("the answer of {} broke off: {error}", server.url), None));
        }
        Err(_) => return Ok(Answer::TryAgain(format!("the answer of {} took too long", server.url), None)),
    };
    let line = text.lines().next().unwrap_or_default().to_owned();
    let pause = head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    Ok(match head.status {
        StatusCode::OK => Answer::Ok(text),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            Answer::TryAgain(line, pause.map(Duration::from_secs))
        }
        status => {
            Answer::Refused(if line.is_empty() { format!("{} answered with {status}", server.url) } else { line })
        }
    })
}

/// Sends a request on a connection of its own, and waits for the head of the response.
pub(super) async fn open(
    server: &ServerOptions,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: String,
) -> Result<Response<Incoming>, ClientError> {
    let url = &server.url;
    let unavailable = |error: &dyn fmt::Display| ClientError::Unavailable(format!("cannot reach {url}: {error}"));
    let port = url.authority.port_u16().unwrap_or(if url.is_tls { 443 } else { 80 });
    let host = url.authority.host().trim_matches(['[', ']']).to_owned();
    let connect = async {
        let stream = TcpStream::connect((host.as_str(), port)).await?;
        stream.set_nodelay(true)?;
        let stream: Box<dyn Io> = if url.is_tls {
            let name = ServerName::try_from(host.clone()).map_err(std::io::Error::other)?;
            let config = tls(server.insecure).map_err(std::io::Error::other)?;
            Box::new(TlsConnector::from(Arc::new(config)).connect(name, stream).await?)
        } else {
            Box::new(stream)
        };
        std::io::Result::Ok(stream)
    };
    let stream = match timeout(CONNECT_LIMIT, connect).await {
        Ok(stream) => stream.map_err(|error| unavailable(&error))?,
        Err(_) => return Err(unavailable(&"no answer in time")),
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| unavailable(&error))?;
    // Ends with the connection, whose errors the request reports.
    tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(path).header(HOST, url.authority.as_str());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::<Bytes>::from(body)).map_err(|error| ClientError::Refused(error.to_string()))?;
    match timeout(ANSWER_LIMIT, sender.send_request(request)).await {
        Ok(response) => response.map_err(|error| unavailable(&error)),
        Err(_) => Err(unavailable(&"no answer in time")),
    }
}

/// A path with everything percent-encoded that has a meaning in a URL.
pub(super) fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'/') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// A connection.
trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// Trusts the certificates that the system trusts, or any.
fn tls(insecure: bool) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    if insecure {
        let verifier = Arc::new(AcceptAny(provider));
        return Ok(config.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth());
    }
    let mut roots = RootCertStore::empty();
    // Certificates that cannot be read are not trusted.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_have_a_host_and_nothing_else() {
        for url in ["http://localhost:8001", "https://example.org", "http://[::1]:1", "http://localhost"] {
            assert_eq!(url.parse::<ServerUrl>().unwrap().to_string(), url);
        }
        assert!("http://localhost/".parse::<ServerUrl>().is_ok());
        for url in ["", "localhost:8001", "ftp://a", "http://a/b", "http://a?b", "http://user:word@a", "/a"] {
            assert_eq!(url.parse::<ServerUrl>(), Err(UrlError), "{url}");
        }
    }

    #[test]
    fn paths_are_encoded() {
        assert_eq!(encoded("/a b/ü,?"), "/a%20b/%C3%BC%2C%3F");
    }
}
