//! Where a source puts its events.

use std::sync::Arc;

use tallycast_fanout::inbox::{self, TrySendError};
use tallycast_fanout::{Acknowledgement, Receipt};
use tokio::sync::watch;

use super::broker::BrokerStatus;
use super::{RawEvent, SourceEvent, SourceId, SourceStats};
use crate::rate_limited_log::RateLimitedLog;
use crate::trace::Tracer;

/// Passes events from a source to the pipeline.
///
/// A source whose broker would disconnect a slow subscriber uses [`try_emit`](Self::try_emit), which never waits; one
/// whose broker keeps its log uses [`emit`](Self::emit), which does.
#[derive(Debug)]
pub struct Emitter {
    inbox: inbox::Sender<SourceEvent>,
    source: SourceId,
    log: RateLimitedLog,
    tracer: Tracer,
    pub(super) broker: BrokerStatus,
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum SendOutcome {
    /// It is in the decode inbox.
    Sent,
    /// The inbox is full, so the event is lost, and counted.
    Dropped,
    /// The pipeline has ended, and the session should.
    Closed,
}

/// The pipeline has ended, so the event was not emitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the pipeline has ended")]
pub struct PipelineClosed;

impl Emitter {
    pub(super) fn new(inbox: inbox::Sender<SourceEvent>, source: SourceId, broker: BrokerStatus) -> Self {
        Self { inbox, source, log: RateLimitedLog::new(), tracer: Tracer::default(), broker }
    }

    /// Traces a sample of the events.
    pub(super) fn traced(self, tracer: Tracer) -> Self {
        Self { tracer, ..self }
    }

    /// The event with its source, which is counted.
    fn stamp(&self, event: impl Into<SourceEvent>) -> SourceEvent {
        let mut event = event.into();
        self.broker.stats.count(&event);
        if let SourceEvent::Published(event) = &mut event {
            event.source = self.source;
            self.tracer.sample(event, &self.broker.address);
        }
        event
    }

    /// Reports that the session is subscribed: events published from now on are received. A source calls it once a
    /// session, as soon as that is certain; only then does the process count as ready.
    pub fn subscribed(&mut self) {
        self.broker.subscribed();
    }

    /// Waits for `work` while the source has nothing to subscribe to. Meanwhile the process does not need it to be ready.
    pub async fn idle<T>(&mut self, work: impl Future<Output = T>) -> T {
        self.broker.idle(true);
        let output = work.await;
        self.broker.idle(false);
        output
    }

    /// Waits, as [`idle`](Self::idle) does, while the list of what the source reads is empty. Returns `false` if it is empty for ever.
    pub async fn idle_while_empty<T: Send + Sync>(&mut self, list: &watch::Receiver<Vec<T>>) -> bool {
        if !list.borrow().is_empty() {
            return true;
        }
        let mut list = list.clone();
        self.idle(async { list.wait_for(|list| !list.is_empty()).await.is_ok() }).await
    }

    /// Passes an event on without waiting. An event that does not fit into the inbox is dropped and counted.
    pub fn try_emit(&mut self, event: impl Into<SourceEvent>) -> SendOutcome {
        let event = self.stamp(event);
        let stats = &self.broker.stats;
        match self.inbox.try_send(event) {
            Ok(()) => SendOutcome::Sent,
            Err(TrySendError::Closed(_)) => SendOutcome::Closed,
            // Of anything else there will be a newer one.
            Err(TrySendError::Full(event)) if !matches!(event, SourceEvent::Published(_)) => SendOutcome::Dropped,
            Err(TrySendError::Full(_)) => {
                stats.overflowed.add(1);
                let (source, dropped) = (&self.broker.address, stats.overflowed.get());
                self.log.log(|suppressed| {
                    tracing::warn!(
                        source,
                        dropped,
                        suppressed,
                        "events arrive faster than they are decoded; dropping the newest"
                    );
                });
                SendOutcome::Dropped
            }
        }
    }

    /// Passes an event on, and waits while the inbox is full. For a source that needs no acknowledgement, because it keeps the
    /// position that it has read to.
    ///
    /// # Errors
    /// The pipeline has ended.
    pub async fn send(&self, event: impl Into<SourceEvent>) -> Result<(), PipelineClosed> {
        self.inbox.send(self.stamp(event)).await.map_err(|_| PipelineClosed)
    }

    /// Like [`send`](Self::send), with a receipt.
    ///
    /// The receipt resolves to `Ok` once nothing more will become of the event: the hub has taken the message, or decode
    /// has rejected the event. It resolves to an error if the pipeline ended first. A source acknowledges the event to
    /// its broker then; it may emit more before, and leave several receipts pending.
    ///
    /// # Errors
    /// The pipeline has ended.
    pub async fn emit(&self, event: RawEvent) -> Result<Receipt, PipelineClosed> {
        let (acknowledgement, receipt) = Acknowledgement::new();
        self.send(RawEvent { acknowledgement: Some(acknowledgement), ..event }).await?;
        Ok(receipt)
    }

    /// What the source counts.
    pub(super) fn stats(&self) -> &Arc<SourceStats> {
        &self.broker.stats
    }

    /// The inbox that events are passed to.
    pub(super) fn inbox(&self) -> &inbox::Sender<SourceEvent> {
        &self.inbox
    }

    /// Whether the pipeline has ended.
    pub(super) fn is_closed(&self) -> bool {
        self.inbox.is_closed()
    }
}
