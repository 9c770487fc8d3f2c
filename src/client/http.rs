//! Requests to the server, over HTTP/1.1, with or without TLS.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::RETRY_AFTER;
use hyper::http::uri::{Authority, Scheme};
use hyper::{Request, Response, StatusCode, Uri};
use tokio::time::timeout;

use super::{ClientError, ServerOptions};
use crate::http_client::{self, ANSWER_LIMIT, Failure, Trust};

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
    let unavailable = |error: Failure| ClientError::Unavailable(format!("cannot reach {url}: {error}"));
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::<Bytes>::from(body)).map_err(|error| ClientError::Refused(error.to_string()))?;
    let trust = if server.insecure { Trust::Any } else { Trust::System };
    let tls = url.is_tls.then(|| http_client::tls(&trust)).transpose().map_err(unavailable)?;
    http_client::send(&url.authority, tls, request).await.map_err(unavailable)
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
