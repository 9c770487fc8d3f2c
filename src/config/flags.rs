//! The flags: what `tallycast --help` shows, with the variable and the default of each.
//!
//! A default that belongs to a stage is read from that stage's own `Config::default()` or constants.

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;
use tallycast_fanout::NamespacePolicy;
use tallycast_server::{AllowedOrigin, ClientAddressHeader, Compression, NamespaceLimit};
use tracing_subscriber::EnvFilter;

use super::clients::{CountCommand, PublishCommand, TailCommand};
use super::cluster::ClusterOptions;
use super::connect::ConnectOptions;
use super::mercure::MercureOptions;
use super::mint::TokenCommand;
use super::realtime::RealtimeOptions;
use super::restart::RestartOptions;
use super::secret::Secret;
use super::send_multiple::SendMultipleOptions;
use super::sessions::SessionOptions;
use super::sources::source;
use super::tokens::TokenOptions;
use super::traces::TraceOptions;
use super::unifrost::UnifrostOptions;
use super::values::{
    admin_token, count, duration, duration_or_zero, duration_text, ip_address, log_filter, network, port, publish_key,
    rate, redis_url, seed, token, topic_count,
};
use super::ws_hub::WsHubOptions;
use crate::decode::{Route, Routes};
use crate::size::{self, Size};
use crate::source::redis;
use crate::tally;
use crate::totals::{self, TotalsKey};

/// The sorted set of the Emojitracker data model: the totals of `/eps`, and what `/v1/rankings` shows.
pub(super) const DEFAULT_SCORES: &str = "emojitrack_score";
/// The smallest limit for request headers that hyper accepts, in bytes.
const MIN_HEAD_BYTES: usize = 8192;
/// The longest request target that hyper reads, in bytes.
const MAX_TARGET_BYTES: usize = 65_534;
/// The largest send buffer, in bytes: the socket option is a signed number of 32 bits.
const MAX_SEND_BUFFER: usize = 1 << 30;
/// The largest message of Redis, in bytes (`proto-max-bulk-len`).
const MAX_TOTALS_BYTES: usize = 512 << 20;

/// Broadcast events from Redis and other brokers to browsers over Server-Sent Events and WebSocket.
///
/// Without a command, tallycast serves. Flags may stand before or after the command. A flag overrides its environment
/// variable, and both override the configuration file, whose keys are the flag names without the dashes.
///
/// If a flag is given twice, the last one wins. A repeatable flag adds a value each time; its variable separates values
/// with ';'. Durations need a unit, as in 17ms, 10s or 2m. Sizes may have one, as in 65536, 64KiB or 4MiB.
#[derive(Debug, Parser)]
#[command(
    name = "tallycast",
    version,
    args_override_self = true,
    override_usage = "tallycast [COMMAND] [OPTIONS]",
    after_help = "Without a command, tallycast accepts the options of tallycast serve. For another command's options, run tallycast COMMAND --help."
)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Option<Subcommands>,
}

impl Cli {
    /// The command line of the flags that follow `tallycast NAME`; without a name, those of `tallycast serve`.
    ///
    /// Only where no command is named does `tallycast` itself have flags. Otherwise the variables of flags that the
    /// named command does not have could stop it.
    pub(super) fn definition(name: Option<&str>) -> clap::Command {
        match name {
            Some(_) => Self::command(),
            None => ServeOptions::augment_args(Self::command()),
        }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Subcommands {
    /// Serve the events of a broker (the default)
    Serve(Box<ServeOptions>),
    /// Serve generated traffic and the demo pages; needs no Redis
    ///
    /// Open http://localhost:8001/demo/ for a counter, prices, a chat and notifications, each with the configuration and the code that it
    /// takes, http://localhost:8001/ for the board, and http://localhost:8001/admin/ for what the server does. Everything is in memory, and
    /// gone at the end.
    ///
    /// The defaults below include the configuration of the demo pages. A page whose route or channel you replace has nothing to show.
    Demo(Box<DemoOptions>),
    /// Validate the configuration, print every value and its origin, and exit: 0 if valid, 64 if not
    Check(Box<CheckOptions>),
    /// Publish messages by a running server
    Publish(PublishCommand),
    /// Count something in the totals of a running server
    Count(CountCommand),
    /// Print messages of a running server as they come
    Tail(TailCommand),
    /// Make a token for development, and print it
    Token(Box<TokenCommand>),
    /// Ask the tallycast on this machine whether it is alive, and exit: 0 if it is, 1 if not
    Healthcheck(HealthcheckOptions),
}

// Not a doc comment: clap would show it as the description of `tallycast` itself.
// Options of `tallycast serve`.
#[derive(Debug, Clone, Args)]
pub(super) struct ServeOptions {
    #[command(flatten)]
    pub(super) broker: BrokerOptions,
    #[command(flatten)]
    pub(super) pipeline: PipelineOptions,
}

// Options of `tallycast check`.
#[derive(Debug, Clone, Args)]
pub(super) struct CheckOptions {
    #[command(flatten)]
    pub(super) serve: ServeOptions,
    /// Token to check, @FILE with one, or - for standard input: prints what it may read and publish by this configuration, and until
    /// when, or why it is not valid. Exits with 1 if it is not [default: none]
    #[arg(
        long,
        env = "TALLYCAST_CHECK_TOKEN",
        value_name = "TOKEN|@FILE|-",
        hide_env_values = true,
        value_parser = token
    )]
    pub(super) token: Option<Secret>,
}

/// Options of `tallycast demo`.
#[derive(Debug, Clone, Args)]
pub struct DemoOptions {
    /// Generated counts and posts per second. Prices, messages and notices have rates of their own
    #[arg(long, env = "TALLYCAST_DEMO_RATE", default_value = "250", value_name = "PER_SECOND", value_parser = rate)]
    pub rate: NonZeroU32,
    /// Seed of the generators; the same seed generates the same traffic, but for its times
    #[arg(long, env = "TALLYCAST_DEMO_SEED", default_value_t = 1, value_name = "NUMBER", value_parser = seed)]
    pub seed: u64,
    #[command(flatten)]
    pub(super) pipeline: PipelineOptions,
}

/// Options of `tallycast healthcheck`.
#[derive(Debug, Clone, Args)]
pub(super) struct HealthcheckOptions {
    /// Address that the running tallycast listens on; all addresses stand for the loopback address
    #[arg(
        long,
        env = "TALLYCAST_ADDRESS",
        default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        value_name = "IP",
        value_parser = ip_address
    )]
    pub(super) address: IpAddr,
    /// Port that the running tallycast listens on
    #[arg(long, env = "PORT", default_value_t = 8001, value_name = "NUMBER", value_parser = port)]
    pub(super) port: u16,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Redis")]
pub(super) struct BrokerOptions {
    /// Redis server: redis:// or rediss:// (TLS), with user, password and database if needed; or redis+sentinel://HOST,HOST/NAME or
    /// redis+cluster://HOST,HOST. #insecure at the end of a rediss:// URL accepts a self-signed certificate, such as that of
    /// Heroku's Redis
    #[arg(
        long,
        env = "REDIS_URL",
        default_value = "redis://localhost:6379",
        value_name = "URL",
        hide_env_values = true,
        value_parser = redis_url
    )]
    pub(super) redis_url: Secret,
    /// Where events come from beside or instead of Redis: NAME=URL is a source that routes name, as in NAME:pattern=/namespace; a URL
    /// without a name takes the place of --redis-url for the routes that name none. With redis-streams, the pattern of each of those is
    /// the key of a Redis stream, with or without stream: in front of it. Repeatable
    #[arg(
        long = "source",
        env = "TALLYCAST_SOURCE",
        value_delimiter = ';',
        default_value = "redis",
        value_name = "[NAME=]URL|redis|redis-streams",
        hide_env_values = true,
        value_parser = source
    )]
    pub(super) sources: Vec<Secret>,
    /// Exit if a broker cannot be reached at startup. Without it, tallycast keeps trying
    #[arg(long, env = "TALLYCAST_REQUIRE_BROKER")]
    pub(super) require_broker: bool,
    /// Time limit for Redis to accept a connection or to answer
    #[arg(
        long,
        env = "TALLYCAST_REDIS_TIMEOUT",
        default_value = duration_text(redis::DEFAULT_TIMEOUT),
        value_name = "DURATION",
        value_parser = duration
    )]
    pub(super) redis_timeout: Duration,
    /// Silence from Redis after which tallycast sends a PING
    #[arg(
        long,
        env = "TALLYCAST_REDIS_PING",
        default_value = duration_text(redis::DEFAULT_PING_INTERVAL),
        value_name = "DURATION",
        value_parser = duration
    )]
    pub(super) redis_ping: Duration,
    /// Number of entries that the streams of routes are trimmed to, roughly, every 10 s [default: no limit]
    #[arg(long, env = "TALLYCAST_STREAM_MAXLEN", value_name = "COUNT", value_parser = count)]
    pub(super) stream_maxlen: Option<usize>,
    /// Age beyond which entries are trimmed from the streams of routes, roughly, every 10 s [default: no limit]
    #[arg(long, env = "TALLYCAST_STREAM_MINID", value_name = "DURATION", value_parser = duration)]
    pub(super) stream_minid: Option<Duration>,
    /// Interval of status reports to the Redis hash admin_stream_status. Sent in staging and production only
    #[arg(long, env = "TALLYCAST_STATUS_INTERVAL", default_value = "5s", value_name = "DURATION", value_parser = duration)]
    pub(super) status_interval: Duration,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "General")]
pub(super) struct PipelineOptions {
    /// TOML file with values for these options, such as port = 8001. SIGHUP reads it again [default: none]
    #[arg(long, env = "TALLYCAST_CONFIG", value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Address to listen on
    #[arg(
        long,
        env = "TALLYCAST_ADDRESS",
        default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        value_name = "IP",
        value_parser = ip_address
    )]
    pub(super) address: IpAddr,
    /// Port to listen on; 0 picks a free one
    #[arg(long, env = "PORT", default_value_t = 8001, value_name = "NUMBER", value_parser = port)]
    pub(super) port: u16,
    /// Environment, part of the node name
    #[arg(long, env = "APP_ENV", default_value = "development", value_enum, value_name = "NAME")]
    pub(super) app_env: AppEnv,
    /// Name of this instance, the last part of the node name [default: the host name]
    #[arg(long, env = "DYNO", value_name = "NAME")]
    pub(super) instance: Option<String>,
    /// Log level: error, warn, info, debug or trace. Also accepts tracing-subscriber directives, such as
    /// info,tallycast::source=debug
    #[arg(long, env = "TALLYCAST_LOG", default_value = "info", value_name = "LEVEL", value_parser = log_filter)]
    pub(super) log: EnvFilter,
    /// Log format
    #[arg(long, env = "TALLYCAST_LOG_FORMAT", default_value = "text", value_enum, value_name = "FORMAT")]
    pub(super) log_format: LogFormat,
    /// Print the effective configuration and exit, as tallycast check does
    #[arg(long, env = "TALLYCAST_PRINT_CONFIG")]
    pub(super) print_config: bool,
    /// Time limit for a graceful shutdown. Remaining connections are then closed
    #[arg(
        long,
        env = "TALLYCAST_SHUTDOWN_LIMIT",
        default_value = duration_text(server().close_limit),
        value_name = "DURATION",
        value_parser = duration
    )]
    pub(super) shutdown_limit: Duration,
    /// Time for which connections are still accepted after a signal to stop, while /readyz already answers 503, so that a
    /// load balancer can send new clients elsewhere
    #[arg(
        long,
        env = "TALLYCAST_DRAIN_DELAY",
        default_value = duration_text(Duration::ZERO),
        value_name = "DURATION",
        value_parser = duration_or_zero
    )]
    pub(super) drain_delay: Duration,
    /// Time over which open streams end one by one before the shutdown, so that their clients do not come back all at
    /// once. Each event stream is sent a retry: field before its end
    #[arg(
        long,
        env = "TALLYCAST_DRAIN",
        default_value = duration_text(Duration::ZERO),
        value_name = "DURATION",
        value_parser = duration_or_zero
    )]
    pub(super) drain: Duration,
    /// Capacity of the inbox of each pipeline stage, in messages
    #[arg(long, env = "TALLYCAST_INBOX", default_value_t = engine().inbox, value_name = "COUNT", value_parser = count)]
    pub(super) inbox: usize,
    /// Size of the messages in the inbox of each pipeline stage, including those that the stage is processing
    #[arg(
        long,
        env = "TALLYCAST_INBOX_BYTES",
        default_value_t = Size(engine().inbox_bytes),
        value_name = "BYTES",
        value_parser = size::at_least(1)
    )]
    pub(super) inbox_bytes: Size,

    #[command(flatten)]
    pub(super) restart: RestartOptions,
    #[command(flatten)]
    pub(super) routing: RoutingOptions,
    #[command(flatten)]
    pub(super) readers: ReaderOptions,
    #[command(flatten)]
    pub(super) server: ServerOptions,
    #[command(flatten)]
    pub(super) publishing: PublishingOptions,
    #[command(flatten)]
    pub(super) tokens: TokenOptions,
    #[command(flatten)]
    pub(super) subscriptions: SubscriptionOptions,
    #[command(flatten)]
    pub(super) mercure: MercureOptions,
    #[command(flatten)]
    pub(super) realtime: RealtimeOptions,
    #[command(flatten)]
    pub(super) sessions: SessionOptions,
    #[command(flatten)]
    pub(super) unifrost: UnifrostOptions,
    #[command(flatten)]
    pub(super) ws_hub: WsHubOptions,
    #[command(flatten)]
    pub(super) connect: ConnectOptions,
    #[command(flatten)]
    pub(super) cluster: ClusterOptions,
    #[command(flatten)]
    pub(super) send_multiple: SendMultipleOptions,
    #[command(flatten)]
    pub(super) traces: TraceOptions,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Subscriptions")]
pub(super) struct SubscriptionOptions {
    /// Serve GET /subscriptions: who reads which topics, on all nodes that share the Redis server. It requires the admin token, if
    /// there is one
    #[arg(long, env = "TALLYCAST_SUBSCRIPTIONS")]
    pub(super) subscriptions: bool,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Publishing")]
pub(super) struct PublishingOptions {
    /// Key of programs that may publish by POST /publish and /count, which they send as a Bearer token. Repeatable [default: none
    /// (publishing is off)]
    #[arg(
        long = "publish-key",
        env = "TALLYCAST_PUBLISH_KEYS",
        value_delimiter = ';',
        value_name = "SECRET",
        hide_env_values = true,
        value_parser = publish_key
    )]
    pub(super) publish_keys: Vec<Secret>,
    /// Maximum number of messages per second for each publishing key, and in one burst. Further ones are answered with 429
    #[arg(long, env = "TALLYCAST_PUBLISH_RATE", default_value = "10000", value_name = "COUNT", value_parser = rate)]
    pub(super) publish_rate: NonZeroU32,
    /// Maximum size of a request to publish. A larger one is answered with 413
    #[arg(
        long,
        env = "TALLYCAST_MAX_PUBLISH_BYTES",
        default_value_t = Size(1024 * 1024),
        value_name = "BYTES",
        value_parser = size::at_least(1)
    )]
    pub(super) max_publish_bytes: Size,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Routes and tallies")]
pub(super) struct RoutingOptions {
    /// Route from channels of a source to a namespace. PATTERN is a channel name, or the start of one followed by *, or stream: and
    /// the key of a Redis stream. The NAMESPACE * is for streams whose entries name their own topics, of any form. In another NAMESPACE, * stands for the rest of the channel name, or for the field topic of a
    /// stream's entry, as one segment, and ** for the same text split at ':'. Options follow after commas: event=channel or
    /// event=NAME names the event, split=CHARS splits the text at other characters, sender=FIELD takes the sender from that
    /// field of payloads that are JSON objects, tally=NAMESPACE counts payloads there,
    /// history=BOUND keeps messages for readers that come later: 10m, 1000 (messages), 64MiB or last, private sends messages only to
    /// readers with a right of their own to the namespace. Repeatable
    #[arg(
        long = "route",
        env = "TALLYCAST_ROUTES",
        value_delimiter = ';',
        default_values = Routes::DEFAULTS,
        value_name = "PATTERN=NAMESPACE[,...]"
    )]
    pub(super) routes: Vec<Route>,
    /// Minimum time between two tallies
    #[arg(
        long,
        env = "TALLYCAST_TALLY_PERIOD",
        default_value = duration_text(tally::Config::default().period),
        value_name = "DURATION",
        value_parser = duration
    )]
    pub(super) tally_period: Duration,
    /// Maximum number of keys in a tally. Further keys wait until it is sent
    #[arg(
        long,
        env = "TALLYCAST_TALLY_KEYS",
        default_value_t = tally::Config::default().max_keys,
        value_name = "COUNT",
        value_parser = count
    )]
    pub(super) tally_keys: usize,
    /// Redis sorted set with the totals of a namespace. Readers can start with the totals (?snapshot=1), and receive
    /// corrections after an outage. The first one is also the source of /v1/rankings. Repeatable
    #[arg(
        long,
        env = "TALLYCAST_TOTALS",
        value_delimiter = ';',
        default_value = format!("/eps={DEFAULT_SCORES}"),
        value_name = "NAMESPACE=KEY"
    )]
    pub(super) totals: Vec<TotalsKey>,
    /// Maximum number of members in such a sorted set. Totals of a larger one are not served
    #[arg(
        long,
        env = "TALLYCAST_MAX_TOTALS",
        default_value_t = totals::Config::default().max_members,
        value_name = "COUNT",
        value_parser = count
    )]
    pub(super) max_totals: usize,
    /// Maximum size of such a sorted set: members and scores as JSON. Totals of a larger one are not served
    #[arg(
        long,
        env = "TALLYCAST_MAX_TOTALS_BYTES",
        default_value_t = Size(totals::Config::default().max_bytes),
        value_name = "BYTES",
        value_parser = size::at_most(MAX_TOTALS_BYTES)
    )]
    pub(super) max_totals_bytes: Size,
    /// Maximum time between two readings of the totals. They are also read right after an outage or lost events
    #[arg(
        long,
        env = "TALLYCAST_TOTALS_INTERVAL",
        default_value = duration_text(totals::Config::default().interval),
        value_name = "DURATION",
        value_parser = duration
    )]
    pub(super) totals_interval: Duration,
    /// Do not send corrections to readers whose totals are wrong after an outage
    #[arg(long, env = "TALLYCAST_NO_CORRECTIONS")]
    pub(super) no_corrections: bool,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Readers")]
pub(super) struct ReaderOptions {
    /// Policy for readers that fall behind further than the log of their feed goes back. disconnect closes the stream,
    /// skip continues with the newest message, merge sends the sum of the missed tallies, latest sends the newest missed
    /// message of each namespace. Applies to the namespace and
    /// those below it; other namespaces disconnect. Repeatable
    #[arg(
        long = "slow-reader",
        env = "TALLYCAST_SLOW_READERS",
        value_delimiter = ';',
        default_value = "/eps=merge",
        value_name = "NAMESPACE=POLICY"
    )]
    pub(super) slow_readers: Vec<NamespacePolicy>,
    /// Number of tasks that write to connections [default: one per core]
    #[arg(long, env = "TALLYCAST_SHARDS", value_name = "COUNT", value_parser = count)]
    pub(super) shards: Option<usize>,
    /// Length of the log of each feed, in batches of messages
    #[arg(
        long,
        env = "TALLYCAST_LOG_BATCHES",
        default_value_t = engine().log_batches,
        value_name = "COUNT",
        value_parser = count
    )]
    pub(super) log_batches: usize,
    /// Size of the log of each feed
    #[arg(
        long,
        env = "TALLYCAST_LOG_BYTES",
        default_value_t = Size(engine().log_bytes),
        value_name = "BYTES",
        value_parser = size::at_least(1)
    )]
    pub(super) log_bytes: Size,
    /// Size of everything that waits for readers, together: all logs, snapshots, and what is kept for single readers. Beyond
    /// it, the readers that have been behind for longest are disconnected
    #[arg(
        long,
        env = "TALLYCAST_TOTAL_LOG_BYTES",
        default_value_t = Size(engine().total_log_bytes),
        value_name = "BYTES",
        value_parser = size::at_least(1)
    )]
    pub(super) total_log_bytes: Size,
    /// Size of what is left of messages that were merged or conflated for slow readers and for max-rate, together. Beyond
    /// it, the readers that share the most are disconnected
    #[arg(
        long,
        env = "TALLYCAST_MERGED_BYTES",
        default_value_t = Size(engine().merged_bytes),
        value_name = "BYTES",
        value_parser = size::at_least(1)
    )]
    pub(super) merged_bytes: Size,
    /// Size of the messages that routes with history= keep, together. Beyond it the oldest are dropped, whatever their
    /// route says
    #[arg(
        long,
        env = "TALLYCAST_HISTORY_BYTES",
        default_value_t = Size(engine().history_bytes),
        value_name = "BYTES",
        value_parser = size::at_least(1)
    )]
    pub(super) history_bytes: Size,
    /// Size of what is being sent to readers that catch up from the history, together. Further readers wait
    #[arg(
        long,
        env = "TALLYCAST_REPLAY_BYTES",
        default_value_t = Size(engine().replay_bytes),
        value_name = "BYTES",
        value_parser = size::at_least(1)
    )]
    pub(super) replay_bytes: Size,
    /// Silence on a connection after which a keep-alive is sent: a comment, or a ping over WebSocket
    #[arg(
        long,
        env = "TALLYCAST_KEEP_ALIVE",
        default_value = duration_text(engine().keep_alive),
        value_name = "DURATION",
        value_parser = duration
    )]
    pub(super) keep_alive: Duration,
    /// Time limit for a WebSocket client to answer a ping
    #[arg(
        long,
        env = "TALLYCAST_PONG_LIMIT",
        default_value = duration_text(engine().pong_timeout),
        value_name = "DURATION",
        value_parser = duration
    )]
    pub(super) pong_limit: Duration,
    /// Time after which a client that accepts no data is disconnected, whatever it reads and by which protocol
    #[arg(
        long,
        env = "TALLYCAST_STALL_LIMIT",
        default_value = duration_text(engine().stall_timeout),
        value_name = "DURATION",
        value_parser = duration
    )]
    pub(super) stall_limit: Duration,
    /// Size of the kernel's send buffer of each connection
    #[arg(
        long,
        env = "TALLYCAST_SEND_BUFFER",
        default_value_t = Size(256 * 1024),
        value_name = "BYTES",
        value_parser = size::at_most(MAX_SEND_BUFFER)
    )]
    pub(super) send_buffer: Size,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "HTTP")]
pub(super) struct ServerOptions {
    /// Maximum number of open connections. Further ones are answered with 503. An HTTP/2 connection counts as often as it has
    /// open requests. Lowered at start to what the limit on open files allows
    #[arg(
        long,
        env = "TALLYCAST_MAX_CONNECTIONS",
        default_value_t = server().max_connections,
        value_name = "COUNT",
        value_parser = count
    )]
    pub(super) max_connections: usize,
    /// Maximum number of open connections per client address (IPv6: per /64 network). Further ones are answered with
    /// 429 [default: no limit]
    #[arg(long, env = "TALLYCAST_MAX_PER_ADDRESS", value_name = "COUNT", value_parser = count)]
    pub(super) max_per_address: Option<usize>,
    /// Maximum number of new connections per second and client address (IPv6: per /64 network). As many may come at
    /// once; further ones are answered with 429 [default: no limit]
    #[arg(long, env = "TALLYCAST_RATE_PER_ADDRESS", value_name = "COUNT", value_parser = rate)]
    pub(super) rate_per_address: Option<NonZeroU32>,
    /// Maximum number of open streams that read a namespace or those below it, also by a parent or a wildcard. Further
    /// ones are answered with 503. Repeatable [default: no limit]
    #[arg(
        long = "namespace-limit",
        env = "TALLYCAST_NAMESPACE_LIMITS",
        value_delimiter = ';',
        value_name = "NAMESPACE=COUNT"
    )]
    pub(super) namespace_limits: Vec<NamespaceLimit>,
    /// Maximum number of topics of a stream, at most 4096. A request with more is answered with 400, a command over WebSocket
    /// with an error. The limits of the size of both apply beside it
    #[arg(
        long,
        env = "TALLYCAST_MAX_TOPICS",
        default_value_t = server().max_topics,
        value_name = "COUNT",
        value_parser = topic_count
    )]
    pub(super) max_topics: usize,
    /// Size of the topics of the open streams per client address (IPv6: per /64 network): about 500 bytes and the
    /// length of the path per stream, and 256 bytes and twice its length per topic. Further ones are answered with 429
    #[arg(
        long,
        env = "TALLYCAST_MAX_TOPIC_BYTES_PER_ADDRESS",
        default_value_t = Size(server().max_topic_bytes_per_address),
        value_name = "BYTES",
        value_parser = size::at_least(1)
    )]
    pub(super) max_topic_bytes_per_address: Size,
    /// Size of the topics of all open streams together. Further ones are answered with 503
    #[arg(
        long,
        env = "TALLYCAST_MAX_TOPIC_BYTES",
        default_value_t = Size(server().max_topic_bytes),
        value_name = "BYTES",
        value_parser = size::at_least(1)
    )]
    pub(super) max_topic_bytes: Size,
    /// Network of trusted proxies. They send the client address by the PROXY protocol (version 1 or 2) or in a request
    /// header. Repeatable [default: none]
    #[arg(
        long = "trusted-proxy",
        env = "TALLYCAST_TRUSTED_PROXIES",
        value_delimiter = ';',
        value_name = "NETWORK",
        value_parser = network
    )]
    pub(super) trusted_proxies: Vec<IpNet>,
    /// Request header in which trusted proxies send the client address
    #[arg(
        long,
        env = "TALLYCAST_CLIENT_ADDRESS_HEADER",
        default_value = name_of::<ClientAddressHeaderOption, _>(server().client_address_header),
        value_enum,
        value_name = "NAME"
    )]
    pub(super) client_address_header: ClientAddressHeaderOption,
    /// Streams to compress with gzip or zstd for clients that accept it. Some proxies hold compressed streams back
    #[arg(
        long,
        env = "TALLYCAST_COMPRESSION",
        default_value = name_of::<CompressionOption, _>(server().compression),
        value_enum,
        value_name = "WHICH"
    )]
    pub(super) compression: CompressionOption,
    /// Origin (scheme, host and port) whose pages may read streams and open WebSockets; * is any. Pages of this server and
    /// clients other than browsers always may. Repeatable
    #[arg(
        long = "allowed-origin",
        env = "TALLYCAST_ALLOWED_ORIGINS",
        value_delimiter = ';',
        default_values = server().allowed_origins.iter().map(ToString::to_string).collect::<Vec<_>>(),
        value_name = "ORIGIN"
    )]
    pub(super) allowed_origins: Vec<AllowedOrigin>,
    /// Pause before a client of an event stream connects again, sent as a retry: field at the start of each stream. Varied
    /// by half for each client [default: none is sent]
    #[arg(long, env = "TALLYCAST_RETRY", value_name = "DURATION", value_parser = duration)]
    pub(super) retry: Option<Duration>,
    /// Maximum number of messages per second from a WebSocket client, pings and pongs included. As many may come at
    /// once; a client that sends more is disconnected
    #[arg(
        long,
        env = "TALLYCAST_MESSAGE_RATE",
        default_value_t = server().websocket.message_rate,
        value_name = "COUNT",
        value_parser = rate
    )]
    pub(super) message_rate: NonZeroU32,
    /// Maximum size of a message from a WebSocket client. A client that sends a larger one is disconnected
    #[arg(
        long,
        env = "TALLYCAST_MAX_MESSAGE_BYTES",
        default_value_t = Size(server().websocket.max_message),
        value_name = "BYTES",
        value_parser = size::at_least(1)
    )]
    pub(super) max_message_bytes: Size,
    /// Time limit for a client to send its request headers
    #[arg(
        long,
        env = "TALLYCAST_HEAD_TIMEOUT",
        default_value = duration_text(server().head_timeout),
        value_name = "DURATION",
        value_parser = duration
    )]
    pub(super) head_timeout: Duration,
    /// Time for which a connection without a request is kept open. Behind a proxy that keeps connections to its backends, longer
    /// than it keeps them
    #[arg(
        long,
        env = "TALLYCAST_IDLE_TIMEOUT",
        default_value = duration_text(server().idle_timeout),
        value_name = "DURATION",
        value_parser = duration
    )]
    pub(super) idle_timeout: Duration,
    /// Time after which a connection is closed whose client has vanished from the network. At least --stall-limit
    #[arg(
        long,
        env = "TALLYCAST_PEER_TIMEOUT",
        default_value = duration_text(server().peer_timeout),
        value_name = "DURATION",
        value_parser = duration
    )]
    pub(super) peer_timeout: Duration,
    /// Maximum size of the request headers, at least 8KiB
    #[arg(
        long,
        env = "TALLYCAST_MAX_HEAD_BYTES",
        default_value_t = Size(server().max_head_bytes),
        value_name = "BYTES",
        value_parser = size::at_least(MIN_HEAD_BYTES)
    )]
    pub(super) max_head_bytes: Size,
    /// Maximum size of a request target (path and query), less than --max-head-bytes. Requests with a larger one are answered
    /// with 414
    #[arg(
        long,
        env = "TALLYCAST_MAX_TARGET_BYTES",
        default_value_t = Size(server().max_target_bytes),
        value_name = "BYTES",
        value_parser = size::between(1, MAX_TARGET_BYTES)
    )]
    pub(super) max_target_bytes: Size,
    /// Server certificate, followed by its intermediate certificates, in PEM. Clients then connect over HTTPS, with HTTP/2
    /// or HTTP/1.1 [default: none (plain HTTP)]
    #[arg(long, env = "TALLYCAST_TLS_CERT", value_name = "FILE")]
    pub(super) tls_cert: Option<PathBuf>,
    /// Private key of the server certificate, in PEM [default: none]
    #[arg(long, env = "TALLYCAST_TLS_KEY", value_name = "FILE")]
    pub(super) tls_key: Option<PathBuf>,
    /// Token that /admin and /metrics require. Clients send it as a Bearer token; browsers ask for it as a password, with
    /// any user name [default: none (open to everyone)]
    #[arg(
        long,
        env = "TALLYCAST_ADMIN_TOKEN",
        value_name = "SECRET",
        hide_env_values = true,
        value_parser = admin_token
    )]
    pub(super) admin_token: Option<Secret>,
    /// Show everything on the admin page, but refuse to publish messages and to end connections there
    #[arg(long, env = "TALLYCAST_ADMIN_READ_ONLY")]
    pub(super) admin_read_only: bool,
    /// Do not serve /admin and /metrics
    #[arg(long, env = "TALLYCAST_NO_ADMIN")]
    pub(super) no_admin: bool,
}

/// Which streams are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum CompressionOption {
    /// No streams.
    Off,
    /// Streams without a proxy: neither a trusted one, nor one that sends a via header.
    Direct,
    /// All streams.
    Always,
}

impl From<CompressionOption> for Compression {
    fn from(option: CompressionOption) -> Self {
        match option {
            CompressionOption::Off => Self::Off,
            CompressionOption::Direct => Self::Direct,
            CompressionOption::Always => Self::Always,
        }
    }
}

/// A header with the client address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ClientAddressHeaderOption {
    /// A list of addresses, to which each proxy appends the address of its client.
    XForwardedFor,
    /// The standard header (RFC 7239).
    Forwarded,
}

impl From<ClientAddressHeaderOption> for ClientAddressHeader {
    fn from(option: ClientAddressHeaderOption) -> Self {
        match option {
            ClientAddressHeaderOption::XForwardedFor => Self::XForwardedFor,
            ClientAddressHeaderOption::Forwarded => Self::Forwarded,
        }
    }
}

/// The environment that the process runs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum AppEnv {
    /// Sends no status reports to Redis.
    Development,
    /// Reports its status to Redis.
    Staging,
    /// Reports its status to Redis.
    Production,
}

/// The format of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines of text, with colors on a terminal.
    Text,
    /// One JSON object per line.
    Json,
}

/// The engine's defaults.
fn engine() -> tallycast_fanout::Config {
    tallycast_fanout::Config::default()
}

/// The server's defaults.
fn server() -> tallycast_server::Config {
    tallycast_server::Config::default()
}

/// The name that an option has for a stage's default. Empty, and refused as a value, if it has none.
fn name_of<O: ValueEnum + Copy, T: From<O> + PartialEq>(default: T) -> String {
    let option = O::value_variants().iter().find(|&&option| T::from(option) == default);
    option.and_then(O::to_possible_value).map_or_else(String::new, |value| value.get_name().to_owned())
}

/// Every flag of a command and its subcommands, by name.
pub(super) fn all(definition: &clap::Command) -> impl Iterator<Item = (&str, &clap::Arg)> {
    std::iter::once(definition)
        .chain(definition.get_subcommands())
        .flat_map(clap::Command::get_arguments)
        .filter_map(|argument| Some((argument.get_long()?, argument)))
}

/// The flag `--name` of a command or one of its subcommands.
pub(super) fn find<'a>(definition: &'a clap::Command, name: &str) -> Option<&'a clap::Arg> {
    all(definition).find(|(long, _)| *long == name).map(|(_, argument)| argument)
}
