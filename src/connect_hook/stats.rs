//! What is counted of the connect hook.

use tallycast_fanout::{Counter, Histogram};

/// Counters of the connect hook. They only grow.
#[derive(Debug, Default)]
pub struct ConnectHookStats {
    /// Clients that the application was asked about, each once, however often the question was repeated.
    pub asked: Counter,
    /// Clients that were refused.
    pub refused: Counter,
    /// Clients about whom there was no valid answer in time.
    pub failed: Counter,
    /// Seconds from a question to its answer or failure, with the time that it waited for its turn.
    pub seconds: Histogram,
}
