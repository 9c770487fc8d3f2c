//! Stage 1: where events come from. A source puts what the broker publishes into the pipeline and tells how the broker is.

pub mod memory;
pub mod redis;

use std::time::Instant;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::limited::LimitedLog;
use tallycast_fanout::{Counter, Namespace, Tally};

/// What a source puts into the pipeline.
#[derive(Debug, Clone)]
pub enum Item {
    /// Something was published.
    Event(RawEvent),
    /// What the tallies of a namespace add up to at this place among the events.
    Totals {
        /// Whose tallies.
        namespace: Namespace,
        /// The sums.
        totals: Tally,
    },
}

/// What the broker published, as it came.
#[derive(Debug, Clone)]
pub struct RawEvent {
    /// The channel it was published on.
    pub channel: String,
    /// What was published.
    pub payload: Vec<u8>,
    /// When it was received.
    pub received_at: Instant,
}

impl RawEvent {
    /// An event that is received now.
    pub fn new(channel: String, payload: Vec<u8>) -> Self {
        Self { channel, payload, received_at: Instant::now() }
    }
}

/// How the broker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrokerState {
    /// There has been no subscription yet.
    Connecting,
    /// Events flow.
    Subscribed,
    /// There was a subscription; a new one is being tried for.
    Lost,
}

/// What sources count. All only grow.
#[derive(Debug, Default)]
pub struct SourceStats {
    /// Events that the broker sent.
    pub received: Counter,
    /// Events lost because the pipeline's first inbox was full.
    pub overflowed: Counter,
    /// Subscriptions made.
    pub subscriptions: Counter,
    /// Times between a lost subscription and the next one. What was published in a gap is lost, and nobody knows how
    /// much it was.
    pub gaps: Counter,
    /// The length of all gaps together, in milliseconds.
    pub gap_milliseconds: Counter,
    /// Times that the totals were read.
    pub cuts: Counter,
}

/// Where a source puts what it has.
struct Outlet {
    inbox: mpsc::Sender<Item>,
    log: LimitedLog,
}

/// What became of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Passed {
    On,
    /// There was no room.
    Lost,
    /// The next stage is gone.
    Ended,
}

impl Outlet {
    fn new(inbox: mpsc::Sender<Item>) -> Self {
        Self { inbox, log: LimitedLog::new() }
    }

    /// Passes an item on without waiting: a source that waited would let what the broker sends pile up out of sight.
    /// What does not fit is lost and counted.
    fn pass(&mut self, item: Item, stats: &SourceStats) -> Passed {
        match item {
            Item::Event(_) => stats.received.add(1),
            Item::Totals { .. } => stats.cuts.add(1),
        }
        match self.inbox.try_send(item) {
            Ok(()) => Passed::On,
            Err(TrySendError::Closed(_)) => Passed::Ended,
            Err(TrySendError::Full(_)) => {
                stats.overflowed.add(1);
                self.log.warn(|held_back| {
                    tracing::warn!(
                        lost = stats.overflowed.get(),
                        held_back,
                        "events come faster than they can be decoded; the newest are lost"
                    );
                });
                Passed::Lost
            }
        }
    }
}
