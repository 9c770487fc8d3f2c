//! Parting in good order with clients that speak: they get what was begun and a last word, and the time to read it.

use std::any::Any;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::connection::Sink;

/// How long a client may take to read the last word and to close its side.
const LINGER: Duration = Duration::from_secs(2);
/// The bytes that are read meanwhile, so that closing does not reset the last word away.
const LINGER_BYTES: u64 = 1024 * 1024;

/// Writes `rest`, says that nothing more will come, and waits until the client closes. `held` is let go after that.
pub(super) async fn part(mut sink: Sink, rest: Bytes, held: Option<Box<dyn Any + Send>>) {
    let parted = match &mut sink {
        Sink::Socket(socket) => tokio::time::timeout(LINGER, finish(socket, &rest)).await,
        Sink::Stream(stream) => tokio::time::timeout(LINGER, finish(stream, &rest)).await,
        // Another layer ends it.
        Sink::Body(_) => Ok(Ok(())),
    };
    if parted.is_err() {
        // The kernel shall not keep what the client does not read.
        sink.discard_unsent();
    }
    drop(held);
}

async fn finish(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), rest: &[u8]) -> io::Result<()> {
    stream.write_all(rest).await?;
    stream.shutdown().await?;
    let mut received = stream.take(LINGER_BYTES);
    let mut scratch = [0; 1024];
    while received.read(&mut scratch).await? > 0 {}
    Ok(())
}
