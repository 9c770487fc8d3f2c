//! One connection: its peer, whether the limits admit it, and the protocol that its first bytes show.

use std::net::IpAddr;
use std::sync::Arc;
#[cfg(feature = "tls")]
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::header::HeaderMap;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;

use crate::client::ClientAddress;
use crate::hyper_connection::Version;
use crate::io::Socket;
use crate::limits::Permits;
use crate::proxies::{ProxyHeader, client, is_trusted, read_proxy_header};
use crate::server::Shared;
use crate::{Config, http1, hyper_connection};

/// What a connection owns until it ends, whichever task serves it.
#[derive(Debug)]
pub(crate) struct ConnectionGuard {
    pub(crate) _permit: OwnedSemaphorePermit,
    pub(crate) permits: Permits,
}

/// The other end of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    pub(crate) address: IpAddr,
    /// It is a trusted proxy, and each of its requests reports its client.
    pub(crate) is_proxy: bool,
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

/// Serves one connection from `address`.
pub(crate) async fn serve(mut stream: TcpStream, address: IpAddr, permit: OwnedSemaphorePermit, shared: Arc<Shared>) {
    let config = shared.config();
    let first = tokio::time::timeout(config.head_timeout, first_bytes(&mut stream, address, &config));
    let first = tokio::select! {
        first = first => first,
        () = shared.shutdown.cancelled() => return,
    };
    let (read_ahead, protocol, peer) = match first {
        Ok(Some(first)) => first,
        Ok(None) => return,
        Err(_) => {
            shared.stats().head_timeouts.add(1);
            return http1::answer_and_close(stream, http1::REQUEST_TIMEOUT).await;
        }
    };
    let mut guard = ConnectionGuard { _permit: permit, permits: Permits::default() };
    if !peer.is_proxy {
        match shared.streams.limits.admit(peer.address, &config) {
            Ok(permits) => guard.permits = permits,
            // A response over TLS would cost a handshake.
            Err(_) if protocol == Protocol::Tls => return,
            Err(error) => {
                tracing::debug!(client = %peer.address, reason = %error, "connection refused");
                let response = http1::refusal(http1::TOO_MANY_REQUESTS, &error.to_string());
                return http1::answer_and_close(stream, response).await;
            }
        }
    }
    #[cfg(feature = "tls")]
    if let Some(tls) = config.tls {
        if protocol == Protocol::Tls {
            let socket = Socket::new(stream, read_ahead, Arc::default());
            return encrypted(socket, tls, config.head_timeout, peer, Arc::new(guard), shared).await;
        }
        return http1::answer_and_close(stream, http1::MISDIRECTED_REQUEST).await;
    }
    match protocol {
        Protocol::Http2 => {
            let socket = Socket::new(stream, read_ahead, Arc::default());
            hyper_connection::serve(socket, Version::Http2, peer, Arc::new(guard), shared).await;
        }
        // TLS without a certificate is answered as HTTP/1, with 400.
        Protocol::Http1 | Protocol::Tls => http1::serve(stream, read_ahead, peer, guard, shared).await,
    }
}

/// Shakes hands within `limit`, then serves the protocol that ALPN chose.
#[cfg(feature = "tls")]
async fn encrypted(
    socket: Socket,
    tls: crate::Tls,
    limit: Duration,
    peer: Peer,
    guard: Arc<ConnectionGuard>,
    shared: Arc<Shared>,
) {
    let stream = match tokio::time::timeout(limit, tokio_rustls::TlsAcceptor::from(tls.0).accept(socket)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            shared.stats().tls_failures.add(1);
            tracing::debug!(client = %peer.address, %error, "TLS handshake failed");
            return;
        }
        Err(_) => {
            shared.stats().head_timeouts.add(1);
            return;
        }
    };
    let version = match stream.get_ref().1.alpn_protocol() {
        Some(crate::tls::HTTP2) => Version::Http2,
        _ => Version::Http1,
    };
    hyper_connection::serve(stream, version, peer, guard, shared).await;
}

/// Reads until the protocol and the peer are known. `None` if the peer leaves before that.
async fn first_bytes(stream: &mut TcpStream, address: IpAddr, config: &Config) -> Option<(Bytes, Protocol, Peer)> {
    let mut read = BytesMut::with_capacity(1024);
    let mut peer = Peer { address, is_proxy: is_trusted(&config.trusted_proxies, address) };
    if peer.is_proxy
        && let ProxyHeader::Client(client) = read_proxy_header(stream, &mut read).await?
    {
        peer = Peer { address: client.to_canonical(), is_proxy: false };
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
