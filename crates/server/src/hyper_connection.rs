//! HTTP/2, and all HTTP over TLS: hyper frames the bodies, which read the same logs as sockets do. A WebSocket over TLS is
//! taken over from hyper.

use std::any::Any;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use hyper::body::Incoming;
#[cfg(feature = "tls")]
use hyper::server::conn::http1;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tallycast_fanout::CutOffSignal;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;

use crate::connection::{Connection, ConnectionGuard, Peer};
use crate::io::IoState;
use crate::limits::{LimitError, Permits};
use crate::request_timer::{Expired, RequestTimer};
use crate::response::{ResponseBody, WholeResponse, boxed};
use crate::routes::{Answer, answer, fallback};
use crate::server::{RequestLog, Shared};
use crate::stream_watch::{SEND_BUFFER, StreamExecutor, WatchedBody, reset_at};
use crate::streams::{over_limit, try_again};

/// An HTTP/2 connection without traffic is sent a ping after this time, and closed if the answer takes as long.
const PING: Duration = Duration::from_secs(20);
/// Snapshots that one HTTP/2 connection may be taking at the same time; further streams wait for their turn. Each may be large,
/// and the client alone decides how long it takes.
const SNAPSHOTS: usize = 4;
/// Bytes of request bodies that a client may send before they are read, on one connection: the least that RFC 9113, §6.9.2, has.
/// h2 keeps them while a request waits for its turn. hyper's default is a megabyte.
const RECEIVE_WINDOW: u32 = 65_535;
/// The time for a connection that was idle to close gracefully: a request may be on its way.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// What the requests of one HTTP/2 connection share.
struct Http2 {
    peer: Peer,
    state: Arc<IoState>,
    guard: Arc<ConnectionGuard>,
    /// Whether one of its streams counts as the connection itself.
    has_stream: Arc<AtomicBool>,
    snapshots: Arc<Semaphore>,
    shared: Arc<Shared>,
}

/// The permit of the stream that counts as the connection itself.
struct OwnStream(Arc<AtomicBool>);

impl Drop for OwnStream {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Serves one connection with HTTP/2.
pub(crate) async fn serve_http2(
    io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    Connection { peer, state, guard, shared, .. }: Connection,
) {
    let config = shared.config();
    let http2 = Arc::new(Http2 {
        peer,
        state: Arc::clone(&state),
        guard: Arc::new(guard),
        has_stream: Arc::default(),
        snapshots: Arc::new(Semaphore::new(SNAPSHOTS)),
        shared: Arc::clone(&shared),
    });
    let service = service_fn(move |request: Request<Incoming>| {
        let open = http2.state.begin_request();
        let http2 = Arc::clone(&http2);
        async move {
            let (response, permits) = match http2.admit() {
                Ok(permits) => {
                    let guard = Arc::clone(&http2.guard);
                    (respond(request, peer, guard, Some(&http2.snapshots), reset_at, &http2.shared).await, permits)
                }
                Err(error) => (boxed(over_limit(&error)), Permits::default()),
            };
            Ok::<_, Infallible>(response.map(|body| WatchedBody::new(body, (open, permits))))
        }
    });
    let executor = StreamExecutor { stall_limit: config.write_timeout, stats: Arc::clone(&shared.streams.stats) };
    let connection = http2::Builder::new(executor)
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .max_concurrent_streams(config.max_http2_streams)
        .max_header_list_size(u32::try_from(config.max_head_bytes).unwrap_or(u32::MAX))
        .max_send_buf_size(SEND_BUFFER)
        .initial_stream_window_size(RECEIVE_WINDOW)
        .initial_connection_window_size(RECEIVE_WINDOW)
        .serve_connection(TokioIo::new(io), service);
    let timer = RequestTimer::http2(Arc::clone(&state), config.idle_timeout);
    drive(connection, http2::Connection::graceful_shutdown, &state, timer, peer, &shared).await;
}

/// Serves one connection with HTTP/1 over TLS.
#[cfg(feature = "tls")]
pub(crate) async fn serve_http1(
    io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    Connection { peer, state, timer, guard, shared }: Connection,
) {
    let guard = Arc::new(guard);
    let service = service_fn({
        let (state, shared) = (Arc::clone(&state), Arc::clone(&shared));
        move |request: Request<Incoming>| {
            let open = state.begin_request();
            let (guard, state, shared) = (Arc::clone(&guard), Arc::clone(&state), Arc::clone(&shared));
            async move {
                let response = respond(request, peer, guard, None, |signal| state.close_at(signal), &shared).await;
                Ok::<_, Infallible>(response.map(|body| crate::http1::EndMarked::new(body, open)))
            }
        }
    });
    let connection = http1::Builder::new()
        .header_read_timeout(None)
        .keep_alive(!peer.is_over_limit)
        .max_buf_size(shared.config().max_head_bytes)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    drive(connection, http1::UpgradeableConnection::graceful_shutdown, &state, timer, peer, &shared).await;
}

/// Runs a connection until it has ended, or reaches a limit.
async fn drive<C: Future<Output = hyper::Result<()>>>(
    connection: C,
    graceful_shutdown: impl Fn(Pin<&mut C>),
    state: &IoState,
    mut timer: RequestTimer,
    peer: Peer,
    shared: &Shared,
) {
    let mut connection = pin!(connection);
    let mut shutdown = pin!(shared.shutdown.cancelled());
    let mut closing = false;
    let ended = poll_fn(|context| {
        if !closing && shutdown.as_mut().poll(context).is_ready() {
            closing = true;
            graceful_shutdown(connection.as_mut());
        }
        loop {
            if let Poll::Ready(ended) = connection.as_mut().poll(context) {
                return Poll::Ready(Ok(ended));
            }
            if state.poll_cut_off(context).is_ready() {
                // Dropping the connection resets it.
                return Poll::Ready(Ok(Ok(())));
            }
            match std::task::ready!(timer.poll(context)) {
                Expired::Idle if !closing => {
                    closing = true;
                    graceful_shutdown(connection.as_mut());
                    timer.limit_close(CLOSE_LIMIT);
                }
                expired => return Poll::Ready(Err(expired)),
            }
        }
    });
    match ended.await {
        Ok(Ok(())) | Err(Expired::Idle) => {}
        Ok(Err(error)) => tracing::debug!(client = %peer.address, %error, "connection failed"),
        Err(Expired::Head) => {
            shared.stats().head_timeouts.add(1);
            tracing::debug!(client = %peer.address, "request headers did not arrive in time");
        }
    }
}

impl Http2 {
    /// Admits one more stream. The first one counts as the connection itself.
    fn admit(&self) -> Result<Permits, LimitError> {
        if !self.has_stream.swap(true, Ordering::AcqRel) {
            let mut permits = Permits::default();
            permits.add(OwnStream(Arc::clone(&self.has_stream)));
            return Ok(permits);
        }
        // Those of a proxy's clients count when they open an event stream.
        let address = (!self.peer.is_proxy).then_some(self.peer.address);
        self.shared.streams.limits.admit_stream(address, &self.shared.streams.config.borrow())
    }
}

/// The response to a request. Over HTTP/2, `snapshots` limits the streams of the connection that take a snapshot. `abort_at` gets
/// the signal at which a stream has to end even if its client takes nothing.
async fn respond(
    request: Request<Incoming>,
    peer: Peer,
    guard: Arc<ConnectionGuard>,
    snapshots: Option<&Arc<Semaphore>>,
    abort_at: impl FnOnce(CutOffSignal),
    shared: &Shared,
) -> Response<ResponseBody> {
    let (mut request, body) = request.into_parts();
    let client = peer.client(&request.headers, &shared.streams.config.borrow());
    let log = RequestLog::new(client, &request);
    let response = match answer(&request, client, peer, shared).await {
        Answer::Whole(response) => boxed(response),
        Answer::Fallback => fallback(Request::from_parts(request, body), client, shared).await,
        Answer::Stream(stream) => match snapshot_permit(snapshots.filter(|_| stream.snapshot), shared).await {
            Ok(permit) => {
                let response = shared.streams.respond(*stream, &mut request, Some(Box::new(guard)), permit).await;
                response.body().cut_off_signal().map(abort_at);
                boxed(response)
            }
            Err(response) => boxed(response),
        },
    };
    log.finish(response.status());
    response
}

/// Waits until `snapshots`, if they are limited, allow one more. Returns what the stream holds until it has taken its snapshot.
async fn snapshot_permit(
    snapshots: Option<&Arc<Semaphore>>,
    shared: &Shared,
) -> Result<Option<Box<dyn Any + Send + Sync>>, WholeResponse> {
    let Some(snapshots) = snapshots else { return Ok(None) };
    let limit = shared.streams.config.borrow().snapshot_limit;
    match tokio::time::timeout(limit, Arc::clone(snapshots).acquire_owned()).await {
        Ok(Ok(permit)) => Ok(Some(Box::new(permit))),
        Ok(Err(_)) | Err(_) => {
            let text = format!("this connection is taking {SNAPSHOTS} snapshots already; try again in a moment.\n");
            Err(try_again(StatusCode::SERVICE_UNAVAILABLE, text))
        }
    }
}
