//! Opening a stream: what is checked before the engine sends anything, and the response that carries a stream in its body.

use std::any::Any;
use std::sync::Arc;
use std::time::SystemTime;

#[cfg(feature = "websocket")]
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT, VIA, WWW_AUTHENTICATE};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};
#[cfg(feature = "websocket")]
use tallycast_fanout::Inbound;
use tallycast_fanout::{
    ConnectionInfo, Framing, Grant, Handle, Rate, Resume, Sink, SnapshotError, Start, StreamWatch, Subscriber,
    TopicError, Topics,
};
use tokio::sync::watch;

use crate::access::{HostAccess, StreamAccess};
use crate::authorizer::{AuthorizeError, DynAuthorizer, check};
use crate::client::ClientAddress;
use crate::coding::{Coding, accepted};
use crate::contract::{ContractStream, RegisteredContract};
use crate::event_response::{ContractFormat, EventResponse};
use crate::event_stream::{EventFormat, Notices};
use crate::limits::{LimitError, Limits, Permits, SubscriptionPermits, retry_after};
use crate::observer::{StreamObserver, guarded};
use crate::position::requested;
use crate::query::{ENVELOPE, MAX_RATE, NOTICES, RELAY, SNAPSHOT, flag, max_rate};
use crate::relay::RELAY_INSTANCE;
#[cfg(feature = "websocket")]
use crate::relay::websocket_framing;
use crate::response::{StreamBody, WholeResponse, text_response};
use crate::topic_budget::TopicPermit;
#[cfg(feature = "websocket")]
use crate::upgraded::UpgradedStream;
#[cfg(feature = "websocket")]
use crate::websocket::{ContractSession, Handshake, Subprotocol, handshake, is_upgrade, session};
use crate::{Compression, Config, Stats};

/// The bytes of a client's `user-agent` that are kept.
const MAX_USER_AGENT_BYTES: usize = 256;

/// The streams of one engine, with their limits.
pub(crate) struct Streams {
    pub(crate) handle: Handle,
    pub(crate) config: watch::Receiver<Config>,
    pub(crate) authorizer: Option<Arc<dyn DynAuthorizer>>,
    pub(crate) observer: Option<Arc<dyn StreamObserver>>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) stats: Arc<Stats>,
}

/// A stream that passed all checks.
pub(crate) struct Stream {
    pub(crate) reader: Reader,
    pub(crate) transport: Transport,
}

/// What the engine is handed over, whatever the transport.
pub(crate) struct Reader {
    info: ConnectionInfo,
    /// Whether it starts with the totals.
    pub(crate) snapshot: bool,
    /// Where it starts in the history.
    pub(crate) resume: Option<Resume>,
    max_rate: Option<Rate>,
    grant: Option<Arc<Grant>>,
    /// Of a contract.
    watch: Option<Box<dyn StreamWatch>>,
    /// Released when it ends.
    pub(crate) permits: Permits,
    /// For the memory of its topics, also released when it ends. A WebSocket has its own, because its topics may change.
    pub(crate) topic_permit: Option<TopicPermit>,
}

/// How a stream is sent.
pub(crate) enum Transport {
    /// As the body of a response.
    EventStream(EventResponse),
    #[cfg(feature = "websocket")]
    WebSocket(Box<Upgrade>),
}

/// A WebSocket about to open.
#[cfg(feature = "websocket")]
pub(crate) struct Upgrade {
    pub(crate) handshake: Handshake,
    pub(crate) framing: Arc<dyn Framing>,
    /// Sent after the response.
    pub(crate) preamble: Bytes,
    pub(crate) inbound: UpgradeInbound,
}

/// The handler of what the client of a WebSocket sends.
#[cfg(feature = "websocket")]
pub(crate) enum UpgradeInbound {
    Native(Box<session::Session>),
    Contract(Box<ContractSession>),
}

#[cfg(feature = "websocket")]
impl UpgradeInbound {
    /// The handler, with what was received together with the handshake.
    pub(crate) fn with_read_ahead(self, bytes: &[u8]) -> Box<dyn Inbound> {
        match self {
            Self::Native(mut session) => {
                session.read_ahead(bytes);
                session
            }
            Self::Contract(mut session) => {
                session.read_ahead(bytes);
                session
            }
        }
    }
}

/// A request that the limits admit.
struct Admitted {
    info: ConnectionInfo,
    permits: Permits,
    subscription: SubscriptionPermits,
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

impl Reader {
    /// The reader with its connection, for the engine. `guard` is dropped when the stream ends.
    pub(crate) fn into_subscriber(
        self,
        framing: Arc<dyn Framing>,
        sink: Sink,
        guard: impl Send + 'static,
        observer: Option<&dyn StreamObserver>,
    ) -> Subscriber {
        let observed = observer.map(|observer| observer.opened(&self.info, self.grant.as_deref()));
        let mut subscriber = Subscriber::new(self.info, framing, sink);
        subscriber.snapshot = self.snapshot;
        subscriber.resume = self.resume;
        subscriber.max_rate = self.max_rate;
        subscriber.grant = self.grant;
        subscriber.watch = Some(guarded(guard, observed, self.watch));
        subscriber
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
        let notices = flag(query, NOTICES).map_err(bad_request)?;
        let relay = flag(query, RELAY).map_err(bad_request)?;
        if relay && (snapshot || envelope || max_rate.is_some()) {
            return Err(bad_request(format!("bad query: {RELAY}=1 excludes {SNAPSHOT}, {ENVELOPE} and {MAX_RATE}\n")));
        }
        #[cfg(feature = "websocket")]
        let is_upgrade = is_upgrade(request);
        #[cfg(not(feature = "websocket"))]
        let is_upgrade = false;
        let access = StreamAccess::decide(request, &topics, client.ip, host, self).await;
        let access = access.map_err(|error| not_authorized(&error))?;
        if relay && access.grant.as_ref().is_some_and(|grant| !grant.may_relay) {
            self.stats.denied.add(1);
            return Err(text_response(StatusCode::FORBIDDEN, format!("not allowed to use {RELAY}=1\n")));
        }
        let instance = self.handle.instance();
        if relay && request.headers.get(RELAY_INSTANCE).is_some_and(|reader| reader.as_bytes() == instance.as_bytes()) {
            let text = "this server is its own origin; expected another one\n".to_owned();
            return Err(text_response(StatusCode::LOOP_DETECTED, text));
        }
        // What no one has granted, everyone may have: but not the names of clients.
        let with_senders = access.grant.is_some();
        let topics = access.topics.clone();
        let notices = notices || self.handle.has_history(&topics);
        let notices = if notices { Notices::Events } else { Notices::Comments };
        let keeps_totals = || topics.as_namespace().is_some_and(|namespace| self.handle.keeps_totals(&namespace));
        let last_values = snapshot && !keeps_totals() && self.handle.has_last_values(&topics);
        let snapshot = snapshot && !last_values;
        let mut resume = None;
        if request.method == Method::GET {
            if snapshot {
                self.totals_known(&topics).await?;
            }
            // A relay needs what is kept, and waits until that is known.
            let start = start.or_else(|| relay.then(|| Start::After("earliest".into())));
            let start = start.or(last_values.then_some(Start::LastValues));
            resume = self.resume(request, &topics, access.grant.as_deref(), start, is_upgrade).await?;
        }
        #[cfg(feature = "websocket")]
        let handshake = match is_upgrade {
            true => {
                let handshake = handshake::accept(request, self)?;
                let framing = match relay {
                    true => websocket_framing(with_senders),
                    false => handshake::native_framing(handshake.subprotocol, envelope, notices)?,
                };
                Some((handshake, framing))
            }
            false => None,
        };
        #[cfg(feature = "websocket")]
        if resume.is_some()
            && handshake.as_ref().is_some_and(|(handshake, _)| handshake.subprotocol == Subprotocol::Raw)
        {
            return Err(bad_request("the subprotocol raw has no positions; use json\n".to_owned()));
        }
        let format = if envelope { EventFormat::Envelope } else { EventFormat::Fields };
        let coding = self.coding(request, client);
        let response = match relay {
            true => EventResponse::relay(with_senders, coding),
            false => EventResponse::native(format, notices, coding),
        };
        self.answer_head(request, &response)?;
        let admitted = self.admit(topics, access.grant.as_deref(), request, client)?;
        let reader = |info, permits, topic_permit| {
            let grant = access.grant.clone();
            Reader { info, snapshot, resume, max_rate, grant, watch: None, permits, topic_permit }
        };
        #[cfg(feature = "websocket")]
        if let Some((handshake, framing)) = handshake {
            let Admitted { info, mut permits, subscription } = admitted;
            if relay {
                // Its topics cannot change: it was told of them at its start.
                let topic_permit = Some(subscription.into_fixed(&mut permits));
                let reader = reader(info, permits, topic_permit);
                let session =
                    ContractSession::new(&self.config.borrow().websocket, None, Arc::clone(&self.stats.websocket));
                let inbound = UpgradeInbound::Contract(Box::new(session));
                let upgrade = Upgrade { handshake, framing, preamble: Bytes::new(), inbound };
                return Ok(Stream { reader, transport: Transport::WebSocket(Box::new(upgrade)) });
            }
            let reader = reader(info, permits, None);
            let policy = access.into_policy(request, client.ip, subscription, self);
            let config = self.config.borrow();
            let (subprotocol, stats) = (handshake.subprotocol, Arc::clone(&self.stats.websocket));
            let session = session::Session::with_policy(&config, subprotocol, policy, self.handle.clone(), stats);
            let inbound = UpgradeInbound::Native(Box::new(session));
            let upgrade = Upgrade { handshake, framing, preamble: Bytes::new(), inbound };
            return Ok(Stream { reader, transport: Transport::WebSocket(Box::new(upgrade)) });
        }
        let Admitted { info, mut permits, subscription } = admitted;
        let topic_permit = Some(subscription.into_fixed(&mut permits));
        Ok(Stream { reader: reader(info, permits, topic_permit), transport: Transport::EventStream(response) })
    }

    /// Opens a stream of a contract. An error is the response to send instead.
    pub(crate) async fn open_contract(
        &self,
        contract: &Arc<RegisteredContract>,
        request: &Parts,
        client: ClientAddress,
    ) -> Result<Stream, WholeResponse> {
        let (limit, max_topics) = {
            let config = self.config.borrow();
            (config.authorize_timeout, config.max_topics)
        };
        #[cfg(feature = "websocket")]
        let upgrade = match is_upgrade(request) {
            true => {
                let handshake = handshake::accept(request, self)?;
                contract.websocket_framing(handshake.subprotocol).map(|framing| (handshake, framing))
            }
            false => None,
        };
        #[cfg(feature = "websocket")]
        let is_event_stream = upgrade.is_none();
        #[cfg(not(feature = "websocket"))]
        let is_event_stream = true;
        if is_event_stream && !contract.has_events() {
            return Err(upgrade_required(request));
        }
        let opened = tokio::time::timeout(limit, contract.open(request, client.ip)).await;
        #[cfg_attr(not(feature = "websocket"), expect(unused_mut, reason = "its handler of messages is taken"))]
        let mut opened = opened.map_err(|_| not_authorized(&AuthorizeError::TimedOut))?.inspect_err(|response| {
            let is_denied = matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
            self.stats.denied.add(u64::from(is_denied));
        })?;
        #[cfg(feature = "websocket")]
        let messages = opened.messages.take();
        let ContractStream { topics, grant, start, preamble, headers, position_header, watch, .. } = opened;
        if topics.len() > max_topics {
            let error = TopicError::TooManyTopics(max_topics);
            return Err(text_response(StatusCode::BAD_REQUEST, format!("{error}\n")));
        }
        let topics = match &grant {
            Some(grant) => check(grant, &topics).map_err(|denied| {
                self.stats.denied.add(1);
                not_authorized(&denied.into())
            })?,
            None => topics,
        };
        let mut resume = None;
        if request.method == Method::GET {
            resume = self.resume(request, &topics, grant.as_deref(), start, false).await?;
        }
        #[cfg(feature = "websocket")]
        if let Some((handshake, framing)) = upgrade {
            let Admitted { info, mut permits, subscription } = self.admit(topics, grant.as_deref(), request, client)?;
            let topic_permit = Some(subscription.into_fixed(&mut permits));
            let reader = Reader { info, snapshot: false, resume, max_rate: None, grant, watch, permits, topic_permit };
            let session =
                ContractSession::new(&self.config.borrow().websocket, messages, Arc::clone(&self.stats.websocket));
            let inbound = UpgradeInbound::Contract(Box::new(session));
            let upgrade = Upgrade { handshake, framing, preamble, inbound };
            return Ok(Stream { reader, transport: Transport::WebSocket(Box::new(upgrade)) });
        }
        let format = ContractFormat { contract: Arc::clone(contract), preamble, headers, position_header };
        let response = EventResponse::contract(format, self.coding(request, client));
        self.answer_head(request, &response)?;
        let Admitted { info, mut permits, subscription } = self.admit(topics, grant.as_deref(), request, client)?;
        let topic_permit = Some(subscription.into_fixed(&mut permits));
        let reader = Reader { info, snapshot: false, resume, max_rate: None, grant, watch, permits, topic_permit };
        Ok(Stream { reader, transport: Transport::EventStream(response) })
    }

    /// For a HEAD request, the error is the headers of `response`.
    #[expect(clippy::result_large_err, reason = "made once for a request")]
    fn answer_head(&self, request: &Parts, response: &EventResponse) -> Result<(), WholeResponse> {
        if request.method != Method::HEAD {
            return Ok(());
        }
        let mut head = Response::new(Full::default());
        *head.headers_mut() = response.headers(request, None, &self.config.borrow().allowed_origins);
        Err(head)
    }

    /// Acquires the permits of a stream.
    #[expect(clippy::result_large_err, reason = "made once for a request")]
    fn admit(
        &self,
        topics: Topics,
        grant: Option<&Grant>,
        request: &Parts,
        client: ClientAddress,
    ) -> Result<Admitted, WholeResponse> {
        let (limits, path_bytes) = (Arc::clone(&self.limits), request.uri.path().len());
        let mut subscription = SubscriptionPermits::new(limits, self.config.clone(), client.ip, path_bytes);
        subscription.acquire(&topics, grant).map_err(|error| over_limit(&error))?;
        let config = self.config.borrow();
        let mut permits = Permits::default();
        if client.limited {
            permits = self.limits.admit(client.ip, &config).map_err(|error| over_limit(&error))?;
        }
        let info = ConnectionInfo {
            request_path: request.uri.path().into(),
            topics,
            created_at: SystemTime::now(),
            client_ip: client.ip,
            user_agent: user_agent(&request.headers),
        };
        Ok(Admitted { info, permits, subscription })
    }

    /// The observer, if there is one.
    pub(crate) fn observer(&self) -> Option<&dyn StreamObserver> {
        self.observer.as_deref()
    }

    /// The coding of a stream. gzip before zstd: every browser reads a gzip stream block by block.
    fn coding(&self, request: &Parts, client: ClientAddress) -> Coding {
        let direct = !client.behind_proxy && !request.headers.contains_key(VIA);
        match self.config.borrow().compression {
            Compression::Always => accepted(&request.headers, Coding::FOR_STREAMS),
            Compression::Direct if direct => accepted(&request.headers, Coding::FOR_STREAMS),
            Compression::Direct | Compression::Off => Coding::Identity,
        }
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
        self: &Arc<Self>,
        stream: Stream,
        request: Parts,
        snapshot_guard: Option<Box<dyn Any + Send + Sync>>,
    ) -> Response<StreamBody> {
        let Stream { mut reader, transport } = stream;
        match transport {
            Transport::EventStream(response) => {
                let (sender, body) = tallycast_fanout::body();
                let (headers, (framing, preamble)) = {
                    let config = self.config.borrow();
                    let headers = response.headers(&request, reader.resume.as_ref(), &config.allowed_origins);
                    (headers, response.framing(false, &config))
                };
                let (permits, topic_permit) = (std::mem::take(&mut reader.permits), reader.topic_permit.take());
                let sink = Sink::Body(sender);
                let mut subscriber = reader.into_subscriber(framing, sink, topic_permit, self.observer());
                subscriber.preamble = preamble;
                subscriber.snapshot_guard = snapshot_guard;
                if let Err(error) = self.handle.subscribe(subscriber).await {
                    let response = text_response(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n"));
                    return response.map(StreamBody::whole);
                }
                let mut response = Response::new(StreamBody::stream(body, permits));
                *response.headers_mut() = headers;
                response
            }
            #[cfg(feature = "websocket")]
            Transport::WebSocket(upgrade) => {
                let Upgrade { handshake, framing, preamble, inbound } = *upgrade;
                let upgrade = { request }.extensions.remove::<hyper::upgrade::OnUpgrade>();
                let (streams, limit) = (Arc::clone(self), self.config.borrow().head_timeout);
                tokio::spawn(async move {
                    let client = reader.info.client_ip;
                    let Some(upgrade) = upgrade else {
                        tracing::warn!(%client, "the HTTP server has no upgrades; WebSocket is not possible");
                        return;
                    };
                    let Ok(Ok(upgraded)) = tokio::time::timeout(limit, upgrade).await else { return };
                    let sink = Sink::Stream(Box::new(UpgradedStream::from(upgraded)));
                    let guard = (std::mem::take(&mut reader.permits), reader.topic_permit.take());
                    let mut subscriber = reader.into_subscriber(framing, sink, guard, streams.observer());
                    subscriber.preamble = preamble;
                    subscriber.inbound = Some(inbound.with_read_ahead(&[]));
                    // An engine that has ended drops the connection.
                    let _ = streams.handle.subscribe(subscriber).await;
                });
                let mut response = Response::new(StreamBody::whole(Full::<Bytes>::default()));
                *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                *response.headers_mut() = handshake.headers();
                response
            }
        }
    }
}

/// The response to a request without an upgrade for a path that has WebSockets alone.
fn upgrade_required(request: &Parts) -> WholeResponse {
    let text = format!("{} is for WebSocket, over HTTP/1.1\n", request.uri.path());
    #[cfg(feature = "websocket")]
    return handshake::websocket_only(request.version, text);
    #[cfg(not(feature = "websocket"))]
    text_response(StatusCode::UPGRADE_REQUIRED, text)
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
        AuthorizeError::Denied(denied) if denied.status() == StatusCode::SERVICE_UNAVAILABLE => {
            try_again(StatusCode::SERVICE_UNAVAILABLE, text)
        }
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

fn user_agent(headers: &HeaderMap) -> Box<str> {
    let bytes = headers.get(USER_AGENT).map_or(&b""[..], HeaderValue::as_bytes);
    String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_USER_AGENT_BYTES)]).into()
}
