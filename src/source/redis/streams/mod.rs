//! Entries of Redis streams, over one connection for each session.
//!
//! The source keeps the place that it has read each stream to, so a session continues where the last one ended. An entry is
//! passed on before its place is, and waits for room, so no receipts are needed: what is lost with the process is read again
//! by the next one.
//!
//! Reading and looking at a stream (`XREAD` and `XINFO STREAM`) go in one pipeline at the start of a session, every two
//! seconds, and while more is left to read than one batch. `progress` finds what was lost or replaced in between; only
//! then do readers receive what came with the same pipeline.

mod connection;
mod progress;
mod replies;
#[cfg(test)]
mod tests;
mod trim;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use redis::RedisError;
use tallycast_fanout::{EntryId, ResetReason, SequenceEvent, SequenceEventKind};
use tokio::sync::watch;
use tokio::time::Instant;

use super::Config;
use crate::redis_client::Access;
use crate::source::{BoxError, Capabilities, Emitter, PipelineClosed, SessionEnd, Source, StreamKey};
use connection::StreamConnection;
use progress::{Finding, Progress, StreamInfo};
use replies::{StreamEntry, UnknownReply};
use trim::Trimmer;

pub use trim::Trim;

/// The longest time that `XREAD` waits for an entry.
const BLOCK: Duration = Duration::from_secs(1);
/// The time between two looks at the streams that are being read.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Why a session failed.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error("a replica is behind what was read from another server")]
    ReplicaBehind,
    #[error("the stream {0:?}: {1}")]
    Stream(Arc<str>, RedisError),
    #[error(transparent)]
    Redis(#[from] RedisError),
    #[error(transparent)]
    Reply(#[from] UnknownReply),
    #[error(transparent)]
    PipelineClosed(#[from] PipelineClosed),
}

/// Redis Streams as a [`Source`].
#[derive(Debug)]
pub struct StreamsSource {
    config: Config,
    /// The slot that all streams are in, in a cluster.
    slot: Option<u16>,
    /// The next session reads from the primary, because a replica was behind.
    avoids_replicas: bool,
    /// The streams to read, which may change.
    keys: watch::Receiver<Vec<StreamKey>>,
    streams: Vec<Stream>,
    batch: BatchSize,
    trimmer: Trimmer,
}

/// A stream that is being read.
#[derive(Debug)]
struct Stream {
    key: StreamKey,
    /// Where it has been read to; `None` before its start.
    progress: Option<Progress>,
    /// Its history has yet to be read, because there was none before.
    history_due: bool,
    /// More may be left to read than the last batch had.
    is_behind: bool,
}

impl StreamsSource {
    /// A source of the entries of streams, which may change.
    pub fn new(config: Config, keys: watch::Receiver<Vec<StreamKey>>) -> Self {
        let trimmer = Trimmer::new(config.trim.clone(), config.commands());
        let (streams, batch) = (Vec::new(), BatchSize::default());
        Self { config, slot: None, avoids_replicas: false, keys, streams, batch, trimmer }
    }

    /// The same for streams that are all in one slot of a cluster.
    pub(super) fn of_slot(config: Config, slot: u16, keys: watch::Receiver<Vec<StreamKey>>) -> Self {
        Self { slot: Some(slot), ..Self::new(config, keys) }
    }

    /// Adds the streams that are new, and removes those that no route reads any more.
    fn update_streams(&mut self) {
        let keys = self.keys.borrow_and_update().clone();
        let mut known: HashMap<Arc<str>, Stream> =
            self.streams.drain(..).map(|stream| (Arc::clone(&stream.key.key), stream)).collect();
        let mut added = Vec::new();
        for key in keys {
            let stream = match known.remove(&key.key) {
                Some(stream) => {
                    let is_new = stream.key.retention.is_none() && key.retention.is_some();
                    Stream { key, history_due: stream.history_due || is_new, ..stream }
                }
                None => {
                    added.push(Arc::clone(&key.key));
                    Stream { key, progress: None, history_due: true, is_behind: false }
                }
            };
            self.streams.push(stream);
        }
        if !added.is_empty() || !known.is_empty() {
            tracing::info!(?added, removed = ?known.into_keys().collect::<Vec<_>>(), "changed the streams to read");
        }
    }
}

impl Source for StreamsSource {
    fn address(&self) -> String {
        let url = &self.config.url;
        self.slot.map_or_else(|| url.to_string(), |slot| format!("{url} (streams of slot {slot})"))
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::LOG
    }

    async fn run(&mut self, emitter: &mut Emitter) -> Result<SessionEnd, BoxError> {
        if !emitter.idle_while_empty(&self.keys).await {
            return Ok(SessionEnd::Finished);
        }
        self.update_streams();
        let access = if std::mem::take(&mut self.avoids_replicas) { Access::Primary } else { Access::Replica };
        let connection = match StreamConnection::open(&self.config, self.slot, access).await {
            Err(error) if access == Access::Replica && self.config.servers.reads_replicas() => {
                tracing::debug!(%error, "no replica can be read; reading streams from the primary");
                StreamConnection::open(&self.config, self.slot, Access::Primary).await?
            }
            opened => opened?,
        };
        let session = Session { source: &mut *self, connection, is_new: true, looked_at: Instant::now() };
        let error = session.run(emitter).await;
        for Stream { key, progress, .. } in &mut self.streams {
            if progress.as_mut().is_some_and(Progress::interrupt) {
                emitter.send(sequence_event(&key.sequence, SequenceEventKind::Interrupted)).await?;
            }
        }
        Err(error.into())
    }
}

/// One connection.
struct Session<'a> {
    source: &'a mut StreamsSource,
    connection: StreamConnection,
    /// The streams may be others than in the last session.
    is_new: bool,
    /// When all streams were last looked at.
    looked_at: Instant,
}

/// What was read from a stream.
struct Batch {
    entries: Vec<StreamEntry>,
    /// How the stream was right afterwards, if it was looked at.
    look: Option<Look>,
}

/// What a look at a stream has found; `None` if there is no stream.
type Look = Option<StreamInfo>;

impl Session<'_> {
    /// Reads until the connection fails.
    async fn run(mut self, emitter: &mut Emitter) -> SessionError {
        loop {
            if let Err(error) = self.turn(emitter).await {
                return error;
            }
        }
    }

    async fn turn(&mut self, emitter: &mut Emitter) -> Result<(), SessionError> {
        self.connection.check()?;
        // An error means that the sender is gone, and the streams stay as they are.
        if self.source.keys.has_changed().unwrap_or(false) {
            self.source.update_streams();
        }
        for number in 0..self.source.streams.len() {
            if self.source.streams[number].history_due {
                self.start(number, None, emitter).await?;
            }
        }
        if self.source.streams.is_empty() {
            tokio::time::sleep(BLOCK).await;
            return self.connection.ping().await;
        }
        for (number, batch) in self.read().await?.into_iter().enumerate() {
            self.take(number, batch, emitter).await?;
        }
        self.is_new = false;
        let is_current = |stream: &Stream| stream.progress.as_ref().is_some_and(Progress::is_current);
        if self.source.streams.iter().all(is_current) {
            emitter.subscribed();
        }
        if self.source.trimmer.is_due() {
            // Others would lose what has yet to be read.
            let caught_up = self.source.streams.iter().filter(|stream| is_current(stream) && !stream.is_behind);
            let keys: Vec<_> = caught_up.map(|stream| Arc::clone(&stream.key.key)).collect();
            if !keys.is_empty() {
                self.source.trimmer.trim(&keys, &mut self.connection, emitter.stats()).await?;
            }
        }
        Ok(())
    }

    /// Reads from all streams, and looks at those where something may have been lost. Waits for entries if none is looked at.
    async fn read(&mut self) -> Result<Vec<Batch>, SessionError> {
        let looks_at_all = self.is_new || self.looked_at.elapsed() >= LOOK_INTERVAL;
        if looks_at_all {
            self.looked_at = Instant::now();
        }
        let StreamsSource { streams, batch, config, .. } = &mut *self.source;
        let looked_at = |stream: &Stream| looks_at_all || stream.is_behind;
        let block = (!streams.iter().any(looked_at)).then(|| BLOCK.min(config.ping_interval));
        let mut command = redis::cmd("XREAD");
        command.arg("COUNT").arg(batch.0);
        if let Some(block) = block {
            // Zero would be for ever.
            command.arg("BLOCK").arg(block.as_millis().max(1) as u64);
        }
        command.arg("STREAMS");
        for stream in &*streams {
            command.arg(&*stream.key.key);
        }
        for stream in &*streams {
            command.arg(stream.progress.as_ref().map_or(EntryId::ZERO, Progress::last).to_string());
        }
        let mut pipeline = redis::pipe();
        pipeline.add_command(command);
        for stream in streams.iter().filter(|stream| looked_at(stream)) {
            pipeline.cmd("XINFO").arg("STREAM").arg(&*stream.key.key);
        }
        let mut replies = self.connection.pipeline(pipeline, block.unwrap_or_default()).await?.into_iter();
        let mut next = || replies.next().ok_or(UnknownReply("a pipeline"));
        let mut received = replies::read(next()?.extract_error()?)?;
        let mut batches = Vec::with_capacity(streams.len());
        for stream in &mut *streams {
            let look = if looked_at(stream) { Some(connection::info(&stream.key.key, next()?)?) } else { None };
            let entries = received.remove(stream.key.key.as_bytes()).unwrap_or_default();
            batches.push(Batch { entries, look });
        }
        for (stream, received) in streams.iter_mut().zip(&batches) {
            stream.is_behind = received.entries.len() >= batch.0;
        }
        let entries = batches.iter().flat_map(|batch| &batch.entries);
        batch.adapt(entries.map(StreamEntry::bytes).sum());
        Ok(batches)
    }

    /// Passes on what was read from a stream, unless it is not the stream that it was.
    async fn take(&mut self, number: usize, batch: Batch, emitter: &mut Emitter) -> Result<(), SessionError> {
        let Batch { entries, look } = batch;
        let stream = &mut self.source.streams[number];
        let StreamKey { key, sequence, .. } = stream.key.clone();
        let Some(progress) = &mut stream.progress else { return Ok(()) };
        if let Some(info) = &look {
            let ids: Vec<EntryId> = entries.iter().map(|entry| entry.id).collect();
            let last_read = progress.last();
            match progress.check(info.as_ref(), &ids) {
                Finding::Continuous => {}
                Finding::Lost { after, entries } => {
                    tracing::warn!(
                        key = &*key, %last_read, ?entries,
                        "entries of a stream are lost: they were trimmed or deleted before they were read"
                    );
                    emitter.stats().stream_gaps.add(1);
                    emitter.send(gap(&sequence, after, ResetReason::Trimmed)).await?;
                }
                Finding::Replaced if self.connection.is_replica() => {
                    // Only the primary can say that.
                    self.source.avoids_replicas = true;
                    return Err(SessionError::ReplicaBehind);
                }
                Finding::Replaced => return self.restart(number, info.as_ref(), emitter).await,
            }
        }
        for entry in entries {
            let id = entry.id;
            if progress.becomes_current(Some(id)) {
                emitter.send(sequence_event(&sequence, SequenceEventKind::Current)).await?;
            }
            let is_backlog = progress.is_backlog(id);
            if stream.key.retention.is_some() || !is_backlog {
                emitter.send(entry.into_event(Arc::clone(&sequence), is_backlog)).await?;
            }
            progress.read(id);
        }
        if !stream.is_behind && progress.becomes_current(None) {
            emitter.send(sequence_event(&sequence, SequenceEventKind::Current)).await?;
        }
        if look.is_some() {
            progress.confirm();
        }
        Ok(())
    }

    /// Starts to read a stream where the history of its route begins, for `reason` if it was read before.
    async fn start(
        &mut self,
        number: usize,
        reason: Option<ResetReason>,
        emitter: &mut Emitter,
    ) -> Result<(), SessionError> {
        let StreamKey { key, sequence, retention } = self.source.streams[number].key.clone();
        let info = self.connection.info(&key).await?.unwrap_or(StreamInfo::ABSENT);
        let newest = info.last_generated;
        // Where a stream was read without a history, what follows is new for readers.
        let read =
            self.source.streams[number].progress.as_ref().filter(|read| reason.is_none() && read.last() <= newest);
        let until = read.map_or(newest, Progress::last);
        let added_until = if until == newest { info.added } else { read.and_then(Progress::added) };
        let after = match retention {
            Some(retention) => {
                let bound = self.connection.beginning(&key, &info, &retention, &mut self.source.batch).await?;
                bound.max(info.start()).min(until)
            }
            None => until,
        };
        let added = match after {
            after if after == until => added_until,
            after if after == info.start() => info.added_at_start(),
            _ => None,
        };
        let stream = &mut self.source.streams[number];
        stream.progress = Some(Progress::new(after, added, &info, until));
        (stream.history_due, stream.is_behind) = (false, true);
        tracing::debug!(key = &*key, %after, %until, "reading a stream");
        let event = match reason {
            None => sequence_event(&sequence, SequenceEventKind::Start { after }),
            Some(reason) => gap(&sequence, after, reason),
        };
        Ok(emitter.send(event).await?)
    }

    /// Goes on with a stream that was deleted or replaced, or has lost its newest entries.
    async fn restart(
        &mut self,
        number: usize,
        info: Option<&StreamInfo>,
        emitter: &mut Emitter,
    ) -> Result<(), SessionError> {
        let StreamKey { key, sequence, .. } = self.source.streams[number].key.clone();
        let Some(progress) = self.source.streams[number].progress.clone() else { return Ok(()) };
        let last_read = progress.last();
        // The server may be another one than before, a replica that lacks the newest entries. While a connection lasts, it is not.
        let mut common = None;
        if let Some(info) = info.filter(|_| self.is_new) {
            for id in progress.confirmed().filter(|id| *id <= info.last_generated) {
                if self.connection.has_entry(&key, id).await? {
                    common = Some(id);
                    break;
                }
            }
        }
        let what = match info {
            None => "it was deleted",
            Some(_) if common.is_some() => "its newest entries are gone",
            Some(_) => "it was replaced by another one",
        };
        tracing::warn!(key = &*key, %last_read, "positions in a stream are void: {what}");
        emitter.stats().stream_gaps.add(1);
        if !progress.has_started() {
            return self.start(number, Some(ResetReason::Unknown), emitter).await;
        }
        let info = info.unwrap_or(&StreamInfo::ABSENT);
        let (after, added, sent) = match (common, progress.confirmed().next()) {
            (Some(common), _) => (common, None, (common, last_read.min(info.last_generated))),
            // What was read since the stream was confirmed may be of either, and readers have it.
            (None, Some(confirmed)) if info.last_generated >= last_read => {
                (info.start(), info.added_at_start(), (confirmed, last_read))
            }
            (None, _) => (info.start(), info.added_at_start(), (EntryId::ZERO, EntryId::ZERO)),
        };
        let stream = &mut self.source.streams[number];
        stream.progress = Some(Progress::restarted(after, added, info, sent));
        stream.is_behind = true;
        Ok(emitter.send(gap(&sequence, after, ResetReason::Unknown)).await?)
    }
}

fn sequence_event(sequence: &Arc<str>, kind: SequenceEventKind) -> SequenceEvent {
    SequenceEvent { sequence: Arc::clone(sequence), kind }
}

fn gap(sequence: &Arc<str>, after: EntryId, reason: ResetReason) -> SequenceEvent {
    sequence_event(sequence, SequenceEventKind::Gap { after, reason })
}

/// The number of entries to ask for, so that a reply has a bounded size for entries like those before it.
#[derive(Debug)]
struct BatchSize(usize);

impl Default for BatchSize {
    fn default() -> Self {
        Self(Self::FIRST)
    }
}

impl BatchSize {
    const FIRST: usize = 16;
    /// The most entries of each stream.
    const MAX: usize = 256;
    /// The size that a reply should have at most, in bytes.
    const REPLY_BYTES: usize = 4 << 20;

    /// Adapts to a reply with this many bytes of entries.
    fn adapt(&mut self, bytes: usize) {
        self.0 = match bytes {
            bytes if bytes > Self::REPLY_BYTES => self.0 * Self::REPLY_BYTES / bytes,
            bytes if bytes < Self::REPLY_BYTES / 4 => self.0 * 2,
            _ => self.0,
        }
        .clamp(1, Self::MAX);
    }
}
