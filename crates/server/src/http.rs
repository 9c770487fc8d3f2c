//! The routes, whatever the HTTP version:
//!
//! | request | answer |
//! |---|---|
//! | `GET /subscribe/<namespace>` | the namespace's stream |
//! | `GET /subscribe/<topic>,<topic>` | the streams of several topics as one |
//! | `GET /subscribe?topic=<topic>&topic=<topic>` | the same |
//! | `GET /subscribe/<namespace>?snapshot=1` | a namespace's stream, beginning with its totals |
//! | `HEAD /subscribe/<namespace>` | the head of that stream |
//! | `OPTIONS /subscribe/<namespace>` | 204, with what CORS allows (Fetch standard, §3.3.3) |
//! | any other method there | 405 |
//! | `GET /ws/...`, or any of these with `upgrade: websocket` | the same over WebSocket (RFC 6455) |
//! | any other path | the embedder's page or stream, or 404 |

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use http_body_util::Full;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE,
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER,
    SEC_WEBSOCKET_VERSION, UPGRADE, USER_AGENT, VARY, VIA,
};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode, Version};

use super::coding::{Coding, accepted};
use super::connection::Peer;
use super::limits::{Admission, Places, Refusal, retry_after};
use super::origins::{AllowedOrigin, may_open, restrict};
use super::pages::{Page, Pages, Reply, text_page};
use super::proxies::client;
use super::topics::topics;
use super::{Compression, Shared};
use crate::websocket::{Handshake, HandshakeError, Session, VERSION, framing, is_upgrade};
use tallycast_fanout::{ConnectionInfo, Framing, Handle, Inbound, SnapshotError, Topics};

/// Streams are below this path.
pub const PREFIX: &str = "/subscribe";
/// Below this path they are read over WebSocket only.
pub const WEBSOCKET_PREFIX: &str = "/ws";

const ALLOWED_METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, OPTIONS");
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
/// The bytes of a client's `user-agent` that are kept.
const MAX_USER_AGENT_BYTES: usize = 256;

/// What a request gets.
pub(super) enum Answer {
    /// A stream.
    Stream(Stream),
    /// A whole response.
    Page(Page),
}

/// A stream that a request gets.
pub(super) struct Stream {
    pub(super) gateway: Handle,
    pub(super) info: ConnectionInfo,
    /// Whether it begins with the totals.
    pub(super) snapshot: bool,
    pub(super) transport: Transport,
    /// Given back when it ends.
    pub(super) admission: Admission,
}

/// How a stream is sent.
pub(super) enum Transport {
    /// As Server-Sent Events in a coding.
    Events(Coding),
    /// Over WebSocket.
    WebSocket(Handshake, Places),
}

/// Decides what a request gets.
pub(super) async fn answer<P: Pages>(request: &Parts, peer: Peer, shared: &Shared<P>) -> Answer {
    let mut answer = find(request, peer, shared).await;
    if let Answer::Page(page) = &mut answer {
        restrict(page.headers_mut(), &request.headers, &shared.config.borrow().allowed_origins);
    }
    answer
}

async fn find<P: Pages>(request: &Parts, peer: Peer, shared: &Shared<P>) -> Answer {
    let target_bytes = request.uri.path_and_query().map_or(0, |target| target.as_str().len());
    if let Some(page) = too_long(target_bytes, shared.config.borrow().max_target_bytes) {
        return Answer::Page(page);
    }
    let path = request.uri.path();
    let below = |prefix| path.strip_prefix(prefix).filter(|rest: &&str| rest.is_empty() || rest.starts_with('/'));
    match (below(PREFIX), below(WEBSOCKET_PREFIX)) {
        (_, Some(_)) if matches!(request.method, Method::GET | Method::HEAD) && !is_upgrade(request) => {
            Answer::Page(upgrade_required(request.version))
        }
        (Some(rest), _) | (_, Some(rest)) => {
            subscription(request, rest, peer, shared).await.unwrap_or_else(Answer::Page)
        }
        _ => match shared.pages.respond(request).await {
            Some(Reply::Page(page)) => Answer::Page(page),
            Some(Reply::Stream { gateway, namespace }) => {
                let transport = Transport::Events(coding(request, peer, shared.config.borrow().compression));
                stream(request, gateway, namespace.into(), transport, peer, shared).unwrap_or_else(Answer::Page)
            }
            None => Answer::Page(not_found(path, &shared.pages.paths())),
        },
    }
}

/// The stream of the namespace `rest`, or the page that says why there is none.
async fn subscription<P: Pages>(request: &Parts, rest: &str, peer: Peer, shared: &Shared<P>) -> Result<Answer, Page> {
    if request.method == Method::OPTIONS {
        return Err(preflight());
    }
    if request.method != Method::GET && request.method != Method::HEAD {
        return Err(method_not_allowed(&request.method));
    }
    let bad_request = |text| text_page(StatusCode::BAD_REQUEST, text);
    let query = request.uri.query().unwrap_or_default();
    let topics = topics(rest, query).map_err(|error| bad_request(format!("{error}\n")))?;
    let snapshot = wants_snapshot(query).map_err(bad_request)?;
    if snapshot && request.method == Method::GET {
        let Some(namespace) = topics.as_namespace() else {
            let text = "snapshot=1 goes with one namespace, without wildcards\n".to_owned();
            return Err(bad_request(text));
        };
        shared.gateway.totals_known(namespace, shared.config().snapshot_limit).await.map_err(|error| match error {
            SnapshotError::NotKept(..) => bad_request(format!("{error}\n")),
            SnapshotError::NotKnown(_) => {
                let mut page = text_page(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n"));
                page.headers_mut().insert(RETRY_AFTER, HeaderValue::from(retry_after()));
                page
            }
        })?;
    }
    let handshake = if is_upgrade(request) { Some(shake_hands(request, shared)?) } else { None };
    let mut places = Places::new(Arc::clone(&shared.limits), shared.config.clone());
    if request.method == Method::GET {
        places.take(&topics).map_err(|refusal| refused(&refusal))?;
    }
    let (transport, places) = match handshake {
        Some(handshake) => (Transport::WebSocket(handshake, places), None),
        None => (Transport::Events(coding(request, peer, shared.config.borrow().compression)), Some(places)),
    };
    let mut answer = stream(request, shared.gateway.clone(), topics, transport, peer, shared)?;
    if let Answer::Stream(stream) = &mut answer {
        stream.snapshot = snapshot;
        if let Some(places) = places.filter(|places| !places.is_empty()) {
            stream.admission.add(places);
        }
    }
    Ok(answer)
}

/// Accepts the handshake of a WebSocket, or says why not.
#[expect(clippy::result_large_err, reason = "made once for a request")]
fn shake_hands<P>(request: &Parts, shared: &Shared<P>) -> Result<Handshake, Page> {
    if !may_open(&request.headers, &shared.config.borrow().allowed_origins) {
        shared.stats.refused_origin.add(1);
        return Err(text_page(StatusCode::FORBIDDEN, "pages of this origin may not open a WebSocket here\n"));
    }
    Handshake::accept(&request.headers).map_err(|error| {
        let status = match error {
            HandshakeError::Version => StatusCode::UPGRADE_REQUIRED,
            HandshakeError::Key => StatusCode::BAD_REQUEST,
        };
        let mut page = text_page(status, format!("{error}\n"));
        if error == HandshakeError::Version {
            page.headers_mut().extend(upgrade_headers());
        }
        page
    })
}

/// RFC 9110, §15.5.22, and RFC 6455, §4.4.
fn upgrade_headers() -> HeaderMap {
    HeaderMap::from_iter([
        (UPGRADE, HeaderValue::from_static("websocket")),
        (CONNECTION, HeaderValue::from_static("upgrade")),
        (SEC_WEBSOCKET_VERSION, VERSION),
    ])
}

fn upgrade_required(version: Version) -> Page {
    let text = format!("{WEBSOCKET_PREFIX} is for WebSocket, over HTTP/1.1; event streams are at {PREFIX}\n");
    let mut page = text_page(StatusCode::UPGRADE_REQUIRED, text);
    // RFC 9113, §8.2.2: HTTP/2 has neither.
    if version == Version::HTTP_11 {
        page.headers_mut().extend(upgrade_headers());
    }
    page
}

/// A stream for the client behind `peer`, or only its head for a request that wants no more, or why it gets none.
#[expect(clippy::result_large_err, reason = "made once for a request")]
fn stream<P>(
    request: &Parts,
    gateway: Handle,
    topics: Topics,
    transport: Transport,
    peer: Peer,
    shared: &Shared<P>,
) -> Result<Answer, Page> {
    let config = shared.config.borrow();
    if request.method == Method::HEAD {
        let mut page = Response::new(Full::default());
        if let Transport::Events(coding) = transport {
            *page.headers_mut() = stream_headers(request, coding, &config.allowed_origins);
        }
        return Err(page);
    }
    let (mut client_ip, mut admission) = (peer.address, Admission::default());
    if peer.is_proxy {
        client_ip = client(&request.headers, config.client_address, &config.trusted_proxies, peer.address);
        admission = shared.limits.admit(client_ip, &config).map_err(|refusal| refused(&refusal))?;
    }
    let info = connection_info(request, topics, client_ip);
    Ok(Answer::Stream(Stream { gateway, info, snapshot: false, transport, admission }))
}

/// What the engine needs for a WebSocket, whose client has sent `ahead` since the handshake.
pub(super) fn conversation<P>(
    handshake: &Handshake,
    places: Places,
    ahead: &[u8],
    shared: &Shared<P>,
) -> (Arc<dyn Framing>, Box<dyn Inbound>) {
    let (subprotocol, stats) = (handshake.subprotocol, Arc::clone(&shared.stats.websocket));
    let session = Session::new(&shared.config.borrow().websocket, subprotocol, ahead, Box::new(places), stats);
    (framing(subprotocol), Box::new(session))
}

/// The coding of a stream. gzip before zstd: every browser reads a gzip stream block by block.
fn coding(request: &Parts, peer: Peer, compression: Compression) -> Coding {
    let direct = !peer.is_proxy && !request.headers.contains_key(VIA);
    match compression {
        Compression::Always => accepted(&request.headers, [Coding::Gzip, Coding::Zstd]),
        Compression::Direct if direct => accepted(&request.headers, [Coding::Gzip, Coding::Zstd]),
        Compression::Direct | Compression::Off => Coding::Identity,
    }
}

fn refused(refusal: &Refusal) -> Page {
    let status = match refusal {
        Refusal::Address | Refusal::Rate => StatusCode::TOO_MANY_REQUESTS,
        Refusal::Namespace(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut page = text_page(status, format!("{refusal}\n"));
    page.headers_mut().insert(RETRY_AFTER, HeaderValue::from(retry_after()));
    page
}

/// Reads `snapshot=1` in a query, or `snapshot=0`. Other parameters are none of ours: proxies and caches add theirs.
fn wants_snapshot(query: &str) -> Result<bool, String> {
    let value = query.split('&').find_map(|parameter| parameter.strip_prefix("snapshot="));
    match value {
        None | Some("0") => Ok(false),
        Some("1") => Ok(true),
        Some(other) => Err(format!("bad query: snapshot={other}; expected snapshot=1 or snapshot=0\n")),
    }
}

fn connection_info(request: &Parts, topics: Topics, client_ip: IpAddr) -> ConnectionInfo {
    ConnectionInfo {
        request_path: request.uri.path().into(),
        topics,
        created_at: SystemTime::now(),
        client_ip,
        user_agent: user_agent(&request.headers),
    }
}

/// The headers of a stream, without those that only its framing needs.
pub(super) fn stream_headers(request: &Parts, coding: Coding, allowed: &[AllowedOrigin]) -> HeaderMap {
    let mut headers = HeaderMap::from_iter([
        (CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8")),
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")),
        // Asks nginx, and those who follow it, not to hold events back.
        (X_ACCEL_BUFFERING, HeaderValue::from_static("no")),
    ]);
    // RFC 9113, §8.2.2: HTTP/2 has no `connection`. HTTP/1.0 has no other way to end a body than to close.
    match request.version {
        Version::HTTP_11 => headers.insert(CONNECTION, HeaderValue::from_static("keep-alive")),
        Version::HTTP_10 => headers.insert(CONNECTION, HeaderValue::from_static("close")),
        _ => None,
    };
    if let Some(name) = coding.name() {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(name));
        headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    }
    restrict(&mut headers, &request.headers, allowed);
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

fn too_long(bytes: usize, limit: usize) -> Option<Page> {
    (bytes > limit).then(|| {
        text_page(StatusCode::URI_TOO_LONG, format!("the request's target has {bytes} bytes, the limit is {limit}\n"))
    })
}

fn not_found(path: &str, pages: &[&str]) -> Page {
    let mut text = format!("no such path: {path}; there are {PREFIX}/<namespace>, {WEBSOCKET_PREFIX}/<namespace>");
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
