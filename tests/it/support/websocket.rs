//! A third-party WebSocket client that shares no code with the server: `tokio-websockets`.

use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use hyper::header::{HeaderName, HeaderValue};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_websockets::{ClientBuilder, Error, Message, WebSocketStream, upgrade};

use super::{Certificate, LIMIT, Tallycast};

/// A plain or TLS connection.
trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// The bytes of a WebSocket handshake request.
pub(crate) fn upgrade(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

/// An open WebSocket. Pings are answered only while the test waits for a message.
pub(crate) struct WebSocket {
    runtime: Runtime,
    stream: WebSocketStream<Box<dyn Stream>>,
    pub(crate) response: upgrade::Response,
}

impl WebSocket {
    /// Opens `path`. Every event published after this returns is received.
    #[track_caller]
    pub(crate) fn open(tallycast: &Tallycast, path: &str) -> Self {
        Self::open_with(tallycast, path, &[]).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Opens `path` with request headers.
    pub(crate) fn open_with(tallycast: &Tallycast, path: &str, headers: &[(&str, &str)]) -> Result<Self, Error> {
        Self::open_at(tallycast.address, path, headers)
    }

    /// Opens `path` of the server at `address`.
    pub(crate) fn open_at(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Result<Self, Error> {
        Self::connect(address, path, headers, None)
    }

    /// Opens `path` over TLS.
    pub(crate) fn open_tls(tallycast: &Tallycast, path: &str, certificate: &Certificate) -> Result<Self, Error> {
        Self::connect(tallycast.address, path, &[], Some(TlsConnector::from(certificate.client())))
    }

    fn connect(
        address: SocketAddr,
        path: &str,
        headers: &[(&str, &str)],
        tls: Option<TlsConnector>,
    ) -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut builder = ClientBuilder::new().uri(&format!("ws://{address}{path}")).unwrap();
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            builder = builder.add_header(name, HeaderValue::from_str(value).unwrap()).unwrap();
        }
        let connect = async {
            let stream = TcpStream::connect(address).await?;
            let stream: Box<dyn Stream> = match tls {
                Some(tls) => Box::new(tls.connect(ServerName::try_from("localhost").unwrap(), stream).await?),
                None => Box::new(stream),
            };
            builder.connect_on(stream).await
        };
        let connected = runtime.block_on(async { timeout(LIMIT, connect).await });
        let (stream, response) = connected.expect("no response in time")?;
        Ok(Self { runtime, stream, response })
    }

    /// Opens `path` with the subprotocol `raw`.
    #[track_caller]
    pub(crate) fn open_raw(tallycast: &Tallycast, path: &str) -> Self {
        Self::open_with(tallycast, path, &[("sec-websocket-protocol", "raw")]).unwrap()
    }

    pub(crate) fn send(&mut self, message: Message) {
        let Self { runtime, stream, .. } = self;
        runtime
            .block_on(async { timeout(LIMIT, stream.send(message)).await })
            .expect("the server does not read")
            .unwrap();
    }

    pub(crate) fn send_text(&mut self, text: &str) {
        self.send(Message::text(text.to_owned()));
    }

    /// Waits for the next message of any kind.
    #[track_caller]
    pub(crate) fn next(&mut self) -> Message {
        let Self { runtime, stream, .. } = self;
        let next = runtime.block_on(async { timeout(LIMIT, stream.next()).await });
        next.expect("no message in time").expect("the connection ended").unwrap()
    }

    /// Waits for the next message, which must be text.
    #[track_caller]
    pub(crate) fn text(&mut self) -> String {
        let message = self.next();
        message.as_text().unwrap_or_else(|| panic!("not text: {message:?}")).to_owned()
    }

    /// Waits for the next message, which must be JSON.
    #[track_caller]
    pub(crate) fn json(&mut self) -> Value {
        serde_json::from_str(&self.text()).unwrap()
    }

    /// Waits for a close frame and the end of the connection. Returns code and reason.
    #[track_caller]
    pub(crate) fn closed(&mut self) -> (u16, String) {
        let message = self.next();
        let (code, reason) = message.as_close().unwrap_or_else(|| panic!("not a close frame: {message:?}"));
        let closed = (code.into(), reason.to_owned());
        let Self { runtime, stream, .. } = self;
        let end = runtime
            .block_on(async { timeout(LIMIT, stream.next()).await })
            .expect("the connection did not end in time");
        assert!(end.is_none(), "{end:?} after the close frame");
        closed
    }
}
