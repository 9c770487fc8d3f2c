//! What readers got: counted for every event on every connection, nothing sampled.

use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;

use super::stream::Event;

/// Latencies above this are counted as this, in microseconds.
const MAX_LATENCY_US: u64 = 120_000_000;

/// Significant decimal digits of a latency.
const LATENCY_DIGITS: u8 = 3;

/// The sum over a group of readers.
#[derive(Clone, Debug)]
pub(super) struct Received {
    payload_bytes: usize,
    /// Messages that came, each once for each connection.
    pub(super) delivered: u64,
    /// Messages that were passed over: a later one came and they had not.
    pub(super) missing: u64,
    /// Events whose message had come before, or was older than one that had.
    pub(super) duplicates: u64,
    /// Events that are no message of this run, or not of the right length.
    pub(super) unexpected: u64,
    /// From publishing to the return of the `read(2)` that brought the event, in microseconds.
    pub(super) latency: Histogram<u64>,
    /// When the last message came, since the epoch of the run.
    pub(super) last: Duration,
}

impl Received {
    /// Nothing yet, of messages with payloads of `payload_bytes` bytes.
    pub(super) fn new(payload_bytes: usize) -> Result<Self> {
        Ok(Self {
            payload_bytes,
            delivered: 0,
            missing: 0,
            duplicates: 0,
            unexpected: 0,
            latency: Histogram::new_with_max(MAX_LATENCY_US, LATENCY_DIGITS)?,
            last: Duration::ZERO,
        })
    }

    /// Counts an event that was read at `now`, on a connection that expects `next`.
    pub(super) fn count(&mut self, event: Event, next: &mut u64, now: Duration) {
        let Some(stamp) = event.stamp.filter(|_| event.data_bytes == self.payload_bytes) else {
            self.unexpected += 1;
            return;
        };
        let Some(missing) = stamp.sequence.checked_sub(*next) else {
            self.duplicates += 1;
            return;
        };
        *next = stamp.sequence + 1;
        self.delivered += 1;
        self.missing += missing;
        self.last = now;
        let age = now.saturating_sub(stamp.published);
        self.latency.saturating_record(u64::try_from(age.as_micros()).unwrap_or(u64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::{super::stamp::Stamp, *};

    #[test]
    fn gaps_repeats_and_strangers_are_told_apart() -> Result<()> {
        let mut received = Received::new(100)?;
        let mut next = 0;
        let mut count = |sequence, data_bytes| {
            let published = Duration::from_millis(sequence);
            let stamp = Some(Stamp { sequence, published });
            received.count(Event { stamp, data_bytes }, &mut next, Duration::from_millis(20));
        };
        for sequence in [0, 1, 5, 5, 3, 6] {
            count(sequence, 100);
        }
        count(7, 99);
        received.count(Event { stamp: None, data_bytes: 100 }, &mut next, Duration::from_millis(30));
        assert_eq!(next, 7);
        assert_eq!((received.delivered, received.missing, received.duplicates, received.unexpected), (4, 3, 2, 2));
        assert_eq!(received.last, Duration::from_millis(20));
        assert_eq!((received.latency.min(), received.latency.len()), (14_000, 4));
        Ok(())
    }
}
