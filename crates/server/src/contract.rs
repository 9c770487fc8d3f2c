//! Contracts: streams of the embedding program on paths of its own, in a framing of its own.

use std::fmt;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use hyper::header::HeaderMap;
use hyper::http::request::Parts;
use tallycast_fanout::{CloseReason, Framing, Grant, Message, Start, StreamWatch, Topics};

use crate::response::WholeResponse;
#[cfg(feature = "websocket")]
use crate::websocket::{MessageHandler, Subprotocol};
use crate::wire::Wire;

/// Streams with paths, parameters and a framing of their own, such as those of another project's protocol. Add it with
/// [`Server::contract`](crate::Server::contract).
///
/// The server serves them as its native streams, Server-Sent Events, WebSocket or both: over HTTP/1 the engine takes the socket over,
/// all limits apply, clients that accept it get event streams compressed, and streams end when their grant expires. The server's [`Authorizer`](crate::Authorizer) is not
/// asked: the contract itself decides in [`open`](Self::open).
///
/// ```
/// use std::net::IpAddr;
/// use std::sync::Arc;
///
/// use hyper::{Method, StatusCode};
/// use hyper::http::request::Parts;
/// use tallycast_fanout::{Framing, Namespace};
/// use tallycast_server::{
///     Coding, Contract, ContractStream, EventFormat, EventStream, Notices, WholeResponse, text_response,
/// };
///
/// struct Ticker;
///
/// impl Contract for Ticker {
///     fn matches(&self, request: &Parts) -> bool {
///         request.uri.path() == "/ticker" && request.method == Method::GET
///     }
///
///     fn event_framing(&self) -> Option<Arc<dyn Framing>> {
///         Some(EventStream::shared(EventFormat::Envelope, Notices::Events, Coding::Identity, false))
///     }
///
///     async fn open(&self, request: &Parts, _client: IpAddr) -> Result<ContractStream, WholeResponse> {
///         let symbol = request.uri.query().unwrap_or_default();
///         match format!("/prices/{symbol}").parse::<Namespace>() {
///             Ok(namespace) => Ok(ContractStream::new(namespace)),
///             Err(error) => Err(text_response(StatusCode::BAD_REQUEST, format!("{error}\n"))),
///         }
///     }
/// }
/// # let _ = |server: tallycast_server::Server| server.contract(Ticker);
/// ```
pub trait Contract: Send + Sync + 'static {
    /// Whether this contract answers `request`, by its path and its method. Called for every request, so it must be cheap. The
    /// requests that no contract matches go on to the native streams and the fallback.
    ///
    /// A GET is answered with a stream, or with 426 if only a WebSocket is possible, a HEAD with the headers of a stream, and any other method with 405: it should not match
    /// where the fallback has other methods on the same path. Requests with OPTIONS are asked about as if they were GET, and
    /// are answered by the server itself.
    fn matches(&self, request: &Parts) -> bool;

    /// The methods of its paths, for `allow` and for the preflight requests of browsers (Fetch standard, §3.3.3). The default is
    /// `GET, HEAD, OPTIONS`; others are those that the fallback answers.
    fn allowed_methods(&self) -> &'static str {
        "GET, HEAD, OPTIONS"
    }

    /// How messages become events, without compression and without chunks: the server adds both. Called once. Without one, which is
    /// the default, requests must ask for a WebSocket.
    fn event_framing(&self) -> Option<Arc<dyn Framing>> {
        None
    }

    /// How messages become those of a WebSocket, whose client may have named a subprotocol. Called once for each. Without one, which is
    /// the default, a request for an upgrade gets an event stream.
    #[cfg(feature = "websocket")]
    fn websocket_framing(&self, _subprotocol: Subprotocol) -> Option<Arc<dyn Framing>> {
        None
    }

    /// What the stream of `request` is; or the response that is sent instead, such as a 401.
    ///
    /// Also called for HEAD. Takes at most [`Config::authorize_timeout`](crate::Config::authorize_timeout); then the request is
    /// answered with 503. `client` is as in [`AccessRequest::client_ip`](crate::AccessRequest::client_ip).
    ///
    /// Where the response has `access-control-allow-origin`, the server narrows it to the allowed origins.
    fn open(
        &self,
        request: &Parts,
        client: IpAddr,
    ) -> impl Future<Output = Result<ContractStream, WholeResponse>> + Send;
}

/// A stream that a [`Contract`] opens.
#[non_exhaustive]
pub struct ContractStream {
    /// What it reads, as far as the grant allows it: topics with wildcards are narrowed to [`Grant::readable`], and with a topic
    /// outside of that the request is answered with 403.
    pub topics: Topics,
    /// Who reads it, and until when. Without one, everyone may read it for ever.
    pub grant: Option<Arc<Grant>>,
    /// Where it starts in the history. Default: now.
    pub start: Option<Start>,
    /// The first bytes of the body, or after the response to an upgrade, as the framing would write them. Default: none. Native event
    /// streams have [`Config::greeting`](crate::Config::greeting) and [`Config::retry`](crate::Config::retry) there.
    pub preamble: Bytes,
    /// Watches the stream. Default: nothing does.
    pub watch: Option<Box<dyn StreamWatch>>,
    /// Handles what the client of a WebSocket sends. Default: messages are discarded.
    #[cfg(feature = "websocket")]
    pub messages: Option<Box<dyn MessageHandler>>,
    /// Response headers of an event stream. They replace those of native streams that have the same names; `vary` is added to. Those that belong to
    /// the connection and to compression are the server's: `connection`, `content-encoding`, `content-length` and
    /// `transfer-encoding` are ignored.
    pub headers: HeaderMap,
    /// Whether the response has the header `last-event-id` with the position before the first event, if there is a
    /// [`start`](Self::start). Default: no.
    pub position_header: bool,
}

impl ContractStream {
    /// A stream of `topics` from now on, with the default headers and without grant.
    pub fn new(topics: impl Into<Topics>) -> Self {
        Self {
            topics: topics.into(),
            grant: None,
            start: None,
            preamble: Bytes::new(),
            watch: None,
            #[cfg(feature = "websocket")]
            messages: None,
            headers: HeaderMap::new(),
            position_header: false,
        }
    }
}

impl fmt::Debug for ContractStream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ContractStream").field("topics", &self.topics).finish_non_exhaustive()
    }
}

type OpenFuture<'a> = Pin<Box<dyn Future<Output = Result<ContractStream, WholeResponse>> + Send + 'a>>;

/// A [`Contract`] whose future is erased.
pub(crate) trait DynContract: Send + Sync {
    fn matches(&self, request: &Parts) -> bool;
    fn allowed_methods(&self) -> &'static str;
    fn open_boxed<'a>(&'a self, request: &'a Parts, client: IpAddr) -> OpenFuture<'a>;
}

impl<C: Contract> DynContract for C {
    fn matches(&self, request: &Parts) -> bool {
        Contract::matches(self, request)
    }

    fn allowed_methods(&self) -> &'static str {
        Contract::allowed_methods(self)
    }

    fn open_boxed<'a>(&'a self, request: &'a Parts, client: IpAddr) -> OpenFuture<'a> {
        Box::pin(self.open(request, client))
    }
}

/// A contract with its framings.
pub(crate) struct RegisteredContract {
    contract: Box<dyn DynContract>,
    /// One for each way to send a body: the identity of a framing is its `Arc`.
    framings: Vec<Arc<WiredFraming>>,
    /// One for each subprotocol.
    #[cfg(feature = "websocket")]
    websocket: Vec<(Subprotocol, Arc<dyn Framing>)>,
}

impl RegisteredContract {
    pub(crate) fn new(contract: impl Contract) -> Self {
        let wired = |framing: Arc<dyn Framing>| {
            Wire::all().map(move |wire| Arc::new(WiredFraming::new(Arc::clone(&framing), wire)))
        };
        #[cfg(feature = "websocket")]
        let of_subprotocol = |subprotocol| Some((subprotocol, contract.websocket_framing(subprotocol)?));
        Self {
            framings: contract.event_framing().into_iter().flat_map(wired).collect(),
            #[cfg(feature = "websocket")]
            websocket: [Subprotocol::Json, Subprotocol::Raw].into_iter().filter_map(of_subprotocol).collect(),
            contract: Box::new(contract),
        }
    }

    /// Whether it answers `request`: with a stream, or as a preflight request.
    pub(crate) fn matches(&self, request: &Parts) -> bool {
        if request.method != Method::OPTIONS {
            return self.contract.matches(request);
        }
        let mut get = request.clone();
        get.method = Method::GET;
        self.contract.matches(&get)
    }

    pub(crate) fn allowed_methods(&self) -> &'static str {
        self.contract.allowed_methods()
    }

    pub(crate) async fn open(&self, request: &Parts, client: IpAddr) -> Result<ContractStream, WholeResponse> {
        self.contract.open_boxed(request, client).await
    }

    /// Whether it has event streams.
    pub(crate) fn has_events(&self) -> bool {
        !self.framings.is_empty()
    }

    /// Its framing for bodies that are sent by `wire`. Only where it [has event streams](Self::has_events).
    pub(crate) fn framing(&self, wire: Wire) -> Arc<WiredFraming> {
        let found = self.framings.iter().find(|framing| framing.wire == wire);
        Arc::clone(found.unwrap_or(&self.framings[0]))
    }

    /// Its framing for WebSockets, if it has them.
    #[cfg(feature = "websocket")]
    pub(crate) fn websocket_framing(&self, subprotocol: Subprotocol) -> Option<Arc<dyn Framing>> {
        let found = self.websocket.iter().find(|(of, _)| *of == subprotocol);
        found.map(|(_, framing)| Arc::clone(framing))
    }
}

/// A framing whose bytes are compressed and chunked. What the inner framing has finished may be sent in any order, so it may be
/// compressed and chunked piece by piece.
#[derive(Debug)]
pub(crate) struct WiredFraming {
    inner: Arc<dyn Framing>,
    wire: Wire,
    name: &'static str,
}

impl WiredFraming {
    /// Only for the table of a contract: each has a name that is never freed.
    fn new(inner: Arc<dyn Framing>, wire: Wire) -> Self {
        let name = format!("{}{}", inner.name(), wire.suffix()).leak();
        Self { inner, wire, name }
    }
}

impl Framing for WiredFraming {
    fn name(&self) -> &'static str {
        self.name
    }

    fn message(&self, message: &Message, batch: &mut Vec<u8>) {
        self.inner.message(message, batch);
    }

    fn names_events(&self) -> bool {
        self.inner.names_events()
    }

    fn skipped(&self, count: u64, batch: &mut Vec<u8>) {
        self.inner.skipped(count, batch);
    }

    fn position(&self, id: &str, batch: &mut Vec<u8>) {
        self.inner.position(id, batch);
    }

    fn finish(&self, batch: Vec<u8>) -> Bytes {
        self.wire.finish(self.inner.finish(batch).into())
    }

    fn keep_alive(&self, position: Option<&str>) -> Bytes {
        self.wire.finish(self.inner.keep_alive(position).into())
    }

    fn keep_alive_interval(&self) -> Option<Duration> {
        self.inner.keep_alive_interval()
    }

    fn closing(&self, reason: &CloseReason) -> Bytes {
        let last = self.inner.closing(reason);
        match reason {
            // A client that does not read would not receive the end of the body either.
            CloseReason::SlowReader | CloseReason::PingTimeout if last.is_empty() => last,
            _ => [&self.wire.finish(last.into())[..], self.wire.end()].concat().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coding::Coding;
    use crate::{EventFormat, EventStream, Notices};

    struct Lines;

    impl Contract for Lines {
        fn matches(&self, request: &Parts) -> bool {
            request.method == Method::GET && request.uri.path() == "/lines"
        }

        fn event_framing(&self) -> Option<Arc<dyn Framing>> {
            Some(EventStream::shared(EventFormat::Fields, Notices::Comments, Coding::Identity, false))
        }

        async fn open(&self, _request: &Parts, _client: IpAddr) -> Result<ContractStream, WholeResponse> {
            Ok(ContractStream::new(Topics::none()))
        }
    }

    #[test]
    fn framings_of_a_contract_are_as_native_ones_and_are_shared() {
        let contract = RegisteredContract::new(Lines);
        let message = Message::text("/a".parse().unwrap(), "1");
        for wire in Wire::all() {
            let framing = contract.framing(wire);
            assert!(Arc::ptr_eq(&framing, &contract.framing(wire)) && framing.wire == wire);
            let native = EventStream::shared(EventFormat::Fields, Notices::Comments, wire.coding, wire.chunked);
            let framed = |framing: &dyn Framing| {
                let mut batch = Vec::new();
                framing.message(&message, &mut batch);
                framing.skipped(3, &mut batch);
                framing.position("1-0", &mut batch);
                let closing = [CloseReason::Shutdown, CloseReason::GrantExpired, CloseReason::SlowReader]
                    .map(|reason| framing.closing(&reason));
                (framing.name(), framing.finish(batch), framing.keep_alive(Some("1-0")), closing)
            };
            assert_eq!(framed(&*framing), framed(&*native));
        }
    }

    #[test]
    fn preflight_requests_match_where_get_does() {
        let contract = RegisteredContract::new(Lines);
        let matches = |method: Method, path: &str| {
            let request = hyper::Request::builder().method(method).uri(path).body(()).unwrap();
            contract.matches(&request.into_parts().0)
        };
        assert!(matches(Method::GET, "/lines") && matches(Method::OPTIONS, "/lines"));
        assert!(!matches(Method::POST, "/lines") && !matches(Method::OPTIONS, "/line"));
    }
}
