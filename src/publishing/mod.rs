//! Publishing: what clients send over HTTP goes to the broker, and comes back as events like those of any other publisher.

#[cfg(feature = "amqp")]
mod amqp;
#[cfg(feature = "kafka")]
mod kafka;
mod memory;
#[cfg(feature = "nats")]
mod nats;
mod redis;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tallycast_fanout::Counter;

use crate::decode::Target;
use crate::source::SourceId;

#[cfg(feature = "amqp")]
pub use amqp::AmqpPublisher;
#[cfg(feature = "kafka")]
pub use kafka::KafkaPublisher;
pub use memory::{MemoryPublisher, PublishedEvents};
#[cfg(feature = "nats")]
pub use nats::NatsPublisher;
pub use redis::RedisPublisher;

/// How long a message with an idempotency key is not published again.
pub const IDEMPOTENCY_PERIOD: Duration = Duration::from_secs(10 * 60);

/// A message to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// At which source.
    pub source: SourceId,
    /// Where.
    pub target: Target,
    /// The event name, for a stream.
    pub event: Option<String>,
    /// The payload.
    pub data: String,
    /// Who sent it, with at most [`MAX_SENDER_BYTES`](crate::decode::MAX_SENDER_BYTES) and no control characters: decode rejects others.
    /// On a channel, it arrives only where [`Routes::with_senders`](crate::decode::Routes::with_senders) is set.
    pub sender: Option<String>,
    /// What else it has where the route's entries name their own topics.
    pub update: UpdateFields,
    /// Of messages with the same key, only the first is published, whoever published it.
    pub idempotency_key: Option<String>,
}

/// What an entry says that names its own topics, beside the first of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpdateFields {
    /// The topics after the first.
    pub alternates: Vec<String>,
    /// The id that its publisher gave it.
    pub id: Option<String>,
    /// The pause before a client connects again, in milliseconds.
    pub retry: Option<u64>,
    /// Whether only clients that were granted one of the topics receive it.
    pub is_private: bool,
}

/// Counts to add to the totals of a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts {
    /// The sorted set with the totals.
    pub totals: String,
    /// The channel on which each count is published.
    pub channel: String,
    /// What is counted, and how often; at least once.
    pub counts: BTreeMap<String, u32>,
    /// As for [`Publication`].
    pub idempotency_key: Option<String>,
}

/// Why nothing is known to be published. Clients see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unavailable {
    reason: String,
    /// It can never be published.
    is_final: bool,
}

impl Unavailable {
    /// It may be published later, or was published without a confirmation.
    fn temporary(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), is_final: false }
    }

    /// It cannot be published, however often that is tried.
    fn refused(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), is_final: true }
    }

    /// Whether another attempt would fail for the same reason.
    pub fn is_final(&self) -> bool {
        self.is_final
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { reason, is_final } = self;
        if *is_final {
            return formatter.write_str(reason);
        }
        let advice = "try again, with an Idempotency-Key if it must not be published twice";
        write!(formatter, "the broker did not take it: {reason}; {advice}")
    }
}

impl std::error::Error for Unavailable {}

/// Publishes at every source. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Publisher {
    /// In the order of the sources, the default one first.
    backends: Arc<[Backend]>,
}

/// What publishes at one source.
#[derive(Debug, Clone)]
pub enum Backend {
    /// In Redis.
    Redis(RedisPublisher),
    /// In NATS.
    #[cfg(feature = "nats")]
    Nats(NatsPublisher),
    /// In Kafka.
    #[cfg(feature = "kafka")]
    Kafka(KafkaPublisher),
    /// In this process.
    Memory(MemoryPublisher),
    /// In RabbitMQ.
    #[cfg(feature = "amqp")]
    Amqp(AmqpPublisher),
    /// Not at all: the source, with this address, is only read.
    ReadOnly(Arc<str>),
}

impl Publisher {
    /// A publisher with a backend for each source, the default one first.
    pub fn new(backends: Vec<Backend>) -> Self {
        Self { backends: backends.into() }
    }

    /// Publishes messages in their order; those of one source all or none. Returns what the broker calls each: the id of
    /// an entry of a stream.
    ///
    /// # Errors
    /// The broker is away, or did not answer in time: then it may have taken the messages. Those for sources that came up
    /// before it are published. None are if one is for a source that is only read.
    pub async fn publish(&self, messages: &[Publication]) -> Result<Vec<Option<String>>, Unavailable> {
        let mut groups: Vec<(SourceId, Vec<usize>)> = Vec::new();
        for (place, message) in messages.iter().enumerate() {
            // Before anything is published: whoever tries again would publish the other messages again.
            if let Backend::ReadOnly(address) = self.backend(message.source)? {
                return Err(read_only(address));
            }
            match groups.iter_mut().find(|(source, _)| *source == message.source) {
                Some((_, places)) => places.push(place),
                None => groups.push((message.source, vec![place])),
            }
        }
        // Nearly always.
        if let [(source, _)] = groups.as_slice() {
            return self.publish_at(*source, messages).await;
        }
        let mut ids = vec![None; messages.len()];
        for (source, places) in groups {
            // One call for all of them: only that can be all or none.
            let group: Vec<Publication> = places.iter().filter_map(|place| messages.get(*place).cloned()).collect();
            for (place, id) in places.into_iter().zip(self.publish_at(source, &group).await?) {
                if let Some(of_place) = ids.get_mut(place) {
                    *of_place = id;
                }
            }
        }
        Ok(ids)
    }

    /// Publishes messages that are all for one source.
    async fn publish_at(&self, source: SourceId, messages: &[Publication]) -> Result<Vec<Option<String>>, Unavailable> {
        match self.backend(source)? {
            Backend::Redis(redis) => redis.publish(messages).await,
            #[cfg(feature = "nats")]
            Backend::Nats(nats) => nats.publish(messages).await,
            #[cfg(feature = "kafka")]
            Backend::Kafka(kafka) => kafka.publish(messages).await,
            Backend::Memory(memory) => memory.publish(messages).await,
            #[cfg(feature = "amqp")]
            Backend::Amqp(amqp) => amqp.publish(messages).await,
            Backend::ReadOnly(address) => Err(read_only(address)),
        }
    }

    /// Adds an entry to a stream of the default source, whose only field is the payload: for programs that keep something else in its name,
    /// such as an id.
    ///
    /// # Errors
    /// As for [`publish`](Self::publish).
    pub async fn add_entry(&self, key: &Arc<str>, field: &str, data: &str) -> Result<(), Unavailable> {
        match self.backend(SourceId::DEFAULT)? {
            Backend::Redis(redis) => redis.add_entry(key, field, data).await,
            #[cfg(feature = "nats")]
            Backend::Nats(nats) => nats.add_entry(key, field, data).await,
            #[cfg(feature = "kafka")]
            Backend::Kafka(kafka) => kafka.add_entry(key, field, data).await,
            Backend::Memory(memory) => memory.add_entry(key, data).await,
            #[cfg(feature = "amqp")]
            Backend::Amqp(amqp) => amqp.add_entry(key, field, data).await,
            Backend::ReadOnly(address) => Err(read_only(address)),
        }
    }

    /// Raises totals and publishes each count at the default source, in one step. Returns the new totals of what was counted.
    ///
    /// # Errors
    /// As for [`publish`](Self::publish).
    pub async fn count(&self, counts: &Counts) -> Result<BTreeMap<String, i64>, Unavailable> {
        match self.backend(SourceId::DEFAULT)? {
            Backend::Redis(redis) => redis.count(counts).await,
            #[cfg(feature = "nats")]
            Backend::Nats(_) => Err(Unavailable::refused("totals are in Redis, and not in NATS")),
            #[cfg(feature = "kafka")]
            Backend::Kafka(_) => Err(Unavailable::refused("totals are in Redis alone")),
            Backend::Memory(memory) => memory.count(counts).await,
            #[cfg(feature = "amqp")]
            Backend::Amqp(_) => Err(Unavailable::refused("RabbitMQ keeps no totals")),
            Backend::ReadOnly(address) => Err(read_only(address)),
        }
    }

    /// Whether messages at a source may have idempotency keys, in streams or on channels.
    #[cfg_attr(not(feature = "nats"), expect(unused_variables, reason = "only NATS tells streams from channels"))]
    pub(crate) fn has_idempotency_keys(&self, source: SourceId, is_stream: bool) -> bool {
        self.backend(source).is_ok_and(|backend| match backend {
            Backend::Redis(_) | Backend::Memory(_) => true,
            // Its subjects have none.
            #[cfg(feature = "nats")]
            Backend::Nats(_) => is_stream,
            #[cfg(feature = "amqp")]
            Backend::Amqp(_) => false,
            #[cfg(feature = "kafka")]
            Backend::Kafka(_) => false,
            Backend::ReadOnly(_) => false,
        })
    }

    fn backend(&self, source: SourceId) -> Result<&Backend, Unavailable> {
        // Each source has one.
        self.backends.get(usize::from(source.0)).ok_or_else(|| Unavailable::temporary("the source is unknown"))
    }
}

fn read_only(address: &str) -> Unavailable {
    Unavailable::refused(format!("{address} is a source that is only read"))
}

/// What is counted of publishing. Counters only grow.
#[derive(Debug, Default)]
pub struct PublishStats {
    /// Messages published, and keys counted.
    pub published: Counter,
    /// Requests refused: without a valid key, invalid, or too many.
    pub refused: Counter,
    /// Requests that failed because the broker did not take them.
    pub failed: Counter,
}
