//! Receives commands for the sessions of this node, and the answers of other nodes, from its channel in Redis.

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use redis::RedisError;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_stream::StreamExt;

use super::SessionStats;
use super::command::{Acknowledgement, Received};
use super::local::Local;
use super::pending::Pending;
use super::redis::{RedisStore, channel};
use crate::nodes::NodeId;
use crate::redis_client::RedisClient;

/// Time to connect, and for each answer.
const LIMIT: Duration = Duration::from_secs(5);
/// The silence after which the server is pinged.
const PING_PERIOD: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Receives what is meant for one node.
pub(super) struct Control {
    pub(super) client: RedisClient,
    pub(super) store: RedisStore,
    pub(super) local: Arc<Local>,
    pub(super) pending: Arc<Pending>,
    pub(super) life: watch::Receiver<NodeId>,
    pub(super) stats: Arc<SessionStats>,
}

/// Why a subscription has ended.
#[derive(Debug, thiserror::Error)]
enum SubscriptionEnd {
    #[error("the node has another life")]
    OtherLife,
    #[error("the connection was closed")]
    Closed,
    #[error("no answer within {} s", LIMIT.as_secs())]
    TimedOut,
    #[error(transparent)]
    Redis(#[from] RedisError),
}

impl Control {
    /// Receives for ever. While Redis is away, it tries again with a pause in between.
    pub(super) async fn run(mut self) {
        let pauses = ExponentialBuilder::new().with_min_delay(FIRST_PAUSE).with_max_delay(LONGEST_PAUSE).with_jitter();
        let pauses = pauses.without_max_times();
        let mut next_pause = pauses.build();
        loop {
            let mut is_subscribed = false;
            let Err(end) = self.receive(&mut is_subscribed).await;
            if is_subscribed {
                next_pause = pauses.build();
            }
            if matches!(end, SubscriptionEnd::OtherLife) {
                continue;
            }
            self.stats.failures.add(1);
            tracing::debug!(error = %end, "the channel of this node is not subscribed to");
            tokio::time::sleep(next_pause.next().unwrap_or(LONGEST_PAUSE)).await;
        }
    }

    async fn receive(&mut self, is_subscribed: &mut bool) -> Result<std::convert::Infallible, SubscriptionEnd> {
        let timed_out = |_| SubscriptionEnd::TimedOut;
        let life = self.life.borrow_and_update().clone();
        let connection = timeout(LIMIT, self.client.pubsub()).await.map_err(timed_out)??;
        let (mut sink, mut events) = connection.split();
        timeout(LIMIT, sink.subscribe(channel(life.as_str()))).await.map_err(timed_out)??;
        *is_subscribed = true;
        self.local.was_deaf();
        loop {
            // An event proves as well as an answer that the server is there. The answer that then goes unread does no harm.
            let event = tokio::select! {
                event = timeout(PING_PERIOD, events.next()) => match event {
                    Ok(event) => event,
                    Err(_) => tokio::select! {
                        biased;
                        event = events.next() => event,
                        pong = timeout(LIMIT, sink.ping::<redis::Value>()) => {
                            pong.map_err(timed_out)??;
                            continue;
                        }
                    },
                },
                // Fails at the shutdown, which disables this branch.
                Ok(()) = self.life.changed() => return Err(SubscriptionEnd::OtherLife),
            };
            let event = event.ok_or(SubscriptionEnd::Closed)?;
            match serde_json::from_slice(event.get_payload_bytes()) {
                Ok(Received::Acknowledgement(answer)) => self.pending.complete(answer),
                Ok(Received::Command(command)) => {
                    if let Some(reply) = self.local.deliver(command) {
                        let answer =
                            Acknowledgement { acknowledged: reply.request, life: life.to_string(), connections: 0 };
                        // Not here: nothing may keep the next event waiting.
                        let (store, pending) = (self.store.clone(), Arc::clone(&self.pending));
                        let life = life.clone();
                        tokio::spawn(
                            async move { acknowledge(&store, &pending, &life, vec![(reply.life, answer)]).await },
                        );
                    }
                }
                Err(error) => tracing::debug!(%error, "a command to this node is invalid"),
            }
        }
    }
}

/// Answers nodes that wait.
pub(super) async fn acknowledge(
    store: &RedisStore,
    pending: &Pending,
    life: &NodeId,
    answers: Vec<(String, Acknowledgement)>,
) {
    let mut pipeline = redis::pipe();
    let mut is_empty = true;
    for (to, answer) in answers {
        let answer = Acknowledgement { life: life.to_string(), ..answer };
        if to == life.as_str() {
            pending.complete(answer);
        } else if let Ok(json) = serde_json::to_string(&answer) {
            pipeline.cmd("PUBLISH").arg(channel(&to)).arg(json).ignore();
            is_empty = false;
        }
    }
    if !is_empty && let Err(error) = store.nodes.ask_all::<()>(&pipeline).await {
        // They learn that it took too long.
        tracing::debug!(%error, "cannot answer other nodes");
    }
}
