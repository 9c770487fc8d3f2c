//! Server-Sent Events over HTTP/1.1, HTTP/1.0 and HTTP/2 (over TLS, or by prior knowledge), on the [`fanout`](tallycast_fanout) engine,
//! and [`websocket`] on the same paths over HTTP/1.1.
//!
//! This module can be used without the rest of the pipeline; `examples/clock.rs` shows how. It serves
//! `/subscribe/<namespace>` and `/ws/<namespace>`, and hands every other path to the embedder's [`Pages`].

mod coding;
mod connection;
mod framing;
pub mod header_list;
mod http;
mod http1;
mod limits;
mod listener;
mod origins;
mod pages;
mod proxies;
mod socket;
mod status;
mod tls;
mod topics;
pub mod websocket;
mod within_hyper;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use limits::Limits;
use tallycast_fanout::Handle;

pub use coding::{Coding, accepted};
pub use http::{PREFIX, WEBSOCKET_PREFIX};
pub use limits::{NamespaceLimit, NamespaceLimitError};
pub use listener::listen;
pub use origins::{AllowedOrigin, OriginError};
pub use pages::{NoPages, Page, Pages, Reply, text_page};
pub use proxies::ClientAddress;
pub use status::Stats;
pub use tls::{Tls, TlsError};

/// Connections over the limit that are told so at the same time; further ones are closed without a word.
const REFUSALS: usize = 64;

/// What those are told.
const FULL: &str = "too many connections; try again in a moment.";

/// Which streams are compressed for clients that accept it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// None.
    Off,
    /// Those that no proxy is seen in front of (by `via`, or because it is trusted): proxies have held compressed streams
    /// back until they had enough of them.
    #[default]
    Direct,
    /// All.
    Always,
}

/// What clients may use, and how long they may take.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it is set, clients speak TLS, and nothing else is answered but to say so.
    pub tls: Option<Tls>,
    /// Connections at the same time.
    pub max_connections: usize,
    /// Connections at the same time from one address; for IPv6 from one network of 64 bits.
    pub max_per_address: Option<usize>,
    /// New connections a second from one address, and at most as many at once.
    pub rate_per_address: Option<NonZeroU32>,
    /// Streams at the same time of namespaces.
    pub namespace_limits: Vec<NamespaceLimit>,
    /// The proxies that are believed where a connection comes from: by the PROXY protocol, or by a header.
    pub trusted_proxies: Vec<IpNet>,
    /// The header in which they tell.
    pub client_address: ClientAddress,
    /// Which streams are compressed for clients that accept it.
    pub compression: Compression,
    /// The pages of other origins that may read streams and open WebSockets; clients other than browsers always may.
    pub allowed_origins: Vec<AllowedOrigin>,
    /// What clients may send over WebSocket.
    pub websocket: websocket::Config,
    /// Time for a request's head to come, from connecting or from the end of the request before.
    pub head_timeout: Duration,
    /// Bytes of a request's head; a larger one is answered with 431. At least 8192.
    pub max_head_bytes: usize,
    /// Bytes of a request's target; a longer one is answered with 414.
    pub max_target_bytes: usize,
    /// How long a request for a stream that begins with totals waits for them to be known.
    pub snapshot_limit: Duration,
    /// Streams at the same time on one HTTP/2 connection.
    pub max_http2_streams: u32,
    /// How long connections may take to end at shutdown.
    pub close_limit: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            tls: None,
            max_connections: 50_000,
            max_per_address: None,
            rate_per_address: None,
            namespace_limits: Vec::new(),
            trusted_proxies: Vec::new(),
            client_address: ClientAddress::default(),
            compression: Compression::default(),
            allowed_origins: vec![AllowedOrigin::ANY],
            websocket: websocket::Config::default(),
            head_timeout: Duration::from_secs(10),
            max_head_bytes: 16 * 1024,
            max_target_bytes: 4096,
            snapshot_limit: Duration::from_secs(5),
            max_http2_streams: 128,
            close_limit: Duration::from_secs(10),
        }
    }
}

/// What all connections share.
struct Shared<P> {
    gateway: Handle,
    pages: P,
    config: watch::Receiver<Config>,
    limits: Arc<Limits>,
    stats: Arc<Stats>,
    shutdown: CancellationToken,
}

impl<P> Shared<P> {
    /// The config as it is now.
    fn config(&self) -> Config {
        self.config.borrow().clone()
    }
}

/// Serves `listener` until `shutdown` is cancelled, then lets the connections end within [`Config::close_limit`].
///
/// Streams end when the engine behind `gateway` does, so at shutdown end that too. A config that changes holds for what
/// comes after.
pub async fn serve<P: Pages>(
    listener: TcpListener,
    gateway: Handle,
    pages: P,
    config: watch::Receiver<Config>,
    stats: Arc<Stats>,
    shutdown: CancellationToken,
) {
    // More than can be, so that the limit may change: what is taken is counted.
    let permits = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
    let refusals = Arc::new(Semaphore::new(REFUSALS));
    let close_limit = config.borrow().close_limit;
    let shared = Arc::new(Shared {
        gateway,
        pages,
        config,
        limits: Arc::new(Limits::new(Arc::clone(&stats))),
        stats,
        shutdown: shutdown.clone(),
    });
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener::accept(&listener, |error| shared.stats.accept_failed(error)) => accepted,
            () = shutdown.cancelled() => break,
        };
        let (stream, peer) = accepted;
        shared.stats.accepted.add(1);
        let taken = Semaphore::MAX_PERMITS - permits.available_permits();
        let full = taken >= shared.config.borrow().max_connections;
        match Arc::clone(&permits).try_acquire_owned() {
            Ok(permit) if !full => {
                connections.spawn(connection::serve(stream, peer.ip(), permit, Arc::clone(&shared)));
            }
            Ok(_) | Err(_) => {
                shared.stats.refused.add(1);
                if let Ok(refusal) = Arc::clone(&refusals).try_acquire_owned() {
                    connections.spawn(async move {
                        http1::answer_and_close(stream, http1::refusal(http1::SERVICE_UNAVAILABLE, FULL)).await;
                        drop(refusal);
                    });
                }
            }
        }
    }
    // From here on new connections are refused by the kernel.
    drop(listener);
    connections.close();
    if tokio::time::timeout(close_limit, connections.wait()).await.is_err() {
        tracing::warn!(connections = connections.len(), "connections cut off at the shutdown time limit");
    }
}
