//! Starts everything that talks to brokers: the sources, the store of the REST API, the status reports, and the announcements of
//! the node.

use std::sync::Arc;

use tallycast::admin::{self, StatusSource};
use tallycast::api::emojitracker::Store;
use tallycast::api::push;
use tallycast::auth::TicketStore;
#[cfg(any(feature = "amqp", feature = "kafka", feature = "nats"))]
use tallycast::cluster::Medium;
use tallycast::cluster::{Cluster, Via};
use tallycast::config::{Broker, DemoOptions, SourceConfig, SourceKind};
use tallycast::decode::Routes;
use tallycast::demo::{self, Demo};
#[cfg(feature = "amqp")]
use tallycast::publishing::AmqpPublisher;
#[cfg(feature = "kafka")]
use tallycast::publishing::KafkaPublisher;
#[cfg(feature = "nats")]
use tallycast::publishing::NatsPublisher;
use tallycast::publishing::{Backend, MemoryPublisher, Publisher, RedisPublisher};
use tallycast::redis_client::RedisClient;
#[cfg(feature = "amqp")]
use tallycast::source::amqp::{AmqpSource, Config as Amqp};
#[cfg(feature = "kafka")]
use tallycast::source::kafka::{Config as Kafka, KafkaSource};
use tallycast::source::memory::MemorySource;
#[cfg(feature = "nats")]
use tallycast::source::nats::{JetStreamSource, NatsSource, NatsUrl};
use tallycast::source::redis::streams::StreamsSource;
use tallycast::source::redis::{Config as Redis, RedisSource, slots};
use tallycast::source::relay::{Claims, RelaySource};
use tallycast::source::{PushSource, Source, SourceError, SourceId, SourceInputs, StateBoard, Supervisor};
use tallycast::totals::TotalsKey;
use tallycast_fanout::Namespace;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

/// What has been started.
pub(crate) struct Started {
    /// Stage 1: ends when all sources have ended, or one of them with an error.
    pub(crate) source: JoinHandle<Result<(), SourceError>>,
    /// What the REST API reads.
    pub(crate) store: Store,
    /// The push sources, which need endpoints.
    pub(crate) push: Vec<push::Started>,
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

/// What the default source is called among others, none of which can have this name.
const UNNAMED: &str = "(default)";

/// Starts every source under a supervisor like `supervisor`, with the channels and streams that it is to read.
pub(crate) fn start(
    broker: Broker,
    supervisor: Supervisor,
    routes: &watch::Receiver<Routes>,
    inputs: Vec<SourceInputs>,
    status: &StatusSource,
    shutdown: &CancellationToken,
) -> Started {
    let redis = broker.redis.as_ref().map(|redis| redis.commands());
    let reports = broker
        .status_interval
        .zip(redis.clone())
        .map(|(interval, client)| tokio::spawn(admin::report(client, interval, status.clone(), shutdown.clone())));
    let report = status.clone();
    let cluster = broker.cluster.then(|| {
        let (via, stats) = (via(&broker, redis.as_ref()), Arc::clone(&status.cluster));
        Cluster::start(move || report.node_report(), via, stats, shutdown.clone())
    });
    let mut store = match &redis {
        Some(client) => Store::Redis {
            client: client.clone(),
            scores: broker.scores,
            max_scores: broker.max_totals,
            stats: Arc::clone(&status.store),
        },
        None => Store::Absent,
    };
    let tickets = redis.clone().map_or_else(TicketStore::in_memory, TicketStore::Redis);
    let supervisor = supervisor.require_broker(broker.require_broker);
    let mut sources = Sources { running: JoinSet::new(), supervisor, states: status.states.clone() };
    let claims = Claims::new(inputs.iter().map(|inputs| inputs.streams.clone()).collect());
    let mut backends = Vec::with_capacity(broker.sources.len());
    let mut push = Vec::new();
    for (id, (SourceConfig { name, kind }, inputs)) in (0..).map(SourceId).zip(broker.sources.into_iter().zip(inputs)) {
        let is_default = id == SourceId::DEFAULT;
        let of = (id, name);
        backends.push(match kind {
            SourceKind::Redis(config) => {
                let client = redis.clone().filter(|_| is_default).unwrap_or_else(|| config.commands());
                if config.servers.is_cluster() {
                    let exact = exact_channels(routes.clone(), id, &broker.totals);
                    sources.start_cluster(of, *config, client, inputs, exact)
                } else {
                    sources.start_redis(of, *config, client, inputs)
                }
            }
            SourceKind::Push(config) => {
                let (backend, started) = sources.start_push(of, *config);
                push.push(started);
                backend
            }
            #[cfg(feature = "nats")]
            SourceKind::Nats(url) => sources.start_nats(of, *url, inputs),
            #[cfg(feature = "amqp")]
            SourceKind::Amqp(config) => {
                sources.run(of, AmqpSource::new(Amqp::clone(&config), inputs.selectors));
                Backend::Amqp(AmqpPublisher::new(*config))
            }
            #[cfg(feature = "kafka")]
            SourceKind::Kafka(config) => {
                let publisher = KafkaPublisher::new(Kafka::clone(&config), of.1.as_deref());
                sources.run(of, KafkaSource::new(*config, inputs.selectors, inputs.streams));
                Backend::Kafka(publisher)
            }
            SourceKind::Relay(config) => {
                let address = config.to_string();
                let name = of.1.as_deref().unwrap_or(UNNAMED);
                let relay = RelaySource::new(*config, name, status.handle.instance(), claims.clone());
                sources.run(of, relay);
                Backend::ReadOnly(address.into())
            }
            SourceKind::Demo(options) => {
                let demo = Demo::new(options.seed);
                store = Store::Memory(demo.memory());
                sources.start_demo(of, demo, &options, &broker.totals, inputs)
            }
        });
    }
    let source = tokio::spawn(sources.ended());
    Started { source, store, push, redis, publisher: Publisher::new(backends), tickets, reports, cluster }
}

/// How the nodes know of each other: by Redis, if there is one, or else by the broker of the default source.
fn via(broker: &Broker, redis: Option<&RedisClient>) -> Via {
    match (redis, broker.sources.first().map(|source| &source.kind)) {
        (Some(redis), _) => Via::Redis(redis.clone()),
        #[cfg(feature = "nats")]
        (None, Some(SourceKind::Nats(url))) => Via::Medium(Medium::Nats(url.clone())),
        #[cfg(feature = "amqp")]
        (None, Some(SourceKind::Amqp(config))) => Via::Medium(Medium::Amqp(config.clone())),
        #[cfg(feature = "kafka")]
        (None, Some(SourceKind::Kafka(config))) => Via::Medium(Medium::Kafka(config.clone())),
        (None, _) => Via::Nothing,
    }
}

/// A source, and its name unless it is the default one.
type Named = (SourceId, Option<Arc<str>>);

/// The sources that run.
struct Sources {
    running: JoinSet<Result<(), SourceError>>,
    supervisor: Supervisor,
    states: StateBoard,
}

impl Sources {
    /// Runs a source, which is one of several if its broker has more than one kind of them.
    fn run(&mut self, (id, name): Named, source: impl Source + 'static) {
        self.running.spawn(self.supervisor.clone().source(id, name, &self.states).run(source));
    }

    fn start_redis(&mut self, of: Named, config: Redis, client: RedisClient, inputs: SourceInputs) -> Backend {
        self.run(of.clone(), RedisSource::new(config.clone(), client.clone(), inputs.selectors));
        self.run(of, StreamsSource::new(config, inputs.streams));
        Backend::Redis(RedisPublisher::new(client))
    }

    fn start_push(&mut self, of: Named, config: push::Config) -> (Backend, push::Started) {
        // The configuration has none without one.
        let (id, name) = (of.0, of.1.clone().unwrap_or_default());
        let (source, queue) = PushSource::new(&name);
        let backend = Backend::ReadOnly(source.address().into());
        self.run(of, source);
        (backend, push::Started { source: id, name, config, queue })
    }

    #[cfg(feature = "nats")]
    fn start_nats(&mut self, of: Named, url: NatsUrl, inputs: SourceInputs) -> Backend {
        self.run(of.clone(), NatsSource::new(url.clone(), inputs.selectors));
        self.run(of, JetStreamSource::new(url.clone(), inputs.streams));
        Backend::Nats(NatsPublisher::new(url))
    }

    /// Starts the sources of a Redis Cluster: classic pub/sub, and what belongs to slots.
    fn start_cluster(
        &mut self,
        of: Named,
        config: Redis,
        client: RedisClient,
        inputs: SourceInputs,
        exact_channels: watch::Receiver<Vec<String>>,
    ) -> Backend {
        self.run(of.clone(), RedisSource::new(config.clone(), client.clone(), inputs.selectors));
        let supervisors = slots::Supervisors { like: self.supervisor.clone(), of, states: self.states.clone() };
        self.running.spawn(slots::run(supervisors, config, exact_channels, inputs.streams));
        Backend::Redis(RedisPublisher::new(client))
    }

    fn start_demo(
        &mut self,
        of: Named,
        demo: Demo,
        options: &DemoOptions,
        totals: &[TotalsKey],
        inputs: SourceInputs,
    ) -> Backend {
        let (publisher, published) = MemoryPublisher::new(demo.memory());
        let totals = totals.iter().map(|totals| totals.namespace.clone()).collect();
        let events = demo.events(options.rate, totals, &inputs, published);
        tokio::spawn(demo::run_bots(publisher.clone(), options.seed, inputs));
        self.run(of, MemorySource::new(events));
        Backend::Memory(publisher)
    }

    /// Waits until all have ended, or one with an error; then the others are dropped, which ends them.
    async fn ended(mut self) -> Result<(), SourceError> {
        // The inbox closes when nothing can emit any more.
        drop(self.supervisor);
        while let Some(ended) = self.running.join_next().await {
            match ended {
                Ok(ended) => ended?,
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => {}
            }
        }
        Ok(())
    }
}

/// The channels of a source that routes name exactly now, without those that are counted for namespaces with totals.
fn exact_channels(
    mut routes: watch::Receiver<Routes>,
    source: SourceId,
    totals: &[TotalsKey],
) -> watch::Receiver<Vec<String>> {
    let with_totals: Vec<Namespace> = totals.iter().map(|totals| totals.namespace.clone()).collect();
    let (sender, receiver) = watch::channel(routes.borrow_and_update().exact_channels(source, &with_totals));
    tokio::spawn(async move {
        while routes.changed().await.is_ok() {
            let channels = routes.borrow_and_update().exact_channels(source, &with_totals);
            if sender.send(channels).is_err() {
                break;
            }
        }
    });
    receiver
}
