//! The paths of a server, whatever the HTTP version: those of streams, and the fallback for all others. The table is in the
//! crate's documentation.

use std::borrow::Cow;

use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE,
    ALLOW, HOST, HeaderMap, HeaderValue, ORIGIN,
};
use hyper::http::request::Parts;
use hyper::http::uri::Authority;
use hyper::{Method, Request, Response, StatusCode, Version};

use crate::Config;
use crate::access::HostAccess;
use crate::client::ClientAddress;
use crate::connection::Peer;
use crate::limits::LimitError;
use crate::origins::{AllowedOrigin, restrict};
use crate::response::{ResponseBody, WholeResponse, boxed, text_response};
use crate::server::Shared;
use crate::streams::{Stream, Streams, over_limit};
use crate::topics::topics;
#[cfg(feature = "websocket")]
use crate::websocket::{handshake::upgrade_required, is_upgrade};

const ALLOWED_METHODS: &str = "GET, HEAD, OPTIONS";
/// The headers that pages of other origins may send where streams are open to everyone.
const CLIENT_HEADERS: &str = "accept, cache-control, last-event-id";
/// The same where clients may have credentials, and for contracts.
pub(crate) const ANY_CLIENT_HEADERS: &str = "accept, authorization, cache-control, content-type, last-event-id";

/// How a request is answered.
pub(crate) enum Answer {
    /// By a stream.
    Stream(Box<Stream>),
    /// By the server itself.
    Whole(WholeResponse),
    /// By the fallback, which may read the request's body.
    Fallback,
}

impl From<Result<Stream, WholeResponse>> for Answer {
    fn from(opened: Result<Stream, WholeResponse>) -> Self {
        match opened {
            Ok(stream) => Self::Stream(Box::new(stream)),
            Err(response) => Self::Whole(response),
        }
    }
}

/// Decides how a request of `client`, which came from `peer`, is answered.
pub(crate) async fn answer(request: &Parts, client: ClientAddress, peer: Peer, shared: &Shared) -> Answer {
    let mut answer = match peer.is_over_limit {
        true => find_reserved(request, shared),
        false => find(request, client, shared).await,
    };
    if let Answer::Whole(response) = &mut answer {
        let config = shared.streams.config.borrow();
        restrict(response.headers_mut(), request.headers.get(ORIGIN), &config.allowed_origins);
    }
    answer
}

async fn find(request: &Parts, client: ClientAddress, shared: &Shared) -> Answer {
    if !is_host_valid(request) {
        return Answer::Whole(text_response(StatusCode::BAD_REQUEST, "expected one valid host header\n"));
    }
    let target_bytes = request.uri.path_and_query().map_or(0, |target| target.as_str().len());
    if let Some(response) = too_long(target_bytes, shared.streams.config.borrow().max_target_bytes) {
        return Answer::Whole(response);
    }
    if let Some(contract) = shared.contracts.iter().find(|contract| contract.matches(request)) {
        return match other_method(&request.method, contract.allowed_methods(), ANY_CLIENT_HEADERS) {
            Some(response) => Answer::Whole(response),
            None => shared.streams.open_contract(contract, request, client).await.into(),
        };
    }
    let (prefix, rest, max_topics) = {
        let config = shared.streams.config.borrow();
        match route(request, &config) {
            Route::Stream { prefix, rest } => (prefix.to_owned(), rest, config.max_topics),
            #[cfg(feature = "websocket")]
            Route::UpgradeRequired => return Answer::Whole(upgrade_required(request.version, &config)),
            Route::Fallback => return Answer::Fallback,
        }
    };
    if let Some(response) = shared.streams.other_method(&request.method) {
        return Answer::Whole(response);
    }
    let topics = match topics(&prefix, rest, request.uri.query().unwrap_or_default(), max_topics) {
        Ok(topics) => topics,
        Err(error) => return Answer::Whole(text_response(StatusCode::BAD_REQUEST, format!("{error}\n"))),
    };
    shared.streams.open(request, topics, client, HostAccess::default()).await.into()
}

/// The answer on a connection over the limit.
fn find_reserved(request: &Parts, shared: &Shared) -> Answer {
    let path = request.uri.path();
    let is_reserved = |reserved: &Cow<'_, str>| below(path, reserved).is_some();
    if shared.streams.config.borrow().reserved_paths.iter().any(is_reserved) {
        return Answer::Fallback;
    }
    shared.stats().refused.add(1);
    Answer::Whole(over_limit(&LimitError::Connections))
}

enum Route<'p, 'c> {
    /// `rest` is the path after the prefix.
    Stream {
        prefix: &'c str,
        rest: &'p str,
    },
    #[cfg(feature = "websocket")]
    UpgradeRequired,
    Fallback,
}

fn route<'p, 'c>(request: &'p Parts, config: &'c Config) -> Route<'p, 'c> {
    let path = request.uri.path();
    #[cfg(feature = "websocket")]
    if let Some(rest) = below(path, &config.websocket_prefix) {
        if matches!(request.method, Method::GET | Method::HEAD) && !is_upgrade(request) {
            return Route::UpgradeRequired;
        }
        return Route::Stream { prefix: trim(&config.websocket_prefix), rest };
    }
    match below(path, &config.prefix) {
        Some(rest) => Route::Stream { prefix: trim(&config.prefix), rest },
        None => Route::Fallback,
    }
}

/// The part of `path` after `prefix`.
fn below<'a>(path: &'a str, prefix: &str) -> Option<&'a str> {
    path.strip_prefix(trim(prefix)).filter(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A prefix without the slash at its end.
pub(crate) fn trim(prefix: &str) -> &str {
    prefix.strip_suffix('/').unwrap_or(prefix)
}

/// The fallback's response to a request of `client`.
pub(crate) async fn fallback(
    mut request: Request<Incoming>,
    client: ClientAddress,
    shared: &Shared,
) -> Response<ResponseBody> {
    let origin = request.headers().get(ORIGIN).cloned();
    let mut response = match &shared.fallback {
        Some(fallback) => {
            request.extensions_mut().insert(client);
            fallback.call(request).await
        }
        None => boxed(not_found(request.uri().path(), &shared.streams.config.borrow())),
    };
    let config = shared.streams.config.borrow();
    restrict(response.headers_mut(), origin.as_ref(), &config.allowed_origins);
    response
}

impl Streams {
    /// The response to a request for a native stream with a method that does not read one.
    pub(crate) fn other_method(&self, method: &Method) -> Option<WholeResponse> {
        let has_credentials =
            self.authorizer.is_some() || !self.config.borrow().allowed_origins.contains(&AllowedOrigin::ANY);
        let headers = if has_credentials { ANY_CLIENT_HEADERS } else { CLIENT_HEADERS };
        other_method(method, ALLOWED_METHODS, headers)
    }
}

/// The response to a request for a stream with a method that does not read one: what CORS allows (Fetch standard, §3.3.3), that is
/// `methods` with `headers`; or 405.
pub(crate) fn other_method(method: &Method, methods: &'static str, headers: &'static str) -> Option<WholeResponse> {
    match *method {
        Method::GET | Method::HEAD => None,
        Method::OPTIONS => Some(preflight(methods, headers)),
        _ => Some(method_not_allowed(method, methods)),
    }
}

fn preflight(methods: &'static str, headers: &'static str) -> WholeResponse {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let methods = HeaderValue::from_static(methods);
    *response.headers_mut() = HeaderMap::from_iter([
        (ALLOW, methods.clone()),
        (ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")),
        (ACCESS_CONTROL_ALLOW_METHODS, methods),
        (ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(headers)),
        (ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400")),
    ]);
    response
}

fn method_not_allowed(method: &Method, methods: &'static str) -> WholeResponse {
    let text = format!("{method} is not allowed for streams; use GET\n");
    let mut response = text_response(StatusCode::METHOD_NOT_ALLOWED, text);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    response
}

/// RFC 9112, §3.2: an HTTP/1.1 request has one `host`, and an HTTP/1.0 request at most one. HTTP/2 has `:authority`.
fn is_host_valid(request: &Parts) -> bool {
    let mut hosts = request.headers.get_all(HOST).iter();
    match (request.version, hosts.next(), hosts.next()) {
        (Version::HTTP_2, ..) | (Version::HTTP_10, None, None) => true,
        // Empty where the target has no authority.
        (_, Some(host), None) => {
            host.is_empty() || (!host.as_bytes().contains(&b'@') && Authority::try_from(host.as_bytes()).is_ok())
        }
        _ => false,
    }
}

fn too_long(bytes: usize, limit: usize) -> Option<WholeResponse> {
    (bytes > limit).then(|| {
        text_response(StatusCode::URI_TOO_LONG, format!("the request target has {bytes} bytes; the limit is {limit}\n"))
    })
}

fn not_found(path: &str, config: &Config) -> WholeResponse {
    let mut text = format!("no such path: {path}; there are {}/<namespace>", trim(&config.prefix));
    if cfg!(feature = "websocket") {
        text.push_str(&format!(", {}/<namespace>", trim(&config.websocket_prefix)));
    }
    text.push('\n');
    text_response(StatusCode::NOT_FOUND, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routed(path: &str, config: &Config) -> Option<(String, String)> {
        let (request, ()) = Request::get(path).body(()).unwrap().into_parts();
        match route(&request, config) {
            Route::Stream { prefix, rest } => Some((prefix.to_owned(), rest.to_owned())),
            #[cfg(feature = "websocket")]
            Route::UpgradeRequired => None,
            Route::Fallback => None,
        }
    }

    #[test]
    fn prefix_matches_whole_segments() {
        let config = Config::default();
        let stream = |rest: &str| Some(("/subscribe".to_owned(), rest.to_owned()));
        assert_eq!(routed("/subscribe", &config), stream(""));
        assert_eq!(routed("/subscribe/a/b", &config), stream("/a/b"));
        assert_eq!(routed("/subscribed", &config), None);
        assert_eq!(routed("/", &config), None);
    }

    #[test]
    fn prefix_may_have_slash_at_end_or_be_root() {
        let config = Config { prefix: "/events/".into(), ..Config::default() };
        assert_eq!(routed("/events/a", &config), Some(("/events".to_owned(), "/a".to_owned())));
        assert_eq!(routed("/subscribe/a", &config), None);
        let config = Config { prefix: "/".into(), ..Config::default() };
        assert_eq!(routed("/a", &config), Some((String::new(), "/a".to_owned())));
        assert_eq!(routed("/ws/a", &config).is_some(), cfg!(not(feature = "websocket")));
    }
}
