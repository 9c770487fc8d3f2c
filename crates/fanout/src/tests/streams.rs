//! Streams that accept bytes before their peer does, such as encrypted ones.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{info, lines, ns, settle, start};
use crate::*;

#[derive(Debug, Default)]
struct State {
    /// What was accepted in each write.
    writes: Vec<String>,
    /// Bytes that wait for the peer.
    unsent: usize,
    /// Those that the peer has room for.
    room: usize,
    /// The peer takes everything.
    is_open: bool,
    is_shut_down: bool,
    is_discarded: bool,
    waker: Option<Waker>,
}

/// A stream that accepts a write only when nothing of the one before waits.
#[derive(Debug, Clone, Default)]
struct Keeping(Arc<Mutex<State>>);

impl Keeping {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// The peer makes room for `count` bytes.
    fn make_room(&self, count: usize) {
        let mut state = self.state();
        state.room += count;
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    async fn subscribe(&self, handle: &Handle) {
        let sink = Sink::Stream(Box::new(self.clone()));
        handle.subscribe(Subscriber::new(info("/a"), lines(), sink)).await.unwrap();
        while handle.stats().connected.get() == 0 {
            settle().await;
        }
    }

    fn poll_sent(&self, context: &Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state();
        let sent = state.room.min(state.unsent);
        state.room -= sent;
        state.unsent -= sent;
        if state.unsent == 0 {
            return Poll::Ready(Ok(()));
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Stream for Keeping {
    fn discard_unsent(&self) {
        self.state().is_discarded = true;
    }

    fn unsent(&self) -> usize {
        self.state().unsent
    }
}

impl AsyncRead for Keeping {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.state().is_shut_down {
            true => Poll::Ready(Ok(())),
            false => Poll::Pending,
        }
    }
}

impl AsyncWrite for Keeping {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        std::task::ready!(self.poll_sent(context))?;
        let bytes = slices.iter().flat_map(|slice| slice.to_vec()).collect();
        let text = String::from_utf8(bytes).unwrap();
        let written = text.len();
        let mut state = self.state();
        state.writes.push(text);
        state.unsent = if state.is_open { 0 } else { written };
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_sent(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.poll_sent(context))?;
        self.state().is_shut_down = true;
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn batches_that_wait_go_out_in_one_write_and_the_stream_is_shut_down() {
    let fanout = start(Config { shards: 1, ..Config::default() });
    let (publisher, handle) = (fanout.publisher(), fanout.handle());
    let stream = Keeping::default();
    stream.subscribe(&handle).await;
    for payload in ["1", "2", "3"] {
        publisher.send(Message::text(ns("/a"), payload)).await.unwrap();
        settle().await;
    }
    assert_eq!(stream.state().writes, ["/a 1\n"]);
    stream.state().is_open = true;
    stream.make_room(5);
    settle().await;
    assert_eq!(stream.state().writes, ["/a 1\n", "/a 2\n/a 3\n"]);
    drop(publisher);
    fanout.join().await;
    let state = stream.state();
    assert_eq!((&*state.writes[2], state.is_shut_down, state.is_discarded), ("end\n", true, false));
}

#[tokio::test]
async fn stream_is_reset_when_its_peer_stops_and_not_before() {
    let fanout = start(Config { shards: 1, stall_timeout: Duration::from_secs(2), ..Config::default() });
    let (publisher, handle) = (fanout.publisher(), fanout.handle());
    let stream = Keeping::default();
    stream.subscribe(&handle).await;
    publisher.send(Message::text(ns("/a"), "x".repeat(1000))).await.unwrap();
    while stream.unsent() == 0 {
        settle().await;
    }
    // Far longer than the limit, in steps far shorter.
    for _ in 0..80 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        stream.make_room(1);
    }
    assert_eq!((handle.stats().stalled.get(), stream.state().is_discarded), (0, false));
    while handle.stats().connections.get() > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!((handle.stats().stalled.get(), stream.state().is_discarded), (1, true));
}
