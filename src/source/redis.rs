//! Events from Redis pub/sub: one connection, supervised here.
//!
//! The connection speaks RESP2, which every Redis version and every proxy before one understands, so that there is one
//! way to subscribe. The client library gives events through a channel without bounds; `Session::pump` never waits
//! for anything but that channel, so nothing can pile up in it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::aio::{PubSubSink, PubSubStream};
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{Client, ConnectionInfo, IntoConnectionInfo, RedisError};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;

use super::{BrokerState, PipelineEnded, RawEvent, SourceStats, pass_on};
use crate::limited::LimitedLog;

/// The first pause after a lost or failed connection. Short, because most are restarts that are over soon.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// The longest pause: events flow again within a second of the broker's return.
const BACKOFF_MAX: Duration = Duration::from_millis(800);
/// A session that lived this long was a healthy one: the pause after it starts small again.
const HEALTHY: Duration = Duration::from_secs(5);

/// What the source needs.
#[derive(Debug, Clone)]
pub struct Config {
    /// The server.
    pub client: Client,
    /// The server's URL without its password, for the log.
    pub url: RedisUrl,
    /// The patterns to subscribe to.
    pub patterns: Vec<String>,
    /// Give up when the first connection fails.
    pub require_broker: bool,
    /// How long connecting and subscribing may take, each.
    pub connect_timeout: Duration,
    /// The silence after which the server is asked whether it is there.
    pub ping_interval: Duration,
    /// How long it may take to answer.
    pub ping_timeout: Duration,
}

/// A Redis URL that was found to be valid. Its [`Display`](fmt::Display) hides the password.
#[derive(Clone)]
pub struct RedisUrl {
    info: ConnectionInfo,
    masked: String,
}

/// Not a URL of a Redis server. Does not repeat the URL, which may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Another scheme, or none.
    #[error("expected a URL that starts with redis://, rediss:// or redis+unix://")]
    Scheme,
    /// The client library refuses it.
    #[error("not a Redis URL ({0}); expected redis://[user:password@]host[:port][/database]")]
    Malformed(String),
}

/// Why the source gave up.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The first connection failed and the broker is required.
    #[error("cannot subscribe at {url}: {end}")]
    Unreachable {
        /// Where, without the password.
        url: String,
        /// Why.
        end: SessionEnd,
    },
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub enum SessionEnd {
    /// The process shuts down.
    #[error("shutting down")]
    Shutdown,
    /// The server closed the connection, or the network did.
    #[error("the connection was closed")]
    Closed,
    /// The server did not answer in time.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The server refused.
    #[error("{0}")]
    Refused(#[from] RedisError),
}

impl FromStr for RedisUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        if !["redis://", "rediss://", "redis+unix://", "unix://"].iter().any(|scheme| text.starts_with(scheme)) {
            return Err(UrlError::Scheme);
        }
        let info = text.into_connection_info().map_err(|error| {
            UrlError::Malformed(error.detail().map_or_else(|| error.category().to_owned(), str::to_owned))
        })?;
        Ok(Self { info, masked: mask(text) })
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.masked)
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.masked)
    }
}

/// The URL with its password replaced by `***`.
fn mask(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return "***".to_owned() };
    // What comes before the last '@' could be a password with a '/' in it, so that is hidden too.
    let Some((credentials, host)) = rest.rsplit_once('@') else { return url.to_owned() };
    let user = credentials.split(':').next().unwrap_or_default();
    format!("{scheme}://{user}:***@{host}")
}

impl Config {
    /// The defaults for a server and patterns.
    ///
    /// # Errors
    /// When TLS is asked for and its set-up fails.
    pub fn new(url: RedisUrl, patterns: Vec<String>) -> Result<Self, RedisError> {
        // Only the first call in a process can succeed, and it is enough.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let keep_alive = TcpKeepalive::new().with_time(Duration::from_secs(15)).with_interval(Duration::from_secs(5));
        let tcp = TcpSettings::default().set_nodelay(true).set_keepalive(keep_alive);
        Ok(Self {
            client: Client::open(url.info.clone().set_tcp_settings(tcp))?,
            url,
            patterns,
            require_broker: false,
            connect_timeout: Duration::from_secs(5),
            ping_interval: Duration::from_secs(5),
            ping_timeout: Duration::from_secs(5),
        })
    }
}

/// Passes on what Redis publishes, until `shutdown` is cancelled. Reconnects by itself.
///
/// # Errors
/// Only when [`Config::require_broker`] is set and the first connection fails.
pub async fn run(
    config: Config,
    inbox: mpsc::Sender<RawEvent>,
    state: watch::Sender<BrokerState>,
    stats: Arc<SourceStats>,
    shutdown: CancellationToken,
) -> Result<(), SourceError> {
    let mut session = Session { config, inbox, state, stats, log: LimitedLog::new(), lost_at: None };
    let mut pause = BACKOFF_MIN;
    let mut attempts = 0_u64;
    loop {
        let started = Instant::now();
        let subscribed_before = session.stats.subscriptions.get();
        let end = tokio::select! {
            end = session.run() => end,
            () = shutdown.cancelled() => SessionEnd::Shutdown,
        };
        let url = &session.config.url;
        let was_subscribed = session.stats.subscriptions.get() > subscribed_before;
        match end {
            SessionEnd::Shutdown => return Ok(()),
            end if attempts == 0 && !was_subscribed && session.config.require_broker => {
                return Err(SourceError::Unreachable { url: url.to_string(), end });
            }
            end if was_subscribed => {
                session.lost_at = Some(Instant::now());
                session.state.send_replace(BrokerState::Lost);
                tracing::warn!(%url, reason = %end, "lost the subscription; what is published meanwhile is lost");
            }
            end if attempts == 0 => tracing::warn!(%url, reason = %end, "cannot subscribe yet; trying on"),
            end => tracing::debug!(%url, reason = %end, attempts, "still cannot subscribe"),
        }
        attempts = if was_subscribed { 1 } else { attempts + 1 };
        if was_subscribed && started.elapsed() >= HEALTHY {
            pause = BACKOFF_MIN;
        }
        tokio::select! {
            () = tokio::time::sleep(jittered(pause)) => {}
            () = shutdown.cancelled() => return Ok(()),
        }
        pause = (pause * 2).min(BACKOFF_MAX);
    }
}

/// Between half of `pause` and all of it, so that many nodes do not come back at the same moment.
fn jittered(pause: Duration) -> Duration {
    // The hasher's keys are random for each instance.
    let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
    pause / 2 + pause / 2 * u32::from(random as u16) / u32::from(u16::MAX)
}

struct Session {
    config: Config,
    inbox: mpsc::Sender<RawEvent>,
    state: watch::Sender<BrokerState>,
    stats: Arc<SourceStats>,
    log: LimitedLog,
    lost_at: Option<Instant>,
}

/// What happened to a session.
enum Happened {
    Event(redis::Msg),
    Closed,
    Silence,
}

impl Session {
    /// One connection, from connecting to its end.
    async fn run(&mut self) -> SessionEnd {
        match self.subscribe().await {
            Ok((sink, events)) => {
                self.subscribed();
                self.pump(sink, events).await
            }
            Err(end) => end,
        }
    }

    async fn subscribe(&self) -> Result<(PubSubSink, PubSubStream), SessionEnd> {
        let limit = self.config.connect_timeout;
        let in_time = |_| SessionEnd::TimedOut(limit);
        let connection = timeout(limit, self.config.client.get_async_pubsub()).await.map_err(in_time)??;
        let (mut sink, events) = connection.split();
        timeout(limit, sink.psubscribe(&self.config.patterns)).await.map_err(in_time)??;
        Ok((sink, events))
    }

    fn subscribed(&mut self) {
        self.stats.subscriptions.add(1);
        self.state.send_replace(BrokerState::Subscribed);
        let url = &self.config.url;
        match self.lost_at.take().map(|lost_at| lost_at.elapsed()) {
            Some(gap) => {
                self.stats.gaps.add(1);
                self.stats.gap_milliseconds.add(u64::try_from(gap.as_millis()).unwrap_or(u64::MAX));
                tracing::warn!(%url, ?gap, "subscribed again");
            }
            None => tracing::info!(%url, patterns = ?self.config.patterns, "subscribed"),
        }
    }

    /// Passes events on until the connection ends. A connection that is silent is asked whether it is alive: a server
    /// that froze, or a network that drops everything, would look just like one without news.
    async fn pump(&mut self, mut sink: PubSubSink, mut events: PubSubStream) -> SessionEnd {
        loop {
            let happened = match timeout(self.config.ping_interval, events.next()).await {
                Ok(Some(event)) => Happened::Event(event),
                Ok(None) => Happened::Closed,
                Err(_) => Happened::Silence,
            };
            match happened {
                Happened::Event(event) => {
                    let event = RawEvent {
                        channel: event.get_channel_name().to_owned(),
                        payload: event.get_payload_bytes().to_vec(),
                    };
                    if let Err(PipelineEnded) = pass_on(event, &self.inbox, &self.stats, &mut self.log) {
                        return SessionEnd::Shutdown;
                    }
                }
                Happened::Closed => return SessionEnd::Closed,
                Happened::Silence => match timeout(self.config.ping_timeout, sink.ping::<redis::Value>()).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => return SessionEnd::Refused(error),
                    Err(_) => return SessionEnd::TimedOut(self.config.ping_timeout),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_hidden() {
        let shown = |url: &str| url.parse::<RedisUrl>().unwrap().to_string();
        assert_eq!(shown("redis://user:secret@host:6379/1"), "redis://user:***@host:6379/1");
        assert_eq!(shown("rediss://:se%2Fcret@host/#insecure"), "rediss://:***@host/#insecure");
        assert_eq!(shown("redis://localhost"), "redis://localhost");
        assert!(!format!("{:?}", "redis://:secret@host".parse::<RedisUrl>().unwrap()).contains("secret"));
    }

    #[test]
    fn mistakes_are_named_without_the_password() {
        let error = |url: &str| url.parse::<RedisUrl>().unwrap_err().to_string();
        assert_eq!(
            error("http://:secret@host"),
            "expected a URL that starts with redis://, rediss:// or redis+unix://"
        );
        for url in ["redis://:secret@host:port", "redis://:secret@host/notanumber", "redis://"] {
            let error = error(url);
            assert!(error.contains("expected redis://") && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn pauses_are_jittered_within_their_bounds() {
        for _ in 0..1000 {
            let pause = jittered(BACKOFF_MAX);
            assert!(pause >= BACKOFF_MAX / 2 && pause <= BACKOFF_MAX, "{pause:?}");
        }
    }
}
