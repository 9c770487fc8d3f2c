//! Connections to one server: TCP, and TLS with its self-signed certificate.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpSocket,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::pki_types::{IpAddr, ServerName},
};

use crate::{certificate::Certificate, streams::ResponseHeaderReader};

/// The time limit of a request that is not for a stream.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// The longest response to such a request, in bytes.
const MAX_RESPONSE_BYTES: u64 = 1024 * 1024;

/// A connection, with or without TLS.
pub(super) trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// The protocol of a connection, which TLS negotiates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// The address of a server.
#[derive(Clone)]
pub(super) struct Endpoint {
    address: SocketAddr,
    /// How to connect with HTTP/1.1 and with HTTP/2.
    tls: Option<[TlsConnector; 2]>,
}

impl Endpoint {
    /// A server without TLS.
    pub(super) fn plain(address: SocketAddr) -> Self {
        Self { address, tls: None }
    }

    /// A server with `certificate`, which is the only one that is trusted.
    pub(super) fn tls(address: SocketAddr, certificate: &Certificate) -> Result<Self> {
        let connector = |protocol: &[u8]| anyhow::Ok(TlsConnector::from(certificate.client(protocol)?));
        Ok(Self { address, tls: Some([connector(b"http/1.1")?, connector(b"h2")?]) })
    }

    /// The `Host` of requests.
    pub(super) fn host(&self) -> String {
        self.address.to_string()
    }

    /// The URL of `path`.
    pub(super) fn url(&self, path: &str) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}{path}", self.address)
    }

    /// Connects from the address `source`, with a receive buffer of the kernel of `receive_buffer` bytes.
    pub(super) async fn connect(
        &self,
        protocol: Protocol,
        source: Ipv4Addr,
        receive_buffer: Option<u32>,
    ) -> Result<Box<dyn Connection>> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((source, 0).into())?;
        if let Some(bytes) = receive_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        let stream = socket.connect(self.address).await.context("cannot connect")?;
        stream.set_nodelay(true)?;
        Ok(match &self.tls {
            None => Box::new(stream),
            Some([http1, http2]) => {
                let connector = if protocol == Protocol::Http1 { http1 } else { http2 };
                let name = ServerName::IpAddress(IpAddr::from(self.address.ip()));
                Box::new(connector.connect(name, stream).await.context("the TLS handshake failed")?)
            }
        })
    }

    /// The body of the response to `GET path`, which must have the status 200.
    pub(super) async fn get(&self, path: &str) -> Result<Vec<u8>> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.host());
        let response = async {
            let mut connection = self.connect(Protocol::Http1, Ipv4Addr::LOCALHOST, None).await?;
            connection.write_all(request.as_bytes()).await?;
            let mut response = Vec::new();
            connection.take(MAX_RESPONSE_BYTES).read_to_end(&mut response).await?;
            anyhow::Ok(response)
        };
        let response = timeout(REQUEST_LIMIT, response)
            .await
            .with_context(|| format!("no response to GET {path} within {} s", REQUEST_LIMIT.as_secs()))?
            .with_context(|| format!("GET {path}"))?;
        let head = ResponseHeaderReader::default().feed(&response, 200, |_| ())?;
        let ((), body) = head.with_context(|| format!("the response to GET {path} is incomplete"))?;
        Ok(body.to_vec())
    }
}
