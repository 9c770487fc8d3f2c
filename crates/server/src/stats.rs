//! The counters of a server.

use std::io;
#[cfg(feature = "websocket")]
use std::sync::Arc;

use tallycast_fanout::Counter;

#[cfg(feature = "websocket")]
use crate::websocket;

/// The counters of a server, besides those of the engine. They only grow.
#[derive(Debug, Default)]
pub struct Stats {
    /// Connections accepted.
    pub accepted: Counter,
    /// Connections and streams refused because there were too many.
    pub refused: Counter,
    /// Failed attempts to accept a connection.
    pub accept_errors: Counter,
    /// Connections whose request headers did not arrive in time.
    pub head_timeouts: Counter,
    /// Connections and HTTP/2 streams reset because their client took no data for too long. Those whose sockets the engine
    /// owns are in its own counters.
    pub stalled: Counter,
    /// Connections and streams refused because their address had too many.
    pub refused_address: Counter,
    /// Connections and streams refused because their address made too many too fast.
    pub refused_rate: Counter,
    /// Streams refused because a namespace had too many.
    pub refused_namespace: Counter,
    /// Streams and changes of topics refused because the topics of their address took too much memory.
    pub refused_topics_address: Counter,
    /// Streams and changes of topics refused because the topics of all streams took too much memory.
    pub refused_topics: Counter,
    /// New connections accepted without a check of their rate, because too many addresses made some.
    pub rate_unknown: Counter,
    /// Failed TLS handshakes.
    pub tls_failures: Counter,
    /// WebSockets refused because of the origin of the page.
    pub refused_origin: Counter,
    /// Streams, changes of topics and tokens that the authorizer denied, and streams that a contract answered with 401 or 403.
    pub denied: Counter,
    /// WebSocket.
    #[cfg(feature = "websocket")]
    pub websocket: Arc<websocket::Stats>,
}

impl Stats {
    pub(crate) fn accept_failed(&self, error: &io::Error) {
        self.accept_errors.add(1);
        // A full file table fails many times a second: log the first failure, then each power of two.
        let failures = self.accept_errors.get();
        if failures.is_power_of_two() {
            tracing::warn!(%error, failures, "cannot accept a connection");
        }
    }
}
