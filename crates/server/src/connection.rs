//! One connection: where it comes from, whether it may, and which protocol its first bytes tell.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::TlsAcceptor;

use super::limits::Admission;
use super::pages::Pages;
use super::proxies::{Announced, announced, is_trusted};
use super::socket::Socket;
use super::tls::{self, Tls};
use super::within_hyper::Version;
use super::{Config, Shared, http1, within_hyper};

/// What a connection holds as long as it lives, wherever it goes.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) _permit: OwnedSemaphorePermit,
    pub(super) admission: Admission,
}

/// The other end of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    pub(super) address: IpAddr,
    /// It is a proxy that is trusted, and its requests tell whose they are.
    pub(super) is_proxy: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
    Tls,
}

/// RFC 9113, §3.4: what a client that knows the server speaks HTTP/2 sends first.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// RFC 8446, §5.1: the type of the record that a client's first message comes in.
const TLS_HANDSHAKE: u8 = 22;

/// Serves one connection from `address`.
pub(super) async fn serve<P: Pages>(
    mut stream: TcpStream,
    address: IpAddr,
    permit: OwnedSemaphorePermit,
    shared: Arc<Shared<P>>,
) {
    let config = shared.config();
    let first = tokio::time::timeout(config.head_timeout, first_bytes(&mut stream, address, &config));
    let first = tokio::select! {
        first = first => first,
        () = shared.shutdown.cancelled() => return,
    };
    let (ahead, protocol, peer) = match first {
        Ok(Some(first)) => first,
        Ok(None) => return,
        Err(_) => {
            shared.stats.head_timeouts.add(1);
            return http1::answer_and_close(stream, http1::REQUEST_TIMEOUT).await;
        }
    };
    let mut held = Held { _permit: permit, admission: Admission::default() };
    if !peer.is_proxy {
        match shared.limits.admit(peer.address, &config) {
            Ok(admission) => held.admission = admission,
            // To tell those who speak TLS would cost a handshake.
            Err(_) if protocol == Protocol::Tls => return,
            Err(refusal) => {
                let answer = http1::refusal(http1::TOO_MANY_REQUESTS, &refusal.to_string());
                return http1::answer_and_close(stream, answer).await;
            }
        }
    }
    match (protocol, config.tls) {
        (Protocol::Tls, Some(tls)) => {
            let socket = Socket::new(stream, ahead, Arc::default());
            encrypted(socket, tls, config.head_timeout, peer, Arc::new(held), shared).await;
        }
        (_, Some(_)) => http1::answer_and_close(stream, http1::MISDIRECTED_REQUEST).await,
        (Protocol::Http2, None) => {
            let socket = Socket::new(stream, ahead, Arc::default());
            within_hyper::serve(socket, Version::Http2, peer, Arc::new(held), shared).await;
        }
        // What is neither is answered as HTTP/1, which is to say refused.
        (Protocol::Http1 | Protocol::Tls, None) => http1::serve(stream, ahead, peer, held, shared).await,
    }
}

/// Shakes hands, which has the time of a request's head, then serves what ALPN has chosen.
async fn encrypted<P: Pages>(
    socket: Socket,
    tls: Tls,
    limit: Duration,
    peer: Peer,
    held: Arc<Held>,
    shared: Arc<Shared<P>>,
) {
    let stream = match tokio::time::timeout(limit, TlsAcceptor::from(tls.0).accept(socket)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            shared.stats.tls_failures.add(1);
            tracing::debug!(%error, ?peer, "a TLS handshake failed");
            return;
        }
        Err(_) => {
            shared.stats.head_timeouts.add(1);
            return;
        }
    };
    let version = match stream.get_ref().1.alpn_protocol() {
        Some(tls::HTTP2) => Version::Http2,
        _ => Version::Http1,
    };
    within_hyper::serve(stream, version, peer, held, shared).await;
}

/// Reads until it is clear what this is, and from where; nothing if the peer goes before that.
async fn first_bytes(stream: &mut TcpStream, address: IpAddr, config: &Config) -> Option<(Bytes, Protocol, Peer)> {
    let mut read = BytesMut::with_capacity(1024);
    let mut peer = Peer { address, is_proxy: is_trusted(&config.trusted_proxies, address) };
    if peer.is_proxy
        && let Announced::Client(client) = announced(stream, &mut read).await?
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
