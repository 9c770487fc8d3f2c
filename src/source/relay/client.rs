//! The stream of an origin: the request, and the events of its answer, over HTTP/1.1, HTTP/2 or WebSocket.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::header::{ACCEPT, AUTHORIZATION, HOST, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tallycast_server::relay::RELAY_INSTANCE;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_stream::StreamExt;
use tokio_util::io::InspectReader;
use tokio_util::task::AbortOnDropHandle;
use tokio_websockets::{ClientBuilder, Limits, WebSocketStream};

use super::config::{Config, Token, Transport};
use crate::http_client::{self, Io, Trust};
use crate::source::BoxError;

/// Time to connect, TLS included.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Time for an answer to begin. An origin that starts lets requests wait for five seconds.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);
/// Time without a byte, at least, after which the connection counts as lost, and at most twice that: an origin says once a second where it is.
const SILENCE: Duration = Duration::from_secs(10);
/// The largest event, in bytes: the totals of a namespace with long keys.
const MAX_EVENT_BYTES: usize = 64 * 1024 * 1024;
/// The part of an answer with another status that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 4096;
/// The size of the headers of an answer, in bytes.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// The part of a file with a token that is read, in bytes.
const MAX_TOKEN_BYTES: u64 = 64 * 1024;
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// The protocols that are offered with TLS (RFC 7301).
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Opens streams.
#[derive(Debug)]
pub(super) struct Client {
    config: Config,
    /// This server.
    instance: Arc<str>,
    /// Made when it is first needed: the system's certificates are many.
    tls: Option<Arc<ClientConfig>>,
}

/// An open stream.
pub(super) struct Events {
    kind: Kind,
    /// The bytes that have come over the connection.
    received: Arc<AtomicU64>,
    /// Ends with the stream.
    _connection: Option<AbortOnDropHandle<()>>,
}

enum Kind {
    Body(Lines),
    WebSocket(Box<WebSocketStream<Box<dyn Io>>>),
}

/// The lines of an event stream (HTML standard, §9.2.6), of which each event of a relay has one.
struct Lines {
    body: Incoming,
    buffer: BytesMut,
    /// The bytes at the start of the buffer that have no line end.
    scanned: usize,
}

impl Client {
    pub(super) fn new(config: Config, instance: Arc<str>) -> Self {
        Self { config, instance, tls: None }
    }

    /// Where the origin is, without secrets.
    pub(super) fn address(&self) -> String {
        self.config.to_string()
    }

    /// Opens a stream that starts after the message with this id.
    pub(super) async fn open(&mut self, last_event_id: Option<&str>) -> Result<Events, BoxError> {
        let mut headers =
            vec![(USER_AGENT, HeaderValue::from_static(concat!("tallycast/", env!("CARGO_PKG_VERSION"))))];
        headers.push((RELAY_INSTANCE, HeaderValue::from_str(&self.instance)?));
        if let Some(token) = self.token().await? {
            let mut value = HeaderValue::try_from(format!("Bearer {token}"))
                .map_err(|_| "the token has characters that a header cannot have")?;
            value.set_sensitive(true);
            headers.push((AUTHORIZATION, value));
        }
        if let Some(id) = last_event_id {
            headers.push((LAST_EVENT_ID, HeaderValue::from_str(id)?));
        }
        let (stream, is_http2) =
            timeout(CONNECT_LIMIT, self.connect()).await.map_err(|_| "no connection in time")??;
        let received = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&received);
        let stream: Box<dyn Io> = Box::new(InspectReader::new(stream, move |bytes: &[u8]| {
            count.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }));
        let open = async {
            match self.config.transport {
                Transport::WebSocket { .. } => self.open_websocket(stream, headers).await.map(|kind| (kind, None)),
                Transport::Http { .. } => {
                    let (lines, connection) = self.open_events(stream, is_http2, headers).await?;
                    Ok((Kind::Body(lines), Some(connection)))
                }
            }
        };
        let (kind, connection) = timeout(ANSWER_LIMIT, open).await.map_err(|_| "no answer in time")??;
        Ok(Events { kind, received, _connection: connection })
    }

    /// The token, which may have become another one since the last session.
    async fn token(&self) -> Result<Option<String>, BoxError> {
        let path = match &self.config.token {
            None => return Ok(None),
            Some(Token::Text(token)) => return Ok(Some(token.expose().to_owned())),
            Some(Token::File(path)) => path,
        };
        let path = path.clone();
        // A small file, but perhaps on a slow disk.
        let text = tokio::task::spawn_blocking(move || read_token(&path)).await??;
        Ok(Some(text.trim().to_owned()))
    }

    /// Opens a connection; returns whether the origin has chosen HTTP/2.
    async fn connect(&mut self) -> Result<(Box<dyn Io>, bool), BoxError> {
        let Config { transport, authority, is_insecure, .. } = &self.config;
        let is_tls = transport.is_tls();
        let port = authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let stream = TcpStream::connect((host.as_str(), port)).await?;
        stream.set_nodelay(true)?;
        if !is_tls {
            return Ok((Box::new(stream), false));
        }
        let config = match &self.tls {
            Some(config) => config,
            None => {
                let trust = if *is_insecure { Trust::Any } else { Trust::System };
                let mut config = (*http_client::tls(&trust)?).clone();
                if matches!(transport, Transport::Http { .. }) {
                    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
                }
                self.tls.insert(Arc::new(config))
            }
        };
        let stream = TlsConnector::from(Arc::clone(config)).connect(ServerName::try_from(host)?, stream).await?;
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(PROTOCOLS[0]);
        Ok((Box::new(stream), is_http2))
    }

    async fn open_events(
        &self,
        stream: Box<dyn Io>,
        is_http2: bool,
        headers: Vec<(HeaderName, HeaderValue)>,
    ) -> Result<(Lines, AbortOnDropHandle<()>), BoxError> {
        let Config { authority, target, .. } = &self.config;
        let mut request = Request::get(target).header(ACCEPT, "text/event-stream");
        if let Some(all) = request.headers_mut() {
            all.extend(headers);
        }
        let io = TokioIo::new(stream);
        let (response, connection): (Response<Incoming>, _) = if is_http2 {
            // RFC 9113, §8.3.1: the authority is part of the URL.
            let request = request.uri(format!("https://{authority}{target}")).body(Empty::<Bytes>::new())?;
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder.timer(TokioTimer::new()).adaptive_window(true).max_header_list_size(MAX_HEAD_BYTES as u32);
            let (mut sender, connection) = builder.handshake(io).await?;
            // Its errors are those of the request and of the body.
            let connection = tokio::spawn(async move { drop(connection.await) });
            (sender.send_request(request).await?, connection)
        } else {
            let request = request.header(HOST, authority.as_str()).body(Empty::<Bytes>::new())?;
            let (mut sender, connection) = http1::Builder::new().max_buf_size(MAX_HEAD_BYTES).handshake(io).await?;
            // As above.
            let connection = tokio::spawn(async move { drop(connection.await) });
            (sender.send_request(request).await?, connection)
        };
        let connection = AbortOnDropHandle::new(connection);
        let (head, body) = response.into_parts();
        if head.status != StatusCode::OK {
            let text = Limited::new(body, MAX_ANSWER_BYTES).collect().await.map(|text| text.to_bytes());
            return Err(refused(head.status.as_u16(), &text.unwrap_or_default()).into());
        }
        Ok((Lines { body, buffer: BytesMut::new(), scanned: 0 }, connection))
    }

    async fn open_websocket(
        &self,
        stream: Box<dyn Io>,
        headers: Vec<(HeaderName, HeaderValue)>,
    ) -> Result<Kind, BoxError> {
        let Config { authority, target, .. } = &self.config;
        let mut builder = ClientBuilder::from_uri(format!("ws://{authority}{target}").parse()?)
            .limits(Limits::default().max_payload_len(Some(MAX_EVENT_BYTES)));
        for (name, value) in headers {
            builder = builder.add_header(name, value)?;
        }
        let (stream, _) = builder.connect_on(stream).await?;
        Ok(Kind::WebSocket(Box::new(stream)))
    }
}

fn read_token(path: &Path) -> Result<String, BoxError> {
    let read = || {
        let mut text = String::new();
        File::open(path)?.take(MAX_TOKEN_BYTES).read_to_string(&mut text)?;
        Ok::<_, std::io::Error>(text)
    };
    read().map_err(|error| format!("cannot read the token in {}: {error}", path.display()).into())
}

/// What a line of the log says of an answer that is no stream.
fn refused(status: u16, body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let line: String = text.lines().next().unwrap_or_default().chars().filter(|char| !char.is_control()).collect();
    if line.is_empty() {
        format!("the origin answered with {status}")
    } else {
        format!("the origin answered with {status}: {line}")
    }
}

impl Events {
    /// The JSON of the next event; `None` at the end of the stream.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, BoxError> {
        let Self { kind, received, .. } = self;
        let next = async {
            match kind {
                Kind::Body(lines) => lines.next().await,
                Kind::WebSocket(stream) => next_message(stream).await,
            }
        };
        // A large event may take longer, for as long as there is more of it.
        let mut next = pin!(next);
        loop {
            let before = received.load(Ordering::Relaxed);
            match timeout(SILENCE, &mut next).await {
                Ok(next) => return next,
                Err(_) if received.load(Ordering::Relaxed) != before => {}
                Err(_) => return Err(format!("nothing came for {} s", SILENCE.as_secs()).into()),
            }
        }
    }
}

/// The next message of text. The library answers pings.
async fn next_message(stream: &mut WebSocketStream<Box<dyn Io>>) -> Result<Option<Bytes>, BoxError> {
    loop {
        let Some(message) = stream.next().await.transpose()? else { return Ok(None) };
        if message.is_text() {
            return Ok(Some(Bytes::from(message.into_payload())));
        }
        if let Some((code, reason)) = message.as_close() {
            return Err(format!("the origin closed the WebSocket: {} {reason}", u16::from(code)).into());
        }
    }
}

impl Lines {
    async fn next(&mut self) -> Result<Option<Bytes>, BoxError> {
        loop {
            while let Some(line) = self.take_line() {
                if let Some(data) = line.strip_prefix(b"data:") {
                    return Ok(Some(line.slice_ref(data)));
                }
            }
            if self.buffer.len() > MAX_EVENT_BYTES {
                return Err(format!("an event has more than {MAX_EVENT_BYTES} bytes").into());
            }
            let Some(frame) = self.body.frame().await.transpose()? else { return Ok(None) };
            if let Ok(data) = frame.into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }

    /// The next line, without its end.
    fn take_line(&mut self) -> Option<Bytes> {
        let Some(end) = self.buffer[self.scanned..].iter().position(|byte| *byte == b'\n') else {
            self.scanned = self.buffer.len();
            return None;
        };
        let mut line = self.buffer.split_to(self.scanned + end + 1);
        line.truncate(self.scanned + end);
        self.scanned = 0;
        Some(line.freeze())
    }
}
