//! Events from sharded pub/sub (`SSUBSCRIBE`, Redis 7.0): the channels of one slot, at the node that owns it.
//!
//! The client library calls back with each message, within the task that reads the connection. So messages pass through a bounded
//! inbox, which the session empties; what does not fit is counted as lost.

use std::sync::{Arc, Mutex, PoisonError};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Msg, PushInfo, PushKind, RedisError, Value};
use tallycast_fanout::inbox::{self, Weight};
use tokio::sync::watch;
use tokio::time::timeout;

use super::{Config, SessionError, in_time};
use crate::rate_limited_log::RateLimitedLog;
use crate::redis_client::{Access, Server};
use crate::source::{BoxError, Capabilities, Emitter, RawEvent, SendOutcome, SessionEnd, Source, SourceStats};

/// Messages between the connection and the session.
const MAX_MESSAGES: usize = 8192;
/// Their size, in bytes.
const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// The channels of a slot as a [`Source`].
#[derive(Debug)]
pub(super) struct ShardedSource {
    config: Config,
    slot: u16,
    /// The channels to subscribe to, which may change.
    channels: watch::Receiver<Vec<String>>,
}

impl ShardedSource {
    pub(super) fn new(config: Config, slot: u16, channels: watch::Receiver<Vec<String>>) -> Self {
        Self { config, slot, channels }
    }

    async fn subscribe(&mut self, stats: &Arc<SourceStats>) -> Result<Session<'_>, SessionError> {
        let limit = self.config.timeout;
        let server = in_time(limit, self.config.servers.locate(Some(self.slot), Access::Primary)).await?;
        let (messages, received) = inbox::channel(MAX_MESSAGES, MAX_MESSAGE_BYTES);
        let (interrupted, interruption) = watch::channel(None);
        let receiver =
            Receiver { messages, interrupted, stats: Arc::clone(stats), log: Mutex::new(RateLimitedLog::new()) };
        let settings = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(limit))
            .set_response_timeout(Some(limit))
            .set_push_sender(move |push| {
                receiver.receive(push);
                Ok::<(), ()>(())
            });
        let connection = in_time(limit, server.connect_for_pushes(&settings)).await?;
        let channels = self.channels.borrow_and_update().clone();
        let Self { config, channels: changes, .. } = self;
        let mut session = Session { config, server, connection, channels: Vec::new(), changes, received, interruption };
        session.change(channels).await?;
        Ok(session)
    }
}

impl Source for ShardedSource {
    fn address(&self) -> String {
        format!("{} (sharded channels of slot {})", self.config.url, self.slot)
    }

    /// Redis forgets what it published.
    fn capabilities(&self) -> Capabilities {
        Capabilities::PASSING
    }

    async fn run(&mut self, emitter: &mut Emitter) -> Result<SessionEnd, BoxError> {
        if !emitter.idle_while_empty(&self.channels).await {
            return Ok(SessionEnd::Finished);
        }
        let stats = Arc::clone(emitter.stats());
        let session = self.subscribe(&stats).await?;
        emitter.subscribed();
        Ok(session.run(emitter).await?)
    }
}

/// A message of the connection.
struct Message(Msg);

impl Weight for Message {
    fn weight(&self) -> usize {
        size_of::<Msg>() + self.0.get_channel_name().len() + self.0.get_payload_bytes().len()
    }
}

/// The end of the connection's task: what the client library calls back.
struct Receiver {
    messages: inbox::Sender<Message>,
    /// Why nothing more will be received, or no longer everything.
    interrupted: watch::Sender<Option<Interruption>>,
    stats: Arc<SourceStats>,
    log: Mutex<RateLimitedLog>,
}

/// What a connection reports beside messages.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Interruption {
    Disconnected,
    /// The subscription to a channel has ended.
    Unsubscribed(String),
}

impl Receiver {
    fn receive(&self, push: PushInfo) {
        match push.kind {
            PushKind::SMessage => {
                let Some(message) = Msg::from_push_info(push) else { return };
                if self.messages.try_send(Message(message)).is_err() {
                    self.stats.overflowed.add(1);
                    let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
                    log.log(|suppressed| {
                        tracing::warn!(suppressed, "sharded messages arrive faster than they are read")
                    });
                }
            }
            PushKind::SUnsubscribe => {
                let channel = push.data.into_iter().next().and_then(|channel| redis::from_redis_value(channel).ok());
                self.interrupted.send_replace(channel.map(Interruption::Unsubscribed));
            }
            PushKind::Disconnection => {
                self.interrupted.send_replace(Some(Interruption::Disconnected));
            }
            _ => {}
        }
    }
}

/// One connection, subscribed.
struct Session<'a> {
    config: &'a Config,
    server: Server,
    connection: MultiplexedConnection,
    /// What it is subscribed to.
    channels: Vec<String>,
    changes: &'a mut watch::Receiver<Vec<String>>,
    received: inbox::Receiver<Message>,
    interruption: watch::Receiver<Option<Interruption>>,
}

/// Why a session's loop woke.
enum LoopEvent {
    Received(Option<Message>),
    Interrupted,
    Pong(Result<Value, SessionError>),
    Superseded(RedisError),
    ChannelsChanged,
}

impl Session<'_> {
    /// Emits events until the connection or the slot is lost. Pings a silent connection, as a classic session does.
    async fn run(mut self, emitter: &mut Emitter) -> Result<SessionEnd, SessionError> {
        let Config { ping_interval, timeout: limit, .. } = *self.config;
        let server = self.server.clone();
        let mut superseded = std::pin::pin!(server.superseded(ping_interval));
        let ping = redis::cmd("PING");
        loop {
            let event = tokio::select! {
                biased;
                reason = &mut superseded => LoopEvent::Superseded(reason),
                received = timeout(ping_interval, self.received.recv()) => match received {
                    Ok(message) => LoopEvent::Received(message),
                    Err(_) => tokio::select! {
                        biased;
                        message = self.received.recv() => LoopEvent::Received(message),
                        Ok(()) = self.interruption.changed() => LoopEvent::Interrupted,
                        pong = in_time(limit, ping.query_async(&mut self.connection)) => LoopEvent::Pong(pong),
                    },
                },
                // After the messages that came before.
                Ok(()) = self.interruption.changed() => LoopEvent::Interrupted,
                Ok(()) = self.changes.changed() => LoopEvent::ChannelsChanged,
            };
            match event {
                LoopEvent::Received(None) => return Ok(SessionEnd::Disconnected),
                LoopEvent::Received(Some(message)) => {
                    if emit(emitter, &message) == SendOutcome::Closed {
                        return Ok(SessionEnd::Finished);
                    }
                }
                LoopEvent::Interrupted => {
                    let interruption = self.interruption.borrow_and_update().clone();
                    match interruption {
                        Some(Interruption::Unsubscribed(channel)) if self.channels.contains(&channel) => {
                            return Err(SessionError::SlotMoved);
                        }
                        Some(Interruption::Disconnected) => return Ok(SessionEnd::Disconnected),
                        _ => {}
                    }
                }
                LoopEvent::Pong(pong) => {
                    pong?;
                }
                LoopEvent::Superseded(reason) => return Err(reason.into()),
                LoopEvent::ChannelsChanged => {
                    let channels = self.changes.borrow_and_update().clone();
                    self.change(channels).await?;
                }
            }
        }
    }

    /// Subscribes to channels that are new, and unsubscribes from the others.
    async fn change(&mut self, channels: Vec<String>) -> Result<(), SessionError> {
        let before = std::mem::replace(&mut self.channels, channels);
        let added =
            self.channels.iter().filter(|channel| !before.contains(channel)).map(|channel| ("SSUBSCRIBE", channel));
        let removed = before.iter().filter(|channel| !self.channels.contains(channel));
        let commands: Vec<_> = added.chain(removed.map(|channel| ("SUNSUBSCRIBE", channel))).collect();
        for (command, channel) in commands {
            // Each has a confirmation of its own.
            let mut command = redis::cmd(command);
            let confirmed = command.arg(channel).query_async::<Value>(&mut self.connection);
            in_time(self.config.timeout, confirmed).await?;
        }
        Ok(())
    }
}

fn emit(emitter: &mut Emitter, Message(message): &Message) -> SendOutcome {
    emitter.try_emit(RawEvent::new(message.get_channel_name(), message.get_payload_bytes()))
}
