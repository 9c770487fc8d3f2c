//! Where a connection's bytes go: a socket, another stream, or a body that another layer writes.

use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::TcpStream;

use crate::body::{BodySender, Closed};

/// The most bytes that are handed to a body at once. Each piece that its layer takes is progress, however long the batch is.
const PIECE: usize = 64 * 1024;

/// Where a connection's bytes go.
#[derive(Debug)]
pub enum Sink {
    /// A socket that the engine owns from now on.
    Socket(TcpStream),
    /// A stream on top of a socket, such as TLS.
    Stream(Box<dyn Stream>),
    /// A body that another layer writes, such as HTTP/2: see [`body`](crate::body()). Clients behind it cannot send.
    Body(BodySender),
}

/// Both directions of a connection. The engine calls it from one task only, and writes with
/// [`poll_write_vectored`](AsyncWrite::poll_write_vectored).
///
/// A stream may accept bytes before its socket does, such as those of an encrypted record. It keeps them, reports them as
/// [`unsent`](Self::unsent), and accepts no more until they are gone: otherwise the bounds for slow readers do not apply to them.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + Debug {
    /// Makes the coming close reset the connection, so that the kernel does not keep bytes that the peer does not read. The
    /// default does nothing.
    fn discard_unsent(&self) {}

    /// The number of bytes that were accepted and wait for the peer. While it falls, the peer does not count as stalled. The
    /// default is none.
    fn unsent(&self) -> usize {
        0
    }
}

impl Stream for TcpStream {
    fn discard_unsent(&self) {
        // A socket that refuses the option is about to be closed anyway.
        let _ = self.set_zero_linger();
    }
}

/// In memory, without a peer elsewhere.
impl Stream for DuplexStream {}

impl From<TcpStream> for Sink {
    fn from(socket: TcpStream) -> Self {
        Self::Socket(socket)
    }
}

impl Sink {
    /// Makes the coming close reset the connection, so that nobody keeps bytes that the peer does not read.
    pub(crate) fn discard_unsent(&self) {
        match self {
            Self::Socket(socket) => Stream::discard_unsent(socket),
            Self::Body(sender) => sender.cut_off(),
            Self::Stream(stream) => stream.discard_unsent(),
        }
    }

    /// As [`Stream::unsent`].
    pub(crate) fn unsent(&self) -> usize {
        match self {
            Self::Stream(stream) => stream.unsent(),
            Self::Socket(_) | Self::Body(_) => 0,
        }
    }

    /// Whether its end has bytes of its own, beside those of the framing.
    pub(crate) fn has_closing_bytes(&self) -> bool {
        matches!(self, Self::Stream(_))
    }

    /// Whether the peer may still be there. A socket reports that through its waker; a body's channel must be asked.
    pub(crate) fn is_open(&self) -> bool {
        match self {
            Self::Socket(_) | Self::Stream(_) => true,
            Self::Body(sender) => !sender.is_closed(),
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
                Self::Body(sender) => return sender.poll_closed(context).map(|()| Ok(0)),
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
            Self::Body(sender) => sender.poll_ready(context).map_err(|Closed| io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Makes a stream write what it has buffered.
    pub(crate) fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Stream(stream) => Pin::new(stream).poll_flush(context),
            Self::Socket(_) | Self::Body(_) => Poll::Ready(Ok(())),
        }
    }

    /// Writes to a socket or stream. Zero bytes written to a stream is an error.
    pub(crate) fn write(&mut self, context: &mut Context<'_>, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match (self, slices) {
            (Self::Socket(socket), [bytes]) => socket.try_write(bytes),
            (Self::Socket(socket), slices) => socket.try_write_vectored(slices),
            (Self::Stream(stream), slices) => match Pin::new(stream).poll_write_vectored(context, slices) {
                Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
                Poll::Ready(Ok(0)) if slices.iter().any(|slice| !slice.is_empty()) => {
                    Err(io::ErrorKind::WriteZero.into())
                }
                Poll::Ready(written) => written,
            },
            (Self::Body(_), _) => Ok(0),
        }
    }

    /// Hands bytes, or the first of them, to a body.
    pub(crate) fn write_body(&mut self, context: &mut Context<'_>, mut bytes: Bytes) -> io::Result<usize> {
        let Self::Body(sender) = self else { return Ok(0) };
        match sender.poll_ready(context) {
            Poll::Pending => return Err(io::ErrorKind::WouldBlock.into()),
            Poll::Ready(Err(Closed)) => return Err(io::ErrorKind::BrokenPipe.into()),
            Poll::Ready(Ok(())) => {}
        }
        bytes.truncate(PIECE);
        let written = bytes.len();
        if written > 0 {
            sender.send(bytes);
        }
        Ok(written)
    }
}
