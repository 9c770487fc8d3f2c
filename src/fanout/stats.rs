//! What the engine counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that several tasks change and anyone may read. Its readers see each change at once or a moment later, and
/// never an order between two of them.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Takes `count` away, for counters that tell how many there are now.
    pub fn subtract(&self, count: u64) {
        self.0.fetch_sub(count, Ordering::Relaxed);
    }

    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What the engine counts. All but `connections` and `feeds` only grow.
#[derive(Debug, Default)]
pub struct Stats {
    /// Messages that reached the hub.
    pub broadcast: Counter,
    /// Deliveries: a message written to a connection.
    pub delivered: Counter,
    /// Bytes written to connections.
    pub bytes: Counter,
    /// Connections now.
    pub connections: Counter,
    /// Connections taken in since the start.
    pub connected: Counter,
    /// Feeds now.
    pub feeds: Counter,
    /// Readers that were disconnected because they fell behind, by [`Policy::Disconnect`](super::Policy::Disconnect).
    pub slow_disconnected: Counter,
    /// Times a reader skipped ahead, by [`Policy::Skip`](super::Policy::Skip).
    pub slow_skipped: Counter,
    /// Times a reader's tallies were merged, by [`Policy::Merge`](super::Policy::Merge).
    pub slow_merged: Counter,
    /// Readers that were disconnected because they took nothing for longer than the limit.
    pub stalled: Counter,
}
