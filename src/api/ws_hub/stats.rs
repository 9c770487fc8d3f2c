//! What is counted.

use tallycast_fanout::Counter;

/// What is counted of the contract. What clients send, and their connections, are counted as of all sessions.
#[derive(Debug, Default)]
pub struct WsHubStats {
    /// Clients that belonged to no group in time, and were closed.
    pub unanswered: Counter,
    /// Clients that the application had closed.
    pub refused: Counter,
    /// Messages about groups that were not followed.
    pub rejected: Counter,
    /// Messages of clients that the broker did not take.
    pub lost: Counter,
    /// Subscriptions to the messages about groups that ended.
    pub failures: Counter,
}
