//! Parting in good order: a client gets a last word, and the time to read it.

use std::any::Any;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::connection::Sink;

/// How long a client may take to read the last word and to close its side.
const LINGER: Duration = Duration::from_secs(2);
/// The bytes that are read meanwhile of a client that speaks.
const LINGER_BYTES: u64 = 1024 * 1024;

/// Writes `last`, says that nothing more will come, and waits until the client closes its side: closing with something
/// unread would reset `last` away. At most `max_received` bytes are read, and at most two seconds pass. `false`: they have.
pub async fn finish(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    last: impl AsRef<[u8]>,
    max_received: u64,
) -> bool {
    let linger = async {
        stream.write_all(last.as_ref()).await?;
        stream.shutdown().await?;
        let mut received = stream.take(max_received);
        let mut scratch = [0; 1024];
        while received.read(&mut scratch).await? > 0 {}
        io::Result::Ok(())
    };
    // A client that is gone has nothing to wait for.
    tokio::time::timeout(LINGER, linger).await.is_ok()
}

/// Finishes with a client that speaks; `held` is let go after that.
pub(super) async fn part(mut sink: Sink, rest: Bytes, held: Option<Box<dyn Any + Send>>) {
    let in_time = match &mut sink {
        Sink::Socket(socket) => finish(socket, &rest, LINGER_BYTES).await,
        Sink::Stream(stream) => finish(stream, &rest, LINGER_BYTES).await,
        // Another layer ends it.
        Sink::Body(_) => true,
    };
    if !in_time {
        // The kernel shall not keep what the client does not read.
        sink.discard_unsent();
    }
    drop(held);
}
