//! Follows what the application publishes about clients of this node.

use std::convert::Infallible;
use std::sync::Arc;

use backon::BackoffBuilder;
use tallycast_fanout::Topic;
use tokio::sync::Semaphore;

use super::{SESSION_PREFIX, WsHub, group};
use crate::redis_client::RedisClient;
use crate::redis_client::subscription::{LONGEST_PAUSE, SubscriptionEnd, in_time, next_message, pauses};
use crate::sessions::{Change, MAX_TOPIC_BYTES, SessionError, SessionName, TopicsChange};
use crate::source::Selector;
use crate::source::redis::glob;

/// Messages that are followed at the same time. Further ones are rejected: the client library would keep any number.
const MAX_FOLLOWED: usize = 4096;
/// The reason for a client that the application does not want.
const REFUSED: &str = "refused by the application";

/// Follows the application for one node.
pub(super) struct Follower {
    client: RedisClient,
    hub: Arc<WsHub>,
    /// What the channels begin with that it follows.
    channels: String,
    permits: Arc<Semaphore>,
}

impl Follower {
    pub(super) fn new(client: RedisClient, hub: Arc<WsHub>) -> Self {
        let channels = hub.config.channel("groups-new:");
        Self { client, hub, channels, permits: Arc::new(Semaphore::new(MAX_FOLLOWED)) }
    }

    /// Follows for ever. While Redis is away, it tries again with a pause in between.
    pub(super) async fn run(self) {
        let pauses = pauses();
        let mut next_pause = pauses.build();
        let mut is_failing = false;
        loop {
            let mut is_subscribed = false;
            let Err(end) = self.follow(&mut is_subscribed).await;
            if is_subscribed {
                next_pause = pauses.build();
                is_failing = false;
            }
            self.hub.stats.failures.add(1);
            if !std::mem::replace(&mut is_failing, true) {
                tracing::warn!(error = %end, "cannot receive the groups of ws-hub clients; retrying");
            }
            tokio::time::sleep(next_pause.next().unwrap_or(LONGEST_PAUSE)).await;
        }
    }

    async fn follow(&self, is_subscribed: &mut bool) -> Result<Infallible, SubscriptionEnd> {
        let server = in_time(self.client.server()).await?;
        let (mut sink, mut messages) = in_time(server.pubsub()).await?.split();
        let pattern = glob(&Selector::Prefix(self.channels.clone()));
        in_time(sink.psubscribe(pattern)).await?;
        *is_subscribed = true;
        // Answers may have been missed.
        self.hub.unannounced.notify_one();
        loop {
            self.received(&next_message(&server, &mut sink, &mut messages).await?);
        }
    }

    fn received(&self, message: &redis::Msg) {
        let channel = message.get_channel_name();
        let Some(key) = channel.strip_prefix(&self.channels) else { return };
        let Ok(name) = format!("{SESSION_PREFIX}{key}").parse::<SessionName>() else { return };
        // Where it has no connection, other nodes follow it.
        let Some(known) = self.hub.sessions().local_topics(&name) else { return };
        let groups = message.get_payload_bytes();
        if groups.is_empty() {
            return self.spawn(refuse(Arc::clone(&self.hub), name));
        }
        if groups.len() > MAX_TOPIC_BYTES {
            return self.hub.rejected(&format_args!("expected at most {MAX_TOPIC_BYTES} bytes of groups"));
        }
        let Ok(groups) = std::str::from_utf8(groups) else {
            return self.hub.rejected(&"expected groups that are UTF-8");
        };
        match group::topics(groups) {
            Ok(mut topics) => {
                topics.retain(|topic| !known.iter().any(|known| known == *topic));
                if !topics.is_empty() {
                    self.spawn(join(Arc::clone(&self.hub), name, topics));
                }
            }
            Err(error) => self.hub.rejected(&error),
        }
    }

    /// Does what takes time beside the next messages.
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            self.hub.rejected(&format_args!("{MAX_FOLLOWED} messages are being followed, which is the limit"));
            return self.hub.unannounced.notify_one();
        };
        tokio::spawn(async move {
            work.await;
            drop(permit);
        });
    }
}

/// Adds a client to groups. Several nodes may do it.
async fn join(hub: Arc<WsHub>, name: SessionName, add: Vec<Topic>) {
    let change = Change { topics: TopicsChange::Change { add, remove: Vec::new() }, ..Change::default() };
    match hub.sessions().begin(&name, &change).await {
        // It has gone.
        Ok(_) | Err(SessionError::Unknown(_)) => {}
        Err(error @ SessionError::Unavailable(_)) => {
            hub.rejected(&error);
            // If it belongs to none, the application is told of it again.
            hub.unannounced.notify_one();
        }
        Err(error) => hub.rejected(&error),
    }
}

/// Ends a client that the application does not want.
async fn refuse(hub: Arc<WsHub>, name: SessionName) {
    match hub.sessions().end(&name, REFUSED).await {
        Ok(_) => hub.stats.refused.add(1),
        // Another node has done it, or it has gone.
        Err(SessionError::Unknown(_)) => {}
        Err(error) => hub.rejected(&error),
    }
}
