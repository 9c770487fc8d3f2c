//! HTTP/2 streams (RFC 9113): a response whose client takes no data is reset, even if the socket makes progress with other streams,
//! and so is one that the engine has cut off.
//!
//! Flow control lets a client stop a single stream. hyper then asks the body for nothing and holds what it has got, so neither
//! body nor socket notices. Here every piece of a body knows when h2 has written it or dropped it. A body ends only after its
//! last piece is written, unless that is short: until then dropping the task of the stream resets it, which frees everything that
//! h2 holds for it.

use std::io::IoSlice;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame, SizeHint};
use hyper::rt::Executor;
use tallycast_fanout::CutOffSignal;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::Stats;
use crate::response::{BoxError, ResponseBody};

/// Bytes that h2 buffers of a stream.
pub(crate) const SEND_BUFFER: usize = 64 * 1024;
/// Bytes of a piece. h2 accepts one while there is room for any part of it.
const PIECE_BYTES: usize = 16 * 1024;
/// Last bytes of a body that end its stream without a wait until they are written, so that a short response needs one write. h2
/// keeps them if the client does not take them.
const UNWATCHED_BYTES: usize = 1024;

tokio::task_local! {
    /// Of the stream whose task this is.
    static PROGRESS: Arc<StreamProgress>;
}

/// How far the response of one stream has been written.
#[derive(Debug)]
pub(crate) struct StreamProgress(Mutex<Progress>);

#[derive(Debug)]
struct Progress {
    /// Bytes that hyper and h2 hold.
    unsent: usize,
    /// When bytes were last written, or began to wait.
    moved_at: Instant,
    /// For the end of the wait.
    waker: Option<Waker>,
    /// Of the engine's stream in the response, if it is one.
    cut_off: Option<CutOffSignal>,
}

/// How the task of a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TaskEnd {
    Complete,
    /// Its client took no data for too long.
    Stalled,
    /// The engine cut it off, and counted that.
    CutOff,
}

impl StreamProgress {
    fn new() -> Self {
        Self(Mutex::new(Progress { unsent: 0, moved_at: Instant::now(), waker: None, cut_off: None }))
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut usize)) {
        let mut progress = self.lock();
        change(&mut progress.unsent);
        progress.moved_at = Instant::now();
        if progress.unsent == 0
            && let Some(waker) = progress.waker.take()
        {
            waker.wake();
        }
    }

    fn unsent(&self) -> usize {
        self.lock().unsent
    }

    /// When bytes last moved, if there are any that wait.
    fn waiting_since(&self) -> Option<Instant> {
        let progress = self.lock();
        (progress.unsent > 0).then_some(progress.moved_at)
    }

    /// Waits until the engine cuts the stream off.
    fn poll_cut_off(&self, context: &Context<'_>) -> Poll<()> {
        self.lock().cut_off.as_ref().map_or(Poll::Pending, |signal| signal.poll(context))
    }

    /// Waits until everything is written.
    fn poll_sent(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut progress = self.lock();
        if progress.unsent == 0 {
            return Poll::Ready(());
        }
        progress.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

/// Has the stream whose task this is reset at this signal, although its client takes nothing, so that hyper does not ask for more
/// and would not learn of it.
pub(crate) fn reset_at(signal: CutOffSignal) {
    // Outside such a task nothing watches.
    let _ = PROGRESS.try_with(|progress| progress.lock().cut_off = Some(signal));
}

/// A piece of a body, on its way to the socket.
#[derive(Debug)]
pub(crate) struct Piece {
    bytes: Bytes,
    progress: Arc<StreamProgress>,
}

impl Piece {
    fn new(bytes: Bytes, progress: &Arc<StreamProgress>) -> Self {
        progress.change(|unsent| *unsent += bytes.len());
        Self { bytes, progress: Arc::clone(progress) }
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        self.bytes.chunks_vectored(slices)
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        self.progress.change(|unsent| *unsent -= count);
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let dropped = self.bytes.len();
        if dropped > 0 {
            self.progress.change(|unsent| *unsent -= dropped);
        }
    }
}

/// The body of a response, in pieces. Ends when all of them are written, except for a short last one.
pub(crate) struct WatchedBody<G> {
    body: ResponseBody,
    /// What is left of the newest frame.
    rest: Bytes,
    has_ended: bool,
    progress: Arc<StreamProgress>,
    /// Dropped with the body.
    _guard: G,
}

impl<G> WatchedBody<G> {
    /// For the response of the stream whose task this is. `guard` is dropped when the stream ends.
    pub(crate) fn new(body: ResponseBody, guard: G) -> Self {
        // Outside such a task nothing watches.
        let progress = PROGRESS.try_with(Arc::clone).unwrap_or_else(|_| Arc::new(StreamProgress::new()));
        Self { body, rest: Bytes::new(), has_ended: false, progress, _guard: guard }
    }
}

impl<G: Unpin> Body for WatchedBody<G> {
    type Data = Piece;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Piece>, BoxError>>> {
        let this = self.get_mut();
        loop {
            if !this.rest.is_empty() {
                let bytes = this.rest.split_to(this.rest.len().min(PIECE_BYTES));
                return Poll::Ready(Some(Ok(Frame::data(Piece::new(bytes, &this.progress)))));
            }
            if this.has_ended {
                return this.progress.poll_sent(context).map(|()| None);
            }
            match ready!(Pin::new(&mut this.body).poll_frame(context)).transpose()?.map(Frame::into_data) {
                Some(Ok(data)) => this.rest = data,
                Some(Err(other)) => {
                    if let Ok(trailers) = other.into_trailers() {
                        return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                    }
                }
                None => this.has_ended = true,
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream() && self.progress.unsent() <= UNWATCHED_BYTES
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Runs the tasks of the streams of one connection.
#[derive(Debug, Clone)]
pub(crate) struct StreamExecutor {
    /// The time for which a stream may go without progress while bytes of it wait.
    pub(crate) stall_limit: Duration,
    pub(crate) stats: Arc<Stats>,
}

impl<F> Executor<F> for StreamExecutor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let Self { stall_limit, stats } = self.clone();
        let progress = Arc::new(StreamProgress::new());
        let watched = {
            let progress = Arc::clone(&progress);
            async move {
                if run(stream, &progress, stall_limit).await == TaskEnd::Stalled {
                    stats.stalled.add(1);
                    tracing::debug!("HTTP/2 stream reset: its client took no data for too long");
                }
            }
        };
        tokio::spawn(PROGRESS.scope(progress, watched));
    }
}

/// Runs the task of a stream. Drops it if bytes wait and none are written for `limit`, or if the engine cuts the stream off.
async fn run(stream: impl Future<Output = ()>, progress: &StreamProgress, limit: Duration) -> TaskEnd {
    let mut stream = pin!(stream);
    // Only streams that wait have one.
    let mut timer = None::<Pin<Box<Sleep>>>;
    std::future::poll_fn(|context| {
        if stream.as_mut().poll(context).is_ready() {
            return Poll::Ready(TaskEnd::Complete);
        }
        if progress.poll_cut_off(context).is_ready() {
            return Poll::Ready(TaskEnd::CutOff);
        }
        let Some(moved_at) = progress.waiting_since() else {
            timer = None;
            return Poll::Pending;
        };
        let deadline = moved_at + limit;
        let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.deadline() < deadline {
            timer.as_mut().reset(deadline);
        }
        timer.as_mut().poll(context).map(|()| TaskEnd::Stalled)
    })
    .await
}
