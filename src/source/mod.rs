//! Stage 1: broker -> [`SourceEvent`].
//!
//! A [`Source`] knows one broker: how to subscribe there, and how to receive. A [`Supervisor`] runs any source: it opens
//! one session after another, backs off in between, and reports the state of the broker. The source passes its events
//! to the pipeline through an [`Emitter`].
//!
//! `docs/sources.md` explains how to write a source; `examples/custom_source.rs` is one in a single file.

mod broker;
mod emitter;
pub mod memory;
pub mod redis;
mod selector;
mod supervisor;
#[cfg(test)]
mod tests;

use std::time::Instant;

use tallycast_fanout::inbox::Weight;
use tallycast_fanout::{Acknowledgement, Counter, Namespace, TotalsState};

use crate::totals::TotalsSnapshot;

pub use broker::BrokerState;
pub use emitter::{Emitter, PipelineClosed, SendOutcome};
pub use selector::Selector;
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
}

/// An event as the broker sent it.
#[derive(Debug)]
pub struct RawEvent {
    /// The channel, subject or topic that it was published on.
    pub channel: String,
    /// What was published.
    pub payload: Vec<u8>,
    /// When it was received.
    pub received_at: Instant,
    /// Given when nothing more will become of the event, if the source waits for that.
    pub(crate) acknowledgement: Option<Acknowledgement>,
}

impl RawEvent {
    /// An event that is received now.
    pub fn new(channel: impl Into<String>, payload: impl Into<Vec<u8>>) -> Self {
        Self { channel: channel.into(), payload: payload.into(), received_at: Instant::now(), acknowledgement: None }
    }
}

impl Weight for SourceEvent {
    fn weight(&self) -> usize {
        let owned = match self {
            Self::Published(event) => event.channel.capacity() + event.payload.capacity(),
            Self::Totals(snapshot) => snapshot.totals.weight(),
            // A short reason.
            Self::TotalsState { .. } => 0,
        };
        size_of::<Self>() + owned
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
    /// Events received from the broker.
    pub received: Counter,
    /// Events dropped because the decode inbox was full.
    pub overflowed: Counter,
    /// Subscriptions made.
    pub subscriptions: Counter,
    /// Times between a lost subscription and the next one. Unless the source is durable, events published in a gap are
    /// lost, and their number is unknown.
    pub gaps: Counter,
    /// The total length of all gaps, in milliseconds.
    pub gap_milliseconds: Counter,
    /// Readings of the totals received.
    pub cuts: Counter,
    /// Members of sorted sets left out of readings because they are not UTF-8.
    pub skipped_members: Counter,
}
