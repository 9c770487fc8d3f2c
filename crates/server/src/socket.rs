//! The socket as hyper sees it while it reads the request: bytes read ahead come first, and it is known when all that
//! hyper had to write is written, so that the socket can be taken back, and whether a request has begun.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A socket with bytes that were already read from it.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) stream: TcpStream,
    ahead: Bytes,
    marks: Arc<Marks>,
}

/// What has happened at a socket. Whoever waits for it to happen again takes the mark away.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// The writer above has flushed, which hyper does only when its own buffer is empty.
    pub(super) flushed: AtomicBool,
    /// Bytes have come.
    pub(super) read: AtomicBool,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, ahead: Bytes, marks: Arc<Marks>) -> Self {
        Self { stream, ahead, marks }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            let before = buffer.filled().len();
            let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
            if buffer.filled().len() > before {
                self.marks.read.store(true, Ordering::Release);
            }
            return polled;
        }
        let count = self.ahead.len().min(buffer.remaining());
        buffer.put_slice(&self.ahead[..count]);
        self.ahead.advance(count);
        self.marks.read.store(true, Ordering::Release);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        self.marks.flushed.store(true, Ordering::Release);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
