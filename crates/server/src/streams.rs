//! Opening a stream: what is checked before the engine sends anything, and the response that carries a stream in its body.

use std::any::Any;
use std::sync::Arc;
use std::time::SystemTime;

#[cfg(feature = "websocket")]
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName,
    HeaderValue, ORIGIN, RETRY_AFTER, USER_AGENT, VARY, VIA, WWW_AUTHENTICATE,
};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode, Version};
#[cfg(feature = "websocket")]
use tallycast_fanout::Framing;
use tallycast_fanout::{ConnectionInfo, Grant, Handle, Rate, Resume, Sink, SnapshotError, Start, Subscriber, Topics};
use tokio::sync::watch;

use crate::access::{HostAccess, StreamAccess};
use crate::authorizer::{AuthorizeError, DynAuthorizer};
use crate::client::ClientAddress;
use crate::coding::{Coding, accepted};
use crate::event_stream::{EventFormat, EventStream, Notices};
use crate::limits::{LimitError, Limits, Permits, SubscriptionPermits, retry_after};
use crate::origins::{AllowedOrigin, restrict};
use crate::position::{insert_position, requested};
use crate::query::{ENVELOPE, NOTICES, SNAPSHOT, flag, max_rate};
use crate::response::{StreamBody, WholeResponse, text_response};
use crate::topic_budget::TopicPermit;
#[cfg(feature = "websocket")]
use crate::upgraded::UpgradedStream;
#[cfg(feature = "websocket")]
use crate::websocket::{Handshake, Subprotocol, handshake, is_upgrade, session};
use crate::{Compression, Config, Stats};

const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
/// The bytes of a client's `user-agent` that are kept.
const MAX_USER_AGENT_BYTES: usize = 256;

/// The streams of one engine, with their limits.
pub(crate) struct Streams {
    pub(crate) handle: Handle,
    pub(crate) config: watch::Receiver<Config>,
    pub(crate) authorizer: Option<Arc<dyn DynAuthorizer>>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) stats: Arc<Stats>,
}

/// A stream that passed all checks.
pub(crate) struct Stream {
    pub(crate) info: ConnectionInfo,
    /// Whether it starts with the totals.
    pub(crate) snapshot: bool,
    /// Where it starts in the history.
    pub(crate) resume: Option<Resume>,
    pub(crate) max_rate: Option<Rate>,
    pub(crate) grant: Option<Arc<Grant>>,
    pub(crate) transport: Transport,
    /// Released when it ends.
    pub(crate) permits: Permits,
    /// For the memory of its topics, also released when it ends. A WebSocket has its own, because its topics may change.
    pub(crate) topic_permit: Option<TopicPermit>,
}

/// How a stream is sent.
pub(crate) enum Transport {
    /// As Server-Sent Events.
    EventStream(EventFormat, Notices, Coding),
    #[cfg(feature = "websocket")]
    WebSocket(Handshake, Arc<dyn Framing>, Box<session::Session>),
}

impl Transport {
    /// The status of the response.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::EventStream(..) => StatusCode::OK,
            #[cfg(feature = "websocket")]
            Self::WebSocket(..) => StatusCode::SWITCHING_PROTOCOLS,
        }
    }
}

impl Streams {
    /// Checks everything that a stream of `topics` depends on. An error is the response to send instead of a stream; for a
    /// HEAD request that is the headers of the stream.
    pub(crate) async fn open(
        self: &Arc<Self>,
        request: &Parts,
        topics: Topics,
        client: ClientAddress,
        host: HostAccess,
    ) -> Result<Stream, WholeResponse> {
        let bad_request = |text| text_response(StatusCode::BAD_REQUEST, text);
        let query = request.uri.query().unwrap_or_default();
        let snapshot = flag(query, SNAPSHOT).map_err(bad_request)?;
        let envelope = flag(query, ENVELOPE).map_err(bad_request)?;
        let max_rate = max_rate(query).map_err(bad_request)?;
        let start = requested(request).map_err(bad_request)?;
        let notices = flag(query, NOTICES).map_err(bad_request)? || self.handle.has_history(&topics);
        let notices = if notices { Notices::Events } else { Notices::Comments };
        #[cfg(feature = "websocket")]
        let is_upgrade = is_upgrade(request);
        #[cfg(not(feature = "websocket"))]
        let is_upgrade = false;
        let access = StreamAccess::decide(request, &topics, client.ip, host, self).await;
        let access = access.map_err(|error| not_authorized(&error))?;
        let keeps_totals = || topics.as_namespace().is_some_and(|namespace| self.handle.keeps_totals(&namespace));
        let last_values = snapshot && !keeps_totals() && self.handle.has_last_values(&topics);
        let snapshot = snapshot && !last_values;
        let mut resume = None;
        if request.method == Method::GET {
            if snapshot {
                self.totals_known(&topics).await?;
            }
            let start = start.or(last_values.then_some(Start::LastValues));
            resume = self.resume(request, &topics, access.grant.as_deref(), start, is_upgrade).await?;
        }
        #[cfg(feature = "websocket")]
        let handshake = match is_upgrade {
            true => Some(handshake::accept(request, envelope, notices, self)?),
            false => None,
        };
        #[cfg(feature = "websocket")]
        if resume.is_some()
            && handshake.as_ref().is_some_and(|(handshake, _)| handshake.subprotocol == Subprotocol::Raw)
        {
            return Err(bad_request("the subprotocol raw has no positions; use json\n".to_owned()));
        }
        let mut subscription = SubscriptionPermits::new(
            Arc::clone(&self.limits),
            self.config.clone(),
            client.ip,
            request.uri.path().len(),
        );
        if request.method == Method::GET {
            subscription.acquire(&topics).map_err(|error| over_limit(&error))?;
        }
        let config = self.config.borrow();
        let coding = coding(request, client.behind_proxy, config.compression);
        if request.method == Method::HEAD {
            let mut response = Response::new(Full::default());
            *response.headers_mut() = stream_headers(request, coding, &config.allowed_origins);
            return Err(response);
        }
        let mut permits = Permits::default();
        if client.limited {
            permits = self.limits.admit(client.ip, &config).map_err(|error| over_limit(&error))?;
        }
        let grant = access.grant.clone();
        let info = ConnectionInfo {
            request_path: request.uri.path().into(),
            topics,
            created_at: SystemTime::now(),
            client_ip: client.ip,
            user_agent: user_agent(&request.headers),
        };
        #[cfg(feature = "websocket")]
        if let Some((handshake, framing)) = handshake {
            let policy = access.into_policy(request, client.ip, subscription, self);
            let (subprotocol, stats) = (handshake.subprotocol, Arc::clone(&self.stats.websocket));
            let session = session::Session::with_policy(&config, subprotocol, policy, self.handle.clone(), stats);
            let transport = Transport::WebSocket(handshake, framing, Box::new(session));
            return Ok(Stream { info, snapshot, resume, max_rate, grant, transport, permits, topic_permit: None });
        }
        let topic_permit = Some(subscription.into_fixed(&mut permits));
        let format = if envelope { EventFormat::Envelope } else { EventFormat::Fields };
        let transport = Transport::EventStream(format, notices, coding);
        Ok(Stream { info, snapshot, resume, max_rate, grant, transport, permits, topic_permit })
    }

    /// Waits until a snapshot of the totals of `topics` is available.
    async fn totals_known(&self, topics: &Topics) -> Result<(), WholeResponse> {
        let bad_request = |text: String| text_response(StatusCode::BAD_REQUEST, text);
        let Some(namespace) = topics.as_namespace() else {
            return Err(bad_request("snapshot=1 requires exactly one namespace, without wildcards\n".to_owned()));
        };
        let limit = self.config.borrow().snapshot_limit;
        self.handle.totals_known(&namespace, limit).await.map_err(|error| match error {
            SnapshotError::NotKept(..) => bad_request(format!("{error}\n")),
            SnapshotError::NotKnown(_) | SnapshotError::Unavailable(..) => {
                try_again(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n"))
            }
        })
    }

    /// The response to `request` that carries `stream`: in its body, or after an upgrade to WebSocket. `snapshot_guard` is dropped
    /// when nothing holds the bytes of the snapshot any more.
    pub(crate) async fn respond(
        &self,
        stream: Stream,
        request: Parts,
        snapshot_guard: Option<Box<dyn Any + Send + Sync>>,
    ) -> Response<StreamBody> {
        let Stream { info, snapshot, resume, max_rate, grant, transport, permits, topic_permit } = stream;
        let position = resume.as_ref().map(|resume| resume.position().to_owned());
        match transport {
            Transport::EventStream(format, notices, coding) => {
                let (sender, body) = tallycast_fanout::body();
                let framing = EventStream::shared(format, notices, coding, false);
                let preamble = framing.preamble(&self.config.borrow());
                let mut subscriber = Subscriber::new(info, framing, Sink::Body(sender));
                subscriber.preamble = preamble;
                subscriber.snapshot = snapshot;
                subscriber.resume = resume;
                subscriber.max_rate = max_rate;
                subscriber.grant = grant;
                subscriber.guard = Some(Box::new(topic_permit));
                subscriber.snapshot_guard = snapshot_guard;
                if let Err(error) = self.handle.subscribe(subscriber).await {
                    let response = text_response(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n"));
                    return response.map(StreamBody::whole);
                }
                let mut response = Response::new(StreamBody::stream(body, permits));
                *response.headers_mut() = stream_headers(&request, coding, &self.config.borrow().allowed_origins);
                if let Some(position) = position {
                    insert_position(response.headers_mut(), &position);
                }
                response
            }
            #[cfg(feature = "websocket")]
            Transport::WebSocket(handshake, framing, session) => {
                let upgrade = { request }.extensions.remove::<hyper::upgrade::OnUpgrade>();
                let (handle, limit) = (self.handle.clone(), self.config.borrow().head_timeout);
                tokio::spawn(async move {
                    let Some(upgrade) = upgrade else {
                        tracing::warn!(client = %info.client_ip, "the HTTP server has no upgrades; WebSocket is not possible");
                        return;
                    };
                    let Ok(Ok(upgraded)) = tokio::time::timeout(limit, upgrade).await else { return };
                    let sink = Sink::Stream(Box::new(UpgradedStream::from(upgraded)));
                    let mut subscriber = Subscriber::new(info, framing, sink);
                    subscriber.snapshot = snapshot;
                    subscriber.resume = resume;
                    subscriber.max_rate = max_rate;
                    subscriber.grant = grant;
                    subscriber.inbound = Some(session);
                    subscriber.guard = Some(Box::new(permits));
                    // An engine that has ended drops the connection.
                    let _ = handle.subscribe(subscriber).await;
                });
                let mut response = Response::new(StreamBody::whole(Full::<Bytes>::default()));
                *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                *response.headers_mut() = handshake.headers();
                response
            }
        }
    }
}

/// The coding of a stream. gzip before zstd: every browser reads a gzip stream block by block.
fn coding(request: &Parts, behind_proxy: bool, compression: Compression) -> Coding {
    let direct = !behind_proxy && !request.headers.contains_key(VIA);
    match compression {
        Compression::Always => accepted(&request.headers, Coding::FOR_STREAMS),
        Compression::Direct if direct => accepted(&request.headers, Coding::FOR_STREAMS),
        Compression::Direct | Compression::Off => Coding::Identity,
    }
}

/// The response to a request over a limit.
pub(crate) fn over_limit(error: &LimitError) -> WholeResponse {
    try_again(error.status(), format!("{error}\n"))
}

/// A response that asks the client to try again in a moment.
pub(crate) fn try_again(status: StatusCode, text: String) -> WholeResponse {
    let mut response = text_response(status, text);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(retry_after()));
    response
}

fn not_authorized(error: &AuthorizeError) -> WholeResponse {
    let text = format!("{error}\n");
    match error {
        AuthorizeError::Denied(denied) => {
            let mut response = text_response(denied.status(), text);
            if let Some(challenge) = denied.challenge() {
                response.headers_mut().insert(WWW_AUTHENTICATE, challenge.clone());
            }
            response
        }
        AuthorizeError::TimedOut => try_again(StatusCode::SERVICE_UNAVAILABLE, text),
    }
}

/// The headers of an event stream, without those that only its framing needs.
pub(crate) fn stream_headers(request: &Parts, coding: Coding, allowed: &[AllowedOrigin]) -> HeaderMap {
    let mut headers = HeaderMap::from_iter([
        (CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8")),
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")),
        // Asks nginx, and proxies that follow it, not to buffer events.
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
    restrict(&mut headers, request.headers.get(ORIGIN), allowed);
    headers
}

fn user_agent(headers: &HeaderMap) -> Box<str> {
    let bytes = headers.get(USER_AGENT).map_or(&b""[..], HeaderValue::as_bytes);
    String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_USER_AGENT_BYTES)]).into()
}
