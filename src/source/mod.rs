//! Stage 1: broker -> [`SourceEvent`].
//!
//! A [`Source`] knows one broker: how to subscribe there, and how to receive. A [`Supervisor`] runs any source: it opens
//! one session after another, backs off in between, and reports the state of the broker. The source passes its events
//! to the pipeline through an [`Emitter`].
//!
//! `docs/sources.md` explains how to write a source; `examples/custom_source.rs` is one in a single file.

#[cfg(feature = "amqp")]
pub mod amqp;
mod broker;
mod emitter;
#[cfg(feature = "kafka")]
pub mod kafka;
mod lag;
pub mod memory;
#[cfg(feature = "nats")]
pub mod nats;
mod push;
pub mod redis;
pub mod relay;
mod selector;
mod supervisor;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tallycast_fanout::inbox::Weight;
use tallycast_fanout::{
    Acknowledgement, Counter, Data, EntryId, Message, Namespace, Position, Retention, SequenceEvent, TotalsState,
};
use tokio::sync::watch;

use crate::totals::TotalsSnapshot;
use crate::trace::EventTrace;

pub use broker::{BrokerState, SourceState, StateBoard};
pub use emitter::{Emitter, PipelineClosed, SendOutcome};
pub use lag::Lags;
pub use push::{PushQueue, PushSource};
pub use selector::{Selector, SourceId, StreamKey};
pub(crate) use supervisor::DEFAULT_NAME;
pub use supervisor::{SourceError, Supervisor};
pub use tallycast_fanout::{NotAcknowledged, Receipt};

/// Any error that a session fails with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A broker that events come from.
///
/// Implement it with `async fn run`. Between sessions a source keeps what the next one needs, such as the position that
/// it has read to; connections belong to a session.
pub trait Source: Send {
    /// Where events come from, for log lines: a URL without secrets, or a name.
    fn address(&self) -> String;

    /// What the source can do.
    fn capabilities(&self) -> Capabilities;

    /// Runs one session: connects, subscribes, calls [`Emitter::subscribed`], and emits events until the broker ends the
    /// session. The supervisor drops the future at shutdown, so every `await` may be the last.
    ///
    /// Everything that waits for the broker needs a time limit: a frozen broker looks like a silent one.
    ///
    /// # Errors
    /// Whatever ended the session early. The supervisor logs it and starts another session.
    fn run(&mut self, emitter: &mut Emitter) -> impl Future<Output = Result<SessionEnd, BoxError>> + Send;
}

/// What a source can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Events have positions that the broker assigns, so that any node can resume a reader exactly.
    pub positions: bool,
    /// The broker keeps events while no session is open, and sends them in the next one.
    pub durable: bool,
    /// Events arrive in the order in which they were published, of each channel or stream.
    pub ordered: bool,
    /// The broker keeps an event until it is acknowledged, which happens when the hub has taken it.
    pub acknowledges: bool,
}

impl Capabilities {
    /// What a broker can do that passes events on in their order, and forgets them.
    pub const PASSING: Self = Self { positions: false, durable: false, ordered: true, acknowledges: false };
    /// What a broker can do that keeps a log with positions, which each source reads by itself.
    pub const LOG: Self = Self { positions: true, durable: true, ordered: true, acknowledges: false };
}

impl std::fmt::Display for Capabilities {
    /// What it can do, for `tallycast check`.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all = [
            (self.durable, "durable"),
            (self.ordered, "ordered"),
            (self.positions, "positions"),
            (self.acknowledges, "acknowledgement"),
        ];
        let able: Vec<&str> = all.into_iter().filter_map(|(is_able, name)| is_able.then_some(name)).collect();
        formatter.write_str(if able.is_empty() { "none" } else { "" })?;
        formatter.write_str(&able.join(", "))
    }
}

/// What a source subscribes to and reads, which may change while it runs.
#[derive(Debug, Clone)]
pub struct SourceInputs {
    /// The channels.
    pub selectors: watch::Receiver<Vec<Selector>>,
    /// The streams.
    pub streams: watch::Receiver<Vec<StreamKey>>,
}

/// How a session ended, if not with an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionEnd {
    /// The broker closed the connection. Another session follows.
    Disconnected,
    /// The source has no more events. No session follows.
    Finished,
}

/// What a source puts into the pipeline.
#[derive(Debug)]
pub enum SourceEvent {
    /// Something was published.
    Published(RawEvent),
    /// The totals of a namespace at this position among the events.
    Totals(TotalsSnapshot),
    /// Whether the totals of a namespace are known from this position on.
    TotalsState {
        /// The namespace.
        namespace: Namespace,
        /// Whether they are, or why not.
        state: TotalsState,
    },
    /// What is known of a sequence of positions, at this place among its events.
    Sequence(SequenceEvent),
    /// A stream has partitions, each with positions of its own: its sequence is the topic of [`Partition`]s. Comes before everything of
    /// them, and again when some are added.
    ///
    /// [`Partition`]: tallycast_fanout::Partition
    Partitions {
        /// The sequence of the whole stream.
        sequence: Arc<str>,
        /// Their number, which never shrinks; zero as long as there is nothing to read.
        count: u32,
    },
    /// Something of another engine, which no route decides about.
    Relayed(RelayedEvent),
}

/// What the source of an engine that relays another one says.
#[derive(Debug)]
pub enum RelayedEvent {
    /// A message as it is there.
    Message(Message),
    /// What is kept of the messages that follow.
    Declared {
        /// The name of the source.
        source: Arc<str>,
        /// How long they are kept, beside what routes say.
        retentions: Vec<Arc<Retention>>,
        /// The engines that messages pass before this one.
        path: Vec<Arc<str>>,
    },
    /// What the retention with this name keeps is forgotten. Entries up to `trimmed` are not available, and all others follow.
    Forget {
        /// The name.
        retention: Arc<str>,
        /// The newest entry that is not available.
        trimmed: EntryId,
    },
}

/// An event as the broker sent it.
#[derive(Debug)]
pub struct RawEvent {
    /// The source that received it: stamped by its emitter.
    pub(crate) source: SourceId,
    /// The channel, subject or topic that it was published on, or the sequence of its stream.
    pub channel: String,
    /// What was published.
    pub payload: Vec<u8>,
    /// When it was received.
    pub received_at: Instant,
    /// What else the event has as the entry of a stream, if it is one.
    pub entry: Option<Box<Entry>>,
    /// Set if the event is traced, or its sender wants it to be.
    pub(crate) trace: Option<Box<EventTrace>>,
    /// Given when nothing more will become of the event, if the source waits for that.
    pub(crate) acknowledgement: Option<Acknowledgement>,
}

/// An entry of a stream, which the broker keeps. Texts are as the broker sent them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the stream.
    pub position: Position,
    /// Its event name.
    pub event: Option<Vec<u8>>,
    /// What a `*` in the namespace of its route stands for. With several, its message has several topics.
    pub topics: Vec<Vec<u8>>,
    /// The id that its publisher gave it.
    pub id: Option<Vec<u8>>,
    /// The pause before a client connects again, in milliseconds.
    pub retry: Option<Vec<u8>>,
    /// Its sender.
    pub sender: Option<Vec<u8>>,
    /// Whether only clients that were granted one of its topics receive it.
    pub is_private: bool,
    /// Whether it has a payload. Otherwise that of the event is empty.
    pub has_payload: bool,
    /// It is for the history alone: readers have received it before, or it was published before the source started.
    pub is_backlog: bool,
    /// When the broker took it, by its clock, if it says so.
    pub published_at: Option<SystemTime>,
}

impl Entry {
    /// An entry with a payload and nothing else.
    pub fn new(position: Position) -> Self {
        Self {
            position,
            event: None,
            topics: Vec::new(),
            id: None,
            retry: None,
            sender: None,
            is_private: false,
            has_payload: true,
            is_backlog: false,
            published_at: None,
        }
    }
}

impl RawEvent {
    /// An event that is received now.
    pub fn new(channel: impl Into<String>, payload: impl Into<Vec<u8>>) -> Self {
        let (channel, payload) = (channel.into(), payload.into());
        Self {
            source: SourceId::DEFAULT,
            channel,
            payload,
            received_at: Instant::now(),
            entry: None,
            trace: None,
            acknowledgement: None,
        }
    }

    /// An entry that is received now.
    pub fn from_entry(payload: impl Into<Vec<u8>>, entry: Entry) -> Self {
        let event = Self::new(&*entry.position.sequence, payload);
        Self { entry: Some(Box::new(entry)), ..event }
    }

    /// An entry that is received now, of a partition of the stream with this sequence.
    pub fn from_partition(stream: &str, payload: impl Into<Vec<u8>>, entry: Entry) -> Self {
        Self { entry: Some(Box::new(entry)), ..Self::new(stream, payload) }
    }

    /// Whether it is for the history alone.
    fn is_backlog(&self) -> bool {
        self.entry.as_ref().is_some_and(|entry| entry.is_backlog)
    }
}

impl Weight for SourceEvent {
    fn weight(&self) -> usize {
        let owned = match self {
            Self::Published(RawEvent { channel, payload, entry, .. }) => {
                channel.capacity() + payload.capacity() + entry.as_ref().map_or(0, |entry| entry.weight())
            }
            Self::Totals(snapshot) => snapshot.totals.weight(),
            // A short reason, or a key that others have too.
            Self::TotalsState { .. } | Self::Sequence(_) | Self::Partitions { .. } => 0,
            Self::Relayed(RelayedEvent::Message(message)) => message.weight(),
            // A few, at the start of a session.
            Self::Relayed(RelayedEvent::Declared { .. } | RelayedEvent::Forget { .. }) => 0,
        };
        size_of::<Self>() + owned
    }
}

impl Entry {
    fn weight(&self) -> usize {
        let texts = [&self.event, &self.id, &self.retry, &self.sender].into_iter().flatten().chain(&self.topics);
        let texts = texts.map(|text| size_of::<Vec<u8>>() + text.capacity());
        size_of::<Self>() + texts.sum::<usize>()
    }
}

impl From<SequenceEvent> for SourceEvent {
    fn from(event: SequenceEvent) -> Self {
        Self::Sequence(event)
    }
}

impl From<RelayedEvent> for SourceEvent {
    fn from(event: RelayedEvent) -> Self {
        Self::Relayed(event)
    }
}

impl From<RawEvent> for SourceEvent {
    fn from(event: RawEvent) -> Self {
        Self::Published(event)
    }
}

impl From<TotalsSnapshot> for SourceEvent {
    fn from(snapshot: TotalsSnapshot) -> Self {
        Self::Totals(snapshot)
    }
}

/// What sources count. Counters only grow.
#[derive(Debug, Default)]
pub struct SourceStats {
    /// Events received from the broker, without those that are only for the history.
    pub received: Counter,
    /// Entries of streams received only for the history.
    pub backlog: Counter,
    /// Times that entries of a stream were lost: trimmed or deleted before they were read, or the stream was replaced.
    pub stream_gaps: Counter,
    /// Entries that this process trimmed from streams.
    pub trimmed: Counter,
    /// How far streams are behind, where the broker says it.
    pub lag: Lags,
    /// Events dropped because the decode inbox was full.
    pub overflowed: Counter,
    /// Subscriptions made.
    pub subscriptions: Counter,
    /// Times between a lost subscription and the next one. Unless the source is durable, events published in a gap are
    /// lost, and their number is unknown.
    pub gaps: Counter,
    /// The total length of all gaps, in milliseconds.
    pub gap_milliseconds: Counter,
    /// Totals received, from the broker or from another engine.
    pub cuts: Counter,
    /// Successful readings of the totals at the broker, of sorted sets that do not exist as well.
    pub readings: Counter,
    /// Members of sorted sets left out of readings because they are not UTF-8.
    pub skipped_members: Counter,
}

impl SourceStats {
    fn count(&self, event: &SourceEvent) {
        match event {
            SourceEvent::Published(event) if event.is_backlog() => self.backlog.add(1),
            SourceEvent::Published(_) => self.received.add(1),
            SourceEvent::Totals(_) => self.cuts.add(1),
            SourceEvent::Relayed(RelayedEvent::Message(message)) => match (&message.data, &message.kept) {
                (_, Some(kept)) if kept.is_backlog => self.backlog.add(1),
                (Data::Totals(_), _) => self.cuts.add(1),
                (Data::Text(_) | Data::Tally(_), _) => self.received.add(1),
                (Data::TotalsState(_) | Data::Reset(_), _) => {}
            },
            SourceEvent::TotalsState { .. }
            | SourceEvent::Sequence(_)
            | SourceEvent::Partitions { .. }
            | SourceEvent::Relayed(_) => {}
        }
    }
}
