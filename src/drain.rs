//! The steps between the signal to stop and the shutdown: new clients go elsewhere, then the open streams end one by one.

use std::time::Duration;

use tallycast_fanout::Handle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use tallycast::config::Drain;

/// How often it is looked whether any streams are left.
const POLL: Duration = Duration::from_millis(50);
/// The server settles within less: see `Serve::when_settled`. It does not at all if it has not begun to serve.
const SETTLE_LIMIT: Duration = Duration::from_secs(3);

/// The tokens of the steps, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Steps {
    /// A signal has arrived: `/readyz` answers 503.
    pub(crate) terminating: CancellationToken,
    /// Another process has taken the listening sockets over: as `terminating`, without a delay.
    pub(crate) handed_over: CancellationToken,
    /// No more connections are accepted.
    pub(crate) closing: CancellationToken,
    /// Each of the connections that were accepted has had the time for its first request.
    pub(crate) settled: CancellationToken,
    /// The pipeline shuts down.
    pub(crate) shutdown: CancellationToken,
}

impl Steps {
    /// Goes through the steps once `terminating` or `handed_over` is cancelled.
    pub(crate) async fn run(self, drain: Drain, handle: Handle) {
        tokio::select! {
            () = self.terminating.cancelled() => {}
            () = self.handed_over.cancelled() => {}
        }
        self.terminating.cancel();
        // The delay is for load balancers that would send new clients here: those of a process that has taken over reach it at once.
        if !drain.delay.is_zero() && !self.handed_over.is_cancelled() {
            tracing::info!(delay = ?drain.delay, "not ready any more, still accepting connections");
            tokio::select! {
                () = sleep(drain.delay) => {}
                // A process may also take over while this one waits.
                () = self.handed_over.cancelled() => {}
            }
        }
        self.closing.cancel();
        let _ = timeout(SETTLE_LIMIT, self.settled.cancelled()).await;
        let has_streams = || handle.stats().connections.get() > 0;
        if !drain.over.is_zero() && has_streams() {
            tracing::info!(streams = handle.stats().connections.get(), over = ?drain.over, "ending streams");
            let end = Instant::now() + drain.over;
            // An engine that has ended has no streams.
            let _ = handle.drain(drain.over, drain.retry).await;
            while has_streams() && Instant::now() < end {
                sleep(POLL).await;
            }
        }
        self.shutdown.cancel();
    }

    /// Skips to the last step.
    pub(crate) fn skip(&self) {
        for step in [&self.terminating, &self.closing, &self.settled, &self.shutdown] {
            step.cancel();
        }
    }
}
