//! Starts everything that talks to the broker: the source, the store of the REST API, the status reports, and the announcements of
//! the node.

use std::sync::Arc;

use tallycast::admin::{self, StatusSource};
use tallycast::api::emojitracker::Store;
use tallycast::auth::TicketStore;
use tallycast::cluster::Cluster;
use tallycast::config::{Broker, Source};
use tallycast::demo::Demo;
use tallycast::publishing::{MemoryPublisher, Publisher, RedisPublisher};
use tallycast::redis_client::RedisClient;
use tallycast::source::memory::MemorySource;
use tallycast::source::redis::streams::StreamsSource;
use tallycast::source::redis::{Config as Redis, RedisSource};
use tallycast::source::{Selector, SourceError, StreamKey, Supervisor};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What has been started.
pub(crate) struct Started {
    /// Stage 1.
    pub(crate) source: JoinHandle<Result<(), SourceError>>,
    /// What the REST API reads.
    pub(crate) store: Store,
    /// Commands to Redis, if there is one.
    pub(crate) redis: Option<RedisClient>,
    /// What publishes.
    pub(crate) publisher: Publisher,
    /// Where tickets are kept.
    pub(crate) tickets: TicketStore,
    /// The status reports, if there are any, which end at shutdown.
    pub(crate) reports: Option<JoinHandle<()>>,
    /// The nodes that this one knows, if it announces itself, which it does until the shutdown.
    pub(crate) cluster: Option<Cluster>,
}

/// Starts the source under `supervisor`, with the channels that `selectors` select now and these streams.
pub(crate) fn start(
    broker: Broker,
    supervisor: Supervisor,
    selectors: watch::Receiver<Vec<Selector>>,
    streams: watch::Receiver<Vec<StreamKey>>,
    status: &StatusSource,
    shutdown: &CancellationToken,
) -> Started {
    let announce = |redis| {
        let (report, stats) = (status.clone(), Arc::clone(&status.cluster));
        broker.cluster.then(|| Cluster::start(move || report.node_report(), redis, stats, shutdown.clone()))
    };
    match broker.source {
        Source::Redis(redis) => {
            let client = redis.commands();
            let reports = broker.status_interval.map(|interval| {
                tokio::spawn(admin::report(client.clone(), interval, status.clone(), shutdown.clone()))
            });
            let supervisor = supervisor.require_broker(redis.require_broker);
            let channels = RedisSource::new(Redis::clone(&redis), client.clone(), selectors);
            let source = tokio::spawn(run_both(supervisor, channels, StreamsSource::new(*redis, streams)));
            let (scores, max_scores, stats) = (broker.scores, broker.max_totals, Arc::clone(&status.store));
            let publisher = Publisher::Redis(RedisPublisher::new(client.clone()));
            let (tickets, redis) = (TicketStore::Redis(client.clone()), Some(client.clone()));
            let cluster = announce(redis.clone());
            let store = Store::Redis { client, scores, max_scores, stats };
            Started { source, store, redis, publisher, tickets, reports, cluster }
        }
        Source::Demo(options) => {
            let demo = Demo::new(options.seed);
            let store = Store::Memory(demo.memory());
            let (publisher, published) = MemoryPublisher::new(demo.memory());
            let totals = broker.totals.into_iter().map(|totals| totals.namespace).collect();
            let events = demo.events(options.rate, totals, streams.borrow().clone(), published);
            let source = tokio::spawn(supervisor.run(MemorySource::new(events)));
            let (tickets, publisher) = (TicketStore::in_memory(), Publisher::Memory(publisher));
            let cluster = announce(None);
            Started { source, store, redis: None, publisher, tickets, reports: None, cluster }
        }
    }
}

/// Runs both sources of Redis. One without routes waits for some.
async fn run_both(supervisor: Supervisor, channels: RedisSource, streams: StreamsSource) -> Result<(), SourceError> {
    let ([for_channels, for_streams], states) = supervisor.pair();
    tokio::select! {
        ended = async { tokio::try_join!(for_channels.run(channels), for_streams.run(streams)) } => ended.map(drop),
        never = states => match never {},
    }
}
