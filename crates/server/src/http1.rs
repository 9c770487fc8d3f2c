//! HTTP/1: hyper reads requests and answers them, until one asks for a stream. Then the socket is taken back from hyper
//! and handed to the engine, and all that hyper held for the connection is freed.

use std::convert::Infallible;
use std::future::{Future, pending, poll_fn};
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::SystemTime;

use bytes::Bytes;
use hyper::header::{HeaderMap, HeaderValue, TRANSFER_ENCODING};
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;

use super::Shared;
use super::connection::{Held, Peer};
use super::framing::{EventStream, framing};
use super::http::{Answer, Stream, Transport, answer, conversation, stream_headers};
use super::limits::retry_after;
use super::pages::Pages;
use super::socket::{Marks, Socket};
use tallycast_fanout::{Framing, Inbound, Sink, Subscriber, close_gracefully};

/// The answer to a request whose head does not come (RFC 9110, §15.5.9).
pub(super) const REQUEST_TIMEOUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\ncontent-type: text/plain; charset=utf-8\r\n\
    content-length: 41\r\nconnection: close\r\n\r\nthe request's head did not come in time.\n";
/// The statuses of refusals (RFC 9110, §15.6.4; RFC 6585, §4).
pub(super) const SERVICE_UNAVAILABLE: &str = "503 Service Unavailable";
pub(super) const TOO_MANY_REQUESTS: &str = "429 Too Many Requests";

/// The answer to a connection over a limit.
pub(super) fn refusal(status: &str, text: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\nretry-after: {}\r\n\
        access-control-allow-origin: *\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}\n",
        retry_after(),
        text.len() + 1
    )
}

/// The answer to plain HTTP where TLS is spoken (RFC 9110, §15.5.20).
pub(super) const MISDIRECTED_REQUEST: &[u8] =
    b"HTTP/1.1 421 Misdirected Request\r\ncontent-type: text/plain; charset=utf-8\r\n\
    content-length: 51\r\nconnection: close\r\n\r\nthis port speaks TLS; ask it with an https:// URL.\n";

/// The bytes of a refused request that are read, so that closing does not reset the answer away.
const LINGER_BYTES: u64 = 256 * 1024;

/// A request for a stream, put aside while hyper still has the socket.
type Wanted = Box<(Stream, Parts)>;

/// How hyper's part ended.
enum End {
    Stream(Wanted),
    Closed,
    HeadTimeout,
}

/// Serves one connection.
pub(super) async fn serve<P: Pages>(
    stream: TcpStream,
    ahead: Bytes,
    peer: Peer,
    mut held: Held,
    shared: Arc<Shared<P>>,
) {
    let wanted = Arc::new(Mutex::new(None::<Wanted>));
    let marks = Arc::<Marks>::default();
    let service = service_fn({
        let (wanted, marks, shared) = (Arc::clone(&wanted), Arc::clone(&marks), Arc::clone(&shared));
        move |request: Request<_>| {
            let (wanted, marks, shared) = (Arc::clone(&wanted), Arc::clone(&marks), Arc::clone(&shared));
            // Boxed, because hyper gives the socket back only of connections that can be moved.
            Box::pin(async move {
                let (request, _body): (_, hyper::body::Incoming) = request.into_parts();
                // What comes from now on is another request.
                marks.read.store(false, Ordering::Release);
                match answer(&request, peer, &shared).await {
                    Answer::Page(page) => Ok::<_, Infallible>(page),
                    Answer::Stream(stream) => {
                        // What hyper wrote before must be on the socket before the stream is.
                        marks.flushed.store(false, Ordering::Release);
                        *wanted.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new((stream, request)));
                        pending().await
                    }
                }
            })
        }
    });
    let (head_timeout, max_head_bytes) = {
        let config = shared.config.borrow();
        (config.head_timeout, config.max_head_bytes)
    };
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .max_buf_size(max_head_bytes)
        .serve_connection(TokioIo::new(Socket::new(stream, ahead, Arc::clone(&marks))), service);
    let end = {
        let mut shutdown = pin!(shared.shutdown.cancelled());
        let mut closing = false;
        poll_fn(|context| {
            if !closing && shutdown.as_mut().poll(context).is_ready() {
                closing = true;
                std::pin::Pin::new(&mut connection).graceful_shutdown();
            }
            let polled = connection.poll_without_shutdown(context);
            if marks.flushed.load(Ordering::Acquire)
                && let Some(wanted) = wanted.lock().unwrap_or_else(PoisonError::into_inner).take()
            {
                return Poll::Ready(End::Stream(wanted));
            }
            polled.map(|done| match done {
                Err(error) if error.is_timeout() => End::HeadTimeout,
                // hyper has written the answer to a bad request.
                Ok(()) | Err(_) => End::Closed,
            })
        })
        .await
    };
    let http1::Parts { io, read_buf, .. } = connection.into_parts();
    let socket = io.into_inner().stream;
    match end {
        End::Stream(wanted) => {
            let (Stream { gateway, info, snapshot, transport, admission }, request) = *wanted;
            held.admission.join(admission);
            let (framing, preamble, inbound): (Arc<dyn Framing>, _, Option<Box<dyn Inbound>>) = match transport {
                Transport::Events(coding) => {
                    let framing = framing(request.version != Version::HTTP_10, coding);
                    let headers = stream_headers(&request, coding, &shared.config.borrow().allowed_origins);
                    let preamble = event_stream(request.version, headers, &framing);
                    (framing, preamble, None)
                }
                Transport::WebSocket(handshake, places) => {
                    let preamble = head("101 Switching Protocols", &handshake.headers());
                    let (framing, inbound) = conversation(&handshake, places, &read_buf, &shared);
                    (framing, preamble.into(), Some(inbound))
                }
            };
            let mut subscriber = Subscriber::new(info, framing, Sink::Socket(socket));
            subscriber.preamble = preamble;
            subscriber.snapshot = snapshot;
            subscriber.inbound = inbound;
            subscriber.guard = Some(Box::new(held));
            // An engine that has ended drops the connection, which is all there is to do.
            let _ = gateway.subscribe(subscriber).await;
        }
        // Kept for a next request, which was not needed.
        End::HeadTimeout if !marks.read.load(Ordering::Acquire) => answer_and_close(socket, b"").await,
        End::HeadTimeout => {
            shared.stats.head_timeouts.add(1);
            answer_and_close(socket, REQUEST_TIMEOUT).await;
        }
        End::Closed => answer_and_close(socket, b"").await,
    }
}

/// Writes a last answer, and gives the client a moment to read it.
pub(super) async fn answer_and_close(mut stream: TcpStream, answer: impl AsRef<[u8]>) {
    // A client that is gone, or does not read, gets no answer.
    let _ = close_gracefully(&mut stream, answer, LINGER_BYTES).await;
}

/// The response's head and the stream's first comment.
fn event_stream(version: Version, mut headers: HeaderMap, framing: &EventStream) -> Bytes {
    if version != Version::HTTP_10 {
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    let mut preamble = head("200 OK", &headers);
    preamble.extend_from_slice(&framing.opening());
    preamble.into()
}

/// A response's head (RFC 9112, §4).
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
    fn canned_answers_tell_their_true_length() {
        for answer in [REQUEST_TIMEOUT, MISDIRECTED_REQUEST, refusal(TOO_MANY_REQUESTS, "no").as_bytes()] {
            let text = std::str::from_utf8(answer).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{text}");
        }
    }
}
