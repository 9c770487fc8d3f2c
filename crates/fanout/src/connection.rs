//! One reader: a position in its feed's log, and the sink that the log is written to.

use std::any::Any;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use bytes::{Buf, Bytes};

use crate::budget::Budget;
use crate::catch_up::{CatchUp, Chunk, ChunkKind};
use crate::close::close_sink;
use crate::conflation::Rules;
use crate::framing::Framing;
use crate::identity::Identity;
use crate::inbound::{ClientAction, Decision};
use crate::interest::Interest;
use crate::log::Log;
use crate::merges::{GroupId, Merges, Summary};
use crate::moment::Moment;
use crate::origin::Origin;
use crate::replay::{Replay, ReplaySource};
use crate::shard::FeedId;
use crate::sink::Sink;
use crate::{ConnectionId, Grant, Inbound, Message, Operation, Rate, Stats, StreamWatch, Subscriber, Topics};

/// The most slices in one vectored write.
const MAX_SLICES: usize = 64;
/// Bytes that a client without an inbound handler may send. They are discarded.
const MAX_DISCARDED: u16 = u16::MAX;
/// Reads from one client before others get a turn.
const MAX_READS: usize = 16;

/// What a connection reads from: its feed, as its shard has it.
pub(crate) struct FeedView<'a> {
    pub(crate) log: &'a Log,
    pub(crate) framing: &'a dyn Framing,
    pub(crate) merges: &'a mut Merges,
    /// Whether its log is not for the wire: its readers get it conflated, and only when they are due.
    pub(crate) is_paced: bool,
    /// How messages are conflated.
    pub(crate) rules: Option<Rules>,
    /// What is made for one reader is charged to it.
    pub(crate) budget: &'a Arc<Budget>,
    pub(crate) stats: &'a Stats,
    /// Bytes that may be kept for one reader although the log has dropped them. A reader that needs more is too slow.
    pub(crate) max_carried: usize,
    /// Where the next piece of a replay comes from, if it may have one now.
    pub(crate) replay: Option<ReplaySource<'a>>,
}

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
    /// The client wants something that takes time.
    Perform(Operation),
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
    /// The sink accepts more, but the next piece of the history is not made yet.
    Replaying,
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
    ping_sent_at: Option<Moment>,
}

#[derive(Debug)]
pub(crate) struct Connection {
    sink: Sink,
    pub(crate) feed: FeedId,
    /// Its place in the feed's list of readers.
    pub(crate) reader_slot: u32,
    /// Its place in the feed's list of blocked readers, if it is blocked.
    pub(crate) blocked: Option<u32>,
    /// The batch to read next.
    pub(crate) position: u64,
    pub(crate) max_rate: Option<Rate>,
    /// A batch was due while it was blocked.
    pub(crate) is_overdue: bool,
    /// `None` if it would be empty, with nothing begun.
    pub(crate) catch_up: Option<Box<CatchUp>>,
    waker: Waker,
    /// When everything was last written; if it is blocked, when something was.
    pub(crate) last_progress: Moment,
    discarded: u16,
    conversation: Option<Box<Conversation>>,
    /// Distinguishes it from other connections in the same slot.
    pub(crate) generation: u64,
    /// A change of topics is being decided, or an operation performed; nothing is read from the client meanwhile.
    pub(crate) change_pending: bool,
    identity: Option<Box<Identity>>,
    pub(crate) messages_sent: u64,
    pub(crate) origin: Origin,
    watch: Option<Box<dyn StreamWatch>>,
}

/// Bytes that hold a guard.
struct GuardedBytes {
    bytes: Bytes,
    _guard: Box<dyn Any + Send + Sync>,
}

impl AsRef<[u8]> for GuardedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Connection {
    pub(crate) fn new(
        subscriber: Subscriber,
        beginning: Option<(Chunk, Option<Replay>)>,
        snapshot: Option<Bytes>,
        feed: FeedId,
        position: u64,
        generation: u64,
        waker: Waker,
    ) -> Self {
        let conversation = subscriber
            .inbound
            .map(|inbound| Box::new(Conversation { inbound, replies: Vec::new(), ping_sent_at: None }));
        let mut catch_up = CatchUp::default();
        catch_up.begun = subscriber.preamble;
        if let Some((chunk, replay)) = beginning {
            catch_up.put_beginning(chunk, replay);
        }
        if let Some(bytes) = snapshot {
            let bytes = match subscriber.snapshot_guard {
                Some(guard) => Bytes::from_owner(GuardedBytes { bytes, _guard: guard }),
                None => bytes,
            };
            catch_up.push(Chunk { bytes, messages: 1, kind: ChunkKind::Snapshot });
        }
        Self {
            sink: subscriber.sink,
            feed,
            reader_slot: 0,
            blocked: None,
            position,
            max_rate: subscriber.max_rate,
            is_overdue: false,
            catch_up: Some(Box::new(catch_up)),
            waker,
            last_progress: Moment::now(),
            discarded: 0,
            conversation,
            generation,
            change_pending: false,
            identity: Identity::of(subscriber.grant.as_deref()),
            messages_sent: 0,
            origin: Origin::new(&subscriber.info),
            watch: subscriber.watch,
        }
    }

    /// Writes everything that the reader has not got yet, as far as the sink accepts it.
    pub(crate) fn flush(&mut self, feed: &mut FeedView<'_>, sent: &mut Sent) -> FlushOutcome {
        static NOTHING: Log = Log::new();
        let log = if feed.is_paced { &NOTHING } else { feed.log };
        loop {
            let before = self.messages_sent;
            if self.catch_up.is_some() || self.conversation.is_some() {
                self.begin_next(feed);
            }
            if self.begun().is_empty() && self.is_replaying() {
                return FlushOutcome::Replaying;
            }
            if self.begun().is_empty() && (feed.is_paced || self.position == log.head()) {
                return match self.sink.poll_flush(&mut Context::from_waker(&self.waker)) {
                    Poll::Pending => FlushOutcome::Blocked,
                    Poll::Ready(Ok(())) => FlushOutcome::Current,
                    Poll::Ready(Err(_)) => FlushOutcome::Disconnected,
                };
            }
            let written = match &mut self.sink {
                Sink::Socket(_) | Sink::Stream(_) => self.write_slices(log),
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
        debug_assert!(self.begun().is_empty(), "a keep-alive must not cut a batch in two");
        self.catch_up.get_or_insert_default().begun = bytes;
        self.last_progress = Moment::now();
        if let Some(conversation) = &mut self.conversation {
            conversation.ping_sent_at.get_or_insert(self.last_progress);
        }
    }

    /// Appends a message for this reader alone to what it has not got yet, to be flushed next. Returns `false`, with nothing
    /// changed, if the reader is too far behind.
    pub(crate) fn put_message(&mut self, message: &Message, feed: &mut FeedView<'_>) -> bool {
        let mut batch = Vec::new();
        feed.framing.message(message, &mut batch);
        let bytes = feed.framing.finish(batch);
        if !self.carry_unread(feed, bytes.len()) {
            return false;
        }
        self.put_bytes(feed.budget.charge_bytes(bytes), 1);
        true
    }

    /// Reads what the client sends, who reads `topics`. Without an inbound handler that only shows when the client has gone.
    pub(crate) fn read_inbound(&mut self, topics: &Topics, scratch: &mut [u8]) -> ReadOutcome {
        let mut context = Context::from_waker(&self.waker);
        let mut read = 0;
        for round in 0.. {
            if let Some(conversation) = &mut self.conversation {
                // More is read only when everything before has been answered.
                if self.change_pending {
                    return ReadOutcome::Idle;
                }
                let waiting = self.catch_up.as_ref().is_some_and(|catch_up| catch_up.has_replies());
                if waiting || !conversation.replies.is_empty() {
                    return ReadOutcome::Replies;
                }
                // Bytes that came with the request, or that the handler kept, come first.
                match conversation.inbound.receive(&scratch[..read], topics, &mut conversation.replies) {
                    ClientAction::None if conversation.replies.is_empty() => {}
                    ClientAction::None => return ReadOutcome::Replies,
                    ClientAction::Subscribe(topics) => return ReadOutcome::Subscribe(topics),
                    ClientAction::Authorize(decision) => {
                        self.change_pending = true;
                        return ReadOutcome::Authorize(decision);
                    }
                    ClientAction::Perform(operation) => {
                        self.change_pending = true;
                        return ReadOutcome::Perform(operation);
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
                    self.discarded = self.discarded.saturating_add(u16::try_from(read).unwrap_or(u16::MAX));
                    if self.discarded == MAX_DISCARDED {
                        return ReadOutcome::Disconnected;
                    }
                }
            }
        }
        self.wake();
        ReadOutcome::Idle
    }

    /// Tells the watch that the shard serves the stream.
    pub(crate) fn attached(&mut self, id: ConnectionId) {
        if let Some(watch) = &mut self.watch {
            watch.attached(id);
        }
    }

    /// Ends an operation that succeeded.
    pub(crate) fn complete_operation(&mut self) {
        self.change_pending = false;
        if let Some(conversation) = &mut self.conversation {
            conversation.inbound.performed(&mut conversation.replies);
        }
    }

    /// Ends the change of topics or the operation that was refused for `reason`. Returns whether the connection is to be closed.
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
    pub(crate) fn is_ping_overdue(&self, now: Moment, timeout: Duration) -> bool {
        let sent_at = self.conversation.as_ref().and_then(|conversation| conversation.ping_sent_at);
        sent_at.is_some_and(|sent_at| now.since(sent_at) >= timeout)
    }

    /// Whether the client's grant has expired.
    pub(crate) fn is_expired(&self, now: SystemTime) -> bool {
        self.identity.as_ref().is_some_and(|identity| identity.is_expired(now))
    }

    /// The name of the client in its grant.
    pub(crate) fn subject(&self) -> Option<Arc<str>> {
        self.identity.as_ref()?.subject.clone()
    }

    /// Whether it has something to get from the history before it reads on in the log. Nothing may be put before the log then.
    pub(crate) fn is_replaying(&self) -> bool {
        self.catch_up.as_ref().is_some_and(|catch_up| catch_up.replay.is_some())
    }

    /// Whether it waits for its shard to make the next piece.
    pub(crate) fn is_waiting_for_piece(&self) -> bool {
        let replay = self.catch_up.as_ref().and_then(|catch_up| catch_up.replay.as_ref());
        replay.is_some_and(|replay| replay.is_queued)
    }

    /// What it has still to get from the history.
    pub(crate) fn replay(&mut self) -> Option<&mut Replay> {
        self.catch_up.as_mut()?.replay.as_deref_mut()
    }

    /// Sends it messages that the log drops from the history instead: number `next` and all others up to `end`.
    pub(crate) fn replay_instead(&mut self, interest: &Interest, next: u64, end: u64) {
        match self.replay() {
            Some(replay) => replay.extend(end),
            None => {
                let replay = Replay::between(interest.clone(), next, end);
                self.catch_up.get_or_insert_default().replay = Some(Box::new(replay));
            }
        }
    }

    /// Keeps everything that the reader has not got of its feed, before the caller moves it to the feed of `topics`, and puts
    /// `beginning` after it. Only for a reader that is not replaying. Returns
    /// `false`, with nothing changed, if that would be too many bytes to take along.
    pub(crate) fn change_topics(
        &mut self,
        topics: &Topics,
        from: &mut FeedView<'_>,
        grant: Option<&Grant>,
        beginning: Option<(Chunk, Option<Replay>)>,
    ) -> bool {
        if !self.carry_unread(from, 0) {
            return false;
        }
        self.change_pending = false;
        if grant.is_some() {
            self.identity = Identity::of(grant);
        }
        if let Some(conversation) = &mut self.conversation {
            let mut replies = std::mem::take(&mut conversation.replies);
            conversation.inbound.subscribed(topics, &mut replies);
            if !replies.is_empty() {
                let bytes = from.budget.charge_bytes(replies.into());
                self.catch_up.get_or_insert_default().push(Chunk { bytes, messages: 0, kind: ChunkKind::Replies });
            }
        }
        if let Some((chunk, replay)) = beginning {
            self.catch_up.get_or_insert_default().put_beginning(chunk, replay);
        }
        if let Some(watch) = &mut self.watch {
            watch.topics_changed(topics, grant);
        }
        true
    }

    /// Keeps everything that the reader has not got yet, in order, and moves it to the log's head. Batches are shared, not
    /// copied. Returns `false`, with nothing changed, if that and `more` would be too many bytes.
    fn carry_unread(&mut self, feed: &mut FeedView<'_>, more: usize) -> bool {
        if self.is_replaying() {
            return false;
        }
        let carried = self.catch_up.as_ref().map_or(0, |catch_up| catch_up.carried());
        if feed.is_paced {
            let summary = self.unread(feed);
            if carried + summary.bytes.len() + more > feed.max_carried {
                return false;
            }
            self.put_summary(summary, feed);
            return true;
        }
        let unread: usize = feed.log.since(self.position).map(|batch| batch.bytes.len()).sum();
        if carried + unread + more > feed.max_carried {
            return false;
        }
        if let Some(summary) = self.next_summary(feed).filter(|summary| !summary.bytes.is_empty()) {
            self.catch_up.get_or_insert_default().push(summary);
        }
        for batch in feed.log.since(self.position).filter(|batch| !batch.bytes.is_empty()) {
            self.put_bytes(batch.bytes.clone(), batch.messages.into());
        }
        self.position = feed.log.head();
        true
    }

    /// What the reader of a paced feed has not got, conflated.
    pub(crate) fn unread(&self, feed: &mut FeedView<'_>) -> Summary {
        let FeedView { log, framing, merges, rules, budget, .. } = feed;
        match (self.merge_group(), rules) {
            (Some(group), _) => merges.summary(group, log, *framing, false, budget),
            (None, Some(rules)) => {
                let conflation = log.conflated(self.position, log.head(), *rules);
                Summary::new(&conflation, *framing, false, budget)
            }
            (None, None) => Summary::default(),
        }
    }

    /// Appends what the reader of a paced feed has not got, to be flushed next, and moves it to the log's head.
    pub(crate) fn put_summary(&mut self, summary: Summary, feed: &mut FeedView<'_>) {
        let Summary { bytes, messages, .. } = summary;
        self.position = feed.log.head();
        self.is_overdue = false;
        if let Some(group) = self.leave_merge_group() {
            feed.merges.leave(group);
        }
        if !bytes.is_empty() {
            self.put_bytes(bytes, messages);
        }
    }

    /// Appends bytes to what the reader has not got, to be flushed next.
    pub(crate) fn put_bytes(&mut self, bytes: Bytes, messages: u64) {
        let chunk = Chunk { bytes, messages, kind: ChunkKind::Messages };
        self.catch_up.get_or_insert_default().push(chunk);
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
        if conversation.is_none() && closing.is_empty() && !self.sink.has_closing_bytes() {
            if discard {
                self.sink.discard_unsent();
            }
            return None;
        }
        let replies = conversation.as_ref().map_or(&[][..], |conversation| &conversation.replies);
        let last = [replies, closing].concat().into();
        let begun = self.catch_up.map(|catch_up| catch_up.begun).unwrap_or_default();
        Some(close_sink(self.sink, [begun, last], self.watch))
    }

    /// Whether the peer may still be there.
    pub(crate) fn is_open(&self) -> bool {
        self.sink.is_open()
    }

    /// Whether nothing was written for `silence`, and nothing waits to be.
    pub(crate) fn is_silent(&self, now: Moment, silence: Duration) -> bool {
        self.blocked.is_none() && now.since(self.last_progress) >= silence
    }

    /// As [`Sink::unsent`].
    pub(crate) fn unsent(&self) -> usize {
        self.sink.unsent()
    }

    /// As [`Sink::discard_unsent`].
    pub(crate) fn discard_unsent(&self) {
        self.sink.discard_unsent();
    }

    /// The group whose sum the reader gets before it reads on.
    pub(crate) fn merge_group(&self) -> Option<GroupId> {
        self.catch_up.as_ref()?.merged
    }

    /// Forgets that group, and returns it.
    pub(crate) fn leave_merge_group(&mut self) -> Option<GroupId> {
        self.catch_up.as_mut()?.merged.take()
    }

    /// What is left of bytes that were begun.
    fn begun(&self) -> &[u8] {
        self.catch_up.as_ref().map_or(&[], |catch_up| &catch_up.begun)
    }

    /// If nothing is begun, begins the next bytes that come before the log: those that are in order, replies, and a summary of
    /// what was missed.
    fn begin_next(&mut self, feed: &mut FeedView<'_>) {
        while self.begun().is_empty() {
            let mut next = self.catch_up.as_mut().and_then(|catch_up| catch_up.next_chunk());
            if next.is_none()
                && let Some(conversation) = &mut self.conversation
                && !conversation.replies.is_empty()
            {
                let bytes = std::mem::take(&mut conversation.replies).into();
                next = Some(Chunk { bytes, messages: 0, kind: ChunkKind::Replies });
            }
            if next.is_none() && self.is_replaying() {
                let Some(source) = feed.replay.take() else { return };
                next = self.next_piece(source, feed.stats);
                if next.is_none() {
                    continue;
                }
            }
            if next.is_none() && !feed.is_paced {
                next = self.next_summary(feed);
            }
            let Some(Chunk { bytes, messages, .. }) = next else {
                self.catch_up.take_if(|catch_up| catch_up.is_empty());
                return;
            };
            self.messages_sent += messages;
            self.catch_up.get_or_insert_default().begun = bytes;
        }
    }

    /// The next piece of what it gets from the history, if it is not empty.
    fn next_piece(&mut self, source: ReplaySource<'_>, stats: &Stats) -> Option<Chunk> {
        let replay = self.replay()?;
        let (chunk, is_reset) = replay.next_piece(source);
        stats.resets.add(u64::from(is_reset));
        stats.replayed.add(chunk.as_ref().map_or(0, |chunk| chunk.messages));
        if replay.is_done()
            && let Some(catch_up) = &mut self.catch_up
        {
            catch_up.replay = None;
        }
        chunk
    }

    /// Takes the summary of what the reader missed, if it missed anything. The sum of merged tallies includes what it could
    /// still read from the log.
    fn next_summary(&mut self, feed: &mut FeedView<'_>) -> Option<Chunk> {
        let catch_up = self.catch_up.as_mut()?;
        let kind = ChunkKind::Messages;
        if let Some(group) = catch_up.merged.take() {
            self.position = feed.log.head();
            let Summary { bytes, messages, .. } = feed.merges.summary(group, feed.log, feed.framing, true, feed.budget);
            feed.merges.leave(group);
            return Some(Chunk { bytes, messages, kind });
        }
        let skipped = std::mem::take(&mut catch_up.skipped);
        let mut batch = Vec::new();
        if skipped > 0 {
            feed.framing.skipped(skipped, &mut batch);
        }
        // Some framings have no note.
        (!batch.is_empty()).then(|| Chunk { bytes: feed.framing.finish(batch), messages: 0, kind })
    }

    /// Where the reader reads on in the log once everything was written that was begun; the log's head if more comes before.
    fn readable_from(&self, log: &Log) -> u64 {
        if self.catch_up.as_ref().is_some_and(|catch_up| !catch_up.is_empty()) { log.head() } else { self.position }
    }

    /// Writes what was begun and the batches after it, as much as goes out together.
    fn write_slices(&mut self, log: &Log) -> io::Result<usize> {
        let mut batches = log.since(self.readable_from(log)).map(|batch| &batch.bytes);
        let context = &mut Context::from_waker(&self.waker);
        // Not `begun`, which borrows the sink, too.
        let begun = self.catch_up.as_ref().map_or(&[][..], |catch_up| &catch_up.begun);
        let written = match (begun.is_empty(), batches.len()) {
            // By far the most frequent: filling in slices for one batch would cost a tenth of the write.
            (true, 1) => self.sink.write(context, &[IoSlice::new(batches.next().map_or(&[], |batch| batch))])?,
            (false, 0) => self.sink.write(context, &[IoSlice::new(begun)])?,
            _ => {
                let mut slices = [IoSlice::new(&[]); MAX_SLICES];
                let mut filled = 0;
                let begun = (!begun.is_empty()).then_some(begun);
                for (slice, bytes) in slices.iter_mut().zip(begun.into_iter().chain(batches.map(|batch| &**batch))) {
                    *slice = IoSlice::new(bytes);
                    filled += 1;
                }
                self.sink.write(context, &slices[..filled])?
            }
        };
        self.advance(log, written);
        Ok(written)
    }

    fn write_body(&mut self, log: &Log) -> io::Result<usize> {
        let next = || log.since(self.position).next().map_or_else(Bytes::new, |batch| batch.bytes.clone());
        let begun = self.catch_up.as_ref().map(|catch_up| catch_up.begun.clone()).filter(|begun| !begun.is_empty());
        let bytes = begun.unwrap_or_else(next);
        let written = self.sink.write_body(&mut Context::from_waker(&self.waker), bytes)?;
        self.advance(log, written);
        Ok(written)
    }

    /// Moves on by `written` bytes. A batch counts as sent once its first byte is.
    fn advance(&mut self, log: &Log, mut written: usize) {
        if let Some(catch_up) = &mut self.catch_up {
            let of_begun = written.min(catch_up.begun.len());
            catch_up.begun.advance(of_begun);
            written -= of_begun;
            if catch_up.begun.is_empty() {
                // Do not keep the batch alive that this was a part of.
                catch_up.begun = Bytes::new();
                if catch_up.is_empty() {
                    self.catch_up = None;
                }
            }
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
                self.catch_up.get_or_insert_default().begun = batch.bytes.slice(of_batch..);
                break;
            }
        }
    }
}
