//! The way from a shard to a body that another layer writes, such as HTTP/2: room for one piece of bytes.
//!
//! A channel of tokio would take a kilobyte per stream, and its sender could not be woken when the receiver is dropped. Here
//! the shard learns of that at once, and frees what the stream held.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

/// The end that the engine writes to: see [`Sink::Body`](crate::Sink::Body).
#[derive(Debug)]
pub struct BodySender(Arc<Mutex<State>>);

/// The end that the other layer reads from. Dropping it ends the stream.
#[derive(Debug)]
pub struct BodyReceiver(Arc<Mutex<State>>);

/// Reports that the engine has cut a stream off to a layer that may not be asking for its next piece, because its peer takes
/// nothing. Until that layer lets go of the pieces that it has, the memory of everything that they are parts of is in use.
#[derive(Debug)]
pub struct CutOffSignal(Arc<Mutex<State>>);

/// The engine cut the stream off, because its reader took nothing for too long or fell too far behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stream was cut off")]
pub struct CutOff;

/// The receiver has been dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Closed;

#[derive(Debug, Default)]
struct State {
    piece: Option<Bytes>,
    /// The sender has been dropped.
    ended: bool,
    /// The sender cut the stream off.
    cut_off: bool,
    /// The receiver has failed because of that.
    failed: bool,
    /// Woken when the stream is cut off.
    signal: Option<Waker>,
    /// The receiver has been dropped.
    closed: bool,
    /// Woken when the receiver takes a piece that the sender waits behind, and when it is dropped.
    sender: Option<Waker>,
    awaits_room: bool,
    receiver: Option<Waker>,
}

/// A connected pair.
pub fn body() -> (BodySender, BodyReceiver) {
    let state = Arc::<Mutex<State>>::default();
    (BodySender(Arc::clone(&state)), BodyReceiver(state))
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl BodySender {
    /// Waits until there is room for a piece.
    pub(crate) fn poll_ready(&mut self, context: &Context<'_>) -> Poll<Result<(), Closed>> {
        let mut state = lock(&self.0);
        if state.closed {
            return Poll::Ready(Err(Closed));
        }
        if state.piece.is_none() {
            return Poll::Ready(Ok(()));
        }
        state.awaits_room = true;
        state.register_sender(context);
        Poll::Pending
    }

    /// Waits until the receiver is dropped.
    pub(crate) fn poll_closed(&mut self, context: &Context<'_>) -> Poll<()> {
        let mut state = lock(&self.0);
        if state.closed {
            return Poll::Ready(());
        }
        state.register_sender(context);
        Poll::Pending
    }

    /// Puts a piece in, for which there must be room.
    pub(crate) fn send(&mut self, piece: Bytes) {
        let mut state = lock(&self.0);
        debug_assert!(state.piece.is_none(), "poll_ready comes first");
        state.piece = Some(piece);
        let receiver = state.receiver.take();
        drop(state);
        wake(receiver);
    }

    /// Waits for room, and puts a last piece in. A receiver that is gone needs none.
    pub(crate) async fn send_last(&mut self, piece: Bytes) {
        if poll_fn(|context| self.poll_ready(context)).await.is_ok() {
            self.send(piece);
        }
    }

    /// Whether the receiver has been dropped.
    pub(crate) fn is_closed(&self) -> bool {
        lock(&self.0).closed
    }

    /// Discards the piece that waits, and makes the receiver fail.
    pub(crate) fn cut_off(&self) {
        let mut state = lock(&self.0);
        state.piece = None;
        state.cut_off = true;
        let (receiver, signal) = (state.receiver.take(), state.signal.take());
        drop(state);
        wake(receiver);
        wake(signal);
    }
}

impl State {
    fn register_sender(&mut self, context: &Context<'_>) {
        // Waking is in order even if it is in vain; cloning a waker costs more than comparing it.
        if !self.sender.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            self.sender = Some(context.waker().clone());
        }
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl Drop for BodySender {
    fn drop(&mut self) {
        let mut state = lock(&self.0);
        state.ended = true;
        let receiver = state.receiver.take();
        drop(state);
        wake(receiver);
    }
}

impl BodyReceiver {
    /// The next piece; `None` at the end of the stream, and after an error.
    pub fn poll_recv(&mut self, context: &Context<'_>) -> Poll<Option<Result<Bytes, CutOff>>> {
        let mut state = lock(&self.0);
        if let Some(piece) = state.piece.take() {
            let sender = if std::mem::take(&mut state.awaits_room) { state.sender.clone() } else { None };
            drop(state);
            wake(sender);
            return Poll::Ready(Some(Ok(piece)));
        }
        if state.cut_off && !std::mem::replace(&mut state.failed, true) {
            return Poll::Ready(Some(Err(CutOff)));
        }
        if state.ended || state.failed {
            return Poll::Ready(None);
        }
        state.receiver = Some(context.waker().clone());
        Poll::Pending
    }

    /// As [`poll_recv`](Self::poll_recv).
    ///
    /// # Errors
    /// When the engine has cut the stream off.
    pub async fn recv(&mut self) -> Option<Result<Bytes, CutOff>> {
        poll_fn(|context| self.poll_recv(context)).await
    }

    /// The signal that this stream has been cut off. Only one of them is woken.
    pub fn cut_off_signal(&self) -> CutOffSignal {
        CutOffSignal(Arc::clone(&self.0))
    }

    /// The piece that waits, if there is one.
    pub fn try_recv(&mut self) -> Option<Bytes> {
        match self.poll_recv(&Context::from_waker(Waker::noop())) {
            Poll::Ready(Some(Ok(piece))) => Some(piece),
            _ => None,
        }
    }
}

impl CutOffSignal {
    /// Waits until the engine cuts the stream off, which it does not do to one that has ended.
    pub fn poll(&self, context: &Context<'_>) -> Poll<()> {
        let mut state = lock(&self.0);
        if state.cut_off {
            return Poll::Ready(());
        }
        state.signal = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for BodyReceiver {
    fn drop(&mut self) {
        let mut state = lock(&self.0);
        state.closed = true;
        let (_piece, sender) = (state.piece.take(), state.sender.take());
        drop(state);
        wake(sender);
    }
}
