//! Events from Redis pub/sub, over one connection for each session.
//!
//! In a Redis Cluster every node receives what is published on any of them. The session is with the node that has the totals, so that
//! those are read where the events come from; `sharded` and `slots` receive sharded pub/sub and streams beside it.
//!
//! The connection speaks RESP2, which every Redis version and every proxy understands, so there is only one way to
//! subscribe. The client library passes events through an unbounded channel; `Session` reads that channel whatever else
//! it waits for, so nothing can pile up in it.

mod glob;
mod sharded;
pub mod slots;
pub mod streams;
#[cfg(test)]
mod tests;

use std::time::Duration;

use redis::aio::{PubSub, PubSubSink, PubSubStream};
use redis::{ErrorKind, RedisError, ServerErrorKind};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_stream::StreamExt;

use super::{BoxError, Capabilities, Emitter, RawEvent, Selector, SendOutcome, SessionEnd, Source};
use crate::redis_client::{self, Access, RedisClient, RedisUrl, Server, Servers, slot};
use crate::totals::{self, Outcome, TotalsReader};
pub(crate) use glob::glob;
use streams::Trim;

/// The default of [`Config::timeout`].
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
/// The default of [`Config::ping_interval`].
pub const DEFAULT_PING_INTERVAL: Duration = Duration::from_secs(5);

/// Time for a change of patterns: responses wait behind events.
const CHANGE_LIMIT: Duration = Duration::from_secs(60);

/// What the source needs.
#[derive(Debug, Clone)]
pub struct Config {
    /// Connects to the servers.
    pub servers: Servers,
    /// The URL of the servers, for log lines.
    pub url: RedisUrl,
    /// The totals of namespaces.
    pub totals: totals::Config,
    /// How long connecting, and each response, may take.
    pub timeout: Duration,
    /// The silence after which the source pings the server.
    pub ping_interval: Duration,
    /// What the streams are trimmed to.
    pub trim: Trim,
}

impl Config {
    /// The defaults for a server.
    ///
    /// # Errors
    /// The URL asks for TLS and its setup fails.
    pub fn new(url: RedisUrl) -> Result<Self, RedisError> {
        Ok(Self {
            servers: redis_client::open(&url)?,
            url,
            totals: totals::Config::default(),
            timeout: DEFAULT_TIMEOUT,
            ping_interval: DEFAULT_PING_INTERVAL,
            trim: Trim::default(),
        })
    }

    /// A client for commands to the same servers.
    pub fn commands(&self) -> RedisClient {
        RedisClient::new(self.servers.clone(), self.timeout)
    }
}

/// Waits for what Redis answers, or for a connection.
async fn in_time<T>(limit: Duration, answer: impl Future<Output = Result<T, RedisError>>) -> Result<T, SessionError> {
    Ok(timeout(limit, answer).await.map_err(|_| SessionError::TimedOut(limit))??)
}

/// Why a session failed.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error("the connection was closed")]
    Closed,
    #[error("changed routes need a new connection: the process is not subscribed to {}", totals::CHANNELS)]
    NoMarker,
    #[error("the slot has moved to another node")]
    SlotMoved,
    #[error(transparent)]
    Redis(#[from] RedisError),
}

/// Redis pub/sub as a [`Source`].
#[derive(Debug)]
pub struct RedisSource {
    config: Config,
    /// The channels to subscribe to, which may change.
    selectors: watch::Receiver<Vec<Selector>>,
    totals: TotalsReader,
    /// Reads the totals from the first session on; ends with the source.
    tasks: JoinSet<()>,
}

impl RedisSource {
    /// A source of the events on channels that any of `selectors` matches, which may change. `commands` reads the totals.
    pub fn new(config: Config, commands: RedisClient, selectors: watch::Receiver<Vec<Selector>>) -> Self {
        let totals = TotalsReader::new(config.totals.clone(), commands);
        Self { config, selectors, totals, tasks: JoinSet::new() }
    }

    /// Connects to the server to subscribe at. In a cluster this is the node that has the totals; while it is away, any other one.
    async fn connect(&self) -> Result<(Server, PubSub), SessionError> {
        let Config { servers, timeout: limit, .. } = &self.config;
        let connect = async |slot| {
            let server = servers.locate(slot, Access::Primary).await?;
            let connection = server.pubsub().await?;
            Ok((server, connection))
        };
        if !servers.is_cluster() {
            return in_time(*limit, connect(None)).await;
        }
        let home = slot::slot(self.totals.channel().as_bytes());
        match in_time(*limit, connect(Some(home))).await {
            Err(error) => {
                tracing::debug!(%error, "the node that has the totals is away; subscribing at another one");
                let (server, connection) = in_time(*limit, connect(None)).await?;
                Ok((server.in_place_of_owner(home), connection))
            }
            connected => connected,
        }
    }

    async fn subscribe(&mut self) -> Result<Session<'_>, SessionError> {
        let limit = self.config.timeout;
        let timed_out = |_| SessionError::TimedOut(limit);
        let (server, connection) = self.connect().await?;
        let (mut sink, events) = connection.split();
        let patterns: Vec<String> = self.selectors.borrow_and_update().iter().map(glob).collect();
        timeout(limit, sink.psubscribe(&patterns)).await.map_err(timed_out)??;
        tracing::debug!(?patterns, "subscribed to channels");
        match timeout(limit, sink.subscribe(self.totals.channel())).await.map_err(timed_out)? {
            Ok(()) => {}
            // A user without permission for this channel still receives the events.
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm) => {
                let channel = totals::CHANNELS;
                tracing::warn!(%error, channel, "totals are unavailable: the Redis user may not subscribe to their channel");
            }
            Err(error) => return Err(error.into()),
        }
        let Self { config, selectors, totals, .. } = self;
        Ok(Session { config, totals, server, selectors, patterns, ignored: Vec::new(), sink, events })
    }
}

impl Source for RedisSource {
    fn address(&self) -> String {
        self.config.url.to_string()
    }

    /// Redis forgets what it published.
    fn capabilities(&self) -> Capabilities {
        Capabilities::PASSING
    }

    async fn run(&mut self, emitter: &mut Emitter) -> Result<SessionEnd, BoxError> {
        if !emitter.idle_while_empty(&self.selectors).await {
            return Ok(SessionEnd::Finished);
        }
        let totals = self.totals.clone();
        if self.tasks.is_empty() {
            totals.tasks(emitter.inbox()).for_each(|task| drop(self.tasks.spawn(task)));
        }
        let session = self.subscribe().await?;
        emitter.subscribed();
        totals.request();
        let end = session.run(emitter).await;
        totals.subscription_lost();
        Ok(end?)
    }
}

/// One connection, subscribed.
struct Session<'a> {
    config: &'a Config,
    totals: &'a TotalsReader,
    server: Server,
    selectors: &'a mut watch::Receiver<Vec<Selector>>,
    /// What the connection is subscribed to.
    patterns: Vec<String>,
    /// Patterns whose messages are not emitted, because another pattern brings the same events.
    ignored: Vec<String>,
    sink: PubSubSink,
    events: PubSubStream,
}

/// Why a session's loop woke.
enum LoopEvent {
    Received(Option<redis::Msg>),
    /// The server answered a ping.
    Pong(Result<redis::Value, RedisError>),
    PingTimedOut,
    /// Another server is the right one now.
    Superseded(RedisError),
    SelectorsChanged,
}

impl Session<'_> {
    /// Emits events until the connection ends. Pings a silent connection: without that, a frozen server, or a network
    /// that drops everything, would look like a server without news.
    async fn run(mut self, emitter: &mut Emitter) -> Result<SessionEnd, SessionError> {
        let Config { ping_interval, timeout: limit, .. } = *self.config;
        let server = self.server.clone();
        let mut superseded = std::pin::pin!(server.superseded(ping_interval));
        loop {
            let event = tokio::select! {
                biased;
                reason = &mut superseded => LoopEvent::Superseded(reason),
                received = timeout(ping_interval, self.events.next()) => match received {
                    Ok(event) => LoopEvent::Received(event),
                    Err(_) => tokio::select! {
                        // First, because an event proves as well as a response that the server is there, even if it was
                        // this process that stood still. The response that then goes unread does no harm.
                        biased;
                        event = self.events.next() => LoopEvent::Received(event),
                        pong = timeout(limit, self.sink.ping()) => {
                            pong.map_or(LoopEvent::PingTimedOut, LoopEvent::Pong)
                        }
                    },
                },
                // Fails when the sender is gone, which disables this branch.
                Ok(()) = self.selectors.changed() => LoopEvent::SelectorsChanged,
            };
            let outcome = match event {
                LoopEvent::Received(None) => return Ok(SessionEnd::Disconnected),
                LoopEvent::Received(Some(event)) => emit(emitter, self.totals, &self.ignored, &event),
                LoopEvent::Pong(pong) => {
                    pong?;
                    SendOutcome::Sent
                }
                LoopEvent::Superseded(reason) => return Err(reason.into()),
                LoopEvent::PingTimedOut => return Err(SessionError::TimedOut(limit)),
                LoopEvent::SelectorsChanged => self.resubscribe(emitter).await?,
            };
            if outcome == SendOutcome::Closed {
                return Ok(SessionEnd::Finished);
            }
        }
    }

    /// Subscribes to added patterns, then unsubscribes from removed ones, and emits each event once meanwhile. In between the
    /// connection receives an event by an old and by a new pattern. A marker, which Redis puts among the events, separates
    /// those that are emitted by the old patterns from those that are emitted by the new ones.
    ///
    /// The totals are read afterwards, because other channels may be counted from now on, also of those that the connection
    /// is subscribed to already.
    async fn resubscribe(&mut self, emitter: &mut Emitter) -> Result<SendOutcome, SessionError> {
        let limit = self.config.timeout;
        let patterns: Vec<String> = self.selectors.borrow_and_update().iter().map(glob).collect();
        let before = std::mem::replace(&mut self.patterns, patterns.clone());
        let difference = |all: &[String], others: &[String]| -> Vec<String> {
            all.iter().filter(|pattern| !others.contains(pattern)).cloned().collect()
        };
        let (added, removed) = (difference(&patterns, &before), difference(&before, &patterns));
        if added.is_empty() && removed.is_empty() {
            self.totals.request();
            return Ok(SendOutcome::Sent);
        }
        let Self { totals, ignored, sink, events, .. } = self;
        ignored.clone_from(&added);
        let marker = totals.marker();
        let marker_arrived = Notify::new();
        let mut change = std::pin::pin!(timeout(CHANGE_LIMIT, async {
            if !added.is_empty() {
                sink.psubscribe(&added).await?;
            }
            if totals.publish(&marker).await? == 0 {
                return Err(SessionError::NoMarker);
            }
            marker_arrived.notified().await;
            if !removed.is_empty() {
                sink.punsubscribe(&removed).await?;
            }
            Ok(())
        }));
        loop {
            let event = tokio::select! {
                changed = &mut change => {
                    changed.map_err(|_| SessionError::TimedOut(CHANGE_LIMIT))??;
                    tracing::info!(?added, ?removed, "changed the subscription");
                    totals.request();
                    return Ok(SendOutcome::Sent);
                }
                // Responses come after the events before them, so only silence means that there is none.
                event = timeout(limit, events.next()) => {
                    event.map_err(|_| SessionError::TimedOut(limit))?.ok_or(SessionError::Closed)?
                }
            };
            if event.get_payload_bytes() == marker.as_bytes() && event.get_channel_name() == totals.channel() {
                ignored.clone_from(&removed);
                marker_arrived.notify_one();
            } else if emit(emitter, totals, ignored, &event) == SendOutcome::Closed {
                return Ok(SendOutcome::Closed);
            }
        }
    }
}

/// Emits what a message stands for, unless it came by one of the `ignored` patterns. A lost event makes the counts wrong until
/// the totals are read again.
fn emit(emitter: &mut Emitter, totals: &TotalsReader, ignored: &[String], message: &redis::Msg) -> SendOutcome {
    let (channel, payload) = (message.get_channel_name(), message.get_payload_bytes());
    if totals::is_totals_channel(channel) {
        // A pattern of the user's that covers these channels brings the totals of other instances, and this one's again.
        if totals.channel() != channel || message.from_pattern() {
            return SendOutcome::Sent;
        }
        return emit_totals(emitter, totals, payload);
    }
    let is_ignored = |pattern: String| ignored.contains(&pattern);
    if !ignored.is_empty() && message.get_pattern().is_ok_and(is_ignored) {
        return SendOutcome::Sent;
    }
    let outcome = emitter.try_emit(RawEvent::new(channel, payload));
    if outcome == SendOutcome::Dropped {
        totals.request();
    }
    outcome
}

/// Emits what a reading of the totals says, if that is new.
fn emit_totals(emitter: &mut Emitter, totals: &TotalsReader, payload: &[u8]) -> SendOutcome {
    let Some(mut reading) = totals.decode(payload) else { return SendOutcome::Sent };
    emitter.broker.stats.skipped_members.add(reading.skipped);
    let outcome = reading.event.take().map_or(SendOutcome::Sent, |event| emitter.try_emit(event));
    match outcome {
        SendOutcome::Sent => {
            emitter.broker.stats.readings.add(u64::from(!reading.unavailable));
            totals.settle(&reading, Outcome::Emitted);
        }
        SendOutcome::Dropped => totals.settle(&reading, Outcome::Dropped),
        SendOutcome::Closed => {}
    }
    outcome
}
