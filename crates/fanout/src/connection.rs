//! One reader: a position in its feed's log, and the sink that the log is written to.

use std::any::Any;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

use bytes::{Buf, Bytes};

use crate::catch_up::{CatchUp, CatchUpBytes};
use crate::close::close_sink;
use crate::feed::{FeedHandle, FeedId};
use crate::framing::Framing;
use crate::inbound::{ClientAction, Decision};
use crate::log::Log;
use crate::sink::Sink;
use crate::{ConnectionInfo, Grant, Inbound, Message, Subscriber, Topics};

/// The most slices in one vectored write.
const MAX_SLICES: usize = 64;
/// Bytes that a client without an inbound handler may send. They are discarded.
const MAX_DISCARDED: u32 = 64 * 1024;
/// Reads from one client before others get a turn.
const MAX_READS: usize = 16;
/// Bytes for one reader alone: unread bytes that move with it to another feed, and messages of its own. A reader that
/// needs more is too slow.
const MAX_OWN_BYTES: usize = 256 * 1024;

/// How reading from a client ended.
pub(crate) enum ReadOutcome {
    /// The client asked for nothing.
    Idle,
    /// Replies must be written before more is read.
    Replies,
    /// The client wants to read other topics.
    Subscribe(Topics),
    /// The client wants something that must be decided first.
    Authorize(Decision),
    /// The connection is to be closed.
    Close,
    /// The client has gone.
    Disconnected,
}

/// How a write ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FlushOutcome {
    /// Everything has been written.
    Current,
    /// The sink accepts no more for now; it will wake the connection.
    Blocked,
    /// The peer has gone.
    Disconnected,
}

/// What was written, summed over many connections before it is added to the counters.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
}

/// The state of a client with an inbound handler.
#[derive(Debug)]
struct Conversation {
    inbound: Box<dyn Inbound>,
    /// To be written between batches.
    replies: Vec<u8>,
    /// When the keep-alive was sent that has not been answered.
    ping_sent_at: Option<Instant>,
}

#[derive(Debug)]
pub(crate) struct Connection {
    sink: Sink,
    pub(crate) feed: FeedId,
    /// Its place in the feed's list of readers.
    pub(crate) reader_slot: usize,
    /// Its place in the feed's list of blocked readers, and since when, if it is blocked.
    pub(crate) blocked: Option<(usize, Instant)>,
    /// The batch to read next.
    pub(crate) position: u64,
    /// The rest of bytes that were begun.
    pending: Bytes,
    pub(crate) catch_up: Option<Box<CatchUp>>,
    waker: Waker,
    pub(crate) last_write: Instant,
    discarded: u32,
    conversation: Option<Box<Conversation>>,
    /// Distinguishes it from other connections in the same slot.
    pub(crate) generation: u64,
    /// A change of topics is under way; nothing is read from the client meanwhile.
    pub(crate) change_pending: bool,
    grant: Option<Arc<Grant>>,
    pub(crate) messages_sent: u64,
    pub(crate) info: Arc<ConnectionInfo>,
    guard: Option<Box<dyn Any + Send>>,
}

impl Connection {
    pub(crate) fn new(
        subscriber: Subscriber,
        snapshot: Option<Bytes>,
        feed: FeedId,
        position: u64,
        generation: u64,
        waker: Waker,
    ) -> Self {
        let conversation = subscriber
            .inbound
            .map(|inbound| Box::new(Conversation { inbound, replies: Vec::new(), ping_sent_at: None }));
        let catch_up = snapshot.map(|snapshot| Box::new(CatchUp { snapshot: Some(snapshot), ..CatchUp::default() }));
        Self {
            sink: subscriber.sink,
            feed,
            reader_slot: 0,
            blocked: None,
            position,
            pending: subscriber.preamble,
            catch_up,
            waker,
            last_write: Instant::now(),
            discarded: 0,
            conversation,
            generation,
            change_pending: false,
            grant: subscriber.grant,
            messages_sent: 0,
            info: Arc::new(subscriber.info),
            guard: subscriber.guard,
        }
    }

    /// Writes everything that the reader has not got yet, as far as the sink accepts it.
    pub(crate) fn flush(&mut self, log: &Log, framing: &dyn Framing, sent: &mut Sent) -> FlushOutcome {
        loop {
            let before = self.messages_sent;
            if self.pending.is_empty()
                && let Some(conversation) = &mut self.conversation
                && !conversation.replies.is_empty()
            {
                self.pending = std::mem::take(&mut conversation.replies).into();
            }
            if self.pending.is_empty() && self.catch_up.is_some() {
                self.pending = self.next_catch_up(log, framing);
            }
            if self.pending.is_empty() && self.position == log.head() {
                return match self.sink.poll_flush(&mut Context::from_waker(&self.waker)) {
                    Poll::Pending => FlushOutcome::Blocked,
                    Poll::Ready(Ok(())) => FlushOutcome::Current,
                    Poll::Ready(Err(_)) => FlushOutcome::Disconnected,
                };
            }
            let written = match &mut self.sink {
                Sink::Socket(_) => self.write_socket(log),
                Sink::Stream(_) => self.write_stream(log),
                Sink::Body(_) => self.write_body(log),
            };
            sent.messages += self.messages_sent - before;
            match written {
                Ok(bytes) => sent.bytes += bytes as u64,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    match self.sink.poll_writable(&mut Context::from_waker(&self.waker)) {
                        Poll::Pending => return FlushOutcome::Blocked,
                        Poll::Ready(Ok(())) => {}
                        Poll::Ready(Err(_)) => return FlushOutcome::Disconnected,
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return FlushOutcome::Disconnected,
            }
        }
    }

    /// Puts a keep-alive before the log, to be flushed next. Only for a reader that is current.
    pub(crate) fn put_keep_alive(&mut self, bytes: Bytes) {
        debug_assert!(self.pending.is_empty(), "a keep-alive must not cut a batch in two");
        self.pending = bytes;
        self.last_write = Instant::now();
        if let Some(conversation) = &mut self.conversation {
            conversation.ping_sent_at.get_or_insert(self.last_write);
        }
    }

    /// Appends a message for this reader alone to what it has not got yet, to be flushed next. Returns `false`, with nothing
    /// changed, if the reader is too far behind.
    pub(crate) fn put_message(&mut self, message: &Message, log: &Log, framing: &dyn Framing) -> bool {
        let Some(mut own) = self.take_unread(log, framing) else { return false };
        let mut batch = Vec::new();
        framing.message(message, &mut batch);
        own.extend_from_slice(&framing.finish(batch));
        self.pending = own.into();
        self.messages_sent += 1;
        true
    }

    /// Reads what the client sends. Without an inbound handler that only shows when the client has gone.
    pub(crate) fn read_inbound(&mut self, scratch: &mut [u8]) -> ReadOutcome {
        let mut context = Context::from_waker(&self.waker);
        let mut read = 0;
        for round in 0.. {
            if let Some(conversation) = &mut self.conversation {
                // More is read only when everything before has been answered.
                if self.change_pending {
                    return ReadOutcome::Idle;
                }
                if !conversation.replies.is_empty() {
                    return ReadOutcome::Replies;
                }
                // Bytes that came with the request, or that the handler kept, come first.
                match conversation.inbound.receive(&scratch[..read], &self.info.topics, &mut conversation.replies) {
                    ClientAction::None if conversation.replies.is_empty() => {}
                    ClientAction::None => return ReadOutcome::Replies,
                    ClientAction::Subscribe(topics) => {
                        self.change_pending = true;
                        return ReadOutcome::Subscribe(topics);
                    }
                    ClientAction::Authorize(decision) => {
                        self.change_pending = true;
                        return ReadOutcome::Authorize(decision);
                    }
                    ClientAction::Close => return ReadOutcome::Close,
                }
            }
            if round == MAX_READS {
                break;
            }
            match self.sink.poll_read(&mut context, scratch) {
                Poll::Pending if self.sink.is_open() => return ReadOutcome::Idle,
                Poll::Pending | Poll::Ready(Ok(0) | Err(_)) => return ReadOutcome::Disconnected,
                Poll::Ready(Ok(count)) => read = count,
            }
            match &mut self.conversation {
                Some(conversation) => conversation.ping_sent_at = None,
                None => {
                    self.discarded = self.discarded.saturating_add(u32::try_from(read).unwrap_or(u32::MAX));
                    if self.discarded > MAX_DISCARDED {
                        return ReadOutcome::Disconnected;
                    }
                }
            }
        }
        self.wake();
        ReadOutcome::Idle
    }

    /// Ends the change of topics that was refused for `reason`. Returns whether the connection is to be closed.
    pub(crate) fn refuse_change(&mut self, reason: &str) -> bool {
        self.change_pending = false;
        let Some(conversation) = &mut self.conversation else { return false };
        matches!(conversation.inbound.refused(reason, &mut conversation.replies), ClientAction::Close)
    }

    /// Has the shard serve the connection again soon.
    pub(crate) fn wake(&self) {
        self.waker.wake_by_ref();
    }

    /// Whether the client left a keep-alive unanswered for `timeout`.
    pub(crate) fn is_ping_overdue(&self, now: Instant, timeout: Duration) -> bool {
        let sent_at = self.conversation.as_ref().and_then(|conversation| conversation.ping_sent_at);
        sent_at.is_some_and(|sent_at| now.duration_since(sent_at) >= timeout)
    }

    /// Whether the client's grant has expired.
    pub(crate) fn is_expired(&self, now: SystemTime) -> bool {
        self.grant.as_ref().is_some_and(|grant| grant.is_expired(now))
    }

    /// The name of the client in its grant.
    pub(crate) fn subject(&self) -> Option<Arc<str>> {
        self.grant.as_ref()?.subject.clone()
    }

    /// Moves the reader to another feed, with everything that it has not got of the old one; the caller sets its position
    /// there. Returns `false`, with nothing changed, if that would be too many bytes to take along.
    pub(crate) fn change_feed(&mut self, log: &Log, to: &FeedHandle, grant: Option<Arc<Grant>>) -> bool {
        let Some(mut carried) = self.take_unread(log, &*to.framing) else { return false };
        self.feed = to.id;
        self.change_pending = false;
        Arc::make_mut(&mut self.info).topics = to.topics.clone();
        if grant.is_some() {
            self.grant = grant;
        }
        if let Some(conversation) = &mut self.conversation {
            carried.append(&mut conversation.replies);
            conversation.inbound.subscribed(&to.topics, &mut carried);
        }
        self.pending = carried.into();
        true
    }

    /// Takes everything that the reader has not got yet, ready for the wire, and moves it to the log's head. `None`, with
    /// nothing changed, if that would be more than [`MAX_OWN_BYTES`].
    fn take_unread(&mut self, log: &Log, framing: &dyn Framing) -> Option<Vec<u8>> {
        let unread: usize = log.since(self.position).map(|batch| batch.bytes.len()).sum();
        if self.pending.len() + unread > MAX_OWN_BYTES {
            return None;
        }
        let mut taken = Vec::from(std::mem::take(&mut self.pending));
        while self.catch_up.is_some() {
            taken.extend_from_slice(&self.next_catch_up(log, framing));
        }
        for batch in log.since(self.position) {
            taken.extend_from_slice(&batch.bytes);
            self.messages_sent += u64::from(batch.messages);
        }
        self.position = log.head();
        Some(taken)
    }

    /// The rest of the connection's life after the engine has let it go: bytes that were begun, replies, and `closing`.
    /// `None` if there is nothing to write and no client that waits for an answer, so that it has ended already; with
    /// `discard`, the kernel then keeps no unread bytes either.
    pub(crate) fn into_close(
        mut self,
        closing: &[u8],
        discard: bool,
    ) -> Option<impl Future<Output = ()> + Send + use<>> {
        let conversation = self.conversation.take();
        if conversation.is_none() && closing.is_empty() {
            if discard {
                self.sink.discard_unsent();
            }
            return None;
        }
        let replies = conversation.as_ref().map_or(&[][..], |conversation| &conversation.replies);
        let last = [&self.pending[..], replies, closing].concat().into();
        Some(close_sink(self.sink, last, self.guard))
    }

    /// Whether the peer may still be there.
    pub(crate) fn is_open(&self) -> bool {
        self.sink.is_open()
    }

    /// Whether nothing was written for `silence`, and nothing waits to be.
    pub(crate) fn is_silent(&self, now: Instant, silence: Duration) -> bool {
        self.blocked.is_none() && now.duration_since(self.last_write) >= silence
    }

    /// As [`Sink::discard_unsent`].
    pub(crate) fn discard_unsent(&self) {
        self.sink.discard_unsent();
    }

    /// Takes the next bytes that come before the log.
    fn next_catch_up(&mut self, log: &Log, framing: &dyn Framing) -> Bytes {
        let Some(catch_up) = &mut self.catch_up else { return Bytes::new() };
        let CatchUpBytes { bytes, messages, to_head } = catch_up.next(log, self.position, framing);
        if catch_up.is_empty() {
            self.catch_up = None;
        }
        if to_head {
            self.position = log.head();
        }
        self.messages_sent += messages;
        bytes
    }

    fn write_socket(&mut self, log: &Log) -> io::Result<usize> {
        let Sink::Socket(socket) = &self.sink else { return Ok(0) };
        // A catch-up comes after what was begun and before the log.
        let readable = if self.catch_up.is_some() { log.head() } else { self.position };
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

    fn write_stream(&mut self, log: &Log) -> io::Result<usize> {
        let next = log.since(self.position).next().map_or(&[][..], |batch| &batch.bytes);
        let bytes = if self.pending.is_empty() { next } else { &self.pending };
        let written = self.sink.write_stream(&mut Context::from_waker(&self.waker), bytes)?;
        self.advance(log, written);
        Ok(written)
    }

    fn write_body(&mut self, log: &Log) -> io::Result<usize> {
        let next = || log.since(self.position).next().map_or_else(Bytes::new, |batch| batch.bytes.clone());
        let bytes = if self.pending.is_empty() { next() } else { self.pending.clone() };
        let written = self.sink.write_body(&mut Context::from_waker(&self.waker), bytes)?;
        self.advance(log, written);
        Ok(written)
    }

    /// Moves on by `written` bytes. A batch counts as sent once its first byte is.
    fn advance(&mut self, log: &Log, mut written: usize) {
        let of_pending = written.min(self.pending.len());
        self.pending.advance(of_pending);
        written -= of_pending;
        if self.pending.is_empty() {
            // Do not keep the batch alive that this was a part of.
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
}
