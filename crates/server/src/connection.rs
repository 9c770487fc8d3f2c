//! One connection: whether the limits admit it, and the peer and the protocol that its first bytes show.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::header::HeaderMap;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::client::ClientAddress;
#[cfg(feature = "tls")]
use crate::io::Http1Io;
use crate::io::{IoState, Socket};
use crate::limits::{LimitError, Permits};
use crate::proxies::{ProxyHeader, client, is_trusted, read_proxy_header};
use crate::request_timer::RequestTimer;
use crate::server::Shared;
use crate::slots::Slot;
#[cfg(feature = "tls")]
use crate::tls::{HandshakeError, TlsStream};
use crate::{Config, http1, hyper_connection};

/// Connections over the limit that are open at the same time for the paths that are always answered.
pub(crate) const RESERVED: usize = 16;
/// Time for the request headers of such a connection, and for all of it.
const RESERVED_HEAD_TIMEOUT: Duration = Duration::from_secs(1);
const RESERVED_TIMEOUT: Duration = Duration::from_secs(5);

/// What a connection owns until it ends, whichever task serves it.
#[derive(Debug)]
pub(crate) struct ConnectionGuard {
    _slot: Slot,
    /// Of the connections whose first request has not been answered yet.
    pub(crate) newcomer: Option<Slot>,
    pub(crate) permits: Permits,
}

/// A connection while hyper serves it, without its socket.
pub(crate) struct Connection {
    pub(crate) peer: Peer,
    pub(crate) state: Arc<IoState>,
    /// For HTTP/1.
    pub(crate) timer: RequestTimer,
    pub(crate) guard: ConnectionGuard,
    /// When it was accepted.
    pub(crate) accepted: Instant,
    pub(crate) shared: Arc<Shared>,
}

/// The other end of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    pub(crate) address: IpAddr,
    /// It is a trusted proxy, and each of its requests reports its client.
    pub(crate) is_proxy: bool,
    /// The connection is over the limit: only [`Config::reserved_paths`] are answered.
    pub(crate) is_over_limit: bool,
}

impl Peer {
    /// The client that sent a request with `headers`.
    pub(crate) fn client(self, headers: &HeaderMap, config: &Config) -> ClientAddress {
        if self.is_proxy {
            let ip = client(headers, config.client_address_header, &config.trusted_proxies, self.address);
            ClientAddress::behind_proxy(ip)
        } else {
            ClientAddress { limited: false, ..ClientAddress::new(self.address) }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
    Tls,
}

/// RFC 9113, §3.4: the first bytes of a client that knows that the server speaks HTTP/2.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// RFC 8446, §5.1: the type of the record with a client's first TLS message.
const TLS_HANDSHAKE: u8 = 22;

/// Admits a connection from `address`, before its first byte. A connection over the limit of all is admitted, too, while there
/// is room, for the paths that are always answered. Those of a trusted proxy do not count against its address: their clients do.
pub(crate) fn admit(address: IpAddr, shared: &Shared) -> Result<(Peer, ConnectionGuard), LimitError> {
    let config = shared.streams.config.borrow();
    let limits = &shared.streams.limits;
    let is_proxy = is_trusted(&config.trusted_proxies, address);
    let permits = if is_proxy { Permits::default() } else { limits.admit(address, &config)? };
    let (slot, is_over_limit) = match limits.acquire_connection(&config) {
        Some(slot) => (slot, false),
        None => match shared.reserved.acquire(RESERVED) {
            Some(slot) => (slot, true),
            None => {
                shared.stats().refused.add(1);
                return Err(LimitError::Connections);
            }
        },
    };
    let newcomer = shared.newcomers.acquire(usize::MAX);
    Ok((Peer { address, is_proxy, is_over_limit }, ConnectionGuard { _slot: slot, newcomer, permits }))
}

/// Serves one connection that was admitted.
pub(crate) async fn serve(stream: TcpStream, peer: Peer, guard: ConnectionGuard, shared: Arc<Shared>) {
    if peer.is_over_limit {
        let served = serve_until(stream, peer, guard, RESERVED_HEAD_TIMEOUT, shared);
        // It has had its time.
        let _ = tokio::time::timeout(RESERVED_TIMEOUT, served).await;
    } else {
        let head_timeout = shared.streams.config.borrow().head_timeout;
        serve_until(stream, peer, guard, head_timeout, shared).await;
    }
}

/// Serves one connection whose first request headers must arrive within `head_timeout`.
async fn serve_until(
    mut stream: TcpStream,
    peer: Peer,
    mut guard: ConnectionGuard,
    head_timeout: Duration,
    shared: Arc<Shared>,
) {
    let accepted = Instant::now();
    let deadline = accepted + head_timeout;
    let config = shared.config();
    let first = tokio::select! {
        first = tokio::time::timeout_at(deadline, first_bytes(&mut stream, peer)) => first,
        () = shared.first_request_overdue(accepted) => return,
    };
    let (read_ahead, protocol, client) = match first {
        Ok(Some(first)) => first,
        Ok(None) => return,
        Err(_) => return http1::head_timeout(stream, peer, guard, &shared).await,
    };
    if peer.is_proxy && !client.is_proxy {
        match shared.streams.limits.admit(client.address, &config) {
            Ok(permits) => guard.permits.join(permits),
            // A response over TLS would cost a handshake.
            Err(_) if protocol == Protocol::Tls => return,
            Err(error) => return http1::refuse(stream, &error).await,
        }
    }
    let state = Arc::<IoState>::default();
    let socket =
        Socket::new(stream, read_ahead, config.write_timeout, Arc::clone(&state), Arc::clone(&shared.streams.stats));
    let timer = RequestTimer::http1(Arc::clone(&state), deadline, config.head_timeout, config.idle_timeout);
    let connection = Connection { peer: client, state, timer, guard, accepted, shared };
    #[cfg(feature = "tls")]
    if let Some(tls) = config.tls {
        return match protocol {
            Protocol::Tls => encrypted(socket, tls, deadline, connection).await,
            Protocol::Http1 | Protocol::Http2 => {
                http1::answer_and_close(socket.into_stream(), http1::MISDIRECTED_REQUEST).await;
            }
        };
    }
    match protocol {
        Protocol::Http2 => hyper_connection::serve_http2(socket, connection).await,
        // TLS without a certificate is answered as HTTP/1, with 400.
        Protocol::Http1 | Protocol::Tls => http1::serve(socket, connection).await,
    }
}

/// Shakes hands until `deadline`, then serves the protocol that ALPN chose.
#[cfg(feature = "tls")]
async fn encrypted(socket: Socket, tls: crate::Tls, deadline: Instant, connection: Connection) {
    let stats = connection.shared.stats();
    match tokio::time::timeout_at(deadline, TlsStream::accept(socket, tls.0)).await {
        Ok(Ok(stream)) => match stream.protocol() {
            Some(crate::tls::HTTP2) => hyper_connection::serve_http2(stream, connection).await,
            _ => http1::serve(stream, connection).await,
        },
        Ok(Err(HandshakeError { io, answer, error })) => {
            stats.tls_failures.add(1);
            tracing::debug!(client = %connection.peer.address, %error, "TLS handshake failed");
            if !answer.is_empty() {
                http1::answer_and_close(io.into_stream(), answer).await;
            }
        }
        Err(_) => stats.head_timeouts.add(1),
    }
}

/// Reads until the protocol and the peer are known. `None` if the peer leaves before that.
async fn first_bytes(stream: &mut TcpStream, mut peer: Peer) -> Option<(Bytes, Protocol, Peer)> {
    let mut read = BytesMut::with_capacity(1024);
    if peer.is_proxy
        && let ProxyHeader::Client(client) = read_proxy_header(stream, &mut read).await?
    {
        peer = Peer { address: client.to_canonical(), is_proxy: false, ..peer };
    }
    loop {
        if read.first() == Some(&TLS_HANDSHAKE) {
            return Some((read.freeze(), Protocol::Tls, peer));
        }
        if read.starts_with(HTTP2_PREFACE) {
            return Some((read.freeze(), Protocol::Http2, peer));
        }
        if !HTTP2_PREFACE.starts_with(&read) {
            return Some((read.freeze(), Protocol::Http1, peer));
        }
        if stream.read_buf(&mut read).await.ok()? == 0 {
            return None;
        }
    }
}
