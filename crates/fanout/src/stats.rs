//! Counters and histograms.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that several tasks change and anyone may read. Changes of different counters may be seen in any order.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Subtracts `count`, for counters of a current amount.
    pub fn subtract(&self, count: u64) {
        self.0.fetch_sub(count, Ordering::Relaxed);
    }

    /// Replaces the number, for counters of a current amount that one task alone changes.
    pub fn set(&self, count: u64) {
        self.0.store(count, Ordering::Relaxed);
    }

    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The engine's counters. All but `connections` and `feeds` only grow.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Messages that reached the hub.
    pub broadcast: Counter,
    /// Deliveries: messages written to connections.
    pub delivered: Counter,
    /// Bytes written to connections.
    pub bytes: Counter,
    /// Connections now.
    pub connections: Counter,
    /// Connections attached since the start.
    pub connected: Counter,
    /// Feeds now. One that has readers in several shards counts in each of them.
    pub feeds: Counter,
    /// Readers disconnected because they fell behind, by [`Policy::Disconnect`](crate::Policy::Disconnect).
    pub slow_disconnected: Counter,
    /// Times a reader skipped ahead, by [`Policy::Skip`](crate::Policy::Skip).
    pub slow_skipped: Counter,
    /// Times a reader's tallies were merged, by [`Policy::Merge`](crate::Policy::Merge).
    pub slow_merged: Counter,
    /// Times a reader went on with the newest messages, by [`Policy::Latest`](crate::Policy::Latest).
    pub slow_latest: Counter,
    /// Messages that readers with a [`Subscriber::max_rate`](crate::Subscriber::max_rate) were not sent, because newer ones of
    /// the same namespace came before they were due.
    pub conflated: Counter,
    /// Readers disconnected because more bytes waited for readers than
    /// [`Config::total_log_bytes`](crate::Config::total_log_bytes).
    pub shed: Counter,
    /// Readers disconnected because they accepted no bytes for longer than the limit.
    pub stalled: Counter,
    /// Clients disconnected because they left a keep-alive unanswered for longer than the limit.
    pub unanswered: Counter,
    /// Streams ended because their grant had expired.
    pub expired: Counter,
    /// Times that totals differed from what readers had been sent.
    pub corrections: Counter,
    /// Readers turned away because the totals that they asked for were not known.
    pub without_totals: Counter,
    /// Readers that started in the past, with everything that they wanted.
    pub resumed: Counter,
    /// Readers that could not continue where they were, or fell behind what is kept.
    pub resets: Counter,
    /// Times a reader that fell behind went on from the history instead of its feed's log.
    pub slow_replayed: Counter,
    /// Messages sent from the history.
    pub replayed: Counter,
    /// Messages that are kept now.
    pub history_messages: Counter,
    /// The memory of the messages that are kept now, in bytes.
    pub history_bytes: Counter,
    /// Messages dropped because the same entry of their sequence had been sent before.
    pub repeated: Counter,
    /// Seconds from the receipt of a message until it was written to all readers of a shard that could take it; observed once
    /// per shard and turn of the hub, for its oldest message.
    pub lag: Histogram,
}

/// A distribution of values.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    buckets: Box<[Counter]>,
    /// In millionths, so that it can be an integer.
    sum: Counter,
}

impl Histogram {
    /// Buckets for values up to each of `bounds`, which grow, and one for all above.
    pub fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, buckets: (0..=bounds.len()).map(|_| Counter::default()).collect(), sum: Counter::default() }
    }

    /// Counts `value`, which is not negative.
    pub fn observe(&self, value: f64) {
        self.buckets[self.bounds.partition_point(|bound| *bound < value)].add(1);
        self.sum.add((value * 1e6) as u64);
    }

    /// The upper bounds of the buckets with how many values lie in each; the last bucket has no bound.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        self.bounds.iter().copied().chain([f64::INFINITY]).zip(self.buckets.iter().map(Counter::get))
    }

    /// The sum of all values, to six decimals.
    pub fn sum(&self) -> f64 {
        self.sum.get() as f64 / 1e6
    }
}

/// Bounds for times in seconds, from a tenth of a millisecond to ten seconds.
impl Default for Histogram {
    fn default() -> Self {
        Self::new(&[
            0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_bounds_are_inclusive() {
        let histogram = Histogram::new(&[1.0, 2.0]);
        for value in [0.0, 1.0, 1.5, 2.0, 2.1] {
            histogram.observe(value);
        }
        let buckets: Vec<_> = histogram.buckets().collect();
        assert_eq!(buckets, [(1.0, 2), (2.0, 2), (f64::INFINITY, 1)]);
        assert!((histogram.sum() - 6.6).abs() < 1e-6);
    }
}
