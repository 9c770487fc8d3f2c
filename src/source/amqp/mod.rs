//! Events from RabbitMQ (AMQP 0-9-1), over one connection for each session.
//!
//! The source has a queue that is bound to a topic exchange by the routes, and consumes it. It acknowledges events in their
//! order, each after the hub has taken its message, so that the broker keeps what the process has not passed on. Usually the
//! queue belongs to the connection and is gone with it; a named queue outlives it.

mod binding;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Consumer};
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_stream::StreamExt;

use super::{BoxError, Capabilities, Emitter, NotAcknowledged, RawEvent, Receipt, Selector, SessionEnd, Source};
use crate::amqp_client::{AmqpError, Link, SENDER, answer};
pub use crate::amqp_client::{Config, UrlError};
use crate::decode::channel_of_sender;
use crate::rate_limited_log::RateLimitedLog;
use binding::Bindings;
pub use binding::{BindingError, check};

/// Ids of acknowledged events that are remembered. RabbitMQ writes acknowledgements to disk a little later, and after a crash it
/// sends again those events whose it has lost.
const RECENT: usize = 16 * 1024;

/// RabbitMQ as a [`Source`].
#[derive(Debug)]
pub struct AmqpSource {
    config: Config,
    /// The channels to bind, which may change.
    selectors: watch::Receiver<Vec<Selector>>,
    /// Events that the last session emitted, by their ids, with the receipts of those that it did not acknowledge. The broker sends
    /// these again, and perhaps others.
    emitted: HashMap<String, Option<Receipt>>,
    /// A session has used the durable queue.
    has_queue: bool,
}

/// Why a session failed.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error(transparent)]
    Amqp(#[from] AmqpError),
    #[error(transparent)]
    Binding(#[from] BindingError),
    #[error("the queue was deleted")]
    NoQueue,
}

impl Config {
    /// What a source with this configuration can do. The queue of a connection is deleted with it.
    pub fn capabilities(&self) -> Capabilities {
        Capabilities { durable: self.queue.is_some(), acknowledges: true, ..Capabilities::PASSING }
    }
}

impl AmqpSource {
    /// A source of the events on channels that any of `selectors` matches, which may change.
    pub fn new(config: Config, selectors: watch::Receiver<Vec<Selector>>) -> Self {
        Self { config, selectors, emitted: HashMap::new(), has_queue: false }
    }

    /// Connects, and consumes a queue that receives what is selected.
    async fn subscribe(&mut self, emitter: &Emitter) -> Result<Session<'_>, SessionError> {
        let limit = self.config.timeout;
        let bindings = Bindings::new(&self.selectors.borrow_and_update())?;
        let link = Link::open(&self.config, "tallycast source").await?;
        let queue_exists = match &self.config.queue {
            Some(queue) => exists(&link, &queue.name, limit).await?,
            None => false,
        };
        let channel = link.channel_with_exchange(&self.config).await?;
        let queue = declare(&channel, &self.config).await?;
        let name = queue.name().clone();
        if !queue_exists {
            self.emitted.clear();
        }
        if self.config.queue.is_some() {
            if self.has_queue && !queue_exists {
                emitter.stats().stream_gaps.add(1);
                tracing::warn!(queue = %name, "the queue was deleted; its events are lost");
            }
            tracing::info!(queue = %name, is_new = !queue_exists, events = queue.message_count(), "consuming a durable queue");
            self.has_queue = true;
        }
        for key in &bindings.keys {
            bind(&channel, &self.config, &name, key).await?;
        }
        tracing::debug!(queue = %name, keys = ?bindings.keys, "bound the queue");
        answer(limit, channel.basic_qos(self.config.prefetch, BasicQosOptions::default())).await?;
        // Another consumer would take a part of the events.
        let options = BasicConsumeOptions { exclusive: true, ..BasicConsumeOptions::default() };
        let consumed = channel.basic_consume(name.clone(), ShortString::default(), options, FieldTable::default());
        let consumer = answer(limit, consumed).await?;
        let mut checks = interval(Duration::from_secs(self.config.heartbeat.into()));
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        checks.reset();
        Ok(Session {
            config: &self.config,
            selectors: &mut self.selectors,
            repeated: std::mem::take(&mut self.emitted),
            bindings,
            pending: VecDeque::new(),
            recent: VecDeque::new(),
            queue: name,
            consumer,
            channel,
            _link: link,
            checks,
            log: RateLimitedLog::new(),
        })
    }
}

impl Source for AmqpSource {
    fn address(&self) -> String {
        self.config.to_string()
    }

    fn capabilities(&self) -> Capabilities {
        self.config.capabilities()
    }

    async fn run(&mut self, emitter: &mut Emitter) -> Result<SessionEnd, BoxError> {
        if !emitter.idle_while_empty(&self.selectors).await {
            return Ok(SessionEnd::Finished);
        }
        let mut session = self.subscribe(emitter).await?;
        emitter.subscribed();
        let end = session.run(emitter).await;
        let Session { pending, recent, repeated, .. } = session;
        if self.config.queue.is_some() {
            let pending = pending.into_iter().filter_map(|pending| Some((pending.id?, pending.receipt)));
            // The receipts of those that are pending replace the others.
            self.emitted = recent.into_iter().map(|id| (id, None)).chain(repeated).chain(pending).collect();
        }
        Ok(end?)
    }
}

/// Whether there is a queue with this name. On a channel of its own, because the broker closes it if there is none.
async fn exists(link: &Link, queue: &str, limit: Duration) -> Result<bool, SessionError> {
    let channel = link.channel().await?;
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    match answer(limit, channel.queue_declare(queue.into(), options, FieldTable::default())).await {
        Ok(_) => {
            answer(limit, channel.close(200, "OK".into())).await?;
            Ok(true)
        }
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Declares the durable queue of the configuration, or one of the connection.
async fn declare(channel: &Channel, config: &Config) -> Result<lapin::Queue, SessionError> {
    let mut arguments = FieldTable::default();
    arguments
        .insert("x-max-length".into(), AMQPValue::LongLongInt(config.bounds.events.into()))
        .insert("x-max-length-bytes".into(), AMQPValue::LongLongInt(config.bounds.bytes.into()))
        .insert("x-overflow".into(), AMQPValue::LongString("drop-head".into()));
    let (name, options) = match &config.queue {
        Some(queue) => {
            let expires = i64::try_from(queue.expires.as_millis()).unwrap_or(i64::MAX);
            arguments.insert("x-expires".into(), AMQPValue::LongLongInt(expires));
            (&*queue.name, QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() })
        }
        // The broker chooses a name.
        None => ("", QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() }),
    };
    Ok(answer(config.timeout, channel.queue_declare(name.into(), options, arguments)).await?)
}

async fn bind(channel: &Channel, config: &Config, queue: &ShortString, key: &str) -> Result<(), AmqpError> {
    let exchange = config.exchange.as_str().into();
    let bound =
        channel.queue_bind(queue.clone(), exchange, key.into(), QueueBindOptions::default(), FieldTable::default());
    answer(config.timeout, bound).await
}

/// An event that the broker has sent and that is not acknowledged.
#[derive(Debug)]
struct Pending {
    tag: u64,
    /// Resolves when the hub has taken the message. Without one, the event may be acknowledged.
    receipt: Option<Receipt>,
    /// The id that its publisher gave it.
    id: Option<String>,
}

/// One connection, consuming.
struct Session<'a> {
    config: &'a Config,
    selectors: &'a mut watch::Receiver<Vec<Selector>>,
    /// What an earlier session emitted and the broker is about to send again.
    repeated: HashMap<String, Option<Receipt>>,
    bindings: Bindings,
    /// In the order of their tags; at most as many as are prefetched.
    pending: VecDeque<Pending>,
    /// The ids of events that were acknowledged; at most [`RECENT`].
    recent: VecDeque<String>,
    queue: ShortString,
    consumer: Consumer,
    channel: Channel,
    /// Ends the connection.
    _link: Link,
    /// When to ask for the state of the queue.
    checks: Interval,
    log: RateLimitedLog,
}

/// Why a session's loop woke.
enum LoopEvent {
    /// The hub has taken all events up to this tag.
    Taken(Result<u64, NotAcknowledged>),
    SelectorsChanged,
    CheckDue,
    Delivered(Option<lapin::Result<Box<Delivery>>>),
}

impl Session<'_> {
    /// Emits events until the connection ends. The broker stops sending when as many as it may prefetch are unacknowledged.
    async fn run(&mut self, emitter: &mut Emitter) -> Result<SessionEnd, SessionError> {
        let limit = self.config.timeout;
        loop {
            let (pending, recent) = (&mut self.pending, &mut self.recent);
            let event = tokio::select! {
                biased;
                taken = std::future::poll_fn(|context| poll_taken(pending, recent, context)) => LoopEvent::Taken(taken),
                // Fails when the sender is gone, which disables this branch.
                Ok(()) = self.selectors.changed() => LoopEvent::SelectorsChanged,
                _ = self.checks.tick() => LoopEvent::CheckDue,
                delivered = self.consumer.next() => {
                    LoopEvent::Delivered(delivered.map(|delivery| delivery.map(Box::new)))
                }
            };
            match event {
                LoopEvent::Taken(Ok(tag)) => {
                    answer(limit, self.channel.basic_ack(tag, BasicAckOptions { multiple: true })).await?;
                }
                LoopEvent::Taken(Err(NotAcknowledged)) => return Ok(SessionEnd::Finished),
                LoopEvent::SelectorsChanged => self.rebind().await?,
                LoopEvent::CheckDue => self.check(emitter).await?,
                LoopEvent::Delivered(None) => return Err(SessionError::NoQueue),
                LoopEvent::Delivered(Some(delivery)) => {
                    if !self.emit(emitter, delivery.map_err(AmqpError::from)?).await {
                        return Ok(SessionEnd::Finished);
                    }
                }
            }
        }
    }

    /// Emits an event, if it is wanted and new. Returns whether the pipeline goes on.
    async fn emit(&mut self, emitter: &Emitter, delivery: Box<Delivery>) -> bool {
        let Delivery { delivery_tag: tag, routing_key, properties, data, .. } = *delivery;
        let id = properties.message_id().as_ref().map(|id| id.as_str().to_owned());
        let repeated = id.as_ref().and_then(|id| self.repeated.remove(id));
        if id.is_some() && repeated.is_none() {
            // Others come after all that the broker sends again. Its mark of these is not reliable: it may be lost in a crash.
            self.repeated.clear();
        }
        let receipt = match repeated {
            Some(receipt) => receipt,
            None if !self.bindings.select(routing_key.as_str()) => None,
            None => {
                let channel = channel_of_sender(routing_key.as_str(), sender(&properties).as_deref()).into_owned();
                let Ok(receipt) = emitter.emit(RawEvent::new(channel, data)).await else { return false };
                Some(receipt)
            }
        };
        self.pending.push_back(Pending { tag, receipt, id });
        true
    }

    /// Binds what has been added, then unbinds what has been removed. The queue receives no event twice meanwhile.
    async fn rebind(&mut self) -> Result<(), SessionError> {
        let bindings = Bindings::new(&self.selectors.borrow_and_update())?;
        let added: Vec<&String> = bindings.keys.difference(&self.bindings.keys).collect();
        let removed: Vec<&String> = self.bindings.keys.difference(&bindings.keys).collect();
        for key in &added {
            bind(&self.channel, self.config, &self.queue, key).await?;
        }
        for key in &removed {
            let (queue, exchange) = (self.queue.clone(), self.config.exchange.as_str().into());
            let unbound = self.channel.queue_unbind(queue, exchange, key.as_str().into(), FieldTable::default());
            answer(self.config.timeout, unbound).await?;
        }
        if !added.is_empty() || !removed.is_empty() {
            tracing::info!(?added, ?removed, "changed the bindings of the queue");
        }
        self.bindings = bindings;
        Ok(())
    }

    /// Asks for the length of the queue, which a frozen broker does not answer.
    async fn check(&mut self, emitter: &Emitter) -> Result<(), SessionError> {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let asked = self.channel.queue_declare(self.queue.clone(), options, FieldTable::default());
        let events = answer(self.config.timeout, asked).await?.message_count();
        if events >= self.config.bounds.events {
            emitter.stats().stream_gaps.add(1);
            let queue = &self.queue;
            self.log.log(|suppressed| {
                tracing::warn!(%queue, events, suppressed, "the queue is full; the broker drops its oldest events");
            });
        }
        Ok(())
    }
}

/// Moves the events at the front that the hub has taken to `recent`. Returns the tag of the last one.
fn poll_taken(
    pending: &mut VecDeque<Pending>,
    recent: &mut VecDeque<String>,
    context: &mut Context<'_>,
) -> Poll<Result<u64, NotAcknowledged>> {
    let mut taken = None;
    while let Some(Pending { tag, receipt, id }) = pending.front_mut() {
        match receipt.as_mut().map(|receipt| Pin::new(receipt).poll(context)) {
            None | Some(Poll::Ready(Ok(()))) => taken = Some(*tag),
            Some(Poll::Ready(Err(error))) => return Poll::Ready(Err(error)),
            Some(Poll::Pending) => break,
        }
        if recent.len() == RECENT {
            recent.pop_front();
        }
        recent.extend(id.take());
        pending.pop_front();
    }
    taken.map_or(Poll::Pending, |tag| Poll::Ready(Ok(tag)))
}

/// The sender that the headers of an event name. Other types than text name none.
fn sender(properties: &BasicProperties) -> Option<String> {
    match properties.headers().as_ref()?.inner().get(SENDER)? {
        AMQPValue::LongString(sender) => Some(String::from_utf8_lossy(sender.as_bytes()).into_owned()),
        AMQPValue::ShortString(sender) => Some(sender.to_string()),
        _ => None,
    }
}
