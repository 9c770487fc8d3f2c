//! A WebSocket client that is not ours, and not made of what the server is made of: `tokio-websockets`.

use futures_util::{SinkExt, StreamExt};
use hyper::header::{HeaderName, HeaderValue};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_websockets::{ClientBuilder, Error, MaybeTlsStream, Message, WebSocketStream, upgrade};

use super::{LIMIT, Tallycast};

/// An open WebSocket. It answers pings only while the test waits for messages.
pub(crate) struct WebSocket {
    runtime: Runtime,
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    pub(crate) response: upgrade::Response,
}

impl WebSocket {
    /// Opens `path`; every event published after this has returned is received.
    #[track_caller]
    pub(crate) fn open(tallycast: &Tallycast, path: &str) -> Self {
        Self::open_with(tallycast, path, &[]).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// The same with headers.
    pub(crate) fn open_with(tallycast: &Tallycast, path: &str, headers: &[(&str, &str)]) -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut builder = ClientBuilder::new().uri(&format!("ws://{}{path}", tallycast.address)).unwrap();
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            builder = builder.add_header(name, HeaderValue::from_str(value).unwrap()).unwrap();
        }
        let connected = runtime.block_on(async { timeout(LIMIT, builder.connect()).await });
        let (stream, response) = connected.expect("no answer in time")?;
        Ok(Self { runtime, stream, response })
    }

    /// Opens `path` with the subprotocol `raw`.
    #[track_caller]
    pub(crate) fn open_raw(tallycast: &Tallycast, path: &str) -> Self {
        Self::open_with(tallycast, path, &[("sec-websocket-protocol", "raw")]).unwrap()
    }

    pub(crate) fn send(&mut self, message: Message) {
        let Self { runtime, stream, .. } = self;
        runtime.block_on(async { timeout(LIMIT, stream.send(message)).await }).expect("it takes no more").unwrap();
    }

    pub(crate) fn say(&mut self, text: &str) {
        self.send(Message::text(text.to_owned()));
    }

    /// The next message, whatever its kind.
    #[track_caller]
    pub(crate) fn next(&mut self) -> Message {
        let Self { runtime, stream, .. } = self;
        let next = runtime.block_on(async { timeout(LIMIT, stream.next()).await });
        next.expect("nothing came in time").expect("the end instead of a message").unwrap()
    }

    /// The next message, which must be text.
    #[track_caller]
    pub(crate) fn text(&mut self) -> String {
        let message = self.next();
        message.as_text().unwrap_or_else(|| panic!("not text: {message:?}")).to_owned()
    }

    /// The next message, which must be JSON.
    #[track_caller]
    pub(crate) fn json(&mut self) -> Value {
        serde_json::from_str(&self.text()).unwrap()
    }

    /// The close frame that must come next, and the end after it.
    #[track_caller]
    pub(crate) fn closed(&mut self) -> (u16, String) {
        let message = self.next();
        let (code, reason) = message.as_close().unwrap_or_else(|| panic!("not a close frame: {message:?}"));
        let closed = (code.into(), reason.to_owned());
        let Self { runtime, stream, .. } = self;
        let end = runtime.block_on(async { timeout(LIMIT, stream.next()).await }).expect("no end in time");
        assert!(end.is_none(), "{end:?} after the close frame");
        closed
    }
}
