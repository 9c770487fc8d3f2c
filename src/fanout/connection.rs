//! One reader: a position in its feed's log, and the socket (or body) that the log is written to.

use std::any::Any;
use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

use bytes::{Buf, Bytes};
use tokio::net::TcpStream;
use tokio_util::sync::PollSender;

use super::framing::Framing;
use super::log::{Log, Windows};
use super::{FeedId, Topics};

/// The most slices that one vectored write takes.
const MAX_SLICES: usize = 64;
/// The most bytes a client may send while it reads a stream. None is expected; they are thrown away.
const MAX_RECEIVED: usize = 64 * 1024;

/// Where a connection's bytes go.
#[derive(Debug)]
pub enum Sink {
    /// A socket that the engine owns from now on.
    Socket(TcpStream),
    /// A bounded channel of batches, for bodies that another layer writes (HTTP/2, TLS).
    Body(PollSender<Bytes>),
}

/// What is known of a connection, for those who ask who is connected.
#[derive(Debug)]
pub struct ConnectionInfo {
    /// The path as the client asked for it.
    pub request_path: Box<str>,
    /// What the connection reads.
    pub topics: Topics,
    /// When it was taken in.
    pub created_at: SystemTime,
    /// The client's address.
    pub client_ip: IpAddr,
    /// The client's `user-agent`, shortened to a bound of the transport's; empty if it sent none.
    pub user_agent: Box<str>,
}

/// A reader that a transport hands to the engine.
#[derive(Debug)]
pub struct Subscriber {
    /// What is known of the connection; its `topics` are what it reads.
    pub info: ConnectionInfo,
    /// How messages become bytes for it.
    pub framing: &'static dyn Framing,
    /// Where the bytes go.
    pub sink: Sink,
    /// Sent before anything else, ready for the wire.
    pub preamble: Bytes,
    /// Whether it begins with the totals of the one namespace that it reads: a message named `snapshot` with exactly what the tallies add up
    /// to that it is not sent. Where the totals are not known, the subscriber is dropped; ask
    /// [`Gateway::totals_known`](super::Gateway::totals_known) first.
    pub snapshot: bool,
    /// Dropped when the connection ends, such as a permit that it took.
    pub held: Option<Box<dyn Any + Send>>,
}

/// How a write ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flushed {
    /// Everything there is has been written.
    Current,
    /// The sink takes no more for now; the connection's waker will say when it does.
    Blocked,
    /// The peer is gone.
    Closed,
}

/// What was written, summed over many connections before it is published.
#[derive(Debug, Default)]
pub(super) struct Sent {
    pub(super) messages: u64,
    pub(super) bytes: u64,
}

/// What a reader is to be sent before it reads on in the log: the snapshot it begins with, and what it missed because the
/// log went on without it.
#[derive(Debug, Clone, Default)]
pub(super) struct Missed {
    /// Ready for the wire, and shared by all readers that came at the same moment.
    pub(super) snapshot: Option<Bytes>,
    pub(super) skipped: u64,
    pub(super) windows: Option<Arc<Windows>>,
}

#[derive(Debug)]
pub(super) struct Connection {
    sink: Sink,
    pub(super) feed: FeedId,
    /// Where the connection stands in its feed's list of readers.
    pub(super) reader_slot: usize,
    /// Where it stands in its feed's list of blocked readers, and since when, if it is blocked.
    pub(super) blocked: Option<(usize, Instant)>,
    /// The batch to read next.
    pub(super) position: u64,
    /// What is left of bytes already begun.
    pending: Bytes,
    pub(super) missed: Option<Box<Missed>>,
    waker: Waker,
    pub(super) last_write: Instant,
    received: usize,
    pub(super) messages_sent: u64,
    pub(super) info: Arc<ConnectionInfo>,
    _held: Option<Box<dyn Any + Send>>,
}

impl Connection {
    pub(super) fn new(
        subscriber: Subscriber,
        snapshot: Option<Bytes>,
        feed: FeedId,
        position: u64,
        waker: Waker,
    ) -> Self {
        let missed = snapshot.map(|snapshot| Box::new(Missed { snapshot: Some(snapshot), ..Missed::default() }));
        Self {
            sink: subscriber.sink,
            feed,
            reader_slot: 0,
            blocked: None,
            position,
            pending: subscriber.preamble,
            missed,
            waker,
            last_write: Instant::now(),
            received: 0,
            messages_sent: 0,
            info: Arc::new(subscriber.info),
            _held: subscriber.held,
        }
    }

    /// Writes what the reader has not got yet, as far as the sink takes it.
    pub(super) fn flush(&mut self, log: &Log, framing: &dyn Framing, sent: &mut Sent) -> Flushed {
        loop {
            let before = self.messages_sent;
            if self.pending.is_empty() && self.missed.is_some() {
                self.catch_up(log, framing);
            }
            if self.pending.is_empty() && self.position == log.head() {
                return Flushed::Current;
            }
            let written = match &mut self.sink {
                Sink::Socket(_) => self.write_socket(log),
                Sink::Body(_) => self.write_body(log),
            };
            sent.messages += self.messages_sent - before;
            match written {
                Ok(bytes) => sent.bytes += bytes as u64,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => match self.poll_writable() {
                    Poll::Pending => return Flushed::Blocked,
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_)) => return Flushed::Closed,
                },
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Flushed::Closed,
            }
        }
    }

    /// Writes bytes that stand outside the log, such as a keep-alive. Only for a reader that is current.
    pub(super) fn write_aside(&mut self, bytes: Bytes, log: &Log, framing: &dyn Framing, sent: &mut Sent) -> Flushed {
        debug_assert!(self.pending.is_empty(), "bytes put aside must not cut a batch in two");
        self.pending = bytes;
        self.last_write = Instant::now();
        self.flush(log, framing, sent)
    }

    /// Reads what the client sends, only to throw it away and to learn when it is gone. `false`: it is gone.
    pub(super) fn drain_client(&mut self, scratch: &mut [u8]) -> bool {
        let Sink::Socket(socket) = &self.sink else { return self.is_open() };
        let mut context = Context::from_waker(&self.waker);
        loop {
            match socket.try_read(scratch) {
                Ok(0) => return false,
                Ok(read) => {
                    self.received += read;
                    if self.received > MAX_RECEIVED {
                        return false;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => match socket.poll_read_ready(&mut context) {
                    Poll::Pending => return true,
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_)) => return false,
                },
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }

    /// Whether the peer may still be there. A socket tells through its waker; a body's channel must be asked.
    pub(super) fn is_open(&self) -> bool {
        match &self.sink {
            Sink::Socket(_) => true,
            Sink::Body(sender) => sender.get_ref().is_some_and(|sender| !sender.is_closed()),
        }
    }

    /// Whether nothing was written for `silence`, and nothing waits to be.
    pub(super) fn is_silent(&self, now: Instant, silence: Duration) -> bool {
        self.blocked.is_none() && now.duration_since(self.last_write) >= silence
    }

    /// Makes the coming close reset the connection, so that the kernel does not keep what the peer does not read.
    pub(super) fn discard_unsent(&self) {
        if let Sink::Socket(socket) = &self.sink {
            // A socket that takes no option is about to be closed all the same.
            let _ = socket.set_zero_linger();
        }
    }

    /// Begins what is to be sent before the log: the snapshot, then one batch for what the reader missed, and for merging
    /// also for what it could still read.
    fn catch_up(&mut self, log: &Log, framing: &dyn Framing) {
        let Some(mut missed) = self.missed.take() else { return };
        if let Some(snapshot) = missed.snapshot.take() {
            self.pending = snapshot;
            self.messages_sent += 1;
            self.missed = (missed.skipped > 0 || missed.windows.is_some()).then_some(missed);
            return;
        }
        let Missed { mut skipped, windows, .. } = *missed;
        let mut batch = Vec::new();
        let mut control = Vec::new();
        let mut merged = None;
        if let Some(windows) = windows {
            let mut sum = Arc::unwrap_or_clone(windows);
            for entry in log.since(self.position) {
                match &entry.windows {
                    Some(windows) => sum.merge(windows),
                    None => control.extend_from_slice(&entry.bytes),
                }
            }
            self.position = log.head();
            skipped += sum.skipped;
            merged = Some(sum);
        }
        if skipped > 0 {
            framing.skipped(skipped, &mut batch);
        }
        for message in merged.iter().flat_map(|sum| &sum.tallies) {
            framing.message(message, &mut batch);
            self.messages_sent += 1;
        }
        if !batch.is_empty() {
            self.pending = framing.finish(batch);
        }
        if !control.is_empty() {
            self.pending = [&self.pending[..], &control[..]].concat().into();
        }
    }

    fn write_socket(&mut self, log: &Log) -> io::Result<usize> {
        let Sink::Socket(socket) = &self.sink else { return Ok(0) };
        // What was missed is told after what was begun and before what comes next.
        let readable = if self.missed.is_some() { log.head() } else { self.position };
        let mut batches = log.since(readable).map(|batch| &batch.bytes);
        let written = match (self.pending.is_empty(), batches.len()) {
            // By far the most frequent: filling in slices for one batch would cost a tenth of the write.
            (true, 1) => socket.try_write(batches.next().map_or(&[], |batch| batch))?,
            (false, 0) => socket.try_write(&self.pending)?,
            _ => {
                let mut slices = [IoSlice::new(&[]); MAX_SLICES];
                let mut filled = 0;
                let pending = (!self.pending.is_empty()).then_some(&self.pending);
                for (slice, bytes) in slices.iter_mut().zip(pending.into_iter().chain(batches)) {
                    *slice = IoSlice::new(bytes);
                    filled += 1;
                }
                socket.try_write_vectored(&slices[..filled])?
            }
        };
        self.advance(log, written);
        Ok(written)
    }

    /// Moves on by `written` bytes. A batch counts as sent once its first byte is.
    fn advance(&mut self, log: &Log, mut written: usize) {
        let of_pending = written.min(self.pending.len());
        self.pending.advance(of_pending);
        written -= of_pending;
        if self.pending.is_empty() {
            // Do not keep the batch that this was a part of.
            self.pending = Bytes::new();
        }
        for batch in log.since(self.position) {
            if written == 0 && !batch.bytes.is_empty() {
                break;
            }
            self.position += 1;
            self.messages_sent += u64::from(batch.messages);
            let of_batch = written.min(batch.bytes.len());
            written -= of_batch;
            if of_batch < batch.bytes.len() {
                self.pending = batch.bytes.slice(of_batch..);
                break;
            }
        }
    }

    fn write_body(&mut self, log: &Log) -> io::Result<usize> {
        let Sink::Body(sender) = &mut self.sink else { return Ok(0) };
        let mut context = Context::from_waker(&self.waker);
        match sender.poll_reserve(&mut context) {
            Poll::Pending => return Err(io::ErrorKind::WouldBlock.into()),
            Poll::Ready(Err(_)) => return Err(io::ErrorKind::BrokenPipe.into()),
            Poll::Ready(Ok(())) => {}
        }
        let bytes = if self.pending.is_empty() {
            log.since(self.position).next().map_or_else(Bytes::new, |batch| batch.bytes.clone())
        } else {
            self.pending.clone()
        };
        let written = bytes.len();
        if written == 0 {
            sender.abort_send();
        } else {
            sender.send_item(bytes).map_err(|_| io::ErrorKind::BrokenPipe)?;
        }
        self.advance(log, written);
        Ok(written)
    }

    fn poll_writable(&mut self) -> Poll<io::Result<()>> {
        let mut context = Context::from_waker(&self.waker);
        match &mut self.sink {
            Sink::Socket(socket) => socket.poll_write_ready(&mut context),
            Sink::Body(sender) => sender.poll_reserve(&mut context).map_err(|_| io::ErrorKind::BrokenPipe.into()),
        }
    }
}
