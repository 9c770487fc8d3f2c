//! Events from Redis pub/sub: one connection, supervised here. `cut` tells at which place among the events the totals
//! are what.
//!
//! The connection speaks RESP2, which every Redis version and every proxy before one understands, so that there is one
//! way to subscribe. The client library gives events through a channel without bounds; `Session::pump` reads that
//! channel whatever else it waits for, so nothing can pile up in it.

mod commands;
mod cut;
#[cfg(test)]
mod tests;
mod url;

use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::aio::{PubSubSink, PubSubStream};
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{Client, ErrorKind, RedisError, ServerErrorKind};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;

use super::{BrokerState, Item, Outlet, Passed, RawEvent, SourceStats};
use cut::Cutter;

pub use commands::Commands;
pub use cut::{TotalsKey, TotalsKeyError};
pub use url::{RedisUrl, UrlError};

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
    /// Where the totals of namespaces are.
    pub totals: Vec<TotalsKey>,
    /// Members that each of them may have.
    pub max_totals: usize,
    /// The longest time between two readings of them.
    pub totals_interval: Duration,
    /// Give up when the first connection fails.
    pub require_broker: bool,
    /// How long connecting and subscribing may take, each.
    pub connect_timeout: Duration,
    /// The silence after which the server is asked whether it is there.
    pub ping_interval: Duration,
    /// How long it may take to answer.
    pub ping_timeout: Duration,
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

impl Config {
    /// The defaults for a server.
    ///
    /// # Errors
    /// When TLS is asked for and its set-up fails.
    pub fn new(url: RedisUrl) -> Result<Self, RedisError> {
        // Only the first call in a process can succeed, and it is enough.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let keep_alive = TcpKeepalive::new().with_time(Duration::from_secs(15)).with_interval(Duration::from_secs(5));
        let tcp = TcpSettings::default().set_nodelay(true).set_keepalive(keep_alive);
        Ok(Self {
            client: Client::open(url.info.clone().set_tcp_settings(tcp))?,
            url,
            totals: Vec::new(),
            max_totals: 100_000,
            totals_interval: Duration::from_secs(30),
            require_broker: false,
            connect_timeout: Duration::from_secs(5),
            ping_interval: Duration::from_secs(5),
            ping_timeout: Duration::from_secs(5),
        })
    }

    /// A connection for commands to the same server.
    pub fn commands(&self) -> Commands {
        Commands::new(self.client.clone(), self.connect_timeout)
    }
}

/// Passes on what Redis publishes on channels that `patterns` fit, which may change, until `shutdown` is cancelled.
/// Reconnects by itself.
///
/// # Errors
/// Only when [`Config::require_broker`] is set and the first connection fails.
pub async fn run(
    config: Config,
    patterns: watch::Receiver<Vec<String>>,
    inbox: mpsc::Sender<Item>,
    state: watch::Sender<BrokerState>,
    stats: Arc<SourceStats>,
    shutdown: CancellationToken,
) -> Result<(), SourceError> {
    let cutter = Cutter::new(&config);
    let cut_wanted = Arc::new(Notify::new());
    // Ends when this function does.
    let mut tasks = JoinSet::new();
    if !config.totals.is_empty() {
        tasks.spawn(cutter.clone().run(Arc::clone(&cut_wanted)));
    }
    let outlet = Outlet::new(inbox);
    let mut session = Session {
        config,
        outlet,
        cutter,
        cut_wanted,
        patterns,
        subscribed_to: Vec::new(),
        state,
        stats,
        lost_at: None,
    };
    let mut pause = BACKOFF_MIN;
    let mut attempts = 0_u64;
    // Why there is no subscription, as last told. The pauses bound how often it can be another reason.
    let mut told = String::new();
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
                told.clear();
            }
            end => {
                let reason = end.to_string();
                if reason == told {
                    tracing::debug!(%url, reason, attempts, "still cannot subscribe");
                } else {
                    tracing::warn!(%url, reason, "cannot subscribe yet; trying on");
                    told = reason;
                }
            }
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
    outlet: Outlet,
    cutter: Cutter,
    /// Told whenever the totals may be others than what was counted.
    cut_wanted: Arc<Notify>,
    /// The patterns that are wanted.
    patterns: watch::Receiver<Vec<String>>,
    /// Those that the subscription has.
    subscribed_to: Vec<String>,
    state: watch::Sender<BrokerState>,
    stats: Arc<SourceStats>,
    lost_at: Option<Instant>,
}

/// What happened to a session.
enum Happened {
    Event(redis::Msg),
    /// The server answered a ping.
    Answered,
    /// Other patterns are wanted.
    Patterns,
    Ended(SessionEnd),
}

impl From<Option<redis::Msg>> for Happened {
    fn from(next: Option<redis::Msg>) -> Self {
        next.map_or(Self::Ended(SessionEnd::Closed), Self::Event)
    }
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

    async fn subscribe(&mut self) -> Result<(PubSubSink, PubSubStream), SessionEnd> {
        let limit = self.config.connect_timeout;
        let in_time = |_| SessionEnd::TimedOut(limit);
        let connection = timeout(limit, self.config.client.get_async_pubsub()).await.map_err(in_time)??;
        let (mut sink, events) = connection.split();
        let patterns = self.patterns.borrow_and_update().clone();
        timeout(limit, sink.psubscribe(&patterns)).await.map_err(in_time)??;
        self.subscribed_to = patterns;
        if !self.config.totals.is_empty() {
            match timeout(limit, sink.subscribe(self.cutter.channel())).await.map_err(in_time)? {
                Ok(()) => {}
                // A user without the right to this channel still gets the events.
                Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm) => {
                    let channel = cut::CHANNELS;
                    tracing::warn!(%error, channel, "there are no totals: Redis does not let this user subscribe to the channel");
                }
                Err(error) => return Err(error.into()),
            }
        }
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
            None => tracing::info!(%url, patterns = ?self.subscribed_to, "subscribed"),
        }
        self.cut_wanted.notify_one();
    }

    /// Passes events on until the connection ends. A connection that is silent is asked whether it is alive: a server
    /// that froze, or a network that drops everything, would look just like one without news.
    async fn pump(&mut self, mut sink: PubSubSink, mut events: PubSubStream) -> SessionEnd {
        let Config { ping_interval, ping_timeout, .. } = self.config;
        loop {
            let happened = tokio::select! {
                biased;
                next = timeout(ping_interval, events.next()) => match next {
                    Ok(next) => next.into(),
                    Err(_) => tokio::select! {
                        // First, because an event shows as well as an answer does that the server is there, even when
                        // this process was the one that stood still. The answer that is then not waited for does no harm.
                        biased;
                        next = events.next() => next.into(),
                        answer = timeout(ping_timeout, sink.ping::<redis::Value>()) => match answer {
                            Ok(Ok(_)) => Happened::Answered,
                            Ok(Err(error)) => Happened::Ended(SessionEnd::Refused(error)),
                            Err(_) => Happened::Ended(SessionEnd::TimedOut(ping_timeout)),
                        },
                    },
                },
                // Who could change them may be gone, and then nobody does.
                Ok(()) = self.patterns.changed() => Happened::Patterns,
            };
            match happened {
                Happened::Event(event) => match self.pass(&event) {
                    Passed::On => {}
                    Passed::Lost => self.cut_wanted.notify_one(),
                    Passed::Ended => return SessionEnd::Shutdown,
                },
                Happened::Answered => {}
                Happened::Patterns => {
                    if let Err(end) = self.change_patterns(&mut sink, &mut events).await {
                        return end;
                    }
                }
                Happened::Ended(end) => return end,
            }
        }
    }

    /// Subscribes to the patterns that are wanted, then leaves those that are not, and passes events on meanwhile.
    async fn change_patterns(&mut self, sink: &mut PubSubSink, events: &mut PubSubStream) -> Result<(), SessionEnd> {
        let limit = self.config.connect_timeout;
        let wanted = self.patterns.borrow_and_update().clone();
        let before = std::mem::replace(&mut self.subscribed_to, wanted.clone());
        let without = |all: &[String], others: &[String]| -> Vec<String> {
            all.iter().filter(|pattern| !others.contains(pattern)).cloned().collect()
        };
        let (added, removed) = (without(&wanted, &before), without(&before, &wanted));
        tracing::info!(?added, ?removed, "other patterns");
        let mut change = std::pin::pin!(timeout(limit, async {
            if !added.is_empty() {
                sink.psubscribe(&added).await?;
            }
            if !removed.is_empty() {
                sink.punsubscribe(&removed).await?;
            }
            Ok::<_, RedisError>(())
        }));
        loop {
            let event = tokio::select! {
                changed = &mut change => return Ok(changed.map_err(|_| SessionEnd::TimedOut(limit))??),
                event = events.next() => event.ok_or(SessionEnd::Closed)?,
            };
            if self.pass(&event) == Passed::Ended {
                return Err(SessionEnd::Shutdown);
            }
        }
    }

    /// Passes on what an event stands for.
    fn pass(&mut self, event: &redis::Msg) -> Passed {
        let channel = event.get_channel_name();
        let item = if channel == self.cutter.channel() {
            // A pattern of the user's that covers the channel brings the same once more.
            let totals = if event.from_pattern() { None } else { self.cutter.read(event.get_payload_bytes()) };
            let Some(totals) = totals else { return Passed::On };
            totals
        } else {
            Item::Event(RawEvent::new(channel.to_owned(), event.get_payload_bytes().to_vec()))
        };
        self.outlet.pass(item, &self.stats)
    }
}
