//! Events from inside the process, for `tallycast demo`.

use std::pin::pin;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;

use super::{BrokerState, Item, Outlet, Passed, SourceStats};

/// Passes on what `items` gives, until it ends or `shutdown` is cancelled.
pub async fn run(
    items: impl Stream<Item = Item>,
    inbox: mpsc::Sender<Item>,
    state: watch::Sender<BrokerState>,
    stats: Arc<SourceStats>,
    shutdown: CancellationToken,
) {
    let mut items = pin!(items);
    let mut outlet = Outlet::new(inbox);
    stats.subscriptions.add(1);
    state.send_replace(BrokerState::Subscribed);
    loop {
        let item = tokio::select! {
            item = items.next() => item,
            () = shutdown.cancelled() => None,
        };
        let Some(item) = item else { return };
        if outlet.pass(item, &stats) == Passed::Ended {
            return;
        }
    }
}
