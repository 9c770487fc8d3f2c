//! Publishing in Redis: on channels and in streams, in one transaction for each request.

use std::collections::BTreeMap;

use redis::{Cmd, Pipeline, RedisError, Value};

use super::{Counts, IDEMPOTENCY_PERIOD, Publication, Unavailable};
use crate::decode::{Target, channel_of_sender};
use crate::redis_client::{RedisClient, slot};
use crate::totals::count_of_score;

const PUBLISH: &str = include_str!("publish.lua");
const COUNT: &str = include_str!("count.lua");
/// The start of the names of idempotency keys in Redis.
const IDEMPOTENCY_KEYS: &str = "tallycast:publish:";

/// Publishes in Redis. Cheap to clone.
///
/// In a cluster, what is published together goes through one node, and so do all messages of a channel that are published one by one.
#[derive(Debug, Clone)]
pub struct RedisPublisher(RedisClient);

impl From<RedisError> for Unavailable {
    /// Clients see the category of the error only, never an address.
    fn from(error: RedisError) -> Self {
        tracing::debug!(%error, "cannot publish");
        Self::temporary(error.category())
    }
}

impl RedisPublisher {
    /// Publishes by commands to `client`.
    pub fn new(client: RedisClient) -> Self {
        Self(client)
    }

    pub(super) async fn publish(&self, messages: &[Publication]) -> Result<Vec<Option<String>>, Unavailable> {
        let tag = if self.0.is_cluster() { Some(common_tag(messages)?) } else { None };
        let mut transaction = redis::pipe();
        transaction.atomic();
        for message in messages {
            transaction.add_command(command(message, tag.as_deref()));
        }
        let is_idempotent = messages.iter().all(|message| message.idempotency_key.is_some());
        let answers: Vec<Value> = self.send(&transaction, is_idempotent).await?;
        let id = |(answer, message): (Value, &Publication)| match message.target {
            Target::Channel(_) => Ok(None),
            Target::Stream { .. } => redis::from_redis_value(answer).map(Some),
        };
        let ids: Result<Vec<Option<String>>, _> = answers.into_iter().zip(messages).map(id).collect();
        ids.map_err(|error| RedisError::from(error).into())
    }

    pub(super) async fn add_entry(&self, key: &str, field: &str, data: &str) -> Result<(), Unavailable> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("XADD").arg(key).arg("*").arg(field).arg(data).ignore();
        Ok(self.send(&pipeline, false).await?)
    }

    pub(super) async fn count(&self, counts: &Counts) -> Result<BTreeMap<String, i64>, Unavailable> {
        let tag = self.0.is_cluster().then(|| slot::tag_of(&counts.totals));
        let idempotency_key = counts.idempotency_key.as_deref().map(|key| name(key, tag.as_deref()));
        let mut command = redis::cmd("EVAL");
        command.arg(COUNT).arg(1 + usize::from(idempotency_key.is_some())).arg(&counts.totals).arg(idempotency_key);
        command.arg(&counts.channel).arg(milliseconds());
        for (key, count) in &counts.counts {
            command.arg(key).arg(count);
        }
        let mut pipeline = redis::pipe();
        pipeline.add_command(command);
        let (answer,): (String,) = self.send(&pipeline, counts.idempotency_key.is_some()).await?;
        // Redis writes scores as text.
        let scores: Vec<String> =
            serde_json::from_str(&answer).map_err(|error| Unavailable::temporary(error.to_string()))?;
        let scores = scores.iter().map(|score| count_of_score(score.parse().unwrap_or(f64::NAN)));
        Ok(counts.counts.keys().cloned().zip(scores).collect())
    }

    /// Sends commands. Without idempotency keys a request that fails is not repeated, because it may have been obeyed.
    async fn send<T: redis::FromRedisValue>(&self, pipeline: &Pipeline, is_idempotent: bool) -> Result<T, RedisError> {
        match self.0.send_once(pipeline).await {
            Err(error) if is_idempotent && error.is_io_error() => self.0.send_once(pipeline).await,
            Err(error) => {
                if error.is_io_error() {
                    // Has the client connect again, for the next request.
                    let _ = self.0.query::<Value>(&redis::cmd("PING")).await;
                }
                Err(error)
            }
            answer => answer,
        }
    }
}

/// The hash tag that puts idempotency keys into the slot of a request: that of its streams, or of its first channel.
fn common_tag(messages: &[Publication]) -> Result<String, Unavailable> {
    let streams = messages.iter().filter_map(|message| match &message.target {
        Target::Stream { key, .. } => Some(&**key),
        Target::Channel(_) => None,
    });
    let mut slots = streams.clone().map(|key| slot::slot(key.as_bytes()));
    if let Some(first) = slots.next()
        && slots.any(|slot| slot != first)
    {
        return Err(Unavailable::temporary("in a Redis Cluster, the streams of a request must be in one slot"));
    }
    let channels = messages.iter().filter_map(|message| match &message.target {
        Target::Channel(channel) => Some(&**channel),
        Target::Stream { .. } => None,
    });
    Ok(streams.chain(channels).next().map(slot::tag_of).unwrap_or_default())
}

fn command(message: &Publication, tag: Option<&str>) -> Cmd {
    let Publication { target, event, data, sender, update, idempotency_key, .. } = message;
    let retry = update.retry.map(|retry| retry.to_string());
    let idempotency_key = idempotency_key.as_deref().map(|key| name(key, tag));
    match target {
        Target::Channel(channel) => {
            let channel = channel_of_sender(channel, sender.as_deref());
            let mut command = redis::cmd(if idempotency_key.is_some() { "EVAL" } else { "PUBLISH" });
            if let Some(key) = idempotency_key {
                command.arg(PUBLISH).arg(1).arg(key).arg(milliseconds());
            }
            command.arg(&*channel).arg(data);
            command
        }
        Target::Stream { key, topic } => {
            let mut fields = vec!["data", data];
            fields.extend(event.iter().flat_map(|event| ["event", event]));
            fields.extend(sender.iter().flat_map(|sender| ["sender", sender]));
            fields.extend(topic.iter().chain(&update.alternates).flat_map(|topic| ["topic", topic]));
            fields.extend(update.id.iter().flat_map(|id| ["id", id]));
            fields.extend(retry.iter().flat_map(|retry| ["retry", retry]));
            fields.extend(update.is_private.then_some(["private", "on"]).into_iter().flatten());
            let mut command = redis::cmd(if idempotency_key.is_some() { "EVAL" } else { "XADD" });
            match idempotency_key {
                Some(idempotency_key) => {
                    command.arg(PUBLISH).arg(2).arg(idempotency_key).arg(&**key).arg(milliseconds());
                }
                None => {
                    command.arg(&**key).arg("*");
                }
            }
            command.arg(fields);
            command
        }
    }
}

/// The name in Redis of an idempotency key; in a cluster it begins with a hash tag.
fn name(key: &str, tag: Option<&str>) -> String {
    tag.map_or_else(|| format!("{IDEMPOTENCY_KEYS}{key}"), |tag| format!("{{{tag}}}:{IDEMPOTENCY_KEYS}{key}"))
}

fn milliseconds() -> u64 {
    u64::try_from(IDEMPOTENCY_PERIOD.as_millis()).unwrap_or(u64::MAX)
}
