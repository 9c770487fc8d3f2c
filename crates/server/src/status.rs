//! What the server tells about itself.

use std::io;
use std::sync::Arc;

use crate::websocket;
use tallycast_fanout::Counter;

/// What the server counts besides what the engine does. All only grow.
#[derive(Debug, Default)]
pub struct Stats {
    /// Connections accepted.
    pub accepted: Counter,
    /// Connections refused because there were too many.
    pub refused: Counter,
    /// Failed attempts to accept a connection.
    pub accept_errors: Counter,
    /// Connections whose request head did not come in time.
    pub head_timeouts: Counter,
    /// Connections and streams refused because their address had too many.
    pub refused_address: Counter,
    /// Connections and streams refused because their address made too many too fast.
    pub refused_rate: Counter,
    /// Streams refused because a namespace had too many.
    pub refused_namespace: Counter,
    /// New connections let in without a look at their rate, because too many addresses made some.
    pub rate_unknown: Counter,
    /// Failed TLS handshakes.
    pub tls_failures: Counter,
    /// Pages of origins that are not allowed that wanted to open a WebSocket.
    pub refused_origin: Counter,
    /// Clients that speak.
    pub websocket: Arc<websocket::Stats>,
}

impl Stats {
    pub(super) fn accept_failed(&self, error: &io::Error) {
        self.accept_errors.add(1);
        // A full file table fails many times a second: say so at the first time and then at each power of two.
        let failures = self.accept_errors.get();
        if failures.is_power_of_two() {
            tracing::warn!(%error, failures, "cannot accept a connection");
        }
    }
}
