//! The server: its builder, and the loop that accepts connections.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use tallycast_fanout::Handle;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_service::Service;

use crate::authorizer::{Authorizer, DynAuthorizer};
use crate::client::ClientAddress;
use crate::contract::{Contract, RegisteredContract};
use crate::fallback::{Fallback, TowerFallback};
use crate::limits::Limits;
use crate::listener::{self, Acceptor};
use crate::observer::StreamObserver;
use crate::response::BoxError;
use crate::slots::{Slot, Slots};
use crate::streams::Streams;
use crate::{Config, Stats, connection, http1};

/// Connections over a limit that are being answered at the same time; further ones are closed without a response.
const REFUSALS: usize = 16;
/// Time for the first request of a connection that is accepted right before the shutdown, at most half of
/// [`Config::close_limit`]. An older connection without a request is closed at once.
const FIRST_REQUEST: Duration = Duration::from_secs(1);
/// How often it is looked whether all of these have come.
const POLL: Duration = Duration::from_millis(10);
/// Time for handshakes that have begun when a shared port is left. Shorter than the second after which clients repeat the first packet
/// of one that was ignored.
const HANDSHAKES: Duration = Duration::from_millis(500);

/// A server of streams, and of everything else that its fallback serves on the same port.
///
/// ```no_run
/// # async fn example(handle: tallycast_fanout::Handle) -> std::io::Result<()> {
/// let listener = tallycast_server::listen(([127, 0, 0, 1], 8001).into(), 64 * 1024)?;
/// tallycast_server::Server::new(handle).serve(listener).await
/// # }
/// ```
#[derive(Clone)]
pub struct Server {
    handle: Handle,
    config: watch::Receiver<Config>,
    stats: Arc<Stats>,
    authorizer: Option<Arc<dyn DynAuthorizer>>,
    observer: Option<Arc<dyn StreamObserver>>,
    contracts: Vec<Arc<RegisteredContract>>,
    fallback: Option<Arc<dyn Fallback>>,
    shutdown_engine: bool,
}

impl Server {
    /// A server of the streams of the engine behind `handle`, with the default [`Config`], without authorizer and fallback.
    pub fn new(handle: Handle) -> Self {
        let config = watch::channel(Config::default()).1;
        Self {
            handle,
            config,
            stats: Arc::default(),
            authorizer: None,
            observer: None,
            contracts: Vec::new(),
            fallback: None,
            shutdown_engine: true,
        }
    }

    /// Sets limits, time limits and paths.
    #[must_use]
    pub fn config(self, config: Config) -> Self {
        self.config_watch(watch::channel(config).1)
    }

    /// As [`config`](Self::config), for settings that change while the server runs. A change applies to new connections and
    /// requests.
    #[must_use]
    pub fn config_watch(mut self, config: watch::Receiver<Config>) -> Self {
        self.config = config;
        self
    }

    /// Sets the counters, for a caller that reads them.
    #[must_use]
    pub fn stats(mut self, stats: Arc<Stats>) -> Self {
        self.stats = stats;
        self
    }

    /// Sets the authorizer, which decides which clients may read which topics. Without one, every client may read everything.
    #[must_use]
    pub fn authorizer(mut self, authorizer: impl Authorizer) -> Self {
        self.authorizer = Some(Arc::new(authorizer));
        self
    }

    /// Sets the observer, which sees every stream begin, change its topics and end.
    #[must_use]
    pub fn observer(mut self, observer: impl StreamObserver) -> Self {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// Adds streams with paths and a framing of their own. There may be several contracts; the first that matches a request
    /// answers it, before the native streams and the fallback.
    #[must_use]
    pub fn contract(mut self, contract: impl Contract) -> Self {
        self.contracts.push(Arc::new(RegisteredContract::new(contract)));
        self
    }

    /// Sets whether a graceful shutdown also shuts the engine down. The default is `true`. With `false` streams go on until
    /// the program ends the engine itself, for example after it has sent what is still on its way to the engine.
    #[must_use]
    pub fn shutdown_engine(mut self, shutdown_engine: bool) -> Self {
        self.shutdown_engine = shutdown_engine;
        self
    }

    /// Sets the service that answers every request that is not for a stream, such as an axum `Router`. The default is
    /// a 404.
    ///
    /// It receives the request's body, and the client's address as the extension [`ClientAddress`].
    ///
    /// A fallback cannot upgrade connections itself, such as for WebSockets of its own: mount a
    /// [`StreamService`](crate::StreamService) in another server instead.
    #[must_use]
    pub fn fallback<S, B>(mut self, service: S) -> Self
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + Sync + 'static,
        S::Future: Send,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        self.fallback = Some(Arc::new(TowerFallback(service)));
        self
    }

    /// Serves the connections of `listener` once the result is awaited.
    pub fn serve(self, listener: TcpListener) -> Serve {
        Serve {
            server: self,
            listeners: vec![listener],
            shares_port: false,
            shutdown: Box::pin(pending()),
            settled: Box::new(|| {}),
        }
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Server").field("config", &*self.config.borrow()).finish_non_exhaustive()
    }
}

/// A server with its listener. Await it to serve.
#[must_use = "nothing is served before it is awaited"]
pub struct Serve {
    server: Server,
    listeners: Vec<TcpListener>,
    shares_port: bool,
    shutdown: Pin<Box<dyn Future<Output = ()> + Send>>,
    settled: Box<dyn FnOnce() + Send>,
}

impl Serve {
    /// Serves the connections of `listener`, too.
    pub fn and_listener(mut self, listener: TcpListener) -> Self {
        self.listeners.push(listener);
        self
    }

    /// Sets whether other processes listen on the same ports by [`SharedPort`](crate::SharedPort), so that they go on when this server
    /// shuts down. The default is `false`. With `true` the server answers no new handshakes for half a second before it closes its
    /// sockets, and accepts the connections whose handshakes had begun. Otherwise the kernel would reset these; unless
    /// `net.ipv4.tcp_migrate_req` is 1, which has it pass them on, and spares the others the second until they repeat their handshake.
    ///
    /// Wrong for a socket that other processes have as well: it would ignore handshakes for all of them.
    pub fn sharing_port(mut self, shares_port: bool) -> Self {
        self.shares_port = shares_port;
        self
    }

    /// Calls `settled` once after the start of a graceful shutdown: when no more connections are accepted, and each of those that were
    /// has sent its first request, or had a second for it. A program that ends the engine itself waits for this before: a stream that is
    /// requested later is dropped without a response.
    pub fn when_settled(mut self, settled: impl FnOnce() + Send + 'static) -> Self {
        self.settled = Box::new(settled);
        self
    }

    /// Shuts down when `signal` completes: the server accepts no more connections, [shuts the engine
    /// down](Handle::shutdown), which ends every stream after the messages that were sent, and waits for all streams and
    /// connections for at most [`Config::close_limit`]. Publishers may still exist.
    pub fn with_graceful_shutdown(mut self, signal: impl Future<Output = ()> + Send + 'static) -> Self {
        self.shutdown = Box::pin(signal);
        self
    }
}

impl std::fmt::Debug for Serve {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Serve").field("listeners", &self.listeners).finish_non_exhaustive()
    }
}

impl IntoFuture for Serve {
    type Output = io::Result<()>;
    type IntoFuture = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async {
            run(self).await;
            // A failed accept does not end the server. The type leaves room for failures that do.
            Ok(())
        })
    }
}

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) streams: Arc<Streams>,
    pub(crate) contracts: Vec<Arc<RegisteredContract>>,
    pub(crate) fallback: Option<Arc<dyn Fallback>>,
    pub(crate) shutdown: CancellationToken,
    /// Connections over the limit that are open for paths that are always answered.
    pub(crate) reserved: Arc<Slots>,
    /// Connections whose first request has not been answered yet.
    pub(crate) newcomers: Arc<Slots>,
    /// Time for the first request of a connection once the server shuts down.
    first_request: Duration,
    /// Connections over a limit that are being answered.
    refusals: Arc<Slots>,
}

impl Shared {
    /// The config as it is now.
    pub(crate) fn config(&self) -> Config {
        self.streams.config.borrow().clone()
    }

    /// The slot of a connection over a limit while it is answered, unless too many are.
    pub(crate) fn refusal_slot(&self) -> Option<Slot> {
        self.refusals.acquire(REFUSALS)
    }

    /// Completes when a connection that was accepted at `accepted` need not be waited for any more, as it has sent no request: at the
    /// shutdown, or a little later if it has just come.
    pub(crate) async fn first_request_overdue(&self, accepted: Instant) {
        self.shutdown.cancelled().await;
        sleep_until(accepted + self.first_request).await;
    }

    pub(crate) fn stats(&self) -> &Stats {
        &self.streams.stats
    }
}

/// One line of the request log.
pub(crate) struct RequestLog(Option<(ClientAddress, Method, Box<str>)>);

impl RequestLog {
    /// The line about `request`. Costs nothing unless requests are logged. The query is left out: it may hold secrets.
    pub(crate) fn new(client: ClientAddress, request: &Parts) -> Self {
        Self(
            tracing::enabled!(tracing::Level::DEBUG)
                .then(|| (client, request.method.clone(), request.uri.path().into())),
        )
    }

    pub(crate) fn finish(&self, status: StatusCode) {
        if let Some((client, method, path)) = &self.0 {
            tracing::debug!(client = %client.ip, %method, path, status = status.as_u16(), "request");
        }
    }
}

async fn run(Serve { server, listeners, shares_port, mut shutdown, settled }: Serve) {
    let Server { handle, config, stats, authorizer, observer, contracts, fallback, shutdown_engine } = server;
    let close_limit = config.borrow().close_limit;
    for listener in &listeners {
        if let Err(error) = listener::detect_dead_peers(listener, &config.borrow()) {
            tracing::warn!(%error, "cannot set TCP keep-alive; connections whose peer vanishes stay open");
        }
    }
    let limits = Arc::new(Limits::new(Arc::clone(&stats)));
    let shared = Arc::new(Shared {
        streams: Arc::new(Streams { handle, config, authorizer, observer, limits, stats }),
        contracts,
        fallback,
        shutdown: CancellationToken::new(),
        reserved: Arc::default(),
        newcomers: Arc::default(),
        first_request: FIRST_REQUEST.min(close_limit / 2),
        refusals: Arc::default(),
    });
    let connections = TaskTracker::new();
    let mut acceptor = Acceptor::new(listeners);
    accept_until(&mut shutdown, &mut acceptor, &connections, &shared).await;
    if shares_port && !listener::are_handshakes_migrated() {
        for listener in &acceptor.listeners {
            if let Err(error) = listener::ignore_handshakes(listener) {
                tracing::warn!(%error, "cannot ignore new handshakes; connections may be reset while the port is left");
            }
        }
        accept_until(sleep(HANDSHAKES), &mut acceptor, &connections, &shared).await;
    }
    shared.shutdown.cancel();
    // From here on the kernel refuses new connections, unless another process listens.
    drop(acceptor);
    let answered = async {
        while !shared.newcomers.are_free() {
            sleep(POLL).await;
        }
    };
    // Those that are left have had their time.
    let _ = timeout(shared.first_request, answered).await;
    settled();
    if shutdown_engine {
        shared.streams.handle.shutdown();
    }
    connections.close();
    let ended = async {
        connections.wait().await;
        if shutdown_engine {
            // The engine owns the sockets of streams.
            shared.streams.handle.closed().await;
        }
    };
    if timeout(close_limit, ended).await.is_err() {
        tracing::warn!(connections = connections.len(), "connections cut off at the shutdown time limit");
    }
}

/// Accepts connections and starts to serve them, until `end` completes.
async fn accept_until(
    end: impl Future<Output = ()>,
    acceptor: &mut Acceptor,
    connections: &TaskTracker,
    shared: &Arc<Shared>,
) {
    let mut end = pin!(end);
    loop {
        let (stream, peer) = tokio::select! {
            accepted = acceptor.accept(|error| shared.stats().accept_failed(error)) => accepted,
            () = &mut end => return,
        };
        shared.stats().accepted.add(1);
        match connection::admit(peer.ip(), shared) {
            Ok((peer, guard)) => {
                connections.spawn(connection::serve(stream, peer, guard, Arc::clone(shared)));
            }
            Err(error) => {
                tracing::debug!(client = %peer.ip(), reason = %error, "connection refused");
                if let Some(slot) = shared.refusal_slot() {
                    connections.spawn(async move {
                        http1::refuse(stream, &error).await;
                        drop(slot);
                    });
                }
            }
        }
    }
}
