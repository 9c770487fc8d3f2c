//! HTTP/1, with and without TLS: hyper reads and answers requests until one is for a stream. Then the engine takes the connection
//! over, and everything that hyper held for it is freed.

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
use hyper::{Request, StatusCode, Version};
use hyper_util::rt::TokioIo;
use tallycast_fanout::{Framing, Sink, close_gracefully};

use crate::connection::{Connection, ConnectionGuard, Peer};
use crate::event_response::EventResponse;
use crate::io::{Http1Io, OpenRequest};
use crate::limits::{LimitError, retry_after};
use crate::request_timer::Expired;
use crate::response::{BoxError, ResponseBody, boxed};
use crate::routes::{Answer, answer, fallback};
use crate::server::{RequestLog, Shared};
#[cfg(feature = "websocket")]
use crate::streams::Upgrade;
use crate::streams::{Reader, Stream, Transport};

/// The response to a request whose headers do not arrive (RFC 9110, §15.5.9).
pub(crate) const REQUEST_TIMEOUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\ncontent-type: text/plain; charset=utf-8\r\n\
    content-length: 44\r\nconnection: close\r\n\r\nthe request headers did not arrive in time.\n";
/// The response to a connection over a limit.
fn refusal(status: StatusCode, text: &str) -> String {
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
    Expired(Expired),
}

/// Serves one connection.
pub(crate) async fn serve(io: impl Http1Io, connection: Connection) {
    let Connection { peer, state, mut timer, mut guard, accepted, shared } = connection;
    let takeover = Arc::new(Mutex::new(None::<PendingTakeover>));
    let service = service_fn({
        let (takeover, state, shared) = (Arc::clone(&takeover), Arc::clone(&state), Arc::clone(&shared));
        move |request: Request<Incoming>| {
            let open = state.begin_request();
            let (takeover, state, shared) = (Arc::clone(&takeover), Arc::clone(&state), Arc::clone(&shared));
            // Boxed, because hyper returns the socket only of connections that can be moved.
            Box::pin(async move {
                let (request, body) = request.into_parts();
                let client = peer.client(&request.headers, &shared.streams.config.borrow());
                let log = RequestLog::new(client, &request);
                let response = match answer(&request, client, peer, &shared).await {
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
                Ok::<_, Infallible>(response.map(|body| EndMarked::new(body, open)))
            })
        }
    });
    let max_head_bytes = shared.streams.config.borrow().max_head_bytes;
    let mut connection = http1::Builder::new()
        .header_read_timeout(None)
        .keep_alive(!peer.is_over_limit)
        .max_buf_size(max_head_bytes)
        .serve_connection(TokioIo::new(io), service);
    let end = {
        let mut shutdown = pin!(shared.shutdown.cancelled());
        let mut overdue = pin!(shared.first_request_overdue(accepted));
        let mut closing = false;
        poll_fn(|context| {
            let polled = loop {
                let polled = connection.poll_without_shutdown(context);
                // hyper closes a connection without a request at once, although one may be on its way.
                let mut is_over = || match state.has_begun() {
                    true => shutdown.as_mut().poll(context).is_ready(),
                    false => overdue.as_mut().poll(context).is_ready(),
                };
                if closing || polled.is_ready() || !is_over() {
                    break polled;
                }
                closing = true;
                Pin::new(&mut connection).graceful_shutdown();
            };
            if state.complete() > 0 {
                guard.newcomer = None;
            }
            if state.flushed.load(Ordering::Acquire)
                && let Some(takeover) = takeover.lock().unwrap_or_else(PoisonError::into_inner).take()
            {
                return Poll::Ready(HyperEnd::Takeover(takeover));
            }
            match polled {
                Poll::Pending => timer.poll(context).map(HyperEnd::Expired),
                // hyper has written the response to a bad request.
                Poll::Ready(Err(error)) => {
                    tracing::debug!(client = %peer.address, %error, "connection failed");
                    Poll::Ready(HyperEnd::Closed)
                }
                Poll::Ready(Ok(())) => Poll::Ready(HyperEnd::Closed),
            }
        })
        .await
    };
    let http1::Parts { io, read_buf, .. } = connection.into_parts();
    if state.is_stalled() {
        // It is reset.
        return;
    }
    let stream = io.into_inner().into_stream();
    match end {
        HyperEnd::Takeover(takeover) => take_over(takeover, stream.into(), &read_buf, guard, &shared).await,
        HyperEnd::Expired(Expired::Head) => head_timeout(stream, peer, guard, &shared).await,
        HyperEnd::Closed if peer.is_over_limit => {
            drop(guard);
            if let Some(_slot) = shared.refusal_slot() {
                answer_and_close(stream, b"").await;
            }
        }
        HyperEnd::Expired(Expired::Idle) | HyperEnd::Closed => answer_and_close(stream, b"").await,
    }
}

/// Hands the connection of a stream to the engine. `read_ahead` is what hyper read after the request.
#[cfg_attr(not(feature = "websocket"), expect(unused_variables, reason = "event streams ignore what clients send"))]
async fn take_over(
    PendingTakeover { stream, request }: PendingTakeover,
    sink: Sink,
    read_ahead: &[u8],
    mut guard: ConnectionGuard,
    shared: &Shared,
) {
    let Stream { mut reader, transport } = *stream;
    guard.permits.join(std::mem::take(&mut reader.permits));
    let _newcomer = guard.newcomer.take();
    let guard = (guard, reader.topic_permit.take());
    let observer = shared.streams.observer();
    let subscriber = match transport {
        Transport::EventStream(response) => {
            let (framing, preamble) = event_stream(&request, &response, &reader, shared);
            let mut subscriber = reader.into_subscriber(framing, sink, guard, observer);
            subscriber.preamble = preamble;
            subscriber
        }
        #[cfg(feature = "websocket")]
        Transport::WebSocket(upgrade) => {
            let Upgrade { handshake, framing, preamble, inbound } = *upgrade;
            let mut subscriber = reader.into_subscriber(framing, sink, guard, observer);
            let head = head("101 Switching Protocols", &handshake.headers());
            subscriber.preamble = [head.into(), preamble].concat().into();
            subscriber.inbound = Some(inbound.with_read_ahead(read_ahead));
            subscriber
        }
    };
    // An engine that has ended drops the connection.
    let _ = shared.streams.handle.subscribe(subscriber).await;
}

/// Answers a connection whose request headers did not arrive in time.
pub(crate) async fn head_timeout(
    stream: impl tallycast_fanout::Stream,
    peer: Peer,
    guard: ConnectionGuard,
    shared: &Shared,
) {
    if peer.is_over_limit {
        shared.stats().refused.add(1);
        // While it is answered, another connection may take its slot.
        drop(guard);
        if let Some(_slot) = shared.refusal_slot() {
            refuse(stream, &LimitError::Connections).await;
        }
        return;
    }
    shared.stats().head_timeouts.add(1);
    tracing::debug!(client = %peer.address, "request headers did not arrive in time");
    answer_and_close(stream, REQUEST_TIMEOUT).await;
}

/// Answers a connection over a limit before its request is there.
pub(crate) async fn refuse(stream: impl tallycast_fanout::Stream, error: &LimitError) {
    answer_and_close(stream, refusal(error.status(), &error.to_string())).await;
}

/// The body of a response, whose end is that of the request.
pub(crate) struct EndMarked {
    body: ResponseBody,
    _open: OpenRequest,
}

impl EndMarked {
    pub(crate) fn new(body: ResponseBody, open: OpenRequest) -> Self {
        Self { body, _open: open }
    }
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

/// Writes a last response, and gives the client a moment to read it.
pub(crate) async fn answer_and_close(mut stream: impl tallycast_fanout::Stream, answer: impl AsRef<[u8]>) {
    if !close_gracefully(&mut stream, answer, LINGER_BYTES).await {
        // The kernel would go on sending what the client does not read.
        stream.discard_unsent();
    }
}

/// The framing of an event stream, and its first bytes: the response headers and what comes before the first event.
fn event_stream(
    request: &Parts,
    response: &EventResponse,
    reader: &Reader,
    shared: &Shared,
) -> (Arc<dyn Framing>, Bytes) {
    let config = shared.streams.config.borrow();
    let chunked = request.version != Version::HTTP_10;
    let (framing, first) = response.framing(chunked, &config);
    let mut headers = response.headers(request, reader.resume.as_ref(), &config.allowed_origins);
    if chunked {
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    let mut preamble = head("200 OK", &headers);
    preamble.extend_from_slice(&first);
    (framing, preamble.into())
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
            refusal(StatusCode::TOO_MANY_REQUESTS, "no").as_bytes(),
        ] {
            let text = std::str::from_utf8(answer).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{text}");
        }
    }
}
