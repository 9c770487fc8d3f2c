//! Stage 1: where events come from. A source puts what the broker publishes into the pipeline and tells how the broker is.

pub mod memory;
pub mod redis;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::fanout::Counter;
use crate::limited::LimitedLog;

/// What the broker published, as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawEvent {
    /// The channel it was published on.
    pub channel: String,
    /// What was published.
    pub payload: Vec<u8>,
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
}

/// The inbox of the next stage is gone.
#[derive(Debug)]
struct PipelineEnded;

/// Passes an event on without waiting: a source that waited would let what the broker sends pile up out of sight. What
/// does not fit is lost and counted.
fn pass_on(
    event: RawEvent,
    inbox: &mpsc::Sender<RawEvent>,
    stats: &SourceStats,
    log: &mut LimitedLog,
) -> Result<(), PipelineEnded> {
    stats.received.add(1);
    match inbox.try_send(event) {
        Ok(()) => Ok(()),
        Err(TrySendError::Closed(_)) => Err(PipelineEnded),
        Err(TrySendError::Full(_)) => {
            stats.overflowed.add(1);
            log.warn(|held_back| {
                tracing::warn!(
                    lost = stats.overflowed.get(),
                    held_back,
                    "events come faster than they can be decoded; the newest are lost"
                );
            });
            Ok(())
        }
    }
}
