//! Delivery statistics over every event on every connection, without sampling.

use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;

use serde::{Deserialize, Serialize};

use super::workload::Arrival;
use crate::streams::Event;

/// The highest recorded latency in microseconds. Longer ones are recorded as this.
const MAX_LATENCY_US: u64 = 120_000_000;

/// Significant decimal digits of a latency.
const LATENCY_DIGITS: u8 = 3;

/// Delivery statistics of a group of readers.
#[derive(Clone, Debug, Serialize, Deserialize)]
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
    #[serde(with = "histogram")]
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
            latency: latencies()?,
            last: Duration::ZERO,
        })
    }

    /// Adds the statistics of other readers.
    ///
    /// # Errors
    /// If their latencies cannot be added.
    pub(super) fn add(&mut self, other: &Self) -> Result<()> {
        self.delivered += other.delivered;
        self.missing += other.missing;
        self.duplicates += other.duplicates;
        self.out_of_order += other.out_of_order;
        self.unexpected += other.unexpected;
        self.latency.add(&other.latency)?;
        self.last = self.last.max(other.last);
        Ok(())
    }

    /// Counts an event that was read at `now`. `receive` records its sequence number for the connection.
    pub(super) fn count(&mut self, event: Event, now: Duration, receive: impl FnOnce(u64) -> Arrival) {
        let Some(stamp) = event.stamp.filter(|_| event.data_bytes == self.payload_bytes) else {
            self.unexpected += 1;
            return;
        };
        match receive(stamp.sequence) {
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
        record(&mut self.latency, now.saturating_sub(stamp.published));
    }
}

/// An empty histogram of latencies.
///
/// # Errors
/// If it cannot be allocated.
pub(super) fn latencies() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_max(MAX_LATENCY_US, LATENCY_DIGITS)?)
}

/// Records a latency.
pub(super) fn record(latencies: &mut Histogram<u64>, latency: Duration) {
    latencies.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
}

/// Histograms of latencies as the values that were recorded and how often, for client processes.
pub(super) mod histogram {
    use hdrhistogram::Histogram;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub(in crate::load) fn serialize<S: Serializer>(
        latencies: &Histogram<u64>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let values: Vec<(u64, u64)> = latencies
            .iter_recorded()
            .map(|value| (value.value_iterated_to(), value.count_since_last_iteration()))
            .collect();
        values.serialize(serializer)
    }

    pub(in crate::load) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Histogram<u64>, D::Error> {
        let mut latencies = super::latencies().map_err(D::Error::custom)?;
        for (value, count) in Vec::<(u64, u64)>::deserialize(deserializer)? {
            latencies.saturating_record_n(value, count);
        }
        Ok(latencies)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{load::workload::Workload, streams::stamp::Stamp};

    #[test]
    fn gaps_duplicates_and_unexpected_events_are_counted() -> Result<()> {
        let mut stats = DeliveryStats::new(100)?;
        let workload = Workload::one_channel(String::new(), String::new());
        let mut progress = workload.start(false);
        let mut count = |sequence, data_bytes| {
            let published = Duration::from_millis(sequence);
            let stamp = Some(Stamp { sequence, published });
            stats.count(Event { stamp, data_bytes }, Duration::from_millis(20), |sequence| {
                workload.receive(0, &mut progress, sequence)
            });
        };
        for sequence in [0, 1, 5, 5, 3, 6] {
            count(sequence, 100);
        }
        count(7, 99);
        let foreign = Event { stamp: None, data_bytes: 100 };
        stats.count(foreign, Duration::from_millis(30), |sequence| workload.receive(0, &mut progress, sequence));
        assert_eq!((stats.delivered, stats.missing, stats.duplicates, stats.unexpected), (4, 3, 2, 2));
        assert_eq!(stats.last, Duration::from_millis(20));
        assert_eq!((stats.latency.min(), stats.latency.len()), (14_000, 4));
        Ok(())
    }

    #[test]
    fn statistics_of_client_processes_add_up() -> Result<()> {
        let mut stats = DeliveryStats::new(100)?;
        let stamp = Some(Stamp { sequence: 0, published: Duration::ZERO });
        for millis in [3, 3, 70_000] {
            stats.count(Event { stamp, data_bytes: 100 }, Duration::from_millis(millis), |_| Arrival::Due {
                missing: 2,
            });
        }
        let read: DeliveryStats = serde_json::from_str(&serde_json::to_string(&stats)?)?;
        assert_eq!(read.latency, stats.latency);
        let mut sum = read.clone();
        sum.add(&stats)?;
        assert_eq!((sum.delivered, sum.missing, sum.last), (6, 12, Duration::from_secs(70)));
        assert_eq!((sum.latency.len(), sum.latency.max()), (6, stats.latency.max()));
        Ok(())
    }
}
