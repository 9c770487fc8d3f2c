//! HTTP/1 without TLS: hyper reads and answers requests until one is for a stream. Then the engine takes the socket over, and
//! everything that hyper held for the connection is freed.

use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::SystemTime;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{HeaderMap, HeaderValue, TRANSFER_ENCODING};
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use tallycast_fanout::{Sink, Subscriber, close_gracefully};
use tokio::net::TcpStream;

use crate::coding::Coding;
use crate::connection::{ConnectionGuard, Peer};
use crate::event_stream::EventStream;
use crate::io::{IoState, Socket};
use crate::limits::retry_after;
use crate::response::{BoxError, ResponseBody, boxed};
use crate::routes::{Answer, answer, fallback};
use crate::server::{RequestLog, Shared};
use crate::streams::{Stream, Transport, stream_headers};

/// The response to a request whose headers do not arrive (RFC 9110, §15.5.9).
pub(crate) const REQUEST_TIMEOUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\ncontent-type: text/plain; charset=utf-8\r\n\
    content-length: 44\r\nconnection: close\r\n\r\nthe request headers did not arrive in time.\n";
/// The statuses of refusals (RFC 9110, §15.6.4; RFC 6585, §4).
pub(crate) const SERVICE_UNAVAILABLE: &str = "503 Service Unavailable";
pub(crate) const TOO_MANY_REQUESTS: &str = "429 Too Many Requests";

/// The response to a connection over a limit.
pub(crate) fn refusal(status: &str, text: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\nretry-after: {}\r\n\
        access-control-allow-origin: *\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}\n",
        retry_after(),
        text.len() + 1
    )
}

/// The response to plain HTTP on a port for TLS (RFC 9110, §15.5.20).
#[cfg(feature = "tls")]
pub(crate) const MISDIRECTED_REQUEST: &[u8] =
    b"HTTP/1.1 421 Misdirected Request\r\ncontent-type: text/plain; charset=utf-8\r\n\
    content-length: 45\r\nconnection: close\r\n\r\nthis port requires TLS; use an https:// URL.\n";

/// The bytes of a refused request that are read, so that closing does not discard the response.
const LINGER_BYTES: u64 = 256 * 1024;

/// A request for a stream, kept until hyper gives up the socket.
struct PendingTakeover {
    stream: Box<Stream>,
    request: Box<Parts>,
}

/// How hyper's part of a connection ended.
enum HyperEnd {
    Takeover(PendingTakeover),
    Closed,
    HeadTimeout,
}

/// Serves one connection.
pub(crate) async fn serve(
    stream: TcpStream,
    read_ahead: Bytes,
    peer: Peer,
    guard: ConnectionGuard,
    shared: Arc<Shared>,
) {
    let takeover = Arc::new(Mutex::new(None::<PendingTakeover>));
    let state = Arc::<IoState>::default();
    let service = service_fn({
        let (takeover, state, shared) = (Arc::clone(&takeover), Arc::clone(&state), Arc::clone(&shared));
        move |request: Request<Incoming>| {
            let (takeover, state, shared) = (Arc::clone(&takeover), Arc::clone(&state), Arc::clone(&shared));
            // Boxed, because hyper returns the socket only of connections that can be moved.
            Box::pin(async move {
                let (request, body) = request.into_parts();
                // Bytes that arrive from now on belong to another request, unless this one has a body.
                state.read.store(false, Ordering::Release);
                let client = peer.client(&request.headers, &shared.streams.config.borrow());
                let log = RequestLog::new(client, &request);
                let response = match answer(&request, client, &shared).await {
                    Answer::Whole(response) => boxed(response),
                    Answer::Fallback => fallback(Request::from_parts(request, body), client, &shared).await,
                    Answer::Stream(stream) => {
                        log.finish(stream.transport.status());
                        // What hyper wrote before must be on the socket before the stream is.
                        state.flushed.store(false, Ordering::Release);
                        let pending_takeover = PendingTakeover { stream, request: Box::new(request) };
                        *takeover.lock().unwrap_or_else(PoisonError::into_inner) = Some(pending_takeover);
                        pending().await
                    }
                };
                log.finish(response.status());
                Ok::<_, Infallible>(response.map(|body| EndMarked { body, state }))
            })
        }
    });
    let (head_timeout, max_head_bytes) = {
        let config = shared.streams.config.borrow();
        (config.head_timeout, config.max_head_bytes)
    };
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .max_buf_size(max_head_bytes)
        .serve_connection(TokioIo::new(Socket::new(stream, read_ahead, Arc::clone(&state))), service);
    let end = {
        let mut shutdown = pin!(shared.shutdown.cancelled());
        let mut closing = false;
        poll_fn(|context| {
            if !closing && shutdown.as_mut().poll(context).is_ready() {
                closing = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
            let polled = connection.poll_without_shutdown(context);
            if state.flushed.load(Ordering::Acquire)
                && let Some(takeover) = takeover.lock().unwrap_or_else(PoisonError::into_inner).take()
            {
                return Poll::Ready(HyperEnd::Takeover(takeover));
            }
            polled.map(|done| match done {
                Err(error) if error.is_timeout() => HyperEnd::HeadTimeout,
                // hyper has written the response to a bad request.
                Err(error) => {
                    tracing::debug!(client = %peer.address, %error, "connection failed");
                    HyperEnd::Closed
                }
                Ok(()) => HyperEnd::Closed,
            })
        })
        .await
    };
    let http1::Parts { io, read_buf, .. } = connection.into_parts();
    let socket = io.into_inner().stream;
    match end {
        HyperEnd::Takeover(takeover) => take_over(takeover, socket, &read_buf, guard, &shared).await,
        // The connection was kept open for another request, and none came.
        HyperEnd::HeadTimeout if !state.read.load(Ordering::Acquire) => answer_and_close(socket, b"").await,
        HyperEnd::HeadTimeout => {
            shared.stats().head_timeouts.add(1);
            tracing::debug!(client = %peer.address, "request headers did not arrive in time");
            answer_and_close(socket, REQUEST_TIMEOUT).await;
        }
        HyperEnd::Closed => answer_and_close(socket, b"").await,
    }
}

/// Hands the socket of a stream to the engine. `read_ahead` is what hyper read after the request.
#[cfg_attr(not(feature = "websocket"), expect(unused_variables, reason = "event streams ignore what clients send"))]
async fn take_over(
    PendingTakeover { stream, request }: PendingTakeover,
    socket: TcpStream,
    read_ahead: &[u8],
    mut guard: ConnectionGuard,
    shared: &Shared,
) {
    let Stream { info, snapshot, grant, transport, permits, topic_permit } = *stream;
    guard.permits.join(permits);
    let mut subscriber = match transport {
        Transport::EventStream(coding) => {
            let framing = EventStream::shared(coding, request.version != Version::HTTP_10);
            let preamble = event_stream_preamble(&request, coding, &framing, shared);
            let mut subscriber = Subscriber::new(info, framing, Sink::Socket(socket));
            subscriber.preamble = preamble;
            subscriber
        }
        #[cfg(feature = "websocket")]
        Transport::WebSocket(handshake, mut session) => {
            session.read_ahead(read_ahead);
            let framing = crate::websocket::framing(handshake.subprotocol);
            let mut subscriber = Subscriber::new(info, framing, Sink::Socket(socket));
            subscriber.preamble = head("101 Switching Protocols", &handshake.headers()).into();
            subscriber.inbound = Some(session);
            subscriber
        }
    };
    subscriber.snapshot = snapshot;
    subscriber.grant = grant;
    subscriber.guard = Some(Box::new((guard, topic_permit)));
    // An engine that has ended drops the connection.
    let _ = shared.streams.handle.subscribe(subscriber).await;
}

/// The body of a response, whose end is also that of the request's body: bytes that arrive afterwards belong to another
/// request.
struct EndMarked {
    body: ResponseBody,
    state: Arc<IoState>,
}

impl Body for EndMarked {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for EndMarked {
    fn drop(&mut self) {
        self.state.read.store(false, Ordering::Release);
    }
}

/// Writes a last response, and gives the client a moment to read it.
pub(crate) async fn answer_and_close(mut stream: TcpStream, answer: impl AsRef<[u8]>) {
    // A client that is gone, or does not read, gets no response.
    let _ = close_gracefully(&mut stream, answer, LINGER_BYTES).await;
}

/// The response headers and the stream's first comment.
fn event_stream_preamble(request: &Parts, coding: Coding, framing: &EventStream, shared: &Shared) -> Bytes {
    let config = shared.streams.config.borrow();
    let mut headers = stream_headers(request, coding, &config.allowed_origins);
    if request.version != Version::HTTP_10 {
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    let mut preamble = head("200 OK", &headers);
    preamble.extend_from_slice(&framing.preamble(&config));
    preamble.into()
}

/// The status line and headers of a response (RFC 9112, §4).
fn head(status: &str, headers: &HeaderMap) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status}\r\n").into_bytes();
    for (name, value) in headers {
        write_header(&mut head, name.as_str(), value.as_bytes());
    }
    write_header(&mut head, "date", httpdate::fmt_http_date(SystemTime::now()).as_bytes());
    head.extend_from_slice(b"\r\n");
    head
}

fn write_header(head: &mut Vec<u8>, name: &str, value: &[u8]) {
    head.extend_from_slice(name.as_bytes());
    head.extend_from_slice(b": ");
    head.extend_from_slice(value);
    head.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canned_responses_have_correct_content_length() {
        for answer in [
            REQUEST_TIMEOUT,
            #[cfg(feature = "tls")]
            MISDIRECTED_REQUEST,
            refusal(TOO_MANY_REQUESTS, "no").as_bytes(),
        ] {
            let text = std::str::from_utf8(answer).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{text}");
        }
    }
}
