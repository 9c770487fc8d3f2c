//! The channels that there are: those of the configuration, and those that clients have created, which all nodes share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use redis::RedisError;
use serde::{Deserialize, Serialize};

use super::channel::{Channel, ChannelId, Kind};
use crate::decode::Target;
use crate::redis_client::RedisClient;

/// Channels that clients may create.
pub const MAX_CREATED: usize = 1000;
/// The stream of the channels that clients have created: nodes read it from the start, so no channel is late on any of them.
pub const CREATED_STREAM: &str = "tallycast:realtime";
/// The hash of the channels that clients have created.
const KEY: &str = "tallycast:realtime:channels";
/// Keeps a channel unless there is one of its id, or there are too many. Returns the one that there is.
const CREATE: &str = "
local known = redis.call('HGET', KEYS[1], ARGV[1])
if known then
    return known
end
if redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[3]) then
    return ''
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return ARGV[2]
";

/// The channels. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Channels {
    configured: Arc<HashMap<ChannelId, Channel>>,
    created: Created,
}

/// Where channels are kept that clients have created. There is no cache: a channel is looked up when a client connects or something is
/// published, which ask Redis anyway.
#[derive(Debug, Clone)]
enum Created {
    /// Clients may create none.
    None,
    Redis(RedisClient),
    Memory(Arc<Mutex<HashMap<ChannelId, Channel>>>),
}

/// A channel in Redis.
#[derive(Serialize, Deserialize)]
struct Stored {
    #[serde(rename = "type")]
    kind: Kind,
    max: usize,
}

/// Why a channel is not created, or not known.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChannelsError {
    /// There is another one of this id.
    #[error("there is a channel {0} with another type or limit")]
    Exists(ChannelId),
    /// Clients have created as many as they may.
    #[error("there are {MAX_CREATED} channels, which is the limit")]
    Full,
    /// Redis did not answer.
    #[error("channels are unavailable; try again")]
    Unavailable(#[from] RedisError),
}

impl Channels {
    /// The `configured` channels. Others may be created if `create` is set: in `redis`, or in memory without it.
    pub fn new(configured: Vec<Channel>, create: bool, redis: Option<RedisClient>) -> Self {
        let configured = configured.into_iter().map(|channel| (channel.id.clone(), channel)).collect();
        let created = match (create, redis) {
            (false, _) => Created::None,
            (true, Some(redis)) => Created::Redis(redis),
            (true, None) => Created::Memory(Arc::default()),
        };
        Self { configured: Arc::new(configured), created }
    }

    /// The channel with this id, if there is one.
    pub(super) async fn get(&self, id: &ChannelId) -> Result<Option<Channel>, ChannelsError> {
        if let Some(channel) = self.configured.get(id) {
            return Ok(Some(channel.clone()));
        }
        match &self.created {
            Created::None => Ok(None),
            Created::Memory(created) => Ok(created.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()),
            Created::Redis(redis) => {
                let mut command = redis::cmd("HGET");
                let stored: Option<String> = redis.query(command.arg(KEY).arg(id.as_str())).await?;
                Ok(stored.and_then(|stored| channel(id, &stored)))
            }
        }
    }

    /// Where messages of a channel are published.
    pub(super) fn target(&self, id: &ChannelId) -> Target {
        if self.configured.contains_key(id) {
            return Target::Stream { key: id.as_str().into(), topic: None };
        }
        Target::Stream { key: CREATED_STREAM.into(), topic: Some(id.to_string()) }
    }

    /// Creates a channel. One that is the same already may be created again.
    pub(super) async fn create(&self, channel: &Channel) -> Result<(), ChannelsError> {
        let known = match (self.configured.get(&channel.id), &self.created) {
            (Some(known), _) => Some(known.clone()),
            (None, Created::None) => return Err(ChannelsError::Full),
            (None, Created::Memory(created)) => {
                let mut created = created.lock().unwrap_or_else(PoisonError::into_inner);
                if created.len() >= MAX_CREATED && !created.contains_key(&channel.id) {
                    return Err(ChannelsError::Full);
                }
                Some(created.entry(channel.id.clone()).or_insert_with(|| channel.clone()).clone())
            }
            (None, Created::Redis(redis)) => {
                let stored = Stored { kind: channel.kind, max: channel.max };
                // Enums and numbers always serialize.
                let stored = serde_json::to_string(&stored).unwrap_or_default();
                let mut command = redis::cmd("EVAL");
                command.arg(CREATE).arg(1).arg(KEY).arg(channel.id.as_str()).arg(stored).arg(MAX_CREATED);
                let known: String = redis.query(&command).await?;
                if known.is_empty() {
                    return Err(ChannelsError::Full);
                }
                self::channel(&channel.id, &known)
            }
        };
        if known.as_ref() == Some(channel) { Ok(()) } else { Err(ChannelsError::Exists(channel.id.clone())) }
    }
}

/// The channel that is stored. `None` for what another program has written there.
fn channel(id: &ChannelId, stored: &str) -> Option<Channel> {
    let Stored { kind, max } = serde_json::from_str(stored).ok()?;
    Some(Channel { id: id.clone(), kind, max })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn created_channels_are_bounded_and_do_not_change() {
        let channels = Channels::new(vec!["chat,type=WS".parse().unwrap()], true, None);
        let create = async |text: &str| {
            let created = channels.create(&text.parse().unwrap()).await;
            created.map_err(|error| error.to_string())
        };
        let exists = |id: &str| Err(format!("there is a channel {id} with another type or limit"));
        assert_eq!(create("news,type=SSE,max=2").await, Ok(()));
        assert_eq!(create("news,type=SSE,max=2").await, Ok(()));
        assert_eq!(create("news,type=SSE,max=3").await, exists("news"));
        assert_eq!(create("chat,type=SSE").await, exists("chat"));
        let news = "news".parse().unwrap();
        assert_eq!(channels.get(&news).await.unwrap(), Some("news,type=SSE,max=2".parse().unwrap()));
        for number in 1..MAX_CREATED {
            assert_eq!(create(&format!("{number},type=WS")).await, Ok(()));
        }
        assert_eq!(create("more,type=WS").await, Err(format!("there are {MAX_CREATED} channels, which is the limit")));
        assert_eq!(channels.get(&"more".parse().unwrap()).await.unwrap(), None);
        let none = Channels::new(Vec::new(), false, None);
        assert!(none.create(&"news,type=SSE".parse().unwrap()).await.is_err());
        assert_eq!(none.get(&news).await.unwrap(), None);
    }
}
