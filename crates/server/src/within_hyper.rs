//! HTTP/2, and all HTTP over TLS: hyper frames the bodies, which read the same logs as the sockets do. A WebSocket over
//! TLS is taken back from hyper.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{Either, Full, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::PollSender;

use super::Shared;
use super::connection::{Held, Peer};
use super::framing::framing;
use super::http::{Answer, Stream, Transport, answer, conversation, stream_headers};
use super::pages::{Pages, text_page};
use tallycast_fanout::{Sink, Subscriber};

/// Batches between a shard and a body. The log holds what does not fit, so one is enough.
const BODY_BATCHES: usize = 1;
/// Bytes that hyper may hold of a stream that its client does not read.
const SEND_BUFFER: usize = 64 * 1024;
/// An HTTP/2 connection without traffic is asked after this time whether it is alive, and given the same time to answer.
const PING: Duration = Duration::from_secs(20);

/// What clients speak here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    Http1,
    Http2,
}

/// Serves one connection.
pub(super) async fn serve<P: Pages>(
    io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    version: Version,
    peer: Peer,
    held: Arc<Held>,
    shared: Arc<Shared<P>>,
) {
    let config = shared.config();
    let service = service_fn({
        let shared = Arc::clone(&shared);
        move |request: Request<Incoming>| {
            let (held, shared) = (Arc::clone(&held), Arc::clone(&shared));
            async move { Ok::<_, Infallible>(respond(request, peer, held, &shared).await) }
        }
    });
    let io = TokioIo::new(io);
    let ended = match version {
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
        tracing::debug!(%error, ?peer, "a connection failed");
    }
}

async fn respond<P: Pages>(
    mut request: Request<Incoming>,
    peer: Peer,
    held: Arc<Held>,
    shared: &Shared<P>,
) -> Response<Either<Full<Bytes>, impl Body<Data = Bytes, Error = Infallible> + use<P>>> {
    let upgrade = hyper::upgrade::on(&mut request);
    let (request, _body) = request.into_parts();
    let stream = match answer(&request, peer, shared).await {
        Answer::Page(page) => return page.map(Either::Left),
        Answer::Stream(stream) => stream,
    };
    let Stream { gateway, info, snapshot, transport, admission } = stream;
    let coding = match transport {
        Transport::Events(coding) => coding,
        Transport::WebSocket(handshake, places) => {
            let (framing, inbound) = conversation(&handshake, places, b"", shared);
            let limit = shared.config.borrow().head_timeout;
            // The connection goes on when this task has nothing to do with it any more.
            tokio::spawn(async move {
                let Ok(Ok(upgraded)) = tokio::time::timeout(limit, upgrade).await else { return };
                let sink = Sink::Stream(Box::new(TokioIo::new(upgraded)));
                let mut subscriber = Subscriber::new(info, framing, sink);
                subscriber.snapshot = snapshot;
                subscriber.inbound = Some(inbound);
                subscriber.guard = Some(Box::new((held, admission)));
                // An engine that has ended drops the connection, which is all there is to do.
                let _ = gateway.subscribe(subscriber).await;
            });
            let mut response = Response::new(Either::Left(Full::default()));
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            *response.headers_mut() = handshake.headers();
            return response;
        }
    };
    let (sender, batches) = mpsc::channel(BODY_BATCHES);
    let framing = framing(false, coding);
    let preamble = framing.opening();
    let mut subscriber = Subscriber::new(info, framing, Sink::Body(PollSender::new(sender)));
    subscriber.preamble = preamble;
    subscriber.snapshot = snapshot;
    subscriber.guard = Some(Box::new(admission));
    if let Err(error) = gateway.subscribe(subscriber).await {
        return text_page(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).map(Either::Left);
    }
    let frames = ReceiverStream::new(batches).map(|batch| Ok::<_, Infallible>(Frame::data(batch)));
    let mut response = Response::new(Either::Right(StreamBody::new(frames)));
    *response.headers_mut() = stream_headers(&request, coding, &shared.config.borrow().allowed_origins);
    response
}
