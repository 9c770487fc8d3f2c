//! Where a connection's bytes go: a socket, another stream, or a body that another layer writes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::PollSender;

/// Where a connection's bytes go.
#[derive(Debug)]
pub enum Sink {
    /// A socket that the engine owns from now on.
    Socket(TcpStream),
    /// A stream on top of a socket, such as TLS.
    Stream(Box<dyn Stream>),
    /// A bounded channel of batches, for bodies that another layer writes, such as HTTP/2. Clients behind it cannot send.
    Body(PollSender<Bytes>),
}

/// Both directions of a connection.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + std::fmt::Debug {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + std::fmt::Debug> Stream for S {}

impl Sink {
    /// Makes the coming close reset the connection, so that the kernel does not keep bytes that the peer does not read.
    pub(crate) fn discard_unsent(&self) {
        if let Self::Socket(socket) = self {
            // A socket that refuses the option is about to be closed anyway.
            let _ = socket.set_zero_linger();
        }
    }

    /// Whether the peer may still be there. A socket reports that through its waker; a body's channel must be asked.
    pub(crate) fn is_open(&self) -> bool {
        match self {
            Self::Socket(_) | Self::Stream(_) => true,
            Self::Body(sender) => sender.get_ref().is_some_and(|sender| !sender.is_closed()),
        }
    }

    pub(crate) fn poll_read(&mut self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            let read = match self {
                Self::Socket(socket) => socket.try_read(buffer),
                Self::Stream(stream) => {
                    let mut buffer = ReadBuf::new(buffer);
                    return Pin::new(stream).poll_read(context, &mut buffer).map_ok(|()| buffer.filled().len());
                }
                Self::Body(_) => return Poll::Pending,
            };
            match (read, &*self) {
                (Err(error), Self::Socket(socket)) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(socket.poll_read_ready(context))?;
                }
                (Err(error), _) if error.kind() == io::ErrorKind::Interrupted => {}
                (read, _) => return Poll::Ready(read),
            }
        }
    }

    /// Waits for room, after a write that found none.
    pub(crate) fn poll_writable(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Socket(socket) => socket.poll_write_ready(context),
            // It kept the waker when it refused the bytes.
            Self::Stream(_) => Poll::Pending,
            Self::Body(sender) => sender.poll_reserve(context).map_err(|_| io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Makes a stream write what it has buffered.
    pub(crate) fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Stream(stream) => Pin::new(stream).poll_flush(context),
            Self::Socket(_) | Self::Body(_) => Poll::Ready(Ok(())),
        }
    }

    /// Writes to a stream. Zero bytes written is an error.
    pub(crate) fn write_stream(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> io::Result<usize> {
        let Self::Stream(stream) = self else { return Ok(0) };
        match Pin::new(stream).poll_write(context, bytes) {
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
            Poll::Ready(Ok(0)) if !bytes.is_empty() => Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(written) => written,
        }
    }

    /// Puts bytes into a body's channel.
    pub(crate) fn write_body(&mut self, context: &mut Context<'_>, bytes: Bytes) -> io::Result<usize> {
        let Self::Body(sender) = self else { return Ok(0) };
        match sender.poll_reserve(context) {
            Poll::Pending => return Err(io::ErrorKind::WouldBlock.into()),
            Poll::Ready(Err(_)) => return Err(io::ErrorKind::BrokenPipe.into()),
            Poll::Ready(Ok(())) => {}
        }
        let written = bytes.len();
        if written == 0 {
            sender.abort_send();
        } else {
            sender.send_item(bytes).map_err(|_| io::ErrorKind::BrokenPipe)?;
        }
        Ok(written)
    }
}
