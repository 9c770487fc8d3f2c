//! The socket as hyper and TLS see it. Bytes that were read ahead come first, a write that makes no progress fails, and what
//! happened is recorded: so the socket can be taken over once hyper has written everything, and it is known what a connection
//! waits for. A connection that is dropped, not shut down, is reset, so that the kernel does not keep what its peer does not read.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use socket2::SockRef;
use tallycast_fanout::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

use crate::Stats;

/// A socket with bytes that were already read from it, and a limit on the time for which its peer may accept no data.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: TcpStream,
    read_ahead: Bytes,
    write_timeout: Duration,
    /// Runs while a write waits for the peer.
    stall: Option<Pin<Box<Sleep>>>,
    state: Arc<IoState>,
    stats: Arc<Stats>,
}

/// What happened at a socket, and what its connection is doing.
#[derive(Debug, Default)]
pub(crate) struct IoState {
    /// The writer flushed since this was last cleared. hyper does so only when its own buffer is empty.
    pub(crate) flushed: AtomicBool,
    /// Bytes arrived since a request began or ended.
    read: AtomicBool,
    /// A write waits for the peer.
    blocked: AtomicBool,
    /// A write waited for too long.
    stalled: AtomicBool,
    /// Requests that have begun.
    begun: AtomicUsize,
    /// Those whose response is complete.
    complete: AtomicUsize,
    /// Of the connection, for the end of a response: responses over HTTP/2 have tasks of their own.
    waker: Mutex<Option<Waker>>,
}

/// What HTTP/1 is served on until the engine takes it over.
pub(crate) trait Http1Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    /// The same connection without the limits of requests.
    type Stream: Stream + Into<Sink>;

    /// Lifts the limits. The connection then closes as any other.
    fn into_stream(self) -> Self::Stream;
}

/// The socket below a stream of the engine. Unlike the methods of [`TcpStream`], which share the CPU between the sockets of many tasks,
/// its own use up nothing of the time of their task: the engine's shards have thousands of sockets, and yield by themselves.
#[cfg(feature = "tls")]
#[derive(Debug)]
pub(crate) struct EngineSocket(pub(crate) TcpStream);

/// A request whose response is not complete; it is when this is dropped.
#[derive(Debug)]
pub(crate) struct OpenRequest(Arc<IoState>);

impl IoState {
    /// Counts a request until the result is dropped. Bytes that arrive from now on belong to another one, unless this one has a
    /// body; those that arrive after its end do in any case.
    pub(crate) fn begin_request(self: &Arc<Self>) -> OpenRequest {
        self.read.store(false, Ordering::Release);
        self.begun.fetch_add(1, Ordering::AcqRel);
        OpenRequest(Arc::clone(self))
    }

    /// Whether a response is not complete, or its bytes wait for the peer. If so, the caller is woken when a response ends.
    pub(crate) fn is_busy(&self, context: &Context<'_>) -> bool {
        let is_busy = || self.complete() != self.begun.load(Ordering::Acquire) || self.blocked.load(Ordering::Acquire);
        is_busy() && {
            *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(context.waker().clone());
            // It may have ended meanwhile.
            is_busy()
        }
    }

    /// Whether there has been a request.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Acquire) > 0
    }

    /// The number of requests whose response is complete.
    pub(crate) fn complete(&self) -> usize {
        self.complete.load(Ordering::Acquire)
    }

    /// Whether a request has begun to arrive.
    pub(crate) fn has_read(&self) -> bool {
        self.read.load(Ordering::Acquire)
    }

    /// Whether the peer accepted no data for too long, so that the connection failed.
    pub(crate) fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Acquire)
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.read.store(false, Ordering::Release);
        self.0.complete.fetch_add(1, Ordering::AcqRel);
        if let Some(waker) = self.0.waker.lock().unwrap_or_else(PoisonError::into_inner).take() {
            waker.wake();
        }
    }
}

impl Socket {
    /// A write to it fails when the peer accepts nothing for `write_timeout`.
    pub(crate) fn new(
        stream: TcpStream,
        read_ahead: Bytes,
        write_timeout: Duration,
        state: Arc<IoState>,
        stats: Arc<Stats>,
    ) -> Self {
        // Here and below, a socket that refuses the option is closed already.
        let _ = stream.set_zero_linger();
        Self { stream, read_ahead, write_timeout, stall: None, state, stats }
    }

    /// Has the kernel go on with what is not sent when the socket is closed.
    fn deliver_unsent(&self) {
        let _ = SockRef::from(&self.stream).set_linger(None);
    }

    /// Fails a write that has been pending for too long without any byte accepted.
    fn limit_stall(&mut self, context: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            if self.stall.take().is_some() {
                self.state.blocked.store(false, Ordering::Release);
            }
            return written;
        }
        self.state.blocked.store(true, Ordering::Release);
        let limit = self.write_timeout;
        let stall = self.stall.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(stall.as_mut().poll(context));
        if !self.state.stalled.swap(true, Ordering::AcqRel) {
            self.stats.stalled.add(1);
        }
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl Http1Io for Socket {
    type Stream = TcpStream;

    fn into_stream(self) -> TcpStream {
        self.deliver_unsent();
        self.stream
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read_ahead.is_empty() {
            let before = buffer.filled().len();
            let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
            if buffer.filled().len() > before {
                self.state.read.store(true, Ordering::Release);
            }
            return polled;
        }
        let count = self.read_ahead.len().min(buffer.remaining());
        buffer.put_slice(&self.read_ahead[..count]);
        self.read_ahead.advance(count);
        self.state.read.store(true, Ordering::Release);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.limit_stall(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.limit_stall(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        self.state.flushed.store(true, Ordering::Release);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.deliver_unsent();
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(feature = "tls")]
impl AsyncRead for EngineSocket {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            match self.0.try_read(buffer.initialize_unfilled()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(self.0.poll_read_ready(context))?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return Poll::Ready(read.map(|count| buffer.advance(count))),
            }
        }
    }
}

#[cfg(feature = "tls")]
impl AsyncWrite for EngineSocket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            match self.0.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(self.0.poll_write_ready(context))?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
