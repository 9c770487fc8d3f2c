//! The configuration: limits, time limits, paths, and what clients may use.

use std::borrow::Cow;
use std::num::NonZeroU32;
use std::time::Duration;

use ipnet::IpNet;

#[cfg(feature = "tls")]
use crate::Tls;
#[cfg(feature = "websocket")]
use crate::websocket;
use crate::{AllowedOrigin, ClientAddressHeader, NamespaceLimit};

/// The default of [`Config::prefix`].
pub const PREFIX: &str = "/subscribe";
/// The default of [`Config::websocket_prefix`].
pub const WEBSOCKET_PREFIX: &str = "/ws";
/// The default of [`Config::max_topics`].
pub(crate) const DEFAULT_MAX_TOPICS: usize = 64;

/// The event streams that are compressed for clients that accept it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// None.
    Off,
    /// Those without a proxy in front, as far as the header `via` and the trusted proxies show. Some proxies hold compressed
    /// streams back until they have enough bytes.
    #[default]
    Direct,
    /// All.
    Always,
}

/// Limits, time limits, paths, and what clients may use. Start from the default and assign fields:
///
/// ```
/// let mut config = tallycast_server::Config::default();
/// config.prefix = "/events".into();
/// config.max_connections = 10_000;
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// The path of streams: `/subscribe` serves the namespace `/a` at `/subscribe/a`. A slash at the end is ignored; `/`
    /// makes every path a stream.
    pub prefix: Cow<'static, str>,
    /// The path of streams over WebSocket only, as [`prefix`](Self::prefix).
    pub websocket_prefix: Cow<'static, str>,
    /// The comment at the start of every event stream: clients see the response before the first event. One line.
    pub greeting: Cow<'static, str>,
    /// The pause before clients of event streams connect again, sent at the start of each stream; varied by half for each client.
    /// Default: none is sent.
    pub retry: Option<Duration>,
    /// The certificate and key for TLS. With them, plain HTTP is answered with 421. A [`StreamService`](crate::StreamService)
    /// ignores them.
    #[cfg(feature = "tls")]
    pub tls: Option<Tls>,
    /// Open connections. Each request on an HTTP/2 connection counts as one more while another one of it is open.
    pub max_connections: usize,
    /// Open connections per address, counted as in [`max_connections`](Self::max_connections); for IPv6 per network of 64 bits.
    pub max_per_address: Option<usize>,
    /// The paths that the fallback answers even if there are too many connections, such as those of health checks, with
    /// everything below them. A few connections beyond the limit are open for that for a moment each. Default: none.
    pub reserved_paths: Vec<Cow<'static, str>>,
    /// New connections per address and second, and as many in one burst.
    pub rate_per_address: Option<NonZeroU32>,
    /// Open streams per namespace.
    pub namespace_limits: Vec<NamespaceLimit>,
    /// Topics of one stream, at most [`MAX_TOPICS`](tallycast_fanout::MAX_TOPICS). A request with more is answered with 400, a
    /// WebSocket keeps its topics. Many topics in a request need a larger [`max_target_bytes`](Self::max_target_bytes).
    pub max_topics: usize,
    /// Bytes that the topics of open streams may take, per client address; for IPv6 per network of 64 bits. Topics that several
    /// streams have in common are charged to each.
    pub max_topic_bytes_per_address: usize,
    /// Bytes that the topics of all open streams may take.
    pub max_topic_bytes: usize,
    /// The proxies that may report the client address: by the PROXY protocol, or by a header.
    pub trusted_proxies: Vec<IpNet>,
    /// The header in which trusted proxies report the client address.
    pub client_address_header: ClientAddressHeader,
    /// The event streams that are compressed for clients that accept it.
    pub compression: Compression,
    /// The origins whose pages may read streams and open WebSockets. Clients other than browsers always may. Default: every
    /// origin. A server whose streams depend on cookies must list its origins; an empty list allows only its own pages.
    pub allowed_origins: Vec<AllowedOrigin>,
    /// What clients may send over WebSocket.
    #[cfg(feature = "websocket")]
    pub websocket: websocket::Config,
    /// Time for the request headers to arrive, from the connection or, for a later request, from its first byte.
    pub head_timeout: Duration,
    /// Time that a connection without a request is kept: from the end of the previous response, and over HTTP/2 also from its
    /// start.
    pub idle_timeout: Duration,
    /// Time that a client may take no data of a response, in whatever protocol. Then its connection, or with others in progress
    /// its HTTP/2 stream, is reset. For sockets that the engine has taken over, the engine's own limit applies.
    pub write_timeout: Duration,
    /// Time after which a connection is closed whose peer has vanished without a trace, found by TCP keep-alive. Not less than
    /// [`write_timeout`](Self::write_timeout). A change does not apply to a server that has started.
    pub peer_timeout: Duration,
    /// Bytes of the request headers; larger ones are answered with 431. At least 8192.
    pub max_head_bytes: usize,
    /// Bytes of the request target; a longer one is answered with 414. Less than [`max_head_bytes`](Self::max_head_bytes), and at
    /// most 65,534: hyper reads no longer one.
    pub max_target_bytes: usize,
    /// Time that a request for a snapshot waits until the totals are known; then it is answered with 503.
    pub snapshot_limit: Duration,
    /// Time that a request for a stream that starts in the past waits until the source has reported what is kept, or for a position
    /// that only another node knows yet.
    pub resume_limit: Duration,
    /// Time for the [`Authorizer`](crate::Authorizer) to decide; then the request is answered with 503.
    pub authorize_timeout: Duration,
    /// Open streams on one HTTP/2 connection.
    pub max_http2_streams: u32,
    /// Time for all connections to end at shutdown; then they are cut off.
    pub close_limit: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            prefix: PREFIX.into(),
            websocket_prefix: WEBSOCKET_PREFIX.into(),
            greeting: "tallycast".into(),
            retry: None,
            #[cfg(feature = "tls")]
            tls: None,
            max_connections: 50_000,
            max_per_address: None,
            reserved_paths: Vec::new(),
            rate_per_address: None,
            namespace_limits: Vec::new(),
            max_topics: DEFAULT_MAX_TOPICS,
            max_topic_bytes_per_address: 64 * 1024 * 1024,
            max_topic_bytes: 512 * 1024 * 1024,
            trusted_proxies: Vec::new(),
            client_address_header: ClientAddressHeader::default(),
            compression: Compression::default(),
            allowed_origins: vec![AllowedOrigin::ANY],
            #[cfg(feature = "websocket")]
            websocket: websocket::Config::default(),
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_secs(60),
            peer_timeout: Duration::from_secs(60),
            max_head_bytes: 16 * 1024,
            max_target_bytes: 4096,
            snapshot_limit: Duration::from_secs(5),
            resume_limit: Duration::from_secs(5),
            authorize_timeout: Duration::from_secs(5),
            max_http2_streams: 128,
            close_limit: Duration::from_secs(10),
        }
    }
}
