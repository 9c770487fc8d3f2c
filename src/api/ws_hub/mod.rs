//! The contract of ws-hub: a client opens a WebSocket with a key, and an application that listens in Redis says by messages which groups
//! the client belongs to. What is published for a group is sent to its clients, and what a client sends is published.
//!
//! | path | what |
//! |---|---|
//! | `GET /ws?session_key=KEY` | the WebSocket of a client (`stream`) |
//! | `GET /ws-hub/status`, `/clients`, `/groups`, `/sessions` | who is connected (`pages`) |
//!
//! | channel | direction | payload |
//! |---|---|---|
//! | `ws-hub:client-new` | to the application | the key of a client that has connected |
//! | `ws-hub:groups-new:KEY` | from the application (`follower`) | groups that the client joins; empty to close it |
//! | `ws-hub:group-data:GROUP` | from the application, by a route | a message for all clients of the group |
//! | `ws-hub:client-data:KEY` | to the application | a message of a client |
//! | `ws-hub:client-gone` | to the application | the key of a client whose last connection has ended |
//!
//! A key is a session, and a group is a topic. So any node follows the application, and a client may be connected to any of them.

mod announcer;
mod follower;
mod group;
mod pages;
mod stats;
mod stream;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::session_streams::SessionStreams;
use crate::rate_limited_log::RateLimitedLog;
use crate::redis_client::RedisClient;
use crate::sessions::{EventTarget, Publication, Sessions};
use crate::source::Selector;
use follower::Follower;

pub use group::NAMESPACE;
use pages::PATHS;
pub(crate) use pages::router;
pub use stats::WsHubStats;
pub use stream::Streams;

/// The default of [`Config::path`].
pub const DEFAULT_PATH: &str = "/ws";
/// The default of [`Config::key`].
pub const DEFAULT_KEY: &str = "session_key";
/// The default of [`Config::prefix`].
pub const DEFAULT_PREFIX: &str = "ws-hub:";
/// The default of [`Config::timeout`].
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// The default of [`Config::pages`].
pub const DEFAULT_PAGES: &str = "/ws-hub";
/// What the names of the sessions of clients begin with.
const SESSION_PREFIX: &str = "ws-hub:";

/// How the contract is served.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// The path of the WebSockets, without a slash at its end.
    pub path: String,
    /// The query parameter with the key of a client.
    pub key: String,
    /// What the names of the channels begin with.
    pub prefix: String,
    /// How long a client waits until it belongs to a group; then it is closed. `None` for ever.
    pub timeout: Option<Duration>,
    /// How long a client belongs to its groups after its last connection has ended.
    pub ttl: Duration,
    /// What the paths of the pages begin with, without a slash at the end; empty for the root.
    pub pages: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            path: DEFAULT_PATH.to_owned(),
            key: DEFAULT_KEY.to_owned(),
            prefix: DEFAULT_PREFIX.to_owned(),
            timeout: Some(DEFAULT_TIMEOUT),
            ttl: Duration::ZERO,
            pages: DEFAULT_PAGES.to_owned(),
        }
    }
}

impl Config {
    /// The paths of the pages.
    pub(crate) fn page_paths(&self) -> [String; 4] {
        PATHS.map(|path| format!("{}{path}", self.pages))
    }

    /// The channels of messages for groups, as a route writes them, and the namespaces of the messages: those of no one but the members.
    pub fn route(&self) -> String {
        format!("{}group-data:*={NAMESPACE}/*,private", self.prefix)
    }

    /// The channels that are for backends alone: they have the keys of clients, and decide about them.
    pub(crate) fn reserved_channels(&self) -> [Selector; 2] {
        ["client-", "groups-new:"].map(|name| Selector::Prefix(self.channel(name)))
    }

    /// The name of a channel that is not of one client or group.
    fn channel(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// A publication about a client.
    fn about(&self, name: &str, key: &str) -> Publication {
        Publication { channel: self.channel(name), payload: key.to_owned() }
    }
}

/// The contract on one node.
pub struct WsHub {
    config: Config,
    streams: SessionStreams,
    stats: Arc<WsHubStats>,
    /// A client waits whose connection was announced to no one, or whose groups were lost.
    unannounced: Notify,
    /// A client waits whose connection was announced to someone, who may be no listener.
    waiting: Notify,
    /// One listing at a time: it takes memory.
    listing: tokio::sync::Mutex<()>,
    log: Mutex<RateLimitedLog>,
}

impl fmt::Debug for WsHub {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("WsHub").field("config", &self.config).finish_non_exhaustive()
    }
}

impl WsHub {
    /// Starts to follow the application until `shutdown` is cancelled. Without Redis there is none.
    pub fn start(
        config: Config,
        streams: SessionStreams,
        redis: Option<RedisClient>,
        stats: Arc<WsHubStats>,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        let (unannounced, waiting) = (Notify::new(), Notify::new());
        let listing = tokio::sync::Mutex::default();
        let log = Mutex::new(RateLimitedLog::new());
        let hub = Arc::new(Self { config, streams, stats, unannounced, waiting, listing, log });
        if let Some(client) = redis {
            let announcer = announcer::run(client.clone(), Arc::clone(&hub));
            tokio::spawn(shutdown.clone().run_until_cancelled_owned(announcer));
            tokio::spawn(shutdown.run_until_cancelled_owned(Follower::new(client, Arc::clone(&hub)).run()));
        }
        hub
    }

    /// How it is served.
    pub fn config(&self) -> &Config {
        &self.config
    }

    fn sessions(&self) -> &Sessions {
        &self.streams.sessions
    }

    /// The key of a client, from the name of its session.
    fn key(name: &str) -> &str {
        name.strip_prefix(SESSION_PREFIX).unwrap_or(name)
    }

    /// Publishes a message of a client. If the broker does not take it, it is lost, and the client stays.
    async fn publish(&self, channel: String, text: &str) {
        self.sessions().stats().received.add(1);
        if let Err(error) = self.sessions().publish(&EventTarget::Channel(channel), text).await {
            self.lost(&error);
        }
    }

    /// A message of a client is lost.
    fn lost(&self, error: &dyn fmt::Display) {
        self.stats.lost.add(1);
        self.log(|suppressed| tracing::warn!(%error, suppressed, "a message of a ws-hub client is lost"));
    }

    /// What an application said about a client is not followed. The log does not have the key: it is all that a client needs to connect.
    fn rejected(&self, reason: &dyn fmt::Display) {
        self.stats.rejected.add(1);
        self.log(|suppressed| tracing::warn!(%reason, suppressed, "the groups of a ws-hub client are rejected"));
    }

    fn log(&self, write: impl FnOnce(u64)) {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).log(write);
    }
}
