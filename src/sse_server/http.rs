//! The routes, whatever the HTTP version:
//!
//! | request | answer |
//! |---|---|
//! | `GET /subscribe/<namespace>` | the namespace's stream |
//! | `HEAD /subscribe/<namespace>` | the head of that stream |
//! | `OPTIONS /subscribe/<namespace>` | 204, with what CORS allows (Fetch standard, §3.3.3) |
//! | any other method there | 405 |
//! | any other path | the embedder's page, or 404 |

use std::net::IpAddr;
use std::time::SystemTime;

use http_body_util::Full;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE,
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT,
};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode, Version};

use super::pages::{Page, Pages, text_page};
use super::{Config, Shared};
use crate::fanout::{ConnectionInfo, Namespace};

/// Streams are below this path.
pub const PREFIX: &str = "/subscribe";

const ALLOWED_METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, OPTIONS");
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
/// The bytes of a client's `user-agent` that are kept.
const MAX_USER_AGENT_BYTES: usize = 256;

/// What a request gets.
pub(super) enum Answer {
    /// A stream.
    Stream(ConnectionInfo),
    /// A whole response.
    Page(Page),
}

/// Decides what a request gets.
pub(super) async fn answer<P: Pages>(request: &Parts, client_ip: IpAddr, shared: &Shared<P>) -> Answer {
    let target_bytes = request.uri.path_and_query().map_or(0, |target| target.as_str().len());
    if let Some(page) = too_long(target_bytes, &shared.config) {
        return Answer::Page(page);
    }
    let path = request.uri.path();
    match path.strip_prefix(PREFIX) {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => subscription(request, rest, client_ip),
        _ => Answer::Page(match shared.pages.respond(request).await {
            Some(page) => page,
            None => not_found(path, shared.pages.paths()),
        }),
    }
}

fn subscription(request: &Parts, rest: &str, client_ip: IpAddr) -> Answer {
    if request.method == Method::OPTIONS {
        return Answer::Page(preflight());
    }
    if request.method != Method::GET && request.method != Method::HEAD {
        return Answer::Page(method_not_allowed(&request.method));
    }
    let namespace = match Namespace::from_url_path(if rest.is_empty() { "/" } else { rest }) {
        Ok(namespace) => namespace,
        Err(error) => {
            return Answer::Page(text_page(StatusCode::BAD_REQUEST, format!("bad path after {PREFIX}: {error}\n")));
        }
    };
    if request.method == Method::HEAD {
        let mut page = Response::new(Full::default());
        *page.headers_mut() = stream_headers(request.version);
        return Answer::Page(page);
    }
    Answer::Stream(ConnectionInfo {
        request_path: request.uri.path().into(),
        namespace,
        created_at: SystemTime::now(),
        client_ip,
        user_agent: user_agent(&request.headers),
    })
}

/// The headers of a stream, without those that only its framing needs.
pub(super) fn stream_headers(version: Version) -> HeaderMap {
    let mut headers = HeaderMap::from_iter([
        (CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8")),
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")),
        // Asks nginx, and those who follow it, not to hold events back.
        (X_ACCEL_BUFFERING, HeaderValue::from_static("no")),
    ]);
    // RFC 9113, §8.2.2: HTTP/2 has no `connection`. HTTP/1.0 has no other way to end a body than to close.
    match version {
        Version::HTTP_11 => headers.insert(CONNECTION, HeaderValue::from_static("keep-alive")),
        Version::HTTP_10 => headers.insert(CONNECTION, HeaderValue::from_static("close")),
        _ => None,
    };
    headers
}

fn preflight() -> Page {
    let mut page = Response::new(Full::default());
    *page.status_mut() = StatusCode::NO_CONTENT;
    *page.headers_mut() = HeaderMap::from_iter([
        (ALLOW, ALLOWED_METHODS),
        (ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")),
        (ACCESS_CONTROL_ALLOW_METHODS, ALLOWED_METHODS),
        (ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("accept, cache-control, last-event-id")),
        (ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400")),
    ]);
    page
}

fn method_not_allowed(method: &Method) -> Page {
    let text = format!("{method} is not allowed here; a stream is read with GET\n");
    let mut page = text_page(StatusCode::METHOD_NOT_ALLOWED, text);
    page.headers_mut().insert(ALLOW, ALLOWED_METHODS);
    page
}

fn too_long(bytes: usize, config: &Config) -> Option<Page> {
    let limit = config.max_target_bytes;
    (bytes > limit).then(|| {
        text_page(StatusCode::URI_TOO_LONG, format!("the request's target has {bytes} bytes, the limit is {limit}\n"))
    })
}

fn not_found(path: &str, pages: &[&str]) -> Page {
    let mut text = format!("no such path: {path}; there are {PREFIX}/<namespace>");
    for page in pages {
        text.push_str(", ");
        text.push_str(page);
    }
    text.push('\n');
    text_page(StatusCode::NOT_FOUND, text)
}

fn user_agent(headers: &HeaderMap) -> Box<str> {
    let bytes = headers.get(USER_AGENT).map_or(&b""[..], HeaderValue::as_bytes);
    String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_USER_AGENT_BYTES)]).into()
}
