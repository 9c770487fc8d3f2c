//! Starts everything that talks to the broker: the source, the store of the REST API, and the status reports.

use tallycast::admin::{self, StatusSource};
use tallycast::api::emojitracker::Store;
use tallycast::config::{Broker, Source};
use tallycast::demo::Demo;
use tallycast::source::memory::MemorySource;
use tallycast::source::redis::RedisSource;
use tallycast::source::{Selector, SourceError, Supervisor};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Stage 1, and the store that the REST API reads.
pub(crate) type Started = (JoinHandle<Result<(), SourceError>>, Store);

/// Starts the source under `supervisor`, with the channels that `selectors` select now.
pub(crate) fn start(
    broker: Broker,
    supervisor: Supervisor,
    selectors: watch::Receiver<Vec<Selector>>,
    status: &StatusSource,
) -> Started {
    match broker.source {
        Source::Redis(redis) => {
            let client = redis.commands();
            if let Some(interval) = broker.status_interval {
                // Ends with the runtime: a report that is under way at shutdown is not worth a wait.
                tokio::spawn(admin::report(client.clone(), interval, status.clone()));
            }
            let supervisor = supervisor.require_broker(redis.require_broker);
            let source = tokio::spawn(supervisor.run(RedisSource::new(*redis, client.clone(), selectors)));
            (source, Store::Redis { client, scores: broker.scores, max_scores: broker.max_totals })
        }
        Source::Demo(options) => {
            let demo = Demo::new(options.seed);
            let store = Store::Memory(demo.memory());
            let events = demo.events(options.rate, broker.totals);
            (tokio::spawn(supervisor.run(MemorySource::new(events))), store)
        }
    }
}
