//! Streams for mounting inside another HTTP server.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::header::ORIGIN;
use hyper::http::request::Parts;
use hyper::{Request, Response, StatusCode};
use tallycast_fanout::{Access, Grant, Handle, Topics};
use tokio::sync::watch;
use tower_service::Service;

use crate::access::HostAccess;
use crate::authorizer::{Authorizer, DynAuthorizer};
use crate::client::ClientAddress;
use crate::contract::{Contract, RegisteredContract};
use crate::limits::Limits;
use crate::observer::StreamObserver;
use crate::origins::restrict;
use crate::response::{StreamBody, WholeResponse, text_response};
use crate::routes::{ANY_CLIENT_HEADERS, other_method};
use crate::streams::{Stream, Streams};
use crate::topics::topics;
use crate::{Config, Stats};

/// The streams of an engine for mounting inside another HTTP server, such as an axum `Router`. Cheap to clone.
///
/// - As a tower service it reads the topics from path and query: after `Router::new().nest_service("/events", service)`, the
///   namespace `/clock` is at `/events/clock`.
/// - [`open`](Self::open) is for handlers that choose the topics themselves.
///
/// A request for an upgrade gets a WebSocket, any other `GET` Server-Sent Events. The host may insert two extensions into a
/// request: the [`ClientAddress`], without which limits per address do not apply, and a [`Grant`], which names the client,
/// limits its topics and ends its stream in time.
///
/// Of [`Config`], only the settings of streams apply: limits per address and namespace, origins, compression, greeting,
/// WebSocket and the time limits. Everything else, such as TLS and the limit of connections, is the host's.
///
/// Streams end when the engine does: call [`Handle::shutdown`] when the host shuts down, or it waits for them. Hosts do not wait
/// for WebSockets; [`Handle::closed`] does.
///
/// # Memory
///
/// The host keeps a connection's task and buffers for as long as a stream is open: about 26 kilobytes per idle stream under axum,
/// against less than one with a [`Server`](crate::Server). The crate's README says how that was measured.
#[derive(Clone)]
pub struct StreamService {
    handle: Handle,
    config: watch::Receiver<Config>,
    stats: Arc<Stats>,
    authorizer: Option<Arc<dyn DynAuthorizer>>,
    observer: Option<Arc<dyn StreamObserver>>,
    contracts: Vec<Arc<RegisteredContract>>,
    websocket: bool,
    streams: Arc<Streams>,
}

impl StreamService {
    /// The streams of the engine behind `handle`, with the default [`Config`] and without an authorizer.
    pub fn new(handle: Handle) -> Self {
        let (config, stats) = (watch::channel(Config::default()).1, Arc::<Stats>::default());
        let streams = streams(&handle, &config, &stats, None, None);
        Self {
            handle,
            config,
            stats,
            authorizer: None,
            observer: None,
            contracts: Vec::new(),
            websocket: true,
            streams,
        }
    }

    /// Sets limits, allowed origins and compression.
    #[must_use]
    pub fn config(self, config: Config) -> Self {
        self.config_watch(watch::channel(config).1)
    }

    /// As [`config`](Self::config), for settings that change while the service is used. A change applies to new streams.
    #[must_use]
    pub fn config_watch(mut self, config: watch::Receiver<Config>) -> Self {
        self.config = config;
        self.rebuild()
    }

    /// Sets the counters, for a caller that reads them.
    #[must_use]
    pub fn stats(mut self, stats: Arc<Stats>) -> Self {
        self.stats = stats;
        self.rebuild()
    }

    /// Sets the authorizer, which decides which clients may read which topics. Without one, a [`Grant`] in the request's
    /// extensions decides, and without that every topic may be read.
    #[must_use]
    pub fn authorizer(mut self, authorizer: impl Authorizer) -> Self {
        self.authorizer = Some(Arc::new(authorizer));
        self.rebuild()
    }

    /// Sets the observer, which sees every stream begin, change its topics and end.
    #[must_use]
    pub fn observer(mut self, observer: impl StreamObserver) -> Self {
        self.observer = Some(Arc::new(observer));
        self.rebuild()
    }

    /// Adds streams with a framing of their own: a request that [matches](Contract::matches) the contract gets its stream. The first
    /// that matches answers. Extensions that the host's middleware has inserted, such as a [`Grant`], are in the request that the
    /// contract sees; it decides by itself what they mean.
    #[must_use]
    pub fn contract(mut self, contract: impl Contract) -> Self {
        self.contracts.push(Arc::new(RegisteredContract::new(contract)));
        self
    }

    /// Sets whether a request for an upgrade gets a WebSocket. Where it does not, it gets Server-Sent Events. The default is
    /// `true`.
    #[must_use]
    pub fn websocket(mut self, websocket: bool) -> Self {
        self.websocket = websocket;
        self
    }

    fn rebuild(mut self) -> Self {
        self.streams = streams(&self.handle, &self.config, &self.stats, self.authorizer.clone(), self.observer.clone());
        self
    }

    /// Opens a stream of `topics`. The response is the stream, or says in one line why there is none.
    ///
    /// A WebSocket client may narrow its topics, but not leave the given ones, unless an authorizer or a [`Grant`] in the
    /// request's extensions allows more.
    pub async fn open<B>(&self, request: Request<B>, topics: impl Into<Topics>) -> Response<StreamBody> {
        let (request, _body) = request.into_parts();
        let topics = topics.into();
        self.respond(request, Ok(topics.clone()), Access::Topics(topics)).await
    }

    async fn respond(
        &self,
        mut request: Parts,
        topics: Result<Topics, WholeResponse>,
        readable: Access,
    ) -> Response<StreamBody> {
        if !self.websocket {
            request.headers.remove(hyper::header::UPGRADE);
        }
        let client = request.extensions.get().copied().unwrap_or_else(ClientAddress::unspecified);
        let client = ClientAddress { limited: client != ClientAddress::unspecified(), ..client };
        if let Some(contract) = self.contracts.iter().find(|contract| contract.matches(&request)) {
            let opened = match other_method(&request.method, contract.allowed_methods(), ANY_CLIENT_HEADERS) {
                Some(response) => Err(response),
                None => self.streams.open_contract(contract, &request, client).await,
            };
            return self.answer(opened, request).await;
        }
        let host = HostAccess { grant: request.extensions.remove::<Grant>().map(Arc::new), readable };
        let opened = match (self.streams.other_method(&request.method), topics) {
            (Some(response), _) | (None, Err(response)) => Err(response),
            (None, Ok(topics)) => self.streams.open(&request, topics, client, host).await,
        };
        self.answer(opened, request).await
    }

    async fn answer(&self, opened: Result<Stream, WholeResponse>, request: Parts) -> Response<StreamBody> {
        match opened {
            Ok(stream) => self.streams.respond(stream, request, None).await,
            Err(mut response) => {
                let config = self.streams.config.borrow();
                restrict(response.headers_mut(), request.headers.get(ORIGIN), &config.allowed_origins);
                response.map(StreamBody::whole)
            }
        }
    }
}

fn streams(
    handle: &Handle,
    config: &watch::Receiver<Config>,
    stats: &Arc<Stats>,
    authorizer: Option<Arc<dyn DynAuthorizer>>,
    observer: Option<Arc<dyn StreamObserver>>,
) -> Arc<Streams> {
    let (handle, config, stats) = (handle.clone(), config.clone(), Arc::clone(stats));
    let limits = Arc::new(Limits::new(Arc::clone(&stats)));
    Arc::new(Streams { handle, config, authorizer, observer, limits, stats })
}

impl<B: Send + 'static> Service<Request<B>> for StreamService {
    type Response = Response<StreamBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<StreamBody>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let service = self.clone();
        let (request, _body) = request.into_parts();
        Box::pin(async move {
            let max_topics = service.config.borrow().max_topics;
            let topics = topics("", request.uri.path(), request.uri.query().unwrap_or_default(), max_topics);
            let topics = topics.map_err(|error| text_response(StatusCode::BAD_REQUEST, format!("{error}\n")));
            Ok(service.respond(request, topics, Access::All).await)
        })
    }
}

impl std::fmt::Debug for StreamService {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("StreamService").field("websocket", &self.websocket).finish_non_exhaustive()
    }
}
