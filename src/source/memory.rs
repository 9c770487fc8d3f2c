//! Events from inside the process, for `tallycast demo`.

use std::pin::pin;
use std::sync::Arc;

use sandbox::Update;
use tokio::sync::{mpsc, watch};
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;

use super::{BrokerState, RawEvent, SourceStats, pass_on};
use crate::limited::LimitedLog;

/// Passes on what `events` gives, until it ends or `shutdown` is cancelled.
pub async fn run(
    events: impl Stream<Item = RawEvent>,
    inbox: mpsc::Sender<RawEvent>,
    state: watch::Sender<BrokerState>,
    stats: Arc<SourceStats>,
    shutdown: CancellationToken,
) {
    let mut events = pin!(events);
    let mut log = LimitedLog::new();
    stats.subscriptions.add(1);
    state.send_replace(BrokerState::Subscribed);
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = shutdown.cancelled() => None,
        };
        let Some(event) = event else { return };
        if pass_on(event, &inbox, &stats, &mut log).is_err() {
            return;
        }
    }
}

/// The events that an Emojitracker feeder publishes for each of `updates`: the score, then the post.
pub fn emojitracker(updates: impl Stream<Item = Vec<Update>>) -> impl Stream<Item = RawEvent> {
    async_stream::stream! {
        let mut updates = pin!(updates);
        while let Some(batch) = updates.next().await {
            for Update { id, tweet } in batch {
                yield RawEvent { channel: "stream.score_updates".to_owned(), payload: id.as_bytes().to_vec() };
                yield RawEvent { channel: format!("stream.tweet_updates.{id}"), payload: tweet.into_bytes() };
            }
        }
    }
}
