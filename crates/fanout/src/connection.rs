//! One reader: a position in its feed's log, and the socket (or body) that the log is written to.

use std::any::Any;
use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant, SystemTime};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::PollSender;

use super::framing::Framing;
use super::inbound::{Ending, Inbound, Said};
use super::log::{Log, Windows};
use super::parting::part;
use super::{FeedHandle, FeedId, Topics};

/// The most slices that one vectored write takes.
const MAX_SLICES: usize = 64;
/// The most bytes a client may send that is not expected to say anything. They are thrown away.
const MAX_RECEIVED: usize = 64 * 1024;
/// How often a client is read from before others get a turn.
const MAX_READS: usize = 16;
/// The most bytes of what a reader has not read yet that go with it to another feed; with more it is too slow.
const MAX_CARRIED: usize = 256 * 1024;

/// Where a connection's bytes go.
#[derive(Debug)]
pub enum Sink {
    /// A socket that the engine owns from now on.
    Socket(TcpStream),
    /// The same where something stands between, such as TLS.
    Stream(Box<dyn Stream>),
    /// A bounded channel of batches, for bodies that another layer writes (HTTP/2, TLS).
    Body(PollSender<Bytes>),
}

/// A connection's two directions.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + std::fmt::Debug {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + std::fmt::Debug> Stream for S {}

impl Sink {
    /// Makes the coming close reset the connection, so that the kernel does not keep what the peer does not read.
    pub(super) fn discard_unsent(&self) {
        if let Self::Socket(socket) = self {
            // A socket that takes no option is about to be closed all the same.
            let _ = socket.set_zero_linger();
        }
    }

    fn poll_read(&mut self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
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
}

/// What is known of a connection, for those who ask who is connected.
#[derive(Debug, Clone)]
pub struct ConnectionInfo {
    /// The path as the client asked for it.
    pub request_path: Box<str>,
    /// What the connection reads now.
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
    /// The ear for its client; without one, clients are not expected to say anything. A [`Sink::Body`] has none.
    pub inbound: Option<Box<dyn Inbound>>,
    /// Dropped when the connection ends, such as a permit that it took.
    pub held: Option<Box<dyn Any + Send>>,
}

/// What came from a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Heard {
    /// Nothing that matters.
    Nothing,
    /// There are replies to be written before more is heard.
    Replies,
    /// It wants to read other topics.
    Subscribe(Topics),
    /// It is to be parted with.
    Goodbye,
    /// It is gone.
    Gone,
}

/// Where the engine stands with a client that speaks.
#[derive(Debug)]
struct Conversation {
    inbound: Box<dyn Inbound>,
    /// To be written between batches.
    replies: Vec<u8>,
    /// Tells the connection from others that had its place, while the hub is asked about it.
    serial: u64,
    /// The hub is asked for another feed.
    moving: bool,
    /// Since when a keep-alive has not been answered.
    asked: Option<Instant>,
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
    conversation: Option<Box<Conversation>>,
    pub(super) messages_sent: u64,
    pub(super) info: Arc<ConnectionInfo>,
    held: Option<Box<dyn Any + Send>>,
}

impl Connection {
    pub(super) fn new(
        subscriber: Subscriber,
        snapshot: Option<Bytes>,
        feed: FeedId,
        position: u64,
        serial: u64,
        waker: Waker,
    ) -> Self {
        let conversation = subscriber
            .inbound
            .map(|inbound| Box::new(Conversation { inbound, replies: Vec::new(), serial, moving: false, asked: None }));
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
            conversation,
            messages_sent: 0,
            info: Arc::new(subscriber.info),
            held: subscriber.held,
        }
    }

    /// Writes what the reader has not got yet, as far as the sink takes it.
    pub(super) fn flush(&mut self, log: &Log, framing: &dyn Framing, sent: &mut Sent) -> Flushed {
        loop {
            let before = self.messages_sent;
            if self.pending.is_empty()
                && let Some(conversation) = &mut self.conversation
                && !conversation.replies.is_empty()
            {
                self.pending = std::mem::take(&mut conversation.replies).into();
            }
            if self.pending.is_empty() && self.missed.is_some() {
                self.catch_up(log, framing);
            }
            if self.pending.is_empty() && self.position == log.head() {
                return self.push_out();
            }
            let written = match &mut self.sink {
                Sink::Socket(_) => self.write_socket(log),
                Sink::Stream(_) => self.write_stream(log),
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

    /// Puts a keep-alive before the log, to be flushed next. Only for a reader that is current.
    pub(super) fn put_keep_alive(&mut self, bytes: Bytes) {
        debug_assert!(self.pending.is_empty(), "bytes put aside must not cut a batch in two");
        self.pending = bytes;
        self.last_write = Instant::now();
        if let Some(conversation) = &mut self.conversation {
            conversation.asked.get_or_insert(self.last_write);
        }
    }

    /// Reads what the client sends. Nothing is expected of most, so it is thrown away, and only tells when they are gone.
    pub(super) fn hear(&mut self, scratch: &mut [u8]) -> Heard {
        let mut context = Context::from_waker(&self.waker);
        let mut read = 0;
        for round in 0.. {
            if let Some(conversation) = &mut self.conversation {
                // What it says next waits until it has been answered.
                if conversation.moving || !conversation.replies.is_empty() {
                    return Heard::Nothing;
                }
                // What came with the request, or was kept, goes first.
                match conversation.inbound.receive(&scratch[..read], &self.info.topics, &mut conversation.replies) {
                    Said::Nothing if conversation.replies.is_empty() => {}
                    Said::Nothing => return Heard::Replies,
                    Said::Subscribe(topics) => {
                        conversation.moving = true;
                        return Heard::Subscribe(topics);
                    }
                    Said::Goodbye => return Heard::Goodbye,
                }
            }
            if round == MAX_READS {
                break;
            }
            match self.sink.poll_read(&mut context, scratch) {
                Poll::Pending if self.is_open() => return Heard::Nothing,
                Poll::Pending | Poll::Ready(Ok(0) | Err(_)) => return Heard::Gone,
                Poll::Ready(Ok(count)) => read = count,
            }
            match &mut self.conversation {
                Some(conversation) => conversation.asked = None,
                None => {
                    self.received += read;
                    if self.received > MAX_RECEIVED {
                        return Heard::Gone;
                    }
                }
            }
        }
        // Others get a turn first.
        self.wake();
        Heard::Nothing
    }

    /// The number that tells it from others that had its place; none for a connection whose client is not heard.
    pub(super) fn serial(&self) -> Option<u64> {
        self.conversation.as_ref().map(|conversation| conversation.serial)
    }

    /// Has the connection served again soon.
    pub(super) fn wake(&self) {
        self.waker.wake_by_ref();
    }

    /// Whether the client has left a keep-alive unanswered for `limit`.
    pub(super) fn is_unanswered(&self, now: Instant, limit: Duration) -> bool {
        let asked = self.conversation.as_ref().and_then(|conversation| conversation.asked);
        asked.is_some_and(|asked| now.duration_since(asked) >= limit)
    }

    /// Takes along what the reader has not got of its feed, and makes it a reader of another; its position there is to be
    /// set. `false`: that would be too much to take along, and nothing has changed.
    pub(super) fn change_feed(&mut self, log: &Log, to: &FeedHandle) -> bool {
        let unread: usize = log.since(self.position).map(|batch| batch.bytes.len()).sum();
        if self.pending.len() + unread > MAX_CARRIED {
            return false;
        }
        let mut carried = Vec::from(std::mem::take(&mut self.pending));
        while self.missed.is_some() {
            self.catch_up(log, to.framing);
            carried.extend_from_slice(&std::mem::take(&mut self.pending));
        }
        for batch in log.since(self.position) {
            carried.extend_from_slice(&batch.bytes);
            self.messages_sent += u64::from(batch.messages);
        }
        self.feed = to.id;
        Arc::make_mut(&mut self.info).topics = to.topics.clone();
        if let Some(conversation) = &mut self.conversation {
            conversation.moving = false;
            carried.append(&mut conversation.replies);
            conversation.inbound.subscribed(&to.topics, &mut carried);
        }
        self.pending = carried.into();
        true
    }

    /// What is needed to part in good order, if its client is one that speaks: what was begun, and the last word. One that
    /// does not speak is let go at once, and `ending` means that what it has not read is nothing to it any more.
    pub(super) fn part(mut self, ending: Option<Ending>) -> Option<impl Future<Output = ()> + Send + 'static> {
        let Some(mut conversation) = self.conversation.take() else {
            if ending.is_some() {
                self.sink.discard_unsent();
            }
            return None;
        };
        if let Some(ending) = ending {
            conversation.inbound.ending(ending, &mut conversation.replies);
        }
        let rest = [&self.pending[..], &conversation.replies[..]].concat().into();
        Some(part(self.sink, rest, self.held))
    }

    /// Whether the peer may still be there. A socket tells through its waker; a body's channel must be asked.
    pub(super) fn is_open(&self) -> bool {
        match &self.sink {
            Sink::Socket(_) | Sink::Stream(_) => true,
            Sink::Body(sender) => sender.get_ref().is_some_and(|sender| !sender.is_closed()),
        }
    }

    /// Whether nothing was written for `silence`, and nothing waits to be.
    pub(super) fn is_silent(&self, now: Instant, silence: Duration) -> bool {
        self.blocked.is_none() && now.duration_since(self.last_write) >= silence
    }

    /// As [`Sink::discard_unsent`].
    pub(super) fn discard_unsent(&self) {
        self.sink.discard_unsent();
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

    fn write_stream(&mut self, log: &Log) -> io::Result<usize> {
        let Sink::Stream(stream) = &mut self.sink else { return Ok(0) };
        let mut context = Context::from_waker(&self.waker);
        let next = log.since(self.position).next().map_or(&[][..], |batch| &batch.bytes);
        let bytes = if self.pending.is_empty() { next } else { &self.pending };
        match Pin::new(stream).poll_write(&mut context, bytes) {
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
            Poll::Ready(Ok(0)) if !bytes.is_empty() => Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(Ok(written)) => {
                self.advance(log, written);
                Ok(written)
            }
            Poll::Ready(Err(error)) => Err(error),
        }
    }

    /// Has what stands between write what it holds back.
    fn push_out(&mut self) -> Flushed {
        let Sink::Stream(stream) = &mut self.sink else { return Flushed::Current };
        match Pin::new(stream).poll_flush(&mut Context::from_waker(&self.waker)) {
            Poll::Pending => Flushed::Blocked,
            Poll::Ready(Ok(())) => Flushed::Current,
            Poll::Ready(Err(_)) => Flushed::Closed,
        }
    }

    fn poll_writable(&mut self) -> Poll<io::Result<()>> {
        let mut context = Context::from_waker(&self.waker);
        match &mut self.sink {
            Sink::Socket(socket) => socket.poll_write_ready(&mut context),
            // It has taken the waker when it took no bytes.
            Sink::Stream(_) => Poll::Pending,
            Sink::Body(sender) => sender.poll_reserve(&mut context).map_err(|_| io::ErrorKind::BrokenPipe.into()),
        }
    }
}
