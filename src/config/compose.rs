//! Flags -> the configs of the stages.

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

use super::connect;
use super::effective::EffectiveOption;
use super::errors::ConfigError;
use super::flags::{
    AppEnv, BrokerOptions, DEFAULT_SCORES, DemoOptions, LogFormat, PipelineOptions, ReaderOptions, RoutingOptions,
    ServerOptions,
};
use super::redis_topology;
use super::restart::Restart;
use super::secret::Secret;
use super::sources::{SourceConfig, SourceKind, Sources};
use super::{sources, tokens};
use crate::admin::{self, Token};
use crate::api::contracts;
use crate::api::mercure;
use crate::api::native::PublishKeys;
use crate::api::ws_hub::Config as WsHub;
use crate::auth;
use crate::decode::{Route, Routes};
use crate::redis_client::RedisUrl;
use crate::sessions::{self, EventTarget};
use crate::source::{Selector, SourceId};
use crate::totals::{self, TotalsKey};
use crate::trace::otlp;
use crate::{source, tally};
use tallycast_fanout::Namespace;

/// The configs of the stages, and what the process needs beside them.
#[derive(Debug)]
#[non_exhaustive]
pub struct Config {
    /// Stage 1.
    pub broker: Broker,
    /// Stage 2.
    pub routes: Routes,
    /// Stage 3.
    pub tally: tally::Config,
    /// One of this many events is traced; none without.
    pub trace_sample: Option<NonZeroU32>,
    /// The collector of traces, if there is one.
    pub otlp: Option<otlp::Config>,
    /// Stage 4.
    pub fanout: tallycast_fanout::Config,
    /// The HTTP server.
    pub server: tallycast_server::Config,
    /// Whether `/admin` and `/metrics` are served.
    pub admin: bool,
    /// Whether operators may only look.
    pub admin_read_only: bool,
    /// The token that they require.
    pub admin_token: Option<Token>,
    /// The publishing key that the demo has if none is given.
    pub demo_key: Option<Secret>,
    /// The keys of those who may publish.
    pub publish_keys: PublishKeys,
    /// The Mercure protocol, if it is served.
    pub mercure: Option<mercure::Config>,
    /// How tokens are verified.
    pub tokens: auth::Config,
    /// How the servers of issuers are known, if a push source needs them.
    pub key_servers: Option<auth::KeyServers>,
    /// Sessions, and the other contracts that are switched on.
    pub contracts: contracts::Configs,
    /// The size of a request to publish, in bytes.
    pub max_publish_bytes: usize,
    /// Whether subscriptions are registered and served.
    pub subscriptions: bool,
    /// The address that the HTTP server listens on.
    pub address: SocketAddr,
    /// The size of the kernel's send buffer of each connection, in bytes.
    pub send_buffer: u32,
    /// The capacity of the inboxes of decode and tally, in events.
    pub inbox: usize,
    /// The capacity of the same inboxes, in bytes.
    pub inbox_bytes: usize,
    /// The name of the node: `rust-<env>-<instance>`.
    pub node: String,
    /// How the process comes to its listening socket.
    pub restart: Restart,
    /// What happens between a signal to stop and the shutdown.
    pub drain: Drain,
    /// The time limit for a graceful shutdown.
    pub shutdown_limit: Duration,
    /// What to log.
    pub log: EnvFilter,
    /// How to log it.
    pub log_format: LogFormat,
    /// The effective options, to compare with those of another reading.
    pub options: Vec<EffectiveOption>,
}

/// How streams end before the shutdown.
#[derive(Debug, Clone, Copy)]
pub struct Drain {
    /// The time for which connections are still accepted.
    pub delay: Duration,
    /// The time over which streams end one by one.
    pub over: Duration,
    /// The pause before their clients connect again.
    pub retry: Duration,
}

impl Drain {
    /// The time until the shutdown, with some for the first requests of the last connections.
    pub fn limit(&self) -> Duration {
        self.delay + self.over + Duration::from_secs(5)
    }
}

/// The pause before the clients of drained streams connect again, unless one is configured: what browsers use by themselves.
const DRAIN_RETRY: Duration = Duration::from_secs(3);

impl Config {
    /// Whether everyone who can reach the address may use the admin routes, and the address is not of this machine alone.
    pub fn is_admin_exposed(&self) -> bool {
        self.admin && self.admin_token.is_none() && !self.address.ip().to_canonical().is_loopback()
    }
}

impl Broker {
    /// The name of each source, and its kind in a word.
    pub fn kinds(&self) -> Vec<(Arc<str>, &'static str)> {
        let name = |source: &SourceConfig| source.name.clone().unwrap_or_else(|| source::DEFAULT_NAME.into());
        self.sources.iter().map(|source| (name(source), source.kind.word())).collect()
    }

    /// The longest time between two readings of totals, if there are any.
    pub fn totals_interval(&self) -> Option<Duration> {
        match &self.sources.first()?.kind {
            SourceKind::Redis(config) if !config.totals.keys.is_empty() => Some(config.totals.interval),
            _ => None,
        }
    }
}

/// The broker: the source, and everything else that talks to it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Broker {
    /// Where events come from, the default source first.
    pub sources: Vec<SourceConfig>,
    /// The Redis server of everything else, if there is one. It is that of the default source, if that is Redis.
    pub redis: Option<Box<source::redis::Config>>,
    /// Whether the process ends when the first connection to a source fails.
    pub require_broker: bool,
    /// The namespaces with totals.
    pub totals: Vec<TotalsKey>,
    /// The sorted set that rankings are read from.
    pub scores: String,
    /// The maximum number of members of each sorted set.
    pub max_totals: usize,
    /// The interval of status reports to Redis, if there are any.
    pub status_interval: Option<Duration>,
    /// Whether the node announces itself to the others.
    pub cluster: bool,
}

/// The options of the source: those of Redis, or those of the demo.
pub(super) enum SourceOptions {
    Redis(BrokerOptions),
    Demo(Box<DemoOptions>),
}

/// Puts the configs of the stages together.
pub(super) fn compose(
    source: SourceOptions,
    pipeline: PipelineOptions,
    options: Vec<EffectiveOption>,
) -> Result<Config, ConfigError> {
    let PipelineOptions {
        routing,
        readers,
        server,
        publishing,
        tokens,
        subscriptions,
        mercure,
        sessions,
        connect,
        send_multiple,
        unifrost,
        ws_hub,
        realtime,
        restart,
        traces,
        ..
    } = pipeline;
    let realtime_config = realtime.config()?;
    let token_jwks_ca = tokens.token_jwks_ca.clone();
    let tokens = tokens::compose(tokens, publishing.publish_rate)?;
    let connect_hook = connect::compose(connect, &options)?;
    let ws_hub_config = ws_hub.config()?;
    let is_needed = unifrost.unifrost.is_some() || ws_hub_config.is_some() || realtime_config.is_some();
    let sessions = sessions.config(is_needed, connect_hook.is_some(), server.max_topics)?;
    let add_routes = |routes: &mut Vec<Route>| {
        mercure.add_route(routes);
        unifrost.add_route(routes);
        ws_hub.add_route(routes)?;
        realtime.add_routes(routes)?;
        // May have all channels.
        send_multiple.add_route(routes);
        Ok(())
    };
    let is_redis_chosen = options.iter().any(|option| option.name == "redis-url" && option.origin != "default");
    let has_default_totals = options.iter().any(|option| option.name == "totals" && option.origin == "default");
    let Sources { default, all_streams, named } = match &source {
        SourceOptions::Redis(broker) => sources::sources(broker)?,
        SourceOptions::Demo(_) => Sources { default: None, all_streams: false, named: Vec::new() },
    };
    let has_id_tokens = |source: &SourceConfig| matches!(&source.kind, SourceKind::Push(push) if push.has_id_tokens());
    let needs_keys = named.iter().any(has_id_tokens);
    let key_servers = needs_keys.then(|| tokens::key_servers(token_jwks_ca.as_deref())).transpose()?;
    let has_redis = default.is_none() || matches!(default, Some(SourceKind::Redis(_)));
    let mut routing = routing;
    let is_relay = matches!(default, Some(SourceKind::Relay(_)));
    if is_relay && options.iter().any(|option| option.name == "route" && option.origin == "default") {
        routing.routes.clear();
    }
    // Those of a relay are those of its origin.
    if !has_redis && !is_relay {
        if !has_default_totals {
            return Err(ConfigError::Usage(
                "--totals needs Redis as the default source, which counts and events are in together; remove --totals, or the --source \
                 without a name"
                    .to_owned(),
            ));
        }
        routing.totals.clear();
    }
    let ids = named.iter().zip(1..).filter_map(|(source, id)| Some((source.name.clone()?, SourceId(id))));
    let ids: Vec<_> = ids.collect();
    let routes = routes((all_streams, !is_relay), &ids, &routing, add_routes)?
        .with_senders(sessions.is_some())
        .with_reserved(sessions.as_ref().and_then(events_channel))
        .with_reserved(ws_hub_config.iter().flat_map(WsHub::reserved_channels));
    let named_relays = named.iter().filter(|source| matches!(source.kind, SourceKind::Relay(_))).count();
    let relays = named_relays + usize::from(is_relay);
    let demo_key = (matches!(source, SourceOptions::Demo(_)) && publishing.publish_keys.is_empty()).then(demo_key);
    let instance =
        pipeline.instance.unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned());
    let env = pipeline.app_env.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
    let (kind, redis, status_interval, require_broker) = match source {
        SourceOptions::Redis(broker) => {
            let interval = (pipeline.app_env != AppEnv::Development).then_some(broker.status_interval);
            let own = || mercure.own_stream().into_iter().chain(realtime.own_streams()).collect();
            let (kind, redis) = match default {
                Some(SourceKind::Redis(config)) => {
                    let config = Box::new(of_default(*config, &routing, own()));
                    (SourceKind::Redis(config.clone()), Some(config))
                }
                default => {
                    let has_redis = default.is_none() || is_redis_chosen;
                    let redis = has_redis.then(|| redis(&broker, &routing, own())).transpose()?.map(Box::new);
                    let kind = default.or_else(|| Some(SourceKind::Redis(redis.clone()?)));
                    // Without a default source there is the server of `--redis-url`.
                    let Some(kind) = kind else { return Err(ConfigError::Usage("expected a source".to_owned())) };
                    (kind, redis)
                }
            };
            (kind, redis, interval, broker.require_broker)
        }
        SourceOptions::Demo(options) => (SourceKind::Demo(options), None, None, false),
    };
    if let Some(redis) = &redis {
        redis_topology::check(&redis.url, sessions.is_some(), &routing.totals)?;
    }
    let mut sources = vec![SourceConfig { name: None, kind }];
    sources.extend(named);
    sources::check(&sources, &routes)?;
    let restart = restart.config()?;
    #[cfg(feature = "amqp")]
    sources::check_handover(&restart, &sources)?;
    let totals = &routing.totals;
    let broker = Broker {
        sources,
        redis,
        require_broker,
        totals: totals.clone(),
        scores: totals.first().map_or_else(|| DEFAULT_SCORES.to_owned(), |totals| totals.key.clone()),
        max_totals: routing.max_totals,
        status_interval,
        cluster: pipeline.cluster.cluster || send_multiple.send_multiple,
    };
    let contracts = contracts::Configs {
        sessions,
        unifrost: unifrost.config()?,
        ws_hub: ws_hub_config,
        realtime: realtime_config,
        send_multiple: send_multiple.config(tokens.is_enabled())?,
        connect_hook,
    };
    if let Some(path) = contracts.overlap() {
        return Err(ConfigError::Usage(format!(
            "two contracts have the path {path}; expected other values of --send-multiple-path, --unifrost-events-path, \
             --unifrost-update-path, --ws-hub-path or --ws-hub-pages"
        )));
    }
    let mut fanout =
        fanout(&routing, &routes, &readers, (pipeline.inbox, pipeline.inbox_bytes.0), pipeline.shutdown_limit);
    fanout.relays = relays;
    let hook_timeout = contracts.connect_hook.as_ref().map_or(Duration::ZERO, |hook| hook.timeout);
    Ok(Config {
        broker,
        tally: tally::Config { period: routing.tally_period, max_keys: routing.tally_keys },
        trace_sample: traces.sample(),
        otlp: traces.otlp()?,
        fanout,
        admin: !server.no_admin,
        admin_read_only: server.admin_read_only,
        admin_token: server.admin_token.clone().map(Token::from),
        demo_key: demo_key.clone(),
        publish_keys: PublishKeys::new(publishing.publish_keys.into_iter().chain(demo_key), publishing.publish_rate),
        mercure: mercure.config(tokens.is_enabled(), publishing.max_publish_bytes.0)?,
        contracts,
        tokens,
        key_servers,
        max_publish_bytes: publishing.max_publish_bytes.0,
        subscriptions: subscriptions.subscriptions,
        restart,
        drain: Drain { delay: pipeline.drain_delay, over: pipeline.drain, retry: server.retry.unwrap_or(DRAIN_RETRY) },
        // Its connections end with their streams.
        server: http(server, readers.stall_limit, pipeline.drain + pipeline.shutdown_limit, hook_timeout)?,
        routes,
        address: SocketAddr::new(pipeline.address, pipeline.port),
        // The flag allows no more.
        send_buffer: u32::try_from(readers.send_buffer.0).unwrap_or(u32::MAX),
        inbox: pipeline.inbox,
        inbox_bytes: pipeline.inbox_bytes.0,
        node: format!("rust-{env}-{instance}"),
        shutdown_limit: pipeline.shutdown_limit,
        log: pipeline.log,
        log_format: pipeline.log_format,
        options,
    })
}

/// The channel with the events of sessions, if there is one.
fn events_channel(sessions: &sessions::Config) -> Option<Selector> {
    match &sessions.events {
        EventTarget::Channel(name) => Some(Selector::Exact(name.clone())),
        EventTarget::Stream(_) => None,
    }
}

/// A random key, the same for each reading of the configuration.
fn demo_key() -> Secret {
    static KEY: OnceLock<Secret> = OnceLock::new();
    // The keys of a hasher are random for each instance.
    let random = || RandomState::new().hash_one(0);
    KEY.get_or_init(|| Secret::new(&format!("{:016x}{:016x}", random(), random()))).clone()
}

/// An error of flags whose values are valid by themselves.
pub(super) fn invalid(flags: &str, error: &dyn std::fmt::Display) -> ConfigError {
    ConfigError::Usage(format!("invalid value for {flags}: {error}"))
}

/// The routes of the configuration, and those that contracts add.
fn routes(
    (all_streams, needs_routes): (bool, bool),
    sources: &[(Arc<str>, SourceId)],
    routing: &RoutingOptions,
    add_routes: impl FnOnce(&mut Vec<Route>) -> Result<(), ConfigError>,
) -> Result<Routes, ConfigError> {
    let mut routes = Vec::with_capacity(routing.routes.len());
    for route in &routing.routes {
        let route = route.clone().of_source(sources).map_err(|error| invalid("--route", &error))?;
        let is_stream = all_streams && !route.has_named_source();
        let route = if is_stream { route.into_stream() } else { Ok(route) };
        routes.push(route.map_err(|error| invalid("--route with --source redis-streams", &error))?);
    }
    add_routes(&mut routes)?;
    let of = if needs_routes { Routes::new } else { Routes::of };
    let routes = of(routes).map_err(|error| invalid("--route", &error))?;
    let has_totals = |namespace: &Namespace| routing.totals.iter().any(|totals| totals.namespace == *namespace);
    let counted = routes.tallies_elsewhere().find(|(_, namespace)| has_totals(namespace));
    if let Some((pattern, namespace)) = counted {
        return Err(ConfigError::Usage(format!(
            "invalid value for --route: {pattern} has tally={namespace}, and --totals has {namespace} too; expected another \
             namespace, because totals are exact only for channels of the default source"
        )));
    }
    Ok(routes)
}

fn redis(
    broker: &BrokerOptions,
    routing: &RoutingOptions,
    own_streams: Vec<(Arc<str>, usize)>,
) -> Result<source::redis::Config, ConfigError> {
    let url: RedisUrl = broker.redis_url.expose().parse().map_err(|error| invalid("--redis-url", &error))?;
    let config = sources::redis(url, broker).map_err(|error| invalid("--redis-url", &error))?;
    Ok(of_default(config, routing, own_streams))
}

/// The configuration of the Redis server of the default source, which has the totals, and streams of tallycast itself.
fn of_default(
    mut config: source::redis::Config,
    routing: &RoutingOptions,
    own_streams: Vec<(Arc<str>, usize)>,
) -> source::redis::Config {
    config.trim.own = own_streams;
    config.totals = totals::Config {
        keys: routing.totals.clone(),
        max_members: routing.max_totals,
        max_bytes: routing.max_totals_bytes.0,
        interval: routing.totals_interval,
    };
    config
}

fn fanout(
    routing: &RoutingOptions,
    routes: &Routes,
    readers: &ReaderOptions,
    (inbox, inbox_bytes): (usize, usize),
    close_limit: Duration,
) -> tallycast_fanout::Config {
    let mut config = tallycast_fanout::Config::default();
    config.inbox = inbox;
    config.inbox_bytes = inbox_bytes;
    if let Some(shards) = readers.shards {
        config.shards = shards;
    }
    config.log_batches = readers.log_batches;
    config.log_bytes = readers.log_bytes.0;
    config.total_log_bytes = readers.total_log_bytes.0;
    config.merged_bytes = readers.merged_bytes.0;
    config.policies.clone_from(&readers.slow_readers);
    config.totals = routing.totals.iter().map(|totals| totals.namespace.clone()).collect();
    config.max_totals = routing.max_totals;
    config.max_totals_bytes = routing.max_totals_bytes.0;
    config.corrections = !routing.no_corrections;
    config.retentions = routes.retentions();
    config.history_bytes = readers.history_bytes.0;
    config.replay_bytes = readers.replay_bytes.0;
    config.keep_alive = readers.keep_alive;
    config.pong_timeout = readers.pong_limit;
    config.stall_timeout = readers.stall_limit;
    config.close_timeout = close_limit;
    config
}

fn http(
    options: ServerOptions,
    write_timeout: Duration,
    close_limit: Duration,
    hook_timeout: Duration,
) -> Result<tallycast_server::Config, ConfigError> {
    // Otherwise the head would be too large first, and the limit without effect.
    if options.max_target_bytes.0 >= options.max_head_bytes.0 {
        let (target, head) = (options.max_target_bytes, options.max_head_bytes);
        let expected = format!("expected less than --max-head-bytes ({head})");
        return Err(ConfigError::Usage(format!("invalid value \"{target}\" for --max-target-bytes: {expected}")));
    }
    let mut config = tallycast_server::Config::default();
    config.websocket.max_message = options.max_message_bytes.0;
    config.websocket.message_rate = options.message_rate;
    config.tls = tls(&options)?;
    config.max_connections = options.max_connections;
    config.max_per_address = options.max_per_address;
    config.rate_per_address = options.rate_per_address;
    config.namespace_limits = options.namespace_limits;
    config.max_topics = options.max_topics;
    config.max_topic_bytes_per_address = options.max_topic_bytes_per_address.0;
    config.max_topic_bytes = options.max_topic_bytes.0;
    config.trusted_proxies = options.trusted_proxies;
    config.client_address_header = options.client_address_header.into();
    config.compression = options.compression.into();
    config.allowed_origins = options.allowed_origins;
    let admin = if options.no_admin { &[][..] } else { &admin::PREFIXES };
    config.reserved_paths = [&admin::PROBES, admin].concat().into_iter().map(Into::into).collect();
    config.head_timeout = options.head_timeout;
    config.retry = options.retry;
    config.idle_timeout = options.idle_timeout;
    config.write_timeout = write_timeout;
    config.peer_timeout = options.peer_timeout;
    config.max_head_bytes = options.max_head_bytes.0;
    config.max_target_bytes = options.max_target_bytes.0;
    config.close_limit = close_limit;
    // A token is verified before the connect hook is asked.
    config.authorize_timeout += hook_timeout;
    Ok(config)
}

fn tls(options: &ServerOptions) -> Result<Option<tallycast_server::Tls>, ConfigError> {
    match (&options.tls_cert, &options.tls_key) {
        (Some(certificates), Some(key)) => tallycast_server::Tls::read(certificates, key)
            .map(Some)
            .map_err(|error| invalid("--tls-cert, --tls-key", &error)),
        (None, None) => Ok(None),
        (Some(_), None) => Err(ConfigError::Usage(
            "--tls-cert needs --tls-key: expected the private key of the certificate".to_owned(),
        )),
        (None, Some(_)) => Err(ConfigError::Usage(
            "--tls-key needs --tls-cert: expected the certificate of the private key".to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use crate::config::testing::config;
    use crate::source::SourceId;

    #[test]
    fn every_route_of_redis_streams_reads_a_stream() {
        let streams = |flags: &[&str]| {
            let config = config(flags).unwrap();
            let keys: Vec<String> =
                config.routes.streams(SourceId::DEFAULT).iter().map(|stream| stream.key.to_string()).collect();
            (keys.join(" "), config.routes.selectors(SourceId::DEFAULT).len(), config.fanout.retentions)
        };
        let routes = ["--route", "a=/x/*,history=5", "--route", "stream:b=/y"];
        let (keys, channels, retentions) = streams(&[&["--source", "redis-streams"], &routes[..]].concat());
        assert_eq!((&*keys, channels), ("a b", 0));
        assert_eq!((&*retentions[0].name, retentions[0].max_messages), ("stream:a", Some(5)));
        assert_eq!(streams(&["--route", "a=/x", "--route", "stream:b=/y"]).1, 1);
        assert_eq!(streams(&[]).0, "");
    }

    #[test]
    fn routes_that_contradict_other_options_are_refused() {
        let error = |flags: &[&str]| config(flags).unwrap_err();
        assert_eq!(
            error(&["--source", "redis-streams"]),
            "invalid value for --route with --source redis-streams: the stream \"stream.tweet_updates.*\" has a *; expected the \
             exact key of a Redis stream"
        );
        assert_eq!(
            error(&["--route", "stream:a=/x,tally=/eps"]),
            "invalid value for --route: stream:a has tally=/eps, and --totals has /eps too; expected another namespace, because \
             totals are exact only for channels of the default source"
        );
        assert!(error(&["--route", "a=/x/*"]).starts_with("invalid value for --route: the namespace \"/x/*\" has a *"));
    }

    #[test]
    fn contracts_with_the_same_path_are_refused() {
        let roots = ["--ws-hub", "--ws-hub-pages", "/"];
        let with = |contracts: &[&str], flags: &[&str]| config(&[contracts, flags].concat()).unwrap_err();
        let error = |flags: &[&str]| with(&roots, flags);
        assert_eq!(
            error(&["--send-multiple"]),
            "two contracts have the path /status; expected other values of --send-multiple-path, --unifrost-events-path, \
             --unifrost-update-path, --ws-hub-path or --ws-hub-pages"
        );
        assert!(with(&["--ws-hub"], &["--ws-hub-pages", "/v1"]).starts_with("two contracts have the path /v1/status"));
        assert!(
            with(&["--send-multiple"], &["--send-multiple-path", "/v1"])
                .starts_with("two contracts have the path /v1/status")
        );
        let hub = ["--unifrost", "0.1", "--unifrost-events-path", "/hub", "--ws-hub-path", "/hub"];
        assert!(error(&hub).starts_with("two contracts have the path /hub"));
        assert!(error(&["--unifrost", "0.1", "--unifrost-update-path", "/groups"]).starts_with("two contracts"));
        let unifrost = ["--unifrost", "0.1", "--unifrost-events-path", "/status"];
        assert!(error(&unifrost).starts_with("two contracts have the path /status"));
        let beside =
            [&roots[..], &["--send-multiple", "--send-multiple-path", "/streaming", "--unifrost", "0.1"]].concat();
        assert!(config(&beside).is_ok());
    }

    #[test]
    fn open_admin_routes_are_exposed_except_on_a_loopback_address() {
        let is_exposed = |flags: &[&str]| config(flags).unwrap().is_admin_exposed();
        for address in ["0.0.0.0", "::", "192.0.2.1", "::ffff:192.0.2.1"] {
            assert!(is_exposed(&["--address", address]), "{address}");
            assert!(!is_exposed(&["--address", address, "--no-admin"]));
            assert!(!is_exposed(&["--address", address, "--admin-token", "secret"]));
        }
        for address in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert!(!is_exposed(&["--address", address]), "{address}");
        }
    }
}
