//! Publishing: what clients send over HTTP goes to the broker, and comes back as events like those of any other publisher.

mod memory;
mod redis;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tallycast_fanout::Counter;

use crate::decode::Target;

pub use memory::{MemoryPublisher, PublishedEvents};
pub use redis::RedisPublisher;

/// How long a message with an idempotency key is not published again.
pub const IDEMPOTENCY_PERIOD: Duration = Duration::from_secs(10 * 60);

/// A message to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
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
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the broker did not take it: {0}; try again, with an Idempotency-Key if it must not be published twice")]
pub struct Unavailable(String);

/// What publishes.
#[derive(Debug, Clone)]
pub enum Publisher {
    /// In Redis.
    Redis(RedisPublisher),
    /// In this process.
    Memory(MemoryPublisher),
}

impl Publisher {
    /// Publishes messages in their order, all or none. Returns what the broker calls each: the id of an entry of a stream.
    ///
    /// # Errors
    /// The broker is away, or did not answer in time: then it may have taken the messages.
    pub async fn publish(&self, messages: &[Publication]) -> Result<Vec<Option<String>>, Unavailable> {
        match self {
            Self::Redis(redis) => redis.publish(messages).await,
            Self::Memory(memory) => memory.publish(messages).await,
        }
    }

    /// Adds an entry to a stream, whose only field is the payload: for programs that keep something else in its name, such as an id.
    ///
    /// # Errors
    /// As for [`publish`](Self::publish).
    pub async fn add_entry(&self, key: &Arc<str>, field: &str, data: &str) -> Result<(), Unavailable> {
        match self {
            Self::Redis(redis) => redis.add_entry(key, field, data).await,
            Self::Memory(memory) => memory.add_entry(key, data).await,
        }
    }

    /// Raises totals and publishes each count, in one step. Returns the new totals of what was counted.
    ///
    /// # Errors
    /// As for [`publish`](Self::publish).
    pub async fn count(&self, counts: &Counts) -> Result<BTreeMap<String, i64>, Unavailable> {
        match self {
            Self::Redis(redis) => redis.count(counts).await,
            Self::Memory(memory) => memory.count(counts).await,
        }
    }
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
