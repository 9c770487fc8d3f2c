//! Server-Sent Events over HTTP/1.1, HTTP/1.0 and HTTP/2 (over TLS, or by prior knowledge), on the [`fanout`](crate::fanout) engine.
//!
//! This module can be used without the rest of the pipeline; `examples/clock.rs` shows how. It serves
//! `/subscribe/<namespace>` and hands every other path to the embedder's [`Pages`].

mod framing;
mod http;
mod http1;
mod listener;
mod pages;
mod socket;
mod status;
mod tls;
mod topics;
mod within_hyper;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::fanout::Gateway;
use socket::Socket;

pub use http::PREFIX;
pub use listener::listen;
pub use pages::{NoPages, Page, Pages, Reply, text_page};
pub use status::Stats;
pub use tls::{Tls, TlsError};

/// Connections over the limit that are told so at the same time; further ones are closed without a word.
const REFUSALS: usize = 64;

/// What clients may use, and how long they may take.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it is set, clients speak TLS, and nothing else is answered but to say so.
    pub tls: Option<Tls>,
    /// Connections at the same time.
    pub max_connections: usize,
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
    gateway: Gateway,
    pages: P,
    config: watch::Receiver<Config>,
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
    gateway: Gateway,
    pages: P,
    config: watch::Receiver<Config>,
    stats: Arc<Stats>,
    shutdown: CancellationToken,
) {
    // More than can be, so that the limit may change: what is taken is counted.
    let permits = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
    let refusals = Arc::new(Semaphore::new(REFUSALS));
    let close_limit = config.borrow().close_limit;
    let shared = Arc::new(Shared { gateway, pages, config, stats, shutdown: shutdown.clone() });
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
                connections.spawn(connection(stream, peer, permit, Arc::clone(&shared)));
            }
            Ok(_) | Err(_) => {
                shared.stats.refused.add(1);
                if let Ok(refusal) = Arc::clone(&refusals).try_acquire_owned() {
                    connections.spawn(async move {
                        http1::answer_and_close(stream, http1::SERVICE_UNAVAILABLE).await;
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

/// Serves one connection in the protocol that its first bytes tell.
async fn connection<P: Pages>(
    mut stream: TcpStream,
    peer: SocketAddr,
    permit: OwnedSemaphorePermit,
    shared: Arc<Shared<P>>,
) {
    let config = shared.config();
    let first = tokio::time::timeout(config.head_timeout, first_bytes(&mut stream));
    let first = tokio::select! {
        first = first => first,
        () = shared.shutdown.cancelled() => return,
    };
    let plain = |ahead| Socket::new(stream, ahead, Arc::default());
    match (first, config.tls) {
        (Ok(Some((ahead, Protocol::Tls))), Some(tls)) => {
            encrypted(plain(ahead), tls, config.head_timeout, peer, shared).await;
            drop(permit);
        }
        (Ok(Some((_, Protocol::Http1 | Protocol::Http2))), Some(_)) => {
            http1::answer_and_close(plain(Bytes::new()).stream, http1::MISDIRECTED_REQUEST).await;
        }
        (Ok(Some((ahead, Protocol::Http2))), None) => {
            within_hyper::serve(plain(ahead), within_hyper::Version::Http2, peer, shared).await;
            drop(permit);
        }
        // What is neither is answered as HTTP/1, which is to say refused.
        (Ok(Some((ahead, Protocol::Http1 | Protocol::Tls))), None) => {
            http1::serve(plain(Bytes::new()).stream, ahead, peer, permit, shared).await;
        }
        (Ok(None), _) => {}
        (Err(_), _) => {
            shared.stats.head_timeouts.add(1);
            http1::answer_and_close(plain(Bytes::new()).stream, http1::REQUEST_TIMEOUT).await;
        }
    }
}

/// Shakes hands, which has the time of a request's head, then serves what ALPN has chosen.
async fn encrypted<P: Pages>(socket: Socket, tls: Tls, limit: Duration, peer: SocketAddr, shared: Arc<Shared<P>>) {
    let stream = match tokio::time::timeout(limit, TlsAcceptor::from(tls.0).accept(socket)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            shared.stats.tls_failures.add(1);
            tracing::debug!(%error, %peer, "a TLS handshake failed");
            return;
        }
        Err(_) => {
            shared.stats.head_timeouts.add(1);
            return;
        }
    };
    let version = match stream.get_ref().1.alpn_protocol() {
        Some(tls::HTTP2) => within_hyper::Version::Http2,
        _ => within_hyper::Version::Http1,
    };
    within_hyper::serve(stream, version, peer, shared).await;
}

enum Protocol {
    Http1,
    Http2,
    Tls,
}

/// RFC 9113, §3.4: what a client that knows the server speaks HTTP/2 sends first.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// RFC 8446, §5.1: the type of the record that a client's first message comes in.
const TLS_HANDSHAKE: u8 = 22;

/// Reads until it is clear what this is; nothing if the peer goes before that.
async fn first_bytes(stream: &mut TcpStream) -> Option<(Bytes, Protocol)> {
    let mut read = BytesMut::with_capacity(1024);
    loop {
        if stream.read_buf(&mut read).await.ok()? == 0 {
            return None;
        }
        if read.first() == Some(&TLS_HANDSHAKE) {
            return Some((read.freeze(), Protocol::Tls));
        }
        if read.starts_with(HTTP2_PREFACE) {
            return Some((read.freeze(), Protocol::Http2));
        }
        if !HTTP2_PREFACE.starts_with(&read) {
            return Some((read.freeze(), Protocol::Http1));
        }
    }
}
