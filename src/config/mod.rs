//! Command line, environment and configuration file -> the stages' own configs. Nothing else reads the environment.
//!
//! A flag wins over its variable, and both over the file.

mod file;

use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;

use crate::admin::Token;
use crate::decode::{Route, Routes};
use crate::redis_client::RedisUrl;
use crate::totals::{self, TotalsKey};
use crate::{source, tally};
use file::File;
use tallycast_fanout::NamespacePolicy;
use tallycast_server::{AllowedOrigin, ClientAddressHeader as AddressHeader, Compression, NamespaceLimit};

/// The exit code for a wrong flag or variable (`EX_USAGE` of sysexits).
pub const EXIT_USAGE: u8 = 64;
/// The exit code when something that is needed to start is not there (`EX_UNAVAILABLE` of sysexits).
pub const EXIT_UNAVAILABLE: u8 = 69;

/// Broadcasts events from Redis pub/sub to any number of browsers over Server-Sent Events.
///
/// Without a subcommand it serves, as `tallycast serve` does. A flag wins over its environment variable, and both over
/// the configuration file, whose keys are the flags' names without the dashes. Durations are written like 17ms, 10s or 2m.
#[derive(Debug, Parser)]
#[command(name = "tallycast", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Subcommands>,
    #[command(flatten)]
    serve: ServeOptions,
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    /// Serve what Redis publishes (the default)
    Serve(Box<ServeOptions>),
    /// Serve made-up traffic from inside the process: no Redis needed
    Demo(Box<DemoOptions>),
    /// Say what is effective, with secrets masked, and where each value comes from; exit 0 if all is right, 64 if not
    Check(Box<ServeOptions>),
    /// Ask a running tallycast on this machine whether it is alive; exit 0 if it is, 1 if not
    Healthcheck(HealthcheckOptions),
}

/// Options of `tallycast serve`.
#[derive(Debug, Clone, Args)]
pub struct ServeOptions {
    #[command(flatten)]
    broker: BrokerOptions,
    #[command(flatten)]
    pipeline: PipelineOptions,
}

/// Options of `tallycast demo`.
#[derive(Debug, Clone, Args)]
pub struct DemoOptions {
    /// Made-up updates a second
    #[arg(long, env = "TALLYCAST_DEMO_RATE", default_value = "250", value_name = "PER_SECOND")]
    pub rate: NonZeroU32,
    /// The same seed gives the same updates
    #[arg(long, env = "TALLYCAST_DEMO_SEED", default_value_t = 1, value_name = "NUMBER")]
    pub seed: u64,
    #[command(flatten)]
    pipeline: PipelineOptions,
}

/// Options of `tallycast healthcheck`.
#[derive(Debug, Clone, Args)]
pub struct HealthcheckOptions {
    /// The port that the running tallycast listens on
    #[arg(long, env = "PORT", default_value_t = 8001)]
    pub port: u16,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Redis")]
struct BrokerOptions {
    /// Where events come from: redis:// or rediss:// (TLS), with user, password and database where needed. Put
    /// #insecure after a rediss:// URL to accept a certificate that nobody vouches for, as Heroku's Redis has
    #[arg(
        long,
        env = "REDIS_URL",
        default_value = "redis://localhost:6379",
        value_name = "URL",
        hide_env_values = true
    )]
    redis_url: RedisUrl,
    /// Exit when Redis cannot be reached at the start, instead of trying on
    #[arg(long, env = "TALLYCAST_REQUIRE_BROKER")]
    require_broker: bool,
    /// How long Redis may take to accept a connection or to answer
    #[arg(long, env = "TALLYCAST_REDIS_TIMEOUT", default_value = "5s", value_name = "DURATION", value_parser = duration)]
    redis_timeout: Duration,
    /// Silence after which Redis is asked whether it is still there
    #[arg(long, env = "TALLYCAST_REDIS_PING", default_value = "5s", value_name = "DURATION", value_parser = duration)]
    redis_ping: Duration,
    /// How often the status goes to the Redis hash admin_stream_status, in staging and production
    #[arg(long, env = "TALLYCAST_STATUS_INTERVAL", default_value = "5s", value_name = "DURATION", value_parser = duration)]
    status_interval: Duration,
}

#[derive(Debug, Clone, Args)]
struct PipelineOptions {
    /// A TOML file with values for the flags below, such as port = 8001. SIGHUP reads it again [default: none]
    #[arg(long, env = "TALLYCAST_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The address to listen on
    #[arg(long, env = "TALLYCAST_ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED), value_name = "IP")]
    address: IpAddr,
    /// The port to listen on; 0 takes any that is free
    #[arg(long, env = "PORT", default_value_t = 8001)]
    port: u16,
    /// Where this runs: decides whether the status is reported to Redis, and stands in the node's name
    #[arg(long, env = "APP_ENV", default_value = "development", value_enum, value_name = "NAME")]
    app_env: AppEnv,
    /// The name of this instance among others, the end of the node's name [default: the host's name]
    #[arg(long, env = "DYNO", value_name = "NAME")]
    instance: Option<String>,
    /// What to log: error, warn, info, debug or trace, or tracing-subscriber directives
    #[arg(long, env = "TALLYCAST_LOG", default_value = "info", value_name = "LEVEL")]
    log: String,
    /// Print the effective configuration, with secrets masked, and exit
    #[arg(long, env = "TALLYCAST_PRINT_CONFIG")]
    print_config: bool,
    /// How long a shutdown may take before what is left is cut off
    #[arg(long, env = "TALLYCAST_SHUTDOWN_LIMIT", default_value = "10s", value_name = "DURATION", value_parser = duration)]
    shutdown_limit: Duration,
    /// Events, keys or messages that may wait before each stage
    #[arg(long, env = "TALLYCAST_INBOX", default_value_t = 16_384, value_name = "COUNT", value_parser = at_least_one)]
    inbox: usize,

    #[command(flatten)]
    routing: RoutingOptions,
    #[command(flatten)]
    readers: ReaderOptions,
    #[command(flatten)]
    server: ServerOptions,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Routes and tallies")]
struct RoutingOptions {
    /// From which channels to which namespace. PATTERN is a channel, or the beginning of one and *. In NAMESPACE, *
    /// stands for the rest as one segment and ** for the rest split at ':'. Then, each after a comma: event=channel or
    /// event=NAME names the event, split=CHARS splits the rest at these, tally=NAMESPACE counts payloads there. May be
    /// given several times (in the variable, separated by ';')
    #[arg(
        long = "route",
        env = "TALLYCAST_ROUTES",
        value_delimiter = ';',
        default_values = Routes::DEFAULTS,
        value_name = "PATTERN=NAMESPACE[,...]"
    )]
    routes: Vec<Route>,
    /// At most one tally is sent in this time
    #[arg(long, env = "TALLYCAST_TALLY_PERIOD", default_value = "17ms", value_name = "DURATION", value_parser = duration)]
    tally_period: Duration,
    /// Different keys that a tally may hold before counting waits for it to be sent
    #[arg(long, env = "TALLYCAST_TALLY_KEYS", default_value_t = 65_536, value_name = "COUNT", value_parser = at_least_one)]
    tally_keys: usize,
    /// Which sorted set in Redis has the totals of a namespace: what each member's tallies add up to. Readers may begin
    /// with them (?snapshot=1), and are sent the difference after an outage. The first is what /v1/rankings shows. May
    /// be given several times (in the variable, separated by ';')
    #[arg(
        long,
        env = "TALLYCAST_TOTALS",
        value_delimiter = ';',
        default_value = "/eps=emojitrack_score",
        value_name = "NAMESPACE=KEY"
    )]
    totals: Vec<TotalsKey>,
    /// Members that such a sorted set may have; with more there are no totals
    #[arg(long, env = "TALLYCAST_MAX_TOTALS", default_value_t = 100_000, value_name = "COUNT", value_parser = at_least_one)]
    max_totals: usize,
    /// The longest time between two readings of the totals. They are read after each outage and each loss at once
    #[arg(long, env = "TALLYCAST_TOTALS_INTERVAL", default_value = "30s", value_name = "DURATION", value_parser = duration)]
    totals_interval: Duration,
    /// Do not send readers the difference when their totals turn out to be wrong after an outage
    #[arg(long, env = "TALLYCAST_NO_CORRECTIONS")]
    no_corrections: bool,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Readers")]
struct ReaderOptions {
    /// What happens to a reader that falls behind further than the log goes back: disconnect, skip (to the newest), or
    /// merge (sum the tallies it missed). Holds for the namespace and those below it; elsewhere: disconnect. May be
    /// given several times (in the variable, separated by ';')
    #[arg(
        long = "slow-reader",
        env = "TALLYCAST_SLOW_READERS",
        value_delimiter = ';',
        default_value = "/eps=merge",
        value_name = "NAMESPACE=POLICY"
    )]
    slow_readers: Vec<NamespacePolicy>,
    /// Tasks that write to connections [default: one for each core]
    #[arg(long, env = "TALLYCAST_SHARDS", value_name = "COUNT", value_parser = at_least_one)]
    shards: Option<usize>,
    /// Batches that a feed's log goes back
    #[arg(long, env = "TALLYCAST_LOG_BATCHES", default_value_t = 256, value_name = "COUNT", value_parser = at_least_one)]
    log_batches: usize,
    /// Bytes that a feed's log goes back
    #[arg(long, env = "TALLYCAST_LOG_BYTES", default_value_t = 4 << 20, value_name = "BYTES", value_parser = at_least_one)]
    log_bytes: usize,
    /// Bytes of all logs of one shard together
    #[arg(long, env = "TALLYCAST_TOTAL_LOG_BYTES", default_value_t = 256 << 20, value_name = "BYTES", value_parser = at_least_one)]
    total_log_bytes: usize,
    /// Keys that the tallies merged for one reader may have before it is disconnected
    #[arg(long, env = "TALLYCAST_MERGED_KEYS", default_value_t = 100_000, value_name = "COUNT", value_parser = at_least_one)]
    merged_keys: usize,
    /// Silence on a connection after which a comment is sent
    #[arg(long, env = "TALLYCAST_KEEP_ALIVE", default_value = "15s", value_name = "DURATION", value_parser = duration)]
    keep_alive: Duration,
    /// How long a WebSocket's client may take to answer a ping, which is sent where others get a comment
    #[arg(long, env = "TALLYCAST_PONG_LIMIT", default_value = "15s", value_name = "DURATION", value_parser = duration)]
    pong_limit: Duration,
    /// How long a reader may take nothing at all before it is disconnected
    #[arg(long, env = "TALLYCAST_STALL_LIMIT", default_value = "60s", value_name = "DURATION", value_parser = duration)]
    stall_limit: Duration,
    /// What the kernel may hold of what a client has not read
    #[arg(long, env = "TALLYCAST_SEND_BUFFER", default_value_t = 256 << 10, value_name = "BYTES")]
    send_buffer: u32,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "HTTP")]
struct ServerOptions {
    /// Connections at the same time; more are answered with 503
    #[arg(long, env = "TALLYCAST_MAX_CONNECTIONS", default_value_t = 50_000, value_name = "COUNT", value_parser = at_least_one)]
    max_connections: usize,
    /// Connections at the same time from one address (IPv6: one /64); more are answered with 429 [default: no limit]
    #[arg(long, env = "TALLYCAST_MAX_PER_ADDRESS", value_name = "COUNT", value_parser = at_least_one)]
    max_per_address: Option<usize>,
    /// New connections a second from one address (IPv6: one /64), and as many at once; more are answered with 429
    /// [default: no limit]
    #[arg(long, env = "TALLYCAST_RATE_PER_ADDRESS", value_name = "COUNT")]
    rate_per_address: Option<NonZeroU32>,
    /// Streams at the same time that read a namespace or something below it; more are answered with 503. May be given
    /// several times (in the variable, separated by ';') [default: no limit]
    #[arg(
        long = "namespace-limit",
        env = "TALLYCAST_NAMESPACE_LIMITS",
        value_delimiter = ';',
        value_name = "NAMESPACE=COUNT"
    )]
    namespace_limits: Vec<NamespaceLimit>,
    /// A network of proxies that are believed where a connection comes from, by the PROXY protocol (1 and 2) or a header.
    /// May be given several times (in the variable, separated by ';') [default: none]
    #[arg(
        long = "trusted-proxy",
        env = "TALLYCAST_TRUSTED_PROXIES",
        value_delimiter = ';',
        value_name = "NETWORK",
        value_parser = network
    )]
    trusted_proxies: Vec<IpNet>,
    /// The header in which trusted proxies tell the client's address
    #[arg(
        long,
        env = "TALLYCAST_CLIENT_ADDRESS_HEADER",
        default_value = "x-forwarded-for",
        value_enum,
        value_name = "NAME"
    )]
    client_address_header: ClientAddressHeader,
    /// Which streams are compressed, by gzip or zstd, for clients that accept it: none; those that no proxy is seen in
    /// front of (by a via header, or --trusted-proxy), because proxies may hold compressed streams back; or all
    #[arg(long, env = "TALLYCAST_COMPRESSION", default_value = "direct", value_enum, value_name = "WHICH")]
    compression: CompressionOption,
    /// An origin (scheme://host:port) whose pages may read streams and open WebSockets; * is any. Pages of this
    /// server and clients other than browsers always may. May be given several times (in the variable, separated by ';')
    #[arg(
        long = "allowed-origin",
        env = "TALLYCAST_ALLOWED_ORIGINS",
        value_delimiter = ';',
        default_value = "*",
        value_name = "ORIGIN"
    )]
    allowed_origins: Vec<AllowedOrigin>,
    /// Messages, pings and pongs a second that a WebSocket's client may send, and as many at once; with more it is
    /// disconnected
    #[arg(long, env = "TALLYCAST_MESSAGE_RATE", default_value = "20", value_name = "COUNT")]
    message_rate: NonZeroU32,
    /// Bytes of a message that a WebSocket's client may send; with more it is disconnected
    #[arg(long, env = "TALLYCAST_MAX_MESSAGE_BYTES", default_value_t = 16 << 10, value_name = "BYTES", value_parser = at_least_one)]
    max_message_bytes: usize,
    /// How long a request's head may take to come
    #[arg(long, env = "TALLYCAST_HEAD_TIMEOUT", default_value = "10s", value_name = "DURATION", value_parser = duration)]
    head_timeout: Duration,
    /// Bytes that a request's head may have
    #[arg(long, env = "TALLYCAST_MAX_HEAD_BYTES", default_value_t = 16 << 10, value_name = "BYTES", value_parser = head_bytes)]
    max_head_bytes: usize,
    /// The server's certificate, with those between it and an authority, in PEM: clients then speak HTTPS, by HTTP/2 or
    /// HTTP/1.1 [default: none, so that clients speak plain HTTP]
    #[arg(long, env = "TALLYCAST_TLS_CERT", value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// The certificate's private key, in PEM [default: none]
    #[arg(long, env = "TALLYCAST_TLS_KEY", value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// What clients must have to see /admin and /metrics: as Bearer, or in browsers as the password of any user
    /// [default: none, so that everybody sees them]
    #[arg(long, env = "TALLYCAST_ADMIN_TOKEN", value_name = "SECRET", hide_env_values = true)]
    admin_token: Option<Token>,
    /// Serve neither /admin nor /metrics
    #[arg(long, env = "TALLYCAST_NO_ADMIN")]
    no_admin: bool,
}

/// Which streams are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CompressionOption {
    /// None.
    Off,
    /// Those without a proxy.
    Direct,
    /// All.
    Always,
}

/// A header with the client's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ClientAddressHeader {
    /// A list of addresses.
    XForwardedFor,
    /// RFC 7239.
    Forwarded,
}

/// Where the process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AppEnv {
    /// On a developer's machine: no status reports.
    Development,
    /// Before production.
    Staging,
    /// For real.
    Production,
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Command {
    /// Run the pipeline.
    Run(Box<Config>),
    /// Print this and exit.
    Print(String),
    /// Ask the tallycast at this port whether it is alive.
    Healthcheck(u16),
}

/// Where events come from.
#[derive(Debug)]
pub enum Source {
    /// A Redis server.
    Redis(Box<source::redis::Config>),
    /// The sandbox's generator.
    Demo(Box<DemoOptions>),
}

/// The stages' configs.
#[derive(Debug)]
pub struct Config {
    /// Stage 1.
    pub source: Source,
    /// Stage 2.
    pub routes: Routes,
    /// Stage 3.
    pub tally: tally::Config,
    /// Where the totals of namespaces are.
    pub totals: Vec<TotalsKey>,
    /// The sorted set that rankings are read from.
    pub scores: String,
    /// Members that each of them may have.
    pub max_totals: usize,
    /// Stage 4.
    pub fanout: tallycast_fanout::Config,
    /// The HTTP server.
    pub server: tallycast_server::Config,
    /// Whether there are pages for operators.
    pub admin: bool,
    /// What clients must have to see them.
    pub admin_token: Option<Token>,
    /// What the HTTP server listens on.
    pub address: SocketAddr,
    /// What the kernel may hold of what a client has not read, in bytes.
    pub send_buffer: u32,
    /// The room in each stage's inbox.
    pub inbox: usize,
    /// The node's name: `<platform>-<env>-<instance>`.
    pub node: String,
    /// How often the status goes to Redis, if it does.
    pub status_interval: Option<Duration>,
    /// How long a shutdown may take.
    pub shutdown_limit: Duration,
    /// What to log.
    pub log: tracing_subscriber::EnvFilter,
    /// All of it as it was given, for those who compare.
    pub options: Vec<EffectiveOption>,
}

/// Why there is no [`Command`].
#[derive(Debug)]
pub enum Refusal {
    /// `--help` or `--version` was asked for; the text to print.
    Help(Box<clap::Error>),
    /// A value is wrong, in one line.
    Mistake(String),
}

impl Refusal {
    /// Prints it where it belongs. Returns the exit code: 0 for help, [`EXIT_USAGE`] for a mistake.
    #[expect(clippy::print_stderr, reason = "before the log is set up, and for people")]
    pub fn print(&self) -> ExitCode {
        match self {
            Self::Help(help) => {
                // Whoever closed the pipe does not want the rest.
                let _ = help.print();
                ExitCode::SUCCESS
            }
            Self::Mistake(line) => {
                eprintln!("tallycast: {line}");
                ExitCode::from(EXIT_USAGE)
            }
        }
    }
}

/// Reads the command line, the environment, and the file that they name.
///
/// # Errors
/// When help is asked for, or a value is wrong.
pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, Refusal> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let command = Cli::command();
    let file = match file_named(&command, &arguments) {
        Some(path) => File::read(&path, &command).map_err(|error| Refusal::Mistake(error.to_string()))?,
        None => File::default(),
    };
    let command = file.apply(command);
    let explain = |error| explain(error, &command, &arguments, &file);
    let matches = command.clone().try_get_matches_from(&arguments).map_err(explain)?;
    let cli = Cli::from_arg_matches(&matches).map_err(explain)?;
    let (name, chosen) = matches.subcommand().unwrap_or(("serve", &matches));
    let mut check = false;
    let (pipeline, source) = match cli.command {
        Some(Subcommands::Healthcheck(options)) => return Ok(Command::Healthcheck(options.port)),
        Some(Subcommands::Demo(options)) => (options.pipeline.clone(), Err(options)),
        Some(Subcommands::Check(options)) => {
            check = true;
            (options.pipeline, Ok(options.broker))
        }
        Some(Subcommands::Serve(options)) => (options.pipeline, Ok(options.broker)),
        None => (cli.serve.pipeline, Ok(cli.serve.broker)),
    };
    let print = check || pipeline.print_config;
    let options = effective(&command, name, chosen, &file);
    let mut config = compose(pipeline, source).map_err(Refusal::Mistake)?;
    if print {
        let text = options.iter().map(|option| format!("{option}\n")).collect();
        return Ok(Command::Print(text));
    }
    config.options = options;
    Ok(Command::Run(Box::new(config)))
}

/// The file that a flag or the variable names. Whatever else is wrong is found later.
fn file_named(command: &clap::Command, arguments: &[OsString]) -> Option<PathBuf> {
    let matches = command.clone().ignore_errors(true).try_get_matches_from(arguments).ok()?;
    let (_, chosen) = matches.subcommand().unwrap_or(("", &matches));
    chosen.try_get_one::<PathBuf>("config").ok().flatten().cloned()
}

fn compose(pipeline: PipelineOptions, source: Result<BrokerOptions, Box<DemoOptions>>) -> Result<Config, String> {
    let routing = pipeline.routing;
    let routes = Routes::new(routing.routes).map_err(|error| format!("--route: {error}"))?;
    if pipeline.server.admin_token.as_ref().is_some_and(Token::is_empty) {
        return Err(
            "--admin-token: it is empty; expected a secret (leave it out to let everybody see /admin)".to_owned()
        );
    }
    let tls = match (&pipeline.server.tls_cert, &pipeline.server.tls_key) {
        (Some(certificates), Some(key)) => Some(
            tallycast_server::Tls::read(certificates, key)
                .map_err(|error| format!("--tls-cert, --tls-key: {error}"))?,
        ),
        (None, None) => None,
        (Some(_), None) => return Err("--tls-cert needs --tls-key: the certificate's private key".to_owned()),
        (None, Some(_)) => return Err("--tls-key needs --tls-cert: the key's certificate".to_owned()),
    };
    let log = pipeline
        .log
        .parse()
        .map_err(|error| format!("--log {:?}: {error}; expected error, warn, info, debug or trace", pipeline.log))?;
    let instance =
        pipeline.instance.unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned());
    let env = pipeline.app_env.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
    let mut status_interval = None;
    let source = match source {
        Ok(broker) => {
            status_interval = (pipeline.app_env != AppEnv::Development).then_some(broker.status_interval);
            let mut config =
                source::redis::Config::new(broker.redis_url).map_err(|error| format!("--redis-url: {error}"))?;
            config.require_broker = broker.require_broker;
            config.timeout = broker.redis_timeout;
            config.ping_interval = broker.redis_ping;
            config.totals = totals::Config {
                keys: routing.totals.clone(),
                max_members: routing.max_totals,
                interval: routing.totals_interval,
            };
            Source::Redis(Box::new(config))
        }
        Err(demo) => Source::Demo(demo),
    };
    let readers = pipeline.readers;
    let mut fanout = tallycast_fanout::Config::default();
    fanout.shards = readers.shards.unwrap_or(fanout.shards);
    fanout.log_batches = readers.log_batches;
    fanout.log_bytes = readers.log_bytes;
    fanout.total_log_bytes = readers.total_log_bytes;
    fanout.merged_keys = readers.merged_keys;
    fanout.policies = readers.slow_readers;
    fanout.totals = routing.totals.iter().map(|totals| totals.namespace.clone()).collect();
    fanout.max_totals = routing.max_totals;
    fanout.corrections = !routing.no_corrections;
    fanout.keep_alive = readers.keep_alive;
    fanout.pong_timeout = readers.pong_limit;
    fanout.stall_timeout = readers.stall_limit;
    fanout.close_timeout = pipeline.shutdown_limit;
    let mut server = tallycast_server::Config::default();
    server.tls = tls;
    server.max_connections = pipeline.server.max_connections;
    server.max_per_address = pipeline.server.max_per_address;
    server.rate_per_address = pipeline.server.rate_per_address;
    server.namespace_limits = pipeline.server.namespace_limits;
    server.trusted_proxies = pipeline.server.trusted_proxies;
    server.allowed_origins = pipeline.server.allowed_origins;
    server.websocket.max_message = pipeline.server.max_message_bytes;
    server.websocket.message_rate = pipeline.server.message_rate;
    server.compression = match pipeline.server.compression {
        CompressionOption::Off => Compression::Off,
        CompressionOption::Direct => Compression::Direct,
        CompressionOption::Always => Compression::Always,
    };
    server.client_address_header = match pipeline.server.client_address_header {
        ClientAddressHeader::XForwardedFor => AddressHeader::XForwardedFor,
        ClientAddressHeader::Forwarded => AddressHeader::Forwarded,
    };
    server.head_timeout = pipeline.server.head_timeout;
    server.max_head_bytes = pipeline.server.max_head_bytes;
    server.close_limit = pipeline.shutdown_limit;
    Ok(Config {
        source,
        routes,
        tally: tally::Config { period: routing.tally_period, max_keys: routing.tally_keys },
        max_totals: routing.max_totals,
        fanout,
        server,
        admin: !pipeline.server.no_admin,
        admin_token: pipeline.server.admin_token,
        scores: routing.totals.first().map_or_else(|| "emojitrack_score".to_owned(), |totals| totals.key.clone()),
        totals: routing.totals,
        address: SocketAddr::new(pipeline.address, pipeline.port),
        send_buffer: readers.send_buffer,
        inbox: pipeline.inbox,
        node: format!("rust-{env}-{instance}"),
        status_interval,
        shutdown_limit: pipeline.shutdown_limit,
        log,
        options: Vec::new(),
    })
}

/// What clap has to say: help as it is, an error as one line that tells where the wrong value came from.
fn explain(error: clap::Error, command: &clap::Command, arguments: &[OsString], file: &File) -> Refusal {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return Refusal::Help(Box::new(error));
    }
    let rendered = error.render().to_string();
    let mut line = rendered.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    let argument = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(argument)) => argument.as_str(),
        _ => "",
    };
    if let (true, Some(ContextValue::String(url))) =
        (argument.starts_with("--redis-url"), error.get(ContextKind::InvalidValue))
    {
        // It may hold a password, also where it is not a URL.
        line = line.replace(url, "***");
    }
    if let Some(ContextValue::Strings(valid)) = error.get(ContextKind::ValidValue)
        && !valid.is_empty()
    {
        line.push_str(&format!(": expected {}", valid.join(", ")));
    }
    let flag = argument.trim_start_matches("--").split([' ', '=']).next().unwrap_or_default();
    let origin = match origin_of(flag, command, arguments) {
        Origin::Arguments => String::new(),
        Origin::Variable(name) => format!(" (from the environment variable {name})"),
        Origin::Default => file.place_of(flag).map(|place| format!(" (from {place})")).unwrap_or_default(),
    };
    Refusal::Mistake(format!("{line}{origin}; see tallycast --help"))
}

/// Where a flag's value is from.
enum Origin {
    Arguments,
    Variable(String),
    Default,
}

#[expect(clippy::disallowed_methods, reason = "only tells where a value that clap has refused came from")]
fn origin_of(flag: &str, command: &clap::Command, arguments: &[OsString]) -> Origin {
    let written = format!("--{flag}");
    if arguments.iter().any(|given| given.to_string_lossy().split('=').next() == Some(&written)) {
        return Origin::Arguments;
    }
    let commands = std::iter::once(command).chain(command.get_subcommands());
    let mut candidates = commands.flat_map(clap::Command::get_arguments);
    let variable = candidates.find(|candidate| candidate.get_long() == Some(flag)).and_then(clap::Arg::get_env);
    match variable {
        Some(name) if std::env::var_os(name).is_some() => Origin::Variable(name.to_string_lossy().into_owned()),
        _ => Origin::Default,
    }
}

/// An option's effective value, with secrets masked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EffectiveOption {
    /// The flag's name without the dashes.
    pub name: String,
    /// The value; several are separated by `;`.
    pub value: String,
    /// Where it is from.
    pub origin: String,
}

impl fmt::Display for EffectiveOption {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, value, origin } = self;
        write!(formatter, "{:<44} # {origin}", format!("{name} = {value}"))
    }
}

/// The options that SIGHUP changes without dropping a connection.
const RELOADABLE: [&str; 16] = [
    "route",
    "log",
    "max-connections",
    "max-per-address",
    "rate-per-address",
    "namespace-limit",
    "trusted-proxy",
    "client-address-header",
    "compression",
    "allowed-origin",
    "message-rate",
    "max-message-bytes",
    "head-timeout",
    "max-head-bytes",
    "tls-cert",
    "tls-key",
];

/// Which options differ between two configurations: those that can change while the process runs, and those that need a
/// restart.
pub fn changed(before: &[EffectiveOption], after: &[EffectiveOption]) -> (Vec<String>, Vec<String>) {
    let value = |options: &[EffectiveOption], name: &str| {
        options.iter().find(|option| option.name == name).map(|option| option.value.clone())
    };
    let mut names: Vec<String> = before.iter().chain(after).map(|option| option.name.clone()).collect();
    names.sort_unstable();
    names.dedup();
    names.retain(|name| value(before, name) != value(after, name));
    names.into_iter().partition(|name| RELOADABLE.contains(&name.as_str()))
}

/// Every option that is set.
fn effective(command: &clap::Command, name: &str, matches: &ArgMatches, file: &File) -> Vec<EffectiveOption> {
    let command = command.find_subcommand(name).unwrap_or(command);
    let mut options = Vec::new();
    for argument in command.get_arguments() {
        let id = argument.get_id().as_str();
        let (Some(long), Some(source)) = (argument.get_long(), matches.value_source(id)) else { continue };
        // Those that hold secrets show themselves without.
        let values: Vec<String> = match (matches.try_get_one::<RedisUrl>(id), matches.try_get_one::<Token>(id)) {
            (Ok(url), _) => url.map(ToString::to_string).into_iter().collect(),
            (_, Ok(token)) => token.map(ToString::to_string).into_iter().collect(),
            _ => matches.get_raw(id).into_iter().flatten().map(|raw| raw.to_string_lossy().into_owned()).collect(),
        };
        let origin = match source {
            ValueSource::CommandLine => "flag".to_owned(),
            ValueSource::EnvVariable => {
                argument.get_env().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
            }
            _ if file.place_of(long).is_some() => file.path().display().to_string(),
            _ => "default".to_owned(),
        };
        options.push(EffectiveOption { name: long.to_owned(), value: values.join(";"), origin });
    }
    options
}

fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration >= Duration::from_millis(1) => Ok(duration),
        Ok(_) => Err("at least 1ms is needed".to_owned()),
        Err(_) => Err("expected a number with a unit, such as 17ms, 10s or 2m".to_owned()),
    }
}

/// A network, or one address.
fn network(text: &str) -> Result<IpNet, String> {
    let address = text.parse::<IpAddr>().map(IpNet::from);
    address.or_else(|_| text.parse()).map_err(|_| "expected an address or a network, such as 10.0.0.0/8".to_owned())
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&count| count > 0).ok_or_else(|| "expected a whole number of at least 1".to_owned())
}

fn head_bytes(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|&bytes| bytes >= 8192)
        .ok_or_else(|| "expected a whole number of at least 8192".to_owned())
}
