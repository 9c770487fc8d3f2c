//! Graceful close: why the engine ends a stream, and the time a client gets to read its last bytes.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::StreamWatch;
use crate::sink::Sink;

/// Time for a client to read the last bytes and to close its side.
const LINGER: Duration = Duration::from_secs(2);
/// Bytes that are read from a client meanwhile.
const LINGER_BYTES: u64 = 1024 * 1024;

/// Why the engine ends a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// The engine shuts down.
    Shutdown,
    /// [`Handle::drain`](crate::Handle::drain) was called. The client should wait for about `retry` before it connects again:
    /// a framing should vary it, so that clients do not come back together.
    Draining {
        /// The pause.
        retry: Duration,
    },
    /// The reader fell further behind than its feed's log reaches.
    SlowReader,
    /// The client did not answer a keep-alive in time.
    PingTimeout,
    /// The totals that the reader started with are no longer known, and its framing cannot say so.
    TotalsUnavailable,
    /// Messages were lost that are kept otherwise, and the reader's framing cannot say so.
    MessagesLost,
    /// The client's [`Grant`](crate::Grant) has expired.
    GrantExpired,
    /// [`Handle::close`](crate::Handle::close) was called, with this reason for the client.
    Requested(Arc<str>),
}

impl fmt::Display for CloseReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Shutdown | Self::Draining { .. } => "the server is shutting down",
            Self::SlowReader => "too slow; connect again to start afresh",
            Self::PingTimeout => "no pong came in time",
            Self::TotalsUnavailable => "the totals are unavailable; connect again to start afresh",
            Self::MessagesLost => "messages were lost; connect again to start afresh",
            Self::GrantExpired => "the authorization has expired",
            Self::Requested(reason) => reason,
        })
    }
}

/// Writes `last`, closes the write side, and waits until the client closes its side: closing with something unread would
/// reset the connection and discard `last`. Reads at most `max_received` bytes and takes at most two seconds. Returns
/// whether the client closed its side in time.
pub async fn close_gracefully(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    last: impl AsRef<[u8]>,
    max_received: u64,
) -> bool {
    close_after(stream, &[last], max_received).await
}

/// As [`close_gracefully`], for last bytes in several parts.
async fn close_after(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    last: &[impl AsRef<[u8]>],
    max_received: u64,
) -> bool {
    let linger = async {
        for part in last {
            stream.write_all(part.as_ref()).await?;
        }
        stream.shutdown().await?;
        let mut received = stream.take(max_received);
        let mut scratch = [0; 1024];
        while received.read(&mut scratch).await? > 0 {}
        io::Result::Ok(())
    };
    // An error means that the client is gone already.
    tokio::time::timeout(LINGER, linger).await.is_ok()
}

/// Closes a connection's sink gracefully, after `last` in two parts; then drops its watch.
pub(crate) async fn close_sink(mut sink: Sink, last: [Bytes; 2], watch: Option<Box<dyn StreamWatch>>) {
    let in_time = match &mut sink {
        Sink::Socket(socket) => close_after(socket, &last, LINGER_BYTES).await,
        Sink::Stream(stream) => close_after(stream, &last, LINGER_BYTES).await,
        Sink::Body(sender) => {
            // The body's own layer ends it when the sender is dropped.
            let send = async {
                for part in last.into_iter().filter(|part| !part.is_empty()) {
                    sender.send_last(part).await;
                }
            };
            tokio::time::timeout(LINGER, send).await.is_ok()
        }
    };
    if !in_time {
        sink.discard_unsent();
    }
    drop(watch);
}
