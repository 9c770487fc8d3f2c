//! HTTP/2, and all HTTP over TLS: hyper frames the bodies, which read the same logs as sockets do. A WebSocket over TLS is
//! taken over from hyper.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
#[cfg(feature = "tls")]
use hyper::server::conn::http1;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::connection::{ConnectionGuard, Peer};
use crate::response::{ResponseBody, boxed};
use crate::routes::{Answer, answer, fallback};
use crate::server::{RequestLog, Shared};

/// Bytes that hyper may hold of a stream that its client does not read.
const SEND_BUFFER: usize = 64 * 1024;
/// An HTTP/2 connection without traffic is sent a ping after this time, and closed if the answer takes as long.
const PING: Duration = Duration::from_secs(20);

/// The protocol of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    #[cfg(feature = "tls")]
    Http1,
    Http2,
}

/// Serves one connection.
pub(crate) async fn serve(
    io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    version: Version,
    peer: Peer,
    guard: Arc<ConnectionGuard>,
    shared: Arc<Shared>,
) {
    let config = shared.config();
    let service = service_fn({
        let shared = Arc::clone(&shared);
        move |request: Request<Incoming>| {
            let (guard, shared) = (Arc::clone(&guard), Arc::clone(&shared));
            async move { Ok::<_, Infallible>(respond(request, peer, guard, &shared).await) }
        }
    });
    let io = TokioIo::new(io);
    let ended = match version {
        #[cfg(feature = "tls")]
        Version::Http1 => {
            let mut connection = pin!(
                http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(config.head_timeout)
                    .max_buf_size(config.max_head_bytes)
                    .serve_connection(io, service)
                    .with_upgrades()
            );
            tokio::select! {
                ended = &mut connection => ended,
                () = shared.shutdown.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        }
        Version::Http2 => {
            let mut connection = pin!(
                http2::Builder::new(TokioExecutor::new())
                    .timer(TokioTimer::new())
                    .keep_alive_interval(PING)
                    .keep_alive_timeout(PING)
                    .max_concurrent_streams(config.max_http2_streams)
                    .max_header_list_size(u32::try_from(config.max_head_bytes).unwrap_or(u32::MAX))
                    .max_send_buf_size(SEND_BUFFER)
                    .serve_connection(io, service)
            );
            tokio::select! {
                ended = &mut connection => ended,
                () = shared.shutdown.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(client = %peer.address, %error, "connection failed");
    }
}

async fn respond(
    request: Request<Incoming>,
    peer: Peer,
    guard: Arc<ConnectionGuard>,
    shared: &Shared,
) -> Response<ResponseBody> {
    let (mut request, body) = request.into_parts();
    let client = peer.client(&request.headers, &shared.streams.config.borrow());
    let log = RequestLog::new(client, &request);
    let response = match answer(&request, client, shared).await {
        Answer::Whole(response) => boxed(response),
        Answer::Fallback => fallback(Request::from_parts(request, body), client, shared).await,
        Answer::Stream(stream) => boxed(shared.streams.respond(*stream, &mut request, Some(Box::new(guard))).await),
    };
    log.finish(response.status());
    response
}
