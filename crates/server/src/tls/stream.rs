//! A TLS stream over another stream: its records go out with one write each, and what the socket does not take is kept.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use rustls::ServerConfig;
use tallycast_fanout::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::session::{MAX_PLAINTEXT, MAX_RECORDS, Session};
use crate::io::{EngineSocket, Http1Io, Socket};

/// Answers to the peer that may wait, in bytes, before more is read from it.
const MAX_ANSWERS: usize = 4096;

thread_local! {
    /// Shared by all streams of a thread, and used within one call only.
    static BUFFERS: RefCell<Buffers> = RefCell::default();
}

/// The buffers for the work on one record.
#[derive(Default)]
struct Buffers {
    /// Records from the peer.
    records: Vec<u8>,
    /// What goes out together.
    plaintext: Vec<u8>,
    ciphertext: Vec<u8>,
}

/// A TLS stream over `io`.
pub(crate) struct TlsStream<S> {
    io: S,
    pub(super) session: Session,
    /// `close_notify` has been sent, or waits to be.
    is_closing: bool,
}

/// A handshake that failed.
pub(crate) struct HandshakeError<S> {
    pub(crate) io: S,
    /// For the peer: the alert about its violation, if it made one.
    pub(crate) answer: Vec<u8>,
    pub(crate) error: io::Error,
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream<S> {
    /// Shakes hands as the server.
    pub(crate) async fn accept(io: S, config: Arc<ServerConfig>) -> Result<Self, HandshakeError<S>> {
        let session = match Session::new(config) {
            Ok(session) => session,
            Err(error) => return Err(HandshakeError { io, answer: Vec::new(), error: violation(error) }),
        };
        let mut stream = Self { io, session, is_closing: false };
        match std::future::poll_fn(|context| stream.poll_handshake(context)).await {
            Ok(()) => Ok(stream),
            Err(error) => Err(HandshakeError { io: stream.io, answer: stream.session.outgoing, error }),
        }
    }

    /// The protocol that ALPN chose.
    pub(crate) fn protocol(&self) -> Option<&[u8]> {
        self.session.protocol()
    }

    fn poll_handshake(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.session.is_handshaking() {
            ready!(self.poll_send(context))?;
            if ready!(self.poll_receive(context))? == 0 && self.session.is_handshaking() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        // Session tickets need not be there before the first request.
        match self.poll_send(context) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(())),
        }
    }

    /// Sends what waits.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outgoing = &mut self.session.outgoing;
        let mut sent = 0;
        let polled = loop {
            if sent == outgoing.len() {
                break Poll::Ready(Ok(()));
            }
            match Pin::new(&mut self.io).poll_write(context, &outgoing[sent..]) {
                Poll::Ready(Ok(0)) => break Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => sent += count,
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                Poll::Pending => break Poll::Pending,
            }
        };
        if sent == outgoing.len() {
            // An idle stream has no buffers.
            *outgoing = Vec::new();
        } else {
            outgoing.drain(..sent);
        }
        polled
    }

    /// Reads once from the socket, and decrypts what is complete. Returns how many bytes came.
    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        BUFFERS.with_borrow_mut(|Buffers { records, .. }| {
            records.resize(MAX_RECORDS, 0);
            let room = self.session.room().map_err(violation)?;
            let start = room.start;
            let mut buffer = ReadBuf::new(&mut records[room]);
            ready!(Pin::new(&mut self.io).poll_read(context, &mut buffer))?;
            let read = buffer.filled().len();
            if read > 0 {
                self.session.receive(&mut records[..start + read]).map_err(violation)?;
            }
            Poll::Ready(Ok(read))
        })
    }
}

/// A peer that violated the protocol.
fn violation(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let plaintext = &mut self.session.plaintext;
            if !plaintext.is_empty() {
                let count = plaintext.len().min(buffer.remaining());
                buffer.put_slice(&plaintext[..count]);
                plaintext.advance(count);
                if plaintext.is_empty() {
                    // Frees it.
                    *plaintext = Bytes::new();
                }
                return Poll::Ready(Ok(()));
            }
            if self.session.is_peer_closed {
                return Poll::Ready(Ok(()));
            }
            if self.session.outgoing.len() > MAX_ANSWERS {
                ready!(self.poll_send(context))?;
            }
            let received = ready!(self.poll_receive(context));
            // Answers, and the alert about a violation.
            let sent = self.poll_send(context);
            // HTTP marks the end of what it sends, so that a truncation shows without `close_notify`, which many clients omit.
            if received? == 0 {
                return Poll::Ready(Ok(()));
            }
            if let Poll::Ready(Err(error)) = sent {
                return Poll::Ready(Err(error));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    /// Makes one record of what fits into it, unless another one waits for the socket.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_send(context))?;
        BUFFERS.with_borrow_mut(|Buffers { plaintext, ciphertext, .. }| {
            let bytes = gather(slices, plaintext);
            if bytes.is_empty() {
                return Poll::Ready(Ok(0));
            }
            ciphertext.clear();
            let taken = match self.session.encrypt(bytes, ciphertext) {
                Ok(taken) => taken,
                Err(error) => {
                    // An alert, or close_notify if the keys are used up. It is sent if the socket has room.
                    let _ = self.poll_send(context);
                    return Poll::Ready(Err(violation(error)));
                }
            };
            if taken == 0 {
                return Poll::Ready(Ok(0));
            }
            let mut sent = 0;
            while sent < ciphertext.len() {
                match Pin::new(&mut self.io).poll_write(context, &ciphertext[sent..]) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(Ok(count)) => sent += count,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => {
                        self.session.outgoing = ciphertext[sent..].to_vec();
                        return Poll::Ready(Ok(taken));
                    }
                }
            }
            if !self.session.outgoing.is_empty()
                && let Poll::Ready(Err(error)) = self.poll_send(context)
            {
                return Poll::Ready(Err(error));
            }
            Poll::Ready(Ok(taken))
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(context))?;
        Pin::new(&mut self.io).poll_flush(context)
    }

    /// Sends `close_notify`, then closes the write side of the socket.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_closing {
            self.is_closing = true;
            self.session.close();
        }
        ready!(self.poll_send(context))?;
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

/// The beginning of `slices`, as much as one record takes. Only several of them are copied.
fn gather<'a>(slices: &'a [IoSlice<'_>], buffer: &'a mut Vec<u8>) -> &'a [u8] {
    let mut slices = slices.iter().filter(|slice| !slice.is_empty()).peekable();
    let Some(first) = slices.next() else { return &[] };
    if first.len() >= MAX_PLAINTEXT || slices.peek().is_none() {
        return first;
    }
    buffer.clear();
    buffer.extend_from_slice(first);
    for slice in slices {
        let room = MAX_PLAINTEXT - buffer.len();
        buffer.extend_from_slice(&slice[..slice.len().min(room)]);
        if slice.len() >= room {
            break;
        }
    }
    buffer
}

impl Http1Io for TlsStream<Socket> {
    type Stream = TlsStream<EngineSocket>;

    fn into_stream(self) -> Self::Stream {
        let Self { io, session, is_closing } = self;
        TlsStream { io: EngineSocket(io.into_stream()), session, is_closing }
    }
}

impl Stream for TlsStream<EngineSocket> {
    fn discard_unsent(&self) {
        self.io.0.discard_unsent();
    }

    fn unsent(&self) -> usize {
        self.session.outgoing.len()
    }
}

impl From<TlsStream<EngineSocket>> for Sink {
    fn from(stream: TlsStream<EngineSocket>) -> Self {
        Self::Stream(Box::new(stream))
    }
}

impl<S: fmt::Debug> fmt::Debug for TlsStream<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Keys are secret.
        formatter.debug_struct("TlsStream").field("io", &self.io).finish_non_exhaustive()
    }
}
