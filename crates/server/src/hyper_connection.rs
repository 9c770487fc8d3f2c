//! HTTP/2, with and without TLS: hyper frames the bodies, which read the same logs as sockets do.

use std::any::Any;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;

use crate::connection::{Connection, ConnectionGuard, Peer};
use crate::io::IoState;
use crate::limits::{LimitError, Permits};
use crate::request_timer::RequestTimer;
use crate::response::{ResponseBody, WholeResponse, boxed};
use crate::routes::{Answer, answer, fallback};
use crate::server::{RequestLog, Shared};
use crate::slots::Slot;
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
    _guard: ConnectionGuard,
    /// Until the first response.
    newcomer: Mutex<Option<Slot>>,
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
    Connection { peer, state, mut guard, shared, .. }: Connection,
) {
    let config = shared.config();
    let http2 = Arc::new(Http2 {
        peer,
        state: Arc::clone(&state),
        newcomer: Mutex::new(guard.newcomer.take()),
        _guard: guard,
        has_stream: Arc::default(),
        snapshots: Arc::new(Semaphore::new(SNAPSHOTS)),
        shared: Arc::clone(&shared),
    });
    let service = service_fn(move |request: Request<Incoming>| {
        let open = http2.state.begin_request();
        let http2 = Arc::clone(&http2);
        async move {
            let (response, permits) = match http2.admit() {
                Ok(permits) => (http2.respond(request).await, permits),
                Err(error) => (boxed(over_limit(&error)), Permits::default()),
            };
            http2.newcomer.lock().unwrap_or_else(PoisonError::into_inner).take();
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
    if let Err(error) = drive(connection, http2::Connection::graceful_shutdown, timer, &shared).await {
        tracing::debug!(client = %peer.address, %error, "connection failed");
    }
}

/// Runs a connection until it has ended, or reaches a limit.
async fn drive<C: Future<Output = hyper::Result<()>>>(
    connection: C,
    graceful_shutdown: impl Fn(Pin<&mut C>),
    mut timer: RequestTimer,
    shared: &Shared,
) -> hyper::Result<()> {
    let mut connection = pin!(connection);
    let mut shutdown = pin!(shared.shutdown.cancelled());
    let mut closing = false;
    poll_fn(|context| {
        if !closing && shutdown.as_mut().poll(context).is_ready() {
            closing = true;
            graceful_shutdown(connection.as_mut());
        }
        loop {
            if let Poll::Ready(ended) = connection.as_mut().poll(context) {
                return Poll::Ready(ended);
            }
            std::task::ready!(timer.poll(context));
            if closing {
                return Poll::Ready(Ok(()));
            }
            closing = true;
            graceful_shutdown(connection.as_mut());
            timer.limit_close(CLOSE_LIMIT);
        }
    })
    .await
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

    /// The response to a request. A stream of the engine is reset when the engine cuts it off.
    async fn respond(&self, request: Request<Incoming>) -> Response<ResponseBody> {
        let Self { peer, shared, .. } = self;
        let (request, body) = request.into_parts();
        let client = peer.client(&request.headers, &shared.streams.config.borrow());
        let log = RequestLog::new(client, &request);
        let response = match answer(&request, client, *peer, shared).await {
            Answer::Whole(response) => boxed(response),
            Answer::Fallback => fallback(Request::from_parts(request, body), client, shared).await,
            Answer::Stream(stream) => match self.snapshot_permit(stream.reader.snapshot).await {
                Ok(permit) => {
                    let response = shared.streams.respond(*stream, request, permit).await;
                    if let Some(signal) = response.body().cut_off_signal() {
                        reset_at(signal);
                    }
                    boxed(response)
                }
                Err(response) => boxed(response),
            },
        };
        log.finish(response.status());
        response
    }

    /// Waits until the connection may take one more snapshot, if a stream is to start with one. Returns what the stream holds until
    /// it has taken it.
    async fn snapshot_permit(&self, snapshot: bool) -> Result<Option<Box<dyn Any + Send + Sync>>, WholeResponse> {
        if !snapshot {
            return Ok(None);
        }
        let limit = self.shared.streams.config.borrow().snapshot_limit;
        match tokio::time::timeout(limit, Arc::clone(&self.snapshots).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(Some(Box::new(permit))),
            Ok(Err(_)) | Err(_) => {
                let text = format!("this connection is taking {SNAPSHOTS} snapshots already; try again in a moment.\n");
                Err(try_again(StatusCode::SERVICE_UNAVAILABLE, text))
            }
        }
    }
}
