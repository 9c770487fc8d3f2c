//! One connection to JetStream: what it reads from each stream, and what it finds out about them.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_nats::Message;
use tallycast_fanout::{EntryId, ResetReason, SequenceEventKind};
use tokio::time::Instant;

use super::message::{self, Delivery};
use super::progress::{Finding, Progress};
use super::reader::{BATCH, Reader, Received};
use super::{JetStreamSource, SessionError, Stream, gap, history, sequence_event};
use crate::nats_client::{Connection, NatsError, StreamInfo};
use crate::source::Emitter;
use crate::source::nats::check_stream;

/// The time between two looks at the streams.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// One connection.
pub(super) struct Session<'a> {
    source: &'a mut JetStreamSource,
    connection: Connection,
    /// Of streams, by their keys. Those that cannot be read have none.
    readers: HashMap<Arc<str>, Reader>,
    /// When all streams were last looked at.
    looked_at: Option<Instant>,
}

/// Why a session's loop woke.
enum LoopEvent {
    Received(Arc<str>, Vec<Message>),
    /// A subscription has ended.
    Closed,
    Failed(NatsError),
    LookDue,
    StreamsChanged,
}

impl<'a> Session<'a> {
    pub(super) fn new(source: &'a mut JetStreamSource, connection: Connection) -> Self {
        Self { source, connection, readers: HashMap::new(), looked_at: None }
    }

    /// Reads until the connection fails.
    pub(super) async fn run(mut self, emitter: &mut Emitter) -> SessionError {
        loop {
            if let Err(error) = self.turn(emitter).await {
                return error;
            }
        }
    }

    async fn turn(&mut self, emitter: &mut Emitter) -> Result<(), SessionError> {
        if self.looked_at.is_none_or(|at| at.elapsed() >= LOOK_INTERVAL) {
            self.look_at_all(emitter).await?;
            self.looked_at = Some(Instant::now());
        }
        let is_current = |stream: &Stream| {
            self.readers.contains_key(&stream.key.key) && stream.progress.as_ref().is_some_and(Progress::is_current)
        };
        if self.source.streams.iter().all(is_current) {
            emitter.subscribed();
        }
        let look_due = self.looked_at.unwrap_or_else(Instant::now) + LOOK_INTERVAL;
        let Self { source, connection, readers, .. } = self;
        let event = tokio::select! {
            biased;
            error = connection.failed() => LoopEvent::Failed(error),
            // Fails when the sender is gone, which disables this branch.
            Ok(()) = source.keys.changed() => LoopEvent::StreamsChanged,
            () = tokio::time::sleep_until(look_due) => LoopEvent::LookDue,
            received = std::future::poll_fn(|context| poll_readers(readers, context)) => received,
        };
        match event {
            LoopEvent::Failed(error) => Err(error.into()),
            LoopEvent::Closed => Err(NatsError::Closed.into()),
            LoopEvent::LookDue => Ok(()),
            LoopEvent::StreamsChanged => {
                self.source.update_streams();
                let is_read = |key: &Arc<str>, _: &mut Reader| {
                    self.source.streams.iter().any(|stream| stream.key.key == *key && !stream.history_due)
                };
                self.readers.retain(is_read);
                self.looked_at = None;
                Ok(())
            }
            LoopEvent::Received(key, batch) => {
                // The stream of a reader is there.
                match self.source.streams.iter().position(|stream| stream.key.key == key) {
                    Some(number) => self.take(number, batch, emitter).await,
                    None => Ok(()),
                }
            }
        }
    }

    /// Opens streams that have no reader, and finds out what has become of the others.
    async fn look_at_all(&mut self, emitter: &mut Emitter) -> Result<(), SessionError> {
        // It goes there and back, so a server that stands still is noticed.
        self.connection.ping().await?;
        for number in 0..self.source.streams.len() {
            let key = Arc::clone(&self.source.streams[number].key.key);
            if self.readers.contains_key(&key) {
                self.look(number, emitter).await?;
            }
            if !self.readers.contains_key(&key) {
                self.open(number, emitter).await?;
            }
        }
        Ok(())
    }

    /// Compares a stream with what was read of it.
    async fn look(&mut self, number: usize, emitter: &mut Emitter) -> Result<(), SessionError> {
        let key = Arc::clone(&self.source.streams[number].key.key);
        let info = match self.source.api.stream(&self.connection, &key).await {
            Ok(info) => info,
            // Opening it finds out more.
            Err(NatsError::Api(_)) => {
                self.readers.remove(&key);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        // What was sent before the answer has arrived before it.
        let batch = match self.readers.get_mut(&key) {
            Some(reader) => {
                // Otherwise nothing would seem to have arrived when the task has had its share of time.
                let arrived = std::future::poll_fn(|context| Poll::Ready(reader.poll(context)));
                match tokio::task::unconstrained(arrived).await {
                    Poll::Ready(Some(batch)) => batch,
                    Poll::Ready(None) => return Err(NatsError::Closed.into()),
                    Poll::Pending => Vec::new(),
                }
            }
            None => return Ok(()),
        };
        let has_more = batch.len() >= BATCH;
        if !batch.is_empty() {
            self.take(number, batch, emitter).await?;
        }
        let Some(reader) = self.readers.get_mut(&key) else { return Ok(()) };
        if reader.is_silent() {
            tracing::debug!(key = &*key, "the consumer of a stream gives no sign of life");
            self.readers.remove(&key);
            return Ok(());
        }
        let Some(progress) = &mut self.source.streams[number].progress else { return Ok(()) };
        if !progress.is_of(&info) || info.last() < progress.last() {
            self.readers.remove(&key);
        } else if !has_more {
            self.check(number, &info, None, emitter).await?;
        }
        Ok(())
    }

    /// Finds out what was lost of a stream, and reports it.
    async fn check(
        &mut self,
        number: usize,
        info: &StreamInfo,
        next: Option<u64>,
        emitter: &mut Emitter,
    ) -> Result<(), SessionError> {
        let Stream { key, progress: Some(progress), .. } = &mut self.source.streams[number] else { return Ok(()) };
        let last_read = progress.last();
        let (after, reason) = match progress.check(info, next) {
            Finding::Continuous => return Ok(()),
            Finding::Lost { after, messages } => {
                tracing::warn!(
                    key = &*key.key,
                    last_read,
                    messages,
                    "messages of a stream are lost: they were removed before they were read"
                );
                (after, ResetReason::Trimmed)
            }
            Finding::Shortened { after } => {
                tracing::warn!(
                    key = &*key.key,
                    last_read,
                    "positions in a stream are void: its newest messages are gone"
                );
                (after, ResetReason::Unknown)
            }
            Finding::Replaced { after } => {
                tracing::warn!(
                    key = &*key.key,
                    last_read,
                    "positions in a stream are void: it was replaced by another one"
                );
                (after, ResetReason::Unknown)
            }
        };
        emitter.stats().stream_gaps.add(1);
        Ok(emitter.send(gap(key, after, reason)).await?)
    }

    /// Passes on what was received from a stream, and asks for more.
    async fn take(&mut self, number: usize, batch: Vec<Message>, emitter: &mut Emitter) -> Result<(), SessionError> {
        let key = Arc::clone(&self.source.streams[number].key.key);
        let Some(reader) = self.readers.get_mut(&key) else { return Ok(()) };
        let received = reader.receive(batch).map_err(|text| SessionError::Unknown(Arc::clone(&key), text))?;
        let Received { messages, is_idle, mut is_gone } = received;
        if self.pass_on(number, messages, emitter).await? {
            is_gone = true;
        }
        let stream = &mut self.source.streams[number];
        if is_idle && stream.progress.as_mut().is_some_and(|progress| progress.becomes_current(None)) {
            emitter.send(sequence_event(&stream.key, SequenceEventKind::Current)).await?;
        }
        if is_gone {
            self.readers.remove(&key);
            return self.open(number, emitter).await;
        }
        let Some(reader) = self.readers.get_mut(&key) else { return Ok(()) };
        Ok(reader.pull(&self.source.api, &self.connection).await?)
    }

    /// Emits messages of a stream. Returns `true` if they are not of the stream that was read before.
    async fn pass_on(
        &mut self,
        number: usize,
        messages: Vec<(Delivery, Box<Message>)>,
        emitter: &mut Emitter,
    ) -> Result<bool, SessionError> {
        let key = Arc::clone(&self.source.streams[number].key.key);
        let Some(progress) = &self.source.streams[number].progress else { return Ok(false) };
        let mut expected = progress.last() + 1;
        let has_gap = messages.iter().any(|(delivery, _)| {
            let before = std::mem::replace(&mut expected, delivery.number.saturating_add(1));
            delivery.number != before
        });
        // Those in between were deleted, or removed from the beginning of the stream before they were read.
        let info = if has_gap {
            match self.source.api.stream(&self.connection, &key).await {
                Ok(info) if progress.is_of(&info) => Some(info),
                Ok(_) | Err(NatsError::Api(_)) => return Ok(true),
                Err(error) => return Err(error.into()),
            }
        } else {
            None
        };
        for (delivery, message) in messages {
            if let Some(info) = &info {
                self.check(number, info, Some(delivery.number), emitter).await?;
            }
            let Stream { key, subjects, progress: Some(progress), .. } = &mut self.source.streams[number] else {
                break;
            };
            if progress.becomes_current(Some(delivery.number)) {
                emitter.send(sequence_event(key, SequenceEventKind::Current)).await?;
            }
            let is_backlog = progress.is_backlog(delivery.number);
            if key.retention.is_some() || !is_backlog {
                let sequence = Arc::clone(&key.sequence);
                emitter.send(message::into_event(*message, sequence, delivery.number, subjects, is_backlog)).await?;
            }
            progress.read(delivery.number);
            if delivery.pending == 0 && progress.becomes_current(None) {
                emitter.send(sequence_event(key, SequenceEventKind::Current)).await?;
            }
        }
        Ok(false)
    }

    /// Reads a stream from where it was read to, or from where the history of its route begins. If that is impossible, the next look
    /// tries again.
    async fn open(&mut self, number: usize, emitter: &mut Emitter) -> Result<(), SessionError> {
        let key = Arc::clone(&self.source.streams[number].key.key);
        check_stream(&key)?;
        match self.try_open(number, emitter).await {
            Ok(()) => {
                self.source.streams[number].last_logged.clear();
                Ok(())
            }
            // Others can be read, unless the process has yet to start.
            Err(SessionError::Nats(NatsError::Api(error))) if emitter.broker.has_started() => {
                let stream = &mut self.source.streams[number];
                let reason = error.to_string();
                if stream.last_logged != reason {
                    tracing::warn!(key = &*key, reason, "cannot read a stream; retrying");
                    stream.last_logged = reason;
                }
                if error.is_stream_missing()
                    && let Some(progress) = &mut stream.progress
                {
                    let last_read = progress.last();
                    if progress.delete() {
                        tracing::warn!(key = &*key, last_read, "positions in a stream are void: it was deleted");
                        emitter.stats().stream_gaps.add(1);
                        emitter.send(gap(&stream.key, 0, ResetReason::Unknown)).await?;
                    }
                    if progress.becomes_current(None) {
                        emitter.send(sequence_event(&stream.key, SequenceEventKind::Current)).await?;
                    }
                }
                Ok(())
            }
            Err(SessionError::Nats(error @ NatsError::Api(_))) => Err(SessionError::Stream(key, error)),
            Err(error) => Err(error),
        }
    }

    async fn try_open(&mut self, number: usize, emitter: &mut Emitter) -> Result<(), SessionError> {
        let key = Arc::clone(&self.source.streams[number].key.key);
        let info = self.source.api.stream(&self.connection, &key).await?;
        self.source.streams[number].subjects = info.subjects().to_vec();
        if self.source.streams[number].history_due {
            self.start(number, &info, emitter).await?;
        } else {
            self.check(number, &info, None, emitter).await?;
        }
        let after = self.source.streams[number].progress.as_ref().map_or(0, Progress::last);
        let (reader, pending) = Reader::open(&self.source.api, &self.connection, &key, after).await?;
        self.readers.insert(key, reader);
        let stream = &mut self.source.streams[number];
        if pending == 0 && stream.progress.as_mut().is_some_and(|progress| progress.becomes_current(None)) {
            emitter.send(sequence_event(&stream.key, SequenceEventKind::Current)).await?;
        }
        Ok(())
    }

    /// Starts to read a stream where the history of its route begins.
    async fn start(&mut self, number: usize, info: &StreamInfo, emitter: &mut Emitter) -> Result<(), SessionError> {
        let Stream { key, progress, .. } = &self.source.streams[number];
        // Where a stream was read without a history, what follows is new for readers.
        let read = progress.as_ref().filter(|read| read.is_of(info) && read.last() <= info.last());
        let until = read.map_or(info.last(), Progress::last);
        let after = match &key.retention {
            Some(retention) => history::beginning(&self.source.api, &self.connection, (&key.key, info), retention)
                .await?
                .max(info.before_first())
                .min(until),
            None => until,
        };
        let stream = &mut self.source.streams[number];
        stream.progress = Some(Progress::new(info, after, until));
        stream.history_due = false;
        tracing::debug!(key = &*stream.key.key, after, until, "reading a stream");
        let start = SequenceEventKind::Start { after: EntryId::new(after, 0) };
        Ok(emitter.send(sequence_event(&stream.key, start)).await?)
    }
}

/// The next messages of any stream.
fn poll_readers(readers: &mut HashMap<Arc<str>, Reader>, context: &mut Context<'_>) -> Poll<LoopEvent> {
    for (key, reader) in readers {
        match reader.poll(context) {
            Poll::Ready(Some(batch)) => return Poll::Ready(LoopEvent::Received(Arc::clone(key), batch)),
            Poll::Ready(None) => return Poll::Ready(LoopEvent::Closed),
            Poll::Pending => {}
        }
    }
    Poll::Pending
}
