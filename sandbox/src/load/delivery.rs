//! Delivery statistics over every event on every connection, without sampling.

use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;

use super::workload::{Arrival, Progress, Workload};
use crate::streams::Event;

/// The highest recorded latency in microseconds. Longer ones are recorded as this.
pub(super) const MAX_LATENCY_US: u64 = 120_000_000;

/// Significant decimal digits of a latency.
const LATENCY_DIGITS: u8 = 3;

/// Delivery statistics of a group of readers.
#[derive(Clone, Debug)]
pub(super) struct DeliveryStats {
    payload_bytes: usize,
    /// Delivered messages, once per connection.
    pub(super) delivered: u64,
    /// Gaps in the sequence: messages that had not arrived before a later one.
    pub(super) missing: u64,
    /// Events that were received before, or on one channel after a later one.
    pub(super) duplicates: u64,
    /// Delivered messages of a watch-list that came after a later one.
    pub(super) out_of_order: u64,
    /// Events that are not messages of this run or that the connection did not subscribe to, or that have the wrong length.
    pub(super) unexpected: u64,
    /// Time from publishing to the return of the `read(2)` with the event, in microseconds.
    pub(super) latency: Histogram<u64>,
    /// The arrival of the last message, since the epoch of the run.
    pub(super) last: Duration,
}

impl DeliveryStats {
    /// Empty statistics for payloads of `payload_bytes` bytes.
    pub(super) fn new(payload_bytes: usize) -> Result<Self> {
        Ok(Self {
            payload_bytes,
            delivered: 0,
            missing: 0,
            duplicates: 0,
            out_of_order: 0,
            unexpected: 0,
            latency: Histogram::new_with_max(MAX_LATENCY_US, LATENCY_DIGITS)?,
            last: Duration::ZERO,
        })
    }

    /// Counts an event that was read at `now` on connection `index` of `workload`, which has received `progress`.
    pub(super) fn count(
        &mut self,
        event: Event,
        workload: &Workload,
        index: usize,
        progress: &mut Progress,
        now: Duration,
    ) {
        let Some(stamp) = event.stamp.filter(|_| event.data_bytes == self.payload_bytes) else {
            self.unexpected += 1;
            return;
        };
        match workload.receive(index, progress, stamp.sequence) {
            Arrival::Due { missing } => self.missing += missing,
            Arrival::OutOfOrder => self.out_of_order += 1,
            Arrival::Duplicate => {
                self.duplicates += 1;
                return;
            }
            Arrival::NotSubscribed => {
                self.unexpected += 1;
                return;
            }
        }
        self.delivered += 1;
        self.last = now;
        let age = now.saturating_sub(stamp.published);
        self.latency.saturating_record(u64::try_from(age.as_micros()).unwrap_or(u64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::streams::stamp::Stamp;

    #[test]
    fn gaps_duplicates_and_unexpected_events_are_counted() -> Result<()> {
        let mut stats = DeliveryStats::new(100)?;
        let workload = Workload::one_channel(String::new(), String::new());
        let mut progress = workload.start(false);
        let mut count = |sequence, data_bytes| {
            let published = Duration::from_millis(sequence);
            let stamp = Some(Stamp { sequence, published });
            stats.count(Event { stamp, data_bytes }, &workload, 0, &mut progress, Duration::from_millis(20));
        };
        for sequence in [0, 1, 5, 5, 3, 6] {
            count(sequence, 100);
        }
        count(7, 99);
        let foreign = Event { stamp: None, data_bytes: 100 };
        stats.count(foreign, &workload, 0, &mut progress, Duration::from_millis(30));
        assert_eq!((stats.delivered, stats.missing, stats.duplicates, stats.unexpected), (4, 3, 2, 2));
        assert_eq!(stats.last, Duration::from_millis(20));
        assert_eq!((stats.latency.min(), stats.latency.len()), (14_000, 4));
        Ok(())
    }
}
