//! The steps between the signal to stop and the shutdown: new clients go elsewhere, then the open streams end one by one.

use std::time::Duration;

use tallycast_fanout::Handle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use tallycast::config::Drain;

/// How often it is looked whether any streams are left.
const POLL: Duration = Duration::from_millis(50);

/// The tokens of the steps, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Steps {
    /// A signal has arrived: `/readyz` answers 503.
    pub(crate) terminating: CancellationToken,
    /// No more connections are accepted.
    pub(crate) closing: CancellationToken,
    /// The pipeline shuts down.
    pub(crate) shutdown: CancellationToken,
}

impl Steps {
    /// Goes through the steps once `terminating` is cancelled.
    pub(crate) async fn run(self, drain: Drain, handle: Handle) {
        self.terminating.cancelled().await;
        if !drain.delay.is_zero() {
            tracing::info!(delay = ?drain.delay, "not ready any more, still accepting connections");
            sleep(drain.delay).await;
        }
        self.closing.cancel();
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
        for step in [&self.terminating, &self.closing, &self.shutdown] {
            step.cancel();
        }
    }
}
